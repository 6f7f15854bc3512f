"""Kernels of thousands of taps: time and memory that were asked for, and bounds that hold."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers.checks import peak
from helpers.libraries import OPS

import specnorm
from specnorm.backends.types import ArrayOps
from specnorm.proofs.cells import Boxes
from specnorm.supremum import proof as cover
from specnorm.supremum.proof import Cells
from specnorm.symbols.proofs.polynomial import Polynomial

SHAPES = [(1, 1, 3000), (1, 1, 20_000), (1, 1, 100, 100), (2, 2, 12, 12, 12), (1, 1, 200, 200)]
BUDGET = 2.0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.sampled("shape0")
def test_a_budget_holds(shape: tuple[int, ...]) -> None:
    """Pairs of taps, lags of cells and phases on a grid were made at once: 8.9 s and more for 3, 2.2 GB, 591 GiB."""
    kernel = np.random.RandomState(0).standard_normal(shape)
    specnorm.enclose(kernel[:, :, :2], budget=BUDGET)  # what there is to import
    begun = time.process_time()  # of this process: another's work is not counted
    found = specnorm.enclose(kernel, budget=BUDGET)
    taken = time.process_time() - begun
    # Symbols at some frequencies, by the transform.
    symbols = np.moveaxis(np.fft.fftn(kernel, axes=range(2, kernel.ndim)), (0, 1), (-2, -1))
    assert float(np.linalg.norm(symbols, 2, axis=(-2, -1)).max()) <= float(found.upper)
    assert 0 < float(found.lower) <= float(np.linalg.norm(np.abs(kernel).sum(axis=tuple(range(2, kernel.ndim))), 2))
    assert taken < 3 * BUDGET


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.nightly
def test_nothing_is_larger_than_memory_allows(shape: tuple[int, ...]) -> None:
    kernel = np.random.RandomState(0).standard_normal(shape)
    assert peak(lambda: specnorm.enclose(kernel, budget=BUDGET)) < 1.5 * ArrayOps.memory


def test_cells_by_some_at_once_are_bounded_alike() -> None:
    """Lags of all cells at once, or of a few cells at a time; the clock is looked at between them."""
    kernel: Any = np.random.RandomState(0).standard_normal((1, 2, 2, 5, 4))
    boxes = Boxes.torus((5, 4))
    cells = Cells(boxes, np.zeros(len(boxes), dtype=np.int64), None)
    found, ticks = [], []
    for memory in (2**28, 2**13):
        ops: Any = replace(OPS, memory=memory)
        polynomial = Polynomial(kernel, xp=ops.xp).gram(tick=lambda: ticks.append(1), ops=ops)
        ticks.clear()
        found.append(cover.eigenvalue_limits(polynomial, cells, 20.0))
    assert len(ticks) > 1
    np.testing.assert_allclose(found[0], found[1], rtol=1e-12)


def test_lags_that_no_two_taps_have_are_left_out() -> None:
    kernel: Any = np.zeros((1, 3, 2, 9))
    kernel[..., ::4] = np.random.RandomState(0).standard_normal((1, 3, 2, 3))
    assert Polynomial(kernel, xp=OPS.xp).gram(ops=OPS).lags.ravel().tolist() == [0, 4, 8]
