"""Every geometry is either served rightly or refused; no method answers for another layer than the one asked about."""

from __future__ import annotations

import pytest
from checks import assert_valid
from libraries import Lib
from oracle import Truth, dense_norm, sigma_star
from promises import PROMISES, for_all, rounded
from strategies import Layer, layers

import specnorm
from specnorm import GeometryError, MethodError

REFUSALS = (GeometryError, MethodError)
LIBRARIES = ("numpy", "torch")


def supported(xp: Lib) -> Lib:
    if xp.name not in LIBRARIES:
        pytest.skip("geometry is the same code on every library; two are enough")
    return xp


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "any"])
@pytest.mark.parametrize("name", [n for n, p in PROMISES.items() if p.kind == "upper"])
def test_upper_values_hold_for_the_layer_at_its_size(xp: Lib, name: str, plain: bool) -> None:
    """With and without its input size, against the layer's own dense matrix."""
    lib, method = supported(xp), PROMISES[name].method

    def check(layer: Layer) -> None:
        truth = dense_norm(layer.kernel, layer.input_shape, **layer.geometry)
        for size in (None, layer.input_shape):
            try:
                got = specnorm.measure(lib.asarray(layer.kernel), method, input_shape=size, **layer.geometry)
            except REFUSALS:
                continue
            if got.kind == "upper":
                assert_valid(lib.number(got.value), "upper", truth)
            else:
                assert lib.number(got.value) >= rounded(truth, layer.recipe, lib).lo * (1 - 1e-4)

    for_all(lib, layers(plain=plain), check, share=2.0)


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "any"])
@pytest.mark.parametrize("name", [n for n, p in PROMISES.items() if p.kind != "upper"])
def test_other_values_hold_for_the_layer_at_its_size(xp: Lib, name: str, plain: bool) -> None:
    lib, promise = supported(xp), PROMISES[name]

    def check(layer: Layer) -> None:
        kernel = lib.asarray(layer.kernel)
        try:
            got = lib.number(
                specnorm.measure(kernel, promise.method, input_shape=layer.input_shape, **layer.geometry).value
            )
        except REFUSALS:
            return
        truth = dense_norm(layer.kernel, layer.input_shape, **layer.geometry)
        if promise.kind == "lower":
            assert_valid(got, "lower", truth)
        else:
            roomy = rounded(truth, layer.recipe, lib)
            assert roomy.lo * (1 - 1e-6) <= got <= roomy.hi * (1 + 1e-6)

    for_all(lib, layers(plain=plain), check, share=2.0)


@pytest.mark.parametrize("name", [n for n, p in PROMISES.items() if p.about == "supremum"])
def test_values_without_a_size_hold_for_the_supremum(xp: Lib, name: str) -> None:
    lib, promise = supported(xp), PROMISES[name]

    def check(layer: Layer) -> None:
        geometry = {k: v for k, v in layer.geometry.items() if k not in ("padding", "padding_mode")}
        try:
            got = specnorm.measure(lib.asarray(layer.kernel), promise.method, **geometry)
        except REFUSALS:
            return
        truth: Truth = sigma_star(layer.kernel, **geometry, max_cells=3000)
        if got.kind in ("upper", "lower"):
            assert_valid(lib.number(got.value), got.kind, truth)
        else:
            assert lib.number(got.value) >= rounded(truth, layer.recipe, lib).lo * (1 - 1e-4)

    for_all(lib, layers(modes=("circular",)), check)
