"""What the methods share that search for both ends of another number than the norm."""

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
"""Of every such method, in the order of `Ended`."""
Ended = tuple[Outcome, int, int, Sequence[float]]
"""How the search for one layer ended: its outcome, cells, levels and the frequency of its witness in radians."""


@dataclass(frozen=True)
class Ends(Method):
    """Base: a search within a tolerance and a budget.

    Parameters
    ----------
    rtol : float
        Relative width asked for.
    max_cells : int
        Budget of one search for each group.
    budget : float, optional
        Seconds for one layer; what has not begun by then is not tried.
    """

    rtol: float = 1e-3
    max_cells: int = 100_000
    budget: float | None = 30.0

    def __post_init__(self) -> None:
        check_rtol(self.rtol)
        check_count("max_cells", self.max_cells, least=1)
        check_budget(self.budget)

    def problem(self, kernel: Array, spec: ConvSpec) -> Problem:
        """One layer's blocks, or its kernel, with the limits of the method; its clock begins."""
        return Problem(kernel, spec, self.rtol, self.max_cells, Clock.of(self.budget))

    def outcome(self, lower: float, upper: float, *, is_zero: bool) -> Outcome:
        """How a search ended that has proven two bounds."""
        if upper <= lower * (1 + self.rtol):
            return Outcome.CONVERGED
        return Outcome.ZERO if is_zero else Outcome.BUDGET


def columns(ended: Sequence[Ended], like: Array, *, ops: ArrayOps) -> tuple[Array, ...]:
    """The figures of some layers as arrays."""
    outcomes, cells, levels, frequencies = zip(*ended, strict=True)
    numbers = (np.asarray([list(Outcome).index(x) for x in outcomes]), np.asarray(cells), np.asarray(levels))
    angles = np.asarray(frequencies, dtype=np.float64)
    return (*(ops.from_numpy(x.astype(np.int32), like) for x in numbers), ops.from_numpy(angles, like))
