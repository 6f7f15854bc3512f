"""Smooth functions of each entry with a bounded derivative: sigmoids, gated units, sine and cosine, and ELU.

Each states its derivative, intervals that contain the points where that is extreme (``highest``, ``lowest``), and the
limits of its values. Beyond ``far`` a derivative is taken as constant; ``far`` is infinite where it is not, since it
falls off more slowly than an exponential. The tests prove the stated numbers by ball arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from specnorm.proof import enclosing, host
from specnorm_networks.certified.operators.base import FloatArray, LowHigh
from specnorm_networks.certified.operators.curved import (
    SLOPE_ERROR,
    VALUE_ERROR,
    Curved,
    Extent,
    SlopeShape,
    Turning,
    TurningPoint,
)


def sigmoid(x: FloatArray) -> FloatArray:
    """Return the sigmoid, by exp(-|x|), which does not overflow."""
    small = np.exp(-abs(x))
    return np.asarray(np.where(x >= 0, 1.0, small) / (1 + small))


erf = np.vectorize(math.erf, otypes=[np.float64])
"""Error function of the host's mathematical library; NumPy has none."""
erfc = np.vectorize(math.erfc, otypes=[np.float64])
"""Complementary error function of the host's mathematical library."""


# -- derivatives that are largest at 0, or have no extreme -------------------------------------------------------------
POINT_0: Extent = (0.0, 0.0)
"""The interval that holds 0 alone."""


def _slope_of_sigmoid(x: FloatArray) -> FloatArray:
    small = np.exp(-abs(x))
    return np.asarray(small / (1 + small) ** 2)


class Sigmoid(Turning):
    """1 / (1 + exp(-x)), of slope s (1 - s)."""

    slope_range = (0.0, 0.25)
    slope_shape = SlopeShape(_slope_of_sigmoid, highest=(POINT_0,))
    limits = (0.0, 1.0)

    def value(self, x: FloatArray) -> FloatArray:
        return sigmoid(x)


class Tanh(Turning):
    """2 sigmoid(2 x) - 1, of slope 1 - tanh^2."""

    slope_range = (0.0, 1.0)
    slope_shape = SlopeShape(lambda x: 4 * _slope_of_sigmoid(2 * x), highest=(POINT_0,))
    limits = (-1.0, 1.0)

    def value(self, x: FloatArray) -> FloatArray:
        return np.tanh(x)


class Softsign(Turning):
    """``x / (1 + |x|)``."""

    slope_range = (0.0, 1.0)
    slope_shape = SlopeShape(lambda x: 1 / np.square(1 + abs(x)), highest=(POINT_0,), far=math.inf)
    limits = (-1.0, 1.0)

    def value(self, x: FloatArray) -> FloatArray:
        return np.where(np.isinf(x), np.sign(x), x / (1 + abs(x)))


class Arctan(Turning):
    """The inverse of the tangent."""

    slope_range = (0.0, 1.0)
    slope_shape = SlopeShape(lambda x: 1 / (1 + np.square(x)), highest=(POINT_0,), far=math.inf)
    limits = (-1.5707963267948968, 1.5707963267948968)  # half of pi, rounded up

    def value(self, x: FloatArray) -> FloatArray:
        return np.arctan(x)


class Erf(Turning):
    """The error function."""

    slope_range = (0.0, 1.1283791670955128)  # 2 / sqrt(pi) at 0
    slope_shape = SlopeShape(lambda x: 2 / math.sqrt(math.pi) * np.exp(-np.square(x)), highest=(POINT_0,))
    limits = (-1.0, 1.0)

    def value(self, x: FloatArray) -> FloatArray:
        return np.asarray(erf(x))


