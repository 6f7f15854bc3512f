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
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from specnorm import arrays
from specnorm.certified import rounding

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace
    from specnorm.types import ArrayOps

_ROWS = 32
"""Rows that are multiplied at once in float32, where the sums of more of them would lose too many digits."""


class Lags(NamedTuple):
    """Lags of X*X for a stack of kernels X, with what they may be off by.

    Parameters
    ----------
    values : array, shape (b, n, c, c)
        At the lags of `half_lags`; at their negatives stand the transposed matrices.
    error : array, shape (b,)
        The symbol of the difference from the exact lags has at most this norm at every frequency.
    """

    values: Array
    error: Array


def lags(x: Array, *, ops: ArrayOps, wide: bool = False) -> Lags:
    """``sum_y x_y^T x_{y+t}`` for kernels x, (b, rows, c, *taps), in the precision of x or in the widest."""
    xp = ops.xp
    b, rows, c, *taps = x.shape
    k, *rest = taps or [1]
    n = c * math.prod(rest)
    at_once = max(1, ops.memory // (4 * 8 * k * n**2))
    if b > at_once:
        parts = [lags(x[j : j + at_once, ...], ops=ops, wide=wide) for j in range(0, b, at_once)]
        return Lags(*(xp.concat([getattr(p, name) for p in parts], axis=0) for name in ("values", "error")))
    # The taps of the first axis stand among the rows: moved by one lag there they are a part of all rows.
    flat = xp.reshape(xp.permute_dims(xp.reshape(x, (b, rows, c, k, -1)), (0, 3, 1, 4, 2)), (b, k * rows, n))
    flat = arrays.in_wide_dtype(flat, ops=ops) if wide else flat
    chunk = k * rows if flat.dtype == xp.float64 else _ROWS
    moved = [_product(flat[:, : (k - t) * rows, :], flat[:, t * rows :, :], chunk, xp=xp) for t in range(k)]
    values = xp.reshape(xp.stack(moved, axis=1), (b, k, *rest, c, *rest, c))
    for j, length in enumerate(rest):
        # The axes y of one factor and z of the other become t, the sum of all entries with z - y = t.
        others = (axis for axis in range(values.ndim) if axis not in (2 + j, len(rest) + 3))
        pairs = xp.permute_dims(values, (*others, 2 + j, len(rest) + 3))
        values = xp.stack([xp.linalg.trace(pairs, offset=t) for t in range(1 - length, length)], axis=2 + j)
    values = xp.reshape(values, (b, -1, c, c))[:, math.prod(2 * r - 1 for r in rest) // 2 :, ...]
    return Lags(values, _error(x, values, xp=xp))


def _product(x: Array, y: Array, at_most: int, *, xp: Namespace) -> Array:
    """``x^T y`` of matrices (b, rows, n), rows summed pairwise in chunks."""
    first = _first_rows(x.shape[1], at_most)
    if first == x.shape[1]:
        return xp.matmul(xp.matrix_transpose(x), y)
    return _product(x[:, :first, :], y[:, :first, :], at_most, xp=xp) + _product(
        x[:, first:, :], y[:, first:, :], at_most, xp=xp
    )


def _first_rows(rows: int, at_most: int) -> int:
    """Of some rows, those that are summed apart from the others; all of them, if they are one chunk."""
    return rows if rows <= at_most else -(-rows // 2 // at_most) * at_most


def _additions(rows: int, at_most: int) -> int:
    """Roundings of an entry of `_product`."""
    first = _first_rows(rows, at_most)
    return rows if first == rows else max(_additions(first, at_most), _additions(rows - first, at_most)) + 1


def _error(x: Array, values: Array, *, xp: Namespace) -> Array:
    """What the roundings of `lags` in the precision of ``values`` may be off by, and products that are not normal."""
    b, rows, c, *taps = x.shape
    count, summed = math.prod(taps), rows * (taps or [1])[0]
    additions = _additions(summed, summed if values.dtype == xp.float64 else _ROWS) + sum(taps)
    absolute = xp.reshape(xp.abs(x), (b, rows, c * count))
    of_rows, of_columns = xp.sum(absolute, axis=2), xp.sum(xp.reshape(xp.sum(absolute, axis=1), (b, c, count)), axis=2)
    one, two = (xp.max(rounding.up(s, rows + c * count, xp=xp), axis=1) for s in (of_rows, of_columns))
    squared = xp.astype(one, values.dtype) * xp.astype(two, values.dtype)
    relative = rounding.SLACK * rounding.gamma(additions, rounding.unit(values, xp=xp))
    tiny = float(xp.finfo(values.dtype).smallest_normal) * rows * count * count * c
    return rounding.up(squared * relative, 2, xp=xp) + xp.astype(one > 0, values.dtype) * tiny


def kept(kernels: Array, values: Array, *, ops: ArrayOps) -> Lags:
    """Lags that `lags` found of some kernels before, and that were rounded to the precision of ``values`` since.

    Once, and where a power of two times them is below the smallest normal number, once more.
    """
    xp = ops.xp
    wide = arrays.in_wide_dtype(values, ops=ops)
    found = _error(kernels, wide, xp=xp)
    norms = _sum_of_norms(wide, xp=xp)
    tiny = 4 * float(xp.finfo(values.dtype).smallest_normal) * math.prod(values.shape[1:])
    rounded = norms * rounding.unit(values, xp=xp) + tiny * xp.astype(norms > 0, norms.dtype)
    return Lags(wide, rounding.up(found + rounded, 4, xp=xp))


def lost_digits(values: Array, *, xp: Namespace) -> Array:
    """Whether every number of a stack (b, ...) has at most half of its digits: it was stored in a shorter precision."""
    cut = values * (2.0 ** (29 if values.dtype == xp.float64 else 13) + 1)
    short = cut - (cut - values)
    return xp.all(short == values, axis=tuple(range(1, values.ndim)))


def norms_up(own: Lags, beside: Lags, *, ops: ArrayOps) -> tuple[Array, Array]:
    """Bounds of the norms of kernels K from the lags of K and of any H, never above those of H = 0.

    Returns
    -------
    norms : array, shape (b,)
    helps : array of bool, shape (b,)
        Whether H is needed for the bound: it is below that of H = 0.
    """
    xp = ops.xp
    alone = _norm_sq_up(own.values, own.error, ops=ops)
    # A rounding more of each entry; the sum of the norms of all lags is at least that of any symbol.
    more = 2 * rounding.unit(alone, xp=xp) * (_sum_of_norms(beside.values, xp=xp) + _sum_of_norms(own.values, xp=xp))
    error = rounding.up(own.error + beside.error + more, 4, xp=xp)
    together = _norm_sq_up(own.values + beside.values, error, ops=ops)
    helps = together < alone  # False if H is no number
    return rounding.up(xp.sqrt(xp.where(helps, together, alone)), 2, xp=xp), helps


def best_shift(centre: Array, *, ops: ArrayOps) -> Array:
    """The v (b,) that minimises ``v + ||M_0 - v I||``; any other is as true."""
    xp, c = ops.xp, centre.shape[-1]
    mean = xp.linalg.trace(centre) / c
    deviation = _frobenius(minus_identity(centre, mean, ops=ops), xp=xp)
    return mean - deviation / math.sqrt(c * (c - 1)) if c > 1 else mean


def minus_identity(centre: Array, shift: Array, *, ops: ArrayOps) -> Array:
    """``M_0 - v I`` of matrices (b, c, c) and numbers (b,)."""
    dtype = np.float64 if centre.dtype == ops.xp.float64 else np.float32
    return centre - shift[:, None, None] * ops.from_numpy(np.eye(centre.shape[-1], dtype=dtype), centre)


def _norm_sq_up(values: Array, error: Array, *, ops: ArrayOps) -> Array:
    """The lemma's bound (b,) of ``||K||**2`` from lags that are off by ``error``."""
    xp = ops.xp
    shift = best_shift(values[:, 0, ...], ops=ops)
    centre = minus_identity(values[:, 0, ...], shift, ops=ops)[:, None, ...]
    return rounding.up(shift + _sum_of_norms(xp.concat([centre, values[:, 1:, ...]], axis=1), xp=xp) + error, 4, xp=xp)


def _sum_of_norms(values: Array, *, xp: Namespace) -> Array:
    """Sum (b,) of the Frobenius norms of all lags, from those of a half, rounded up."""
    norms = _frobenius(values, xp=xp)
    total = norms[:, 0] + 2 * xp.sum(norms[:, 1:], axis=1)
    return rounding.up(total, values.shape[-1] ** 2 + norms.shape[1] + 4, xp=xp)


def _frobenius(a: Array, *, xp: Namespace) -> Array:
    flat = xp.reshape(a, (*a.shape[:-2], -1))
    return xp.sqrt(xp.vecdot(flat, flat))
