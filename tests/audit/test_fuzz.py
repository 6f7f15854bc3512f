"""Damaged files of every format, and runs that are cut off: a message or a report each, the old one or the new one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers.processes import FINDS_TESTS, ran

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits on memory and file size as Linux has them")

COUNT, SEED = int(os.environ.get("SPECNORM_FUZZ", "120")), int(os.environ.get("SPECNORM_FUZZ_SEED", "0"))


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
    assert any("rows" in words for words in tally.values())


@pytest.mark.nightly
def test_small_files_that_claim_much_stay_within_the_limits(tmp_path: Path) -> None:
    """Of ONNX and torch: each ends in a report or a message, in 40 s of processor time and 2 GB."""
    if find_spec("torch") is None:
        pytest.skip("torch is not installed")
    ran("-m", "audit.bombs", tmp_path, timeout=2000, **FINDS_TESTS)
    told = json.loads((tmp_path / "tally.json").read_text())
    assert told["most MiB"] < 2000
    assert len(told["files"]) >= 27
    assert all(said != "refused without a word" and seconds < 40 for said, seconds in told["files"].values()), told


# -- runs that are cut off -----------------------------------------------------------------------------------------


def _interruptible() -> None:
    """Shells start what runs in the background with interrupts ignored, and that is inherited."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("when", ["fsync", "replace"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_killed_while_it_writes_leaves_the_old_report_or_the_new(
    tmp_path: Path, when: str, number: signal.Signals
) -> None:
    """At every step of writing, the old report or the new one is there; SIGINT leaves nothing else behind."""
    kill = "os.kill(os.getpid(), N)"
    steps = {
        "fsync": f"real = os.fsync; os.fsync = lambda fd: ({kill}, real(fd))",
        "replace": f"real = os.replace; pathlib.Path.replace = lambda a, b: (real(a, b), {kill})",
    }
    output = tmp_path / "report.json"
    output.write_text("old")
    program = (
        "import os, pathlib, signal\nfrom specnorm_audit.output import replace_file\n"
        f"N = {int(number)}\n{steps[when]}\nreplace_file(pathlib.Path({str(output)!r}), 'new' * 10**6)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, preexec_fn=_interruptible)
    assert done.returncode != 0
    assert output.read_text() == ("old" if when == "fsync" else "new" * 10**6)
    if number == signal.SIGINT:
        assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json"]
