"""How far each method is from sigma* on published layers: tables of ``docs/methods/index.md``.

    python -m bench.compare

A ratio is the method's value over the lower bound of an enclosure of sigma* (relative width 1e-4), at the layer's own
stride, dilation, groups and transposition, zero padding, every input size. The tests compute the ratios anew; seconds
are what they were on the machine that is named.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from real_weights import MODELS, real_layers

import specnorm
from bench import facts
from bench.markdown import filled, table
from specnorm import Enclose, FantasticFour, Gram, Grid, Method, Reshaped, TensorNorm

PAGE = Path(__file__).parents[2] / "docs" / "methods" / "index.md"
REFERENCE = Enclose(rtol=1e-4)
METHODS: dict[str, Method] = {
    "enclose": Enclose(), "grid": Grid(), "tn": TensorNorm(), "gram, 3 steps": Gram(n_iter=3), "f4": FantasticFour(),
    "reshaped": Reshaped(),
}  # fmt: skip
SIZED = 32
"""Input size of the second table, divided by the strides before each layer of ResNet-20."""


@functools.cache
def measured(model: str) -> Mapping[str, list[tuple[float, float]]]:
    """Ratio to sigma* of every layer that is not zero, and seconds, per method."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in METHODS}
    for _, kernel, geometry in real_layers(model):
        sigma = float(specnorm.measure(kernel.astype(np.float64), REFERENCE, **geometry).stats["lower"])
        for name, method in METHODS.items() if sigma > 0 else ():
            begin = time.perf_counter()
            value = float(specnorm.measure(kernel, method, **geometry).value)
            found[name].append((value / sigma, time.perf_counter() - begin))
    return found


def ratios(model: str) -> dict[str, list[float]]:
    return {name: [ratio for ratio, _ in pairs] for name, pairs in measured(model).items()}


def every(of: Callable[[str], Mapping[str, list[Any]]]) -> dict[str, list[Any]]:
    """Of all networks, per method."""
    return {name: [x for model in MODELS for x in of(model)[name]] for name in METHODS}


@functools.cache
def ratios_at_a_size() -> Mapping[str, list[float]]:
    """The layers of ResNet-20 at the sizes they have on 32x32 images: each norm over sigma* of the same layer."""
    found: dict[str, list[float]] = {"power": [], "fft": [], "gram": []}
    size = SIZED
    for _, kernel, geometry in real_layers("resnet20"):
        sigma = float(specnorm.measure(kernel.astype(np.float64), REFERENCE, **geometry).stats["lower"])
        circular = {**geometry, "padding_mode": "circular", "padding": "same"}
        found["power"].append(float(specnorm.power_norm(kernel, size, **geometry)) / sigma)
        found["fft"].append(float(specnorm.conv_norm(kernel, size, **circular)) / sigma)
        found["gram"].append(float(specnorm.gram_bound(kernel, size, **circular)) / sigma)
        size //= geometry["stride"][0]
    return found


def cell(name: str, values: list[float]) -> str:
    """Median and worst: the largest of upper bounds, the smallest of the lower one."""
    worst = min(values) if name == "reshaped" else max(values)
    return f"{statistics.median(values):.3f} ({worst:.3f})"


def row(model: str, found: Mapping[str, list[float]]) -> str:
    """Median and worst ratio of each method."""
    return f"| {model} | {len(found['tn'])} | " + " | ".join(cell(name, found[name]) for name in METHODS) + " |"


def table_of_models() -> str:
    """One row a network: median and worst ratio of each method."""
    head = ["| network | layers | " + " | ".join(METHODS) + " |", "|---|" + "---|" * (len(METHODS) + 1)]
    return "\n".join([*head, *(row(model, ratios(model)) for model in MODELS), row("all", every(ratios))]) + "\n"


def table_of_sizes() -> str:
    """One row a method that measures at a size."""
    words = {"power": "power, zero padding: the layer itself", "fft": "fft, circular: exact",
             "gram": "gram, circular, 6 steps"}  # fmt: skip
    lines = [
        [words[name], *(f"{x:.3f}" for x in (min(values), statistics.median(values), max(values)))]
        for name, values in ratios_at_a_size().items()
    ]
    return table(["at 32, 16 or 8 pixels an axis", "lowest", "median", "highest"], lines)


def table_of_times() -> str:
    """One row a method; and what it was measured on."""
    about = facts.about("numpy")
    lines = []
    for name, pairs in every(measured).items():
        times = [seconds for _, seconds in pairs]
        lines.append([name, f"{1e3 * statistics.median(times):.1f}", f"{1e3 * max(times):.0f}", f"{sum(times):.2f}"])
    return table(["", "median, ms", "slowest, ms", "all layers, s"], lines) + (
        f"\nMeasured {about['date']} at commit {about['commit']}: one thread of {facts.processor()}, Python "
        f"{about['versions']['python']}, NumPy {about['versions']['numpy']}.\n"
    )


def main() -> None:
    made = {"models": table_of_models(), "sizes": table_of_sizes(), "times": table_of_times()}
    PAGE.write_text(filled(PAGE, made), encoding="utf-8")


if __name__ == "__main__":
    main()
