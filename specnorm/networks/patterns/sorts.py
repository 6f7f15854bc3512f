"""Sorting, and positive and negative part, written out: what moves no two vectors apart.

Alone, the larger and the smaller of two pieces have each the norm of both, and together root of two times that. But
sorting moves no two vectors further apart, so that the pair of them has norm 1 (MaxMin, GroupSort). So has the pair of
positive and negative part.
"""

from __future__ import annotations

from collections.abc import Callable

from specnorm.networks.graph import Node, Size
from specnorm.networks.operators import (
    Concat,
    GroupSort,
    Largest,
    Maximum,
    Minimum,
    Operator,
    Permute,
    ReLU,
    Reshape,
    SameOrder,
    SignParts,
    Smallest,
    Sort,
)
from specnorm.networks.patterns.parts import Nodes, are_halves, multiples, nearest, origin, piece

Fresh = Callable[[str], str]


def sorted_pieces(node: Node, nodes: Nodes, fresh: Fresh) -> list[Node]:
    """The nodes in place of one that sorts, the last of its name; none where it is no such.

    Parameters
    ----------
    node : Node
    nodes : mapping of str to Node
        Those before it.
    fresh : callable
        Gives a name that no node of the graph has.
    """
    operator = node.operator
    if isinstance(operator, SameOrder):
        found = _grouped(node, nodes)
        return [] if found is None else [found]
    if not isinstance(operator, Concat) or len(node.inputs) != 2:
        return []
    ends = [origin(name, nodes) for name in node.inputs]
    return (
        _halves(node, operator, ends, nodes, fresh)
        or _pairs(node, operator, ends, nodes)
        or _both_signs(node, operator, ends, nodes, fresh)
    )


def _halves(node: Node, concat: Concat, ends: list[Node], nodes: Nodes, fresh: Fresh) -> list[Node]:
    """Larger and smaller of the two halves of a value."""
    if {type(end.operator) for end in ends} != {Maximum, Minimum} or any(len(end.inputs) != 2 for end in ends):
        return []
    pairs = [sorted((piece(name, nodes) for name in end.inputs), key=lambda each: each.start) for end in ends]
    if pairs[0] != pairs[1] or not are_halves(*pairs[0]):
        return []
    axis = pairs[0][0].axis
    operator = GroupSort(axis, 2, "strided", isinstance(ends[0].operator, Maximum))
    return _placed(node, concat, operator, axis, nodes[pairs[0][0].source], fresh)


def _pairs(node: Node, concat: Concat, ends: list[Node], nodes: Nodes) -> list[Node]:
    """Largest and smallest along an axis of two entries, put where these were."""
    one, other = (end.operator for end in ends)
    if not isinstance(one, (Largest, Smallest)) or not isinstance(other, (Largest, Smallest)):
        return []
    along = one.axes == other.axes == (concat.axis,) and one.keep == other.keep != concat.new
    source, again = (origin(end.inputs[0], nodes) for end in ends)
    if type(one) is type(other) or not along or source.name != again.name:
        return []
    if source.shape is None or source.shape[concat.axis] != 2:
        return []
    return [_instead(node, Sort(concat.axis, isinstance(one, Largest)), source)]


def _both_signs(node: Node, concat: Concat, ends: list[Node], nodes: Nodes, fresh: Fresh) -> list[Node]:
    """Positive and negative part: where x and y have one sign, one of both moves; else |x - y| = |x| + |y|."""
    if not all(isinstance(end.operator, ReLU) for end in ends):
        return []
    chains = [multiples(end.inputs[0], nodes) for end in ends]
    name = nearest(*chains)
    if name is None or not nodes[name].shape:
        return []
    signs = []
    for factors in (chain[name] for chain in chains):
        if any(each.roundings or each.values.size != 1 or abs(each.values).item() != 1 for each in factors):
            return []
        signs.append(sum(each.values.item() < 0 for each in factors) % 2 == 1)
    if signs[0] == signs[1]:
        return []
    axis = min(concat.axis, len(nodes[name].shape or ()) - 1)
    return _placed(node, concat, SignParts(axis, signs[0]), axis, nodes[name], fresh)


def _placed(node: Node, concat: Concat, operator: Operator, axis: int, source: Node, fresh: Fresh) -> list[Node]:
    """Two pieces that an operator puts behind each other along its axis, where the network puts them."""
    if not concat.new and axis == concat.axis:
        return [_instead(node, operator, source)]
    shape = source.shape
    size = None if shape is None else shape[axis]
    if shape is None or not isinstance(size, int):
        return []
    half = size // 2 if isinstance(operator, GroupSort) else size
    order = [at for at in range(len(shape) + 1) if at != axis]
    order.insert(concat.axis, axis)
    split = (*shape[:axis], 2, half, *shape[axis + 1 :])
    turned = tuple(split[at] for at in order)
    a = concat.axis
    sizes = [turned[a], turned[a + 1]] if not concat.new else []
    if _open(split) > 1 or any(not isinstance(n, int) for n in sizes):
        return []
    found = [
        Node(fresh(f"{node.name}.sorted"), operator, (source.name,), (*shape[:axis], 2 * half, *shape[axis + 1 :]))
    ]

    def then(name: str, operator: Operator, shape: tuple[Size, ...] | None) -> None:
        found.append(Node(name, operator, (found[-1].name,), shape, node.label))

    then(fresh(f"{node.name}.split"), Reshape(_target(split)), split)
    if concat.new:
        then(node.name, Permute(tuple(order)), node.shape)
    else:
        then(fresh(f"{node.name}.turned"), Permute(tuple(order)), turned)
        merged = (*turned[:a], int(turned[a]) * int(turned[a + 1]), *turned[a + 2 :])
        then(node.name, Reshape(_target(merged)), node.shape)
    return found


def _open(shape: tuple[Size, ...]) -> int:
    return sum(not isinstance(n, int) for n in shape)


def _target(shape: tuple[Size, ...]) -> tuple[int, ...]:
    return tuple(n if isinstance(n, int) else -1 for n in shape)


def _grouped(node: Node, nodes: Nodes) -> Node | None:
    """Sorting between two changes of the shape that put neighbours of an axis on one of their own, and back."""
    inner = origin(node.inputs[0], nodes)
    if not isinstance(inner.operator, Sort) or inner.operator.first is not None or not inner.operator.axis:
        return None
    axis, split = inner.operator.axis, origin(inner.inputs[0], nodes)
    if not isinstance(split.operator, SameOrder):
        return None
    source = origin(split.inputs[0], nodes)
    before, between = source.shape, split.shape
    if before is None or between is None or before != node.shape or len(between) != len(before) + 1:
        return None
    groups, count, whole = between[axis - 1], between[axis], before[axis - 1]
    if not (isinstance(groups, int) and isinstance(count, int) and groups * count == whole):
        return None
    if (*between[: axis - 1], whole, *between[axis + 1 :]) != before:
        return None
    return _instead(node, GroupSort(axis - 1, count, "consecutive", inner.operator.descending), source)


def _instead(node: Node, operator: Operator, source: Node) -> Node:
    return Node(node.name, operator, (source.name,), node.shape, node.label)
