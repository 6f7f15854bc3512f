"""Networks of numbers, their constants, and what the rules of networks refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from helpers.assumptions import assumed, assumed_lower
from helpers.checks import present
from specnorm_check import Together
from specnorm_networks import Multipliers, Product
from specnorm_networks.certified import heads, parts, rules
from specnorm_networks.certified.attention import Factors, claim_of_attention
from specnorm_networks.certified.blocks import claims_of_blocks
from specnorm_networks.certified.graph import Graph, Layer, Node
from specnorm_networks.certified.inequality import Inequality, constant_of_inequality
from specnorm_networks.certified.kernels import (
    PlacedLayer,
    checked_norm,
    checked_norm_of_stack,
    norm_by_entries,
    norm_of_layer,
    norm_of_matrices,
)
from specnorm_networks.certified.operators import (
    Add,
    Attention,
    Concat,
    Convolution,
    Input,
    LeakyReLU,
    Matrix,
    Mean,
    Random,
    ReLU,
    Reshape,
    Scale,
    Slice,
)
from specnorm_networks.certified.operators.base import Operator, Place
from specnorm_networks.certified.ranges import Ranges, unlimited_ranges, with_slopes_on
from specnorm_networks.certified.rules import Scope
from specnorm_networks.certified.runs import runs
from specnorm_networks.certified.subjects import Region
from specnorm_networks.certified.units import inequality_of
from specnorm_networks.descent.inequality import proposals
from specnorm_networks.local.certified import margins
from specnorm_networks.local.certified.ranges import Ball, ranges
from specnorm_networks.tools import Measure, bound

from specnorm.geometry.spec import ConvSpec
from specnorm.proof import Clock
from specnorm.proofs.bound import Upper, digest_of


def times(name: str, source: str, number: float, alpha: float = 1.0) -> Node:
    layer = Layer(name, partial(np.array, [[float(number)]]), {}, 0)
    return Node(name, Matrix(layer, alpha=alpha), (source,), (1, 1))


def x(name: str = "x") -> Node:
    return Node(name, Input(), (), (1, 1))


def join(name: str, operator: Operator, *inputs: str, width: int = 1) -> Node:
    return Node(name, operator, inputs, (1, width))


SUM = join("s", Add((1.0, 1.0)), "u", "v")
NETWORKS: dict[str, tuple[Graph, float]] = {
    "chain": (Graph((x(), times("u", "x", 6), times("v", "u", 5)), ("v",)), 30),
    "sum": (Graph((x(), times("u", "x", 3), times("v", "x", 5), SUM), ("s",)), 8),
    "stack": (Graph((x(), times("u", "x", 3), times("v", "x", 4), join("c", Concat(1), "u", "v", width=2)), ("c",)), 5),
    "two inputs": (Graph((x("a"), x("b"), times("u", "a", 3), times("v", "b", 4), SUM), ("s",)), 5),
    "two outputs": (Graph((x(), times("u", "x", 3), times("v", "x", 4)), ("u", "v")), 5),
    "a number before a matrix": (Graph((x(), times("u", "x", 2, -3)), ("u",)), 6),
    "a scale behind it": (Graph((x(), times("u", "x", 2), join("n", Scale(np.array([3.0])), "u")), ("n",)), 6),
}
"""A network of numbers, and its constant, which is attained."""


# -- what rules suppose ------------------------------------------------------------------------------------------------
SCOPE = Scope(NETWORKS["sum"][0])
NODES = NETWORKS["sum"][0].by_name
OTHER = Scope(NETWORKS["chain"][0])
U, V = assumed(3.0, SCOPE.map("x", "u")), assumed(5.0, SCOPE.map("x", "v"))
NEAR = assumed(0.0, Scope(NETWORKS["sum"][0], frozenset({Region("a ball", "")})).map("x", "v"))
DRAWN = Scope(Graph((x(), times("u", "x", 0), Node("r", Random(), ("u",), (1, 1))), ("r",)))
FAR = assumed(0.0, OTHER.map("x", "v"))
PLACE = Place(((1, 1), (1, 1)), (1, 1))
CONV: Any = np.random.default_rng(0).normal(size=(2, 2, 3))
LAYER = Layer("k", lambda: CONV, {"padding_mode": "zeros", "padding": ((1, 1),)}, 1)
STRIDED: dict[str, Any] = {"stride": 2, "padding_mode": "circular"}


def normed(about: ConvSpec, size: tuple[int, ...] | None = (5,), **geometry: Any) -> Upper:
    geometry = geometry or dict(LAYER.geometry)
    return norm_of_layer(
        PlacedLayer(LAYER, geometry), size, None, None, lambda *_: [assumed(1.0, about, digest_of(CONV))]
    )


def normed_by(found: Any, stack: Any = None) -> Upper:
    """A layer's norm, or that of a stack of matrices, by somebody who says it."""
    norms: Any = lambda *_: found  # noqa: E731
    norms.matrices = norms
    if stack is not None:
        return checked_norm_of_stack(norms, Layer("w", lambda: stack, {}, 0))
    return checked_norm(norms, PlacedLayer(LAYER, LAYER.geometry, ((5,), (5,))), None)


