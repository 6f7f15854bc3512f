"""Run readers in a child process with limits on time and memory, since a hostile file may need much of both.

Damaged HDF5 files make the HDF5 library loop for ever in C code, where no exception can stop it; a small pickle or ONNX
graph may describe a very long computation. The child is ended then. Else it is kept for the next file, since a process
takes some tenths of a second to start. A graph stays in the child, which answers questions about it.
"""

from __future__ import annotations

import atexit
import math
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from specnorm_networks.model_arrays import ModelArrays

from specnorm.errors import ModelFileError
from specnorm.proof import ArrayObject
from specnorm_audit.processes import Worker, WorkerLost, report_progress

SECONDS = 10
"""Processor time in seconds for listing a file, or for reading one array, besides a second for `BYTES_PER_SECOND`."""
BYTES_PER_SECOND = 10 * 2**20
"""Number of bytes for which a further second is allowed: a tenth of what deflate unpacks on one slow processor."""
GRAPH_SECONDS = 600.0
"""Processor time in seconds for bounding a file's network, or for proving a certificate of it, if no other is given."""
MEMORY = 2**30
"""Bytes that the child may take beyond twice ``max_bytes``, which are for an unpacked archive and one of its arrays."""
PLAIN_MEMORY = 3 * 2**29
"""Bytes that the child may take for a file without compression, mostly for the values of its graph, beyond four times
its arrays in float64. If half of the free memory is more, that is allowed."""

Reader = Callable[[BinaryIO, str, int], ModelArrays]
"""Function of an open file, its path, and the largest number of bytes of its arrays; it lists the arrays.

If the file cannot be read, a reader raises `ModelFileError` (ValueError and OSError become one). If a single array
cannot be read, it gets a `Tensor.refusal`. Facts that the file states about an array are in `Tensor.kind`,
`Tensor.geometry` and `Tensor.input_shape`. ``load`` may use the open file, which is closed after the audit.
"""


@contextmanager
def in_child(read: Reader, path: str, max_bytes: int, *, packed: bool = True) -> Iterator[ModelArrays]:
    """List the arrays of a file in a child process, which will also read them.

    ``packed``: the format has compression, so the file's size does not limit the memory.
    """
    child = _Child(max_bytes)
    try:
        size = Path(path).stat().st_size
        memory = None if packed else _memory(size)
        model = child.call(_seconds(size), _list, read, path, max_bytes, memory=memory)
        arrays = []
        for index, tensor in enumerate(model.arrays):
            byte_count = 8 * math.prod(tensor.shape)
            child.array_bytes += byte_count
            arrays.append(replace(tensor, load=partial(child.call, _seconds(byte_count), _load, index)))
        yield replace(model, arrays=arrays, elsewhere=child.ask)
    finally:
        child.release()


_spare: list[tuple[int, Worker]] = []
"""Workers that wait for the next file, each with the process that started it: a forked process must not use it."""


class _Child:
    """A child process that has one file open."""

    def __init__(self, max_bytes: int) -> None:
        self.memory = 2 * max_bytes + MEMORY
        """Largest number of bytes that it may take."""
        self.array_bytes = 0
        """Number of bytes of all arrays of the file in float64."""
        self.failure: str | None = None
        """Message of why it cannot answer any more."""
        self.worker = _spare_worker() or Worker()

    def call(
        self,
        seconds: float | None,
        function: Callable[..., Any],
        *arguments: Any,
        memory: int | None = None,
        progress: Callable[..., object] | None = None,
    ) -> Any:
        """Call a function in the child under limits, and return its answer.

        Parameters
        ----------
        seconds : float or None
            Limit of its processor time.
        memory : int, optional
            Limit of its memory, if that is less than the child's.
        progress : callable, optional
            Called with what the function reports.
        """
        if self.failure is not None:
            raise ModelFileError(self.failure)
        memory = self.memory if memory is None else min(self.memory, memory)
        try:
            answer = self.worker.call(_limited, seconds, memory, function, *arguments, on_progress=progress)
        except WorkerLost as error:
            self.failure = f"the process that reads it died: {error}."
            if "SIGXCPU" in str(error):
                self.failure = f"reading it takes more than the limit of {seconds:g} s of processor time."
            raise ModelFileError(self.failure) from error
        except BaseException:
            self.failure = "the process that reads it was ended."  # by an interruption
            raise
        if isinstance(answer, MemoryError):
            advice = "The limit is half of the memory that is free: free some, or read it on a machine with more"
            if memory == self.memory:
                # The limit is that of ``max_bytes``, not that of the free memory.
                advice = "Raise the limit (max_bytes=) if you trust it"
            message = f"reading it takes more memory than the limit of {memory} bytes. {advice}."
            raise ModelFileError(message) from answer
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
        """Implement `ModelArrays.ask`; if time is limited, memory is limited by the size of the arrays."""
        memory = None if seconds is None else _memory(self.array_bytes)
        reports = progress is not None
        return self.call(seconds, _ask, reports, function, *arguments, memory=memory, progress=progress)

    def release(self) -> None:
        """Keep the process for the next file, or end it."""
        if self.failure is None:
            with suppress(ModelFileError):
                self.call(SECONDS, _forget)
                _spare.append((os.getpid(), self.worker))
                return
        self.worker.close()


