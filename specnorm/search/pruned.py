"""The largest of proven bounds over many frequencies: which of them to visit first, and which to leave out by proof.

Also a bound of a layer's norm at a fixed cost, by a grid or by an unfolding, for searches that have no end.
"""

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


_FEW_FREQUENCIES = 4
"""Number of frequencies up to which another Gram product takes longer than to visit them."""
_SMALLEST_SAMPLE = 24
"""Least number of frequencies that are tried first, to learn whether Gram products leave many of them out."""
_SAMPLE_STRIDE = 16
"""Largest distance of these frequencies in their order: one in so many is tried first."""
_PAIRS_A_FREQUENCY = 4
"""Pairs of taps for each frequency up to which the Gram polynomial, a product for each pair, may pay."""
_ENTRIES_A_LAG = 4000
"""Entries of all symbols, for each lag of the kernel, from which the Gram polynomial costs less than it saves."""
_POINTS_A_STEP = 10
"""Points of a grid along an axis, for each step from one tap to the next: ``10 (k - 1)``."""


def largest_bound(
    bound: Bound,
    blocks: Array,
    frequencies: Frequencies,
    products: int,
    *,
    ops: ArrayOps,
) -> tuple[Array, Array]:
    """`symbols.largest` of a proven bound of the symbol's norm; where values can be read, frequencies are left out.

    Parameters
    ----------
    bound : callable
        `certified.symbol.grid.Bound`: the same for a block and its transpose.
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
    results = [one.result() for one in largest_bounds(bound, blocks, frequencies, products, ops=ops)]
    values, phases = zip(*results, strict=True)
    return ops.xp.concat(values, axis=0), ops.xp.concat(phases, axis=0)


def largest_bounds(
    bound: Bound,
    blocks: Array,
    frequencies: Frequencies,
    products: int,
    *,
    ops: ArrayOps,
) -> list[LargestBound]:
    """`largest_bound` block by block, each with its proof."""
    blocks = arrays.tall(blocks, xp=ops.xp)
    pays = products > 0 and _pays(blocks, len(frequencies), memory=ops.memory)
    results = []
    for j in range(blocks.shape[0]):
        largest = LargestBound(bound, blocks[j : j + 1, ...], frequencies, ops=ops)
        if pays:
            _visit(largest, products, ops=ops)
        else:
            largest.visit(np.arange(len(frequencies)))
        results.append(largest)
    return results


def _pays(blocks: Array, count: int, *, memory: int) -> bool:
    """Whether the Gram polynomial of a block, one product for each pair of taps, fits and costs less than it saves."""
    channels = blocks.shape[1:3]
    kernel_shape = blocks.shape[3:]
    lags = math.prod(2 * k - 1 for k in kernel_shape) // 2 + 1
    fits = 32 * lags * min(channels) ** 2 <= memory
    has_many_frequencies = _PAIRS_A_FREQUENCY * count >= math.prod(kernel_shape) ** 2
    has_many_entries = count * math.prod(channels) >= _ENTRIES_A_LAG * lags
    return bool(fits and has_many_frequencies and has_many_entries)


def _visit(largest: LargestBound, products: int, *, ops: ArrayOps) -> None:
    """Visit a sample of the frequencies, then the rest; if much of the sample was left out by proof, so is the rest."""
    count = len(largest.frequencies)
    at_once = symbols.chunk_length(largest.block, ops=ops)
    stride_of_sample = min(_SAMPLE_STRIDE, count // _SMALLEST_SAMPLE)
    chunks = -(-count // at_once)
    stride = max(stride_of_sample, chunks, 1)
    index = np.arange(count)
    sample = index[::stride]
    rest = index[index % stride > 0]
    sample_left = leave_out(largest, sample, products)
    largest.visit(sample_left)
    leaves_out = 2 * len(sample_left) < len(sample)
    for start in range(0, len(rest), at_once):
        part = rest[start : start + at_once]
        largest.visit(leave_out(largest, part, products) if leaves_out else part)


def leave_out(
    largest: LargestBound,
    index: np.ndarray,
    products: int,
    few: int = _FEW_FREQUENCIES,
) -> np.ndarray:
    """Leave out frequencies whose norms Gram iteration proves to be no larger. Return the numbers of the others.

    Parameters
    ----------
    products : int
        Most products, that of the polynomial included. The best frequency is visited after the first and the last.
    few : int
        So few frequencies left are not worth another product.
    """
    iteration = largest.iteration(index)
    for product in range(products):
        if product > 0:
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
_MOST_PHASE_WORK = 1e12
"""Multiplications as long as which the phases of a grid may take where there is no deadline."""
_LATE_PART = 0.15
"""Part of all the time that a grid may take although the deadline has passed."""
_RESERVED_PART = 0.7
"""Most of the time that a search reserves for a grid."""
_MATRIX_WORK = 1e5
"""Multiplications as long as which the calls for one small matrix take."""
_ENTRY_WORK = 500
"""Multiplications as long as which the passes over one entry of a kernel take: copies, scales, a digest."""
_PHASE_WORK = 400
"""Multiplications as long as which the cosine and sine of one tap at one frequency take."""


def grid_points(kernel_shape: tuple[int, ...], n: int | None = None) -> tuple[int, ...]:
    """Points an axis of a grid of frequencies: ``10 (k_j - 1)`` unless given; one where there is one tap."""
    return tuple(1 if k == 1 else n or _POINTS_A_STEP * (k - 1) for k in kernel_shape)


def bound_without_search(problem: Problem, *, ops: ArrayOps) -> Upper:
    """The smallest unfolding's bound or, if there is time for it, a grid's if lower; without time, one by Frobenius."""
    blocks = problem.kernel
    if not problem.clock.affords(_unfolding_work(blocks), _LATE_PART):
        return norm_by_frobenius(blocks, ops=ops)
    bounds_of_blocks, _ = smallest(blocks, problem.spec, ops=ops)
    unfolding = largest_of_blocks(bounds_of_blocks, blocks)
    if not _is_worth_a_grid(problem):
        return unfolding
    sizes = grid_points(tuple(blocks.shape[3:]))
    bounds = largest_bounds(grid.symbol_norms_up, blocks, half_grid(sizes), PRODUCTS, ops=ops)
    return least(unfolding, grid.norm_by_grid(bounds, sizes, ops=ops))


def seconds_without_search(problem: Problem) -> float:
    """How long `bound_without_search` takes, roughly: the time that a search has to leave."""
    unfolding_work = _unfolding_work(problem.kernel)
    work_of_both = unfolding_work + _grid_work(problem.kernel)
    fits = work_of_both <= RATE * _RESERVED_PART * problem.clock.seconds
    return (work_of_both if fits else unfolding_work) / RATE


def _is_worth_a_grid(problem: Problem) -> bool:
    """Whether a grid takes no longer than is left; or, without a deadline, than some minutes."""
    if math.isinf(problem.clock.seconds):
        return _phase_work(problem.kernel) <= _MOST_PHASE_WORK
    return problem.clock.affords(_grid_work(problem.kernel), _LATE_PART)


def _grid_size(blocks: Array) -> float:
    """Points of a grid, without mirror images."""
    return math.prod(_POINTS_A_STEP * (k - 1) + 1 for k in blocks.shape[3:]) / 2


def _phase_work(blocks: Array) -> float:
    """Work of the phases of all taps on a grid."""
    return _PHASE_WORK * _grid_size(blocks) * math.prod(blocks.shape[3:])


def _grid_work(blocks: Array) -> float:
    """Multiplications of a grid's bound: symbols, an eigenvalue each, and the phases, for each block once more."""
    g, m, p = blocks.shape[:3]
    eigenvalues = g * (8 * m * p * min(m, p) + _MATRIX_WORK)
    return _grid_size(blocks) * (math.prod(blocks.shape) + eigenvalues) + g * _phase_work(blocks)


def _unfolding_work(blocks: Array) -> float:
    """Multiplications of the proof of one unfolding, three Gram matrices with the search for it, and of the answer."""
    return float(math.prod(blocks.shape)) * (3 * min(blocks.shape[1:3]) + _ENTRY_WORK)
