"""The published reference cases: we are right, on real weights too, and so are their proofs."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from helpers.checks import assert_encloses, assert_exact, assert_tight, assert_valid, number
from helpers.nightly import sample
from helpers.oracle import Truth

import specnorm
from specnorm.errors import GeometryError, MethodError

DOCS = Path(__file__).parents[2] / "docs"
PUBLISHED: dict[str, Any] = json.loads((DOCS / "reference-cases.json").read_text(encoding="utf-8"))
CASES: list[dict[str, Any]] = PUBLISHED["cases"]
SCRIPT = DOCS / "reference_cases.py"


def truth_of(case: dict[str, Any]) -> Truth:
    return Truth(case["lower"], case["upper"])


def arguments(case: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    words = ("stride", "dilation", "groups", "transposed", "padding_mode", "padding")
    sizes = case["input_shape"]
    return np.asarray(case["kernel"], dtype=np.float64), sizes and tuple(sizes), {word: case[word] for word in words}


# -- the proofs ----------------------------------------------------------------------------------------------------
def test_published_norms_are_those_that_are_proven() -> None:
    """Of some; and the branch and bound agrees with roots of polynomials, where a closed form exists."""
    pytest.importorskip("flint", reason="ball arithmetic: pip install python-flint")
    from core.soundness import balls
    from helpers.reference import make, suprema

    for case in sample(CASES[::-1], 6):
        assert make.proven(case) == (case["lower"], case["upper"]), case["name"]
    for seed in range(5):
        kernel = np.random.RandomState(seed).randint(-3, 4, size=(1, 3, 4)).astype(float)
        exact = balls.scalar_supremum(list(kernel[0]))
        found = suprema.by_cells(kernel)
        assert found.low <= exact
        assert exact <= found.high


# -- the script ----------------------------------------------------------------------------------------------------
def script() -> ModuleType:
    pytest.importorskip("torch", exc_type=ImportError)
    spec: Any = importlib.util.spec_from_file_location("reference_cases", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_refuses_what_is_wrong() -> None:
    module = script()

    def reshaped(kernel: Any, *_: Any, **__: Any) -> float:
        return float(np.linalg.norm(kernel.reshape(len(kernel), -1), 2))

    def scaled(factor: float) -> Callable[..., float]:
        return lambda *args, **geometry: factor * float(module.torch_norm(*args, **geometry))

    assert module.check(reshaped)[1]
    assert module.check(scaled(1.0001))[1]
    assert module.check(scaled(0.9999))[1]
    assert module.check(scaled(0.9999), "upper")[1]
    assert module.check(scaled(1.0001), "lower")[1]
    assert not module.check(scaled(1.0001), "upper")[1]
    assert not module.check(scaled(0.9999), "lower")[1]
    assert len(module.check(scaled(float("nan")), "upper")[1]) == sum(c["input_shape"] is not None for c in CASES)


# -- specnorm ------------------------------------------------------------------------------------------------------
def at_a_size(case: dict[str, Any]) -> bool:
    return case["input_shape"] is not None


UNSEEN = {
    "sum of neighbours, zero padding", "difference on one pixel: wraps to zero",
    "ones, replicate padding, one pixel", "ones, reflect padding, borders overlap",
    "one entry that never meets the input", "kernel larger than the input, circular",
    "kernel larger than the input, circular, 1-D", "kernel larger than the input, zeros", "transposed, stride 2",
    "transposed, two groups, dilation",
}  # fmt: skip
"""No output reads a whole patch of pixels, so the reshaped kernel is no lower bound."""

REFUSED: dict[str, Callable[[dict[str, Any]], bool]] = {
    "power_norm": lambda case: not at_a_size(case),
    "reshaped_norm": lambda case: case["name"] in UNSEEN,
}
"""Which cases a function refuses; it serves every other. A row that no longer refuses fails until it goes."""


def bound(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda kernel, sizes, **geometry: function(kernel, input_shape=sizes, **geometry)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "enclose": specnorm.enclose, "conv_norm": specnorm.conv_norm, "power_norm": specnorm.power_norm,
    "reshaped_norm": bound(specnorm.reshaped_norm), "tn_bound": bound(specnorm.tn_bound),
    "f4_bound": bound(specnorm.f4_bound), "unfolding_bounds": bound(specnorm.unfolding_bounds),
    "grid_bound": bound(specnorm.grid_bound), "gram_bound": specnorm.gram_bound,
}  # fmt: skip


@pytest.mark.sampled(2)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_specnorm(case: dict[str, Any]) -> None:
    for name in FUNCTIONS:
        check(name, case)


def check(name: str, case: dict[str, Any]) -> None:
    kernel, sizes, geometry = arguments(case)
    truth = truth_of(case)
    if name in REFUSED and REFUSED[name](case):
        with pytest.raises((GeometryError, MethodError)):
            FUNCTIONS[name](kernel, sizes, **geometry)
        return
    got = FUNCTIONS[name](kernel, sizes, **geometry)
    if name == "enclose":
        assert_encloses(got.lower, got.upper, truth)
        if truth.hi > 0 or not np.any(kernel):  # no relative width can be had of a kernel that cancels
            assert "converged" in got.status
            assert number(got.upper) <= number(got.lower) * 1.0011
    elif name == "conv_norm":
        # A sum that cancels leaves rounding behind.
        assert_exact(got, Truth(truth.lo - 1e-14, truth.hi + 1e-14), 1e-6)
    elif name == "power_norm":
        assert_valid(got, "lower", truth)
        assert_tight(got, Truth(truth.lo - 1e-14, truth.hi), 1 - 1e-6)
    elif name == "reshaped_norm":
        assert_valid(got, "lower", truth)
    else:
        for value in np.ravel(got):
            assert_valid(value, "upper", truth)


# -- published networks ----------------------------------------------------------------------------------------------
