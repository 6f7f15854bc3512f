"""Constants: where they come from; `folding` computes with them."""

from __future__ import annotations

import math

import numpy as np

from specnorm.auditing.readers.onnx.calls import (
    MAX_FOLDED,
    Call,
    Translated,
    UnreadError,
)
from specnorm.auditing.readers.onnx.tensors import Constant, constant_of
from specnorm.networks.graph import concrete

_OPEN = {"reason": "its sizes are not known: give the input shape"}


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
        return Translated("held", params=_OPEN)
    part = known[slice(call.attribute("start", 0), call.attribute("end", None))]
    return constant_of(np.asarray(part, dtype=np.int64), call.label)


def size_of(call: Call) -> Constant | Translated:
    """The number of entries of a value, where it is known."""
    x = call.input(0)
    known = None if x is None else concrete(x.shape)
    return (
        Translated("held", params=_OPEN)
        if known is None
        else constant_of(np.asarray(math.prod(known), dtype=np.int64), call.label)
    )


def filled(call: Call) -> Constant | Translated:
    """ConstantOfShape, of a small shape."""
    wanted = call.input(0)
    if not isinstance(wanted, Constant) or wanted.size > 16:
        return Translated("held")
    shape = tuple(int(n) for n in np.ravel(wanted.load()))
    if not 0 <= math.prod(shape) <= MAX_FOLDED or min(shape, default=0) < 0:
        return Translated("held")
    proto = call.attributes.get("value")
    value = np.float32(0) if proto is None else np.ravel(call.describe(proto.t, call.label).load())[0]
    return constant_of(np.full(shape, value), call.label)
