"""Linear bounds of a network's values while its input stays in a ball and in its box, rounding counted.

A row of coefficients c of a value is carried backward: ``c v >= g z + h`` for what v is computed from, one operator
after the other, down to the input [1]_. Linear operators give ``g = A^T c``. A function of each entry has, for any
slopes g and any ``lam >= 0``, since z lies in a ball ``|z - centre| <= rho`` and each entry in an interval,

    h = -lam rho^2 / 2 + sum_j min over z_j in [low_j, high_j] of c_j f(z_j) - g_j z_j + lam (z_j - centre_j)^2 / 2

(weak duality [2]_; without intervals it is Theorem 4.1 of [3]_). On each part of the interval f lies between two
parallel lines (`Pointwise.breaks`, `Pointwise.affine`), and the parabola there is bounded by its tangent at any point
of the part. Where a value is not computed by such an operator, the row is bounded on that value's own ball and box.

.. [1] Zhang, Weng, Chen, Hsieh, Daniel, "Efficient Neural Network Robustness Certification" (CROWN), NeurIPS 2018.
.. [2] Boyd, Vandenberghe, "Convex Optimization", section 5.1.
.. [3] Chiu, Chen, Zhang, Zhang, "SDP-CROWN", ICML 2025, arXiv:2506.06665.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from specnorm.certified import arithmetic, host
from specnorm.certified.bound import HypothesisError
from specnorm.certified.interval import Interval, _interval, anything, enclosing, within
from specnorm.errors import MethodError
from specnorm_networks.certified.graph import Node, concrete
from specnorm_networks.certified.linear_reading import LinearOperator, Network
from specnorm_networks.certified.operators.base import FloatArray, Place, Pointwise
from specnorm_networks.certified.operators.sources import Constant
from specnorm_networks.certified.parabolas import TINY, Curve, Minimiser, parabolas
from specnorm_networks.certified.ranges import consistent, ranges
from specnorm_networks.certified.regions import Ball

Choose: TypeAlias = "Callable[[str, FloatArray, Curve], tuple[FloatArray, FloatArray]]"
"""Gives slopes g (rows, units) and multipliers lam (tries, rows) for coefficients (rows, units) of a node's value. Of a
value that is bounded on its own ball and box slopes are 0, whatever is given."""


@dataclass(frozen=True, eq=False)
class Location:
    """Where a value lies: in a ball and in a box.

    Parameters
    ----------
    moves : float
        How far the value is from the one at the input's centre at most.
    radius : float
        How far it is from ``centre``.
    """

    centre: FloatArray
    range: Interval
    moves: float
    radius: float


Cut: TypeAlias = tuple[str, int, bool]
"""A value's entry, by flat position: above 0, or not."""
Trace: TypeAlias = dict[str, Minimiser]


