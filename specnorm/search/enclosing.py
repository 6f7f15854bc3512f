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
from specnorm.certified.symbol.cover import on_grid
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
"""Tolerance of the supremum that a search of a grid with 1000 points starts from; less for larger ones."""


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
    cover = _cover(support, problem)
    if problem.spec.input_shape is not None:
        result = _enclose_grid(search, cover, problem)
    else:
        result = _enclose_torus(search, cover, problem)
    return result, result.within(problem.rtol)


def search_torus(problem: Problem, *, ops: ArrayOps) -> tuple[Search, SearchResult]:
    """Enclose the supremum over all sizes, and keep the search for circulants that follow.

    Parameters
    ----------
    problem : Problem
        Of blocks, without ``input_shape``.
    """
    support = polyphase.support(problem.kernel, ops=ops)
    search = Search(support, clock=_clock(problem), ops=ops)
    constant = enclose_zero(support, ops=ops) or enclose_constant(support, problem.rtol, precise_vectors=False, ops=ops)
    if constant is not None:
        return search, constant
    return search, _enclose_torus(search, _cover(support, problem), problem)


def _clock(problem: Problem) -> Clock:
    """The problem's clock, less the time of the bound that is computed where the search does not come to its end."""
    return problem.clock.before(seconds_without_search(problem))


def _cover(support: Array, problem: Problem) -> Boxes | None:
    """Cells of all frequencies; None where they are more than a search may visit, and take gigabytes."""
    shape = tuple(support.shape[3:])
    return torus(shape) if torus_size(shape) <= problem.max_cells * support.shape[0] else None


def _enclose_torus(search: Search, cover: Boxes | None, problem: Problem) -> SearchResult:
    """Enclose the supremum over all frequencies."""
    result = _search_torus(search, cover, problem, relaxes=True)
    return result if result.within(problem.rtol) else _widened(search, cover, result, problem)


def _search_torus(
    search: Search,
    cover: Boxes | None,
    problem: Problem,
    *,
    relaxes: bool,
) -> SearchResult:
    """Search a cover of the torus; without one, bound the supremum from below alone."""
    if cover is None:
        # One cell is too many for a search that may visit none.
        cover, max_cells = one_box(tuple(search.blocks.shape[3:])), 0
    else:
        max_cells = problem.max_cells
    return search.run(cover, rtol=problem.rtol, max_cells=max_cells, relaxes=relaxes)


def _enclose_grid(search: Search, cover: Boxes | None, problem: Problem) -> SearchResult:
    """Enclose the largest norm at the DFT frequencies of a circular layer.

    The torus gives the S of the grid lemma: close, so that few grid points are left, but no closer. Where that takes
    many cells the norm is nearly constant, and every point is visited.
    """
    rtol, max_cells = problem.rtol, problem.max_cells
    kernel_shape = tuple(search.blocks.shape[3:])
    sizes = grid_sizes(problem.spec, kernel_shape)
    point_count = math.prod(sizes) // 2 + 1
    torus_problem = _torus_problem(problem, math.prod(sizes), point_count, cover)
    whole = _search_torus(search, cover, torus_problem, relaxes=False)
    start = search.at_nearest(whole, sizes)
    result = replace(start, cells=0)
    if whole.upper is None and point_count <= max_cells:
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
            whole = _widened(search, cover, whole, problem)
        result = search.run(grid, rtol=rtol, supremum=whole.upper, start=start, max_cells=max_cells)
    uppers = [result.upper] if result.upper else []
    if whole.upper is not None:
        uppers.append(on_grid(whole.upper, grid))
    return replace(result, upper=least(*uppers), cells=result.cells + whole.cells)


def _torus_problem(
    problem: Problem,
    grid_points: int,
    point_count: int,
    cover: Boxes | None,
) -> Problem:
    """The problem of the supremum before a search of a grid: its tolerance and its cells.

    Parameters
    ----------
    grid_points, point_count : int
        Points of the grid, with and without mirror images.
    """
    if problem.rtol >= 1e-3:
        rtol = 0.97 * problem.rtol
        most_cells = point_count
    else:
        # A search of the torus leaves few of the points for a loose tolerance, and costs as much again for a tight one.
        rtol = _SUPREMUM_RTOL * min(1.0, (1000 / grid_points) ** 0.3)
        cells = 0 if cover is None else len(cover)
        most_cells = max(point_count // 3, cells)
    return replace(problem, rtol=rtol, max_cells=min(problem.max_cells, most_cells))


def grid_sizes(spec: ConvSpec, kernel_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Sizes of the DFT grid of a circular layer; axes with one tap need one frequency."""
    return tuple(1 if k == 1 else n for n, k in zip(spec.grid_shape, kernel_shape, strict=True))


def _widened(
    search: Search,
    cover: Boxes | None,
    result: SearchResult,
    problem: Problem,
) -> SearchResult:
    """Prove what the budget allows where a search had no end: wider bounds, or one of fixed cost."""
    if result.upper is None and cover is not None:
        again = search.run(cover, rtol=problem.rtol, start=result, max_cells=problem.max_cells, relaxes=True)
        result = replace(again, cells=result.cells + again.cells)
    if result.within(_WIDE):
        return result
    upper = bound_without_search(problem, ops=search.ops)
    if result.upper is not None:
        upper = least(result.upper, upper)
    return replace(result, upper=upper)
