"""docs/benchmarks/constraint.md, made from its lines."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

from marks import put

from bench import facts
from bench.facts import FOLDER, Row
from bench.page import table

LINES, PAGE = FOLDER / "constraint.jsonl", FOLDER / "constraint.md"
LIMITS = 1.01, 1.05


def write(source: Path = LINES, to: Path = PAGE) -> None:
    """Put the tables of the lines into the page."""
    lines = facts.read(source)
    text = PAGE.read_text(encoding="utf-8")
    parts = {"measured": about, "largest": largest_table, "least": least_table, "loops": loops_table}
    for name, make in parts.items():
        text = put(text, f"<!-- {name} -->\n", f"\n<!-- end of {name} -->", make(lines))
    to.write_text(text, encoding="utf-8")


def about(lines: list[Row]) -> str:
    date, commit, machine = (", ".join(sorted({row[key] for row in lines})) for key in ("date", "commit", "machine"))
    versions = ", ".join(f"{name} {version}" for name, version in lines[-1]["versions"].items())
    return f"Measured {date} at commit {commit} on {machine}, threads: {lines[-1]['threads']}; {versions}."


def largest_table(lines: list[Row]) -> str:
    """Largest norm and, in parentheses, the percentage of steps above each limit; over all seeds."""

    def cell(rows: list[Row]) -> str:
        shares = ", ".join(f"{statistics.fmean(row[f'above_{limit}'] for row in rows):.0%}" for limit in LIMITS)
        return f"{max(row['worst'] for row in rows):.3f} ({shares})"

    return by_method(lines, cell)


def least_table(lines: list[Row]) -> str:
    """Least and mean norm, over all seeds."""

    def cell(rows: list[Row]) -> str:
        return f"{min(row['least'] for row in rows):.3f}, {statistics.fmean(row['mean'] for row in rows):.3f}"

    return by_method(lines, cell)


def by_method(lines: list[Row], cell: Callable[[list[Row]], str]) -> str:
    """A row for each loop, a column for each method; a dash where a method does not serve a loop."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in lines:
        if "skipped" not in row:
            groups.setdefault((row["loop"], row["method"]), []).append(row)
    names = list(dict.fromkeys(row["loop"] for row in lines))
    methods = list(dict.fromkeys(row["method"] for row in lines))
    body = [[name, *(cell(groups[name, x]) if (name, x) in groups else "-" for x in methods)] for name in names]
    return table(["loop", *(f"`{x}`" if x.endswith(")") else x for x in methods)], body)


def loops_table(lines: list[Row]) -> str:
    trained = {row["loop"]: row["trains"] for row in lines}
    return table(["loop", "what is trained"], [[name, says] for name, says in trained.items()])
