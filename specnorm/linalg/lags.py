"""Lags: how far two taps of a kernel are apart. Host NumPy: a kernel's shape, and which of its taps are 0."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from specnorm.linalg.frequencies import product

_KEPT = 64
"""Taps up to which the pairs are kept: 2016 of them."""
_PAIRS = 256
"""Pairs at once: their sums are a matrix of as many columns, most of it zeros."""


def half_lags(kernel_shape: tuple[int, ...]) -> np.ndarray:
    """Lags d with |d_j| < k_j, one of each pair (d, -d), zero first, shape (L, d)."""
    every = product([np.arange(1 - k, k) for k in kernel_shape])
    middle = len(every) // 2
    return every[middle:]


@dataclass(frozen=True, eq=False)
class PairedTaps:
    """Some lags, and the pairs of taps that are so far apart.

    Parameters
    ----------
    lags : integer array, shape (L, d)
    here, there : integer arrays, shape (n,)
        Taps by their numbers in the kernel's order; ``there - here`` is a lag.
    sums : float array, shape (L, n)
        1 where a pair has a lag, else 0: times something of each pair, its sum for each lag. For the zero lag 1/2,
        since its pairs are the same the other way round.
    """

    lags: np.ndarray
    here: np.ndarray
    there: np.ndarray
    sums: np.ndarray


def paired_taps(used: np.ndarray, most: int) -> tuple[PairedTaps, ...]:
    """Lags of `half_lags` that two used taps have, and their pairs: at least one lag at once, and few pairs.

    Parameters
    ----------
    used : bool array, shape kernel_shape
        Whether a tap is other than 0.
    most : int
        Pairs at once, where there is more than one lag.

    Returns
    -------
    tuple of PairedTaps
        The zero lag is always the first, by itself. Not to be written to: those of few taps are kept.
    """
    find = _paired_taps if used.size <= _KEPT else _paired_taps.__wrapped__
    return find(used.shape, used.tobytes(), min(most, _PAIRS))


@lru_cache(maxsize=16)
def _paired_taps(shape: tuple[int, ...], used: bytes, most: int) -> tuple[PairedTaps, ...]:
    number = np.where(np.frombuffer(used, dtype=np.bool_), np.arange(len(used)), -1).reshape(shape)
    found: list[list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = []
    pairs = 0
    for lag in half_lags(shape):
        ends = [[slice(max(0, -d), k + min(0, -d)) for d, k in zip(x, shape, strict=True)] for x in (lag, -lag)]
        here, there = (number[tuple(each)] for each in ends)
        both = (here >= 0) & (there >= 0)
        if both.any() or not lag.any():
            pairs += int(both.sum())
            if len(found) < 2 or pairs > most:  # the zero lag by itself
                found, pairs = [*found, []], int(both.sum())
            found[-1].append((lag, here[both], there[both]))
    return tuple(_together(some) for some in found)


def _together(some: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> PairedTaps:
    lags, here, there = zip(*some, strict=True)
    weights = np.diag([1.0 if lag.any() else 0.5 for lag in lags])
    sums = np.repeat(weights, [len(x) for x in here], axis=1)
    return PairedTaps(np.stack(lags), np.concatenate(here), np.concatenate(there), sums)
