"""Translate operators that move entries of values and of constants, or that take some of them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import counted
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.operators import NoBoundError
from specnorm_networks.certified.operators.base import Move, Shape
from specnorm_networks.certified.operators.broadcasting import broadcast_shapes
from specnorm_networks.onnx.binding import Wholes, refuse
from specnorm_networks.onnx.nodes import (
    FLOATING,
    MAX_FOLDED,
    MAX_KNOWN,
    Call,
    Data,
    Output,
    Result,
    Value,
    entrywise,
    numbers_of,
    on_axis,
    scalar,
    shape_of,
    with_size,
)
from specnorm_networks.onnx.tensors import Array, Constant

Places: TypeAlias = NDArray[np.int64]
"""Numbers of entries of a value."""
MAX_TABLE = 2**22
"""Largest number of entries of a table whose rows an integer input chooses."""


def moved(x: Value, operator: Move) -> Constant | Output:
    """Return a value with its entries moved; a constant stays a constant."""
    # The operator moves an array of the same shape, whose entries share one place in memory.
    shape = operator.moved(np.broadcast_to(np.zeros(()), shape_of(x))).shape
    return Output(operator, (x,), shape) if isinstance(x, Data) else x.mapped(shape, operator.moved)


def reshape(x: Value, /, *, shape: Wholes, allowzero: int = 0) -> Constant | Output:
    """Return a value in a new shape: 0 copies the size before, -1 stands for the size that remains."""
    if len(shape) > 16 or min(shape, default=0) < -1:
        raise NoBoundError(f"shape={shape[:8]} does not fit its input")
    operator = ops.Reshape(shape, copies=not allowzero)
    # Without a size to copy or to compute, the input's shape is not needed.
    if x.shape is None and min(shape, default=1) >= (0 if allowzero else 1):
        return Output(operator, (x,), shape)
    return moved(x, operator)


def transpose(x: Value, /, *, perm: Wholes | None) -> Constant | Output:
    """Return a value with its axes in another order."""
    axes = perm if perm is not None else tuple(reversed(range(len(shape_of(x)))))
    before = shape_of(x)
    if sorted(axes) != list(range(len(before))):
        raise NoBoundError(f"perm={axes[:8]} does not fit shape {before}")
    keeps_order = list(axes) == sorted(axes)
    return moved(x, ops.Identity() if keeps_order else ops.Permute(axes))


def flatten(x: Value, /, *, axis: int) -> Constant | Output:
    """Return a value as a matrix: the axes before ``axis`` become the first one, the others the second."""
    before = shape_of(x)
    if not -len(before) <= axis <= len(before):
        raise NoBoundError(f"axis {axis} of a value of {counted(len(before), 'axis', 'axes')}")
    axis += len(before) if axis < 0 else 0
    target = (math.prod(before[:axis]), math.prod(before[axis:]))
    return moved(x, ops.Reshape(target))


def squeeze(x: Value, /, *, axes: Wholes | None) -> Constant | Output:
    """Return a value without some axes of size 1, or without all of them."""
    before = shape_of(x)
    if axes is not None and not axes:
        raise NoBoundError("its list of axes is empty: runtimes disagree on what this means")
    if axes:
        removed = tuple(sorted({on_axis(axis, before) for axis in axes}))
    else:
        removed = tuple(axis for axis, n in enumerate(before) if n == 1)
    if any(before[axis] != 1 for axis in removed):
        raise NoBoundError(f"axes={removed} of shape {before} are not all of size 1")
    return moved(x, ops.Reshape(tuple(n for axis, n in enumerate(before) if axis not in removed)))


def unsqueeze(x: Value, /, *, axes: Wholes) -> Constant | Output:
    """Return a value with new axes of size 1."""
    before = shape_of(x)
    ndim = len(before) + len(axes)
    new = tuple(sorted({a % ndim for a in axes}))
    if len(new) < len(axes) or any(not -ndim <= a < ndim for a in axes):
        raise NoBoundError(f"axes={axes[:8]} do not fit shape {before}")
    return moved(x, ops.Unsqueeze(new))


def identity(x: Value, /) -> Constant | Output:
    """Return the value itself."""
    return x if isinstance(x, Constant) else entrywise(ops.Identity(), x)


def dropout(x: Value, /, *, training_mode: Constant | None) -> Constant | Output:
    """Return the value itself: dropout at inference."""
    if training_mode is not None and scalar(training_mode) != 0:
        raise NoBoundError("dropout may be active: training_mode is not False")
    return identity(x)


def cast(x: Value, /, *, to: int) -> Result:
    """Return a value in another floating type, or cut to whole numbers."""
    if isinstance(x, Constant):
        is_narrowed = x.dtype == "float64" and to == 1
        if x.dtype.startswith(FLOATING) and to in (1, 11) and not is_narrowed:
            # The cast is exact. Numbers computed from the constant are rounded as the wider type is.
            wide = "float32" if to == 1 else "float64"
            return replace(x, dtype=wide, load=lambda: x.load().astype(wide))
        # The reference evaluator computes other casts, but of small constants alone.
        raise NoBoundError("a cast of a large constant is not evaluated")
    if to in (6, 7):  # int32 and int64
        return entrywise(ops.Truncated(), x)
    if to not in (1, 10, 11, 16):
        raise NoBoundError("a cast to integers is discontinuous")
    return entrywise(ops.Identity(), x)


def slice_of(
    x: Data,
    /,
    *,
    starts: Wholes,
    ends: Wholes,
    axes: Wholes | None,
    steps: Wholes | None = None,
) -> Result:
    """Return a slice of a value along some axes."""
    count = len(starts)
    axes = tuple(range(count)) if axes is None else axes
    steps = (1,) * count if steps is None else steps
    if {len(ends), len(axes), len(steps)} != {count} or 0 in steps:
        raise NoBoundError("its starts, ends, axes and steps do not fit each other")
    parts = dict[int, tuple[int, int | None, int | None, int]]()
    for start, end, stated_axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = on_axis(stated_axis, shape_of(x))
        if axis in parts:
            raise NoBoundError(f"it slices axis {axis} twice")
        first, last, _ = slice(start, end, step).indices(shape_of(x)[axis])
        if first < 0:  # NumPy takes no entry, onnxruntime may take the first one
            raise NoBoundError(f"it steps backwards from {start}, before the first entry of axis {axis}")
        parts[axis] = (axis, first, None if last < 0 else last, step)
    return moved(x, ops.Slice(tuple(parts.values())))


def split(
    call: Call,
    x: Data,
    /,
    *,
    split: Wholes | None,
    axis: int,
    num_outputs: int | None = None,
) -> Result:
    """Return slices of a value along one axis, which together are the whole."""
    count = call.outputs
    axis = on_axis(axis, shape_of(x))
    n = shape_of(x)[axis]
    if num_outputs not in (None, count) or (split is not None and len(split) != count):
        raise NoBoundError(f"split or num_outputs of Split do not fit its {counted(count, 'output')}")
    if split is None:
        largest = -(-n // count)
        split = tuple(max(min(largest, n - largest * number), 0) for number in range(count))
    if min(split) < 0 or sum(split) != n:
        raise NoBoundError(f"split={split[:8]} does not fit an axis of {n}")
    parts = []
    start = 0
    for size in split:
        parts.append(moved(x, ops.Slice(((axis, start, start + size, 1),))))
        start += size
    return tuple(parts)


def concat(*values: Value, axis: int) -> Output:
    """Return several values joined along one axis."""
    shapes = [shape_of(value) for value in values]
    axis = on_axis(axis, shapes[0])
    if len({*map(len, shapes)}) > 1:
        raise NoBoundError("its values have different numbers of axes")
    shape = with_size(shapes[0], axis, sum(shape[axis] for shape in shapes))
    return Output(ops.Concat(axis), values, shape)


def gather(call: Call, x: Value, indices: Array | Data, /, *, axis: int) -> Output:
    """Return the entries of a value at constant positions.

    If the positions are computed, the value may be a constant, such as a table of embeddings. Its rows have no
    Lipschitz constant, but do not change if the positions are integers that a user gives.
    """
    before = shape_of(x)
    axis = on_axis(axis, before)
    if isinstance(indices, Data):
        if isinstance(x, Data):
            refuse(call, "indices", indices)  # raises
        if len(before) == 1 and indices.depends:
            return _looked_up(x, indices, indices.shape)
        call.missed()  # the table becomes a row that is not read
        shape = with_size(before, axis, *shape_of(indices))
        if axis == 0 and indices.depends and 0 < x.size <= MAX_TABLE and x.refusal is None:
            table = numbers_of(x)
            if np.all(np.isfinite(table)):
                return Output(ops.Lookup(table), (indices,), shape)
        return Output(ops.Unknown("it looks up entries of a table at computed indices"), (indices,), shape)
    if isinstance(x, Constant):
        raise NoBoundError("it looks up entries of a table at computed indices")
    index = indices.astype(np.int64)
    return Output(ops.Gather(axis, index), (x,), with_size(before, axis, *index.shape))


def expand(x: Data, shape: Wholes, /) -> Output:
    """Return a value broadcast to a shape."""
    after = broadcast_shapes([x.shape, shape])
    is_same = x.shape is not None and after == x.shape
    return Output(ops.Identity() if is_same else ops.Broadcast(shape), (x,), after)


def tile(x: Data, repeats: Wholes, /) -> Output:
    """Return a value repeated along its axes."""
    if min(repeats, default=0) < 1 or (x.shape is not None and len(repeats) != len(x.shape)):
        raise NoBoundError("its repeats are invalid")
    shape = None if x.shape is None else tuple(n * r for n, r in zip(x.shape, repeats, strict=True))
    return Output(ops.Tile(repeats), (x,), shape)


def blocks(call: Call, x: Data, /, *, blocksize: int, mode: str = "DCR") -> Output:
    """Move channels to the pixels of blocks, or these pixels to channels.

    DCR and CRD are ONNX's two orders: the block's rows and columns before the channels that remain, or after them.
    """
    b = blocksize
    n, c, h, w = shape_of(x)
    spreads = call.operator == "DepthToSpace"
    is_divided = b > 0 and (c % b**2 == 0 if spreads else h % b == w % b == 0)
    if mode not in ("DCR", "CRD") or not is_divided:
        raise NoBoundError(f"blocks of {b} by mode={mode[:20]!r} of a value of shape {x.shape}")
    is_crd = mode == "CRD"
    parts: Shape
    if spreads:
        channels = (c // b**2, b, b) if is_crd else (b, b, c // b**2)
        parts = (n, *channels, h, w)
        order = (0, 1, 4, 2, 5, 3) if is_crd else (0, 3, 4, 1, 5, 2)
        shape = (n, c // b**2, h * b, w * b)
    else:
        parts = (n, c, h // b, b, w // b, b)
        order = (0, 1, 3, 5, 2, 4) if is_crd else (0, 3, 5, 1, 2, 4)
        shape = (n, c * b**2, h // b, w // b)
    places = np.arange(math.prod(shape)).reshape(parts).transpose(order).reshape(shape)
    return Output(ops.Entries(places, places.size), (x,), shape)


# -- entries at constant places, and sorts ----------------------------------------------------------------------------
def places_of(x: Value) -> Places:
    """Return the number of each entry of a value, in its shape."""
    shape = shape_of(x)
    if math.prod(shape) > MAX_KNOWN:
        raise NoBoundError("its input has too many entries")
    return np.arange(math.prod(shape)).reshape(shape)


def entries(x: Data, places: Places) -> Output:
    """Return the entries of a value with these numbers; -1 stands for zero."""
    if places.size > MAX_KNOWN:
        raise NoBoundError("its output has too many entries")
    return Output(ops.Entries(places, math.prod(shape_of(x))), (x,), places.shape)


def _places_along(x: Value, indices: Array, axis: int) -> Places:
    """Return the numbers of the entries at the positions ``indices`` along an axis."""
    places = places_of(x)
    if indices.ndim != places.ndim:
        raise NoBoundError(f"indices of shape {indices.shape} do not fit {places.shape}")
    grid: list[Array] = [*np.indices(indices.shape)]
    grid[on_axis(axis, places.shape)] = indices.astype(np.int64)
    return np.asarray(places[tuple(grid)])


def _places_at(places: Places, indices: Array) -> Places:
    """Return slices of ``places``: each tuple along the last axis of ``indices`` is the position of one."""
    depth = indices.shape[-1]
    count = math.prod(indices.shape[:-1]) * math.prod(places.shape[depth:])
    if depth < 1 or count > MAX_KNOWN:
        raise NoBoundError("its output has too many entries, or its indices are unknown")
    return np.asarray(places[tuple(np.moveaxis(indices.astype(np.int64), -1, 0))])


def gather_elements(x: Data, indices: Array, /, *, axis: int = 0) -> Output:
    """Return one entry for each position along an axis."""
    return entries(x, _places_along(x, indices, axis))


def _looked_up(table: Constant, positions: Data | Output, shape: Shape | None) -> Output:
    if table.size > MAX_FOLDED or table.refusal is not None:
        raise NoBoundError("its table cannot be read or is too large")
    return Output(ops.Lookup(table.load().astype(np.float64)), (positions,), shape)


def gather_nd(call: Call, x: Value, indices: Array | Data, /) -> Output:
    """Return slices at tuples of positions; of a table with one axis also at computed positions."""
    if isinstance(indices, Data):
        shape = shape_of(indices)
        if isinstance(x, Data) or len(x.shape) != 1 or shape[-1:] != (1,):
            refuse(call, "indices", indices)  # raises
        return _looked_up(x, Output(ops.Reshape(shape[:-1]), (indices,), shape[:-1]), shape[:-1])
    if isinstance(x, Constant):
        raise NoBoundError("it looks up entries of a table at computed indices")
    return entries(x, _places_at(places_of(x), indices))


def triangle(x: Data, k: int | None = None, /, *, upper: int = 1) -> Output:
    """Return the part of a value above a diagonal, or below it; zeros elsewhere."""
    part = np.triu if upper else np.tril
    return entries(x, part(places_of(x) + 1, k or 0) - 1)


def scatter_nd(x: Value, indices: Array, updates: Value, /, *, reduction: str = "none") -> Output:
    """Return a value with slices written, or added, at tuples of positions."""
    return _with_updates(x, _places_at(places_of(x), indices), updates, reduction)


def scatter_elements(
    x: Value,
    indices: Array,
    updates: Value,
    /,
    *,
    axis: int = 0,
    reduction: str = "none",
) -> Output:
    """Return a value with entries written, or added, at positions along an axis."""
    return _with_updates(x, _places_along(x, indices, axis), updates, reduction)


def _with_updates(x: Value, places: Places, updates: Value, reduction: str) -> Output:
    """Return a value with updates in place of the entries with these numbers, or added to them."""
    if updates.shape != places.shape:
        raise NoBoundError(f"updates of shape {updates.shape} do not fit {places.shape}")
    if reduction == "add":
        added = Output(ops.AddedUp(places, shape_of(x)), (updates,), x.shape)
        return Output(ops.Add((1.0, 1.0)), (x, added), x.shape)
    if reduction != "none":
        raise NoBoundError(f"reduction={reduction[:20]!r} is not supported; only sums at constant indices are")
    if len(np.unique(places)) < places.size:
        raise NoBoundError("it writes to an entry twice")
    return Output(ops.Merge(places), (x, updates), x.shape)


def cumulative_sum(x: Data, axis: int, /, *, exclusive: int = 0, reverse: int = 0) -> Output:
    """Return the sums of the first entries along an axis, or of the last ones."""
    return entrywise(ops.CumulativeSum(on_axis(axis, shape_of(x)), bool(reverse), bool(exclusive)), x)


def top(x: Data, k: int, /, *, axis: int = -1, largest: int = 1) -> Output:
    """Return the k largest or smallest entries along an axis, in order; their positions have no rule."""
    shape = shape_of(x)
    axis = on_axis(axis, shape)
    size = shape[axis]
    if not 0 < k <= size:
        raise NoBoundError(f"k={k} does not fit {counted(size, 'entry', 'entries')}")
    sort = ops.Sort(axis, bool(largest), None if k == size else k)
    return Output(sort, (x,), with_size(shape, axis, k))


def compress(x: Data, condition: Array, /, *, axis: int | None) -> Output:
    """Return the entries along an axis, or of all, at which a constant condition is true."""
    if axis is None:
        places = places_of(x).reshape(-1)
        return entries(x, places[np.flatnonzero(condition[: places.size])])
    shape = shape_of(x)
    axis = on_axis(axis, shape)
    index = np.flatnonzero(condition[: shape[axis]])
    return Output(ops.Gather(axis, index), (x,), with_size(shape, axis, index.size))


def reverse_sequence(x: Data, sequence_lens: Array, /, *, batch_axis: int, time_axis: int) -> Output:
    """Return a value in which the first entries along one axis, as many as each sample states, are in reverse."""
    places = places_of(x)
    if {batch_axis, time_axis} != {0, 1} or places.ndim < 2 or sequence_lens.shape != places.shape[batch_axis:][:1]:
        raise NoBoundError(f"axes {batch_axis} and {time_axis} or its lengths do not fit a value of shape {x.shape}")
    if np.any((sequence_lens < 0) | (sequence_lens > places.shape[time_axis])):
        raise NoBoundError("one of its lengths is negative, or larger than its input")
    by_sample = np.moveaxis(places, batch_axis, 0).copy()
    for sample, length in zip(by_sample, sequence_lens.tolist(), strict=True):
        sample[:length] = sample[:length][::-1].copy()
    return entries(x, np.moveaxis(by_sample, 0, batch_axis))


def columns_to_image(
    x: Data,
    image_shape: Wholes,
    block_shape: Wholes,
    /,
    *,
    dilations: Wholes | None,
    pads: Wholes | None,
    strides: Wholes | None,
) -> Output:
    """Return an image to which the blocks of a value are added, one after the other."""
    n, rows, columns = shape_of(x)
    ndim = len(block_shape)
    ones = (1,) * ndim
    dilations, strides, pads = dilations or ones, strides or ones, pads or (0,) * 2 * ndim
    if {len(image_shape), len(dilations), len(strides), len(pads) // 2} != {ndim} or min(*strides, *dilations) < 1:
        raise NoBoundError("its image, blocks, strides, dilations and pads do not fit each other")
    channels = rows // math.prod(block_shape)
    shape = (n, channels, *image_shape)
    if math.prod(shape) > MAX_KNOWN:
        raise NoBoundError("its output has too many entries")
    # Numbers of the pixels of each block, or -1 outside of the image: (blocks along all axes, taps along all axes).
    pixels = np.arange(math.prod(image_shape)).reshape(image_shape)
    padded = np.pad(pixels, tuple(zip(pads[:ndim], pads[ndim:], strict=True)), constant_values=-1)
    reach = [d * (k - 1) + 1 for k, d in zip(block_shape, dilations, strict=True)]
    steps = tuple(slice(None, None, step) for step in (*strides, *dilations))
    blocks = np.lib.stride_tricks.sliding_window_view(padded, reach)[steps].reshape(-1, math.prod(block_shape))
    if len(blocks) != columns or channels * math.prod(block_shape) != rows:
        raise NoBoundError(f"its blocks do not fit a value of shape {x.shape}")
    pixel_of_entry = np.broadcast_to(blocks.T, (n * channels, *blocks.T.shape))
    targets = np.arange(n * channels)[:, None, None] * pixels.size + pixel_of_entry
    are_inside = pixel_of_entry >= 0
    kept = entries(x, places_of(x).reshape(targets.shape)[are_inside])
    return Output(ops.AddedUp(targets[are_inside], shape), (kept,), shape)
