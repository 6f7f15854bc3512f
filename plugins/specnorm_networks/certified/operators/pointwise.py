"""Functions of each entry: values, slopes and lines on intervals; the tests prove their constants by ball arithmetic.

Smooth ones, `Turning`, are rows: value, derivative, where that turns, and limits. Piecewise linear ones state their
pieces. `Steep` ones have a constant on ranges alone: by the mean value theorem |f(x) - f(y)| <= sup |f'| |x - y|, the
supremum over the interval between x and y. The host's elementary functions are taken to be good to `CLOSE` of their
values, hundreds of units in the last place.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, TypeAlias

import numpy as np

from specnorm.proof import Interval, anything, enclosing, host, point
from specnorm_networks.certified.operators.base import Ends, FloatArray, Line, NoBoundError, Place, Pointwise
from specnorm_networks.certified.operators.formats import smallest

Extent: TypeAlias = tuple[float, float]
Turn: TypeAlias = tuple[Extent, Extent]
"""A place where a function turns: an interval that contains the place, and one that contains the value there."""
CLOSE = 2.0**-44
"""Error of a value, relatively, and absolutely where the value or its argument is less than 1."""
LOST = 2.0**-40
"""Error of a derivative that `Curve` computes."""
ROUNDINGS = 2**9
"""Roundings that stand for an exponential and a few operations on it: 2^-44 is 2^8 of them."""
TINY = 2.0**-1000
"""Bound of what underflow takes from a value."""
FAR = 700.0
"""Argument above which derivatives are within `LOST` of their limits; exp does not overflow up to it."""


class Curved(Pointwise):
    """A function whose `value` is computed up to `off`."""

    whole: ClassVar[Extent | None] = None
    """The `extent`, if it depends on no field."""
    limits: ClassVar[Extent] = (-math.inf, math.inf)
    """Numbers between which all values lie."""
    turns: ClassVar[tuple[Turn, ...]] = ()
    """All places where the function turns; between them it rises or falls."""
    units: ClassVar[int | None] = None
    """Relative roundings of other libraries, beside which the value may underflow; None: as of elementary functions."""

    def extent(self) -> Extent | None:
        return self.whole

    def off(self, x: FloatArray, value: FloatArray) -> FloatArray:
        """Bound the error of a value: the rounding of the function, and of its argument."""
        size = np.where(np.isfinite(x), abs(x), 0.0)
        return np.asarray(CLOSE * (1 + abs(value) + size))

    def between(self, low: FloatArray, high: FloatArray) -> Ends:
        # Values at the ends and at turns.
        with np.errstate(all="ignore"):
            ends = [self._near(end) for end in (low, high)]
            down = np.minimum(ends[0][0], ends[1][0])
            up = np.maximum(ends[0][1], ends[1][1])
            for (start, end), (least, most) in self.turns:
                met = (low <= end) & (high >= start)
                down = np.where(met, np.minimum(down, least), down)
                up = np.where(met, np.maximum(up, most), up)
        return np.maximum(down, self.limits[0]), np.minimum(up, self.limits[1])

    def rounding(
        self,
        values: Sequence[FloatArray],
        result: FloatArray,
        unit: float,
    ) -> FloatArray | float:
        if self.units is None:
            return super().rounding(values, result, unit)
        return np.asarray(self.units * unit * abs(result) + smallest(unit))

    def _near(self, x: FloatArray) -> Ends:
        value = np.asarray(self.value(x))
        off = self.off(x, value)
        # A value that overflows is not infinite.
        sure = np.isfinite(value) | (np.isinf(value) & np.isinf(x))
        down, up = (np.where(np.isinf(value), value, end) for end in (value - off, value + off))
        return np.where(sure, host.next_down(down), -math.inf), np.where(sure, host.next_up(up), math.inf)


@dataclass(frozen=True)
class Curve:
    """A derivative that turns a few times: on an interval without a turn it lies between its values at both ends.

    The tests prove by ball arithmetic that there are no other turns, and that values are good to ``lost``.
    """

    derivative: Callable[[FloatArray], FloatArray]
    """Computes it with an error of at most ``lost``."""
    lowest: tuple[Extent, ...] = ()
    highest: tuple[Extent, ...] = ()
    """Intervals that contain the places where the derivative is smallest or largest; it turns nowhere else."""
    far: float = FAR
    """Argument beyond which the derivative is within ``lost`` of its value there."""
    lost: float = LOST

    def slopes(self, extent: Extent, low: FloatArray, high: FloatArray) -> Ends:
        """Return smallest and largest derivative on intervals, rounded outward; everywhere it is in ``extent``."""
        with np.errstate(all="ignore"):
            ends = [self.derivative(np.clip(end, -self.far, self.far)) for end in (low, high)]
        down = host.next_down(np.minimum(*ends) - self.lost)
        up = host.next_up(np.maximum(*ends) + self.lost)
        for start, end in self.lowest:
            down = np.where((low <= end) & (high >= start), extent[0], down)
        for start, end in self.highest:
            up = np.where((low <= end) & (high >= start), extent[1], up)
        return np.maximum(down, extent[0]), np.minimum(up, extent[1])


class Turning(Curved):
    """A function with a `Curve`."""

    whole: ClassVar[Extent]
    curve: ClassVar[Curve]
    """Its derivative."""

    def slopes(self, low: FloatArray, high: FloatArray) -> Ends | None:
        return self.curve.slopes(self.whole, low, high)


def sigmoid(x: FloatArray) -> FloatArray:
    """Return the sigmoid, by exp(-|x|), which does not overflow."""
    small = np.exp(-abs(x))
    return np.asarray(np.where(x >= 0, 1.0, small) / (1 + small))


erf = np.vectorize(math.erf, otypes=[np.float64])
"""The host's own; NumPy has none."""
erfc = np.vectorize(math.erfc, otypes=[np.float64])


