"""Gradients of Schatten norms of even order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from specnorm import arrays

if TYPE_CHECKING:
    from specnorm.types import Array, Namespace


def schatten_gradient(a: Array, value: Array, n_iter: int, *, xp: Namespace) -> Array:
    """Gradient A (A*A)**(2**n_iter - 1) / L**(2**(n_iter+1) - 1) of the Schatten norm L, for stacks (..., m, n).

    Everything is divided by L first, so the powers stay below 1. One running product: memory does not grow with the
    iterations, and is that of three such matrices.
    """
    safe = xp.where(value > 0, value, xp.ones_like(value))
    total = a / xp.astype(safe, a.dtype)[..., None, None]
    wide = a.shape[-1] > a.shape[-2]
    if wide:
        total = arrays.adjoint(total, xp=xp)
    if n_iter:
        power = xp.matmul(arrays.adjoint(total, xp=xp), total)
        total = xp.matmul(total, power)
    for _ in range(n_iter - 1):
        power = xp.matmul(power, power)
        total = xp.matmul(total, power)
    return arrays.adjoint(total, xp=xp) if wide else total
