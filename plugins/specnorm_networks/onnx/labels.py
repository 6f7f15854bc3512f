"""Find the logits of a classifier that ends with a label or a table of probabilities: the bound is about the logits."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from specnorm_networks.onnx.nodes import Data, Value

CHOICES = {"ArgMax": 0, "ZipMap": 0}
"""Operators that return a label, or a table by labels; with the number of the input that they read numbers from."""
_RENAMING = {"ArrayFeatureExtractor": 1, "Cast": 0, "Reshape": 0, "Squeeze": 0, "Identity": 0}
"""Operators that convert a label; with the number of the input that has the label."""
_RISING = ("Softmax", "LogSoftmax")
"""Operators that keep the order of the entries."""
DOMAIN = "ai.onnx.ml"
WITHOUT_KERNELS = ("ZipMap", "ArrayFeatureExtractor")
"""Operators of this domain that have no kernel."""
_ONNX = ("ArgMax", "Cast", "Reshape", "Squeeze", "Identity", *_RISING)
_DOMAINS = {DOMAIN: WITHOUT_KERNELS, "": _ONNX, "ai.onnx": _ONNX}


def logits(
    model: Any,
    values: Mapping[str, Value],
    opset: int,
    functions: Container[tuple[str, str]],
) -> tuple[list[str], str]:
    """Return the names of the outputs, with logits in place of labels, and a note if a label was replaced."""
    nodes_by_output: dict[str, Any] = {}
    for node in model.graph.node:
        if _is_known(node, functions):
            nodes_by_output |= dict.fromkeys(node.output, node)
    names = []
    logit_names = []
    skipped_operators = dict[str, None]()  # an ordered set
    for output in model.graph.output:
        name = output.name
        skipped_before_output = list[str]()
        node = nodes_by_output.get(name)
        while node is not None and node.op_type in _RENAMING:
            name = node.input[_RENAMING[node.op_type]]
            node = nodes_by_output.get(name)
        if node is None or node.op_type not in CHOICES:
            names.append(output.name)
            continue
        name = node.input[0]
        skipped_before_output.append(node.op_type)
        axis = _axis(node, 0 if node.op_type == "ArgMax" else -1, values.get(name))
        node = nodes_by_output.get(name)
        if node is not None and node.op_type in _RISING and opset >= 13:
            before = values.get(node.input[0])
            if axis is not None and axis == _axis(node, -1, before):
                skipped_before_output.append(node.op_type)
                name = node.input[0]
        logit_names.append(name)
        skipped_operators |= dict.fromkeys(reversed(skipped_before_output))
    note = ""
    if skipped_operators:
        note = f"The bound is of the values before {', '.join(skipped_operators)}, which keep their order."
    return names + [name for name in dict.fromkeys(logit_names) if name not in names], note


def _is_known(node: Any, functions: Container[tuple[str, str]]) -> bool:
    """Whether a node is an operator of `_DOMAINS`, not a function of the model, and has the input that is read."""
    is_function = (node.domain.replace("ai.onnx", ""), node.op_type) in functions
    is_standard = node.op_type in _DOMAINS.get(node.domain, ()) and not is_function
    number = _RENAMING.get(node.op_type, 0)
    return is_standard and len(node.input) > number and bool(node.input[number])


def _axis(node: Any, default: int, value: Value | None) -> int | None:
    """Return the node's axis, counted from the first one; None if the value's shape is not known."""
    if not isinstance(value, Data) or not value.shape:
        return None
    axis = default
    for attribute in node.attribute:
        if attribute.name == "axis":
            axis = int(attribute.i)
            break
    return axis % len(value.shape)
