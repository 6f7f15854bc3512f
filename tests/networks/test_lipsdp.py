"""On small fully connected networks the multipliers come within 1 % of LipSDP's optimum, found by a cone solver."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest

pytest.importorskip("clarabel", reason="it solves LipSDP's cone program, with SciPy's LAPACK")
from lipsdp import lipsdp
from numpy.typing import NDArray
from specnorm_networks import Graph, Layer, Node, bound
from specnorm_networks.certified import operators

NETWORKS = [(5, 20, 12, 1), (8, 10, 20, 8), (4, 15, 3), (5, 8, 8, 8, 8, 3), (4, 6, 6, 6, 6, 6, 6, 6, 6, 2)]


def matrices(widths: tuple[int, ...], seed: int) -> list[NDArray[np.float64]]:
    random = np.random.RandomState(seed)
    return [random.standard_normal((m, n)) / n**0.5 for n, m in itertools.pairwise(widths)]


def graph_of(weights: list[NDArray[np.float64]]) -> Graph:
    """Matrices with a ReLU between two of them."""
    nodes = [Node("v0", operators.Input(), (), (1, weights[0].shape[1]))]
    for at, weight in enumerate(weights):
        layer = Layer(f"w{at}", functools.partial(np.asarray, weight), {}, 0)
        nodes.append(Node(f"u{at}", operators.Matrix(layer), (nodes[-1].name,), (1, len(weight))))
        if at < len(weights) - 1:
            nodes.append(Node(f"z{at}", operators.ReLU(), (f"u{at}",), (1, len(weight))))
    return Graph(tuple(nodes), (nodes[-1].name,))


@pytest.mark.parametrize("widths", NETWORKS, ids=str)
def test_within_1_percent_of_lipsdp(widths: tuple[int, ...]) -> None:
    weights = matrices(widths, sum(widths))
    optimum = lipsdp(weights)
    found = bound(graph_of(weights))
    assert found.upper is not None
    assert found.product is not None
    assert found.product > 1.05 * optimum  # there is something to find
    # Nothing is below the optimum but by the solver's tolerance.
    assert optimum * (1 - 1e-6) <= found.upper <= optimum * 1.01


@pytest.mark.parametrize("seed", range(2))
def test_the_solver_finds_what_is_known(seed: int) -> None:
    """One unit in the middle: LipSDP is exact, |w_2| |w_1|. Only matrices: at most their norms' product."""
    first, second = matrices((5, 1, 4), seed)
    assert lipsdp([first, second]) == pytest.approx(np.linalg.norm(first) * np.linalg.norm(second), rel=1e-6)
    a, b = matrices((4, 6, 3), seed)
    assert np.linalg.norm(b @ a, 2) / 2 < lipsdp([a, b]) <= np.linalg.norm(a, 2) * np.linalg.norm(b, 2) * (1 + 1e-6)
