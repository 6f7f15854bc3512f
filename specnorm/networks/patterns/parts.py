"""Which value a value is a piece or a multiple of: exact statements about typed nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from specnorm.networks import operators as ops
from specnorm.networks.graph import Node
from specnorm.networks.operators.base import FloatArray

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
    """Consecutive entries along one axis of a value, or all of it.

    Parameters
    ----------
    source : str
        Name of the value.
    axis, start, stop, size : int
        The axis, its entries and how many it has; ``size`` 0: all of the value.
    name : str
        A node that is this piece.
    """

    source: str
    axis: int = 0
    start: int = 0
    stop: int = 0
    size: int = 0
    name: str = field(default="", compare=False)


def piece(name: str, nodes: Nodes) -> Piece:
    """What a value is a piece of; of itself, if it is no such slice."""
    node = origin(name, nodes)
    source = origin(node.inputs[0], nodes) if isinstance(node.operator, ops.Slice) else node
    if isinstance(node.operator, ops.Slice) and source.shape is not None:
        cuts = []
        for axis, start, stop, step in node.operator.parts:
            size = source.shape[axis]
            kept = slice(start, stop, step).indices(size) if isinstance(size, int) else None
            if kept != (0, size, 1):
                cuts.append((axis, kept, size))
        if len(cuts) == 1:
            axis, kept, size = cuts[0]
            if isinstance(size, int) and kept is not None and kept[2] == 1 and kept[0] < kept[1]:
                return Piece(source.name, axis, kept[0], kept[1], size, node.name)
    return Piece(node.name, name=node.name)


def are_halves(first: Piece, second: Piece) -> bool:
    """Whether they are the first and the second half of one value along one axis."""
    same = (first.source, first.axis, first.size) == (second.source, second.axis, second.size)
    ends = (first.start, first.stop, second.start, second.stop)
    return same and first.size > 0 and ends == (0, first.size // 2, first.size // 2, first.size) and first.size % 2 == 0


@dataclass(frozen=True, eq=False)
class Factor:
    """What a value is multiplied by.

    Parameters
    ----------
    values : array
        Broadcasting against the value without making it larger; none is 0.
    roundings : int
        That were made in computing them.
    """

    values: FloatArray
    roundings: int = 0


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
