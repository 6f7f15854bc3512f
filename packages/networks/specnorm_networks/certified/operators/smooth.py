"""Smooth functions of each entry with a bounded derivative: sigmoids, sine and cosine, and ELU.

Functions that are made of several of these, such as GELU, are in `curves`. The tests prove slopes by ball arithmetic.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from specnorm.proof import enclosing, host
from specnorm_networks.certified.operators.base import FloatArray, Function, LowHigh
from specnorm_networks.certified.operators.curved import (
    SLOPE_ERROR,
    VALUE_ERROR,
    Bell,
    Curved,
    Extent,
    rounded_slopes,
)


def sigmoid(x: FloatArray) -> FloatArray:
    """Return the sigmoid, by exp(-|x|), which does not overflow."""
    small = np.exp(-abs(x))
    return np.asarray(np.where(x >= 0, 1.0, small) / (1 + small))


erf = np.vectorize(math.erf, otypes=[np.float64])
"""Error function of the host's mathematical library; NumPy has none."""


# -- rising functions --------------------------------------------------------------------------------------------------
def _slope_of_sigmoid(x: FloatArray) -> FloatArray:
    small = np.exp(-abs(x))
    return np.asarray(small / (1 + small) ** 2)


class Sigmoid(Bell):
    """1 / (1 + exp(-x)), of slope s (1 - s)."""

    slope_range = (0.0, 0.25)
    value_at_zero = 0.5
    limits = (0.0, 1.0)

    def value(self, x: FloatArray) -> FloatArray:
        return sigmoid(x)

    def slope(self, x: FloatArray) -> FloatArray:
        return _slope_of_sigmoid(x)


class Tanh(Bell):
    """2 sigmoid(2 x) - 1, of slope 1 - tanh^2."""

    slope_range = (0.0, 1.0)
    value_at_zero = 0.0
    limits = (-1.0, 1.0)

    def value(self, x: FloatArray) -> FloatArray:
        return np.tanh(x)

    def slope(self, x: FloatArray) -> FloatArray:
        return 4 * _slope_of_sigmoid(2 * x)


class Softsign(Bell):
    """``x / (1 + |x|)``."""

    slope_range = (0.0, 1.0)
    value_at_zero = 0.0
    limits = (-1.0, 1.0)

    def value(self, x: FloatArray) -> FloatArray:
        quotient = x / (1 + abs(x))
        return np.where(np.isinf(x), np.sign(x), quotient)

    def slope(self, x: FloatArray) -> FloatArray:
        return np.asarray(1 / np.square(1 + abs(x)))


class Arctan(Bell):
    """The inverse of the tangent."""

    slope_range = (0.0, 1.0)
    value_at_zero = 0.0
    limits = (-1.5707963267948968, 1.5707963267948968)  # half of pi, rounded up

    def value(self, x: FloatArray) -> FloatArray:
        return np.arctan(x)

    def slope(self, x: FloatArray) -> FloatArray:
        return np.asarray(1 / (1 + np.square(x)))


class Arcsinh(Bell):
    """The inverse of the hyperbolic sine, of slope ``1 / sqrt(1 + x^2)``."""

    slope_range = (0.0, 1.0)
    value_at_zero = 0.0

    def value(self, x: FloatArray) -> FloatArray:
        return np.arcsinh(x)

    def slope(self, x: FloatArray) -> FloatArray:
        return np.asarray(1 / np.hypot(1.0, x))


class Erf(Bell):
    """The error function."""

    slope_range = (0.0, 1.1283791670955128)  # 2 / sqrt(pi) at 0
    value_at_zero = 0.0
    limits = (-1.0, 1.0)

    def value(self, x: FloatArray) -> FloatArray:
        return np.asarray(erf(x))

    def slope(self, x: FloatArray) -> FloatArray:
        slope_at_0 = 2 / math.sqrt(math.pi)
        return np.asarray(slope_at_0 * np.exp(-np.square(x)))


class Softplus(Curved):
    """``log(1 + exp(x))``, of slope sigmoid(x)."""

    slope_range = (0.0, 1.0)
    limits = (0.0, math.inf)

    def value(self, x: FloatArray) -> FloatArray:
        return np.logaddexp(0.0, x)

    def slopes(self, low: FloatArray, high: FloatArray) -> LowHigh | None:
        return rounded_slopes(sigmoid(low), sigmoid(high), self.slope_range)


