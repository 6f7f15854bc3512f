"""Prove the slopes of a program on the whole line.

Between two numbers the line is divided into cells, on which `jets` bounds the slopes. Beyond these numbers `tails`
bounds them. Proofs are kept for later calls, since a network has the same activation many times.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import arithmetic, enclosing, host
from specnorm_networks.certified.curves import exact
from specnorm_networks.certified.curves.jets import CurveBounds, Evaluation, bounds_by_branches, evaluate
from specnorm_networks.certified.curves.periods import period_of
from specnorm_networks.certified.curves.programs import Plan, Switch
from specnorm_networks.certified.curves.tails import Tail, UnknownError
from specnorm_networks.certified.operators.base import FloatArray

MOST_FUNCTIONS = 512
"""Largest number of functions of one program: channels may have constants of their own."""
STARTS = (2.0**4, 2.0**6, 2.0**10, 2.0**16, 2.0**24, 2.0**40)
"""Numbers at which tails may begin, tried one after the other."""
RTOL = 2.0**-21
"""Relative distance from an attained slope at which the search for the largest slope stops."""
HOPELESS_WIDTH = 2.0**-30
"""Width of a cell, relative to its argument, at which the search gives up if the cell's slopes have no bound."""
PARTS_OF_CELL = 8
"""Number of parts of a cell that is divided."""
MOST_ROUNDS = 14
"""Largest number of rounds in which cells are divided."""
MOST_CELLS_OF_ROUND = 2**11
"""Largest number of cells that are divided in one round, for each function."""
MOST_CELLS = 2**16
"""Largest number of cells of all rounds together, for each function."""
MOST_HALVINGS = 30
"""Largest number of times that a cell is halved in which a step may jump."""
MOST_JUMPS = 256
"""Largest number of cells that are halved in search of a jump."""


@dataclass(frozen=True, eq=False)
class Proof:
    """Slopes of each function and output on the whole line."""

    low: FloatArray
    high: FloatArray
    """Smallest and largest slopes, shape (outputs, functions)."""
    constants: FloatArray
    """Root of the largest sum of squared slopes of all outputs, shape (functions,)."""

    @property
    def constant(self) -> float:
        """Largest constant of any function, all outputs together."""
        return float(self.constants.max())


_PROOFS: dict[Hashable, Proof | str] = {}
"""Earlier answers, by the plans' keys: proofs, or the reasons why there is none."""
MOST_PROOFS = 512
"""Largest number of answers that are kept."""


@arithmetic.on_host()
def prove(plan: Plan) -> Proof | str:
    """Return the slopes of a program on the whole line, or the reason why there is no proof."""
    key = plan.key
    if key not in _PROOFS:
        if len(_PROOFS) >= MOST_PROOFS:
            _PROOFS.pop(next(iter(_PROOFS)))
        _PROOFS[key] = _prove(plan)
    return _PROOFS[key]


def _prove(plan: Plan) -> Proof | str:
    """Return the slopes of a program, or the reason why there is no proof.

    Tails are begun at several numbers, one after the other; the best proof is kept.
    """
    flat, function_numbers = plan.distinct_functions
    count = int(function_numbers.max(initial=0)) + 1
    if count > MOST_FUNCTIONS:
        return f"its constants make {count} different functions of it"
    period = period_of(flat, count)
    if period is not None:
        proof, _ = _prove_between(flat, count, (0.0, period), None)
        return proof
    tails_from = _known_tails(flat, count)
    best: Proof | None = None
    for number, (start, tails) in enumerate(tails_from):
        proof, attained = _prove_between(flat, count, (-start, start), tails)
        if isinstance(proof, str):
            return proof if best is None else best
        if best is None or proof.constant < best.constant:
            best = proof
        # Tails that begin further away can give a better proof only if the present tails, not the cells between them,
        # have the largest slopes, and the further tails have smaller ones.
        if number + 1 == len(tails_from) or tails.constant <= attained * (1 + RTOL):
            break
        _, further_tails = tails_from[number + 1]
        if further_tails.constant >= tails.constant * (1 - RTOL):
            break
    if best is None:
        return "its slope has no bound for large values that is known here"
    return best


def _prove_between(
    plan: Plan,
    count: int,
    ends: tuple[float, float],
    tails: _Tails | None,
) -> tuple[Proof | str, float]:
    """Prove the slopes of ``count`` functions between two numbers, and with the tails beyond them, if there are any.

    Returns
    -------
    Proof or str
        The proof, or the reason why there is none.
    float
        The largest slope that is attained between the numbers, all outputs together (not proven).
    """
    reason = _discontinuity(plan, count, *ends) if plan.jumps else None
    if reason is not None:
        return reason, math.inf
    search = _Search(plan, count, ends, tails)
    return search.prove(), search.attained


