"""Functions of each entry against their definitions: values, slopes, lines and roundings, on intervals of all sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from networks import activations
from specnorm_networks import Node
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.patterns.curves.composite import Composite
from specnorm_networks.comparison.checking import TOLERANCE
from specnorm_networks.comparison.execution import ROUNDING, Value, execute
from specnorm_networks.local.certified.strips import strip_on

from specnorm.proofs.interval import enclosing, point

Array = Any
Function = Callable[[Array], Array]
ERF = np.vectorize(math.erf, otypes=[np.float64])
BELOW = np.array([-0.5, 0.0, 0.3, 2.0])


def logistic(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-abs(x)))


def elu(x: Array, alpha: float = 1.0, scale: float = 1.0, rate: float = 1.0) -> Array:
    return scale * np.where(x > 0, x, alpha * (np.exp(np.minimum(rate * x, 0)) - 1))


def spline(x: Array) -> Array:
    """Through (-1, 0), (0, 0.5), (1, -1) and (2, 1), by its kinks."""
    return 0.5 + 0.5 * x - 2 * np.maximum(x, 0) + 3.5 * np.maximum(x - 1, 0)


ALL_FREQUENCIES: list[tuple[ops.Function, Function]] = [
    (ops.ReLU(), lambda x: x * (x > 0)),
    (ops.Abs(), lambda x: np.sqrt(x * x)),
    (ops.Negative(), lambda x: 0 - x),
    (ops.LeakyReLU(), lambda x: np.where(x < 0, 0.01 * x, x)),
    (ops.LeakyReLU(-2.0), lambda x: np.where(x < 0, -2 * x, x)),
    (ops.LeakyReLU(1.7), lambda x: np.where(x < 0, 1.7 * x, x)),
    (ops.LeakyReLU(BELOW), lambda x: np.maximum(x, 0) + BELOW * np.minimum(x, 0)),
    (ops.HardTanh(), lambda x: np.clip(x, -1, 1)),
    (ops.HardTanh(0.0, 6.0), lambda x: np.clip(x, 0, 6)),
    (ops.HardTanh(-math.inf, 2.5), lambda x: np.minimum(x, 2.5)),
    (ops.HardTanh(-0.3, math.inf), lambda x: np.maximum(x, -0.3)),
    (ops.HardTanh(0.7, 0.7), lambda x: np.full(x.shape, 0.7)),
    (activations.HARD_SWISH, lambda x: x * np.clip(x + 3, 0, 6) / 6),
    (ops.Sigmoid(), logistic),
    (ops.Tanh(), lambda x: -np.expm1(-2 * x) * logistic(2 * x)),
    (ops.Softsign(), lambda x: x / (1 + abs(x))),
    (ops.Arctan(), lambda x: np.arctan2(x, 1.0)),
    (ops.Arcsinh(), lambda x: np.sign(x) * np.log1p(abs(x) + x * x / (1 + np.hypot(1, x)))),
    (activations.GELU, lambda x: x * (1 + ERF(x / math.sqrt(2))) / 2),
    (activations.TANH_GELU, lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2),
    (activations.MISH, lambda x: x * np.tanh(softplus(x))),
    (activations.SILU, lambda x: x * logistic(x)),
    (ops.Erf(), ERF),
    (ops.Softplus(), softplus),
    (ops.Sin(), np.sin),
    (ops.Cos(), np.cos),
    (ops.ELU(), elu),
    (ops.ELU(0.3), lambda x: elu(x, 0.3)),
    (ops.ELU(1.5), lambda x: elu(x, 1.5)),
    (ops.LinearSpline(-1, np.array([0.0, 0.5, -1.0, 1.0])), spline),
]
"""Operators, and their definitions once more."""
ON_RANGES: list[tuple[ops.Function, Function, float]] = [
    (ops.Exp(), np.exp, -math.inf),
    (ops.Log(), np.log, 0.0),
    (ops.Power(1), lambda x: x, -math.inf),
    (ops.Power(2), lambda x: x * x, -math.inf),
    (ops.Power(3), lambda x: x * x * x, -math.inf),
    (ops.Power(4), lambda x: (x * x) ** 2, -math.inf),
    (ops.Sqrt(), lambda x: x**0.5, 0.0),
    (ops.Reciprocal(), lambda x: 1 / x, 0.0),
    (ops.Reciprocal(-0.3), lambda x: -0.3 / x, 0.0),
]
"""And from where on they are defined."""
SHOWN = [f"{at}-{type(op).__name__}" for at, (op, *_) in enumerate([*ALL_FREQUENCIES, *ON_RANGES])]
ALL = [*((op, f, -math.inf) for op, f in ALL_FREQUENCIES), *ON_RANGES]


def intervals(seed: int, least: float, count: int = 1200) -> tuple[Array, Array]:
    """Of all sizes, some degenerate, some with an end at 0 or at a kink; four columns."""
    dice = np.random.default_rng(seed)
    middle = dice.normal(0, 1, count) * dice.choice([1e-8, 0.1, 3.0, 30.0], count)
    middle = np.where(dice.random(count) < 0.2, dice.choice([0.0, 0.5, -0.5, 1.0, 3.0, -3.0, 2.5], count), middle)
    half = abs(dice.normal(0, 1, count)) * dice.choice([0.0, 1e-9, 1e-3, 1.0, 10.0], count)
    low = middle - half * dice.integers(0, 2, count)
    high = middle + half
    if least == 0:
        low, high = abs(low) + 1e-9, abs(low) + 1e-9 + (high - low)
    return low.reshape(-1, 4), high.reshape(-1, 4)


def points(low: Array, high: Array, seed: int, count: int = 9) -> Array:
    share = np.random.default_rng(seed).random((count, *low.shape)) ** 2
    inside = np.clip(low + share * (high - low), low, high)
    return np.concatenate(
        [inside, [low, high], np.clip(low + 1e-7, low, high)[None], np.clip(0.0 * low, low, high)[None]]
    )


def error(operator: ops.Function, x: Array, tolerance: float) -> Array:
    return np.asarray(execute(Node("y", operator, ("x",), x.shape), [Value(x)], tolerance).error)


def test_every_class_of_functions_is_among_the_cases() -> None:
    classes = [getattr(ops, name) for name in ops.__all__]
    functions = {each for each in classes if isinstance(each, type) and issubclass(each, ops.Function)}
    assert functions - {ops.Function, ops.Steep} == {type(op) for op, *_ in ALL} - {Composite}


@pytest.mark.parametrize(("operator", "definition", "least"), ALL, ids=SHOWN)
def test_values_are_those_of_the_definition(operator: ops.Function, definition: Function, least: float) -> None:
    x = np.random.default_rng(0).normal(0, 4, (2000, 4)) if least else np.random.default_rng(0).gamma(1, 4, (2000, 4))
    found = operator.run(x)
    wanted = definition(x)
    assert found.dtype == np.float64
    assert (abs(found - wanted) <= 2e-15 * abs(wanted) + 1e-14 * (1 + abs(x))).all()
    assert (abs(found - wanted) <= error(operator, x, ROUNDING) + 1e-14 * (1 + abs(x))).all()


@pytest.mark.parametrize(("operator", "definition", "least"), ALL, ids=SHOWN)
def test_values_slopes_and_lines_on_intervals(operator: ops.Function, definition: Function, least: float) -> None:
    low, high = intervals(1, least)
    x = points(low, high, 2)
    with np.errstate(all="ignore"):
        y = definition(x)
    noise = 4e-15 * (abs(y) + abs(x) + 1e-30)
    if isinstance(operator, (Composite, ops.ELU, ops.Tanh, ops.Softplus, ops.Sin, ops.Cos)):
        noise = noise + 4e-15  # the definitions here lose what cancels
    down, up = operator.between(low, high)
    assert (down <= y + noise).all()
    assert (y - noise <= up).all()
    found = operator.slopes(low, high)
    extent = operator.extent()
    assert found is not None
    if extent is not None:
        assert (extent[0] <= found[0]).all()
        assert (found[1] <= extent[1]).all()
    assert (found[0] <= found[1]).all()
    for one, other in ((0, -1), (-2, -1), (1, 2), (3, -4), (-3, 4)):
        apart = x[one] - x[other]
        rise = y[one] - y[other]
        lost = noise[one] + noise[other] + 1e-15 * abs(apart) * np.maximum(*map(abs, found))
        ends = found[0] * apart, found[1] * apart
        assert (np.minimum(*ends) - lost <= rise).all()
        assert (rise <= np.maximum(*ends) + lost).all()
    line = strip_on(operator, low, high)
    assert line is not None
    slope, middle, half = line
    assert np.isfinite(half).all()
    # Rounding of the three terms here, in which large numbers may cancel.
    here = 2e-16 * (abs(y) + abs(slope * x) + abs(middle)) + noise
    assert (abs(y - slope * x - middle) <= half + here).all()


@pytest.mark.parametrize("first", [-40000, 3])
def test_rounding_of_splines_is_counted_far_from_their_knots(first: int) -> None:
    """In rational numbers: at knots far from 0, an argument less a knot loses digits."""
    dice = np.random.default_rng(0)
    for _ in range(200):
        numbers = dice.standard_normal(4)
        x = dice.choice([dice.uniform(first - 2, first + 6), dice.standard_normal(), first + 1e-9 * dice.random()])
        low, high = ops.LinearSpline(first, numbers).between(np.array([x]), np.array([x]))
        at = min(max(math.floor(x), first), first + 2) - first
        before, after = Fraction(numbers[at]), Fraction(numbers[at + 1])
        exact = before + (Fraction(x) - first - at) * (after - before)
        assert Fraction(low.item()) <= exact <= Fraction(high.item())


def test_splines_of_channels_read_one_number() -> None:
    """In a program a value may become one number for all channels."""
    operator = ops.LinearSpline(0, np.array([[1.0, 2.0, 3.0], [0.0, 1.0, 2.0]]))
    assert operator.run(np.array(0.5)).tolist() == [0.5, 1.5, 2.5]


# -- what is allowed to differ ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(("operator", "definition", "least"), ALL, ids=SHOWN)
def test_values_rounded_to_single_precision_are_allowed(
    operator: ops.Function, definition: Function, least: float
) -> None:
    """As those of constants in a file; a slope that is wrong by a percent is not."""
    dice = np.random.default_rng(4)
    x = dice.normal(0, 4, (4000, 4)) if least else dice.gamma(1, 4, (4000, 4)) + 1e-3
    x = x.astype(np.float32).astype(np.float64)
    found = operator.run(x)
    allowed = error(operator, x, TOLERANCE)
    assert (allowed >= 0).all()
    there = definition(x).astype(np.float32).astype(np.float64)
    assert (abs(there - found) <= allowed + 1e-14).all()
    wrong = np.asarray(definition(1.01 * x))
    if np.ptp(found):
        assert (abs(wrong - found) > allowed).any()


@pytest.mark.parametrize("spread", [1, 30, 100])
def test_logarithms_of_probabilities_may_cancel(spread: float) -> None:
    """As log(softmax(x)), which onnx's reference computes; right values were refused. Of others a percent is seen."""
    operator = ops.LogSoftmax((1,))
    x = spread * np.random.default_rng(5).normal(size=(400, 10))
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    with np.errstate(divide="ignore"):
        there = np.log(powers / powers.sum(axis=1, keepdims=True))
    found = operator.run(x)
    allowed = np.asarray(execute(Node("y", operator, ("x",), x.shape), [Value(x)]).error)
    assert (abs(there - found) <= allowed)[np.isfinite(there)].all()
    assert (0.01 * abs(found) > allowed)[(found < -1) & (found > -80)].all()


