"""Slopes on intervals of GELU, SiLU, Mish and others, against ball arithmetic on the functions themselves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from specnorm.networks import curves, turning

flint: Any = pytest.importorskip("flint", exc_type=ImportError)
arb, series = flint.arb, flint.arb_series
REACH = {"gelu": 9.0, "gelu_tanh": 8.0, "erf": 8.0}
"""Where the derivatives are within half of what may be lost of 0 or 1; `FURTHEST` for others."""
FURTHEST = 37.0


@pytest.fixture(autouse=True)
def bits() -> Iterator[None]:
    before, flint.ctx.prec = flint.ctx.prec, 120
    yield
    flint.ctx.prec = before


def _tanh(x: Any) -> Any:
    return 1 - 2 / ((2 * x).exp() + 1)


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "gelu": lambda x: x * (1 + (x / arb(2).sqrt()).erf()) / 2,
    "gelu_tanh": lambda x: x / (1 + (-2 * (2 / arb.pi()).sqrt() * (x + arb("0.044715") * x * x * x)).exp()),
    "silu": lambda x: x / (1 + (-x).exp()),
    "mish": lambda x: x * (1 - 2 / ((1 + x.exp()) * (1 + x.exp()) + 1)),
    "erf": lambda x: x.erf(),
    "log_sigmoid": lambda x: x - (1 + x.exp()).log() if x[0] < 0 else -(1 + (-x).exp()).log(),
    "tanhshrink": lambda x: x - _tanh(x),
}
"""As their definitions are."""


def derivatives(name: str, low: float, high: float, count: int = 2) -> list[Any]:
    """The first ``count`` derivatives on an interval."""
    ball = (arb(low) + arb(high)) / 2 + arb(0, (high - low) / 2 * (1 + 2.0**-50))
    found = FUNCTIONS[name](series([ball, 1], count + 1))
    return [found[k] * math.factorial(k) for k in range(1, count + 1)]


def test_every_curve_is_looked_at() -> None:
    assert set(FUNCTIONS) == set(turning.CURVES)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_are_as_good_as_they_say(name: str) -> None:
    """At numbers of all sizes; beyond the reach they are at their limits."""
    random, reach = np.random.default_rng(0), REACH.get(name, FURTHEST)
    x = np.concatenate(
        [random.uniform(-6, 6, 150), random.uniform(-reach, reach, 60), 10.0 ** random.uniform(-12, 0, 20)]
    )
    found = turning.CURVES[name].derivative(x)
    for at, number in zip(x.tolist(), found.tolist(), strict=True):
        (exact,) = derivatives(name, at, at, 1)
        assert abs(exact - arb(number)) < arb(turning.LOST / 2)
    far = np.array([-turning.FAR, -2.0 * reach, -reach, reach, 2.0 * reach, turning.FAR])
    limits = {"erf": (0, 0), "log_sigmoid": (1, 0), "tanhshrink": (1, 1)}.get(name, (0, 1))
    found = turning.CURVES[name].derivative(far)
    assert abs(found - np.repeat(limits, 3)).max() < turning.LOST / 2


@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_turn_nowhere_else(name: str) -> None:
    """The second derivative has one sign between the places, the right one; the third one sign at each of them."""
    curve = turning.CURVES[name]
    places = sorted([(*p, -1.0) for p in curve.lowest] + [(*p, 1.0) for p in curve.highest])
    # Odd functions turn at 0 itself, where the second derivative has no sign.
    wide = [(a - 1e-3, b + 1e-3, side) if a == b == 0 else (a, b, side) for a, b, side in places]
    for a, b, side in wide:
        third = derivatives(name, a, b, 3)[2]
        assert (third < 0) if side > 0 else (third > 0)
    reach = REACH.get(name, FURTHEST)
    edges = [-reach, *(end for a, b, _ in wide for end in (a, b)), reach]
    signs = [*(side for *_, side in wide), -wide[-1][2]] if wide else [-1.0]
    for low, high, sign in zip(edges[::2], edges[1::2], signs, strict=True):
        pieces = np.linspace(low, high, 300).tolist()
        waiting, seen = list(itertools.pairwise(pieces)), 0
        while waiting:
            a, b = waiting.pop()
            seen += 1
            assert seen < 20_000, f"{name} turns near {a}"
            if not derivatives(name, a, b)[1] * sign > 0:
                waiting += [(a, (a + b) / 2), ((a + b) / 2, b)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_slopes_hold_on_intervals_and_are_close(name: str) -> None:
    random, reach = np.random.default_rng(1), REACH.get(name, FURTHEST)
    middle, half = random.normal(0, 2.5, 60), 10.0 ** random.uniform(-9, 0.7, 60)
    low, high = (
        np.append(middle - half, [-np.inf, 3.0, -np.inf, 1.5]),
        np.append(middle + half, [-3.0, np.inf, np.inf, 1.5]),
    )
    found = curves.slopes({"function": name}, low, high)
    assert found is not None
    for a, b, least, most in zip(low.tolist(), high.tolist(), *(end.tolist() for end in found), strict=True):
        a, b = max(a, -reach), min(b, reach)
        exact = [derivatives(name, x, x, 1)[0] for x in np.linspace(a, b, 41).tolist()]
        assert all(arb(least) <= x <= arb(most) for x in exact)
        numbers = [float(x.mid()) for x in exact]
        # Constants of the whole line are rounded up to five digits, and the sample has gaps.
        loose = 3e-5 + 0.05 * min(1.0, (b - a) ** 2) if b - a > 1e-6 else 1e-4
        assert min(numbers) - loose <= least
        assert most <= max(numbers) + loose


def test_a_place_that_is_forgotten_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        turning.CURVES, "silu", turning.Curve(turning.CURVES["silu"].derivative, (), ((2.39935, 2.39936),))
    )
    with pytest.raises(AssertionError):
        test_derivatives_turn_nowhere_else("silu")
    with pytest.raises(AssertionError):
        test_slopes_hold_on_intervals_and_are_close("silu")
