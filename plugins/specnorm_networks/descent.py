"""Search: weights that make a run's constant small. It proposes, and claims nothing; `segments` proves.

Gradient steps (Adam) on what `recursion` computes, in single precision where that is enough, on coarse grids first. At
the end the last states are made feasible on a fine grid, and their constants looked at between its points.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from specnorm.backends import backend_for
from specnorm.certified import arithmetic
from specnorm.clock import Clock, OutOfTime
from specnorm_networks.adam import Adam
from specnorm_networks.certified.affine_maps import AffineMap, Subnetwork
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.recursion import ALMOST, forward, last_log, value_alone, value_and_gradient
from specnorm_networks.stages import Stage, cost, frequencies, stages, stages_of

Progress = Callable[[int, int, str], None]
RATE = 2**32
"""Products of numbers in a second, about: what a budget of seconds is counted in, so that it ends at the same step on
every machine."""
ROUNDS = ((6, 20), (6, 30), (10, 50), (16, 100))
"""Rounds of gradient steps: frequencies an axis, and steps; then each with twice as many as the last."""
WORTH_KEEPING = 2.5e-3
"""Gain of the constant's square that makes another proposal: more than a proof adds."""
MEMORY = 2**30
"""Bytes of what is computed in a step."""
FINEST = 16
"""Frequencies an axis on which the multipliers of the end are made, lest they are infeasible between the others."""
LOOKED_AT, CHEAP = 3, 0.02
"""States that are looked at on the finest grid; part of the budget that may be spent on more."""
REFINED, PEAKS, NEAR = 2, 6, 0.97
"""Of them, whose constants are looked at between its points; near how many of its points, and how high."""
RESONANT = 0.01
"""Such a rise is a narrow peak, for which it is better to scale all multipliers, as the proof does."""
FEWEST = 3
"""Frequencies an axis below which no weights are looked for."""
STEP = 0.07
"""Of Adam, in logarithms of multipliers; it falls to a tenth towards the end of each grid."""


def search(
    run: Subnetwork,
    parts: Sequence[tuple[int, int]],
    steps: int,
    seconds: float,
    progress: Progress | None = None,
    clock: Clock | None = None,
) -> list[list[FloatArray]]:
    """Weights of each link's values, for `segments.constant_of_run`: several, the most promising first; or none.

    What is found on the way to a budget is found on the way to a larger one, and kept where it was better by
    `WORTH_KEEPING` than what was kept before it, or is the end of the search.

    Parameters
    ----------
    steps : int
        Gradient steps at most, rounded down to 1, 2 or a multiple of 5; 0: the closed form.
    seconds : float
        Of `RATE` products each, after which no step is begun.
    progress : callable, optional
        Called after each step with (steps done, steps at most, between which values).
    clock : Clock, optional
        Ends the search, too.
    """
    like: Any = run.links[0].slopes[0]
    with arithmetic.exact(like, backend=backend_for(like)):
        return _Search(run, parts, steps, seconds * RATE, progress, clock or Clock()).run()


def _is_kept(at: int) -> bool:
    """Whether the state after so many steps may be proposed."""
    return at % 5 == 0 or at in (1, 2)


