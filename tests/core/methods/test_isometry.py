"""Isometry defects: proven by products and by a search, against dense matrices; penalties that train by them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from core.soundness.families import case
from helpers.libraries import Lib
from helpers.nightly import NIGHTLY
from helpers.oracle import dense_matrix
from helpers.spectra import KNOWN, SMALL, Kernel, geometry_of, shift

import specnorm
from specnorm import Undecided
from specnorm.methods import Isometry

DRAWS = 20_000 if NIGHTLY else 48


def dense_defect(kernel: Kernel, size: Any, scale_sq: float = 1.0, **geometry: Any) -> tuple[float, float]:
    """Two ends of ``||A*A - s**2 I|| / s**2`` at a size, of the smaller side; what rounding may be is left between."""
    matrix = dense_matrix(kernel, size, **geometry)
    values = np.linalg.svd(matrix, compute_uv=False)
    relative = values / math.sqrt(scale_sq)
    found = float(np.abs(relative**2 - 1).max())
    slack = 1e-12 * max(float(relative[0]) ** 2, 1.0) * max(matrix.shape)
    return found - slack, found + slack


def moderate(kernel: Kernel) -> bool:
    largest = float(np.abs(kernel.astype(np.float64)).max(initial=0.0))
    return largest == 0 or 1e-150 < largest < 1e140


def violations(xp: Lib, count: int) -> Iterator[str]:
    """Of both ends, and of the bound by products, on kernels of all structures near every scale."""
    for index in range(count):
        kernel = case(index, subnormal=False).kernel
        if kernel.size > SMALL or not moderate(kernel) or not hasattr(xp.xp, str(kernel.dtype)):
            continue
        geometry = geometry_of(index, kernel)
        size = geometry.pop("input_shape")
        scale = float(2.0 ** np.random.RandomState(index).randint(-3, 4))
        if index % 2:
            # Near an isometry of that scale, where both ends are small.
            first = np.linalg.norm(dense_matrix(kernel, size, **geometry), 2)
            kernel = (kernel * (scale / first if first > 0 else 1.0)).astype(kernel.dtype)
            if not moderate(kernel):
                continue
        low, high = dense_defect(kernel, size, scale**2, **geometry)
        x = xp.asarray(kernel)
        bound = xp.number(specnorm.isometry_bound(x, scale=scale, **geometry))
        at_size = xp.number(specnorm.isometry_bound(x, scale=scale, input_shape=size, **geometry))
        found = specnorm.enclose_isometry(x, scale=scale, input_shape=size, budget=0.1, **geometry)
        everywhere = specnorm.enclose_isometry(x, scale=scale, budget=0.1, **geometry)
        words = f"{index} {kernel.shape} {kernel.dtype} {size} {geometry} {scale}"
        uppers = {
            "products": bound, "products at the size": at_size, "size": xp.number(found.upper),
            "every size": xp.number(everywhere.upper),
        }  # fmt: skip
        for name, upper in uppers.items():
            if not upper >= low:
                yield f"{words}: {upper} by {name} is below {low}"
        if not xp.number(found.lower) <= high:
            yield f"{words}: {found.lower} is above {high}"
        if not xp.number(everywhere.lower) <= bound:
            yield f"{words}: {everywhere.lower} is above the bound {bound}"


def test_no_bound_is_false(xp: Lib) -> None:
    assert list(violations(xp, DRAWS // 20 if xp.compiles else DRAWS)) == []


# -- known defects ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["shift", "haar", "two taps"])
def test_defects_with_a_closed_form(xp: Lib, name: str) -> None:
    kernel, geometry, _ = KNOWN[name]
    truth = {"shift": 0.0, "haar": 0.0, "two taps": 15.0}[name]
    for dtype in xp.dtypes:
        eps = float(np.finfo(dtype).eps)
        x = xp.asarray(kernel.astype(dtype))
        bound = xp.number(specnorm.isometry_bound(x, **geometry))
        found = specnorm.enclose_isometry(x, **geometry)
        assert truth * (1 - eps) <= bound <= truth + 2000 * eps
        assert xp.number(found.lower) <= truth * (1 + eps) + 32 * eps
        assert truth * (1 - eps) <= xp.number(found.upper) <= 1.002 * truth + 300 * eps
        assert specnorm.is_isometry(x, 1.01 * truth + 3000 * eps, **geometry)
        if truth:
            assert not specnorm.is_isometry(x, 0.99 * truth, **geometry)


@pytest.mark.parametrize("moved", [1e-3, 1e-6])
def test_what_is_near_an_isometry_is_bounded_closely(moved: float) -> None:
    kernel = shift(16) + moved * np.random.RandomState(0).standard_normal((16, 16, 3, 3))
    bound, found = float(specnorm.isometry_bound(kernel)), specnorm.enclose_isometry(kernel)
    assert float(found.lower) <= float(found.upper) <= 1.0011 * float(found.lower)
    assert float(found.upper) <= bound <= 12 * float(found.upper)
    smallest, norm = specnorm.enclose_smallest(kernel), specnorm.enclose(kernel)
    assert float(smallest.upper) >= math.sqrt(1 - bound)
    assert float(norm.lower) <= math.sqrt(1 + bound)


def test_the_best_scale() -> None:
    kernel = shift(8, scale=0.3)
    assert float(specnorm.isometry_bound(kernel)) == pytest.approx(0.91, abs=1e-9)
    assert float(specnorm.isometry_bound(kernel, scale="best")) < 1e-12
    assert specnorm.is_isometry(kernel, 1e-9, scale="best")
    assert specnorm.is_isometry(kernel, 1e-9, scale=0.3)
    grouped = np.concatenate([np.ones((1, 1, 1)), 2 * np.ones((1, 1, 1))])
    assert float(specnorm.isometry_bound(grouped, groups=2, scale="best")) == pytest.approx(0.6, abs=1e-9)
    assert float(specnorm.enclose_isometry(grouped, groups=2, scale="best").upper) == pytest.approx(0.6, rel=2e-3)


@pytest.mark.parametrize("exponent", [-540, -500, -60, 60, 500, 600])
def test_kernels_far_from_the_scale(exponent: int) -> None:
    kernel = np.ldexp(np.random.RandomState(0).standard_normal((4, 2, 3)), exponent)
    bound, found = float(specnorm.isometry_bound(kernel)), specnorm.enclose_isometry(kernel)
    assert float(found.lower) <= bound
    if exponent < 0:
        assert 1 - 1e-12 <= float(found.upper) <= 1.001
        assert 1 <= bound <= 1.001
    else:
        least = float(specnorm.enclose(np.ldexp(kernel, -exponent)).lower) ** 2
        assert bound >= math.ldexp(least, min(2 * exponent, 1000))
        assert float(found.upper) >= math.ldexp(least, min(2 * exponent, 1000))


@pytest.mark.parametrize("name", ["isometry_bound", "tn_bound", "f4_bound", "completion_bound", "conv_norm"])
@pytest.mark.parametrize("entry", [3e38, 1e20])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_parameter_has_the_value_of_its_numbers(torch: Any, name: str, entry: float) -> None:
    """Also where the value or its gradient overflows: it was NaN."""
    kernel = torch.full((2, 2, 3), entry)
    bound = getattr(specnorm, name)
    assert float(bound(torch.nn.Parameter(kernel)).detach()) == float(bound(kernel))


def test_a_kernel_negligible_beside_the_scale_has_no_gradient() -> None:
    for scale in (1e-30, 1e-10):
        _, gradient = specnorm.value_and_grad(np.full((2, 2, 3), scale), Isometry())
        assert np.abs(gradient).max() <= 10 * scale


def test_whose_isometry_it_is() -> None:
    """Of the layer where it has no fewer outputs than inputs, of its adjoint where it has."""
    kernel = np.random.RandomState(0).standard_normal((4, 2, 2, 2))
    for geometry, adjoint in (
        ({}, False),
        ({"stride": 2}, True),
        ({"transposed": True}, True),
        ({"transposed": True, "stride": 2}, False),
    ):
        figures = specnorm.measure(kernel, Isometry(), **geometry).stats
        assert bool(figures["adjoint"]) is adjoint
        matrix = dense_matrix(kernel, 4, **geometry)
        assert (matrix.shape[0] < matrix.shape[1]) is adjoint


# -- answers ---------------------------------------------------------------------------------------------------------
def test_undecided_says_what_is_known() -> None:
    kernel = np.asarray([[[1.0, 0.1]]])
    with pytest.raises(Undecided, match=r"between 0\.20999\d and 0\.21000\d"):
        specnorm.is_isometry(kernel, float(np.float64(1.1) ** 2 - 1))


# -- training --------------------------------------------------------------------------------------------------------
def test_the_sum_of_squares_is_that_of_the_published_code(torch: Any) -> None:
    """Of the convolution of the kernel with itself, as the paper's authors compute it, squared."""
    for shape, stride in (((8, 3, 3, 3), 1), ((4, 8, 3, 3), 1), ((6, 8, 4, 4), 2)):
        kernel = torch.from_numpy(np.random.RandomState(0).standard_normal(shape))
        rows = shape[0] <= shape[1] * stride**2
        x = kernel if rows else kernel.swapaxes(0, 1)
        padding = (shape[2] - 1) // stride * stride
        lags = torch.nn.functional.conv2d(x, x, stride=stride, padding=padding)
        middle = lags.shape[-1] // 2
        lags[:, :, middle, middle] -= torch.eye(len(x), dtype=x.dtype)
        found = specnorm.measure(kernel, Isometry(form="lags"), stride=stride)
        assert float(found.value) == pytest.approx(float((lags**2).sum()), rel=1e-12)
        assert found.kind == "estimate"
