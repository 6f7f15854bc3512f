"""Powers of a convolution's Gram matrix, on a grid of as many points as they have taps, and sums that bound its norm.

After t products, ``H_t = (G* G)**(2**(t-1))`` has ``2**t (k_j - 1) + 1`` taps an axis: the first product is G* G, and
each other one squares the last. On a grid of as many points nothing aliases, so that its taps R_t are the inverse
Fourier transform of its values there.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from specnorm.backends import arrays
from specnorm.proofs import rounding
from specnorm.proofs.bound import ALL_FREQUENCIES, _uppers
from specnorm.proofs.frequencies import (
    cos_sin,
    cos_sin_of,
    cos_sin_of_taps,
    half_grid,
    half_grid_shape,
    half_taps,
    halved_axis,
    tap_grid,
)
from specnorm.symbols.proofs import symbols
from specnorm.symbols.proofs.lags import lag_products, roundings
from specnorm.symbols.proofs.symbols import device_tables, stacked_taps

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps
    from specnorm.proofs.bound import Upper
    from specnorm.proofs.frequencies import Frequencies


class GramTuning(NamedTuple):
    """Memory that computing powers takes: it decides on time and rounding."""

    backward_host: int = 2**18
    """Bytes that a chunk of the backward pass may take on the host, even if the kernel is smaller: a quarter MiB, which
    stays in the cache."""
    backward_device: int = 2**24
    """Bytes that it may take on a device: 16 MiB, as small launches wait for one another."""
    forward_host: int = 2**23
    """Bytes of a chunk's matrices in the forward pass on the host."""


TUNING = GramTuning()
_FEW_TAPS = 81
"""Taps of the first two products of a 3 x 3 kernel."""
_LEAST_FREQUENCIES = 16
"""Least number of frequencies of a chunk on the host."""


class KernelSymbol:
    """The symbols of kernels, whose Gram matrices are the first product.

    Parameters
    ----------
    blocks : array, shape (b, m, p, *kernel_shape)
        In the precision that is computed in.

    Attributes
    ----------
    shape : tuple of int
        (b, m, p).
    taps : tuple of int
        Number of taps along each axis.
    like : array
        Any array of the precision and on the device.
    error : array, shape (b,)
        Bound of the norm of the error of `planes` at any frequency.
    """

    def __init__(self, blocks: Array, *, ops: ArrayOps) -> None:
        self.like = blocks
        b, m, p = blocks.shape[:3]
        self.shape = (b, m, p)
        self.taps = tuple(blocks.shape[3:])
        self._ops = ops
        self.error = symbols.symbol_error(blocks, xp=ops.xp)

    def planes(self, frequencies: Frequencies) -> tuple[Array, Array]:
        """Real and imaginary parts at some frequencies, (b, f, m, p) each."""
        cos, sin = symbols.cosines_and_sines(frequencies, self.like, ops=self._ops)
        return symbols.planes_at(self.like, cos, sin, xp=self._ops.xp)


class GramSymbol:
    """The symbols of Gram matrices, or of their powers, from half of their taps R_m.

    They are ``sum_m cos(m.theta) (R_m + R_m^T) / 2 + i sin(m.theta) (R_m - R_m^T) / 2``.

    Parameters
    ----------
    taps : array, shape (b, n, p, p)
        R_m for the taps m of `half_taps`, twice R_m for those that stand for -m, too.
    grid : tuple of int
        Number of all taps along each axis.
    sums : array, shape (b,)
        Bound of the sum of the magnitudes in a row over all taps, so of the norms at all frequencies.
    lost : array, shape (b,)
        Bound of the error of the taps: of the norm of the symbol's error at any frequency.
    in_float32 : bool
        Whether to compute in float32.

    Attributes
    ----------
    shape, taps, like, error
        As those of `KernelSymbol`.
    """

    def __init__(
        self,
        taps: Array,
        grid: tuple[int, ...],
        sums: Array,
        lost: Array,
        *,
        in_float32: bool = False,
        ops: ArrayOps,
    ) -> None:
        xp = ops.xp
        b, n, p, _ = taps.shape
        half = taps * 0.5
        turned = xp.matrix_transpose(half)
        even = xp.reshape(half + turned, (b, n, p * p))
        odd = xp.reshape(half - turned, (b, n, p * p))
        self._even = xp.astype(even, xp.float32) if in_float32 else even
        self._odd = xp.astype(odd, xp.float32) if in_float32 else odd
        self._ops = ops
        self.like = self._even
        self.shape = (b, p, p)
        self.taps = grid
        # The sum of the magnitudes of all taps is symmetric, so its norm is at most its largest row sum. The roundings
        # of a term: those of the coefficient in both precisions, that of the table, and those of the sum.
        u = rounding.unit(self._even, xp=xp)
        error_of_sum = symbols.autocorrelation_error(1.0, n + 3, u)
        # Coefficients below the smallest normal number may be flushed to 0.
        underflow = 2 * n * p * float(xp.finfo(self._even.dtype).smallest_normal)
        self.error = rounding.up(lost + sums * error_of_sum, 4, xp=xp) + underflow

    def planes(self, frequencies: Frequencies) -> tuple[Array, Array]:
        """Real and imaginary parts at some frequencies, (b, f, p, p) each."""
        xp, (b, _, p) = self._ops.xp, self.shape
        cos, sin = symbols.device_tables(*cos_sin_of(frequencies, half_taps(self.taps)), self.like, ops=self._ops)
        real = xp.matmul(cos, self._even)
        imag = xp.matmul(sin, self._odd)
        return xp.reshape(real, (b, -1, p, p)), xp.reshape(imag, (b, -1, p, p))


