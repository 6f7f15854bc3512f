"""Linear bounds of a network's values while its input stays in a ball and in its box, rounding counted.

Given a row c, a lower bound of ``c v`` is wanted for a value v. If v is computed from z, there are g and h with ``c v
>= g z + h``, and the row g at z is treated in the same way, operator by operator, down to the input [1]_. A linear
operator A has ``g = A^T c``. For a function f of each entry, any slopes g and any multiplier ``lam >= 0`` are valid:
since z lies in a ball ``|z - centre| <= rho``, and each entry in an interval, the bound holds with

    h = -lam rho^2 / 2 + sum_j min over z_j in [low_j, high_j] of c_j f(z_j) - g_j z_j + lam (z_j - centre_j)^2 / 2

(weak duality [2]_; without intervals it is Theorem 4.1 of [3]_). On each part of the interval f lies between two
parallel lines (`strips`). With the line in place of f, the minimum is that of a
parabola in z_j, which is at least the minimum of its tangent at any point of the part. If a value is computed by
neither kind of operator, the row is bounded on the value's own ball and box.

Other operators are written out by these two kinds first (`Known.written_out`), such as ``max(u, v) = v + relu(u -
v)``.

.. [1] Zhang, Weng, Chen, Hsieh, Daniel, "Efficient Neural Network Robustness Certification" (CROWN), NeurIPS 2018.
.. [2] Boyd, Vandenberghe, "Convex Optimization", section 5.1.
.. [3] Chiu, Chen, Zhang, Zhang, "SDP-CROWN", ICML 2025, arXiv:2506.06665.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from specnorm.errors import MethodError
from specnorm.proof import HypothesisError, Interval, Upper, arithmetic, enclosing, host, make_interval
from specnorm_networks import Graph, Node
from specnorm_networks.local.certified.ranges import Ball, Walk, changed_by, check_ball, constants_to_values, ranges
from specnorm_networks.local.certified.strips import breaks as breaks_of
from specnorm_networks.local.certified.strips import strip_on
from specnorm_networks.tools import (
    FloatArray,
    Function,
    LinearMap,
    Shape,
    box_of,
    consistent,
    flattened,
)


class Network:
    """What linear bounds need of a graph with one input, for every region.

    ``constants``: proven constants of maps between two values (`scope.Map`), everywhere. `MethodError` if the graph has
    several inputs, or a value whose size is unknown or 0.
    """

    def __init__(self, graph: Graph, constants: Iterable[Upper] = ()) -> None:
        shapes = [graph.by_name[name].shape for name in graph.inputs]
        sizes = [node.shape for node in graph.nodes]
        has_unusable_size = any(size is None or 0 in size for size in sizes)
        if len(shapes) != 1 or shapes[0] is None or has_unusable_size:
            raise MethodError("Linear bounds need a network with one input, and values of known sizes above 0.")
        self.graph = graph
        self.input = graph.inputs[0]
        self.nodes = graph.by_name
        self.shape: Shape = shapes[0]
        self.linear = graph.linear_maps()
        self.changing = changed_by(graph, graph.inputs)
        """Names of the values that change with the input."""
        self.constants = constants_to_values(graph, constants)
        """For each value: pairs of the start of a map to it and the map's Lipschitz constant."""

    @property
    def box(self) -> Interval:
        """The box that is stated for the input."""
        box = box_of(self.graph)
        return enclosing((box.low[self.input], box.high[self.input]))


LEAST_MULTIPLIER = 2.0**-400
"""Smallest multiplier lam. Smaller ones, and 0, are replaced by it, since lam is a divisor. Any multiplier is valid."""
TINY = 2.0**-900
"""Upper bound of what underflow can take from a row; each of at most 2^24 products loses no more than 2^-1074."""
SQUARE_UNDERFLOW = 2.0**-1070
"""Upper bound of what underflow can change in a square, with much room. It is multiplied by lam, which may be large."""


