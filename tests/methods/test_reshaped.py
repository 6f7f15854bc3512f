"""The plain reshape: a lower bound, elsewhere sold as the norm; refused where it bounds nothing."""

from __future__ import annotations

import numpy as np
import pytest
from checks import assert_valid
from libraries import Lib
from oracle import dense_norm, sigma_star
from promises import for_all, layers_for, rounded
from strategies import Layer, Recipe

import specnorm


@pytest.mark.widths
def test_is_the_norm_of_the_reshape(xp: Lib) -> None:
    """As in ``torch.nn.utils.spectral_norm``, but rounded down."""

    def check(layer: Layer) -> None:
        kernel = layer.kernel.astype(np.float64)
        scale = float(np.max(np.abs(kernel))) or 1.0
        plain = scale * float(np.linalg.norm((kernel / scale).reshape(kernel.shape[0], -1), 2))
        value = xp.number(specnorm.reshaped_norm(xp.asarray(layer.kernel)))
        rounding = rounded(sigma_star(layer.kernel, max_cells=500), layer.recipe, xp)
        assert value <= plain * (1 + 1e-14)
        assert value >= plain * (1 - 8 * layer.recipe.eps) - (rounding.hi - rounding.lo)

    for_all(xp, layers_for(xp), check)


def test_below_the_layer_where_a_patch_fits() -> None:
    """Circular for n >= k; zero padding for "same" as well: one output sees a whole patch."""
    for seed in range(20):
        shape = ((3, 2, 3, 2), (2, 2, 3), (1, 4, 2, 2), (4, 1, 1, 3))[seed % 4]
        kernel = Recipe(shape, seed=seed).kernel
        sizes = tuple(k + seed % 3 for k in shape[2:])
        for mode in ("circular", "zeros"):
            value = specnorm.reshaped_norm(kernel, input_shape=sizes, padding_mode=mode)
            assert_valid(value, "lower", dense_norm(kernel, sizes, padding_mode=mode))
