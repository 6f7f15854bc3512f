"""Powers of the Gram matrix of a convolution at the frequencies of its own taps, and the sums that bound its norm."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm import arrays
from specnorm.certified import rounding
from specnorm.certified.symbol import symbols
from specnorm.certified.symbol.lags import correlations, taps_below
from specnorm.certified.symbol.tap_powers import TUNING, TapGrid, largest_square, residuals
from specnorm.problem.frequencies import half_grid, tap_grid

if TYPE_CHECKING:
    from specnorm.types import Array, ArrayOps, Namespace


class GramTaps(TapGrid):
    """A `TapGrid` whose taps are known with all rounding errors."""

    def taps(self, columns: slice | Array) -> tuple[Array, Array]:
        """Columns of the taps (b, grid, p, r), or ``R_t s`` for vectors s (b, p, r); a bound on what all errors add."""
        values, lost = self.values(columns)
        taps = self.transform(values)
        taps /= math.prod(self.grid)
        return taps, lost

    def values(self, columns: slice | Array) -> tuple[Array, Array]:
        """``H_t`` at the frequencies, (b, f, p, r), and a bound on what all errors add to the taps.

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
        start = math.sqrt(p) * symbols.symbol_error(self.blocks, xp=xp)[:, None]
        parts = []
        spread = mass = xp.zeros_like(start[:, 0])
        every = isinstance(columns, slice) and len(range(p)[columns]) == p
        for part, symbol in self.chunks():
            error, length, planes = start, m, symbol.planes()
            squares = _squares_up(planes, xp=xp)
            for t in range(self.n_iter):
                lost = squares * (rounding.SLACK * math.sqrt(2) * rounding.gamma(2 * length, u))
                before, whole = squares, every or t < self.n_iter - 1
                if whole:
                    # Real products, whose entries are rounded no more often than those of a complex one.
                    planes, length = symbols.gram_planes(*planes, xp=xp), p
                else:
                    planes = self._columns(planes, columns)
                squares = _squares_up(planes, xp=xp)
                # ||X||**2 = ||X* X||, where all of it is at hand, or at most ||X||_F**2.
                square = xp.sqrt(squares) + lost if whole else before
                error = rounding.up(2 * xp.sqrt(square) * error + error**2 + lost, 8, xp=xp)
            weights = self.weights[part]
            spread = spread + xp.sum(error**2 * weights, axis=1)
            # Without all columns at hand: ||X* X||_F <= ||X||_F**2.
            mass = mass + xp.sum((squares if every else before**2) * weights, axis=1)
            parts.append(self.ops.complex(*planes))
        values = xp.concat(parts, axis=1) if len(parts) > 1 else parts[0]
        c = sum(math.sqrt(2) * (rounding.gamma(2 * n + 8, u) + symbols.phase_error(u)) for n in self.grid) + 4 * u
        lost = rounding.up(xp.sqrt(rounding.up(spread, len(self.points) + 2, xp=xp)), 2, xp=xp)
        lost = lost + rounding.up(xp.sqrt(mass), len(self.points) + 4, xp=xp) * (rounding.SLACK * c * math.sqrt(total))
        tiny = 4.0**self.n_iter * m * p * total * float(xp.finfo(self.blocks.dtype).smallest_normal)
        return values, rounding.up(lost, 4, xp=xp) + tiny

    def _columns(self, planes: tuple[Array, Array], columns: slice | Array) -> tuple[Array, Array]:
        """Real and imaginary part of some columns of X* X, or of its product with vectors."""
        xp, x = self.xp, self.ops.complex(*planes)
        if isinstance(columns, slice):
            right = x[:, :, :, columns]
        else:
            right = xp.matmul(x, xp.astype(columns, x.dtype)[:, None, :, :])
        found = xp.matmul(arrays.adjoint(x, xp=xp), right)
        return xp.real(found), xp.imag(found)


def _squares_up(planes: tuple[Array, Array], *, xp: Namespace) -> Array:
    """Squared Frobenius norm of each complex matrix of a stack, rounded up, shape (b, f)."""
    real, imag = planes
    rows = xp.vecdot(real, real) + xp.vecdot(imag, imag)
    return rounding.up(xp.sum(rows, axis=-1), sum(real.shape[-2:]) + 8, xp=xp)


