"""Two layers are bounded together whatever stands between them, and no pair of inputs is further apart than is said."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
from helpers.checks import present
from networks.written_networks import Written
from specnorm_networks import Graph, Multipliers, Product
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.combinations import LinearCombination, NoSumError, multiply
from specnorm_networks.certified.links import Term
from specnorm_networks.certified.operators import Operator
from specnorm_networks.tools import Measure, bound


def layer(net: Written, of: str, kernel: Any) -> str:
    return net.convolution(kernel, of) if kernel.ndim == 3 else net.matrix(kernel, of)


def between(first: Any, *operators: Operator | Callable[[Written, str], str], last: Any) -> Graph:
    """Two layers, and something between them; their numbers are a matrix' diagonal, or a kernel's middle taps."""
    spatial = any(getattr(kernel, "ndim", 1) == 3 for kernel in (first, last))
    net = Written((1, len(first), *(5,) * spatial))
    at = layer(net, "x", diagonal(first, spatial))
    for each in operators:
        at = net(each, at) if isinstance(each, Operator) else each(net, at)
    return net.graph(layer(net, at, diagonal(last, spatial)))


def diagonal(numbers: Any, spatial: bool) -> Any:
    if np.ndim(numbers) > 1:
        return numbers
    return np.diag(numbers)[..., None] * np.array([0.0, 1.0, 0.0]) if spatial else np.diag(numbers)


def scaled(*values: float) -> Operator:
    return ops.Scale(np.array(values if len(values) > 1 else values[0]), exact=True)


def summed(net: Written, at: str) -> str:
    return net(ops.Add((1.0, 1.0)), at, net(scaled(3.0), "x"))


def stacked(net: Written, at: str) -> str:
    """Twice the value, and half of it the other way around."""
    return net(ops.Concat(1, False), net(scaled(2.0), at), net(scaled(-0.5), at))


def convolved(*numbers: float) -> Any:
    return diagonal(numbers, True)


RELU = ops.ReLU()
ANGLES = np.array([1.0, 1.5])
ONE = np.ones(2)
NONE = np.zeros(2)
COS = np.cos(ANGLES)
SIN = np.sin(ANGLES)
REFLECTION = ops.Reflection(
    1, np.array([np.sin(ANGLES / 2), -np.cos(ANGLES / 2)]), np.array([[ONE, NONE], [NONE, ONE]]),
    np.array([[COS, SIN], [SIN, -COS]]),
)  # fmt: skip
SWAPPED = partial(layer, kernel=np.array([[0.0, 3.0], [1.0, 0.0]]))
STEEP = (9.0, 9.0, 0.1, 0.1)
FLAT = (0.1, 0.1, 9.0, 9.0)
NETWORKS: dict[str, Callable[[], Graph]] = {
    "a matrix": lambda: between((1.0, 2.0), SWAPPED, RELU, last=(5.0, 1.0)),
    "a matrix and scales": lambda: between((1.0, 2.0), SWAPPED, scaled(0.1, -4.0), RELU, last=(1.0, 3.0)),
    "a steeper function": lambda: between((1.0, 2.0), ops.LeakyReLU(0.5), ops.LeakyReLU(4.0), last=(1.0, 2.0)),
    "scales behind a function": lambda: between((1.0, 1.0), RELU, scaled(0.1, -5.0), last=(1.0, 1.0)),
    "a number behind a function": lambda: between((1.0, 2.0), SWAPPED, RELU, scaled(-3.0), last=(2.0, 1.0)),
    "a number behind pixels": lambda: between(STEEP, RELU, scaled(-3.0), last=convolved(*FLAT)),
    "pieces and their numbers": lambda: between((1.0, 2.0), RELU, stacked, last=(1.0, 0.5, 2.0, 1.0)),
    "some channels": lambda: between(FLAT, RELU, ops.Slice(((1, 2, 3, 1),)), last=(3.0,)),
    "some channels of convolutions": lambda: between(
        FLAT, RELU, ops.Slice(((1, 2, 3, 1),)), last=convolved(3.0)
    ),
    "sorting": lambda: between(STEEP, ops.Sort(1), last=FLAT),
    "neighbours sorted": lambda: between(STEEP, ops.GroupSort(1, 4, "consecutive", True), last=FLAT),
    "halves sorted": lambda: between(STEEP, ops.GroupSort(1, 2, "strided", True), last=FLAT),
    "reflections": lambda: between(STEEP, REFLECTION, last=FLAT),
    "a sum with the input": lambda: between((0.5, 0.1), summed, RELU, last=(1.0, 2.0)),
    "windows": lambda: between(
        STEEP, RELU, ops.MaxPool(ops.Windows((2,), (2,), (1,), ((0, 0),))), last=convolved(*STEEP)
    ),
    "zeros as channels": lambda: between(
        STEEP, RELU, ops.Pad("zeros", ((2, 1), (0, 0))), last=convolved(0.1, 0.1, 9.0, 9.0, 0.1, 0.1, 0.1)
    ),
}  # fmt: skip


def reached(graph: Graph, draws: int = 12) -> float:
    shape = present(graph.nodes[0].shape)
    (end,) = graph.outputs
    best = 0.0
    step = 1e-5
    moves = step * np.eye(int(np.prod(shape))).reshape(-1, *shape)
    for seed in range(draws):
        x = np.random.default_rng(seed).normal(size=shape)
        columns = [graph.run({"x": x + move})[end] - graph.run({"x": x - move})[end] for move in moves]
        best = max(best, float(np.linalg.norm(np.stack([np.ravel(c) for c in columns]) / (2 * step), 2)))
    return best


@pytest.mark.parametrize("name", NETWORKS)
def test_no_pair_is_further_apart_than_the_bound(name: str) -> None:
    graph = NETWORKS[name]()
    found = bound(graph, Measure(1e-4), method=Multipliers(steps=10))
    assert reached(graph) * (1 - 1e-6) <= present(found.upper) <= present(found.product)


@pytest.mark.parametrize("taps", [(), (3,)], ids=["matrices", "convolutions"])
def test_a_number_between_two_layers_is_the_second_ones(taps: tuple[int, ...]) -> None:
    """It was a link of its own, which no search brings to the end: 2.4 % more for Hardsigmoid, a sixth of a clip."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=(6, 6, *taps))
    last = rng.normal(size=(3, 6, *taps))
    plain, times_3 = (
        bound(between(first, RELU, *numbers, last=last), Measure(1e-5)) for numbers in ((), (scaled(-3.0),))
    )
    assert present(plain.upper) < 0.98 * present(plain.product)
    assert present(times_3.upper) == pytest.approx(3 * present(plain.upper), rel=1e-4)


