"""Values of a plan at a rational number, without rounding: whether branches agree where they meet.

A number is rational, or a rational combination of names: tanh(1) is a name, which is the same wherever it is computed
in the same way. What is not known so has no value here, and no continuity is proven by it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np

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
    _key,
)
from specnorm_networks.certified.operators.base import Pointwise
from specnorm_networks.certified.operators.pointwise import (
    ELU,
    GELU,
    Arctan,
    Cos,
    Erf,
    Exp,
    HardSwish,
    HardTanh,
    Kinked,
    Log,
    Mish,
    Power,
    Reciprocal,
    Sigmoid,
    SiLU,
    Sin,
    SoftShrink,
    Softsign,
    Sqrt,
    Tanh,
    TanhGELU,
)

AT_ZERO: dict[type[Pointwise], Fraction] = {
    **dict.fromkeys((Arctan, Erf, GELU, Mish, SiLU, Sin, Softsign, Tanh, TanhGELU), Fraction(0)),
    Exp: Fraction(1), Cos: Fraction(1), Sigmoid: Fraction(1, 2),
}  # fmt: skip
"""Values at 0."""
Sides: TypeAlias = Mapping[tuple[int, float], int]
"""The side of a value's threshold that a switch is on: by the value's number and the threshold."""
LONGEST = 2**12
"""Bits of a numerator or a denominator."""


class NotKnown(Exception):
    """A value that is not known exactly."""


@dataclass(frozen=True)
class Combination:
    """A rational number, and multiples of named ones."""

    rational: Fraction
    names: frozenset[tuple[Hashable, Fraction]] = frozenset()

    def plus(self, other: Combination, factor: Fraction = Fraction(1)) -> Combination:
        """``self + factor other``."""
        total = dict(self.names)
        for name, number in other.names:
            total[name] = total.get(name, Fraction(0)) + factor * number
        left = frozenset((name, number) for name, number in total.items() if number)
        return Combination(self.rational + factor * other.rational, left)

    def number(self) -> Fraction:
        """The rational number that it is."""
        if self.names:
            raise NotKnown
        return self.rational


NOTHING = Combination(Fraction(0))


def values_at(plan: Plan, x: Fraction, sides: Sides) -> list[Combination | None]:
    """All values of a plan of one function at a number; None for those that are not known.

    ``sides``: of switches that are on a side whatever their value is.
    """
    found: list[Combination | None] = [Combination(x)]
    for step in plan.steps:
        try:
            value = _value(step.kind, step.reads, found, sides)
            too_long = max(value.rational.numerator.bit_length(), value.rational.denominator.bit_length()) > LONGEST
            found.append(None if too_long else value)
        except NotKnown:
            found.append(None)
    return found


def _value(
    kind: Kind,
    reads: Sequence[int],
    found: Sequence[Combination | None],
    sides: Sides,
) -> Combination:
    if isinstance(kind, If):
        condition = _known(found[reads[0]]).number()
        return _known(found[reads[1] if condition else reads[2]])
    if isinstance(kind, Masked):
        return _known(found[reads[0] if bool(kind.mask) else reads[1]])
    read = [_known(found[at]) for at in reads]
    match kind:
        case Number(values):
            return Combination(Fraction(float(values)))
        case Line():
            return _line(kind, read[0])
        case Total(weights, over):
            total = NOTHING
            for weight, each in zip(weights, read, strict=True):
                total = total.plus(each, Fraction(weight) / over)
            return total
        case Times():
            return _product(*read)
        case Over():
            divisor = read[1].number()
            if divisor == 0:
                raise NotKnown
            return NOTHING.plus(read[0], 1 / divisor)
        case Pick(larger):
            return read[1] if (read[0].number() > 0) == larger else read[2]
        case Above(how, threshold):
            sign = _side(reads[0], threshold, read[0], sides)
            meets = {"gt": sign > 0, "ge": sign >= 0, "lt": sign < 0, "le": sign <= 0}[how]
            return Combination(Fraction(int(meets)))
        case SignOf():
            return Combination(Fraction(_side(reads[0], 0.0, read[0], sides)))
        case Pointwise():
            return _function(kind, read[0])
    raise NotKnown


def _known(value: Combination | None) -> Combination:
    if value is None:
        raise NotKnown
    return value


def _side(value: int, threshold: float, known: Combination, sides: Sides) -> int:
    if (value, threshold) in sides:
        return sides[value, threshold]
    difference = known.number() - Fraction(threshold)
    return (difference > 0) - (difference < 0)


def _line(line: Line, x: Combination) -> Combination:
    if line.exact:
        return Combination(Fraction(float(line.shift[0]))).plus(x, Fraction(float(line.slope[0])))
    zero = not x.names and x.rational == 0
    if zero and float(line.shift[0]) == float(line.shift[1]):
        return Combination(Fraction(float(line.shift[0])))
    raise NotKnown


def _product(one: Combination, other: Combination) -> Combination:
    for factor, rest in ((one, other), (other, one)):
        if not factor.names:
            return NOTHING.plus(rest, factor.rational)
    return _named("product", frozenset((one, other)))


def _named(*name: Hashable) -> Combination:
    return Combination(Fraction(0), frozenset({(name, Fraction(1))}))


def _function(f: Pointwise, x: Combination) -> Combination:
    if x.names:
        return _named(_key(f), x)
    u = x.rational
    match f:
        case Kinked() if not f.slack():
            below, above = (np.asarray(side) for side in f.sides())
            return Combination(u * Fraction(float(above if u > 0 else below)))
        case HardTanh():
            low, high = (Fraction(end) if math.isfinite(end) else None for end in (f.low, f.high))
            u = u if low is None else max(u, low)
            return Combination(u if high is None else min(u, high))
        case SoftShrink():
            edge = Fraction(f.edge)
            return Combination(u - edge if u > edge else u + edge if u < -edge else Fraction(0))
        case HardSwish() if abs(u) >= 4 or u == 0:
            return Combination(max(u, Fraction(0)))
        case ELU() if u >= 0:
            return Combination(u)
        case Power():
            return Combination(u**f.exponent)
        case Reciprocal() if u != 0:
            return Combination(Fraction(f.scale) / u)
        case Sqrt() if u >= 0 and _is_square(u):
            return Combination(Fraction(math.isqrt(u.numerator), math.isqrt(u.denominator)))
        case Log() if u == 1:
            return NOTHING
    if u == 0 and type(f) in AT_ZERO:
        return Combination(AT_ZERO[type(f)])
    return _named(_key(f), x)


def _is_square(x: Fraction) -> bool:
    return all(math.isqrt(n) ** 2 == n for n in (x.numerator, x.denominator))
