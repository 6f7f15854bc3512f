"""Pieces of one value, and what they are put together to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from specnorm.networks.graph import Node, Shape

Nodes: TypeAlias = Mapping[str, Node]
"""By name."""


def are_apart(one: Node, other: Node) -> bool:
    """Whether they are disjoint pieces of one value: different ones of one split."""
    pieces = one.params.get("piece"), other.params.get("piece")
    # A value may be split twice, at other places.
    same = one.inputs == other.inputs and one.params.get("pieces") == other.params.get("pieces")
    return pieces[0] != pieces[1] and None not in pieces and same and len(one.inputs) == 1


def split_value(piece: Node, shape: Shape | None, nodes: Nodes) -> Node:
    """What a piece is of."""
    source = nodes[piece.inputs[0]]
    if source.rule == "select" and source.params.get("split") and len(source.inputs) == 1:
        # The operator that splits is a node too, with its first piece's shape; no other may be looked through.
        before = nodes[source.inputs[0]]
        return before if before.shape == shape else source
    return source


def halved_axis(whole: Shape | None, piece: Node, node: Node) -> int | None:
    """The axis that is halved and put together again, all others as they were; None where there is no such."""
    axis, half, pieces = node.params.get("axis"), piece.shape, piece.params.get("pieces")
    if whole is None or half is None or axis is None or whole != node.shape or len(half) != len(whole):
        return None
    if pieces is None or pieces[0] != axis:
        return None
    size, part = whole[axis], half[axis]
    even = isinstance(size, int) and isinstance(part, int) and 2 * part == size
    return int(axis) if even and (*half[:axis], size, *half[axis + 1 :]) == whole else None
