"""Python processes that call functions for this process: a single `Worker`, or `Workers` as an executor."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, BinaryIO, TypeAlias

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""Environment variables for numbers of threads, which are 1 in a worker if they are not set. Answers do not depend on
the number of threads."""


class WorkerLost(RuntimeError):
    """A worker died; the message says how."""


class Worker:
    """A Python process that calls functions, one at a time.

    Unlike a child of `multiprocessing` it does not import the caller's main module, so scripts need no guard. Its
    environment is set before it loads NumPy. If it dies, the call that it was executing is known.
    """

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START],  # -P: the current folder is not searched for modules
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict.fromkeys(_THREADS, "1") | os.environ,
        )  # fmt: skip
        try:
            self._send(sys.path)
            self._receive()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError | EOFError):
                raise RuntimeError(f"no Python process can be started with {sys.executable}") from error
            raise

    def call(
        self, function: Callable[..., Any], /, *arguments: Any, on_progress: Callable[..., object] | None = None
    ) -> Any:
        """Call a function in the worker, and return its answer.

        ``on_progress`` is called with the arguments of each `report_progress` of the function.
        """
        try:
            self._send((function, arguments))
            while True:
                is_progress, content = self._receive()
                if not is_progress:
                    return content
                if on_progress is not None:
                    on_progress(*content)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            try:
                code = self.process.wait(_DYING)
            except subprocess.TimeoutExpired:  # the worker lives: the arguments or the answer cannot be pickled
                self.close()
                raise error from None
            self.close()
            raise WorkerLost(_cause(code)) from error
        except BaseException:
            self.close()  # a part of a message may have been sent
            raise

    @property
    def is_alive(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    def close(self) -> None:
        """End the process, and close its streams."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            with suppress(OSError):  # closing sends the rest of a message, which nobody reads
                if stream is not None:
                    stream.close()

    def _send(self, message: Any) -> None:
        _dump(message, self.process.stdin)

    def _receive(self) -> Any:
        assert self.process.stdout is not None
        return pickle.load(self.process.stdout)


_DYING = 10.0
"""Largest number of seconds from the end of a worker's answers to its exit code."""

_START = """
import pickle, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.path[:] = pickle.load(sys.stdin.buffer)
from specnorm_audit.processes import serve
serve()
"""


def serve() -> None:
    """Execute the calls of a `Worker`, in its process; printed text goes to stderr.

    Another thread reads the calls. If their stream ends, the caller is dead or has closed the worker, and that thread
    ends this process, even in the middle of a call.
    """
    global _answers
    _answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    calls: queue.SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...]]] = queue.SimpleQueue()
    threading.Thread(target=_run_to_the_end, args=(_read_calls, calls), daemon=True).start()
    _run_to_the_end(_execute_calls, calls)


_answers: BinaryIO | None = None
"""Stream of this process's messages: pairs of whether it is progress, and the content."""


def report_progress(*progress: Any) -> None:
    """In a worker's process: report progress of the present call to the caller."""
    _send_answer((True, progress))


def _send_answer(message: tuple[bool, Any]) -> None:
    _dump(message, _answers)


def _dump(message: Any, stream: Any) -> None:
    assert stream is not None, "it is called outside of a worker's process"
    pickle.dump(message, stream, protocol=pickle.HIGHEST_PROTOCOL)
    stream.flush()


def _execute_calls(calls: queue.SimpleQueue[Any]) -> None:
    """Execute calls one after the other, without end; the first answer says that this process is ready."""
    answer: Any = None
    while True:
        _send_answer((False, answer))
        function, arguments = calls.get()
        answer = function(*arguments)
        del function, arguments  # so that only one kernel is in memory


def _read_calls(calls: queue.SimpleQueue[Any]) -> None:
    """Read calls from the standard input, without end."""
    stream = os.fdopen(os.dup(0), "rb")
    while True:
        calls.put(pickle.load(stream))


def _run_to_the_end(function: Callable[..., None], *arguments: Any) -> None:
    """Call a function that does not return; if it raises, end the process with both of its threads."""
    try:
        function(*arguments)
    except (EOFError, BrokenPipeError):
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    os._exit(1)


def _cause(code: int) -> str:
    """Return in words why a process ended, by its exit code; a negative code is a signal."""
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}, often for lack of memory" if name == "SIGKILL" else name


class Workers(ThreadPoolExecutor):
    """Executor of workers, each driven by a thread. If a worker dies, only its call fails, and it is replaced.

    ``least_bytes`` is the smallest number of bytes of kernels for which `measuring.measured` uses the executor.
    """

    def __init__(self, count: int, least_bytes: int = 0) -> None:
        super().__init__(count)
        self.least_bytes = least_bytes
        self.workers: list[Worker] = []
        self._of_thread = threading.local()
        """``worker``: the worker of the present thread."""
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call a function in one of the processes; arguments by position only."""
        return super().submit(self._call, fn, *args, **kwargs)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in the present thread's worker, which is started if there is none."""
        worker: Worker | None = getattr(self._of_thread, "worker", None)
        if worker is None or not worker.is_alive:
            worker = Worker()
            self._of_thread.worker = worker
            with self._lock:
                self.workers.append(worker)
                if self._closed:
                    worker.process.kill()
        return worker.call(function, *arguments)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes: after the calls that are under way, or (``cancel_futures``) at once."""
        if cancel_futures:
            with self._lock:
                self._closed = True
                for worker in self.workers:
                    worker.process.kill()
        super().shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            for worker in self.workers:
                worker.close()

    def __exit__(self, *error: object) -> None:
        """Shut down; after an error or an interruption, without waiting for calls."""
        self.shutdown(cancel_futures=error[0] is not None)


Sent: TypeAlias = tuple[Any, "Future[Any]"]
"""What was sent to an executor, and the future of its answer."""


def in_order(
    jobs: Iterable[Any], submit: Callable[[Any], Sent], size: Callable[[Any], int], most: int
) -> Generator[Sent, None, None]:
    """Submit jobs to an executor, and yield them in order, finished or not.

    The ``size`` of all jobs under way is at most ``most``; a single job may be larger.
    """
    waiting: deque[tuple[Sent, int]] = deque()
    try:
        for job in jobs:
            while waiting:
                under_way = sum(its_size for (_, future), its_size in waiting if not future.done())
                (_, first), _ = waiting[0]
                if not first.done() and under_way + size(job) <= most:
                    break
                yield waiting.popleft()[0]
            waiting.append((submit(job), size(job)))
        while waiting:
            yield waiting.popleft()[0]
    finally:
        for (_, future), _ in waiting:
            future.cancel()


def cpus() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # macOS and Windows lack it
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
