"""Powers of the Gram matrix of a convolution at the frequencies of its own taps, and the sums that bound its norm.

``H_t = (G* G)**(2**(t-1))`` has ``2**t (k_j - 1) + 1`` taps an axis. On a grid of as many points nothing aliases, so
that its taps R_t are the inverse Fourier transform of its values there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from specnorm import arrays
from specnorm.certified import rounding
from specnorm.certified.symbol import symbols
from specnorm.certified.symbol.gram_polynomial import correlations
from specnorm.certified.symbol.symbols import taps_below
from specnorm.problem.frequencies import cos_sin, half_grid, phases, tap_grid

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace
    from specnorm.types import ArrayOps


class GramTaps:
    """``H_t = (G* G)**(2**(t-1))`` of a stack of blocks: the grid of its own taps, and these with all errors.

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


class GramTuning(NamedTuple):
    """Memory of the engine: it decides on time and rounding."""

    backward_host: int = 2**18
    backward_device: int = 2**24
    """Bytes that a chunk of the backward may take, on both, even if the kernel is smaller. On the host a quarter MiB,
    which stays in the cache; on a device 16 MiB, as small launches wait for one another."""
    forward_host: int = 2**23
    """Bytes of a chunk's matrices in the forward on the host."""


TUNING = GramTuning()
_LEAST = 16
"""Frequencies of a chunk on the host."""


def residuals(given: Array, grid: GramTaps, columns: Array, selector: Array, sums: Array) -> tuple[Array, ...]:
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