Numbers: TypeAlias = float | FloatArray


class Piece(NamedTuple):
    """A piece of a function: its ends, smallest and largest slope, and the shift of ``slope x + shift``."""

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
        least = np.full(low.shape, math.inf)
        most = np.full(low.shape, -math.inf)
        for piece in self.pieces(low, high):
            met = piece.met(low, high)
            least = np.where(met, np.minimum(least, piece.least), least)
            most = np.where(met, np.maximum(most, piece.most), most)
        return least, most

    def between(self, low: FloatArray, high: FloatArray) -> Ends:
        # Values at both ends of each piece, each product and sum rounded outward.
        if self.extent() is None:
            return np.full(low.shape, -math.inf), np.full(high.shape, math.inf)
        down = np.full(low.shape, math.inf)
        up = np.full(low.shape, -math.inf)
        with np.errstate(all="ignore"):
            for piece in self.pieces(low, high):
                met = (low <= piece.end) & (high >= piece.start)
                slopes = (piece.least,) if np.array_equal(piece.least, piece.most) else (piece.least, piece.most)
                for end in (np.maximum(low, piece.start), np.minimum(high, piece.end)):
                    for slope in slopes:
                        down = np.where(met, np.minimum(down, _below(slope, end, piece.shift)), down)
                        up = np.where(met, np.maximum(up, -_below(np.negative(slope), end, -piece.shift)), up)
        return np.maximum(down, self.limits[0]), np.minimum(up, self.limits[1])

    def breaks(self, low: FloatArray, high: FloatArray) -> FloatArray:
        # Its kinks.
        kinks = sorted({end for piece in self.pieces(low, high) for end in piece[:2] if math.isfinite(end)})
        return np.stack([low, *(np.clip(kink, low, high) for kink in kinks), high])

    def affine(self, low: FloatArray, high: FloatArray) -> Line:
        # Exact where an interval meets one piece alone.
        slope, middle, half = super().affine(low, high)
        finite = np.isfinite(low) & np.isfinite(high)
        pieces = self.pieces(low, high)
        met = [piece.met(low, high) for piece in pieces]
        count = np.sum(met, axis=0)
        for piece, here in zip(pieces, met, strict=True):
            exact = finite & here & (count == 1) & np.equal(piece.least, piece.most)
            slope = np.where(exact, piece.least, slope)
            half = np.where(exact, 0.0, half)
            middle = np.where(exact, piece.shift, middle)
        return slope, middle, half


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
    """The slopes, if they depend on no field."""

    def sides(self) -> tuple[Numbers, Numbers]:
        """Return the slope below 0 and the slope above 0."""
        return self.both

    def slack(self) -> float:
        """Return the relative error of the slopes."""
        return 0.0

    def value(self, x: FloatArray) -> FloatArray:
        below, above = self.sides()
        return np.where(x > 0, above * x, below * x)

    def pieces(self, low: FloatArray, high: FloatArray) -> tuple[Piece, ...]:
        below, above = (self._around(side) for side in self.sides())
        return Piece(-math.inf, 0.0, *below), Piece(0.0, math.inf, *above)

    def rounding(
        self,
        values: Sequence[FloatArray],
        result: FloatArray,
        unit: float,
    ) -> FloatArray | float:
        # A slope that was rounded, and its product.
        plain = all(np.isin(side, (-1.0, 0.0, 1.0)).all() for side in self.sides())
        return 0.0 if plain and not self.slack() else (4 * unit + self.slack()) * abs(result)

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
    """``above x`` above 0, ``alpha x`` below: of numbers, or of one pair of slopes an entry."""

    alpha: Numbers = 0.01
    """A number, or float64, broadcasting against the value without making it larger, as ``above``."""
    above: Numbers = 1.0
    roundings: int = 0
    """Roundings in computing both slopes."""

    def sides(self) -> tuple[Numbers, Numbers]:
        return self.alpha, self.above

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

    def rounding(
        self,
        values: Sequence[FloatArray],
        result: FloatArray,
        unit: float,
    ) -> FloatArray | float:
        # The limits are rounded.
        return np.where(np.isin(result, (self.low, self.high)), 2 * unit * abs(result), 0.0)


