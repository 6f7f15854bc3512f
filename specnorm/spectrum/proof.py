"""Proven lower bounds of all singular values of matrices, from their approximate factors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from specnorm.backends import arrays
from specnorm.proofs import norms, rounding

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps


def singular_values_down(
    a: Array,
    factors: tuple[Array, Array, Array],
    error: Array,
    *,
    ops: ArrayOps,
) -> Array:
    """Proven lower bounds of the singular values of matrices A (..., m, n), from approximate factors U, S, V*.

    ``sigma_j(U S V*) >= s_j sigma_min(U) sigma_min(V)``, where ``sigma_min(U)**2 >= 1 - ||U*U - I||``, and the singular
    values of A differ from those of U S V* by at most ``||A - U S V*||`` (Weyl).

    ``factors`` (..., m, r), (..., r) and (..., r, n): with r = min(m, n) and descending numbers. Any factors are valid.
    ``error`` (...,): bound of the norm of the error of the matrices. Returns (..., r).
    """
    xp = ops.xp
    u, s, vh = factors
    r = int(s.shape[-1])
    eye = xp.eye(r, dtype=a.dtype, device=ops.device(a))

    def smallest_sq_down(q: Array) -> Array:
        gram_error = rounding.product_error(q.shape[-2], q, xp=xp) * rounding.SLACK * norms.frobenius_up(q, xp=xp) ** 2
        defect = norms.frobenius_up(xp.matmul(arrays.adjoint(q, xp=xp), q) - eye, xp=xp) + gram_error
        square = 1 - rounding.up(defect, 6, xp=xp)
        return xp.where(square > 0, square, xp.zeros_like(square))

    shrinkage = rounding.down(xp.sqrt(smallest_sq_down(u) * smallest_sq_down(arrays.adjoint(vh, xp=xp))), 6, xp=xp)
    scaled = u * xp.astype(s, u.dtype)[..., None, :]
    product_error = (rounding.product_error(r, scaled, xp=xp) + 4 * rounding.unit(s, xp=xp)) * rounding.SLACK
    distance = norms.frobenius_up(a - xp.matmul(scaled, vh), xp=xp)
    distance = distance + product_error * norms.frobenius_up(scaled, xp=xp) * norms.frobenius_up(vh, xp=xp) + error
    values = rounding.down(s * shrinkage[..., None], 2, xp=xp) - rounding.up(distance, 8, xp=xp)[..., None]
    return xp.where(values > 0, values, xp.zeros_like(values))
