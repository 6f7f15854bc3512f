"""Claims about networks say of which network, and in which region: what is forged is refused, what is missing named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from assumptions import assumed
from checks import present
from specnorm_networks import Graph, Layer, Multipliers, Node, Product, bound, within
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.operators import Identity, Input, Matrix, Operator, ReLU, Unknown
from specnorm_networks.certified.patterns import prepared, unsorted
from specnorm_networks.certified.ranges import Ranges, localised, ranges
from specnorm_networks.certified.regions import Ball
from specnorm_networks.certified.scope import digest_of

from specnorm.certified.bound import HypothesisError, Upper, least

WEIGHTS = np.array([[2.0, 1.0], [0.5, 3.0]])
CENTRE = np.array([[-1.0, -1.0]])


def network(weights: Any = WEIGHTS, function: ops.Pointwise | None = None) -> Graph:
    """Two matrices with ReLU between, which is 0 around `CENTRE`."""

    def matrix(name: str, source: str) -> Node:
        return Node(name, ops.Matrix(Layer(name, lambda: weights, {}, 0)), (source,), (1, 2))

    relu = Node("r", function or ops.ReLU(), ("a",), (1, 2))
    return Graph((Node("x", ops.Input(), (), (1, 2)), matrix("a", "x"), relu, matrix("y", "r")), ("y",))


def claims(graph: Graph, **near: Any) -> dict[str, Upper]:
    """All that an answer holds, by what they are of."""
    found = bound(graph, method=Multipliers(steps=4), **near)
    each = [found.claim, found.product_claim, *found.ends.values(), *(run.claim for run in found.runs)]
    each += [claim for step in found.nodes for claim in (step.alone, step.claim)]
    return {f"{at}: {claim.what}": claim for at, claim in enumerate(each) if claim is not None}


def test_the_constant_in_a_ball_is_none_everywhere() -> None:
    """0 for a network that stretches some pair by 10.8."""
    whole: Any = bound(network(), method=Product())
    local: Any = bound(network(), method=Product(), radius=1.0, centre=CENTRE)
    run = network().run
    stretch = np.linalg.norm(run({"x": np.ones((1, 2))})["y"] - run({"x": np.zeros((1, 2))})["y"]) / np.sqrt(2)
    assert local.claim.value < stretch < whole.claim.value
    with pytest.raises(HypothesisError, match="different norms: y by x, y by x, in a ball of radius 1"):
        least(whole.claim, local.claim)
    assert local.explain().startswith("y <= 0")


def test_the_constant_of_other_weights_is_not_this_network_s() -> None:
    """Names and shapes alike; also of one graph whose weights are written to between."""
    weights = WEIGHTS.copy()
    graph = network(weights)
    before = present(bound(graph, method=Product()).claim)
    assert least(before, bound(network(), method=Product()).claim) is before
    weights /= 100
    for after in (bound(graph, method=Product()), bound(network(WEIGHTS / 100), method=Product())):
        assert after.claim is not None
        with pytest.raises(HypothesisError, match="different"):
            least(before, after.claim)


def test_ranges_take_claims_about_this_network_alone() -> None:
    graph, ball = network(), Ball({"x": CENTRE}, 3.0)
    honest = ranges(graph, ball)["a"]
    wrong: list[Any] = [1e-9, np.float64(1e-9)]
    for number in wrong:
        with pytest.raises(TypeError, match="no proven bound"):
            ranges(graph, ball, {"a": number})
    small, other = bound(network(WEIGHTS / 1e9), method=Product()), bound(graph, radius=1e-9, centre=CENTRE)
    for claim in (small.nodes[1].claim, other.claim, assumed(1e-9)):
        assert claim is not None
        with pytest.raises(HypothesisError, match="no constant of a"):
            ranges(graph, ball, {"a": claim})
    own = present(bound(graph, method=Product()).nodes[1].claim)
    near = ranges(graph, ball, {"a": own})["a"]
    assert (honest.low <= near.low).all()
    assert (near.high <= honest.high).all()


def test_ranges_are_those_of_the_network_they_were_found_for() -> None:
    """Of another one, or made up, they would fix every function."""
    small = ranges(network(WEIGHTS / 1e9), Ball({"x": CENTRE}, 1e-9))
    with pytest.raises(HypothesisError, match="another network"):
        localised(network(), small)
    with pytest.raises(TypeError, match="found by"):
        Ranges(dict(small), network(), frozenset())
    with pytest.raises(TypeError, match="found by"):
        replace(small, regions=frozenset())


def test_a_network_is_known_by_its_bits() -> None:
    """Prepared, pruned or localised it is itself; with other nodes, or another number, it is not."""
    graph = network()
    same = [network(), prepared(graph), unsorted(graph).pruned(), within(graph, -1.0, 1.0)]
    assert {digest_of(each) for each in same} == {digest_of(graph)}
    nodes = {node.name: node for node in graph.nodes}
    functions = ops.Tanh(), ops.LeakyReLU(alpha=0.1), ops.LeakyReLU(alpha=0.2)
    others = [network(np.nextafter(WEIGHTS, 9)), *(network(function=function) for function in functions)]
    others.append(replace(graph, nodes=graph.nodes[:3], outputs=("r",)))
    others.append(replace(graph, nodes=(*graph.nodes[:2], replace(nodes["r"], shape=None), nodes["y"])))
    assert len({digest_of(each) for each in (graph, *others)}) == 1 + len(others)


# -- graphs ----------------------------------------------------------------------------------------------------------
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
