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
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from specnorm.proof import Interval, anything, arithmetic, enclosing, host, point
from specnorm_networks.certified.curves.programs import Curve, Evaluation
from specnorm_networks.certified.curves.values import Dual, Mask, Quantity, is_exact, number, plus, times
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.operators.smooth import Cos, Sin

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


@dataclass(frozen=True, eq=False)
class Proof:
    """Slopes of each function and output on the whole line."""

    low: FloatArray
    high: FloatArray
    """Smallest and largest slopes, shape (outputs, *functions)."""
    constant: float
    """Root of the largest sum of squared slopes of all outputs, of any function."""


class Slopes(NamedTuple):
    """Bounds of slopes, for each function or cell."""

    each: Interval
    """Slopes of each output, shape (outputs, ...)."""
    square_sum: FloatArray
    """Largest sum of squared slopes of all outputs, rounded up."""

    def upper_bounds(self) -> FloatArray:
        """Return upper bounds of all slopes, of their negatives, and of the sum of squares, (2 outputs + 1, ...)."""
        return np.concatenate([self.each.high, -self.each.low, self.square_sum[None]])

    def attained(self) -> FloatArray:
        """Return what the same are at least, for some argument in each cell; -infinity if a bound is infinite."""
        square_sum = np.square(self.each.mignitude()).sum(axis=0)
        least = np.concatenate([self.each.low, -self.each.high, square_sum[None]])
        return np.where(np.isfinite(self.square_sum), least, -math.inf)


def _slopes(evaluation: Evaluation, shape: tuple[int, ...]) -> Slopes:
    curve = evaluation.curve
    ends = zip(*(slope.ends for slope in evaluation.slopes()), strict=True)
    low, high = (np.stack([np.broadcast_to(end, shape) for end in each]) for each in ends)
    slopes = enclosing((low, high))
    largest = slopes.magnitude()
    # Sine and cosine of one value u have squared slopes whose sum is the square of u's slope.
    angles_of_cosines = [curve.angle_of(Cos, output) for output in curve.outputs]
    for at, output in enumerate(curve.outputs):
        angle = curve.angle_of(Sin, output)
        if angle is not None and angle in angles_of_cosines:
            other = angles_of_cosines.index(angle)
            are_finite = np.isfinite(largest[at]) & np.isfinite(largest[other])
            slope_of_angle = evaluation.values[angle].slope.interval()
            largest[at] = np.where(are_finite, slope_of_angle.magnitude(), math.inf)
            largest[other] = 0.0
    square_sum = functools.reduce(plus, (times(each, each) for each in map(point, largest)))
    return Slopes(slopes, square_sum.high)


def root_of_largest(square_sum: FloatArray) -> float:
    """Return the root of the largest sum of squared slopes, rounded up; of 1 it is 1."""
    largest = float(np.max(square_sum, initial=0.0))
    return host.root_up(Fraction(largest)) if math.isfinite(largest) else math.inf


# -- on the whole line -------------------------------------------------------------------------------------------------
@arithmetic.on_host()
def prove(curve: Curve) -> Proof | str:
    """Return the slopes of a program on the whole line, or the reason why there is no proof."""
    count = math.prod(curve.shape)
    if not 0 < count <= MOST_FUNCTIONS:
        return f"its constants make {count} different functions of it"
    return _proof(curve)


@functools.lru_cache(512)
def _proof(curve: Curve) -> Proof | str:
    least = _bounds_beyond(curve, STARTS[-1])[-1].max()
    if not math.isfinite(least):
        return "its slope has no bound for large values that is known here"
    # The first start beyond which slopes are as small as beyond any, or as somewhere before.
    edges = _edges(curve, STARTS[-1])
    at_edges = _slopes(_on_cells(curve, edges, edges), (len(edges), *curve.shape))
    somewhere = at_edges.attained()[-1].max()
    for start in STARTS:
        beyond = _bounds_beyond(curve, start)
        if beyond[-1].max() <= max(least, somewhere) * (1 + 4 * RTOL):
            break
    upper = _search(curve, start, beyond)
    if isinstance(upper, str):
        return upper
    high, negative_low = np.split(upper[:-1], 2)
    return Proof(-negative_low, high, root_of_largest(upper[-1]))


def _bounds_beyond(curve: Curve, start: float) -> FloatArray:
    """Return `Slopes.upper_bounds` where the argument's absolute value is at least a number."""
    bounds = []
    for side in (-1.0, 1.0):
        x = Quantity(point(np.full(curve.shape, side)), 1, start)
        bounds.append(_slopes(Evaluation(curve, Dual(x, number(1.0))), curve.shape).upper_bounds())
    return np.maximum(*bounds)


