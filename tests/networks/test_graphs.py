"""Graphs: what is left out, several inputs, what cannot be measured; every rule is in the table."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from specnorm_networks import Graph, Layer, Node, bound
from specnorm_networks.certified.operators import Add, Identity, Input, Matrix, Operator, Scale, Unknown

X = Node("x", Input(), shape=(1, 2))


def test_what_no_output_needs_is_left_out() -> None:
    y, bad = Node("y", Identity(), ("x",), (1, 2)), Node("z", Unknown(), ("y",), label="Mystery")
    assert bound(Graph((X, y, bad), ("y",))).upper == 1
    found = bound(Graph((X, y, bad), ("z", "y")))
    assert (found.upper, found.outputs) == (None, {"z": None, "y": 1.0})
    assert [u.operator for u in found.unknown] == ["Mystery"]


def test_layer_that_cannot_be_measured_is_named() -> None:
    layer = Layer("w", lambda: np.full((2, 2), np.nan), {}, 0)
    found = bound(Graph((X, Node("y", Matrix(layer), ("x",), (1, 2))), ("y",)))
    assert found.upper is None
    assert "finite" in found.unknown[0].reason


def test_several_inputs() -> None:
    """Each alone, then Cauchy-Schwarz: exact for a matrix with two blocks of orthogonal rows."""
    nodes = (
        X,
        Node("y", Input(), shape=(1, 2)),
        Node("a", Scale(np.array(3.0), exact=True), ("x",), (1, 2)),
        Node("b", Scale(np.array(-4.0), exact=True), ("y",), (1, 2)),
        Node("c", Add((1.0, 1.0)), ("a", "b"), (1, 2)),
    )
    assert bound(Graph(nodes, ("c",))).upper == pytest.approx(5, rel=1e-12)


def test_numbers_that_overflow_stay_upper() -> None:
    names = ["x", "y0", "y1", "y2"]
    nodes = [Node(y, Scale(np.array(1e300)), (x,), (1, 2)) for x, y in itertools.pairwise(names)]
    found = bound(Graph((X, *nodes), ("y2",)))
    assert found.upper == math.inf
    assert found.to_dict()["upper"] is None
    assert "inf" in str(found)


def classes(base: type[Operator] = Operator) -> Iterator[type[Operator]]:
    for cls in base.__subclasses__():
        yield cls
        yield from classes(cls)


def test_every_rule_is_in_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "networks.md").read_text(encoding="utf-8")
    table = "".join(line for line in page.splitlines() if line.startswith("| `"))
    ours = {cls.rule for cls in classes() if cls.__module__.startswith("specnorm.")}
    ours -= {"input", "constant", "held", "random", "unknown"}
    assert ours > {"select", "pad", "pointwise"}
    assert [name for name in sorted(ours) if f"`{name}`" not in table] == []
