"""What the constraint costs: a training step beside a plain one, and JAX."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import facts, jax_cost, step_cost
from benchmarks.facts import Row
from benchmarks.loops import Constrain, descend
from benchmarks.ways import WAYS

WARM = 65
"""First passes of a network: in each of the first 64 a layer makes more iterations."""


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


def rows_of_section(section: str, base: str, seconds: dict[str, list[float]], more: dict[str, Row]) -> Iterator[Row]:
    """Yield a row of a section for each contestant: its median, and the median of its paired ratios to ``base``.

    Parameters
    ----------
    base : str
        The contestant whose times are divided by the others'.
    seconds : dict of str to list of float
        Seconds of each contestant in each turn, as `paired` returns them.
    more : dict of str to Row
        Further fields of each contestant's row.
    """
    for name, times in seconds.items():
        yield {"section": section, "contestant": name, **more[name], **facts.timing(times, seconds[base])}


def network_step(constrain: Constrain, make: Callable[[], nn.Module], inputs: Tensor) -> Callable[[], None]:
    """Return a training step on the inputs' device, after the first passes, which have more iterations."""
    torch.manual_seed(0)
    model = constrain(make().to(inputs.device))
    few = inputs[:2]
    with torch.no_grad():
        for _ in range(WARM if constrain is WAYS["default"] else 0):
            model(few)
    optimizer = torch.optim.SGD(model.parameters(), 1e-2, momentum=0.9)
    return lambda: descend(optimizer, model(inputs).square().mean())
