"""What is recognised computes what was written out, and moves no pair further apart; what looks like it is left."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
from helpers.checks import present
from networks.written_networks import SHAPE, Written
from specnorm_networks import Product, within
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.graph import Graph, Node
from specnorm_networks.certified.operators import Operator
from specnorm_networks.certified.patterns import recognise_patterns
from specnorm_networks.certified.patterns.curves.composite import Composite
from specnorm_networks.certified.patterns.permutations import remove_permutations
from specnorm_networks.tools import Measure, bound

from specnorm.proofs.interval import point

Write = Callable[[Written], str]
PLUS = ops.Add((1.0, 1.0))
MINUS = ops.Add((1.0, -1.0))


def gate(net: Written, *functions: Operator, of: str = "x", times: str = "x") -> str:
    for function in functions:
        of = net(function, of)
    return net(ops.Product(), times, of)


def line(slope: float) -> Operator:
    return ops.Scale(np.array(slope), lambda: (np.array(0.5), np.zeros(())), exact=True)


def gelu(net: Written, inner: float = 1 / math.sqrt(2), one: float = 1.0, weights: Operator = PLUS) -> str:
    erf = net(ops.Erf(), net.scaled(inner, exact=False))
    sides = (erf, net.constant(one)) if weights is PLUS else (net.constant(one), erf)
    return net(ops.Product(), net.scaled(0.5), net(weights, *sides))


def softsign(net: Written, one: float = 1.0, of: str = "x") -> str:
    return net(ops.Quotient(), "x", net(PLUS, net(ops.Abs(), of), net.constant(one)))


def softshrink(net: Written, edge: float = 0.5, moved: float = 0.5, kind: Any = "gt", rest: float = 0.0) -> str:
    far = net(MINUS, "x", net.scaled(moved, net(ops.Sign(), "x")))
    return net(ops.Choose(), net(ops.Compare(kind, edge), net(ops.Abs(), "x")), far, net.scaled(rest))


def leaky(net: Written, kind: Any = "gt", sign: float = 1.0, slope: float = 0.3, threshold: float = 0.0) -> str:
    ends = ("x", net.scaled(slope))
    compared = net(ops.Compare(kind, threshold), net.scaled(sign) if sign != 1 else "x")
    return net(ops.Choose(), compared, *ends if kind in ("gt", "ge") else ends[::-1])


def by_products(net: Written, *kinds: Any) -> str:
    sides = zip(("x", net.scaled(-0.7)), kinds or ("ge", "lt"), strict=True)
    return net(PLUS, *(gate(net, ops.Compare(kind, 0.0), times=value) for value, kind in sides))


ANGLES = np.linspace(0.3, 2, 3).reshape(-1, 1, 1)


def householder(
    net: Written, border: float = 0.5, swapped: bool = False, along: int = 1, products: bool = False,
    theta: Any = ANGLES, stretch: float = 1.0,
) -> str:  # fmt: skip
    x, y = net.halves()

    def mixed(a: Any, b: Any) -> str:
        return net(PLUS, net.scaled(a, x), net.scaled(b, y))

    sign = mixed(np.sin(border * theta), -np.cos(border * theta))
    turned = mixed(np.cos(theta), np.sin(theta)), mixed(np.sin(theta), -np.cos(theta))
    ends: list[str] = []
    for plain, other in zip((y, x) if swapped else (x, y), turned, strict=True):
        plain, other = (net.scaled(1.0 if ends else stretch, each) for each in (plain, other))
        if products:
            gates = ops.Compare("le", 0.0), ops.Compare("gt", 0.0)
            sides = [gate(net, one, of=sign, times=value) for one, value in zip(gates, (plain, other), strict=True)]
            ends.append(net(PLUS, *sides))
        else:
            ends.append(net(ops.Choose(), net(ops.Compare("le", 0.0), sign), plain, other))
    return net(ops.Concat(along), *ends)


def pairs(net: Written, keep: bool = True, along: int = 2) -> str:
    split = net(ops.Reshape((2, 3, 2, 4, 4)), "x")
    ends = [net(one((2,), keep), split) for one in (ops.Largest, ops.Smallest)]
    return net(ops.Reshape(SHAPE), net(ops.Concat(along, not keep), *ends))


SMALLEST = ops.Smallest((2,))


def pairs_apart(net: Written, along: int = 1, least: Operator = SMALLEST) -> str:
    """MaxMin as Anil et al. have it: all of the larger ones, then all of the smaller ones."""
    split = net(ops.Reshape((2, 3, 2, 4, 4)), "x")
    return net(ops.Concat(along), net(ops.Largest((2,)), split), net(least, split))


def pairs_by_relu(net: Written, least: str = "u", weights: Operator = MINUS, along: int = 1) -> str:
    """The maximum is v + relu(u - v), the minimum u - relu(u - v)."""
    u, v = net.halves()
    rest = net(ops.ReLU(), net(MINUS, u, v))
    ends = net(PLUS, v, rest), net(weights, {"u": u, "v": v}[least], rest)
    return net(ops.Concat(along), *ends)


MAXIMUM = ops.Maximum()
NORM = ops.Norm((1,), keep=True)


def groups(net: Written, between: tuple[int, ...] = (2, 2, 3, 4, 4), axis: int = 2) -> str:
    return net(ops.Reshape(SHAPE), net(ops.Sort(axis, descending=True), net(ops.Reshape(between), "x")))


def normalised(
    net: Written, form: str, eps: float = 0.1, of: str = "x", axes: tuple[int, ...] = (1,), top: str = "x"
) -> str:
    """By the length or the root of the mean square, as a quotient or as a product with an inverse."""
    if form.startswith("length"):
        length = net(ops.Norm(axes, keep=True), of)
        below = net(PLUS, net.constant(eps), length) if "sum" in form else net(ops.HardTanh(eps, math.inf), length)
    else:
        square = net(ops.Power(2), of) if "power" in form else net(ops.Product(), of, of)
        below = net(ops.Sqrt(), net(PLUS, net(ops.Mean(axes, keep=True), square), net.constant(eps)))
    if "quotient" in form:
        return net(ops.Quotient(), top, below)
    return net(ops.Product(), top, net(ops.Reciprocal(), below))


def onto_ball(
    net: Written, length: Operator, cap: float = 1.0, radius: float = 1.0, of: str = "x", eps: float = 0.0
) -> str:
    """As gradients are clipped: x times the smaller one of a number and radius / (|x| + eps)."""
    below = net(PLUS, net(length, of), net.constant(eps)) if eps else net(length, of)
    inverse = net.scaled(radius, net(ops.Reciprocal(), below))
    return net(ops.Product(), "x", net(ops.HardTanh(-math.inf, cap), inverse))


def by_deviation(net: Written, form: str, of: str = "", count: float = 5.0) -> str:
    """By the standard deviation and a number, as torch's exporter writes it: the mean, times 6, over 5."""
    centred = net(MINUS, "x", net(ops.Mean((1,), keep=True), "x"))
    variance = net(ops.Mean((1,)), net(ops.Product(), of or centred, of or centred))
    if form.startswith("unbiased"):
        variance = net(ops.Scale(np.array(1 / count), divisors=np.array(count)), net.scaled(6.0, variance))
    variance = net(ops.Reshape((2, 1, 4, 4)), variance)
    if "under" in form:
        return net(ops.Quotient(), centred, net(ops.Sqrt(), net(PLUS, variance, net.constant(0.1))))
    deviation = net(ops.Sqrt(), variance)
    below = net(PLUS, deviation, net.constant(0.1)) if "sum" in form else net(ops.HardTanh(0.1, math.inf), deviation)
    return net(ops.Quotient(), centred, below)


