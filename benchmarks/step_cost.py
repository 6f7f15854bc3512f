"""What the constraint costs: a training step where weights move in every step, and models in JAX.

Each case is trained without a constraint, with torch's and with ours, in turn: at a constant rate, with fresh data in
each step. Times are means, so that steps of several iterations count.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks import facts, jax_cost, trained
from benchmarks.facts import Row
from benchmarks.loops import (
    MOMENTUM,
    OF_GAN,
    Step,
    classify,
    denoise,
    descend,
    perceptron,
    samples,
    separate,
    unchanged,
)
from benchmarks.ways import WAYS, Constrain, each_layer

WINDOWS = {"first hundred": (10, 100), "after 300": (300, 360)}
"""Steps that are counted."""
SLOW, FEWER = 0.05, 5
"""Of steps that take longer than so many seconds, so many times fewer are counted."""
EVERY_WAY: dict[str, Constrain] = {
    "plain": unchanged, "torch": lambda model: each_layer(model, WAYS["torch"]), "default": WAYS["default"],
}  # fmt: skip


def write(out: Path | None) -> None:
    """Measure on one CPU thread."""
    common = facts.about("torch", "jax", "numpy") | {"clock": "processor", "threads": 1}
    torch.set_num_threads(1)
    facts.record((common | row for row in itertools.chain(jax_cost.rows(), rows())), out)


def rows() -> Iterator[Row]:
    """Yield a row for each case, window and contestant: mean seconds of a step, and their ratio to the plain step's."""
    for name, make in CASES.items():
        for window, seconds in timed(make):
            for way, times in seconds.items():
                ratio = sum(times) / sum(seconds["plain"])
                about = {"section": "step", "case": name, "window": window, "contestant": way}
                yield {**about, "seconds": sum(times) / len(times), "steps": len(times), "over_plain": ratio}


def timed(make: Callable[[Constrain], Step]) -> Iterator[tuple[str, dict[str, list[float]]]]:
    """Yield the processor seconds of the steps of each window with each constraint, taken in turn.

    Between the windows, only our constraint is trained on: the time of the others does not depend on the step.
    """
    runs: dict[str, Step] = {}
    for way, constrain in EVERY_WAY.items():
        torch.manual_seed(0)
        runs[way] = make(constrain)
    done = 0
    for window, (begin, end) in WINDOWS.items():
        between = [runs["default"]] if done else list(runs.values())
        for _, step in itertools.product(range(done, begin), between):
            step()
        started = time.process_time()
        runs["plain"]()
        turns = end - begin
        turns = turns // FEWER if time.process_time() - started > SLOW else turns
        yield window, facts.paired(runs, turns)
        done = begin + turns


# -- cases -----------------------------------------------------------------------------------------------------------
def critic_of_points(width: int) -> nn.Sequential:
    return perceptron(unchanged, 32, width, width, 1, activation=trained.leaky)


def three_convolutions(outputs: int = 1) -> nn.Sequential:
    return nn.Sequential(*trained.strided(3, 16, 32, 64), nn.Flatten(), nn.Linear(256, outputs))


def with_eval(constrain: Constrain) -> Step:
    critic, generator = constrain(critic_of_points(256)), nn.Linear(16, 32)
    of_critic, of_generator = (OF_GAN(model.parameters()) for model in (critic, generator))
    draw = samples(32)

    def step() -> None:
        made = generator(torch.randn(32, 16))
        descend(of_critic, critic(made.detach()).mean() - critic(draw()).mean())
        critic.eval()
        descend(of_generator, -critic(made).mean())
        critic.train()

    return step


def penalized(constrain: Constrain) -> Step:
    model = constrain(three_convolutions())
    optimizer, draw = OF_GAN(model.parameters()), samples(3, 16, 16)

    def step() -> None:
        real = draw()
        false = torch.randn_like(real)
        between = (real + torch.rand(len(real), 1, 1, 1) * (false - real)).requires_grad_()
        (slope,) = torch.autograd.grad(model(between).sum(), between, create_graph=True)
        penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
        descend(optimizer, model(false).mean() - model(real).mean() + 10 * penalty)

    return step


