"""Prove the slopes of a program: on the whole line, and on intervals.

Between two numbers the line is divided into cells, on which intervals bound the slopes; beyond them one evaluation for
all large numbers does (`values`). A continuous function that is made of finitely many branches with bounded derivatives
is absolutely continuous, so that a bound of its derivative almost everywhere is a Lipschitz constant. Where operators
jump, the function is proven to be continuous: at the threshold, which has to be an end of cells, all branches have to
have one and the same value, computed without rounding.

Proofs are kept for later calls, since a network has the same activation many times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import Interval, arithmetic, enclosing, host, point
from specnorm_networks.certified.curves.programs import Curve, Evaluation
from specnorm_networks.certified.curves.values import Arithmetic, Dual, Quantity, is_exact, number, plus, times
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.operators.smooth import Cos

MOST_FUNCTIONS = 512
"""Largest number of functions of one program: channels may have constants of their own."""
STARTS = (2.0**4, 2.0**6, 2.0**10, 2.0**16, 2.0**24, 2.0**40)
"""Numbers from which on all large numbers are taken together, tried one after the other."""
RTOL = 2.0**-20
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
Answer = TypeVar("Answer")
UNBOUNDED = "its slope has no bound that is known here"


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
_BOUNDS: dict[Hashable, Bounds] = {}
"""Earlier bounds on intervals, by the programs' keys and the intervals: rules for one ball ask several times."""
MOST_ANSWERS = 512
"""Largest number of answers of each kind that are kept."""
MOST_KEPT_ENTRIES = 2**12
"""Largest number of intervals for which bounds are kept."""


def _kept(answers: dict[Hashable, Answer], key: Hashable, answer: Callable[[], Answer]) -> Answer:
    """Return an earlier answer, or a new one, which is kept."""
    if key not in answers:
        if len(answers) >= MOST_ANSWERS:
            answers.pop(next(iter(answers)))
        answers[key] = answer()
    return answers[key]


@arithmetic.on_host()
def prove(curve: Curve) -> Proof | str:
    """Return the slopes of a program on the whole line, or the reason why there is no proof."""
    return _kept(_PROOFS, curve.key, partial(_prove, curve))


def _prove(curve: Curve) -> Proof | str:
    count = math.prod(curve.shape)
    if not 0 < count <= MOST_FUNCTIONS:
        return f"its constants make {count} different functions of it"
    best: Proof | str = "its slope has no bound for large values that is known here"
    least = math.inf
    for start in STARTS:
        sides = [_slopes_beyond(curve, side * start) for side in (-1, 1)]
        tails = np.maximum(*map(_upper_bounds, sides))
        largest = float(tails[-1].max())
        # Starts further away are of use only if their slopes are smaller.
        if not largest < least * (1 - 2 * RTOL):
            continue
        least = largest
        search = _Search(curve, start, tails)
        proof = search.prove()
        if isinstance(proof, str):
            return proof if isinstance(best, str) else best
        if isinstance(best, str) or proof.constant < best.constant:
            best = proof
        if least <= search.attained[-1].max() * (1 + 2 * RTOL):
            break
    return best


class Slopes(NamedTuple):
    """Bounds of slopes, for each function or cell."""

    low: FloatArray
    high: FloatArray
    """Smallest and largest slopes, shape (outputs, ...)."""
    square_sum: FloatArray
    """Largest sum of squared slopes of all outputs, rounded up."""


def _slopes(evaluation: Evaluation, shape: tuple[int, ...]) -> Slopes:
    slopes = evaluation.slopes()
    low = np.stack([np.broadcast_to(slope.low, shape) for slope in slopes])
    high = np.stack([np.broadcast_to(slope.high, shape) for slope in slopes])
    largest = np.maximum(abs(low), abs(high))
    # Sine and cosine of one value u have squared slopes whose sum is the square of u's slope.
    program, outputs = evaluation.curve.program, evaluation.curve.outputs
    for first, output in enumerate(outputs):
        angle = evaluation.curve.sine_of(output)
        for second, other in enumerate(outputs):
            operator, reads = program[other - 1] if other else (None, ())
            if angle is not None and type(operator) is Cos and reads == (angle,):
                u = evaluation.arithmetic.interval(evaluation.values[angle].slope).magnitude()
                is_finite = np.isfinite(largest[first]) & np.isfinite(largest[second])
                largest[first], largest[second] = np.where(is_finite, u, math.inf), 0.0
                break
    square_sum = point(np.zeros(shape))
    for each in map(point, largest):
        square_sum = plus(square_sum, times(each, each))
    return Slopes(low, high, square_sum.high)


