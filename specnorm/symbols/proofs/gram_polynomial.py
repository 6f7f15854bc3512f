"""``H(theta) = G* G`` as a trigonometric polynomial: its matrix coefficients, and H by two real products with them.

``H(theta) = R_0 + sum_{d>0} [cos(d.theta) (R_d + R_d^T) + i sin(d.theta) (R_d - R_d^T)]`` with the channel
autocorrelations ``R_d = sum_k K_k^T K_{k+d}``; of the lags d and -d, one is summed over. H at many frequencies is a
table of cosines times the *even* coefficients ``R_d + R_d^T``, and one of sines times the *odd* ones. No two matrices
of channels are multiplied at a frequency.

Trained kernels have few large directions. With the channels rotated so that these come first, ``H = [[A, B*], [B, C]]``
with ``C <= truncation`` at every frequency, and for ``limit > truncation``

    lambda_max(H) <= limit   if   lambda_max(A + B* B / (limit - truncation)) <= limit:

a small matrix instead of a large one, and C is never formed: ``B* (limit - C)^-1 B <= B* B / (limit - truncation)``, so
that the Schur complement of ``limit - H`` is positive semidefinite. Any basis serves; the search chooses it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from specnorm.backends import arrays
from specnorm.proofs import host, norms, rounding
from specnorm.proofs.bound import ALL_FREQUENCIES, HypothesisError
from specnorm.proofs.frequencies import Frequencies
from specnorm.symbols.proofs import symbols
from specnorm.symbols.proofs.lags import Lags

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps
    from specnorm.proofs.bound import Upper
    from specnorm.proofs.cells import Boxes

_CACHED_ENTRIES = 2**11
"""Entries of a matrix that `GramPolynomial.columns_at` forms at once on the host."""


@dataclass(frozen=True, eq=False)
class Rotation:
    """A stack of blocks with the channels in another basis, whose last directions may be left out.

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

    @classmethod
    def of(cls, blocks: Array, basis: Array, rank: int, *, ops: ArrayOps) -> Rotation:
        """Rotate the channels of blocks (g, m, p, *kernel_shape), in the precision of the basis; bound the loss."""
        xp = ops.xp
        taps = math.prod(blocks.shape[3:])
        columns = xp.astype(symbols.stacked_taps(blocks, xp=xp), basis.dtype, copy=False)
        rotated = xp.matmul(columns, basis)
        wide_basis = xp.astype(basis, blocks.dtype, copy=False)
        shrink, lost = rotation_loss(columns, wide_basis, taps, ops=ops)
        return cls(
            columns=rotated,
            basis=wide_basis,
            rank=rank,
            truncation=truncation_bound(rotated[..., rank:], taps, xp=xp),
            shrink=shrink,
            lost=lost,
        )


def truncation_bound(columns: Array, taps: int, *, xp: Namespace) -> float:
    """Bound of ``||C(theta)||`` of the directions left out: ``||G w||**2 <= taps sum_k ||K_k w||**2``, rounded up.

    G(theta) is a sum over the taps with weights of modulus 1.
    """
    return host.mul_up(float(taps), float(xp.max(norms.gram_norm_up(columns, xp=xp))))


