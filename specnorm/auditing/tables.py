"""Rows -> a table as text, and what is said beneath it: lower bounds rounded down, upper ones up; what was assumed."""

from __future__ import annotations

from collections.abc import Sequence
from unicodedata import combining, east_asian_width

from specnorm.auditing.rows import CIRCULAR, STANDARD, Row, Value
from specnorm.text import number, visible

NAMED = 3
"""Layers that a note names before it counts the others."""
WORDS = {"upper": "an upper bound", "lower": "a lower bound", "exact": "exact", "estimate": "an estimate"}
"""What a promise is called."""


def columns(rows: Sequence[Row]) -> list[str]:
    """Names of the methods' columns, in the order of the table."""
    names = dict.fromkeys(name for row in rows for name in row.values)
    return sorted(names, key=lambda name: name == CIRCULAR)


def headings(methods: Sequence[str]) -> list[str]:
    """Of a layer's name and its `cells`."""
    return ["layer", "shape", "lower", "upper", *methods, "ratio"]


def cells(row: Row, methods: Sequence[str]) -> list[str]:
    """A row's shape, lower, upper, a number a method, ratio or "error": rounded so that each keeps its promise."""
    return [
        "x".join(map(str, row.shape)),
        number(row.lower, "lower"),
        number(row.upper, "upper"),
        *(_cell(row.values.get(name), row.promises.get(name, "exact")) for name in methods),
        number(row.ratio) if row.status == "ok" else "error",
    ]


def lines(rows: Sequence[Row]) -> list[str]:
    """The table, of which all columns but the first two are numbers."""
    methods = columns(rows)
    return aligned([headings(methods), *([visible(row.name), *cells(row, methods)] for row in rows)], 2)


def aligned(texts: Sequence[Sequence[str]], words: int) -> list[str]:
    """Lines of a table, of which all columns but the first ``words`` are numbers; ``texts`` begins with its head."""
    widths = [max(map(_width, column)) for column in zip(*texts, strict=True)]
    rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
    head, *body = ([_filled(text, widths[j], j >= words) for j, text in enumerate(row)] for row in texts)
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


def some(names: Sequence[str]) -> str:
    """The first names, and how many there are besides."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


def count(n: int, what: str) -> str:
    """A number of things, in words."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def assumed(rows: Sequence[Row]) -> list[str]:
    """What was assumed, of which layers where it is not the same of all."""
    convolutions = [row for row in rows if row.assumed or (row.kind == "conv" and row.reason is None)]
    groups: dict[tuple[str, ...], list[str]] = {}
    for row in convolutions:
        groups.setdefault(row.assumed, []).append(visible(row.name))
    lines = []
    for words, names in groups.items():
        of = "" if len(groups) == 1 else f" of {some(names)}"
        if words:
            lines.append(f"Assumed{of}, since the file does not say: {', '.join(map(visible, words))}.")
    return lines


def where(rows: Sequence[Row]) -> str:
    """For which input sizes the bounds hold."""
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


def promised(rows: Sequence[Row]) -> str:
    """What each column promises, in words."""
    kinds = promises(rows)
    order = [*(name for name in STANDARD if name in kinds), *(name for name in kinds if name not in STANDARD)]
    return "; ".join(f"{name}: {WORDS[kinds[name]]}" for name in order) + ("." if order else "")
