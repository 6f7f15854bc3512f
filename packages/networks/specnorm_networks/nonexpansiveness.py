"""Prove that a network f, or its residual x - f(x), is nonexpansive, or refute it by a pair of inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import check_count, number
from specnorm_networks.answer import NetworkBound
from specnorm_networks.answering import bound
from specnorm_networks.certified.graph import Graph
from specnorm_networks.certified.statements import forward_step, only_input_and_output
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


def _search(graph: Graph, start: Array | None, steps: int) -> tuple[float, tuple[Array, Array]]:
    """Return the largest ratio that a search reaches, and its pair of inputs."""
    (name,) = graph.inputs
    shape = graph.input_shapes[name]
    x = np.random.default_rng(0).standard_normal(shape) if start is None else start.reshape(shape).astype(float)
    pairs = Pairs(graph)
    pairs.ascend({name: x}, steps, (_DISTANCE,))
    one, other = pairs.best or ({name: x}, {name: x})
    return pairs.reached, (one[name], other[name])
