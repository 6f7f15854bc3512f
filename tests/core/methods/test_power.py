"""The layer itself from below: valid for every geometry, near the truth; products, seeds, gradients, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.cases import Recipe
from helpers.checks import assert_valid
from helpers.oracle import dense_norm

import specnorm
from specnorm.backends.types import ArrayOps


def test_a_bound_after_any_number_of_steps() -> None:
    kernel = Recipe((5, 4, 3, 3), seed=3).kernel
    for mode in ("circular", "zeros", "reflect", "symmetric", "replicate"):
        truth = dense_norm(kernel, 6, padding_mode=mode)
        values = []
        for n_iter in (1, 2, 3, 5, 10, 30, 100):
            value = specnorm.power_norm(kernel, 6, padding_mode=mode, n_iter=n_iter)
            assert_valid(value, "lower", truth)
            values.append(float(value))
        assert values[0] < 0.98 * truth.lo
        assert values[-1] >= (1 - 1e-8) * truth.lo


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ritz_values_of_any_vectors_are_bounds(dtype: str) -> None:
    """Neither orthogonal, nor normalised, nor independent: what is proven assumes nothing about the vectors."""
    from specnorm.backends import load
    from specnorm.power.proofs.ritz import ritz_down

    backend = load("numpy")
    for seed in range(60):
        random = np.random.RandomState(seed)
        m, n, k = random.randint(1, 40), random.randint(1, 40), random.randint(1, 5)
        a = (random.standard_normal((m, n)) * 10.0 ** random.uniform(-3, 0, (1, n))).astype(dtype)
        exact = np.concatenate([np.linalg.svd(a.astype(np.float64), compute_uv=False), np.zeros(k)])
        top = np.linalg.svd(a)[2][:k].astype(dtype)
        start: Any = np.concatenate([top, np.zeros((max(0, k - len(top)), n), dtype=dtype)])
        mixed = random.standard_normal((k, k)).astype(dtype) @ start
        for x in (start, mixed, np.repeat(start[:1], k, axis=0), start + 1e-4 * random.standard_normal((k, n))):
            rows: Any = x.astype(dtype)[None]
            images, terms = rows @ a.T, np.abs(rows) @ np.abs(a).T
            got: Any = ritz_down(images, terms, rows, n + 2, ops=ArrayOps.of(backend, rows))[0]
            assert (got.astype(np.float64) <= exact[:k] * (1 + 1e-14)).all()
        if k <= min(m, n):
            sharp = ritz_down(start[None] @ a.T, np.abs(start[None]) @ np.abs(a).T, start[None], n + 2,
                              ops=ArrayOps.of(backend, a))[0]  # fmt: skip
            assert sharp[0] >= exact[0] * (1 - (1e-3 if dtype == "float32" else 1e-11))
