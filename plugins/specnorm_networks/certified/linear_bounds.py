"""Linear bounds of a network's values while its input stays in a ball and in its box, rounding counted.

A row of coefficients c of a value is carried backward: ``c v >= g z + h`` for what v is computed from, one operator
after the other, down to the input [1]_. Linear operators give ``g = A^T c``. A function of each entry has, for any
slopes g and any ``lam >= 0``, since z lies in a ball ``|z - centre| <= rho`` and each entry in an interval,

    h = -lam rho^2 / 2 + sum_j min over z_j in [low_j, high_j] of c_j f(z_j) - g_j z_j + lam (z_j - centre_j)^2 / 2

(weak duality [2]_; without intervals it is Theorem 4.1 of [3]_). On each part of the interval f lies between two
parallel lines (`Pointwise.breaks`, `Pointwise.affine`), and the parabola there is bounded by its tangent at any point
of the part. Where a value is not computed by such an operator, the row is bounded on that value's own ball and box.

Maxima are functions of each entry here, ``max(u, v) = v + relu(u - v)``: what `Operator.written_out` says stands in
place of its operator.

.. [1] Zhang, Weng, Chen, Hsieh, Daniel, "Efficient Neural Network Robustness Certification" (CROWN), NeurIPS 2018.
.. [2] Boyd, Vandenberghe, "Convex Optimization", section 5.1.
.. [3] Chiu, Chen, Zhang, Zhang, "SDP-CROWN", ICML 2025, arXiv:2506.06665.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from specnorm.errors import MethodError
from specnorm.proof import HypothesisError, Interval, Upper, arithmetic, enclosing, host, make_interval
from specnorm_networks.certified.graph import Graph, Node
from specnorm_networks.certified.operators.base import (
    FloatArray,
    LinearMap,
    NoBoundError,
    NotRunError,
    Pointwise,
    Program,
    Sizes,
    flattened,
)
from specnorm_networks.certified.operators.sources import Constant
from specnorm_networks.certified.ranges import Walk, box_of, check_region, consistent, linear_map_of, ranges
from specnorm_networks.certified.regions import Ball
from specnorm_networks.certified.scope import Map, Scope


def written_out(graph: Graph) -> list[Graph]:
    """Return the network itself, and step by step the same with operators written out by others.

    The last operator of those in a node's place has its name.
    """
    graphs = [graph]
    while True:
        last = graphs[-1]
        nodes: list[Node] = []
        for node in last.nodes:
            nodes += _steps_of(node, last)
        if len(nodes) == len(last.nodes) and all(a is b for a, b in zip(nodes, last.nodes, strict=True)):
            return graphs
        graphs.append(last._same(nodes))


def _steps_of(node: Node, graph: Graph) -> list[Node]:
    """Return the nodes that write out one node; the node itself if there are none, or if they cannot be run."""
    sizes = graph.place(node).sizes()
    if not sizes:
        return [node]
    try:
        program = node.operator.written_out(sizes)
        if program is None:
            return [node]
        return _nodes_of_program(program, node, graph, [np.zeros(size) for size in sizes])
    except (NoBoundError, NotRunError):
        return [node]


def _nodes_of_program(program: Program, node: Node, graph: Graph, values: list[FloatArray]) -> list[Node]:
    """Return a program as nodes; it is run on ``values`` of its inputs for the shapes."""
    names = list(node.inputs)
    steps: list[Node] = []
    for number, (operator, inputs) in enumerate(program):
        is_last = number + 1 == len(program)
        name = node.name if is_last else graph.fresh(f"{node.name}, step {number}")
        value = operator.run(*(values[source] for source in inputs))
        sources = tuple(names[source] for source in inputs)
        steps.append(Node(name, operator, sources, value.shape, node.label, derived=True))
        names.append(name)
        values.append(value)
    if values[-1].shape != node.shape:
        raise NotRunError(f"{node.name}, written out, has shape {values[-1].shape}")
    return steps


# -- read once for a network ---------------------------------------------------------------------------------------
def linear_operators(graph: Graph) -> dict[str, LinearMap]:
    """Return the linear maps of a graph with known adjoints, by the names of their values."""
    maps: dict[str, LinearMap] = {}
    for node in graph.nodes:
        linear = linear_map_of(graph, node)
        sizes = graph.place(node).sizes()
        if linear is None or sizes is None:
            continue
        with contextlib.suppress(NoBoundError):
            maps[node.name] = linear.with_adjoint(sizes)
    return maps


class Network:
    """A graph of one input, read for linear bounds; the same for every region.

    ``graph``: of known sizes. ``constants``: proven constants of maps between two values (`scope.Map`), everywhere.
    `MethodError` if the graph has several inputs, or a value whose size is not known or 0.
    """

    def __init__(self, graph: Graph, constants: Iterable[Upper] = ()) -> None:
        shapes = [graph.by_name[name].shape for name in graph.inputs]
        sizes = [node.shape for node in graph.nodes]
        if len(shapes) != 1 or shapes[0] is None or any(size is None or 0 in size for size in sizes):
            raise MethodError("Linear bounds need a network with one input, and values of known sizes above 0.")
        self.graph = graph
        self.input = graph.inputs[0]
        self.nodes = graph.by_name
        self.shape: Sizes = shapes[0]
        self.linear = linear_operators(graph)
        self.moving = graph.moved_by(graph.inputs)
        self.readers: dict[str, list[str]] = {}
        for node in graph.nodes:
            for name in node.inputs:
                self.readers.setdefault(name, []).append(node.name)
        self.constants: dict[str, list[tuple[str, float]]] = {}
        about = Scope(graph).about
        for claim in constants:
            if not isinstance(claim.what, Map) or not about.includes(claim.what.about):
                raise HypothesisError(f"{claim.what} is no map between values of this network")
            if self._passes(claim.what):
                self.constants.setdefault(claim.what.end, []).append((claim.what.start, claim.value))

    @property
    def box(self) -> Interval:
        """The box that is stated for the input."""
        box = box_of(self.graph)
        return enclosing((box.low[self.input], box.high[self.input]))

    def _passes(self, what: Map) -> bool:
        """Whether nothing of the input reaches the end of a map but through its start: all else is held then."""
        moving = what.start in self.moving and what.end in self.moving - {what.start}
        return moving and what.end not in self.graph.moved_by([self.input], held=what.start)


LEAST = 2.0**-400
"""Smallest multiplier: smaller ones are raised to it, since a positive one is as valid as 0."""
TINY = 2.0**-900
"""More than underflow takes from a row."""


@dataclass(frozen=True, eq=False)
class Pieces:
    """Lines that a function is near to on the parts of its units' intervals."""

    centre: FloatArray
    """Centre of the ball, shape (units,)."""
    breaks: FloatArray
    """Ends of the parts of each interval, ascending, shape (parts + 1, units)."""
    slope: FloatArray
    middle: FloatArray
    half: FloatArray
    """``|f(z) - slope z - middle| <= half`` on each part, all of shape (parts, units)."""

    def of_units(self, units: NDArray[np.intp]) -> Pieces:
        """Return the lines of some units."""
        return Pieces(
            self.centre[units],
            self.breaks[:, units],
            self.slope[:, units],
            self.middle[:, units],
            self.half[:, units],
        )


