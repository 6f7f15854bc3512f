"""Search slopes and multipliers of linear bounds; `certified.linear_bounds` proves the bounds that they give."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import Clock, Interval, Upper
from specnorm_networks import Graph, Node, Product
from specnorm_networks.local.certified.linear_bounds import (
    Choose,
    FunctionOnBox,
    LinearBounds,
    Minimiser,
    Network,
    Trace,
)
from specnorm_networks.local.certified.ranges import Ball
from specnorm_networks.tools import (
    Adam,
    FloatArray,
    Measure,
    Ranges,
    bounded,
    prepare,
    without_sorting,
    written_out,
)

ROWS = 256
"""Number of entries of a value that are bounded at once."""
TRIES = (0.02, 0.2, 0.7)
"""Multipliers to try, as parts of `by_ball`, the best multiplier for the ball alone."""
FEW = 256
"""A maximum is written out by differences of its arguments. Such a value with more units than this number is bounded by
the ball and by intervals, not by lines."""


LEAST_RADIUS = 1e-150
"""Number in place of smaller radii, so that quotients stay finite."""
LEAST_MULTIPLIER = 1e-100
MOST_MULTIPLIER = 1e100
"""Ends between which multipliers are clipped."""


def locate_values(
    network: Network,
    centre: FloatArray,
    radius: float,
    *,
    by_lines: bool = True,
    clock: Clock | None = None,
) -> LinearBounds:
    """Bound all values on a ball.

    Parameters
    ----------
    by_lines : bool
        Whether the units of functions are bounded by linear bounds, `ROWS` at a time; else by the ball and by
        intervals. A *unit* is an entry whose slope may change on the ball.
    clock : Clock, optional
        When it has expired, no further unit is bounded by lines.
    """
    bounds = LinearBounds(network, centre, radius)
    clock = clock or Clock()
    box = network.box
    has_box = np.isfinite(box.low).any() or np.isfinite(box.high).any()
    # Values that are linear in the input: their ranges on a ball are exact, and linear bounds cannot improve them.
    linear_values = set() if has_box else {network.input}
    for node in network.graph.nodes:
        bounds.visit(node)
        changing_inputs = network.changing.intersection(node.inputs)
        if node.name in network.linear and changing_inputs <= linear_values:
            linear_values.add(node.name)
        is_exact = node.name in linear_values or node.name == network.input
        if not by_lines or is_exact or node.name not in network.changing:
            continue
        units = _units_of_readers(bounds, node.name)
        if node.derived and len(units) > FEW:
            continue
        # Sorted by pixels, so that rows that read the same entries are bounded at once.
        pixels = math.prod(bounds.locations[node.name].centre.shape[2:])
        units = units[np.argsort(units % pixels, kind="stable")]
        for first in range(0, len(units), ROWS):
            if not clock.expired:
                bounds.tighten(node.name, units[first : first + ROWS], without_ascent(network))
    return bounds


def _units_of_readers(bounds: LinearBounds, name: str) -> NDArray[np.intp]:
    """Return the entries of a value that are units of a function that reads it."""
    network = bounds.network
    units = [np.zeros(0, np.intp)]
    for reader in network.graph.readers[name]:
        function = bounds.function(reader.name) if is_curved(network, reader.name) else None
        if function is not None:
            units.append(function.units)
    return np.unique(np.concatenate(units))


def ranges_by_lines(network: Network, ball: Ball) -> Ranges:
    """Return ranges of all values on a ball."""
    bounds = locate_values(network, ball.centre[network.input], ball.radius)
    intervals = {name: location.range for name, location in bounds.locations.items()}
    return Ranges(intervals, network.graph.origin, network.graph.regions | {ball.region})


def is_curved(network: Network, name: str) -> bool:
    """Whether a value is a function of each entry."""
    return network.nodes[name].function is not None and name not in network.linear


# -- without an ascent -------------------------------------------------------------------------------------------------
def without_ascent(network: Network) -> Choose:
    """Return a function that chooses slopes and multipliers by closed forms, without an ascent.

    It takes the name of a value, coefficients c of linear functions of it, one row each, and the value's function.
    """

    def choose(name: str, c: FloatArray, function: FunctionOnBox) -> tuple[FloatArray, FloatArray]:
        if not is_curved(network, name):
            return c, on_ball(c, function)
        return c * lines_of(function).slopes(c), np.outer(TRIES, by_ball(c, function))

    return choose


@dataclass(frozen=True, eq=False)
class Lines:
    """Slopes of lines that bound the units of a function. Each array has the shape (units,)."""

    tangent: FloatArray
    """Slope in the middle of the unit's interval."""
    chord: FloatArray
    """Slope of the chord over the unit's interval."""
    convex: NDArray[np.bool_]
    """Whether the function is convex on the unit's interval."""
    concave: NDArray[np.bool_]
    """Whether the function is concave on the unit's interval."""

    def slopes(self, c: FloatArray) -> FloatArray:
        """Return slopes of lines that bound c times the function from below, in the shape of c.

        If c > 0, the line lies below the function, else above it.
        """
        below = np.where(self.convex, self.tangent, self.chord)
        above = np.where(self.concave, self.tangent, self.chord)
        return np.where(c > 0, below, above)


