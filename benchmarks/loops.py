"""Training runs in torch whose layers are constrained: each a function that yields after every step.

They are small, and chosen for what differs between the trainings that users write: optimiser and rate, width, depth,
stride, groups, transposition, a layer used many times a step, precision and compiler. The data are made up: classes are
random patterns in noise, so that the layers have something to learn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, Adam, AdamW, Muon, Optimizer

from benchmarks.recorder import Recorder, Run

Constrain: TypeAlias = Callable[[nn.Module], nn.Module]
"""Constrains a layer, or replaces it."""
Steps: TypeAlias = Iterator[None]


@dataclass(frozen=True)
class Loop:
    """A training run: ``train`` builds the layers, each passed through the constraint, and yields after every step."""

    train: Callable[[Constrain], Steps]
    steps: int

    @property
    def says(self) -> str:
        """The docstring of the function, for the page."""
        return " ".join((self.train.__doc__ or "").split())


LOOPS: dict[str, Loop] = {}


def loop(name: str, steps: int = 120) -> Callable[[Callable[[Constrain], Steps]], Callable[[Constrain], Steps]]:
    """Enter a function into the table of loops."""

    def enter(train: Callable[[Constrain], Steps]) -> Callable[[Constrain], Steps]:
        LOOPS[name] = Loop(train, steps)
        return train

    return enter


def run(name: str, constrain: Constrain, seed: int, steps: int | None = None) -> Run:
    """Train, and return the weights that were used."""
    chosen = LOOPS[name]
    recorder = Recorder()

    def watched(layer: nn.Module) -> nn.Module:
        # What a constraint draws must not change the layers and data after it.
        with torch.random.fork_rng(devices=[]):
            constrained = constrain(layer)
        recorder.watch(f"{len(recorder.used)}", constrained)
        return constrained

    torch.manual_seed(seed)
    training = chosen.train(watched)
    result = Run(recorder.geometries)
    for _ in range(steps or chosen.steps):
        with recorder:
            next(training)
        result.steps.append(recorder.take_step())
    return result


# -- data and steps --------------------------------------------------------------------------------------------------
def batches(*shape: int, classes: int = 10, size: int = 32) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield noisy patterns and their classes; patterns of images are smooth."""
    generator = torch.Generator().manual_seed(torch.initial_seed())
    patterns = torch.randn(classes, *shape, generator=generator)
    for axis in range(2, patterns.ndim):
        patterns = (patterns + patterns.roll(1, axis) + patterns.roll(-1, axis)) / math.sqrt(3)
    while True:
        labels = torch.randint(classes, (size,), generator=generator)
        yield patterns[labels] + torch.randn(size, *shape, generator=generator), labels


def descend(optimizer: Optimizer, loss: Tensor, clip: float | None = None) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch's
    if clip is not None:
        clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
    optimizer.step()


def classifier(layers: Iterable[nn.Module], features: int) -> nn.Sequential:
    """Layers with ReLU after each, and a free linear layer."""
    body = [module for layer in layers for module in (layer, nn.ReLU())]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(features, 10))


def three(constrain: Constrain) -> nn.Sequential:
    """Three 3x3 convolutions of 16 channels, the last with stride 2, for 3x16x16."""
    layers = [
        nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, stride=2, padding=1),
    ]  # fmt: skip
    return classifier(map(constrain, layers), 16 * 64)


def train_classifier(model: Callable[[Tensor], Tensor], optimizer: Optimizer, *shape: int) -> Steps:
    for images, labels in batches(*shape):
        descend(optimizer, F.cross_entropy(model(images), labels))
        yield


# -- classifiers -----------------------------------------------------------------------------------------------------
@loop("denoiser of the first page")
def first_page(constrain: Constrain) -> Steps:
    """3 -> 8 -> 3 channels, 3x3, trained to remove noise from images; Adam 1e-3."""
    layers = constrain(nn.Conv2d(3, 8, 3, padding=1)), constrain(nn.Conv2d(8, 3, 3, padding=1))
    model = nn.Sequential(layers[0], nn.ReLU(), layers[1])
    optimizer = Adam(model.parameters(), 1e-3)
    for images, _ in batches(3, 16, 16):
        noisy = images + 0.5 * torch.randn_like(images)
        descend(optimizer, F.mse_loss(model(noisy), images))
        yield