class _Search:
    """One search: where it stands, what it may still cost, and what it proposes."""

    def __init__(
        self,
        run: Subnetwork,
        parts: Sequence[tuple[int, int]],
        steps: int,
        budget: float,
        progress: Progress | None,
        clock: Clock,
    ) -> None:
        self.clock = clock
        self.network, self.parts, self.links = run, parts, run.links[:-1]
        self.steps, self.left, self.whole, self.progress = steps, budget, budget, progress
        self.most = next(at for at in range(steps, -1, -1) if _is_kept(at))
        self.ends = np.cumsum([link.width for link in self.links])
        self.point = np.zeros(sum(link.width for link in self.links) + len(self.links))
        self.done = 0
        self.states: list[tuple[float, FloatArray]] = []
        """Where it stood, and what that was worth on its grid."""
        self.dtype: Any = np.complex64
        self.points = self._affordable(FINEST, budget / 10)
        self.fine: list[Stage] = [] if self.points is None else stages(run, parts, self.points, self.dtype)

    def run(self) -> list[list[FloatArray]]:
        """All of it."""
        first = self._affordable(ROUNDS[0][0], self.left)
        if first is None:
            return []
        grid = stages(self.network, self.parts, first)
        self._keep(self._value(grid)[0], anew=True)
        if not self._narrow_is_enough(first):
            self.dtype = np.complex128
            self.fine = [] if self.points is None else stages(self.network, self.parts, self.points)
        with contextlib.suppress(np.linalg.LinAlgError, OutOfTime):  # what was found before is worth as much
            self._go_on()
        self.fine, self.points = self.fine or grid, self.points or first
        return [self._weights(*each) for each in sorted(self._refined(), key=lambda found: found[0])]

    def _narrow_is_enough(self, points: int) -> bool:
        """Whether single precision says of the beginning what double precision does."""
        with contextlib.suppress(np.linalg.LinAlgError, ValueError, ArithmeticError):
            narrow = self._value(stages(self.network, self.parts, points, self.dtype))[0]
            return abs(narrow - self.states[0][0]) < WORTH_KEEPING
        return False

    def _refined(self) -> list[tuple[float, list[FloatArray]]]:
        """Constants and multipliers, feasible on the finest grid.

        The last states are looked at, and earlier ones while that is cheap; the constants between the points of the
        grid, of the best few; the others' are as much larger.
        """
        found: list[tuple[float, list[FloatArray], list[FloatArray]]] = []
        assert self.points is not None  # for the type checker
        each = cost(self.network, self.parts, self.points).products
        for count, (_, point) in enumerate(reversed(self.states)):
            if count >= LOOKED_AT and count * each > CHEAP * self.whole:
                break
            self.point = point
            with contextlib.suppress(np.linalg.LinAlgError, ValueError):
                of_parts = [self.fine[last - 1] for _, last in self.parts]
                found.append((*self._value(self.fine), [stage.values for stage in of_parts]))
        found.sort(key=lambda state: state[0])
        with contextlib.suppress(np.linalg.LinAlgError, ValueError):
            rises = [self._rises(*best[1:]) for best in found[:REFINED]]
            rises += [np.min(rises, axis=0)] * (len(found) - len(rises))
            return [self._raised(*state[:2], more) for state, more in zip(found, rises, strict=True)]
        return [state[:2] for state in found]

    def _raised(
        self, value: float, multipliers: Sequence[FloatArray], rises: FloatArray
    ) -> tuple[float, list[FloatArray]]:
        """Where the square of each part's constant is ``exp(rise)`` times larger."""
        better, so_far = [], 0.0
        for (first, last), more in zip(self.parts, rises, strict=True):
            better += [each * math.exp(-so_far) for each in multipliers[first : last - 1]]
            so_far += float(more)
            better += [each * math.exp(-so_far) for each in multipliers[last - 1 : last]]
        return value + so_far, better

    def _rises(self, multipliers: Sequence[FloatArray], on_grid: Sequence[FloatArray]) -> FloatArray:
        """Logarithm of how much larger the square of each part's constant is between the points of the finest grid."""
        assert self.points is not None  # for the type checker
        logs, rises = [*map(np.log, multipliers), last_log(self.fine)], np.zeros(len(self.parts))
        diagonal: FloatArray | None = None
        for at, ((first, last), known) in enumerate(zip(self.parts, on_grid, strict=True)):

            def values(angles: FloatArray, part: Any = (first, last), begins: Any = diagonal) -> FloatArray:
                grid = stages_of(self.network, self.parts, part, angles, np.complex128)
                kept = forward(grid, logs[slice(*part)], None, tape=False, diagonal=begins)
                feasible = all(each.largest[0] < ALMOST for each in kept[:-1])
                return grid[-1].values if feasible else np.full(len(angles), math.inf)

            if (angles := self.fine[first].angles).any():
                on_this = known * (float(values(angles[known.argmax()][None])[0]) / float(known.max()))
                rises[at] = math.log(highest(values, angles, 2 * math.pi / self.points, on_this) / float(on_this.max()))
            diagonal = np.repeat(np.exp(logs[last - 1]), self.fine[last - 1].copies)
        return np.where(rises < RESONANT, rises, 0.0)

    def _go_on(self) -> None:
        grid: tuple[int, list[Stage]] | None = None
        for wanted, steps in self._rounds():
            if self.done >= self.most:
                break
            points = self._affordable(wanted, self.left)
            if points is None:
                break
            anew = grid is None or grid[0] != points
            if grid is None or anew:
                grid = points, stages(self.network, self.parts, points, self.dtype)
            known = len(self.states)
            self._descend(grid[1], steps, cost(self.network, self.parts, points).products, anew=anew)
            if wanted == ROUNDS[-1][0] and len(self.states) == known:
                break

    def _rounds(self) -> Iterator[tuple[int, int]]:
        points, steps = ROUNDS[-1]
        if all(frequencies(self.network.part(*part), 2) == 1 for part in self.parts):
            yield ROUNDS[0][0], max(steps, self.most)  # matrices: one grid
            return
        yield from ROUNDS
        while True:
            steps += steps
            yield points, steps

    def _affordable(self, points: int, left: float) -> int | None:
        """Points of a grid whose steps are within what is left, with fewer if need be; None: there is none."""
        while points >= FEWEST:
            step = cost(self.network, self.parts, points)
            if step.products <= left and step.memory <= MEMORY:
                return points
            points -= 2
        return None

    def _tick(self) -> None:
        self.clock.check()
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.steps, f"{self.network.start} to {self.network.end}")

    def _value(self, grid: Sequence[Stage]) -> tuple[float, list[FloatArray]]:
        """`value_alone` where it stands."""
        *logs, logits = np.split(self.point, self.ends)
        return value_alone(grid, logs, logits)

    def _keep(self, value: float, *, anew: bool = False) -> None:
        """Where it stands, if that is better than what is kept; ``anew``: whether or not."""
        if anew or value < self.states[-1][0] - WORTH_KEEPING:
            self.states.append((value, self.point))

    def _weights(self, value: float, multipliers: Sequence[FloatArray]) -> list[FloatArray]:
        """The last value is weighed by the constant, so that the norms of all parts are about 1."""
        last = np.full(self.network.links[-1].width, math.exp(-value / 2))
        return [*(np.sqrt(each) for each in multipliers), last]

    def _descend(self, grid: Sequence[Stage], steps: int, each: float, *, anew: bool) -> None:
        """Adam from where it stands to the best point that it sees; ``anew``: what is kept was worth more or less."""
        best: float | None = None
        if self.left < each:
            return
        for at, value, point in gradient_steps(grid, self.links, self.point, steps):
            self.left -= each
            if best is None or value < best:
                best, self.point = value, point
            if at:
                self._tick()
                if _is_kept(self.done):
                    self._keep(best, anew=anew)
                    anew = False
            if self.done >= self.most or self.left < each:
                break


