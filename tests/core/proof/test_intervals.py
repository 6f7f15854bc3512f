"""Intervals are made by rules alone, and no arithmetic on them loses a number; each rounding is needed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers.assumptions import assumed, interval
from specnorm_networks import Graph, Node
from specnorm_networks.certified import operators, units
from specnorm_networks.certified.rules import Scope
from specnorm_networks.local.certified import margins, ranges
from specnorm_networks.local.certified.linear_bounds import LinearBounds, Network

from specnorm import robustness
from specnorm.errors import BackendError, InternalError
from specnorm.proofs import arithmetic
from specnorm.proofs.bound import HypothesisError
from specnorm.proofs.interval import Interval, enclosing, point, within


def test_nobody_else_says_where_numbers_lie() -> None:
    one = np.ones(2)
    with pytest.raises(TypeError, match="rules"):
        Interval(one, one)
    with pytest.raises(TypeError, match="rules"):
        replace(point(one), high=one + 1)
    with pytest.raises(ValueError, match="read-only"):
        point(one).low[0] = -1.0
    for low, high in ((one + 1, one), (one * math.nan, one), (np.ones(3), one), (one.astype(np.float32), one)):
        with pytest.raises(HypothesisError):
            interval(low, high)
    with pytest.raises(HypothesisError, match="no number"):
        point(one) & point(2 * one)


def test_what_an_operator_does_not_know_is_not_known() -> None:
    """A pair of arrays will do: ends that are no numbers, or lie beyond all numbers, say nothing."""
    nothing = enclosing((np.array([math.nan, math.inf]), np.array([math.nan, math.inf])))
    assert nothing.low.tolist() == [-math.inf, -math.inf]
    assert nothing.high.tolist() == [math.inf, math.inf]
    assert enclosing((np.zeros(1, np.float32), np.ones(1))).low.dtype == np.float64
    with pytest.raises(HypothesisError):
        enclosing((np.ones(1), np.zeros(1)))


class Doubled(operators.Function):
    """2 x, with what a user may say of it."""

    said: Any

    def value(self, x: Any) -> Any:
        return 2 * x

    def between(self, low: Any, high: Any) -> Any:
        return self.said(low, high)


@pytest.mark.parametrize(
    "said",
    [
        lambda low, high: (2 * high, 2 * low),
        lambda low, high: (2 * low + 90 * (low < high), 2 * high + 90 * (low < high)),
    ],
)
def test_a_contradiction_names_the_operator(said: Any) -> None:
    """Ends in the wrong order, or two rules whose ranges do not meet: an error, and no bound."""
    shape = (1, 2)
    nodes = (Node("x", operators.Input(), (), shape), Node("y", Doubled(said), ("x",), shape))
    graph = Graph(nodes, ("y",))
    known = {name: assumed(value, Scope(graph).map("x", name)) for name, value in (("x", 1.0), ("y", 2.0))}
    with pytest.raises(InternalError, match=r"y contradicts itself.*Doubled"):
        ranges.ranges(graph, ranges.Ball({"x": np.zeros(shape)}, 1.0), known)


POINT = Graph((Node("x", operators.Input(), (), (1, 2)),), ("x",))
ENTRIES: dict[str, Callable[[], object]] = {
    "ranges": lambda: ranges.ranges(POINT, ranges.Ball({"x": np.zeros((1, 2))}, 1.0)),
    "units": lambda: units.inequality_of(POINT),
    "constants of margins": lambda: margins.constants_of_differences(np.eye(2), np.ones(2), assumed(1.0)),
    "radii": lambda: margins.radii(np.eye(2), np.arange(2), within(np.ones((2, 2)))),
    "linear bounds": lambda: LinearBounds(Network(POINT), np.zeros(2), 1.0),
    "curvature": lambda: robustness.curvature_bound(1.0, np.eye(2), 0, 1, activation="tanh"),
    "its radius": lambda: robustness.certified_radius(1.0, np.ones(2), 1.0),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_rules_look_at_the_processor(entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever calls them: in a thread that rounds in another direction nothing is claimed."""
    monkeypatch.setattr(arithmetic, "rounds_to_nearest", lambda: False)
    with pytest.raises(BackendError, match="round to nearest"):
        ENTRIES[entry]()
