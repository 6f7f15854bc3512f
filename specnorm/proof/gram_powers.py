"""Powers of the Gram matrix of a convolution at the frequencies of its own taps, and the sums that bound its norm."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from specnorm.linalg import arrays
from specnorm.linalg.gram_powers import PowerGrid
from specnorm.proof import matrices, rounding, trigonometric

if TYPE_CHECKING:
    from specnorm.types import Array, Namespace


class Powers(PowerGrid):
    """A `PowerGrid` whose taps are known with all rounding errors, and the channels' norms that they prove."""

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
            norm = matrices.frobenius_up(current, xp=xp)
            for t in range(self.n_iter):
                squares = rounding.up(norm**2, 2, xp=xp)
                lost = squares * (rounding.SLACK * rounding.product_error(length, current, xp=xp))
                right = current
                if t == self.n_iter - 1:
                    right = _columns(current, columns, xp=xp)
                product, length = xp.matmul(arrays.adjoint(current, xp=xp), right), p
                norm = matrices.frobenius_up(product, xp=xp)
                # ||X||**2 = ||X* X||, where all of it is at hand, or at most ||X||_F**2.
                square = norm + lost if right is current else squares
                error = rounding.up(2 * xp.sqrt(square) * error + error**2 + lost, 8, xp=xp)
                current = product
            weights = self.weights[part]
            spread = spread + xp.sum(error**2 * weights, axis=1)
            # Without all columns at hand: ||X* X||_F <= ||X||_F**2.
            whole = squares if current.shape[-1] < p else norm
            mass = mass + xp.sum(whole**2 * weights, axis=1)
            parts.append(current * xp.astype(weights, current.dtype)[None, :, None, None])
        x = xp.concat(parts, axis=1)
        taps = xp.real(self.transform(x)) / total
        # Parseval for the errors of the products; for the transform, the sum over taps of its error in each.
        c = sum(math.sqrt(2) * (rounding.gamma(2 * n + 8, u) + trigonometric.phase_error(u)) for n in self.grid) + 4 * u
        lost = rounding.up(xp.sqrt(rounding.up(spread, len(self.points) + 2, xp=xp)), 2, xp=xp)
        lost = lost + rounding.up(xp.sqrt(mass), len(self.points) + 4, xp=xp) * (rounding.SLACK * c * math.sqrt(total))
        tiny = 4.0**self.n_iter * m * p * total * float(xp.finfo(self.blocks.dtype).smallest_normal)
        return taps, rounding.up(lost, 4, xp=xp) + tiny


def _columns(a: Array, columns: slice | Array, *, xp: Namespace) -> Array:
    if isinstance(columns, slice):
        return a if columns == slice(0, a.shape[-1]) else a[:, :, :, columns]
    return xp.matmul(a, xp.astype(columns, a.dtype)[:, None, :, :])
