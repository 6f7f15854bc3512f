"""Functions of each entry whose values are computed up to an error: `Curved`, and `Turning` with a known derivative.

A derivative (`SlopeShape`) has few extremes, and is monotone between them.

The host's elementary functions are taken to be good to `VALUE_ERROR` of their values, hundreds of units in the last
point.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, TypeAlias

import numpy as np

from specnorm.proof import host
from specnorm_networks.certified.operators.base import FloatArray, LowHigh, Pointwise

Extent: TypeAlias = tuple[float, float]
"""Lower and upper end of an interval that contains a number, or a set of numbers.

`Pointwise.extent` is that of the difference quotients of a function.
"""
VALUE_ERROR = 2.0**-44
"""Error of a computed function value, relative to 1 + |value| + |argument|."""
SLOPE_ERROR = 2.0**-40
"""Absolute error of a computed derivative."""
FAR = 700.0
"""Argument from which on derivatives are within `SLOPE_ERROR` of their limits; exp does not overflow up to it."""


class TurningPoint(NamedTuple):
    """A point where a function changes from rising to falling, or from falling to rising."""

    point: Extent
    """Ends of an interval that contains the point."""
    value: Extent
    """Ends of an interval that contains the function's value there."""


class Curved(Pointwise):
    """A function whose computed `value` has an error of at most `value_error`."""

    slope_range: ClassVar[Extent | None] = None
    """The `extent`, if it is the same for all fields."""
    limits: ClassVar[Extent] = (-math.inf, math.inf)
    """Numbers between which all values lie."""
    turning_points: ClassVar[tuple[TurningPoint, ...]] = ()
    """All turning points of the function; between two of them it is monotone."""

    def extent(self) -> Extent | None:
        return self.slope_range

    def value_error(self, x: FloatArray, value: FloatArray) -> FloatArray:
        """Bound the error of a computed value: from rounding the function, and from rounding its argument."""
        size = np.where(np.isfinite(x), abs(x), 0.0)
        return np.asarray(VALUE_ERROR * (1 + abs(value) + size))

    def between(self, low: FloatArray, high: FloatArray) -> LowHigh:
        # A function that is monotone between its turning points has its extremes at the ends or at one of them.
        with np.errstate(all="ignore"):
            low_of_first, high_of_first = self._interval_at(low)
            low_of_last, high_of_last = self._interval_at(high)
            down = np.minimum(low_of_first, low_of_last)
            up = np.maximum(high_of_first, high_of_last)
            for (start, end), (least, most) in self.turning_points:
                may_turn = (low <= end) & (high >= start)
                down = np.where(may_turn, np.minimum(down, least), down)
                up = np.where(may_turn, np.maximum(up, most), up)
        return np.maximum(down, self.limits[0]), np.minimum(up, self.limits[1])

    def _interval_at(self, x: FloatArray) -> LowHigh:
        """Return intervals of the function's values at points, which may be infinite."""
        value = np.asarray(self.value(x))
        error = self.value_error(x, value)
        down = np.where(np.isinf(value), value, value - error)
        up = np.where(np.isinf(value), value, value + error)
        # An infinite value at a finite point is an overflow: the function's own value there is finite.
        is_known = np.isfinite(value) | (np.isinf(value) & np.isinf(x))
        return np.where(is_known, host.next_down(down), -math.inf), np.where(is_known, host.next_up(up), math.inf)


@dataclass(frozen=True)
class SlopeShape:
    """The derivative of a function, with its few extremes: between them it is monotone.

    The tests prove by ball arithmetic that there are no other extremes, and that values are good to ``error``.
    """

    derivative: Callable[[FloatArray], FloatArray]
    """Computes the derivative."""
    lowest: tuple[Extent, ...] = ()
    """Intervals, each with a point at which the derivative is smallest."""
    highest: tuple[Extent, ...] = ()
    """Intervals, each with a point at which the derivative is largest."""
    far: float = FAR
    """Argument from which on, and below whose negative, the derivative is constant up to ``error``."""
    error: float = SLOPE_ERROR
    """Absolute error of the computed derivative."""

    def slopes(self, extent: Extent, low: FloatArray, high: FloatArray) -> LowHigh:
        """Return the smallest and largest derivative on intervals, rounded outward.

        ``extent``: smallest and largest derivative on the whole line, which are those at ``lowest`` and ``highest``.
        """
        with np.errstate(all="ignore"):
            at_low = self.derivative(np.clip(low, -self.far, self.far))
            at_high = self.derivative(np.clip(high, -self.far, self.far))
        down = host.next_down(np.minimum(at_low, at_high) - self.error)
        up = host.next_up(np.maximum(at_low, at_high) + self.error)
        for start, end in self.lowest:
            down = np.where((low <= end) & (high >= start), extent[0], down)
        for start, end in self.highest:
            up = np.where((low <= end) & (high >= start), extent[1], up)
        return np.maximum(down, extent[0]), np.minimum(up, extent[1])


class Turning(Curved):
    """A function whose derivative is known as a `SlopeShape`."""

    slope_range: ClassVar[Extent]
    slope_shape: ClassVar[SlopeShape]

    def slopes(self, low: FloatArray, high: FloatArray) -> LowHigh | None:
        return self.slope_shape.slopes(self.slope_range, low, high)
