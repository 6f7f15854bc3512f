"""What networks write out by several operators and one operator class knows better: recognised by structure alone.

A pattern asks for the same values by name, the same axis and slices that cover it exactly. What it makes of a node
computes the node's value from the same values, and is executed and compared as any other.
"""

from __future__ import annotations

from specnorm_networks.certified.graph import Graph, Node
from specnorm_networks.certified.operators.base import Pointwise
from specnorm_networks.certified.operators.normalisation import Normalise
from specnorm_networks.certified.patterns.gates import gated
from specnorm_networks.certified.patterns.householder import chosen
from specnorm_networks.certified.patterns.normalising import normalised
from specnorm_networks.certified.patterns.sorts import sorted_pieces

__all__ = ["prepared", "recognised", "unsorted"]


def recognised(graph: Graph) -> Graph:
    """The same network, in which patterns are one node, of the name and shape of their last one.

    Nodes in no pattern's place are kept, those as well that no output needs any more.
    """
    nodes: dict[str, Node] = {}
    for node in graph.nodes:
        one = gated(node, nodes) or chosen(node, nodes)
        several = sorted_pieces(node, nodes, graph.fresh) or normalised(node, nodes, graph.fresh)
        nodes.update({each.name: each for each in ([one] if one is not None else several or [node])})
    return graph._same([*nodes.values()])


def prepared(graph: Graph) -> Graph:
    """The network as `bound` reads it: patterns recognised, and without what no output needs."""
    return recognised(graph).pruned()


def unsorted(graph: Graph) -> Graph:
    """The same without sorting: of patterns, functions of one number and normalisation are recognised.

    Ranges and units read sorting as maxima and minima, which are ReLU of differences.
    """
    found, kept = prepared(graph).by_name, {node.name: node for node in graph.nodes}
    nodes: list[Node] = []
    for old in graph.nodes:
        new = found.get(old.name, old)
        lengths = [found[name] for name in new.inputs if name in found and name not in kept]
        if isinstance(new.operator, Normalise) and all(kept.keys() >= set(each.inputs) for each in lengths):
            nodes += [*lengths, new]
        else:
            nodes.append(new if isinstance(new.operator, Pointwise) else old)
    return graph._same(nodes).pruned()
