"""Intervals around the entries of NumPy arrays, with interval arithmetic that rounds outward.

Intervals contain real numbers only. An infinite end means that nothing is known on that side, so 0 times an infinite
end is 0. NumPy rounds each operation to nearest, so the exact result lies between the neighbours of the computed one.
Sums that are exact are not moved outward, and neither are products of numbers with few digits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from specnorm.proofs import host
from specnorm.proofs.bound import HypothesisError, Sealed

Numbers: TypeAlias = NDArray[np.float64]
Ends: TypeAlias = tuple[Numbers, Numbers]
"""Lower and upper ends, two arrays of one shape."""


@dataclass(frozen=True, eq=False, slots=True)
class Interval(Sealed):
    """A claim that each entry of an array lies between two numbers; made by the rules in files of proofs alone.

    Parameters
    ----------
    low, high : array
        The ends, in the shape of the array that they enclose; read-only; infinite where nothing is known.
    """

    low: Numbers
    high: Numbers

    def __post_init__(self) -> None:
        if self.low.shape != self.high.shape:
            raise HypothesisError(f"ends of shapes {self.low.shape} and {self.high.shape}")
        if not (self.low <= self.high).all():
            raise HypothesisError("no number is between a low end that is above the high one, or ends that are none")

    @property
    def ends(self) -> Ends:
        """The tuple ``(low, high)``."""
        return self.low, self.high

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the enclosed array."""
        return self.low.shape

    def __and__(self, other: Interval) -> Interval:
        """The intersection of two intervals around one array.

        Raises `HypothesisError` if the intersection is empty: one of the intervals is wrong.
        """
        return _interval(np.maximum(self.low, other.low), np.minimum(self.high, other.high))

    def __neg__(self) -> Interval:
        return _interval(-self.high, -self.low)

    def __or__(self, other: Interval) -> Interval:
        """The smallest interval that contains both intervals."""
        return _interval(np.minimum(self.low, other.low), np.maximum(self.high, other.high))

    def __add__(self, other: Interval) -> Interval:
        return _sum(self.low, other.low, self.high, other.high)

    def __sub__(self, other: Interval) -> Interval:
        return _sum(self.low, -other.high, self.high, -other.low)

    def __mul__(self, other: Interval) -> Interval:
        products = [_product(x, y) for x in self.ends for y in other.ends]
        low, high = zip(*products, strict=True)
        return _interval(np.minimum.reduce(low), np.maximum.reduce(high))

    def inverse(self) -> Interval:
        """The interval of 1 / x; all real numbers where 0 is in the interval."""
        has_zero = self.mignitude() == 0
        with np.errstate(all="ignore"):
            inverse_of_low = 1 / self.low
            inverse_of_high = 1 / self.high
        low = host.next_down(np.minimum(inverse_of_low, inverse_of_high))
        high = host.next_up(np.maximum(inverse_of_low, inverse_of_high))
        return _interval(np.where(has_zero, -math.inf, low), np.where(has_zero, math.inf, high))

    def scaled(self, factor: float, slack: float = 0.0) -> Interval:
        """The product with any number whose relative distance from ``factor`` is at most ``slack``; 0 stays 0."""
        if not math.isfinite(factor):
            return anything(self.shape)
        oriented = self if factor > 0 else -self
        if abs(factor) == 1 and not slack:
            return oriented
        low = _nearest_product(oriented.low, abs(factor))
        high = _nearest_product(oriented.high, abs(factor))
        with np.errstate(all="ignore"):
            low_slack = np.where(np.isinf(low), 0.0, abs(low) * slack)
            high_slack = np.where(np.isinf(high), 0.0, abs(high) * slack)
            low = host.next_down(host.next_down(low - low_slack))
            high = host.next_up(host.next_up(high + high_slack))
        low = np.where((oriented.low == 0) | (factor == 0), 0.0, low)
        high = np.where((oriented.high == 0) | (factor == 0), 0.0, high)
        return _interval(low, high)

    def root(self) -> Interval:
        """The interval of the square roots of the non-negative numbers in it; NumPy's roots are correctly rounded."""
        low = np.sqrt(np.maximum(self.low, 0.0))
        high = np.sqrt(np.maximum(self.high, 0.0))
        return _interval(np.maximum(host.next_down(low), 0.0), host.next_up(high))

    def magnitude(self) -> Numbers:
        """The largest absolute value in the interval of each entry."""
        return np.asarray(np.maximum(abs(self.low), abs(self.high)))

    def mignitude(self) -> Numbers:
        """The smallest absolute value in the interval of each entry."""
        return np.where((self.low <= 0) & (self.high >= 0), 0.0, np.minimum(abs(self.low), abs(self.high)))

    def middle(self) -> Ends:
        """Centre and radius: a point between the ends, and the distance of the farther end from it, rounded up.

        They are 0 and infinity where an end is infinite.
        """
        is_finite = np.isfinite(self.low) & np.isfinite(self.high)
        low = np.where(is_finite, self.low, 0.0)
        high = np.where(is_finite, self.high, 0.0)
        centre = low / 2 + high / 2
        radius = np.maximum(high - centre, centre - low)
        radius = np.where(radius > 0, host.next_up(radius), 0.0)
        return centre, np.where(is_finite, radius, math.inf)


