"""Networks of dense maps executed entry by entry: stored in one precision, summed in float32, in an order at random."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from checks import present
from oracle import dense_matrix
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.graph import Graph, Layer, Node

Array = Any


def bfloat16(x: Array) -> Array:
    """Rounded to nearest even, by the bits of single precision."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32)


STORE = {
    "float32": lambda x: np.asarray(x, dtype=np.float32),
    "float16": lambda x: np.asarray(x).astype(np.float16).astype(np.float32),
    "bfloat16": bfloat16,
}
"""Numbers as they are stored, in single precision."""


def summed(factors: Array, x: Array, added: Array, rng: np.random.Generator) -> Array:
    """``factors @ x + added`` in single precision, in any order: from left to right, fused or not, or by halves."""
    order = rng.permutation(factors.shape[1] + 1)
    wide = np.concatenate([factors, added[:, None]], axis=1)[:, order]
    x = np.append(x, np.float32(1))[order]
    kind = rng.integers(3)
    if kind == 0:  # fused: the exact product is added, and rounded once
        total = np.zeros(len(wide), np.float32)
        for column, number in zip(wide.T, x, strict=True):
            total = (total + column.astype(np.float64) * np.float64(number)).astype(np.float32)
        return total
    terms = [column * number for column, number in zip(wide.T, x, strict=True)]
    while len(terms) > 1:
        if kind == 1:
            terms = [terms[0] + terms[1], *terms[2:]]
        else:
            half = [a + b for a, b in zip(terms[::2], terms[1::2], strict=False)]
            terms = half + (terms[-1:] if len(terms) % 2 else [])
    return terms[0]


def shape_of(node: Node) -> tuple[int, ...]:
    return present(node.shape)


def _dense(node: Node, before: Sequence[int]) -> tuple[Array, Array]:
    """A layer's or pooling's matrix, and what it adds, each by loops of its own."""
    operator, shape = node.operator, shape_of(node)
    if isinstance(operator, ops.Matrix):
        matrix = operator.layer.kernel()
    elif isinstance(operator, ops.Convolution):
        matrix = dense_matrix(operator.layer.kernel(), before[2:], **operator.layer.geometry)
    else:
        raise TypeError(type(operator))
    return matrix, np.ravel(np.broadcast_to(0.0 if operator.bias is None else operator.bias()[0], shape))


