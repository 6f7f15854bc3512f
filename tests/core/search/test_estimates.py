"""What a search is told of its cells: the closer, the fewer proofs fail and the fewer cells there are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import specnorm
from specnorm import Enclose
from specnorm.search import branch_and_bound, incumbent, tuning

FLAT = np.random.default_rng(0).standard_normal((128, 128, 3, 3))
"""Its singular values have no gap at the top."""


def relative_errors(monkeypatch: pytest.MonkeyPatch, **knobs: Any) -> tuple[np.ndarray, int]:
    """Of the estimated eigenvalues of a whole search, and how many cells it took."""
    errors: list[np.ndarray] = []

    def watched(formed: Any, *given: Any, **how: Any) -> Any:
        values, vectors = incumbent.largest(formed, *given, **how)
        errors.append(1 - values / np.linalg.eigvalsh(np.asarray(formed.matrices))[:, -1])
        return values, vectors

    monkeypatch.setattr(branch_and_bound, "largest", watched)
    monkeypatch.setattr(tuning, "TUNING", tuning.TUNING._replace(**knobs))
    found = specnorm.measure(FLAT, Enclose(rtol=1e-2))
    return np.concatenate(errors), int(found.stats["cells"])


def test_crowded_spectra_get_longer_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    long, cells = relative_errors(monkeypatch)
    short, more_cells = relative_errors(monkeypatch, crowded=1.0)
    assert long.min() > -1e-5, "from below"
    assert np.median(long) < 1e-3 < 5e-3 < np.median(short)
    assert cells < 0.9 * more_cells
