"""Checks that find no false bound as things are, each aimed at one allowance of a proof."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from core.soundness.claims import Claims
from core.soundness.families import Case, case, constant_supremum
from flint import arb
from helpers.assumptions import assumed
from helpers.libraries import OPS
from numpy.typing import NDArray
from specnorm_numpy import NumpyBackend

from specnorm.backends.types import ArrayOps
from specnorm.proofs import host, norms
from specnorm.proofs.cells import Boxes
from specnorm.supremum import proof as cover
from specnorm.supremum import tuning
from specnorm.supremum.incumbent import Incumbent
from specnorm.symbols import lanczos, power
from specnorm.symbols.proofs.polynomial import GramPolynomial, Polynomial

xp = OPS.xp

Violations = Iterator[str]
"""Found one by one: a mutation is noticed by the first."""


def over(kernels: Iterable[Case], act: Callable[[Claims], None]) -> Violations:
    """Violations of one claim over kernels."""
    for kernel in kernels:
        claims = Claims(kernel)
        act(claims)
        yield from claims.tally.violations


def small() -> list[Case]:
    return [case(index, family="normal", dtypes=("float64",), subnormal=False) for index in range(30)]


def below_the_truth() -> Violations:
    """Certificates far below the norm."""
    yield from over(small(), lambda claims: claims.verdicts((-0.3, -0.03), max_cells=300))


def below_the_truth_without_estimates() -> Violations:
    """Certificates below the norm, by a search that takes every cell for empty and never raises its incumbent."""

    def nothing_seen(_: Any, vectors: Any, cut: Any, *__: Any, **___: Any) -> Any:
        return np.zeros(len(cut)), vectors

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(power, "largest_eigenvalues", nothing_seen)
        patch.setattr(Incumbent, "raise_from", lambda *_: None)
        yield from over(small(), lambda claims: claims.verdicts((-0.3, -0.03), max_cells=300))


def decaying() -> list[Case]:
    """Kernels with few large directions: the others are left out of the proofs."""
    return [case(index, family="decaying", dtypes=("float64",), subnormal=False) for index in range(30)]


def by_any_basis(patch: pytest.MonkeyPatch) -> None:
    """Leave directions out of small kernels, by a basis that the search knows nothing of the norm to choose."""

    def at_random(self: Incumbent) -> None:
        groups, _, size = self.blocks.shape[:3]
        self.trial_vectors = self.start_vectors(groups, size)[:, None, :]

    patch.setattr(tuning, "SMALLEST_REDUCED", 12)
    patch.setattr(Incumbent, "multistart", at_random)


def below_the_truth_by_the_truncation() -> Violations:
    """Certificates between the norm of what is kept and the norm."""
    with pytest.MonkeyPatch.context() as patch:
        by_any_basis(patch)
        yield from over(decaying(), lambda claims: claims.verdicts((-0.01, -0.003, -0.001), max_cells=300))


def below_the_truth_by_a_poor_basis() -> Violations:
    """Certificates just below the norm, with a factorisation whose vectors are too short by half a thousandth."""
    eigh = xp.linalg.eigh
    with pytest.MonkeyPatch.context() as patch:
        by_any_basis(patch)
        patch.setattr(xp.linalg, "eigh", lambda a: (eigh(a)[0], 0.9995 * eigh(a)[1]))
        yield from over(decaying(), lambda claims: claims.verdicts((-0.0003,), max_cells=300))


def below_the_circle() -> Violations:
    """Certificates just below a circular norm, whose frequency is no maximum of the torus."""

    def act(claims: Claims) -> None:
        for n in (17, 23, 31):
            claims.verdicts((-1e-4,), (n,), max_cells=300)

    normal = [np.random.RandomState(seed).standard_normal((1, 1, 5)) for seed in range(30)]
    # So few frequencies would all be visited.
    with patch("specnorm.enclosure.certify.visited_grid", return_value=None):
        yield from over([Case(seed, "normal", kernel, None) for seed, kernel in enumerate(normal)], act)


def long_sums(*shape: int, count: int = 12) -> list[Case]:
    """Constants between 1 and 2: rounding errors of their sums have one sign, up or down, and add up."""
    truth = constant_supremum(shape[0] * shape[1], math.prod(shape[2:]))
    values = np.random.RandomState(0).uniform(1, 2, size=count)
    return [Case(0, "constant", np.full(shape, c), truth, at_zero=True) for c in values]


def certified_long() -> Violations:
    """Certificates a few hundred roundings below the norm of a column so long that any order of summing loses more."""
    yield from over(long_sums(300_000, 1, 2), lambda claims: claims.verdicts((-2e-14, -5e-14), max_cells=300))


def lower_of_many_taps() -> Violations:
    """Lower bounds of a kernel with 2025 taps."""
    yield from over(long_sums(1, 1, 45, 45, count=6), lambda claims: claims.grid(45))


def attained_by_many_taps() -> Violations:
    """The norm that a wave attains, of kernels with 2025 taps."""
    yield from over(long_sums(1, 1, 45, 45, count=3), lambda claims: claims.symbol())


def wide_matrices() -> Violations:
    """Norms of a row."""
    yield from over(long_sums(1, 4000, count=40), lambda claims: claims.matrices(1))


class Textbook(NumpyBackend):
    """Cholesky in the matrix's own precision, one column after the other (NumPy's own is in float64)."""

    has_factors = False

    def cholesky_ok(self, a: Any) -> Any:
        return np.isfinite(self.cholesky_factors(a)).all((-2, -1))

    def cholesky_factors(self, a: Any) -> Any:
        return np.asarray([self._factor(matrix.copy()) for matrix in a])

    @staticmethod
    def _factor(rest: NDArray[Any]) -> NDArray[Any]:
        factor = np.zeros_like(rest)
        for j in range(len(rest)):
            if not 0 < rest[j, j] < math.inf:
                return np.full_like(rest, math.nan)
            below = j + 1 + np.flatnonzero(rest[j + 1 :, j])  # where the column is 0 nothing changes
            factor[j, j] = np.sqrt(rest[j, j])
            factor[below, j] = column = rest[below, j] / factor[j, j]
            rest[np.ix_(below, below)] -= np.outer(column, column)
        return factor


class Factors(Textbook):
    """The same, whose factors are read."""

    has_factors = True


def star(backend: type[NumpyBackend] = Textbook) -> Violations:
    """Certificates for matrices with one full row, below their largest eigenvalue ``c sqrt(n - 1)``."""
    size = 2400
    for c in np.random.RandomState(1).uniform(1, 2, size=8).astype(np.float32):
        matrix: Any = np.zeros((1, size, size), dtype=np.float32)
        matrix[0, -1, :-1] = matrix[0, :-1, -1] = -c
        limit: Any = np.asarray([float(c) * math.sqrt(size - 1) * (1 - 3e-6)], dtype=np.float32)
        assert float(limit[0]) < float(c) * math.sqrt(size - 1) * (1 - 2e-6)
        if norms.gram_below(matrix, limit, ops=ArrayOps(backend(), xp))[0]:
            yield f"{c}: {limit} proven"


def star_by_its_factor() -> Violations:
    """With nothing left of the limit for what is lost."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(norms, "likely_loss", lambda *_, **__: 0.0)
        yield from star(Factors)


