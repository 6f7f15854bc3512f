"""Where layers are measured: here, by an executor, or in processes of our own. None is lost, none comes twice."""

from __future__ import annotations

import math
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any

from specnorm.auditing.layers import Layer
from specnorm.auditing.measuring import Settings, describe, fill
from specnorm.auditing.report import Row
from specnorm.errors import SpecnormError
from specnorm.types import Array

IN_FLIGHT = 512 * 2**20
"""Bytes of kernels that an executor is given before its answers are waited for; one kernel may be larger."""
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def measured(found: Iterable[Layer], settings: Settings, executor: Executor | None) -> Generator[Row, None, None]:
    """Measure layers and give their rows in order; `IN_FLIGHT` bytes of kernels are in memory at once.

    Parameters
    ----------
    found : iterable of Layer
    settings : Settings
    executor : Executor or None
        None: here, one layer after the other.

    Yields
    ------
    Row
        ``note`` says how a layer was measured that the executor lost.
    """
    if executor is None:
        for layer in found:
            yield fill(*_loaded(layer, settings), settings)
        return
    run = _Run(executor, settings)
    waiting: deque[_Given] = deque()
    busy: list[_Given] = []
    size = 0
    try:
        for layer in found:
            while busy and size + _bytes(layer) > IN_FLIGHT:
                wait([given.future for given in busy if given.future is not None], return_when=FIRST_COMPLETED)
                busy = [given for given in busy if not given.is_done]
                size = sum(_bytes(given.layer) for given in busy)
            while waiting and waiting[0].is_done:
                yield run.row(waiting.popleft())
            waiting.append(run.give(layer))
            busy.append(waiting[-1])
            size += _bytes(layer)
        while waiting:
            yield run.row(waiting.popleft())
    finally:
        for given in waiting:
            if given.future is not None:
                given.future.cancel()
        run.close()


@dataclass(frozen=True)
class _Given:
    """A layer that was given to the executor, or that it did not take."""

    layer: Layer
    row: Row
    future: Future[Row] | None = None
    refusal: BaseException | None = None

    @property
    def is_done(self) -> bool:
        return self.future is None or self.future.done()


def _bytes(layer: Layer) -> int:
    """Memory of a layer's kernel; half precision counts as the float32 that it becomes."""
    return math.prod(layer.tensor.shape) * (8 if "64" in layer.tensor.dtype else 4)


class _Run:
    """One audit with an executor, and what takes over where that fails."""

    def __init__(self, executor: Executor, settings: Settings) -> None:
        self.executor = executor
        self.settings = settings
        self.own: Worker | None = None

    def give(self, layer: Layer) -> _Given:
        """Load a layer and give it to the executor."""
        row, kernel = _loaded(layer, self.settings)
        if row.reason is not None:
            return _Given(layer, row)
        try:
            return _Given(layer, row, self.executor.submit(_fill, row, kernel, self.settings, uuid.uuid4().hex))
        except Exception as error:  # broken, shut down, or the kernel cannot be sent: every executor has its own errors
            return _Given(layer, row, refusal=error)

    def row(self, given: _Given) -> Row:
        """Wait for a layer's row; give the layer to somebody else as often as it is lost."""
        lost: BaseException | None = None
        for resubmit in (True, False):
            if given.future is None:
                break
            error = _error(given.future)
            if error is None:
                row = given.future.result()
                return row if lost is None else _noted(row, "measured at the second attempt", lost)
            lost = error
            if resubmit:
                given = self.give(given.layer)
        if given.row.reason is not None:
            return given.row
        return self._without(given.layer, lost or given.refusal)

    def _without(self, layer: Layer, lost: BaseException | None) -> Row:
        """Measure a layer without the executor: in a process of its own, since it may be what killed the others."""
        row, kernel = _loaded(layer, self.settings)
        if row.reason is not None:
            return row
        try:
            self.own = self.own or Worker()
            return _noted(self.own.call(fill, row, kernel, self.settings), "measured in a process of its own", lost)
        except WorkerLost as error:
            self.own = None
            return replace(row, reason=f"the process that measures it dies: {error}. Before, {_said(lost)}.")
        except Exception:  # no process can be started here, or the kernel cannot be sent to one
            self.close()
            return _noted(fill(row, kernel, self.settings), "measured in this process", lost)

    def close(self) -> None:
        """End the process of its own, if there is one."""
        if self.own is not None:
            self.own.close()
            self.own = None


def _fill(row: Row, kernel: Array, settings: Settings, task: str) -> Row:
    """Measure a layer in a worker. Dask takes calls with equal arguments for one: ``task`` is another each time."""
    del task
    return fill(row, kernel, settings)


def _error(future: Future[Row]) -> BaseException | None:
    """What became of a future instead of a row; measuring itself raises nothing."""
    try:
        error = future.exception()
    except Exception as cancelled:
        return cancelled
    if isinstance(error, KeyboardInterrupt):
        raise error
    return error


def _noted(row: Row, how: str, lost: BaseException | None) -> Row:
    return replace(row, note=f"{how}; {_said(lost)}")


