"""The benchmark suite: each problem a textbook method and specnorm's, timed in turn on the same kernel."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helpers.real_weights import real_kernel

import specnorm
from benchmarks import facts, kernels, yardsticks
from benchmarks.facts import Row
from specnorm.running.search import Clock

Kernel = tuple[str, str, Callable[[], np.ndarray]]
"""Name, family, and a function that makes the array."""


@dataclass(frozen=True)
class Section:
    """A problem: a function of `yardsticks`, and contestants, on every kernel at every size.

    A contestant is a function of an array of the library, and the size if there is one. ``geometry``: of the layer
    whose norms the values are; None where they are none. ``base``: the yardstick, if `yardsticks` lacks it.
    """

    yardstick: str
    contestants: dict[str, Callable[..., Any]]
    kernels: Sequence[Kernel]
    sizes: Sequence[int | None] = (None,)
    geometry: Row | None = field(default_factory=dict)
    base: Callable[..., Any] | None = None
    library: str = "torch cpu"


FAMILIES: dict[str, Callable[[int], np.ndarray]] = {
    "trained-like": lambda c: kernels.like_trained((c, c, 3, 3)),
    "trained-like, level": lambda c: kernels.like_trained((c, c, 3, 3), level=True),
    "flat": kernels.flat,
    "decaying": kernels.decaying,
}


def squares(*channels: int, family: str = "trained-like") -> list[Kernel]:
    return [(f"{c} channels", family, partial(FAMILIES[family], c)) for c in channels]


RESNET18: list[Kernel] = [
    (name, "trained-like", partial(kernels.like_trained, shape)) for name, shape in kernels.RESNET18.items()
]
REAL: list[Kernel] = [
    (f"{model} {layer}", "real", partial(real_kernel, model, layer))
    for model, layer in (
        ("resnet20", "layer1.0.conv1"), ("resnet20", "layer2.1.conv1"), ("resnet20", "layer3.1.conv1"),
        ("dncnn25", "model.12"),
    )
]  # fmt: skip


def enclosed(*kernel: Any, **options: Any) -> Any:
    return specnorm.enclose(*kernel, **options).upper


TN: dict[str, Callable[..., Any]] = {
    "tn_bound, estimate": partial(specnorm.tn_bound, proven=False), "tn_bound, proven": specnorm.tn_bound,
    "enclose 1e-3": enclosed,
}  # fmt: skip
ZEROS: dict[str, Any] = {"padding_mode": "zeros", "padding": 1}
ENCLOSED = partial(enclosed, **ZEROS)
CIRCULAR = {"conv_norm": specnorm.conv_norm, "enclose 1e-3": enclosed}


SMALL: list[Kernel] = [
    (name, "flat", partial(kernels.gaussian, shape))
    for name, shape in {
        "first layer": (8, 3, 3, 3), "wide first layer": (16, 3, 3, 3), "8 channels": (8, 8, 3, 3),
        "8 channels, 5x5": (8, 8, 5, 5), "16 channels": (16, 16, 3, 3), "16 channels, 1x1": (16, 16, 1, 1),
    }.items()
]  # fmt: skip
AT_ONE: list[Kernel] = [*REAL[2:], *squares(64), *squares(64, family="flat")]
SECTIONS = {
    "tensor norm": Section("hopm_einsum", TN, [
        *(kernel for family in FAMILIES for kernel in squares(64, 128, 256, 512, family=family)), *REAL, *RESNET18
    ]),
    "unfoldings": Section("unfolding_power", {"f4_bound": specnorm.f4_bound}, [
        *squares(64, 256, 512), *squares(64, 256, 512, family="flat")
    ]),
    "circular": Section("rfft_svd", CIRCULAR, [*AT_ONE, *squares(16, 32, 128)], (8, 32)),
    "small layers": Section("rfft_svd_in_numpy", {
        **CIRCULAR, "enclose_smallest 1e-3": lambda *k: specnorm.enclose_smallest(*k).lower
    }, SMALL, (32,), geometry=None, library="numpy"),
    "singular values": Section("rfft_svd", {
        "singular_values": lambda *k: specnorm.singular_values(*k)[0],
        "singular_values, k=10": lambda *k: specnorm.singular_values(*k, k=10)[0],
    }, [*squares(8, 16, 64), *squares(64, family="flat"), *squares(64, family="decaying")], (32,)),
    "gram": Section("gram_conv", {"gram_bound, 3 steps": partial(specnorm.gram_bound, n_iter=3)},
        squares(16, 32, 64, 128)),
    "power": Section("propack", {"power_norm": partial(specnorm.power_norm, **ZEROS)},
        [("3 channels", "Gaussian", partial(kernels.flat, 3)), *AT_ONE], (32,), geometry=ZEROS),
    "zero padding": Section("propack", {"enclose 1e-3": ENCLOSED}, squares(16, 64), (64,),
        geometry=ZEROS),
    "zero padding, tolerances": Section("enclose 1e-3", {
        "enclose 1e-2": partial(enclosed, rtol=1e-2, **ZEROS)
    }, REAL, (8, 16), geometry=ZEROS, base=ENCLOSED),
    "rescaling": Section("aol", {"gram_rescaling": lambda k: specnorm.gram_rescaling(k).sum()}, squares(64, 256),
        geometry=None),
}  # fmt: skip


# -- measuring -------------------------------------------------------------------------------------------------------
def write(sections: Sequence[str], out: Path | None, *, quick: bool) -> None:
    """Measure all sections, or some; ``quick``: one small kernel for each family."""
    # A busy machine is to measure what an idle one would: budgets count work.
    with Clock.counting_work():
        facts.record(run(sections, quick), out)


def run(sections: Sequence[str], quick: bool) -> Iterator[Row]:
    """Yield rows of all sections, or of some."""
    torch.set_num_threads(1)
    about = facts.about("numpy", "scipy", "torch") | {"clock": "processor", "threads": 1}
    for title in sections or SECTIONS:
        section = SECTIONS[title]
        first = {kernel[1]: kernel for kernel in reversed(section.kernels)}
        for (name, family, make), n in itertools.product(first.values() if quick else section.kernels, section.sizes):
            kernel = (make()[:8, :8] if quick else make()).astype("float32")
            common = {**about, "section": title, "name": name, "family": family, "n": n and 8 if quick else n}
            yield from measure(section, kernel, common)


def measure(section: Section, kernel: np.ndarray, common: Row) -> Iterator[Row]:
    """Yield the rows of one kernel: one for the yardstick, and one for each contestant, in turn with it."""
    n, yardstick = common["n"], section.yardstick
    array: Any = kernel if section.library == "numpy" else torch.from_numpy(kernel)
    arguments = (array,) if n is None else (array, n)
    calls = {yardstick: section.base or getattr(yardsticks, yardstick), **section.contestants}
    runs: dict[str, Callable[[], Any]] = {name: partial(call, *arguments) for name, call in calls.items()}
    values = {name: float(run()) for name, run in runs.items()}
    norm = norm_below(section, kernel, common)
    seconds = facts.paired(runs)
    for name, times in seconds.items():
        row = {**common, "shape": list(kernel.shape), "yardstick": yardstick}
        row |= {"contestant": name, **facts.timing(times, seconds[yardstick]), "value": values[name]}
        yield row if norm is None else row | {"norm": norm, "value_over_norm": row["value"] / norm}


def norm_below(section: Section, kernel: np.ndarray, common: Row) -> float | None:
    """Return the proven lower end, 1e-4 below the norm at most; 1e-2 where that takes long. None if no norm."""
    if section.geometry is None:
        return None
    takes_long = common["family"] in ("flat", "decaying") and kernel.shape[0] >= 128
    wide = kernel if takes_long else kernel.astype(np.float64)
    return float(specnorm.enclose(wide, common["n"], rtol=1e-2 if takes_long else 1e-4, **section.geometry).lower)
