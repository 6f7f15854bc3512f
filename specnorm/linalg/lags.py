"""Lags, how far two taps of a kernel are apart, and the products of its taps with one another at each."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from specnorm.linalg.frequencies import product

if TYPE_CHECKING:
    from specnorm.types import Array, ArrayOps, Namespace

_FEW = 9
"""Pairs of taps that are multiplied one by one; more are copied into one stack."""


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


@functools.lru_cache(maxsize=4)
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


def correlations(
    taps: Array, used: np.ndarray, rank: int, *, tick: Callable[[], None] | None = None, ops: ArrayOps
) -> Iterator[tuple[np.ndarray, Array, Array]]:
    """Channel autocorrelations ``R_d = sum_k K_k^T K_{k+d}``, one lag of a pair after the other, zero first.

    Taps that are 0 are passed over: products with them are 0, and add nothing.

    Parameters
    ----------
    taps : array, shape (g, taps, m, p)
    used : bool array, shape kernel_shape
        Whether a tap is other than 0.
    rank : int
        How many columns are wanted.
    tick : callable, optional
        Called before each lag.

    Yields
    ------
    lag : integer array, shape (d,)
    forward, backward : arrays, shape (g, p, rank)
        Columns of R_d and of ``R_{-d} = R_d^T``.
    """
    xp = ops.xp

    def summed(left: np.ndarray, right: np.ndarray) -> Array:
        if 0 < len(left) <= _FEW:
            products = (
                xp.matmul(xp.matrix_transpose(every[i]), every[j][..., :rank]) for i, j in zip(left, right, strict=True)
            )
            return functools.reduce(operator.add, products)
        a, b = (xp.take(taps, ops.from_numpy(each, taps), axis=1) for each in (left, right))
        return xp.sum(xp.matmul(xp.matrix_transpose(a), b[..., :rank]), axis=1)

    every = [taps[:, k, ...] for k in range(taps.shape[1])]
    for lag, here, there in paired_taps(used):
        if tick is not None:
            tick()
        forward = summed(here, there)
        if rank == taps.shape[-1]:
            yield lag, forward, xp.matrix_transpose(forward)
        else:
            yield lag, forward, summed(there, here) if lag.any() else forward


def absolute_sums_vjp(blocks: Array, signs: Array, weights: Array, *, xp: Namespace) -> Array:
    """Gradient of ``sum_i w_i sum_{d,j} |R_d[i, j]|`` over all lags with respect to the blocks.

    The sum takes ``(w_i + w_j) |R_d[i, j]|`` of each pair of lags, so with T that times R_d's sign, and its transpose
    for -d, the gradient of a tap is ``sum_l K_l T_{k-l}``.

    Parameters
    ----------
    blocks : array, shape (b, m, p, *kernel_shape)
    signs : array, shape (b, L, p, p)
        Of R_d, in the order of `half_lags`.
    weights : array, shape (b, p)
    """
    b, m, p = blocks.shape[:3]
    shape = tuple(blocks.shape[3:])
    count = math.prod(shape)
    table = signs * (weights[:, None, :, None] + weights[:, None, None, :])
    ahead = table[:, 1:, ...]
    # All lags, the transposed matrix at each: those that a tap meets the others at are a box of them.
    table = xp.concat([xp.flip(ahead, axis=1), table[:, :1, ...], xp.matrix_transpose(ahead)], axis=1)
    table = xp.reshape(table, (b, *(2 * k - 1 for k in shape), p, p))
    del ahead
    flat = xp.reshape(xp.permute_dims(xp.reshape(blocks, (b, m, p, count)), (0, 1, 3, 2)), (b, m, count * p))
    found = []
    for place in product([np.arange(k) for k in shape]).tolist():
        box = tuple(slice(k - 1 - at, 2 * k - 1 - at) for at, k in zip(place, shape, strict=True))
        found.append(xp.matmul(flat, xp.reshape(table[(slice(None), *box)], (b, count * p, p))))
    del table, flat
    return xp.reshape(xp.stack(found, axis=-1), blocks.shape)
