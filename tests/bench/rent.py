"""What each room of the search is worth: it is switched off, and every layer of the published models measured again.

``python -m bench.rent [NAMES]`` in the folder ``tests`` prints one row a switch: processor time of one thread for all
layers at their own size and for every size, in the median of the paired ratios and at most, and how many bounds are
within the tolerance. A layer that takes longer than `LIMIT` seconds counts as one that did not end.
"""

from __future__ import annotations

import importlib
import json
import math
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import is_dataclass, replace
from typing import Any
from unittest.mock import patch

import numpy as np
from oracle import padding_pairs
from real_weights import MODELS, real_file, real_layers

import specnorm
from bench.kernels import decaying, flat, like_trained

RTOL = 1e-3
UNKNOWN = 32
LIMIT = 30
Layer = tuple[str, np.ndarray, dict[str, Any]]


def own_size() -> Iterator[Layer]:
    """Every convolution at its own size, or else at 32 pixels an axis."""
    for model in MODELS:
        layers = json.loads(real_file(model).with_name("layers.json").read_text(encoding="utf-8"))["layers"]
        known = {layer["name"]: tuple(layer["input"]) for layer in layers if "input" in layer}
        for name, kernel, geometry in real_layers(model):
            pads = padding_pairs(geometry["padding"], kernel.shape[2:], geometry["dilation"])
            axes = zip(kernel.shape[2:], geometry["dilation"], pads, strict=True)
            fallback = tuple(UNKNOWN if r * (k - 1) < UNKNOWN + sum(p) else 2 * (r * (k - 1) + 1) for k, r, p in axes)
            yield f"{model} {name}", kernel, {**geometry, "input_shape": known.get(name, fallback)}


def every_size() -> Iterator[Layer]:
    """The same without a size, and larger kernels of the suite."""
    for name, kernel, geometry in own_size():
        yield name, kernel, {key: value for key, value in geometry.items() if key != "input_shape"}


def suite() -> Iterator[Layer]:
    """Large kernels of each family, at every size and circular at one."""
    kernels = {
        "trained-like 64": like_trained((64, 64, 3, 3)), "trained-like 256": like_trained((256, 256, 3, 3)),
        "flat 64": flat(64), "flat 128": flat(128), "decaying 64": decaying(64), "decaying 256": decaying(256),
        "gaussian 16 5x5": np.random.RandomState(1).standard_normal((16, 16, 5, 5)).astype(np.float32),
    }  # fmt: skip
    for name, kernel in kernels.items():
        yield f"{name} every size", kernel, {}
        if kernel.shape[0] <= 128:
            yield f"{name} circular 32", kernel, {"input_shape": 32}


class LateError(Exception):
    """The limit has passed."""


def measured(layer: Layer, repeats: int) -> tuple[float, float]:
    """Least processor time and the gap; infinite where it did not end."""

    def late(*_: object) -> None:
        raise LateError

    _, kernel, geometry = layer
    signal.signal(signal.SIGALRM, late)
    times, gap = [], math.inf
    for _ in range(repeats):
        signal.alarm(LIMIT)
        begin = time.process_time()
        try:
            found = specnorm.enclose(kernel, rtol=RTOL, **geometry)
        except LateError:
            return float(LIMIT), math.inf
        finally:
            signal.alarm(0)
        times.append(time.process_time() - begin)
        lower, upper = float(found.lower), float(found.upper)
        gap = upper / lower - 1 if lower > 0 else 0.0
        if times[-1] > 1:
            break
    return min(times), gap


def without(*names: str) -> Callable[[ExitStack], None]:
    """The list of attempts without some."""

    def act(stack: ExitStack) -> None:
        from specnorm.search import layer

        left = tuple(x for x in layer.ATTEMPTS if getattr(x, "__name__", "") not in names)
        stack.enter_context(patch.object(layer, "ATTEMPTS", left))

    return act


def setting(module: str, name: str, **knobs: Any) -> Callable[[ExitStack], None]:
    """Other knobs of a record of tuning."""

    def act(stack: ExitStack) -> None:
        where = importlib.import_module(f"specnorm.{module}")
        old: Any = getattr(where, name)
        new = replace(old, **knobs) if is_dataclass(old) and not isinstance(old, type) else old._replace(**knobs)
        for loaded in list(sys.modules.values()):
            if getattr(loaded, "__name__", "").startswith("specnorm") and getattr(loaded, name, None) is old:
                stack.enter_context(patch.object(loaded, name, new))

    return act


