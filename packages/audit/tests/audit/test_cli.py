"""The command line: output, exit codes, messages, processes, interruption; and no traceback, whatever it is given."""

from __future__ import annotations

import io
import itertools
import json
import math
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from audit import files

pytest.importorskip("click")
pytest.importorskip("jinja2")
pytest.importorskip("safetensors")

import click
from click.shell_completion import BashComplete
from specnorm_audit import cli
from specnorm_audit.commands import audit as audit_command
from specnorm_audit.renderers import render
from specnorm_audit.report import Report
from specnorm_audit.streams import _line_of_progress

from specnorm import backends
from specnorm.backends import Listing
from specnorm.errors import ModelFileError
from specnorm.running.search import Clock


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A good model: norms between 2 and 30."""
    return files.save_npz(tmp_path / "model.npz", files.kernels())


@pytest.fixture
def bad_model(tmp_path: Path) -> Path:
    """A model with one layer that is NaN."""
    return files.save_npz(tmp_path / "bad.npz", {**files.kernels(), "nan.weight": np.full((2, 2), np.nan)})


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    return path


def _norms(model: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    assert cli.run(["audit", str(model), "--format", "json"]) == 0
    return {row["name"]: row for row in json.loads(capsys.readouterr().out)["layers"]}


# -- exit codes ----------------------------------------------------------------------------------------------------
def test_the_gate_passes_fails_and_names_the_layers(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = _norms(model, capsys)
    highest = max(rows.values(), key=lambda row: float(row["upper"]))
    upper, lower = highest["upper"], highest["lower"]
    assert cli.run(["audit", str(model), "--fail-above", repr(upper)]) == 0
    assert "gate passed: each of 3 layers" in capsys.readouterr().err
    assert cli.run(["audit", str(model), "--fail-above", repr(np.nextafter(lower, 0).item())]) == 1
    err = capsys.readouterr().err
    assert f"{highest['name']}: lower = {lower!r}" in err
    assert "gate failed: 1 of 3" in err


def test_exit_codes_of_failures_and_errors(
    model: Path, bad_model: Path, broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["audit", str(bad_model)]) == 2
    assert cli.run(["audit", str(bad_model), "--fail-above", "1e6"]) == 2  # nothing is known of the bad layer
    assert "gate not decided" in capsys.readouterr().err
    assert cli.run(["audit", str(bad_model), "--fail-above", "0"]) == 1  # the other one is above
    assert "nan.weight: error: kernel of shape (2, 2)" in capsys.readouterr().err
    assert cli.run(["audit", str(broken), "--fail-above", "1e6"]) == 2
    assert cli.run(["audit", str(broken), str(model), "--fail-above", "0"]) == 1
    assert cli.run(["audit", str(broken), str(model), "--fail-above", "1e6"]) == 2


def test_a_crash_is_not_taken_for_a_failed_gate(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(audit_command, "audit", Mock(side_effect=ZeroDivisionError))
    assert cli.run(["audit", str(model)]) == 2
    assert "ZeroDivisionError" in capsys.readouterr().err
    monkeypatch.setattr(audit_command, "audit", Mock(side_effect=KeyboardInterrupt))
    assert cli.run(["audit", str(model)]) == 130


@pytest.mark.parametrize("watched", [True, False])
def test_progress_is_shown_where_somebody_watches(
    watched: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = files.save_npz(tmp_path / "m.npz", {"a\x1b.weight": np.eye(2), "b.weight": np.eye(2)})
    monkeypatch.setattr(sys.stderr, "isatty", lambda: watched)
    assert cli.run(["audit", str(model)]) == 0
    err = capsys.readouterr().err
    assert ("2/2 b" in err) == watched
    assert "\x1b" not in err


def test_the_help_says_of_each_command_what_the_command_says() -> None:
    context = click.Context(cli.application)
    for name, text in cli.COMMANDS.items():
        command = cli.application.get_command(context, name)
        assert command is not None
        assert command.get_short_help_str(limit=1000) == text


# -- backends ------------------------------------------------------------------------------------------------------
def test_backends_lists_what_is_there_and_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["backends"]) == 0
    assert f"version {np.__version__}; devices: cpu" in capsys.readouterr().out
    rows = [
        Listing("a", "dist 1", None, (), "BrokenBackend: \x1b[31m"),
        Listing("bb", "dist 2", "3", ("x:0", "x:1"), None),
    ]
    monkeypatch.setattr(backends, "listing", lambda: rows)
    assert cli.run(["backends"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "a   BrokenBackend: \\x1b[31m  [dist 1]",
        "bb  version 3; devices: x:0, x:1  [dist 2]",
    ]
    monkeypatch.setattr(backends, "listing", list)
    assert cli.run(["backends"]) == 2


# -- processes, time and interruption --------------------------------------------------------------------------------
def test_jobs_give_the_same_rows(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bit for bit, as many processes as there are, and none; of kernels too that BLAS has more than a thread for."""
    large = files.save_npz(tmp_path / "large.npz", {"fc": np.random.default_rng(0).standard_normal((1100, 960))})
    reports = []
    for jobs, worth in ((["--jobs", "1"], 1), (["--jobs", "2"], 1), ([], audit_command.LEAST_BYTES_FOR_WORKERS)):
        monkeypatch.setattr(audit_command, "LEAST_BYTES_FOR_WORKERS", worth)
        assert cli.run(["audit", str(model), str(large), "--format", "json", *jobs]) == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert [report for report in reports if report != reports[0]] == []


