"""Figures of the searches for the smallest singular value and the isometry defect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from specnorm.proofs.found import Found, Outcome

FIGURES = dict.fromkeys(("converged", "zero", "out_of_cells", "cells", "levels", "frequency"))
"""The figures of both searches: each search has one answer for a layer."""


def figures_of(found: Found, rtol: float, no_frequency: Sequence[float] = ()) -> tuple[Any, ...]:
    """The figures of a search for one layer; ``no_frequency`` are the angles where nothing is attained."""
    frequency = found.witness.frequency
    angles = frequency.angles[0] if len(frequency) else no_frequency
    is_zero = found.ended is Outcome.ZERO
    is_out_of_cells = found.ended is Outcome.CELLS
    return found.within(rtol), is_zero, is_out_of_cells, found.cells, found.levels, angles


def outcome_of(figures: Mapping[str, Any]) -> Outcome:
    """How a search ended, by its figures."""
    if bool(figures["converged"]):
        return Outcome.CONVERGED
    if bool(figures["zero"]):
        return Outcome.ZERO
    return Outcome.CELLS if bool(figures["out_of_cells"]) else Outcome.BUDGET