@loop("one convolution")
def one_convolution(constrain: Constrain) -> Steps:
    """3 -> 32 channels, 5x5, and a linear layer; Adam 1e-2."""
    model = classifier([constrain(nn.Conv2d(3, 32, 5, stride=2, padding=2))], 32 * 64)
    yield from train_classifier(model, Adam(model.parameters(), 1e-2), 3, 16, 16)


@loop("three convolutions, Adam")
def three_adam(constrain: Constrain) -> Steps:
    """3 -> 16 -> 16 -> 16 channels, 3x3, the last with stride 2; Adam 1e-3."""
    model = three(constrain)
    yield from train_classifier(model, Adam(model.parameters(), 1e-3), 3, 16, 16)


@loop("three convolutions, SGD")
def three_sgd(constrain: Constrain) -> Steps:
    """The same layers; SGD 0.1 with momentum 0.9."""
    model = three(constrain)
    yield from train_classifier(model, SGD(model.parameters(), 0.1, momentum=0.9), 3, 16, 16)


@loop("three convolutions, compiled")
def three_compiled(constrain: Constrain) -> Steps:
    """The same layers under `torch.compile`; Adam 1e-3."""
    model = three(constrain)
    yield from train_classifier(torch.compile(model), Adam(model.parameters(), 1e-3), 3, 16, 16)


@loop("three convolutions, bfloat16")
def three_bfloat16(constrain: Constrain) -> Steps:
    """The same layers under autocast to bfloat16; AdamW 1e-2 with weight decay 0.05."""
    model = three(constrain)
    optimizer = AdamW(model.parameters(), 1e-2, weight_decay=0.05)
    for images, labels in batches(3, 16, 16):
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(images).float(), labels)
        descend(optimizer, loss)
        yield


@loop("six convolutions")
def six(constrain: Constrain) -> Steps:
    """Six 3x3 convolutions of 32 channels with batch normalisation; SGD 0.1 with momentum 0.9, gradients clipped to
    norm 1."""
    body: list[nn.Module] = []
    for j in range(6):
        layer = nn.Conv2d(32 if j else 3, 32, 3, stride=2 if j in (1, 3) else 1, padding=1)
        body += [constrain(layer), nn.BatchNorm2d(32), nn.ReLU()]
    model = nn.Sequential(*body, nn.Flatten(), nn.Linear(32 * 16, 10))
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    for images, labels in batches(3, 16, 16):
        descend(optimizer, F.cross_entropy(model(images), labels), clip=1.0)
        yield


@loop("depthwise")
def depthwise(constrain: Constrain) -> Steps:
    """Two blocks of a depthwise 3x3 and a pointwise convolution, 32 channels; AdamW 2e-3 with weight decay 0.1."""
    layers = [nn.Conv2d(3, 32, 3, stride=2, padding=1)]
    for _ in range(2):
        layers += [nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.Conv2d(32, 32, 1)]
    model = classifier(map(constrain, layers), 32 * 64)
    yield from train_classifier(model, AdamW(model.parameters(), 2e-3, weight_decay=0.1), 3, 16, 16)


def wide_model(constrain: Constrain) -> nn.Sequential:
    layers = [
        nn.Conv2d(3, 64, 3, stride=2, padding=1), nn.Conv2d(64, 128, 3, stride=2, padding=1),
        nn.Conv2d(128, 128, 3, padding=1),
    ]  # fmt: skip
    return classifier(map(constrain, layers), 128 * 16)


@loop("wide", steps=80)
def wide(constrain: Constrain) -> Steps:
    """3 -> 64 -> 128 -> 128 channels, 3x3, strides 2, 2, 1, on images of 16x16; Adam 1e-3."""
    model = wide_model(constrain)
    yield from train_classifier(model, Adam(model.parameters(), 1e-3), 3, 16, 16)