@pytest.mark.parametrize("spread", [1e-3, 1, 20])
def test_a_logarithm_of_two_exponentials_is_within_the_rounding(spread: float) -> None:
    """As torch's exporter writes it; of others a thousandth is seen."""
    values = list(spread * np.random.default_rng(5).normal(size=(2, 400)))
    there = np.log(np.exp(values[0]) + np.exp(values[1]))
    operator = ops.LogAddExp()
    found = operator.run(*values)
    node = Node("y", operator, ("u", "v"), (400,))
    allowed = np.asarray(execute(node, list(map(Value, values))).error)
    assert (abs(there - found) <= allowed).all()
    assert (allowed < 1e-3 * (1 + abs(found))).all()


@pytest.mark.parametrize("exponent", [-1, -2, 0.5, 2.5])
def test_powers_without_a_rule_have_no_slopes_and_no_range(exponent: Any) -> None:
    low = np.array([1.0])
    high = np.array([2.0])
    assert ops.Power(exponent).slopes(low, high) is None
    assert not np.isfinite(ops.Power(exponent).between(low, high)).any()


def error_of(operator: ops.Operator, *operands: Value) -> Array:
    node = Node("y", operator, tuple(map(str, range(len(operands)))), operands[0].value.shape)
    return np.broadcast_to(execute(node, operands).error, operands[0].value.shape)


