"""What a command reads is never replaced, what it cannot write it says at once, and no stream hides a verdict."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

pytest.importorskip("click")
pytest.importorskip("jinja2")
pytest.importorskip("safetensors")

from specnorm_audit import cli
from specnorm_audit.commands import audit as audit_command
from specnorm_audit.output import replace_file

from audit import files

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /dev/full and /proc")


# -- what would be lost --------------------------------------------------------------------------------------------
def _linked(model: Path, make: Callable[[Path, Path], None]) -> Path:
    link = model.with_name("link")
    make(link, model)
    return link


def _other(folder: Path) -> Path:
    return files.save_safetensors(folder / "b.safetensors", files.kernels(1))


def _index(folder: Path, name: str = "x") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.safetensors.index.json"
    places = {"a.weight": f"{name}-1.safetensors", "b.weight": f"{name}-2.safetensors"}
    path.write_text(json.dumps({"weight_map": places}))
    files.save_safetensors(folder / f"{name}-1.safetensors", {"a.weight": np.eye(2)})
    return path


def _geometry(folder: Path) -> Path:
    (folder / "geometry.json").write_text('{"conv1*": {"stride": 2}}')
    return folder / "geometry.json"


def _fifo(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


# Given the model and its folder: the arguments that are refused.
Case = Callable[[Path, Path], list[Any]]
REFUSED: dict[str, Case] = {
    "the model": lambda m, _: [m, "--output", m],
    "the model, by a link": lambda m, _: [m, "--output", _linked(m, Path.symlink_to)],
    "the model, by a hard link": lambda m, _: [m, "--output", _linked(m, Path.hardlink_to)],
    "the model, by another way": lambda m, d: [m, "--output", d / "x" / ".." / m.name],
    "one of two models": lambda m, d: [_other(d), m, "--output", m],
    "what a shell made of a star": lambda m, d: ["--output", m, _other(d)],
    "the geometry": lambda m, d: [m, "--geometry", _geometry(d), "--output", d / "geometry.json"],
    "the index": lambda _, d: [_index(d), "--output", d / "x.safetensors.index.json"],
    "the folder's index": lambda _, d: [_index(d / "x").parent, "--output", d / "x" / "x.safetensors.index.json"],
    "a part": lambda _, d: [_index(d), "--output", d / "x-1.safetensors"],
    "a part that is missing": lambda _, d: [_index(d), "--output", d / "x-2.safetensors"],
    "a part of a folder": lambda _, d: [_index(d / "x").parent, "--output", d / "x" / "x-2.safetensors"],
    "a certificate of two models": lambda m, d: [m, m, "--certificate", d / "x.npz"],
    "a certificate that is no .npz": lambda m, d: [m, "--certificate", d / "x.json"],
    "a report of no format": lambda m, d: [m, "--output", d / "x.pdf"],
    "the model, by the certificate": lambda m, _: [m, "--certificate", m],
    "the report": lambda m, d: [m, "-f", "csv", "-o", d / "x.npz", "--certificate", d / "y" / ".." / "x.npz"],
    "a name that is too long": lambda m, d: [m, "--output", d / ("x" * 300)],
    "a folder": lambda m, d: [m, "--output", d],
    "a pipe": lambda m, d: [m, "--output", _fifo(d)],
    "a folder that is not there": lambda m, d: [m, "--output", d / "z" / "x.csv"],
    "no place to write": lambda m, _: [m, "--output", "/proc/self/report.json"],
    "no place for a certificate": lambda m, _: [m, "--certificate", "/proc/self/proof.npz"],
}


@LINUX
@pytest.mark.parametrize("case", REFUSED)
def test_outputs_that_cannot_be_written_are_refused_before_measuring(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(audit_command, "audit", Mock(side_effect=AssertionError))
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
    model = files.save_npz(tmp_path / "model.npz", files.kernels())
    arguments = [str(word) for word in REFUSED[case](model, tmp_path)]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert cli.run(["audit", *arguments]) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert [option for option in ("--output", "--certificate") if f"{option}: " in err], err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


# -- streams -------------------------------------------------------------------------------------------------------
FULL, CLOSED = "/dev/full", "&-"
STREAMS = {
    # redirections, arguments after the model, exit code
    "stdout full": (f">{FULL}", [], 2),
    "stdout full, gate passed": (f">{FULL}", ["--fail-above", "1e6"], 2),
    "stdout full, gate failed": (f">{FULL}", ["--fail-above", "1"], 1),
    "stdout full, json": (f">{FULL}", ["--format", "json", "--fail-above", "1"], 1),
    "stdout closed": (f">{CLOSED}", [], 2),
    "stdout closed, gate passed": (f">{CLOSED}", ["--fail-above", "1e6"], 2),
    "stdout closed, gate failed": (f">{CLOSED}", ["--fail-above", "1"], 1),
    "stderr full, gate failed": (f"2>{FULL}", ["--fail-above", "1"], 1),
    "stderr closed": (f"2>{CLOSED}", [], 0),
    "stderr closed, gate failed": (f"2>{CLOSED}", ["--fail-above", "1"], 1),
    "stderr closed, wrong usage": (f"2>{CLOSED}", ["--fail-above", "x"], 2),
    "stdin closed": (f"<{CLOSED}", [], 0),
    "both closed, gate failed": (f">{CLOSED} 2>{CLOSED}", ["--fail-above", "1"], 1),
    "all closed, gate failed": (f"<{CLOSED} >{CLOSED} 2>{CLOSED}", ["--fail-above", "1"], 1),
    "both full, gate failed": (f">{FULL} 2>{FULL}", ["--fail-above", "1"], 1),
    "all closed, two processes": (f"<{CLOSED} >{CLOSED} 2>{CLOSED}", ["--fail-above", "1", "--jobs", "2"], 1),
    "all closed, to a file": (f"<{CLOSED} >{CLOSED} 2>{CLOSED}", ["--fail-above", "1", "--output", "report"], 1),
    "stdout closed, to a file": (f">{CLOSED}", ["--output", "report"], 0),
    "help, stdout full": (f">{FULL}", ["--help"], 2),
    "help, stdout closed": (f">{CLOSED}", ["--help"], 2),
}


@LINUX
@pytest.mark.parametrize("case", STREAMS)
@pytest.mark.sampled("full, gate failed", "both closed", "wrong usage")
def test_a_stream_that_is_closed_or_full_hides_no_verdict(case: str, tmp_path: Path) -> None:
    redirections, options, code = STREAMS[case]
    model = files.save_npz(tmp_path / "model.npz", {"a.weight": np.full((4, 4), 2.0), "b.weight": np.eye(2)})
    start = f'exec "$@" {redirections}'
    command = [sys.executable, "-m", "specnorm", "audit", str(model), *options]
    before = model.read_bytes()
    done = subprocess.run(
        ["/bin/sh", "-c", start, "sh", *command], capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path
    )
    assert done.returncode == code
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    assert model.read_bytes() == before
    if "2>" in redirections:
        assert "specnorm:" not in said, "messages are no part of the report"
    elif code:
        assert "cannot be written" in said or "No space left" in said
    if "report" in options:
        assert "a.weight" in (tmp_path / "report").read_text()


# -- a report file holds its old content or all of the new one ---------------------------------------------------
def test_a_dash_is_standard_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was a file of that name, without a word."""
    monkeypatch.chdir(tmp_path)
    path = files.save_npz(Path("m.npz"), {"a.weight": np.eye(2)})
    assert cli.run(["audit", str(path), "--format", "json", "--output", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "m.npz"
    assert [file.name for file in tmp_path.iterdir()] == ["m.npz"]


def test_a_replaced_file_has_the_bytes_and_the_mode(tmp_path: Path) -> None:
    """And is found by a link, which stays."""
    target, path = tmp_path / "report", tmp_path / "report.json"
    path.symlink_to(target)
    replace_file(path, "one\r\n")
    assert path.read_bytes() == b"one\r\n"
    path.chmod(0o640)
    replace_file(path, "two \udc80 é\n")
    assert path.read_bytes() == b"two \\udc80 \xc3\xa9\n"
    assert path.stat().st_mode & 0o777 == 0o640
    replace_file(path, b"\xff\x00\n")
    assert path.read_bytes() == b"\xff\x00\n"
    assert path.is_symlink()
    assert sorted(tmp_path.iterdir()) == [target, path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "report"
    path.write_text("old")
    monkeypatch.setattr(os if step == "fsync" else Path, step, Mock(side_effect=OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        replace_file(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
