"""Remove permutations of axes: each is moved after the operators that follow it, until it meets its inverse.

Frameworks whose channels are last put one permutation before and one after each convolution. Without them, a batch
normalization is beside its convolution and becomes a part of it, in Keras and Flax too.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.graph import Graph, Node
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.operators.joins import Extreme
from specnorm_networks.certified.patterns.curves.composite import Composite

Axes = tuple[int, ...]
"""A permutation of axes, as `numpy.transpose` takes it."""


class Permuted(NamedTuple):
    """A value as a permutation of another one."""

    axes: Axes
    source: str
    """Name of the value that is permuted."""


def remove_permutations(graph: Graph) -> Graph:
    """Return the same network with fewer permutations of axes; the network itself if moving them leaves as many."""
    count = _count_permutations(graph)
    if count == 0:
        return graph
    rewriting = _Rewriting(graph)
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes += rewriting.replacements(node)
    rewritten = graph._with_nodes(nodes)
    return rewritten if _count_permutations(rewritten) < count else graph


def _count_permutations(graph: Graph) -> int:
    return sum(isinstance(node.operator, ops.Permute) for node in graph.pruned().nodes)


class _Rewriting:
    """Rewrites the nodes of a graph, one after the other."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.permuted: dict[str, Permuted] = {}
        """Values that are permutations of others, by their names."""
        self.permutation_of: dict[Permuted, str] = {}
        """Name of the first value that is this permutation."""

    def replacements(self, node: Node) -> list[Node]:
        """Return the nodes in place of one; the last one has its name and value."""
        if isinstance(node.operator, ops.Permute):
            return [self._permutation(node, node.operator)]
        axes_of_inputs = {self.permuted[name].axes for name in node.inputs if name in self.permuted}
        if len(axes_of_inputs) != 1:
            return [node]
        (axes,) = axes_of_inputs
        return self._operator_before_permutation(node, axes)

    def _permutation(self, node: Node, permute: ops.Permute) -> Node:
        """Return a permutation; if its input is permuted, too, both permutations are joined."""
        axes = permute.axes
        source = node.inputs[0]
        if source in self.permuted:
            first = self.permuted[source]
            axes = tuple(first.axes[axis] for axis in axes)
            source = first.source
        if axes == tuple(range(len(axes))):
            return replace(node, operator=ops.Identity(), inputs=(source,))
        self.permuted[node.name] = Permuted(axes, source)
        self.permutation_of.setdefault(Permuted(axes, source), node.name)
        return replace(node, operator=ops.Permute(axes), inputs=(source,))

    def _operator_before_permutation(self, node: Node, axes: Axes) -> list[Node]:
        """Return an operator on its inputs before their permutation, and the permutation after it.

        The node itself if this is not possible. ``axes``: the permutation of its inputs.
        """
        graph = self.graph
        inverse = tuple(int(axis) for axis in np.argsort(axes))
        shapes = [graph.by_name[name].shape for name in node.inputs]
        have_no_more_axes = all(shape is not None and len(shape) <= len(inverse) for shape in shapes)
        if node.shape is None or not have_no_more_axes:
            return [node]
        fixed_inputs = [name for name in node.inputs if name in graph.fixed_values]
        constants = {name: self._constant(name, inverse, node) for name in fixed_inputs}
        sources = []
        for name in node.inputs:
            source = self._source(name, inverse, constants)
            if source is None:
                return [node]
            sources.append(source)
        moving_shapes = [shape for name, shape in zip(node.inputs, shapes, strict=True) if name not in constants]
        entrywise = all(shape == node.shape for shape in moving_shapes)
        inner = _before_permutation(node.operator, axes, inverse, entrywise=entrywise)
        if inner is None:
            return [node]
        if isinstance(inner, ops.Sum | ops.Mean):  # no axes are left that have to be permuted
            return [replace(node, operator=inner, inputs=tuple(sources))]
        name = graph.fresh(f"{node.name}.turned")
        self.permuted[node.name] = Permuted(axes, name)
        inner_shape = tuple(node.shape[axis] for axis in inverse)
        inner_node = Node(name, inner, tuple(sources), inner_shape, node.label, derived=True)
        permutation = replace(node, operator=ops.Permute(axes), inputs=(name,))
        return [*constants.values(), inner_node, permutation]

    def _source(self, name: str, inverse: Axes, constants: dict[str, Node]) -> str | None:
        """Return the name of an input before its permutation; None if there is no such value."""
        if name in self.permuted:
            return self.permuted[name].source
        if name in constants:
            return constants[name].name
        return self.permutation_of.get(Permuted(inverse, name))

    def _constant(self, name: str, inverse: Axes, reader: Node) -> Node:
        """Return a constant with its axes permuted back."""
        values = _permute_back(self.graph.by_name[name].operator.run(), inverse)
        fresh = self.graph.fresh(f"{reader.name}.{name}")
        return Node(fresh, ops.Constant(lambda: values), (), tuple(values.shape), derived=True)


