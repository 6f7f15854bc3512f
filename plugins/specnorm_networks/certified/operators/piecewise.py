"""Piecewise linear functions of each entry: slopes, values and lines by their pieces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, NamedTuple, TypeAlias

import numpy as np

from specnorm.certified import host
from specnorm_networks.certified.operators.base import Ends, FloatArray, NoBoundError, Place
from specnorm_networks.certified.operators.curvature import Curved, Extent, Line
from specnorm_networks.certified.operators.executed import EXACT, Executed, Format

Numbers: TypeAlias = float | FloatArray


class Piece(NamedTuple):
    """Where a piece begins and ends, its smallest and largest slope, and what is added: ``slope x + shift``."""

    start: float
    end: float
    least: Numbers
    most: Numbers
    shift: float = 0.0

    def met(self, low: FloatArray, high: FloatArray) -> FloatArray:
        """Whether intervals reach into it: one that touches it in one point has no quotient of it, a point may have."""
        if not self.start < self.end:
            return np.zeros(low.shape, np.bool_)
        inner = (low < self.end) & (high > self.start)
        return np.asarray(inner | ((low == high) & (low >= self.start) & (high <= self.end)))


class Piecewise(Curved):
    """A continuous function, made of lines."""

    def pieces(self, low: FloatArray, high: FloatArray) -> tuple[Piece, ...]:
        """Its lines, in order, as intervals see them; an empty tuple: it has jumps."""
        raise NotImplementedError

    def extent(self) -> Extent | None:
        whole = np.array(-math.inf), np.array(math.inf)
        slopes = [slope for p in self.pieces(*whole) if p.start < p.end for slope in (p.least, p.most)]
        if not slopes or not all(np.isfinite(slope).all() for slope in slopes):
            return None
        known = [np.asarray(slope) for slope in slopes if np.size(slope)]
        return (float(min(map(np.min, known))), float(max(map(np.max, known)))) if known else (0.0, 0.0)

    def slopes(self, low: FloatArray, high: FloatArray) -> Ends | None:
        if self.extent() is None:
            return None
        least, most = np.full(low.shape, math.inf), np.full(low.shape, -math.inf)
        for piece in self.pieces(low, high):
            met = piece.met(low, high)
            least = np.where(met, np.minimum(least, piece.least), least)
            most = np.where(met, np.maximum(most, piece.most), most)
        return least, most

    def between(self, low: FloatArray, high: FloatArray) -> Ends:
        # Values at both ends of each piece, each product and sum rounded outward.
        if self.extent() is None:
            return np.full(low.shape, -math.inf), np.full(high.shape, math.inf)
        down, up = np.full(low.shape, math.inf), np.full(low.shape, -math.inf)
        with np.errstate(all="ignore"):
            for piece in self.pieces(low, high):
                met = (low <= piece.end) & (high >= piece.start)
                for end in (np.maximum(low, piece.start), np.minimum(high, piece.end)):
                    for slope in (piece.least, piece.most):
                        down = np.where(met, np.minimum(down, _below(slope, end, piece.shift)), down)
                        up = np.where(met, np.maximum(up, -_below(np.negative(slope), end, -piece.shift)), up)
        return np.maximum(down, self.limits[0]), np.minimum(up, self.limits[1])

    def breaks(self, low: FloatArray, high: FloatArray) -> FloatArray:
        # Its kinks.
        kinks = sorted({end for piece in self.pieces(low, high) for end in piece[:2] if math.isfinite(end)})
        return np.stack([low, *(np.clip(kink, low, high) for kink in kinks), high])

    def affine(self, low: FloatArray, high: FloatArray) -> Line | None:
        # Exact where an interval meets one piece alone.
        if self.extent() is None:
            return None
        slope, middle, half = self.bent(low, high)
        finite = np.isfinite(low) & np.isfinite(high)
        pieces = self.pieces(low, high)
        met = [piece.met(low, high) for piece in pieces]
        count = np.sum(met, axis=0)
        for piece, here in zip(pieces, met, strict=True):
            exact = finite & here & (count == 1) & np.equal(piece.least, piece.most)
            slope, half = np.where(exact, piece.least, slope), np.where(exact, 0.0, half)
            middle = np.where(exact, piece.shift, middle)
        return slope, middle, half

    def bent(self, low: FloatArray, high: FloatArray) -> Line:
        """Line for intervals that meet several pieces."""
        found = super().affine(low, high)
        assert found is not None  # for the type checker: curved functions have one
        return found


def _below(slope: Numbers, x: FloatArray, shift: float) -> FloatArray:
    """``slope x + shift``, rounded down; where it is not known, -infinity."""
    product = np.where(np.equal(slope, 0), 0.0, slope * x)
    exact = np.equal(slope, 0) | np.equal(np.abs(slope), 1) | (x == 0)
    product = np.where(exact, product, host.next_down(product))
    total = np.where(product == 0, shift, product if shift == 0 else host.next_down(product + shift))
    return np.where(np.isnan(total), -math.inf, total)


# -- two slopes, with the kink at 0 --------------------------------------------------------------------------------
class Kinked(Piecewise):
    """One slope below 0 and one above, numbers or one an entry."""

    both: ClassVar[tuple[float, float]]
    """`sides`, where they depend on no field."""

    def sides(self) -> tuple[Numbers, Numbers]:
        """Both slopes."""
        return self.both

    def slack(self) -> float:
        """By how much the slopes may differ from those, relatively."""
        return 0.0

    def value(self, x: FloatArray) -> FloatArray:
        below, above = self.sides()
        return np.where(x > 0, above * x, below * x)

    def pieces(self, low: FloatArray, high: FloatArray) -> tuple[Piece, ...]:
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
            most = np.where(crossing, host.inflate(most, 4) + 2.0**-1000, 0.0)
            apart = above - below
            plain = np.equal(below, 0) & np.equal(above, 1) & (self.slack() == 0)
            slope = np.where(plain, chord, below + apart * chord)
            middle, half = apart * most / 2, np.abs(apart) * most / 2
            # The slope takes three roundings, and those of both sides are known up to the slack.
            size = (np.abs(below) + np.abs(above)) * np.maximum(abs(low), abs(high))
            lost = np.where(plain, 0.0, size * (2.0**-48 + self.slack()) + 2.0**-1000)
            half = np.where(plain, half, host.inflate(half + lost, 8))
        finite = finite & np.isfinite(slope) & np.isfinite(middle) & np.isfinite(half)
        return np.where(finite, slope, 0.0), np.where(finite, middle, 0.0), np.where(finite, half, math.inf)

    def rounding(self, values: Sequence[FloatArray], result: FloatArray, unit: float) -> FloatArray | float:
        # A slope that was rounded, and its product.
        plain = all(np.isin(side, (-1.0, 0.0, 1.0)).all() for side in self.sides())
        return 0.0 if plain and not self.slack() else (4 * unit + self.slack()) * abs(result)

    def executed(self, place: Place, format: Format) -> Executed:
        sides = np.concatenate([np.ravel(np.asarray(side, dtype=np.float64)) for side in self.sides()])
        if np.isin(sides, (-1.0, 0.0, 1.0)).all():
            return EXACT
        if self.slack() or not format.scales(sides):
            raise NoBoundError(f"its slopes are computed, or beyond the normal numbers of {format.name}")
        # The slope, and the product.
        return Executed(stores=3)

    def _around(self, side: Numbers) -> tuple[Numbers, Numbers]:
        slack = self.slack()
        if not slack:
            return side, side
        lost = host.next_up(np.abs(side) * slack)
        return host.next_down(side - lost), host.next_up(side + lost)


class ReLU(Kinked):
    """max(x, 0)."""

    both = (0.0, 1.0)

    def value(self, x: FloatArray) -> FloatArray:
        return np.maximum(x, 0.0)


class Abs(Kinked):
    """|x|."""

    both = (-1.0, 1.0)


class Negative(Kinked):
    """-x."""

    both = (-1.0, -1.0)


class LeakyReLU(Kinked):
    """x above 0, ``alpha x`` below."""

    alpha: float = 0.01

    def sides(self) -> tuple[Numbers, Numbers]:
        return self.alpha, 1.0


class PReLU(Kinked):
    """x above 0, ``slope x`` below, one slope an entry."""

    slopes_below: FloatArray
    """float64, broadcasting against the value without making it larger."""

    def sides(self) -> tuple[Numbers, Numbers]:
        return self.slopes_below, 1.0


class TwoSlopes(Kinked):
    """``below x`` where x <= 0, ``above x`` elsewhere: a leaky ReLU written out, one pair of slopes an entry."""

    below: FloatArray
    above: FloatArray
    """float64, broadcasting against the value without making it larger, as ``below``."""
    roundings: int = 0
    """Made in computing both."""

    def sides(self) -> tuple[Numbers, Numbers]:
        return self.below, self.above

    def slack(self) -> float:
        return (self.roundings + 2) * 2.0**-52 if self.roundings else 0.0


# -- other pieces --------------------------------------------------------------------------------------------------
class HardTanh(Piecewise):
    """x between two numbers, the nearer of them outside; infinite ones are no limit."""

    low: float = -1.0
    high: float = 1.0

    def value(self, x: FloatArray) -> FloatArray:
        return np.minimum(np.maximum(x, self.low), self.high)

    def pieces(self, low: FloatArray, high: FloatArray) -> tuple[Piece, ...]:
        # None where the limits are in the wrong order.
        if not self.low <= self.high or self.low == math.inf or self.high == -math.inf:
            return ()
        limits = Piece(-math.inf, self.low, 0.0, 0.0, self.low), Piece(self.high, math.inf, 0.0, 0.0, self.high)
        # An infinite limit is nowhere reached.
        return tuple(p for p in (limits[0], Piece(self.low, self.high, 1.0, 1.0), limits[1]) if p.start < p.end)

    def rounding(self, values: Sequence[FloatArray], result: FloatArray, unit: float) -> FloatArray | float:
        # The limits are rounded.
        return np.where(np.isin(result, (self.low, self.high)), 2 * unit * abs(result), 0.0)

    def executed(self, place: Place, format: Format) -> Executed:
        if not (self.low <= self.high and format.holds(self.low) and format.holds(self.high)):
            raise NoBoundError(f"its limits {self.low!r} and {self.high!r} are no numbers of {format.name}")
        return EXACT


class HardSigmoid(Piecewise):
    """``alpha x + beta`` between 0 and 1."""

    limits = (0.0, 1.0)
    alpha: float = 0.2
    beta: float = 0.5
    slack: float = 0.0
    """By how much a library's alpha may be larger, relatively (torch multiplies by 1/6 in single precision)."""

    def value(self, x: FloatArray) -> FloatArray:
        return np.clip((np.zeros(x.shape) if self.alpha == 0 else self.alpha * x) + self.beta, 0.0, 1.0)

    def off(self, x: FloatArray, value: FloatArray) -> FloatArray:
        return super().off(x, value) + self._lost(self.slack + 2.0**-50)

    def pieces(self, low: FloatArray, high: FloatArray) -> tuple[Piece, ...]:
        # Pieces overlap where kinks are known up to rounding and slack.
        if not (math.isfinite(self.alpha) and math.isfinite(self.beta) and 0 <= self.slack < 1):
            return ()
        if self.alpha == 0:
            return (Piece(-math.inf, math.inf, 0.0, 0.0, min(max(self.beta, 0.0), 1.0)),)
        ends = [(end - self.beta, end) for end in (0.0, 1.0)]
        (one, first), (two, last) = sorted((apart / self.alpha, end) for apart, end in ends)
        near, far = (abs(kink) * (2 * self.slack + 2.0**-48) + 2.0**-1000 for kink in (one, two))
        slopes = sorted([self.alpha, self.alpha * (1 + self.slack)])
        if self.slack:
            slopes = [host.next_down(slopes[0]), host.next_up(slopes[1])]
        return (
            Piece(-math.inf, one + near, 0.0, 0.0, first),
            Piece(one - near, two + far, slopes[0], slopes[1], self.beta),
            Piece(two - far, math.inf, 0.0, 0.0, last),
        )

    def rounding(self, values: Sequence[FloatArray], result: FloatArray, unit: float) -> FloatArray | float:
        return self._lost(self.slack + 4 * unit)

    def _lost(self, relative: float) -> float:
        """Of alpha x and beta while their sum is between 0 and 1, so that ``|alpha x| <= 1 + |beta|``."""
        return relative * (2 + 2 * abs(self.beta))


