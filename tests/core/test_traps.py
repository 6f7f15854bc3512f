"""Mistakes seen in published code, one test each: the mistake first where it can be shown, then that it is not ours."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers.cases import Recipe
from helpers.checks import assert_exact, assert_valid
from helpers.oracle import dense_matrix, dense_norm, sigma_star
from helpers.real_weights import real_kernel
from numpy.typing import NDArray

import specnorm
from specnorm.errors import GeometryError, MethodError
from specnorm.methods import ExactFFT, TensorNorm

UPPER: dict[str, Callable[[NDArray[Any]], Any]] = {
    "f4": specnorm.f4_bound,
    "grid": specnorm.grid_bound,
    "unfoldings": lambda k: np.min(specnorm.unfolding_bounds(k)),
}
"""Proven upper bounds of the supremum."""


def test_unconverged_power_iteration_sold_as_an_upper_bound() -> None:
    """On 1x1 kernels every unfolding bound is the norm itself: an iteration from below shows at once."""
    for seed in range(10):
        matrix = Recipe((24, 30), seed=seed).kernel
        truth = sigma_star(matrix)
        few = float(specnorm.power_iteration(matrix, n_iter=3))
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


@pytest.mark.parametrize("transposed", [False, True])
def test_groups_take_the_maximum_not_the_product(transposed: bool) -> None:
    kernel = np.concatenate([3 * np.ones((1, 1, 2)), 5 * np.ones((1, 1, 2))])
    truth = sigma_star(kernel, groups=2)
    assert truth.lo <= 10 <= truth.hi
    for bound in (specnorm.f4_bound, specnorm.grid_bound, specnorm.tn_bound, specnorm.conv_norm):
        # Read without its groups a grouped kernel is the stack of its blocks: a bound, at most sqrt(groups) too large.
        assert 10 * (1 - 1e-6) <= float(bound(kernel)) <= 10 * math.sqrt(2) * 1.02
        assert 10 * (1 - 1e-6) <= float(bound(kernel, groups=2, transposed=transposed)) <= 10 * 1.02


@pytest.mark.parametrize("shape", [(2, 2, 7, 1), (2, 2, 1, 3), (2, 2, 3, 1)])
def test_zero_padding_gram_with_padding_of_one_axis(shape: tuple[int, ...]) -> None:
    """0.61 to 0.79 of the truth elsewhere, for kernels that are not square."""
    kernel = Recipe(shape, seed=5).kernel
    assert_valid(specnorm.gram_bound(kernel), "upper", sigma_star(kernel))


def test_frequency_grid_that_counts_a_point_twice() -> None:
    """S samples from 0 to 2 pi inclusive are S - 1: with S = k the bound is then about nothing."""
    for seed in range(5):
        kernel = Recipe((2, 2, 4), seed=seed).kernel
        for n in (4, 5, 6):
            assert_valid(specnorm.grid_bound(kernel, n=n), "upper", sigma_star(kernel))
        with pytest.raises(MethodError):
            specnorm.grid_bound(kernel, n=3)


def test_stride_pads_each_axis_on_its_own() -> None:
    """(3, 4) with stride 2 needs padding on one axis only, and must not be compared with the unstrided value."""
    kernel = Recipe((2, 3, 3, 4), seed=5).kernel
    strided, plain = sigma_star(kernel, stride=2), sigma_star(kernel)
    assert strided.hi < 0.9 * plain.lo
    for bound in (specnorm.f4_bound, specnorm.grid_bound):
        assert_valid(bound(kernel, stride=2), "upper", strided)
    assert_exact(specnorm.conv_norm(kernel, stride=2), strided, 1e-6)
    assert_exact(specnorm.conv_norm(kernel, (4, 8), stride=2), dense_norm(kernel, (4, 8), stride=2), 1e-10)


@pytest.mark.parametrize(
    ("layer", "plain", "strided"), [("layer2.0.conv1", 8.614992, 4.521920), ("layer3.0.conv1", 8.250988, 4.38937)]
)
def test_a_strided_layer_compared_without_its_stride(layer: str, plain: float, strided: float) -> None:
    """Half of the number, on real weights."""
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


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_a_dilated_kernel_filled_with_zeros(stride: int) -> None:
    """The same layer, but its zeros loosen every bound that counts taps; dilation alone changes none."""
    kernel = Recipe((2, 2, 3, 3), seed=6).kernel
    filled = np.zeros((2, 2, 5, 5))
    filled[:, :, ::2, ::2] = kernel
    truth = sigma_star(filled, stride=stride)
    for bound in (specnorm.f4_bound, specnorm.grid_bound, specnorm.tn_bound):
        value = float(bound(kernel, dilation=2, stride=stride))
        assert_valid(value, "upper", truth)
        assert value == float(bound(kernel, stride=stride // math.gcd(2, stride)))
    assert_exact(specnorm.conv_norm(kernel, dilation=2, stride=stride), truth, 1e-6)
    if stride == 1:
        assert float(specnorm.f4_bound(filled)) > 1.3 * float(specnorm.f4_bound(kernel, dilation=2))
        # On a circle of 4 points a dilation by 2 meets every other frequency, twice.
        assert_exact(specnorm.conv_norm(kernel, 4, dilation=2), dense_norm(kernel, 4, dilation=2), 1e-10)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_adjoint_of_a_transposed_layer(stride: int) -> None:
    """Written as an unflipped convolution, or with padding by 1 whatever the kernel, it is another layer's."""
    kernel = Recipe((3, 2, 7), seed=5).kernel
    options: dict[str, Any] = {"stride": stride, "transposed": True}
    truth = dense_norm(kernel, 8, **options)
    assert_exact(specnorm.conv_norm(kernel, 8, **options), truth, 1e-10)
    assert_exact(specnorm.conv_norm(kernel, 8 * stride, stride=stride), truth, 1e-10)
    assert_valid(specnorm.f4_bound(kernel, **options), "upper", dense_norm(kernel, 9, padding_mode="zeros", **options))


def test_iterating_the_identity_plus_the_gram_matrix() -> None:
    """I + A*A hardly moves where A is small: half of the truth at a norm of 0.1."""
    kernel = 0.02 * Recipe((4, 4, 3), seed=5).kernel
    truth = dense_norm(kernel, 16, padding_mode="zeros")
    matrix = dense_matrix(kernel, 16, padding_mode="zeros")
    v = Recipe((64,), seed=1).kernel
    for _ in range(30):
        v = v + matrix.T @ (matrix @ v)
        v /= np.linalg.norm(v)
    assert np.linalg.norm(matrix @ v) < 0.7 * truth.lo
    assert float(specnorm.power_norm(kernel, 16, padding_mode="zeros", n_iter=30)) >= 0.999 * truth.lo


@pytest.mark.parametrize("size", [3, 8, 16, 32])
def test_ones_at_zero_padding(size: int) -> None:
    """A closed-form coefficient gave 8.8125 where the layer's norm is 8.9458 (at 32)."""
    kernel = np.ones((1, 1, 3, 3))
    # Separable: the square of the norm of the tridiagonal matrix of ones.
    one_axis = np.eye(size) + np.eye(size, k=1) + np.eye(size, k=-1)
    truth = float(np.linalg.norm(one_axis, 2)) ** 2
    if size == 32:
        assert 8.9457 < truth < 8.9459
    for bound in UPPER.values():
        assert float(bound(kernel)) >= truth * (1 + 1e-13)
