"""Intervals: where the entries of an array of the host lie, with arithmetic that is rounded outward here, once.

Real numbers are meant: an infinite end says that nothing is known on its side, and 0 times one is 0. Each operation of
NumPy is rounded to nearest, so the exact result lies between the neighbours of the computed one.
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
        ends = [_product(x, y) for x in self.ends for y in other.ends]
        low, high = (np.asarray(end.reduce(ends)) for end in (np.minimum, np.maximum))
        return _interval(host.next_down(low), host.next_up(high))

    def inverse(self) -> Interval:
        """1 / x; anything where 0 is among them."""
        crossing = self.mignitude() == 0
        with np.errstate(all="ignore"):
            ends = 1 / self.low, 1 / self.high
        low, high = host.next_down(np.minimum(*ends)), host.next_up(np.maximum(*ends))
        return _interval(np.where(crossing, -math.inf, low), np.where(crossing, math.inf, high))

    def scaled(self, factor: float, slack: float = 0.0) -> Interval:
        """Times a number that is known up to a relative error; 0 stays 0."""
        if not math.isfinite(factor):
            return anything(self.shape)
        turned = self if factor > 0 else -self
        if abs(factor) == 1 and not slack:
            return turned
        down, up = (_product(end, abs(factor)) for end in turned.ends)
        with np.errstate(all="ignore"):
            lost = [np.where(np.isinf(end), 0.0, abs(end) * slack) for end in (down, up)]
            down, up = host.next_down(host.next_down(down - lost[0])), host.next_up(host.next_up(up + lost[1]))
        nothing = [(end == 0) | (factor == 0) for end in turned.ends]
        return _interval(np.where(nothing[0], 0.0, down), np.where(nothing[1], 0.0, up))

    def root(self) -> Interval:
        """Of what is not negative; correctly rounded roots."""
        least, most = (np.sqrt(np.maximum(end, 0.0)) for end in self.ends)
        return _interval(np.maximum(host.next_down(least), 0.0), host.next_up(most))

    def magnitude(self) -> Numbers:
        """Largest absolute values."""
        return np.asarray(np.maximum(abs(self.low), abs(self.high)))

    def mignitude(self) -> Numbers:
        """Smallest absolute values."""
        return np.where((self.low <= 0) & (self.high >= 0), 0.0, np.minimum(abs(self.low), abs(self.high)))

    def middle(self) -> Ends:
        """A point between both ends, and how far both are from it, rounded up; 0 and infinity where one is infinite."""
        finite = np.isfinite(self.low) & np.isfinite(self.high)
        low, high = (np.where(finite, end, 0.0) for end in self.ends)
        centre = low / 2 + high / 2
        half = np.maximum(high - centre, centre - low)
        half = np.where(half > 0, host.next_up(half), 0.0)
        return centre, np.where(finite, half, math.inf)


def _interval(low: Numbers, high: Numbers) -> Interval:
    """Ends that a rule has proven. For the modules of the trusted room."""
    least, most = (np.asarray(end).view() for end in (low, high))
    for end in (least, most):
        if end.dtype != np.float64:
            raise HypothesisError(f"ends of {end.dtype}; intervals have float64")
        end.flags.writeable = False
    return Interval(least, most, _MAKER)


def enclosing(found: Interval | Ends) -> Interval:
    """What an operator says of its values: ends that are no numbers, or beyond all of them, say nothing."""
    if isinstance(found, Interval):
        return found
    low, high = (np.asarray(end).astype(np.float64, casting="safe", copy=False) for end in found)
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


def _sum(low: Numbers, more: Numbers, high: Numbers, further: Numbers) -> Interval:
    with np.errstate(all="ignore"):
        down, up = low + more, high + further
    down = np.where((low == 0) | (more == 0), down, host.next_down(down))
    return _interval(down, np.where((high == 0) | (further == 0), up, host.next_up(up)))


def _product(one: Numbers, other: Numbers | float) -> Numbers:
    """0 times infinity is 0."""
    with np.errstate(all="ignore"):
        return np.where((one == 0) | (other == 0), 0.0, one * other)
