"""What reaches the user is proven too: a number that changes its dtype or becomes text is rounded to its side."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from helpers.libraries import OPS
from helpers.oracle import dense_matrix

import specnorm
from specnorm.geometry.layer_map import Convolution
from specnorm.geometry.spec import ConvSpec
from specnorm.power.proofs.ritz import residuals_up

DTYPES = ("float16", "float32", "float64")
GOLDEN = (1 + 5**0.5) / 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("padding", ["zeros", "circular"])
def test_conv_norm_is_not_above_the_norm_and_within_rtol_of_it(dtype: str, padding: Any) -> None:
    """Rounded to nearest, every second kernel has a value above its norm."""
    kernels = [np.ones((1, 1, 2)), *np.random.default_rng(0).standard_normal((30, 2, 1, 3))]
    for kernel in (k.astype(dtype) for k in kernels):
        pads = (0, kernel.shape[-1] - 1)
        value = float(specnorm.conv_norm(kernel, 4, padding_mode=padding, padding=(pads,)))
        true = np.linalg.norm(dense_matrix(kernel, 4, padding_mode=padding, padding=(pads,)), 2)
        assert value <= true * (1 + 1e-15) <= value * (1 + 1e-6)


def test_the_golden_ratio_is_no_lower_than_conv_norm() -> None:
    zeros: Any = {"padding": ((0, 1),), "padding_mode": "zeros"}
    assert GOLDEN * (1 - 1e-7) < float(specnorm.conv_norm(np.ones((1, 1, 2), np.float32), 2, **zeros)) < GOLDEN
    close = float(specnorm.conv_norm(np.ones((1, 1, 2)), 2, rtol=1e-9, **zeros))
    assert close <= GOLDEN <= close * (1 + 1e-9)
    geometries: list[dict[str, Any]] = [zeros, {}]
    for geometry in geometries:
        with pytest.raises(specnorm.errors.MethodError, match="rtol=1e-09 is below the resolution of float32"):
            specnorm.conv_norm(np.ones((1, 1, 2), np.float32), 2, rtol=1e-9, **geometry)


ENCLOSURES: dict[str, Any] = {
    "enclose": specnorm.enclose, "at a size": lambda k, **more: specnorm.enclose(k, 4, padding_mode="zeros", **more),
    "smallest": specnorm.enclose_smallest, "isometry": specnorm.enclose_isometry,
    "condition": specnorm.condition_number,
}  # fmt: skip


@pytest.mark.parametrize("name", ENCLOSURES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bounds_that_converged_are_within_rtol_as_they_are_returned(name: str, dtype: str) -> None:
    """Bounds of float32 were 1.7e-7 apart at rtol=1e-9, subnormal ones a half, and [3.4e38, inf] had converged."""
    kernels = [np.asarray([[[0.0, -2.75, 0.0]]]), np.random.default_rng(0).standard_normal((2, 2, 3))]
    words = set()
    for kernel in kernels:
        for exponent in (0, -140, -148, 126):
            scaled = np.ldexp(np.clip(kernel, -2.75, 2.75), exponent).astype(dtype)
            for rtol in (1e-2, 1e-6, 1e-9):
                found = ENCLOSURES[name](scaled, rtol=rtol, budget=5)
                lower, upper = Fraction(float(found.lower)), float(found.upper)
                if not found.status.startswith("converged"):
                    continue
                said = found.status.partition(";")[0].partition(",")[0].removeprefix("converged: ")
                room = 0 if said == f"rtol={rtol:g}" else Fraction(2) ** -20
                assert Fraction(upper) <= lower * (1 + Fraction(rtol) + room) * (1 + Fraction(2) ** -52)
                assert not room or dtype in said
                words.add(said)
    assert "rtol=0.01" in words
    assert dtype == "float64" or "to the resolution of float32" in words


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 4, 1), (4, 3, 2), (5, 4, 3)], ids=["1x1", "disjoint", "circular"])
def test_the_largest_singular_values_are_below_those_of_their_ranks(dtype: str, shape: tuple[int, ...]) -> None:
    stride = 1 if shape[-1] == 3 else shape[-1]
    mode: Any
    mode, pads = ("circular", (1, 1)) if shape[-1] == 3 else ("zeros", (0, 0))
    for seed in range(20):
        kernel = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
        values = specnorm.singular_values(kernel, 6, k=8, stride=stride, padding=(pads,), padding_mode=mode)
        layer = dense_matrix(kernel.astype(float), 6, stride=stride, padding_mode=mode, padding=(pads,))
        true = np.linalg.svd(layer, compute_uv=False)[:8]
        assert np.all(values.astype(float) <= true * (1 + 4e-16))
        assert np.all(values >= true * (1 - 3e-7))


@pytest.mark.parametrize(("entry", "distance"), [(10.0, math.inf), (0.0, 1.0)])
def test_vectors_of_zeros_tell_nothing_of_a_layer_that_is_not_zero(entry: float, distance: float) -> None:
    """The only singular value is 10: the number 1 is 9 away, which 1 would not bound."""
    kernel: Any = np.full((1, 1, 1, 1), entry, dtype=np.float32)
    spec = ConvSpec.of(kernel.shape[1:], input_shape=(1,), padding_mode="zeros", padding=0)
    zeros: Any = np.zeros((1, 1, 1), dtype=np.float32)
    one: Any = np.ones((1, 1), dtype=np.float32)
    found = float(residuals_up(Convolution(kernel, spec, ops=OPS), zeros, zeros, one, ops=OPS)[0, 0])
    assert distance <= found <= distance * (1 + 1e-6)
