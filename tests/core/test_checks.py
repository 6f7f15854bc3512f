"""A checker that cannot fail proves nothing: each is fed wrong numbers here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from checks import assert_encloses, assert_exact, assert_tight, assert_valid
from oracle import Truth

TRUTH = Truth(2.0, 2.0 + 1e-12)


@dataclass
class FakeResult:
    """As much of a Result as the checkers look at."""

    value: Any
    kind: str


NAN, INF = float("nan"), float("inf")
VALUES: list[tuple[str, list[Any], list[Any]]] = [
    ("upper", [2.0, 2.5, np.float32(2.0), FakeResult(2.0, "upper")],
     [np.nextafter(2.0, 0), 0.0, -3.0, NAN, INF, FakeResult(1.9, "upper"),
      *(FakeResult(3.0, kind) for kind in ("estimate", "lower", "exact"))]),
    ("lower", [2.0, 0.0, FakeResult(1.0, "lower")], [2.0 + 1e-11, -1.0, NAN, -INF, FakeResult(2.1, "lower")]),
    ("exact", [2.0, 2.0 * (1 + 9e-7), FakeResult(2.0, "exact")],
     [2.0 * (1 + 2e-6), 2.0 * (1 - 2e-6), 0.0, NAN, FakeResult(2.0, "upper"), FakeResult(3.0, "exact")]),
]  # fmt: skip
"""What a number promises, numbers that keep it, and numbers that do not."""


@pytest.mark.parametrize(("kind", "right", "wrong"), VALUES)
def test_a_promise(kind: Any, right: list[Any], wrong: list[Any]) -> None:
    def check(value: Any) -> None:
        assert_exact(value, TRUTH, 1e-6) if kind == "exact" else assert_valid(value, kind, TRUTH)

    for value in right:
        check(value)
    for value in wrong:
        with pytest.raises(AssertionError):
            check(value)


@pytest.mark.parametrize("kind", ["estimate", "exact", "uper"])
def test_valid_refuses_to_check_nothing(kind: Any) -> None:
    with pytest.raises(ValueError, match="promises nothing"):
        assert_valid(2.0, kind, TRUTH)


def test_tight() -> None:
    assert_tight(2.2, TRUTH, 1.1)
    assert_tight(1.9, TRUTH, 0.9)
    with pytest.raises(AssertionError):
        assert_tight(2.3, TRUTH, 1.1)
    with pytest.raises(AssertionError):
        assert_tight(1.7, TRUTH, 0.9)
    for factor in (0.9, 1.1):
        with pytest.raises(AssertionError):
            assert_tight(float("nan"), TRUTH, factor)


def test_zero_has_no_room() -> None:
    assert_exact(0.0, Truth(0.0, 0.0), 1e-6)
    with pytest.raises(AssertionError):
        assert_exact(1e-300, Truth(0.0, 0.0), 1e-6)


def test_encloses() -> None:
    assert_encloses(1.9, 2.1, TRUTH)
    for lower, upper in [(2.1, 2.2), (1.8, 1.9), (float("nan"), 2.1), (1.9, float("nan"))]:
        with pytest.raises(AssertionError):
            assert_encloses(lower, upper, TRUTH)
    with pytest.raises(AssertionError, match="crossed"):
        assert_encloses(2.5, 2.4, Truth(2.0, 3.0))
