"""Sums, concatenation and strided shortcuts, bounded together: the dense inequality, masks, and dropped terms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from networks.dense_sums import NETWORKS, Network, from_below, residual, smallest_eigenvalue
from specnorm_networks import Graph, Measure, Multipliers, Product, Scaled, bound, descent
from specnorm_networks.certified import operators, reading, segments
from specnorm_networks.certified.reading import keeps_channels

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


def test_gradient_is_that_of_differences() -> None:
    for kind in ("residual, curved", "concatenated", "downsampled"):
        (run, *_) = reading.runs(NETWORKS[kind](1)[1])
        grid = descent.stages(run, segments.segments(run), 4)
        numbers = np.random.default_rng(0)
        ends = np.cumsum([link.width for link in run.links[:-1]])
        point, way = numbers.normal(size=(2, ends[-1] + len(ends)))

        def value(x: Any, grid: Any = grid, ends: Any = ends) -> tuple[float, Any]:
            for stage in grid:
                stage.vectors = None
            *logs, logits = np.split(x, ends)
            found, _, of_logs, of_logits = descent.value_and_gradient(grid, logs, logits)
            return found, np.concatenate([*of_logs, of_logits])

        step = 1e-6
        difference = (value(point + step * way)[0] - value(point - step * way)[0]) / (2 * step)
        assert value(point)[1] @ way == pytest.approx(difference, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_two_sides_of_a_kernel(seed: int) -> None:
    """K between two sets of rows, mixed: its eigenvalues are the singular values of T; a triangle has no sides."""
    numbers = np.random.default_rng(seed)
    t, mixed = numbers.normal(size=(4, 3, 3)), numbers.permutation(8)
    k = np.zeros((8, 8, 3))  # one row is joined to none
    k[:4, 4:7], k[4:7, :4] = t, np.flip(t.swapaxes(0, 1), axis=2)
    k = k[np.ix_(mixed, mixed)]
    sides = segments.two_sides(k)
    assert sides is not None
    assert sorted([*sides[0], *sides[1]]) == list(range(8))
    turns = np.exp(1j * np.outer(np.linspace(0, 3, 7), np.arange(-1, 2)))
    for turn in turns:
        largest = np.linalg.eigvalsh(k @ turn)[-1]
        assert np.linalg.norm(k[np.ix_(*sides)] @ turn, 2) == pytest.approx(largest, rel=1e-12)
    for triangle in ([(0, 1), (1, 2), (2, 0)], [(3, 3)]):
        other = np.zeros((5, 5, 1))
        for a, b in triangle:
            other[a, b] = other[b, a] = 1e-300
        assert segments.two_sides(other) is None


def test_sums_of_two_sides_are_proven_by_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """A skip past three layers; past two it is a triangle."""
    proven: list[int] = []
    given = Measure.of_kernel

    def of_kernel(self: Measure, kernel: Any, rtol: float) -> Any:
        proven.append(len(kernel))
        return given(self, kernel, rtol)

    monkeypatch.setattr(Measure, "of_kernel", of_kernel)
    for inner in (1, 2):
        net = Network(3, 2, (6,))
        here = "x"
        for _ in range(inner):
            here = net.function(net.conv(here, 3, 3, scale=0.6), "relu")
        graph = net.graph(net.add("x", net.conv(here, 2, 3, scale=0.6)))
        proven.clear()
        found = bound(graph, method=Multipliers(steps=20)).upper
        used = set(proven)
        with monkeypatch.context() as patch:
            patch.setattr(segments, "two_sides", lambda _: None)
            other = bound(graph, method=Multipliers(steps=20)).upper
        assert found is not None
        assert other is not None
        assert from_below(net, 0) <= found == pytest.approx(other, rel=2e-3)
        whole = 2 + 3 * inner + 2
        assert used == ({whole} if inner == 1 else {whole // 2 + whole % 2})


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


@pytest.mark.parametrize("changed", [{"operator": operators.Maximum()}, {"shape": None}], ids=["maximum", "any shape"])
def test_what_may_be_no_sum_is_not_believed(changed: dict[str, Any]) -> None:
    """Of values whose sum may have another shape the triangle inequality is left, of their maximum its own rule."""
    net, graph = residual(0)
    nodes = tuple(replace(n, **changed) if isinstance(n.operator, operators.Add) else n for n in graph.nodes)
    assert all(len(link.sources) == 1 for run in reading.runs(Graph(nodes, graph.outputs)) for link in run.links)
    assert any(len(link.sources) > 1 for run in reading.runs(graph) for link in run.links)
    assert net.names


def test_what_mixes_channels_is_not_taken_up() -> None:
    """Windows over all axes but the samples', means over channels, resizing of the channels' axis to its own size."""
    windows = operators.Windows((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)))
    scales = Fraction(1), Fraction(5, 4), Fraction(1), Fraction(1)
    resize = operators.Resize("nearest", None, scales, "asymmetric")
    for shape, operator in [
        ((1, 4, 4), operators.MaxPool(windows)), ((1, 4, 4), operators.AveragePool(windows)),
        ((1, 4, 4), operators.AdaptiveMaxPool((4, 4))), ((1, 4, 4), operators.Mean((1,), True)),
        ((1, 3, 4, 4), resize), ((1, 4, 4), operators.Softmax((1,))), ((4, 4), operators.MaxPool(windows)),
    ]:  # fmt: skip
        assert not keeps_channels(operator, shape, shape)
    assert keeps_channels(operators.MaxPool(windows), (1, 4, 4, 4), (1, 4, 4, 4))
    assert keeps_channels(operators.Mean((2, 3)), (1, 4, 4, 4), (1, 4))


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
