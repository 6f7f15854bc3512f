"""Print claims as text: the chain of rules that prove a bound, with their numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator

from specnorm.backends import text
from specnorm.backends.text import POWER
from specnorm.geometry.spec import ConvSpec
from specnorm.proofs.bound import Lower, Upper
from specnorm.proofs.frequencies import Frequencies

_SHOWN_PREMISES = 3
"""Number of premises of a claim that are printed, the largest first."""


def explained(lower: Lower, upper: Upper) -> str:
    """The rules that prove two bounds, one on each line, premises below their conclusion."""
    return "\n".join([*lines(upper, ("upper", "<="), 0), *lines(lower, ("lower", ">="), 0)])


def lines(
    claim: Upper | Lower,
    side: tuple[str, str],
    exponent: int,
    depth: int = 0,
    most: float = math.inf,
) -> Iterator[str]:
    """Yield the line of a claim and, indented, those of its premises.

    Parameters
    ----------
    side : tuple of str
        ("upper", "<=") or ("lower", ">=").
    exponent : int
        Power of two by which the claim's number is multiplied for printing: claims are about scaled kernels.
    depth : int
        Level of the claim.
    most : float
        Level below which no premises are printed.
    """
    if claim.rule.startswith(POWER):
        (scaled_claim,) = claim.of
        yield from lines(scaled_claim, side, exponent + int(claim.rule.removeprefix(POWER)), depth, most)
        return
    promise, relation = side
    value = text.number(math.ldexp(claim.value, exponent), promise)
    yield f"{'  ' * depth}{words(claim.what)} {relation} {value}: {claim.rule}"
    premises = sorted(claim.of, key=lambda premise: -premise.value)
    if depth >= most:
        return
    for premise in premises[:_SHOWN_PREMISES]:
        yield from lines(premise, side, exponent, depth + 1, most)
    if len(premises) > _SHOWN_PREMISES:
        yield f"{'  ' * (depth + 1)}... and {len(premises) - _SHOWN_PREMISES} more, none of them larger"


def words(what: object) -> str:
    """The subject of a claim, in words."""
    if isinstance(what, Frequencies):
        return f"symbol at ({', '.join(f'{angle:.4g}' for angle in what.angles[0])})"
    if isinstance(what, ConvSpec):
        if what.input_shape is None:
            where = "every size"
        else:
            where = " x ".join(map(str, what.input_shape)) or "no axis"
        return f"layer of {what.cin} to {what.cout} channels at {where}"
    if isinstance(what, tuple):
        return " ".join(map(words, what))
    return str(what)