@pytest.mark.parametrize("method", [Multipliers(), Product()])
@pytest.mark.parametrize(
    ("factors", "last"), [((1e-200, 1e-200), 1e300), ((1e-308, 1e-5), 1e300), ((1e-200, 1e-200, 1e300), 1e300)]
)
def test_numbers_whose_product_is_no_normal_number(factors: Any, last: float, method: Any) -> None:
    """The product was rounded to 0, or to a number with few digits, as a factor of the last layer."""
    graph = between((1.0, 1.0), RELU, *map(scaled, factors), last=(last, last))
    truth = math.prod(map(Fraction, map(abs, factors)), start=Fraction(last))
    upper = present(bound(graph, Measure(1e-3), method=method, budget=20.0).upper)
    assert math.isinf(upper) or Fraction(upper) >= truth


def test_a_term_is_multiplied_exactly_or_not_at_all() -> None:
    """A hundred numbers in a row would be rounded a hundred times."""
    combination = LinearCombination((Term(0, range(1), range(1)),), 1, 1)
    product = combination
    for _ in range(100):
        product = multiply(product, 0.1)
    (term,) = product.terms
    assert term.alpha == Fraction(0.1) ** 100
    assert term.factor == pytest.approx(1e-100)
    for numbers in ((1e-200, 1e-200), (1e200, -1e200), (5e-324, 1.0), (math.inf, 1.0)):
        with pytest.raises(NoSumError):
            multiply(multiply(combination, numbers[0]), numbers[1])
    (zero,) = multiply(multiply(combination, 1e-300), 0.0).terms
    assert zero.factor == 0
