"""The smallest singular value and the condition number: against dense matrices, grids and kernels of known spectrum."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from assumptions import assumed
from libraries import OPS, Lib
from nightly import NIGHTLY
from oracle import Truth, dense_matrix, dense_norm, dense_smallest, smallest_everywhere
from soundness.families import case
from spectra import KNOWN, SMALL, Kernel, geometry_of, roomy, shift

import specnorm
from specnorm import Enclosure, arrays
from specnorm.certified import completion, defect
from specnorm.certified.bound import EVERYWHERE, HypothesisError, _upper
from specnorm.certified.layer.own_matrix import LayerGram
from specnorm.certified.matrices import norms
from specnorm.certified.matrices.block_tridiagonal import plans
from specnorm.certified.symbol import cover
from specnorm.certified.symbol.cells import torus
from specnorm.certified.symbol.cover import Cover, _nowhere_negative
from specnorm.errors import CertificateError, GeometryError, MethodError
from specnorm.methods import Smallest
from specnorm.methods.determinant import LogDeterminant
from specnorm.problem.frequencies import half_grid
from specnorm.problem.layer_map import Convolution
from specnorm.problem.spec import ConvSpec
from specnorm.search import incumbent
from specnorm.search import smallest as search
from specnorm.search.branch_and_bound import Search

DRAWS = 20_000 if NIGHTLY else 60


def violation(found: Enclosure, truth: Truth, words: str) -> str | None:
    """What is false about an enclosure, if something is."""
    low, high = float(found.lower), float(found.upper)
    if low <= truth.hi and high >= truth.lo and low <= high:
        return None
    return f"{words}: [{low}, {high}], the truth lies in [{truth.lo}, {truth.hi}]"


def drawn(count: int, first: int = 0) -> Iterator[tuple[int, Kernel]]:
    """Kernels of all structures and scales that are small enough to be written out."""
    for index in range(first, first + count):
        kernel = case(index).kernel
        if kernel.size <= SMALL:
            yield index, kernel


def at_circular_sizes(count: int) -> Iterator[str]:
    """Violations at one size, of every geometry, against the dense matrix."""
    for index, kernel in drawn(count):
        geometry = geometry_of(index, kernel)
        size = geometry.pop("input_shape")
        truth = dense_smallest(kernel, size, **geometry)
        found = specnorm.enclose_smallest(kernel, size, budget=0.1, **geometry)
        if words := violation(found, truth, f"{index} {kernel.shape} {size} {geometry}"):
            yield words


def at_every_size(count: int) -> Iterator[str]:
    """Violations of the infimum over all sizes: no size is below it, and a grid with its slope is a lower end."""
    for index, kernel in drawn(count):
        found = specnorm.enclose_smallest(kernel, budget=0.1)
        truth = smallest_everywhere(kernel, 48 if kernel.ndim < 5 else 12)
        if words := violation(found, truth, f"{index} {kernel.shape}"):
            yield words
        geometry = geometry_of(index, kernel)
        size = geometry.pop("input_shape")
        found = specnorm.enclose_smallest(kernel, budget=0.1, **geometry)
        if not float(found.lower) <= dense_smallest(kernel, size, **geometry).hi:
            yield f"{index} {kernel.shape} {geometry}: {found} is above the value at {size}"


def with_own_borders(count: int) -> Iterator[str]:
    """Violations at a size with zeros or repeated pixels around, against the dense matrix."""
    for index, kernel in drawn(count):
        geometry = geometry_of(index, kernel)
        random = np.random.RandomState(index)
        size = roomy(geometry, kernel)
        modes = ["zeros"] if geometry["transposed"] else ["zeros", "reflect", "replicate", "circular"]
        geometry.update(padding_mode=str(random.choice(modes)), padding=int(random.randint(0, 3)))
        if kernel.ndim == 2 or kernel.size * math.prod(size) ** 2 > 4e5:
            continue
        try:
            truth = dense_smallest(kernel, size, **geometry)
            found = specnorm.enclose_smallest(kernel, size, **geometry)
        except (ValueError, GeometryError):
            continue  # no such layer, or none of one output
        if words := violation(found, truth, f"{index} {kernel.shape} {size} {geometry}"):
            yield words


def where_nothing_is_cut(count: int) -> Iterator[str]:
    """Violations of the bound at every size of zero-padded layers that cut nothing off."""
    for index, kernel in drawn(count):
        geometry = {**geometry_of(index, kernel), "padding_mode": "zeros"}
        size = roomy(geometry, kernel)
        rate = geometry.get("dilation", 1)
        for padding in ([(0, 0)] * len(size), [(rate * (k - 1),) * 2 for k in kernel.shape[2:]]):
            if kernel.ndim == 2 or kernel.size * math.prod(size) ** 2 > 4e5:
                continue
            try:
                found = specnorm.enclose_smallest(kernel, budget=0.1, padding=padding, **geometry)
                truth = dense_smallest(kernel, size, padding=padding, **geometry)
            except (ValueError, GeometryError):
                continue  # something is cut off, or no such layer
            if not float(found.lower) <= truth.hi:
                yield f"{index} {kernel.shape} {size} {geometry} {padding}: {found} is above {truth.hi}"


CHECKS: tuple[Callable[[int], Iterator[str]], ...] = (
    at_circular_sizes, at_every_size, with_own_borders, where_nothing_is_cut
)  # fmt: skip


@pytest.mark.parametrize("check", CHECKS)
def test_no_bound_is_false(check: Callable[[int], Iterator[str]]) -> None:
    assert list(check(DRAWS)) == []


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


@pytest.mark.parametrize("exponent", [-900, -500, -100, 100, 500, 900])
def test_scales_go_straight_through(exponent: int) -> None:
    kernel = np.random.RandomState(0).standard_normal((6, 3, 3))
    plain, scaled = (specnorm.enclose_smallest(x) for x in (kernel, np.ldexp(kernel, exponent)))
    assert math.ldexp(float(plain.lower), exponent) == float(scaled.lower)
    assert math.ldexp(float(plain.upper), exponent) == float(scaled.upper)


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


def test_a_witness_with_borders_is_of_the_whole_layer() -> None:
    kernel = np.random.RandomState(0).standard_normal((4, 3, 3))
    geometry: dict[str, Any] = {"groups": 2, "padding_mode": "zeros"}
    found = specnorm.enclose_smallest(kernel, 5, **geometry)
    _, u, v = found.witness
    matrix = dense_matrix(kernel, 5, **geometry)
    assert abs(u @ matrix @ v / float(found.upper) - 1) < 1e-12


# -- hypotheses ------------------------------------------------------------------------------------------------------
def forgotten(lags: Any) -> Any:
    """Lags without the last one."""

    def without_the_last(*args: Any, **keywords: Any) -> completion.Lags:
        found: completion.Lags = lags(*args, **keywords)
        values: Any = found.values + 0
        values[:, -1] = 0
        return found._replace(values=values)

    return without_the_last


def exact_lags(lags: Any) -> Any:
    def without_error(*args: Any, **keywords: Any) -> completion.Lags:
        found: completion.Lags = lags(*args, **keywords)
        return found._replace(error=0 * found.error)

    return without_error


def long_columns(count: int = 40) -> Iterator[str]:
    """Lower bounds of long columns of one number, whose lag is a sum of many roundings, against rational numbers."""
    length = 30_000
    for seed in range(count):
        value = float(np.random.RandomState(seed).uniform(1, 2))
        column: Any = np.full((1, length, 1), value)
        of = defect.defect(column, 2 * length * value**2, ops=OPS)
        # The kernel of the defect is one number: as computed, its norm.
        norm = _upper(float(of.kernel[0, 0, 0]), EVERYWHERE, "test")
        low = defect.smallest_down(of, norm).value
        if Fraction(low) ** 2 > length * Fraction(value) ** 2:
            yield f"{value}: {low}"


def guesses_too_high() -> Iterator[str]:
    """Lower bounds of a layer by its matrix, tried twice as high as its smallest eigenvalue."""
    geometry = {"padding_mode": "zeros", "input_shape": 6}
    for seed in range(6):
        kernel: Any = np.random.RandomState(seed).standard_normal((1, 3, 2, 3))
        spec = ConvSpec.of(kernel.shape[1:], **geometry)
        truth = dense_smallest(kernel[0], 6, padding_mode="zeros")
        gram = LayerGram(Convolution(kernel, spec, ops=OPS), search.own_plan(spec), ops=OPS)
        (low,) = gram.smallest_near(np.asarray([2 * truth.hi**2]), 100.0)
        if low > truth.hi:
            yield f"{seed}: {low.value} above {truth.hi}"


def without_estimates(share: float, count: int = 40) -> Iterator[str]:
    """Bounds just below the norm of the defect, by a search that takes every cell for empty.

    Of rotations: the symbol's squared singular values are ``1 + t**2 + 2 t cos(3 theta +- psi)``, which vary as much as
    any of so many taps, and are largest between the centres of the first cells.
    """

    def nothing_seen(_: Any, vectors: Any, cut: Any, *__: Any, **___: Any) -> Any:
        return np.zeros(len(cut)), vectors

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(incumbent, "largest_eigenvalues", nothing_seen)
        patch.setattr(incumbent.Incumbent, "raise_from", lambda *_: None)
        for seed in range(count):
            psi, t = np.random.RandomState(seed).uniform([0.4, 0.8], [0.65, 1.2])
            blocks: Any = np.zeros((1, 2, 2, 4))
            blocks[0, :, :, 0] = np.eye(2)
            blocks[0, :, :, 3] = t * np.asarray([[math.cos(psi), -math.sin(psi)], [math.sin(psi), math.cos(psi)]])
            norm = specnorm.enclose(blocks[0])
            assert norm.claim is not None
            supremum: Any = norm.claim[1].of[0].of[0]
            of = defect.defect(blocks, share * float(norm.upper) ** 2, ops=OPS)
            token = defect.nowhere_negative(of, supremum)
            truth = float(specnorm.enclose(of.kernel[0], rtol=1e-6).lower)
            for least in (0.9, 0.97, 0.99):
                search_of = Search(of.kernel, nonnegative=token, ops=OPS)
                found = search_of.run(torus(of.kernel.shape[3:]), bound=least * truth, max_cells=3000)
                if found.upper is not None:
                    yield f"{seed}: {least} of {truth} is proven"


def assumed_nonnegative(of: Any, _: Any) -> Any:
    """Instead of looking at c."""
    return _nowhere_negative(of.kernel)


def small_centres() -> Iterator[str]:
    """Both a centre that is large enough, and one that is not."""
    yield from without_estimates(1.001, count=10)
    yield from without_estimates(0.5)


def grid_points(count: int = 300) -> Iterator[str]:
    """Limits of grid points of symbols that are nowhere negative, against all functions of one frequency."""
    random = np.random.RandomState(0)
    for _ in range(count):
        supremum, share, radius = float(random.uniform(1, 2)), float(random.uniform(0.6, 0.999)), random.uniform(0, 1.2)
        threshold = share * supremum
        limit = float(cover.nonnegative_grid_lemma(threshold, assumed(supremum), np.asarray([radius]))[0])
        # The function S / 2 + S / 2 cos(t) is mu at t, and as low as any at t + radius.
        angle = math.acos(2 * share - 1) + radius
        lowest = supremum / 2 * (1 + math.cos(angle))
        if limit > lowest * (1 + 1e-12):
            yield f"{supremum} {threshold} {radius}: {limit} above {lowest}"
        if limit < lowest - 1e-9:
            yield f"{supremum} {threshold} {radius}: {limit} is no sharp limit, {lowest}"


def believed(gram: Any, *_: Any, **__: Any) -> Any:
    """Instead of a proof."""
    return np.ones(gram.shape[:-2], dtype=bool)


def wide_kernels() -> Iterator[str]:
    for seed in range(12):
        kernel = np.random.RandomState(seed).standard_normal((2, 4, 2))
        yield from filter(None, [violation(specnorm.enclose_smallest(kernel, 5), dense_smallest(kernel, 5), str(seed))])


def cut_borders() -> Iterator[str]:
    """Bounds at every size that are asked for where borders cut, and hold at no small size."""
    for seed in range(12):
        kernel = np.random.RandomState(seed).standard_normal((4, 2, 3))
        try:
            found = specnorm.enclose_smallest(kernel, padding_mode="zeros", padding=0)
        except GeometryError:
            continue
        truth = dense_smallest(kernel, 3, padding_mode="zeros", padding=0)
        if float(found.lower) > truth.hi:
            yield f"{seed}: {found} above {truth}"


def zero_rows() -> Iterator[str]:
    kernel = np.random.RandomState(0).standard_normal((5, 1, 2))
    yield from filter(
        None, [violation(specnorm.enclose_smallest(kernel, 6, stride=3), dense_smallest(kernel, 6, stride=3), "")]
    )


def without_sine(threshold: float, _: Any, radius: Any) -> Any:
    """The lemma of cells, where that of grid points is needed."""
    return cover.nonnegative_cell_lemma(threshold, radius)


MUTANTS: dict[str, tuple[Callable[[], Iterator[str]], Any, str, Any]] = {
    "a lag forgotten": (lambda: at_every_size(40), completion, "lags", forgotten(completion.lags)),
    "rounding of the lags": (long_columns, completion, "lags", exact_lags(completion.lags)),
    "c too small": (small_centres, defect, "nowhere_negative", assumed_nonnegative),
    "grid points of nonnegative symbols": (grid_points, cover, "nonnegative_grid_lemma", without_sine),
    "wide kernels": (wide_kernels, arrays, "tall", lambda blocks, **_: blocks),
    "borders that cut": (cut_borders, defect, "meets_every_output", lambda _: True),
    "strides that leave pixels": (zero_rows, defect, "has_unread_pixels", lambda _: False),
    "proof of the layer's own matrix": (guesses_too_high, norms, "gram_below", believed),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_every_hypothesis_is_needed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check, owner, attribute, mutant = MUTANTS[name]
    assert list(check()) == []
    monkeypatch.setattr(owner, attribute, mutant)
    with contextlib.suppress(HypothesisError):  # a rule that refuses has noticed
        assert next(check(), None), "nothing was noticed"


def test_rules_check_what_they_are_given() -> None:
    blocks: Any = np.random.RandomState(0).standard_normal((1, 3, 2, 2))
    of = defect.defect(blocks, 10.0, ops=OPS)
    with pytest.raises(HypothesisError, match="not the norm of the defect's kernel"):
        defect.smallest_down(of, _upper(1.0, "something else", "test"))
    ones: Any = np.ones((1, 3))
    with pytest.raises(HypothesisError, match="fewer rows"):
        defect.smallest_at(np.swapaxes(blocks, 1, 2), 0, half_grid((4,)), ones, ops=OPS)
    with pytest.raises(HypothesisError, match="vector of zeros"):
        defect.smallest_at(blocks, 0, half_grid((1,)), 0 * ones[:, :2], ops=OPS)
    with pytest.raises(TypeError, match="made by `defect`"):
        defect.Defect(of.kernel, 0, 10.0, 0.0)
    with pytest.raises(HypothesisError, match="not zero"):
        defect.smallest_of_zero(blocks, ops=OPS)
    with pytest.raises(HypothesisError, match="every pixel is read"):
        defect.smallest_with_unread_pixels(ConvSpec.of((3, 2, 2)))
    claim, other = (specnorm.enclose(x).claim for x in (blocks[0], 2 * blocks[0]))
    smallest = specnorm.enclose_smallest(blocks[0]).claim
    assert claim is not None
    assert other is not None
    assert smallest is not None
    norm: Any = claim[1]
    with pytest.raises(HypothesisError, match="another"):
        defect.condition(other, smallest)
    supremum: Any = norm.of[0].of[0]
    with pytest.raises(TypeError, match="rules of this room"):
        cover.Nonnegative(of.kernel)
    with pytest.raises(HypothesisError, match="at every frequency"):
        defect.nowhere_negative(of, norm)
    assert defect.nowhere_negative(defect.defect(blocks, 1e-3, ops=OPS), supremum) is None
    token = defect.nowhere_negative(defect.defect(blocks, 100.0, ops=OPS), supremum)
    with pytest.raises(HypothesisError, match="another kernel"):
        Cover(of.kernel, torus((3,)), nonnegative=token, ops=OPS)
    spec = ConvSpec.of((3, 2, 2), input_shape=4, padding_mode="zeros")
    single = Convolution(blocks, spec, ops=OPS)
    (wide, *_) = [x for x in plans_of(spec) if x.wide]
    with pytest.raises(HypothesisError, match="other eigenvalues"):
        LayerGram(single, wide, ops=OPS).smallest_near(np.zeros(1), 1.0)


def plans_of(spec: ConvSpec) -> list[Any]:
    return sorted((x for x in plans(spec) if x.blocks == 1), key=lambda plan: plan.work)


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_a_centre_that_is_too_small_proves_less_and_nothing_false(share: float) -> None:
    """With c below ``(||K||**2 + m**2) / 2`` the other end of the spectrum counts: the bound is loose, and true."""
    for seed in range(5):
        blocks: Any = np.random.RandomState(seed).standard_normal((1, 5, 3, 3))
        top, truth = dense_norm(blocks[0], 30), smallest_everywhere(blocks[0], 400)
        centre = share * (top.hi**2 + truth.lo**2)
        of = defect.defect(blocks, centre, ops=OPS)
        found = specnorm.enclose(of.kernel[0])
        assert found.claim is not None
        everywhere: Any = found.claim[1].of[0].of[0]
        low = defect.smallest_down(of, everywhere).value
        assert low <= truth.hi
        if share < 0.5:
            assert low < 0.99 * truth.lo


# -- other doors -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["tall", "wide", "strided", "zeros"])
def test_the_gradient_is_that_of_the_value(xp: Lib, name: str) -> None:
    layers: dict[str, tuple[tuple[int, ...], Any]] = {
        "tall": ((5, 3, 3), {}),
        "wide": ((3, 5, 3), {}),
        "strided": ((5, 2, 4), {"stride": 2, "input_shape": 6}),
        "zeros": ((4, 2, 3), {"padding_mode": "zeros", "input_shape": 5}),
    }
    shape, geometry = layers[name]
    random = np.random.RandomState(3)
    kernel, direction = random.standard_normal(shape), random.standard_normal(shape)
    dtype = xp.dtypes[-1]
    _, gradient = specnorm.value_and_grad(xp.asarray(kernel.astype(dtype)), Smallest(), **geometry)
    slope = float((xp.to_numpy(gradient) * direction).sum())
    values = [
        specnorm.measure(kernel + h * direction, Smallest(rtol=1e-8), **geometry).stats["upper"] for h in (-1e-4, 1e-4)
    ]
    assert abs(slope - (float(values[1]) - float(values[0])) / 2e-4) < 2e-3 * np.abs(direction).sum()


def test_refusals_say_what_to_use() -> None:
    kernel = np.ones((4, 2, 3, 3))
    with pytest.raises(GeometryError, match="Give input_shape"):
        specnorm.enclose_smallest(kernel, padding_mode="zeros")
    with pytest.raises(GeometryError, match="8192 rows; at most"):
        specnorm.enclose_smallest(kernel, 64, padding_mode="zeros")
    with pytest.raises(GeometryError, match="enclose_smallest"):
        specnorm.singular_values(kernel, 8, k=2, which="smallest", padding_mode="zeros")
    with pytest.raises(MethodError, match="which='least'"):
        specnorm.singular_values(kernel, 8, which="least")  # type: ignore[arg-type]
    with pytest.raises(CertificateError, match="no certificate of a smallest singular value"):
        specnorm.enclose_smallest(kernel).certificate()
    with pytest.raises(MethodError, match="rtol"):
        specnorm.enclose_smallest(kernel, rtol=2.0)


def test_a_budget_ends_the_search() -> None:
    kernel = np.random.RandomState(0).standard_normal((40, 38, 3, 3))
    found = specnorm.enclose_smallest(kernel, rtol=1e-6, budget=0.3)
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
    "odd size": ((3, 3, 3), 5, {}),
    "even size": ((3, 3, 3), 6, {}),
    "even kernel": ((3, 3, 2), 4, {}),
    "two axes": ((2, 2, 3, 2), (4, 6), {"padding": [(0, 2), (1, 0)]}),
    "uneven padding": ((3, 3, 2), 6, {"padding": [(1, 0)]}),
    "groups": ((4, 2, 3), 6, {"groups": 2}),
    "dilation": ((4, 2, 3), 8, {"groups": 2, "dilation": 2}),
    "transposed": ((3, 3, 2), 6, {"transposed": True}),
    "matrix": ((3, 3), (), {}),
    "longer than the input": ((2, 2, 7), 4, {}),
    "three axes": ((1, 1, 2, 2, 2), (2, 3, 2), {}),
}


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
        method = LogDeterminant()
        _, gradient = specnorm.value_and_grad(
            xp.asarray(kernel.astype(xp.dtypes[-1])), method, input_shape=size, **geometry
        )
        moved = [np.linalg.slogdet(dense_matrix(kernel + h * direction, size, **geometry))[1] for h in (-1e-6, 1e-6)]
        slope = float((xp.to_numpy(gradient) * direction).sum())
        assert abs(slope - (moved[1] - moved[0]) / 2e-6) < 1e-3 * np.linalg.cond(matrix) ** 2


def test_determinants_of_singular_and_other_layers() -> None:
    sign, value = specnorm.slogdet(np.ones((2, 2, 3)), 4)
    assert (float(sign), float(value)) == (0, -math.inf)
    assert float(specnorm.slogdet(np.asarray([[2.0**-500]]), ())[1]) == pytest.approx(-500 * math.log(2), rel=1e-15)
    layers: tuple[tuple[Kernel, Any], ...] = ((np.ones((3, 2, 3)), {}), (np.ones((2, 2, 3)), {"stride": 2}))
    for kernel, geometry in layers:
        with pytest.raises(GeometryError, match="has no determinant"):
            specnorm.slogdet(kernel, 4, **geometry)
    with pytest.raises(GeometryError, match="needs padding_mode"):
        specnorm.slogdet(np.ones((2, 2, 3)), 4, padding_mode="zeros")


@pytest.mark.parametrize("which", ["largest", "smallest"])
def test_some_of_the_singular_values(which: Any) -> None:
    layers: tuple[tuple[tuple[int, ...], int, Any], ...] = (
        ((3, 4, 3), 6, {}),
        ((4, 2, 3), 6, {"groups": 2}),
        ((3, 2, 2, 2), 4, {"stride": 2}),
        ((9, 1, 2), 6, {"stride": 3}),
    )
    for shape, size, geometry in layers:
        kernel = np.random.RandomState(0).standard_normal(shape)
        every: Any = np.linalg.svd(dense_matrix(kernel, size, **geometry), compute_uv=False)
        for k in (1, 3, len(every)):
            found = specnorm.singular_values(kernel, size, k=k, which=which, **geometry)
            np.testing.assert_allclose(found, every[:k] if which == "largest" else every[-k:], atol=1e-12)
        (alone,) = specnorm.singular_values(kernel, size, which=which, **geometry)
        assert alone == pytest.approx(every[0] if which == "largest" else every[-1], abs=1e-12)


def test_the_smallest_singular_values_are_differentiable(xp: Lib) -> None:
    random = np.random.RandomState(0)
    kernel, direction = random.standard_normal((2, 4, 2, 3))
    if xp.name != "torch":
        pytest.skip("values of several numbers have a gradient where the library asks for it")
    x = xp.asarray(kernel).requires_grad_()
    specnorm.singular_values(x, 5, k=3, which="smallest").sum().backward()
    moved = [specnorm.singular_values(kernel + h * direction, 5, k=3, which="smallest").sum() for h in (-1e-6, 1e-6)]
    assert float((xp.to_numpy(x.grad) * direction).sum()) == pytest.approx((moved[1] - moved[0]) / 2e-6, rel=1e-4)
