"""The plain reshape: a lower bound, elsewhere sold as the norm; refused where it bounds nothing."""

from __future__ import annotations

import numpy as np
import pytest
from cases import Layer
from libraries import Lib
from oracle import sigma_star
from promises import for_all, layers_for, rounded

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
