"""Where branches meet: disjoint parts have the largest constant, linear blocks their norm; overlaps are counted."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from networks.branching import drawn, steepest
from networks.written_networks import Written
from specnorm_networks import Graph, Layer, Measure, Multipliers, Node, Product, bound
from specnorm_networks.certified import branches
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.operators import Windows, base
from specnorm_networks.certified.reading import runs
from specnorm_networks.certified.segments import constant_of_run

CASES = 300
SHAPE = (1, 6, 4, 4)


def upper(graph: Graph) -> float:
    found = bound(graph, method=Product(), check=False).upper
    assert found is not None
    return found


def layer(net: Written, of: str, seed: int = 0) -> str:
    """A convolution of one tap by an orthogonal matrix."""
    width = net.values[of].shape[1]
    kernel = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))[0][:, :, None, None]
    geometry = {"padding_mode": "zeros", "padding": ((0, 0), (0, 0))}
    return net(ops.Convolution(Layer(f"w{len(net.nodes)}", lambda: kernel, geometry, 2)), of)


def rolled(net: Written, of: str, by: int, axis: int) -> str:
    shape = net.values[of].shape
    return net(ops.Entries(np.roll(np.arange(np.prod(shape)).reshape(shape), by, axis), int(np.prod(shape))), of)


def shifted(net: Written, of: str, seed: int = 0) -> str:
    """A block of LipNeXt's kind: shifted groups of channels, an orthogonal matrix, |x| on half of the channels."""
    parts = [net.cut(at, at + 1, of=of) for at in range(4)]
    moved = [rolled(net, part, by, axis) for part, by, axis in zip(parts, (1, -1, 1, -1), (2, 2, 3, 3), strict=True)]
    mixed = layer(net, net(ops.Concat(1), *moved, net.cut(4, None, of=of)), seed)
    one, other = net.halves(of=mixed)
    return net(ops.Concat(1), net(ops.Abs(), one), other)


def deep(net: Written) -> str:
    last = "x"
    for seed in range(4):
        last = shifted(net, last, seed)
    return net(ops.L2Pool(Windows((2, 2), (2, 2), (1, 1), ((0, 0), (0, 0))), 4.0), last)


def less(net: Written, other: str) -> str:
    return net(ops.Add((1.0, -1.0)), "x", other)


def smoothed(net: Written) -> str:
    """x less an average over blocks of pixels."""
    pooled = net(ops.AveragePool(Windows((2, 2), (2, 2), (1, 1), ((0, 0), (0, 0)))), "x")
    return less(net, net(ops.Entries(np.arange(24).reshape(1, 6, 2, 2).repeat(2, 2).repeat(2, 3), 24), pooled))


def haar(net: Written) -> str:
    a, b = (net.cut(at, None, 3, 2) for at in (0, 1))
    both = [net.scaled(0.5**0.5, net(ops.Add((1.0, sign)), a, b)) for sign in (1.0, -1.0)]
    return net(ops.Concat(1), *both)


def one_way(net: Written) -> str:
    """Halves, of which one goes through a function."""
    one, other = net.halves()
    return net(ops.Concat(1), one, net(ops.ReLU(), other))


def coupled(net: Written) -> str:
    """x_2 + relu(x_1) beside x_1, whose norm is the golden ratio where ReLU is open."""
    one, other = net.halves()
    return net(ops.Concat(1), one, net(ops.Add((1.0, 1.0)), other, net(ops.ReLU(), one)))


def into_zeros(net: Written) -> str:
    """Halves, each padded by zeros where the other is."""
    pads = (((0, 3), (0, 0), (0, 0)), ((3, 0), (0, 0), (0, 0)))
    ends = [net(ops.Pad("zeros", each), half) for each, half in zip(pads, net.halves(), strict=True)]
    return net(ops.Add((1.0, 1.0)), *ends)


