"""The rules against dense matrices and Jacobians written out here; constants of functions proven by ball arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from specnorm.networks import Graph, Layer, Node, bound
from specnorm.networks.axes import Window, average_norm_up, overlap, resize_norm_up
from specnorm.networks.pointwise import LOWEST, PARAMETRIC, RISING, SLOPES, interval, slope
from specnorm.networks.rules import COMBINATIONS, FACTORS, UnknownRuleError, repeats
from specnorm.proof import host

Matrix = NDArray[np.float64]


def norm(a: Matrix) -> float:
    return float(np.linalg.norm(a, 2))


# -- functions of one number ---------------------------------------------------------------------------------------
def derivatives() -> dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]]:
    """Derivative of each curved function, on balls and on NumPy arrays alike; arguments are the library's functions."""

    def sigmoid(x: Any, m: Any) -> Any:
        return 1 / (1 + m.exp(-x))

    def gelu(x: Any, m: Any) -> Any:
        return (1 + m.erf(x / m.sqrt(2))) / 2 + x * m.exp(-x * x / 2) / m.sqrt(2 * m.pi)

    def gelu_tanh(x: Any, m: Any) -> Any:
        c = m.sqrt(2 / m.pi)
        t = m.tanh(c * (x + 0.044715 * x * x * x))
        return (1 + t) / 2 + x * (1 - t * t) / 2 * c * (1 + 3 * 0.044715 * x * x)

    def mish(x: Any, m: Any) -> Any:
        # tanh(log(1 + e^x)) = (w - 1) / (w + 1) with w = (1 + e^x)^2; written so that w occurs once
        t = 1 - 2 / ((1 + m.exp(x)) * (1 + m.exp(x)) + 1)
        return t + x * (1 - t * t) * sigmoid(x, m)

    def silu(x: Any, m: Any) -> Any:
        s = sigmoid(x, m)
        return s * (1 + x * (1 - s))

    return {"gelu": gelu, "gelu_tanh": gelu_tanh, "mish": mish, "silu": silu}  # type: ignore[dict-item]


class Balls:
    """The functions on balls."""

    def __init__(self) -> None:
        self.arb = pytest.importorskip("flint").arb
        self.pi = self.arb.pi()

    def exp(self, x: Any) -> Any:
        return self.arb(x).exp()

    def erf(self, x: Any) -> Any:
        return self.arb(x).erf()

    def sqrt(self, x: Any) -> Any:
        return self.arb(x).sqrt()

    def tanh(self, x: Any) -> Any:
        return self.arb(x).tanh()


class Numbers:
    pi, exp, sqrt, tanh = math.pi, staticmethod(np.exp), staticmethod(np.sqrt), staticmethod(np.tanh)
    erf = staticmethod(np.vectorize(math.erf))


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "mish", "silu"])
def test_slope_is_proven_and_tight(name: str) -> None:
    """On [-16, 16] by balls that cover it. Beyond, each derivative is within |x| exp(-|x|) < 2e-6 of 0 or 1."""
    balls = Balls()
    derivative: Any = derivatives()[name]
    claimed, lowest = SLOPES[name], LOWEST[name]
    waiting = [(Fraction(at), Fraction(at + 1)) for at in range(-16, 16)]
    seen = 0
    while waiting:
        a, b = waiting.pop()
        seen += 1
        assert seen < 40_000
        middle, radius = (a + b) / 2, (b - a) / 2
        ball = balls.arb(float(middle), float(radius))
        here = derivative(ball, balls)
        if not (here <= balls.arb(claimed) and here >= balls.arb(lowest)):
            assert radius > Fraction(1, 2**40), f"the slope of {name} exceeds {claimed} near {float(middle)}"
            waiting += [(a, middle), (middle, b)]
    x = np.linspace(-6, 6, 400_001)
    with np.errstate(over="ignore"):
        assert claimed <= np.max(derivative(x, Numbers)) * (1 + 2e-5)
        assert lowest >= np.min(derivative(x, Numbers)) - 2e-5


def test_slope_proof_can_fail() -> None:
    balls = Balls()
    derivative: Any = derivatives()["silu"]
    assert not abs(derivative(balls.arb(2.3994, 1e-6), balls)) <= balls.arb(1.0998)


