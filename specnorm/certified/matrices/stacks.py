"""Proven bounds of the norm of each matrix of a stack: by its computed eigenvalue, and by Gram iteration."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from specnorm import arrays
from specnorm.certified import rounding
from specnorm.certified.matrices.norms import cholesky_loss, frobenius_up, gram_below

if TYPE_CHECKING:
    import numpy as np

    from specnorm.types import Array, ArrayOps, Namespace


def matrix_norm_up(a: Array, error: Array | float = 0.0, *, ops: ArrayOps) -> Array:
    """Proven upper bound of the spectral norm of each matrix of a stack.

    ``||A||**2 = lambda_max(A*A)``; the computed Gram matrix differs from A*A by at most `product_error` times
    ``||A||_F**2``, and `gram_below` proves a limit just above its computed largest eigenvalue: no eigenvalue routine is
    trusted. Where the proof fails the Frobenius norm is returned, which is always a bound.

    Parameters
    ----------
    a : array, shape (..., m, n)
        Scaled to about 1.
    error : array or float
        Bound on ``||A - a||`` for a matrix A of which ``a`` is a computed version; broadcasts with the result.
    """
    xp = ops.xp
    u = rounding.unit(a, xp=xp)
    size, length = min(a.shape[-2:]), max(a.shape[-2:])
    gram = arrays.gram_smaller(a, xp=xp)
    frobenius = frobenius_up(a, xp=xp)
    gram_error = rounding.up(frobenius**2, 4, xp=xp) * (rounding.SLACK * rounding.product_error(length, a, xp=xp))
    estimate = xp.linalg.eigvalsh((gram + arrays.adjoint(gram, xp=xp)) / 2)[..., -1]
    # Twice the loss of the proof: once for it, once for what the factorisation itself needs.
    lift = 1 + 2 * size * cholesky_loss(size, a, xp=xp) + 16 * u
    limit = xp.maximum(estimate, xp.zeros_like(estimate)) * lift
    proven = gram_below(gram, limit, ops=ops)
    bound = rounding.up(xp.sqrt(xp.where(proven, limit + gram_error, frobenius**2)), 6, xp=xp)
    # A zero matrix leaves nothing to a proof by factorisation and needs none.
    return rounding.up(xp.where(frobenius > 0, bound, xp.zeros_like(bound)) + error, 2, xp=xp)


def gram_iteration_up(a: Array, n_iter: int, error: Array | float = 0.0, *, xp: Namespace) -> Array:
    """Proven upper bounds, shape (...), of the norms of matrices by so many Gram products: `GramIterates`.

    None is the Frobenius norm; ``error`` is that of `matrix_norm_up`.
    """
    if a.shape[-1] > a.shape[-2]:
        a = xp.matrix_transpose(a)
    iterates = GramIterates(a, xp=xp)
    for _ in range(n_iter):
        iterates.square()
    return rounding.up(iterates.norms_up() + error, 2, xp=xp)


class GramIterates:
    """Gram iteration of a stack of matrices, product by product, with a proven bound of their norms after each.

    ``B_0 = A``, ``B_{t+1} = fl(B_t* B_t)`` after a rescaling by a power of two; then, backwards,
    ``U_T = ||B_T||_F`` and, as ``||B_t||**2 = ||B_t* B_t||``, ``U_t = sqrt(U_{t+1} + e ||B_t||_F**2)`` with e the error
    of the product (Delattre et al., ICML 2023, theorem 1, with rounding added).

    Parameters
    ----------
    a : array, shape (..., m, n)
        Scaled to about 1; or an error is added to the bounds that covers squares which vanish.
    """

    def __init__(self, a: Array, *, xp: Namespace) -> None:
        self._xp, self._current, self._frobenius = xp, a, frobenius_up(a, xp=xp)
        self._history: list[tuple[Array, Array]] = []

    def square(self) -> None:
        """One more product."""
        xp, norm = self._xp, self._frobenius
        exponent = xp.floor(xp.log2(xp.where(norm > 0, norm, xp.ones_like(norm))))
        # A symbol can cancel down to subnormal numbers, whose inverse would overflow.
        limit = math.log2(float(xp.finfo(norm.dtype).max)) - 2
        exponent = xp.clip(exponent, -limit, limit)
        factor = arrays.power_of_two(-exponent, xp=xp)
        a = self._current * xp.astype(factor, self._current.dtype)[..., None, None]
        lost = rounding.up((norm * factor) ** 2, 2, xp=xp) * rounding.SLACK
        self._history.append((exponent, lost * rounding.product_error(a.shape[-2], a, xp=xp)))
        self._current = xp.matmul(arrays.adjoint(a, xp=xp), a)
        self._frobenius = frobenius_up(self._current, xp=xp)

    def norms_up(self) -> Array:
        """Proven upper bounds of the matrices' norms, shape (...)."""
        bound = self._frobenius
        for exponent, lost in reversed(self._history):
            root = rounding.up(self._xp.sqrt(bound + lost), 4, xp=self._xp)
            bound = arrays.unscale(root, exponent, xp=self._xp)
        return bound

    def take(self, index: np.ndarray, *, ops: ArrayOps) -> None:
        """Go on with some matrices of a stack (f, m, n), by their numbers on the host."""
        self._current, self._frobenius = (arrays.rows(x, index, ops=ops) for x in (self._current, self._frobenius))
        self._history = [(arrays.rows(x, index, ops=ops), arrays.rows(y, index, ops=ops)) for x, y in self._history]
