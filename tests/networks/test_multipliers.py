"""A network's constant by multipliers: the dense inequality, in balls too; masks from below; dropped terms.

What a wrong proof would let through is refused: a multiplier that was changed after the proof, LipSDP's half forgotten,
the order of taps, a leaf, a place, a sign, a phase of a stride.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from checks import present
from networks.dense_networks import FUNCTIONS, NETWORKS, Network, draw, from_below, network_of, smallest_eigenvalue
from specnorm_networks import Multipliers, Product, Scaled
from specnorm_networks.certified import links, runs, segments
from specnorm_networks.descent import gradient
from specnorm_networks.descent.stages import Stage, top_eigenvector
from specnorm_networks.tools import Measure, bound

MEASURE = Measure(1e-4)
CHAINS: dict[str, dict[str, Any]] = {
    "zeros": {"plain": True},
    "geometry": {"layers": 4},
    "strided": {"plain": True, "first": 2},
    "wrapped": {"mode": "circular"},
    "planes": {"axes": 2, "layers": 3},
    "slopes": {"plain": True, "functions": tuple(FUNCTIONS), "layers": 4},
    "slopes, wrapped": {"functions": ("gelu", "abs", "prelu"), "mode": "circular", "layers": 4},
}
Changed = Callable[[list[Any]], list[Any]]


def chains(kind: str) -> Iterator[Network]:
    """Without end."""
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


def parts(net: Network, steps: int = 6) -> Iterator[tuple[list[int], list[int], list[Any], float]]:
    """Values' numbers, depths, multipliers of entries, and what was proven, of each part."""
    number = {name: at for at, name in enumerate(net.names)}
    for run in runs.runs(net.graph):
        cuts = segments.segments(run)
        weights = present(Multipliers(steps=steps).weights(run, cuts))
        values = [np.ones(run.width), *weights]
        ends = [run.start, *(link.end for link in run.links)]
        for first, last in cuts:
            part = run.part(first, last)
            constant = float(segments.constant_of_part(part, values[first : last + 1], MEASURE))
            depth = {first: 0}
            for at, link in enumerate(part.links, first + 1):
                depth[at] = 1 + max(depth[source] for source in link.sources)
            order = [number[end] for end in ends[first : last + 1]]
            own = zip(order, values[first : last + 1], strict=True)
            yield order, list(depth.values()), [np.repeat(q, net.count(at) // len(q)) for at, q in own], constant


def slack(case: Network, steps: int = 6) -> Iterator[float]:
    """Smallest eigenvalue of the dense inequality of each part, at its own input size."""
    for order, depths, wide, constant in parts(case, steps):
        power = constant ** (-1 / depths[-1])
        weights = [q * power**depth for q, depth in zip(wide, depths, strict=True)]
        # The last value's weight takes the constant, as the others do.
        yield smallest_eigenvalue(case, order, weights, constant * power ** depths[-1])


def proven(case: Network, changed: Changed = list, steps: int = 6) -> Iterator[bool | None]:
    """The same in ball arithmetic, without a margin; the multipliers changed first."""
    pytest.importorskip("flint", exc_type=ImportError)
    from networks.balls import definite, quadratic_form

    for order, depths, wide, constant in parts(case, steps):
        yield definite(quadratic_form(order, case.sums, case.slopes, depths, changed(wide), constant))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", [*CHAINS, *NETWORKS])
def test_dense_inequality_holds(kind: str) -> None:
    """P >= 0 at the network's own size, with matrices written out by loops."""
    found = [value for case in cases(kind, 5 if kind in CHAINS else 2) for value in slack(case)]
    assert len(found) >= (3 if kind in CHAINS else 2)
    assert min(found) >= -1e-12


PROVEN = ("zeros", "strided", "slopes", "slopes, wrapped", "residual", "residual, curved", "downsampled", "denoiser")


@pytest.mark.parametrize("kind", PROVEN)
def test_the_inequality_is_proven_in_balls(kind: str) -> None:
    found = [each for case in cases(kind, 2)[kind not in CHAINS :] for each in proven(case)]
    assert found
    assert all(found)


@pytest.mark.parametrize("kind", [*CHAINS, *NETWORKS])
@pytest.mark.sampled("geometry")
def test_whole_network_is_bounded(kind: str) -> None:
    """Products with masks stay below every method's bound, and no method is above the product."""
    gained = []
    for seed, net in enumerate(cases(kind, 3 if kind in CHAINS else 2)):
        reached = from_below(net, seed)
        ways: list[Any] = [Product(), Scaled(steps=8), Multipliers(steps=8)]
        found: list[Any] = [bound(net.graph, method=way) for way in ways]
        product, scaled, joint = found
        assert reached * (1 - 1e-12) <= min(scaled.upper, joint.upper)
        assert max(scaled.upper, joint.upper) <= product.upper == joint.product
        gained.append(product.upper / joint.upper)
        if kind == "linear":  # the rules have the norm of what is linear between two values themselves
            assert product.upper <= reached * (1 + 1e-3)
    assert max(gained) > 1.2 or kind == "linear"


@pytest.mark.parametrize("scales", [(0.0, 0.5), (0.5, 0.0)])
def test_a_block_of_zeros_is_no_obstacle(scales: tuple[float, float]) -> None:
    """Blocks begin at zero in many trainings; the layers around them are still bounded together."""
    net = Network(0, (2, 5))
    u = net.conv("x", 3, 3)
    z = net.function(net.conv(u, 3, 3, scale=scales[0]), "gelu")
    z = net.function(net.add(u, net.conv(z, 3, 3, scale=scales[1])), "relu")
    found: Any = bound(net.ending(net.conv(z, 2, 3)).graph, method=Multipliers(steps=8))
    assert from_below(net, 0) <= found.upper < 0.99 * found.product


# -- what is wrong is refused ------------------------------------------------------------------------------------------
def smaller(weights: list[Any]) -> list[Any]:
    return [weights[0], weights[1] / 3, *weights[2:]]


def one_larger(weights: list[Any]) -> list[Any]:
    """One channel's multiplier of the first value, sixteen times what it was."""
    first = weights[1].copy()
    first[first == first[0]] *= 4
    return [weights[0], first, *weights[2:]]


@pytest.mark.parametrize("change", [smaller, one_larger])
@pytest.mark.parametrize("kind", ["zeros", "residual"])
def test_a_multiplier_that_was_changed_is_refused(kind: str, change: Changed) -> None:
    assert any(each is False for case in cases(kind, 8) for each in proven(case, change, steps=30))


Original = Callable[..., Any]


def forgotten_half(original: Original) -> Original:
    return lambda *slopes: tuple(0.5 * number for number in original(*slopes))


def forgotten_leaf(original: Original) -> Original:
    return lambda *slopes: (original(*slopes)[0], 0 * slopes[0])


def changed_term(change: Callable[[Any, Any, Any], Any]) -> Callable[[Original], Original]:
    """Of a term of a sum its kernel and place, by its term, kernel and place."""

    def mutation(original: Original) -> Original:
        return lambda term, axes, **options: change(term, *original(term, axes, **options))

    return mutation


def tap_moved(term: Any, kernel: Any, place: Any) -> Any:
    return (np.flip(kernel, axis=2) if term.filter.layer.name == "w1" else kernel), place


def place_moved(term: Any, kernel: Any, place: Any) -> Any:
    return kernel, tuple(p + 1 for p in place) if term.filter is None else place


def without_signs(term: Any, kernel: Any, place: Any) -> Any:
    return (kernel if term.filter is not None else abs(kernel)) * np.sign(term.alpha), place


def one_phase_dropped(original: Original) -> Original:
    def dropped(kernel: Any, start: Any, stride: Any) -> Any:
        whole, place = original(kernel, start, stride)
        if max(stride) > 1:
            whole = whole.copy()
            whole[:, 1::2] = 0
        return whole, place

    return dropped


def a_tap_too_early(original: Original) -> Original:
    return lambda kernel, start, stride: original(kernel, tuple(0 for _ in start), stride)


@pytest.mark.parametrize(
    ("kind", "place", "name", "mutation"),
    [
        ("zeros", segments, "middle", forgotten_half),
        ("slopes, wrapped", segments, "middle", forgotten_leaf),
        ("zeros", links.Term, "dense", changed_term(tap_moved)),
        ("strided", links, "split_into_phases", one_phase_dropped),
        ("linear", links.Term, "dense", changed_term(place_moved)),
        ("downsampled", links, "split_into_phases", a_tap_too_early),
        ("bottleneck", links.Term, "dense", changed_term(without_signs)),
    ],
)
def test_a_dropped_term_is_noticed(
    kind: str,
    place: Any,
    name: str,
    mutation: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = cases(kind, 8)
    monkeypatch.setattr(place, name, mutation(getattr(place, name)))
    assert any(value < -1e-9 for case in drawn for value in slack(case, steps=30))


def test_the_largest_eigenvalue_of_a_wide_matrix() -> None:
    """By Lanczos steps, beside all eigenvalues: of one that stands out, and of a cluster."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((300, 300)))[0]
    for values in (np.linspace(0, 1, 300), np.append(np.linspace(0, 1, 290), np.full(10, 1.0001))):
        found, vector = top_eigenvector((turn * values) @ turn.T, rng.standard_normal(300))
        assert abs(found - values.max()) < 1e-5
        assert np.linalg.norm((turn * values) @ (turn.T @ vector) - found * vector) < 2e-5


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
def test_a_norm_by_the_inverse_is_that_of_the_matrix(monkeypatch: pytest.MonkeyPatch, widths: Any) -> None:
    """Values, gradients and vectors, whichever takes fewer multiplications; it is what most of a search's time was."""
    rng = np.random.default_rng(1)
    point = np.concatenate([0.3 * rng.standard_normal(widths[1]), [0.4]])
    found = []
    for by_inverse in (False, True):
        monkeypatch.setattr(gradient, "_is_norm_alone", lambda stage, chosen=by_inverse: chosen and stage.cut)
        run = two_stages(7, widths)
        value, logs, logits = gradient.value_and_gradient(run, point)
        found.append(np.concatenate([[value], *logs, logits]))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-9, atol=1e-9)
    run, step, direction = two_stages(7, widths), 1e-5, rng.standard_normal(len(point))
    ends = [gradient.value_alone(run, point + sign * step * direction)[0] for sign in (1, -1)]
    assert found[1][1:] @ direction == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4)


def test_the_inverse_is_taken_where_it_costs_less() -> None:
    first, last = two_stages(2, (4, 6, 9))
    assert not gradient._is_norm_alone(first)
    assert gradient._is_norm_alone(last)
    assert not gradient._is_norm_alone(two_stages(2, (4, 60, 2))[1])
