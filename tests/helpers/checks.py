"""Assertions that state a promise. Each compares with the bound that favours the library, without tolerance.

`tests/core/test_oracle.py` feeds every one of them a wrong number and expects it to fail.
"""

from __future__ import annotations

import math
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from helpers.oracle import Truth

Side = Literal["upper", "lower"]
T = TypeVar("T")


def number(got: Any) -> float:
    return float(getattr(got, "value", got))


def assert_valid(got: Any, kind: Side, truth: Truth) -> None:
    """An upper value is never below the truth, a lower one never above; a result must also say which it is.

    Parameters
    ----------
    got : Result, 0-d array or float
    kind : {"upper", "lower"}
        The promise to hold it to. Estimates promise nothing and exact values belong to `assert_exact`.
    truth : Truth
    """
    said = getattr(got, "kind", kind)
    assert said == kind, f"kind is {said!r}, expected {kind!r}"
    value = number(got)
    assert math.isfinite(value), f"{kind} value is {value}; the truth is {truth}"
    assert value >= 0.0, f"{kind} value is negative: {value}"
    if kind == "upper":
        assert value >= truth.lo, f"upper value {value!r} is below the truth {truth}: ratio {value / truth.lo!r}"
    elif kind == "lower":
        assert value <= truth.hi, f"lower value {value!r} is above the truth {truth}"
    else:
        raise ValueError(f"kind={kind!r} promises nothing that could be checked here")


def assert_tight(got: Any, truth: Truth, factor: float) -> None:
    """An upper value is at most ``factor`` times the truth; for ``factor < 1`` a lower value is at least that much."""
    value = number(got)
    if factor >= 1:
        assert value <= factor * truth.hi, f"value {value!r} is above {factor} times the truth {truth}"
    else:
        assert value >= factor * truth.lo, f"value {value!r} is below {factor} times the truth {truth}"


def assert_exact(got: Any, truth: Truth, rtol: float) -> None:
    said = getattr(got, "kind", "exact")
    assert said == "exact", f"kind is {said!r}, expected 'exact'"
    value = number(got)
    low, high = truth.lo * (1 - rtol), truth.hi * (1 + rtol)
    assert low <= value <= high, f"value {value!r} is not within rtol={rtol} of {truth}"


def assert_encloses(lower: Any, upper: Any, truth: Truth) -> None:
    """Two proven bounds: neither on the wrong side of the truth, nor crossed."""
    assert_valid(number(lower), "lower", truth)
    assert_valid(number(upper), "upper", truth)
    assert number(lower) <= number(upper), f"bounds are crossed: {number(lower)!r} > {number(upper)!r}"


def calls(function: Callable[[], object], events: tuple[str, ...] = ("call",)) -> int:
    """Number of events of the profiler while a function runs: calls of Python functions, with "c_call" also of C's."""
    count = 0

    def note(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in events

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def peak(run: Callable[[], object]) -> int:
    """Bytes that Python and NumPy take at most."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def present(x: T | None) -> T:
    assert x is not None
    return x
