"""What holds for every method: valid, tight, independent of scale, layout and memory; never a surprise.

`check_backend` compares libraries.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from helpers.cases import Layer, Recipe
from helpers.checks import assert_exact, assert_tight, assert_valid, number
from helpers.libraries import Lib
from helpers.oracle import Truth
from helpers.promises import OF_OTHER_NUMBERS, PROMISES, SEVERAL, for_all, layers_for, measured, rounded
from numpy.typing import NDArray

import specnorm
from specnorm import Result
from specnorm.errors import GeometryError, MethodError
from specnorm.methods import METHODS, Method

NAMES = tuple(PROMISES)
ESTIMATES = ("tn",)
"""Methods that may call themselves estimates; then their validity is checked up to convergence only."""

SMALL = Layer(Recipe((4, 4, 3, 3), seed=3), (4, 5))

OF_EACH_KIND = ("f4", "fft", "enclose", "power")
"""Where each compilation costs seconds, these are enough for what is done before and after every method alike: an upper
bound, an exact value, a proof on the host, a lower bound. NumPy's session shows it of every method."""


def few(xp: Lib, name: str) -> None:
    """Skip what would be compiled only to show once more what is the same for every method."""
    if xp.compiles and name not in OF_EACH_KIND:
        pytest.skip(f"compiled for {', '.join(OF_EACH_KIND)} alone; it is the same code for every method")


def methods_under(cls: type[Method]) -> set[str]:
    """Names of the classes of the core that derive from a class; a base alone has no name."""
    has_name = cls.__module__.startswith("specnorm.") and hasattr(cls, "name")
    return ({cls.name} if has_name else set()).union(*map(methods_under, cls.__subclasses__()))


def test_what_derives_from_method_is_a_method() -> None:
    """Whatever else a library can run is a `Plan`. `PowerTopK` has several values, a logit is no norm."""
    assert specnorm.logit_bound.__name__ == "logit_bound"  # its module is imported, so its class is known
    assert methods_under(Method) == {*METHODS, "power_top_k", "logit"}


