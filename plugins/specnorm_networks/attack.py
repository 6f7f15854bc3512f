"""Attacks: no execution may contradict what was proven, of a network's values or of its labels.

The graph is executed in float64 at pairs of inputs, with a bound of its rounding. No value of a pair may be further
apart than its constant allows, and each must lie in the range that was proven for it. Steps follow gradients, which the
adjoints of the operators give.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from specnorm.proof import InternalError, Interval, visible
from specnorm_networks.answer import NetworkBound
from specnorm_networks.certified.graph import Graph
from specnorm_networks.certified.linear_bounds import linear_operators, written_out
from specnorm_networks.certified.operators.base import FloatArray, LinearMap, Pointwise
from specnorm_networks.certified.patterns import without_sorting
from specnorm_networks.certified.ranges import box_of
from specnorm_networks.certified.regions import Ball, Box
from specnorm_networks.execution import Inputs, Value, apart_down, inside, moved_up, run_with_errors
from specnorm_networks.probes import probes, sizes

PROBES = 4
STEPS = 3
"""Inputs that pairs are tried around, and steps of ascent from each."""
NEAR = (1e-4, 0.3)
"""Distances of a pair, as parts of the input's size: for slopes, and for what lies further apart."""
SIDE = 1e-6
"""Half of the distance over which slopes are taken, as a part of the argument, at least 1."""


