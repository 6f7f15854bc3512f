"""The loops of the constraint's page with `SpectralBall` in place of their optimisers: norms at every step, and losses.

The weights of the watched layers are in the ball; the loop's own optimiser trains the other parameters. The constraint
is the default one, with the loop's optimiser. Rates are constant, as in the loops: each way takes the best of three.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias
from unittest import mock

import torch
from specnorm_torch import SpectralBall, spectral_norm
from torch import Tensor, nn
from torch.optim import Optimizer

import specnorm
from bench import facts, loops
from bench.facts import Row
from bench.recorder import Run, geometry_of

Make: TypeAlias = Callable[[type[Optimizer], list[Tensor], float, dict[str, Any]], Optimizer]
"""Makes an optimiser from the one that a loop takes: its class, parameters, rate and other arguments."""

LARGEST = 1 + 1e-6
"""What the norm of no weight of any step may exceed."""
BALL_RATES = 0.02, 0.05, 0.1
FACTORS = 1 / 3, 1.0, 3.0
"""Of the loop's own rate, for the constraint."""
LAST = 0.2
"""Part of the steps whose mean loss is the loss at the end."""
OPTIMISERS = "Adam", "AdamW", "SGD"
WIDE = 64
"""Channels from which the weights of every tenth step alone are certified."""


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


def by_ball(name: str, rate: float, steps: int | None = None) -> tuple[Run, list[float]]:
    """Train a loop in the ball."""
    geometries: dict[int, dict[str, Any]] = {}

    def note(layer: nn.Module) -> nn.Module:
        weight: Any = layer.weight
        geometries[id(weight)] = {k: v for k, v in geometry_of(layer).items() if k != "input_shape"}
        return layer

    def make(kind: Any, params: list[Tensor], lr: float, options: dict[str, Any]) -> Optimizer:
        inside = [{"params": [x], **geometries[id(x)]} for x in params if id(x) in geometries]
        # Biases and the free layers, which have two axes, too.
        others = [x for x in params if id(x) not in geometries]
        optimiser = SpectralBall(inside, rate)
        if others:
            optimiser._take_rest(kind(others, lr, **options))
        return optimiser

    with optimisers(make) as losses:
        return loops.run(name, note, 0, steps), losses


def by_constraint(name: str, factor: float, steps: int | None = None) -> list[float]:
    """Train a loop with the default constraint and its own optimiser."""

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
    """How many weights of all steps were certified, and were not; and the largest norm of the last step."""
    row = {"certified": 0, "not certified": 0}
    for number, step in enumerate(run.steps):
        for name, weights in step.items():
            for x in weights:
                if number % 10 == 0 or min(x.shape[:2]) < WIDE:
                    is_within = specnorm.certify(x.float(), LARGEST, **run.geometries[name])
                    row["certified" if is_within else "not certified"] += 1
    ends = [specnorm.enclose(x.float(), **run.geometries[n]) for n, xs in run.steps[-1].items() for x in xs]
    return {**row, "norm at end": round(max(float(end.lower) for end in ends), 5)}


def rows(names: list[str], steps: int | None = None) -> Iterator[Row]:
    torch.set_num_threads(1)
    common = facts.about("torch") | {"threads": 1, "task": "loop"}
    for name in names:
        start = time.process_time()
        runs = {rate: by_ball(name, rate, steps) for rate in BALL_RATES}
        of_ball = {rate: loss_at_end(losses) for rate, (_, losses) in runs.items()}
        of_constraint = {factor: loss_at_end(by_constraint(name, factor, steps)) for factor in FACTORS}
        rate, factor = best(of_ball), best(of_constraint)
        run, _ = runs[rate]
        yield {
            **common, "loop": name, "steps": len(run.steps), "ball": round(of_ball[rate], 4), "rate": rate,
            "constraint": round(of_constraint[factor], 4), "factor": round(factor, 3), **certified(run),
            "seconds": round(time.process_time() - start, 1),
        }  # fmt: skip


def best(losses: dict[float, float]) -> float:
    return min(losses, key=lambda rate: losses[rate] if math.isfinite(losses[rate]) else math.inf)
