"""Damaged files of every format, and runs that are cut off: a message or a report each, the old one or the new one."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers.processes import FINDS_TESTS, ran

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits on memory and file size as Linux has them")

COUNT, SEED = int(os.environ.get("SPECNORM_FUZZ", "96")), int(os.environ.get("SPECNORM_FUZZ_SEED", "0"))


def test_damaged_files_of_every_format_give_rows_or_messages(tmp_path: Path) -> None:
    """In one process of its own: none may crash it, take 10 s or 2 GB, run code, or end without a word."""
    if find_spec("torch") is None:
        pytest.skip("torch is not installed")  # and its session damages the files of every format
    ran("-m", "audit.fuzz", tmp_path, SEED, COUNT, timeout=600 + COUNT, **FINDS_TESTS)
    told = json.loads((tmp_path / "tally.json").read_text())
    tally = told["files"]
    assert told["most MiB"] < 2000
    assert sum(sum(words.values()) for words in tally.values()) == COUNT
    for label, words in tally.items():
        assert sum(words.values()) >= COUNT // len(tally) - 1
        assert "refused without a word" not in words
        if "evil" in label or label == "pickle":
            assert set(words) == {"refused"}
        else:  # the damage is neither always fatal nor never
            assert "refused" in words
    assert [words for words in tally.values() if "rows" in words], tally


@pytest.mark.nightly
def test_small_files_that_claim_much_stay_within_the_limits(tmp_path: Path) -> None:
    """Of ONNX and torch: each ends in a report or a message, in 40 s of processor time and 2 GB."""
    if find_spec("torch") is None:
        pytest.skip("torch is not installed")
    ran("-m", "audit.bombs", tmp_path, timeout=2000, **FINDS_TESTS)
    told = json.loads((tmp_path / "tally.json").read_text())
    assert told["most MiB"] < 2000
    assert len(told["files"]) >= 23
    assert [
        (said, seconds)
        for said, seconds in told["files"].values()
        if not (said != "refused without a word" and seconds < 40)
    ] == [], told


KILLED = """
import os, pathlib, signal, sys
from specnorm_audit.output import replace_file

signal.signal(signal.SIGINT, signal.default_int_handler)  # of a shell's background it is ignored
write, replace = os.fsync, pathlib.Path.replace
output = pathlib.Path(sys.argv[1]) / "report.json"
for when in ("fsync", "replace"):
    for number in (signal.SIGINT, signal.SIGKILL):
        output.write_text("old")
        if (child := os.fork()) == 0:
            kill = lambda: os.kill(os.getpid(), number)
            if when == "fsync":
                os.fsync = lambda file: (kill(), write(file))
            else:
                pathlib.Path.replace = lambda a, b: (replace(a, b), kill())
            try:
                replace_file(output, "new" * 10**6)
            except KeyboardInterrupt:
                os._exit(130)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        left = sorted(path.name for path in output.parent.iterdir())
        text = output.read_text()
        print(when, int(number), status, {"old": "old", "new" * 10**6: "new"}.get(text), *left)
        for path in output.parent.iterdir():
            path.unlink()
"""


def test_a_run_killed_while_it_writes_leaves_the_old_report_or_the_new(tmp_path: Path) -> None:
    """At every step of writing, the old report or the new one is there; SIGINT leaves nothing else behind."""
    told = [line.split() for line in ran("-c", KILLED, tmp_path).splitlines()]
    assert [words[:4] for words in told] == [
        ["fsync", "2", "130", "old"], ["fsync", "9", "-9", "old"],
        ["replace", "2", "130", "new"], ["replace", "9", "-9", "new"],
    ]  # fmt: skip
    for words in told:
        assert "report.json" in words[4:]
        assert words[1] == "9" or words[4:] == ["report.json"]