class Softplus(Turning):
    """``log(1 + exp(x))``, of slope sigmoid(x)."""

    slope_range = (0.0, 1.0)
    slope_shape = SlopeShape(sigmoid)
    limits = (0.0, math.inf)

    def value(self, x: FloatArray) -> FloatArray:
        return np.logaddexp(0.0, x)

    def rounding(
        self,
        values: Sequence[FloatArray],
        result: FloatArray,
        unit: float,
    ) -> FloatArray | float:
        # From 20 on a library may return x itself, which is too small by log(1 + exp(-x)) <= exp(-x). Both the number
        # 20 and the exponential are rounded.
        (x,) = values
        identity_error = np.where(x > 20 - 1e-4, 1.001 * np.exp(-abs(x)), 0.0)
        return super().rounding(values, result, unit) + identity_error


# -- exponentials below 0 ----------------------------------------------------------------------------------------------
class ELU(Curved):
    """``x`` for x > 0 and ``alpha (exp(x) - 1)`` for x < 0."""

    turning_points = (TurningPoint(point=POINT_0, value=POINT_0),)
    """If alpha is negative, slopes change their sign at 0."""
    alpha: float = 1.0

    def value(self, x: FloatArray) -> FloatArray:
        return np.where(x > 0, x, self.alpha * np.expm1(np.minimum(x, 0.0)))

    def extent(self) -> Extent | None:
        return (min(0.0, self.alpha), max(1.0, self.alpha)) if math.isfinite(self.alpha) else None

    def slopes(self, low: FloatArray, high: FloatArray) -> LowHigh | None:
        if not math.isfinite(self.alpha):
            return None
        # Below 0 the slope is alpha exp(x). A relative error u of x changes exp(x) by at most u |x| exp(x) < u.
        least_power = np.exp(np.minimum(low, 0.0))
        most_power = np.exp(np.minimum(high, 0.0))
        least_power = np.maximum(host.next_down(least_power - SLOPE_ERROR), 0.0)
        most_power = np.minimum(host.next_up(most_power + SLOPE_ERROR), 1.0)
        slopes_below = enclosing((least_power, most_power)).scaled(self.alpha)
        down = np.maximum(slopes_below.low, min(0.0, self.alpha))
        up = np.minimum(slopes_below.high, max(0.0, self.alpha))
        # Above 0 the slope is 1.
        reaches_below = (low < 0) | (high <= 0)
        reaches_above = (high > 0) | (low >= 0)
        down = np.where(reaches_above, np.minimum(down, 1.0), down)
        up = np.where(reaches_above, np.maximum(up, 1.0), up)
        return np.where(reaches_below, down, 1.0), np.where(reaches_below, up, 1.0)

    def rounding(
        self,
        values: Sequence[FloatArray],
        result: FloatArray,
        unit: float,
    ) -> FloatArray | float:
        # A library may compute exp(x) - 1 by a difference, whose error is relative to 1.
        (x,) = values
        difference_error = np.where(x < 0, 16 * unit * abs(self.alpha), 0.0)
        return super().rounding(values, result, unit) + difference_error


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
    return np.where(is_near, np.maximum(down, -1.0), -1.0), np.where(is_near, np.minimum(up, 1.0), 1.0)


def _contains_quarter_period(first: FloatArray, last: FloatArray, quarters: int) -> FloatArray:
    """Return whether intervals may contain ``(quarters / 4 + n) 2 pi`` for a whole number n."""
    first_period = first / (2 * math.pi) - quarters / 4
    last_period = last / (2 * math.pi) - quarters / 4
    return np.asarray(np.floor(last_period + ERROR_IN_PERIODS) >= np.ceil(first_period - ERROR_IN_PERIODS))


class Sin(Wave):
    """The sine."""

    quarter_periods = 0

    def value(self, x: FloatArray) -> FloatArray:
        return np.sin(x)


class Cos(Wave):
    """The cosine."""

    quarter_periods = 1

    def value(self, x: FloatArray) -> FloatArray:
        return np.cos(x)


