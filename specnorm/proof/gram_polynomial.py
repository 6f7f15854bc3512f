"""``H(theta) = G* G`` as a trigonometric polynomial: its matrix coefficients once, then any H by two real products.

``H(theta) = R_0 + sum_{d>0} [cos(d.theta) (R_d + R_d^T) + i sin(d.theta) (R_d - R_d^T)]`` with the channel
autocorrelations ``R_d = sum_k K_k^T K_{k+d}``. A frequency then costs no product of matrices.

Trained kernels have few large directions. With the channels rotated so that these come first, ``H = [[A, B*], [B, C]]``
with ``C <= tail`` at every frequency, and for ``limit > tail``

    lambda_max(H) <= limit   if   lambda_max(A + B* B / (limit - tail)) <= limit:

a small matrix instead of a large one, and C is never formed.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from specnorm.linalg import arrays, symbols
from specnorm.linalg.frequencies import Frequencies, phases_at, product
from specnorm.proof import rounding

if TYPE_CHECKING:
    from specnorm.types import Array, ArrayOps

_TAIL = 0.5
"""The tail may be so large a part of the limit."""
_WORTH = 0.7
"""Part of the channels above which nothing is left out."""
SMALLEST = 40
"""Channels below which to look for directions to leave out takes longer than it saves."""


class GramPolynomial:
    """Gram polynomial of a stack of blocks, with the directions that cannot reach a limit left out.

    Parameters
    ----------
    blocks : array, shape (g, m, p, *kernel_shape)
        Of a wide real dtype, scaled to about 1; p <= m.
    limit : float
        Norms around this one will be asked for; 0 keeps every direction.
    hints : array, shape (g, h, p), optional
        Complex right vectors at frequencies where the norm is large: directions to keep.

    Attributes
    ----------
    size, rank : int
        Columns p, and how many of them (after a rotation) are kept.
    basis : array, shape (g, p, p)
        The rotation, if one was made.
    tail : float
        Bound of ``||C(theta)||`` for every block and theta; 0 if nothing is left out.
    error : float
        Bound of ``||computed H(theta) - H(theta)||``, H of the blocks as rotated.
    lags : integer array, shape (L, d)
        Half of all lags, the zero lag first.
    norms : float array, shape (L,)
        Upper bounds of ``||R_d||`` over the blocks (Frobenius norms, rounded up); infinite if something is left out.
    narrow : bool
        Whether it was `narrowed`.
    """

    def __init__(self, blocks: Array, limit: float, hints: Array | None = None, *, ops: ArrayOps) -> None:
        xp = ops.xp
        self.xp, self.ops, self.like = xp, ops, blocks
        g, m, p = blocks.shape[:3]
        taps = math.prod(blocks.shape[3:])
        columns = xp.reshape(_taps_first(blocks, xp), (g, taps * m, p))
        self.size, self.rank, self.tail = p, p, 0.0
        self.basis: Array | None = None
        self.shrink, self.lost = 1.0, 0.0
        self._narrow: GramPolynomial | None = None
        self.narrow = False
        if p >= SMALLEST and limit > 0 and hints is not None:
            columns = self._rotate(columns, taps, limit, hints)
        tapwise = xp.reshape(columns, (g, taps, m, p))
        self.lags = half_lags(blocks.shape[3:])
        self.even, self.odd = self._correlate(xp.reshape(tapwise, (g, *blocks.shape[3:], m, p)))
        # R_d + R_d^T and R_d - R_d^T have together twice the square of R_d.
        squares = xp.sum(self.even**2, axis=-1) + xp.sum(self.odd**2, axis=-1)
        norms = np.sqrt(ops.to_numpy(xp.max(squares, axis=0)) / 2) * (1 + 1e-8)
        self.norms = norms if self.rank == p else np.full_like(norms, math.inf)
        rotated = xp.permute_dims(tapwise, (0, 2, 3, 1))
        self._square = float(xp.max(rounding.absolute_norm_up(rotated, xp=xp))) ** 2 * (1 + 1e-15)
        terms = m + 2 * taps + len(self.lags) + 4
        self.error = rounding.autocorrelation_error(self._square, terms, rounding.unit(blocks, xp=xp))

    def _correlate(self, taps: Array) -> tuple[Array, Array]:
        """First `rank` columns of ``R_d + R_d^T`` and ``R_d - R_d^T``, shape (g, L, p * rank); of lag 0, R_0 and 0.

        Parameters
        ----------
        taps : array, shape (g, *kernel_shape, m, p)
        """
        xp, g, (m, p) = self.xp, taps.shape[0], taps.shape[-2:]

        def summed(a: Array, b: Array) -> Array:
            a, b = (xp.reshape(x, (g, -1, m, p)) for x in (a, b))
            return xp.sum(xp.matmul(xp.matrix_transpose(a), b[..., : self.rank]), axis=1)

        def shifted(lag: list[int]) -> Array:
            """Taps that have another one at this lag."""
            ends = (slice(max(0, -d), k + min(0, -d)) for d, k in zip(lag, taps.shape[1:-2], strict=True))
            return taps[(slice(None), *ends, ...)]

        even, odd = [], []
        for lag in self.lags.tolist():
            here, there = shifted(lag), shifted([-d for d in lag])
            forward = summed(here, there)
            if not any(lag):
                backward = xp.zeros_like(forward)
            elif self.rank == p:
                backward = xp.matrix_transpose(forward)
            else:
                backward = summed(there, here)
            even.append(forward + backward)
            odd.append(forward - backward if any(lag) else backward)
        stacked = [xp.reshape(xp.stack(x, axis=1), (g, len(self.lags), p * self.rank)) for x in (even, odd)]
        return stacked[0], stacked[1]

    def _rotate(self, columns: Array, taps: int, limit: float, hints: Array) -> Array:
        """Rotate the channels so that the large directions come first, if few of them matter; and bound the rest."""
        xp, p = self.xp, self.size
        gram = xp.matmul(xp.matrix_transpose(columns), columns)
        # The hints first, then the large directions of what is orthogonal to them.
        span = xp.concat([xp.real(hints), xp.imag(hints)], axis=1)
        span = span[:, : min(p // 2, span.shape[1]), :]
        first, _ = xp.linalg.qr(xp.matrix_transpose(span))
        kept = first.shape[-1]
        onto = xp.matmul(first, xp.matrix_transpose(first))
        project = xp.eye(p, dtype=gram.dtype, device=self.ops.device(gram)) - onto
        gram = xp.matmul(project, xp.matmul(gram, project))
        lift = 2 * xp.sum(xp.linalg.diagonal(gram), axis=-1) + limit**2
        gram = gram + lift[:, None, None] * onto
        values, basis = xp.linalg.eigh((gram + xp.matrix_transpose(gram)) / 2)
        values = self.ops.to_numpy(xp.max(values, axis=0))[::-1]
        # G(theta) is a sum over the taps with weights of modulus 1: ||G w||**2 <= taps sum_k ||K_k w||**2.
        rank = kept + int(np.count_nonzero(taps * values[kept:] > 0.98 * _TAIL * limit**2))
        if rank > _WORTH * p:
            return columns
        self.basis = xp.flip(basis, axis=-1)
        rotated = xp.matmul(columns, self.basis)
        shrink, lost = rounding.rotation_loss(columns, self.basis, taps, ops=self.ops)
        tail = taps * float(xp.max(rounding.gram_norm_up(rotated[..., rank:], xp=xp))) * (1 + 1e-14)
        if tail > 1.1 * _TAIL * limit**2 or shrink < 0.999:
            self.basis = None
            return columns  # the factorisation was not good enough to be of use
        self.rank, self.shrink, self.lost, self.tail = rank, shrink, lost, tail
        return rotated

    @property
    def itemsize(self) -> int:
        """Bytes of a complex entry."""
        return 16 if self.even.dtype == self.xp.float64 else 8

    def limit(self, tau: np.ndarray) -> np.ndarray:
        """Largest computed ``lambda_max(H)`` that proves ``||G|| <= tau`` for the blocks as given, rounded down."""
        rotated = tau * self.shrink - self.lost
        return np.asarray(np.maximum(rotated, 0.0) ** 2 * (1 - 1e-14) - self.error)

    def norm(self, limit: np.ndarray) -> np.ndarray:
        """What a computed ``lambda_max(H)`` at most this large proves about ``||G||``: `limit` inverted, rounded up."""
        squares = np.maximum(limit + self.error, 0.0) / (1 - 1e-14)
        return np.asarray((np.sqrt(squares) + self.lost) / self.shrink * (1 + 1e-14))

    def parts(self, frequencies: Frequencies, owner: np.ndarray) -> Array:
        """First `rank` columns of H, complex, shape (f, size, rank): A above B.

        Parameters
        ----------
        frequencies : Frequencies
            f points.
        owner : integer array, shape (f,)
            Which block each belongs to.
        """
        xp = self.xp
        real = np.float64 if self.even.dtype == xp.float64 else np.float32
        cos, sin = (self.ops.from_numpy(x.astype(real), self.like) for x in phases_at(frequencies, self.lags))
        if self.even.shape[0] == 1:
            even, odd = xp.matmul(cos, self.even[0, ...]), xp.matmul(sin, self.odd[0, ...])
        else:
            index = self.ops.from_numpy(owner.astype(np.int64), self.like)
            even, odd = (
                xp.matmul(w[:, None, :], xp.take(table, index, axis=0))[:, 0, :]
                for w, table in ((cos, self.even), (sin, self.odd))
            )
        return xp.reshape(self.ops.complex(even, odd), (len(frequencies), self.size, self.rank))

    def reduced(self, parts: Array, limit: np.ndarray) -> Array:
        """``A + B* B / (limit - tail)``, shape (f, rank, rank).

        Parameters
        ----------
        parts : array, shape (f, size, rank)
        limit : float array, shape (f,)
            Above the tail.
        """
        if self.rank == self.size:
            return parts
        a, b = self._weighted(parts, limit)
        return a + self.xp.matmul(arrays.adjoint(b, xp=self.xp), b)

    def reduced_up(self, parts: Array, limit: np.ndarray) -> tuple[Array, Array]:
        """`reduced`, and a bound of its rounding, shape (f,)."""
        xp = self.xp
        if self.rank == self.size:
            return parts, xp.zeros((parts.shape[0],), dtype=self.like.dtype, device=self.ops.device(parts))
        a, b = self._weighted(parts, limit)
        return a + xp.matmul(arrays.adjoint(b, xp=xp), b), rounding.reduced_error(a, b, xp=xp)

    def _weighted(self, parts: Array, limit: np.ndarray) -> tuple[Array, Array]:
        """A and ``B / sqrt(limit - tail)``."""
        weight = self.ops.from_numpy(np.sqrt(1 / (limit - self.tail)) * (1 + 1e-15), self.like)
        b = parts[:, self.rank :, :]
        return parts[:, : self.rank, :], b * self.xp.astype(weight, b.dtype)[:, None, None]

    def narrowed(self) -> GramPolynomial:
        """The same with its sum over the lags in single precision, which its error tells; where that can be trusted."""
        if self.itemsize == 8 or not self.ops.exact_float32:
            return self
        if self._narrow is None:
            narrow = copy.copy(self)
            narrow.even, narrow.odd = (self.xp.astype(x, self.xp.float32) for x in (self.even, self.odd))
            # The coefficients are rounded once more, and there are as many terms as lags.
            narrow.error = self.error + rounding.autocorrelation_error(self._square, len(self.lags) + 2, 2.0**-24)
            narrow.narrow = True
            self._narrow = narrow
        return self._narrow

    def lift(self, parts: Array, vectors: Array, square: np.ndarray) -> tuple[np.ndarray, Array]:
        """Squared norms at the centres from below, without the tail, and vectors of all columns (as rotated).

        An eigenvector z of the reduced matrix goes on as ``B z / lambda``.

        Parameters
        ----------
        parts : array, shape (f, size, rank)
        vectors : array, shape (f, rank)
            Of unit length.
        square : float array, shape (f,)
            Eigenvalues of the reduced matrices.
        """
        if self.rank == self.size:
            return square.copy(), vectors
        xp = self.xp
        image = xp.matmul(parts, vectors[..., None])[..., 0]
        above = self.ops.to_numpy(xp.sum(xp.real(xp.conj(vectors) * image[:, : self.rank]), axis=-1))
        rest = image[:, self.rank :]
        beside = self.ops.to_numpy(xp.linalg.vector_norm(rest, axis=-1)) ** 2
        scale = np.maximum(square, 1e-30)
        below = (above + 2 * beside / scale) / (1 + beside / scale**2)
        weight = self.ops.from_numpy(1 / scale, self.like)
        return below, xp.concat([vectors, rest * xp.astype(weight, rest.dtype)[:, None]], axis=-1)

    def unrotated(self, vectors: Array, which: int) -> Array:
        """Right vectors (n, size) of one block as given, from those of the block as rotated."""
        if self.basis is None:
            return vectors
        turned = symbols.real_times(self.basis[which, ...], self.xp.matrix_transpose(vectors), xp=self.xp)
        return self.xp.matrix_transpose(turned)

    def variation(self, spread: np.ndarray) -> np.ndarray:
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
        return np.asarray(2 * np.minimum(2.0, spread) @ self.norms[1:] * (1 + 1e-8))


def half_lags(kernel_shape: tuple[int, ...]) -> np.ndarray:
    """Lags d with |d_j| < k_j, one of each pair (d, -d), zero first, shape (L, d)."""
    every = product([np.arange(1 - k, k) for k in kernel_shape])
    middle = len(every) // 2
    return every[middle:]


def _taps_first(blocks: Array, xp: Any) -> Array:
    """Blocks as (g, taps, m, p)."""
    g, m, p = blocks.shape[:3]
    return xp.permute_dims(xp.reshape(blocks, (g, m, p, -1)), (0, 3, 1, 2))
