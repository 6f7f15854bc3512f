"""Mistakes seen in published code, one test each: the mistake first where it can be shown, then that it is not ours."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers.cases import Recipe
from helpers.checks import assert_valid
from helpers.oracle import dense_norm, sigma_star
from helpers.real_weights import real_kernel
from numpy.typing import NDArray

import specnorm
from specnorm.errors import GeometryError
from specnorm.methods import ExactFFT, TensorNorm

UPPER: dict[str, Callable[[NDArray[Any]], Any]] = {
    "f4": specnorm.f4_bound, "grid": specnorm.grid_bound, "unfoldings": lambda k: np.min(specnorm.unfolding_bounds(k)),
}  # fmt: skip
"""Proven upper bounds of the supremum."""


def test_unconverged_power_iteration_sold_as_an_upper_bound() -> None:
    """On 1x1 kernels every unfolding bound is the norm itself: an iteration from below shows at once."""
    for seed in range(10):
        matrix = Recipe((24, 30), seed=seed).kernel
        truth = sigma_star(matrix)
        few = float(specnorm.power_norm(matrix, n_iter=3))
        assert few < truth.lo
        for bound in UPPER.values():
            assert_valid(bound(matrix[:, :, None, None]), "upper", truth)


def test_a_torus_norm_is_not_the_layers_norm() -> None:
    """The norm on a small circle is below that of larger layers, zero-padded ones included."""
    kernel = Recipe((2, 2, 3, 3), seed=7).kernel
    small = float(specnorm.conv_norm(kernel, 3))
    larger = dense_norm(kernel, 16, padding_mode="zeros")
    assert small < 0.9 * larger.lo
    for bound in UPPER.values():
        assert_valid(bound(kernel), "upper", larger)
    with pytest.raises(GeometryError, match="circular"):
        specnorm.measure(kernel, ExactFFT(), input_shape=3, padding_mode="zeros")
    own = dense_norm(kernel, 3, padding_mode="zeros")
    assert own.lo * (1 - 1e-6) <= float(specnorm.conv_norm(kernel, 3, padding_mode="zeros")) <= own.hi


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_smallest_numbers_there_are(dtype: str) -> None:
    """A kernel of one smallest number: no value of it is zero, no bound is below it, and its gradient is that of 1."""
    tiny = np.finfo(dtype).smallest_subnormal
    for factor in (1, 2, 3, 1000):
        kernel = np.zeros((1, 3, 1, 2), dtype=dtype)
        kernel[0, 2, 0, 1] = -factor * tiny
        for bound in (specnorm.tn_bound, specnorm.f4_bound, specnorm.grid_bound, specnorm.gram_bound):
            assert float(bound(kernel)) >= factor * float(tiny)
        assert float(specnorm.tn_bound(kernel, proven=False)) > 0
        found = specnorm.enclose(kernel)
        assert float(found.lower) <= factor * float(tiny) <= float(found.upper)
        for lower in (found.lower, specnorm.conv_norm(kernel, 4), specnorm.singular_values(kernel, 4, k=1)[0]):
            assert (factor - 2) * float(tiny) <= float(lower) <= factor * float(tiny)
        _, gradient = specnorm.value_and_grad(kernel, TensorNorm())
        _, of_one = specnorm.value_and_grad((kernel / tiny).astype(dtype), TensorNorm())
        np.testing.assert_allclose(gradient, of_one, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "plain", "strided"), [("layer2.0.conv1", 8.614992, 4.521920), ("layer3.0.conv1", 8.250988, 4.38937)]
)
def test_a_strided_layer_compared_without_its_stride(layer: str, plain: float, strided: float) -> None:
    kernel = real_kernel("resnet20", "module." + layer).astype(np.float64)
    assert abs(float(specnorm.conv_norm(kernel)) - plain) < 1e-5
    assert abs(float(specnorm.conv_norm(kernel, stride=2)) - strided) < 1e-5
    found = specnorm.enclose(kernel, stride=2)
    assert float(found.lower) <= strided * (1 + 1e-6)
    assert float(found.upper) >= strided * (1 - 1e-6)


def test_a_circle_that_the_stride_does_not_divide() -> None:
    """[1, 1] with stride 2 on 3 points: sqrt(3), above the strided supremum sqrt(2). Refused; stride 1 bounds it."""
    kernel = np.ones((1, 1, 2))
    truth = dense_norm(kernel, 3, stride=2)
    assert truth.lo > 1.2 * math.sqrt(2)
    assert abs(float(specnorm.conv_norm(kernel, stride=2)) - math.sqrt(2)) < 1e-6
    for call in (specnorm.conv_norm, specnorm.gram_bound, specnorm.enclose, specnorm.singular_values):
        with pytest.raises(GeometryError, match="does not divide"):
            call(kernel, 3, stride=2)
    assert_valid(specnorm.f4_bound(kernel), "upper", truth)
