"""Stacks of matrices: exact, from below, from above."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.cases import Layer, Recipe, recipes
from helpers.checks import assert_exact, assert_tight, assert_valid
from helpers.libraries import Lib
from helpers.oracle import sigma_star
from helpers.promises import for_all, layers_for, rounded
from hypothesis import given
from hypothesis import strategies as st

import specnorm

MATRICES = recipes(shape=st.tuples(st.integers(1, 9), st.integers(1, 9)))


@given(recipe=MATRICES, n_iter=st.integers(0, 12))
def test_value_is_a_valid_and_tight_bound(recipe: Recipe, n_iter: int) -> None:
    matrix, truth = recipe.kernel, sigma_star(recipe.kernel)
    assert_exact(specnorm.matrix_norm(matrix), truth, 4 * recipe.eps)
    assert_valid(specnorm.power_iteration(matrix, n_iter=n_iter), "lower", truth)
    upper = specnorm.gram_iteration(matrix, n_iter=n_iter)
    assert_valid(upper, "upper", truth)
    rank = min(matrix.shape)
    tiny = 4 * float(np.finfo(recipe.dtype).smallest_normal)
    assert_tight(float(upper) - tiny, truth, rank ** (1 / 2 ** (n_iter + 1)) * (1 + 8 * recipe.eps + 1e-12))


@pytest.mark.widths
def test_on_every_library(xp: Lib) -> None:
    def check(layer: Layer) -> None:
        flat = layer.kernel.reshape(layer.recipe.shape[0], -1)
        recipe = Recipe(flat.shape, dtype=layer.recipe.dtype)
        matrix, truth = xp.asarray(flat), sigma_star(flat)
        roomy = rounded(truth, layer.recipe, xp)
        assert_exact(xp.number(specnorm.matrix_norm(matrix)), roomy, 1e-15)
        assert_valid(xp.number(specnorm.power_iteration(matrix)), "lower", truth)
        upper = xp.number(specnorm.gram_iteration(matrix))
        assert_valid(upper, "upper", truth)
        assert_tight(upper, roomy, min(recipe.shape) ** (1 / 2**7))

    for_all(xp, layers_for(xp), check, share=0.5)
