"""Threads: BLAS is restricted to one thread for small matrices, and a pool of threads works on many large ones.

For small matrices several BLAS threads cost more than they gain, in particular on a busy machine. The number of BLAS
threads belongs to the whole process: `one_thread` sets it, and restores it afterwards. If another thread of the program
is inside of `one_thread` already, the number is left alone. Products of other threads meanwhile take one BLAS thread,
with the same results.
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

from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_one_thread_lock = threading.Lock()
"""Locked while a `one_thread` context has set the number of BLAS threads."""
_this_thread = threading.local()
"""Has the attribute ``is_of_pool`` in the threads of the pool."""


@functools.cache
def _blas() -> tuple[Any, int]:
    """The controller of the BLAS libraries that are loaded at the first call, and their number of threads."""
    controller = ThreadpoolController().select(user_api="blas")
    return controller, max((library["num_threads"] for library in controller.info()), default=1)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Context manager in which BLAS computes with one thread."""
    if not _one_thread_lock.acquire(blocking=False):
        yield
        return
    controller, _ = _blas()
    try:
        # To set the number takes as long as ten small products, to read it as long as one.
        if all(library.num_threads == 1 for library in controller.lib_controllers):
            yield
        else:
            with controller.limit(limits=1):
                yield
    finally:
        _one_thread_lock.release()


def workers() -> int:
    """Number of threads in the pool: that of BLAS, which environment variables set, but at most one for a processor."""
    _, blas_threads = _blas()
    return int(min(blas_threads, os.cpu_count() or 1))


@functools.cache
def _pool(_process: int, count: int) -> ThreadPoolExecutor:
    """The pool of a process, given by its id, since a forked process does not inherit the threads of its parent."""
    return ThreadPoolExecutor(count, thread_name_prefix="specnorm", initializer=_mark_thread)


def _mark_thread() -> None:
    _this_thread.is_of_pool = True


def in_order(function: Callable[[Item], Answer], items: Iterable[Item]) -> Iterator[Answer]:
    """As ``map(function, items)``, over the pool, with one BLAS thread for each item.

    A few items are computed ahead of the consumer. NumPy's products and factorizations release Python's global lock,
    and an item's answer does not depend on the other items. A thread of the pool computes its items itself: if all
    threads waited for the pool, none would be left to work.
    """
    count = workers()
    if count == 1 or getattr(_this_thread, "is_of_pool", False):
        yield from map(function, items)
        return
    futures: deque[Future[Answer]] = deque()
    try:
        with one_thread():
            for item in items:
                # In a copy of the context, which contains NumPy's error state.
                context = contextvars.copy_context()
                futures.append(_pool(os.getpid(), count).submit(context.run, function, item))
                if len(futures) > count:
                    yield futures.popleft().result()
            while futures:
                yield futures.popleft().result()
    finally:
        for future in futures:
            future.cancel()
