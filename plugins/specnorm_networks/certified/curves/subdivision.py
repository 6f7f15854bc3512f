"""Prove the slopes of a program on the whole line: by cells that are divided between two numbers, and tails beyond.

Proofs are kept: activations recur in a network.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import arithmetic, enclosing, host
from specnorm_networks.certified.curves import exact
from specnorm_networks.certified.curves.jets import Evaluation, Slopes, evaluate, slopes_by_branches
from specnorm_networks.certified.curves.periods import period_of
from specnorm_networks.certified.curves.programs import Plan, Switch, taken
from specnorm_networks.certified.curves.tails import Tail, Unknown
from specnorm_networks.certified.operators.base import FloatArray

FUNCTIONS = 512
"""Largest number of functions of one program: channels may have constants of their own."""
STARTS = (2.0**4, 2.0**6, 2.0**10, 2.0**16, 2.0**24, 2.0**40)
"""Numbers at which tails may begin, tried one after the other."""
CLOSE = 2.0**-21
"""Relative distance to which the largest slopes are bounded."""
TINY = 2.0**-30
"""Relative width of a cell that is not divided further if its slopes have no bound."""
PARTS = 8
"""Number of parts of a cell that is divided."""
ROUNDS = 14
"""Largest number of rounds in which cells are divided."""
CELLS = 2**11
"""Largest number of cells that are divided in one round, for each function."""
WORK = 2**16
"""Largest number of cells of all rounds together, for each function."""
HALVINGS = 30
"""Largest number of times that a cell is halved in which a step jumps."""


@dataclass(frozen=True, eq=False)
class Proof:
    """Slopes of each function and output on the whole line."""

    low: FloatArray
    high: FloatArray
    """Smallest and largest slopes, shape (outputs, functions)."""
    together: FloatArray
    """Root of the largest sum of squared slopes of all outputs, shape (functions,)."""

    @property
    def steepest(self) -> float:
        """Largest slope of any function, all outputs together."""
        return float(self.together.max())


_PROOFS: dict[Hashable, Proof | str] = {}
"""Earlier answers, by the plans' keys."""
MOST_PROOFS = 512


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
    flat, which = plan.entries
    count = int(which.max(initial=0)) + 1
    if count > FUNCTIONS:
        return f"its constants make {count} different functions of it"
    period = period_of(flat, count)
    if period is not None:
        proof, _ = _prove_between(flat, count, (0.0, period), None)
        return proof
    tails_from: list[tuple[float, _Tails]] = []
    for start in STARTS:
        tails = _tails(flat, count, start)
        if tails is not None:
            tails_from.append((start, tails))
    best: Proof | str = "its slope has no bound for large values that is known here"
    for number, (start, tails) in enumerate(tails_from):
        proof, attained = _prove_between(flat, count, (-start, start), tails)
        if isinstance(proof, str):
            return proof if isinstance(best, str) else best
        if isinstance(best, str) or proof.steepest < best.steepest:
            best = proof
        # Tails that begin further away are of no use if slopes are larger inside, or if they are no smaller.
        _, further_tails = tails_from[min(number + 1, len(tails_from) - 1)]
        is_larger_inside = tails.steepest <= attained * (1 + CLOSE)
        if is_larger_inside or further_tails.steepest >= tails.steepest * (1 - CLOSE):
            break
    return best


def _prove_between(
    plan: Plan,
    count: int,
    ends: tuple[float, float],
    tails: _Tails | None,
) -> tuple[Proof | str, float]:
    """Return a proof with tails that begin at two numbers, and a slope that is attained between them."""
    reason = _discontinuity(plan, count, *ends) if plan.jumps else None
    if reason is not None:
        return reason, math.inf
    search = _Search(plan, count, ends, tails)
    return search.prove(), search.attained


def one_of(plan: Plan, number: int) -> Plan:
    """Return the plan of one function, with numbers as constants."""
    shape = plan.constants_shape
    steps = [replace(step, kind=taken(step.kind, shape, number)) for step in plan.steps]  # type: ignore[arg-type]
    return replace(plan, steps=tuple(steps))


@dataclass(frozen=True, eq=False)
class _Tails:
    """Slopes of each function and output below a negative number and above a positive one."""

    low: FloatArray
    high: FloatArray
    """Smallest and largest slopes, shape (outputs, functions)."""
    square: FloatArray
    """Largest sum of squared slopes of all outputs, shape (functions,)."""

    @property
    def steepest(self) -> float:
        """Largest slope of any function, all outputs together."""
        return math.sqrt(float(self.square.max()))


