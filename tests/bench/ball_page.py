"""The tables of docs/benchmarks/ball.md, from its committed lines."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from helpers.marks import put

from bench import facts
from bench.ball import WAYS_TO_TRAIN
from bench.facts import FOLDER, Row
from bench.jax_loops import JAX_LOOPS
from bench.loops import LOOPS
from bench.page import table

COMMITTED = FOLDER / "ball.jsonl"
PAGE = FOLDER / "ball.md"


def write(source: Path = COMMITTED, page: Path = PAGE) -> None:
    """Put the tables of the lines into the page."""
    rows = facts.read(source)
    by_task = {task: [row for row in rows if row["task"] == task] for task in ("digits", "denoiser", "loop", "cost")}
    parts = {
        "digits": digits(by_task["digits"]), "norms": norms(by_task["digits"]),
        "denoiser": denoiser(by_task["denoiser"]), "loops": loops(by_task["loop"]), "cost": cost(by_task["cost"]),
    }  # fmt: skip
    text = page.read_text(encoding="utf-8")
    for name, lines in parts.items():
        text = put(text, f"<!-- {name} -->\n", f"\n<!-- end of {name} -->", lines)
    page.write_text(text, encoding="utf-8")


def networks_of(rows: Sequence[Row]) -> list[tuple[int, bool]]:
    return sorted({(row["depth"], row["residual"]) for row in rows})


def ways_of(rows: Iterable[Row]) -> list[str]:
    found = {row["way"] for row in rows}
    return [way for way in WAYS_TO_TRAIN if way in found]


def runs(rows: Sequence[Row], way: str, depth: int, residual: bool) -> list[Row]:
    """The runs of a way on a network with its best rate, one for each seed."""
    found = [row for row in rows if (row["way"], row["depth"], row["residual"]) == (way, depth, residual)]
    later = [row["rate"] for row in found if row["seed"] > 0]
    rate = later[0] if later else min(found, key=lambda row: row["loss"])["rate"] if found else None
    return [row for row in found if row["rate"] == rate]


def mean(rows: Sequence[Row], name: str) -> float:
    return float(statistics.mean(row[name] for row in rows))


def digits(rows: Sequence[Row]) -> str:
    """Accuracy, and certified accuracy at two radii: means over the seeds, with the smallest accuracy."""
    lines = []
    for way in ways_of(rows):
        cells = []
        for network in networks_of(rows):
            found = runs(rows, way, *network)
            if not found:
                cells.append("")
                continue
            certified = " / ".join(f"{mean(found, name):.2f}" for name in ("certified 0.1", "certified 0.25"))
            least = min(row["accuracy"] for row in found)
            cells.append(f"{mean(found, 'accuracy'):.3f} (≥ {least:.3f}), {certified}")
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
        row = min((row for row in rows if row["way"] == way), key=lambda row: row["loss"])
        figures = [f"{row[name]:.2f} dB" for name in ("denoised", "deblurred")]
        lines.append(
            [way, *figures, f"{row['last change']:.1g}", f"{row['largest norm']:.3f}", f"{row['seconds']:.1f} s"]
        )
    return table(["", "denoised", "deblurred", "last change", "largest norm", "seconds"], lines)


def loops(rows: Sequence[Row]) -> str:
    lines = []
    for name in (*LOOPS, *JAX_LOOPS):
        for row in rows:
            if row["loop"] == name:
                losses = [f"{row[way]:.2g} (x {row[f'factor, {way}']:.2g})" for way in ("ball", "constraint")]
                certified = f"{row['certified']} of {row['weights']}"
                lines.append([name, *losses, certified, f"{row.get('largest', 1):.3f}", f"{row['norm at end']:.3f}"])
    header = ["loop", "loss, ball", "loss, constraint", "weights certified", "largest norm", "norm at end"]
    return table(header, lines)


def cost(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        step = f"{row['images']} of {row['size']}x{row['size']}"
        lines.append([step, row["way"], f"{1e3 * row['seconds']:.0f} ms", f"{row['ratio']:.2f}"])
    return table(["images", "", "a step", "times Adam's plain step"], lines)
