"""A network by its units: coefficients are computed in parts, and of small networks alone."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from helpers.checks import present
from networks.dense_networks import dense
from networks.written_networks import Written
from specnorm_networks import Graph, Multipliers, Node, Product
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified import units
from specnorm_networks.certified.ranges import unlimited_ranges, with_slopes_on
from specnorm_networks.certified.units import inequality_of
from specnorm_networks.tools import bound

RNG = np.random.default_rng(0)


def convolution(network: Written, cout: int, of: str) -> str:
    return network.convolution(RNG.normal(size=(cout, network.values[of].shape[1], 3, 3)), of)


def with_slopes(graph: Graph) -> Graph:
    return with_slopes_on(graph, unlimited_ranges(graph))


def residual() -> Graph:
    network = Written()
    inner = network(ops.ReLU(), convolution(network, 6, "x"))
    total = network(ops.Add((1.0, 1.0)), "x", convolution(network, 6, inner))
    network(ops.Add((1.0, -2.0)), network(ops.ReLU(), total), inner)
    return network.graph()


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


@pytest.mark.parametrize("seconds", [0.01, 0.012])
def test_a_search_of_units_ends_with_a_bound_when_its_seconds_do(seconds: float) -> None:
    """Units have one frequency, and no peaks beside it: visits of peaks, where seconds are few, had raised."""
    graph = dense(0, (20, 30, 30, 30, 3)).graph
    found = bound(graph, method=Multipliers(seconds=seconds), check=False)
    assert present(found.upper) <= present(bound(graph, method=Product(), check=False).upper)


def test_coefficients_are_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the parts, they are the same."""
    graph = with_slopes(residual())
    at_once = inequality_of(graph)
    monkeypatch.setattr("specnorm_networks.certified.units.COEFFICIENTS_AT_ONCE", 1000)
    np.testing.assert_allclose(inequality_of(graph).matrix, at_once.matrix, rtol=1e-13, atol=1e-13)


def test_as_many_coefficients_are_expected_as_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """All entries and units were counted for every value: a U-Net seemed too large for 2 s, and got the product."""
    network = Written()
    inner = network(ops.ReLU(), convolution(network, 6, "x"))
    kept = network(ops.LeakyReLU(), convolution(network, 3, inner))
    network(ops.Concat(1), "x", network(ops.ReLU(), convolution(network, 2, network(ops.Concat(1), inner, kept))))
    graph = with_slopes(network.graph())
    computed: list[int] = []
    read = units._Reader.read

    def counted(self: units._Reader, node: Node) -> None:
        read(self, node)
        computed.append(self.sums[node.name].matrix.size)

    monkeypatch.setattr(units._Reader, "read", counted)
    inequality_of(graph)
    assert sum(computed) == units.coefficients_of(graph) - network.values["x"].size ** 2


def test_multipliers_at_which_the_form_is_singular_are_left() -> None:
    """Of pairs that are sorted in a ball: the answer was NumPy's error."""
    network = Written((1, 4, 1, 2))
    first, second = network.halves(axis=3)
    larger = network(ops.Maximum(), first, second)
    network(ops.Concat(3), larger, network(ops.Minimum(), second, first))
    network(ops.Abs(), network(ops.Maximum(), *network.halves(of=list(network.values)[-1])))
    centre = np.asarray([0.134, 0.131, 0.245, -0.024, 0.18, 0.261, 0.146, -0.263]).reshape(1, 4, 1, 2)
    for radius in (0.0138, 0.02):
        found = bound(network.graph(), centre=centre, radius=radius, method=Multipliers(steps=3))
        assert 1 <= present(found.upper) <= 1 + 1e-9
