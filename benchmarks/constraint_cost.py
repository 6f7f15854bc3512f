"""What the constraint costs: a training step beside a plain one, and JAX."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import facts, jax_cost, step_cost
from benchmarks.facts import Row


def write(quick: bool, out: Path | None) -> None:
    """Measure, print each row as JSON, and write the rows to ``out`` if it is not None."""
    lines: list[Row] = []
    for row in rows(quick):
        lines.append(row)
        print(json.dumps(row), flush=True)
        if out:
            facts.write(out, lines)


def rows(quick: bool) -> Iterator[Row]:
    common = facts.about("torch", "jax", "numpy") | {"clock": "processor", "threads": 1}
    torch.set_num_threads(1)
    for row in itertools.chain(() if quick else jax_cost.rows(), step_cost.rows(quick)):
        yield common | row


def paired(
    runs: dict[str, Callable[[], Any]],
    repeats: int,
    *,
    warm: int = 1,
    clock: Callable[[], float] = time.process_time,
    wait: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Return the seconds of each run, made in turn.

    Parameters
    ----------
    runs : dict of str to callable
    repeats : int
        Number of turns that are counted.
    warm : int, default 1
        Number of turns before them that are not counted.
    clock : callable
    wait : callable
        Called before and after each run: waits until a device has finished.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for j in range(warm + repeats):
        for name, run in runs.items():
            wait()
            begin = clock()
            run()
            wait()
            if j >= warm:
                seconds[name].append(clock() - begin)
    return seconds