class SoftShrink(Piecewise):
    """x nearer to 0 by ``edge``, 0 where it is nearer than that."""

    edge: float = 0.5

    def value(self, x: FloatArray) -> FloatArray:
        shrunk: FloatArray = np.sign(x) * np.maximum(abs(x) - self.edge, 0.0)
        return shrunk

    def pieces(self, low: FloatArray, high: FloatArray) -> tuple[Piece, ...]:
        if not 0 <= self.edge < math.inf:
            return ()
        return (
            Piece(-math.inf, -self.edge, 1.0, 1.0, self.edge),
            Piece(-self.edge, self.edge, 0.0, 0.0),
            Piece(self.edge, math.inf, 1.0, 1.0, -self.edge),
        )

    def rounding(
        self,
        values: Sequence[FloatArray],
        result: FloatArray,
        unit: float,
    ) -> FloatArray | float:
        # The edge is rounded, and the difference.
        return np.asarray(2 * unit * (abs(result) + self.edge))


# -- derivatives that turn at 0 or nowhere --------------------------------------------------------------------------
AT_0 = ((0.0, 0.0),)


def _bell(x: FloatArray) -> FloatArray:
    small = np.exp(-abs(x))
    return np.asarray(small / (1 + small) ** 2)


class Sigmoid(Turning):
    """1 / (1 + exp(-x)), of slope s (1 - s)."""

    whole = (0.0, 0.25)
    curve = Curve(_bell, (), AT_0)
    limits = (0.0, 1.0)

    def value(self, x: FloatArray) -> FloatArray:
        return sigmoid(x)


