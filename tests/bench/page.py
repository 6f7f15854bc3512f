"""docs/benchmarks/index.md, whose table is made from its lines alone; and what got slower."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from marks import put

from bench.facts import FOLDER, Row, read

DASH = "\N{EN DASH}"
PAGE, COMMITTED = FOLDER / "index.md", "suite"
KEY = ("section", "name", "family", "shape", "n", "library", "contestant", "threads")
NAMES = {
    "Completion, a mending": "Completion, step that improves H",
    "Completion, a renewal": "Completion, step with stored H",
}
"""Contestants of the lines that the page calls otherwise."""
ROOM = 1.1
"""Beyond the quarters of both runs."""


def write(source: Path) -> None:
    """The page with the table of the suite's lines, or the table of other lines, beside them."""
    rows = read(source)
    if source.stem != COMMITTED:
        parts = (measured(rows), whole(rows), by_library(rows))
        source.with_suffix(".md").write_text("\n\n".join(parts), encoding="utf-8")
        return
    text = PAGE.read_text(encoding="utf-8")
    for name, part in (("measured", measured(rows)), ("table", whole(rows)), ("libraries", by_library(rows))):
        text = put(text, f"<!-- {name} -->\n", f"\n<!-- end of {name} -->", part.strip())
    source.with_name(PAGE.name).write_text(text, encoding="utf-8")


def measured(rows: list[Row]) -> str:
    """Where and when: the latest versions, all of the rest."""
    date, commit, machine = (", ".join(sorted({row[key] for row in rows})) for key in ("date", "commit", "machine"))
    versions = ", ".join(f"{name} {version}" for name, version in rows[-1]["versions"].items())
    return f"Measured {date} at commit {commit} on {machine}, threads: {rows[-1]['threads']}; {versions}."


def whole(rows: list[Row]) -> str:
    """One table: a row a problem, method and family of kernels; each case is a line of the file."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in shown(rows):
        kind = row["name"] if row["family"] == "network" else row["family"]
        if row["section"] != "libraries":
            groups.setdefault((row["section"], row["contestant"], kind), []).append(row)
    lines = []
    for (title, contestant, kind), found in groups.items():
        own = contestant == found[0]["yardstick"] or title == "network"
        faster = sorted(row["faster"] for row in found if "faster" in row and not own)
        told = [two_digits(x) for x in faster]
        around = f" ({told[0]}{DASH}{told[-1]})" if len(told) > 1 else ""
        decimals = "{:.2f}" if any(is_hard(row["family"], row["shape"][0]) for row in found) else "{:.4f}"
        lines.append([
            title, f"`{NAMES.get(contestant, contestant)}`", kind, str(len(found)),
            ends([row["seconds"] for row in found], span),
            f"{two_digits(statistics.median(faster))}{around}" if told else "-",
            ends([row["value_over_norm"] for row in found if "value_over_norm" in row], decimals.format),
        ])  # fmt: skip
    return table(["problem", "method", "kernels", "cases", "time", "times as fast", "value over norm"], lines)


def by_library(rows: list[Row]) -> str:
    """One table: the time of each method in each library, for the kernel of the section on libraries."""
    found = [row for row in shown(rows) if row["section"] == "libraries"]
    libraries = list(dict.fromkeys(row["library"] for row in found))
    times = {(row["contestant"], row["library"]): span(row["seconds"]) for row in found if is_what_it_says(row)}
    methods = dict.fromkeys(row["contestant"] for row in found)
    return table(["method", *libraries], [[f"`{x}`", *(times.get((x, y), "-") for y in libraries)] for x in methods])


def is_what_it_says(row: Row) -> bool:
    """False for JAX's `tn_bound`: the suite compiles JAX's functions, and the compiled bound is an estimate."""
    return not (row["contestant"] == "tn_bound, proven" and row["library"].startswith("jax"))


def is_hard(family: str, channels: int) -> bool:
    """Kernels whose norm is known to 1e-2 alone, since a closer enclosure takes long."""
    return family in ("flat", "decaying") and channels >= 128


def two_digits(x: float) -> str:
    return f"{float(format(x, '.2g')):g}"


def shown(rows: list[Row]) -> list[Row]:
    """Rows that the page has; the matrix product is for `compare` alone."""
    return [row for row in rows if not row.keys() & {"skipped", "error"} and row["contestant"] != "matrix product"]


def table(header: list[str], lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *lines))


def span(seconds: float) -> str:
    if seconds >= 100:
        return f"{seconds:.0f} s"
    return f"{seconds:.2g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def ends(figures: list[float], tell: Callable[[float], str]) -> str:
    """The least and the largest, or the only one."""
    told = list(dict.fromkeys(tell(x) for x in sorted(figures)))
    return DASH.join(told[:1] + told[1:][-1:]) if told else "-"


# -- two files -------------------------------------------------------------------------------------------------------
def slower(new: list[Row], old: list[Row]) -> list[str]:
    """One line for each row whose paired ratio to the textbook method fell by more than noise, or that is gone.

    Ratios and not seconds: both sides of a ratio were timed in turn in one process, so machine and load drop out.
    """
    before = {key_of(row): row for row in old if "faster" in row}
    found = []
    for row in new:
        past = before.pop(key_of(row), None)
        if past is None or row["contestant"] == row["yardstick"]:
            continue
        was = f"{words(row)}: {past['faster']:.2f} times as fast as {row['yardstick']} at {past['commit']}, now "
        if "skipped" in row:
            found.append(was + f"skipped: {row['skipped']}")
        elif "faster" in row and row["faster_range"][1] * ROOM < past["faster_range"][0]:
            found.append(was + f"{row['faster']:.2f}")
    # A smaller run leaves whole problems out; a contestant that is missing from a problem was lost.
    here = {key_of(row, ("library", "contestant")) for row in new}
    gone = [row for row in before.values() if key_of(row, ("library", "contestant")) in here]
    return found + [f"{words(row)}: not measured any more" for row in gone]


def key_of(row: Row, less: Sequence[str] = ()) -> str:
    return repr([row[name] for name in KEY if name not in less])


def words(row: Row) -> str:
    size = f", n={row['n']}" if row["n"] else ""
    return f"{row['contestant']} ({row['library']}) on {row['name']}, {row['family']}{size}"
