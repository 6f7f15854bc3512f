"""Rules of margins: how fast the difference of two logits can change, and in which radius none reaches 0.

``f_i - f_j = (w_i - w_j) h + const`` for the last layer's rows w and the features h, so that with weights q of the
features its constant is that of ``q h`` times ``|(w_i - w_j) / q|``: never above root of two times the network's own,
and less where rows are alike (Tsuzuku, Sato, Sugiyama, "Lipschitz-Margin Training", NeurIPS 2018, bound it by the root
of two). Constants are intervals from 0 on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from specnorm.certified import arithmetic, host
from specnorm.certified.bound import HypothesisError, Lower, Upper, _lower
from specnorm.certified.interval import Interval, _interval, point
from specnorm.certified.network.graph import Graph, Layer, Node
from specnorm.certified.network.kernels import ROUNDINGS
from specnorm.certified.network.operators.base import FloatArray
from specnorm.certified.network.operators.layers import Matrix
from specnorm.certified.network.regions import Ball

RADIUS = "the radius in which a label stays"


@arithmetic.on_host()
def of_rows(rows: FloatArray, weights: FloatArray, *factors: Upper | float) -> tuple[Interval, Interval]:
    """Constants (classes, classes) of differences, ``c |(w_i - w_j) / q|``, and (classes,) of logits, ``c |w_i / q|``.

    Parameters
    ----------
    rows : array, shape (classes, features)
        Each entry good to `ROUNDINGS`.
    weights : array, shape (features,)
        Positive.
    *factors : Upper
        Their product c bounds the constant of ``q h``.
    """
    if not (weights > 0).all():
        raise HypothesisError("weights of features that are not positive")
    constant = host.mul_up(*map(float, factors))
    # Divided by a power of two, no entry that matters vanishes, whatever it is divided by or multiplied with.
    exponent = math.frexp(float(np.max(np.abs(rows), initial=0.0)))[1]
    wide = np.ldexp(rows, -exponent) / weights
    vanished = wide.shape[1] * host.next_up(2.0**-1000 / float(np.min(weights, initial=1.0)))
    alone = host.inflate(host.norm_up(wide), ROUNDINGS) + vanished
    apart = np.stack([host.norm_up(wide - row) for row in wide])
    # Entries of both rows are off by a few roundings each, their difference by one.
    apart += ROUNDINGS * math.ulp(1.0) * (alone[:, None] + alone)
    scaled = (host.inflate(host.next_up(constant * x), 4) for x in (apart, alone))
    apart, alone = (host.next_up(np.ldexp(x, exponent)) for x in scaled)
    return _constants(apart), _constants(alone)


def of_network(whole: Upper | float, classes: int) -> tuple[Interval, Interval]:
    """As `of_rows`, by the constant of all logits together: a difference has at most root of two times it."""
    pairs = np.full((classes, classes), host.mul_up(host.root_up(2), float(whole)))
    return _constants(pairs), _constants(np.full(classes, float(whole)))


def _constants(bounds: FloatArray) -> Interval:
    """From 0 on; a product of infinity and 0 is not known, and nothing differs from itself."""
    known = np.where(np.isnan(bounds), math.inf, bounds)
    if known.ndim == 2:
        np.fill_diagonal(known, 0.0)
    return _interval(np.zeros(known.shape), known)


@arithmetic.on_host()
def radii(logits: NDArray[np.float64], labels: NDArray[np.integer], differences: Interval) -> list[Lower]:
    """Of the ball around each sample in which no logit reaches the label's: the least margin over its constant.

    Parameters
    ----------
    logits : array, shape (samples, classes)
        Taken as exact.
    labels : array, shape (samples,)
    differences : Interval
        Constants (classes, classes) of the differences of two logits.
    """
    margin = (point(np.take_along_axis(logits, labels[:, None], axis=1)) - point(logits)).low
    radius = np.where(margin > 0, host.next_down(margin / differences.high[labels]), 0.0)
    radius[np.arange(len(labels)), labels] = np.inf
    found = np.min(radius, axis=1, initial=np.inf).tolist()
    return [_lower(each, RADIUS, "least margin over its constant") for each in found]


@arithmetic.on_host()
def over_margins(graph: Graph, logits: FloatArray, label: int) -> Graph:
    """The differences of the label's logit to all others, each over its margin at a sample, rounded up."""
    others = np.delete(np.arange(len(logits)), label)
    margin = (point(logits[label]) - point(logits[others])).low
    if not (margin > 0).all():
        raise HypothesisError("a margin that is not positive")
    share = host.next_up(1 / margin)
    rows = np.zeros((len(others), len(logits)))
    rows[:, label] = share
    rows[np.arange(len(others)), others] = -share
    name = graph.fresh("specnorm.margins")
    end = Node(name, Matrix(Layer(name, lambda: rows, {}, 0)), graph.outputs, (1, len(others)), "margins", derived=True)
    return replace(graph, nodes=(*graph.nodes, end), outputs=(name,))


def radius_of(ball: Ball, differences: Interval | None, constants: Sequence[Upper | float]) -> Lower | None:
    """The ball's radius, if no difference of `over_margins` reaches 0 in it: by its range there, or by its constant.

    At the ball's centre each is at least 1, so that one with a constant below 1 / r stays positive.
    """
    if differences is not None and bool((differences.low > 0).all()):
        return _lower(ball.radius, RADIUS, "ranges of the differences on the ball")
    if any(host.mul_up(float(constant), ball.radius) < 1 for constant in constants):
        return _lower(ball.radius, RADIUS, "margins over a constant on the ball")
    return None
