"""Operators that move entries: each entry of the value is one of the input, or 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.typing import NDArray

from specnorm.networks.operators.base import Move


@dataclass(frozen=True, eq=False)
class Identity(Move):
    """The same entries in the same places."""


@dataclass(frozen=True, eq=False)
class SameOrder(Move):
    """The same entries in the same order, in another shape: the base of those that say which."""


@dataclass(frozen=True, eq=False)
class Reshape(SameOrder):
    """A new shape.

    Parameters
    ----------
    target : tuple of int
        At most one of them -1: what is left. With ``copies``, 0 is the size that the input has on that axis.
    """

    target: tuple[int, ...]
    copies: bool = False


@dataclass(frozen=True, eq=False)
class Flatten(SameOrder):
    """Axes [first, last] as one."""

    first: int
    last: int


@dataclass(frozen=True, eq=False)
class TwoAxes(SameOrder):
    """ONNX's Flatten: axes before ``axis`` as one, the others as one."""

    axis: int


@dataclass(frozen=True, eq=False)
class Squeeze(SameOrder):
    """Without some axes of size 1; None: without all of them."""

    axes: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Unsqueeze(SameOrder):
    """With new axes of size 1, numbered in the value."""

    axes: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Permute(Move):
    """Axes in another order: axis i of the value is axis ``axes[i]`` of the input."""

    axes: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Slice(Move):
    """Python's slices along some axes.

    Parameters
    ----------
    parts : tuple of (axis, start, stop, step)
        Each axis once; start and stop as in ``slice(start, stop, step)``, step not 0.
    """

    parts: tuple[tuple[int, int | None, int | None, int], ...]


@dataclass(frozen=True, eq=False)
class Entries(Move):
    """Entry i of the value is entry ``at[i]`` of the flattened input, 0 where that is -1.

    Parameters
    ----------
    at : array of int, in the value's shape
    size : int
        Number of the input's entries.
    """

    rule: ClassVar[str] = "copies"
    at: NDArray[Any]
    size: int


@dataclass(frozen=True, eq=False)
class Gather(Move):
    """``numpy.take(x, index, axis)``; negative positions count from the end."""

    rule: ClassVar[str] = "copies"
    axis: int
    index: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Tile(Move):
    """``numpy.tile``: whole axes repeated."""

    rule: ClassVar[str] = "copies"
    counts: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Conjugate(Move):
    """The complex conjugate: it moves no entry, and keeps the norm of every difference."""
