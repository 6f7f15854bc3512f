"""Does training inside the ball work? Classifiers of digits and a denoiser, by each way to bound the layers' norms.

Data: the digits and the photographs that scikit-learn ships. Networks have 16 channels. Certified accuracy is that by
the product of proven upper bounds of the layers. Each way trains with the best of its rates, chosen by the first seed.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from specnorm_torch import MuonConv, SpectralBall, geometry_of, spectral_norm
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

import specnorm
from benchmarks import facts
from benchmarks.facts import Row
from benchmarks.loops import descend, unchanged
from benchmarks.trained import conv
from benchmarks.ways import Constrain

CHANNELS = 16
BATCH = 64
EPOCHS = 6
RADII = 0.1, 0.25
ALL_RADII = 0.1, 0.25, 0.5, 1.0
LOGIT_FACTORS = 1.0, 2.0, 4.0, 8.0, 16.0, 32.0
"""Factors of the logits in the loss, for the table of certified radii."""
SEEDS = 0, 1, 2, 3, 4
NETWORKS = (3, False), (6, False), (10, False), (10, True)
"""Numbers of convolutions, and whether they are in residual blocks."""


Schedule: TypeAlias = Callable[[float], float]
"""Factor of the rate after a part of the steps."""
SCHEDULES: dict[str, Schedule] = {
    "constant": lambda _: 1.0,
    "falling to 0": lambda part: 1 - part,
    "rising over the first tenth, falling to 0": lambda part: min(10 * part, 1.0) * (1 - part),
}
_, FALLING, WARM_UP = SCHEDULES.values()


@dataclass(frozen=True)
class Way:
    """A way to train: what is done with each convolution and linear layer, the optimiser, rates to choose from, and the
    factor of the rate after a part of the steps."""

    constrain: Constrain
    optimiser: Callable[[nn.Module, float], Optimizer]
    rates: tuple[float, ...]
    schedule: Schedule = FALLING


@torch.no_grad()
def orthogonal_start(layer: Any) -> nn.Module:
    """Return the layer with an orthogonal matrix as its central tap, and zeros elsewhere (delta-orthogonal)."""
    weight = torch.zeros_like(layer.weight)
    matrix = torch.empty(weight.shape[:2])
    nn.init.orthogonal_(matrix)
    centre: Any = (..., *(k // 2 for k in weight.shape[2:]))
    weight[centre] = matrix
    layer.weight.copy_(weight)
    layer.bias.zero_()
    changed: nn.Module = layer
    return changed


def constrained(layer: nn.Module) -> nn.Module:
    return spectral_norm(orthogonal_start(layer))


def adam(model: nn.Module, rate: float) -> Optimizer:
    return Adam(model.parameters(), rate)


def beside_adam(kind: Callable[..., Optimizer]) -> Callable[[nn.Module, float], Optimizer]:
    """Return an optimiser of kernels, with Adam for the other parameters."""
    return lambda model, rate: kind(model, rate, rest=lambda params: Adam(params, 1e-3))


ball, muon = beside_adam(SpectralBall), beside_adam(MuonConv)
ADAMS = 1e-3, 3e-3, 1e-2
BALLS = 0.05, 0.1, 0.2
WAYS_TO_TRAIN: dict[str, Way] = {
    "plain, Adam": Way(unchanged, adam, ADAMS),
    "ball": Way(orthogonal_start, ball, BALLS),
    "ball, warm-up": Way(orthogonal_start, ball, BALLS, WARM_UP),
    "ball, torch's start": Way(unchanged, ball, BALLS),
    "constraint, Adam": Way(constrained, adam, ADAMS),
    "constraint, Adam, warm-up": Way(constrained, adam, ADAMS, WARM_UP),
    "constraint, Adam, torch's start": Way(spectral_norm, adam, ADAMS),
    "constraint, Muon": Way(constrained, muon, (0.02, 0.05, 0.1)),
}


class MaxMin(nn.Module):
    """The larger and the smaller entry of each pair of channels."""

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, 1)
        return torch.cat([torch.maximum(first, second), torch.minimum(first, second)], 1)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"ReLU": nn.ReLU, "MaxMin": MaxMin}
WAYS_AT_RADII = {"ball, warm-up": 0.1, "constraint, Muon": 0.05}
"""Ways that are compared at radii, with their rates."""


# -- networks and data -------------------------------------------------------------------------------------------------
class Averaged(nn.Module):
    """(x + body(x)) / 2: firmly nonexpansive if the body is nonexpansive."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = (x + self.body(x)) / 2
        return out


def network(
    depth: int, residual: bool, constrain: Constrain, activation: Callable[[], nn.Module] = nn.ReLU
) -> nn.Sequential:
    """Return a classifier of images of 8x8 with so many convolutions; with an even number, a chain ends the blocks."""

    def convolved(inputs: int = CHANNELS) -> list[nn.Module]:
        return [constrain(conv(inputs, CHANNELS)), activation()]

    body = convolved(1)
    blocks, others = divmod(depth - 1, 2) if residual else (0, depth - 1)
    for _ in range(blocks):
        body += [Averaged(*convolved(), *convolved()[:1]), nn.ReLU()]
    for _ in range(others):
        body += convolved()
    return nn.Sequential(*body, nn.AvgPool2d(2), nn.Flatten(), constrain(nn.Linear(16 * CHANNELS, 10)))


@cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return images of digits and their labels for training, and those for testing."""
    data: Any = importlib.import_module("sklearn.datasets").load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    pictures = (torch.tensor(data.images, dtype=torch.float32)[:, None] / 16)[order]
    labels = torch.tensor(data.target)[order]
    return pictures[:1300], labels[:1300], pictures[1300:], labels[1300:]


# -- classifiers -------------------------------------------------------------------------------------------------------
def fit(model: nn.Module, way: Way, rate: float, losses: Iterator[Tensor], steps: int) -> Tensor:
    """Train a model by a way, each step with the next loss; return the last one."""
    optimiser = way.optimiser(model, rate)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda n: way.schedule(n / steps))
    for loss in itertools.islice(losses, steps):
        descend(optimiser, loss)
        scheduler.step()
    model.eval()
    return loss.detach()


def classify(
    way: Way,
    depth: int,
    residual: bool,
    rate: float,
    seed: int,
    *,
    factor: float | None = None,
    activation: str = "ReLU",
    radii: Sequence[float] = RADII,
) -> Row:
    """Train a classifier of digits, and measure it.

    ``factor``: of the logits in the loss; None: 32, and 128 with residual blocks, since networks of norm 1 have small
    logits.
    """
    factor = factor or (128.0 if residual else 32.0)
    images, labels, test_images, test_labels = digits()
    torch.manual_seed(seed)
    model = network(depth, residual, way.constrain, ACTIVATIONS[activation])
    steps = len(images) // BATCH

    def loss_of(chosen: Any) -> Tensor:
        return F.cross_entropy(factor * model(images[chosen]), labels[chosen])

    def losses() -> Iterator[Tensor]:
        while True:
            yield from map(loss_of, torch.randperm(len(images))[: steps * BATCH].reshape(-1, BATCH))

    fit(model, way, rate, losses(), EPOCHS * steps)
    with torch.no_grad():
        logits = model(test_images)
        loss_at_end = loss_of(slice(None))
    norms = layer_norms(model)
    is_right = logits.argmax(1) == test_labels
    top = logits.topk(2).values
    # Logits of a network with constant L change their differences by sqrt(2) L at most.
    radius = (top[:, 0] - top[:, 1]) / (math.sqrt(2) * network_norm(model, norms))
    certified = {f"certified {r}": float((is_right & (radius > r)).float().mean()) for r in radii}
    return {
        "accuracy": float(is_right.float().mean()), **certified, "loss": float(loss_at_end),
        "largest norm": max(norms.values()),
    }  # fmt: skip


@torch.no_grad()
def layer_norms(model: nn.Module) -> dict[nn.Module, float]:
    """Proven upper bounds of the norms of the layers' kernels."""
    norms: dict[nn.Module, float] = {}
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            norms[module] = float(specnorm.enclose(module.weight.detach(), rtol=1e-3, **geometry_of(module)).upper)
    return norms


def network_norm(model: nn.Sequential, norms: dict[nn.Module, float]) -> float:
    """Bound of a network's constant: blocks are (1 + product of their two) / 2, and averages of 2x2 pixels 1/2."""
    total = 0.5
    for module in model:
        if isinstance(module, Averaged):
            total *= (1 + math.prod(norms[layer] for layer in module.body if layer in norms)) / 2
        else:
            total *= norms.get(module, 1.0)
    return total


# -- a denoiser --------------------------------------------------------------------------------------------------------
NOISE = 0.1
DENOISER_STEPS = 200
PATCH = 32
BLUR = 5
"""Side of the square that blurs the test image."""


@cache
def photographs() -> tuple[Tensor, Tensor]:
    """Patches of one photograph for training, and a part of the other one for testing; grey, from 0 to 1."""
    one, other = importlib.import_module("sklearn.datasets").load_sample_images().images
    grey = [torch.tensor(x, dtype=torch.float32).mean(2) / 255 for x in (one, other)]
    patches = grey[0].unfold(0, PATCH, PATCH).unfold(1, PATCH, PATCH).reshape(-1, 1, PATCH, PATCH)
    return patches, grey[1][None, None, 150:278, 250:378]


def psnr(x: Tensor, y: Tensor) -> float:
    return -10 * math.log10(float((x - y).square().mean()))


