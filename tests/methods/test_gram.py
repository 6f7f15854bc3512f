"""Gram iteration: an upper bound of the circular norm at every count, and how close at most."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from checks import assert_tight, assert_valid
from libraries import Lib
from oracle import dense_norm
from promises import for_all, layers_for, measured, rounded
from strategies import Layer, Recipe

import specnorm
from specnorm import Gram, MethodError, SpecnormError


@pytest.mark.parametrize("n_iter", [0, 1, 2, 4, 8, 12])
@pytest.mark.widths
def test_valid_and_tight_at_every_count(xp: Lib, n_iter: int) -> None:
    """Never above p**(1 / 2**(t+1)) times the norm, p the smaller channel count (Schatten norm of order 2**(t+1))."""
    if xp.compiles and n_iter not in (0, 2):
        pytest.skip("each count is a compilation; 6 is tested with every method")

    def check(layer: Layer) -> None:
        got = measured(xp, layer, Gram(n_iter=n_iter), input_shape=layer.input_shape)
        truth = dense_norm(layer.kernel, layer.input_shape)
        assert_valid(got, "upper", truth)
        factor = min(layer.recipe.shape[:2]) ** (1 / 2 ** (n_iter + 1))
        assert_tight(got, rounded(truth, layer.recipe, xp), factor)

    for_all(xp, layers_for(xp), check, share=0.5)


def test_zero_iterations_is_the_largest_frobenius_norm() -> None:
    kernel = Recipe((3, 4, 3, 2), seed=5).kernel
    symbols = np.fft.fft2(kernel, s=(5, 4))
    expected = float(np.max(np.sqrt(np.sum(np.abs(symbols) ** 2, axis=(0, 1)))))
    got = float(specnorm.gram_bound(kernel, (5, 4), n_iter=0))
    assert expected <= got <= expected * (1 + 1e-12)


def test_decreases_with_the_count() -> None:
    kernel = Recipe((8, 8, 3, 3), seed=5).kernel
    values = [float(specnorm.gram_bound(kernel, 6, n_iter=t)) for t in range(11)]
    assert all(b <= a * (1 + 1e-13) for a, b in itertools.pairwise(values))
    truth = dense_norm(kernel, 6)
    assert truth.lo <= values[-1] <= truth.hi * 1.002


def test_orthogonal_excess() -> None:
    """All 64 singular values equal: the excess is 64**(1 / 2**(t+1)) to the digit, 3.3 % at 6 and 0.2 % at 10."""
    q = np.linalg.qr(Recipe((64, 64), seed=1).kernel)[0][:, :, None, None]
    for n_iter, percent in ((6, 3.3), (10, 0.2)):
        value = float(specnorm.gram_bound(q, 4, n_iter=n_iter))
        assert abs(value - 64 ** (1 / 2 ** (n_iter + 1))) < 1e-9
        assert abs(100 * (value - 1) - percent) < 0.06


def test_rectangular_uses_the_smaller_side() -> None:
    """A wide and a tall kernel are each other's adjoint."""
    wide = Recipe((2, 40, 3), seed=3).kernel
    tall = np.ascontiguousarray(np.swapaxes(wide, 0, 1))
    a, b = float(specnorm.gram_bound(wide, 7)), float(specnorm.gram_bound(tall, 7))
    assert abs(a / b - 1) < 1e-12
    assert a <= dense_norm(wide, 7).hi * 2 ** (1 / 2**7) * (1 + 1e-12)


@pytest.mark.parametrize("exponent", [-900, -40, 40, 900])
def test_no_count_overflows(exponent: int) -> None:
    """Unscaled, the sixth product of a kernel of norm 4 overflows float32."""
    kernel = np.ldexp(Recipe((6, 6, 3), seed=2).kernel, exponent)
    truth = dense_norm(kernel, 5)
    for n_iter in (1, 6, 10, 20):
        value = float(specnorm.gram_bound(kernel, 5, n_iter=n_iter))
        assert truth.lo <= value <= truth.hi * 6 ** (1 / 2 ** (n_iter + 1)) * (1 + 1e-10)


@pytest.mark.parametrize("n_iter", [0, 1, 3, 6])
def test_gradient_is_homogeneous(n_iter: int) -> None:
    kernel = Recipe((4, 3, 3, 2), seed=11).kernel
    value, gradient = specnorm.value_and_grad(kernel, Gram(n_iter=n_iter), input_shape=(5, 4))
    assert abs(float(np.sum(kernel * gradient)) / float(value) - 1) < 1e-10


@pytest.mark.parametrize("n_iter", [-1, 2.5, True, "six"])
def test_what_is_no_count_is_refused(n_iter: Any) -> None:
    with pytest.raises(MethodError, match="n_iter"):
        Gram(n_iter=n_iter)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate"])
def test_another_padding_is_refused_or_bounded(mode: Any) -> None:
    """A circular norm is no answer for another padding at that size."""
    for shape, size in (((1, 1, 2), 3), ((3, 2, 3, 3), (3, 4)), ((2, 2, 7, 1), (8, 2))):
        kernel = Recipe(shape, seed=4).kernel
        try:
            value = specnorm.gram_bound(kernel, size, padding_mode=mode)
        except SpecnormError:
            continue
        assert_valid(value, "upper", dense_norm(kernel, size, padding_mode=mode))
