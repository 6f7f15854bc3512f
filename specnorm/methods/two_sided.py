"""Base of the methods that enclose another number than the norm: the smallest singular value, the isometry defect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specnorm.clock import Clock
from specnorm.methods.base import Method, check_budget, check_count, check_rtol
from specnorm.result import Outcome
from specnorm.search.result import Problem

if TYPE_CHECKING:
    from specnorm.array_types import Array
    from specnorm.problem.spec import ConvSpec
    from specnorm.types import ArrayOps


FIGURES = ("outcome", "cells", "levels", "frequency")
"""Names of the figures of every such method, in the order of `SearchFigures`."""
SearchFigures = tuple[Outcome, int, int, Sequence[float]]
"""The figures of the search for one layer: how it ended, the numbers of its cells and of its levels, and the frequency
(in radians) of the vector that attains a bound."""


@dataclass(frozen=True)
class TwoSidedSearch(Method):
    """Base of methods that search for a lower and an upper bound, within a tolerance and a budget.

    Parameters
    ----------
    rtol : float
        Relative distance of the bounds at which the search stops.
    max_cells : int
        Largest number of cells of one search.
    budget : float, optional
        Seconds for one layer; after them no further step of the search begins. Unlike those of the norm, these searches
        are limited by default.
    """

    rtol: float = 1e-3
    max_cells: int = 100_000
    budget: float | None = 30.0

    def __post_init__(self) -> None:
        check_rtol(self.rtol)
        check_count("max_cells", self.max_cells, least=1)
        check_budget(self.budget)

    def problem(self, kernel: Array, spec: ConvSpec) -> Problem:
        """The problem of one layer, given its blocks or its kernel; its clock starts now."""
        return Problem(kernel, spec, self.rtol, self.max_cells, Clock.of(self.budget))

    def outcome(self, lower: float, upper: float, *, may_be_zero: bool) -> Outcome:
        """The outcome of a search that has proven two bounds.

        Parameters
        ----------
        may_be_zero : bool
            Whether the search could not tell the number from 0, so that more time would not help.
        """
        if upper <= lower * (1 + self.rtol):
            return Outcome.CONVERGED
        return Outcome.ZERO if may_be_zero else Outcome.BUDGET


def figure_arrays(figures: Sequence[SearchFigures], like: Array, *, ops: ArrayOps) -> tuple[Array, ...]:
    """The figures of several layers, each as an array with one entry for each layer."""
    outcomes, cells, levels, frequencies = zip(*figures, strict=True)
    outcome_numbers = [list(Outcome).index(outcome) for outcome in outcomes]
    integers = [ops.from_numpy(np.asarray(x, dtype=np.int32), like) for x in (outcome_numbers, cells, levels)]
    angles = ops.from_numpy(np.asarray(frequencies, dtype=np.float64), like)
    return (*integers, angles)
