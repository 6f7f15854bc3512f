"""Nodes of every operator that the ONNX reader has a rule for: the graph that it reads, and the map itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from helpers.onnx_models import graph_of, model
from networks.drawing import Arguments, Shapes, Slot, numbers
from networks.onnx_arguments import DRAWS
from networks.onnx_schemas import places, versions
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from specnorm_networks import Graph
from specnorm_networks.onnx.binding import NEWEST

CONSTANT = (
    "Constant", "ConstantOfShape", "DequantizeLinear", "Shape", "Size", "Range", "Equal", "And", "Or", "Xor", "Not",
    "Floor", "Ceil", "Mod", "ReduceProd", "IsNaN", "IsInf",
)  # fmt: skip
"""Operators whose result is no function of a floating input: a product with it is bounded."""
FOLDED = (
    "Gather", "Concat", "Cast", "Slice", "Add", "Sub", "Mul", "Div", "Reshape", "Transpose", "Squeeze", "Unsqueeze",
    "Flatten", "Expand", "Tile", "Where", "Max", "Min", "Neg", "Abs", "Greater", "GreaterOrEqual", "Less",
    "LessOrEqual",
)  # fmt: skip
"""Operators that are evaluated where they are given constants."""

EVALUATED = {"BatchNormalization": 15, "DequantizeLinear": 19}
"""Operator sets whose reference is used for older ones, which mean the same: those train always, or are missing."""


@dataclass
class Drawn:
    """One node: its graph as the reader has it, and the map itself."""

    operator: str
    opset: int
    arguments: Arguments
    shapes: list[tuple[int, ...]]
    graph: Graph
    f: Callable[[NDArray[np.float64]], NDArray[np.float64]]


def _array(value: Any) -> NDArray[Any]:
    array = np.asarray(value)
    return array.astype(np.int64) if array.dtype.kind in "iu" and array.dtype != np.int8 else array


def opset_of(operator: str, d: Shapes) -> int:
    """An operator set, each version of the operator as often as any other."""
    known = list(versions(operator))
    at: int = d.choice(known)
    return d.choice([at, NEWEST]) if at == known[-1] and operator != "Upsample" else at


def given(operator: str, opset: int, arguments: Arguments) -> tuple[list[Any], dict[str, Any]]:
    """Inputs and attributes of a node; an older operator set has other names for them, or leaves some out."""
    schema = onnx.defs.get_schema(operator, opset)
    attributes = {n: v for n, v in arguments.items() if n in schema.attributes and v is not None}
    values: list[Any] = []
    for newest, each in zip(places(operator), schema.inputs, strict=False):
        name = each.name if each.name in arguments else newest
        value = arguments.get(name) if name not in attributes else None
        values += value if isinstance(value, list) and value and isinstance(value[0], Slot) else [value]
    return values, attributes


def draw(operator: str, d: Shapes) -> Drawn | None:
    opset = opset_of(operator, d)
    arguments = DRAWS[operator](d)
    constant = operator in CONSTANT or (operator in FOLDED and d.random() < 0.2)
    values, attributes = given(operator, opset, arguments)
    slots = [at for at, value in enumerate(values) if isinstance(value, Slot)]
    moving = [] if constant else sorted({at for at in slots if d.random() < 0.6} or {d.choice(slots)})
    names = []
    arrays = {}
    shapes = {}
    for at, value in enumerate(values):
        names.append("" if value is None else f"i{at}")
        if at in moving:
            shapes[f"i{at}"] = value.shape
        elif value is not None:
            arrays[f"i{at}"] = numbers(d, value.shape) if isinstance(value, Slot) else _array(value)
    while names and not names[-1]:
        names.pop()
    if len(moving) == 2 and values[moving[0]] == values[moving[1]] and d.random() < 0.2:
        names[moving[1]] = names[moving[0]]
        del shapes[f"i{moving[1]}"]
    count = arguments.get("outputs", 1)
    made = [f"o{at}" for at in range(count)]
    nodes = [helper.make_node(operator, names, made, **attributes)]
    result = d.choice(made)
    if constant:
        shapes = {"x": (1,)}
        result = "y"
        nodes += [
            helper.make_node("Cast", ["o0"], ["c"], to=TensorProto.DOUBLE),
            helper.make_node("Mul", ["x", "c"], ["y"]),
        ]
        opset = max(opset, 7)
    return _drawn(operator, opset, arguments, nodes, result, shapes, arrays)


def _drawn(
    operator: str, opset: int, arguments: Arguments, nodes: list[Any], result: str,
    shapes: dict[str, tuple[int, ...]], arrays: dict[str, Any],
) -> Drawn | None:  # fmt: skip
    moving = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, shape) for name, shape in shapes.items()]
    proto, known = (
        model(nodes, None, arrays, opset=each, inputs=moving, outputs=[result])
        for each in (opset, max(opset, EVALUATED.get(operator, 1)))
    )
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()]).tolist()
    evaluator: list[Any] = []

    def f(z: NDArray[np.float64]) -> NDArray[np.float64]:
        cuts = zip(shapes.items(), [0, *ends], ends, strict=False)
        with np.errstate(all="ignore"):
            found = evaluator[0].run([result], {name: z[a:b].reshape(shape) for (name, shape), a, b in cuts})[0]
        return np.asarray(found, dtype=np.float64).reshape(-1)

    try:
        evaluator.append(ReferenceEvaluator(known))
        if not f(np.linspace(-1, 1, ends[-1])).size:
            return None
    except Exception:  # whatever the reference makes of what it does not support
        return None
    return Drawn(operator, opset, arguments, list(shapes.values()), graph_of(proto), f)
