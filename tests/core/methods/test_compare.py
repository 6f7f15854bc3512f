"""`compare` has every method that serves a geometry, each as `measure` gives it, and none that refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import Recipe
from oracle import dense_norm, sigma_star

import specnorm
from specnorm import METHODS, GeometryError, MethodError, Result

LAYERS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "matrix": ((3, 4), {}),
    "every size": ((4, 3, 3, 2), {}),
    "circular": ((4, 3, 3, 2), {"input_shape": (4, 5)}),
    "zeros": ((4, 3, 3, 2), {"input_shape": (4, 5), "padding_mode": "zeros"}),
    "zeros, every size": ((4, 3, 3, 2), {"padding_mode": "zeros"}),
    "reflect": ((4, 3, 3, 2), {"input_shape": (4, 5), "padding_mode": "reflect"}),
    "replicate": ((2, 3, 3), {"input_shape": 5, "padding_mode": "replicate", "padding": 2}),
    "strided": ((4, 3, 3, 3), {"input_shape": (6, 4), "stride": 2}),
    "depthwise, dilated": ((3, 1, 3, 3), {"input_shape": 7, "groups": 3, "dilation": 2, "padding_mode": "zeros"}),
    "transposed": (
        (3, 2, 4),
        {"input_shape": 5, "transposed": True, "stride": 2, "padding_mode": "zeros", "padding": 1},
    ),
    "circular, more outputs": ((2, 2, 3), {"input_shape": 4, "padding": 3}),
    "3-D": ((2, 2, 2, 2, 1), {"input_shape": (3, 2, 2), "padding_mode": "zeros"}),
}


@pytest.mark.parametrize("case", LAYERS)
def test_every_method_that_serves_is_there(case: str) -> None:
    shape, geometry = LAYERS[case]
    kernel = Recipe(shape, seed=4).kernel
    results = specnorm.compare(kernel, **geometry)
    assert list(results) == [name for name in METHODS if name in results]
    for name, cls in METHODS.items():
        try:
            alone = specnorm.measure(kernel, cls(), **geometry)
        except (GeometryError, MethodError):
            assert name not in results
            continue
        result = results[name]
        assert isinstance(result, Result)
        assert (result.kind, result.method, result.spec) == (alone.kind, cls(), alone.spec)
        np.testing.assert_array_equal(result.value, alone.value)


@pytest.mark.parametrize("case", LAYERS)
def test_bounds_hold_for_the_layer(case: str) -> None:
    shape, geometry = LAYERS[case]
    kernel = Recipe(shape, seed=4).kernel
    plain = {word: value for word, value in geometry.items() if word != "input_shape"}
    if "input_shape" in geometry:
        truth = dense_norm(kernel, geometry["input_shape"], **plain)
    else:
        words = ("stride", "dilation", "groups", "transposed")
        truth = sigma_star(kernel, **{word: value for word, value in plain.items() if word in words})
    results = specnorm.compare(kernel, **geometry)
    kinds = {result.kind for result in results.values()}
    assert {"upper", "lower"} <= kinds
    for name, result in results.items():
        for value in np.ravel(result.value).tolist():
            if result.kind == "upper":
                assert value >= truth.lo, name
            elif result.kind == "lower":
                assert value <= truth.hi, name
            else:
                assert result.kind == "exact", name
                assert truth.lo * (1 - 2e-6) <= value <= truth.hi * (1 + 2e-6), name


def test_some_geometry_has_every_method() -> None:
    results = specnorm.compare(Recipe((4, 3, 3, 2), seed=4).kernel, input_shape=(4, 5))
    assert set(results) == set(METHODS)
