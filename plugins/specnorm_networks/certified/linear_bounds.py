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
    """The network itself, and step by step the same with operators written out, under the name of their last step."""
    found = [graph]
    while True:
        nodes: list[Node] = []
        for node in found[-1].nodes:
            sizes = found[-1].place(node).sizes()
            try:
                program = node.operator.written_out(sizes) if sizes else None
                nodes += [node] if program is None else _steps(found[-1], node, program, [*map(np.zeros, sizes or ())])
            except (NoBoundError, NotRunError):
                nodes.append(node)
        if all(node is before for node, before in zip(nodes, found[-1].nodes, strict=False)):
            return found
        found.append(graph._same(nodes))


def _steps(graph: Graph, node: Node, program: Program, values: list[FloatArray]) -> list[Node]:
    names, steps = list(node.inputs), []
    for at, (operator, inputs) in enumerate(program):
        names.append(node.name if at + 1 == len(program) else graph.fresh(f"{node.name}, step {at}"))
        values.append(operator.run(*(values[number] for number in inputs)))
        taken = tuple(names[number] for number in inputs)
        steps.append(Node(names[-1], operator, taken, values[-1].shape, node.label, derived=True))
    if values[-1].shape != node.shape:
        raise NotRunError(f"{node.name}, written out, has shape {values[-1].shape}")
    return steps


# -- what is read once a network ---------------------------------------------------------------------------------------
def linear_operators(graph: Graph) -> dict[str, LinearMap]:
    """Those of a graph whose maps and adjoints are known, by their values."""
    found: dict[str, LinearMap] = {}
    for node in graph.nodes:
        linear, sizes = linear_map_of(graph, node), graph.place(node).sizes()
        with contextlib.suppress(NoBoundError):
            if linear is not None and sizes is not None:
                found[node.name] = linear.with_adjoint(sizes)
    return found


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
        self.graph, self.input, self.nodes = graph, graph.inputs[0], graph.by_name
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
"""Multipliers are taken to be no smaller: a positive one is as valid as 0."""
TINY = 2.0**-900
"""What underflow may take from a row."""


@dataclass(frozen=True, eq=False)
class Curve:
    """A function of each entry on a value's ball and box; units are its entries that are not on one exact line."""

    at: NDArray[np.intp]
    """Shape (units,): flat positions."""
    centre: FloatArray
    """Shape (units,)."""
    radius: float
    """Of the whole value's ball around the centre."""
    breaks: FloatArray
    """Shape (parts + 1, units): ends of the parts of each interval, ascending."""
    slope: FloatArray
    middle: FloatArray
    half: FloatArray
    """Shape (parts, units): ``|f(z) - slope z - middle| <= half`` on each part."""
    lines: FloatArray
    """Shape (entries,): slopes of the entries that are on one exact line, 0 of units."""
    added: FloatArray
    error: FloatArray
    """Of those, what is added, and by how much a value is off where a coefficient's product with its slope is rounded.
    """
    tiny: float = 0.0
    """By how much a row is off where such products underflow."""


@dataclass(frozen=True, eq=False)
class Minimiser:
    """Where the bound of a row is attained at one value: what a search needs for the gradient."""

    coefficients: FloatArray
    """Shape (rows, units)."""
    slopes: FloatArray
    """Shape (rows, units)."""
    point: FloatArray
    """Shape (rows, units)."""
    value: FloatArray
    """Shape (rows, units): the function's, as the bound takes it."""
    multiplier: FloatArray
    """Shape (rows,)."""


