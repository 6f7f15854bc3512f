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
from specnorm.proofs.bound import Upper
from specnorm.proofs.cells import Boxes
from specnorm.proofs.found import Found, Witness
from specnorm.proofs.frequencies import Frequencies
from specnorm.running.search import Problem
from specnorm.supremum import tuning
from specnorm.supremum.branch_and_bound import Search
from specnorm.supremum.one_tap import enclose_one_tap
from specnorm.supremum.proof import norm_by_magnitudes, supremum_on_grid
from specnorm.symbols.proofs import padding
from specnorm.symbols.proofs.polynomial import Polynomial

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.running.search import Clock
    from specnorm.supremum.proof import Nonnegative

_AXES_OF_CHANNELS = 3
"""Axes of blocks without spatial ones."""
_WIDE = 0.15
"""Relative width from which a bound of fixed cost may be closer than the result of an unfinished search."""
_SUPREMUM_RTOL = 2e-3
"""Tolerance of the supremum from which a search of a grid with 1000 points starts."""
_SUPREMUM_DECAY = 0.3
"""Power of the number of grid points with which that tolerance falls."""
_LOOSE_RTOL = 1e-3
"""Tolerance from which the supremum is searched nearly as closely as the grid: then few points are left to visit."""
_LOOSE_SHARE = 0.97
"""Part of such a tolerance that the supremum gets."""
_POINTS_OF_A_CELL = 16
"""Points of a grid for each first cell of the torus, up to which scalar symbols on the grid take less time than a
search of the torus."""


def enclose_zero(trimmed: Array, *, ops: ArrayOps) -> Found | None:
    """The norm of a zero kernel; None for another kernel."""
    if float(ops.xp.max(ops.xp.abs(trimmed))) > 0:
        return None
    return enclose_single_entries(trimmed, ops=ops)


def enclose_single_entries(trimmed: Array, *, ops: ArrayOps) -> Found | None:
    """The norm of a permutation of channels, each shifted and scaled, without rounding; None for another kernel."""
    bounds = norms.norm_of_single_entries(trimmed, ops=ops)
    if bounds is None:
        return None
    # The norm is attained at the frequency 0, as at any other.
    return Found(*bounds, Witness(0, _zero_frequency(trimmed)))


def _zero_frequency(trimmed: Array) -> Frequencies:
    ndim = trimmed.ndim - 3
    return Frequencies(np.zeros((1, ndim), dtype=np.int64), (1,) * ndim)


def enclose_nonnegative(trimmed: Array, rtol: float, *, ops: ArrayOps) -> Found | None:
    """The norm of a kernel without negative entries, such as a point-spread function: that of the sum of its taps.

    None for another kernel, and if the bounds are further apart than rtol.
    """
    xp = ops.xp
    if trimmed.ndim == _AXES_OF_CHANNELS or not bool(xp.all(trimmed >= 0)):
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
    trimmed = arrays.without_zero_borders(blocks, ops=ops)
    if problem.spec.input_shape is not None:
        return _enclose_circular(trimmed, problem, nonnegative, ops=ops)
    return _enclose_trimmed(trimmed, problem, nonnegative, ops=ops)


def _enclose_circular(
    trimmed: Array,
    problem: Problem,
    nonnegative: Nonnegative | None,
    *,
    ops: ArrayOps,
) -> tuple[Found, bool]:
    """`enclose_blocks` at a size, onto whose points longer kernels are wrapped."""
    sizes = problem.spec.grid_sizes(tuple(trimmed.shape[3:]))
    blocks, error = Polynomial(trimmed, xp=ops.xp).wrapped(sizes, ops=ops)
    result, converged = _enclose_trimmed(blocks, problem, nonnegative, ops=ops)
    lower, upper = Polynomial.of_wrapped(result.lower, result.upper, error)
    result = replace(result, lower=lower, upper=upper)
    return result, converged and (not error or result.within(problem.rtol))


def _enclose_trimmed(
    trimmed: Array,
    problem: Problem,
    nonnegative: Nonnegative | None,
    *,
    ops: ArrayOps,
) -> tuple[Found, bool]:
    """`enclose_blocks` of kernels without borders of zeros.

    Where it is little work to visit every point of a grid, no search is begun.
    """
    without_search = (
        enclose_zero(trimmed, ops=ops)
        or enclose_one_tap(trimmed, problem.rtol, ops=ops)
        or enclose_nonnegative(trimmed, problem.rtol, ops=ops)
    )
    if without_search is not None:
        return without_search, True
    is_at_size = problem.spec.input_shape is not None
    visited = visited_grid(trimmed, problem, ops=ops) if is_at_size else None
    if visited is not None and visited.within(problem.rtol):
        return visited, True
    search = Search(trimmed, clock=_clock(trimmed, problem), nonnegative=nonnegative, ops=ops)
    boxes = _boxes(trimmed, problem)
    if is_at_size:
        result = _enclose_grid(search, boxes, problem)
    else:
        result = _supremum(search, boxes, problem)
    is_close = result.within(problem.rtol)
    problem.clock.has_cut |= not is_close and (search.clock.has_cut or search.clock.expired)
    return result, is_close


def search_torus(blocks: Array, problem: Problem, *, ops: ArrayOps) -> tuple[Search, Found]:
    """Enclose the supremum of blocks (g, m, p, *kernel_shape), and keep the search for circulants that follow.

    The problem has no ``input_shape``.
    """
    trimmed = arrays.without_zero_borders(blocks, ops=ops)
    search = Search(trimmed, clock=_clock(trimmed, problem), ops=ops)
    zero = enclose_zero(trimmed, ops=ops)
    without_search = zero or enclose_one_tap(trimmed, problem.rtol, precise_vectors=False, ops=ops)
    if without_search is not None:
        return search, without_search
    return search, _supremum(search, _boxes(trimmed, problem), problem)


