"""Every differentiable function, and its gradient, for tests with torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import functions

Function = Callable[[Any], Any]

FUNCTIONS = functions(k=4)

SHAPE = (4, 3, 3, 2)
COMPILER = "aot_eager"
"""Traces the forward and the backward as the default compiler does, without generating code."""

every = pytest.mark.parametrize("name", FUNCTIONS)


def normal(*shape: int, seed: int = 0) -> Any:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape))


def kernel() -> Any:
    return normal(*SHAPE)


def scalar(name: str) -> Function:
    """The function, its values weighted by a cotangent that is neither 1 nor constant."""
    function = FUNCTIONS[name]

    def weighted(k: Any) -> Any:
        value = function(k)
        weights = torch.linspace(0.5, 1.7, value.numel(), dtype=value.dtype) * (-1.0) ** torch.arange(value.numel())
        return (value.reshape(-1) * weights).sum()

    return weighted


def expected_gradient(name: str, k: Any) -> Any:
    """Gradient of `scalar` by torch.autograd, itself held against finite differences below."""
    k = k.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(scalar(name)(k), k)
    return gradient


BATCHED = 1e-6
"""A batch stops alternating when its slowest kernel has converged: TN's value, flat there, is known to 1e-13, its
vectors, and so its gradient, to about the root of that."""


def close(found: Any, expected: Any, rtol: float = 1e-9) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert float((found - expected).abs().max()) <= rtol * float(expected.abs().max())
    assert float(expected.abs().max()) > 1e-3, "a zero gradient proves nothing"


def wanted_at(name: str, batch: Any) -> Any:
    return torch.stack([expected_gradient(name, k) for k in batch])


def compiled(function: Function, backend: str = COMPILER) -> Function:
    wrapped: Function = torch.compile(function, fullgraph=True, backend=backend)
    return wrapped
