"""A network's constant explained: the chain of rules behind it, value by value, with the norms in it."""

from __future__ import annotations

from specnorm.proof import Upper, lines, number, visible
from specnorm_networks.certified.rules import INPUTS_TOGETHER, map_of_claim, premises_first
from specnorm_networks.certified.scope import Map

SCREEN = 40
DEEP = 2
"""Lines about a network, and levels of the proof of one of its norms."""


def explained_constant(claim: Upper) -> str:
    """A network's constant, value by value back to its inputs, each with its rule and what that was applied to.

    A value that has the constant of the one before has no line. Where there are more than `SCREEN` lines, norms are
    told as such, those of the smallest factors first; then values in the middle are left out.
    """
    values = premises_first([claim], _before)[::-1]
    several = len({map_of_claim(value).start for value in values if value.rule != INPUTS_TOGETHER}) > 1
    told = [[_line(value, several), *_below(value)] for value in values]
    over = sum(map(len, told)) - SCREEN
    for at in sorted(range(len(told)), key=lambda at: max((part.value for part in values[at].of), default=0.0)):
        if over > 0:
            over -= len(told[at]) - 1
            told[at] = told[at][:1]
    half = SCREEN // 2
    if len(told) > SCREEN:
        told = [*told[:half], [f"... {len(told) - 2 * half} values between"], *told[-half:]]
    return "\n".join(visible(line) for parts in told for line in parts)


def _before(value: Upper) -> list[Upper]:
    """What a claim of a value rests on, past values that have the same constant as the one before."""
    found = []
    for part in _maps(value)[_factor(value) is not None :]:
        while (factor := _factor(part)) is not None and factor.value == 1:
            part = _maps(part)[1]
        found.append(part)
    return found


def _maps(value: Upper) -> list[Upper]:
    return [part for part in value.of if isinstance(part, Upper) and isinstance(part.what, Map)]


def _factor(value: Upper) -> Upper | None:
    """The factor in a claim of one map after another; None in others."""
    maps = _maps(value)
    if len(maps) != 2:
        return None
    first, second = maps
    return first if map_of_claim(first).end == map_of_claim(value).end != map_of_claim(second).end else None


def _line(value: Upper, several: bool) -> str:
    def name(part: Upper) -> str:
        way = map_of_claim(part)
        return str(way) if several and way.start != way.end else way.end

    factor = _factor(value)
    before = _before(value)
    made = "" if not before else f" of {', '.join(map(name, before))}"
    if factor is not None:
        made = f", {number(factor.value, 'upper')} times {name(before[0])}"
    return f"{name(value)} <= {number(value.value, 'upper')}: {value.rule}{made}"


def _below(value: Upper) -> list[str]:
    """The norms in a value's factor."""
    parts = [part for part in (_factor(value) or value).of if not isinstance(part.what, Map)]
    return [line for part in parts for line in lines(part, ("upper", "<="), 0, 1, DEEP)]