def log_add_exp(
    net: Written,
    jax: bool = False,
    of: tuple[str, ...] = (),
    largest: tuple[str, ...] = (),
    extreme: Operator = MAXIMUM,
) -> str:
    """As torch and as JAX write it."""
    u, v = of or net.halves(2)
    if not jax:
        return net(ops.Log(), net(PLUS, net(ops.Exp(), u), net(ops.Exp(), v)))
    distance = net(ops.Abs(), net(MINUS, u, v))
    rest = net(ops.Log(), net(PLUS, net(ops.Exp(), net(ops.Negative(), distance)), net.constant(1.0)))
    return net(PLUS, net(extreme, *(largest or (v, u))), rest)


def by_share_of_length(net: Written, divisor: float, dividend: float = 1.0, eps: float = 1.0) -> str:
    share = net(ops.Scale(np.array(1 / divisor), divisors=np.array(divisor)), net(NORM, "x"))
    return net(ops.Quotient(), net.scaled(dividend), net(ops.HardTanh(eps, math.inf), share))


def by_moments(
    net: Written, axes: tuple[int, ...] = (1,), of: str = "x", weights: Any = MINUS, top: str = "", floor: float = 0.0,
) -> str:  # fmt: skip
    """Layer norm as Flax has it: of the mean of squares less the square of the mean."""
    mean = net(ops.Mean((1,), keep=True), "x")
    variance = net(weights, net(ops.Mean(axes, keep=True), net(ops.Product(), of, of)), net(ops.Product(), mean, mean))
    if floor == 0:
        variance = net(ops.ReLU(), variance)
    centred = top or net(MINUS, "x", mean)
    return net(ops.Quotient(), centred, net(ops.Sqrt(), net(PLUS, variance, net.constant(0.1))))


