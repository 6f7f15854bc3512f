"""Training runs in torch whose layers are constrained: each makes a step, a function that is called again and again.

They are small, and chosen for what differs between the trainings that users write: optimiser and rate, width, depth,
stride, groups, transposition, a layer used many times a step, precision and compiler. The data are made up: classes are
random patterns in noise, so that the layers have something to learn.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, Adam, AdamW, Muon, Optimizer

from benchmarks.recorder import Recorder, Used
from benchmarks.trained import Transformer, conv, resnet20
from benchmarks.ways import Constrain, each_layer

Step: TypeAlias = Callable[[], None]
Optimize: TypeAlias = Callable[[Any], Optimizer]
"""Makes the optimizer of parameters."""


class Loop(NamedTuple):
    """A training run: ``make`` builds the layers, each passed through the constraint, and returns a step."""

    make: Callable[[Constrain], Step]
    says: str
    steps: int = 120


def run(make: Callable[[Constrain], Step], constrain: Constrain, seed: int) -> Iterator[list[Used]]:
    """Train, and yield the weights that each step used."""
    recorder = Recorder()

    def watched(layer: nn.Module) -> nn.Module:
        # What a constraint draws must not change the layers and data after it.
        with torch.random.fork_rng(devices=[]):
            constrained = constrain(layer)
        recorder.watch(constrained)
        return constrained

    torch.manual_seed(seed)
    step = make(watched)
    while True:
        with recorder:
            step()
        yield recorder.take_step()


# -- data and steps --------------------------------------------------------------------------------------------------
def batches(*shape: int, size: int = 32) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield ten patterns in noise, and their numbers; patterns of images are smooth."""
    generator = torch.Generator().manual_seed(torch.initial_seed())
    patterns = torch.randn(10, *shape, generator=generator)
    for axis in range(2, patterns.ndim):
        patterns = (patterns + patterns.roll(1, axis) + patterns.roll(-1, axis)) / math.sqrt(3)
    while True:
        labels = torch.randint(10, (size,), generator=generator)
        yield patterns[labels] + torch.randn(size, *shape, generator=generator), labels


def samples(*shape: int, size: int = 32) -> Callable[[], Tensor]:
    """Return a function that draws new samples."""
    data = batches(*shape, size=size)
    return lambda: next(data)[0]


def descend(optimizer: Optimizer, loss: Tensor, clip: float | None = None) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch's
    if clip is not None:
        clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
    optimizer.step()


def classify(
    model: Any, optimize: Optimize, *shape: int, size: int = 32, clip: float | None = None, autocast: bool = False,
    logits: float = 1.0, after: Step = lambda: None,
) -> Step:  # fmt: skip
    """Return a step that tells patterns from each other; ``logits`` is a factor of the logits."""
    optimizer, data = optimize(model.parameters()), batches(*shape, size=size)

    def step() -> None:
        images, labels = next(data)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = model(images)
        descend(optimizer, F.cross_entropy(logits * out.float(), labels), clip)
        after()

    return step


def separate(critic: nn.Module, optimize: Optimize, *shape: int, size: int = 32, autocast: bool = False) -> Step:
    """Return a step that separates samples from noise, without limit."""
    optimizer, draw = optimize(critic.parameters()), samples(*shape, size=size)

    def step() -> None:
        real = draw()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            difference = critic(torch.randn_like(real)).float().mean() - critic(real).float().mean()
        descend(optimizer, difference)

    return step


def denoise(model: nn.Module, optimize: Optimize, size: int = 32) -> Step:
    """Return a step that removes noise from images of 16x16."""
    optimizer, draw = optimize(model.parameters()), samples(3, 16, 16, size=size)

    def step() -> None:
        images = draw()
        descend(optimizer, F.mse_loss(model(images + 0.5 * torch.randn_like(images)), images))

    return step


def adam(rate: float, **options: Any) -> Optimize:
    return partial(Adam, lr=rate, **options)


def muon(rate: float) -> Optimize:
    return lambda params: Muon([x for x in params if x.ndim == 2], rate)


MOMENTUM: Optimize = partial(SGD, lr=0.1, momentum=0.9)


# -- models ------------------------------------------------------------------------------------------------------------
def chain(
    constrain: Constrain, layers: Iterable[nn.Module], activation: Callable[[], nn.Module] = nn.ReLU
) -> nn.Sequential:
    """Constrained layers with an activation between."""
    body = [module for layer in layers for module in (constrain(layer), activation())]
    return nn.Sequential(*body[:-1])


def classifier(constrain: Constrain, features: int, layers: Iterable[nn.Module]) -> nn.Sequential:
    """Constrained layers with ReLU after each, and a free linear layer."""
    return nn.Sequential(*chain(constrain, layers), nn.ReLU(), nn.Flatten(), nn.Linear(features, 10))