@pytest.mark.parametrize("name", sorted({*SLOPES, "celu", "softplus", "softshrink"}))
def test_slopes_of_differences(name: str) -> None:
    """Every function in the table, by its own definition."""
    x = np.linspace(-9, 9, 200_001)
    sigmoid = 1 / (1 + np.exp(-x))
    erf = np.vectorize(math.erf)
    functions: dict[str, Any] = {
        "abs": abs(x),
        "arctan": np.arctan(x),
        "clip": np.clip(x, -1, 2),
        "cos": np.cos(x),
        "sin": np.sin(x),
        "hard_swish": x * np.clip(x + 3, 0, 6) / 6,
        "log_sigmoid": np.log(sigmoid),
        "negative": -x,
        "relu": np.maximum(x, 0),
        "sigmoid": sigmoid,
        "softplus": np.logaddexp(0, x),
        "softshrink": np.sign(x) * np.maximum(abs(x) - 0.5, 0),
        "softsign": x / (1 + abs(x)),
        "tanh": np.tanh(x),
        "tanhshrink": x - np.tanh(x),
        "celu": np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
        "erf": erf(x),
        "gelu": x * (1 + erf(x / math.sqrt(2))) / 2,
        "silu": x * sigmoid,
        "gelu_tanh": x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
        "mish": x * np.tanh(np.logaddexp(0, x)),
        "selu": 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0))),
    }
    slopes = np.diff(functions[name]) / np.diff(x)
    steep = np.max(np.abs(slopes))
    assert steep * (1 - 1e-9) <= (slope(name) or 0.0) <= steep * 1.001
    ends = interval(name)
    assert ends is not None
    assert ends[0] <= np.min(slopes) + 1e-9
    assert ends[0] >= np.min(slopes) - 0.02  # some reach their smallest slope beyond the points
    assert np.max(slopes) * (1 - 1e-9) <= ends[1] <= max(np.max(slopes), 0) * 1.001 or name == "negative"


@pytest.mark.parametrize("alpha", [-1.5, -0.3, 0.0, 0.4, 2.0])
def test_interval_of_slopes_with_parameters(alpha: float) -> None:
    """Between the slopes on both sides of the kink, whatever their signs."""
    x = np.linspace(-5, 5, 10_001)
    shapes: dict[str, tuple[dict[str, float], Any]] = {
        "leaky": ({"alpha": alpha}, np.where(x > 0, x, alpha * x)),
        "prelu": ({"low": alpha - 1, "high": alpha}, np.where(x > 0, x, alpha * x)),
        "linear": ({"alpha": alpha}, alpha * np.clip(x, -1, 1)),
        "elu": ({"alpha": alpha, "scale": 1.5}, 1.5 * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))),
    }
    for name, (given, y) in shapes.items():
        slopes = np.diff(y) / np.diff(x)
        ends = interval(name, **given)
        assert ends is not None
        assert ends[0] - 1e-9 <= np.min(slopes)
        assert np.max(slopes) <= ends[1] + 1e-9
    assert interval("leaky", alpha=math.inf) is None
    assert interval("celu", alpha=-1.0) is None


def test_functions_without_a_sign_are_not_called_rising() -> None:
    assert not RISING & LOWEST.keys()
    assert {*RISING, *LOWEST, "negative", "abs", "cos", "sin"} >= SLOPES.keys()


def test_other_slopes() -> None:
    assert slope("leaky", alpha=-2.0) == 2.0
    assert slope("leaky", alpha=0.1) == 1.0
    assert slope("linear", alpha=-0.2) == 0.2
    assert slope("exp") is None
    assert slope("leaky", alpha=math.nan) is None
    assert slope("leaky", beta=1.0) is None
    assert slope("relu", alpha=1.0) is None
    assert slope("linear") is None
    assert slope("elu", alpha=1e200, scale=1e200) is None


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("celu", {"alpha": -0.7}), ("celu", {"alpha": 0.0}), ("elu", {"input_scale": -1.0}),
        ("hardtanh", {"low": 1.0, "high": -1.0}), ("softshrink", {"lambd": -0.1}), ("softplus", {"threshold": 19.0}),
        ("softplus", {"beta": 0.0}), ("threshold", {"threshold": 0.5, "value": 0.0}),
    ],
)  # fmt: skip
def test_parameters_that_no_slope_was_derived_for(name: str, parameters: dict[str, float]) -> None:
    assert slope(name, **parameters) is None


# -- windows -------------------------------------------------------------------------------------------------------
def average_matrix(n: int, window: Window) -> Matrix:
    """Rows of weights, by going through pixels: independent of the code under test."""
    rows = []
    start = -window.before
    while True:
        if window.ceil:
            fits = (
                start < n
                and start < n + window.after
                and (start == -window.before or start - window.stride + window.kernel < n + window.after)
            )
        else:
            fits = start + window.kernel <= n + window.after
        if not fits:
            break
        row, count = np.zeros(n), 0
        for p in range(start, start + window.kernel):
            if 0 <= p < n:
                row[p] = 1
                count += 1
            elif window.count_padding and p < n + window.after:
                count += 1
        rows.append(row / max(count, 1))
        start += window.stride
    return np.asarray(rows)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("s", [1, 2, 3])
