"""The published reference networks: the files are what their generator makes, the script can tell, and we are right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import DOCS

import specnorm

onnx = pytest.importorskip("onnx", exc_type=ImportError)
pytest.importorskip("onnx.reference", exc_type=ImportError)

SCRIPT = DOCS / "reference_networks.py"
CASES: list[dict[str, Any]] = json.loads((DOCS / "reference-networks.json").read_text(encoding="utf-8"))["networks"]
LOOSEST = {"dense-relu": 1.03, "dense-abs": 1.001, "residual": 1.05, "convolutions": 1.05, "pooling": 1.4}
"""How many times the published upper bound is what an audit proves, at most."""


def run(*words: str, folder: Path = DOCS) -> tuple[int, list[str]]:
    command = [sys.executable, str(SCRIPT), *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert not done.stderr
    return done.returncode, done.stdout.splitlines()


def test_the_upper_bounds_are_the_largest_norms_of_jacobians() -> None:
    from helpers.reference import make_networks

    assert [*make_networks.JACOBIANS] == [case["name"] for case in CASES]
    for case in CASES:
        assert make_networks.upper_of(case["name"]) == pytest.approx(case["upper"], rel=1e-12)
        assert 0 < case["lower"] <= case["upper"] <= 1.07 * case["lower"]


def test_the_script_finds_the_published_numbers_right() -> None:
    code, lines = run()
    assert code == 0
    assert lines == [f"{case['name']}: valid, 1.0000 times the published upper bound" for case in CASES]


def test_the_script_refuses_what_is_no_bound(tmp_path: Path) -> None:
    """Just below what a pair reaches, or nothing at all."""
    bounds = {case["name"]: 0.999 * case["lower"] for case in CASES}
    bounds[CASES[0]["name"]] = float("nan")
    code = f"from pathlib import Path\ndef bound(path):\n    nan = float('nan')\n    return {bounds}[Path(path).stem]\n"
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    code_, lines = run("mine:bound", folder=tmp_path)
    assert code_ == 1
    assert len(lines) == len(CASES)
    assert [line for line in lines if "is not an upper bound: two inputs reach" not in line] == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_bound_lies_between_the_published_ends(case: dict[str, Any]) -> None:
    network: Any = specnorm.audit(DOCS / case["file"]).network
    assert case["lower"] <= network.upper <= LOOSEST[case["name"]] * case["upper"]
