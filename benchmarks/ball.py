"""Does training inside the ball work? Classifiers of digits and a denoiser, by each way to bound the layers' norms.

Data: the digits and the photographs that scikit-learn ships. Networks have 16 channels. Certified accuracy is that by
the product of proven upper bounds of the layers. Each way trains with the best of its rates, chosen by the first seed.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from specnorm_torch import MuonConv, SpectralBall, geometry_of, spectral_norm
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

import specnorm
from benchmarks import facts
from benchmarks.constraint_cost import paired
from benchmarks.facts import Row
from benchmarks.ways import WAYS

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


def falling(part: float) -> float:
    """Factor of the rate after a part of the steps: from 1 to 0."""
    return 1 - part


def rising_and_falling(part: float) -> float:
    """`falling`, and from 0 over the first tenth."""
    return min(10 * part, 1.0) * falling(part)


def constant(_part: float) -> float:
    return 1.0


SCHEDULES = {
    "constant": constant, "falling to 0": falling, "rising over the first tenth, falling to 0": rising_and_falling,
}  # fmt: skip


@dataclass(frozen=True)
class Way:
    """A way to train: what is done with each convolution and linear layer, the optimiser, rates to choose from, and the
    factor of the rate after a part of the steps."""

    constrain: Callable[[nn.Module], nn.Module]
    optimiser: Callable[[nn.Module, float], Optimizer]
    rates: tuple[float, ...]
    schedule: Callable[[float], float] = falling


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


def free(layer: nn.Module) -> nn.Module:
    return layer


def constrained(layer: nn.Module) -> nn.Module:
    return spectral_norm(orthogonal_start(layer))


def orthogonal(layer: nn.Module) -> nn.Module:
    """Return the orthogonal layer of orthogonium for a convolution; its linear layers are constrained as by default."""
    return WAYS["orthogonium"](layer) if isinstance(layer, nn.Conv2d) else spectral_norm(layer)


def adam(model: nn.Module, rate: float) -> Optimizer:
    return Adam(model.parameters(), rate)


def muon(model: nn.Module, rate: float) -> Optimizer:
    return MuonConv(model, rate, rest=lambda params: Adam(params, 1e-3))


def ball(model: nn.Module, rate: float) -> Optimizer:
    return SpectralBall(model, rate, rest=lambda params: Adam(params, 1e-3))


ADAMS = 1e-3, 3e-3, 1e-2
BALLS = 0.05, 0.1, 0.2
WAYS_TO_TRAIN: dict[str, Way] = {
    "plain, Adam": Way(free, adam, ADAMS),
    "ball": Way(orthogonal_start, ball, BALLS),
    "ball, warm-up": Way(orthogonal_start, ball, BALLS, rising_and_falling),
    "ball, torch's start": Way(free, ball, BALLS),
    "constraint, Adam": Way(constrained, adam, ADAMS),
    "constraint, Adam, warm-up": Way(constrained, adam, ADAMS, rising_and_falling),
    "constraint, Adam, torch's start": Way(spectral_norm, adam, ADAMS),
    "constraint, Muon": Way(constrained, muon, (0.02, 0.05, 0.1)),
    "orthogonium, Adam": Way(orthogonal, adam, ADAMS),
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
class Residual(nn.Module):
    """(x + two convolutions) / 2: norms of at most 1 give a block of at most 1."""

    def __init__(self, constrain: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.first, self.second = (constrain(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = (x + self.second(F.relu(self.first(x)))) / 2
        return out


def network(
    depth: int,
    residual: bool,
    constrain: Callable[[nn.Module], nn.Module],
    activation: Callable[[], nn.Module] = nn.ReLU,
) -> nn.Sequential:
    """Return a classifier of images of 8x8 with so many convolutions; with an even number, a chain ends the blocks."""
    body: list[nn.Module] = [constrain(nn.Conv2d(1, CHANNELS, 3, padding=1)), activation()]
    for _ in range((depth - 1) // 2 if residual else 0):
        body += [Residual(constrain), nn.ReLU()]
    for _ in range((depth - 1) % 2 if residual else depth - 1):
        body += [constrain(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)), activation()]
    return nn.Sequential(*body, nn.AvgPool2d(2), nn.Flatten(), constrain(nn.Linear(16 * CHANNELS, 10)))


def temperature(residual: bool) -> float:
    """Factor of the logits in the loss: those of a network of norm 1 are small."""
    return 128.0 if residual else 32.0


@cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return images of digits and their labels for training, and those for testing."""
    data: Any = importlib.import_module("sklearn.datasets").load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    pictures = (torch.tensor(data.images, dtype=torch.float32)[:, None] / 16)[order]
    labels = torch.tensor(data.target)[order]
    return pictures[:1300], labels[:1300], pictures[1300:], labels[1300:]