def summed(net: Written, of: str, axis: int = 1, back: bool = True) -> str:
    """As JAX keeps an axis: dropped, put back, and broadcast with its own shape."""
    kept = (*SHAPE[:axis], 1, *SHAPE[axis + 1 :])
    total = net(ops.Sum((axis,)), of)
    return net(ops.Broadcast(kept), net(ops.Reshape(kept), total)) if back else total


def mean_of(net: Written, of: str, count: float = 6.0, axis: int = 1) -> str:
    return net(ops.Scale(np.array(1 / count), divisors=np.array(count)), summed(net, of, axis))


def softmax(
    net: Written, logarithm: bool = False, shift: str | None = None, other: str | None = None, axis: int = 1,
    twice: bool = False,
) -> str:  # fmt: skip
    u = net(MINUS, "x", shift or net(ops.Largest((1,), keep=True), "x"))
    power = net(ops.Exp(), u)
    total = summed(net, net(ops.Exp(), u) if twice else other or power, axis)
    return net(MINUS, u, net(ops.Log(), total)) if logarithm else net(ops.Quotient(), power, total)


def by_variance(net: Written, count: float = 6.0, of: str = "x", axis: int = 1) -> str:
    """Layer norm by `jnp.var`, which takes the mean once more."""
    centred = net(MINUS, "x", net(ops.Mean((1,), keep=True), "x"))
    once_more = net(MINUS, of, mean_of(net, of, count, axis))
    variance = mean_of(net, net(ops.Power(2), once_more))
    return net(ops.Quotient(), centred, net(ops.Sqrt(), net(PLUS, variance, net.constant(0.1))))


def softplus_of_number(net: Written, number: float = 2.5, times: float = 1.0) -> str:
    power = net(ops.Exp(), "x")
    return net(ops.Log(), net(PLUS, power if times == 1 else net.scaled(times, power), net.constant(number)))


def root_of_squares(net: Written, power: int = 2, back: bool = True) -> str:
    return net(ops.Sqrt(), summed(net, net(ops.Power(power), "x"), back=back))