def rounded_answers() -> Violations:
    """Answers in float32 of bounds that are as sharp as float64 allows."""
    kernels = [case(index, family="stack", dtypes=("float32",), subnormal=False) for index in range(40)]
    yield from over(kernels, lambda claims: claims.matrices(6))


def smallest_found_too_early() -> Violations:
    """The smallest unfolding, from a Lanczos run that stops at its first check, far below the norm."""
    cases = [case(index, family="normal", dtypes=("float64",), subnormal=False) for index in range(8)]
    with patch.multiple(lanczos, DIRECT_SIZE=0, STEPS_BEFORE_FIRST_CHECK=1, MOST_STEPS=1):
        yield from (x for x in over(cases, Claims.unfoldings) if "f4_bound" in x)


def fathomed_in_single_precision() -> Violations:
    """Limits below the norm at a frequency where two taps nearly cancel, tried in single precision."""
    for c in np.random.RandomState(0).uniform(1, 2, size=40).tolist():
        blocks: Any = np.asarray([c, -c * (1 - 1e-4)]).reshape(1, 1, 1, 2)
        polynomial = Polynomial(blocks, xp=OPS.xp).gram(ops=OPS).float32_copy()
        eigenvalue_limit = polynomial.eigenvalue_limit_of_norm(np.asarray([abs(float(blocks.sum())) * (1 - 1e-3)]))
        formed, _ = at_zero(blocks).form(polynomial, np.arange(1), eigenvalue_limit)
        if cover.proven_below(formed, eigenvalue_limit, ops=OPS)[0]:
            yield f"{blocks.reshape(-1)}: the norm of its sum is not below itself"


