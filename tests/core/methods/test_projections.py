"""Derivatives through projections are right or refused; an enclosure outside of a dtype's numbers says so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import specnorm
from specnorm import MethodError
from specnorm.result import Outcome

KERNEL: Any = np.cos(np.arange(54.0)).reshape(3, 2, 3, 3)
WEIGHTS: Any = np.sin(np.arange(54.0)).reshape(KERNEL.shape)
DIRECTION: Any = np.random.RandomState(0).standard_normal(KERNEL.shape)


def slope(bound: float) -> float:
    """Derivative of a weighted sum of the rescaled kernel along a direction, by differences."""
    step = 1e-4
    ends = [float((specnorm.rescale(KERNEL + x * DIRECTION, bound) * WEIGHTS).sum()) for x in (step, -step)]
    return (ends[0] - ends[1]) / (2 * step)


@pytest.mark.parametrize("bound", [1.0, 100.0])
def test_rescale_has_its_derivative_in_torch(bound: float) -> None:
    torch = pytest.importorskip("torch")
    kernel = torch.tensor(KERNEL, requires_grad=True)
    scaled = specnorm.rescale(kernel, bound)
    np.testing.assert_array_equal(scaled.detach().numpy(), specnorm.rescale(KERNEL, bound))
    (found,) = torch.autograd.grad((scaled * torch.tensor(WEIGHTS)).sum(), kernel)
    np.testing.assert_allclose((found.numpy() * DIRECTION).sum(), slope(bound), rtol=1e-4)


def test_a_derivative_through_clip_is_refused() -> None:
    torch = pytest.importorskip("torch")
    clipped = specnorm.clip(torch.tensor(KERNEL, requires_grad=True), 1.0)
    assert specnorm.certify(clipped.detach(), 1.0)
    with pytest.raises(MethodError, match="rescale, which is differentiable"):
        clipped.sum().backward()


@pytest.mark.parametrize("scale", [1e308, 1e-310])
def test_a_norm_outside_of_the_numbers_is_not_called_converged(scale: float) -> None:
    found = specnorm.enclose(KERNEL * scale)
    assert found.outcome is Outcome.RANGE
    assert np.isinf(found.upper) or found.lower == 0
    (row,) = specnorm.audit({"conv": KERNEL * scale}).layers
    assert row.reason or "range" in str(row.note)
