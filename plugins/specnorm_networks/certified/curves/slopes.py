"""Prove the slopes of a program: on the whole line, and on intervals.

Between two numbers the line is divided into cells, on which intervals bound the slopes; beyond them `tails` do. A
continuous function that is made of finitely many branches with bounded derivatives is absolutely continuous, so that a
bound of its derivative almost everywhere is a Lipschitz constant. Where operators jump, the function is proven to be
continuous: at the threshold all branches have to have one and the same value, computed without rounding.

Proofs are kept for later calls, since a network has the same activation many times.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import Interval, arithmetic, enclosing, host, point
from specnorm_networks.certified.curves.intervals import OnIntervals, Step, is_exact
from specnorm_networks.certified.curves.periods import period_of
from specnorm_networks.certified.curves.programs import Curve, Dual, UnknownError, evaluate
from specnorm_networks.certified.curves.tails import OnTail
from specnorm_networks.certified.operators.base import FloatArray

MOST_FUNCTIONS = 512
"""Largest number of functions of one program: channels may have constants of their own."""
STARTS = (2.0**4, 2.0**6, 2.0**10, 2.0**16, 2.0**24, 2.0**40)
"""Numbers at which tails may begin, tried one after the other."""
RTOL = 2.0**-20
"""Relative distance from an attained slope at which the search for the largest slope stops."""
HOPELESS_WIDTH = 2.0**-30
"""Width of a cell, relative to its argument, at which the search gives up if the cell's slopes have no bound."""
NARROW = 2.0**-40
"""Width of a cell, relative to its argument, from which on the values at a threshold in it are compared."""
PARTS_OF_CELL = 4
"""Number of parts of a cell that is divided."""
MOST_ROUNDS = 40
"""Largest number of rounds in which cells are divided."""
MOST_CELLS = 2**16
"""Largest number of cells of all rounds and functions together, if each function has `LEAST_CELLS`."""
LEAST_CELLS = 2**10
"""Number of cells of all rounds that each function may have."""
PARTS_OF_RANGE = 64
"""Largest number of parts of an interval in a network, each of which is bounded by itself."""
MOST_PARTS = 2**18
"""Largest number of parts of all intervals together."""


@dataclass(frozen=True, eq=False)
class Proof:
    """Slopes of each function and output on the whole line."""

    low: FloatArray
    high: FloatArray
    """Smallest and largest slopes, shape (outputs, *functions)."""
    constant: float
    """Root of the largest sum of squared slopes of all outputs, of any function."""


_PROOFS: dict[Hashable, Proof | str] = {}
"""Earlier answers, by the programs' keys: proofs, or the reasons why there is none."""
MOST_PROOFS = 512
"""Largest number of answers that are kept."""


@arithmetic.on_host()
def prove(curve: Curve) -> Proof | str:
    """Return the slopes of a program on the whole line, or the reason why there is no proof."""
    if curve.key not in _PROOFS:
        if len(_PROOFS) >= MOST_PROOFS:
            _PROOFS.pop(next(iter(_PROOFS)))
        _PROOFS[curve.key] = _prove(curve)
    return _PROOFS[curve.key]


def _prove(curve: Curve) -> Proof | str:
    count = math.prod(curve.shape)
    if not 0 < count <= MOST_FUNCTIONS:
        return f"its constants make {count} different functions of it"
    period = period_of(curve)
    if period is not None:
        return _Search(curve, (0.0, period), None).prove()
    best: Proof | str = "its slope has no bound for large values that is known here"
    least = math.inf
    for start in STARTS:
        tails = _tails(curve, start)
        # Tails that begin further away are of use only if their slopes are smaller.
        if tails is None or float(tails.square_sum.max()) >= least * (1 - 2 * RTOL):
            continue
        least = float(tails.square_sum.max())
        search = _Search(curve, (-start, start), tails)
        proof = search.prove()
        if isinstance(proof, str):
            return proof if isinstance(best, str) else best
        if isinstance(best, str) or proof.constant < best.constant:
            best = proof
        if least <= search.attained_square_sum.max() * (1 + 2 * RTOL):
            break
    return best