def three(constrain: Constrain) -> nn.Sequential:
    """Three 3x3 convolutions of 16 channels, the last with stride 2, for 3x16x16."""
    return classifier(constrain, 1024, [conv(3, 16), conv(16, 16), conv(16, 16, stride=2)])


def wide(constrain: Constrain) -> nn.Sequential:
    return classifier(constrain, 2048, [conv(3, 64, stride=2), conv(64, 128, stride=2), conv(128, 128)])


def six(constrain: Constrain) -> nn.Sequential:
    body: list[nn.Module] = []
    for j in range(6):
        layer = conv(32 if j else 3, 32, stride=2 if j in (1, 3) else 1)
        body += [constrain(layer), nn.BatchNorm2d(32), nn.ReLU()]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(32 * 16, 10))


class Residual(nn.Module):
    """Two 3x3 convolutions of 16 channels beside the identity."""

    def __init__(self, constrain: Constrain) -> None:
        super().__init__()
        self.first, self.second = constrain(conv(16, 16)), constrain(conv(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.second(torch.relu(self.first(x))))


def residual(constrain: Constrain) -> nn.Sequential:
    """A convolution, four residual blocks of 16 channels, and a free linear layer of the mean over the pixels."""
    body: list[nn.Module] = [constrain(conv(3, 16)), *(Residual(constrain) for _ in range(4))]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def strided(constrain: Constrain) -> nn.Sequential:
    layers = [conv(3, 16), conv(16, 32, stride=2), conv(32, 32, stride=2), conv(32, 128, stride=2)]
    return classifier(constrain, 512, layers)


def depthwise(constrain: Constrain) -> nn.Sequential:
    layers = [conv(3, 32, stride=2)]
    for _ in range(2):
        layers += [conv(32, 32, groups=32), conv(32, 32, 1)]
    return classifier(constrain, 2048, layers)


def perceptron(constrain: Constrain, *widths: int, **options: Any) -> nn.Sequential:
    """Constrained linear layers with ReLU between, or another activation."""
    return chain(constrain, itertools.starmap(nn.Linear, itertools.pairwise(widths)), **options)


def dcgan_critic(constrain: Constrain) -> nn.Sequential:
    """16 to 64 channels, 4x4, strides of 2, and a last layer of 64 to 1, for 3x16x16."""
    layers = [conv(3, 16), conv(16, 32, 4, stride=2), conv(32, 64, 4, stride=2), nn.Conv2d(64, 1, 4)]
    return chain(constrain, layers, partial(nn.LeakyReLU, 0.1))


# -- further steps -----------------------------------------------------------------------------------------------------
def denoiser(constrain: Constrain) -> Step:
    return denoise(chain(constrain, [conv(3, 8), conv(8, 3)]), adam(1e-3))


def reinitialized(constrain: Constrain) -> Step:
    convolutions = chain(constrain, [conv(3, 16), conv(16, 16, stride=2)])
    linear = constrain(nn.Linear(16 * 64, 64))
    model = nn.Sequential(*convolutions, nn.ReLU(), nn.Flatten(), linear, nn.ReLU(), nn.Linear(64, 10))
    steps = itertools.count(1)

    @torch.no_grad()
    def after() -> None:
        step = next(steps)
        if step % 30 == 0:
            layer = linear if step // 30 % 2 else convolutions[-1]
            weight = next(x for x in layer.parameters() if x.ndim > 1)
            part = weight[:8] if layer is linear else weight
            part.copy_(part.std() * torch.randn_like(part))

    return classify(model, adam(1e-3), 3, 16, 16, after=after)


def embedding(constrain: Constrain) -> Step:
    words, out = constrain(nn.Embedding(200, 32)), nn.Linear(32, 10)
    optimizer = Adam([*words.parameters(), *out.parameters()], 1e-2)
    generator = torch.Generator().manual_seed(torch.initial_seed())

    def step() -> None:
        labels = torch.randint(10, (32,), generator=generator)
        chosen = (torch.randint(40, (32, 12), generator=generator) + 16 * labels[:, None]) % 200
        descend(optimizer, F.cross_entropy(out(words(chosen).mean(1)), labels))

    return step


class Recurrent(nn.Module):
    """A state that the same convolution updates ten times."""

    def __init__(self, constrain: Constrain) -> None:
        super().__init__()
        self.into, self.state = conv(3, 16), constrain(conv(16, 16))
        self.out = nn.Linear(16 * 64, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.into(images)
        state = torch.zeros_like(x)
        for _ in range(10):
            state = torch.relu(self.state(state) + x)
        result: Tensor = self.out(state.flatten(1))
        return result


def lowered(constrain: Constrain) -> Step:
    model = chain(constrain, [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 1, 3)])
    optimizer = SGD(model.parameters(), 0.1)
    return lambda: descend(optimizer, model(torch.randn(4, 3, 8, 8)).mean())


def adversarial(
    constrain: Constrain, of_generator: Constrain, optimize: tuple[Optimize, Optimize], every: int = 1
) -> Step:
    """Return a step of a critic by the hinge loss, and of a generator in each so many steps."""
    critic = dcgan_critic(constrain)
    up = of_generator(nn.ConvTranspose2d(32, 32, 4, stride=2, padding=1))
    last = of_generator(nn.ConvTranspose2d(32, 3, 4, stride=2, padding=1))
    generator = nn.Sequential(
        nn.Linear(16, 32 * 16), nn.Unflatten(1, (32, 4, 4)), nn.BatchNorm2d(32), nn.ReLU(),
        up, nn.BatchNorm2d(32), nn.ReLU(), last, nn.Tanh(),
    )  # fmt: skip
    first, second = (make(model.parameters()) for make, model in zip(optimize, (critic, generator), strict=True))
    draw, steps = samples(3, 16, 16, size=16), itertools.count(1)

    def step() -> None:
        images = draw().tanh()
        made = generator(torch.randn(16, 16))
        descend(first, F.relu(1 - critic(images)).mean() + F.relu(1 + critic(made.detach())).mean())
        if next(steps) % every == 0:
            descend(second, -critic(made).mean())

    return step


# -- the loops ---------------------------------------------------------------------------------------------------------
IMAGES = 3, 16, 16
OF_GAN = adam(2e-4, betas=(0.0, 0.9))
LOOPS: dict[str, Loop] = {
    "denoiser of the first page": Loop(denoiser, "3 -> 8 -> 3 channels, 3x3, removes noise from images; Adam 1e-3."),
    "one convolution": Loop(
        lambda c: classify(classifier(c, 2048, [conv(3, 32, 5, stride=2)]), adam(1e-2), *IMAGES),
        "3 -> 32 channels, 5x5, and a linear layer; Adam 1e-2.",
    ),
    "three convolutions, Adam": Loop(
        lambda c: classify(three(c), adam(1e-3), *IMAGES),
        "3 -> 16 -> 16 -> 16 channels, 3x3, the last with stride 2; Adam 1e-3.",
    ),
    "three convolutions, SGD": Loop(
        lambda c: classify(three(c), MOMENTUM, *IMAGES), "The same layers; SGD 0.1 with momentum 0.9."
    ),
    "three convolutions, compiled": Loop(
        lambda c: classify(torch.compile(three(c)), adam(1e-3), *IMAGES),
        "The same layers under `torch.compile`; Adam 1e-3.",
    ),
    "three convolutions, bfloat16": Loop(
        lambda c: classify(three(c), partial(AdamW, lr=1e-2, weight_decay=0.05), *IMAGES, autocast=True),
        "The same layers under autocast to bfloat16; AdamW 1e-2 with weight decay 0.05.",
    ),
    "residual, logits times 10": Loop(
        lambda c: classify(residual(c), adam(2e-3), *IMAGES, logits=10),
        "A convolution and four residual blocks of 16 channels, 3x3, whose logits are multiplied by 10; Adam 2e-3.",
    ),
    "four convolutions, strided": Loop(
        lambda c: classify(strided(c), adam(2e-3), *IMAGES),
        "3 -> 16 -> 32 -> 32 -> 128 channels, 3x3, all but the first with stride 2; Adam 2e-3.",
    ),
    "six convolutions": Loop(
        lambda c: classify(six(c), MOMENTUM, *IMAGES, clip=1.0),
        "Six 3x3 convolutions of 32 channels with batch normalisation; SGD 0.1 with momentum 0.9, gradients clipped to "
        "norm 1.",
    ),
    "depthwise": Loop(
        lambda c: classify(depthwise(c), partial(AdamW, lr=2e-3, weight_decay=0.1), *IMAGES),
        "Two blocks of a depthwise 3x3 and a pointwise convolution, 32 channels; AdamW 2e-3 with weight decay 0.1.",
    ),
    "wide": Loop(
        lambda c: classify(wide(c), adam(1e-3), *IMAGES),
        "3 -> 64 -> 128 -> 128 channels, 3x3, strides 2, 2, 1, on images of 16x16; Adam 1e-3.", 80,
    ),
    "wide, compiled": Loop(
        lambda c: classify(torch.compile(wide(c)), adam(1e-3), *IMAGES),
        "The same layers under `torch.compile`; Adam 1e-3.", 80,
    ),
    "perceptron": Loop(
        lambda c: classify(
            classifier(c, 128, [nn.Linear(192, 256), nn.Linear(256, 128), nn.Linear(128, 128)]), adam(1e-3), 192
        ),
        "Linear layers 192 -> 256 -> 128 -> 128; Adam 1e-3.",
    ),
    "perceptron, Muon": Loop(
        lambda c: classify(perceptron(c, 768, 256, 256, 10), muon(0.02), 768, size=64, logits=10),
        "Linear layers 768 -> 256 -> 256 -> 10; Muon 0.02, whose updates press many singular values to the largest.",
    ),
    "reinitialized": Loop(
        reinitialized,
        "Convolutions 3 -> 16 -> 16 and a linear layer of 64 outputs; Adam 1e-3. After every 30th step a convolution, "
        "or a part of the linear layer, is reinitialized.",
    ),
    "signals": Loop(
        lambda c: classify(classifier(c, 256, [
            nn.Conv1d(4, 16, 9), nn.Conv1d(16, 32, 9, dilation=2), nn.Conv1d(32, 32, 9, dilation=4)
        ]), adam(3e-3), 4, 64),
        "1-D: 4 -> 16 -> 32 -> 32 channels, 9 taps, dilations 1, 2, 4; Adam 3e-3.",
    ),
    "volumes": Loop(
        lambda c: classify(classifier(c, 512, [nn.Conv3d(2, 8, 3)]), partial(AdamW, lr=5e-3), 2, 6, 6, 6),
        "3-D: 2 -> 8 channels, 3x3x3, and a linear layer; AdamW 5e-3.",
    ),
    "embedding": Loop(
        embedding, "200 words as vectors of 32 entries, of which a linear layer sees the mean of 12; Adam 1e-2."
    ),
    "recurrent": Loop(
        lambda c: classify(Recurrent(c), adam(1e-3), 3, 8, 8, size=16, clip=1.0),
        "A state of 16 channels, updated ten times a step by the same 3x3 convolution; Adam 1e-3, gradients clipped to "
        "norm 1.", 100,
    ),
    "critic, SGD": Loop(lowered, "3 -> 8 -> 1 channels, 3x3, whose mean is lowered without limit; SGD 0.1.", 80),
    "GAN": Loop(
        lambda c: adversarial(c, c, (OF_GAN, OF_GAN)),
        "Critic 3 -> 16 -> 32 -> 64 -> 1 with strided 4x4 layers, generator with transposed ones, both constrained; "
        "hinge loss, Adam 2e-4 with betas 0 and 0.9.", 80,
    ),
    "Wasserstein critic": Loop(
        lambda c: separate(dcgan_critic(c), adam(1e-3, betas=(0.5, 0.9)), *IMAGES, size=16),
        "The same critic alone, telling images from noise without limit; Adam 1e-3 with betas 0.5 and 0.9.", 80,
    ),
}  # fmt: skip

# -- long loops --------------------------------------------------------------------------------------------------------
LONG = 2000
"""Steps of a long loop."""


def decayed(optimize: Optimize, steps: int = LONG) -> Optimize:
    """Return what makes the optimizer with a rate that decays to zero along a half cosine."""

    def make(params: Any) -> Optimizer:
        optimizer = optimize(params)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: (1 + math.cos(math.pi * n / steps)) / 2)
        optimizer.register_step_post_hook(lambda *_: schedule.step())
        return optimizer

    return make


