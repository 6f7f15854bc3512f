"""Attack bounds: no execution may contradict what was proven of a network's values or of its labels.

The graph is executed in float64 at pairs of inputs, with a bound of its rounding. No value of a pair may be further
apart than its constant allows, and each must lie in the range that was proven for it. Steps follow gradients, which the
adjoints of the operators give.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from specnorm.errors import InternalError
from specnorm.proof import Clock, Interval, visible
from specnorm_networks.answer import NetworkBound
from specnorm_networks.certified.graph import Graph
from specnorm_networks.certified.operators.base import FloatArray, LinearMap, Operator
from specnorm_networks.certified.patterns import without_sorting
from specnorm_networks.certified.patterns.writing_out import written_out
from specnorm_networks.certified.ranges import box_of
from specnorm_networks.certified.subjects import Area, Inputs
from specnorm_networks.comparison.execution import Value, apart_down, moved_up, run_with_errors
from specnorm_networks.comparison.probes import probes

PROBES = 4
"""Number of inputs near which pairs are tried."""
STEPS = 3
"""Steps of ascent from each of these inputs."""
DISTANCES = (1e-4, 0.3)
"""Distances of a pair, as shares of the input's size: a small one for slopes, and a large one."""
LATE = 0.5
"""Share of a clock's seconds that a pair takes at most once it has expired; later values are not compared."""
LATEST = 0.5
"""Seconds that it may take however short the time was."""
NODES = 64
"""Number of nodes after which a pair looks at its clock."""
SIDE = 1e-6
"""Half of the distance over which slopes are taken, as a share of the argument's absolute value, or of 1 if larger."""


def attack(
    graph: Graph,
    answer: NetworkBound,
    region: Area | None = None,
    ranges: Mapping[str, Interval] | None = None,
    clock: Clock | None = None,
) -> tuple[int, float]:
    """Try to contradict a bound.

    Parameters
    ----------
    graph : Graph
        The network that the answer bounds, patterns recognized.
    answer : NetworkBound
        The bound; the constants of all its nodes are attacked.
    region : Area, optional
        Region of the inputs in which the bound holds.
    ranges : mapping of str to Interval, optional
        Proven ranges of values in the region.
    clock : Clock, optional
        Once it has expired, one pair is tried, for half of the clock's seconds at most.

    Returns
    -------
    pairs : int
        Number of pairs of inputs that were tried.
    reached : float
        Largest ratio of the outputs' distance to the inputs', rounding taken off.

    Raises
    ------
    InternalError
        If an execution contradicts the bound.
    """
    constants = {name: claim.value for name, claim in answer.constants.items()}
    pairs = Pairs(graph, constants, answer.upper, region, ranges)
    clock = clock or Clock()
    pairs.clock = Clock.of(max(clock.left, 0.0) + max(LATEST, LATE * clock.seconds))
    for inputs in itertools.islice(probes(graph, graph.input_shapes, region), PROBES):
        if clock.expired and pairs.count:
            break
        pairs.ascend(inputs, STEPS, DISTANCES, clock)
    return pairs.count, pairs.reached


