"""Activations of several operators, as they are read from ONNX nodes: each is one function."""

from __future__ import annotations

from typing import Any

from helpers.onnx_models import graph_of, model, node
from specnorm_networks.certified.patterns import recognise_patterns
from specnorm_networks.certified.patterns.curves.composite import Composite


def _read(*nodes: Any) -> Composite:
    graph = recognise_patterns(graph_of(model(nodes, (1, 4), opset=20)))
    operator = graph.by_name["y"].operator
    assert isinstance(operator, Composite)
    return operator


GELU = _read(node("Gelu", "x"))
TANH_GELU = _read(node("Gelu", "x", approximate="tanh"))
SILU = _read(node("Sigmoid", "x", out="gate"), node("Mul", "x", "gate"))
MISH = _read(node("Mish", "x"))
HARD_SWISH = _read(node("HardSwish", "x"))
