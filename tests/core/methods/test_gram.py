"""Gram iteration: kernels so long that roundings of products show, and isometries."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from helpers.libraries import OPS, Lib
from helpers.spectra import orthogonal, shift

import specnorm
from specnorm.grid.proof import gram_iteration_of_parts_up


# -- the sums of taps, by which `gram_rescaling` divides -----------------------------------------------------------
def test_long_kernels_are_not_bounded_by_their_roundings() -> None:
    """Those of a product with many rows in float32 were once more than the norm itself: NaN."""
    kernel = np.ones((20_000, 24, 1), np.float32)
    for case in (kernel, np.swapaxes(kernel, 0, 1).copy()):
        assert 1 <= float(specnorm.gram_bound(case, 8)) / math.sqrt(kernel.size) <= 1 + 1e-5
    ones: Any = np.ones((1, 5_600_000, 2), np.float32)
    bound = gram_iteration_of_parts_up(ones, 0 * ones, 3, 0.0, xp=OPS.xp)
    assert 1 <= float(bound[0]) / math.sqrt(ones.size) < 3


@pytest.mark.widths
def test_isometries_are_exact_after_one_product(xp: Lib) -> None:
    """A layer of 64 channels at a size: 1.0589 with six products by the Frobenius norm alone, 2.83 with one."""
    dtype = xp.dtypes[-1]
    precision = 1e-4 if dtype == "float32" else 1e-9
    for kernel in (orthogonal(64)[:, :, None, None], shift(16)):
        bound = xp.number(specnorm.gram_bound(xp.asarray(kernel.astype(dtype)), 4, n_iter=1))
        assert 1 - 1e-6 <= bound <= 1 + precision