@pytest.mark.parametrize(("count", "ceil"), [(True, False), (False, False), (True, True), (False, True)])
def test_averages_against_their_matrix(k: int, s: int, count: bool, ceil: bool) -> None:
    for n in (5, 8):
        pad = k // 2
        plain = Window(k, s, 1, pad, pad, n, None, ceil, count)
        matrix = average_matrix(n, plain)
        found = average_norm_up(Window(k, s, 1, pad, pad, n, len(matrix), ceil, count))
        assert found is not None
        assert norm(matrix) * (1 - 1e-12) <= found <= norm(matrix) * (1 + 1e-8)
        every = average_norm_up(plain)
        if every is not None:
            assert found <= every * (1 + 1e-8)
            assert every <= 1.2 * norm(average_matrix(60, Window(k, s, 1, pad, pad, 60, None, ceil, count)))


def test_average_at_every_size_is_the_limit() -> None:
    for k, s, value in ((3, 2, math.sqrt(5) / 3), (4, 4, 0.5), (4, 2, 1 / math.sqrt(2)), (2, 5, math.sqrt(0.5))):
        assert average_norm_up(Window(k, s)) == pytest.approx(value, rel=1e-14)
    assert average_norm_up(Window(3, 1, before=1, after=1, count_padding=False)) is None
    assert average_norm_up(Window(3, 2, ceil=True)) is None


@pytest.mark.parametrize("k", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("s", [1, 2, 3, 4])
@pytest.mark.parametrize("r", [1, 2, 3])
def test_overlap_counts_windows(k: int, s: int, r: int) -> None:
    n = 60
    starts = range(0, n - r * (k - 1), s)
    most = max(sum(p in range(m, m + r * (k - 1) + 1, r) for m in starts) for p in range(n))
    assert overlap(Window(k, s, r)) == most
    assert overlap(Window(k, s, r, size=n, outputs=1)) == 1


@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric", "align_corners"])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize(("n", "m"), [(4, 8), (4, 11), (7, 3), (1, 5)])
def test_resize_against_interpolation(mode: str, coordinates: str, n: int, m: int) -> None:
    x = {"half_pixel": (np.arange(m) + 0.5) * n / m - 0.5, "asymmetric": np.arange(m) * n / m}.get(coordinates)
    x = np.arange(m) * (n - 1) / (m - 1) if x is None else x
    basis = np.eye(n)
    if mode == "linear":
        matrix = np.stack([np.interp(x, np.arange(n), row) for row in basis], 1)
    else:
        matrix = np.stack([row[np.clip(np.floor(x + 1e-9).astype(int), 0, n - 1)] for row in basis], 1)
    found = resize_norm_up(mode, n, m, Fraction(m, n), coordinates, "floor")
    assert found is not None
    assert norm(matrix) * (1 - 1e-9) <= found <= norm(matrix) * (1 + 1e-8)
    assert resize_norm_up("cubic", n, m, Fraction(m, n), coordinates, "floor") is None


# -- other rules ---------------------------------------------------------------------------------------------------
def node(rule: str, shape: Any = None, **params: Any) -> Node:
    return Node("y", rule, rule, ("x",), shape, params)


def test_softmax_and_its_logarithm() -> None:
    rng = np.random.default_rng(0)
    steepest = {"softmax": 0.0, "log_softmax": 0.0}
    for at in range(400):
        z = rng.normal(size=7) * (at % 20)
        z[0] += at % 40
        p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        steepest["softmax"] = max(steepest["softmax"], norm(np.diag(p) - np.outer(p, p)))
        steepest["log_softmax"] = max(steepest["log_softmax"], norm(np.eye(7) - np.outer(np.ones(7), p)))
    x = Node("x", "input", "input", (), (1, 7))
    for rule, found in steepest.items():
        factor = FACTORS[rule](node(rule, (1, 7), axis=1), x)
        assert 0.9 * factor <= found <= factor
    with pytest.raises(UnknownRuleError, match="classes"):
        FACTORS["log_softmax"](node("log_softmax", axis=1), Node("x", "input", "input"))


def test_repeats_needs_shapes_that_tell() -> None:
    assert repeats((1, 4, 1), (2, 4, 3)) == 6
    assert repeats((4,), (2, 4)) == 2
    assert repeats((1, 4, "h"), (1, 4, "h")) == 1
    for before, after in (((1, "h"), (1, "w")), ((1, 1), (1, "w")), (None, (1,)), ((2,), (3,)), ((1, "h"), (1, 3))):
        with pytest.raises(UnknownRuleError):
            repeats(before, after)


def test_combinations_against_random_maps() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 5, 4))
    bounds = [norm(a), norm(b)]
    sources = [Node(name, "input", "input", (), (5,)) for name in "ab"]
    both = node("?", (5,))
    assert norm(a + b) <= COMBINATIONS["add"](both, sources, bounds)
    assert norm((a + b) / 2) <= COMBINATIONS["average"](both, sources, bounds)
    assert (
        norm(np.concatenate([a, b]))
        <= COMBINATIONS["stack"](both, sources, bounds)
        <= math.sqrt(2) * max(bounds) * 1.001
    )
    for _ in range(200):
        x, y = rng.normal(size=(2, 4))
        rise = np.linalg.norm(np.maximum(a @ x, b @ x) - np.maximum(a @ y, b @ y))
        assert rise <= COMBINATIONS["extreme"](both, sources, bounds) * np.linalg.norm(x - y)
    assert COMBINATIONS["add"](both, sources, [3.0, 4.0]) == pytest.approx(7)
    assert COMBINATIONS["stack"](both, sources, [3.0, 4.0]) == pytest.approx(5)
    wide = [sources[0], Node("c", "input", "input", (), (1,))]
    assert COMBINATIONS["add"](both, wide, [1.0, 1.0]) == pytest.approx(1 + math.sqrt(5))