def _permute_back(values: NDArray[Any], inverse: Axes) -> NDArray[Any]:
    """Return an array with its axes permuted; it may have fewer axes than the values with which it is broadcast."""
    missing_axes = (1,) * (len(inverse) - values.ndim)
    return values.reshape(missing_axes + values.shape).transpose(inverse)


def _permute_all(arrays: tuple[FloatArray, FloatArray], inverse: Axes) -> tuple[FloatArray, FloatArray]:
    value, error = arrays
    return _permute_back(value, inverse), _permute_back(error, inverse)


def _before_permutation(
    operator: ops.Operator,
    axes: Axes,
    inverse: Axes,
    *,
    entrywise: bool,
) -> ops.Operator | None:
    """Return the operator on values before their permutation whose value, permuted, is that of a given operator.

    None if there is no such operator. Sums and means drop axes; the permutation must leave the other axes in order.

    ``axes``, ``inverse``: the permutation and its inverse. ``entrywise``: whether all inputs that are no constants have
    the shape of the value.
    """
    match operator:
        case ops.Slice():
            parts = [(axes[axis], start, stop, step) for axis, start, stop, step in operator.parts]
            return ops.Slice(tuple(parts))
        case ops.Concat(new=False):
            return ops.Concat(axes[operator.axis])
        case ops.Sum(keep=False) | ops.Mean(keep=False):
            remaining = [axis for place, axis in enumerate(axes) if place not in operator.axes]
            if remaining != sorted(remaining):
                return None
            return replace(operator, axes=tuple(sorted(axes[place] for place in operator.axes)))
        case ops.Scale() | ops.Where() | ops.Function() | ops.Add() | Extreme() | ops.Product() | ops.Identity():
            return _with_numbers_permuted(operator, inverse) if entrywise else None
    return None


def _with_numbers_permuted(operator: ops.Operator, inverse: Axes) -> ops.Operator | None:
    """Return an operator of single entries with the axes of its numbers permuted back; None if they have more axes.

    A function of several operators may hold a mask, or constants that differ from entry to entry.
    """
    match operator:
        case Composite():
            parts = [(_with_numbers_permuted(part, inverse), reads) for part, reads in operator.program]
            program = tuple((part, reads) for part, reads in parts if part is not None)
            return replace(operator, program=program) if len(program) == len(parts) else None
        case ops.Scale():
            if operator.values.ndim > len(inverse):
                return None
            offset, divisors = operator.offset, operator.divisors
            return replace(
                operator,
                values=_permute_back(operator.values, inverse),
                offset=None if offset is None else lambda: _permute_all(offset(), inverse),
                divisors=None if divisors is None else _permute_back(divisors, inverse),
            )
        case ops.Constant():
            values = operator.run()
            return None if values.ndim > len(inverse) else ops.Constant(lambda: _permute_back(values, inverse))
        case ops.Where():
            mask = np.asarray(operator.mask())
            return None if mask.ndim > len(inverse) else ops.Where(lambda: _permute_back(mask, inverse))
    has_arrays = any(isinstance(getattr(operator, field.name), np.ndarray) for field in fields(operator))
    return None if has_arrays else operator
