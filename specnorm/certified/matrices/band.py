"""Proofs about block tridiagonal matrices, by what a factorisation leaves over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from specnorm.certified import rounding
from specnorm.certified.matrices.norms import frobenius_up

if TYPE_CHECKING:
    from specnorm.certified.matrices.block_tridiagonal import Band
    from specnorm.types import Array, ArrayOps, Namespace


def band_norm_up(band: Band, limit: Array, *, ops: ArrayOps) -> Array:
    """The limit raised by a little where it is proven to bound ``lambda_max(H)``; else the largest number, shape (b,).

    With any L, ``x I - H = L L* + R`` has no eigenvalue below ``-||R||``, so ``lambda_max(H) <= x + ||R||``. L is lower
    block bidiagonal, from a block Cholesky factorisation, which need not be accurate: R is computed from it. A block
    tridiagonal R has at most the norm of its largest diagonal block and twice that of its largest other one.

    Parameters
    ----------
    band : Band
        Only the blocks on and below the diagonal are read.
    limit : array, shape (b,)
        x.
    """
    xp = ops.xp
    count, size = band.diagonal.shape[1], band.diagonal.shape[-1]
    u = rounding.unit(band.diagonal, xp=xp)
    eye = xp.eye(size, dtype=band.diagonal.dtype, device=ops.device(band.diagonal))
    shift = limit[:, None, None] * eye
    ok = limit > 0
    on_diagonal = beside = xp.zeros_like(limit)
    carried = before = xp.zeros_like(shift)
    for i in range(count):
        matrix = shift - band.diagonal[:, i, :, :]
        left = matrix - carried
        complete = ops.cholesky_ok(left)
        ok = ok & complete
        factor = xp.linalg.cholesky(xp.where(complete[:, None, None], left, eye))
        square = xp.matmul(factor, xp.matrix_transpose(factor))
        rest = matrix - square - carried
        # Products of at most `size` terms, two differences, and the shift of the diagonal.
        mass = frobenius_up(matrix, xp=xp) + _squared(factor, xp=xp) + _squared(before, xp=xp)
        mass = rounding.up(mass, 4, xp=xp)
        on_diagonal = xp.maximum(on_diagonal, _off(rest, mass, size, u, xp=xp))
        if i + 1 < count:
            below = -band.below[:, i, :, :]
            before = xp.matrix_transpose(xp.linalg.solve(factor, xp.matrix_transpose(below)))
            rest = below - xp.matmul(before, xp.matrix_transpose(factor))
            mass = rounding.up(frobenius_up(before, xp=xp) * frobenius_up(factor, xp=xp), 2, xp=xp)
            mass = rounding.up(mass + frobenius_up(below, xp=xp), 2, xp=xp)
            beside = xp.maximum(beside, _off(rest, mass, size, u, xp=xp))
            carried = xp.matmul(before, xp.matrix_transpose(before))
    proven = rounding.up(limit + on_diagonal + 2 * beside, 4, xp=xp)
    return xp.where(ok & (proven == proven), proven, xp.full_like(proven, float(xp.finfo(proven.dtype).max)))


def _squared(a: Array, *, xp: Namespace) -> Array:
    return rounding.up(frobenius_up(a, xp=xp) ** 2, 2, xp=xp)


def _off(rest: Array, mass: Array, size: int, u: float, *, xp: Namespace) -> Array:
    """Bound of a residual block's norm: as computed, and what its rounding may be. Overflow makes it no number."""
    return rounding.up(frobenius_up(rest, xp=xp) + rounding.SLACK * rounding.gamma(size + 4, u) * mass, 4, xp=xp)