def chain(*factors: float) -> Graph:
    nodes = [x()]
    for at, factor in enumerate(factors):
        nodes += [times(f"m{at}", nodes[-1].name, factor), join(f"r{at}", ReLU(), f"m{at}")]
    return Graph(tuple(nodes), (nodes[-1].name,))


def within_ball(constants: dict[str, Upper] | None = None) -> Ranges:
    return ranges(NETWORKS["sum"][0], Ball({"x": np.zeros((1, 1))}, 1.0), constants)


(RUN,) = runs(chain(2, 3))
RESIDUAL = (x(), times("u", "x", 2), join("r", ReLU(), "u"), times("v", "r", 3), join("s", Add((1.0, 1.0)), "v", "x"))
(SKIPPING,) = runs(Graph(RESIDUAL, ("s",)))
ONES = [np.ones(1), np.ones(1)]


def stated(run: Any, *weights: Any) -> tuple[Together, ...]:
    """State that all links of a run are one part; without weights, all are 1."""
    return parts.statements_of(run, [(0, len(run.links))], weights or [np.ones(link.width) for link in run.links])


class Lying(Measure):
    """Says the norm of another kernel."""

    def of_kernel(self, kernel: Any, rtol: float) -> Upper:
        del kernel
        return super().of_kernel(np.ones((3, 3)), rtol)


def spec(size: tuple[int, ...] | None = None, **geometry: Any) -> ConvSpec:
    return ConvSpec.of(CONV.shape, **(geometry or LAYER.geometry), input_shape=size)


def headed(weight: Any = 1.0, widths: int = 1, **changed: Any) -> Upper:
    """Two channels of four pixels, flattened behind ReLU, and a matrix; the body's link changed afterwards."""
    kernel: Any = np.full((2, 1, 3), 0.25)
    matrix: Any = np.ones((1, 8))
    layer = Layer("k", lambda: kernel, {"padding_mode": "zeros", "padding": ((1, 1),)}, 1)
    nodes = (
        Node("x", Input(), (), (1, 1, 4)), Node("c", Convolution(layer), ("x",), (1, 2, 4)),
        Node("z", ReLU(), ("c",), (1, 2, 4)), Node("f", Reshape((1, 8)), ("z",), (1, 8)),
        Node("y", Matrix(Layer("w", lambda: matrix, {}, 0)), ("f",), (1, 1)),
    )  # fmt: skip
    (run,) = runs(Graph(nodes, ("y",)))
    head = present(heads.head_of(run))
    body = replace(head.body, links=(replace(head.body.links[0], **changed),))
    weights = np.linspace(1, 2, 2 * widths) * weight
    return heads.constant_through_head(replace(head, body=body), [weights], lambda rest: [stated(rest)], Measure())


