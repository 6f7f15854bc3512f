"""Operators that take or put entries at constant places, and sorts."""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.operators import NoBoundError
from specnorm_networks.onnx.binding import Array
from specnorm_networks.onnx.nodes import MAX_KNOWN, Data, Made, Value, on_axis, shape_of


def _sizes(x: Value) -> tuple[int, ...]:
    """All known, of a value whose entries can be counted."""
    known = shape_of(x)
    if math.prod(known) > MAX_KNOWN:
        raise NoBoundError("its input is too large for a table of its entries")
    return known


def _places(x: Value) -> NDArray[np.int64]:
    known = _sizes(x)
    return np.arange(math.prod(known)).reshape(known)


def _taken(x: Data, at: NDArray[np.int64]) -> Made:
    if at.size > MAX_KNOWN:
        raise NoBoundError("its value is too large for a table of its entries")
    return Made(ops.Entries(at, math.prod(_sizes(x))), (x,), at.shape)


def _along(sizes: tuple[int, ...], indices: Array, axis: int, shape: tuple[int, ...]) -> tuple[NDArray[np.int64], ...]:
    """Positions on all axes, where one axis' are given for entries of a shape."""
    if len(indices.shape) != len(sizes) or any(
        m > n for at, (m, n) in enumerate(zip(indices.shape, sizes, strict=True)) if at != axis
    ):
        raise NoBoundError(f"indices of shape {indices.shape} do not fit {sizes}")
    grid = list(np.indices(shape))
    grid[axis] = _within(indices, sizes[axis])
    return tuple(grid)


def _within(indices: Array, size: int) -> NDArray[np.int64]:
    """Positions from the front."""
    found = indices.astype(np.int64)
    if ((found < -size) | (found >= size)).any():
        raise NoBoundError(f"its indices lie outside of an axis of {size}")
    return found % max(size, 1)


def gather_elements(x: Data, indices: Array, /, *, axis: int = 0) -> Made:
    """One entry for each position, along an axis."""
    return _taken(x, _places(x)[_along(_sizes(x), indices, on_axis(axis, shape_of(x)), indices.shape)])


def gather_nd(x: Data, indices: Array, /, *, batch_dims: int = 0) -> Made:
    """Slices by tuples of positions."""
    at = _by_tuples(_places(x), indices, batch_dims)
    return _taken(x, at)


def _by_tuples(places: NDArray[np.int64], indices: Array, batch: int = 0) -> NDArray[np.int64]:
    depth = indices.shape[-1] if indices.ndim else 0
    if not 1 <= batch + depth <= places.ndim or places.shape[:batch] != indices.shape[:batch] or batch < 0:
        raise NoBoundError(f"indices of shape {indices.shape} do not fit {places.shape}")
    if math.prod(indices.shape[:-1]) * math.prod(places.shape[batch + depth :]) > MAX_KNOWN:
        raise NoBoundError("its value is too large for a table of its entries")
    columns = tuple(_within(indices[..., k], places.shape[batch + k]) for k in range(depth))
    if not batch:
        return places[columns]
    found = np.empty((*indices.shape[:-1], *places.shape[batch + depth :]), np.int64)
    for at in itertools.product(*map(range, places.shape[:batch])):
        found[at] = places[at][tuple(column[at] for column in columns)]
    return found


def triangle(x: Data, k: int | None = None, /, *, upper: int = 1) -> Made:
    """The part above a diagonal, or below; zeros elsewhere."""
    keep = np.triu if upper else np.tril
    return _taken(x, keep(_places(x) + 1, k or 0) - 1)


def scatter_nd(x: Value, indices: Array, updates: Value, /, *, reduction: str = "none") -> Made:
    """Slices put at tuples of positions."""
    return _put(x, _by_tuples(_places(x), indices), updates, reduction)


def scatter_elements(x: Value, indices: Array, updates: Value, /, *, axis: int = 0, reduction: str = "none") -> Made:
    """Entries put at positions along an axis."""
    at = _places(x)[_along(_sizes(x), indices, on_axis(axis, shape_of(x)), indices.shape)]
    return _put(x, at, updates, reduction)


def _put(x: Value, at: NDArray[np.int64], updates: Value, reduction: str) -> Made:
    if reduction != "none":
        raise NoBoundError(f"reduction={reduction[:20]!r} is not known here")
    if updates.shape != at.shape:
        raise NoBoundError(f"updates of shape {updates.shape} do not fit {at.shape}")
    if len(np.unique(at)) < at.size:
        raise NoBoundError("it writes to an entry twice")
    return Made(ops.Merge(at), (x, updates), x.shape)


def top(x: Data, k: int, /, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> Made:
    """The first entries in order, or all; where they were is no value with a slope."""
    if not sorted:
        raise NoBoundError("in which order its entries come is open: sorted=0")
    shape = shape_of(x)
    axis = on_axis(axis, shape)
    size = shape[axis]
    if not 0 < k <= size:
        raise NoBoundError(f"{k} of {size} entries")
    made = ops.Sort(axis, bool(largest), None if k == size else k)
    return Made(made, (x,), (*shape[:axis], k, *shape[axis + 1 :]))
