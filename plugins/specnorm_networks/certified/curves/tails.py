"""Values and slopes of a program for large arguments: as powers times exponentials times a bounded factor.

For an argument ``x = side y`` with side = 1 or -1 and ``y >= T``, each quantity is ``q(y) = exp(k y) y^p r(y)``, with
an interval that contains r(y) for all such y. The pair (k, p) is the order of q. A sum has the larger order of both
summands. The smaller order divided by the larger one falls for y >= T (else `UnknownError`), so that it is at most its
value at T. Slopes are derivatives by y.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import Interval, enclosing, host, point
from specnorm_networks.certified.curves.intervals import OnIntervals, is_exact
from specnorm_networks.certified.curves.programs import Arithmetic, Dual, UnknownError
from specnorm_networks.certified.operators.base import FloatArray, Operator, Pointwise
from specnorm_networks.certified.operators.piecewise import Abs, LeakyReLU, Negative, ReLU
from specnorm_networks.certified.operators.smooth import ELU, Arctan, Erf, Sigmoid, Softplus, Softsign, Tanh
from specnorm_networks.certified.operators.steep import Exp, Log, Power, Reciprocal, Rsqrt, Sqrt, Steep

ERROR = 2.0**-40
"""Relative error of the elementary functions here, with room to spare."""
TINY = 1e-300
"""Upper bound of an exponential that is too small to be computed, and of what underflow can take from one."""
LARGEST_EXPONENT = 700.0
"""Largest x for which exp(x) is computed: it does not overflow, nor does exp(-x) underflow."""
LARGEST_POWER = 64
"""Largest p, in absolute value."""
LARGEST_RATE = 2.0**40
"""Largest k, in absolute value."""
CONSTANT = (Fraction(0), Fraction(0))
"""Order of quantities that neither grow nor fall."""
LINEAR = (Fraction(0), Fraction(1))
"""Order of y."""
NEAR = OnIntervals()
"""Arithmetic of the factors r."""


@dataclass(frozen=True, eq=False)
class Tail:
    """A quantity ``exp(rate y) y^power r(y)``, with r(y) in an interval: one for each function, or one for all."""

    factor: Interval
    power: Fraction = Fraction(0)
    rate: Fraction = Fraction(0)

    def __post_init__(self) -> None:
        if not np.isfinite(self.factor.magnitude()).all():
            raise UnknownError
        if abs(self.power) > LARGEST_POWER or abs(self.rate) > LARGEST_RATE:
            raise UnknownError

    @property
    def is_zero(self) -> bool:
        """Whether the quantity is 0."""
        return not self.factor.magnitude().any()

    @property
    def order(self) -> tuple[Fraction, Fraction]:
        """Rate and power: of two orders, the larger one grows faster."""
        return self.rate, self.power

    def with_factor(self, factor: Interval) -> Tail:
        """Return a quantity of the same order."""
        return Tail(factor, self.power, self.rate)


@dataclass(frozen=True, eq=False)
class OnTail(Arithmetic[Tail]):
    """Arithmetic of quantities for ``y >= start``; ``start`` is at least 16, from where on log y / y falls."""

    start: float

    def argument(self, side: int) -> Dual[Tail]:
        """Return x = side y."""
        factor = point(np.array(float(side)))
        return Dual(Tail(factor, power=Fraction(1)), Tail(factor))

    def interval(self, x: Tail) -> Interval:
        """Return the interval in which a quantity lies."""
        least, most = self._powers(*x.order)
        if least == most == 1:
            return x.factor
        with np.errstate(invalid="ignore"):
            ends = [np.where(end == 0, 0.0, end * power) for end in x.factor.ends for power in (least, most)]
            ends = [np.where(np.isnan(end), 0.0, end) for end in ends]  # 0 times infinity
        low, high = np.minimum.reduce(ends), np.maximum.reduce(ends)
        return enclosing((np.where(low == 0, 0.0, host.next_down(low)), np.where(high == 0, 0.0, host.next_up(high))))

    def _powers(self, rate: Fraction, power: Fraction) -> tuple[float, float]:
        """Return the smallest and largest ``exp(rate y) y^power`` over all y >= start."""
        if rate == power == 0:
            return 1.0, 1.0
        # The derivative of the logarithm, rate + power / y, must not change its sign from ``start`` on.
        slope_at_start = rate * Fraction(self.start) + power
        rises = rate > 0 or (rate == 0 and power > 0)
        if slope_at_start == 0 or (slope_at_start > 0) != rises:
            raise UnknownError
        terms = float(rate) * self.start, float(power) * math.log(self.start)
        error = ERROR * (1 + sum(map(abs, terms)))
        if rises:
            return math.exp(min(sum(terms) - error, LARGEST_EXPONENT)), math.inf
        return 0.0, max(math.exp(max(sum(terms) + error, -LARGEST_EXPONENT)), TINY)

    def number(self, numbers: Interval) -> Tail:
        return Tail(numbers)

    def add(self, a: Tail, b: Tail) -> Tail:
        if a.is_zero or b.is_zero:
            return b if a.is_zero else a
        larger, smaller = (b, a) if a.order < b.order else (a, b)
        factor = smaller.factor
        if larger.order != smaller.order:
            _, most = self._powers(smaller.rate - larger.rate, smaller.power - larger.power)
            factor = NEAR.multiply(factor, enclosing((np.zeros(()), np.array(most))))
        return larger.with_factor(NEAR.add(larger.factor, factor))

    def multiply(self, a: Tail, b: Tail) -> Tail:
        if a.is_zero or b.is_zero:
            return Tail(point(np.zeros(())))
        return Tail(NEAR.multiply(a.factor, b.factor), a.power + b.power, a.rate + b.rate)

    def square(self, a: Tail) -> Tail:
        return Tail(NEAR.square(a.factor), 2 * a.power, 2 * a.rate)

    def inverse(self, a: Tail) -> tuple[Tail, Any]:
        inverse, is_defined = NEAR.inverse(a.factor)
        if not np.all(is_defined):
            raise UnknownError
        return Tail(inverse, -a.power, -a.rate), True

    def sign(self, a: Tail, *, weakly: bool = False) -> FloatArray:
        return NEAR.sign(self.interval(a), weakly=weakly)

    def choose(self, mask: NDArray[np.bool_], a: Dual[Tail], b: Dual[Tail]) -> Dual[Tail]:
        if mask.all() or not mask.any():
            return super().choose(mask, a, b)
        parts = []
        for x, y in ((a.value, b.value), (a.slope, b.slope)):
            if x.order != y.order and not (x.is_zero or y.is_zero):
                raise UnknownError
            low, high = (np.where(mask, *ends) for ends in zip(x.factor.ends, y.factor.ends, strict=True))
            parts.append((y if x.is_zero else x).with_factor(enclosing((low, high))))
        return Dual(*parts)

    def step(self, number: int, operator: Operator, u: Tail) -> tuple[Tail, Tail]:
        value, slope = NEAR.step(number, operator, self.interval(u))
        return Tail(value), Tail(slope)  # an undecided step has an infinite slope

    def look_up(self, table: FloatArray, u: Dual[Tail]) -> Dual[Tail]:
        found = NEAR.look_up(table, Dual(self.interval(u.value), self.interval(u.slope)))
        if not np.all(found.is_defined):
            raise UnknownError
        return Dual(Tail(found.value), Tail(found.slope))

    # -- functions of one variable -------------------------------------------------------------------------------------
    def function(self, f: Pointwise, u: Tail) -> tuple[Tail, Tail, Any]:
        if isinstance(f, Steep):
            return *self._steep(f, u), True
        ends = self.interval(u)
        value, slope, _ = NEAR.function(f, ends)
        if not np.isfinite(value.magnitude()).all():
            return self._by_slope(f, u, ends, slope), self._slope(f, u, slope), True
        return Tail(value), self._slope(f, u, slope), True

    def _by_slope(self, f: Pointwise, u: Tail, ends: Interval, slope: Interval) -> Tail:
        """Return f(u) for unbounded u: ``f(c) + s (u - c)`` for an end c of u, with s between the slopes."""
        is_rising = np.isfinite(ends.low)
        if not (is_rising | np.isfinite(ends.high)).all():
            raise UnknownError
        c = point(np.where(is_rising, ends.low, ends.high))
        # These are one line through 0 where the slope is one number.
        if type(f) in (Abs, LeakyReLU, Negative, ReLU) and is_exact(slope).all():
            return self.multiply(Tail(slope), u)
        at_c, _, _ = NEAR.function(f, c)
        shift = NEAR.add(at_c, -NEAR.multiply(slope, c))
        return self.add(self.multiply(Tail(slope), u), Tail(shift))

    def _slope(self, f: Pointwise, u: Tail, slope: Interval) -> Tail:
        """Return f'(u). Where f' is known to tend to 0 for large u, the returned quantity does so, too."""
        tends_up = u.order > CONSTANT and bool((u.factor.low > 0).all())
        tends_down = u.order > CONSTANT and bool((u.factor.high < 0).all())
        tends = tends_up or tends_down
        if tends and type(f) in (Arctan, Softsign):  # at most 1 / u^2
            inverse, _ = self.inverse(self.square(u))
            return inverse.with_factor(enclosing((np.zeros(inverse.factor.shape), inverse.factor.high)))
        # A bound ``largest exp(-|u|)`` of |f'(u)|.
        largest: float | None = None
        if tends and type(f) in (Sigmoid, Tanh, Erf):
            # In this order the slopes are at most exp(-|u|), 4 exp(-2 |u|), and 2 / root of pi times exp(-u^2), where
            # u^2 >= |u| - 1/4. All are at most 4 exp(-|u|).
            largest = 4.0
        elif tends_down and type(f) is Softplus:
            largest = 1.0
        elif tends_down and type(f) is ELU:
            largest = abs(f.alpha)
        growth = None if largest is None else self._growth(u)
        if growth is None:
            return Tail(slope)
        signs = (-1.0, 0.0) if type(f) is ELU and f.alpha < 0 else (0.0, 1.0)
        low, high = (np.full(u.factor.shape, (largest or 0.0) * sign) for sign in signs)
        return Tail(enclosing((low, high)), rate=-growth)

    def _growth(self, u: Tail) -> Fraction | None:
        """Return a number g > 0 with ``|u| >= g y``, rounded down; None if u grows more slowly than y."""
        smallest = float(u.factor.mignitude().min())
        if u.rate == 0 and u.power >= 1:
            least, _ = self._powers(Fraction(0), u.power - 1)  # y^p >= T^(p - 1) y
        elif u.rate > 0 and u.power >= 0:
            least = float(u.rate)  # exp(k y) >= k y
        else:
            return None
        growth = min(smallest * least * (1 - 4 * ERROR), 2.0**20)
        return Fraction(growth) if growth > 0 else None

    def _steep(self, f: Steep, u: Tail) -> tuple[Tail, Tail]:
        """Return f(u) and f'(u) of a function whose slope is not bounded."""
        if type(f) is Exp:
            value = self._exponential(u)
            return value, value
        if type(f) is Power:
            power = Tail(point(np.ones(())))
            for _ in range(f.exponent - 1):
                power = self.multiply(power, u)
            return self.multiply(power, u), self.multiply(power, Tail(point(np.array(float(f.exponent)))))
        if type(f) is Reciprocal:
            inverse, _ = self.inverse(u)
            scale = Tail(point(np.array(f.scale)))
            return self.multiply(inverse, scale), self.multiply(self.square(inverse), self.multiply(scale, _MINUS_ONE))
        if not (u.factor.low > 0).all():
            raise UnknownError
        inverse, _ = self.inverse(u)
        if type(f) is Log:
            return self._logarithm(u), inverse
        root = Tail(u.factor.root(), u.power / 2, u.rate / 2)
        inverse_root, _ = self.inverse(root)
        if type(f) is Sqrt:
            return root, self.multiply(inverse_root, _HALF)
        if type(f) is Rsqrt:
            slope = self.multiply(self.multiply(inverse_root, inverse), _HALF)
            return inverse_root, self.multiply(slope, _MINUS_ONE)
        raise UnknownError

    def _exponential(self, u: Tail) -> Tail:
        low, high = self.interval(u).ends
        if u.order == LINEAR and is_exact(u.factor).all() and u.factor.low.size == 1:
            return Tail(point(np.ones(())), rate=Fraction(float(u.factor.low.reshape(()))))
        if np.isfinite(low).all() and (high < LARGEST_EXPONENT).all():
            least = np.maximum(np.exp(low) * (1 - ERROR) - TINY, 0.0)
            return Tail(enclosing((least, np.exp(high) * (1 + ERROR) + TINY)))
        growth = self._growth(u) if (u.factor.high < 0).all() else None
        if growth is None:
            raise UnknownError
        return Tail(enclosing((np.zeros(()), np.ones(()))), rate=-growth)

    def _logarithm(self, u: Tail) -> Tail:
        """Return ``rate y + power log y + log r``; log y is between 0 and ``(log T / T) y``, since log y / y falls."""
        logarithms = [_outward(np.log(end), outward) for end, outward in zip(u.factor.ends, (-1, 1), strict=True)]
        value = Tail(enclosing((logarithms[0], logarithms[1])))
        if u.rate:
            rate = np.array(float(u.rate))
            value = self.add(Tail(enclosing((host.next_down(rate), host.next_up(rate))), power=Fraction(1)), value)
        if u.power:
            most = float(u.power) * math.log(self.start) / self.start * (1 + ERROR)
            ends = np.array(min(most, 0.0)), np.array(max(most, 0.0))
            value = self.add(Tail(enclosing(ends), power=Fraction(1)), value)
        return value


_HALF = Tail(point(np.array(0.5)))
_MINUS_ONE = Tail(point(np.array(-1.0)))


def _outward(x: FloatArray, direction: int) -> FloatArray:
    return np.asarray(x + direction * ERROR * (1 + abs(x)))
