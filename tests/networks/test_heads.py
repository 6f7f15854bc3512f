"""Convolutions, a flattened head and what follows, bounded together: against the dense inequality, and from below."""

from __future__ import annotations

import contextlib
import itertools
import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from networks.dense_networks import FUNCTIONS, Conv, Matrix, draw, from_below, graph_of, sizes_of, smallest_eigenvalue
from specnorm_networks import Graph, Layer, Measure, Multipliers, Node, Product, bound, heads
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.heads import Head, constant_through_head, head_of
from specnorm_networks.certified.operators import Windows
from specnorm_networks.certified.patterns import prepared
from specnorm_networks.certified.reading import Subnetwork, grids_of, runs

from specnorm.backends import backend_for
from specnorm.certified.bound import HypothesisError
from specnorm.runtime.execution import Execution

ALL = tuple(FUNCTIONS)
KINDS: dict[str, dict[str, Any]] = {
    "zeros": {"plain": True},
    "geometry": {"layers": 2},
    "strided": {"plain": True, "first": 2, "layers": 2},
    "circular": {"mode": "circular"},
    "two axes": {"axes": 2, "layers": 2},
    "slopes": {"functions": ALL, "layers": 2},
}
MEASURE = Measure(1e-4)


class Drawn:
    """Convolutions with functions, flattened or averaged first, a matrix, and further matrices behind ReLU.

    ``averages``: pixels of a window, an axis, or "all".
    """

    def __init__(self, seed: int, kind: str, further: int = 0, averages: Any = None) -> None:
        self.random = np.random.default_rng(seed)
        function = self.random.choice(ALL) if kind == "slopes" else "relu"
        convs = draw(seed, **KINDS[kind])
        self.convs = [*convs[:-1], replace(convs[-1], function=str(function))]
        self.sizes = sizes_of(self.convs, [2 + (seed + axis) % 4 for axis in range(convs[0].axes)])
        self.averages = np.eye(math.prod(self.sizes[-1])) if averages is None else averaging(averages, self.sizes[-1])
        widths = [convs[-1].cout * len(self.averages), *(4,) * further, 3]
        self.dense = [self.random.normal(size=(b, a)) / a**0.5 for a, b in itertools.pairwise(widths)]
        body = graph_of(self.convs, self.sizes[0])
        nodes, axes = list(body.nodes), range(2, 2 + convs[0].axes)
        if averages == "all":
            nodes.append(
                Node("p", ops.Mean(tuple(axes), keep=True), (nodes[-1].name,), (1, convs[-1].cout, *(1,) * len(axes)))
            )
        elif averages is not None:
            each: tuple[int, ...] = (averages,) * len(axes)
            windows = Windows(each, each, (1,) * len(axes), ((0, 0),) * len(axes))
            shape = (1, convs[-1].cout, *(n // averages for n in self.sizes[-1]))
            nodes.append(Node("p", ops.AveragePool(windows), (nodes[-1].name,), shape))
        nodes.append(Node("flat", ops.Reshape((1, widths[0])), (nodes[-1].name,), (1, widths[0])))
        for at, kernel in enumerate(self.dense):
            layer = Layer(f"d{at}", partial(np.asarray, kernel), {}, 0)
            nodes.append(Node(f"d{at}", ops.Matrix(layer), (nodes[-1].name,), (1, len(kernel))))
            if at < further:
                nodes.append(Node(f"r{at}", ops.ReLU(), (nodes[-1].name,), (1, len(kernel))))
        self.graph = Graph(tuple(nodes), (nodes[-1].name,))

    @property
    def matrices(self) -> list[Matrix]:
        """Dense, by loops."""
        convs = [conv.matrix(n) for conv, n in zip(self.convs, self.sizes, strict=False)]
        first, *others = self.dense
        return [*convs, first @ np.kron(np.eye(self.convs[-1].cout), self.averages), *others]

    @property
    def slopes(self) -> list[tuple[float, float]]:
        return [*(conv.slopes for conv in self.convs), *[(0.0, 1.0)] * len(self.dense)]

    @property
    def run(self) -> Subnetwork:
        return next(run for run in runs(prepared(self.graph)) if not all(link.open for link in run.links[:-1]))

    @property
    def head(self) -> Head | None:
        with contextlib.suppress(StopIteration):
            return head_of(self.run)
        return None

    def weights(self, head: Head, at: int, of_channels: Matrix) -> Matrix:
        """Of a value's entries, from those of its channels, or of its phases."""
        n = self.sizes[at]
        grids = grids_of(replace(head.run, links=head.run.links[: len(self.convs)]))
        assert grids is not None
        grid = grids[at] if at and len(of_channels) > self.convs[at - 1].cout else (1,) * len(n)
        phase = np.ravel_multi_index(np.indices(n) % np.reshape(grid, (-1, *(1,) * len(n))), grid).reshape(-1)
        return np.asarray(of_channels.reshape(-1, math.prod(grid))[:, phase].reshape(-1))


def averaging(window: Any, sizes: tuple[int, ...]) -> Matrix:
    """Matrix from pixels to averages of all, or of windows side by side."""
    if window == "all":
        return np.full((1, math.prod(sizes)), 1 / math.prod(sizes))
    if any(n % window for n in sizes):
        raise ValueError("windows do not fit")
    found = np.ones((1, 1))
    for n in sizes:
        found = np.kron(found, np.kron(np.eye(n // window), np.full((1, window), 1 / window)))
    return found


def drawn(kind: str, count: int, **options: Any) -> list[tuple[Drawn, Head]]:
    found: list[tuple[Drawn, Head]] = []
    for seed in range(100):
        with contextlib.suppress(ValueError):  # nothing is left of an axis
            net = Drawn(seed, kind, **options)
            head = net.head if max(map(len, net.matrices)) <= 150 else None
            if head is not None:
                found.append((net, head))
        if len(found) == count:
            break
    return found


def proven(head: Head, weights: list[Matrix]) -> float:
    """Of a head after which nothing follows."""
    kernel: Any = weights[0]
    alone = [([0], [np.ones(head.link.width)])]
    return constant_through_head(
        head, weights, lambda _: alone, MEASURE, ops=Execution.of(backend_for(kernel), kernel)
    ).value


def dense(net: Drawn, head: Head, weights: list[Matrix], constant: float) -> float:
    """Smallest eigenvalue of the dense inequality, whose slopes have 0 between them."""
    slopes = [(min(a, 0.0), max(b, 0.0)) for a, b in net.slopes]
    wide = [np.ones(net.matrices[0].shape[1]), *(net.weights(head, at, q) for at, q in enumerate(weights, 1))]
    return smallest_eigenvalue(net.matrices, slopes, [*wide, np.ones(len(net.dense[-1]))], constant)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("averages", [None, "all", 2])
def test_dense_inequality_holds(kind: str, averages: Any) -> None:
    """At the network's own size, with matrices written out by loops; and it is not much looser than it must be."""
    tight, phases = [], 0
    for net, head in drawn(kind, 6, averages=averages):
        *_, weights = heads.weights_of(head, Multipliers(steps=30), 1e12)
        phases += len(weights[0]) > net.convs[0].cout
        found = proven(head, weights)
        assert dense(net, head, weights, found) >= -1e-12
        tight.append(dense(net, head, weights, 0.75 * found) < 0)
    assert len(tight) == 6
    assert all(tight)
    assert phases or kind != "geometry" or averages


@pytest.mark.parametrize("kind", KINDS)
def test_a_ring_that_is_too_short_is_noticed(kind: str) -> None:
    least = []
    for net, head in drawn(kind, 12):
        short = replace(head, ring=tuple(max(n - 2, 1) for n in head.ring))
        *_, weights = heads.weights_of(short, Multipliers(steps=25), 1e12)
        least.append(dense(net, head, weights, proven(short, weights)))
    assert min(least) < -1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("further", [0, 2])
@pytest.mark.nightly
def test_whole_network_is_bounded(kind: str, further: int) -> None:
    """Products with masks stay below; what is found is no more than by channels."""
    for seed, (net, head) in enumerate(drawn(kind, 2, further=further)):
        reached = from_below(net.matrices, net.slopes, seed)
        method = Multipliers(steps=30)
        through = heads.bound_through_head(head, MEASURE, method, 1.0)
        whole, rules = (bound(net.graph, MEASURE, method=m) for m in (method, Product()))
        assert through is not None
        assert whole.upper is not None
        assert rules.upper is not None
        assert reached * (1 - 1e-12) <= min(through.value, whole.upper)
        assert whole.upper <= min(rules.upper, through.value * (1 + 1e-12))


def test_what_is_before_a_head_is_counted() -> None:
    """Averages of windows cut a run: before them weights of the run's own, behind them the head's."""
    random = np.random.default_rng(3)
    kernels: list[Matrix] = [random.normal(size=shape) / 3 for shape in ((6, 1, 3), (4, 6, 3))]
    first, second = (Conv(k, 1, 1, 1, False, "zeros", ((1, 1),), None, "relu") for k in kernels)
    matrix = random.normal(size=(3, 16)) / 4
    nodes = [
        *graph_of([first], (8,)).nodes,
        Node("p", ops.AveragePool(Windows((2,), (2,), (1,), ((0, 0),))), ("f0",), (1, 6, 4)),
        Node("c", ops.Convolution(Layer("w", lambda: kernels[1], {"padding": ((1, 1),), "padding_mode": "zeros"}, 1)),
             ("p",), (1, 4, 4)),
        Node("z", ops.ReLU(), ("c",), (1, 4, 4)),
        Node("flat", ops.Reshape((1, 16)), ("z",), (1, 16)),
        Node("y", ops.Matrix(Layer("d", lambda: matrix, {}, 0)), ("flat",), (1, 3)),
    ]  # fmt: skip
    graph = Graph(tuple(nodes), ("y",))
    (run,) = runs(prepared(graph))
    ones = np.ones(6)
    weights = random.uniform(0.5, 2, 6)
    pooled: Matrix = np.kron(np.eye(6), averaging(2, (8,))).astype(np.float64)
    matrices = [first.matrix((8,)), pooled, second.matrix((4,)), matrix]
    reached = from_below(matrices, [(0.0, 1.0), (1.0, 1.0), (0.0, 1.0), (1.0, 1.0)], 0)
    found = []
    for before in (ones, weights, 1e-3 * weights):
        head = head_of(run, [0], [before])
        assert head is not None
        claim = heads.bound_through_head(head, MEASURE, Multipliers(), 1.0)
        assert claim is not None
        assert reached <= claim.value
        found.append(claim.value)
    assert found[2] == pytest.approx(found[1], rel=1e-6)
    product = bound(graph, MEASURE, method=Product()).upper
    whole = bound(graph, MEASURE).upper
    assert whole is not None
    assert product is not None
    assert reached <= whole <= min(found) * 1.1
    assert whole < 0.8 * product


def test_heads_gain_what_channels_lose() -> None:
    """Too large for a multiplier a unit: 0.90 by channels alone."""
    random = np.random.default_rng(0)
    shapes = ((8, 1, 3, 3), (8, 8, 3, 3))
    kernels = [random.uniform(-1, 1, s) / math.prod(s[1:]) ** 0.5 for s in shapes]
    convs = [Conv(k, 1, 1, 1, False, "zeros", ((1, 1), (1, 1)), None, "relu") for k in kernels]
    body = graph_of(convs, (12, 12))
    matrix = random.uniform(-1, 1, (10, 1152)) / 1152**0.5
    layer = Layer("head", lambda: matrix, {}, 0)
    flat = Node("flat", ops.Reshape((1, 1152)), (body.outputs[0],), (1, 1152))
    graph = Graph((*body.nodes, flat, Node("y", ops.Matrix(layer), ("flat",), (1, 10))), ("y",))
    cut = bound(graph, method=Multipliers(widest=2**20), check=False).upper
    head = head_of(runs(prepared(graph))[0])
    assert head is not None
    found = heads.bound_through_head(head, Measure(), Multipliers(), 1.0)
    assert found is not None
    assert cut is not None
    assert found.value < 0.75 * cut


def test_what_is_between_is_no_head() -> None:
    """Pooling whose factor is 1, other borders, and parts of what is flattened: the rules, and runs, go on."""
    net, _ = drawn("zeros", 1)[0]
    at = [node.name for node in net.graph.nodes].index("flat")
    windows = Windows((1,), (1,), (1,), ((0, 0),))
    last = net.graph.nodes[at - 1]
    between = (
        Node("one", ops.MaxPool(windows), (last.name,), last.shape),
        replace(net.graph.nodes[at], inputs=("one",)),
    )
    pooled = (*net.graph.nodes[:at], *between, *net.graph.nodes[at + 1 :])
    assert all(head_of(run) is None for run in runs(prepared(Graph(pooled, net.graph.outputs))))
    for mode in ("reflect", "replicate"):
        convs = [replace(conv, mode=mode) for conv in net.convs]
        nodes_of = graph_of(convs, net.sizes[0]).nodes
        kept = [node for node in net.graph.nodes if node.name in ("flat", "d0")]
        other = Graph((*nodes_of, *kept), net.graph.outputs)
        assert all(head_of(run) is None for run in runs(prepared(other)))


def test_what_proves_nothing_is_refused() -> None:
    _, head = drawn("zeros", 1)[0]
    *_, weights = heads.weights_of(head, Multipliers(steps=0), 1e12)
    with pytest.raises(HypothesisError, match="no weights"):
        proven(head, [*weights[:-1], -weights[-1]])
    with pytest.raises(HypothesisError, match="positive definite"):
        proven(head, [weights[0], *(1e3 * q for q in weights[1:])])
