"""``H(theta) = G* G`` as a trigonometric polynomial: its matrix coefficients once, then any H by two real products.

``H(theta) = R_0 + sum_{d>0} [cos(d.theta) (R_d + R_d^T) + i sin(d.theta) (R_d - R_d^T)]`` with the channel
autocorrelations ``R_d = sum_k K_k^T K_{k+d}``. A frequency then costs no product of matrices.

Trained kernels have few large directions. With the channels rotated so that these come first, ``H = [[A, B*], [B, C]]``
with ``C <= truncation`` at every frequency, and for ``limit > truncation``

    lambda_max(H) <= limit   if   lambda_max(A + B* B / (limit - truncation)) <= limit:

a small matrix instead of a large one, and C is never formed: ``B* (limit - C)^-1 B <= B* B / (limit - truncation)``, so
that the Schur complement of ``limit - H`` is positive semidefinite. Any basis serves; the search chooses it.
"""

from __future__ import annotations

import copy
import functools
import math
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specnorm.certified import host, rounding
from specnorm.certified.bound import HypothesisError
from specnorm.certified.matrices import norms
from specnorm.certified.symbol import symbols
from specnorm.problem.frequencies import Frequencies, half_lags, phases_at

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace
    from specnorm.types import ArrayOps


@dataclass(frozen=True, eq=False)
class Rotation:
    """A stack of blocks with the channels in another basis, whose last directions may be left out. Made by `rotate`.

    Parameters
    ----------
    columns : array, shape (g, taps * m, p)
        The taps of each rotated block below one another.
    basis : array, shape (g, p, p)
        Nearly orthogonal.
    rank : int
        How many directions are kept.
    truncation : float
        Bound of ``||C(theta)||`` for every block and theta.
    shrink, lost : float
        ``||G'|| <= tau * shrink - lost`` proves ``||G|| <= tau``, with G' of the rotated blocks as computed.
    """

    columns: Array
    basis: Array
    rank: int
    truncation: float
    shrink: float
    lost: float


def rotate(blocks: Array, basis: Array, rank: int, *, ops: ArrayOps) -> Rotation:
    """Rotate the channels of blocks (g, m, p, *kernel_shape) as precisely as the basis is; bound what that loses."""
    xp = ops.xp
    columns, taps = xp.astype(symbols.taps_below(blocks, xp=xp), basis.dtype, copy=False), math.prod(blocks.shape[3:])
    rotated, basis = xp.matmul(columns, basis), xp.astype(basis, blocks.dtype, copy=False)
    shrink, lost = rotation_loss(columns, basis, taps, ops=ops)
    return Rotation(rotated, basis, rank, truncation_bound(rotated[..., rank:], taps, xp=xp), shrink, lost)


def truncation_bound(columns: Array, taps: int, *, xp: Namespace) -> float:
    """Bound of ``||C(theta)||`` of the directions left out: ``||G w||**2 <= taps sum_k ||K_k w||**2``, rounded up.

    G(theta) is a sum over the taps with weights of modulus 1.
    """
    return host.mul_up(float(taps), float(xp.max(norms.gram_norm_up(columns, xp=xp))))


