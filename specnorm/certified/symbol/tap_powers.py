"""Powers of the Gram matrix of a convolution on the grid of their own taps: grid, transforms, gradients.

``H_t = (G* G)**(2**(t-1))`` has ``2**t (k_j - 1) + 1`` taps an axis. On a grid of as many points nothing aliases, so
that its taps R_t are the inverse Fourier transform of its values there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specnorm import arrays
from specnorm.certified.symbol import gradients, symbols
from specnorm.problem.frequencies import cos_sin, half_grid, phases, tap_grid, tap_points

if TYPE_CHECKING:
    from specnorm.types import Array, ArrayOps, Namespace


def tables(grid: tuple[int, ...]) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """Multiplicity of each frequency of the half grid; for each axis that times ``e^{-2 pi i m j / N}``, m by j."""
    if not grid:
        return np.ones(1), []
    halved = int(np.argmax(grid))
    counts = [n // 2 + 1 if axis == halved else n for axis, n in enumerate(grid)]
    place = np.indices(counts)[halved].reshape(-1)
    tables = []
    for n, count in zip(grid, counts, strict=True):
        cos, sin = cos_sin(np.arange(n)[:, None] * np.arange(count)[None, :], n)
        # Every axis is odd: off zero on the halved axis, a frequency stands for its mirror image too.
        weights = np.where((np.arange(count) > 0) & (count < n), 2.0, 1.0)
        tables.append((cos * weights, -sin * weights))
    return np.where(place > 0, 2.0, 1.0), tables


def contract(x: Array, tables_: dict[int, Array], shape: list[int], *, xp: Namespace) -> Array:
    """Multiply tables onto axes of (b, prod(shape), p, r)."""
    b, _, p, r = x.shape
    sizes = list(shape)
    for axis, table in tables_.items():
        before, after = math.prod(sizes[:axis]), math.prod(sizes[axis + 1 :])
        x = xp.matmul(table, xp.reshape(x, (b, before, sizes[axis], after * p * r)))
        sizes[axis] = table.shape[0]
    return xp.reshape(x, (b, math.prod(sizes), p, r))


@dataclass(frozen=True, eq=False)
class GramTuning:
    """Memory of the engine: it decides on time and rounding.

    Parameters
    ----------
    backward_host, backward_device : int
        Bytes that a chunk of the backward may take even if the kernel is smaller. On the host a quarter MiB, which
        stays in the cache; on a device 16 MiB, as small launches wait for one another.
    forward_host : int
        Bytes of a chunk's matrices in the forward on the host.
    """

    backward_host: int = 2**18
    backward_device: int = 2**24
    forward_host: int = 2**23


TUNING = GramTuning()
_LEAST = 16
"""Frequencies of a chunk on the host."""


class TapGrid:
    """``H_t = (G* G)**(2**(t-1))`` of a stack of blocks: the grid of its own taps, and transforms to them.

    Parameters
    ----------
    blocks : array, shape (b, m, p, *kernel_shape)
        In the precision that is computed in.
    n_iter : int
        t >= 1.
    """

    def __init__(self, blocks: Array, n_iter: int, *, ops: ArrayOps) -> None:
        self.blocks, self.n_iter, self.xp, self.ops = blocks, n_iter, ops.xp, ops
        self.grid = tap_grid(tuple(blocks.shape[3:]), n_iter)
        self.points = half_grid(self.grid)
        host = np.float64 if blocks.dtype == self.xp.float64 else np.float32
        weights, host_tables = tables(self.grid)
        self.weights = ops.from_numpy(weights.astype(host), blocks)
        self.tables = [
            ops.complex(*(ops.from_numpy(np.ascontiguousarray(part.astype(host)), blocks) for part in table))
            for table in host_tables
        ]

    def chunks(self) -> Iterator[tuple[slice, symbols.Symbol]]:
        """Frequencies within the memory budget, on the host in the cache, with their place among all."""
        step = symbols.chunk_length(self.blocks, ops=self.ops)
        if self.ops.concrete and self.ops.on_host:
            # Each chunk reads all taps: with fewer frequencies at once, a product would be little more than that.
            step = min(step, max(_LEAST, TUNING.forward_host // (8 * math.prod(self.blocks.shape[:3]))))
        for start in range(0, len(self.points), step):
            part = slice(start, min(start + step, len(self.points)))
            yield part, symbols.Symbol(self.blocks, self.points[part], ops=self.ops)

    def transform(self, x: Array) -> Array:
        """Real part of the sum over the whole grid with ``e^{-i m.theta}``: (b, f, p, r) -> (b, taps, p, r).

        The halved axis comes last, where the products are fewest, and real.
        """
        xp, (b, _, p, r) = self.xp, x.shape
        if not self.grid:
            return xp.real(x)
        halved = int(np.argmax(self.grid))
        shape = [table.shape[1] for table in self.tables]
        others = {axis: table for axis, table in enumerate(self.tables) if axis != halved}
        x = contract(x, others, shape, xp=xp)
        before, after = math.prod(self.grid[:halved]), math.prod(self.grid[halved + 1 :]) * p * r
        x = xp.reshape(x, (b, before, shape[halved], after))
        table = self.tables[halved]
        table = xp.concat([xp.real(table), -xp.imag(table)], axis=1)
        taps = xp.matmul(table, xp.concat([xp.real(x), xp.imag(x)], axis=2))
        return xp.reshape(taps, (b, math.prod(self.grid), p, r))


def residuals(given: Array, grid: TapGrid, columns: Array, selector: Array, sums: Array) -> tuple[Array, ...]:
    """What `powers_vjp` needs: leading axis b, then the chunks of frequencies.

    Parameters
    ----------
    given : array, shape (b, cout, cin, *kernel_shape)
        The blocks as scaled, in the kernel's precision.
    columns, selector, sums : arrays, shapes (b, taps, p, r), (b, p, r) and (b, p)
        Some of the taps, of which channels they are, and the channels' sums.
    """
    xp, ops, b = grid.xp, grid.ops, columns.shape[0]
    # Every chunk is compiled by itself.
    step = _lean_step(given, ops=ops) if ops.concrete else symbols.chunk_length(given, ops=ops)
    chunks = -(-len(grid.points) // step)
    step = -(-len(grid.points) // chunks)
    wide = arrays.complex_dtype(sums.dtype, xp=xp)
    host = np.float64 if sums.dtype == xp.float64 else np.float32
    phase = ops.complex(*(ops.from_numpy(x.astype(host), sums) for x in phases(grid.points, given.shape[3:])))
    back = [xp.conj(xp.matrix_transpose(table)) for table in grid.tables]
    signs = xp.astype(xp.sign(columns), back[0].dtype if back else wide)
    hats = contract(signs, dict(enumerate(back)), [table.shape[1] for table in back], xp=xp)
    dtype = arrays.complex_dtype(given.dtype, xp=xp)

    def chunked(x: Array) -> Array:
        missing = chunks * step - x.shape[1]
        if missing:
            zeros = xp.zeros((b, missing, *x.shape[2:]), dtype=x.dtype, device=ops.device(x))
            x = xp.concat([x, zeros], axis=1)
        return xp.reshape(x, (b, chunks, step, *x.shape[2:]))

    phase = xp.broadcast_to(phase, (b, *phase.shape))
    return given, chunked(xp.astype(hats, dtype, copy=False)), selector, sums, chunked(phase)


def _lean_step(given: Array, *, ops: ArrayOps) -> int:
    """Frequencies whose matrices, five at a time, take what the kernel takes."""
    least = TUNING.backward_host if ops.on_host else TUNING.backward_device
    matrices = 5 * 16 * math.prod(given.shape[:3])
    return int(max(1, max(8 * math.prod(given.shape), least) // matrices))


def largest_square(blocks: Array, symbol: symbols.Symbol, *, xp: Namespace) -> Array:
    """Largest squared Frobenius norm of each block's symbol, from the inner products of its taps, shape (b,)."""
    flat = xp.reshape(blocks, (blocks.shape[0], -1, math.prod(blocks.shape[3:])))
    inner = xp.matmul(xp.matrix_transpose(flat), flat)
    squares = xp.sum(xp.matmul(symbol.cos, inner) * symbol.cos, axis=2)
    squares = squares + xp.sum(xp.matmul(symbol.sin, inner) * symbol.sin, axis=2)
    return xp.max(squares, axis=1)


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
        part = gradients.matrices_gradient(gamma, here, kernel_shape, xp=xp)
        del gamma
        if gradient is None:
            gradient = part
        else:
            gradient += part
        del part
    assert gradient is not None  # for the type checker: there are frequencies
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
