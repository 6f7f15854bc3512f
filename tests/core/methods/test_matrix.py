"""Stacks of matrices: exact, from below, from above."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.cases import Layer, Recipe, recipes
from helpers.checks import assert_exact, assert_tight, assert_valid
from helpers.libraries import Lib
from helpers.oracle import sigma_star
from helpers.promises import for_all, layers_for, rounded
from hypothesis import strategies as st

import specnorm

MATRICES = recipes(shape=st.tuples(st.integers(1, 9), st.integers(1, 9)))


@pytest.mark.parametrize("n_iter", [0, 1, 6, 12])
@pytest.mark.widths
def test_value_is_a_valid_and_tight_bound(xp: Lib, n_iter: int) -> None:
    if xp.compiles and n_iter != 6:
        pytest.skip("each count is a compilation")

    def check(layer: Layer) -> None:
        flat = layer.kernel.reshape(layer.recipe.shape[0], -1)
        matrix, truth = xp.asarray(flat), sigma_star(flat)
        recipe = Recipe(flat.shape, dtype=layer.recipe.dtype)
        roomy = rounded(truth, layer.recipe, xp)
        assert_exact(xp.number(specnorm.matrix_norm(matrix)), roomy, 1e-15)
        assert_valid(xp.number(specnorm.power_iteration(matrix, n_iter=n_iter)), "lower", truth)
        upper = xp.number(specnorm.gram_iteration(matrix, n_iter=n_iter))
        assert_valid(upper, "upper", truth)
        tiny = 4 * float(np.finfo(recipe.dtype).smallest_normal)
        assert_tight(upper - tiny, roomy, min(recipe.shape) ** (1 / 2 ** (n_iter + 1)) * (1 + 1e-12))

    drawn = layers_for(xp) if xp.compiles else MATRICES.map(lambda recipe: Layer(recipe, ()))
    for_all(xp, drawn, check, share=0.5)
