"""The benchmark suite runs, and its page is made of its lines."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the textbook methods are written in torch")
for library in ("jax", "optax", "onnx"):
    pytest.importorskip(library)
from benchmarks import facts, page, suite, yardsticks  # noqa: E402
from benchmarks.__main__ import main, write_page  # noqa: E402


def test_the_page_has_the_tables_of_its_lines(tmp_path: Path) -> None:
    file = tmp_path / "index.md"
    text = page.PAGE.read_text(encoding="utf-8")
    file.write_text(text, encoding="utf-8")
    write_page(file)
    assert file.read_text(encoding="utf-8") == text


@pytest.mark.nightly
def test_a_run_is_complete(tmp_path: Path) -> None:
    out = tmp_path / "some.jsonl"
    assert main(["run", "--quick", "--out", str(out)]) == 0
    rows = facts.read(out)
    assert {row["section"] for row in rows} == set(suite.SECTIONS)
    assert [row for row in rows if not (row["seconds"] > 0 and math.isfinite(row["value"]))] == []
    assert "`f4_bound`" in page.beside_published(rows)


def test_a_textbook_method_is_as_its_formula_says() -> None:
    """Gram steps fall towards the norm; HOPM on 1x1 kernels; PROPACK finds a layer's own norm."""
    kernel = torch.tensor(np.random.RandomState(0).standard_normal((5, 4, 3, 3)))
    norm = float(yardsticks.rfft_svd(kernel, 12))
    bounds = [float(yardsticks.gram_conv(kernel, steps)) for steps in (1, 2, 3)]
    assert norm < bounds[2] < bounds[1] < bounds[0]
    flat = kernel[:, :, 1:2, 1:2]
    assert float(yardsticks.hopm_einsum(flat.float())) == pytest.approx(float(yardsticks.rfft_svd(flat, 1)), rel=1e-4)
    unit = torch.eye(4 * 6 * 6).reshape(-1, 4, 6, 6)
    layer = torch.nn.functional.conv2d(unit, kernel.float(), padding=1).reshape(len(unit), -1)
    assert yardsticks.propack(kernel.float(), 6) == pytest.approx(float(torch.linalg.matrix_norm(layer, 2)), rel=1e-5)