@dataclass(frozen=True, eq=False)
class _Tails:
    """Slopes of each function and output below a negative number and above a positive one."""

    low: FloatArray
    high: FloatArray
    """Smallest and largest slopes, shape (outputs, functions)."""
    square_sum: FloatArray
    """Largest sum of squared slopes of all outputs, shape (functions,)."""

    @property
    def constant(self) -> float:
        """Largest constant of any function, all outputs together (not rounded up)."""
        return math.sqrt(float(self.square_sum.max()))


def _known_tails(plan: Plan, count: int) -> list[tuple[float, _Tails]]:
    """Return the `STARTS` from which all slopes are known, each with the tails that begin there."""
    known = []
    for start in STARTS:
        tails = _tails(plan, count, start)
        if tails is not None:
            known.append((start, tails))
    return known


def _tails(plan: Plan, count: int, start: float) -> _Tails | None:
    """Return the slopes below ``-start`` and above ``start``; None if one is unknown. ``count``: of functions."""
    outputs = len(plan.outputs)
    low = np.full((outputs, count), math.inf)
    high = np.full((outputs, count), -math.inf)
    square_sums = np.zeros(count)
    for number in range(count):
        function = plan.of_function(number)
        for side in (-1, 1):
            try:
                tail = Tail(function, side, start)
                slopes = [tail.slope(value) for value in plan.outputs]
            except (UnknownError, OverflowError):
                return None
            square_sum = 0.0
            for output, (least, most) in enumerate(slopes):
                low[output, number] = min(low[output, number], least)
                high[output, number] = max(high[output, number], most)
                largest = max(abs(least), abs(most))
                square_sum = host.add_up(square_sum, host.mul_up(largest, largest))
            square_sums[number] = max(square_sums[number], square_sum)
    return _Tails(low, high, square_sums)


