"""Which groups of a layer may have its norm: all others are proven to have lower norms, in one search."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from specnorm import arrays
from specnorm.certified.symbol.cells import torus
from specnorm.certified.symbol.symbols import Symbol
from specnorm.problem.frequencies import coarse_grid, half_grid
from specnorm.search import layer_tuning
from specnorm.search.branch_and_bound import Search

if TYPE_CHECKING:
    from specnorm.array_types import Array
    from specnorm.certified.bound import Upper
    from specnorm.clock import Clock
    from specnorm.problem.frequencies import Frequencies
    from specnorm.types import ArrayOps

_FEW_TAPS = 32
"""Taps up to which the norms of scalar symbols are estimated on a grid twice as fine."""


class OpenGroups(NamedTuple):
    """Groups of a layer that may have its norm, and a proof that the other groups do not.

    Parameters
    ----------
    numbers : integer array
        Numbers of the groups whose norms are not proven to be lower.
    others : Upper or None
        Bound of the supremum of all other groups; None if there are none.
    """

    numbers: np.ndarray
    others: Upper | None


def find_open_groups(
    blocks: Array,
    bound: float,
    *,
    max_cells: int,
    clock: Clock,
    ops: ArrayOps,
) -> OpenGroups:
    """Find the groups whose supremum over all frequencies is not proven to be at most a bound.

    Parameters
    ----------
    blocks : array, shape (groups, m, p, *kernel_shape)
        Scaled to about 1.
    max_cells : int
        Budget of each search.
    clock : Clock
        Deadline of the searches.
    """
    every_group = np.arange(blocks.shape[0])
    if len(every_group) == 1 or not bound > 0:
        return OpenGroups(every_group, None)
    estimates = _estimated_norms(blocks, ops=ops)
    weak_groups = np.flatnonzero(estimates < layer_tuning.TUNING.weak_group * bound)
    for _ in range(layer_tuning.TUNING.weak_group_tries):
        if not len(weak_groups):
            break
        search = Search(arrays.rows(blocks, weak_groups, ops=ops), clock=clock, ops=ops)
        result = search.run(torus(tuple(blocks.shape[3:])), bound=bound, max_cells=max_cells)
        if result.upper is not None and result.upper <= bound:
            return OpenGroups(np.setdiff1d(every_group, weak_groups), result.upper)
        if result.lower <= bound:
            break
        # One of the weak groups is above the bound after all.
        weak_groups = np.delete(weak_groups, result.block)
    return OpenGroups(every_group, None)


def _estimated_norms(blocks: Array, *, ops: ArrayOps) -> np.ndarray:
    """Largest norms of blocks (groups, m, p, *kernel_shape) on a coarse grid, shape (groups,)."""
    xp = ops.xp
    kernel_shape = tuple(blocks.shape[3:])
    if min(blocks.shape[1:3]) > 1:
        symbols = Symbol(blocks, coarse_grid(kernel_shape), ops=ops).matrices()
        return ops.to_numpy(xp.max(xp.linalg.svdvals(symbols), axis=(1, 2)))
    # Scalar symbols: there is nothing to factorise, and a grid twice as fine costs next to nothing.
    grid: Frequencies = coarse_grid(kernel_shape)
    if math.prod(kernel_shape) <= _FEW_TAPS:
        grid = half_grid([1 if taps == 1 else 4 * taps for taps in kernel_shape])
    symbols = Symbol(blocks, grid, ops=ops).matrices()
    return ops.to_numpy(xp.max(xp.linalg.vector_norm(symbols, axis=(2, 3)), axis=1))