def corners(net: Written) -> str:
    """Two corners of the rows, each through a function, written into zeros one after the other."""
    tall, n = (1, 6, 4, 4), 96
    rows = np.arange(n).reshape(tall)
    whole = net(ops.Merge(rows[:, :, :2]), net.constant(np.zeros(tall)), net(ops.Abs(), net.cut(0, 2, 2)))
    lower, other = net.cut(2, None, 2, of=whole), net(ops.ReLU(), net.cut(2, None, 2))
    at = np.arange(48).reshape(1, 6, 2, 4)
    return net(ops.Merge(rows[:, :, 2:]), whole, net(ops.Merge(at[..., :3]), lower, net.cut(0, 3, 3, of=other)))


def phases(net: Written) -> str:
    parts = [net.cut(b, None, 3, 2, of=net.cut(a, None, 2, 2)) for a in (0, 1) for b in (0, 1)]
    return net(ops.Concat(1), *parts)


def heads(net: Written) -> str:
    """Groups of channels, each through a matrix of its own."""
    return net(ops.Concat(1), *(layer(net, net.cut(a, a + 2), a) for a in (0, 2, 4)))


def centred(net: Written, *axes: int) -> str:
    return less(net, net(ops.Mean(axes, keep=True), "x"))


def overlapping(net: Written) -> str:
    return net(ops.Concat(1), net.cut(0, 3), net.cut(2, None))


def backwards(net: Written) -> str:
    """The first four channels, and the last three from the end."""
    return net(ops.Concat(1), net.cut(0, 4), net.cut(-1, -4, step=-1))


def wrapped(net: Written) -> str:
    """Two rows each of a value and of that value rolled by one: one row twice."""
    return net(ops.Concat(2), net.cut(0, 2, 2), net.cut(2, 4, 2, of=rolled(net, "x", 1, 2)))


GOLDEN = 0.5 + 1.25**0.5
TRUTHS: dict[str, tuple[Callable[[Written], str], float]] = {
    "LipNeXt-like, depth 4": (deep, 1.0),
    "halves, one through a function": (one_way, 1.0),
    "halves into zeros": (into_zeros, 1.0),
    "corners into zeros": (corners, 1.0),
    "space to depth": (phases, 1.0),
    "grouped heads": (heads, 1.0),
    "x - mean(x), channels": (lambda net: centred(net, 1), 1.0),
    "x - mean(x), all": (lambda net: centred(net, 1, 2, 3), 1.0),
    "x - blocks": (smoothed, 1.0),
    "Haar": (haar, 1.0),
    "coupling": (coupled, GOLDEN),
    "overlap by one channel": (overlapping, 2**0.5),
    "read backwards": (backwards, 2**0.5),
    "a roll that wraps": (wrapped, 2**0.5),
}
"""What is written, and its constant."""


@pytest.mark.parametrize("name", TRUTHS)
def test_constant_is_nearly_the_true_one(name: str) -> None:
    write, truth = TRUTHS[name]
    net = Written(SHAPE)
    write(net)
    allowed = 1.15 if name == "coupling" else 1 + 1e-5
    assert truth * (1 - 1e-12) <= upper(net.graph()) <= truth * allowed


@pytest.mark.parametrize("seed", range(0, CASES, 50))
def test_no_derivative_is_steeper(seed: int) -> None:
    """Of drawn graphs; and what is linear has its norm."""
    tight = []
    for at in range(seed, seed + 50):
        draft, end = drawn(at)
        found, reached = upper(draft.graph(end)), steepest(draft, end, at)
        assert reached <= found * (1 + 1e-7) + 1e-9, f"seed {at}: {reached} above {found}"
        if draft.linear and reached:
            tight.append(found / reached)
    assert np.median(tight) <= 1.001


def test_copies_of_a_mean_are_counted() -> None:
    """Of one entry and its mean, less twice the entry, where a sum is broadcast to three."""
    net = Written((1, 1))
    wide = net(ops.Add((-2.0, 1.0)), "x", net.constant(np.zeros((1, 3))))
    net(ops.Add((1.0, 1.0)), net(ops.Mean((1,), keep=True), "x"), wide)
    assert 3**0.5 * (1 - 1e-12) <= upper(net.graph()) <= 3**0.5 * (1 + 1e-5)