def _search(curve: Curve, end: float, upper: FloatArray) -> FloatArray | str:
    """Return upper bounds on the whole line, or the reason why there are none: cells are divided in rounds.

    Cells are divided that may contain the largest or the smallest slope of a function.

    Parameters
    ----------
    end : float
        Cells are between ``-end`` and ``end``.
    upper : array
        `Slopes.upper_bounds` beyond.
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
        slopes = _slopes(cells, (len(low), *curve.shape))
        upper_of_cells = slopes.upper_bounds()
        attained = np.maximum(attained, slopes.attained().max(axis=1))
        is_unbounded = _of_any_function(~np.isfinite(slopes.square_sum))
        is_hopeless = is_unbounded & (high - low <= HOPELESS_WIDTH * np.maximum(1.0, abs(low)))
        if is_hopeless.any():
            return f"{UNBOUNDED} where its argument is near {low[is_hopeless][0]:.6g}"
        # Bounds beyond what is attained or proven elsewhere may be those of a larger slope.
        best = np.maximum(attained, upper)
        steepest = np.broadcast_to(np.sqrt(best[-1:]), best[:-1].shape)
        enough = best + RTOL * np.concatenate([steepest, 2 * best[-1:]])
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
    ends = cells.argument.value.factor.ends
    may_jump = np.zeros((len(ends[0]), *cells.curve.shape), np.bool_)
    for end in ends if cells.touches else ():
        at_end, inside = _evaluated(cells.curve, end, end), _evaluated(cells.curve, end, end, cells.signs)
        for step, sign in cells.signs.items():
            may_jump |= ~np.isnan(sign) & (sign != at_end.signs[step]) & ~_agree(inside, at_end)
    return _of_any_function(may_jump)


def _agree(a: Evaluation, b: Evaluation) -> Mask:
    """Return where all outputs are defined, and the same exact number."""
    agree = np.ones((), np.bool_)
    for output in a.curve.outputs:
        one, other = a.values[output], b.values[output]
        first, second = one.value.factor, other.value.factor
        are_same = is_exact(first) & is_exact(second) & (first.low == second.low)
        agree = agree & are_same & one.is_defined & other.is_defined
    return agree


def _evaluated(
    curve: Curve,
    low: FloatArray,
    high: FloatArray,
    sides: Mapping[int, FloatArray] | None = None,
) -> Evaluation:
    """Evaluate a program on intervals."""
    return Evaluation(curve, Dual(Quantity(enclosing((low, high))), number(1.0)), sides or {})


def _on_cells(curve: Curve, low: FloatArray, high: FloatArray) -> Evaluation:
    """Evaluate each function of a program on cells: their ends have shape (cells,)."""
    column = (-1, *(1,) * len(curve.shape))
    shape = (len(low), *curve.shape)
    first, last = (np.broadcast_to(end.reshape(column), shape) for end in (low, high))
    return _evaluated(curve, first, last)


def _parts(low: FloatArray, high: FloatArray, count: int) -> tuple[FloatArray, FloatArray]:
    """Return the ends of equal parts of intervals, shape (count, *shape); an infinite interval is not divided."""
    edges = np.minimum(np.linspace(low, high, count + 1), high)
    is_finite = np.isfinite(high - low)
    return np.where(is_finite, edges[:-1], low), np.where(is_finite, edges[1:], high)


# -- slopes and values on intervals ------------------------------------------------------------------------------------
class Bounds(NamedTuple):
    """Bounds of slopes and values of the outputs on the interval of each entry."""

    slopes: Slopes
    values: list[Interval]


@arithmetic.on_host()
def bounds_on(curve: Curve, low: FloatArray, high: FloatArray) -> Bounds:
    """Bound slopes and values of each entry's function on the entry's interval, by parts of the interval."""
    if curve.jumps and isinstance(prove(curve), str):
        nothing = anything((len(curve.outputs), *low.shape))
        return Bounds(Slopes(nothing, nothing.high[0]), [anything(low.shape) for _ in curve.outputs])
    # A single point may be a kink: the slopes on both sides count.
    is_point = low == high
    count = 1 if is_point.all() else max(1, min(PARTS_OF_RANGE, MOST_PARTS // max(low.size, 1)))
    starts, ends = _parts(
        np.where(is_point, host.next_down(low), low), np.where(is_point, host.next_up(high), high), count
    )
    found = _evaluated(curve, starts, ends)
    slopes = _slopes(found, starts.shape)
    low_of_each, high_of_each = slopes.each.ends
    each = enclosing((low_of_each.min(axis=1), high_of_each.max(axis=1)))
    values = []
    for output in curve.outputs:
        value = found.values[output].value.factor
        value_low, value_high = (np.broadcast_to(end, starts.shape) for end in value.ends)
        values.append(enclosing((value_low.min(axis=0), value_high.max(axis=0))))
    return Bounds(Slopes(each, slopes.square_sum.max(axis=0)), values)
