"""Functions of each entry against their definitions in ball arithmetic: values, slopes, lines and roundings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from helpers.checks import present
from networks import activations
from specnorm_networks import Node
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.operators.curved import SLOPE_ERROR, Bell
from specnorm_networks.certified.patterns.curves.composite import Composite
from specnorm_networks.comparison.checking import TOLERANCE
from specnorm_networks.comparison.execution import ROUNDING, Value, execute
from specnorm_networks.local.certified.strips import strip_on

from specnorm.proofs.interval import enclosing, point

flint: Any = pytest.importorskip("flint", reason="ball arithmetic: pip install python-flint", exc_type=ImportError)
arb = flint.arb
series = flint.arb_series
Array = Any
Function = Callable[[Any], Any]
"""Of a series, whose first number is the argument."""
REACH = {"GELU": 9.0, "GELU by tanh": 8.0, "erf": 8.0}
"""Where the derivatives are within half of what may be lost of 0 or 1; `FURTHEST` for others."""
FURTHEST = 37.0


@pytest.fixture(autouse=True)
def bits() -> Iterator[None]:
    before = flint.ctx.prec
    flint.ctx.prec = 120
    yield
    flint.ctx.prec = before


def same(x: Any) -> Any:
    return x


def times(factor: float, added: float = 0.0) -> Function:
    return lambda x: arb(factor) * x + arb(added)


def bent(first: Function, *others: tuple[float, Function]) -> Function:
    """Another function above each number."""

    def f(x: Any) -> Any:
        return [first, *(g for border, g in others if x[0] > border)][-1](x)

    return f


def leaky(slope: float) -> Function:
    return bent(times(slope), (0, same))


def clip(low: float, high: float) -> Function:
    ends = [(end, value) for end, value in ((low, same), (high, times(0, high))) if abs(end) < math.inf]
    return bent(times(0, low) if low > -math.inf else same, *ends)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + (-x).exp())


def softplus(x: Any) -> Any:
    return (1 + x.exp()).log() if x[0] < 0 else x + (1 + (-x).exp()).log()


def elu(alpha: float) -> Function:
    return bent(lambda x: arb(alpha) * (x.exp() - 1), (0, same))


def power(n: int) -> Function:
    return lambda x: math.prod([x] * n)


Row = tuple[ops.Function, Function]
BELLS: dict[str, Row] = {
    "erf": (ops.Erf(), lambda x: x.erf()),
    "sigmoid": (ops.Sigmoid(), sigmoid),
    "tanh": (ops.Tanh(), lambda x: 1 - 2 / ((2 * x).exp() + 1)),
}
KNOWN: dict[str, Row] = {
    "GELU": (activations.GELU, lambda x: x * (1 + (x / arb(2).sqrt()).erf()) / 2),
    "GELU by tanh": (
        activations.TANH_GELU, lambda x: x / (1 + (-2 * (2 / arb.pi()).sqrt() * (x + arb("0.044715") * x**3)).exp())),
    "SiLU": (activations.SILU, lambda x: x / (1 + (-x).exp())),
    "Mish": (activations.MISH, lambda x: x * (1 - 2 / ((1 + x.exp()) * (1 + x.exp()) + 1))),
}  # fmt: skip
SMOOTH: dict[str, Row] = {
    **BELLS, **KNOWN,
    "negative": (ops.Negative(), times(-1)),
    "softplus": (ops.Softplus(), softplus),
    "softsign": (ops.Softsign(), lambda x: x / (1 - x) if x[0] < 0 else x / (1 + x)),
    "arctan": (ops.Arctan(), lambda x: x.atan()),
    "arcsinh": (ops.Arcsinh(), lambda x: (x + (1 + x * x).sqrt()).log()),
    "sin": (ops.Sin(), lambda x: x.sin()),
    "cos": (ops.Cos(), lambda x: x.cos()),
    "exp": (ops.Exp(), lambda x: x.exp()),
    "log": (ops.Log(), lambda x: x.log()),
    "root": (ops.Sqrt(), lambda x: x.sqrt()),
    "inverse": (ops.Reciprocal(), lambda x: 1 / x),
    "a multiple of the inverse": (ops.Reciprocal(-0.3), lambda x: arb(-0.3) / x),
    **{f"power {n}": (ops.Power(n), power(n)) for n in (1, 2, 3, 4, 16)},
}  # fmt: skip
KINKED: dict[str, tuple[ops.Function, Function, tuple[float, ...]]] = {
    "ReLU": (ops.ReLU(), leaky(0), (0,)),
    "abs": (ops.Abs(), leaky(-1), (0,)),
    **{f"leaky ReLU of {slope}": (ops.LeakyReLU(slope), leaky(slope), (0,)) for slope in (0.01, -2.0, 1.7)},
    "hard tanh": (ops.HardTanh(), clip(-1, 1), (-1, 1)),
    "ReLU6": (ops.HardTanh(0.0, 6.0), clip(0, 6), (0, 6)),
    "at most": (ops.HardTanh(-math.inf, 2.5), clip(-math.inf, 2.5), (2.5,)),
    "at least": (ops.HardTanh(-0.3, math.inf), clip(-0.3, math.inf), (-0.3,)),
    "a number": (ops.HardTanh(0.7, 0.7), clip(0.7, 0.7), (0.7,)),
    "hard swish": (
        activations.HARD_SWISH, bent(times(0), (-3, lambda x: x * (x + 3) / 6), (3, same)), (-3, 3)),
    **{f"ELU of {alpha}": (ops.ELU(alpha), elu(alpha), (0,)) for alpha in (1.0, 0.3, 1.7)},
    # Through (-1, 0), (0, 0.5), (1, -1) and (2, 1).
    "a spline": (ops.LinearSpline(-1, np.array([0.0, 0.5, -1.0, 1.0])), bent(
        times(0.5, 0.5), (0, times(-1.5, 0.5)), (1, times(2, -3))), (0, 1)),
}  # fmt: skip
"""And where they have two slopes."""
EVERY: dict[str, Row] = SMOOTH | {name: row[:2] for name, row in KINKED.items()}
POSITIVE = ("log", "root", "inverse", "a multiple of the inverse")
"""Which are defined there."""


def derivatives(name: str, low: float, high: float, count: int = 2) -> list[Any]:
    """The value and the first ``count`` derivatives on an interval."""
    ball = (arb(low) + arb(high)) / 2 + arb(0, (high - low) / 2 * (1 + 2.0**-50))
    found = EVERY[name][1](series([ball, 1], count + 1))
    return [found[k] * math.factorial(k) for k in range(count + 1)]


def definition(name: str, x: Array) -> Array:
    return np.array([float(derivatives(name, at, at, 0)[0].mid()) for at in x.ravel().tolist()]).reshape(x.shape)


def sample(name: str, seed: int, count: int = 400) -> Array:
    random = np.random.default_rng(seed)
    return random.gamma(1, 4, count) + 1e-3 if name in POSITIVE else random.normal(0, 4, count)


def error(operator: ops.Function, x: Array, tolerance: float) -> Array:
    return np.asarray(execute(Node("y", operator, ("x",), x.shape), [Value(x)], tolerance).error)


def test_every_class_of_functions_is_among_the_cases() -> None:
    classes = [getattr(ops, name) for name in ops.__all__]
    functions = {each for each in classes if isinstance(each, type) and issubclass(each, ops.Function)}
    assert functions - {ops.Function, ops.Steep} == {type(op) for op, _ in EVERY.values()} - {Composite}
    # Of 1 / (1 + |x|)^2, 1 / (1 + x^2) and its root one sees that they fall with |x|.
    bells = {each for each in functions if issubclass(each, Bell)}
    assert bells == {type(op) for op, _ in BELLS.values()} | {ops.Arcsinh, ops.Arctan, ops.Softsign}


@pytest.mark.parametrize("name", EVERY)
def test_values_are_those_of_the_definition(name: str) -> None:
    operator = EVERY[name][0]
    x = sample(name, 0)
    found = operator.run(x)
    apart = abs(found - definition(name, x))
    assert found.dtype == np.float64
    assert (apart <= 2e-15 * abs(found) + 1e-14 * (1 + abs(x))).all()
    assert (apart <= error(operator, x, ROUNDING) + 1e-14 * (1 + abs(x))).all()


@pytest.mark.parametrize("name", EVERY)
def test_values_rounded_to_single_precision_are_allowed(name: str) -> None:
    """As those of constants in a file; a slope that is wrong by a percent is not."""
    operator = EVERY[name][0]
    x = sample(name, 4).astype(np.float32).astype(np.float64)
    found, allowed = operator.run(x), error(operator, x, TOLERANCE)
    assert (allowed >= 0).all()
    there = definition(name, x).astype(np.float32).astype(np.float64)
    assert (abs(there - found) <= allowed + 1e-14).all()
    assert not np.ptp(found) or (abs(definition(name, 1.01 * x) - found) > allowed).any()


def test_slopes_of_channels_are_those_of_each() -> None:
    below = np.array([-0.5, 0.0, 0.3, 2.0])
    columns = [np.repeat(end[:, None], 4, 1) for end in intervals("ReLU")]

    def told(operator: ops.Function, *ends: Array) -> Array:
        found = operator.run(ends[0]), *present(operator.slopes(*ends)), *operator.between(*ends)
        return np.stack([np.broadcast_to(each, ends[0].shape) for each in found])

    whole = told(ops.LeakyReLU(below), *columns)
    for at, slope in enumerate(below.tolist()):
        assert np.array_equal(whole[..., at], told(ops.LeakyReLU(slope), *(end[:, at] for end in columns)))


# -- on intervals ----------------------------------------------------------------------------------------------------
def intervals(name: str) -> tuple[Array, Array]:
    """Of all sizes, some degenerate or with an end at a kink; for functions that are defined above 0, there."""
    random = np.random.default_rng(1)
    middle = random.normal(0, 2.5, 60)
    half = 10.0 ** random.uniform(-9, 0.7, 60)
    low = np.append(middle - half, [-0.5, 1.5, 0.0, -3.0, 0.5])
    high = np.append(middle + half, [0.5, 1.5, 2.0, 0.0, 1.0])
    if name in POSITIVE:
        low, high = abs(low) + 1e-6, abs(low) + 1e-6 + (high - low)
    return low, high


@pytest.mark.parametrize("name", EVERY)
def test_values_slopes_and_lines_on_intervals(name: str) -> None:
    operator = EVERY[name][0]
    kinks = KINKED[name][2] if name in KINKED else (0.0,)
    low, high = intervals(name)
    slopes = present(operator.slopes(low, high))
    extent = operator.extent()
    assert extent is None or ((extent[0] <= slopes[0]).all() and (slopes[1] <= extent[1]).all())
    found = (low, high, *slopes, *operator.between(low, high), *present(strip_on(operator, low, high)))
    ends = [np.broadcast_to(each, low.shape).tolist() for each in found]
    for a, b, least, most, down, up, slope, middle, half in zip(*ends, strict=True):
        beside = [kink + step for kink in kinks for step in (-1e-12, 1e-12)]
        points = [min(max(x, a), b) for x in [*np.linspace(a, b, 41).tolist(), *beside]]
        points = [x for x in points if x not in kinks or name not in KINKED]
        exact = [derivatives(name, x, x, 1) for x in points]
        assert [y for y in exact if not (arb(down) <= y[0] <= arb(up))] == []
        assert [y for y in exact if not (arb(least) <= y[1] <= arb(most))] == []
        for x, y in zip(points, exact, strict=True):
            assert abs(y[0] - arb(slope) * arb(x) - arb(middle)) <= arb(half)
        if name == "a spline":  # its slopes are those of all pieces that an interval may touch
            continue
        # Constants of the whole line are rounded up to five digits, and the sample has gaps.
        numbers = [[float(y[at].mid()) for y in exact] for at in range(2)]
        size = max(1.0, *(abs(x) for each in numbers for x in each))
        loose = (3e-5 + 0.06 * min(1.0, (b - a) ** 2 * (1 + size)) if b - a > 1e-6 else 1e-4) * size
        if isinstance(operator, Composite):  # of several operators, on 64 parts of the interval
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


# -- curves ----------------------------------------------------------------------------------------------------------
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
def test_derivatives_are_as_good_as_they_say_and_fall_with_the_size_of_the_argument(name: str) -> None:
    """At numbers of all sizes; beyond the reach they are at their limits. The second one has one sign on either side of
    0, where the third one is negative.
    """
    random = np.random.default_rng(0)
    reach = REACH.get(name, FURTHEST)
    x = np.concatenate(
        [random.uniform(-6, 6, 150), random.uniform(-reach, reach, 60), 10.0 ** random.uniform(-12, 0, 20)]
    )
    bell: Any = BELLS[name][0]
    for at, number in zip(x.tolist(), bell.slope(x).tolist(), strict=True):
        assert abs(derivatives(name, at, at, 1)[1] - arb(number)) < arb(SLOPE_ERROR / 2)
    far = np.array([-math.inf, -700.0, -2.0 * reach, -reach, reach, 2.0 * reach, 700.0, math.inf])
    assert abs(bell.slope(far)).max() < SLOPE_ERROR / 2
    assert derivatives(name, -1e-3, 1e-3, 3)[3] < 0
    signed(name, -reach, -1e-3, 2, lambda x: x > 0)
    signed(name, 1e-3, reach, 2, lambda x: x < 0)


# -- splines, powers, functions of several entries -------------------------------------------------------------------
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
    flint.ctx.prec = 300
    random = np.random.RandomState(0)
    unsafe = 0
    for scale in (1e-3, 1.0, 30.0):
        for n in (1, 2, 7, 300):
            for _ in range(4):
                x = scale * random.standard_normal((1, n))
                powers = [arb(float(entry)).exp() for entry in x[0]]
                exact = (sum(power * power for power in powers)).sqrt() / sum(powers)
                found, computed = boxed(ops.LogSumExp((1,)), x, x), np.linalg.norm(np.exp(x) / np.exp(x).sum())
                assert exact <= arb(found) or found == 1
                assert found <= float(exact) * (1 + 1e-9)
                unsafe += not exact <= arb(float(computed))
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
                largest = arb(float(row.max()))
                sum_of_powers = sum((arb(float(entry)) - largest).exp() for entry in row)
                exact = largest + arb(sum_of_powers).log()
                assert arb(float(low)) <= exact <= arb(float(high))
                unsafe_low += not arb(float(value)) <= exact
                unsafe_high += not exact <= arb(float(value))
    assert unsafe_low > 0
    assert unsafe_high > 0
