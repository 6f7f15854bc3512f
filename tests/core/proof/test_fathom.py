"""What a search hands the trusted kernel, or leaves out, decides what is proven, and never whether it is true."""

from __future__ import annotations

import math
from typing import Any

import pytest
from helpers.libraries import NUMPY as np
from helpers.libraries import OPS
from helpers.oracle import sigma_star

from specnorm.grid import search as pruned
from specnorm.grid.proof import LargestBound, gram_iteration_of_parts_up, largest_of_all
from specnorm.grid.search import leave_out
from specnorm.proofs.bound import HypothesisError
from specnorm.proofs.cells import Boxes
from specnorm.proofs.frequencies import Frequencies
from specnorm.supremum.proof import Cover
from specnorm.symbols.proofs.polynomial import GramPolynomial, Polynomial


def norm_at(block: Any, theta: Any) -> float:
    taps = np.stack(np.meshgrid(*map(np.arange, block.shape[2:]), indexing="ij"), axis=-1)
    phase = np.exp(1j * (taps @ theta))
    return float(np.linalg.norm((block * phase).sum(axis=tuple(range(2, block.ndim))), 2))


def with_sharp_truncation(blocks: Any, basis: Any, part: float = 1.0) -> GramPolynomial:
    """Two of the directions of a basis; the bound of the others is the norm of ``blocks @ basis`` there, or a part."""
    found = Polynomial(blocks, xp=OPS.xp).rotated(basis, 2, ops=OPS).gram(ops=OPS)
    others = np.einsum("gmpkl,gpq->gmqkl", blocks, basis[..., 2:])
    sharp = (part * sigma_star(others[0], max_cells=3000).hi) ** 2
    assert sharp < found.truncation
    found.truncation = sharp
    return found


@pytest.mark.parametrize("seed", range(6))
def test_what_is_fathomed_holds_no_norm_above_the_threshold(seed: int) -> None:
    """Whatever the search asks: random cells, random limits to prove, matrices reduced for random limits."""
    random = np.random.RandomState(seed)
    blocks: Any = np.random.RandomState(seed).standard_normal((1, 5, 4, 3, 2)) / 4
    basis: Any = np.linalg.qr(random.standard_normal((1, 4, 4)))[0]
    truth = sigma_star(blocks[0], max_cells=3000)
    polynomials = [
        Polynomial(blocks, xp=OPS.xp).gram(ops=OPS),
        Polynomial(blocks, xp=OPS.xp).rotated(basis, 2, ops=OPS).gram(ops=OPS),
    ]
    polynomials += [polynomials[0].float32_copy()]
    polynomials += [Polynomial(blocks, xp=OPS.xp).rotated(basis.astype(np.float32), 2, ops=OPS).gram(ops=OPS)]
    polynomials += [with_sharp_truncation(blocks, basis)]
    fathomed = 0
    for _ in range(12):
        threshold = truth.hi * float(random.uniform(0.6, 1.3))
        cover = Cover(blocks, Boxes.torus((3, 2)), ops=OPS)
        for _ in range(4):
            polynomial = polynomials[random.randint(len(polynomials))]
            index = np.flatnonzero(random.uniform(size=len(cover)) < 0.8)
            reduced_for = polynomial.truncation + threshold**2 * random.uniform(0.01, 1, size=len(index))
            formed, _ = cover.form(polynomial, index, reduced_for)
            proven = polynomial.norm_up(cover.eigenvalue_limits(polynomial, threshold))
            passed = index[cover.fathom(formed, threshold)]
            fathomed += len(passed)
            for i in passed:
                centre = cover.open.boxes.centres.angles[i]
                assert norm_at(blocks[0], centre) <= proven[i]
            cover.prune()
            if not len(cover):
                break
            cover.split(np.full(len(cover), 2))
        if not len(cover):
            assert truth.lo <= cover.proven().value <= threshold
        else:
            with pytest.raises(HypothesisError, match="open"):
                cover.proven()
    assert fathomed > 50


# -- frequencies that are left out -----------------------------------------------------------------------------------
def decaying(seed: int, *shape: int) -> Any:
    kernel = np.random.RandomState(seed).standard_normal(shape)
    kernel += 2 * kernel.mean(axis=tuple(range(2, kernel.ndim)), keepdims=True)
    return np.asarray(kernel * (0.8 ** np.arange(shape[1])).reshape(1, -1, *[1] * (kernel.ndim - 2)), dtype=np.float32)


@pytest.mark.parametrize("at", range(4))
def test_a_bound_that_is_no_number_is_not_passed_over(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it comes up, by itself or among others: the largest is no number either, and nothing is left out."""
    blocks: Any = decaying(0, 6, 5, 3, 2).astype(np.float64)[None] / 4
    sizes = (4, 2)
    frequencies = Frequencies.half_grid(sizes)
    poor: Any = Polynomial(blocks, xp=OPS.xp).at(frequencies[at : at + 1], ops=OPS).matrices()

    def bound(_polynomial: Any, real: Any, imag: Any, *, ops: Any = OPS) -> Any:
        found: Any = gram_iteration_of_parts_up(real, imag, 12, 1e-9, xp=ops.xp)
        return np.where((real + 1j * imag == poor).all(axis=(2, 3)), np.nan, found)

    monkeypatch.setattr(Polynomial, "frequencies_at_once", lambda *_, **__: 1)
    assert math.isnan(float(largest_of_all(bound, blocks, sizes, ops=OPS)[0][0]))
    largest = LargestBound(bound, blocks, sizes, ops=OPS)
    every = np.arange(len(frequencies))
    for index in np.split(every, len(every)):
        largest.visit(index)
    assert math.isnan(float(largest.result()[0][0]))
    monkeypatch.setattr(pruned, "_FEW_FREQUENCIES", 0)
    assert len(leave_out(largest, every, 4)) == len(every)