def rotation_loss(
    columns: Array,
    basis: Array,
    taps: int,
    *,
    ops: ArrayOps,
) -> tuple[float, float]:
    """Error of a rotation of the channels: ``||G|| <= (||G'|| + lost) / shrink``, with G' of the computed product.

    ``fl(K V) = K V + E`` with ``|E| <= gamma(p + 2) |K| |V|``. Two of these p + 2 roundings are there for a K that is
    rounded first: one in the product, one in ``|K|``. ``||G V|| >= ||G|| sqrt(1 - e)`` with ``e >= ||V^T V - I||``.

    ``columns`` is (g, taps * m, p). ``basis`` (g, p, p): V; nearly orthogonal. Returns ``shrink``, ``lost``: ``||G'||
    <= tau * shrink - lost`` proves ``||G|| <= tau``.
    """
    xp = ops.xp
    size = basis.shape[-1]
    basis_unit = rounding.unit(basis, xp=xp)
    product_unit = rounding.unit(columns, xp=xp)
    eye = xp.eye(size, dtype=basis.dtype, device=ops.device(basis))
    gram = xp.matmul(xp.matrix_transpose(basis), basis)
    basis_norm = float(xp.max(norms.frobenius_up(basis, xp=xp)))
    computed_e = float(xp.max(norms.frobenius_up(gram - eye, xp=xp)))
    # V^T V is off by gamma(p) |V|^T |V|, of Frobenius norm ||V||_F**2, and the difference V^T V - I is rounded once: by
    # at most u (|V|^T |V| + I), where ||I||_F <= size.
    gram_error = host.mul_up(
        rounding.SLACK * rounding.gamma(size + 2, basis_unit),
        host.add_up(host.mul_up(basis_norm, basis_norm), size),
    )
    e = host.add_up(host.mul_up(computed_e, 1 + 4 * basis_unit), gram_error)
    # Over the taps, ||sum_k e^{ik.theta} E_k|| <= sqrt(taps) ||E||_F of all of them below one another.
    product_of_norms = host.mul_up(float(xp.max(norms.frobenius_up(columns, xp=xp))), basis_norm)
    relative = rounding.SLACK * rounding.gamma(size + 2, product_unit)
    lost = host.mul_up(relative, host.sqrt_up(taps), product_of_norms)
    return host.sqrt_down(max(host.sub_down(1.0, e), 0.0)), lost


def reduced_error(a: tuple[Array, Array], b: tuple[Array, Array], *, xp: Namespace) -> Array:
    """Bound on ``||fl(A + b* b) - (A + b* b)||``, shape (f,), from both parts of A (f, r, r) and of b (f, n, r).

    b is as computed: the matrix B times a weight, which costs two more roundings an entry. Of an entry of b* b both
    parts are sums of 2 n products.
    """
    u = rounding.unit(b[0], xp=xp)
    rows = b[0].shape[-2]
    a_norm_sq = _complex_norm_sq_up(a, xp=xp)
    b_norm_sq = _complex_norm_sq_up(b, xp=xp)
    sum_norm = rounding.up(xp.sqrt(a_norm_sq) + b_norm_sq, 3, xp=xp)
    product_error = math.sqrt(2) * rounding.gamma(2 * rows + 8, u) * b_norm_sq
    addition_error = 2 * math.sqrt(2) * u * sum_norm
    return rounding.up(rounding.SLACK * (product_error + addition_error), 4, xp=xp)


def _complex_norm_sq_up(parts: tuple[Array, Array], *, xp: Namespace) -> Array:
    """Squared Frobenius norms of complex matrices by their real and imaginary parts, rounded up."""
    real, imag = parts
    squares = norms.frobenius_up(real, xp=xp) ** 2 + norms.frobenius_up(imag, xp=xp) ** 2
    return rounding.up(squares, 4, xp=xp)


