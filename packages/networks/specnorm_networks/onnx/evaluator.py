"""Compute one ONNX node by onnx's reference evaluator.

If the evaluator deviates from the standard, or takes too long, it gets another node of the same meaning, or NumPy
computes the node. In onnx 1.23 pooling of stride 1 forgets or exchanges its padding, "SAME" may crop, groups of
transposed convolutions get each other's weights, and older operator sets are taken for newer ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from onnx import GraphProto, NodeProto, ValueInfoProto, helper

from specnorm_networks.onnx.tensors import EXTERNAL

Inputs: TypeAlias = Sequence[Any]
"""Arrays; None for one that is left out."""
Outputs: TypeAlias = list[Any]
_NEWER = {"BatchNormalization": 15, "DequantizeLinear": 19}
"""Operator sets as which older nodes of these operators are evaluated: they mean the same. In older operator sets the
evaluator always normalizes by the batch, or lacks an attribute."""
_SLOW = frozenset(("ConvTranspose", "GridSample", "Resize", "Upsample"))
"""Operators whose entries the evaluator computes in a Python loop."""
_SMALL = 2**12
"""Bytes of a node, below which its evaluator is kept."""
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


def evaluate(node: Any, opset: int, inputs: Inputs) -> Outputs:
    """Return the outputs of a node.

    Raises
    ------
    Exception
        Any error that the evaluator raises for a node that it does not support.
    """
    if any(attribute.t.data_location == EXTERNAL for attribute in node.attribute):
        raise NotEvaluatedError  # the evaluator would read the tensor's file from the working directory
    return _SPECIAL.get(node.op_type, _run)(node, opset, inputs)


def _run(node: Any, opset: int, inputs: Inputs) -> Outputs:
    """Return the outputs of a node by the evaluator itself."""
    numbers = {name: str(number) for number, name in enumerate(dict.fromkeys(node.input)) if name}
    values = {numbers[name]: array for name, array in zip(node.input, inputs, strict=True) if name}
    call = NodeProto(op_type=node.op_type, domain=node.domain, attribute=node.attribute)
    call.input.extend(numbers.get(name, "") for name in node.input)
    call.output.extend(name and f"value {number}" for number, name in enumerate(node.output))
    is_small = call.ByteSize() < _SMALL
    evaluator = _kept_evaluator(call.SerializeToString(), opset) if is_small else _evaluator(call, opset)
    return list(evaluator.run(None, values))


@lru_cache(maxsize=256)
def _kept_evaluator(serialized: bytes, opset: int) -> Any:
    """Return onnx's evaluator of a serialized node; it is kept, since nodes that differ in names alone are one."""
    return _evaluator(NodeProto.FromString(serialized), opset)


def _evaluator(node: Any, opset: int) -> Any:
    """Return onnx's evaluator of one node."""
    from onnx.reference import ReferenceEvaluator

    graph = GraphProto(
        node=[node],
        input=[ValueInfoProto(name=name) for name in dict.fromkeys(node.input) if name],
        output=[ValueInfoProto(name=name) for name in node.output if name],
    )
    return ReferenceEvaluator(graph, opsets={"": max(opset, _NEWER.get(node.op_type, 1)), "ai.onnx.ml": 1})


def plain(attribute: Any) -> Any:
    """Return the value of an attribute: a number, text, a tuple, or a message."""
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return tuple(value) if isinstance(value, list) else value


def _with(node: Any, **attributes: Any) -> Any:
    """Return a node with other attributes and one output."""
    values = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    inputs, outputs = list(node.input), list(node.output)[:1]
    return helper.make_node(node.op_type, inputs, outputs, domain=node.domain, **values | attributes)


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
        pairs = [list(pair) for pair in zip(pads[:count], pads[count:], strict=True)]
    else:
        pairs = []
        for n, k, s in zip(sizes, reach, strides, strict=True):
            total = max((math.ceil(n / s) - 1) * s + k - n, 0)
            smaller = total // 2
            larger = total - smaller
            pairs.append([smaller, larger] if auto_pad == "SAME_UPPER" else [larger, smaller])
    if _attribute(node, "ceil_mode", 0):
        for n, pair, k, s in zip(sizes, pairs, reach, strides, strict=True):
            missing = (k - n - sum(pair)) % s
            if missing and (node.op_type != "MaxPool" or auto_pad != "NOTSET"):
                raise NotEvaluatedError
            if pair[1] + missing < k:  # else the last window begins behind the input, and is left out
                pair[1] += missing
    return pairs


def _windows(node: Any, x: Any, kernel: Sequence[int], fill: float) -> Any:
    """Return the windows of an input, padded by a number: the last axes are those of the kernel."""
    ones = [1] * len(kernel)
    strides = _attribute(node, "strides", None) or ones
    dilations = _attribute(node, "dilations", None) or ones
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    padding = [(0, 0), (0, 0)]
    for before, after in _padding(node, x.shape[2:], reach, strides):
        padding.append((before, after))
    padded = np.pad(x, padding, constant_values=fill)
    axes = tuple(range(2, x.ndim))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axes)
    entries: list[Any] = [...]
    for step in (*strides, *dilations):
        entries.append(slice(None, None, step))
    return windows[tuple(entries)]


