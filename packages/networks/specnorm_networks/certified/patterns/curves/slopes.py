"""Prove the slopes of a program: on the whole line, and on intervals.

Between two numbers the line is divided into cells, on which intervals bound the slopes; beyond them one evaluation for
all large numbers does (`values`). A continuous function that is made of finitely many branches with bounded derivatives
is absolutely continuous, so that a bound of its derivative almost everywhere is a Lipschitz constant. Where operators
jump, the function is proven to be continuous: at the threshold, which has to be an end of cells, all branches have to
have one and the same value, computed without rounding.

Proofs are kept for later calls, since a network has the same activation many times.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction

import numpy as np

from specnorm.proof import Interval, anything, arithmetic, enclosing, host, point
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.patterns.curves.programs import Curve, Evaluation
from specnorm_networks.certified.patterns.curves.values import Mask, Quantity

MOST_FUNCTIONS = 512
"""Largest number of functions of one program: channels may have constants of their own."""
STARTS = (2.0**4, 2.0**6, 2.0**10, 2.0**16, 2.0**24, 2.0**40)
"""Numbers from which on all large numbers may be taken together."""
RTOL = 2.0**-23
"""Relative distance from an attained slope at which the search for the largest slope stops."""
HOPELESS_WIDTH = 2.0**-30
"""Width of a cell, relative to its argument, at which the search gives up if the cell's slopes have no bound."""
PARTS_OF_CELL = 4
"""Number of parts of a cell that is divided."""
MOST_ROUNDS = 40
"""Largest number of rounds in which cells are divided."""
MOST_CELLS = 2**16
"""Largest number of cells of all rounds and functions together, if each function has `LEAST_CELLS`."""
LEAST_CELLS = 2**10
"""Number of cells of all rounds that each function may have."""
PARTS_OF_RANGE = 256
"""Largest number of parts of an interval in a network, each of which is bounded by itself."""
MOST_PARTS = 2**18
"""Largest number of parts of all intervals together."""
UNBOUNDED = "its slope has no bound that is known here"


def constant_of(curve: Curve, slope: Interval) -> float:
    """Return the Lipschitz constant, rounded up, from intervals of `Evaluation.slope`; infinity if one is infinite."""
    largest = float(np.max(slope.magnitude(), initial=0.0))
    is_slope = len(curve.measured) == 1 or not math.isfinite(largest)
    return largest if is_slope else host.root_up(Fraction(largest))


def _upper_bounds(slope: Interval) -> FloatArray:
    """Return upper bounds of slopes and of their negatives, shape (2, ...)."""
    return np.stack([slope.high, -slope.low])


# -- on the whole line -------------------------------------------------------------------------------------------------
@functools.lru_cache(512)
@arithmetic.on_host()
def prove(curve: Curve) -> Interval | str:
    """Return the slope of each function of a program on the whole line, or the reason why there is no proof."""
    count = math.prod(curve.shape)
    if not 0 < count <= MOST_FUNCTIONS:
        return f"its constants make {count} different functions of it"
    least = _bounds_beyond(curve, STARTS[-1]).max()
    if not math.isfinite(least):
        return "its slope has no bound for large values that is known here"
    # The first start beyond which slopes are as small as beyond any, or as somewhere before.
    edges = _edges(curve, STARTS[-1])
    somewhere = _on_cells(curve, edges, edges).slope(()).mignitude().max()
    for start in STARTS:
        beyond = _bounds_beyond(curve, start)
        if beyond.max() <= max(least, somewhere) * (1 + 4 * RTOL):
            break
    upper = _search(curve, start, beyond)
    return upper if isinstance(upper, str) else enclosing((-upper[1], upper[0]))


def _bounds_beyond(curve: Curve, start: float) -> FloatArray:
    """Return `_upper_bounds` where the argument's absolute value is at least a number."""
    arguments = [Quantity(point(np.full(curve.shape, end)), 1) for end in (-start, start)]
    below, above = (_upper_bounds(Evaluation(curve, x).slope(curve.shape)) for x in arguments)
    return np.maximum(below, above)


