"""Arithmetic on constants, so that sizes computed in a graph are known: what every runtime computes alike.

Integers, comparisons, and floating operations that IEEE 754 rounds correctly. Logarithms and their like are none of
these: a size that is rounded down from one would be each runtime's own.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm.auditing.readers.onnx.calls import MAX_FOLDED, Call, Data, Translated, UnreadError, names
from specnorm.auditing.readers.onnx.tensors import Constant, constant_of

Array = NDArray[Any]
Fold = Callable[[Call, Sequence[Array]], Array | None]
"""Gives None for what is not evaluated."""

_ROUNDED = ("Add", "Sub", "Mul", "Div", "Mod", "Range", "Sqrt")
"""Operators that round floating numbers to their type."""
_CASTS = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_, 11: np.float64}


def folded(call: Call) -> Constant | Translated:
    """Evaluate small constants; larger ones stay constants that are not known."""
    values = [value for value in call.inputs if value is not None]
    if not all(isinstance(v, Constant) and v.size <= MAX_FOLDED and v.refusal is None for v in values):
        if any(isinstance(v, Data) and not v.held for v in values):
            raise UnreadError(f"{call.operator} has no rule here")
        return Translated("held", names(call))
    if call.operator in _ROUNDED and any(isinstance(v, Constant) and v.dtype == "bfloat16" for v in values):
        return Translated("held")  # it is read as float32, in which other numbers come out
    given = [v.load() for v in values if isinstance(v, Constant)]
    if sum(x.size for x in given) > MAX_FOLDED:
        return Translated("held")
    with np.errstate(all="ignore"):
        found = FOLDS[call.operator](call, given)
    if found is None or found.size > MAX_FOLDED:
        return Translated("held")
    return constant_of(np.asarray(found), call.label)


def slices(call: Call, ndim: int) -> tuple[list[int], list[int], list[int], list[int]]:
    """Starts, ends, axes and steps of a Slice."""
    starts, ends = call.numbers("starts", 1) or [], call.numbers("ends", 2) or []
    axes = [int(a) % ndim for a in call.numbers("axes", 3) or range(len(starts))]
    steps = [int(s) for s in call.numbers("steps", 4) or [1] * len(starts)]
    return [int(s) for s in starts], [int(e) for e in ends], axes, steps


def _gather(call: Call, a: Sequence[Array]) -> Array | None:
    axis = int(call.attribute("axis", 0))
    if a[0].size // max(a[0].shape[axis], 1) * a[1].size > MAX_FOLDED:
        return None
    return np.asarray(np.take(a[0], a[1].astype(np.int64), axis=axis))


def _concat(call: Call, a: Sequence[Array]) -> Array:
    return np.concatenate([np.atleast_1d(x) for x in a], axis=int(call.attribute("axis", 0)))


def _cast(call: Call, a: Sequence[Array]) -> Array | None:
    to = np.dtype(_CASTS[int(call.attribute("to"))])
    # Each runtime has its own integer for numbers that are none.
    strange = to.kind == "i" and a[0].dtype.kind == "f" and not np.all(np.abs(a[0]) < 2.0**31)
    return None if strange else a[0].astype(to)


def _slice(call: Call, a: Sequence[Array]) -> Array:
    cuts = [slice(None)] * a[0].ndim
    for start, end, at, step in zip(*slices(call, a[0].ndim), strict=True):
        cuts[at] = slice(start, end, step)  # ends far outside are clamped, to either side
    found: Array = a[0][tuple(cuts)]
    return found


def _divide(_: Call, a: Sequence[Array]) -> Array | None:
    if not _small(a):
        return None
    if a[0].dtype.kind not in "iu":
        return np.asarray(a[0] / a[1])
    # Quotients of integers are rounded towards zero.
    return (np.sign(a[0]) * np.sign(a[1]) * (abs(a[0]) // abs(a[1]))).astype(a[0].dtype) if np.all(a[1]) else None


def _modulo(call: Call, a: Sequence[Array]) -> Array | None:
    """The divisor's sign, or with ``fmod`` the dividend's; floats have the second alone."""
    floats, by_dividend = a[0].dtype.kind == "f", bool(call.attribute("fmod", 0))
    if not _small(a) or not np.all(a[1]) or (floats and not by_dividend):
        return None
    return np.asarray(np.fmod(*a) if by_dividend else np.mod(*a))


def _range(_: Call, a: Sequence[Array]) -> Array | None:
    start, limit, delta = (x.reshape(()) for x in a)
    if not delta or not np.all(np.isfinite(a)):
        return None
    count = max(math.ceil((float(limit) - float(start)) / float(delta)), 0)
    if count > MAX_FOLDED:
        return None
    # As the standard has it, not by repeated addition.
    return np.asarray(start + np.arange(count, dtype=start.dtype) * delta, dtype=start.dtype)


def _product(call: Call, a: Sequence[Array]) -> Array | None:
    axes = call.numbers("axes", 1)
    if a[0].dtype.kind not in "iu":
        return None  # the order of factors would count
    if not axes and call.attribute("noop_with_empty_axes", 0):
        return a[0]
    wanted = tuple(int(axis) for axis in axes) if axes else None
    return np.asarray(np.prod(a[0], axis=wanted, keepdims=bool(call.attribute("keepdims", 1)), dtype=a[0].dtype))


def _expand(_: Call, a: Sequence[Array]) -> Array | None:
    shape = np.broadcast_shapes(a[0].shape, tuple(int(n) for n in np.ravel(a[1])))
    return np.broadcast_to(a[0], shape).copy() if math.prod(shape) <= MAX_FOLDED else None


def _tile(_: Call, a: Sequence[Array]) -> Array | None:
    counts = [int(n) for n in np.ravel(a[1])]
    fits = min(counts, default=1) >= 0 and math.prod(counts) * a[0].size <= MAX_FOLDED
    return np.tile(a[0], counts) if fits else None


def _small(a: Sequence[Array]) -> bool:
    """Whether what arrays are broadcast to is small."""
    return math.prod(np.broadcast_shapes(*(x.shape for x in a))) <= MAX_FOLDED


def _each(function: Callable[..., Any]) -> Fold:
    """Entry by entry."""

    def apply(_: Call, a: Sequence[Array]) -> Array | None:
        return np.asarray(function(*a)) if _small(a) else None

    return apply


FOLDS: dict[str, Fold] = {
    "Gather": _gather,
    "Concat": _concat,
    "Cast": _cast,
    "Slice": _slice,
    "Add": _each(np.add),
    "Sub": _each(np.subtract),
    "Mul": _each(np.multiply),
    "Div": _divide,
    "Mod": _modulo,
    "Range": _range,
    "ReduceProd": _product,
    "Expand": _expand,
    "Tile": _tile,
    "Where": _each(np.where),
    "Max": _each(lambda *a: functools.reduce(np.maximum, a)),
    "Min": _each(lambda *a: functools.reduce(np.minimum, a)),
    "Neg": _each(np.negative),
    "Abs": _each(np.abs),
    "Floor": _each(np.floor),
    "Ceil": _each(np.ceil),
    "Sqrt": _each(np.sqrt),
    "Equal": _each(np.equal),
    "Greater": _each(np.greater),
    "GreaterOrEqual": _each(np.greater_equal),
    "Less": _each(np.less),
    "LessOrEqual": _each(np.less_equal),
    "And": _each(np.logical_and),
    "Or": _each(np.logical_or),
    "Xor": _each(np.logical_xor),
    "Not": _each(np.logical_not),
}
"""Operator -> its value for constants."""
