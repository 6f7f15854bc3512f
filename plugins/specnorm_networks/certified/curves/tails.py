"""Values and slopes of a plan for large arguments: as powers times exponentials times a bounded factor.

For an argument ``x = side y`` with side = 1 or -1 and ``y >= T``, each value or slope q of the plan (`programs`) is
kept as ``q(y) = exp(k y) y^p r(y)``, with an interval that contains r(y) for all such y. The pair (k, p) is the order
of q. A sum has the larger order of both summands. The smaller order divided by the larger one falls for y >= T (else
`UnknownError`), so that it is at most its value at T. Slopes are derivatives by y. The slopes of bounded functions fall
off exponentially, which outweighs every power.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple, TypeAlias

import numpy as np

from specnorm.proof import enclosing, host
from specnorm_networks.certified.curves.jets import slopes_of
from specnorm_networks.certified.curves.programs import (
    ChoiceByMask,
    ChoiceByValue,
    Comparison,
    Extreme,
    Kind,
    Number,
    Plan,
    ProductOfTwo,
    QuotientOfTwo,
    ScaleAndShift,
    SignOf,
    WeightedSum,
)
from specnorm_networks.certified.operators.base import Pointwise
from specnorm_networks.certified.operators.piecewise import Negative, Piecewise
from specnorm_networks.certified.operators.smooth import ELU, Arctan, Erf, Sigmoid, Softplus, Softsign, Tanh
from specnorm_networks.certified.operators.steep import Exp, Log, Power, Reciprocal, Rsqrt, Sqrt, Steep

ERROR = 2.0**-40
"""Relative error of the elementary functions here, with room to spare."""
TINY = 1e-300
"""Upper bound of an exponential that is too small to be computed, and of what underflow can take from one."""
LARGEST_EXPONENT = 700.0
"""Largest x for which exp(x) is computed: it does not overflow, nor does exp(-x) underflow."""
LARGEST_POWER = Fraction(64)
"""Largest p, in absolute value."""
LARGEST_RATE = 2**40
"""Largest k, in absolute value."""

Span: TypeAlias = tuple[float, float]
"""Two numbers between which a quantity lies."""


class UnknownError(Exception):
    """A value is not known for large arguments."""


@dataclass(frozen=True)
class Asymptote:
    """A quantity ``exp(rate y) y^power r(y)`` with r(y) between two numbers."""

    low: float
    """Smallest r."""
    high: float
    """Largest r."""
    power: Fraction = Fraction(0)
    rate: Fraction = Fraction(0)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise UnknownError
        if abs(self.power) > LARGEST_POWER or abs(self.rate) > LARGEST_RATE:
            raise UnknownError

    @property
    def is_zero(self) -> bool:
        """Whether the quantity is 0."""
        return self.low == self.high == 0

    @property
    def order(self) -> tuple[Fraction, Fraction]:
        """Rate and power: of two orders, the larger one grows faster."""
        return self.rate, self.power

    @property
    def factor(self) -> Span:
        """Smallest and largest r."""
        return self.low, self.high


def asymptote_of(value: float) -> Asymptote:
    """Return a number as a quantity that does not depend on y."""
    return Asymptote(value, value)


ZERO = asymptote_of(0.0)
ONE = asymptote_of(1.0)


class ValueAndSlope(NamedTuple):
    """A value, and its derivative by y."""

    value: Asymptote
    slope: Asymptote


class StraightLine(NamedTuple):
    """A value that is exactly ``slope y + shift``."""

    slope: Fraction
    shift: Fraction


def _product(a: Span, b: Span) -> Span:
    for one, other in ((a, b), (b, a)):
        is_exact_factor = one[0] == one[1] and one[0] in (-1.0, 0.0, 1.0)
        if is_exact_factor:
            ends = one[0] * other[0], one[0] * other[1]
            return min(ends), max(ends)
    products = [x * y for x in a for y in b]
    return host.next_down(min(products)), host.next_up(max(products))


def _sum(a: Span, b: Span) -> Span:
    low = a[0] + b[0]
    high = a[1] + b[1]
    adds_zero = 0.0 in (a[0], b[0]) and 0.0 in (a[1], b[1])
    # Small whole numbers add up without rounding.
    if adds_zero or all(x == int(x) and abs(x) < 2**50 for x in (*a, *b)):
        return low, high
    return host.next_down(low), host.next_up(high)


class Tail:
    """Values and slopes of a plan with one function, for all arguments above T, or for all below -T.

    Parameters
    ----------
    plan : Plan
        Its parameters are single numbers.
    side : {-1, 1}
        Sign of the arguments.
    start : float
        The number T, at least 16: from Euler's number on, log y / y falls, which `_logarithm` needs.

    Raises
    ------
    UnknownError
        If a value is not known for such arguments.
    """

    def __init__(self, plan: Plan, side: int, start: float) -> None:
        self.side = side
        self.start = start
        argument = ValueAndSlope(Asymptote(float(side), float(side), power=Fraction(1)), asymptote_of(float(side)))
        self.values: list[ValueAndSlope] = [argument]
        """All values of the plan, by their numbers."""
        self.lines: list[StraightLine | None] = [StraightLine(Fraction(side), Fraction(0))]
        """For each value its slope and shift if it is a straight line; else None."""
        for step in plan.steps:
            inputs = [self.values[value] for value in step.reads]
            lines = [self.lines[value] for value in step.reads]
            self.values.append(self._value_of_step(step.kind, inputs, lines))
            self.lines.append(_line_of_step(step.kind, lines))

    def slope(self, value: int) -> Span:
        """Return the smallest and largest derivative by x of a value, given by its number in the plan.

        Raises
        ------
        UnknownError
            If the derivative is not bounded.
        """
        low, high = self.interval(self.values[value].slope)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise UnknownError
        return (low, high) if self.side > 0 else (-high, -low)

    # -- arithmetic ----------------------------------------------------------------------------------------------------
    def _power_range(self, rate: Fraction, power: Fraction) -> Span:
        """Return the smallest and largest ``exp(rate y) y^power`` over all y >= T."""
        if rate == power == 0:
            return 1.0, 1.0
        start = Fraction(self.start)
        # The derivative of the logarithm, rate + power / y, has the sign of ``rate y + power``, which must not change
        # for y >= T. If the rate is 0, it is the sign of the power. Otherwise, for large y, it is the sign of the rate,
        # and has to be that at T, too.
        if rate == 0:
            rises = power > 0
        else:
            rises = rate > 0
            slope_at_start = rate * start + power
            if slope_at_start == 0 or (slope_at_start > 0) != rises:
                raise UnknownError
        log_start = math.log(self.start)
        logarithm = float(rate) * self.start + float(power) * log_start
        error = ERROR * (1 + abs(float(rate)) * self.start + abs(float(power)) * log_start)
        if rises:
            return math.exp(min(logarithm - error, LARGEST_EXPONENT)), math.inf
        largest = logarithm + error
        return 0.0, math.exp(largest) if largest > -LARGEST_EXPONENT else TINY

    def interval(self, x: Asymptote) -> Span:
        """Return two numbers between which a quantity lies."""
        if x.is_zero:
            return 0.0, 0.0
        power_range = self._power_range(*x.order)
        if power_range == (1.0, 1.0):
            return x.factor
        # A factor of 0 times an infinite power is 0.
        products = [0.0 if 0.0 in (a, b) else a * b for a in power_range for b in x.factor]
        return host.next_down(min(products)), host.next_up(max(products))

    def add(self, a: Asymptote, b: Asymptote) -> Asymptote:
        """Return the sum of two quantities."""
        if a.is_zero:
            return b
        if b.is_zero:
            return a
        larger, smaller = (b, a) if a.order < b.order else (a, b)
        low, high = smaller.factor
        if larger.order != smaller.order:
            _, largest_ratio = self._power_range(smaller.rate - larger.rate, smaller.power - larger.power)
            if not math.isfinite(largest_ratio):
                raise UnknownError
            low = host.next_down(low * largest_ratio) if low < 0 else 0.0
            high = host.next_up(high * largest_ratio) if high > 0 else 0.0
        total = _sum(larger.factor, (low, high))
        if total == (0.0, 0.0):
            return ZERO
        return Asymptote(*total, larger.power, larger.rate)

    def multiply(self, a: Asymptote, b: Asymptote) -> Asymptote:
        """Return the product of two quantities."""
        if a.is_zero or b.is_zero:
            return ZERO
        return Asymptote(*_product(a.factor, b.factor), a.power + b.power, a.rate + b.rate)

    def inverse(self, a: Asymptote) -> Asymptote:
        """Return 1 over a quantity."""
        if not (a.low > 0 or a.high < 0):
            raise UnknownError
        if a.low == a.high and abs(a.low) == 1:
            return Asymptote(a.low, a.low, -a.power, -a.rate)
        ends = 1 / a.low, 1 / a.high
        return Asymptote(host.next_down(min(ends)), host.next_up(max(ends)), -a.power, -a.rate)

    # -- steps ---------------------------------------------------------------------------------------------------------
    def _value_of_step(
        self,
        kind: Kind,
        inputs: Sequence[ValueAndSlope],
        lines: Sequence[StraightLine | None],
    ) -> ValueAndSlope:
        """Return the value of a step from the values that it reads, and from their lines if they are straight lines."""
        match kind:
            case Number(values):
                return ValueAndSlope(asymptote_of(float(values)), ZERO)
            case ScaleAndShift():
                slope, shift = (Asymptote(float(low), float(high)) for low, high in (kind.slope, kind.shift))
                x = inputs[0]
                return ValueAndSlope(self.add(self.multiply(x.value, slope), shift), self.multiply(x.slope, slope))
            case WeightedSum():
                value = self._weighted_sum([x.value for x in inputs], kind)
                return ValueAndSlope(value, self._weighted_sum([x.slope for x in inputs], kind))
            case ProductOfTwo():
                a, b = inputs
                slope = self.add(self.multiply(a.slope, b.value), self.multiply(a.value, b.slope))
                return ValueAndSlope(self.multiply(a.value, b.value), slope)
            case QuotientOfTwo():
                # q = a / b has q' = (a' - q b') / b.
                a, b = inputs
                inverse = self.inverse(b.value)
                value = self.multiply(a.value, inverse)
                subtrahend = self.multiply(value, b.slope)
                difference = self.add(a.slope, self.multiply(subtrahend, asymptote_of(-1.0)))
                return ValueAndSlope(value, self.multiply(difference, inverse))
            case Exp():
                return self._exponential(inputs[0], lines[0])
            case Pointwise():
                return self._function(kind, inputs[0])
        return self._choice(kind, inputs)

    def _weighted_sum(self, summands: Sequence[Asymptote], kind: WeightedSum) -> Asymptote:
        total = ZERO
        for weight, summand in zip(kind.weights, summands, strict=True):
            total = self.add(total, self.multiply(summand, asymptote_of(weight)))
        if kind.divisor > 1:
            share = 1 / kind.divisor
            total = self.multiply(total, Asymptote(host.next_down(share), host.next_up(share)))
        return total

    def _choice(self, kind: Kind, inputs: Sequence[ValueAndSlope]) -> ValueAndSlope:
        """Return the value of a step that is on one branch for all arguments; `UnknownError` if it is on several."""
        match kind:
            case ChoiceByMask(mask):
                return inputs[0] if bool(mask) else inputs[1]
            case Extreme(is_maximum):
                difference, first, second = inputs
                first_is_larger = self._sign(difference.value, 0.0) >= 0
                return first if first_is_larger == is_maximum else second
            case ChoiceByValue():
                condition, first, second = inputs
                low, high = self.interval(condition.value)
                if low > 0 or high < 0:
                    return first
                if low == high == 0:
                    return second
                raise UnknownError
            case Comparison(_, threshold):
                sign = self._sign(inputs[0].value, threshold)
                return ValueAndSlope(asymptote_of(float(kind.holds_for(np.asarray(sign)))), ZERO)
            case SignOf():
                return ValueAndSlope(asymptote_of(float(self._sign(inputs[0].value, 0.0))), ZERO)
        raise UnknownError

    def _sign(self, x: Asymptote, threshold: float) -> int:
        """Return the sign of a quantity less a threshold."""
        low, high = self.interval(x)
        if low > threshold:
            return 1
        if high < threshold:
            return -1
        if low == high == threshold:
            return 0
        raise UnknownError

    # -- functions of one variable -------------------------------------------------------------------------------------
    def _function(self, f: Pointwise, x: ValueAndSlope) -> ValueAndSlope:
        """Return f(u) and f'(u) u' for a value u."""
        u, slope_of_u = x
        ends = self.interval(u)
        match f:
            case Power():
                # The slope is n u^(n - 1) u'.
                power = ONE
                for _ in range(f.exponent - 1):
                    power = self.multiply(power, u)
                slope = self.multiply(self.multiply(power, slope_of_u), asymptote_of(float(f.exponent)))
                return ValueAndSlope(self.multiply(power, u), slope)
            case Reciprocal():
                inverse = self.inverse(u)
                slope = self.multiply(self.multiply(inverse, inverse), slope_of_u)
                return ValueAndSlope(
                    self.multiply(inverse, asymptote_of(f.scale)), self.multiply(slope, asymptote_of(-f.scale))
                )
            case Sqrt() if u.low > 0:
                root = _root(u)
                slope = self.multiply(slope_of_u, self.inverse(root))
                return ValueAndSlope(root, self.multiply(slope, asymptote_of(0.5)))
            case Rsqrt() if u.low > 0:
                inverse = self.inverse(_root(u))
                cube = self.multiply(self.multiply(inverse, inverse), inverse)
                return ValueAndSlope(inverse, self.multiply(self.multiply(slope_of_u, cube), asymptote_of(-0.5)))
            case Log() if u.low > 0:
                return ValueAndSlope(self._logarithm(u), self.multiply(slope_of_u, self.inverse(u)))
            case Steep():
                raise UnknownError
        return self._function_with_bounded_slope(f, x, ends)

    def _function_with_bounded_slope(self, f: Pointwise, x: ValueAndSlope, ends: Span) -> ValueAndSlope:
        """Return f(u) and f'(u) u' for a value u. ``ends``: interval of u."""
        u, slope_of_u = x
        if isinstance(f, Piecewise):
            line = _line_of_piecewise(f, *ends)
            if line is not None:
                slope, shift = line
                value = self.add(self.multiply(u, asymptote_of(slope)), asymptote_of(shift))
                return ValueAndSlope(value, self.multiply(slope_of_u, asymptote_of(slope)))
        if isinstance(f, ELU) and ends[0] >= 0:
            return x
        return ValueAndSlope(self._value_by_slopes(f, u, ends), self.multiply(self._derivative(f, u, ends), slope_of_u))

    def _value_by_slopes(self, f: Pointwise, u: Asymptote, ends: Span) -> Asymptote:
        """Return f(u): between two numbers, or by a line with the function's slopes through a finite end of u.

        ``ends``: interval of u.
        """
        low, high = (np.array(end) for end in ends)
        least, most = (float(end) for end in f.between(low, high))
        if math.isfinite(least) and math.isfinite(most):
            return Asymptote(least, most)
        if not (math.isfinite(ends[0]) or math.isfinite(ends[1])):
            raise UnknownError
        # f(u) = f(c) + s (u - c) = s u + (f(c) - s c), with one and the same s between the slopes.
        c = ends[0] if math.isfinite(ends[0]) else ends[1]
        low_at_c, high_at_c = f.between(np.array(c), np.array(c))
        value_at_c = Asymptote(float(low_at_c), float(high_at_c))
        slopes = slopes_of(f, enclosing((low, high)))
        slope = Asymptote(float(slopes.low), float(slopes.high))
        shift = self.add(value_at_c, self.multiply(slope, asymptote_of(-c)))
        return self.add(self.multiply(slope, u), shift)

    def _derivative(self, f: Pointwise, u: Asymptote, ends: Span) -> Asymptote:
        """Return f'(u). Where f' is known to tend to 0 for large u, the returned quantity does so, too.

        ``ends``: interval of u.
        """
        slopes = slopes_of(f, enclosing((np.array(ends[0]), np.array(ends[1]))))
        bounded = Asymptote(float(slopes.low), float(slopes.high))
        is_unbounded = u.order > ZERO.order
        tends_to_plus_infinity = u.low > 0 and is_unbounded
        tends_to_minus_infinity = u.high < 0 and is_unbounded
        tends_to_infinity = tends_to_plus_infinity or tends_to_minus_infinity
        # A bound ``largest exp(-|u|)`` of |f'(u)|.
        largest: float | None = None
        match f:
            case Sigmoid() | Tanh() | Erf() if tends_to_infinity:
                # In this order the slopes are at most exp(-|u|), 4 exp(-2 |u|), and 2 / root of pi times exp(-u^2),
                # where u^2 >= |u| - 1/4. All are at most 4 exp(-|u|).
                largest = 4.0
            case Softplus() if tends_to_minus_infinity:
                largest = 1.0
            case ELU() if tends_to_minus_infinity:
                largest = abs(f.alpha)
            case Arctan() | Softsign() if tends_to_infinity:
                # The slopes are at most 1 / u^2.
                inverse = self.inverse(u)
                inverse_square = self.multiply(inverse, inverse)
                return Asymptote(0.0, inverse_square.high, inverse_square.power, inverse_square.rate)
        if largest is None:
            return bounded
        growth = self._growth(u, min(abs(u.low), abs(u.high)))
        if growth is None:
            return bounded
        is_negative = isinstance(f, ELU) and f.alpha < 0
        return Asymptote(*((-largest, 0.0) if is_negative else (0.0, largest)), Fraction(0), -growth)

    def _growth(self, u: Asymptote, smallest_factor: float) -> Fraction | None:
        """Return a number g > 0 with ``|u| >= g y``, rounded down; None if u grows more slowly than y.

        ``smallest_factor``: lower bound of the factor |r| of u.
        """
        if u.rate == 0 and u.power >= 1:
            # y^p >= T^(p - 1) y
            least, _ = self._power_range(Fraction(0), u.power - 1)
        elif u.rate > 0 and u.power >= 0:
            # exp(k y) >= k y
            least = float(u.rate) * (1 - ERROR)
        else:
            return None
        # Any smaller number is a valid g, too. This limit keeps rates far below `LARGEST_RATE`.
        growth = min(host.next_down(smallest_factor * least * (1 - ERROR)), 2.0**20)
        return Fraction(growth) if growth > 0 else None

    def _exponential(self, x: ValueAndSlope, line: StraightLine | None) -> ValueAndSlope:
        """Return exp(u). ``line``: slope and shift of u if it is a straight line."""
        u, slope_of_u = x
        low, high = self.interval(u)
        if line is not None and abs(line.shift) < LARGEST_EXPONENT:
            value = Asymptote(*_exponential_of_shift(line.shift), Fraction(0), line.slope)
        elif math.isfinite(low) and high < LARGEST_EXPONENT:
            smallest = math.exp(low) * (1 - ERROR) - TINY
            value = Asymptote(max(smallest, 0.0), math.exp(high) * (1 + ERROR) + TINY)
        else:
            growth = self._growth(u, abs(u.high)) if u.high < 0 else None
            if growth is None:
                raise UnknownError
            value = Asymptote(0.0, 1.0, Fraction(0), -growth)
        return ValueAndSlope(value, self.multiply(value, slope_of_u))

    def _logarithm(self, u: Asymptote) -> Asymptote:
        """Return ``log u = rate y + power log y + log r``.

        Since log y / y falls for y >= T, ``log y`` counts as a number between 0 and ``(log T / T) y``.
        """
        log_low = math.log(u.low)
        log_high = math.log(u.high)
        value = Asymptote(log_low - ERROR * (1 + abs(log_low)), log_high + ERROR * (1 + abs(log_high)))
        rate = float(u.rate)
        if rate:
            value = self.add(Asymptote(host.next_down(rate), host.next_up(rate), Fraction(1)), value)
        if u.power:
            largest = float(u.power) * math.log(self.start) / self.start * (1 + ERROR)
            value = self.add(value, Asymptote(min(largest, 0.0), max(largest, 0.0), Fraction(1)))
        return value


def _root(u: Asymptote) -> Asymptote:
    """Return the root of a positive quantity."""
    low = max(host.next_down(math.sqrt(u.low)), 0.0)
    return Asymptote(low, host.next_up(math.sqrt(u.high)), u.power / 2, u.rate / 2)


def _exponential_of_shift(shift: Fraction) -> Span:
    """Return two numbers between which exp(shift) lies."""
    if shift == 0:
        return 1.0, 1.0
    exponential = math.exp(float(shift))
    error = ERROR * (1 + abs(float(shift))) * exponential
    return exponential - error, exponential + error


def _line_of_step(kind: Kind, lines: Sequence[StraightLine | None]) -> StraightLine | None:
    """Return the straight line that a step's value is; None if it is none. ``lines``: those of the values it reads."""
    inputs = [line for line in lines if line is not None]
    if len(inputs) < len(lines):
        return None
    match kind:
        case Number(values):
            return StraightLine(Fraction(0), Fraction(float(values)))
        case ScaleAndShift() if kind.is_exact:
            slope = Fraction(float(kind.slope[0]))
            shift = Fraction(float(kind.shift[0]))
            (line,) = inputs
            return StraightLine(slope * line.slope, slope * line.shift + shift)
        case Negative():
            (line,) = inputs
            return StraightLine(-line.slope, -line.shift)
        case WeightedSum(weights, divisor):
            slope = Fraction(0)
            shift = Fraction(0)
            for weight, line in zip(weights, inputs, strict=True):
                slope += Fraction(weight) * line.slope
                shift += Fraction(weight) * line.shift
            return StraightLine(slope / divisor, shift / divisor)
    return None


def _line_of_piecewise(f: Piecewise, low: float, high: float) -> tuple[float, float] | None:
    """Return slope and shift of a function on an interval where it is one line; None if it has several pieces there."""
    ends = np.array(low), np.array(high)
    if f.extent() is None:
        return None
    pieces = [piece for piece in f.pieces(*ends) if bool(piece.has_slope_on(*ends))]
    if len(pieces) != 1:
        return None
    (piece,) = pieces
    if not np.array_equal(piece.low_slope, piece.high_slope):
        return None
    return float(np.asarray(piece.low_slope)), float(piece.shift)
