"""Each gate's number and answer stand in every form of the report and on stderr; the network has a gate of its own."""

from __future__ import annotations

import csv
import html
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("click")
pytest.importorskip("jinja2")
pytest.importorskip("onnx", exc_type=ImportError)

from helpers.onnx_models import node, saved, single
from specnorm_audit import cli

import specnorm
from audit import files

THREE = 3 * np.eye(4, dtype=np.float32)


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """Three layers of norm 3, whose product is 27."""
    nodes = [node("MatMul", f"{'xab'[at]}", f"w{at}", out="aby"[at]) for at in range(3)]
    return saved(single(nodes, (1, 4), {f"w{at}": THREE for at in range(3)}), tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("layers", "network", "code", "outcomes"),
    [
        ("4", "28", 0, ["passed", "passed"]), ("4", "26", 1, ["passed", "failed"]),
        ("2", "28", 1, ["failed", "passed"]), ("2", "1e300", 1, ["failed", "passed"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["table", "json", "csv", "markdown", "html"])
@pytest.mark.sampled("4-28", "json")
def test_gates_are_in_the_report(
    layers: str, network: str, code: int, outcomes: list[str], form: str, chain: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    asked = ["--fail-above", layers, "--fail-above-network", network]
    assert cli.run(["audit", str(chain), "--format", form, *asked]) == code
    out, err = capsys.readouterr()
    bounds = [float(layers), float(network)]
    if form == "json":
        found: list[Any] = json.loads(out)["gates"]
    elif form == "csv":
        rows = list(csv.DictReader(io.StringIO(out)))
        assert len(rows) == 3
        found = json.loads(rows[0]["gates"])
    else:
        text = html.unescape(out)
        for option, bound, outcome in zip(("", "-network"), bounds, outcomes, strict=True):
            assert f"--fail-above{option} {bound!r}: gate {outcome}: " in text
        found = []
    if form in ("json", "csv"):
        assert [gate["outcome"] for gate in found] == outcomes
        assert [gate["bound"] for gate in found] == bounds
    said = [line.removeprefix("specnorm: ") for line in err.splitlines() if line.startswith("specnorm: gate")]
    assert [line.split(":")[0] for line in said] == [f"gate {outcome}" for outcome in outcomes]
    if outcomes[0] == "passed":
        assert "each of 3 layers is proven" in said[0]


def test_weights_alone_prove_nothing_of_a_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = files.save_npz(tmp_path / "m.npz", {"a.weight": THREE})
    assert cli.run(["audit", str(path), "--fail-above-network", "1e9"]) == 2
    err = capsys.readouterr().err
    assert "gate not decided" in err
    assert "the file holds no graph" in err


def test_a_factor_and_a_sum_count_for_the_network_and_not_for_the_layer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """x + 1000 x/2: the layer has the norm 500, the network 501."""
    nodes = [node("Gemm", "x", "w", out="a", alpha=1000.0), node("Add", "a", "x")]
    path = saved(single(nodes, (1, 4), {"w": np.eye(4, dtype=np.float32) / 2}), tmp_path / "m.onnx")
    assert cli.run(["audit", str(path), "--fail-above", "500.1", "--fail-above-network", "500.5"]) == 1
    err = capsys.readouterr().err
    assert "gate passed" in err
    assert "gate failed: the network is not proven" in err
    assert cli.run(["audit", str(path), "--fail-above", "499"]) == 1
    assert cli.run(["audit", str(path), "--fail-above-network", "501.1"]) == 0


# -- a gate at a number within a layer's interval ----------------------------------------------------------------------
def _gates(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, list[Any], str]:
    """Exit code, rows and messages of an audit."""
    code = cli.run(["audit", str(path), "--format", "json", *options])
    out, err = capsys.readouterr()
    return code, json.loads(out)["layers"], err


SHAPES = {"a": (8, 3, 3, 3), "b": (12, 8, 3, 3), "fc": (10, 12)}


def _of_keras(folder: Path, scaled: Any) -> Path:
    """Kernels in Keras's order of axes."""
    random = np.random.default_rng(0)
    kernels = {}
    for name, (cout, cin, *taps) in SHAPES.items():
        kernel = random.standard_normal((*taps, cin, cout)).astype(np.float32)
        kernels[f"{name}.kernel"] = scaled(kernel, layout="HWIO" if taps else "IO")
    return files.save_npz(folder / "m.npz", kernels)


def _of_torch(folder: Path, scaled: Any) -> Path:
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(0)
    state = {}
    for name, shape in SHAPES.items():
        state[f"{name}.weight"] = torch.asarray(scaled(random.standard_normal(shape).astype(np.float32)))
    torch.save(state, folder / "m.pt")
    return folder / "m.pt"


@pytest.mark.parametrize(("write", "layout"), [(_of_keras, "HWIO"), (_of_torch, "OIHW")])
def test_a_rescaled_model_passes_the_gate_at_its_bound(
    write: Any, layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, lambda kernel, **layout: specnorm.rescale(kernel, 1.0, **layout))
    _, rows, _ = _gates(path, capsys, "--layout", layout)
    assert max(row["upper"] for row in rows) > 1, "the interval alone decides"
    code, rows, err = _gates(path, capsys, "--layout", layout, "--fail-above", "1")
    assert code == 0, err
    assert max(row["upper"] for row in rows) == 1


def test_a_norm_just_above_the_gate_fails_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A norm of 1.00005 times one that is within about 1e-5 of 1."""
    path = _of_torch(tmp_path, lambda kernel: specnorm.rescale(kernel, 1.0) * np.float32(1.00005))
    code, rows, err = _gates(path, capsys, "--fail-above", "1")
    assert code == 1
    assert [row for row in rows if not (row["lower"] <= 1.00005 and row["upper"] > 1)] == []
    assert err.count("is proven to be above 1.0") + err.count("the norm is above it") == 3


def test_a_gate_that_the_budget_leaves_open_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No time decides a norm of exactly the bound: the 2-norm of (1, 1, 1) is no float, and is within rounding."""
    kernel = np.ones((1, 3, 1, 1), dtype=np.float32)
    path = files.save_npz(tmp_path / "m.npz", {"a.weight": kernel})
    code, _, err = _gates(path, capsys, "--fail-above", repr(float(np.sqrt(3.0))))
    assert code == 1
    assert "not proven; give a longer --budget, or a bound of at least 1.73" in err