@dataclass(frozen=True, eq=False)
class Strips:
    """Strips around lines that contain a function, on the parts of the intervals of some entries (*units*)."""

    centre: FloatArray
    """Centre of the ball at the units, shape (units,)."""
    breaks: FloatArray
    """Ends of the parts of each interval, ascending, shape (parts + 1, units)."""
    slope: FloatArray
    middle: FloatArray
    half: FloatArray
    """Slopes, intercepts and half heights of the strips: ``|f(z) - slope z - middle| <= half`` on each part.

    All have the shape (parts, units).
    """

    def of_units(self, units: NDArray[np.intp]) -> Strips:
        """Return the strips of some units, given by their numbers."""
        by_part = (self.breaks, self.slope, self.middle, self.half)
        return Strips(self.centre[units], *(numbers[:, units] for numbers in by_part))


@dataclass(frozen=True, eq=False)
class FunctionOnBox:
    """A function of each entry on the ball and box of the value that it reads.

    Its *units* are the entries on which it is not exactly one line.
    """

    units: NDArray[np.intp]
    """Flat positions of the units, shape (units,)."""
    radius: float
    """Radius of the ball, of all entries together."""
    strips: Strips
    """Strips that contain the function at the units."""
    line_slopes: FloatArray
    """Slopes of the entries on which the function is exactly one line, shape (entries,); 0 at units."""
    line_shifts: FloatArray
    """Shifts of these lines, shape (entries,); 0 at units."""
    error_per_coefficient: FloatArray
    """Rounding error of the product of coefficient, slope and entry, for coefficient 1, shape (entries,)."""
    tiny: float = 0.0
    """Bound of what underflow of such products takes from a row."""

    @property
    def centre(self) -> FloatArray:
        """Centre of the ball at the units, shape (units,)."""
        return self.strips.centre

    @property
    def breaks(self) -> FloatArray:
        """Ends of the parts of each unit's interval, shape (parts + 1, units)."""
        return self.strips.breaks


@dataclass(frozen=True, eq=False)
class Minimiser:
    """The point at which the bound of each row is attained at one function, for gradients of the bound."""

    coefficients: FloatArray
    """Coefficients c of the rows, shape (rows, units)."""
    slopes: FloatArray
    """Slopes g, shape (rows, units)."""
    point: FloatArray
    """Entries z at which the bound is attained, shape (rows, units)."""
    value: FloatArray
    """Value at ``point`` of the line in place of the function, shape (rows, units)."""
    multiplier: FloatArray
    """lam, shape (rows,)."""

    def where(self, better: NDArray[np.bool_], other: Minimiser) -> Minimiser:
        """Return this minimiser for the rows where ``better`` is true, and another one for the other rows.

        Both have the same coefficients and slopes.
        """
        return Minimiser(
            self.coefficients,
            self.slopes,
            np.asarray(np.where(better[:, None], self.point, other.point)),
            np.asarray(np.where(better[:, None], self.value, other.value)),
            np.where(better, self.multiplier, other.multiplier),
        )


def offsets_by_parabolas(
    c: FloatArray,
    g: FloatArray,
    multipliers: FloatArray,
    function: FunctionOnBox,
    traced: bool,
) -> tuple[FloatArray, Minimiser | None]:
    """Return the offset h of each row, the largest over several multipliers, and the entries z at which it is attained.

    On a part of an interval the parabola ``s z + lam (z - centre)^2 / 2``, with ``s = c slope - g``, lies above its
    tangent at any point of the part. The computed minimiser of the parabola is taken for the point.

    ``c``: coefficients, shape (rows, units). ``g``: slopes, shape (rows, units). ``multipliers``: several for each row,
    shape (tries, rows). ``traced``: whether the minimiser is returned, too; else None.
    """
    lams = np.asarray(multipliers, dtype=np.float64).reshape(-1, len(c))
    if not (lams >= 0).all():
        raise HypothesisError("a multiplier that is negative")
    lams = np.maximum(lams, LEAST_MULTIPLIER)
    strips = function.strips
    # A unit whose coefficients and slopes are all 0 adds nothing negative: it can be left out. The others are copied
    # only if they are less than half of the units, so that the copies are small.
    used = np.flatnonzero(c.any(axis=0) | g.any(axis=0))
    if 2 * len(used) < len(strips.centre) and not traced:
        c = c[:, used]
        g = g[:, used]
        strips = strips.of_units(used)
    rounding = _Roundings(c, g, strips)
    best: FloatArray = np.full(len(c), -math.inf)
    best_minimiser: Minimiser | None = None
    for lam in lams:
        least, minimiser = _least_tangents(c, g, lam, strips, traced)
        sum_over_units = host.next_down(least.sum(axis=1) - rounding.of_rows(lam))
        ball = host.inflate(lam * (function.radius * function.radius / 2), 4) + TINY
        total = host.next_down(sum_over_units - ball)
        better = total > best
        best = np.where(better, total, best)
        if minimiser is not None:
            best_minimiser = minimiser if best_minimiser is None else minimiser.where(better, best_minimiser)
    return best, best_minimiser


