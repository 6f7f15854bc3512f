"""Each term of a proof on its own: allowances against the errors that ball arithmetic finds, cells against coverage."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("flint", reason="ball arithmetic: pip install python-flint")

from core.soundness import balls
from core.soundness.families import FAMILIES, case
from core.soundness.truths import Peaks
from flint import acb, acb_mat, arb, ctx, fmpq
from helpers.libraries import OPS

from specnorm.proofs import norms
from specnorm.proofs.cells import Boxes
from specnorm.proofs.frequencies import PHASE_ERROR, Frequencies, _cos_sin
from specnorm.symbols.proofs.polynomial import Polynomial

xp = OPS.xp

SHAPES = [(1, 1, 2), (3, 2, 3), (2, 3, 4), (4, 4, 3, 3), (2, 2, 2, 5), (3, 1, 1, 4), (2, 2, 2, 3, 2), (3, 4)]


def scaled(shape: tuple[int, ...], seed: int, dtype: str) -> Any:
    """A block of about 1: Gaussian, signs, or one number (errors of one sign)."""
    random = np.random.RandomState(seed)
    kind = seed % 3
    values = (
        random.standard_normal(shape)
        if kind == 0
        else random.choice([-1.0, 1.0], size=shape) * random.uniform(1, 2)
        if kind == 1
        else np.full(shape, random.uniform(1, 2))
    )
    return values.astype(dtype)[None]


def turns_of(frequencies: Frequencies, index: int) -> list[Fraction]:
    """A frequency as exact rationals of a turn."""
    numerators = frequencies.numerators[index].tolist()
    return [Fraction(n, d) for n, d in zip(numerators, frequencies.denominators, strict=True)]


def distance(computed: NDArray[Any], exact: acb_mat) -> arb:
    """Frobenius norm of the difference, a ball: never below the spectral norm."""
    with ctx.workprec(balls.BITS):
        flat = [acb(float(z.real), float(z.imag)) for z in np.asarray(computed).reshape(-1)]
        pairs = zip(flat, exact.entries(), strict=True)
        total = arb(0)
        for a, b in pairs:
            z = a - b
            total += z.real * z.real + z.imag * z.imag
        return total.nonnegative_part().sqrt()


def test_cosines_and_sines() -> None:
    """Off by at most PHASE_ERROR units of 2**-53, whatever the angle."""
    random = np.random.RandomState(0)
    worst = 0.0
    for denominator in (1, 2, 3, 8, 9, 257, 1000, 2**40, 6 * 2**40, 300 * 2**40):
        numerators = random.randint(0, denominator, size=1000).astype(np.int64)
        for n, c, s in zip(numerators.tolist(), *(x.tolist() for x in _cos_sin(numerators, denominator)), strict=True):
            sine, cosine = arb.sin_cos_pi_fmpq(fmpq(2 * n, denominator))
            worst = max(worst, abs(float(cosine - arb(c))), abs(float(sine - arb(s))))
    assert worst <= PHASE_ERROR * 2.0**-53
    assert worst > 0.1 * 2.0**-53, "nothing was measured"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_errors_cover_the_symbols_as_computed(dtype: str) -> None:
    """`Polynomial.error` covers its symbols as computed, and `GramPolynomial.error` those of the Gram polynomial.

    Also that in single precision, whose error is the larger one, and not by so much that it would be of no use.
    """
    for seed, shape in enumerate(SHAPES * 2):
        block = scaled(shape, seed, dtype)
        frequencies = Frequencies.half_grid([7] * (len(shape) - 2))
        chosen = frequencies[np.arange(0, len(frequencies), max(1, len(frequencies) // 6))]
        tall = block if shape[0] >= shape[1] else np.swapaxes(block, 1, 2)
        gram = Polynomial(tall, xp=OPS.xp).gram(ops=OPS)
        exact_symbols: Any = Polynomial(block, xp=OPS.xp).at(chosen, ops=OPS).matrices()[0]
        grams: Any = gram.columns_at(chosen, np.zeros(len(chosen), dtype=np.int64))
        polynomial = Polynomial(block, xp=xp)
        symbol_error = float(polynomial.error[0])
        gram_error, copied = gram.error, gram.float32_copy()
        columns: Any = copied.columns_at(chosen, np.zeros(len(chosen), dtype=np.int64))
        assert columns.dtype == np.complex64
        assert (copied is gram) == (dtype == "float32")
        assert gram_error <= copied.error <= gram_error + 1e-5 * float(polynomial.absolute_norm_up[0]) ** 2
        exact = balls.Exact(block[0])
        for j in range(len(chosen)):
            g = exact.symbol(turns_of(chosen, j))
            with ctx.workprec(balls.BITS):
                adjoint = g.transpose().conjugate()
                # conj(G G*) where there are fewer rows than columns
                h = (g * adjoint).conjugate() if shape[0] < shape[1] else adjoint * g
            assert distance(exact_symbols[j], g) <= arb(symbol_error), (shape, seed)
            assert distance(grams[j], h) <= arb(gram_error), (shape, seed)
            assert distance(columns[j], h) <= arb(copied.error), (shape, seed)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["real", "complex"])
def test_no_limit_below_the_largest_eigenvalue_is_proven(dtype: str, kind: str) -> None:
    """A factorisation proves limits above the eigenvalue, and none below it by even a few roundings."""
    proven_above = 0
    for seed in range(41):
        random = np.random.RandomState(seed)
        # The last are so large that what is lost in single precision is read off the factor.
        size = int(random.randint(1, 9)) if seed < 40 else 96
        a = random.standard_normal((size + 2, size)).astype(dtype)
        if kind == "complex":
            a = a + 1j * random.standard_normal((size + 2, size)).astype(dtype)
        h: Any = np.conj(a.T) @ a
        lower = np.tril(h)
        whole = lower + np.conj(np.tril(h, -1).T)
        np.fill_diagonal(whole, np.real(np.diag(h)))
        with ctx.workprec(balls.BITS):
            exact = acb_mat(size, size, [acb(float(z.real), float(z.imag)) for z in whole.reshape(-1).tolist()])
            top = max(float(np.linalg.eigvalsh(whole.astype(np.complex128))[-1]), 1e-30)
            u = float(np.finfo(dtype).eps) / 2
            for factor in (1 - 64 * u, 1 - 4 * u, 1 - u, 1.0, 1 + 2e4 * u):
                limit: Any = np.asarray([top * factor], dtype=dtype)
                said = bool(norms.gram_below(whole[None], limit, ops=OPS)[0])
                surely_below = not balls.positive_definite(exact, arb(float(limit[0])) * (1 + arb("1e-40")))
                assert not (said and surely_below), (seed, factor)
                proven_above += said
    assert proven_above >= 30


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_variation_covers_the_change_within_a_cell(family: str) -> None:
    """Nowhere in a cell does the Gram polynomial move by more."""
    for index in range(6):
        kernel = case(index, family=family, dtypes=("float64",), subnormal=False).kernel
        if kernel.size > 1000 or not np.any(kernel):
            continue
        block = np.ldexp(kernel, -balls.exponent_of(kernel))
        tall: Any = block if block.shape[0] >= block.shape[1] else np.swapaxes(block, 0, 1)
        gram, peaks = Polynomial(tall[None], xp=OPS.xp).gram(ops=OPS), Peaks(tall)
        boxes = Boxes.torus(block.shape[2:])
        random = np.random.RandomState(index)
        for _ in range(3):
            chosen = boxes[random.randint(len(boxes), size=5)]
            spread = gram.variation_sq(chosen.largest_angle(gram.lags[1:]))
            offsets = random.uniform(-1, 1, size=chosen.low.shape)
            offsets = np.where(random.uniform(size=offsets.shape) < 0.5, np.sign(offsets), offsets)
            away = offsets_in_radians(chosen, offsets)
            for j, theta in enumerate(chosen.centres.angles):
                here, there = peaks.symbols(np.stack([theta, theta + away[j]]))
                moved = np.conj(here.T) @ here - np.conj(there.T) @ there
                assert np.linalg.norm(moved, 2) <= spread[j] + 1e-12 * (1 + np.linalg.norm(here) ** 2)
            boxes, _ = halved(boxes)


def halved(boxes: Boxes) -> tuple[Boxes, NDArray[np.int64]]:
    """Every box cut in halves along each axis."""
    return boxes.split(np.full(len(boxes), 2))


def offsets_in_radians(boxes: Boxes, offsets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points of boxes relative to their centres, from coordinates in [-1, 1] along the lattice."""
    lattice = offsets * (boxes.high - boxes.low) / 2
    return np.asarray(2 * math.pi * (lattice @ boxes.frame.T) / np.asarray(boxes.denominators, dtype=float))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("shape", [s[2:] for s in SHAPES] + [(5, 2), (1, 1), (7,), (1, 3, 2)])
