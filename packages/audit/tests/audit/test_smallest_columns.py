"""The other end in audits: columns, gates, and that no number of it is taken for a norm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from specnorm_audit import audit
from specnorm_audit.cli import run

import specnorm


def arrays() -> dict[str, Any]:
    random = np.random.RandomState(0)
    turn = np.zeros((6, 6, 3, 3))
    turn[:, :, 0, 2] = np.linalg.qr(random.standard_normal((6, 6)))[0]
    return {
        "conv.weight": random.standard_normal((8, 4, 3, 3)),
        "linear.weight": random.standard_normal((5, 7)),
        "turn.weight": turn,
    }


@pytest.mark.parametrize("size", [None, 6])
def test_columns_are_what_the_functions_say(size: int | None) -> None:
    kernels = arrays()
    report = audit(kernels, smallest=True, input_shape=size, padding_mode="circular", layout="OIHW")
    for row in report.layers:
        where: Any = size if len(row.shape) > 2 or size is None else ()
        expected = specnorm.enclose_smallest(kernels[row.name], where)
        assert row.values["smallest"] == float(expected.lower)
        condition = row.values["condition"]
        assert isinstance(condition, float)
        assert condition >= float(specnorm.condition_number(kernels[row.name], where).lower)
        assert condition == pytest.approx(row.upper / float(expected.lower), rel=1e-12)
        fields = row.to_dict()
        assert (fields["smallest"], fields["condition"]) == (row.values["smallest"], condition)
    assert "| smallest | condition |" in str(report)
    assert "smallest: a lower bound; condition: an upper bound" in str(report)


def test_borders_that_cut_are_a_note() -> None:
    report = audit(arrays(), smallest=True, padding_mode="zeros", layout="OIHW")
    for row in report.layers:
        assert row.status == "ok"
        convolution = len(row.shape) > 2
        assert (row.values["smallest"] is None) is convolution
        assert (row.values["condition"] is None) is convolution
        assert ("cut taps off" in str(row.note)) is convolution
    (small, _, _) = audit(arrays(), smallest=True, padding_mode="zeros", input_shape=4, layout="OIHW").layers
    expected = specnorm.enclose_smallest(arrays()["conv.weight"], 4, padding_mode="zeros")
    assert small.values["smallest"] == float(expected.lower)


@pytest.mark.parametrize(
    ("gates", "code"),
    [
        (["--fail-below", "0.9"], 0), (["--fail-below", "1.1"], 1), (["--fail-isometry", "1e-6"], 0),
        (["--fail-isometry", "1e-20"], 1),
        (["--fail-below", "0.9", "--fail-isometry", "1e-6", "--fail-above", "1.01"], 0),
    ],
)  # fmt: skip
def test_gates_on_smallest_singular_values_and_isometries(
    gates: list[str], code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "turn.npz"
    np.savez(path, turn=arrays()["turn.weight"])
    command = ["audit", str(path), "--padding-mode", "circular", "--layout", "OIHW", "--format", "json", *gates]
    assert run(command) == code
    found = json.loads(capsys.readouterr().out)
    assert [gate["outcome"] for gate in found["gates"]].count("failed") == (code == 1)
    assert len(found["gates"]) == len(gates) // 2


def test_gates_name_what_is_not_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "conv.npz"
    np.savez(path, conv=arrays()["conv.weight"])
    options = ["--padding-mode", "zeros", "--layout", "OIHW", "--fail-below", "0.1", "--fail-isometry", "1"]
    assert run(["audit", str(path), *options]) == 2
    told = capsys.readouterr().err
    assert told.count("cut taps off") >= 1
    assert "no layer is an isometry" in told
