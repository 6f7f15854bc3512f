"""Sorting of pairs and groups of entries, written out by maxima and reshapes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.graph import Node
from specnorm_networks.certified.patterns.structure import (
    NoPattern,
    Structure,
    are_halves,
    is_difference,
    is_sum_of_two,
    kept_shape,
)

HALF = 0.5


class _Extreme(NamedTuple):
    """The maximum or the minimum of two values."""

    is_largest: bool
    inputs: tuple[str, ...]


def as_sorted_pairs(node: Node, structure: Structure) -> list[Node]:
    """Return two nodes in place of the maximum and the minimum of u and v that are joined: u and v joined, and sorted.

    Where u and v are disjoint parts of one value, such as every other channel, their join moves entries alone. Where
    they are its halves, that is the value itself.
    """
    concat = node.operator
    if not isinstance(concat, ops.Concat) or len(node.inputs) != 2:
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
    is_descending = extremes[0].is_largest
    if concat.new:
        sort: ops.Operator = ops.Sort(concat.axis, is_descending)
    else:
        sort = ops.GroupSort(concat.axis, 2, "strided", is_descending)
        halves = sorted(map(structure.part_of_value, (u, v)), key=lambda part: part.start)
        if are_halves(*halves) and halves[0].axis == concat.axis:
            return [replace(node, operator=sort, inputs=(halves[0].source,))]
    joined = structure.added(node, "pairs", concat, (u, v), node.shape)
    return [joined, replace(node, operator=sort, inputs=(joined.name,))]


def as_extreme_of_moves(node: Node, structure: Structure) -> list[Node]:
    """Return three nodes in place of a sum that is the maximum or minimum of u and v: both beside each other, sorted.

    u and v are moved entries of one value: no layer before them is bounded together with the sum.
    """
    if isinstance(node.operator, ops.Maximum | ops.Minimum):
        raise NoPattern
    extreme = _extreme_of_two(node, structure)
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
    while node.only_moves_entries and len(node.inputs) == 1:
        node = structure.input_of(node)
    return node.name


def _extreme_of_two(node: Node, structure: Structure) -> _Extreme:
    """Return an extreme as it is, or as a sum."""
    if isinstance(node.operator, ops.Maximum | ops.Minimum) and len(node.inputs) == 2:
        return _Extreme(isinstance(node.operator, ops.Maximum), node.inputs)
    with suppress(NoPattern):
        return _half_of_sum_and_distance(node, structure)
    return _written_by_relu(node, structure)


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


def as_sorted_axis(node: Node, structure: Structure) -> list[Node]:
    """Return nodes in place of the joined largest and smallest entries along an axis of two: both entries, sorted.

    If the axis was dropped and both are joined along another one (MaxMin of Anil et al.), the entries of the pairs are
    moved to the halves of that axis.
    """
    concat = node.operator
    if not isinstance(concat, ops.Concat) or len(node.inputs) != 2:
        raise NoPattern
    first, second = (_extreme_of_pairs(name, structure) for name in node.inputs)
    are_both = first.is_largest != second.is_largest and first[1:3] == second[1:3]
    if not are_both or not structure.is_same(first.pairs.name, second.pairs.name):
        raise NoPattern
    _, axis, is_kept, pairs = first
    if is_kept != concat.new and axis == concat.axis:  # joined along the axis itself, or along a new one in its place
        return [replace(node, operator=ops.Sort(axis, first.is_largest), inputs=(pairs.name,))]
    if is_kept or concat.new or pairs.shape is None or node.shape is None:
        raise NoPattern
    axes = [each for each in range(len(pairs.shape)) if each != axis]
    axes.insert(concat.axis, axis)
    shape = tuple(pairs.shape[each] for each in axes)
    moved = structure.added(node, "moved", ops.Permute(tuple(axes)), (pairs.name,), shape)
    halves = structure.added(node, "halves", ops.Reshape(node.shape), (moved.name,), node.shape)
    sort = ops.GroupSort(concat.axis, 2, "strided", first.is_largest)
    return [moved, halves, replace(node, operator=sort, inputs=(halves.name,))]


class _ExtremeOfPairs(NamedTuple):
    """The largest or the smallest entries along an axis of two."""

    is_largest: bool
    axis: int
    is_kept: bool
    """Whether the axis is kept, or put back, with size 1."""
    pairs: Node
    """The value whose entries they are."""


def _extreme_of_pairs(name: str, structure: Structure) -> _ExtremeOfPairs:
    node = extreme = structure.origin(name)
    while isinstance(extreme.operator, ops.SameOrder):
        extreme = structure[extreme.inputs[0]]
    if not isinstance(extreme.operator, ops.Largest | ops.Smallest):
        raise NoPattern
    axes = extreme.operator.axes
    pairs = structure.input_of(extreme)
    if len(axes) != 1 or pairs.shape is None or pairs.shape[axes[0]] != 2:
        raise NoPattern
    if extreme is not node and node.shape != kept_shape(pairs.shape, axes):
        raise NoPattern
    is_kept = extreme is not node or extreme.operator.keep
    return _ExtremeOfPairs(isinstance(extreme.operator, ops.Largest), axes[0], is_kept, pairs)


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
