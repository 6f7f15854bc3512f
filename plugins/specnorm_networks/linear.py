"""Slopes and multipliers of linear bounds, searched; `certified.linear_bounds` proves what they are worth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import Clock, Interval, Upper
from specnorm_networks.bounding import bounded
from specnorm_networks.certified.graph import Graph
from specnorm_networks.certified.linear_bounds import (
    Choose,
    Curve,
    LinearBounds,
    Minimiser,
    Network,
    Trace,
    written_out,
)
from specnorm_networks.certified.operators.base import FloatArray, Pointwise
from specnorm_networks.certified.patterns import prepared, unsorted
from specnorm_networks.certified.ranges import Ranges
from specnorm_networks.certified.regions import Ball
from specnorm_networks.descent import Adam
from specnorm_networks.measuring import Measure
from specnorm_networks.methods import Product

ROWS = 256
"""Entries of a value that are bounded at once."""
TRIES = (0.02, 0.2, 0.7)
"""Multipliers that are tried: parts of the one that the ball alone asks for."""
FEW = 256
"""Differences of a maximum that is written out are bounded anew where there are no more."""


def located(
    network: Network,
    centre: FloatArray,
    radius: float,
    *,
    anew: bool = True,
    clock: Clock | None = None,
) -> LinearBounds:
    """All values on a ball.

    Parameters
    ----------
    anew : bool
        Bound units that may switch by linear bounds of their own, `ROWS` at a time.
    clock : Clock, optional
        Afterwards no unit is.
    """
    found = LinearBounds(network, centre, radius)
    clock = clock or Clock()
    boxed = np.isfinite(network.box.low).any() or np.isfinite(network.box.high).any()
    straight = set() if boxed else {network.input}
    for node in network.graph.nodes:
        found.visit(node)
        if node.name in network.linear and straight.issuperset(set(node.inputs) & network.moving):
            straight.add(node.name)  # its rows say all
        if not anew or node.name in straight or node.name == network.input or node.name not in network.moving:
            continue
        readers = [name for name in network.readers.get(node.name, ()) if is_curved(network, name)]
        curves = [curve for name in readers if (curve := found.curve(name)) is not None]
        units = np.unique(np.concatenate([curve.at for curve in curves])) if curves else np.zeros(0, np.intp)
        if node.derived and len(units) > FEW:
            continue
        # Pixel by pixel, so that rows which read the same are together.
        pixels = math.prod(found.known[node.name].centre.shape[2:])
        units = units[np.argsort(units % pixels, kind="stable")]
        for first in range(0, len(units), ROWS):
            if not clock.expired:
                found.tighten(node.name, units[first : first + ROWS], usual(network))
    return found


def ranges_by_lines(network: Network, ball: Ball) -> Ranges:
    """Ranges of all values on a ball."""
    found = located(network, ball.centre[network.input], ball.radius)
    known = {name: location.range for name, location in found.known.items()}
    return Ranges(known, network.graph.origin, network.graph.regions | {ball.region})


def is_curved(network: Network, name: str) -> bool:
    """Whether a value is a function of each entry."""
    return isinstance(network.nodes[name].operator, Pointwise) and name not in network.linear


# -- without an ascent -------------------------------------------------------------------------------------------------
def usual(network: Network) -> Choose:
    """Slopes and multipliers without an ascent."""

    def choose(name: str, c: FloatArray, curve: Curve) -> tuple[FloatArray, FloatArray]:
        if not is_curved(network, name):
            return c, on_ball(c, curve)
        tangent, chord, convex, concave = lines_of(curve)
        above = np.where(convex, tangent, chord)
        below = np.where(concave, tangent, chord)
        return np.where(c > 0, c * above, c * below), np.outer(TRIES, by_ball(c, curve))

    return choose


def lines_of(curve: Curve) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Slope in the middle of each interval, slope of its chord, whether the function is convex, and whether concave."""
    widths = np.diff(curve.breaks, axis=0)
    chord = (curve.slope * widths).sum(axis=0) / np.maximum(widths.sum(axis=0), 1e-300)
    middle = curve.breaks[0] / 2 + curve.breaks[-1] / 2
    part = np.minimum((curve.breaks[1:] < middle).sum(axis=0), len(widths) - 1)
    tangent = np.take_along_axis(curve.slope, part[None], axis=0)[0]
    change = np.diff(curve.slope, axis=0)
    wide = (widths[1:] > 0) & (widths[:-1] > 0)
    convex = ((change >= 0) | ~wide).all(axis=0)
    return tangent, chord, np.asarray(convex), np.asarray(((change <= 0) | ~wide).all(axis=0))