class Pairs:
    """Pairs of inputs of a network, and the largest ratio of outputs' to inputs' distance that they reach.

    Parameters
    ----------
    constants : mapping of str to float, optional
        Proven Lipschitz constants of values, by name.
    upper : float, optional
        Proven Lipschitz constant of all outputs together.
    region : Area, optional
        Region from which inputs are taken.
    ranges : mapping of str to Interval, optional
        Proven ranges of values, by name.
    """

    def __init__(
        self,
        graph: Graph,
        constants: Mapping[str, float] | None = None,
        upper: float | None = None,
        region: Area | None = None,
        ranges: Mapping[str, Interval] | None = None,
    ) -> None:
        self.graph = graph
        self.constants = constants or {}
        self.upper = upper
        self.ranges = ranges or {}
        self.regions: list[Area] = [box_of(graph)] if region is None else [region, box_of(graph)]
        self.rng = np.random.default_rng(1)
        self.count = 0
        self.reached = 0.0
        self.clock = Clock()
        """Time limit of a pair."""
        self.best: tuple[Inputs, Inputs] | None = None
        """The pair that reaches the largest ratio."""

    @cached_property
    def plain_graph(self) -> Graph:
        """The network with maxima and sorting by linear maps and ReLU."""
        return written_out(without_sorting(self.graph))[-1]

    @cached_property
    def linear(self) -> dict[str, LinearMap]:
        """Its linear operators, by the names of their values."""
        return self.plain_graph.linear_maps()

    def ascend(self, start: Inputs, steps: int, distances: Sequence[float], clock: Clock | None = None) -> None:
        """Raise the ratio of a pair step by step: turn the pair, then move both of its inputs uphill.

        ``distances`` are those of the pair in the steps, repeated in turn, as shares of the start's 2-norm. ``clock``:
        once it has expired, there is no further step.
        """
        x = self._nearest(start)
        size = length(start) or 1.0
        direction = self._random(x)
        for step in range(steps):
            share = distances[step % len(distances)] * size
            other = self._nearest(moved(x, direction, share))
            outputs = self._pair(x, other)
            if not outputs or step + 1 == steps or (clock is not None and clock.expired):
                return
            output_length = length(outputs)
            if not 0 < output_length < math.inf:
                return
            rows = {name: difference / output_length for name, difference in outputs.items()}
            # J'J d of the chord is one step of the power iteration. The difference of the gradients at both ends is
            # the direction in which the ratio rises if both move together.
            gradient_at_x = gradient(self.plain_graph, self.linear, x, rows)
            gradient_at_other = gradient(self.plain_graph, self.linear, other, rows)
            direction = {name: gradient_at_x[name] + gradient_at_other[name] for name in x}
            if not length(direction):
                direction = self._random(x)
            uphill = {name: gradient_at_other[name] - gradient_at_x[name] for name in x}
            x = self._nearest(moved(x, uphill, share))

    def _nearest(self, x: Inputs) -> Inputs:
        """Return inputs moved into the region, and then into the box that the graph states."""
        for region in self.regions:
            x = region.nearest(x)
        return x

    def _random(self, like: Inputs) -> Inputs:
        return {name: self.rng.standard_normal(x.shape) for name, x in like.items()}

    def _pair(self, one: Inputs, other: Inputs) -> Inputs:
        """Compare the values of a pair with their constants; return the differences of the computed outputs."""
        distance = moved_up(one, other)
        if not (distance > 0 and math.isfinite(distance)):
            return {}
        distances: dict[str, float] = {}
        outputs: Inputs = {}
        values_of_one = run_with_errors(self.graph, one)
        values_of_other = run_with_errors(self.graph, other)
        for number, ((name, value), (_, other_value)) in enumerate(zip(values_of_one, values_of_other, strict=True)):
            if number % NODES == 0 and self.clock.expired:
                return {}
            self._check_range(name, value)
            self._check_range(name, other_value)
            is_output = name in self.graph.outputs
            if value is None or other_value is None or not (is_output or name in self.constants):
                continue
            distances[name] = apart_down(value, other_value)
            if is_output:
                with np.errstate(all="ignore"):
                    outputs[name] = other_value.value - value.value
            ratio = distances[name] / distance
            if ratio > self.constants.get(name, math.inf):
                self._refuse_constant(name, self.constants[name], ratio, one, other)
        if not outputs:
            return {}
        self.count += 1
        reached = math.hypot(*(distances[name] for name in outputs)) / distance
        has_all_outputs = len(outputs) == len(self.graph.outputs)
        if self.upper is not None and has_all_outputs and reached > self.upper:
            self._refuse_constant("its outputs", self.upper, reached, one, other)
        if reached > self.reached or self.best is None:
            self.reached = reached
            self.best = (one, other)
        return outputs

    @np.errstate(invalid="ignore")  # of values beyond the largest number nothing is known
    def _check_range(self, name: str, computed: Value | None) -> None:
        """Refuse a value that lies outside of its proven range by more than its rounding error."""
        proven = self.ranges.get(name)
        if computed is None or proven is None or computed.value.shape != proven.low.shape:
            return
        value = computed.value
        error = np.asarray(computed.error)
        is_outside = (value + error < proven.low) | (value - error > proven.high)
        if value.dtype.kind == "f" and bool(is_outside.any()):
            raise InternalError(
                f"A proven range is contradicted at {visible(name)}: please report the network and this input. No "
                "bound is given."
            )

    def _refuse_constant(
        self,
        name: str,
        constant: float,
        ratio: float,
        one: Inputs,
        other: Inputs,
    ) -> None:
        raise InternalError(
            f"A proven constant is contradicted at {visible(name)}: at most {constant!r} was proven, a pair of inputs "
            f"reaches {ratio!r}. No bound is given. If an operator is yours, look at its `lipschitz` or `extent`; else "
            "please report the network and the pair (this error's `pair`).",
            (one, other),
        )


# -- steps -------------------------------------------------------------------------------------------------------------
def length(x: Inputs) -> float:
    """Return the 2-norm of all inputs together."""
    with np.errstate(all="ignore"):
        return math.hypot(*(float(np.linalg.norm(value)) for value in x.values()))


def moved(x: Inputs, direction: Inputs, distance: float) -> Inputs:
    """Return inputs that lie at a distance along a direction."""
    share = distance / (length(direction) or 1.0)
    return {name: value + share * direction[name] for name, value in x.items()}


@np.errstate(all="ignore")
def gradient(
    graph: Graph,
    linear: Mapping[str, LinearMap],
    x: Inputs,
    rows: Mapping[str, FloatArray],
) -> Inputs:
    """Return the gradient at an input of the sum over values of <row, value>, by backpropagation.

    Operators that are neither linear nor pointwise count as constant.

    Parameters
    ----------
    graph : Graph
        Graph in which maxima are written out.
    linear : mapping of str to LinearMap
        Its linear operators, by the names of their values.
    x : mapping of str to array
        The input.
    rows : mapping of str to array
        Coefficients of values, by their names and in their shapes.
    """
    values = graph.run(x)
    gradients = {name: row[None] for name, row in rows.items()}  # with an axis of one row, as `LinearMap.back` takes
    for node in reversed(graph.nodes):
        c = gradients.get(node.name)
        if c is None or not node.inputs:
            continue
        if node.name in linear:
            input_gradients = linear[node.name].back(c)
        elif node.function is not None and node.inputs[0] in values:
            input_gradients = [c * _slopes(node.function, values[node.inputs[0]])]
        else:
            continue
        for name, summand in zip(node.inputs, input_gradients, strict=True):
            gradients[name] = gradients[name] + summand if name in gradients else summand
    return {name: gradients[name][0] if name in gradients else np.zeros(value.shape) for name, value in x.items()}


def _slopes(function: Operator, x: FloatArray) -> FloatArray:
    """Return approximate slopes at points, by differences; 0 if a difference is not finite."""
    side = SIDE * np.maximum(1.0, abs(x))
    with np.errstate(all="ignore"):
        slopes = (function.run(x + side) - function.run(x - side)) / (2 * side)
    return np.where(np.isfinite(slopes), slopes, 0.0)
