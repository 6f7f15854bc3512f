"""Euclidean norms, written out: the root of a number times a sum or a mean of squares.

It is a multiple of a Euclidean norm, which moves by at most the norm of the change: neither the square nor the root
alone has a constant.
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.graph import Node, concrete
from specnorm_networks.certified.patterns.parts import Nodes, factor_of, origin


def rooted(node: Node, nodes: Nodes) -> Node | None:
    """The root of a sum of squares, entry by entry or over axes, times a number, and of one that is added to it."""
    if not isinstance(node.operator, ops.Sqrt):
        return None
    inner, times, shift, roundings = origin(node.inputs[0], nodes), Fraction(1), 0.0, 0
    while (found := _multiplied(inner, nodes)) is not None:
        before, factor, added, lost = found
        roundings += lost
        inner, times, shift = origin(before, nodes), times * factor, shift + float(times) * added
    axes: dict[str, Any] = {}
    if isinstance(inner.operator, (ops.Sum, ops.Mean)) and inner.operator.axes:
        shape = nodes[inner.inputs[0]].shape
        counted = None if shape is None else concrete(tuple(shape[axis] for axis in inner.operator.axes))
        if counted is None or not math.prod(counted):
            return None
        times /= math.prod(counted) if isinstance(inner.operator, ops.Mean) else 1
        axes = {"axes": inner.operator.axes, "keep": inner.operator.keep}
        inner = origin(inner.inputs[0], nodes)
    terms = [(inner.name, Fraction(1))]
    if isinstance(inner.operator, ops.Add) and not axes and all(map(math.isfinite, inner.operator.weights)):
        over = inner.operator.over
        terms = [(name, Fraction(w) / over) for name, w in zip(inner.inputs, inner.operator.weights, strict=True)]
    bases = [_squared(origin(name, nodes)) for name, _ in terms]
    weights = tuple(times * weight for _, weight in terms)
    known = tuple(base for base in bases if base is not None)
    shapes = [nodes[name].shape for name in known]
    same = axes or all(shape is not None and shape == node.shape for shape in shapes)
    if len(known) < len(bases) or min(weights) < 0 or not same or not math.isfinite(shift):
        return None
    return replace(node, operator=ops.Hypot(weights, shift, **axes, roundings=roundings), inputs=known)


def _multiplied(node: Node, nodes: Nodes) -> tuple[str, Fraction, float, int] | None:
    """A value, the positive number that it is multiplied by, one not below 0 that is added, and roundings of both."""
    if isinstance(node.operator, ops.Add) and node.operator.over == 1 and len(node.inputs) == 2:
        terms = list(zip((nodes[name] for name in node.inputs), node.operator.weights, strict=True))
        for (constant, of), (other, factor) in (terms, terms[::-1]):
            if isinstance(constant.operator, ops.Constant) and other.shape == node.shape and 0 < factor < math.inf:
                number = constant.operator.run()
                added = float(of * number.item()) if number.size == 1 and number.dtype.kind == "f" else -1.0
                return (other.name, Fraction(factor), added, 0) if 0 <= added < math.inf else None
    factor_here = factor_of(node, nodes)
    if factor_here is None or factor_here.values.size != 1:
        return None
    number = np.asarray(factor_here.values).item()
    return (node.inputs[0], Fraction(number), 0.0, factor_here.roundings) if number > 0 else None


def _squared(node: Node) -> str | None:
    """The name of the value that a node is the square of."""
    if isinstance(node.operator, ops.Product) and len(node.inputs) == 2 and node.inputs[0] == node.inputs[1]:
        return node.inputs[0]
    return node.inputs[0] if isinstance(node.operator, ops.Power) and node.operator.exponent == 2 else None