def by_ball(c: FloatArray, curve: Curve) -> FloatArray:
    """The multiplier of a linear function on the ball alone."""
    return np.asarray(np.clip(np.linalg.norm(c, axis=1) / max(curve.radius, 1e-150), 1e-100, 1e100))


def on_ball(c: FloatArray, curve: Curve) -> FloatArray:
    """Multipliers of a linear function on ball and box, shape (2, rows): where no end is met, and where some are."""
    first = lam = by_ball(c, curve)
    low = curve.breaks[0] - curve.centre
    high = curve.breaks[-1] - curve.centre
    for _ in range(3):
        step = -c / lam[:, None]
        clipped = (step < low) | (step > high)
        if not clipped.any():
            break
        taken = np.square(np.where(clipped, np.clip(step, low, high), 0.0)).sum(axis=1)
        left = np.sqrt(np.maximum(curve.radius**2 - taken, 1e-6 * curve.radius**2))
        lam = np.linalg.norm(np.where(clipped, 0.0, c), axis=1) / np.maximum(left, 1e-150)
        lam = np.clip(lam, 1e-100, 1e100)
    return np.stack([first, lam]) if lam is not first else first[None]


FIRST = 0.03
"""The one that an ascent begins with."""
RATES = 0.4, 0.4
"""Of Adam: for slopes, and for logarithms of multipliers."""
STEPS = 30


def read(graph: Graph, measure: Measure | None = None) -> Network:
    """A network for linear bounds, with the constants of its values."""
    measure = measure or Measure()
    steps = written_out(unsorted(graph))
    claims: list[Upper] = []
    for each in (prepared(graph), *steps):
        for step in bounded(each, measure, Product()).nodes:
            claims += [claim for claim in (step.claim, step.alone) if claim is not None and math.isfinite(claim.value)]
    return Network(steps[-1], claims)


# -- ascent ------------------------------------------------------------------------------------------------------------
@dataclass
class _Unknown:
    """Of one function: each row's slopes between the smallest and the largest, as logits; logarithms of multipliers."""

    at: NDArray[np.intp]
    low: FloatArray
    high: FloatArray
    moves: FloatArray
    """Which slopes move: the chord stays where it is the best line but for the ball."""
    logits: FloatArray
    logs: FloatArray
    by_logits: Adam
    by_logs: Adam

    @property
    def share(self) -> FloatArray:
        """From 0 for the smallest slope to 1 for the largest."""
        return np.asarray(1 / (1 + np.exp(-np.clip(self.logits, -30, 30))))

    @property
    def slopes(self) -> FloatArray:
        """For coefficients of 1."""
        return np.asarray(self.low + (self.high - self.low) * self.share)


