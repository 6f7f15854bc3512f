"""Constants by multipliers: LipSDP's inequality holds for dense matrices, and no bound is below products with masks."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from networks.dense_networks import FUNCTIONS, NETWORKS, Network, draw, from_below, network_of, smallest_eigenvalue
from networks.test_ablations import SMALL, half_of_the_channels
from networks.written_networks import Written
from specnorm_networks import Multipliers, Product
from specnorm_networks.certified import parts, runs
from specnorm_networks.descent import gradient
from specnorm_networks.descent.stages import Stage, top_eigenvector
from specnorm_networks.tools import Measure, bound

from specnorm.proof import Clock

MEASURE = Measure(1e-4)
CHAINS: dict[str, dict[str, Any]] = {
    "zeros": {"plain": True}, "geometry": {"layers": 4}, "strided": {"plain": True, "first": 2},
    "wrapped": {"mode": "circular"}, "planes": {"axes": 2, "layers": 3},
    "slopes": {"plain": True, "functions": tuple(FUNCTIONS), "layers": 4},
    "slopes, wrapped": {"functions": ("gelu", "abs", "prelu"), "mode": "circular", "layers": 4},
}  # fmt: skip


def chains(kind: str) -> Iterator[Network]:
    for seed in itertools.count():
        chain = draw(seed, **CHAINS[kind])
        n = tuple(3 + (seed + axis) % 4 for axis in range(chain[0].axes))
        with contextlib.suppress(ValueError):  # nothing is left of an axis
            net = network_of(chain, n)
            if max(math.prod(shape[1:]) for shape in net.shapes.values()) <= 40:
                ends = [link.end for run in runs.runs(net.graph) for link in run.links]
                assert ends == net.names[1:]  # links are the chain's layers
                yield net


def cases(kind: str, count: int) -> list[Network]:
    if kind in CHAINS:
        return list(itertools.islice(chains(kind), count))
    return [NETWORKS[kind](seed) for seed in range(count)]


class ProvenPart(NamedTuple):
    """A part of a run, written out for the dense inequality."""

    values: list[int]
    """Numbers of the network's values from the first to the last of the part."""
    depths: list[int]
    """Number of links on the longest path to each value."""
    weights: list[Any]
    """Weights of the entries of each value."""
    constant: float
    """The proven constant."""


def proven_parts(net: Network, steps: int = 6) -> Iterator[ProvenPart]:
    """Search weights for a network and prove the constant of each part."""
    number = {name: at for at, name in enumerate(net.names)}
    for run in runs.runs(net.graph):
        cuts = parts.cut_into_parts(run)
        weights = Multipliers(steps=steps).search(run, cuts, 1.0, Clock())[0]
        values = [np.ones(run.width), *weights]
        ends = [run.start, *(link.end for link in run.links)]
        for first, last in cuts:
            part = run.part(first, last)
            constant = float(parts.constant_of_part(part, values[first : last + 1], MEASURE))
            depth = {0: 0}
            for at, link in enumerate(part.links, 1):
                depth[at] = 1 + max(depth[source] for source in link.sources)
            order = [number[end] for end in ends[first : last + 1]]
            weights_of_entries = []
            for at, weights_of_channels in zip(order, values[first : last + 1], strict=True):
                channels, *size = net.shapes[net.names[at]]
                if channels == len(weights_of_channels):
                    weights_of_entries.append(np.repeat(weights_of_channels, math.prod(size)))
                else:  # one number for each phase of the pixels of the one axis
                    phases = weights_of_channels.reshape(channels, -1)
                    weights_of_entries.append(phases[:, np.arange(*size) % phases.shape[1]].reshape(-1))
            yield ProvenPart(order, list(depth.values()), weights_of_entries, constant)


def smallest_eigenvalues(case: Network, steps: int = 6) -> Iterator[float]:
    """Yield the smallest eigenvalue of the dense inequality of each part, at its own input size."""
    for part in proven_parts(case, steps):
        power = part.constant ** (-1 / part.depths[-1])
        weights = [q * power**depth for q, depth in zip(part.weights, part.depths, strict=True)]
        # The last value's weight takes the constant, as the others do.
        yield smallest_eigenvalue(case, part.values, weights, part.constant * power ** part.depths[-1])


def violated(kind: str) -> Iterator[str]:
    """The inequality of networks whose multipliers are searched for so long that it is nearly an equality."""
    for case in cases(kind, 8):
        yield from (f"{value}" for value in smallest_eigenvalues(case, steps=30) if value < -1e-9)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", [*CHAINS, *NETWORKS])
def test_dense_inequality_holds(kind: str) -> None:
    """P is positive semidefinite at the network's own size, with matrices written out by loops."""
    eigenvalues: list[float] = []
    for case in cases(kind, 5 if kind in CHAINS else 2):
        eigenvalues += smallest_eigenvalues(case)
    assert len(eigenvalues) >= (3 if kind in CHAINS else 2), "too few parts to say anything"
    assert min(eigenvalues) >= -1e-12, "a proven constant does not satisfy LipSDP's inequality"


