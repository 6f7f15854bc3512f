"""Tuning changes what an answer costs, and never a claim."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import plans
from helpers.cases import Recipe
from helpers.checks import assert_encloses, assert_valid
from helpers.oracle import dense_norm, sigma_star
from numpy.typing import NDArray

import specnorm
from specnorm.at_size import circulants, layer_tuning
from specnorm.at_size.layer_tuning import LayerTuning
from specnorm.enclosure.certify import Certify
from specnorm.gram.proofs import powers as gram_powers
from specnorm.methods import Enclose, TensorNorm
from specnorm.supremum import tuning
from specnorm.symbols import ascent, lanczos
from specnorm.tensor_norm import alternation, proving
from specnorm.unfoldings import search as constant

WILD: dict[str, tuple[float, ...]] = {
    "cache_bytes": (1, 2**40),
    "kept_bytes": (0, 2**40),
    "first_degree": (0, 40),
    "degree": (0, 40),
    "crowded_part": (0.0, 1.0),
    "smallest_crowded": (0, 10**9),
    "crowded_first": (0, 40),
    "crowded_degree": (0, 40),
    "filter_cut": (0.0, 1e6),
    "pieces": (2, 9),
    "cutting_margin": (0.01, 10.0),
    "part_of_budget": (0.0, 100.0),
    "widening_factor": (1.001, 10.0),
    "proof_share": (0.0, 1.0),
    "least_gain": (0.0, 1.0),
    "added_tolerance": (1e-15, 1.0),
    "prefilter": (0, 10**9),
    "smallest_float32": (1, 10**9),
    "scalar_taps": (1, 10**9),
    "margin_float32": (-1.0, 1e9),
    "rtol_float32": (0.0, 1.0),
    "smallest_proven_first": (1, 10**9),
    "smallest_shared": (1, 10**9),
    "smallest_reduced": (1, 10**9),
    "truncation": (1e-6, 0.999),
    "smallest_wide": (1, 10**9),
    "truncation_of_wide": (1e-6, 0.999),
    "kept_of_wide": (0.0, 1.0),
    "widest_reduced": (0.0, 1.0),
    "least_limit_over_truncation": (1.0 + 2.0**-40, 100.0),
    "least_reduced_part": (0.0, 1.0),
    "high_limit": (0.0, 1.0),
    "fewest_retries": (1, 1000),
    "many_cells": (0, 10**9),
    "rtol_left_out": (0.0, 1.0),
    "least_left_out": (0.0, 1.0),
    "trials": (1, 1000),
    "around_radians": (0.0, 3.0),
    "far_below_part": (0.0, 2.0),
    "flat_cells": (0, 10**9),
    "flat_starts": (1, 100),
    "flat_part": (0.0, 2.0),
    "least_excess": (-1.0, 1e6),
    "incumbent_rtol": (0.0, 1.0),
    "rounds": (1, 200),
    "krylov_size": (1, 6),
    "smallest_krylov": (1, 10**9),
    "power_steps": (1, 20),
    "float64_rtol": (0.0, 1.0),
    "hope_factor": (0.0, 1e6),
    "slowest": (0.0, 0.999),
    "first_hope": (-0.5, 10.0),
    "least_curvature": (1e-15, 0.5),
    "float32_rounds": (0, 99),
    "work_of_visits": (0.0, 1e12),
    "calls_of_a_visit": (0.0, 1e12),
}
"""The two ends of what each number may be."""


def decaying(*shape: int) -> NDArray[np.float64]:
    """A kernel with few large directions, so that some are left out."""
    kernel = np.random.RandomState(1).standard_normal(shape)
    return kernel * 3.0 ** -np.arange(shape[1]).reshape(-1, *(1,) * (len(shape) - 2))


LINE = decaying(7, 6, 3)
PLANE = decaying(5, 4, 3, 2)
SUPREMA = {kernel.ndim: sigma_star(kernel, max_cells=4000) for kernel in (LINE, PLANE)}


def check(kernel: NDArray[np.float64], monkeypatch: pytest.MonkeyPatch, **changed: Any) -> None:
    """Both bounds hold, at every size and at one; what is refuted or proven is so."""
    for module, numbers in (
        (tuning, tuning.Tuning(smallest_reduced=2, work_of_visits=0)),
        (ascent, ascent.AscentTuning()),
    ):
        mine = {name: value for name, value in changed.items() if name in numbers._fields}
        monkeypatch.setattr(module, "TUNING", numbers._replace(**mine))
    truth, sizes = SUPREMA[kernel.ndim], (9,) * (kernel.ndim - 2)
    found = specnorm.measure(kernel, Enclose(max_cells=1000))
    assert_encloses(float(found.stats["lower"]), float(found.value), truth)
    at = specnorm.measure(kernel, Enclose(max_cells=1000), input_shape=sizes)
    assert_encloses(float(at.stats["lower"]), float(at.value), dense_norm(kernel, sizes))
    for bound, right in ((truth.lo * 0.98, False), (truth.hi * 1.02, True)):
        verdict = plans.run(kernel, Certify(bound=bound, max_cells=1000)).figures
        assert not bool(verdict["refuted" if right else "proven"])


def test_every_knob_is_turned() -> None:
    assert WILD.keys() == {*tuning.Tuning._fields, *ascent.AscentTuning._fields}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", WILD)
def test_wild_values_change_no_claim(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in WILD[name]:
        check(LINE, monkeypatch, **{name: value})


@pytest.mark.parametrize("seed", range(8))
def test_all_wild_at_once_change_no_claim(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.RandomState(seed)
    check(PLANE, monkeypatch, **{name: ends[random.randint(2)] for name, ends in WILD.items()})


# -- numbers of the other searches ---------------------------------------------------------------------------------

Kernel = NDArray[np.float64]
KERNELS = {
    "normal": (Recipe((5, 4, 3, 3), seed=1).kernel, {}),
    "float32": (Recipe((4, 6, 3, 2), seed=2, dtype="float32").kernel, {}),
    "orthogonal": (Recipe((6, 6, 3, 3), "orthogonal", seed=3).kernel, {}),
    "grouped": (Recipe((6, 3, 3), seed=4).kernel, {"groups": 2}),
    "strided": (Recipe((4, 4, 4, 4), seed=5).kernel, {"stride": 2}),
}


def tn(kernel: Kernel, geometry: dict[str, Any]) -> None:
    found = specnorm.measure(kernel, TensorNorm(), **geometry)
    assert found.kind in ("upper", "estimate")
    if found.kind == "upper":
        assert_valid(found.value, "upper", sigma_star(kernel, **geometry))


def tn_certified(kernel: Kernel, geometry: dict[str, Any]) -> None:
    assert_valid(specnorm.tn_bound(kernel, proven=True, **geometry), "upper", sigma_star(kernel, **geometry))


def f4(kernel: Kernel, geometry: dict[str, Any]) -> None:
    assert_valid(specnorm.f4_bound(kernel, **geometry), "upper", sigma_star(kernel, **geometry))


def gram(kernel: Kernel, geometry: dict[str, Any]) -> None:
    assert_valid(specnorm.gram_bound(kernel, **geometry), "upper", sigma_star(kernel, **geometry))


def power(kernel: Kernel, geometry: dict[str, Any]) -> None:
    truth = dense_norm(kernel, 6, padding_mode="zeros", **geometry)
    assert_valid(specnorm.power_norm(kernel, 6, padding_mode="zeros", **geometry), "lower", truth)


def enclosed(kernel: Kernel, geometry: dict[str, Any]) -> None:
    for mode in ("zeros", "reflect"):
        found = specnorm.enclose(kernel, 6, padding_mode=mode, **geometry)
        truth = dense_norm(kernel, 6, padding_mode=mode, **geometry)
        assert_encloses(float(found.lower), float(found.upper), truth)


def by_circulants(kernel: Kernel, geometry: dict[str, Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer_tuning, "TUNING", layer_tuning.TUNING._replace(immediate_work=0, soon_work=0, late_work=0))
        enclosed(kernel, geometry)


def split(kernel: Kernel, geometry: dict[str, Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            layer_tuning, "TUNING", LayerTuning(immediate_work=-1, soon_work=-1, late_work=-1, deflation_work=-1)
        )
        enclosed(kernel, geometry)


OTHERS: dict[str, tuple[Any, Any, Callable[..., None]]] = {
    "alternation that stops at once": (alternation, alternation.AlternationTuning(((1, 1),), 0.0, 0.0, 1.0, 1.0), tn),
    "alternation without halving, far ahead": (
        alternation, alternation.AlternationTuning((), 1e9, 0.9999, 0.0, 0.0), tn_certified,
    ),
    "a proof without cells": (proving, proving.ProvingTuning(1, 1, 1, 1), tn),
    "a proof in one go": (proving, proving.ProvingTuning(10**6, 1, 1, 1), tn),
    "no restarts": (proving, proving.ProvingTuning(restarts=0), tn),
    "Lanczos of one step": (lanczos, lanczos.LanczosTuning(0, 1, 1, 1), f4),
    "Lanczos beyond the dimension": (lanczos, lanczos.LanczosTuning(0, 60, 60, 240), f4),
    "unfoldings compared in float32": (constant, constant.UnfoldingTuning(0), f4),
    "a basis of nothing": (lanczos, lanczos.TUNING._replace(basis_size=0), power),
    "a basis beyond the dimension": (lanczos, lanczos.TUNING._replace(basis_size=10**4), power),
    "a chunk a frequency": (gram_powers, gram_powers.GramTuning(1, 1), gram),
    "a search before every matrix": (layer_tuning, LayerTuning(immediate_work=0), enclosed),
    "no matrix": (layer_tuning, LayerTuning(immediate_work=0, soon_work=0, late_work=0), enclosed),
    "a wave alone": (
        layer_tuning, LayerTuning(immediate_work=0, soon_work=0, late_work=0, lanczos_entries=0), enclosed,
    ),
    "every group a lower one": (layer_tuning, LayerTuning(weak_group=1e9), by_circulants),
    "no group a lower one": (layer_tuning, LayerTuning(weak_group=0.0), by_circulants),
    "no Lanczos": (layer_tuning, LayerTuning(immediate_work=0, wave_sum_pixels=1), enclosed),
    "a supremum that is never enough": (layer_tuning, LayerTuning(supremum_share=0.99), by_circulants),
    "a supremum that is hardly searched": (layer_tuning, LayerTuning(loose_rtol=3.0), by_circulants),
    "every layer a large one": (
        layer_tuning, LayerTuning(immediate_work=-1, soon_work=-1, late_work=-1, deflation_work=-1), enclosed,
    ),
    "every wave taken out": (
        circulants, circulants.DeflationTuning((0.9, 1e-9), (0.9, 1e-9), 0, 2, 10**6, wider_multiples=(1.0,)), split,
    ),
    "no wave taken out": (
        circulants, circulants.DeflationTuning((0.9,), (0.9,), 0, 1, 0, wider_multiples=(1.0,)), split,
    ),
    "one wave of a frequency": (
        circulants, circulants.DeflationTuning((0.5,), (0.5,), 0, 1, waves_of_a_frequency=1), split,
    ),
    "one step a matrix": (
        layer_tuning,
        LayerTuning(eigenvector_work=0, matrix_steps=1, matrix_retry_steps=1, matrix_retry_rtols=()),
        enclosed,
    ),
}  # fmt: skip


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", OTHERS)
def test_wild_values_never_change_a_claim(name: str, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, tuning, claim = OTHERS[name]
    word = "DEFLATION" if isinstance(tuning, circulants.DeflationTuning) else "TUNING"
    assert tuning != getattr(module, word)
    monkeypatch.setattr(module, word, tuning)
    claim(*KERNELS[kernel])


def test_wild_values_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test above would say nothing."""
    kernel = slow_kernel()
    value = float(specnorm.tn_bound(kernel, proven=False))
    monkeypatch.setattr(alternation, "TUNING", OTHERS["alternation that stops at once"][1])
    assert float(specnorm.tn_bound(kernel, proven=False)) < value * (1 - 1e-9)


def slow_kernel() -> Kernel:
    """A kernel whose TN no single sweep reaches."""
    return Recipe((12, 12, 3, 3), seed=7).kernel
