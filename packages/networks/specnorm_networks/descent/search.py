"""The search of a run's weights: rounds of gradient steps, and what they propose at the end.

The *last grid* is the finest one that is affordable. On it, the multipliers of the best states are made feasible at the
end. T is the matrix of weighted layers whose norm a proof bounds (`certified.parts`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from specnorm.proof import Clock, OutOfTime, arithmetic, backends
from specnorm_networks.certified.links import Run
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.descent.adam import Adam
from specnorm_networks.descent.costs import RATE, cost, cost_at
from specnorm_networks.descent.gradient import (
    DECAY,
    STEP,
    gradient_steps,
    value_alone,
)
from specnorm_networks.descent.stages import Parts, Stage, frequencies_of_part, stages_of_part, stages_of_run
from specnorm_networks.progress import Progress

ROUNDS = ((6, 20), (6, 30), (10, 50), (16, 100))
"""Rounds of gradient steps: frequencies an axis, and steps. Further rounds are as the last, each with twice as many
steps as the one before."""
WORTH_KEEPING = 2.5e-3
"""Gain of the constant's square that makes another proposal: more than a proof adds."""
MEMORY = 2**30
"""Bytes that a step may take."""
FINEST = 16
"""Frequencies an axis of the last grid, on which multipliers are made feasible."""
LAST_EVALUATIONS = 5
"""Evaluations, about, that make the last state of a run of convolutions feasible: they are left time."""
LAST_STATES = 3
"""States that are always made feasible on the last grid."""
CHEAP = 0.02
"""Share of the budget that may be spent on making more states feasible."""
RISES = (1e-3, 4e-3, 1.2e-2)
"""Relative rises of the square of a part's constant between the points of the last grid, with which the best state is
proposed, too: proofs meet them."""
FEWEST = 3
"""Frequencies an axis below which no weights are searched."""
PATIENCE = 25
"""Steps without a gain of a thousandth after which a round on a grid ends, if the last of `ROUNDS` is affordable."""
FEW_STEPS = 10
"""Steps that a round has at least: with fewer it is not begun."""
PEAK_ROUND = 25
"""Steps between two visits of the last grid. These steps are on the coarsest grid and at the peaks of the last one."""
PEAK_RATES = (0.3, 0.02)
"""Shares of Adam's rate in the first and the last of these steps."""
HIGH = 0.98
"""Share of the largest value of a link that a peak has at least."""
PEAKS_OF_LINK = 2
"""Largest number of peaks of a link."""


class State(NamedTuple):
    """A point that the search reached, and its value on its grid: the logarithm of the constant's square."""

    value: float
    point: FloatArray


def search_weights(
    run: Run,
    parts: Parts,
    steps: int,
    seconds: float,
    progress: Progress | None = None,
    clock: Clock | None = None,
) -> list[list[FloatArray]]:
    """Return weights of each link's values, for `parts.constant_of_run`: several, the most promising first.

    The states that a larger budget proposes include those of a smaller one: every state that was better by
    `WORTH_KEEPING` than the one before. The list is empty if the first step is too expensive.

    Parameters
    ----------
    steps : int
        Largest number of gradient steps, rounded down to 1, 2 or a multiple of 5; 0: the closed form.
    seconds : float
        Budget in units of `RATE` products, after which no step is begun.
    progress : callable, optional
        Called after each step with (steps done, steps at most, between which values).
    """
    like: Any = run.links[0].slopes[0]
    with arithmetic.exact(like, backend=backends.backend_for(like)):
        return _Search(run, parts, steps, seconds * RATE, progress, clock or Clock()).run()


def _may_be_kept(step: int) -> bool:
    """Whether a state after some number of steps may be proposed: the same steps for every budget."""
    return step % 5 == 0 or step in (1, 2)


