"""Claims for people: the chain of rules behind a bound, with their numbers, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from specnorm.problem.frequencies import Frequencies
from specnorm.problem.spec import ConvSpec
from specnorm.text import number

if TYPE_CHECKING:
    from specnorm.certified.bound import Lower, Upper

_SHOWN = 3
"""Premises of one claim that are written out, the largest first."""


def explained(lower: Lower, upper: Upper, exponent: int) -> str:
    """Both bounds of a layer, scaled by ``2**-exponent``, and what they rest on: one line a rule."""
    return "\n".join([*_lines(upper, ("upper", "<="), exponent), *_lines(lower, ("lower", ">="), exponent)])


def _lines(claim: Upper | Lower, side: tuple[str, str], exponent: int, depth: int = 0) -> Iterator[str]:
    promise, relation = side
    value = number(math.ldexp(claim.value, exponent), promise)
    yield f"{'  ' * depth}{words(claim.what)} {relation} {value}: {claim.rule}"
    parts = sorted(claim.of, key=lambda part: -part.value)
    for part in parts[:_SHOWN]:
        yield from _lines(part, side, exponent, depth + 1)
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
