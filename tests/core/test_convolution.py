"""The layer as a linear map: against the dense matrix written out by loops, and against torch's own layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.cases import FEW_LAYERS, Layer, Recipe, layers
from helpers.libraries import OPS, Lib
from helpers.oracle import dense_matrix
from helpers.promises import for_all
from numpy.typing import NDArray

from specnorm.backends.types import ArrayOps
from specnorm.errors import GeometryError
from specnorm.geometry.layer_map import Convolution
from specnorm.geometry.spec import ConvSpec


def operator(lib: Lib, kernel: NDArray[Any], spec: ConvSpec, **options: Any) -> Convolution:
    kernels = lib.asarray(kernel[None])
    return Convolution(kernels, spec, ops=ArrayOps.of(lib.backend, kernels), **options)


def valid(layer: Layer) -> bool:
    try:
        ConvSpec.of(layer.recipe.shape, input_shape=layer.input_shape, **layer.geometry)
    except GeometryError:
        return False
    return True


def check_against_the_matrix(lib: Lib, layer: Layer, budget: int) -> None:
    """Columns and rows of the operator on unit vectors; integers, so that nothing rounds."""
    dtype = lib.dtypes[-1]
    kernel = Recipe(layer.recipe.shape, "integer", seed=layer.recipe.seed).kernel.astype(dtype)
    spec = ConvSpec.of(kernel.shape, input_shape=layer.input_shape, **layer.geometry)
    matrix = dense_matrix(kernel, layer.input_shape, **layer.geometry)
    found = operator(lib, kernel, spec, vector_count=max(matrix.shape), budget=budget)
    assert found.shape == matrix.shape
    columns = lib.to_numpy(found.apply(lib.asarray(np.eye(matrix.shape[1], dtype=dtype)[None])))[0]
    np.testing.assert_array_equal(columns.T, matrix)
    rows = lib.to_numpy(found.adjoint(lib.asarray(np.eye(matrix.shape[0], dtype=dtype)[None])))[0]
    np.testing.assert_array_equal(rows, matrix)
    absolute = found.absolute().apply(lib.asarray(np.eye(matrix.shape[1], dtype=dtype)[None]))
    terms = dense_matrix(np.abs(kernel), layer.input_shape, **layer.geometry)
    np.testing.assert_array_equal(lib.to_numpy(absolute)[0].T, terms)


@pytest.mark.parametrize("budget", [2**28, 1], ids=["at once", "tap by tap"])
def test_is_the_dense_matrix(xp: Lib, budget: int) -> None:
    if xp.compiles:
        for shape, sizes in FEW_LAYERS if budget > 1 else FEW_LAYERS[2:3]:
            check_against_the_matrix(xp, Layer(Recipe(shape, seed=1), sizes), budget)
        return
    for_all(xp, layers().filter(valid), lambda layer: check_against_the_matrix(xp, layer, budget), share=2.0)


def test_rounding_stays_within_its_bound() -> None:
    """|computed - exact| <= gamma(n) |A| |x|, in float32 against float64, for both directions."""
    for seed, geometry in enumerate(
        ({}, {"stride": 2, "padding_mode": "zeros"}, {"padding_mode": "replicate"}, {"transposed": True, "stride": 2})
    ):
        kernel: Any = Recipe((6, 6, 3, 5), "spread", dtype="float32", seed=seed).kernel
        spec = ConvSpec.of(kernel.shape, input_shape=8, **geometry)  # type: ignore[arg-type]
        narrow = Convolution(kernel[None], spec, ops=OPS)
        wide = Convolution(kernel.astype(np.float64)[None], spec, ops=OPS)
        for n, one, other, absolute, count in (
            (narrow.shape[1], narrow.apply, wide.apply, wide.absolute().apply, narrow.roundings[0]),
            (narrow.shape[0], narrow.adjoint, wide.adjoint, wide.absolute().adjoint, narrow.roundings[1]),
        ):
            x: Any = Recipe((1, 1, n), "spread", dtype="float32", seed=seed).kernel
            error = np.abs(np.asarray(one(x), dtype=np.float64) - np.asarray(other(x.astype(np.float64))))
            assert (error <= count * 2.0**-24 * 1.001 * absolute(np.abs(x).astype(np.float64))).all()
