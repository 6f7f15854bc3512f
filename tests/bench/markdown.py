"""How figures are written: tables, numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from marks import put

from bench.facts import Row


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    told = [f"| {' | '.join(line)} |" for line in (header, *lines)]
    return "\n".join([told[0], "|" + "---|" * len(header), *told[1:]]) + "\n"


def span(seconds: float) -> str:
    if seconds >= 100:
        return f"{seconds:.0f} s"
    return f"{seconds:.2g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if value < 1e3 else f"{value:.2e}".replace("e+0", "e").replace("e+", "e")


def times(row: Row | None) -> str:
    """How many times as fast as the textbook method."""
    return f"{float(format(row['faster'], '.2g')):g}x" if row and "faster" in row else "-"


def every(rows: list[Row], key: str) -> str:
    return ", ".join(sorted({str(row[key]) for row in rows}))


def measured(rows: list[Row], *keys: str) -> str:
    """Where and when: the latest versions, all of the rest."""
    versions = ", ".join(f"{k} {v}" for k, v in {k: v for row in rows for k, v in row["versions"].items()}.items())
    more = "".join(f", {key}: {every(rows, key)}" for key in keys)
    return f"{every(rows, 'date')} at commit {every(rows, 'commit')} on {every(rows, 'machine')}{more}; {versions}"


def filled(page: Path, made: Mapping[str, str]) -> str:
    """The text of a page with what stands between the two marks of each name put anew."""
    text = page.read_text(encoding="utf-8")
    for name, part in made.items():
        text = put(text, f"<!-- {name} -->\n", f"\n<!-- end of {name} -->", part.strip() or "Not measured.")
    return text
