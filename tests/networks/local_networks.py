"""Small networks with biases and what they compute, in float64 by dense matrices and in ball arithmetic.

Nothing here is imported from `specnorm_networks` but the types that a network is given in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from networks.dense_networks import FUNCTIONS, Conv, Matrix, draw, graph_of, sizes_of
from specnorm_networks import Graph, Layer, Node
from specnorm_networks.certified import operators

VALUES: dict[str, Callable[[Matrix], Matrix]] = {
    "relu": lambda v: np.maximum(v, 0),
    "sigmoid": lambda v: 1 / (1 + np.exp(-v)),
    "tanh": np.tanh,
    "silu": lambda v: v / (1 + np.exp(-v)),
    "abs": np.abs,
    "negative": np.negative,
    "leaky": lambda v: np.where(v > 0, v, 0.2 * v),
}
DERIVATIVES: dict[str, Callable[[Matrix], Matrix]] = {
    "relu": lambda v: (v > 0).astype(float),
    "sigmoid": lambda v: 1 / (2 + np.exp(-v) + np.exp(v)),
    "tanh": lambda v: 1 - np.tanh(v) ** 2,
    "silu": lambda v: (1 + np.exp(-v) + v * np.exp(-v)) / (1 + np.exp(-v)) ** 2,
    "abs": np.sign,
    "negative": lambda v: -np.ones_like(v),
    "leaky": lambda v: np.where(v > 0, 1.0, 0.2),
}


@dataclass(frozen=True, eq=False)
class Chain:
    """Dense matrices, biases and functions (None: none) one after the other, and the same as a graph.

    ``names`` are those of the graph's values before each function; ``skips``: whether the value before a matrix is
    added after its function.
    """

    matrices: list[Matrix]
    biases: list[Matrix]
    functions: list[str | None]
    graph: Graph
    names: list[str]
    shape: tuple[int, ...]
    skips: bool = False

    def values(self, x: Matrix) -> list[Matrix]:
        """What stands before each function, and the output last."""
        found, z = [], x.reshape(-1)
        for matrix, bias, function in zip(self.matrices, self.biases, self.functions, strict=True):
            v = matrix @ z + bias
            found.append(v)
            z = self._after(v, function, z)
        return [*found, z]

    def _after(self, v: Matrix, function: str | None, before: Matrix) -> Matrix:
        z = v if function is None else WIDER[function](v) if function in WIDER else VALUES[function](v)
        return z + before if self.skips and function is not None and z.shape == before.shape else z

    def jacobian(self, x: Matrix) -> Matrix:
        z, whole = x.reshape(-1), np.eye(x.size)
        for matrix, bias, function in zip(self.matrices, self.biases, self.functions, strict=True):
            v, before = matrix @ z + bias, whole
            whole = matrix @ whole
            if function == "maxmin":
                half = len(v) // 2
                swap = v[:half] < v[half:]
                order = np.concatenate([np.arange(half) + half * swap, np.arange(half) + half * ~swap])
                whole = whole[order]
            elif function == "pooled":
                whole = np.where((v[:-1] > v[1:])[:, None], whole[:-1], whole[1:])
            elif function == "joined":
                whole = np.concatenate([(v > 0)[:, None] * whole, whole])
            elif function is not None:
                whole = DERIVATIVES[function](v)[:, None] * whole
                if self.skips and len(v) == len(z):
                    whole = whole + before
            z = self._after(v, function, z)
        return np.asarray(whole)

    def stretch(self, centre: Matrix, radius: float, seed: int, steps: int = 30) -> float:
        """Largest quotient and Jacobian found in a ball: pairs at random, steps along the top directions."""
        numbers, best = np.random.default_rng(seed), 0.0
        x = centre.reshape(-1)
        for _ in range(steps):
            a, b = (_in_ball(x, radius, numbers) for _ in range(2))
            best = max(best, float(np.linalg.norm(self.values(a)[-1] - self.values(b)[-1]) / np.linalg.norm(a - b)))
            for _ in range(4):
                _, s, right = np.linalg.svd(self.jacobian(a))
                best = max(best, float(s[0]))
                a = a + right[0] * radius / 2 * numbers.choice([-1, 1])
                a = x + (a - x) * min(1.0, radius / max(float(np.linalg.norm(a - x)), 1e-300))
        return best


def sorted_pairs(v: Matrix) -> Matrix:
    half = len(v) // 2
    return np.concatenate([np.maximum(v[:half], v[half:]), np.minimum(v[:half], v[half:])])


WIDER: dict[str, Callable[[Matrix], Matrix]] = {
    "maxmin": sorted_pairs,
    "pooled": lambda v: np.maximum(v[:-1], v[1:]),
    "joined": lambda v: np.concatenate([np.maximum(v, 0), v]),
}
"""What takes several entries, or gives several."""


def _in_ball(x: Matrix, radius: float, numbers: Any) -> Matrix:
    d = numbers.normal(size=x.shape)
    return np.asarray(x + d / np.linalg.norm(d) * radius * numbers.uniform() ** (1 / len(x)))


def _maxmin(at: int, shape: tuple[int, int]) -> list[Node]:
    half, v = shape[1] // 2, f"v{at}"
    pieces = [Node(f"{v}.{k}", operators.Slice(((1, k * half, (k + 1) * half, 1),)), (v,), (1, half)) for k in (0, 1)]
    both = (operators.Maximum(), operators.Minimum())
    ends = [Node(f"{v}.{type(c).__name__}", c, (f"{v}.0", f"{v}.1"), (1, half)) for c in both]
    return [*pieces, *ends, Node(f"z{at}", operators.Concat(1), (f"{v}.Maximum", f"{v}.Minimum"), shape)]


def _wider(at: int, shape: tuple[int, int], kind: str) -> list[Node]:
    v, z = f"v{at}", f"z{at}"
    if kind == "maxmin":
        return _maxmin(at, shape)
    if kind == "pooled":
        windows = operators.Windows((2,), (1,), (1,), ((0, 0),))
        return [Node(z, operators.MaxPool(windows), (v,), (1, shape[1] - 1))]
    return [
        Node(f"{v}.0", operators.ReLU(), (v,), shape),
        Node(z, operators.Concat(1), (f"{v}.0", v), (1, 2 * shape[1])),
    ]


def _exact(numbers: Matrix) -> tuple[Matrix, Matrix]:
    return numbers, 0 * numbers


def dense(seed: int, widths: Sequence[int], function: str = "relu", *, skips: bool = False, bias: float = 0.5) -> Chain:
    """Matrices at random."""
    numbers = np.random.default_rng(seed)
    takes = [widths[0], *(len(WIDER.get(function, np.array)(np.zeros(n))) for n in widths[1:-1])]
    matrices = [numbers.normal(size=(m, n)) / np.sqrt(n) for n, m in zip(takes, widths[1:], strict=True)]
    biases = [bias * numbers.normal(size=m) for m in widths[1:]]
    nodes, names = [Node("x", operators.Input(), (), (1, widths[0]))], []
    functions: list[str | None] = [*[function] * (len(matrices) - 1), None]
    for at, (matrix, b, kind) in enumerate(zip(matrices, biases, functions, strict=True)):
        before, shape = nodes[-1], (1, len(b))
        layer = Layer(f"w{at}", partial(np.array, matrix), {}, 0)
        nodes.append(Node(f"v{at}", operators.Matrix(layer, partial(_exact, b)), (before.name,), shape))
        names.append(nodes[-1].name)
        if kind in WIDER:
            nodes += _wider(at, shape, kind)
        elif kind is not None:
            nodes.append(Node(f"z{at}", FUNCTIONS[kind][0], (f"v{at}",), shape))
            if skips and before.shape == shape:
                nodes.append(Node(f"s{at}", operators.Add((1.0, 1.0)), (f"z{at}", before.name), shape))
    return Chain(matrices, biases, functions, Graph(tuple(nodes), (nodes[-1].name,)), names, (1, widths[0]), skips)


def convolutional(seed: int, n: int = 5, **kind: Any) -> Chain | None:
    """Convolutions at random, with biases; None where nothing is left of an axis."""
    chain: list[Conv] = draw(seed, functions=("relu", "leaky", "tanh", "sigmoid", "silu", "abs"), **kind)
    size = (n,) * chain[0].axes
    try:
        sizes = sizes_of(chain, size)
    except ValueError:
        return None
    numbers = np.random.default_rng(seed)
    nodes: list[Node] = []
    biases: list[Matrix] = []
    for node in graph_of(chain, size).nodes:
        if isinstance(node.operator, operators.Convolution):
            at = len(biases)
            added = 0.5 * numbers.normal(size=chain[at].cout)
            wide = added.reshape(-1, *(1,) * chain[0].axes)
            node = replace(node, operator=replace(node.operator, bias=partial(_exact, wide)))
            scale = chain[at].scale
            biases.append(np.repeat(added if scale is None else added * scale, math.prod(sizes[at + 1])))
        nodes.append(node)
    matrices = [conv.matrix(each) for conv, each in zip(chain, sizes, strict=False)]
    names = [f"conv{at}" if conv.scale is None else f"norm{at}" for at, conv in enumerate(chain)]
    graph = Graph(tuple(nodes), (nodes[-1].name,))
    return Chain(matrices, biases, [c.function for c in chain], graph, names, (1, chain[0].cin, *size))
