"""Extrapolation of iterates that converge geometrically."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from specnorm.types import Array

_ArrayT = TypeVar("_ArrayT", "Array", "NDArray[np.float64]")


def extrapolated(x: _ArrayT, before: _ArrayT, ahead: _ArrayT | float) -> _ArrayT:
    """``x + ahead (x - before)``: on along the last change, ``ahead`` times as far."""
    return x + ahead * (x - before)


def geometric_tail(ratio: _ArrayT) -> _ArrayT:
    """``ratio + ratio**2 + ...``: how many times the last change is still to come where changes shrink by a ratio."""
    return ratio / (1 - ratio)


def contraction(change: np.ndarray, before: np.ndarray, *, largest: float) -> np.ndarray:
    """Ratios by which the last two changes (s, d) shrink, as least squares has it, between 0 and ``largest`` (host)."""
    ratio = (change * before).sum(axis=1) / np.maximum((before * before).sum(axis=1), 1e-300)
    return np.asarray(np.minimum(np.maximum(ratio, 0.0), largest))
