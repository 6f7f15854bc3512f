"""One BLAS thread where matrices are small: there several cost more than they gain, and much more on a busy machine.

BLAS has one number of threads for the whole process. A call sets it, and sets it back when it returns; calls that other
threads make meanwhile leave it as it is. Products that they compute take one thread too, and are as right.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

_SET = threading.Lock()
"""Held by the call that has set the number."""


@functools.cache
def _controller() -> Any:
    """Of the BLAS libraries that are loaded at the first call; NumPy's is."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Context in which BLAS computes with one thread."""
    if not _SET.acquire(blocking=False):
        yield
        return
    try:
        with _controller().limit(limits=1):
            yield
    finally:
        _SET.release()
