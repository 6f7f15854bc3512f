"""Sorting of pairs and groups of entries, written out by maxima and reshapes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.graph import Node
from specnorm_networks.certified.patterns.structure import NoPattern, Structure, are_halves


@dataclass(frozen=True)
class Joined:
    """Two values that a node puts together along an axis."""

    node: Node
    concat: ops.Concat
    first: Node
    """Origin of the first value."""
    second: Node


def as_maximum_and_minimum(node: Node, structure: Structure) -> Node:
    """Return sorting in place of a maximum and a minimum that are joined."""
    if not isinstance(node.operator, ops.Concat) or len(node.inputs) != 2:
        raise NoPattern
    first, second = (structure.origin(name) for name in node.inputs)
    joined = Joined(node, node.operator, first, second)
    if isinstance(first.operator, ops.Maximum | ops.Minimum):
        return _maximum_and_minimum_of_halves(joined, structure)
    return _largest_and_smallest(joined, structure)


def _maximum_and_minimum_of_halves(joined: Joined, structure: Structure) -> Node:
    """Return sorting in groups of two (MaxMin) in place of the joined maximum and minimum of both halves of a value."""
    first = joined.first
    second = joined.second
    has_both = {type(first.operator), type(second.operator)} == {ops.Maximum, ops.Minimum}
    if not has_both or len(first.inputs) != 2 or len(second.inputs) != 2:
        raise NoPattern
    parts = sorted((structure.part_of_value(name) for name in first.inputs), key=lambda part: part.start)
    same_pieces = sorted((structure.part_of_value(name) for name in second.inputs), key=lambda part: part.start)
    half = parts[0]
    is_along_axis = half.axis == joined.concat.axis and not joined.concat.new
    if parts != same_pieces or not are_halves(*parts) or not is_along_axis:
        raise NoPattern
    operator = ops.GroupSort(half.axis, 2, "strided", descending=isinstance(first.operator, ops.Maximum))
    return replace(joined.node, operator=operator, inputs=(half.source,))


def _largest_and_smallest(joined: Joined, structure: Structure) -> Node:
    """Return sorting in place of the joined largest and smallest entry along an axis of two entries."""
    largest_or_smallest = (ops.Largest, ops.Smallest)
    first = joined.first.operator
    second = joined.second.operator
    if not isinstance(first, largest_or_smallest) or not isinstance(second, largest_or_smallest):
        raise NoPattern
    axis = joined.concat.axis
    # If the axis was dropped, both are joined along a new axis; if it was kept, along that axis.
    was_dropped = joined.concat.new
    if any(each.axes != (axis,) or each.keep == was_dropped for each in (first, second)):
        raise NoPattern
    source = structure.input_of(joined.first)
    is_pair = source.shape is not None and source.shape[axis] == 2
    if type(first) is type(second) or not is_pair or source.name != structure.input_of(joined.second).name:
        raise NoPattern
    descending = isinstance(first, ops.Largest)
    return replace(joined.node, operator=ops.Sort(axis, descending), inputs=(source.name,))


def as_sorted_groups(node: Node, structure: Structure) -> Node:
    """Return sorting in groups of neighbours (GroupSort) in place of a reshape, a sort and a reshape back.

    ``node``: the reshape back.
    """
    if not isinstance(node.operator, ops.SameOrder):
        raise NoPattern
    sort = structure.input_of(node)
    if not isinstance(sort.operator, ops.Sort) or sort.operator.first is not None or not sort.operator.axis:
        raise NoPattern
    split = structure.input_of(sort)
    if not isinstance(split.operator, ops.SameOrder):
        raise NoPattern
    source = structure.input_of(split)
    before = source.shape
    between = split.shape
    if before is None or between is None or before != node.shape or len(between) != len(before) + 1:
        raise NoPattern
    # The axis before the sorted one counts the groups, and both are one axis of the source.
    sorted_axis = sort.operator.axis
    axis = sorted_axis - 1
    groups = between[axis]
    size = between[sorted_axis]
    if (*between[:axis], groups * size, *between[sorted_axis + 1 :]) != before:
        raise NoPattern
    operator = ops.GroupSort(axis, size, "consecutive", sort.operator.descending)
    return replace(node, operator=operator, inputs=(source.name,))
