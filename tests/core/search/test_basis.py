"""The basis of a search holds the top vectors around the maximum, so that cells there pass with few directions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from libraries import OPS
from real_weights import real_layers

import specnorm
from specnorm.certified.symbol.gram_polynomial import GramPolynomial, rotate
from specnorm.methods import Enclose
from specnorm.methods.certify import Certify
from specnorm.search import branch_and_bound, incumbent, reduction, tuning
from specnorm.search.branch_and_bound import Search
from specnorm.search.reduction import Polynomials, sharpened
from specnorm.search.tuning import TUNING

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
    assert bool(specnorm.measure(KERNELS[name], Certify(bound=0.999 * lower)).stats["refuted"])


def decaying(channels: int, *window: int, seed: int = 0) -> Any:
    """Gaussian, the inputs scaled from 1 to 1/16 by a geometric sequence: a wide spectrum."""
    drawn = np.random.RandomState(seed).standard_normal((channels, channels, *window))
    return drawn * np.geomspace(1, 1 / 16, channels).reshape(1, -1, *[1] * len(window))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("window", "rank", "seed"), [((3, 3), 6, 0), ((5,), 9, 1), ((2, 3), 1, 2), ((3, 1), 15, 3)])
def test_a_cover_bounds_what_is_left_out(window: tuple[int, ...], rank: int, seed: int, dtype: str) -> None:
    """Of squared norms of what is left out, on a fine grid by SVD: none is above, the largest within 1.5; all kept."""
    blocks, random = decaying(16, *window, seed=seed)[None] / 8, np.random.RandomState(seed)
    basis: Any = np.linalg.qr(random.standard_normal((1, 16, 16)))[0].astype(dtype)
    polynomial = GramPolynomial(blocks, rotate(blocks, basis, rank, ops=OPS), ops=OPS)
    found = sharpened(polynomial, Polynomials(blocks, TUNING, ops=OPS).parts, ops=OPS)
    turned = np.moveaxis(blocks[0], 1, -1) @ basis[0].astype(np.float64)
    symbols = np.fft.fftn(turned[..., rank:], [31] * len(window), axes=range(1, 1 + len(window)))
    largest = float(np.linalg.norm(np.moveaxis(symbols, 0, -2), 2, axis=(-2, -1)).max()) ** 2
    assert largest * (1 - 1e-6) <= found.truncation <= 1.5 * largest
    assert found.truncation < polynomial.truncation
    assert (found.rank, found.error, found.lags.tolist()) == (rank, polynomial.error, polynomial.lags.tolist())


def test_wide_spectra_are_bounded_more_closely(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a fifth fewer cells; to the tolerance, and above norms at many frequencies by SVD."""
    kernel = decaying(128, 3, 3).astype(np.float32)
    closer: list[GramPolynomial] = []

    def noted(*given: Any, **more: Any) -> GramPolynomial:
        closer.append(sharpened(*given, **more))
        return closer[-1]

    monkeypatch.setattr(reduction, "sharpened", noted)
    found = specnorm.enclose(kernel)
    assert len(closer) == 1
    symbols = np.fft.fft2(kernel.astype(np.float64), (12, 12), axes=(2, 3)).transpose(2, 3, 0, 1)[:7]
    assert float(np.linalg.norm(symbols, 2, axis=(2, 3)).max()) <= float(found.upper) <= float(found.lower) * 1.001
    monkeypatch.setattr(reduction, "sharpened", lambda polynomial, *_, **__: polynomial)
    assert int(found.cells) <= 0.9 * int(specnorm.enclose(kernel).cells)


# -- estimates -----------------------------------------------------------------------------------------------------

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
