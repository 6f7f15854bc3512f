"""One self-contained page: tables and a plot, how each number was obtained, and nothing that is loaded."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from specnorm.auditing import plots, tables
from specnorm.auditing.report import Report, notes, verdict
from specnorm.auditing.rows import INTERVAL, Row
from specnorm.text import install, number, visible

NEEDS = f"HTML output needs jinja2: {install('cli')}"


def render(reports: Sequence[Report], *, many: bool) -> str:
    """One page with a section a model.

    It is the same for the same reports, matplotlib and Jinja2 (ImportError without). Without matplotlib there is no
    plot, and the page says what to install.
    """
    del many
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


# -- a model ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Cell:
    """A number in the table.

    Parameters
    ----------
    value : float or None
        What to sort by; None: last.
    pad : int
        Digits that other cells of the column have further right.
    many : bool
        Whether the text is a list of numbers.
    """

    text: str
    value: float | None
    pad: int = 0
    many: bool = False


def _section(position: int, report: Report) -> dict[str, Any]:
    methods = tables.columns(report.layers)
    kinds = tables.promises(report.layers)
    words = {"upper": "upper bound", "lower": "lower bound"}
    promised = [(name, words.get(kinds.get(name, ""), kinds.get(name, "not measured"))) for name in methods]
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
        "rows": list(zip(report.layers, _numbers(report, methods), tables.remarks(report.layers), strict=True)),
        "methods": methods,
        "plot": _plot(report),
        "explained": report.network.explain() if report.network is not None and report.network.claim else "",
        "origins": _origins(report, methods),
        "geometry": _geometries(report),
    }


def _numbers(report: Report, methods: Sequence[str]) -> list[list[Cell]]:
    """Cells of all rows, padded so that the decimal points of a column are below each other."""
    texts = [tables.numbers(row, methods) for row in report.layers]
    values = [
        [row.lower, row.upper, *map(row.values.get, methods), *(row.ratio for _ in tables.ratio(methods))]
        for row in report.layers
    ]
    digits = [[_fraction(text) for text in column] for column in zip(*texts, strict=True)]
    widest = [max((n for n in column if n is not None), default=0) for column in digits]
    return [
        [
            Cell(text, _smallest(value), 0 if column[i] is None else most - (column[i] or 0), isinstance(value, tuple))
            for text, value, column, most in zip(line, given, digits, widest, strict=True)
        ]
        for i, (line, given) in enumerate(zip(texts, values, strict=True))
    ]


def _fraction(text: str) -> int | None:
    """Digits after the point, None for what is no plain number."""
    return len(text.partition(".")[2]) if text.replace(".", "", 1).isdigit() else None


def _smallest(value: Any) -> float | None:
    return min(value, default=None) if isinstance(value, tuple) else value


def _origins(report: Report, methods: Sequence[str]) -> list[dict[str, Any]]:
    """How the numbers of each column were obtained, and of how many layers that is true."""
    found = []
    for column in (INTERVAL, *methods):
        counted = Counter(row.origins[column] for row in report.layers if column in row.origins)
        for origin, count in counted.items():
            promise = "proven interval" if column == INTERVAL else tables.WORDS[origin.promise]
            name = "lower, upper" if column == INTERVAL else column
            found.append({"column": name, "origin": origin, "promise": promise, "count": count})
    return found


GEOMETRY = ("stride", "dilation", "groups", "transposed", "layout", "padding_mode", "padding")


def _geometries(report: Report) -> list[dict[str, Any]]:
    """Every geometry in the model once, with the layers that have it."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i, row in enumerate(report.layers):
        groups.setdefault(_geometry(row), []).append(i)
    return [
        {
            "layers": _ranges([i + 1 for i in found]),
            "name": visible(report.layers[found[0]].name) if len(found) == 1 else f"{len(found)} layers",
            "kind": kind, "cells": cells, "size": size, "others": others,
        }
        for (kind, cells, size, others), found in groups.items()
    ]  # fmt: skip


def _geometry(row: Row) -> tuple[Any, ...]:
    """A layer's kind; its geometry as words, and which of them are assumed; its input size; what else is assumed."""
    spec = row.spec
    names = {word.partition("=")[0]: word for word in row.assumed}
    told = dict.fromkeys(GEOMETRY, "")
    if spec is not None and spec.ndim:
        told = {
            "stride": _times(spec.stride),
            "dilation": _times(spec.dilation),
            "groups": str(spec.groups),
            "transposed": "yes" if spec.transposed else "no",
            "layout": spec.layout or f"OI{'DHW'[3 - spec.ndim :]}",
            "padding_mode": spec.padding_mode,
            "padding": _times([before if before == after else f"{before}+{after}" for before, after in spec.padding]),
        }
    size = "" if spec is None or not spec.ndim else "every" if spec.input_shape is None else _times(spec.input_shape)
    cells = tuple((told[name], name in names) for name in GEOMETRY)
    return row.kind, cells, size, tuple(visible(word) for name, word in names.items() if name not in GEOMETRY)


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as ``1-3, 7``."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in runs)  # noqa: RUF001


def _times(values: Iterable[Any]) -> str:
    return "×".join(map(str, values))  # noqa: RUF001


def _plot(report: Report) -> str | None:
    """The plot of the intervals as an address that holds it."""
    if not plots.installed() or report.error is not None:
        return None
    return f"data:image/svg+xml;base64,{base64.b64encode(plots.draw([report], 'svg')).decode()}"
