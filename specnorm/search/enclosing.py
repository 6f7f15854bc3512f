"""Enclose the largest norm of a layer's blocks: over the torus or over the points of a grid, as the budget allows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from specnorm.certified.bound import least, trivial_lower
from specnorm.certified.matrices.norms import (
    has_one_entry_per_row_and_column,
    norm_by_frobenius,
    norm_of_single_entries,
    norm_of_zero,
)
from specnorm.certified.symbol.cells import Boxes, dft, dft_points, one_box, torus, torus_size
from specnorm.certified.symbol.cover import supremum_on_grid
from specnorm.problem import polyphase
from specnorm.problem.frequencies import Frequencies
from specnorm.search.branch_and_bound import Search
from specnorm.search.constant import enclose_constant
from specnorm.search.pruned import bound_without_search, seconds_without_search
from specnorm.search.result import Problem, SearchResult

if TYPE_CHECKING:
    from specnorm.array_types import Array
    from specnorm.certified.bound import Lower, Upper
    from specnorm.clock import Clock
    from specnorm.problem.spec import ConvSpec
    from specnorm.types import ArrayOps

_WIDE = 0.15
"""Relative width from which a bound of fixed cost may be closer than the result of an unfinished search."""
_SUPREMUM_RTOL = 2e-3
"""Tolerance of the supremum that a search of a grid with up to 1000 points starts from; smaller for larger grids."""
_SHARE_FOR_SUPREMUM = 0.97
"""Part of a loose tolerance to which the supremum is searched before a grid."""


def enclose_zero(support: Array, *, ops: ArrayOps) -> SearchResult | None:
    """The norm of a zero kernel; None for another kernel."""
    if float(ops.xp.max(ops.xp.abs(support))) > 0:
        return None
    return _without_search(trivial_lower(), norm_of_zero(support, ops=ops), support)


def enclose_single_entries(support: Array, *, ops: ArrayOps) -> SearchResult | None:
    """The norm of a permutation of channels, each shifted and scaled, without rounding; None for another kernel."""
    if not has_one_entry_per_row_and_column(support, ops=ops):
        return None
    lower, upper = norm_of_single_entries(support, ops=ops)
    return _without_search(lower, upper, support)


def _without_search(lower: Lower, upper: Upper, support: Array) -> SearchResult:
    """Bounds of a norm that is attained at the frequency 0, as at any other."""
    ndim = support.ndim - 3
    zero = Frequencies(np.zeros((1, ndim), dtype=np.int64), (1,) * ndim)
    return SearchResult(lower, upper, frequency=zero, block=0, cells=0, levels=0)


def enclose_blocks(problem: Problem, *, ops: ArrayOps) -> tuple[SearchResult, bool]:
    """Enclose the largest norm of one layer's blocks to the tolerance, or as well as the budget allows.

    Returns
    -------
    result : SearchResult
        Both bounds finite.
    converged : bool
        Whether they are within the tolerance.
    """
    support = polyphase.support(problem.kernel, ops=ops)
    constant = enclose_zero(support, ops=ops) or enclose_constant(support, problem.rtol, ops=ops)
    if constant is not None:
        return constant, True
    search = Search(support, clock=_clock(problem), nonnegative=problem.nonnegative, ops=ops)
    boxes = _torus_boxes(support, problem)
    if problem.spec.input_shape is not None:
        result = _enclose_grid(search, boxes, problem)
    else:
        result = _enclose_supremum(search, boxes, problem)
    return result, result.within(problem.rtol)


def search_torus(problem: Problem, *, ops: ArrayOps) -> tuple[Search, SearchResult]:
    """Enclose the supremum over all sizes, and keep the search for circulants that follow.

    Parameters
    ----------
    problem : Problem
        A problem of blocks, without ``input_shape``.
    """
    support = polyphase.support(problem.kernel, ops=ops)
    search = Search(support, clock=_clock(problem), ops=ops)
    constant = enclose_zero(support, ops=ops) or enclose_constant(support, problem.rtol, precise_vectors=False, ops=ops)
    if constant is not None:
        return search, constant
    return search, _enclose_supremum(search, _torus_boxes(support, problem), problem)


def _clock(problem: Problem) -> Clock:
    """The problem's clock, less the time of the bound that is computed where the search does not come to its end."""
    return problem.clock.before(seconds_without_search(problem))


def _torus_boxes(support: Array, problem: Problem) -> Boxes | None:
    """Boxes of all frequencies. None if they are more than a search may visit: making them would take gigabytes."""
    shape = tuple(support.shape[3:])
    return torus(shape) if torus_size(shape) <= problem.max_cells * support.shape[0] else None