@dataclass(frozen=True, eq=False)
class Curve:
    """A function of each entry on a value's ball and box.

    Its *units* are the entries on which it is not exactly one line.
    """

    units: NDArray[np.intp]
    """Flat positions of the units, shape (units,)."""
    radius: float
    """Radius of the whole value's ball around the centre."""
    pieces: Pieces
    lines: FloatArray
    """Slopes of the entries on which the function is exactly one line, shape (entries,); 0 at units."""
    added: FloatArray
    """What the lines add, shape (entries,)."""
    error: FloatArray
    """By how much the product of a coefficient and a line's slope may be off, for coefficient 1, shape (entries,)."""
    tiny: float = 0.0
    """By how much a row is off where such products underflow."""

    @property
    def centre(self) -> FloatArray:
        """Centre of the ball at the units, shape (units,)."""
        return self.pieces.centre

    @property
    def breaks(self) -> FloatArray:
        """Ends of the parts of each unit's interval, shape (parts + 1, units)."""
        return self.pieces.breaks


@dataclass(frozen=True, eq=False)
class Minimiser:
    """Where the bound of a row is attained at one value: what a search needs for the gradient."""

    coefficients: FloatArray
    """Coefficients c of the rows, shape (rows, units)."""
    slopes: FloatArray
    """Slopes g, shape (rows, units)."""
    point: FloatArray
    """Entries z at which the bound is attained, shape (rows, units)."""
    value: FloatArray
    """Value of the line of the function there, shape (rows, units)."""
    multiplier: FloatArray
    """lam, shape (rows,)."""

    def where(self, better: NDArray[np.bool_], other: Minimiser) -> Minimiser:
        """Return this one for some rows, another one of the same coefficients and slopes for the rest."""
        return Minimiser(
            self.coefficients,
            self.slopes,
            np.asarray(np.where(better[:, None], self.point, other.point)),
            np.asarray(np.where(better[:, None], self.value, other.value)),
            np.where(better, self.multiplier, other.multiplier),
        )