def root_of_largest(square_sum: FloatArray) -> float:
    """Return the root of the largest sum of squared slopes, rounded up; of 1 it is 1."""
    largest = float(np.max(square_sum, initial=0.0))
    return host.root_up(Fraction(largest)) if math.isfinite(largest) else math.inf


def _upper_bounds(slopes: Slopes) -> FloatArray:
    """Return upper bounds of all slopes, of their negatives, and of the sum of squares, shape (2 outputs + 1, ...)."""
    return np.concatenate([slopes.high, -slopes.low, slopes.square_sum[None]])


def _attained(slopes: Slopes) -> FloatArray:
    """Return what the same are at least, for some argument in each cell; -infinity if a cell's bounds are infinite."""
    contains_0 = (slopes.low <= 0) & (slopes.high >= 0)
    smallest = np.where(contains_0, 0.0, np.minimum(abs(slopes.low), abs(slopes.high)))
    least = np.concatenate([slopes.low, -slopes.high, np.square(smallest).sum(axis=0)[None]])
    is_finite = (np.isfinite(slopes.low) & np.isfinite(slopes.high)).all(axis=0)
    return np.where(is_finite, least, -math.inf)


def _slopes_beyond(curve: Curve, start: float) -> Slopes:
    """Return the slopes from a number on, away from 0."""
    x = Quantity(point(np.array(math.copysign(1.0, start))), power=1)
    with np.errstate(all="ignore"):
        return _slopes(Evaluation(curve, Dual(x, number(1.0)), Arithmetic(abs(start))), curve.shape)


