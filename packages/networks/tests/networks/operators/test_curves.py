"""Values, slopes and lines of curved functions against ball arithmetic on the functions themselves: no tolerance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from helpers.checks import present
from networks import activations
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.operators.curved import SLOPE_ERROR, Bell
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


BELLS: dict[str, tuple[Bell, Callable[[Any], Any]]] = {
    "erf": (ops.Erf(), lambda x: x.erf()),
    "sigmoid": (ops.Sigmoid(), _sigmoid),
    "tanh": (ops.Tanh(), _tanh),
}
"""With their definitions, of numbers and of series."""
KNOWN: dict[str, tuple[ops.Function, Callable[[Any], Any]]] = {
    "gelu": (activations.GELU, lambda x: x * (1 + (x / arb(2).sqrt()).erf()) / 2),
    "gelu_tanh": (
        activations.TANH_GELU,
        lambda x: x / (1 + (-2 * (2 / arb.pi()).sqrt() * (x + arb("0.044715") * x * x * x)).exp()),
    ),
    "silu": (activations.SILU, lambda x: x / (1 + (-x).exp())),
    "mish": (activations.MISH, lambda x: x * (1 - 2 / ((1 + x.exp()) * (1 + x.exp()) + 1))),
}
OTHERS: dict[str, tuple[ops.Function, Callable[[Any], Any]]] = {
    "softplus": (ops.Softplus(), lambda x: _softplus(x)),
    "softsign": (ops.Softsign(), lambda x: x / (1 - x) if x[0] < 0 else x / (1 + x)),
    "arctan": (ops.Arctan(), lambda x: x.atan()),
    "arcsinh": (ops.Arcsinh(), lambda x: (x + (1 + x * x).sqrt()).log()),
    "elu": (ops.ELU(0.7), lambda x: arb(0.7) * (x.exp() - 1) if x[0] < 0 else x),
    "elu_steep": (ops.ELU(1.7), lambda x: arb(1.7) * (x.exp() - 1) if x[0] < 0 else x),
}
STEEP: dict[str, tuple[ops.Function, Callable[[Any], Any]]] = {
    "exp": (ops.Exp(), lambda x: x.exp()),
    "log": (ops.Log(), lambda x: x.log()),
    "sqrt": (ops.Sqrt(), lambda x: x.sqrt()),
    "reciprocal": (ops.Reciprocal(-0.3), lambda x: arb(-0.3) / x),
    "identity": (ops.Power(1), lambda x: x),
    "square": (ops.Power(2), lambda x: x * x),
    "cube": (ops.Power(3), lambda x: x * x * x),
    "sixteenth": (ops.Power(16), lambda x: math.prod([x] * 16)),
}
KINKED = ("elu", "elu_steep")
"""With two slopes at 0."""
EVERY: dict[str, tuple[ops.Function, Callable[[Any], Any]]] = {**BELLS, **KNOWN, **OTHERS, **STEEP}


def derivatives(name: str, low: float, high: float, count: int = 2) -> list[Any]:
    """The value and the first ``count`` derivatives on an interval."""
    ball = (arb(low) + arb(high)) / 2 + arb(0, (high - low) / 2 * (1 + 2.0**-50))
    found = EVERY[name][1](series([ball, 1], count + 1))
    return [found[k] * math.factorial(k) for k in range(count + 1)]


def signed(name: str, low: float, high: float, order: int, holds: Callable[[Any], bool]) -> None:
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


def test_every_class_of_curves_is_among_the_cases() -> None:
    classes = [getattr(ops, name) for name in ops.__all__]
    bells = {each for each in classes if isinstance(each, type) and issubclass(each, Bell)}
    # Of 1 / (1 + |x|)^2, 1 / (1 + x^2) and its root one sees that they fall with |x|.
    assert bells == {type(operator) for operator, _ in BELLS.values()} | {ops.Arcsinh, ops.Arctan, ops.Softsign}


@pytest.mark.parametrize("name", [*BELLS, *KNOWN])
def test_extents_are_proven_and_tight(name: str) -> None:
    """On [-16, 16] by balls that cover it, to 1e-6. Beyond, derivatives are within |x| exp(-|x|) < 2e-6 of 0 or 1."""
    low, high = present(EVERY[name][0].extent())
    if name in KNOWN:
        signed(name, -16.0, 16.0, 1, lambda x: x >= arb(low) - arb("1e-6") and x <= arb(high) + arb("1e-6"))
    found = [float(derivatives(name, x, x, 1)[1].mid()) for x in np.linspace(-16, 16, 8001).tolist()]
    assert high <= max(found) * (1 + 2e-5)
    assert low >= min(found) - 2e-5


@pytest.mark.parametrize("name", BELLS)
def test_derivatives_are_as_good_as_they_say(name: str) -> None:
    """At numbers of all sizes; beyond the reach they are at their limits."""
    random = np.random.default_rng(0)
    reach = REACH.get(name, FURTHEST)
    x = np.concatenate(
        [random.uniform(-6, 6, 150), random.uniform(-reach, reach, 60), 10.0 ** random.uniform(-12, 0, 20)]
    )
    found = BELLS[name][0].slope(x)
    for at, number in zip(x.tolist(), found.tolist(), strict=True):
        assert abs(derivatives(name, at, at, 1)[1] - arb(number)) < arb(SLOPE_ERROR / 2)
    far = np.array([-math.inf, -700.0, -2.0 * reach, -reach, reach, 2.0 * reach, 700.0, math.inf])
    assert abs(BELLS[name][0].slope(far)).max() < SLOPE_ERROR / 2


@pytest.mark.parametrize("name", BELLS)
def test_derivatives_fall_with_the_size_of_the_argument(name: str) -> None:
    """The second derivative has one sign on either side of 0, where the third one is negative."""
    reach = REACH.get(name, FURTHEST)
    assert derivatives(name, -1e-3, 1e-3, 3)[3] < 0
    signed(name, -reach, -1e-3, 2, _rises)
    signed(name, 1e-3, reach, 2, _falls)


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
        assert [y for y in exact if not (arb(down) <= y[0] <= arb(up))] == []
        assert [y for y in exact if not (arb(least) <= y[1] <= arb(most))] == []
        for x, y in zip(points, exact, strict=True):
            assert abs(y[0] - arb(slope) * arb(x) - arb(middle)) <= arb(half)
        # Constants of the whole line are rounded up to five digits, and the sample has gaps.
        numbers = [[float(y[at].mid()) for y in exact] for at in range(2)]
        size = max(1.0, *(abs(x) for each in numbers for x in each))
        loose = (3e-5 + 0.06 * min(1.0, (b - a) ** 2 * (1 + size)) if b - a > 1e-6 else 1e-4) * size
        if name in KNOWN:  # of several operators, on 64 parts of the interval
            loose += (b - a) / 32
        for (smallest, largest), reached in zip(((down, up), (least, most)), numbers, strict=True):
            assert min(reached) - loose <= smallest
            assert largest <= max(reached) + loose
        if name not in KINKED:
            assert half <= (most - least) / 4 * (b - a) * (1 + 1e-9) + 1e-11 * size


@pytest.mark.parametrize("name", [*BELLS, *KNOWN, "softplus"])
def test_slopes_on_intervals_without_ends(name: str) -> None:
    low = np.array([-np.inf, 3.0, -np.inf])
    high = np.array([-3.0, np.inf, np.inf])
    found = present(EVERY[name][0].slopes(low, high))
    reach = REACH.get(name, FURTHEST)
    for a, b, least, most in zip(*(end.tolist() for end in (low, high, *found)), strict=True):
        exact = [derivatives(name, x, x, 1)[1] for x in np.linspace(max(a, -reach), min(b, reach), 41).tolist()]
        assert [x for x in exact if not (arb(least) <= x <= arb(most))] == []
