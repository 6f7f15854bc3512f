"""Networks ``x - t f(x)``, whose constants tell whether a network f is nonexpansive, averaged or monotone.

For an operator f of a Hilbert space (Bauschke and Combettes, "Convex Analysis and Monotone Operator Theory", ch. 4):

* f is *nonexpansive* if its constant is at most 1; I - f is nonexpansive if the constant of ``forward_step(f)`` is;
* f is *alpha-averaged*, ``f = (1 - alpha) I + alpha T`` with T nonexpansive, if and only if the constant of
  ``forward_step(f, 1 / (1 - alpha))`` is at most ``alpha / (1 - alpha)`` (alpha = 1/2: firmly nonexpansive, as proximal
  maps are);
* f is *monotone*, ``<f(x) - f(y), x - y> >= 0``, if the constant of ``forward_step(f, t)`` is at most 1 for any t > 0:
  then ``2 <f(x) - f(y), x - y> >= t |f(x) - f(y)|^2``, so that f is even t/2-cocoercive.
"""

from __future__ import annotations

import math
from dataclasses import replace

from specnorm.errors import MethodError
from specnorm.proof import counted
from specnorm_networks.certified.graph import Graph, Node
from specnorm_networks.certified.operators.linear import Add


def only_input_and_output(graph: Graph) -> tuple[Node, Node]:
    """Return the input and the output of a network; `MethodError` if there are several."""
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise MethodError(
            f"The network has {counted(len(graph.inputs), 'input')} and {counted(len(graph.outputs), 'output')}; "
            "expected one of each."
        )
    return graph.by_name[graph.inputs[0]], graph.by_name[graph.outputs[0]]


def forward_step(graph: Graph, size: float = 1.0) -> Graph:
    """Return the network ``x - size f(x)`` for a network f.

    Parameters
    ----------
    graph : Graph
        The network f, with one input and one output of the same shape.
    size : float, default 1
        Step size, positive.

    Raises
    ------
    MethodError
        If the shapes differ or are not known, or the size is not positive.
    """
    if not (size > 0 and math.isfinite(size)):
        raise MethodError(f"size={size!r}; expected a positive number.")
    start, end = only_input_and_output(graph)
    if start.shape is None or start.shape != end.shape:
        raise MethodError(
            f"The network takes shape {start.shape} to {end.shape}; a statement about x - f(x) needs the same shape. "
            "Give the input shape if sizes are not known."
        )
    name = graph.fresh("specnorm.statement")
    step = Node(name, Add((1.0, -float(size))), (start.name, end.name), end.shape, "statement", derived=True)
    return replace(graph, nodes=(*graph.nodes, step), outputs=(name,))