@pytest.mark.parametrize(("given", "budget"), [([], 60.0), (["--budget", "2.5"], 2.5), (["--budget", "inf"], math.inf)])
def test_a_minute_a_layer_unless_told_otherwise(
    model: Path, given: list[str], budget: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = Mock(side_effect=ModelFileError("seen"))
    monkeypatch.setattr(audit_command, "audit", audit)
    cli.run(["audit", str(model), *given])
    assert [call.kwargs["budget"] for call in audit.mock_calls] == [budget]


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


def test_progress_has_percent_rate_and_time_left() -> None:
    assert _line_of_progress(0, 400, "", 0.0).endswith("  0 % 0/400 ")
    assert _line_of_progress(100, 400, "conv7", 50.0).endswith(" 25 % 100/400 2/s, 2 min 30 s left, conv7")
    assert _line_of_progress(3, 4, "conv7", 30.0).endswith(" 75 % 3/4 0.1/s, 10 s left, conv7")


# -- pipes, defaults, and reports for other programs ---------------------------------------------------------------
def test_a_model_from_a_pipe_has_the_rows_of_its_file(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = _norms(model, capsys)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(model.read_bytes())))
    assert cli.run(["audit", "-", "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {row["name"]: row for row in report["layers"]} == rows
    assert report["model"] == "standard input"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(model.read_bytes())))
    assert cli.run(["audit", "-", "--max-bytes", "10"]) == 2
    assert "standard input has more than 10 bytes: see --max-bytes" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"no model")))
    assert cli.run(["audit", "-", "--format", "json"]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("specnorm: standard input: its content is of no known kind")
    assert json.loads(output.out)["error"].startswith("standard input: its content")


def test_defaults_are_those_of_pyproject(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(model.parent)
    defaults = Path("pyproject.toml")
    defaults.write_text("[tool.specnorm]\nfail-above = 1\nlayers = ['*']\nquiet = true\n", "utf-8")
    assert cli.run(["audit", model.name]) == 1
    output = capsys.readouterr()
    assert output.out.count("\n") == 1
    assert "not proven to have a norm of at most 1" in output.err
    assert cli.run(["audit", model.name, "--fail-above", "1e9"]) == 0
    defaults.write_text("[tool.specnorm]\nlayers = '*'\ngeometry = {'*' = {stride = 2}}\n", "utf-8")
    capsys.readouterr()
    assert cli.run(["audit", model.name, "--format", "json"]) == 0
    assert [2, 2] in [row["stride"] for row in json.loads(capsys.readouterr().out)["layers"]]
    for text, words in (("fail-abov = 1", "Did you mean 'fail-above'?"), ("= 1", "cannot be read")):
        defaults.write_text(f"[tool.specnorm]\n{text}\n", "utf-8")
        assert cli.run(["audit", model.name]) == 2
        assert words in capsys.readouterr().err


def test_programs_that_review_code_get_gates_and_bad_layers(
    bad_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A newline in a name cannot begin another command."""
    words = ["audit", str(bad_model), "--fail-above", "1", "--format"]
    assert cli.run([*words, "sarif"]) == 1
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    found = {(result["ruleId"], result["level"]) for result in run["results"]}
    assert found == {("model", "note"), ("layer", "warning"), ("--fail-above", "error")}
    report = Report("1", "a model", (), ())
    assert '"uri": "a%20model"' in render([report], "sarif")
    assert {rule["id"] for rule in run["tool"]["driver"]["rules"]} == {rule for rule, _ in found}
    assert cli.run([*words, "github"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["::notice", "::warning", "::error"]
    assert "nan.weight" in lines[1]
    report = Report("1", "a:b\n,c", (), (), error="x\n::error::y")
    assert render([report], "github").count("\n") == 1


@pytest.mark.parametrize(
    ("words", "incomplete", "expected"),
    [
        ("audit --layout", "HW", {"HWIO"}), ("audit --format", "s", {"sarif"}),
        ("audit --methods", "tn,f", {"tn,f4", "tn,fft"}), ("audit --backend", "to", {"torch"}),
        ("audit --jobs", "", {"auto"}), ("audit --fail-above", "", set()),
    ],
)  # fmt: skip
def test_shells_complete_values(words: str, incomplete: str, expected: set[str]) -> None:
    completion = BashComplete(cli.application, {}, "specnorm", "_SPECNORM_COMPLETE")
    assert {item.value for item in completion.get_completions(words.split(), incomplete)} == expected


@pytest.mark.parametrize("words", ["audit", "audit --output", "audit --geometry", "accuracy a.onnx", "verify a.npz"])
def test_shells_complete_files(words: str) -> None:
    completion = BashComplete(cli.application, {}, "specnorm", "_SPECNORM_COMPLETE")
    assert [item.type for item in completion.get_completions(words.split(), "m")] == ["file"]


@pytest.mark.parametrize("output_format", ["table", "json", "csv", "markdown", "html", "junit", "github", "sarif"])
def test_reasons_name_options_and_names_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], output_format: str
) -> None:
    """Names that hold what a function calls its parameters were printed as options."""
    layer, other = "layers= a.layout= b.weight", "layers= a.layout= b.gain"
    path = files.save_npz(tmp_path / "max_bytes= c.npz", {layer: np.full((3, 3), np.nan), other: np.eye(3)})
    cli.run(["audit", str(path), "-f", output_format, "--fail-above", "2"])
    out, err = capsys.readouterr()
    plain = out.replace("&#61;", "=").replace("&#32;", " ").replace("&#46;", ".").replace("<wbr>", "")
    assert layer in plain
    assert other in plain
    assert "--layers a" not in plain + err
    assert "--layout b" not in plain + err
    assert f"{other}: it is not known what it is for, and it may change a layer's weight. Name it in --ignore" in err
    assert "assume_stored=" not in plain + err
    cli.run(["audit", str(path), "--max-bytes", "100"])
    _, err = capsys.readouterr()
    assert "max_bytes= c.npz" in err
    assert "(--max-bytes)" in err
