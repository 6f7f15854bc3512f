"""Operators of several values entry by entry, constants among them, that are not sums."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import Interval, enclosing, host
from specnorm_networks.certified.operators.base import FloatArray, NoBoundError, Operator, Place, Program, Sizes
from specnorm_networks.certified.operators.broadcasting import gathered, spread
from specnorm_networks.certified.operators.formats import smallest
from specnorm_networks.certified.operators.linear import Add, Scale
from specnorm_networks.certified.operators.pointwise import TINY, ReLU, hint


class Extreme(Operator):
    """One of several values at each entry: |max(a, b) - max(c, d)| is at most the larger of |a - c| and |b - d|."""

    rule = "extreme"
    rises = True

    def lipschitz(self, place: Place) -> float:
        return self.combine([1.0] * len(place.before), place)

    def combine(self, bounds: Sequence[float], place: Place) -> float:
        """The root of the sum of squares of the inputs' bounds, each times sqrt(r) where it is repeated r times."""
        return host.hypot_up(*spread(bounds, place))

    def pulled(
        self,
        weights: FloatArray,
        shares: Sequence[FloatArray],
        place: Place,
    ) -> list[FloatArray] | None:
        return [gathered(weights, before, place.after) for before in place.before]


class _End(Extreme):
    """The largest or the smallest of several values."""

    join: ClassVar[np.ufunc]

    def run(self, *values: FloatArray) -> FloatArray:
        return np.asarray(functools.reduce(self.join, values))

    def written_out(self, before: Sequence[Sizes]) -> Program:
        """Write extremes two by two: ``max(u, v) = v + relu(u - v)``, ``min(u, v) = v - relu(v - u)``."""
        if len(before) == 2:
            sign = 1.0 if self.join is np.maximum else -1.0
            return [(Add((sign, -sign)), (0, 1)), (ReLU(), (2,)), (Add((1.0, sign)), (1, 3))]
        if len(before) == 1:
            return [(Add((1.0,)), (0,))]
        # The values are numbered first, then the extremes of the pairs before.
        pairs = [(2 * step, 2 * step + 1) for step in range(len(before) - 1)]
        return [(type(self)(), pair) for pair in pairs]


class Maximum(_End):
    """The largest of several values."""

    join = np.maximum


class Minimum(_End):
    """The smallest of several values."""

    join = np.minimum


class Where(Extreme):
    """The first value where a constant mask is true, else the second."""

    mask: Callable[[], NDArray[Any]]
    """Returns booleans that broadcast against the values."""

    def run(self, *values: FloatArray) -> FloatArray:
        one, other = values
        return np.where(np.asarray(self.mask(), dtype=bool), one, other)

    def written_out(self, before: Sequence[Sizes]) -> Program:
        mask = np.asarray(self.mask(), dtype=bool)
        first = Scale(mask.astype(np.float64), exact=True)
        second = Scale((~mask).astype(np.float64), exact=True)
        return [(first, (0,)), (second, (1,)), (Add((1.0, 1.0)), (2, 3))]

    def pulled(
        self,
        weights: FloatArray,
        shares: Sequence[FloatArray],
        place: Place,
    ) -> list[FloatArray] | None:
        mask = np.asarray(self.mask(), dtype=bool)
        if mask.ndim > weights.ndim:
            return None
        pairs = zip(place.before, (mask, ~mask), strict=True)
        return [gathered(np.where(chosen, weights, 0.0), before, place.after) for before, chosen in pairs]


class Multiplied(Operator):
    """A product or a quotient: a change of one value is multiplied by the size of the other."""

    reason: ClassVar[str]

    def factors(
        self,
        one: Interval | None,
        other: Interval | None,
    ) -> tuple[FloatArray, FloatArray]:
        """Return the factors by which changes of the two values are stretched, rounded up; infinite if unknown."""
        raise NotImplementedError

    def lipschitz(self, place: Place) -> float:
        return self.combine([1.0] * len(place.before), place)

    def combine(self, bounds: Sequence[float], place: Place) -> float:
        """Sum of the inputs' bounds, each times the largest factor of the other's range, and as often as repeated.

        xy - x'y' = y (x - x') + x' (y - y') has a norm of at most sup |y| |x - x'| + sup |x| |y - y'|.
        """
        ranges = place.ranges()
        one, other = ranges if len(ranges) == 2 else (None, None)
        with np.errstate(all="ignore"):
            factors = [sup(factor) for factor in self.factors(one, other)]
        if any(bound and not math.isfinite(factor) for bound, factor in zip(bounds, factors, strict=True)):
            raise NoBoundError(f"{self.reason}; {hint(ranges)}")
        pairs = zip(spread(bounds, place), factors, strict=True)
        return host.add_up(*(host.mul_up(bound, factor) for bound, factor in pairs))

    def rounding(
        self,
        values: Sequence[FloatArray],
        result: FloatArray,
        unit: float,
    ) -> FloatArray | float:
        # One rounding, theirs and ours; a quotient may be a product with an inverse.
        return 4 * unit * abs(result) + smallest(unit)


