"""Outward arithmetic against rational numbers."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from specnorm.certified import host


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


@pytest.mark.parametrize("power", [-4000, -2149, -2148, -2100, -1075, -1022, 0, 1023, 2046, 2048, 5000])
@pytest.mark.parametrize("factor", [1, 2, 3, Fraction(1, 7), 2**53 + 1])
def test_roots_of_any_size_are_found_at_once(power: int, factor: Fraction) -> None:
    """Where the number itself vanishes as a float, or overflows: from 0, one float at a time, no root is found."""
    x = Fraction(factor) * Fraction(2) ** power
    root = host.root_up(x)
    if root == math.inf:
        assert x > Fraction(host.next_down(math.inf)) ** 2
        return
    assert Fraction(root) ** 2 >= x
    below = Fraction(host.next_down(host.next_down(root)))
    assert below < 0 or below**2 < x
