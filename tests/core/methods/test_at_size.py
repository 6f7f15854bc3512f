"""conv_norm and singular_values of layers at their own size, with every padding, against the dense matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import Layer, Recipe, layers
from hypothesis import given
from oracle import dense_matrix, dense_norm

import specnorm
from specnorm import Undecided


@given(layer=layers(ndims=(1, 2, 3), modes=("zeros", "reflect", "replicate"), dtypes=("float64",)))
def test_the_norm_is_exact_to_its_tolerance(layer: Layer) -> None:
    kernel = layer.kernel / (np.max(np.abs(layer.kernel)) or 1.0)
    truth = dense_norm(kernel, layer.input_shape, **layer.geometry)
    terms = dense_norm(np.abs(kernel), layer.input_shape, **layer.geometry)
    try:
        value = float(specnorm.conv_norm(kernel, layer.input_shape, **layer.geometry))
    except Undecided:
        # Taps that cancel: the norm is lost in the roundings of what cancelled.
        assert truth.lo < 1e-4 * terms.hi
        return
    assert truth.lo * (1 - 1e-6) - 1e-12 <= value <= truth.hi


@given(layer=layers(ndims=(1, 2), modes=("zeros", "reflect", "replicate"), dtypes=("float64",)))
def test_the_largest_values_have_their_rank_and_their_residuals(layer: Layer) -> None:
    kernel = layer.kernel / (np.max(np.abs(layer.kernel)) or 1.0)
    matrix = dense_matrix(kernel, layer.input_shape, **layer.geometry)
    truth = np.linalg.svd(matrix, compute_uv=False)
    method = specnorm.PowerTopK(k=3, n_iter=1000, rtol=1e-9)
    found = specnorm.measure(kernel, method, input_shape=layer.input_shape, **layer.geometry)
    values, residuals = np.asarray(found.value), np.asarray(found.stats["residuals"])
    rounding = 1e-13 * max(float(truth[0]), 1e-300)
    assert found.kind == "lower"
    assert (values <= truth[: len(values)] + rounding).all()
    nearest = np.abs(truth[None, :] - values[:, None]).min(axis=1)
    assert (nearest <= residuals + rounding).all()
    asked = specnorm.singular_values(kernel, layer.input_shape, k=len(values), **layer.geometry)
    np.testing.assert_array_equal(asked, values)


def test_the_norms_gradient_is_that_of_the_dense_matrix() -> None:
    torch = pytest.importorskip("torch", exc_type=ImportError)
    kernel = Recipe((3, 2, 3, 3), seed=4).kernel
    layers: list[tuple[Any, dict[str, Any]]] = [("zeros", {"dilation": 2}), ("zeros", {"stride": 2}), ("reflect", {})]
    for mode, options in layers:
        given = torch.tensor(kernel, requires_grad=True)
        specnorm.conv_norm(given, 7, padding_mode=mode, **options).backward()
        step, direction = 1e-6, Recipe(kernel.shape, seed=5).kernel
        ahead, back = (
            np.linalg.norm(dense_matrix(kernel + s * direction, 7, padding_mode=mode, **options), 2)
            for s in (step, -step)
        )
        assert abs(float((given.grad.numpy() * direction).sum()) - (ahead - back) / (2 * step)) < 1e-5 * abs(ahead)
