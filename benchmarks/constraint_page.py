"""The tables of docs/benchmarks/index.md about training, made from stored rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

from benchmarks import facts
from benchmarks.facts import FOLDER, Row
from benchmarks.page import measured, span, table
from benchmarks.recorder import LIMITS
from benchmarks.step_cost import WINDOWS

LINES, LONG_LINES, COST_LINES, GPU_LINES = (
    FOLDER / f"constraint{name}.jsonl" for name in ("", "-long", "-cost", "-gpu")
)
NAMES = {"default": "`spectral_norm`", "torch": "torch's `spectral_norm`", "plain": "none"}
"""What readers call the contestants."""
EARLIER_RTOL = 3e-3
"""Relative distance of the bounds of runs whose lines have the lower bound alone."""


def tables() -> dict[str, str]:
    """Return the parts of the page, made from the stored rows."""
    return {name: make(facts.read(source)) for source, parts in PARTS.items() for name, make in parts.items()}


def summary_table(lines: list[Row]) -> str:
    """A row for each method: the worst of all loops."""
    groups: dict[str, list[Row]] = {}
    for row in lines:
        groups.setdefault(row["method"], []).append(row)
    body = []
    for method, rows in groups.items():
        loops = str(len({row["loop"] for row in rows}))
        least_mean = f"{min(row['mean'] for row in rows):.3f}"
        # Earlier rows count the steps whose lower bound is above the limit.
        ending = "_upper" if "worst_upper" in rows[0] else ""
        shares = (f"{100 * max(row[f'above_{limit}{ending}'] for row in rows):.3g}%" for limit in LIMITS)
        body.append([code(method), loops, both_bounds(rows), *shares, least_mean])
    header = ["method", "loops", "largest norm", *(f"most steps above {limit}" for limit in LIMITS), "least mean norm"]
    return table(header, body)


def long_words(lines: list[Row]) -> str:
    """A sentence about all runs of 2,000 steps."""
    norm, share = rounded_up(max(row["worst_upper"] for row in lines)), max(row["above_1.01_upper"] for row in lines)
    return (
        f"In these {len(lines)} runs, the largest norm was at most {norm}, and in each run at most {100 * share:.2g} % "
        "of the steps had a norm above 1.01."
    )


def both_bounds(rows: list[Row]) -> str:
    """Both bounds of the largest norm of several runs, rounded outward."""
    upper = max(row.get("worst_upper", row["worst"] * (1 + EARLIER_RTOL)) for row in rows)
    return f"{math.floor(1000 * max(row['worst'] for row in rows)) / 1000:.3f} to {rounded_up(upper)}"


def rounded_up(norm: float) -> str:
    return f"{math.ceil(1000 * norm) / 1000:.3f}"


# -- what it costs ---------------------------------------------------------------------------------------------------
def jax_models_table(lines: list[Row]) -> str:
    rows = [row for row in lines if row["section"] == "JAX, models"]
    first_of_case = {row["case"]: row for row in reversed(rows)}
    body = []
    for row in rows:
        hundred = f"{1 / row['faster_first_hundred']:.2f}" if "faster_first_hundred" in row else ""
        case = row["case"] if first_of_case[row["case"]] is row else ""
        body.append([case, code(row["contestant"]), hundred, f"{1 / row['faster']:.2f}", span(row["seconds"]),
                     span(row["compile_seconds"])])  # fmt: skip
    header = ["what", "contestant", "first hundred steps over the first", "all over the first", "time", "compilation"]
    return table(header, body)


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
    columns = list(itertools.product(WINDOWS, ("torch", "default")))
    body = []
    for name, found in cases.items():
        plain = span(found[next(iter(WINDOWS)), "plain"]["seconds"])
        body.append([name, plain, *(f"{found[key]['over_plain']:.2f}" for key in columns)])
    return table(["training", "time without", *(f"{NAMES[way]}, {window}" for window, way in columns)], body)


def code(method: str) -> str:
    """Format a method's name: as readers know it, and as code if it is a call, such as ``Gram()``."""
    return f"`{method}`" if method.endswith(")") else NAMES.get(method, method)


PARTS: dict[Path, dict[str, Callable[[list[Row]], str]]] = {
    LINES: {"summary": summary_table},
    LONG_LINES: {"long": long_words},
    COST_LINES: {"cost measured": measured, "step": step_table, "JAX models": jax_models_table},
    GPU_LINES: {"GPU step in words": gpu_step_in_words},
}
"""The parts of the page between its marks, by the file from whose rows they are made."""
