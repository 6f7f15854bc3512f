"""A network by its units: what a search of them would cost is known before any coefficient is computed."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from checks import present
from networks.written_networks import SHAPE, Written
from specnorm_networks import Graph, Layer, Multipliers
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.ranges import unlimited_ranges, with_slopes_on
from specnorm_networks.certified.units import outline_of_unit_run, unit_run
from specnorm_networks.tools import bound

RNG = np.random.default_rng(0)


def convolution(network: Written, cout: int, of: str) -> str:
    cin = network.values[of].shape[1]
    kernel = RNG.normal(size=(cout, cin, 3, 3))
    return network(ops.Convolution(Layer(f"w of {of}", lambda: kernel, {"padding": 1, "padding_mode": "zeros"}, 2)), of)


def with_slopes(graph: Graph) -> Graph:
    return with_slopes_on(graph, unlimited_ranges(graph))


def chain() -> Graph:
    network = Written()
    first = network(ops.ReLU(), convolution(network, 3, "x"))
    convolution(network, 1, network(ops.LeakyReLU(0.1), convolution(network, 2, first)))
    return network.graph()


def residual() -> Graph:
    network = Written()
    inner = network(ops.ReLU(), convolution(network, 6, "x"))
    total = network(ops.Add((1.0, 1.0)), "x", convolution(network, 6, inner))
    network(ops.Add((1.0, -2.0)), network(ops.ReLU(), total), inner)
    return network.graph()


def halves() -> Graph:
    network = Written()
    left, right = network.halves()
    joined = network(ops.Concat(1), network(ops.ReLU(), left), network.scaled(3.0, right))
    convolution(network, 2, network(ops.Mean((2, 3), keep=True), joined))
    return network.graph()


@pytest.mark.parametrize("build", [chain, residual, halves])
def test_the_outline_has_the_widths_and_reads_of_the_run(build: Callable[[], Graph]) -> None:
    graph = with_slopes(build())
    run = present(unit_run(graph))
    outline = present(outline_of_unit_run(graph))
    assert [link.width for link in outline.links] == [link.width for link in run.links]
    assert outline.width == run.width == np.prod(SHAPE)
    assert outline.cut_points == run.cut_points
    assert [link.sources for link in outline.links] == [link.sources for link in run.links]
    method = Multipliers()
    assert method.parts(outline) == method.parts(run)
    assert method.affordable(outline) == method.affordable(run)


def test_a_search_of_units_that_is_not_affordable_takes_no_memory() -> None:
    """Three layers on 16x16 pixels took 540 MiB for coefficients of 4,096 units, and then there was no search."""
    network = Written((1, 1, 16, 16))
    first = network(ops.ReLU(), convolution(network, 8, "x"))
    convolution(network, 1, network(ops.ReLU(), convolution(network, 8, first)))
    tracemalloc.start()
    upper = bound(network.graph(), method=Multipliers(steps=1), check=False).upper
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert upper is not None
    assert peak < 2**26


def test_coefficients_are_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the parts, they are the same."""
    graph = with_slopes(residual())
    at_once = present(unit_run(graph))
    monkeypatch.setattr("specnorm_networks.certified.units.COEFFICIENTS_AT_ONCE", 1000)
    in_parts = present(unit_run(graph))
    for link, other in zip(at_once.links, in_parts.links, strict=True):
        for term, same in zip(link.terms, other.terms, strict=True):
            kernel = present(term.placed_layer).layer.kernel()
            np.testing.assert_allclose(present(same.placed_layer).layer.kernel(), kernel, rtol=1e-13, atol=1e-13)
