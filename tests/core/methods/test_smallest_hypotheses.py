"""What a bound of the smallest singular value rests on: every hypothesis is needed, and every rounding is counted."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np
import pytest
from core.methods.test_smallest import at_circular_sizes, at_every_size, ends_of, violation, where_nothing_is_cut
from core.proof.test_layer_roundings import Instead
from helpers.assumptions import assumed
from helpers.libraries import OPS, Lib
from helpers.oracle import dense_norm, dense_smallest, smallest_everywhere
from specnorm_numpy import BACKEND

import specnorm
from specnorm.at_size.proofs import uncut
from specnorm.at_size.proofs.own_matrix import LayerGram
from specnorm.backends import arrays
from specnorm.ends import proof as defect
from specnorm.ends import smallest, smallest_layer
from specnorm.errors import GeometryError
from specnorm.geometry.layer_map import Convolution
from specnorm.geometry.spec import ConvSpec
from specnorm.proofs import norms, rounding
from specnorm.proofs.bound import ALL_FREQUENCIES, HypothesisError, Upper
from specnorm.proofs.cells import Boxes, Circulant
from specnorm.running import program
from specnorm.supremum import incumbent
from specnorm.supremum import proof as cover
from specnorm.supremum.branch_and_bound import Search
from specnorm.supremum.proof import Cover, Nonnegative, _nowhere_negative
from specnorm.symbols import power
from specnorm.symbols.proofs.lags import Lags
from specnorm.symbols.proofs.polynomial import Polynomial

Violations = Iterator[str]
NUMPY = Lib("numpy", np, BACKEND)
_gamma = rounding.gamma


def plain(blocks: Any, centre: float) -> defect.Defect:
    return defect.defect(defect.in_basis(blocks, ops=OPS), centre, ops=OPS)


def diagonal(*numbers: float) -> defect.Basis:
    """A basis that scales channels."""
    matrix: Any = np.diag(numbers)[None]
    inverse: Any = np.linalg.inv(matrix)
    return defect.basis(matrix, inverse, ops=OPS)


# -- roundings: D as computed against rational numbers ----------------------------------------------------------------
def off_by_most(sign: int) -> Any:
    """NumPy, with products as small, or as large, as double precision may make them."""

    def matmul(a: Any, b: Any) -> Any:
        return np.matmul(a, b) * (1 + sign * 0.9 * _gamma(a.shape[-1], 2.0**-53))

    return Instead(OPS, xp=Instead(OPS.xp, matmul=matmul))


def rational(x: Any) -> Any:
    return np.vectorize(Fraction, otypes=[object])(np.asarray(x))


def exact_defect(blocks: Any, matrix: Any, centre: float, floor: float, at: int) -> Any:
    """``c I - B*(G*G - f I)B`` of blocks (m, p, taps) at frequency 0 (at = 1) or half a turn (at = -1)."""
    signs = np.asarray([Fraction(at**k) for k in range(blocks.shape[2])])
    symbol = (rational(blocks) * signs).sum(axis=2)
    eye, b = rational(np.eye(blocks.shape[1])), rational(matrix)
    return Fraction(centre) * eye - b.T @ (symbol.T @ symbol - Fraction(floor) * eye) @ b


def too_far(count: int, *, centre: float, floor: float = 0.0, matrix: Any = None, cancels: bool = False) -> Violations:
    """Kernels of defects that are farther from D than they say, by the entries of their symbols.

    Parameters
    ----------
    matrix : array, shape (4, 4), optional
        The basis; None: the identity.
    cancels : bool
        Whether products of kernel and basis are small beside their terms: all channels of the kernel are the same.
    """
    for seed in range(count):
        blocks: Any = np.random.RandomState(seed).uniform(1, 2, size=(1, 5, 4, 2))
        if cancels:
            blocks[...] = blocks[:, :, :1]
        ops = off_by_most(1 - 2 * (seed % 2))
        inverse: Any = None if matrix is None else np.linalg.inv(matrix)[None]
        basis = None if matrix is None else defect.basis(matrix[None], inverse, ops=OPS)
        of = defect.in_basis(blocks, basis, ops=ops)
        found = defect.defect(of, centre, floor=floor, ops=OPS if cancels else ops)
        for at in (1, -1):
            signs = np.asarray([at**k for k in range(3)])
            # The kernel's first lag is -1: its symbol is that of the lags but for a sign.
            computed = at * (rational(found.kernel[0]) * Fraction(2) ** found.exponent * signs).sum(axis=2)
            exact = exact_defect(blocks[0], np.eye(4) if matrix is None else matrix, centre, floor, at)
            farthest = max(abs(x) for x in (computed - exact).ravel())
            if farthest > Fraction(found.error):
                yield f"{seed} at {at}: {float(farthest)} above {found.error}"


LONG_COLUMN: Any = 1e-3 * np.eye(4) + np.outer(np.ones(4), [1, 0, 0, 0])
"""A basis one of whose vectors is much longer than the others."""
CANCELLING: Any = np.linalg.qr(np.ones((4, 1)), mode="complete")[0] * [1e-9, 1, 1, 1]
"""A basis that takes kernels whose channels are the same to almost nothing."""


def long_columns(count: int = 40) -> Violations:
    """Lower bounds of long columns of one number, whose lag is a sum of many roundings, against rational numbers."""
    length = 30_000
    for seed in range(count):
        value = float(np.random.RandomState(seed).uniform(1, 2))
        column: Any = np.full((1, length, 1), value)
        of = plain(column, 2 * length * value**2)
        # The kernel of the defect is one number: as computed, its norm.
        norm = Upper._by_rule(float(of.kernel[0, 0, 0]), ALL_FREQUENCIES, "test")
        low = defect.smallest_down(of, norm).value
        if Fraction(low) ** 2 > length * Fraction(value) ** 2:
            yield f"{value}: {low}"


# -- hypotheses ------------------------------------------------------------------------------------------------------
def in_some_basis(floor: float, count: int = 3) -> Violations:
    """Lower bounds from the defect's norm in a basis, with a floor below the truth or above it."""
    for seed in range(count):
        kernel: Any = np.random.RandomState(seed).standard_normal((5, 3, 3))
        truth = smallest_everywhere(kernel, 400)
        of = defect.in_basis(kernel[None], diagonal(0.1, 0.5, 2.0), ops=OPS)
        made = defect.defect(of, 2 * dense_norm(of.kernel[0], 30).hi ** 2, floor=floor * truth.hi**2, ops=OPS)  # type: ignore[arg-type]
        found = specnorm.enclose(made.kernel[0], rtol=1e-9)
        assert found.claim is not None
        everywhere: Any = found.claim[1].of[0].of[0]
        low = defect.smallest_down(made, everywhere).value
        if low > truth.hi:
            yield f"{seed}: {low} above {truth}"


