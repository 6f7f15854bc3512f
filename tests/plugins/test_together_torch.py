"""Layers that are stepped together have the weights and gradients that they have alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest

import specnorm

torch: Any = pytest.importorskip("torch")
import specnorm_torch  # noqa: E402 - after the skip where torch is missing

pytestmark = pytest.mark.usefixtures("fresh_torch")
nn = torch.nn


def model() -> Any:
    """Two shapes and a matrix, each several times, one layer in evaluation mode, one of another bound, one of Gram."""
    torch.manual_seed(0)
    keep = specnorm_torch.spectral_norm
    convs = [keep(nn.Conv2d(4, 4, 3, padding=1)) for _ in range(3)]
    others = [keep(nn.Conv2d(4, 4, 3, padding=1), bound=2.0), keep(nn.Conv2d(4, 4, 1)).eval()]
    gram = keep(nn.Conv2d(4, 4, 3, padding=1), method=specnorm.Gram(3))
    flat = [nn.Flatten(), keep(nn.Linear(64, 64)), keep(nn.Linear(64, 64)), nn.Linear(64, 2)]
    return nn.Sequential(*convs, *others, gram, *flat).double()


def trained(net: Any, steps: int, *, together: bool) -> list[Any]:
    """Gradients of some steps."""
    x = torch.linspace(-1, 1, 64, dtype=torch.float64).reshape(1, 4, 4, 4)
    found = []
    for _ in range(steps):
        if together:
            with specnorm_torch.step_together(net):
                loss = net(x).square().sum() + net[0].weight.sum()
        else:
            with torch.nn.utils.parametrize.cached():
                loss = net(x).square().sum() + net[0].weight.sum()
        net.zero_grad()
        loss.backward()
        found.append([p.grad.clone() for p in net.parameters()])
        with torch.no_grad():
            for p in net.parameters():
                p -= 1e-2 * p.grad
    return found


def test_weights_and_gradients_are_those_of_layers_alone() -> None:
    """But for how far each has converged: a batch takes as many sweeps as the one that moved most."""
    alone = model()
    one = copy.deepcopy(alone)
    for first, second in zip(trained(alone, 4, together=False), trained(one, 4, together=True), strict=True):
        for a, b in zip(first, second, strict=True):
            assert float((a - b).abs().max()) <= 1e-4 * float(a.abs().max())
    for a, b in zip(alone.parameters(), one.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
