"""Values and slopes of a program on intervals of its argument, rounded outward."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import Interval, anything, enclosing, host, point
from specnorm_networks.certified.curves.programs import Arithmetic, Dual
from specnorm_networks.certified.operators.base import FloatArray, Operator, Pointwise
from specnorm_networks.certified.operators.joins import Compare, Floor
from specnorm_networks.certified.operators.smooth import (
    GELU,
    Arctan,
    Cos,
    Erf,
    Mish,
    Sigmoid,
    SiLU,
    Sin,
    Softsign,
    Tanh,
    TanhGELU,
)
from specnorm_networks.certified.operators.steep import Exp, Log, Reciprocal, Sqrt, Steep

VALUE_AT_ZERO: dict[type[Pointwise], float] = {
    **dict.fromkeys((Arctan, Erf, GELU, Mish, SiLU, Sin, Softsign, Tanh, TanhGELU, Sqrt), 0.0),
    Exp: 1.0, Cos: 1.0, Sigmoid: 0.5,
}  # fmt: skip
"""Exact values of functions at 0: branches that meet there have to agree exactly."""


def is_exact(x: Interval) -> NDArray[np.bool_]:
    """Whether an interval is one number."""
    return np.asarray((x.low == x.high) & np.isfinite(x.low))


def times(a: Interval, b: Interval) -> Interval:
    """Return the product of two intervals.

    It is exact if a factor is the number -1, 0 or 1, or if two numbers are multiplied without rounding. Rounding
    outward never gives the product a sign that it cannot have.
    """
    low, high = (a * b).ends
    is_above = ((a.low >= 0) & (b.low >= 0)) | ((a.high <= 0) & (b.high <= 0))
    is_below = ((a.low >= 0) & (b.high <= 0)) | ((a.high <= 0) & (b.low >= 0))
    low = np.where(is_above, np.maximum(low, 0.0), low)
    high = np.where(is_below, np.minimum(high, 0.0), high)
    for factor, rest in ((a, b), (b, a)):
        for number, product in ((0.0, (0.0, 0.0)), (1.0, rest.ends), (-1.0, (-rest.high, -rest.low))):
            is_number = (factor.low == number) & (factor.high == number)
            low = np.where(is_number, product[0], low)
            high = np.where(is_number, product[1], high)
    is_unrounded = is_exact(a) & is_exact(b) & _is_product_exact(a.low, b.low)
    product_of_numbers = a.low * b.low
    low = np.where(is_unrounded, product_of_numbers, low)
    high = np.where(is_unrounded, product_of_numbers, high)
    return enclosing((low, high))


def _is_product_exact(a: FloatArray, b: FloatArray) -> NDArray[np.bool_]:
    """Whether the product of two numbers is not rounded: Dekker's error of a product (TwoProduct) is 0."""
    product = a * b
    sizes = [abs(a), abs(b), abs(product)]
    is_safe = np.logical_and.reduce([(size > 2.0**-400) & (size < 2.0**400) for size in sizes])
    (a_high, a_low), (b_high, b_low) = _split(a), _split(b)
    error = a_low * b_low - (((product - a_high * b_high) - a_low * b_high) - a_high * b_low)
    return np.asarray(is_safe & (error == 0))


