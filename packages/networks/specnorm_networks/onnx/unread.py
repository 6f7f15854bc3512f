"""Find places of a graph that may have a kernel that is not read. Each becomes a row of the audit, and fails its gates.

A product has a kernel if one of its factors does not come from the network's inputs. So each value has `origins`: the
inputs from which its numbers come. Inputs that only choose (by a comparison, an index) or give a shape do not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from onnx import defs

from specnorm_networks.onnx.nodes import FLOATING, Data, Operands
from specnorm_networks.onnx.tensors import Constant

LAYER = ""
"""Name that stands for layers among the origins of a value, if a layer computes it."""
_CONVOLUTIONS = {
    "Conv": (0, 1),
    "ConvTranspose": (0, 1),
    "ConvInteger": (0, 1),
    "DeformConv": (0, 1),
    "QLinearConv": (0, 3),
    "CausalConvWithState": (0, 1),
}
_FACTORS = _CONVOLUTIONS | {
    "MatMul": (0, 1),
    "Gemm": (0, 1),
    "MatMulInteger": (0, 1),
    "QLinearMatMul": (0, 3),
}
"""Numbers of the inputs that an operator multiplies; Einsum multiplies all of them."""
PRODUCTS = frozenset((*_FACTORS, "Einsum"))
_NUMBER_INPUTS = {"EyeLike": (), "RandomNormalLike": (), "RandomUniformLike": (), "CastLike": (0,)}
"""Numbers of the inputs whose entries the output has, for operators that take a shape or type from other inputs."""
_SIZES = ("Shape", "Size")
"""Operators that read no entries."""
_CHOICES = frozenset(("tensor(bool)", "tensor(int64)"))
"""Types of outputs that only choose."""
_CHOICE_TYPES = (5, 6, 7, 9, 12, 13)
"""Numbers of such types as targets of Cast; those of 8 bits may be quantized values, and are left out."""
_QUANTISED = ("int4", "int8", "uint4", "uint8")


@dataclass(frozen=True, eq=False)
class Hidden:
    """A possible kernel that is not read: a node, or a constant that an operator reads.

    Parameters
    ----------
    name : str
        Name of its row.
    kind : {"unknown", "none"}
        Kind of its row. "unknown" is an error; with "none" the gates stay undecided.
    reason : str
        Reason why it is not read.
    constant : Constant or None
        The constant; None: it is a node.
    multiplied : bool
        Whether the constant is a factor of a product.
    """

    name: str
    kind: Literal["unknown", "none"]
    reason: str
    constant: Constant | None = None
    multiplied: bool = False


def origins(proto: Any, opset: int, output: int, inputs: Operands) -> frozenset[str]:
    """Return the names of the network's inputs from which the numbers of a node's output come."""
    if _only_chooses(proto, opset, output):
        return frozenset()
    return frozenset[str]().union(*(value.origins for value in _read(proto, inputs)))


def varies(proto: Any, inputs: Operands) -> bool:
    """Return whether the numbers of a node's outputs depend on numbers of the network's inputs, also by a choice."""
    return proto.op_type not in _SIZES and any(value.varies for value in _read(proto, inputs))


def _read(proto: Any, inputs: Operands) -> list[Data]:
    """Return the values whose entries a node's outputs have, or by whose entries these are chosen."""
    numbers = _NUMBER_INPUTS.get(proto.op_type, range(len(inputs)))
    read = (inputs[number] for number in numbers if number < len(inputs))
    return [value for value in read if isinstance(value, Data)]


def _only_chooses(proto: Any, opset: int, output: int) -> bool:
    """Whether the output with this number has truth values or whole numbers, which choose entries of others."""
    if proto.op_type == "Cast":
        return any(attribute.name == "to" and attribute.i in _CHOICE_TYPES for attribute in proto.attribute)
    try:
        schema = defs.get_schema(proto.op_type, opset, proto.domain)
    except defs.SchemaError:
        return False
    if not schema.outputs:
        return False
    type_name = schema.outputs[min(output, len(schema.outputs) - 1)].type_str
    allowed_types: Sequence[str] = [type_name]
    for constraint in schema.type_constraints:
        if constraint.type_param_str == type_name:
            allowed_types = constraint.allowed_type_strs
            break
    return _CHOICES.issuperset(allowed_types)


def unread(proto: Any, inputs: Operands, label: str) -> Iterator[Hidden]:
    """Yield the possible kernels of a node without a rule."""
    operator = f"{proto.op_type[:40]} ({label[:80]})"
    multiplies = proto.op_type in PRODUCTS
    factors = []
    for number in _FACTORS.get(proto.op_type, range(len(inputs))):
        if number < len(inputs) and inputs[number] is not None:
            factors.append(inputs[number])
    if not any(isinstance(value, Data) and value.depends for value in inputs):
        return  # the outputs do not depend on the network's inputs: nodes that read them are looked at
    for value in inputs:
        is_factor = multiplies and any(value is factor for factor in factors)
        if not isinstance(value, Constant):
            continue
        has_numbers = value.dtype.startswith((*FLOATING, "float", *_QUANTISED))
        if is_factor or (len(value.shape) > 1 and has_numbers):
            # Integers may be positions or amounts, and an array of more than five axes is no kernel.
            has_shape_of_kernel = is_factor or 2 <= len(value.shape) <= 5
            is_kernel = has_shape_of_kernel and value.dtype.startswith(FLOATING)
            kind: Any = "unknown" if is_kernel else "none"
            reason = f"it is a weight of {operator}, which is not read as a layer."
            yield Hidden(value.name, kind, reason, value, is_factor)
    data = [value for value in factors if isinstance(value, Data)]
    if proto.op_type in _CONVOLUTIONS and len(data) == len(factors):
        yield Hidden(label, "unknown", f"the kernel of {operator} is an input or computed, and is not measured.")
    elif any(_may_be_kernel(value, multiplies, factors) for value in data):
        yield Hidden(label, "unknown", f"{operator} uses a constant that is not evaluated, and may be a kernel.")
    elif multiplies and len(data) > 1 and not frozenset[str].intersection(*(value.origins for value in data)):
        yield Hidden(label, "none", f"{operator} multiplies values of different inputs, of which one may be a kernel.")


def _may_be_kernel(value: Data, multiplies: bool, factors: Operands) -> bool:
    """Whether a computed value may be a constant, or one of several, by which a node multiplies.

    Beside a constant factor, which has a row, a value that an input chooses is what it multiplies: a one-hot, say.
    """
    if value.origins or (value.depends and not multiplies):
        return False
    return not (value.varies and any(isinstance(factor, Constant) for factor in factors))