def highest(values: Callable[[FloatArray], FloatArray], grid: FloatArray, apart: float, on_grid: FloatArray) -> float:
    """The largest value near the highest points of a grid, by parabolas along the axes.

    Parameters
    ----------
    values : callable
        At angles (f, d).
    grid : array, shape (f, d)
        Angles, ``apart`` from each other, ``on_grid`` their values.
    """
    step = np.where(grid.any(axis=0), apart, 0.0)
    peaks: list[FloatArray] = []
    for at in np.argsort(-on_grid):
        far = [np.minimum(*(abs(_turned(grid[at] - sign * each)) for sign in (1, -1))) for each in peaks]
        if len(peaks) < PEAKS and on_grid[at] > NEAR * on_grid.max() and all((d > 1.5 * step).any() for d in far):
            peaks.append(grid[at])
    centres, best = np.asarray(peaks), float(on_grid.max())
    axes = np.flatnonzero(step)
    for share in (1 / 2, 1 / 4, 1 / 8):
        moves = np.concatenate([np.zeros((1, len(step))), *(sign * share * np.diag(step)[axes] for sign in (1, -1))])
        found = values((centres[:, None] + moves).reshape(-1, len(step))).reshape(len(centres), -1)
        best = max(best, float(found.max()))
        if not math.isfinite(best):
            break
        here, after, before = found[:, :1], found[:, 1 : 1 + len(axes)], found[:, 1 + len(axes) :]
        bend = np.maximum(2 * here - after - before, 1e-12 * here)
        centres[:, axes] += np.clip((after - before) / (2 * bend), -1, 1) * share * step[axes]
    return best


def _turned(angles: FloatArray) -> FloatArray:
    """Between -pi and pi."""
    return np.asarray((angles + math.pi) % (2 * math.pi) - math.pi)


def gradient_steps(
    grid: Sequence[Stage], links: Sequence[AffineMap], point: FloatArray, steps: int
) -> Iterator[tuple[int, float, FloatArray]]:
    """Adam's points, with their numbers and values, from the one given; steps get shorter towards the end."""
    ends, by = np.cumsum([link.width for link in links]), Adam(STEP, 0.99)
    for at in range(steps + 1):
        *logs, logits = np.split(point, ends)
        value, _, logs_back, logits_back = value_and_gradient(grid, logs, logits)
        yield at, value, point
        if at < steps:
            slopes = [_grouped(slope, link) for slope, link in zip(logs_back, links, strict=True)]
            point = point - by.step(np.concatenate([*slopes, logits_back]), min(1.0, 0.1 + 1.8 * (1 - at / steps)))


def _grouped(slope: FloatArray, link: AffineMap) -> FloatArray:
    """A gradient with respect to one number a group, at each of its channels."""
    if link.groups is None:
        return slope
    sums: FloatArray = np.zeros(int(link.groups.max()) + 1)
    np.add.at(sums, link.groups, slope)
    return sums[link.groups]
