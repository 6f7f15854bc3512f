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


@pytest.mark.parametrize("value", [2.0, 2.5, np.float32(2.0), FakeResult(2.0, "upper")])
def test_upper_passes(value: Any) -> None:
    assert_valid(value, "upper", TRUTH)


@pytest.mark.parametrize(
    "value", [np.nextafter(2.0, 0), 0.0, -3.0, float("nan"), float("inf"), FakeResult(1.9, "upper")]
)
def test_upper_fails(value: Any) -> None:
    with pytest.raises(AssertionError):
        assert_valid(value, "upper", TRUTH)


@pytest.mark.parametrize("value", [2.0, 0.0, FakeResult(1.0, "lower")])
def test_lower_passes(value: Any) -> None:
    assert_valid(value, "lower", TRUTH)


@pytest.mark.parametrize("value", [2.0 + 1e-11, -1.0, float("nan"), float("-inf"), FakeResult(2.1, "lower")])
def test_lower_fails(value: Any) -> None:
    with pytest.raises(AssertionError):
        assert_valid(value, "lower", TRUTH)


@pytest.mark.parametrize("said", ["estimate", "lower", "exact"])
def test_valid_fails_on_another_kind(said: str) -> None:
    with pytest.raises(AssertionError, match="kind"):
        assert_valid(FakeResult(3.0, said), "upper", TRUTH)


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


@pytest.mark.parametrize("value", [2.0, 2.0 * (1 + 9e-7), FakeResult(2.0, "exact")])
def test_exact_passes(value: Any) -> None:
    assert_exact(value, TRUTH, 1e-6)


@pytest.mark.parametrize(
    "value", [2.0 * (1 + 2e-6), 2.0 * (1 - 2e-6), 0.0, float("nan"), FakeResult(2.0, "upper"), FakeResult(3.0, "exact")]
)
def test_exact_fails(value: Any) -> None:
    with pytest.raises(AssertionError):
        assert_exact(value, TRUTH, 1e-6)


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
