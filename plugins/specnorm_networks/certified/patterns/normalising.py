"""Values divided by a function of their own length, written out.

These are x / max(|x|, eps), x / (|x| + eps), x / |x|, and x / sqrt(mean(x^2) + eps), as layer norm and RMS norm are
exported; also as products with an inverse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.graph import Node, concrete
from specnorm_networks.certified.operators.normalisation import Form
from specnorm_networks.certified.patterns.parts import Nodes, origin


def normalised(node: Node, nodes: Nodes, fresh: Callable[[str], str]) -> list[Node] | None:
    """The length of a value, and its quotient by a function of it; None where a node is no such quotient."""
    found = _divided(node, nodes)
    if found is None:
        return None
    top, (source, axes, eps, form) = found
    shape = nodes[source].shape
    if shape is None or node.shape != shape or origin(top, nodes).name != origin(source, nodes).name:
        return None
    ones = tuple(1 if axis in axes else n for axis, n in enumerate(shape))
    lengths = Node(fresh(f"{node.name}.length"), ops.Norm(axes, keep=True), (source,), ones, node.label, derived=True)
    return [lengths, replace(node, operator=ops.Normalise(axes, eps, form), inputs=(source, lengths.name))]


_Divisor = tuple[str, tuple[int, ...], float, Form]
"""Whose length, along which axes, eps, and how both are one."""


def _divided(node: Node, nodes: Nodes) -> tuple[str, _Divisor] | None:
    """What is divided, and by what: a quotient, or a product with an inverse."""
    if len(node.inputs) != 2:
        return None
    if isinstance(node.operator, ops.Quotient):
        divisor = _length(_spread(node.inputs[1], nodes), nodes) or _root(_spread(node.inputs[1], nodes), nodes)
        return None if divisor is None else (node.inputs[0], divisor)
    for top, inverse in (node.inputs, node.inputs[::-1]) if isinstance(node.operator, ops.Product) else ():
        below = _spread(inverse, nodes)
        divisor = None
        if isinstance(below.operator, ops.Rsqrt):
            divisor = _mean_square(below.inputs[0], nodes)
        elif isinstance(below.operator, ops.Reciprocal) and below.operator.scale == 1:
            inner = origin(below.inputs[0], nodes)
            divisor = _length(inner, nodes) or _root(inner, nodes)
        if divisor is not None:
            return top, divisor
    return None


def _spread(name: str, nodes: Nodes) -> Node:
    """The node before values were broadcast to the quotient's shape, which has as many axes."""
    node = origin(name, nodes)
    while isinstance(node.operator, ops.Broadcast):
        before = nodes[node.inputs[0]]
        if before.shape is None or node.shape is None or len(before.shape) != len(node.shape):
            break
        node = origin(before.name, nodes)
    return node


def _length(node: Node, nodes: Nodes) -> _Divisor | None:
    """The 2-norm, not below eps or with eps added."""
    eps, form = 0.0, "largest"
    if isinstance(node.operator, ops.HardTanh) and node.operator.high == float("inf"):
        eps, node = node.operator.low, origin(node.inputs[0], nodes)
    elif (found := _added(node, nodes)) is not None:
        (eps, name), form = found, "sum"
        node = origin(name, nodes)
    if not isinstance(node.operator, ops.Norm) or not node.operator.keep or not 0 <= eps < float("inf"):
        return None
    return node.inputs[0], tuple(sorted(node.operator.axes)), eps, "sum" if form == "sum" else "largest"


def _root(node: Node, nodes: Nodes) -> _Divisor | None:
    return _mean_square(node.inputs[0], nodes) if isinstance(node.operator, ops.Sqrt) else None


def _mean_square(name: str, nodes: Nodes) -> _Divisor | None:
    """The mean of squares, perhaps with eps added."""
    node, eps = origin(name, nodes), 0.0
    if (found := _added(node, nodes)) is not None:
        eps, inner = found
        node = origin(inner, nodes)
    if not isinstance(node.operator, ops.Mean) or not node.operator.keep or not 0 <= eps < float("inf"):
        return None
    square = origin(node.inputs[0], nodes)
    twice = isinstance(square.operator, ops.Product) and len({origin(n, nodes).name for n in square.inputs}) == 1
    if not twice and not (isinstance(square.operator, ops.Power) and square.operator.exponent == 2):
        return None
    return square.inputs[0], tuple(sorted(node.operator.axes)), eps, "mean square"


def _added(node: Node, nodes: Nodes) -> tuple[float, str] | None:
    """A number that is added to a value, and the value's name."""
    if not isinstance(node.operator, ops.Add) or node.operator.weights != (1.0, 1.0) or node.operator.over != 1:
        return None
    for name, other in (node.inputs, node.inputs[::-1]):
        constant, shape = nodes[other], concrete(nodes[other].shape)
        if isinstance(constant.operator, ops.Constant) and shape is not None and nodes[name].shape == node.shape:
            value = constant.operator.run()
            if value.size == 1:
                return float(value.item()), name
    return None