class Tanh(Turning):
    """2 sigmoid(2 x) - 1, of slope 1 - tanh^2."""

    whole = (0.0, 1.0)
    curve = Curve(lambda x: 4 * _bell(2 * x), (), AT_0)
    limits = (-1.0, 1.0)

    def value(self, x: FloatArray) -> FloatArray:
        return np.tanh(x)


class Softsign(Turning):
    """``x / (1 + |x|)``."""

    whole = (0.0, 1.0)
    curve = Curve(lambda x: 1 / np.square(1 + abs(x)), (), AT_0, math.inf)
    limits = (-1.0, 1.0)

    def value(self, x: FloatArray) -> FloatArray:
        return np.where(np.isinf(x), np.sign(x), x / (1 + abs(x)))


class Arctan(Turning):
    """The inverse of the tangent."""

    whole = (0.0, 1.0)
    curve = Curve(lambda x: 1 / (1 + np.square(x)), (), AT_0, math.inf)
    limits = (-1.5707963267948968, 1.5707963267948968)  # half of pi, rounded up

    def value(self, x: FloatArray) -> FloatArray:
        return np.arctan(x)


class Erf(Turning):
    """The error function."""

    whole = (0.0, 1.1283791670955128)  # 2 / sqrt(pi) at 0
    curve = Curve(lambda x: 2 / math.sqrt(math.pi) * np.exp(-np.square(x)), (), AT_0)
    limits = (-1.0, 1.0)

    def value(self, x: FloatArray) -> FloatArray:
        return np.asarray(erf(x))


class Softplus(Turning):
    """``log(1 + exp(x))``, of slope sigmoid(x)."""

    whole = (0.0, 1.0)
    curve = Curve(sigmoid)
    limits = (0.0, math.inf)

    def value(self, x: FloatArray) -> FloatArray:
        return np.logaddexp(0.0, x)

    def rounding(
        self,
        values: Sequence[FloatArray],
        result: FloatArray,
        unit: float,
    ) -> FloatArray | float:
        # From 20 on a library may give x itself, which is less by log(1 + exp(-x)).
        (x,) = values
        return super().rounding(values, result, unit) + np.where(x > 20 - 1e-4, 1.001 * np.exp(-abs(x)), 0.0)


# -- exponentials below 0 ------------------------------------------------------------------------------------------
class ELU(Curved):
    """x above 0, ``alpha (exp(x) - 1)`` below."""

    turns = (((0.0, 0.0), (0.0, 0.0)),)  # slopes may change their sign
    alpha: float = 1.0

    def value(self, x: FloatArray) -> FloatArray:
        return np.where(x > 0, x, self.alpha * np.expm1(np.minimum(x, 0.0)))

    def extent(self) -> Extent | None:
        return (min(0.0, self.alpha), max(1.0, self.alpha)) if math.isfinite(self.alpha) else None

    def slopes(self, low: FloatArray, high: FloatArray) -> Ends | None:
        """Below 0 the exponential, which rises: an error of its argument a u makes at most one of a exp(a) u < u."""
        if not math.isfinite(self.alpha):
            return None
        least, most = (np.exp(np.minimum(end, 0.0)) for end in (low, high))
        least = np.maximum(host.next_down(least - LOST), 0.0)
        most = np.minimum(host.next_up(most + LOST), 1.0)
        ends = enclosing((least, most)).scaled(self.alpha).ends
        down = np.maximum(ends[0], min(0.0, self.alpha))
        up = np.minimum(ends[1], max(0.0, self.alpha))
        falls = (low < 0) | (high <= 0)
        rises = (high > 0) | (low >= 0)
        down = np.where(falls, np.where(rises, np.minimum(down, 1.0), down), 1.0)
        return down, np.where(falls, np.where(rises, np.maximum(up, 1.0), up), 1.0)

    def rounding(
        self,
        values: Sequence[FloatArray],
        result: FloatArray,
        unit: float,
    ) -> FloatArray | float:
        """Elementary functions; a library may compute exp(x) - 1 by a difference."""
        return super().rounding(values, result, unit) + np.where(values[0] < 0, 16 * unit * abs(self.alpha), 0.0)


