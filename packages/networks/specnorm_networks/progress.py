"""What a call that takes longer than a second tells while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from specnorm.errors import MethodError

Progress: TypeAlias = Callable[[int, int, str], None]
"""Called with what is done, of how much, and what it is."""


def check_progress(progress: object, told: str = "done, total, text") -> None:
    """Refuse what cannot be called with what is ``told``: `MethodError`."""
    if not (progress is None or callable(progress)) or isinstance(progress, type):
        raise MethodError(f"progress={progress!r:.80} is no function: give one such as lambda {told}: print({told}).")


@contextmanager
def stage(progress: Progress | None, name: str) -> Iterator[None]:
    """Tell that a stage begins, (0, 1, name), and that it has ended, (1, 1, name)."""
    if progress is not None:
        progress(0, 1, name)
    yield
    if progress is not None:
        progress(1, 1, name)
