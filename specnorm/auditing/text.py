"""Strings from a model file made harmless for whoever reads them: a terminal, a spreadsheet."""

from __future__ import annotations

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def visible(text: str) -> str:
    """Replace every character that does not print (controls, bidi overrides, lone surrogates) by its escape.

    Parameters
    ----------
    text : str

    Returns
    -------
    str
        One line, safe to write to a terminal.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def spreadsheet_safe(text: str) -> str:
    """Put an apostrophe before what a spreadsheet would take for a formula.

    Parameters
    ----------
    text : str

    Returns
    -------
    str
    """
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text
