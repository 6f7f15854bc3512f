"""Operators that move entries: each entry of the value is one of the input, or 0."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from specnorm.networks.operators.base import FloatArray, LinearMap, Move, NotRunError, Place
from specnorm.proof import host


@dataclass(frozen=True, eq=False)
class SameOrder(Move):
    """The same entries in the same order, in another shape: the base of those that say which."""

    def linear_map(self, place: Place) -> LinearMap | None:
        """Nothing but another shape."""
        linear, befores = super().linear_map(place), place.sizes()
        if linear is None or befores is None:
            return None
        shape = self.moved(np.zeros(befores[0], np.bool_)).shape

        def apply(x: Sequence[FloatArray]) -> FloatArray:
            return x[0].reshape(len(x[0]), *shape)

        return LinearMap(apply, apply, 0, linear.rows)


@dataclass(frozen=True, eq=False)
class Identity(SameOrder):
    """The same entries in the same places."""

    def moved(self, x: FloatArray) -> FloatArray:
        """The value itself."""
        return x

    def rounding(self, values: Sequence[FloatArray], result: FloatArray, unit: float) -> FloatArray | float:
        """One rounding: casts to another precision are identities."""
        del values
        return unit * abs(result)


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

    def moved(self, x: FloatArray) -> FloatArray:
        """By `numpy.reshape`."""
        wanted = [x.shape[axis] if self.copies and n == 0 else n for axis, n in enumerate(self.target)]
        return x.reshape(wanted)


@dataclass(frozen=True, eq=False)
class Flatten(SameOrder):
    """Axes [first, last] as one."""

    first: int
    last: int

    def moved(self, x: FloatArray) -> FloatArray:
        """By `numpy.reshape`."""
        if not 0 <= self.first <= self.last < max(x.ndim, 1):
            raise NotRunError(f"axes {self.first} to {self.last} of a value of shape {x.shape}")
        inside = x.shape[self.first : self.last + 1]
        return x.reshape(*x.shape[: self.first], math.prod(inside), *x.shape[self.last + 1 :])


@dataclass(frozen=True, eq=False)
class TwoAxes(SameOrder):
    """ONNX's Flatten: axes before ``axis`` as one, the others as one."""

    axis: int

    def moved(self, x: FloatArray) -> FloatArray:
        """By `numpy.reshape`."""
        if not 0 <= self.axis <= x.ndim:
            raise NotRunError(f"axis {self.axis} of a value of shape {x.shape}")
        return x.reshape(math.prod(x.shape[: self.axis]), math.prod(x.shape[self.axis :]))


@dataclass(frozen=True, eq=False)
class Squeeze(SameOrder):
    """Without some axes of size 1; None: without all of them."""

    axes: tuple[int, ...] | None = None

    def moved(self, x: FloatArray) -> FloatArray:
        """By `numpy.squeeze`."""
        return np.squeeze(x, self.axes)


@dataclass(frozen=True, eq=False)
class Unsqueeze(SameOrder):
    """With new axes of size 1, numbered in the value."""

    axes: tuple[int, ...]

    def moved(self, x: FloatArray) -> FloatArray:
        """By `numpy.expand_dims`."""
        return np.expand_dims(x, self.axes)


@dataclass(frozen=True, eq=False)
class Permute(Move):
    """Axes in another order: axis i of the value is axis ``axes[i]`` of the input."""

    axes: tuple[int, ...]

    def moved(self, x: FloatArray) -> FloatArray:
        """By `numpy.transpose`."""
        return np.transpose(x, self.axes)


@dataclass(frozen=True, eq=False)
class Slice(Move):
    """Python's slices along some axes.

    Parameters
    ----------
    parts : tuple of (axis, start, stop, step)
        Each axis once; start and stop as in ``slice(start, stop, step)``, step not 0.
    """

    parts: tuple[tuple[int, int | None, int | None, int], ...]

    def moved(self, x: FloatArray) -> FloatArray:
        """By NumPy's slices."""
        places = [slice(None)] * x.ndim
        for axis, start, stop, step in self.parts:
            places[axis] = slice(start, stop, step)
        return x[tuple(places)]


@dataclass(frozen=True, eq=False)
class _Copies(Move):
    """Columns are orthogonal, each with as many ones as its entry has copies: at most the root of the largest number.

    A base of those that may repeat entries.
    """

    rule: ClassVar[str] = "copies"

    def most(self, place: Place) -> int:
        """Largest number of copies of one entry."""
        raise NotImplementedError

    def lipschitz(self, place: Place) -> float:
        """The root of the largest number of copies."""
        return host.root_up(self.most(place))


@dataclass(frozen=True, eq=False)
class Entries(_Copies):
    """Entry i of the value is entry ``at[i]`` of the flattened input, 0 where that is -1.

    Parameters
    ----------
    at : array of int, in the value's shape
    size : int
        Number of the input's entries.
    """

    at: NDArray[Any]
    size: int

    def moved(self, x: FloatArray) -> FloatArray:
        """By the table."""
        if x.size != self.size or self._outside:
            raise NotRunError(f"a table of entries below {self.size} for a value of shape {x.shape}")
        found = np.append(x.reshape(-1), np.zeros(1, x.dtype))[self.at]
        return np.asarray(found)

    def most(self, place: Place) -> int:
        """Counted in the table."""
        del place
        return self._most

    @functools.cached_property
    def _most(self) -> int:
        return int(np.unique(self.at[self.at >= 0], return_counts=True)[1].max(initial=0))

    @functools.cached_property
    def _outside(self) -> bool:
        return bool(((self.at < -1) | (self.at >= self.size)).any())


@dataclass(frozen=True, eq=False)
class Gather(_Copies):
    """``numpy.take(x, index, axis)``; negative positions count from the end."""

    axis: int
    index: NDArray[Any]

    def moved(self, x: FloatArray) -> FloatArray:
        """By `numpy.take`."""
        return np.asarray(np.take(x, self.index, self.axis))

    def most(self, place: Place) -> int:
        """Counted; where the axis' size is not known, a position from the start may be one from the end, too."""
        (before,), index = place.before, np.ravel(self.index)
        size = before[self.axis] if before is not None else None
        if isinstance(size, int):
            index = np.where(index < 0, index + size, index)
        signs = (index[index >= 0], index[index < 0])
        return sum(int(np.unique(part, return_counts=True)[1].max(initial=0)) for part in signs)


@dataclass(frozen=True, eq=False)
class Tile(_Copies):
    """``numpy.tile``: whole axes repeated."""

    counts: tuple[int, ...]

    def moved(self, x: FloatArray) -> FloatArray:
        """By `numpy.tile`."""
        return np.tile(x, self.counts)

    def most(self, place: Place) -> int:
        """The product of the counts."""
        del place
        return math.prod(self.counts)


@dataclass(frozen=True, eq=False)
class Conjugate(Move):
    """The complex conjugate: it moves no entry, and keeps the norm of every difference."""

    def moved(self, x: FloatArray) -> FloatArray:
        """By `numpy.conj`."""
        return np.conj(x) if x.dtype.kind == "c" else x


@dataclass(frozen=True, eq=False)
class Selection(Move):
    """Entries of the input, each once at most, and constants: which ones depends on sizes that are not known."""
