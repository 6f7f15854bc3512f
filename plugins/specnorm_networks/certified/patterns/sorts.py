"""Sorting, and positive and negative part, written out: what moves no two vectors apart.

Why the pairs have norm 1 while each part alone has it, too, is said in `specnorm_networks.certified.operators.sorting`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.graph import Node, Shape
from specnorm_networks.certified.patterns.parts import Nodes, are_halves, multiples, nearest, number_of, origin, piece

Fresh = Callable[[str], str]
"""Gives a name that no node of the graph has."""


def sorted_pieces(node: Node, nodes: Nodes, fresh: Fresh) -> list[Node]:
    """The nodes in place of one that sorts, the last of its name; none where it is no such."""
    operator = node.operator
    if isinstance(operator, ops.SameOrder):
        found = _grouped(node, nodes)
        return [] if found is None else [found]
    if not isinstance(operator, ops.Concat) or len(node.inputs) != 2:
        return []
    ends = [origin(name, nodes) for name in node.inputs]
    return (
        _halves(node, operator, ends, nodes, fresh)
        or _pairs(node, operator, ends, nodes)
        or _both_signs(node, operator, ends, nodes, fresh)
    )


def _halves(node: Node, concat: ops.Concat, ends: list[Node], nodes: Nodes, fresh: Fresh) -> list[Node]:
    """Larger and smaller of the two halves of a value."""
    if {type(end.operator) for end in ends} != {ops.Maximum, ops.Minimum} or any(len(end.inputs) != 2 for end in ends):
        return []
    pairs = [sorted((piece(name, nodes) for name in end.inputs), key=lambda each: each.start) for end in ends]
    if pairs[0] != pairs[1] or not are_halves(*pairs[0]):
        return []
    axis = pairs[0][0].axis
    operator = ops.GroupSort(axis, 2, "strided", isinstance(ends[0].operator, ops.Maximum))
    return _placed(node, concat, operator, nodes[pairs[0][0].source], fresh)


def _pairs(node: Node, concat: ops.Concat, ends: list[Node], nodes: Nodes) -> list[Node]:
    """Largest and smallest along an axis of two entries, put where these were."""
    one, other = (end.operator for end in ends)
    if not isinstance(one, (ops.Largest, ops.Smallest)) or not isinstance(other, (ops.Largest, ops.Smallest)):
        return []
    along = one.axes == other.axes == (concat.axis,) and one.keep == other.keep != concat.new
    source, again = (origin(end.inputs[0], nodes) for end in ends)
    if type(one) is type(other) or not along or source.name != again.name:
        return []
    if source.shape is None or source.shape[concat.axis] != 2:
        return []
    return [replace(node, operator=ops.Sort(concat.axis, isinstance(one, ops.Largest)), inputs=(source.name,))]


def _both_signs(node: Node, concat: ops.Concat, ends: list[Node], nodes: Nodes, fresh: Fresh) -> list[Node]:
    """Positive and negative part: where x and y have one sign, one of both moves; else |x - y| = |x| + |y|."""
    if not all(isinstance(end.operator, ops.ReLU) for end in ends):
        return []
    chains = [multiples(end.inputs[0], nodes) for end in ends]
    name = nearest(*chains)
    if name is None or not nodes[name].shape:
        return []
    signs = [number_of(chain[name]) for chain in chains]
    if signs not in ([1, -1], [-1, 1]) or any(each.roundings for chain in chains for each in chain[name]):
        return []
    axis = min(concat.axis, len(nodes[name].shape or ()) - 1)
    return _placed(node, concat, ops.SignParts(axis, signs[0] == -1), nodes[name], fresh)


def _placed(
    node: Node, concat: ops.Concat, operator: ops.GroupSort | ops.SignParts, source: Node, fresh: Fresh
) -> list[Node]:
    """Two pieces that an operator puts behind each other along its axis, where the network puts them."""
    axis, along, shape = operator.axis, concat.axis, source.shape
    if not concat.new and axis == along:
        return [replace(node, operator=operator, inputs=(source.name,))]
    size = None if shape is None else shape[axis]
    if shape is None or not isinstance(size, int):
        return []
    half = size // 2 if isinstance(operator, ops.GroupSort) else size
    order = [at for at in range(len(shape) + 1) if at != axis]
    order.insert(along, axis)
    split = (*shape[:axis], 2, half, *shape[axis + 1 :])
    turned = tuple(split[at] for at in order)
    steps: list[tuple[ops.Operator, Shape]] = [
        (operator, (*shape[:axis], 2 * half, *shape[axis + 1 :])),
        (ops.Reshape(_target(split)), split),
        (ops.Permute(tuple(order)), turned),
    ]
    if not concat.new:
        beside = turned[along + 1]
        if not isinstance(beside, int):
            return []
        merged = (*turned[:along], 2 * beside, *turned[along + 2 :])
        steps.append((ops.Reshape(_target(merged)), merged))
    if split.count(0) or sum(not isinstance(n, int) for n in split) > 1:
        return []
    found = [source]
    for at, (one, to) in enumerate(steps):
        name = fresh(f"{node.name}.placed{at}") if at < len(steps) - 1 else node.name
        found.append(Node(name, one, (found[-1].name,), to, node.label))
    return found[1:]


def _target(shape: Shape) -> tuple[int, ...]:
    return tuple(n if isinstance(n, int) else -1 for n in shape)


def _grouped(node: Node, nodes: Nodes) -> Node | None:
    """Sorting between two changes of the shape that put neighbours of an axis on one of their own, and back."""
    inner = origin(node.inputs[0], nodes)
    if not isinstance(inner.operator, ops.Sort) or inner.operator.first is not None or not inner.operator.axis:
        return None
    axis, split = inner.operator.axis, origin(inner.inputs[0], nodes)
    if not isinstance(split.operator, ops.SameOrder):
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
    return replace(
        node, operator=ops.GroupSort(axis - 1, count, "consecutive", inner.operator.descending), inputs=(source.name,)
    )
