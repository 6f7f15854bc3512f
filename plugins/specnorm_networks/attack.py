"""A network's answer attacked before it is given: no execution may contradict what was proven.

The graph is executed in float64 at pairs of inputs, with a bound of its rounding. No value of a pair may be further
apart than its constant allows, and each must lie in the range that was proven for it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import numpy as np

from specnorm.proof import InternalError, Interval, visible
from specnorm_networks.answer import NetworkBound
from specnorm_networks.certified.graph import Graph
from specnorm_networks.certified.regions import Ball, Box
from specnorm_networks.checking import (
    HELD,
    Inputs,
    Value,
    apart_down,
    inside,
    moved_up,
    probes,
    run_with_errors,
    sizes,
)

PROBES, STEPS = 4, 3
"""Inputs that pairs are tried around, and steps of ascent from each."""
NEAR = (1e-4, 0.3)
"""Distances of a pair, as parts of the input's size: for slopes, and for what lies further apart."""


def attack(
    graph: Graph, answer: NetworkBound, region: Ball | Box | None = None, ranges: Mapping[str, Interval] | None = None
) -> tuple[int, float]:
    """Try to contradict a bound.

    Parameters
    ----------
    graph : Graph
        Of which the answer speaks, patterns recognised.
    answer : NetworkBound
        Its steps are attacked, too.
    region : Ball or Box, optional
        In which it holds.
    ranges : mapping of str to Interval, optional
        Of values, in the region.

    Returns
    -------
    pairs : int
        Of inputs.
    reached : float
        Largest ratio of the outputs' distance to the inputs', rounding taken off.

    Raises
    ------
    InternalError
        If an execution contradicts it.
    """
    constants = {step.name: step.upper for step in answer.nodes if step.upper is not None and math.isfinite(step.upper)}
    attempt = _Attempt(graph, constants, answer.upper, region, ranges or {})
    shapes = sizes(graph)
    if len(shapes) == len(graph.inputs):  # else it is made by hand
        for inputs in itertools.islice(probes(graph, shapes, region), PROBES):
            attempt.around(inputs)
    return attempt.pairs, attempt.reached


class _Attempt:
    """Pairs of inputs, and what they reach."""

    def __init__(
        self, graph: Graph, constants: Mapping[str, float], upper: float | None, region: Ball | Box | None,
        ranges: Mapping[str, Interval],
    ) -> None:  # fmt: skip
        self.graph, self.constants, self.upper = graph, constants, upper
        self.region, self.ranges = region, ranges
        self.rng = np.random.default_rng(1)
        self.pairs, self.reached = 0, 0.0

    def around(self, inputs: Inputs) -> None:
        """Ascent from one input: the direction that stretches most so far, moved at random."""
        here = self._repeated(inputs)
        best: Inputs = {name: self.rng.standard_normal(x.shape) for name, x in inputs.items()}
        most = 0.0
        size = math.sqrt(sum(float(np.square(x).sum()) for x in inputs.values())) or 1.0
        for step in range(STEPS):
            trial = {name: d + (step > 0) * 0.5 * self.rng.standard_normal(d.shape) for name, d in best.items()}
            length = math.sqrt(sum(float(np.square(d).sum()) for d in trial.values()))
            if not length:
                return
            there = self._moved(inputs, trial, NEAR[step % 2] * size / length)
            ratio = self._pair(inputs, here, there)
            if ratio is None:
                return
            if ratio > most:
                most, best = ratio, trial

    def _moved(self, inputs: Inputs, direction: Inputs, share: float) -> Inputs:
        """The other input of a pair, in the region."""
        found = {name: x + share * direction[name] for name, x in inputs.items()}
        if isinstance(self.region, Box):
            return {n: np.clip(x, self.region.low[n], self.region.high[n]) for n, x in found.items()}
        if isinstance(self.region, Ball):
            away = {name: x - self.region.centre[name].reshape(x.shape) for name, x in found.items()}
            length = math.sqrt(sum(float(np.square(each).sum()) for each in away.values()))
            most = inside(self.region.radius)
            if length > most:
                shrink = most / length
                found = {n: self.region.centre[n].reshape(x.shape) + shrink * away[n] for n, x in found.items()}
        return found

    def _repeated(self, inputs: Inputs) -> Callable[[], Iterable[tuple[str, Value | None]]]:
        """The values at an input, as often as they are asked for: computed once if they are few."""
        again = partial(run_with_errors, self.graph, inputs)
        kept, held = [], 0
        for name, value in again():
            self._in_range(name, value)
            kept.append((name, value))
            held += 0 if value is None else value.value.size
            if held > HELD // 4:
                return again
        return lambda: kept

    def _pair(self, one: Inputs, here: Callable[[], Iterable[tuple[str, Value | None]]], other: Inputs) -> float | None:
        """The ratio that a pair reaches at the outputs, all values compared with their constants.

        None: no output can be computed.
        """
        distance = moved_up(one, other)
        if not (distance > 0 and math.isfinite(distance)):
            return 0.0
        apart: dict[str, float] = {}
        for (name, value), (_, moved) in zip(here(), run_with_errors(self.graph, other), strict=True):
            self._in_range(name, value)
            self._in_range(name, moved)
            if value is None or moved is None or not (name in self.graph.outputs or name in self.constants):
                continue
            apart[name] = apart_down(value, moved)
            ratio = apart[name] / distance
            if ratio > self.constants.get(name, math.inf):
                self._contradicted(name, self.constants[name], ratio, one, other)
        ends = [name for name in self.graph.outputs if name in apart]
        if not ends:
            return None
        self.pairs += 1
        reached = math.hypot(*(apart[name] for name in ends)) / distance
        if self.upper is not None and len(ends) == len(self.graph.outputs) and reached > self.upper:
            self._contradicted("its outputs", self.upper, reached, one, other)
        self.reached = max(self.reached, reached)
        return reached

    def _in_range(self, name: str, found: Value | None) -> None:
        between = self.ranges.get(name)
        if found is None or between is None or found.value.shape != between.low.shape:
            return
        value, error = found.value, np.asarray(found.error)
        if value.dtype.kind == "f" and bool(((value + error < between.low) | (value - error > between.high)).any()):
            raise InternalError(
                f"A proven range is contradicted at {visible(name)}: please report the network and this input. No "
                "bound is given."
            )

    def _contradicted(self, name: str, constant: float, ratio: float, one: Inputs, other: Inputs) -> None:
        raise InternalError(
            f"A proven constant is contradicted at {visible(name)}: at most {constant!r} was proven, a pair of inputs "
            f"reaches {ratio!r}. No bound is given. Please report the network and the pair (this error's `pair`).",
            (one, other),
        )
