"""Slopes and multipliers of linear bounds, searched; `certified.linear_bounds` proves what they are worth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specnorm.certified.bound import Upper
from specnorm.certified.interval import Interval
from specnorm.clock import Clock
from specnorm_networks.adam import Adam
from specnorm_networks.bounding import bounded
from specnorm_networks.by_rule import by_ball, is_curved, lines_of, on_ball, usual
from specnorm_networks.certified.graph import Graph
from specnorm_networks.certified.linear_bounds import LinearBounds, Trace
from specnorm_networks.certified.linear_reading import Network, written_out
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.parabolas import Curve, Minimiser
from specnorm_networks.certified.patterns import prepared, unsorted
from specnorm_networks.measuring import Measure
from specnorm_networks.methods import Product

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
        self, bounds: LinearBounds, name: str, rows: FloatArray, before: Ascent | None = None, needed: float = 0.0
    ) -> None:
        self.bounds, self.name, self.rows = bounds, name, rows
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
            low, high = curve.slope.min(axis=0), curve.slope.max(axis=0)
            at = np.where(c > 0, np.where(convex, tangent, chord), np.where(concave, tangent, chord))
            share = (at - low) / np.maximum(high - low, 1e-300)
            moves = np.where(c < 0, concave | ~convex, convex | ~concave)
            share = np.where(moves, np.clip(share, 0.05, 0.95), share)
            logits = np.log(np.maximum(share, 1e-12)) - np.log(np.maximum(1 - share, 1e-12))
            logs = np.full(len(c), math.log(FIRST))
            if name in self.begun:
                begun = self.begun[name]
                kept, there = np.isin(curve.at, begun.at), np.isin(begun.at, curve.at)
                logits[:, kept], logs = begun.logits[:, there], begun.logs
            by = Adam(RATES[0]), Adam(RATES[1])
            self.unknown[name] = _Unknown(curve.at, low, high, moves, logits, logs, *by)
        here = self.unknown[name]
        return c * here.slopes, np.exp(here.logs)[None] * ball

    def _move(self) -> None:
        """By the gradient: how the bound changes with the coefficients of each value is a point, computed forward."""
        points: dict[str, FloatArray] = {}
        count = len(self.rows)
        for node in self.network.graph.nodes:
            name, linear, kept = node.name, self.network.linear.get(node.name), self.trace.get(node.name)
            known = [points[each] for each in node.inputs if each in points]
            curve = self.bounds.curve(name) if is_curved(self.network, name) and known else None
            if curve is None and kept is not None:
                points[name] = kept.point.reshape(count, *self.bounds.known[name].centre.shape)
            elif name not in self.network.moving:
                fixed = self.bounds.exact[name].low
                points[name] = np.broadcast_to(fixed, (count, *fixed.shape))
            elif linear is not None and known and len(known) == len(node.inputs):
                points[name] = linear.map.apply(known)
                if linear.map.offset is not None:
                    points[name] = points[name] + linear.map.offset()[0]
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
        here, c, apart = self.unknown[name], kept.coefficients, before - kept.point
        slopes, by_logits = here.slopes, c * apart * (here.high - here.low) * here.share * (1 - here.share)
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
            low, high = curve.breaks[0], curve.breaks[-1]
            bend = abs(curve.slope[1] - curve.slope[0]) * np.maximum(-low * high, 0.0) / (high - low + 1e-300)
            cost = (abs(kept.coefficients)[self.best.low <= self.needed] * bend).max(axis=0, initial=0.0)
            at = int(cost.argmax())
            if cost[at] > (0.0 if best is None else best[0]):
                best = float(cost[at]), self.network.nodes[name].inputs[0], int(curve.at[at])
        return None if best is None else best[1:]
