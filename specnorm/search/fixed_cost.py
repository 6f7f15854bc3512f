"""A bound of the supremum that no search is needed for, where none ended within its budget."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from specnorm.certified.bound import largest_of_blocks, least
from specnorm.certified.symbol import grid
from specnorm.problem.frequencies import half_grid
from specnorm.search.pruned import largest_bounds
from specnorm.search.smallest_unfolding import smallest

if TYPE_CHECKING:
    from specnorm.certified.bound import Upper
    from specnorm.search.result import Problem
    from specnorm.types import ArrayOps

PRODUCTS = 5
"""Gram products that leave frequencies out; those that are left cost an eigenvalue and a factorisation each."""
_BRIEF, _LONG = 2e10, 1e12
"""Multiplications of a bound on a grid that are done although a deadline has passed; phases, so counted, without."""
_SECOND = 1e10
"""Multiplications in a second."""
_PHASE = 400
"""Multiplications that the cosine and sine of one tap at one frequency take as long as."""


def grid_points(kernel_shape: tuple[int, ...], n: int | None = None) -> tuple[int, ...]:
    """Points an axis of a grid of frequencies: ``10 (k_j - 1)`` unless given; one where there is one tap."""
    return tuple(1 if k == 1 else n or 10 * (k - 1) for k in kernel_shape)


def bound_without_search(problem: Problem, *, ops: ArrayOps) -> Upper:
    """The smallest unfolding's bound or, if that takes at most about so long or some seconds, a grid's if lower."""
    blocks, seconds = problem.kernel, problem.clock.seconds
    points = math.prod(10 * (k - 1) + 1 for k in blocks.shape[3:]) / 2
    phases = _PHASE * points * math.prod(blocks.shape[3:])
    work = points * (math.prod(blocks.shape) + 8 * math.prod(blocks.shape[:3]) * min(blocks.shape[1:3])) + phases
    brief = math.isfinite(seconds)
    too_long = work > min(_BRIEF, _SECOND * seconds) if brief else phases > _LONG
    unfolding = largest_of_blocks(smallest(blocks, problem.spec, ops=ops)[0], blocks)
    if too_long:
        return unfolding
    sizes = grid_points(tuple(blocks.shape[3:]))
    bounds = largest_bounds(grid.symbol_norms_up, blocks, half_grid(sizes), PRODUCTS, ops=ops)
    return least(unfolding, grid.norm_by_grid(bounds, sizes, ops=ops))
