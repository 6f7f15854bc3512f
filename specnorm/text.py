"""Text for users: numbers, rounded so that a promise still holds, and strings that are safe to print."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal

DIGITS = 6
"""Significant digits of printed numbers."""
SOURCE = "."
"""The argument of ``pip install`` for this distribution, which is not on a package index yet."""
WHERE = "in a checkout of specnorm"
"""The place in which to run pip."""
POWER = "times 2**"
"""Beginning of the rule of a claim that was scaled by a power of two; the exponent follows."""
_ROUNDING = {"lower": ROUND_FLOOR, "upper": ROUND_CEILING}
"""Rounding mode for each promise; other numbers are rounded to nearest."""


def number(value: float | None, promise: str = "exact") -> str:
    """A number with six significant digits: a lower bound is rounded down, an upper bound up."""
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
    """Replace characters that are not printable (controls, bidi overrides, lone surrogates) by escape sequences."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def install(extra: str) -> str:
    """The command that installs an extra of this distribution."""
    return f"pip install '{SOURCE}[{extra}]' {WHERE}"
