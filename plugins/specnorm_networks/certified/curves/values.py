"""Values and slopes of functions of one number x, rounded outward: on intervals of x, and for all large ``y = |x|``.

For ``y >= start`` each quantity is ``y^power r``, with an interval that contains r for all such y. A sum has the larger
power of both summands, since the smaller one divided by the larger one is at most its value at the start. On an
interval of x all powers are 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import Interval, anything, enclosing, host, point
from specnorm_networks.certified.operators.base import FloatArray, Pointwise
from specnorm_networks.certified.operators.piecewise import Abs, LeakyReLU, Negative, ReLU
from specnorm_networks.certified.operators.smooth import ELU, Arctan, Cos, Erf, Sigmoid, Sin, Softplus, Softsign, Tanh
from specnorm_networks.certified.operators.steep import Exp, Log, Power, Reciprocal, Sqrt, Steep

VALUE_AT_ZERO: dict[type[Pointwise], float] = {
    **dict.fromkeys((Arctan, Erf, Sin, Softsign, Tanh, Sqrt), 0.0),
    Exp: 1.0, Cos: 1.0, Sigmoid: 0.5,
}  # fmt: skip
"""Exact values of functions at 0: branches that meet there have to agree exactly."""
EXPONENTIALS: dict[type[Pointwise], tuple[int, float]] = {
    **dict.fromkeys((Sigmoid, Tanh, Erf), (0, 4.0)), Softplus: (-1, 1.0), ELU: (-1, 1.0), Exp: (-1, 1.0),
}  # fmt: skip
"""Functions whose slopes fall exponentially: on which side (0: on both), and c with ``|f'(u)| <= c exp(-|u|)`` there.

Erf has at most ``2 / root of pi times exp(-u^2)``, where ``u^2 >= |u| - 1/4``. ELU's slope is multiplied by alpha.
"""
FALL = 8
"""Power y^-8 by which an exponential is bounded."""
LARGEST_POWER = 20
"""Largest power, in absolute value: powers of a start are numbers without rounding."""
ERROR = 2.0**-40
"""Relative error of a computed exponential, with room to spare."""
TINY = 1e-300
"""Upper bound of an exponential that is too small to be computed."""


# -- intervals ---------------------------------------------------------------------------------------------------------
def is_exact(x: Interval) -> NDArray[np.bool_]:
    """Whether an interval is one number."""
    return np.asarray((x.low == x.high) & np.isfinite(x.low))


def times(a: Interval, b: Interval) -> Interval:
    """Return the product of two intervals.

    It is exact if a factor is the number -1, 0 or 1, or if two numbers are multiplied without rounding. Rounding
    outward never gives the product a sign that it cannot have.
    """
    a, b = _alike(a, b)
    with np.errstate(invalid="ignore", over="ignore"):
        low, high = (a * b).ends
        is_above = ((a.low >= 0) & (b.low >= 0)) | ((a.high <= 0) & (b.high <= 0))
        is_below = ((a.low >= 0) & (b.high <= 0)) | ((a.high <= 0) & (b.low >= 0))
        low = np.where(is_above, np.maximum(low, 0.0), low)
        high = np.where(is_below, np.minimum(high, 0.0), high)
        for factor, rest in ((a, b), (b, a)):
            if not is_exact(factor).any():
                continue
            for number, product in ((0.0, (0.0, 0.0)), (1.0, rest.ends), (-1.0, (-rest.high, -rest.low))):
                is_number = (factor.low == number) & (factor.high == number)
                low = np.where(is_number, product[0], low)
                high = np.where(is_number, product[1], high)
        are_exact = is_exact(a) & is_exact(b)
        if are_exact.any():
            is_unrounded = are_exact & _is_product_exact(a.low, b.low)
            low, high = (np.where(is_unrounded, a.low * b.low, end) for end in (low, high))
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
    a, b = _alike(a, b)
    with np.errstate(invalid="ignore", over="ignore"):
        low = _rounded_sum(a.low, b.low, host.next_down)
        return enclosing((low, _rounded_sum(a.high, b.high, host.next_up)))


def _rounded_sum(a: FloatArray, b: FloatArray, outward: Callable[[FloatArray], FloatArray]) -> FloatArray:
    """Return a sum, moved outward where it was rounded: where Knuth's error of a sum (TwoSum) is not 0."""
    total = a + b
    part = total - a
    error = (a - (total - part)) + (b - part)
    return np.where(error == 0, total, outward(total))


