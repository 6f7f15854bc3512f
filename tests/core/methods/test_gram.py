"""Gram iteration, of the circular norm and of the convolution: bounds at every count, sums, rounding, gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from helpers.cases import Layer
from helpers.checks import assert_tight, assert_valid
from helpers.libraries import OPS, Lib
from helpers.oracle import dense_norm, sigma_star
from helpers.promises import for_all, layers_for, measured, rounded

import specnorm
from specnorm.grid.proof import gram_iteration_of_parts_up
from specnorm.methods import Gram


@pytest.mark.parametrize("at_size", [True, False])
@pytest.mark.parametrize("n_iter", [1, 2, 6, 12])
@pytest.mark.widths
def test_valid_and_tight_at_every_count(xp: Lib, n_iter: int, at_size: bool) -> None:
    """Never above p**(1 / 2**(t+1)) times the norm, p the smaller channel count (Schatten norm of order 2**(t+1)).

    At every size the factor of the grid comes on top.
    """
    if xp.compiles and n_iter != 1:
        pytest.skip("each count is a compilation; 6 is tested with every method")

    def check(layer: Layer) -> None:
        size = layer.input_shape if at_size else None
        truth = dense_norm(layer.kernel, size) if size else sigma_star(layer.kernel, max_cells=4000)
        got = measured(xp, layer, Gram(n_iter=n_iter), input_shape=size)
        assert_valid(got, "upper", truth)
        shape = layer.recipe.shape
        factor = 1.0 if size else math.prod(1 / math.cos(math.pi / 20) for k in shape[2:] if k > 1)
        assert_tight(got, rounded(truth, layer.recipe, xp), factor * min(shape[:2]) ** (1 / 2 ** (n_iter + 1)))

    for_all(xp, layers_for(xp), check, share=0.5)


# -- the sums of taps, by which `gram_rescaling` divides -----------------------------------------------------------
def test_long_kernels_are_not_bounded_by_their_roundings() -> None:
    """Those of a product with many rows in float32 were once more than the norm itself: NaN."""
    kernel = np.ones((20_000, 24, 1), np.float32)
    for case in (kernel, np.swapaxes(kernel, 0, 1).copy()):
        assert 1 <= float(specnorm.gram_bound(case, 8)) / math.sqrt(kernel.size) <= 1 + 1e-5
    ones: Any = np.ones((1, 5_600_000, 2), np.float32)
    bound = gram_iteration_of_parts_up(ones, 0 * ones, 3, 0.0, xp=OPS.xp)
    assert 1 <= float(bound[0]) / math.sqrt(ones.size) < 3
