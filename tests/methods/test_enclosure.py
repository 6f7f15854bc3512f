"""Enclosures and certificates: both ends proven, and a verdict that is never wrong."""

from __future__ import annotations

import numpy as np
import pytest
from checks import assert_encloses
from hypothesis import given
from hypothesis import strategies as st
from libraries import Lib
from oracle import dense_norm, sigma_star
from promises import for_all, layers_for, rounded
from strategies import Layer, Recipe, recipes

import specnorm
from specnorm import Enclose, ExactFFT, Undecided


def test_both_ends_hold(xp: Lib) -> None:
    """Around the supremum, and around the circular norm at a size; as narrow as asked where it says so."""

    def check(layer: Layer) -> None:
        kernel = xp.asarray(layer.kernel)
        for size, truth in (
            (None, sigma_star(layer.kernel, max_cells=4000)),
            (layer.input_shape, dense_norm(layer.kernel, layer.input_shape)),
        ):
            found = specnorm.enclose(kernel, size)
            lower, upper = xp.number(found.lower), xp.number(found.upper)
            assert_encloses(lower, upper, truth)
            if found.status.startswith("converged") and xp.has_float64:
                room = rounded(truth, layer.recipe, xp)
                assert upper <= lower * 1.001 + (room.hi - room.lo)

    for_all(xp, layers_for(xp), check, share=0.5)


@given(recipe=recipes(), rtol=st.sampled_from((1e-1, 1e-3, 1e-5)))
def test_every_tolerance(recipe: Recipe, rtol: float) -> None:
    found = specnorm.enclose(recipe.kernel, rtol=rtol)
    assert_encloses(found.lower, found.upper, sigma_star(recipe.kernel, max_cells=4000))


def test_witness_attains_the_lower_end() -> None:
    """||G(theta) v|| of the witness, summed by hand, is at least the lower end."""
    for seed in range(10):
        kernel = Recipe(((3, 4, 3, 2), (2, 2, 5), (3, 2, 2, 2, 2))[seed % 3], seed=seed).kernel
        found = specnorm.enclose(kernel)
        theta, u, v = found.witness
        symbol = np.zeros(kernel.shape[:2], dtype=complex)
        for tap in np.ndindex(*kernel.shape[2:]):
            symbol += kernel[:, :, *tap] * np.exp(1j * np.dot(tap, theta))
        assert np.linalg.norm(symbol @ v) / np.linalg.norm(v) >= float(found.lower) * (1 - 1e-12)
        assert abs(abs(np.vdot(u, symbol @ v)) - np.linalg.norm(symbol @ v)) < 1e-8


def test_gradient_is_the_norms(xp: Lib) -> None:
    """At the witness, which is close to the maximiser: up to the tolerance the gradient of the exact norm."""
    kernel = xp.asarray(Recipe((4, 4, 3, 3), dtype=xp.dtypes[-1], seed=3).kernel)
    _, gradient = specnorm.value_and_grad(kernel, Enclose())
    _, exact = specnorm.value_and_grad(kernel, ExactFFT())
    difference = np.linalg.norm(xp.to_numpy(gradient) - xp.to_numpy(exact))
    assert difference <= 1e-2 * float(np.linalg.norm(xp.to_numpy(exact)))


@given(recipe=recipes(scaled=False), ratio=st.sampled_from((0.5, 0.99, 0.9999, 1.0, 1.0001, 1.01, 2.0)))
def test_certificates_are_never_wrong(recipe: Recipe, ratio: float) -> None:
    """True only if the norm is at most the bound, False only if it is above; undecided only close by."""
    truth = sigma_star(recipe.kernel, max_cells=4000)
    bound = ratio * truth.hi
    try:
        verdict = specnorm.certify(recipe.kernel, bound)
    except Undecided:
        assert 0.999 < ratio < 1.001
        return
    if verdict:
        assert bound >= truth.lo
    else:
        assert bound < truth.hi


@pytest.mark.parametrize("seed", [5, 335])
def test_nearly_equal_singular_values(seed: int) -> None:
    """An isometry with a perturbation of 0.1 %: power steps hardly tell the vectors apart, but the rtol is reached."""
    kernel = Recipe((2, 4, 4), "orthogonal", seed=seed).kernel
    found = specnorm.enclose(kernel)
    assert float(found.upper) <= 1.0011 * sigma_star(kernel).hi, found.status


@pytest.mark.parametrize("value", [1.0, 2.0, 9.0])
def test_closed_forms(value: float) -> None:
    kernel = value / 9 * np.ones((1, 1, 3, 3))
    assert specnorm.certify(kernel, value * (1 + 1e-6))
    assert not specnorm.certify(kernel, value * (1 - 1e-6))
