"""No certified radius is above the true one, in rational numbers; each step of its rules is needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from helpers.assumptions import assumed, interval
from specnorm_networks.local.certified import margins

from specnorm.proofs.bound import Lower

SIZES = (1.0, 1e-162, 1e160)
"""Squares of the second vanish, those of the third overflow."""


def rationals(x: Any) -> list[Fraction]:
    return [Fraction(float(entry)) for entry in np.ravel(x)]


def too_large() -> Iterator[str]:
    """Radii of linear classifiers beyond the nearest border, |w_i - w_j| r = margin, by size."""
    numbers = np.random.default_rng(0)
    for size in SIZES:
        for _ in range(20):
            rows = size * numbers.normal(size=(3, 2))
            logits = size * numbers.normal(size=(1, 3))
            label = int(logits.argmax())
            weights = np.exp(numbers.normal(size=2))
            # Features h with a constant of 2 for q h: those of x with q h = 2 x.
            differences = margins.constants_of_differences(rows, weights, assumed(2.0))
            (radius,) = margins.radii(logits, np.array([label]), differences)
            assert isinstance(radius, Lower)
            q = rationals(weights)
            own = rationals(rows[label])
            z = rationals(logits)
            truth_sq = min(
                (z[label] - z[j]) ** 2
                / sum((2 * (a - b) / w) ** 2 for a, b, w in zip(own, rationals(rows[j]), q, strict=True))
                for j in range(3)
                if j != label
            )
            assert radius.value < 1.01 * math.sqrt(truth_sq)
            if Fraction(radius.value) ** 2 > truth_sq:
                yield f"{size}"
            if Fraction(radius.value) ** 2 < truth_sq * Fraction(999, 1000):
                yield f"{size}: far too small"


def rounded_upward() -> Iterator[str]:
    """Margins over constants that are exact."""
    numbers = np.random.default_rng(0)
    logits = numbers.normal(size=(300, 2))
    constants = np.abs(numbers.normal(size=(2, 2)))
    found = margins.radii(logits, logits.argmax(axis=1), interval(np.zeros((2, 2)), constants))
    for z, radius in zip(logits, found, strict=True):
        best = int(z.argmax())
        margin = Fraction(float(z[best])) - Fraction(float(z[1 - best]))
        if Fraction(radius.value) * Fraction(float(constants[best, 1 - best])) > margin:
            yield "above"


@pytest.mark.parametrize("check", [too_large, rounded_upward])
def test_no_radius_is_above_the_true_one(check: Callable[[], Iterator[str]]) -> None:
    assert list(check()) == []
