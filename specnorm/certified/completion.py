"""Proof by completion: the lags of K*K + H*H bound the norm of K, whatever kernel H is.

*Lemma.* Let M_t be the lags of K*K + H*H, for any kernels K and H with as many input channels. Then at every input
size, circular or zero-padded, ``||K||**2 <= v + ||M_0 - v I|| + sum over t != 0 of ||M_t||`` for every number v.
*Proof.* G*G <= G*G + F*F = sum_t M_t e^{i t theta} <= v I + ||M_0 - v I|| I + sum_{t != 0} ||M_t|| I, where G and F are
the symbols of K and H. So H decides how close the bound is, never whether it is one: H = 0 is allowed.

`norms_up` takes Frobenius norms and the best v. Rounding: a lag is a sum of m products in some order, so it is off by
at most gamma_m times the same sum of absolute values; the symbol of all these errors is at most gamma_m ||A||**2, where
A is the sum over the taps of |K; H|, and ||A||**2 <= ||A||_1 ||A||_inf.

References
----------
.. [1] Dritschel, "On factorization of trigonometric polynomials", Integral Equations Operator Theory 49, 2004 (an H
   exists for every bound above the norm).
.. [2] Dumitrescu, "Positive Trigonometric Polynomials and Signal Processing Applications", Springer, 2007.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from specnorm.certified import rounding

if TYPE_CHECKING:
    from specnorm.types import Array, ArrayOps, Namespace

_ROWS = 32
"""Rows that are multiplied at once in float32, where the sums of more of them would lose too many digits."""


@dataclass(frozen=True, eq=False)
class Lags:
    """Lags of X*X for a stack of kernels X, with what they may be off by.

    Parameters
    ----------
    values : array, shape (b, *lag_shape, c, c)
        Lag t on each axis from 1 - k to k - 1.
    error : array, shape (b,)
        The symbol of the difference from the exact lags has at most this norm at every frequency.
    """

    values: Array
    error: Array


def lags(x: Array, *, ops: ArrayOps) -> Lags:
    """``sum_y x_y^T x_{y+t}`` for kernels x, (b, rows, c, *taps), in the precision of x."""
    xp = ops.xp
    b, rows, c, *taps = x.shape
    at_once = max(1, ops.memory // (4 * 8 * (c * math.prod(taps)) ** 2))
    if b > at_once:
        parts = [lags(x[j : j + at_once, ...], ops=ops) for j in range(0, b, at_once)]
        return Lags(*(xp.concat([getattr(p, name) for p in parts], axis=0) for name in ("values", "error")))
    d = len(taps)
    by_tap = xp.reshape(xp.permute_dims(x, (0, 1, *range(3, 3 + d), 2)), (b, rows, math.prod(taps) * c))
    gram, additions = _gram(by_tap, rows if x.dtype == xp.float64 else _ROWS, xp=xp)
    # From (b, *y, c, *z, c) to (b, y_1, z_1, ..., c, c), and then on each axis the sum of all entries with z - y = t.
    gram = xp.reshape(gram, (b, *taps, c, *taps, c))
    pairs = [axis for j in range(d) for axis in (1 + j, 2 + d + j)]
    gram = xp.permute_dims(gram, (0, *pairs, 1 + d, 2 + 2 * d))
    lead = b
    for k in taps:
        gram = _diagonals(xp.reshape(gram, (lead, k, k, -1)), xp=xp)
        lead *= 2 * k - 1
    values = xp.reshape(gram, (b, *(2 * k - 1 for k in taps), c, c))
    return Lags(values, _error(by_tap, math.prod(taps), additions + sum(taps), xp=xp))


def _gram(x: Array, at_most: int, *, xp: Namespace) -> tuple[Array, int]:
    """``x^T x`` of matrices (b, rows, n), rows summed pairwise in chunks; and how many roundings an entry has."""
    rows = x.shape[1]
    if rows <= at_most:
        return xp.matmul(xp.matrix_transpose(x), x), rows
    half = -(-rows // 2 // at_most) * at_most
    (first, one), (second, other) = _gram(x[:, :half, :], at_most, xp=xp), _gram(x[:, half:, :], at_most, xp=xp)
    return first + second, max(one, other) + 1


def _diagonals(x: Array, *, xp: Namespace) -> Array:
    """Sums of the entries (y, z) with one z - y: (n, k, k, m) to (n, 2 k - 1, m), z - y = 1 - k first."""
    n, k, _, m = x.shape
    x = xp.flip(x, axis=1)
    # Rows of length 2 k, read as rows of length 2 k - 1: row y moves y places to the right.
    wide = xp.reshape(xp.concat([x, xp.zeros_like(x)], axis=2), (n, 2 * k * k, m))
    return xp.sum(xp.reshape(wide[:, : k * (2 * k - 1), :], (n, k, 2 * k - 1, m)), axis=1)


def _error(by_tap: Array, taps: int, additions: int, *, xp: Namespace) -> Array:
    """What sums of so many roundings may be off by, and products below the smallest normal number."""
    b, rows, n = by_tap.shape
    absolute = xp.sum(xp.reshape(xp.abs(by_tap), (b, rows, taps, n // taps)), axis=2)
    squared = xp.max(xp.sum(absolute, axis=1), axis=1) * xp.max(xp.sum(absolute, axis=2), axis=1)
    relative = rounding.SLACK * rounding.gamma(additions, rounding.unit(by_tap, xp=xp))
    tiny = float(xp.finfo(by_tap.dtype).smallest_normal) * rows * taps * n
    nonzero = xp.max(absolute, axis=(1, 2)) > 0
    return rounding.up(squared * relative, 2 * taps + rows + n, xp=xp) + xp.astype(nonzero, squared.dtype) * tiny


def norms_up(own: Lags, beside: Lags, *, scale: Array | float = 1.0, ops: ArrayOps) -> Array:
    """Upper bounds (b,) of the norms of kernels K, from the lags of K and of any H; never above those of H = 0.

    Parameters
    ----------
    own, beside : Lags
        Of K and of H.
    scale : array (b,) or float
        Non-negative: H is taken times its root.
    """
    xp = ops.xp
    alone = _norm_sq_up(own.values, own.error, xp=xp)
    factor = xp.full_like(alone, scale) if isinstance(scale, float) else scale
    wide = xp.reshape(factor, (-1,) + (1,) * (own.values.ndim - 1))
    beside_scaled = beside.values * wide
    # Two roundings more of each entry; the sum of the norms of all lags is at least that of any symbol.
    more = 4 * rounding.unit(alone, xp=xp) * (_sum_of_norms(beside_scaled, xp=xp) + _sum_of_norms(own.values, xp=xp))
    error = rounding.up(own.error + factor * beside.error + more, 4, xp=xp)
    together = _norm_sq_up(own.values + beside_scaled, error, xp=xp)
    least = xp.where(together < alone, together, alone)  # also if H is no number
    return rounding.up(xp.sqrt(least), 2, xp=xp)


def best_shift(centre: Array, *, xp: Namespace) -> Array:
    """The v (b,) that minimises ``v + ||M_0 - v I||``; any other is as true."""
    c = centre.shape[-1]
    mean = xp.linalg.trace(centre) / c
    deviation = _frobenius(centre - mean[:, None, None] * xp.eye(c, dtype=centre.dtype, device=centre.device), xp=xp)
    return mean - deviation / math.sqrt(c * (c - 1)) if c > 1 else mean


def _norm_sq_up(values: Array, error: Array, *, xp: Namespace) -> Array:
    """The lemma's bound (b,) of ``||K||**2`` from lags that are off by ``error``."""
    b, *_, c, _ = values.shape
    every = xp.reshape(values, (b, -1, c, c))
    middle = every.shape[1] // 2
    shift = best_shift(every[:, middle, ...], xp=xp)
    centre = every[:, middle, ...] - shift[:, None, None] * xp.eye(c, dtype=values.dtype, device=values.device)
    others = xp.concat([every[:, :middle, ...], every[:, middle + 1 :, ...]], axis=1)
    return rounding.up(shift + _sum_of_norms(centre, xp=xp) + _sum_of_norms(others, xp=xp) + error, 4, xp=xp)


def _sum_of_norms(values: Array, *, xp: Namespace) -> Array:
    """Sum (b,) of the Frobenius norms of the matrices of each entry of a stack, rounded up."""
    b, *_, c, _ = values.shape
    norms = _frobenius(xp.reshape(values, (b, -1, c, c)), xp=xp)
    return rounding.up(xp.sum(norms, axis=1), c * c + norms.shape[1] + 4, xp=xp)


def _frobenius(a: Array, *, xp: Namespace) -> Array:
    return xp.sqrt(xp.sum(a * a, axis=(-2, -1)))
