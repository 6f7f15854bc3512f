"""Values, slopes and lines of curved functions against ball arithmetic on the functions themselves: no tolerance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from helpers.checks import present
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.operators.curved import FAR, SLOPE_ERROR, Curved, SlopeShape, Turning
from specnorm_networks.local.certified.strips import strip_on

flint: Any = pytest.importorskip("flint", exc_type=ImportError)
arb = flint.arb
series = flint.arb_series
REACH = {"gelu": 9.0, "gelu_tanh": 8.0, "erf": 8.0}
"""Where the derivatives are within half of what may be lost of 0 or 1; `FURTHEST` for others."""
FURTHEST = 37.0


@pytest.fixture(autouse=True)
def bits() -> Iterator[None]:
    before = flint.ctx.prec
    flint.ctx.prec = 120
    yield
    flint.ctx.prec = before


def _tanh(x: Any) -> Any:
    return 1 - 2 / ((2 * x).exp() + 1)


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + (-x).exp())


def _softplus(x: Any) -> Any:
    return (1 + x.exp()).log() if x[0] < 0 else x + (1 + (-x).exp()).log()


TURNING: dict[str, tuple[Turning, Callable[[Any], Any]]] = {
    "gelu": (ops.GELU(), lambda x: x * (1 + (x / arb(2).sqrt()).erf()) / 2),
    "gelu_tanh": (
        ops.TanhGELU(),
        lambda x: x / (1 + (-2 * (2 / arb.pi()).sqrt() * (x + arb("0.044715") * x * x * x)).exp()),
    ),
    "silu": (ops.SiLU(), lambda x: x / (1 + (-x).exp())),
    "mish": (ops.Mish(), lambda x: x * (1 - 2 / ((1 + x.exp()) * (1 + x.exp()) + 1))),
    "erf": (ops.Erf(), lambda x: x.erf()),
    "softplus": (ops.Softplus(), lambda x: _softplus(x)),
    "sigmoid": (ops.Sigmoid(), _sigmoid),
    "tanh": (ops.Tanh(), _tanh),
}
"""With their definitions, of numbers and of series."""
OTHERS: dict[str, tuple[ops.Pointwise, Callable[[Any], Any]]] = {
    "softsign": (ops.Softsign(), lambda x: x / (1 - x) if x[0] < 0 else x / (1 + x)),
    "arctan": (ops.Arctan(), lambda x: x.atan()),
    "elu": (ops.ELU(0.7), lambda x: arb(0.7) * (x.exp() - 1) if x[0] < 0 else x),
    "elu_turned": (ops.ELU(-0.7), lambda x: arb(-0.7) * (x.exp() - 1) if x[0] < 0 else x),
}
STEEP: dict[str, tuple[ops.Pointwise, Callable[[Any], Any]]] = {
    "exp": (ops.Exp(), lambda x: x.exp()),
    "log": (ops.Log(), lambda x: x.log()),
    "sqrt": (ops.Sqrt(), lambda x: x.sqrt()),
    "rsqrt": (ops.Rsqrt(), lambda x: 1 / x.sqrt()),
    "reciprocal": (ops.Reciprocal(-0.3), lambda x: arb(-0.3) / x),
    "identity": (ops.Power(1), lambda x: x),
    "square": (ops.Power(2), lambda x: x * x),
    "cube": (ops.Power(3), lambda x: x * x * x),
    "sixteenth": (ops.Power(16), lambda x: math.prod([x] * 16)),
}
KINKED = ("elu", "elu_turned")
"""With two slopes at 0."""
EVERY: dict[str, tuple[ops.Pointwise, Callable[[Any], Any]]] = {**TURNING, **OTHERS, **STEEP}


def derivatives(name: str, low: float, high: float, count: int = 2) -> list[Any]:
    """The value and the first ``count`` derivatives on an interval."""
    ball = (arb(low) + arb(high)) / 2 + arb(0, (high - low) / 2 * (1 + 2.0**-50))
    found = EVERY[name][1](series([ball, 1], count + 1))
    return [found[k] * math.factorial(k) for k in range(count + 1)]


def signed(
    name: str,
    low: float,
    high: float,
    order: int,
    holds: Callable[[Any], bool],
) -> None:
    """A derivative has a property on balls that cover an interval."""
    waiting = list(itertools.pairwise(np.linspace(low, high, 300).tolist()))
    seen = 0
    while waiting:
        a, b = waiting.pop()
        seen += 1
        assert seen < 40_000, f"{name} near {a}"
        if not holds(derivatives(name, a, b, order)[order]):
            waiting += [(a, (a + b) / 2), ((a + b) / 2, b)]


def _rises(derivative: Any) -> bool:
    return bool(derivative > 0)


def _falls(derivative: Any) -> bool:
    return bool(derivative < 0)


def curve_of(name: str) -> SlopeShape:
    return TURNING[name][0].slope_shape


def test_every_class_of_curves_is_among_the_cases() -> None:
    classes = [getattr(ops, name) for name in ops.__all__]
    curved = {each for each in classes if isinstance(each, type) and issubclass(each, Turning)}
    # 1 / (1 + |x|)^2 and 1 / (1 + x^2) fall with |x|, and are computed everywhere; so is what hard swish has, a line.
    plain = {ops.Arctan, ops.Softsign, ops.HardSwish}
    assert curved == {type(operator) for operator, _ in TURNING.values()} | plain
    assert {each.slope_shape.far for each in plain} == {math.inf}


@pytest.mark.parametrize("name", TURNING)
def test_extents_are_proven_and_tight(name: str) -> None:
    """On [-16, 16] by balls that cover it. Beyond, each derivative is within |x| exp(-|x|) < 2e-6 of 0 or 1."""
    extent = present(TURNING[name][0].extent())
    if curve_of(name).lowest and curve_of(name).highest:
        signed(name, -16.0, 16.0, 1, lambda x: x >= arb(extent[0]) and x <= arb(extent[1]))
    x = np.linspace(-16, 16, 8001)
    found = curve_of(name).derivative(x)
    assert extent[1] <= found.max() * (1 + 2e-5)
    assert extent[0] >= found.min() - 2e-5


def test_a_proof_of_an_extent_can_fail() -> None:
    assert not derivatives("silu", 2.3994 - 1e-6, 2.3994 + 1e-6)[1] <= arb(1.0998)
    with pytest.raises(AssertionError):
        signed("silu", 2.0, 3.0, 1, lambda x: x <= arb(1.0998))


@pytest.mark.parametrize("name", TURNING)
def test_derivatives_are_as_good_as_they_say(name: str) -> None:
    """At numbers of all sizes; beyond the reach they are at their limits."""
    random = np.random.default_rng(0)
    reach = REACH.get(name, FURTHEST)
    x = np.concatenate(
        [random.uniform(-6, 6, 150), random.uniform(-reach, reach, 60), 10.0 ** random.uniform(-12, 0, 20)]
    )
    found = curve_of(name).derivative(x)
    for at, number in zip(x.tolist(), found.tolist(), strict=True):
        assert abs(derivatives(name, at, at, 1)[1] - arb(number)) < arb(SLOPE_ERROR / 2)
    far = np.array([-FAR, -2.0 * reach, -reach, reach, 2.0 * reach, FAR])
    limits = (0, 0) if name in ("erf", "sigmoid", "tanh") else (0, 1)
    assert abs(curve_of(name).derivative(far) - np.repeat(limits, 3)).max() < SLOPE_ERROR / 2


@pytest.mark.parametrize("name", TURNING)
def test_derivatives_turn_nowhere_else(name: str) -> None:
    """The second derivative has one sign between the places, the right one; the third one sign at each of them."""
    curve = curve_of(name)
    places = sorted([(*p, -1.0) for p in curve.lowest] + [(*p, 1.0) for p in curve.highest])
    # Odd functions turn at 0 itself, where the second derivative has no sign.
    wide = [(a - 1e-3, b + 1e-3, side) if a == b == 0 else (a, b, side) for a, b, side in places]
    for a, b, side in wide:
        third = derivatives(name, a, b, 3)[3]
        assert (third < 0) if side > 0 else (third > 0)
    reach = REACH.get(name, FURTHEST)
    edges = [-reach, *(end for a, b, _ in wide for end in (a, b)), reach]
    signs = [*(side for *_, side in wide), -wide[-1][2]] if wide else [1.0]
    for low, high, sign in zip(edges[::2], edges[1::2], signs, strict=True):
        signed(name, low, high, 2, _rises if sign > 0 else _falls)


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu", "mish"])
def test_functions_turn_nowhere_else(name: str) -> None:
    """They fall before the place and rise behind it, and the value there is known; beyond the reach they are tiny."""
    operator, _ = TURNING[name]
    ((start, end), (least, most)) = operator.turning_points[0]
    reach = REACH.get(name, FURTHEST)
    signed(name, -reach, start, 1, _falls)
    signed(name, end, reach, 1, _rises)
    value, _, bend = derivatives(name, start, end)
    assert bend > 0
    middle = derivatives(name, (start + end) / 2, (start + end) / 2)[0]
    # The smallest value is within the interval's length, squared, times a bend of at most 1, of the value inside.
    assert bend < 1
    assert arb(least) < middle - arb((end - start) ** 2)
    assert middle < arb(most)
    assert value < 0


# -- on intervals ----------------------------------------------------------------------------------------------------
def intervals(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Of all sizes; for functions that are defined above 0, there."""
    random = np.random.default_rng(1)
    middle = random.normal(0, 2.5, 60)
    half = 10.0 ** random.uniform(-9, 0.7, 60)
    low = np.append(middle - half, [-0.5, 1.5, 0.0, -3.0])
    high = np.append(middle + half, [0.5, 1.5, 2.0, 0.0])
    if name in ("log", "sqrt", "rsqrt", "reciprocal"):
        low, high = abs(low) + 1e-6, abs(low) + 1e-6 + (high - low)
    return low, high