# -- x times a gate between 0 and 1 ------------------------------------------------------------------------------------
def _extended_below_0(derivative: Callable[[FloatArray], FloatArray]) -> Callable[[FloatArray], FloatArray]:
    """Return a derivative for all arguments from one for arguments from 0 on, by ``f'(x) + f'(-x) = 1``.

    The given formula is accurate only for x >= 0, where all of its terms are positive.
    """

    def derivative_everywhere(x: FloatArray) -> FloatArray:
        at_magnitude = derivative(abs(x))
        return np.where(x < 0, 1 - at_magnitude, at_magnitude)

    return derivative_everywhere


def _slope_of_silu(x: FloatArray) -> FloatArray:
    small = np.exp(-x)
    return np.asarray(1 / (1 + small) + x * small / (1 + small) ** 2)


def _slope_of_gelu(x: FloatArray) -> FloatArray:
    density = np.exp(-0.5 * np.square(x)) / math.sqrt(2 * math.pi)
    return np.asarray(0.5 * (1 + erf(x / math.sqrt(2))) + x * density)


def _slope_of_tanh_gelu(x: FloatArray) -> FloatArray:
    """Return ``s + x y' s (1 - s)``, the slope of x s with s = sigmoid(y)."""
    scale = math.sqrt(2 / math.pi)
    small = np.exp(-2 * scale * x * (1 + 0.044715 * np.square(x)))
    slope_of_y = 2 * scale * (1 + 3 * 0.044715 * np.square(x))
    return np.asarray(1 / (1 + small) + slope_of_y * x * small / (1 + small) ** 2)


def _slope_of_mish(x: FloatArray) -> FloatArray:
    """Return ``t + x t'`` with t = tanh(log(1 + e^x)), by powers of e^-|x|."""
    small = np.exp(-abs(x))
    numerator_below = small * (2 + small)
    numerator_above = 1 + 2 * small
    denominator_below = numerator_below + 2
    denominator_above = numerator_above + 2 * small**2
    t = np.where(x < 0, numerator_below / denominator_below, numerator_above / denominator_above)
    quotient = np.where(x < 0, small / denominator_below**2, (small / denominator_above) ** 2)
    slope_of_t = 4 * (1 + small) * quotient
    return np.asarray(t + x * slope_of_t)


class Gated(Turning):
    """A function ``x gate(x)``, with a gate between 0 and 1."""

    def gate(self, x: FloatArray) -> FloatArray:
        """Return the gate."""
        raise NotImplementedError

    def value(self, x: FloatArray) -> FloatArray:
        """Return the product; 0 if the gate is 0, even for infinite x."""
        gate = self.gate(x)
        return np.where(gate == 0, 0.0, x * gate)

    def between(self, low: FloatArray, high: FloatArray) -> LowHigh:
        # Each value lies between 0 and x.
        down, up = super().between(low, high)
        return np.maximum(down, np.minimum(low, 0.0)), np.minimum(up, np.maximum(high, 0.0))


class GELU(Gated):
    """``x Phi(x)``, Phi the distribution of a normal number."""

    slope_range = (-0.12892, 1.12892)  # Phi(x) + x phi(x) at the root of 2; slopes at x and at -x have the sum 1
    slope_shape = SlopeShape(
        _extended_below_0(_slope_of_gelu), lowest=((-1.41422, -1.41421),), highest=((1.41421, 1.41422),)
    )
    turning_points = (TurningPoint(point=(-0.75180, -0.75179), value=(-0.169971208, -0.169971207)),)

    def gate(self, x: FloatArray) -> FloatArray:
        return np.asarray(0.5 * erfc(-x / math.sqrt(2)))


