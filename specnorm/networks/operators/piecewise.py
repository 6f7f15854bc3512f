"""Piecewise linear functions of each entry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from specnorm.networks.operators.base import Ends, FloatArray
from specnorm.networks.operators.curvature import Curved, Interval, Line, Turn
from specnorm.networks.operators.pieces import Numbers, Piece, Piecewise
from specnorm.proof import host


# -- two slopes, with the kink at 0 --------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Kinked(Piecewise):
    """One slope below 0 and one above, numbers or one an entry."""

    def sides(self) -> tuple[Numbers, Numbers]:
        """Both slopes."""
        raise NotImplementedError

    def slack(self) -> float:
        """By how much the slopes may differ from those, relatively."""
        return 0.0

    def value(self, x: FloatArray) -> FloatArray:
        """The product with either slope."""
        below, above = self.sides()
        return np.where(x > 0, above * x, below * x)

    def pieces(self, low: FloatArray, high: FloatArray) -> tuple[Piece, ...]:
        """Two lines through 0."""
        del low, high
        below, above = (self._around(side) for side in self.sides())
        return Piece(-math.inf, 0.0, *below), Piece(0.0, math.inf, *above)

    def bent(self, low: FloatArray, high: FloatArray) -> Line:
        """``below x + (above - below) relu(x)``, and for ReLU the chord: its half is least [1]_.

        References
        ----------
        .. [1] Singh, Gehr, Mirman, Pueschel, Vechev, "Fast and Effective Robustness Certification", NeurIPS 2018.
        """
        finite = np.isfinite(low) & np.isfinite(high)
        low, high = np.where(finite, low, 0.0), np.where(finite, high, 0.0)
        below, above = self.sides()
        crossing = (low < 0) & (high > 0)
        with np.errstate(all="ignore"):
            chord = np.where(crossing, high / np.where(crossing, high - low, 1.0), (low >= 0).astype(np.float64))
            chord = np.clip(np.where(np.isnan(chord), 0.0, chord), 0.0, 1.0)
            # ReLU is above the line by -chord low at the low end, by (1 - chord) high at the high one; never below it.
            most = np.where(crossing, np.maximum(-chord * low, (1 - chord) * high), 0.0)
            most = np.where(crossing, host.raised(most, 4) + 2.0**-1000, 0.0)
            apart = above - below
            plain = np.equal(below, 0) & np.equal(above, 1) & (self.slack() == 0)
            slope = np.where(plain, chord, below + apart * chord)
            middle, half = apart * most / 2, np.abs(apart) * most / 2
            # The slope takes three roundings, and those of both sides are known up to the slack.
            size = (np.abs(below) + np.abs(above)) * np.maximum(abs(low), abs(high))
            lost = np.where(plain, 0.0, size * (2.0**-48 + self.slack()) + 2.0**-1000)
            half = np.where(plain, half, host.raised(half + lost, 8))
        finite = finite & np.isfinite(slope) & np.isfinite(middle) & np.isfinite(half)
        return np.where(finite, slope, 0.0), np.where(finite, middle, 0.0), np.where(finite, half, math.inf)

    def rounding(self, values: Sequence[FloatArray], result: FloatArray, unit: float) -> FloatArray | float:
        """A slope that was rounded, and its product."""
        del values
        plain = all(np.isin(side, (-1.0, 0.0, 1.0)).all() for side in self.sides())
        return 0.0 if plain and not self.slack() else (4 * unit + self.slack()) * abs(result)

    def _around(self, side: Numbers) -> tuple[Numbers, Numbers]:
        slack = self.slack()
        if not slack:
            return side, side
        lost = host.above(np.abs(side) * slack)
        return host.below(side - lost), host.above(side + lost)


@dataclass(frozen=True, eq=False)
class ReLU(Kinked):
    """max(x, 0)."""

    def value(self, x: FloatArray) -> FloatArray:
        """The larger one."""
        return np.maximum(x, 0.0)

    def sides(self) -> tuple[Numbers, Numbers]:
        """0 and 1."""
        return 0.0, 1.0


@dataclass(frozen=True, eq=False)
class Abs(Kinked):
    """|x|."""

    def sides(self) -> tuple[Numbers, Numbers]:
        """-1 and 1."""
        return -1.0, 1.0


@dataclass(frozen=True, eq=False)
class Negative(Kinked):
    """-x."""

    def sides(self) -> tuple[Numbers, Numbers]:
        """-1."""
        return -1.0, -1.0


@dataclass(frozen=True, eq=False)
class LeakyReLU(Kinked):
    """x above 0, ``alpha x`` below."""

    alpha: float = 0.01

    def sides(self) -> tuple[Numbers, Numbers]:
        """``alpha`` and 1."""
        return self.alpha, 1.0


@dataclass(frozen=True, eq=False)
class PReLU(Kinked):
    """x above 0, ``slope x`` below, one slope an entry.

    Parameters
    ----------
    slopes_below : array
        float64, broadcasting against the value without making it larger.
    """

    slopes_below: FloatArray

    def sides(self) -> tuple[Numbers, Numbers]:
        """The slopes, and 1."""
        return self.slopes_below, 1.0


@dataclass(frozen=True, eq=False)
class TwoSlopes(Kinked):
    """``below x`` where x <= 0, ``above x`` elsewhere: a leaky ReLU written out, one pair of slopes an entry.

    Parameters
    ----------
    below, above : array
        float64, broadcasting against the value without making it larger.
    roundings : int
        That were made in computing them.
    """

    below: FloatArray
    above: FloatArray
    roundings: int = 0

    def sides(self) -> tuple[Numbers, Numbers]:
        """Both."""
        return self.below, self.above

    def slack(self) -> float:
        """A bound of the roundings, and two more."""
        return (self.roundings + 2) * 2.0**-52 if self.roundings else 0.0


# -- other pieces --------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class HardTanh(Piecewise):
    """x between two numbers, the nearer of them outside; infinite ones are no limit."""

    low: float = -1.0
    high: float = 1.0

    def value(self, x: FloatArray) -> FloatArray:
        """Clipped from below, then from above."""
        return np.minimum(np.maximum(x, self.low), self.high)

    def pieces(self, low: FloatArray, high: FloatArray) -> tuple[Piece, ...]:
        """The identity between two constants; with the ends in the wrong order it is refused."""
        del low, high
        if not self.low <= self.high or self.low == math.inf or self.high == -math.inf:
            return ()
        limits = Piece(-math.inf, self.low, 0.0, 0.0, self.low), Piece(self.high, math.inf, 0.0, 0.0, self.high)
        # An infinite limit is nowhere reached.
        return tuple(p for p in (limits[0], Piece(self.low, self.high, 1.0, 1.0), limits[1]) if p.start < p.end)

    def rounding(self, values: Sequence[FloatArray], result: FloatArray, unit: float) -> FloatArray | float:
        """The limits are rounded."""
        del values
        ends = np.isin(result, (self.low, self.high))
        return np.where(ends, 2 * unit * abs(result), 0.0)


@dataclass(frozen=True, eq=False)
class HardSigmoid(Piecewise):
    """``alpha x + beta`` between 0 and 1.

    Parameters
    ----------
    alpha, beta : float
    slack : float
        By how much a library's alpha may be larger, relatively (torch multiplies by 1/6 in single precision).
    """

    limits: ClassVar[Interval] = (0.0, 1.0)
    alpha: float = 0.2
    beta: float = 0.5
    slack: float = 0.0

    def value(self, x: FloatArray) -> FloatArray:
        """Clipped."""
        return np.clip((0.0 if self.alpha == 0 else self.alpha * x) + self.beta, 0.0, 1.0)

    def off(self, x: FloatArray, value: FloatArray) -> FloatArray:
        """The slack besides, of what is clipped to 0 and 1."""
        return super().off(x, value) + self._lost(self.slack + 2.0**-50)

    def pieces(self, low: FloatArray, high: FloatArray) -> tuple[Piece, ...]:
        """Pieces overlap where kinks are known up to rounding and slack."""
        del low, high
        if not (math.isfinite(self.alpha) and math.isfinite(self.beta) and 0 <= self.slack < 1):
            return ()
        if self.alpha == 0:
            return (Piece(-math.inf, math.inf, 0.0, 0.0, min(max(self.beta, 0.0), 1.0)),)
        ends = [(end - self.beta, end) for end in (0.0, 1.0)]
        (one, first), (two, last) = sorted((apart / self.alpha, end) for apart, end in ends)
        near, far = (abs(kink) * (2 * self.slack + 2.0**-48) + 2.0**-1000 for kink in (one, two))
        slopes = sorted([self.alpha, self.alpha * (1 + self.slack)])
        if self.slack:
            slopes = [host.below(slopes[0]), host.above(slopes[1])]
        return (
            Piece(-math.inf, one + near, 0.0, 0.0, first),
            Piece(one - near, two + far, slopes[0], slopes[1], self.beta),
            Piece(two - far, math.inf, 0.0, 0.0, last),
        )

    def rounding(self, values: Sequence[FloatArray], result: FloatArray, unit: float) -> FloatArray | float:
        """Of alpha x and beta while their sum is between 0 and 1."""
        del values, result
        return self._lost(self.slack + 4 * unit)

    def _lost(self, relative: float) -> float:
        """``|alpha x| <= 1 + |beta|`` where the sum is between 0 and 1."""
        return relative * (2 + 2 * abs(self.beta))


@dataclass(frozen=True, eq=False)
class Threshold(Piecewise):
    """x above ``threshold``, else ``value_below``: without a jump where both are equal."""

    threshold: float
    value_below: float

    def value(self, x: FloatArray) -> FloatArray:
        """The definition."""
        return np.where(x > self.threshold, x, self.value_below)

    def pieces(self, low: FloatArray, high: FloatArray) -> tuple[Piece, ...]:
        """A constant and the identity."""
        del low, high
        if self.threshold != self.value_below or not math.isfinite(self.threshold):
            return ()
        kink = self.threshold
        return Piece(-math.inf, kink, 0.0, 0.0, kink), Piece(kink, math.inf, 1.0, 1.0)

    def rounding(self, values: Sequence[FloatArray], result: FloatArray, unit: float) -> FloatArray | float:
        """Both numbers are rounded: next to the threshold either may be meant."""
        (x,) = values
        beside = abs(x - self.threshold) <= 2 * unit * abs(self.threshold)
        constant = np.where(x > self.threshold, 0.0, 2 * unit * abs(result))
        return constant + np.where(beside, abs(x - self.value_below), 0.0)


@dataclass(frozen=True, eq=False)
class SoftShrink(Piecewise):
    """x moved towards 0 by ``lambd``, 0 where it is nearer."""

    lambd: float = 0.5

    def value(self, x: FloatArray) -> FloatArray:
        """The definition."""
        return np.where(x > self.lambd, x - self.lambd, np.where(x < -self.lambd, x + self.lambd, 0.0))

    def pieces(self, low: FloatArray, high: FloatArray) -> tuple[Piece, ...]:
        """0 between two lines; for negative ``lambd`` it jumps."""
        del low, high
        if not 0 <= self.lambd < math.inf:
            return ()
        kink = self.lambd
        return (
            Piece(-math.inf, -kink, 1.0, 1.0, kink),
            Piece(-kink, kink, 0.0, 0.0),
            Piece(kink, math.inf, 1.0, 1.0, -kink),
        )

    def rounding(self, values: Sequence[FloatArray], result: FloatArray, unit: float) -> FloatArray | float:
        """``lambd`` is rounded, and the difference."""
        del values
        return 4 * unit * (abs(result) + abs(self.lambd))


@dataclass(frozen=True, eq=False)
class HardSwish(Piecewise):
    """``x min(max(x + 3, 0), 6) / 6``; libraries have 1/6 in single precision.

    Between -3 and 3 the slope (2x + 3) / 6 rises; where 1/6 is in single precision, it is larger by 3e-8 of itself.
    """

    limits: ClassVar[Interval] = (-0.3750001, math.inf)
    bends: ClassVar[tuple[Turn, ...]] = (((-1.5, -1.5), (-0.3750001, -0.375)),)

    def value(self, x: FloatArray) -> FloatArray:
        """0 below -3, x above 3."""
        return np.where(x <= -3, 0.0, np.where(x >= 3, x, x * (x + 3) / 6))

    def off(self, x: FloatArray, value: FloatArray) -> FloatArray:
        """1/6 in single precision."""
        return np.asarray(super().off(x, value) + 2.0**-23 * abs(value))

    def extent(self) -> Interval | None:
        """(2x + 3) / 6 at -3 and 3."""
        return -0.5000001, 1.5000001

    def pieces(self, low: FloatArray, high: FloatArray) -> tuple[Piece, ...]:
        """The parabola has the slopes at the ends of an interval."""
        ends = [(2 * np.clip(end, -3.0, 3.0) + 3) / 6 for end in (low, high)]
        least, most = (end + side * 2.0**-22 * (abs(end) + 2.0**-20) for end, side in zip(ends, (-1, 1), strict=True))
        least, most = np.maximum(least, -0.5000001), np.minimum(most, 1.5000001)
        return Piece(-math.inf, -3.0, 0.0, 0.0), Piece(-3.0, 3.0, least, most), Piece(3.0, math.inf, 1.0, 1.0000001)

    def between(self, low: FloatArray, high: FloatArray) -> Ends:
        """Values at the ends and at the minimum."""
        return Curved.between(self, low, high)

    def rounding(self, values: Sequence[FloatArray], result: FloatArray, unit: float) -> FloatArray | float:
        """1/6 in single precision; a library may add x^2/6 and x/2, of sizes up to 3 where the result is not 0."""
        del values
        return (8 * unit + 2.0**-23) * (abs(result) + 3)