def parabolas(
    c: FloatArray,
    g: FloatArray,
    multipliers: FloatArray,
    curve: Curve,
    traced: bool,
) -> tuple[FloatArray, Minimiser | None]:
    """Return the offset h of each row, the largest of those for several multipliers, and where it is attained.

    A part's parabola ``s z + lam (z - centre)^2 / 2``, with ``s = c slope - g``, lies above its tangent at any point of
    the part; the point is where the parabola is least, computed.

    ``c``, ``g``: of shape (rows, units). ``multipliers``: of shape (tries, rows). ``traced``: whether the minimiser is
    returned, too.
    """
    lams = np.asarray(multipliers, dtype=np.float64).reshape(-1, len(c))
    if not (lams >= 0).all():
        raise HypothesisError("a multiplier that is negative")
    lams = np.maximum(lams, LEAST)
    pieces = curve.pieces
    # Units without coefficient and slope add nothing that is negative.
    used = np.flatnonzero(c.any(axis=0) | g.any(axis=0))
    if 2 * len(used) < len(pieces.centre) and not traced:
        c = c[:, used]
        g = g[:, used]
        pieces = pieces.of_units(used)
    rounding = _Roundings(c, g, pieces)
    best: FloatArray = np.full(len(c), -math.inf)
    best_minimiser: Minimiser | None = None
    for lam in lams:
        least, minimiser = _least_tangents(c, g, lam, pieces, traced)
        ball = host.inflate(lam * (curve.radius * curve.radius / 2), 4) + TINY
        total = host.next_down(host.next_down(least.sum(axis=1) - rounding.of_rows(lam)) - ball)
        better = total > best
        best = np.where(better, total, best)
        if minimiser is not None:
            best_minimiser = minimiser if best_minimiser is None else minimiser.where(better, best_minimiser)
    return best, best_minimiser


class _Roundings:
    """What the roundings of a row's offset add up to: of all its terms, and of their sum."""

    def __init__(self, c: FloatArray, g: FloatArray, pieces: Pieces) -> None:
        first = pieces.breaks[0]
        last = pieces.breaks[-1]
        size = np.maximum(abs(first), abs(last))
        distance = np.maximum(abs(first - pieces.centre), abs(last - pieces.centre))
        largest_line = abs(pieces.slope).max(axis=0) * size + (abs(pieces.middle) + pieces.half).max(axis=0)
        self.units = len(pieces.centre)
        self.linear_size = abs(c) @ largest_line + abs(g) @ size
        """Size of the terms that are linear in z, one number a row."""
        self.square_size = float(np.square(distance).sum())
        """Size of the squares, without the multiplier."""
        self.underflow = host.inflate(float(size.sum()) + 1.0, self.units + 8) * TINY

    def of_rows(self, lam: FloatArray) -> FloatArray:
        """Return the error of each row: a dozen roundings of each term, twice as many for products of errors."""
        count = 40 + 4 * self.units
        size = host.inflate(self.linear_size + lam * self.square_size, self.units + 8)
        return np.asarray(size * (count * 2.0**-52) + self.underflow)


