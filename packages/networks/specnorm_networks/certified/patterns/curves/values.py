"""Values and slopes of functions of one number x, rounded outward: on intervals of x, and for all large x.

For large x let ``y = |x| / start``, so that y is at least 1. Each quantity is ``y^power r``, with an interval that
contains r for all such y. A sum has the larger power of both summands: y to a negative power is between 0 and 1. On an
interval of x all powers are 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import Interval, anything, enclosing, point
from specnorm_networks.certified.operators.base import Function
from specnorm_networks.certified.operators.curved import Curved
from specnorm_networks.certified.operators.smooth import ELU, Erf, Sigmoid, Softplus, Tanh
from specnorm_networks.certified.operators.steep import Exp, Log, Power, Sqrt, Steep, power_of

Mask: TypeAlias = NDArray[np.bool_]
FALLS_ON_BOTH_SIDES = (Sigmoid, Tanh, Erf)
"""Functions whose slopes are at most ``4 exp(-|u|)``; Erf's is ``2 / root of pi exp(-u^2)``, and u^2 >= |u| - 1/4."""
FALLS_BELOW = (Softplus, ELU, Exp)
"""Functions whose slopes are at most ``exp(u)`` for u < 0, that of ELU alpha times as much."""
FALL = 8
"""Power y^-8 by which an exponential is bounded."""
ERROR = 2.0**-40
"""Relative error of a computed exponential, with room to spare."""
TINY = 1e-300
"""Upper bound of an exponential that is too small to be computed."""


ZERO = point(np.zeros(()))


@dataclass(frozen=True, eq=False)
class Quantity:
    """A quantity ``y^power r`` for y of at least 1, with r in an interval."""

    factor: Interval
    power: int = 0

    def interval(self) -> Interval:
        """Return the interval in which the quantity lies."""
        if self.power <= 0:
            return self.raised(0)
        return self.factor * enclosing((np.ones(()), np.array(math.inf)))

    def raised(self, power: int) -> Interval:
        """Return the factor of the quantity, written with a power that is at least its own."""
        return self.factor if self.power == power else self.factor | ZERO

    def __add__(self, other: Quantity) -> Quantity:
        for term, rest in ((self, other), (other, self)):
            if not term.factor.magnitude().any():
                return rest
        power = max(self.power, other.power)
        return Quantity(self.raised(power) + other.raised(power), power)

    def __sub__(self, other: Quantity) -> Quantity:
        return self + Quantity(-other.factor, other.power)

    def __mul__(self, other: Quantity) -> Quantity:
        return Quantity(self.factor * other.factor, self.power + other.power)

    def to_the(self, exponent: int) -> Quantity:
        """Return the quantity to the power of a whole number that is not negative."""
        return Quantity(power_of(self.factor, exponent), exponent * self.power)

    def inverse(self) -> Quantity:
        """Return 1 over the quantity."""
        return Quantity(self.factor.inverse(), -self.power)


def number(x: float) -> Quantity:
    """Return a fixed number."""
    return Quantity(point(np.array(x)))


def choose(mask: Mask, a: Quantity, b: Quantity) -> Quantity:
    """Return the first quantity where a mask is true, else the second."""
    if mask.all() or not mask.any():
        return a if mask.all() else b
    power = max(a.power, b.power)
    ends = zip(a.raised(power).ends, b.raised(power).ends, strict=True)
    low, high = (np.where(mask, first, second) for first, second in ends)
    return Quantity(enclosing((low, high)), power)


@dataclass(frozen=True, eq=False)
class Dual:
    """A value with its derivative by x."""

    value: Quantity
    slope: Quantity
    is_defined: Any = True
    """Whether the value is defined for all arguments; booleans that broadcast against an interval's shape."""


# -- functions ---------------------------------------------------------------------------------------------------------
def function(f: Function, u: Quantity) -> Dual:
    """Return f(u), with f'(u) for its slope."""
    ends = u.interval()
    match f:
        case Power():
            return Dual(u.to_the(f.exponent), number(float(f.exponent)) * u.to_the(f.exponent - 1))
        case Sqrt() if u.power and u.power % 2 == 0 and (u.factor.low > 0).all():
            root = Quantity(u.factor.root(), u.power // 2)
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
        at_u = Quantity(slope) * u + Quantity(at_c - slope * c)
    return Dual(at_u, fall or Quantity(slope), is_defined)


def _fall(f: Function, u: Quantity) -> Quantity | None:
    """Return the slope of a function at large u if it falls with |u|; None if that is not known."""
    alpha = f.alpha if isinstance(f, ELU) else 1.0
    is_below = bool((u.factor.high < 0).all())
    falls = type(f) in FALLS_ON_BOTH_SIDES or (type(f) in FALLS_BELOW and is_below)
    # |u| >= growth y. If growth >= 8, y^8 exp(-growth y) is largest at y = 1.
    growth = float(u.factor.mignitude().min()) * (1 - ERROR)
    if not falls or u.power < 1 or not alpha >= 0 or growth < FALL:
        return None
    most = np.array(4 * alpha * (math.exp(-min(growth, 700.0)) * (1 + ERROR) + TINY))
    return Quantity(enclosing((np.zeros(()), most)), -FALL)


def _on_interval(f: Function, u: Interval) -> tuple[Interval, Interval]:
    """Return the values and the slopes of a function on intervals."""
    with np.errstate(all="ignore"):
        value = enclosing(f.between(*u.ends))
        if isinstance(f, Steep):
            slope = f.derivative(u)
        else:
            slope = enclosing(f.slopes(*u.ends) or anything(u.shape))
    if isinstance(f, Curved) and f.value_at_zero is not None:
        is_zero = (u.low == 0) & (u.high == 0)
        low, high = (np.where(is_zero, f.value_at_zero, end) for end in value.ends)
        value = enclosing((low, high))
    return value, slope
