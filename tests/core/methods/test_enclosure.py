"""Enclosures: both bounds proven."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.cases import Recipe
from helpers.checks import assert_encloses
from helpers.oracle import dense_norm

import specnorm
from specnorm.methods import Enclose, ExactFFT


def test_witness_attains_the_lower_end() -> None:
    """||G(theta) v|| of the witness, summed by hand, is at least the lower bound."""
    for seed in range(10):
        kernel = Recipe(((3, 4, 3, 2), (2, 2, 5), (3, 2, 2, 2, 2))[seed % 3], seed=seed).kernel
        found = specnorm.enclose(kernel)
        theta, u, v = found.witness
        symbol = np.zeros(kernel.shape[:2], dtype=complex)
        for tap in np.ndindex(*kernel.shape[2:]):
            symbol += kernel[:, :, *tap] * np.exp(1j * np.dot(tap, theta))
        assert np.linalg.norm(symbol @ v) / np.linalg.norm(v) >= float(found.lower) * (1 - 1e-12)
        assert abs(abs(np.vdot(u, symbol @ v)) - np.linalg.norm(symbol @ v)) < 1e-8


def test_the_witness_of_groups_is_of_the_largest_one() -> None:
    """Single entries are bounded without a search: the value was once that of the first group."""
    kernel = np.asarray([[1.0], [3.0], [2.0]])[:, :, None]
    for method in (Enclose(), ExactFFT()):
        value, gradient = specnorm.value_and_grad(kernel, method, groups=3)
        assert float(value) == pytest.approx(3.0, rel=1e-6)
        assert gradient.reshape(-1).tolist() == [0.0, 1.0, 0.0]


def test_a_tighter_tolerance_lowers_no_lower_end() -> None:
    """The vectors of searches at a size had not converged: lower ends fell by up to 6e-6."""
    for seed in range(4):
        kernel = np.random.default_rng(seed).standard_normal((6, 8, 5, 5))
        loose, close = (specnorm.enclose(kernel, 12, rtol=rtol, padding_mode="circular") for rtol in (1e-3, 1e-4))
        assert float(close.lower) >= float(loose.lower) * (1 - 1e-13)


def test_symbol_that_cancels_to_subnormal_numbers() -> None:
    """What is left at frequency 0 is 1e-310: finite bounds, no NaN."""
    kernel = np.zeros((1, 2, 2))
    kernel[0, 0], kernel[0, 1, 0] = [1.0, -1.0], 1e-310
    for n in (1, 2, 8):
        found = specnorm.enclose(kernel, n)
        assert_encloses(found.lower, found.upper, dense_norm(kernel, n))
        assert np.isfinite(float(specnorm.gram_bound(kernel, n)))


def test_torch_searches_where_numpy_cannot_look(torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU the search runs in torch: the same code, here on CPU tensors that NumPy is told not to read."""
    from specnorm_torch.arrays import TorchArrays

    for seed, shape in enumerate([(3, 2, 3, 3), (16, 16, 3, 3), (2, 5, 4), (4, 4)]):
        kernel = np.random.RandomState(seed).standard_normal(shape) * np.geomspace(1, 0.01, shape[1]).reshape(
            1, -1, *[1] * (len(shape) - 2)
        )
        there = specnorm.enclose(kernel, rtol=1e-5)
        with monkeypatch.context() as patch:
            patch.setattr(TorchArrays, "numpy_view", lambda *_: False)
            here = specnorm.enclose(torch.tensor(kernel), rtol=1e-5)
            bound = specnorm.tn_bound(torch.tensor(kernel))
        assert float(here.lower) <= float(there.upper)
        assert float(there.lower) <= float(here.upper)
        assert float(here.upper) <= float(here.lower) * (1 + 1.1e-5)
        assert abs(float(bound) / float(specnorm.tn_bound(kernel)) - 1) < 1e-6
