"""Figures of the searches for the smallest singular value and the isometry defect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from specnorm.running.result import Outcome

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.running.base import FigureRule
    from specnorm.running.search import Bounds

FIGURES: Mapping[str, FigureRule] = {"outcome": None, "cells": "sum", "levels": "max", "frequency": None}
"""The figures of both searches, in the order of `SearchFigures`."""
SearchFigures = tuple[Outcome, int, int, Sequence[float]]
"""The figures of the search for one layer: how it ended, the numbers of its cells and of its levels, and the frequency
(in radians) of the vector that attains a bound."""


def outcome_of(bounds: Bounds, rtol: float, *, may_be_zero: bool, is_out_of_cells: bool = False) -> Outcome:
    """The outcome of a search that has proven two bounds.

    Parameters
    ----------
    may_be_zero : bool
        Whether the search could not tell the number from 0, so that more time would not help.
    is_out_of_cells : bool
        Whether the search ended at its largest number of cells, before its time.
    """
    if bounds.within(rtol):
        return Outcome.CONVERGED
    if may_be_zero:
        return Outcome.ZERO
    return Outcome.CELLS if is_out_of_cells else Outcome.BUDGET


def figure_arrays(figures: Sequence[SearchFigures], like: Array, *, ops: ArrayOps) -> tuple[Array, ...]:
    """The figures of several layers, each as an array with one entry for each layer."""
    outcomes, cells, levels, frequencies = zip(*figures, strict=True)
    outcome_numbers = [list(Outcome).index(outcome) for outcome in outcomes]
    integers = [ops.from_numpy(np.asarray(x, dtype=np.int32), like) for x in (outcome_numbers, cells, levels)]
    angles = ops.from_numpy(np.asarray(frequencies, dtype=np.float64), like)
    return (*integers, angles)
