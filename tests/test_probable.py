"""The norm of a black box: below with no larger probability than stated, and refused where it is none."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import specnorm
from specnorm.errors import MethodError


def of(matrix: Any, **options: Any) -> Any:
    return specnorm.operator_norm(lambda v: matrix @ v, lambda u: matrix.T @ u, matrix.shape, **options)


@pytest.mark.parametrize("shape", [(30, 50), (50, 30), (200, 200), (1, 7), (3, 3)])
def test_encloses_the_norm(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(0).standard_normal(shape)
    norm = float(np.linalg.norm(matrix, 2))
    for seed in range(10):
        found = of(matrix, seed=seed)
        assert found.lower <= norm * (1 + 1e-12)
        assert norm <= found.upper <= 1.011 * norm
        assert found.kind == "probable"


def test_falls_below_no_more_often_than_stated() -> None:
    """Of the spectrum that Lanczos is slowest on, and with few steps: the share of failures is at most delta."""
    values = (1 + np.cos(np.pi * np.arange(1, 401) / 400)) / 2
    values[0] = 1.0
    matrix = np.diag(np.sqrt(values))
    below = [of(matrix, delta=0.5, rtol=0.2, seed=seed).upper < 1.0 for seed in range(300)]
    assert np.mean(below) <= 0.5
    least = min(of(matrix, delta=0.5, rtol=0.2, seed=seed).lower for seed in range(100))
    assert least < 0.99  # the test can fail: few steps are not enough to meet the norm


def test_products_are_as_many_as_the_theorem_asks_for() -> None:
    size, calls = 10**4, list[None]()

    def product(v: Any) -> Any:
        calls.append(None)
        return np.linspace(0, 1, size) * v

    found = specnorm.operator_norm(product, product, (size, size), rtol=5e-3, seed=0)
    eps = 1 - 1.005**-2
    assert len(calls) == found.products == 2 + 2 * math.ceil((math.log(1.648e2 / 1e-9) / math.sqrt(eps) + 1) / 2)
    assert 0.999 <= found.lower <= 1 <= found.upper
    assert "probability" in str(found)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rmatvec": lambda u: 2 * u}, "not the adjoint"),
        ({"matvec": lambda v: v[:2]}, r"shape \(2,\); expected \(3,\)"),
        ({"matvec": lambda v: v * np.nan}, "finite"),
        ({"delta": 0.0}, "between 0 and 1"),
        ({"shape": (0, 3)}, "positive whole numbers"),
    ],
)
def test_refusals(options: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {"matvec": lambda v: v, "rmatvec": lambda u: u, "shape": (3, 3)} | options
    with pytest.raises(MethodError, match=words):
        specnorm.operator_norm(given.pop("matvec"), given.pop("rmatvec"), given.pop("shape"), **given)
