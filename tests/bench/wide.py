"""Where trained layers of 256 channels lie between the bench's families: train one small network, and enclose them.

    python -m bench.wide FOLDER       # Fashion-MNIST's files, as docs/examples/train_lipschitz.py reads them
    python -m bench.wide              # that program's made-up images

A residual network with three 3x3 layers of 256 channels on 7x7 pixels, some minutes on one thread. No weights are kept.
Printed for each layer, before and after: the singular values of the kernel as a matrix (outputs by the rest) at a
quarter, a half and three quarters of them, over the largest; cells and seconds of `enclose` to 1e-3.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import specnorm
from bench import kernels

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "train_lipschitz.py"
WIDTH = 256


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, WIDTH, 3, 2, 1)
        )
        self.layers = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, 1, 1, bias=False) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(WIDTH) for _ in range(3))
        self.last = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + torch.relu(norm(layer(x)))
        found: Tensor = self.last(x.mean((2, 3)))
        return found


def train(model: nn.Module, data: Any, steps: int) -> None:
    """By SGD with weight decay and a cosine schedule."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator, done = torch.Generator().manual_seed(0), 0
    while done < steps:
        for x, y in data.batches(32, generator):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            done += 1
            if done == steps:
                break


def told(name: str, kernel: np.ndarray) -> None:
    """One line."""
    values = np.linalg.svd(kernel.reshape(len(kernel), -1), compute_uv=False)
    begin = time.process_time()
    found = specnorm.enclose(kernel)
    seconds = time.process_time() - begin
    decay = ", ".join(f"{values[int(share * len(values))] / values[0]:.3f}" for share in (0.25, 0.5, 0.75))
    print(f"{name}: singular values {decay}; {found.cells} cells, {seconds:.2f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--steps", type=int, default=900)
    given = parser.parse_args()
    spec = importlib.util.spec_from_file_location("example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["example"] = example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Wide()
    told("flat", kernels.flat(WIDTH))
    told("decaying", kernels.decaying(WIDTH))
    told("trained-like", kernels.like_trained((WIDTH, WIDTH, 3, 3)))
    for steps in (0, given.steps):
        if steps:
            real = given.folder is not None
            data = example.read(given.folder, "train") if real else example.made_up(12_000, 1)
            test = (example.read(given.folder, "t10k") if real else example.made_up(2000, 2)).first(2000)
            train(model, data, steps)
            with torch.no_grad():
                right = (model.eval()(test.images).argmax(1) == test.labels).float().mean()
            print(f"after {steps} steps: accuracy {float(right):.3f}")
        for j, layer in enumerate(model.layers):
            told(f"layer {j}, {steps} steps", layer.get_parameter("weight").detach().numpy())


if __name__ == "__main__":
    main()