def where(mask: NDArray[np.bool_], a: Interval, b: Interval) -> Interval:
    """Return the first interval where a mask is true, else the second."""
    return enclosing((np.where(mask, a.low, b.low), np.where(mask, a.high, b.high)))


def hull(a: Interval, b: Interval) -> Interval:
    """Return the smallest interval that contains both."""
    return enclosing((np.minimum(a.low, b.low), np.maximum(a.high, b.high)))


def _alike(a: Interval, b: Interval) -> tuple[Interval, Interval]:
    """Return two intervals in their common shape."""
    if a.shape == b.shape:
        return a, b
    shape = np.broadcast_shapes(a.shape, b.shape)
    first, second = (enclosing((np.broadcast_to(x.low, shape), np.broadcast_to(x.high, shape))) for x in (a, b))
    return first, second


# -- quantities --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Quantity:
    """A quantity ``y^power r``, with r in an interval."""

    factor: Interval
    power: int = 0

    @property
    def is_zero(self) -> bool:
        """Whether the quantity is 0."""
        return not self.factor.magnitude().any()


@dataclass(frozen=True, eq=False)
class Dual:
    """A value with its derivative by x."""

    value: Quantity
    slope: Quantity
    is_defined: Any = True
    """Whether the value is defined for all arguments; booleans that broadcast against an interval's shape."""


def number(x: float) -> Quantity:
    """Return a fixed number."""
    return Quantity(point(np.array(x)))


