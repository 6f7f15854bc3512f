"""Tuning changes what an answer costs, and never a claim."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from helpers import plans
from helpers.cases import Recipe
from helpers.checks import assert_encloses, assert_valid
from helpers.oracle import dense_norm, sigma_star
from numpy.typing import NDArray

import specnorm
from specnorm.at_size import layer_tuning
from specnorm.enclosure.certify import Certify
from specnorm.methods import Enclose, TensorNorm
from specnorm.supremum import tuning
from specnorm.symbols import ascent, lanczos
from specnorm.tensor_norm import alternation, proving
from specnorm.unfoldings import search as constant

WILD: dict[str, tuple[float, ...]] = {
    "CACHE_BYTES": (1, 2**40), "FIRST_DEGREE": (0, 40), "DEGREE": (0, 40), "SMALLEST_LARGE": (1, 10**9),
    "CROWDED_DEGREE": (0, 40), "PIECES": (2, 9), "SCALAR_TAPS": (1, 10**9), "CUTTING_MARGIN": (0.01, 10.0),
    "PART_OF_BUDGET": (0.0, 100.0), "WIDENING_FACTOR": (1.001, 10.0), "TORUS_SHARE": (0.0, 1.0),
    "PROOF_SHARE": (0.0, 1.0), "LEAST_GAIN": (0.0, 1.0), "SMALLEST_REDUCED": (1, 10**9), "TRUNCATION": (1e-6, 0.999),
    "LEAST_LIMIT_OVER_TRUNCATION": (1.0 + 2.0**-40, 100.0), "TRIALS": (1, 1000), "AROUND_RADIANS": (0.0, 3.0),
    "NEAR_PART": (0.0, 2.0), "FLAT_CELLS": (0, 10**9), "INCUMBENT_RTOL": (0.0, 1.0), "ROUNDS": (1, 200),
    "STEPS": (1, 6), "SMALLEST_KRYLOV": (1, 10**9), "FLOAT64_RTOL": (0.0, 1.0), "SLOWEST": (0.0, 0.999),
    "LEAST_CURVATURE": (1e-15, 0.5), "WORK_OF_VISITS": (0.0, 1e12), "CALLS_OF_A_VISIT": (0.0, 1e12),
}  # fmt: skip
"""The two ends of what each number may be."""


def decaying(*shape: int) -> NDArray[np.float64]:
    """A kernel with few large directions, so that some are left out."""
    kernel = np.random.RandomState(1).standard_normal(shape)
    return kernel * 3.0 ** -np.arange(shape[1]).reshape(-1, *(1,) * (len(shape) - 2))


LINE = decaying(7, 6, 3)
PLANE = decaying(5, 4, 3, 2)
SUPREMA = {kernel.ndim: sigma_star(kernel, max_cells=4000) for kernel in (LINE, PLANE)}


def check(kernel: NDArray[np.float64], monkeypatch: pytest.MonkeyPatch, **changed: Any) -> None:
    for name, value in ({"SMALLEST_REDUCED": 2, "WORK_OF_VISITS": 0} | changed).items():
        monkeypatch.setattr(tuning if hasattr(tuning, name) else ascent, name, value)
    truth, sizes = SUPREMA[kernel.ndim], (9,) * (kernel.ndim - 2)
    found = specnorm.measure(kernel, Enclose(max_cells=1000))
    assert_encloses(float(found.stats["lower"]), float(found.value), truth)
    at = specnorm.measure(kernel, Enclose(max_cells=1000), input_shape=sizes)
    assert_encloses(float(at.stats["lower"]), float(at.value), dense_norm(kernel, sizes))
    for bound, right in ((truth.lo * 0.98, False), (truth.hi * 1.02, True)):
        verdict = plans.run(kernel, Certify(bound=bound, max_cells=1000)).stats
        assert not bool(verdict["refuted" if right else "proven"])


def test_every_knob_is_turned() -> None:
    named = vars(tuning) | vars(ascent)
    assert WILD.keys() == {name for name, value in named.items() if name[0].isupper() and type(value) in (int, float)}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", WILD)
def test_wild_values_change_no_claim(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in WILD[name]:
        check(LINE, monkeypatch, **{name: value})


@pytest.mark.sampled(4)
@pytest.mark.parametrize("seed", range(8))
def test_all_wild_at_once_change_no_claim(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.RandomState(seed)
    check(PLANE, monkeypatch, **{name: ends[random.randint(2)] for name, ends in WILD.items()})


# -- numbers of the other searches ---------------------------------------------------------------------------------
Kernel = NDArray[np.float64]
KERNELS: dict[str, tuple[Kernel, dict[str, Any]]] = {
    "normal": (Recipe((5, 4, 3, 3), seed=1).kernel, {}),
    "float32": (Recipe((4, 6, 3, 2), seed=2, dtype="float32").kernel, {}),
    "orthogonal": (Recipe((6, 6, 3, 3), "orthogonal", seed=3).kernel, {}),
    "grouped": (Recipe((6, 3, 3), seed=4).kernel, {"groups": 2}),
    "strided": (Recipe((4, 4, 4, 4), seed=5).kernel, {"stride": 2}),
}


NO_MATRIX: dict[str, Any] = {"IMMEDIATE_WORK": 0, "LATE_WORK": 0}
LANCZOS = ("DIRECT_SIZE", "STEPS_BEFORE_FIRST_CHECK", "STEPS_BETWEEN_CHECKS", "MOST_STEPS")
OTHERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "alternation that stops at once": (alternation, {"HALVING": ((1, 1),), "PATIENCE": 1, "ROUNDINGS": 2.0**52}),
    "alternation without halving, far ahead": (alternation, {"HALVING": (), "PATIENCE": 1e4, "ROUNDINGS": 0.0}),
    "a proof without cells": (proving, {"CELLS": 1, "PLAIN_CELLS": 1, "RESTARTS": 1}),
    "a proof in one go": (proving, {"CELLS": 10**6, "PLAIN_CELLS": 1, "RESTARTS": 1}),
    "no restarts": (proving, {"RESTARTS": 0}),
    "Lanczos of one step": (lanczos, dict(zip(LANCZOS, (0, 1, 1, 1), strict=True))),
    "Lanczos beyond the dimension": (lanczos, dict(zip(LANCZOS, (0, 60, 60, 240), strict=True))),
    "unfoldings compared in float32": (constant, {"FLOAT32_FROM": 0}),
    "a basis of nothing": (lanczos, {"BASIS_SIZE": 0}),
    "a basis beyond the dimension": (lanczos, {"BASIS_SIZE": 10**4}),
    "a search before every matrix": (layer_tuning, {"IMMEDIATE_WORK": 0}),
    "no matrix": (layer_tuning, NO_MATRIX),
    "a wave alone": (layer_tuning, NO_MATRIX | {"LANCZOS_ENTRIES": 0}),
    "every group a lower one": (layer_tuning, NO_MATRIX | {"WEAK_GROUP": 1e9}),
    "no group a lower one": (layer_tuning, NO_MATRIX | {"WEAK_GROUP": 0.0}),
    "no Lanczos": (layer_tuning, {"IMMEDIATE_WORK": 0, "WAVE_SUM_PIXELS": 1}),
    "every layer a large one": (layer_tuning, {"IMMEDIATE_WORK": -1, "LATE_WORK": -1}),
    "one step a matrix": (layer_tuning, {"IMMEDIATE_WORK": 0, "MATRIX_STEPS": 1, "WIDER_MULTIPLES": ()}),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", OTHERS)
def test_wild_values_never_change_a_claim(name: str, kernel: str) -> None:
    module, numbers = OTHERS[name]
    given, geometry = KERNELS[kernel]
    assert {name: getattr(module, name) for name in numbers} != numbers
    with patch.multiple(module, **numbers):
        if module is layer_tuning:
            for mode in ("zeros", "reflect"):
                found = specnorm.enclose(given, 6, padding_mode=mode, **geometry)
                assert_encloses(found.lower, found.upper, dense_norm(given, 6, padding_mode=mode, **geometry))
            return
        supremum = sigma_star(given, **geometry)
        found_tn = specnorm.measure(given, TensorNorm(), **geometry)
        assert found_tn.kind in ("upper", "estimate")
        for upper in (specnorm.f4_bound(given, **geometry), *[found_tn] * (found_tn.kind == "upper")):
            assert_valid(upper, "upper", supremum)
        lower = specnorm.power_norm(given, 6, padding_mode="zeros", **geometry)
        assert_valid(lower, "lower", dense_norm(given, 6, padding_mode="zeros", **geometry))
