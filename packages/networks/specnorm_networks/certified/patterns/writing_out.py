"""Write a network out by simpler operators: in the end, by linear ones and functions of each entry."""

from __future__ import annotations

import numpy as np

from specnorm_networks.certified.graph import Graph, Node
from specnorm_networks.certified.operators.base import FloatArray, NoBoundError, NotRunError, Program


def written_out(graph: Graph) -> list[Graph]:
    """Return the network itself, the network with its operators written out once, twice, and so on to the end.

    If several nodes replace a node, the last of them keeps its name.
    """
    graphs = [graph]
    while True:
        last = graphs[-1]
        nodes: list[Node] = []
        for node in last.nodes:
            nodes += _steps_of(node, last)
        pairs = zip(nodes, last.nodes, strict=False)
        if len(nodes) == len(last.nodes) and all(a is b for a, b in pairs):
            return graphs
        graphs.append(last._with_nodes(nodes))


def _steps_of(node: Node, graph: Graph) -> list[Node]:
    """Return the nodes that write out one node; the node itself if there are none, or if they cannot be run."""
    sizes = graph.place(node).known_shapes()
    if node.known is None or not sizes:
        return [node]
    try:
        program = node.known.written_out(sizes)
        if program is None:
            return [node]
        return _nodes_of_program(program, node, graph, [np.zeros(size) for size in sizes])
    except (NoBoundError, NotRunError):
        return [node]


def _nodes_of_program(program: Program, node: Node, graph: Graph, values: list[FloatArray]) -> list[Node]:
    """Return a program as nodes, the last of them with the name of ``node``.

    ``values``: values of its inputs on which the program is run, for the shapes of all values.
    """
    names = list(node.inputs)
    steps: list[Node] = []
    for number, (operator, inputs) in enumerate(program):
        is_last = number + 1 == len(program)
        name = node.name if is_last else graph.fresh(f"{node.name}, step {number}")
        value = operator.run(*(values[source] for source in inputs))
        sources = tuple(names[source] for source in inputs)
        steps.append(Node(name, operator, sources, value.shape, node.label, derived=True))
        names.append(name)
        values.append(value)
    if values[-1].shape != node.shape:
        raise NotRunError(f"{node.name}, written out, has shape {values[-1].shape}")
    return steps
