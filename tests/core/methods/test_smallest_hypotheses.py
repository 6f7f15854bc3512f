"""What a bound of the smallest singular value rests on: every hypothesis is needed, and every rounding is counted."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from helpers.assumptions import assumed
from helpers.libraries import OPS
from helpers.oracle import dense_norm, smallest_everywhere

import specnorm
from specnorm.ends import proof as defect
from specnorm.proofs.bound import HypothesisError
from specnorm.proofs.cells import Boxes, Circulant
from specnorm.supremum.proof import Cover, Nonnegative
from specnorm.symbols.proofs.polynomial import Polynomial


def plain(blocks: Any, centre: float) -> defect.Defect:
    return defect.defect(defect.in_basis(blocks, ops=OPS), centre, ops=OPS)


def diagonal(*numbers: float) -> defect.Basis:
    """A basis that scales channels."""
    matrix: Any = np.diag(numbers)[None]
    inverse: Any = np.linalg.inv(matrix)
    return defect.basis(matrix, inverse, ops=OPS)


# -- roundings: D as computed against rational numbers ----------------------------------------------------------------


def rational(x: Any) -> Any:
    return np.vectorize(Fraction, otypes=[object])(np.asarray(x))


# -- hypotheses ------------------------------------------------------------------------------------------------------


# -- mutants ---------------------------------------------------------------------------------------------------------


LAGS, BASIS, IN_BASIS, SQUARED = Polynomial.lags, defect.basis, defect.in_basis, defect._scaled_square


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
