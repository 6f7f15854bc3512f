"""Values of a plan at a rational number, without rounding: whether branches agree where they meet.

A value is rational, or a rational combination of named numbers: tanh(1) is a named number, which is the same wherever
it is computed in the same way. Other values are unknown here. Where one is needed, continuity is not proven.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np

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
    key_of,
)
from specnorm_networks.certified.operators.base import Pointwise
from specnorm_networks.certified.operators.piecewise import HardTanh, SoftShrink, TwoSlopes
from specnorm_networks.certified.operators.smooth import (
    ELU,
    GELU,
    Arctan,
    Cos,
    Erf,
    HardSwish,
    Mish,
    Sigmoid,
    SiLU,
    Sin,
    Softsign,
    Tanh,
    TanhGELU,
)
from specnorm_networks.certified.operators.steep import Exp, Log, Power, Reciprocal, Sqrt

VALUE_AT_ZERO: dict[type[Pointwise], Fraction] = {
    **dict.fromkeys((Arctan, Erf, GELU, Mish, SiLU, Sin, Softsign, Tanh, TanhGELU), Fraction(0)),
    Exp: Fraction(1), Cos: Fraction(1), Sigmoid: Fraction(1, 2),
}  # fmt: skip
"""Values of functions at 0."""
Sides: TypeAlias = Mapping[tuple[int, float], int]
"""For a value's number and a threshold: the sign that stands for that of the value less the threshold."""
MOST_BITS = 2**12
"""Largest number of bits of a numerator or a denominator."""


class NotKnownError(Exception):
    """A value is not known exactly."""


@dataclass(frozen=True)
class NumberWithNames:
    """A rational number plus rational multiples of named numbers."""

    rational: Fraction
    multiples: frozenset[tuple[Hashable, Fraction]] = frozenset()
    """Names of numbers, each with its factor, which is not 0."""

    def plus(self, other: NumberWithNames, factor: Fraction = Fraction(1)) -> NumberWithNames:
        """Return ``self + factor other``."""
        factors = dict(self.multiples)
        for name, number in other.multiples:
            factors[name] = factors.get(name, Fraction(0)) + factor * number
        multiples = frozenset((name, number) for name, number in factors.items() if number)
        return NumberWithNames(self.rational + factor * other.rational, multiples)

    def times(self, factor: Fraction) -> NumberWithNames:
        """Return ``factor self``."""
        return ZERO.plus(self, factor)

    def as_rational(self) -> Fraction:
        """Return the combination as a rational number; `NotKnownError` if it has named numbers."""
        if self.multiples:
            raise NotKnownError
        return self.rational


ZERO = NumberWithNames(Fraction(0))


def values_at(plan: Plan, x: Fraction, sides: Sides) -> list[NumberWithNames | None]:
    """Return all values of a plan of one function at a number, by their numbers; None for those that are unknown.

    ``sides``: signs of values less thresholds, which count in place of the values' own signs.
    """
    values: list[NumberWithNames | None] = [NumberWithNames(x)]
    for step in plan.steps:
        try:
            value = _value_of_step(step.kind, step.reads, values, sides)
        except NotKnownError:
            values.append(None)
            continue
        bits = max(value.rational.numerator.bit_length(), value.rational.denominator.bit_length())
        values.append(value if bits <= MOST_BITS else None)
    return values


def _value_of_step(
    kind: Kind,
    reads: Sequence[int],
    values: Sequence[NumberWithNames | None],
    sides: Sides,
) -> NumberWithNames:
    """Return the value of a step from the values before it; `NotKnownError` if it is unknown."""
    # A choice needs only the value that it chooses.
    if isinstance(kind, ChoiceByValue):
        condition, first, second = reads
        is_first = _require(values[condition]).as_rational() != 0
        return _require(values[first if is_first else second])
    if isinstance(kind, ChoiceByMask):
        first, second = reads
        return _require(values[first if bool(kind.mask) else second])
    inputs = [_require(values[number]) for number in reads]
    match kind:
        case Number(constant):
            return NumberWithNames(Fraction(float(constant)))
        case ScaleAndShift():
            return _on_line(kind, inputs[0])
        case WeightedSum(weights, divisor):
            total = ZERO
            for weight, summand in zip(weights, inputs, strict=True):
                total = total.plus(summand, Fraction(weight) / divisor)
            return total
        case ProductOfTwo():
            return _product(*inputs)
        case QuotientOfTwo():
            divisor_value = inputs[1].as_rational()
            if divisor_value == 0:
                raise NotKnownError
            return inputs[0].times(1 / divisor_value)
        case Extreme(is_maximum):
            # ``sides`` are not needed: an extreme does not jump. At a tie both values are the same.
            difference, first_value, second_value = inputs
            first_is_larger = difference.as_rational() > 0
            return first_value if first_is_larger == is_maximum else second_value
        case Comparison(_, threshold):
            sign = _sign(reads[0], threshold, inputs[0], sides)
            return NumberWithNames(Fraction(int(kind.holds_for(np.asarray(sign)))))
        case SignOf():
            return NumberWithNames(Fraction(_sign(reads[0], 0.0, inputs[0], sides)))
        case Pointwise():
            return _value_of_function(kind, inputs[0])
    raise NotKnownError