def execute(graph: Graph, x: Array, execution: str, rng: np.random.Generator) -> Array:
    """The output, computed in an order at random."""
    store = STORE[execution]
    values: dict[str, Array] = {}
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            known = [values[name] for name in node.inputs]
            operator = node.operator
            if isinstance(operator, ops.Input):
                found = store(x).reshape(shape_of(node))
            elif isinstance(operator, (ops.Matrix, ops.Convolution)):
                matrix, added = (store(each) for each in _dense(node, known[0].shape))
                found = store(summed(matrix, known[0].reshape(-1), added, rng)).reshape(shape_of(node))
            elif isinstance(operator, ops.Mean):
                wide = known[0].reshape(*known[0].shape[:2], -1)
                found = np.array([[_mean(row, store, rng) for row in sample] for sample in wide])
            elif isinstance(operator, ops.AveragePool):
                b, c, h, w = known[0].shape
                cells = known[0].reshape(b, c, h // 2, 2, w // 2, 2).swapaxes(3, 4).reshape(-1, 4)
                found = np.array([_mean(cell, store, rng) for cell in cells]).reshape(shape_of(node))
            elif isinstance(operator, ops.Add):
                found = store(known[0] * np.float32(operator.weights[0]) + known[1] * np.float32(operator.weights[1]))
            elif isinstance(operator, ops.Scale):
                found = store(store(operator.values) * known[0])
            elif isinstance(operator, ops.LeakyReLU):
                found = np.where(known[0] > 0, known[0], store(store(operator.alpha) * known[0]))
            else:
                found = np.asarray(operator.run(*known), dtype=np.float32)
            values[node.name] = found
    return values[graph.outputs[0]]


def _mean(row: Array, store: Any, rng: np.random.Generator) -> Any:
    total = store(summed(np.ones((1, len(row)), np.float32), row, np.zeros(1, np.float32), rng))
    share = store(total * store(1 / len(row))) if rng.integers(2) else store(total / np.float32(len(row)))
    return np.float32(share[0])


def layer(name: str, kernel: Array, source: str, shape: tuple[int, ...], bias: Array = None, **geometry: Any) -> Node:
    """Of numbers in single precision."""
    numbers = np.asarray(kernel, dtype=np.float32)
    made = ops.Convolution if numbers.ndim > 2 else ops.Matrix
    added = None if bias is None else np.asarray(bias, dtype=np.float32).astype(np.float64)
    offset = None if added is None else (lambda: (added, np.zeros(())))
    own = Layer(name, partial(np.asarray, numbers), geometry, max(numbers.ndim - 2, 0))
    return Node(name, made(own, offset), (source,), shape)


def dense(*matrices: Array, biases: Sequence[Array] = ()) -> Graph:
    nodes = [Node("x", ops.Input(), (), (1, np.shape(matrices[0])[1]))]
    for at, matrix in enumerate(matrices):
        shape = (1, len(matrix))
        nodes.append(layer(f"y{at}", matrix, nodes[-1].name, shape, biases[at] if biases else None))
        if at + 1 < len(matrices):
            nodes.append(Node(f"z{at}", ops.ReLU(), (nodes[-1].name,), shape))
    return Graph(tuple(nodes), (nodes[-1].name,))


def mixed(rng: np.random.Generator, channels: int = 3) -> Graph:
    """Every kind of operator that has a rule: convolutions, a sum, pooling, sorting, slopes, scales."""
    c, zeros = channels, {"padding_mode": "zeros", "padding": ((1, 1), (1, 1))}

    def drawn(*shape: int) -> Array:
        return rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))

    image, half = (1, c, 6, 6), ops.Windows((2, 2), (2, 2), (1, 1), ((0, 0), (0, 0)))
    strided = {"stride": 2, "padding_mode": "zeros", "padding": ((1, 1), (1, 1))}
    first, second = (ops.Slice(((1, at, at + 1, 1),)) for at in (0, 1))
    nodes = (
        Node("x", ops.Input(), (), (1, 2, 6, 6)),
        layer("a", drawn(c, 2, 3, 3), "x", image, drawn(c, 1, 1), **zeros),
        Node("l", ops.LeakyReLU(0.1), ("a",), image),
        layer("b", drawn(c, c, 3, 3), "l", image, **zeros),
        Node("s", ops.Add((1.0, -1.0)), ("b", "a"), image),
        Node("k", ops.Scale(np.full((c, 1, 1), 1 / 3)), ("s",), image),
        Node("p", ops.AveragePool(half), ("k",), (1, c, 3, 3)),
        layer("t", drawn(c, c, 3, 3), "p", (1, c, 2, 2), drawn(c, 1, 1), **strided),
        Node("m", ops.MaxPool(ops.Windows((2, 2), (1, 1), (1, 1), ((0, 0), (0, 0)))), ("p",), (1, c, 2, 2)),
        Node("u", first, ("t",), (1, 1, 2, 2)),
        Node("v", second, ("t",), (1, 1, 2, 2)),
        Node("w", ops.Maximum(), ("u", "v"), (1, 1, 2, 2)),
        Node("c", ops.Concat(1), ("w", "m"), (1, 1 + c, 2, 2)),
        Node("g", ops.Mean((2, 3)), ("c",), (1, 1 + c)),
        Node("f", ops.Reshape((1, 4 * c)), ("t",), (1, 4 * c)),
        Node("j", ops.Concat(1), ("g", "f"), (1, 1 + 5 * c)),
        layer("o", drawn(4, 1 + 5 * c), "j", (1, 4), drawn(4)),
    )
    return Graph(nodes, ("o",))


# -- networks that are built to be fooled ------------------------------------------------------------------------------
def cancelling(size: float = 2.0**24) -> Graph:
    """Large terms cancel, and what is left depends on the order: the first logit is the input in real arithmetic."""
    return dense([[size, -size, 1.0, 1.0], [0.0, 0.0, 0.0, 1.5]])


SMALL = 2.0**-12
SIGNS = np.array([[1.0]])
for _ in range(4):
    SIGNS = np.block([[SIGNS, SIGNS], [SIGNS, -SIGNS]])
FOOLED: dict[str, tuple[Graph, Array, Array, str]] = {
    "sums": (cancelling(), np.ones(4), np.ones(4), "float32"),
    "sums far from the centre": (dense([[2.0**24, *[1.0] * 100, -(2.0**24)]]), np.zeros(102), np.ones(102), "float32"),
    "storage": (dense([[1 + 2.0**-10]]), [1 - 2.0**-11], [1 - 2.0**-11], "float16"),
    "storage far from the centre": (dense([[1 + 2.0**-10]]), [0.0], [1 - 2.0**-11], "float16"),
    "weights": (dense([[1 + SMALL, -1.0]]), np.ones(2), np.ones(2), "float16"),
    "weights far from the centre": (dense(SIGNS + SMALL), np.zeros(16), np.ones(16), "float16"),
    "underflow": (dense([[2.0**-13]]), [2.0**-13], [2.0**-13], "float16"),
    "what comes before": (dense([[1.0, SMALL], [1.0, 0.0]], [[1024.0, -1024.0]]), np.ones(2), np.ones(2), "float16"),
}
"""A network, a centre and an input: what is off there comes from one term alone."""