def _pool(node: Any, _: int, inputs: Inputs) -> Outputs:
    """Pool by NumPy: the evaluator loops in Python."""
    x = inputs[0]
    kernel = _attribute(node, "kernel_shape", [])
    axes = tuple(range(-len(kernel), 0))
    if node.op_type == "MaxPool":
        return [_windows(node, x, kernel, -np.inf).max(axes)]
    count_of_padding = _attribute(node, "count_include_pad", 0)
    counts = _windows(node, np.ones_like(x[:1, :1]), kernel, count_of_padding).sum(axes)
    sums = _windows(node, x, kernel, 0).sum(axes)
    return [sums / counts]


def _convolution(node: Any, _: int, inputs: Inputs) -> Outputs:
    """Convolve by NumPy, tap by tap: the evaluator keeps all windows, and the place of each number."""
    x, weight, *biases = inputs
    groups = _attribute(node, "group", 1)
    count, channels, *taps = weight.shape
    windows = _windows(node, x, taps, 0)
    outputs = windows.shape[2 : x.ndim]
    kernels = weight.reshape(groups, count // groups, channels, *taps)
    result: Any = 0
    for tap in np.ndindex(*taps):
        pixels = windows[(..., *tap)].reshape(len(x), groups, channels, math.prod(outputs))
        result = result + kernels[(..., *tap)] @ pixels
    result = result.reshape(len(x), count, *outputs)
    if not biases or biases[0] is None:
        return [result]
    ones = [1] * len(outputs)
    return [result + biases[0].reshape(-1, *ones)]


def _transposed(node: Any, opset: int, inputs: Inputs) -> Outputs:
    """Convolve each group by itself."""
    x, weight = inputs[:2]
    groups = _attribute(node, "group", 1)
    if _attribute(node, "auto_pad", "NOTSET").startswith("SAME"):
        strides = _attribute(node, "strides", None) or [1] * (x.ndim - 2)
        if any(k < s for k, s in zip(weight.shape[2:], strides, strict=True)):
            raise NotEvaluatedError
    split: list[Any] = []
    for array, axis in zip(inputs, (1, 0, 0), strict=False):
        split.append([None] * groups if array is None else np.split(array, groups, axis))
    results = []
    for inputs_of_group in zip(*split, strict=True):
        results += _run(_with(node, group=1), opset, inputs_of_group)
    return [np.concatenate(results, axis=1)]


def _global_max(_: Any, __: int, inputs: Inputs) -> Outputs:
    """Return the maximum of each channel: the evaluator knows images alone."""
    x = inputs[0]
    axes = tuple(range(2, x.ndim))
    return [x.max(axes, keepdims=True)]


def _group_norm(node: Any, _: int, inputs: Inputs) -> Outputs:
    """Normalise groups by NumPy: the evaluator's own group norm takes no inputs."""
    x, scale, bias = inputs
    groups = _attribute(node, "num_groups", 1)
    epsilon = _attribute(node, "epsilon", 1e-5)
    flat = x.reshape(x.shape[0], groups, -1)
    centred = flat - flat.mean(-1, keepdims=True)
    variance = flat.var(-1, keepdims=True)
    normalised = centred / np.sqrt(variance + epsilon)
    channels = (-1, *(1,) * (x.ndim - 2))
    result = normalised.reshape(x.shape).astype(x.dtype)
    return [result * scale.reshape(channels) + bias.reshape(channels)]


def _softmax(node: Any, opset: int, inputs: Inputs) -> Outputs:
    """Compute softmax, or its logarithm, over all axes from ``axis`` on before operator set 13."""
    if opset >= 13:
        return _run(node, opset, inputs)
    (x,) = inputs
    first = _attribute(node, "axis", 1)
    if not -x.ndim <= first < x.ndim:
        raise NotEvaluatedError
    rows = x.reshape(math.prod(x.shape[: first % x.ndim]), -1)
    (flat,) = _run(_with(node, axis=1), 13, [rows])
    return [flat.reshape(x.shape)]


def _linear_regressor(node: Any, opset: int, inputs: Inputs) -> Outputs:
    """Add zeros where no intercepts are stated: the evaluator adds NaN."""
    zeros = [0.0] * _attribute(node, "targets", 1)
    return _run(_with(node, intercepts=_attribute(node, "intercepts", zeros)), opset, inputs)


def _sampled(node: Any, opset: int, inputs: Inputs) -> Outputs:
    """Sample by a grid; in older operator sets, linear and cubic modes have other names, which the evaluator lacks."""
    mode = _attribute(node, "mode", "linear").removeprefix("bi")
    return _run(_with(node, mode=mode), max(opset, 20), inputs)


_SPECIAL: dict[str, Callable[[Any, int, Inputs], Outputs]] = {
    **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "GlobalMaxPool": _global_max,
    "GridSample": _sampled,
    "GroupNormalization": _group_norm,
    **dict.fromkeys(("Softmax", "LogSoftmax"), _softmax),
    "LinearRegressor": _linear_regressor,
}
