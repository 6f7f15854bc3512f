"""What the constraint costs: a weight beside torch's own, a training step beside a plain one, and JAX."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch
from specnorm_jax.training import SpectralPenalty
from torch import Tensor, nn
from torch.nn import functional as F

from bench import facts, jax_cost
from bench.facts import Row
from bench.jax_loops import power_step
from bench.loops import Constrain, descend
from bench.ways import WAYS
from specnorm.backends import arrays

CHANNELS = 16, 64, 256, 512
METHODS = "torch", "default", "TensorNorm()"
REPEATS = {16: 60, 64: 40, 256: 15, 512: 9}
"""Turns that are counted for a weight, by its channels."""
EQUAL = 8
"""Number of layers in the model of equal layers."""
LAYER_BY_LAYER = ", layer by layer"
EQUAL_METHODS = "torch", "default", f"default{LAYER_BY_LAYER}"
STEPS = 7
"""Turns that are counted for a whole training step."""
BATCH = 128
WARM = 33
"""Turns that are not counted: in each of its first 32 passes a layer makes three iterations."""


def write(quick: bool, out: Path | None) -> None:
    """Measure, print each row as JSON, and write the rows to ``out`` if it is not None."""
    lines: list[Row] = []
    for row in rows(quick):
        lines.append(row)
        print(json.dumps(row), flush=True)
        if out:
            facts.write(out, lines)


def rows(quick: bool) -> Iterator[Row]:
    common = facts.about("torch", "jax", "numpy") | {"clock": "processor"}
    channels = CHANNELS[:2] if quick else CHANNELS
    torch.set_num_threads(1)
    for c in channels:
        yield from ({**common, "threads": 1, **row} for row in of_a_weight(c, REPEATS[c]))
    for c in channels:
        yield from ({**common, "threads": 1, **row} for row in of_equal_layers(c, REPEATS[c] // 3))
    for c in channels:
        yield from ({**common, "threads": 1, **row} for row in of_the_products(c, REPEATS[c]))
    for c in channels:
        yield from ({**common, "threads": 1, **row} for row in in_jax(c, REPEATS[c]))
    if not quick:
        yield from ({**common, "threads": 1, **row} for row in jax_cost.rows())
    yield from ({**common, "threads": 1, **row} for row in of_a_step(2 if quick else STEPS))


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


# -- torch -----------------------------------------------------------------------------------------------------------
def of_a_weight(channels: int, repeats: int) -> Iterator[Row]:
    """Time a weight of 3x3 taps in training, forward and backward."""
    direction = torch.randn(channels, channels, 3, 3)
    runs: dict[str, Callable[[], Any]] = {}
    sizes: dict[str, Row] = {}
    for name in METHODS:
        torch.manual_seed(0)
        layer = WAYS[name](nn.Conv2d(channels, channels, 3, padding=1))
        runs[name] = weight_step(layer, direction)
        state = sum(x.numel() * x.element_size() for x in layer.buffers())
        sizes[name] = {"channels": channels, "state_bytes": state, "kernel_bytes": 4 * direction.numel()}
    yield from rows_of_section("weight", "torch", paired(runs, repeats, warm=WARM), sizes)


def weight_step(layer: Any, direction: Tensor) -> Callable[[], None]:
    def step() -> None:
        layer.zero_grad()
        (layer.weight * direction).sum().backward()

    return step


def of_equal_layers(channels: int, repeats: int) -> Iterator[Row]:
    """Time the weights of a model of equal layers, forward and backward; the seconds are those of one layer."""
    direction = torch.randn(channels, channels, 3, 3)
    runs: dict[str, Callable[[], Any]] = {}
    for name in EQUAL_METHODS:
        torch.manual_seed(0)
        layers = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(EQUAL))
        runs[name] = weights_step(way_of_models(name)(nn.Sequential(*layers)), direction)
    # In a training, arrays of images are allocated and freed in each step. After the first, glibc serves arrays up to
    # that size from memory that it keeps. Allocate and free such an array here, so that this is measured.
    images = torch.ones(2**23)
    del images
    seconds = {name: [x / EQUAL for x in times] for name, times in paired(runs, repeats, warm=WARM).items()}
    more: dict[str, Row] = {name: {"channels": channels, "layers": EQUAL} for name in runs}
    yield from rows_of_section("equal layers", "torch", seconds, more)


def weights_step(model: Any, direction: Tensor) -> Callable[[], None]:
    def step() -> None:
        model.zero_grad()
        total: Any = torch.zeros(())
        for layer in model:
            total = total + (layer.weight * direction).sum()
        total.backward()

    return step


def way_of_models(name: str) -> Constrain:
    """Return the constraint of a whole model: ours takes a model, others go through its layers."""
    if name == "plain":
        return lambda model: model
    way = WAYS[name.removesuffix(LAYER_BY_LAYER)]
    if name == "torch" or name.endswith(LAYER_BY_LAYER):
        return lambda model: layer_by_layer(way, model)
    return way


def layer_by_layer(constrain: Constrain, model: nn.Module) -> nn.Module:
    for layer in list(model.modules()):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            constrain(layer)
    return model


def of_the_products(channels: int, repeats: int) -> Iterator[Row]:
    """Time torch's whole weight, and only the matrix products of one step of the default.

    The operands are recorded in one step, and NumPy multiplies them again. A program that iterates these vectors takes
    at least as long as its products.
    """
    direction = torch.randn(channels, channels, 3, 3)
    layers = {name: WAYS[name](nn.Conv2d(channels, channels, 3, padding=1)) for name in ("torch", "default")}
    runs = {"torch": weight_step(layers["torch"], direction)}
    step = weight_step(layers["default"], direction)
    for _ in range(WARM):
        step()
    factors: list[tuple[Any, Any]] = []
    real_times = arrays.real_times

    def recorded(a: Any, z: Any, *, ops: Any) -> Any:
        factors.append((a, np.ascontiguousarray(ops.real_columns(z))))
        return real_times(a, z, ops=ops)

    with mock.patch.object(arrays, "real_times", recorded):
        step()

    def products() -> None:
        for a, columns in factors:
            np.matmul(a, columns)

    runs["products of the default"] = products
    more: dict[str, Row] = {name: {"channels": channels, "products": len(factors)} for name in runs}
    yield from rows_of_section("products", "torch", paired(runs, repeats, warm=WARM), more)


def of_a_step(repeats: int) -> Iterator[Row]:
    """Time a whole training step of ResNet-20 for images of 32x32, plain and with every layer constrained."""
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))
    names = ("plain", *METHODS, f"default{LAYER_BY_LAYER}")
    runs = {name: network_step(way_of_models(name), images, labels) for name in names}
    more: dict[str, Row] = {name: {"batch": BATCH} for name in runs}
    yield from rows_of_section("step", "plain", paired(runs, repeats, warm=WARM), more)


def network_step(constrain: Constrain, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """Return a step of ResNet-20 on the images' device."""
    torch.manual_seed(0)
    model = constrain(resnet20().to(images.device))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    return lambda: descend(optimizer, F.cross_entropy(model(images), labels))