# -- waves ---------------------------------------------------------------------------------------------------------
FARTHEST = 2.0**20
"""Beyond, waves are of every slope and value on every interval."""


class Wave(Curved):
    """A sine or cosine: ``sin(x + lead quarter turns)``."""

    whole = (-1.0, 1.0)
    limits = (-1.0, 1.0)
    lead: ClassVar[int]

    def slopes(self, low: FloatArray, high: FloatArray) -> Ends | None:
        return _wave_on(low, high, self.lead + 1)

    def between(self, low: FloatArray, high: FloatArray) -> Ends:
        return _wave_on(low, high, self.lead)


def _wave_on(low: FloatArray, high: FloatArray, lead: int) -> Ends:
    """Values of ``sin(x + lead quarter turns)`` on intervals: those at both ends, and 1 and -1 where it turns."""
    near = (abs(low) <= FARTHEST) & (abs(high) <= FARTHEST)
    one = np.where(near, low, 0.0)
    other = np.where(near, high, 0.0)
    function = (np.sin, np.cos, lambda x: -np.sin(x), lambda x: -np.cos(x))[lead % 4]
    ends = function(one), function(other)
    down = host.next_down(np.minimum(*ends) - CLOSE)
    up = host.next_up(np.maximum(*ends) + CLOSE)
    for at, extreme in ((1, 1.0), (3, -1.0)):
        # It turns after so many quarter turns from 0, and whole turns besides; a place may be off by 2**-28 turns.
        first, last = (end / (2 * math.pi) - (at - lead) / 4 for end in (one, other))
        met = np.floor(last + LOST * FARTHEST) >= np.ceil(first - LOST * FARTHEST)
        down = np.where(met & (extreme < 0), extreme, down)
        up = np.where(met & (extreme > 0), extreme, up)
    return np.where(near, np.maximum(down, -1.0), -1.0), np.where(near, np.minimum(up, 1.0), 1.0)


class Sin(Wave):
    """The sine."""

    lead = 0

    def value(self, x: FloatArray) -> FloatArray:
        return np.sin(x)


class Cos(Wave):
    """The cosine."""

    lead = 1

    def value(self, x: FloatArray) -> FloatArray:
        return np.cos(x)


def _odd(above: Callable[[FloatArray], FloatArray]) -> Callable[[FloatArray], FloatArray]:
    """A derivative with ``f'(x) + f'(-x) = 1``, from its values above 0, where nothing cancels."""

    def derivative(x: FloatArray) -> FloatArray:
        found = above(abs(x))
        return np.where(x < 0, 1 - found, found)

    return derivative


def _silu(x: FloatArray) -> FloatArray:
    small = np.exp(-x)
    return np.asarray(1 / (1 + small) + x * small / (1 + small) ** 2)


def _gelu(x: FloatArray) -> FloatArray:
    bell = np.exp(-0.5 * np.square(x)) / math.sqrt(2 * math.pi)
    return np.asarray(0.5 * (1 + erf(x / math.sqrt(2))) + x * bell)


def _gelu_tanh(x: FloatArray) -> FloatArray:
    scale = math.sqrt(2 / math.pi)
    small = np.exp(-2 * scale * x * (1 + 0.044715 * np.square(x)))
    steep = 2 * scale * (1 + 3 * 0.044715 * np.square(x)) * x
    return np.asarray(1 / (1 + small) + steep * small / (1 + small) ** 2)


def _mish(x: FloatArray) -> FloatArray:
    """``t + x t'`` with t = tanh(log(1 + e^x)), by powers of e^-|x|."""
    small = np.exp(-abs(x))
    left = small * (2 + small)
    right = 1 + 2 * small
    below = left + 2
    above = right + 2 * small**2
    t = np.where(x < 0, left / below, right / above)
    steep = 4 * (1 + small) * np.where(x < 0, small / below**2, (small / above) ** 2)
    return np.asarray(t + x * steep)