@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate"])
def test_padding_by_nothing_ends_no_run(mode: Any) -> None:
    """Between a convolution and a transposed one, which takes no padding for its own."""
    numbers = np.random.default_rng(0)
    net = Written((1, 3, 8))
    for at, more in enumerate(({}, {"transposed": True})):
        kernel: Any = numbers.normal(size=(3, 3, 3))
        geometry = {"padding_mode": "zeros", "padding": ((1, 1),), **more}
        last = net(ops.Convolution(Layer(f"w{at}", partial(np.copy, kernel), geometry, 1)), net.nodes[-1].name)
        if not at:
            net(ops.Pad(mode, ((0, 0),)), net(ops.ReLU(), last))
    (run,) = runs(net.graph())
    assert [link.names for link in run.links] == [("w0",), ("w1",)]


def dense(net: Written, matrix: Any) -> str:
    return net(ops.Matrix(Layer(f"m{len(net.nodes)}", partial(np.copy, matrix), {}, 0)), net.nodes[-1].name)


def sandwich(seed: int, width: int) -> tuple[Any, Any]:
    """Matrices of a 1-Lipschitz layer ``sqrt(2) A^T Psi relu(Psi^-1 sqrt(2) B x)``, ``A A^T + B B^T = I``."""
    numbers = np.random.default_rng(seed)
    q = np.linalg.qr(numbers.normal(size=(2 * width, width)))[0].T
    psi = np.exp(0.3 * numbers.normal(size=width))
    return 2**0.5 * q[:, width:] / psi[:, None], 2**0.5 * q[:, :width].T * psi


def test_matrices_without_a_function_between_are_one() -> None:
    """Three sandwich layers are bounded as if they were multiplied by hand, and no derivative is steeper."""
    layers = [sandwich(seed, 8) for seed in range(3)]
    apart, joined = Written((1, 8)), Written((1, 8))
    for net in (apart, joined):
        for at, (one, two) in enumerate(layers):
            if net is apart or not at:
                dense(net, one)
            net(ops.ReLU(), net.nodes[-1].name)
            dense(net, two if net is apart or at == 2 else layers[at + 1][0] @ two)
    (run,) = runs(apart.graph())
    assert [link.names for link in run.links] == [("m1",), ("m3 and m4",), ("m6 and m7",), ("m9",)]
    found, by_hand = (bound(net.graph(), method=Multipliers(steps=40), check=False) for net in (apart, joined))
    assert found.upper is not None
    assert by_hand.upper is not None
    assert found.upper == pytest.approx(by_hand.upper, rel=1e-6)
    assert found.upper <= 1.05 < 10 < (found.product or 0.0)
    numbers, reached = np.random.default_rng(0), 0.0
    for _ in range(200):
        x = 3 * numbers.normal(size=8)
        jacobian = np.eye(8)
        for one, two in layers:
            open_, x = one @ x > 0, two @ np.maximum(one @ x, 0)
            jacobian = two @ (open_[:, None] * (one @ jacobian))
        reached = max(reached, float(np.linalg.norm(jacobian, 2)))
    assert 0.5 < reached <= found.upper


def test_what_matrices_are_off_by_is_multiplied() -> None:
    """Of two computed matrices, a scale behind the first: the worst ones are no further than the product says."""
    one, two = np.random.default_rng(0).normal(size=(2, 4, 4))

    def computed(name: str, kernel: Any, off: float) -> ops.Matrix:
        return ops.Matrix(Layer(name, lambda: kernel, {}, 0, error=lambda: np.full((4, 4), off)))

    made = [computed("a", one, 0.1), ops.Scale(np.array([1.0, 10.0, 2.0, 3.0])), computed("b", two, 0.01), ops.ReLU()]
    nodes = [Node("x", ops.Input(), (), (1, 4))]
    for operator in (*made, computed("c", one, 0.0)):
        nodes.append(Node(f"v{len(nodes)}", operator, (nodes[-1].name,), (1, 4)))
    (run,) = runs(Graph(tuple(nodes), (nodes[-1].name,)))
    (term,) = run.links[0].terms
    assert term.filter is not None
    assert term.filter.layer.error is not None
    off: Any = term.filter.layer.error()
    exact = two @ np.diag([1.0, 10.0, 2.0, 3.0]) @ one
    for signs in (np.sign(two), -np.sign(two)):
        worst = (two + 0.01 * signs) @ np.diag([1.0, 10.0, 2.0, 3.0]) @ (one + 0.1)
        assert (abs(worst - exact) <= off * (1 + 1e-12)).all()
    assert (off <= 1.001 * (abs(two) + 0.01) @ np.diag([1.0, 10.0, 2.0, 3.0]) @ (abs(one) + 0.1)).all()


