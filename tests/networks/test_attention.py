"""Attention on balls, on boxes and behind a normalisation, against Jacobians; elsewhere it has no bound."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from assumptions import interval
from numpy.typing import NDArray

from specnorm.certified.network.operators import attention
from specnorm.networks import Graph, Layer, Node, bound, operators, within

Numbers = NDArray[np.float64]


def softmax(s: Numbers) -> Numbers:
    powers = np.exp(s - s.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def jacobian(x: Numbers, weights: list[Numbers], scale: float) -> float:
    """The norm of the exact Jacobian of softmax(scale x A (x B)^T) x C at x, by its product rule."""
    a, b, c = weights
    (n, dims), out = x.shape, c.shape[1]
    q, k, v = x @ a, x @ b, x @ c
    p = softmax(scale * q @ k.T)
    whole = np.zeros((n, out, n, dims))
    for t in range(n):
        for at in range(dims):
            step = np.zeros((n, dims))
            step[t, at] = 1
            ds = scale * ((step @ a) @ k.T + q @ (step @ b).T)
            dp = p * (ds - (p * ds).sum(axis=1, keepdims=True))
            whole[:, :, t, at] = dp @ v + p @ (step @ c)
    return float(np.linalg.norm(whole.reshape(n * out, n * dims), 2))


def head(n: int, dims: int, width: int, size: float, seed: int) -> tuple[Graph, list[Numbers], float]:
    rng = np.random.default_rng(seed)
    weights = [s * rng.standard_normal((dims, width)) / np.sqrt(dims) for s in (size, size, 1.0)]
    scale = 1 / np.sqrt(width)
    nodes = [Node("x", operators.Input(), (), (1, n, dims))]
    for name, w in zip("qkv", weights, strict=True):
        layer = Layer(name, partial(np.array, w.T), {}, 0)
        nodes.append(Node(name, operators.Matrix(layer), ("x",), (1, n, width)))
    nodes.append(Node("y", operators.Attention(scale), ("q", "k", "v"), (1, n, width)))
    return Graph(tuple(nodes), ("y",)), weights, scale


@pytest.mark.parametrize(
    ("n", "dims", "width", "size", "factor"),
    [(1, 4, 3, 1.0, 1.01), (2, 3, 3, 1.0, 6), (6, 8, 4, 0.5, 6), (8, 6, 4, 2.0, 8), (5, 4, 4, 8.0, 30)],
)
def test_on_balls(n: int, dims: int, width: int, size: float, factor: float) -> None:
    graph, weights, scale = head(n, dims, width, size, n)
    rng = np.random.default_rng(1)
    centre = rng.standard_normal((n, dims))
    assert bound(graph).upper is None or n == 1
    last = 0.0
    for radius in (1e-5, 0.03, 0.3, 2.0):
        found = bound(graph, radius=radius, centre=centre[None], check=radius == 0.3).upper
        assert found is not None
        reached = jacobian(centre, weights, scale)
        assert found <= factor * reached or radius > 1e-5
        for _ in range(6):
            away = rng.standard_normal((n, dims))
            point = centre + radius * rng.uniform() * away / np.linalg.norm(away)
            assert jacobian(point, weights, scale) <= found * (1 + 1e-9)
        assert last <= found * (1 + 1e-6)
        last = found


def test_on_boxes_and_nowhere_else() -> None:
    graph, weights, scale = head(4, 3, 2, 1.5, 0)
    assert "has no constant" in bound(graph).unknown[0].reason
    found = bound(within(graph, -1.0, 1.0)).upper
    assert found is not None
    for x in np.random.default_rng(2).uniform(-1, 1, (100, 4, 3)).round(1):
        assert jacobian(x, weights, scale) <= found * (1 + 1e-9)
        assert jacobian(np.sign(x), weights, scale) <= found * (1 + 1e-9)


def test_behind_a_normalisation_it_has_one_everywhere() -> None:
    graph, weights, scale = head(3, 4, 3, 1.0, 5)
    shape = (1, 3, 4)
    first = (
        graph.nodes[0],
        Node("s", operators.Norm((2,), keep=True), ("x",), (1, 3, 1)),
        Node("z", operators.Normalise((2,), 1.0), ("x", "s"), shape),
    )
    rest = [Node(node.name, node.operator, ("z",), node.shape) for node in graph.nodes[1:4]]
    found = bound(Graph((*first, *rest, graph.nodes[-1]), ("y",))).upper
    assert found is not None
    for x in 3 * np.random.default_rng(0).standard_normal((50, 3, 4)):
        z = x / np.sqrt((x * x).mean(axis=1, keepdims=True) + 1)
        assert jacobian(z, weights, scale) <= found  # the normalisation has the constant 1 here


@pytest.mark.parametrize("size", [0.1, 3.0, 20.0, 40.0, 400.0])
@pytest.mark.parametrize("wide", [1e-9, 0.01, 1.0])
def test_weights_lie_between_their_ends(size: float, wide: float) -> None:
    """Also where one weight is nearly 1 in one corner and nothing in another."""
    rng = np.random.default_rng(4)
    q, k = size * rng.standard_normal((3, 2)), size * rng.standard_normal((5, 2))
    half = [wide * rng.uniform(0, 1, x.shape) * (rng.random(x.shape) < 0.7) for x in (q, k)]
    queries, keys = (interval(x - h, x + h) for x, h in zip((q, k), half, strict=True))
    with np.errstate(all="ignore"):
        least, most = attention._weights_between(queries, keys, 0.7)
    for _ in range(200):
        x, y = (each + h * rng.choice([-1.0, 1.0], h.shape) for each, h in zip((q, k), half, strict=True))
        p = softmax(0.7 * x @ y.T)
        assert (least <= p * (1 + 1e-12) + 1e-300).all()
        assert (p <= most * (1 + 1e-12)).all()
    if wide == 1e-9 and size < 10:
        assert (most - least <= 1e-6).all()


def test_norms_by_powers() -> None:
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (3, 7), (20, 20), (40, 2)):
        for size in (1e-200, 1.0, 1e200):
            a = size * rng.standard_normal(shape)
            truth = size * float(np.linalg.norm(a / size, 2))
            assert truth <= attention._norm_up(a) * (1 + 1e-15) <= 1.2 * truth
    assert attention._norm_up(np.zeros((2, 3))) == 0


def test_in_torch() -> None:
    """With its model beside it; masks and dropout are refused by name."""
    torch = pytest.importorskip("torch", exc_type=ImportError)
    from specnorm_torch import network_bound

    class Block(torch.nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def __init__(self, **more: Any) -> None:
            super().__init__()
            self.norm, self.more = torch.nn.LayerNorm(8), more
            self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Any) -> Any:
            y = self.norm(x)
            if self.more:
                return torch.nn.functional.scaled_dot_product_attention(y, y, y, **self.more)
            return x + self.attention(y, y, y, need_weights=False)[0]

    torch.manual_seed(0)
    model = Block().double().eval()
    everywhere = network_bound(model, (5, 8))
    assert everywhere.upper is not None
    assert everywhere.checked.complete
    x = torch.randn(1, 5, 8, dtype=torch.float64)
    steep = float(torch.linalg.matrix_norm(torch.autograd.functional.jacobian(model, x).reshape(40, 40), 2))
    near = network_bound(model, x, radius=1e-3).upper
    assert near is not None
    assert steep <= near <= 10 * steep
    assert "is_causal" in network_bound(Block(is_causal=True), (5, 8)).unknown[0].reason
    assert "random" in network_bound(Block(dropout_p=0.5), (5, 8)).unknown[0].reason