def _hard_swish(x: FloatArray) -> FloatArray:
    return np.where(x < -3, 0.0, np.where(x > 3, 1.0, (2 * x + 3) / 6))


class Gated(Turning):
    """x times a number between 0 and 1."""

    def gate(self, x: FloatArray) -> FloatArray:
        """The number."""
        raise NotImplementedError

    def value(self, x: FloatArray) -> FloatArray:
        """The product; 0 where the gate is 0, for infinite x, too."""
        gate = self.gate(x)
        return np.where(gate == 0, 0.0, x * gate)

    def between(self, low: FloatArray, high: FloatArray) -> Ends:
        down, up = super().between(low, high)
        return np.maximum(down, np.minimum(low, 0.0)), np.minimum(up, np.maximum(high, 0.0))


class GELU(Gated):
    """``x Phi(x)``, Phi the distribution of a normal number."""

    whole = (-0.12892, 1.12892)  # Phi(x) + x phi(x) at the root of 2; slopes at x and at -x have the sum 1
    curve = Curve(_odd(_gelu), ((-1.41422, -1.41421),), ((1.41421, 1.41422),))
    turns = (((-0.75180, -0.75179), (-0.169971208, -0.169971207)),)

    def gate(self, x: FloatArray) -> FloatArray:
        return np.asarray(0.5 * erfc(-x / math.sqrt(2)))


class TanhGELU(Gated):
    """Its form by tanh: (1 + tanh(y / 2)) / 2 = sigmoid(y)."""

    whole = (-0.12900, 1.12900)
    curve = Curve(_odd(_gelu_tanh), ((-1.4186, -1.4185),), ((1.4185, 1.4186),))
    turns = (((-0.75247, -0.75246), (-0.170040751, -0.170040750)),)

    def gate(self, x: FloatArray) -> FloatArray:
        return sigmoid(2 * math.sqrt(2 / math.pi) * x * (1 + 0.044715 * x * x))


class Mish(Gated):
    """``x tanh(softplus(x))``."""

    whole = (-0.11253, 1.08851)  # at -2.2564 and 1.4906
    curve = Curve(_mish, ((-2.2564, -2.2563),), ((1.4905, 1.4906),))
    turns = (((-1.19244, -1.19243), (-0.308843414, -0.308843413)),)

    def gate(self, x: FloatArray) -> FloatArray:
        return np.tanh(np.logaddexp(0.0, x))


class SiLU(Gated):
    """``x sigmoid(x)``."""

    whole = (-0.09985, 1.09985)  # s (1 + x (1 - s)) at 2.3994; slopes at x and at -x have the sum 1
    curve = Curve(_odd(_silu), ((-2.39936, -2.39935),), ((2.39935, 2.39936),))  # x tanh(x / 2) = 2
    turns = (((-1.27847, -1.27846), (-0.278464543, -0.278464542)),)

    def gate(self, x: FloatArray) -> FloatArray:
        return sigmoid(x)


class HardSwish(Turning):
    """``x min(max(x + 3, 0), 6) / 6``; libraries have 1/6 in single precision, which is larger by 3e-8 of itself.

    Between -3 and 3 the slope (2x + 3) / 6 rises, from -1/2 to 3/2; at both, or 1e-7 before, it jumps.
    """

    whole = (-0.5000001, 1.5000001)
    curve = Curve(_hard_swish, ((-3.0, -3.0),), ((3.0, 3.0),), math.inf, 2.0**-23)
    limits = (-0.3750001, math.inf)
    turns = (((-1.5, -1.5), (-0.3750001, -0.375)),)

    def value(self, x: FloatArray) -> FloatArray:
        return np.where(x <= -3, 0.0, np.where(x >= 3, x, x * (x + 3) / 6))

    def slopes(self, low: FloatArray, high: FloatArray) -> Ends | None:
        return super().slopes(low - 2.0**-23, high + 2.0**-23)

    def off(self, x: FloatArray, value: FloatArray) -> FloatArray:
        return np.asarray(super().off(x, value) + 2.0**-23 * abs(value))

    def rounding(
        self,
        values: Sequence[FloatArray],
        result: FloatArray,
        unit: float,
    ) -> FloatArray | float:
        # A library may add x^2/6 and x/2, of sizes up to 3 where the result is not 0.
        return (8 * unit + 2.0**-23) * (abs(result) + 3)


