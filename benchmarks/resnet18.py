"""Every convolution of ResNet-18, with the shapes of torchvision's, enclosed to 1e-3; and where the time goes.

Two questions for each layer: its norm at every input size, and its norm at the size that it has for images of 224 by
224 pixels, with stride and zero padding. Weights are random with the spectra of trained ones (`kernels.like_trained`).
"""

from __future__ import annotations

import cProfile
import json
import pstats
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import specnorm
from benchmarks import facts, kernels
from benchmarks.facts import Row

RTOL = 1e-3
SECTION = "ResNet-18, each layer"
_FUNCTIONS = 15
"""Functions of the profile that are printed."""


@dataclass(frozen=True)
class Layer:
    """A convolution, and its place in the network."""

    name: str
    shape: tuple[int, int, int, int]
    stride: int
    input_size: int
    seed: int

    @property
    def geometry(self) -> dict[str, Any]:
        padding = self.shape[-1] // 2
        return {"input_shape": self.input_size, "stride": self.stride, "padding": padding, "padding_mode": "zeros"}

    def kernel(self) -> np.ndarray:
        return kernels.like_trained(self.shape, self.seed)


def layers() -> list[Layer]:
    """The twenty convolutions, in the order of the forward pass."""
    convolutions = [Layer("conv1", (64, 3, 7, 7), 2, 224, 0)]
    cin, size = 64, 56
    for stage, cout in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            convolutions.append(Layer(f"{name}.conv1", (cout, cin, 3, 3), stride, size, len(convolutions)))
            if stride == 2:
                convolutions.append(Layer(f"{name}.downsample", (cout, cin, 1, 1), stride, size, len(convolutions)))
            size //= stride
            convolutions.append(Layer(f"{name}.conv2", (cout, cout, 3, 3), 1, size, len(convolutions)))
            cin = cout
    return convolutions


def measure(at_size: bool, chosen: Sequence[Layer]) -> Iterator[Row]:
    """A row for each layer: seconds by the wall and of processors, and how far apart the bounds are."""
    common = facts.about("numpy", "torch") | {"section": SECTION, "threads": torch.get_num_threads()}
    for layer in chosen:
        kernel = layer.kernel()
        geometry = layer.geometry if at_size else {}
        wall, processor = time.perf_counter(), time.process_time()
        enclosure = specnorm.enclose(kernel, rtol=RTOL, **geometry)
        yield {
            **common,
            "name": layer.name,
            "shape": list(layer.shape),
            "n": layer.input_size if at_size else None,
            "stride": layer.stride if at_size else None,
            "seconds": time.perf_counter() - wall,
            "processor_seconds": time.process_time() - processor,
            "gap": float(enclosure.upper) / float(enclosure.lower) - 1,
            "cells": int(enclosure.cells),
            "status": enclosure.status,
        }


def profile(at_size: bool, chosen: Sequence[Layer]) -> str:
    """Seconds of each module, and of the functions that take most, without what they call."""
    made = [(layer.kernel(), layer.geometry if at_size else {}) for layer in chosen]
    profiler = cProfile.Profile()
    profiler.enable()
    for kernel, geometry in made:
        specnorm.enclose(kernel, rtol=RTOL, **geometry)
    profiler.disable()
    functions: list[tuple[float, int, str]] = []
    modules: dict[str, float] = {}
    for (file, line, name), (_, calls, own_seconds, _, _) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        module = "/".join(Path(file).parts[-2:]) if file.endswith(".py") else "built in"
        functions.append((own_seconds, calls, f"{module}:{line} {name}"))
        modules[module] = modules.get(module, 0.0) + own_seconds
    total = sum(modules.values())
    lines = [f"{total:.2f} s with the profiler; of each module:"]
    for module, seconds in sorted(modules.items(), key=lambda item: -item[1])[:_FUNCTIONS]:
        lines.append(f"{seconds:8.2f} s {seconds / total:5.0%}  {module}")
    lines.append("of each function, without what it calls:")
    for seconds, calls, name in sorted(functions, reverse=True)[:_FUNCTIONS]:
        lines.append(f"{seconds:8.2f} s {calls:8d} calls  {name}")
    return "\n".join(lines)


def write(quick: bool, out: Path | None) -> None:
    """Print a row for each layer, the sums and the profiles; write the rows to ``out`` if it is not None."""
    chosen = layers()[:3] if quick else layers()
    rows: list[Row] = []
    for at_size in (False, True):
        rows_at_size = []
        for row in measure(at_size, chosen):
            rows_at_size.append(row)
            print(json.dumps(row), flush=True)
        rows += rows_at_size
        where = "at its size" if at_size else "at every size"
        seconds = sum(row["seconds"] for row in rows_at_size)
        processor_seconds = sum(row["processor_seconds"] for row in rows_at_size)
        largest_gap = max(row["gap"] for row in rows_at_size)
        print(f"{where}: {seconds:.1f} s, {processor_seconds:.1f} of processors; largest gap {largest_gap:.1e}")
        print(profile(at_size, chosen), flush=True)
    if out:
        facts.write(out, rows)