def rotation_loss(columns: Array, basis: Array, taps: int, *, ops: ArrayOps) -> tuple[float, float]:
    """What a rotation of the channels costs: ``||G|| <= (||G'|| + lost) / shrink`` with G' of the computed product.

    ``fl(K V) = K V + E``, ``|E| <= gamma(p + 2) |K| |V|``, two of them where K is rounded first: in the product, and in
    ``|K|``. ``||G V|| >= ||G|| sqrt(1 - e)`` with ``e >= ||V^T V - I||``.

    Parameters
    ----------
    columns : array, shape (g, taps * m, p)
    basis : array, shape (g, p, p)
        V; nearly orthogonal.

    Returns
    -------
    shrink, lost : float
        ``||G'|| <= tau * shrink - lost`` proves ``||G|| <= tau``.
    """
    xp = ops.xp
    size, u, of_columns = basis.shape[-1], *(rounding.unit(x, xp=xp) for x in (basis, columns))
    eye = xp.eye(size, dtype=basis.dtype, device=ops.device(basis))
    gram = xp.matmul(xp.matrix_transpose(basis), basis)
    length = float(xp.max(norms.frobenius_up(basis, xp=xp)))
    apart = float(xp.max(norms.frobenius_up(gram - eye, xp=xp)))
    # A difference has one rounding; V^T V has gamma(p) |V|^T |V|.
    of_product = host.mul_up(
        rounding.SLACK * rounding.gamma(size + 2, u), host.add_up(host.mul_up(length, length), size)
    )
    e = host.add_up(host.mul_up(apart, 1 + 4 * u), of_product)
    # Over the taps, ||sum_k e^{ik.theta} E_k|| <= sqrt(taps) ||E||_F of all of them below one another.
    mass = host.mul_up(float(xp.max(norms.frobenius_up(columns, xp=xp))), length)
    lost = host.mul_up(rounding.SLACK * rounding.gamma(size + 2, of_columns), host.sqrt_up(taps), mass)
    return host.sqrt_down(max(host.sub_down(1.0, e), 0.0)), lost


def reduced_error(a: tuple[Array, Array], b: tuple[Array, Array], *, xp: Namespace) -> Array:
    """Bound on ``||fl(A + b* b) - (A + b* b)||``, shape (f,), from both parts of A (f, r, r) and of b (f, n, r).

    b stands for a matrix B scaled by a weight: two more roundings an entry. Of a product's entry both parts are sums of
    2 n products.
    """
    u = rounding.unit(b[0], xp=xp)
    of_a, of_b = (
        rounding.up(norms.frobenius_up(x, xp=xp) ** 2 + norms.frobenius_up(y, xp=xp) ** 2, 4, xp=xp) for x, y in (a, b)
    )
    summed = rounding.up(xp.sqrt(of_a) + of_b, 3, xp=xp)
    of_product = math.sqrt(2) * rounding.gamma(2 * b[0].shape[-2] + 8, u) * of_b
    return rounding.up(rounding.SLACK * (of_product + 2 * math.sqrt(2) * u * summed), 4, xp=xp)