def guesses_too_high() -> Violations:
    """Lower bounds of a layer by its matrix, tried twice as high as its smallest eigenvalue."""
    geometry = {"padding_mode": "zeros", "input_shape": 6}
    for seed in range(6):
        kernel: Any = np.random.RandomState(seed).standard_normal((1, 3, 2, 3))
        spec = ConvSpec.of(kernel.shape[1:], **geometry)
        truth = dense_smallest(kernel[0], 6, padding_mode="zeros")
        gram = LayerGram(Convolution(kernel, spec, ops=OPS), smallest_layer.plan_of_own_matrix(spec), ops=OPS)
        (low,) = gram.smallest_near(np.asarray([2 * truth.hi**2]), 100.0)
        if low > truth.hi:
            yield f"{seed}: {low.value} above {truth.hi}"


def without_estimates(share: float, count: int) -> Violations:
    """Bounds just below the norm of the defect, by a search that takes every cell for empty.

    Of rotations: the symbol's squared singular values are ``1 + t**2 + 2 t cos(3 theta +- psi)``, which vary as much as
    any of so many taps, and are largest between the centres of the first cells.
    """

    def nothing_seen(_: Any, vectors: Any, cut: Any, *__: Any, **___: Any) -> Any:
        return np.zeros(len(cut)), vectors

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(power, "largest_eigenvalues", nothing_seen)
        patch.setattr(incumbent.Incumbent, "raise_from", lambda *_: None)
        for seed in range(count):
            psi, t = np.random.RandomState(seed).uniform([0.4, 0.8], [0.65, 1.2])
            blocks: Any = np.zeros((1, 2, 2, 4))
            blocks[0, :, :, 0] = np.eye(2)
            blocks[0, :, :, 3] = t * np.asarray([[math.cos(psi), -math.sin(psi)], [math.sin(psi), math.cos(psi)]])
            norm = specnorm.enclose(blocks[0])
            assert norm.claim is not None
            supremum: Any = norm.claim[1].of[0].of[0]
            inside = defect.in_basis(blocks, ops=OPS)
            of = defect.defect(inside, share * float(norm.upper) ** 2, ops=OPS)
            token = defect.nowhere_negative(of, inside, supremum)
            truth = float(specnorm.enclose(of.kernel[0], rtol=1e-6).lower)
            for least in (0.9, 0.97, 0.99):
                search_of = Search(of.kernel, nonnegative=token, ops=OPS)
                found = search_of.run(Boxes.torus(of.kernel.shape[3:]), bound=least * truth, max_cells=3000)
                if found.upper is not None:
                    yield f"{seed}: {least} of {truth} is proven"