NETWORK_REFUSED: dict[str, Callable[[], object]] = {
    "a factor of another value": lambda: rules.composed(assumed(2.0, SCOPE.map("v", "w")), U),
    "a norm as a factor": lambda: rules.composed(assumed(2.0), U),
    "inputs of a node left out": lambda: rules.of_values_together([U], NODES["s"].inputs),
    "an input twice": lambda: rules.of_all_inputs("u", [U, U], ["x", "y"]),
    "half of what moves": lambda: rules.unchanged(SCOPE, "x", NODES["s"], [U, assumed(0.0, SCOPE.map("x", "v"))]),
    "what nothing is known of": lambda: rules.unchanged(SCOPE, "x", NODES["s"], []),
    "what is drawn": lambda: rules.unchanged(DRAWN, "x", DRAWN.graph.by_name["r"], [assumed(0.0, DRAWN.map("x", "u"))]),
    "the input itself": lambda: rules.unchanged(SCOPE, "x", NODES["x"], []),
    "what is drawn, of another graph": lambda: rules.unchanged(OTHER, "x", NODES["s"], [U, V]),
    "a node of another graph": lambda: rules.of_operator(OTHER, NODES["s"], [U, V], PLACE),
    "a branch of another network": lambda: rules.of_operator(SCOPE, NODES["s"], [U, FAR], PLACE),
    "the constant in a ball for that everywhere": lambda: Upper.least(V, NEAR),
    "a factor in a ball": lambda: rules.composed(assumed(0.0, replace(NEAR.what, start="u")), U),  # type: ignore[type-var]
    "inputs of two networks": lambda: rules.of_all_inputs("v", [V, assumed(1.0, OTHER.map("y", "v"))], ["x", "y"]),
    "outputs of two networks": lambda: rules.of_values_together([U, FAR], ["u", "v"]),
    "blocks by norms": lambda: blocks_by(assumed(1.0), assumed(1.0)),
    "blocks of another network": lambda: blocks_by(U, FAR),
    "a layer of another graph": lambda: rules.of_layer(OTHER, "x", NODES["u"], NODES["u"], assumed(1.0), "layer"),
    "slopes of another graph": lambda: rules.of_slopes(OTHER, NODES["s"], 1, 1),
    "slopes of a sum": lambda: rules.of_slopes(SCOPE, NODES["s"], 1, 1),
    "a run of nobody's": lambda: parts.constant_of_run(replace(RUN), stated(RUN), Measure()),
    "ranges of another network": lambda: with_slopes_on(NETWORKS["chain"][0], within_ball()),
    "ranges within those on another ball": lambda: ranges(
        NETWORKS["sum"][0], Ball({"x": np.zeros((1, 1))}, 2.0), None, within_ball()
    ),
    "ranges by a constant in another ball": lambda: within_ball({"v": NEAR}),
    "the norm of another shape": lambda: normed(ConvSpec.of((2, 1, 3), **LAYER.geometry)),
    "the lower bound of a layer": lambda: normed_by(assumed_lower(1.0, spec(), digest_of(CONV))),
    "the norm of a layer as if at every size": lambda: normed_by(assumed(1.0, spec((4,)), digest_of(CONV))),
    "the norm of another stack": lambda: normed_by(assumed(1.0, "largest of 2 matrices", digest_of(CONV / 2)), CONV),
    "negative weights of a run": lambda: parts.constant_of_run(RUN, stated(RUN, -np.ones(1), np.ones(1)), Measure()),
    "a weight left out": lambda: parts.constant_of_run(RUN, stated(RUN, np.ones(1), np.ones(0)), Measure()),
    "the norm of another linear map": lambda: lied_to(),
    "a head's weights that differ in a group": lambda: headed(groups=np.zeros(2, dtype=np.intp)),
    "a head without what is before it": lambda: through(behind(), None),
    "an inequality of nobody's": lambda: constant_of_inequality(replace(one_unit()), np.full(1, 20.0), 60.0),
    "attention by constants of other values": lambda: attended(SCOPE.map("x", "v")),
    "multipliers of other units": lambda: constant_of_inequality(one_unit(), np.ones(2), 31.0),
    "a multiplier of a unit that is negative": lambda: constant_of_inequality(one_unit(), -np.ones(1), 31.0),
    "the norm of another kernel": lambda: parts.constant_of_run(RUN, stated(RUN), Lying()),
}


# -- what the rules say, and what is true ------------------------------------------------------------------------------
def constants() -> Iterator[tuple[Upper | None, float]]:
    for graph, truth in NETWORKS.values():
        yield bound(graph, method=Product(), check=False).claim, truth
    yield rules.of_values_together([U, V], NODES["s"].inputs), float(np.hypot(3, 5))
    yield rules.identity(SCOPE, "x"), 1.0
    yield margins.constant_of_factor(Node("l", Matrix(LAYER, alpha=-3.0), ("x",), (1, 3))), 3.0
    three = Node("x", Input(), (), (1, 3)), Node("l", LeakyReLU(alpha=-2.0), ("x",), (1, 3))
    yield rules.of_slopes(Scope(Graph(three, ("l",))), three[1], 1, 3), 2.0