class Slopes(NamedTuple):
    """Bounds of slopes, for each function or cell."""

    low: FloatArray
    high: FloatArray
    """Smallest and largest slopes, shape (outputs, ...)."""
    square_sum: FloatArray
    """Largest sum of squared slopes of all outputs, rounded up."""


def _slopes(slopes: list[Interval], shape: tuple[int, ...]) -> Slopes:
    low = np.stack([np.broadcast_to(slope.low, shape) for slope in slopes])
    high = np.stack([np.broadcast_to(slope.high, shape) for slope in slopes])
    square_sum = np.zeros(shape)
    for largest in np.maximum(abs(low), abs(high)):
        square_sum = host.next_up(square_sum + host.next_up(largest * largest))
    return Slopes(low, high, square_sum)


def _union(a: Slopes, b: Slopes) -> Slopes:
    return Slopes(np.minimum(a.low, b.low), np.maximum(a.high, b.high), np.maximum(a.square_sum, b.square_sum))


def _tails(curve: Curve, start: float) -> Slopes | None:
    """Return the slopes below ``-start`` and above ``start``; None if one is unknown."""
    tails: Slopes | None = None
    on_tail = OnTail(start)
    for side in (-1, 1):
        try:
            values = evaluate(curve, on_tail.argument(side), on_tail)
            slopes = [on_tail.interval(values[output].slope) for output in curve.outputs]
        except (UnknownError, OverflowError):
            return None
        if not all(np.isfinite(slope.magnitude()).all() for slope in slopes):
            return None
        of_side = _slopes([slope if side > 0 else -slope for slope in slopes], curve.shape)
        tails = of_side if tails is None else _union(tails, of_side)
    return tails


# -- slopes between the tails ------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class _Evaluated:
    """All values of a program on intervals, the slopes of its outputs, and its steps."""

    values: list[Dual[Interval]]
    slopes: Slopes
    steps: dict[int, Step]


@dataclass(frozen=True, eq=False)
class _Cells:
    """Bounds on cells, shape (..., cells, *functions)."""

    slopes: Slopes
    undecided: NDArray[np.bool_]
    """Cells, shape (cells,), in which a step has an unknown side."""
    jumps: NDArray[np.bool_]
    """Cells at an end of which, or in which, branches have different values."""


