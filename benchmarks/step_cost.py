"""What a training step costs where weights move in every step: Adam at a constant rate, fresh data in each step.

Each case is trained without a constraint, with torch's and with ours, in turn. Times are means, so that steps with a
sweep count.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks import trained
from benchmarks.facts import Row
from benchmarks.long_loops import Transformer
from benchmarks.loops import Constrain, batches, descend
from benchmarks.ways import WAYS

Step: TypeAlias = Callable[[], None]
WINDOWS = {"first hundred": (10, 100), "after 300": (300, 360)}
"""Steps that are counted."""
CASES: dict[str, Callable[[Constrain], Step]] = {}
SLOW, FEWER = 0.05, 5
"""Of steps that take longer than so many seconds, so many times fewer are counted."""
QUICK = 20
"""Steps of a quick run, of the first case alone."""


def case(name: str) -> Callable[[Callable[[Constrain], Step]], Callable[[Constrain], Step]]:
    """Enter into the table a function that makes a step of a model, which it passes through the constraint."""

    def enter(make: Callable[[Constrain], Step]) -> Callable[[Constrain], Step]:
        CASES[name] = make
        return make

    return enter


def unchanged(model: nn.Module) -> nn.Module:
    return model


def layer_by_layer(model: nn.Module) -> nn.Module:
    """Constrain each layer with torch's parametrisation."""
    for layer in list(model.modules()):
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            WAYS["torch"](layer)
    return model


EVERY_WAY: dict[str, Constrain] = {"plain": unchanged, "torch": layer_by_layer, "default": WAYS["default"]}


def rows(quick: bool) -> Iterator[Row]:
    """Yield a row for each case, window and contestant: mean seconds of a step, and their ratio to the plain step's."""
    for name in itertools.islice(CASES, 1 if quick else None):
        for window, seconds in timed(CASES[name], QUICK if quick else None).items():
            for way, times in seconds.items():
                ratio = sum(times) / sum(seconds["plain"])
                about = {"section": "step", "case": name, "window": window, "contestant": way}
                yield {**about, "seconds": sum(times) / len(times), "steps": len(times), "over_plain": ratio}


def timed(make: Callable[[Constrain], Step], steps: int | None) -> dict[str, dict[str, list[float]]]:
    """Processor seconds of the steps of each window with each constraint, taken in turn; by default in all windows.

    Between the windows, only our constraint is trained on: the time of the others does not depend on the step.
    """
    runs: dict[str, Step] = {}
    for way, constrain in EVERY_WAY.items():
        torch.manual_seed(0)
        runs[way] = make(constrain)
    found: dict[str, dict[str, list[float]]] = {}
    trained = 0
    for window, (begin, end) in WINDOWS.items():
        if steps is not None and steps <= begin:
            break
        between = [runs["default"]] if trained else list(runs.values())
        for _, step in itertools.product(range(trained, begin), between):
            step()
        trained = begin
        seconds: dict[str, list[float]] = {way: [] for way in runs}
        least = (end - begin) // FEWER
        while trained < min(end, steps or end) and not (len(seconds["plain"]) >= least and seconds["plain"][0] > SLOW):
            for way, step in runs.items():
                started = time.process_time()
                step()
                seconds[way].append(time.process_time() - started)
            trained += 1
        found[window] = seconds
    return found


# -- cases -----------------------------------------------------------------------------------------------------------
def adam(model: nn.Module) -> Adam:
    return Adam(model.parameters(), 2e-4, betas=(0.0, 0.9))


def samples(*shape: int, size: int) -> Callable[[], Tensor]:
    """Return a function that draws new samples."""
    data = batches(*shape, size=size)
    return lambda: next(data)[0]


def as_critic(model: nn.Module, *shape: int, size: int) -> Step:
    """A step that separates samples from noise."""
    optimizer, draw = adam(model), samples(*shape, size=size)

    def step() -> None:
        real = draw()
        descend(optimizer, model(torch.randn_like(real)).mean() - model(real).mean())

    return step


def critic_of_points(width: int) -> nn.Sequential:
    layers = [nn.Linear(32, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2), nn.Linear(width, 1)]
    return nn.Sequential(*layers)


def three_convolutions() -> nn.Sequential:
    pairs = itertools.pairwise([3, 16, 32, 64])
    body = [x for a, b in pairs for x in (nn.Conv2d(a, b, 4, stride=2, padding=1), nn.LeakyReLU(0.2))]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(256, 1))


@case("MLP critic 32-256-256-1, batch 32")
def narrow(constrain: Constrain) -> Step:
    return as_critic(constrain(critic_of_points(256)), 32, size=32)


