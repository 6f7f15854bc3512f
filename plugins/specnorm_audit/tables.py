"""Rows -> a table as text, and what is said beneath it: lower bounds rounded down, upper ones up; what was assumed."""

from __future__ import annotations

from collections.abc import Sequence

from specnorm.proof import number, visible
from specnorm_audit.effective import AS_STORED
from specnorm_audit.rows import Row, Value

WIDE = 1.1
"""Ratio of upper to lower from which a remark says how far apart they are."""
NAMED = 3
"""Layers that a note names before it counts the others."""
WORDS = {"upper": "an upper bound", "lower": "a lower bound", "exact": "exact", "estimate": "an estimate"}
"""What a promise is called."""
_STORED = "Weights are taken as used as they are stored: factors that the model's code applies are not seen."


def columns(rows: Sequence[Row]) -> list[str]:
    """Names of the methods' columns, in the order of the table."""
    return list(dict.fromkeys(name for row in rows for name in row.values))


def remarks(rows: Sequence[Row]) -> list[str]:
    """What each interval says, in a few words: on which side of 1 the norm is, and which is the largest."""
    uppers = [row.upper or 0 for row in rows]
    largest = max(uppers, default=0)
    alone = len(rows) > 1 and uppers.count(largest) == 1
    return [
        _remark(row) + ", the largest" * (alone and upper == largest) for row, upper in zip(rows, uppers, strict=True)
    ]


def _remark(row: Row) -> str:
    if row.status != "ok" or row.lower is None or row.upper is None:
        return "error"
    if row.upper == 0:
        return "zero"
    if row.upper > WIDE * row.lower:
        return f"{number(row.upper / row.lower)} times apart" if row.lower else "no lower bound"
    return "at most 1" if row.upper <= 1 else "above 1" if row.lower > 1 else "1 is not decided"


def ratio(methods: Sequence[str]) -> list[str]:
    """The column of ``tn / lower``, where there is one."""
    return ["ratio"] if "tn" in methods else []


def numbers(row: Row, methods: Sequence[str]) -> list[str]:
    """A row's lower, upper, a number a method, and ratio: rounded so that each keeps its promise."""
    return [
        number(row.lower, "lower"),
        number(row.upper, "upper"),
        *(_cell(row.values.get(name), row.promises.get(name, "exact")) for name in methods),
        *(number(row.ratio) for _ in ratio(methods)),
    ]


def texts(rows: Sequence[Row]) -> list[list[str]]:
    """The table's cells, its head first: layer, shape, numbers, remark."""
    methods = columns(rows)
    body = [
        [visible(row.name), "x".join(map(str, row.shape)), *numbers(row, methods), word]
        for row, word in zip(rows, remarks(rows), strict=True)
    ]
    return [["layer", "shape", "lower", "upper", *methods, *ratio(methods), "remark"], *body]


def lines(rows: Sequence[Row]) -> list[str]:
    """The table as text."""
    found = texts(rows)
    return aligned(found, range(2, len(found[0]) - 1))


def aligned(texts: Sequence[Sequence[str]], numbers: range) -> list[str]:
    """Lines of a table; columns of ``numbers`` are set to the right. ``texts`` begins with its head."""
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
    sides = [">" if j in numbers else "<" for j in range(len(widths))]
    head, *body = ([f"{text:{side}{n}}" for text, side, n in zip(row, sides, widths, strict=True)] for row in texts)
    return [f"| {' | '.join(head)} |", rule, *(f"| {' | '.join(row)} |" for row in body)]


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
        words = tuple(word for word in row.assumed if word != AS_STORED)
        if words or row.kind == "conv":
            groups.setdefault(words, []).append(visible(row.name))
    lines = []
    for words, names in groups.items():
        of = "" if len(groups) == 1 else f" of {some(names)}"
        if words:
            lines.append(f"Assumed{of}, since the file does not say: {', '.join(map(visible, words))}.")
    if any(any(" or " in word for word in words if word.startswith("layout=")) for words in groups):
        lines.append("Bounds are of both orders of axes where the layout is open: --layout (layout=) says which it is.")
    if any(AS_STORED in row.assumed for row in rows):
        lines.append(_STORED)
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
    return "; ".join(f"{name}: {WORDS[kind]}" for name, kind in kinds.items()) + ("." if kinds else "")
