"""Constants: where they come from, and the small ones that tell shapes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm.auditing.readers.onnx.calls import (
    MAX_FOLDED,
    Call,
    Data,
    Translated,
    UnreadError,
    names,
)
from specnorm.auditing.readers.onnx.tensors import Constant, constant_of
from specnorm.networks.graph import concrete


def constant(call: Call) -> Constant:
    """A Constant node."""
    proto = call.attributes.get("value")
    if proto is not None and proto.HasField("t"):
        return call.describe(proto.t, call.label)
    for name, dtype in (
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        found = call.attribute(name)
        if found is not None:
            return constant_of(np.asarray(found, dtype=dtype), call.label)
    raise UnreadError("a constant of a kind that is not read")


def shape_of(call: Call) -> Constant | Translated:
    """The shape of a value, where it is known."""
    x = call.input(0)
    known = None if x is None else concrete(x.shape)
    if known is None:
        return Translated("held")
    part = known[slice(call.attribute("start", 0), call.attribute("end", None))]
    return constant_of(np.asarray(part, dtype=np.int64), call.label)


def filled(call: Call) -> Constant | Translated:
    """ConstantOfShape, of a small shape."""
    wanted = call.input(0)
    if not isinstance(wanted, Constant) or wanted.size > 16:
        return Translated("held")
    shape = tuple(int(n) for n in np.ravel(wanted.load()))
    if not 0 <= math.prod(shape) <= MAX_FOLDED or min(shape, default=0) < 0:
        return Translated("held")
    proto = call.attributes.get("value")
    value = 0.0 if proto is None else np.ravel(call.describe(proto.t, f"{call.label} value").load())[0]
    return constant_of(np.full(shape, value), call.label)


_CASTS = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_, 11: np.float64}


def folded(call: Call) -> Constant | Translated:
    """Evaluate small constants, so that shapes computed in the graph are known; larger ones stay unknown constants."""
    values = [value for value in call.inputs if value is not None]
    if not all(isinstance(v, Constant) and v.size <= MAX_FOLDED and v.refusal is None for v in values):
        if any(isinstance(v, Data) and not v.held for v in values):
            raise UnreadError(f"{call.operator} has no rule here")
        return Translated("held", names(call))
    a = [v.load() for v in values if isinstance(v, Constant)]
    if sum(x.size for x in a) > MAX_FOLDED:
        return Translated("held")
    axis = int(call.attribute("axis", 0))
    with np.errstate(all="ignore"):
        if call.operator == "Gather":
            found = np.take(a[0], a[1].astype(np.int64), axis=axis)
        elif call.operator == "Concat":
            found = np.concatenate([np.atleast_1d(x) for x in a], axis=axis)
        elif call.operator == "Cast":
            to = np.dtype(_CASTS[int(call.attribute("to"))])
            if to.kind == "i" and a[0].dtype.kind == "f" and not np.all(np.abs(a[0]) < 2.0**31):
                return Translated("held")  # each runtime has its own integer for it
            found = a[0].astype(to)
        elif call.operator == "Slice":
            starts, ends, axes, steps = slices(call, a[0].ndim)
            cuts = [slice(None)] * a[0].ndim
            for start, end, at, step in zip(starts, ends, axes, steps, strict=True):
                cuts[at] = slice(start, end if abs(end) < 2**31 else None, step)
            found = a[0][tuple(cuts)]
        elif call.operator in ("Add", "Sub", "Mul", "Div"):
            whole = call.operator == "Div" and a[0].dtype.kind in "iu"
            if whole and not np.all(a[1]):
                return Translated("held")
            apply = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": _quotient if whole else np.divide}
            found = apply[call.operator](a[0], a[1])
        else:
            return Translated("held")
    return constant_of(np.asarray(found), call.label) if found.size <= MAX_FOLDED else Translated("held")


def _quotient(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """Quotients of integers, rounded towards zero."""
    found: NDArray[Any] = np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))
    return found.astype(a.dtype)


def slices(call: Call, ndim: int) -> tuple[list[int], list[int], list[int], list[int]]:
    """Starts, ends, axes and steps of a Slice."""
    starts, ends = call.numbers("starts", 1) or [], call.numbers("ends", 2) or []
    axes = [int(a) % ndim for a in call.numbers("axes", 3) or range(len(starts))]
    steps = [int(s) for s in call.numbers("steps", 4) or [1] * len(starts)]
    return [int(s) for s in starts], [int(e) for e in ends], axes, steps
