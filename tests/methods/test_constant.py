"""Kernels with one tap, matrices: enclosed by Lanczos and one factorisation; the search is for what is left wide."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import specnorm
from specnorm.linalg.lanczos import Lanczos
from specnorm.methods import certify
from specnorm.search import enclosing


def orthogonal(n: int, seed: int = 0) -> Any:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]


def graded(n: int, m: int, values: Any) -> Any:
    count = min(n, m)
    return orthogonal(n)[:, :count] @ np.diag(values) @ orthogonal(m, 1)[:, :count].T


RNG = np.random.default_rng(0)
MATRICES: dict[str, Any] = {
    "square": RNG.standard_normal((100, 100)),
    "wide": RNG.standard_normal((70, 300)),
    "tall": RNG.standard_normal((300, 70)),
    "orthogonal": orthogonal(90),
    "rank one": np.outer(RNG.standard_normal(80), RNG.standard_normal(120)),
    "two nearly equal": graded(90, 80, np.r_[1.0, 1.0 - 1e-7, np.linspace(0.9, 0, 78)]),
    "graded": graded(90, 80, 10.0 ** -np.arange(80.0)),
    "flat but for 1e-5": graded(80, 80, 1 - 1e-5 * np.linspace(0, 1, 80) ** 2),
    "large": 1e200 * RNG.standard_normal((66, 66)),
    "small": 1e-200 * RNG.standard_normal((66, 66)),
    "start vector missed": np.diag(np.r_[np.zeros(79), 1.0]),
}


@pytest.mark.parametrize("rtol", [1e-3, 1e-8])
@pytest.mark.parametrize("name", MATRICES)
def test_bounds_hold_and_are_close(name: str, rtol: float) -> None:
    matrix = MATRICES[name]
    scale = float(np.max(np.abs(matrix)))
    truth = scale * float(np.linalg.norm(matrix / scale, 2))
    found = specnorm.enclose(matrix, rtol=rtol)
    assert float(found.lower) <= truth * (1 + 1e-12)
    assert float(found.upper) >= truth * (1 - 1e-12)
    assert float(found.upper) <= float(found.lower) * (1 + rtol)


def test_one_tap_of_a_layer() -> None:
    """1x1 convolutions, groups, and 3x3 kernels whose other taps are zero."""
    kernel = RNG.standard_normal((160, 80, 1, 1))
    groups = [np.linalg.norm(kernel[first : first + 80, :, 0, 0], 2) for first in (0, 80)]
    found = specnorm.enclose(kernel, groups=2)
    assert float(found.lower) <= max(groups) * (1 + 1e-12) <= float(found.upper) * (1 + 1e-11)
    assert float(found.upper) <= 1.001 * max(groups)
    padded = np.zeros((80, 80, 3, 3))
    padded[:, :, 1, 2] = kernel[:80, :, 0, 0]
    assert float(specnorm.enclose(padded).upper) == pytest.approx(groups[0], rel=1e-3)


@pytest.mark.parametrize("name", ["square", "wide", "orthogonal"])
def test_no_torus_is_searched(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(enclosing, "Search")
    assert specnorm.enclose(MATRICES[name]).cells == 1


@pytest.mark.parametrize("name", ["square", "wide", "orthogonal", "two nearly equal"])
def test_verdicts_need_no_search_either(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = float(np.linalg.norm(MATRICES[name], 2))
    monkeypatch.delattr(certify, "Search")
    for factor in (1 + 1e-2, 1 + 1e-7):
        assert specnorm.certify(MATRICES[name], truth * factor)
        assert not specnorm.certify(MATRICES[name], truth / factor)


def test_witness_is_a_singular_pair() -> None:
    matrix = MATRICES["wide"]
    found = specnorm.enclose(matrix, rtol=1e-8)
    u, v = (np.asarray(x).reshape(-1) for x in found.witness[1:])
    assert abs(np.conj(u) @ matrix @ v) == pytest.approx(np.linalg.norm(matrix, 2), rel=1e-9)


def test_a_vector_that_is_none_proves_nothing_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lanczos is trusted for nothing: with any vector the bounds hold, or the search takes over."""

    monkeypatch.setattr(Lanczos, "small_side", lambda run: np.ones((run.matrix.shape[0], run.size)))
    for name in ("square", "graded", "start vector missed"):
        truth = float(np.linalg.norm(MATRICES[name], 2))
        found = specnorm.enclose(MATRICES[name])
        assert float(found.lower) * (1 - 1e-12) <= truth <= float(found.upper) * (1 + 1e-12)
