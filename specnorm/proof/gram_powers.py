"""Powers of the Gram matrix of a convolution at the frequencies of its own taps, and the sums that bound its norm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specnorm.linalg import arrays, symbols
from specnorm.linalg.frequencies import half_grid
from specnorm.linalg.gram_powers import contract, tables, tall, tap_grid
from specnorm.proof import matrices, rounding, trigonometric

if TYPE_CHECKING:
    from specnorm.types import Array, ArrayOps, Namespace


@dataclass(frozen=True, eq=False)
class GramTuning:
    """Memory of the engine: it decides on time and rounding.

    Parameters
    ----------
    backward_host, backward_device : int
        Bytes that a chunk of the backward may take even if the kernel is smaller. On the host a quarter MiB, which
        stays in the cache; on a device 16 MiB, as small launches wait for one another.
    """

    backward_host: int = 2**18
    backward_device: int = 2**24


TUNING = GramTuning()


class Powers:
    """``H_t = (G* G)**(2**(t-1))`` of a stack of blocks on the grid of its own taps, and those taps.

    Parameters
    ----------
    blocks : array, shape (b, cout, cin, *kernel_shape)
        In the kernel's precision; all is computed in the widest. With fewer outputs than inputs, G G* takes the place
        of G* G.
    n_iter : int
        t >= 1.
    """

    def __init__(self, blocks: Array, n_iter: int, *, ops: ArrayOps) -> None:
        xp = ops.xp
        self.n_iter, self.xp, self.ops = n_iter, ops.xp, ops
        given, blocks = blocks, arrays.in_wide_dtype(tall(blocks, xp=xp), ops=ops)
        self.grid = tap_grid(tuple(blocks.shape[3:]), n_iter)
        self.points = half_grid(self.grid)

        def frobenius(symbol: symbols.Symbol) -> Array:
            return matrices.frobenius_up(symbol.matrices(), xp=xp)

        # Powers of matrices with a Frobenius norm of at most 1 stay so.
        largest, _ = symbols.largest(frobenius, blocks, self.points, ops=ops)
        self.exponent = xp.floor(xp.log2(xp.where(largest > 0, largest, xp.ones_like(largest)))) + 1
        factor = arrays.power_of_two(-self.exponent, xp=xp)
        factor = xp.reshape(factor, (-1,) + (1,) * (blocks.ndim - 1))
        self.blocks, self.given = blocks * factor, given * xp.astype(factor, given.dtype)
        host = np.float64 if blocks.dtype == xp.float64 else np.float32
        weights, host_tables = tables(self.grid)
        self.weights = ops.from_numpy(weights.astype(host), blocks)
        self.tables = [
            ops.complex(*(ops.from_numpy(np.ascontiguousarray(part.astype(host)), blocks) for part in table))
            for table in host_tables
        ]

    def chunks(self) -> Iterator[tuple[slice, symbols.Symbol]]:
        """Frequencies within the memory budget, with their place among all."""
        step = symbols.chunk_length(self.blocks, ops=self.ops)
        for start in range(0, len(self.points), step):
            part = slice(start, min(start + step, len(self.points)))
            yield part, symbols.Symbol(self.blocks, self.points[part], ops=self.ops)

    def channel_norms(self) -> tuple[Array, Array, Array | None]:
        """Norms d_i rounded up (b, p), the scaled sums they come from (b, p), and the taps if they fit the budget."""
        xp, (b, _, p) = self.xp, self.blocks.shape[:3]
        width = max(1, min(p, self.ops.memory // (64 * b * math.prod(self.grid) * p)))
        rows: Array | float = 0.0
        columns, kept = [], None
        for start in range(0, p, width):
            taps, error = self._taps(slice(start, min(start + width, p)))
            magnitude = xp.sum(xp.abs(taps), axis=1)
            rows = rows + xp.sum(magnitude, axis=2)
            columns.append(xp.sum(magnitude, axis=1))
            kept = taps if width == p else None
        sums = (rows + xp.concat(columns, axis=1)) / 2
        norms = rounding.up(sums, math.prod(self.grid) + p + 2, xp=xp) + error[:, None]
        # Sums of rounding errors alone have no gradient.
        sums = xp.where(sums > error[:, None], sums, xp.zeros_like(sums))
        for _ in range(self.n_iter):
            norms = rounding.up(xp.sqrt(rounding.up(norms, 1, xp=xp)), 1, xp=xp)
        # A zero block needs no allowance.
        norms = xp.where(
            xp.any(self.blocks != 0, axis=tuple(range(1, self.blocks.ndim)))[:, None], norms, xp.zeros_like(norms)
        )
        return arrays.unscale(norms, self.exponent[:, None], xp=xp), sums, kept

    def taps(self, selector: Array) -> Array:
        """Columns ``R_t s`` for vectors s as the columns of (b, p, r): (b, grid, p, r)."""
        return self._taps(selector)[0]

    def _taps(self, columns: slice | Array) -> tuple[Array, Array]:
        """Columns of the taps, and a bound on what all rounding errors together add to the norm at a frequency."""
        xp, (m, p) = self.xp, self.blocks.shape[1:3]
        u = rounding.unit(self.blocks, xp=xp)
        total = math.prod(self.grid)
        start = math.sqrt(p) * trigonometric.symbol_error(self.blocks, xp=xp)[:, None]
        parts, spread, mass = [], xp.zeros_like(self.exponent), xp.zeros_like(self.exponent)
        for part, symbol in self.chunks():
            current, error, length = symbol.matrices(), start, m
            for t in range(self.n_iter):
                squares = rounding.up(matrices.frobenius_up(current, xp=xp) ** 2, 2, xp=xp)
                lost = squares * (rounding.SLACK * rounding.product_error(length, current, xp=xp))
                error = rounding.up(2 * _norm_up(current, xp=xp) * error + error**2 + lost, 6, xp=xp)
                right = current
                if t == self.n_iter - 1:
                    right = _columns(current, columns, xp=xp)
                current, length = xp.matmul(arrays.adjoint(current, xp=xp), right), p
            weights = self.weights[part]
            spread = spread + xp.sum(error**2 * weights, axis=1)
            # Without all columns at hand: ||X* X||_F <= ||X||_F**2.
            whole = squares if current.shape[-1] < p else matrices.frobenius_up(current, xp=xp)
            mass = mass + xp.sum(whole**2 * weights, axis=1)
            parts.append(current * xp.astype(weights, current.dtype)[None, :, None, None])
        x = xp.concat(parts, axis=1)
        taps = xp.real(self._transform(x)) / total
        # Parseval for the errors of the products; for the transform, the sum over taps of its error in each.
        c = sum(math.sqrt(2) * (rounding.gamma(2 * n + 8, u) + trigonometric.phase_error(u)) for n in self.grid) + 4 * u
        lost = rounding.up(xp.sqrt(rounding.up(spread, len(self.points) + 2, xp=xp)), 2, xp=xp)
        lost = lost + rounding.up(xp.sqrt(mass), len(self.points) + 4, xp=xp) * (rounding.SLACK * c * math.sqrt(total))
        tiny = 4.0**self.n_iter * m * p * total * float(xp.finfo(self.blocks.dtype).smallest_normal)
        return taps, rounding.up(lost, 4, xp=xp) + tiny

    def _transform(self, x: Array) -> Array:
        """Sum over the (half) grid with ``e^{-i m.theta}``, axis by axis: (b, f, p, r) -> (b, taps, p, r)."""
        shape = [table.shape[1] for table in self.tables]
        return contract(x, self.tables, shape, xp=self.xp)

    def residuals(self, columns: Array, selector: Array, sums: Array) -> tuple[Array, ...]:
        """What `linalg.gram_powers.powers_vjp` needs: leading axis b, then the chunks of frequencies."""
        xp, b = self.xp, columns.shape[0]
        compiles = not self.ops.may_branch
        # Every chunk is compiled by itself.
        step = symbols.chunk_length(self.blocks, ops=self.ops) if compiles else self._lean_step()
        chunks = -(-len(self.points) // step)
        step = -(-len(self.points) // chunks)
        phase = xp.concat([symbol.phase for _, symbol in self.chunks()], axis=0)
        back = [xp.conj(xp.matrix_transpose(table)) for table in self.tables]
        signs = xp.astype(xp.sign(columns), phase.dtype)
        hats = contract(signs, back, [table.shape[1] for table in back], xp=xp)
        hats = hats * xp.astype(self.weights, phase.dtype)[None, :, None, None]
        dtype = arrays.complex_dtype(self.given.dtype, xp=xp)

        def chunked(x: Array) -> Array:
            missing = chunks * step - x.shape[1]
            if missing:
                zeros = xp.zeros((b, missing, *x.shape[2:]), dtype=x.dtype, device=self.ops.device(x))
                x = xp.concat([x, zeros], axis=1)
            return xp.reshape(x, (b, chunks, step, *x.shape[2:]))

        phase = xp.broadcast_to(phase, (b, *phase.shape))
        return self.given, chunked(xp.astype(hats, dtype, copy=False)), selector, sums, chunked(phase)

    def _lean_step(self) -> int:
        """Frequencies whose matrices, five at a time, take what the kernel takes."""
        b, m, p = self.blocks.shape[:3]
        least = TUNING.backward_host if self.ops.on_host else TUNING.backward_device
        matrices = 5 * 16 * b * m * p
        return int(max(1, max(8 * math.prod(self.given.shape), least) // matrices))


def _norm_up(a: Array, *, xp: Namespace) -> Array:
    """Cheap upper bound of each matrix's norm: Frobenius, or the root of the row and column sums, the smaller one."""
    magnitude = xp.abs(a)
    rows = xp.max(xp.sum(magnitude, axis=-1), axis=-1)
    columns = xp.max(xp.sum(magnitude, axis=-2), axis=-1)
    schur = rounding.up(xp.sqrt(rows * columns), a.shape[-1] + a.shape[-2] + 8, xp=xp)
    return xp.minimum(schur, matrices.frobenius_up(a, xp=xp))


def _columns(a: Array, columns: slice | Array, *, xp: Namespace) -> Array:
    if isinstance(columns, slice):
        return a[:, :, :, columns]
    return xp.matmul(a, xp.astype(columns, a.dtype)[:, None, :, :])