@loop("wide, compiled", steps=80)
def wide_compiled(constrain: Constrain) -> Steps:
    """The same layers under `torch.compile`; Adam 1e-3."""
    model = wide_model(constrain)
    yield from train_classifier(torch.compile(model), Adam(model.parameters(), 1e-3), 3, 16, 16)


@loop("perceptron")
def perceptron(constrain: Constrain) -> Steps:
    """Linear layers 192 -> 256 -> 128 -> 128; Adam 1e-3."""
    layers = [nn.Linear(192, 256), nn.Linear(256, 128), nn.Linear(128, 128)]
    model = classifier(map(constrain, layers), 128)
    yield from train_classifier(model, Adam(model.parameters(), 1e-3), 192)


@loop("perceptron, Muon")
def perceptron_muon(constrain: Constrain) -> Steps:
    """Linear layers 768 -> 256 -> 256 -> 10; Muon 0.02, whose updates press many singular values to the largest."""
    layers = [constrain(nn.Linear(a, b)) for a, b in ((768, 256), (256, 256), (256, 10))]
    model = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    optimizer = Muon([x for x in model.parameters() if x.ndim == 2], 0.02)
    for inputs, labels in batches(768, size=64):
        descend(optimizer, F.cross_entropy(10 * model(inputs), labels))
        yield


