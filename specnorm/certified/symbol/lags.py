"""Lags, how far two taps of a kernel are apart, and a kernel's autocorrelations at each."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specnorm.problem.frequencies import product

if TYPE_CHECKING:
    from specnorm.types import Array, ArrayOps, Namespace

_KEPT = 64
"""Taps up to which the pairs are kept: 2016 of them."""
_PAIRED = 2**20
"""Bytes of pairs of taps and of their products at once, about a cache; those of one lag may be more."""
_LARGE = 2**14
"""Entries of a tap from which two are multiplied as they lie: to lay some side by side would take longer than calls."""
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
        1 where a pair has a lag, else 0: times something of each pair, its sum for each lag.
    """

    lags: np.ndarray
    here: np.ndarray
    there: np.ndarray
    sums: np.ndarray


def paired_taps(used: np.ndarray, most: int, *, tick: Callable[[], None] | None = None) -> Iterable[PairedTaps]:
    """Lags of `half_lags` that two used taps have, and their pairs: at least one lag at once, and few pairs.

    Parameters
    ----------
    used : bool array, shape kernel_shape
        Whether a tap is other than 0.
    most : int
        Pairs at once, where there is more than one lag.
    tick : callable, optional
        Called before each lag of many: there are as many pairs in all as half the square of the taps.

    Returns
    -------
    iterable of PairedTaps
        The zero lag is always the first, by itself. Not to be written to: those of few taps are kept.
    """
    if used.size <= _KEPT:
        return _kept_pairs(used.shape, used.tobytes(), min(most, _PAIRS))
    return _pairs(used, min(most, _PAIRS), tick)


@functools.lru_cache(maxsize=16)
def _kept_pairs(shape: tuple[int, ...], used: bytes, most: int) -> tuple[PairedTaps, ...]:
    return tuple(_pairs(np.frombuffer(used, dtype=np.bool_).reshape(shape), most))


def _pairs(used: np.ndarray, most: int, tick: Callable[[], None] | None = None) -> Iterator[PairedTaps]:
    shape = used.shape
    number = np.where(used, np.arange(used.size).reshape(shape), -1)
    some: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    pairs = 0
    for lag in half_lags(shape):
        if tick is not None:
            tick()
        ends = [[slice(max(0, -d), k + min(0, -d)) for d, k in zip(x, shape, strict=True)] for x in (lag, -lag)]
        here, there = (number[tuple(each)] for each in ends)
        both = (here >= 0) & (there >= 0)
        count = int(both.sum())
        if not count and lag.any():
            continue
        if some and (pairs + count > most or not some[0][0].any()):  # the zero lag by itself
            yield _together(some)
            some, pairs = [], 0
        some.append((lag, here[both], there[both]))
        pairs += count
    yield _together(some)


def _together(some: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> PairedTaps:
    lags, here, there = zip(*some, strict=True)
    sums = np.repeat(np.eye(len(lags)), [len(x) for x in here], axis=1)
    return PairedTaps(np.stack(lags), np.concatenate(here), np.concatenate(there), sums)


def correlations(
    taps: Array, used: np.ndarray, rank: int, *, tick: Callable[[], None] | None = None, ops: ArrayOps
) -> Iterator[tuple[np.ndarray, Array, Array]]:
    """Channel autocorrelations ``R_d = sum_k K_k^T K_{k+d}``, some lags of `half_lags` at once, zero first, by itself.

    Taps that are 0 are passed over: products with them are 0, and add nothing. A sum has at most as many terms as
    there are taps, each a product of inner length m.

    Parameters
    ----------
    taps : array, shape (g, taps, m, p)
    used : bool array, shape kernel_shape
        Whether a tap is other than 0.
    rank : int
        Columns that are wanted.
    tick : callable, optional
        Called now and then, at most once a lag: what it raises ends the work.

    Yields
    ------
    lags : integer array, shape (L, d)
    forward, backward : arrays, shape (g, L, p * rank)
        First columns of R_d and of ``R_{-d} = R_d^T``.
    """
    xp, (g, _, m, p) = ops.xp, taps.shape

    def summed(first: np.ndarray, second: np.ndarray, sums: Array, rows: int = 0) -> Array:
        left, right = xp.matrix_transpose(taps[..., rows:]), taps[..., :rank]
        if sums.shape[0] == 1 and m * p >= _LARGE:
            products = (xp.matmul(left[:, i, ...], right[:, j, ...]) for i, j in np.stack([first, second], 1).tolist())
            return functools.reduce(operator.add, products)[:, None, ...]
        a, b = (xp.take(x, ops.from_numpy(each, taps), axis=1) for x, each in ((left, first), (right, second)))
        both = xp.reshape(xp.matmul(a, b), (g, len(first), (p - rows) * rank))
        return xp.reshape(xp.matmul(sums, both), (g, sums.shape[0], p - rows, rank))

    for some in paired_taps(used, _PAIRED // (8 * g * p * (2 * m + rank)), tick=tick):
        if tick is not None:
            tick()
        sums = xp.astype(ops.from_numpy(some.sums, taps), taps.dtype)
        forward = backward = summed(some.here, some.there, sums)
        if some.lags.any():
            backward = xp.matrix_transpose(forward[..., :rank, :])
            if rank < p:
                backward = xp.concat([backward, summed(some.there, some.here, sums, rank)], axis=2)
        forward, backward = (xp.reshape(x, (g, len(some.lags), p * rank)) for x in (forward, backward))
        yield some.lags, forward, backward


def autocorrelations(
    taps: Array, rank: int, shape: tuple[int, ...], *, tick: Callable[[], None] | None = None, ops: ArrayOps
) -> tuple[np.ndarray, Array, Array]:
    """Even and odd parts of a kernel's `correlations`, for each lag that two taps other than 0 have.

    Parameters
    ----------
    taps, rank, tick
        As there.
    shape : tuple of int
        Of the kernel.

    Returns
    -------
    lags : integer array, shape (L, d)
        The zero lag first.
    even, odd : arrays, shape (g, L, p * rank)
        First columns of ``R_d + R_d^T`` and ``R_d - R_d^T``; of lag 0, R_0 and 0.
    """
    xp = ops.xp
    # What is no number is used, too.
    used = ops.to_numpy(xp.max(xp.abs(taps), axis=(0, 2, 3))) != 0
    found = [
        (lags, forward + backward if lags.any() else forward, forward - backward)
        for lags, forward, backward in correlations(taps, used.reshape(shape), rank, tick=tick, ops=ops)
    ]
    lags, even, odd = zip(*found, strict=True)
    return np.concatenate(lags), xp.concat(list(even), axis=1), xp.concat(list(odd), axis=1)


def taps_below(blocks: Array, *, xp: Namespace) -> Array:
    """Blocks as matrices (g, taps * m, p): the taps of each below one another."""
    g, m, p = blocks.shape[:3]
    return xp.reshape(xp.permute_dims(xp.reshape(blocks, (g, m, p, -1)), (0, 3, 1, 2)), (g, -1, p))