@pytest.mark.parametrize("kind", [*CHAINS, *NETWORKS])
@pytest.mark.sampled("geometry")
def test_whole_network_is_bounded(kind: str) -> None:
    """Products with masks stay below every method's bound, and no method is above the product."""
    gains = []
    for seed, net in enumerate(cases(kind, 3 if kind in CHAINS else 2)):
        reached = from_below(net, seed)
        product: Any = bound(net.graph, method=Product())
        apart: Any = bound(net.graph, method=Multipliers(steps=8, widest=0))
        joint: Any = bound(net.graph, method=Multipliers(steps=8))
        assert reached * (1 - 1e-12) <= min(apart.upper, joint.upper), "a bound is below a product with masks"
        assert max(apart.upper, joint.upper) <= product.upper == joint.product, "a method is above the product"
        gains.append(product.upper / joint.upper)
        if kind == "linear":  # the rules prove the norm of a linear map between two values themselves
            assert product.upper <= reached * (1 + 1e-3)
    assert max(gains) > 1.2 or kind == "linear", "multipliers gain nothing"


@pytest.mark.parametrize("scales", [(0.0, 0.5), (0.5, 0.0)])
def test_a_block_of_zeros_is_no_obstacle(scales: tuple[float, float]) -> None:
    """Blocks begin at zero in many trainings; the layers around them are bounded together all the same."""
    net = Network(0, (2, 5))
    u = net.conv("x", 3, 3)
    z = net.function(net.conv(u, 3, 3, scale=scales[0]), "gelu")
    z = net.function(net.add(u, net.conv(z, 3, 3, scale=scales[1])), "relu")
    found: Any = bound(net.ending(net.conv(z, 2, 3)).graph, method=Multipliers(steps=8))
    assert from_below(net, 0) <= found.upper < 0.99 * found.product


def test_the_largest_eigenvalue_of_a_wide_matrix() -> None:
    """Lanczos steps find the largest of all eigenvalues, whether it stands out or is in a cluster."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((300, 300)))[0]
    for values in (np.linspace(0, 1, 300), np.append(np.linspace(0, 1, 290), np.full(10, 1.0001))):
        value, vector = top_eigenvector((turn * values) @ turn.T, rng.standard_normal(300))
        assert abs(value - values.max()) < 1e-5
        assert np.linalg.norm((turn * values) @ (turn.T @ vector) - value * vector) < 2e-5


# -- the last link of a part -------------------------------------------------------------------------------------------
def two_stages(count: int, widths: tuple[int, int, int]) -> list[Stage]:
    """Two links at some frequencies, slopes in [0, 1] between them."""
    rng = np.random.default_rng(0)
    first, middle, last = widths
    angles: Any = rng.uniform(-np.pi, np.pi, (count, 1))

    def symbols(m: int, p: int) -> Any:
        return rng.standard_normal((count, m, p)) + 1j * rng.standard_normal((count, m, p))

    def stage(m: int, p: int, starts: bool, cut: bool) -> Stage:
        centre, leaf = np.full(m, 1.0 if cut else 0.5), np.zeros(m)
        return Stage(symbols(m, p), starts, cut, centre, leaf, np.arange(p), np.arange(0), 1, angles)

    return [stage(middle, first, True, False), stage(last, middle, False, True)]


@pytest.mark.parametrize("widths", [(4, 6, 9), (5, 12, 12), (3, 9, 5)])
def test_the_gradient_is_that_of_the_value(widths: Any) -> None:
    rng = np.random.default_rng(1)
    point = np.concatenate([0.3 * rng.standard_normal(widths[1]), [0.4]])
    run, step, direction = two_stages(7, widths), 1e-5, rng.standard_normal(len(point))
    _, logs, logits = gradient.value_and_gradient(run, point)
    ends = [gradient.value_alone(run, point + sign * step * direction)[0] for sign in (1, -1)]
    assert np.concatenate([*logs, logits]) @ direction == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4)


@pytest.mark.parametrize(("first", "second"), [(4.0, 1.0), (1.0, 4.0)])
def test_a_layer_is_divided_by_the_weights_of_the_channels_that_it_reads(first: float, second: float) -> None:
    """It was divided by those of all channels, of which it reads the second half: NumPy's error was raised."""
    net = Written(SMALL)
    (run,) = runs.runs(net.graph(half_of_the_channels(net)))
    alone, weighted = (
        float(parts.constant_of_part(run.part(1, 2), [np.repeat(each, 4), np.ones(4)], MEASURE))
        for each in ([1.0, 1.0], [first, second])
    )
    assert weighted == pytest.approx(alone / second, rel=1e-3)