def _interval(low: Numbers, high: Numbers) -> Interval:
    """Make the interval that a rule has proven. Only files of proofs call this."""
    return Interval._made(_read_only(low), _read_only(high))


def _read_only(end: Numbers) -> Numbers:
    view = np.asarray(end).view()
    if view.dtype != np.float64:
        raise HypothesisError(f"ends of {view.dtype}; intervals have float64")
    view.flags.writeable = False
    return view


def enclosing(ends: Interval | Ends) -> Interval:
    """The interval with the ends that an operator returned.

    An end that is NaN, a lower end of +infinity and an upper end of -infinity are replaced by the infinite end that
    claims nothing: they come from overflow.
    """
    if isinstance(ends, Interval):
        return ends
    low, high = (np.asarray(end).astype(np.float64, casting="safe", copy=False) for end in ends)
    return _interval(np.where(low < math.inf, low, -math.inf), np.where(high > -math.inf, high, math.inf))


def point(x: Numbers) -> Interval:
    """The interval that contains the numbers x alone."""
    return _interval(x, x)


def within(radius: Numbers) -> Interval:
    """The interval of the numbers whose absolute value is at most ``radius``."""
    return _interval(-radius, radius)


def around(centre: Numbers, radius: Numbers) -> Interval:
    """The interval of the numbers whose distance from ``centre`` is at most ``radius``, rounded outward."""
    return _sum(centre, -radius, centre, radius)


def anything(shape: tuple[int, ...]) -> Interval:
    """The interval of all real numbers, for every entry; it takes no memory for them."""
    return _interval(np.broadcast_to(-math.inf, shape), np.broadcast_to(math.inf, shape))


def _sum(low: Numbers, other_low: Numbers, high: Numbers, other_high: Numbers) -> Interval:
    """The sum of two intervals, given by their ends."""
    with np.errstate(all="ignore"):
        low_sum, is_low_exact = _sum_of_numbers(low, other_low)
        high_sum, is_high_exact = _sum_of_numbers(high, other_high)
    return _interval(
        np.where(is_low_exact, low_sum, host.next_down(low_sum)),
        np.where(is_high_exact, high_sum, host.next_up(high_sum)),
    )


def _sum_of_numbers(x: Numbers, y: Numbers) -> tuple[Numbers, NDArray[np.bool_]]:
    """The sum rounded to nearest, and whether it is exact: whether Knuth's error of a sum (TwoSum) is 0."""
    total = x + y
    part = total - x
    error = (x - (total - part)) + (y - part)
    return total, error == 0


def _product(x: Numbers, y: Numbers) -> Ends:
    """The product rounded down and up, where 0 times infinity is 0.

    It is exact if a factor is -1, 0 or 1, or if both are numbers of single precision, whose digits are half as many.
    """
    with np.errstate(all="ignore"):
        product = _nearest_product(x, y)
        are_single = (x == x.astype(np.float32)) & (y == y.astype(np.float32))
    is_exact = are_single | (x == 0) | (y == 0) | (abs(x) == 1) | (abs(y) == 1)
    down = np.where(is_exact, product, host.next_down(product))
    return down, np.where(is_exact, product, host.next_up(product))


def _nearest_product(x: Numbers, y: Numbers | float) -> Numbers:
    """The product rounded to nearest, where 0 times infinity is 0."""
    with np.errstate(all="ignore"):
        return np.where((x == 0) | (y == 0), 0.0, x * y)
