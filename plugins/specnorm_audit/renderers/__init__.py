"""Reports -> text, in each output format. Nothing is written to disk or terminal here."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from typing import Any

from specnorm.proof import visible
from specnorm_audit import tables
from specnorm_audit.report import Report, notes, verdict
from specnorm_audit.rows import Row

FORMATS = ("table", "json", "csv", "markdown", "html")
_PLAIN = re.compile(r"[\w./:=,()-]+(?: [\w./:=,()-]+)*")
"""What stands for itself between backticks."""


def render(reports: Sequence[Report], output_format: str, *, many: bool = False) -> str:
    """Render reports as text that ends in a newline.

    Parameters
    ----------
    output_format : str
        One of `FORMATS`.
    many : bool
        Whether several models were asked for: JSON is then a list, whatever became of them.
    """
    if output_format == "html":
        from specnorm_audit.renderers import html  # which needs Jinja2

        return html.render(reports)
    if output_format == "json":
        data = [report.to_dict() for report in reports]
        # ASCII, so that no character of a layer's name can act on a terminal.
        return json.dumps(data if many else data[0], indent=2, allow_nan=False) + "\n"
    if output_format == "csv":
        return to_csv([row for report in reports for row in _csv_rows(report)])
    return "\n".join(map(_markdown if output_format == "markdown" else str, reports))


def to_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as CSV: one line each, for spreadsheets, where the model's own words cannot become formulas."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    # Text is quoted whatever is in it: the writer alone would leave a bare carriage return to break the line.
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    return text.getvalue()


def _csv_rows(report: Report) -> list[dict[str, Any]]:
    """The fields of the JSON rows after ``model``; unmeasured ones last; with the answers of the gates."""
    gates = [gate.to_dict() | {"places": len(gate.places)} for gate in report.gates]
    failed = [] if report.error is None else [Row("", "unknown", (), None, reason=report.error)]
    return [
        {"model": report.model, **row.to_dict(), **({"gates": gates} if gates else {})}
        for row in (*report.layers, *report.unmeasured, *failed)
    ]


def _cell(value: Any) -> str | float:
    if value is None:
        return ""
    if isinstance(value, str):
        return spreadsheet_safe(value)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else visible(json.dumps(value))


# -- Markdown as GitHub reads it: a model's own words cannot become markup, links or mentions --------------------------
def code(text: str) -> str:
    """Text as code that holds nothing but itself: between backticks, or with references for what is no letter."""
    text = visible(text)
    if _PLAIN.fullmatch(text):
        return f"`{text}`"
    return "<code>" + "".join(c if c.isalnum() else f"&#{ord(c)};" for c in text) + "</code>"


def _markdown(report: Report) -> str:
    title = [f"## {code(report.model)}", ""] if report.model is not None else []
    head, *body = tables.texts(report.layers)
    marks = ["---", "---", *["---:"] * (len(head) - 3), "---"]
    rows = [[code(row.name), *cells] for row, (_, *cells) in zip(report.layers, body, strict=True)]
    table = [f"| {' | '.join(cells)} |" for cells in (head, marks, *rows)] if rows else []
    lines = notes(report)
    longest = max(map(len, re.findall("`+", "\n".join(lines))), default=0)
    fence = "`" * max(3, longest + 1)
    block = [f"{fence}text", *lines, fence] if lines else []
    return "\n".join([*title, verdict(report), "", *table, "", *block, ""])


def spreadsheet_safe(text: str) -> str:
    """Put an apostrophe before what a spreadsheet would take for a formula; what does not print becomes its escape."""
    text = visible(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
