"""A small network of every kind of layer, and its training, for tests with torch."""

from __future__ import annotations

from typing import Any

import specnorm_torch
import torch


def network(dtype: Any = None) -> Any:
    """Every kind of layer there is, small."""
    nn = torch.nn
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=2, bias=False),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 2, stride=2),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Flatten(),
        nn.Linear(4 * 8 * 8, 5),
    )
    return model.to(dtype) if dtype is not None else model


LAYERS = (0, 3, 5, 7, 8, 10)


def constrained(**options: Any) -> Any:
    model = network()
    for j in LAYERS:
        specnorm_torch.spectral_norm(model[j], **options)
    return model


def train(model: Any, steps: int, penalty: Any = None, seed: int = 1, optimizer: Any = None, each: Any = None) -> Any:
    """Follow a random teacher."""
    torch.manual_seed(99)
    teacher = network()
    generator = torch.Generator().manual_seed(seed)
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step in range(steps):
        x = torch.randn(16, 3, 8, 8, generator=generator)
        with torch.no_grad():
            wanted = 3 * teacher(x)
        optimizer.zero_grad()
        loss = (model(x) - wanted).square().mean()
        if penalty is not None:
            loss = loss + 0.02 * penalty()
        loss.backward()
        optimizer.step()
        if each is not None:
            each(step)
    return optimizer


def same_state(a: Any, b: Any) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
