"""The smallest singular value and the condition number: against dense matrices, grids and kernels of known spectrum."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from core.soundness.families import case
from helpers import plans
from helpers.libraries import Lib
from helpers.nightly import NIGHTLY
from helpers.oracle import all_singular_values, dense_matrix, dense_norm, dense_smallest, smallest_everywhere
from helpers.spectra import KNOWN, SMALL, Kernel, geometry_of, roomy, shift

import specnorm
from specnorm.ends import smallest_singular_value as smallest_search
from specnorm.errors import GeometryError
from specnorm.spectrum.determinant import LogDeterminant

DRAWS = 20_000 if NIGHTLY else 40


def draws(xp: Lib, count: int) -> int:
    return count // 20 if xp.compiles else count


def drawn(xp: Lib, count: int) -> Iterator[tuple[int, Kernel]]:
    """Kernels of all structures and scales that are small enough to be written out, and of a dtype of the library."""
    for index in range(count):
        kernel = case(index, subnormal=xp.keeps_subnormals).kernel
        if kernel.size <= SMALL and hasattr(xp.xp, str(kernel.dtype)):
            yield index, kernel


def ends_of(xp: Lib, kernel: Kernel, *args: Any, **keywords: Any) -> tuple[float, float]:
    found = specnorm.enclose_smallest(xp.asarray(kernel), *args, **keywords)
    return xp.number(found.lower), xp.number(found.upper)


def layers_of(index: int, kernel: Kernel) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Sizes and geometries: circular, with a border of some mode, and padded so that nothing is cut off."""
    geometry = geometry_of(index, kernel)
    circular = dict(geometry)
    yield circular.pop("input_shape"), circular
    size, random, rate = roomy(geometry, kernel), np.random.RandomState(index), geometry.get("dilation", 1)
    modes = ["zeros"] if geometry["transposed"] else ["zeros", "reflect", "replicate", "circular"]
    if kernel.ndim > 2 and kernel.size * math.prod(size) ** 2 <= 4e5:
        yield size, {**geometry, "padding_mode": str(random.choice(modes)), "padding": int(random.randint(0, 3))}
        for padding in ([(0, 0)] * len(size), [(rate * (k - 1),) * 2 for k in kernel.shape[2:]]):
            yield size, {**geometry, "padding_mode": "zeros", "padding": padding}


def violations(xp: Lib, count: int) -> Iterator[str]:
    """At a size against the dense matrix; and of the infimum over all sizes, which no size is below."""
    for index, kernel in drawn(xp, count):
        infimum = smallest_everywhere(kernel, 48 if kernel.ndim < 5 else 12)
        low, high = ends_of(xp, kernel, budget=0.1)
        if not (low <= infimum.hi and infimum.lo <= high and low <= high):
            yield f"{index} {kernel.shape}: [{low}, {high}], the truth is {infimum}"
        for size, geometry in layers_of(index, kernel):
            words = f"{index} {kernel.shape} {size} {geometry}"
            try:
                truth = dense_smallest(kernel, size, **geometry)
                low, high = ends_of(xp, kernel, size, budget=0.1, **geometry)
            except (ValueError, GeometryError):
                continue  # no such layer, or none of one output
            if not (low <= truth.hi and truth.lo <= high and low <= high):
                yield f"{words}: [{low}, {high}], the truth is {truth}"
            with suppress(GeometryError):  # something is cut off
                if not (low := ends_of(xp, kernel, budget=0.1, **geometry)[0]) <= truth.hi:
                    yield f"{words}: {low} of all sizes is above {truth}"


def test_no_bound_is_false(xp: Lib) -> None:
    assert list(violations(xp, draws(xp, DRAWS))) == []


# -- kernels of known spectrum ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", KNOWN)
def test_known_spectra(xp: Lib, name: str) -> None:
    kernel, geometry, truth = KNOWN[name]
    for dtype in xp.dtypes:
        eps = float(np.finfo(dtype).eps)
        found = specnorm.enclose_smallest(xp.asarray(kernel.astype(dtype)), **geometry)
        low, high = xp.number(found.lower), xp.number(found.upper)
        assert low <= truth * (1 + 16 * eps)
        assert high >= truth * (1 - 16 * eps)
        if truth:
            assert high <= low * (1 + 1.01e-3)
            assert found.status.startswith("converged")
        else:
            assert low == 0
            assert high <= 1e3 * eps
            assert found.status.startswith(("zero", "converged"))