class _Search:
    """A search over cells: it divides those that may contain the largest or the smallest slope of a function."""

    def __init__(self, curve: Curve, ends: tuple[float, float], tails: Slopes | None) -> None:
        self.curve = curve
        self.ends = ends
        outputs = len(curve.outputs)
        nothing = Slopes(
            np.full((outputs, *curve.shape), math.inf),
            np.full((outputs, *curve.shape), -math.inf),
            np.zeros(curve.shape),
        )
        self.proven = nothing if tails is None else tails
        # Slopes that are attained in some cell: the search may stop near them. They prove nothing.
        self.attained_low = nothing.low
        self.attained_high = nothing.high
        self.attained_square_sum = nothing.square_sum

    def prove(self) -> Proof | str:
        """Divide cells in rounds; return the slopes that this proves."""
        edges = _edges(self.curve, *self.ends)
        low, high = edges[:-1], edges[1:]
        cells_left = max(MOST_CELLS // math.prod(self.curve.shape), LEAST_CELLS)
        for _ in range(MOST_ROUNDS):
            cells = self._bound(low, high)
            if cells.jumps.any():
                return f"it may jump where its argument is near {low[cells.jumps][0]:.6g}"
            self._note_attained(cells.slopes)
            is_unbounded = ~np.isfinite(self._over_functions(cells.slopes.square_sum))
            is_small = high - low <= HOPELESS_WIDTH * np.maximum(1.0, abs(low))
            if (is_unbounded & is_small & ~cells.undecided).any():
                return "its slope has no bound that is known here"
            can_be_divided = host.next_up(low) < high
            cells_left -= len(low)
            divides = cells.undecided & can_be_divided
            if cells_left > 0:
                divides |= self._may_hold_an_extreme(cells.slopes) & can_be_divided
            self._settle(cells.slopes, ~divides)
            if not divides.any():
                break
            low, high = _divide(low[divides], high[divides])
        else:
            return f"it may jump where its argument is near {low[0]:.6g}"
        steepest = np.maximum(abs(self.proven.low), abs(self.proven.high))
        if not np.isfinite(steepest).all():
            return "its slope has no bound that is known here"
        # Two bounds: by the largest sum of squares, and by the largest slope of each output.
        by_outputs = max(host.hypot_up(*column) for column in steepest.reshape(len(steepest), -1).T.tolist())
        by_square_sum = host.sqrt_up(float(self.proven.square_sum.max()))
        return Proof(self.proven.low, self.proven.high, min(by_outputs, by_square_sum))

    def _over_functions(self, array: FloatArray) -> FloatArray:
        """Return the largest entry of each cell, over all functions."""
        return np.asarray(array.max(axis=tuple(range(1, array.ndim))))

    def _settle(self, slopes: Slopes, settled: NDArray[np.bool_]) -> None:
        """Add the bounds of cells that are not divided further to the proof."""
        if settled.any():
            self.proven = _union(
                self.proven,
                Slopes(
                    slopes.low[:, settled].min(axis=1),
                    slopes.high[:, settled].max(axis=1),
                    slopes.square_sum[settled].max(axis=0),
                ),
            )

    def _note_attained(self, slopes: Slopes) -> None:
        """Note slopes that are attained: in each cell, a slope between its lower and its upper bound is."""
        is_finite = np.isfinite(slopes.low) & np.isfinite(slopes.high)
        least = np.where(is_finite, slopes.high, math.inf).min(axis=1)
        most = np.where(is_finite, slopes.low, -math.inf).max(axis=1)
        self.attained_low = np.minimum(self.attained_low, least)
        self.attained_high = np.maximum(self.attained_high, most)
        contains_0 = (slopes.low <= 0) & (slopes.high >= 0)
        smallest = np.where(contains_0, 0.0, np.minimum(abs(slopes.low), abs(slopes.high)))
        square_sum = np.where(is_finite.all(axis=0), np.square(np.where(is_finite, smallest, 0.0)).sum(axis=0), 0.0)
        self.attained_square_sum = np.maximum(self.attained_square_sum, square_sum.max(axis=0))

    def _may_hold_an_extreme(self, slopes: Slopes) -> NDArray[np.bool_]:
        """Return which cells have slopes beyond the attained and the settled ones by more than the tolerance."""
        if len(slopes.low) > 1:
            largest = np.maximum(self.attained_square_sum, self.proven.square_sum)
            is_beyond = np.asarray(slopes.square_sum > largest * (1 + 2 * RTOL))
        else:
            least = np.minimum(self.attained_low, self.proven.low)
            most = np.maximum(self.attained_high, self.proven.high)
            finite = [np.where(np.isfinite(x), abs(x), 0.0) for x in (least, most)]
            tolerance = RTOL * np.maximum(*finite)
            below = slopes.low < (least - tolerance)[:, None]
            above = slopes.high > (most + tolerance)[:, None]
            is_beyond = np.asarray((below | above).any(axis=0))
        return self._over_functions(is_beyond | ~np.isfinite(slopes.square_sum)).astype(bool)

    # -- steps ---------------------------------------------------------------------------------------------------------
    def _bound(self, low: FloatArray, high: FloatArray) -> _Cells:
        """Bound slopes on cells, and look where branches meet."""
        cells = self._evaluate(low, high, {})
        shape = (len(low), *self.curve.shape)
        jumps = np.zeros(len(low), np.bool_)
        if not self.curve.jumps:
            return _Cells(cells.slopes, jumps, jumps)
        # An input that is at its threshold at an end of a cell, and monotone, is on one side inside of the cell.
        ends = [self._evaluate(end, end, {}) for end in (low, high)]
        sides: dict[int, FloatArray] = {}
        touches = [np.zeros(shape, np.bool_) for _ in ends]
        for _ in range(len(cells.steps) + 1):
            before = len(sides), sum(np.count_nonzero(side) for side in sides.values())
            for number, step in cells.steps.items():
                value = self.curve.program[number][1][0]
                slope = cells.values[value].slope
                direction = np.where(slope.low > 0, 1.0, np.where(slope.high < 0, -1.0, 0.0))
                side = sides.get(number, np.zeros(shape))
                for position, (end, sign) in enumerate(zip(ends, (1.0, -1.0), strict=True)):
                    at_end = end.values[value].value
                    is_at = (at_end.low == step.threshold) & (at_end.high == step.threshold)
                    is_touched = step.undecided & is_at & (direction != 0)
                    side = np.where(is_touched & (side == 0), sign * direction, side)
                    touches[position] |= is_touched
                sides[number] = np.broadcast_to(side, shape)
            if (len(sides), sum(np.count_nonzero(side) for side in sides.values())) == before:
                break
            cells = self._evaluate(low, high, sides)
        for end, at, is_touched in zip(ends, (low, high), touches, strict=True):
            if is_touched.any():
                inside = self._evaluate(at, at, sides)
                jumps |= self._over_functions(is_touched & ~self._agree(inside, end)).astype(bool)
        undecided = np.zeros(shape, np.bool_)
        for step in cells.steps.values():
            undecided |= step.undecided
        is_smallest = host.next_up(low) >= high
        slopes = cells.slopes
        # A rounded factor leaves a threshold undecided in some cells beside it: wider cells are fewer.
        is_narrow = high - low <= NARROW * np.maximum(1.0, abs(low))
        for number in np.flatnonzero(is_narrow & self._over_functions(undecided).astype(bool)).tolist():
            cell = slice(number, number + 1)
            found = self._across(low[cell], high[cell], {n: side[cell] for n, side in sides.items()})
            if found is None:
                jumps[cell] = is_smallest[cell]
            else:
                undecided[cell] = False
                slopes.low[:, cell], slopes.high[:, cell], slopes.square_sum[cell] = found
        return _Cells(slopes, self._over_functions(undecided).astype(bool) & ~is_smallest, jumps)

    def _across(self, low: FloatArray, high: FloatArray, sides: dict[int, FloatArray]) -> Slopes | None:
        """Bound slopes on a cell in which a value crosses its threshold; None if a function may jump there.

        The value is taken to be the threshold, on each side of it: of the first undecided step, and of those that read
        the same value. No other step may be undecided then.
        """
        program = self.curve.program
        steps = {n: step for n, step in self._evaluate(low, high, sides).steps.items() if step.undecided.any()}
        first = min(steps)
        value = program[first][1][0]
        threshold = steps[first].threshold
        numbers = [n for n in steps if program[n][1][0] == value and np.array_equal(steps[n].threshold, threshold)]
        at_threshold = {value: point(np.broadcast_to(threshold, steps[first].undecided.shape))}

        def branch(side: float, known: dict[int, Interval] | None) -> _Evaluated:
            forced = {n: np.where(steps[n].undecided, side, sides.get(n, 0.0)) for n in numbers}
            return self._evaluate(low, high, {**sides, **forced}, known)

        below, at, above = (branch(side, at_threshold) for side in (-1.0, 2.0, 1.0))
        branches = [branch(side, None) for side in (-1.0, 1.0)]
        is_open = any(step.undecided.any() for each in branches for step in each.steps.values())
        if is_open or not (self._agree(below, at) & self._agree(at, above)).all():
            return None
        return _union(branches[0].slopes, branches[1].slopes)

    def _agree(self, a: _Evaluated, b: _Evaluated) -> NDArray[np.bool_]:
        """Return where all outputs are the same exact number."""
        agree = np.ones(a.slopes.square_sum.shape, np.bool_)
        for output in self.curve.outputs:
            first, second = a.values[output].value, b.values[output].value
            agree &= is_exact(first) & is_exact(second) & (first.low == second.low)
        return agree

    def _evaluate(
        self,
        low: FloatArray,
        high: FloatArray,
        sides: dict[int, FloatArray],
        known: dict[int, Interval] | None = None,
    ) -> _Evaluated:
        shape = (len(low), *self.curve.shape)
        cells = [np.broadcast_to(end.reshape(-1, *(1,) * len(self.curve.shape)), shape) for end in (low, high)]
        return _evaluate(self.curve, cells[0], cells[1], sides, known)


def _evaluate(
    curve: Curve,
    low: FloatArray,
    high: FloatArray,
    sides: dict[int, FloatArray] | None = None,
    known: dict[int, Interval] | None = None,
) -> _Evaluated:
    on_intervals = OnIntervals(sides or {})
    argument = Dual(enclosing((low, high)), point(np.ones(low.shape)))
    values = evaluate(curve, argument, on_intervals, known)
    slopes = []
    for output in curve.outputs:
        slope = values[output].slope
        infinite = np.where(np.asarray(values[output].is_defined), 0.0, math.inf)
        slopes.append(enclosing((slope.low - infinite, slope.high + infinite)))
    return _Evaluated(values, _slopes(slopes, low.shape), on_intervals.steps)


def _edges(curve: Curve, low: float, high: float) -> FloatArray:
    """Return the ends of the first cells: powers of two and thresholds."""
    sizes = [2.0**k for k in range(-6, 41)]
    candidates = (0.0, *sizes, *(-size for size in sizes), *curve.thresholds)
    return np.array(sorted({low, high, *(x for x in candidates if low < x < high)}))


def _divide(low: FloatArray, high: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the parts of cells, which are `PARTS_OF_CELL` times as many or fewer."""
    share = np.arange(1, PARTS_OF_CELL)[:, None] / PARTS_OF_CELL
    inner = np.clip(low + share * (high - low), low, high)
    edges = np.maximum.accumulate(np.concatenate([low[None], inner, high[None]]), axis=0)
    first, last = edges[:-1].reshape(-1), edges[1:].reshape(-1)
    return first[first < last], last[first < last]


# -- slopes and values on intervals ------------------------------------------------------------------------------------
class Bounds(NamedTuple):
    """Bounds of slopes and values of the outputs on the interval of each entry."""

    slopes: Slopes
    low: FloatArray
    high: FloatArray
    """Smallest and largest values, shape (outputs, ...)."""


@arithmetic.on_host()
def bounds_on(curve: Curve, low: FloatArray, high: FloatArray) -> Bounds:
    """Bound slopes and values of each entry's function on the entry's interval, by parts of the interval."""
    # A single point may be a kink: the slopes on both sides count.
    is_point = low == high
    first = np.where(is_point, host.next_down(low), low)
    last = np.where(is_point, host.next_up(high), high)
    parts = 1 if is_point.all() else max(1, min(PARTS_OF_RANGE, MOST_PARTS // max(low.size, 1)))
    bounds: Bounds | None = None
    ends = [np.clip(first + (k / parts) * (last - first), first, last) for k in range(parts)]
    ends = [*(np.where(np.isfinite(last - first), end, first) for end in ends), last]
    for start, end in itertools.pairwise(ends):
        is_whole = ~np.isfinite(last - first)
        part = _bounds(curve, start, np.where(is_whole, last, np.maximum(start, end)))
        bounds = part if bounds is None else Bounds(
            _union(bounds.slopes, part.slopes), np.minimum(bounds.low, part.low), np.maximum(bounds.high, part.high)
        )  # fmt: skip
    assert bounds is not None
    return bounds


def _bounds(curve: Curve, low: FloatArray, high: FloatArray) -> Bounds:
    found = _evaluate(curve, low, high)
    values = [found.values[output].value for output in curve.outputs]
    least = np.stack([np.broadcast_to(value.low, low.shape) for value in values])
    most = np.stack([np.broadcast_to(value.high, low.shape) for value in values])
    return Bounds(found.slopes, least, most)
