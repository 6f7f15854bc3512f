"""Files that make the HDF5 library loop for ever, or their reader die: an error in words, and no process is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import specnorm_audit as auditing
from helpers import DATA
from helpers.processes import FINDS_TESTS
from specnorm_audit import readers
from specnorm_audit.readers import isolated
from specnorm_audit.readers.isolated import Reader, in_child

from audit import deadly
from specnorm.errors import ModelFileError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits on processes as Linux has them")

LOOPS = DATA / "hostile" / "loops.h5"
LIMITS = "specnorm_audit.readers.isolated"


@pytest.fixture(autouse=True)
def short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """One second of processor time."""
    monkeypatch.setattr(f"{LIMITS}.SECONDS", 0)


def _refused(read: Reader, **limits: int) -> str:
    with pytest.raises(ModelFileError) as caught, in_child(read, __file__, limits.get("max_bytes", 2**20)):
        pass
    return str(caught.value)


@pytest.mark.nightly
def test_a_file_that_makes_hdf5_loop_for_ever_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its library does not return: no exception, no signal handler and no thread of Python ends that."""
    h5py = pytest.importorskip("h5py")
    if not h5py.version.hdf5_version.startswith("2.0"):
        pytest.skip("other versions of the library loop on other files")
    monkeypatch.setattr(f"{LIMITS}.SECONDS", 1)
    with pytest.raises(ModelFileError, match=r"loops\.h5: reading it .* limit of 2 s of processor"):
        auditing.audit(LOOPS)


def test_every_way_in_which_a_reader_ends() -> None:
    assert "limit of 1 s of processor time" in _refused(deadly.loops)
    assert f"more memory than the limit of {2**30 + 2 * 2**20} bytes. Raise the limit (max_bytes=)" in _refused(
        deadly.eats
    )
    assert "died: SIGSEGV" in _refused(deadly.dies)
    with pytest.raises(AttributeError, match="a fault"), in_child(deadly.stumbles, __file__, 2**20):
        pass


def test_a_small_file_may_need_more_memory_than_it_has_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of 2 MB was refused for 142 MiB."""
    # Time is not what this is about: to write half a gigabyte can take a second on a busy machine.
    monkeypatch.setattr(f"{LIMITS}.SECONDS", 10)
    with in_child(deadly.takes, __file__, 2**32, packed=False) as found:
        assert found.arrays == []


def test_an_array_that_takes_too_long_is_a_row_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those before it are kept, those after it are not tried: each could take as long."""
    monkeypatch.setitem(readers._READERS, "hdf5", deadly.one_loops)
    monkeypatch.setattr(readers, "sniff", lambda _: "hdf5")
    rows = {row.name: row for row in auditing.audit(__file__).layers}
    assert rows["a.weight"].status == "ok"
    for name in ("b.weight", "c.weight"):
        assert "limit of 1 s of processor time" in str(rows[name].reason)


def test_the_limit_of_memory_follows_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of 4 MB was refused for 1.64e9 bytes on a machine with 21 GB free; the refusal says how to get more."""
    assert 2**28 < isolated.free_memory() < 2**45
    monkeypatch.setattr(isolated, "free_memory", lambda: 2**34)
    with in_child(deadly.one_loops, __file__, 2**32) as model:
        assert model.ask(5, deadly.asks_for_more) is None
    monkeypatch.setattr(isolated, "free_memory", lambda: 2**20)
    refused = pytest.raises(ModelFileError, match="half of the memory that is free: free some")
    with in_child(deadly.one_loops, __file__, 2**32) as model, refused:
        model.ask(5, deadly.asks_for_more)


def test_a_child_answers_questions_about_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """It tells meanwhile what it does; it is ended where it takes too long, and gets memory by what the file holds."""
    monkeypatch.setattr(isolated, "free_memory", lambda: 0)
    heard: list[tuple[int, int]] = []
    with in_child(deadly.one_loops, __file__, 2**32) as model:
        names = model.ask(5, deadly.tells, 2, progress=lambda *words: heard.append(words))
        assert (names, heard) == ([tensor.name for tensor in model.arrays], [(0, 2), (1, 2)])
        with pytest.raises(ModelFileError, match=f"more memory than the limit of {3 * 2**29 + 4 * 96} bytes"):
            model.ask(5, deadly.asks_for_more)
        assert model.ask(None, deadly.asks_for_more) is None
        with pytest.raises(ModelFileError, match="limit of 1 s of processor time"):
            model.ask(1, deadly.never_answers)
        with pytest.raises(ModelFileError, match="limit of 1 s"):
            model.arrays[0].load()


_READ = f"""
import sys
from audit import deadly
from specnorm_audit.readers.isolated import in_child
print("ready", flush=True)
with in_child(deadly.loops, {__file__!r}, 2**20):
    pass
"""


def test_an_interruption_ends_the_child() -> None:
    running = subprocess.Popen(
        [sys.executable, "-c", _READ], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | FINDS_TESTS,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )  # fmt: skip
    assert running.stdout is not None
    running.stdout.readline()
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    while not (pids := children.read_text().split()):
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in running.communicate(timeout=60)[1]
    assert not deadly.outlived([int(pid) for pid in pids], 30)