class Ascent:
    """Better slopes and multipliers of some rows of one value, step by step; ``best`` is proven of the rows.

    Parameters
    ----------
    before : Ascent, optional
        On what ``bounds`` is a part of: this one begins where that ended.
    needed : float
        What every row has to be above.
    """

    def __init__(
        self,
        bounds: LinearBounds,
        name: str,
        rows: FloatArray,
        before: Ascent | None = None,
        needed: float = 0.0,
    ) -> None:
        self.bounds = bounds
        self.name = name
        self.rows = rows
        self.needed: float = needed if before is None else before.needed
        self.network = bounds.network
        self.unknown: dict[str, _Unknown] = {}
        self.trace: Trace = {}
        self.begun = {} if before is None else before.unknown
        # What holds on the whole holds on the part.
        self.best: Interval = bounds.lower(name, rows, usual(self.network)) if before is None else before.best

    @property
    def positive(self) -> bool:
        """Whether every row is, or above what is needed."""
        return bool((self.best.low > self.needed).all())

    def improved(self, steps: int, clock: Clock) -> Ascent:
        """After some steps, or as many as are needed, or there is time for."""
        for _ in range(steps):
            if self.positive or clock.expired:
                break
            self.step()
        return self

    def step(self) -> None:
        """Bound the rows with the present slopes, and move these uphill."""
        self.trace = {}
        self.best &= self.bounds.lower(self.name, self.rows, self._choose, self.trace)
        self._move()

    def _choose(self, name: str, c: FloatArray, curve: Curve) -> tuple[FloatArray, FloatArray]:
        if not is_curved(self.network, name):
            return c, on_ball(c, curve)
        ball = by_ball(c, curve)
        if name not in self.unknown:
            tangent, chord, convex, concave = lines_of(curve)
            low = curve.slope.min(axis=0)
            high = curve.slope.max(axis=0)
            at = np.where(c > 0, np.where(convex, tangent, chord), np.where(concave, tangent, chord))
            share = (at - low) / np.maximum(high - low, 1e-300)
            moves = np.where(c < 0, concave | ~convex, convex | ~concave)
            share = np.where(moves, np.clip(share, 0.05, 0.95), share)
            logits = np.log(np.maximum(share, 1e-12)) - np.log(np.maximum(1 - share, 1e-12))
            logs = np.full(len(c), math.log(FIRST))
            if name in self.begun:
                begun = self.begun[name]
                kept = np.isin(curve.at, begun.at)
                there = np.isin(begun.at, curve.at)
                logits[:, kept] = begun.logits[:, there]
                logs = begun.logs
            by = Adam(RATES[0]), Adam(RATES[1])
            self.unknown[name] = _Unknown(curve.at, low, high, moves, logits, logs, *by)
        here = self.unknown[name]
        return c * here.slopes, np.exp(here.logs)[None] * ball

    def _move(self) -> None:
        """By the gradient: how the bound changes with the coefficients of each value is a point, computed forward."""
        points: dict[str, FloatArray] = {}
        count = len(self.rows)
        for node in self.network.graph.nodes:
            name = node.name
            linear = self.network.linear.get(node.name)
            kept = self.trace.get(node.name)
            known = [points[each] for each in node.inputs if each in points]
            curve = self.bounds.curve(name) if is_curved(self.network, name) and known else None
            if curve is None and kept is not None:
                points[name] = kept.point.reshape(count, *self.bounds.known[name].centre.shape)
            elif name not in self.network.moving:
                fixed = self.bounds.exact[name].low
                points[name] = np.broadcast_to(fixed, (count, *fixed.shape))
            elif linear is not None and known and len(known) == len(node.inputs):
                points[name] = linear.apply(known)
                if linear.offset is not None:
                    points[name] = points[name] + linear.offset()[0]
            elif curve is not None:
                before = known[0].reshape(count, -1)
                point = curve.lines * before + curve.added
                if kept is not None:
                    point[:, curve.at] = kept.value + self._uphill(name, kept, before[:, curve.at], curve)
                points[name] = point.reshape(known[0].shape)
            if name == self.name:
                break

    def _uphill(self, name: str, kept: Minimiser, before: FloatArray, curve: Curve) -> FloatArray:
        """Move one function's slopes and multipliers; what its slopes add to the gradient by its coefficients."""
        here = self.unknown[name]
        c = kept.coefficients
        apart = before - kept.point
        slopes = here.slopes
        by_logits = c * apart * (here.high - here.low) * here.share * (1 - here.share)
        here.logits = here.logits + here.by_logits.step(np.where(here.moves, by_logits, 0.0))
        by_logs = kept.multiplier * (np.square(kept.point - curve.centre).sum(axis=1) - curve.radius**2) / 2
        here.logs = np.clip(here.logs + here.by_logs.step(by_logs), -40, 5)
        # The multiplier grows with the norm of the coefficients.
        return np.asarray(slopes * apart + (by_logs / np.maximum(np.square(c).sum(axis=1), 1e-300))[:, None] * c)

    def switching(self) -> tuple[str, int] | None:
        """The entry, by the name of its value, whose sign alone costs the most; None: none does."""
        best: tuple[float, str, int] | None = None
        for name, kept in self.trace.items():
            curve = self.bounds.curve(name) if is_curved(self.network, name) else None
            if curve is None or len(curve.slope) != 2 or not len(curve.at):
                continue
            low = curve.breaks[0]
            high = curve.breaks[-1]
            bend = abs(curve.slope[1] - curve.slope[0]) * np.maximum(-low * high, 0.0) / (high - low + 1e-300)
            cost = (abs(kept.coefficients)[self.best.low <= self.needed] * bend).max(axis=0, initial=0.0)
            at = int(cost.argmax())
            if cost[at] > (0.0 if best is None else best[0]):
                best = float(cost[at]), self.network.nodes[name].inputs[0], int(curve.at[at])
        return None if best is None else best[1:]
