"""The tensor-norm bound: above the supremum, below Fantastic Four, and never worse than the field's own recipe."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cases import Layer
from libraries import Lib
from numpy.typing import NDArray
from promises import for_all, layers_for

import specnorm
from specnorm import TensorNorm

ROTATION = np.stack([np.eye(2), np.array([[0.0, -1.0], [1.0, 0.0]])], axis=-1)


@pytest.mark.parametrize(
    ("kernel", "norm"),
    [
        (np.ones((1, 1, 2)), 2.0),
        (np.array([[[1.0, -1.0]]]), 2.0),
        (np.ones((1, 1, 3, 3)), 9.0),
        (np.ones((2, 3, 2, 2, 2)), 8 * math.sqrt(6)),
        (np.array([[3.0, 0.0], [4.0, 0.0]]), 5.0),
        (np.eye(3)[:, :, None, None], 1.0),
        (ROTATION, 2.0),
    ],
    ids=["sum", "difference", "ones 2-D", "ones 3-D", "matrix", "identity", "rotation: complex vectors needed"],
)
def test_closed_forms(xp: Lib, kernel: NDArray[np.float64], norm: float) -> None:
    if xp.compiles and kernel.shape not in ((1, 1, 3, 3), (2, 2), ROTATION.shape):
        pytest.skip("every shape is a compilation")
    x = xp.asarray(kernel.astype(xp.dtypes[-1]))
    estimate = xp.number(specnorm.tn_bound(x, certified=False))
    assert abs(estimate / norm - 1) < (1e-9 if xp.has_float64 else 1e-5)
    # TN equals the norm here: no gap for a proof of TN itself, so the proven value is 1.001 TN at most.
    proven = specnorm.measure(x, TensorNorm())
    assert proven.kind == "upper"
    assert norm <= xp.number(proven.value) <= 1.0011 * norm


def test_below_every_unfolding(xp: Lib) -> None:
    """TN <= F4: merging vectors into a larger unit vector can only raise the maximum."""

    def check(layer: Layer) -> None:
        kernel = xp.asarray(layer.kernel)
        least = float(np.min(xp.to_numpy(specnorm.unfolding_bounds(kernel))))
        rounding = 1e-5 if layer.recipe.dtype == "float32" else 1e-10
        assert xp.number(specnorm.tn_bound(kernel, certified=False)) <= least * (1 + rounding)
        assert xp.number(specnorm.tn_bound(kernel)) <= least * (1 + rounding) * 1.001

    for_all(xp, layers_for(xp), check)