def _require(value: NumberWithNames | None) -> NumberWithNames:
    if value is None:
        raise NotKnownError
    return value


def _sign(number: int, threshold: float, value: NumberWithNames, sides: Sides) -> int:
    """Return the sign of a value less a threshold: the stated one, or its own. ``number``: of the value in the plan."""
    if (number, threshold) in sides:
        return sides[number, threshold]
    difference = value.as_rational() - Fraction(threshold)
    return (difference > 0) - (difference < 0)


def _on_line(line: ScaleAndShift, x: NumberWithNames) -> NumberWithNames:
    low_slope, _ = line.slope
    low_shift, high_shift = line.shift
    if line.is_exact:
        return NumberWithNames(Fraction(float(low_shift))).plus(x, Fraction(float(low_slope)))
    if x == ZERO and float(low_shift) == float(high_shift):
        return NumberWithNames(Fraction(float(low_shift)))
    raise NotKnownError


def _product(one: NumberWithNames, other: NumberWithNames) -> NumberWithNames:
    if not one.multiples:
        return other.times(one.rational)
    if not other.multiples:
        return one.times(other.rational)
    return _named("product", frozenset((one, other)))


def _named(*name: Hashable) -> NumberWithNames:
    """Return the irrational number that a name stands for."""
    return NumberWithNames(Fraction(0), frozenset({(name, Fraction(1))}))


def _value_of_function(f: Pointwise, x: NumberWithNames) -> NumberWithNames:
    """Return f(x): a rational number where that is known, else the number that is named by f and x."""
    if x.multiples:
        return _named(key_of(f), x)
    u = x.rational
    value: Fraction | None = None
    match f:
        case TwoSlopes() if not f.relative_slope_error():
            below, above = (np.asarray(slope) for slope in f.below_and_above())
            value = u * Fraction(float(above if u > 0 else below))
        case HardTanh():
            value = _clipped(f, u)
        case SoftShrink():
            value = _shrunk(f, u)
        # Between -4 and 4 the value is unknown: libraries have a rounded 1/6, which moves the kinks at -3 and 3 and
        # changes the values between them.
        case HardSwish() if abs(u) >= 4 or u == 0:
            value = max(u, Fraction(0))
        case ELU() if u >= 0:
            value = u
        case Power():
            value = u**f.exponent
        case Reciprocal() if u != 0:
            value = Fraction(f.scale) / u
        case Sqrt() if u >= 0 and _is_square(u):
            value = Fraction(math.isqrt(u.numerator), math.isqrt(u.denominator))
        case Log() if u == 1:
            value = Fraction(0)
    if value is None and u == 0:
        value = VALUE_AT_ZERO.get(type(f))
    return _named(key_of(f), x) if value is None else NumberWithNames(value)


def _clipped(f: HardTanh, x: Fraction) -> Fraction:
    if math.isfinite(f.low):
        x = max(x, Fraction(f.low))
    if math.isfinite(f.high):
        x = min(x, Fraction(f.high))
    return x


def _shrunk(f: SoftShrink, x: Fraction) -> Fraction:
    edge = Fraction(f.edge)
    if x > edge:
        return x - edge
    if x < -edge:
        return x + edge
    return Fraction(0)


def _is_square(x: Fraction) -> bool:
    return all(math.isqrt(n) ** 2 == n for n in (x.numerator, x.denominator))
