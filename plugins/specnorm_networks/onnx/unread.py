"""Where a graph may hold a kernel that is not read: each such place becomes a row, so that no gate passes it unseen.

A product has a kernel if one of its factors does not come from the network's inputs. So each value knows from which
inputs its numbers come: not those that merely choose (a comparison, an index), nor those whose shape alone counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from onnx import defs

from specnorm_networks.onnx.nodes import FLOATING, Data, Value
from specnorm_networks.onnx.tensors import Constant

LAYER = ""
"""Stands among the origins of what a layer computes."""
_CONVOLUTIONS = {
    "Conv": (0, 1), "ConvTranspose": (0, 1), "ConvInteger": (0, 1), "DeformConv": (0, 1), "QLinearConv": (0, 3),
    "CausalConvWithState": (0, 1),
}  # fmt: skip
_FACTORS = _CONVOLUTIONS | {"MatMul": (0, 1), "Gemm": (0, 1), "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3)}
"""Inputs that operators multiply; Einsum multiplies all of them."""
PRODUCTS = frozenset((*_FACTORS, "Einsum"))
_OF_VALUES = {"EyeLike": (), "RandomNormalLike": (), "RandomUniformLike": (), "CastLike": (0,)}
"""Inputs whose numbers reach the output, where others give a shape or type alone."""
_CHOICES = frozenset(("tensor(bool)", "tensor(int64)"))
_CHOICE_TYPES = (5, 6, 7, 9, 12, 13)
"""Element types of truths and whole numbers; those of 8 bits may be quantised values."""
_QUANTISED = ("int4", "int8", "uint4", "uint8")


@dataclass(frozen=True, eq=False)
class Hidden:
    """What may be a kernel and is not read: a node, or a constant in an operator.

    Parameters
    ----------
    name : str
        Of its row.
    kind : {"unknown", "none"}
        Of its row: an error, or what leaves a gate undecided.
    constant : Constant or None
        None: no constant stands for it.
    multiplied : bool
        Whether the constant is a factor of a product.
    """

    name: str
    kind: Literal["unknown", "none"]
    reason: str
    constant: Constant | None = None
    multiplied: bool = False


def origins(proto: Any, opset: int, at: int, inputs: Sequence[Value | None]) -> frozenset[str]:
    """Names of the inputs that the numbers of a node's output come from."""
    if _chooses(proto, opset, at):
        return frozenset()
    counted = [inputs[j] for j in _OF_VALUES.get(proto.op_type, range(len(inputs))) if j < len(inputs)]
    return frozenset[str]().union(*(value.origins for value in counted if isinstance(value, Data)))


def _chooses(proto: Any, opset: int, at: int) -> bool:
    """Whether an output holds truths or whole numbers."""
    if proto.op_type == "Cast":
        return any(each.name == "to" and each.i in _CHOICE_TYPES for each in proto.attribute)
    try:
        schema = defs.get_schema(proto.op_type, opset, proto.domain)
    except defs.SchemaError:
        return False
    if not schema.outputs:
        return False
    kind = schema.outputs[min(at, len(schema.outputs) - 1)].type_str
    allowed = next((c.allowed_type_strs for c in schema.type_constraints if c.type_param_str == kind), [kind])
    return _CHOICES.issuperset(allowed)


def unread(proto: Any, inputs: Sequence[Value | None], label: str) -> Iterator[Hidden]:
    """What may be kernels of a node without a rule."""
    operator = f"{proto.op_type[:40]} ({label[:80]})"
    multiplies = proto.op_type in PRODUCTS
    places = _FACTORS.get(proto.op_type, range(len(inputs)))
    factors = [inputs[at] for at in places if at < len(inputs) and inputs[at] is not None]
    if not any(isinstance(value, Data) and value.depends for value in inputs):
        return  # what comes out is a constant, and is judged where it is used
    for value in inputs:
        multiplied = multiplies and any(value is factor for factor in factors)
        if isinstance(value, Constant) and (multiplied or _is_weight(value)):
            # Integers may say where and how much, and more axes hold what is no kernel.
            shaped = multiplied or 2 <= len(value.shape) <= 5
            kind: Any = "unknown" if shaped and value.dtype.startswith(FLOATING) else "none"
            reason = f"it is a weight of {operator}, which is not read as a layer."
            yield Hidden(value.name, kind, reason, value, multiplied)
    data = [value for value in factors if isinstance(value, Data)]
    if proto.op_type in _CONVOLUTIONS and len(data) == len(factors):
        yield Hidden(label, "unknown", f"the kernel of {operator} is an input or computed, and is not measured.")
    elif any(not value.origins and (multiplies or not value.depends) for value in data):
        yield Hidden(label, "unknown", f"{operator} uses a constant that is not evaluated, and may be a kernel.")
    elif multiplies and len(data) > 1 and not frozenset[str].intersection(*(value.origins for value in data)):
        yield Hidden(label, "none", f"{operator} multiplies values of different inputs, of which one may be a kernel.")


def _is_weight(constant: Constant) -> bool:
    return len(constant.shape) > 1 and constant.dtype.startswith((*FLOATING, "float", *_QUANTISED))
