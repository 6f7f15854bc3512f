"""Which value a value is a piece or a multiple of: exact statements about typed nodes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeAlias

import numpy as np

from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.graph import Node
from specnorm_networks.certified.operators.base import FloatArray

Nodes: TypeAlias = Mapping[str, Node]
"""By name."""
DEEPEST = 8
"""Nodes between a value and a multiple of it."""
INEXACT = 14
"""Roundings of factors that are not exact: a quotient by a root of a sum."""


def origin(name: str, nodes: Nodes) -> Node:
    """The node whose entries a value has, in their places."""
    node = nodes[name]
    while _keeps_places(node, nodes):
        node = nodes[node.inputs[0]]
    return node


def _keeps_places(node: Node, nodes: Nodes) -> bool:
    if isinstance(node.operator, ops.Identity):
        return True
    if node.shape is None or len(node.inputs) != 1 or nodes[node.inputs[0]].shape != node.shape:
        return False
    # A slice of step 1 that is as long as its input is the whole of it.
    whole = isinstance(node.operator, ops.Slice) and all(step == 1 for *_, step in node.operator.parts)
    return whole or isinstance(node.operator, ops.SameOrder)


@dataclass(frozen=True)
class Piece:
    """Consecutive entries along one axis of a value, or all of it."""

    source: str
    """Name of the value."""
    axis: int = 0
    start: int = 0
    stop: int = 0
    size: int = 0
    """How many entries the axis has; 0: all of the value."""


def piece(name: str, nodes: Nodes) -> Piece:
    """What a value is a piece of; of itself, if it is no such slice."""
    node = origin(name, nodes)
    source = origin(node.inputs[0], nodes) if isinstance(node.operator, ops.Slice) else node
    if isinstance(node.operator, ops.Slice) and source.shape is not None:
        cuts = []
        for axis, *part in node.operator.parts:
            size = source.shape[axis]
            size = size if isinstance(size, int) else 0
            first, last, step = slice(*part).indices(size)
            if not size or (first, last, step) != (0, size, 1):
                cuts.append((Piece(source.name, axis, first, last, size), step == 1 and first < last))
        if len(cuts) == 1 and cuts[0][1]:
            return cuts[0][0]
    return Piece(node.name)


def are_halves(first: Piece, second: Piece) -> bool:
    """Whether they are the first and the second half of one value along one axis."""
    half, odd = divmod(first.size, 2)
    halves = (replace(first, start=at, stop=at + half) for at in (0, half))
    return half > 0 and not odd and (first, second) == tuple(halves)


@dataclass(frozen=True, eq=False)
class Factor:
    """What a value is multiplied by."""

    values: FloatArray
    """Broadcasting against the value without making it larger; none is 0."""
    roundings: int = 0
    """Made in computing them."""


def factor_of(node: Node, nodes: Nodes) -> Factor | None:
    """By what a node multiplies its input, if that is all it does."""
    operator = node.operator
    if isinstance(operator, ops.Negative):
        return Factor(np.array(-1.0))
    if not isinstance(operator, ops.Scale) or operator.offset is not None or operator.values.dtype.kind != "f":
        return None
    keeps_shape = operator.values.ndim == 0 or (node.shape is not None and node.shape == nodes[node.inputs[0]].shape)
    known = keeps_shape and bool(np.all(np.isfinite(operator.values) & (operator.values != 0)))
    return Factor(operator.values, 0 if operator.exact else INEXACT) if known else None


def number_of(factors: Iterable[Factor]) -> Fraction | None:
    """The product of numbers; None where a factor is an array."""
    known = list(factors)
    if any(each.values.size != 1 for each in known):
        return None
    return math.prod((Fraction(each.values.item()) for each in known), start=Fraction(1))


def multiples(name: str, nodes: Nodes) -> dict[str, tuple[Factor, ...]]:
    """What a value is a multiple of, itself first: by name, and by which factors."""
    node = origin(name, nodes)
    found: dict[str, tuple[Factor, ...]] = {}
    factors: tuple[Factor, ...] = ()
    while True:
        found[node.name] = factors
        factor = factor_of(node, nodes)
        if factor is None or len(factors) == DEEPEST:
            return found
        node, factors = origin(node.inputs[0], nodes), (*factors, factor)


def nearest(*chains: Mapping[str, object]) -> str | None:
    """The first name of the first of several that is among all."""
    return next((name for name in chains[0] if all(name in chain for chain in chains[1:])), None)
