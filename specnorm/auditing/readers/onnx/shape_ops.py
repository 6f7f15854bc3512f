"""Operators that move entries, or take some of them; of data and of constants."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm.auditing.readers.onnx.calls import (
    FLOATING,
    MAX_AMOUNT,
    MAX_FOLDED,
    Call,
    Data,
    Translated,
    UnreadError,
    names,
    one,
    scalar,
)
from specnorm.auditing.readers.onnx.folding import folded, slices
from specnorm.auditing.readers.onnx.shapes import (
    broadcast_shapes,
    fresh,
    reshaped,
    sliced,
    times,
)
from specnorm.auditing.readers.onnx.tensors import Constant
from specnorm.networks.graph import Shape, Size, concrete


def reshape(call: Call) -> Constant | Translated:
    """New shape, from an attribute or a constant."""
    shape = call.input(1)
    given = call.attribute("shape")
    if given is None and isinstance(shape, Constant) and shape.size <= 16 and shape.refusal is None:
        given = [int(n) for n in np.ravel(shape.load())]
    x = call.input(0)
    if x is None:
        raise UnreadError("an input is missing")
    new = None if given is None else reshaped(x.shape, given, allow_zero=bool(call.attribute("allowzero", 0)))
    return _moved(call, new, lambda a: a.reshape(concrete(new) or ()), reshaped=True)


def _moved(
    call: Call, shape: Shape | None, change: Callable[[NDArray[Any]], NDArray[Any]], **params: bool
) -> Constant | Translated:
    """Entries in another order or shape, of data or of a constant."""
    x = call.input(0)
    if isinstance(x, Constant):
        known = concrete(shape)
        if known is None or math.prod(known) != x.size:
            raise UnreadError(f"{call.operator} of a constant to a shape that is not known")
        return x.mapped(known, change, call.label)
    return one(call, "select", shape, **params)


def transpose(call: Call) -> Constant | Translated:
    """Axes in another order."""
    x = call.input(0)
    if x is None or x.shape is None:
        return one(call, "select", None)
    perm = [int(p) for p in call.attribute("perm") or reversed(range(len(x.shape)))]
    if sorted(perm) != list(range(len(x.shape))):
        raise UnreadError(f"perm={perm[:8]} does not fit shape {x.shape}")
    return _moved(call, tuple(x.shape[p] for p in perm), lambda a: np.transpose(a, perm))


def flatten(call: Call) -> Constant | Translated:
    """Two axes out of all."""
    x = call.input(0)
    if x is None or x.shape is None:
        return one(call, "select", None)
    axis = int(call.attribute("axis", 1))
    axis += len(x.shape) if axis < 0 else 0
    known = [concrete(part) for part in (x.shape[:axis], x.shape[axis:])]
    shape = tuple(fresh() if part is None else math.prod(part) for part in known)
    return _moved(call, shape, lambda a: a.reshape(concrete(shape) or ()), reshaped=True)


def squeeze(call: Call) -> Constant | Translated:
    """Axes of size 1, taken away or put in."""
    x = call.input(0)
    axes = call.numbers("axes", 1)
    if x is None or x.shape is None:
        return one(call, "select", None)
    if call.operator == "Squeeze":
        if axes is not None and not axes:
            raise UnreadError("it has axes, and none of them: runtimes disagree on what it takes away")
        ndim = len(x.shape)
        gone = {int(a) % ndim for a in axes} if axes else {at for at, n in enumerate(x.shape) if n == 1}
        if not axes and concrete(x.shape) is None:
            return one(call, "select", None)
        shape = tuple(n for at, n in enumerate(x.shape) if at not in gone)
    else:
        ndim = len(x.shape) + len(axes or ())
        new, old = {int(a) % ndim for a in axes or ()}, iter(x.shape)
        shape = tuple(1 if at in new else next(old) for at in range(ndim))
    return _moved(call, shape, lambda a: a.reshape(concrete(shape) or ()), reshaped=True)


def identity(call: Call) -> Constant | Translated:
    """Identity, and dropout at inference."""
    x = call.input(0)
    if isinstance(x, Constant):
        return x
    if call.operator == "Dropout" and isinstance(call.input(2), Data | Constant) and scalar(call.input(2)) != 0:
        raise UnreadError("dropout may be active: training_mode is not false")
    return Translated("select", names(call)[:1], (call.data().shape,), {"shift": True})


def cast(call: Call) -> Constant | Translated:
    """Another floating type."""
    x, to = call.input(0), int(call.attribute("to", 0))
    if isinstance(x, Constant):
        if x.dtype.startswith(FLOATING) and to in (1, 11) and not (x.dtype == "float64" and to == 1):
            wide = "float32" if to == 1 else "float64"
            # Exact; what is computed of it is then rounded as the wider type is.
            return x if x.dtype == wide else replace(x, dtype=wide, load=lambda: x.load().astype(wide))
        return folded(call)
    if to not in (1, 10, 11, 16):
        raise UnreadError("it casts to integers: steps")
    return one(call, "select", call.data().shape)


def dequantize(call: Call) -> Constant | Translated:
    """Weights from integers."""
    x, scale, zero = call.input(0), call.constant(1, 2**20), call.constant(2, 2**20)
    if not isinstance(x, Constant) or scale is None:
        raise UnreadError("it dequantises values of the network: steps")
    if call.attribute("block_size", 0) or x.dtype not in ("int8", "uint8", "int16", "uint16", "int32"):
        return x.refused(f"its quantisation ({x.dtype}, in blocks or of another kind) is not read.")
    axis = int(call.attribute("axis", 1)) % max(len(x.shape), 1)
    ones = [1] * len(x.shape)
    if scale.size > 1:
        ones[axis] = scale.size
    shape = tuple(ones)

    def change(a: NDArray[Any]) -> NDArray[Any]:
        centre = np.zeros(shape) if zero is None else zero.load().astype(np.float64).reshape(shape)
        # An integer times a float32 is exact in float64.
        return np.asarray((a.astype(np.float64) - centre) * scale.load().astype(np.float64).reshape(shape))

    return Constant(x.name, x.shape, "float64", lambda: change(x.load()), x.refusal, (*x.steps, call.label))


def slice_of(call: Call) -> Constant | Translated:
    """A part along some axes."""
    if all(isinstance(value, Constant) for value in call.inputs if value is not None):
        return folded(call)
    x = call.data()
    call.only(0)
    if any(isinstance(value, Data) for value in call.inputs[1:]) or x.shape is None:
        return one(call, "select", None)
    parts = slices(call, len(x.shape))
    sizes = [n for axis in parts[2] if isinstance(n := x.shape[axis], int)]
    told = {}
    if len(sizes) == len(parts[2]) and min(parts[3], default=1) > 0:
        pieces = zip(*parts, sizes, strict=True)
        told = {"slice": tuple((axis, slice(a, b, step).indices(n)[0], step) for a, b, axis, step, n in pieces)}
    return Translated("select", (x.name,), (sliced(x.shape, *parts),), told)


def split(call: Call) -> Translated:
    """Parts along one axis."""
    x = call.data()
    call.only(0)
    sizes = call.numbers("split", 1) if not isinstance(call.input(1), Data) else None
    if call.attribute("num_outputs", call.outputs) != call.outputs or (
        sizes is not None and (len(sizes) != call.outputs or min(sizes) < 0)
    ):
        raise UnreadError("its sizes or num_outputs do not fit its outputs")
    shapes: tuple[Shape | None, ...] = (None,) * call.outputs
    told: dict[str, Any] = {}
    if x.shape is not None:
        axis = int(call.attribute("axis", 0)) % len(x.shape)
        n = x.shape[axis]
        if sizes is None and isinstance(n, int) and not isinstance(call.input(1), Data):
            each = -(-n // call.outputs)
            sizes = [max(min(each, n - each * at), 0) for at in range(call.outputs)]
        parts: list[Size] = [fresh() for _ in range(call.outputs)] if sizes is None else [int(s) for s in sizes]
        shapes = tuple((*x.shape[:axis], part, *x.shape[axis + 1 :]) for part in parts)
        if sizes is not None and sum(sizes) == n:
            told = {"pieces": (axis, tuple(int(sum(sizes[:at])) for at in range(len(sizes))))}
    return Translated("select", (x.name,), shapes, told, pieces=True)


def concat(call: Call) -> Constant | Translated:
    """Several values along one axis."""
    if all(isinstance(value, Constant) for value in call.inputs):
        return folded(call)
    shapes = [value.shape if value is not None else None for value in call.inputs]
    shape = None
    if all(s is not None and len(s) == len(shapes[0] or ()) for s in shapes):
        known = [s for s in shapes if s is not None]
        axis = int(call.attribute("axis", 1)) % len(known[0])
        sizes = [s[axis] for s in known]
        total = sum(n for n in sizes if isinstance(n, int)) if all(isinstance(n, int) for n in sizes) else fresh()
        shape = (*known[0][:axis], total, *known[0][axis + 1 :])
    return Translated("stack", names(call), (shape,), {} if shape is None else {"axis": axis})


def gather(call: Call) -> Constant | Translated:
    """Entries by constant positions."""
    x, at = call.input(0), call.input(1)
    if isinstance(x, Constant) and isinstance(at, Constant):
        return folded(call)
    if isinstance(x, Constant):
        return Translated("unknown", names(call), (), {"reason": "a table that is read at positions"})
    call.only(0)
    where = call.constant(1, MAX_FOLDED)
    data = call.data()
    if where is None or data.shape is None:
        raise UnreadError("the shape of its input is not known: give the input shape")
    axis = int(call.attribute("axis", 0)) % len(data.shape)
    n, index = data.shape[axis], np.ravel(where.load()).astype(np.int64)
    index = np.where(index < 0, index + n, index) if isinstance(n, int) else index
    most = int(np.unique(index, return_counts=True)[1].max(initial=1))
    if not isinstance(n, int) and bool((index < 0).any()):
        most = index.size
    return Translated(
        "copies", (data.name,), ((*data.shape[:axis], *where.shape, *data.shape[axis + 1 :]),), {"copies": most}
    )


def expand(call: Call) -> Constant | Translated:
    """Broadcast to a shape."""
    x, wanted = call.data(), call.constant(1, 64)
    call.only(0)
    target = None if wanted is None else tuple(int(n) for n in np.ravel(wanted.load()))
    return Translated("broadcast", (x.name,), (broadcast_shapes([x.shape, target]),))


def tile(call: Call) -> Translated:
    """Repeat whole axes."""
    x, wanted = call.data(), call.constant(1, 64)
    call.only(0)
    counts = [int(n) for n in np.ravel(wanted.load())] if wanted is not None else []
    if min(counts, default=0) < 1:
        raise UnreadError("its repeats make no sense here")
    shape = None if x.shape is None else tuple(times(n, r, 0) for n, r in zip(x.shape, counts, strict=True))
    return Translated("copies", (x.name,), (shape,), {"copies": math.prod(counts)})


def blocks(call: Call) -> Translated:
    """Pixels to channels, or back."""
    x, b = call.data(), int(call.attribute("blocksize", 1))
    if x.shape is None or concrete(x.shape) is None or len(x.shape) != 4 or not 1 <= b <= MAX_AMOUNT:
        return one(call, "select", None)
    n, c, h, w = concrete(x.shape) or (1, 1, 1, 1)
    deeper = call.operator == "SpaceToDepth"
    shape = (n, c * b * b, h // b, w // b) if deeper else (n, c // (b * b), h * b, w * b)
    return one(call, "select", shape)
