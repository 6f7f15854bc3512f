"""Euclidean pooling, written out: the root of a number times an average of squares (``LPPool2d`` of order 2).

In one window this is a multiple of the Euclidean norm, which moves by at most the norm of the window's change: neither
the square nor the root alone has a constant.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from specnorm.networks.graph import Node
from specnorm.networks.pieces import Nodes

_SQUARE = {"function": "power", "exponent": 2}
_IDLE = ({"function": "abs"}, {"function": "relu"})
"""What leaves numbers that are not negative as they are."""


def pooled_root(node: Node, nodes: Nodes) -> Node | None:
    """The root of an average of squares as one node, of the rule ``l2_pool``; None where it is none."""
    if node.rule != "pointwise" or dict(node.params) != {"function": "sqrt"}:
        return None
    inner, number = nodes[node.inputs[0]], None
    while (before := _idle(inner, nodes)) is not None or (inner.rule == "scale" and number is None):
        if before is None:
            number, before = _number(inner, nodes), nodes[inner.inputs[0]]
            if number is None:
                return None
        inner = before
    given: Any = inner.params
    if inner.rule != "average_pool" or given.get("adaptive") or given.get("ceil") or given.get("divisor"):
        return None
    # All windows have the same weights, those at the border as well.
    if not given.get("count_padding", True) and any(map(any, given["padding"])):
        return None
    square = nodes[inner.inputs[0]]
    if square.rule != "pointwise" or dict(square.params) != _SQUARE:
        return None
    told = {**given, "times": 1.0 if number is None else number}
    return Node(node.name, "l2_pool", node.operator, square.inputs, node.shape, told)


def _idle(node: Node, nodes: Nodes) -> Node | None:
    """What a node leaves as it is where that is not negative; None where it may change it."""
    if node.rule == "pointwise" and dict(node.params) in _IDLE:
        return nodes[node.inputs[0]]
    if node.rule == "product" and len(node.inputs) == 2:
        for sign, other in (node.inputs, node.inputs[::-1]):
            size: Node | None = nodes[other]
            if nodes[sign].operator.lower() != "sign" or nodes[sign].rule != "unknown":
                continue
            while size is not None and size.name != nodes[sign].inputs[0]:
                size = _idle(size, nodes)
            if size is not None:
                return size
    return None


def _number(node: Node, nodes: Nodes) -> float | None:
    """What a node multiplies by, if that is one positive number, known exactly."""
    values = np.asarray(node.params["values"], dtype=np.float64).reshape(-1)
    plain = node.params.get("exact") and node.offset is None and nodes[node.inputs[0]].shape == node.shape
    return float(values[0]) if plain and values.size == 1 and 0 < values[0] < np.inf else None
