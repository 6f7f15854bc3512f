"""Convolutions, a flattened head and further matrices, bounded together: the dense inequality holds for the bound."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from networks.dense_networks import FUNCTIONS, Matrix, chained, draw, network_of, sizes_of, smallest_eigenvalue
from specnorm_check import Part
from specnorm_networks import Graph, Layer, Multipliers, Node, heads
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.heads import Head, constant_through_head, head_of
from specnorm_networks.certified.links import Run
from specnorm_networks.certified.operators import Windows
from specnorm_networks.certified.parts import statements_of
from specnorm_networks.certified.patterns import prepare
from specnorm_networks.certified.runs import grids_of, runs
from specnorm_networks.descent.gradient import value_alone
from specnorm_networks.tools import Measure

from specnorm.proof import OutOfTime

ALL = tuple(FUNCTIONS)
KINDS: dict[str, dict[str, Any]] = {
    "zeros": {"plain": True}, "geometry": {"layers": 2}, "strided": {"plain": True, "first": 2, "layers": 2},
    "circular": {"mode": "circular"}, "two axes": {"axes": 2, "layers": 2}, "slopes": {"functions": ALL, "layers": 2},
}  # fmt: skip
MEASURE = Measure(1e-4)


class Drawn:
    """A network drawn by a seed: convolutions with functions, a matrix of all pixels, further matrices behind ReLU.

    ``averages``: the matrix reads averages of windows with as many pixels an axis, or of "all" pixels; None: pixels.
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
        body = network_of(self.convs, self.sizes[0]).graph
        nodes = list(body.nodes)
        axes = range(2, 2 + convs[0].axes)
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
        convs = [conv.matrix(n) for conv, n in zip(self.convs, self.sizes, strict=False)]
        first, *others = self.dense
        return [*convs, first @ np.kron(np.eye(self.convs[-1].cout), self.averages), *others]

    @property
    def slopes(self) -> list[tuple[float, float]]:
        return [*(conv.slopes for conv in self.convs), *[(0.0, 1.0)] * len(self.dense)]

    @property
    def run(self) -> Run:
        return next(
            run for run in runs(prepare(self.graph)) if not all(link.ends_with_function for link in run.links[:-1])
        )

    @property
    def head(self) -> Head | None:
        with contextlib.suppress(StopIteration, ops.NoBoundError):
            return head_of(self.run)
        return None

    def weights(self, head: Head, at: int, of_channels: Matrix) -> Matrix:
        """Return weights of a value's entries from weights of its channels, or of its phases."""
        n = self.sizes[at]
        grids = grids_of(replace(head.run, links=head.run.links[: len(self.convs)]))
        grid = grids[at] if at and len(of_channels) > self.convs[at - 1].cout else (1,) * len(n)
        phase = np.ravel_multi_index(np.indices(n) % np.reshape(grid, (-1, *(1,) * len(n))), grid).reshape(-1)
        return np.asarray(of_channels.reshape(-1, math.prod(grid))[:, phase].reshape(-1))


def averaging(window: Any, sizes: tuple[int, ...]) -> Matrix:
    """Return the matrix from pixels to averages of all, or of windows side by side."""
    if window == "all":
        return np.full((1, math.prod(sizes)), 1 / math.prod(sizes))
    if any(n % window for n in sizes):
        raise ValueError("windows do not fit")
    found = np.ones((1, 1))
    for n in sizes:
        found = np.kron(found, np.kron(np.eye(n // window), np.full((1, window), 1 / window)))
    return found


def drawn(kind: str, count: int, **options: Any) -> list[tuple[Drawn, Head]]:
    networks: list[tuple[Drawn, Head]] = []
    for seed in range(100):
        with contextlib.suppress(ValueError):  # nothing is left of an axis
            net = Drawn(seed, kind, **options)
            head = net.head if max(map(len, net.matrices)) <= 150 else None
            if head is not None:
                networks.append((net, head))
        if len(networks) == count:
            break
    return networks


def alone(run: Run) -> list[Sequence[Part]]:
    """State the only link after a head."""
    return [statements_of(run, [(0, 1)], [np.ones(run.links[0].width)])]


def proven(head: Head, weights: list[Matrix]) -> float:
    """Return the proven constant through a head after which nothing follows."""
    return constant_through_head(head, weights, alone, MEASURE).value


def dense_eigenvalue(net: Drawn, head: Head, weights: list[Matrix], constant: float) -> float:
    """Return the smallest eigenvalue of the dense inequality, for slopes with 0 between them."""
    wide = [np.ones(net.matrices[0].shape[1]), *(net.weights(head, at, q) for at, q in enumerate(weights, 1))]
    whole = chained(net.matrices, net.slopes)
    return smallest_eigenvalue(whole, range(len(whole.sums)), [*wide, np.ones(len(net.dense[-1]))], constant)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("averages", [None, "all", 2])
@pytest.mark.sampled("zeros")
def test_dense_inequality_holds(kind: str, averages: Any) -> None:
    """P is positive semidefinite at the network's own size for the bound, and not for three quarters of it."""
    of_three_quarters = []
    phases = 0
    for net, head in drawn(kind, 6, averages=averages):
        *_, weights = heads.weights_of(head, Multipliers(steps=30), 1e12)
        phases += len(weights[0]) > net.convs[0].cout
        constant = proven(head, weights)
        assert dense_eigenvalue(net, head, weights, constant) >= -1e-12, "the bound does not satisfy the inequality"
        of_three_quarters.append(dense_eigenvalue(net, head, weights, 0.75 * constant))
    assert len(of_three_quarters) == 6, "too few networks with a head"
    assert max(of_three_quarters) < 0, "the bound is much looser than the inequality asks for"
    assert phases or kind != "geometry" or averages, "no network had strides inside"


def test_the_clock_is_asked_before_each_evaluation_of_a_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """A DQN's bound took 88 s of a budget of 60, and then 11.9 of 10."""
    ((_, head),) = drawn("zeros", 1)
    happened: list[str] = []

    def evaluated(*given: Any) -> Any:
        happened.append("evaluated")
        return value_alone(*given)

    monkeypatch.setattr(heads, "value_alone", evaluated)
    weights = heads.weights_of(head, Multipliers(steps=30), 1e12, lambda: happened.append("asked"))
    assert len([*zip(range(2), weights, strict=False)]) == 2
    evaluations = [at for at, what in enumerate(happened) if what == "evaluated"]
    assert len(evaluations) == 2
    assert all(happened[at - 1] == "asked" for at in evaluations)


def test_the_clock_is_asked_in_every_loop_of_a_head() -> None:
    ((_, head),) = drawn("zeros", 1)
    asked: list[None] = []

    def tick() -> None:
        asked.append(None)
        if len(asked) > 3:
            raise OutOfTime

    with pytest.raises(OutOfTime):
        list(heads.weights_of(head, Multipliers(steps=30), 1e12, tick))
    asked.clear()
    first = next(heads.weights_of(head, Multipliers(steps=30), 1e12))
    constant_through_head(head, first, alone, MEASURE, None, lambda: asked.append(None))
    assert asked
