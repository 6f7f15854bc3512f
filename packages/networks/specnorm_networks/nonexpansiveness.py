"""Prove that a network f, or its residual x - f(x), is nonexpansive, or refute it by a pair of inputs.

The constants of networks ``x - t f(x)`` tell more (Bauschke and Combettes, "Convex Analysis and Monotone Operator
Theory", ch. 4):

* f is *nonexpansive* if its constant is at most 1; I - f is nonexpansive if the constant of ``forward_step(f)`` is;
* f is *alpha-averaged*, ``f = (1 - alpha) I + alpha T`` with T nonexpansive, if and only if the constant of
  ``forward_step(f, 1 / (1 - alpha))`` is at most ``alpha / (1 - alpha)`` (alpha = 1/2: firmly nonexpansive, as proximal
  maps are);
* f is *monotone*, ``<f(x) - f(y), x - y> >= 0``, if the constant of ``forward_step(f, t)`` is at most 1 for any t > 0:
  then ``2 <f(x) - f(y), x - y> >= t |f(x) - f(y)|^2``, so that f is even t/2-cocoercive.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm.errors import MethodError
from specnorm.proof import check_count, check_flag, check_number, counted, number
from specnorm_networks.answer import NetworkBound
from specnorm_networks.answering import bound
from specnorm_networks.certified.graph import Graph, Node, check_graph
from specnorm_networks.certified.operators.linear import Add
from specnorm_networks.comparison.attack import Pairs
from specnorm_networks.live import Source, network_graph, numbers
from specnorm_networks.measuring import Measure
from specnorm_networks.methods import Method

_DISTANCE = 1e-2
"""Distance of the two inputs of a pair, as a part of the first one's norm. If they were much closer, rounding would
spoil the difference of their outputs."""
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Nonexpansive:
    """Answer to the question whether ``|f(x) - f(y)| <= |x - y|`` for all x and y.

    Parameters
    ----------
    proven : bool or None
        True: proven. False: refuted by `pair`. None: neither.
    statement : str
        Formula of the function: "f" or "x - f(x)".
    bound : NetworkBound
        Proven bound; ``bound.upper`` is a Lipschitz constant of the function.
    reached : float
        Lower bound of the largest ratio ``|f(x) - f(y)| / |x - y|`` that was reached, rounding taken off.
    pair : tuple of array
        The two inputs that reach it.
    """

    proven: bool | None
    statement: str
    bound: NetworkBound
    reached: float
    pair: tuple[Array, Array]

    def __repr__(self) -> str:
        """Return the answer in a sentence, and the bound's note."""
        upper = self.bound.upper
        if upper is None:
            constant = "its constant is not known"
        else:
            constant = f"its constant is at most {number(upper, 'upper')}, proven"
        verdicts = {True: "is nonexpansive", False: "is not nonexpansive", None: "may be nonexpansive or not"}
        verdict = verdicts[self.proven]
        reached = number(self.reached, "lower")
        sentence = f"{self.statement} {verdict}: {constant}; a pair of inputs reaches {reached}."
        return f"{sentence} {self.bound.note}".rstrip()

    def __bool__(self) -> bool:
        raise TypeError(
            "bool() of Nonexpansive, which has three answers: use its .proven, which is True, False or None."
        )


def nonexpansive(
    source: Source,
    input_shape: Any = None,
    *,
    residual: bool = False,
    steps: int = 30,
    rtol: float = 1e-3,
    method: Method | None = None,
    budget: float | None = 60.0,
) -> Nonexpansive:
    """Prove or refute that a network is nonexpansive.

    Many convergence proofs of plug-and-play iterations need a nonexpansive denoiser. If the network predicts the noise
    f(x), the denoiser is ``x - f(x)`` (Ryu et al., "Plug-and-Play Methods Provably Converge with Properly Trained
    Denoisers", ICML 2019).

    Parameters
    ----------
    source, input_shape, rtol, method, budget
        As for `network_bound`. The network has one input and one output. If ``input_shape`` is an array, the search for
        a pair begins there; otherwise, at noise.
    residual : bool, default False
        Consider ``x - f(x)`` instead of ``f``.
    steps : int, default 30
        Number of steps of the search for a pair of inputs that refutes it, at least 1. A step is a power iteration with
        the Jacobian at the first input, which then moves in the most amplified direction.

    Returns
    -------
    Nonexpansive
        A proof and a refutation are both about real arithmetic, inputs of this shape, and the model's present weights.

    Raises
    ------
    MethodError
        If the model cannot be exported, or does not have one input and one output (with ``residual``, of the same
        shape).
    """
    check_count("steps", steps, least=1)
    check_flag("residual", residual)
    graph = network_graph(source, input_shape)
    only_input_and_output(graph)
    function = forward_step(graph) if residual else graph
    answer = bound(function, Measure(rtol), method=method, budget=budget)
    start = numbers(input_shape) if hasattr(input_shape, "dtype") else None
    ratio, pair = _search(function, start, steps)
    # A statement about the graph is one about the model only if both were compared.
    has_no_model = graph.model is None
    is_at_most_1 = answer.upper is not None and answer.upper <= 1
    proven = None
    if is_at_most_1 and (answer.checked.complete or has_no_model):
        proven = True
    elif ratio > 1 and (answer.checked.inputs or has_no_model):
        proven = False
    return Nonexpansive(proven, "x - f(x)" if residual else "f", answer, ratio, pair)


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
        If ``graph`` is not a Graph, the shapes differ or are not known, or the size is not a positive number.
    """
    check_graph("forward_step", graph)
    factor = check_number("size", size)
    if not 0 < factor < math.inf:
        raise MethodError(f"size={size!r}; expected a positive finite number.")
    start, end = only_input_and_output(graph)
    if start.shape is None or start.shape != end.shape:
        raise MethodError(
            f"The network takes shape {start.shape} to {end.shape}; a statement about x - f(x) needs the same shape. "
            "Give the input shape if sizes are not known."
        )
    name = graph.fresh("specnorm.statement")
    step = Node(name, Add((1.0, -factor)), (start.name, end.name), end.shape, "statement", derived=True)
    return replace(graph, nodes=(*graph.nodes, step), outputs=(name,))


def _search(graph: Graph, start: Array | None, steps: int) -> tuple[float, tuple[Array, Array]]:
    """Return the largest ratio that a search reaches, and its pair of inputs."""
    (name,) = graph.inputs
    shape = graph.input_shapes[name]
    x = np.random.default_rng(0).standard_normal(shape) if start is None else start.reshape(shape).astype(float)
    pairs = Pairs(graph)
    pairs.ascend({name: x}, steps, (_DISTANCE,))
    one, other = pairs.best or ({name: x}, {name: x})
    return pairs.reached, (one[name], other[name])
