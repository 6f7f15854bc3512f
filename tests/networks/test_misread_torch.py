"""Claims about torch's networks that were false, since an operator, a constant or a name was read wrongly.

Truth is the module itself: its dense Jacobian, or a pair of inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from specnorm_torch import network_bound  # noqa: E402 - after the skip
from torch import nn  # noqa: E402


class Function(nn.Module):
    """A module of one function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


def slope(function: Callable[..., Any], shape: tuple[int, ...], seed: int = 0) -> float:
    """Largest norm of the Jacobian at some inputs."""
    numbers = torch.Generator().manual_seed(seed)
    inputs = (torch.randn(1, *shape, generator=numbers, dtype=torch.float64) for _ in range(20))
    return max(
        float(torch.linalg.matrix_norm(torch.autograd.functional.jacobian(function, x).reshape(-1, x.numel()), 2))
        for x in inputs
    )


def is_bound(function: Callable[..., Any], shape: tuple[int, ...]) -> bool:
    """Whether what is claimed, if anything, is not exceeded."""
    found = network_bound(Function(function), shape).upper
    return found is None or slope(function, shape) <= found * (1 + 1e-9)


# -- constants -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("c", [[[1.0, 1.0], [1.0, 100.0]], [1.0, 100.0], [[1.0], [100.0]], [[-1.0, 30.0]]])
def test_a_choice_reads_every_factor(c: list[Any]) -> None:
    """``where(x > 0, x, c x)``: the first of many factors was taken for all."""
    factors = torch.tensor(c)
    assert is_bound(lambda x: torch.where(x > 0, x, factors.to(x) * x), (2, 2))
    assert is_bound(lambda x: torch.where(x <= 0, factors.to(x) * x, x), (2, 2))
    assert is_bound(lambda x: (x > 0) * x + (x <= 0) * (factors.to(x) * x), (2, 2))
    assert is_bound(lambda x: torch.where(factors.to(x) * x > 0, x, 0.5 * x), (2, 2))


def test_a_choice_of_one_factor_is_known() -> None:
    found = network_bound(Function(lambda x: torch.where(x > 0, x, 3 * x)), (2, 2)).upper
    assert found is not None
    assert 3 <= found < 3.01
