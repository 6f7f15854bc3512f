"""Curvature and radius of networks with one hidden layer: against Hessians, differences, attacks, rationals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from helpers.oracle import dense_matrix
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import specnorm
from specnorm import robustness
from specnorm.robustness.proof import SECOND_DERIVATIVE

Float = NDArray[np.float64]


def _sigmoid(z: Float) -> Float:
    return np.asarray(1 / (1 + np.exp(-z)))


ACTIVATIONS: dict[str, tuple[Callable[[Float], Float], Callable[[Float], Float], Callable[[Float], Float], float]] = {
    "sigmoid": (
        _sigmoid,
        lambda z: _sigmoid(z) * (1 - _sigmoid(z)),
        lambda z: _sigmoid(z) * (1 - _sigmoid(z)) * (1 - 2 * _sigmoid(z)),
        math.log(2 + math.sqrt(3)),
    ),
    "tanh": (
        np.tanh,
        lambda z: 1 - np.tanh(z) ** 2,
        lambda z: -2 * np.tanh(z) * (1 - np.tanh(z) ** 2),
        math.atanh(1 / math.sqrt(3)),
    ),
    "softplus": (lambda z: np.logaddexp(0, z), _sigmoid, lambda z: _sigmoid(z) * (1 - _sigmoid(z)), 0.0),
}
"""phi, phi', phi'', and where |phi''| is largest."""

each_activation = pytest.mark.parametrize("name", ACTIVATIONS)


@dataclass
class Network:
    """last @ phi(A x + bias): a strided convolution, an activation, a linear layer."""

    name: str
    seed: int = 0

    def __post_init__(self) -> None:
        random = np.random.RandomState(self.seed)
        self.geometry: dict[str, Any] = {"stride": 2, "padding_mode": "zeros"}
        self.kernel = random.standard_normal((3, 2, 3))
        self.matrix = dense_matrix(self.kernel, 8, **self.geometry)
        self.bias = random.standard_normal(len(self.matrix))
        self.last = random.standard_normal((4, len(self.matrix)))
        self.phi, self.slope, self.bend, _ = ACTIVATIONS[self.name]

    def margin(self, x: Float) -> float:
        hidden = self.phi(self.matrix @ x + self.bias)
        return float((self.last[1] - self.last[2]) @ hidden)

    def gradient(self, x: Float) -> Float:
        weight = (self.last[1] - self.last[2]) * self.slope(self.matrix @ x + self.bias)
        return np.asarray(self.matrix.T @ weight)

    def curvature(self) -> float:
        norm = specnorm.enclose(self.kernel, stride=2).upper
        return float(robustness.curvature_bound(norm, self.last, 1, 2, activation=self.name))  # type: ignore[arg-type]


# -- the constants -------------------------------------------------------------------------------------------------
def test_constants_are_rounded_up() -> None:
    squares = {"sigmoid": Fraction(1, 108), "tanh": Fraction(16, 27), "softplus": Fraction(1, 16)}
    assert squares.keys() == SECOND_DERIVATIVE.keys()
    for name, square in squares.items():
        found = Fraction(SECOND_DERIVATIVE[name]) ** 2
        assert square <= found <= square * (1 + Fraction(1, 10**15))


@each_activation
def test_constants_are_the_largest_second_derivatives(name: str) -> None:
    phi, slope, bend, at = ACTIVATIONS[name]
    z = np.linspace(-8, 8, 100_001)
    assert np.abs(bend(z)).max() <= SECOND_DERIVATIVE[name] * (1 + 1e-14)
    assert abs(float(bend(np.asarray(at)))) == pytest.approx(SECOND_DERIVATIVE[name], rel=1e-12)
    np.testing.assert_allclose(np.gradient(phi(z), z)[1:-1], slope(z)[1:-1], atol=1e-8)
    np.testing.assert_allclose(np.gradient(slope(z), z)[1:-1], bend(z)[1:-1], atol=1e-8)


# -- the curvature -------------------------------------------------------------------------------------------------


@each_activation
def test_the_bound_is_attained(name: str) -> None:
    """One hidden unit, at the point where its activation bends most."""
    _, _, bend, at = ACTIVATIONS[name]
    last = np.array([[1.5], [-0.25]])
    bound = float(robustness.curvature_bound(3.0, last, 0, 1, activation=name))  # type: ignore[arg-type]
    truth = 9.0 * 1.75 * abs(float(bend(np.asarray(at))))
    assert truth * (1 - 1e-14) <= bound <= truth * (1 + 1e-12)


