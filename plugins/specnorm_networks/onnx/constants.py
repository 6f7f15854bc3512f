"""Constants: where they come from, and those that a graph computes from constants, by onnx's reference evaluator.

Believed is what the evaluator computes in the file's types. Small ones that every runtime computes alike (integers,
comparisons, moves, floating operations that IEEE 754 rounds correctly) are evaluated at once, so that sizes computed in
a graph are known. Of all others another runtime's numbers differ by the rounding of the same operations. So nothing
that jumps is computed from them: no size, comparison or integer; and they are evaluated when somebody reads them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm.errors import ModelFileError
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.operators import NoBoundError
from specnorm_networks.certified.operators.broadcasting import broadcast_shapes
from specnorm_networks.certified.shapes import Shape
from specnorm_networks.onnx.binding import Numbers, Wholes, bind, stated
from specnorm_networks.onnx.evaluator import cost, evaluate
from specnorm_networks.onnx.nodes import MAX_FOLDED, MAX_KNOWN, Call, Data, Known, Made, Value
from specnorm_networks.onnx.pooling import reduce
from specnorm_networks.onnx.tensors import Constant, Tensors

WORK = 2**36
"""Multiplications of all constants together."""
PATCHES = 2**27
"""Numbers that a convolution's windows hold together."""
_DEEPEST = 64
"""Constants computed from one another that wait to be read."""
_FLOATS = ("float16", "float32", "float64")
_AS_READ = {"bfloat16": "float32"}
_CASTS = {1: "float32", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}
_JUMPS = frozenset((
    "Sign", "Floor", "Ceil", "Mod", "Range", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal",
))  # fmt: skip
_ROUNDED = frozenset(("Add", "Sub", "Mul", "Div", "Mod", "Range", "Sqrt"))
_EXACT = frozenset((
    "Abs", "And", "Concat", "Expand", "Gather", "Max", "Min", "Neg", "Not", "Or", "Slice", "Split", "Tile", "Trilu",
    "Where", "Xor",
))  # fmt: skip
"""What rounds nothing, in any precision."""
_ALIKE = _ROUNDED | _JUMPS - {"Sign"} | _EXACT | {"Cast", "ReduceProd"}
"""What every runtime computes alike; some of it rounds floating numbers to their type."""


class NotComputedError(NoBoundError, ModelFileError):
    """Constants that nobody computes, wherever they are read."""


# -- where constants come from -----------------------------------------------------------------------------------------
def constant(
    call: Call, /, *, value: Constant | None = None, value_float: float | None = None, value_int: int | None = None,
    value_floats: Numbers | None = None, value_ints: Wholes | None = None,
) -> Constant:  # fmt: skip
    """A Constant node."""
    if value is not None:
        return value
    floats = (value_float, value_floats)
    wholes = (value_int, value_ints)
    for given, dtype in (*((each, np.float32) for each in floats), *((each, np.int64) for each in wholes)):
        if given is not None:
            return call.fold(np.asarray(given, dtype=dtype))
    raise NoBoundError("a constant of a kind that is not read")


def shape_of(call: Call, x: Value, /, *, start: int = 0, end: int | None = None) -> Constant | Made:
    """The shape of a value, where it is known; or its number of entries."""
    if x.shape is None:
        return Made(ops.Held("its sizes are not known: give the input shape"), (), None)
    known = x.shape[start:end]
    return call.fold(np.asarray(known if call.operator == "Shape" else math.prod(known), dtype=np.int64))


def filled(call: Call, shape: Wholes, /, *, value: Constant | None = None) -> Constant | Made:
    """ConstantOfShape, of a small shape."""
    if len(shape) > 16 or min(shape, default=0) < 0 or math.prod(shape) > MAX_FOLDED:
        return Made(ops.Held("it is a constant that is not evaluated"), (), None)
    each = np.zeros(1, np.float32) if value is None else np.ravel(value.load())
    return call.fold(np.full(shape, each[0]))


