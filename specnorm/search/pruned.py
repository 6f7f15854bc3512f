"""The largest of proven bounds over many frequencies: which are tried first; a bound of fixed cost by them."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from specnorm import arrays
from specnorm.certified.bound import largest_of_blocks, least
from specnorm.certified.matrices.norms import norm_by_frobenius
from specnorm.certified.symbol import grid, symbols
from specnorm.certified.symbol.grid import LargestBound
from specnorm.clock import RATE
from specnorm.problem.frequencies import half_grid
from specnorm.search.constant import smallest

if TYPE_CHECKING:
    from specnorm.array_types import Array
    from specnorm.certified.bound import Upper
    from specnorm.certified.symbol.grid import Bound
    from specnorm.problem.frequencies import Frequencies
    from specnorm.search.result import Problem
    from specnorm.types import ArrayOps


_FEW = 4
"""Frequencies that are not worth another product of all."""
_SAMPLE = 24
"""Frequencies that are tried first, or up to sixteen times as many."""
_WORTH = 4000
"""Entries of symbols, for each lag of the kernel, from which on the Gram polynomial costs less than it saves."""


def largest_bound(
    bound: Bound, blocks: Array, frequencies: Frequencies, products: int, *, ops: ArrayOps
) -> tuple[Array, Array]:
    """`symbols.largest` of a proven bound of the symbol's norm, with frequencies left out where values are known.

    Parameters
    ----------
    bound : callable
        `pruning.Bound`: the same for a block and its transpose.
    blocks : array, shape (b, m, p, *kernel_shape)
        In the wide dtype, scaled to about 1.
    products : int
        Gram products after which a frequency that is still possible is visited; 0: nothing is left out.

    Returns
    -------
    value : array, shape (b,)
    phase : complex array, shape (b, taps)
    """
    if not ops.concrete or products < 1 or not _pays(blocks, len(frequencies), memory=ops.memory):
        return symbols.largest(partial(bound, ops=ops), blocks, frequencies, ops=ops)
    found = [x.result() for x in largest_bounds(bound, blocks, frequencies, products, ops=ops)]
    values, phases = zip(*found, strict=True)
    return ops.xp.concat(values, axis=0), ops.xp.concat(phases, axis=0)


def largest_bounds(
    bound: Bound, blocks: Array, frequencies: Frequencies, products: int, *, ops: ArrayOps
) -> list[LargestBound]:
    """The same block by block, each with its proof."""
    blocks = arrays.tall(blocks, xp=ops.xp)
    found = [LargestBound(bound, blocks[j : j + 1, ...], frequencies, ops=ops) for j in range(blocks.shape[0])]
    pays = products > 0 and _pays(blocks, len(frequencies), memory=ops.memory)
    for one in found:
        if pays:
            _visit(one, products, ops=ops)
        else:
            one.visit(np.arange(len(frequencies)))
    return found


def _pays(blocks: Array, count: int, *, memory: int) -> bool:
    """Whether the Gram polynomial of a block, one product for each pair of taps, fits and costs less than it saves."""
    channels, shape = blocks.shape[1:3], blocks.shape[3:]
    lags = math.prod(2 * k - 1 for k in shape) // 2 + 1
    if 32 * lags * min(channels) ** 2 > memory or 4 * count < math.prod(shape) ** 2:
        return False
    return bool(count * math.prod(channels) >= _WORTH * lags)


def _visit(largest: LargestBound, products: int, *, ops: ArrayOps) -> None:
    """A sample, then the rest; where nothing is left out of the sample, the rest as it is."""
    count, step = len(largest.frequencies), symbols.chunk_length(largest.block, ops=ops)
    stride = max(min(16, count // _SAMPLE), -(-count // step), 1)
    every = np.arange(count)
    sample, rest = every[::stride], every[every % stride > 0]
    left = leave_out(largest, sample, products)
    largest.visit(left)
    pays = 2 * len(left) < len(sample)
    for start in range(0, len(rest), step):
        some = rest[start : start + step]
        largest.visit(leave_out(largest, some, products) if pays else some)


def leave_out(largest: LargestBound, index: np.ndarray, products: int, few: int = _FEW) -> np.ndarray:
    """Leave out frequencies whose norms Gram iteration proves to be no larger. The numbers of the others.

    Of at most so many products, the polynomial's own included; a few frequencies left are not worth another one.
    The best frequency is visited after the first and the last.
    """
    iteration = largest.iteration(index)
    for product in range(products):
        if product:
            iteration.square()
        best, norm = iteration.highest
        if product in (0, products - 1) and not norm <= largest.value:
            largest.visit(best)
        iteration.leave_out()
        if len(iteration.index) <= few:
            break
    return iteration.index


PRODUCTS = 5
"""Gram products that leave frequencies out; those that are left cost an eigenvalue and a factorisation each."""
_LONG = 1e12
"""Phases of a bound on a grid, counted in multiplications, up to which it is tried where there is no deadline."""
_LATE = 0.15
"""Part of the time that it may take although a deadline has passed."""
_MOST = 0.7
"""Part of the time that is left to it at most."""
_MATRIX = 1e5
"""Multiplications that the calls for one small matrix take as long as."""
_PASSES = 500
"""Multiplications that the passes over one entry of a kernel take as long as: copies, scales, a digest."""
_PHASE = 400
"""Multiplications that the cosine and sine of one tap at one frequency take as long as."""


def grid_points(kernel_shape: tuple[int, ...], n: int | None = None) -> tuple[int, ...]:
    """Points an axis of a grid of frequencies: ``10 (k_j - 1)`` unless given; one where there is one tap."""
    return tuple(1 if k == 1 else n or 10 * (k - 1) for k in kernel_shape)


def bound_without_search(problem: Problem, *, ops: ArrayOps) -> Upper:
    """The smallest unfolding's bound or, if there is time for it, a grid's if lower; without time, one by Frobenius."""
    blocks = problem.kernel
    if not problem.clock.affords(_work_of_unfolding(blocks), _LATE):
        return norm_by_frobenius(blocks, ops=ops)
    unfolding = largest_of_blocks(smallest(blocks, problem.spec, ops=ops)[0], blocks)
    if not _is_worth_a_grid(problem):
        return unfolding
    sizes = grid_points(tuple(blocks.shape[3:]))
    bounds = largest_bounds(grid.symbol_norms_up, blocks, half_grid(sizes), PRODUCTS, ops=ops)
    return least(unfolding, grid.norm_by_grid(bounds, sizes, ops=ops))


def seconds_without_search(problem: Problem) -> float:
    """How long `bound_without_search` takes, roughly: what a search has to leave of its time."""
    works = (_work_of_unfolding(problem.kernel), _work_of_grid(problem.kernel))
    fits = sum(works) <= RATE * _MOST * problem.clock.seconds
    return sum(works if fits else works[:1]) / RATE


def _is_worth_a_grid(problem: Problem) -> bool:
    """Whether a grid takes no longer than is left; or, without a deadline, than some minutes."""
    if math.isinf(problem.clock.seconds):
        return _phases(problem.kernel) <= _LONG
    return problem.clock.affords(_work_of_grid(problem.kernel), _LATE)


def _points(blocks: Array) -> float:
    return math.prod(10 * (k - 1) + 1 for k in blocks.shape[3:]) / 2


def _phases(blocks: Array) -> float:
    return _PHASE * _points(blocks) * math.prod(blocks.shape[3:])


def _work_of_grid(blocks: Array) -> float:
    """Multiplications of a grid's bound: symbols, an eigenvalue each, and the phases, for each block once more."""
    g, m, p = blocks.shape[:3]
    each = g * (8 * m * p * min(m, p) + _MATRIX)
    return _points(blocks) * (math.prod(blocks.shape) + each) + g * _phases(blocks)


def _work_of_unfolding(blocks: Array) -> float:
    """Multiplications of the proof of one unfolding, three Gram matrices with the search for it, and of the answer."""
    return float(math.prod(blocks.shape)) * (3 * min(blocks.shape[1:3]) + _PASSES)
