"""More seconds or steps never answer worse, the better way is taken, and constants near 1 are proven closely."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from networks.dense_networks import Conv, draw, graph_of
from networks.dense_sums import Network
from numpy.typing import NDArray
from specnorm_networks import Graph, Layer, Measure, Multipliers, Node, Product, bound
from specnorm_networks.certified import operators

from specnorm.errors import MethodError

Matrix = NDArray[np.float64]


class Written:
    """A network of matrices and functions, value by value."""

    def __init__(self, width: int) -> None:
        self.nodes = [Node("x", operators.Input(), (), (1, width))]

    def __call__(self, operator: operators.Operator, width: int, *inputs: str) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(Node(name, operator, inputs or (self.nodes[-1].name,), (1, width)))
        return name

    def matrix(self, kernel: Matrix, *inputs: str) -> str:
        layer = Layer(f"w{len(self.nodes)}", partial(np.asarray, kernel), {}, 0)
        return self(operators.Matrix(layer), len(kernel), *inputs)

    def graph(self) -> Graph:
        return Graph(tuple(self.nodes), (self.nodes[-1].name,))


def chain(widths: tuple[int, ...], seed: int) -> tuple[Graph, list[Matrix]]:
    random = np.random.default_rng(seed)
    kernels = [random.standard_normal((m, n)) / n**0.5 for n, m in itertools.pairwise(widths)]
    net = Written(widths[0])
    for at, kernel in enumerate(kernels):
        net.matrix(kernel)
        if at < len(kernels) - 1:
            net(operators.ReLU(), len(kernel))
    return net.graph(), kernels


def residual(width: int, blocks: int, seed: int) -> Graph:
    """x + B relu(A x), and a ReLU after each sum."""
    random, net, here = np.random.default_rng(seed), Written(width), "x"
    for _ in range(blocks):
        first, second = 0.5 * random.standard_normal((2, width, width)) / width**0.5
        inner = net(operators.ReLU(), width, net.matrix(first, here))
        here = net(operators.ReLU(), width, net(operators.Add((1.0, 1.0)), width, here, net.matrix(second, inner)))
    return net.graph()


def almost_orthogonal(channels: int, seed: int) -> Graph:
    """x - 2 W' T^-1 relu(W x), 1-Lipschitz by its T (SLL), with convolutions of three taps."""
    random, size = np.random.default_rng(seed), 8
    kernel = random.standard_normal((channels, channels, 3))
    lags = np.stack([sum(kernel[:, :, t] @ kernel[:, :, t + s].T for t in range(3 - s)) for s in range(3)])
    total = abs(lags[0]).sum(axis=1) + sum(abs(lag).sum(axis=1) + abs(lag.T).sum(axis=1) for lag in lags[1:])
    back = np.flip(-2 * (kernel / total[:, None, None]).swapaxes(0, 1), axis=2)
    shape, geometry = (1, channels, size), {"padding": 1}
    nodes = [Node("x", operators.Input(), (), shape)]
    for name, source, weight in (("u", "x", kernel), ("v", "z", back)):
        layer = Layer(f"w{name}", partial(np.asarray, weight), geometry, 1)
        nodes.append(Node(name, operators.Convolution(layer), (source,), shape))
        if name == "u":
            nodes.append(Node("z", operators.ReLU(), ("u",), shape))
    nodes.append(Node("y", operators.Add((1.0, 1.0)), ("x", "v"), shape))
    return Graph(tuple(nodes), ("y",))


def flattened(seed: int, size: int = 8, channels: int = 3, classes: int = 4) -> tuple[Graph, list[Matrix]]:
    """Two convolutions with functions after them, flattened, and a matrix; and the dense matrices."""
    random = np.random.default_rng(seed)
    kernels = [random.standard_normal(shape) / 3 for shape in ((channels, 1, 3), (channels, channels, 3))]
    convs = [Conv(kernel, 1, 1, 1, False, "zeros", ((1, 1),), None, "relu") for kernel in kernels]
    head = random.standard_normal((classes, channels * size)) / (channels * size) ** 0.5
    body = graph_of(convs, (size,))
    last = body.nodes[-1].name
    flat = Node("flat", operators.Reshape((1, channels * size)), (last,), (1, channels * size))
    out = Node("out", operators.Matrix(Layer("head", lambda: head, {}, 0)), ("flat",), (1, classes))
    return Graph((*body.nodes, flat, out), ("out",)), [*(conv.matrix((size,)) for conv in convs), head]


def upper(graph: Graph, method: Any = None, measure: Measure | None = None, **options: Any) -> float:
    found = bound(graph, measure, method=method, check=False, **options).upper
    assert found is not None
    return found


def sums() -> Graph:
    net = Network(3, 2, (6,))
    inner = net.function(net.conv("x", 3, 3, scale=0.3), "relu")
    net.add("x", net.conv(inner, 2, 3, scale=0.3))
    return Graph(tuple(net.nodes), (net.nodes[-1].name,))


NETWORKS: dict[str, Callable[[], Graph]] = {
    "matrices": lambda: chain((5, 8, 8, 8, 3), 0)[0],
    "residual": lambda: residual(5, 2, 1),
    "convolutions": lambda: graph_of(draw(2, layers=4, plain=True), (6,)),
    "two axes": lambda: graph_of(draw(1, axes=2, layers=3, plain=True), (4, 4)),
    "sums": sums,
    "near 1": lambda: almost_orthogonal(2, 0),
    "flattened": lambda: flattened(2, size=4, channels=2)[0],
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.nightly
def test_more_steps_never_answer_worse(name: str) -> None:
    graph = NETWORKS[name]()
    found = [upper(graph, Product())] + [upper(graph, Multipliers(steps=n)) for n in (0, 1, 7, 20, 50, 100, 250)]
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.9 * found[0]


def test_a_clock_cuts_and_says_so() -> None:
    """The best proven by then is an upper bound, no less than without a clock; whoever has time says nothing."""
    graph, _ = chain((10, 20, 20, 5), 0)
    whole, cut = bound(graph, budget=None, check=False), bound(graph, budget=1e-3, check=False)
    product = bound(graph, method=Product(), check=False)
    assert whole.status == product.status == "complete"
    assert "status" not in whole.to_dict()
    assert cut.status.startswith("budget: 0.001 s")
    assert cut.status in str(cut)
    assert cut.to_dict()["status"] == cut.status
    assert whole.upper is not None
    assert cut.upper is not None
    assert product.upper is not None
    assert whole.upper < cut.upper <= 1.01 * product.upper
    with pytest.raises(MethodError, match="budget=0"):
        bound(graph, budget=0)
