"""Operators that move entries: each entry of the value is one of the input, or 0."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm_networks.certified.operators.base import FloatArray, LinearMap, Move, NotRunError, Place, Sizes


class SameOrder(Move):
    """The same entries in the same order, in another shape: the base of those that say which."""

    def pulled(
        self,
        weights: FloatArray,
        shares: Sequence[FloatArray],
        place: Place,
    ) -> list[FloatArray] | None:
        before = place.before[0]
        if weights.size != 1 or before is None:
            return super().pulled(weights, shares, place)
        return [weights.reshape((1,) * len(before))]

    def map_at(self, before: Sizes, *others: Sizes) -> LinearMap | None:
        return LinearMap.moving(lambda x: x[0].reshape(len(x[0]), *self.moved(np.empty(before, np.bool_)).shape))


class Identity(SameOrder):
    """The same entries in the same places."""

    def alike(self, place: Place) -> frozenset[int]:
        return frozenset(range(len(place.after or ())))

    def moved(self, x: FloatArray) -> FloatArray:
        return x

    def rounding(
        self,
        values: Sequence[FloatArray],
        result: FloatArray,
        unit: float,
    ) -> FloatArray | float:
        # Casts to another precision are identities.
        return unit * abs(result)


class Cast(Identity):
    """The same entries, in another precision, which is rounded to."""


class Reshape(SameOrder):
    """A new shape."""

    target: tuple[int, ...]
    """At most one of them -1: what is left. With ``copies``, 0 is the size that the input has on that axis."""
    copies: bool = False

    def moved(self, x: FloatArray) -> FloatArray:
        wanted = [x.shape[axis] if self.copies and n == 0 else n for axis, n in enumerate(self.target)]
        return x.reshape(wanted)


class Unsqueeze(SameOrder):
    """With new axes of size 1, numbered in the value."""

    axes: tuple[int, ...]

    def moved(self, x: FloatArray) -> FloatArray:
        return np.expand_dims(x, self.axes)


class Permute(Move):
    """Axes in another order: axis i of the value is axis ``axes[i]`` of the input."""

    axes: tuple[int, ...]

    def pulled(
        self,
        weights: FloatArray,
        shares: Sequence[FloatArray],
        place: Place,
    ) -> list[FloatArray] | None:
        return [np.transpose(weights, np.argsort(self.axes))]

    def moved(self, x: FloatArray) -> FloatArray:
        return np.transpose(x, self.axes)


class Slice(Move):
    """Python's slices along some axes."""

    parts: tuple[tuple[int, int | None, int | None, int], ...]
    """Axis, start, stop and step; each axis once, the step not 0."""

    def alike(self, place: Place) -> frozenset[int]:
        return frozenset(range(len(place.after or ()))) - {axis for axis, *_ in self.parts}

    def moved(self, x: FloatArray) -> FloatArray:
        places = [slice(None)] * x.ndim
        for axis, start, stop, step in self.parts:
            places[axis] = slice(start, stop, step)
        return x[tuple(places)]


class Copies(Move):
    """Entries may be repeated."""

    rule = "copies"
    lipschitz_constant = None


class Entries(Copies):
    """Entry i of the value is entry ``at[i]`` of the flattened input, 0 where that is -1."""

    at: NDArray[Any]
    """In the value's shape."""
    size: int
    """Number of the input's entries."""

    def moved(self, x: FloatArray) -> FloatArray:
        if x.size != self.size or self._outside:
            raise NotRunError(f"a table of entries below {self.size} for a value of shape {x.shape}")
        found = np.append(x.reshape(-1), np.zeros(1, x.dtype))[self.at]
        return np.asarray(found)

    @functools.cached_property
    def _outside(self) -> bool:
        return bool(((self.at < -1) | (self.at >= self.size)).any())


class Gather(Copies):
    """``numpy.take(x, index, axis)``; negative positions count from the end."""

    axis: int
    index: NDArray[Any]

    def alike(self, place: Place) -> frozenset[int]:
        # With another number of axes of the index, those behind it have other numbers.
        return frozenset(range(len(place.after or ()))) - {self.axis} if self.index.ndim == 1 else frozenset()

    def moved(self, x: FloatArray) -> FloatArray:
        return np.asarray(np.take(x, self.index, self.axis))


class Tile(Copies):
    """``numpy.tile``: whole axes repeated."""

    counts: tuple[int, ...]

    def moved(self, x: FloatArray) -> FloatArray:
        return np.tile(x, self.counts)
