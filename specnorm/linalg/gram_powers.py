"""Powers of the Gram matrix of a convolution on the grid of their own taps: grid, transforms, gradients.

``H_t = (G* G)**(2**(t-1))`` has ``2**t (k_j - 1) + 1`` taps an axis. On a grid of as many points nothing aliases, so
that its taps R_t are the inverse Fourier transform of its values there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm.linalg import arrays, symbols
from specnorm.linalg.frequencies import cos_sin

if TYPE_CHECKING:
    from specnorm.types import Array, Namespace


def tap_grid(kernel_shape: tuple[int, ...], n_iter: int) -> tuple[int, ...]:
    """Taps an axis after so many products."""
    return tuple(2**n_iter * (k - 1) + 1 for k in kernel_shape)


def tall(blocks: Array, *, xp: Namespace) -> Array:
    """Swap the channels where there are fewer outputs: conj(G G*) instead of G* G, the same norm."""
    return swapped(blocks, xp=xp) if blocks.shape[1] < blocks.shape[2] else blocks


def swapped(blocks: Array, *, xp: Namespace) -> Array:
    """Blocks with output and input channels exchanged."""
    return xp.permute_dims(blocks, (0, 2, 1, *range(3, blocks.ndim)))


def tables(grid: tuple[int, ...]) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """Multiplicity of each frequency of the half grid; for each axis ``e^{-2 pi i m j / N}``, taps m by points j."""
    if not grid:
        return np.ones(1), []
    halved = int(np.argmax(grid))
    counts = [n // 2 + 1 if axis == halved else n for axis, n in enumerate(grid)]
    place = np.indices(counts)[halved].reshape(-1)
    tables = []
    for n, count in zip(grid, counts, strict=True):
        cos, sin = cos_sin(np.arange(n)[:, None] * np.arange(count)[None, :], n)
        tables.append((cos, -sin))
    # Every axis is odd: off zero on the halved axis, a frequency stands for its mirror image too.
    return np.where(place > 0, 2.0, 1.0), tables


def contract(x: Array, tables_: list[Array], shape: list[int], *, xp: Namespace) -> Array:
    """Multiply a table onto each axis of (b, prod(shape), p, r)."""
    b, _, p, r = x.shape
    sizes = list(shape)
    for axis, table in enumerate(tables_):
        before, after = math.prod(sizes[:axis]), math.prod(sizes[axis + 1 :])
        x = xp.matmul(table, xp.reshape(x, (b, before, sizes[axis], after * p * r)))
        sizes[axis] = table.shape[0]
    return xp.reshape(x, (b, math.prod(sizes), p, r))


def powers_vjp(residuals: tuple[Array, ...], cotangent: Array, n_iter: int, *, xp: Namespace) -> Array:
    """Gradient with respect to the blocks of ``sum_i c_i (sum |R_t[:, i, :]|)**(1 / 2**t)`` over the selected channels.

    Signs held fixed, the sum is linear in R_t, that is in H_t at every frequency; each squaring H -> H**2 takes
    a gradient Gamma to Gamma H + H Gamma, and G -> G* G to G (Gamma + Gamma*). That sum is Hermitian from the start,
    so one product serves both terms. Few frequencies at a time: a matrix of one is half as large as a 3x3 kernel.

    Parameters
    ----------
    residuals : tuple of arrays
        From `proof.gram_powers.Powers.residuals`.
    cotangent : array, shape (b, p)
    """
    blocks, hats, selector, sums, phase = residuals
    wide = blocks.shape[1] < blocks.shape[2]
    blocks = tall(blocks, xp=xp)
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

    gradient: Array | None = None
    for chunk in range(phase.shape[1]):
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
        part = symbols.matrices_gradient(gamma, here, kernel_shape, xp=xp)
        del gamma
        if gradient is None:
            gradient = part
        else:
            gradient += part
        del part
    assert gradient is not None  # for the type checker: there are frequencies
    return swapped(gradient, xp=xp) if wide else gradient


def sums_vjp(blocks: Array, cotangent: Array, *, xp: Namespace) -> Array:
    """Gradient of ``sqrt(largest row sum * largest column sum)`` of sum_k |K_k|."""
    b, m, p = blocks.shape[:3]
    sums = xp.sum(xp.reshape(xp.abs(blocks), (b, m, p, -1)), axis=-1)
    rows, columns = xp.sum(sums, axis=2), xp.sum(sums, axis=1)
    row, column = xp.max(rows, axis=1, keepdims=True), xp.max(columns, axis=1, keepdims=True)
    safe = xp.where(row > 0, row * column, xp.ones_like(row))
    first = xp.astype(rows == row, blocks.dtype)
    second = xp.astype(columns == column, blocks.dtype)
    first = first / xp.sum(first, axis=1, keepdims=True)
    second = second / xp.sum(second, axis=1, keepdims=True)
    slope = (first * column)[:, :, None] + (second * row)[:, None, :]
    slope = slope * (cotangent[:, None] / (2 * xp.sqrt(safe)))[:, :, None]
    return xp.sign(blocks) * xp.reshape(slope, (b, m, p) + (1,) * (blocks.ndim - 3))
