"""Graphs: what is left out, several inputs, what cannot be measured; every rule is in the table."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from specnorm_networks import Graph, Layer, Multipliers, Node, bound
from specnorm_networks.certified.operators import Identity, Input, Matrix, Operator, ReLU, Unknown

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


def chain(size: float) -> list[Node]:
    """Two matrices with a function between them."""
    layers = [Layer(name, partial(np.full, (2, 2), size), {}, 0) for name in ("v", "w")]
    shape = (1, 2)
    first, relu = Node("a", Matrix(layers[0]), ("x",), shape), Node("b", ReLU(), ("a",), shape)
    return [X, first, relu, Node("y", Matrix(layers[1]), ("b",), shape)]


def test_an_infinite_constant_is_said_of_a_value_and_why() -> None:
    """Twice 1e200: the product is beyond the largest number; "at most inf" says nothing."""
    nodes = chain(1e200)
    for found in (
        bound(Graph(tuple(nodes), ("y",))),
        bound(Graph((*nodes, Node("z", Unknown(), ("y",), (1, 2))), ("z",))),
    ):
        text = " ".join(found.lines())
        assert "at most inf" not in text
        assert "no finite bound: of y (Matrix), the constants up to it are together beyond" in text


def test_nothing_is_searched_where_there_can_be_no_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = list[bool]()

    def proposals(*_: object) -> list[object]:
        searched.append(True)
        return []

    monkeypatch.setattr(Multipliers, "proposals", proposals)
    nodes, end = chain(1.0), Node("z", Unknown("it has no rule"), ("y",), (1, 2))
    assert bound(Graph((*nodes, end), ("z",))).unknown[0].before == pytest.approx(4)
    assert not searched
    assert bound(Graph((*nodes, end), ("z", "y"))).outputs["y"] == pytest.approx(4)
    assert searched


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
