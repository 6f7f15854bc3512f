"""What is recognised computes what was written out, everywhere; what only looks like it is left as it is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from networks.written_networks import (
    PATTERNS,
    SHAPE,
    Write,
    Written,
    agree,
    compared,
    gate,
    gelu,
    householder,
    max_min,
    points,
)
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.operators import Place
from specnorm_networks.certified.patterns import recognised


@pytest.mark.parametrize("name", PATTERNS)
def test_what_is_recognised_computes_the_same(name: str) -> None:
    expected, write = PATTERNS[name]
    net = Written()
    end = write(net)
    read = agree(net.graph(end), close=1e-7 if "single" in name else 1e-13).pruned()
    node = read.by_name[end]
    assert type(node.operator) is expected
    assert node.label == "written"
    # Nothing that was written out is left but what moves entries.
    inner = [each.operator for each in read.nodes[1:] if each.name != end]
    assert all(isinstance(each, (ops.GroupSort, ops.SignParts, ops.SameOrder, ops.Permute)) for each in inner)
    assert read.nodes[1].inputs == ("x",)


@pytest.mark.parametrize("name", PATTERNS)
def test_no_pair_of_inputs_is_further_apart(name: str) -> None:
    """The constants of the nodes in their row, against pairs near and far, and at kinks."""
    net = Written()
    graph = recognised(net.graph(PATTERNS[name][1](net))).pruned()
    upper = math.prod(
        each.operator.lipschitz(Place((graph.by_name[each.inputs[0]].shape,), each.shape)) for each in graph.nodes[1:]
    )
    numbers = np.random.default_rng(1)
    reached = 0.0
    for x in points(SHAPE):
        for size in (1e-4, 0.1, 10.0):
            y = x + size * numbers.normal(size=SHAPE) * numbers.choice([1e-3, 1.0], size=SHAPE)
            ends = [graph.run({"x": each})[graph.outputs[0]] for each in (x, y)]
            reached = max(reached, float(np.linalg.norm(ends[0] - ends[1]) / np.linalg.norm(x - y)))
    assert 0.3 * upper < reached <= upper * (1 + 1e-9)


# -- what only looks like it ---------------------------------------------------------------------------------------
def sorted_of(net: Written, upper: tuple[str, ...], lower: tuple[str, ...], axis: int = 1) -> str:
    return net(ops.Concat(axis), net(ops.Maximum(), *upper), net(ops.Minimum(), *lower))


def overlapping(net: Written) -> str:
    """Two cuts that overlap, as the second of one split and the first of another do."""
    pieces = net.cut(0, 4), net.cut(2, 6)
    return sorted_of(net, pieces, pieces)


def other_pieces(net: Written) -> str:
    """The halves of two values."""
    other = net(ops.Permute((0, 1, 3, 2)), "x")
    pieces = net.cut(0, 3), net.cut(3, 6, of=other)
    return sorted_of(net, pieces, pieces)


def one_by_one(net: Written) -> str:
    """Of each value another half."""
    thirds = [net.cut(at, at + 2) for at in (0, 2, 4)]
    return sorted_of(net, (thirds[0], thirds[1]), (thirds[1], thirds[2]))


def with_constant(net: Written) -> str:
    a, b = net.halves()
    return sorted_of(net, (a, b, net.constant(0.5)), (a, b))


def constant_half(net: Written) -> str:
    a, _ = net.halves()
    b = net.constant(np.ones((2, 3, 4, 4)))
    return sorted_of(net, (a, b), (a, b))


def of_two_values(net: Written) -> str:
    return net(ops.Concat(1), net(ops.ReLU(), "x"), net(ops.ReLU(), net(ops.Negative(), net(ops.Sin(), "x"))))


def turned_pair(net: Written) -> str:
    pairs = net(ops.Reshape((2, 3, 2, 4, 4)), "x")
    return net(ops.Concat(3), net(ops.Largest((2,), True), pairs), net(ops.Smallest((2,), True), pairs))


def wrong_groups(net: Written) -> str:
    """Sorted along a part of what becomes another axis."""
    split = net(ops.Reshape((2, 3, 2, 4, 4)), "x")
    return net(ops.Reshape(SHAPE), net(ops.Sort(3), split))


def other_shape(net: Written) -> str:
    split = net(ops.Reshape((2, 2, 3, 16)), "x")
    return net(ops.Reshape(SHAPE), net(ops.Sort(2), split))


def choice(net: Written, sign: str, above: str, below: str, kind: Any = "gt", threshold: float = 0.0) -> str:
    return net(ops.Choose(), compared(net, kind, sign, threshold), above, below)


def two_signs(net: Written, kinds: tuple[Any, Any]) -> str:
    other = net(ops.Product(), net.scaled(0.3), compared(net, kinds[1]))
    return net(ops.Add((1.0, 1.0)), net(ops.Product(), "x", compared(net, kinds[0])), other)


def two_borders(net: Written) -> str:
    """Halves that are chosen by signs of their own."""
    ends = [net(ops.Choose(), compared(net, "gt", each), *net.halves()) for each in net.halves()]
    return net(ops.Concat(1), *ends)


MISSES: dict[str, Write] = {
    "overlapping": overlapping,
    "the larger twice": lambda net: net(ops.Concat(1), *[net(ops.Maximum(), *net.halves())] * 2),
    "one half alone": lambda net: sorted_of(net, (net.cut(0, 3), net.cut(0, 3)), net.halves()),
    "pieces of two values": other_pieces,
    "other pieces": one_by_one,
    "not all entries": lambda net: sorted_of(net, (p := (net.cut(0, 2), net.cut(2, 4)))[:2], p),
    "every second": lambda net: sorted_of(net, (p := (net.cut(0, None, step=2), net.cut(1, None, step=2)))[:2], p),
    "unequal": lambda net: sorted_of(net, (p := (net.cut(0, 1), net.cut(1, 6)))[:2], p),
    "a third": lambda net: net(
        ops.Concat(1), net(ops.Maximum(), *net.halves()), net(ops.Minimum(), *net.halves()), "x"
    ),
    "with a constant": with_constant,
    "a constant half": constant_half,
    "halves of two axes": lambda net: square_halves(net),
    "both signs of two values": of_two_values,
    "one sign twice": lambda net: net(ops.Concat(1), net(ops.ReLU(), "x"), net(ops.ReLU(), net.scaled(1.0))),
    "both signs, one larger": lambda net: net(ops.Concat(1), net(ops.ReLU(), "x"), net(ops.ReLU(), net.scaled(-2.0))),
    "both signs by channel": lambda net: net(
        ops.Concat(1), net(ops.ReLU(), "x"), net(ops.ReLU(), net.scaled(np.array([-1.0, 1, -1, 1])))
    ),
    "pairs put elsewhere": turned_pair,
    "sorted along pixels": wrong_groups,
    "sorted, another shape": other_shape,
    "a jump": lambda net: choice(net, "x", "x", net(ops.Add((1.0, 1.0)), net.scaled(0.3), net.constant(1.0))),
    "a jump elsewhere": lambda net: choice(net, "x", "x", net.scaled(0.3), threshold=1.0),
    "by another value": lambda net: choice(net, net(ops.Sin(), "x"), "x", net.scaled(0.3)),
    "of another value": lambda net: choice(net, "x", net(ops.Abs(), "x"), net.scaled(0.3)),
    "by a shifted value": lambda net: choice(
        net, net(ops.Add((1.0, 1.0)), "x", net.constant(1.0)), "x", net.scaled(0.3)
    ),
    "of a function of a multiple": lambda net: choice(net, "x", "x", net(ops.Abs(), net.scaled(0.3))),
    "one side twice": lambda net: two_signs(net, ("gt", "gt")),
    "both sides at 0": lambda net: two_signs(net, ("ge", "le")),
    "neither side at 0": lambda net: two_signs(net, ("gt", "lt")),
    "reflected at another line": lambda net: householder(net, border=0.4),
    "reflected and swapped": lambda net: householder(net, swapped=True),
    "reflected, put elsewhere": lambda net: householder(net, along=2),
    "two borders": two_borders,
    "not 1 + erf": lambda net: gelu(net, one=1.001),
    "erf of another value": lambda net: net(
        ops.Product(), net(ops.Sin(), "x"), net(ops.Add((1.0, 1.0)), net(ops.Erf(), "x"), net.constant(1.0))
    ),
    "1 - erf": lambda net: net(
        ops.Product(), "x", net(ops.Add((1.0, -1.0)), net.constant(1.0), net(ops.Erf(), "x"))
    ),
    "gated by another value": lambda net: net(ops.Product(), "x", gate(net, "x", ops.Sin(), ops.Sigmoid())),
    "gated by channel": lambda net: net(
        ops.Product(), "x", gate(net, net.scaled(np.array([1.0, 2, 1, 1])), ops.Sigmoid())
    ),
    "hard sigmoid of a fifth": lambda net: net(ops.Product(), "x", gate(net, "x", ops.HardSigmoid(0.2))),
    "hard sigmoid, moved": lambda net: net(ops.Product(), "x", gate(net, "x", ops.HardSigmoid(1 / 6, 0.4))),
    "softplus with beta": lambda net: net(ops.Product(), "x", gate(net, "x", ops.Softplus(2.0), ops.Tanh())),
    "softplus that jumps": lambda net: net(ops.Product(), "x", gate(net, "x", ops.Softplus(1.0, 3.0), ops.Tanh())),
    "tanh": lambda net: net(ops.Product(), "x", gate(net, "x", ops.Tanh())),
}  # fmt: skip


def square_halves(net: Written) -> str:
    """The first half of one axis, the second of another: of one shape, but no halves of one value."""
    pieces = net.cut(0, 2, axis=2), net.cut(2, 4, axis=3)
    pieces = net.cut(0, 2, axis=3, of=pieces[0]), net.cut(0, 2, axis=2, of=pieces[1])
    return sorted_of(net, pieces, pieces, 2)


@pytest.mark.parametrize("name", MISSES)
def test_what_only_looks_like_it_is_left(name: str) -> None:
    net = Written()
    with np.errstate(all="ignore"):
        graph = net.graph(MISSES[name](net))
    read = recognised(graph)
    assert [(node.name, node.operator, node.inputs) for node in read.nodes] == [
        (node.name, node.operator, node.inputs) for node in graph.nodes
    ]


def test_a_pattern_within_a_pattern() -> None:
    """A gate of a leaky ReLU of sorted pieces."""
    net = Written()
    inner = max_min(net)
    end = net(ops.Choose(), compared(net, "gt", inner), inner, net.scaled(0.1, inner))
    end = net(ops.Product(), end, net(ops.Sigmoid(), end))
    read = agree(net.graph(end)).pruned()
    assert [type(node.operator) for node in read.nodes] == [ops.Input, ops.GroupSort, ops.TwoSlopes, ops.SiLU]