@pytest.mark.parametrize("name", EVERY)
def test_values_slopes_and_lines_hold_on_intervals(name: str) -> None:
    operator = EVERY[name][0]
    low, high = intervals(name)
    slopes = operator.slopes(low, high)
    line = strip_on(operator, low, high)
    assert slopes is not None
    assert line is not None
    ends = [each.tolist() for each in (low, high, *slopes, *operator.between(low, high), *line)]
    for a, b, least, most, down, up, slope, middle, half in zip(*ends, strict=True):
        points = [min(max(x, a), b) for x in [*np.linspace(a, b, 41).tolist(), -1e-12, 1e-12]]
        points = [x for x in points if x or name not in KINKED]
        exact = [derivatives(name, x, x, 1) for x in points]
        assert all(arb(down) <= y[0] <= arb(up) for y in exact)
        assert all(arb(least) <= y[1] <= arb(most) for y in exact)
        for x, y in zip(points, exact, strict=True):
            assert abs(y[0] - arb(slope) * arb(x) - arb(middle)) <= arb(half)
        # Constants of the whole line are rounded up to five digits, and the sample has gaps.
        numbers = [[float(y[at].mid()) for y in exact] for at in range(2)]
        size = max(1.0, *(abs(x) for each in numbers for x in each))
        loose = (3e-5 + 0.06 * min(1.0, (b - a) ** 2 * (1 + size)) if b - a > 1e-6 else 1e-4) * size
        for (smallest, largest), known in zip(((down, up), (least, most)), numbers, strict=True):
            assert min(known) - loose <= smallest
            assert largest <= max(known) + loose
        if name not in KINKED:
            assert half <= (most - least) / 4 * (b - a) * (1 + 1e-9) + 1e-11 * size