def _search(curve: Curve, end: float, upper: FloatArray) -> FloatArray | str:
    """Return upper bounds on the whole line, or the reason why there are none: cells are divided in rounds.

    Cells are divided that may contain the largest or the smallest slope of a function.

    Parameters
    ----------
    end : float
        Cells are between ``-end`` and ``end``.
    upper : array
        `_upper_bounds` beyond.
    """
    attained = np.full(upper.shape, -math.inf)
    """What is attained in some cell: the search may stop near it. It proves nothing."""
    edges = _edges(curve, end)
    low, high = edges[:-1], edges[1:]
    cells_left = max(MOST_CELLS // math.prod(curve.shape), LEAST_CELLS)
    for _ in range(MOST_ROUNDS):
        cells = _on_cells(curve, low, high)
        may_jump = _may_jump(cells)
        if may_jump.any():
            return f"it may jump where its argument is near {low[may_jump][0]:.6g}"
        slope = cells.slope((len(low), *curve.shape))
        upper_of_cells = _upper_bounds(slope)
        is_bounded = np.asarray(np.isfinite(upper_of_cells).all(axis=0))
        least = np.where(is_bounded, np.stack([slope.low, -slope.high]), -math.inf)
        attained = np.maximum(attained, least.max(axis=1))
        is_unbounded = _of_any_function(~is_bounded)
        is_hopeless = is_unbounded & (high - low <= HOPELESS_WIDTH * np.maximum(1.0, abs(low)))
        if is_hopeless.any():
            return f"{UNBOUNDED} where its argument is near {low[is_hopeless][0]:.6g}"
        # Bounds beyond what is attained or proven elsewhere may be those of a larger slope.
        best = np.maximum(attained, upper)
        enough = best + RTOL * best.max(axis=0)
        may_be_larger = _of_any_function((upper_of_cells > enough[:, None]).any(axis=0))
        cells_left -= len(low)
        divides = (is_unbounded | (may_be_larger & (host.next_up(low) < high))) & (cells_left > 0)
        upper = np.maximum(upper, upper_of_cells[:, ~divides].max(axis=1, initial=-math.inf))
        if not divides.any():
            return upper if np.isfinite(upper).all() else UNBOUNDED
        parts = _parts(low[divides], high[divides], PARTS_OF_CELL)
        low, high = (end[parts[0] < parts[1]] for end in parts)
    return UNBOUNDED


def _of_any_function(mask: Mask) -> Mask:
    """Return whether a mask is true of a cell for any function."""
    return np.asarray(mask.any(axis=tuple(range(1, mask.ndim))))


def _edges(curve: Curve, end: float) -> FloatArray:
    """Return the ends of the first cells: powers of two and thresholds."""
    sizes = {0.0, end, *(2.0**k for k in range(-6, 41)), *curve.thresholds}
    both_signs = {x for size in sizes for x in (-size, size)}
    return np.array(sorted(x for x in both_signs if abs(x) <= end))


def _may_jump(cells: Evaluation) -> Mask:
    """Return which cells may have a step at an end: where a sign at the end is another one than inside of the cell."""
    ends = cells.argument.factor.ends
    may_jump = np.zeros((len(ends[0]), *cells.curve.shape), np.bool_)
    for end in ends if cells.curve.jumps else ():
        x = Quantity(point(end))
        at_end, inside = Evaluation(cells.curve, x), Evaluation(cells.curve, x, cells.signs)
        for step, sign in cells.signs.items():
            may_jump |= ~np.isnan(sign) & (sign != at_end.signs[step]) & ~_agree(inside, at_end)
    return _of_any_function(may_jump)


def _agree(a: Evaluation, b: Evaluation) -> Mask:
    """Return where all outputs are defined, and the same exact number."""
    agree = np.ones((), np.bool_)
    for output in a.curve.outputs:
        one, other = a.values[output], b.values[output]
        first, second = one.value.factor, other.value.factor
        are_same = (first.low == first.high) & (second.low == second.high) & (first.low == second.low)
        agree = agree & are_same & one.is_defined & other.is_defined
    return agree


def _on_cells(curve: Curve, low: FloatArray, high: FloatArray) -> Evaluation:
    """Evaluate each function of a program on cells: their ends have shape (cells,)."""
    column = (-1, *(1,) * len(curve.shape))
    shape = (len(low), *curve.shape)
    ends = np.broadcast_to(low.reshape(column), shape), np.broadcast_to(high.reshape(column), shape)
    return Evaluation(curve, Quantity(enclosing(ends)))


def _parts(low: FloatArray, high: FloatArray, count: int) -> tuple[FloatArray, FloatArray]:
    """Return the ends of equal parts of intervals, shape (count, *shape); an infinite interval is not divided."""
    edges = np.minimum(np.linspace(low, high, count + 1), high)
    is_finite = np.isfinite(high - low)
    return np.where(is_finite, edges[:-1], low), np.where(is_finite, edges[1:], high)


# -- slopes and values on intervals ------------------------------------------------------------------------------------
@arithmetic.on_host()
def bounds_on(curve: Curve, low: FloatArray, high: FloatArray) -> tuple[Interval, list[Interval]]:
    """Bound the slope and the values of the outputs on the interval of each entry, by parts of the interval."""
    if curve.jumps and isinstance(prove(curve), str):
        return anything(low.shape), [anything(low.shape) for _ in curve.outputs]
    # A single point may be a kink: the slopes on both sides count.
    is_point = low == high
    count = 1 if is_point.all() else max(1, min(PARTS_OF_RANGE, MOST_PARTS // max(low.size, 1)))
    starts, ends = _parts(
        np.where(is_point, host.next_down(low), low), np.where(is_point, host.next_up(high), high), count
    )
    found = Evaluation(curve, Quantity(enclosing((starts, ends))))
    values = [found.values[output].value.factor for output in curve.outputs]
    return _of_parts(found.slope(starts.shape), starts.shape), [_of_parts(value, starts.shape) for value in values]


def _of_parts(x: Interval, shape: tuple[int, ...]) -> Interval:
    """Return the smallest interval that contains those of all parts, the entries of the first axis."""
    low, high = (np.broadcast_to(end, shape) for end in x.ends)
    return enclosing((low.min(axis=0), high.max(axis=0)))