def test_overlaps_left_out_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest weight in place of the sum."""

    def largest(*terms: Any) -> Any:
        return np.max(np.broadcast_arrays(*terms), axis=0)

    net = Written(SHAPE)
    overlapping(net)
    monkeypatch.setattr(branches, "plus_up", largest)
    assert upper(net.graph()) < 1.1


def test_what_may_move_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of shares in which all but the first are forgotten."""
    net = Written(SHAPE)
    net(ops.Add((1.0, 1.0)), "x", net(ops.Abs(), "x"))
    assert 2 <= upper(net.graph()) < 2 + 1e-12
    monkeypatch.setattr(base, "plus_up", lambda first, *_: first)
    assert upper(net.graph()) < 1.5


# -- strides that differ ----------------------------------------------------------------------------------------------
def written_out(kernel: Any, n: int, stride: int) -> Any:
    """A zero-padded convolution of squares of n pixels as a matrix, by loops."""
    cout, cin, k, _ = kernel.shape
    m = -(-n // stride)
    whole = np.zeros((cout, m, m, cin, n, n))
    for a, b, i, j in itertools.product(range(m), range(m), range(k), range(k)):
        p, q = (stride * at + tap - k // 2 for at, tap in ((a, i), (b, j)))
        if 0 <= p < n and 0 <= q < n:
            whole[:, a, b, :, p, q] += kernel[:, :, i, j]
    return whole.reshape(cout * m * m, cin * n * n)


@pytest.mark.parametrize(("n", "stride"), [(4, 2), (5, 2), (7, 3)])
def test_a_strided_skip_beside_two_convolutions(n: int, stride: int) -> None:
    """LipSDP's inequality holds with the multipliers found, pixel by pixel; masks stay below."""
    width, m = 2, -(-n // stride)
    numbers = np.random.default_rng(n)
    kernels = {"a": (3, 1), "b": (3, stride), "c": (1, stride)}
    nodes, matrices = [Node("x", ops.Input(), (), (1, width, n, n))], []
    for name, (k, step) in kernels.items():
        kernel: Any = numbers.normal(size=(width, width, k, k)) / k
        geometry = {"padding_mode": "zeros", "padding": ((k // 2,) * 2,) * 2, "stride": step}
        layer, size = Layer(name, partial(np.copy, kernel), geometry, 2), n if step == 1 else m
        nodes.append(Node(name, ops.Convolution(layer), ("r" if name == "b" else "x",), (1, width, size, size)))
        matrices.append(written_out(kernel, n, step))
        if name == "a":
            nodes.append(Node("r", ops.ReLU(), ("a",), (1, width, n, n)))
    nodes.append(Node("s", ops.Add((1.0, 1.0)), ("b", "c"), (1, width, m, m)))
    graph, method = Graph(tuple(nodes), ("s",)), Multipliers(steps=30)
    found = bound(graph, method=method)
    assert found.upper is not None
    assert found.upper < 0.9 * (found.product or 0.0)
    (run,) = runs(graph)
    weights = method.weights(run, [(0, len(run.links))])
    assert weights is not None
    claim = float(constant_of_run(run, [0], weights, Measure()))
    at = np.arange(n) % stride
    phase = stride * at[:, None] + at
    squares_of = np.square(weights[0].reshape(width, stride**2)[:, phase].reshape(-1))
    a, b, c = matrices
    form = np.block([[np.eye(len(a)), -a.T * squares_of / 2], [-squares_of[:, None] * a / 2, np.diag(squares_of)]])
    ahead = np.hstack([c, b])
    assert np.linalg.eigvalsh(claim**2 * form - ahead.T @ ahead)[0] >= -1e-9
    masks = numbers.random((50, len(a))) < 0.5
    assert max(np.linalg.norm(c + b @ (mask[:, None] * a), 2) for mask in masks) <= found.upper
