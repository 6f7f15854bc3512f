"""Every rewriting rule, and every rule for several nodes together, has a network that loses its bound without it.

The networks are the smallest ones. `networks.stored` has those that an exporter writes, and keeps their bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers.checks import present
from networks import test_patterns as written
from networks.written_networks import SHAPE, Written
from specnorm_networks import Multipliers, Product
from specnorm_networks import bounding as bounding_module
from specnorm_networks.bounding import bounded
from specnorm_networks.certified import branches, combinations, patterns, propagation
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.combinations import NoSumError
from specnorm_networks.certified.operators.base import NoBoundError
from specnorm_networks.certified.patterns import recognition
from specnorm_networks.tools import Measure

NORM = ops.Norm((1,))
PAIRS = 2.0**0.5 * (1 - 1e-9)
"""How much larger the bound on sorted pairs is as that of two functions."""


class Loss(NamedTuple):
    """A network, and how many times larger its bound is without a rule; infinity: it has none then."""

    network: Callable[[Written], str]
    times: float = math.inf
    method: Any = Product()
    shape: tuple[int, ...] = SHAPE


def matrix(net: Written, rows: int, of: str = "x") -> str:
    return net.matrix(np.random.default_rng(len(net.nodes)).standard_normal((rows, net.values[of].shape[-1])), of)


def convolution(net: Written, channels: int, of: str = "x") -> str:
    shape = (channels, net.values[of].shape[1], 3, 3)
    return net.convolution(np.random.default_rng(len(net.nodes)).standard_normal(shape), of)


def reshaped_and_back(net: Written) -> str:
    """As learned splines read all entries of a value, one after the other."""
    flat = net(ops.Reshape((192,)), "x")
    return net(ops.Product(), "x", net(ops.Tanh(), net(ops.Reshape(SHAPE), flat)))


def sorted_between_layers(net: Written) -> str:
    last = matrix(net, 8)
    for rows in (8, 3):
        pairs = net(ops.Sort(2), net(ops.Reshape((1, 4, 2)), last))
        last = matrix(net, rows, net(ops.Reshape((1, 8)), pairs))
    return last


def logistic(net: Written) -> str:
    return net(ops.Reciprocal(2.0), net(written.PLUS, net(ops.Exp(), net.scaled(-2.0)), net.constant(1.0)))


def largest_of_halves(net: Written) -> str:
    u, v = net.halves()
    return net(written.PLUS, v, net(ops.ReLU(), net(written.MINUS, u, v)))


def spline(net: Written) -> str:
    """Of the values 0, 1, 1.5 at 0, 1, 2."""
    y = net(ops.HardTanh(0.0, 1.5), "x")
    low = net(ops.Floor(), y)
    share = net(written.MINUS, y, low)
    at, behind = (net(ops.Lookup(table), net(ops.Truncated(), low)) for table in np.array([[0.0, 1.0], [1.0, 1.5]]))
    return net(written.PLUS, at, net(ops.Product(), share, net(written.MINUS, behind, at)))


def attention(net: Written) -> str:
    length = net(ops.Norm((2,), keep=True), "x")
    x = net(ops.Normalise((2,), 0.0, "length", floor=0.5), "x", length)
    keys = net(ops.Permute((0, 2, 1)), matrix(net, 4, x))
    return net(ops.MatrixProduct(), net(ops.Softmax((2,)), net(ops.MatrixProduct(), matrix(net, 4, x), keys)), x)


def product_with_rows(net: Written) -> str:
    table = np.random.default_rng(0).standard_normal((3, *SHAPE[1:]))
    rows = net(ops.Lookup(table), net.constant(np.arange(SHAPE[0])))
    return net(ops.Sum((1,)), net(ops.Product(), rows, "x"))


OF_PATTERNS: dict[str, Loss] = {
    "_as_earlier_value": Loss(reshaped_and_back),
    "as_reflection": Loss(lambda net: written.householder(net, products=True)), "as_softmax": Loss(written.softmax),
    "as_norm": Loss(written.root_of_squares), "as_sorted_axis": Loss(written.pairs_apart, PAIRS),
    "as_sorted_groups": Loss(sorted_between_layers, 1.1, Multipliers(), (1, 6)), "as_spline": Loss(spline),
    "as_normalisation": Loss(lambda net: written.normalised(net, "length, quotient")),
    "as_inverse_of_maximum": Loss(lambda net: net(ops.HardTanh(-math.inf, 1.0), net(ops.Reciprocal(), net(NORM, "x")))),
    "as_sorted_pairs": Loss(written.pairs_by_relu, PAIRS), "as_softplus": Loss(written.softplus_of_number),
    "as_sigmoid": Loss(logistic), "as_log_sum_exp": Loss(written.log_sum_exp),
    "as_extreme_of_moves": Loss(largest_of_halves, 2.2),
    "as_log_softmax": Loss(lambda net: net(written.MINUS, net(ops.LogSumExp((1,), keep=True), "x"), "x"), 1.2),
    "as_inner_product": Loss(product_with_rows, 1.2), "as_attention": Loss(attention, 1.5, shape=(1, 5, 4)),
}  # fmt: skip


# -- rules that see more than one pattern ------------------------------------------------------------------------------
def channels_last(net: Written) -> str:
    """A normalization behind a permutation, as in Keras and Flax; so large that no matrix holds all of it."""
    there, back = (0, 3, 1, 2), (0, 2, 3, 1)
    first = net(ops.Permute(back), convolution(net, 4, net(ops.Permute(there), "x")))
    scaled = net(ops.ReLU(), net.scaled(np.array([0.1, 1.0, 2.0, -1.0]), first))
    return net(ops.Permute(back), convolution(net, 2, net(ops.Permute(there), scaled)))


def normalised_batch(net: Written) -> str:
    return net.scaled(np.array([0.1, 1.0, 2.0, -1.0]).reshape(4, 1, 1), convolution(net, 4))


def coupling(net: Written) -> str:
    one, other = net.halves()
    return net(ops.Concat(1), one, net(written.PLUS, other, net(ops.Tanh(), one)))


def less_the_mean(net: Written) -> str:
    return net(written.MINUS, "x", net(ops.Mean((1,), keep=True), "x"))


def half_of_the_channels(net: Written) -> str:
    """Of CSPNet: the other half goes around the layer."""
    _, half = net.halves(of=net(ops.ReLU(), convolution(net, 8)))
    return convolution(net, 2, net(ops.ReLU(), convolution(net, 4, half)))


def classifier(net: Written) -> str:
    flat = net(ops.Reshape((1, 64)), net(ops.ReLU(), convolution(net, 4)))
    return matrix(net, 3, flat)


def without_proof(*_: Any) -> Any:
    raise NoBoundError


def without_sum(*_: Any) -> Any:
    raise NoSumError


SMALL = (1, 2, 4, 4)
OTHERS: dict[str, tuple[Any, Callable[..., Any], Loss]] = {
    "remove_permutations": (recognition, lambda graph: graph, Loss(channels_last, 1.1, shape=(1, 32, 32, 2))),
    "join_functions": (
        recognition, lambda graph: list(graph.nodes), Loss(lambda net: written.gate(net, ops.Sigmoid()))
    ),
    "_by_output_channel": (propagation, lambda *_: None, Loss(normalised_batch, 1.1, shape=SMALL)),
    "claim_of_attention": (propagation, lambda *_: None, Loss(attention, 1.1, shape=(1, 5, 4))),
    "claims_of_blocks": (branches, lambda *_: iter(()), Loss(coupling, 1.35)),
    "_linear_parts": (branches, lambda *_: [], Loss(less_the_mean, 1.9)),
    "_some_channels": (
        combinations, without_sum, Loss(half_of_the_channels, 1.2, Multipliers(steps=20, widest=0), SMALL)),
    "_through_head": (bounding_module, without_proof, Loss(classifier, 1.1, Multipliers(steps=3), SMALL)),
}  # fmt: skip


def upper(loss: Loss) -> float | None:
    net = Written(loss.shape)
    return bounded(net.graph(loss.network(net)), Measure(1e-4), loss.method).upper


def check(loss: Loss, take_out: Callable[[], None]) -> None:
    found = present(upper(loss))
    take_out()
    without = upper(loss)
    if math.isinf(loss.times):
        assert without is None
    else:
        assert present(without) > loss.times * found


@pytest.mark.parametrize("name", OF_PATTERNS)
def test_a_pattern_that_is_not_recognised_costs_its_bound(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def take_out() -> None:
        for table in ("RULES", "LATER_RULES"):
            rules = getattr(recognition, table)
            monkeypatch.setattr(recognition, table, tuple(rule for rule in rules if rule.__name__ != name))

    check(OF_PATTERNS[name], take_out)


@pytest.mark.parametrize("name", OTHERS)
def test_nodes_that_are_not_bounded_together_cost_their_bound(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, declines, loss = OTHERS[name]
    check(loss, lambda: monkeypatch.setattr(module, name, declines))


def test_every_rule_has_a_network() -> None:
    rules = {rule.__name__ for rule in (*recognition.RULES, *recognition.LATER_RULES)}
    assert rules == {*OF_PATTERNS}
    modules = [import_module(f"{patterns.__name__}.{found.name}") for found in iter_modules(patterns.__path__)]
    assert rules >= {name for module in modules for name in vars(module) if name.startswith("as_")}