def test_torus_is_covered(shape: tuple[int, ...]) -> None:
    """Every frequency or its mirror image lies in a cell, within its radius of the centre; after splits too."""
    boxes, random = Boxes.torus(shape), np.random.RandomState(0)
    count = 300 if len(shape) < 3 else 60
    turns = np.where(np.asarray(shape) > 1, random.uniform(size=(count, len(shape))), 0.0)
    turns[:10] = np.where(np.asarray(shape) > 1, np.round(2 * turns[:10]) / 2 % 1, 0.0)
    half_degree = (np.asarray(shape) - 1) / 2
    for _ in range(4 if len(shape) < 3 else 3):
        held = np.zeros(len(turns), dtype=bool)
        for sign, shift in itertools.product((1, -1), itertools.product((-1, 0, 1), repeat=len(shape))):
            # The same frequency, or its mirror image, a whole number of turns away.
            at = (sign * turns + np.asarray(shift)) * np.asarray(boxes.denominators, dtype=float)
            lattice = at @ np.linalg.inv(boxes.frame).T
            slack = 1e-9 * (boxes.high - boxes.low).max(axis=0)
            inside = (boxes.low - slack <= lattice[:, None]) & (lattice[:, None] <= boxes.high + slack)
            points, cells = np.nonzero(inside.all(axis=2))
            held[points] = True
            away = 2 * math.pi * (sign * turns + np.asarray(shift))[points] - boxes.centres.angles[cells]
            assert ((np.abs(away) @ half_degree) <= boxes.radius[cells] * (1 + 1e-6) + 1e-12).all()
            slopes = np.random.RandomState(1).randint(-3, 4, size=(5, len(shape)))
            assert (np.abs(away @ slopes.T) <= boxes.largest_angle(slopes)[cells] * (1 + 1e-6) + 1e-12).all()
        assert held.all()
        boxes, parent = halved(boxes)
        assert len(parent) == len(boxes)