class _Roundings:
    """Rounding errors of the offsets of rows: of all their terms, and of the sums."""

    def __init__(self, c: FloatArray, g: FloatArray, strips: Strips) -> None:
        first = strips.breaks[0]
        last = strips.breaks[-1]
        size = np.maximum(abs(first), abs(last))
        distance = np.maximum(abs(first - strips.centre), abs(last - strips.centre))
        largest_slope = abs(strips.slope).max(axis=0)
        largest_shift = (abs(strips.middle) + strips.half).max(axis=0)
        largest_line = largest_slope * size + largest_shift
        self.units = len(strips.centre)
        self.linear_size = abs(c) @ largest_line + abs(g) @ size
        """Size of the terms that are linear in z, one number a row."""
        self.square_size = float(np.square(distance).sum())
        """Sum of the squares ``(z_j - centre_j)^2``, which are multiplied by lam."""
        self.underflow = host.inflate(float(size.sum()) + 1.0, self.units + 8) * TINY

    def of_rows(self, lam: FloatArray) -> FloatArray:
        """Return the error of each row, for one multiplier a row.

        Each term has a dozen roundings, and the sum one for each unit; twice as many are counted, and more than that.
        The squares of the units' distances, and that of the radius, may underflow.
        """
        count = 40 + 4 * self.units
        size = host.inflate(self.linear_size + lam * self.square_size, self.units + 8)
        of_squares = lam * ((self.units + 1) * SQUARE_UNDERFLOW)
        return np.asarray(size * (count * 2.0**-52) + of_squares + self.underflow)


def _least_tangents(
    c: FloatArray,
    g: FloatArray,
    lam: FloatArray,
    strips: Strips,
    traced: bool,
) -> tuple[FloatArray, Minimiser | None]:
    """Return the least value of the tangents over all parts, shape (rows, units), and where it is attained.

    ``lam``: one multiplier a row. ``traced``: as in `offsets_by_parabolas`.
    """
    wide_lam = lam[:, None]
    least: FloatArray = np.full(c.shape, math.inf)
    point: FloatArray = np.zeros(c.shape)
    value: FloatArray = np.zeros(c.shape)
    for part in range(len(strips.slope)):
        slope = strips.slope[part]
        middle = strips.middle[part]
        half = strips.half[part]
        low = strips.breaks[part]
        high = strips.breaks[part + 1]
        # The tangent at z is least at ``low`` if its slope is positive, and at ``high`` if it is negative.
        s = c * slope - g
        z = np.minimum(np.maximum(strips.centre - s / wide_lam, low), high)
        from_centre = z - strips.centre
        tangent_slope = s + wide_lam * from_centre
        tangent = s * z + (0.5 * wide_lam) * np.square(from_centre)
        fall_to_low = np.maximum(tangent_slope, 0.0) * (z - low)
        fall_to_high = np.maximum(-tangent_slope, 0.0) * (high - z)
        tangent -= fall_to_low + fall_to_high
        if middle.any() or half.any():
            tangent = tangent + (c * middle - abs(c) * half)
        if traced:
            is_lower = tangent < least
            point = np.where(is_lower, z, point)
            value = np.where(is_lower, slope * z + middle - np.sign(c) * half, value)
        least = np.minimum(least, tangent)
    return least, Minimiser(c, g, point, value, lam) if traced else None