class GramPolynomial:
    """Gram polynomial of a stack of blocks, as given or with directions left out that cannot reach a limit.

    Parameters
    ----------
    blocks : array, shape (g, m, p, *kernel_shape)
        Of a wide real dtype, scaled to about 1; p <= m.
    rotation : Rotation, optional
        Of these blocks. None: every direction, unrotated.
    tick : callable, optional
        Called before each lag, and between boxes that are many for all lags: what it raises ends that.

    Attributes
    ----------
    size, rank : int
        Columns p, and how many of them (after a rotation) are kept.
    truncation : float
        Bound of ``||C(theta)||`` for every block and theta; 0 if nothing is left out.
    error : float
        Bound of ``||computed H(theta) - H(theta)||``, H of the blocks as rotated. A product passes through at most
        ``m + 2 taps + L + 4`` roundings: the inner product of two taps, the sum of such products into ``R_d +- R_d^T``,
        the product with the table and the sum over d.
    lags : integer array, shape (L, d)
        Half of all lags that two taps other than 0 have, the zero lag first.
    norms : float array, shape (L - 1,)
        Upper bounds of ``||R_d||`` over the blocks (Frobenius norms, rounded up) for d other than 0; infinite if
        something is left out.
    is_float32 : bool
        Whether its coefficients are of lower precision than the blocks.
    """

    def __init__(
        self, blocks: Array, rotation: Rotation | None = None, *, tick: Callable[[], None] | None = None, ops: ArrayOps
    ) -> None:
        xp = ops.xp
        self.xp, self.ops, self.blocks, self.rotation, self.tick = xp, ops, blocks, rotation, tick
        g, m, p = blocks.shape[:3]
        taps = math.prod(blocks.shape[3:])
        self.size, self.rank, self.truncation = p, p, 0.0
        self._shrink, self._lost = 1.0, 0.0
        self._float32_copy: GramPolynomial | None = None
        columns = symbols.taps_below(blocks, xp=xp) if rotation is None else rotation.columns
        self.is_float32 = columns.dtype != blocks.dtype
        if rotation is not None:
            self.rank, self.truncation = rotation.rank, rotation.truncation
            self._shrink, self._lost = rotation.shrink, rotation.lost
        tapwise = xp.reshape(columns, (g, taps, m, p))
        self.lags, self.even, self.odd = autocorrelations(tapwise, self.rank, blocks.shape[3:], tick=tick, ops=ops)
        self.norms = self._coefficient_norms()
        rotated = xp.permute_dims(tapwise, (0, 2, 3, 1))
        norm = float(xp.max(symbols.absolute_norm_up(rotated, xp=xp)))
        terms = m + 2 * taps + len(self.lags) + 4
        self.error = symbols.autocorrelation_error(norm**2, terms, rounding.unit(columns, xp=xp))

    def _coefficient_norms(self) -> np.ndarray:
        """Bounds of ``||R_d||`` for the coefficients as computed, E and O of ``R_d + R_d^T`` and ``R_d - R_d^T``.

        ``|E|**2 + |O|**2 = 4 |R_d|**2``. Were it a little off: ``(E + O) / 2`` and ``(E - O) / 2``, which stand for R_d
        and R_d^T, have norms that add up to at most ``sqrt(|E|**2 + |O|**2)``. A sum of squares passes through at most
        ``p * rank + 2`` roundings.
        """
        xp = self.xp
        if self.rank < self.size:
            return np.full(len(self.lags) - 1, math.inf)
        squares = xp.sum(self.even[:, 1:, :] ** 2, axis=-1) + xp.sum(self.odd[:, 1:, :] ** 2, axis=-1)
        norms = rounding.up(xp.sqrt(xp.max(squares, axis=0)) / 2, self.size * self.rank + 4, xp=xp)
        return np.asarray(self.ops.to_numpy(norms), dtype=np.float64)

    @functools.cached_property
    def left_out(self) -> Array:
        """The directions left out of the rotated blocks, shape (g, m, p - rank, *kernel_shape)."""
        if self.rotation is None:
            return self.blocks[:, :, :0, ...]
        taps = self.xp.astype(self.rotation.columns[..., self.rank :], self.blocks.dtype)
        (g, m, _, *shape), q = self.blocks.shape, self.size - self.rank
        return self.xp.reshape(
            self.xp.permute_dims(self.xp.reshape(taps, (g, -1, m, q)), (0, 2, 3, 1)), (g, m, q, *shape)
        )

    @property
    def itemsize(self) -> int:
        """Bytes of a complex entry."""
        return 16 if self.even.dtype == self.xp.float64 else 8

    def limit_sq(self, norm: np.ndarray) -> np.ndarray:
        """Largest computed ``lambda_max(H)`` that proves ``||G|| <= norm`` for the blocks as given, rounded down."""
        rotated = np.maximum(host.sub_down(host.mul_down(norm, self._shrink), self._lost), 0.0)
        return host.sub_down(host.mul_down(rotated, rotated), self.error)

    def norm_up(self, limit_sq: np.ndarray) -> np.ndarray:
        """What ``lambda_max(H) <= limit_sq``, as computed, proves about ``||G||``: the inverse, rounded up."""
        rotated = host.next_up(np.sqrt(np.maximum(host.next_up(limit_sq + self.error), 0.0)))
        return host.next_up(host.next_up(rotated + self._lost) / self._shrink)

    def columns_at(self, frequencies: Frequencies, block: np.ndarray) -> Array:
        """First `rank` columns of H, complex, shape (f, size, rank): A above B."""
        return self.ops.complex(*self.planes_at(frequencies, block))

    def planes_at(self, frequencies: Frequencies, block: np.ndarray) -> tuple[Array, Array]:
        """Real and imaginary parts of those columns.

        Parameters
        ----------
        frequencies : Frequencies
            f points.
        block : integer array, shape (f,)
            Index of the block each belongs to.
        """
        xp = self.xp
        real = np.float64 if self.even.dtype == xp.float64 else np.float32
        cos, sin = (self.ops.from_numpy(x.astype(real), self.blocks) for x in phases_at(frequencies, self.lags))
        if self.even.shape[0] == 1:
            even, odd = xp.matmul(cos, self.even[0, ...]), xp.matmul(sin, self.odd[0, ...])
        else:
            index = self.ops.from_numpy(block.astype(np.int64), self.blocks)
            even, odd = (
                xp.matmul(w[:, None, :], xp.take(table, index, axis=0))[:, 0, :]
                for w, table in ((cos, self.even), (sin, self.odd))
            )
        shape = (len(frequencies), self.size, self.rank)
        return xp.reshape(even, shape), xp.reshape(odd, shape)

    def reduced(self, even: Array, odd: Array, limit_sq: np.ndarray) -> tuple[Array, Array]:
        """``A + B* B / (limit - truncation)``, shape (f, rank, rank), and a bound of its rounding, shape (f,).

        Parameters
        ----------
        even, odd : arrays, shape (f, size, rank)
            Of `planes_at`.
        limit_sq : float array, shape (f,)
            Above the truncation bound, unless nothing is left out.

        Raises
        ------
        HypothesisError
            If a limit is not.
        """
        xp = self.xp
        if self.rank == self.size:
            return self.ops.complex(even, odd), xp.zeros(
                (even.shape[0],), dtype=self.blocks.dtype, device=self.ops.device(even)
            )
        if not np.all(limit_sq > self.truncation):
            raise HypothesisError("a matrix is reduced only for limits above the truncation bound")
        # A difference, a quotient and a root: two roundings. The weight's conversion is in `reduced_error`.
        weights = host.inflate(np.sqrt(1 / (limit_sq - self.truncation)), 2)
        weighted = xp.astype(self.ops.from_numpy(weights, self.blocks), even.dtype)[:, None, None]
        a = even[:, : self.rank, :], odd[:, : self.rank, :]
        b = weighted * even[:, self.rank :, :], weighted * odd[:, self.rank :, :]
        real, imag = symbols.gram_planes(*b, xp=xp)
        return self.ops.complex(a[0] + real, a[1] + imag), reduced_error(a, b, xp=xp)

    def float32_copy(self) -> GramPolynomial:
        """The same with its sum over the lags in float32; itself where that is not trusted (TF32, bfloat16 products).

        The coefficients and the table are rounded once to float32, and an entry passes through ``L + 2`` roundings of
        that unit more: of E and O, even and odd coefficients, its parts are sums of E_d cos and O_d sin.
        """
        if self.itemsize == 8 or not self.ops.exact_float32:
            return self
        if self._float32_copy is None:
            found = copy.copy(self)
            found.even, found.odd = (self.xp.astype(x, self.xp.float32) for x in (self.even, self.odd))
            of_sum = symbols.autocorrelation_error(self._sums(), len(self.lags) + 2, 2.0**-24)
            found.error = host.add_up(self.error, of_sum)
            found.is_float32, self._float32_copy = True, found
        return self._float32_copy

    def _sums(self) -> float:
        """Largest row sum of S, symmetric, with first columns ``sum_d max(|E_d|, |O_d|)`` and zeros beside them."""
        xp, (g, count, _), table = self.xp, self.even.shape, self.even[:, 0, :] * 0
        for d in range(count):
            table = table + xp.maximum(xp.abs(self.even[:, d, :]), xp.abs(self.odd[:, d, :]))
        table = xp.reshape(table, (g, self.size, self.rank))
        # A row of the first columns goes on as the column below them.
        rows, below = xp.sum(table, axis=-1), xp.sum(table[:, self.rank :, :], axis=-2)
        longest = xp.concat([rows[:, : self.rank] + below, rows[:, self.rank :]], axis=-1)
        return float(xp.max(rounding.up(longest, count + 2 * self.size + 4, xp=xp)))

    def variation_sq(self, spread: np.ndarray) -> np.ndarray:
        """Bound on how far the polynomial with these coefficients moves from its value at c, rounded up, shape (c,).

        ``|e^{i d.theta} - e^{i d.c}| <= min(2, |d.(theta - c)|)``, twice for each pair of lags. The coefficients' own
        rounding is not in it.

        Parameters
        ----------
        spread : float array, shape (c, L - 1)
            Largest ``|d.(theta - c)|`` in each box for each lag but the first.
        """
        if self.rank < self.size:
            return np.full(len(spread), math.inf)
        return host.inflate(2 * np.minimum(2.0, spread) @ self.norms, spread.shape[1] + 1)


