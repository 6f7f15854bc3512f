"""Bounds of small torch modules, for the tests here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", exc_type=ImportError)
from specnorm_networks import network_bound  # noqa: E402
from torch import Tensor, nn  # noqa: E402


def upper_of(model: nn.Module, given: Any, rtol: float = 1e-3) -> float:
    """The bound, of a network without unknown parts."""
    found = network_bound(model, given, rtol=rtol)
    assert found.unknown == ()
    return float(found.upper)


class Function(nn.Module):
    def __init__(self, f: Callable[..., Any], *modules: nn.Module) -> None:
        super().__init__()
        self.f = f
        self.inner = nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Any:
        return self.f(x, *self.inner)


def jacobian_norm(f: Callable[[Tensor], Tensor], x: Tensor) -> float:
    matrix = torch.autograd.functional.jacobian(lambda z: f(z[None])[0].flatten(), x)
    return float(torch.linalg.matrix_norm(matrix.reshape(-1, x.numel()), 2))