class GramTaps:
    """``H_t`` of a stack of symbols X, on a grid of as many points as it has taps: values or taps, with error bounds.

    Parameters
    ----------
    symbol : KernelSymbol or GramSymbol
        X.
    n_iter : int
        t >= 1: the first product is X* X, and each other one squares the last.

    Attributes
    ----------
    weights : array, shape (f,)
        1, or 2 for a frequency that stands for its mirror image, too.
    """

    def __init__(self, symbol: KernelSymbol | GramSymbol, n_iter: int, *, ops: ArrayOps) -> None:
        self.symbol = symbol
        self.n_iter = n_iter
        self.xp = ops.xp
        self.ops = ops
        self.grid = tap_grid(symbol.taps, n_iter)
        self.points = half_grid(self.grid)
        self.weights = symbols.device_table(tables(self.grid)[0], symbol.like, ops=ops)

    def chunks(self) -> Iterator[tuple[slice, tuple[Array, Array]]]:
        """Parts of the frequencies that fit the memory budget (on the host, the cache), and X there."""
        entries = math.prod(self.symbol.shape)
        step = symbols.frequencies_in_memory(entries, math.prod(self.symbol.taps), ops=self.ops)
        if self.ops.concrete and self.ops.on_host:
            # Each chunk reads all taps: with fewer than `_LEAST_FREQUENCIES`, that would take most of the time.
            in_cache = TUNING.forward_host // (8 * entries)
            step = min(step, max(_LEAST_FREQUENCIES, in_cache))
        for start in range(0, len(self.points), step):
            part = slice(start, min(start + step, len(self.points)))
            yield part, self.symbol.planes(self.points[part])

    def transform(self, planes: tuple[Array, Array], *, half: bool = False) -> Array:
        """Real part of the sum over the whole grid with ``e^{-i m.theta}``: (b, f, p, r) -> (b, taps, p, r).

        r is the number of columns. The grid is halved along one axis, as values at mirror images are conjugate. That
        axis is transformed last, where only the real part is needed.

        Parameters
        ----------
        planes : arrays, shape (b, f, p, r)
            Real and imaginary parts.
        half : bool
            Return only the taps of `half_taps`, and twice those with m > 0 on the halved axis, which stand for -m too.
        """
        xp = self.xp
        b, _, p, r = planes[0].shape
        if not self.grid:
            return planes[0]
        halved = halved_axis(self.grid)
        order = [*(axis for axis in range(len(self.grid)) if axis != halved), halved]
        # Both parts lie side by side, on an axis before the axis `parts` of the grid: so a complex product with a table
        # is one real product. In two dimensions they stay there.
        parts = len(order) // 2
        shape = (b, *half_grid_shape(self.grid), p * r)
        x = xp.stack([xp.reshape(plane, shape) for plane in planes], axis=1 + parts)
        for axis in order:
            if parts not in (axis, axis + 1):
                axes = [j for j in range(x.ndim) if j != 1 + parts]
                axes.insert(1 + axis, 1 + parts)
                x = xp.permute_dims(x, tuple(axes))
                parts = axis
            host_table = real_table(self.grid, axis, half=half, parts_first=parts == axis)
            table = symbols.device_table(host_table, planes[0], ops=self.ops)
            before, after = x.shape[: 1 + axis], x.shape[3 + axis :]
            columns = (math.prod(before), x.shape[1 + axis] * x.shape[2 + axis], math.prod(after))
            x = xp.matmul(table, xp.reshape(x, columns))
            pair = [int(table.shape[0])]
            if axis != halved:
                pair = [2, self.grid[axis]] if parts == axis else [self.grid[axis], 2]
            x = xp.reshape(x, (*before, *pair, *after))
        return xp.reshape(x, (b, -1, p, r))

    def half_of_taps(self) -> tuple[Array, Array]:
        """The taps of `half_taps`, and a bound (b,) on what all errors add to their norm.

        Returns
        -------
        taps : array, shape (b, n, p, p)
            Twice the tap m where it stands for -m, too.
        lost : array, shape (b,)
        """
        values, lost = self.values(slice(None))
        taps = self.transform(values, half=True)
        taps *= 1 / math.prod(self.grid)
        return taps, lost

    def values(self, columns: slice | Array) -> tuple[tuple[Array, Array], Array]:
        """``H_t`` at the frequencies, as two planes (b, f, p, r), and a bound on what all errors add to the taps.

        At a frequency let X be the matrix of which X* X is formed next, and e a bound of the norm of its error, at
        first the symbol's. The next one is off by at most ``2 ||X|| e + e**2 + product_error ||X||_F**2``.
        The errors are taps E_m of a polynomial on the same grid: for any unit vector u,
        ``sum_m ||E_m u|| <= sqrt(sum_theta ||E(theta) u||**2) <= sqrt(sum_theta e(theta)**2)`` (Parseval). Where half
        of the computed taps stand for all (`transform`), so do their errors: ``sum_m ||E_m u||**2`` is up to twice as
        large, and its root ``sqrt(2)`` times. The inverse transform, a product with a table an axis, is off in each
        tap by at most ``c`` times the mean of ``|H(theta)|``, over all taps by
        ``c sqrt(N) sqrt(sum_theta ||H(theta)||_F**2)``.
        """
        xp = self.xp
        _, m, p = self.symbol.shape
        u = rounding.unit(self.symbol.like, xp=xp)
        is_every_column = isinstance(columns, slice) and len(range(p)[columns]) == p
        product_errors, transform_error, roundings = _error_factors(self.n_iter, m, p, self.grid, u, is_every_column)
        values = []
        error_sum_sq = norm_sum_sq = xp.zeros_like(self.symbol.error)
        for part, factor in self.chunks():
            planes, error, norm_sq = self._powers(factor, product_errors, columns, is_every_column=is_every_column)
            weights = self.weights[part]
            error_sum_sq = error_sum_sq + xp.sum(error**2 * weights, axis=1)
            norm_sum_sq = norm_sum_sq + xp.sum(norm_sq * weights, axis=1)
            values.append(planes)
        # Products below the smallest normal number may be flushed to 0. At a frequency, a Gram product loses at most
        # 4 m p of it, and doubles what the last one lost, as norms are at most 1 (`Powers`): 4**t m p in all.
        underflow = (
            4.0**self.n_iter * m * p * math.prod(self.grid) * float(xp.finfo(self.symbol.like.dtype).smallest_normal)
        )
        real, imag = values[0]
        if len(values) > 1:
            real, imag = (xp.concat(list(part), axis=1) for part in zip(*values, strict=True))
        error = xp.sqrt(2 * error_sum_sq) + xp.sqrt(norm_sum_sq) * transform_error
        return (real, imag), rounding.up(error, roundings, xp=xp) + underflow

    def _powers(
        self,
        planes: tuple[Array, Array],
        product_errors: Sequence[float],
        columns: slice | Array,
        *,
        is_every_column: bool,
    ) -> tuple[tuple[Array, Array], Array, Array]:
        """``H_t`` at some frequencies, with what bounds its errors, but for the roundings of these bounds.

        Parameters
        ----------
        planes : arrays, shape (b, f, m, p)
            Real and imaginary part of the symbol.
        product_errors : sequence of float
            Of each square, its error relative to ``||X||_F**2``.

        Returns
        -------
        planes : arrays, shape (b, f, p, r)
            Real and imaginary part of the columns of ``H_t``.
        error : array, shape (b, f)
            e of `values`.
        norm_sq : array, shape (b, f)
            ``||H_t||_F**2``, or more.
        """
        xp = self.xp
        # ||X||_F**2 of each factor X: the trace of X* X, where every column of that is computed.
        factor_norms_sq = []
        for t in range(self.n_iter):
            if is_every_column or t < self.n_iter - 1:
                planes = symbols.gram_planes(*planes, xp=xp)
                factor_norms_sq.append(xp.linalg.trace(planes[0]))
            else:
                factor_norms_sq.append(_squares(planes, xp=xp))
                planes = self._columns(planes, columns)
        # Where some columns are not computed: ||X* X||_F <= ||X||_F**2.
        norm_sq = _squares(planes, xp=xp) if is_every_column else factor_norms_sq[-1] ** 2
        error = self.symbol.error[:, None]
        for factor_norm_sq, square_norm_sq, relative_error in zip(
            factor_norms_sq, [*factor_norms_sq[1:], norm_sq], product_errors, strict=True
        ):
            product_error = factor_norm_sq * relative_error
            # ||X||**2 = ||X* X||, bounded by the Frobenius norm of X* X as computed and its error.
            norm = xp.sqrt(xp.sqrt(square_norm_sq) + product_error)
            error = (2 * norm + error) * error + product_error
        return planes, error, norm_sq

    def _columns(self, planes: tuple[Array, Array], columns: slice | Array) -> tuple[Array, Array]:
        """Real and imaginary part of some columns of X* X, or of its product with vectors."""
        xp = self.xp
        x = self.ops.complex(*planes)
        if isinstance(columns, slice):
            right = x[:, :, :, columns]
        else:
            right = xp.matmul(x, xp.astype(columns, x.dtype)[:, None, :, :])
        product = xp.matmul(arrays.adjoint(x, xp=xp), right)
        return xp.real(product), xp.imag(product)