@pytest.mark.parametrize("name", TURNING)
def test_slopes_on_intervals_without_ends(name: str) -> None:
    low = np.array([-np.inf, 3.0, -np.inf])
    high = np.array([-3.0, np.inf, np.inf])
    found = present(TURNING[name][0].slopes(low, high))
    reach = REACH.get(name, FURTHEST)
    for a, b, least, most in zip(*(end.tolist() for end in (low, high, *found)), strict=True):
        exact = [derivatives(name, x, x, 1)[1] for x in np.linspace(max(a, -reach), min(b, reach), 41).tolist()]
        assert all(arb(least) <= x <= arb(most) for x in exact)


def test_a_place_that_is_forgotten_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops.SiLU, "slope_shape", SlopeShape(ops.SiLU.slope_shape.derivative, (), ((2.39935, 2.39936),)))
    with pytest.raises(AssertionError):
        test_derivatives_turn_nowhere_else("silu")
    with pytest.raises(AssertionError):
        test_values_slopes_and_lines_hold_on_intervals("silu")


def test_a_minimum_that_is_forgotten_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops.SiLU, "turning_points", ())
    with pytest.raises(AssertionError):
        test_values_slopes_and_lines_hold_on_intervals("silu")


def test_values_that_are_worse_than_they_say_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Curved, "value_error", lambda _, x, __: 0 * x)
    monkeypatch.setattr(ops.Tanh, "value", lambda _, x: np.tanh(x) * (1 + 1e-12))
    with pytest.raises(AssertionError):
        test_values_slopes_and_lines_hold_on_intervals("tanh")
