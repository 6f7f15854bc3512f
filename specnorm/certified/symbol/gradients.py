"""Gradients of what is computed of a symbol or a matrix. No proof needs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from specnorm import arrays

if TYPE_CHECKING:
    from specnorm.types import Array, Namespace


def symbol_gradient(u: Array, v: Array, phase: Array, kernel_shape: tuple[int, ...], *, xp: Namespace) -> Array:
    """Gradient of Re(u* G(theta) v) with respect to the blocks: Re(conj(u_o) v_i e^{i k.theta}).

    Parameters
    ----------
    u, v : arrays, shapes (b, r, m) and (b, r, p)
    phase : array, shape (b, r, taps)

    Returns
    -------
    array, shape (b, m, p, *kernel_shape)
        Summed over r.
    """
    b, r, m = u.shape
    p = v.shape[2]
    right = xp.reshape(v[:, :, :, None] * phase[:, :, None, :], (b, r, -1))
    # Re(conj(x) y) = Re x Re y + Im x Im y: one real product.
    u = xp.matrix_transpose(u)
    left = xp.concat([xp.real(u), xp.imag(u)], axis=2)
    total = xp.matmul(left, xp.concat([xp.real(right), xp.imag(right)], axis=1))
    return xp.reshape(total, (b, m, p, *kernel_shape))


def triple_gradient(
    u: Array, v: Array, phase: Array, cotangent: Array, kernel_shape: tuple[int, ...], *, xp: Namespace
) -> Array:
    """Gradient of a symbol's singular value with one triple and one frequency a block, times a cotangent (b,)."""
    u = u * xp.astype(cotangent, u.dtype)[:, None]
    return symbol_gradient(u[:, None, :], v[:, None, :], phase[:, None, :], kernel_shape, xp=xp)


def matrices_gradient(gamma: Array, phase: Array, kernel_shape: tuple[int, ...], *, xp: Namespace) -> Array:
    """Gradient with respect to the blocks of sum_f Re<Gamma_f, G(theta_f)>: Re(sum_f conj(Gamma_f) e^{i k.theta_f}).

    Parameters
    ----------
    gamma : array, shape (b, f, m, p)
    phase : array, shape (b, f, taps)
    """
    b, f, m, p = gamma.shape
    # Re(conj(x) y) = Re x Re y + Im x Im y: one real product.
    flat = xp.matrix_transpose(xp.reshape(gamma, (b, f, m * p)))
    left = xp.concat([xp.real(flat), xp.imag(flat)], axis=2)
    total = xp.matmul(left, xp.concat([xp.real(phase), xp.imag(phase)], axis=1))
    return xp.reshape(total, (b, m, p, *kernel_shape))


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
