"""Constants of a graph: operators that state them, and operators that compute them from other constants.

What depends on no input is computed by onnx's reference evaluator in the file's types, whatever the operator is; its
shapes and types are those of onnx's own inference for the one node. Every runtime computes some operators alike:
integers, comparisons, moves, and floating operations that IEEE 754 rounds correctly. If their values are small, they
are evaluated at once, since shapes may depend on them. Values of other operators differ between runtimes by rounding.
So no size, comparison or integer, which could jump, is computed from them; and they are evaluated when somebody reads
them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
from onnx import defs, helper, numpy_helper, shape_inference

from specnorm.errors import ModelFileError
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.operators import NoBoundError
from specnorm_networks.certified.operators.base import Shape
from specnorm_networks.onnx.binding import NEWEST, Numbers, Wholes
from specnorm_networks.onnx.evaluator import cost, evaluate
from specnorm_networks.onnx.nodes import MAX_FOLDED, MAX_KNOWN, Call, Output, Value, has_graphs
from specnorm_networks.onnx.tensors import Array, Constant, Tensors

WORK = 2**36
"""Largest number of multiplications for all constants together."""
_DEEPEST = 64
"""Largest number of constants, each computed from the one before, that are not evaluated yet."""
_FLOATS = ("float16", "float32", "float64")
_CASTS = (*_FLOATS, "int32", "int64", "bool")
"""Types to which a constant may be cast."""
_MOST_AMOUNTS = 2**10
"""Largest number of entries of a constant that may state a shape."""
OLDEST = 13
"""Oldest operator set of which operators without a rule are evaluated: the evaluator takes older ones for newer."""
_JUMPS = frozenset((
    "Sign", "Floor", "Ceil", "Round", "Mod", "Hardmax", "ThresholdedRelu", "Shrink",
))  # fmt: skip
"""Operators of floating values that jump: a rounding of their inputs may change them much."""
_ALIKE = _JUMPS.union((
    "Abs", "Add", "And", "Cast", "Concat", "Div", "Equal", "Expand", "Gather", "Greater", "GreaterOrEqual", "IsInf",
    "IsNaN", "Less", "LessOrEqual", "Max", "Min", "Mul", "Neg", "Not", "Or", "Range", "ReduceProd", "Slice",
    "Split", "Sqrt", "Sub", "Tile", "Trilu", "Where", "Xor",
))  # fmt: skip
"""Operators that every runtime computes alike: they are exact, or round as IEEE 754 says."""


RANDOM = frozenset(
    ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Dropout")
)
"""Operators that draw random numbers; a dropout without a rule is in training."""


_COMPARISONS = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
_FAR = 1e-3
"""Relative distance of two rounded constants from which no rounding decides which of them is larger."""


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
    raise NoBoundError("this type of constant is not supported")


def shape_of(call: Call, x: Value, /, *, start: int = 0, end: int | None = None) -> Constant | Output:
    """Return the shape of a value (Shape), or its number of entries (Size)."""
    if x.shape is None:
        return Output(ops.Held("its shape is unknown: give the input shape"), (), None)
    sizes = x.shape[start:end]
    return call.fold(np.asarray(sizes if call.operator == "Shape" else math.prod(sizes), dtype=np.int64))


def filled(call: Call, shape: Wholes, /, *, value: Constant | None = None) -> Constant | Output:
    """Return the constant of a ConstantOfShape node with a small shape."""
    if len(shape) > 16 or min(shape, default=0) < 0 or math.prod(shape) > MAX_FOLDED:
        return Output(ops.Held("this constant is not evaluated"), (), None)
    entry = np.zeros(1, np.float32) if value is None else np.ravel(value.load())
    return call.fold(np.full(shape, entry[0]))


# -- what is computed from them ----------------------------------------------------------------------------------------
def computed(proto: Any, call: Call, since: int, reader: Tensors) -> tuple[Constant, ...]:
    """Return the outputs of a node whose inputs are constants.

    Parameters
    ----------
    proto : NodeProto
        The node.
    since : int
        Oldest operator set of which the operator is evaluated.
    reader : Tensors
        Reader of the model; it limits how much is computed.

    Raises
    ------
    NoBoundError
        If the node is not evaluated.
    """
    values = [value for value in call.inputs if isinstance(value, Constant)]
    # A bfloat16 is read as float32, and outputs would have that type.
    is_read = all(value.refusal is None and value.dtype != "bfloat16" for value in values)
    is_standard = since <= call.opset <= NEWEST and not has_graphs(proto) and call.operator not in RANDOM
    if not (values and is_read and is_standard):
        raise NoBoundError(f"{call.operator} of constants is not evaluated")
    outputs = _inferred(proto, call)
    shapes = [shape for shape, _ in outputs]
    dtypes = [dtype for _, dtype in outputs]
    is_alike = call.operator in _ALIKE
    is_rounded = any(value.is_rounded for value in values)
    may_jump = call.operator in _JUMPS or not {*dtypes} <= {*_FLOATS}
    is_decided = is_rounded and _is_decided(call, values)
    if is_rounded and may_jump and not is_decided:
        raise NoBoundError(f"{call.operator} of rounded constants is not evaluated: it is discontinuous")
    sizes = [math.prod(shape) for shape in shapes]
    cost_of_entry = cost(proto, [x.shape if isinstance(x, Constant) else () for x in call.inputs])
    fits = max(sizes) <= max(MAX_KNOWN, reader.largest)
    byte_count = sum(size * np.dtype(dtype).itemsize for size, dtype in zip(sizes, dtypes, strict=True))
    if not fits or not reader.computes(byte_count, sum(sizes) * cost_of_entry, WORK):
        raise NoBoundError(
            f"{call.operator} of constants with {max(sizes)} entries is not evaluated: they are too large"
        )

    run = cache(partial(_arrays, proto, call, outputs))
    steps = max(value.steps for value in values)
    is_small = sum(value.size for value in values) <= MAX_FOLDED and max(sizes) <= MAX_FOLDED
    if is_decided:
        return tuple(map(call.fold, run()))
    if is_alike and not steps and is_small:
        if not _is_same_everywhere(call, [value.load() for value in values]):
            raise NoBoundError(
                f"{call.operator} of these constants is not evaluated: runtimes compute different results"
            )
        return tuple(map(call.fold, run()))
    if not {*dtypes} <= {*_FLOATS}:
        raise NoBoundError(f"{call.operator} of constants of {max(sizes)} entries is not evaluated")
    if steps >= _DEEPEST:
        run()
        steps = 0
    largest = max(values, key=lambda value: value.size)  # the outputs have its name in messages
    constants = []
    for number, (shape, dtype) in enumerate(outputs):
        load = partial(_output, run, number)
        made = replace(largest, shape=shape, dtype=dtype, load=load, key=object(), steps=steps + 1)
        constants.append(replace(made, is_rounded=is_rounded or not is_alike))
    return tuple(constants)


def _is_decided(call: Call, values: Sequence[Constant]) -> bool:
    """Whether a comparison of rounded constants is the same for all numbers near them: no entries are nearly equal."""
    if call.operator not in _COMPARISONS or sum(value.size for value in values) > MAX_FOLDED:
        return False
    try:
        one, other = np.broadcast_arrays(*(value.load().astype(np.float64) for value in values))
    except (ModelFileError, ValueError):
        return False
    sizes = np.maximum(abs(one), abs(other))
    return bool(np.all(np.isfinite(sizes) & (abs(one - other) > _FAR * sizes)))


def _inferred(proto: Any, call: Call) -> list[tuple[Shape, str]]:
    """Return the shape and type of each output, as onnx infers them for this node; `NoBoundError` if one is open."""
    types: dict[str, Any] = {}
    numbers: dict[str, Any] = {}
    for name, value in zip(proto.input, call.inputs, strict=True):
        if not isinstance(value, Constant):
            continue
        element_type = helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype))
        types[name] = helper.make_tensor_type_proto(element_type, value.shape)
        if value.size <= _MOST_AMOUNTS and not value.steps:  # may be a shape, or a number of entries
            numbers[name] = numpy_helper.from_array(value.load(), name)
    try:
        schema = defs.get_schema(call.operator, call.opset)
        others = {*call.attributes} - {*schema.attributes}
        if others:
            raise NoBoundError(f"the attribute {min(others)[:40]} of {call.operator} is not supported")
        opsets = [helper.make_opsetid("", call.opset)]
        found = shape_inference.infer_node_outputs(schema, proto, types, numbers, opset_imports=opsets)
        tensors = [found[name].tensor_type for name in proto.output if name]
        dtypes = [helper.tensor_dtype_to_np_dtype(tensor.elem_type).name for tensor in tensors]
    except NoBoundError:
        raise
    except Exception as error:  # onnx raises many kinds for nodes that it does not know
        raise NoBoundError(f"{call.operator} of constants is not evaluated: {type(error).__name__}") from error
    sizes = [dim for tensor in tensors for dim in tensor.shape.dim]
    has_shapes = len(tensors) == len(proto.output) and all(tensor.HasField("shape") for tensor in tensors)
    if not has_shapes or any(not dim.HasField("dim_value") or dim.dim_value < 0 for dim in sizes):
        raise NoBoundError(f"{call.operator} of constants is not evaluated: its shape is unknown")
    shapes = [tuple(int(dim.dim_value) for dim in tensor.shape.dim) for tensor in tensors]
    return list(zip(shapes, dtypes, strict=True))


def _arrays(proto: Any, call: Call, expected: Sequence[tuple[Shape, str]]) -> list[Array]:
    """Return the outputs of a node, evaluated on its constants.

    ``expected``: shape and type of each. `NotComputedError` if the node is not supported, or an output has others.
    """
    inputs = [x.load() if isinstance(x, Constant) else None for x in call.inputs]
    try:
        with np.errstate(all="ignore"):
            arrays = [np.asarray(output) for output in evaluate(proto, call.opset, inputs)]
    except Exception as error:  # the evaluator raises many kinds for nodes that it does not support
        raise NotComputedError(f"{call.operator} of constants is not evaluated: {type(error).__name__}") from error
    if [(array.shape, array.dtype.name) for array in arrays] != [*expected]:
        raise NotComputedError(f"{call.operator} computes constants of other shapes or types than was expected")
    return arrays


def _output(run: Callable[[], list[Array]], number: int) -> Array:
    return run()[number]


def _is_same_everywhere(call: Call, arrays: Sequence[Array]) -> bool:
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
            target = np.dtype(helper.tensor_dtype_to_np_dtype(attributes["to"]))
            if target.name not in _CASTS:
                return False
            is_rounded_to_integers = target.kind == "i" and x.dtype.kind == "f"
            return not is_rounded_to_integers or bool(np.all(np.abs(x) < 2.0**31))
    return True
