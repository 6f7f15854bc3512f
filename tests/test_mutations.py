"""Every allowance is needed: with one taken away, the soundness checks find a false bound.

Each row removes one term of one proof and runs the same check twice: nothing is found with the term in place, something
without it. Rounding allowances are worst cases far above usual errors, so those rows use kernels whose errors all have
one sign: long sums of one number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import array_api_compat.numpy as xp
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("flint", reason="ball arithmetic: pip install python-flint")

from flint import arb, ctx
from soundness.balls import BITS
from soundness.claims import Claims
from soundness.families import Case, case

from specnorm import rounding
from specnorm.autocorrelation import Autocorrelation
from specnorm.cells import Boxes
from specnorm.methods import unfolding
from specnorm.methods.search import Search
from specnorm_numpy import BACKEND, NumpyBackend

Violations = list[str]


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


def below_the_circle() -> Violations:
    """Certificates just below a circular norm."""

    def act(claims: Claims) -> None:
        for n in (7, 9, 12):
            claims.verdicts((-0.03, -0.003), (n,) * len(claims.truth.exact.sizes), max_cells=300)

    return over(small(), act)


def constant(shape: tuple[int, ...], value: float, dtype: str = "float64") -> Case:
    """A kernel of one number: the root of its channel pairs times its taps times the number."""
    kernel = np.full(shape, value, dtype=dtype)

    def total(final: NDArray[Any]) -> arb:
        with ctx.workprec(BITS):
            return arb(shape[0] * shape[1]).sqrt() * math.prod(shape[2:]) * arb(float(final.flat[0]))

    return Case(0, "constant", kernel, total)


def long_sums(*shape: int, dtype: str = "float64", count: int = 12) -> list[Case]:
    """Constants between 1 and 2: rounding errors of their sums have one sign, up or down, and add up."""
    return [constant(shape, c, dtype) for c in np.random.RandomState(0).uniform(1, 2, size=count)]


def certified_long() -> Violations:
    """Certificates a few hundred roundings below the norm of a long column."""
    return over(long_sums(100_000, 1, 2), lambda claims: claims.verdicts((-2e-14, -5e-14), max_cells=300))


def lower_of_many_taps() -> Violations:
    """Lower ends of a kernel with 2025 taps."""
    return over(long_sums(1, 1, 45, 45, count=6), lambda claims: claims.grid(45))


def matrix_long() -> Violations:
    """Norms of a long column, from both sides."""
    return over(long_sums(100_000, 1), lambda claims: claims.matrices(1))


def matrix_long_float32() -> Violations:
    """The same, computed in float32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NumpyBackend, "wide_dtype", lambda *_: "float32")
        return over(long_sums(100_000, 1, dtype="float32"), lambda claims: claims.matrices(1))


def star() -> Violations:
    """Certificates for matrices with one long row, below their largest eigenvalue ``c sqrt(n - 1)``."""
    found: Violations = []
    size = 1500
    for c in np.random.RandomState(1).uniform(1, 2, size=4).astype(np.float32):
        matrix = np.zeros((1, size, size), dtype=np.float32)
        matrix[0, -1, :-1] = matrix[0, :-1, -1] = -c
        for offset in (3e-6, 6e-6):
            limit = float(c) * math.sqrt(size - 1) * (1 - offset)
            given = np.asarray([limit], dtype=np.float32)
            if rounding.gram_below(matrix, given, xp=xp, backend=BACKEND)[0]:
                found.append(f"{c}: {limit} proven at offset {offset}")
    return found


def rounded_answers() -> Violations:
    """Answers in float32 of bounds that are as sharp as float64 allows."""
    kernels = [case(index, family="stack", dtypes=("float32",), subnormal=False) for index in range(40)]
    return over(kernels, lambda claims: (claims.matrices(6), claims.verdicts(()))[0])


def every_unfolding() -> Violations:
    return over(small(), Claims.unfoldings)


def odd_grids() -> Violations:
    """Grids that miss the maximum by as much as the factor."""

    def act(claims: Claims) -> None:
        for n in (5, 7, 9):
            claims.grid(n)

    return over([case(index, family="corners", dtypes=("float64",)) for index in range(12)], act)


def no_error(blocks: Any, *_: Any, xp: Any) -> Any:
    """Instead of an allowance for each block."""
    return xp.zeros(blocks.shape[0], dtype=blocks.dtype)


_limits = Search._limits


def without_supremum(self: Search, boxes: Boxes, target: float, supremum: float | None) -> np.ndarray:
    """The lemma of the torus, on a grid, where the best point is no maximum."""
    return _limits(self, boxes, target, None if supremum is None else math.nextafter(target, math.inf))


def nearest(value: Any, dtype: Any, *_: Any, xp: Any) -> Any:
    """Conversion without a direction."""
    return xp.astype(value, dtype)


@dataclass(frozen=True)
class Mutation:
    """One term taken away: ``owner.name`` becomes ``without``; ``check`` must notice."""

    owner: Any
    name: str
    without: Any
    check: Callable[[], Violations]


MUTATIONS = {
    "cosine of the cells": Mutation(
        Boxes, "reach", property(lambda self: np.zeros(self.low.shape)), below_the_truth
    ),
    "variation within the cells": Mutation(
        Autocorrelation, "variation", lambda _, distance: np.zeros(len(distance)), below_the_truth
    ),
    "supremum on grids": Mutation(Search, "_limits", without_supremum, below_the_circle),
    "factor of the grid": Mutation(rounding, "grid_factor", lambda *_: 1.0, odd_grids),
    "root of the taps": Mutation(
        unfolding, "math", SimpleNamespace(sqrt=lambda _: 1.0, prod=math.prod), every_unfolding
    ),
    "rounding of the Gram polynomial": Mutation(rounding, "autocorrelation_error", no_error, certified_long),
    "rounding of the symbol": Mutation(rounding, "symbol_error", no_error, lower_of_many_taps),
    "rounding of products": Mutation(rounding, "product_error", lambda *_, xp: 0.0, matrix_long),
    "rounding of Gram iteration in float32": Mutation(
        rounding, "product_error", lambda *_, xp: 0.0, matrix_long_float32
    ),
    "rounding of Cholesky": Mutation(rounding, "cholesky_loss", lambda *_, xp: 0.0, star),
    "direction of the last conversion": Mutation(rounding, "to_dtype", nearest, rounded_answers),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_allowance_is_needed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation = MUTATIONS[name]
    assert mutation.check() == []
    monkeypatch.setattr(mutation.owner, mutation.name, mutation.without)
    assert mutation.check(), "nothing was noticed"
