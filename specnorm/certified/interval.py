"""Intervals: where the entries of an array of the host lie, with arithmetic that is rounded outward in this file alone.

Intervals are of real numbers: an infinite end says that nothing is known on its side, and 0 times one is 0. Each
operation of NumPy is rounded to nearest, so the exact result lies between the neighbours of the computed one.
"""

from __future__ import annotations

import math
from dataclasses import InitVar, dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from specnorm.certified import host
from specnorm.certified.bound import HypothesisError

Numbers: TypeAlias = NDArray[np.float64]
Ends: TypeAlias = tuple[Numbers, Numbers]
"""Smallest and largest of something, entry by entry."""
_MAKER = object()


@dataclass(frozen=True, eq=False, slots=True)
class Interval:
    """Where the entries of one value lie: a claim of each, made by the rules of `specnorm.certified` alone.

    Parameters
    ----------
    low, high : array
        In the value's shape, never to be written to; infinite where nothing is known.
    """

    low: Numbers
    high: Numbers
    maker: InitVar[object] = None

    def __post_init__(self, maker: object) -> None:
        if maker is not _MAKER:
            raise TypeError("Interval: where numbers lie is said by the rules of specnorm.certified alone")
        if self.low.shape != self.high.shape:
            raise HypothesisError(f"ends of shapes {self.low.shape} and {self.high.shape}")
        if not (self.low <= self.high).all():
            raise HypothesisError("no number is between a low end that is above the high one, or ends that are none")

    @property
    def ends(self) -> Ends:
        """Both arrays."""
        return self.low, self.high

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the value."""
        return self.low.shape

    def __and__(self, other: Interval) -> Interval:
        """What lies in both; `HypothesisError` where nothing does, since one of them is wrong."""
        return _interval(np.maximum(self.low, other.low), np.minimum(self.high, other.high))

    def __neg__(self) -> Interval:
        return _interval(-self.high, -self.low)

    def __add__(self, other: Interval) -> Interval:
        """Exact where a term is 0."""
        return _sum(self.low, other.low, self.high, other.high)

    def __sub__(self, other: Interval) -> Interval:
        return _sum(self.low, -other.high, self.high, -other.low)

    def __mul__(self, other: Interval) -> Interval:
        ends = [
            _product(self.low, other.low),
            _product(self.low, other.high),
            _product(self.high, other.low),
            _product(self.high, other.high),
        ]
        low = np.asarray(np.minimum.reduce(ends))
        high = np.asarray(np.maximum.reduce(ends))
        return _interval(host.next_down(low), host.next_up(high))

    def inverse(self) -> Interval:
        """1 / x; anything where 0 is in the interval."""
        has_zero = self.mignitude() == 0
        with np.errstate(all="ignore"):
            of_low, of_high = 1 / self.low, 1 / self.high
        low = host.next_down(np.minimum(of_low, of_high))
        high = host.next_up(np.maximum(of_low, of_high))
        return _interval(np.where(has_zero, -math.inf, low), np.where(has_zero, math.inf, high))

    def scaled(self, factor: float, slack: float = 0.0) -> Interval:
        """Times a number that is known up to a relative error; 0 stays 0."""
        if not math.isfinite(factor):
            return anything(self.shape)
        oriented = self if factor > 0 else -self
        if abs(factor) == 1 and not slack:
            return oriented
        low = _product(oriented.low, abs(factor))
        high = _product(oriented.high, abs(factor))
        with np.errstate(all="ignore"):
            low_slack = np.where(np.isinf(low), 0.0, abs(low) * slack)
            high_slack = np.where(np.isinf(high), 0.0, abs(high) * slack)
            low = host.next_down(host.next_down(low - low_slack))
            high = host.next_up(host.next_up(high + high_slack))
        low = np.where((oriented.low == 0) | (factor == 0), 0.0, low)
        high = np.where((oriented.high == 0) | (factor == 0), 0.0, high)
        return _interval(low, high)

    def root(self) -> Interval:
        """Roots of the numbers that are not negative; the host's roots are correctly rounded."""
        low = np.sqrt(np.maximum(self.low, 0.0))
        high = np.sqrt(np.maximum(self.high, 0.0))
        return _interval(np.maximum(host.next_down(low), 0.0), host.next_up(high))

    def magnitude(self) -> Numbers:
        """Largest absolute values."""
        return np.asarray(np.maximum(abs(self.low), abs(self.high)))

    def mignitude(self) -> Numbers:
        """Smallest absolute values."""
        return np.where((self.low <= 0) & (self.high >= 0), 0.0, np.minimum(abs(self.low), abs(self.high)))

    def middle(self) -> Ends:
        """A point between both ends, and how far both are from it, rounded up; 0 and infinity where one is infinite."""
        is_finite = np.isfinite(self.low) & np.isfinite(self.high)
        low = np.where(is_finite, self.low, 0.0)
        high = np.where(is_finite, self.high, 0.0)
        centre = low / 2 + high / 2
        radius = np.maximum(high - centre, centre - low)
        radius = np.where(radius > 0, host.next_up(radius), 0.0)
        return centre, np.where(is_finite, radius, math.inf)


def _interval(low: Numbers, high: Numbers) -> Interval:
    """Ends that a rule has proven. For the modules of the trusted room."""
    return Interval(_read_only(low), _read_only(high), _MAKER)


def _read_only(end: Numbers) -> Numbers:
    view = np.asarray(end).view()
    if view.dtype != np.float64:
        raise HypothesisError(f"ends of {view.dtype}; intervals have float64")
    view.flags.writeable = False
    return view


def enclosing(ends: Interval | Ends) -> Interval:
    """The interval that an operator returns for its values: ends that are NaN, or beyond all numbers, say nothing."""
    if isinstance(ends, Interval):
        return ends
    low, high = (np.asarray(end).astype(np.float64, casting="safe", copy=False) for end in ends)
    return _interval(np.where(low < math.inf, low, -math.inf), np.where(high > -math.inf, high, math.inf))


def point(x: Numbers) -> Interval:
    """One number an entry."""
    return _interval(x, x)


def within(radius: Numbers) -> Interval:
    """Numbers that are so far from 0 at most."""
    return _interval(-radius, radius)


def around(centre: Numbers, radius: Numbers) -> Interval:
    """Numbers that are so far from a centre at most."""
    return _sum(centre, -radius, centre, radius)


def anything(shape: tuple[int, ...]) -> Interval:
    """Entries of which nothing is known."""
    return within(np.full(shape, math.inf))


def _sum(low: Numbers, other_low: Numbers, high: Numbers, other_high: Numbers) -> Interval:
    """The sum of two intervals by their ends, exact where one end is 0."""
    with np.errstate(all="ignore"):
        low_sum = low + other_low
        high_sum = high + other_high
    is_low_exact = (low == 0) | (other_low == 0)
    is_high_exact = (high == 0) | (other_high == 0)
    return _interval(
        np.where(is_low_exact, low_sum, host.next_down(low_sum)),
        np.where(is_high_exact, high_sum, host.next_up(high_sum)),
    )


def _product(x: Numbers, y: Numbers | float) -> Numbers:
    """Products of which 0 times infinity is 0."""
    with np.errstate(all="ignore"):
        return np.where((x == 0) | (y == 0), 0.0, x * y)
