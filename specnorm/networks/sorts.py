"""Sorting, and reflections: what moves no two vectors apart, written out by several nodes.

Alone, the larger and the smaller of two pieces have each the norm of both, and together root of two times that. But
sorting moves no two vectors further apart, so the pair of them has norm 1 (MaxMin, GroupSort, full sort). So has the
pair of positive and negative part. A choice between two linear maps by the sign of a third, where both agree when that
is 0, has the larger one's norm (Householder activations, a leaky ReLU that is written out).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from specnorm.networks.choices import chosen
from specnorm.networks.graph import Graph, Node, concrete
from specnorm.networks.pieces import Nodes, are_apart, halved_axis, split_value
from specnorm.networks.root_pooling import pooled_root


def with_sorts(graph: Graph) -> Graph:
    """The same network, in which such pairs are one node.

    Parameters
    ----------
    graph : Graph
        Whose front-end says of nodes of the rules ``extreme`` and ``length`` which end they choose (``choice``, "max"
        or "min"; ``axes``, ``kept``), of disjoint pieces of one value which they are (``piece``), and of sorting along
        an axis which one that is (``sorted``), and how many neighbours are sorted together (``consecutive``).

    Returns
    -------
    Graph
    """
    nodes: dict[str, Node] = {}
    for node in graph.nodes:
        nodes[node.name] = node
        found = _halves(node, nodes) or _pairs(node, nodes) or _both_signs(node, nodes) or _grouped(node, nodes)
        nodes[node.name] = found or chosen(node, nodes) or pooled_root(node, nodes) or node
    return Graph(tuple(nodes.values()), graph.outputs)


def _halves(node: Node, nodes: Nodes) -> Node | None:
    """Larger and smaller of two pieces."""
    ends = [nodes[name] for name in node.inputs]
    if node.rule != "stack" or {end.params.get("choice") for end in ends} != {"max", "min"} or len(ends) != 2:
        return None
    halves = [nodes[name] for name in ends[0].inputs]
    if len(halves) != 2 or set(ends[0].inputs) != set(ends[1].inputs):
        return None
    one, other = halves
    # Without broadcasting, each entry of one piece meets one of the other.
    if not are_apart(one, other) or one.shape is None or not all(each.shape == one.shape for each in (other, *ends)):
        return None
    source = split_value(one, node.shape, nodes)
    told = {"sorted": halved_axis(source.shape, one, node)}
    return Node(node.name, "select", node.operator, (source.name,), node.shape, told)


def _pairs(node: Node, nodes: Nodes) -> Node | None:
    """Largest and smallest along an axis of two entries, put where these were."""
    axis = node.params.get("axis")
    ends = [_unmoved(nodes[name], nodes) for name in node.inputs]
    if node.rule != "stack" or axis is None or {e.params.get("choice") for e in ends} != {"max", "min"}:
        return None
    along = all(e.rule == "length" and tuple(e.params["axes"]) == (axis,) and e.params["kept"] for e in ends)
    if len(ends) != 2 or not along or ends[0].inputs != ends[1].inputs:
        return None
    source = nodes[ends[0].inputs[0]]
    if source.shape is None or source.shape != node.shape or source.shape[axis] != 2:
        return None
    told = {"sorted": int(axis), "consecutive": 2}
    return Node(node.name, "select", node.operator, (source.name,), node.shape, told)


def _both_signs(node: Node, nodes: Nodes) -> Node | None:
    """Positive and negative part: where x and y have one sign, one of both moves; else |x - y| = |x| + |y|."""
    if node.rule != "stack" or len(node.inputs) != 2 or not all(is_function(nodes[n], "relu") for n in node.inputs):
        return None
    one, other = (nodes[nodes[name].inputs[0]] for name in node.inputs)
    for plain, turned in ((one, other), (other, one)):
        if is_function(turned, "negative") and turned.inputs == (plain.name,):
            return replace(node, params={**node.params, "of": plain.name})
    return None


def is_function(node: Node, name: str) -> bool:
    """Whether it applies a function of the table of `pointwise` that has no parameters."""
    return node.rule == "pointwise" and dict(node.params) == {"function": name}


def _unmoved(node: Node, nodes: Nodes) -> Node:
    """The node whose entries in their places it has."""
    while node.rule == "select" and node.params.get("shift") and nodes[node.inputs[0]].shape == node.shape:
        node = nodes[node.inputs[0]]
    return node


def _grouped(node: Node, nodes: Nodes) -> Node | None:
    """Sorting between two changes of the shape that put neighbours of an axis on one of their own, and back."""
    if node.rule != "select" or not node.params.get("reshaped"):
        return None
    inner = _unmoved(nodes[node.inputs[0]], nodes)
    axis, count = inner.params.get("sorted"), inner.params.get("consecutive")
    if inner.rule != "select" or not axis or not count:
        return None
    split = nodes[inner.inputs[0]]
    if split.rule != "select" or not split.params.get("reshaped"):
        return None
    source = nodes[split.inputs[0]]
    before, between = concrete(source.shape), concrete(split.shape)
    if before is None or between is None or before != concrete(node.shape) or between[axis] != count:
        return None
    if (*between[: axis - 1], between[axis - 1] * count, *between[axis + 1 :]) != before:
        return None
    told: dict[str, Any] = {"sorted": axis - 1, "consecutive": count}
    return Node(node.name, "select", node.operator, (source.name,), node.shape, told)
