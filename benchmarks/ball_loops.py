"""The loops of the constraint's page with `SpectralBall` in place of their optimisers: norms at every step, and losses.

The weights of the watched layers are in the ball; the loop's own optimiser trains the other parameters. The constraint
is the default one, with the loop's optimiser. Rates are constant, as in the loops. Each way takes the best of three
factors of its rates.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias
from unittest import mock

import torch
from specnorm_jax.training import rescale, spectral_ball
from specnorm_torch import SpectralBall, spectral_norm
from torch import Tensor, nn
from torch.optim import Optimizer

import specnorm
from benchmarks import jax_loops, loops
from benchmarks.facts import Row
from benchmarks.recorder import Run, geometry_of

Make: TypeAlias = Callable[[type[Optimizer], list[Tensor], float, dict[str, Any]], Optimizer]
"""Makes an optimiser from the one that a loop takes: its class, parameters, rate and other arguments."""

LARGEST = 1 + 1e-6
"""What the norm of no weight of any step may exceed."""
BALL_RATE = 0.05
FACTORS = 1 / 3, 1.0, 3.0
"""Of the loop's own rate, and of `BALL_RATE`."""
LAST = 0.2
"""Part of the steps whose mean loss is the loss at the end."""
OPTIMISERS = "Adam", "AdamW", "Muon", "SGD"
FREE = jax_loops.Constraint(
    lambda _: {}, lambda params, state: (params, state), lambda params: rescale(params, **jax_loops.WHERE)
)
"""Of JAX's loops: none, from kernels in the ball."""


@contextmanager
def optimisers(
    make: Callable[[type[Optimizer], list[Tensor], float, dict[str, Any]], Optimizer],
) -> Iterator[list[float]]:
    """Let the loops take other optimisers; yields the losses of the first one of a loop."""
    losses: list[float] = []
    first: list[Optimizer] = []
    descend = loops.descend

    def watched(optimizer: Optimizer, loss: Tensor, clip: float | None = None) -> None:
        first.append(optimizer)
        if optimizer is first[0]:
            losses.append(float(loss.detach()))
        descend(optimizer, loss, clip)

    with mock.patch.object(loops, "descend", watched):
        patches = [mock.patch.object(loops, name, replaced(getattr(loops, name), make)) for name in OPTIMISERS]
        for patch in patches:
            patch.start()
        try:
            yield losses
        finally:
            for patch in patches:
                patch.stop()


def replaced(kind: type[Optimizer], make: Make) -> Callable[..., Optimizer]:
    return lambda params, lr, **options: make(kind, list(params), lr, options)


def by_ball(name: str, factor: float, steps: int | None = None) -> tuple[Run, list[float]]:
    """Train a loop in the ball."""
    if name in jax_loops.JAX_LOOPS:
        rest = jax_loops.JAX_LOOPS[name].optimizer(factor)
        return jax_loops.run(name, FREE, 0, steps, spectral_ball(BALL_RATE * factor, rest=rest, **jax_loops.WHERE))
    geometries: dict[int, dict[str, Any]] = {}

    def note(layer: nn.Module) -> nn.Module:
        weight: Any = layer.weight
        geometries[id(weight)] = {k: v for k, v in geometry_of(layer).items() if k != "input_shape"}
        return layer

    def make(kind: Any, params: list[Tensor], lr: float, options: dict[str, Any]) -> Optimizer:
        inside = [{"params": [x], **geometries[id(x)]} for x in params if id(x) in geometries]
        # Biases and the free layers, which have two axes, too.
        others = [x for x in params if id(x) not in geometries]
        optimiser = SpectralBall(inside, BALL_RATE * factor)
        if others:
            optimiser._take_rest(kind(others, lr * factor, **options))
        return optimiser

    with optimisers(make) as losses:
        return loops.run(name, note, 0, steps), losses


def by_constraint(name: str, factor: float, steps: int | None = None) -> list[float]:
    """Train a loop with the default constraint and its own optimiser."""
    if name in jax_loops.JAX_LOOPS:
        optimizer = jax_loops.JAX_LOOPS[name].optimizer(factor)
        return jax_loops.run(name, jax_loops.CONSTRAINTS["default"], 0, steps, optimizer)[1]

    def make(kind: Any, params: list[Tensor], lr: float, options: dict[str, Any]) -> Optimizer:
        optimiser: Optimizer = kind(params, lr * factor, **options)
        return optimiser

    with optimisers(make) as losses:
        loops.run(name, spectral_norm, 0, steps)
    return losses


def loss_at_end(losses: list[float]) -> float:
    count = max(1, round(LAST * len(losses)))
    return sum(losses[-count:]) / count


def certified(run: Run) -> Row:
    """How many weights of all steps were certified, the largest norm of the others, and that of the last step."""
    weights = [
        (x.double(), run.geometries[name]) for step in run.steps for name, xs in step.items() for x in tensors(xs)
    ]
    outside = [pair for pair in weights if not is_within(*pair)]
    last = [(x.double(), run.geometries[name]) for name, xs in run.steps[-1].items() for x in tensors(xs)]
    row: Row = {"weights": len(weights), "certified": len(weights) - len(outside)}
    if outside:
        row["largest"] = largest_norm(outside)
    return {**row, "norm at end": largest_norm(last)}


def is_within(weight: Tensor, geometry: dict[str, Any]) -> bool:
    """Whether a weight is certified, group by group: of many groups near the limit, one search takes far longer."""
    groups = geometry.get("groups", 1)
    alone = {**geometry, "groups": 1} if "groups" in geometry else geometry
    return all(specnorm.certify(x, LARGEST, **alone) for x in weight.chunk(groups))


def tensors(weights: list[Any]) -> list[Tensor]:
    return [torch.as_tensor(x) for x in weights]


def largest_norm(weights: list[tuple[Tensor, dict[str, Any]]]) -> float:
    """Upper bound of the norms, within 0.1 %."""
    return round(max(float(specnorm.enclose(x, rtol=1e-3, **geometry).upper) for x, geometry in weights), 5)


def figures(name: str, steps: int | None = None) -> Row:
    """Train a loop by each way with three rates; return the least losses, and how many weights are within the bound."""
    start = time.process_time()
    runs = {factor: by_ball(name, factor, steps) for factor in FACTORS}
    losses = {
        "ball": {factor: loss_at_end(ys) for factor, (_, ys) in runs.items()},
        "constraint": {factor: loss_at_end(by_constraint(name, factor, steps)) for factor in FACTORS},
    }
    row: Row = {"steps": len(runs[1.0][0].steps)}
    for way, by_factor in losses.items():
        factor = best(by_factor)
        row |= {way: round(by_factor[factor], 5), f"factor, {way}": round(factor, 3)}
    row |= certified(runs[best(losses["ball"])][0])
    return {**row, "seconds": round(time.process_time() - start, 1)}


def best(losses: dict[float, float]) -> float:
    return min(losses, key=lambda rate: losses[rate] if math.isfinite(losses[rate]) else math.inf)