# -- exponentials below 0 ----------------------------------------------------------------------------------------------
class ELU(Curved):
    """``x`` for x > 0 and ``alpha (exp(x) - 1)`` for x < 0, with alpha at least 0."""

    alpha: float = 1.0

    def value(self, x: FloatArray) -> FloatArray:
        return np.where(x > 0, x, self.alpha * np.expm1(np.minimum(x, 0.0)))

    def extent(self) -> Extent | None:
        return (0.0, max(1.0, self.alpha)) if 0 <= self.alpha < math.inf else None

    def slopes(self, low: FloatArray, high: FloatArray) -> LowHigh | None:
        if self.extent() is None:
            return None
        # Below 0 the slope is alpha exp(x). A relative error u of x changes exp(x) by at most u |x| exp(x) < u.
        at_low = np.exp(np.minimum(low, 0.0))
        at_high = np.exp(np.minimum(high, 0.0))
        powers = rounded_slopes(at_low, at_high, (0.0, 1.0))
        down, up = enclosing(powers).scaled(self.alpha).ends
        down = np.maximum(down, 0.0)
        up = np.minimum(up, self.alpha)
        # Above 0 the slope is 1.
        reaches_below = (low < 0) | (high <= 0)
        reaches_above = (high > 0) | (low >= 0)
        down = np.where(reaches_above, np.minimum(down, 1.0), down)
        up = np.where(reaches_above, np.maximum(up, 1.0), up)
        return np.where(reaches_below, down, 1.0), np.where(reaches_below, up, 1.0)

    def between(self, low: FloatArray, high: FloatArray) -> LowHigh:
        return super().between(low, high) if self.alpha >= 0 else Function.between(self, low, high)


# -- waves -------------------------------------------------------------------------------------------------------------
FARTHEST_WAVE = 2.0**20
"""Largest argument at which waves are evaluated; beyond, all values and slopes from -1 to 1 are allowed."""
ERROR_IN_PERIODS = SLOPE_ERROR * FARTHEST_WAVE
"""Bound of the error of x / (2 pi), 2**-20."""


class Wave(Curved):
    """``sin(x + quarter_periods pi/2)``: the sine, begun some quarters of its period later."""

    slope_range = (-1.0, 1.0)
    limits = (-1.0, 1.0)
    quarter_periods: ClassVar[int]

    def slopes(self, low: FloatArray, high: FloatArray) -> LowHigh | None:
        # The derivative of a sine is the sine a quarter of the period later.
        return _wave_between(low, high, self.quarter_periods + 1)

    def between(self, low: FloatArray, high: FloatArray) -> LowHigh:
        return _wave_between(low, high, self.quarter_periods)


def _wave_between(low: FloatArray, high: FloatArray, quarter_periods: int) -> LowHigh:
    """Return the smallest and largest value of ``sin(x + quarter_periods pi/2)`` on intervals, rounded outward."""
    is_near = (abs(low) <= FARTHEST_WAVE) & (abs(high) <= FARTHEST_WAVE)
    first = np.where(is_near, low, 0.0)
    last = np.where(is_near, high, 0.0)
    functions = (np.sin, np.cos, lambda x: -np.sin(x), lambda x: -np.cos(x))
    function = functions[quarter_periods % 4]
    at_first = function(first)
    at_last = function(last)
    down = host.next_down(np.minimum(at_first, at_last) - VALUE_ERROR)
    up = host.next_up(np.maximum(at_first, at_last) + VALUE_ERROR)
    # The sine is 1 after one quarter of the period and -1 after three, and again after each whole period.
    contains_maximum = _contains_quarter_period(first, last, 1 - quarter_periods)
    contains_minimum = _contains_quarter_period(first, last, 3 - quarter_periods)
    up = np.where(contains_maximum, 1.0, up)
    down = np.where(contains_minimum, -1.0, down)
    least = np.where(is_near, np.maximum(down, -1.0), -1.0)
    return least, np.where(is_near, np.minimum(up, 1.0), 1.0)


def _contains_quarter_period(first: FloatArray, last: FloatArray, quarters: int) -> FloatArray:
    """Return whether intervals may contain ``(quarters / 4 + n) 2 pi`` for a whole number n."""
    first_period = first / (2 * math.pi) - quarters / 4
    last_period = last / (2 * math.pi) - quarters / 4
    smallest_n = np.ceil(first_period - ERROR_IN_PERIODS)
    largest_n = np.floor(last_period + ERROR_IN_PERIODS)
    return np.asarray(largest_n >= smallest_n)


class Sin(Wave):
    """The sine."""

    value_at_zero = 0.0
    quarter_periods = 0

    def value(self, x: FloatArray) -> FloatArray:
        return np.sin(x)


class Cos(Wave):
    """The cosine."""

    value_at_zero = 1.0
    quarter_periods = 1

    def value(self, x: FloatArray) -> FloatArray:
        return np.cos(x)