def replaced(module: str, name: str, value: Any) -> Callable[[ExitStack], None]:
    """Another function or constant."""

    def act(stack: ExitStack) -> None:
        target: Any = importlib.import_module(f"specnorm.{module.split(':')[0]}")
        if ":" in module:
            target = getattr(target, module.split(":")[1])
        stack.enter_context(patch.object(target, name, value))

    return act


def both(*acts: Callable[[ExitStack], None]) -> Callable[[ExitStack], None]:
    def act(stack: ExitStack) -> None:
        for one in acts:
            one(stack)

    return act


def all_groups(blocks: np.ndarray, *_: Any, **__: Any) -> tuple[np.ndarray, None]:
    return np.arange(blocks.shape[0]), None


def not_promising(_: Any, now: np.ndarray, gain: np.ndarray, __: Any, round_: int, ___: float) -> np.ndarray:
    return ((gain > 1e-7 * now) & (round_ < 12)).nonzero()[0]


SWITCHES: dict[str, Callable[[ExitStack], None]] = {
    "nothing": lambda _: None,
    "deflation": without("few_waves", "many_waves"),
    "wave sums": both(
        setting("search.layer_bounds", "TUNING", waves=10**9, witness=2**60),
    ),
    "wave sums, 8 steps": setting("search.layer_bounds", "TUNING", waves=10**9, witness=2**60, steps=8),
    "wave sums, 16 steps": setting("search.layer_bounds", "TUNING", waves=10**9, witness=2**60, steps=16),
    "patch": without("patch"),
    "small matrix": without("small_matrix"),
    "circulants": without("best_circulant"),
    "more steps": without("more_steps"),
    "own matrix": without("own_matrix"),
    "refined supremum": without("refined_supremum"),
    "open groups": replaced("search.component", "open_groups", all_groups),
    "loose supremum": replaced("search.supremum:Supremum", "_tolerance", lambda self: self._problem.rtol),
    "reduction": setting("search.tuning", "TUNING", smallest_reduced=10**9),
    "closer truncation": setting("search.tuning", "TUNING", covered=1e9),
    "prefilter": setting("search.tuning", "TUNING", prefilter=10**9),
    "float32": setting("search.tuning", "TUNING", smallest_float32=10**9),
    "narrow rounds": setting("search.tuning", "TUNING", float32_rounds=0),
    "crowded": setting("search.tuning", "TUNING", smallest_crowded=10**9),
    "excess": setting("search.tuning", "TUNING", excess=0.0),
    "many starts": setting("search.tuning", "TUNING", many=10**9),
    "exact": setting("search.tuning", "TUNING", exact=0),
    "around": setting("search.tuning", "TUNING", around=0.0),
    "pieces": setting("search.tuning", "TUNING", pieces=2),
    "kept": setting("search.tuning", "TUNING", kept=0),
    "lanczos for matrices": replaced("search.constant", "SMALLEST", 10**9),
    "extrapolation": replaced("search.ascent", "contraction", lambda move, *_, **__: np.zeros(len(move))),
    "promising": replaced("search.ascent:Ascent", "_promising", not_promising),
}  # fmt: skip


def main(names: list[str]) -> None:
    import specnorm.search.layer  # noqa: F401  # before anything is patched

    sets = {"own size": list(own_size()), "every size": list(every_size()), "suite": list(suite())}
    base: dict[str, list[tuple[float, float]]] = {}
    only = [name.removeprefix("--") for name in names if name.startswith("--")]
    names = [name for name in names if not name.startswith("--")]
    sets = {title: layers for title, layers in sets.items() if not only or title in only}
    for chosen in ["nothing", *names]:
        for title, layers in sets.items():
            with ExitStack() as stack:
                SWITCHES[chosen](stack)
                rows = [measured(layer, 2) for layer in layers]
            base.setdefault(title, rows)
            times, gaps = zip(*rows, strict=True)
            pairs = list(zip(rows, base[title], strict=True))
            ratios = sorted(a / max(b, 1e-4) for (a, _), (b, _) in pairs)
            found = {
                "off": chosen, "set": title, "seconds": round(sum(times), 2),
                "median": round(statistics.median(ratios), 3),
                "worst": round(ratios[-1], 2), "slower": sum(a > 1.1 * b + 1e-3 for (a, _), (b, _) in pairs),
                "within": sum(g <= RTOL for g in gaps), "of": len(gaps), "late": sum(map(math.isinf, gaps)),
            }  # fmt: skip
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or [name for name in SWITCHES if name != "nothing"])
