"""The bound of the largest eigenvalue by trace and Frobenius norm: valid, and exact where it should be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from core.proof.test_layer_roundings import Instead
from helpers.libraries import OPS, Lib
from helpers.spectra import orthogonal, shift
from numpy.typing import NDArray

import specnorm
from specnorm.proofs import norms, rounding
from specnorm.proofs.norms import largest_eigenvalue_up

LONG = 400


def exact(matrices: Any) -> NDArray[np.float64]:
    wide = np.asarray(matrices, dtype=np.float64)
    return np.asarray(np.linalg.eigvalsh((wide + wide.mT) / 2)[..., -1])


def stacks(size: int) -> list[NDArray[np.float32]]:
    random = np.random.RandomState(size)
    q, x = orthogonal(size), random.standard_normal((size, 1))
    half, wide = q[:, : max(1, size // 2)], random.standard_normal((size, 2 * size))
    shapes = [np.eye(size), q.T @ q, x @ x.T, half @ half.T, wide @ wide.T, np.ones((size, size)), 0 * q]
    return [np.stack(shapes).astype(np.float32) * np.float32(2.0**k) for k in (-20, 0, 20)]


def lossy_vecdot(a: Any, b: Any) -> Any:
    return np.vecdot(a, b) * np.float32(1 - 0.99 * rounding.gamma(a.shape[-1], 2.0**-24))


@pytest.mark.parametrize("namespace", [OPS.xp, Instead(OPS.xp, vecdot=lossy_vecdot)], ids=["usual", "lossy"])
def test_it_is_a_bound_and_exact_where_it_should_be(namespace: Any) -> None:
    """Exact if all eigenvalues are equal, or all but one are 0; and never above the Frobenius norm."""
    long: Any = np.ones((1, LONG, LONG), dtype=np.float32) + np.float32(LONG) * np.eye(LONG, dtype=np.float32)
    assert (np.asarray(largest_eigenvalue_up(long, xp=namespace)) >= exact(long) * (1 - 1e-15)).all()
    for matrices in (each for size in (1, 2, 5, 16, 17, 40) for each in stacks(size)):
        given: Any = matrices
        found, truth = np.asarray(largest_eigenvalue_up(given, xp=namespace)), exact(matrices)
        assert (found >= truth * (1 - 1e-15)).all()
        assert (found <= np.asarray(norms.frobenius_up(given, xp=OPS.xp)) * (1 + 1e-5)).all()
        assert (found[[0, 1, 2, 5, 6]] <= truth[[0, 1, 2, 5, 6]] * 1.0001).all()


@pytest.mark.widths
def test_isometries_are_exact_after_one_product(xp: Lib) -> None:
    """A layer of 64 channels at a size: 1.0589 with six products by the Frobenius norm alone, 2.83 with one."""
    dtype = xp.dtypes[-1]
    precision = 1e-4 if dtype == "float32" else 1e-9
    for kernel in (orthogonal(64)[:, :, None, None], shift(16)):
        bound = xp.number(specnorm.gram_bound(xp.asarray(kernel.astype(dtype)), 4, n_iter=1))
        assert 1 - 1e-6 <= bound <= 1 + precision
    matrix = xp.asarray(orthogonal(64)[:48].astype(dtype))
    assert 1 - 1e-6 <= xp.number(specnorm.gram_iteration(matrix, n_iter=1)) <= 1 + precision
