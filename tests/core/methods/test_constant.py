"""Kernels with one tap, matrices: enclosed by Lanczos and one factorisation; the search is for what is left wide."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import plans

import specnorm
from specnorm.unfoldings.matrices import MatrixNorm


def orthogonal(n: int, seed: int = 0) -> Any:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]


def graded(n: int, m: int, values: Any) -> Any:
    count = min(n, m)
    return orthogonal(n)[:, :count] @ np.diag(values) @ orthogonal(m, 1)[:, :count].T


RNG = np.random.default_rng(0)
MATRICES: dict[str, Any] = {
    "square": RNG.standard_normal((100, 100)), "wide": RNG.standard_normal((70, 300)),
    "tall": RNG.standard_normal((300, 70)), "orthogonal": orthogonal(90),
    "rank one": np.outer(RNG.standard_normal(80), RNG.standard_normal(120)),
    "two nearly equal": graded(90, 80, np.r_[1.0, 1.0 - 1e-7, np.linspace(0.9, 0, 78)]),
    "graded": graded(90, 80, 10.0 ** -np.arange(80.0)),
    "flat but for 1e-5": graded(80, 80, 1 - 1e-5 * np.linspace(0, 1, 80) ** 2),
    "large": 1e200 * RNG.standard_normal((66, 66)), "small": 1e-200 * RNG.standard_normal((66, 66)),
    "start vector missed": np.diag(np.r_[np.zeros(79), 1.0]),
}  # fmt: skip


@pytest.mark.parametrize("rtol", [1e-3, 1e-8])
@pytest.mark.parametrize("name", MATRICES)
def test_bounds_hold_and_are_close(name: str, rtol: float) -> None:
    matrix = MATRICES[name]
    scale = float(np.max(np.abs(matrix)))
    truth = scale * float(np.linalg.norm(matrix / scale, 2))
    found = specnorm.enclose(matrix, rtol=rtol)
    assert float(found.lower) <= truth * (1 + 1e-12)
    assert float(found.upper) >= truth * (1 - 1e-12)
    assert float(found.upper) <= float(found.lower) * (1 + rtol)


def test_matrices_of_rank_one_have_their_norm() -> None:
    """Lanczos has nothing but rounding left after two steps: values were up to 22 % too low."""
    for seed in range(20):
        dice = np.random.default_rng(seed)
        entry = np.zeros((128, 128))
        entry[64, 2 * seed + 5] = 1.0
        for matrix in (entry, np.outer(dice.normal(size=80), dice.normal(size=70))):
            truth = np.linalg.norm(matrix)
            assert float(specnorm.matrix_norm(matrix)) == pytest.approx(truth, rel=1e-13)
            assert float(specnorm.f4_bound(matrix)) == pytest.approx(truth, rel=1e-6)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", [name for name in MATRICES if name not in ("large", "small")])
def test_matrix_norm_is_exact_where_lanczos_finds_it(name: str, dtype: str) -> None:
    """To a few roundings of its own precision, between two proven bounds; with the gradient of LAPACK's vectors."""
    matrix, eps = MATRICES[name].astype(dtype), float(np.finfo(dtype).eps)
    u, s, vh = np.linalg.svd(matrix.astype(np.float64))
    result = plans.run(matrix, MatrixNorm())
    assert float(result.stats["lower"]) <= s[0] * (1 + 1e-14)
    assert float(result.stats["upper"]) >= s[0] * (1 - 1e-14)
    assert float(result.stats["upper"]) <= float(result.stats["lower"]) * (1 + 1e-11 + 6 * eps)
    assert float(result.value) == pytest.approx(s[0], rel=8 * eps)
    if s[1] < 0.999 * s[0]:
        gradient = plans.gradient(matrix, MatrixNorm())
        assert np.abs(gradient - np.outer(u[:, 0], vh[0])).max() < (1e-7 if dtype == "float64" else 1e-4)


@pytest.mark.parametrize("seed", range(6))
def test_matrix_norm_is_exact_where_the_two_largest_values_nearly_agree(seed: int) -> None:
    """Residuals and gaps of Lanczos do not see the second value: norms were 1e-13 to 3e-11 too low."""
    dice = np.random.default_rng(seed)
    u, v = (np.linalg.qr(dice.standard_normal((128, 128)))[0] for _ in range(2))
    s = np.concatenate([[1.0, 1 - 10.0 ** -(8 + seed)], 0.5 * dice.random(126)])
    matrix = (u * s) @ v.T
    # At most the norm, in extended precision.
    x = v[:, 0].astype(np.longdouble)
    length = np.linalg.norm(matrix.astype(np.longdouble) @ x) / np.linalg.norm(x)
    assert float(specnorm.matrix_norm(matrix) / length) >= 1 - 2e-15
