"""Slopes and multipliers of linear bounds, searched; `certified.network.linear_bounds` proves what they are worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from specnorm.certified.bound import Upper
from specnorm.certified.network.graph import Graph
from specnorm.certified.network.linear_bounds import Curve, LinearBounds, Trace
from specnorm.certified.network.linear_reading import Network, written_out
from specnorm.certified.network.operators.base import FloatArray, Pointwise
from specnorm.clock import Clock
from specnorm.networks.bounding import bounded, prepared, unsorted
from specnorm.networks.measuring import Measure
from specnorm.networks.methods import Product

ROWS = 256
"""Entries of a value that are bounded at once."""
TRIES = (0.02, 0.2, 0.7)
"""Multipliers that are tried: parts of the one that the ball alone asks for."""
FIRST = 0.2
"""The one that an ascent begins with."""
RATES = 0.4, 0.15
"""Of Adam: for slopes, and for logarithms of multipliers."""
STEPS = 30


def read(graph: Graph, measure: Measure | None = None) -> Network:
    """A network for linear bounds, with the constants of its values."""
    measure = measure or Measure()
    plain = written_out(unsorted(graph))
    claims: list[Upper] = []
    for each in (prepared(graph), plain):
        for step in bounded(each, measure, Product()).nodes:
            claims += [claim for claim in (step.claim, step.alone) if claim is not None and math.isfinite(claim.value)]
    return Network(plain, claims)


def located(network: Network, centre: FloatArray, radius: float) -> LinearBounds:
    """All values on a ball; units that may switch are bounded anew, `ROWS` at a time."""
    found = LinearBounds(network, centre, radius)
    straight = set() if np.isfinite(network.box.low).any() or np.isfinite(network.box.high).any() else {network.input}
    for node in network.graph.nodes:
        found.visit(node.name)
        if node.name in network.linear and straight.issuperset(set(node.inputs) & network.moving):
            straight.add(node.name)  # its rows say all
        readers = [name for name in network.readers.get(node.name, ()) if _is_curved(network, name)]
        if node.name in straight or node.name == network.input or node.name not in network.moving:
            continue
        curves = [curve for name in readers if (curve := found.curve(name)) is not None]
        units = np.unique(np.concatenate([curve.at for curve in curves])) if curves else np.zeros(0, np.intp)
        for first in range(0, len(units), ROWS):
            found.tighten(node.name, units[first : first + ROWS], usual(network))
    return found


def _is_curved(network: Network, name: str) -> bool:
    return isinstance(network.nodes[name].operator, Pointwise) and name not in network.linear


# -- without an ascent -------------------------------------------------------------------------------------------------
def usual(network: Network):
    """Slopes and multipliers without an ascent."""

    def choose(name: str, c: FloatArray, curve: Curve) -> tuple[FloatArray, FloatArray]:
        if not _is_curved(network, name):
            return c, on_ball(c, curve)
        tangent, chord, convex, concave = lines_of(curve)
        above, below = np.where(convex, tangent, chord), np.where(concave, tangent, chord)
        return np.where(c > 0, c * above, c * below), np.outer(TRIES, _by_ball(c, curve))

    return choose


def lines_of(curve: Curve) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Slope in the middle of each interval, slope of its chord, and whether the function is convex and concave there."""
    widths = np.diff(curve.breaks, axis=0)
    chord = (curve.slope * widths).sum(axis=0) / np.maximum(widths.sum(axis=0), 1e-300)
    middle = curve.breaks[0] / 2 + curve.breaks[-1] / 2
    part = np.minimum((curve.breaks[1:] < middle).sum(axis=0), len(widths) - 1)
    tangent = np.take_along_axis(curve.slope, part[None], axis=0)[0]
    change, wide = np.diff(curve.slope, axis=0), (widths[1:] > 0) & (widths[:-1] > 0)
    convex = ((change >= 0) | ~wide).all(axis=0)
    return tangent, chord, convex, ((change <= 0) | ~wide).all(axis=0)


def _by_ball(c: FloatArray, curve: Curve) -> FloatArray:
    """The multiplier of a linear function on the ball alone."""
    return np.asarray(np.maximum(np.linalg.norm(c, axis=1) / max(curve.radius, 1e-300), 1e-100))


def on_ball(c: FloatArray, curve: Curve) -> FloatArray:
    """Multipliers of a linear function on ball and box, shape (2, rows): where no end is met, and where some are."""
    first = lam = _by_ball(c, curve)
    low, high = curve.breaks[0] - curve.centre, curve.breaks[-1] - curve.centre
    for _ in range(3):
        step = -c / lam[:, None]
        clipped = (step < low) | (step > high)
        if not clipped.any():
            break
        taken = np.square(np.where(clipped, np.clip(step, low, high), 0.0)).sum(axis=1)
        left = np.maximum(curve.radius**2 - taken, 1e-6 * curve.radius**2)
        lam = np.maximum(np.linalg.norm(np.where(clipped, 0.0, c), axis=1) / np.sqrt(left), 1e-100)
    return np.stack([first, lam]) if lam is not first else first[None]


