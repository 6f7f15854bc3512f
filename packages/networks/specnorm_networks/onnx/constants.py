"""Constants of a graph: operators that state them, and operators that compute them from other constants.

Computed constants are those of onnx's reference evaluator in the file's types. Every runtime computes some operators
alike: integers, comparisons, moves, and floating operations that IEEE 754 rounds correctly. If their values are small,
they are evaluated at once, since shapes may depend on them. Values of other operators differ between runtimes by
rounding. So no size, comparison or integer, which could jump, is computed from them; and they are evaluated when
somebody reads them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm.errors import ModelFileError
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.operators import NoBoundError
from specnorm_networks.certified.operators.base import Shape
from specnorm_networks.certified.operators.broadcasting import broadcast_shapes
from specnorm_networks.onnx.binding import Numbers, Wholes, bind, stated
from specnorm_networks.onnx.evaluator import cost, evaluate
from specnorm_networks.onnx.nodes import MAX_FOLDED, MAX_KNOWN, Call, Data, OperatorRule, Output, Value
from specnorm_networks.onnx.pooling import reduce
from specnorm_networks.onnx.tensors import Constant, Tensors

WORK = 2**36
"""Largest number of multiplications for all constants together."""
_DEEPEST = 64
"""Largest number of constants, each computed from the one before, that are not evaluated yet."""
_FLOATS = ("float16", "float32", "float64")
_CASTS = {1: "float32", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}
_JUMPS = frozenset((
    "Sign", "Floor", "Ceil", "Mod", "Range", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal",
))  # fmt: skip
"""Operators whose values jump: a rounding of their inputs may change them much."""
_ALIKE = (_JUMPS - {"Sign"}).union((
    "Abs", "Add", "And", "Cast", "Concat", "Div", "Expand", "Gather", "Max", "Min", "Mul", "Neg", "Not", "Or",
    "ReduceProd", "Slice", "Split", "Sqrt", "Sub", "Tile", "Trilu", "Where", "Xor",
))  # fmt: skip
"""Operators that every runtime computes alike: they are exact, or round as IEEE 754 says."""


class NotComputedError(NoBoundError, ModelFileError):
    """A constant cannot be computed; raised when it is read."""


# -- where constants come from -----------------------------------------------------------------------------------------
def constant(
    call: Call,
    /,
    *,
    value: Constant | None = None,
    value_float: float | None = None,
    value_int: int | None = None,
    value_floats: Numbers | None = None,
    value_ints: Wholes | None = None,
) -> Constant:
    """Return the constant that a Constant node states."""
    if value is not None:
        return value
    for floats in (value_float, value_floats):
        if floats is not None:
            return call.fold(np.asarray(floats, dtype=np.float32))
    for wholes in (value_int, value_ints):
        if wholes is not None:
            return call.fold(np.asarray(wholes, dtype=np.int64))
    raise NoBoundError("a constant of a kind that is not read")


def shape_of(call: Call, x: Value, /, *, start: int = 0, end: int | None = None) -> Constant | Output:
    """Return the shape of a value (Shape), or its number of entries (Size)."""
    if x.shape is None:
        return Output(ops.Held("its sizes are not known: give the input shape"), (), None)
    sizes = x.shape[start:end]
    return call.fold(np.asarray(sizes if call.operator == "Shape" else math.prod(sizes), dtype=np.int64))


def filled(call: Call, shape: Wholes, /, *, value: Constant | None = None) -> Constant | Output:
    """Return the constant of a ConstantOfShape node with a small shape."""
    if len(shape) > 16 or min(shape, default=0) < 0 or math.prod(shape) > MAX_FOLDED:
        return Output(ops.Held("it is a constant that is not evaluated"), (), None)
    entry = np.zeros(1, np.float32) if value is None else np.ravel(value.load())
    return call.fold(np.full(shape, entry[0]))


# -- what is computed from them ----------------------------------------------------------------------------------------
def computed(proto: Any, call: Call, rule: OperatorRule, reader: Tensors) -> tuple[Constant, ...]:
    """Return the outputs of a node whose inputs are constants.

    Parameters
    ----------
    proto : NodeProto
        The node.
    reader : Tensors
        Reader of the model; it limits how much is computed.

    Raises
    ------
    NoBoundError
        If the node is not evaluated.
    """
    stated(call, rule)
    values = [value for value in call.inputs if isinstance(value, Constant)]
    steps = max((value.steps for value in values), default=0)
    if not _is_evaluated(call, values, steps):
        raise NoBoundError(f"{call.operator} of constants is not evaluated")
    shapes = _shapes(call, rule, values)
    sizes = [math.prod(shape or ()) for shape in shapes]
    is_small = sum(value.size for value in values) <= MAX_FOLDED and max(sizes) <= MAX_FOLDED
    is_evaluated_at_once = call.operator in _ALIKE and not steps and is_small
    dtype = None if is_evaluated_at_once else _dtype(call, values)
    if None in shapes or (dtype is None and not is_evaluated_at_once):
        raise NoBoundError(f"{call.operator} of constants is not evaluated: its type or shape is not known")
    cost_of_entry = cost(proto, [x.shape if isinstance(x, Constant) else () for x in call.inputs])
    fits = max(sizes) <= max(MAX_KNOWN, reader.largest)
    byte_count = sum(sizes) * np.dtype(dtype or "float64").itemsize
    if not fits or not reader.computes(byte_count, sum(sizes) * cost_of_entry, WORK):
        raise NoBoundError(f"{call.operator} of constants of {max(sizes)} entries is more than is evaluated")

    run = cache(partial(_arrays, proto, call, shapes, dtype))
    if is_evaluated_at_once:
        if not _is_same_everywhere(call, [value.load() for value in values]):
            raise NoBoundError(f"{call.operator} of such constants is computed by each runtime in its own way")
        return tuple(map(call.fold, run()))
    if steps >= _DEEPEST:
        run()
        steps = 0
    largest = max(values, key=lambda value: value.size)  # the outputs have its name in messages
    outputs = []
    for number, shape in enumerate(shapes):
        if shape is not None:
            load = partial(_output, run, number)
            outputs.append(replace(largest, shape=shape, dtype=str(dtype), load=load, key=object(), steps=steps + 1))
    return tuple(outputs)


def _is_evaluated(call: Call, values: Sequence[Constant], steps: int) -> bool:
    """Whether an operator of constants may be evaluated; ``steps`` is the number of roundings of its inputs."""
    if not values or any(value.refusal is not None for value in values):
        return False
    # A bfloat16 is read as float32, and outputs would have that type.
    return not (steps and call.operator in _JUMPS) and all(value.dtype != "bfloat16" for value in values)


def _arrays(
    proto: Any,
    call: Call,
    shapes: Sequence[tuple[int, ...] | None],
    dtype: str | None,
) -> list[NDArray[Any]]:
    """Return the outputs of a node, evaluated on its constants.

    Raises
    ------
    NotComputedError
        If the node is not supported, or an output has another shape or type than was expected (None: any type).
    """
    inputs = [x.load() if isinstance(x, Constant) else None for x in call.inputs]
    try:
        with np.errstate(all="ignore"):
            arrays = [np.asarray(output) for output in evaluate(proto, call.opset, inputs)]
    except Exception as error:  # the evaluator raises many kinds for nodes that it does not support
        raise NotComputedError(f"{call.operator} of constants is not evaluated: {type(error).__name__}") from error
    has_other_dtype = dtype is not None and any(array.dtype != dtype for array in arrays)
    if [array.shape for array in arrays] != shapes or has_other_dtype:
        raise NotComputedError(f"{call.operator} computes constants of other shapes or types than was expected")
    return arrays


def _output(run: Callable[[], list[NDArray[Any]]], number: int) -> NDArray[Any]:
    return run()[number]


def _dtype(call: Call, values: Sequence[Constant]) -> str | None:
    """Return the floating type of values that are evaluated later; None: it is not known, or not floating."""
    if call.operator in _JUMPS or "output_dtype" in call.attributes:
        return None
    if call.operator == "Cast":
        dtypes = {_CASTS.get(call.attributes["to"].i, "")} if values[0].dtype in _FLOATS else set()
    else:
        dtypes = {value.dtype for value in values} & {*_FLOATS}
    return dtypes.pop() if len(dtypes) == 1 and dtypes.issubset(_FLOATS) else None


def _is_same_everywhere(call: Call, arrays: Sequence[NDArray[Any]]) -> bool:
    """Whether every runtime computes the same numbers from these arrays, by an operator that is computed alike."""
    x, *others = arrays
    is_whole = x.dtype.kind in "iu"
    attributes = {name: attribute.i for name, attribute in call.attributes.items()}
    match call.operator:
        case "Div":
            return not is_whole or bool(np.all(others[0]))
        case "Mod":
            return bool(np.all(others[0])) and (is_whole or bool(attributes.get("fmod", 0)))
        case "ReduceProd" | "Range":
            return is_whole  # for floating numbers the order of factors and sums matters
        case "Cast":
            target = np.dtype(_CASTS.get(attributes["to"], "object"))
            if target.kind == "O":  # a type that is not read
                return False
            is_rounded_to_integers = target.kind == "i" and x.dtype.kind == "f"
            return not is_rounded_to_integers or bool(np.all(np.abs(x) < 2.0**31))
    return True


def _product_shape(a: Shape, b: Shape) -> Shape:
    """Return the shape of a product of matrices as in NumPy; a vector is a row on the left, a column on the right."""
    left = (1, *a) if len(a) == 1 else a
    right = (*b, 1) if len(b) == 1 else b
    if min(len(left), len(right)) < 2 or left[-1] != right[-2]:
        raise NoBoundError(f"a product of constants of shapes {a} and {b}")
    rows = left[-2:-1] if len(a) > 1 else ()
    columns = right[-1:] if len(b) > 1 else ()
    return (*np.broadcast_shapes(left[:-2], right[:-2]), *rows, *columns)


def _shapes(call: Call, rule: OperatorRule, values: Sequence[Constant]) -> list[Shape | None]:
    """Return the shapes of all outputs; None: one is not known.

    Most are found by the builder, which is called with values of the constants' shapes in place of constants.
    """
    if call.operator == "MatMul":
        return [_product_shape(*(value.shape for value in values))]
    if call.operator == "DequantizeLinear":
        return [values[0].shape if len(values[1].shape) < 2 else None]  # scales with two axes are those of blocks
    if call.operator == "Range":
        start, limit, delta = (value.load().item() for value in values)
        return [(max(math.ceil((limit - start) / delta), 0),)]
    build = reduce(ops.Sum) if call.operator == "ReduceProd" else rule.build
    if call.operator in ("Cast", "Pow") or build is None:
        return [broadcast_shapes([value.shape for value in values])]
    constant_inputs = [number for number, x in enumerate(call.inputs) if isinstance(x, Constant)]
    float_inputs = [number for number in constant_inputs if call.inputs[number].dtype in _FLOATS]  # type: ignore[union-attr]
    last_error: Exception | None = None
    # Builders take some inputs as constants alone, so different choices of the others are tried.
    for moving in filter(None, (float_inputs, constant_inputs, constant_inputs[:1])):
        inputs: list[Value | None] = []
        for number, x in enumerate(call.inputs):
            inputs.append(Data("", x.shape) if x is not None and number in moving else x)
        trial_call = replace(call, inputs=inputs, use=lambda *_: "", missed=lambda: None)
        try:
            result = bind(trial_call, rule, build)()
        except NoBoundError as error:
            last_error = error
            continue
        outputs = result if isinstance(result, tuple) else (result,)
        return [output.shape for output in outputs]
    raise NoBoundError(str(last_error))