def _clock(trimmed: Array, problem: Problem) -> Clock:
    """The problem's clock, less the time of its fallback."""
    clock = problem.clock
    return clock if problem.fallback is None else clock.before(problem.fallback.seconds(trimmed, clock))


def _boxes(trimmed: Array, problem: Problem) -> Boxes | None:
    """Cells of all frequencies; None if they are more than a search may visit: making them could take gigabytes."""
    shape = tuple(trimmed.shape[3:])
    return Boxes.torus(shape) if Boxes.torus_size(shape) <= problem.max_cells * trimmed.shape[0] else None


def _supremum(search: Search, boxes: Boxes | None, problem: Problem) -> Found:
    """Enclose the supremum over all frequencies, if need be by wider bounds than the problem asks for."""
    result = _run_on_torus(search, boxes, problem, relaxes=True)
    return result if result.within(problem.rtol) else _with_any_bound(search, boxes, result, problem)


def _run_on_torus(
    search: Search,
    boxes: Boxes | None,
    problem: Problem,
    *,
    relaxes: bool,
) -> Found:
    """Search the cells of the torus once; without cells, bound the supremum from below alone."""
    if boxes is None:
        # A search that may visit no cell ends with its first lower bound.
        return search.run(Boxes.whole(tuple(search.blocks.shape[3:])), rtol=problem.rtol, max_cells=0, relaxes=relaxes)
    return search.run(boxes, rtol=problem.rtol, max_cells=problem.max_cells, relaxes=relaxes)


def _enclose_grid(search: Search, boxes: Boxes | None, problem: Problem) -> Found:
    """Enclose the largest norm at the DFT frequencies of a circular layer.

    A search of the torus gives the supremum that the grid lemma (`supremum.proof`) needs. If it does not finish
    within the cells of `_torus_problem`, the norm is nearly constant: then every point is visited if the budget allows.
    """
    rtol, max_cells = problem.rtol, problem.max_cells
    kernel_shape = tuple(search.blocks.shape[3:])
    sizes = problem.spec.grid_sizes(kernel_shape)
    half_points = math.prod(sizes) // 2 + 1
    torus_problem = _torus_problem(problem, math.prod(sizes), half_points, boxes)
    torus_result = _run_on_torus(search, boxes, torus_problem, relaxes=False)
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
            torus_result = _with_any_bound(search, boxes, torus_result, problem)
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
    count = blocks.shape[0]
    polynomial = Polynomial(blocks, xp=ops.xp)
    if polynomial.has_one_column:
        values, frequencies, claims = polynomial.largest_on_grid(sizes, together=count, ops=ops)
        (upper,) = claims()
    else:
        values, frequencies, claims = largest_with_frequency(symbol_norms_up, blocks, sizes, ops=ops)
        upper = padding.largest_of_blocks(claims(), count)
    block = int(ops.to_numpy(values).argmax())
    frequency = frequencies[block : block + 1]
    symbol = Polynomial(blocks[block : block + 1, ...], xp=ops.xp).at(frequency, ops=ops)
    left, right, _ = arrays.top_triple(symbol.matrices()[:, 0, ...], xp=ops.xp)
    lower = polynomial.at(frequency, ops=ops).norm_down(block, right)
    return Found(lower, upper, Witness(block, frequency, left, right))


def _affords_grid(blocks: Array, sizes: tuple[int, ...], problem: Problem, *, ops: ArrayOps) -> bool:
    """Whether time and memory suffice for the values of scalar symbols on a whole grid: one product an axis."""
    kernel_shape = tuple(blocks.shape[3:])
    points = Frequencies.half_grid_shape(sizes)
    entries_of_tables = sum(n * k for n, k in zip(points, kernel_shape, strict=True))
    count = blocks.shape[0] * max(blocks.shape[1:3])
    work = 4 * count * max(math.prod(points), math.prod(kernel_shape)) * sum(kernel_shape)
    return 16 * entries_of_tables <= ops.memory and problem.clock.affords(work)


def _torus_problem(
    problem: Problem,
    all_points: int,
    half_points: int,
    boxes: Boxes | None,
) -> Problem:
    """The problem of the supremum before a search of a grid: its tolerance and its cells.

    ``all_points``, ``half_points``: points of the grid, with and without mirror images.
    """
    if problem.rtol >= _LOOSE_RTOL:
        rtol = _LOOSE_SHARE * problem.rtol
        most_cells = half_points
    else:
        # For a tight tolerance, a search of the torus that is as close costs as much as the grid's: search it loosely,
        # for at most a third of what it takes to visit every point.
        rtol = _SUPREMUM_RTOL * min(1.0, (1000 / all_points) ** _SUPREMUM_DECAY)
        first_cells = 0 if boxes is None else len(boxes)
        most_cells = max(half_points // 3, first_cells)
    return replace(problem, rtol=rtol, max_cells=min(problem.max_cells, most_cells))


def _with_any_bound(
    search: Search,
    boxes: Boxes | None,
    result: Found,
    problem: Problem,
) -> Found:
    """The result of a search that did not finish, with an upper bound: a wider one, or the problem's fallback."""
    if result.upper is None and boxes is not None:
        again = search.run(boxes, rtol=problem.rtol, start=result, max_cells=problem.max_cells, relaxes=True)
        result = replace(again, cells=result.cells + again.cells)
    if result.within(_WIDE) or problem.fallback is None:
        return result
    upper = problem.fallback.bound(search.blocks, problem.clock, ops=search.ops)
    if result.upper is not None:
        upper = Upper.least(result.upper, upper)
    return replace(result, upper=upper)