def lines_of(function: FunctionOnBox) -> Lines:
    """Return the slopes of tangents and chords of a function's units, and which units are convex or concave."""
    slope = function.strips.slope
    widths = np.diff(function.breaks, axis=0)
    rise = (slope * widths).sum(axis=0)
    chord = rise / np.maximum(widths.sum(axis=0), 1e-300)
    middle = function.breaks[0] / 2 + function.breaks[-1] / 2
    parts_before_middle = (function.breaks[1:] < middle).sum(axis=0)
    part_of_middle = np.minimum(parts_before_middle, len(widths) - 1)
    tangent = np.take_along_axis(slope, part_of_middle[None], axis=0)[0]
    change = np.diff(slope, axis=0)
    # Parts without width have no slope of their own.
    is_wide = (widths[1:] > 0) & (widths[:-1] > 0)
    convex = ((change >= 0) | ~is_wide).all(axis=0)
    concave = ((change <= 0) | ~is_wide).all(axis=0)
    return Lines(tangent, chord, np.asarray(convex), np.asarray(concave))


def by_ball(c: FloatArray, function: FunctionOnBox) -> FloatArray:
    """Return for each row of c the best multiplier of the ball's constraint, if the ball is the only constraint."""
    lam = np.linalg.norm(c, axis=1) / max(function.radius, LEAST_RADIUS)
    return np.asarray(np.clip(lam, LEAST_MULTIPLIER, MOST_MULTIPLIER))


def on_ball(c: FloatArray, function: FunctionOnBox) -> FloatArray:
    """Return candidates for the multiplier of the ball's constraint on the intersection of ball and box.

    The shape is (1 or 2, rows). The first candidate is the best multiplier if no end of the box is active. The second
    one is for a box with active ends, and comes from three steps of a fixed-point iteration.
    """
    unclipped = by_ball(c, function)
    lam = unclipped
    low = function.breaks[0] - function.centre
    high = function.breaks[-1] - function.centre
    for _ in range(3):
        step = -c / lam[:, None]
        clipped = (step < low) | (step > high)
        if not clipped.any():
            break
        clipped_step = np.where(clipped, np.clip(step, low, high), 0.0)
        clipped_sq = np.square(clipped_step).sum(axis=1)
        radius_sq = function.radius**2
        radius_left = np.sqrt(np.maximum(radius_sq - clipped_sq, 1e-6 * radius_sq))
        unclipped_c = np.where(clipped, 0.0, c)
        lam = np.linalg.norm(unclipped_c, axis=1) / np.maximum(radius_left, LEAST_RADIUS)
        lam = np.clip(lam, LEAST_MULTIPLIER, MOST_MULTIPLIER)
    return np.stack([unclipped, lam]) if lam is not unclipped else unclipped[None]