def together() -> Iterator[tuple[Upper | None, float]]:
    """Two numbers with ReLU between; in one part and in two, with weights, and one that is 0."""
    for cuts, last in (([(0, 2)], 1.0), ([(0, 1), (1, 2)], 0.5)):
        weighted = parts.statements_of(RUN, cuts, [np.ones(1), np.array([last])])
        yield parts.constant_of_run(RUN, weighted, Measure()), 6.0
    for run, truth in ((RUN, 6.0), (SKIPPING, 7.0)):
        near = Multipliers(steps=50).search(run, [(0, 2)], 1.0, Clock())[0]
        yield parts.constant_of_run(run, stated(run, *near), Measure()), truth
    yield from zip(
        parts.constants(RUN, parts.statements_of(RUN, [(0, 1), (1, 2)], ONES), Measure()), (2.0, 3.0), strict=True
    )


def behind() -> heads.Head:
    """Ten times a value, weighted by a tenth; a convolution to two channels, and the sum of all."""
    first, kernel, matrix = np.full((1, 1, 1), 10.0), np.full((2, 1, 3), 0.25), np.ones((1, 8))
    nodes = [
        Node("x", Input(), (), (1, 1, 4)),
        Node("a", Convolution(Layer("a", lambda: first, {}, 1)), ("x",), (1, 1, 4)),
    ]
    nodes += [
        Node("b", ReLU(), ("a",), (1, 1, 4)),
        Node("c", Convolution(replace(LAYER, load=lambda: kernel)), ("b",), (1, 2, 4)),
    ]
    nodes += [Node("z", ReLU(), ("c",), (1, 2, 4)), Node("f", Reshape((1, 8)), ("z",), (1, 8))]
    nodes += [Node("y", Matrix(Layer("w", lambda: matrix, {}, 0)), ("f",), (1, 1))]
    (run,) = runs(Graph(tuple(nodes), ("y",)))
    return present(heads.head_of(run, parts.statements_of(run, [(0, 1)], [0.1 * np.ones(1)])))


def through(head: heads.Head, ahead: Upper | None) -> Upper:
    return heads.constant_through_head(head, [0.1 * np.ones(2)], lambda rest: [stated(rest)], Measure(), ahead)


def before_heads() -> Iterator[tuple[Upper | None, float]]:
    """Where all functions are open."""
    head, pixels = behind(), np.arange(4)
    ahead = heads.constant_before(head, Measure())
    yield ahead, 1.0
    yield through(head, ahead), float(np.linalg.norm(5 * (abs(pixels[:, None] - pixels) <= 1).sum(axis=0)))


def layers() -> Iterator[tuple[Upper | None, float]]:
    yield normed(spec((5,))), 1.0
    yield normed(spec()), 1.0
    claims = [assumed(1.0, spec(), digest_of(CONV))]
    yield norm_of_layer(PlacedLayer(LAYER, LAYER.geometry), (5,), np.ones(2), None, lambda *_: claims), 1.0
    stack = np.stack([np.eye(3), np.diag([2.0, 1.0, 0.5])])
    yield norm_of_matrices(stack, Clock()), 2.0
    (by_entries,) = norm_by_entries(np.ones((2, 1, 3)), ConvSpec.of((2, 1, 3)))
    yield by_entries, 3 * float(np.sqrt(2))


def branches() -> Iterator[tuple[Upper | None, float]]:
    """Pieces of three numbers that overlap by one, of which the last is tripled; x less its mean; a sum and a mean."""
    three = Node("x", Input(), (), (1, 3))
    pieces = [Node(f"p{a}", Slice(((1, a, a + 2, 1),)), ("x",), (1, 2)) for a in (0, 1)]
    tripled = Node("t", Scale(np.array([1.0, 3.0]), exact=True), ("p1",), (1, 2))
    yield upper(three, *pieces, tripled, join("c", Concat(1), "p0", "t", width=4)), 3.0
    yield upper(three, *pieces, join("c", Concat(1), "p0", "p1", width=4)), float(np.sqrt(2))
    mean = Node("m", Mean((1,), keep=True), ("x",), (1, 1))
    less = Node("d", Add((2.0, -2.0)), ("x", "m"), (1, 3))
    yield upper(three, mean, less), 2.0
    yield upper(three, mean, less, join("c", Concat(1), "d", "m", width=4)), 2.0