def test_errors_of_arguments_reach_every_value_that_they_allow() -> None:
    """Root of 0 and a product of opposite signs had no error, a quotient by what may be 0 had NaN: honest models were
    called misread.
    """
    little = 1e-6
    (root,) = error_of(ops.Sqrt(), Value(np.zeros(1), little))
    assert math.sqrt(little) <= root < 5 * math.sqrt(little)
    (product,) = error_of(ops.Product(), Value(np.ones(1), little), Value(-np.ones(1), little))
    assert 2 * little <= product < 10 * little
    (by_zero,) = error_of(ops.Quotient(), Value(np.ones(1), little), Value(np.zeros(1) + little, little))
    assert by_zero == math.inf
    (after,) = error_of(ops.Add((1.0, 1.0)), Value(np.ones(1), by_zero), Value(np.ones(1), 0.0))
    assert after == math.inf


def boxed(operator: ops.LogSumExp, low: Array, high: Array) -> float:
    return operator.lipschitz(ops.Place((low.shape,), ranges=lambda: (enclosing((low, high)),), boxed=True))


def test_the_constant_of_a_log_sum_exp_at_a_point_is_not_below_its_gradient() -> None:
    """Against ball arithmetic; the same numbers without the allowance are below it at some points."""
    flint: Any = pytest.importorskip("flint", reason="ball arithmetic: pip install python-flint")
    flint.ctx.prec = 300
    random = np.random.RandomState(0)
    unsafe = 0
    for scale in (1e-3, 1.0, 30.0):
        for n in (1, 2, 7, 300):
            for _ in range(4):
                x = scale * random.standard_normal((1, n))
                powers = [flint.arb(float(entry)).exp() for entry in x[0]]
                exact = (sum(power * power for power in powers)).sqrt() / sum(powers)
                found, computed = boxed(ops.LogSumExp((1,)), x, x), np.linalg.norm(np.exp(x) / np.exp(x).sum())
                assert exact <= flint.arb(found) or found == 1
                assert found <= float(exact) * (1 + 1e-9)
                unsafe += not exact <= flint.arb(float(computed))
    assert unsafe > 0


