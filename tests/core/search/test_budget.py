"""A budget of seconds: what it ends is proven as far as it got, and nothing is begun after it."""

from __future__ import annotations

import functools
import itertools
import re
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.oracle import dense_norm, sigma_star

import specnorm
from specnorm.enclosure.norm_at_size import NormAtSize
from specnorm.enclosure.proving import status_of
from specnorm.errors import Undecided
from specnorm.methods import Enclose, ExactFFT, TensorNorm
from specnorm.running import search as clock
from specnorm.running.measuring import run_plan
from specnorm.supremum.proof import Cover
from specnorm.symbols.proofs.lags import Lags

KERNEL = np.random.default_rng(0).standard_normal((8, 8, 5, 5))
TRUTH = float(specnorm.enclose(KERNEL, rtol=1e-4).lower)


def late_after(checks: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A clock that jumps after so many looks at it; how often it was looked at afterwards."""
    looks, after = itertools.count(), [0]

    def monotonic() -> float:
        if next(looks) < checks:
            return time.monotonic()
        after[0] += 1
        return time.monotonic() + 1e6

    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=monotonic))
    return after


@functools.cache
def without_a_clock(at: tuple[tuple[str, Any], ...]) -> specnorm.Enclosure:
    return specnorm.enclose(KERNEL, **dict(at))


@pytest.mark.parametrize("checks", [0, 1, 5, 14, 20, 30, 45])
@pytest.mark.parametrize("at", [{}, {"input_shape": 9}, {"input_shape": 9, "padding_mode": "zeros", "padding": 2}])
def test_whenever_time_is_up_the_bounds_hold(checks: int, at: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = without_a_clock(tuple(at.items()))
    late_after(checks, monkeypatch)
    found = specnorm.enclose(KERNEL, budget=1e3, **at)
    assert 0 < float(found.lower) <= float(whole.upper)
    assert float(whole.lower) <= float(found.upper) < 40 * TRUTH


def test_a_deadline_ends_the_making_of_coefficients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large kernel they alone may take longer than there is: a round is too coarse a step."""
    made: list[int] = []
    original = Lags.products

    def watched(*given: Any, **how: Any) -> Any:
        found = original(*given, **how)
        made.append(found.shape[1])
        return found

    monkeypatch.setattr(Lags, "products", watched)
    after = late_after(4, monkeypatch)
    found = specnorm.enclose(KERNEL, budget=1e3)
    assert not made
    assert after[0] < 20
    assert float(found.lower) <= TRUTH * 1.001 <= float(found.upper) * 1.001
    assert found.status == "budget: wider than rtol=0.001, and proven"


FLAT = np.random.default_rng(0).standard_normal((12, 12, 3, 3))
TOLERANCES = (1e-1, 1e-2, 1e-3)


def gaps(kernel: np.ndarray, **budget: Any) -> list[float]:
    found = [specnorm.measure(kernel, Enclose(rtol=rtol, **budget)) for rtol in TOLERANCES]
    return [float(x.value) / float(x.stats["lower"]) - 1 for x in found]


@pytest.mark.parametrize("cells", [50, 80, 120, 200, 500])
def test_a_tighter_tolerance_ends_no_worse(cells: int) -> None:
    """Of cells: what does not fit is widened, so that it ends about where a wider tolerance would have."""
    found = gaps(FLAT, max_cells=cells)
    assert [(j, after) for j, after in enumerate(found) if not (after <= 1.5 * min(found[: j + 1]))] == []
    assert found[0] <= max(0.1, 0.25 * 50 / cells)
    assert cells < 500 or found[2] <= 1e-3


def test_where_more_time_would_not_help_it_is_not_advised() -> None:
    """Of 3-D kernels near an isometry, 100,000 cells end in two seconds; the advice was a larger budget."""
    ended = status_of(specnorm.measure(FLAT, Enclose(rtol=1e-3, max_cells=50)))
    assert ended.startswith("cells: wider than rtol=0.001, and proven; more time does not help")
    assert status_of(specnorm.measure(FLAT, Enclose(rtol=1e-3, budget=1e-6))).startswith("budget: ")


def near_an_isometry(channels: int, stride: int, distance: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    kernel: np.ndarray = distance / np.sqrt(9 * channels) * rng.standard_normal((channels, channels // stride, 3, 3))
    kernel[:, :, 1, 1] += np.linalg.qr(rng.standard_normal((channels, channels)))[0][:, : channels // stride]
    return kernel


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("channels", "distance", "most"), [(16, 0.03, 400), (32, 0.01, 100), (32, 0.1, 5000)])
def test_layers_near_an_isometry_take_few_cells(channels: int, distance: float, most: int, seed: int) -> None:
    """Their largest singular values were estimated too low: proofs failed, and up to 75,956 cells were visited."""
    found = specnorm.enclose(near_an_isometry(channels, 2, distance, seed), stride=2, padding=1)
    assert found.status.startswith("converged")
    assert found.cells <= most


@pytest.fixture
def second_a_matrix(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock on which every matrix that is formed takes a second."""
    now = [0.0]
    form = Cover.form

    def formed(self: Any, polynomial: Any, index: Any, reduced_for: Any) -> Any:
        now[0] += len(index)
        return form(self, polynomial, index, reduced_for)

    monkeypatch.setattr(Cover, "form", formed)
    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


WIDE = np.random.default_rng(0).standard_normal((96, 96, 3, 3)) * np.geomspace(1, 1 / 16, 96)[:, None, None]
"""Many directions matter, at all frequencies: nearly every cell is cut."""


def test_what_fits_is_not_widened(second_a_matrix: list[float]) -> None:
    """Whether the next round fits was once asked as if every cell were cut as finely as cells can be."""
    whole = specnorm.measure(WIDE, Enclose(rtol=1e-3)).stats
    seconds = second_a_matrix[0]
    for budget in ({"max_cells": int(1.25 * int(whole["cells"]))}, {"budget": 2 * seconds}):
        found = specnorm.measure(WIDE, Enclose(rtol=1e-3, **budget))
        assert float(found.value) <= 1.001 * float(found.stats["lower"])


@pytest.mark.usefixtures("second_a_matrix")
@pytest.mark.parametrize("distance", [0.01, 0.03, 0.1])
def test_a_tighter_tolerance_ends_no_worse_in_time(distance: float) -> None:
    """All time went to proofs, after each widening by a quarter, and the answer was the fallback."""
    coarse, *finer = gaps(near_an_isometry(48, 1, distance, 0), budget=3000.0)[1:]
    assert max(finer) <= 1.5 * coarse


def test_proofs_of_tn_end_too() -> None:
    assert specnorm.measure(KERNEL, TensorNorm(budget=1e-9)).kind == "estimate"
    with pytest.raises(Undecided, match=r"and 1e-09 s; grid_bound"):
        specnorm.measure(KERNEL, TensorNorm(budget=1e-9, proven=True))


@pytest.mark.parametrize("at", [{}, {"input_shape": 40}])
def test_exact_norms_are_not_known_then(at: dict[str, Any]) -> None:
    with pytest.raises(Undecided, match="within 1e-09 s"):
        specnorm.measure(KERNEL, ExactFFT(budget=1e-9), **at)


@pytest.mark.parametrize("at", [{}, {"input_shape": 8}])
def test_an_undecided_norm_is_between_the_bounds_of_its_error(at: dict[str, Any]) -> None:
    """They are in the scale of the kernel, and rounded outward."""
    kernel = 1e-3 * np.random.default_rng(0).standard_normal((8, 8, 3, 3))
    plan = NormAtSize(budget=1e-9) if at else ExactFFT(max_cells=100)
    with pytest.raises(Undecided, match="is not known to rtol=1e-06") as error:
        run_plan(kernel, plan, **at)
    lower, upper = map(float, re.findall(r"Proven: (\S+) <= norm <= (\S+)\.$", str(error.value))[0])
    truth = dense_norm(kernel, 8) if at else sigma_star(kernel)
    assert lower <= truth.lo <= truth.hi <= upper <= 6 * lower


def test_an_audit_says_what_is_proven_and_what_is_missing() -> None:
    """No error: the interval is wide and says so, the proven column is an estimate, the exact one is empty."""
    report: Any = specnorm.audit({"k": KERNEL}, budget=1e-9, input_shape=40, methods=("tn", "fft"))
    (row,) = report.layers
    assert row.status == "ok"
    assert row.lower <= row.upper
    assert row.values["fft"] is None
    assert row.promises["tn"] == "estimate"
    assert "wider than rtol=0.001" in row.note
    assert "fft: the norm is not known to rtol=1e-06 within 1e-09 s" in row.note