class Powers:
    """Powers of a kernel's Gram matrix, and the channels' norms that their taps prove.

    The last square is taken of the taps before it, where those are few: what is squared before is squared on a smaller
    grid. Let H' be known to e, in norm at every frequency, and have a norm of at most g: then its square is off by at
    most ``2 g e + e**2`` besides.

    Parameters
    ----------
    blocks : array, shape (b, cout, cin, *kernel_shape)
        In the kernel's precision; all is computed in the widest. With fewer outputs than inputs, G G* takes the place
        of G* G.
    n_iter : int
        t >= 1.
    narrow : bool
        Whether the last square is taken in float32, with float32's allowances, where there is one of taps.
    """

    def __init__(self, blocks: Array, n_iter: int, *, narrow: bool = False, ops: ArrayOps) -> None:
        xp = ops.xp
        self.n_iter, self.xp, self.ops = n_iter, xp, ops
        wide = arrays.in_wide_dtype(arrays.tall(blocks, xp=xp), ops=ops)
        shape, p = tuple(wide.shape[3:]), int(wide.shape[2])
        # Powers of matrices with a Frobenius norm of at most 1 stay so.
        symbol = symbols.Symbol(wide, half_grid(tap_grid(shape, n_iter)), ops=ops)
        largest = xp.sqrt(largest_square(wide, symbol, xp=xp))
        self.exponent = xp.floor(xp.log2(xp.where(largest > 0, largest, xp.ones_like(largest)))) + 1
        factor = xp.reshape(arrays.power_of_two(-self.exponent, xp=xp), (-1,) + (1,) * (blocks.ndim - 1))
        self.blocks, self.given = wide * factor, blocks * xp.astype(factor, blocks.dtype)
        self._later = self._off = xp.zeros_like(self.exponent)
        before = n_iter - 1
        if before and math.prod(tap_grid(shape, before)) <= 2 * before * p:
            self._last = self._of_taps(GramTaps(self.blocks, before, ops=ops), narrow)
        else:
            self._last = GramTaps(self.blocks, n_iter, ops=ops)

    def _of_taps(self, grid: GramTaps, narrow: bool) -> GramTaps:
        """The square of the matrix that a grid has the taps of, scaled and rounded to float32 if that is wanted."""
        xp, (b, _, p) = self.xp, self.blocks.shape[:3]
        taps, off = grid.taps(slice(0, p))
        taps = xp.reshape(taps, (b, *grid.grid, p, p))
        for axis, n in enumerate(grid.grid):
            middle, lead = n // 2 + 1, (slice(None),) * (axis + 1)
            taps = xp.concat(
                [taps[(*lead, slice(middle, n), ...)], taps[(*lead, slice(0, middle), ...)]], axis=axis + 1
            )
        kernel = xp.permute_dims(taps, (0, len(grid.grid) + 1, len(grid.grid) + 2, *range(1, len(grid.grid) + 1)))
        norm = symbols.absolute_norm_up(kernel, xp=xp)
        if narrow:
            self._later = xp.floor(xp.log2(xp.where(norm > 0, norm, xp.ones_like(norm)))) + 1
            factor = arrays.power_of_two(-self._later, xp=xp)
            kernel = xp.astype(kernel * xp.reshape(factor, (-1,) + (1,) * (kernel.ndim - 1)), xp.float32)
            tiny = math.prod(kernel.shape[1:]) * float(xp.finfo(xp.float32).smallest_normal)
            off, norm = off * factor + norm * factor * (1.01 * 2.0**-24) + tiny, norm * factor * (1 + 2.0**-20)
        self._off = rounding.up(2 * norm * off + off**2, 8, xp=xp)
        return GramTaps(kernel, 1, ops=self.ops)

    def channel_norms(self) -> tuple[Array, Array, Array | None]:
        """Norms d_i rounded up (b, p), the scaled sums they come from (b, p), and values at frequencies if they fit."""
        xp, ops, last, (b, _, p) = self.xp, self.ops, self._last, self.blocks.shape[:3]
        count, taps = len(last.points), math.prod(last.grid)
        size = 8 if last.blocks.dtype == xp.float64 else 4
        # As complex numbers, twice while they are put together.
        width = max(1, min(p, ops.memory // (4 * size * b * count * p)))
        few = max(1, TUNING.forward_host // (2 * size * b * count * p)) if ops.concrete and ops.on_host else width
        rows: Array | float = 0.0
        columns, kept = [], None
        for start in range(0, p, width):
            values, error = last.values(slice(start, min(start + width, p)))
            for first in range(0, values.shape[3], few):
                part = last.transform(values[..., first : first + few])
                magnitude = xp.sum(xp.abs(part), axis=1)
                rows = rows + xp.sum(magnitude, axis=2)
                columns.append(xp.sum(magnitude, axis=1))
            kept = values if width == p else None
        sums = rounding.up((rows + xp.concat(columns, axis=1)) / (2 * taps), taps + p + 3, xp=xp)
        sums, error = (xp.astype(x, self.blocks.dtype, copy=False) for x in (sums, error))
        error = (error + self._off)[:, None]
        norms, scale = sums + error, arrays.power_of_two(2 * self._later, xp=xp)[:, None]
        # Sums of rounding errors alone have no gradient.
        sums = xp.where(sums > error, sums, xp.zeros_like(sums)) * scale
        for t in range(self.n_iter):
            norms = rounding.up(xp.sqrt(rounding.up(norms, 1, xp=xp)), 1, xp=xp)
            norms = norms * xp.sqrt(scale) if t == 0 else norms
        # A zero block needs no allowance.
        norms = xp.where(
            xp.any(self.blocks != 0, axis=tuple(range(1, self.blocks.ndim)))[:, None], norms, xp.zeros_like(norms)
        )
        return arrays.unscale(norms, self.exponent[:, None], xp=xp), sums, kept

    def residuals(self, kept: Array | None, selector: Array, sums: Array) -> tuple[Array, ...]:
        """What `powers_vjp` needs of the channels that are selected, (b, p, r)."""
        xp, last = self.xp, self._last
        chosen = (
            last.values(selector)[0]
            if kept is None
            else xp.matmul(kept, xp.astype(selector, kept.dtype)[:, None, :, :])
        )
        return residuals(self.given, last, last.transform(chosen), selector, sums)


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
    wide = arrays.tall(blocks, xp=xp)
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
