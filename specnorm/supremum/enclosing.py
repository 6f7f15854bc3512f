"""Enclose the largest norm of a layer's blocks: over the torus or over the points of a grid, as the budget allows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from specnorm.backends import arrays
from specnorm.grid.proof import symbol_norms_up
from specnorm.grid.search import largest_with_frequency
from specnorm.proofs import norms
from specnorm.proofs.bound import Upper, known
from specnorm.proofs.cells import Boxes
from specnorm.proofs.found import Found, Outcome, Witness
from specnorm.proofs.frequencies import Frequencies
from specnorm.running.search import Problem
from specnorm.supremum import tuning
from specnorm.supremum.branch_and_bound import Search
from specnorm.supremum.one_tap import enclose_one_tap
from specnorm.supremum.proof import norm_by_magnitudes, supremum_on_grid
from specnorm.symbols.proofs.polynomial import Polynomial

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.proofs.bound import Uppers
    from specnorm.running.search import Clock
    from specnorm.supremum.proof import Nonnegative

_POINTS_OF_A_CELL = 16
"""Points of a grid for each first cell of the torus, up to which scalar symbols on the grid take less time than a
search of the torus."""


def enclose_single_entries(trimmed: Array, *, ops: ArrayOps) -> Found | None:
    """The norm of a permutation of channels, each shifted and scaled, or 0, without rounding; None for others."""
    bounds = norms.norm_of_single_entries(trimmed, ops=ops)
    if bounds is None:
        return None
    magnitudes = ops.xp.abs(ops.xp.reshape(trimmed, (trimmed.shape[0], -1)))
    block = int(ops.xp.argmax(ops.xp.max(magnitudes, axis=1)))
    # The norm is attained at the frequency 0, as at any other.
    return Found(*bounds, Witness(block, _zero_frequency(trimmed)))


def _zero_frequency(trimmed: Array) -> Frequencies:
    ndim = trimmed.ndim - 3
    return Frequencies(np.zeros((1, ndim), dtype=np.int64), (1,) * ndim)


def enclose_nonnegative(trimmed: Array, rtol: float, *, ops: ArrayOps) -> Found | None:
    """The norm of a kernel without negative entries, such as a point-spread function: that of the sum of its taps.

    None for another kernel, and if the bounds are further apart than rtol.
    """
    xp = ops.xp
    if not trimmed.shape[3:] or not bool(xp.all(trimmed >= 0)):
        return None
    upper = norm_by_magnitudes(trimmed, ops=ops)
    sums = xp.sum(xp.reshape(trimmed, (*trimmed.shape[:3], -1)), axis=-1)
    _, v, values = arrays.top_triple(sums, xp=xp)
    block = int(xp.argmax(values))
    zero = _zero_frequency(trimmed)
    right = v[block : block + 1, :] + 0j
    lower = Polynomial(trimmed, xp=xp).at(zero, ops=ops).norm_down(block, right)
    result = Found(lower, upper, Witness(block, zero))
    return result if result.within(rtol) else None


def enclose_blocks(
    blocks: Array,
    problem: Problem,
    *,
    nonnegative: Nonnegative | None = None,
    ops: ArrayOps,
) -> tuple[Found, bool]:
    """Enclose the largest norm of one layer's blocks to the tolerance, or as closely as the budget allows.

    ``blocks`` is (g, m, p, *kernel_shape). ``nonnegative``: proof that the symbol of the blocks is nowhere negative.
    Returns ``result``: with two finite bounds if the problem has a fallback; ``converged``: whether the bounds are
    within the tolerance.
    """
    trimmed, error = _trimmed(blocks, problem, ops=ops)
    result = _without_search(trimmed, problem, ops=ops)
    if result is None:
        search = Search(trimmed, clock=_clock(trimmed, problem), nonnegative=nonnegative, ops=ops)
        boxes, most_cells = _torus(trimmed, problem)
        if problem.spec.input_shape is None:
            result = search.run(boxes, rtol=problem.rtol, max_cells=most_cells, relaxes=True)
            result = _with_any_bound(search, boxes, most_cells, result, problem)
        else:
            result = _enclose_grid(search, boxes, most_cells, problem)
        if not result.within(problem.rtol):
            is_cut = search.clock.has_cut or search.clock.expired
            problem.clock.has_cut |= is_cut
            result = replace(result, ended=None if is_cut else Outcome.CELLS)
    lower, upper = Polynomial.of_wrapped(result.lower, result.upper, error)
    result = replace(result, lower=lower, upper=upper)
    return result, result.within(problem.rtol)


def _trimmed(blocks: Array, problem: Problem, *, ops: ArrayOps) -> tuple[Array, float]:
    """Kernels without borders of zeros, wrapped onto the points of a size; and `Polynomial.wrapped`'s error."""
    trimmed = arrays.without_zero_borders(blocks, ops=ops)
    if problem.spec.input_shape is None:
        return trimmed, 0.0
    return Polynomial(trimmed, xp=ops.xp).wrapped(problem.spec.grid_sizes(tuple(trimmed.shape[3:])), ops=ops)


