"""The frequency-grid bound: above the supremum for every grid it accepts, and attained by a closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers.cases import Recipe, recipes
from helpers.checks import assert_tight, assert_valid
from helpers.oracle import sigma_star
from hypothesis import given
from hypothesis import strategies as st

import specnorm
from specnorm.methods import Grid


@given(recipe=recipes(), extra=st.integers(0, 12))
def test_valid_and_tight_on_every_grid(recipe: Recipe, extra: int) -> None:
    """N points an axis: at most min(1/cos(pi (k-1) / 2N), (1 - (k-1)/N)**-0.5) per axis above the supremum."""
    n = max(recipe.shape[2:], default=1) + extra
    kernel = recipe.kernel
    result = specnorm.measure(kernel, Grid(n=n))
    truth = sigma_star(kernel, max_cells=3000)
    assert_valid(result, "upper", truth)
    factor = math.prod(plain_factor(n, k) for k in recipe.shape[2:])
    allowance = 1 + 1e-9 + 8 * recipe.eps
    tiny = 4 * float(np.finfo(recipe.dtype).smallest_normal)
    assert_tight(float(result.value) - tiny, truth, factor * allowance)


def plain_factor(n: int, k: int) -> float:
    other = 1 / math.sqrt(1 - (k - 1) / n)
    cosine = math.cos(math.pi * (k - 1) / (2 * n))
    return min(other, 1 / cosine) if cosine > 1e-9 else other


@pytest.mark.parametrize("n", [3, 5, 7, 9, 21, 101])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_factor_is_attained(n: int, dtype: str) -> None:
    """|1 - e^{i theta}| on an odd grid misses its maximum by exactly the factor: a constant rounded down would show."""
    kernel = np.array([[[1.0, -1.0]]], dtype=dtype)
    value = float(specnorm.grid_bound(kernel, n=n))
    assert 2.0 <= value <= 2.0 * (1 + 4 * np.finfo(dtype).eps + 1e-12)


def test_search_of_a_large_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grouped layer of isometries times 1 and 3 has norm 3, which a search finds without the grid."""
    monkeypatch.setattr("specnorm.enclosure.frequency_grid.largest_bound", None)
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((128, 128)))[0] for _ in range(2))
    shifted = np.einsum("ik,kj,kt->ijt", left, right, np.eye(3)[np.arange(128) % 3])
    block = np.stack([shifted, np.zeros_like(shifted), np.zeros_like(shifted)], axis=-1)
    kernel = np.concatenate([block, 3 * block])
    result = specnorm.measure(kernel, Grid(), groups=2)
    factor = plain_factor(20, 3) ** 2
    assert 3 * (1 - 1e-12) <= float(result.value) <= 3 * factor * (1 + 1e-9)
    assert 3 / factor * (1 - 1e-9) <= float(result.stats["lower"]) <= 3 * (1 + 1e-12)
