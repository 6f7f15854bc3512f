"""Permutations of axes, put behind what is done to each entry: two that meet are none.

Frameworks whose channels are last put one before and one behind each convolution.
"""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np

from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.graph import Graph, Node
from specnorm_networks.certified.operators.base import FloatArray

Turned = tuple[tuple[int, ...], str]
"""The axes of a permutation, and the value that it permutes."""


def settled(graph: Graph) -> Graph:
    """The same network with as few permutations as that leaves."""
    if not _count(graph):
        return graph
    turned: dict[str, Turned] = {}
    inverse: dict[Turned, str] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes += _settled(node, graph, turned, inverse)
    found = graph._same(nodes)
    return found if _count(found) < _count(graph) else graph


def _count(graph: Graph) -> int:
    return sum(isinstance(node.operator, ops.Permute) for node in graph.pruned().nodes)


def _settled(
    node: Node,
    graph: Graph,
    turned: dict[str, Turned],
    inverse: dict[Turned, str],
) -> list[Node]:
    operator = node.operator
    before = [graph.by_name[name].shape for name in node.inputs]
    if isinstance(operator, ops.Permute):
        axes = operator.axes
        source = node.inputs[0]
        if source in turned:
            first, source = turned[source]
            axes = tuple(first[axis] for axis in axes)
        if axes == tuple(range(len(axes))):
            return [replace(node, operator=ops.Identity(), inputs=(source,))]
        turned[node.name] = axes, source
        inverse.setdefault((axes, source), node.name)
        return [replace(node, operator=ops.Permute(axes), inputs=(source,))]
    known = {turned[name][0] for name in node.inputs if name in turned}
    if len(known) != 1 or node.shape is None or None in before:
        return [node]
    (axes,) = known
    back = tuple(int(axis) for axis in np.argsort(axes))
    if any(len(shape or ()) > len(back) for shape in before):
        return [node]
    constants = {name: _constant(name, back, graph, node) for name in node.inputs if name in graph.constants}
    sources = [
        turned[name][1] if name in turned else constants[name].name if name in constants else inverse.get((back, name))
        for name in node.inputs
    ]
    found = [source for source in sources if source is not None]
    moving = [shape for name, shape in zip(node.inputs, before, strict=True) if name not in constants]
    inner = _inside(operator, axes, back, entrywise=all(shape == node.shape for shape in moving))
    if inner is None or len(found) < len(sources):
        return [node]
    if isinstance(inner, ops.Sum | ops.Mean):
        return [replace(node, operator=inner, inputs=tuple(found))]
    name = graph.fresh(f"{node.name}.turned")
    turned[node.name] = axes, name
    shape = tuple(node.shape[axis] for axis in back)
    first_of_all = Node(name, inner, tuple(found), shape, node.label, derived=True)
    return [*constants.values(), first_of_all, replace(node, operator=ops.Permute(axes), inputs=(name,))]


def _constant(name: str, back: tuple[int, ...], graph: Graph, reader: Node) -> Node:
    """A constant, with its axes where those of the value that it is joined with were."""
    values = _turned_back(graph.by_name[name].operator.run(), back)
    return Node(
        graph.fresh(f"{reader.name}.{name}"), ops.Constant(lambda: values), (), tuple(values.shape), derived=True
    )


def _turned_back(values: FloatArray, back: tuple[int, ...]) -> FloatArray:
    return values.reshape((1,) * (len(back) - values.ndim) + values.shape).transpose(back)


def _inside(
    operator: ops.Operator,
    axes: tuple[int, ...],
    back: tuple[int, ...],
    *,
    entrywise: bool,
) -> ops.Operator | None:
    """What makes of values, of which its own are permutations, one that its result is a permutation of."""
    match operator:
        case ops.Slice():
            return ops.Slice(tuple((axes[axis], start, stop, step) for axis, start, stop, step in operator.parts))
        case ops.Concat(new=False):
            return ops.Concat(axes[operator.axis])
        case ops.Sum(keep=False) | ops.Mean(keep=False):
            left = [axis for at, axis in enumerate(axes) if at not in operator.axes]
            gone = tuple(sorted(axes[at] for at in operator.axes))
            return replace(operator, axes=gone) if left == sorted(left) else None
        case ops.Scale():
            if operator.offset is not None or operator.values.ndim > len(back) or not entrywise:
                return None
            return replace(operator, values=_turned_back(operator.values, back))
        case ops.Pointwise() | ops.Add() | ops.Maximum() | ops.Minimum() | ops.Product() | ops.Identity():
            plain = not any(isinstance(getattr(operator, each.name), np.ndarray) for each in fields(operator))
            return operator if plain and entrywise else None
    return None