def test_square_kernels_end_fast() -> None:
    """Square symbols in two axes have zeros: found by Newton, and told from nothing by no proof."""
    for seed in range(3):
        found = specnorm.enclose_smallest(np.random.RandomState(seed).standard_normal((16, 16, 3, 3)))
        assert float(found.lower) == 0
        assert float(found.upper) < 1e-5
        assert found.status.startswith("zero")
        assert found.cells == 0


@pytest.mark.parametrize(("rows", "columns"), [(12, 5), (5, 12)])
def test_the_bounds_are_close(rows: int, columns: int) -> None:
    """A random kernel, tall or wide, and at one size exactly; a smaller tolerance too."""
    kernel = np.random.RandomState(0).standard_normal((rows, columns, 3, 3))
    for rtol in (1e-2, 1e-3, 1e-5):
        found = specnorm.enclose_smallest(kernel, rtol=rtol)
        assert float(found.upper) <= float(found.lower) * (1 + rtol)
        assert found.status.startswith("converged")
    at_size = specnorm.enclose_smallest(kernel, 5)
    exact = float(specnorm.singular_values(kernel, 5, which="smallest")[0])
    assert float(at_size.lower) <= exact <= float(at_size.upper) <= exact * 1.001


def test_a_witness_attains_the_upper_end() -> None:
    for shape in ((7, 4, 3, 2), (4, 7, 3, 2)):
        kernel = np.random.RandomState(1).standard_normal(shape)
        found = specnorm.enclose_smallest(kernel)
        theta, u, v = found.witness
        phase = np.exp(1j * np.indices(shape[2:]).reshape(2, -1).T @ theta)
        symbol = kernel.reshape(*shape[:2], -1) @ phase
        assert abs(abs(u.conj() @ symbol @ v) / float(found.upper) - 1) < 1e-12


# -- other doors -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("channels", [(1, 1), (2, 3)])
def test_a_layer_that_reads_no_pixel_is_zero(channels: tuple[int, int]) -> None:
    """Both taps of a kernel with dilation 2 lie outside of a single pixel."""
    geometry: Any = {"dilation": 2, "padding_mode": "zeros"}
    found = specnorm.enclose_smallest(np.ones((*channels, 2)), 1, **geometry)
    assert float(found.lower) == float(found.upper) == 0
    assert specnorm.condition_number(np.ones((*channels, 2)), 1, **geometry).upper == np.inf


def test_a_budget_ends_the_search() -> None:
    kernel = np.random.RandomState(0).standard_normal((40, 38, 3, 3))
    found = specnorm.enclose_smallest(kernel, rtol=1e-6, budget=0.02)
    assert found.status.startswith("budget")
    assert 0 <= float(found.lower) < float(found.upper)


def test_condition_numbers(xp: Lib) -> None:
    layers: tuple[tuple[tuple[int, ...], dict[str, Any]], ...] = (
        ((6, 3, 3), {}), ((3, 6, 2), {"stride": 2}), ((4, 2, 3), {"padding_mode": "zeros"})
    )  # fmt: skip
    for shape, geometry in layers:
        kernel = np.random.RandomState(0).standard_normal(shape).astype(xp.dtypes[0])
        sizes = [6] if "padding_mode" in geometry else [6, None]
        for size in sizes:
            found = specnorm.condition_number(xp.asarray(kernel), size, **geometry)
            low, high = xp.number(found.lower), xp.number(found.upper)
            assert high <= low * (1 + 1.1e-3)
            if size:
                top, least = dense_norm(kernel, size, **geometry), dense_smallest(kernel, size, **geometry)
                assert low <= top.hi / least.lo
                assert high >= top.lo / least.hi
    shifted = specnorm.condition_number(xp.asarray(shift().astype(xp.dtypes[0])))
    assert xp.number(shifted.lower) >= 1
    singular = specnorm.condition_number(xp.asarray(np.ones((2, 2, 3), dtype=xp.dtypes[0])))
    assert xp.number(singular.upper) == math.inf
    assert "condition number" in repr(singular)
    assert "norm over smallest singular value" in singular.explain()


def test_a_proof_is_explained() -> None:
    found = specnorm.enclose_smallest(np.random.RandomState(0).standard_normal((5, 3, 3)))
    assert "smallest singular value at every frequency >= " in found.explain()
    assert "quotient of a vector" in found.explain()
    assert found.claim is not None
    assert found.claim[0].digest == found.claim[1].digest != ""


