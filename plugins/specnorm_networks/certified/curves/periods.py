"""Periods of slopes: of sums and products of sines and cosines of multiples of x, with a multiple of x added."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce

from specnorm.proof import host
from specnorm_networks.certified.curves.programs import Number, Plan, PlanStep, ProductOfTwo, ScaleAndShift, WeightedSum
from specnorm_networks.certified.operators.base import Pointwise
from specnorm_networks.certified.operators.smooth import Wave
from specnorm_networks.certified.operators.steep import Steep

LONGEST_PERIOD = 2.0**16
"""Longest period that is of use."""


@dataclass(frozen=True)
class PlusPeriodic:
    """``slope x + g(x)``, where g is a function of waves ``sin(w x + c)`` of some frequencies w alone."""

    slope: Fraction
    frequencies: frozenset[Fraction] = frozenset()


def period_of(plan: Plan, functions: int) -> float | None:
    """Return a length, rounded up, after which the slopes of all outputs repeat; None if there is none.

    ``functions``: number of the plan's functions. If there are several, their periods differ, and None is returned.
    """
    if functions != 1:
        return None
    values: list[PlusPeriodic | None] = [PlusPeriodic(Fraction(1))]
    for step in plan.steps:
        values.append(_value_of_step(step, [values[number] for number in step.reads]))
    frequencies: set[Fraction] = set()
    for output in plan.outputs:
        value = values[output]
        if value is None:
            return None
        frequencies |= value.frequencies
    if not frequencies:
        return None
    base = reduce(_largest_common_divisor, frequencies)
    # Rounded up: pi, the quotient, and the frequency as a float.
    period = host.next_up(2 * host.next_up(math.pi) / float(base)) * (1 + 2.0**-48)
    return period if period < LONGEST_PERIOD else None


def _largest_common_divisor(a: Fraction, b: Fraction) -> Fraction:
    """Return the largest number of which both numbers are whole multiples."""
    return Fraction(math.gcd(a.numerator * b.denominator, b.numerator * a.denominator), a.denominator * b.denominator)


def _value_of_step(step: PlanStep, read_values: Sequence[PlusPeriodic | None]) -> PlusPeriodic | None:
    """Return the value of a step; None if it is not of that form."""
    inputs = [value for value in read_values if value is not None]
    if len(inputs) < len(read_values):
        return None
    frequencies = frozenset[Fraction]().union(*(value.frequencies for value in inputs))
    inputs_are_periodic = all(value.slope == 0 for value in inputs)
    match step.kind:
        case Number(values):
            return PlusPeriodic(Fraction(0)) if values.size == 1 else None
        case ScaleAndShift() as line if line.is_exact and line.slope[0].size == 1:
            return PlusPeriodic(Fraction(line.slope[0].item()) * inputs[0].slope, frequencies)
        case WeightedSum(weights, divisor):
            slope = Fraction(0)
            for weight, value in zip(weights, inputs, strict=True):
                slope += Fraction(weight) * value.slope
            return PlusPeriodic(slope / divisor, frequencies)
        case Wave() if not inputs_are_periodic:
            # Over a period of the argument's periodic part and of sin(slope x), the argument grows by whole turns.
            return PlusPeriodic(Fraction(0), frequencies | {abs(inputs[0].slope)})
        case ProductOfTwo() if inputs_are_periodic:
            return PlusPeriodic(Fraction(0), frequencies)
        case Steep():
            return None
        case Pointwise() if inputs_are_periodic:
            return PlusPeriodic(Fraction(0), frequencies)
    return None
