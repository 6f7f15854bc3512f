"""Gradients of what is computed of a symbol or a matrix. No proof needs them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from specnorm import arrays
from specnorm.problem.frequencies import tap_grid, tap_points

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace


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


def powers_vjp(residuals: tuple[Array, ...], cotangent: Array, n_iter: int, *, xp: Namespace) -> Array:
    """Gradient with respect to the blocks of ``sum_i c_i (sum |R_t[:, i, :]|)**(1 / 2**t)`` over the selected channels.

    Signs held fixed, the sum is linear in R_t, that is in H_t at every frequency; each squaring H -> H**2 takes
    a gradient Gamma to Gamma H + H Gamma, and G -> G* G to G (Gamma + Gamma*). That sum is Hermitian from the start,
    so one product serves both terms. Few frequencies at a time: a matrix of one is half as large as a 3x3 kernel.

    Parameters
    ----------
    residuals : tuple of arrays
        From `residuals`.
    cotangent : array, shape (b, p)
    """
    blocks, hats, selector, sums, phase = residuals
    wide = blocks.shape[1] < blocks.shape[2]
    blocks = arrays.tall(blocks, xp=xp)
    b, m, p = blocks.shape[:3]
    kernel_shape = tuple(blocks.shape[3:])
    narrow, broad = arrays.complex_dtype(blocks.dtype, xp=xp), phase.dtype
    root = 2.0**-n_iter
    safe = xp.where(sums > 0, sums, xp.ones_like(sums))
    slope = xp.astype(cotangent, sums.dtype) * root * xp.pow(safe, xp.full_like(safe, root - 1))
    slope = xp.where(sums > 0, slope, xp.zeros_like(sums)) / math.prod(tap_grid(kernel_shape, n_iter))
    right = xp.astype(xp.matrix_transpose(selector * slope[:, :, None]), broad)[:, None, :, :]
    flat = xp.permute_dims(xp.reshape(blocks, (b, m * p, -1)), (0, 2, 1))

    def symbol(phases: Array) -> Array:
        g = xp.matmul(xp.real(phases), flat) + 1j * xp.matmul(xp.imag(phases), flat)
        return xp.reshape(xp.astype(g, broad, copy=False), (b, -1, m, p))

    def gradient_at(chunk: int) -> Array:
        here = xp.astype(phase[:, chunk, :, :], narrow, copy=False)
        g = symbol(here)
        powers = [xp.matmul(arrays.adjoint(g, xp=xp), g)] if n_iter > 1 else []
        del g
        for _ in range(n_iter - 2):
            powers.append(xp.matmul(powers[-1], powers[-1]))
        left = xp.astype(hats[:, chunk, ...], broad, copy=False)
        gamma = xp.matmul(left, right)
        gamma += xp.matmul(arrays.adjoint(right, xp=xp), arrays.adjoint(left, xp=xp))
        while powers:
            gamma = xp.matmul(gamma, powers.pop())
            gamma += arrays.adjoint(gamma, xp=xp)
        gamma = xp.astype(xp.matmul(symbol(here), gamma), narrow, copy=False)
        return matrices_gradient(gamma, here, kernel_shape, xp=xp)

    gradient = gradient_at(0)
    for chunk in range(1, phase.shape[1]):
        gradient += gradient_at(chunk)  # the last one is freed before the next is made, which `reduce` does not do
    return arrays.swapped(gradient, xp=xp) if wide else gradient


def first_vjp(residuals: tuple[Array, ...], cotangent: Array, *, xp: Namespace) -> Array:
    """`powers_vjp` after one product: gradient of ``sum_i c_i (sum |R_1[:, i, :]|)**(1/2)``, by lags.

    Parameters
    ----------
    residuals : tuple of arrays
        Blocks, signs (b, L, p, p) of R_1 and sums (b, p).
    cotangent : array, shape (b, p)
    """
    blocks, signs, sums = residuals
    safe = xp.where(sums > 0, sums, xp.ones_like(sums))
    slope = xp.where(sums > 0, xp.astype(cotangent, sums.dtype) / (2 * xp.sqrt(safe)), xp.zeros_like(sums))
    gradient = absolute_sums_vjp(arrays.tall(blocks, xp=xp), signs, xp.astype(slope, signs.dtype), xp=xp)
    return arrays.swapped(gradient, xp=xp) if blocks.shape[1] < blocks.shape[2] else gradient


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
    for place in tap_points(shape).tolist():
        box = tuple(slice(k - 1 - at, 2 * k - 1 - at) for at, k in zip(place, shape, strict=True))
        found.append(xp.matmul(flat, xp.reshape(table[(slice(None), *box)], (b, count * p, p))))
    del table, flat
    return xp.reshape(xp.stack(found, axis=-1), blocks.shape)