# -- on a region -------------------------------------------------------------------------------------------------------
class LinearBounds:
    """A network's values while its input is in a ball and its box; each from what is known so far.

    Parameters
    ----------
    centre : array
        Of the ball, in the input's shape or another one of that size.

    Raises
    ------
    MethodError
        If centre or radius are none.
    """

    @arithmetic.on_host()
    def __init__(self, network: Network, centre: FloatArray, radius: float) -> None:
        self.network, self.radius = network, float(radius)
        x = np.asarray(centre, dtype=np.float64).reshape(network.shape)
        self.exact = ranges(network.graph, Ball({network.input: x}, 0.0))
        if not (self.radius >= 0 and math.isfinite(self.radius)):
            raise MethodError(f"radius={radius!r}; expected a number of at least 0.")
        if not ((x >= network.box.low) & (x <= network.box.high)).all():
            raise MethodError("The centre of the ball lies outside of the box that is stated for the input.")
        self.known: dict[str, Location] = {}
        self.curves: dict[str, Curve | None] = {}
        self._errors: dict[str, tuple[FloatArray, FloatArray, float]] = {}
        self.whole: object = object()
        """One of all parts of a ball."""
        self.cuts: tuple[Cut, ...] = ()

    # -- forward -------------------------------------------------------------------------------------------------------
    @arithmetic.on_host()
    def visit(self, name: str) -> Location:
        """Where a value lies, from where its inputs do."""
        node, exact = self.network.nodes[name], self.exact[name]
        with consistent(node):
            found, moves = self._image(node), math.inf
            if name not in self.network.moving:
                found, moves = found & exact, 0.0
            elif name == self.network.input:
                found, moves = found & self.network.box, self.radius
            for start, constant in self.network.constants.get(name, ()):
                moves = min(moves, host.mul_up(constant, self.known[start].moves))
            found &= exact + within(np.full(exact.shape, moves))
            found &= exact + within(self._reach(node))
        self._locate(name, found, moves)
        return self.known[name]

    def _locate(self, name: str, found: Interval, moves: float) -> None:
        """The smaller one of ball and box."""
        centre, half = self.exact[name].middle()
        off = float(host.norm_up(half.reshape(-1)))
        away = np.maximum(host.next_up(found.high - centre), host.next_up(centre - found.low))
        boxed = float(host.norm_up(np.maximum(away, 0.0).reshape(-1)))
        moves = min(moves, host.add_up(boxed, off))
        radius = min(boxed, host.add_up(moves, off))
        self.known[name] = Location(centre, found, moves, math.inf if math.isnan(radius) else radius)
        for reader in self.network.readers.get(name, ()):
            self.curves.pop(reader, None)
            self._errors.pop(reader, None)

    def _image(self, node: Node) -> Interval:
        """By intervals."""
        shape, known = concrete(node.shape) or (), [self.known[name].range for name in node.inputs]
        linear = self.network.linear.get(node.name)
        if linear is not None:
            return linear.map.image(known)
        image = node.operator.image(known, Place(tuple(each.shape for each in known), node.shape)) if known else None
        return anything(shape) if image is None or enclosing(image).shape != shape else enclosing(image)

    def _reach(self, node: Node) -> FloatArray:
        """How far entries move: their rows times how far the only value that they are computed from does."""
        linear = self.network.linear.get(node.name)
        moving = [name for name in node.inputs if name in self.network.moving]
        if linear is None or linear.map.rows is None or len(moving) != 1 or node.name not in self.network.moving:
            return np.full(self.exact[node.name].shape, math.inf)
        reach = host.next_up(host.inflate(linear.map.rows, 2**24) * self.known[moving[0]].moves + TINY)
        return np.asarray(np.broadcast_to(np.where(np.isnan(reach), math.inf, reach), self.exact[node.name].shape))

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
            found = here.range & _interval(low.reshape(here.centre.shape), high.reshape(here.centre.shape))
        self._locate(name, found, here.moves)

    @arithmetic.on_host()
    def cut(self, name: str, at: int, above: bool) -> LinearBounds:
        """The part where an entry of a value is not below 0, or not above.

        Raises
        ------
        HypothesisError
            If there is none.
        """
        low, high = (np.array(end) for end in self.known[name].range.ends)
        end = low.reshape(-1) if above else high.reshape(-1)
        end[at] = max(end[at], 0.0) if above else min(end[at], 0.0)
        part = copy(self)
        part.known, part.curves, part._errors = dict(self.known), dict(self.curves), dict(self._errors)
        part.cuts = (*self.cuts, (name, at, above))
        part._locate(name, _interval(low, high), self.known[name].moves)
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
        return _interval(total, np.full(count, math.inf))

    def _rounded(self, coefficients: FloatArray, name: str) -> FloatArray:
        """What one rounding of each coefficient changes."""
        size = self.known[name].range.magnitude().reshape(-1)
        return host.inflate(_flat(abs(coefficients)) @ size, size.size + 4) * 2.0**-52 + TINY

    def _back(
        self, node: Node, c: FloatArray, choose: Choose, trace: Trace | None
    ) -> tuple[list[FloatArray], FloatArray]:
        """Coefficients of what a value is computed from, and what is added to their products at least."""
        linear, curve = self.network.linear.get(node.name), self.curve(node.name)
        if isinstance(node.operator, Constant) and node.name not in self.network.moving:
            return [], self._product(c, *self.exact[node.name].middle())
        if linear is not None:
            added, error, tiny = self._linear(node, linear)
            return linear.adjoint(c), host.next_down(self._product(c, added, error) - tiny)
        if curve is None:
            return [], self._on_ball(node.name, c, choose, trace)
        flat = _flat(c)
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
        flat, n = _flat(c), math.prod(shape)
        lost = host.inflate(abs(flat) @ (off + abs(wide) * ((n + 4) * 2.0**-52)), n + 8) + TINY
        return host.next_down(flat @ wide - lost)

    def _linear(self, node: Node, linear: LinearOperator) -> tuple[FloatArray, FloatArray, float]:
        """What a linear operator adds, what an entry of its value counts for in rounding, and in underflow."""
        if node.name not in self._errors:
            sizes = [self.known[name].range.magnitude() for name in node.inputs]
            n, shape = linear.roundings, concrete(node.shape) or ()
            error = host.inflate(linear.map.absolute([size[None] for size in sizes])[0], linear.map.roundings + 4)
            error = error * ((n + 4) * 2.0**-52) if n else np.zeros(shape)
            added, off = np.zeros(()), np.zeros(())
            if linear.map.offset is not None:
                added, off = (np.asarray(each, dtype=np.float64) for each in linear.map.offset())
            tiny = host.inflate(float(sum(float(size.sum()) for size in sizes)) + 1.0, 2**24) * TINY if n else 0.0
            self._errors[node.name] = added, host.next_up(host.next_up(error) + off), tiny
        return self._errors[node.name]

    @arithmetic.on_host()
    def curve(self, name: str) -> Curve | None:
        """A function of each entry on its value's ball and box; None for other operators, or where that is unknown."""
        node = self.network.nodes[name]
        if node.name in self.curves or not isinstance(node.operator, Pointwise):
            return self.curves.get(node.name)
        before, shape = self.known[node.inputs[0]], concrete(node.shape)
        low, high = (end.reshape(-1) for end in before.range.ends)
        breaks = node.operator.breaks(*before.range.ends).reshape(-1, low.size)
        whole = breaks[:-1].reshape(-1, *before.centre.shape), breaks[1:].reshape(-1, *before.centre.shape)
        lines = [node.operator.affine(start, end) for start, end in zip(*whole, strict=True)]
        line = node.operator.affine(*before.range.ends)
        found: Curve | None = None
        if before.centre.shape == shape and line is not None and np.isfinite([low, high]).all():
            known = [each for each in lines if each is not None]
            if not all((each[2] >= 0).all() for each in (line, *known)):
                raise HypothesisError("a line that a function is nearer to than 0")
            slope, middle, half = (np.stack([each[k].reshape(-1) for each in known]) for k in range(3))
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
        """A row of a value, by the value's own ball and box."""
        here = self.known[name]
        size = here.centre.size
        low, high = (end.reshape(-1) for end in here.range.ends)
        identity, none = np.ones((1, size)), np.zeros((1, size))
        curve = Curve(
            np.arange(size), here.centre.reshape(-1), here.radius, np.stack([low, high]), identity, none, none,
            none[0], none[0], none[0],
        )  # fmt: skip
        flat = _flat(c)
        multipliers = choose(name, flat, curve)[1]
        found, kept = parabolas(flat, np.zeros_like(flat), multipliers, curve, trace is not None)
        if trace is not None and kept is not None:
            trace[name] = kept
        return found


def _flat(c: FloatArray) -> FloatArray:
    return c.reshape(len(c), -1)
