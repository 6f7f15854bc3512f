"""Python processes of our own that call functions: one, or several as an executor."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, BinaryIO

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""One each, unless the environment says otherwise; how many there are changes no answer."""


class WorkerLost(RuntimeError):
    """A process of our own died; says how."""


class Worker:
    """A Python process that calls functions, one at a time.

    Unlike a `multiprocessing` child it does not import the caller's main module, so scripts need no guard; its
    environment is set before it loads NumPy; and when it dies, it is known which call it died of.
    """

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START],  # -P: no module of the current folder, where a model may lie
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict.fromkeys(_THREADS, "1") | os.environ,
        )  # fmt: skip
        try:
            self._send(sys.path)
            self._answer()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError | EOFError):
                raise RuntimeError(f"no Python process can be started with {sys.executable}") from error
            raise

    def call(self, function: Callable[..., Any], /, *arguments: Any, told: Callable[..., object] | None = None) -> Any:
        """Call a function there; ``told`` is called with what it has to `tell` meanwhile."""
        try:
            self._send((function, arguments))
            while (message := self._answer())[0]:
                if told is not None:
                    told(*message[1])
            return message[1]
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

    @property
    def is_alive(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    def close(self) -> None:
        """End the process and let go of it."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            with suppress(OSError):  # what was not sent yet
                if stream is not None:
                    stream.close()

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
from specnorm_audit.processes import serve
serve()
"""


def serve() -> None:
    """Answer the calls of a `Worker`, in its process; whatever is printed goes to stderr.

    Another thread reads the calls: where they end, whoever called is dead or has let go, whatever is under way here.
    """
    global _answers  # of this process, which does nothing else
    _answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    calls: queue.SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...]]] = queue.SimpleQueue()
    threading.Thread(target=_ending, args=(_receive, calls), daemon=True).start()
    _ending(_answering, calls)


_answers: BinaryIO | None = None
"""Where the messages of this process go: whether more will come, and what is said."""


def tell(*words: Any) -> None:
    """In a `Worker`'s process: say something to the caller of what is under way."""
    _answer((True, words))


def _answer(message: tuple[bool, Any]) -> None:
    assert _answers is not None, "called in a process of its own"
    pickle.dump(message, _answers, protocol=pickle.HIGHEST_PROTOCOL)
    _answers.flush()


def _answering(calls: queue.SimpleQueue[Any]) -> None:
    answer: Any = None  # the first one says that this process is ready
    while True:
        _answer((False, answer))
        function, arguments = calls.get()
        answer = function(*arguments)
        del function, arguments  # two kernels must not meet


def _receive(calls: queue.SimpleQueue[Any]) -> None:
    given = os.fdopen(os.dup(0), "rb")
    while True:
        calls.put(pickle.load(given))


def _ending(function: Callable[..., None], *arguments: Any) -> None:
    """Call a function that returns never; what it raises is the end of the process and of its other thread."""
    try:
        function(*arguments)
    except (EOFError, BrokenPipeError):
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    os._exit(1)


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}, often for lack of memory" if name == "SIGKILL" else name


class Workers(ThreadPoolExecutor):
    """Processes of our own as an executor, a thread each; one that dies fails its own call alone and is replaced."""

    def __init__(self, count: int, worth: int = 0) -> None:
        super().__init__(count)
        self.worth = worth
        self.workers: list[Worker] = []
        self._mine = threading.local()
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call a function in one of the processes; arguments by position only."""
        return super().submit(self._call, fn, *args, **kwargs)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        worker: Worker | None = getattr(self._mine, "worker", None)
        if worker is None or not worker.is_alive:
            worker = self._mine.worker = Worker()
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
        for worker in self.workers if wait else ():
            worker.close()

    def __exit__(self, *error: object) -> None:
        """After an error or an interruption nobody waits for the rest."""
        self.shutdown(cancel_futures=error[0] is not None)


def cpus() -> int:
    """Processors that this process may use."""
    known = hasattr(os, "sched_getaffinity")  # not on macOS and Windows
    return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
