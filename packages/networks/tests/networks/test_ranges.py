"""Values of a network lie in their ranges, for every input of a ball or a box, and rounding is counted."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from helpers.checks import present
from networks.dense_networks import Network, convolutional, dense
from specnorm_networks import Graph, Node
from specnorm_networks.certified import operators, ranges
from specnorm_networks.certified.subjects import Box
from specnorm_networks.local.certified import ranges as on_balls
from specnorm_networks.local.certified.ranges import Ball
from specnorm_networks.local.linear import ranges_by_lines, read_network
from specnorm_networks.tools import bound

KINDS: dict[str, dict[str, Any]] = {
    "zeros": {"plain": True}, "geometry": {"layers": 3}, "circular": {"mode": "circular"},
    "two axes": {"axes": 2, "layers": 2},
}  # fmt: skip


def chains() -> list[Network]:
    found = [dense(seed, (4, 8, 8, 3), function) for seed, function in enumerate(["relu", "leaky", "tanh", "sigmoid"])]
    found += [dense(9, (5, 5, 5, 2), skips=True), dense(10, (5, 5, 5, 2), "silu", skips=True)]
    drawn = [convolutional(seed, **kind) for kind in KINDS.values() for seed in range(4)]
    return [*found, *(chain for chain in drawn if chain is not None)]


def samples(chain: Network, region: Ball | Box, seed: int) -> list[Any]:
    """Points of a region, most of them at its border, many along rows of the maps."""
    numbers = np.random.default_rng(seed)
    found = []
    rows = np.concatenate([m for of in chain.sums for m in of.values() if m.shape[1] == math.prod(chain.shape)])
    for row in [*rows, *numbers.normal(size=(20, rows.shape[1]))]:
        for sign in (-1, 1):
            if isinstance(region, Ball):
                step = sign * region.radius * row / max(np.linalg.norm(row), 1e-300)
                found.append(region.centre["x"].reshape(-1) + step * (1 - 1e-12))
            else:
                ends = (region.low["x"].reshape(-1), region.high["x"].reshape(-1))
                found.append(np.where(sign * row > 0, ends[1], ends[0]))
    return found


@pytest.mark.parametrize("kind", ["ball", "ball by lines", "box"])
def test_values_are_in_their_ranges(kind: str) -> None:
    tight = []
    for seed, chain in enumerate(chains()):
        x = np.random.default_rng(seed).normal(size=chain.shape)
        radius = [0.01, 0.3, 2.0][seed % 3]
        region: Ball | Box = Ball({"x": x}, radius)
        if kind == "box":
            region = Box({"x": x - radius / 2}, {"x": x + radius})
        if isinstance(region, Box):
            found = ranges.ranges(chain.graph, region)
        elif kind == "ball by lines":
            found = ranges_by_lines(read_network(chain.graph), region)
        else:
            found = on_balls.ranges(chain.graph, region)
        for point in samples(chain, region, seed):
            values = chain.values(point)
            for name, value in zip([*chain.before, chain.graph.outputs[0]], values, strict=True):
                low, high = (end.reshape(-1) for end in (found[name].low, found[name].high))
                slack = 1e-11 * (1 + abs(value).max())
                assert (low - slack <= value).all(), (seed, name)
                assert (value <= high + slack).all(), (seed, name)
        # The first map's ranges are attained; on a ball, where no border cuts its rows off.
        first = np.array([chain.values(point)[0] for point in samples(chain, region, seed)])
        width = (found[chain.before[0]].high - found[chain.before[0]].low).reshape(-1)
        shares = (first.max(axis=0) - first.min(axis=0)) / np.maximum(width, 1e-300)
        tight.append(float(shares.min() if kind == "box" else shares.max()))
    assert min(tight) > 0.999


def exact(chain: Network, x: Any) -> list[list[Any]]:
    """Values before each function at a point, as balls of 300 bits."""
    flint: Any = pytest.importorskip("flint", reason="ball arithmetic: pip install python-flint")
    flint.ctx.prec = 300
    z = [flint.arb(float(entry)) for entry in x.reshape(-1)]
    found = []
    for at, (of, function) in enumerate(zip(chain.sums[1:], chain.functions[1:], strict=True)):
        v = [
            sum((flint.arb(float(w)) * entry for w, entry in zip(row, z, strict=True)), flint.arb(float(b)))
            for row, b in zip(of[at], of[-1][:, 0], strict=True)
        ]
        found.append(v)
        z = v if function is None else [e.max(0) if function == "relu" else e.tanh() for e in v]
    return found


@pytest.mark.parametrize("function", ["relu", "tanh"])
def test_rounding_is_counted(function: str) -> None:
    """At one point the exact values, in ball arithmetic, lie within ranges that are a few roundings wide."""
    widths = []
    for seed in range(3):
        chain = dense(seed, (20, 20, 20, 3), function)
        x = np.random.default_rng(seed).normal(size=chain.shape)
        found = on_balls.ranges(chain.graph, Ball({"x": x}, 0.0))
        for name, values in zip(chain.before, exact(chain, x), strict=True):
            for low, high, value in zip(
                *(end.reshape(-1) for end in (found[name].low, found[name].high)), values, strict=True
            ):
                assert value >= float(low)
                assert value <= float(high)
                widths.append(float(high - low))
    assert max(widths) < 1e-11


@pytest.mark.parametrize("radius", [0.2, 5.0])
def test_an_input_itself_moves_by_the_radius(radius: float) -> None:
    """Before anything is computed of it: its range was that of a radius of 1, and 2 was claimed for 10."""
    nodes = (Node("x", operators.Input(), (), (1, 3)), Node("y", operators.Product(), ("x", "x"), (1, 3)))
    graph = Graph(nodes, ("y",))
    centre = np.full((1, 3), 0.5)
    found = on_balls.ranges(graph, Ball({"x": centre}, radius))["x"]
    assert np.allclose(found.low, 0.5 - radius)
    assert np.allclose(found.high, 0.5 + radius)
    upper = present(bound(graph, centre=centre, radius=radius).upper)
    assert 2 * (0.5 + radius) <= upper <= 2 * (0.5 + radius) * 1.01
