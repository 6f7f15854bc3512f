"""CSV: one line a layer, for spreadsheets. The model's own words cannot become formulas."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from specnorm.auditing.report import Report
from specnorm.auditing.rows import Row
from specnorm.text import spreadsheet_safe, visible


def render(reports: Sequence[Report], *, many: bool) -> str:
    """One table of all models, with the fields of the JSON rows as columns after ``model``; unmeasured ones last."""
    del many
    rows = [
        {"model": report.model, **row.to_dict(), **_gates(report)}
        for report in reports
        for row in (*report.layers, *report.unmeasured, *_errors(report))
    ]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    # Text is quoted whatever is in it: the writer alone would leave a bare carriage return to break the line.
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    return text.getvalue()


def _errors(report: Report) -> list[Row]:
    """The row of a model that could not be read."""
    return [] if report.error is None else [Row("", "unknown", (), None, reason=report.error)]


def _gates(report: Report) -> dict[str, Any]:
    """The answers, in each line of the model."""
    return {"gates": [gate.to_dict() | {"places": len(gate.places)} for gate in report.gates]} if report.gates else {}


def _cell(value: Any) -> str | float:
    if value is None:
        return ""
    if isinstance(value, str):
        return spreadsheet_safe(value)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else visible(json.dumps(value))
