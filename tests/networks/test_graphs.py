"""Graphs: what is left out, several inputs, what cannot be measured; every rule is in the table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from specnorm_networks import Graph, Layer, Node, bound
from specnorm_networks.certified.operators import Identity, Input, Matrix, Operator, Unknown

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


def classes(base: type[Operator] = Operator) -> Iterator[type[Operator]]:
    for cls in base.__subclasses__():
        yield cls
        yield from classes(cls)


def test_every_rule_is_in_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "networks.md").read_text(encoding="utf-8")
    table = "".join(line for line in page.splitlines() if line.startswith("| `"))
    ours = {cls.rule for cls in classes() if cls.__module__.startswith("specnorm_networks.")}
    ours -= {"input", "constant", "held", "random", "unknown"}
    assert ours > {"select", "pad", "pointwise"}
    assert [name for name in sorted(ours) if f"`{name}`" not in table] == []
