"""The tables of docs/benchmarks/index.md about training inside the ball, from their committed lines."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks import facts
from benchmarks.ball import ALL_RADII, LOGIT_FACTORS, SCHEDULES, WAYS_TO_TRAIN
from benchmarks.ball_loops import best
from benchmarks.facts import FOLDER, Row
from benchmarks.jax_loops import JAX_LOOPS
from benchmarks.loops import LOOPS
from benchmarks.marks import put_all
from benchmarks.page import table

COMMITTED = FOLDER / "ball.jsonl"
PAGE = FOLDER / "index.md"


def write(source: Path = COMMITTED, page: Path = PAGE) -> None:
    """Put the tables of the lines into the page."""
    rows = facts.read(source)
    tasks = "digits", "schedule", "denoiser", "loop", "cost", "operations", "radii"
    by_task = {task: [row for row in rows if row["task"] == task] for task in tasks}
    parts = {
        "digits": digits([row for row in by_task["digits"] if is_shown(row)]), "all digits": digits(by_task["digits"]),
        "norms": norms(by_task["digits"]),
        "denoiser": denoiser(by_task["denoiser"]), "loops": loops(by_task["loop"]),
        "cost": cost(by_task["cost"]), "cost in words": cost_in_words(by_task["cost"], by_task["operations"]),
        "schedules": schedules(by_task["schedule"]), "operations": operations(by_task["operations"]),
        "radii": radii(by_task["radii"]),
    }  # fmt: skip
    page.write_text(put_all(page.read_text(encoding="utf-8"), parts), encoding="utf-8")


def is_shown(row: Row) -> bool:
    """Whether the page shows a run on digits: of all chains, and of the deepest residual network, by the main ways."""
    is_deepest_or_chain = row["depth"] == 10 or not row["residual"]
    return is_deepest_or_chain and row["way"] != "plain, Adam" and "torch's start" not in row["way"]


def networks_of(rows: Sequence[Row]) -> list[tuple[int, bool]]:
    return sorted({(row["depth"], row["residual"]) for row in rows})


def ways_of(rows: Iterable[Row]) -> list[str]:
    found = {row["way"] for row in rows}
    return [way for way in WAYS_TO_TRAIN if way in found]


def runs(rows: Sequence[Row], way: str, depth: int, residual: bool) -> list[Row]:
    """The runs of a way on a network with its best rate, one for each seed."""
    return with_best_rate(
        [row for row in rows if (row["way"], row["depth"], row["residual"]) == (way, depth, residual)]
    )


def with_best_rate(rows: Sequence[Row]) -> list[Row]:
    """The runs with the rate that was best by the first seed."""
    losses = {row["rate"]: row["loss"] for row in rows if row["seed"] == 0}
    return [row for row in rows if row["rate"] == best(losses)] if losses else []


def mean(rows: Sequence[Row], name: str) -> float:
    return float(statistics.mean(row[name] for row in rows))


def digits(rows: Sequence[Row]) -> str:
    """Accuracy, and certified accuracy at two radii: means over the seeds."""
    lines = []
    for way in ways_of(rows):
        cells = []
        for network in networks_of(rows):
            found = runs(rows, way, *network)
            if not found:
                cells.append("")
                continue
            names = "accuracy", "certified 0.1", "certified 0.25"
            cells.append("/".join(f"{mean(found, name):.2f}" for name in names))
        lines.append([way, *cells])
    return table(["", *map(title, networks_of(rows))], lines)


def title(network: tuple[int, bool]) -> str:
    depth, residual = network
    return f"{depth}, residual" if residual else f"{depth}"


def norms(rows: Sequence[Row]) -> str:
    """Largest norm of a layer after the training, loss, and processor seconds, of each way and network."""
    lines = []
    for way in ways_of(rows):
        cells = []
        for network in networks_of(rows):
            found = runs(rows, way, *network)
            if not found:
                cells.append("")
                continue
            largest = max(row["largest norm"] for row in found)
            cells.append(f"{largest:.3f}, {mean(found, 'loss'):.2g}, {mean(found, 'seconds'):.1f} s")
        lines.append([way, *cells])
    return table(["", *map(title, networks_of(rows))], lines)


def denoiser(rows: Sequence[Row]) -> str:
    lines = []
    for way in ways_of(rows):
        found = with_best_rate([row for row in rows if row["way"] == way])
        figures = [f"{mean(found, name):.2f} dB" for name in ("denoised", "deblurred")]
        lines.append([way, *figures, f"{max(row['largest norm'] for row in found):.3f}"])
    return table(["", "denoised", "deblurred", "largest norm"], lines)


def loops(rows: Sequence[Row]) -> str:
    lines = []
    for name in (*LOOPS, *JAX_LOOPS):
        for row in rows:
            if row["loop"] == name:
                losses = [f"{row[way]:.2g} (x {row[f'factor, {way}']:.2g})" for way in ("ball", "constraint")]
                certified = f"{row['certified']} of {row['weights']}"
                others = f"{row['largest']:.3f}" if "largest" in row else ""
                lines.append([name, *losses, certified, others, f"{row['norm at end']:.3f}"])
    header = ["loop", "loss, ball", "loss, constraint", "weights certified", "others, at most", "norm at end"]
    return table(header, lines)


def cost(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        step = f"{row['images']} of {row['size']}x{row['size']}"
        lines.append([step, row["way"], f"{1e3 * row['seconds']:.0f} ms", f"{row['ratio']:.2f}"])
    return table(["images", "", "a step", "times Adam's plain step"], lines)


def cost_in_words(costs: Sequence[Row], counts: Sequence[Row]) -> str:
    """Sentences about the time of a step, and about the operations that a GPU launches."""
    ratios = {way: sorted(row["ratio"] for row in costs if row["way"] == way) for way in ("ball", "constraint, Adam")}
    ball, constraint = (f"{found[0]:.2f} to {found[-1]:.2f}" for found in ratios.values())
    launched = ", ".join(f"{row['ball']:,} ({row['plain, Adam']}) for {row['network']}" for row in counts)
    return (
        "A training step of six 3x3 convolutions of 64 channels, on 16 or 64 images of 32x32 pixels, takes "
        f"{ball} times as long in the ball as with Adam alone, and {constraint} times as long with the constraint.\n\n"
        f"Operations of a step in the ball (with Adam alone), which a GPU launches one by one: {launched}."
    )


def operations(rows: Sequence[Row]) -> str:
    ways = "plain, Adam", "ball"
    return table(["network", *ways], [[row["network"], *(str(row[way]) for way in ways)] for row in rows])


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
