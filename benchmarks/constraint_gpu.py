"""What the constraint costs on a CUDA device: a training step of ResNet-20, beside torch's own."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks import facts, trained
from benchmarks.constraint_cost import network_step, paired, rows_of_section
from benchmarks.facts import Row
from benchmarks.step_cost import EVERY_WAY

BATCHES = 32, 128
WARM = 65
"""Turns that are not counted: CUDA kernels are loaded in them, and a step is recorded after the 64 first passes."""
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
        runs = {name: network_step(constrain, trained.resnet20, images) for name, constrain in EVERY_WAY.items()}
        more: dict[str, Row] = {name: {"batch": batch} for name in runs}
        seconds = paired(runs, REPEATS, warm=WARM, clock=time.perf_counter, wait=torch.cuda.synchronize)
        yield from rows_of_section("step", "plain", seconds, more)
