"""A choice between two linear maps by the sign of a third: leaky ReLU and Householder activations, written out.

f(z) = A z where s.z <= 0, B z elsewhere. If both agree where s.z = 0, f is continuous, and linear on either side; a
segment crosses the border once, so that |f(z) - f(z')| <= max(||A||, ||B||) |z - z'|.

The angle of a Householder activation is a parameter, and its sine and cosine are computed: A and B then agree up to
rounding alone. That jump, at most `JUMP` of |z|, is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm.networks.graph import Node
from specnorm.networks.pieces import Nodes, are_apart, halved_axis, split_value
from specnorm.proof import host

JUMP = 2.0**-20
"""Of the larger norm: some roundings in single precision."""
DEEPEST = 8
"""Nodes between a value and a multiple of it."""
SMALLEST = 1e-100
"""Norm below which squares may vanish."""
Numbers = NDArray[np.float64]
Linear = dict[str, Numbers]
"""Name of a node -> what it is multiplied by: a number, or one a channel."""


def chosen(node: Node, nodes: Nodes) -> Node | None:
    """A choice of multiples of one value as a function of its entries, a choice of two reflections as one node."""
    return _of_one(node, nodes) or _of_two(node, nodes)


def _of_one(node: Node, nodes: Nodes) -> Node | None:
    found = _choice(node, nodes)
    if found is None:
        return None
    parts = [_linear(name, nodes, node) for name in found]
    names = {name for part in parts if part is not None for name in part}
    if any(part is None for part in parts) or len(names) != 1:
        return None
    (name,) = names
    factors = [part.get(name, np.zeros(1)) for part in parts if part is not None]
    if any(factor.size != 1 for factor in factors):
        return None
    sign, below, above = (float(factor[0]) for factor in factors)
    if sign < 0:
        below, above = above, below
    other, steep = host.raised(abs(below), 2 * DEEPEST), host.raised(max(abs(below), abs(above)), 2 * DEEPEST)
    told: dict[str, Any] = {"function": "linear", "alpha": steep}
    if above == 1:
        told = {"function": "prelu", "low": min(0.0, math.copysign(other, below)), "high": other if below > 0 else 0.0}
    return Node(node.name, "pointwise", node.operator, (name,), node.shape, told)


def _of_two(node: Node, nodes: Nodes) -> Node | None:
    """Two choices by one sign, of linear maps of two halves, put together as these halves were."""
    if node.rule != "stack" or len(node.inputs) != 2:
        return None
    found = [_choice(nodes[name], nodes) for name in node.inputs]
    if any(each is None for each in found):
        return None
    (sign, *first), (other_sign, *second) = (each for each in found if each is not None)
    parts = [_linear(name, nodes, node) for name in (sign, *first, *second)]
    if sign != other_sign or any(part is None for part in parts):
        return None
    names = sorted({name for part in parts if part is not None for name in part})
    if len(names) != 2:
        return None
    one, other = (nodes[name] for name in names)
    if not are_apart(one, other):
        return None
    source = split_value(one, node.shape, nodes)
    axis = halved_axis(source.shape, one, node)
    if axis is None or one.shape != other.shape:
        return None
    by_name = [np.array(np.broadcast_arrays(*_both(part, names))) for part in parts if part is not None]
    norm = _norm(*np.broadcast_arrays(*by_name))
    if norm is None:
        return None
    told = {"norm": norm, "sorted": axis}
    return Node(node.name, "reflect", node.operator, (source.name,), node.shape, told)


def _both(part: Linear, names: Sequence[str]) -> list[Numbers]:
    return [part.get(name, np.zeros(1)) for name in names]


def _norm(sign: Numbers, *rows: Numbers) -> float | None:
    """Of the larger map, rounded up; None where they differ on the border. Each argument: (2, channels)."""
    from fractions import Fraction  # here, since importing it takes milliseconds

    a, b = (np.array([rows[at], rows[2 + at]]).transpose(2, 0, 1) for at in (0, 1))
    border = np.array([sign[1], -sign[0]]).T
    length = host.norm_up(border)
    largest = float(max(np.max(host.norm_up(m.reshape(len(m), -1))) for m in (a, b)))
    if not (0 < length.min() <= length.max() < np.inf and SMALLEST < largest < 1 / SMALLEST):
        return None
    jump = host.norm_up(np.einsum("kij,kj->ki", a - b, border / length[:, None]))
    if float(jump.max()) > JUMP * largest:
        return None
    # ||M||^2 = (t + root of (t^2 - 4 d^2)) / 2, t the sum of squares and d the determinant.
    worst = 0.0
    for (p, q), (r, s) in np.concatenate([a, b]):
        apart = np.hypot(p - s, q + r) * np.hypot(p + s, q - r)
        worst = max(worst, float((p * p + q * q + r * r + s * s + apart) / 2))
    return host.root_up(Fraction(host.raised(worst, 64)))


def _choice(node: Node, nodes: Nodes) -> tuple[str, str, str] | None:
    """Names: of what is compared with 0, of the value where it is not above, and of the other."""
    if node.operator == "where" and node.rule == "unknown" and len(node.inputs) == 3:
        name, one, other = node.inputs
        below = _compared(nodes[name])
        return None if below is None else (nodes[name].inputs[0], *((one, other) if below else (other, one)))
    if node.rule != "add" or len(node.inputs) != 2 or node.params.get("signs") != (1, 1):
        return None
    sides: dict[bool, tuple[str, str]] = {}
    strict = set()
    for product in (nodes[name] for name in node.inputs):
        if product.rule != "product" or len(product.inputs) != 2:
            return None
        for value, gate in (product.inputs, product.inputs[::-1]):
            below = _compared(nodes[gate])
            if below is not None:
                sides[below] = nodes[gate].inputs[0], value
                strict.add(nodes[gate].params["compare"])
    if len(sides) < 2 or strict not in ({"le", "gt"}, {"lt", "ge"}) or sides[True][0] != sides[False][0]:
        return None
    return sides[True][0], sides[True][1], sides[False][1]


def _compared(node: Node) -> bool | None:
    """Whether it is true below 0 (True), above (False), or is no comparison with 0."""
    if node.rule != "unknown" or node.params.get("with") != 0 or len(node.inputs) != 1:
        return None
    return {"le": True, "lt": True, "ge": False, "gt": False}.get(str(node.params.get("compare")))


def _linear(name: str, nodes: Nodes, like: Node, depth: int = 0) -> Linear | None:
    """A node as multiples of others, without constants; None where it is deeper than such activations go."""
    node = nodes[name]
    if depth > DEEPEST or node.shape is None or like.shape is None or len(node.shape) != len(like.shape):
        return None
    inner: Linear | None = {name: np.ones(1)}
    if getattr(node, "offset", None) is not None:
        return inner  # it adds constants
    if node.rule == "scale" and node.params.get("exact") and nodes[node.inputs[0]].shape == node.shape:
        numbers = np.asarray(node.params["values"], dtype=np.float64).reshape(-1)
        channel = node.params.get("channel")
        if numbers.size == 1 or (channel is not None and channel == like.params.get("axis")):
            inner = _linear(node.inputs[0], nodes, like, depth + 1)
            return None if inner is None else {key: numbers * value for key, value in inner.items()}
    elif node.rule == "pointwise" and dict(node.params) == {"function": "negative"}:
        inner = _linear(node.inputs[0], nodes, like, depth + 1)
        return None if inner is None else {key: -value for key, value in inner.items()}
    elif node.rule == "add" and node.params.get("signs") is not None:
        if any(nodes[each].shape != node.shape for each in node.inputs):
            return None
        inner = {}
        for each, sign in zip(node.inputs, node.params["signs"], strict=True):
            found = _linear(each, nodes, like, depth + 1)
            if found is None or inner.keys() & found.keys():
                return None  # what cancels would lose digits
            inner |= {key: sign * value for key, value in found.items()}
    return inner