@dataclass(frozen=True)
class Arithmetic:
    """Sums, products and functions of quantities; ``start``, a power of two, is 0 on intervals of x."""

    start: float = 0.0

    def interval(self, x: Quantity) -> Interval:
        """Return the interval in which a quantity lies."""
        if x.power == 0:
            return x.factor
        most = self.start**x.power
        ends = (most, math.inf) if x.power > 0 else (0.0, most)
        return times(x.factor, enclosing((np.array(ends[0]), np.array(ends[1]))))

    def raised(self, x: Quantity, power: int) -> Interval:
        """Return the factor of a quantity that is written with a larger power."""
        if x.power == power:
            return x.factor
        return times(x.factor, enclosing((np.zeros(()), np.array(self.start ** (x.power - power)))))

    def add(self, a: Quantity, b: Quantity) -> Quantity:
        """Return a sum."""
        if a.is_zero or b.is_zero:
            return b if a.is_zero else a
        power = max(a.power, b.power)
        return Quantity(plus(self.raised(a, power), self.raised(b, power)), power)

    def multiply(self, a: Quantity, b: Quantity) -> Quantity:
        """Return a product."""
        return self._limited(Quantity(times(a.factor, b.factor), a.power + b.power))

    def _limited(self, x: Quantity) -> Quantity:
        if x.is_zero or x.power > LARGEST_POWER:
            return Quantity(where(x.factor.magnitude() == 0, x.factor, anything(x.factor.shape)))
        return x if x.power >= -LARGEST_POWER else Quantity(self.raised(x, -LARGEST_POWER), -LARGEST_POWER)

    def square(self, a: Quantity) -> Quantity:
        """Return a square."""
        product = times(a.factor, a.factor)
        least = point(a.factor.mignitude())
        low = np.minimum(times(least, least).low, product.high)
        return self._limited(Quantity(enclosing((np.maximum(low, product.low), product.high)), 2 * a.power))

    def inverse(self, a: Quantity) -> Quantity:
        """Return 1 over a quantity."""
        factor = a.factor
        inverse = factor.inverse()
        is_one = is_exact(factor) & (abs(factor.low) == 1)
        return Quantity(where(is_one, factor, inverse), -a.power)

    def where(self, mask: NDArray[np.bool_], a: Quantity, b: Quantity) -> Quantity:
        """Return the first quantity where a mask is true, else the second."""
        power = max(a.power if mask.any() else b.power, b.power if not mask.all() else a.power)
        first, second = (self.raised(x, power) if x.power <= power else anything(()) for x in (a, b))
        return Quantity(where(mask, first, second), power)

    def function(self, f: Pointwise, u: Quantity) -> tuple[Quantity, Quantity, Any]:
        """Return f(u), f'(u), and whether both are defined."""
        ends = self.interval(u)
        value, slope = _on_interval(f, ends)
        is_defined: Any = True
        if isinstance(f, Sqrt):
            is_defined = ends.low >= 0
        elif isinstance(f, Reciprocal):
            is_defined = ends.mignitude() > 0
        elif isinstance(f, Steep) and f.positive:
            is_defined = ends.low > 0
        if not u.power:
            return Quantity(value), Quantity(slope), is_defined
        if isinstance(f, Steep) and not isinstance(f, Exp):
            return *self._steep(f, u, value, slope), is_defined
        fall = self._fall(f, u)
        if isinstance(f, Exp) and fall is not None:
            return fall, fall, True
        if np.isfinite(value.magnitude()).all():
            return Quantity(value), fall or Quantity(slope), True
        # f(u) = f(c) + s (u - c) for an end c of u, with s between the slopes.
        if type(f) in (Abs, LeakyReLU, Negative, ReLU) and is_exact(slope).all():
            return self.multiply(Quantity(slope), u), Quantity(slope), True
        c = point(np.where(np.isfinite(ends.low), ends.low, np.where(np.isfinite(ends.high), ends.high, 0.0)))
        at_c, _ = _on_interval(f, c)
        is_within = np.isfinite(ends.low) | np.isfinite(ends.high)
        shift = where(is_within, plus(at_c, -times(slope, c)), anything(slope.shape))
        return self.add(self.multiply(Quantity(slope), u), Quantity(shift)), fall or Quantity(slope), True

    def _fall(self, f: Pointwise, u: Quantity) -> Quantity | None:
        """Return the slope of a function at large u if it falls with |u|; None if nothing is known of that."""
        tends_up, tends_down = bool((u.factor.low > 0).all()), bool((u.factor.high < 0).all())
        if u.power < 1 or not (tends_up or tends_down):
            return None
        zeros = np.zeros(u.factor.shape)
        if type(f) in (Arctan, Softsign):  # at most 1 / u^2
            inverse = self.inverse(self.square(u))
            return Quantity(enclosing((zeros, inverse.factor.high)), inverse.power)
        side, largest = EXPONENTIALS.get(type(f), (0, 0.0))
        # |u| >= growth y. From the start on, y^8 exp(-growth y) falls.
        growth = float(u.factor.mignitude().min()) * self.start ** (u.power - 1) * (1 - ERROR)
        if not largest or (side < 0 and not tends_down) or growth * self.start < FALL:
            return None
        most = (math.exp(-min(growth * self.start, 700.0)) * (1 + ERROR) + TINY) * self.start**FALL * largest
        return Quantity(enclosing((zeros, zeros + most * (f.alpha if isinstance(f, ELU) else 1.0))), -FALL)

    def _steep(self, f: Steep, u: Quantity, value: Interval, slope: Interval) -> tuple[Quantity, Quantity]:
        """Return f(u) and f'(u), for large u, of a function whose slope has no bound.

        ``value``, ``slope``: the same as intervals.
        """
        inverse = self.inverse(u)
        if isinstance(f, Power):
            power = number(1.0)
            for _ in range(f.exponent - 1):
                power = self.multiply(power, u)
            return self.multiply(power, u), self.multiply(power, number(float(f.exponent)))
        if isinstance(f, Reciprocal):
            return self.multiply(inverse, number(f.scale)), self.multiply(self.square(inverse), number(-f.scale))
        if isinstance(f, Log):
            return Quantity(value), inverse
        if isinstance(f, Sqrt) and u.power % 2 == 0 and (u.factor.low > 0).all():
            root = Quantity(u.factor.root(), u.power // 2)
            return root, self.multiply(self.inverse(root), number(0.5))
        return Quantity(value), Quantity(slope)


def _on_interval(f: Pointwise, u: Interval) -> tuple[Interval, Interval]:
    """Return the values and the slopes of a function on intervals; f may have a parameter a channel."""
    with np.errstate(all="ignore"):
        low, high = f.between(*u.ends)
        if isinstance(f, Steep):
            slope_low, slope_high = f.derivative(u).ends
        else:
            slope_low, slope_high = f.slopes(*u.ends) or anything(u.shape).ends
    at_zero = VALUE_AT_ZERO.get(type(f))
    if at_zero is not None:
        is_zero = (u.low == 0) & (u.high == 0)
        low, high = np.where(is_zero, at_zero, low), np.where(is_zero, at_zero, high)
    shape = np.broadcast_shapes(u.shape, low.shape, slope_low.shape)
    value_low, value_high, slope_low, slope_high = (
        np.broadcast_to(end, shape) for end in (low, high, slope_low, slope_high)
    )
    return enclosing((value_low, value_high)), enclosing((slope_low, slope_high))
