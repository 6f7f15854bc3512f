"""Normalisation by a value's own entries: everywhere, on balls and on boxes, against Jacobians; and what is no such."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from checks import present
from numpy.typing import NDArray
from specnorm_networks import Graph, Node, operators, within
from specnorm_networks.tools import bound

Vector = NDArray[np.float64]
DIVISORS: dict[str, Callable[[Vector, int, float], Vector]] = {
    "mean square": lambda s, n, eps: np.sqrt(s * s / n + eps),
    "largest": lambda s, _, eps: np.maximum(s, eps),
    "sum": lambda s, _, eps: s + eps,
}


def definition(
    x: Vector,
    axes: tuple[int, ...],
    eps: float,
    form: str,
    centred: bool,
) -> Vector:
    z = x - x.mean(axis=axes, keepdims=True) if centred else x
    s = np.sqrt((z * z).sum(axis=axes, keepdims=True))
    return z / DIVISORS[form](s, math.prod(x.shape[a] for a in axes), eps)


def network(
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    eps: float,
    form: Any,
    *,
    centred: bool,
) -> Graph:
    ones = tuple(1 if at in axes else n for at, n in enumerate(shape))
    nodes = [Node("x", operators.Input(), (), shape)]
    if centred:
        nodes.append(Node("z", operators.Centre(axes), ("x",), shape))
    z = nodes[-1].name
    nodes.append(Node("s", operators.Norm(axes, keep=True), (z,), ones))
    nodes.append(Node("y", operators.Normalise(axes, eps, form), (z, "s"), shape))
    return Graph(tuple(nodes), ("y",))


def jacobian(f: Callable[[Vector], Vector], x: Vector, step: float = 1e-6) -> float:
    moves = np.eye(x.size).reshape(x.size, *x.shape) * step
    return float(np.linalg.norm(np.stack([(f(x + m) - f(x - m)).reshape(-1) / (2 * step) for m in moves], axis=1), 2))


CASES = [
    ((1, 8), (1,), 1e-2, "mean square", True),
    ((2, 3, 4), (1, 2), 0.1, "mean square", True),
    ((2, 5), (1,), 0.1, "mean square", False),
    ((3, 4), (0,), 0.3, "largest", False),
    ((2, 5), (1,), 0.2, "sum", False),
    ((1, 4), (1,), 0.05, "sum", True),
]


@pytest.mark.parametrize(("shape", "axes", "eps", "form", "centred"), CASES)
def test_everywhere_the_constant_is_attained_at_zero(
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    eps: float,
    form: str,
    centred: bool,
) -> None:
    found = present(bound(network(shape, axes, eps, form, centred=centred)).upper)
    wanted = 1 / (math.sqrt(eps) if form == "mean square" else eps)
    assert wanted <= found <= wanted * (1 + 1e-12)
    rng = np.random.default_rng(0)
    points = [np.zeros(shape), 1e-3 * rng.standard_normal(shape), rng.standard_normal(shape), np.ones(shape)]
    reached = [jacobian(lambda x: definition(x, axes, eps, form, centred), x, 1e-7) for x in points]
    assert max(reached) <= found * (1 + 1e-6)
    assert max(reached) >= found * (1 - 1e-3)


@pytest.mark.parametrize(("shape", "axes", "eps", "form", "centred"), CASES)
def test_the_constant_on_a_ball_holds_and_is_that_of_the_smallest_length(
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    eps: float,
    form: str,
    centred: bool,
) -> None:
    """The bound is above all Jacobians in the ball, and below the slope at the smallest length in it."""
    rng = np.random.default_rng(1)
    centre = rng.standard_normal(shape)
    graph = network(shape, axes, eps, form, centred=centred)
    z = centre - centre.mean(axis=axes, keepdims=True) if centred else centre
    n = math.prod(shape[a] for a in axes)
    smallest = float(np.sqrt((z * z).sum(axis=axes)).min())
    for radius in (0.01, 0.1, 0.5, 3.0):
        found = present(bound(graph, radius=radius, centre=centre).upper)
        slope = 1 / float(DIVISORS[form](np.array(max(smallest - radius, 0.0)), n, eps))
        assert found <= slope * (1 + 1e-6), "the bound is above the slope at the smallest length"
        for _ in range(20):
            away = rng.standard_normal(shape)
            x = centre + rng.uniform() * radius * away / np.linalg.norm(away)
            assert jacobian(lambda x: definition(x, axes, eps, form, centred), x) <= found * (1 + 1e-6)
        # Towards 0, where it is steepest.
        low = z * max(0.0, 1 - 0.999 * radius / float(np.linalg.norm(z)))
        assert jacobian(lambda x: definition(x, axes, eps, form, centred), low + centre - z) <= found * (1 + 1e-6)


def test_without_eps_there_is_a_constant_on_boxes_without_0() -> None:
    graph = network((1, 4), (1,), 0.0, "largest", centred=False)
    everywhere = bound(graph)
    assert everywhere.upper is None
    assert "within(" in everywhere.unknown[0].reason
    low = np.array([[1.0, -1.0, 2.0, -3.0]])
    high = np.array([[2.0, 1.0, 4.0, 3.0]])
    found = present(bound(within(graph, low, high)).upper)
    assert found == pytest.approx(1 / math.sqrt(5), rel=1e-9)
    rng = np.random.default_rng(0)
    for x in rng.uniform(low, high, (50, 1, 4)):
        assert jacobian(lambda x: definition(x, (1,), 0.0, "largest", False), x) <= found * (1 + 1e-6)
    # A box that contains 0.
    assert bound(within(graph, -1.0, 1.0)).upper is None


def test_the_length_is_that_of_what_is_divided() -> None:
    """Any other second input says nothing, whatever its range."""
    shape = (1, 4)
    x = Node("x", operators.Input(), (), shape)
    z = Node("z", operators.Scale(np.array(2.0)), ("x",), shape)
    norm = operators.Norm((1,), keep=True)
    for lengths in (
        Node("s", norm, ("z",), (1, 1)),
        Node("s", operators.Norm((0,), keep=True), ("x",), shape),
        Node("s", operators.Largest((1,), keep=True), ("x",), (1, 1)),
        Node("s", operators.Scale(np.array(9.0)), ("x",), shape),
    ):
        y = Node("y", operators.Normalise((1,), 0.1), ("x", "s"), shape)
        found = bound(Graph((x, z, lengths, y), ("y",)))
        assert found.upper is None
        assert "not the length" in found.unknown[0].reason
    right = (x, z, Node("s", norm, ("z",), (1, 1)), Node("y", operators.Normalise((1,), 0.1), ("z", "s"), shape))
    assert bound(Graph(right, ("y",))).upper == pytest.approx(2 / math.sqrt(0.1))
    negative = (*right[:3], Node("y", operators.Normalise((1,), -0.1), ("z", "s"), shape))
    assert bound(Graph(negative, ("y",))).upper is None
