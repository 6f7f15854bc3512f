"""Lags: how far two taps of a kernel are apart. Host NumPy: a kernel's shape, and which of its taps are 0."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from specnorm.linalg.frequencies import product


def half_lags(kernel_shape: tuple[int, ...]) -> np.ndarray:
    """Lags d with |d_j| < k_j, one of each pair (d, -d), zero first, shape (L, d)."""
    every = product([np.arange(1 - k, k) for k in kernel_shape])
    middle = len(every) // 2
    return every[middle:]


def paired_taps(used: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each lag of `half_lags` that two used taps have: the taps that have another one there, and these.

    Parameters
    ----------
    used : bool array, shape kernel_shape
        Whether a tap is other than 0.

    Returns
    -------
    list of (lag, here, there)
        ``there - here`` is the lag; taps by their numbers in the kernel's order. The zero lag is always in it.
    """
    return _paired(used.shape, used.tobytes())


@lru_cache(maxsize=4)
def _paired(shape: tuple[int, ...], marks: bytes) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """`paired_taps` of bools as bytes: a thousand small arrays of a 7x7 kernel take longer than products with them."""
    used = np.frombuffer(marks, dtype=bool).reshape(shape)
    number = np.where(used, np.arange(used.size).reshape(used.shape), -1)
    found = []
    for lag in half_lags(used.shape):
        ends = [[slice(max(0, -d), k + min(0, -d)) for d, k in zip(x, used.shape, strict=True)] for x in (lag, -lag)]
        here, there = (number[tuple(each)] for each in ends)
        both = (here >= 0) & (there >= 0)
        if both.any() or not lag.any():
            found.append((lag, here[both], there[both]))
    return found