def _least_tangents(
    c: FloatArray,
    g: FloatArray,
    lam: FloatArray,
    pieces: Pieces,
    traced: bool,
) -> tuple[FloatArray, Minimiser | None]:
    """Return the least value of each unit's tangents, over all parts, for one multiplier a row."""
    wide_lam = lam[:, None]
    least: FloatArray | None = None
    point: FloatArray | None = None
    value: FloatArray | None = None
    for part in range(len(pieces.slope)):
        slope = pieces.slope[part]
        middle = pieces.middle[part]
        half = pieces.half[part]
        low = pieces.breaks[part]
        high = pieces.breaks[part + 1]
        # The tangent at z has slope d; its least value on [low, high] is at the end that d points away from.
        s = c * slope - g
        z = np.minimum(np.maximum(pieces.centre - s / wide_lam, low), high)
        away = z - pieces.centre
        d = s + wide_lam * away
        tangent = s * z + (0.5 * wide_lam) * np.square(away)
        tangent -= np.maximum(d, 0.0) * (z - low) + np.maximum(-d, 0.0) * (high - z)
        if middle.any() or half.any():
            tangent = tangent + (c * middle - abs(c) * half)
        if least is None:
            is_lower = None
            least = tangent
        else:
            is_lower = np.asarray(tangent < least)
            least = np.minimum(least, tangent)
        if traced:
            line = slope * z + middle - np.sign(c) * half
            point = z if is_lower is None or point is None else np.where(is_lower, z, point)
            value = line if is_lower is None or value is None else np.where(is_lower, line, value)
    assert least is not None  # for the type checker: there are parts
    if point is None or value is None:
        return least, None
    return least, Minimiser(c, g, point, value, lam)


Choose: TypeAlias = "Callable[[str, FloatArray, Curve], tuple[FloatArray, FloatArray]]"
"""Chooses slopes g (rows, units) and multipliers lam (tries, rows) for coefficients (rows, units) of a node's value. If
the value is bounded on its own ball and box, the slopes are not used: they are 0."""


Cut: TypeAlias = tuple[str, int, bool]
"""A value, the flat position of one of its entries, and whether that is above 0 (or below)."""
Trace: TypeAlias = dict[str, Minimiser]
"""Minimisers by the names of the values."""