def attack(
    graph: Graph,
    answer: NetworkBound,
    region: Ball | Box | None = None,
    ranges: Mapping[str, Interval] | None = None,
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
    constants = {name: claim.value for name, claim in answer.constants.items()}
    pairs = Pairs(graph, constants, answer.upper, region, ranges or {})
    shapes = sizes(graph)
    if len(shapes) == len(graph.inputs):  # else it is made by hand
        for inputs in itertools.islice(probes(graph, shapes, region), PROBES):
            pairs.ascend(inputs, STEPS, NEAR)
    return pairs.count, pairs.reached


class Pairs:
    """Pairs of inputs, and what they reach.

    ``constants``: of values, by name; ``upper``: of all outputs together, or None.
    """

    def __init__(
        self, graph: Graph, constants: Mapping[str, float] | None = None, upper: float | None = None,
        region: Ball | Box | None = None, ranges: Mapping[str, Interval] | None = None,
    ) -> None:  # fmt: skip
        self.graph = graph
        self.constants = constants or {}
        self.upper = upper
        self.ranges = ranges or {}
        self.regions = [box_of(graph)] if region is None else [region, box_of(graph)]
        self.written = written_out(without_sorting(graph))[-1]
        self.linear = linear_operators(self.written)
        self.rng = np.random.default_rng(1)
        self.count = 0
        self.reached = 0.0
        self.best: tuple[Inputs, Inputs] | None = None
        """The pair that reaches most."""

    def ascend(self, start: Inputs, steps: int, distances: Sequence[float]) -> None:
        """Along the strongest direction of the Jacobian between a pair, moved together to where that is stronger.

        ``distances``: of a pair, in turn, as parts of the start's size.
        """
        x = nearest(start, *self.regions)
        size = length(start) or 1.0
        direction = self._random(x)
        for step in range(steps):
            share = distances[step % len(distances)] * size
            other = nearest(moved(x, direction, share), *self.regions)
            outputs = self._pair(x, other)
            if not outputs or not (0 < (far := length(outputs)) < math.inf):
                return
            rows = {name: apart / far for name, apart in outputs.items()}
            # J'J d of the chord: one step of the power iteration; what moves both ends together raises the ratio.
            ends = [gradient(self.written, self.linear, each, rows) for each in (x, other)]
            direction = {name: ends[0][name] + ends[1][name] for name in x}
            direction = direction if length(direction) else self._random(x)
            away = {name: ends[1][name] - ends[0][name] for name in x}
            x = nearest(moved(x, away, share), *self.regions)

    def _random(self, like: Inputs) -> Inputs:
        return {name: self.rng.standard_normal(x.shape) for name, x in like.items()}

    def _pair(self, one: Inputs, other: Inputs) -> Inputs:
        """How far the outputs are apart, all values compared with their constants; those that can be computed."""
        distance = moved_up(one, other)
        if not (distance > 0 and math.isfinite(distance)):
            return {}
        apart: dict[str, float] = {}
        outputs: Inputs = {}
        both = (run_with_errors(self.graph, x) for x in (one, other))
        for (name, value), (_, there) in zip(*both, strict=True):
            self._in_range(name, value)
            self._in_range(name, there)
            if value is None or there is None or not (name in self.graph.outputs or name in self.constants):
                continue
            apart[name] = apart_down(value, there)
            if name in self.graph.outputs:
                with np.errstate(all="ignore"):
                    outputs[name] = there.value - value.value
            ratio = apart[name] / distance
            if ratio > self.constants.get(name, math.inf):
                self._contradicted(name, self.constants[name], ratio, one, other)
        if not outputs:
            return {}
        self.count += 1
        reached = math.hypot(*(apart[name] for name in outputs)) / distance
        if self.upper is not None and len(outputs) == len(self.graph.outputs) and reached > self.upper:
            self._contradicted("its outputs", self.upper, reached, one, other)
        if reached > self.reached or self.best is None:
            self.reached = reached
            self.best = (one, other)
        return outputs

    def _in_range(self, name: str, found: Value | None) -> None:
        between = self.ranges.get(name)
        if found is None or between is None or found.value.shape != between.low.shape:
            return
        value = found.value
        error = np.asarray(found.error)
        if value.dtype.kind == "f" and bool(((value + error < between.low) | (value - error > between.high)).any()):
            raise InternalError(
                f"A proven range is contradicted at {visible(name)}: please report the network and this input. No "
                "bound is given."
            )

    def _contradicted(
        self,
        name: str,
        constant: float,
        ratio: float,
        one: Inputs,
        other: Inputs,
    ) -> None:
        raise InternalError(
            f"A proven constant is contradicted at {visible(name)}: at most {constant!r} was proven, a pair of inputs "
            f"reaches {ratio!r}. No bound is given. Please report the network and the pair (this error's `pair`).",
            (one, other),
        )


# -- steps -------------------------------------------------------------------------------------------------------------
def length(x: Inputs) -> float:
    """2-norm of all together."""
    with np.errstate(all="ignore"):
        return math.hypot(*(float(np.linalg.norm(each)) for each in x.values()))


def moved(x: Inputs, direction: Inputs, far: float) -> Inputs:
    """So far along a direction."""
    share = far / (length(direction) or 1.0)
    return {name: each + share * direction[name] for name, each in x.items()}


def nearest(x: Inputs, *regions: Ball | Box) -> Inputs:
    """Inputs in all of some regions: a ball, and a box that its centre lies in."""
    for region in regions:
        if isinstance(region, Box):
            x = {name: np.clip(each, region.low[name], region.high[name]) for name, each in x.items()}
            continue
        centre = {name: np.reshape(region.centre[name], each.shape) for name, each in x.items()}
        away = {name: each - centre[name] for name, each in x.items()}
        if length(away) > inside(region.radius):
            x = moved(centre, away, inside(region.radius))
    return x


def gradient(
    graph: Graph,
    linear: Mapping[str, LinearMap],
    x: Inputs,
    rows: Mapping[str, FloatArray],
) -> Inputs:
    """Of rows of some values, added up, at an input; 0 where an operator in between has no slope here.

    ``graph``: written out. ``linear``: its linear operators. ``rows``: in the values' shapes.
    """
    values = graph.run(x)
    waiting = {name: row[None] for name, row in rows.items()}
    for node in reversed(graph.nodes):
        c = waiting.get(node.name)
        if c is None or not node.inputs:
            continue
        parts: list[FloatArray] = []
        if node.name in linear:
            parts = linear[node.name].back(c)
        elif isinstance(node.operator, Pointwise) and node.inputs[0] in values:
            parts = [c * _slopes(node.operator, values[node.inputs[0]])]
        for each, part in zip(node.inputs if parts else (), parts, strict=True):
            waiting[each] = waiting[each] + part if each in waiting else part
    return {name: waiting[name][0] if name in waiting else np.zeros(each.shape) for name, each in x.items()}


def _slopes(function: Pointwise, x: FloatArray) -> FloatArray:
    """Slopes at points, by differences: of a direction, nothing has to be proven. 0 where there is none."""
    apart = SIDE * np.maximum(1.0, abs(x))
    with np.errstate(all="ignore"):
        found = (function.run(x + apart) - function.run(x - apart)) / (2 * apart)
    return np.where(np.isfinite(found), found, 0.0)