_KEPT = 64
"""Taps up to which the pairs are kept: 2016 of them."""
_PAIRED = 2**20
"""Bytes of pairs of taps and of their products at once, about a cache; those of one lag may be more."""
_LARGE = 2**14
"""Entries of a tap from which two are multiplied as they lie: to lay some side by side would take longer than calls."""
_PAIRS = 256
"""Pairs at once: their sums are a matrix of as many columns, most of it zeros."""


@dataclass(frozen=True, eq=False)
class PairedTaps:
    """Some lags, and the pairs of taps that are so far apart.

    Parameters
    ----------
    lags : integer array, shape (L, d)
    here, there : integer arrays, shape (n,)
        Taps by their numbers in the kernel's order; ``there - here`` is a lag.
    sums : float array, shape (L, n)
        1 where a pair has a lag, else 0: times something of each pair, its sum for each lag.
    """

    lags: np.ndarray
    here: np.ndarray
    there: np.ndarray
    sums: np.ndarray


def paired_taps(used: np.ndarray, most: int, *, tick: Callable[[], None] | None = None) -> Iterable[PairedTaps]:
    """Lags of `half_lags` that two used taps have, and their pairs: at least one lag at once, and few pairs.

    Parameters
    ----------
    used : bool array, shape kernel_shape
        Whether a tap is other than 0.
    most : int
        Pairs at once, where there is more than one lag.
    tick : callable, optional
        Called before each lag of many: there are as many pairs in all as half the square of the taps.

    Returns
    -------
    iterable of PairedTaps
        The zero lag is always the first, by itself. Not to be written to: those of few taps are kept.
    """
    if used.size <= _KEPT:
        return _kept_pairs(used.shape, used.tobytes(), min(most, _PAIRS))
    return _pairs(used, min(most, _PAIRS), tick)


