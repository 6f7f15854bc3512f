"""Bounds of a layer's norm at a fixed cost, by a grid or an unfolding: a `Fallback` of searches."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from specnorm.grid.proof import norms_by_grid, symbol_norms_up
from specnorm.grid.search import POINTS_A_STEP, grid_points, largest_bound
from specnorm.proofs import norms
from specnorm.proofs.bound import Upper, known
from specnorm.running.proofs import padding
from specnorm.unfoldings.search import smallest_unfoldings

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.running.search import Clock


_LATE_PART = 0.15
"""Part of the whole time limit that the bounds without a search may take although the deadline has passed."""
_MATRIX_WORK = 1e5
"""Cost of one small matrix's calls, in multiplications."""
_ENTRY_WORK = 500
"""Cost of what is done for each kernel entry (copies, scaling, digest), or for the cosine and sine of a tap at one
frequency, in multiplications."""


def bound(blocks: Array, clock: Clock, *, ops: ArrayOps) -> Upper:
    """A bound of the layer's norm: the smallest unfolding's or, if there is time for a grid, the lower of both.

    If there is no time for unfoldings, it is the bound by the Frobenius norm.
    """
    if not clock.affords(_unfolding_work(blocks), _LATE_PART):
        return norms.norm_by_frobenius(blocks, ops=ops)
    bounds_of_blocks, _ = smallest_unfoldings(blocks, ops=ops)
    unfolding = padding.largest_of_blocks(bounds_of_blocks, blocks.shape[0])
    if not _is_worth_a_grid(blocks, clock):
        return unfolding
    _, _, uppers = largest_bound(symbol_norms_up, blocks, grid_points(tuple(blocks.shape[3:])), ops=ops)
    return Upper.least(unfolding, norms_by_grid(known(uppers), xp=ops.xp).largest(ops=ops))


def seconds(blocks: Array, clock: Clock) -> float:
    """Estimate the seconds of `bound`."""
    unfolding_work = _unfolding_work(blocks)
    work_of_both = unfolding_work + _grid_work(blocks)
    fits = clock.seconds_of(work_of_both) <= clock.seconds
    return clock.seconds_of(work_of_both if fits else unfolding_work)


def _is_worth_a_grid(blocks: Array, clock: Clock) -> bool:
    """Whether a grid fits the time that is left; without a deadline, whether its phases take the default budget."""
    if math.isinf(clock.seconds):
        return clock.seconds_of(_phase_work(blocks)) <= clock.BUDGET
    return clock.affords(_grid_work(blocks), _LATE_PART)


def _grid_size(blocks: Array) -> float:
    """Points of a grid, about, without mirror images."""
    return math.prod(POINTS_A_STEP * (k - 1) + 1 for k in blocks.shape[3:]) / 2


def _phase_work(blocks: Array) -> float:
    """Cost of the phases of all taps on a grid, in multiplications."""
    return _ENTRY_WORK * _grid_size(blocks) * math.prod(blocks.shape[3:])


def _grid_work(blocks: Array) -> float:
    """Cost of a grid's bound, in multiplications: symbols, an eigenvalue each, and the phases again for each block."""
    g, m, p = blocks.shape[:3]
    eigenvalues = g * (8 * m * p * min(m, p) + _MATRIX_WORK)
    return _grid_size(blocks) * (math.prod(blocks.shape) + eigenvalues) + g * _phase_work(blocks)


def _unfolding_work(blocks: Array) -> float:
    """Cost of a proof by an unfolding, in multiplications.

    It is that of three Gram matrices, with those that choose the unfolding, and of the passes over the kernel.
    """
    return float(math.prod(blocks.shape)) * (3 * min(blocks.shape[1:3]) + _ENTRY_WORK)
