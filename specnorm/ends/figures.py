"""Figures of the searches for the smallest singular value and the isometry defect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from specnorm.proofs.found import Outcome

if TYPE_CHECKING:
    from specnorm.running.base import FigureRule


class SearchFigures(NamedTuple):
    """The figures of the search for one layer.

    Parameters
    ----------
    converged : bool
        Whether the bounds are within the tolerance.
    zero : bool
        Whether the search could not tell the number from 0, so that more time would not help.
    out_of_cells : bool
        Whether the search ended at its largest number of cells, before its time.
    cells, levels : int
        Numbers of its cells and of its levels.
    frequency : sequence of float
        That of the vector that attains a bound, in radians.
    """

    converged: bool
    zero: bool
    out_of_cells: bool
    cells: int
    levels: int
    frequency: Sequence[float]


FIGURES: Mapping[str, FigureRule] = dict.fromkeys(SearchFigures._fields)
"""The figures of both searches: each search has one answer for a layer."""


def outcome_of(figures: Mapping[str, Any]) -> Outcome:
    """How a search ended, by its figures."""
    if bool(figures["converged"]):
        return Outcome.CONVERGED
    if bool(figures["zero"]):
        return Outcome.ZERO
    return Outcome.CELLS if bool(figures["out_of_cells"]) else Outcome.BUDGET