class TanhGELU(Gated):
    """``x (1 + tanh(y / 2)) / 2 = x sigmoid(y)`` with ``y = 2 sqrt(2 / pi) (x + 0.044715 x^3)``, near to `GELU`."""

    slope_range = (-0.12900, 1.12900)  # at 1.4186 and at -1.4186; slopes at x and at -x have the sum 1
    slope_shape = SlopeShape(
        _extended_below_0(_slope_of_tanh_gelu), lowest=((-1.4186, -1.4185),), highest=((1.4185, 1.4186),)
    )
    turning_points = (TurningPoint(point=(-0.75247, -0.75246), value=(-0.170040751, -0.170040750)),)

    def gate(self, x: FloatArray) -> FloatArray:
        return sigmoid(2 * math.sqrt(2 / math.pi) * x * (1 + 0.044715 * x * x))


class Mish(Gated):
    """``x tanh(softplus(x))``."""

    slope_range = (-0.11253, 1.08851)  # at -2.2564 and 1.4906
    slope_shape = SlopeShape(_slope_of_mish, lowest=((-2.2564, -2.2563),), highest=((1.4905, 1.4906),))
    turning_points = (TurningPoint(point=(-1.19244, -1.19243), value=(-0.308843414, -0.308843413)),)

    def gate(self, x: FloatArray) -> FloatArray:
        return np.tanh(np.logaddexp(0.0, x))


class SiLU(Gated):
    """``x sigmoid(x)``."""

    slope_range = (-0.09985, 1.09985)  # s (1 + x (1 - s)) at 2.3994; slopes at x and at -x have the sum 1
    slope_shape = SlopeShape(  # extreme where x tanh(x / 2) = 2
        _extended_below_0(_slope_of_silu), lowest=((-2.39936, -2.39935),), highest=((2.39935, 2.39936),)
    )
    turning_points = (TurningPoint(point=(-1.27847, -1.27846), value=(-0.278464543, -0.278464542)),)

    def gate(self, x: FloatArray) -> FloatArray:
        return sigmoid(x)


# -- hard swish --------------------------------------------------------------------------------------------------------
SIXTH_ERROR = 2.0**-23
"""Bound of the relative error of 1/6 in single precision, which is too large by 3e-8."""


def _slope_of_hard_swish(x: FloatArray) -> FloatArray:
    return np.where(x < -3, 0.0, np.where(x > 3, 1.0, (2 * x + 3) / 6))


class HardSwish(Turning):
    """``x min(max(x + 3, 0), 6) / 6``, with 1/6 exact or, as libraries have it, in single precision.

    Between -3 and 3 the slope (2x + 3) / 6 rises from -1/2 to 3/2; it jumps at both ends. With the 1/6 of single
    precision, which is too large by a factor of 1 + 3e-8, the ends are nearer to 0 by 9e-8.
    """

    slope_range = (-0.5000001, 1.5000001)
    slope_shape = SlopeShape(
        _slope_of_hard_swish, lowest=((-3.0, -3.0),), highest=((3.0, 3.0),), far=math.inf, error=SIXTH_ERROR
    )
    limits = (-0.3750001, math.inf)
    turning_points = (TurningPoint(point=(-1.5, -1.5), value=(-0.3750001, -0.375)),)

    def value(self, x: FloatArray) -> FloatArray:
        return np.where(x <= -3, 0.0, np.where(x >= 3, x, x * (x + 3) / 6))

    def slopes(self, low: FloatArray, high: FloatArray) -> LowHigh | None:
        # Intervals are widened by more than the 9e-8 by which the jumps may be nearer to 0.
        return super().slopes(low - SIXTH_ERROR, high + SIXTH_ERROR)

    def value_error(self, x: FloatArray, value: FloatArray) -> FloatArray:
        return np.asarray(super().value_error(x, value) + SIXTH_ERROR * abs(value))

    def rounding(
        self,
        values: Sequence[FloatArray],
        result: FloatArray,
        unit: float,
    ) -> FloatArray | float:
        # A library may add x^2/6 and x/2, of sizes up to 3 where the result is not 0.
        return (8 * unit + SIXTH_ERROR) * (abs(result) + 3)