def _spare_worker() -> Worker | None:
    """Take a worker that waits for a file; None if there is none that this process started and that is alive."""
    if not _spare:
        return None
    owner, worker = _spare.pop()
    is_usable = owner == os.getpid() and worker.is_alive
    return worker if is_usable else None


def _memory(array_bytes: int) -> int:
    """Return the limit of memory for a file without compression whose arrays have so many bytes."""
    return max(PLAIN_MEMORY + 4 * array_bytes, free_memory() // 2)


def free_memory() -> int:
    """Return the bytes of free memory, by the system and the limit of this process's group; 0: they are not known."""
    amounts = []
    with suppress(OSError, ValueError, IndexError, KeyError):
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        amounts.append(1024 * int(lines["MemAvailable"].split()[0]))
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # without a limit the file has the word "max"
        most = int((group / "memory.max").read_text())
        current = int((group / "memory.current").read_text())
        amounts.append(max(most - current, 0))
    return min(amounts, default=0)


def _seconds(size: int) -> float:
    """Return the limit of processor time for reading so many bytes."""
    return SECONDS + math.ceil(size / BYTES_PER_SECOND)


@atexit.register
def _end() -> None:
    while worker := _spare_worker():
        worker.close()


# -- in the child --------------------------------------------------------------------------------------------------
_model = ModelArrays(())
"""The model that this process has open; it reads one file at a time."""
_file = ExitStack()
"""Closes its file."""


def _list(read: Reader, path: str, max_bytes: int) -> ModelArrays:
    """List the arrays of a file, and return them with functions that can be sent to the parent."""
    global _model
    file = _file.enter_context(Path(path).open("rb"))  # noqa: SIM115 - arrays are read from it later
    _model = read(file, path, max_bytes)
    arrays = [replace(tensor, load=_not_here) for tensor in _model.arrays]
    return replace(_model, arrays=arrays, network=None if _model.network is None else _not_here, stored=None)


def _ask(reports: bool, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of the model; ``reports``: the parent gets its progress."""
    return _model.ask(None, function, *arguments, progress=report_progress if reports else None)


def _load(index: int) -> ArrayObject:
    array: ArrayObject = _model.arrays[index].load()
    return array


def _forget() -> None:
    """Close the file."""
    global _model
    _model = ModelArrays(())
    _file.close()


def _not_here(*_: Any) -> Any:
    raise NotImplementedError("a model is read in the process that opened its file: use that process")


def _limited(seconds: float | None, memory: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function under limits, without warnings, and return its answer, or the error that it raises."""
    with _limits(seconds, memory), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return function(*arguments)
        except Exception as error:
            return error.with_traceback(None)


@contextmanager
def _limits(seconds: float | None, memory: int) -> Iterator[None]:
    """Let the system end this process after so much processor time, and limit its memory."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        yield
        return
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, most_time = resource.getrlimit(resource.RLIMIT_CPU)
    time_limit = most_time
    if seconds is not None:
        time_limit = _least(math.ceil(usage.ru_utime + usage.ru_stime + seconds), most_time)
    resource.setrlimit(resource.RLIMIT_CPU, (time_limit, most_time))
    status = Path("/proc/self/statm")
    memory_limit_before, most_memory = resource.getrlimit(resource.RLIMIT_AS)
    if status.exists():  # macOS does not enforce this limit
        used = int(status.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (_least(used + memory, most_memory), most_memory))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (memory_limit_before, most_memory))
        resource.setrlimit(resource.RLIMIT_CPU, (most_time, most_time))


def _least(limit: int, most: int) -> int:
    """Return the smaller of two limits; a negative ``most`` is no limit."""
    return limit if most < 0 else min(limit, most)
