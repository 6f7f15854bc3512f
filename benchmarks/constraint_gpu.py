"""What the constraint costs on a CUDA device: a training step of ResNet-20, beside torch's own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import facts, trained
from benchmarks.constraint_cost import paired
from benchmarks.facts import Row
from benchmarks.loops import Constrain, descend
from benchmarks.step_cost import EVERY_WAY

BATCHES = 32, 128
WARM = 65
"""Turns that are not counted: CUDA kernels are loaded in them, and steps are recorded."""
REPEATS = 40


def write(out: Path | None) -> None:
    """Measure, print each row as JSON, and write the rows to ``out`` if it is not None."""
    if not torch.cuda.is_available():
        raise SystemExit("constraint-gpu needs a CUDA device that torch sees; there is none here.")
    lines: list[Row] = []
    common = facts.about("torch", "numpy") | {"clock": "wall", "threads": 1, "gpu": torch.cuda.get_device_name()}
    for row in rows():
        lines.append({**common, **row})
        print(json.dumps(lines[-1]), flush=True)
        if out:
            facts.write(out, lines)


def rows() -> Iterator[Row]:
    """Time a training step of ResNet-20 for images of 32x32, plain and with every layer constrained."""
    for batch in BATCHES:
        images = torch.randn(batch, 3, 32, 32, device="cuda")
        runs = {name: network_step(constrain, images) for name, constrain in EVERY_WAY.items()}
        more: dict[str, Row] = {name: {"batch": batch} for name in runs}
        seconds = paired(runs, REPEATS, warm=WARM, clock=time.perf_counter, wait=torch.cuda.synchronize)
        yield from rows_of_section("step", "plain", seconds, more)


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


def network_step(constrain: Constrain, images: Tensor) -> Callable[[], None]:
    """Return a training step of ResNet-20 on the images' device."""
    torch.manual_seed(0)
    model = constrain(trained.resnet20().to(images.device))
    optimizer = torch.optim.SGD(model.parameters(), 1e-2, momentum=0.9)
    return lambda: descend(optimizer, model(images).square().mean())
