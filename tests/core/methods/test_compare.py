"""`compare` has every method that serves a geometry, each as `measure` gives it, and none that refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import Recipe

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


def test_some_geometry_has_every_method() -> None:
    results = specnorm.compare(Recipe((4, 3, 3, 2), seed=4).kernel, input_shape=(4, 5))
    assert set(results) == set(METHODS)
