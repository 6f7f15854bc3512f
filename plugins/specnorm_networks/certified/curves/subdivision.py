"""The slopes of a plan on the whole line: cells between two numbers that are halved, and tails beyond.

Nothing here is computed twice for the same program: activations recur in a network.
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
"""Different functions of one program, at most: of channels with constants of their own."""
STARTS = (2.0**4, 2.0**6, 2.0**10, 2.0**16, 2.0**24, 2.0**40)
"""Where tails begin, one after the other."""
CLOSE = 2.0**-21
"""Relative distance to which the largest slopes are found."""
TINY = 2.0**-30
PARTS = 8
"""Of each cell that is divided."""
ROUNDS = 14
CELLS = 2**11
"""Most cells that are divided in one round, of each function."""
WORK = 2**16
"""Cells of all rounds together, of each function."""
HALVINGS = 30
"""Of a cell in which a step jumps."""


@dataclass(frozen=True, eq=False)
class Proof:
    """Slopes on the whole line, of each function and output: shape (outputs, functions)."""

    low: FloatArray
    high: FloatArray
    together: FloatArray
    """Shape (functions,): root of the largest sum of squared slopes of all outputs."""

    @property
    def steepest(self) -> float:
        """Of all functions."""
        return float(self.together.max())


_KNOWN: dict[Hashable, Proof | str] = {}
MOST_KNOWN = 512


@arithmetic.on_host()
def prove(plan: Plan) -> Proof | str:
    """Slopes everywhere; or why there are none."""
    key = plan.key
    if key not in _KNOWN:
        if len(_KNOWN) >= MOST_KNOWN:
            _KNOWN.pop(next(iter(_KNOWN)))
        _KNOWN[key] = _proven(plan)
    return _KNOWN[key]


def _proven(plan: Plan) -> Proof | str:
    flat, which = plan.entries
    count = int(which.max(initial=0)) + 1
    if count > FUNCTIONS:
        return f"its constants make {count} different functions of it"
    period = period_of(flat, count)
    if period is not None:
        return _between(flat, count, (0.0, period), None)[0]
    found: Proof | str = "its slope has no bound for large values that is known here"
    known = [(start, tails) for start in STARTS if (tails := _tails(flat, count, start)) is not None]
    for (start, tails), (_, further) in zip(known, [*known[1:], known[-1]] if known else [], strict=True):
        new, attained = _between(flat, count, (-start, start), tails)
        if isinstance(new, str):
            return new if isinstance(found, str) else found
        if isinstance(found, str) or new.steepest < found.steepest:
            found = new
        # Nothing is gained further away.
        if tails.steepest <= attained * (1 + CLOSE) or further.steepest >= tails.steepest * (1 - CLOSE):
            break
    return found


def _between(
    plan: Plan,
    count: int,
    ends: tuple[float, float],
    tails: _Tails | None,
) -> tuple[Proof | str, float]:
    """What is proven with tails that begin at two numbers; and a slope that is attained between them."""
    reason = _discontinuity(plan, count, *ends) if plan.jumps else None
    if reason is not None:
        return reason, math.inf
    search = _Search(plan, count, ends, tails)
    return search.found(), search.attained


def one_of(plan: Plan, number: int) -> Plan:
    """The plan of one function, with numbers as constants."""
    shape = plan.constants_shape
    return replace(plan, steps=tuple(replace(s, kind=taken(s.kind, shape, number)) for s in plan.steps))  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class _Tails:
    """Slopes beyond a number on both sides: shape (outputs, functions)."""

    low: FloatArray
    high: FloatArray
    square: FloatArray
    """Shape (functions,)."""

    @property
    def steepest(self) -> float:
        """Of all functions, the outputs together."""
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
    """Cells of all functions, of which those are divided that may hold the largest or the smallest slope."""

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
        # What is attained: the search may stop near it. Nothing is proven by it.
        self.reached_low = np.full((outputs, count), math.inf)
        self.reached_high = np.full((outputs, count), -math.inf)
        self.reached_square = np.zeros(count)
        edges = _edges(plan, *ends)
        self.cells = (
            np.tile(edges[:-1], count), np.tile(edges[1:], count), np.repeat(np.arange(count), len(edges) - 1)
        )  # fmt: skip

    def found(self) -> Proof | str:
        """The slopes that are proven."""
        low, high, which = self.cells
        work = WORK * self.count
        for left in reversed(range(ROUNDS)):
            slopes = slopes_by_branches(self.plan, low, high, which)
            self._reach(slopes, which)
            work -= len(low)
            wanted = self._wanted(slopes, which) & (host.next_up(low) < high) & (left > 0 and work > 0)
            if wanted.sum() > CELLS * self.count:
                # Those with the largest sums of squares.
                order = np.argsort(-np.where(wanted, slopes.square, -math.inf), kind="stable")
                wanted[order[CELLS * self.count :]] = False
            # Where a small cell has no bound, smaller ones will have none.
            hopeless = ~np.isfinite(slopes.square) & (high - low <= TINY * np.maximum(1.0, abs(low)))
            wanted &= not hopeless.any()
            self._settle(slopes, which, ~wanted)
            if not wanted.any():
                break
            low, high, which = _divided(low[wanted], high[wanted], which[wanted])
        if not (np.isfinite(self.low).all() and np.isfinite(self.high).all() and np.isfinite(self.square).all()):
            return "its slope has no bound that is known here"
        steepest = np.maximum(abs(self.low), abs(self.high))
        apart = np.array([host.hypot_up(*column) for column in steepest.T.tolist()])
        together = np.minimum([host.sqrt_up(float(each)) for each in self.square], apart)
        return Proof(self.low, self.high, np.asarray(together))

    @property
    def attained(self) -> float:
        """The largest slope, of all outputs together, that is attained, about."""
        return math.sqrt(float(self.reached_square.max()))

    def _reach(self, slopes: Slopes, which: NDArray[np.intp]) -> None:
        """Each cell has slopes as large as the smallest that it may have."""
        for at in range(len(slopes.low)):
            known = np.isfinite(slopes.low[at]) & np.isfinite(slopes.high[at])
            np.minimum.at(self.reached_low[at], which[known], slopes.high[at][known])
            np.maximum.at(self.reached_high[at], which[known], slopes.low[at][known])
        smallest = np.where((slopes.low <= 0) & (slopes.high >= 0), 0.0, np.minimum(abs(slopes.low), abs(slopes.high)))
        total = np.square(smallest).sum(axis=0)
        known = np.isfinite(total)
        np.maximum.at(self.reached_square, which[known], total[known])

    def _wanted(self, slopes: Slopes, which: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Cells whose slopes are beyond what is attained or settled by more than the tolerance."""
        least = np.minimum(self.reached_low, self.low)
        most = np.maximum(self.reached_high, self.high)
        size = np.maximum(abs(np.where(np.isfinite(least), least, 0.0)), abs(np.where(np.isfinite(most), most, 0.0)))
        allowed = CLOSE * size
        below = slopes.low < (least - allowed)[:, which]
        above = slopes.high > (most + allowed)[:, which]
        wanted = (below | above).any(axis=0)
        if len(slopes.low) > 1:
            wanted = slopes.square > (np.maximum(self.reached_square, self.square) * (1 + 2 * CLOSE))[which]
        return np.asarray(wanted | ~np.isfinite(slopes.square))

    def _settle(self, slopes: Slopes, which: NDArray[np.intp], done: NDArray[np.bool_]) -> None:
        for at in range(len(slopes.low)):
            np.minimum.at(self.low[at], which[done], slopes.low[at][done])
            np.maximum.at(self.high[at], which[done], slopes.high[at][done])
        np.maximum.at(self.square, which[done], slopes.square[done])


