"""Networks in which one operator is written out by several."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from specnorm_networks import Graph, Node
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.operators import Operator
from specnorm_networks.certified.patterns import recognised

SHAPE = (2, 6, 4, 4)


class Written:
    """A graph that is written down; shapes are those of what the operators compute."""

    def __init__(self, shape: tuple[int, ...] = SHAPE) -> None:
        self.values = {"x": np.ones(shape)}
        self.nodes = [Node("x", ops.Input(), (), shape)]

    def __call__(self, operator: Operator, *inputs: str) -> str:
        name = f"v{len(self.nodes)}"
        self.values[name] = operator.run(*(self.values[each] for each in inputs))
        self.nodes.append(Node(name, operator, inputs, self.values[name].shape, "written"))
        return name

    def constant(self, value: Any) -> str:
        return self(ops.Constant(lambda: np.asarray(value, dtype=np.float64)))

    def cut(self, start: int | None, stop: int | None, axis: int = 1, step: int = 1, of: str = "x") -> str:
        return self(ops.Slice(((axis, start, stop, step),)), of)

    def halves(self, axis: int = 1, of: str = "x") -> tuple[str, str]:
        half = self.values[of].shape[axis] // 2
        return self.cut(0, half, axis, of=of), self.cut(half, None, axis, of=of)

    def scaled(self, number: Any, of: str = "x", *, exact: bool = True) -> str:
        return self(ops.Scale(np.asarray(number, dtype=np.float64), exact=exact), of)

    def graph(self, *ends: str) -> Graph:
        return Graph(tuple(self.nodes), ends or (self.nodes[-1].name,))


Write = Callable[[Written], str]


# -- what is recognised --------------------------------------------------------------------------------------------
def max_min(net: Written, *, axis: int = 1, along: int = 1, first: Any = ops.Maximum, new: bool = False) -> str:
    a, b = net.halves(axis)
    ends = (net(ops.Maximum(), a, b), net(ops.Minimum(), b, a))
    return net(ops.Concat(along, new), *(ends if first is ops.Maximum else ends[::-1]))


def over_pairs(net: Written, *, keep: bool = True, first: Any = ops.Largest) -> str:
    pairs = net(ops.Reshape((2, 3, 2, 4, 4)), "x")
    ends = [net(one((2,), keep), pairs) for one in (ops.Largest, ops.Smallest)]
    both = net(ops.Concat(2, not keep), *(ends if first is ops.Largest else ends[::-1]))
    return net(ops.Reshape(SHAPE), net(ops.Identity(), both))


def in_groups(net: Written, count: int = 3) -> str:
    split = net(ops.Reshape((2, 6 // count, count, 4, 4)), "x")
    return net(ops.Reshape(SHAPE), net(ops.Sort(2, descending=True), split))


def both_signs(net: Written, *, axis: int = 1, new: bool = False, negative_first: bool = False) -> str:
    ends = [net(ops.ReLU(), "x"), net(ops.ReLU(), net(ops.Negative(), "x"))]
    return net(ops.Concat(axis, new), *ends[:: -1 if negative_first else 1])


def compared(net: Written, kind: Any, of: str = "x", threshold: float = 0.0) -> str:
    return net(ops.Compare(kind, threshold), of)


def leaky(net: Written, slopes: Any = 0.3, kind: Any = "gt", sign: float = 1.0) -> str:
    other = net.scaled(slopes)
    above = kind in ("gt", "ge")
    ends = ("x", other) if above else (other, "x")
    return net(ops.Choose(), compared(net, kind, net.scaled(sign) if sign != 1 else "x"), *ends)


def leaky_by_products(net: Written, kinds: Any = ("ge", "lt"), slope: float = -0.7) -> str:
    parts = [
        net(ops.Product(), "x", compared(net, kinds[0])), net(ops.Product(), compared(net, kinds[1]), net.scaled(slope))
    ]  # fmt: skip
    return net(ops.Add((1.0, 1.0)), *parts)


def householder(
    net: Written, *, axis: int = 1, along: int = 1, choose: bool = True, border: float = 0.5, swapped: bool = False
) -> str:
    x, y = net.halves(axis)
    theta = np.linspace(0.3, 2, net.values[x].shape[axis]).reshape(-1, *(1,) * (len(net.values[x].shape) - 1 - axis))

    def mixed(a: Any, b: Any) -> str:
        return net(ops.Add((1.0, 1.0)), net.scaled(a, x), net.scaled(b, y))

    sign = mixed(np.sin(border * theta), -np.cos(border * theta))
    turned = mixed(np.cos(theta), np.sin(theta)), mixed(np.sin(theta), -np.cos(theta))
    ends = []
    for plain, other in zip((y, x) if swapped else (x, y), turned, strict=True):
        if choose:
            ends.append(net(ops.Choose(), compared(net, "le", sign), plain, other))
        else:
            products = [(plain, "le"), (other, "gt")]
            parts = [net(ops.Product(), value, compared(net, kind, sign)) for value, kind in products]
            ends.append(net(ops.Add((1.0, 1.0)), *parts))
    return net(ops.Concat(along), *ends)


def gate(net: Written, of: str, *functions: Operator) -> str:
    for function in functions:
        of = net(function, of)
    return of


def gelu(net: Written, *, inner: float = 1 / math.sqrt(2), outer: float = 0.5, one: float = 1.0) -> str:
    erf = net(ops.Erf(), net.scaled(inner, exact=False))
    return net(ops.Product(), net.scaled(outer), net(ops.Add((1.0, 1.0)), erf, net.constant(one)))


def swish(net: Written, *, inner: float = 1.0, outer: float = 1.0, exact: bool = True) -> str:
    argument = "x" if inner == 1 else net.scaled(inner, exact=exact)
    return net(ops.Product(), gate(net, argument, ops.Sigmoid()), "x" if outer == 1 else net.scaled(outer))


PATTERNS: dict[str, tuple[type[Operator], Write]] = {
    "MaxMin": (ops.GroupSort, max_min),
    "the smaller first": (ops.GroupSort, lambda net: max_min(net, first=ops.Minimum)),
    "along pixels": (ops.GroupSort, lambda net: max_min(net, axis=3, along=3)),
    "put along another axis": (ops.Reshape, lambda net: max_min(net, along=2)),
    "put along an earlier axis": (ops.Reshape, lambda net: max_min(net, axis=2, along=1, first=ops.Minimum)),
    "of a transpose, put along another axis": (ops.Reshape, lambda net: transposed(net)),
    "stacked": (ops.Permute, lambda net: max_min(net, new=True, along=2, first=ops.Minimum)),
    "stacked last": (ops.Permute, lambda net: max_min(net, new=True, along=4)),
    "four cuts": (ops.GroupSort, lambda net: cut_again(net)),
    "whole cuts between": (ops.GroupSort, lambda net: whole_cuts(net)),
    "pairs": (ops.GroupSort, over_pairs),
    "pairs, the smaller first": (ops.GroupSort, lambda net: over_pairs(net, first=ops.Smallest)),
    "pairs, stacked": (ops.GroupSort, lambda net: over_pairs(net, keep=False)),
    "groups": (ops.GroupSort, in_groups),
    "both signs": (ops.SignParts, both_signs),
    "the negative first": (ops.SignParts, lambda net: both_signs(net, negative_first=True)),
    "both signs along pixels": (ops.SignParts, lambda net: both_signs(net, axis=3)),
    "both signs, stacked": (ops.Permute, lambda net: both_signs(net, axis=1, new=True)),
    "both signs, stacked last": (ops.Permute, lambda net: both_signs(net, axis=4, new=True)),
    "leaky": (ops.TwoSlopes, leaky),
    "leaky, at least": (ops.TwoSlopes, lambda net: leaky(net, kind="ge")),
    "leaky, below": (ops.TwoSlopes, lambda net: leaky(net, kind="le", slopes=-2.0)),
    "leaky, by a multiple": (ops.TwoSlopes, lambda net: leaky(net, sign=-3.0)),
    "leaky, a slope an entry": (ops.TwoSlopes, lambda net: leaky(net, slopes=np.arange(1.0, 17).reshape(4, 4))),
    "leaky, by a quotient": (
        ops.TwoSlopes, lambda net: net(ops.Choose(), compared(net, "gt"), "x", net.scaled(1 / 3, exact=False))
    ),
    "leaky, by products": (ops.TwoSlopes, leaky_by_products),
    "leaky, by products, at most": (ops.TwoSlopes, lambda net: leaky_by_products(net, ("gt", "le"))),
    "Householder": (ops.Reflection, householder),
    "Householder, by products": (ops.Reflection, lambda net: householder(net, choose=False)),
    "Householder along pixels": (ops.Reflection, lambda net: householder(net, axis=3, along=3)),
    "GELU": (ops.Multiple, gelu),
    "GELU with other factors": (ops.Multiple, lambda net: gelu(net, inner=-1.7, outer=3.0)),
    "SiLU": (ops.SiLU, swish),
    "SiLU with alpha": (ops.SiLU, lambda net: swish(net, inner=1.702)),
    "SiLU with factors": (ops.Multiple, lambda net: swish(net, inner=-0.3, outer=5.0)),
    "SiLU with a quotient": (ops.Multiple, lambda net: swish(net, inner=1 / 3, exact=False)),
    "hard swish": (ops.HardSwish, lambda net: net(ops.Product(), "x", gate(net, "x", ops.HardSigmoid(1 / 6)))),
    "hard swish, single": (
        ops.HardSwish, lambda net: net(ops.Product(), gate(net, "x", ops.HardSigmoid(float(np.float32(1 / 6)))), "x")
    ),
    "hard swish with factors": (
        ops.Multiple,
        lambda net: net(ops.Product(), net.scaled(3.0), gate(net, net.scaled(0.5), ops.HardSigmoid(1 / 6))),
    ),
    "Mish": (ops.Mish, lambda net: net(ops.Product(), "x", gate(net, "x", ops.Softplus(1.0, 20.0), ops.Tanh()))),
}  # fmt: skip


def transposed(net: Written) -> str:
    """Halves of an axis that was another one before."""
    a, b = net.halves(of=net(ops.Permute((0, 2, 1, 3)), "x"))
    return net(ops.Concat(2), net(ops.Maximum(), a, b), net(ops.Minimum(), a, b))


def cut_again(net: Written) -> str:
    """Both ends have cuts of their own, of the same entries."""
    ends = [net(one(), *net.halves()) for one in (ops.Maximum, ops.Minimum)]
    return net(ops.Concat(1), *ends)


def whole_cuts(net: Written) -> str:
    """Slices of all entries, as exporters write them for each axis."""
    halves = [net.cut(0, 3, of=net.cut(None, None, axis=0)), net.cut(-3, 2**63 - 1, of=net.cut(0, 2**63 - 1, axis=2))]
    ends = [net(one(), *halves) for one in (ops.Maximum, ops.Minimum)]
    return net(ops.Concat(1), *ends)


def points(shape: tuple[int, ...]) -> list[NDArray[np.float64]]:
    """At random, with ties, of one sign, large, and 0."""
    numbers = np.random.default_rng(0)
    spread = numbers.normal(size=shape) * 3
    return [
        spread, np.round(spread), -abs(spread), 100 * spread, np.zeros(shape), np.full(shape, 1.5), np.full(shape, -1.5)
    ]  # fmt: skip


def agree(graph: Graph, *, least: int = 2, close: float = 1e-13) -> Graph:
    """The network after recognition, whose values of the same names are the same."""
    read = recognised(graph)
    for x in points(SHAPE):
        before, after = graph.run({"x": x}), read.run({"x": x})
        shared = before.keys() & after.keys()
        assert shared == before.keys()
        assert len(shared) >= least
        for name in shared:
            # GELU's own form is by another function where 1 + erf loses digits, hard swish has 1/6 in double precision.
            apart = abs(before[name] - after[name])
            assert apart.max(initial=0) <= close * (abs(before[name]).max() + abs(x).max()), name
    assert [node.name for node in graph.nodes] == [node.name for node in read.nodes if node.name in graph.by_name]
    assert all(read.by_name[node.name].shape == node.shape for node in graph.nodes)
    return read
