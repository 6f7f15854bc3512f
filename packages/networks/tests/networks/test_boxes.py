"""Products, quotients and steep functions have a constant where their inputs lie in a box, and none elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from networks.written_networks import Written
from specnorm_networks import Graph, Layer, Node, margins, within
from specnorm_networks.certified.operators import (
    Input,
    LeakyReLU,
    Matrices,
    MatrixProduct,
    Operator,
    Permute,
    Product,
    Sigmoid,
    Tanh,
)
from specnorm_networks.tools import bound

from specnorm.errors import MethodError

WEIGHT = np.sin(np.arange(16.0) ** 2).reshape(4, 4)


def gate(*further: Operator) -> Graph:
    """``x * sigmoid(W x)``, as squeeze and excitation has it."""
    net = Written((1, 4))
    value = net(Product(), "x", net(Sigmoid(), net.matrix(WEIGHT)))
    for operator in further:
        value = net(operator, value)
    return net.graph(value)


def test_no_pair_is_tried_outside_of_a_box_around_a_ball_s_centre() -> None:
    """Of both the bound is: a pair of the ball beyond the box was said to contradict it."""
    graph = Graph((Node("x", Input(), (), (1, 2)), Node("y", LeakyReLU(3.0), ("x",), (1, 2))), ("y",))
    assert bound(within(graph, 0.0, 1.0), radius=0.5, centre=np.full((1, 2), 0.01)).upper == 1.0
    assert bound(within(graph, -1.0, 1.0), radius=0.5, centre=np.full((1, 2), 0.01)).upper == 3.0


def test_rows_of_an_outer_product_have_no_length_that_is_known() -> None:
    """The matrices of ``abc,d->abcd`` read one entry each: there is no axis along which they multiply."""
    net = Written((1, 3, 2))
    column = np.arange(1.0, 5.0)
    layer = Layer("c", lambda: column.reshape(1, 4, 1), {}, 0)
    value = net(Matrices(layer, "abc,d->abcd", lambda: column), net(Tanh(), "x"))
    graph = net.graph(net(MatrixProduct(), value, net(Permute((0, 1, 3, 2)), value)))
    assert "their rows are bounded" in bound(graph).unknown[0].reason


def run_gate(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / (1 + np.exp(-(x @ WEIGHT.T))))


def test_a_gate_has_a_constant_on_a_box() -> None:
    found = bound(gate())
    assert found.upper is None
    assert "it is a product of two values that depend on the input" in found.unknown[0].reason
    assert "on a box of inputs it may have one" in found.unknown[0].reason
    assert "within(graph, low, high)" in found.unknown[0].reason
    previous = 0.0
    dice = np.random.default_rng(0)
    for size in (0.5, 2.0):
        upper = bound(within(gate(), -size, size)).upper
        assert upper is not None
        points = np.clip(dice.normal(size=(400, 4)) * size, -size, size)
        steps = np.clip(points + 1e-4 * dice.normal(size=(400, 4)), -size, size)
        apart = np.linalg.norm(run_gate(points) - run_gate(steps), axis=1) / np.linalg.norm(points - steps, axis=1)
        assert max(previous, float(apart.max())) < upper < 3 * float(apart.max())
        previous = upper


def test_a_product_broadcast_to_a_larger_shape() -> None:
    """One number times four entries: a change of it counts twice."""
    nodes = (Node("x", Input(), (), (1, 4)), Node("z", Input(), (), (1, 1)), Node("y", Product(), ("x", "z"), (1, 4)))
    graph = within(Graph(nodes, ("y",)), {"x": 0, "z": 0}, {"x": 3, "z": 5})
    assert bound(graph).upper == pytest.approx(np.hypot(5, 3 * 2), rel=1e-12)


def test_what_is_no_graph_or_no_centre_is_answered_in_words() -> None:
    """An AttributeError of nodes, and a KeyError of the input's name."""
    graph = Graph((Node("x", Input(), (), (1, 2)), Node("y", Sigmoid(), ("x",), (1, 2))), ("y",))
    with pytest.raises(MethodError, match=r"takes a Graph, not a dict: network_graph\(model, shape\) makes one"):
        within({}, 0, 1)  # type: ignore[arg-type]
    with pytest.raises(MethodError, match="margins takes a Graph, not a dict"):
        margins({})  # type: ignore[arg-type]
    with pytest.raises(MethodError, match="has arrays for z; the network has the input x, too"):
        bound(graph, radius=1.0, centre={"z": np.zeros((1, 2))})
