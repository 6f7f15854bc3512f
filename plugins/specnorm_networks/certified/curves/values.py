"""Values and slopes of functions of one number x, rounded outward: on intervals of x, and for all large ``y = |x|``.

For ``y >= start`` each quantity is ``y^power r``, with an interval that contains r for all such y. A sum has the larger
power of both summands, since the smaller one divided by the larger one is at most its value at the start. On an
interval of x all powers are 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import Interval, anything, enclosing, host, point
from specnorm_networks.certified.operators.base import FloatArray, LowHigh, Pointwise
from specnorm_networks.certified.operators.smooth import ELU, Arctan, Cos, Erf, Sigmoid, Sin, Softplus, Softsign, Tanh
from specnorm_networks.certified.operators.steep import Exp, Log, Power, Sqrt, Steep

Mask: TypeAlias = NDArray[np.bool_]
VALUE_AT_ZERO: dict[type[Pointwise], float] = {
    **dict.fromkeys((Arctan, Erf, Sin, Softsign, Tanh), 0.0),
    Exp: 1.0, Cos: 1.0, Sigmoid: 0.5,
}  # fmt: skip
"""Exact values of functions at 0: branches that meet there have to agree exactly."""
FALLS_ON_BOTH_SIDES = (Sigmoid, Tanh, Erf)
"""Functions whose slopes are at most ``4 exp(-|u|)``; Erf's is ``2 / root of pi exp(-u^2)``, and u^2 >= |u| - 1/4."""
FALLS_BELOW = (Softplus, ELU, Exp)
"""Functions whose slopes are at most ``exp(u)`` for u < 0, that of ELU alpha times as much."""
FALL = 8
"""Power y^-8 by which an exponential is bounded."""
LARGEST_POWER = 12
"""Largest power, in absolute value: twice this power of a start is a number without rounding."""
ERROR = 2.0**-40
"""Relative error of a computed exponential, with room to spare."""
TINY = 1e-300
"""Upper bound of an exponential that is too small to be computed."""


# -- intervals ---------------------------------------------------------------------------------------------------------
def is_exact(x: Interval) -> Mask:
    """Whether an interval is one number."""
    return np.asarray((x.low == x.high) & np.isfinite(x.low))


def times(a: Interval, b: Interval) -> Interval:
    """Return the product of two intervals, with ends that are not rounded if their factors are simple numbers."""
    low, high = zip(*(_product(x, y) for x in a.ends for y in b.ends), strict=True)
    return enclosing((np.minimum.reduce(low), np.maximum.reduce(high)))


def _product(x: FloatArray, y: FloatArray) -> LowHigh:
    """Return a product, rounded down and up unless it is exact; 0 times infinity is 0.

    It is exact if a factor is -1, 0 or 1, or if both are numbers of single precision, whose digits are half as many.
    """
    with np.errstate(all="ignore"):
        product = np.where((x == 0) | (y == 0), 0.0, x * y)
        are_single = (x == x.astype(np.float32)) & (y == y.astype(np.float32))
    is_exact = are_single | (x == 0) | (y == 0) | (abs(x) == 1) | (abs(y) == 1)
    down = np.where(is_exact, product, host.next_down(product))
    return down, np.where(is_exact, product, host.next_up(product))


def plus(a: Interval, b: Interval) -> Interval:
    """Return the sum of two intervals, exact if nothing is rounded."""
    with np.errstate(invalid="ignore", over="ignore"):
        low = _sum(a.low, b.low, host.next_down)
        return enclosing((low, _sum(a.high, b.high, host.next_up)))


def _sum(a: FloatArray, b: FloatArray, outward: Callable[[FloatArray], FloatArray]) -> FloatArray:
    """Return a sum, moved outward where it was rounded: where Knuth's error of a sum (TwoSum) is not 0."""
    total = a + b
    part = total - a
    error = (a - (total - part)) + (b - part)
    return np.where(error == 0, total, outward(total))


def hull(a: Interval, b: Interval) -> Interval:
    """Return the smallest interval that contains both."""
    return enclosing((np.minimum(a.low, b.low), np.maximum(a.high, b.high)))


# -- quantities --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Quantity:
    """A quantity ``y^power r`` for ``y >= start``, a power of two, with r in an interval."""

    factor: Interval
    power: int = 0
    start: float = 1.0

    def interval(self) -> Interval:
        """Return the interval in which the quantity lies."""
        if self.power <= 0:
            return self.raised(0, self.start)
        least = np.array(self.start**self.power)
        return times(self.factor, enclosing((least, np.array(math.inf))))

    def raised(self, power: int, start: float) -> Interval:
        """Return the factor of the quantity, written with a larger power."""
        if self.power == power:
            return self.factor
        most = np.array(start ** (self.power - power))
        return times(self.factor, enclosing((np.zeros(()), most)))

    def is_zero(self) -> bool:
        """Whether the quantity is 0."""
        return not self.factor.magnitude().any()

    def limited(self) -> Quantity:
        """Return the quantity with a power that is not too large."""
        if self.power < -LARGEST_POWER:
            return Quantity(self.raised(-LARGEST_POWER, self.start), -LARGEST_POWER, self.start)
        return self if self.power <= LARGEST_POWER else Quantity(self.interval())

    def __add__(self, other: Quantity) -> Quantity:
        if self.is_zero() or other.is_zero():
            return other if self.is_zero() else self
        power = max(self.power, other.power)
        start = max(self.start, other.start)
        return Quantity(plus(self.raised(power, start), other.raised(power, start)), power, start)

    def __sub__(self, other: Quantity) -> Quantity:
        return self + Quantity(-other.factor, other.power, other.start)

    def __mul__(self, other: Quantity) -> Quantity:
        factor = times(self.factor, other.factor)
        return Quantity(factor, self.power + other.power, max(self.start, other.start)).limited()

    def square(self) -> Quantity:
        """Return the square, which is not negative."""
        low, high = times(self.factor, self.factor).ends
        return Quantity(enclosing((np.maximum(low, 0.0), high)), 2 * self.power, self.start).limited()

    def inverse(self) -> Quantity:
        """Return 1 over the quantity."""
        return Quantity(self.factor.inverse(), -self.power, self.start)


