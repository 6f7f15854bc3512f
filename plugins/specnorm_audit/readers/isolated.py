"""Readers that run in a child process with limits on time and memory, because their files can be made to take both.

Damaged HDF5 files make the HDF5 library loop for ever, inside C code that no exception reaches; pickles and ONNX graphs
say in few bytes what takes long. The child is ended then. It is kept for the next file, since a process takes some
tenths of a second to start. A graph stays in the child, which answers questions about it.
"""

from __future__ import annotations

import atexit
import math
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from specnorm_networks.tools import ModelArrays

from specnorm.errors import ModelFileError
from specnorm.proof import ArrayObject
from specnorm_audit.processes import Worker, WorkerLost, tell

SECONDS = 10
"""Processor time that listing a file, or reading one array, may take; and a second more for each of these bytes:"""
BYTES_PER_SECOND = 10 * 2**20
"""A tenth of what deflate unpacks on one slow processor."""
GRAPH_SECONDS = 600.0
"""Processor time that bounding a file's network, or proving a certificate of it, may take, unless told otherwise."""
MEMORY = 2**30
"""What the child may take beyond twice ``max_bytes`` (an archive unpacked, and one of its arrays)."""
PLAIN_MEMORY = 3 * 2**29
"""The same of a file without compression, beyond four times its arrays in float64; or half of the memory that is free,
if that is more: values of its graph, above all."""

Reader = Callable[[BinaryIO, str, int], ModelArrays]
"""Called with the open file, its path, and the most bytes its arrays may take; lists them without reading them.

A reader raises `ModelFileError` (ValueError and OSError become one) for the file as a whole, and gives an array that it
cannot make sense of a `Tensor.refusal`. What the file says of an array goes into `Tensor.kind`, `Tensor.geometry`,
`Tensor.input_shape`. ``load`` may use the open file: it is closed after the audit.
"""


@contextmanager
def in_child(read: Reader, path: str, max_bytes: int, *, packed: bool = True) -> Iterator[ModelArrays]:
    """List the arrays of a file in a child process, which also reads them."""
    child = _Child(max_bytes)
    try:
        size = Path(path).stat().st_size
        memory = None if packed else _memory(size)
        listed = child.call(_seconds(size), _list, read, path, max_bytes, memory=memory)
        sizes = [8 * math.prod(tensor.shape) for tensor in listed.arrays]
        child.arrays = sum(sizes)
        loads = [partial(child.call, _seconds(n), _load, i) for i, n in enumerate(sizes)]
        arrays = [replace(tensor, load=load) for tensor, load in zip(listed.arrays, loads, strict=True)]
        yield replace(listed, arrays=arrays, elsewhere=child.ask)
    finally:
        child.release()


_spare: list[tuple[int, Worker]] = []
"""The child that waits for the next file, with the process that started it: a fork must not share it."""


class _Child:
    def __init__(self, max_bytes: int) -> None:
        self.memory = 2 * max_bytes + MEMORY
        self.arrays = 0
        """Bytes of all of them in float64."""
        self.lost: str | None = None
        owner, worker = _spare.pop() if _spare else (os.getpid(), None)
        self.worker = worker if worker is not None and owner == os.getpid() and worker.is_alive else Worker()

    def call(
        self,
        seconds: float | None,
        function: Callable[..., Any],
        *arguments: Any,
        memory: int | None = None,
        told: Callable[..., object] | None = None,
    ) -> Any:
        """Call a function there that may take so much processor time, and so much memory if that is less than ours."""
        if self.lost is not None:
            raise ModelFileError(self.lost)
        memory = self.memory if memory is None else min(self.memory, memory)
        try:
            answer = self.worker.call(_limited, seconds, memory, function, *arguments, told=told)
        except WorkerLost as error:
            self.lost = f"the process that reads it dies: {error}."
            if "SIGXCPU" in str(error):
                self.lost = f"reading it takes more than the limit of {seconds:g} s of processor time."
            raise ModelFileError(self.lost) from error
        except BaseException:
            self.lost = "the process that reads it was ended."  # by an interruption
            raise
        if isinstance(answer, MemoryError):
            least = "Raise max_bytes (--max-bytes), if you trust it"
            free = "The limit is half of the memory that is free: free some, or read it on a machine with more"
            how = least if memory == self.memory else free
            raise ModelFileError(f"reading it takes more memory than the limit of {memory} bytes. {how}.") from answer
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def ask(
        self,
        seconds: float | None,
        function: Callable[..., Any],
        *arguments: Any,
        progress: Callable[..., object] | None = None,
    ) -> Any:
        """`ModelArrays.ask`, with the memory that the arrays give reason for if time is limited, too."""
        memory = None if seconds is None else _memory(self.arrays)
        return self.call(seconds, _asked, progress is not None, function, *arguments, memory=memory, told=progress)

    def release(self) -> None:
        """Keep the process for the next file, or end it."""
        if self.lost is None:
            with suppress(ModelFileError):
                self.call(SECONDS, _forget)
                _spare.append((os.getpid(), self.worker))
                return
        self.worker.close()


