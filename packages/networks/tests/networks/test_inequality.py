"""The inequality of a whole network holds for all slopes, and proves no smaller constant than its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from helpers.checks import present
from networks.written_networks import Written
from specnorm_networks import Graph
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.inequality import Inequality, constant_of_inequality, transposed
from specnorm_networks.certified.operators import NoBoundError
from specnorm_networks.certified.ranges import unlimited_ranges, with_slopes_on
from specnorm_networks.certified.units import inequality_of as read
from specnorm_networks.descent import inequality as descent
from specnorm_networks.descent.inequality import proposals
from specnorm_networks.tools import bound

from specnorm.proof import Clock, HypothesisError

RNG = np.random.default_rng(0)
SLOPES = {ops.ReLU: (0.0, 1.0), ops.LeakyReLU: (0.01, 1.0), ops.Tanh: (0.0, 1.0), ops.Abs: (-1.0, 1.0)}


def convolution(network: Written, cout: int, of: str, stride: int = 1) -> str:
    kernel = RNG.normal(size=(cout, network.values[of].shape[1], 3, 3)) / 3
    return network.convolution(kernel, of, stride=stride)


def resolutions() -> Graph:
    """A finer value is joined with a coarser one, which is interpolated."""
    network = Written((1, 1, 4, 4))
    fine = network(ops.ReLU(), convolution(network, 2, "x"))
    coarse = network(ops.Tanh(), convolution(network, 2, fine, 2))
    scales = (Fraction(1), Fraction(1), Fraction(2), Fraction(2))
    resized = network(ops.Resize("linear", (1, 2, 4, 4), scales, "half_pixel"), coarse)
    convolution(network, 1, network(ops.Concat(1), resized, fine))
    return network.graph()


def few_outputs() -> Graph:
    """A residual block with negative slopes; the output has fewer entries than the input."""
    network = Written((1, 2, 3, 3))
    inner = convolution(network, 2, network(ops.Abs(), convolution(network, 2, "x")))
    network(ops.Sum((2, 3), keep=False), network(ops.LeakyReLU(), network(ops.Add((1.0, -0.5)), "x", inner)))
    return network.graph()


def reused(second: ops.Function = ops.ReLU(), offset: float = 0.0) -> Graph:  # noqa: B008 - it is frozen
    """Two convolutions apply functions to the same entries, or to these plus a number."""
    network = Written((1, 2, 3, 3))
    first = convolution(network, 2, network(ops.ReLU(), "x"))
    other = network(ops.Add((1.0, 1.0)), "x", network.constant(np.full((1, 2, 3, 3), offset))) if offset else "x"
    network(ops.Add((1.0, -1.0)), first, convolution(network, 2, network(second, other)))
    return network.graph()


GRAPHS: dict[str, Callable[[], Graph]] = {
    "resolutions": resolutions, "few outputs": few_outputs, "another function": lambda: reused(ops.Tanh()),
    "another argument": lambda: reused(offset=2.0),
}  # fmt: skip


def inequality_of(graph: Graph) -> Inequality:
    return read(with_slopes_on(graph, unlimited_ranges(graph)))


def norm_for_slopes(graph: Graph, slopes: dict[str, np.ndarray]) -> float:
    """The norm of the linear map that the network is if its functions multiply by numbers."""
    nodes = []
    for node in graph.nodes:
        scaled: Any = ops.Scale(slopes[node.name], exact=False) if node.name in slopes else node.operator
        nodes.append(replace(node, operator=scaled))
    linear = Graph(tuple(nodes), graph.outputs)
    (name,), (end,) = graph.inputs, graph.outputs
    shape = graph.by_name[name].shape or ()
    eye = np.eye(math.prod(shape)).reshape(-1, *shape)
    at_0 = linear.run({name: np.zeros_like(eye[0])})[end]
    return float(np.linalg.norm([(linear.run({name: x})[end] - at_0).reshape(-1) for x in eye], 2))


def attained(graph: Graph, random: np.random.Generator) -> float:
    """A large norm: from random slopes at the ends, those of a few entries are exchanged while that is larger."""
    ends = {node.name: SLOPES[type(node.operator)] for node in graph.nodes if type(node.operator) in SLOPES}
    shapes = {name: graph.by_name[name].shape or () for name in ends}
    slopes = {name: random.choice(ends[name], size=shapes[name]) for name in ends}
    best = norm_for_slopes(graph, slopes)
    for _ in range(60):
        is_drawn = {name: random.random(shape) < 0.2 for name, shape in shapes.items()}
        others = {
            name: np.where(is_drawn[name], random.choice(ends[name], size=shapes[name]), slopes[name]) for name in ends
        }
        if (norm := norm_for_slopes(graph, others)) > best:
            best, slopes = norm, others
    return best


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.sampled(2)
def test_it_holds_for_all_slopes_and_is_close(name: str) -> None:
    graph = GRAPHS[name]()
    found = present(bound(graph, check=False).upper)
    reached = attained(graph, np.random.default_rng(1))
    assert reached <= found <= 1.7 * reached


def test_the_channels_of_all_functions_are_numbered_without_gaps() -> None:
    """Gaps that doubled from function to function took 16 GiB for 31 layers."""
    network = Written((1, 2, 3, 3))
    value = "x"
    for _ in range(4):
        value = network(ops.ReLU(), convolution(network, 2, value))
    assert np.array_equal(inequality_of(network.graph()).channels, np.repeat(np.arange(8), 9))


@pytest.mark.parametrize("name", ["resolutions", "few outputs"])
def test_no_smaller_constant_is_proven(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one of multipliers that cannot be such, or of entries that are known less well; the search has blocks."""
    monkeypatch.setattr(descent, "GROUP", 5)
    inequality = inequality_of(GRAPHS[name]())
    *_, best = proposals(inequality, 60, Clock())
    least = best.constant

    def prove(constant: float, multipliers: np.ndarray = best.multipliers) -> float:
        claim = constant_of_inequality(inequality, multipliers, constant, is_transposed=best.is_transposed)
        return claim.value

    assert prove(least * (1 + 1e-6), best.multipliers * (1 + 1e-6)) == least * (1 + 1e-6)
    for constant in (least * (1 - 1e-6), 0.0, np.nan, np.inf, -least):
        with pytest.raises(NoBoundError):
            prove(constant)
    for multipliers in (-best.multipliers, best.multipliers[1:], best.multipliers * np.nan):
        with pytest.raises(HypothesisError):
            prove(2 * least, multipliers)
    inequality = replace(inequality, error=1e-6 * abs(inequality.matrix))._of_map(inequality.map)
    with pytest.raises(NoBoundError):
        prove(least * (1 + 1e-6))
    assert prove(2 * least, 2 * best.multipliers) == 2 * least


