"""What curved functions of each entry share: values and slopes on intervals, and lines along which they lie.

The host's elementary functions are taken to be good to `CLOSE` of their values, hundreds of units in the last place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np

from specnorm.certified import host
from specnorm.certified.interval import enclosing
from specnorm_networks.certified.operators.base import Ends, FloatArray, Pointwise
from specnorm_networks.certified.operators.executed import smallest

Extent: TypeAlias = tuple[float, float]
Turn: TypeAlias = tuple[Extent, Extent]
"""Where a function turns: an interval that holds the place, and one that holds the value there."""
Line: TypeAlias = tuple[FloatArray, FloatArray, FloatArray]
"""Slope, middle and half."""
CLOSE = 2.0**-44
"""Error of a value, relatively, and absolutely where the value or its argument is less than 1."""
LOST = 2.0**-40
"""Error of a derivative that `Curve` computes."""
ROUNDINGS = 2**9
"""Roundings that stand for an exponential and a few operations on it: 2^-44 is 2^8 of them."""
TINY = 2.0**-1000
"""Added to what may have underflowed."""
PARTS = 8
"""Of an interval, to find how far a function is from a line."""
FAR = 700.0
"""From there on derivatives are within `LOST` of their limits, and exp does not overflow."""


class Curved(Pointwise):
    """A function whose `value` is computed up to `off`."""

    whole: ClassVar[Extent | None] = None
    """`extent`, where it depends on no field."""
    limits: ClassVar[Extent] = (-math.inf, math.inf)
    """Between which all its values lie."""
    bends: ClassVar[tuple[Turn, ...]] = ()
    """`turns`, where they depend on no field."""
    units: ClassVar[int | None] = None
    """Relative roundings of other libraries, beside which the value may underflow; None: as of elementary functions."""

    def extent(self) -> Extent | None:
        return self.whole

    def turns(self) -> tuple[Turn, ...]:
        """Where the function turns; between turns it rises or falls."""
        return self.bends

    def off(self, x: FloatArray, value: FloatArray) -> FloatArray:
        """By how much a value may be off: rounding of the function, and of its argument."""
        size = np.where(np.isfinite(x), abs(x), 0.0)
        return np.asarray(CLOSE * (1 + abs(value) + size))

    def between(self, low: FloatArray, high: FloatArray) -> Ends:
        # Values at the ends and at turns.
        with np.errstate(all="ignore"):
            ends = [self._near(end) for end in (low, high)]
            down, up = np.minimum(ends[0][0], ends[1][0]), np.maximum(ends[0][1], ends[1][1])
            for (start, end), (least, most) in self.turns():
                met = (low <= end) & (high >= start)
                down, up = np.where(met, np.minimum(down, least), down), np.where(met, np.maximum(up, most), up)
        return np.maximum(down, self.limits[0]), np.minimum(up, self.limits[1])

    def affine(self, low: FloatArray, high: FloatArray) -> Line | None:
        """The line of the least half among four: with the smallest and largest slope, the chord's, and 0 [1]_.

        The function less a line is bounded on `PARTS` parts of the interval, each by its values at the ends and its
        smallest and largest slope.

        References
        ----------
        .. [1] Singh, Gehr, Mirman, Pueschel, Vechev, "Fast and Effective Robustness Certification", NeurIPS 2018.
        """
        finite = np.isfinite(low) & np.isfinite(high)
        low, high = np.where(finite, low, 0.0), np.where(finite, high, 0.0)
        best: Line = np.zeros(low.shape), np.zeros(low.shape), np.full(low.shape, math.inf)
        with np.errstate(all="ignore"):
            for slope, middle, half in self._along(low, high):
                best = _nearer(best, (slope, middle, half), finite)
            ends = self.between(low, high)
            middle = ends[0] / 2 + ends[1] / 2
            half = host.next_up(host.next_up(np.maximum(ends[1] - middle, middle - ends[0])))
            return _nearer(best, (np.zeros(low.shape), middle, half), finite)

    def _along(self, low: FloatArray, high: FloatArray) -> Iterator[Line]:
        """Lines with the smallest slope, the largest one and the chord's."""
        whole = self.slopes(low, high)
        shares = np.linspace(0.0, 1.0, PARTS + 1).reshape(-1, *(1,) * low.ndim)
        x = np.clip(low + shares * (high - low), low, high)
        x[-1] = high
        parts = self.slopes(x[:-1], x[1:])
        if whole is None or parts is None:
            return
        y = np.asarray(self.value(x))
        lost, most = self.off(x, y).max(axis=0), np.maximum(*map(abs, whole))
        chord = np.clip(np.nan_to_num((y[-1] - y[0]) / (high - low)), *whole)
        for slope in (*whole, chord):
            apart = y - slope * x
            least, largest = (np.clip(end, *whole) - slope for end in parts)
            up = _most(apart, x, least, largest).max(axis=0)
            down = -_most(-apart, x, -largest, -least).max(axis=0)
            # The sizes of all terms: CLOSE is hundreds of roundings of them.
            size = abs(y).max(axis=0) + (abs(slope) + most) * (abs(low) + abs(high))
            yield slope, up / 2 + down / 2, host.inflate(up / 2 - down / 2 + lost + CLOSE * size, 8)

    def rounding(self, values: Sequence[FloatArray], result: FloatArray, unit: float) -> FloatArray | float:
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


