"""The command's processes, its time for a layer, and its interruption."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit import files

pytest.importorskip("click")
pytest.importorskip("safetensors")

from specnorm_audit import cli

import specnorm
from specnorm.clock import Clock


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return files.save_npz(tmp_path / "model.npz", files.kernels())


def test_jobs_give_the_same_rows(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bit for bit, as many processes as there are, and none; of kernels too that BLAS has more than a thread for."""
    large = files.save_npz(tmp_path / "large.npz", {"fc": np.random.default_rng(0).standard_normal((1100, 960))})
    reports = []
    for jobs, worth in ((["--jobs", "1"], 1), (["--jobs", "2"], 1), ([], cli.WORTH)):
        monkeypatch.setattr(cli, "WORTH", worth)
        assert cli.run(["audit", str(model), str(large), "--format", "json", *jobs]) == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert all(report == reports[0] for report in reports)


@pytest.mark.parametrize(("given", "budget"), [([], 60.0), (["--budget", "2.5"], 2.5), (["--budget", "inf"], math.inf)])
def test_a_minute_a_layer_unless_told_otherwise(
    model: Path, given: list[str], budget: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def audit(*_: Any, **options: Any) -> Any:
        asked.append(options["budget"])
        raise specnorm.ModelFileError("seen")

    monkeypatch.setattr(cli, "audit", audit)
    cli.run(["audit", str(model), *given])
    assert asked == [budget]


def test_an_interruption_in_a_search_leaves_what_was_there(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C is heard within a layer; the report of last time stays whole, and no part of a new one is written."""
    report = tmp_path / "report.json"
    report.write_text("the last one")
    looks = itertools.count()

    def interrupted(_: Clock) -> None:
        if next(looks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Clock, "check", interrupted)
    before = set(tmp_path.rglob("*"))
    assert cli.run(["audit", str(model), "--format", "json", "--output", str(report)]) == 130
    assert next(looks) == 4
    assert report.read_text() == "the last one"
    assert set(tmp_path.rglob("*")) == before
    assert capsys.readouterr().out == ""
