"""One ONNX node by onnx's reference evaluator; where that is not what the standard says, by a node that means the same.

Seen in onnx 1.23: windows of stride 1 forget or exchange their padding, "SAME" may crop, groups of transposed
convolutions get each other's weights, and older operator sets are taken for newer ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from onnx import GraphProto, ValueInfoProto, helper

from specnorm_networks.onnx.tensors import EXTERNAL

Inputs: TypeAlias = Sequence[Any]
"""Arrays; None for one that is left out."""
_NEWER = {"BatchNormalization": 15, "DequantizeLinear": 19, "AveragePool": 19}
"""Operator sets that are evaluated for older ones, which mean the same: those train always, or lack an attribute."""
WINDOWS = 2**22
"""Numbers in the windows of the channels that a convolution takes at a time, about; with their places 24 bytes each."""


_SLOW = frozenset(("MaxPool", "AveragePool", "ConvTranspose", "Resize", "Upsample"))
"""Operators that the evaluator loops over in Python, which takes as long as `_LOOP` multiplications a step."""
_LOOP = 2**10


def cost(node: Any, shapes: Sequence[tuple[int, ...]]) -> int:
    """Multiplications that each entry of a node's value takes, roughly, by the shapes of its inputs."""
    windows = [
        math.prod(a.ints) for a in node.attribute if a.name == "kernel_shape" and not node.op_type.startswith("C")
    ]
    if node.op_type in ("Conv", "ConvTranspose") and len(shapes) > 1:
        windows.append(math.prod(shapes[1][1:]))
    elif node.op_type in ("MatMul", "Gemm") and shapes:
        windows.append(max(shapes[0], default=1))
    return int(max([1, *windows])) * (_LOOP if node.op_type in _SLOW else 1)


class NotEvaluatedError(Exception):
    """The evaluator does not compute what the standard says."""


def evaluate(node: Any, opset: int, inputs: Inputs) -> list[Any]:
    """Outputs of a node.

    Raises
    ------
    Exception
        Whatever the evaluator raises for what it does not support.
    """
    if any(attribute.t.data_location == EXTERNAL for attribute in node.attribute):
        raise NotEvaluatedError  # its file would be read from the working directory
    return _SPECIAL.get(node.op_type, _run)(node, opset, inputs)


def _run(node: Any, opset: int, inputs: Inputs) -> list[Any]:
    from onnx.reference import ReferenceEvaluator

    given = {name: each for name, each in zip(node.input, inputs, strict=True) if name}
    graph = GraphProto(
        node=[node],
        input=[ValueInfoProto(name=name) for name in given],
        output=[ValueInfoProto(name=name) for name in node.output if name],
    )
    evaluator: Any = ReferenceEvaluator(graph, opsets={"": max(opset, _NEWER.get(node.op_type, 1))})
    return list(evaluator.run(None, given))


def plain(attribute: Any) -> Any:
    """What an attribute holds: a number, text, a tuple, or a message."""
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return tuple(value) if isinstance(value, list) else value


def _with(node: Any, **attributes: Any) -> Any:
    """A node with other attributes; None takes one away."""
    kept = {a.name: helper.get_attribute_value(a) for a in node.attribute} | attributes
    given = {name: value for name, value in kept.items() if value is not None}
    return helper.make_node(node.op_type, list(node.input), list(node.output)[:1], **given)


def _attribute(node: Any, name: str, default: Any) -> Any:
    return next((plain(a) for a in node.attribute if a.name == name), default)


