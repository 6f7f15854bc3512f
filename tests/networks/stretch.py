"""The largest stretch of a map that a search finds: from below, by values of the map alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from specnorm_networks import Graph, bound, within

Vector = NDArray[np.float64]
STEPS = (1e-3, 0.1, 2.0)

BOXES = ((-1.5, 2.0), (0.5, 2.0))
"""For operators that have a constant where their inputs lie in a box."""


def somewhere(
    graph: Graph, f: Callable[[Vector], Vector]
) -> tuple[float, Callable[[Vector], Vector], list[float]] | None:
    """A bound, the map that it is of, and where that has kinks; of the map on a box where there is none everywhere."""
    found = bound(graph)
    if found.upper is not None:
        return found.upper, f, []
    for low, high in BOXES if any("within(" in node.reason for node in found.unknown) else ():
        upper = bound(within(graph, low, high)).upper
        if upper is not None:
            return upper, lambda z, low=low, high=high: f(np.clip(z, low, high)), [low, high]
    return None


def largest_stretch(
    f: Callable[[Vector], Vector],
    size: int,
    rng: np.random.Generator,
    places: Sequence[float] = (),
    relative: float = 0.0,
    absolute: float = 0.0,
    points: int = 2,
) -> float:
    """Largest ``|f(a) - f(b)| / |a - b|`` found: one power iteration after another, and pairs far apart.

    Parameters
    ----------
    f : callable
        From and to vectors.
    size : int
        Of the input.
    rng : Generator
    places : sequence of float
        Where the map may have kinks: some entries lie there, and close by.
    relative, absolute : float
        By how much rounding may change the distance of two images: a share of ``1 + |a| + |b|``, and a number.
    points : int
        Number of starts.
    """
    best = 0.0

    def rise(a: Vector, b: Vector) -> float:
        apart, length = f(a) - f(b), float(np.linalg.norm(a - b))
        if not np.all(np.isfinite(apart)) or not length:
            return 0.0
        slack = absolute + relative * float(1 + np.linalg.norm(a) + np.linalg.norm(b)) if relative else absolute
        return max(float(np.linalg.norm(apart)) - slack, 0.0) / length

    for start in range(points):
        x = rng.normal(size=size) * rng.choice([0.3, 1.0, 5.0, 30.0])
        near = rng.random(size) < 0.4
        if places and start:
            x[near] = rng.choice(np.asarray(places, dtype=np.float64), int(near.sum()))
            x = x + rng.choice([0.0, 1e-3, 0.1]) * rng.normal(size=size)
        d = _steepest(f, x)
        for h in STEPS:
            best = max(best, rise(x + h * d, x - h * d), rise(x + h * d, x))
        far = rng.normal(size=size) * rng.choice([0.5, 3.0, 40.0])
        best = max(best, rise(x, far), rise(x, x + rng.normal(size=size) * 1e-2))
        best = max(best, rise(x, x + 1.0), rise(x, x * 2.0), rise(x, np.where(near, far, x)))
    return best


def _steepest(f: Callable[[Vector], Vector], x: Vector) -> Vector:
    """Direction of the largest singular value of the difference quotients at a point."""
    h, here = 1e-5, f(x)
    columns = [(f(x + h * e) - here) / h for e in np.eye(x.size)]
    matrix = np.nan_to_num(np.stack(columns, 1), nan=0.0, posinf=0.0, neginf=0.0)
    if not matrix.size or not np.any(matrix):
        return np.ones(x.size) / math.sqrt(x.size)
    direction: Vector = np.linalg.svd(matrix, full_matrices=False)[2][0]
    return direction
