"""Compute one ONNX node by onnx's reference evaluator.

If the evaluator deviates from the standard, it gets another node of the same meaning. In onnx 1.23 pooling of stride 1
forgets or exchanges its padding, "SAME" may crop, groups of transposed convolutions get each other's weights, and older
operator sets are taken for newer ones.
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
"""Operator sets as which older nodes of these operators are evaluated: they mean the same. In older operator sets the
evaluator always normalises by the batch, or lacks an attribute."""
WINDOWS = 2**22
"""Largest number of entries in the windows of the channels that are convolved at a time, about; each takes 24 bytes."""
_SLOW = frozenset(("MaxPool", "AveragePool", "ConvTranspose", "Resize", "Upsample"))
"""Operators whose entries the evaluator computes in a Python loop."""
_LOOP = 2**10
"""Multiplications that take as long as one step of such a loop."""


def cost(node: Any, shapes: Sequence[tuple[int, ...]]) -> int:
    """Estimate the multiplications for each entry of a node's value, from the shapes of its inputs."""
    windows = [1]
    if not node.op_type.startswith("C"):
        windows += [math.prod(attribute.ints) for attribute in node.attribute if attribute.name == "kernel_shape"]
    if node.op_type in ("Conv", "ConvTranspose") and len(shapes) > 1:
        windows.append(math.prod(shapes[1][1:]))
    elif node.op_type in ("MatMul", "Gemm") and shapes:
        windows.append(max(shapes[0], default=1))
    return int(max(windows)) * (_LOOP if node.op_type in _SLOW else 1)


class NotEvaluatedError(Exception):
    """The evaluator does not compute what the standard says."""


def evaluate(node: Any, opset: int, inputs: Inputs) -> list[Any]:
    """Return the outputs of a node.

    Raises
    ------
    Exception
        Any error that the evaluator raises for a node that it does not support.
    """
    if any(attribute.t.data_location == EXTERNAL for attribute in node.attribute):
        raise NotEvaluatedError  # the evaluator would read the tensor's file from the working directory
    return _SPECIAL.get(node.op_type, _run)(node, opset, inputs)


def _run(node: Any, opset: int, inputs: Inputs) -> list[Any]:
    """Return the outputs of a node by the evaluator itself."""
    from onnx.reference import ReferenceEvaluator

    values = {name: array for name, array in zip(node.input, inputs, strict=True) if name}
    graph = GraphProto(
        node=[node],
        input=[ValueInfoProto(name=name) for name in values],
        output=[ValueInfoProto(name=name) for name in node.output if name],
    )
    evaluator: Any = ReferenceEvaluator(graph, opsets={"": max(opset, _NEWER.get(node.op_type, 1))})
    return list(evaluator.run(None, values))


def plain(attribute: Any) -> Any:
    """Return the value of an attribute: a number, text, a tuple, or a message."""
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return tuple(value) if isinstance(value, list) else value


def _with(node: Any, **attributes: Any) -> Any:
    """Return a node with other attributes and one output; None removes an attribute."""
    values = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    values |= attributes
    present = {name: value for name, value in values.items() if value is not None}
    return helper.make_node(node.op_type, list(node.input), list(node.output)[:1], **present)


def _attribute(node: Any, name: str, default: Any) -> Any:
    return next((plain(a) for a in node.attribute if a.name == name), default)


def _padding(
    node: Any,
    sizes: Sequence[int],
    reach: Sequence[int],
    strides: Sequence[int],
) -> list[list[int]]:
    """Return the padding before and behind each axis, by the standard.

    ``reach``: extent of a window along each axis.
    """
    auto_pad = _attribute(node, "auto_pad", "NOTSET")
    count = len(sizes)
    if auto_pad in ("NOTSET", "VALID"):
        pads = _attribute(node, "pads", None) if auto_pad == "NOTSET" else None
        pads = pads or [0] * 2 * count
        return [list(pair) for pair in zip(pads[:count], pads[count:], strict=True)]
    pairs = []
    for n, k, s in zip(sizes, reach, strides, strict=True):
        total = max((math.ceil(n / s) - 1) * s + k - n, 0)
        smaller = total // 2
        larger = total - smaller
        pairs.append([smaller, larger] if auto_pad == "SAME_UPPER" else [larger, smaller])
    return pairs


def _pool(node: Any, opset: int, inputs: Inputs) -> list[Any]:
    """Pool with all attributes written out; with stride 1, of an input that is padded before."""
    x = inputs[0]
    kernel = _attribute(node, "kernel_shape", [])
    sizes = x.shape[2:]
    strides = _attribute(node, "strides", None) or [1] * len(kernel)
    dilations = _attribute(node, "dilations", None) or [1] * len(kernel)
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    pairs = _padding(node, sizes, reach, strides)
    rests = []
    for n, pair, k, s in zip(sizes, pairs, reach, strides, strict=True):
        rests.append((n + sum(pair) - k) % s)
    ceil = _attribute(node, "ceil_mode", 0) and any(rests)
    if ceil and (node.op_type != "MaxPool" or _attribute(node, "auto_pad", "NOTSET") != "NOTSET"):
        raise NotEvaluatedError
    attributes: dict[str, Any] = {
        "strides": strides,
        "dilations": dilations,
        "auto_pad": None,
        "ceil_mode": int(bool(ceil)),
    }
    if node.op_type == "MaxPool" and max(*strides, *dilations) == 1:
        padded = np.pad(x, [(0, 0), (0, 0), *pairs], constant_values=-np.inf)
        return _run(_with(node, **attributes, pads=None), opset, [padded])
    befores = [before for before, _ in pairs]
    behinds = [behind for _, behind in pairs]
    return _run(_with(node, **attributes, pads=[*befores, *behinds]), opset, inputs)