def log_sum_exp(
    net: Written, of: str = "x", total: Operator | None = None, power: Operator | None = None, more: float = 0.0
) -> str:
    powers = net(power or ops.Exp(), of)
    sums = net(total, powers) if total else summed(net, powers)
    return net(ops.Log(), net(PLUS, sums, net.constant(more)) if more else sums)


def log_of_other_entries(net: Written) -> str:
    split = net(ops.Reshape((2, 3, 2, 4, 4)), net(ops.Exp(), "x"))
    return net(ops.Log(), net(ops.Sum((2,)), split))


PATTERNS: dict[str, tuple[type[Operator], Write]] = {
    "SiLU with factors": (Composite, lambda net: gate(net, ops.Sigmoid(), of=net.scaled(-0.3, exact=False))),
    "hard swish": (Composite, lambda net: gate(net, line(1 / 6), ops.HardTanh(0.0, 1.0))),
    "Mish": (Composite, lambda net: gate(net, ops.Softplus(), ops.Tanh())),
    "GELU": (Composite, gelu),
    "GELU by 1 - erf": (Composite, lambda net: gelu(net, -1 / math.sqrt(2), weights=MINUS)),
    "softsign": (Composite, softsign),
    "softshrink": (Composite, softshrink),
    "hard sigmoid of a fifth": (Composite, lambda net: gate(net, line(0.2), ops.HardTanh(0.0, 1.0))),
    "x tanh(x), cut": (Composite, lambda net: gate(net, ops.Tanh(), ops.HardTanh(-0.5, 0.9))),
    "1 + |x|, twice": (Composite, lambda net: softsign(net, one=2.0)),
    "one side twice": (Composite, lambda net: by_products(net, "gt", "gt")),
    "neither side at 0": (Composite, lambda net: by_products(net, "gt", "lt")),
    "leaky": (Composite, leaky),
    "leaky, at most": (Composite, lambda net: leaky(net, "le")),
    "leaky by a negative multiple": (Composite, lambda net: leaky(net, sign=-3.0, slope=-2.0)),
    "leaky by products": (Composite, by_products),
    "Householder": (ops.Reflection, householder),
    "Householder by products": (ops.Reflection, lambda net: householder(net, products=True)),
    "Householder, stretched": (ops.Reflection, lambda net: householder(net, stretch=3.0)),
    "pairs": (ops.GroupSort, pairs),
    "pairs, stacked": (ops.GroupSort, lambda net: pairs(net, keep=False)),
    "pairs, apart": (ops.GroupSort, pairs_apart),
    "pairs, apart along columns": (ops.GroupSort, lambda net: pairs_apart(net, 2)),
    "pairs by ReLU": (ops.GroupSort, pairs_by_relu),
    "groups": (ops.GroupSort, groups),
    **{form: (ops.Normalise, partial(normalised, form=form)) for form in (
        "length, quotient", "length, inverse", "length, sum, quotient", "length, sum, inverse",
        "mean square, quotient", "mean square, power, inverse",
    )},
    **{form: (ops.Normalise, partial(by_deviation, form=form)) for form in (
        "biased, sum", "unbiased, sum", "unbiased, largest", "unbiased, under the root",
    )},
    "twice, by the length": (ops.Scale, lambda net: normalised(net, "length, quotient", top=net.scaled(2.0))),
    "half, by the mean square": (ops.Scale, lambda net: normalised(net, "mean square, inverse", top=net.scaled(-0.5))),
    "onto a ball": (ops.Normalise, lambda net: onto_ball(net, NORM)),
    "onto a ball of radius 3, cap 2": (ops.Scale, lambda net: onto_ball(net, NORM, 2.0, 3.0)),
    "onto a ball, by a share of the length": (ops.Scale, lambda net: by_share_of_length(net, 3.0)),
    "a multiple, by a share of the length": (ops.Scale, lambda net: by_share_of_length(net, 3.0, -0.3, 0.75)),
    "onto a ball, by the length and a number": (ops.Scale, lambda net: onto_ball(net, NORM, 0.7, 3.0, eps=0.1)),
    "onto a ball of no radius to speak of": (ops.Scale, lambda net: onto_ball(net, NORM, radius=0.3, eps=0.7)),
    "onto an interval": (Composite, lambda net: onto_ball(net, ops.Abs(), radius=0.7)),
    "the logarithm of a mean of exponentials": (ops.Scale, lambda net: log_sum_exp(net, total=ops.Mean((1,)))),
    "the logarithm of a mean that is written out": (ops.Scale, lambda net: net(
        ops.Log(), mean_of(net, net(ops.Exp(), "x")))),
    "the logarithm of a sum of multiples": (ops.LogSumExp, lambda net: net(
        ops.Log(), summed(net, net.scaled([[[[0.5, 1, 2, 3]]]], net(ops.Exp(), "x"))))),
    "log-sum-exp, less x": (ops.Negative, lambda net: net(MINUS, net(ops.LogSumExp((1,), keep=True), "x"), "x")),
    "log-sum-exp, less x, written out": (ops.Negative, lambda net: net(MINUS, log_sum_exp(net), "x")),
    "x less its log-sum-exp": (ops.LogSoftmax, lambda net: net(MINUS, "x", net(ops.LogSumExp((1,), keep=True), "x"))),
    "softplus of a number": (ops.Scale, softplus_of_number),
    "softplus, shifted": (ops.Scale, lambda net: softplus_of_number(net, 0.5, 0.5)),
    "softplus of thrice, and one": (ops.Scale, lambda net: softplus_of_number(net, 1.0, 3.0)),
    "softplus of a small number": (ops.Scale, lambda net: softplus_of_number(net, 1e-30)),
    "log of two exponentials": (ops.LogAddExp, log_add_exp),
    "log of two exponentials, by the maximum": (ops.LogAddExp, lambda net: log_add_exp(net, jax=True)),
    "log of two exponentials, read twice": (ops.LogAddExp, lambda net: log_add_exp(net, True, largest=net.halves(2))),
    "log of two exponentials of one value": (Composite, lambda net: log_add_exp(net, of=("x", net.scaled(0.5)))),
    "softmax": (ops.Softmax, softmax),
    "softmax of exponentials taken twice": (ops.Softmax, lambda net: softmax(net, twice=True)),
    "softmax of another shift": (ops.Softmax, lambda net: softmax(net, shift=net(ops.Mean((1,), keep=True), "x"))),
    "logarithm of softmax": (ops.LogSoftmax, lambda net: softmax(net, logarithm=True)),
    "log-sum-exp": (ops.LogSumExp, log_sum_exp),
    "log-sum-exp, axis kept": (ops.LogSumExp, lambda net: log_sum_exp(net, total=ops.Sum((2,), keep=True))),
    "log-sum-exp, axes dropped": (ops.LogSumExp, lambda net: log_sum_exp(net, total=ops.Sum((1, 3)))),
    "log-sum-exp of all": (ops.LogSumExp, lambda net: log_sum_exp(net, total=ops.Sum((0, 1, 2, 3)))),
    "log-sum-exp of a part": (ops.LogSumExp, lambda net: log_sum_exp(net, net.cut(1, 5))),
    "root of squares": (ops.Norm, root_of_squares),
    "root of squares, axis dropped": (ops.Norm, lambda net: root_of_squares(net, back=False)),
    "variance by a second mean": (ops.Normalise, by_variance),
    "variance by moments": (ops.Normalise, by_moments),
    "variance by moments, as it is": (ops.Normalise, lambda net: by_moments(net, floor=1.0)),
}  # fmt: skip
"""The operator that is to be seen in the place of the last node, and what is written out."""
LEFT: dict[str, Write] = {
    "a sum of other exponentials": lambda net: softmax(net, other=net(ops.Exp(), net(ops.Sin(), "x"))),
    "the logarithm of such a sum": lambda net: softmax(net, True, other=net(ops.Exp(), net(ops.Sin(), "x"))),
    "the logarithm of a sum of exponentials and a number": lambda net: log_sum_exp(net, more=1.0),
    "the logarithm of a sum of others": lambda net: log_sum_exp(net, power=ops.Softplus()),
    "the logarithm of a sum of multiples by 0, too": lambda net: net(
        ops.Log(), summed(net, net.scaled([[[[0.0, 1, 2, 3]]]], net(ops.Exp(), "x")))
    ),
    "log-sum-exp of another value, less x": lambda net: net(
        MINUS, net(ops.LogSumExp((1,), keep=True), net(ops.Sin(), "x")), "x"
    ),
    "the logarithm of a part of a sum of exponentials": lambda net: net(
        ops.Log(), summed(net, net.cut(0, 5, of=net(ops.Exp(), "x")))),
    "the logarithm of copies of a sum of exponentials": lambda net: net(
        ops.Log(), net(ops.Broadcast(SHAPE), summed(net, net(ops.Exp(), "x")))),
    "the logarithm of sums of pairs": log_of_other_entries,
    "a cumulative sum of exponentials": lambda net: log_sum_exp(net, total=ops.CumulativeSum(1)),
    "the maximum of others": lambda net: log_add_exp(net, jax=True, largest=net.halves(2, net(ops.Sin(), "x"))),
    "the minimum": lambda net: log_add_exp(net, jax=True, extreme=ops.Minimum()),
    "a root of fourth powers": lambda net: root_of_squares(net, 4),
    "a sum that is no mean": lambda net: by_variance(net, 5.0),
    "a mean along another axis": lambda net: by_variance(net, 4.0, axis=2),
    "a variance of another value": lambda net: by_variance(net, of=net(ops.Sin(), "x")),
    "moments of other axes": lambda net: by_moments(net, (2,)),
    "squares of another value": lambda net: by_moments(net, of=net(ops.Sin(), "x")),
    "mean of squares and square of the mean": lambda net: by_moments(net, weights=PLUS),
    "not centred": lambda net: by_moments(net, top="x"),
    "centred by another value": lambda net: by_moments(net, top=net(MINUS, "x", net(ops.Sin(), "x"))),
    "shrunk by more than the edge": lambda net: softshrink(net, moved=0.6),
    "what is not shrunk to 0": lambda net: softshrink(net, rest=0.1),
    "shrunk inside": lambda net: softshrink(net, kind="lt"),
    "a jump": lambda net: leaky(net, threshold=1.0),
    "reflected at another line": lambda net: householder(net, border=0.4),
    "reflected and swapped": lambda net: householder(net, swapped=True),
    "reflected, put elsewhere": lambda net: householder(net, along=2, theta=np.array(1.2)),
    "the lower one less the difference": lambda net: pairs_by_relu(net, least="v"),
    "the upper one and the difference": lambda net: pairs_by_relu(net, weights=PLUS),
    "the larger one twice": lambda net: pairs_by_relu(net, least="v", weights=PLUS),
    "pairs put elsewhere": lambda net: pairs(net, along=3),
    "the smaller ones of other pairs": lambda net: pairs_apart(net, least=ops.Smallest((1,))),
    "the larger ones twice": lambda net: pairs_apart(net, least=ops.Largest((2,))),
    "sorted along a part of another axis": lambda net: groups(net, (2, 3, 2, 4, 4), 3),
    "sorted in another shape": lambda net: groups(net, (4, 2, 3, 4, 2)),
    "the length of another value": lambda net: normalised(net, "length, quotient", of=net(ops.Sin(), "x")),
    "a mean square of another value": lambda net: normalised(net, "mean square, inverse", of=net(ops.Sin(), "x")),
    "a negative number and the length": lambda net: normalised(net, "length, sum, quotient", eps=-1e-3),
    "a deviation of another value": lambda net: by_deviation(net, "unbiased, sum", of=net(ops.Sin(), "x")),
    "a variance of two thirds of a term": lambda net: by_deviation(net, "unbiased, sum", count=2 / 3),
    "onto a ball, of another length": lambda net: onto_ball(net, NORM, of=net(ops.Sin(), "x")),
    "onto a ball, and a number below 0": lambda net: onto_ball(net, NORM, eps=-1e-3),
    "a cap below 0": lambda net: onto_ball(net, NORM, cap=-1.0),
    "a radius below 0": lambda net: onto_ball(net, NORM, radius=-1.0),
    "a multiple that underflows": lambda net: net(
        ops.Product(), net.scaled(1e-200), net(ops.Reciprocal(1e-200), net(ops.HardTanh(0.1, math.inf), net(NORM, "x")))
    ),
    "attention whose weights are those of columns": lambda net: attention(net, axis=2),
    "attention whose masked scores are 0": lambda net: attention(net, filling=0.0),
    "attention with scores that are added": lambda net: attention(net, more=True),
    "a share below 0": lambda net: by_share_of_length(net, -3.0),
    "a negative eps": lambda net: normalised(net, "mean square, inverse", eps=-1e-3),
}  # fmt: skip


