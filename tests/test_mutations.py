"""Every allowance is needed: with one taken away, the soundness checks find a false bound.

Each row removes one term of one proof and runs the same check twice: nothing is found with the term in place, something
without it. Rounding allowances are worst cases far above usual errors, so those rows use kernels whose errors all have
one sign: long sums of one number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import array_api_compat.numpy as xp
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("flint", reason="ball arithmetic: pip install python-flint")

from soundness.claims import Claims
from soundness.families import Case, case, constant_supremum
from specnorm_numpy import NumpyBackend

from specnorm.linalg import arrays, lanczos
from specnorm.linalg.frequencies import Frequencies
from specnorm.methods import unfolding
from specnorm.proof import gram_polynomial, rounding
from specnorm.proof.cells import Boxes, Cells
from specnorm.proof.gram_polynomial import GramPolynomial
from specnorm.runtime.execution import Execution
from specnorm.search import branch_and_bound
from specnorm.search.branch_and_bound import Search

Violations = list[str]

pytestmark = pytest.mark.long


def over(kernels: Iterable[Case], act: Callable[[Claims], None]) -> Violations:
    """Violations of one claim over kernels."""
    found: Violations = []
    for kernel in kernels:
        claims = Claims(kernel)
        act(claims)
        found += claims.tally.violations
    return found


def small() -> list[Case]:
    """Small Gaussian kernels."""
    return [case(index, family="normal", dtypes=("float64",), subnormal=False) for index in range(30)]


def below_the_truth() -> Violations:
    """Certificates far below the norm."""
    return over(small(), lambda claims: claims.verdicts((-0.3, -0.03), max_cells=300))


def decaying() -> list[Case]:
    """Kernels with few large directions: the others are left out of the proofs."""
    return [case(index, family="decaying", dtypes=("float64",), subnormal=False) for index in range(30)]


def below_the_truth_by_the_tail() -> Violations:
    """Certificates between the norm of what is kept and the norm."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gram_polynomial, "SMALLEST", 12)
        return over(decaying(), lambda claims: claims.verdicts((-0.01, -0.003, -0.001), max_cells=300))


def below_the_truth_by_a_poor_basis() -> Violations:
    """Certificates just below the norm, with a factorisation whose vectors are too short by half a thousandth."""
    eigh = xp.linalg.eigh
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gram_polynomial, "SMALLEST", 12)
        patch.setattr(xp.linalg, "eigh", lambda a: (eigh(a)[0], 0.9995 * eigh(a)[1]))
        return over(decaying(), lambda claims: claims.verdicts((-0.0003,), max_cells=300))


def below_the_circle() -> Violations:
    """Certificates just below a circular norm, whose frequency is no maximum of the torus."""

    def act(claims: Claims) -> None:
        for n in (17, 23, 31):
            claims.verdicts((-1e-4,), (n,), max_cells=300)

    normal = [np.random.RandomState(seed).standard_normal((1, 1, 5)) for seed in range(30)]
    return over([Case(seed, "normal", kernel, None) for seed, kernel in enumerate(normal)], act)


def constant(shape: tuple[int, ...], value: float, dtype: str) -> Case:
    """A kernel of one number."""
    closed_form = constant_supremum(shape[0] * shape[1], math.prod(shape[2:]))
    return Case(0, "constant", np.full(shape, value, dtype=dtype), closed_form, at_zero=True)


def long_sums(*shape: int, dtype: str = "float64", count: int = 12) -> list[Case]:
    """Constants between 1 and 2: rounding errors of their sums have one sign, up or down, and add up."""
    return [constant(shape, c, dtype) for c in np.random.RandomState(0).uniform(1, 2, size=count)]


def certified_long() -> Violations:
    """Certificates a few hundred roundings below the norm of a column so long that any order of summing loses more."""
    return over(long_sums(300_000, 1, 2), lambda claims: claims.verdicts((-2e-14, -5e-14), max_cells=300))


def lower_of_many_taps() -> Violations:
    """Lower ends of a kernel with 2025 taps."""
    return over(long_sums(1, 1, 45, 45, count=6), lambda claims: claims.grid(45))


def tall_matrices() -> Violations:
    """Norms of a long column, from both sides."""
    return over(long_sums(100_000, 1), lambda claims: claims.matrices(1))


def wide_matrices() -> Violations:
    """Norms of a row."""
    return over(long_sums(1, 4000, count=40), lambda claims: claims.matrices(1))