def _nearer(best: Line, other: Line, where: FloatArray) -> Line:
    """The line with the smaller half, entry by entry."""
    wins = where & (other[2] < best[2]) & np.isfinite(other[0]) & np.isfinite(other[1])
    slope, middle, half = (np.where(wins, new, old) for new, old in zip(other, best, strict=True))
    return slope, middle, half


def _most(y: FloatArray, x: FloatArray, least: FloatArray, most: FloatArray) -> FloatArray:
    """Largest values between neighbours, of values ``y`` at ``x``, and of slopes from ``least`` to ``most`` there.

    Left of any place the line of slope ``most`` from the left end is no higher than there, and right of it the line of
    slope ``least`` to the right end: so the place, where both meet, need not be exact.
    """
    rise, fall, width = np.maximum(most, 0.0), np.minimum(least, 0.0), x[1:] - x[:-1]
    place = np.clip(np.nan_to_num((y[1:] - y[:-1] - fall * width) / (rise - fall)), 0.0, width)
    return np.asarray(np.maximum(y[:-1] + rise * place, y[1:] - fall * (width - place)))


@dataclass(frozen=True)
class Curve:
    """A derivative that turns a few times: between its values at both ends, where no turn is between these.

    The tests prove by ball arithmetic that there are no other turns, and that values are good to `LOST`.

    Parameters
    ----------
    derivative : callable
        Off by at most `LOST`.
    lowest, highest : tuple of (float, float)
        Intervals that hold the places where the derivative is smallest and largest, and where alone it turns.
    """

    derivative: Callable[[FloatArray], FloatArray]
    lowest: tuple[Extent, ...] = ()
    highest: tuple[Extent, ...] = ()

    def slopes(self, extent: Extent, low: FloatArray, high: FloatArray) -> Ends:
        """Smallest and largest derivative on intervals, rounded outward; all over it is in ``extent``."""
        with np.errstate(all="ignore"):
            ends = [self.derivative(np.clip(end, -FAR, FAR)) for end in (low, high)]
        down, up = host.next_down(np.minimum(*ends) - LOST), host.next_up(np.maximum(*ends) + LOST)
        for start, end in self.lowest:
            down = np.where((low <= end) & (high >= start), extent[0], down)
        for start, end in self.highest:
            up = np.where((low <= end) & (high >= start), extent[1], up)
        return np.maximum(down, extent[0]), np.minimum(up, extent[1])


class Turning(Curved):
    """A function with a `Curve`."""

    steepness: ClassVar[Curve]
    """`curve`, where it depends on no field."""

    def curve(self) -> Curve:
        """Its derivative."""
        return self.steepness

    def slopes(self, low: FloatArray, high: FloatArray) -> Ends | None:
        extent = self.extent()
        return None if extent is None else self.curve().slopes(extent, low, high)


class Bell(Curved):
    """A function whose derivative is even and falls with the distance from 0, where it is the largest slope."""

    def bell(self, distance: FloatArray) -> FloatArray:
        """The derivative, computed with at most `ROUNDINGS` relative roundings."""
        raise NotImplementedError

    def slopes(self, low: FloatArray, high: FloatArray) -> Ends | None:
        extent = self.extent()
        assert extent is not None  # for the type checker: bells have no parameters
        # At the smallest and at the largest distance.
        x = enclosing((low, high))
        near, far = x.mignitude(), x.magnitude()
        with np.errstate(all="ignore"):
            steep, flat = self.bell(near), self.bell(far)
        steep = np.where(near == 0, extent[1], host.inflate(steep, ROUNDINGS) + TINY)
        flat = np.where(flat > 2.0**-900, flat - 2 * ROUNDINGS * 2.0**-52 * flat, 0.0)
        return np.maximum(extent[0], flat), np.minimum(extent[1], steep)


def sigmoid(x: FloatArray) -> FloatArray:
    """By exp(-|x|), which does not overflow."""
    small = np.exp(-abs(x))
    return np.asarray(np.where(x >= 0, 1.0, small) / (1 + small))


erf = np.vectorize(math.erf, otypes=[np.float64])
"""The host's own; NumPy has none."""
erfc = np.vectorize(math.erfc, otypes=[np.float64])
