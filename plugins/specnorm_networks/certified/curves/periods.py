"""Periods of slopes: of sums and products of sines and cosines of multiples of x, with a multiple of x added."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from typing import Any

from specnorm.proof import Interval, host
from specnorm_networks.certified.curves.intervals import is_exact
from specnorm_networks.certified.curves.programs import Arithmetic, Curve, Dual, UnknownError, evaluate
from specnorm_networks.certified.operators.base import Pointwise
from specnorm_networks.certified.operators.smooth import Cos, Sin
from specnorm_networks.certified.operators.steep import Steep

LONGEST_PERIOD = 2.0**16
"""Longest period that is of use."""


@dataclass(frozen=True)
class PlusPeriodic:
    """``slope x + g(x)``, where g is a function of waves ``sin(w x + c)`` of some frequencies w alone."""

    slope: Fraction = Fraction(0)
    frequencies: frozenset[Fraction] = frozenset()
    number: Fraction | None = None
    """The value, if it is one known number."""


class OfPeriodic(Arithmetic[PlusPeriodic]):
    """Arithmetic of such values."""

    def number(self, numbers: Interval) -> PlusPeriodic:
        if numbers.low.size != 1:
            raise UnknownError
        return PlusPeriodic(number=Fraction(numbers.low.item()) if is_exact(numbers).all() else None)

    def add(self, a: PlusPeriodic, b: PlusPeriodic) -> PlusPeriodic:
        return PlusPeriodic(a.slope + b.slope, a.frequencies | b.frequencies)

    def multiply(self, a: PlusPeriodic, b: PlusPeriodic) -> PlusPeriodic:
        frequencies = a.frequencies | b.frequencies
        if a.slope == b.slope == 0:
            return PlusPeriodic(frequencies=frequencies)
        factor, other = (a, b) if a.number is not None else (b, a)
        if factor.number is None:
            raise UnknownError
        return PlusPeriodic(factor.number * other.slope, frequencies)

    def function(self, f: Pointwise, u: PlusPeriodic) -> tuple[PlusPeriodic, PlusPeriodic, Any]:
        if isinstance(f, Steep) or not (u.slope == 0 or type(f) in (Sin, Cos)):
            raise UnknownError
        # Over a period of u's periodic part and of sin(slope x), u grows by whole turns.
        frequencies = u.frequencies if u.slope == 0 else u.frequencies | {abs(u.slope)}
        value = PlusPeriodic(frequencies=frequencies)
        return value, value, True


def period_of(curve: Curve) -> float | None:
    """Return a length, rounded up, after which the slopes of all outputs repeat; None if there is none."""
    try:
        values = evaluate(curve, Dual(PlusPeriodic(Fraction(1)), PlusPeriodic(number=Fraction(1))), OfPeriodic())
    except UnknownError:
        return None
    frequencies = frozenset[Fraction]().union(*(values[output].value.frequencies for output in curve.outputs))
    if not frequencies:
        return None
    base = reduce(_largest_common_divisor, frequencies)
    # Rounded up: pi, the quotient, and the frequency as a float.
    period = host.next_up(2 * host.next_up(math.pi) / float(base)) * (1 + 2.0**-48)
    return period if period < LONGEST_PERIOD else None


def _largest_common_divisor(a: Fraction, b: Fraction) -> Fraction:
    """Return the largest number of which both numbers are whole multiples."""
    return Fraction(math.gcd(a.numerator * b.denominator, b.numerator * a.denominator), a.denominator * b.denominator)