def attention(net: Written, axis: int = 3, filling: float | None = None, *, more: bool = False) -> str:
    scores = net(ops.MatrixProduct(), "x", net(ops.Permute((0, 1, 3, 2)), "x"))
    if filling is not None:
        scores = net(ops.Where(lambda: np.eye(4) > 0), scores, net.constant(filling))
    if more:
        scores = net(PLUS, scores, "x")
    return net(ops.MatrixProduct(), net(ops.Softmax((axis,)), scores), "x")


def points() -> list[Any]:
    """At random, with ties, of one sign, large, and near 0."""
    spread = 3 * np.random.default_rng(0).normal(size=SHAPE)
    return [spread, np.round(spread), -abs(spread), 100 * spread, 1e-3 * spread, np.full(SHAPE, 1.5)]


@pytest.mark.parametrize("name", PATTERNS)
def test_what_is_recognised_computes_the_same(name: str) -> None:
    expected, write = PATTERNS[name]
    net = Written()
    numbers = np.random.default_rng(1)
    reached = 0.0
    graph = net.graph(write(net))
    (end,) = graph.outputs
    read = recognise_patterns(graph)
    assert type(read.by_name[end].operator) is expected
    upper = present(bound(graph, Measure(1e-6), method=Product(), check=False).upper)
    for x in points():
        before, after = (each.run({"x": x})[end] for each in (graph, read))
        assert abs(before - after).max() <= 1e-12 * (abs(before).max() + abs(x).max())
        for size in (1e-4, 0.1, 10.0):
            y = x + size * numbers.normal(size=SHAPE) * numbers.choice([1e-3, 1.0], size=SHAPE)
            apart = np.linalg.norm(graph.run({"x": y})[end] - before) - 1e-12 * np.linalg.norm(before)
            reached = max(reached, float(apart / np.linalg.norm(y - x)))
    assert 0.2 * upper < reached <= upper * (1 + 1e-9)


