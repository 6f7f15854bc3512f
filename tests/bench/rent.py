"""What a room of the search is worth: it is switched off, and every layer of the published models measured again.

A row a switch: processor time of all layers, at their own size and at every size, and how many bounds are close enough.
"""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import is_dataclass, replace
from typing import Any
from unittest.mock import patch

import numpy as np
from oracle import padding_pairs
from real_weights import MODELS, real_file, real_layers

import specnorm

RTOL, UNKNOWN, LIMIT = 1e-3, 32, 30
Layer = tuple[np.ndarray, dict[str, Any]]
Switch = Callable[[ExitStack], None]


def own_size() -> Iterator[Layer]:
    """Every convolution at its own size, or else at 32 pixels an axis."""
    for model in MODELS:
        layers = json.loads(real_file(model).with_name("layers.json").read_text(encoding="utf-8"))["layers"]
        known = {layer["name"]: tuple(layer["input"]) for layer in layers if "input" in layer}
        for name, kernel, geometry in real_layers(model):
            pads = padding_pairs(geometry["padding"], kernel.shape[2:], geometry["dilation"])
            axes = zip(kernel.shape[2:], geometry["dilation"], pads, strict=True)
            fallback = tuple(UNKNOWN if r * (k - 1) < UNKNOWN + sum(p) else 2 * (r * (k - 1) + 1) for k, r, p in axes)
            yield kernel, {**geometry, "input_shape": known.get(name, fallback)}


def measured(layer: Layer) -> tuple[float, float]:
    """Less processor time of two runs, and the gap."""
    kernel, geometry = layer
    times = []
    for _ in range(2):
        begin = time.process_time()
        found = specnorm.enclose(kernel, rtol=RTOL, budget=LIMIT, **geometry)
        times.append(time.process_time() - begin)
    return min(times), float(found.upper) / float(found.lower) - 1 if float(found.lower) > 0 else 0.0


def without(*names: str) -> Switch:
    """The list of attempts without some."""
    layer = importlib.import_module("specnorm.search.layer")
    left = tuple(attempt for attempt in layer.ATTEMPTS if attempt.__name__ not in names)

    def act(stack: ExitStack) -> None:
        stack.enter_context(patch.object(layer, "ATTEMPTS", left))

    return act


def tuned(module: str, **knobs: Any) -> Switch:
    """Other knobs in a record of tuning, wherever it was imported."""
    old: Any = importlib.import_module(f"specnorm.search.{module}").TUNING
    new = replace(old, **knobs) if is_dataclass(old) and not isinstance(old, type) else old._replace(**knobs)

    def act(stack: ExitStack) -> None:
        for loaded in [it for it in list(sys.modules.values()) if getattr(it, "TUNING", None) is old]:
            stack.enter_context(patch.object(loaded, "TUNING", new))

    return act


SWITCHES: dict[str, Callable[[], Switch]] = {
    "deflation": lambda: without("few_waves", "many_waves"), "patch": lambda: without("patch"),
    "small matrix": lambda: without("small_matrix"), "own matrix": lambda: without("own_matrix"),
    "circulants": lambda: without("best_circulant"), "refined supremum": lambda: without("refined_supremum"),
    "wave sums": lambda: tuned("layer", waves=10**9, witness=2**60),
    "reduction": lambda: tuned("tuning", smallest_reduced=10**9), "prefilter": lambda: tuned("tuning", prefilter=10**9),
    "float32": lambda: tuned("tuning", smallest_float32=10**9), "exact": lambda: tuned("tuning", exact=0),
    "crowded": lambda: tuned("tuning", smallest_crowded=10**9), "around": lambda: tuned("tuning", around=0.0),
}  # fmt: skip


def run(names: Sequence[str]) -> None:
    own = list(own_size())
    every = [(kernel, {key: x for key, x in geometry.items() if key != "input_shape"}) for kernel, geometry in own]
    base: dict[str, list[tuple[float, float]]] = {}
    for chosen in ("nothing", *(names or SWITCHES)):
        for title, layers in {"own size": own, "every size": every}.items():
            with ExitStack() as stack:
                if chosen in SWITCHES:
                    SWITCHES[chosen]()(stack)
                rows = [measured(layer) for layer in layers]
            ratios = [a / max(b, 1e-4) for (a, _), (b, _) in zip(rows, base.setdefault(title, rows), strict=True)]
            found = {
                "off": chosen, "set": title, "seconds": sum(seconds for seconds, _ in rows),
                "median": statistics.median(ratios), "worst": max(ratios), "of": len(rows),
                "within": sum(gap <= RTOL for _, gap in rows),
            }  # fmt: skip
            print(json.dumps(found), flush=True)
