"""The radius around one input in which its label cannot change, by constants that hold there alone.

With margins ``m_j = f_y(x) - f_j(x)`` the map ``g = ((f_y - f_j) / m_j)_j`` may not move by 1: a radius r is certified
where g's constant on the ball of that radius is below 1 / r, or where the ranges of its entries there are positive.
Either is proven at each radius that is tried, so that a search may try any.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from specnorm.certified import host
from specnorm.certified.network.graph import Graph, Layer, Node, concrete
from specnorm.certified.network.operators.base import FloatArray
from specnorm.certified.network.operators.layers import Matrix
from specnorm.certified.network.regions import Ball
from specnorm.errors import MethodError
from specnorm.networks.margins import Margins
from specnorm.networks.measuring import Measure
from specnorm.networks.methods import Method, Multipliers
from specnorm.networks.near import near, ranges_near

TRIES = 8
"""Radii that are tried for each input."""
FURTHEST = 64.0
"""How much larger than the radius by constants everywhere one is tried at most."""


def local_radii(
    graph: Graph,
    inputs: NDArray[np.floating],
    logits: NDArray[np.floating],
    labels: NDArray[np.integer],
    known: Margins,
    measure: Measure | None = None,
    *,
    method: Method | None = None,
    tries: int = TRIES,
) -> FloatArray:
    """Radius of the ball around each sample in which the label cannot change, by constants on that ball.

    Parameters
    ----------
    graph : Graph
        Of a classifier: one input and one output, of one sample.
    inputs : array, shape (samples, ...)
    logits : array, shape (samples, classes)
        Taken as exact, as for `Margins.radii`.
    labels : array, shape (samples,)
    known : Margins
        Of the network, everywhere: no radius is smaller than theirs.
    method : Product, Scaled or Multipliers, optional
        Default: ``Multipliers(steps=20)``.
    tries : int, default 8
        Radii that are tried for each sample, each with up to two searches.

    Returns
    -------
    array, shape (samples,)
        Rounded down; 0 where the label is wrong.

    Raises
    ------
    MethodError
        If shapes do not fit.
    """
    measure = measure or Measure()
    method = Multipliers(steps=20) if method is None else method
    shape = _shape(graph)
    inputs = np.asarray(inputs, dtype=np.float64)
    if len(inputs) != len(logits) or math.prod(inputs.shape[1:]) != math.prod(shape):
        raise MethodError(f"inputs of shape {inputs.shape}; expected {len(logits)} samples of shape {shape[1:]}.")
    everywhere = known.radii(logits, labels)
    found = np.array(everywhere)
    for at, least in enumerate(everywhere):
        if 0 < least < math.inf:
            of = _scaled(graph, np.asarray(logits[at], dtype=np.float64), int(labels[at]))
            found[at] = _largest(of, inputs[at].reshape(shape), float(least), measure, method, tries)
    return found


def _shape(graph: Graph) -> tuple[int, ...]:
    ends = [concrete(graph.by_name[name].shape) for name in (*graph.inputs, *graph.outputs)]
    if len(ends) != 2 or ends[0] is None or ends[1] is None or len(ends[1]) != 2 or ends[1][0] != 1:
        raise MethodError("Radii need a network with one input and one output of shape (1, classes), of known sizes.")
    return ends[0]


def _scaled(graph: Graph, logits: FloatArray, label: int) -> Graph:
    """The differences to all other logits, each over its margin, rounded up."""
    others = np.delete(np.arange(len(logits)), label)
    share = host.next_up(1 / host.sub_down(logits[label], logits[others]))
    rows = np.zeros((len(others), len(logits)))
    rows[:, label] = share
    rows[np.arange(len(others)), others] = -share
    name = graph.fresh("specnorm.margins")
    node = Node(
        name, Matrix(Layer(name, lambda: rows, {}, 0)), graph.outputs, (1, len(others)), "margins", derived=True
    )
    return replace(graph, nodes=(*graph.nodes, node), outputs=(name,))


def _largest(of: Graph, x: FloatArray, least: float, measure: Measure, method: Method, tries: int) -> float:
    """Bisection of logarithms; ``least`` is certified."""
    low, high = math.log(least), math.log(least) + math.log(FURTHEST)
    best = least
    for _ in range(tries):
        radius = math.exp((low + high) / 2)
        if _holds(of, Ball({of.inputs[0]: x}, radius), measure, method):
            best, low = max(best, radius), math.log(radius)
        else:
            high = math.log(radius)
    return best


def _holds(of: Graph, ball: Ball, measure: Measure, method: Method) -> bool:
    """Whether no difference of logits reaches 0 in a ball: by its range, or by the constant."""
    found = ranges_near(of, ball, measure)
    apart = found.get(of.outputs[0])
    if apart is not None and bool((apart.low > 0).all()):
        return True
    uppers = [answer.upper for answer in near(of, ball, measure, method, found)]
    return any(upper is not None and host.mul_up(upper, ball.radius) < 1 for upper in uppers)