def _squares(planes: tuple[Array, Array], *, xp: Namespace) -> Array:
    """Squared Frobenius norm of each complex matrix of a stack, shape (b, f)."""
    b, f, rows, columns = planes[0].shape
    real, imag = (xp.reshape(plane, (b, f, rows * columns)) for plane in planes)
    return xp.vecdot(real, real) + xp.vecdot(imag, imag)


def _error_factors(
    n_iter: int, m: int, p: int, grid: tuple[int, ...], u: float, is_every_column: bool
) -> tuple[tuple[float, ...], float, int]:
    """Factors of the errors that `GramTaps.values` bounds, for a unit roundoff u.

    Returns
    -------
    product_errors : tuple of float
        Of each square, its error relative to ``||X||_F**2``.
    transform_error : float
        ``c sqrt(N)``.
    roundings : int
        Of the bound of all errors itself.
    """
    inner_lengths = [m] + [p] * (n_iter - 1)
    # `symbols.gram_planes` adds two real products; a complex product may add all terms of an entry in turn.
    lengths = [n + 2 for n in inner_lengths]
    if not is_every_column:
        lengths[-1] = 2 * inner_lengths[-1]
    product_errors = tuple(rounding.SLACK * math.sqrt(2) * rounding.gamma(n, u) for n in lengths)
    # A complex number takes two products of real ones; the margins cover the division by the number of points.
    counts = half_grid_shape(grid)
    axis_errors = [math.sqrt(2) * (rounding.gamma(2 * n + 8, u) + symbols.phase_error(u)) for n in counts]
    transform_error = rounding.SLACK * (sum(axis_errors) + 4 * u) * math.sqrt(math.prod(grid))
    # All numbers are sums, products and roots of numbers that are not negative. A squared norm has n roundings, those
    # of a sum of m p or p**2 products. If a bound e has r, the next has 2 r + n + 6: so at most (2**t - 1) (n + 12)
    # after t, as the first has 2. The last square doubles them, and the root halves them and those of the sum.
    n = max(m, p) * p + 4
    return product_errors, transform_error, (2**n_iter - 1) * (n + 12) + math.prod(counts) + 8


