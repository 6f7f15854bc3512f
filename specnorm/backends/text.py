"""Text for users: numbers, rounded so that a promise still holds, and strings that are safe to print."""

from __future__ import annotations

import math
import re
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal
from typing import Any

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


def shown(x: Any, promise: str) -> str:
    """A value as text, rounded so that the promise holds; the first and last entry of an array with several entries."""
    values = x.detach() if hasattr(x, "detach") else x
    try:
        if getattr(values, "ndim", 0) == 0:
            return number(float(values), promise)
        first = number(float(values[0]), promise)
        last = number(float(values[-1]), promise)
        return f"{first} ... {last} ({values.shape[0]} values)"
    except Exception:  # a tracer, or another object that a compiler puts in the place of an array
        return "unknown under a tracer"


_FORMAT = re.compile(r"(?:.?[<>=^])?[-+ ]?z?(#?)0?\d*[,_]?((?:\.\d+)?)([eEfFgGn%]?)", re.DOTALL)
"""The formats of a float, with groups for what decides how many digits there are."""


def rounded_format(value: float, spec: str, promise: str) -> str:
    """``format(value, spec)`` of a non-negative float, but rounded up for the promise "upper" and down for "lower".

    If the text is on the wrong side of the value, a larger or smaller number is formatted instead.

    Raises `ValueError` if the format is none of a float.
    """
    nearest = format(value, spec)  # refuses what is no format
    found = _FORMAT.fullmatch(spec)
    digits = "".join(found.groups()) if found else spec
    if not math.isfinite(value) or digits in ("", "#"):
        return nearest  # Python's shortest text, which stands for this float alone
    exact = Decimal(value)
    is_wrong, sign = {"lower": (Decimal.__gt__, -1), "upper": (Decimal.__lt__, 1)}[promise]
    shown = value
    step = math.ulp(value)
    while is_wrong(_as_decimal(shown, digits), exact):
        # The step is less than twice as large as needed, so the text changes by one unit of its last digit.
        shown = max(value + sign * step, 0.0)
        step *= 2
    return format(shown, spec)


def _as_decimal(value: float, digits: str) -> Decimal:
    """The number that a float is rounded to by a format without width, fill and separators."""
    text = format(value, digits.replace("n", "g"))
    if text == "inf%":
        return Decimal("inf")
    return Decimal(f"{text[:-1]}e-2" if text.endswith("%") else text)


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A count with its noun: "1 layer", "2 layers". ``plural`` is needed where it is not the noun with an s."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def visible(text: str) -> str:
    """Replace characters that are not printable (controls, bidi overrides, lone surrogates) by escape sequences."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def install(extra: str) -> str:
    """The command that installs an extra of this distribution."""
    return f"pip install '{SOURCE}[{extra}]' {WHERE}"