def assumed_nonnegative(of: Any, *_: Any) -> Any:
    """Instead of looking at c."""
    return _nowhere_negative(of.kernel)


def small_centres() -> Violations:
    """Both a centre that is large enough, and one that is not."""
    yield from without_estimates(1.001, count=2)
    yield from without_estimates(0.5, count=2)


def grid_points(count: int = 300) -> Violations:
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


def wide_kernels() -> Violations:
    for seed in range(12):
        kernel = np.random.RandomState(seed).standard_normal((2, 4, 2))
        yield from filter(None, [violation(ends_of(NUMPY, kernel, 5), dense_smallest(kernel, 5), str(seed))])


def cut_borders() -> Violations:
    """Bounds at every size that are asked for where borders cut, and hold at no small size."""
    for seed in range(12):
        kernel = np.random.RandomState(seed).standard_normal((4, 2, 3))
        try:
            low, _ = ends_of(NUMPY, kernel, padding_mode="zeros", padding=0)
        except GeometryError:
            continue
        truth = dense_smallest(kernel, 3, padding_mode="zeros", padding=0)
        if low > truth.hi:
            yield f"{seed}: {low} above {truth}"


def zero_rows() -> Violations:
    kernel, geometry = np.random.RandomState(0).standard_normal((5, 1, 2)), {"stride": 3}
    truth = dense_smallest(kernel, 6, stride=3)
    yield from filter(None, [violation(ends_of(NUMPY, kernel, 6, **geometry), truth, "")])


# -- mutants ---------------------------------------------------------------------------------------------------------
def forgotten(*args: Any, **keywords: Any) -> Lags:
    """Lags without the last one."""
    found = LAGS(*args, **keywords)
    values: Any = found.values + 0
    values[:, -1] = 0
    return found._replace(values=values)


LAGS, BASIS, IN_BASIS, SQUARED = Polynomial.lags, defect.basis, defect.in_basis, defect._scaled_square


def exact_lags(*args: Any, **keywords: Any) -> Lags:
    found = LAGS(*args, **keywords)
    return found._replace(error=0 * found.error)


Changed = TypeVar("Changed", defect.Basis, defect.InBasis)


def changed(sealed: Changed, **fields: Any) -> Changed:
    """A sealed object with other fields, as no rule makes it."""
    return type(sealed)._made(**{**vars(sealed), **fields})


def exact_products(*args: Any, **keywords: Any) -> defect.InBasis:
    return changed(IN_BASIS(*args, **keywords), error=0.0)


def exact_square(*args: Any, **keywords: Any) -> tuple[Any, float]:
    return SQUARED(*args, **keywords)[0], 0.0


def of_small_norm(*args: Any, **keywords: Any) -> defect.Basis:
    """A basis that says to be a hundredth of what it is."""
    found = BASIS(*args, **keywords)
    return changed(found, norm_sq=found.norm_sq * 1e-4)


def of_small_inverse(*args: Any, **keywords: Any) -> defect.Basis:
    found = BASIS(*args, **keywords)
    return changed(found, inverse_norm_sq=found.inverse_norm_sq * 1e-4)


def cut(kernel: Any, sizes: tuple[int, ...], **_: Any) -> Any:
    """Taps beyond the size left out, instead of added where they fall."""
    return kernel[(..., *(slice(0, n) for n in sizes))]