def accumulated(constrain: Constrain) -> Step:
    model = constrain(three_convolutions())
    optimizer, draw = OF_GAN(model.parameters()), samples(3, 16, 16, size=8)

    def step() -> None:
        optimizer.zero_grad()
        for _ in range(4):
            real = draw()
            loss = (model(torch.randn_like(real)).mean() - model(real).mean()) / 4
            loss.backward()
        optimizer.step()

    return step


def averaged(constrain: Constrain) -> Step:
    model = constrain(three_convolutions(10))
    average: Any = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))  # type: ignore[no-untyped-call]
    return classify(model, OF_GAN, 3, 16, 16, after=lambda: average.update_parameters(model))


def critic(make: Callable[[], nn.Module], *shape: int, size: int = 32, **options: bool) -> Callable[[Constrain], Step]:
    return lambda constrain: separate(constrain(make()), OF_GAN, *shape, size=size, **options)


CASES: dict[str, Callable[[Constrain], Step]] = {
    "MLP critic 32-256-256-1, batch 32": critic(partial(critic_of_points, 256), 32),
    "MLP critic 32-1024-1024-1, batch 32": critic(partial(critic_of_points, 1024), 32),
    "MLP critic 32-256-256-1 and a generator, for whose step the critic is in `eval()`, batch 32": with_eval,
    "critic of three convolutions to 64 channels, 16 pixels, batch 32": critic(three_convolutions, 3, 16, 16),
    "U-Net of 16 and 32 channels that removes noise, 16 pixels, batch 8": (
        lambda constrain: denoise(constrain(trained.UNet()), OF_GAN, size=8)
    ),
    "DCGAN critic, 64 pixels, batch 16": critic(trained.critic_of_images, 3, 64, 64, size=8),
    "ResNet-20, 32 pixels, batch 32, SGD 0.1 with momentum 0.9": (
        lambda constrain: classify(constrain(trained.resnet20()), MOMENTUM, 3, 32, 32)
    ),
    "the critic of three convolutions with a gradient penalty: three passes a step": penalized,
    "the critic of three convolutions with gradients accumulated over four batches of 8": accumulated,
    "three convolutions to 64 channels as a classifier, with an average of the weights": averaged,
    "transformer, 64 channels, batch 32": (
        lambda constrain: classify(constrain(trained.Transformer()), OF_GAN, 3, 16, 16)
    ),
    "the critic of three convolutions under autocast to bfloat16": critic(three_convolutions, 3, 16, 16, autocast=True),
}


# -- on a GPU ----------------------------------------------------------------------------------------------------------
BATCHES = 32, 128
WARM, TURNS = 65, 40
"""Turns that are not counted, in which CUDA kernels are loaded and steps recorded, and those that are."""


def write_gpu(out: Path | None) -> None:
    """Time a training step of ResNet-20 for images of 32x32 on a CUDA device."""
    if not torch.cuda.is_available():
        raise SystemExit("constraint-gpu needs a CUDA device that torch sees; there is none here.")
    common = facts.about("torch", "numpy") | {"clock": "wall", "threads": 1, "gpu": torch.cuda.get_device_name()}
    facts.record((common | row for batch in BATCHES for row in rows_of_batch(batch)), out)


def rows_of_batch(batch: int) -> Iterator[Row]:
    images = torch.randn(batch, 3, 32, 32, device="cuda")
    runs = {name: on_device(constrain, images) for name, constrain in EVERY_WAY.items()}
    seconds = facts.paired(runs, TURNS, warm=WARM, clock=time.perf_counter, wait=torch.cuda.synchronize)
    for name, times in seconds.items():
        yield {"section": "step", "contestant": name, "batch": batch, **facts.timing(times, seconds["plain"])}


def on_device(constrain: Constrain, images: torch.Tensor) -> Step:
    torch.manual_seed(0)
    model = constrain(trained.resnet20().to(images.device))
    optimizer = SGD(model.parameters(), 1e-2, momentum=0.9)
    return lambda: descend(optimizer, F.mse_loss(model(images), torch.zeros(1, device=images.device)))