def _tails(plan: Plan, count: int, start: float) -> _Tails | None:
    outputs = len(plan.outputs)
    low = np.full((outputs, count), math.inf)
    high = np.full((outputs, count), -math.inf)
    square = np.zeros(count)
    for number in range(count):
        one = one_of(plan, number)
        for side in (-1, 1):
            try:
                tail = Tail(one, side, start)
                slopes = [tail.slope(output, side) for output in plan.outputs]
            except (Unknown, OverflowError):
                return None
            total = 0.0
            for at, (least, most) in enumerate(slopes):
                low[at, number] = min(low[at, number], least)
                high[at, number] = max(high[at, number], most)
                steep = max(abs(least), abs(most))
                total = host.add_up(total, host.mul_up(steep, steep))
            square[number] = max(square[number], total)
    return _Tails(low, high, square)


# -- slopes between the tails -----------------------------------------------------------------------------------------
class _Search:
    """A search over cells of all functions: those are divided that may hold the largest or the smallest slope."""

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
        self.square = np.zeros(count) if tails is None else tails.square
        # Slopes that are attained: the search may stop near them. They prove nothing.
        self.attained_low = np.full((outputs, count), math.inf)
        self.attained_high = np.full((outputs, count), -math.inf)
        self.attained_square = np.zeros(count)
        edges = _edges(plan, *ends)
        self.cells = (
            np.tile(edges[:-1], count),
            np.tile(edges[1:], count),
            np.repeat(np.arange(count), len(edges) - 1),
        )

    def prove(self) -> Proof | str:
        """Divide cells in rounds; return the slopes that this proves."""
        low, high, which = self.cells
        work = WORK * self.count
        for rounds_left in reversed(range(ROUNDS)):
            slopes = slopes_by_branches(self.plan, low, high, which)
            self._note_attained(slopes, which)
            work -= len(low)
            may_go_on = rounds_left > 0 and work > 0
            divides = self._may_hold_an_extreme(slopes, which) & (host.next_up(low) < high) & may_go_on
            if divides.sum() > CELLS * self.count:
                # Cells with the largest sums of squares come first.
                order = np.argsort(-np.where(divides, slopes.square, -math.inf), kind="stable")
                divides[order[CELLS * self.count :]] = False
            # If a small cell has no bound, smaller ones will have none.
            is_hopeless = ~np.isfinite(slopes.square) & (high - low <= TINY * np.maximum(1.0, abs(low)))
            divides &= not is_hopeless.any()
            self._settle(slopes, which, ~divides)
            if not divides.any():
                break
            low, high, which = _divide(low[divides], high[divides], which[divides])
        if not (np.isfinite(self.low).all() and np.isfinite(self.high).all() and np.isfinite(self.square).all()):
            return "its slope has no bound that is known here"
        steepest = np.maximum(abs(self.low), abs(self.high))
        by_outputs = np.array([host.hypot_up(*column) for column in steepest.T.tolist()])
        together = np.minimum([host.sqrt_up(float(square)) for square in self.square], by_outputs)
        return Proof(self.low, self.high, np.asarray(together))

    @property
    def attained(self) -> float:
        """Largest slope, all outputs together, that is attained (not proven)."""
        return math.sqrt(float(self.attained_square.max()))

    def _note_attained(self, slopes: Slopes, which: NDArray[np.intp]) -> None:
        """Note for each cell that slopes at least as large as its smallest ones are attained in it."""
        for output in range(len(slopes.low)):
            low = slopes.low[output]
            high = slopes.high[output]
            is_finite = np.isfinite(low) & np.isfinite(high)
            np.minimum.at(self.attained_low[output], which[is_finite], high[is_finite])
            np.maximum.at(self.attained_high[output], which[is_finite], low[is_finite])
        contains_0 = (slopes.low <= 0) & (slopes.high >= 0)
        smallest = np.where(contains_0, 0.0, np.minimum(abs(slopes.low), abs(slopes.high)))
        total = np.square(smallest).sum(axis=0)
        is_finite = np.isfinite(total)
        np.maximum.at(self.attained_square, which[is_finite], total[is_finite])

    def _may_hold_an_extreme(self, slopes: Slopes, which: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Return which cells have slopes beyond the attained and the settled ones by more than the tolerance."""
        least = np.minimum(self.attained_low, self.low)
        most = np.maximum(self.attained_high, self.high)
        finite_least = np.where(np.isfinite(least), least, 0.0)
        finite_most = np.where(np.isfinite(most), most, 0.0)
        tolerance = CLOSE * np.maximum(abs(finite_least), abs(finite_most))
        if len(slopes.low) > 1:
            largest = np.maximum(self.attained_square, self.square)
            is_beyond = slopes.square > (largest * (1 + 2 * CLOSE))[which]
        else:
            below = slopes.low < (least - tolerance)[:, which]
            above = slopes.high > (most + tolerance)[:, which]
            is_beyond = (below | above).any(axis=0)
        return np.asarray(is_beyond | ~np.isfinite(slopes.square))

    def _settle(self, slopes: Slopes, which: NDArray[np.intp], settled: NDArray[np.bool_]) -> None:
        """Count the slopes of cells that are not divided further."""
        for output in range(len(slopes.low)):
            np.minimum.at(self.low[output], which[settled], slopes.low[output][settled])
            np.maximum.at(self.high[output], which[settled], slopes.high[output][settled])
        np.maximum.at(self.square, which[settled], slopes.square[settled])


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
    which: NDArray[np.intp],
) -> tuple[FloatArray, FloatArray, NDArray[np.intp]]:
    """Return the parts of cells."""
    share = np.arange(1, PARTS) / PARTS
    inner = np.clip(low + share[:, None] * (high - low), low, high)
    edges = np.maximum.accumulate(np.concatenate([low[None], inner, high[None]]), axis=0)
    return edges[:-1].reshape(-1), edges[1:].reshape(-1), np.tile(which, PARTS)


# -- jumps -------------------------------------------------------------------------------------------------------------
def _discontinuity(plan: Plan, count: int, low: float, high: float) -> str | None:
    """Say where a function may jump; None if all are proven to be continuous between two numbers."""
    edges = _edges(plan, low, high)
    left = np.tile(edges[:-1], count)
    right = np.tile(edges[1:], count)
    which = np.repeat(np.arange(count), len(edges) - 1)
    switches = [at for at, switch in enumerate(plan.switches) if switch.jumps]
    for _ in range(HALVINGS):
        evaluation = evaluate(plan.at(which), enclosing((left, right)))
        crossed = np.flatnonzero(evaluation.open[switches].any(axis=0))
        cells = []
        for cell in crossed.tolist():
            if not _is_continuous(plan, evaluation, cell, float(left[cell]), float(right[cell]), int(which[cell])):
                cells.append(cell)
        if not cells:
            return None
        middle = left[cells] / 2 + right[cells] / 2
        inner = (left[cells] < middle) & (middle < right[cells])
        if len(cells) > 256 or not inner.all():
            break
        which = np.tile(which[cells], 2)
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
    """Whether all branches of a function that meet in a cell agree where they do."""
    one = one_of(plan, number)
    switches_at: dict[Fraction, list[tuple[Switch, int]]] = {}
    for index, switch in enumerate(plan.switches):
        if not switch.jumps or not evaluation.open[index, cell]:
            continue
        jet = evaluation.jets[switch.value]
        least = float(jet.slope.low[cell])
        most = float(jet.slope.high[cell])
        if not bool(jet.defined[cell]) or not (0 < least < math.inf or -math.inf < most < 0):
            return False  # it may jump itself, cross more than once, or stay
        crossing = _crossing(one, switch, low, high)
        if crossing is None:
            return False
        if crossing:
            switches_at.setdefault(crossing[0], []).append((switch, 1 if least > 0 else -1))
    return all(_agrees(one, place, switches) for place, switches in switches_at.items())


def _crossing(plan: Plan, switch: Switch, low: float, high: float) -> list[Fraction] | None:
    """Return the place where a value that rises or falls crosses the switch's threshold, as a list of one number.

    The list is empty if it does not cross it between two numbers. None if the place is not known exactly.
    """
    ends = [Fraction(low), Fraction(high)]
    differences = []
    for x in ends:
        value = exact.values_at(plan, x, {})[switch.value]
        if value is None or value.names:
            return None
        differences.append(value.rational - Fraction(switch.threshold))
    first, last = differences
    if first == 0 or last == 0:
        return [ends[0] if first == 0 else ends[1]]
    if (first > 0) == (last > 0):
        return []
    at = ends[0] + (ends[1] - ends[0]) * first / (first - last)
    value = exact.values_at(plan, at, {})[switch.value]
    if value is None or value.names or value.rational != switch.threshold:
        return None
    return [at]


def _agrees(plan: Plan, at: Fraction, switches: Sequence[tuple[Switch, int]]) -> bool:
    """Whether the values of the outputs at a number are the limits from both sides."""
    outputs = []
    for side in (-1, 0, 1):
        sides = {(switch.value, switch.threshold): side * rising for switch, rising in switches}
        values = exact.values_at(plan, at, sides)
        outputs.append([values[output] for output in plan.outputs])
    below, there, above = outputs
    return None not in below and below == there == above
