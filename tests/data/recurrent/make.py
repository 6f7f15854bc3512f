"""Recurrent layers trained on three tasks, for tests/networks/test_loops.py: ``python make.py`` (seeds inside).

`h_t = phi(W h_{t-1} + U x_t + b)`, `y_t = C h_t + d`; arrays W, U, C and b of each, float32, from zeros on. Trained by
torch 2.13.0 for some seconds each; other versions give other numbers of the same kind.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

STEPS, BATCH, ROUNDS = 12, 64, 1000
Task = Callable[[], tuple[Tensor, Tensor]]


def adding() -> tuple[Tensor, Tensor]:
    """The sum of the two numbers that are marked (Hochreiter and Schmidhuber 1997), asked for at the end."""
    marks = torch.zeros(BATCH, STEPS).scatter_(1, torch.rand(BATCH, STEPS).argsort(1)[:, :2], 1.0)
    numbers = torch.rand(BATCH, STEPS)
    wanted = torch.full((BATCH, STEPS, 1), torch.nan)
    wanted[:, -1, 0] = (marks * numbers).sum(1)
    return torch.stack([numbers, marks], -1), wanted


def echo() -> tuple[Tensor, Tensor]:
    """What came four steps before."""
    x = torch.randn(BATCH, STEPS, 2)
    wanted = torch.full((BATCH, STEPS, 2), torch.nan)
    wanted[:, 4:] = x[:, :-4]
    return x, wanted


def waves() -> tuple[Tensor, Tensor]:
    """The next value of a sum of two waves, with noise."""
    t, (a, b) = torch.arange(STEPS + 1.0), torch.rand(2, BATCH, 1)
    x = torch.sin(0.3 * t + 6 * a) + 0.5 * torch.sin((0.8 + b) * t) + 0.05 * torch.randn(BATCH, STEPS + 1)
    return x[:, :-1, None], x[:, 1:, None]


def trained(task: Task, units: int, function: str, norm: float, seed: int) -> dict[str, Any]:
    """By Adam; singular values of W are clipped at ``norm`` after each step."""
    torch.manual_seed(seed)
    x, y = task()
    layer: Any = nn.RNN(x.shape[2], units, nonlinearity=function, batch_first=True)
    head: Any = nn.Linear(units, y.shape[2])
    parameters = [*layer.parameters(), *head.parameters()]
    if task is adding:
        nn.init.eye_(layer.weight_hh_l0)
    optimiser = torch.optim.Adam(parameters, lr=3e-3)
    for _ in range(ROUNDS):
        x, y = task()
        off = head(layer(x)[0]) - y
        loss = off[~off.isnan()].square().mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        with torch.no_grad():
            u, s, v = torch.linalg.svd(layer.weight_hh_l0)
            layer.weight_hh_l0.copy_(u @ torch.diag(s.clamp(max=norm)) @ v)
    print(f"{task.__name__}: {units} units, {function}, loss {loss.item():.4f}, |W| {s.max().item():.3f}")  # noqa: T201
    bias = layer.bias_ih_l0 + layer.bias_hh_l0
    arrays = {"W": layer.weight_hh_l0, "U": layer.weight_ih_l0, "C": head.weight, "b": bias}
    return {name: array.detach().numpy() for name, array in arrays.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for task, units, function, norm, seed in (
        (adding, 24, "relu", 0.98, 0),
        (echo, 32, "tanh", 1.1, 1),
        (waves, 16, "relu", 0.95, 2),
    ):
        found = trained(task, units, function, norm, seed)
        np.savez(Path(__file__).with_name(f"{task.__name__}.npz"), **found)