def at_zero(blocks: Any) -> cover.Cover:
    """A cover by the frequency zero alone."""
    return cover.Cover(blocks, Boxes.dft((1,), blocks.shape[3:]), assumed(1e9), ops=OPS)


def reduced_for_higher_limits() -> Violations:
    """Limits just below the norm, tried with matrices that were reduced for ten times as much."""
    for seed in range(20):
        blocks: Any = np.random.RandomState(seed).standard_normal((1, 6, 6, 2)) * 4.0 ** -np.arange(6)[:, None]
        polynomial = Polynomial(blocks, xp=OPS.xp).rotated(xp.eye(6)[None], 1, ops=OPS).gram(ops=OPS)
        norm = float(np.linalg.norm(blocks[0].sum(axis=-1), 2))
        eigenvalue_limit = np.asarray([(norm * (1 - 1e-6)) ** 2])
        if eigenvalue_limit[0] > polynomial.truncation:
            formed, _ = at_zero(blocks).form(polynomial, np.arange(1), 10 * eigenvalue_limit)
            if cover.proven_below(formed, eigenvalue_limit, ops=OPS)[0]:
                yield f"{seed}: proven"


def reductions_of_many_rows() -> Violations:
    """Reduced matrices of long columns of one number, against rational arithmetic."""
    rows = 4096
    for c in np.random.RandomState(0).uniform(1, 2, size=20):
        columns: Any = np.full((1, rows + 1, 1), c)
        polynomial: Any = SimpleNamespace(xp=xp, ops=OPS, rank=1, size=rows + 1, truncation=0.0, blocks=columns)
        reduced, error = GramPolynomial.reduced(polynomial, columns, 0 * columns, np.asarray([3.0]))
        exact = Fraction(c) + rows * Fraction(c) ** 2 / 3
        if Fraction(float(xp.real(reduced)[0, 0, 0])) + Fraction(float(error[0])) < exact:
            yield f"{c}: the reduced matrix is off by more than its error"


def outward() -> Violations:
    """Outward arithmetic on the host against rational and ball arithmetic."""
    for a, b in np.random.RandomState(0).uniform(0.5, 1.5, size=(200, 2)).tolist():
        x, y = Fraction(a), Fraction(b)
        cos, sin = (arb(a).cos(), arb(a).sin())
        held = {
            "mul_up": Fraction(host.mul_up(a, b)) >= x * y,
            "add_up": Fraction(host.add_up(a, b)) >= x + y,
            "div_up": Fraction(host.div_up(a, b)) >= x / y,
            "sqrt_up": Fraction(host.sqrt_up(a)) ** 2 >= x,
            "mul_down": Fraction(host.mul_down(a, b)) <= x * y,
            "sub_down": Fraction(host.sub_down(a, b)) <= x - y,
            "div_down": Fraction(host.div_down(a, b)) <= x / y,
            "sqrt_down": Fraction(host.sqrt_down(a)) ** 2 <= x,
            "cos_down": arb(float(host.cos_down(a))) <= cos,
            "sin_up": arb(float(host.sin_up(a))) >= sin,
            "raised": Fraction(host.inflate(a * b * b * b, 3)) >= x * y**3,
        }
        yield from (f"{name} of {a} and {b}" for name, holds in held.items() if not holds)