def number(x: float) -> Quantity:
    """Return a fixed number."""
    return Quantity(point(np.array(x)))


def choose(mask: Mask, a: Quantity, b: Quantity) -> Quantity:
    """Return the first quantity where a mask is true, else the second."""
    if mask.all() or not mask.any():
        return a if mask.all() else b
    power = max(a.power, b.power)
    start = max(a.start, b.start)
    first, second = (x.raised(power, start) for x in (a, b))
    low = np.where(mask, first.low, second.low)
    high = np.where(mask, first.high, second.high)
    return Quantity(enclosing((low, high)), power, start)


@dataclass(frozen=True, eq=False)
class Dual:
    """A value with its derivative by x."""

    value: Quantity
    slope: Quantity
    is_defined: Any = True
    """Whether the value is defined for all arguments; booleans that broadcast against an interval's shape."""


# -- functions ---------------------------------------------------------------------------------------------------------
def function(f: Pointwise, u: Quantity) -> Dual:
    """Return f(u), with f'(u) for its slope."""
    ends = u.interval()
    match f:
        case Power():
            below = _power(u, f.exponent - 1)
            return Dual(below * u, number(float(f.exponent)) * below)
        case Sqrt() if u.power and u.power % 2 == 0 and (u.factor.low > 0).all():
            root = Quantity(u.factor.root(), u.power // 2, u.start)
            return Dual(root, number(0.5) * root.inverse())
        case Log():
            return Dual(Quantity(_on_interval(f, ends)[0]), u.inverse(), ends.low > 0)
    value, slope = _on_interval(f, ends)
    is_defined = ends.low >= 0 if isinstance(f, Sqrt) else True
    if u.power == 0:
        return Dual(Quantity(value), Quantity(slope), is_defined)
    fall = _fall(f, u)
    if isinstance(f, Exp) and fall is not None:
        return Dual(fall, fall)
    at_u = Quantity(value)
    if not np.isfinite(value.magnitude()).all():
        # f(u) = f(c) + s (u - c) for a number c in the interval of u, with s between the slopes.
        high_or_0 = np.where(np.isfinite(ends.high), ends.high, 0.0)
        c = point(np.where(np.isfinite(ends.low), ends.low, high_or_0))
        at_c, _ = _on_interval(f, c)
        at_u = Quantity(slope) * u + Quantity(plus(at_c, -times(slope, c)))
    return Dual(at_u, fall or Quantity(slope), is_defined)


def _power(u: Quantity, exponent: int) -> Quantity:
    """Return a power; even ones are not negative."""
    if exponent < 2:
        return u if exponent else number(1.0)
    even = _power(u, exponent // 2).square()
    return even * u if exponent % 2 else even


def _fall(f: Pointwise, u: Quantity) -> Quantity | None:
    """Return the slope of a function at large u if it falls with |u|; None if that is not known."""
    alpha = f.alpha if isinstance(f, ELU) else 1.0
    is_below = bool((u.factor.high < 0).all())
    falls = type(f) in FALLS_ON_BOTH_SIDES or (type(f) in FALLS_BELOW and is_below)
    # |u| >= growth y. From the start on, y^8 exp(-growth y) falls if growth start >= 8.
    growth = float(u.factor.mignitude().min()) * u.start ** (u.power - 1) * (1 - ERROR)
    if not falls or u.power < 1 or not alpha >= 0 or growth * u.start < FALL:
        return None
    at_start = math.exp(-min(growth * u.start, 700.0)) * (1 + ERROR) + TINY
    most = np.array(4 * alpha * at_start * u.start**FALL)
    return Quantity(enclosing((np.zeros(()), most)), -FALL, u.start)


def _on_interval(f: Pointwise, u: Interval) -> tuple[Interval, Interval]:
    """Return the values and the slopes of a function on intervals."""
    with np.errstate(all="ignore"):
        value = enclosing(f.between(*u.ends))
        if isinstance(f, Steep):
            slope = f.derivative(u)
        else:
            slope = enclosing(f.slopes(*u.ends) or anything(u.shape))
    if type(f) in VALUE_AT_ZERO:
        is_zero = (u.low == 0) & (u.high == 0)
        low, high = (np.where(is_zero, VALUE_AT_ZERO[type(f)], end) for end in value.ends)
        value = enclosing((low, high))
    return value, slope
