"""Powers of the Gram matrix of a convolution at the frequencies of its own taps, and the sums that bound its norm."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm import arrays
from specnorm.certified import rounding
from specnorm.certified.matrices import norms
from specnorm.certified.symbol import trigonometric
from specnorm.certified.symbol.lags import correlations, taps_below
from specnorm.certified.symbol.tap_powers import PowerGrid, tall

if TYPE_CHECKING:
    from specnorm.types import Array, ArrayOps, Namespace


class Powers(PowerGrid):
    """A `PowerGrid` whose taps are known with all rounding errors, and the channels' norms that they prove."""

    def channel_norms(self) -> tuple[Array, Array, Array | None]:
        """Norms d_i rounded up (b, p), the scaled sums they come from (b, p), and the taps if they fit the budget."""
        xp, (b, _, p) = self.xp, self.blocks.shape[:3]
        width = max(1, min(p, self.ops.memory // (64 * b * math.prod(self.grid) * p)))
        rows: Array | float = 0.0
        columns, kept = [], None
        for start in range(0, p, width):
            taps, error = self.taps(slice(start, min(start + width, p)))
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

    def taps(self, columns: slice | Array) -> tuple[Array, Array]:
        """Columns of the taps (b, grid, p, r), or ``R_t s`` for vectors s (b, p, r); a bound on what all errors add.

        At a frequency let X be the matrix that is squared and e a bound of its error in the Frobenius norm, at first
        ``sqrt(p)`` times the symbol's. The next one is off by at most ``2 ||X|| e + e**2 + product_error ||X||_F**2``.
        The errors are taps of a polynomial on the same grid, whose norm at any frequency is at most
        ``sum_m ||E_m||_F <= sqrt(sum_theta e(theta)**2)`` (Parseval). The inverse transform, a product with a table an
        axis, is off in each tap by at most ``c`` times the mean of ``|H(theta)|``, over all taps by
        ``c sqrt(N) sqrt(sum_theta ||H(theta)||_F**2)``.
        """
        xp, (m, p) = self.xp, self.blocks.shape[1:3]
        u = rounding.unit(self.blocks, xp=xp)
        total = math.prod(self.grid)
        start = math.sqrt(p) * trigonometric.symbol_error(self.blocks, xp=xp)[:, None]
        parts, spread, mass = [], xp.zeros_like(self.exponent), xp.zeros_like(self.exponent)
        for part, symbol in self.chunks():
            current, error, length = symbol.matrices(), start, m
            norm = norms.frobenius_up(current, xp=xp)
            for t in range(self.n_iter):
                squares = rounding.up(norm**2, 2, xp=xp)
                lost = squares * (rounding.SLACK * rounding.product_error(length, current, xp=xp))
                right = current
                if t == self.n_iter - 1:
                    vectors = None if isinstance(columns, slice) else xp.astype(columns, current.dtype)[:, None, :, :]
                    right = current[:, :, :, columns] if vectors is None else xp.matmul(current, vectors)
                current, length = xp.matmul(arrays.adjoint(current, xp=xp), right), p
                norm = norms.frobenius_up(current, xp=xp)
                # ||X||**2 = ||X* X||, where all of it is at hand, or at most ||X||_F**2.
                square = norm + lost if isinstance(columns, slice) and right.shape[-1] == p else squares
                error = rounding.up(2 * xp.sqrt(square) * error + error**2 + lost, 8, xp=xp)
            weights = self.weights[part]
            spread = spread + xp.sum(error**2 * weights, axis=1)
            # Without all columns at hand: ||X* X||_F <= ||X||_F**2.
            whole = squares if current.shape[-1] < p else norm
            mass = mass + xp.sum(whole**2 * weights, axis=1)
            parts.append(current)
        taps = self.transform(xp.concat(parts, axis=1) if len(parts) > 1 else parts[0])
        taps /= total
        c = sum(math.sqrt(2) * (rounding.gamma(2 * n + 8, u) + trigonometric.phase_error(u)) for n in self.grid) + 4 * u
        lost = rounding.up(xp.sqrt(rounding.up(spread, len(self.points) + 2, xp=xp)), 2, xp=xp)
        lost = lost + rounding.up(xp.sqrt(mass), len(self.points) + 4, xp=xp) * (rounding.SLACK * c * math.sqrt(total))
        tiny = 4.0**self.n_iter * m * p * total * float(xp.finfo(self.blocks.dtype).smallest_normal)
        return taps, rounding.up(lost, 4, xp=xp) + tiny


def divisors(norms: Array, shape: tuple[int, ...], precision: tuple[float, float], *, xp: Namespace) -> Array:
    """Channel norms, raised so that a kernel divided by them has a norm of at most 1 with its quotients rounded.

    The exact quotient K' has ``||K'||_F**2 <= p``, p the smaller channel count of a group, so its entries' relative
    roundings add at most ``u || sum_k |K'_k| || <= u sqrt(taps p)`` to the norm; the norms are raised by twice that.

    Parameters
    ----------
    shape : tuple of int
        Of the kernel of a group.
    precision : tuple of float
        Machine epsilon and smallest normal number of the quotients.
    """
    (eps, tiny), taps = precision, math.prod(shape[2:])
    lift = 1 + 2 * eps * (math.sqrt(taps * min(shape[:2])) + 2) + tiny * taps * math.sqrt(shape[0] * shape[1])
    # A zero channel stays zero.
    return xp.where(norms > 0, norms * lift, xp.ones_like(norms))


def lag_norms(blocks: Array, *, ops: ArrayOps) -> tuple[Array, Array, Array]:
    """One product, lag by lag: norms d_i rounded up (b, p), the sums they come from, and R_d of `half_lags`.

    Each entry sums at most m products for each of at most ``taps`` pairs of taps: with ``A = sum_k |K_k|`` the errors
    of channel i add up to at most gamma(m + taps) times entry i of ``A^T A 1``.
    """
    xp = ops.xp
    wide = tall(blocks, xp=xp)
    if not (ops.exact_float32 and wide.dtype == xp.float32):
        wide = arrays.in_wide_dtype(wide, ops=ops)
    b, m, p = wide.shape[:3]
    shape, u = wide.shape[3:], rounding.unit(wide, xp=xp)
    taps = xp.reshape(taps_below(wide, xp=xp), (b, -1, m, p))
    every = [r for _, r, _ in correlations(taps, np.ones(shape, dtype=bool), p, ops=ops)]
    lags = xp.reshape(xp.concat(every, axis=1), (b, -1, p, p))
    count = taps.shape[1]
    magnitude = xp.abs(lags)
    across = xp.sum(magnitude[:, 1:, ...], axis=1)
    sums = xp.sum(magnitude[:, 0, ...], axis=2) + xp.sum(across, axis=2) + xp.sum(across, axis=1)
    mass = xp.sum(xp.abs(taps), axis=1)
    mass = xp.matmul(xp.matrix_transpose(mass), xp.sum(mass, axis=2)[..., None])[..., 0]
    tiny = m * p * 2.0 ** len(shape) * count**2 * float(xp.finfo(wide.dtype).smallest_normal)
    error = rounding.up(mass, 2 * count + m + p, xp=xp) * (rounding.SLACK * rounding.gamma(m + count, u)) + tiny
    norms = rounding.up(xp.sqrt(rounding.up(sums, p + lags.shape[1] + 4, xp=xp) + error), 2, xp=xp)
    norms = xp.where(xp.max(xp.abs(taps), axis=(1, 2)) > 0, norms, xp.zeros_like(norms))
    return norms, xp.where(sums > error, sums, xp.zeros_like(sums)), lags