class Product(Multiplied):
    """The product of two values that both depend on the input: a constant on ranges alone."""

    rule = "product"
    reason = "it is a product of two values that depend on the input, which has no constant"

    def run(self, *values: FloatArray) -> FloatArray:
        one, other = values
        return np.asarray(one * other)

    def factors(
        self,
        one: Interval | None,
        other: Interval | None,
    ) -> tuple[FloatArray, FloatArray]:
        return _largest(other), _largest(one)

    def image(self, ranges: Sequence[Interval], place: Place) -> Interval | None:
        one, other = ranges
        return one * other


class Quotient(Multiplied):
    """The quotient of two values, of which the second depends on the input: a constant on ranges alone."""

    rule = "quotient"
    reason = "it divides by a value that depends on the input, which has no constant"

    def run(self, *values: FloatArray) -> FloatArray:
        one, other = values
        with np.errstate(all="ignore"):
            return np.asarray(one / other)

    def factors(
        self,
        one: Interval | None,
        other: Interval | None,
    ) -> tuple[FloatArray, FloatArray]:
        # 1 / |y|, and |x| / y^2.
        inner = np.array(math.inf) if other is None else other.inverse().magnitude()
        return inner, np.asarray(host.inflate(_largest(one) * inner * inner, 4) + TINY)

    def image(self, ranges: Sequence[Interval], place: Place) -> Interval | None:
        one, other = ranges
        return one * other.inverse()


def _largest(ends: Interval | None) -> FloatArray:
    return np.array(math.inf) if ends is None else ends.magnitude()


def sup(numbers: FloatArray) -> float:
    """The largest of non-negative numbers; infinite where one is no number."""
    largest = float(np.max(numbers, initial=0.0))
    return math.inf if math.isnan(largest) else largest


class Compare(Operator):
    """1 where a value is above (or the like) a number, else 0: a step, alone without a constant."""

    kind: Literal["gt", "ge", "lt", "le"]
    threshold: float = 0.0

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        compare = {"gt": np.greater, "ge": np.greater_equal, "lt": np.less, "le": np.less_equal}[self.kind]
        return compare(x, self.threshold).astype(np.float64)

    def image(self, ranges: Sequence[Interval], place: Place) -> Interval:
        # A step rises or falls.
        (x,) = ranges
        ends = self.run(x.low), self.run(x.high)
        return enclosing((np.minimum(*ends), np.maximum(*ends)))

    def rounding(
        self,
        values: Sequence[FloatArray],
        result: FloatArray,
        unit: float,
    ) -> FloatArray | float:
        # The threshold may be rounded past the value.
        return np.where(abs(values[0] - self.threshold) <= 2 * unit * abs(self.threshold), 1.0, 0.0)


class Choose(Operator):
    """The second value where the first is not 0, else the third: a constant in a continuous function alone."""

    def run(self, *values: FloatArray) -> FloatArray:
        condition, one, other = values
        return np.where(condition != 0, one, other)

    def image(self, ranges: Sequence[Interval], place: Place) -> Interval | None:
        condition, one, other = ranges
        yes = condition.mignitude() > 0
        no = (condition.low == 0) & (condition.high == 0)
        low = np.where(yes, one.low, np.where(no, other.low, np.minimum(one.low, other.low)))
        high = np.where(yes, one.high, np.where(no, other.high, np.maximum(one.high, other.high)))
        return enclosing((low, high)) if place.fits(low.shape) else None


class Sign(Operator):
    """-1, 0 or 1, the sign of each entry: a step, which has a constant in a continuous function alone."""

    rises = True

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        return np.asarray(np.sign(x))
