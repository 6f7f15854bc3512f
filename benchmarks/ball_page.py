"""The tables of docs/benchmarks/index.md about training inside the ball, from their committed lines."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks import facts
from benchmarks.ball import ALL_RADII, COSTS, LOGIT_FACTORS, NETWORKS, SCHEDULES, best_of
from benchmarks.facts import FOLDER, Row
from benchmarks.page import table

COMMITTED = FOLDER / "ball.jsonl"


def tables() -> dict[str, str]:
    """Return the parts of the page, made from the stored rows."""
    makers = {"digits": digits, "denoiser": denoiser, "schedule": schedules, "radii": radii, "cost": cost_in_words}
    rows = facts.read(COMMITTED)
    return {task: make([row for row in rows if row["task"] == task]) for task, make in makers.items()}


def with_best_rate(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    """The runs that are wanted with the rate that was best by the first seed, one for each seed."""
    rows = [row for row in rows if wanted.items() <= row.items()]
    losses = {row["rate"]: row["loss"] for row in rows if row["seed"] == 0}
    return [row for row in rows if row["rate"] == best_of(losses)] if losses else []


def mean(rows: Sequence[Row], name: str) -> float:
    return float(statistics.mean(row[name] for row in rows))


def digits(rows: Sequence[Row]) -> str:
    """Accuracy, and certified accuracy at two radii: means over the seeds."""
    names = "accuracy", "certified 0.1", "certified 0.25"
    lines = []
    for way in sorted({row["way"] for row in rows}):
        if way != "plain, Adam" and "torch's start" not in way:
            found = (with_best_rate(rows, way=way, depth=n, residual=residual) for n, residual in NETWORKS)
            lines.append([way, *("/".join(f"{mean(here, name):.2f}" for name in names) for here in found)])
    return table(["", *(f"{n}, residual" if residual else f"{n}" for n, residual in NETWORKS)], lines)


def denoiser(rows: Sequence[Row]) -> str:
    lines = []
    for way in sorted({row["way"] for row in rows}):
        found = with_best_rate(rows, way=way)
        figures = [f"{mean(found, name):.2f} dB" for name in ("denoised", "deblurred")]
        lines.append([way, *figures, f"{max(row['largest norm'] for row in found):.3f}"])
    return table(["", "denoised", "deblurred", "largest norm"], lines)


def cost_in_words(costs: Sequence[Row]) -> str:
    """A sentence about the time of a step."""
    ratios = {way: sorted(row["ratio"] for row in costs if row["way"] == way) for way in COSTS}
    ball, constraint = (f"{found[0]:.2f} to {found[-1]:.2f}" for found in ratios.values())
    return (
        "A training step of six 3x3 convolutions of 64 channels, on 16 or 64 images of 32x32 pixels, takes "
        f"{ball} times as long in the ball as with Adam alone, and {constraint} times as long with the constraint."
    )


def radii(rows: Sequence[Row]) -> str:
    """Accuracy, and certified accuracy at each radius, for each factor of the logits: means of each way's seeds."""
    names = ["accuracy", *(f"certified {radius}" for radius in ALL_RADII)]
    ways = list(dict.fromkeys(row["way"] for row in rows))
    lines = []
    for activation in dict.fromkeys(row["activation"] for row in rows):
        for factor in LOGIT_FACTORS:
            known = [row for row in rows if (row["activation"], row["factor"]) == (activation, factor)]
            by_way = [[row for row in known if row["way"] == way] for way in ways]
            if all(by_way):
                cells = ["/".join(f"{mean(found, name):.2f}" for found in by_way) for name in names]
                lines.append([activation, f"{factor:g}", *cells])
    return table(["activation", "factor", "accuracy", *map(str, ALL_RADII)], lines)


def schedules(rows: Sequence[Row]) -> str:
    """Mean accuracy, and the least, by schedule and rate."""
    rates = sorted({row["rate"] for row in rows})
    lines = []
    for schedule in SCHEDULES:
        cells = []
        for rate in rates:
            found = [row for row in rows if (row["schedule"], row["rate"]) == (schedule, rate)]
            least = min((row["accuracy"] for row in found), default=0)
            cells.append(f"{mean(found, 'accuracy'):.2f} (≥{least:.2f})" if found else "")
        lines.append([schedule, *cells])
    return table(["lr", *(f"{rate:g}" for rate in rates)], lines)