Choose: TypeAlias = "Callable[[str, FloatArray, FunctionOnBox], tuple[FloatArray, FloatArray]]"
"""A function that chooses slopes g, shape (rows, units), and multipliers lam, shape (tries, rows).

Arguments are the name of a node, the coefficients of its value, shape (rows, units), and its function. For a value that
is bounded on its own ball and box the slopes are not used: they are 0.
"""


Trace: TypeAlias = dict[str, Minimiser]
"""Minimisers by the names of the values."""


# -- on a region -------------------------------------------------------------------------------------------------------
class LinearBounds(Walk):
    """Bounds of a network's values while its input is in a ball and in its box.

    ``centre``: centre of the ball, in the input's shape or in another one of that size. `MethodError` if the centre
    does not fit, or the radius is no number from 0 on.
    """

    @arithmetic.on_host()
    def __init__(self, network: Network, centre: FloatArray, radius: float) -> None:
        graph = network.graph
        self.network = network
        x = np.asarray(centre, dtype=np.float64).reshape(network.shape)
        ball = Ball({network.input: x}, float(radius))
        check_ball(graph, ball)
        at_centre = ranges(graph, Ball(ball.centre, 0.0))
        super().__init__(
            graph,
            ball,
            at_centre=at_centre,
            constants_to=network.constants,
            known={network.input: network.box},
        )
        is_inside = (x >= network.box.low) & (x <= network.box.high)
        if not is_inside.all():
            raise MethodError("The centre of the ball lies outside of the box that is stated for the input.")
        self.functions: dict[str, FunctionOnBox | None] = {}
        """Functions of each entry on the present ranges, by the names of their values; None if there is none."""
        self._linear_offsets: dict[str, LinearOffset] = {}

    # -- forward -------------------------------------------------------------------------------------------------------
    def linear(self, node: Node) -> LinearMap | None:
        """Return a node's linear map, which was made once for the network."""
        return self.network.linear.get(node.name)

    def locate(self, name: str, box: Interval, distance: float) -> None:
        """Note where a value lies, and drop what was computed from its earlier location."""
        super().locate(name, box, distance)
        for reader in self.network.graph.readers[name]:
            self.functions.pop(reader.name, None)
            self._linear_offsets.pop(reader.name, None)

    @arithmetic.on_host()
    def tighten(self, name: str, entries: NDArray[np.intp], choose: Choose) -> None:
        """Bound some entries of a value, given by flat positions, from both sides, and keep the smaller intervals."""
        location = self.locations[name]
        shape = location.centre.shape
        low, high = (np.array(end).reshape(-1) for end in location.range.ends)
        rows = np.zeros((len(entries), low.size))
        rows[np.arange(len(entries)), entries] = 1.0
        rows = rows.reshape(len(entries), *shape)
        lower_bounds = self.lower(name, rows, choose).low
        upper_bounds = -self.lower(name, -rows, choose).low
        low[entries] = np.maximum(low[entries], lower_bounds)
        high[entries] = np.minimum(high[entries], upper_bounds)
        with consistent(self.network.nodes[name]):
            smaller = location.range & make_interval(low.reshape(shape), high.reshape(shape))
        self.locate(name, smaller, location.distance)

    # -- backward ------------------------------------------------------------------------------------------------------
    @arithmetic.on_host()
    def lower(self, name: str, rows: FloatArray, choose: Choose, trace: Trace | None = None) -> Interval:
        """Return lower bounds of the products of rows with a value, as intervals up to infinity.

        ``rows``: coefficients, shape (count, *shape of the value). ``trace``: a dict that is filled with the
        minimisers.
        """
        count = len(rows)
        # Coefficients of the values that the bound still depends on.
        waiting: dict[str, FloatArray] = {name: np.asarray(rows, dtype=np.float64)}
        total: FloatArray = np.zeros(count)
        for node in reversed(self.network.graph.nodes):
            coefficients = waiting.pop(node.name, None)
            if coefficients is None:
                continue
            of_inputs, added = self._back(node, coefficients, choose, trace)
            total = host.next_down(total + added)
            if not of_inputs:
                continue
            for source, more in zip(node.inputs, of_inputs, strict=True):
                if source in waiting:
                    waiting[source] = waiting[source] + more
                    total = host.next_down(total - self._rounding_of(waiting[source], source))
                else:
                    waiting[source] = more
        total = np.where(np.isnan(total), -math.inf, total)
        return make_interval(total, np.full(count, math.inf))

    def _rounding_of(self, coefficients: FloatArray, name: str) -> FloatArray:
        """Bound the error of a row whose coefficients were rounded once each."""
        size = self.locations[name].range.magnitude().reshape(-1)
        return host.inflate(flattened(abs(coefficients)) @ size, size.size + 4) * 2.0**-52 + TINY

    def _back(
        self,
        node: Node,
        c: FloatArray,
        choose: Choose,
        trace: Trace | None,
    ) -> tuple[list[FloatArray], FloatArray]:
        """Return coefficients of the inputs of a node, and a lower bound h of what is added to their products.

        ``c``: coefficients of the node's value. No coefficients are returned if h alone bounds the rows.
        """
        if node.is_constant and node.name not in self.network.changing:
            return [], self._product(c, *self.at_centre[node.name].middle())
        linear = self.network.linear.get(node.name)
        if linear is not None:
            offset = self._linear_offset(node, linear)
            least = self._product(c, offset.added, offset.error_per_coefficient)
            return linear.back(c), host.next_down(least - offset.tiny)
        function = self.function(node.name)
        if function is None:
            return [], self._on_ball(node.name, c, choose, trace)
        return self._through_function(node, function, c, choose, trace)

    def _through_function(
        self,
        node: Node,
        function: FunctionOnBox,
        c: FloatArray,
        choose: Choose,
        trace: Trace | None,
    ) -> tuple[list[FloatArray], FloatArray]:
        """Return coefficients of the value that a function of each entry reads, and the offset h."""
        flat = flattened(c)
        g = flat * function.line_slopes
        least_shift = self._product(flat, function.line_shifts, function.error_per_coefficient)
        least = host.next_down(least_shift - function.tiny)
        if len(function.units):
            of_units = flat[:, function.units]
            slopes, multipliers = choose(node.name, of_units, function)
            if slopes.shape != of_units.shape:
                raise HypothesisError(f"slopes of shape {slopes.shape} for coefficients of shape {of_units.shape}")
            g[:, function.units] = slopes
            offset, minimiser = offsets_by_parabolas(of_units, slopes, multipliers, function, trace is not None)
            least = host.next_down(least + offset)
            if trace is not None and minimiser is not None:
                trace[node.name] = minimiser
        shape = self.locations[node.inputs[0]].centre.shape
        return [g.reshape(len(c), *shape)], least

    def _product(self, c: FloatArray, added: FloatArray, error: FloatArray) -> FloatArray:
        """Return a lower bound of the products of coefficients c with numbers that are known up to an error."""
        shape = c.shape[1:]
        flat = flattened(c)
        addend = np.broadcast_to(added, shape).reshape(-1)
        entry_error = np.broadcast_to(error, shape).reshape(-1)
        n = math.prod(shape)
        rounding_of_sum = abs(addend) * ((n + 4) * 2.0**-52)
        error_of_row = abs(flat) @ (entry_error + rounding_of_sum)
        rounding = host.inflate(error_of_row, n + 8) + TINY
        return host.next_down(flat @ addend - rounding)

    def _linear_offset(self, node: Node, linear: LinearMap) -> LinearOffset:
        """Return what a linear operator adds to its linear part, and its errors on the present ranges."""
        if node.name not in self._linear_offsets:
            sizes = [self.locations[name].range.magnitude() for name in node.inputs]
            # An entry of A^T y is a sum of no more products than the value has entries, and of those of a few steps.
            roundings = math.prod(node.shape or ()) + linear.roundings + 32
            rounding = linear.error_of_apply([size[None] for size in sizes], roundings)[0]
            added = np.zeros(())
            error = np.zeros(())
            if linear.offset is not None:
                added, error = (np.asarray(part, dtype=np.float64) for part in linear.offset())
            # The sum of the magnitudes was rounded; 2^24 is an upper limit of their number.
            total_size = float(sum(float(size.sum()) for size in sizes))
            tiny = host.inflate(total_size + 1.0, 2**24) * TINY
            self._linear_offsets[node.name] = LinearOffset(added, host.next_up(rounding + error), tiny)
        return self._linear_offsets[node.name]

    @arithmetic.on_host()
    def function(self, name: str) -> FunctionOnBox | None:
        """Return a function of each entry, by the name of its value, on the ball and box of the value that it reads.

        None for other operators, and if the box is not bounded.
        """
        node = self.network.nodes[name]
        if node.name not in self.functions and node.function is not None:
            self.functions[node.name] = self._new_function(node, node.function)
        return self.functions.get(node.name)

    def _new_function(self, node: Node, function: Function) -> FunctionOnBox | None:
        location = self.locations[node.inputs[0]]
        shape = location.centre.shape
        low, high = (end.reshape(-1) for end in location.range.ends)
        breaks = breaks_of(function, *location.range.ends).reshape(-1, low.size)
        starts = breaks[:-1].reshape(-1, *shape)
        ends = breaks[1:].reshape(-1, *shape)
        part_lines = [strip_on(function, start, end) for start, end in zip(starts, ends, strict=True)]
        whole_line = strip_on(function, *location.range.ends)
        if shape != node.shape or not np.isfinite([low, high]).all():
            return None
        slope = np.stack([part_slope.reshape(-1) for part_slope, _, _ in part_lines])
        middle = np.stack([part_middle.reshape(-1) for _, part_middle, _ in part_lines])
        half = np.stack([part_half.reshape(-1) for _, _, part_half in part_lines])
        whole_slope, whole_middle, whole_half = (numbers.reshape(-1) for numbers in whole_line)
        is_line = (whole_half == 0) & np.isfinite(whole_slope) & np.isfinite(whole_middle)
        units = np.flatnonzero(~is_line)
        size = location.range.magnitude().reshape(-1)
        # The product of coefficient and slope is rounded once, unless the slope is -1, 0 or 1.
        is_rounded = is_line & ~np.isin(whole_slope, (-1.0, 0.0, 1.0))
        rounding = host.inflate(abs(whole_slope) * size, 4) * 2.0**-52
        tiny = host.inflate(float(size.sum()) + 1.0, size.size + 4) * TINY
        strips = Strips(location.centre.reshape(-1), breaks, slope, middle, half)
        return FunctionOnBox(
            units,
            location.radius,
            strips.of_units(units),
            line_slopes=np.where(is_line, whole_slope, 0.0),
            line_shifts=np.where(is_line, whole_middle, 0.0),
            error_per_coefficient=np.where(is_rounded, rounding, 0.0),
            tiny=tiny,
        )

    def _on_ball(self, name: str, c: FloatArray, choose: Choose, trace: Trace | None) -> FloatArray:
        """Return a lower bound of rows on a value's own ball and box.

        The value counts as the identity function of itself, with slopes g = 0.
        """
        location = self.locations[name]
        size = location.centre.size
        low, high = (end.reshape(-1) for end in location.range.ends)
        ones = np.ones((1, size))
        zeros = np.zeros((1, size))
        centre = location.centre.reshape(-1)
        ends = np.stack([low, high])
        strips = Strips(centre, ends, slope=ones, middle=zeros, half=zeros)
        function = FunctionOnBox(
            np.arange(size),
            location.radius,
            strips,
            line_slopes=zeros[0],
            line_shifts=zeros[0],
            error_per_coefficient=zeros[0],
        )
        flat = flattened(c)
        _, multipliers = choose(name, flat, function)
        offset, minimiser = offsets_by_parabolas(flat, np.zeros_like(flat), multipliers, function, trace is not None)
        if trace is not None and minimiser is not None:
            trace[name] = minimiser
        return offset


@dataclass(frozen=True, eq=False)
class LinearOffset:
    """The numbers that a linear operator adds, and the errors of its adjoint and of these numbers."""

    added: FloatArray
    """The numbers, broadcasting against the value."""
    error_per_coefficient: FloatArray
    """Error of the product of a coefficient and an entry of the value, for coefficient 1."""
    tiny: float
    """Bound of what underflow of products takes from a row."""
