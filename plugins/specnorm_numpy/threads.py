"""Threads: one of BLAS where matrices are small, and a pool of our own over the matrices of one large layer.

There several of BLAS cost more than they gain, and much more on a busy machine.
BLAS has one number of threads for the whole process. A call sets it, and sets it back when it returns; calls that other
threads make meanwhile leave it as it is. Products that they compute take one thread too, and are as right.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Found = TypeVar("Found")

_SET = threading.Lock()
"""Held by the call that has set the number."""


@functools.cache
def _blas() -> tuple[Any, int]:
    """The BLAS libraries that are loaded at the first call, of which NumPy's is one, and how many threads they take."""
    from threadpoolctl import ThreadpoolController

    controller = ThreadpoolController().select(user_api="blas")
    return controller, max((library["num_threads"] for library in controller.info()), default=1)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Context in which BLAS computes with one thread."""
    if not _SET.acquire(blocking=False):
        yield
        return
    try:
        with _blas()[0].limit(limits=1):
            yield
    finally:
        _SET.release()


def workers() -> int:
    """Threads of the pool: as many as BLAS was given, by its environment variables or by the number of processors."""
    return int(min(_blas()[1], os.cpu_count() or 1))


@functools.cache
def _pool(_process: int, count: int) -> ThreadPoolExecutor:
    """Of a process, by its id: a fork has no threads of its parent's."""
    return ThreadPoolExecutor(count, thread_name_prefix="specnorm")


def in_order(function: Callable[[Item], Found], items: Iterable[Item]) -> Iterator[Found]:
    """``map(function, items)`` over the pool, a few items ahead of what is asked for; each on one BLAS thread.

    An item's answer does not depend on how many there are at once: NumPy's products and factorisations let go of
    Python's lock, and share nothing.
    """
    count = workers()
    if count == 1:
        yield from map(function, items)
        return
    waiting: deque[Future[Found]] = deque()
    try:
        with one_thread():
            for item in items:
                # With what NumPy is told to do about overflow: that is part of a context.
                waiting.append(_pool(os.getpid(), count).submit(contextvars.copy_context().run, function, item))
                if len(waiting) > count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