FIRST = 0.03
"""Multiplier with which an ascent begins, as a part of `by_ball`."""
SLOPE_RATE = 0.4
"""Rate of Adam for logits of slopes."""
MULTIPLIER_RATE = 0.4
"""Rate of Adam for logarithms of multipliers."""
STEPS = 30
"""Number of steps of an ascent on a whole ball."""


def read_network(graph: Graph, measure: Measure | None = None) -> Network:
    """Return a network for linear bounds, with the claims of the values' Lipschitz constants by rules of single nodes.

    The constants are those of the prepared graph and of each of its versions with operators written out.
    """
    measure = measure or Measure()
    written = written_out(without_sorting(graph))
    claims: list[Upper] = []
    for version in (prepare(graph), *written):
        for step in bounded(version, measure, Product()).nodes:
            for claim in (step.claim, step.own):
                if claim is not None and math.isfinite(claim.value):
                    claims.append(claim)
    return Network(written[-1], claims)


# -- ascent ------------------------------------------------------------------------------------------------------------
@dataclass
class _Unknowns:
    """Variables of an ascent at one function: slopes of each row and unit, as logits, and logarithms of multipliers."""

    units: NDArray[np.intp]
    """Flat positions of the function's units."""
    low: FloatArray
    """Smallest slope of each unit."""
    high: FloatArray
    """Largest slope of each unit."""
    is_variable: NDArray[np.bool_]
    """Whether a row's slope of a unit is a variable, shape (rows, units). A chord below a concave function, say, is not
    one, since no line is better."""
    logits: FloatArray
    """Logits of `share`."""
    logs: FloatArray
    """log(multiplier / `by_ball`), one for each row."""
    logit_steps: Adam
    log_steps: Adam

    @property
    def share(self) -> FloatArray:
        """Position of each slope between the smallest one, 0, and the largest one, 1."""
        return np.asarray(1 / (1 + np.exp(-np.clip(self.logits, -30, 30))))

    @property
    def slopes(self) -> FloatArray:
        """Slopes of the lines, for coefficients 1."""
        return np.asarray(self.low + (self.high - self.low) * self.share)


