"""Classifiers' ends that keep the order of logits (a label, a table of probabilities): the bound is of the logits."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from specnorm_networks.onnx.nodes import Data, Value

CHOICES = {"ArgMax": 0, "ZipMap": 0}
"""Operators that make a label, or a table by label, with the input that holds the numbers."""
_RENAMING = {"ArrayFeatureExtractor": 1, "Cast": 0, "Reshape": 0, "Squeeze": 0, "Identity": 0}
"""Operators that write a label in another way, with the input that holds it."""
_RISING = ("Softmax", "LogSoftmax")
DOMAIN = "ai.onnx.ml"
WITHOUT_KERNELS = ("ZipMap", "ArrayFeatureExtractor")
_ONNX = ("ArgMax", "Cast", "Reshape", "Squeeze", "Identity", *_RISING)
_DOMAINS = {DOMAIN: WITHOUT_KERNELS, "": _ONNX, "ai.onnx": _ONNX}


def logits(
    model: Any,
    values: Mapping[str, Value],
    opset: int,
    functions: Container[tuple[str, str]],
) -> tuple[list[str], str]:
    """Names of the outputs, those of labels replaced by what decides them, and a sentence that says so."""
    makers = {name: node for node in model.graph.node for name in node.output if _is_known(node, functions)}
    names = []
    decisive = []
    passed = dict[str, None]()
    for output in model.graph.output:
        name = output.name
        on_the_way = list[str]()
        node = makers.get(name)
        while node is not None and node.op_type in _RENAMING:
            name = node.input[_RENAMING[node.op_type]]
            node = makers.get(name)
        if node is None or node.op_type not in CHOICES:
            names.append(output.name)
            continue
        name = node.input[0]
        on_the_way.append(node.op_type)
        axis = _axis(node, 0 if node.op_type == "ArgMax" else -1, values.get(name))
        node = makers.get(name)
        if node is not None and node.op_type in _RISING and opset >= 13:
            before = values.get(node.input[0])
            if axis is not None and axis == _axis(node, -1, before):
                on_the_way.append(node.op_type)
                name = node.input[0]
        decisive.append(name)
        passed |= dict.fromkeys(reversed(on_the_way))
    note = f"The bound is of the values before {', '.join(passed)}, which keep their order." if passed else ""
    return names + [name for name in dict.fromkeys(decisive) if name not in names], note


def _is_known(node: Any, functions: Container[tuple[str, str]]) -> bool:
    """Whether an operator here is the standard's, not the model's own, and has the input that counts."""
    own = (node.domain.replace("ai.onnx", ""), node.op_type) in functions
    named = node.op_type in _DOMAINS.get(node.domain, ()) and not own
    return named and any(node.input[_RENAMING.get(node.op_type, 0) :][:1])


def _axis(node: Any, default: int, value: Value | None) -> int | None:
    if not isinstance(value, Data) or not value.shape:
        return None
    given = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), default)
    return int(given) % len(value.shape)
