"""Networks made of one network, whose constant says of it whether it is nonexpansive, averaged or monotone.

For an operator f of a Hilbert space (Bauschke and Combettes, "Convex Analysis and Monotone Operator Theory", ch. 4):

* f is *nonexpansive* if its constant is at most 1; I - f is, if that of ``step(f)`` is;
* f is *alpha-averaged*, ``f = (1 - alpha) I + alpha T`` with T nonexpansive, if and only if the constant of
  ``averaged(f, alpha)`` is at most 1 (alpha = 1/2: firmly nonexpansive, as proximal maps are);
* f is *monotone*, ``<f(x) - f(y), x - y> >= 0``, if the constant of ``step(f, t)`` is at most 1 for any t > 0: then
  ``2 <f(x) - f(y), x - y> >= t |f(x) - f(y)|^2``, so that f is even t/2-cocoercive.
"""

from __future__ import annotations

import math

from specnorm.errors import MethodError
from specnorm.networks.graph import Graph, Node


def step(graph: Graph, size: float = 1.0) -> Graph:
    """``x - size f(x)`` for a network f.

    Parameters
    ----------
    graph : Graph
        With one input and one output of the same shape.
    size : float, default 1

    Returns
    -------
    Graph

    Raises
    ------
    MethodError
        If the shapes differ or are not known, or the size is not positive.
    """
    if not (size > 0 and math.isfinite(size)):
        raise MethodError(f"size={size!r}; expected a positive number.")
    start, end = _ends(graph)
    return _joined(graph, _scaled(graph, end, size, "specnorm.step"), start)


def averaged(graph: Graph, alpha: float) -> Graph:
    """``T = (f - (1 - alpha) I) / alpha`` for a network f.

    Parameters
    ----------
    graph : Graph
        With one input and one output of the same shape.
    alpha : float
        Between 0 and 1.

    Returns
    -------
    Graph

    Raises
    ------
    MethodError
        If the shapes differ or are not known, or alpha is not between 0 and 1.
    """
    if not 0 < alpha < 1:
        raise MethodError(f"alpha={alpha!r}; expected a number between 0 and 1.")
    start, end = _ends(graph)
    return _joined(
        graph,
        _scaled(graph, start, (1 - alpha) / alpha, "specnorm.input"),
        _scaled(graph, end, 1 / alpha, "specnorm.output"),
    )


def _ends(graph: Graph) -> tuple[Node, Node]:
    nodes = {node.name: node for node in graph.nodes}
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise MethodError(
            f"The network has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs; a statement about x - f(x) "
            "needs one of each."
        )
    start, end = nodes[graph.inputs[0]], nodes[graph.outputs[0]]
    if start.shape is None or start.shape != end.shape:
        raise MethodError(
            f"The network takes shape {start.shape} to {end.shape}; a statement about x - f(x) needs the same shape. "
            "Give the input shape if sizes are not known."
        )
    return start, end


def _scaled(graph: Graph, node: Node, number: float, name: str) -> Node:
    """A node times a number, itself for 1. A network that is such a statement already has nodes of these names."""
    if number == 1:
        return node
    return Node(graph.fresh(name), "scale", "statement", (node.name,), node.shape, {"values": number})


def _joined(graph: Graph, end: Node, start: Node) -> Graph:
    """``start - end``."""
    new = [node for node in (end, start) if node not in graph.nodes]
    whole = Node(
        graph.fresh("specnorm.statement"), "add", "statement", (start.name, end.name), end.shape, {"signs": (1, -1)}
    )
    return Graph((*graph.nodes, *new, whole), (whole.name,))
