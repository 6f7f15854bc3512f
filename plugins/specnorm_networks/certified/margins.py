"""Rules of margins: how fast the difference of two logits can change, and in which radius none reaches 0.

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
    """Constants (classes, classes) of differences, ``c |(w_i - w_j) / q|``.

    ``rows``: of shape (classes, features): each entry good to `ROUNDINGS`. ``weights``: of shape (features,):
    positive. ``*factors``: their product c bounds the constant of ``q h``.
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
    return _constants(host.next_up(np.ldexp(host.inflate(host.next_up(constant * apart), 4), exponent)))


def before_rows(head: Matrix) -> Upper:
    """The number that a matrix's product is multiplied by."""
    return make_upper(abs(head.alpha), "a number", "before the matrix")


def of_network(whole: Upper, classes: int) -> Interval:
    """As `of_rows`, by the constant of all logits together: a difference has at most root of two times it."""
    return _constants(np.full((classes, classes), host.mul_up(host.root_up(2), whole.value)))


def _constants(bounds: FloatArray) -> Interval:
    """From 0 on; a product of infinity and 0 is not known, and nothing differs from itself."""
    known = np.where(np.isnan(bounds), math.inf, bounds)
    np.fill_diagonal(known, 0.0)
    return make_interval(np.zeros(known.shape), known)


@arithmetic.on_host()
def radii(
    logits: NDArray[np.float64] | Interval,
    labels: NDArray[np.integer],
    differences: Interval,
    margin: float = 0.0,
) -> list[Lower]:
    """Radius of the ball around each sample in which the label's logit exceeds every other one by more than a margin.

    It is the least ``(f_y - f_j - margin) / L_yj``, and 0 where a difference is not above the margin.

    ``logits``: of shape (samples, classes): numbers are taken as exact. ``labels``: of shape (samples,).
    ``differences``: constants L (classes, classes) of the differences of two logits.
    """
    all_of = logits if isinstance(logits, Interval) else point(logits)
    own = make_interval(*(np.take_along_axis(end, labels[:, None], axis=1) for end in all_of.ends))
    apart = (own - all_of).low
    left = host.next_down(apart - margin) if margin else apart
    radius = np.where(left > 0, host.next_down(left / differences.high[labels]), 0.0)
    radius[np.arange(len(labels)), labels] = np.inf
    found = np.min(radius, axis=1, initial=np.inf).tolist()
    return [make_lower(each, _kept(margin), "least margin over its constant") for each in found]


def _kept(margin: float) -> str:
    """What a radius is of."""
    return f"{RADIUS}, by more than {margin!r}" if margin else RADIUS


def rows_of(label: int, classes: int) -> FloatArray:
    """Of the label's logit less each of the others, shape (classes - 1, 1, classes)."""
    rows = np.zeros((classes - 1, 1, classes))
    rows[:, 0, label] = 1.0
    rows[np.arange(classes - 1), 0, np.delete(np.arange(classes), label)] = -1.0
    return rows


def radius_of(found: Sequence[tuple[LinearBounds, Interval]], margin: float = 0.0) -> Lower | None:
    """Radius of a ball in which every difference of logits stays above a margin; None if one may not.

    ``found``: parts of the ball and the rows' bounds on each. Together they are the ball.
    """
    balls = {(id(each.network), id(each.whole)) for each, _ in found}
    if len(balls) != 1 or not _together([each.cuts for each, _ in found]):
        raise HypothesisError("parts that are not all of one ball")
    if not all(bool((differences.low > margin).all()) for _, differences in found):
        return None
    bounds, _ = found[0]
    said = "linear bounds of the differences on ball and box"
    return make_lower(bounds.radius, _kept(margin), said if len(found) == 1 else f"{said}, in {len(found)} parts")


def _together(cuts: Sequence[Sequence[Cut]]) -> bool:
    """Whether parts are a whole: one without a cut, or both sides of one first cut, each of them a whole."""
    if any(not each for each in cuts):
        return True
    places = {(name, at) for (name, at, _), *_ in cuts}
    sides = [[each[1:] for each in cuts if each[0][2] == side] for side in (False, True)]
    return len(places) == 1 and all(side and _together(side) for side in sides)
