"""The basis of a search holds the top vectors around the maximum, so that cells there pass with few directions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import plans
from helpers.real_weights import real_layers

import specnorm
from specnorm.enclosure.certify import Certify
from specnorm.methods import Enclose
from specnorm.supremum import branch_and_bound, incumbent, tuning
from specnorm.supremum.branch_and_bound import Search
from specnorm.supremum.reduction import Polynomials

KERNELS = {name: kernel for name, kernel, _ in real_layers("dncnn25")}


@pytest.mark.parametrize("name", ["model.12.weight", "model.22.weight", "model.24.weight", "model.28.weight"])
def test_no_cell_is_tried_with_every_direction(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """These kernels have one maximum; with vectors of coarse frequencies alone, up to 29 cells needed all."""
    monkeypatch.setattr(Polynomials, "whole", property(lambda _: pytest.fail("a cell was tried with every direction")))
    found = specnorm.enclose(KERNELS[name])
    assert float(found.upper) <= float(found.lower) * 1.001
    assert int(found.cells) <= 100


@pytest.mark.parametrize("name", ["model.12.weight", "model.22.weight"])
def test_what_the_first_ascent_refutes_takes_no_cell(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lower = float(specnorm.enclose(KERNELS[name]).lower)
    monkeypatch.setattr(Search, "_estimate", lambda *_: pytest.fail("a cell was looked at"))
    assert bool(plans.run(KERNELS[name], Certify(bound=0.999 * lower)).stats["refuted"])


# -- estimates -----------------------------------------------------------------------------------------------------

FLAT = np.random.default_rng(0).standard_normal((128, 128, 3, 3))
"""Its singular values have no gap at the top."""


def relative_errors(monkeypatch: pytest.MonkeyPatch, **knobs: Any) -> np.ndarray:
    """Of the estimated eigenvalues of a whole search."""
    errors: list[np.ndarray] = []

    def watched(formed: Any, *given: Any, **how: Any) -> Any:
        values, vectors = incumbent.top_eigenpairs(formed, *given, **how)
        errors.append(1 - values / np.linalg.eigvalsh(np.asarray(formed.matrices))[:, -1])
        return values, vectors

    monkeypatch.setattr(branch_and_bound, "top_eigenpairs", watched)
    for name, value in knobs.items():
        monkeypatch.setattr(tuning, name, value)
    specnorm.measure(FLAT, Enclose(rtol=1e-2))
    return np.concatenate(errors)


def test_crowded_spectra_get_longer_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Estimates that are too low cost proofs that fail. Which of two searches has more cells hangs on their ascents."""
    long = relative_errors(monkeypatch)
    short = relative_errors(monkeypatch, SMALLEST_LARGE=10**9)
    assert long.min() > -1e-5, "from below"
    assert np.median(long) < 1e-3 < 5e-3 < np.median(short)


def ascents_of_rounds(kernel: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """For each round of an enclosure: how many of its cells are near the highest, and the number of its ascents."""
    rounds: list[tuple[int, int]] = []
    of_round = incumbent.Incumbent._worth_an_ascent

    def counted(self: incumbent.Incumbent, norms_sq: np.ndarray, block: np.ndarray) -> np.ndarray:
        found = of_round(self, norms_sq, block)
        near = int(np.count_nonzero(norms_sq > tuning.NEAR_PART * norms_sq.max(initial=0.0)))
        rounds.append((near, len(found)))
        return found

    monkeypatch.setattr(incumbent.Incumbent, "_worth_an_ascent", counted)
    specnorm.enclose(kernel)
    return rounds


def test_cells_around_a_sharp_maximum_are_not_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    """In later rounds nearly all open cells of a decaying kernel are near its only maximum: one ascent each."""
    kernel = np.random.RandomState(0).standard_normal((16, 16, 5, 5)) * 0.4 ** np.add.outer(range(5), range(5))
    kernel += 1e-4 * np.cos(np.arange(kernel.size)).reshape(kernel.shape)
    rounds = ascents_of_rounds(kernel, monkeypatch)
    assert max(near for near, _ in rounds[1:]) > tuning.FLAT_CELLS
    assert max(ascents for _, ascents in rounds) == 1


def test_a_norm_that_is_the_same_nearly_everywhere_is_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = 1e-4 * np.cos(np.arange(16 * 16 * 25.0)).reshape(16, 16, 5, 5)
    kernel[..., 0, 0] += np.eye(16)
    near, ascents = ascents_of_rounds(kernel, monkeypatch)[0]
    assert near > tuning.FLAT_CELLS
    assert ascents == tuning.TRIALS