@functools.lru_cache(maxsize=16)
def _kept_pairs(shape: tuple[int, ...], used: bytes, most: int) -> tuple[PairedTaps, ...]:
    return tuple(_pairs(np.frombuffer(used, dtype=np.bool_).reshape(shape), most))


def _pairs(used: np.ndarray, most: int, tick: Callable[[], None] | None = None) -> Iterator[PairedTaps]:
    shape = used.shape
    number = np.where(used, np.arange(used.size).reshape(shape), -1)
    some: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    pairs = 0
    for lag in half_lags(shape):
        if tick is not None:
            tick()
        ends = [[slice(max(0, -d), k + min(0, -d)) for d, k in zip(x, shape, strict=True)] for x in (lag, -lag)]
        here, there = (number[tuple(each)] for each in ends)
        both = (here >= 0) & (there >= 0)
        count = int(both.sum())
        if not count and lag.any():
            continue
        if some and (pairs + count > most or not some[0][0].any()):  # the zero lag by itself
            yield _together(some)
            some, pairs = [], 0
        some.append((lag, here[both], there[both]))
        pairs += count
    yield _together(some)


def _together(some: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> PairedTaps:
    lags, here, there = zip(*some, strict=True)
    sums = np.repeat(np.eye(len(lags)), [len(x) for x in here], axis=1)
    return PairedTaps(np.stack(lags), np.concatenate(here), np.concatenate(there), sums)


def correlations(
    taps: Array, used: np.ndarray, rank: int, *, tick: Callable[[], None] | None = None, ops: ArrayOps
) -> Iterator[tuple[np.ndarray, Array, Array]]:
    """Channel autocorrelations ``R_d = sum_k K_k^T K_{k+d}``, some lags of `half_lags` at once, zero first, by itself.

    Taps that are 0 are passed over: products with them are 0, and add nothing. A sum has at most as many terms as
    there are taps, each a product of inner length m.

    Parameters
    ----------
    taps : array, shape (g, taps, m, p)
    used : bool array, shape kernel_shape
        Whether a tap is other than 0.
    rank : int
        Columns that are wanted.
    tick : callable, optional
        Called now and then, at most once a lag: what it raises ends the work.

    Yields
    ------
    lags : integer array, shape (L, d)
    forward, backward : arrays, shape (g, L, p * rank)
        First columns of R_d and of ``R_{-d} = R_d^T``.
    """
    xp, (g, _, m, p) = ops.xp, taps.shape

    def summed(first: np.ndarray, second: np.ndarray, sums: Array, rows: int = 0) -> Array:
        left, right = xp.matrix_transpose(taps[..., rows:]), taps[..., :rank]
        if sums.shape[0] == 1 and m * p >= _LARGE:
            products = (xp.matmul(left[:, i, ...], right[:, j, ...]) for i, j in np.stack([first, second], 1).tolist())
            return functools.reduce(operator.add, products)[:, None, ...]
        a, b = (xp.take(x, ops.from_numpy(each, taps), axis=1) for x, each in ((left, first), (right, second)))
        both = xp.reshape(xp.matmul(a, b), (g, len(first), (p - rows) * rank))
        return xp.reshape(xp.matmul(sums, both), (g, sums.shape[0], p - rows, rank))

    for some in paired_taps(used, _PAIRED // (8 * g * p * (2 * m + rank)), tick=tick):
        if tick is not None:
            tick()
        sums = xp.astype(ops.from_numpy(some.sums, taps), taps.dtype)
        forward = backward = summed(some.here, some.there, sums)
        if some.lags.any():
            backward = xp.matrix_transpose(forward[..., :rank, :])
            if rank < p:
                backward = xp.concat([backward, summed(some.there, some.here, sums, rank)], axis=2)
        forward, backward = (xp.reshape(x, (g, len(some.lags), p * rank)) for x in (forward, backward))
        yield some.lags, forward, backward


def autocorrelations(
    taps: Array, rank: int, shape: tuple[int, ...], *, tick: Callable[[], None] | None = None, ops: ArrayOps
) -> tuple[np.ndarray, Array, Array]:
    """Even and odd parts of a kernel's `correlations`, for each lag that two taps other than 0 have.

    Parameters
    ----------
    taps, rank, tick
        As there.
    shape : tuple of int
        Of the kernel.

    Returns
    -------
    lags : integer array, shape (L, d)
        The zero lag first.
    even, odd : arrays, shape (g, L, p * rank)
        First columns of ``R_d + R_d^T`` and ``R_d - R_d^T``; of lag 0, R_0 and 0.
    """
    xp = ops.xp
    # What is no number is used, too.
    used = ops.to_numpy(xp.max(xp.abs(taps), axis=(0, 2, 3))) != 0
    found = [
        (lags, forward + backward if lags.any() else forward, forward - backward)
        for lags, forward, backward in correlations(taps, used.reshape(shape), rank, tick=tick, ops=ops)
    ]
    lags, even, odd = zip(*found, strict=True)
    return np.concatenate(lags), xp.concat(list(even), axis=1), xp.concat(list(odd), axis=1)