@pytest.mark.parametrize("cap", [0.3, 0.7, 1.9])
def test_the_length_from_which_a_value_is_divided_is_rounded_down(cap: float) -> None:
    """In rational numbers: no divisor of the network is below those that are counted, and none is above."""
    net = Written()
    nodes = recognise_patterns(net.graph(onto_ball(net, NORM, cap, 3.0, eps=0.1))).nodes
    (operator,) = [node.operator for node in nodes if isinstance(node.operator, ops.Normalise)]
    exact = 3 / Fraction(cap) - Fraction(0.1)
    assert Fraction(operator.floor) <= exact < Fraction(math.nextafter(operator.floor, math.inf))
    divisors = operator._divisor(point(np.zeros(1)), 1)
    assert Fraction(divisors.low.item()) <= exact + Fraction(0.1) <= Fraction(divisors.high.item())


@pytest.mark.parametrize("times", [-0.5, 5e-324])
def test_not_every_multiple_of_an_exponential_makes_a_softplus(times: float) -> None:
    net = Written()
    with np.errstate(all="ignore"):
        graph = net.graph(softplus_of_number(net, 2.5, times))
    assert [node for node in recognise_patterns(graph).nodes if isinstance(node.operator, ops.Softplus)] == []


def test_a_log_sum_exp_has_the_constant_of_its_box() -> None:
    """There the operators have constants without the pattern: the root of n largest slopes, over the smallest sum."""
    net = Written((1, 100))
    graph = within(net.graph(net(ops.Log(), net(ops.Sum((1,)), net(ops.Exp(), "x")))), 0.0, 0.1)
    assert present(bound(graph, Measure(1e-6), method=Product(), check=False).upper) <= 0.1 * math.exp(0.1) * (1 + 1e-9)


