"""Euclidean pooling, written out: the root of a number times an average of squares (``LPPool2d`` of order 2).

In one window this is a multiple of the Euclidean norm, which moves by at most the norm of the window's change: neither
the square nor the root alone has a constant.
"""

from __future__ import annotations

from dataclasses import replace

from specnorm.certified.network import operators as ops
from specnorm.certified.network.graph import Node
from specnorm.certified.network.patterns.parts import Nodes, factor_of, origin


def pooled(node: Node, nodes: Nodes) -> Node | None:
    """The root of a positive number times an average of squares as one node; None where it is none."""
    if not isinstance(node.operator, ops.Sqrt):
        return None
    inner, times = origin(node.inputs[0], nodes), None
    while not isinstance(inner.operator, ops.AveragePool):
        before = _same_if_positive(inner, nodes)
        if before is None:
            factor = factor_of(inner, nodes)
            if times is not None or factor is None or factor.values.size != 1 or factor.roundings:
                return None
            times, before = factor.values.item(), origin(inner.inputs[0], nodes)
            if times < 0:
                return None
        inner = before
    pool, square = inner.operator, origin(inner.inputs[0], nodes)
    # All windows have the same weights, those at the border as well.
    padded = pool.windows.padding is None or any(map(any, pool.windows.padding))
    if pool.windows.ceil or pool.divisor is not None or (padded and not pool.count_padding):
        return None
    if not isinstance(square.operator, ops.Power) or square.operator.exponent != 2:
        return None
    pooling = ops.L2Pool(pool.windows, 1.0 if times is None else times)
    return replace(node, operator=pooling, inputs=square.inputs)


def _same_if_positive(node: Node, nodes: Nodes) -> Node | None:
    """What a node leaves as it is where that is not negative; None where it may change it."""
    if isinstance(node.operator, (ops.Abs, ops.ReLU)):
        return origin(node.inputs[0], nodes)
    if isinstance(node.operator, ops.Product) and len(node.inputs) == 2:
        for sign, other in (node.inputs, node.inputs[::-1]):
            size: Node | None = origin(other, nodes)
            if not isinstance(origin(sign, nodes).operator, ops.Sign):
                continue
            signed = origin(origin(sign, nodes).inputs[0], nodes)
            while size is not None and size.name != signed.name:
                size = _same_if_positive(size, nodes)
            if size is not None:
                return size
    return None