def _enclose_supremum(search: Search, boxes: Boxes | None, problem: Problem) -> SearchResult:
    """Enclose the supremum over all frequencies, by a search or, if that does not come close, by any other bound."""
    result = _run_on_torus(search, boxes, problem, relaxes=True)
    return result if result.within(problem.rtol) else _with_any_bound(search, boxes, result, problem)


def _run_on_torus(
    search: Search,
    boxes: Boxes | None,
    problem: Problem,
    *,
    relaxes: bool,
) -> SearchResult:
    """Search the boxes of the torus; without boxes, bound the supremum from below alone."""
    if boxes is None:
        # One cell is too many for a search that may visit none.
        boxes = one_box(tuple(search.blocks.shape[3:]))
        max_cells = 0
    else:
        max_cells = problem.max_cells
    return search.run(boxes, rtol=problem.rtol, max_cells=max_cells, relaxes=relaxes)


def _enclose_grid(search: Search, boxes: Boxes | None, problem: Problem) -> SearchResult:
    """Enclose the largest norm at the DFT frequencies of a circular layer.

    A search of the torus gives the supremum that the grid lemma (`certified.symbol.cover`) needs. If it does not end
    within its cells, the norm is nearly constant: then every grid point is visited.
    """
    rtol, max_cells = problem.rtol, problem.max_cells
    kernel_shape = tuple(search.blocks.shape[3:])
    sizes = grid_sizes(problem.spec, kernel_shape)
    all_points = math.prod(sizes)
    half_points = all_points // 2 + 1
    torus_problem = _torus_problem(problem, all_points, half_points, boxes)
    whole = _run_on_torus(search, boxes, torus_problem, relaxes=False)
    start = search.at_nearest(whole, sizes)
    # The frequencies that were compared are no cells of a search.
    result = replace(start, cells=0)
    if whole.upper is None and half_points <= max_cells:
        result = search.run(
            dft_points(sizes, kernel_shape),
            rtol=rtol,
            supremum=norm_by_frobenius(search.blocks, ops=search.ops),
            start=start,
            max_cells=max_cells,
        )
    grid = dft(sizes, kernel_shape)
    if result.upper is None:
        if whole.upper is None:
            whole = _with_any_bound(search, boxes, whole, problem)
        result = search.run(grid, rtol=rtol, supremum=whole.upper, start=start, max_cells=max_cells)
    uppers = [result.upper] if result.upper else []
    if whole.upper is not None:
        uppers.append(supremum_on_grid(whole.upper, grid))
    return replace(result, upper=least(*uppers), cells=result.cells + whole.cells)


def _torus_problem(
    problem: Problem,
    all_points: int,
    half_points: int,
    boxes: Boxes | None,
) -> Problem:
    """The problem of the supremum before a search of a grid: its tolerance and its cells.

    Parameters
    ----------
    all_points, half_points : int
        Numbers of points of the grid, with and without mirror images.
    """
    if problem.rtol >= 1e-3:
        rtol = _SHARE_FOR_SUPREMUM * problem.rtol
        most_cells = half_points
    else:
        # For a tight tolerance the torus is searched loosely: that leaves few points of the grid, while a search to the
        # tolerance would cost as much as that of the grid.
        rtol = _SUPREMUM_RTOL * min(1.0, (1000 / all_points) ** 0.3)
        cells = 0 if boxes is None else len(boxes)
        most_cells = max(half_points // 3, cells)
    return replace(problem, rtol=rtol, max_cells=min(problem.max_cells, most_cells))


def grid_sizes(spec: ConvSpec, kernel_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Sizes of the DFT grid of a circular layer; axes with one tap need one frequency."""
    return tuple(1 if k == 1 else n for n, k in zip(spec.grid_shape, kernel_shape, strict=True))


def _with_any_bound(
    search: Search,
    boxes: Boxes | None,
    result: SearchResult,
    problem: Problem,
) -> SearchResult:
    """Prove what the budget allows where a search did not end: a wider bound, or one of fixed cost."""
    if result.upper is None and boxes is not None:
        again = search.run(boxes, rtol=problem.rtol, start=result, max_cells=problem.max_cells, relaxes=True)
        result = replace(again, cells=result.cells + again.cells)
    if result.within(_WIDE):
        return result
    upper = bound_without_search(problem, ops=search.ops)
    if result.upper is not None:
        upper = least(result.upper, upper)
    return replace(result, upper=upper)