HINT = (
    "box of inputs it may have one: specnorm_networks.within(graph, low, high) or --input-range states one, radius= a "
    "ball"
)


def hint(ranges: Sequence[Interval | None]) -> str:
    """Return the advice for a missing constant: to give a box; if all inputs lie in one, a narrower one."""
    bounded = bool(ranges) and all(x is not None and np.isfinite(x.magnitude()).all() for x in ranges)
    return f"on a {'narrower ' * bounded}{HINT}"


class Steep(Curved):
    """A function whose slope is bounded on ranges alone."""

    positive: ClassVar[bool] = False
    """Whether it is defined above 0 alone."""

    def derivative(self, x: Interval) -> Interval:
        """On intervals; infinite where there is none."""
        raise NotImplementedError

    def slopes(self, low: FloatArray, high: FloatArray) -> Ends | None:
        """Return smallest and largest slopes on intervals, rounded outward; None if an entry has none."""
        if self.positive and not (low > 0).all():
            return None
        with np.errstate(all="ignore"):
            found = self.derivative(enclosing((low, high)))
        return found.ends if np.isfinite(found.ends).all() else None

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


class Exp(Steep):
    """exp."""

    limits = (0.0, math.inf)

    def value(self, x: FloatArray) -> FloatArray:
        return np.exp(x)

    def derivative(self, x: Interval) -> Interval:
        """exp, which rises."""
        down = np.exp(x.low)
        up = host.inflate(np.exp(x.high), ROUNDINGS) + TINY
        down = down - host.inflate(down, ROUNDINGS) * (4 * ROUNDINGS * 2.0**-52) - TINY
        return enclosing((np.where(down > 0, down, 0.0), up))

    def between(self, low: FloatArray, high: FloatArray) -> Ends:
        with np.errstate(all="ignore"):
            down, up = self.derivative(enclosing((low, high))).ends
        # What overflows is not infinite.
        return np.maximum(down, 0.0), up


class Log(Steep):
    """The natural logarithm."""

    positive = True

    def value(self, x: FloatArray) -> FloatArray:
        return np.log(x)

    def derivative(self, x: Interval) -> Interval:
        return x.inverse()

    def rounding(
        self,
        values: Sequence[FloatArray],
        result: FloatArray,
        unit: float,
    ) -> FloatArray | float:
        """Sixteen units of the value, or of 1 where that is more."""
        return 16 * unit * (1 + abs(result))


class Power(Steep):
    """Whole powers, from 1 on."""

    exponent: int

    def value(self, x: FloatArray) -> FloatArray:
        return np.asarray(x**self.exponent)

    def derivative(self, x: Interval) -> Interval:
        """``n x^(n-1)``."""
        return _power(x, self.exponent - 1).scaled(float(self.exponent))

    def between(self, low: FloatArray, high: FloatArray) -> Ends:
        return _power(enclosing((low, high)), self.exponent).ends

    def rounding(
        self,
        values: Sequence[FloatArray],
        result: FloatArray,
        unit: float,
    ) -> FloatArray | float:
        return (16 + self.exponent) * unit * abs(result) + smallest(unit)


