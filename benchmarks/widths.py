"""Processor time of a call by the number of channels: ``python -m benchmarks widths --out FILE``, on one thread.

Kernels are 3x3 with as many inputs as outputs, and have the spectra of trained ones (`kernels.like_trained`); one row
is of Gaussian kernels, the worst case of a search.
"""

from __future__ import annotations

import functools
import itertools
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import specnorm
from benchmarks import facts, kernels
from benchmarks.facts import FOLDER, Row
from benchmarks.page import measured as when_and_where
from benchmarks.page import span, table

COMMITTED = FOLDER / "widths.jsonl"
WIDTHS = 16, 32, 64, 128, 256, 512
SIZE = 32
Call = Callable[[np.ndarray], Any]
CALLS: dict[str, Call] = {
    "enclose": lambda k: specnorm.enclose(k, budget=None),
    f"enclose, {SIZE} pixels, zeros": lambda k: specnorm.enclose(k, SIZE, padding_mode="zeros", budget=None),
    "enclose, Gaussian kernel": lambda k: specnorm.enclose(k, budget=None),
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


def write(calls: Sequence[str], out: Path | None) -> None:
    """Measure calls, or all, smaller widths first."""
    facts.record(measured(calls or tuple(CALLS)), out, ("contestant", "channels"))


def measured(names: Sequence[str]) -> Iterator[Row]:
    """Yield a row for each call and width, with the median of the seconds."""
    common = facts.about("numpy") | {"threads": int(os.environ.get("OMP_NUM_THREADS", "0"))}
    for channels, name in itertools.product(WIDTHS, names):
        kernel = (kernels.flat if "Gaussian" in name else _like_trained)(channels)
        (seconds,) = facts.paired({name: functools.partial(CALLS[name], kernel)}).values()
        yield common | {"contestant": name, "channels": channels, "seconds": statistics.median(seconds)}


def _like_trained(channels: int) -> np.ndarray:
    return kernels.like_trained((channels, channels, 3, 3))


def tables() -> dict[str, str]:
    """Return the table of the lines, and when and where they were measured."""
    rows = facts.read(COMMITTED)
    cells = {(row["contestant"], row["channels"]): span(row["seconds"]) for row in rows}
    lines = [[_named(name), *(cells[name, channels] for channels in WIDTHS)] for name in CALLS]
    found = table(["channels", *map(str, WIDTHS)], lines)
    return {"widths": found, "widths measured": when_and_where(rows)}


def _named(contestant: str) -> str:
    function, comma, rest = contestant.partition(",")
    return f"`{function}`{comma}{rest}"
