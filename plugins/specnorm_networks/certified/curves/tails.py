"""Values and slopes of a plan beyond a number: as powers times exponentials times an interval.

With ``x = side y`` and ``y >= T``, a quantity q is known as ``q(y) = exp(k y) y^p r(y)`` with r in an interval for all
such y. Sums have the larger order of both; the ratio of the smaller one to it falls, and is at most what it is at T.
Slopes are derivatives by y. Bounded functions have slopes that fall off exponentially, which outweighs every power.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from specnorm.proof import enclosing, host
from specnorm_networks.certified.curves.jets import slopes_of
from specnorm_networks.certified.curves.programs import (
    Above,
    If,
    Kind,
    Line,
    Masked,
    Number,
    Over,
    Pick,
    Plan,
    SignOf,
    Times,
    Total,
)
from specnorm_networks.certified.operators.base import Pointwise
from specnorm_networks.certified.operators.pointwise import (
    ELU,
    Arctan,
    Erf,
    Exp,
    Log,
    Negative,
    Piecewise,
    Power,
    Reciprocal,
    Rsqrt,
    Sigmoid,
    Softplus,
    Softsign,
    Sqrt,
    Steep,
    Tanh,
)

CLOSE = 2.0**-40
"""Relative error of the elementary functions here, with room to spare."""
LARGEST = Fraction(64)
"""Powers beyond are not looked at."""


class Unknown(Exception):
    """Nothing is known of a value beyond the number."""


@dataclass(frozen=True)
class Order:
    """``exp(rate y) y^power`` times a number between two."""

    low: float
    high: float
    power: Fraction = Fraction(0)
    rate: Fraction = Fraction(0)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise Unknown
        if abs(self.power) > LARGEST or abs(self.rate) > 2**40:
            raise Unknown

    @property
    def zero(self) -> bool:
        """Whether it is 0."""
        return self.low == self.high == 0

    @property
    def order(self) -> tuple[Fraction, Fraction]:
        """What grows faster has the larger one."""
        return self.rate, self.power


ZERO = Order(0.0, 0.0)
ONE = Order(1.0, 1.0)


def _product(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    for one, other in ((a, b), (b, a)):
        if one[0] == one[1] and one[0] in (-1.0, 0.0, 1.0):
            ends = one[0] * other[0], one[0] * other[1]
            return min(ends), max(ends)
    found = [x * y for x in a for y in b]
    return host.next_down(min(found)), host.next_up(max(found))


def _sum(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    low = a[0] + b[0]
    high = a[1] + b[1]
    exact = 0.0 in (a[0], b[0]) and 0.0 in (a[1], b[1])
    # Small whole numbers add up without rounding.
    exact = exact or all(x == int(x) and abs(x) < 2**50 for x in (*a, *b))
    return (low, high) if exact else (host.next_down(low), host.next_up(high))


class Tail:
    """A plan of one function, evaluated beyond a number.

    Parameters
    ----------
    plan : Plan
        With numbers as constants.
    side : {-1, 1}
    start : float
        T, at least 16.
    """

    def __init__(self, plan: Plan, side: int, start: float) -> None:
        self.start = start
        first = Order(float(side), float(side), Fraction(1)), Order(float(side), float(side))
        self.known: list[tuple[Order, Order]] = [first]
        self.lines: list[tuple[Fraction, Fraction] | None] = [(Fraction(side), Fraction(0))]
        """Values that are ``slope y + shift``, exactly."""
        for step in plan.steps:
            self.known.append(self._step(step.kind, [self.known[at] for at in step.reads], step.reads))
            self.lines.append(_straight(step.kind, [self.lines[at] for at in step.reads]))

    def slope(self, number: int, side: int) -> tuple[float, float]:
        """Smallest and largest slope of a value, by x.

        Raises
        ------
        Unknown
            If it has none.
        """
        low, high = self.interval(self.known[number][1])
        if not (math.isfinite(low) and math.isfinite(high)):
            raise Unknown
        return (low, high) if side > 0 else (-high, -low)

    # -- orders ---------------------------------------------------------------------------------------------------
    def _size(self, rate: Fraction, power: Fraction) -> tuple[float, float]:
        """Smallest and largest ``exp(rate y) y^power``."""
        if rate == power == 0:
            return 1.0, 1.0
        # The logarithm's derivative, rate + power / y, has one sign from T on.
        at = Fraction(self.start)
        if rate == 0:
            rises = power > 0
        else:
            rises = rate > 0
            if (rate * at + power) * rate < 0 or rate * at + power == 0:
                raise Unknown
        log = float(rate) * self.start + float(power) * math.log(self.start)
        slack = CLOSE * (1 + abs(float(rate)) * self.start + abs(float(power)) * math.log(self.start))
        if rises:
            return (math.exp(min(log - slack, 700.0)), math.inf)
        return 0.0, math.exp(log + slack) if log + slack > -700 else 1e-300

    def interval(self, x: Order) -> tuple[float, float]:
        """Where a quantity lies."""
        if x.zero:
            return 0.0, 0.0
        size = self._size(*x.order)
        if size == (1.0, 1.0):
            return x.low, x.high
        ends = [0.0 if 0.0 in (a, b) else a * b for a in size for b in (x.low, x.high)]
        return host.next_down(min(ends)), host.next_up(max(ends))

    def add(self, a: Order, b: Order) -> Order:
        """The sum."""
        if a.zero or b.zero:
            return b if a.zero else a
        if a.order < b.order:
            a, b = b, a
        low = b.low
        high = b.high
        if a.order != b.order:
            _, most = self._size(b.rate - a.rate, b.power - a.power)
            if not math.isfinite(most):
                raise Unknown
            low = host.next_down(low * most) if low < 0 else 0.0
            high = host.next_up(high * most) if high > 0 else 0.0
        total = _sum((a.low, a.high), (low, high))
        if total == (0.0, 0.0):
            return ZERO
        return Order(*total, a.power, a.rate)

    def multiply(self, a: Order, b: Order) -> Order:
        """The product."""
        if a.zero or b.zero:
            return ZERO
        return Order(*_product((a.low, a.high), (b.low, b.high)), a.power + b.power, a.rate + b.rate)

    def inverse(self, a: Order) -> Order:
        """One over it."""
        if not (a.low > 0 or a.high < 0):
            raise Unknown
        ends = 1 / a.low, 1 / a.high
        if a.low == a.high and abs(a.low) == 1:
            return Order(a.low, a.low, -a.power, -a.rate)
        return Order(host.next_down(min(ends)), host.next_up(max(ends)), -a.power, -a.rate)

    # -- steps ----------------------------------------------------------------------------------------------------
    def _step(
        self,
        kind: Kind,
        read: Sequence[tuple[Order, Order]],
        reads: Sequence[int],
    ) -> tuple[Order, Order]:
        match kind:
            case Number(values):
                return Order(float(values), float(values)), ZERO
            case Line():
                slope, shift = (Order(float(low), float(high)) for low, high in (kind.slope, kind.shift))
                return self.add(self.multiply(read[0][0], slope), shift), self.multiply(read[0][1], slope)
            case Total(weights, over):
                value = ZERO
                slope = ZERO
                for weight, (x, dx) in zip(weights, read, strict=True):
                    factor = Order(weight, weight)
                    value = self.add(value, self.multiply(x, factor))
                    slope = self.add(slope, self.multiply(dx, factor))
                if over > 1:
                    share = Order(host.next_down(1 / over), host.next_up(1 / over))
                    value = self.multiply(value, share)
                    slope = self.multiply(slope, share)
                return value, slope
            case Times():
                (a, da), (b, db) = read
                return self.multiply(a, b), self.add(self.multiply(da, b), self.multiply(a, db))
            case Over():
                (a, da), (b, db) = read
                inner = self.inverse(b)
                value = self.multiply(a, inner)
                less = self.multiply(self.multiply(value, db), Order(-1.0, -1.0))
                return value, self.multiply(self.add(da, less), inner)
            case Exp():
                return self._exponential(*read[0], self.lines[reads[0]])
            case Pointwise():
                return self._function(kind, *read[0])
        return self._choice(kind, read)

    def _choice(self, kind: Kind, read: Sequence[tuple[Order, Order]]) -> tuple[Order, Order]:
        """A step that takes one branch."""
        match kind:
            case Masked(mask):
                return read[0] if bool(mask) else read[1]
            case Pick(larger):
                sign = self._sign(read[0][0], 0.0)
                return read[1] if (sign >= 0) == larger else read[2]
            case If():
                low, high = self.interval(read[0][0])
                if low > 0 or high < 0:
                    return read[1]
                if low == high == 0:
                    return read[2]
                raise Unknown
            case Above(how, threshold):
                sign = self._sign(read[0][0], threshold)
                meets = {"gt": sign > 0, "ge": sign >= 0, "lt": sign < 0, "le": sign <= 0}[how]
                return Order(float(meets), float(meets)), ZERO
            case SignOf():
                sign = self._sign(read[0][0], 0.0)
                return Order(float(sign), float(sign)), ZERO
        raise Unknown

    def _sign(self, x: Order, threshold: float) -> int:
        """Of a quantity less a number."""
        low, high = self.interval(x)
        if low > threshold:
            return 1
        if high < threshold:
            return -1
        if low == high == threshold:
            return 0
        raise Unknown

    def _function(self, f: Pointwise, u: Order, du: Order) -> tuple[Order, Order]:
        ends = self.interval(u)
        match f:
            case Power():
                value = ONE
                slope = du
                for _ in range(f.exponent - 1):
                    value = self.multiply(value, u)
                slope = self.multiply(self.multiply(value, du), Order(float(f.exponent), float(f.exponent)))
                return self.multiply(value, u), slope
            case Reciprocal():
                inner = self.inverse(u)
                scale = Order(f.scale, f.scale)
                slope = self.multiply(self.multiply(self.multiply(inner, inner), du), Order(-f.scale, -f.scale))
                return self.multiply(inner, scale), slope
            case Sqrt() | Rsqrt() if u.low > 0:
                root = Order(
                    max(host.next_down(math.sqrt(u.low)), 0.0), host.next_up(math.sqrt(u.high)), u.power / 2, u.rate / 2
                )
                inner = self.inverse(root)
                if isinstance(f, Sqrt):
                    return root, self.multiply(self.multiply(du, inner), Order(0.5, 0.5))
                cube = self.multiply(self.multiply(inner, inner), inner)
                return inner, self.multiply(self.multiply(du, cube), Order(-0.5, -0.5))
            case Log() if u.low > 0:
                return self._logarithm(u), self.multiply(du, self.inverse(u))
            case Steep():
                raise Unknown
            case Piecewise():
                line = _line_of(f, *ends)
                if line is not None:
                    slope = Order(line[0], line[0])
                    shift = Order(line[1], line[1])
                    return self.add(self.multiply(u, slope), shift), self.multiply(du, slope)
            case ELU() if ends[0] >= 0:
                return u, du
        return self._bounded(f, u, ends), self.multiply(self._derivative(f, u, ends), du)

    def _bounded(self, f: Pointwise, u: Order, ends: tuple[float, float]) -> Order:
        """The value of a function: between two numbers, or near a line through the end that is finite."""
        low, high = (np.array(end) for end in ends)
        least, most = (float(end) for end in f.between(low, high))
        if math.isfinite(least) and math.isfinite(most):
            return Order(least, most)
        if not (math.isfinite(ends[0]) or math.isfinite(ends[1])):
            raise Unknown
        anchor = ends[0] if math.isfinite(ends[0]) else ends[1]
        there = [float(end) for end in f.between(np.array(anchor), np.array(anchor))]
        # f(u) = f(c) + s (u - c) = s u + (f(c) - s c), with one and the same s between the slopes.
        slopes = slopes_of(f, enclosing((low, high)))
        slope = Order(float(slopes.low), float(slopes.high))
        away = self.multiply(slope, Order(-anchor, -anchor))
        return self.add(self.multiply(slope, u), self.add(Order(there[0], there[1]), away))

    def _derivative(self, f: Pointwise, u: Order, ends: tuple[float, float]) -> Order:
        """The derivative of a function: where it falls off, as fast."""
        found = slopes_of(f, enclosing((np.array(ends[0]), np.array(ends[1]))))
        low = float(found.low)
        high = float(found.high)
        grows = u.order > ZERO.order
        rises = u.low > 0 and grows
        falls = u.high < 0 and grows
        near = min(abs(u.low), abs(u.high))
        most: float | None = None
        match f:
            case Sigmoid() | Tanh() | Erf() if rises or falls:
                # exp(-|u|); 4 exp(-2|u|); 2 / root of pi exp(-u^2), and u^2 >= |u| - 1/4.
                most = 4.0
            case Softplus() if falls:
                most = 1.0
            case ELU() if falls:
                most = abs(f.alpha)
            case Arctan() | Softsign() if rises or falls:
                inner = self.inverse(u)
                square = self.multiply(inner, inner)
                return Order(0.0, square.high, square.power, square.rate)
        if most is None:
            return Order(low, high)
        rate = self._reach(u, near)
        if rate is None:
            return Order(low, high)
        signed = (-most, 0.0) if isinstance(f, ELU) and f.alpha < 0 else (0.0, most)
        return Order(*signed, Fraction(0), -rate)

    def _reach(self, u: Order, near: float) -> Fraction | None:
        """A number r with ``|u| >= r y``, rounded down; None where it grows more slowly."""
        if u.rate == 0 and u.power >= 1:
            least, _ = (1.0, 1.0) if u.power == 1 else self._size(Fraction(0), u.power - 1)
        elif u.rate > 0:
            # exp(k y) >= k y; a negative power is at most undone by half of the rate.
            if u.power < 0:
                return None
            least = float(u.rate) * (1 - CLOSE)
        else:
            return None
        found = min(host.next_down(near * least * (1 - CLOSE)), 2.0**20)
        return Fraction(found) if found > 0 else None

    def _exponential(
        self,
        u: Order,
        du: Order,
        line: tuple[Fraction, Fraction] | None,
    ) -> tuple[Order, Order]:
        low, high = self.interval(u)
        if line is not None and abs(line[1]) < 700:
            shift = float(line[1])
            size = math.exp(shift), CLOSE * (1 + abs(shift)) * math.exp(shift)
            exact = (1.0, 1.0) if line[1] == 0 else (size[0] - size[1], size[0] + size[1])
            value = Order(*exact, Fraction(0), line[0])
        elif math.isfinite(low) and high < 700:
            value = Order(max(math.exp(low) * (1 - CLOSE) - 1e-300, 0.0), math.exp(high) * (1 + CLOSE) + 1e-300)
        elif u.high < 0 and (rate := self._reach(u, abs(u.high))) is not None:
            value = Order(0.0, 1.0, Fraction(0), -rate)
        else:
            raise Unknown
        return value, self.multiply(value, du)

    def _logarithm(self, u: Order) -> Order:
        """``rate y + power log y + log r``; log y / y falls from T >= 16 on."""
        shift = Order(
            math.log(u.low) - CLOSE * (1 + abs(math.log(u.low))), math.log(u.high) + CLOSE * (1 + abs(math.log(u.high)))
        )
        rate = float(u.rate)
        value = shift
        if rate:
            value = self.add(Order(host.next_down(rate), host.next_up(rate), Fraction(1)), value)
        if u.power:
            part = float(u.power) * math.log(self.start) / self.start * (1 + CLOSE)
            value = self.add(value, Order(min(part, 0.0), max(part, 0.0), Fraction(1)))
        return value


def _straight(
    kind: Kind,
    read: Sequence[tuple[Fraction, Fraction] | None],
) -> tuple[Fraction, Fraction] | None:
    """The line that a step makes of lines, if it makes one."""
    known = [line for line in read if line is not None]
    if len(known) < len(read):
        return None
    match kind:
        case Number(values):
            return Fraction(0), Fraction(float(values))
        case Line() if kind.exact:
            slope = Fraction(float(kind.slope[0]))
            shift = Fraction(float(kind.shift[0]))
            return slope * known[0][0], slope * known[0][1] + shift
        case Negative():
            return -known[0][0], -known[0][1]
        case Total(weights, over):
            pairs = [(Fraction(weight), line) for weight, line in zip(weights, known, strict=True)]
            return tuple(sum((w * line[at] for w, line in pairs), Fraction(0)) / over for at in range(2))  # type: ignore[return-value]
    return None


def _line_of(f: Piecewise, low: float, high: float) -> tuple[float, float] | None:
    """Slope and shift of the one line that a function is on an interval."""
    ends = np.array(low), np.array(high)
    if f.extent() is None:
        return None
    met = [piece for piece in f.pieces(*ends) if bool(piece.met(*ends))]
    if len(met) != 1 or not np.array_equal(met[0].least, met[0].most):
        return None
    return float(np.asarray(met[0].least)), float(met[0].shift)