def _memory(size: int) -> int:
    """Bytes that values of a graph may take, whose arrays have so many: half of what the machine has free, or more."""
    return max(PLAIN_MEMORY + 4 * size, free_memory() // 2)


def free_memory() -> int:
    """Bytes of memory that can be had here, by the system and the limit on this process's group; 0: not known."""
    found = []
    with suppress(OSError, ValueError, IndexError, KeyError):
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(1024 * int(lines["MemAvailable"].split()[0]))
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # "max" is no number
        most = int((group / "memory.max").read_text())
        found.append(max(most - int((group / "memory.current").read_text()), 0))
    return min(found, default=0)


def _seconds(size: int) -> float:
    return SECONDS + math.ceil(size / BYTES_PER_SECOND)


@atexit.register
def _end() -> None:
    while _spare:
        owner, worker = _spare.pop()
        if owner == os.getpid():
            worker.close()


# -- in the child --------------------------------------------------------------------------------------------------
_listed = ModelArrays(())
_opened: list[BinaryIO] = []


def _list(read: Reader, path: str, max_bytes: int) -> ModelArrays:
    _opened.append(Path(path).open("rb"))  # noqa: SIM115 - arrays are read from it later
    global _listed  # of this process, which reads one file at a time
    _listed = read(_opened[0], path, max_bytes)
    arrays = [replace(tensor, load=_elsewhere) for tensor in _listed.arrays]
    return replace(_listed, arrays=arrays, network=None if _listed.network is None else _elsewhere, stored=None)


def _asked(heard: bool, function: Callable[..., Any], *arguments: Any) -> Any:
    return _listed.ask(None, function, *arguments, progress=tell if heard else None)


def _load(index: int) -> ArrayObject:
    found: ArrayObject = _listed.arrays[index].load()
    return found


def _forget() -> None:
    global _listed
    _listed = ModelArrays(())
    while _opened:
        _opened.pop().close()


def _elsewhere(*_: Any) -> Any:
    raise NotImplementedError("a model is read in the process that opened its file: ask that one")


def _limited(seconds: float | None, memory: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function under limits; what it raises is returned. Its libraries' warnings go nowhere."""
    with _limits(seconds, memory), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return function(*arguments)
        except Exception as error:
            return error.with_traceback(None)


@contextmanager
def _limits(seconds: float | None, memory: int) -> Iterator[None]:
    """The system ends this process after so much processor time, and gives it no more memory than this."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        yield
        return
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    spent = resource.getrusage(resource.RUSAGE_SELF)
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    until = most if seconds is None else _least(math.ceil(spent.ru_utime + spent.ru_stime + seconds), most)
    resource.setrlimit(resource.RLIMIT_CPU, (until, most))
    status = Path("/proc/self/statm")
    before, highest = resource.getrlimit(resource.RLIMIT_AS)
    if status.exists():  # macOS does not keep this limit
        used = int(status.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (_least(used + memory, highest), highest))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, highest))
        resource.setrlimit(resource.RLIMIT_CPU, (most, most))


def _least(value: int, most: int) -> int:
    """The smaller of two limits, of which the second may be "none" (-1)."""
    return value if most < 0 else min(value, most)
