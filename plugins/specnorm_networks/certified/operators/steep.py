"""Functions of each entry that have a constant where their inputs lie in a range.

By the mean value theorem |f(x) - f(y)| <= sup |f'| |x - y|, the supremum over the interval between x and y.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from specnorm.certified import host
from specnorm.certified.interval import Interval, enclosing
from specnorm_networks.certified.operators.base import Ends, FloatArray, NoBoundError, Place
from specnorm_networks.certified.operators.curvature import ROUNDINGS, TINY, Curved
from specnorm_networks.certified.operators.executed import smallest

MOST = 16
"""Largest whole exponent of a power."""
HINT = (
    "box of inputs it may have one: specnorm_networks.within(graph, low, high) or --input-range states one, radius= a "
    "ball"
)


def hint(ranges: Sequence[Interval | None]) -> str:
    """What to give where there is no constant: where all inputs lie in a range, a narrower one."""
    bounded = bool(ranges) and all(x is not None and np.isfinite(x.magnitude()).all() for x in ranges)
    return f"on a {'narrower ' * bounded}{HINT}"


class Steep(Curved):
    """A function whose slope is bounded on ranges alone."""

    def derivative(self, low: FloatArray, high: FloatArray) -> Ends:
        """Smallest and largest slope on intervals, rounded outward; infinite or NaN where there is none."""
        raise NotImplementedError

    def slopes(self, low: FloatArray, high: FloatArray) -> Ends | None:
        """None where an entry has none."""
        with np.errstate(all="ignore"):
            found = self.derivative(low, high)
        return found if np.isfinite(found).all() else None

    def lipschitz(self, place: Place) -> float:
        """The largest absolute slope, on the range that the inputs are known to lie in."""
        known = place.ranges() if self.near is None else ()
        if len(known) == 1 and known[0] is not None:
            found = self.slopes(known[0].low, known[0].high)
            if found is not None:
                return float(max(np.max(abs(end), initial=0.0) for end in found))
        if self.near is None or not np.isfinite(self.near.ends).all():
            raise NoBoundError(f"its slope has no bound; {hint(known)}")
        return super().lipschitz(place)


def over(numbers: FloatArray) -> FloatArray:
    """1 / numbers >= 0, rounded up; infinite at 0."""
    return np.asarray(host.next_up(1 / numbers))


def under(numbers: FloatArray) -> FloatArray:
    """1 / numbers >= 0, which were computed with at most three roundings, rounded down."""
    return np.asarray(np.maximum(host.next_down(host.lowered(1 / numbers, 3)), 0.0))


class Exp(Steep):
    """exp."""

    limits = (0.0, math.inf)

    def value(self, x: FloatArray) -> FloatArray:
        return np.exp(x)

    def derivative(self, low: FloatArray, high: FloatArray) -> Ends:
        """exp, which rises."""
        down, up = np.exp(low), host.inflate(np.exp(high), ROUNDINGS) + TINY
        return np.maximum(down - host.inflate(down, ROUNDINGS) * (4 * ROUNDINGS * 2.0**-52) - TINY, 0.0), up

    def between(self, low: FloatArray, high: FloatArray) -> Ends:
        with np.errstate(all="ignore"):
            down, up = self.derivative(low, high)
        # What overflows is not infinite.
        return np.where(np.isinf(down) | np.isnan(down), np.where(np.isinf(low), low, 0.0), down), host.next_up(up)


class Log(Steep):
    """The natural logarithm."""

    def value(self, x: FloatArray) -> FloatArray:
        return np.log(x)

    def derivative(self, low: FloatArray, high: FloatArray) -> Ends:
        """1 / x, which falls."""
        return under(high), np.asarray(np.where(low > 0, over(np.maximum(low, 0.0)), math.inf))

    def rounding(self, values: Sequence[FloatArray], result: FloatArray, unit: float) -> FloatArray | float:
        """Sixteen units of the value, or of 1 where that is more."""
        return 16 * unit * (1 + abs(result))


class Power(Steep):
    """Whole powers, from 1 to `MOST`."""

    exponent: int

    def value(self, x: FloatArray) -> FloatArray:
        return np.asarray(x**self.exponent)

    def derivative(self, low: FloatArray, high: FloatArray) -> Ends:
        """``n x^(n-1)``; none for exponents that no allowance was derived for."""
        if not self._fits():
            return np.full(low.shape, -math.inf), np.full(high.shape, math.inf)
        return enclosing(_power(low, high, self.exponent - 1)).scaled(float(self.exponent)).ends

    def between(self, low: FloatArray, high: FloatArray) -> Ends:
        if not self._fits():
            return np.full(low.shape, -math.inf), np.full(high.shape, math.inf)
        with np.errstate(all="ignore"):
            down, up = _power(low, high, self.exponent)
        down, up = np.where(np.isnan(down), -math.inf, down), np.where(np.isnan(up), math.inf, up)
        return np.maximum(down, 0.0) if self.exponent % 2 == 0 else down, up

    def rounding(self, values: Sequence[FloatArray], result: FloatArray, unit: float) -> FloatArray | float:
        return (16 + self.exponent) * unit * abs(result) + smallest(unit)

    def _fits(self) -> bool:
        return 1 <= self.exponent <= MOST and self.exponent == int(self.exponent)


def _power(low: FloatArray, high: FloatArray, exponent: int) -> Ends:
    """Whole powers, from 0, rounded outward: a product of n factors has n roundings."""
    if exponent < 2:
        return (low, high) if exponent else (np.ones(low.shape), np.ones(high.shape))
    one, other = (np.asarray(math.prod([end] * exponent)) for end in (low, high))
    lost = host.inflate(np.maximum(abs(one), abs(other)), exponent) * (2 * exponent * 2.0**-52) + TINY
    down, up = host.next_down(np.minimum(one, other) - lost), host.next_up(np.maximum(one, other) + lost)
    return (np.where((low <= 0) & (high >= 0), 0.0, np.maximum(down, 0.0)), up) if exponent % 2 == 0 else (down, up)


class Sqrt(Steep):
    """The root."""

    units = 4

    def value(self, x: FloatArray) -> FloatArray:
        return np.sqrt(x)

    def derivative(self, low: FloatArray, high: FloatArray) -> Ends:
        """One over twice the root, which falls."""
        least, most = enclosing((low, high)).root().ends
        return under(2 * most), np.where(least > 0, host.inflate(0.5 * over(least), 4), math.inf)

    def between(self, low: FloatArray, high: FloatArray) -> Ends:
        return enclosing((low, high)).root().ends


class Rsqrt(Steep):
    """One over the root."""

    units = 8
    limits = (0.0, math.inf)

    def value(self, x: FloatArray) -> FloatArray:
        return np.asarray(1 / np.sqrt(x))

    def derivative(self, low: FloatArray, high: FloatArray) -> Ends:
        """-1 / (2 x sqrt(x)), which rises."""
        least, most = enclosing((low, high)).root().ends
        steep = host.inflate(over(np.maximum(low, 0.0)) * host.inflate(0.5 * over(least), 4), 4) + TINY
        return np.where(least > 0, -steep, -math.inf), -under(2 * most * high)

    def between(self, low: FloatArray, high: FloatArray) -> Ends:
        down, up = enclosing((low, high)).root().inverse().ends
        return np.maximum(down, 0.0), up


class Reciprocal(Steep):
    """``scale / x``."""

    units = 4
    scale: float = 1.0

    def value(self, x: FloatArray) -> FloatArray:
        return np.asarray(self.scale / x)

    def derivative(self, low: FloatArray, high: FloatArray) -> Ends:
        """``-scale / x^2``, of one sign."""
        x = enclosing((low, high))
        steep = np.asarray(host.inflate(abs(self.scale) * np.square(over(x.mignitude())), 4) + TINY)
        flat = abs(self.scale) * under(np.square(x.magnitude()))
        flat = np.maximum(host.next_down(flat), 0.0)
        return (-steep, -flat) if self.scale >= 0 else (flat, steep)

    def between(self, low: FloatArray, high: FloatArray) -> Ends:
        return enclosing((low, high)).inverse().scaled(self.scale).ends