def without_stride(spec: ConvSpec) -> bool:
    """Which side is the smaller one, by the channels alone."""
    if spec.is_circulant:
        return True
    first, second = spec.stored_channels
    rows = first // spec.groups
    return (rows <= second and uncut.reads_inside(spec)) or (second <= rows and uncut.cuts_no_tap(spec))


def without_sine(threshold: float, _: Any, radius: Any) -> Any:
    """The lemma of cells, where that of grid points is needed."""
    return cover.nonnegative_cell_lemma(threshold, radius)


def believed(gram: Any, *_: Any, **__: Any) -> Any:
    """Instead of a proof."""
    return np.ones(gram.shape[:-2], dtype=bool)


Patch = tuple[Any, str, Any]
MUTANTS: dict[str, tuple[Callable[[], Violations], tuple[Patch, ...]]] = {
    "c too small": (small_centres, ((defect, "nowhere_negative", assumed_nonnegative),)),
    "rounding of c": (
        lambda: too_far(10, centre=1e12 / 3),
        ((defect, "_rounding_of_difference", lambda *_, **__: 0.0),),
    ),
    "a lag forgotten": (lambda: at_every_size(NUMPY, 40), ((Polynomial, "lags", forgotten),)),
    "rounding of the lags": (long_columns, ((Polynomial, "lags", exact_lags),)),
    "rounding of kernel times basis": (
        lambda: too_far(10, centre=1e-18, matrix=CANCELLING, cancels=True), ((defect, "in_basis", exact_products),)
    ),
    "rounding of the basis squared": (
        lambda: too_far(10, centre=1.0, floor=1e9, matrix=LONG_COLUMN), ((defect, "_scaled_square", exact_square),)
    ),
    "norm of the basis": (lambda: in_some_basis(0.0), ((defect, "basis", of_small_norm),)),
    "norm of its inverse": (lambda: in_some_basis(3.0), ((defect, "basis", of_small_inverse),)),
    "taps of a circulant": (lambda: at_circular_sizes(NUMPY, 40), ((defect, "_folded", cut),)),
    "grid points of nonnegative symbols": (grid_points, ((cover, "nonnegative_grid_lemma", without_sine),)),
    "wide kernels": (wide_kernels, ((arrays, "tall", lambda blocks, **_: blocks),)),
    "the adjoint of strides": (
        lambda: where_nothing_is_cut(NUMPY, 30),
        tuple((module, "keeps_smallest", without_stride) for module in (uncut, smallest)),
    ),
    "borders that cut": (cut_borders, ((uncut, "cuts_no_tap", lambda _: True),)),
    "strides that leave pixels": (
        zero_rows, tuple((module, "unread_pixels_make_smallest_zero", lambda _: False) for module in (uncut, defect))
    ),
    "proof of the layer's own matrix": (guesses_too_high, ((norms, "gram_below", believed),)),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_every_hypothesis_is_needed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check, patches = MUTANTS[name]
    assert list(check()) == []
    # What a mutant does not refuse is remembered with its program, which nobody else is to find.
    monkeypatch.setattr(program, "_keys", {})
    monkeypatch.setattr(program, "_programs", {})
    monkeypatch.setattr(program, "_alive", {})
    for owner, attribute, mutant in patches:
        monkeypatch.setattr(owner, attribute, mutant)
    with contextlib.suppress(HypothesisError):  # a rule that refuses has noticed
        assert next(check(), None), "nothing was noticed"


# -- refusals: of rules, in proof/defect_rules.py ----------------------------------------------------------------------
def test_what_only_a_rule_may_make() -> None:
    blocks: Any = np.random.RandomState(0).standard_normal((1, 3, 2, 2))
    of = plain(blocks, 10.0)
    with pytest.raises(TypeError, match=r"Defect: .* by the rules"):
        defect.Defect(of.kernel, 0, 10.0, 0.0, 0.0)
    with pytest.raises(TypeError, match=r"Basis: .* by the rules"):
        defect.Basis(blocks[..., 0], 1.0, 1.0)
    with pytest.raises(TypeError, match=r"InBasis: .* by the rules"):
        defect.InBasis(blocks, None, 0.0)
    with pytest.raises(TypeError, match=r"Nonnegative: .* by the rules"):
        Nonnegative(of.kernel)


def test_the_norm_of_a_circulant_is_of_its_frequencies_alone() -> None:
    kernel = np.random.RandomState(0).standard_normal((1, 3, 2, 3))
    inside = defect.in_basis(kernel, ops=OPS)  # type: ignore[arg-type]
    folded = defect.defect(inside, 10.0, sizes=(4,), ops=OPS)
    assert folded.kernel.shape == (1, 2, 2, 4)
    for what, matches in ((Circulant((4,), (False,)), True), (Circulant((0,), (False,)), True)):
        assert bool(defect.smallest_down(folded, assumed(0.0, what))) is matches
    for what in (Circulant((5,), (False,)), Circulant((4,), (True,))):
        with pytest.raises(HypothesisError, match="not the norm at the frequencies"):
            defect.smallest_down(folded, assumed(0.0, what))


def test_nonnegative_symbols_are_those_that_were_proven_to_be() -> None:
    blocks: Any = np.random.RandomState(0).standard_normal((1, 3, 2, 2))
    claim = specnorm.enclose(blocks[0]).claim
    assert claim is not None
    norm: Any = claim[1]
    supremum: Any = norm.of[0].of[0]
    inside = defect.in_basis(blocks, ops=OPS)
    with pytest.raises(HypothesisError, match="at every frequency"):
        defect.nowhere_negative(plain(blocks, 10.0), inside, norm)
    assert defect.nowhere_negative(plain(blocks, 1e-3), inside, supremum) is None
    folded = defect.defect(inside, 100.0, sizes=(2,), ops=OPS)
    assert defect.nowhere_negative(folded, inside, supremum) is None
    other = defect.in_basis(blocks, diagonal(1.0, 2.0), ops=OPS)
    with pytest.raises(HypothesisError, match="another basis"):
        defect.nowhere_negative(plain(blocks, 100.0), other, supremum)
    token = defect.nowhere_negative(plain(blocks, 100.0), inside, supremum)
    with pytest.raises(HypothesisError, match="another kernel"):
        Cover(plain(blocks, 10.0).kernel, Boxes.torus((3,)), nonnegative=token, ops=OPS)


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_a_centre_that_is_too_small_proves_less_and_nothing_false(share: float) -> None:
    """With c below ``(||K||**2 + m**2) / 2`` the other end of the spectrum counts: the bound is loose, and true."""
    for seed in range(5):
        blocks: Any = np.random.RandomState(seed).standard_normal((1, 5, 3, 3))
        top, truth = dense_norm(blocks[0], 30), smallest_everywhere(blocks[0], 400)
        of = plain(blocks, share * (top.hi**2 + truth.lo**2))
        found = specnorm.enclose(of.kernel[0])
        assert found.claim is not None
        everywhere: Any = found.claim[1].of[0].of[0]
        low = defect.smallest_down(of, everywhere).value
        assert low <= truth.hi
        if share < 0.5:
            assert low < 0.99 * truth.lo


def test_weak_channels_cost_no_cells() -> None:
    """A channel a thousand times as small as the others, or a combination of channels: as fast as without."""
    random = np.random.RandomState(0)
    kernel = random.standard_normal((8, 4, 3, 3))
    strong = specnorm.enclose_smallest(kernel)
    turn = np.linalg.qr(random.standard_normal((4, 4)))[0]
    for matrix in (np.eye(4), turn):
        weak = np.einsum("oixy,ij,j,jk->okxy", kernel, matrix, np.asarray([1e-3, 1, 1, 1]), matrix.T)
        found = specnorm.enclose_smallest(weak)
        assert found.status.startswith("converged")
        assert float(found.upper) < 1e-2 * float(strong.lower)
        assert found.cells < 3 * strong.cells


def test_products_of_some_bases_are_those_of_their_columns() -> None:
    """A search that weighs the channels finds what it finds of any basis of the same space."""
    kernel = np.random.RandomState(3).standard_normal((6, 3, 3))
    truth = smallest_everywhere(kernel, 400)
    for signs in itertools.product((1.0, -1.0), repeat=3):
        found = specnorm.enclose_smallest(kernel * np.asarray(signs)[:, None])
        assert truth.lo <= float(found.upper) <= truth.hi * (1 + 1e-3)
        assert float(found.lower) <= truth.hi