def parabolas(
    c: FloatArray, g: FloatArray, multipliers: FloatArray, curve: Curve, traced: bool
) -> tuple[FloatArray, Minimiser | None]:
    """The offset h of each row, the largest of those for several multipliers.

    A part's parabola ``s z + lam (z - centre)^2 / 2``, with ``s = c slope - g``, lies above its tangent at any point of
    the part; the point is where the parabola is least, computed.

    ``c``, ``g``: of shape (rows, units). ``multipliers``: of shape (tries, rows).
    """
    lams = np.asarray(multipliers, dtype=np.float64).reshape(-1, len(c))
    if not (lams >= 0).all():
        raise HypothesisError("a multiplier that is negative")
    lams = np.maximum(lams, LEAST)
    # Units without coefficient and slope add nothing that is negative.
    used = np.flatnonzero(c.any(axis=0) | g.any(axis=0))
    if 2 * len(used) < len(curve.centre) and not traced:
        fewer = (each[..., used] for each in (curve.centre, curve.breaks, curve.slope, curve.middle, curve.half))
        c, g = c[:, used], g[:, used]
        centre, breaks, slopes, middles, halves = fewer
    else:
        centre, breaks, slopes, middles, halves = curve.centre, curve.breaks, curve.slope, curve.middle, curve.half
    low, high = breaks[:-1], breaks[1:]
    size = np.maximum(abs(breaks[0]), abs(breaks[-1]))
    apart = np.maximum(abs(breaks[0] - centre), abs(breaks[-1] - centre))
    # All terms of a row: what their roundings, and those of the sum, refer to.
    flat_size = abs(c) @ (abs(slopes).max(axis=0) * size + (abs(middles) + halves).max(axis=0))
    flat_size = flat_size + abs(g) @ size
    square = float(np.square(apart).sum())
    n = len(centre)
    tiny = host.inflate(float(size.sum()) + 1.0, n + 8) * TINY
    best: FloatArray = np.full(len(c), -math.inf)
    kept: Minimiser | None = None
    for lam in lams:
        wide = lam[:, None]
        least, point, value = None, None, None
        for part in range(len(low)):
            slope, middle, half = slopes[part], middles[part], halves[part]
            s = c * slope - g
            line = c * middle - abs(c) * half if middle.any() or half.any() else None
            z = np.minimum(np.maximum(centre - s / wide, low[part]), high[part])
            away = z - centre
            d = s + wide * away
            found = s * z + (0.5 * wide) * np.square(away)
            found -= np.maximum(d, 0.0) * (z - low[part]) + np.maximum(-d, 0.0) * (high[part] - z)
            found = found if line is None else found + line
            lower: NDArray[np.bool_] | None = None if least is None else np.asarray(found < least)
            least = found if least is None or lower is None else np.minimum(least, found)
            if traced:
                here = slope * z + middle - np.sign(c) * half
                point = z if lower is None or point is None else np.where(lower, z, point)
                value = here if lower is None or value is None else np.where(lower, here, value)
        assert least is not None  # for the type checker: there are parts
        # A dozen roundings of each term, twice as many for products of errors, and those of the sum.
        lost = host.inflate(flat_size + lam * square, n + 8) * ((40 + 4 * n) * 2.0**-52) + tiny
        ball = host.inflate(lam * (curve.radius * curve.radius / 2), 4) + TINY
        total = host.next_down(host.next_down(least.sum(axis=1) - lost) - ball)
        better = total > best
        best = np.where(better, total, best)
        if traced and point is not None and value is not None:
            new = Minimiser(c, g, point, value, lam)
            kept = new if kept is None else Minimiser(
                c, g, np.asarray(np.where(better[:, None], point, kept.point)),
                np.asarray(np.where(better[:, None], value, kept.value)),
                np.where(better, lam, kept.multiplier),
            )  # fmt: skip
    return best, kept


Choose: TypeAlias = "Callable[[str, FloatArray, Curve], tuple[FloatArray, FloatArray]]"
"""Gives slopes g (rows, units) and multipliers lam (tries, rows) for coefficients (rows, units) of a node's value. Of a
value that is bounded on its own ball and box slopes are 0, whatever is given."""


Cut: TypeAlias = tuple[str, int, bool]
"""A value's entry, by flat position: above 0, or not."""
Trace: TypeAlias = dict[str, Minimiser]


