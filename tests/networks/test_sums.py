"""Sums, concatenation and strided shortcuts, bounded together: the dense inequality, masks, and dropped terms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from networks.dense_sums import NETWORKS, Network, from_below, smallest_eigenvalue
from specnorm_networks import Graph, Measure, Multipliers, Product, Scaled, bound
from specnorm_networks.certified import reading, segments

MEASURE = Measure(1e-4)


def slack(net: Network, graph: Graph, steps: int = 6) -> list[float]:
    """Smallest eigenvalue of the dense inequality of each part with more than one link, at its own input size."""
    found = []
    number = {name: at for at, name in enumerate(net.names)}
    for run in reading.runs(graph):
        parts = segments.segments(run)
        weights = Multipliers(steps=steps).weights(run, parts)
        assert weights is not None
        values = [np.ones(run.width), *weights]
        names = [run.start, *(link.end for link in run.links)]
        for first, last in parts:
            part = run.part(first, last)
            constant = float(segments.constant_of_part(part, values[first : last + 1], MEASURE))
            depth = {first: 0}
            for at, link in enumerate(part.links, first + 1):
                depth[at] = 1 + max(depth[source] for source in link.sources)
            power = constant ** (-1 / depth[last])
            order = [number[names[at]] for at in range(first, last + 1)]
            wide = []
            for at in range(first, last + 1):
                channels = values[at] * power ** depth[at]
                wide.append(np.repeat(channels, np.prod(net.shapes[names[at]]) // len(channels)))
            # The last value's weight takes the constant, as the others do.
            found.append(smallest_eigenvalue(net, order, wide, constant * power ** depth[last]))
    return found


@pytest.mark.parametrize("kind", NETWORKS)
def test_dense_inequality_holds(kind: str) -> None:
    """P >= 0 at the network's own size, with matrices written out by loops."""
    found = [value for seed in range(3) for value in slack(*NETWORKS[kind](seed))]
    assert len(found) >= 3
    assert min(found) >= -1e-12


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.nightly
def test_whole_network_is_bounded(kind: str) -> None:
    """Masks stay below every method's bound, which is never above the rules'."""
    gained = []
    for seed in range(2):
        net, graph = NETWORKS[kind](seed)
        reached = from_below(net, seed)
        product, scaled, joint = (
            bound(graph, method=method) for method in (Product(), Scaled(steps=8), Multipliers(steps=8))
        )
        assert product.upper is not None
        assert scaled.upper is not None
        assert joint.upper is not None
        assert reached * (1 - 1e-12) <= min(scaled.upper, joint.upper)
        assert max(scaled.upper, joint.upper) <= product.upper == joint.product
        gained.append(product.upper / joint.upper)
        if kind == "linear":  # the rules have the norm of what is linear between two values themselves
            assert product.upper <= reached * (1 + 1e-3)
    assert max(gained) > 1.2 or kind == "linear"


@pytest.mark.parametrize("scales", [(0.0, 0.5), (0.5, 0.0)])
def test_a_block_of_zeros_is_no_obstacle(scales: tuple[float, float]) -> None:
    """Blocks begin at zero in many trainings; the layers around them are still bounded together."""
    net = Network(0, 2, (5,))
    u = net.conv("x", 3, 3)
    z = net.function(net.conv(u, 3, 3, scale=scales[0]), "gelu")
    z = net.function(net.add(u, net.conv(z, 3, 3, scale=scales[1])), "relu")
    found = bound(net.graph(net.conv(z, 2, 3)), method=Multipliers(steps=8))
    assert found.upper is not None
    assert found.product is not None
    assert from_below(net, 0) <= found.upper < 0.99 * found.product


# -- dropped terms -------------------------------------------------------------------------------------------------
def a_place_moved(original: Callable[..., Any]) -> Callable[..., Any]:
    def moved(term: Any, axes: int, **options: Any) -> Any:
        kernel, place = original(term, axes, **options)
        return kernel, tuple(p + 1 for p in place) if term.filter is None else place

    return moved


def a_tap_too_early(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda kernel, start, stride: original(kernel, tuple(0 for _ in start), stride)


def without_signs(original: Callable[..., Any]) -> Callable[..., Any]:
    def unsigned(term: Any, axes: int, **options: Any) -> Any:
        kernel, place = original(term, axes, **options)
        return (kernel if term.filter is not None else abs(kernel)) * np.sign(term.alpha), place

    return unsigned


@pytest.mark.parametrize(
    ("kind", "place", "name", "mutation"),
    [
        ("linear", reading.Term, "dense", a_place_moved),
        ("downsampled", reading, "phased", a_tap_too_early),
        ("bottleneck", reading.Term, "dense", without_signs),
    ],
)
def test_a_dropped_term_is_noticed(
    kind: str, place: Any, name: str, mutation: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [NETWORKS[kind](seed) for seed in range(8)]
    monkeypatch.setattr(place, name, mutation(getattr(place, name)))
    assert any(value < -1e-9 for net, graph in cases for value in slack(net, graph, steps=20))
