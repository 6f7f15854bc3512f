"""Operators that move entries: each entry of the value is an entry of the input, or 0.

To move always means to put an entry at another position; a value that is not fixed is said to change.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm_networks.certified.operators.base import FloatArray, LinearMap, Move, NotRunError, Place, Shape


class SameOrder(Move):
    """The same entries in the same order, in another shape; derived classes say which shape."""

    def map_at(self, before: Shape, *others: Shape) -> LinearMap | None:
        shape = self.moved(np.empty(before, np.bool_)).shape
        return LinearMap.of_moves(lambda x: x[0].reshape(len(x[0]), *shape))


class Identity(SameOrder):
    """The same entries at the same positions, also in another precision."""

    library_roundings = 1  # a cast to another precision is an identity that rounds
    unit: float = 0.0
    """Unit roundoff of the precision that a cast is to; 0: it is no cast."""

    def alike(self, place: Place) -> frozenset[int]:
        return place.axes

    def moved(self, x: FloatArray) -> FloatArray:
        return x


class Reshape(SameOrder):
    """The same entries in the same order, in a stated shape."""

    target: tuple[int, ...]
    """The shape. One size may be -1: the one that is left for the number of entries."""
    copies: bool = False
    """Whether a size 0 in ``target`` means the size that the input has on that axis."""

    def moved(self, x: FloatArray) -> FloatArray:
        shape = [x.shape[axis] if self.copies and n == 0 else n for axis, n in enumerate(self.target)]
        return x.reshape(shape)


class Unsqueeze(SameOrder):
    """The input with new axes of size 1."""

    axes: tuple[int, ...]
    """Numbers of the new axes, as they are in the value."""

    def moved(self, x: FloatArray) -> FloatArray:
        return np.expand_dims(x, self.axes)


class Permute(Move):
    """Axes in another order: axis i of the value is axis ``axes[i]`` of the input."""

    axes: tuple[int, ...]

    def moved(self, x: FloatArray) -> FloatArray:
        return np.transpose(x, self.axes)


class Slice(Move):
    """Python's slices along some axes."""

    parts: tuple[tuple[int, int | None, int | None, int], ...]
    """Axis, start, stop and step; each axis once, the step not 0."""

    def alike(self, place: Place) -> frozenset[int]:
        return place.axes - {axis for axis, *_ in self.parts}

    def moved(self, x: FloatArray) -> FloatArray:
        slices = [slice(None)] * x.ndim
        for axis, start, stop, step in self.parts:
            slices[axis] = slice(start, stop, step)
        return x[tuple(slices)]


class Copies(Move):
    """A move that may repeat entries of the input."""

    rule = "copies"
    lipschitz_constant = None


class Entries(Copies):
    """Entry i of the value is entry ``at[i]`` of the flattened input, or 0 if ``at[i]`` is -1."""

    at: NDArray[Any]
    """Flat positions in the input, or -1; of the value's shape."""
    size: int
    """Number of entries of the input."""

    def moved(self, x: FloatArray) -> FloatArray:
        if x.size != self.size or self._has_invalid_positions:
            raise NotRunError(f"a table of entries below {self.size} for a value of shape {x.shape}")
        # Position -1 is the zero after the last entry.
        entries_and_zero = np.append(x.reshape(-1), np.zeros(1, x.dtype))
        return np.asarray(entries_and_zero[self.at])

    @functools.cached_property
    def _has_invalid_positions(self) -> bool:
        return bool(((self.at < -1) | (self.at >= self.size)).any())


class Gather(Copies):
    """``numpy.take(x, index, axis)``; negative positions count from the end."""

    axis: int
    index: NDArray[Any]

    def alike(self, place: Place) -> frozenset[int]:
        if self.index.ndim != 1:  # axes after this one have other numbers in the value than in the input
            return frozenset()
        return place.axes - {self.axis}

    def moved(self, x: FloatArray) -> FloatArray:
        return np.asarray(np.take(x, self.index, self.axis))


class Tile(Copies):
    """``numpy.tile(x, counts)``: each axis repeated as a whole."""

    counts: tuple[int, ...]

    def moved(self, x: FloatArray) -> FloatArray:
        return np.tile(x, self.counts)