def tall_matrices_in_float32() -> Violations:
    """Gram iteration of a long column, computed in float32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NumpyBackend, "wide_dtype", lambda *_: "float32")
        found = over(long_sums(100_000, 1, dtype="float32"), lambda claims: claims.matrices(1))
    return [violation for violation in found if "gram_iteration" in violation]


class Textbook(NumpyBackend):
    """Cholesky in the matrix's own precision, one column after the other (NumPy's own is in float64)."""

    def cholesky_ok(self, a: Any) -> Any:
        return np.asarray([self._completes(matrix.copy()) for matrix in a])

    @staticmethod
    def _completes(rest: NDArray[Any]) -> bool:
        for j in range(len(rest)):
            if not rest[j, j] > 0:
                return False
            below = j + 1 + np.flatnonzero(rest[j + 1 :, j])  # where the column is 0 nothing changes
            column = rest[below, j] / np.sqrt(rest[j, j])
            rest[np.ix_(below, below)] -= np.outer(column, column)
        return True


def star() -> Violations:
    """Certificates for matrices with one full row, below their largest eigenvalue ``c sqrt(n - 1)``."""
    found: Violations = []
    size = 2400
    for c in np.random.RandomState(1).uniform(1, 2, size=8).astype(np.float32):
        matrix = np.zeros((1, size, size), dtype=np.float32)
        matrix[0, -1, :-1] = matrix[0, :-1, -1] = -c
        limit = np.asarray([float(c) * math.sqrt(size - 1) * (1 - 3e-6)], dtype=np.float32)
        assert float(limit[0]) < float(c) * math.sqrt(size - 1) * (1 - 2e-6)
        if rounding.gram_below(matrix, limit, ops=Execution(Textbook(), xp))[0]:
            found.append(f"{c}: {limit} proven")
    return found


def rounded_answers() -> Violations:
    """Answers in float32 of bounds that are as sharp as float64 allows."""
    kernels = [case(index, family="stack", dtypes=("float32",), subnormal=False) for index in range(40)]
    return over(kernels, lambda claims: claims.matrices(6))


def every_unfolding() -> Violations:
    return over(small(), Claims.unfoldings)


def smallest_of_a_long_column() -> Violations:
    """The smallest unfolding of a long column, which has but one, with its products summed one after the other."""

    def summed(a: Any, *, xp: Any) -> Any:
        del xp
        return np.cumsum(a.reshape(len(a), -1) ** 2, axis=1)[:, -1:, None]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "gram_smaller", summed)
        return [x for x in over(long_sums(100_000, 1), Claims.unfoldings) if "f4_bound" in x]


def smallest_found_too_early() -> Violations:
    """The smallest unfolding, from a Lanczos run that stops at its first look, far below the norm."""
    cases = [case(index, family="normal", dtypes=("float64",), subnormal=False) for index in range(8)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanczos, "TUNING", lanczos.LanczosTuning(direct=0, first=1, limit=1))
        return [x for x in over(cases, Claims.unfoldings) if "f4_bound" in x]


def odd_grids() -> Violations:
    """Grids that miss the maximum by as much as the factor."""

    def act(claims: Claims) -> None:
        for n in (5, 7, 9):
            claims.grid(n)

    return over([case(index, family="corners", dtypes=("float64",)) for index in range(12)], act)


def ruled_out_in_single_precision() -> Violations:
    """Limits below the norm at a frequency where two taps nearly cancel, tried in single precision."""
    found = []
    zero = Frequencies(np.zeros((1, 1), dtype=np.int64), (1,))
    for c in np.random.RandomState(0).uniform(1, 2, size=40).tolist():
        blocks = np.asarray([c, -c * (1 - 1e-4)]).reshape(1, 1, 1, 2)
        polynomial = GramPolynomial(blocks, 0.0, ops=Execution(NumpyBackend(), xp)).narrowed()
        limit = polynomial.limit(np.asarray([abs(float(blocks.sum())) * (1 - 1e-3)]))
        limit = np.nextafter(limit.astype(np.float32), np.float32(0))
        gram = polynomial.parts(zero, np.zeros(1, dtype=np.int64))
        if rounding.gram_below(gram, limit, ops=Execution(NumpyBackend(), xp))[0]:
            found.append(f"{blocks.reshape(-1)}: the norm of its sum is not below itself")
    return found


def no_error(blocks: Any, *_: Any, xp: Any) -> Any:
    """Instead of an allowance for each block."""
    return xp.zeros(blocks.shape[0], dtype=blocks.dtype)


_limits = Search._limits


def without_supremum(self: Search, polynomial: GramPolynomial, cells: Cells) -> np.ndarray:
    """The lemma of the torus, on a grid, where the best point is no maximum."""
    supremum = None if cells.supremum is None else math.nextafter(self.target, math.inf)
    return _limits(self, polynomial, replace(cells, supremum=supremum))


_norm = GramPolynomial.norm


def flattered(self: GramPolynomial, limit: np.ndarray) -> np.ndarray:
    """Norms at the centres of the torus' cells, a hundredth less than proven."""
    return _norm(self, limit) * 0.99


