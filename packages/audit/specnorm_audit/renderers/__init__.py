"""Write reports as text, in each output format. Nothing goes to disk or terminal here."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

from specnorm.proof import install, number, visible
from specnorm_audit import tables
from specnorm_audit.renderers.annotations import github, sarif
from specnorm_audit.renderers.junit import junit
from specnorm_audit.report import Report, notes, verdict
from specnorm_audit.rows import GEOMETRY, Row

FORMATS = ("table", "json", "csv", "markdown", "html", "junit", "github", "sarif")
_PLAIN = re.compile(r"[\w./:=,()-]+(?: [\w./:=,()-]+)*")
"""Text in which Markdown sees nothing special between backticks."""


def render(reports: Sequence[Report], output_format: str, *, many: bool = False) -> str:
    """Render reports as text that ends in a newline.

    Parameters
    ----------
    output_format : str
        One of `FORMATS`.
    many : bool
        Whether several models were requested. JSON is then a list, even if only one of them has a report.
    """
    if output_format not in FORMATS:
        raise ValueError(f"{output_format!r} is none of {', '.join(FORMATS)}")
    if isinstance(reports, Report):
        raise TypeError(f"one report is no sequence of them: render([report], {output_format!r}).")
    if output_format in _DOCUMENTS:
        return _DOCUMENTS[output_format](reports)
    if output_format == "json":
        data = [report.to_dict() for report in reports]
        # ASCII, so that no character of a layer's name can act on a terminal.
        return json.dumps(data if many else data[0], indent=2, allow_nan=False) + "\n"
    return "\n".join(map(_markdown if output_format == "markdown" else str, reports))


def to_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as CSV: one line each, for spreadsheets, where the model's own words cannot become formulas."""
    columns: dict[str, None] = {}
    for row in rows:
        columns |= dict.fromkeys(row)
    text = io.StringIO()
    # Text is quoted whatever is in it: the writer alone would leave a bare carriage return to break the line.
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    return text.getvalue()


def _csv(reports: Sequence[Report]) -> str:
    rows: list[dict[str, Any]] = []
    for report in reports:
        rows += _csv_rows(report)
    return to_csv(rows)


def _csv_rows(report: Report) -> list[dict[str, Any]]:
    """Return a report's rows as those of JSON, with the model's name and the answers of the gates.

    Unmeasured arrays come last; a model that cannot be read has one row, which says why.
    """
    rows = [*report.layers, *report.unmeasured]
    if report.error is not None:
        rows.append(Row("", "unknown", (), None, reason=report.error))
    gates = [gate.to_dict() | {"places": len(gate.places)} for gate in report.gates]
    gate_cells = {"gates": gates} if gates else {}
    return [{"model": report.model, **row.to_dict(), **gate_cells} for row in rows]


def _cell(value: Any) -> str | float:
    """Return a value as a cell of CSV."""
    if value is None:
        return ""
    if isinstance(value, str):
        return spreadsheet_safe(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return visible(json.dumps(value))


# -- Markdown as GitHub reads it: a model's own words cannot become markup, links or mentions --------------------------
def code(text: str) -> str:
    """Return text as code in which Markdown sees nothing: between backticks, or with references for characters."""
    text = visible(text)
    if _PLAIN.fullmatch(text):
        return f"`{text}`"
    inside = "".join(c if c.isalnum() else f"&#{ord(c)};" for c in text)
    return f"<code>{inside}</code>"


def _markdown(report: Report) -> str:
    """Return a report's verdict, its table, and the notes in a block of code."""
    title = [f"## {code(report.model)}", ""] if report.model is not None else []
    lines = notes(report)
    longest = max(map(len, re.findall("`+", "\n".join(lines))), default=0)
    fence = "`" * max(3, longest + 1)
    block = [f"{fence}text", *lines, fence] if lines else []
    return "\n".join([*title, verdict(report), "", *_markdown_table(report), "", *block, ""])


def _markdown_table(report: Report) -> list[str]:
    """Return the lines of a report's table; none without layers."""
    if not report.layers:
        return []
    head, *body = tables.texts(report.layers)
    numbers = len(head) - 3  # columns, besides layer, shape and remark
    rows = [head, ["---", "---", *["---:"] * numbers, "---"]]
    for row, (_, *cells) in zip(report.layers, body, strict=True):
        rows.append([code(row.name), *cells])
    return [f"| {' | '.join(cells)} |" for cells in rows]


def spreadsheet_safe(text: str) -> str:
    """Put an apostrophe before what a spreadsheet would take for a formula; what does not print becomes its escape."""
    text = visible(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


# -- HTML: one self-contained page, tables, and nothing that is loaded -------------------------------------------------
def _html(reports: Sequence[Report]) -> str:
    """Return one page with a section a model.

    It is the same for the same reports and Jinja2 (ImportError without).
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise ImportError(f"HTML output needs jinja2: {install('cli')}") from error
    environment = Environment(
        loader=PackageLoader(__package__, "page"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["visible"] = visible
    environment.filters["name"] = lambda name: Markup(".<wbr>").join(visible(name).split("."))  # escapes the parts
    environment.globals |= {"number": number, "tables": tables, "notes": notes, "verdict": verdict, "cells": _cells}
    script = _file("report.js")
    return environment.get_template("report.html").render(
        reports=reports,
        facts=GEOMETRY,
        geometry_of=_geometry,
        style=_file("report.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _file(name: str) -> str:
    return resources.files(__package__).joinpath("page", name).read_text(encoding="utf-8")


def _cells(row: Row, methods: Sequence[str]) -> Iterator[tuple[str, float | None]]:
    """Yield the numbers of a layer: each as text, and as the number by which it is sorted."""
    values = [row.lower, row.upper, *map(row.values.get, methods)]
    for text, value in zip(tables.numbers(row, methods), values, strict=True):
        yield text, min(value, default=None) if isinstance(value, tuple) else value


def _geometry(row: Row) -> list[str]:
    """Return the facts of a layer's geometry in words."""
    data = row.to_dict()
    return [_words(data[name]) if row.kind == "conv" else "-" for name in GEOMETRY]


def _words(value: Any) -> str:
    """Return a value of a geometry in words."""
    if isinstance(value, list):
        return "×".join(map(_words, value))  # noqa: RUF001
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


_DOCUMENTS = {"csv": _csv, "html": _html, "junit": junit, "github": github, "sarif": sarif}
"""Functions that write all reports at once, by format."""
