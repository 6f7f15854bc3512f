"""The linear bound of a small dense network in ball arithmetic, for the slopes and multipliers that were taken.

`specnorm`'s number is below the formula's true value, and within 1e-6 of it. The formula is evaluated here by exact
fractions of parabolas; of `specnorm` come only the numbers that it was evaluated with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flint", exc_type=ImportError)
from flint import arb, ctx
from networks.dense_networks import Network, dense
from specnorm_networks import within
from specnorm_networks.local.linear import locate_values, read_network

Array = Any
KINKS = {"relu": (0.0, 1.0), "leaky": (0.2, 1.0), "abs": (-1.0, 1.0)}
"""Slopes below and above 0."""


def least(c: arb, slopes: tuple[float, float], g: arb, lam: arb, centre: arb, low: arb, high: arb) -> arb:
    """Of ``c f(z) - g z + lam (z - centre)^2 / 2`` on an interval: at ends, the kink, or a parabola's lowest point."""
    found = []
    for slope, ends in zip(slopes, ((low, min(high, arb(0))), (max(low, arb(0)), high)), strict=True):
        if not ends[0] <= ends[1]:
            continue
        s = c * arb(slope) - g
        points = [*ends]
        if lam > 0:
            points += [z for z in [centre - s / lam] if ends[0] < z < ends[1]]
        found += [s * z + lam * (z - centre) ** 2 / 2 for z in points]
    best = found[0]
    for each in found[1:]:
        best = best.min(each)
    return best


def of_chain(chain: Network, row: Array, taken: dict[str, Any], known: dict[str, Any]) -> arb:
    """The bound of a row of the output, from the output back to the input."""
    c = [arb(float(x)) for x in row]
    total = arb(0)
    for at, of in reversed(list(enumerate(chain.sums[1:]))):
        matrix, bias = ([[arb(float(x)) for x in row] for row in each.T] for each in (of[at], of[-1]))
        total += sum((a * b for a, b in zip(c, *bias, strict=True)), arb(0))
        c = [sum((a * b for a, b in zip(c, column, strict=True)), arb(0)) for column in matrix]
        name = chain.names[at]
        centre, low, high, rho = known[chain.before[at - 1] if at else "x"]
        units, slopes, lam = taken.get(name, ([], [], 0.0))
        straight = KINKS[str(chain.functions[at])] if at else (1.0, 1.0)
        total -= arb(lam) * arb(rho) ** 2 / 2
        before = list(c)
        for j in range(len(c)):
            if j in units:
                g = arb(float(slopes[units.index(j)])) if at else arb(0)
                ends = (arb(float(each[j])) for each in (centre, low, high))
                total += least(c[j], straight, g, arb(lam), *ends)
                before[j] = g
            else:
                before[j] = c[j] * arb(straight[0] if high[j] <= 0 else straight[1])
        c = before
    return total


def pick(taken: dict[str, Any], share: float, factor: float) -> Any:
    """Slopes between the two of the function, multipliers of the ball's size; each is written down."""

    def choose(name: str, c: Array, curve: Any) -> tuple[Array, Array]:
        slope = curve.strips.slope
        low = slope.min(axis=0)
        high = slope.max(axis=0)
        slopes = c * (low + share * (high - low)) if name != "x" else c
        lam = factor * float(np.linalg.norm(c)) / max(curve.radius, 1e-9)
        taken[name] = [int(at) for at in curve.units], slopes[0], lam
        return slopes, np.array([[lam]])

    return choose


def bounds_of(kind: str, widths: Sequence[int], seed: int, radius: float, boxed: bool) -> list[tuple[float, arb]]:
    """What was proven of rows of a network at random, and the formula's value."""
    chain = dense(seed, widths, kind)
    numbers = np.random.default_rng(seed)
    x = numbers.uniform(-0.5, 0.5, size=widths[0])
    graph = within(chain.graph, -0.6, 0.7) if boxed else chain.graph
    where = locate_values(read_network(graph), x.reshape(chain.shape), radius)
    known = {
        name: (here.centre.reshape(-1), *(end.reshape(-1) for end in here.range.ends), here.radius)
        for name, here in where.locations.items()
    }
    found = []
    for share, factor in ((0.3, 0.2), (0.9, 0.02), (0.0, 1.5)):
        row = numbers.normal(size=(1, 1, widths[-1]))
        taken = dict[str, Any]()
        low = where.lower(chain.before[-1], row, pick(taken, share, factor)).low[0]
        found.append((float(low), of_chain(chain, row.reshape(-1), taken, known)))
    return found


@pytest.mark.parametrize("boxed", [False, True], ids=["ball", "ball and box"])
@pytest.mark.parametrize("kind", KINKS)
def test_the_bound_is_the_formula_s_from_below(kind: str, boxed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctx, "prec", 160)
    for seed, (widths, radius) in enumerate([((4, 6, 3), 0.3), ((5, 7, 6, 2), 0.8), ((3, 5, 5, 5, 2), 0.2)]):
        for low, value in bounds_of(kind, widths, seed, radius, boxed):
            assert low <= value
            assert value - low < 1e-6 * (1 + abs(value))