def _edges(plan: Plan, low: float, high: float) -> FloatArray:
    """Where the first cells begin and end: at powers of two and at thresholds."""
    sizes = [2.0**k for k in range(-6, 41)]
    thresholds = [switch.threshold for switch in plan.switches]
    found = {low, high, *(x for x in (0.0, *sizes, *(-x for x in sizes), *thresholds) if low < x < high)}
    return np.array(sorted(found))


def _divided(
    low: FloatArray,
    high: FloatArray,
    which: NDArray[np.intp],
) -> tuple[FloatArray, FloatArray, NDArray[np.intp]]:
    share = np.arange(1, PARTS) / PARTS
    inner = np.clip(low + share[:, None] * (high - low), low, high)
    edges = np.maximum.accumulate(np.concatenate([low[None], inner, high[None]]), axis=0)
    return edges[:-1].reshape(-1), edges[1:].reshape(-1), np.tile(which, PARTS)


# -- jumps -------------------------------------------------------------------------------------------------------------
def _discontinuity(plan: Plan, count: int, low: float, high: float) -> str | None:
    """Where a function may jump, in words; None if all are proven to be continuous between two numbers."""
    edges = _edges(plan, low, high)
    left = np.tile(edges[:-1], count)
    right = np.tile(edges[1:], count)
    which = np.repeat(np.arange(count), len(edges) - 1)
    switches = [at for at, switch in enumerate(plan.switches) if switch.jumps]
    for _ in range(HALVINGS):
        found = evaluate(plan.at(which), enclosing((left, right)))
        left_over = np.flatnonzero(found.open[switches].any(axis=0))
        cells = [
            at for at in left_over.tolist()
            if not _joins(plan, found, at, float(left[at]), float(right[at]), int(which[at]))
        ]  # fmt: skip
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


def _joins(
    plan: Plan,
    found: Evaluation,
    cell: int,
    low: float,
    high: float,
    number: int,
) -> bool:
    """Whether all branches of a function that meet in a cell agree where they do."""
    one = one_of(plan, number)
    crossing = [switch for at, switch in enumerate(plan.switches) if switch.jumps and found.open[at, cell]]
    crossings: dict[Fraction, list[tuple[Switch, int]]] = {}
    for switch in crossing:
        jet = found.jets[switch.value]
        least = float(jet.slope.low[cell])
        most = float(jet.slope.high[cell])
        if not bool(jet.defined[cell]) or not (0 < least < math.inf or -math.inf < most < 0):
            return False  # it may jump itself, cross more than once, or stay
        at = _crossing(one, switch, low, high)
        if at is None:
            return False
        if at:
            crossings.setdefault(at[0], []).append((switch, 1 if least > 0 else -1))
    return all(_agrees(one, at, switches) for at, switches in crossings.items())


def _crossing(plan: Plan, switch: Switch, low: float, high: float) -> list[Fraction] | None:
    """Where a value that rises or falls crosses a number between two; empty: nowhere; None: not known exactly."""
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
    """Whether the values on both sides of a number, and there, are the same."""
    values = []
    for side in (-1, 0, 1):
        sides = {(switch.value, switch.threshold): side * rising for switch, rising in switches}
        known = exact.values_at(plan, at, sides)
        values.append([known[output] for output in plan.outputs])
    return None not in values[0] and values[0] == values[1] == values[2]