class Ascent:
    """Gradient ascent on the lower bounds of linear functions of one value; ``best`` has the proven ranges so far.

    Parameters
    ----------
    bounds : LinearBounds
        Bounds of the values on the region.
    name : str
        Name of the value.
    rows : array, shape (rows, entries)
        Coefficients of the linear functions.
    needed : float
        Number that the lower bound of every row has to exceed.
    """

    def __init__(
        self,
        bounds: LinearBounds,
        name: str,
        rows: FloatArray,
        needed: float = 0.0,
    ) -> None:
        self.bounds = bounds
        self.name = name
        self.rows = rows
        self.needed = needed
        self.network = bounds.network
        self.unknowns: dict[str, _Unknowns] = {}
        self.trace: Trace = {}
        self.best: Interval = bounds.lower(name, rows, without_ascent(self.network))

    @property
    def is_enough(self) -> bool:
        """Whether every row is proven to be above the number needed."""
        return bool((self.best.low > self.needed).all())

    def climb(self, steps: int, clock: Clock) -> Ascent:
        """Make some steps, or fewer if these are enough or the clock expires; return the ascent itself."""
        for _ in range(steps):
            if self.is_enough or clock.expired:
                break
            self.step()
        return self

    def step(self) -> None:
        """Bound the rows with the present slopes, and move these uphill."""
        self.trace = {}
        self.best &= self.bounds.lower(self.name, self.rows, self._choose, self.trace)
        self._move()

    def _choose(self, name: str, c: FloatArray, function: FunctionOnBox) -> tuple[FloatArray, FloatArray]:
        if not is_curved(self.network, name):
            return c, on_ball(c, function)
        if name not in self.unknowns:
            self.unknowns[name] = self._first_unknowns(c, function)
        unknowns = self.unknowns[name]
        return c * unknowns.slopes, np.exp(unknowns.logs)[None] * by_ball(c, function)

    def _first_unknowns(self, c: FloatArray, function: FunctionOnBox) -> _Unknowns:
        """Return the variables of a function at the first step: those of `Lines`."""
        lines = lines_of(function)
        low = function.strips.slope.min(axis=0)
        high = function.strips.slope.max(axis=0)
        share = (lines.slopes(c) - low) / np.maximum(high - low, 1e-300)
        is_variable_below = lines.convex | ~lines.concave
        is_variable_above = lines.concave | ~lines.convex
        is_variable = np.where(c < 0, is_variable_above, is_variable_below)
        share = np.where(is_variable, np.clip(share, 0.05, 0.95), share)
        logits = np.log(np.maximum(share, 1e-12)) - np.log(np.maximum(1 - share, 1e-12))
        logs = np.full(len(c), math.log(FIRST))
        return _Unknowns(
            function.units,
            low,
            high,
            is_variable,
            logits,
            logs,
            logit_steps=Adam(SLOPE_RATE),
            log_steps=Adam(MULTIPLIER_RATE),
        )

    def _move(self) -> None:
        """Make a step along the gradient.

        The derivative of the bound with respect to a value's coefficients is a point in the space of the value. These
        points follow from one another in the order of the graph, like the values themselves.
        """
        points: dict[str, FloatArray] = {}
        for node in self.network.graph.nodes:
            inputs = [points[name] for name in node.inputs if name in points]
            point = self._point(node, inputs)
            if point is not None:
                points[node.name] = point
            if node.name == self.name:
                break

    def _point(self, node: Node, inputs: list[FloatArray]) -> FloatArray | None:
        """Return the point of one value from those of its inputs; None if it has none.

        If the value is a function whose unknowns chose its bound, a step is made with these.
        """
        name = node.name
        count = len(self.rows)
        minimiser = self.trace.get(name)
        function = self.bounds.function(name) if is_curved(self.network, name) and inputs else None
        if function is None and minimiser is not None:
            return minimiser.point.reshape(count, *self.bounds.locations[name].centre.shape)
        if name not in self.network.changing:
            constant = self.bounds.at_centre[name].low
            return np.broadcast_to(constant, (count, *constant.shape))
        linear = self.network.linear.get(name)
        if linear is not None and inputs and len(inputs) == len(node.inputs):
            point = linear.apply(inputs)
            return point if linear.offset is None else point + linear.offset()[0]
        if function is None:
            return None
        before = inputs[0].reshape(count, -1)
        point = function.line_slopes * before + function.line_shifts
        if minimiser is not None:
            derivative = self._move_function(name, minimiser, before[:, function.units], function)
            point[:, function.units] = minimiser.value + derivative
        return point.reshape(inputs[0].shape)

    def _move_function(
        self, name: str, minimiser: Minimiser, before: FloatArray, function: FunctionOnBox
    ) -> FloatArray:
        """Make a step with one function's slopes and multipliers.

        Returns the derivative with respect to the coefficients, by way of slopes and multipliers: the sum of the lines'
        part, since their slopes are proportional to the coefficients, and of the multiplier's part, which depends on
        the coefficients' norm.
        """
        unknowns = self.unknowns[name]
        c = minimiser.coefficients
        difference = before - minimiser.point
        slopes = unknowns.slopes
        share = unknowns.share
        width = unknowns.high - unknowns.low
        logit_gradient = c * difference * width * share * (1 - share)
        logit_gradient = np.where(unknowns.is_variable, logit_gradient, 0.0)
        unknowns.logits = unknowns.logits + unknowns.logit_steps.step(logit_gradient)
        distance_sq = np.square(minimiser.point - function.centre).sum(axis=1)
        log_gradient = minimiser.multiplier * (distance_sq - function.radius**2) / 2
        logs = unknowns.logs + unknowns.log_steps.step(log_gradient)
        unknowns.logs = np.clip(logs, -40, 5)
        norm_sq = np.square(c).sum(axis=1)
        by_norm = (log_gradient / np.maximum(norm_sq, 1e-300))[:, None] * c
        return np.asarray(slopes * difference + by_norm)
