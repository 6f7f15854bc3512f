"""The truth itself: against closed forms and high-precision arithmetic; and every checker can fail."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

pytest.importorskip("flint", reason="ball arithmetic: pip install python-flint")

from core.soundness import balls
from core.soundness.claims import Claims
from core.soundness.families import FAMILIES, Case, case
from core.soundness.truths import Truth
from flint import arb, ctx
from helpers.oracle import dense_norm, sigma_star


def test_norms_against_the_other_oracle() -> None:
    """Ball arithmetic at the DFT frequencies is the circular norm of the dense matrix."""
    for seed, shape in enumerate([(3, 2, 3), (2, 3, 2, 3), (1, 4, 4), (3, 3, 2, 2, 2), (4, 2)]):
        kernel = np.random.RandomState(seed).standard_normal(shape)
        sizes = (3, 4, 2)[: len(shape) - 2]
        truth = Truth(Case(seed, "normal", kernel, None))
        dense = dense_norm(kernel, sizes)
        high = truth.above_grid(sizes) or truth.low(sizes)
        assert dense.lo <= balls.as_float(high) * (1 + 1e-15)
        assert balls.as_float(truth.low(sizes)) <= dense.hi * (1 + 1e-15)


def test_both_ends_of_a_norm_meet() -> None:
    """On random symbols, equal singular values included, the two bounds are within 1e-12 of each other."""
    for index in range(80):
        drawn = case(index)
        exact = balls.Exact(drawn.kernel)
        bounds = exact.norm([Fraction(index, 97)] * len(exact.sizes))
        with ctx.workprec(balls.BITS):
            assert not bounds.low > bounds.high
            tiny = balls.power_of_two(exact.exponent - 80)  # the symbol may vanish
            assert bounds.high - bounds.low <= bounds.high * arb("1e-12") + tiny


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_closed_forms(family: str) -> None:
    """Each closed form against the search for peaks, which knows nothing of it, and against the other oracle."""
    with ctx.workprec(balls.BITS):
        for index in range(12):
            drawn = case(index, family=family)
            known = drawn.supremum()
            if known is None or drawn.kernel.size > 500:
                continue
            found = Truth(Case(index, family, drawn.kernel, None)).low()
            assert not found > known, drawn
            assert known <= found * (1 + arb("1e-9")), drawn
            other = sigma_star(drawn.kernel, max_cells=500)
            assert other.lo <= balls.as_float(known) * (1 + 1e-15), drawn
            assert balls.as_float(known) <= other.hi * (1 + 1e-15), drawn


def wrong(act: str, value: float) -> list[str]:
    """Violations when a claim's value is off by a factor."""
    kernel = np.array([[[1.0, 2.0, 1.0]]])
    claims = Claims(Case(0, "binomial", kernel, lambda _: arb(4)))
    checks = {
        "upper": lambda: claims.upper("it", np.asarray(4 * value), claims.truth.low()),
        "lower": lambda: claims.lower("it", np.asarray(4 * value), claims.truth.low(), claims.truth.high),
    }
    checks[act]()
    return claims.tally.violations


@pytest.mark.parametrize(
    ("act", "value", "count"),
    [
        ("upper", 1.0, 0), ("upper", 1 - 2**-53, 1), ("upper", math.nan, 1), ("upper", math.inf, 1), ("upper", -1.0, 1),
        ("lower", 1.0, 0), ("lower", 1 + 2**-52, 1), ("lower", math.nan, 1), ("lower", -1.0, 1), ("lower", 0.0, 0),
    ],
)  # fmt: skip
def test_checkers_can_fail(act: str, value: float, count: int) -> None:
    """By one unit in the last place."""
    assert len(wrong(act, value)) == count
