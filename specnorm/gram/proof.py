"""Norms of channels by the lags of the Gram polynomial, whose sums bound the norm of a kernel with divided channels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from specnorm.backends import arrays
from specnorm.proofs import rounding
from specnorm.symbols.proofs.lags import Lags
from specnorm.symbols.proofs.polynomial import Polynomial

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps


def divisors(
    norms: Array,
    shape: tuple[int, ...],
    precision: tuple[float, float],
    *,
    xp: Namespace,
) -> Array:
    """Channel norms, raised so that a kernel divided by them has a norm of at most 1 with its quotients rounded.

    The exact quotient K' has a norm of at most 1 at every frequency and so ``||K'||_F**2 <= p``, p the smaller channel
    count of a group. The roundings of its entries, relative ones of at most u, add at most
    ``u || sum_k |K'_k| || <= u sqrt(taps p)`` to the norm. The norms are raised by twice that.

    ``shape``: of the kernel of a group. ``precision``: machine epsilon and smallest normal number of the quotients.
    """
    eps, tiny = precision
    taps = math.prod(shape[2:])
    quotients = 2 * eps * (math.sqrt(taps * min(shape[:2])) + 2)
    underflow = tiny * taps * math.sqrt(shape[0] * shape[1])
    lift = 1 + quotients + underflow
    # A zero channel stays zero.
    return xp.where(norms > 0, norms * lift, 1.0)


def lag_norms(blocks: Array, *, ops: ArrayOps) -> tuple[Array, Array, Array]:
    """Norms of the channels, ``d_i = sqrt(sum_{j,d} |R_d[i, j]|)`` with R_d the lags of ``G*G``, rounded up.

    With ``A = sum_k |K_k|`` the errors of channel i add up to at most gamma of the roundings of a lag times entry i of
    ``A^T A 1``. Returns ``norms`` (b, p); ``sums`` (b, p): of which they are roots; ``lags`` (b, n, p, p): R_d for d of
    `Lags.points`.
    """
    xp = ops.xp
    wide = arrays.tall(blocks, xp=xp)
    if not (ops.exact_float32 and wide.dtype == xp.float32):
        wide = arrays.in_wide_dtype(wide, ops=ops)
    m, p, *kernel_shape = wide.shape[1:]
    u = rounding.unit(wide, xp=xp)
    polynomial = Polynomial(wide, xp=xp)
    lags = Lags.products(wide, wide, ops=ops)
    magnitudes = xp.abs(lags)
    # Lags -d have the transposed matrices.
    other_lags = xp.sum(magnitudes[:, 1:, ...], axis=1)
    sums = xp.sum(magnitudes[:, 0, ...], axis=2) + xp.sum(other_lags, axis=2) + xp.sum(other_lags, axis=1)
    a = polynomial.sums_of_magnitudes
    products = xp.matmul(xp.matrix_transpose(a), xp.sum(a, axis=2)[..., None])[..., 0]
    relative = rounding.SLACK * rounding.gamma(Lags.roundings(wide, xp=xp), u)
    # Products below the smallest normal number may be flushed to 0.
    underflow = m * p * 2.0 ** len(kernel_shape) * polynomial.taps**2 * float(xp.finfo(wide.dtype).smallest_normal)
    error = rounding.up(products, 2 * polynomial.taps + m + p, xp=xp) * relative + underflow
    norms = rounding.up(xp.sqrt(rounding.up(sums, p + lags.shape[1] + 4, xp=xp) + error), 2, xp=xp)
    norms = xp.where(xp.max(a, axis=1) == 0, 0.0, norms)
    return norms, xp.where(sums > error, sums, 0.0), lags
