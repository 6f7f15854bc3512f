"""Does the constraint hold in long runs? Four trainings of 2,000 steps, at a usual rate and at ten times that rate.

The rate decays to zero along a half cosine. Every weight of the first 100 steps is enclosed, and of every fifth step
after them.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from specnorm_torch import spectral_norm
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, Muon, Optimizer

from benchmarks import facts
from benchmarks.facts import Row
from benchmarks.loops import Constrain, Steps, batches, dcgan_critic, descend
from benchmarks.recorder import LIMITS, Recorder, Run, norms
from benchmarks.trained import resnet20

STEPS = 2000
FACTORS = 1, 10
"""Multiples of the usual rate."""
_EVERY_STEP_UNTIL, _EVERY = 100, 5
"""Steps whose weights are all enclosed, and of how many later ones one is."""


# -- trainings -------------------------------------------------------------------------------------------------------
def decayed(optimizer: Optimizer) -> Iterator[None]:
    """Set the rate before each step."""
    first = [group["lr"] for group in optimizer.param_groups]
    for step in itertools.count():
        for group, rate in zip(optimizer.param_groups, first, strict=True):
            group["lr"] = rate * (1 + math.cos(math.pi * min(step / STEPS, 1))) / 2
        yield


def residual_network(constrain: Constrain, factor: float) -> Steps:
    """ResNet-20 on images of 8x8, every convolution constrained; SGD 0.1 with momentum 0.9, weight decay 5e-4."""
    model = constrained(resnet20(), constrain)
    optimizer = SGD(model.parameters(), 0.1 * factor, momentum=0.9, weight_decay=5e-4)
    yield from classify(model, optimizer, 3, 8, 8)


def adversarial_networks(constrain: Constrain, factor: float) -> Steps:
    """The DCGAN of the loop "GAN", its critic stepped five times for one step of the generator; Adam 2e-4 with betas 0
    and 0.9."""
    critic = dcgan_critic(constrain)
    generator = nn.Sequential(
        nn.Linear(16, 32 * 16), nn.Unflatten(1, (32, 4, 4)), nn.BatchNorm2d(32), nn.ReLU(),
        nn.ConvTranspose2d(32, 32, 4, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.ConvTranspose2d(32, 3, 4, stride=2, padding=1), nn.Tanh(),
    )  # fmt: skip
    of_critic, of_generator = (
        Adam(model.parameters(), 2e-4 * factor, betas=(0.0, 0.9)) for model in (critic, generator)
    )
    rates = zip(decayed(of_critic), decayed(of_generator), strict=True)
    for step, ((images, _), _) in enumerate(zip(batches(3, 16, 16, size=16), rates, strict=False), start=1):
        made = generator(torch.randn(16, 16))
        descend(of_critic, F.relu(1 - critic(images.tanh())).mean() + F.relu(1 + critic(made.detach())).mean())
        if step % 5 == 0:
            descend(of_generator, -critic(made).mean())
        yield


class Attention(nn.Module):
    """Attention of four heads over (batch, tokens, channels), whose four maps are linear layers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(channels, channels) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        heads = [layer(x).unflatten(-1, (4, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)]
        attended: Tensor = F.scaled_dot_product_attention(*heads)
        result: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return result


class Transformer(nn.Module):
    """A stem of two strided convolutions, and one block of attention and a perceptron, for 3x16x16."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(64) for _ in range(2))
        self.attention = Attention(64)
        self.perceptron = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(self.norms[0](tokens))
        tokens = tokens + self.perceptron(self.norms[1](tokens))
        result: Tensor = self.head(tokens.mean(1))
        return result


def transformer(constrain: Constrain, factor: float) -> Steps:
    """A stem of two convolutions and a block of attention, 64 channels, every layer constrained; AdamW 1e-3 with weight
    decay 0.05."""
    model = constrained(Transformer(), constrain)
    yield from classify(model, AdamW(model.parameters(), 1e-3 * factor, weight_decay=0.05), 3, 16, 16)


def perceptron(constrain: Constrain, factor: float) -> Steps:
    """Linear layers 192 -> 64 -> 64 -> 10; Muon 0.02."""
    layers = [nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)]
    model = constrained(nn.Sequential(*layers), constrain)
    yield from classify(model, Muon([x for x in model.parameters() if x.ndim == 2], 0.02 * factor), 192)


def constrained(model: nn.Module, constrain: Constrain) -> nn.Module:
    """Constrain every convolution and linear layer."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            constrain(layer)
    return model


def classify(model: nn.Module, optimizer: Optimizer, *shape: int) -> Steps:
    for (inputs, labels), _ in zip(batches(*shape), decayed(optimizer), strict=False):
        descend(optimizer, F.cross_entropy(model(inputs), labels))
        yield


TRAININGS = {
    "ResNet-20": residual_network,
    "DCGAN": adversarial_networks,
    "transformer": transformer,
    "perceptron, Muon": perceptron,
}


# -- measuring -------------------------------------------------------------------------------------------------------
def measured(name: str, factor: int, steps: int) -> Row:
    """Train, and tell how large the weights in use were."""
    torch.manual_seed(0)
    recorder = Recorder()

    def watched(layer: nn.Module) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            spectral_norm(layer)
        recorder.watch(f"{len(recorder.used)}", layer)
        return layer

    training = TRAININGS[name](watched, factor)
    largest = []
    for step in range(steps):
        with recorder:
            next(training)
        used = recorder.take_step()
        if step < _EVERY_STEP_UNTIL or step % _EVERY == 0:
            (found,) = norms(Run(recorder.geometries, [used]))
            largest.append(max(norm.upper for values in found.values() for norm in values))
    above = {f"above_{limit}_upper": sum(value > limit for value in largest) / len(largest) for limit in LIMITS}
    return {"steps": steps, "enclosed_steps": len(largest), "worst_upper": max(largest), **above}


def write(out: Path | None) -> None:
    """Print a line of JSON for each run, and write all of them to a file."""
    torch.set_num_threads(1)
    rows = []
    for factor, name in itertools.product(FACTORS, TRAININGS):
        says = " ".join((TRAININGS[name].__doc__ or "").split())
        common = {**facts.about("torch", "numpy"), "threads": 1, "loop": name, "trains": says, "method": "default"}
        rows.append({**common, "factor": factor, **measured(name, factor, STEPS)})
        print(json.dumps(rows[-1]), flush=True)
    if out:
        facts.write(out, rows)