# -- slopes between them -----------------------------------------------------------------------------------------------
class _Search:
    """A search over cells: it divides those that may contain the largest or the smallest slope of a function."""

    def __init__(self, curve: Curve, end: float, tails: FloatArray) -> None:
        self.curve = curve
        self.end = end
        self.proven = tails
        """`_upper_bounds` on the tails and on all cells that are not divided further."""
        self.attained = np.full(tails.shape, -math.inf)
        """What is attained in some cell: the search may stop near it. It proves nothing."""

    def prove(self) -> Proof | str:
        """Divide cells in rounds; return the slopes that this proves."""
        edges = _edges(self.curve, self.end)
        low, high = edges[:-1], edges[1:]
        cells_left = max(MOST_CELLS // math.prod(self.curve.shape), LEAST_CELLS)
        for _ in range(MOST_ROUNDS):
            cells = self._evaluated(low, high)
            jumps = self._jumps(low, high, cells)
            if jumps.any():
                return f"it may jump where its argument is near {low[jumps][0]:.6g}"
            slopes = _slopes(cells, (len(low), *self.curve.shape))
            upper = _upper_bounds(slopes)
            self.attained = np.maximum(self.attained, _attained(slopes).max(axis=1))
            is_unbounded = self._over_functions(~np.isfinite(slopes.square_sum))
            is_small = high - low <= HOPELESS_WIDTH * np.maximum(1.0, abs(low))
            if (is_unbounded & is_small).any():
                return f"{UNBOUNDED} where its argument is near {low[is_unbounded & is_small][0]:.6g}"
            cells_left -= len(low)
            divides = is_unbounded | (self._may_hold_an_extreme(upper) & (host.next_up(low) < high))
            divides &= cells_left > 0
            if not divides.all():
                self.proven = np.maximum(self.proven, upper[:, ~divides].max(axis=1))
            if not divides.any():
                break
            low, high = _divide(low[divides], high[divides])
        else:
            return UNBOUNDED
        if not np.isfinite(self.proven).all():
            return UNBOUNDED
        most, negatives = np.split(self.proven[:-1], 2)
        # Two bounds: by the largest sum of squares, and by the largest slope of each output.
        steepest = np.maximum(abs(most), abs(negatives))
        by_outputs = max(host.hypot_up(*column) for column in steepest.reshape(len(steepest), -1).T.tolist())
        return Proof(-negatives, most, min(by_outputs, root_of_largest(self.proven[-1])))

    def _over_functions(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return whether a mask is true of a cell for any function."""
        return np.asarray(mask.any(axis=tuple(range(1, mask.ndim))))

    def _may_hold_an_extreme(self, upper: FloatArray) -> NDArray[np.bool_]:
        """Return which cells have bounds beyond the attained and the proven ones by more than the tolerance."""
        best = np.maximum(self.attained, self.proven)
        sizes = np.where(np.isfinite(best), abs(best), 0.0)
        tolerance = RTOL * np.append(np.broadcast_to(sizes[:-1].max(axis=0), sizes[:-1].shape), 2 * sizes[-1:], axis=0)
        return self._over_functions((upper > (best + tolerance)[:, None]).any(axis=0))

    def _jumps(self, low: FloatArray, high: FloatArray, cells: Evaluation) -> NDArray[np.bool_]:
        """Return which cells have a step at an end where branches differ: inside of the cell, and at its end."""
        jumps = np.zeros(len(low), np.bool_)
        if not self.curve.jumps:
            return jumps
        shape = (len(low), *self.curve.shape)
        for end, touched_steps in zip((low, high), zip(*cells.touched.values(), strict=True), strict=False):
            is_touched = np.logical_or.reduce([np.broadcast_to(touched, shape) for touched in touched_steps])
            if is_touched.any():
                at_end, inside = self._evaluated(end, end), self._evaluated(end, end, cells.signs)
                jumps |= self._over_functions(is_touched & ~_agree(inside, at_end, shape))
        return jumps

    def _evaluated(
        self,
        low: FloatArray,
        high: FloatArray,
        sides: Mapping[int, FloatArray] | None = None,
    ) -> Evaluation:
        shape = (len(low), *self.curve.shape)
        ends = [np.broadcast_to(end.reshape(-1, *(1,) * len(self.curve.shape)), shape) for end in (low, high)]
        return _evaluated(self.curve, ends[0], ends[1], sides)


def _agree(a: Evaluation, b: Evaluation, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return where all outputs are defined, and the same exact number."""
    agree = np.ones(shape, np.bool_)
    for output in a.curve.outputs:
        one, other = a.values[output], b.values[output]
        first, second = one.value.factor, other.value.factor
        agree &= is_exact(first) & is_exact(second) & (first.low == second.low) & one.is_defined & other.is_defined
    return agree


def _evaluated(
    curve: Curve,
    low: FloatArray,
    high: FloatArray,
    sides: Mapping[int, FloatArray] | None = None,
) -> Evaluation:
    argument = Dual(Quantity(enclosing((low, high))), Quantity(point(np.ones(low.shape))))
    return Evaluation(curve, argument, Arithmetic(), sides or {})


def _edges(curve: Curve, end: float) -> FloatArray:
    """Return the ends of the first cells: powers of two and thresholds."""
    sizes = [2.0**k for k in range(-6, 41)]
    candidates = (0.0, *sizes, *(-size for size in sizes), *curve.thresholds)
    return np.array(sorted({-end, end, *(x for x in candidates if abs(x) < end)}))


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
    values: list[Interval]


@arithmetic.on_host()
def bounds_on(curve: Curve, low: FloatArray, high: FloatArray) -> Bounds:
    """Bound slopes and values of each entry's function on the entry's interval, by parts of the interval."""
    if low.size > MOST_KEPT_ENTRIES:
        return _bounds_on(curve, low, high)
    key = (curve.key, low.shape, low.tobytes(), high.tobytes())
    return _kept(_BOUNDS, key, partial(_bounds_on, curve, low, high))


def _bounds_on(curve: Curve, low: FloatArray, high: FloatArray) -> Bounds:
    # A single point may be a kink: the slopes on both sides count.
    is_point = low == high
    first = np.where(is_point, host.next_down(low), low)
    last = np.where(is_point, host.next_up(high), high)
    count = 1 if is_point.all() else max(1, min(PARTS_OF_RANGE, MOST_PARTS // max(low.size, 1)))
    shares = (np.arange(count + 1) / count).reshape(-1, *(1,) * low.ndim)
    with np.errstate(all="ignore"):
        edges = np.where(np.isfinite(last - first), np.clip(first + shares * (last - first), first, last), first)
    edges[-1] = last
    starts, ends = edges[:-1], np.where(np.isfinite(last - first), np.maximum(edges[:-1], edges[1:]), last)
    found = _evaluated(curve, starts, ends)
    slopes = _slopes(found, starts.shape)
    values = []
    for output in curve.outputs:
        factor = found.values[output].value.factor
        value_low, value_high = (np.broadcast_to(end, starts.shape) for end in factor.ends)
        values.append(enclosing((value_low.min(axis=0), value_high.max(axis=0))))
    return Bounds(
        Slopes(slopes.low.min(axis=1), slopes.high.max(axis=1), slopes.square_sum.max(axis=0)), values
    )  # fmt: skip
