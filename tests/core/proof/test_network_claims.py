"""A network's constant is made by rules alone, each of which looks at what it is applied to; and it explains itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from core.proof.network_rules import NODES, PLACE, RUN, SCOPE, STRIDED, U, V, chain, normed, spec, stated, x
from helpers.assumptions import assumed
from helpers.checks import present
from specnorm_networks import Product
from specnorm_networks.certified import axes, parts, rules
from specnorm_networks.certified.graph import Graph, Node
from specnorm_networks.certified.operators import ReLU
from specnorm_networks.certified.operators.base import Function, Known, NoBoundError, Place
from specnorm_networks.certified.rules import Scope
from specnorm_networks.certified.subjects import Map
from specnorm_networks.tools import Measure, bound


# -- what rules suppose ------------------------------------------------------------------------------------------------
def test_rules_apply_where_they_may() -> None:
    assert rules.composed(assumed(2.0, SCOPE.map("u", "w")), U).what == SCOPE.map("x", "w")
    assert rules.of_operator(SCOPE, NODES["s"], [U, V], PLACE).value == pytest.approx(8)
    assert rules.unchanged(SCOPE, "y", NODES["x"], []).value == 0
    assert normed(spec((5,))).value == normed(spec()).value == 1
    assert normed(spec(**STRIDED), (6,), **STRIDED).what == spec((6,), **STRIDED)
    assert normed(spec(**STRIDED | {"stride": 1}), None, **STRIDED).value == 1
    assert parts.constant_of_run(RUN, stated(RUN), Measure()).value >= 6


def test_what_is_no_constant_is_no_claim() -> None:
    """Of an operator that somebody registers."""
    for wrong in (math.nan, -1.0):

        class Odd(Known):
            lipschitz_constant = wrong

        odd = Scope(Graph((x(), Node("y", Odd(), ("x",), (1, 1))), ("y",)))
        with pytest.raises(NoBoundError, match="no constant"):
            rules.of_operator(odd, odd.graph.by_name["y"], [rules.identity(odd, "x")], Place(((1, 1),)))
        found = bound(Graph((x(), Node("y", Odd(), ("x",), (1, 1))), ("y",)), check=False)
        assert found.upper is None
        assert "Odd" in found.unknown[0].reason


@pytest.mark.parametrize(
    "wrong", [(0.0, math.nan), (math.nan, 0.0), (0.0, math.inf), (-math.inf, 0.0), (1.0, -3.0), 3.0, (1.0,)], ids=str
)
def test_an_extent_that_is_none_is_no_claim(wrong: Any) -> None:
    """Of x -> 3 x the constant was 0, since max(0, NaN) is 0."""

    class Odd(Function):
        def value(self, x: Any) -> Any:
            return 3 * x

        def extent(self) -> Any:
            return wrong

    graph = Graph((x(), Node("y", Odd(), ("x",), (1, 1))), ("y",))
    scope = Scope(graph)
    calls: tuple[Callable[[], object], ...] = (
        lambda: rules.of_operator(scope, graph.by_name["y"], [rules.identity(scope, "x")], Place(((1, 1),))),
        lambda: rules.of_slopes(scope, graph.by_name["y"], 1, 1),
    )
    for apply in calls:
        with pytest.raises(NoBoundError, match=r"the `extent` of its operator Odd is .* not two finite numbers"):
            apply()
    ball: dict[str, Any] = {"radius": 1.0, "centre": np.zeros((1, 1))}
    for found in (bound(graph, check=False), bound(graph, check=False, **ball)):
        assert found.upper is None
        assert "`extent` of its operator Odd" in found.unknown[0].reason


@pytest.mark.parametrize("wrong", [(0.0, math.nan), (math.nan, 6.0), (0.0, math.inf)], ids=str)
def test_slopes_and_values_that_are_none_claim_nothing(wrong: tuple[float, float]) -> None:
    """On a ball, the slopes of the whole line hold, and values may be anything."""

    class Odd(Function):
        def value(self, x: Any) -> Any:
            return 3 * x

        def extent(self) -> Any:
            return (0.0, 3.0)

        def slopes(self, low: Any, high: Any) -> Any:
            return tuple(np.full(low.shape, end) for end in wrong)

        def between(self, low: Any, high: Any) -> Any:
            return tuple(np.full(low.shape, end) for end in wrong)

    nodes = (x(), Node("h", Odd(), ("x",), (1, 1)), Node("y", ReLU(), ("h",), (1, 1)))
    found = bound(Graph(nodes, ("y",)), check=False, radius=1.0, centre=np.ones((1, 1)))
    assert present(found.upper) >= 3


# -- pooling and resizing ----------------------------------------------------------------------------------------------
def matrices() -> Iterator[Any]:
    rng = np.random.default_rng(0)
    for m, n in ((1, 1), (3, 5), (40, 17)):
        yield rng.random((m, n)) * (rng.random((m, n)) < 0.7)
    yield np.kron(np.eye(6), [[0.5, 0.5]])
    yield np.kron(np.diag([1.0, 0.25, 1e-6]), np.ones((2, 3)))
    yield np.eye(300) + np.eye(300, k=1)


def test_norms_of_weights_are_close_and_never_below() -> None:
    for a in matrices():
        truth = float(np.linalg.norm(a, 2))
        rows = tuple(tuple((j, Fraction(x)) for j, x in enumerate(row.tolist()) if x) for row in a)
        assert truth * (1 - 1e-13) <= axes.weights_norm_up(rows) <= truth * (1 + 1e-8)


# -- the chain ---------------------------------------------------------------------------------------------------------
def test_every_claim_is_at_least_what_it_is_made_of() -> None:
    """In rational numbers, through the whole chain: no product, no sum is below its parts."""
    found = present(bound(chain(1.1, 0.7, 1.3, 0.9), method=Product(), check=False).claim)
    waiting, products = [found], 0
    while waiting:
        claim = waiting.pop()
        waiting += claim.of  # type: ignore[arg-type]
        if len(claim.of) == 2 and isinstance(claim.what, Map):
            assert Fraction(claim.value) >= Fraction(claim.of[0].value) * Fraction(claim.of[1].value)
            products += 1
    assert products == 8
