"""The benchmark suite runs, its page is made of its lines, and what got slower is noticed."""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the textbook methods are written in torch")
from benchmarks import facts, instructions, page, yardsticks  # noqa: E402
from benchmarks.__main__ import COMMITTED, main  # noqa: E402


@pytest.mark.nightly
def test_a_run_is_complete_and_compared_with_itself(tmp_path: Path) -> None:
    out = tmp_path / "some.jsonl"
    sections = ["unfoldings", "rescaling", "network", "depthwise"]
    assert main(["run", "--size", "smoke", "--sections", *sections, "--out", str(out)]) == 0
    rows = facts.read(out)
    assert page.sets(rows) == instructions.sets()
    for name in page.sets(rows):
        assert {row["section"] for row in rows if page.instructions(row) == name} == set(sections)
    assert [
        row for row in rows if not (row.get("skipped") or (row["seconds"] > 0 and math.isfinite(row["value"])))
    ] == []
    assert main(["compare", str(out), str(out)]) == 0
    assert main(["page", str(out)]) == 0
    assert "`f4_bound`" in out.with_suffix(".md").read_text(encoding="utf-8")


def test_what_got_slower_is_told() -> None:
    old = [row for row in facts.read(COMMITTED) if "faster" in row]
    assert page.slower(old, old) == []
    new = copy.deepcopy(old)
    row = next(row for row in new if row["contestant"] == "f4_bound")
    row["faster_range"] = [row["faster_range"][0] / 4] * 2
    row["seconds"] *= 4
    (said,) = page.slower(new, old)
    assert "f4_bound" in said
    assert row["commit"] in said
    assert "not measured any more" in "\n".join(page.slower([x for x in new if x is not row], old))
    row["seconds"] /= 4
    assert page.slower(new, old) == []  # the yardstick alone became faster


@pytest.mark.parametrize(
    ("name", "said"),
    [
        pytest.param("AVX-512", ("AVX-512 AVX512", "AVX512"), marks=pytest.mark.nightly),
        ("AVX2", ("AVX2 AVX2 Haswell", "isa:Intel AVX2")),
    ],
)
def test_switches_hold_the_libraries_to_fewer_instructions(name: str, said: tuple[str, ...]) -> None:
    if "AVX-512" not in instructions.sets():
        pytest.skip("a machine without AVX-512 has one instruction set")
    program = (
        "import numpy, torch, threadpoolctl; from benchmarks import facts;"
        "torch.nn.functional.conv2d(torch.ones(8, 8, 9, 9), torch.ones(8, 8, 3, 3));"
        "print(facts.instructions(), torch.backends.cpu.get_cpu_capability(), *(x['architecture'] for x in "
        "threadpoolctl.threadpool_info() if x['internal_api'] == 'openblas'))"
    )
    environment = os.environ | {"ONEDNN_VERBOSE": "1"} | instructions.SWITCHES[name]
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd=facts.ROOT)
    assert [words for words in said if words not in done.stdout] == [], done.stdout


def test_a_compiled_bound_that_is_an_estimate_has_no_time_as_a_proof() -> None:
    rows = [row for row in facts.read(COMMITTED) if row["section"] == "libraries"]
    (line,) = [line for line in page.by_library(rows).splitlines() if line.startswith("| `tn_bound, proven`")]
    assert line.endswith("| - |")


def test_a_textbook_method_is_as_its_formula_says() -> None:
    """Gram steps fall towards the norm; HOPM in both forms on 1x1 kernels; PROPACK finds a layer's own norm."""
    kernel = torch.tensor(np.random.RandomState(0).standard_normal((5, 4, 3, 3)))
    norm = float(yardsticks.rfft_svd(kernel, 12))
    bounds = [float(yardsticks.gram_conv(kernel, steps)) for steps in (1, 2, 3)]
    assert norm < bounds[2] < bounds[1] < bounds[0]
    flat = kernel[:, :, 1:2, 1:2]
    layer_of_groups = kernel[:, :1]
    norms = [float(yardsticks.rfft_svd(group[None], 12)) for group in layer_of_groups]
    assert float(yardsticks.rfft_largest(layer_of_groups, 12)) == pytest.approx(max(norms), rel=1e-12)
    for hopm in (yardsticks.hopm_einsum, yardsticks.hopm_products):
        assert float(hopm(flat.float())) == pytest.approx(float(yardsticks.rfft_svd(flat, 1)), rel=1e-4)
    unit = torch.eye(4 * 6 * 6).reshape(-1, 4, 6, 6)
    layer = torch.nn.functional.conv2d(unit, kernel.float(), padding=1).reshape(len(unit), -1)
    assert yardsticks.propack(kernel.float(), 6) == pytest.approx(float(torch.linalg.matrix_norm(layer, 2)), rel=1e-5)
