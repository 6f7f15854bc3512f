"""The command when it is ended from outside, and processes of ours whose parent dies: nothing is left, nothing said."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from audit import files
from audit.deadly import outlived, runs

for _name in ("click", "jinja2", "safetensors"):
    pytest.importorskip(_name)
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="processes as Linux shows them")
ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP] if sys.platform != "win32" else [signal.SIGINT]


def _children(pid: int) -> list[int]:
    return [int(word) for path in Path(f"/proc/{pid}/task").glob("*/children") for word in path.read_text().split()]


def _usual() -> None:
    """Signals as a shell's foreground has them."""
    for number in ENDING:
        signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)


@LINUX
@pytest.mark.parametrize("number", [*ENDING, signal.SIGKILL])
@pytest.mark.sampled("15", "9")
def test_a_signal_ends_the_command_and_its_workers(tmp_path: Path, number: signal.Signals) -> None:
    """Within seconds on a loaded machine, whatever they measure. The old report is kept; how far it came is said."""
    kernel = np.random.RandomState(0).standard_normal((24, 24, 3, 3)).astype(np.float32)
    model = files.save_npz(tmp_path / "model.npz", {f"conv{i}.weight": kernel for i in range(400)})
    output = tmp_path / "report.json"
    output.write_text("old")
    words = ["audit", str(model), "--jobs", "2", "--format", "json", "--output", str(output), "--rtol", "1e-6"]
    running = subprocess.Popen(
        [sys.executable, "-m", "specnorm", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=_usual,
    )  # fmt: skip
    until = time.monotonic() + 60
    while len(workers := _children(running.pid)) < 2:
        assert time.monotonic() < until
        time.sleep(0.02)
    time.sleep(1)
    running.send_signal(number)
    _, said = running.communicate(timeout=10)  # the workers hold stderr too
    assert not outlived(workers, 5)
    assert "Traceback" not in said
    assert ("specnorm: interrupted " in said) is (number != signal.SIGKILL)
    assert running.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert output.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.npz", "report.json"]


_BUSY = """
import sys
from specnorm_audit import __main__, cli
import numpy as np
def run():
    print("ready", flush=True)
    np.linalg.svd(np.random.default_rng(0).standard_normal((6000, 6000)))  # one call of a library, for minutes
cli.run = run
__main__.main()
"""


@LINUX
def test_a_signal_during_a_long_call_of_a_library_ends_the_command() -> None:
    """Python would call its handler after that call: 44 seconds were measured."""
    running = subprocess.Popen(
        [sys.executable, "-c", _BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_usual
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    time.sleep(2)
    begin = time.monotonic()
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGTERM
    assert time.monotonic() - begin < 20


_PARENT = """
import sys, time
from specnorm_audit.processes import Workers
pool = Workers(1)
pool.submit(time.sleep, 300)
while not pool.workers:
    time.sleep(0.01)
time.sleep(0.3)
print(*[worker.process.pid for worker in pool.workers], flush=True)
time.sleep(300)
"""


@LINUX
def test_workers_notice_a_dead_parent() -> None:
    """In the middle of a call, which they do not end."""
    parent = subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    (pid,) = map(int, parent.stdout.readline().split())
    assert runs(pid)
    parent.kill()
    parent.communicate()
    assert not outlived([pid], 5)