def _convolution(node: Any, opset: int, inputs: Inputs) -> list[Any]:
    """Convolve some channels at a time: the evaluator keeps all their windows, and the place of each number."""
    x, weight = inputs[:2]
    channels = x.shape[1]
    groups = _attribute(node, "group", 1)
    channels_of_group = weight.shape[1]
    windows_of_channel = x[:, 0].size * math.prod(weight.shape[2:])
    at_once = max(1, WINDOWS // max(windows_of_channel, 1))
    if channels <= at_once or channels_of_group * groups != channels:
        return _run(node, opset, inputs)
    without_bias = _with(node, kernel_shape=list(weight.shape[2:]))
    del without_bias.input[2:]
    if groups > 1:
        result = _groups_in_parts(without_bias, opset, x, weight, groups, max(1, at_once // channels_of_group))
    else:
        result = 0
        for first in range(0, channels, at_once):
            part = slice(first, first + at_once)
            (summand,) = _run(without_bias, opset, [x[:, part], weight[:, part]])
            result = result + summand
    bias = inputs[2] if len(inputs) > 2 else None
    return [result if bias is None else result + bias.reshape(-1, *(1,) * (x.ndim - 2))]


def _groups_in_parts(node: Any, opset: int, x: Any, weight: Any, groups: int, at_once: int) -> Any:
    """Return a convolution without bias, some groups at a time."""
    channels_of_group = weight.shape[1]
    by_group = weight.reshape(groups, -1, *weight.shape[1:])
    results = []
    for first in range(0, groups, at_once):
        part = by_group[first : first + at_once]
        channels = slice(first * channels_of_group, (first + at_once) * channels_of_group)
        part_node = _with(node, group=len(part))
        kernel = part.reshape(-1, *weight.shape[1:])
        results += _convolution(part_node, opset, [x[:, channels], kernel])
    return np.concatenate(results, axis=1)


def _transposed(node: Any, opset: int, inputs: Inputs) -> list[Any]:
    """Convolve each group by itself."""
    x, weight = inputs[:2]
    groups = _attribute(node, "group", 1)
    if _attribute(node, "auto_pad", "NOTSET").startswith("SAME"):
        strides = _attribute(node, "strides", None) or [1] * (x.ndim - 2)
        if any(k < s for k, s in zip(weight.shape[2:], strides, strict=True)):
            raise NotEvaluatedError
    x_of_group = np.split(x, groups, 1)
    weight_of_group = np.split(weight, groups, 0)
    bias_of_group: Sequence[Any] = [None] * groups
    if len(inputs) > 2 and inputs[2] is not None:
        bias_of_group = np.split(inputs[2], groups)
    results = []
    for group in range(groups):
        inputs_of_group = [x_of_group[group], weight_of_group[group]]
        if len(inputs) > 2:
            inputs_of_group.append(bias_of_group[group])
        results += _run(_with(node, group=1), opset, inputs_of_group)
    return [np.concatenate(results, axis=1)]


def _global(node: Any, opset: int, inputs: Inputs) -> list[Any]:
    """Pool all pixels, along one axis."""
    x = inputs[0]
    outputs = _run(node, opset, [x.reshape(*x.shape[:2], -1, 1)])
    shape = (*x.shape[:2], *(1 for _ in x.shape[2:]))
    return [output.reshape(shape) for output in outputs]


def _group_norm(node: Any, opset: int, inputs: Inputs) -> list[Any]:
    """Normalise groups as instances: the evaluator's own group norm takes no inputs."""
    x, scale, bias = inputs
    groups = _attribute(node, "num_groups", 1)
    epsilon = _attribute(node, "epsilon", 1e-5)
    instance_norm = helper.make_node("InstanceNormalization", ["x", "one", "zero"], ["y"], epsilon=epsilon)
    flat = x.reshape(x.shape[0], groups, -1)
    unit_scale = np.ones(groups, x.dtype)
    no_bias = np.zeros(groups, x.dtype)
    (normalised,) = _run(instance_norm, opset, [flat, unit_scale, no_bias])
    repeats = 1 if opset >= 21 else x.shape[1] // groups  # older operator sets have a scale for each group
    ones = (1,) * (x.ndim - 2)
    scale_of_channel = np.repeat(scale, repeats).reshape(-1, *ones)
    bias_of_channel = np.repeat(bias, repeats).reshape(-1, *ones)
    return [normalised.reshape(x.shape) * scale_of_channel + bias_of_channel]


_SPECIAL: dict[str, Callable[[Any, int, Inputs], list[Any]]] = {
    **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "GlobalMaxPool": _global,
    "GroupNormalization": _group_norm,
}
