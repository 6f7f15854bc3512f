"""One self-contained page: tables and a plot, and nothing that is loaded."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from specnorm.proof import install, number, visible
from specnorm_audit import plots, tables
from specnorm_audit.report import Report, notes, verdict

NEEDS = f"HTML output needs jinja2: {install('cli')}"
GEOMETRY = ("stride", "dilation", "groups", "transposed", "padding_mode", "padding", "input_shape")


def render(reports: Sequence[Report]) -> str:
    """One page with a section a model.

    It is the same for the same reports, matplotlib and Jinja2 (ImportError without). Without matplotlib there is no
    plot, and the page says what to install.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise ImportError(NEEDS) from error
    environment = Environment(
        loader=PackageLoader(__package__, "page"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["visible"] = visible
    environment.filters["name"] = lambda name: Markup(".<wbr>").join(visible(name).split("."))  # escapes the parts
    script = _file("report.js")
    return environment.get_template("report.html").render(
        reports=[_section(i, report) for i, report in enumerate(reports)],
        style=_file("report.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=_data(reports),
        needs=None if plots.installed() else plots.NEEDS,
        version=reports[0].version if reports else "",
        environment=reports[0].environment if reports else {},
    )


def _file(name: str) -> str:
    return resources.files(__package__).joinpath("page", name).read_text(encoding="utf-8")


def _data(reports: Sequence[Report]) -> str:
    """The reports as JSON that no text in it can end: what ``--format json`` writes, in one list."""
    text = json.dumps([report.to_dict() for report in reports], allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _section(position: int, report: Report) -> dict[str, Any]:
    methods = tables.columns(report.layers)
    kinds = tables.promises(report.layers)
    words = {"upper": "upper bound", "lower": "lower bound"}
    promised = [(name, words.get(kinds.get(name, ""), kinds.get(name, "not measured"))) for name in methods]
    rows = []
    for row, remark in zip(report.layers, tables.remarks(report.layers), strict=True):
        values = [row.lower, row.upper, *map(row.values.get, methods), *(row.ratio for _ in tables.ratio(methods))]
        sorted_by = [min(x, default=None) if isinstance(x, tuple) else x for x in values]
        data = row.to_dict()
        rows.append({
            "row": row, "remark": remark, "cells": list(zip(tables.numbers(row, methods), sorted_by, strict=True)),
            "geometry": [_words(data[name]) for name in GEOMETRY] if row.kind == "conv" else ["-"] * len(GEOMETRY),
            "assumed": [visible(word) for word in row.assumed],
        })  # fmt: skip
    drawn = plots.installed() and report.error is None
    picture = base64.b64encode(plots.draw([report], "svg")).decode() if drawn else None
    return {
        "id": f"m{position}",
        "model": visible(report.model) if report.model is not None else "a mapping of names to arrays",
        "verdict": verdict(report),
        "error": report.error is not None,
        "summary": report.summary,
        "number": number,
        "notes": notes(report),
        "columns": [
            ("lower", "proven"),
            ("upper", "proven"),
            *promised,
            *((name, "tn / lower") for name in tables.ratio(methods)),
        ],
        "rows": rows,
        "methods": methods,
        "geometry": [name.replace("_", " ") for name in GEOMETRY],
        "plot": picture and f"data:image/svg+xml;base64,{picture}",
        "explained": report.network.explain() if report.network is not None and report.network.claim else "",
    }


def _words(value: Any) -> str:
    if isinstance(value, list):
        return "×".join(map(_words, value))  # noqa: RUF001
    return "-" if value is None else "yes" if value is True else "no" if value is False else str(value)