def _padding(
    node: Any,
    sizes: Sequence[int],
    reach: Sequence[int],
    strides: Sequence[int],
) -> list[list[int]]:
    """Before and after each axis, as the standard has it."""
    how = _attribute(node, "auto_pad", "NOTSET")
    if how in ("NOTSET", "VALID"):
        flat = _attribute(node, "pads", None) if how == "NOTSET" else None
        flat = flat or [0] * 2 * len(sizes)
        return [list(pair) for pair in zip(flat[: len(sizes)], flat[len(sizes) :], strict=True)]
    pairs = []
    for n, k, s in zip(sizes, reach, strides, strict=True):
        total = max((math.ceil(n / s) - 1) * s + k - n, 0)
        pairs.append([total // 2, total - total // 2][:: 1 if how == "SAME_UPPER" else -1])
    return pairs


def _pool(node: Any, opset: int, inputs: Inputs) -> list[Any]:
    """With all its attributes; of stride 1 with padding of its own."""
    x = inputs[0]
    kernel = _attribute(node, "kernel_shape", [])
    sizes = x.shape[2:]
    strides, dilations = (_attribute(node, name, None) or [1] * len(kernel) for name in ("strides", "dilations"))
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    pairs = _padding(node, sizes, reach, strides)
    rests = [(n + sum(p) - k) % s for n, p, k, s in zip(sizes, pairs, reach, strides, strict=True)]
    ceil = _attribute(node, "ceil_mode", 0) and any(rests)
    if ceil and (node.op_type != "MaxPool" or _attribute(node, "auto_pad", "NOTSET") != "NOTSET"):
        raise NotEvaluatedError
    told: dict[str, Any] = {"strides": strides, "dilations": dilations, "auto_pad": None, "ceil_mode": int(bool(ceil))}
    if node.op_type == "MaxPool" and max(*strides, *dilations) == 1:
        padded = np.pad(x, [(0, 0), (0, 0), *pairs], constant_values=-np.inf)
        return _run(_with(node, **told, pads=None), opset, [padded])
    return _run(_with(node, **told, pads=[a for side in zip(*pairs, strict=True) for a in side]), opset, inputs)


def _convolution(node: Any, opset: int, inputs: Inputs) -> list[Any]:
    """Some channels at a time: the evaluator holds all their windows, and of each number where it is read."""
    x, weight = inputs[:2]
    groups = _attribute(node, "group", 1)
    each = weight.shape[1]
    most = max(1, WINDOWS // max(x[:, 0].size * math.prod(weight.shape[2:]), 1))
    if x.shape[1] <= most or each * groups != x.shape[1]:
        return _run(node, opset, inputs)
    plain = _with(node, kernel_shape=list(weight.shape[2:]))
    del plain.input[2:]
    if groups > 1:
        step = max(1, most // each)
        wide = weight.reshape(groups, -1, *weight.shape[1:])
        made = []
        for at in range(0, groups, step):
            part = wide[at : at + step]
            given = [x[:, at * each : (at + step) * each], part.reshape(-1, *weight.shape[1:])]
            made += _convolution(_with(plain, group=len(part)), opset, given)
        found = np.concatenate(made, axis=1)
    else:
        parts = (slice(at, at + most) for at in range(0, each, most))
        found = sum(_run(plain, opset, [x[:, part], weight[:, part]])[0] for part in parts)
    bias = inputs[2] if len(inputs) > 2 else None
    return [found if bias is None else found + bias.reshape(-1, *(1,) * (x.ndim - 2))]


def _transposed(node: Any, opset: int, inputs: Inputs) -> list[Any]:
    """Each group by itself."""
    x, weight, groups = *inputs[:2], _attribute(node, "group", 1)
    if _attribute(node, "auto_pad", "NOTSET").startswith("SAME"):
        strides = _attribute(node, "strides", None) or [1] * (x.ndim - 2)
        if any(k < s for k, s in zip(weight.shape[2:], strides, strict=True)):
            raise NotEvaluatedError
    bias = inputs[2] if len(inputs) > 2 and inputs[2] is not None else None
    parts = []
    for at in range(groups):
        given: list[Any] = [np.split(each, groups, axis)[at] for each, axis in ((x, 1), (weight, 0))]
        given += [None if bias is None else np.split(bias, groups)[at]] if len(inputs) > 2 else []
        parts += _run(_with(node, group=1), opset, given)
    return [np.concatenate(parts, axis=1)]


def _flat_softmax(node: Any, opset: int, inputs: Inputs) -> list[Any]:
    """Before operator set 13: all axes from one on are one."""
    if opset >= 13:
        return _run(node, opset, inputs)
    x = inputs[0]
    axis = _attribute(node, "axis", 1)
    flat = x.reshape(math.prod(x.shape[: axis % x.ndim]), -1)
    return [each.reshape(x.shape) for each in _run(_with(node, axis=1), 13, [flat])]


def _global(node: Any, opset: int, inputs: Inputs) -> list[Any]:
    """As for images."""
    x = inputs[0]
    found = _run(node, opset, [x.reshape(*x.shape[:2], -1, 1)])
    return [each.reshape(*x.shape[:2], *(1 for _ in x.shape[2:])) for each in found]


def _unsqueeze(node: Any, opset: int, inputs: Inputs) -> list[Any]:
    """Axes in any order."""
    axes = _attribute(node, "axes", None)
    if axes is not None:
        ndim = inputs[0].ndim + len(axes)
        node = _with(node, axes=sorted(axis % ndim for axis in axes))
    return _run(node, opset, inputs)


def _group_norm(node: Any, opset: int, inputs: Inputs) -> list[Any]:
    """Groups as instances: the evaluator's own takes no inputs."""
    x, scale, bias = inputs
    groups = _attribute(node, "num_groups", 1)
    epsilon = _attribute(node, "epsilon", 1e-5)
    plain = helper.make_node("InstanceNormalization", ["x", "one", "zero"], ["y"], epsilon=epsilon)
    given = [x.reshape(x.shape[0], groups, -1), np.ones(groups, x.dtype), np.zeros(groups, x.dtype)]
    each = 1 if opset >= 21 else x.shape[1] // groups  # older ones have a scale for each group
    wide = [np.repeat(array, each).reshape(-1, *(1,) * (x.ndim - 2)) for array in (scale, bias)]
    return [_run(plain, opset, given)[0].reshape(x.shape) * wide[0] + wide[1]]


_SPECIAL: dict[str, Callable[[Any, int, Inputs], list[Any]]] = {
    **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    **dict.fromkeys(("Softmax", "LogSoftmax"), _flat_softmax),
    "GlobalMaxPool": _global,
    "Unsqueeze": _unsqueeze,
    "GroupNormalization": _group_norm,
}