def _power(x: Interval, exponent: int) -> Interval:
    """Whole powers, from 0: of both ends, and 0 where an even one has its least; of others nothing is known."""
    if not 0 <= exponent == int(exponent):
        return anything(x.shape)
    if exponent < 2:
        return x if exponent else point(np.ones(x.shape))
    one, other = (functools.reduce(operator.mul, [point(end)] * exponent) for end in x.ends)
    low = np.minimum(one.low, other.low)
    high = np.maximum(one.high, other.high)
    return enclosing((np.where(x.mignitude() == 0, 0.0, np.maximum(low, 0.0)) if exponent % 2 == 0 else low, high))


class Sqrt(Steep):
    """The root."""

    units = 4
    positive = True

    def value(self, x: FloatArray) -> FloatArray:
        return np.sqrt(x)

    def derivative(self, x: Interval) -> Interval:
        return x.root().scaled(2.0).inverse()

    def between(self, low: FloatArray, high: FloatArray) -> Ends:
        return enclosing((low, high)).root().ends


class Rsqrt(Steep):
    """One over the root."""

    units = 8
    positive = True
    limits = (0.0, math.inf)

    def value(self, x: FloatArray) -> FloatArray:
        return np.asarray(1 / np.sqrt(x))

    def derivative(self, x: Interval) -> Interval:
        return -(x * x.root()).scaled(2.0).inverse()

    def between(self, low: FloatArray, high: FloatArray) -> Ends:
        down, up = enclosing((low, high)).root().inverse().ends
        return np.maximum(down, 0.0), up


class Reciprocal(Steep):
    """``scale / x``."""

    units = 4
    scale: float = 1.0

    def value(self, x: FloatArray) -> FloatArray:
        return np.asarray(self.scale / x)

    def derivative(self, x: Interval) -> Interval:
        return (x * x).inverse().scaled(-self.scale)

    def between(self, low: FloatArray, high: FloatArray) -> Ends:
        return enclosing((low, high)).inverse().scaled(self.scale).ends


class Multiple(Pointwise):
    """``outer * function(inner * x)``: functions that are written out with factors, of which none is 0."""

    function: Pointwise
    outer: float = 1.0
    inner: float = 1.0
    roundings: int = 0
    """Made in computing each of the factors."""

    def value(self, x: FloatArray) -> FloatArray:
        return self.outer * self.function.value(self.inner * x)

    def extent(self) -> Extent | None:
        found = self.function.extent()
        if found is None or not (math.isfinite(self.outer) and math.isfinite(self.inner)):
            return None
        low, high = self._outside(self._inside(np.array(found[0]), np.array(found[1])))
        return (float(low), float(high)) if np.isfinite([low, high]).all() else None

    def slopes(self, low: FloatArray, high: FloatArray) -> Ends | None:
        found = self.function.slopes(*self._inside(low, high)) if np.isfinite([self.outer, self.inner]).all() else None
        return None if found is None else self._outside(self._inside(*found))

    def between(self, low: FloatArray, high: FloatArray) -> Ends:
        return self._outside(self.function.between(*self._inside(low, high)))

    def rounding(
        self,
        values: Sequence[FloatArray],
        result: FloatArray,
        unit: float,
    ) -> FloatArray | float:
        # The function's own at the product, times the factor; what rounding the product adds; and that of the last.
        inner = self.inner * values[0]
        relative = 4 * unit + self._slack()
        there = self.function.run(inner)
        low, high = self.function.between(inner - relative * abs(inner), inner + relative * abs(inner))
        moved = np.maximum(high - there, there - low)
        own = np.asarray(self.function.rounding([inner], there, unit))
        return np.asarray(abs(self.outer) * (own + moved) * (1 + relative) + relative * abs(result))

    def _slack(self) -> float:
        """Return the relative error of each factor."""
        return (self.roundings + 2) * 2.0**-52 if self.roundings else 0.0

    def _inside(self, low: FloatArray, high: FloatArray) -> Ends:
        return enclosing((low, high)).scaled(self.inner, self._slack()).ends

    def _outside(self, ends: Ends) -> Ends:
        return enclosing(ends).scaled(self.outer, self._slack()).ends
