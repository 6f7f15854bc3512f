"""Complex kernels are bounded through their real form, against the norms of their own complex symbols and matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers.libraries import Lib
from helpers.oracle import dense_matrix
from numpy.typing import NDArray

import specnorm
from specnorm.errors import KernelError, MethodError
from specnorm.methods import PowerTopK

pytestmark = pytest.mark.libraries


def drawn(*shape: int, seed: int = 0) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    return np.asarray(rng.standard_normal(shape) + 1j * rng.standard_normal(shape))


KERNEL = drawn(4, 3, 5)
TRUE = float(np.linalg.norm(np.fft.fft(KERNEL, 4096).transpose(2, 0, 1), 2, axis=(1, 2)).max())
BOUNDS: dict[str, tuple[Callable[..., Any], float, float]] = {
    "upper end": (lambda k: specnorm.enclose(k).upper, 1 - 1e-9, 3.0), "tn_bound": (specnorm.tn_bound, 1 - 1e-9, 3.0),
    "f4_bound": (specnorm.f4_bound, 1 - 1e-9, 3.0), "gram_bound": (specnorm.gram_bound, 1 - 1e-9, 3.0),
    "grid_bound": (specnorm.grid_bound, 1 - 1e-9, 3.0), "completion_bound": (specnorm.completion_bound, 1 - 1e-9, 3.0),
    "lower end": (lambda k: specnorm.enclose(k).lower, 0.3, 1 + 1e-6), "conv_norm": (specnorm.conv_norm, 0.3, 1 + 1e-6),
    "symbol_norm": (specnorm.symbol_norm, 0.3, 1 + 1e-6), "reshaped_norm": (specnorm.reshaped_norm, 0.3, 1 + 1e-6),
}  # fmt: skip
"""Functions, and the least and the largest part of the norm that they may return."""


def asarray(xp: Lib, kernel: NDArray[Any]) -> Any:
    real, imag = xp.asarray(np.ascontiguousarray(kernel.real)), xp.asarray(np.ascontiguousarray(kernel.imag))
    return xp.backend.complex(real, imag)


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_are_those_of_the_real_form(xp: Lib, name: str) -> None:
    function, least, most = BOUNDS[name]
    value = function(asarray(xp, KERNEL))
    assert value.shape == ()
    assert "complex" not in str(value.dtype)
    assert least * TRUE <= float(value) <= most * TRUE


GEOMETRIES: dict[str, tuple[NDArray[Any], Any, dict[str, Any]]] = {
    "groups": (drawn(4, 2, 3, seed=1), 6, {"groups": 2, "padding_mode": "zeros"}),
    "transposed": (drawn(4, 3, 3, seed=2), 5, {"groups": 2, "transposed": True, "stride": 2, "padding_mode": "zeros"}),
    "symmetric": (drawn(2, 3, 3, 2, seed=3), (4, 5), {"padding_mode": "symmetric"}),
    "dilated": (drawn(3, 2, 3, seed=4), 8, {"dilation": 2}),
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_layers_at_a_size(name: str) -> None:
    """The matrix of the layer is linear in its kernel."""
    kernel, size, geometry = GEOMETRIES[name]
    matrix = dense_matrix(kernel.real, size, **geometry) + 1j * dense_matrix(kernel.imag, size, **geometry)
    values = np.linalg.svd(matrix, compute_uv=False)
    lower, upper = specnorm.enclose(kernel, size, **geometry)
    assert values[0] * (1 - 1.1e-3) <= lower <= values[0] <= upper
    assert values[0] * (1 - 1e-5) <= specnorm.power_norm(kernel, size, **geometry) <= values[0] * (1 + 1e-12)
    lower, upper = specnorm.enclose_smallest(kernel, size, **geometry)
    assert lower <= values[-1] * (1 + 1e-9)
    assert upper >= values[-1] * (1 - 1e-9)
    for k in (1, 3, len(values)):
        found = specnorm.measure(kernel, PowerTopK(k=k), input_shape=size, **geometry)
        assert found.value.shape == found.stats["residuals"].shape == (k,)
        for each in (found.value, specnorm.singular_values(kernel, size, k=k, **geometry)):
            np.testing.assert_allclose(each, values[:k], atol=1e-4 * values[0])
    with pytest.raises(MethodError, match=rf"k={len(values) + 1} .* has {len(values)}\."):
        specnorm.singular_values(kernel, size, k=len(values) + 1, **geometry)
    if geometry.get("padding_mode", "circular") == "circular":
        np.testing.assert_allclose(specnorm.singular_values(kernel, size, **geometry), values, atol=1e-9 * values[0])
    if not geometry.get("transposed"):
        other_order = np.moveaxis(kernel, (0, 1), (-1, -2))
        layout: Any = {3: "WIO", 4: "HWIO"}[kernel.ndim]
        again = specnorm.enclose(other_order, size, layout=layout, **geometry)
        assert again.lower <= values[0] <= again.upper


def test_stacks_of_matrices(xp: Lib) -> None:
    stack = drawn(5, 4, 3, seed=5)
    true = np.linalg.norm(stack, 2, axis=(1, 2))
    np.testing.assert_allclose(xp.to_numpy(specnorm.matrix_norm(asarray(xp, stack))), true, rtol=1e-6)


@pytest.mark.parametrize("name", ["rescale", "clip", "gram_rescaling", "lmo", "complete", "slogdet", "value_and_grad"])
def test_what_is_no_bound_is_refused_with_the_real_form(name: str) -> None:
    more: dict[str, Any] = {"slogdet": {"input_shape": 4}, "value_and_grad": {"method": specnorm.methods.Gram()}}
    with pytest.raises(KernelError, match=r"complex.*\[\[Re, -Im\], \[Im, Re\]\]") as caught:
        getattr(specnorm, name)(drawn(3, 3, 3), **more.get(name, {}))
    assert "float32" not in str(caught.value)


def test_a_gradient_is_refused_with_the_real_form(torch: Any) -> None:
    kernel = torch.tensor(KERNEL, requires_grad=True)
    upper: Any = specnorm.enclose(kernel).upper
    for value in (specnorm.gram_bound(kernel), upper, specnorm.matrix_norm(kernel)[0]):
        assert float(value.detach()) > 0
        with pytest.raises(MethodError, match=r"\[\[Re, -Im\], \[Im, Re\]\]"):
            value.backward()


def test_layers_of_torch_with_complex_weights(torch: Any) -> None:
    layer = torch.nn.Conv1d(3, 4, 5, padding=2, bias=False, dtype=torch.complex128)
    layer.weight.data = torch.tensor(KERNEL)
    weight: Any = layer
    lower, upper = (x.detach() for x in specnorm.enclose(weight))
    assert float(lower) <= TRUE * (1 + 1e-6)
    assert float(upper) >= TRUE * (1 - 1e-9)


def test_compiled_bounds(jax: Any) -> None:
    value = jax.jit(lambda k: specnorm.gram_bound(k))(jax.numpy.asarray(KERNEL))
    assert float(value) >= TRUE * (1 - 1e-9)