def _split(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return two numbers of half the digits whose sum is x (Veltkamp)."""
    shifted = (2.0**27 + 1) * x
    high = shifted - (shifted - x)
    return high, x - high


def plus(a: Interval, b: Interval) -> Interval:
    """Return the sum of two intervals, exact if nothing is rounded."""
    low = _rounded_sum(a.low, b.low, host.next_down)
    return enclosing((low, _rounded_sum(a.high, b.high, host.next_up)))


def _rounded_sum(a: FloatArray, b: FloatArray, outward: Callable[[FloatArray], FloatArray]) -> FloatArray:
    """Return a sum, moved outward where it was rounded: where Knuth's error of a sum (TwoSum) is not 0."""
    total = a + b
    part = total - a
    error = (a - (total - part)) + (b - part)
    return np.where(error == 0, total, outward(total))


@dataclass(frozen=True, eq=False)
class Step:
    """An operator that jumps, on intervals: its input, the threshold, and where it is undecided."""

    input: Interval
    threshold: FloatArray
    undecided: NDArray[np.bool_]


@dataclass(eq=False)
class OnIntervals(Arithmetic[Interval]):
    """Arithmetic of intervals of one shape. Sums and products of exact numbers are exact if they can be."""

    sides: Mapping[int, FloatArray] = field(default_factory=dict)
    """For steps, by their numbers in the program: -1 or 1, the side of the threshold on which the input is taken to be;
    2 for an input that is taken to be the threshold; 0: the side is found from the input."""
    steps: dict[int, Step] = field(default_factory=dict)
    """Steps of the last evaluation."""

    def number(self, numbers: Interval) -> Interval:
        return numbers

    def add(self, a: Interval, b: Interval) -> Interval:
        with np.errstate(invalid="ignore", over="ignore"):
            return plus(*_alike(a, b))

    def multiply(self, a: Interval, b: Interval) -> Interval:
        with np.errstate(invalid="ignore", over="ignore"):
            return times(*_alike(a, b))

    def square(self, a: Interval) -> Interval:
        product = self.multiply(a, a)
        low = np.where(a.mignitude() == 0, 0.0, np.maximum(product.low, 0.0))
        least = point(a.mignitude())
        return enclosing((np.maximum(low, np.minimum(self.multiply(least, least).low, product.high)), product.high))

    def inverse(self, a: Interval) -> tuple[Interval, Any]:
        inverse = a.inverse()
        is_one = is_exact(a) & (abs(a.low) == 1)
        low, high = np.where(is_one, a.low, inverse.low), np.where(is_one, a.low, inverse.high)
        return enclosing((low, high)), a.mignitude() > 0

    def function(self, f: Pointwise, u: Interval) -> tuple[Interval, Interval, Any]:
        with np.errstate(all="ignore"):
            low, high = f.between(*u.ends)
            shape = np.broadcast_shapes(u.shape, np.shape(low), np.shape(high))  # f may have a parameter a channel
            low, high = np.broadcast_to(low, shape), np.broadcast_to(high, shape)
            if isinstance(f, Steep):
                slope = f.derivative(u)
            else:
                ends = f.slopes(*u.ends)
                shape = u.shape if ends is None else np.broadcast_shapes(u.shape, ends[0].shape)
                slope = anything(shape)
                if ends is not None:
                    slope = enclosing((np.broadcast_to(ends[0], shape), np.broadcast_to(ends[1], shape)))
        if type(f) in VALUE_AT_ZERO:
            is_zero = (u.low == 0) & (u.high == 0)
            low = np.where(is_zero, VALUE_AT_ZERO[type(f)], low)
            high = np.where(is_zero, VALUE_AT_ZERO[type(f)], high)
        is_defined: Any = True
        if isinstance(f, Sqrt):
            is_defined = u.low >= 0
        elif isinstance(f, Reciprocal):
            is_defined = u.mignitude() > 0
        elif isinstance(f, Log) or (isinstance(f, Steep) and f.positive):
            is_defined = u.low > 0
        return enclosing((low, high)), slope, is_defined

    def choose(self, mask: NDArray[np.bool_], a: Dual[Interval], b: Dual[Interval]) -> Dual[Interval]:
        def chosen(x: Interval, y: Interval) -> Interval:
            return enclosing((np.where(mask, x.low, y.low), np.where(mask, x.high, y.high)))

        is_defined = np.where(mask, a.is_defined, b.is_defined)
        return Dual(chosen(a.value, b.value), chosen(a.slope, b.slope), is_defined)

    def sign(self, a: Interval, *, weakly: bool = False) -> FloatArray:
        if weakly:
            return np.where(a.low >= 0, 1.0, np.where(a.high <= 0, -1.0, math.nan))
        sign = np.where(a.low > 0, 1.0, np.where(a.high < 0, -1.0, math.nan))
        return np.where((a.low == 0) & (a.high == 0), 0.0, sign)

    def either(
        self,
        a: Dual[Interval],
        b: Dual[Interval],
        chosen: Dual[Interval],
        unknown: NDArray[np.bool_],
        extreme: Any,
    ) -> Dual[Interval]:
        low = (extreme or np.minimum)(a.value.low, b.value.low)
        high = (extreme or np.maximum)(a.value.high, b.value.high)
        if extreme is None:
            low, high = np.minimum(a.value.low, b.value.low), np.maximum(a.value.high, b.value.high)
            both = anything(np.broadcast_shapes(unknown.shape, chosen.slope.shape))
        else:
            both = enclosing((np.minimum(a.slope.low, b.slope.low), np.maximum(a.slope.high, b.slope.high)))
        is_defined = np.where(unknown, np.logical_and(a.is_defined, b.is_defined), chosen.is_defined)
        value = _where(unknown, enclosing((low, high)), chosen.value)
        return Dual(value, _where(unknown, both, chosen.slope), is_defined)

    def step(self, number: int, operator: Operator, u: Interval) -> tuple[Interval, Interval]:
        threshold = np.zeros(u.shape)
        if isinstance(operator, Compare):
            threshold = np.full(u.shape, operator.threshold)
        elif isinstance(operator, Floor):
            # Of several whole numbers between the ends the input may cross each.
            threshold = np.where(np.isfinite(u.high), np.floor(u.high), 0.0)
        side = np.broadcast_to(self.sides.get(number, np.zeros(())), u.shape)
        sign = self.sign(plus(*_alike(u, point(-threshold))))
        sign = np.where(side == 0, sign, np.where(side == 2, 0.0, side))
        is_below_all = u.high < threshold
        if isinstance(operator, Floor):
            at_least = np.floor(u.low)
            is_one_below = at_least >= threshold - 1
            sign = np.where((side == 0) & (at_least == threshold) & ~is_below_all, 1.0, sign)
            sign = np.where((side == 0) & ~np.isfinite(u.low + u.high), math.nan, sign)
            sign = np.where(is_one_below, sign, math.nan)
            decided = np.where(sign < 0, threshold - 1, threshold)
            least, most = at_least, np.floor(u.high)
        else:
            decided = operator.run(np.where(np.isnan(sign), 0.0, sign) + _threshold_of(operator))
            least = operator.run(np.full(u.shape, -1.0) + _threshold_of(operator))
            most = operator.run(np.full(u.shape, 1.0) + _threshold_of(operator))
            least, most = np.minimum(least, most), np.maximum(least, most)
        undecided = np.isnan(sign)
        self.steps[number] = Step(u, threshold, undecided)
        value = enclosing((np.where(undecided, least, decided), np.where(undecided, most, decided)))
        infinite = np.where(undecided, math.inf, 0.0)
        return value, enclosing((-infinite, infinite))

    def look_up(self, table: FloatArray, u: Dual[Interval]) -> Dual[Interval]:
        low, high = (np.clip(np.nan_to_num(end), 0, len(table) - 1).astype(np.intp) for end in u.value.ends)
        is_inside = (u.value.low >= 0) & (u.value.high <= len(table) - 1)
        is_one = is_exact(u.value) & (u.value.low == low)
        slope = np.where(is_one & (u.slope.magnitude() == 0), 0.0, math.inf)
        least = np.where(is_one, table[low], table.min())
        most = np.where(is_one, table[high], table.max())
        return Dual(enclosing((least, most)), enclosing((-slope, slope)), np.logical_and(u.is_defined, is_inside))


def _threshold_of(operator: Operator) -> float:
    return operator.threshold if isinstance(operator, Compare) else 0.0


def _alike(a: Interval, b: Interval) -> tuple[Interval, Interval]:
    """Return two intervals in their common shape."""
    if a.shape == b.shape:
        return a, b
    shape = np.broadcast_shapes(a.shape, b.shape)
    first, second = (
        x if x.shape == shape else enclosing((np.broadcast_to(x.low, shape), np.broadcast_to(x.high, shape)))
        for x in (a, b)
    )
    return first, second


def _where(mask: NDArray[np.bool_], a: Interval, b: Interval) -> Interval:
    return enclosing((np.where(mask, a.low, b.low), np.where(mask, a.high, b.high)))