@case("MLP critic 32-1024-1024-1, batch 32")
def wide(constrain: Constrain) -> Step:
    return as_critic(constrain(critic_of_points(1024)), 32, size=32)


@case("MLP critic 32-256-256-1 and a generator, for whose step the critic is in `eval()`, batch 32")
def with_eval(constrain: Constrain) -> Step:
    critic, generator = constrain(critic_of_points(256)), nn.Linear(16, 32)
    of_critic, of_generator, draw = adam(critic), adam(generator), samples(32, size=32)

    def step() -> None:
        made = generator(torch.randn(32, 16))
        descend(of_critic, critic(made.detach()).mean() - critic(draw()).mean())
        critic.eval()
        descend(of_generator, -critic(made).mean())
        critic.train()

    return step


@case("critic of three convolutions to 64 channels, 16 pixels, batch 32")
def convolutions(constrain: Constrain) -> Step:
    return as_critic(constrain(three_convolutions()), 3, 16, 16, size=32)


class UNet(nn.Module):
    """Two scales of 16 and 32 channels with a shortcut, for images whose size it keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(32, 3, 3, padding=1)
        self.down, self.middle = nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.up = nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.into(x))
        second = F.relu(self.middle(F.relu(self.down(first))))
        result: Tensor = self.out(torch.cat([first, F.relu(self.up(second))], 1))
        return result


@case("U-Net of 16 and 32 channels that removes noise, 16 pixels, batch 8")
def unet(constrain: Constrain) -> Step:
    model = constrain(UNet())
    optimizer, draw = adam(model), samples(3, 16, 16, size=8)

    def step() -> None:
        images = draw()
        descend(optimizer, F.mse_loss(model(images + 0.5 * torch.randn_like(images)), images))

    return step


@case("DCGAN critic, 64 pixels, batch 16")
def dcgan(constrain: Constrain) -> Step:
    return as_critic(constrain(trained.critic_of_images()), 3, 64, 64, size=8)


@case("ResNet-20, 32 pixels, batch 32, SGD 0.1 with momentum 0.9")
def resnet20(constrain: Constrain) -> Step:
    model = constrain(trained.resnet20())
    return as_classifier(model, SGD(model.parameters(), 0.1, momentum=0.9), 3, 32, 32)


def as_classifier(model: nn.Module, optimizer: Any, *shape: int, after: Step = lambda: None) -> Step:
    data = batches(*shape)

    def step() -> None:
        images, labels = next(data)
        descend(optimizer, F.cross_entropy(model(images), labels))
        after()

    return step


@case("the critic of three convolutions with a gradient penalty: three passes a step")
def penalized(constrain: Constrain) -> Step:
    model = constrain(three_convolutions())
    optimizer, draw = adam(model), samples(3, 16, 16, size=32)

    def step() -> None:
        real = draw()
        false = torch.randn_like(real)
        between = (real + torch.rand(len(real), 1, 1, 1) * (false - real)).requires_grad_()
        (slope,) = torch.autograd.grad(model(between).sum(), between, create_graph=True)
        penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
        descend(optimizer, model(false).mean() - model(real).mean() + 10 * penalty)

    return step


@case("the critic of three convolutions with gradients accumulated over four batches of 8")
def accumulated(constrain: Constrain) -> Step:
    model = constrain(three_convolutions())
    optimizer, draw = adam(model), samples(3, 16, 16, size=8)

    def step() -> None:
        optimizer.zero_grad()
        for _ in range(4):
            real = draw()
            loss = (model(torch.randn_like(real)).mean() - model(real).mean()) / 4
            loss.backward()
        optimizer.step()

    return step


@case("three convolutions to 64 channels as a classifier, with an average of the weights")
def averaged(constrain: Constrain) -> Step:
    model = constrain(nn.Sequential(three_convolutions()[:-1], nn.Linear(256, 10)))
    average: Any = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))  # type: ignore[no-untyped-call]
    return as_classifier(model, adam(model), 3, 16, 16, after=lambda: average.update_parameters(model))


@case("transformer, 64 channels, batch 32")
def transformer(constrain: Constrain) -> Step:
    model = constrain(Transformer())
    return as_classifier(model, adam(model), 3, 16, 16)


@case("the critic of three convolutions under autocast to bfloat16")
def autocast(constrain: Constrain) -> Step:
    model = constrain(three_convolutions())
    optimizer, draw = adam(model), samples(3, 16, 16, size=32)

    def step() -> None:
        real = draw()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(torch.randn_like(real)).float().mean() - model(real).float().mean()
        descend(optimizer, loss)

    return step
