"""Constants that a graph computes from constants, such as kernels of normalised layers: by onnx's reference evaluator.

Believed is what the evaluator computes, in the file's types; another runtime's numbers differ by the rounding of the
same operations. So nothing that jumps is computed from them: no size, comparison or integer. Shapes are known before
anything is evaluated, and it is evaluated when somebody reads it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm_networks.certified.operators import NoBoundError
from specnorm_networks.certified.shapes import Shape, concrete
from specnorm_networks.onnx.binding import bind
from specnorm_networks.onnx.evaluator import evaluate
from specnorm_networks.onnx.nodes import MAX_KNOWN, Call, Data, Known, Value
from specnorm_networks.onnx.shapes import broadcast_shapes
from specnorm_networks.onnx.tensors import Constant, Tensors

WORK = 2**36
"""Multiplications of all constants together."""
PATCHES = 2**27
"""Numbers that a convolution's windows hold together."""
_DEEPEST = 64
"""Constants computed from one another that wait to be read."""
_FLOATS = ("float16", "float32", "float64")
_CASTS = {1: "float32", 10: "float16", 11: "float64"}
_STEPS = frozenset((
    "Sign", "Floor", "Ceil", "Mod", "Range", "Greater", "GreaterOrEqual", "Less",
    "LessOrEqual", "Equal", "Shape", "Size",
))  # fmt: skip
_SLOW = {"MaxPool": 2**10, "AveragePool": 2**10, "LpPool": 2**10, "ConvTranspose": 2**10, "Resize": 2**10}
"""Operators that the evaluator loops over in Python, and how long a step takes."""


def computed(proto: Any, call: Call, known: Known, reader: Tensors) -> tuple[Constant, ...]:
    """Outputs of a node whose inputs are constants.

    Parameters
    ----------
    proto : NodeProto
    reader : Tensors
        Which says how much may be computed.

    Raises
    ------
    NoBoundError
        If it is not evaluated.
    """
    values = [value for value in call.inputs if isinstance(value, Constant)]
    floats = [value for value in values if value.dtype in _FLOATS]
    if not floats or call.operator in _STEPS or any(value.refusal or value.dtype == "bfloat16" for value in values):
        raise NoBoundError(f"{call.operator} of constants is not evaluated")
    dtypes = {value.dtype for value in floats}
    dtype = (
        _CASTS.get(call.attributes["to"].i) if call.operator == "Cast" else dtypes.pop() if len(dtypes) == 1 else None
    )
    shapes = [concrete(shape) for shape in _shapes(call, known, values)]
    if dtype is None or None in shapes:
        raise NoBoundError(f"{call.operator} of constants is not evaluated: its type or shape is not known")
    sizes = [math.prod(shape or ()) for shape in shapes]
    fan, most = _fan(call, values), max(MAX_KNOWN, reader.largest)
    work = sum(sizes) * fan * _SLOW.get(call.operator, 1)
    windows = max(math.prod((shape or ())[2:]) for shape in shapes) * fan if "Conv" in call.operator else 0
    if max(sizes) > most or windows > PATCHES or not reader.computes(sum(sizes) * np.dtype(dtype).itemsize, work, WORK):
        raise NoBoundError(f"{call.operator} of constants of {max(sizes)} entries is more than is evaluated")

    @cache
    def run() -> list[NDArray[Any]]:
        given = [None if x is None else _array(x) for x in call.inputs]
        try:
            with np.errstate(all="ignore"):
                arrays = [np.asarray(each) for each in evaluate(proto, call.opset, given)]
        except Exception as error:  # whatever the evaluator raises for what it does not support
            raise NoBoundError(f"{call.operator} of constants is not evaluated: {type(error).__name__}") from error
        if [(x.shape, x.dtype.name) for x in arrays] != [(shape, dtype) for shape in shapes]:
            raise NoBoundError(f"{call.operator} computes constants of other shapes or types than was expected")
        return arrays

    largest = max(floats, key=lambda value: value.size)
    steps = 1 + max(value.steps for value in values)
    if steps > _DEEPEST:
        run()
        steps = 1
    return tuple(
        replace(largest, shape=shape, dtype=dtype, load=partial(_output, run, at), key=object(), steps=steps)
        for at, shape in enumerate(shapes)
        if shape is not None
    )


def _output(run: Callable[[], list[NDArray[Any]]], at: int) -> NDArray[Any]:
    return run()[at]


def _array(value: Value) -> NDArray[Any]:
    assert isinstance(value, Constant)  # for the type checker: nothing moves
    return value.load()


def _shapes(call: Call, known: Known, values: Sequence[Constant]) -> list[Shape | None]:
    """Of all outputs: as they would be for values that move."""
    if call.operator == "MatMul":
        return [_product(*(value.shape for value in values))]
    if call.operator == "Pow":
        return [broadcast_shapes([value.shape for value in values])]
    if known.build is None:
        return [None]
    places = [at for at, x in enumerate(call.inputs) if isinstance(x, Constant) and x.dtype in _FLOATS]
    last: Exception | None = None
    for moving in (places, places[:1]):
        inputs = [x and Data("", x.shape) if at in moving else x for at, x in enumerate(call.inputs)]
        asked = replace(call, inputs=inputs, use=lambda *_: "")
        try:
            positional, named = bind(asked, known, known.build)
            found = known.build(asked, *positional, **named)
        except NoBoundError as error:
            last = error
            continue
        made = found if isinstance(found, tuple) else (found,)
        return [each.shape for each in made]
    raise NoBoundError(str(last))


def _product(a: tuple[int, ...], b: tuple[int, ...]) -> Shape:
    """Of a matrix product: NumPy's."""
    left, right = (a, b) if a and b else ((0,), ())
    rows, columns = left[:-1], right[-1:] if len(right) > 1 else ()
    inner = right[-2] if len(right) > 1 else (right or (None,))[0]
    if left[-1] != inner:
        raise NoBoundError(f"a product of constants of shapes {a} and {b}")
    return (*np.broadcast_shapes(rows[:-1], right[:-2]), *rows[-1:], *columns)


def _fan(call: Call, values: Sequence[Constant]) -> int:
    """From how many numbers each entry is computed."""
    if call.operator in ("Conv", "ConvTranspose"):
        return math.prod(values[1].shape[1:])
    return max(values[0].shape, default=1) if call.operator in ("MatMul", "Gemm") else 1
