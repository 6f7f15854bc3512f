"""Claims about networks say of which network, and in which region: what is forged is refused, what is missing named."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
from helpers import DOCS
from helpers.assumptions import assumed
from helpers.checks import present
from helpers.processes import python
from networks.written_networks import Written
from specnorm_networks import (  # fmt: skip
    Graph,
    Layer,
    Multipliers,
    Node,
    Product,
    forward_step,
    register_operator,
    within,
)
from specnorm_networks.certified import kernels, parts
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified import ranges as on_boxes
from specnorm_networks.certified.operators import Identity, Input, Matrix, Operator, ReLU, Unknown
from specnorm_networks.certified.operators.base import Affine
from specnorm_networks.certified.patterns import prepare, without_sorting
from specnorm_networks.certified.ranges import with_slopes_on
from specnorm_networks.certified.rules import digest_of
from specnorm_networks.certified.runs import runs
from specnorm_networks.certified.subjects import Box
from specnorm_networks.local.certified.ranges import Ball, ranges
from specnorm_networks.local.linear import locate_values, read_network
from specnorm_networks.tools import Measure, bound  # fmt: skip

from specnorm import enclose
from specnorm.errors import MethodError
from specnorm.proof import Clock
from specnorm.proofs.bound import HypothesisError, Upper

WEIGHTS = np.array([[2.0, 1.0], [0.5, 3.0]])
CENTRE = np.array([[-1.0, -1.0]])


def network(weights: Any = WEIGHTS, function: ops.Function | None = None) -> Graph:
    """Two matrices with ReLU between, which is 0 around `CENTRE`."""

    def matrix(name: str, source: str) -> Node:
        return Node(name, ops.Matrix(Layer(name, lambda: weights, {}, 0)), (source,), (1, 2))

    relu = Node("r", function or ops.ReLU(), ("a",), (1, 2))
    return Graph((Node("x", ops.Input(), (), (1, 2)), matrix("a", "x"), relu, matrix("y", "r")), ("y",))


def test_the_constant_in_a_ball_is_none_everywhere() -> None:
    """0 for a network that stretches some pair by 10.8."""
    whole: Any = bound(network(), method=Product())
    local: Any = bound(network(), method=Product(), radius=1.0, centre=CENTRE)
    run = network().run
    stretch = np.linalg.norm(run({"x": np.ones((1, 2))})["y"] - run({"x": np.zeros((1, 2))})["y"]) / np.sqrt(2)
    assert local.claim.value < stretch < whole.claim.value
    with pytest.raises(HypothesisError, match="different norms: y by x, y by x, in a ball of radius 1"):
        Upper.least(whole.claim, local.claim)
    assert local.explain().startswith("y <= 0")


def test_the_constant_of_other_weights_is_not_this_network_s() -> None:
    """Names and shapes alike; also of one graph whose weights are written to between."""
    weights = WEIGHTS.copy()
    graph = network(weights)
    before = present(bound(graph, method=Product()).claim)
    assert Upper.least(before, bound(network(), method=Product()).claim) is before
    weights /= 100
    for after in (bound(graph, method=Product()), bound(network(WEIGHTS / 100), method=Product())):
        assert after.claim is not None
        with pytest.raises(HypothesisError, match="different"):
            Upper.least(before, after.claim)


@pytest.mark.parametrize("near", [{}, {"radius": 0.5, "centre": np.full((1, 2), -11.0)}])
def test_a_box_with_one_end_is_a_box(near: dict[str, Any]) -> None:
    """5e-5 for exp, which has no constant; on a ball outside of the box besides."""
    nodes = Node("x", Input(high=np.array(-10.0)), (), (1, 2)), Node("y", ops.Exp(), ("x",), (1, 2))
    found = bound(Graph(nodes, ("y",)), **near)
    assert ", in a box" in str(present(found.claim).what)
    assert found.input_ranges == {"x": (-math.inf, -10.0)}


def test_boxes_and_balls_are_those_that_were_given() -> None:
    """Whatever is written to their arrays afterwards."""
    high = np.full((1, 2), 1.0)
    graph = within(Graph((X, Node("y", ops.Exp(), ("x",), (1, 2))), ("y",)), -1.0, high)
    before = bound(graph).claim
    high -= 9
    assert Upper.least(present(before), bound(graph).claim) is before


def test_ranges_take_claims_about_this_network_alone() -> None:
    graph = network()
    ball = Ball({"x": CENTRE}, 3.0)
    honest = ranges(graph, ball)["a"]
    small = bound(network(WEIGHTS / 1e9), method=Product())
    other = bound(graph, radius=1e-9, centre=CENTRE)
    for claim in (small.nodes[1].claim, other.claim, assumed(1e-9)):
        assert claim is not None
        with pytest.raises(HypothesisError, match="no map of this network"):
            ranges(graph, ball, {"a": claim})
    own = present(bound(graph, method=Product()).nodes[1].claim)
    near = ranges(graph, ball, {"a": own})["a"]
    assert (honest.low <= near.low).all()
    assert (near.high <= honest.high).all()


def test_ranges_are_those_of_the_network_they_were_found_for() -> None:
    """Of another one they would fix every function."""
    small = ranges(network(WEIGHTS / 1e9), Ball({"x": CENTRE}, 1e-9))
    with pytest.raises(HypothesisError, match="another network"):
        with_slopes_on(network(), small)


@pytest.mark.parametrize("scaled", [False, True])
def test_norms_are_those_of_the_network_s_own_kernels(scaled: bool) -> None:
    """1e-9 for 3.3, of a kernel of one shape that was measured before."""
    small = present(enclose(WEIGHTS / 1e9).claim)[1]
    graph = network()
    if scaled:
        node = Node("z", ops.Scale(np.array([1.0, 2.0])), ("y",), (1, 2))
        graph = Graph((*graph.nodes, node), ("z",))
    with pytest.raises(HypothesisError, match="none is the norm"):
        bound(graph, Measure(known=lambda *_: small), method=Product(), check=False)
    own = present(enclose(WEIGHTS, rtol=0.1).claim)[1]
    assert present(bound(network(), Measure(known=lambda *_: own), method=Product()).upper) >= own.value**2


def test_a_network_is_known_by_its_bits() -> None:
    """Prepared, pruned or with_slopes_on it is itself; with other nodes, or another number, it is not."""
    graph = network()
    same = [network(), prepare(graph), without_sorting(graph).pruned(), within(graph, -1.0, 1.0)]
    assert {digest_of(each) for each in same} == {digest_of(graph)}
    nodes = {node.name: node for node in graph.nodes}
    functions = ops.Tanh(), ops.LeakyReLU(alpha=0.1), ops.LeakyReLU(alpha=0.2)
    others = [network(np.nextafter(WEIGHTS, 9)), *(network(function=function) for function in functions)]
    others.append(replace(graph, nodes=graph.nodes[:3], outputs=("r",)))
    others.append(replace(graph, nodes=(*graph.nodes[:2], replace(nodes["r"], shape=None), nodes["y"])))
    assert len({digest_of(each) for each in (graph, *others)}) == 1 + len(others)


def test_a_network_has_one_digest_in_every_process() -> None:
    """Its bits and the names of operators make it: a claim may be compared with one of yesterday."""
    code = """