# -- what is computed from them ----------------------------------------------------------------------------------------
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
    stated(call, known)
    values = [value for value in call.inputs if isinstance(value, Constant)]
    alike = call.operator in _ALIKE
    rounds = call.operator in _ROUNDED
    steps = max((value.steps for value in values), default=0)
    half = any(value.dtype == "bfloat16" for value in values)
    unread = any(value.refusal is not None for value in values) or (steps and call.operator in _JUMPS)
    # A bfloat16 is read as float32, in which other numbers come out.
    if not values or unread or (half and (rounds or not alike)):
        raise NoBoundError(f"{call.operator} of constants is not evaluated")
    shapes = _shapes(call, known, values)
    sizes = [math.prod(shape or ()) for shape in shapes]
    at_once = alike and not steps and sum(value.size for value in values) <= MAX_FOLDED and max(sizes) <= MAX_FOLDED
    dtype = None if at_once else _dtype(call, values)
    if None in shapes or (dtype is None and not at_once):
        raise NoBoundError(f"{call.operator} of constants is not evaluated: its type or shape is not known")
    fan = cost(proto, [x.shape if isinstance(x, Constant) else () for x in call.inputs])
    windows = max(math.prod((shape or ())[2:]) for shape in shapes) * fan if "Conv" in call.operator else 0
    fits = max(sizes) <= max(MAX_KNOWN, reader.largest) and windows <= PATCHES
    if not fits or not reader.computes(sum(sizes) * np.dtype(dtype or "float64").itemsize, sum(sizes) * fan, WORK):
        raise NoBoundError(f"{call.operator} of constants of {max(sizes)} entries is more than is evaluated")

    @cache
    def run() -> list[NDArray[Any]]:
        given = [x.load() if isinstance(x, Constant) else None for x in call.inputs]
        try:
            with np.errstate(all="ignore"):
                arrays = [np.asarray(each) for each in evaluate(proto, call.opset, given)]
        except Exception as error:  # whatever the evaluator raises for what it does not support
            raise NotComputedError(f"{call.operator} of constants is not evaluated: {type(error).__name__}") from error
        if [x.shape for x in arrays] != shapes or (dtype is not None and any(x.dtype != dtype for x in arrays)):
            raise NotComputedError(f"{call.operator} computes constants of other shapes or types than was expected")
        return arrays

    if at_once:
        if not _is_plain(call, [value.load() for value in values]):
            raise NoBoundError(f"{call.operator} of such constants is computed by each runtime in its own way")
        found = [call.fold(array) for array in run()]
        keeps = half and call.operator != "Cast"
        return tuple(replace(x, dtype="bfloat16") if keeps and x.dtype == "float32" else x for x in found)
    largest = max(values, key=lambda value: value.size)
    if steps >= _DEEPEST:
        run()
        steps = 0
    return tuple(
        replace(
            largest, shape=shape, dtype=str(dtype), load=partial(_output, run, at), key=object(), steps=steps + 1
        )
        for at, shape in enumerate(shapes)
        if shape is not None
    )  # fmt: skip


def _output(run: Any, at: int) -> NDArray[Any]:
    found: NDArray[Any] = run()[at]
    return found


def _dtype(call: Call, values: Sequence[Constant]) -> str | None:
    """Of floating values that are computed later; None: it is not known, or no such type."""
    if call.operator in _JUMPS or "output_dtype" in call.attributes:
        return None
    if call.operator == "Cast":
        dtypes = {_CASTS.get(call.attributes["to"].i, "")} if values[0].dtype in _FLOATS else set()
    else:
        dtypes = {value.dtype for value in values} & {*_FLOATS, "bfloat16"}
    return dtypes.pop() if len(dtypes) == 1 and dtypes.issubset(_FLOATS) else None


def _is_plain(call: Call, arrays: Sequence[NDArray[Any]]) -> bool:
    """Whether every runtime has the same words for these numbers."""
    x, *more = arrays
    whole = x.dtype.kind in "iu"
    given = {name: each.i for name, each in call.attributes.items()}
    match call.operator:
        case "Div":
            return not whole or bool(np.all(more[0]))
        case "Mod":
            return bool(np.all(more[0])) and (whole or bool(given.get("fmod", 0)))
        case "ReduceProd":
            return whole  # else the order of factors would count
        case "Cast":
            to = np.dtype(_CASTS.get(given["to"], "object"))
            return to.kind != "O" and (to.kind != "i" or x.dtype.kind != "f" or bool(np.all(np.abs(x) < 2.0**31)))
        case "Range":
            # Some runtimes add again and again, which is the same where nothing is rounded.
            start, limit, delta = (Fraction(each.item()) for each in arrays)
            places = [start + at * delta for at in range(max(math.ceil((limit - start) / delta), 0))]
            return all(Fraction(x.dtype.type(each).item()) == each for each in places)
    return True


def _product_shape(a: Shape, b: Shape) -> Shape:
    """Of a product of matrices, as NumPy has it; a vector is a row on the left, and a column on the right."""
    left = (1, *a) if len(a) == 1 else a
    right = (*b, 1) if len(b) == 1 else b
    if min(len(left), len(right)) < 2 or left[-1] != right[-2]:
        raise NoBoundError(f"a product of constants of shapes {a} and {b}")
    rows = left[-2:-1] if len(a) > 1 else ()
    columns = right[-1:] if len(b) > 1 else ()
    return (*np.broadcast_shapes(left[:-2], right[:-2]), *rows, *columns)


def _shapes(call: Call, known: Known, values: Sequence[Constant]) -> list[Shape | None]:
    """Of all outputs: as they would be for values that move."""
    if call.operator == "MatMul":
        return [_product_shape(*(value.shape for value in values))]
    if call.operator == "DequantizeLinear":
        return [values[0].shape if len(values[1].shape) < 2 else None]  # else in blocks
    if call.operator == "Range":
        start, limit, delta = (Fraction(value.load().item()) for value in values)
        return [(max(math.ceil((limit - start) / delta), 0),)]
    build = reduce(ops.Sum) if call.operator == "ReduceProd" else known.build
    if call.operator in ("Cast", "Pow") or build is None:
        return [broadcast_shapes([value.shape for value in values])]
    every = [at for at, x in enumerate(call.inputs) if isinstance(x, Constant)]
    floats = [at for at in every if call.inputs[at].dtype in _FLOATS]  # type: ignore[union-attr]
    last: Exception | None = None
    for moving in filter(None, (floats, every, every[:1])):
        inputs = [x and Data("", x.shape) if at in moving else x for at, x in enumerate(call.inputs)]
        asked = replace(call, inputs=inputs, use=lambda *_: "", missed=lambda: None)
        try:
            found = bind(asked, known, build)()
        except NoBoundError as error:
            last = error
            continue
        made = found if isinstance(found, tuple) else (found,)
        return [each.shape for each in made]
    raise NoBoundError(str(last))
