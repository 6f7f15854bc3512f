"""Operators that move entries, or take some of them; of data and of constants."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.operators import NoBoundError
from specnorm_networks.certified.operators.base import Move
from specnorm_networks.certified.operators.broadcasting import broadcast_shapes
from specnorm_networks.onnx.binding import Array, Wholes, refuse
from specnorm_networks.onnx.nodes import FLOATING, MAX_KNOWN, Call, Data, Made, Result, Value, on_axis, scalar, shape_of
from specnorm_networks.onnx.tensors import Constant


def _moved(x: Value, operator: Move) -> Constant | Made:
    """Entries in another order or shape, of data or of a constant."""
    # An array whose entries are all the same one: nothing is copied.
    shape = operator.moved(np.broadcast_to(np.zeros(()), shape_of(x))).shape
    return Made(operator, (x,), shape) if isinstance(x, Data) else x.mapped(shape, operator.moved)


def reshape(x: Value, /, *, shape: Wholes, allowzero: int = 0) -> Constant | Made:
    """New shape, from an attribute or a constant: 0 copies a size, -1 is what is left."""
    if len(shape) > 16 or min(shape, default=0) < -1:
        raise NoBoundError(f"shape={shape[:8]}")
    operator = ops.Reshape(shape, copies=not allowzero)
    if x.shape is None and min(shape, default=1) >= (0 if allowzero else 1):
        return Made(operator, (x,), shape)
    return _moved(x, operator)


def transpose(x: Value, /, *, perm: Wholes | None) -> Constant | Made:
    """Axes in another order."""
    axes = perm if perm is not None else tuple(reversed(range(len(shape_of(x)))))
    before = shape_of(x)
    if sorted(axes) != list(range(len(before))):
        raise NoBoundError(f"perm={axes[:8]} does not fit shape {before}")
    return _moved(x, ops.Permute(axes))


def flatten(x: Value, /, *, axis: int) -> Constant | Made:
    """Two axes out of all."""
    before = shape_of(x)
    if not -len(before) <= axis <= len(before):
        raise NoBoundError(f"axis {axis} of a value of {len(before)} axes")
    axis += len(before) if axis < 0 else 0
    return _moved(x, ops.Reshape((math.prod(before[:axis]), math.prod(before[axis:]))))


def squeeze(x: Value, /, *, axes: Wholes | None) -> Constant | Made:
    """Axes of size 1, taken away."""
    before = shape_of(x)
    if axes is not None and not axes:
        raise NoBoundError("it has axes, and none of them: runtimes disagree on what it takes away")
    gone = (
        tuple(sorted({on_axis(a, before) for a in axes}))
        if axes
        else tuple(at for at, n in enumerate(before) if n == 1)
    )
    if any(before[at] != 1 for at in gone):
        raise NoBoundError(f"axes={gone} of shape {before} are not all of size 1")
    return _moved(x, ops.Reshape(tuple(n for at, n in enumerate(before) if at not in gone)))


def unsqueeze(x: Value, /, *, axes: Wholes) -> Constant | Made:
    """Axes of size 1, put in."""
    before = shape_of(x)
    ndim = len(before) + len(axes)
    new = tuple(sorted({a % ndim for a in axes}))
    if len(new) < len(axes) or any(not -ndim <= a < ndim for a in axes):
        raise NoBoundError(f"axes={axes[:8]} do not fit shape {before}")
    return _moved(x, ops.Unsqueeze(new))


def identity(x: Value, /) -> Constant | Made:
    """The value itself."""
    return x if isinstance(x, Constant) else Made(ops.Identity(), (x,), x.shape)


def dropout(x: Value, /, *, training_mode: Constant | None) -> Constant | Made:
    """At inference."""
    if training_mode is not None and scalar(training_mode) != 0:
        raise NoBoundError("dropout may be active: training_mode is not false")
    return identity(x)


def cast(x: Value, /, *, to: int) -> Result:
    """Another floating type."""
    if isinstance(x, Constant):
        if x.dtype.startswith(FLOATING) and to in (1, 11) and not (x.dtype == "float64" and to == 1):
            # Exact; what is computed of it is then rounded as the wider type is.
            wide = "float32" if to == 1 else "float64"
            return replace(x, dtype=wide, load=lambda: x.load().astype(wide))
        raise NoBoundError("a large constant that is cast is not evaluated")
    if to not in (1, 10, 11, 16):
        raise NoBoundError("it casts to integers: steps")
    return Made(ops.Cast(), (x,), x.shape)


def slice_of(
    x: Data,
    /,
    *,
    starts: Wholes,
    ends: Wholes,
    axes: Wholes | None,
    steps: Wholes | None = None,
) -> Result:
    """A part along some axes."""
    parts = dict[int, tuple[int, int | None, int | None, int]]()
    given = (starts, ends, range(len(starts)) if axes is None else axes, [1] * len(starts) if steps is None else steps)
    if len({len(each) for each in given}) > 1 or 0 in given[3]:
        raise NoBoundError("its starts, ends, axes and steps do not fit each other")
    for start, end, at, step in zip(*given, strict=True):
        axis = on_axis(at, shape_of(x))
        if axis in parts:
            raise NoBoundError(f"it takes a part of axis {axis} twice")
        first, last, _ = slice(start, end, step).indices(shape_of(x)[axis])
        if first < 0:  # NumPy takes nothing, onnxruntime may take the first entry
            raise NoBoundError(f"it steps backwards from {start}, before the first entry of axis {axis}")
        parts[axis] = (axis, first, None if last < 0 else last, step)
    return _moved(x, ops.Slice(tuple(parts.values())))


def split(
    call: Call,
    x: Data,
    /,
    *,
    split: Wholes | None,
    axis: int,
    num_outputs: int | None = None,
) -> Result:
    """Parts along one axis, each a slice of the whole."""
    count = call.outputs
    axis = on_axis(axis, shape_of(x))
    n = shape_of(x)[axis]
    if num_outputs not in (None, count) or (split is not None and len(split) != count):
        raise NoBoundError(f"split or num_outputs of Split do not fit its {count} outputs")
    if split is None:
        each = -(-n // count)
        split = tuple(max(min(each, n - each * at), 0) for at in range(count))
    if min(split) < 0 or sum(split) != n:
        raise NoBoundError(f"split={split[:8]} does not fit an axis of {n}")
    ends = [sum(split[: at + 1]) for at in range(count)]
    return tuple(_moved(x, ops.Slice(((axis, end - n, end, 1),))) for end, n in zip(ends, split, strict=True))


def concat(*values: Value, axis: int) -> Made:
    """Several values along one axis."""
    shapes = [shape_of(value) for value in values]
    axis = on_axis(axis, shapes[0])
    if len({*map(len, shapes)}) > 1:
        raise NoBoundError("its values have different numbers of axes")
    whole = sum(shape[axis] for shape in shapes)
    return Made(ops.Concat(axis), values, (*shapes[0][:axis], whole, *shapes[0][axis + 1 :]))


def gather(call: Call, x: Value, indices: Array | Data, /, *, axis: int) -> Made:
    """Entries by constant positions; of a constant by integers, which do not move."""
    before = shape_of(x)
    axis = on_axis(axis, before)
    if isinstance(indices, Data):
        if isinstance(x, Data):
            refuse(call, "indices", indices)
        call.missed()
        shape = (*before[:axis], *shape_of(indices), *before[axis + 1 :])
        return Made(ops.Unknown("a table that is read at positions"), (indices,), shape)
    if isinstance(x, Constant):
        raise NoBoundError("a table that is read at positions")
    index = indices.astype(np.int64)
    return Made(ops.Gather(axis, index), (x,), (*before[:axis], *index.shape, *before[axis + 1 :]))


def expand(x: Data, shape: Wholes, /) -> Made:
    """Broadcast to a shape."""
    return Made(ops.Broadcast(shape), (x,), broadcast_shapes([x.shape, shape]))


def tile(x: Data, repeats: Wholes, /) -> Made:
    """Repeat whole axes."""
    if min(repeats, default=0) < 1 or (x.shape is not None and len(repeats) != len(x.shape)):
        raise NoBoundError("its repeats make no sense here")
    shape = None if x.shape is None else tuple(n * r for n, r in zip(x.shape, repeats, strict=True))
    return Made(ops.Tile(repeats), (x,), shape)


def blocks(call: Call, x: Data, /, *, blocksize: int, mode: str = "DCR") -> Made:
    """Pixels to channels, or back, which is the inverse."""
    b = blocksize
    n, c, h, w = shape_of(x)
    deeper = call.operator == "SpaceToDepth"
    if deeper:
        c = c * b**2
        h = h // b
        w = w // b
    parts = (n, b, b, c // b**2, h, w)
    order = (0, 3, 4, 1, 5, 2)
    if mode != "DCR":
        parts = (n, c // b**2, b, b, h, w)
        order = (0, 1, 4, 2, 5, 3)
    if mode not in ("DCR", "CRD") or b < 1 or math.prod(parts) != math.prod(shape_of(x)):
        raise NoBoundError(f"blocks of {b} by mode={mode[:20]!r} of a value of shape {x.shape}")
    at = np.arange(math.prod(parts)).reshape(parts).transpose(order).reshape(n, -1, h * b, w * b)
    if deeper:
        at = np.argsort(at, axis=None).reshape(n, c, h, w)
    return Made(ops.Entries(at, at.size), (x,), at.shape)


# -- entries at constant places, and sorts ----------------------------------------------------------------------------
def _places(x: Value) -> NDArray[np.int64]:
    known = shape_of(x)
    if math.prod(known) > MAX_KNOWN:
        raise NoBoundError("its input is too large for a table of its entries")
    return np.arange(math.prod(known)).reshape(known)


def _taken(x: Data, at: NDArray[np.int64]) -> Made:
    if at.size > MAX_KNOWN:
        raise NoBoundError("its value is too large for a table of its entries")
    return Made(ops.Entries(at, math.prod(shape_of(x))), (x,), at.shape)


def _along(x: Value, indices: Array, axis: int) -> NDArray[np.int64]:
    places = _places(x)
    if indices.ndim != places.ndim:
        raise NoBoundError(f"indices of shape {indices.shape} do not fit {places.shape}")
    grid: list[NDArray[Any]] = [*np.indices(indices.shape)]
    grid[on_axis(axis, places.shape)] = indices.astype(np.int64)
    return np.asarray(places[tuple(grid)])


def _by_tuples(places: NDArray[np.int64], indices: Array, batch: int = 0) -> NDArray[np.int64]:
    depth = indices.shape[-1]
    if depth < 1 or math.prod(indices.shape[:-1]) * math.prod(places.shape[batch + depth :]) > MAX_KNOWN:
        raise NoBoundError("its value is too large for a table of its entries, or has no positions")
    if batch:
        return np.stack([_by_tuples(*each, batch - 1) for each in zip(places, indices, strict=True)])
    return np.asarray(places[tuple(np.moveaxis(indices.astype(np.int64), -1, 0))])


def gather_elements(x: Data, indices: Array, /, *, axis: int = 0) -> Made:
    """One entry for each position, along an axis."""
    return _taken(x, _along(x, indices, axis))


def gather_nd(x: Data, indices: Array, /, *, batch_dims: int = 0) -> Made:
    """Slices by tuples of positions."""
    return _taken(x, _by_tuples(_places(x), indices, batch_dims))


def triangle(x: Data, k: int | None = None, /, *, upper: int = 1) -> Made:
    """The part above a diagonal, or below; zeros elsewhere."""
    keep = np.triu if upper else np.tril
    return _taken(x, keep(_places(x) + 1, k or 0) - 1)


def scatter_nd(x: Value, indices: Array, updates: Value, /) -> Made:
    """Slices put at tuples of positions."""
    return _put(x, _by_tuples(_places(x), indices), updates)


def scatter_elements(x: Value, indices: Array, updates: Value, /, *, axis: int = 0) -> Made:
    """Entries put at positions along an axis."""
    return _put(x, _along(x, indices, axis), updates)


def _put(x: Value, at: NDArray[np.int64], updates: Value) -> Made:
    if updates.shape != at.shape:
        raise NoBoundError(f"updates of shape {updates.shape} do not fit {at.shape}")
    if len(np.unique(at)) < at.size:
        raise NoBoundError("it writes to an entry twice")
    return Made(ops.Merge(at), (x, updates), x.shape)


def top(x: Data, k: int, /, *, axis: int = -1, largest: int = 1) -> Made:
    """The first entries in order, or all; where they were is no value with a slope."""
    shape = shape_of(x)
    axis = on_axis(axis, shape)
    size = shape[axis]
    if not 0 < k <= size:
        raise NoBoundError(f"{k} of {size} entries")
    made = ops.Sort(axis, bool(largest), None if k == size else k)
    return Made(made, (x,), (*shape[:axis], k, *shape[axis + 1 :]))
