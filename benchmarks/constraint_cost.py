"""What the constraint costs: a weight beside torch's own, a training step beside a plain one, and JAX."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import torch
from specnorm_jax.training import SpectralPenalty
from torch import Tensor, nn

from benchmarks import facts, jax_cost, step_cost
from benchmarks.facts import Row
from benchmarks.jax_loops import power_step
from benchmarks.loops import Constrain, descend
from benchmarks.ways import WAYS

CHANNELS = 16, 64, 256, 512
METHODS = "torch", "default", "TensorNorm()"
REPEATS = {16: 60, 64: 40, 256: 15, 512: 9}
"""Turns that are counted for a weight, by its channels."""
WARM = 65
"""Turns of a weight that are not counted: in each of its first 64 passes a layer makes more iterations."""


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
        yield from ({**common, "threads": 1, **row} for row in in_jax(c, REPEATS[c]))
    if not quick:
        yield from ({**common, "threads": 1, **row} for row in jax_cost.rows())
    yield from ({**common, "threads": 1, **row} for row in step_cost.rows(quick))


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
