"""The oracle against closed forms, PyTorch's convolutions and itself; and each checker is fed wrong numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from helpers.cases import Layer, Recipe
from helpers.checks import assert_exact, assert_valid
from helpers.oracle import Truth, dense_matrix, dense_norm, sigma_star, tensor_norm_best
from helpers.spectra import CLOSED_FORMS
from helpers.torch_layers import torch_matrix
from numpy.typing import NDArray


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_sigma_star_closed_forms(name: str) -> None:
    kernel, geometry, norm = CLOSED_FORMS[name]
    truth = sigma_star(kernel, **geometry)
    assert truth.lo <= norm <= truth.hi
    assert truth.hi - truth.lo <= 2e-7 * norm


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e200])
def test_truth_is_independent_of_scale(scale: float) -> None:
    kernel = scale * np.array([[[1.0, 2.0, 1.0]]])
    for truth in (sigma_star(kernel), dense_norm(kernel, 2)):
        assert truth.lo <= 4 * scale <= truth.hi <= truth.lo * (1 + 1e-6)


@pytest.mark.parametrize(
    ("kernel", "size", "norm"),
    [([1, -1], 1, 0.0), ([1, -1], 2, 2.0), ([1, 2, 1], 1, 4.0), ([1, 2, 1], 2, 4.0), ([1, 1, 1, 1, 1], 3, 5.0)],
)
def test_kernel_larger_than_input_wraps(kernel: list[float], size: int, norm: float) -> None:
    truth = dense_norm(np.asarray([[kernel]], dtype=float), size)
    assert truth.lo <= norm <= truth.hi
    assert truth.hi - truth.lo < 1e-12


@pytest.mark.parametrize("mode", ["circular", "zeros", "reflect", "symmetric", "replicate"])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_dense_matrix_is_what_torch_computes_on_every_axis(mode: str, ndim: int) -> None:
    """Each mode with uneven padding, stride and dilation at once, whatever the strategy happens to draw."""
    recipe = Recipe((4, 1, *(3, 2, 2)[:ndim]), seed=ndim)
    geometry: dict[str, Any] = {
        "stride": (2, 1, 1)[:ndim], "dilation": (1, 2, 1)[:ndim], "groups": 2, "transposed": False,
        "padding_mode": mode, "padding": [(1, 2), (2, 0), (0, 1)][:ndim],
    }  # fmt: skip
    layer = Layer(recipe, (5, 4, 3)[:ndim], geometry)
    ours: NDArray[Any] = dense_matrix(layer.kernel, layer.input_shape, **geometry)
    np.testing.assert_allclose(
        ours, torch_matrix(layer.kernel, layer.input_shape, layer.geometry), rtol=1e-13, atol=1e-13
    )


def test_tensor_norm_of_a_rank_one_kernel() -> None:
    recipe = Recipe((3, 2, 3, 2), "rank_one", seed=1)
    expected = math.sqrt(6) * np.linalg.norm(recipe.kernel)
    np.testing.assert_allclose(tensor_norm_best(recipe.kernel, starts=3, sweeps=5), expected)


# -- the checkers ----------------------------------------------------------------------------------------------------
TRUTH = Truth(2.0, 2.0 + 1e-12)


@dataclass
class FakeResult:
    value: Any
    kind: str


NAN, INF = float("nan"), float("inf")
VALUES: list[tuple[str, list[Any], list[Any]]] = [
    ("upper", [2.0, 2.5, np.float32(2.0), FakeResult(2.0, "upper")],
     [np.nextafter(2.0, 0), 0.0, -3.0, NAN, INF, FakeResult(1.9, "upper"),
      *(FakeResult(3.0, kind) for kind in ("estimate", "lower", "exact"))]),
    ("lower", [2.0, 0.0, FakeResult(1.0, "lower")], [2.0 + 1e-11, -1.0, NAN, -INF, FakeResult(2.1, "lower")]),
    ("exact", [2.0, 2.0 * (1 + 9e-7), FakeResult(2.0, "exact")],
     [2.0 * (1 + 2e-6), 2.0 * (1 - 2e-6), 0.0, NAN, FakeResult(2.0, "upper"), FakeResult(3.0, "exact")]),
]  # fmt: skip
"""What a number promises, numbers that keep it, and numbers that do not."""


@pytest.mark.parametrize(("kind", "right", "wrong"), VALUES)
def test_checker_of_a_promise_accepts_right_and_rejects_wrong(kind: Any, right: list[Any], wrong: list[Any]) -> None:
    def check(value: Any) -> None:
        assert_exact(value, TRUTH, 1e-6) if kind == "exact" else assert_valid(value, kind, TRUTH)

    for value in right:
        check(value)
    for value in wrong:
        with pytest.raises(AssertionError):
            check(value)
