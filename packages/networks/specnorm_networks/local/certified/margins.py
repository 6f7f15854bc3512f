"""Rules of margins: constants of the differences of two logits, and radii in which no difference reaches 0.

``f_i - f_j = (w_i - w_j) h + const`` for the last layer's rows w and the features h. With weights q of the features,
the constant of the difference is that of ``q h`` times ``|(w_i - w_j) / q|``. It is never above the root of two times
the constant of the network, which is the bound of Tsuzuku, Sato, Sugiyama, "Lipschitz-Margin Training", NeurIPS 2018,
and smaller if rows are alike. Constants are upper bounds, given as intervals from 0 on.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import (
    HypothesisError,
    Interval,
    Lower,
    Upper,
    arithmetic,
    host,
    make_interval,
    make_lower,
    make_upper,
    point,
)
from specnorm_networks import Node
from specnorm_networks.local.certified.linear_bounds import LinearBounds
from specnorm_networks.tools import ROUNDINGS, FloatArray

RADIUS = "the radius in which a label stays"
"""Subject of claims about radii."""


@arithmetic.on_host()
def constants_of_differences(rows: FloatArray, weights: FloatArray, *factors: Upper) -> Interval:
    """Return the constants of all differences of two logits, ``c |(w_i - w_j) / q|``, shape (classes, classes).

    ``rows``: w, shape (classes, features); each entry was rounded at most `ROUNDINGS` times. ``weights``: q, shape
    (features,), positive. ``*factors``: claims whose product c bounds the constant of ``q h``.
    """
    if not (weights > 0).all():
        raise HypothesisError("weights of features that are not positive")
    constant = host.mul_up(*map(float, factors))
    # Rows are divided by a power of two, so that their largest entry is near 1: underflow is an error relative to that.
    _, exponent = math.frexp(float(np.max(np.abs(rows), initial=0.0)))
    scaled = np.ldexp(rows, -exponent) / weights
    smallest_weight = float(np.min(weights, initial=1.0))
    underflow = scaled.shape[1] * host.next_up(2.0**-1000 / smallest_weight)
    lengths = host.inflate(host.norm_up(scaled), ROUNDINGS) + underflow
    distances = np.stack([host.norm_up(scaled - row) for row in scaled])
    # Entries of both rows have a few roundings each, and their difference has one.
    distances += ROUNDINGS * math.ulp(1.0) * (lengths[:, None] + lengths)
    constants = host.inflate(host.next_up(constant * distances), 4)
    return _as_intervals(host.next_up(np.ldexp(constants, exponent)))


def constant_of_factor(head: Node) -> Upper:
    """Return the constant of multiplying by the factor of a last layer."""
    assert head.affine is not None
    return make_upper(abs(head.affine.factor_of_layer), "a number", "before the matrix")


def constants_by_network(whole: Upper, classes: int) -> Interval:
    """Return the constants of all differences of two logits, each the root of two times that of all logits together."""
    constant = host.mul_up(host.root_up(2), whole.value)
    return _as_intervals(np.full((classes, classes), constant))


def _as_intervals(bounds: FloatArray) -> Interval:
    """Return upper bounds of constants, shape (classes, classes), as intervals from 0 on.

    NaN, a product of infinity and 0, becomes infinity; the diagonal becomes 0, as no logit differs from itself.
    """
    numbers = np.where(np.isnan(bounds), math.inf, bounds)
    np.fill_diagonal(numbers, 0.0)
    return make_interval(np.zeros(numbers.shape), numbers)


@arithmetic.on_host()
def radii(
    logits: NDArray[np.float64] | Interval,
    labels: NDArray[np.integer],
    differences: Interval,
    margin: float = 0.0,
) -> list[Lower]:
    """Return the radius around each sample in which the label's logit exceeds every other one by more than a margin.

    It is the least ``(f_y - f_j - margin) / L_yj`` over the classes j other than the label y, and 0 if a difference is
    not above the margin.

    ``logits``: f, shape (samples, classes); numbers are taken as exact. ``labels``: y, shape (samples,).
    ``differences``: constants L of the differences of two logits, shape (classes, classes).
    """
    all_logits = logits if isinstance(logits, Interval) else point(logits)
    label_columns = labels[:, None]
    label_logit = make_interval(
        np.take_along_axis(all_logits.low, label_columns, axis=1),
        np.take_along_axis(all_logits.high, label_columns, axis=1),
    )
    excess = (label_logit - all_logits).low
    if margin:
        excess = host.next_down(excess - margin)
    quotients = host.next_down(excess / differences.high[labels])
    radii_by_class = np.where(excess > 0, quotients, 0.0)
    radii_by_class[np.arange(len(labels)), labels] = np.inf
    least = np.min(radii_by_class, axis=1, initial=np.inf).tolist()
    return [make_lower(radius, _subject(margin), "least margin over its constant") for radius in least]


def _subject(margin: float) -> str:
    """Return the subject of a claim about a radius with a margin."""
    return f"{RADIUS}, by more than {margin!r}" if margin else RADIUS


def difference_rows(label: int, classes: int) -> FloatArray:
    """Return the coefficients of the label's logit less each other logit, shape (classes - 1, 1, classes)."""
    rows = np.zeros((classes - 1, 1, classes))
    rows[:, 0, label] = 1.0
    other_classes = np.delete(np.arange(classes), label)
    rows[np.arange(classes - 1), 0, other_classes] = -1.0
    return rows


def radius_of_ball(bounds: LinearBounds, differences: Interval, margin: float = 0.0) -> Lower | None:
    """Return the radius of a ball in which every difference of logits stays above a margin; None if that is not proven.

    ``differences``: lower bounds of the differences on the ball (`difference_rows`).
    """
    if not bool((differences.low > margin).all()):
        return None
    return make_lower(bounds.ball.radius, _subject(margin), "linear bounds of the differences on ball and box")