@pytest.mark.parametrize("name", ["resolutions", "few outputs"])
def test_the_gradient_of_the_search_is_the_derivative(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descent, "GROUP", 5)
    inequality = inequality_of(GRAPHS[name]())
    form = descent._Form(inequality.blocks, inequality.values, is_transposed=False)
    problem = descent._Problem(form, inequality.channels, Clock())
    _, logs = problem.start()
    logs = logs + 0.1
    direction = RNG.normal(size=logs.shape)
    ahead, behind = (problem.evaluate(logs + step * direction, 1e-3).smoothed for step in (1e-5, -1e-5))
    assert len(form.groups) > 2
    # The width of the maximum changes with the largest eigenvalue, which the gradient leaves out.
    assert problem.evaluate(logs, 1e-3).gradient @ direction == pytest.approx((ahead - behind) / 2e-5, rel=1e-2)


@pytest.mark.parametrize("name", ["resolutions", "few outputs"])
def test_no_multipliers_are_searched_that_slopes_rule_out(name: str) -> None:
    """The constant of a proposal is no less than the norm with all least slopes, or with all largest ones."""
    graph = GRAPHS[name]()
    inequality = inequality_of(graph)
    ends = {node.name: SLOPES[type(node.operator)] for node in graph.nodes if type(node.operator) in SLOPES}
    floor = max(
        norm_for_slopes(graph, {v: np.full(graph.by_name[v].shape or (), ends[v][k]) for v in ends}) for k in range(2)
    )
    is_transposed = inequality.outputs < inequality.inputs
    for blocks, is_other in ((inequality.blocks, False), (transposed(inequality.blocks), True)):
        assert descent._Form(blocks, inequality.values, is_other).floor() == pytest.approx(floor, rel=1e-12)
    counts = []
    for proven in (0.0, floor, floor * (1 + 1e-6)):
        found = list(proposals(inequality, 3, Clock(), 0.0, proven=proven))
        assert all(proposal.is_transposed == is_transposed and proposal.constant >= floor for proposal in found)
        counts.append(len(found))
    assert counts[:2] == [1, 1]
    assert counts[2] > 1


def test_functions_of_the_same_entries_are_the_same_units() -> None:
    """Only if both function and argument are equal: else the difference of both branches would be too small."""
    assert inequality_of(reused()).units == 18
    assert inequality_of(reused(ops.LeakyReLU())).units == 36
    assert inequality_of(reused(offset=2.0)).units == 36