def denoise(way: Way, rate: float, seed: int) -> Row:
    """Train a denoiser; measure it on another photograph, alone and in forward-backward steps that remove a blur."""
    patches, image = photographs()
    torch.manual_seed(seed)
    pairs = itertools.pairwise((1, *(CHANNELS,) * 4, 1))
    body = [x for m, n in pairs for x in (way.constrain(conv(m, n)), nn.ReLU())]
    model = Averaged(*body[:-1])

    def losses() -> Iterator[Tensor]:
        while True:
            clean = patches[torch.randint(len(patches), (16,))]
            yield F.mse_loss(model(clean + NOISE * torch.randn_like(clean)), clean)

    last = fit(model, way, rate, losses(), DENOISER_STEPS)
    kernel = torch.full((1, 1, BLUR, BLUR), 1 / BLUR**2)
    blur = partial(F.conv2d, weight=kernel, padding=BLUR // 2)
    with torch.no_grad():
        denoised = model(image + NOISE * torch.randn_like(image))
        blurred = blur(image) + 0.01 * torch.randn_like(image)
        x = blurred
        for _ in range(200):
            x = model(x - blur(blur(x) - blurred))
    return {
        "denoised": psnr(denoised, image), "deblurred": psnr(x, image), "loss": float(last),
        "largest norm": max(layer_norms(model).values()),
    }  # fmt: skip


# -- lines -------------------------------------------------------------------------------------------------------------
@dataclass
class Lines:
    """Rows of a file. Each new one is written at once, and one that the file has is not measured again."""

    out: Path | None

    def __post_init__(self) -> None:
        self.rows = facts.read(self.out) if self.out else []
        self.common = facts.about("torch", "scikit-learn") | {"threads": 1}

    def measured(self, key: Row, measure: Callable[[], Row]) -> Row:
        """Return the row with this key, from the file or measured."""
        for row in self.rows:
            if key.items() <= row.items():
                return row
        self.rows.append({**self.common, **key, **measure()})
        print(json.dumps(self.rows[-1]), flush=True)
        if self.out:
            facts.write(self.out, self.rows)
        return self.rows[-1]

    def with_best_rate(self, key: Row, way: Way, run: Callable[[Way, float, int], Row], seeds: Sequence[int]) -> None:
        """Train with each rate by the first seed, then with the best one by the others."""

        def measured(rate: float, seed: int) -> Row:
            return self.measured({**key, "rate": rate, "seed": seed}, lambda: run(way, rate, seed))

        best = best_of({rate: measured(rate, seeds[0])["loss"] for rate in way.rates})
        for seed in seeds[1:]:
            measured(best, seed)


def best_of(losses: dict[float, float]) -> float:
    """Return the rate with the least loss."""
    return min(losses, key=lambda rate: losses[rate] if math.isfinite(losses[rate]) else math.inf)


def write(out: Path | None) -> None:
    """Measure what the file lacks of all tables of the page."""
    torch.set_num_threads(1)
    lines = Lines(out)
    for batch, name in itertools.product((16, 64), COSTS):
        lines.measured({"task": "cost", "way": name, "images": batch}, partial(cost, batch, name))
    for name, way in WAYS_TO_TRAIN.items():
        for depth, residual in NETWORKS:
            key = {"task": "digits", "depth": depth, "residual": residual, "way": name}
            lines.with_best_rate(key, way, lambda way, *run: classify(way, depth, residual, *run), SEEDS)  # noqa: B023
        lines.with_best_rate({"task": "denoiser", "way": name}, way, denoise, SEEDS[:3])
    # The chain of 10 convolutions in the ball by each schedule, with rates up to a large one.
    for seed, (name, schedule), rate in itertools.product(SEEDS, SCHEDULES.items(), (*BALLS, 0.4)):
        way = dataclasses.replace(WAYS_TO_TRAIN["ball"], schedule=schedule)
        key = {"task": "schedule", "schedule": name, "rate": rate, "seed": seed}
        lines.measured(key, partial(classify, way, 10, False, rate, seed))
    # The chain of 6 convolutions with each factor of the logits, certified at several radii.
    cases = itertools.product(WAYS_AT_RADII.items(), ACTIVATIONS, LOGIT_FACTORS, SEEDS[:3])
    for (name, rate), activation, factor, seed in cases:
        key = {"task": "radii", "way": name, "activation": activation, "factor": factor, "seed": seed}
        run = partial(classify, factor=factor, activation=activation, radii=ALL_RADII)
        lines.measured(key, partial(run, WAYS_TO_TRAIN[name], 6, False, rate, seed))


# -- cost --------------------------------------------------------------------------------------------------------------
def six() -> nn.Sequential:
    body = [x for n in (3, *[64] * 5) for x in (conv(n, 64), nn.ReLU())]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


COSTS = "ball", "constraint, Adam"
"""Ways whose steps are timed."""


def cost(batch: int, timed: str) -> Row:
    """Time training steps of six convolutions of 64 channels, beside Adam's plain step, in turn."""
    images, labels = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))

    def stepping(name: str) -> Callable[[], None]:
        torch.manual_seed(0)
        model = spectral_norm(six()) if name.startswith("constraint") else six()
        optimiser = WAYS_TO_TRAIN[name].optimiser(model, 1e-3)
        return lambda: descend(optimiser, F.cross_entropy(model(images), labels))

    plain, times = facts.paired({name: stepping(name) for name in ("plain, Adam", timed)}, 7, warm=3).values()
    return {"ratio": 1 / facts.timing(times, plain)["faster"]}
