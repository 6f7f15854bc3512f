"""A network is proven nonexpansive, or refuted by a pair of inputs that anybody can check, or neither is said."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from specnorm_networks import nonexpansive  # noqa: E402 - after the skip
from torch import nn  # noqa: E402


def denoiser(scale: float, seed: int = 0) -> Any:
    """Two convolutions of norm at most ``scale`` together: their kernels' entries sum to that, absolutely."""
    numbers = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1))
    for parameter, size in ((model[0].weight, 1.0), (model[2].weight, scale)):
        values = torch.randn(parameter.shape, generator=numbers)
        parameter.data = size * values / values.abs().sum()
    return model


def ratio(function: Any, pair: tuple[Any, Any]) -> float:
    x, y = map(torch.as_tensor, pair)
    with torch.no_grad():
        return float((function(x) - function(y)).norm() / (x - y).norm())


def test_a_small_network_is_proven() -> None:
    found: Any = nonexpansive(denoiser(0.9), (1, 8, 8))
    assert found.proven is True
    assert 0 < found.reached <= found.bound.upper <= 1
    assert "is nonexpansive" in repr(found) == str(found)
    with pytest.raises(TypeError, match=r"use its \.proven"):
        bool(found)


def test_an_expansive_layer_is_refuted_by_a_pair() -> None:
    """Twice the identity at one channel: every pair does, and theirs can be checked by hand."""
    model = nn.Conv2d(1, 1, 1)
    model.weight.data.fill_(2.0)
    found = nonexpansive(model, (1, 4, 4))
    assert found.proven is False
    assert ratio(model.double(), found.pair) == pytest.approx(2.0, rel=1e-9)
    assert 2.0 * (1 - 1e-7) <= found.reached <= 2.0, "what the pair's own rounding may make is taken off"
