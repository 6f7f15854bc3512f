"""What a function of each entry adds to a linear bound: the least values of parabolas on a ball and a box.

See `linear_bounds` for the inequality and its sources.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specnorm.certified import host
from specnorm.certified.bound import HypothesisError
from specnorm_networks.certified.operators.base import FloatArray

LEAST = 2.0**-400
"""Multipliers are taken to be no smaller: a positive one is as valid as 0."""
TINY = 2.0**-900
"""What underflow may take from a row."""


@dataclass(frozen=True, eq=False)
class Curve:
    """A function of each entry on a value's ball and box; units are its entries that are not on one exact line.

    Parameters
    ----------
    at : array of int, shape (units,)
        Flat positions.
    centre : array, shape (units,)
    radius : float
        Of the whole value's ball around the centre.
    breaks : array, shape (parts + 1, units)
        Ends of the parts of each interval, ascending.
    slope, middle, half : array, shape (parts, units)
        ``|f(z) - slope z - middle| <= half`` on each part.
    lines : array, shape (entries,)
        Slopes of the entries that are on one exact line, 0 of units.
    """

    at: NDArray[np.intp]
    centre: FloatArray
    radius: float
    breaks: FloatArray
    slope: FloatArray
    middle: FloatArray
    half: FloatArray
    lines: FloatArray
    added: FloatArray
    error: FloatArray
    """Of those, what is added, and by how much a value is off where a coefficient's product with its slope is rounded.
    """
    tiny: float = 0.0
    """By how much a row is off where such products underflow."""


@dataclass(frozen=True, eq=False)
class Minimiser:
    """Where the bound of a row is attained at one value: what a search needs for the gradient.

    Parameters
    ----------
    coefficients : array, shape (rows, units)
    slopes : array, shape (rows, units)
    point : array, shape (rows, units)
    value : array, shape (rows, units)
        The function's, as the bound takes it.
    """

    coefficients: FloatArray
    slopes: FloatArray
    point: FloatArray
    value: FloatArray
    multiplier: FloatArray
    """Shape (rows,)."""


def parabolas(
    c: FloatArray, g: FloatArray, multipliers: FloatArray, curve: Curve, traced: bool
) -> tuple[FloatArray, Minimiser | None]:
    """The offset h of each row, the largest of those for several multipliers.

    A part's parabola ``s z + lam (z - centre)^2 / 2``, with ``s = c slope - g``, lies above its tangent at any point of
    the part; the point is where the parabola is least, computed.

    Parameters
    ----------
    c, g : array, shape (rows, units)
    multipliers : array, shape (tries, rows)
    """
    lams = np.asarray(multipliers, dtype=np.float64).reshape(-1, len(c))
    if not (lams >= 0).all():
        raise HypothesisError("a multiplier that is negative")
    lams = np.maximum(lams, LEAST)
    # Units without coefficient and slope add nothing that is negative.
    used = np.flatnonzero(c.any(axis=0) | g.any(axis=0))
    if 2 * len(used) < len(curve.centre) and not traced:
        fewer = (each[..., used] for each in (curve.centre, curve.breaks, curve.slope, curve.middle, curve.half))
        c, g = c[:, used], g[:, used]
        centre, breaks, slopes, middles, halves = fewer
    else:
        centre, breaks, slopes, middles, halves = curve.centre, curve.breaks, curve.slope, curve.middle, curve.half
    low, high = breaks[:-1], breaks[1:]
    size = np.maximum(abs(breaks[0]), abs(breaks[-1]))
    apart = np.maximum(abs(breaks[0] - centre), abs(breaks[-1] - centre))
    # All terms of a row: what their roundings, and those of the sum, refer to.
    flat_size = abs(c) @ (abs(slopes).max(axis=0) * size + (abs(middles) + halves).max(axis=0))
    flat_size = flat_size + abs(g) @ size
    square = float(np.square(apart).sum())
    n = len(centre)
    tiny = host.inflate(float(size.sum()) + 1.0, n + 8) * TINY
    best: FloatArray = np.full(len(c), -math.inf)
    kept: Minimiser | None = None
    for lam in lams:
        wide = lam[:, None]
        least, point, value = None, None, None
        for part in range(len(low)):
            slope, middle, half = slopes[part], middles[part], halves[part]
            s = c * slope - g
            line = c * middle - abs(c) * half if middle.any() or half.any() else None
            z = np.minimum(np.maximum(centre - s / wide, low[part]), high[part])
            away = z - centre
            d = s + wide * away
            found = s * z + (0.5 * wide) * np.square(away)
            found -= np.maximum(d, 0.0) * (z - low[part]) + np.maximum(-d, 0.0) * (high[part] - z)
            found = found if line is None else found + line
            lower: NDArray[np.bool_] | None = None if least is None else np.asarray(found < least)
            least = found if least is None or lower is None else np.minimum(least, found)
            if traced:
                here = slope * z + middle - np.sign(c) * half
                point = z if lower is None or point is None else np.where(lower, z, point)
                value = here if lower is None or value is None else np.where(lower, here, value)
        assert least is not None  # for the type checker: there are parts
        # A dozen roundings of each term, twice as many for products of errors, and those of the sum.
        lost = host.inflate(flat_size + lam * square, n + 8) * ((40 + 4 * n) * 2.0**-52) + tiny
        ball = host.inflate(lam * (curve.radius * curve.radius / 2), 4) + TINY
        total = host.next_down(host.next_down(least.sum(axis=1) - lost) - ball)
        better = total > best
        best = np.where(better, total, best)
        if traced and point is not None and value is not None:
            new = Minimiser(c, g, point, value, lam)
            kept = new if kept is None else Minimiser(
                c, g, np.asarray(np.where(better[:, None], point, kept.point)),
                np.asarray(np.where(better[:, None], value, kept.value)),
                np.where(better, lam, kept.multiplier),
            )  # fmt: skip
    return best, kept