class Threshold(Piecewise):
    """x above ``threshold``, else ``value_below``: without a jump where both are equal."""

    threshold: float
    value_below: float

    def value(self, x: FloatArray) -> FloatArray:
        return np.where(x > self.threshold, x, self.value_below)

    def pieces(self, low: FloatArray, high: FloatArray) -> tuple[Piece, ...]:
        kink = self.threshold
        if kink != self.value_below or not math.isfinite(kink):
            return ()
        return Piece(-math.inf, kink, 0.0, 0.0, kink), Piece(kink, math.inf, 1.0, 1.0)

    def rounding(self, values: Sequence[FloatArray], result: FloatArray, unit: float) -> FloatArray | float:
        # Both numbers are rounded: next to the threshold either may be meant.
        (x,) = values
        beside = abs(x - self.threshold) <= 2 * unit * abs(self.threshold)
        constant = np.where(x > self.threshold, 0.0, 2 * unit * abs(result))
        return constant + np.where(beside, abs(x - self.value_below), 0.0)


class SoftShrink(Piecewise):
    """x moved towards 0 by ``lambd``, 0 where it is nearer; a negative ``lambd`` makes it jump."""

    lambd: float = 0.5

    def value(self, x: FloatArray) -> FloatArray:
        return np.where(x > self.lambd, x - self.lambd, np.where(x < -self.lambd, x + self.lambd, 0.0))

    def pieces(self, low: FloatArray, high: FloatArray) -> tuple[Piece, ...]:
        kink = self.lambd
        if not 0 <= kink < math.inf:
            return ()
        outside = Piece(-math.inf, -kink, 1.0, 1.0, kink), Piece(kink, math.inf, 1.0, 1.0, -kink)
        return outside[0], Piece(-kink, kink, 0.0, 0.0), outside[1]

    def rounding(self, values: Sequence[FloatArray], result: FloatArray, unit: float) -> FloatArray | float:
        return 4 * unit * (abs(result) + abs(self.lambd))