# -- on a region -------------------------------------------------------------------------------------------------------
class LinearBounds(Walk):
    """Bounds of a network's values while its input is in a ball and its box, each from those before it.

    ``centre``: of the ball, in the input's shape or another one of that size. `MethodError` if that does not
    fit, or the radius is no number from 0 on.
    """

    @arithmetic.on_host()
    def __init__(self, network: Network, centre: FloatArray, radius: float) -> None:
        graph = network.graph
        self.network = network
        x = np.asarray(centre, dtype=np.float64).reshape(network.shape)
        ball = Ball({network.input: x}, float(radius))
        check_region(graph, ball)
        exact = ranges(graph, Ball(ball.centre, 0.0))
        super().__init__(graph, ball, exact, network.constants, {network.input: network.box})
        if not ((x >= network.box.low) & (x <= network.box.high)).all():
            raise MethodError("The centre of the ball lies outside of the box that is stated for the input.")
        self.curves: dict[str, Curve | None] = {}
        self._linear_errors: dict[str, LinearError] = {}
        self.whole: object = object()
        """An object that all parts of one ball share."""
        self.cuts: tuple[Cut, ...] = ()

    # -- forward -------------------------------------------------------------------------------------------------------
    def linear(self, node: Node) -> LinearMap | None:
        """Return a node's linear map, as the network was read."""
        return self.network.linear.get(node.name)

    def locate(self, name: str, box: Interval, moves: float) -> None:
        """Note where a value lies, and forget what was computed from where it lay before."""
        super().locate(name, box, moves)
        for reader in self.network.readers.get(name, ()):
            self.curves.pop(reader, None)
            self._linear_errors.pop(reader, None)

    @arithmetic.on_host()
    def tighten(self, name: str, at: NDArray[np.intp], choose: Choose) -> None:
        """Bound some entries of a value, by flat position, from both sides, and keep the smaller intervals."""
        location = self.known[name]
        shape = location.centre.shape
        low, high = (np.array(end).reshape(-1) for end in location.range.ends)
        rows = np.zeros((len(at), low.size))
        rows[np.arange(len(at)), at] = 1.0
        rows = rows.reshape(len(at), *shape)
        low[at] = np.maximum(low[at], self.lower(name, rows, choose).low)
        high[at] = np.minimum(high[at], -self.lower(name, -rows, choose).low)
        with consistent(self.network.nodes[name]):
            smaller = location.range & make_interval(low.reshape(shape), high.reshape(shape))
        self.locate(name, smaller, location.moves)

    @arithmetic.on_host()
    def cut(self, name: str, at: int, above: bool) -> LinearBounds:
        """Return the part of the region where an entry of a value is not below 0, or not above.

        `HypothesisError` if there is no such part.
        """
        low, high = (np.array(end) for end in self.known[name].range.ends)
        if above:
            low.flat[at] = max(low.flat[at], 0.0)
        else:
            high.flat[at] = min(high.flat[at], 0.0)
        part = copy(self)
        part.known = dict(self.known)
        part.curves = dict(self.curves)
        part._linear_errors = dict(self._linear_errors)
        part.cuts = (*self.cuts, (name, at, above))
        part.locate(name, make_interval(low, high), self.known[name].moves)
        return part

    # -- backward ------------------------------------------------------------------------------------------------------
    @arithmetic.on_host()
    def lower(self, name: str, rows: FloatArray, choose: Choose, trace: Trace | None = None) -> Interval:
        """Return lower bounds of ``rows . value``, for rows (count, *shape of the value), as intervals up to infinity.

        ``trace``: is filled with the minimisers.
        """
        count = len(rows)
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
        """Return by how much a row is off if each of its coefficients was rounded once."""
        size = self.known[name].range.magnitude().reshape(-1)
        return host.inflate(flattened(abs(coefficients)) @ size, size.size + 4) * 2.0**-52 + TINY

    def _back(
        self,
        node: Node,
        c: FloatArray,
        choose: Choose,
        trace: Trace | None,
    ) -> tuple[list[FloatArray], FloatArray]:
        """Return coefficients of the inputs of a node, and a lower bound of what is added to their products."""
        if isinstance(node.operator, Constant) and node.name not in self.network.moving:
            return [], self._product(c, *self.exact[node.name].middle())
        linear = self.network.linear.get(node.name)
        if linear is not None:
            error = self._linear_error(node, linear)
            return linear.back(c), host.next_down(self._product(c, error.added, error.of_entry) - error.tiny)
        curve = self.curve(node.name)
        if curve is None:
            return [], self._on_ball(node.name, c, choose, trace)
        return self._through_curve(node, curve, c, choose, trace)

    def _through_curve(
        self,
        node: Node,
        curve: Curve,
        c: FloatArray,
        choose: Choose,
        trace: Trace | None,
    ) -> tuple[list[FloatArray], FloatArray]:
        """Carry coefficients back through a function of each entry."""
        flat = flattened(c)
        g = flat * curve.lines
        least = host.next_down(self._product(flat, curve.added, curve.error) - curve.tiny)
        if len(curve.units):
            of_units = flat[:, curve.units]
            slopes, multipliers = choose(node.name, of_units, curve)
            if slopes.shape != of_units.shape:
                raise HypothesisError(f"slopes of shape {slopes.shape} for coefficients of shape {of_units.shape}")
            g[:, curve.units] = slopes
            offset, minimiser = parabolas(of_units, slopes, multipliers, curve, trace is not None)
            least = host.next_down(least + offset)
            if trace is not None and minimiser is not None:
                trace[node.name] = minimiser
        return [g.reshape(len(c), *self.known[node.inputs[0]].centre.shape)], least

    def _product(self, c: FloatArray, added: FloatArray, error: FloatArray) -> FloatArray:
        """Return a lower bound of ``c . added``, where each entry of ``added`` is known up to an error."""
        shape = c.shape[1:]
        flat = flattened(c)
        addend = np.broadcast_to(added, shape).reshape(-1)
        entry_error = np.broadcast_to(error, shape).reshape(-1)
        n = math.prod(shape)
        rounding = host.inflate(abs(flat) @ (entry_error + abs(addend) * ((n + 4) * 2.0**-52)), n + 8) + TINY
        return host.next_down(flat @ addend - rounding)

    def _linear_error(self, node: Node, linear: LinearMap) -> LinearError:
        """Return the constants that a linear operator adds, and its errors, on the present ranges."""
        if node.name not in self._linear_errors:
            sizes = [self.known[name].range.magnitude() for name in node.inputs]
            rounding = linear.rounding_error([size[None] for size in sizes], linear.backward)[0]
            added = np.zeros(())
            error = np.zeros(())
            if linear.offset is not None:
                added, error = (np.asarray(end, dtype=np.float64) for end in linear.offset())
            tiny = 0.0
            if linear.backward:
                total_size = float(sum(float(size.sum()) for size in sizes))
                tiny = host.inflate(total_size + 1.0, 2**24) * TINY
            self._linear_errors[node.name] = LinearError(added, host.next_up(rounding + error), tiny)
        return self._linear_errors[node.name]

    @arithmetic.on_host()
    def curve(self, name: str) -> Curve | None:
        """Return a function of each entry on its value's ball and box; None for other operators, or if unbounded."""
        node = self.network.nodes[name]
        if node.name not in self.curves and isinstance(node.operator, Pointwise):
            self.curves[node.name] = self._new_curve(node, node.operator)
        return self.curves.get(node.name)

    def _new_curve(self, node: Node, function: Pointwise) -> Curve | None:
        before = self.known[node.inputs[0]]
        shape = before.centre.shape
        low, high = (end.reshape(-1) for end in before.range.ends)
        breaks = function.breaks(*before.range.ends).reshape(-1, low.size)
        starts = breaks[:-1].reshape(-1, *shape)
        ends = breaks[1:].reshape(-1, *shape)
        part_lines = [function.affine(start, end) for start, end in zip(starts, ends, strict=True)]
        whole_line = function.affine(*before.range.ends)
        if shape != node.shape or not np.isfinite([low, high]).all():
            return None
        if not all((half >= 0).all() for _, _, half in (whole_line, *part_lines)):
            raise HypothesisError("a line that a function is nearer to than 0")
        slope, middle, half = (np.stack([line[k].reshape(-1) for line in part_lines]) for k in range(3))
        whole_slope, whole_middle, whole_half = (part.reshape(-1) for part in whole_line)
        is_line = (whole_half == 0) & np.isfinite(whole_slope) & np.isfinite(whole_middle)
        units = np.flatnonzero(~is_line)
        size = before.range.magnitude().reshape(-1)
        # The product of coefficient and slope is rounded once, unless the slope is -1, 0 or 1.
        is_rounded = is_line & ~np.isin(whole_slope, (-1.0, 0.0, 1.0))
        rounding = host.inflate(abs(whole_slope) * size, 4) * 2.0**-52
        pieces = Pieces(before.centre.reshape(-1), breaks, slope, middle, half)
        return Curve(
            units,
            before.radius,
            pieces.of_units(units),
            lines=np.where(is_line, whole_slope, 0.0),
            added=np.where(is_line, whole_middle, 0.0),
            error=np.where(is_rounded, rounding, 0.0),
            tiny=host.inflate(float(size.sum()) + 1.0, size.size + 4) * TINY,
        )

    def _on_ball(self, name: str, c: FloatArray, choose: Choose, trace: Trace | None) -> FloatArray:
        """Return a lower bound of rows on a value's own ball and box, as if the value were the identity of itself."""
        location = self.known[name]
        size = location.centre.size
        low, high = (end.reshape(-1) for end in location.range.ends)
        ones = np.ones((1, size))
        zeros = np.zeros((1, size))
        pieces = Pieces(location.centre.reshape(-1), np.stack([low, high]), slope=ones, middle=zeros, half=zeros)
        curve = Curve(np.arange(size), location.radius, pieces, lines=zeros[0], added=zeros[0], error=zeros[0])
        flat = flattened(c)
        _, multipliers = choose(name, flat, curve)
        offset, minimiser = parabolas(flat, np.zeros_like(flat), multipliers, curve, trace is not None)
        if trace is not None and minimiser is not None:
            trace[name] = minimiser
        return offset


@dataclass(frozen=True, eq=False)
class LinearError:
    """The constants that a linear operator adds, and how exactly its adjoint is computed."""

    added: FloatArray
    """Constants, broadcasting against the value."""
    of_entry: FloatArray
    """By how much an entry of the value is off, for coefficient 1."""
    tiny: float
    """By how much a row is off where products underflow."""