# -- all of the spectrum ---------------------------------------------------------------------------------------------
SQUARE: dict[str, tuple[tuple[int, ...], Any, dict[str, Any]]] = {
    "odd size": ((3, 3, 3), 5, {}), "even size": ((3, 3, 3), 6, {}), "even kernel": ((3, 3, 2), 4, {}),
    "two axes": ((2, 2, 3, 2), (4, 6), {"padding": [(0, 2), (1, 0)]}),
    "uneven padding": ((3, 3, 2), 6, {"padding": [(1, 0)]}), "groups": ((4, 2, 3), 6, {"groups": 2}),
    "dilation": ((4, 2, 3), 8, {"groups": 2, "dilation": 2}), "transposed": ((3, 3, 2), 6, {"transposed": True}),
    "matrix": ((3, 3), (), {}), "longer than the input": ((2, 2, 7), 4, {}),
    "three axes": ((1, 1, 2, 2, 2), (2, 3, 2), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", SQUARE)
def test_determinants(xp: Lib, name: str) -> None:
    shape, size, geometry = SQUARE[name]
    random = np.random.RandomState(5)
    for _ in range(1 if xp.compiles else 4):
        kernel, direction = random.standard_normal((2, *shape))
        matrix = dense_matrix(kernel, size, **geometry)
        sign, value = specnorm.slogdet(xp.asarray(kernel.astype(xp.dtypes[-1])), size, **geometry)
        expected = np.linalg.slogdet(matrix)
        close = 1e-4 if xp.dtypes[-1] == "float32" else 1e-9
        assert xp.number(sign) == expected[0]
        assert abs(xp.number(value) - expected[1]) < close * np.linalg.cond(matrix)
        given = xp.asarray(kernel.astype(xp.dtypes[-1]))
        gradient = plans.gradient(given, LogDeterminant(), input_shape=size, **geometry)
        moved = [np.linalg.slogdet(dense_matrix(kernel + h * direction, size, **geometry))[1] for h in (-1e-6, 1e-6)]
        slope = float((xp.to_numpy(gradient) * direction).sum())
        assert abs(slope - (moved[1] - moved[0]) / 2e-6) < 1e-3 * np.linalg.cond(matrix) ** 2


def test_determinants_of_singular_and_other_layers() -> None:
    sign, value = specnorm.slogdet(np.ones((2, 2, 3)), 4)
    assert (float(sign), float(value)) == (0, -math.inf)
    assert float(specnorm.slogdet(np.asarray([[2.0**-500]]), ())[1]) == pytest.approx(-500 * math.log(2), rel=1e-15)


def test_the_largest_values_need_few_frequencies(xp: Lib, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty values took the factorisations, and the vectors, of all frequencies."""
    kernel = np.random.RandomState(0).standard_normal((5, 4, 3, 3))
    every = all_singular_values(kernel, 12)
    array = xp.asarray(kernel)
    linalg = specnorm.backends.backend_for(array).namespace(array).linalg
    svdvals = linalg.svdvals
    visited: list[int] = []

    def counted(a: Any) -> Any:
        visited.append(a.shape[1])
        return svdvals(a)

    monkeypatch.setattr(linalg, "svdvals", counted)
    found = xp.to_numpy(specnorm.singular_values(array, 12, k=20))
    np.testing.assert_allclose(found, every[:20], rtol=1e-12)
    if xp.name != "jax":  # whose program is compiled, and visits all
        assert sum(visited) < 37, "of 74"


LAYERS: tuple[tuple[tuple[int, ...], Any, dict[str, Any]], ...] = (
    ((3, 4, 3), 6, {}), ((4, 2, 3), 6, {"groups": 2}), ((3, 2, 2, 2), 4, {"stride": 2}), ((9, 1, 2), 6, {"stride": 3}),
    ((3, 4, 3), 6, {"padding_mode": "zeros"}),
    ((4, 2, 3, 2), (3, 4), {"groups": 2, "padding_mode": "reflect", "padding": 1}),
    ((3, 2, 2, 2), 4, {"stride": 2, "padding_mode": "zeros"}), ((2, 3, 3), 5, {"padding_mode": "replicate"}),
    ((3, 2, 4), 6, {"padding": 0}),
    ((2, 4, 3), 5, {"transposed": True, "groups": 2, "stride": 2, "padding_mode": "zeros"}),
)  # fmt: skip


@pytest.mark.parametrize(("shape", "size", "geometry"), LAYERS)
def test_all_and_some_of_the_singular_values(xp: Lib, shape: Any, size: Any, geometry: Any) -> None:
    kernel = np.random.RandomState(0).standard_normal(shape)
    every = all_singular_values(kernel, size, **geometry)

    def found(**options: Any) -> Any:
        return xp.to_numpy(specnorm.singular_values(xp.asarray(kernel), size, **options, **geometry))

    np.testing.assert_allclose(found(), every, atol=1e-12)
    np.testing.assert_allclose(found(k=2, which="smallest"), every[-2:], atol=1e-12)
    if not xp.compiles:
        np.testing.assert_allclose(found(k=3, which="largest"), every[:3], rtol=1e-5)
        for which, expected in (("largest", every[0]), ("smallest", every[-1])):
            np.testing.assert_allclose(found(which=which), [expected], rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("border", [{}, {"padding_mode": "zeros"}])
def test_the_smallest_singular_values_are_differentiable(xp: Lib, border: Any) -> None:
    random = np.random.RandomState(0)
    kernel, direction = random.standard_normal((2, 4, 2, 3))
    if xp.name != "torch":
        pytest.skip("values of several numbers have a gradient where the library asks for it")
    x = xp.asarray(kernel).requires_grad_()
    how: Any = {"k": 3, "which": "smallest", **border}
    specnorm.singular_values(x, 5, **how).sum().backward()
    moved = [specnorm.singular_values(kernel + h * direction, 5, **how).sum() for h in (-1e-6, 1e-6)]
    assert float((xp.to_numpy(x.grad) * direction).sum()) == pytest.approx((moved[1] - moved[0]) / 2e-6, rel=1e-4)


@pytest.mark.parametrize("weaker", [1e-100, 1e-170, 1e-300])
@pytest.mark.parametrize("geometry", [{}, {"input_shape": 5}, {"input_shape": 5, "padding_mode": "zeros"}], ids=str)
def test_a_weak_group_has_a_smallest_value(weaker: float, geometry: Any) -> None:
    """Squares of its numbers underflow beside the other group's: [0, 0] was claimed, and a condition number [inf, inf].

    The value of a kernel that is a multiple is the multiple of the kernel's value.
    """
    kernel = np.random.default_rng(0).standard_normal((2, 2, 3))
    alone = specnorm.enclose_smallest(kernel, **geometry)
    found = specnorm.enclose_smallest(np.concatenate([kernel, weaker * kernel]), groups=2, **geometry)
    assert found.status.startswith("converged")
    assert float(found.lower) <= weaker * float(alone.upper) * (1 + 1e-12)
    assert float(found.upper) >= weaker * float(alone.lower) * (1 - 1e-12)
    condition = specnorm.condition_number(np.concatenate([kernel, weaker * kernel]), groups=2, **geometry)
    ratio = float(specnorm.condition_number(kernel, **geometry).lower) / weaker
    assert float(condition.lower) * 0.998 <= ratio <= float(condition.upper)


@pytest.mark.parametrize("weaker", [1e-170, 1e-300, 5e-324])
def test_a_weak_channel_does_not_vanish(weaker: float) -> None:
    """Channels of one block that are not coupled, at every size, on a circle and by the layer's own matrix."""
    kernel = np.zeros((3, 3, 3))
    kernel[:, :, 1] = np.diag([1.0, 1.0, weaker])
    kernel[0, 1, 0] = 0.1
    for geometry in ({}, {"input_shape": 5}, {"input_shape": 5, "padding_mode": "zeros"}):
        found = specnorm.enclose_smallest(kernel, **geometry)
        assert float(found.lower) <= weaker <= float(found.upper)
    # Groups so far apart that no one scale serves both.
    found = specnorm.enclose_smallest(np.asarray([[[1e200, 0.0]], [[0.0, 1e-200]]]), groups=2)
    assert 0.999e-200 <= float(found.lower) <= 1e-200 <= float(found.upper) <= 1.001e-200


def test_more_cells_than_a_search_may_visit_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no matter of time, and a looser search still finds a lower bound (as for ResNet-20)."""
    kernel = np.random.default_rng(0).standard_normal((24, 16, 3, 3))
    near = specnorm.enclose_smallest(kernel, rtol=1e-4)
    monkeypatch.setattr(smallest_search, "MOST_CELLS", 4000)
    found = specnorm.enclose_smallest(kernel, rtol=1e-6)
    assert found.status.startswith("cells: wider than rtol=1e-06")
    assert "more time does not help" in found.status
    assert "input_shape" in found.outcome.advice
    assert 0 < float(found.lower) <= float(near.upper)
    assert float(near.lower) <= float(found.upper) <= 1.5 * float(found.lower)