SIXTH = 0.16666668
"""1/6 in single precision, rounded up."""
SINGLE = 2.0**-22
"""By how much a number in single precision may be off, relatively: four times as much as it is."""


class HardSwish(Piecewise):
    """``x min(max(x + 3, 0), 6) / 6``; libraries have 1/6 in single precision.

    Between -3 and 3 the slope (2x + 3) / 6 rises; where 1/6 is in single precision, it is larger by 3e-8 of itself.
    """

    whole = (-0.5000001, 1.5000001)
    limits = (-0.3750001, math.inf)
    bends = (((-1.5, -1.5), (-0.3750001, -0.375)),)

    def extent(self) -> Extent | None:
        return self.whole

    def value(self, x: FloatArray) -> FloatArray:
        return np.where(x <= -3, 0.0, np.where(x >= 3, x, x * (x + 3) / 6))

    def off(self, x: FloatArray, value: FloatArray) -> FloatArray:
        return np.asarray(super().off(x, value) + 2.0**-23 * abs(value))

    def pieces(self, low: FloatArray, high: FloatArray) -> tuple[Piece, ...]:
        # The parabola has the slopes at the ends of an interval.
        ends = [(2 * np.clip(end, -3.0, 3.0) + 3) / 6 for end in (low, high)]
        least, most = (end + side * 2.0**-22 * (abs(end) + 2.0**-20) for end, side in zip(ends, (-1, 1), strict=True))
        least, most = np.maximum(least, -0.5000001), np.minimum(most, 1.5000001)
        return Piece(-math.inf, -3.0, 0.0, 0.0), Piece(-3.0, 3.0, least, most), Piece(3.0, math.inf, 1.0, 6 * SIXTH)

    def breaks(self, low: FloatArray, high: FloatArray) -> FloatArray:
        return Curved.breaks(self, low, high)  # the parabola

    def between(self, low: FloatArray, high: FloatArray) -> Ends:
        return Curved.between(self, low, high)

    def rounding(self, values: Sequence[FloatArray], result: FloatArray, unit: float) -> FloatArray | float:
        # A library may add x^2/6 and x/2, of sizes up to 3 where the result is not 0.
        return (8 * unit + 2.0**-23) * (abs(result) + 3)
