"""Proof by completion: the lags (`symbols.proofs.lags`) of K*K + H*H bound the norm of K, for any kernel H.

*Lemma.* Let K and H be kernels with the same number of input channels, and M_t the lags of K*K + H*H. Then at every
input size, circular or zero-padded, ``||K||**2 <= v + ||M_0 - v I|| + sum over t != 0 of ||M_t||`` for every number v.
*Proof.* Let F be the symbol of H. ``G*G <= G*G + F*F = sum_t M_t e^{i t theta} <= v I + ||M_0 - v I|| I + sum_{t != 0}
||M_t|| I``. The bound is valid for every H; a good H, found by search (`specnorm.completion.search`), makes it close.

`norms_up` takes Frobenius norms of the lags, and the v that minimizes the bound. The lags' own rounding errors are
bounded in `Polynomial.lags`.

References
----------
.. [1] Dritschel, "On factorization of trigonometric polynomials", Integral Equations Operator Theory 49, 2004 (an H
   exists for every bound above the norm).
.. [2] Dumitrescu, "Positive Trigonometric Polynomials and Signal Processing Applications", Springer, 2007.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from specnorm.backends import arrays
from specnorm.proofs import rounding
from specnorm.proofs.bound import ALL_FREQUENCIES, Uppers
from specnorm.symbols.proofs.lags import Lags
from specnorm.symbols.proofs.polynomial import Polynomial

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps
    from specnorm.symbols.proofs.lags import Lags


def norms_up(kernel_lags: Lags, completion_lags: Lags, *, ops: ArrayOps) -> tuple[Array, Array]:
    """Bounds of the norms of kernels K from the lags of K and of any H: the smaller of those with H and with H = 0.

    Returns ``norms`` (b,); ``helps`` (b,): whether the bound with H is the smaller one.
    """
    xp = ops.xp
    bound_sq_without = _norm_sq_up(kernel_lags.values, kernel_lags.error, ops=ops)
    # Each entry of the sum of both lags is rounded once; the sum of the norms of all lags bounds every symbol's norm.
    norms = _sum_of_norms(completion_lags.values, xp=xp) + _sum_of_norms(kernel_lags.values, xp=xp)
    sum_error = 2 * rounding.unit(bound_sq_without, xp=xp) * norms
    error = rounding.up(kernel_lags.error + completion_lags.error + sum_error, 4, xp=xp)
    bound_sq_with = _norm_sq_up(kernel_lags.values + completion_lags.values, error, ops=ops)
    helps = bound_sq_with < bound_sq_without  # False if H contains NaN
    bound_sq = xp.where(helps, bound_sq_with, bound_sq_without)
    return rounding.up(xp.sqrt(bound_sq), 2, xp=xp), helps


def bounds_by_completions(blocks: Array, completions: Array, exponents: Array, *, ops: ArrayOps) -> Uppers:
    """Bound the suprema of blocks times ``2**exponents`` (b,) by any kernels H, whose lags are computed here."""
    xp = ops.xp
    kernel_lags = Polynomial(arrays.tall(blocks, xp=xp), xp=xp).lags(wide=True, ops=ops)
    completion_lags = Polynomial(completions, xp=xp).lags(wide=True, ops=ops)
    scaled, _ = norms_up(kernel_lags, completion_lags, ops=ops)
    norms = arrays.unscale(scaled, xp.astype(exponents, scaled.dtype), xp=xp)
    # A product that is subnormal may have been rounded down, or to 0.
    smallest_normal = float(xp.finfo(norms.dtype).smallest_normal)
    norms = xp.where((scaled > 0) & (norms < 2 * smallest_normal), norms + smallest_normal, norms)
    return Uppers._by_rule(norms, ALL_FREQUENCIES, "norms of the lags of K*K + H*H")


def best_shift(matrices: Array, *, ops: ArrayOps) -> Array:
    """The numbers v (b,) that minimise ``v + ||M - v I||_F`` for matrices M (b, c, c).

    With m the mean of the diagonal of M and ``s = ||M - m I||_F``, v is ``m - s / sqrt(c (c - 1))``. The lemma holds
    for every v, so roundings here do not matter.
    """
    xp = ops.xp
    c = matrices.shape[-1]
    mean = xp.linalg.trace(matrices) / c
    if c == 1:
        return mean
    deviation = _frobenius(arrays.minus_identity(matrices, mean, ops=ops), xp=xp)
    return mean - deviation / math.sqrt(c * (c - 1))


def _norm_sq_up(values: Array, error: Array, *, ops: ArrayOps) -> Array:
    """The lemma's bound (b,) of ``||K||**2``, from the lags (b, n, c, c) of K*K + H*H and a bound of their error."""
    xp = ops.xp
    shift = best_shift(values[:, 0, ...], ops=ops)
    shifted_lag_0 = arrays.minus_identity(values[:, 0, ...], shift, ops=ops)[:, None, ...]
    norms = _sum_of_norms(xp.concat([shifted_lag_0, values[:, 1:, ...]], axis=1), xp=xp)
    return rounding.up(shift + norms + error, 4, xp=xp)


def _sum_of_norms(values: Array, *, xp: Namespace) -> Array:
    """Sum (b,) of the Frobenius norms of all lags t and -t, rounded up, from the half of them in (b, n, c, c)."""
    norms = _frobenius(values, xp=xp)
    total = norms[:, 0] + 2 * xp.sum(norms[:, 1:], axis=1)
    return rounding.up(total, values.shape[-1] ** 2 + norms.shape[1] + 4, xp=xp)


def _frobenius(a: Array, *, xp: Namespace) -> Array:
    flat = xp.reshape(a, (*a.shape[:-2], -1))
    return xp.sqrt(xp.vecdot(flat, flat))
