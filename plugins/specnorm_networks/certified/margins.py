"""Rules of margins: constants of the differences of two logits, and radii in which no difference reaches 0.

``f_i - f_j = (w_i - w_j) h + const`` for the last layer's rows w and the features h, so that with weights q of the
features its constant is that of ``q h`` times ``|(w_i - w_j) / q|``: never above root of two times the network's own,
and less where rows are alike (Tsuzuku, Sato, Sugiyama, "Lipschitz-Margin Training", NeurIPS 2018, bound it by the root
of two). Constants are intervals from 0 on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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
from specnorm_networks.certified.kernels import ROUNDINGS
from specnorm_networks.certified.linear_bounds import Cut, LinearBounds
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.operators.layers import Matrix

RADIUS = "the radius in which a label stays"


@arithmetic.on_host()
def of_rows(rows: FloatArray, weights: FloatArray, *factors: Upper) -> Interval:
    """Return constants of all differences, ``c |(w_i - w_j) / q|``, shape (classes, classes).

    ``rows``: of shape (classes, features); each entry was rounded at most `ROUNDINGS` times. ``weights``: of shape
    (features,), positive. ``*factors``: their product c bounds the constant of ``q h``.
    """
    if not (weights > 0).all():
        raise HypothesisError("weights of features that are not positive")
    constant = host.mul_up(*map(float, factors))
    # Divided by a power of two, no entry that matters vanishes, whatever it is divided by or multiplied with.
    _, exponent = math.frexp(float(np.max(np.abs(rows), initial=0.0)))
    scaled = np.ldexp(rows, -exponent) / weights
    underflow = scaled.shape[1] * host.next_up(2.0**-1000 / float(np.min(weights, initial=1.0)))
    lengths = host.inflate(host.norm_up(scaled), ROUNDINGS) + underflow
    distances = np.stack([host.norm_up(scaled - row) for row in scaled])
    # Entries of both rows are off by a few roundings each, their difference by one.
    distances += ROUNDINGS * math.ulp(1.0) * (lengths[:, None] + lengths)
    return _constants(host.next_up(np.ldexp(host.inflate(host.next_up(constant * distances), 4), exponent)))


def before_rows(head: Matrix) -> Upper:
    """Return the constant of the number that a matrix is multiplied by."""
    return make_upper(abs(head.alpha), "a number", "before the matrix")


def of_network(whole: Upper, classes: int) -> Interval:
    """Return constants of all differences by that of all logits together: at most the root of two times it."""
    return _constants(np.full((classes, classes), host.mul_up(host.root_up(2), whole.value)))


def _constants(bounds: FloatArray) -> Interval:
    """Return bounds as intervals from 0 on.

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

    It is the least ``(f_y - f_j - margin) / L_yj``, and 0 where a difference is not above the margin.

    ``logits``: of shape (samples, classes): numbers are taken as exact. ``labels``: of shape (samples,).
    ``differences``: constants L (classes, classes) of the differences of two logits.
    """
    all_logits = logits if isinstance(logits, Interval) else point(logits)
    label_logit = make_interval(*(np.take_along_axis(end, labels[:, None], axis=1) for end in all_logits.ends))
    lead = (label_logit - all_logits).low
    if margin:
        lead = host.next_down(lead - margin)
    radius = np.where(lead > 0, host.next_down(lead / differences.high[labels]), 0.0)
    radius[np.arange(len(labels)), labels] = np.inf
    least = np.min(radius, axis=1, initial=np.inf).tolist()
    return [make_lower(number, _subject(margin), "least margin over its constant") for number in least]


def _subject(margin: float) -> str:
    """Return what a claim about a radius says."""
    return f"{RADIUS}, by more than {margin!r}" if margin else RADIUS


def rows_of(label: int, classes: int) -> FloatArray:
    """Return the rows of the label's logit less each of the others, shape (classes - 1, 1, classes)."""
    rows = np.zeros((classes - 1, 1, classes))
    rows[:, 0, label] = 1.0
    rows[np.arange(classes - 1), 0, np.delete(np.arange(classes), label)] = -1.0
    return rows


def radius_of(parts: Sequence[tuple[LinearBounds, Interval]], margin: float = 0.0) -> Lower | None:
    """Return the radius of a ball in which every difference of logits stays above a margin; None if one may not.

    ``parts``: of the ball, with the bounds of the rows on each. Together they have to cover the ball.
    """
    balls = {(id(bounds.network), id(bounds.whole)) for bounds, _ in parts}
    if len(balls) != 1 or not _cover([bounds.cuts for bounds, _ in parts]):
        raise HypothesisError("parts that are not all of one ball")
    if not all(bool((differences.low > margin).all()) for _, differences in parts):
        return None
    bounds, _ = parts[0]
    rule = "linear bounds of the differences on ball and box"
    if len(parts) > 1:
        rule = f"{rule}, in {len(parts)} parts"
    return make_lower(bounds.radius, _subject(margin), rule)


def _cover(cuts_of_parts: Sequence[Sequence[Cut]]) -> bool:
    """Whether parts cover a region: one of them has no cut, or all begin with one cut and cover both its sides."""
    if any(not cuts for cuts in cuts_of_parts):
        return True
    first_entries: set[tuple[str, int]] = set()
    below: list[Sequence[Cut]] = []
    above: list[Sequence[Cut]] = []
    for (name, at, is_above), *later_cuts in cuts_of_parts:
        first_entries.add((name, at))
        side = above if is_above else below
        side.append(later_cuts)
    if len(first_entries) != 1 or not below or not above:
        return False
    return _cover(below) and _cover(above)