def _said(lost: BaseException | None) -> str:
    first = str(lost).strip().partition("\n")[0].rstrip(".")
    return f"the executor failed with {type(lost).__name__}{first and ': '}{first}"


def _loaded(layer: Layer, settings: Settings) -> tuple[Row, Array]:
    row = describe(layer, settings)
    if row.reason is not None:
        return row, None
    try:
        return row, layer.tensor.load()
    except SpecnormError as error:
        return replace(row, reason=str(error)), None
    except Exception as error:  # a damaged array must not lose the others
        return replace(row, reason=f"cannot be read: {type(error).__name__}: {error}"), None


# -- processes of our own ------------------------------------------------------------------------------------------
class WorkerLost(RuntimeError):
    """A process of our own died; says how."""


class Worker:
    """A Python process that calls functions, one at a time.

    Unlike a `multiprocessing` child it does not import the caller's main module, so scripts need no guard; its
    environment is set before it loads NumPy; and when it dies, it is known which call it died of.

    Parameters
    ----------
    environment : mapping of str to str, optional
        Variables that it gets where this process has none of that name.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START],  # -P: no module of the current folder, where a model may lie
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**(environment or {}), **os.environ},
        )  # fmt: skip
        try:
            self._send(sys.path)
            self._answer()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError | EOFError):
                raise RuntimeError(f"no Python process can be started with {sys.executable}") from error
            raise

    def call(self, function: Callable[..., Any], /, *arguments: Any) -> Any:
        """Call a function there.

        Raises
        ------
        WorkerLost
            If the process dies; it cannot be used any more then.
        Exception
            If the arguments cannot be pickled.
        """
        try:
            self._send((function, arguments))
            return self._answer()
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            try:
                code = self.process.wait(_DYING)
            except subprocess.TimeoutExpired:  # it lives: the error is the arguments' own
                self.close()
                raise error from None
            self.close()
            raise WorkerLost(_cause(code)) from error
        except BaseException:
            self.close()  # half a message may have gone out
            raise

    def kill(self) -> None:
        """End the process, whatever it is doing; a call under way raises `WorkerLost`."""
        self.process.kill()

    def close(self) -> None:
        """End the process and let go of it."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            try:
                if stream is not None:
                    stream.close()
            except OSError:  # what was not sent yet
                pass

    def _send(self, message: Any) -> None:
        assert self.process.stdin is not None
        pickle.dump(message, self.process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
        self.process.stdin.flush()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        return pickle.load(self.process.stdout)


_DYING = 10.0
"""Seconds from the end of a process's answers to the end of the process."""

_START = """
import pickle, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.path[:] = pickle.load(sys.stdin.buffer)
from specnorm.auditing.executing import serve
serve()
"""


def serve() -> None:
    """Answer the calls of a `Worker`, in its process; whatever is printed goes to stderr."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    answer: Any = None  # the first one says that this process is ready
    while True:
        pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()
        try:
            function, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        answer = function(*arguments)
        del function, arguments  # two kernels must not meet


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"{name}, often for lack of memory" if name == "SIGKILL" else name


class Workers(Executor):
    """Processes of our own as an executor; one that dies fails its own call alone and is replaced.

    Parameters
    ----------
    count : int
        Processes. The processor's threads are shared out among them, unless the environment says otherwise.
    """

    def __init__(self, count: int) -> None:
        threads = str(max(1, cpus() // count))
        self._environment = dict.fromkeys(_THREAD_VARIABLES, threads)
        self._threads = ThreadPoolExecutor(count)
        self._idle: queue.SimpleQueue[Worker | None] = queue.SimpleQueue()
        for _ in range(count):
            self._idle.put(None)
        self._alive: set[Worker] = set()
        self._lock = threading.Lock()
        self._closed = False

    @property
    def processes(self) -> list[int]:
        """Process ids of those that have been started."""
        with self._lock:
            return [worker.process.pid for worker in self._alive]

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call a function in one of the processes; arguments by position only."""
        if kwargs:
            raise TypeError("arguments by position only")
        return self._threads.submit(self._call, fn, args)

    def _call(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        worker = self._idle.get()
        try:
            if worker is None:
                worker = self._start()
            return worker.call(function, *arguments)
        except BaseException:
            with self._lock:
                self._alive -= {worker}
            worker = None
            raise
        finally:
            self._idle.put(worker)

    def _start(self) -> Worker:
        worker = Worker(self._environment)
        with self._lock:
            if not self._closed:
                self._alive.add(worker)
                return worker
        worker.close()
        raise WorkerLost("shut down")

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes: after the calls that are under way, or (``cancel_futures``) at once."""
        if not cancel_futures:
            self._threads.shutdown(wait=wait)
            if not wait:
                return
        with self._lock:
            self._closed, alive = True, list(self._alive)
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in alive:
            worker.kill()
        if wait:
            self._threads.shutdown()
            for worker in alive:
                worker.close()

    def __exit__(self, *error: object) -> None:
        """After an error or an interruption nobody waits for the rest."""
        self.shutdown(cancel_futures=error[0] is not None)


def cpus() -> int:
    """Processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1