# -- ascent ------------------------------------------------------------------------------------------------------------
@dataclass
class _Adam:
    """Steps uphill (Kingma, Ba, "Adam", ICLR 2015)."""

    rate: float
    count: int = 0
    mean: FloatArray = field(default_factory=lambda: np.zeros(()))
    square: FloatArray = field(default_factory=lambda: np.zeros(()))

    def step(self, gradient: FloatArray) -> FloatArray:
        self.count += 1
        self.mean = 0.9 * self.mean + 0.1 * gradient
        self.square = 0.999 * self.square + 0.001 * gradient * gradient
        mean, square = self.mean / (1 - 0.9**self.count), self.square / (1 - 0.999**self.count)
        return np.asarray(self.rate * mean / (np.sqrt(square) + 1e-12))


@dataclass
class _Unknown:
    """Of one function: where between its smallest and largest slope each row's are, as logits; logarithms of multipliers."""

    low: FloatArray
    high: FloatArray
    logits: FloatArray
    logs: FloatArray
    by_logits: _Adam
    by_logs: _Adam

    @property
    def share(self) -> FloatArray:
        return np.asarray(1 / (1 + np.exp(-np.clip(self.logits, -30, 30))))


class Ascent:
    """Better slopes and multipliers of some rows of one value, step by step."""

    def __init__(self, bounds: LinearBounds, name: str, rows: FloatArray) -> None:
        self.bounds, self.name, self.rows = bounds, name, rows
        self.network = bounds.network
        self.unknown: dict[str, _Unknown] = {}
        self.best = bounds.lower(name, rows, usual(self.network)).low
        self.trace: Trace = {}

    def step(self) -> None:
        """Bound the rows with the present slopes, and move these uphill."""
        self.trace = {}
        found = self.bounds.lower(self.name, self.rows, self._choose, self.trace)
        self.best = np.maximum(self.best, found.low)
        self._move()

    def _choose(self, name: str, c: FloatArray, curve: Curve) -> tuple[FloatArray, FloatArray]:
        if not _is_curved(self.network, name):
            return c, on_ball(c, curve)
        by_ball = _by_ball(c, curve)
        if name not in self.unknown:
            tangent, chord, convex, concave = lines_of(curve)
            low, high = curve.slope.min(axis=0), curve.slope.max(axis=0)
            at = np.where(c > 0, np.where(convex, tangent, chord), np.where(concave, tangent, chord))
            share = np.clip((at - low) / np.maximum(high - low, 1e-300), 0.05, 0.95)
            logits, logs = np.log(share / (1 - share)), np.full(len(c), math.log(FIRST))
            self.unknown[name] = _Unknown(low, high, logits, logs, _Adam(RATES[0]), _Adam(RATES[1]))
        here = self.unknown[name]
        slopes = here.low + (here.high - here.low) * here.share
        return c * slopes, np.exp(here.logs)[None] * by_ball

    def _move(self) -> None:
        """By the gradient: how the bound changes with the coefficients of each value is a point, computed forward."""
        points: dict[str, FloatArray] = {}
        count = len(self.rows)
        for node in self.network.graph.nodes:
            name, linear, kept = node.name, self.network.linear.get(node.name), self.trace.get(node.name)
            known = [points[each] for each in node.inputs if each in points]
            curve = self.bounds.curve(name) if _is_curved(self.network, name) and known else None
            if curve is None and kept is not None:
                points[name] = kept.point.reshape(count, *self.bounds.known[name].centre.shape)
            elif name not in self.network.moving:
                points[name] = np.broadcast_to(self.bounds.exact[name].low, (count, *self.bounds.exact[name].shape))
            elif linear is not None and known and len(known) == len(node.inputs):
                points[name] = linear.map.apply(known)
                if linear.map.offset is not None:
                    points[name] = points[name] + linear.map.offset()[0]
            elif curve is not None:
                before = known[0].reshape(count, -1)
                point = curve.lines * before + curve.added
                if kept is not None:
                    point[:, curve.at] = kept.value + self._uphill(name, kept.coefficients, kept.point,
                                                                   before[:, curve.at], kept.multiplier, curve)
                points[name] = point.reshape(known[0].shape)
            if name == self.name:
                break

    def _uphill(self, name, c, point, before, multiplier, curve) -> FloatArray:
        """Move one function's slopes and multipliers; what its slopes add to the gradient by its coefficients."""
        here = self.unknown[name]
        slopes = here.low + (here.high - here.low) * here.share
        apart = before - point
        by_logits = c * apart * (here.high - here.low) * here.share * (1 - here.share)
        here.logits = here.logits + here.by_logits.step(by_logits)
        away = np.square(point - curve.centre).sum(axis=1) - curve.radius**2
        here.logs = here.logs + here.by_logs.step(multiplier * away / 2)
        # The multiplier grows with the coefficients: its part of their gradient is left out.
        return slopes * apart


def lower_ends(
    bounds: LinearBounds, name: str, rows: FloatArray, *, steps: int = STEPS, clock: Clock | None = None
) -> FloatArray:
    """From where on each row of a value lies, with slopes and multipliers from an ascent; it ends when all are above 0."""
    ascent = Ascent(bounds, name, rows)
    for _ in range(steps):
        if (ascent.best > 0).all() or (clock is not None and clock.expired):
            break
        ascent.step()
    return ascent.best
