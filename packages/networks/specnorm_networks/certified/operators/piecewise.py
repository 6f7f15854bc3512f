"""Functions of each entry that are piecewise linear and continuous."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from specnorm.proof import host
from specnorm_networks.certified.operators.base import FloatArray, Function, LowHigh, Numbers, Piece
from specnorm_networks.certified.operators.curved import Extent


class Piecewise(Function):
    """A continuous function that is made of linear pieces, from which its slopes and values follow."""

    def extent(self) -> Extent | None:
        slopes: list[FloatArray] = []
        for piece in self.pieces(np.array(-math.inf), np.array(math.inf)):
            if piece.start < piece.end:
                slopes.append(np.asarray(piece.slope))
        if not slopes or not all(np.isfinite(slope).all() for slope in slopes):
            return None
        nonempty = [slope for slope in slopes if slope.size]
        if not nonempty:
            return 0.0, 0.0
        return float(min(map(np.min, nonempty))), float(max(map(np.max, nonempty)))

    def slopes(self, low: FloatArray, high: FloatArray) -> LowHigh | None:
        if self.extent() is None:
            return None
        least = np.full(low.shape, math.inf)
        most = np.full(low.shape, -math.inf)
        for piece in self.pieces(low, high):
            has_slope = piece.has_slope_on(low, high)
            least = np.where(has_slope, np.minimum(least, piece.slope), least)
            most = np.where(has_slope, np.maximum(most, piece.slope), most)
        return least, most

    def between(self, low: FloatArray, high: FloatArray) -> LowHigh:
        if self.extent() is None:
            return np.full(low.shape, -math.inf), np.full(high.shape, math.inf)
        down = np.full(low.shape, math.inf)
        up = np.full(low.shape, -math.inf)
        with np.errstate(all="ignore"):
            for piece in self.pieces(low, high):
                touches = (low <= piece.end) & (high >= piece.start)
                # A linear piece has its extremes at the ends of its part of the interval.
                for x in (np.maximum(low, piece.start), np.minimum(high, piece.end)):
                    value_down = _line_down(piece.slope, x, piece.shift)
                    value_up = _line_up(piece.slope, x, piece.shift)
                    down = np.where(touches, np.minimum(down, value_down), down)
                    up = np.where(touches, np.maximum(up, value_up), up)
        return down, up


def _line_down(slope: Numbers, x: FloatArray, shift: float) -> FloatArray:
    """Return ``slope x + shift``, rounded down; -infinity where the sum is NaN."""
    slope_is_0 = np.equal(slope, 0)
    slope_is_plus_minus_1 = np.equal(np.abs(slope), 1)
    product = np.where(slope_is_0, 0.0, slope * x)
    product_is_exact = slope_is_0 | slope_is_plus_minus_1 | (x == 0)
    product = np.where(product_is_exact, product, host.next_down(product))
    # Adding 0 to a number is exact.
    total = product if shift == 0 else host.next_down(product + shift)
    total = np.where(product == 0, shift, total)
    return np.where(np.isnan(total), -math.inf, total)


def _line_up(slope: Numbers, x: FloatArray, shift: float) -> FloatArray:
    """Return ``slope x + shift``, rounded up; infinity where the sum is NaN."""
    return -_line_down(np.negative(slope), x, -shift)


# -- two slopes, with the kink at 0 ------------------------------------------------------------------------------------
class TwoSlopes(Piecewise):
    """A function ``below x`` for x < 0 and ``above x`` for x > 0. Both slopes may be the same."""

    constant_slopes: ClassVar[tuple[float, float]]
    """``below`` and ``above``, if they are the same for all fields."""

    def below_and_above(self) -> tuple[Numbers, Numbers]:
        """Return the slope below 0 and the slope above 0."""
        return self.constant_slopes

    def value(self, x: FloatArray) -> FloatArray:
        below, above = self.below_and_above()
        return np.where(x > 0, above * x, below * x)

    def pieces(self, low: FloatArray, high: FloatArray) -> tuple[Piece, ...]:
        below, above = self.below_and_above()
        return Piece(-math.inf, 0.0, below), Piece(0.0, math.inf, above)


class ReLU(TwoSlopes):
    """max(x, 0)."""

    constant_slopes = (0.0, 1.0)

    def value(self, x: FloatArray) -> FloatArray:
        return np.maximum(x, 0.0)


class Abs(TwoSlopes):
    """|x|."""

    constant_slopes = (-1.0, 1.0)

    def value(self, x: FloatArray) -> FloatArray:
        return np.asarray(abs(x))  # 0, not -0: its inverse is infinity


class Negative(TwoSlopes):
    """-x."""

    constant_slopes = (-1.0, -1.0)


class LeakyReLU(TwoSlopes):
    """``alpha x`` for x < 0, and x for x > 0."""

    alpha: Numbers = 0.01
    """A number, or a float64 array that broadcasts against the value without making it larger."""

    def below_and_above(self) -> tuple[Numbers, Numbers]:
        return self.alpha, 1.0


# -- three pieces ------------------------------------------------------------------------------------------------------
class HardTanh(Piecewise):
    """``min(max(x, low), high)``; an end that is infinite is no limit."""

    low: float = -1.0
    high: float = 1.0

    def value(self, x: FloatArray) -> FloatArray:
        return np.minimum(np.maximum(x, self.low), self.high)

    def pieces(self, low: FloatArray, high: FloatArray) -> tuple[Piece, ...]:
        if not self.low <= self.high or self.low == math.inf or self.high == -math.inf:
            return ()
        below = Piece(-math.inf, self.low, 0.0, self.low)
        inside = Piece(self.low, self.high, 1.0)
        above = Piece(self.high, math.inf, 0.0, self.high)
        # Nothing is below a limit of -infinity, or above one of infinity.
        return tuple(piece for piece in (below, inside, above) if piece.start < piece.end)
