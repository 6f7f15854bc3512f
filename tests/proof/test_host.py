"""Outward arithmetic against rational numbers."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

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