@given(
    rows=st.lists(st.tuples(st.floats(-1e300, 1e300), st.floats(-1e300, 1e300)), min_size=1, max_size=3),
    norm=st.floats(0, 1e300),
    dtype=st.sampled_from(["float64", "float32", "float16"]),
)
def test_the_bound_is_rounded_up(rows: list[tuple[float, float]], norm: float, dtype: str) -> None:
    """Against rational numbers, overflow and underflow included."""
    with np.errstate(over="ignore"):
        last = np.array(rows).T.astype(dtype)
    if not np.isfinite(last).all():
        last = np.ones_like(last) * np.arange(2)[:, None].astype(dtype)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        got = robustness.curvature_bound(norm, last, 0, 1, activation="softplus")
    assert got.dtype == np.dtype("float64" if dtype == "float64" else "float32")
    largest = max(abs(Fraction(float(a)) - Fraction(float(b))) for a, b in last.T.tolist())
    truth = largest * Fraction(norm) ** 2 / 4
    if math.isinf(float(got)):
        assert truth > Fraction(float(np.finfo(got.dtype).max)) * Fraction(999, 1000)
    elif not math.isnan(float(got)):  # 0 times infinity promises nothing
        assert Fraction(float(got)) >= truth
        tiny = Fraction(float(np.finfo(got.dtype).smallest_normal))
        assert Fraction(float(got)) <= truth * Fraction(1.00001) + 4 * tiny * max(Fraction(1), Fraction(norm)) ** 2


# -- the radius ----------------------------------------------------------------------------------------------------
@each_activation
def test_no_attack_inside_the_radius(name: str) -> None:
    """Gradient descent and random steps, at the very radius; and the margin does fall somewhere outside."""
    fell = False
    for seed in range(6):
        network = Network(name, seed)
        random = np.random.RandomState(seed)
        x = random.standard_normal(16)
        m, g = network.margin(x), network.gradient(x)
        if m <= 0:
            network.last = -network.last
            m, g = -m, -g
        radius = float(robustness.certified_radius(m, g, network.curvature()))
        assert 0 < radius <= m / float(np.linalg.norm(g))
        for reach in (radius, 30 * radius):
            for _ in range(20):
                d = random.standard_normal(16)
                for _ in range(30):
                    d = reach * d / np.linalg.norm(d)
                    d = d - 0.3 * reach * network.gradient(x + d) / np.linalg.norm(network.gradient(x + d))
                margin = network.margin(x + reach * d / np.linalg.norm(d))
                assert margin > 0 or reach > radius
                fell |= margin < 0
    assert fell


@given(
    m=st.floats(1e-300, 1e300),
    g=st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=3),
    bend=st.floats(0, 1e300),
    dtype=st.sampled_from(["float64", "float32"]),
)
def test_the_radius_is_rounded_down(m: float, g: list[float], bend: float, dtype: str) -> None:
    """``||g|| r + M r**2 / 2 <= m`` in rational numbers, whatever overflows; and nearly so much."""
    with np.errstate(over="ignore", under="ignore"):
        gradient = np.array(g).astype(dtype)
    if not np.isfinite(gradient).all():
        gradient = np.ones_like(gradient)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        radius = Fraction(float(robustness.certified_radius(m, gradient, bend)))
    entries: list[Any] = gradient.tolist()
    square = sum(Fraction(x) ** 2 for x in entries)

    def inside(r: Fraction) -> bool:
        """||g|| r <= m - M r**2 / 2."""
        margin = Fraction(m) - Fraction(bend) * r * r / 2
        return margin >= 0 and square * r * r <= margin * margin

    assert inside(radius)
    info = np.finfo(dtype)
    largest, tiny = Fraction(float(info.max)), Fraction(float(info.smallest_normal))
    # The last rounding takes the smallest normal number off, whatever the size.
    if dtype == "float64" and tiny * 10**14 < radius < largest / 2 and bend > 1e-290:
        assert not inside(radius * Fraction(1 + 1e-13))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("m", "bend", "g"), [(10, 1, 0), (10, 1, 1), (7, 3, 0), (1, 1, 0), (9, 5, 2), (2**30, 3, 1)])
def test_radii_of_subnormal_numbers(m: int, bend: int, g: int, dtype: str) -> None:
    """In units of the smallest number there is, where every rounding is one of half a unit: 5 instead of sqrt(20)."""
    unit = float(np.finfo(dtype).smallest_subnormal)
    numbers = [np.asarray(k * unit, dtype=dtype) for k in (m, g, bend)]
    r = Fraction(float(robustness.certified_radius(numbers[0], numbers[1][None], numbers[2])))
    assert g * r + Fraction(bend) * r * r / 2 <= m
    assert g or r > 0
