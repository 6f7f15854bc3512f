"""What the constraint costs on a CUDA device: a weight, and a training step of ResNet-20, beside torch's own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench import facts, trained
from bench.constraint_cost import (
    CHANNELS,
    layer_by_layer,
    network_step,
    paired,
    rows_of_section,
    unchanged,
    weight_step,
)  # fmt: skip
from bench.facts import Row
from bench.loops import Constrain
from bench.ways import WAYS

METHODS = "torch", "default"
BATCH = 128
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
    for channels in CHANNELS:
        yield from of_a_weight(channels)
    yield from of_a_step()


def of_a_weight(channels: int) -> Iterator[Row]:
    """Time a weight of 3x3 taps in training, forward and backward."""
    direction = torch.randn(channels, channels, 3, 3, device="cuda")
    runs: dict[str, Callable[[], Any]] = {}
    more: dict[str, Row] = {}
    for name in METHODS:
        torch.manual_seed(0)
        layer = WAYS[name](nn.Conv2d(channels, channels, 3, padding=1).cuda())
        runs[name] = weight_step(layer, direction)
        before = torch.cuda.memory_allocated()
        for _ in range(WARM):
            runs[name]()
        kept = torch.cuda.memory_allocated() - before
        more[name] = {"channels": channels, "kept_bytes": kept, "kernel_bytes": 4 * direction.numel()}
    yield from rows_of_section("weight", "torch", in_turn(runs), more)


def of_a_step() -> Iterator[Row]:
    """Time a training step of ResNet-20 for images of 32x32, plain and with every layer constrained."""
    images = torch.randn(BATCH, 3, 32, 32, device="cuda")
    ways: dict[str, Constrain] = {"plain": unchanged, "torch": layer_by_layer, "default": WAYS["default"]}
    runs = {name: network_step(constrain, trained.resnet20, images) for name, constrain in ways.items()}
    more: dict[str, Row] = {name: {"batch": BATCH} for name in runs}
    yield from rows_of_section("step", "plain", in_turn(runs), more)


def in_turn(runs: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Return the seconds of each run, including the wait until the device has finished."""
    return paired(runs, REPEATS, warm=WARM, clock=time.perf_counter, wait=torch.cuda.synchronize)
