"""Attention on balls, on boxes and behind a normalisation, against Jacobians; elsewhere it has no bound."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from assumptions import interval
from numpy.typing import NDArray

from specnorm.certified.network.operators import attention, base
from specnorm.networks import Graph, Layer, Node, bound, operators, within

Numbers = NDArray[np.float64]


def softmax(s: Numbers) -> Numbers:
    powers = np.exp(s - s.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def jacobian(x: Numbers, weights: list[Numbers], scale: float, mask: Any = 0.0) -> float:
    """The norm of the exact Jacobian of softmax(scale x A (x B)^T + mask) x C at x, by its product rule."""
    a, b, c = weights
    (n, dims), out = x.shape, c.shape[1]
    q, k, v = x @ a, x @ b, x @ c
    p = softmax(scale * q @ k.T + mask)
    whole = np.zeros((n, out, n, dims))
    for t in range(n):
        for at in range(dims):
            step = np.zeros((n, dims))
            step[t, at] = 1
            ds = scale * ((step @ a) @ k.T + q @ (step @ b).T)
            dp = p * (ds - (p * ds).sum(axis=1, keepdims=True))
            whole[:, :, t, at] = dp @ v + p @ (step @ c)
    return float(np.linalg.norm(whole.reshape(n * out, n * dims), 2))


def head(
    n: int, dims: int, width: int, size: float, seed: int, mask: Numbers | None = None
) -> tuple[Graph, list[Numbers], float]:
    rng = np.random.default_rng(seed)
    weights = [s * rng.standard_normal((dims, width)) / np.sqrt(dims) for s in (size, size, 1.0)]
    scale = 1 / np.sqrt(width)
    nodes = [Node("x", operators.Input(), (), (1, n, dims))]
    for name, w in zip("qkv", weights, strict=True):
        layer = Layer(name, partial(np.array, w.T), {}, 0)
        nodes.append(Node(name, operators.Matrix(layer), ("x",), (1, n, width)))
    nodes.append(
        Node("y", operators.Attention(scale, mask if mask is None else lambda: mask), ("q", "k", "v"), (1, n, width))
    )
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


CAUSAL = np.where(np.tri(6), 0.0, -np.inf)
MASKS: dict[str, tuple[Numbers, float]] = {
    "causal": (CAUSAL, 6),
    "causal, in large numbers": (np.where(np.tri(6), 0.0, -1e9), 6),
    "keys that are left out": (np.where(np.arange(6) % 3 == 0, -np.inf, 0.0)[None], 6),
    "each token itself": (np.where(np.eye(6), 3.0, -np.inf), 1.001),
    "numbers": (np.random.default_rng(0).standard_normal((6, 6)), 6),
}
"""A mask, and how far off the bound near an input may be."""


@pytest.mark.parametrize("name", MASKS)
def test_masked(name: str) -> None:
    """On balls, a box, and at one entry that a mask keeps out: as if it were not there."""
    mask, factor = MASKS[name]
    graph, weights, scale = head(6, 8, 4, 1.5, 6, mask)
    rng = np.random.default_rng(1)
    centre = rng.standard_normal((6, 8))
    for radius in (1e-5, 0.3, 2.0):
        found = bound(graph, radius=radius, centre=centre[None], check=radius == 0.3).upper
        assert found is not None
        assert found <= factor * jacobian(centre, weights, scale, mask) or radius > 1e-5
        for _ in range(6):
            away = rng.standard_normal((6, 8))
            point = centre + radius * rng.uniform() * away / np.linalg.norm(away)
            assert jacobian(point, weights, scale, mask) <= found * (1 + 1e-9)
    boxed = bound(within(graph, -1.0, 1.0)).upper
    assert boxed is not None
    for x in rng.uniform(-1, 1, (30, 6, 8)):
        assert jacobian(x.round(), weights, scale, mask) <= boxed * (1 + 1e-9)


def test_masks_that_are_none() -> None:
    for entry, at in ((-np.inf, 2), (np.nan, 2), (np.inf, slice(0, 1))):
        mask = np.zeros((4, 4))
        mask[at] = entry
        graph, _, _ = head(4, 3, 2, 1.0, 0, mask)
        (unknown,) = bound(within(graph, -1.0, 1.0), check=False).unknown
        assert "its mask leaves a query no key" in unknown.reason
    (unknown,) = bound(within(head(4, 3, 2, 1.0, 0, np.zeros((3, 3)))[0], -1.0, 1.0), check=False).unknown
    assert "a mask of shape (3, 3)" in unknown.reason


@pytest.mark.parametrize("size", [0.1, 3.0, 20.0, 40.0, 400.0])
@pytest.mark.parametrize("wide", [1e-9, 0.01, 1.0])
@pytest.mark.parametrize("masked", [False, True])
def test_weights_lie_between_their_ends(size: float, wide: float, masked: bool) -> None:
    """Also where one weight is nearly 1 in one corner and nothing in another."""
    rng = np.random.default_rng(4)
    q, k = size * rng.standard_normal((3, 2)), size * rng.standard_normal((5, 2))
    half = [wide * rng.uniform(0, 1, x.shape) * (rng.random(x.shape) < 0.7) for x in (q, k)]
    queries, keys = (interval(x - h, x + h) for x, h in zip((q, k), half, strict=True))
    added = np.where(rng.random((3, 5)) < 0.3, -np.inf, rng.standard_normal((3, 5))) if masked else np.zeros((3, 5))
    added[:, 0] = 0
    with np.errstate(all="ignore"):
        least, most = attention._weights_between(queries, keys, 0.7, added)
    for _ in range(200):
        x, y = (each + h * rng.choice([-1.0, 1.0], h.shape) for each, h in zip((q, k), half, strict=True))
        p = softmax(0.7 * x @ y.T + added)
        assert (least <= p * (1 + 1e-12) + 1e-300).all()
        assert (p <= most * (1 + 1e-12)).all()
    if wide == 1e-9 and size < 10:
        assert (most - least <= 1e-6).all()


@pytest.mark.parametrize("wide", [1e-6, 0.1, 3.0])
def test_averages_lie_in_their_image(wide: float) -> None:
    rng = np.random.default_rng(5)
    middles = [rng.standard_normal((2, n, width)) for n, width in ((6, 3), (6, 3), (6, 4))]
    half = [wide * rng.uniform(0, 1, x.shape) for x in middles]
    ranges = [interval(x - h, x + h) for x, h in zip(middles, half, strict=True)]
    shapes = tuple(x.shape for x in middles)
    operator = operators.Attention(0.7, lambda: CAUSAL)
    found = operator.image(ranges, base.Place(shapes, (2, 6, 4)))
    assert found is not None
    for _ in range(200):
        q, k, v = (x + h * rng.choice([-1.0, 1.0], h.shape) for x, h in zip(middles, half, strict=True))
        y = softmax(0.7 * q @ k.swapaxes(1, 2) + CAUSAL) @ v
        assert ((found.low <= y + 1e-12) & (y <= found.high + 1e-12)).all()
    assert (found.high - found.low).max() <= 40 * wide


def test_norms_by_powers() -> None:
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (3, 7), (20, 20), (40, 2)):
        for size in (1e-200, 1.0, 1e200):
            a = size * rng.standard_normal(shape)
            truth = size * float(np.linalg.norm(a / size, 2))
            assert truth <= attention._norm_up(a) * (1 + 1e-15) <= 1.2 * truth
    assert attention._norm_up(np.zeros((2, 3))) == 0


def test_in_torch() -> None:
    """With its model beside it; what depends on the input, and dropout, is refused by name."""
    torch = pytest.importorskip("torch", exc_type=ImportError)
    from specnorm_torch import network_bound

    attend = torch.nn.functional.scaled_dot_product_attention

    class Block(torch.nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def __init__(self, **more: Any) -> None:
            super().__init__()
            self.norm, self.more = torch.nn.LayerNorm(8), more
            self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Any) -> Any:
            y = self.norm(x)
            if self.more:
                return attend(y, y, y, **{n: f(y) if callable(f) else f for n, f in self.more.items()})
            return x + self.attention(y, y, y, need_weights=False)[0]

    def steepest(model: Any, x: Any) -> float:
        steep = torch.autograd.functional.jacobian(model, x).reshape(40, 40)
        return float(torch.linalg.matrix_norm(steep, 2))

    torch.manual_seed(0)
    x = torch.randn(1, 5, 8, dtype=torch.float64)
    ahead = torch.ones(5, 5).triu(1).bool()

    class Causal(torch.nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            more: Any = {"activation": "gelu", "batch_first": True, "norm_first": True}
            self.layer = torch.nn.TransformerEncoderLayer(8, 2, 16, **more)

        def forward(self, x: Any) -> Any:
            mask = torch.nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
            return self.layer(x, src_mask=mask, is_causal=True)

    everywhere = network_bound(Block().double(), (5, 8))
    assert everywhere.upper is not None
    assert everywhere.checked.complete
    known = []
    models: list[Any] = [Block(), Block(is_causal=True), Block(attn_mask=~ahead), Causal()]
    for block, factor in zip(models, (10, 10, 10, 40), strict=True):
        model = block.double().eval()
        near = network_bound(model, x, radius=1e-3).upper
        assert near is not None
        assert steepest(model, x) <= near <= factor * steepest(model, x)
        known.append(near)
    assert known[1] == known[2]
    refused = {
        "depends on the network's input": Block(attn_mask=lambda y: y[..., :5]),
        "random": Block(dropout_p=0.5),
        "no key": Block(attn_mask=torch.arange(5)[:, None] > torch.arange(5)),
    }
    for word, block in refused.items():
        reason = network_bound(block.eval(), (5, 8)).unknown[0].reason
        assert word in reason


def test_written_out_in_torch() -> None:
    """As SDPA, with masks and factors in the orders in which models have them; nothing else is taken for it."""
    torch = pytest.importorskip("torch", exc_type=ImportError)
    from specnorm_torch import network_bound

    inf, functional = float("inf"), torch.nn.functional
    seen = torch.ones(8, 8).tril()

    def filled(q: Any, k: Any, v: Any, t: int) -> Any:
        scores = (q @ k.transpose(-2, -1)) * 0.5
        scores = scores.masked_fill(seen[:t, :t] == 0, -inf)
        return functional.dropout(scores.softmax(-1), 0.1, training=False) @ v

    def added(q: Any, k: Any, v: Any, t: int) -> Any:
        scores = torch.matmul(q, k.mT) / 2 + torch.full((t, t), -inf).triu(1)
        return torch.matmul(functional.softmax(scores, dim=-1, dtype=torch.float64).to(q.dtype), v)

    def chosen(q: Any, k: Any, v: Any, t: int) -> Any:
        return (torch.where(seen[:t, :t] > 0, q @ k.mT, -inf) / 2).softmax(-1) @ v

    def turned(q: Any, k: Any, v: Any, t: int) -> Any:
        scores = torch.where(seen[:t, :t] == 0, torch.tensor(-inf, dtype=q.dtype), (q * 0.5) @ k.mT)
        return scores.softmax(-1) @ v

    def stacked(q: Any, k: Any, v: Any, t: int) -> Any:
        scores = torch.bmm(q[0], k[0].mT).div(4).mul(2).masked_fill(seen[:t, :t] == 0, -inf)
        return torch.bmm(scores.softmax(-1), v[0])[None]

    refused: Any = {
        "numbers before a factor": lambda q, k, v, t: ((q @ k.mT + seen[:t, :t]) / 2).softmax(-1) @ v,
        "a mask of the input": lambda q, k, v, _: (q @ k.mT).masked_fill(q[..., :1] > 0, -inf).softmax(-1) @ v,
        "another axis": lambda q, k, v, _: (q @ k.mT).softmax(-2) @ v,
        "turned away": lambda q, k, v, t: (-1.0 * (q @ k.mT).masked_fill(seen[:t, :t] == 0, -inf)).softmax(-1) @ v,
        "a lower precision": lambda q, k, v, _: (q @ k.mT).softmax(-1, dtype=torch.float32).to(q.dtype) @ v,
        "no softmax": lambda q, k, v, _: (q @ k.mT).sigmoid() @ v,
        "a large number": lambda q, k, v, t: (q @ k.mT).masked_fill(seen[:t, :t] == 0, 9.0).softmax(-1) @ v,
        "a value as factor": lambda q, k, v, _: ((q @ k.mT) * q.mean()).softmax(-1) @ v,
    }

    class All(torch.nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def __init__(self, *functions: Any) -> None:
            super().__init__()
            self.functions, self.enter = functions, torch.nn.Linear(8, 24)

        def forward(self, x: Any) -> Any:
            parts = [y.unflatten(-1, (2, 4)).transpose(1, 2) for y in self.enter(x).split(8, 2)]
            return tuple(f(*parts, x.shape[1]) for f in self.functions)

    def sdpa(q: Any, k: Any, v: Any, _: int) -> Any:
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    torch.manual_seed(0)
    x = torch.randn(1, 5, 8, dtype=torch.float64)
    model = All(sdpa, filled, added, chosen, turned, stacked).double()
    found = network_bound(model, x, radius=0.05)
    assert found.checked.complete
    steep = torch.autograd.functional.jacobian(lambda y: model(y)[0], x).reshape(40, 40)
    wanted, *known = found.outputs.values()
    assert wanted is not None
    assert float(torch.linalg.matrix_norm(steep, 2)) <= wanted
    assert known == [pytest.approx(wanted, rel=1e-9)] * 5
    unknown = network_bound(All(*refused.values()).double(), x, radius=0.05)
    assert set(unknown.outputs.values()) == {None}
    assert len(unknown.outputs) == len(refused)
    assert {node.operator for node in unknown.unknown} <= {"matmul", "gt"}
