"""The tables of docs/benchmarks/index.md about training, made from stored rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from benchmarks import facts
from benchmarks.facts import FOLDER, Row
from benchmarks.marks import put_all
from benchmarks.page import span, table
from benchmarks.recorder import LIMITS
from benchmarks.step_cost import WINDOWS

LINES, LONG_LINES, COST_LINES, GPU_LINES, PAGE = (
    FOLDER / name
    for name in (
        "constraint.jsonl",
        "constraint-long.jsonl",
        "constraint-cost.jsonl",
        "constraint-gpu.jsonl",
        "index.md",
    )
)
NAMES = {"default": "`spectral_norm`", "torch": "torch's `spectral_norm`", "plain": "none"}
"""What readers call the contestants."""
EARLIER_RTOL = 3e-3
"""Relative distance of the bounds of runs whose lines have the lower bound alone."""


def renew(written: Path | None) -> None:
    """Make the page anew if the file that was written is one of its sources."""
    if written and written.resolve() in PARTS:
        write()


def write(to: Path = PAGE) -> None:
    """Put the tables, made from the stored rows, into the page."""
    text = PAGE.read_text(encoding="utf-8")
    for source, parts in PARTS.items():
        lines = facts.read(source)
        text = put_all(text, {name: make(lines) for name, make in parts.items()})
    to.write_text(text, encoding="utf-8")


def about(lines: list[Row]) -> str:
    if not lines:
        return "Not measured yet."
    date, commit, machine = (", ".join(sorted({row[key] for row in lines})) for key in ("date", "commit", "machine"))
    threads = " and ".join(sorted({str(row["threads"]) for row in lines}))
    versions = ", ".join(f"{name} {version}" for name, version in lines[-1]["versions"].items())
    return f"Measured {date} at commit {commit} on {machine}, threads: {threads}; {versions}."


def summary_table(lines: list[Row]) -> str:
    """A row for each method: the worst of all loops."""
    groups: dict[str, list[Row]] = {}
    for row in lines:
        if "skipped" not in row:
            groups.setdefault(row["method"], []).append(row)
    body = []
    for method, rows in groups.items():
        loops = str(len({row["loop"] for row in rows}))
        least_mean = f"{min(row['mean'] for row in rows):.3f}"
        body.append([code(method), loops, both_bounds(rows), *largest_shares(rows), least_mean])
    header = ["method", "loops", "largest norm", *(f"most steps above {limit}" for limit in LIMITS), "least mean norm"]
    return table(header, body)


def long_table(lines: list[Row]) -> str:
    """A row for each run of 2,000 steps: its largest norm, steps above each limit, and how often grids were swept."""
    body = []
    for row in lines:
        rate = "usual" if row["factor"] == 1 else f"{row['factor']} times"
        swept = (f"{100 * row[name]:.0f}%" for name in ("swept_first", "swept"))
        body.append([row["trains"].rstrip("."), rate, largest_norm([row]), *largest_shares([row]), *swept])
    limits = (f"steps above {limit}" for limit in LIMITS)
    header = ["training", "rate", "largest norm", *limits, "swept in the first 250 steps", "swept in all"]
    return table(header, body)


def long_words(lines: list[Row]) -> str:
    """A sentence about all runs of 2,000 steps."""
    norm, share = rounded_up(max(row["worst_upper"] for row in lines)), max(row["above_1.01_upper"] for row in lines)
    return (
        f"In these {len(lines)} runs, the largest norm was at most {norm}, and in each run at most {100 * share:.2g} % "
        "of the steps had a norm above 1.01."
    )


def largest_table(lines: list[Row]) -> str:
    """Largest norm and, in parentheses, the percentage of steps above each limit; of the worst seed."""

    def cell(rows: list[Row]) -> str:
        return f"{largest_norm(rows)} ({', '.join(largest_shares(rows))})"

    return by_method(lines, cell)


def both_bounds(rows: list[Row]) -> str:
    """Both bounds of the largest norm of several runs, rounded outward."""
    upper = max(row.get("worst_upper", row["worst"] * (1 + EARLIER_RTOL)) for row in rows)
    return f"{math.floor(1000 * max(row['worst'] for row in rows)) / 1000:.3f} to {rounded_up(upper)}"


def largest_norm(rows: list[Row]) -> str:
    """Largest norm of several runs: its upper bound, rounded up, where it was recorded, else its lower bound."""
    if has_upper(rows):
        return rounded_up(max(row["worst_upper"] for row in rows))
    return f"{max(row['worst'] for row in rows):.3f}"


def largest_shares(rows: list[Row]) -> list[str]:
    """Percentages of steps above each limit, of the run with most; by upper bounds where they were recorded."""
    names = [f"above_{limit}_upper" if has_upper(rows) else f"above_{limit}" for limit in LIMITS]
    return [f"{100 * max(row[name] for row in rows):.3g}%" for name in names]


def has_upper(rows: list[Row]) -> bool:
    return all("worst_upper" in row for row in rows)


def rounded_up(norm: float) -> str:
    return f"{math.ceil(1000 * norm) / 1000:.3f}"


def by_method(lines: list[Row], cell: Callable[[list[Row]], str]) -> str:
    """A row for each loop, a column for each method; a dash where a method does not serve a loop."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in lines:
        if "skipped" not in row:
            groups.setdefault((row["loop"], row["method"]), []).append(row)
    names = list(dict.fromkeys(row["loop"] for row in lines))
    methods = list(dict.fromkeys(row["method"] for row in lines))
    body = [[name, *(cell(groups[name, x]) if (name, x) in groups else "-" for x in methods)] for name in names]
    return table(["loop", *(code(method) for method in methods)], body)


