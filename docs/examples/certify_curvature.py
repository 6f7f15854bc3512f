"""Certify networks with one hidden layer by their curvature, beside the bound by their Lipschitz constant.

    python docs/examples/certify_curvature.py /usr/share/datasets/fashion-mnist

The data are those of train_lipschitz.py, next to this file; docs/examples/certified/README.md explains both.
"""

from __future__ import annotations

import argparse
import math
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from train_lipschitz import Data, facts, made_up, percent, put, read, up

import specnorm
from specnorm import robustness

RADII = (0.1, 0.25, 0.5)
ACTIVATIONS: dict[str, Any] = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "softplus": nn.functional.softplus}
SLOPE = {"sigmoid": 0.25, "tanh": 1.0, "softplus": 1.0}
"""Lipschitz constants of the activations."""
STRIDE = 2


class Shallow(nn.Module):
    """One strided convolution, an activation with a bounded second derivative, one linear layer."""

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        self.activation = activation
        self.conv = nn.Conv2d(1, channels, 5, stride=STRIDE, padding=2)
        self.last = nn.Linear(channels * 14 * 14, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(ACTIVATIONS[self.activation](self.conv(x)).flatten(1))

    def curvature(self, norm: Tensor, label: int, target: int) -> Tensor:
        return robustness.curvature_bound(norm, self.last.weight, label, target, activation=self.activation)


def train(net: Shallow, weight: float, options: argparse.Namespace, data: Data) -> None:
    """Cross-entropy, plus a weight times the curvature bound of one pair of classes drawn in every step."""
    optimizer = torch.optim.Adam(net.parameters(), lr=options.rate)
    generator, pairs = torch.Generator().manual_seed(options.seed), random.Random(options.seed)
    for _ in range(options.epochs):
        for images, labels in data.batches(options.batch, generator):
            loss = nn.functional.cross_entropy(net(images), labels)
            if weight:
                norm = specnorm.f4_bound(net.conv.weight, stride=STRIDE)
                loss = loss + weight * net.curvature(norm, *pairs.sample(range(10), 2))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def radii(net: Shallow, norm: Tensor, data: Data) -> tuple[list[float], list[float]]:
    """Certified radius of each image, by curvature and by the Lipschitz constant; 0 where the label is wrong."""
    images = data.images.clone().requires_grad_()
    logits = net(images)
    slopes = [torch.autograd.grad(logits[:, c].sum(), images, retain_graph=True)[0] for c in range(10)]
    rows = net.last.weight.detach()
    classes = range(10)
    bends = {(y, t): net.curvature(norm, y, t).detach() for y in classes for t in classes if y != t}
    curved, straight = [], []
    for j, y in enumerate(data.labels.tolist()):
        by_curvature, by_slope = math.inf, math.inf
        for t in classes:
            if t == y:
                continue
            margin = (logits[j, y] - logits[j, t]).detach()
            radius = robustness.certified_radius(margin, slopes[y][j] - slopes[t][j], bends[y, t])
            by_curvature = min(by_curvature, float(radius))
            steepest = SLOPE[net.activation] * float(norm) * float((rows[y] - rows[t]).norm())
            by_slope = min(by_slope, max(float(margin), 0.0) / steepest)
        curved.append(by_curvature)
        straight.append(by_slope)
    return curved, straight


def share(found: list[float], radius: float) -> str:
    return percent(sum(x >= radius for x in found) / len(found))


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", nargs="?", help="folder with the four files of Fashion-MNIST")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "certified", help="folder for results")
    parser.add_argument("--quick", action="store_true", help="made-up images, a few steps")
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--weight", type=float, default=0.01, help="of the curvature in the regularised networks")
    parser.add_argument("--tested", type=int, default=300, help="test images that are certified")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if not options.quick and options.data is None:
        parser.error("give the folder of Fashion-MNIST (Debian: apt-get install dataset-fashion-mnist), or --quick")
    if options.quick:
        options.channels, options.batch, options.tested = 2, 32, 20
        training, test = made_up(320, seed=1), made_up(options.tested, seed=2)
    else:
        training, test = read(Path(options.data), "train"), read(Path(options.data), "t10k").first(options.tested)
    torch.set_num_threads(options.threads)
    known = facts(options, training)
    known += (
        f"{options.epochs} epoch, batches of {options.batch}, Adam at {options.rate:g}, {options.channels} channels, "
        f"seed {options.seed} (one run). First {len(test.labels)} test images."
    )
    found = []
    for activation in ACTIVATIONS:
        for weight in (0.0, options.weight):
            torch.manual_seed(options.seed)
            net = Shallow(options.channels, activation)
            train(net, weight, options, training)
            norm = specnorm.enclose(net.conv.weight.detach(), stride=STRIDE).upper
            curved, straight = radii(net, norm, test)
            row = {"activation": activation, "weight": weight, "norm": float(norm), "curved": curved, "slope": straight}
            found.append(row)
            print(f"{activation}, weight {weight:g}: {share(curved, 0.1)} % certified at 0.1 by curvature")
    write(options.output, known, found)
    return found


def write(folder: Path, known: str, rows: list[dict[str, Any]]) -> None:
    first, *others = (f"{r:g}" for r in RADII)
    lines = [
        f"| activation | weight | accuracy | norm at most | {first}: curvature/Lipschitz | {' | '.join(others)} |",
        "|---|---:|---:|---:|" + "---:|" * len(RADII),
    ]
    for row in rows:
        shares = " | ".join(f"{share(row['curved'], r)}/{share(row['slope'], r)}" for r in RADII)
        accuracy = percent(sum(x > 0 for x in row["slope"]) / len(row["slope"]))
        lines.append(f"| {row['activation']} | {row['weight']:g} | {accuracy} | {up(row['norm'], 4)} | {shares} |")
    put(folder, "curvature", [*lines, "", known])


if __name__ == "__main__":
    main()
