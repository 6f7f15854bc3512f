"""Write tables of text and of HTML; the first row has the headings."""

from __future__ import annotations

import html
from collections.abc import Sequence

MOST_ROWS = 20
"""Largest number of rows of a table that `repr` shows."""


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the lines of a table."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines


def shortened(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return a table with its first and last rows, if it has more than `MOST_ROWS`."""
    if len(rows) <= MOST_ROWS:
        return list(rows)
    half = MOST_ROWS // 2
    dots = ("...", *("",) * (len(rows[0]) - 1))
    return [*rows[:half], dots, *rows[-half:]]


def html_table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table in HTML; the first row has the headings."""
    text = ""
    for position, row in enumerate(rows):
        tag = "td" if position else "th"
        cells = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
        text += f"<tr>{cells}</tr>"
    return f"<table>{text}</table>"
