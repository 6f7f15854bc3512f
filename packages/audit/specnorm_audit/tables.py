"""Write rows as a table of text, and the notes beneath it. Lower bounds are rounded down, upper ones up."""

from __future__ import annotations

from collections.abc import Sequence

from specnorm.proof import number, visible
from specnorm_audit.accounts.conventions.recipe import AS_STORED
from specnorm_audit.rows import Row, Value

WIDE = 1.1
"""Ratio of upper to lower from which a remark says how far apart they are."""
NAMED = 3
"""Largest number of layers that a note names; it counts the others."""
PROMISES_IN_WORDS = {"upper": "an upper bound", "lower": "a lower bound", "exact": "exact", "estimate": "an estimate"}
"""Promises in words."""
_STORED = "It is assumed that the model uses its weights as stored: factors in the model's code are not detected."


def columns(rows: Sequence[Row]) -> list[str]:
    """Return the names of the methods' columns, in the order of the table."""
    names: dict[str, None] = {}
    for row in rows:
        names |= dict.fromkeys(row.values)
    return list(names)


def remarks(rows: Sequence[Row]) -> list[str]:
    """Return a remark on each interval: on which side of 1 the norm is, and which norm is the largest."""
    uppers = [row.upper or 0 for row in rows]
    largest = max(uppers, default=0)
    has_one_largest = len(rows) > 1 and uppers.count(largest) == 1 and all(row.status == "ok" for row in rows)
    words = []
    for row, upper in zip(rows, uppers, strict=True):
        is_largest = has_one_largest and upper == largest
        words.append(_remark(row) + (", the largest" if is_largest else ""))
    return words


def _remark(row: Row) -> str:
    """Return in words on which side of 1 a norm is, or why that is not known."""
    if row.status != "ok":
        return "error"
    if row.upper == 0:
        return "zero"
    if row.lower == 0:
        return "no lower bound"
    if row.upper > WIDE * row.lower:
        return f"{number(row.upper / row.lower)} times apart"
    if row.upper <= 1:
        return "at most 1"
    return "above 1" if row.lower > 1 else "1 is not decided"


def numbers(row: Row, methods: Sequence[str]) -> list[str]:
    """Return a row's lower, upper, and a number a method: rounded so that each keeps its promise."""
    cells = [_cell(row.values.get(name), row.promises.get(name, "exact")) for name in methods]
    return [number(row.lower, "lower"), number(row.upper, "upper"), *cells]


def texts(rows: Sequence[Row]) -> list[list[str]]:
    """Return the table's cells, its head first: layer, shape, numbers, remark."""
    methods = columns(rows)
    table = [["layer", "shape", "lower", "upper", *methods, "remark"]]
    for row, remark in zip(rows, remarks(rows), strict=True):
        shape = "x".join(map(str, row.shape))
        table.append([visible(row.name), shape, *numbers(row, methods), remark])
    return table


def lines(rows: Sequence[Row]) -> list[str]:
    """Return the table as text."""
    table = texts(rows)
    return aligned(table, range(2, len(table[0]) - 1))


def aligned(texts: Sequence[Sequence[str]], numbers: range) -> list[str]:
    """Return the lines of a table, whose head is its first row; columns of ``numbers`` are set to the right."""
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
    lines = []
    for row in texts:
        cells = [
            text.rjust(width) if column in numbers else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [lines[0], rule, *lines[1:]]


def _cell(value: Value, promise: str) -> str:
    """Return a number, or several, rounded so that they keep what they promise."""
    if isinstance(value, tuple):
        return " ".join(number(v, promise) for v in value)
    return number(value, promise)


def some(names: Sequence[str]) -> str:
    """Return the first `NAMED` names, without control characters, and the number of the others."""
    first = ", ".join(map(visible, names[:NAMED]))
    others = len(names) - NAMED
    return f"{first} and {others} more" if others > 0 else first


def assumptions(rows: Sequence[Row]) -> list[str]:
    """Return lines on what was assumed; they name the layers, if these have different assumptions."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        facts = tuple(fact for fact in row.assumed if fact != AS_STORED)
        is_measured = row.reason is None or row.assumed
        if facts or (row.kind == "conv" and is_measured):
            groups.setdefault(facts, []).append(row.name)
    lines = []
    for facts, names in groups.items():
        of_layers = "" if len(groups) == 1 else f" of {some(names)}"
        if facts:
            lines.append(f"Assumed{of_layers}, since the file does not say: {', '.join(map(visible, facts))}.")
    if any(fact.startswith("layout=") and " or " in fact for facts in groups for fact in facts):
        lines.append("Where the layout is open, bounds hold for both orders of axes, until you state the layout.")
    if any(AS_STORED in row.assumed for row in rows):
        lines.append(_STORED)
    return lines


def sizes_in_words(rows: Sequence[Row]) -> str:
    """Return in words for which input sizes the bounds hold."""
    specs = [row.spec for row in rows if row.spec is not None]
    shapes = ["x".join(map(str, spec.input_shape)) for spec in specs if spec.input_shape]
    if shapes:
        return "for the input shape " + " or ".join(dict.fromkeys(shapes))
    every = "for the supremum over all input sizes"
    if any(spec.needs_divisible_sizes for spec in specs):
        return f"{every} (that the stride divides, of circular layers)"
    return every


def promises(rows: Sequence[Row]) -> dict[str, str]:
    """Return one word for what each column promises: "estimate" if one of its numbers is one."""
    kinds: dict[str, str] = {}
    for row in rows:
        for name, kind in row.promises.items():
            if kinds.get(name) != "estimate":
                kinds[name] = kind
    return kinds
