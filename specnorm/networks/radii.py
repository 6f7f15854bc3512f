"""The radius around one input in which its label cannot change, by constants that hold there alone.

With margins ``m_j = f_y(x) - f_j(x)`` the map ``g = ((f_y - f_j) / m_j)_j`` may not move by 1: a radius r is certified
where g's constant on the ball of that radius is below 1 / r, or where the ranges of its entries there are positive.
Either is proven at each radius that is tried, so that a search may try any.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from specnorm.certified.bound import Lower, greatest
from specnorm.certified.network.graph import Graph, concrete
from specnorm.certified.network.margins import over_margins, radius_of
from specnorm.certified.network.operators.base import FloatArray
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
    found = known.proven(logits, labels)
    for at, least in enumerate(found):
        if 0 < least < math.inf:
            of = over_margins(graph, np.asarray(logits[at], dtype=np.float64), int(labels[at]))
            found[at] = _largest(of, inputs[at].reshape(shape), least, measure, method, tries)
    return np.array([float(radius) for radius in found])


def _shape(graph: Graph) -> tuple[int, ...]:
    ends = [concrete(graph.by_name[name].shape) for name in (*graph.inputs, *graph.outputs)]
    if len(ends) != 2 or ends[0] is None or ends[1] is None or len(ends[1]) != 2 or ends[1][0] != 1:
        raise MethodError("Radii need a network with one input and one output of shape (1, classes), of known sizes.")
    return ends[0]


def _largest(of: Graph, x: FloatArray, least: Lower, measure: Measure, method: Method, tries: int) -> Lower:
    """Bisection of logarithms."""
    low, high = math.log(least.value), math.log(least.value) + math.log(FURTHEST)
    best = least
    for _ in range(tries):
        radius = math.exp((low + high) / 2)
        proven = _proven(of, Ball({of.inputs[0]: x}, radius), measure, method)
        if proven is None:
            high = math.log(radius)
        else:
            best, low = greatest(best, proven), math.log(radius)
    return best


def _proven(of: Graph, ball: Ball, measure: Measure, method: Method) -> Lower | None:
    """A ball's radius, if no difference of logits reaches 0 in it."""
    found = ranges_near(of, ball, measure)
    apart = found.get(of.outputs[0])
    by_range = radius_of(ball, apart, [])
    uppers = [] if by_range else [answer.upper for answer in near(of, ball, measure, method, found)]
    return by_range or radius_of(ball, apart, [upper for upper in uppers if upper is not None])