def test_every_rule_and_function_is_in_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "networks.md").read_text(encoding="utf-8")
    table = "".join(line for line in page.splitlines() if line.startswith("| `"))
    assert [name for name in (*FACTORS, *COMBINATIONS) if f"`{name}`" not in table] == []
    assert [name for name in (*SLOPES, *PARAMETRIC) if f"`{name}`" not in page] == []


def test_rounding_is_upward() -> None:
    rng = np.random.default_rng(2)
    for _ in range(300):
        x = [float(v) for v in np.exp(rng.normal(size=4) * 30)]
        exact = [Fraction(v) for v in x]
        assert math.prod(exact) <= Fraction(host.mul_up(*x)) <= math.prod(exact) * (1 + Fraction(1, 2**48))
        assert sum(exact) <= Fraction(host.add_up(*x)) <= sum(exact) * (1 + Fraction(1, 2**48))
        squares = sum(v * v for v in exact)
        assert squares <= Fraction(host.hypot_up(*x)) ** 2 <= squares * (1 + Fraction(1, 2**45))
        assert exact[0] / 3 <= Fraction(host.float_up(exact[0] / 3)) <= exact[0] / 3 * (1 + Fraction(1, 2**51))
        assert exact[1] / 7 <= Fraction(host.root_up(exact[1] / 7)) ** 2
    assert host.mul_up(2.0, 0.0, math.inf) == 0
    assert host.mul_up(5e-324, 5e-324) > 0
    assert host.hypot_up() == 0
    assert host.mul_up(1e300, 1e300) == math.inf


# -- graphs --------------------------------------------------------------------------------------------------------
def matrix_layer(name: str, a: Matrix) -> Layer:
    return Layer(name, lambda: a, {}, 0)


def test_what_no_output_needs_is_left_out() -> None:
    x, y = Node("x", "input", "input", (), (1, 3)), Node("y", "select", "Identity", ("x",), (1, 3))
    bad = Node("z", "mystery", "Mystery", ("y",))
    assert bound(Graph((x, y, bad), ("y",))).upper == 1
    found = bound(Graph((x, y, bad), ("z", "y")))
    assert (found.upper, found.outputs) == (None, {"z": None, "y": 1.0})
    assert [u.operator for u in found.unknown] == ["Mystery"]


def test_layer_that_cannot_be_measured_is_named() -> None:
    x = Node("x", "input", "input", (), (1, 2))
    layer = Node("y", "layer", "Gemm", ("x",), (1, 2), {}, matrix_layer("w", np.full((2, 2), np.nan)))
    found = bound(Graph((x, layer), ("y",)))
    assert found.upper is None
    assert "finite" in found.unknown[0].reason


def test_several_inputs() -> None:
    """Each alone, then Cauchy-Schwarz: exact for a matrix with two blocks of orthogonal rows."""
    nodes = (
        Node("x", "input", "input", (), (1, 1)),
        Node("y", "input", "input", (), (1, 1)),
        Node("a", "scale", "Mul", ("x",), (1, 1), {"values": 3.0}),
        Node("b", "scale", "Mul", ("y",), (1, 1), {"values": -4.0}),
        Node("c", "add", "Add", ("a", "b"), (1, 1)),
    )
    assert bound(Graph(nodes, ("c",))).upper == pytest.approx(5, rel=1e-12)


def test_numbers_that_overflow_stay_upper() -> None:
    nodes = [Node("x", "input", "input", (), (1,))]
    nodes += [
        Node(f"y{at}", "scale", "Mul", (nodes[-1].name if at == 0 else f"y{at - 1}",), (1,), {"values": 1e300})
        for at in range(3)
    ]
    found = bound(Graph(tuple(nodes), ("y2",)))
    assert found.upper == math.inf
    assert found.to_dict()["upper"] is None
    assert "inf" in str(found)
