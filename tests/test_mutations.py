"""Every allowance is needed: with one taken away, the soundness checks find a false bound.

Each row removes one term of one proof and runs the same check twice: nothing is found with the term in place, something
without it. Rounding allowances are worst cases far above usual errors, so those rows use kernels whose errors all have
one sign: long sums of one number. What else counts roundings is in `core/proof/test_every_allowance`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flint", reason="ball arithmetic: pip install python-flint")

from core.soundness.mutations import (
    Violations,
    attained_by_many_taps,
    below_the_circle,
    below_the_truth,
    below_the_truth_by_a_poor_basis,
    below_the_truth_by_the_truncation,
    below_the_truth_without_estimates,
    certified_long,
    fathomed_in_single_precision,
    lower_of_many_taps,
    outward,
    reduced_for_higher_limits,
    reductions_of_many_rows,
    rounded_answers,
    smallest_found_too_early,
    star,
    star_by_its_factor,
    wide_matrices,
)  # fmt: skip
from helpers.assumptions import assumed

from specnorm.proofs import host, norms, rounding
from specnorm.proofs.cells import Boxes
from specnorm.supremum import proof as cover
from specnorm.supremum.proof import Cells
from specnorm.symbols.proofs import polynomial as polynomials
from specnorm.symbols.proofs.polynomial import GramPolynomial
from specnorm.training import proof as attained


def no_loss(factors: Any, **_: Any) -> Any:
    """Instead of what a factorisation loses."""
    return 0 * np.abs(factors).sum((-2, -1))


_eigenvalue_limits = cover.eigenvalue_limits


def without_supremum(polynomial: GramPolynomial, cells: Cells, threshold: float) -> np.ndarray:
    """The lemma of the torus, on a grid, where the best point is no maximum."""
    supremum = None if cells.supremum is None else assumed(math.nextafter(threshold, math.inf))
    return _eigenvalue_limits(polynomial, replace(cells, supremum=supremum), threshold)


def by_any_supremum(self: cover.Cover, threshold: float) -> bool:
    """A supremum said to be no larger than any threshold, once the incumbent is near."""
    supremum = self.open.supremum
    if supremum is None or threshold < 0.5 * supremum.value:
        return False
    self._note(np.arange(len(self)), threshold)
    return True


_truncation_bound = polynomials.truncation_bound


def without_truncation(*given: Any, **named: Any) -> float:
    """Directions that are left out and forgotten."""
    return 1e-6 * _truncation_bound(*given, **named)


def without_loss(*_: Any, **__: Any) -> tuple[float, float]:
    """A rotation that costs nothing."""
    return 1.0, 0.0


def nearest(value: Any, dtype: Any, *_: Any, xp: Any, **__: Any) -> Any:
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


MUTATIONS = {
    "cosine of the cells": Mutation(
        below_the_truth, ((Boxes, "radius", property(lambda self: np.zeros(len(self.low)))),)
    ),
    "variation within the cells": Mutation(
        below_the_truth, ((GramPolynomial, "variation_sq", lambda _, phases: np.zeros(len(phases))),)
    ),
    "proof of the cells": Mutation(below_the_truth_without_estimates, ((norms, "gram_below", believed),)),
    "truncation of the directions left out": Mutation(
        below_the_truth_by_the_truncation, ((polynomials, "truncation_bound", without_truncation),)
    ),
    "limits that a matrix was reduced for": Mutation(
        reduced_for_higher_limits, ((cover, "can_prove", lambda formed, _: np.ones(len(formed), dtype=bool)),)
    ),
    "rounding of the reduced matrix": Mutation(
        reductions_of_many_rows, ((polynomials, "reduced_error", lambda a, _, xp: xp.zeros(a[0].shape[:1])),)
    ),
    "rotation that is none": Mutation(below_the_truth_by_a_poor_basis, ((polynomials, "rotation_loss", without_loss),)),
    "supremum on grids": Mutation(below_the_circle, ((cover, "eigenvalue_limits", without_supremum),)),
    "supremum that is no larger": Mutation(below_the_circle, ((cover.Cover, "fathom_by_supremum", by_any_supremum),)),
    "lemma of the grid": Mutation(
        below_the_circle, ((cover, "grid_lemma", lambda threshold, _, radius: cover.cell_lemma(threshold, radius)),)
    ),
    "numbers above": Mutation(outward, ((host, "next_up", lambda x: x),)),
    "numbers below": Mutation(outward, ((host, "next_down", lambda x: x),)),
    "roundings of sums": Mutation(outward, ((host, "inflate", lambda x, _: x),)),
    "proof of the smallest unfolding": Mutation(smallest_found_too_early, ((norms, "gram_below", believed),)),
    "rounding of the Gram polynomial": Mutation(certified_long, ((polynomials, "evaluation_error", nothing),)),
    "rounding in single precision": Mutation(
        fathomed_in_single_precision, ((polynomials, "evaluation_error", nothing),)
    ),
    "rounding of the symbol": Mutation(lower_of_many_taps, ((polynomials, "evaluation_error", nothing),)),
    "rounding of an attained norm": Mutation(
        attained_by_many_taps, ((attained, "product_allowance", nothing), (rounding, "down", exactly))
    ),
    # Either of the two covers usual errors of the other.
    "rounding of quotients": Mutation(
        wide_matrices, ((rounding, "product_error", nothing), (rounding, "down", exactly))
    ),
    "rounding of Cholesky": Mutation(star, ((norms, "backward_error", nothing),)),
    "rounding of a factor": Mutation(star_by_its_factor, ((norms, "factor_loss", no_loss),)),
    "direction of the last conversion": Mutation(rounded_answers, ((rounding, "to_dtype", nearest),)),
}


@functools.cache
def as_it_is(check: Callable[[], Violations]) -> list[str]:
    """What a check finds where no term is missing: the same for every mutation that it is to notice."""
    return list(check())


@pytest.mark.parametrize("name", MUTATIONS)
@pytest.mark.sampled(*(name for name in MUTATIONS if name != "rounding of the Gram polynomial"))  # it takes 14 s
def test_every_allowance_is_needed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation = MUTATIONS[name]
    assert as_it_is(mutation.check) == []
    for owner, attribute, without in mutation.patches:
        monkeypatch.setattr(owner, attribute, without)
    assert next(mutation.check(), None), "nothing was noticed"
