"""Operators that move entries, or take some of them; of data and of constants."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.operators import NoBoundError, Operator
from specnorm_networks.onnx.binding import Array, Wholes
from specnorm_networks.onnx.nodes import (
    FLOATING,
    MAX_AMOUNT,
    MAX_KNOWN,
    Call,
    Data,
    Made,
    Result,
    Shape,
    Value,
    on_axis,
    scalar,
    shape_of,
)
from specnorm_networks.onnx.shapes import broadcast_shapes, reshaped, slice_parts, sliced
from specnorm_networks.onnx.tensors import Constant


def _moved(x: Value, shape: Shape | None, operator: Operator) -> Constant | Made:
    """Entries in another order or shape, of data or of a constant."""
    if isinstance(x, Data):
        return Made(operator, (x,), shape)
    if shape is None or math.prod(shape) != x.size:
        raise NoBoundError("a constant to a shape that is not known")
    if isinstance(operator, ops.Permute):
        return x.mapped(shape, lambda a: np.transpose(a, operator.axes))
    return x.mapped(shape, lambda a: a.reshape(shape))


def reshape(x: Value, /, *, shape: Wholes | Data, allowzero: int = 0) -> Constant | Made:
    """New shape, from an attribute or a constant."""
    if isinstance(shape, Data):
        return _moved(x, None, ops.Selection())
    if len(shape) > 16 or min(shape, default=0) < -1:
        raise NoBoundError(f"shape={shape[:8]}")
    return _moved(x, reshaped(x.shape, shape, allow_zero=bool(allowzero)), ops.Reshape(shape, copies=not allowzero))


def transpose(x: Value, /, *, perm: Wholes | None) -> Constant | Made:
    """Axes in another order."""
    axes = perm if perm is not None else tuple(reversed(range(len(shape_of(x)))))
    before = shape_of(x)
    if sorted(axes) != list(range(len(before))):
        raise NoBoundError(f"perm={axes[:8]} does not fit shape {before}")
    return _moved(x, tuple(before[axis] for axis in axes), ops.Permute(axes))


def flatten(x: Value, /, *, axis: int) -> Constant | Made:
    """Two axes out of all."""
    before = shape_of(x)
    if not -len(before) <= axis <= len(before):
        raise NoBoundError(f"axis {axis} of a value of {len(before)} axes")
    axis += len(before) if axis < 0 else 0
    return _moved(x, (math.prod(before[:axis]), math.prod(before[axis:])), ops.TwoAxes(axis))


def squeeze(x: Value, /, *, axes: Wholes | Data | None) -> Constant | Made:
    """Axes of size 1, taken away."""
    if isinstance(axes, Data):
        return _moved(x, None, ops.Selection())
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
    return _moved(x, tuple(n for at, n in enumerate(before) if at not in gone), ops.Squeeze(gone))


def unsqueeze(x: Value, /, *, axes: Wholes | Data) -> Constant | Made:
    """Axes of size 1, put in."""
    if isinstance(axes, Data):
        return _moved(x, None, ops.Selection())
    before = shape_of(x)
    ndim = len(before) + len(axes)
    new = tuple(sorted({a % ndim for a in axes}))
    if len(new) < len(axes) or any(not -ndim <= a < ndim for a in axes):
        raise NoBoundError(f"axes={axes[:8]} do not fit shape {before}")
    old = iter(before)
    return _moved(x, tuple(1 if at in new else next(old) for at in range(ndim)), ops.Unsqueeze(new))


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


def dequantize(
    x: Value, /, *, x_scale: Constant, x_zero_point: Array | None, axis: int = 1, block_size: int = 0,
    output_dtype: int = 0,
) -> Constant:  # fmt: skip
    """Weights from integers, rounded to the type of the scale."""
    if isinstance(x, Data):
        raise NoBoundError("it dequantises values of the network: steps")
    if x_scale.size > MAX_KNOWN or x_scale.refusal is not None:
        raise NoBoundError("its scale cannot be read")
    unread = x_scale.dtype != "float32" or output_dtype not in (0, 1) or bool(block_size)
    if unread or x.dtype not in ("int8", "uint8", "int16", "uint16", "int32"):
        return x.refused(f"its quantisation ({x.dtype}, in blocks or of another kind) is not read.")
    ones = [1] * len(x.shape)
    if x_scale.size > 1:
        ones[on_axis(axis, x.shape)] = x_scale.size

    def change(a: NDArray[Any]) -> NDArray[Any]:
        centre = np.zeros((), x.dtype) if x_zero_point is None else x_zero_point.reshape(ones)
        whole = a.astype(np.int64) - centre.astype(np.int64)
        return np.asarray(whole.astype(np.float32) * x_scale.load().reshape(ones))

    return replace(x.mapped(x.shape, change), dtype="float32")


def slice_of(
    x: Data, /, *, starts: Wholes | Data, ends: Wholes | Data, axes: Wholes | Data | None,
    steps: Wholes | Data | None = None,
) -> Made:  # fmt: skip
    """A part along some axes."""
    if isinstance(starts, Data) or isinstance(ends, Data) or isinstance(axes, Data) or isinstance(steps, Data):
        return Made(ops.Selection(), (x,), None)
    parts = slice_parts(shape_of(x), starts, ends, axes, steps)
    return Made(ops.Slice(parts), (x,), sliced(shape_of(x), parts))


def split(
    call: Call, x: Data, /, *, split: Wholes | Data | None, axis: int, num_outputs: int | None = None
) -> tuple[Made, ...]:
    """Parts along one axis, each a slice of the whole."""
    count = call.outputs
    if x.shape is None or isinstance(split, Data):
        return (Made(ops.Selection(), (x,), None),) * count
    axis = on_axis(axis, x.shape)
    n = x.shape[axis]
    if num_outputs not in (None, count) or (split is not None and len(split) != count):
        raise NoBoundError(f"split or num_outputs of Split do not fit its {count} outputs")
    if split is None:
        each = -(-n // count)
        split = tuple(max(min(each, n - each * at), 0) for at in range(count))
    if min(split) < 0 or sum(split) != n:
        raise NoBoundError(f"split={split[:8]} does not fit an axis of {n}")
    ends = [sum(split[: at + 1]) for at in range(count)]
    return tuple(
        Made(ops.Slice(((axis, end - part, end, 1),)), (x,), (*x.shape[:axis], part, *x.shape[axis + 1 :]))
        for end, part in zip(ends, split, strict=True)
    )


def concat(*values: Value, axis: int) -> Made:
    """Several values along one axis."""
    shapes = [shape_of(value) for value in values]
    axis = on_axis(axis, shapes[0])
    if len({*map(len, shapes)}) > 1:
        raise NoBoundError("its values have different numbers of axes")
    whole = sum(shape[axis] for shape in shapes)
    return Made(ops.Concat(axis), values, (*shapes[0][:axis], whole, *shapes[0][axis + 1 :]))


def gather(x: Value, indices: Array | Data, /, *, axis: int) -> Made:
    """Entries by constant positions."""
    if isinstance(x, Constant):
        raise NoBoundError("a table that is read at positions")
    if isinstance(indices, Data):
        raise NoBoundError("the input indices of ops.Gather is not known: give the input shape")
    before = shape_of(x)
    axis = on_axis(axis, before)
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
    """Pixels to channels, or back."""
    b, before = blocksize, x.shape
    if mode not in ("DCR", "CRD"):
        raise NoBoundError(f"mode={mode[:20]!r} of {call.operator} is not known here")
    if before is None:
        return Made(ops.Selection(), (x,), None)
    deeper = call.operator == "SpaceToDepth"
    if len(before) != 4 or not 1 <= b <= MAX_AMOUNT or any(n % b for n in before[2:] if deeper) or (
        not deeper and before[1] % b**2
    ):  # fmt: skip
        raise NoBoundError(f"blocks of {b} do not fit {before}")
    n, c, h, w = before

    def move(a: NDArray[Any]) -> NDArray[Any]:
        if deeper:
            return a.reshape(n, c, h // b, b, w // b, b).transpose(0, 3, 5, 1, 2, 4).reshape(n, -1, h // b, w // b)
        parts = (n, b, b, c // b**2, h, w) if mode == "DCR" else (n, c // b**2, b, b, h, w)
        order = (0, 3, 4, 1, 5, 2) if mode == "DCR" else (0, 1, 4, 2, 5, 3)
        return a.reshape(parts).transpose(order).reshape(n, -1, h * b, w * b)

    at = move(np.arange(math.prod(before)).reshape(before))
    return Made(ops.Entries(at, at.size), (x,), at.shape)
