"""Sorting of pairs and groups of entries, written out by maxima and reshapes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.graph import Node
from specnorm_networks.certified.operators.base import Linear
from specnorm_networks.certified.patterns.structure import (
    NoPattern,
    PartOfValue,
    Structure,
    are_halves,
    is_difference,
    is_sum_of_two,
)

HALF = 0.5


class _Extreme(NamedTuple):
    """The maximum or the minimum of two values."""

    is_largest: bool
    inputs: tuple[str, ...]


def as_sorted_pairs(node: Node, structure: Structure) -> list[Node]:
    """Return two nodes in place of the maximum and the minimum of u and v that are joined: u and v joined, and sorted.

    Where u and v are disjoint parts of one value,
    such as every other channel, their join moves entries alone.
    """
    if not isinstance(node.operator, ops.Concat) or len(node.inputs) != 2:
        raise NoPattern
    first, second = (structure.origin(name) for name in node.inputs)
    extremes = [_extreme_of_two(each, structure) for each in (first, second)]
    if extremes[0].is_largest == extremes[1].is_largest:
        raise NoPattern
    u, v = (structure.origin(name).name for name in extremes[0].inputs)
    shapes = {structure[name].shape for name in (u, v)} | {first.shape, second.shape}
    has_same_values = structure.are_same_pair(extremes[0].inputs, extremes[1].inputs)
    if not has_same_values or len(shapes) > 1 or None in shapes:
        raise NoPattern
    axis = node.operator.axis
    is_descending = extremes[0].is_largest
    joined = structure.added(node, "pairs", node.operator, (u, v), node.shape)
    sort: ops.Operator = ops.GroupSort(axis, 2, "strided", is_descending)
    if node.operator.new:
        sort = ops.Sort(axis, is_descending)
    return [joined, replace(node, operator=sort, inputs=(joined.name,))]


def as_extreme_of_moves(node: Node, structure: Structure) -> list[Node]:
    """Return three nodes in place of a sum that is the maximum or minimum of u and v: both beside each other, sorted.

    u and v are moved entries of one value: no layer before them is bounded together with the sum.
    """
    extreme = _written_extreme(node, structure)
    sources = {_before_moves(name, structure) for name in extreme.inputs}
    shapes = {structure[name].shape for name in extreme.inputs} | {node.shape}
    if len(sources) != 1 or len(shapes) != 1 or node.shape is None:
        raise NoPattern
    axis = len(node.shape)
    pair = ops.Concat(axis, new=True)
    pairs = structure.added(node, "pairs", pair, extreme.inputs, (*node.shape, 2))
    first = ops.Sort(axis, extreme.is_largest, first=1)
    kept = structure.added(node, "first", first, (pairs.name,), (*node.shape, 1))
    return [pairs, kept, replace(node, operator=ops.Reshape(node.shape), inputs=(kept.name,))]


def _before_moves(name: str, structure: Structure) -> str:
    """Return the value whose entries a value has at other positions."""
    node = structure.origin(name)
    while isinstance(node.operator, Linear) and node.operator.only_moves_entries and len(node.inputs) == 1:
        node = structure.input_of(node)
    return node.name


def _extreme_of_two(node: Node, structure: Structure) -> _Extreme:
    """Return an extreme as it is, or as a sum."""
    if isinstance(node.operator, ops.Maximum | ops.Minimum) and len(node.inputs) == 2:
        return _Extreme(isinstance(node.operator, ops.Maximum), node.inputs)
    with suppress(NoPattern):
        return _half_of_sum_and_distance(node, structure)
    return _written_by_relu(node, structure)


def _written_extreme(node: Node, structure: Structure) -> _Extreme:
    """Return an extreme that is written as a sum."""
    if isinstance(node.operator, ops.Maximum | ops.Minimum):
        raise NoPattern
    return _extreme_of_two(node, structure)


def _half_of_sum_and_distance(node: Node, structure: Structure) -> _Extreme:
    """Return an extreme by the absolute value: ``(u + v + |u - v|) / 2`` is the maximum, with ``- |u - v|`` not."""
    total = structure.input_of(node) if _halves(node) else node
    if not is_sum_of_two(total.operator) and not is_difference(total.operator):
        raise NoPattern
    terms = [structure.origin(name) for name in total.inputs]
    if total is node:
        if not all(map(_halves, terms)):
            raise NoPattern
        terms = [structure.input_of(term) for term in terms]
    is_largest = is_sum_of_two(total.operator)
    for both, distance in (terms, terms[::-1]) if is_largest else (terms,):
        if not is_sum_of_two(both.operator) or not isinstance(distance.operator, ops.Abs):
            continue
        difference = structure.input_of(distance)
        if is_difference(difference.operator) and structure.are_same_pair(both.inputs, difference.inputs):
            return _Extreme(is_largest, both.inputs)
    raise NoPattern


def _halves(node: Node) -> bool:
    """Whether a node is half of its input."""
    operator = node.operator
    if not isinstance(operator, ops.Scale) or not operator.exact or operator.offset is not None:
        return False
    return operator.values.size == 1 and operator.values.item() == HALF


def _written_by_relu(node: Node, structure: Structure) -> _Extreme:
    """Return an extreme as ReLU writes it: ``v + relu(u - v)`` is the maximum, ``u - relu(u - v)`` the minimum."""
    is_largest = is_sum_of_two(node.operator)
    if not is_largest and not is_difference(node.operator):
        raise NoPattern
    for value, other in (node.inputs, node.inputs[::-1]) if is_largest else (node.inputs,):
        rectified = structure.origin(other)
        if not isinstance(rectified.operator, ops.ReLU):
            continue
        difference = structure.input_of(rectified)
        if is_difference(difference.operator) and structure.is_same(value, difference.inputs[is_largest]):
            return _Extreme(is_largest, difference.inputs)
    raise NoPattern


def as_maximum_and_minimum(node: Node, structure: Structure) -> list[Node]:
    """Return sorting in place of a maximum and a minimum that are joined."""
    if not isinstance(node.operator, ops.Concat) or len(node.inputs) != 2:
        raise NoPattern
    first, second = (structure.origin(name) for name in node.inputs)
    has_extremes_of_values = isinstance(first.operator, ops.Maximum | ops.Minimum)
    sort_of = _sort_of_halves if has_extremes_of_values else _sort_of_pair
    operator, source = sort_of(node.operator, first, second, structure)
    return [replace(node, operator=operator, inputs=(source,))]


def _sort_of_halves(
    concat: ops.Concat,
    first: Node,
    second: Node,
    structure: Structure,
) -> tuple[ops.Operator, str]:
    """Return sorting in groups of two (MaxMin) for the joined maximum and minimum of both halves of a value."""
    _require_maximum_and_minimum(first, second)
    parts = _parts_in_order(first, structure)
    half = parts[0]
    are_joined_along_axis = half.axis == concat.axis and not concat.new
    if parts != _parts_in_order(second, structure) or not are_halves(*parts) or not are_joined_along_axis:
        raise NoPattern
    is_descending = isinstance(first.operator, ops.Maximum)
    return ops.GroupSort(half.axis, 2, "strided", is_descending), half.source


def _require_maximum_and_minimum(first: Node, second: Node) -> None:
    has_both = {type(first.operator), type(second.operator)} == {ops.Maximum, ops.Minimum}
    if not has_both or len(first.inputs) != 2 or len(second.inputs) != 2:
        raise NoPattern


def _parts_in_order(node: Node, structure: Structure) -> list[PartOfValue]:
    """Return the inputs of a node as parts of values, in the order of the parts."""
    parts = [structure.part_of_value(name) for name in node.inputs]
    return sorted(parts, key=lambda part: part.start)


def _sort_of_pair(
    concat: ops.Concat,
    first: Node,
    second: Node,
    structure: Structure,
) -> tuple[ops.Operator, str]:
    """Return sorting for the joined largest and smallest entry along an axis of two entries."""
    # If the axis was dropped, both are joined along a new axis; if it was kept, along that axis.
    first, first_is_kept = _extreme_along_axes(first, structure)
    second, second_is_kept = _extreme_along_axes(second, structure)
    for each, is_kept in ((first.operator, first_is_kept), (second.operator, second_is_kept)):
        if not isinstance(each, ops.Largest | ops.Smallest):
            raise NoPattern
        if each.axes != (concat.axis,) or is_kept == concat.new:
            raise NoPattern
    source = structure.input_of(first)
    is_pair = source.shape is not None and source.shape[concat.axis] == 2
    has_both = type(first.operator) is not type(second.operator)
    if not has_both or not is_pair or not structure.is_same(source.name, second.inputs[0]):
        raise NoPattern
    return ops.Sort(concat.axis, isinstance(first.operator, ops.Largest)), source.name


def _extreme_along_axes(node: Node, structure: Structure) -> tuple[Node, bool]:
    """Return the largest or smallest entries that a value holds, and whether it has their axes, of size 1."""
    extreme = node
    while isinstance(extreme.operator, ops.SameOrder):
        extreme = structure[extreme.inputs[0]]
    if not isinstance(extreme.operator, ops.Largest | ops.Smallest):
        raise NoPattern
    before = structure.input_of(extreme).shape
    if extreme is node or before is None:
        return extreme, extreme.operator.keep
    kept = tuple(1 if axis in extreme.operator.axes else n for axis, n in enumerate(before))
    if node.shape != kept:
        raise NoPattern
    return extreme, True


def as_sorted_groups(node: Node, structure: Structure) -> list[Node]:
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
    return [replace(node, operator=operator, inputs=(source.name,))]