def test_the_constant_of_a_log_sum_exp_on_a_box_holds_there() -> None:
    random = np.random.RandomState(0)
    for axes in ((1,), (2,), (1, 2)):
        operator = ops.LogSumExp(axes)
        for width in (0.0, 0.1, 3.0):
            low = random.standard_normal((2, 3, 5))
            high = low + width * random.random_sample(low.shape)
            found = boxed(operator, low, high)
            for _ in range(20):
                x = np.where(random.random_sample(low.shape) < 0.5, low, high)
                gradient = np.exp(x) / np.exp(x).sum(axis=axes, keepdims=True)
                assert np.sqrt((gradient**2).sum(axis=axes)).max() <= found * (1 + 1e-12)
            assert found <= 1
    operator, wide = ops.LogSumExp((1,)), np.full((1, 3), math.inf)
    assert boxed(operator, -wide, wide) == 1
    assert boxed(operator, np.zeros((1, 3)), wide) == boxed(operator, -wide, np.zeros((1, 3))) == 1
    assert boxed(operator, np.zeros((1, 100)), np.full((1, 100), 0.1)) < 0.1106
    assert operator.lipschitz(ops.Place(((1, 100),))) == 1


def test_ranges_of_a_log_sum_exp_contain_it_and_not_by_luck() -> None:
    """Against ball arithmetic; without the allowance, either end is on the wrong side of some of these numbers."""
    flint: Any = pytest.importorskip("flint", reason="ball arithmetic: pip install python-flint")
    flint.ctx.prec = 300
    operator, random = ops.LogSumExp((1,)), np.random.RandomState(0)
    unsafe_low = unsafe_high = 0
    for scale in (1e-3, 1.0, 30.0, 1e3):
        for n in (1, 2, 7, 300):
            x = scale * random.standard_normal((4, n))
            found, computed = operator.image([point(x)], ops.Place.of(x)), operator.run(x)
            if n == 2:  # the same of two values
                one, other = x.T
                of_two = ops.LogAddExp().image([point(one), point(other)], ops.Place.of(one, other))
                assert of_two is not None
                found = of_two & found
            for row, low, high, value in zip(x, found.low, found.high, computed, strict=True):
                largest = flint.arb(float(row.max()))
                sum_of_powers = sum((flint.arb(float(entry)) - largest).exp() for entry in row)
                exact = largest + flint.arb(sum_of_powers).log()
                assert flint.arb(float(low)) <= exact <= flint.arb(float(high))
                unsafe_low += not flint.arb(float(value)) <= exact
                unsafe_high += not exact <= flint.arb(float(value))
    assert unsafe_low > 0
    assert unsafe_high > 0
