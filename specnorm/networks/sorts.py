"""Largest and smallest of two halves, put together again: they sort pairs (MaxMin, GroupSort with groups of two).

Alone, the larger and the smaller of two pieces have each the norm of both, and together root of two times that. But
sorting moves no two vectors further apart, so the pair of them has norm 1.
"""

from __future__ import annotations

from collections.abc import Mapping

from specnorm.networks.graph import Graph, Node, Shape


def with_sorts(graph: Graph) -> Graph:
    """The same network, in which such pairs are one node of the rule ``select``.

    Parameters
    ----------
    graph : Graph
        Whose front-end says of nodes of the rule ``extreme`` which end they choose (``choice``, "max" or "min"), and of
        disjoint pieces of one value which they are (``piece``).

    Returns
    -------
    Graph
    """
    nodes = {node.name: node for node in graph.nodes}
    return Graph(tuple(_sorted(node, nodes) or node for node in graph.nodes), graph.outputs)


def _sorted(node: Node, nodes: Mapping[str, Node]) -> Node | None:
    ends = [nodes[name] for name in node.inputs]
    if node.rule != "stack" or {end.params.get("choice") for end in ends} != {"max", "min"} or len(ends) != 2:
        return None
    halves = [nodes[name] for name in ends[0].inputs]
    if len(halves) != 2 or set(ends[0].inputs) != set(ends[1].inputs):
        return None
    one, other = halves
    apart = one.params.get("piece") != other.params.get("piece") and None not in (
        one.params.get("piece"),
        other.params.get("piece"),
    )
    # Without broadcasting, each entry of one piece meets one of the other.
    alike = one.shape is not None and all(each.shape == one.shape for each in (other, *ends))
    if not apart or not alike or one.inputs != other.inputs or len(one.inputs) != 1:
        return None
    source = nodes[one.inputs[0]]
    if source.rule == "select" and source.shape != node.shape and len(source.inputs) == 1:
        # The operator that splits is a node too, with its first piece's shape.
        before = nodes[source.inputs[0]]
        source = before if before.shape == node.shape else source
    told = {"sorted": _axis(source.shape, one.shape, node)}
    return Node(node.name, "select", node.operator, (source.name,), node.shape, told)


def _axis(whole: Shape | None, half: Shape | None, node: Node) -> int | None:
    """The axis that is halved and put together again, all others as they were; None where there is no such."""
    axis = node.params.get("axis")
    if whole is None or half is None or axis is None or whole != node.shape or len(half) != len(whole):
        return None
    size, part = whole[axis], half[axis]
    even = isinstance(size, int) and isinstance(part, int) and 2 * part == size
    return int(axis) if even and (*half[:axis], size, *half[axis + 1 :]) == whole else None