class GramPolynomial:
    """Gram polynomial of a stack of blocks, as given or with directions left out that cannot reach a limit.

    Parameters
    ----------
    blocks : array, shape (g, m, p, *kernel_shape)
        Of a wide real dtype, scaled to about 1; p <= m.
    rotation : Rotation, optional
        Of these blocks. None: every direction, unrotated.
    tick : callable, optional
        Called before each lag, and between parts of many boxes. It ends the work by raising an exception.

    Attributes
    ----------
    size, rank : int
        Columns p, and how many of them (after a rotation) are kept.
    truncation : float
        Bound of ``||C(theta)||`` for every block and theta; 0 if nothing is left out.
    left_out : array, shape (g, m, size - rank, *kernel_shape)
        The kernels of the other directions, as computed: C is the Gram matrix of their symbols.
    error : float
        Bound of ``||computed H(theta) - H(theta)||``, H of the blocks as rotated. A product of two entries passes
        through those of the lags, and ``L + 4`` others: the sum ``R_d +- R_d^T``, the product with the table and the
        sum over d.
    lags : integer array, shape (L, axes)
        Half of all lags between two taps other than zero, the zero lag first.
    even, odd : arrays, shape (g, L, size * rank)
        First columns of ``R_d + R_d^T`` and ``R_d - R_d^T`` for each lag; of lag 0, R_0 and 0.
    norms : float array, shape (L - 1,)
        Upper bounds of ``||R_d||`` over the blocks (Frobenius norms, rounded up) for d other than 0; infinite if
        something is left out.
    is_float32 : bool
        Whether its coefficients are of lower precision than the blocks.
    """

    # Of a polynomial that leaves nothing out.
    rotation: Rotation | None = None
    truncation: float = 0.0
    is_float32: bool = False
    _shrink: float = 1.0
    _lost: float = 0.0
    _float32_copy: GramPolynomial | None = None

    def __init__(
        self,
        blocks: Array,
        rotation: Rotation | None = None,
        *,
        tick: Callable[[], None] | None = None,
        ops: ArrayOps,
    ) -> None:
        xp = ops.xp
        self.xp = xp
        self.ops = ops
        self.blocks = blocks
        self.rotation = rotation
        self.tick = tick
        g, m, p, *kernel_shape = blocks.shape
        taps = math.prod(kernel_shape)
        self.size = p
        if rotation is None:
            columns = symbols.stacked_taps(blocks, xp=xp)
            self.rank = p
        else:
            columns = rotation.columns
            self.rank = rotation.rank
            self.truncation = rotation.truncation
            self._shrink = rotation.shrink
            self._lost = rotation.lost
        self.is_float32 = columns.dtype != blocks.dtype
        by_tap = xp.reshape(columns, (g, taps, m, p))
        rotated_blocks = xp.reshape(xp.permute_dims(by_tap, (0, 2, 3, 1)), (g, m, p, *kernel_shape))
        self.left_out = (blocks if rotation is None else rotated_blocks)[:, :, self.rank :, ...]
        self.lags, self.even, self.odd = self._coefficients(rotated_blocks)
        self.norms = self._coefficient_norms()
        norm = float(xp.max(symbols.absolute_norm_up(rotated_blocks, xp=xp)))
        roundings = Lags.roundings(rotated_blocks, xp=xp) + len(self.lags) + 4
        self.error = symbols.autocorrelation_error(norm**2, roundings, rounding.unit(columns, xp=xp))

    def tighten_truncation(self, norm: Upper) -> None:
        """Lower the truncation to the square of a bound of the norm of `left_out` over all frequencies."""
        if norm.what != ALL_FREQUENCIES:
            raise HypothesisError(f"{norm.what} is not the norm of the directions left out over all frequencies")
        self.truncation = min(self.truncation, host.mul_up(norm.value, norm.value))
        if self._float32_copy is not None:
            self._float32_copy.truncation = self.truncation

    def _coefficients(self, rotated_blocks: Array) -> tuple[np.ndarray, Array, Array]:
        """Lags, even and odd coefficients: see the class. Lags with coefficients 0 are left out, but for the first."""
        xp = self.xp
        rank = self.rank
        kept_channels = rotated_blocks[:, :, :rank, ...] if rank < self.size else rotated_blocks
        forward = Lags.products(rotated_blocks, kept_channels, tick=self.tick, ops=self.ops)
        backward = xp.matrix_transpose(forward[:, :, :rank, :])
        if rank < self.size:
            # The rows of R_d^T below its first ``rank`` are columns of R_d that are not computed yet.
            others = Lags.products(kept_channels, rotated_blocks[:, :, rank:, ...], tick=self.tick, ops=self.ops)
            backward = xp.concat([backward, xp.matrix_transpose(others)], axis=2)
        count = forward.shape[1]
        even, odd = Lags.even_and_odd(forward, backward, xp=xp)
        is_used = self.ops.to_numpy(xp.any((even != 0) | (odd != 0), axis=(0, 2, 3))) | (np.arange(count) == 0)
        flat = (forward.shape[0], count, self.size * rank)
        even, odd = xp.reshape(even, flat), xp.reshape(odd, flat)
        lags = Lags.points(tuple(self.blocks.shape[3:]))
        if is_used.all():
            return lags, even, odd
        used = self.ops.from_numpy(np.flatnonzero(is_used), forward)
        return lags[is_used], xp.take(even, used, axis=1), xp.take(odd, used, axis=1)

    def _coefficient_norms(self) -> np.ndarray:
        """Bounds of ``||R_d||`` for the coefficients as computed, E and O of ``R_d + R_d^T`` and ``R_d - R_d^T``.

        In Frobenius norms, ``||E||**2 + ||O||**2 = 4 ||R_d||**2``. If E and O are rounded, ``(E + O) / 2`` and
        ``(E - O) / 2`` stand for R_d and R_d^T. Their norms add up to at most ``sqrt(||E||**2 + ||O||**2)``, so that
        the mean of the two is within the bound. A sum of squares passes through at most ``p * rank + 2`` roundings.
        """
        xp = self.xp
        if self.rank < self.size:
            return np.full(len(self.lags) - 1, math.inf)
        squares = xp.sum(self.even[:, 1:, :] ** 2, axis=-1) + xp.sum(self.odd[:, 1:, :] ** 2, axis=-1)
        norms = rounding.up(xp.sqrt(xp.max(squares, axis=0)) / 2, self.size * self.rank + 4, xp=xp)
        return np.asarray(self.ops.to_numpy(norms), dtype=np.float64)

    @property
    def dtype(self) -> Any:
        """Precision in which H is computed."""
        return self.even.dtype

    @property
    def itemsize(self) -> int:
        """Bytes of a complex entry."""
        return 16 if self.dtype == self.xp.float64 else 8

    def eigenvalue_limit_of_norm(self, norm: np.ndarray) -> np.ndarray:
        """Largest computed ``lambda_max(H)`` that proves ``||G|| <= norm`` for the blocks as given, rounded down."""
        rotated = np.maximum(host.sub_down(host.mul_down(norm, self._shrink), self._lost), 0.0)
        return host.sub_down(host.mul_down(rotated, rotated), self.error)

    def norm_up(self, eigenvalue_limit: np.ndarray) -> np.ndarray:
        """Bound of ``||G||`` that an eigenvalue limit proves; the inverse of `eigenvalue_limit_of_norm`."""
        rotated = host.next_up(np.sqrt(np.maximum(host.next_up(eigenvalue_limit + self.error), 0.0)))
        return host.next_up(host.next_up(rotated + self._lost) / self._shrink)

    def norm_up_by(self, bounds: Array) -> np.ndarray:
        """`norm_up` of all of H, from bounds of the norms of `real_matrices_of`.

        An entry of the sum over all lags has twice the roundings that `error` counts, and 2 more. And magnitudes of two
        terms of a lag add up to at most ``sqrt(2)`` times what stands for them there. So its errors are below 3 times
        it. They stay so for the Hermitian matrix: of its real matrix's errors e, an entry is ``(e_ij + e_ji) / 2 +
        i (e_ij - e_ji) / 2``, of a modulus of at most that of the larger one.
        """
        return self.norm_up(np.asarray(self.ops.to_numpy(bounds), dtype=np.float64) + 3 * self.error)

    def columns_at(self, frequencies: Frequencies, block: np.ndarray) -> Array:
        """First `rank` columns of H, complex, shape (f, size, rank): A above B."""
        xp, ops = self.xp, self.ops
        count, entries = len(frequencies), self.size * self.rank
        if self.even.shape[0] > 1 or entries <= _CACHED_ENTRIES or not (ops.on_host and ops.concrete):
            return ops.complex(*self.planes_at(frequencies, block))
        # Part by part, so that the planes stay in the cache.
        cos, sin = self._tables_at(frequencies)
        dtype = arrays.complex_dtype(self.even.dtype, xp=xp)
        columns = xp.empty((count, entries), dtype=dtype, device=ops.device(self.even))
        for start in range(0, entries, _CACHED_ENTRIES):
            part = slice(start, min(start + _CACHED_ENTRIES, entries))
            real, imag = xp.matmul(cos, self.even[0, :, part]), xp.matmul(sin, self.odd[0, :, part])
            columns[:, part] = ops.complex(real, imag)
        return xp.reshape(columns, (count, self.size, self.rank))

    def planes_at(self, frequencies: Frequencies, block: np.ndarray) -> tuple[Array, Array]:
        """Real and imaginary parts of those columns.

        ``frequencies``: f points. ``block`` (f,): index of the block each belongs to.
        """
        xp = self.xp
        cos, sin = self._tables_at(frequencies)
        if self.even.shape[0] == 1:
            even = xp.matmul(cos, self.even[0, ...])
            odd = xp.matmul(sin, self.odd[0, ...])
        else:
            index = self.ops.from_numpy(block.astype(np.int64), self.blocks)
            even = xp.matmul(cos[:, None, :], xp.take(self.even, index, axis=0))[:, 0, :]
            odd = xp.matmul(sin[:, None, :], xp.take(self.odd, index, axis=0))[:, 0, :]
        shape = (len(frequencies), self.size, self.rank)
        return xp.reshape(even, shape), xp.reshape(odd, shape)

    def real_matrices_of(self, blocks: np.ndarray, frequencies: Frequencies) -> Array:
        """The real matrices of H (`norms.square_of_hermitian`) for each of b blocks, by their numbers, at f points.

        Returns (b * f, size, size): those of the first block first.
        """
        xp = self.xp
        even, odd = self.even, self.odd
        if len(blocks) < even.shape[0]:
            even, odd = (arrays.rows(x, blocks, ops=self.ops) for x in (even, odd))
        table = xp.concat(self._tables_at(frequencies), axis=1)
        # The first odd coefficient is 0.
        both = xp.concat([even, odd], axis=1)
        return xp.reshape(xp.matmul(table, both), (len(blocks) * len(frequencies), self.size, self.size))

    def _tables_at(self, frequencies: Frequencies) -> tuple[Array, Array]:
        """Cosines and sines of all lags at some frequencies, shape (f, L), in the precision of the coefficients."""
        return symbols.cosines_and_sines(frequencies, self.lags, self.even, ops=self.ops)

    def reduced(self, even: Array, odd: Array, eigenvalue_limit: np.ndarray) -> tuple[Array, Array]:
        """``A + B* B / (limit - truncation)``, shape (f, rank, rank), and a bound of its rounding, shape (f,).

        ``even``, ``odd`` (f, size, rank): of `planes_at`. ``eigenvalue_limit`` (f,): what is to be proven of the
        largest eigenvalues: above the truncation bound, unless nothing is left out. Raises `HypothesisError` if
        something is left out, and a limit is not above the truncation bound.
        """
        xp = self.xp
        if not np.all(eigenvalue_limit > self.truncation):
            raise HypothesisError("a matrix is reduced only for limits above the truncation bound")
        # The root halves the relative errors of the difference and the quotient, and adds its own: two roundings in
        # all. The weight's conversion is in `reduced_error`.
        weights = host.inflate(np.sqrt(1 / (eigenvalue_limit - self.truncation)), 2)
        factor = xp.astype(self.ops.from_numpy(weights, self.blocks), even.dtype)[:, None, None]
        a = even[:, : self.rank, :], odd[:, : self.rank, :]
        b = factor * even[:, self.rank :, :], factor * odd[:, self.rank :, :]
        real, imag = symbols.gram_planes(*b, xp=xp)
        return self.ops.complex(a[0] + real, a[1] + imag), reduced_error(a, b, xp=xp)

    def float32_copy(self) -> GramPolynomial:
        """A copy whose sum over the lags is in float32; the polynomial itself if products may be in TF32 or bfloat16.

        The parts of an entry of H are sums of ``E_d cos`` and of ``O_d sin`` over the lags, with the even and odd
        coefficients E and O. A term passes through at most ``L + 2`` roundings of float32: one of the coefficient, one
        of the table, and L of the product and the sum.
        """
        is_float32 = self.even.dtype == self.xp.float32
        if is_float32 or not self.ops.exact_float32:
            return self
        if self._float32_copy is None:
            polynomial = copy.copy(self)
            polynomial.even = self.xp.astype(self.even, self.xp.float32)
            polynomial.odd = self.xp.astype(self.odd, self.xp.float32)
            sum_error = symbols.autocorrelation_error(self._norm_of_magnitudes(), len(self.lags) + 2, 2.0**-24)
            polynomial.error = host.add_up(self.error, sum_error)
            polynomial.is_float32 = True
            self._float32_copy = polynomial
        return self._float32_copy

    def _norm_of_magnitudes(self) -> float:
        """Bound of the norm of the magnitudes that the sum over the lags rounds: a largest row sum, rounded up.

        Of H only the first ``rank`` columns are computed, and the rest by symmetry. So these magnitudes are a symmetric
        matrix S, whose first ``rank`` columns are ``sum_d max(|E_d|, |O_d|)``. Its rows below have zeros beside these.
        """
        xp = self.xp
        g, count, _ = self.even.shape
        total = self.even[:, 0, :] * 0
        for d in range(count):
            total = total + xp.maximum(xp.abs(self.even[:, d, :]), xp.abs(self.odd[:, d, :]))
        first_columns = xp.reshape(total, (g, self.size, self.rank))
        row_sums = xp.sum(first_columns, axis=-1)
        # By symmetry, each of the first ``rank`` rows of S goes on, beside these columns, as its column goes on below.
        beside = xp.sum(first_columns[:, self.rank :, :], axis=-2)
        sums = xp.concat([row_sums[:, : self.rank] + beside, row_sums[:, self.rank :]], axis=-1)
        return float(xp.max(rounding.up(sums, count + 2 * self.size + 4, xp=xp)))

    def limits_by_variation(self, boxes: Boxes, threshold: float, block: np.ndarray) -> np.ndarray:
        """Eigenvalue limits at the centres up to which H varies too little for a norm above a threshold in a box, (c,).

        Let P have the coefficients as computed, which moves by at most V in the box. H - P and computed H - P are at
        most the error e everywhere, so ``lambda_max(computed H(c)) <= l`` gives ``||H(c)|| <= l + e``,
        ``||P(c)|| <= l + 2 e``, ``||P(theta)|| <= l + 2 e + V`` and ``||H(theta)|| <= l + 3 e + V``.

        ``block`` (c,): index of the block of each box.
        """
        lags = self.lags[1:]
        # As many boxes at once as fit the memory budget with all lags.
        at_once = max(1, self.ops.memory // (8 * 8 * (len(lags) + 1)))
        variation_sq = np.empty(len(boxes))
        for start in range(0, len(boxes), at_once):
            if start > 0 and self.tick is not None:
                self.tick()
            part = slice(start, start + at_once)
            variation_sq[part] = self.variation_sq(boxes[part].largest_angle(lags))
        # One of the three errors e is in `eigenvalue_limit_of_norm`.
        lost = host.next_up(variation_sq + 2 * self.error)
        return np.asarray(host.sub_down(self.eigenvalue_limit_of_norm(np.asarray(threshold)), lost))

    def variation_sq(self, spread: np.ndarray) -> np.ndarray:
        """Bound on how far the polynomial with these coefficients moves from its value at c, rounded up, shape (c,).

        ``|e^{i d.theta} - e^{i d.c}| <= min(2, |d.(theta - c)|)``, twice for each pair of lags. The coefficients' own
        rounding is not in it.

        ``spread`` (c, L - 1): largest ``|d.(theta - c)|`` in each box for each lag but the first.
        """
        if self.rank < self.size:
            return np.full(len(spread), math.inf)
        return host.inflate(2 * np.minimum(2.0, spread) @ self.norms, spread.shape[1] + 1)
