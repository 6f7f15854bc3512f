"""Which groups of a layer may have its norm: all others are proven to have lower norms, in one search."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm.at_size import layer_tuning
from specnorm.backends import arrays
from specnorm.proofs.cells import Boxes
from specnorm.proofs.frequencies import Frequencies
from specnorm.supremum.branch_and_bound import Search
from specnorm.symbols import power
from specnorm.symbols.proofs.polynomial import Polynomial

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.proofs.bound import Upper
    from specnorm.running.search import Clock

_POINTS_A_TAP = (1, 2, 4)
"""Points of the grids on which the norms of scalar symbols are estimated, for each tap of an axis."""
_LOWEST_PART = (0.6, 0.8)
"""Part of the bound below which an estimate on such a grid is not repeated on the next: a norm that is this much higher
is rare."""


def find_open_groups(
    blocks: Array,
    bound: float,
    *,
    max_cells: int,
    clock: Clock,
    ops: ArrayOps,
) -> tuple[np.ndarray, Upper | None]:
    """Find the groups whose supremum over all frequencies is not proven to be at most a bound.

    ``blocks`` (groups, m, p, *kernel_shape): scaled to about 1. ``max_cells``: budget of each search. ``clock``:
    deadline of the searches. Returns the numbers of these groups, and a bound of the supremum of all others; None if
    there are no others.
    """
    every_group = np.arange(blocks.shape[0])
    if len(every_group) == 1 or not bound > 0:
        return every_group, None
    estimates = _estimated_norms(blocks, bound, ops=ops)
    weak_groups = np.flatnonzero(estimates < layer_tuning.WEAK_GROUP * bound)
    while len(weak_groups):
        search = Search(arrays.rows(blocks, weak_groups, ops=ops), clock=clock, ops=ops)
        result = search.run(Boxes.torus(tuple(blocks.shape[3:])), bound=bound, max_cells=max_cells)
        if result.upper is not None and result.upper <= bound:
            return np.setdiff1d(every_group, weak_groups), result.upper
        if result.lower <= bound:
            # The budget ended before anything was proven.
            break
        # One of the weak groups is above the bound after all. Weak groups with estimates at least as high are likely to
        # be above it, too: try the others.
        weak_estimates = estimates[weak_groups]
        weak_groups = weak_groups[weak_estimates < weak_estimates[result.witness.block]]
    return every_group, None


def _estimated_norms(blocks: Array, bound: float, *, ops: ArrayOps) -> np.ndarray:
    """Largest norms of blocks (groups, m, p, *kernel_shape) on a coarse grid, shape (groups,).

    Those of scalar symbols that may be near the bound are on a finer grid.
    """
    kernel_shape = tuple(blocks.shape[3:])
    if min(blocks.shape[1:3]) > 1:
        coarse = Frequencies.coarse_grid(kernel_shape)
        _, norms, _ = power.norms_at(blocks, coarse, power.COARSE_STEPS, ops=ops)
        return np.asarray(norms.max(axis=1))
    estimates = np.full(blocks.shape[0], math.inf)
    for points, lowest_part in zip(_POINTS_A_TAP, (0.0, *_LOWEST_PART), strict=True):
        groups = np.flatnonzero(estimates >= lowest_part * bound)
        if not len(groups):
            break
        sizes = tuple(1 if taps == 1 else points * taps for taps in kernel_shape)
        values, _, _ = Polynomial(arrays.rows(blocks, groups, ops=ops), xp=ops.xp).largest_on_grid(sizes, ops=ops)
        estimates[groups] = ops.to_numpy(values)
    return estimates