# -- classifiers -------------------------------------------------------------------------------------------------------
def classify(
    way: Way,
    depth: int,
    residual: bool,
    rate: float,
    seed: int,
    epochs: int = EPOCHS,
    *,
    factor: float | None = None,
    activation: str = "ReLU",
    radii: Sequence[float] = RADII,
) -> Row:
    """Train a classifier of digits, and measure it. ``factor``: of the logits in the loss; None: `temperature`."""
    factor = temperature(residual) if factor is None else factor
    images, labels, test_images, test_labels = digits()
    torch.manual_seed(seed)
    model = network(depth, residual, way.constrain, ACTIVATIONS[activation])
    optimiser = way.optimiser(model, rate)
    steps = epochs * (len(images) // BATCH)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda n: way.schedule(n / steps))
    start = time.process_time()
    for _ in range(epochs):
        for chosen in torch.randperm(len(images))[: steps // epochs * BATCH].reshape(-1, BATCH):
            optimiser.zero_grad()
            loss = F.cross_entropy(factor * model(images[chosen]), labels[chosen])
            loss.backward()  # type: ignore[no-untyped-call]  # torch's
            optimiser.step()
            scheduler.step()
    seconds = time.process_time() - start
    model.eval()
    with torch.no_grad():
        logits = model(test_images)
        loss_at_end = F.cross_entropy(factor * model(images), labels)
    norms = layer_norms(model)
    is_right = logits.argmax(1) == test_labels
    top = logits.topk(2).values
    # Logits of a network with constant L change their differences by sqrt(2) L at most.
    radius = (top[:, 0] - top[:, 1]) / (math.sqrt(2) * network_norm(model, norms))
    certified = {f"certified {r}": round(float((is_right & (radius > r)).float().mean()), 4) for r in radii}
    return {
        "accuracy": round(float(is_right.float().mean()), 4), **certified, "loss": round(float(loss_at_end), 4),
        "largest norm": round(max(norms.values()), 5), "seconds": round(seconds, 2),
    }  # fmt: skip


@torch.no_grad()
def layer_norms(model: nn.Module) -> dict[nn.Module, float]:
    """Proven upper bounds of the norms of the layers' kernels."""
    norms: dict[nn.Module, float] = {}
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            norms[module] = float(specnorm.enclose(module.weight.detach(), rtol=1e-3, **kernel_geometry(module)).upper)
    return norms


def kernel_geometry(layer: nn.Module) -> dict[str, Any]:
    try:
        return geometry_of(layer)
    except specnorm.SpecnormError:
        return {"padding_mode": "zeros"}  # of a library's own layer, of stride 1


def network_norm(model: nn.Module, norms: dict[nn.Module, float]) -> float:
    """Bound of a network's constant: blocks are (1 + product of their two) / 2, and averages of 2x2 pixels 1/2."""
    total = 0.5
    inside = {part for module in model.modules() if isinstance(module, Residual) for part in module.modules()}
    for module in model.modules():
        if isinstance(module, Residual):
            total *= (1 + norms[module.first] * norms[module.second]) / 2
        elif module in norms and module not in inside:
            total *= norms[module]
    return total


# -- a denoiser --------------------------------------------------------------------------------------------------------
NOISE = 0.1
DENOISER_STEPS = 200
PATCH = 32
BLUR = 5
"""Side of the square that blurs the test image."""


class Denoiser(nn.Module):
    """(x + N(x)) / 2 with a chain N of five convolutions: firmly nonexpansive if N is nonexpansive."""

    def __init__(self, constrain: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        widths = (1, *(CHANNELS,) * 4, 1)
        layers = [constrain(nn.Conv2d(m, n, 3, padding=1)) for m, n in itertools.pairwise(widths)]
        body = [module for layer in layers for module in (layer, nn.ReLU())]
        self.chain = nn.Sequential(*body[:-1])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = (x + self.chain(x)) / 2
        return out


@cache
def photographs() -> tuple[Tensor, Tensor]:
    """Patches of one photograph for training, and a part of the other one for testing; grey, from 0 to 1."""
    one, other = importlib.import_module("sklearn.datasets").load_sample_images().images
    grey = [torch.tensor(x, dtype=torch.float32).mean(2) / 255 for x in (one, other)]
    patches = grey[0].unfold(0, PATCH, PATCH).unfold(1, PATCH, PATCH).reshape(-1, 1, PATCH, PATCH)
    return patches, grey[1][None, None, 150:278, 250:378]


def psnr(x: Tensor, y: Tensor) -> float:
    return round(-10 * math.log10(float((x - y).square().mean())), 3)


def denoise(way: Way, rate: float, seed: int, steps: int = DENOISER_STEPS) -> Row:
    """Train a denoiser; measure it on another photograph, alone and in forward-backward steps that remove a blur."""
    patches, image = photographs()
    torch.manual_seed(seed)
    model = Denoiser(way.constrain)
    optimiser = way.optimiser(model, rate)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda n: way.schedule(n / steps))
    start = time.process_time()
    for _ in range(steps):
        clean = patches[torch.randint(len(patches), (16,))]
        optimiser.zero_grad()
        loss = F.mse_loss(model(clean + NOISE * torch.randn_like(clean)), clean)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        optimiser.step()
        scheduler.step()
    seconds = time.process_time() - start
    model.eval()
    kernel = torch.full((1, 1, BLUR, BLUR), 1 / BLUR**2)
    with torch.no_grad():
        denoised = model(image + NOISE * torch.randn_like(image))
        blurred = F.conv2d(image, kernel, padding=BLUR // 2) + 0.01 * torch.randn_like(image)
        x = blurred
        for _ in range(200):
            before = x
            residual = F.conv2d(x, kernel, padding=BLUR // 2) - blurred
            x = model(x - F.conv2d(residual, kernel, padding=BLUR // 2))
    return {
        "denoised": psnr(denoised, image), "deblurred": psnr(x, image), "blurred": psnr(blurred, image),
        "last change": float(f"{float((x - before).norm() / x.norm()):.2g}"),
        "loss": float(loss.detach()), "largest norm": round(max(layer_norms(model).values()), 5),
        "seconds": round(seconds, 2),
    }  # fmt: skip


# -- lines -------------------------------------------------------------------------------------------------------------
@dataclass
class Lines:
    """Rows of a file. Each new one is written at once, and one that the file has is not measured again."""

    out: Path | None

    def __post_init__(self) -> None:
        self.rows = facts.read(self.out) if self.out else []
        self.common = facts.about("torch", "jax", "scikit-learn", "orthogonium") | {"threads": torch.get_num_threads()}

    def measured(self, key: Row, measure: Callable[[], Row]) -> Row:
        """Return the row with this key, from the file or measured."""
        for row in self.rows:
            if key.items() <= row.items():
                return row
        row = {**self.common, **key, **measure()}
        print(json.dumps(row), flush=True)
        self.rows.append(row)
        if self.out:
            facts.write(self.out, self.rows)
        return row


def write(quick: bool, out: Path | None) -> None:
    """Measure what the file lacks of all tables of the page."""
    torch.set_num_threads(1)
    lines = Lines(out)
    for batch in (16,) if quick else (16, 64):
        costs = cache(functools.partial(cost, 3 if quick else 7, batch=batch))
        for way in COSTS:
            lines.measured({"task": "cost", "way": way, "images": batch}, lambda: costs()[way])  # noqa: B023
    if quick:
        train_classifiers(lines, "ball", 3, False, epochs=1, seeds=SEEDS[:1])
        train_denoisers(lines, "ball", steps=5, seeds=SEEDS[:1])
        return
    for name in WAYS_TO_TRAIN:
        for depth, residual in NETWORKS:
            train_classifiers(lines, name, depth, residual)
        train_denoisers(lines, name)
    train_by_schedules(lines)
    train_at_radii(lines)


def train_at_radii(lines: Lines, seeds: Sequence[int] = SEEDS[:3]) -> None:
    """Train the chain of 6 convolutions with each factor of the logits, and certify it at several radii."""
    cases = itertools.product(WAYS_AT_RADII.items(), ACTIVATIONS, LOGIT_FACTORS, seeds)
    for (name, rate), activation, factor, seed in cases:
        run = functools.partial(
            classify, WAYS_TO_TRAIN[name], 6, False, rate, seed, factor=factor, activation=activation, radii=ALL_RADII
        )
        key = {"task": "radii", "way": name, "activation": activation, "factor": factor, "seed": seed}
        lines.measured(key, run)


def train_classifiers(
    lines: Lines, name: str, depth: int, residual: bool, epochs: int = EPOCHS, seeds: Sequence[int] = SEEDS
) -> None:
    key = {"task": "digits", "depth": depth, "residual": residual, "way": name}
    way = WAYS_TO_TRAIN[name]
    with_best_rate(lines, key, way, functools.partial(classify, way, depth, residual, epochs=epochs), seeds)


def train_by_schedules(lines: Lines) -> None:
    """Train the chain of 10 convolutions in the ball by each schedule, with rates up to a large one."""
    for seed, (name, schedule), rate in itertools.product(SEEDS, SCHEDULES.items(), (*BALLS, 0.4)):
        way = dataclasses.replace(WAYS_TO_TRAIN["ball"], schedule=schedule)
        run = functools.partial(classify, way, 10, False, rate, seed)
        lines.measured({"task": "schedule", "schedule": name, "rate": rate, "seed": seed}, run)


def train_denoisers(lines: Lines, name: str, steps: int = DENOISER_STEPS, seeds: Sequence[int] = SEEDS[:3]) -> None:
    way = WAYS_TO_TRAIN[name]
    with_best_rate(lines, {"task": "denoiser", "way": name}, way, functools.partial(denoise, way, steps=steps), seeds)


def best_of(losses: dict[float, float]) -> float:
    """Return the rate with the least loss."""
    return min(losses, key=lambda rate: losses[rate] if math.isfinite(losses[rate]) else math.inf)


def with_best_rate(lines: Lines, key: Row, way: Way, run: Callable[[float, int], Row], seeds: Sequence[int]) -> None:
    """Train with each rate by the first seed, then with the best one by the others."""

    def measured(rate: float, seed: int) -> Row:
        return lines.measured({**key, "rate": rate, "seed": seed}, lambda: run(rate, seed))

    best = best_of({rate: measured(rate, seeds[0])["loss"] for rate in way.rates})
    for seed in seeds[1:]:
        measured(best, seed)


# -- cost --------------------------------------------------------------------------------------------------------------
def six(channels: int = 64) -> nn.Sequential:
    layers = [nn.Conv2d(channels if j else 3, channels, 3, padding=1) for j in range(6)]
    body = [module for layer in layers for module in (layer, nn.ReLU())]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


COSTS = {"plain, Adam": adam, "ball": ball, "constraint, Adam": adam}
"""Optimisers whose steps are timed, by the names of the ways."""


def cost(repeats: int, size: int = 32, batch: int = 16) -> dict[str, Row]:
    """Time training steps of six convolutions of 64 channels, beside Adam's plain step, in turn."""
    torch.set_num_threads(1)
    images, labels = torch.randn(batch, 3, size, size), torch.randint(10, (batch,))
    runs: dict[str, Callable[[], Any]] = {}
    for name, make in COSTS.items():
        torch.manual_seed(0)
        model = spectral_norm(six()) if name.startswith("constraint") else six()
        runs[name] = functools.partial(one_step, model, make(model, 1e-3), images, labels)
    seconds = paired(runs, repeats, warm=3)
    rows = {}
    for name, times in seconds.items():
        ratios = [x / y for x, y in zip(times, seconds["plain, Adam"], strict=True)]
        median = round(statistics.median(times), 5)
        rows[name] = {"size": size, "seconds": median, "ratio": round(statistics.median(ratios), 3)}
    return rows


def one_step(model: nn.Module, optimiser: Optimizer, images: Tensor, labels: Tensor) -> None:
    optimiser.zero_grad()
    F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]  # torch's
    optimiser.step()
