"""Periods of slopes: where the argument is in sines and cosines alone, or added to them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce

from specnorm.proof import host
from specnorm_networks.certified.curves.programs import Line, Number, Plan, Step, Times, Total
from specnorm_networks.certified.operators.base import Pointwise
from specnorm_networks.certified.operators.pointwise import Steep, Wave

LONGEST = 2.0**16
"""Periods beyond are not looked at."""


@dataclass(frozen=True)
class Wavy:
    """``slope x`` and a function whose period is that of waves of some frequencies together."""

    slope: Fraction
    frequencies: frozenset[Fraction] = frozenset()


def period_of(plan: Plan, count: int) -> float | None:
    """A number, rounded up, over whose length the slopes of all outputs repeat; None where there is none.

    ``count``: functions of the plan; several have one constant each, and are not looked at.
    """
    if count != 1:
        return None
    known: list[Wavy | None] = [Wavy(Fraction(1))]
    for step in plan.steps:
        known.append(_wavy(step, [known[at] for at in step.reads]))
    found = [known[output] for output in plan.outputs]
    frequencies: set[Fraction] = set()
    for each in found:
        if each is None:
            return None
        frequencies |= each.frequencies
    if not frequencies:
        return None
    # The largest number of which all frequencies are multiples.
    base = reduce(_common, frequencies)
    period = host.next_up(2 * host.next_up(math.pi) / float(base)) * (1 + 2.0**-48)
    return period if period < LONGEST else None


def _common(a: Fraction, b: Fraction) -> Fraction:
    return Fraction(math.gcd(a.numerator * b.denominator, b.numerator * a.denominator), a.denominator * b.denominator)


def _wavy(step: Step, read: list[Wavy | None]) -> Wavy | None:
    known = [each for each in read if each is not None]
    if len(known) < len(read):
        return None
    waves = frozenset[Fraction]().union(*(each.frequencies for each in known))
    flat = all(each.slope == 0 for each in known)
    match step.kind:
        case Number(values):
            return Wavy(Fraction(0)) if values.size == 1 else None
        case Line() as line if line.exact and line.slope[0].size == 1:
            return Wavy(Fraction(line.slope[0].item()) * known[0].slope, waves)
        case Total(weights, over):
            slope = sum((Fraction(w) * each.slope for w, each in zip(weights, known, strict=True)), Fraction(0))
            return Wavy(slope / over, waves)
        case Wave() if not flat:
            # A whole number of turns of the argument is added over each period.
            return Wavy(Fraction(0), waves | {abs(known[0].slope)})
        case Times() if flat:
            return Wavy(Fraction(0), waves)
        case Steep():
            return None
        case Pointwise() if flat:
            return Wavy(Fraction(0), waves)
    return None
