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
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specnorm.certified import host, rounding
from specnorm.certified.bound import HypothesisError
from specnorm.certified.matrices import norms
from specnorm.certified.symbol import symbols
from specnorm.certified.symbol.lags import autocorrelations, taps_below
from specnorm.problem.frequencies import Frequencies, phases_at

if TYPE_CHECKING:
    from specnorm.types import Array, ArrayOps, Namespace


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
    columns, taps = xp.astype(taps_below(blocks, xp=xp), basis.dtype, copy=False), math.prod(blocks.shape[3:])
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
        self,
        blocks: Array,
        rotation: Rotation | None = None,
        *,
        tick: Callable[[], None] | None = None,
        ops: ArrayOps,
    ) -> None:
        xp = ops.xp
        self.xp, self.ops, self.blocks, self.rotation, self.tick = xp, ops, blocks, rotation, tick
        g, m, p = blocks.shape[:3]
        taps = math.prod(blocks.shape[3:])
        self.size, self.rank, self.truncation = p, p, 0.0
        self._shrink, self._lost = 1.0, 0.0
        self._float32_copy: GramPolynomial | None = None
        columns = taps_below(blocks, xp=xp) if rotation is None else rotation.columns
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
