"""Functions of each entry whose slope is bounded on ranges alone: exponential, logarithm, powers, roots, reciprocal.

By the mean value theorem |f(x) - f(y)| <= sup |f'| |x - y|, the supremum over the interval between x and y.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence

import numpy as np

from specnorm.proof import Interval, anything, enclosing, host, point
from specnorm_networks.certified.operators.base import UNDERFLOW, FloatArray, LowHigh, NoBoundError, Place
from specnorm_networks.certified.operators.curved import Curved

ROUNDINGS_OF_EXP = 2**9
"""Roundings that stand for an exponential and a few operations on it: `curved.VALUE_ERROR` is 2^8 of them."""


def hint(place: Place) -> str:
    """Return the advice for a missing constant: to give a box of inputs; if all lie in one, a narrower one."""
    box = "narrower box" if place.boxed else "box"
    return (
        f"on a {box} of inputs it may have one: specnorm_networks.within(graph, low, high) or input_range= states "
        "one, radius= a ball"
    )


class Steep(Curved):
    """A function whose slope is bounded on ranges alone."""

    def derivative(self, x: Interval) -> Interval:
        """Return intervals of the derivative on intervals; infinite if it is unbounded there."""
        raise NotImplementedError

    def slopes(self, low: FloatArray, high: FloatArray) -> LowHigh | None:
        """Return smallest and largest slopes on intervals, rounded outward; None if an entry has none."""
        if self.positive and not (low > 0).all():
            return None
        with np.errstate(all="ignore"):
            slopes = self.derivative(enclosing((low, high)))
        return slopes.ends if np.isfinite(slopes.ends).all() else None

    def size_of_terms(self, values: Sequence[FloatArray], result: FloatArray) -> FloatArray:
        return abs(result)

    def lipschitz(self, place: Place) -> float:
        """Return the largest absolute slope on the range in which the input is known to lie."""
        ranges = place.ranges() if self.slopes_on_range is None else ()
        if len(ranges) == 1 and ranges[0] is not None:
            slopes = self.slopes(ranges[0].low, ranges[0].high)
            if slopes is not None:
                return float(max(np.max(abs(end), initial=0.0) for end in slopes))
        if self.slopes_on_range is None or not np.isfinite(self.slopes_on_range.ends).all():
            raise NoBoundError(f"its slope has no bound; {hint(place)}")
        return super().lipschitz(place)


class Exp(Steep):
    """exp."""

    limits = (0.0, math.inf)
    value_at_zero = 1.0

    def value(self, x: FloatArray) -> FloatArray:
        return np.exp(x)

    def derivative(self, x: Interval) -> Interval:
        """Return intervals of exp, which is its own derivative and rises."""
        at_low = np.exp(x.low)
        error_at_low = host.inflate(at_low, ROUNDINGS_OF_EXP) * (4 * ROUNDINGS_OF_EXP * 2.0**-52)
        down = at_low - error_at_low - UNDERFLOW
        up = host.inflate(np.exp(x.high), ROUNDINGS_OF_EXP) + UNDERFLOW
        # If exp(x.low) overflows, ``down`` is NaN, and the lower end is 0.
        return enclosing((np.where(down > 0, down, 0.0), up))

    def between(self, low: FloatArray, high: FloatArray) -> LowHigh:
        with np.errstate(all="ignore"):
            down, up = self.derivative(enclosing((low, high))).ends
        return np.maximum(down, 0.0), up


class Log(Steep):
    """The natural logarithm."""

    positive = True

    def value(self, x: FloatArray) -> FloatArray:
        return np.log(x)

    def derivative(self, x: Interval) -> Interval:
        return x.inverse()


class Power(Steep):
    """``x^exponent`` for a whole exponent of at least 1."""

    exponent: int

    def value(self, x: FloatArray) -> FloatArray:
        return np.asarray(x**self.exponent)

    def derivative(self, x: Interval) -> Interval:
        """Return intervals of ``n x^(n-1)``."""
        return power_of(x, self.exponent - 1).scaled(float(self.exponent))

    def between(self, low: FloatArray, high: FloatArray) -> LowHigh:
        return power_of(enclosing((low, high)), self.exponent).ends


def power_of(x: Interval, exponent: int) -> Interval:
    """Return ``x^exponent`` for a whole exponent of at least 0; anything for other exponents."""
    if not 0 <= exponent == int(exponent):
        return anything(x.shape)
    if exponent == 0:
        return point(np.ones(x.shape))
    if exponent == 1:
        return x
    power_of_low = functools.reduce(operator.mul, [point(x.low)] * exponent)
    power_of_high = functools.reduce(operator.mul, [point(x.high)] * exponent)
    power = power_of_low | power_of_high
    if exponent % 2:
        return power
    # An even power is least at 0.
    contains_0 = x.mignitude() == 0
    low = np.where(contains_0, 0.0, np.maximum(power.low, 0.0))
    return enclosing((low, power.high))


class Sqrt(Steep):
    """The root."""

    positive = True

    def value(self, x: FloatArray) -> FloatArray:
        return np.sqrt(x)

    def derivative(self, x: Interval) -> Interval:
        return x.root().scaled(2.0).inverse()

    def between(self, low: FloatArray, high: FloatArray) -> LowHigh:
        return enclosing((low, high)).root().ends


class Reciprocal(Steep):
    """``scale / x``."""

    scale: float = 1.0

    def value(self, x: FloatArray) -> FloatArray:
        return np.asarray(self.scale / x)

    def derivative(self, x: Interval) -> Interval:
        return (x * x).inverse().scaled(-self.scale)

    def between(self, low: FloatArray, high: FloatArray) -> LowHigh:
        return enclosing((low, high)).inverse().scaled(self.scale).ends
