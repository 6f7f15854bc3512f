"""Where linear branches meet they are one map; disjoint parts that are joined, or moved, count once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from helpers.checks import present
from networks.written_networks import Written
from specnorm_networks import Graph, Product
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.operators import Windows
from specnorm_networks.tools import bound

SHAPE = (1, 6, 4, 4)


def upper(graph: Graph) -> float:
    return float(bound(graph, method=Product(), check=False).upper)


def layer(net: Written, of: str, seed: int = 0) -> str:
    width = net.values[of].shape[1]
    kernel = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))[0]
    return net.convolution(kernel[:, :, None, None], of, padding=0)


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
    return net(ops.MaxPool(Windows((2, 2), (2, 2), (1, 1), ((0, 0), (0, 0)))), last)


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


def into_zeros(net: Written) -> str:
    """Halves, each padded by zeros where the other is."""
    pads = (((0, 3), (0, 0), (0, 0)), ((3, 0), (0, 0), (0, 0)))
    ends = [net(ops.Pad("zeros", each), half) for each, half in zip(pads, net.halves(), strict=True)]
    return net(ops.Add((1.0, 1.0)), *ends)


def corners(net: Written) -> str:
    """Two corners of the rows, each through a function, written into zeros one after the other."""
    tall = (1, 6, 4, 4)
    n = 96
    rows = np.arange(n).reshape(tall)
    whole = net(ops.Merge(rows[:, :, :2]), net.constant(np.zeros(tall)), net(ops.Abs(), net.cut(0, 2, 2)))
    lower = net.cut(2, None, 2, of=whole)
    other = net(ops.ReLU(), net.cut(2, None, 2))
    at = np.arange(48).reshape(1, 6, 2, 4)
    return net(ops.Merge(rows[:, :, 2:]), whole, net(ops.Merge(at[..., :3]), lower, net.cut(0, 3, 3, of=other)))


def phases(net: Written) -> str:
    parts = [net.cut(b, None, 3, 2, of=net.cut(a, None, 2, 2)) for a in (0, 1) for b in (0, 1)]
    return net(ops.Concat(1), *parts)


def heads(net: Written) -> str:
    return net(ops.Concat(1), *(layer(net, net.cut(a, a + 2), a) for a in (0, 2, 4)))


def centred(net: Written, *axes: int) -> str:
    return less(net, net(ops.Mean(axes, keep=True), "x"))


def overlapping(net: Written) -> str:
    return net(ops.Concat(1), net.cut(0, 3), net.cut(2, None))


def backwards(net: Written) -> str:
    """The first four channels, and the last three from the end."""
    return net(ops.Concat(1), net.cut(0, 4), net.cut(-1, -4, step=-1))


MASK = (np.arange(6) % 2 == 0).reshape(6, 1, 1)


def chosen(net: Written) -> str:
    """A function of every other channel, five times as large there, and the other channels."""
    return net(ops.Where(lambda: MASK), net.scaled(np.where(MASK, 5.0, 0.1), net(ops.ReLU(), "x")), "x")


def wrapped(net: Written) -> str:
    """Two rows each of a value and of that value rolled by one: one row twice."""
    return net(ops.Concat(2), net.cut(0, 2, 2), net.cut(2, 4, 2, of=rolled(net, "x", 1, 2)))


def overwritten(net: Written) -> str:
    """All of a value written over, as slices that are assigned to are exported: the one before counts no more."""
    return net(ops.Merge(np.arange(net.values["x"].size)), net.scaled(1.0), net(ops.Abs(), "x"))


def coupled(net: Written) -> str:
    """Halves, of which one moves the other: the norm of [[1, 1], [0, 1]], attained where ReLU lets all through."""
    one, other = net.halves()
    return net(ops.Concat(1), net(ops.Add((1.0, 1.0)), one, net(ops.ReLU(), layer(net, other))), other)


def recurrent(net: Written) -> str:
    """Two steps, each of which reads its own channels and the state before: both states."""
    first, second = (net(ops.ReLU(), layer(net, net.cut(at, at + 2), at)) for at in (0, 2))
    state = net(ops.ReLU(), net(ops.Add((1.0, 1.0)), second, layer(net, first, 7)))
    return net(ops.Concat(1), first, state)


def rolled_by_nothing(net: Written) -> str:
    """As exporters write it: all of a value, and none of it."""
    return net(ops.Concat(2), net.cut(0, None, 2), net.cut(0, 0, 2))


WEIGHTS = np.array([5.0, 1.0, -4.0, 1.0, 2.0, 0.5]).reshape(6, 1, 1)


def running_mean(net: Written) -> str:
    return net.scaled(1 / np.arange(1.0, 7.0).reshape(6, 1, 1), net(ops.CumulativeSum(1), "x"), exact=False)


def differences_of_sums(net: Written) -> str:
    """All entries but the first, by sums of all before."""
    sums = net(ops.CumulativeSum(1), "x")
    return net(ops.Add((1.0, -1.0)), net.cut(1, None, of=sums), net.cut(0, -1, of=sums))


def smoothed_twice(net: Written) -> str:
    """Weighted, moved by one, and averaged in pairs with other weights."""
    moved = rolled(net, net.scaled(WEIGHTS), 1, 1)
    return net.scaled(1 / WEIGHTS, net(ops.CumulativeSum(1, reverse=True), moved))


RUNNING_MEAN = np.tril(np.ones((6, 6))) / np.arange(1.0, 7.0)[:, None]
SMOOTHED_TWICE = np.triu(np.ones((6, 6))) @ np.roll(np.diag(WEIGHTS.ravel()), 1, 0) / WEIGHTS.reshape(6, 1)
TRUTHS: dict[str, tuple[Callable[[Written], str], float]] = {
    "LipNeXt-like, depth 4": (deep, 1.0), "halves, one through a function": (one_way, 1.0),
    "halves into zeros": (into_zeros, 1.0), "corners into zeros": (corners, 1.0), "space to depth": (phases, 1.0),
    "grouped heads": (heads, 1.0), "x - mean(x), channels": (lambda net: centred(net, 1), 1.0),
    "x - mean(x), all": (lambda net: centred(net, 1, 2, 3), 1.0), "x - blocks": (smoothed, 1.0), "Haar": (haar, 1.0),
    "overlap by one channel": (overlapping, 2**0.5), "a choice by entry": (chosen, 5.0),
    "written over": (overwritten, 1.0), "a coupling": (coupled, (1 + 5**0.5) / 2),
    "two steps of a recurrent network": (recurrent, (1 + 5**0.5) / 2), "a roll by nothing": (rolled_by_nothing, 1.0),
    "read backwards": (backwards, 2**0.5), "a roll that wraps": (wrapped, 2**0.5),
    "a running mean": (running_mean, float(np.linalg.norm(RUNNING_MEAN, 2))),
    "a weighted mean": (lambda net: net(ops.Mean((1,)), net.scaled(WEIGHTS)), float(np.linalg.norm(WEIGHTS)) / 6),
    "differences of sums": (differences_of_sums, 1.0),
    "weights, sums, weights": (smoothed_twice, float(np.linalg.norm(SMOOTHED_TWICE, 2))),
}  # fmt: skip
"""What is written, and its constant."""


@pytest.mark.parametrize("name", TRUTHS)
def test_constant_is_nearly_the_true_one(name: str) -> None:
    write, truth = TRUTHS[name]
    net = Written(SHAPE)
    write(net)
    assert truth * (1 - 1e-12) <= upper(net.graph()) <= truth * (1 + 1e-5)


PLUS, MINUS, RELU, ABS = ops.Add((1.0, 1.0)), ops.Add((1.0, -1.0)), ops.ReLU(), ops.Abs()
Form = Callable[[Written, str, str], str]
EXTREMES: dict[str, Form] = {
    "v + relu(u - v)": lambda net, u, v: net(PLUS, v, net(RELU, net(MINUS, u, v))),
    "u - relu(u - v)": lambda net, u, v: net(MINUS, u, net(RELU, net(MINUS, u, v))),
    "(u + v + |u - v|) / 2": lambda net, u, v: net.scaled(0.5, net(PLUS, net(PLUS, u, v), net(ABS, net(MINUS, u, v)))),
    "(u + v) / 2 - |v - u| / 2": lambda net, u, v: net(
        MINUS, net.scaled(0.5, net(PLUS, u, v)), net.scaled(0.5, net(ABS, net(MINUS, v, u)))
    ),
}
NO_EXTREMES: dict[str, tuple[Form, float]] = {
    "u + relu(u - v)": (lambda net, u, v: net(PLUS, u, net(RELU, net(MINUS, u, v))), 5**0.5),
    "v - relu(u - v)": (lambda net, u, v: net(MINUS, v, net(RELU, net(MINUS, u, v))), 5**0.5),
    "(u + v + |u + v|) / 2": (
        lambda net, u, v: net.scaled(0.5, net(PLUS, net(PLUS, u, v), net(ABS, net(PLUS, u, v)))), 2**0.5,
    ),
    "u + v + |u - v|": (lambda net, u, v: net(PLUS, net(PLUS, u, v), net(ABS, net(MINUS, u, v))), 2.0),
    "(|u - v| - u - v) / 2, twice v": (
        lambda net, u, v: net.scaled(0.5, net(MINUS, net(ABS, net(MINUS, u, v)), net(PLUS, v, v))), 2.5**0.5,
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", [*EXTREMES, *NO_EXTREMES])
def test_an_extreme_of_two_parts_written_as_a_sum_has_the_constant_1_and_nothing_else(form: str) -> None:
    write, slope = NO_EXTREMES[form] if form in NO_EXTREMES else (EXTREMES[form], 1.0)
    net = Written()
    write(net, *net.halves())
    found = present(bound(net.graph(), method=Product()).upper)
    assert slope * (1 - 1e-9) <= found
    assert form in NO_EXTREMES or found <= 1 + 1e-9