# -- slopes between the tails -----------------------------------------------------------------------------------------
class _Search:
    """A search over cells of all functions: it divides the cells that may contain the largest or the smallest slope.

    A cell is an interval of the argument of one function, whose number is ``function_of_cell``.
    """

    def __init__(
        self,
        plan: Plan,
        count: int,
        ends: tuple[float, float],
        tails: _Tails | None,
    ) -> None:
        self.plan = plan
        self.count = count
        outputs = len(plan.outputs)
        self.low = np.full((outputs, count), math.inf) if tails is None else tails.low
        self.high = np.full((outputs, count), -math.inf) if tails is None else tails.high
        self.square_sum = np.zeros(count) if tails is None else tails.square_sum
        # Slopes that are attained in some cell: the search may stop near them. They prove nothing.
        self.attained_low = np.full((outputs, count), math.inf)
        self.attained_high = np.full((outputs, count), -math.inf)
        self.attained_square_sum = np.zeros(count)
        self.ends = ends

    def prove(self) -> Proof | str:
        """Divide cells in rounds; return the slopes that this proves."""
        low, high, function_of_cell = _first_cells(self.plan, self.count, *self.ends)
        work = MOST_CELLS * self.count
        for rounds_left in reversed(range(MOST_ROUNDS)):
            bounds = bounds_by_branches(self.plan, low, high, function_of_cell)
            self._note_attained(bounds, function_of_cell)
            work -= len(low)
            may_go_on = rounds_left > 0 and work > 0
            can_be_divided = host.next_up(low) < high
            divides = self._may_hold_an_extreme(bounds, function_of_cell) & can_be_divided & may_go_on
            if divides.sum() > MOST_CELLS_OF_ROUND * self.count:
                # Cells with the largest sums of squares come first.
                order = np.argsort(-np.where(divides, bounds.square_sum, -math.inf), kind="stable")
                divides[order[MOST_CELLS_OF_ROUND * self.count :]] = False
            # If a small cell has no bound, smaller ones will have none, and no proof is possible: no cell is divided
            # further.
            is_hopeless = ~np.isfinite(bounds.square_sum) & (high - low <= HOPELESS_WIDTH * np.maximum(1.0, abs(low)))
            divides &= not is_hopeless.any()
            self._settle(bounds, function_of_cell, ~divides)
            if not divides.any():
                break
            low, high, function_of_cell = _divide(low[divides], high[divides], function_of_cell[divides])
        if not (np.isfinite(self.low).all() and np.isfinite(self.high).all() and np.isfinite(self.square_sum).all()):
            return "its slope has no bound that is known here"
        steepest = np.maximum(abs(self.low), abs(self.high))
        # Two bounds of the root of the sum of squares: of the largest sum, and of the largest slope of each output.
        by_square_sum = [host.sqrt_up(float(square_sum)) for square_sum in self.square_sum]
        by_outputs = [host.hypot_up(*slopes_of_function) for slopes_of_function in steepest.T.tolist()]
        return Proof(self.low, self.high, np.minimum(by_square_sum, by_outputs))

    @property
    def attained(self) -> float:
        """Largest slope, all outputs together, that is attained (not proven)."""
        return math.sqrt(float(self.attained_square_sum.max()))

    def _note_attained(self, bounds: CurveBounds, function_of_cell: NDArray[np.intp]) -> None:
        """Note slopes that are attained: in each cell, a slope between its lower and its upper bound is."""
        for output in range(len(bounds.low_slope)):
            low = bounds.low_slope[output]
            high = bounds.high_slope[output]
            is_finite = np.isfinite(low) & np.isfinite(high)
            np.minimum.at(self.attained_low[output], function_of_cell[is_finite], high[is_finite])
            np.maximum.at(self.attained_high[output], function_of_cell[is_finite], low[is_finite])
        contains_0 = (bounds.low_slope <= 0) & (bounds.high_slope >= 0)
        smallest = np.where(contains_0, 0.0, np.minimum(abs(bounds.low_slope), abs(bounds.high_slope)))
        square_sum = np.square(smallest).sum(axis=0)
        is_finite = np.isfinite(square_sum)
        np.maximum.at(self.attained_square_sum, function_of_cell[is_finite], square_sum[is_finite])

    def _may_hold_an_extreme(self, bounds: CurveBounds, function_of_cell: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Return which cells have slopes beyond the attained and the settled ones by more than the tolerance."""
        least = np.minimum(self.attained_low, self.low)
        most = np.maximum(self.attained_high, self.high)
        finite_least = np.where(np.isfinite(least), least, 0.0)
        finite_most = np.where(np.isfinite(most), most, 0.0)
        tolerance = RTOL * np.maximum(abs(finite_least), abs(finite_most))
        if len(bounds.low_slope) > 1:
            largest = np.maximum(self.attained_square_sum, self.square_sum)
            is_beyond = bounds.square_sum > (largest * (1 + 2 * RTOL))[function_of_cell]
        else:
            below = bounds.low_slope < (least - tolerance)[:, function_of_cell]
            above = bounds.high_slope > (most + tolerance)[:, function_of_cell]
            is_beyond = (below | above).any(axis=0)
        return np.asarray(is_beyond | ~np.isfinite(bounds.square_sum))

    def _settle(self, bounds: CurveBounds, function_of_cell: NDArray[np.intp], settled: NDArray[np.bool_]) -> None:
        """Add to the proof the bounds of the cells that are not divided further."""
        for output in range(len(bounds.low_slope)):
            np.minimum.at(self.low[output], function_of_cell[settled], bounds.low_slope[output][settled])
            np.maximum.at(self.high[output], function_of_cell[settled], bounds.high_slope[output][settled])
        np.maximum.at(self.square_sum, function_of_cell[settled], bounds.square_sum[settled])


Cells: TypeAlias = tuple[FloatArray, FloatArray, NDArray[np.intp]]
"""Lower ends, upper ends, and numbers of the functions of some cells."""


def _first_cells(plan: Plan, count: int, low: float, high: float) -> Cells:
    """Return the cells between two numbers, of each of ``count`` functions."""
    edges = _edges(plan, low, high)
    function_of_cell = np.repeat(np.arange(count), len(edges) - 1)
    return np.tile(edges[:-1], count), np.tile(edges[1:], count), function_of_cell


def _edges(plan: Plan, low: float, high: float) -> FloatArray:
    """Return the ends of the first cells: powers of two and thresholds."""
    sizes = [2.0**k for k in range(-6, 41)]
    thresholds = [switch.threshold for switch in plan.switches]
    candidates = (0.0, *sizes, *(-size for size in sizes), *thresholds)
    edges = {low, high, *(x for x in candidates if low < x < high)}
    return np.array(sorted(edges))


def _divide(
    low: FloatArray,
    high: FloatArray,
    function_of_cell: NDArray[np.intp],
) -> Cells:
    """Return the parts of cells, which are `PARTS_OF_CELL` times as many."""
    share = np.arange(1, PARTS_OF_CELL) / PARTS_OF_CELL
    inner = np.clip(low + share[:, None] * (high - low), low, high)
    edges = np.maximum.accumulate(np.concatenate([low[None], inner, high[None]]), axis=0)
    return edges[:-1].reshape(-1), edges[1:].reshape(-1), np.tile(function_of_cell, PARTS_OF_CELL)


# -- jumps -------------------------------------------------------------------------------------------------------------
def _discontinuity(plan: Plan, count: int, low: float, high: float) -> str | None:
    """Return a sentence that says where a function may jump; None if all are proven to be continuous.

    ``low``, ``high``: two numbers between which the functions are examined.
    """
    left, right, function_of_cell = _first_cells(plan, count, low, high)
    switches = [number for number, switch in enumerate(plan.switches) if switch.jumps]
    for _ in range(MOST_HALVINGS):
        evaluation = evaluate(plan.of_functions(function_of_cell), enclosing((left, right)))
        crossed = np.flatnonzero(evaluation.undecided[switches].any(axis=0))
        cells = []
        for cell in crossed.tolist():
            if not _is_continuous(
                plan, evaluation, cell, float(left[cell]), float(right[cell]), int(function_of_cell[cell])
            ):
                cells.append(cell)
        if not cells:
            return None
        middle = left[cells] / 2 + right[cells] / 2
        inner = (left[cells] < middle) & (middle < right[cells])
        if len(cells) > MOST_JUMPS or not inner.all():
            break
        function_of_cell = np.tile(function_of_cell[cells], 2)
        left = np.concatenate([left[cells], middle])
        right = np.concatenate([middle, right[cells]])
    return f"it may jump where its argument is near {float(left[cells[0]]):.6g}"


def _is_continuous(
    plan: Plan,
    evaluation: Evaluation,
    cell: int,
    low: float,
    high: float,
    number: int,
) -> bool:
    """Whether, at each point of a cell at which branches of a function meet, all of these have one value."""
    function = plan.of_function(number)
    switches_at: dict[Fraction, list[tuple[Switch, int]]] = {}
    for index, switch in enumerate(plan.switches):
        if not switch.jumps or not evaluation.undecided[index, cell]:
            continue
        jet = evaluation.jets[switch.value]
        least = float(jet.slope.low[cell])
        most = float(jet.slope.high[cell])
        is_monotone = 0 < least < math.inf or -math.inf < most < 0
        if not bool(jet.is_defined[cell]) or not is_monotone:
            return False  # the switch's value may jump itself, cross the threshold more than once, or stay at it
        crossing = _crossing(function, switch, low, high)
        if crossing is None:
            return False
        if crossing:
            switches_at.setdefault(crossing[0], []).append((switch, 1 if least > 0 else -1))
    return all(_agrees(function, point, switches) for point, switches in switches_at.items())


def _crossing(plan: Plan, switch: Switch, low: float, high: float) -> list[Fraction] | None:
    """Return the point between two numbers where a monotone value crosses its switch's threshold, in a list.

    The list is empty if there is no such point. None if the point is not known exactly.
    """
    ends = [Fraction(low), Fraction(high)]
    differences = []
    for x in ends:
        value = exact.values_at(plan, x, {})[switch.value]
        if value is None or value.multiples:
            return None
        differences.append(value.rational - Fraction(switch.threshold))
    first, last = differences
    if first == 0 or last == 0:
        return [ends[0] if first == 0 else ends[1]]
    if (first > 0) == (last > 0):
        return []
    point = ends[0] + (ends[1] - ends[0]) * first / (first - last)
    value = exact.values_at(plan, point, {})[switch.value]
    if value is None or value.multiples or value.rational != switch.threshold:
        return None
    return [point]


def _agrees(plan: Plan, point: Fraction, switches: Sequence[tuple[Switch, int]]) -> bool:
    """Whether the values of the outputs at a number are the limits from both sides.

    ``switches``: those that are crossed at the number, each with 1 if its value rises there, and -1 if it falls.
    """
    outputs = []
    for side in (-1, 0, 1):  # just before the point, at it, and just after it
        sides = {(switch.value, switch.threshold): side * direction for switch, direction in switches}
        values = exact.values_at(plan, point, sides)
        outputs.append([values[output] for output in plan.outputs])
    below, there, above = outputs
    return None not in below and below == there == above
