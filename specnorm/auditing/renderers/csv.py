"""CSV: one line a layer, for spreadsheets. The model's own words cannot become formulas."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from specnorm.auditing.report import Report
from specnorm.auditing.text import spreadsheet_safe


def render(reports: Sequence[Report], *, many: bool) -> str:
    """One table of all models, with the fields of the JSON rows as columns after ``model``.

    Parameters
    ----------
    reports : sequence of Report
    many : bool
        Unused: the column ``model`` is always there.

    Returns
    -------
    str
    """
    del many
    rows = [{"model": report.model, **row.to_dict()} for report in reports for row in report.layers]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return spreadsheet_safe(value)
    return json.dumps(value)
