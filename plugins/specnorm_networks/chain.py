"""Explain a network's constant in text: the chain of rules that prove it, value by value, with the layers' norms."""

from __future__ import annotations

import itertools

from specnorm.proof import Upper, counted, lines, number, visible
from specnorm_networks.certified.rules import INPUTS_TOGETHER, map_of_claim, premises_first
from specnorm_networks.certified.scope import Map

MOST_LINES = 40
"""Largest number of lines of an explanation, about: a screen."""
NORM_LEVELS = 2
"""Number of levels of a norm's proof that are shown."""


def explained_constant(claim: Upper) -> str:
    """Return a network's constant explained: a line for each value, from the outputs back to the inputs.

    A line has the value's constant, the rule that proves it, and the values that the rule uses; lines with the norms in
    the value's factor follow. A value with the same constant as the one before it has no line. If there are more than
    `MOST_LINES` lines, lines of norms are left out, those of the smallest factors first; then values in the middle are.
    """
    values = premises_first([claim], _values_before)[::-1]
    starts = {map_of_claim(value).start for value in values if value.rule != INPUTS_TOGETHER}
    has_several_inputs = len(starts) > 1
    paragraphs = [[_line(value, has_several_inputs), *_lines_of_norms(value)] for value in values]
    excess = sum(map(len, paragraphs)) - MOST_LINES

    def largest_premise(position: int) -> float:
        return max((part.value for part in values[position].of), default=0.0)

    for position in sorted(range(len(paragraphs)), key=largest_premise):
        if excess > 0:
            excess -= len(paragraphs[position]) - 1
            paragraphs[position] = paragraphs[position][:1]
    half = MOST_LINES // 2
    if len(paragraphs) > MOST_LINES:
        omission = [f"... {counted(len(paragraphs) - 2 * half, 'value')} between"]
        paragraphs = [*paragraphs[:half], omission, *paragraphs[-half:]]
    text = itertools.chain.from_iterable(paragraphs)
    return "\n".join(map(visible, text))


def _values_before(claim: Upper) -> list[Upper]:
    """Return the claims about values that prove a claim, without values that have the constant of the one before."""
    premises = _claims_of_maps(claim)
    if _factor(claim) is not None:
        premises = premises[1:]
    before = []
    for premise in premises:
        factor = _factor(premise)
        while factor is not None and factor.value == 1:
            premise = _claims_of_maps(premise)[1]
            factor = _factor(premise)
        before.append(premise)
    return before


def _claims_of_maps(claim: Upper) -> list[Upper]:
    """Return the premises of a claim that are about maps between values."""
    return [premise for premise in claim.of if isinstance(premise, Upper) and isinstance(premise.what, Map)]


def _factor(claim: Upper) -> Upper | None:
    """Return the claim about an operator's factor, if a claim is a product of the factor and a constant; else None.

    The factor is the first of two premises: its map ends at the claim's value, and the other map ends before.
    """
    premises = _claims_of_maps(claim)
    if len(premises) != 2:
        return None
    first, second = premises
    end = map_of_claim(claim).end
    is_product = map_of_claim(first).end == end and map_of_claim(second).end != end
    return first if is_product else None


def _line(claim: Upper, has_several_inputs: bool) -> str:
    """Return the line of a value: its constant, the rule, and the values that the rule uses."""

    def name(part: Upper) -> str:
        way = map_of_claim(part)
        return str(way) if has_several_inputs and way.start != way.end else way.end

    factor = _factor(claim)
    before = _values_before(claim)
    premises = "" if not before else f" of {', '.join(map(name, before))}"
    if factor is not None:
        premises = f", {number(factor.value, 'upper')} times {name(before[0])}"
    return f"{name(claim)} <= {number(claim.value, 'upper')}: {claim.rule}{premises}"


def _lines_of_norms(claim: Upper) -> list[str]:
    """Return lines about the norms that a value's factor is made of."""
    source = _factor(claim) or claim
    text: list[str] = []
    for premise in source.of:
        if not isinstance(premise.what, Map):
            text += lines(premise, ("upper", "<="), 0, 1, NORM_LEVELS)
    return text