class HalfOfTaps(NamedTuple):
    """Half of the taps of a Gram matrix's power (`frequencies.half_taps`), and bounds of all of them together.

    Parameters
    ----------
    taps : array, shape (b, n, p, p)
        Twice the tap m where it stands for -m, too.
    grid : tuple of int
        Number of all taps along each axis.
    sums : array, shape (b,)
        Bound of the sum of the magnitudes in a row over all taps, as computed.
    lost : array, shape (b,)
        Bound of the norm of the error of the symbol with these taps at any frequency.
    """

    taps: Array
    grid: tuple[int, ...]
    sums: Array
    lost: Array


class Powers:
    """Powers of a kernel's Gram matrix, and the channels' norms that their taps prove.

    The norm d_i of channel i is the 2**t-th root of the sum of the magnitudes in row i over all taps of H_t. A kernel
    whose channel i is divided by d_i, on the side with fewer channels, has a norm of at most 1 (`channel_norms`).

    The taps of the first products are few. They are computed on their smaller grid, and the later products are those of
    the symbol with these taps, whose errors `GramTaps` counts.

    Parameters
    ----------
    blocks : array, shape (b, cout, cin, *kernel_shape)
        In the kernel's precision; all is computed in the widest. With fewer outputs than inputs, G G* takes the place
        of G* G.
    n_iter : int
        t >= 1.
    either_side : bool
        Whether G G* may take the place of G* G, for blocks with as many outputs as inputs: the one whose largest sum of
        a channel is lower after the first products.
    last_square_in_float32 : bool
        Whether the last square is taken in float32, with float32's allowances, where it is that of first products.

    Attributes
    ----------
    is_swapped : boolean array, shape (b,), or None
        Whether G G* has taken the place of G* G; None if it may not.
    """

    def __init__(
        self,
        blocks: Array,
        n_iter: int,
        *,
        either_side: bool = False,
        last_square_in_float32: bool = False,
        ops: ArrayOps,
    ) -> None:
        xp = ops.xp
        self.n_iter = n_iter
        self.xp = xp
        self.ops = ops
        wide = arrays.in_wide_dtype(arrays.tall(blocks, xp=xp), ops=ops)
        # Powers of matrices with a Frobenius norm of at most 1 stay so.
        self._factor = _factor_to_one(xp.sqrt(_square_up(wide, xp=xp)), xp=xp)
        scaled = wide * _by_block(self._factor, blocks.ndim, xp=xp)
        self._is_zero = ~xp.any(scaled != 0, axis=tuple(range(1, blocks.ndim)))
        self.is_swapped: Array | None = None
        # The power of two by which the first products' taps are multiplied, and the error of the last square that is
        # the same at every frequency.
        self._last_factor: Array | float = 1.0
        self._last_error: Array | float = 0.0
        first_products = self._first_products(scaled)
        later_products = n_iter - first_products
        first: HalfOfTaps | None = None
        if either_side:
            first = self._after(xp.concat([scaled, arrays.swapped(scaled, xp=xp)], axis=0), first_products)
            count = scaled.shape[0]
            self.is_swapped = first.sums[count:] < first.sums[:count]
            first = HalfOfTaps(
                self._lower_side(first.taps[:count, ...], first.taps[count:, ...], self.is_swapped),
                first.grid,
                self._lower_side(first.sums[:count], first.sums[count:], self.is_swapped),
                self._lower_side(first.lost[:count], first.lost[count:], self.is_swapped),
            )
        elif later_products:
            first = self._after(scaled, first_products)
        if first is not None and later_products:
            in_float32 = last_square_in_float32 and later_products == 1
            symbol = self._symbol_of(first, later_products, in_float32=in_float32)
            self._taps = GramTaps(symbol, later_products, ops=ops)
        else:
            if self.is_swapped is not None:
                scaled = self._lower_side(scaled, arrays.swapped(scaled, xp=xp), self.is_swapped)
            self._taps = GramTaps(KernelSymbol(scaled, ops=ops), n_iter, ops=ops)
        self._blocks = blocks

    def _first_products(self, blocks: Array) -> int:
        """Number of products whose taps are computed first: two, or one if two make many taps."""
        p = blocks.shape[2]
        two = math.prod(tap_grid(tuple(blocks.shape[3:]), 2))
        return min(2 if two <= max(4 * p, _FEW_TAPS) else 1, max(1, self.n_iter - 1))

    def _after(self, blocks: Array, products: int) -> HalfOfTaps:
        """The taps of blocks after some products."""
        xp = self.xp
        powers = GramTaps(KernelSymbol(blocks, ops=self.ops), products, ops=self.ops)
        taps, lost = powers.half_of_taps()
        magnitudes = xp.sum(xp.abs(taps), axis=1)
        sums = xp.sum(magnitudes, axis=2) + xp.sum(magnitudes, axis=1)
        # The sums over taps and channels, and that of rows and columns; halves are exact.
        largest = rounding.up(xp.max(sums, axis=1) / 2, taps.shape[1] + taps.shape[2] + 1, xp=xp)
        return HalfOfTaps(taps, powers.grid, largest, lost)

    def _symbol_of(self, first: HalfOfTaps, later_products: int, *, in_float32: bool) -> GramSymbol:
        """The symbol whose powers are the later products."""
        xp, ops = self.xp, self.ops
        if later_products > 1:
            return GramSymbol(*first, ops=ops)
        taps, grid, sums, lost = first
        if in_float32:
            # With a norm of about 1, since float32 has a small range.
            self._last_factor = factor = _factor_to_one(sums, xp=xp)
            taps = taps * _by_block(factor, taps.ndim, xp=xp)
            sums = sums * factor
            lost = lost * factor
        # The error of the square by that of the taps is the same at every frequency. So it is less than the errors of
        # `GramTaps`, which are summed over the grid.
        self._last_error = rounding.up(2 * sums * lost + lost**2, 4, xp=xp)
        return GramSymbol(taps, grid, sums, xp.zeros_like(lost), in_float32=in_float32, ops=ops)

    def _lower_side(self, inputs: Array, outputs: Array, is_swapped: Array) -> Array:
        """For each block, what belongs to the side that was chosen."""
        return self.xp.where(_by_block(is_swapped, inputs.ndim, xp=self.xp), outputs, inputs)

    def channel_norms(self) -> tuple[Array, Array, tuple[Array, Array] | None, Callable[[], list[Upper]]]:
        """Norms d_i rounded up (b, p), the sums they are roots of (b, p), and values at the frequencies.

        The sums are in the scale of the scaled blocks. The values are None if they do not fit the memory. Last is what
        claims that the largest norm of a block's channels bounds its supremum.
        """
        xp, ops = self.xp, self.ops
        sums, error, values = self._sums_of_taps()
        sums = xp.matrix_transpose(xp.astype(sums, self._factor.dtype, copy=False))
        error = xp.astype(error, sums.dtype, copy=False) + self._last_error
        # After the first root, undo the power of two by which the last square's symbol was multiplied.
        norms = xp.sqrt(sums + error) / self._last_factor
        for _ in range(self.n_iter - 1):
            norms = xp.sqrt(norms)
        # The roundings of the sums, the roots and the quotients. A zero block needs no allowance.
        norms = xp.where(self._is_zero, 0.0, rounding.up(norms / self._factor, self.n_iter + 4, xp=xp))
        # Sums of rounding errors alone have no gradient.
        sums = xp.where(sums > error, sums, 0.0) / self._last_factor**2
        norms, sums = xp.matrix_transpose(norms), xp.matrix_transpose(sums)
        return norms, sums, values, _uppers(norms, ALL_FREQUENCIES, gram_rule(self.n_iter), ops=ops)

    def _sums_of_taps(self) -> tuple[Array, Array, tuple[Array, Array] | None]:
        """Sums (b, p) over the taps of each channel's magnitudes, their error (b,), and values that fit or None.

        H is Hermitian, but not in rounding: the sums are the means of row and column sums. Row i of the tap -m is
        column i of the tap m, so that half of the taps suffice.
        """
        xp, ops, last = self.xp, self.ops, self._taps
        b, _, p = last.symbol.shape
        points, taps = len(last.points), math.prod(last.grid)
        itemsize = 8 if last.symbol.like.dtype == xp.float64 else 4
        # Columns at once: as complex numbers, twice while they are put together.
        width = max(1, min(p, ops.memory // (4 * itemsize * b * points * p)))
        transformed_at_once = width
        if ops.concrete and ops.on_host:
            transformed_at_once = max(1, TUNING.forward_host // (2 * itemsize * b * points * p))
        row_sums: Array | float = 0.0
        column_sums = []
        all_values: tuple[Array, Array] | None = None
        for start in range(0, p, width):
            values, error = last.values(slice(start, min(start + width, p)))
            real, imag = values
            for first in range(0, real.shape[3], transformed_at_once):
                some = slice(first, first + transformed_at_once)
                part = last.transform((real[..., some], imag[..., some]), half=True)
                magnitudes = xp.sum(xp.abs(part), axis=1)
                row_sums = row_sums + xp.sum(magnitudes, axis=2)
                column_sums.append(xp.sum(magnitudes, axis=1))
            all_values = values if width == p else None
        means = (row_sums + xp.concat(column_sums, axis=1)) / (2 * taps)
        # The sums over taps and channels, that of rows and columns, and the division.
        return rounding.up(means, taps + p + 3, xp=xp), error, all_values

    def residuals(
        self,
        values: tuple[Array, Array] | None,
        selector: Array,
        sums: Array,
    ) -> tuple[Array, ...]:
        """Residuals of `powers_vjp` for selected channels (b, p, r).

        Parameters
        ----------
        values : arrays, optional
            Of `channel_norms`; None if they did not fit: those of the selected channels are computed again.
        selector : array, shape (b, p, r)
            Columns of the identity that select the channels.
        sums : array, shape (b, p)
            Of `channel_norms`.
        """
        xp, last = self.xp, self._taps
        if values is None:
            chosen, _ = last.values(selector)
        else:
            vectors = xp.astype(selector, values[0].dtype)[:, None, :, :]
            chosen = xp.matmul(values[0], vectors), xp.matmul(values[1], vectors)
        factor = xp.astype(self._factor, self._blocks.dtype)
        scaled = self._blocks * _by_block(factor, self._blocks.ndim, xp=xp)
        if self.is_swapped is not None:
            scaled = self._lower_side(scaled, arrays.swapped(scaled, xp=xp), self.is_swapped)
        return powers_residuals(scaled, last, last.transform(chosen), selector, sums)


def exponent_above(norm: Array, *, xp: Namespace) -> Array:
    """Exponent of a power of two that is larger than each norm; of 0, that of 2."""
    return xp.floor(xp.log2(xp.where(norm > 0, norm, 1.0))) + 1


def _factor_to_one(norm: Array, *, xp: Namespace) -> Array:
    """Power of two by which each norm becomes at most 1."""
    return arrays.power_of_two(-exponent_above(norm, xp=xp), xp=xp)


def _by_block(numbers: Array, ndim: int, *, xp: Namespace) -> Array:
    """Numbers (b,) as an array (b, 1, ...) of so many axes."""
    return xp.reshape(numbers, (-1,) + (1,) * (ndim - 1))


def _square_up(blocks: Array, *, xp: Namespace) -> Array:
    """About the largest squared Frobenius norm of each block's symbol, or more, shape (b,).

    It is at most the sum of the magnitudes of the inner products of the taps.
    """
    flat = xp.reshape(blocks, (blocks.shape[0], -1, math.prod(blocks.shape[3:])))
    inner = xp.matmul(xp.matrix_transpose(flat), flat)
    return xp.sum(xp.abs(inner), axis=(1, 2))


def gram_rule(n_iter: int) -> str:
    """The rule of the bounds by all taps after some products."""
    return f"{2**n_iter}-th root of the taps' sum after {n_iter} Gram product{'s' if n_iter > 1 else ''}"


def divisors(
    norms: Array,
    shape: tuple[int, ...],
    precision: tuple[float, float],
    *,
    xp: Namespace,
) -> Array:
    """Channel norms, raised so that a kernel divided by them has a norm of at most 1 with its quotients rounded.

    The exact quotient K' has a norm of at most 1 at every frequency and so ``||K'||_F**2 <= p``, p the smaller channel
    count of a group. The roundings of its entries, relative ones of at most u, add at most
    ``u || sum_k |K'_k| || <= u sqrt(taps p)`` to the norm. The norms are raised by twice that.

    Parameters
    ----------
    shape : tuple of int
        Of the kernel of a group.
    precision : tuple of float
        Machine epsilon and smallest normal number of the quotients.
    """
    eps, tiny = precision
    taps = math.prod(shape[2:])
    quotients = 2 * eps * (math.sqrt(taps * min(shape[:2])) + 2)
    underflow = tiny * taps * math.sqrt(shape[0] * shape[1])
    lift = 1 + quotients + underflow
    # A zero channel stays zero.
    return xp.where(norms > 0, norms * lift, 1.0)


def lag_norms(blocks: Array, *, ops: ArrayOps) -> tuple[Array, Array, Array]:
    """One product, lag by lag: norms d_i rounded up (b, p), the sums they are roots of, and R_d for d of `half_lags`.

    With ``A = sum_k |K_k|`` the errors of channel i add up to at most gamma of the roundings of a lag times entry i of
    ``A^T A 1``.
    """
    xp = ops.xp
    wide = arrays.tall(blocks, xp=xp)
    if not (ops.exact_float32 and wide.dtype == xp.float32):
        wide = arrays.in_wide_dtype(wide, ops=ops)
    b, m, p, *kernel_shape = wide.shape
    u = rounding.unit(wide, xp=xp)
    taps = xp.reshape(stacked_taps(wide, xp=xp), (b, -1, m, p))
    tap_count = taps.shape[1]
    lags = lag_products(wide, wide, ops=ops)
    magnitudes = xp.abs(lags)
    # Lags -d have the transposed matrices.
    other_lags = xp.sum(magnitudes[:, 1:, ...], axis=1)
    sums = xp.sum(magnitudes[:, 0, ...], axis=2) + xp.sum(other_lags, axis=2) + xp.sum(other_lags, axis=1)
    a = xp.sum(xp.abs(taps), axis=1)
    products = xp.matmul(xp.matrix_transpose(a), xp.sum(a, axis=2)[..., None])[..., 0]
    relative = rounding.SLACK * rounding.gamma(roundings(wide, xp=xp), u)
    # Products below the smallest normal number may be flushed to 0.
    underflow = m * p * 2.0 ** len(kernel_shape) * tap_count**2 * float(xp.finfo(wide.dtype).smallest_normal)
    error = rounding.up(products, 2 * tap_count + m + p, xp=xp) * relative + underflow
    norms = rounding.up(xp.sqrt(rounding.up(sums, p + lags.shape[1] + 4, xp=xp) + error), 2, xp=xp)
    norms = xp.where(xp.max(xp.abs(taps), axis=(1, 2)) == 0, 0.0, norms)
    return norms, xp.where(sums > error, sums, 0.0), lags


@functools.lru_cache(maxsize=32)
def tables(grid: tuple[int, ...]) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """Multiplicities of the frequencies of a half grid, and the tables that transform its values to taps.

    A frequency has the multiplicity 2 if it stands for its mirror image, too. The table of an axis of N points has
    ``e^{-2 pi i m j / N}`` in the row of tap m and the column of point j, on the halved axis times the multiplicity.
    """
    if not grid:
        return np.ones(1), []
    counts = half_grid_shape(grid)
    # Every axis has an odd number of points. So a frequency stands for its mirror image unless it is 0 on the halved
    # axis, where the half grid has both.
    place_on_halved = np.indices(counts)[halved_axis(grid)].reshape(-1)
    multiplicity = np.where(place_on_halved > 0, 2.0, 1.0)
    tables = []
    for n, count in zip(grid, counts, strict=True):
        cos, sin = cos_sin(np.arange(n)[:, None] * np.arange(count)[None, :], n)
        is_halved = count < n
        weights = np.where((np.arange(count) > 0) & is_halved, 2.0, 1.0)
        tables.append((cos * weights, -sin * weights))
    return multiplicity, tables


@functools.lru_cache(maxsize=64)
def real_table(grid: tuple[int, ...], axis: int, *, half: bool, parts_first: bool) -> np.ndarray:
    """The table of an axis of `tables` as a real matrix for real and imaginary parts, read-only.

    Parameters
    ----------
    half : bool
        Whether the halved axis has its taps m >= 0 only, and twice those with m > 0.
    parts_first : bool
        Whether the columns are all real parts and then all imaginary ones; else the parts alternate. So do the rows,
        but those of the halved axis are real parts only.
    """
    real, imag = tables(grid)[1][axis]
    if axis == halved_axis(grid):
        if half:
            count = real.shape[1]
            weights = np.where(np.arange(count) > 0, 2.0, 1.0)[:, None]
            real, imag = real[:count] * weights, imag[:count] * weights
        rows = np.stack([real, -imag])[:, None]
    else:
        rows = np.stack([np.stack([real, imag]), np.stack([-imag, real])])
    # Axes: the part in the columns, the part in the rows, row, column.
    rows = rows.transpose(1, 2, 0, 3) if parts_first else rows.transpose(2, 1, 3, 0)
    table = np.ascontiguousarray(rows.reshape(rows.shape[0] * rows.shape[1], -1))
    table.flags.writeable = False
    return table


def contract(x: Array, tables_: list[Array], *, xp: Namespace) -> Array:
    """Multiply tables onto the axes of (b, prod(columns of the tables), p, r)."""
    b, _, p, r = x.shape
    sizes = [table.shape[1] for table in tables_]
    for axis, table in enumerate(tables_):
        before, after = math.prod(sizes[:axis]), math.prod(sizes[axis + 1 :])
        x = xp.matmul(table, xp.reshape(x, (b, before, sizes[axis], after * p * r)))
        sizes[axis] = table.shape[0]
    return xp.reshape(x, (b, math.prod(sizes), p, r))


def powers_residuals(
    blocks: Array,
    grid: GramTaps,
    columns: Array,
    selector: Array,
    sums: Array,
) -> tuple[Array, ...]:
    """Residuals of `powers_vjp`: leading axis b, then the chunks of frequencies.

    Parameters
    ----------
    blocks : array, shape (b, cout, cin, *kernel_shape)
        Scaled, in the kernel's precision.
    columns, selector, sums : arrays, shapes (b, taps, p, r), (b, p, r) and (b, p)
        Some of the taps, of which channels they are, and the channels' sums.
    """
    xp, ops = grid.xp, grid.ops
    b = columns.shape[0]
    # Traced chunks are as large as the memory allows, since every one is compiled by itself.
    at_once = _frequencies_at_once(blocks, ops=ops) if ops.concrete else symbols.chunk_length(blocks, ops=ops)
    chunks = -(-len(grid.points) // at_once)
    step = -(-len(grid.points) // chunks)
    phase = ops.complex(*device_tables(*cos_sin_of_taps(grid.points, blocks.shape[3:]), sums, ops=ops))
    # The signs of the taps, transformed back to the frequencies.
    adjoint_tables = [
        ops.complex(*device_tables(real.T, -imag.T, grid.symbol.like, ops=ops)) for real, imag in tables(grid.grid)[1]
    ]
    signs = xp.astype(xp.sign(columns), arrays.complex_dtype(grid.symbol.like.dtype, xp=xp))
    transformed = contract(signs, adjoint_tables, xp=xp)
    transformed = xp.astype(transformed, arrays.complex_dtype(blocks.dtype, xp=xp), copy=False)

    def in_chunks(x: Array) -> Array:
        missing = chunks * step - x.shape[1]
        if missing:
            zeros = xp.zeros((b, missing, *x.shape[2:]), dtype=x.dtype, device=ops.device(x))
            x = xp.concat([x, zeros], axis=1)
        return xp.reshape(x, (b, chunks, step, *x.shape[2:]))

    return blocks, in_chunks(transformed), selector, sums, in_chunks(xp.broadcast_to(phase, (b, *phase.shape)))


def _frequencies_at_once(blocks: Array, *, ops: ArrayOps) -> int:
    """Frequencies of a chunk of the backward pass.

    Their matrices, of which five are alive at a time, take as many bytes as the kernel, but at least `GramTuning`'s.
    """
    least_bytes = TUNING.backward_host if ops.on_host else TUNING.backward_device
    bytes_of_a_frequency = 5 * 16 * math.prod(blocks.shape[:3])
    return int(max(1, max(8 * math.prod(blocks.shape), least_bytes) // bytes_of_a_frequency))