from specnorm_networks import Graph, Node
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.rules import digest_of
print(digest_of(Graph((Node("x", ops.Input(), (), (1, 2)), Node("y", ops.LeakyReLU(0.5), ("x",), (1, 2))), ("y",))))
"""
    graph = Graph((X, Node("y", ops.LeakyReLU(0.5), ("x",), (1, 2))), ("y",))
    assert python(code) == digest_of(graph)


def sine_by(factor: float) -> ops.Function:
    """Return factor sin(x), of a class that has the name of all others that this function makes."""

    class Sine(ops.Function):
        def value(self, x: Any) -> Any:
            return factor * np.sin(x)

        def extent(self) -> tuple[float, float]:
            return -factor, factor

        def slopes(self, low: Any, high: Any) -> tuple[Any, Any]:
            return np.full(np.shape(low), -factor), np.full(np.shape(high), factor)

        between = slopes

    return Sine()


@pytest.mark.parametrize("factor", [1.0, 50.0])
def test_classes_of_one_name_are_told_apart(factor: float) -> None:
    """The constant of x + sin(x), 2, was given for x + 50 sin(x), too: proofs had been kept by names of classes."""
    total = Node("z", ops.Add((1.0, 1.0)), ("x", "y"), (1, 2))
    graph = Graph((X, Node("y", sine_by(factor), ("x",), (1, 2)), total), ("z",))
    assert present(bound(graph, check=False).upper) >= 1 + factor


# -- graphs ----------------------------------------------------------------------------------------------------------
X = Node("x", Input(), shape=(1, 2))


def test_what_no_output_needs_is_left_out() -> None:
    y = Node("y", Identity(), ("x",), (1, 2))
    bad = Node("z", Unknown(), ("y",), label="Mystery")
    assert bound(Graph((X, y, bad), ("y",))).upper == 1
    found = bound(Graph((X, y, bad), ("z", "y")))
    assert (found.upper, found.outputs) == (None, {"z": None, "y": 1.0})
    assert [u.operator for u in found.unknown] == ["Mystery"]


def test_layer_that_cannot_be_measured_is_named() -> None:
    layer = Layer("w", lambda: np.full((2, 2), np.nan), {}, 0)
    found = bound(Graph((X, Node("y", Matrix(layer), ("x",), (1, 2))), ("y",)))
    assert found.upper is None
    assert "finite" in found.unknown[0].reason


def test_a_stack_with_a_matrix_of_nan_has_no_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "MOST_ENTRIES_AT_ONCE", WEIGHTS.size)
    stack = np.stack([WEIGHTS, np.nan * WEIGHTS, WEIGHTS])
    with pytest.raises(HypothesisError, match="bounds no norm"):
        kernels.norm_of_matrices(stack, Clock())


def test_matrices_for_which_no_time_is_left_are_bounded_by_frobenius_norms() -> None:
    stack = np.stack([WEIGHTS, 3 * WEIGHTS])
    clock = Clock.of(1e-12)
    norm = kernels.norm_of_matrices(stack, clock).value
    assert clock.has_cut
    assert 3 * np.linalg.norm(WEIGHTS, 2) < norm <= 3 * np.linalg.norm(WEIGHTS) * (1 + 1e-12)


def chain(size: float) -> list[Node]:
    layers = [Layer(name, partial(np.full, (2, 2), size), {}, 0) for name in ("v", "w")]
    shape = (1, 2)
    first = Node("a", Matrix(layers[0]), ("x",), shape)
    relu = Node("b", ReLU(), ("a",), shape)
    return [X, first, relu, Node("y", Matrix(layers[1]), ("b",), shape)]


@pytest.mark.parametrize("size", [1e-33, 1e-160])
def test_layers_whose_scales_cancel_have_a_bound(size: float) -> None:
    """Multipliers of such units are beyond those of a proof, and squares of their layers beyond all numbers."""
    network = Written((1, 1, 5, 5))
    tap = np.zeros((1, 1, 3, 3))
    tap[0, 0, 1, 1] = size
    value = network(ReLU(), network.convolution(tap, network(ReLU(), network.convolution(tap, "x"))))
    network.convolution(tap / size / size, network.convolution(tap / size / size, value))
    assert 1 <= bound(network.graph()).upper < 1.01


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

    def search(*_: object) -> list[object]:
        searched.append(True)
        return []

    monkeypatch.setattr(Multipliers, "search", search)
    nodes = chain(1.0)
    end = Node("z", Unknown("it has no rule"), ("y",), (1, 2))
    assert bound(Graph((*nodes, end), ("z",))).unknown[0].before == pytest.approx(4)
    assert not searched
    assert bound(Graph((*nodes, end), ("z", "y"))).outputs["y"] == pytest.approx(4)
    assert searched


def classes(base: type[Operator] = Operator) -> Iterator[type[Operator]]:
    for cls in base.__subclasses__():
        yield cls
        yield from classes(cls)


def test_every_rule_is_in_the_table() -> None:
    page = (DOCS / "networks.md").read_text(encoding="utf-8")
    table = "".join(line for line in page.splitlines() if line.startswith("| `"))
    ours = {cls.rule for cls in classes() if cls.__module__.startswith("specnorm_networks.")}
    ours -= {"input", "constant", "held", "random", "unknown"}
    assert ours > {"select", "pad", "pointwise"}
    assert [name for name in sorted(ours) if f"`{name}`" not in table] == []


# -- what is supposed ------------------------------------------------------------------------------------------------
def uneven_weights() -> object:
    nodes = (*chain(1.0)[:2], Node("b", ops.Sort(1), ("a",), (1, 2)), replace(chain(1.0)[3], inputs=("b",)))
    (run,) = runs(Graph(nodes, ("y",)))
    weights = [np.ones(2), np.array([1.0, 2.0]), np.ones(2)]
    return parts.constant_of_part(run.part(0, 2), weights, Measure())


def parts_of_chain(*of: tuple[int, int]) -> object:
    (run,) = runs(Graph(tuple(chain(1.0)), ("y",)))
    ones = [np.ones(link.width) for link in run.links]
    return parts.constant_of_run(run, parts.statements_of(run, of, ones), Measure())


WIDE = Graph((X, Node("y", ops.Matrix(Layer("w", lambda: np.ones((3, 2)), {}, 0)), ("x",), (1, 3))), ("y",))
BOXED = within(network(), -1.0, 1.0)
HUNDRED = Node("a", ReLU(), ("x",), (1, 100)), Node("y", ops.Mean((1,)), ("a",), (1,))
MISSHAPEN = Graph((X, *HUNDRED), ("y",))
"""Of which 0.1 was said to be the constant, for 0.7."""
SUPPOSED: dict[str, tuple[Callable[[], object], str]] = {
    "a negative radius": (lambda: bound(network(), radius=-1.0, centre=CENTRE), "radius=-1.0"),
    "a centre of fewer pixels": (lambda: bound(network(), radius=1.0, centre=np.zeros((1, 1))), r"of shape \(1, 1\)"),
    "no number as radius": (lambda: ranges(network(), Ball({"x": CENTRE}, math.nan)), "radius=nan"),
    "a centre of no numbers": (lambda: ranges(network(), Ball({"x": CENTRE * math.inf}, 1.0)), "not finite"),
    "a centre of another shape": (lambda: ranges(network(), Ball({"x": CENTRE[0]}, 1.0)), "numbers for its input x"),
    "a box from high to low": (
        lambda: on_boxes.ranges(network(), Box({"x": CENTRE}, {"x": CENTRE - 1})),
        "low ends are above",
    ),
    "a box of no numbers": (lambda: within(network(), math.nan, 1.0), "ends that are no numbers"),
    "a box of another input": (lambda: within(network(), {"z": 0}, {"z": 1}), "has no ends for the network's input x"),
    "a box of another shape": (lambda: within(network(), np.zeros(3), 1.0), r"an end of shape \(3,\)"),
    "a centre outside of the box": (lambda: locate_values(read_network(BOXED), 3 * CENTRE, 0.1), "outside of the box"),
    "a shape that is another one": (lambda: bound(MISSHAPEN), r"shape \(1, 100\); it has \(1, 2\)"),
    "a step of 0": (lambda: forward_step(network(), 0.0), "size=0.0"),
    "a step to another shape": (lambda: forward_step(WIDE), "needs the same shape"),
    "weights of sorted channels that differ": (uneven_weights, "sorted together prove nothing"),
    "parts that leave the first layer out": (lambda: parts_of_chain((1, 2)), "are no part of the run"),
    "parts that overlap": (lambda: parts_of_chain((0, 2), (1, 2)), "are no part of the run"),
    "parts that leave the last layer out": (lambda: parts_of_chain((0, 1)), "do not reach y"),
    "an operator without a name": (lambda: register_operator(ops.ReLU), "no operator with names"),
    "a number as an operator": (lambda: register_operator(cast(Any, 1)), "1 is no operator with names"),
    "one word as names": (lambda: register_operator(type("A", (ops.ReLU,), {"names": "a::b"})), "a tuple of"),
    "an operator that cannot be run": (lambda: register_operator(named("a::b", run=False)), "has no `run`"),
    "a function that cannot be run": (lambda: register_operator(named("a::b", ops.Function, run=False)), "no `value`"),
    "a linear map that cannot be run": (lambda: register_operator(named("a::b", Affine, run=False)), "no `map_at`"),
    "an operator of onnx": (lambda: register_operator(named("aten::relu")), "not a name for an operator of yours"),
    "an operator without a namespace": (
        lambda: register_operator(named("relu")),
        "not a name for an operator of yours",
    ),
    "a node that is missing": (lambda: Graph((X, Node("y", ReLU(), ("z",), (1, 2))), ("y",)), "no node before it"),
    "an output that is missing": (lambda: Graph((X,), ("y",)), "not all nodes"),
}


def named(name: str, base: type[Operator] = ops.Known, *, run: bool = True) -> Any:
    members: dict[str, Any] = {"names": (name,)}
    return type("Mine", (base,), members | ({"run": lambda _, *values: values[0]} if run else {}))


@pytest.mark.parametrize("name", SUPPOSED)
def test_a_call_that_breaks_a_hypothesis_is_refused(name: str) -> None:
    call, words = SUPPOSED[name]
    with pytest.raises((MethodError, ValueError), match=words):
        call()