@pytest.mark.parametrize("name", LEFT)
def test_what_only_looks_like_a_pattern_stays_as_it_is(name: str) -> None:
    net = Written()
    with np.errstate(all="ignore"):
        graph = net.graph(LEFT[name](net))
    end = graph.outputs[0]
    assert recognise_patterns(graph).by_name[end].operator is graph.by_name[end].operator


def test_numbers_of_entries_move_with_a_permutation() -> None:
    """A mask, a constant and factors in a function of one value stayed in their order: other entries were chosen."""
    rng = np.random.default_rng(0)
    mask, number, factors, offset = rng.integers(2, size=(1, 3, 3, 3)) > 0, *rng.standard_normal((3, 1, 3, 3, 3))
    line = ops.Scale(factors, lambda: (offset, np.zeros(())))
    program = (line, (0,)), (ops.Where(lambda: mask), (0, 1)), (ops.Constant(lambda: number), ()), (PLUS, (2, 3))
    shape = (1, 3, 3, 3)
    nodes = [
        Node("x", ops.Input(), (), shape), Node("first", ops.Permute((0, 3, 1, 2)), ("x",), shape),
        Node("choice", Composite(program), ("first",), shape), Node("line", line, ("choice",), shape),
        Node("y", ops.Permute((0, 2, 3, 1)), ("line",), shape),
    ]  # fmt: skip
    graph = Graph(tuple(nodes), ("y",))
    moved = remove_permutations(graph)
    assert [node for node in moved.pruned().nodes if isinstance(node.operator, ops.Permute)] == []
    x = {"x": rng.standard_normal(shape)}
    np.testing.assert_array_equal(moved.run(x)["y"], graph.run(x)["y"])


@pytest.mark.parametrize(("theta", "jumps"), [(ANGLES, True), (np.zeros((3, 1, 1)), False)])
def test_the_answer_names_jumps_of_householder_activations(theta: Any, jumps: bool) -> None:
    """Of rounded angles both maps differ on the border: next to it no constant holds."""
    net = Written()
    found = bound(net.graph(householder(net, theta=theta)), Measure(1e-6), method=Product(), check=False)
    assert ("jumps of its Householder" in found.note) is jumps
    assert ("jumps" in str(found)) is jumps
    once = recognise_patterns(net.graph(householder(net, theta=theta)))
    assert recognise_patterns(once).note == once.note


def test_a_reflection_of_maps_that_differ_has_no_bound() -> None:
    """Its norm is computed, and was a field that anybody could state."""
    one = np.ones(3)
    none = np.zeros(3)
    maps = np.array([[one, none], [none, one]])
    apart = ops.Reflection(1, np.array([none, one]), maps, 2 * maps)
    net = Written()
    assert bound(net.graph(net(apart, "x")), Measure(1e-6), method=Product(), check=False).upper is None
