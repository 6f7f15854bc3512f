"""Normalisation by a value's own entries: everywhere, on balls and on boxes, against Jacobians; and what is no such."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers.checks import present
from networks.written_networks import Written
from numpy.typing import NDArray
from specnorm_networks import Graph, operators, within
from specnorm_networks.tools import bound

Vector = NDArray[np.float64]
DIVISORS: dict[str, Callable[[Vector, int, float, float], Vector]] = {
    "mean square": lambda s, n, eps, _: np.sqrt(s * s / n + eps),
    "length": lambda s, n, eps, floor: np.maximum(s / n**0.5, floor) + eps,
}


class Normalisation(NamedTuple):
    """Of values of a shape, along some axes."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    eps: float
    form: Any
    centred: bool
    terms: int | None = None
    floor: float = 0.0

    def centre(self, x: Vector) -> Vector:
        return x - x.mean(axis=self.axes, keepdims=True) if self.centred else x

    def divisor(self, length: Vector) -> Vector:
        entries = math.prod(self.shape[axis] for axis in self.axes) if self.form == "mean square" else 1
        return DIVISORS[self.form](length, self.terms or entries, self.eps, self.floor)

    def apply(self, x: Vector) -> Vector:
        z = self.centre(x)
        return z / self.divisor(np.sqrt((z * z).sum(axis=self.axes, keepdims=True)))

    def network(self) -> Graph:
        net = Written(self.shape)
        z = net(operators.Centre(self.axes), "x") if self.centred else "x"
        length = net(operators.Norm(self.axes, keep=True), z)
        return net.graph(net(operators.Normalise(*self[1:4], self.terms, self.floor), z, length))


def jacobian(f: Callable[[Vector], Vector], x: Vector, step: float = 1e-6) -> float:
    moves = np.eye(x.size).reshape(x.size, *x.shape) * step
    return float(np.linalg.norm(np.stack([(f(x + m) - f(x - m)).reshape(-1) / (2 * step) for m in moves], axis=1), 2))


CASES = [
    Normalisation((1, 8), (1,), 1e-2, "mean square", True), Normalisation((2, 3, 4), (1, 2), 0.1, "mean square", True),
    Normalisation((2, 5), (1,), 0.1, "mean square", False),
    Normalisation((3, 4), (0,), 0.0, "length", False, floor=0.3), Normalisation((2, 5), (1,), 0.2, "length", False),
    Normalisation((1, 4), (1,), 0.05, "length", True), Normalisation((1, 4), (1,), 0.05, "length", True, 3),
    Normalisation((2, 5), (1,), 0.0, "length", False, 4, 0.3),
    Normalisation((2, 5), (1,), 0.1, "length", False, floor=0.2),
    Normalisation((1, 8), (1,), 1e-2, "mean square", True, 7),
]  # fmt: skip


@pytest.mark.parametrize("f", CASES)
def test_everywhere_the_constant_is_attained_at_zero(f: Normalisation) -> None:
    shape = f.shape
    found = present(bound(f.network()).upper)
    wanted = 1 / (math.sqrt(f.eps) if f.form == "mean square" else f.eps + f.floor)
    assert wanted <= found <= wanted * (1 + 1e-12)
    rng = np.random.default_rng(0)
    points = [np.zeros(shape), 1e-3 * rng.standard_normal(shape), rng.standard_normal(shape), np.ones(shape)]
    reached = [jacobian(f.apply, x, 1e-7) for x in points]
    assert max(reached) <= found * (1 + 1e-6)
    assert max(reached) >= found * (1 - 1e-3)


@pytest.mark.parametrize("f", CASES)
def test_the_constant_on_a_ball_holds_and_is_that_of_the_smallest_length(f: Normalisation) -> None:
    """The bound is above all Jacobians in the ball, and below the slope at the smallest length in it."""
    rng = np.random.default_rng(1)
    centre = rng.standard_normal(f.shape)
    graph = f.network()
    z = f.centre(centre)
    smallest = float(np.sqrt((z * z).sum(axis=f.axes)).min())
    for radius in (0.01, 0.1, 0.5, 3.0):
        found = present(bound(graph, radius=radius, centre=centre).upper)
        slope = 1 / float(f.divisor(np.array(max(smallest - radius, 0.0))))
        assert found <= slope * (1 + 1e-6), "the bound is above the slope at the smallest length"
        for _ in range(20):
            away = rng.standard_normal(f.shape)
            x = centre + rng.uniform() * radius * away / np.linalg.norm(away)
            assert jacobian(f.apply, x) <= found * (1 + 1e-6)
        # Towards 0, where it is steepest.
        low = z * max(0.0, 1 - 0.999 * radius / float(np.linalg.norm(z)))
        assert jacobian(f.apply, low + centre - z) <= found * (1 + 1e-6)


def test_without_eps_there_is_a_constant_on_boxes_without_0() -> None:
    f = Normalisation((1, 4), (1,), 0.0, "length", False)
    graph = f.network()
    everywhere = bound(graph)
    assert everywhere.upper is None
    assert "within(" in everywhere.unknown[0].reason
    low = np.array([[1.0, -1.0, 2.0, -3.0]])
    high = np.array([[2.0, 1.0, 4.0, 3.0]])
    found = present(bound(within(graph, low, high)).upper)
    assert found == pytest.approx(1 / math.sqrt(5), rel=1e-9)
    rng = np.random.default_rng(0)
    for x in rng.uniform(low, high, (50, 1, 4)):
        assert jacobian(f.apply, x) <= found * (1 + 1e-6)
    # A box that contains 0.
    assert bound(within(graph, -1.0, 1.0)).upper is None


def test_the_length_is_that_of_what_is_divided() -> None:
    """Any other second input says nothing, whatever its range."""
    norm = operators.Norm((1,), keep=True)

    def divided(length: operators.Operator, of: str = "x", z: str = "x", eps: float = 0.1) -> Any:
        net = Written((1, 4))
        names = {"x": "x", "z": net.scaled(2.0, exact=False)}
        return bound(net.graph(net(operators.Normalise((1,), eps), names[z], net(length, names[of]))))

    others = operators.Norm((0,), keep=True), operators.Largest((1,), keep=True), operators.Scale(np.array(9.0))
    for found in (divided(norm, of="z"), *map(divided, others)):
        assert found.upper is None
        assert "not the length" in found.unknown[0].reason
    assert divided(norm, "z", "z").upper == pytest.approx(2 / math.sqrt(0.1))
    assert divided(norm, "z", "z", eps=-0.1).upper is None
