"""Maxima written out by differences and ReLU compute the same, and move no further than is said of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from specnorm_networks import Graph, Node
from specnorm_networks.certified import operators
from specnorm_networks.certified.linear_bounds import Network, written_out
from specnorm_networks.certified.operators import windows

SHAPE = (1, 2, 5, 6)
POOLING = operators.MaxPool(operators.Windows((3, 2), (2, 2), (1, 1), ((1, 1), (0, 0))))
MAXIMA: dict[str, tuple[Any, int]] = {
    "two": (operators.Maximum(), 2), "five": (operators.Maximum(), 5), "the least of three": (operators.Minimum(), 3),
    "one": (operators.Minimum(), 1), "pooling": (POOLING, 1),
    "adaptive": (operators.AdaptiveMaxPool((2, 3)), 1), "over axes": (operators.Largest((1, 3)), 1),
    "kept": (operators.Smallest((2,), True), 1),
    "where": (operators.Where(lambda: np.random.default_rng(0).random(SHAPE) < 0.5), 2),
}  # fmt: skip


@pytest.mark.parametrize("name", MAXIMA)
def test_what_is_written_out_computes_the_same(name: str) -> None:
    operator, count = MAXIMA[name]
    numbers = np.random.default_rng(0)
    values = [numbers.normal(size=SHAPE) for _ in range(count)]
    shape = operator.run(*values).shape
    nodes = [Node("x", operators.Input(), (), SHAPE)]
    nodes += [Node(f"v{at}", operators.Scale(v), ("x",), SHAPE) for at, v in enumerate(values)]
    whole = Graph((*nodes, Node("y", operator, tuple(f"v{at}" for at in range(count)), shape)), ("y",))
    steps = written_out(whole)
    x = numbers.normal(size=SHAPE)
    expected = whole.run({"x": x})["y"]
    for graph in steps[1:]:
        assert np.allclose(graph.run({"x": x})["y"], expected, rtol=1e-12, atol=1e-12)
    rest = {type(node.operator) for node in steps[-1].nodes}
    assert not rest & {operators.Maximum, operators.Minimum, operators.MaxPool, operators.Largest, windows.Along}
    assert len(steps) > 1


def test_maxima_along_an_axis_move_no_further_than_they_say() -> None:
    """Windows that share entries, in which an entry may be repeated: attained."""
    for table, truth in (([[0, 1], [2, 3]], 1.0), ([[0, 1], [1, 2]], math.sqrt(2)), ([[0, 0], [1, 1]], 1.0)):
        operator = windows.Along(1, np.array(table))
        assert operator.lipschitz(operators.Place(((1, 4),))) == pytest.approx(truth, rel=1e-12)
    spread = windows.Along(1, np.array([[0, 1], [1, 2]])).run(np.array([[0.0, 1.0, 0.0]]))
    assert np.linalg.norm(spread) == pytest.approx(math.sqrt(2))


def test_differences_of_entries_have_the_norm_of_their_matrix() -> None:
    pick = [
        Node(name, operators.Gather(1, np.array(at)), ("x",), (1, 2)) for name, at in (("u", [0, 2]), ("v", [1, 3]))
    ]
    graph = Graph(
        (Node("x", operators.Input(), (), (1, 4)), *pick, Node("d", operators.Add((1.0, -1.0)), ("u", "v"), (1, 2))),
        ("d",),
    )
    ((source, factor),) = Network(graph).constants["d"]
    assert source == "x"
    assert math.sqrt(2) <= factor <= math.sqrt(2) * (1 + 1e-8)