_rotate = GramPolynomial._rotate


def without_tail(self: GramPolynomial, *given: Any) -> Any:
    """Directions that are left out and forgotten."""
    rotated = _rotate(self, *given)
    self.tail *= 1e-6
    return rotated


def without_loss(*_: Any, **__: Any) -> tuple[float, float]:
    """A rotation that costs nothing."""
    return 1.0, 0.0


def nearest(value: Any, dtype: Any, *_: Any, xp: Any) -> Any:
    """Conversion without a direction."""
    return xp.astype(value, dtype)


def exactly(x: Any, *_: Any, xp: Any) -> Any:
    """Instead of a number made larger or smaller."""
    del xp
    return x


@dataclass(frozen=True)
class Mutation:
    """Terms taken away: ``owner.name`` becomes something else; ``check`` must notice."""

    check: Callable[[], Violations]
    patches: tuple[tuple[Any, str, Any], ...]


def nothing(*_: Any, **__: Any) -> float:
    """Instead of a relative allowance."""
    return 0.0


def believed(gram: Any, *_: Any, **__: Any) -> Any:
    """Instead of a proof."""
    return np.ones(gram.shape[:-2], dtype=bool)


NO_PRODUCT = (rounding, "product_error", nothing)

MUTATIONS = {
    "cosine of the cells": Mutation(
        below_the_truth, ((Boxes, "reach", property(lambda self: np.zeros(len(self.low)))),)
    ),
    "variation within the cells": Mutation(
        below_the_truth, ((GramPolynomial, "variation", lambda _, spread: np.zeros(len(spread))),)
    ),
    "tail of the directions left out": Mutation(
        below_the_truth_by_the_tail, ((GramPolynomial, "_rotate", without_tail),)
    ),
    "rotation that is none": Mutation(below_the_truth_by_a_poor_basis, ((rounding, "rotation_loss", without_loss),)),
    "supremum on grids": Mutation(below_the_circle, ((Search, "_limits", without_supremum),)),
    "norms that leave grid points out": Mutation(below_the_circle, ((GramPolynomial, "norm", flattered),)),
    "lemma that leaves grid points out": Mutation(
        below_the_circle, ((branch_and_bound, "_on_grid", lambda target, _, reach: target * np.cos(reach)),)
    ),
    "factor of the grid": Mutation(odd_grids, ((rounding, "grid_factor", lambda *_: 1.0),)),
    "root of the taps": Mutation(
        every_unfolding, ((unfolding, "math", SimpleNamespace(sqrt=lambda _: 1.0, prod=math.prod, inf=math.inf)),)
    ),
    "rounding of the smallest unfolding": Mutation(smallest_of_a_long_column, (NO_PRODUCT,)),
    "proof of the smallest unfolding": Mutation(smallest_found_too_early, ((rounding, "gram_below", believed),)),
    "rounding of the Gram polynomial": Mutation(certified_long, ((rounding, "autocorrelation_error", nothing),)),
    "rounding in single precision": Mutation(
        ruled_out_in_single_precision, ((rounding, "autocorrelation_error", nothing),)
    ),
    "rounding of the symbol": Mutation(lower_of_many_taps, ((rounding, "symbol_error", no_error),)),
    "rounding of products": Mutation(tall_matrices, (NO_PRODUCT,)),
    "rounding of Gram iteration in float32": Mutation(tall_matrices_in_float32, (NO_PRODUCT,)),
    # Either of the two covers usual errors of the other.
    "rounding of quotients": Mutation(wide_matrices, (NO_PRODUCT, (rounding, "down", exactly))),
    "rounding of Cholesky": Mutation(star, ((rounding, "cholesky_loss", nothing),)),
    "direction of the last conversion": Mutation(rounded_answers, ((rounding, "to_dtype", nearest),)),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_allowance_is_needed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation = MUTATIONS[name]
    assert mutation.check() == []
    for owner, attribute, without in mutation.patches:
        monkeypatch.setattr(owner, attribute, without)
    assert mutation.check(), "nothing was noticed"
