"""Claims on their way past an array library, whose functions return arrays alone, to who asked for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from specnorm.certified.bound import Lower, Upper

Told = tuple["Lower", "Upper", int]
"""Bounds of one layer, scaled by two to the power of minus the last number."""

_ears: ContextVar[list[Told] | None] = ContextVar("ears", default=None)


@contextmanager
def listening() -> Iterator[list[Told]]:
    """What is told inside, in this thread, in order."""
    heard: list[Told] = []
    before = _ears.set(heard)
    try:
        yield heard
    finally:
        _ears.reset(before)


def tell(claims: Sequence[tuple[Lower, Upper]], exponents: Sequence[float]) -> None:
    """Tell the bounds of some layers to who listens."""
    heard = _ears.get()
    if heard is not None:
        heard.extend((*pair, int(exponent)) for pair, exponent in zip(claims, exponents, strict=True))