# -- what it costs ---------------------------------------------------------------------------------------------------
def jax_table(lines: list[Row]) -> str:
    return by_channels(lines, "JAX", speed)


def jax_models_table(lines: list[Row]) -> str:
    rows = [row for row in lines if row["section"] == "JAX, models" and ", " not in row["contestant"]]
    first_of_case = {row["case"]: row for row in reversed(rows)}
    body = [
        [row["case"] if first_of_case[row["case"]] is row else "", code(row["contestant"]),
         f"{1 / row['faster']:.2f}", span(row["seconds"]),
         span(row["compile_seconds"]) if "compile_seconds" in row else ""]
        for row in rows
    ]  # fmt: skip
    return table(["what", "contestant", "time over the first", "time", "compilation"], body)


def gpu_step_table(lines: list[Row]) -> str:
    body = [
        [str(row["batch"]), code(row["contestant"]), f"{1 / row['faster']:.2f}", span(row["seconds"])] for row in lines
    ]
    return table(["batch", "constraint", "time, relative", "time"], body)


def gpu_step_in_words(lines: list[Row]) -> str:
    """A sentence about the time of a step on a GPU, with torch's constraint and with ours."""
    ratios = {way: [f"{1 / row['faster']:.1f}" for row in lines if row["contestant"] == way] for way in NAMES}
    ours, torchs = (" and ".join(dict.fromkeys(ratios[way])) for way in ("default", "torch"))
    batches = " and ".join(dict.fromkeys(str(row["batch"]) for row in lines))
    return (
        f"On an H200, a training step of ResNet-20 with batches of {batches} takes {ours} times as long with "
        f"`spectral_norm`, and {torchs} times with torch's (an earlier version, {lines[-1]['commit']})."
    )


def step_table(lines: list[Row]) -> str:
    """A row for each case: time over plain, with torch's constraint and with ours, in both windows, and plain time."""
    cases: dict[str, dict[tuple[str, str], Row]] = {}
    for row in lines:
        if row["section"] == "step":
            cases.setdefault(row["case"], {})[row["window"], row["contestant"]] = row
    header = ["training", "time without"]
    header += [f"{NAMES[way]}, {window}" for window in WINDOWS for way in ("torch", "default")]
    body = []
    for name, found in cases.items():
        plain = span(found[next(iter(WINDOWS)), "plain"]["seconds"])
        keys = [(window, way) for window in WINDOWS for way in ("torch", "default")]
        ratios = [f"{found[key]['over_plain']:.2f}" if key in found else "-" for key in keys]
        body.append([name, plain, *ratios])
    return table(header, body)


def by_channels(lines: list[Row], section: str, cell: Callable[[Row], str]) -> str:
    cells = {(row["contestant"], row["channels"]): cell(row) for row in lines if row["section"] == section}
    channels = sorted({c for _, c in cells})
    names = dict.fromkeys(name for name, _ in cells)
    header = ["channels", *(str(c) for c in channels)]
    return table(header, [[code(name), *(cells[name, c] for c in channels)] for name in names])


def speed(row: Row) -> str:
    return f"{row['faster']:.2f} ({span(row['seconds'])})"


def code(method: str) -> str:
    """Format a method's name: as readers know it, and as code if it is a call, such as ``Gram()``."""
    return f"`{method}`" if method.endswith(")") else NAMES.get(method, method)


PARTS: dict[Path, dict[str, Callable[[list[Row]], str]]] = {
    LINES: {"summary": summary_table, "largest": largest_table},
    LONG_LINES: {"long": long_words, "long runs": long_table},
    COST_LINES: {
        "cost measured": about,
        "step": step_table,
        "JAX": jax_table,
        "JAX models": jax_models_table,
    },
    GPU_LINES: {"GPU step": gpu_step_table, "GPU step in words": gpu_step_in_words},
}
"""The parts of the page between its marks, by the file from whose rows they are made."""