# -- on a region -------------------------------------------------------------------------------------------------------
class LinearBounds(Walk):
    """A network's values while its input is in a ball and its box; each from what is known so far.

    ``centre``: of the ball, in the input's shape or another one of that size. `MethodError` if that does not
    fit, or the radius is no number from 0 on.
    """

    @arithmetic.on_host()
    def __init__(self, network: Network, centre: FloatArray, radius: float) -> None:
        self.network, graph = network, network.graph
        x = np.asarray(centre, dtype=np.float64).reshape(network.shape)
        ball = Ball({network.input: x}, float(radius))
        check_region(graph, ball)
        exact = ranges(graph, Ball(ball.centre, 0.0))
        super().__init__(graph, ball, exact, network.constants, {network.input: network.box})
        if not ((x >= network.box.low) & (x <= network.box.high)).all():
            raise MethodError("The centre of the ball lies outside of the box that is stated for the input.")
        self.curves: dict[str, Curve | None] = {}
        self._errors: dict[str, tuple[FloatArray, FloatArray, float]] = {}
        self.whole: object = object()
        """One of all parts of a ball."""
        self.cuts: tuple[Cut, ...] = ()

    # -- forward -------------------------------------------------------------------------------------------------------
    def linear(self, node: Node) -> LinearMap | None:
        """As the network was read."""
        return self.network.linear.get(node.name)

    def locate(self, name: str, found: Interval, moves: float) -> None:
        """And what was made of where it lay before is forgotten."""
        super().locate(name, found, moves)
        for reader in self.network.readers.get(name, ()):
            self.curves.pop(reader, None)
            self._errors.pop(reader, None)

    @arithmetic.on_host()
    def tighten(self, name: str, at: NDArray[np.intp], choose: Choose) -> None:
        """Bound some entries of a value, by flat position, from both sides, and keep what is less."""
        here = self.known[name]
        low, high = (np.array(end).reshape(-1) for end in here.range.ends)
        rows = np.zeros((len(at), low.size))
        rows[np.arange(len(at)), at] = 1.0
        shaped = rows.reshape(len(at), *here.centre.shape)
        low[at] = np.maximum(low[at], self.lower(name, shaped, choose).low)
        high[at] = np.minimum(high[at], -self.lower(name, -shaped, choose).low)
        with consistent(self.network.nodes[name]):
            found = here.range & make_interval(low.reshape(here.centre.shape), high.reshape(here.centre.shape))
        self.locate(name, found, here.moves)

    @arithmetic.on_host()
    def cut(self, name: str, at: int, above: bool) -> LinearBounds:
        """The part where an entry of a value is not below 0, or not above.

        `HypothesisError` if there is no such part.
        """
        low, high = (np.array(end) for end in self.known[name].range.ends)
        end = low.reshape(-1) if above else high.reshape(-1)
        end[at] = max(end[at], 0.0) if above else min(end[at], 0.0)
        part = copy(self)
        part.known, part.curves, part._errors = dict(self.known), dict(self.curves), dict(self._errors)
        part.cuts = (*self.cuts, (name, at, above))
        part.locate(name, make_interval(low, high), self.known[name].moves)
        return part

    # -- backward ------------------------------------------------------------------------------------------------------
    @arithmetic.on_host()
    def lower(self, name: str, rows: FloatArray, choose: Choose, trace: Trace | None = None) -> Interval:
        """From where on ``rows . value`` lies, for rows (count, *shape of the value): intervals without a high end."""
        count = len(rows)
        waiting: dict[str, FloatArray] = {name: np.asarray(rows, dtype=np.float64)}
        total: FloatArray = np.zeros(count)
        for node in reversed(self.network.graph.nodes):
            coefficients = waiting.pop(node.name, None)
            if coefficients is None:
                continue
            parts, added = self._back(node, coefficients, choose, trace)
            total = host.next_down(total + added)
            for before, part in zip(node.inputs if parts else (), parts, strict=True):
                if before in waiting:
                    part = waiting[before] + part
                    total = host.next_down(total - self._rounded(part, before))
                waiting[before] = part
        total = np.where(np.isnan(total), -math.inf, total)
        return make_interval(total, np.full(count, math.inf))

    def _rounded(self, coefficients: FloatArray, name: str) -> FloatArray:
        """What one rounding of each coefficient changes."""
        size = self.known[name].range.magnitude().reshape(-1)
        return host.inflate(flattened(abs(coefficients)) @ size, size.size + 4) * 2.0**-52 + TINY

    def _back(
        self, node: Node, c: FloatArray, choose: Choose, trace: Trace | None
    ) -> tuple[list[FloatArray], FloatArray]:
        """Coefficients of what a value is computed from, and what is added to their products at least."""
        linear, curve = self.network.linear.get(node.name), self.curve(node.name)
        if isinstance(node.operator, Constant) and node.name not in self.network.moving:
            return [], self._product(c, *self.exact[node.name].middle())
        if linear is not None:
            added, error, tiny = self._linear(node, linear)
            return linear.back(c), host.next_down(self._product(c, added, error) - tiny)
        if curve is None:
            return [], self._on_ball(node.name, c, choose, trace)
        flat = flattened(c)
        g = flat * curve.lines
        least = host.next_down(self._product(flat, curve.added, curve.error) - curve.tiny)
        if len(curve.at):
            here = flat[:, curve.at]
            slopes, multipliers = choose(node.name, here, curve)
            if slopes.shape != here.shape:
                raise HypothesisError(f"slopes of shape {slopes.shape} for coefficients of shape {here.shape}")
            g[:, curve.at] = slopes
            found = parabolas(here, slopes, multipliers, curve, trace is not None)
            least = host.next_down(least + found[0])
            if trace is not None and found[1] is not None:
                trace[node.name] = found[1]
        return [g.reshape(len(c), *self.known[node.inputs[0]].centre.shape)], least

    def _product(self, c: FloatArray, added: FloatArray, error: FloatArray) -> FloatArray:
        """``c . added`` at least, where that is known up to an error an entry."""
        shape = c.shape[1:]
        wide, off = (np.broadcast_to(each, shape).reshape(-1) for each in (added, error))
        flat, n = flattened(c), math.prod(shape)
        lost = host.inflate(abs(flat) @ (off + abs(wide) * ((n + 4) * 2.0**-52)), n + 8) + TINY
        return host.next_down(flat @ wide - lost)

    def _linear(self, node: Node, linear: LinearMap) -> tuple[FloatArray, FloatArray, float]:
        """What a linear operator adds, what an entry of its value counts for in rounding, and in underflow."""
        if node.name not in self._errors:
            sizes = [self.known[name].range.magnitude() for name in node.inputs]
            error = linear.lost([size[None] for size in sizes], linear.backward)[0]
            added, off = np.zeros(()), np.zeros(())
            if linear.offset is not None:
                added, off = (np.asarray(each, dtype=np.float64) for each in linear.offset())
            tiny = host.inflate(float(sum(float(size.sum()) for size in sizes)) + 1.0, 2**24) * TINY
            self._errors[node.name] = added, host.next_up(error + off), tiny if linear.backward else 0.0
        return self._errors[node.name]

    @arithmetic.on_host()
    def curve(self, name: str) -> Curve | None:
        """A function of each entry on its value's ball and box; None for other operators, or where that is unknown."""
        node = self.network.nodes[name]
        if node.name in self.curves or not isinstance(node.operator, Pointwise):
            return self.curves.get(node.name)
        before, shape = self.known[node.inputs[0]], node.shape
        low, high = (end.reshape(-1) for end in before.range.ends)
        breaks = node.operator.breaks(*before.range.ends).reshape(-1, low.size)
        whole = breaks[:-1].reshape(-1, *before.centre.shape), breaks[1:].reshape(-1, *before.centre.shape)
        lines = [node.operator.affine(start, end) for start, end in zip(*whole, strict=True)]
        line = node.operator.affine(*before.range.ends)
        found: Curve | None = None
        if before.centre.shape == shape and np.isfinite([low, high]).all():
            if not all((each[2] >= 0).all() for each in (line, *lines)):
                raise HypothesisError("a line that a function is nearer to than 0")
            slope, middle, half = (np.stack([each[k].reshape(-1) for each in lines]) for k in range(3))
            one, shift, exact = (each.reshape(-1) for each in line)
            straight = (exact == 0) & np.isfinite(one) & np.isfinite(shift)
            at = np.flatnonzero(~straight)
            size = before.range.magnitude().reshape(-1)
            # The product of coefficient and slope is rounded once.
            error = host.inflate(abs(one) * size, 4) * 2.0**-52
            found = Curve(
                at, before.centre.reshape(-1)[at], before.radius, breaks[:, at], slope[:, at], middle[:, at],
                half[:, at], np.where(straight, one, 0.0), np.where(straight, shift, 0.0),
                np.where(straight & ~np.isin(one, (-1.0, 0.0, 1.0)), error, 0.0),
                host.inflate(float(size.sum()) + 1.0, size.size + 4) * TINY,
            )  # fmt: skip
        self.curves[node.name] = found
        return found

    def _on_ball(self, name: str, c: FloatArray, choose: Choose, trace: Trace | None) -> FloatArray:
        here = self.known[name]
        size = here.centre.size
        low, high = (end.reshape(-1) for end in here.range.ends)
        identity, none = np.ones((1, size)), np.zeros((1, size))
        curve = Curve(
            np.arange(size), here.centre.reshape(-1), here.radius, np.stack([low, high]), identity, none, none,
            none[0], none[0], none[0],
        )  # fmt: skip
        flat = flattened(c)
        multipliers = choose(name, flat, curve)[1]
        found, kept = parabolas(flat, np.zeros_like(flat), multipliers, curve, trace is not None)
        if trace is not None and kept is not None:
            trace[name] = kept
        return found
