"""What inputs reach: ascent of |f(x + d) - f(x)| / |d| with Adam, then power iterations on the Jacobian there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.networks_models import inputs

RATE = 0.02
POWERS = 30


def reached(function: Callable[[Tensor], Tensor], shape: tuple[int, ...], steps: int) -> dict[str, Any]:
    """The largest ratio found from a photograph and from noise, and the first ones.

    In float64; what rounds there is not counted.
    """
    begun: list[float] = []
    best = 0.0
    for start in inputs(shape):
        begun.append(stretched(function, start))
        x, value = ascent(function, start, steps)
        best = max(best, begun[-1], value, stretched(function, x))
    return {"value": best, "begun": begun, "steps": steps, "powers": POWERS}


def ascent(function: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> tuple[Tensor, float]:
    """The best point seen, and its ratio."""
    x = start.clone().requires_grad_()
    generator = torch.Generator().manual_seed(1)
    d = (0.1 * torch.randn(start.shape, generator=generator, dtype=start.dtype)).requires_grad_()
    adam = torch.optim.Adam([x, d], lr=RATE)
    best, at = 0.0, start
    for _ in range(steps):
        ratio = (function(x + d) - function(x)).norm() / d.norm()
        if float(ratio.detach()) > best:
            best, at = float(ratio.detach()), x.detach().clone()
        adam.zero_grad()
        (-ratio.log()).backward()
        adam.step()
    return at, best


def stretched(function: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Norm of the Jacobian at a point, from below."""
    given = x.clone().requires_grad_()
    y = function(given)
    dummy = torch.zeros_like(y, requires_grad=True)
    (back,) = torch.autograd.grad(y, given, dummy, create_graph=True)
    v = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    value = 0.0
    for _ in range(POWERS):
        v = v / v.norm()
        (forward,) = torch.autograd.grad(back, dummy, v, retain_graph=True)
        value = max(value, float(forward.norm()))
        (v,) = torch.autograd.grad(y, given, forward, retain_graph=True)
    return value
