"""Normalisation by a value's own entries: everywhere, on balls and on boxes, against Jacobians; and what is no such."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from specnorm_networks import Graph, Node, bound, operators, within
from specnorm_networks.certified.patterns import prepared, recognised
from specnorm_networks.checking import check

Vector = NDArray[np.float64]
DIVISORS: dict[str, Callable[[Vector, int, float], Vector]] = {
    "mean square": lambda s, n, eps: np.sqrt(s * s / n + eps),
    "largest": lambda s, _, eps: np.maximum(s, eps),
    "sum": lambda s, _, eps: s + eps,
}


def definition(x: Vector, axes: tuple[int, ...], eps: float, form: str, centred: bool) -> Vector:
    z = x - x.mean(axis=axes, keepdims=True) if centred else x
    s = np.sqrt((z * z).sum(axis=axes, keepdims=True))
    return z / DIVISORS[form](s, math.prod(x.shape[a] for a in axes), eps)


def network(shape: tuple[int, ...], axes: tuple[int, ...], eps: float, form: Any, *, centred: bool) -> Graph:
    ones = tuple(1 if at in axes else n for at, n in enumerate(shape))
    nodes = [Node("x", operators.Input(), (), shape)]
    if centred:
        nodes.append(Node("z", operators.Centre(axes), ("x",), shape))
    z = nodes[-1].name
    nodes.append(Node("s", operators.Norm(axes, keep=True), (z,), ones))
    nodes.append(Node("y", operators.Normalise(axes, eps, form), (z, "s"), shape))
    return Graph(tuple(nodes), ("y",))


def jacobian(f: Callable[[Vector], Vector], x: Vector, step: float = 1e-6) -> float:
    moves = np.eye(x.size).reshape(x.size, *x.shape) * step
    return float(np.linalg.norm(np.stack([(f(x + m) - f(x - m)).reshape(-1) / (2 * step) for m in moves], axis=1), 2))


CASES = [
    ((1, 8), (1,), 1e-2, "mean square", True),
    ((2, 3, 4), (1, 2), 0.1, "mean square", True),
    ((2, 5), (1,), 0.1, "mean square", False),
    ((3, 4), (0,), 0.3, "largest", False),
    ((2, 6), (1,), 0.2, "sum", False),
]


@pytest.mark.parametrize(("shape", "axes", "eps", "form", "centred"), CASES)
def test_everywhere_the_constant_is_attained_at_zero(
    shape: tuple[int, ...], axes: tuple[int, ...], eps: float, form: str, centred: bool
) -> None:
    found = bound(network(shape, axes, eps, form, centred=centred)).upper
    assert found is not None
    wanted = 1 / (math.sqrt(eps) if form == "mean square" else eps)
    assert wanted <= found <= wanted * (1 + 1e-12)
    rng = np.random.default_rng(0)
    points = [np.zeros(shape), 1e-3 * rng.standard_normal(shape), rng.standard_normal(shape), np.ones(shape)]
    reached = [jacobian(lambda x: definition(x, axes, eps, form, centred), x, 1e-7) for x in points]
    assert max(reached) <= found * (1 + 1e-6)
    assert max(reached) >= found * (1 - 1e-3)


@pytest.mark.parametrize(("shape", "axes", "eps", "form", "centred"), CASES)
def test_on_balls(shape: tuple[int, ...], axes: tuple[int, ...], eps: float, form: str, centred: bool) -> None:
    """Never below a Jacobian in the ball, and what the length of the centre says: it moves by r at most."""
    rng = np.random.default_rng(1)
    centre = rng.standard_normal(shape)
    graph = network(shape, axes, eps, form, centred=centred)
    z = centre - centre.mean(axis=axes, keepdims=True) if centred else centre
    n = math.prod(shape[a] for a in axes)
    smallest = float(np.sqrt((z * z).sum(axis=axes)).min())
    for radius in (0.01, 0.1, 0.5, 3.0):
        found = bound(graph, radius=radius, centre=centre).upper
        assert found is not None
        told = 1 / float(DIVISORS[form](np.array(max(smallest - radius, 0.0)), n, eps))
        assert found <= told * (1 + 1e-6)
        for _ in range(20):
            away = rng.standard_normal(shape)
            x = centre + rng.uniform() * radius * away / np.linalg.norm(away)
            assert jacobian(lambda x: definition(x, axes, eps, form, centred), x) <= found * (1 + 1e-6)
        # Towards 0, where it is steepest.
        low = z * max(0.0, 1 - 0.999 * radius / float(np.linalg.norm(z)))
        assert jacobian(lambda x: definition(x, axes, eps, form, centred), low + centre - z) <= found * (1 + 1e-6)


def test_on_boxes_and_without_eps() -> None:
    graph = network((1, 4), (1,), 0.0, "largest", centred=False)
    everywhere = bound(graph)
    assert everywhere.upper is None
    assert "within(" in everywhere.unknown[0].reason
    low, high = np.array([[1.0, -1.0, 2.0, -3.0]]), np.array([[2.0, 1.0, 4.0, 3.0]])
    found = bound(within(graph, low, high)).upper
    assert found is not None
    assert found == pytest.approx(1 / math.sqrt(5), rel=1e-9)
    rng = np.random.default_rng(0)
    for x in rng.uniform(low, high, (50, 1, 4)):
        assert jacobian(lambda x: definition(x, (1,), 0.0, "largest", False), x) <= found * (1 + 1e-6)
    # Of which 0 is a part.
    assert bound(within(graph, -1.0, 1.0)).upper is None


def test_values_lie_in_their_ranges() -> None:
    """Behind it a square has a constant: no entry is larger than the root of their number, or 1."""
    for form, most in (("mean square", math.sqrt(6)), ("largest", 1.0), ("sum", 1.0)):
        nodes = network((1, 6), (1,), 0.5, form, centred=False).nodes
        graph = Graph((*nodes, Node("q", operators.Power(2), ("y",), (1, 6))), ("q",))
        steep = 1 / math.sqrt(0.5) if form == "mean square" else 2
        assert bound(graph).upper == pytest.approx(2 * most * steep, rel=1e-9)


def test_the_length_is_that_of_what_is_divided() -> None:
    """Any other second input says nothing, whatever its range."""
    shape = (1, 4)
    x, z = Node("x", operators.Input(), (), shape), Node("z", operators.Scale(np.array(2.0)), ("x",), shape)
    norm = operators.Norm((1,), keep=True)
    for lengths in (
        Node("s", norm, ("z",), (1, 1)),
        Node("s", operators.Norm((0,), keep=True), ("x",), shape),
        Node("s", operators.Largest((1,), keep=True), ("x",), (1, 1)),
        Node("s", operators.Scale(np.array(9.0)), ("x",), shape),
    ):
        y = Node("y", operators.Normalise((1,), 0.1), ("x", "s"), shape)
        found = bound(Graph((x, z, lengths, y), ("y",)))
        assert found.upper is None
        assert "not the length" in found.unknown[0].reason
    right = (x, z, Node("s", norm, ("z",), (1, 1)), Node("y", operators.Normalise((1,), 0.1), ("z", "s"), shape))
    assert bound(Graph(right, ("y",))).upper == pytest.approx(2 / math.sqrt(0.1))
    negative = (*right[:3], Node("y", operators.Normalise((1,), -0.1), ("z", "s"), shape))
    assert bound(Graph(negative, ("y",))).upper is None


# -- written out -------------------------------------------------------------------------------------------------------
def constant(name: str, value: float) -> Node:
    return Node(name, operators.Constant(lambda: np.array(value)), (), ())


def written(kind: str, shape: tuple[int, ...] = (2, 5)) -> Graph:
    """x over a function of its length, in one way of writing it, or in a way that means something else."""
    one = (shape[0], 1)
    nodes = {"x": Node("x", operators.Input(), (), shape), "e": constant("e", 0.1)}

    def add(name: str, operator: Any, *inputs: str, size: tuple[int, ...] = one) -> str:
        nodes[name] = Node(name, operator, inputs, size)
        return name

    total = operators.Add((1.0, 1.0))
    length = add("l", operators.Norm((1,), keep=True), "x")
    add("sq", operators.Power(2), "x", size=shape)
    add("pq", operators.Product(), "x", "x", size=shape)
    add("other", operators.Scale(np.array(2.0)), "x", size=shape)
    mean = add("m", operators.Mean((1,), keep=True), "pq" if "product" in kind else "sq")
    root = add("r", operators.Sqrt(), add("me", total, mean, "e"))
    divisor = {
        "largest": lambda: add("d", operators.HardTanh(0.1, math.inf), length),
        "between": lambda: add("d", operators.HardTanh(0.1, 5.0), length),
        "sum": lambda: add("d", total, length, "e"),
        "less": lambda: add("d", operators.Add((1.0, -1.0)), length, "e"),
        "plain": lambda: length,
        "wide": lambda: add("d", operators.Broadcast(shape), add("c", operators.HardTanh(0.1, math.inf), length),
                            size=shape),
        "largest entry": lambda: add("d", total, add("la", operators.Largest((1,), keep=True), "x"), "e"),
        "total": lambda: add("d", operators.Sqrt(), add("t", total, add("su", operators.Sum((1,), keep=True), "sq"),
                             "e")),
        "cube": lambda: add("d", operators.Sqrt(), add("t", total, add("cm", operators.Mean((1,), keep=True),
                            add("cu", operators.Power(4), "x", size=shape)), "e")),
    }  # fmt: skip
    if kind.startswith("inverse"):
        inverse = add("i", operators.Rsqrt(), "me") if "root" in kind else add("i", operators.Reciprocal(), root)
        add("y", operators.Product(), *(("x", inverse) if "first" in kind else (inverse, "x")), size=shape)
    else:
        below = root if kind.startswith("mean") else divisor[kind.removesuffix(" of another")]()
        add("y", operators.Quotient(), "other" if "another" in kind else "x", below, size=shape)
    return Graph(tuple(nodes.values()), ("y",)).pruned()


WRITTEN = ("mean", "mean product", "largest", "sum", "plain", "wide", "inverse", "inverse root", "inverse root first")
MISSED = ("between", "less", "largest entry", "total", "cube", "sum of another", "largest of another")


@pytest.mark.parametrize("kind", [*WRITTEN, *MISSED])
def test_what_is_written_out(kind: str) -> None:
    """It computes the same, and is recognised where it is one; a bound is never below a Jacobian in the ball."""
    graph, rng = written(kind), np.random.default_rng(2)
    found = recognised(graph).pruned()
    assert any(isinstance(node.operator, operators.Normalise) for node in found.nodes) == (kind in WRITTEN)
    centre = rng.standard_normal((2, 5))

    def f(x: Vector) -> Vector:
        return graph.run({"x": x})["y"]

    for x in (centre, 1e-3 * centre, 30 * centre):
        np.testing.assert_allclose(found.run({"x": x})["y"], f(x), rtol=1e-12)
    assert check(graph, prepared(graph)).inputs == 0  # made by hand
    near = bound(graph, radius=0.2, centre=centre)
    if kind in WRITTEN and kind != "plain":
        everywhere = bound(graph).upper
        assert everywhere is not None
        assert jacobian(f, 1e-4 * centre, 1e-8) <= everywhere * (1 + 1e-5)
    if near.upper is None:
        assert kind not in WRITTEN
        return
    steepest = 0.0
    for _ in range(20):
        away = rng.standard_normal((2, 5))
        steepest = max(steepest, jacobian(f, centre + 0.2 * rng.uniform() * away / np.linalg.norm(away)))
    assert steepest <= near.upper * (1 + 1e-6)
    if kind in WRITTEN:
        assert near.upper <= 1.5 * steepest


# -- architectures -----------------------------------------------------------------------------------------------------
def test_blocks_of_transformers_and_convnext() -> None:
    """MLP blocks of ViT and blocks of ConvNeXt have constants, on balls small ones."""
    torch = pytest.importorskip("torch", exc_type=ImportError)
    from specnorm_networks import network_bound

    nn = torch.nn
    torch.manual_seed(0)

    class Perceptron(nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, 12), nn.Linear(12, 6)

        def forward(self, x: Any) -> Any:
            return x + self.down(nn.functional.gelu(self.up(self.norm(x))))

    class ConvNeXt(nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.deep, self.scale = nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Parameter(0.5 * torch.ones(4))
            self.norm, self.up, self.down = nn.LayerNorm(4, eps=1e-6), nn.Linear(4, 8), nn.Linear(8, 4)

        def forward(self, x: Any) -> Any:
            y = self.norm(self.deep(x).permute(0, 2, 3, 1))
            return x + (self.scale * self.down(nn.functional.gelu(self.up(y)))).permute(0, 3, 1, 2)

    for model, shape in ((Perceptron(), (5, 6)), (ConvNeXt(), (4, 4, 4))):
        model = model.double().eval()
        x = torch.randn(1, *shape, dtype=torch.float64)
        inner = torch.autograd.functional.jacobian(model, x)
        steep = float(torch.linalg.matrix_norm(inner.reshape(x.numel(), x.numel()), 2))
        everywhere = network_bound(model, shape)
        assert everywhere.checked.complete
        near = network_bound(model, x, radius=1e-3)
        assert everywhere.upper is not None
        assert near.upper is not None
        assert steep <= near.upper <= 10 * steep
        assert near.upper < everywhere.upper
