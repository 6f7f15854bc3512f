"""Claims for people: the chain of rules behind a bound, with their numbers, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator

from specnorm.certified.bound import Lower, Upper
from specnorm.problem.frequencies import Frequencies
from specnorm.problem.spec import ConvSpec
from specnorm.text import POWER, number

_SHOWN = 3
"""Premises of one claim that are written out, the largest first."""


def explained(lower: Lower, upper: Upper) -> str:
    """Both bounds of a layer, and what they rest on: one line a rule."""
    return "\n".join([*lines(upper, ("upper", "<="), 0), *lines(lower, ("lower", ">="), 0)])


def lines(
    claim: Upper | Lower,
    side: tuple[str, str],
    exponent: int,
    depth: int = 0,
    most: float = math.inf,
) -> Iterator[str]:
    """One claim and what it rests on, to so many levels."""
    if claim.rule.startswith(POWER):
        yield from lines(claim.of[0], side, exponent + int(claim.rule.removeprefix(POWER)), depth, most)
        return
    promise, relation = side
    value = number(math.ldexp(claim.value, exponent), promise)
    yield f"{'  ' * depth}{words(claim.what)} {relation} {value}: {claim.rule}"
    parts = sorted(claim.of, key=lambda part: -part.value)
    if depth >= most:
        return
    for part in parts[:_SHOWN]:
        yield from lines(part, side, exponent, depth + 1, most)
    if len(parts) > _SHOWN:
        yield f"{'  ' * (depth + 1)}... and {len(parts) - _SHOWN} more, none of them larger"


def words(what: object) -> str:
    """What a claim bounds."""
    if isinstance(what, Frequencies):
        return f"symbol at ({', '.join(f'{angle:.4g}' for angle in what.angles[0])})"
    if isinstance(what, ConvSpec):
        where = "every size" if what.input_shape is None else " x ".join(map(str, what.input_shape)) or "no axis"
        return f"layer of {what.cin} to {what.cout} channels at {where}"
    if isinstance(what, tuple):
        return " ".join(map(words, what))
    return str(what)
