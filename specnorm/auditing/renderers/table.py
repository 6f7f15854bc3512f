"""Text tables for people: lower bounds rounded down, upper ones up, then what was assumed and what failed."""

from __future__ import annotations

from collections.abc import Sequence
from unicodedata import combining, east_asian_width

from specnorm.auditing.gates import verdict
from specnorm.auditing.report import CIRCULAR, STANDARD, Report, Row, Value
from specnorm.text import number, visible

NAMED = 3
"""Layers that a note names before it counts the others."""
WORDS = {"upper": "an upper bound", "lower": "a lower bound", "exact": "exact", "estimate": "an estimate"}
"""What a promise is called."""


def render(reports: Sequence[Report], *, many: bool) -> str:
    """One table a model.

    Parameters
    ----------
    many : bool
        Unused.

    Returns
    -------
    str
        Plain text: no colours, no markup, control characters shown as escapes.
    """
    del many
    return "\n".join(_report(report) for report in reports)


def columns(report: Report) -> list[str]:
    """Names of the methods' columns, in the order of the table."""
    names = dict.fromkeys(name for row in report.layers for name in row.values)
    return sorted(names, key=lambda name: name == CIRCULAR)


def cells(row: Row, methods: Sequence[str]) -> list[str]:
    """A row's shape and numbers as text, rounded so that each keeps its promise.

    Parameters
    ----------
    methods : sequence of str
        From `columns`.

    Returns
    -------
    list of str
        Shape, lower, upper, one a method, and the ratio, or "error".
    """
    return [
        "x".join(map(str, row.shape)),
        number(row.lower, "lower"),
        number(row.upper, "upper"),
        *(_cell(row.values.get(name), row.promises.get(name, "exact")) for name in methods),
        number(row.ratio) if row.status == "ok" else "error",
    ]


def _report(report: Report) -> str:
    methods = columns(report)
    title = [*([visible(report.model)] if report.model is not None else []), verdict(report), ""]
    rows = [[visible(row.name), *cells(row, methods)] for row in report.layers]
    lines = _table(["layer", "shape", "lower", "upper", *methods, "ratio"], rows)
    return "\n".join([*title, *lines, "", *notes(report), ""])


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table, of which all columns but the first two are numbers."""
    widths = [max(map(_width, column)) for column in zip(headings, *rows, strict=True)]
    rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
    head, *body = ([_filled(text, widths[j], j > 1) for j, text in enumerate(row)] for row in (headings, *rows))
    return [f"| {' | '.join(head)} |", rule, *(f"| {' | '.join(row)} |" for row in body)]


def _filled(text: str, width: int, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space


def _width(text: str) -> int:
    """Columns of a terminal: two for a wide character, none for a mark that combines with the one before."""
    return sum(0 if combining(c) else 1 + (east_asian_width(c) in "WF") for c in text)


def _cell(value: Value, promise: str) -> str:
    if isinstance(value, tuple):
        return " ".join(number(v, promise) for v in value)
    return number(value, promise)


def notes(report: Report) -> list[str]:
    """What stands beneath a table, a line each: the summary, the promises, the assumptions, the errors.

    Returns
    -------
    list of str
        Of characters that print; markup is for the caller to escape.
    """
    summary = report.summary
    notes = [
        f"{_count(summary['layers'], 'layer')} ({summary['conv']} conv, {summary['linear']} linear), "
        f"{_count(summary['errors'], 'error')}; {_count(summary['skipped'], 'other array')} skipped."
    ]
    for reason in dict.fromkeys(row.reason for row in report.unmeasured):
        named = ", ".join(visible(row.name) for row in report.unmeasured if row.reason == reason)
        notes.append(f"Not measured, though it could be a layer: {named}: {visible(str(reason))}")
    if summary["max_upper_layer"] is not None:
        ratios = f" tn/lower: median {number(summary['median_ratio'])}, largest {number(summary['max_ratio'])}."
        notes.append(
            f"Largest norm: at most {number(summary['max_upper'], 'upper')} ({visible(summary['max_upper_layer'])}), "
            f"at least {number(summary['max_lower'], 'lower')}.{'' if summary['max_ratio'] is None else ratios}"
        )
    notes.append(f"lower and upper are proven, {_where(report.layers)}. {_promises(report.layers)}")
    notes += _assumed(report.layers)
    if report.network is not None:
        from specnorm.networks.table import lines

        notes += lines(report.network)
    notes += [f"{visible(row.name)}: error: {visible(row.reason)}" for row in report.layers if row.reason is not None]
    for note in dict.fromkeys(row.note for row in report.layers if row.note is not None):
        names = [visible(row.name) for row in report.layers if row.note == note]
        notes.append(f"{_some(names)}: {visible(note).rstrip('.')}.")
    return notes


def _some(names: Sequence[str]) -> str:
    """The first names, and how many there are besides."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _assumed(rows: Sequence[Row]) -> list[str]:
    """What was assumed, of which layers where it is not the same of all."""
    convolutions = [row for row in rows if row.assumed or (row.kind == "conv" and row.reason is None)]
    groups: dict[tuple[str, ...], list[str]] = {}
    for row in convolutions:
        groups.setdefault(row.assumed, []).append(visible(row.name))
    lines = []
    for words, names in groups.items():
        of = "" if len(groups) == 1 else f" of {_some(names)}"
        if words:
            lines.append(f"Assumed{of}, since the file does not say: {', '.join(map(visible, words))}.")
    return lines


def _where(rows: Sequence[Row]) -> str:
    shapes = [row.spec.input_shape for row in rows if row.spec is not None and row.spec.input_shape]
    if not shapes:
        divided = any(row.spec is not None and row.spec.divided for row in rows)
        return "for the supremum over all input sizes" + " (that the stride divides, of circular layers)" * divided
    return "for the input shape " + " or ".join(dict.fromkeys("x".join(map(str, shape)) for shape in shapes))


def promises(rows: Sequence[Row]) -> dict[str, str]:
    """One word for what each column promises: with one estimate in it, a column of bounds is none."""
    kinds: dict[str, str] = {}
    for row in rows:
        for name, kind in row.promises.items():
            kinds[name] = "estimate" if "estimate" in (kind, kinds.get(name)) else kind
    return kinds


def _promises(rows: Sequence[Row]) -> str:
    kinds = promises(rows)
    order = [*(name for name in STANDARD if name in kinds), *(name for name in kinds if name not in STANDARD)]
    return "; ".join(f"{name}: {WORDS[kinds[name]]}" for name in order) + ("." if order else "")
