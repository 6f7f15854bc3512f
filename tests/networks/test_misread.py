"""Claims about networks that were false, since a name, a shape or a rounding was read wrongly: graphs, no framework.

Truth is what inputs reach: dense matrices, and rational numbers where floats end.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from specnorm.networks import Graph, Layer, Measure, Node, bound


def dense(*matrices: Any, name: str = "w") -> Graph:
    """A network of matrices, all of them called by one name."""
    nodes = [Node("x", "input", "input", (), (1, matrices[0].shape[1]))]
    for at, matrix in enumerate(matrices):
        layer = Layer(name, partial(np.asarray, matrix), {}, 0)
        shape = (1, matrix.shape[0])
        nodes.append(Node(f"y{at}", "layer", "linear", (nodes[-1].name,), shape, layer=layer))
    return Graph(tuple(nodes), (nodes[-1].name,))


def upper(graph: Graph, measure: Measure | None = None) -> float:
    found = bound(graph, measure).upper
    assert found is not None
    return found


def test_one_measure_serves_two_networks() -> None:
    """Kernels of one name, shape and geometry: the second had the norm of the first."""
    measure = Measure()
    small, large = np.eye(4), 100 * np.eye(4)
    assert 1 <= upper(dense(small), measure) < 1.01
    assert 100 <= upper(dense(large), measure) < 101
    assert 100 <= upper(dense(small, large), measure) < 101


def test_a_kernel_that_is_written_to_is_measured_anew() -> None:
    measure, kernel = Measure(), np.eye(4)
    graph = dense(kernel)
    assert upper(graph, measure) < 1.01
    kernel *= 100
    assert upper(graph, measure) >= 100


def test_the_same_bits_in_another_precision_are_another_kernel() -> None:
    """Eight numbers of 32 bits are not four of 64, nor one shape another, nor a matrix its transpose by its bits."""
    measure = Measure()
    single = np.arange(1, 9, dtype=np.float32).reshape(2, 4)
    for matrix in (single, single.view(np.float64), single.reshape(4, 2), single.T):
        truth = float(np.linalg.norm(np.float64(matrix), 2))
        found = upper(dense(matrix), measure)
        assert truth <= found * (1 + 1e-12)
        assert found <= truth * 1.01


def test_one_measure_serves_two_stacks_of_matrices() -> None:
    measure = Measure()
    for size in (1.0, 100.0):
        stack = size * np.stack([np.eye(3), np.diag([1.0, 0.5, 0.25])])
        layer = Layer("w", partial(np.asarray, stack), {}, 0)
        nodes = (Node("x", "input", "input", (), (2, 3)), Node("y", "matrices", "matmul", ("x",), (2, 3), layer=layer))
        assert size <= upper(Graph(nodes, ("y",)), measure) < 1.01 * size