def _without_search(trimmed: Array, problem: Problem, *, ops: ArrayOps) -> Found | None:
    """Bounds within the tolerance where no search is needed: also of grids that are little work to visit."""
    known = (
        enclose_single_entries(trimmed, ops=ops)
        or enclose_one_tap(trimmed, problem.rtol, ops=ops)
        or enclose_nonnegative(trimmed, problem.rtol, ops=ops)
    )
    if known is not None or problem.spec.input_shape is None:
        return known
    visited = visited_grid(trimmed, problem, ops=ops)
    return visited if visited is not None and visited.within(problem.rtol) else None


def search_torus(blocks: Array, problem: Problem, *, ops: ArrayOps) -> tuple[Search, Found]:
    """Enclose the supremum of blocks (g, m, p, *kernel_shape), and keep the search for circulants that follow.

    The problem has no ``input_shape``.
    """
    trimmed = arrays.without_zero_borders(blocks, ops=ops)
    search = Search(trimmed, clock=_clock(trimmed, problem), ops=ops)
    exact = enclose_single_entries(trimmed, ops=ops)
    without_search = exact or enclose_one_tap(trimmed, problem.rtol, precise_vectors=False, ops=ops)
    if without_search is not None:
        return search, without_search
    boxes, most_cells = _torus(trimmed, problem)
    result = search.run(boxes, rtol=problem.rtol, max_cells=most_cells, relaxes=True)
    return search, _with_any_bound(search, boxes, most_cells, result, problem)


def _clock(trimmed: Array, problem: Problem) -> Clock:
    """The problem's clock, less the time of its fallback."""
    clock = problem.clock
    return clock if problem.fallback is None else clock.before(problem.fallback.seconds(trimmed, clock))


def _torus(trimmed: Array, problem: Problem) -> tuple[Boxes, int]:
    """Cells of all frequencies, and how many cells of a block a search may visit.

    Where the cells are more than that, making them could take gigabytes: then it is one cell, and none may be visited.
    A search ends with its first lower bound there.
    """
    shape = tuple(trimmed.shape[3:])
    if Boxes.torus_size(shape) > problem.max_cells * trimmed.shape[0]:
        return Boxes.whole(shape), 0
    return Boxes.torus(shape), problem.max_cells


def _enclose_grid(search: Search, boxes: Boxes, most_cells: int, problem: Problem) -> Found:
    """Enclose the largest norm at the DFT frequencies of a circular layer.

    A search of the torus gives the supremum that the grid lemma (`supremum.proof`) needs. If it does not finish
    with a cell for each point, the norm is nearly constant: then every point is visited if the budget allows.

    ``boxes``, ``most_cells``: `_torus`.
    """
    rtol, max_cells = problem.rtol, problem.max_cells
    kernel_shape = tuple(search.blocks.shape[3:])
    sizes = problem.spec.grid_sizes(kernel_shape)
    half_points = math.prod(sizes) // 2 + 1
    # For a tight tolerance, a search of the torus that is as close would cost as much as the grid's.
    torus_rtol = tuning.TORUS_SHARE * max(rtol, tuning.INCUMBENT_RTOL)
    torus_result = search.run(boxes, rtol=torus_rtol, max_cells=min(half_points, most_cells))
    start = search.lower_bound_on_circulant(torus_result, sizes)
    # The comparisons of the start are not cells of a search.
    result = replace(start, cells=0)
    if torus_result.upper is None and half_points <= max_cells:
        result = search.run(
            Boxes.dft(sizes, kernel_shape, by_point=True),
            rtol=rtol,
            supremum=norms.norm_by_frobenius(search.blocks, ops=search.ops),
            start=start,
            max_cells=max_cells,
        )
    grid = Boxes.dft(sizes, kernel_shape)
    if result.upper is None:
        if torus_result.upper is None:
            torus_result = _with_any_bound(search, boxes, most_cells, torus_result, problem)
        supremum = torus_result.upper
        if supremum is None:
            supremum = norms.norm_by_frobenius(search.blocks, ops=search.ops)
        result = search.run(grid, rtol=rtol, supremum=supremum, start=start, max_cells=max_cells)
    uppers = [] if result.upper is None else [result.upper]
    if torus_result.upper is not None:
        uppers.append(supremum_on_grid(torus_result.upper, grid))
    return replace(result, upper=Upper.least(*uppers) if uppers else None, cells=result.cells + torus_result.cells)


