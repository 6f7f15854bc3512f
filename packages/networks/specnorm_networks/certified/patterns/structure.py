"""The nodes of a network by name, and what patterns need to know of them: slices of a value, halves, and sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.graph import Node
from specnorm_networks.certified.operators.base import Shape
from specnorm_networks.certified.subjects import digest_of_operator


class NoPattern(Exception):
    """A node does not end the pattern that is looked for."""


@dataclass(frozen=True)
class PartOfValue:
    """Some consecutive positions along one axis of a value, or the whole value."""

    source: str
    """Name of the value."""
    axis: int = 0
    start: int = 0
    """Number of the first entry of the part along the axis."""
    stop: int = 0
    """One more than the number of the last entry."""
    size: int = 0
    """Size of the value along the axis; 0: the part is the whole value, and the other numbers are 0."""

    @property
    def is_whole(self) -> bool:
        """Whether the part is the whole value."""
        return self.size == 0


def are_halves(first: PartOfValue, second: PartOfValue) -> bool:
    """Whether two parts are the first and the second half of one value along one axis."""
    half, odd = divmod(first.size, 2)
    if odd or half == 0:
        return False
    first_half = replace(first, start=0, stop=half)
    second_half = replace(first, start=half, stop=first.size)
    return first == first_half and second == second_half


class Structure(dict[str, Node]):
    """The nodes of a network so far, by name.

    Parameters
    ----------
    fresh : callable
        Returns a name that no node has, similar to a given one.
    """

    def __init__(self, fresh: Callable[[str], str]) -> None:
        super().__init__()
        self.fresh = fresh

    def added(
        self,
        node: Node,
        suffix: str,
        operator: ops.Operator,
        inputs: tuple[str, ...],
        shape: Shape | None,
    ) -> Node:
        """Return a node that a pattern adds before the one that it ends with, ``node``."""
        return Node(self.fresh(f"{node.name}.{suffix}"), operator, inputs, shape, node.label, derived=True)

    def origin(self, name: str) -> Node:
        """Return the first node that has the same entries in the same order as a value."""
        node = self[name]
        while self._keeps_entries(node):
            node = self[node.inputs[0]]
        return node

    def _keeps_entries(self, node: Node) -> bool:
        if isinstance(node.operator, ops.Identity):
            return True
        if node.shape is None or len(node.inputs) != 1:
            return False
        if self[node.inputs[0]].shape != node.shape:
            return False
        if isinstance(node.operator, ops.Slice):
            # A slice of step 1 that has the shape of its input is the whole input.
            return all(step == 1 for _, _, _, step in node.operator.parts)
        return isinstance(node.operator, ops.SameOrder)

    def is_same(self, name: str, other: str) -> bool:
        """Whether two values are the same entries of one value, read twice: by slices, say, that are written twice."""
        one, another = self.origin(name), self.origin(other)
        while one.name != another.name:
            may_be_same = one.only_moves_entries and len(one.inputs) == len(another.inputs) == 1
            if not may_be_same or digest_of_operator(one.operator) != digest_of_operator(another.operator):
                return False
            one, another = self.input_of(one), self.input_of(another)
        return True

    def are_same_pair(self, names: tuple[str, ...], others: tuple[str, ...]) -> bool:
        """Whether two values are the same as two others, in either order."""
        if not len(names) == len(others) == 2:
            return False
        u, v = names
        return any(self.is_same(u, one) and self.is_same(v, another) for one, another in (others, others[::-1]))

    def input_of(self, node: Node) -> Node:
        """Return the origin of a node's first input."""
        return self.origin(node.inputs[0])

    def part_of_value(self, name: str) -> PartOfValue:
        """Return a value as a part of an earlier value; if it is no such part, as the whole of its own origin."""
        node = self.origin(name)
        whole = PartOfValue(node.name)
        if not isinstance(node.operator, ops.Slice):
            return whole
        source = self.input_of(node)
        if source.shape is None:
            return whole
        parts = []
        for axis, start, stop, step in node.operator.parts:
            size = source.shape[axis]
            first, last, stride = slice(start, stop, step).indices(size)
            if size and (first, last, stride) == (0, size, 1):
                continue  # all of this axis
            if stride != 1 or first >= last:
                return whole
            parts.append(PartOfValue(source.name, axis, first, last, size))
        return parts[0] if len(parts) == 1 else whole

    def before_broadcast(self, name: str) -> Node:
        """Follow a value back through broadcasts that add no axes; return the node where they began."""
        node = self.origin(name)
        while isinstance(node.operator, ops.Broadcast):
            before = self[node.inputs[0]]
            if before.shape is None or node.shape is None or len(before.shape) != len(node.shape):
                break
            node = self.origin(before.name)
        return node

    def reduction(self, name: str, kind: type[ops.Sum | ops.Mean]) -> tuple[Node, tuple[int, ...]]:
        """Return the value that is summed or averaged, and along which axes; `NoPattern` for other nodes.

        The axes have size 1 after it: they are kept, or dropped and put back. It may be broadcast along them.
        """
        node = reduced = self.before_broadcast(name)
        if isinstance(node.operator, ops.SameOrder):
            reduced = self.input_of(node)
        if not isinstance(reduced.operator, kind):
            raise NoPattern
        source = self.input_of(reduced)
        axes = tuple(sorted(reduced.operator.axes))
        if source.shape is None or node.shape != kept_shape(source.shape, axes):
            raise NoPattern
        return source, axes

    def summed(self, node: Node, kind: type[ops.Sum | ops.Mean] = ops.Sum) -> tuple[Node, tuple[int, ...], bool]:
        """Return the value whose sum a node reads, along which axes, and whether these stay; `NoPattern` for others.

        The node has the shape of the sum: it is not broadcast.
        """
        total = self.before_broadcast(node.inputs[0])
        if isinstance(total.operator, kind) and not total.operator.keep:
            source, axes, keep = self.input_of(total), total.operator.axes, False
        else:
            source, axes = self.reduction(total.name, kind)
            keep = True
        if total.shape is None or total.shape != node.shape:
            raise NoPattern
        return source, axes, keep

    def sum_with_number(self, node: Node) -> tuple[float, Node]:
        """Return a number that is added to a value, and the value's origin; 0 and the node itself if it is no sum."""
        pairs = (node.inputs, node.inputs[::-1]) if is_sum_of_two(node.operator) else ()
        for name, name_of_constant in pairs:
            constant = self[name_of_constant]
            if not isinstance(constant.operator, ops.Constant) or constant.shape is None:
                continue
            if self[name].shape != node.shape:
                continue
            value = constant.operator.run()
            if value.size == 1:
                return float(value.item()), self.origin(name)
        return 0.0, node

    def multiple(self, node: Node) -> tuple[Fraction, Node]:
        """Return a number that a value is multiplied by, and the value's origin; 1 and the node itself if none is."""
        scale = node.operator
        if not isinstance(scale, ops.Scale) or scale.offset is not None or np.size(scale.values) != 1:
            return Fraction(1), node
        numbers = scale.values if scale.divisors is None else scale.divisors
        number = float(np.asarray(numbers).item())
        is_known = scale.exact or scale.divisors is not None
        if not is_known or not math.isfinite(number) or number == 0 or self[node.inputs[0]].shape != node.shape:
            return Fraction(1), node
        factor = Fraction(number) if scale.divisors is None else 1 / Fraction(number)
        return factor, self.input_of(node)


def kept_shape(shape: Shape, axes: Sequence[int]) -> Shape:
    """Return a shape with size 1 along some axes."""
    return tuple(1 if axis in axes else n for axis, n in enumerate(shape))


def are_alike(node: Node, other: Node) -> bool:
    """Whether two nodes compute the same from the same values."""
    return node.inputs == other.inputs and digest_of_operator(node.operator) == digest_of_operator(other.operator)


def is_difference(operator: ops.Operator) -> bool:
    """Whether an operator is the first input less the second."""
    return isinstance(operator, ops.Add) and operator.weights == (1.0, -1.0)


def is_sum_of_two(operator: ops.Operator) -> bool:
    """Whether an operator is the sum of two inputs."""
    return isinstance(operator, ops.Add) and operator.weights == (1.0, 1.0)
