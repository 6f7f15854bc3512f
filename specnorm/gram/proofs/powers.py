"""Powers of a convolution's Gram matrix, on a grid of as many points as they have taps, and sums that bound its norm.

After t products, ``H_t = (G* G)**(2**(t-1))`` has ``2**t (k_j - 1) + 1`` taps an axis: the first product is G* G, and
each other one squares the last. On a grid of as many points nothing aliases, so that its taps R_t are the inverse
Fourier transform of its values there.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from specnorm.backends import arrays
from specnorm.proofs import norms as matrix_norms
from specnorm.proofs import rounding
from specnorm.proofs.frequencies import Frequencies, phase_error, tap_points
from specnorm.symbols.proofs.lags import Lags
from specnorm.symbols.proofs.polynomial import Polynomial

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps

CHUNK = 2**24
"""Bytes of the matrices of a chunk of frequencies, on the host or in the backward pass, which takes more if the kernel
is larger: calls of small arrays take most of the time, and large ones leave the cache."""


@functools.lru_cache(maxsize=64)
def tap_grid(kernel_shape: tuple[int, ...], n_iter: int) -> tuple[int, ...]:
    """Number of taps along each axis of the kernel that ``n_iter`` Gram products of a kernel make."""
    return tuple(2**n_iter * (k - 1) + 1 for k in kernel_shape)


@functools.lru_cache(maxsize=32)
def _centred_taps(grid: tuple[int, ...]) -> np.ndarray:
    """Taps m of a kernel with odd sizes and the tap 0 in its middle: along each axis in the order 0, 1, ..., -2, -1.

    Returns (n, d); read-only.
    """
    middle = np.asarray([n // 2 for n in grid], dtype=np.int64)
    taps = tap_points(grid)
    taps = np.where(taps > middle, taps - np.asarray(grid, dtype=np.int64), taps)
    taps.flags.writeable = False
    return taps


class GramSymbol:
    """The symbols of powers of Gram matrices, from their taps R_m, with bounds of all taps together.

    Their real matrices are ``sum_m R_m (cos(m.theta) + sin(m.theta))``.

    Parameters
    ----------
    upper : array, shape (b, taps, p (p + 1) / 2)
        The entries of `_upper_places` of each R_m, for the taps m of `_centred_taps`. The others are those of
        ``R_{-m} = R_m^T``.
    grid : tuple of int
        Number of taps along each axis.
    sums : array, shape (b,)
        Bound of the sum of the magnitudes in a row over all taps, so of the norms at all frequencies.
    lost : array, shape (b,)
        Bound of the norm of the error of the symbol with these taps at any frequency.

    Attributes
    ----------
    shape : tuple of int
        (b, p, p, *grid), as that of a `Polynomial`.
    """

    def __init__(self, upper: Array, grid: tuple[int, ...], sums: Array, lost: Array, *, ops: ArrayOps) -> None:
        self.upper = upper
        self.grid = grid
        self.sums = sums
        self.lost = lost
        self._ops = ops
        p = (math.isqrt(8 * upper.shape[2] + 1) - 1) // 2
        self.shape = (upper.shape[0], p, p, *grid)

    @functools.cached_property
    def coefficients(self) -> Array:
        """All entries of the real matrices' coefficients, (b, taps, p * p)."""
        xp = self._ops.xp
        # Above the diagonal an entry of R_m is its own, below it is that of R_{-m} at the mirrored place.
        opposite = xp.take(self.upper, self._ops.from_numpy(_opposite_taps(self.grid), self.upper), axis=1)
        both = xp.concat([self.upper, opposite], axis=2)
        return xp.take(both, self._ops.from_numpy(_places_of_entries(self.shape[2])[1], self.upper), axis=2)

    @functools.cached_property
    def error(self) -> Array:
        """Bound (b,) of the norm of the error at any frequency."""
        xp = self._ops.xp
        n, p = self.upper.shape[1], self.shape[2]
        # The roundings of a term: those of the coefficient in both precisions, of one half of the sum, and of both
        # halves. For m and -m together, `cos + sin` has a mean square of 1. So the errors' norm is at most that of the
        # sum of the taps' magnitudes, which is symmetric: its largest row sum.
        u = rounding.unit(self.upper, xp=xp)
        of_sum = rounding.SLACK * (rounding.gamma(n - n // 2 + 4, u) + 2.5 * phase_error(u))
        # Coefficients below the smallest normal number may be flushed to 0.
        underflow = 4 * n * p * float(xp.finfo(self.upper.dtype).smallest_normal)
        return rounding.up(self.lost + self.sums * of_sum, 4, xp=xp) + underflow

    def at(self, frequencies: Frequencies) -> Array:
        """The real matrices at some frequencies, (b, f, p, p)."""
        xp, (b, p) = self._ops.xp, self.shape[:2]
        cos, sin = frequencies.cos_sin(_centred_taps(self.grid))
        table = arrays.device_table(cos + sin, self.upper, ops=self._ops)
        half = self.upper.shape[1] // 2
        matrices = xp.matmul(table[:, half:], self.coefficients[:, half:, :])
        matrices += xp.matmul(table[:, :half], self.coefficients[:, :half, :])
        return xp.reshape(matrices, (b, -1, p, p))


def _parts_at(polynomial: Polynomial, frequencies: Frequencies, *, ops: ArrayOps) -> Array:
    """``Re G``, ``Im G``, ``Re G + Im G``, ``Im G - Re G`` one below another, at f frequencies: (b, f, 4 m, p)."""
    xp = ops.xp
    b, m, p, *taps = polynomial.shape
    cos, sin = frequencies.cos_sin(tap_points(tuple(taps)))
    host_table = np.stack([cos, sin, cos + sin, sin - cos], axis=1).reshape(4 * len(cos), -1)
    table = arrays.device_table(host_table, polynomial.coefficients, ops=ops)
    by_tap = xp.matrix_transpose(xp.reshape(polynomial.coefficients, (b, m * p, -1)))
    return xp.reshape(xp.matmul(table, by_tap), (b, -1, 4 * m, p))


def _halves(x: Array) -> tuple[Array, Array]:
    """The upper and the lower halves of matrices."""
    height = x.shape[2] // 2
    return x[:, :, :height, :], x[:, :, height:, :]


def _gram(x: Array, *, xp: Namespace) -> Array:
    """The real matrices of ``G* G``, (b, f, p, p), from `_parts_at`."""
    left, right = _halves(x)
    return xp.matmul(xp.matrix_transpose(left), right)


def _columns_of_gram(x: Array, some: Callable[[Array], Array], *, xp: Namespace) -> tuple[Array, Array]:
    """Some columns of `_gram`, and of its transposed matrices."""
    left, right = _halves(x)
    return xp.matmul(xp.matrix_transpose(left), some(right)), xp.matmul(xp.matrix_transpose(right), some(left))


def _columns_of_square(x: Array, some: Callable[[Array], Array], *, xp: Namespace) -> tuple[Array, Array]:
    """Some columns of `matrix_norms.square_of_hermitian`, and of its transposed matrices."""
    even, odd = matrix_norms.parts_of_hermitian(x, xp=xp)
    x_t = xp.matrix_transpose(x)
    some_columns = xp.matmul(x, some(even)) + xp.matmul(x_t, some(odd))
    return some_columns, xp.matmul(even, some(x_t)) - xp.matmul(odd, some(x))


class GramTaps:
    """``H_t`` of a stack of symbols X, on a grid of as many points as it has taps: values or taps, with error bounds.

    A Hermitian matrix ``A + i B`` is computed as the real matrix ``A + B`` (`norms.square_of_hermitian`): an entry and
    its mirror image in ``A + B`` give those of ``A + i B``.

    Parameters
    ----------
    symbol : Polynomial or GramSymbol
        X.
    n_iter : int
        t >= 1: the first product is X* X, and each other one squares the last.

    Attributes
    ----------
    weights : array, shape (f,)
        1, or 2 for a frequency that stands for its mirror image, too.
    error : array, shape (b,)
        Of a `GramSymbol`, its error. Of a polynomial: e such that the first product, beside its roundings, is off by at
        most ``2 n e + 3 e**2`` at any frequency. Here n**2 is a bound of its norm as computed. Let a be the error of G
        (`Polynomial.error`), and G' the matrix whose parts are the upper half of `_parts_at`. The lower half is off the
        parts of ``(1 - i) G`` by at most 2.5 a, and off those of ``(1 - i) G'`` by at most 3.92 a. So the matrices that
        belong to their product are off ``G'* G'`` by at most ``5.6 a ||G'||``, and these by ``2 a ||G'|| + a**2``. With
        ``||G'|| <= n + 5.6 a``, e is 4 a.
    """

    def __init__(self, symbol: Polynomial | GramSymbol, n_iter: int, *, ops: ArrayOps) -> None:
        self.symbol = symbol
        self.error = 4 * symbol.error if isinstance(symbol, Polynomial) else symbol.error
        self.n_iter = n_iter
        self.xp = ops.xp
        self.ops = ops
        self.grid = tap_grid(tuple(symbol.shape[3:]), n_iter)
        self.points = Frequencies.half_grid(self.grid)
        self.weights = arrays.device_table(tables(self.grid)[0], self.error, ops=ops)

    def chunks(self) -> Iterator[tuple[slice, Array]]:
        """Parts of the frequencies that fit the memory budget (on the host, the cache), and X there."""
        entries = math.prod(self.symbol.shape[:3])
        step = Polynomial.frequencies_in_memory(entries, math.prod(self.symbol.shape[3:]), ops=self.ops)
        if self.ops.concrete and self.ops.on_host:
            step = min(step, max(1, CHUNK // (8 * entries)))
        for start in range(0, len(self.points), step):
            part = slice(start, min(start + step, len(self.points)))
            yield part, self.at(self.points[part])

    def at(self, frequencies: Frequencies) -> Array:
        """X at some frequencies, as it is multiplied."""
        if isinstance(self.symbol, Polynomial):
            return _parts_at(self.symbol, frequencies, ops=self.ops)
        return self.symbol.at(frequencies)

    def transform(self, pairs: Array) -> Array:
        """The taps of Hermitian matrices: the real part of their sum over the whole grid with ``e^{-i m.theta}``.

        The grid is halved along one axis, as values at mirror images are conjugate. That axis is transformed last,
        where only the real part is needed.

        ``pairs`` (b, f, 2, r): entries of the real matrices, and those of the transposed ones. Returns (b, taps, r).
        """
        xp = self.xp
        b, _, _, r = pairs.shape
        if not self.grid:
            return xp.sum(pairs, axis=2) / 2
        # The halved axis comes first.
        axes, tables_ = real_tables(self.grid)
        x = pairs
        if axes[0]:
            x = xp.reshape(x, (b, *Frequencies.half_grid_shape(self.grid), 2, r))
            x = xp.permute_dims(x, (0, *(1 + axis for axis in axes), 1 + len(axes), 2 + len(axes)))
        for before, host_table in tables_:
            # Both parts lie on the next axis, before those that are transformed already: so a complex product with a
            # table is one real product, whose rows have both parts before the taps.
            table = arrays.device_table(host_table, pairs, ops=self.ops)
            x = xp.matmul(table, xp.reshape(x, (b * before, table.shape[1], -1)))
        if axes[0]:
            x = xp.reshape(x, (b, *(self.grid[axis] for axis in axes), r))
            back = arrays.inverse_permutation(axes)
            x = xp.permute_dims(x, (0, *(1 + axis for axis in back), 1 + len(axes)))
        return xp.reshape(x, (b, -1, r))

    def upper_entries(self, values: Array, start: int, stop: int) -> Iterator[Array]:
        """The taps of parts of the entries (i, j) with ``i <= j`` and ``start <= j < stop``, shape (b, taps, r) each.

        The entries are in the order of their columns j, and on the host as many at once as fit the cache.

        ``values``: of `values`: for all columns, or from start to stop.
        """
        xp, ops = self.xp, self.ops
        b, f = values.shape[:2]
        every_place = _upper_places(self.symbol.shape[2], start, stop, pairs=values.ndim > 4)
        at_once = every_place.shape[1]
        if ops.concrete and ops.on_host:
            itemsize = 8 if values.dtype == xp.float64 else 4
            at_once = max(1, CHUNK // (2 * itemsize * b * f))
        flat = xp.reshape(values, (b, f, -1))
        for first in range(0, every_place.shape[1], at_once):
            places = every_place[:, first : first + at_once]
            pairs = xp.take(flat, ops.from_numpy(places.reshape(-1), values), axis=2)
            yield self.transform(xp.reshape(pairs, (b, f, 2, places.shape[1])))

    def taps(self) -> GramSymbol:
        """The symbol with the taps of ``H_t``."""
        xp, p = self.xp, self.symbol.shape[2]
        values, lost = self.values(None)
        upper = arrays.joined(list(self.upper_entries(values, 0, p)), axis=2, xp=xp)
        upper *= 1 / math.prod(self.grid)
        sums = row_sums(xp.sum(xp.abs(upper), axis=1), p, ops=self.ops)
        largest = rounding.up(xp.max(sums, axis=1), upper.shape[1] + p, xp=xp)
        return GramSymbol(upper, self.grid, largest, lost, ops=self.ops)

    def values(self, columns: slice | Array | None) -> tuple[Array, Array]:
        """The real matrices of ``H_t`` at the frequencies, and a bound (b,) on what all errors add to the taps' norm.

        At a frequency let X be the matrix of which X* X is formed next, and e a bound of the norm of its error, at
        first the symbol's. The next one is off by at most ``2 ||X|| e + 3 e**2 + product_error ||X||_F**2``, where the
        symbol's own first product needs the factor 3 (`error`).
        The errors are taps E_m of a polynomial on the same grid: for any unit vector u,
        ``sum_m ||E_m u|| <= sqrt(sum_theta ||E(theta) u||**2) <= sqrt(sum_theta e(theta)**2)`` (Parseval). The inverse
        transform, a product with a table an axis, is off in each tap by at most ``c`` times the mean of
        ``|H(theta)|``, over all taps by ``c sqrt(N) sqrt(sum_theta ||H(theta)||_F**2)``.

        ``columns`` (b, p, r): columns that are computed, or those of the identity that select them; None for all.
        Returns ``values`` (b, f, p, p), or (b, f, 2, p, r): all columns; or some of the matrices and the same of the
        transposed ones; ``lost`` (b,).
        """
        xp = self.xp
        m, p = self.symbol.shape[1:3]
        u = rounding.unit(self.error, xp=xp)
        is_of_kernel = isinstance(self.symbol, Polynomial)
        product_errors, transform_error, roundings = _error_factors(self.n_iter, m, p, self.grid, u, is_of_kernel)
        values = []
        error_sum_sq = norm_sum_sq = xp.zeros_like(self.error)
        for part, factor in self.chunks():
            some_values, error, norm_sq = self._powers(factor, product_errors, columns)
            weights = self.weights[part]
            error_sum_sq = error_sum_sq + xp.vecdot(error**2, weights)
            norm_sum_sq = norm_sum_sq + xp.vecdot(norm_sq, weights)
            values.append(some_values)
        # Numbers below the smallest normal one may be flushed to 0. At a frequency, a product loses at most 16 m p of
        # it, and doubles what the last one lost, as norms are at most 1 (`Powers`): 16 2**t m p in all. Of the sum of
        # squared errors, each frequency's square may be lost.
        smallest = float(xp.finfo(self.error.dtype).smallest_normal)
        underflow = 16 * 2.0**self.n_iter * m * p * math.prod(self.grid) * smallest
        error_sum_sq = error_sum_sq + 4 * len(self.points) * smallest
        error = xp.sqrt(error_sum_sq) + xp.sqrt(norm_sum_sq) * transform_error
        return arrays.joined(values, axis=1, xp=xp), rounding.up(error, roundings, xp=xp) + underflow

    def _powers(
        self, x: Array, product_errors: Sequence[float], columns: slice | Array | None
    ) -> tuple[Array, Array, Array]:
        """``H_t`` at some frequencies, with what bounds its errors, but for the roundings of these bounds.

        ``x``: of `at`. ``product_errors``: of each product, its error relative to the squared Frobenius
        norm of its factors. Returns ``values``: as of `values`; ``error`` (b, f): e of `values`; ``norm_sq`` (b, f):
        ``||H_t||_F**2``, or more.
        """
        xp = self.xp
        norms_sq = [_squares(x, xp=xp)]
        for t in range(self.n_iter):
            is_gram = t == 0 and isinstance(self.symbol, Polynomial)
            product = _gram if is_gram else matrix_norms.square_of_hermitian
            some_columns = _columns_of_gram if is_gram else _columns_of_square
            if columns is None or t < self.n_iter - 1:
                x = product(x, xp=xp)
                norms_sq.append(_squares(x, xp=xp))
            else:
                x = xp.stack(some_columns(x, functools.partial(self._some, columns), xp=xp), axis=2)
                # Where some columns are not computed: ||X* X||_F <= ||X||_F**2.
                norms_sq.append(norms_sq[-1] ** 2)
        error = self.error[:, None]
        for factor_norm_sq, square_norm_sq, relative_error in zip(norms_sq, norms_sq[1:], product_errors, strict=False):
            product_error = factor_norm_sq * relative_error
            # ||X||**2 = ||X* X||, bounded by the Frobenius norm of X* X as computed and its error.
            norm = xp.sqrt(xp.sqrt(square_norm_sq) + product_error)
            error = (2 * norm + 3 * error) * error + product_error
        return x, error, norms_sq[-1]

    def _some(self, columns: slice | Array, matrices: Array) -> Array:
        """Some columns of matrices."""
        if isinstance(columns, slice):
            return matrices[:, :, :, columns]
        return self.xp.matmul(matrices, self.xp.astype(columns, matrices.dtype)[:, None, :, :])


def _squares(x: Array, *, xp: Namespace) -> Array:
    """Squared Frobenius norm of each real matrix of a stack, shape (b, f)."""
    flat = xp.reshape(x, (*x.shape[:2], -1))
    return xp.vecdot(flat, flat)


def row_sums(upper: Array, p: int, *, ops: ArrayOps) -> Array:
    """Sums of the rows of symmetric matrices, (b, p), from their upper entries, (b, p (p + 1) / 2)."""
    xp = ops.xp
    every_entry = xp.take(upper, ops.from_numpy(_places_of_entries(p)[0], upper), axis=1)
    return xp.sum(xp.reshape(every_entry, (-1, p, p)), axis=2)


@functools.lru_cache(maxsize=8)
def _upper_places(p: int, start: int, stop: int, *, pairs: bool) -> np.ndarray:
    """Where `GramTaps.values` has the entries (i, j) with ``i <= j`` and ``start <= j < stop``, and then (j, i).

    ``pairs``: whether only these columns are there, and after them those of the transposed matrices.
    """
    columns = np.repeat(np.arange(start, stop), np.arange(start, stop) + 1)
    rows = np.concatenate([np.arange(j + 1) for j in range(start, stop)])
    if not pairs:
        return np.stack([rows * p + columns, columns * p + rows])
    width = stop - start
    places = rows * width + columns - start
    return np.stack([places, p * width + places])


@functools.lru_cache(maxsize=8)
def _places_of_entries(p: int) -> tuple[np.ndarray, np.ndarray]:
    """The place of each entry of a symmetric matrix among its upper entries, column by column: two arrays (p * p,).

    In the second, the entries below the diagonal are in a second list of as many entries.
    """
    i, j = np.indices((p, p)).reshape(2, -1)
    larger = np.maximum(i, j)
    places = larger * (larger + 1) // 2 + np.minimum(i, j)
    return places, np.where(i > j, places + p * (p + 1) // 2, places)


@functools.lru_cache(maxsize=32)
def _opposite_taps(grid: tuple[int, ...]) -> np.ndarray:
    """The places of the taps -m among those of `_centred_taps`."""
    places = np.arange(math.prod(grid)).reshape(grid)
    for axis in range(len(grid)):
        places = np.roll(np.flip(places, axis), 1, axis)
    places = places.reshape(-1)
    places.flags.writeable = False
    return places


def _error_factors(
    n_iter: int, m: int, p: int, grid: tuple[int, ...], u: float, is_of_kernel: bool
) -> tuple[tuple[float, ...], float, int]:
    """Factors of the errors that `GramTaps.values` bounds, for a unit roundoff u.

    ``is_of_kernel``: whether the first product is that of a kernel's symbols. Returns ``product_errors``: of each
    product, its error relative to the squared Frobenius norm of what it is computed from; ``transform_error``: ``c
    sqrt(N)``; ``roundings``: of the bound of all errors itself.
    """
    # That of `norms.square_of_hermitian`. A kernel's product has 2 m terms: relative to the product of the norms of its
    # factors, at most half the sum of their squares.
    of_square = rounding.SLACK * math.sqrt(2) * rounding.gamma(p + 3, u)
    of_kernel = rounding.SLACK * rounding.gamma(2 * m, u) / 2
    product_errors = (of_kernel if is_of_kernel else of_square, *[of_square] * (n_iter - 1))
    # A complex number takes two products of real ones; the margins cover the division by the number of points. A table
    # may have sums of a cosine and a sine (`real_tables`).
    counts = Frequencies.half_grid_shape(grid)
    axis_errors = [math.sqrt(2) * (rounding.gamma(2 * n + 8, u) + 2.5 * phase_error(u)) for n in counts]
    transform_error = rounding.SLACK * (sum(axis_errors) + 4 * u) * math.sqrt(math.prod(grid))
    # All numbers are sums, products and roots of numbers that are not negative. A squared norm has n roundings, those
    # of a sum of 4 m p or p**2 products. If a bound e has r, the next has 2 r + n + 6: so at most (2**t - 1) (n + 12)
    # after t, as the first has 2. The last square doubles them, and the root halves them and those of the sum.
    n = max(4 * m, p) * p + 4
    return product_errors, transform_error, (2**n_iter - 1) * (n + 12) + math.prod(counts) + 8


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
    """

    def __init__(self, blocks: Array, n_iter: int, *, ops: ArrayOps) -> None:
        xp = ops.xp
        self.n_iter = n_iter
        self.xp = xp
        self.ops = ops
        wide = arrays.in_wide_dtype(arrays.tall(blocks, xp=xp), ops=ops)
        polynomial = Polynomial(wide, xp=xp)
        self._is_zero = polynomial.absolute_norm_up == 0
        # Powers of matrices with a Frobenius norm of at most 1 stay so.
        flat = xp.reshape(polynomial.sums_of_magnitudes, (blocks.shape[0], -1))
        self._factor = _factor_to_one(xp.sqrt(xp.vecdot(flat, flat)), xp=xp)
        scaled = Polynomial(wide * _by_block(self._factor, blocks.ndim, xp=xp), xp=xp)
        # The error of the last square that is the same at every frequency.
        self._last_error: Array | float = 0.0
        first_products = self._first_products(wide)
        later_products = n_iter - first_products
        self._taps = GramTaps(scaled, first_products, ops=ops)
        if later_products:
            self._taps = GramTaps(self._symbol_of(self._taps.taps(), later_products), later_products, ops=ops)
        self._blocks = blocks

    def _first_products(self, blocks: Array) -> int:
        """Number of products whose taps are computed first: two, or one if two make many taps."""
        p = blocks.shape[2]
        two = math.prod(tap_grid(tuple(blocks.shape[3:]), 2))
        return min(2 if two <= 4 * p else 1, max(1, self.n_iter - 1))

    def _symbol_of(self, first: GramSymbol, later_products: int) -> GramSymbol:
        """The symbol whose powers are the later products."""
        if later_products > 1:
            return first
        # The error of the square by that of the taps is the same at every frequency. So it is less than the errors of
        # `GramTaps`, which are summed over the grid.
        self._last_error = rounding.up(2 * first.sums * first.lost + first.lost**2, 4, xp=self.xp)
        return GramSymbol(first.upper, first.grid, first.sums, self.xp.zeros_like(first.lost), ops=self.ops)

    def channel_norms(self) -> tuple[Array, Array, Array | None]:
        """Norms d_i rounded up (b, p), the sums they are roots of (b, p), and values at the frequencies.

        The sums are in the scale of the scaled blocks. The values are None if they do not fit the memory.
        """
        xp = self.xp
        sums, error, values = self._sums_of_taps()
        error = (error + self._last_error)[:, None]
        norms = sums + error
        for _ in range(self.n_iter):
            norms = xp.sqrt(norms)
        # The roundings of the sums, the roots and the quotients. A zero block needs no allowance.
        norms = rounding.up(norms / self._factor[:, None], self.n_iter + 4, xp=xp)
        norms = xp.where(self._is_zero[:, None], 0.0, norms)
        # Sums of rounding errors alone have no gradient.
        return norms, xp.where(sums > error, sums, 0.0), values

    def _sums_of_taps(self) -> tuple[Array, Array, Array | None]:
        """Sums (b, p) over the taps of each channel's magnitudes, their error (b,), and values that fit or None."""
        xp, ops, last = self.xp, self.ops, self._taps
        b, _, p = last.symbol.shape[:3]
        points, taps = len(last.points), math.prod(last.grid)
        itemsize = 8 if last.error.dtype == xp.float64 else 4
        # Columns at once: of a matrix and the transposed one, twice while they are put together.
        width = max(1, min(p, ops.memory // (4 * itemsize * b * points * p)))
        magnitudes = []
        values: Array | None = None
        for start in range(0, p, width):
            stop = min(start + width, p)
            values, error = last.values(None if width == p else slice(start, stop))
            magnitudes += [xp.sum(xp.abs(part), axis=1) for part in last.upper_entries(values, start, stop)]
        sums = row_sums(arrays.joined(magnitudes, axis=1, xp=xp), p, ops=ops) / taps
        # The sums over taps and channels, and the division.
        return rounding.up(sums, taps + p + 2, xp=xp), error, values if width == p else None

    def residuals(
        self,
        values: Array | None,
        selector: Array,
        sums: Array,
    ) -> tuple[Array, ...]:
        """Residuals of `powers_vjp` for selected channels (b, p, r).

        ``values``: of `channel_norms`; None if they did not fit: those of the selected channels are computed again.
        ``selector`` (b, p, r): columns of the identity that select the channels. ``sums`` (b, p): of `channel_norms`.
        """
        xp, last = self.xp, self._taps
        if values is None:
            chosen, _ = last.values(selector)
        else:
            vectors = xp.astype(selector, values.dtype)[:, None, :, :]
            chosen = xp.stack([xp.matmul(x, vectors) for x in (values, xp.matrix_transpose(values))], axis=2)
        factor = xp.astype(self._factor, self._blocks.dtype)
        scaled = self._blocks * _by_block(factor, self._blocks.ndim, xp=xp)
        b, f, _, p, r = chosen.shape
        taps = xp.reshape(last.transform(xp.reshape(chosen, (b, f, 2, p * r))), (b, -1, p, r))
        return powers_residuals(scaled, last, taps, selector, sums)


def exponent_above(norm: Array, *, xp: Namespace) -> Array:
    """Exponent of a power of two that is larger than each norm; of 0, that of 2."""
    return xp.floor(xp.log2(xp.where(norm > 0, norm, 1.0))) + 1


def _factor_to_one(norm: Array, *, xp: Namespace) -> Array:
    """Power of two by which each norm becomes at most 1."""
    return arrays.power_of_two(-exponent_above(norm, xp=xp), xp=xp)


def _by_block(numbers: Array, ndim: int, *, xp: Namespace) -> Array:
    """Numbers (b,) as an array (b, 1, ...) of so many axes."""
    return xp.reshape(numbers, (-1,) + (1,) * (ndim - 1))


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

    ``shape``: of the kernel of a group. ``precision``: machine epsilon and smallest normal number of the quotients.
    """
    eps, tiny = precision
    taps = math.prod(shape[2:])
    quotients = 2 * eps * (math.sqrt(taps * min(shape[:2])) + 2)
    underflow = tiny * taps * math.sqrt(shape[0] * shape[1])
    lift = 1 + quotients + underflow
    # A zero channel stays zero.
    return xp.where(norms > 0, norms * lift, 1.0)


def lag_norms(blocks: Array, *, ops: ArrayOps) -> tuple[Array, Array, Array]:
    """One product, lag by lag: norms d_i rounded up (b, p), the sums they are roots of, and R_d for d of `Lags.points`.

    With ``A = sum_k |K_k|`` the errors of channel i add up to at most gamma of the roundings of a lag times entry i of
    ``A^T A 1``.
    """
    xp = ops.xp
    wide = arrays.tall(blocks, xp=xp)
    if not (ops.exact_float32 and wide.dtype == xp.float32):
        wide = arrays.in_wide_dtype(wide, ops=ops)
    m, p, *kernel_shape = wide.shape[1:]
    u = rounding.unit(wide, xp=xp)
    polynomial = Polynomial(wide, xp=xp)
    lags = Lags.products(wide, wide, ops=ops)
    magnitudes = xp.abs(lags)
    # Lags -d have the transposed matrices.
    other_lags = xp.sum(magnitudes[:, 1:, ...], axis=1)
    sums = xp.sum(magnitudes[:, 0, ...], axis=2) + xp.sum(other_lags, axis=2) + xp.sum(other_lags, axis=1)
    a = polynomial.sums_of_magnitudes
    products = xp.matmul(xp.matrix_transpose(a), xp.sum(a, axis=2)[..., None])[..., 0]
    relative = rounding.SLACK * rounding.gamma(Lags.roundings(wide, xp=xp), u)
    # Products below the smallest normal number may be flushed to 0.
    underflow = m * p * 2.0 ** len(kernel_shape) * polynomial.taps**2 * float(xp.finfo(wide.dtype).smallest_normal)
    error = rounding.up(products, 2 * polynomial.taps + m + p, xp=xp) * relative + underflow
    norms = rounding.up(xp.sqrt(rounding.up(sums, p + lags.shape[1] + 4, xp=xp) + error), 2, xp=xp)
    norms = xp.where(xp.max(a, axis=1) == 0, 0.0, norms)
    return norms, xp.where(sums > error, sums, 0.0), lags


@functools.lru_cache(maxsize=32)
def tables(grid: tuple[int, ...]) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """Multiplicities of the frequencies of a half grid, and the tables that transform its values to taps.

    A frequency has the multiplicity 2 if it stands for its mirror image, too. The table of an axis of N points has
    ``e^{-2 pi i m j / N}`` in the row of tap m and the column of point j, on the halved axis times the multiplicity.
    """
    if not grid:
        return np.ones(1), []
    counts = Frequencies.half_grid_shape(grid)
    # Every axis has an odd number of points. So a frequency stands for its mirror image unless it is 0 on the halved
    # axis, where the half grid has both.
    place_on_halved = np.indices(counts)[Frequencies.halved_axis(grid)].reshape(-1)
    multiplicity = np.where(place_on_halved > 0, 2.0, 1.0)
    tables = []
    for n, count in zip(grid, counts, strict=True):
        cos, sin = (x.T for x in Frequencies.along_axis(count, n).cos_sin(tap_points((n,))))
        is_halved = count < n
        weights = np.where((np.arange(count) > 0) & is_halved, 2.0, 1.0)
        tables.append((cos * weights, -sin * weights))
    return multiplicity, tables


@functools.lru_cache(maxsize=32)
def real_tables(grid: tuple[int, ...]) -> tuple[list[int], list[tuple[int, np.ndarray]]]:
    """The tables of `tables` as real matrices, for the transform of pairs of a sum and a difference.

    ``grid``: odd numbers of points, as Gram powers have; the multiplicities are wrong for others.

    The columns of a table are the axis's points, with both parts of a number for each of them; on the axis that comes
    first, their sum and their difference. The rows are the real parts for all taps, and then the imaginary ones, but on
    the halved axis.

    Returns ``axes``: the halved axis, and the others; ``tables``: of the axes from the last to the first: the number of
    points on the axes before it, and its table.
    """
    halved, counts = Frequencies.halved_axis(grid), Frequencies.half_grid_shape(grid)
    axes = [halved, *(axis for axis in range(len(grid)) if axis != halved)]
    real_tables = []
    for place in reversed(range(len(axes))):
        real, imag = tables(grid)[1][axes[place]]
        rows = [(real, -imag), (imag, real)] if place else [(real, -imag)]
        if place == len(axes) - 1:
            rows = [((x + y) / 2, (x - y) / 2) for x, y in rows]
        table = np.concatenate([np.stack(row, axis=2).reshape(len(real), -1) for row in rows])
        table.flags.writeable = False
        real_tables.append((math.prod(counts[axis] for axis in axes[:place]), table))
    return axes, real_tables


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

    ``blocks`` (b, cout, cin, *kernel_shape): scaled, in the kernel's precision. ``columns``, ``selector``, ``sums`` (b,
    taps, p, r), (b, p, r) and (b, p): some of the taps, of which channels they are, and the channels' sums.
    """
    xp, ops = grid.xp, grid.ops
    b = columns.shape[0]
    # Traced chunks are as large as the memory allows, since every one is compiled by itself.
    in_memory = Polynomial(blocks, xp=xp).frequencies_at_once(ops=ops)
    at_once = _frequencies_at_once(blocks) if ops.concrete else in_memory
    chunks = arrays.ceil_div(len(grid.points), at_once)
    step = arrays.ceil_div(len(grid.points), chunks)
    taps = tap_points(tuple(blocks.shape[3:]))
    phase = ops.complex(*grid.points.device_cos_sin(taps, sums, ops=ops))
    # The signs of the taps, transformed back to the frequencies.
    adjoint_tables = []
    for real, imag in tables(grid.grid)[1]:
        parts = (arrays.device_table(x, grid.error, ops=ops) for x in (real.T, -imag.T))
        adjoint_tables.append(ops.complex(*parts))
    signs = xp.astype(xp.sign(columns), arrays.complex_dtype(grid.error.dtype, xp=xp))
    transformed = contract(signs, adjoint_tables, xp=xp)
    transformed = xp.astype(transformed, arrays.complex_dtype(blocks.dtype, xp=xp), copy=False)

    def in_chunks(x: Array) -> Array:
        missing = chunks * step - x.shape[1]
        if missing:
            zeros = xp.zeros((b, missing, *x.shape[2:]), dtype=x.dtype, device=ops.device(x))
            x = xp.concat([x, zeros], axis=1)
        return xp.reshape(x, (b, chunks, step, *x.shape[2:]))

    return blocks, in_chunks(transformed), selector, sums, in_chunks(xp.broadcast_to(phase, (b, *phase.shape)))


def _frequencies_at_once(blocks: Array) -> int:
    """Frequencies of a chunk of the backward pass.

    Their matrices, of which five are alive at a time, take as many bytes as the kernel, but at least `CHUNK`.
    """
    bytes_of_a_frequency = 5 * 16 * math.prod(blocks.shape[:3])
    return int(max(1, max(8 * math.prod(blocks.shape), CHUNK) // bytes_of_a_frequency))
