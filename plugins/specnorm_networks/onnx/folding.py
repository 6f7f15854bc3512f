"""Constants: where they come from, and arithmetic on them, so that sizes computed in a graph are known.

What every runtime computes alike: integers, comparisons, and floating operations that IEEE 754 rounds correctly.
Logarithms and their like are none of these: a size that is rounded down from one would be each runtime's own.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.operators import NoBoundError
from specnorm_networks.certified.shapes import concrete
from specnorm_networks.onnx.binding import Array, Numbers, Wholes, bind
from specnorm_networks.onnx.nodes import MAX_FOLDED, Call, Data, Known, Made, Value
from specnorm_networks.onnx.shapes import slice_parts
from specnorm_networks.onnx.tensors import Constant

Fold = Callable[..., Array | None]
"""Gives None for what is not evaluated."""

_ROUNDED = ("Add", "Sub", "Mul", "Div", "Mod", "Range", "Sqrt")
"""Operators that round floating numbers to their type."""
_CASTS = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_, 11: np.float64}
_OPEN = Made(ops.Held("its sizes are not known: give the input shape"), (), None)
_LARGE = Made(ops.Held("it is a constant that is not evaluated"), (), None)


def folded(call: Call, known: Known) -> Constant | Made:
    """Evaluate small constants; larger ones stay constants that are not known."""
    values = [value for value in call.inputs if isinstance(value, Constant)]
    if known.fold is None or sum(v.size for v in values) > MAX_FOLDED or any(v.refusal is not None for v in values):
        return _LARGE
    if call.operator in _ROUNDED and any(v.dtype == "bfloat16" for v in values):
        return _LARGE  # it is read as float32, in which other numbers come out
    if any(v.steps for v in values):
        return _LARGE  # a size that is rounded from it would be each runtime's own
    positional, named = bind(call, known, known.fold)
    with np.errstate(all="ignore"):
        found = known.fold(call, *positional, **named)
    return _LARGE if found is None or found.size > MAX_FOLDED else call.fold(np.asarray(found))


# -- where constants come from -----------------------------------------------------------------------------------------
def constant(
    call: Call, /, *, value: Constant | None = None, value_float: float | None = None, value_int: int | None = None,
    value_floats: Numbers | None = None, value_ints: Wholes | None = None,
) -> Constant:  # fmt: skip
    """A Constant node."""
    if value is not None:
        return value
    floats, wholes = (value_float, value_floats), (value_int, value_ints)
    for given, dtype in (*((each, np.float32) for each in floats), *((each, np.int64) for each in wholes)):
        if given is not None:
            return call.fold(np.asarray(given, dtype=dtype))
    raise NoBoundError("a constant of a kind that is not read")


def shape_of(call: Call, x: Value, /, *, start: int = 0, end: int | None = None) -> Constant | Made:
    """The shape of a value, where it is known."""
    known = None if x.shape is None else concrete(x.shape[start:end])
    return _OPEN if known is None else call.fold(np.asarray(known, dtype=np.int64))


def size_of(call: Call, x: Value, /) -> Constant | Made:
    """The number of entries of a value, where it is known."""
    known = concrete(x.shape)
    return _OPEN if known is None else call.fold(np.asarray(math.prod(known), dtype=np.int64))


def filled(call: Call, shape: Wholes | Data, /, *, value: Constant | None = None) -> Constant | Made:
    """ConstantOfShape, of a small shape."""
    if isinstance(shape, Data) or len(shape) > 16 or min(shape, default=0) < 0 or math.prod(shape) > MAX_FOLDED:
        return _LARGE
    each = np.zeros(1, np.float32) if value is None else np.ravel(value.load())
    return call.fold(np.full(shape, each[0]))


# -- arithmetic --------------------------------------------------------------------------------------------------------
def each(function: Callable[..., Any]) -> Fold:
    """Entry by entry."""

    def apply(_: Call, *arrays: Array) -> Array | None:
        return np.asarray(function(*arrays)) if _small(*arrays) else None

    return apply


def _small(*arrays: Array) -> bool:
    """Whether what arrays are broadcast to is small."""
    return math.prod(np.broadcast_shapes(*(x.shape for x in arrays))) <= MAX_FOLDED


def largest(_: Call, *arrays: Array) -> Array | None:
    """Of several values."""
    return functools.reduce(np.maximum, arrays) if _small(*arrays) else None


def smallest(_: Call, *arrays: Array) -> Array | None:
    """Of several values."""
    return functools.reduce(np.minimum, arrays) if _small(*arrays) else None


def gather(_: Call, data: Array, indices: Array, /, *, axis: int) -> Array | None:
    """Entries at positions."""
    if data.size // max(data.shape[axis], 1) * indices.size > MAX_FOLDED:
        return None
    return np.asarray(np.take(data, indices.astype(np.int64), axis=axis))


def concat(_: Call, *arrays: Array, axis: int) -> Array:
    """One behind the other."""
    return np.concatenate([np.atleast_1d(x) for x in arrays], axis=axis)


def cast(_: Call, x: Array, /, *, to: int) -> Array | None:
    """Another type."""
    dtype = np.dtype(_CASTS[to])
    # Each runtime has its own integer for numbers that are none.
    strange = dtype.kind == "i" and x.dtype.kind == "f" and not np.all(np.abs(x) < 2.0**31)
    return None if strange else x.astype(dtype)


def slice_of(
    _: Call, data: Array, /, *, starts: Wholes, ends: Wholes, axes: Wholes | None, steps: Wholes | None = None
) -> Array:
    """A part along axes."""
    cuts = [slice(None)] * data.ndim
    for axis, *part in slice_parts(data.shape, starts, ends, axes, steps):
        cuts[axis] = slice(*part)
    return np.asarray(data[tuple(cuts)])


def divide(_: Call, a: Array, b: Array, /) -> Array | None:
    """Quotients of integers are rounded towards zero."""
    if not _small(a, b):
        return None
    if a.dtype.kind not in "iu":
        return np.asarray(a / b)
    return (np.sign(a) * np.sign(b) * (abs(a) // abs(b))).astype(a.dtype) if np.all(b) else None


def modulo(_: Call, a: Array, b: Array, /, *, fmod: int) -> Array | None:
    """The divisor's sign, or with ``fmod`` the dividend's; floats have the second alone."""
    if not _small(a, b) or not np.all(b) or (a.dtype.kind == "f" and not fmod):
        return None
    return np.asarray(np.fmod(a, b) if fmod else np.mod(a, b))


def numbers(_: Call, start: Array, limit: Array, delta: Array, /) -> Array | None:
    """Range."""
    start, limit, delta = (x.reshape(()) for x in (start, limit, delta))
    if not delta or not np.all(np.isfinite([start, limit, delta])):
        return None
    count = max(math.ceil((float(limit) - float(start)) / float(delta)), 0)
    if count > MAX_FOLDED:
        return None
    found = np.asarray(start + np.arange(count, dtype=start.dtype) * delta, dtype=start.dtype)
    # Some runtimes add again and again, which is the same where nothing is rounded.
    first, step = Fraction(start.item()), Fraction(delta.item())
    return found if all(Fraction(each) == first + at * step for at, each in enumerate(found.tolist())) else None


def product(
    _: Call, data: Array, /, *, axes: Wholes | None, keepdims: int, noop_with_empty_axes: int = 0
) -> Array | None:
    """Along axes."""
    if data.dtype.kind not in "iu":
        return None  # the order of factors would count
    if not axes and noop_with_empty_axes:
        return data
    return np.asarray(np.prod(data, axis=axes or None, keepdims=bool(keepdims), dtype=data.dtype))


def expand(_: Call, x: Array, shape: Wholes, /) -> Array | None:
    """Broadcast to a shape."""
    wide = np.broadcast_shapes(x.shape, shape)
    return np.broadcast_to(x, wide).copy() if math.prod(wide) <= MAX_FOLDED else None


def triangle(_: Call, x: Array, k: int | None = None, /, *, upper: int = 1) -> Array:
    """The part above a diagonal, or below."""
    return np.asarray((np.triu if upper else np.tril)(x, k or 0))


def tile(_: Call, x: Array, repeats: Wholes, /) -> Array | None:
    """Repeat whole axes."""
    fits = min(repeats, default=1) >= 0 and math.prod(repeats) * x.size <= MAX_FOLDED
    return np.tile(x, repeats) if fits else None
