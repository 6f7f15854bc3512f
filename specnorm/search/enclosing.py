"""Which searches enclose the norm of one layer: the torus, the points of a grid, and what the budget allows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from specnorm.certified.bound import least, nothing
from specnorm.certified.matrices.norms import (
    has_single_entries,
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
    from specnorm.clock import Clock
    from specnorm.problem.spec import ConvSpec
    from specnorm.types import ArrayOps

_WIDE = 0.15
"""Relative width from which a bound of fixed cost may be closer than what a search ended with."""
_SUPREMUM = 2e-3
"""Tolerance of the supremum that a search of a grid with 1000 points starts from; less for larger ones."""


def enclose_zero(support: Array, *, ops: ArrayOps) -> SearchResult | None:
    """The norm of a zero kernel; None of another one."""
    if float(ops.xp.max(ops.xp.abs(support))) > 0:
        return None
    ndim = support.ndim - 3
    nowhere = Frequencies(np.zeros((1, ndim), dtype=np.int64), (1,) * ndim)
    return SearchResult(nothing(), norm_of_zero(support, ops=ops), nowhere, 0, 0, 0)


def enclose_single_entries(support: Array, *, ops: ArrayOps) -> SearchResult | None:
    """The norm of a permutation of channels, each shifted and scaled, without rounding; None of another kernel."""
    if not has_single_entries(support, ops=ops):
        return None
    lower, upper = norm_of_single_entries(support, ops=ops)
    ndim = support.ndim - 3
    nowhere = Frequencies(np.zeros((1, ndim), dtype=np.int64), (1,) * ndim)
    return SearchResult(lower, upper, nowhere, 0, 0, 0)


def enclose_blocks(problem: Problem, *, ops: ArrayOps) -> tuple[SearchResult, bool]:
    """Enclose the largest norm of one layer's blocks to the tolerance, or as well as the budget allows.

    Returns
    -------
    found : SearchResult
        Both bounds finite.
    converged : bool
    """
    rtol, support = problem.rtol, polyphase.support(problem.kernel, ops=ops)
    constant = enclose_zero(support, ops=ops) or enclose_constant(support, rtol, ops=ops)
    if constant is not None:
        return constant, True
    search = Search(support, clock=_clock(problem), nonnegative=problem.nonnegative, ops=ops)
    cover = _cover(support, problem)
    if problem.spec.input_shape is not None:
        found = _at_points(search, cover, problem)
    else:
        found = _enclose_torus(search, cover, problem)
    return found, found.within(rtol)


def search_torus(problem: Problem, *, ops: ArrayOps) -> tuple[Search, SearchResult]:
    """Enclose the supremum over all sizes, and keep the search for circulants that follow.

    Parameters
    ----------
    problem : Problem
        Of blocks, without ``input_shape``.
    """
    support = polyphase.support(problem.kernel, ops=ops)
    search = Search(support, clock=_clock(problem), ops=ops)
    constant = enclose_zero(support, ops=ops) or enclose_constant(support, problem.rtol, close=False, ops=ops)
    if constant is not None:
        return search, constant
    return search, _enclose_torus(search, _cover(support, problem), problem)


def _clock(problem: Problem) -> Clock:
    """The problem's, but for the time that a bound takes where the search does not come to its end."""
    return problem.clock.before(seconds_without_search(problem))


def _cover(support: Array, problem: Problem) -> Boxes | None:
    """All frequencies; None where those are more cells than a search may visit, and take gigabytes."""
    shape = tuple(support.shape[3:])
    return torus(shape) if torus_size(shape) <= problem.max_cells * support.shape[0] else None


def _enclose_torus(search: Search, cover: Boxes | None, problem: Problem) -> SearchResult:
    found = _search_torus(search, cover, problem, relaxes=True)
    return found if found.within(problem.rtol) else _widened(search, cover, found, problem)


def _search_torus(search: Search, cover: Boxes | None, problem: Problem, *, relaxes: bool) -> SearchResult:
    most = problem.max_cells
    if cover is None:
        # One cell is too many for a search that may visit none: what is known from below, and nothing from above.
        cover, most = one_box(tuple(search.blocks.shape[3:])), 0
    return search.run(cover, rtol=problem.rtol, max_cells=most, relaxes=relaxes)


def _at_points(search: Search, cover: Boxes | None, problem: Problem) -> SearchResult:
    """Enclose the largest norm at the DFT frequencies of a circular layer.

    The torus gives the S of the grid's lemma: close, so that few grid points are left, but no closer. Where that takes
    many cells the norm is nearly constant, and every point is visited.
    """
    kernel_shape = tuple(search.blocks.shape[3:])
    sizes = grid_sizes(problem.spec, kernel_shape)
    count, rtol, most_cells = math.prod(sizes) // 2 + 1, problem.rtol, problem.max_cells
    loose = 0.97 * rtol if rtol >= 1e-3 else _SUPREMUM * min(1.0, (1000 / math.prod(sizes)) ** 0.3)
    # What the torus leaves of the points is little for a loose tolerance, and costs as much again for a tight one.
    cells = 0 if cover is None else len(cover)
    most = min(most_cells, count if rtol >= 1e-3 else max(count // 3, cells))
    whole = _search_torus(search, cover, replace(problem, rtol=loose, max_cells=most), relaxes=False)
    start = search.at_nearest(whole, sizes)
    found, grid = replace(start, cells=0), dft(sizes, kernel_shape)
    if whole.upper is None and count <= most_cells:
        points, supremum = dft_points(sizes, kernel_shape), norm_by_frobenius(search.blocks, ops=search.ops)
        found = search.run(points, rtol=rtol, supremum=supremum, start=start, max_cells=most_cells)
    if found.upper is None:
        if whole.upper is None:
            whole = _widened(search, cover, whole, problem)
        found = search.run(grid, rtol=rtol, supremum=whole.upper, start=start, max_cells=most_cells)
    known = [found.upper] if found.upper else []
    if whole.upper is not None:
        known.append(on_grid(whole.upper, grid))
    return replace(found, upper=least(*known), cells=found.cells + whole.cells)


def grid_sizes(spec: ConvSpec, kernel_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Sizes of the DFT grid of a circular layer; axes with one tap need one frequency."""
    return tuple(1 if k == 1 else n for n, k in zip(spec.grid_shape, kernel_shape, strict=True))


def _widened(search: Search, cover: Boxes | None, found: SearchResult, problem: Problem) -> SearchResult:
    """Prove what the budget allows where a search had no end: wider bounds, or one of fixed cost."""
    if found.upper is None and cover is not None:
        again = search.run(cover, rtol=problem.rtol, start=found, max_cells=problem.max_cells, relaxes=True)
        found = replace(again, cells=found.cells + again.cells)
    if found.within(_WIDE):
        return found
    other = bound_without_search(problem, ops=search.ops)
    return replace(found, upper=other if found.upper is None else least(found.upper, other))
