"""Time and memory of `enclose` for layers with many pixels: ``python -m benchmarks long-axes --out FILE``, one thread.

Each layer has one channel and three taps, and is enclosed within a budget, in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks import facts
from benchmarks.facts import FOLDER, Row
from benchmarks.page import measured as when_and_where
from benchmarks.page import table

COMMITTED = FOLDER / "long-axes.jsonl"
LAYERS = [(mode, 10**power, budget) for mode in ("zeros", "reflect") for power in (5, 7) for budget in (1.0, 60.0)]
PROGRAM = """
import json, sys, time, tracemalloc
import numpy, specnorm
mode, pixels, budget = json.loads(sys.argv[1])
kernel = numpy.random.default_rng(0).standard_normal((1, 1, 3))
call = lambda pixels: specnorm.enclose(kernel, pixels, padding_mode=mode, budget=budget)
call(64)  # what a first call loads is not counted
begin = time.process_time()
found = call(pixels)
seconds = time.process_time() - begin
tracemalloc.start()
call(pixels)
print(json.dumps([seconds, tracemalloc.get_traced_memory()[1], float(found.lower), float(found.upper)]))
"""


def write(out: Path | None) -> None:
    facts.record(map(_measured, LAYERS), out)


def _measured(layer: tuple[str, int, float]) -> Row:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(layer)], capture_output=True, text=True, check=True
    )
    row = facts.about("numpy") | {"threads": int(os.environ.get("OMP_NUM_THREADS", "0"))}
    row |= dict(zip(("padding", "pixels", "budget"), layer, strict=True))
    return row | dict(zip(("seconds", "bytes", "lower", "upper"), json.loads(done.stdout), strict=True))


def tables() -> dict[str, str]:
    """Return the table of the lines, and when and where they were measured."""
    rows = facts.read(COMMITTED)
    header = ["padding, pixels", "budget", "time", "over it", "bytes a pixel", "upper / lower"]
    return {"long axes": table(header, [*map(_cells, rows)]), "long axes measured": when_and_where(rows)}


def _cells(row: Row) -> list[str]:
    over = max(0.0, row["seconds"] - row["budget"])
    return [
        f"{row['padding']}, 10^{len(str(row['pixels'])) - 1}", f"{row['budget']:g} s", f"{row['seconds']:.2g} s",
        f"{over:.2g} s", f"{row['bytes'] / row['pixels']:.0f}", f"{row['upper'] / row['lower']:.4f}",
    ]  # fmt: skip
