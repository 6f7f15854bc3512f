"""Numbers and strings for people: rounded to the side that keeps a promise; harmless to a terminal, a spreadsheet."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal

DIGITS = 6
SOURCE, WHERE = ".", "in a checkout of specnorm"
"""What pip installs from, and where: the distribution, specnorm-bounds, is on no index yet."""
POWER = "times 2**"
"""How the rule of a claim begins that was scaled by a power of two, which follows."""
_ROUNDING = {"lower": ROUND_FLOOR, "upper": ROUND_CEILING}


def number(value: float | None, promise: str = "exact") -> str:
    """Six significant digits, rounded so that the text keeps what the number promises."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    context = Context(prec=DIGITS, rounding=_ROUNDING.get(promise, ROUND_HALF_EVEN))
    rounded = context.create_decimal(Decimal(value))
    if rounded == 0:
        return "0"
    if not -4 <= rounded.adjusted() < DIGITS:
        return f"{rounded:.{DIGITS - 1}e}"
    return f"{rounded:.{DIGITS - 1 - rounded.adjusted()}f}"


def visible(text: str) -> str:
    """Replace every character that does not print (controls, bidi overrides, lone surrogates) by its escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def install(extra: str) -> str:
    """What to run for an extra of the distribution."""
    return f"pip install '{SOURCE}[{extra}]' {WHERE}"
