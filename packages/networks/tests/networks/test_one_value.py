"""Entry-wise operators that read one value are one function: its largest slope, and none where it jumps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from helpers.checks import present

flint: Any = pytest.importorskip("flint", exc_type=ImportError)
from hypothesis import given, settings  # noqa: E402
from networks.drawn_functions import BITS, NUMBERS, Call, programs, steepest, value, written  # noqa: E402
from networks.written_networks import Written  # noqa: E402
from specnorm_networks import Product, within  # noqa: E402
from specnorm_networks.certified import operators as ops  # noqa: E402
from specnorm_networks.certified.patterns import recognise_patterns  # noqa: E402
from specnorm_networks.certified.patterns.curves import slopes  # noqa: E402
from specnorm_networks.certified.patterns.curves.composite import Composite  # noqa: E402
from specnorm_networks.comparison.checking import TOLERANCE  # noqa: E402
from specnorm_networks.comparison.execution import Value, execute  # noqa: E402
from specnorm_networks.tools import Measure, bound  # noqa: E402


@pytest.fixture(autouse=True, scope="module")
def bits() -> Iterator[None]:
    before = flint.ctx.prec
    flint.ctx.prec = BITS
    yield
    flint.ctx.prec = before


BESIDE = (-(2.0**-30), 0.0, 2.0**-30)
GRID = sorted({*np.linspace(-6, 6, 33).tolist(), *(x + d for x in NUMBERS for d in BESIDE), -40.0, 40.0, 0.1, 1 / 3})


def upper(calls: tuple[Call, ...]) -> float | None:
    return bound(written(calls), Measure(1e-6), method=Product(), check=False).upper


@given(programs())
@settings(max_examples=50, deadline=None)
def test_no_difference_quotient_is_larger(calls: tuple[Call, ...]) -> None:
    found = upper(calls)
    # A function that is nowhere defined (0 / 0) is the same everywhere.
    if found is not None and any(value(calls, x) is not None for x in GRID):
        assert steepest(calls, GRID[::2] if len(calls) > 5 else GRID, 8) <= found * (1 + 1e-12) + 1e-30, calls


JUMPS: dict[str, tuple[Call, ...]] = {
    "sign": (Call("sign", (0,)),),
    "sign of a function": (Call("tanh", (0,)), Call("sign", (1,))),
    "x + 1 above 0, else x": (Call("shift", (0,), 1.0), Call("gt", (0, 1, 0), 0.0)),
    "x + 1 from 0 on, else x": (Call("shift", (0,), 1.0), Call("ge", (0, 1, 0), 0.0)),
    "hard shrinkage": (Call("abs", (0,)), Call("times", (0,), 0.2), Call("gt", (1, 0, 2), 0.3)),
    "softplus, cut at 2": (Call("softplus", (0,)), Call("gt", (0, 0, 1), 2.0)),
    "one at 0 alone": (Call("sign", (0,)), Call("product", (1, 1)), Call("sin", (2,))),
    "not there for numbers below": (Call("root", (0,)), Call("times", (1,), 0.0)),
    "not there at 0": (Call("quotient", (0, 0)),),
    "floor": (Call("floor", (0,)), Call("less", (0, 1))),
    "steps that nearly cancel": (
        Call("sign", (0,)), Call("shift", (0,), 0.3), Call("sign", (2,)), Call("less", (1, 3)), Call("sin", (4,)),
    ),
    "a soft threshold that is off by 2^-40": (
        Call("sign", (0,)), Call("abs", (0,)), Call("shift", (2,), 2.0**-40), Call("product", (1, 3)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", JUMPS)
def test_a_jump_is_refused(name: str) -> None:
    assert steepest(JUMPS[name], GRID) > 1e9
    assert upper(JUMPS[name]) is None


def soft(threshold: float, at: int = 0, of: int = 0) -> tuple[Call, ...]:
    return (
        Call("sign", (of,)), Call("abs", (of,)), Call("shift", (at + 2,), -threshold), Call("relu", (at + 3,)),
        Call("product", (at + 1, at + 4)),
    )  # fmt: skip


TIGHT: dict[str, tuple[tuple[Call, ...], float]] = {
    "soft threshold": (soft(0.3), 1.0),
    "soft threshold at 0": (soft(0.0), 1.0),
    "soft threshold twice": ((*soft(0.3), *soft(0.5, 5, 5)), 1.0),
    "what a soft threshold takes": ((*soft(0.3), Call("less", (0, 5))), 1.0),
    "x - relu(x)": ((Call("relu", (0,)), Call("less", (0, 1))), 1.0),
    "x - clip(x)": ((Call("clip", (0,), -0.5), Call("less", (0, 1))), 1.0),
    "relu(x) - relu(x - 1)": (
        (Call("relu", (0,)), Call("shift", (0,), -1.0), Call("relu", (2,)), Call("less", (1, 3))), 1.0,
    ),
    "ELU by a choice": (
        (Call("clip", (0,), -1.0), Call("exp", (0,)), Call("shift", (2,), -1.0), Call("gt", (0, 0, 3), 0.0)), 1.0,
    ),
    "arcsinh above 0, else x": ((Call("arcsinh", (0,)), Call("gt", (0, 1, 0), 0.0)), 1.0),
    "leaky by a maximum": ((Call("times", (0,), 0.2), Call("max", (0, 1))), 1.0),
    "GELU by tanh": (
        (
            Call("square", (0,)), Call("product", (0, 1)), Call("times", (2,), 0.044715), Call("add", (0, 3)),
            Call("times", (4,), 0.7978845608), Call("tanh", (5,)), Call("shift", (6,), 1.0), Call("product", (0, 7)),
            Call("times", (8,), 0.5),
        ), 1.12899307,
    ),
    "root of x^2 + 1": ((Call("square", (0,)), Call("shift", (1,), 1.0), Call("root", (2,))), 1.0),
    "SiLU": ((Call("sigmoid", (0,)), Call("product", (0, 1))), 1.09983932),
    "Mish": ((Call("softplus", (0,)), Call("tanh", (1,)), Call("product", (0, 2))), 1.08849816),
    "softsign": ((Call("abs", (0,)), Call("shift", (1,), 1.0), Call("quotient", (0, 2))), 1.0),
    "x + sin(x)": ((Call("sin", (0,)), Call("add", (0, 1))), 2.0),
    "signs that cancel": (
        (Call("sign", (0,)), Call("shift", (1,), 1.0), Call("less", (2, 1)), Call("product", (0, 3))), 1.0,
    ),
    "a square of a bounded function": ((Call("tanh", (0,)), Call("square", (1,))), 0.76980036),
    "x + sin(x)^2": ((Call("sin", (0,)), Call("square", (1,)), Call("add", (0, 2))), 2.0),
    "firm threshold": (
        (
            Call("abs", (0,)), Call("sign", (0,)), Call("shift", (1,), -0.5), Call("product", (2, 3)),
            Call("times", (4,), 3.0), Call("le", (1, 5, 0), 0.75), Call("times", (0,), 0.0), Call("le", (1, 7, 6), 0.5),
        ), 3.0,
    ),
    "a step on a straight piece": ((Call("relu", (0,)), Call("sign", (1,)), Call("product", (0, 2))), 1.0),
}  # fmt: skip


@pytest.mark.parametrize("name", TIGHT)
def test_the_slope_is_that_of_the_whole_function(name: str) -> None:
    calls, true = TIGHT[name]
    found = upper(calls)
    assert found is not None
    assert true * (1 - 1e-7) <= found <= true * (1 + 2e-5) + 1e-12
    assert steepest(calls, GRID) <= found * (1 + 1e-12)


def test_functions_side_by_side() -> None:
    """The root of the largest sum of squared slopes."""
    net = Written((1, 3))
    net(ops.Concat(1), net(ops.Sin(), "x"), net(ops.Cos(), "x"))
    assert 1 <= of(net) <= 1 + 1e-4
    net = Written((1, 3))
    net(ops.Concat(1, new=True), net(ops.Sin(), "x"), net(ops.Sin(), net.scaled(2.0)), net.scaled(0.5))
    assert math.sqrt(5.25) <= of(net) <= math.sqrt(5.25) + 1e-6
    net = Written((1, 3))
    positive = net(ops.ReLU(), "x")
    net(ops.Concat(1), positive, net(ops.Add((1.0, -1.0)), "x", positive))
    assert 1 <= of(net) <= 1 + 1e-12
    net = Written((1, 3))
    net(ops.Concat(1), net(ops.Sign(), "x"), net(ops.Tanh(), "x"))
    with pytest.raises(AssertionError):
        of(net)


def of(net: Written, radius: float | None = None) -> float:
    centre = None if radius is None else np.zeros(net.values["x"].shape)
    found = bound(net.graph(), Measure(1e-6), method=Product(), radius=radius, centre=centre, check=False)
    assert found.upper is not None
    return float(found.upper)


def soft_by_channel(net: Written, thresholds: np.ndarray) -> str:
    less = net(ops.Scale(np.array(1.0), lambda: (-thresholds, np.zeros(())), exact=True), net(ops.Abs(), "x"))
    return net(ops.Product(), net(ops.Sign(), "x"), net(ops.ReLU(), less))


def test_constants_of_each_channel_make_functions_of_their_own() -> None:
    """Thresholds that are positive: soft thresholding; one that is negative: a jump at 0."""
    for least, jumps in ((0.0, False), (-0.1, True)):
        net = Written((1, 4, 2, 2))
        soft_by_channel(net, np.linspace(least, 1, 4).reshape(-1, 1, 1))
        found = bound(net.graph(), Measure(1e-6), method=Product(), check=False).upper
        assert (found is None) if jumps else (found is not None and 1 <= found <= 1 + 1e-12)
    net = Written((1, 4, 2, 2))
    net(ops.Maximum(), net.scaled(np.array([0.2, 2.0, -3.0, 0.5]).reshape(-1, 1, 1)), "x")
    assert 3 <= of(net) <= 3 + 1e-12
    operator = recognise_patterns(net.graph()).by_name[net.nodes[-1].name].operator
    assert isinstance(operator, Composite)
    slopes = present(operator.slopes(*[np.full((1, 4, 2, 2), -1.0)] * 2))
    assert np.allclose(slopes[0][0, :, 0, 0], [0.2, 1.0, -3.0, 0.5])


def test_on_a_range_the_slope_is_that_of_the_range() -> None:
    """x^3 - x between -1/2 and 1/2, and near 0."""
    net = Written((1, 2))
    net(ops.Add((1.0, -1.0)), net(ops.Product(), net(ops.Product(), "x", "x"), "x"), "x")
    assert bound(net.graph(), Measure(1e-6), method=Product(), check=False).upper is None
    boxed = bound(within(net.graph(), -2.0, 0.5), Measure(1e-6), method=Product(), check=False).upper
    assert boxed is not None
    assert 11 <= boxed <= 11.3
    assert 1 <= of(net, radius=0.25) <= 1.1
    net = Written((1, 2))
    net(ops.Product(), "x", net(ops.Sigmoid(), "x"))
    assert 0.5 <= of(net, radius=0.125) <= 0.6


@pytest.mark.parametrize("name", sorted({*TIGHT} - {"soft threshold twice"}))
def test_values_and_slopes_on_intervals(name: str) -> None:
    """Of the operator that stands for all: on intervals of all sizes, at their kinks too."""
    calls, _ = TIGHT[name]
    calls = calls[:-1] if name == "GELU by tanh" else calls  # a factor is a node by itself
    graph = recognise_patterns(written(calls))
    operator = graph.by_name[graph.outputs[0]].operator
    assert isinstance(operator, ops.Function)
    dice = np.random.default_rng(0)
    middle = dice.choice(NUMBERS, 60) + dice.normal(0, 1, 60) * dice.choice([0, 1e-3, 3], 60)
    half = abs(dice.normal(0, 1, 60)) * dice.choice([0, 1e-6, 1e-2, 2], 60)
    low = middle - half
    high = middle + half
    slopes = present(operator.slopes(low, high))
    values = operator.between(low, high)
    for a, b, least, most, down, up in zip(low, high, *slopes, *values, strict=True):
        known = [(x, value(calls, x)) for x in np.linspace(a, b, 5).tolist()]
        assert [y for _, y in known if not (down <= y <= up)] == []
        for (x, y), (z, w) in itertools.pairwise(known):
            if z > x:
                assert least - 1e-30 <= (w - y) / (flint.arb(z) - x) <= most + 1e-30


def test_a_rising_function_has_its_extremes_at_the_ends() -> None:
    """What is known at one end is not lost to what is not known at the other."""
    operator = Composite(((ops.Exp(), (0,)), (ops.Tanh(), (1,))))
    low, high = operator.between(np.array([0.0]), np.array([50.0]))
    assert 0.76159 <= low[0] <= 0.7616
    assert high[0] == 1


@pytest.mark.parametrize("name", ["soft threshold", "Mish", "ELU by a choice", "softsign"])
def test_what_is_compared_with_a_model_is_compared_closely(name: str) -> None:
    """Single precision is within the tolerance; a function that is wrong by a hundredth is not."""
    calls, _ = TIGHT[name]
    graph = recognise_patterns(written(calls))
    joined = graph.by_name[graph.outputs[0]]
    assert isinstance(joined.operator, Composite)
    x = np.random.default_rng(3).normal(0, 2, (1, 300)).astype(np.float32)
    single = written(calls, (1, 300)).run({"x": x})[graph.outputs[0]].astype(np.float32)
    found = execute(joined, [Value(x.astype(np.float64))], TOLERANCE)
    assert (abs(single - found.value) <= found.error).all()
    assert (abs(0.01 * found.value) > found.error).mean() > 0.4


# -- the tests themselves --------------------------------------------------------------------------------------------


def test_a_budget_that_ends_leaves_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """One round of cells: larger, never less."""
    slopes.prove.cache_clear()
    monkeypatch.setattr(slopes, "MOST_CELLS", 0)
    monkeypatch.setattr(slopes, "LEAST_CELLS", 0)
    calls, true = TIGHT["SiLU"]
    found = present(upper(calls))
    assert 1.01 * true <= found <= 2
    slopes.prove.cache_clear()