class _Search:
    """One search: where it stands, what it may still cost, and what it proposes."""

    def __init__(
        self,
        run: Run,
        parts: Parts,
        steps: int,
        budget: float,
        progress: Progress | None,
        clock: Clock,
    ) -> None:
        self.network = run
        self.parts = parts
        self.links = run.links[:-1]
        self.progress = progress
        self.clock = clock
        self.steps = steps
        self.last_step = next(step for step in range(steps, -1, -1) if _may_be_kept(step))
        self.steps_done = 0
        self.budget = budget
        self.budget_left = budget
        self.point = np.zeros(sum(link.width for link in self.links) + len(self.links))
        self.states: list[State] = []
        self.dtype: Any = np.complex64
        # A round that gains no more may end early and leave its steps to later rounds. If the last of `ROUNDS` is not
        # affordable, later rounds are planned by what is left of the budget. Then no round ends early: when it does
        # depends on rounding, and so would the plan.
        self.patience = PATIENCE if self._affords(*ROUNDS[-1]) else None
        self.points_of_last_grid = self._affordable_points(FINEST, budget / 10)
        """Frequencies an axis of the last grid; 0: not even the coarsest is affordable."""
        self.frequencies: list[FloatArray] = []
        """Frequencies of each part: those of the coarsest grid, and points of the last one at which links peak."""

    def run(self) -> list[list[FloatArray]]:
        first_points = self._affordable_points(ROUNDS[0][0], self.budget_left)
        if not first_points:
            return []
        step_cost = cost(self.network, self.parts, first_points).products
        if not self.clock.affords(step_cost):
            self.clock.has_cut = True
            return []
        clock = self.clock
        left = clock.left
        first_grid = stages_of_run(self.network, self.parts, first_points)
        self._keep(self._value(first_grid), anew=True)
        if any(stage.angles.any() for stage in first_grid) and math.isfinite(left):
            self.clock = clock.before(LAST_EVALUATIONS * (left - clock.left))
        try:
            self.clock.require(step_cost)
            if not self._single_precision_is_enough(first_points):
                self.dtype = np.complex128
            self._make_rounds()
        except OutOfTime:
            clock.has_cut = True
        except np.linalg.LinAlgError:
            pass  # earlier states are as good
        clock.has_cut |= self.clock.expired
        if not self.points_of_last_grid:
            self.points_of_last_grid = first_points
            self.last_grid = first_grid
        if self.point is not self.states[-1].point:
            self.states.append(State(math.nan, self.point))  # the last one, however little better it is
        proposals = sorted(self._feasible_states(), key=lambda proposal: proposal[0])
        return [self._weights(value, multipliers) for value, multipliers in proposals]

    def _single_precision_is_enough(self, points: int) -> bool:
        """Whether single precision gives the first value that double precision does."""
        with contextlib.suppress(np.linalg.LinAlgError, ArithmeticError):
            value = self._value(stages_of_run(self.network, self.parts, points, self.dtype))
            return abs(value - self.states[0].value) < WORTH_KEEPING
        return False

    def _affordable_points(self, points: int, budget: float) -> int:
        """Return the points an axis of a grid whose steps fit a budget, with fewer if need be; 0 if none fits."""
        while points >= FEWEST:
            step = cost(self.network, self.parts, points)
            if step.products <= budget and step.memory <= MEMORY:
                return points
            points -= 2
        return 0

    # -- rounds ------------------------------------------------------------------------------------------------------
    def _make_rounds(self) -> None:
        """Make rounds of gradient steps."""
        last_points, _ = ROUNDS[-1]
        points_of_grid = 0
        grid: list[Stage] = []
        for wanted_points, steps in _rounds():
            if self.steps_done >= self.last_step:
                return
            states_before = len(self.states)
            if grid and not self._affords(wanted_points, steps) and self._descend_at_peaks(steps):
                continue
            points = self._affordable_points(wanted_points, self.budget_left)
            if not points:
                return
            is_new_grid = points != points_of_grid
            if is_new_grid:
                points_of_grid = points
                grid = stages_of_run(self.network, self.parts, points, self.dtype)
            self._descend(grid, steps, cost(self.network, self.parts, points).products, anew=is_new_grid)
            if wanted_points == last_points and len(self.states) == states_before:
                return

    def _affords(self, points: int, steps: int) -> bool:
        """Whether all steps of a round on a grid are within what is left of the budget."""
        step = cost(self.network, self.parts, points)
        return steps * step.products <= self.budget_left and step.memory <= MEMORY

    def _descend(
        self,
        grid: Sequence[Stage],
        steps: int,
        step_cost: float,
        *,
        anew: bool,
        rates: tuple[float, float] | None = None,
        adam: Adam | None = None,
    ) -> None:
        """Make gradient steps, as many as are affordable, and go to the best point on the way.

        ``anew``: earlier values are of another grid. ``rates``, ``adam``: as in `gradient_steps`.
        """
        steps = min(steps, int(self.budget_left / step_cost))
        if steps == 0:
            return
        self.clock.require(step_cost)
        iterates = gradient_steps(grid, self.links, self.point, steps, self.patience, rates, adam)
        for number, least, point in iterates:
            self.point = point
            self.budget_left -= step_cost
            self.clock.require(step_cost)  # of another step
            if number > 0:
                self._count_step()
                if _may_be_kept(self.steps_done):
                    self._keep(least, anew=anew)
                    anew = False
            if self.steps_done >= self.last_step:
                break

    def _descend_at_peaks(self, steps: int) -> bool:
        """Make gradient steps on the coarsest grid and at peaks of the last one; return whether any were made.

        The values at few frequencies are nearly those on the whole grid if the peaks are visited again after some
        steps: new ones are added, and none is left out.
        """
        coarse_points, _ = ROUNDS[0]
        if self.points_of_last_grid <= coarse_points:
            return False
        visit_cost = cost(self.network, self.parts, self.points_of_last_grid).products
        visits = math.ceil(steps / PEAK_ROUND)
        for_steps = self.budget_left - visits * visit_cost
        # A step costs twice as much as on the coarsest grid: there are about as many peaks as frequencies on it.
        planned = min(steps, int(for_steps / (2 * cost(self.network, self.parts, coarse_points).products)))
        if planned < FEW_STEPS:
            return False
        adam = Adam(STEP, DECAY)
        first_rate, last_rate = PEAK_RATES
        fall = (last_rate - first_rate) / planned
        for begin in range(0, planned, PEAK_ROUND):
            if self.steps_done >= self.last_step:
                break
            self.clock.require(visit_cost)
            self._add_peaks(coarse_points)
            self.budget_left -= visit_cost
            grid: list[Stage] = []
            for part, angles in zip(self.parts, self.frequencies, strict=True):
                grid += stages_of_part(self.network, self.parts, part, angles, self.dtype)
            counts = list(map(len, self.frequencies))
            step_cost = cost_at(self.network, self.parts, counts).products
            end = min(begin + PEAK_ROUND, planned)
            rates = (first_rate + fall * begin, first_rate + fall * end)
            self._descend(grid, end - begin, step_cost, anew=True, rates=rates, adam=adam)
        return True

    def _add_peaks(self, coarse_points: int) -> None:
        """Visit the last grid, and add its points with the largest values to the frequencies."""
        value_alone(self.last_grid, self.point)
        self.frequencies = self.frequencies or [
            frequencies_of_part(self.network, part, coarse_points) for part in self.parts
        ]
        for number, (first, last) in enumerate(self.parts):
            peaks: list[FloatArray] = []
            for stage in self.last_grid[first:last]:
                largest = np.argsort(-stage.values)[:PEAKS_OF_LINK]
                peaks += list(stage.angles[largest[stage.values[largest] >= HIGH * stage.values.max()]])
            self.frequencies[number] = _joined(self.frequencies[number], peaks)

    @cached_property
    def last_grid(self) -> list[Stage]:
        """The run on the last grid."""
        return stages_of_run(self.network, self.parts, self.points_of_last_grid, self.dtype)

    def _count_step(self) -> None:
        self.steps_done += 1
        if self.progress is not None:
            self.progress(self.steps_done, self.steps, f"{self.network.start} to {self.network.end}")

    def _value(self, grid: Sequence[Stage]) -> float:
        value, _ = value_alone(grid, self.point)
        return value

    def _keep(self, value: float, *, anew: bool) -> None:
        """Keep the present point as a state if it is better than the last one; ``anew``: in any case."""
        if anew or value < self.states[-1].value - WORTH_KEEPING:
            self.states.append(State(value, self.point))

    # -- proposals ---------------------------------------------------------------------------------------------------
    def _weights(self, value: float, multipliers: Sequence[FloatArray]) -> list[FloatArray]:
        """Return weights of all values. The last one is weighed by the constant: the norms of all parts are about 1."""
        last = np.full(self.network.links[-1].width, math.exp(-value / 2))
        return [*(np.sqrt(numbers) for numbers in multipliers), last]

    def _feasible_states(self) -> list[tuple[float, list[FloatArray]]]:
        """Return values and multipliers of the last states, made feasible; earlier ones, too, if they are cheap.

        No other is made feasible than the last one once the time is up.
        """
        feasible: list[tuple[float, list[FloatArray]]] = []
        state_cost = cost(self.network, self.parts, self.points_of_last_grid).products
        for count, state in enumerate(reversed(self.states)):
            is_expensive = count >= LAST_STATES and count * state_cost > CHEAP * self.budget
            if is_expensive or (count > 0 and self.clock.expired):
                break
            self.point = state.point
            with contextlib.suppress(np.linalg.LinAlgError, ArithmeticError):
                feasible.append(value_alone(self.last_grid, self.point))
        feasible.sort(key=lambda proposal: proposal[0])
        return [*feasible, *(self._raised(*best, rise) for best in feasible[:1] for rise in RISES)]

    def _raised(self, value: float, multipliers: Sequence[FloatArray], rise: float) -> tuple[float, list[FloatArray]]:
        """Return value and multipliers if the square of each part's constant is ``exp(rise)`` times as large."""
        raised: list[FloatArray] = []
        for number, (first, last) in enumerate(self.parts):
            raised += [numbers * math.exp(-number * rise) for numbers in multipliers[first : last - 1]]
            raised += [numbers * math.exp(-(number + 1) * rise) for numbers in multipliers[last - 1 : last]]
        return value + len(self.parts) * rise, raised


def _rounds() -> Iterator[tuple[int, int]]:
    """Yield the rounds of gradient steps: frequencies an axis, and steps."""
    yield from ROUNDS
    points, steps = ROUNDS[-1]
    while True:
        steps *= 2
        yield points, steps


def _joined(angles: FloatArray, others: Sequence[FloatArray]) -> FloatArray:
    """Return frequencies, and those of others that are not among them."""
    new = [each for each in others if not (abs(angles - each) < 1e-9).all(axis=1).any()]
    return np.concatenate([angles, np.unique(new, axis=0)]) if new else angles
