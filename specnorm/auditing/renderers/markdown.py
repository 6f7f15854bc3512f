"""Markdown as GitHub reads it: the text table, where a model's own words cannot become markup, links or mentions."""

from __future__ import annotations

import re
from collections.abc import Sequence

from specnorm.auditing import tables
from specnorm.auditing.report import Report, notes, verdict
from specnorm.text import visible

_PLAIN = re.compile(r"[\w./:=,()-]+(?: [\w./:=,()-]+)*")
"""What stands for itself between backticks."""


def render(reports: Sequence[Report], *, many: bool) -> str:
    """One heading, verdict, table and block of notes a model."""
    del many
    return "\n".join(_report(report) for report in reports)


def code(text: str) -> str:
    """Text as code that holds nothing but itself: between backticks, or with references for what is no letter."""
    text = visible(text)
    if _PLAIN.fullmatch(text):
        return f"`{text}`"
    return "<code>" + "".join(c if c.isalnum() else f"&#{ord(c)};" for c in text) + "</code>"


def _report(report: Report) -> str:
    title = [f"## {code(report.model)}", ""] if report.model is not None else []
    head, *body = tables.texts(report.layers)
    marks = ["---", "---", *["---:"] * (len(head) - 3), "---"]
    rows = [[code(row.name), *cells] for row, (_, *cells) in zip(report.layers, body, strict=True)]
    table = [_line(head), _line(marks), *map(_line, rows), "", *_block(notes(report)), ""] if rows else []
    return "\n".join([*title, verdict(report), "", *table])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _block(lines: Sequence[str]) -> list[str]:
    """Fence lines that hold a model's words, so that they are shown as they are."""
    longest = max(map(len, re.findall("`+", "\n".join(lines))), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}text", *lines, fence]