@loop("reinitialized")
@torch.no_grad()
def reinitialized(constrain: Constrain) -> Steps:
    """Convolutions 3 -> 16 -> 16 and a linear layer of 64 outputs; Adam 1e-3. After every 30th step a convolution, or a
    part of the linear layer, is reinitialized."""
    layers = [constrain(nn.Conv2d(3, 16, 3, padding=1)), constrain(nn.Conv2d(16, 16, 3, stride=2, padding=1))]
    linear = constrain(nn.Linear(16 * 64, 64))
    body = [nn.Sequential(layer, nn.ReLU()) for layer in layers]
    model = nn.Sequential(*body, nn.Flatten(), linear, nn.ReLU(), nn.Linear(64, 10))
    optimizer = Adam(model.parameters(), 1e-3)
    for step, (images, labels) in enumerate(batches(3, 16, 16), start=1):
        with torch.enable_grad():
            descend(optimizer, F.cross_entropy(model(images), labels))
        if step % 30 == 0:
            layer = (layers[1], linear)[step // 30 % 2]
            weight = next(x for x in layer.parameters() if x.ndim > 1)
            part = weight if layer is layers[1] else weight[:8]
            part.copy_(part.std() * torch.randn_like(part))
        yield


@loop("signals")
def signals(constrain: Constrain) -> Steps:
    """1-D: 4 -> 16 -> 32 -> 32 channels, 9 taps, dilations 1, 2, 4; Adam 3e-3."""
    layers = [nn.Conv1d(4, 16, 9, dilation=1), nn.Conv1d(16, 32, 9, dilation=2), nn.Conv1d(32, 32, 9, dilation=4)]
    model = classifier(map(constrain, layers), 32 * 8)
    yield from train_classifier(model, Adam(model.parameters(), 3e-3), 4, 64)


@loop("volumes")
def volumes(constrain: Constrain) -> Steps:
    """3-D: 2 -> 8 channels, 3x3x3, and a linear layer; AdamW 5e-3."""
    model = classifier([constrain(nn.Conv3d(2, 8, 3))], 8 * 64)
    yield from train_classifier(model, AdamW(model.parameters(), 5e-3), 2, 6, 6, 6)


@loop("embedding")
def embedding(constrain: Constrain) -> Steps:
    """200 words as vectors of 32 entries, of which a linear layer sees the mean of 12; Adam 1e-2."""
    words, out = constrain(nn.Embedding(200, 32)), nn.Linear(32, 10)
    optimizer = Adam([*words.parameters(), *out.parameters()], 1e-2)
    generator = torch.Generator().manual_seed(torch.initial_seed())
    while True:
        labels = torch.randint(10, (32,), generator=generator)
        chosen = (torch.randint(40, (32, 12), generator=generator) + 16 * labels[:, None]) % 200
        descend(optimizer, F.cross_entropy(out(words(chosen).mean(1)), labels))
        yield


@loop("recurrent", steps=100)
def recurrent(constrain: Constrain) -> Steps:
    """A state of 16 channels, updated ten times a step by the same 3x3 convolution; Adam 1e-3, gradients clipped to
    norm 1."""
    into, state = nn.Conv2d(3, 16, 3, padding=1), constrain(nn.Conv2d(16, 16, 3, padding=1))
    out = nn.Linear(16 * 64, 10)
    optimizer = Adam([*into.parameters(), *state.parameters(), *out.parameters()], 1e-3)
    for images, labels in batches(3, 8, 8, size=16):
        x = into(images)
        h = torch.zeros_like(x)
        for _ in range(10):
            h = torch.relu(state(h) + x)
        descend(optimizer, F.cross_entropy(out(h.flatten(1)), labels), clip=1.0)
        yield


# -- critics and generators ------------------------------------------------------------------------------------------
@loop("critic, SGD", steps=80)
def critic_sgd(constrain: Constrain) -> Steps:
    """3 -> 8 -> 1 channels, 3x3, whose mean is lowered without limit; SGD 0.1."""
    layers = constrain(nn.Conv2d(3, 8, 3)), constrain(nn.Conv2d(8, 1, 3))
    model = nn.Sequential(layers[0], nn.ReLU(), layers[1])
    optimizer = SGD(model.parameters(), 0.1)
    while True:
        descend(optimizer, model(torch.randn(4, 3, 8, 8)).mean())
        yield


def dcgan_critic(constrain: Constrain) -> nn.Sequential:
    """16 to 64 channels, 4x4, strides of 2, and a last layer of 64 to 1, for 3x16x16."""
    layers = [
        nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.Conv2d(32, 64, 4, stride=2, padding=1),
    ]  # fmt: skip
    body = [module for layer in layers for module in (constrain(layer), nn.LeakyReLU(0.1))]
    return nn.Sequential(*body, constrain(nn.Conv2d(64, 1, 4)))


@loop("GAN", steps=80)
def gan(constrain: Constrain) -> Steps:
    """Critic 3 -> 16 -> 32 -> 64 -> 1 with strided 4x4 layers, generator with transposed ones, both constrained; hinge
    loss, Adam 2e-4 with betas 0 and 0.9."""
    critic = dcgan_critic(constrain)
    up = constrain(nn.ConvTranspose2d(32, 32, 4, stride=2, padding=1))
    last = constrain(nn.ConvTranspose2d(32, 3, 4, stride=2, padding=1))
    generator = nn.Sequential(
        nn.Linear(16, 32 * 16), nn.Unflatten(1, (32, 4, 4)), nn.BatchNorm2d(32), nn.ReLU(),
        up, nn.BatchNorm2d(32), nn.ReLU(), last, nn.Tanh(),
    )  # fmt: skip
    of_critic, of_generator = (Adam(model.parameters(), 2e-4, betas=(0.0, 0.9)) for model in (critic, generator))
    for images, _ in batches(3, 16, 16, size=16):
        made = generator(torch.randn(16, 16))
        real, false = critic(images.tanh()), critic(made.detach())
        descend(of_critic, F.relu(1 - real).mean() + F.relu(1 + false).mean())
        descend(of_generator, -critic(made).mean())
        yield


@loop("Wasserstein critic", steps=80)
def wasserstein(constrain: Constrain) -> Steps:
    """The same critic alone, telling images from noise without limit; Adam 1e-3 with betas 0.5 and 0.9."""
    critic = dcgan_critic(constrain)
    optimizer = Adam(critic.parameters(), 1e-3, betas=(0.5, 0.9))
    for images, _ in batches(3, 16, 16, size=16):
        descend(optimizer, critic(torch.randn_like(images)).mean() - critic(images).mean())
        yield
