"""A network's constant by multipliers against the dense inequality, and against masks and ascent from below.

Each dropped term of the proof (a half, the order of taps, a leaf, a phase, the rounding) is noticed here.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from networks.dense_networks import FUNCTIONS, Conv, draw, from_below, graph_of, sizes_of, smallest_eigenvalue
from specnorm_networks import Measure, Multipliers, Product, Scaled, bound
from specnorm_networks.certified import reading, segments

MEASURE = Measure(1e-4)
KINDS: dict[str, dict[str, Any]] = {
    "zeros": {"plain": True},
    "geometry": {"layers": 4},
    "strided": {"plain": True, "first": 2},
    "circular": {"mode": "circular"},
    "two axes": {"axes": 2, "layers": 3},
    "slopes": {"plain": True, "functions": tuple(FUNCTIONS), "layers": 4},
    "slopes circular": {"functions": ("gelu", "abs", "prelu"), "mode": "circular", "layers": 4},
}


def chains(kind: str, count: int) -> list[tuple[list[Conv], tuple[int, ...]]]:
    """Networks and input sizes."""
    found: list[tuple[list[Conv], tuple[int, ...]]] = []
    seeds = itertools.count()
    while len(found) < count:
        seed = next(seeds)
        chain = draw(seed, **KINDS[kind])
        n = tuple(3 + (seed + axis) % 4 for axis in range(chain[0].axes))
        with contextlib.suppress(ValueError):  # nothing is left of an axis
            if max(map(np.prod, sizes_of(chain, n))) <= 40:
                found.append((chain, n))
    return found


def slack(chain: Sequence[Conv], n: tuple[int, ...], measure: Measure = MEASURE, steps: int = 6) -> list[float]:
    """Smallest eigenvalue of the dense inequality of each part of more than one link, at its own input size."""
    graph = graph_of(chain, n)
    found = []
    for run in reading.runs(graph):
        parts = segments.segments(run)
        weights = Multipliers(steps=steps).weights(run, parts)
        assert weights is not None
        values = [np.ones(chain[0].cin), *weights]
        # Links are the chain's layers.
        assert [name for link in run.links for name in link.names] == [f"w{at}" for at in range(len(chain))]
        sizes = sizes_of(chain, n)
        for first, last in parts:
            if last - first < 2:
                continue
            constant = float(segments.constant_of_part(run.part(first, last), values[first : last + 1], measure))
            s = constant ** (1 / (last - first))
            matrices = [chain[at].matrix(sizes[at]) for at in range(first, last)]
            wide = [
                np.repeat(values[at], int(np.prod(sizes[at]))) * s ** -(at - first) for at in range(first, last + 1)
            ]
            # The last value's weight takes the constant, s^l.
            slopes = [chain[at].slopes for at in range(first, last)]
            steep = max(map(abs, slopes[-1]))
            matrices[-1] = steep * matrices[-1]
            found.append(smallest_eigenvalue(matrices, slopes, wide, constant * s ** -(last - first)))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_dense_inequality_holds(kind: str) -> None:
    """P >= 0 at the layers' own sizes, with matrices written out by loops; nowhere much looser than it must be."""
    found = [value for chain, n in chains(kind, 8) for value in slack(chain, n)]
    assert len(found) >= 5
    assert min(found) >= -1e-12


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.sampled("geometry", "slopes circular")
def test_whole_network_is_bounded(kind: str) -> None:
    """Products with masks stay below every method's bound, and no method is above the product."""
    gained = []
    for seed, (chain, n) in enumerate(chains(kind, 3)):
        sizes = sizes_of(chain, n)
        matrices = [conv.matrix(size) for conv, size in zip(chain, sizes, strict=False)]
        reached = from_below(matrices, [conv.slopes for conv in chain], seed)
        product, scaled, joint = (
            bound(graph_of(chain, n), method=method) for method in (Product(), Scaled(steps=8), Multipliers(steps=8))
        )
        assert product.upper is not None
        assert scaled.upper is not None
        assert joint.upper is not None
        assert reached * (1 - 1e-12) <= min(scaled.upper, joint.upper)
        assert max(scaled.upper, joint.upper) <= product.upper == joint.product
        gained.append(product.upper / joint.upper)
    assert max(gained) > 1.2


# -- dropped terms -------------------------------------------------------------------------------------------------
def forgotten_half(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *slopes: tuple(0.5 * number for number in original(*slopes))


def forgotten_leaf(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *slopes: (original(*slopes)[0], 0 * slopes[0])


def one_tap_moved(original: Callable[..., Any]) -> Callable[..., Any]:
    def moved(term: Any, axes: int, **options: Any) -> Any:
        kernel, place = original(term, axes, **options)
        return (np.flip(kernel, axis=2) if term.filter.layer.name == "w1" else kernel), place

    return moved


def one_phase_dropped(original: Callable[..., Any]) -> Callable[..., Any]:
    def dropped(kernel: Any, start: Any, stride: Any) -> Any:
        whole, place = original(kernel, start, stride)
        if max(stride) > 1:
            whole = whole.copy()
            whole[:, 1::2] = 0
        return whole, place

    return dropped


@pytest.mark.parametrize(
    ("kind", "place", "name", "mutation"),
    [
        ("zeros", segments, "middle", forgotten_half),
        ("slopes circular", segments, "middle", forgotten_leaf),
        ("zeros", reading.Term, "dense", one_tap_moved),
        ("strided", reading, "phased", one_phase_dropped),
    ],
)
def test_a_dropped_term_is_noticed(
    kind: str, place: Any, name: str, mutation: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = chains(kind, 8)
    monkeypatch.setattr(place, name, mutation(getattr(place, name)))
    assert any(value < -1e-9 for chain, n in cases for value in slack(chain, n, steps=30))
