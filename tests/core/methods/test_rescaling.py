"""Rescaled channels: norm at most 1 by proof, for every geometry, dtype and layout; gradients, of projections too."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from helpers.cases import Layer, Recipe, layers, recipes
from helpers.libraries import Lib
from helpers.oracle import dense_norm, sigma_star
from helpers.promises import for_all, layers_for

import specnorm
from specnorm.errors import MethodError
from specnorm.proofs.found import Outcome
from specnorm.supremum.enclosing import enclose_blocks


@pytest.mark.widths
def test_rescaled_kernel_has_norm_at_most_one(xp: Lib) -> None:
    """With NumPy at a size, too: strided, dilated, grouped, transposed, circular or zero-padded by any amount."""

    def check(layer: Layer) -> None:
        got = specnorm.gram_rescaling(xp.asarray(layer.kernel))
        assert xp.dtype_name(got) == layer.recipe.dtype
        host = xp.to_numpy(got)
        assert host.shape == layer.kernel.shape
        assert sigma_star(host, max_cells=2000).lo <= 1

    def check_at_size(layer: Layer) -> None:
        kernel = specnorm.gram_rescaling(layer.kernel, **layer.geometry)
        assert dense_norm(kernel, layer.input_shape, **layer.geometry).lo <= 1

    if xp.compiles:
        for_all(xp, layers_for(xp), check, share=0.3)
    else:
        for_all(xp, recipes(dtypes=xp.dtypes).map(lambda recipe: Layer(recipe, ())), check, share=0.6)
    if xp.name == "numpy":
        for_all(xp, layers(modes=("circular", "zeros")), check_at_size, share=2.0)


def test_aol_by_its_formula() -> None:
    kernel = Recipe((5, 4, 3), seed=3).kernel
    sums = np.zeros(4)
    for lag in range(-2, 3):
        product = np.zeros((4, 4))
        for k in range(3):
            if 0 <= k + lag < 3:
                product += kernel[:, :, k].T @ kernel[:, :, k + lag]
        sums += np.abs(product).sum(axis=1)
    np.testing.assert_allclose(specnorm.gram_rescaling(kernel), kernel / np.sqrt(sums)[None, :, None], rtol=1e-12)


@pytest.mark.parametrize("exponent", [126, -126])
def test_channels_at_the_ends_of_the_numbers_are_rescaled_as_others(xp: Lib, exponent: int) -> None:
    """Large ones came back as zeros, since their sums overflow; small ones up to a tenth smaller."""
    # Magnitudes in [1, 2): times the power, all are normal numbers, since XLA takes subnormal ones for 0.
    draw = np.random.RandomState(1)
    kernel = (draw.choice([-1, 1], (5, 4, 3, 3)) * draw.uniform(1, 2, (5, 4, 3, 3))).astype(np.float32)
    expected = xp.to_numpy(specnorm.gram_rescaling(xp.asarray(kernel)))
    got = xp.to_numpy(specnorm.gram_rescaling(xp.asarray(np.ldexp(kernel, exponent))))
    np.testing.assert_array_equal(got, expected)
    assert sigma_star(got).lo <= 1
    assert np.abs(got).max() > 0.02


def test_gradient_of_channels_at_the_ends_of_the_numbers(torch: Any) -> None:
    """Rescaling is homogeneous of degree 0, so its derivative is one of degree -1."""

    def gradient(exponent: int) -> Any:
        kernel = torch.tensor(np.ldexp(KERNEL.astype(np.float32), exponent), requires_grad=True)
        scaled = specnorm.gram_rescaling(kernel)
        return torch.autograd.grad((scaled * torch.tensor(WEIGHTS, dtype=torch.float32)).sum(), kernel)[0].numpy()

    np.testing.assert_array_equal(gradient(100), np.ldexp(gradient(0), -100))
    np.testing.assert_array_equal(gradient(-100), np.ldexp(gradient(0), 100))


# -- projections -----------------------------------------------------------------------------------------------------
KERNEL: Any = np.cos(np.arange(54.0)).reshape(3, 2, 3, 3)
WEIGHTS: Any = np.sin(np.arange(54.0)).reshape(KERNEL.shape)
DIRECTION: Any = np.random.RandomState(0).standard_normal(KERNEL.shape)


def slope(bound: float) -> float:
    step = 1e-4
    ends = [float((specnorm.rescale(KERNEL + x * DIRECTION, bound) * WEIGHTS).sum()) for x in (step, -step)]
    return (ends[0] - ends[1]) / (2 * step)


@pytest.mark.parametrize("bound", [1.0, 100.0])
def test_rescale_has_its_derivative_in_torch(torch: Any, bound: float) -> None:
    kernel = torch.tensor(KERNEL, requires_grad=True)
    scaled = specnorm.rescale(kernel, bound)
    np.testing.assert_array_equal(scaled.detach().numpy(), specnorm.rescale(KERNEL, bound))
    (found,) = torch.autograd.grad((scaled * torch.tensor(WEIGHTS)).sum(), kernel)
    np.testing.assert_allclose((found.numpy() * DIRECTION).sum(), slope(bound), rtol=1e-4)


@pytest.mark.filterwarnings("error")
@pytest.mark.libraries
def test_a_kernel_is_brought_to_the_bound(xp: Lib) -> None:
    """Not above it, and close below it, by the oracle; a zero kernel stays, and without the option a small one."""
    dtype = xp.dtypes[-1]
    layers: list[tuple[tuple[int, ...], dict[str, Any]]] = [((3, 4), {}), ((4, 3, 3), {}), ((4, 2, 3), {"stride": 2})]
    for shape, layer in layers:
        for scale in (1e-3, 1.0, 1e-41 if xp.keeps_subnormals else 1e-30):
            kernel = (scale * Recipe(shape, seed=1).kernel).astype(dtype)
            at_bound = specnorm.rescale(xp.asarray(kernel), 1.5, only_shrink=False, **layer)
            truth = sigma_star(xp.to_numpy(at_bound), rtol=1e-5, **layer)
            assert truth.lo <= 1.5
            assert truth.hi >= 1.5 * (1 - 2e-4)
            assert specnorm.certify(at_bound, 1.5, **layer)
    small = xp.asarray(1e-3 * np.ones((2, 2, 3), dtype=dtype))
    assert specnorm.rescale(small, 1.0) is small
    assert not xp.to_numpy(specnorm.rescale(0 * small, 1.0, only_shrink=False)).any()


def test_rescaling_with_a_gradient_warns_of_nothing(torch: Any) -> None:
    """torch (2.13) warns of numbers that are read from tensors with a gradient: kernels of three axes were."""
    torch.set_warn_always(True)
    try:
        specnorm.rescale(torch.tensor(np.cos(np.arange(27.0)).reshape(1, 1, 3, 3, 3), requires_grad=True), 0.1)
    finally:
        torch.set_warn_always(False)


@pytest.mark.parametrize("geometry", [{}, {"input_shape": 8, "padding_mode": "circular"}, {"stride": 2}])
def test_two_enclosures_clip_a_kernel(monkeypatch: pytest.MonkeyPatch, geometry: Any) -> None:
    """A coarse one of the kernel, and one of the clipped kernel; the multiple that `rescale` returns is not needed."""
    kernel = np.random.RandomState(0).standard_normal((6, 5, 3, 3))
    bound = 0.5 * float(specnorm.conv_norm(kernel, **geometry))
    scaled = specnorm.rescale(kernel, bound, **geometry)
    searches = Mock(side_effect=enclose_blocks)
    monkeypatch.setattr("specnorm.enclosure.method.enclose_blocks", searches)
    clipped = specnorm.clip(kernel, bound, **geometry)
    assert searches.call_count == 2
    assert np.linalg.norm(clipped - kernel) < 0.9 * np.linalg.norm(scaled - kernel)
    assert specnorm.certify(clipped, bound, **geometry)
    assert float(specnorm.enclose(clipped, rtol=1e-5, **geometry).lower) > 0.9995 * bound


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 5)])
def test_a_matrix_is_clipped_exactly(shape: tuple[int, int]) -> None:
    """One round is enough; the oracle is the SVD."""
    matrix = np.random.RandomState(1).standard_normal(shape)
    u, s, vh = np.linalg.svd(matrix, full_matrices=False)
    np.testing.assert_allclose(specnorm.clip(matrix, 1.0), (u * np.minimum(s, 1.0)) @ vh, atol=3e-4)
    few = specnorm.clip(matrix, 1.0, n_iter=1)
    np.testing.assert_array_equal(few, specnorm.clip(matrix, 1.0))


def test_a_derivative_through_clip_is_refused(torch: Any) -> None:
    clipped = specnorm.clip(torch.tensor(KERNEL, requires_grad=True), 1.0)
    assert specnorm.certify(clipped.detach(), 1.0)
    with pytest.raises(MethodError, match="rescale, which is differentiable"):
        clipped.sum().backward()


@pytest.mark.parametrize("scale", [1e308, 1e-322])
def test_a_norm_outside_of_the_numbers_is_not_called_converged(scale: float) -> None:
    found = specnorm.enclose(KERNEL * scale)
    assert found.outcome is Outcome.RANGE
    assert (float(found.upper) == np.inf) is (scale > 1)
    (row,) = specnorm.audit({"conv": KERNEL * scale}).layers
    assert row.reason or "range" in str(row.note)


@pytest.mark.parametrize("name", ["rescale", "clip"])
@pytest.mark.parametrize(("dtype", "entry"), [("float32", 1e38), ("float64", 1e307)])
def test_a_kernel_whose_norm_overflows_is_shrunk(xp: Lib, name: str, dtype: str, entry: float) -> None:
    """All entries are equal, so that the norm is 72 times as large; it came back as NaN."""
    if dtype not in xp.dtypes:
        pytest.skip(f"{dtype} is not among the dtypes of {xp.name}")
    kernel = xp.asarray(np.full((8, 8, 3, 3), entry, dtype=dtype))
    shrunk = xp.to_numpy(getattr(specnorm, name)(kernel, 1.0)).astype(np.float64)
    assert np.abs(shrunk - 1 / 72).max() < 1e-5
    assert specnorm.certify(shrunk, 1.0)


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-39), ("float64", 1e-309)])
def test_a_factor_below_the_normal_numbers_is_not_zero(xp: Lib, dtype: str, bound: float) -> None:
    """XLA takes subnormal numbers for 0, and so the kernel came back as zeros."""
    if dtype not in xp.dtypes:
        pytest.skip(f"{dtype} is not among the dtypes of {xp.name}")
    kernel = xp.asarray(np.full((2, 2, 3), 1e3, dtype=dtype))  # of norm 6000
    shrunk = xp.to_numpy(specnorm.rescale(kernel, 1e3 * bound)).astype(np.float64)
    assert 0.9 * 1e3 * bound < 6 * shrunk.max() <= 1e3 * bound
