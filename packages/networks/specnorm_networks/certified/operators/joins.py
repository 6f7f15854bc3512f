"""Operators of several values, entry by entry, that are not sums: extremes, choices, products, quotients, steps."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from specnorm.proof import Interval, anything, enclosing, host
from specnorm_networks.certified.operators.base import (
    UNDERFLOW,
    FloatArray,
    Function,
    Known,
    NoBoundError,
    Place,
    Program,
    Shape,
)
from specnorm_networks.certified.operators.broadcasting import constants_after_broadcast
from specnorm_networks.certified.operators.curved import VALUE_ERROR
from specnorm_networks.certified.operators.linear import Add
from specnorm_networks.certified.operators.piecewise import ReLU
from specnorm_networks.certified.operators.smooth import Softplus
from specnorm_networks.certified.operators.steep import hint


class Extreme(Known):
    """The largest or the smallest of several values: |max(a, b) - max(c, d)| is at most |a - c| or |b - d|."""

    rule = "extreme"
    joins = "squares"
    is_monotone_and_exact = True
    join: ClassVar[np.ufunc]
    rectifier: ClassVar[Function] = ReLU()
    """Function f with which the join of u and v is v + f(u - v), or v - f(v - u) for the smallest."""

    def shares(self, bounds: Sequence[float], place: Place) -> Sequence[float]:
        return constants_after_broadcast(bounds, place)

    def run(self, *values: FloatArray) -> FloatArray:
        return np.asarray(functools.reduce(self.join, values))

    def written_out(self, before: Sequence[Shape]) -> Program:
        """Write extremes two by two, by the `rectifier`: ``max(u, v) = v + relu(u - v)``, for example."""
        if len(before) == 1:
            return [(Add((1.0,)), (0,))]
        if len(before) == 2:
            u, v, difference, rectified = range(4)
            sign = -1.0 if self.join is np.minimum else 1.0
            return [
                (Add((sign, -sign)), (u, v)),
                (self.rectifier, (difference,)),
                (Add((1.0, sign)), (v, rectified)),
            ]
        # A tournament: the inputs have the first numbers, the result of each step has the next one, and step k combines
        # the values 2 k and 2 k + 1.
        pairs = [(2 * step, 2 * step + 1) for step in range(len(before) - 1)]
        return [(type(self)(), pair) for pair in pairs]


class Maximum(Extreme):
    """The largest of several values."""

    join = np.maximum


class Minimum(Extreme):
    """The smallest of several values."""

    join = np.minimum


class LogAddExp(Extreme):
    """``log(exp(u) + exp(v))``: its slopes are positive, and their sum is 1, so that it changes as a maximum does."""

    is_monotone_and_exact = False
    join = np.logaddexp
    rectifier = Softplus()

    def image(self, ranges: Sequence[Interval], place: Place) -> Interval | None:
        low, high = (self.run(*ends) for ends in zip(*(x.ends for x in ranges), strict=True))
        down = host.next_down(low - VALUE_ERROR * (1 + abs(low)))
        up = host.next_up(high + VALUE_ERROR * (1 + abs(high)))
        down = np.where(np.isfinite(low), down, -math.inf)
        return enclosing((down, np.where(np.isfinite(high), up, math.inf))) if place.fits(low.shape) else None

    def size_of_terms(self, values: Sequence[FloatArray], result: FloatArray) -> FloatArray:
        return np.asarray(abs(result) + functools.reduce(np.maximum, map(abs, values)))


class ProductOrQuotient(Known):
    """A product or a quotient: a change of one input is multiplied by a factor that depends on the ranges."""

    reason: ClassVar[str]
    """Why there is no constant if the ranges of the inputs are unknown."""

    def factors(self, first: Interval, second: Interval) -> tuple[FloatArray, FloatArray]:
        """Return the factors by which changes of the first and of the second input are multiplied, rounded up.

        ``first``, ``second``: ranges of the inputs. Factors are infinite if they are unknown.
        """
        raise NotImplementedError

    def combine(self, bounds: Sequence[float], place: Place) -> float:
        """Return the sum of the inputs' constants, each times the largest factor on the ranges.

        xy - x'y' = y (x - x') + x' (y - y') has a norm of at most sup |y| |x - x'| + sup |x| |y - y'|.
        """
        ranges = place.ranges()
        first, second = (anything(()) if x is None else x for x in ranges or (None, None))
        with np.errstate(all="ignore"):
            factors = [supremum(factor) for factor in self.factors(first, second)]
        if any(bound and not math.isfinite(factor) for bound, factor in zip(bounds, factors, strict=True)):
            raise NoBoundError(f"{self.reason}; {hint(place)}")
        constants = constants_after_broadcast(bounds, place)
        terms = [host.mul_up(constant, factor) for constant, factor in zip(constants, factors, strict=True)]
        return host.add_up(*terms)


class Product(ProductOrQuotient):
    """The product of two values that both depend on the input: a constant on ranges alone."""

    rule = "product"
    reason = "it is a product of two values that depend on the input, which has no constant"

    def run(self, *values: FloatArray) -> FloatArray:
        first, second = values
        return np.asarray(first * second)

    def factors(self, first: Interval, second: Interval) -> tuple[FloatArray, FloatArray]:
        return second.magnitude(), first.magnitude()

    def image(self, ranges: Sequence[Interval], place: Place) -> Interval | None:
        first, second = ranges
        return first * second


class Quotient(ProductOrQuotient):
    """The quotient of two values, of which the second depends on the input: a constant on ranges alone."""

    rule = "quotient"
    reason = "it divides by a value that depends on the input, which has no constant"

    def run(self, *values: FloatArray) -> FloatArray:
        first, second = values
        with np.errstate(all="ignore"):
            return np.asarray(first / second)

    def factors(self, first: Interval, second: Interval) -> tuple[FloatArray, FloatArray]:
        # The derivatives of x / y are 1 / y and -x / y^2.
        inverse = second.inverse().magnitude()
        return inverse, np.asarray(host.inflate(first.magnitude() * inverse * inverse, 4) + UNDERFLOW)

    def image(self, ranges: Sequence[Interval], place: Place) -> Interval | None:
        first, second = ranges
        return first * second.inverse()


def supremum(numbers: FloatArray) -> float:
    """Return the largest of non-negative numbers; infinity if one is NaN."""
    largest = float(np.max(numbers, initial=0.0))
    return math.inf if math.isnan(largest) else largest


class Jump(Known):
    """A function of each entry that jumps: it has a constant only as a part of a continuous function."""

    def lipschitz(self, place: Place) -> float:
        raise NoBoundError("it has a step where an entry crosses a threshold")


class Compare(Jump):
    """1 where a value compares with a threshold, else 0."""

    kind: Literal["gt", "ge", "lt", "le"]
    """Comparison of the value (left) with the threshold (right)."""
    threshold: float = 0.0

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        comparisons = {
            "gt": np.greater,
            "ge": np.greater_equal,
            "lt": np.less,
            "le": np.less_equal,
        }
        return comparisons[self.kind](x, self.threshold).astype(np.float64)

    def image(self, ranges: Sequence[Interval], place: Place) -> Interval:
        # The function rises or falls, so that its extremes are at the ends.
        (x,) = ranges
        at_low = self.run(x.low)
        at_high = self.run(x.high)
        return enclosing((np.minimum(at_low, at_high), np.maximum(at_low, at_high)))


class Choose(Known):
    """The second value where the first is not 0, else the third.

    It has a constant only as a part of a continuous function.
    """

    def run(self, *values: FloatArray) -> FloatArray:
        condition, first, second = values
        return np.where(condition != 0, first, second)

    def image(self, ranges: Sequence[Interval], place: Place) -> Interval | None:
        condition, first, second = ranges
        is_first = condition.mignitude() > 0
        is_second = (condition.low == 0) & (condition.high == 0)
        either = first | second
        low = np.where(is_first, first.low, np.where(is_second, second.low, either.low))
        high = np.where(is_first, first.high, np.where(is_second, second.high, either.high))
        return enclosing((low, high)) if place.fits(low.shape) else None


class Sign(Jump):
    """-1, 0 or 1, the sign of each entry."""

    is_monotone_and_exact = True

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        return np.asarray(np.sign(x))
