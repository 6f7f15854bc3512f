"""Where a network's inputs may lie, what is claimed of it there, and how far a search gets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from specnorm_networks import Graph, within
from specnorm_networks.tools import Method, NetworkBound, bound

Vector = NDArray[np.float64]
Function = Callable[[Vector], Vector]
"""Of an input in its own shape: all outputs, behind each other."""
STEPS = (1e-5, 1e-3, 0.1, 1.0)
"""Distances of pairs, as parts of the region's size."""
EPS = 2.0**-52


@dataclass(frozen=True, eq=False)
class Region:
    """Everywhere, a ball, or a box; ``first`` and ``second`` are its centre and radius, or its ends.

    ``kinks``: numbers at which a function everywhere may bend or jump.
    """

    kind: Literal["everywhere", "ball", "box"]
    shape: tuple[int, ...]
    first: Vector
    second: Vector
    kinks: tuple[float, ...] = ()

    @classmethod
    def drawn(cls, kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> Region:
        middle = rng.choice([0.0, 0.3, 1.0, 3.0]) * rng.standard_normal(shape)
        if rng.random() < 0.2:
            middle = np.full(shape, rng.choice([-1.0, 0.0, 0.5, 2.0]))
        half = np.asarray(10.0 ** rng.choice([rng.uniform(-3, 0), rng.uniform(0, 1)], p=[0.8, 0.2]))
        if kind == "ball":
            return cls("ball", shape, middle, half)
        if kind == "box":
            if rng.random() < 0.4:  # of some size on each axis, none on some
                half = half * rng.choice([0.0, 0.1, 1.0], shape, p=[0.1, 0.3, 0.6])
            return cls("box", shape, middle - half, middle + half)
        return cls("everywhere", shape, np.zeros(shape), np.ones(shape))

    @property
    def size(self) -> float:
        if self.kind == "box":
            return float(np.max(self.second - self.first, initial=0.0)) / 2
        return 1.0 if self.kind == "everywhere" else float(self.second)

    def inside(self, x: Vector) -> Vector:
        """The point itself, or one in the region beside it."""
        if self.kind == "everywhere":
            return x
        if self.kind == "box":
            return np.clip(x, self.first, self.second)
        away = x - self.first
        length = float(np.linalg.norm(away))
        most = float(self.second) * (1 - 1e-9)
        return x if length <= most else self.first + away * (most / length)

    def points(self, rng: np.random.Generator) -> Iterator[Vector]:
        """Points without end: some with structure first."""
        if self.kind == "everywhere":
            while True:
                x = rng.choice([0.3, 1.0, 3.0, 10.0]) * rng.standard_normal(self.shape)
                yield x
                yield np.where(rng.random(self.shape) < 0.4, rng.choice(self.kinks or (0.0,)), np.round(2 * x) / 2)
                yield np.full(self.shape, rng.standard_normal()) + 0.01 * x
        if self.kind == "ball":
            yield self.first.copy()
            while True:
                d = rng.standard_normal(self.shape)
                yield self.inside(self.first + d * (self.second * rng.choice([0.3, 0.9, 1.0]) / np.linalg.norm(d)))
        yield self.first.copy()
        yield self.second.copy()
        while True:
            yield rng.uniform(self.first, self.second)
            yield np.where(rng.random(self.shape) < 0.5, self.first, self.second)

    def claim(self, graph: Graph, method: Method, *, check: bool = True) -> NetworkBound:
        if self.kind == "ball":
            return bound(graph, centre=self.first, radius=float(self.second), method=method, check=check)
        graph = within(graph, self.first, self.second) if self.kind == "box" else graph
        return bound(graph, method=method, check=check)


@dataclass(frozen=True, eq=False)
class Reached:
    """The largest ratio of a pair, what rounding may have made of it taken off."""

    ratio: float = 0.0
    pair: tuple[Vector, Vector] | None = None


class Search:
    """Looks for pairs of inputs in a region that a function moves far apart."""

    def __init__(
        self, f: Function, region: Region, rng: np.random.Generator, relative: float = 1e-12, absolute: float = 0.0
    ) -> None:
        self.f = f
        self.region = region
        self.rng = rng
        self.relative = relative
        self.absolute = absolute
        self.best = Reached()

    def run(self, points: int) -> Reached:
        with np.errstate(all="ignore"):
            for at, x in zip(range(points), self.region.points(self.rng), strict=False):
                self._around(x, jacobian=at < 4)
            self._ascend(4)
        return self.best

    def _around(self, x: Vector, *, jacobian: bool) -> None:
        size = self.region.size
        other = next(self.region.points(self.rng))
        self._pair(x, other)
        d = self._steepest(x, 1e-6 * max(size, 1e-3)) if jacobian else self.rng.standard_normal(x.shape)
        for step in STEPS:
            move = step * size * d / max(float(np.linalg.norm(d)), 1e-300)
            self._pair(self.region.inside(x + move), self.region.inside(x - move))

    def _steepest(self, x: Vector, h: float) -> Vector:
        units = np.eye(x.size).reshape(x.size, *x.shape)
        columns = [self.f(x + h * e) - self.f(x - h * e) for e in units]
        matrix = np.nan_to_num(np.stack(columns, 1) / (2 * h), nan=0.0, posinf=0.0, neginf=0.0)
        if not matrix.any():
            return self.rng.standard_normal(x.shape)
        direction: Vector = np.linalg.svd(matrix, full_matrices=False)[2][0]
        return direction.reshape(x.shape)

    def _ascend(self, steps: int) -> None:
        if self.best.pair is None:
            return
        for _ in range(steps):
            one, other = self.best.pair
            length = float(np.linalg.norm(one - other))
            move = 0.3 * length * self.rng.standard_normal(one.shape) / math.sqrt(one.size)
            both = self.rng.random() < 0.5
            self._pair(self.region.inside(one + move), self.region.inside(other + (move if both else 0.0)))

    def _pair(self, one: Vector, other: Vector) -> None:
        distance = float(np.linalg.norm(one - other)) * (1 + 8 * EPS)
        if not distance > 0:
            return
        ratio = self.ratio(one, other, self.absolute)
        if ratio > self.best.ratio:
            self.best = Reached(ratio, (one, other))

    def ratio(self, one: Vector, other: Vector, noise: float) -> float:
        """How far apart the images are, less what rounding may make of each and ``noise``, by the distance."""
        a = self.f(one)
        b = self.f(other)
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            return 0.0
        slack = self.relative * (1 + float(np.linalg.norm(a)) + float(np.linalg.norm(b))) + noise
        return max(float(np.linalg.norm(a - b)) - slack, 0.0) / (float(np.linalg.norm(one - other)) * (1 + 8 * EPS))

    def exceeds(self, upper: float, largest: Callable[[Vector], float] | None = None) -> bool:
        """Whether the best pair is further apart than a bound allows.

        ``largest`` gives the largest number that is met on the way to a value: its last digits may be lost.
        """
        if self.best.pair is None or self.best.ratio <= upper * (1 + 1e-5) + 1e-9:
            return False
        with np.errstate(all="ignore"):
            noise = 0.0 if largest is None else 1e-12 * sum(map(largest, self.best.pair))
            return self.ratio(*self.best.pair, noise) > upper * (1 + 1e-5) + 1e-9
