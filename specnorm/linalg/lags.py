"""Lags, how far two taps of a kernel are apart, and a kernel's autocorrelations at each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from specnorm.linalg.frequencies import product

if TYPE_CHECKING:
    from specnorm.types import Array, ArrayOps

_KEPT = 64
"""Taps up to which the pairs are kept: 2016 of them."""
_PAIRED = 2**20
"""Bytes of pairs of taps and of their products at once, about a cache; those of one lag may be more."""
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


def autocorrelations(
    taps: Array, rank: int, shape: tuple[int, ...], *, tick: Callable[[], None] | None = None, ops: ArrayOps
) -> tuple[np.ndarray, Array, Array]:
    """Sums ``R_d`` of products of taps d apart, for each lag d of `half_lags` that two taps other than 0 have.

    A sum has at most as many terms as there are taps, each a product of inner length m, and one more for R_d^T.

    Parameters
    ----------
    taps : array, shape (g, taps, m, p)
    rank : int
        Columns that are wanted.
    shape : tuple of int
        Of the kernel.
    tick : callable, optional
        Called now and then, at most once a lag: what it raises ends the work.

    Returns
    -------
    lags : integer array, shape (L, d)
        The zero lag first.
    even, odd : arrays, shape (g, L, p * rank)
        First columns of ``R_d + R_d^T`` and ``R_d - R_d^T``; of lag 0, R_0 and 0.
    """
    xp, (g, _, m, p) = ops.xp, taps.shape
    # What is no number is used, too.
    used = ops.to_numpy(xp.max(xp.abs(taps), axis=(0, 2, 3))) != 0

    def summed(first: np.ndarray, second: np.ndarray, sums: Array) -> Array:
        a, b = (xp.take(taps, ops.from_numpy(each, taps), axis=1) for each in (first, second))
        of_pairs = xp.matmul(xp.matrix_transpose(a), b[..., :rank])
        return xp.matmul(sums, xp.reshape(of_pairs, (g, sums.shape[1], p * rank)))

    found = []
    for some in paired_taps(used.reshape(shape), _PAIRED // (8 * g * p * (2 * m + rank))):
        if tick is not None:
            tick()
        sums = xp.astype(ops.from_numpy(some.sums, taps), taps.dtype)
        forward = summed(some.here, some.there, sums)
        if not some.lags.any():
            backward = forward
        elif rank == p:
            square = xp.reshape(forward, (g, sums.shape[0], p, p))
            backward = xp.reshape(xp.matrix_transpose(square), forward.shape)
        else:
            backward = summed(some.there, some.here, sums)
        found.append((some.lags, forward + backward, forward - backward))
    lags, even, odd = zip(*found, strict=True)
    return np.concatenate(lags), xp.concat(list(even), axis=1), xp.concat(list(odd), axis=1)