class Block(nn.Module):
    """Two convolutions with batch normalisation, and a shortcut."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        first = nn.Conv2d(cin, cout, 3, stride=stride, padding=1, bias=False)
        second = nn.Conv2d(cout, cout, 3, padding=1, bias=False)
        self.body = nn.Sequential(first, nn.BatchNorm2d(cout), nn.ReLU(), second, nn.BatchNorm2d(cout))
        plain = stride == 1 and cin == cout
        self.shortcut = nn.Identity() if plain else nn.Conv2d(cin, cout, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def resnet20() -> nn.Sequential:
    widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
    pairs = itertools.pairwise(widths)
    blocks = [Block(cin, cout, 1 if cin == cout else 2) for cin, cout in pairs]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    stem = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, *head)


# -- JAX -------------------------------------------------------------------------------------------------------------
def in_jax(channels: int, repeats: int) -> Iterator[Row]:
    """Time a kernel of 3x3 taps, value and gradient, jitted; beside one power step on the reshaped kernel, by hand."""
    kernel = jax.random.normal(jax.random.key(0), (3, 3, channels, channels), dtype=jnp.float32)
    direction = jax.random.normal(jax.random.key(1), kernel.shape, dtype=jnp.float32)
    penalty = SpectralPenalty()

    def constrained(kernel: Any, state: Any) -> Any:
        norms, state = penalty.norms({"conv": {"kernel": kernel}}, state)
        return jnp.sum(kernel / norms["conv/kernel"] * direction), state

    def reshaped(kernel: Any, u: Any) -> Any:
        norm, u = power_step(kernel.reshape(-1, channels), u)
        return jnp.sum(kernel / norm * direction), u

    runs = {
        "power step by hand": jitted_step(reshaped, kernel, jnp.ones_like(kernel[0, 0, 0])),
        "default": jitted_step(constrained, kernel, penalty.init({"conv": {"kernel": kernel}})),
    }
    more: dict[str, Row] = {name: {"channels": channels} for name in runs}
    yield from rows_of_section("JAX", "power step by hand", paired(runs, repeats, warm=WARM), more)


def jitted_step(function: Callable[..., Any], kernel: Any, state: Any) -> Callable[[], None]:
    step = jax.jit(jax.value_and_grad(function, has_aux=True))

    def run() -> None:
        nonlocal state
        (_, state), gradient = step(kernel, state)
        gradient.block_until_ready()

    return run