def test_every_method_has_a_promise() -> None:
    assert set(METHODS) == set(PROMISES) | set(SEVERAL) | set(OF_OTHER_NUMBERS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.widths
def test_value_is_a_valid_and_tight_bound(xp: Lib, name: str) -> None:
    promise = PROMISES[name]

    def check(layer: Layer) -> None:
        got = measured(xp, layer, promise.method, **promise.geometry(layer))
        truth = promise.truth(layer)
        roomy = rounded(truth, layer.recipe, xp)
        if got.kind == "estimate":
            assert name in ESTIMATES
            converged = 1e-4 if layer.recipe.dtype == "float32" else 1e-6
            assert number(got) >= roomy.lo * (1 - converged)
        elif promise.kind == "exact":
            assert got.kind == "exact"
            assert_exact(got, roomy, 1e-6)
            return
        else:
            assert_valid(got, promise.kind, truth)
        if name in ESTIMATES:
            # Computed in the kernel's own precision, and lifted by what its rounding may have lost.
            roomy = Truth(roomy.lo, roomy.hi * (1 + 32 * layer.recipe.eps))
        assert_tight(number(got), roomy, promise.factor(layer.recipe.shape))

    for_all(xp, layers_for(xp), check, share=1.2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("exponent", [-100, 100])
@pytest.mark.widths
def test_scale_is_undone(xp: Lib, name: str, exponent: int) -> None:
    """A power of two goes straight through: up to the last rounding of a bound, nothing else may change."""
    promise, geometry = PROMISES[name], PROMISES[name].geometry(SMALL)
    for dtype in xp.dtypes[:1] if xp.compiles else xp.dtypes:
        kernel = SMALL.kernel.astype(dtype)
        plain = xp.number(specnorm.measure(xp.asarray(kernel), promise.method, **geometry).value)
        scaled = xp.number(specnorm.measure(xp.asarray(np.ldexp(kernel, exponent)), promise.method, **geometry).value)
        assert abs(math.ldexp(scaled, -exponent) / plain - 1) <= 4 * np.finfo(dtype).eps


@pytest.mark.parametrize("name", NAMES)
def test_same_input_same_answer(xp: Lib, name: str) -> None:
    promise, geometry = PROMISES[name], PROMISES[name].geometry(SMALL)
    kernel = xp.asarray(SMALL.kernel.astype("float32"))
    values = {xp.number(specnorm.measure(kernel, promise.method, **geometry).value) for _ in range(3)}
    assert len(values) == 1


def memory_variants(kernel: NDArray[Any]) -> dict[str, NDArray[Any]]:
    readonly = kernel.copy()
    readonly.flags.writeable = False
    strided = np.zeros((*kernel.shape[:-1], 2 * kernel.shape[-1]), dtype=kernel.dtype)[..., ::2]
    strided[...] = kernel
    return {
        "read-only": readonly, "Fortran order": np.asfortranarray(kernel), "every other": strided,
        "channels last": np.ascontiguousarray(np.moveaxis(kernel, 1, -1)).swapaxes(1, -1).swapaxes(2, -1),
        "negative strides": np.ascontiguousarray(kernel[::-1, ::-1])[::-1, ::-1],
        "broadcast": np.broadcast_to(kernel[:1], kernel.shape),
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.sampled(2)
@pytest.mark.parametrize("variant", list(memory_variants(SMALL.kernel)))
def test_memory_layout_does_not_matter(name: str, variant: str) -> None:
    promise, geometry = PROMISES[name], PROMISES[name].geometry(SMALL)
    kernel = memory_variants(SMALL.kernel)[variant]
    before = kernel.copy()
    plain = float(specnorm.measure(np.ascontiguousarray(before), promise.method, **geometry).value)
    got = float(specnorm.measure(kernel, promise.method, **geometry).value)
    assert abs(got / plain - 1) <= 1e-14
    np.testing.assert_array_equal(kernel, before)


@pytest.mark.parametrize("name", NAMES)
def test_layouts_name_the_same_layer(xp: Lib, name: str) -> None:
    """The frameworks' axis orders name the same layer, and gradients come back in the kernel's own order."""
    few(xp, name)
    promise = PROMISES[name]
    geometry = promise.geometry(Layer(SMALL.recipe, (4, 4)))
    dtype = xp.dtypes[0]
    kernel = SMALL.kernel.astype(dtype)
    plain, gradient = specnorm.value_and_grad(xp.asarray(kernel), promise.method, **geometry)
    hwio = np.transpose(kernel, (2, 3, 1, 0))
    value, turned = specnorm.value_and_grad(xp.asarray(hwio), promise.method, layout="HWIO", **geometry)
    tolerance = 4 * np.finfo(dtype).eps
    assert abs(xp.number(value) / xp.number(plain) - 1) <= tolerance
    back = np.transpose(xp.to_numpy(turned), (3, 2, 0, 1))
    assert float(np.max(np.abs(back - xp.to_numpy(gradient)))) <= 50 * tolerance * kernel.size


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_measured_in_float32(xp: Lib, name: str) -> None:
    if xp.name in ("strict", "default"):
        pytest.skip("array-api-strict has no float16")
    few(xp, name)
    promise, geometry = PROMISES[name], PROMISES[name].geometry(SMALL)
    half = SMALL.kernel.astype(np.float16)
    value = specnorm.measure(xp.asarray(half), promise.method, **geometry).value
    assert xp.dtype_name(value) == "float32"
    exact = specnorm.measure(xp.asarray(half.astype(np.float32)), promise.method, **geometry).value
    assert xp.number(value) == xp.number(exact)
    _, gradient = specnorm.value_and_grad(xp.asarray(half), promise.method, **geometry)
    assert xp.dtype_name(gradient) == "float16"


@pytest.mark.parametrize("name", NAMES)
def test_gradient_of_the_frameworks(name: str, xp: Lib) -> None:
    promise, geometry = PROMISES[name], PROMISES[name].geometry(SMALL)
    kernel = xp.asarray(SMALL.kernel.astype(xp.dtypes[0]))
    _, expected = specnorm.value_and_grad(kernel, promise.method, **geometry)
    if xp.name == "torch":
        kernel.requires_grad_()
        specnorm.measure(kernel, promise.method, **geometry).value.backward()
        got = kernel.grad
    elif xp.name in ("jax", "jax32"):
        import jax

        got = jax.grad(lambda k: specnorm.measure(k, promise.method, **geometry).value)(kernel)
    else:
        pytest.skip("no automatic differentiation")
    assert xp.dtype_name(got) == xp.dtype_name(kernel)
    np.testing.assert_allclose(xp.to_numpy(got), xp.to_numpy(expected), rtol=1e-4, atol=1e-5)


# -- compare ---------------------------------------------------------------------------------------------------------
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
        if name in OF_OTHER_NUMBERS:
            assert name not in results
            continue
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
    assert set(results) == set(METHODS) - set(OF_OTHER_NUMBERS) - {"symbol"}
    assert "symbol" in specnorm.compare(Recipe((4, 3, 3, 2), seed=4).kernel)
