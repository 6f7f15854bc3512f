"""Whether a network, or what it leaves of its input, is nonexpansive: proven, refuted by a pair of inputs, or open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm.errors import MethodError
from specnorm.proof import check_count, number
from specnorm_networks.answer import NetworkBound
from specnorm_networks.attack import Pairs
from specnorm_networks.certified.graph import Graph
from specnorm_networks.certified.statements import forward_step
from specnorm_networks.live import Source, network_graph, numbers
from specnorm_networks.measuring import Measure
from specnorm_networks.methods import Method
from specnorm_networks.near import bound

_DISTANCE = 1e-2
"""Of the two inputs, as a part of the first one's norm: far enough for the difference of outputs to keep its digits."""
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Nonexpansive:
    """Answer to the question whether ``|f(x) - f(y)| <= |x - y|`` for all x and y.

    Parameters
    ----------
    proven : bool or None
        True: proven. False: refuted by `pair`. None: neither.
    statement : str
        Which function it is about.
    bound : NetworkBound
        What is proven; ``bound.upper`` is a constant of the function.
    reached : float
        Largest ratio ``|f(x) - f(y)| / |x - y|`` that was found, less what rounding can have added to it.
    pair : tuple of array
        The two inputs that reach it.
    """

    proven: bool | None
    statement: str
    bound: NetworkBound
    reached: float
    pair: tuple[Array, Array]

    def __str__(self) -> str:
        """One sentence."""
        upper = self.bound.upper
        known = (
            "its constant is not known"
            if upper is None
            else f"its constant is at most {number(upper, 'upper')}, proven"
        )
        verdict = {True: "is nonexpansive", False: "is not nonexpansive", None: "may be nonexpansive or not"}[
            self.proven
        ]
        said = f"{self.statement} {verdict}: {known}; a pair of inputs reaches {number(self.reached, 'lower')}."
        return f"{said} {self.bound.note}".rstrip()


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

    Plug-and-play iterations converge with a denoiser that is (Ryu et al., "Plug-and-Play Methods Provably Converge with
    Properly Trained Denoisers", ICML 2019: forward-backward with ``x - f(x)``, f the noise that it predicts).

    Parameters
    ----------
    source, input_shape, rtol, method, budget
        As for `network_bound`: with one input and one output. An array is also where the search for a pair begins;
        else noise is.
    residual : bool, default False
        Ask about ``x - f(x)`` in place of ``f``.
    steps : int, default 30
        Steps of the search for a pair that refutes it: power iterations with the Jacobian at the first input, which
        moves along its strongest direction. At least 1.

    Returns
    -------
    Nonexpansive
        Both are about real arithmetic, inputs of this shape, and the model with its weights as they are.

    Raises
    ------
    MethodError
        If the model cannot be exported, or has not one input and one output (with ``residual`` of one shape).
    """
    check_count("steps", steps, least=1)
    graph = network_graph(source, input_shape)
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise MethodError(
            f"The network has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs; expected one of each."
        )
    asked = forward_step(graph) if residual else graph
    found = bound(asked, Measure(rtol), method=method, budget=budget)
    ratio, pair = _search(asked, numbers(input_shape) if hasattr(input_shape, "dtype") else None, steps)
    # What the graph claims is claimed of the model where both were compared.
    holds = found.upper is not None and found.upper <= 1 and (found.checked.complete or graph.model is None)
    proven = True if holds else False if ratio > 1 and (found.checked.inputs or graph.model is None) else None
    return Nonexpansive(proven, "x - f(x)" if residual else "f", found, ratio, pair)


def _search(graph: Graph, start: Array | None, steps: int) -> tuple[float, tuple[Array, Array]]:
    """The pair with the largest ratio seen."""
    (name,) = graph.inputs
    shape = graph.by_name[name].shape
    if shape is None:
        raise MethodError("The search for a pair needs an input of a known shape: give input_shape.")
    x = np.random.default_rng(0).standard_normal(shape) if start is None else start.reshape(shape).astype(float)
    pairs = Pairs(graph)
    pairs.ascend({name: x}, steps, (_DISTANCE,))
    one, other = pairs.best or ({name: x}, {name: x})
    return pairs.reached, (one[name], other[name])
