"""A choice between two linear maps by the sign of a third: leaky ReLU and Householder activations, written out.

f(z) = A z where s.z <= 0, B z elsewhere. If both agree where s.z = 0, f is continuous, and linear on either side; a
segment crosses the border once, so that |f(z) - f(z')| <= max(||A||, ||B||) |z - z'|.

The angle of a Householder activation is a parameter, and its sine and cosine are computed: A and B then agree up to
rounding alone. That jump, at most `JUMP` of |z|, is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TypeAlias

import numpy as np

from specnorm.certified import host
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.graph import Node
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.patterns.parts import (
    DEEPEST,
    Nodes,
    Piece,
    are_halves,
    factor_of,
    multiples,
    nearest,
    origin,
    piece,
)

JUMP = 2.0**-20
"""Of the larger norm: some roundings in single precision."""
SMALLEST = 1e-100
"""Norm below which squares may vanish."""
Linear: TypeAlias = Mapping[Piece, FloatArray]
"""A sum of pieces of values: by what each is multiplied."""
Choice: TypeAlias = tuple[str, str, str]
"""Names: of what is compared with 0, of the value where it is not above, and of the other."""


def chosen(node: Node, nodes: Nodes) -> Node | None:
    """A choice of multiples of one value by its sign as a function of each entry, a choice of two reflections."""
    if isinstance(node.operator, ops.Concat):
        return _reflection(node, node.operator, nodes)
    choice = _choice(node, nodes)
    return None if choice is None else _two_slopes(node, choice, nodes)


def _choice(node: Node, nodes: Nodes) -> Choice | None:
    operator = node.operator
    if isinstance(operator, ops.Choose):
        compared = _compared(node.inputs[0], nodes)
        if compared is None:
            return None
        name, kind = compared
        _, true, false = node.inputs
        return (name, true, false) if kind in ("le", "lt") else (name, false, true)
    if not isinstance(operator, ops.Add) or operator.weights != (1.0, 1.0) or operator.over != 1:
        return None
    sides: dict[str, tuple[str, str]] = {}
    for product in (origin(name, nodes) for name in node.inputs):
        if not isinstance(product.operator, ops.Product) or len(product.inputs) != 2:
            return None
        for value, gate in (product.inputs, product.inputs[::-1]):
            compared = _compared(gate, nodes)
            if compared is not None:
                sides[compared[1]] = compared[0], value
    for below, above in (("le", "gt"), ("lt", "ge")):
        if sides.keys() == {below, above} and sides[below][0] == sides[above][0]:
            return sides[below][0], sides[below][1], sides[above][1]
    return None


def _compared(name: str, nodes: Nodes) -> tuple[str, str] | None:
    """Which value is compared with 0, and how."""
    node = origin(name, nodes)
    if not isinstance(node.operator, ops.Compare) or node.operator.threshold != 0:
        return None
    return origin(node.inputs[0], nodes).name, node.operator.kind


def _two_slopes(node: Node, choice: Choice, nodes: Nodes) -> Node | None:
    chains = [multiples(name, nodes) for name in choice]
    name = nearest(*chains)
    if name is None or node.shape is None or nodes[name].shape != node.shape:
        return None
    factors = [chain[name] for chain in chains]
    sign, below, above = (np.asarray(math.prod((each.values for each in some), start=np.ones(()))) for some in factors)
    # A sign that is turned changes the sides.
    below, above = np.where(sign < 0, above, below), np.where(sign < 0, below, above)
    if not bool(np.all(np.isfinite(below) & np.isfinite(above) & (sign != 0))):
        return None
    roundings = max(sum(each.roundings for each in some) + max(len(some) - 1, 0) for some in factors)
    return replace(node, operator=ops.TwoSlopes(below, above, roundings), inputs=(name,))


def _reflection(node: Node, concat: ops.Concat, nodes: Nodes) -> Node | None:
    """Two choices by one sign, of linear maps of two halves, put together as these halves were."""
    if concat.new or len(node.inputs) != 2:
        return None
    one, other = (_choice(origin(name, nodes), nodes) for name in node.inputs)
    if one is None or other is None or one[0] != other[0]:
        return None
    found = [_linear(name, nodes) for name in (one[0], one[1], other[1], one[2], other[2])]
    parts = [part for part in found if part is not None]
    pieces = sorted({key for part in parts for key in part}, key=lambda each: each.start)
    if len(parts) < len(found) or len(pieces) != 2 or not are_halves(*pieces) or pieces[0].axis != concat.axis:
        return None
    source, axis, half = nodes[pieces[0].source], concat.axis, pieces[0].stop
    rows = [_by_channel(part, pieces, len(source.shape or ()) - axis, half) for part in parts]
    known = [row for row in rows if row is not None]
    if len(known) < len(rows):
        return None
    sign, below, above = known[0], np.array(known[1:3]), np.array(known[3:])
    norm = _norm(sign, below, above)
    if norm is None:
        return None
    return replace(node, operator=ops.Reflection(axis, sign, below, above, norm), inputs=(source.name,))


def _linear(name: str, nodes: Nodes, depth: int = 0) -> Linear | None:
    """A value as a sum of multiples of pieces, without constants; None where it is deeper than such activations go."""
    key = piece(name, nodes)
    node = origin(name, nodes)
    if depth > DEEPEST:
        return None
    if key.size:
        return {key: np.ones(())}
    factor = factor_of(node, nodes)
    if factor is not None:
        inner = _linear(node.inputs[0], nodes, depth + 1)
        exact = inner is not None and not factor.roundings
        return {each: value * factor.values for each, value in (inner or {}).items()} if exact else None
    if not isinstance(node.operator, ops.Add) or node.operator.over != 1:
        return {key: np.ones(())}
    found: dict[Piece, FloatArray] = {}
    for each, weight in zip(node.inputs, node.operator.weights, strict=True):
        part = _linear(each, nodes, depth + 1)
        if part is None or found.keys() & part.keys() or node.shape is None or nodes[each].shape != node.shape:
            return None  # what cancels would lose digits
        found |= {other: value * weight for other, value in part.items()}
    return found


def _by_channel(part: Linear, pieces: Sequence[Piece], behind: int, half: int) -> FloatArray | None:
    """By what two pieces are multiplied, a number for each entry along their axis: shape (2, half)."""
    found = np.zeros((2, half))
    for at, each in enumerate(pieces):
        values = part.get(each, np.zeros(()))
        along = values.shape[-behind] if values.ndim >= behind else 1
        if values.size != along or along not in (1, half):
            return None
        found[at] = values.reshape(-1)
    return found


def _norm(sign: FloatArray, below: FloatArray, above: FloatArray) -> float | None:
    """Of the larger map, rounded up; None where they differ on the border. Shapes (2, channels), (2, 2, channels)."""
    a, b = below.transpose(2, 0, 1), above.transpose(2, 0, 1)
    border = np.array([sign[1], -sign[0]]).T
    length = np.linalg.norm(border, axis=1)
    largest = float(max(np.max(np.linalg.norm(m, axis=(1, 2))) for m in (a, b)))
    if not (0 < length.min() <= length.max() < np.inf and SMALLEST < largest < 1 / SMALLEST):
        return None
    jump = np.linalg.norm(np.einsum("kij,kj->ki", a - b, border / length[:, None]), axis=1)
    if float(jump.max()) > JUMP * largest:
        return None
    # ||M||^2 = (t + root of (t^2 - 4 d^2)) / 2, t the sum of squares and d the determinant.
    worst = 0.0
    for (p, q), (r, s) in np.concatenate([a, b]):
        apart = np.hypot(p - s, q + r) * np.hypot(p + s, q - r)
        worst = max(worst, float((p * p + q * q + r * r + s * s + apart) / 2))
    return host.root_up(Fraction(host.inflate(worst, 64)))
