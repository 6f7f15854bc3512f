"""Nox shows that it lives, and takes its sessions with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SESSIONS = """
import runpy, nox
runpy.run_path({noxfile!r})

@nox.session(venv_backend="none")
def one(session):
    session.run({python!r}, "-c", {program!r}, "one", external=True)

@nox.session(venv_backend="none")
def two(session):
    session.run({python!r}, "-c", {program!r}, "two", external=True)
"""
PROGRAM = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(100)"


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it looks into /proc")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["asked", "killed"])
def test_it_prints_through_a_pipe_and_takes_its_sessions_with_it(how: signal.Signals, tmp_path: Path) -> None:
    pytest.importorskip("nox")
    words = {"noxfile": str(ROOT / "noxfile.py"), "python": sys.executable, "program": PROGRAM}
    (tmp_path / "noxfile.py").write_text(SESSIONS.format(**words), encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, "-m", "nox", "--parallel", "2", "-s", "one", "two"],
        cwd=tmp_path, env={**os.environ, "SPECNORM_HEARTBEAT": "0.3"}, stdout=subprocess.PIPE, text=True,
    ) as nox:  # fmt: skip
        assert nox.stdout is not None
        assert any(line.startswith("nox > 0 min") for line in nox.stdout)
        files = [tmp_path / name for name in ("one", "two")]
        for _ in range(100):
            if all(file.is_file() and file.read_text() for file in files):
                break
            time.sleep(0.1)
        workers = [int(file.read_text()) for file in files]
        assert [worker for worker in workers if not is_alive(worker)] == []
        nox.send_signal(how)
        for _ in range(100):
            if not any(is_alive(worker) for worker in workers):
                break
            time.sleep(0.1)
        assert [worker for worker in workers if is_alive(worker)] == []
