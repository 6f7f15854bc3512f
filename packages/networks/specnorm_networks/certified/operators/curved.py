"""Functions of each entry whose values are computed up to an error: `Curved`, and `Bell` with a known derivative.

The host's elementary functions are taken to be good to `VALUE_ERROR` of their values, hundreds of units in the last
point.
"""

from __future__ import annotations

import math
from typing import ClassVar, TypeAlias

import numpy as np

from specnorm.proof import host
from specnorm_networks.certified.operators.base import FloatArray, Function, LowHigh

Extent: TypeAlias = tuple[float, float]
"""Lower and upper end of an interval that contains a number, or a set of numbers.

`Function.extent` is that of the difference quotients of a function.
"""
VALUE_ERROR = 2.0**-44
"""Error of a computed function value, relative to 1 + |value| + |argument|."""
SLOPE_ERROR = 2.0**-40
"""Absolute error of a computed derivative."""


class Curved(Function):
    """A function that rises or falls everywhere, whose computed `value` has an error of at most `value_error`."""

    slope_range: ClassVar[Extent | None] = None
    """The `extent`, if it is the same for all fields."""
    limits: ClassVar[Extent] = (-math.inf, math.inf)
    """Numbers between which all values lie."""
    value_at_zero: ClassVar[float | None] = None
    """The exact value at 0, if it is known: branches that meet there have to agree exactly."""

    def extent(self) -> Extent | None:
        return self.slope_range

    def value_error(self, x: FloatArray, value: FloatArray) -> FloatArray:
        """Bound the error of a computed value: from rounding the function, and from rounding its argument."""
        size = np.where(np.isfinite(x), abs(x), 0.0)
        return np.asarray(VALUE_ERROR * (1 + abs(value) + size))

    def between(self, low: FloatArray, high: FloatArray) -> LowHigh:
        # A function that rises or falls has its extremes at the ends.
        with np.errstate(all="ignore"):
            low_of_first, high_of_first = self._interval_at(low)
            low_of_last, high_of_last = self._interval_at(high)
        down = np.minimum(low_of_first, low_of_last)
        up = np.maximum(high_of_first, high_of_last)
        return np.maximum(down, self.limits[0]), np.minimum(up, self.limits[1])

    def _interval_at(self, x: FloatArray) -> LowHigh:
        """Return intervals of the function's values at points, which may be infinite."""
        value = np.asarray(self.value(x))
        error = self.value_error(x, value)
        down = np.where(np.isinf(value), value, value - error)
        up = np.where(np.isinf(value), value, value + error)
        # An infinite value at a finite point is an overflow: the function's own value there is finite.
        is_known = np.isfinite(value) | (np.isinf(value) & np.isinf(x))
        down = np.where(is_known, host.next_down(down), -math.inf)
        return down, np.where(is_known, host.next_up(up), math.inf)


def rounded_slopes(least: FloatArray, most: FloatArray, extent: Extent) -> LowHigh:
    """Return computed slopes rounded outward by `SLOPE_ERROR`, within the extent of the slopes on the whole line."""
    down = host.next_down(least - SLOPE_ERROR)
    up = host.next_up(most + SLOPE_ERROR)
    return np.maximum(down, extent[0]), np.minimum(up, extent[1])


class Bell(Curved):
    """A function whose slope depends on the argument's absolute value, and falls with it."""

    slope_range: ClassVar[Extent]

    def slope(self, x: FloatArray) -> FloatArray:
        """Return the slope, up to an error of `SLOPE_ERROR`; of infinity its limit."""
        raise NotImplementedError

    def slopes(self, low: FloatArray, high: FloatArray) -> LowHigh | None:
        size_of_low = abs(low)
        size_of_high = abs(high)
        contains_0 = (low <= 0) & (high >= 0)
        furthest = np.maximum(size_of_low, size_of_high)
        nearest = np.where(contains_0, 0.0, np.minimum(size_of_low, size_of_high))
        with np.errstate(all="ignore"):
            return rounded_slopes(self.slope(furthest), self.slope(nearest), self.slope_range)
