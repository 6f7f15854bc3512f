"""Gram iteration: kernels so long that roundings of products show."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from helpers.libraries import OPS

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
