"""No value is below its linear bound on a ball and a box; the bounds are close; each part of them is needed.

Attacks go downhill by Jacobians that `dense_networks` computes from dense matrices of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from networks.dense_networks import CHAINS, Network
from networks.written_networks import matrices
from specnorm_networks import Graph
from specnorm_networks.local.certified import linear_bounds
from specnorm_networks.local.certified.linear_bounds import FunctionOnBox, Strips
from specnorm_networks.local.linear import Ascent, locate_values, read_network

from specnorm.running.search import Clock

Array = Any


def lowest(chain: Network, x: Array, radius: float, row: Array, seed: int, steps: int = 12, starts: int = 6) -> float:
    """The least value of a row of the output that steps downhill in the ball find."""
    numbers = np.random.default_rng(seed)
    best = math.inf
    for _ in range(starts):
        d = numbers.normal(size=x.size)
        d *= radius / np.linalg.norm(d)
        for _ in range(steps):
            best = min(best, float(row @ chain.values(x.reshape(-1) + d)[-1]))
            way = row @ chain.jacobian(x.reshape(-1) + d)
            d = d - 0.7 * radius * way / max(float(np.linalg.norm(way)), 1e-300)
            d *= min(1.0, radius * (1 - 1e-12) / max(float(np.linalg.norm(d)), 1e-300))
    return best


def gaps(chain: Network, radius: float, seed: int, steps: int = 12) -> Iterator[tuple[float, float]]:
    """How far below the centre a row's bound is, and how far an attack gets."""
    network = READ.setdefault(id(chain), read_network(chain.graph))
    x = np.random.default_rng(seed).normal(size=chain.shape)
    bounds = locate_values(network, x, radius)
    end = chain.graph.outputs[0]
    shape = bounds.locations[end].centre.shape
    rows = np.random.default_rng(seed + 1).normal(size=(3, *shape))
    found = Ascent(bounds, end, rows).climb(0, Clock())
    for _ in range(steps):
        found.step()
    for row, low in zip(rows.reshape(3, -1), found.best.low, strict=True):
        middle = float(row @ chain.values(x)[-1])
        yield middle - float(low), middle - lowest(chain, x, radius, row, seed)


READ: dict[int, Any] = {}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.sampled(2)
def test_no_value_is_below_its_bound(name: str) -> None:
    for radius in (1e-3, 0.2, 1.5):
        for below, reached in gaps(CHAINS[name], radius, seed=3, steps=4):
            assert below >= reached - 1e-12 * (1 + abs(reached))


# -- exact cases -------------------------------------------------------------------------------------------------------
def lower(graph: Graph, x: Array, radius: float, rows: Array, *, anew: bool = True) -> Array:
    bounds = locate_values(read_network(graph), x, radius, by_lines=anew)
    return Ascent(bounds, graph.outputs[0], rows).climb(0, Clock()).best.low


def false_offsets_on_tiny_balls() -> int:
    """How many of 200 lower bounds of c x on balls whose squared radius underflows are above -|c| times the radius."""
    numbers = np.random.default_rng(2)
    none = np.zeros((1, 3))
    count = 0
    for _ in range(200):
        radius = float(10 ** numbers.uniform(-163, -158))
        strips = Strips(np.zeros(3), radius * np.array([[-1.0] * 3, [1.0] * 3]), np.ones((1, 3)), none, none)
        function = FunctionOnBox(np.arange(3), radius, strips, none[0], none[0], none[0])
        c = numbers.normal(size=(1, 3))
        best_multiplier = np.array([[np.linalg.norm(c) / radius]])
        (offset,), _ = linear_bounds.offsets_by_parabolas(c, none, best_multiplier, function, False)
        least_sq = sum(Fraction(float(x)) ** 2 for x in c[0]) * Fraction(radius) ** 2
        count += offset > 0 or Fraction(float(offset)) ** 2 < least_sq
    return count


def test_squares_of_tiny_balls_may_underflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The square of 1e-162 has two digits. Multiplied by 1e162, its error made lower bounds too high, by up to 88 %."""
    assert false_offsets_on_tiny_balls() == 0
    monkeypatch.setattr(linear_bounds, "SQUARE_UNDERFLOW", 0.0)
    assert false_offsets_on_tiny_balls() > 0


def test_offsets_against_enumeration() -> None:
    """On the box alone exact; on ball and box never above the least value of a fine grid, and close to it."""
    numbers = np.random.default_rng(1)
    for _ in range(30):
        centre = numbers.normal(size=2)
        half = numbers.uniform(0.2, 2, size=2)
        low = np.minimum(centre - half, -0.1)
        high = np.maximum(centre + half, 0.1)
        c = numbers.normal(size=(1, 2))
        g = numbers.normal(size=(1, 2))
        radius = float(numbers.uniform(0.3, 1.5))
        breaks = np.stack([low, 0 * low, high])
        slope = np.array([[0.0, 0.0], [1.0, 1.0]])
        none = np.zeros((2, 2))
        half = np.full((2, 2), 0.25 * numbers.integers(0, 2))
        off = half[0, 0] * float(abs(c).sum())
        strips = Strips(centre, breaks, slope, none, half)
        function = FunctionOnBox(np.arange(2), radius, strips, none[0], none[0], none[0])
        (boxed,), _ = linear_bounds.offsets_by_parabolas(c, g, np.zeros((1, 1)), function, False)
        exact = float((c * np.maximum(breaks, 0) - g * breaks).min(axis=0).sum()) - off
        assert exact - 1e-9 <= boxed <= exact + 1e-12
        tries = np.linspace(1e-3, 8, 200)[:, None]
        (both,), _ = linear_bounds.offsets_by_parabolas(c, g, tries, function, False)
        axes = [np.linspace(low[j], high[j], 301) for j in (0, 1)]
        grid = np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)
        grid = grid[np.linalg.norm(grid - centre, axis=1) <= radius]
        least = (np.maximum(grid, 0) @ c[0] - grid @ g[0]).min() - off
        assert both <= least + 1e-12
        if (c >= 0).all():  # convex: no gap
            assert both >= least - 0.05


def test_rounding_is_counted() -> None:
    """Sums that cancel, in rational numbers."""
    numbers = np.random.default_rng(2)
    for _ in range(40):
        first = numbers.normal(size=(6, 4)) * 10.0 ** numbers.integers(-6, 7, size=(6, 1))
        last = np.linalg.lstsq(first.T, 1e-3 * numbers.normal(size=4), rcond=None)[0][None]
        graph = matrices(first, last)
        x = numbers.normal(size=4)
        (found,) = lower(graph, x, 0.0, np.ones((1, 1, 1)))
        inner = [sum(Fraction(w) * Fraction(v) for w, v in zip(row, x, strict=True)) for row in first]
        assert Fraction(float(found)) <= sum(Fraction(w) * v for w, v in zip(last[0], inner, strict=True))