def blocks() -> Iterator[tuple[Upper | None, float]]:
    """Two numbers, of which one moves the other, once or twice."""
    two = Node("x", Input(), (), (1, 2))
    first, second = (Node(f"p{at}", Slice(((1, at, at + 1, 1),)), ("x",), (1, 1)) for at in (0, 1))
    relu, moved = join("r", ReLU(), "p1"), join("s", Add((1.0, 3.0)), "p0", "r")
    yield upper(two, first, second, relu, moved, join("c", Concat(1), "s", "p1", width=2)), norm_of([[1, 3], [0, 1]])
    again = join("t", Add((1.0, 2.0)), "p1", "q")
    nodes = (two, first, second, relu, moved, join("q", ReLU(), "s"), again)
    yield upper(*nodes, join("c", Concat(1), "s", "t", width=2)), norm_of([[1, 3], [2, 7]])


def norm_of(matrix: list[list[int]]) -> float:
    return float(np.linalg.norm(np.array(matrix), 2))


def blocks_by(*claims: Upper) -> object:
    """What is said of the summands of a sum, by claims about these."""
    constants = dict(zip("uv", [[claim] for claim in claims], strict=True))
    return list(claims_of_blocks(SCOPE, NODES["s"], lambda _: False, constants))


def upper(*nodes: Node) -> Upper | None:
    return bound(Graph(nodes, (nodes[-1].name,)), method=Product(), check=False).claim


def lied_to() -> object:
    """A linear map between two values, measured by somebody who says the norm of another kernel."""
    mean, scaled = Node("m", Mean((1,), keep=True), ("x",), (1, 1)), Node("u", Scale(np.ones(2)), ("x",), (1, 2))
    nodes = (Node("x", Input(), (), (1, 2)), mean, scaled, Node("d", Add((1.0, -1.0)), ("u", "m"), (1, 2)))
    return bound(Graph(nodes, ("d",)), Lying(), method=Product(), check=False)


def attended(what: object) -> Upper:
    return claim_of_attention(SCOPE, NODES["s"], Factors("u", "u", 0.0, 0.0, 2.0), [U, assumed(5.0, what)])


def one_unit() -> Inequality:
    graph = Graph((x(), times("u", "x", 6), join("r", ReLU(), "u"), times("v", "r", 5)), ("v",))
    return inequality_of(with_slopes_on(graph, unlimited_ranges(graph)))


def attention() -> Iterator[tuple[Upper | None, float]]:
    """Of the same tokens, and of tokens of two kinds: each claim, times what its tokens can change the result by."""
    tokens, of_tokens = Node("x", Input(), (), (1, 2, 2)), (1, 2, 2)
    once = Node("a", Attention(1.0), ("x", "x", "x"), of_tokens)
    scope = Scope(Graph((tokens, once), ("a",)))
    together = Factors("x", "x", 0.0, 0.0, 2.0)
    yield claim_of_attention(scope, once, together, 2 * [assumed(3.0, scope.map("x", "x"))]), 6.0
    others = [Node(name, Scale(np.full(of_tokens, 2.0)), ("x",), of_tokens) for name in "uv"]
    across = Node("a", Attention(1.0), ("u", "v", "v"), of_tokens)
    scope = Scope(Graph((tokens, *others, across), ("a",)))
    claims = [assumed(5.0, scope.map("x", "u")), assumed(7.0, scope.map("x", "v"))]
    yield claim_of_attention(scope, across, Factors("u", "v", 2.0, 3.0, 0.0), claims), 31.0


def inequalities() -> Iterator[tuple[Upper | None, float]]:
    """A chain of numbers with a function between them, whose constant is their product."""
    inequality = one_unit()
    *_, best = proposals(inequality, 20, Clock())
    proposed = best.constant * (1 + 1e-6)
    yield constant_of_inequality(inequality, best.multipliers, proposed, is_transposed=best.is_transposed), 30.0


NETWORK_CHECKS = {
    "claim_of_attention": attention, "constant_of_inequality": inequalities,
    "_constant_of_linear_part": branches,
    "_Blocks.claim": blocks,
    "constant_of_factor": constants,
    "composed": constants,
    "identity": constants, "of_slopes": constants, "of_operator": constants, "of_layer": constants,
    "_together": constants, "unchanged": constants, "constant_of_run": together,
    "constant_through_head": before_heads, "constant_before": before_heads,
    "_constant_of_layer": together, "_constant_of_kernel": together, "norm_of_layer": layers,
    "norm_of_matrices": layers, "norm_by_entries": layers,
}  # fmt: skip
"""Rule -> a check whose claims it makes, among others."""
