"""Multipliers that the library found and proved, against the dense inequality in ball arithmetic: proven, no margin.

What a wrong proof would let through is refused there: a multiplier that was changed after the proof, LipSDP's half
forgotten, the taps of a layer in reverse, a phase of a stride dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flint", exc_type=ImportError)
from networks.balls import definite, quadratic_form
from networks.dense_networks import Conv, graph_of, sizes_of
from networks.dense_sums import NETWORKS, Network
from networks.test_multipliers import chains, forgotten_half, one_phase_dropped, one_tap_moved
from specnorm_networks import Graph, Measure, Multipliers
from specnorm_networks.certified import reading, segments

MEASURE = Measure(1e-4)
Changed = Callable[[list[Any]], list[Any]]


def forms(
    graph: Graph, names: Sequence[str], sums: Sequence[Any], slopes: Sequence[Any], sizes: Sequence[int],
    changed: Changed = list, steps: int = 6,
) -> Iterator[Any]:  # fmt: skip
    """The inequality of each part of more than one link, with the multipliers and the constant that were proven."""
    number = {name: at for at, name in enumerate(names)}
    for run in reading.runs(graph):
        parts = segments.segments(run)
        weights = Multipliers(steps=steps).weights(run, parts)
        assert weights is not None
        values = [np.ones(run.width), *weights]
        ends = [run.start, *(link.end for link in run.links)]
        for first, last in parts:
            if last - first < 2:
                continue
            part = run.part(first, last)
            constant = float(segments.constant_of_part(part, values[first : last + 1], MEASURE))
            depth = {first: 0}
            for at, link in enumerate(part.links, first + 1):
                depth[at] = 1 + max(depth[source] for source in link.sources)
            order = [number[ends[at]] for at in range(first, last + 1)]
            wide = [np.repeat(values[at], sizes[number[ends[at]]] // len(values[at])) for at in range(first, last + 1)]
            yield quadratic_form(
                order, sums, slopes, [depth[at] for at in range(first, last + 1)], changed(wide), constant
            )


def of_chain(chain: Sequence[Conv], n: tuple[int, ...], **options: Any) -> Iterator[Any]:
    """A chain of layers."""
    sizes, graph = sizes_of(chain, n), graph_of(chain, n)
    ends = [link.end for run in reading.runs(graph) for link in run.links]
    assert len(ends) == len(chain)
    sums = [{}, *({at: conv.matrix(sizes[at])} for at, conv in enumerate(chain))]
    slopes = [(1.0, 1.0), *(conv.slopes for conv in chain)]
    channels = [chain[0].cin, *(conv.cout for conv in chain)]
    whole = [c * int(np.prod(size)) for c, size in zip(channels, sizes, strict=True)]
    return forms(graph, ["x", *ends], sums, slopes, whole, **options)


def of_sums(net: Network, graph: Graph, **options: Any) -> Iterator[Any]:
    """A network with sums."""
    whole = [int(np.prod(net.shapes[name])) for name in net.names]
    return forms(graph, net.names, net.sums, net.slopes, whole, **options)


@pytest.mark.parametrize("kind", ["zeros", "strided", "slopes", "slopes circular"])
def test_the_inequality_of_chains_is_proven(kind: str) -> None:
    found = [definite(form) for chain, n in chains(kind, 2) for form in of_chain(chain, n)]
    assert found
    assert all(found)


@pytest.mark.parametrize("kind", ["residual", "residual, curved", "downsampled", "denoiser", "concatenated"])
def test_the_inequality_of_sums_is_proven(kind: str) -> None:
    found = [definite(form) for form in of_sums(*NETWORKS[kind](1))]
    assert found
    assert all(found)


def a_third(at: int) -> Changed:
    return lambda weights: [w / 3 if i == at else w for i, w in enumerate(weights)]


def one_more(weights: list[Any]) -> list[Any]:
    """One channel's multiplier of the first value, sixteen times what it was."""
    first = weights[1].copy()
    first[first == first[0]] *= 4
    return [weights[0], first, *weights[2:]]


@pytest.mark.parametrize("change", [a_third(1), one_more], ids=["smaller", "larger"])
def test_a_multiplier_that_was_changed_is_refused(change: Changed) -> None:
    """Of a chain and of a residual network."""
    cases = chains("zeros", 8)
    assert any(definite(form) is False for case in cases for form in of_chain(*case, changed=change, steps=30))
    assert False in [definite(form) for form in of_sums(*NETWORKS["residual"](1), changed=change, steps=30)]


@pytest.mark.parametrize(
    ("kind", "place", "name", "mutation"),
    [
        ("zeros", segments, "middle", forgotten_half),
        ("zeros", reading.Term, "dense", one_tap_moved),
        ("strided", reading, "phased", one_phase_dropped),
    ],
    ids=["half", "tap", "alias"],
)
def test_a_wrong_proof_is_refused(
    kind: str, place: Any, name: str, mutation: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = chains(kind, 8)
    monkeypatch.setattr(place, name, mutation(getattr(place, name)))
    assert any(definite(form) is False for chain, n in cases for form in of_chain(chain, n, steps=30))
