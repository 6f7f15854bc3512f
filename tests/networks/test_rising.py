"""Functions that rise everywhere, such as leaky ReLU: in small networks their slopes are [alpha, 1], unit by unit."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import numpy as np
import pytest
from networks.dense_networks import draw, graph_of, sizes_of
from specnorm_networks import Graph, Layer, Multipliers, Node, bound
from specnorm_networks.certified import operators


def leaky(widths: tuple[int, ...], seed: int, alpha: float) -> tuple[list[Any], Graph]:
    random = np.random.default_rng(seed)
    weights = [random.standard_normal((m, n)) / n**0.5 for n, m in itertools.pairwise(widths)]
    nodes = [Node("v0", operators.Input(), (), (1, widths[0]))]
    for at, weight in enumerate(weights):
        layer = Layer(f"w{at}", partial(np.asarray, weight), {}, 0)
        nodes.append(Node(f"u{at}", operators.Matrix(layer), (nodes[-1].name,), (1, len(weight))))
        if at < len(weights) - 1:
            nodes.append(Node(f"z{at}", operators.LeakyReLU(alpha), (f"u{at}",), (1, len(weight))))
    return weights, Graph(tuple(nodes), (nodes[-1].name,))


@pytest.mark.parametrize("alpha", [0.2, 0.5])
def test_within_1_percent_of_lipsdp_with_both_slopes(alpha: float) -> None:
    pytest.importorskip("clarabel", reason="it solves LipSDP's cone program")
    from lipsdp import lipsdp

    weights, graph = leaky((6, 12, 12, 12, 5), 0, alpha)
    optimum = lipsdp(weights, alpha)
    found = bound(graph).upper
    assert found is not None
    assert optimum * (1 - 1e-6) <= found <= optimum * 1.01
    assert found < 0.96 * lipsdp(weights)  # what slopes from 0 on would give


@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_no_product_of_slopes_is_above(mode: str) -> None:
    """Zero-padded and other convolutions at their size: dense matrices, slopes at random, 1 or alpha."""
    for seed in (0, 1, 2):
        chain = draw(seed, functions=("leaky",), mode=mode, plain=True)
        sizes = sizes_of(chain, (5,))
        found = bound(graph_of(chain, (5,)), method=Multipliers(steps=6)).upper
        assert found is not None
        random, best = np.random.default_rng(seed), 0.0
        for share in np.linspace(0, 1, 60):
            whole = np.eye(chain[0].cin * 5)
            for conv, size in zip(chain, sizes, strict=False):
                whole = conv.matrix(size) @ whole
                if conv.function is not None:
                    whole *= random.choice([1.0, 0.2], size=(len(whole), 1), p=[share, 1 - share])
            best = max(best, float(np.linalg.norm(whole, 2)))
        assert best <= found
