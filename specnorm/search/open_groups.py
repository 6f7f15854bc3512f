"""Which groups of a layer may have its norm: the others are proven to be lower, all of them in one search."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specnorm import arrays
from specnorm.certified.symbol.cells import torus
from specnorm.certified.symbol.symbols import Symbol
from specnorm.problem.frequencies import coarse_grid, half_grid
from specnorm.search.branch_and_bound import Search

if TYPE_CHECKING:
    from specnorm.certified.bound import Upper
    from specnorm.clock import Clock
    from specnorm.types import Array, ArrayOps


@dataclass(frozen=True, eq=False)
class GroupTuning:
    """How groups are told apart. It decides on time alone.

    Parameters
    ----------
    below : float
        Part of the bound up to which estimates of a group's norm count as lower.
    tries : int
        Proofs that they are, each without one more group.
    taps : int
        Those up to which the estimates of scalar symbols, which cost next to nothing, are on a grid twice as fine.
    """

    below: float = 0.97
    tries: int = 6
    taps: int = 32


TUNING = GroupTuning()


def open_groups(
    blocks: Array, bound: float, *, max_cells: int, clock: Clock, ops: ArrayOps
) -> tuple[np.ndarray, Upper | None]:
    """Groups whose supremum over all frequencies is not proven to be at most a bound, and what bounds the others'.

    Parameters
    ----------
    blocks : array, shape (groups, m, p, *kernel_shape)
        Scaled to about 1.
    max_cells : int
        Budget of each search.
    clock : Clock
        Ends the searches.

    Returns
    -------
    rest : integer array
        Numbers of the groups that are not proven to be lower.
    others : Upper or None
        Of the supremum of all others; None if there are none.
    """
    every, kernel_shape = np.arange(blocks.shape[0]), tuple(blocks.shape[3:])
    if len(every) == 1 or not bound > 0:
        return every, None
    grid = coarse_grid(kernel_shape)
    if min(blocks.shape[1:3]) == 1 and math.prod(kernel_shape) <= TUNING.taps:
        grid = half_grid([1 if k == 1 else 4 * k for k in kernel_shape])
    xp, symbols = ops.xp, Symbol(blocks, grid, ops=ops).matrices()
    norms = ops.to_numpy(xp.max(xp.linalg.svdvals(symbols), axis=(1, 2)))
    lower = np.flatnonzero(norms < TUNING.below * bound)
    for _ in range(TUNING.tries):
        if not len(lower):
            break
        search = Search(arrays.rows(blocks, lower, ops=ops), clock=clock, ops=ops)
        proven = search.run(torus(kernel_shape), bound=bound, max_cells=max_cells)
        if proven.upper is not None and proven.upper <= bound:
            return np.setdiff1d(every, lower), proven.upper
        if proven.lower <= bound:
            break
        # One of them is not lower after all.
        lower = np.delete(lower, proven.block)
    return every, None