def visited_grid(blocks: Array, problem: Problem, *, ops: ArrayOps) -> Found | None:
    """Bounds on the largest norm at the DFT frequencies of a circular layer, by visits of all of them.

    None if a search takes less time.
    """
    sizes = problem.spec.grid_sizes(tuple(blocks.shape[3:]))
    if not _visits_all(blocks, sizes, problem, ops=ops):
        return None
    return replace(_largest_of_all(blocks, sizes, ops=ops), cells=math.prod(sizes) // 2 + 1, levels=1)


def _visits_all(blocks: Array, sizes: tuple[int, ...], problem: Problem, *, ops: ArrayOps) -> bool:
    """Whether to visit every point of a grid takes less time than a search."""
    if not Polynomial(blocks, xp=ops.xp).has_one_column:
        return work_of_visits(blocks, sizes) <= tuning.WORK_OF_VISITS
    half_points = math.prod(sizes) // 2 + 1
    has_few_points = half_points <= _POINTS_OF_A_CELL * Boxes.torus_size(tuple(blocks.shape[3:]))
    return has_few_points and _affords_grid(blocks, sizes, problem, ops=ops)


def work_of_visits(blocks: Array, sizes: tuple[int, ...]) -> float:
    """Work to visit every point of a grid, in multiplications a channel, for symbols that are matrices.

    It is infinite for a grid of one point, which is searched all the same: its norm is found sooner without symbols.
    Callers compare it with constants that were measured in this unit.
    """
    points = math.prod(Frequencies.half_grid_shape(sizes))
    if points == 1:
        return math.inf
    channels = min(blocks.shape[1:3])
    return blocks.shape[0] * points * (channels**3 + tuning.CALLS_OF_A_VISIT) / channels


def _largest_of_all(blocks: Array, sizes: tuple[int, ...], *, ops: ArrayOps) -> Found:
    """Bounds of the largest norm on a grid, of which every point is visited or left out by proof."""
    polynomial = Polynomial(blocks, xp=ops.xp)
    uppers: Uppers | None
    if polynomial.has_one_column:
        values, frequencies, uppers = polynomial.largest_on_grid(sizes, ops=ops)
    else:
        values, frequencies, uppers = largest_with_frequency(symbol_norms_up, blocks, sizes, ops=ops)
    block = int(ops.to_numpy(values).argmax())
    frequency = frequencies[block : block + 1]
    symbol = Polynomial(blocks[block : block + 1, ...], xp=ops.xp).at(frequency, ops=ops)
    left, right, _ = arrays.top_triple(symbol.matrices()[:, 0, ...], xp=ops.xp)
    lower = polynomial.at(frequency, ops=ops).norm_down(block, right)
    return Found(lower, known(uppers).largest(ops=ops), Witness(block, frequency, left, right))


def _affords_grid(blocks: Array, sizes: tuple[int, ...], problem: Problem, *, ops: ArrayOps) -> bool:
    """Whether time and memory suffice for the values of scalar symbols on a whole grid: one product an axis."""
    kernel_shape = tuple(blocks.shape[3:])
    points = Frequencies.half_grid_shape(sizes)
    entries_of_tables = sum(n * k for n, k in zip(points, kernel_shape, strict=True))
    count = blocks.shape[0] * max(blocks.shape[1:3])
    work = 4 * count * max(math.prod(points), math.prod(kernel_shape)) * sum(kernel_shape)
    return 16 * entries_of_tables <= ops.memory and problem.clock.affords(work)


def _with_any_bound(search: Search, boxes: Boxes, most_cells: int, result: Found, problem: Problem) -> Found:
    """The result of a search that did not finish, with an upper bound: a wider one, or the problem's fallback."""
    if result.upper is None and most_cells > 0:
        again = search.run(boxes, rtol=problem.rtol, start=result, max_cells=most_cells, relaxes=True)
        result = replace(again, cells=result.cells + again.cells)
    if result.within(problem.rtol) or problem.fallback is None:
        return result
    upper = problem.fallback.bound(search.blocks, problem.clock, ops=search.ops)
    if result.upper is not None:
        upper = Upper.least(result.upper, upper)
    return replace(result, upper=upper)
