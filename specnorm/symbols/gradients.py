"""Gradients of norms with respect to blocks (b, m, p, *kernel_shape), through symbols, matrices and lags.

The *lags* of a kernel K are the taps of the kernel of K*K, one for each difference of two taps of K. No proof uses the
gradients.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from specnorm.backends import arrays
from specnorm.proofs.frequencies import half_grid_shape, halved_axis, tap_grid, tap_points
from specnorm.symbols.proofs.symbols import matrices_at, matrices_gradient

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace


def schatten_gradient(a: Array, value: Array, n_iter: int, *, xp: Namespace) -> Array:
    """Gradient ``A (A*A)**(2**n_iter - 1) / L**(2**(n_iter+1) - 1)`` of the Schatten norm L of order 2**(n_iter + 1).

    A is divided by L first, so that all powers stay below 1. The product is accumulated, so that the memory is that of
    three matrices for any ``n_iter``.

    Parameters
    ----------
    a : array, shape (..., m, n)
    value : array, shape (...)
        L.
    """
    positive_value = xp.where(value > 0, value, xp.ones_like(value))
    product = a / xp.astype(positive_value, a.dtype)[..., None, None]
    is_wide = a.shape[-1] > a.shape[-2]
    if is_wide:
        product = arrays.adjoint(product, xp=xp)
    if n_iter:
        power = xp.matmul(arrays.adjoint(product, xp=xp), product)
        product = xp.matmul(product, power)
    for _ in range(n_iter - 1):
        power = xp.matmul(power, power)
        product = xp.matmul(product, power)
    return arrays.adjoint(product, xp=xp) if is_wide else product


def powers_vjp(
    residuals: tuple[Array, ...],
    cotangent: Array,
    n_iter: int,
    *,
    xp: Namespace,
) -> Array:
    """Gradient of ``sum_i c_i s_i**(1 / 2**t)`` with respect to the blocks, with t = n_iter.

    Here ``s_i = sum_{j,m} |R_t[i, j, m]|`` for channel i of the blocks, where R_t[:, :, m] are the taps of the Gram
    power ``H_t = (G*G)**(2**(t-1))``; see `specnorm.gram.proofs.powers`. With constant signs s_i is linear in
    R_t, so its gradient with respect to H_t at a frequency is a matrix Gamma. Going back, the squaring H -> H**2 maps
    the gradient Gamma to Gamma H + H Gamma, and G -> G* G maps it to G (Gamma + Gamma*). Gamma is made Hermitian at the
    start, so that one product gives both terms. Frequencies are processed in chunks, since the p x p matrix of a single
    frequency takes up to half the memory of a 3x3 kernel.

    Parameters
    ----------
    residuals : tuple of arrays
        As `specnorm.gram.proofs.powers.powers_residuals` returns them, for c chunks of f frequencies and r channels:
        the blocks; the signs of R_t for these channels, as functions of the frequency (b, c, f, p, r); the selector
        (b, p, r), whose columns are those of the identity for these channels; the sums s_i (b, p); the phases
        (b, c, f, taps).
    cotangent : array, shape (b, p)
        c_i.
    """
    given, signs, selector, sums, phase = residuals
    blocks = arrays.tall(given, xp=xp)
    kernel_shape = blocks.shape[3:]
    kernel_dtype = arrays.complex_dtype(blocks.dtype, xp=xp)
    product_dtype = phase.dtype
    # The divisor is that of the inverse Fourier transform from frequencies to taps.
    slope = _slopes_of_roots(sums, cotangent, n_iter, xp=xp) / math.prod(tap_grid(tuple(kernel_shape), n_iter))
    right = xp.astype(xp.matrix_transpose(selector * slope[:, :, None]), product_dtype)[:, None, :, :]

    def symbol(phases: Array) -> Array:
        return xp.astype(matrices_at(blocks, phases, xp=xp), product_dtype, copy=False)

    def gradient_of_chunk(chunk: int) -> Array:
        phases = xp.astype(phase[:, chunk, :, :], kernel_dtype, copy=False)
        powers = []
        if n_iter > 1:
            g = symbol(phases)
            powers.append(xp.matmul(arrays.adjoint(g, xp=xp), g))
            del g
        for _ in range(n_iter - 2):
            powers.append(xp.matmul(powers[-1], powers[-1]))
        left = xp.astype(signs[:, chunk, ...], product_dtype, copy=False)
        gamma = xp.matmul(left, right)
        gamma += xp.matmul(arrays.adjoint(right, xp=xp), arrays.adjoint(left, xp=xp))
        while powers:
            gamma = xp.matmul(gamma, powers.pop())
            gamma += arrays.adjoint(gamma, xp=xp)
        gamma = xp.astype(xp.matmul(symbol(phases), gamma), kernel_dtype, copy=False)
        return matrices_gradient(gamma, phases, tuple(kernel_shape), xp=xp)

    gradient = gradient_of_chunk(0)
    for chunk in range(1, phase.shape[1]):
        # A loop frees each chunk's gradient before the next one is made; `reduce` would not.
        gradient += gradient_of_chunk(chunk)
    return arrays.from_tall(gradient, given, xp=xp)


_POINTS_AT_ONCE = 2**19
"""Frequencies, of all blocks together, that `scalar_powers_vjp` computes at once."""


def scalar_powers_vjp(
    residuals: tuple[Array, ...],
    cotangent: Array,
    n_iter: int,
    *,
    xp: Namespace,
) -> Array:
    """`powers_vjp` of blocks with one column: gradient of ``sum_b c_b s_b**(1 / 2**t)``.

    Let h be ``||G||**2`` at a frequency, and R the taps of ``h**(2**(t-1))``, the sum of whose magnitudes is s. With
    constant signs s is linear in ``h**(2**(t-1))``, and its slope there is the Fourier series of the signs. Everything
    is computed again from the blocks, so that nothing of the size of the grid is stored.

    Parameters
    ----------
    residuals : tuple of arrays
        Of `specnorm.gram.proofs.scalar_powers.scalar_norms`: the scaled blocks, and s (b,).
    cotangent : array, shape (b,)
        c.
    """
    blocks, sums = residuals
    columns = arrays.tall(blocks, xp=xp)
    slopes = _slopes_of_roots(sums, cotangent, n_iter, xp=xp)
    at_once = max(1, _POINTS_AT_ONCE // math.prod(tap_grid(tuple(columns.shape[3:]), n_iter)))
    gradients = []
    for start in range(0, columns.shape[0], at_once):
        part = slice(start, min(start + at_once, columns.shape[0]))
        gradients.append(_scalar_vjp(columns[part, ...], slopes[part], n_iter, xp=xp))
    gradient = xp.concat(gradients, axis=0)
    return arrays.from_tall(gradient, blocks, xp=xp)


def _scalar_vjp(blocks: Array, slopes: Array, n_iter: int, *, xp: Namespace) -> Array:
    """`scalar_powers_vjp` of some blocks, given the derivatives by their sums."""
    g, m, _, *kernel_shape = blocks.shape
    grid = tap_grid(tuple(kernel_shape), n_iter)
    halved = halved_axis(grid)
    counts = half_grid_shape(grid)
    to_points, to_taps = [], []
    for n, count, k in zip(grid, counts, kernel_shape, strict=True):
        to_points.append(_waves(blocks, count, k, n, xp=xp))
        to_taps.append(_waves(blocks, count, count, n, xp=xp))
    # Frequencies and taps that stand for their mirror images, too, have weight 2: all but the first on the halved axis.
    index = arrays.numbers(blocks, counts[halved], xp=xp)
    shape = [1] * (1 + len(grid))
    shape[1 + halved] = counts[halved]
    weights = xp.reshape(1 + xp.astype(index > 0, blocks.dtype), tuple(shape))
    parts = arrays.fourier_sums(xp.reshape(blocks, (g * m, 1, *kernel_shape)), to_points, xp=xp)
    squares = xp.reshape(xp.sum(xp.reshape(parts, (g, 2 * m, -1)) ** 2, axis=1), (g, *counts))
    # The last power, and the slope of that power by h.
    power, slope = squares, xp.ones_like(squares)
    for _ in range(n_iter - 1):
        slope = 2 * slope * power
        power = power * power
    halved_first = [halved, *(axis for axis in range(len(grid)) if axis != halved)]
    back = arrays.inverse_permutation(halved_first)

    def even_series(x: Array) -> Array:
        """The real part of the Fourier series over a whole grid, of an even x on half of it."""
        ordered = xp.permute_dims(x * weights, (0, *(1 + axis for axis in halved_first)))
        tables = [to_taps[axis] for axis in halved_first]
        series = arrays.fourier_sums(xp.reshape(ordered, (g, 1, *ordered.shape[1:])), tables, is_real=True, xp=xp)
        return xp.permute_dims(xp.reshape(series, ordered.shape), (0, *(1 + axis for axis in back)))

    slope = slope * even_series(xp.sign(even_series(power))) * weights / math.prod(grid)
    slope = slope * xp.reshape(xp.astype(slopes, slope.dtype), (g,) + (1,) * len(grid))
    # By the real and the imaginary part of G, and from there to the taps: with the phases' conjugates.
    by_parts = xp.reshape(parts, (g, m, 2, *counts)) * (2 * slope)[:, None, None, ...]
    adjoint_tables = [(xp.matrix_transpose(cos), -xp.matrix_transpose(sin)) for cos, sin in to_points]
    gradient = arrays.fourier_sums(xp.reshape(by_parts, (g * m, 2, *counts)), adjoint_tables, is_real=True, xp=xp)
    return xp.reshape(gradient, blocks.shape)


def _waves(like: Array, points: int, taps: int, n: int, *, xp: Namespace) -> tuple[Array, Array]:
    """Cosines and sines of ``2 pi j k / n``, shape (points, taps); no proof rests on them."""
    steps = arrays.numbers(like, points, xp=xp)[:, None] * arrays.numbers(like, taps, xp=xp)
    angle = xp.remainder(steps, xp.full_like(steps, float(n))) * (2 * math.pi / n)
    return xp.cos(angle), xp.sin(angle)


def _slopes_of_roots(sums: Array, cotangent: Array, n_iter: int, *, xp: Namespace) -> Array:
    """Derivative of ``sum_i c_i s_i**(1 / 2**t)`` with respect to the sums s (b, p); 0 where a sum is 0."""
    root = 2.0**-n_iter
    safe = xp.where(sums > 0, sums, xp.ones_like(sums))
    slope = xp.astype(cotangent, sums.dtype) * root * xp.pow(safe, xp.full_like(safe, root - 1))
    return xp.where(sums > 0, slope, xp.zeros_like(sums))


def one_product_vjp(residuals: tuple[Array, ...], cotangent: Array, *, xp: Namespace) -> Array:
    """`powers_vjp` for n_iter = 1, where the value came from lags (`gram_powers.lag_norms`) instead of frequencies.

    Parameters
    ----------
    residuals : tuple of arrays
        The blocks; the signs of R_1 (b, L, p, p), for half of the lags; the sums s_i (b, p).
    cotangent : array, shape (b, p)
        c_i.
    """
    blocks, signs, sums = residuals
    safe = xp.where(sums > 0, sums, xp.ones_like(sums))
    slope = xp.where(sums > 0, xp.astype(cotangent, sums.dtype) / (2 * xp.sqrt(safe)), xp.zeros_like(sums))
    # A lag and its negative together add ``(w_i + w_j) |R_lag[i, j]|`` to the sum of ``w_i s_i``.
    weights = xp.astype(slope, signs.dtype) / 2
    slopes = signs * (weights[:, None, :, None] + weights[:, None, None, :])
    gradient = lags_vjp(arrays.tall(blocks, xp=xp), slopes, xp=xp)
    return arrays.from_tall(gradient, blocks, xp=xp)


def lags_vjp(blocks: Array, slopes: Array, *, xp: Namespace) -> Array:
    """Gradient of a function of the lags ``R_t = sum_y K_y^T K_{y+t}`` of blocks: ``2 sum_y K_y D_{z-y}`` at tap z.

    Parameters
    ----------
    blocks : array, shape (b, m, p, *kernel_shape)
        K.
    slopes : array, shape (b, L, p, p)
        D, the derivatives by half of the lags (`specnorm.proofs.frequencies.half_lags`), such that ``D_{-t} = D_t^T``
        are those by the others.
    """
    b, m, p, *kernel_shape = blocks.shape
    first, *others = kernel_shape or [1]
    count = math.prod(others)
    slopes = xp.astype(slopes, blocks.dtype, copy=False)
    positive = slopes[:, 1:, ...]
    # D_{-t} for all lags t in row-major order, from the most negative one.
    table = xp.concat([xp.flip(positive, axis=1), slopes[:, :1, ...], xp.matrix_transpose(positive)], axis=1)
    table = xp.reshape(table, (b, *(2 * k - 1 for k in (first, *others)), p, p))
    # The lags between a tap and all others are a box of the table. The taps of the first axis are taken one after the
    # other, those of the other axes at once, as columns.
    columns = []
    for position in tap_points(tuple(others)).tolist():
        lags = tuple(slice(k - 1 - tap, 2 * k - 1 - tap) for tap, k in zip(position, others, strict=True))
        columns.append(xp.reshape(table[(slice(None), slice(None), *lags, ...)], (b, 2 * first - 1, count * p, p)))
    by_first_lag = xp.concat(columns, axis=3)
    flat = xp.reshape(xp.permute_dims(xp.reshape(blocks, (b, m, p, -1)), (0, 1, 3, 2)), (b, m, -1))
    gradients = []
    for tap in range(first):
        lags_of_tap = by_first_lag[:, first - 1 - tap : 2 * first - 1 - tap, ...]
        gradients.append(xp.matmul(flat, xp.reshape(lags_of_tap, (b, -1, count * p))))
    by_tap = xp.reshape(xp.stack(gradients, axis=2), (b, m, first * count, p))
    return 2 * xp.reshape(xp.permute_dims(by_tap, (0, 1, 3, 2)), blocks.shape)
