"""Processor time of a call by the number of channels: ``python -m benchmarks widths --out FILE``, on one thread.

Kernels are 3x3 with as many inputs as outputs, and have the spectra of trained ones (`kernels.like_trained`); two rows
are of Gaussian kernels and of kernels near an isometry, the worst cases of a search. ``long-axes`` are layers of one
channel and three taps, each of which is enclosed within a budget in a process of its own.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import specnorm
from benchmarks import facts, kernels
from benchmarks.facts import FOLDER, Row
from benchmarks.page import measured, span, table

COMMITTED, LONG = FOLDER / "widths.jsonl", FOLDER / "long-axes.jsonl"
WIDTHS = 16, 32, 64, 128, 256, 512
SIZE = 32
Call = Callable[[np.ndarray], Any]
CALLS: dict[str, Call] = {
    "enclose": lambda k: specnorm.enclose(k, budget=None),
    f"enclose, {SIZE} pixels, zeros": lambda k: specnorm.enclose(k, SIZE, padding_mode="zeros", budget=None),
    "enclose, Gaussian kernel": lambda k: specnorm.enclose(k, budget=None),
    "enclose, near an isometry": lambda k: specnorm.enclose(k, budget=None),
    "conv_norm": lambda k: specnorm.conv_norm(k, budget=None),
    "tn_bound": specnorm.tn_bound,
    "grid_bound": specnorm.grid_bound,
    "gram_bound": specnorm.gram_bound,
    "f4_bound": specnorm.f4_bound,
    "completion_bound": specnorm.completion_bound,
    "symbol_norm": specnorm.symbol_norm,
    f"power_norm, {SIZE} pixels": lambda k: specnorm.power_norm(k, SIZE, budget=None),
    "reshaped_norm": specnorm.reshaped_norm,
    "rescale": lambda k: specnorm.rescale(k, budget=None),
    "clip": lambda k: specnorm.clip(k, budget=None),
}
"""Without budgets, which are seconds by the wall and would end a call on a busy machine."""
_OF = {"enclose, Gaussian kernel": kernels.flat, "enclose, near an isometry": kernels.near_isometry}


def write(calls: Sequence[str], out: Path | None) -> None:
    """Measure calls, or all, smaller widths first."""
    facts.record(measured_calls(calls or tuple(CALLS)), out, ("contestant", "channels"))


def measured_calls(names: Sequence[str]) -> Iterator[Row]:
    """Yield a row for each call and width, with the median of the seconds."""
    common = _about()
    for channels, name in itertools.product(WIDTHS, names):
        kernel = _OF[name](channels) if name in _OF else kernels.like_trained((channels, channels, 3, 3))
        (seconds,) = facts.paired({name: functools.partial(CALLS[name], kernel)}).values()
        yield common | {"contestant": name, "channels": channels, "seconds": statistics.median(seconds)}


def _about() -> Row:
    return facts.about("numpy") | {"threads": int(os.environ.get("OMP_NUM_THREADS", "0"))}


def tables() -> dict[str, str]:
    """Return the table of the lines, and when and where they were measured."""
    rows = facts.read(COMMITTED)
    cells = {(row["contestant"], row["channels"]): span(row["seconds"]) for row in rows}
    lines = [[_named(name), *(cells[name, channels] for channels in WIDTHS)] for name in CALLS]
    long = facts.read(LONG)
    header = ["padding, pixels", "budget", "time", "over it", "bytes a pixel", "upper / lower"]
    return {
        "widths": table(["channels", *map(str, WIDTHS)], lines), "widths measured": measured(rows),
        "long axes": table(header, [*map(_cells, long)]), "long axes measured": measured(long),
    }  # fmt: skip


def _named(contestant: str) -> str:
    function, comma, rest = contestant.partition(",")
    return f"`{function}`{comma}{rest}"


# -- layers with many pixels -------------------------------------------------------------------------------------------
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


def write_long(out: Path | None) -> None:
    facts.record(map(_enclosed, LAYERS), out)


def _enclosed(layer: tuple[str, int, float]) -> Row:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(layer)], capture_output=True, text=True, check=True
    )
    row = _about() | dict(zip(("padding", "pixels", "budget"), layer, strict=True))
    return row | dict(zip(("seconds", "bytes", "lower", "upper"), json.loads(done.stdout), strict=True))


def _cells(row: Row) -> list[str]:
    over = max(0.0, row["seconds"] - row["budget"])
    return [
        f"{row['padding']}, 10^{len(str(row['pixels'])) - 1}", f"{row['budget']:g} s", f"{row['seconds']:.2g} s",
        f"{over:.2g} s", f"{row['bytes'] / row['pixels']:.0f}", f"{row['upper'] / row['lower']:.4f}",
    ]  # fmt: skip
