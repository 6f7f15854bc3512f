"""What networks write out by several operators and one operator class knows better: recognised by structure alone.

A pattern asks for the same values by name, the same axis and slices that cover it exactly. What it makes of a node
computes the node's value from the same values, and is executed and compared as any other.
"""

from __future__ import annotations

from dataclasses import replace

from specnorm.certified.network.graph import Graph, Node
from specnorm.certified.network.patterns.gates import gated
from specnorm.certified.network.patterns.householder import chosen
from specnorm.certified.network.patterns.l2pool import pooled, rooted
from specnorm.certified.network.patterns.normalising import normalised
from specnorm.certified.network.patterns.sorts import sorted_pieces

__all__ = ["recognised"]


def recognised(graph: Graph) -> Graph:
    """The same network, in which patterns are one node, of the name and shape of their last one.

    Nodes in no pattern's place are kept, those as well that no output needs any more.
    """
    nodes: dict[str, Node] = {}
    written: dict[str, Node] = {}  # with roots as they are written, which normalisations divide by
    for node in graph.nodes:
        one = gated(node, nodes) or chosen(node, nodes) or pooled(node, nodes)
        several = sorted_pieces(node, nodes, graph.fresh) or normalised(node, written, graph.fresh)
        found = [one] if one is not None else several or [node]
        written.update({each.name: each for each in found})
        root = rooted(node, nodes) if found == [node] else None
        nodes.update({each.name: each for each in ([root] if root is not None else found)})
    return replace(graph, nodes=tuple(nodes.values()))