def unchanged(model: nn.Module) -> nn.Module:
    return model


LONG_LOOPS: dict[str, Callable[[float], Loop]] = {
    "ResNet-20": lambda factor: Loop(
        lambda c: classify(each_layer(resnet20(), c), decayed(
            partial(SGD, lr=0.1 * factor, momentum=0.9, weight_decay=5e-4)
        ), 3, 8, 8),
        "ResNet-20 on images of 8x8, every convolution constrained; SGD 0.1 with momentum 0.9, weight decay 5e-4.",
    ),
    "DCGAN": lambda factor: Loop(
        lambda c: adversarial(c, unchanged, (
            decayed(adam(2e-4 * factor, betas=(0.0, 0.9))), decayed(adam(2e-4 * factor, betas=(0.0, 0.9)), LONG // 5)
        ), 5),
        'The DCGAN of the loop "GAN", its critic stepped five times for one step of the generator; Adam 2e-4 with '
        "betas 0 and 0.9.",
    ),
    "transformer": lambda factor: Loop(
        lambda c: classify(each_layer(Transformer(), c), decayed(
            partial(AdamW, lr=1e-3 * factor, weight_decay=0.05)
        ), *IMAGES),
        "A stem of two convolutions and a block of attention, 64 channels, every layer constrained; AdamW 1e-3 with "
        "weight decay 0.05.",
    ),
    "perceptron, Muon": lambda factor: Loop(
        lambda c: classify(perceptron(c, 192, 64, 64, 10), decayed(muon(0.02 * factor)), 192),
        "Linear layers 192 -> 64 -> 64 -> 10; Muon 0.02.",
    ),
}  # fmt: skip
"""Loops by the factor of their usual rate."""
