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
        ("4", "28", 0, ["passed", "passed"]),
        ("4", "26", 1, ["passed", "failed"]),
        ("2", "28", 1, ["failed", "passed"]),
        ("2", "1e300", 1, ["failed", "passed"]),
    ],
)
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
