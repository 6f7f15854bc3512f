"""A convolution's symbol as a matrix-valued trigonometric polynomial: its values, errors, gradients, Gram polynomial.

*Values.* ``G(theta) = sum_k K_k e^{i k.theta}`` is computed as a table of cosines, and one of sines, times the taps.
Its error is that of `evaluation_error`, times ``q >= || sum_k |K_k| ||``.

*Gram polynomial.* ``H = G* G = R_0 + sum_{d>0} [cos(d.theta) (R_d + R_d^T) + i sin(d.theta) (R_d - R_d^T)]`` with the
channel autocorrelations ``R_d = sum_k K_k^T K_{k+d}``; of the lags d and -d, one is summed over. H at many frequencies
is a table of cosines times the *even* coefficients ``R_d + R_d^T``, and one of sines times the *odd* ones. No two
matrices of channels are multiplied at a frequency. Every entry of H is a sum of products of two kernel entries with a
cosine or sine, before which ``sum_d |R_d| <= (sum_k |K_k|)^T (sum_k |K_k|)`` stands, entrywise. So its error is that of
`evaluation_error`, times q**2.

*Rotation.* Trained kernels have few large directions. With the channels rotated so that these come first,
``H = [[A, B*], [B, C]]`` with ``C <= truncation`` at every frequency, and for ``limit > truncation``

    lambda_max(H) <= limit   if   lambda_max(A + B* B / (limit - truncation)) <= limit:

a small matrix instead of a large one, and C is never formed: ``B* (limit - C)^-1 B <= B* B / (limit - truncation)``, so
that the Schur complement of ``limit - H`` is positive semidefinite. Any basis serves; the search chooses it.

*One column.* The symbol of a depthwise layer has a norm that is a sum of squares instead of an eigenvalue. It is
evaluated axis by axis (`scalar`), without coefficients of H, which are half as many as there are pairs of taps.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from specnorm.backends import arrays
from specnorm.proofs import host, norms, rounding
from specnorm.proofs.bound import HypothesisError, Lower, Sealed, Upper, Uppers
from specnorm.proofs.cells import Grid
from specnorm.proofs.frequencies import Frequencies, phase_error, tap_points
from specnorm.symbols.proofs import scalar
from specnorm.symbols.proofs.lags import Lags

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps
    from specnorm.proofs.cells import Boxes

_SMALL_GRAM = 32
"""Columns up to which a product is faster than BLAS's product of a matrix with itself (syrk), which NumPy takes unless
one of both is a copy."""
_CACHED_ENTRIES = 2**11
"""Entries of a matrix that `GramPolynomial.columns_at` forms at once on the host."""


def evaluation_error(terms: int, u: float) -> float:
    """Bound on the error of a polynomial's value at any frequency, relative to the norm of what the roundings multiply.

    ``gamma(terms) + sqrt(2) eps_c``, with eps_c the error of the cosines and sines. Real and imaginary part together
    are no worse than one, as ``cos**2 + sin**2 = 1``; the errors of cosine and sine change ``e^{i d.theta}`` by at most
    ``sqrt(2) eps_c``. `SLACK` covers the roundings of this formula.

    ``terms``: roundings of an entry. ``u``: unit roundoff of the precision that is computed in.
    """
    return rounding.SLACK * (rounding.gamma(terms, u) + math.sqrt(2) * phase_error(u))


class Polynomial:
    """``G(theta) = sum_k K_k e^{i k.theta}`` of a stack of blocks.

    Parameters
    ----------
    blocks : array, shape (b, m, p, *kernel_shape)

    Attributes
    ----------
    coefficients : array, shape (b, m, p, *kernel_shape)
        K: the blocks, or their rotation as computed.
    basis : array, shape (b, p, p), optional
        Nearly orthogonal; None: the polynomial is not rotated.
    rank : int
        How many directions of a rotated polynomial are kept.
    truncation : float
        Bound of ``||C(theta)||`` for every block and theta; 0 if nothing is left out.
    shrink, lost : float
        ``||G'|| <= tau * shrink - lost`` proves ``||G|| <= tau``, with G' of the rotated blocks as computed.
    """

    basis: Array | None = None
    truncation: float = 0.0
    shrink: float = 1.0
    lost: float = 0.0

    def __init__(self, blocks: Array, *, xp: Namespace) -> None:
        self.blocks = blocks
        self.coefficients = blocks
        self.rank = blocks.shape[2]
        self.xp = xp

    @property
    def shape(self) -> tuple[int, ...]:
        """(b, m, p, *kernel_shape)."""
        return self.blocks.shape

    @property
    def taps(self) -> int:
        """Number of taps of a block."""
        return math.prod(self.shape[3:])

    @functools.cached_property
    def stacked_taps(self) -> Array:
        """Coefficients as matrices (b, taps * m, p): the taps of a block stacked on one another."""
        xp = self.xp
        b, m, p = self.shape[:3]
        by_tap = xp.permute_dims(xp.reshape(self.coefficients, (b, m, p, -1)), (0, 3, 1, 2))
        return xp.reshape(by_tap, (b, -1, p))

    # -- magnitudes and errors ---------------------------------------------------------------------------------------
    @functools.cached_property
    def sums_of_magnitudes(self) -> Array:
        """``sum_k |K_k|``, shape (b, m, p)."""
        xp = self.xp
        return xp.sum(xp.reshape(xp.abs(self.coefficients), (*self.shape[:3], -1)), axis=-1)

    @functools.cached_property
    def absolute_norm_up(self) -> Array:
        """Upper bound q of ``|| sum_k |K_k| ||``, from row and column sums, shape (b,); 0 for zeros alone."""
        xp = self.xp
        m, p = self.shape[1:3]
        sums = self.sums_of_magnitudes
        rows = xp.max(xp.sum(sums, axis=2), axis=1)
        columns = xp.max(xp.sum(sums, axis=1), axis=1)
        # A product of the roots, since that of the sums could be too small a number.
        return rounding.up(xp.sqrt(rows) * xp.sqrt(columns), self.taps + m + p + 4, xp=xp)

    @property
    def relative_error(self) -> float:
        """`error` as a multiple of q."""
        return evaluation_error(self.taps + 1, rounding.unit(self.coefficients, xp=self.xp))

    @functools.cached_property
    def error(self) -> Array:
        """Bound on ``||computed G(theta) - G(theta)||`` at any frequency, shape (b,)."""
        return self.absolute_norm_up * self.relative_error

    # -- values ------------------------------------------------------------------------------------------------------
    def at(self, frequencies: Frequencies, *, by_block: bool = False, ops: ArrayOps) -> Symbol:
        """The symbol at f frequencies.

        ``by_block``: whether each block has its own: ``frequencies`` are then b * f points, those of the first block
        first.
        """
        return Symbol(self, frequencies, by_block=by_block, ops=ops)

    def planes_at(self, cos: Array, sin: Array) -> tuple[Array, Array]:
        """Real and imaginary part of `matrices_at`, given by the cosines and sines of the taps' angles."""
        xp = self.xp
        b, m, p = self.shape[:3]
        taps = xp.permute_dims(xp.reshape(self.coefficients, (b, m * p, -1)), (0, 2, 1))
        real = xp.reshape(xp.matmul(cos, taps), (b, -1, m, p))
        imag = xp.reshape(xp.matmul(sin, taps), (b, -1, m, p))
        return real, imag

    def matrices_at(self, phase: Array) -> Array:
        """G at f frequencies, given by the taps' phases (f, taps) or (b, f, taps): (b, f, m, p)."""
        real, imag = self.planes_at(self.xp.real(phase), self.xp.imag(phase))
        return real + 1j * imag

    def matrix_at(self, phase: Array) -> Array:
        """G of each block at its own frequency, given by the taps' phases (b, taps): (b, m, p)."""
        return self.matrices_at(phase[:, None, :])[:, 0, ...]

    def frequencies_at_once(self, *, ops: ArrayOps) -> int:
        """How many frequencies fit the memory budget."""
        return self.frequencies_in_memory(math.prod(self.shape[:3]), self.taps, ops=ops)

    @staticmethod
    def frequencies_in_memory(entries: int, taps: int, *, ops: ArrayOps) -> int:
        """How many frequencies fit the memory budget: about six complex matrices each, and two dozen numbers a tap.

        ``entries``: of the matrices of all blocks at a frequency. ``taps``: of one block.
        """
        return int(max(1, ops.memory // (6 * 16 * entries + 24 * 8 * taps)))

    @staticmethod
    def singular_value_gradient(
        u: Array, v: Array, phase: Array, cotangent: Array, kernel_shape: tuple[int, ...], *, xp: Namespace
    ) -> Array:
        """Cotangent (b,) times the gradient of ``Re(u* G(theta) v)``: ``Re(conj(u_o) v_i e^{i k.theta})``.

        For singular vectors u (b, m) and v (b, p), that is a singular value of each block's symbol at one frequency.
        ``phase`` (b, taps): e^{i k.theta} for each tap k, or other weights of the taps. Returns (b, m, p,
        *kernel_shape).
        """
        b, m = u.shape
        u = u * xp.astype(cotangent, u.dtype)[:, None]
        right = xp.reshape(v[:, :, None] * phase[:, None, :], (b, 1, -1))
        total = _real_of_product(u[:, :, None], right, xp=xp)
        return xp.reshape(total, (b, m, -1, *kernel_shape))

    @staticmethod
    def matrices_gradient(
        symbol_gradients: Array, phase: Array, kernel_shape: tuple[int, ...], *, xp: Namespace
    ) -> Array:
        """Gradient of ``sum_f Re<Gamma_f, G(theta_f)>`` with respect to the blocks.

        It is ``Re sum_f conj(Gamma_f) e^{i k.theta_f}`` for tap k.

        ``phase`` is (b, f, taps). ``symbol_gradients`` (b, f, m, p): Gamma_f: the gradients with respect to the symbols
        at f frequencies.
        """
        b, f, m, p = symbol_gradients.shape
        by_entry = xp.matrix_transpose(xp.reshape(symbol_gradients, (b, f, m * p)))
        return xp.reshape(_real_of_product(by_entry, phase, xp=xp), (b, m, p, *kernel_shape))

    # -- on a grid, whose points are the frequencies of a circulant ----------------------------------------------------
    @property
    def has_one_column(self) -> bool:
        """Whether G has one row or one column, as that of depthwise layers, and changes with the frequency."""
        return min(self.shape[1:3]) == 1 and len(self.shape) > 3

    def largest_on_grid(self, sizes: tuple[int, ...], *, ops: ArrayOps) -> tuple[Array, Frequencies, Uppers]:
        """Bounds of the largest norm of each symbol, of one row or column, on a DFT grid, which is visited whole.

        The blocks are in the widest dtype of the library, scaled to about 1. Returns ``value`` (b,); ``frequencies``:
        that of each block where its norm is largest; ``uppers``: the values with their claims about the grid.
        """
        xp = self.xp
        columns = Polynomial(arrays.tall(self.coefficients, xp=xp), xp=xp)
        squares, places = [], []
        for on_grid in columns._squares_on_grid(sizes, ops=ops):
            squares.append(xp.max(on_grid, axis=1))
            places.append(ops.to_numpy(xp.argmax(on_grid, axis=1)))
        value = columns.norms_up(xp.concat(squares, axis=0))
        rule = f"norms at {math.prod(sizes)} frequencies"
        uppers = Uppers._by_rule(value, Grid.of_sizes(sizes, self.shape[3:]), rule)
        return value, Frequencies.half_grid(sizes)[np.concatenate(places)], uppers

    def norm_on_grid_up(self, sizes: tuple[int, ...], *, ops: ArrayOps) -> Array:
        """Bounds (b,) of the largest norm of each symbol of one column on a DFT grid."""
        xp = self.xp
        squares = [xp.max(on_grid, axis=1) for on_grid in self._squares_on_grid(sizes, ops=ops)]
        return self.norms_up(arrays.joined(squares, axis=0, xp=xp))

    def _squares_on_grid(self, sizes: tuple[int, ...], *, ops: ArrayOps) -> Iterator[Array]:
        """``||G(theta)||**2`` of symbols of one column on a half grid, (b, points), as many blocks at once as fit."""
        count, m, _, *kernel_shape = self.shape
        tables = scalar.half_grid_tables(sizes, kernel_shape, self.coefficients, ops=ops)
        points = len(Frequencies.half_grid(sizes))
        at_once = scalar.blocks_at_once(m, points, kernel_shape, ops=ops)
        for start in range(0, count, at_once):
            part = self.coefficients[start : min(start + at_once, count), ...]
            yield scalar.squares_on_grid(part, tables, xp=self.xp)

    def norms_up(self, squares: Array) -> Array:
        """Bounds of the norms of symbols of one column at some frequencies, from `scalar.squares_on_grid` (b,)."""
        xp = self.xp
        m, _, *kernel_shape = self.shape[1:]
        error = self.absolute_norm_up * scalar.column_error(kernel_shape, rounding.unit(self.coefficients, xp=xp))
        modulus = rounding.up(xp.sqrt(squares), 2 * m + 2, xp=xp)
        # Squares below the smallest normal number may be flushed to 0.
        underflow = 2 * m * float(xp.finfo(self.coefficients.dtype).smallest_normal) ** 0.5
        return rounding.up(modulus + error, 4, xp=xp) + xp.where(error > 0, underflow + 0 * error, 0 * error)

    def wrapped(self, sizes: tuple[int, ...], *, ops: ArrayOps) -> tuple[Array, float]:
        """Kernels with no more taps than a circulant's points, and with the same symbols at its frequencies.

        The phases of taps k and k + n are the same at the frequencies of n points. Sums are computed with their exact
        rounding errors (Knuth's two-sum), so that taps which cancel do so exactly.

        ``sizes``: points of each axis. Returns ``blocks`` (b, m, p, *wrapped_shape); ``error``: bound of the norm of
        the difference of both symbols of any block.
        """
        totals = ops.to_numpy(self.coefficients).astype(np.float64)
        lost = np.zeros_like(totals)
        additions = 0
        for axis, n in enumerate(sizes, start=3):
            turns = arrays.ceil_div(totals.shape[axis], n)
            if turns == 1:
                continue
            missing = [(0, turns * n - totals.shape[axis] if j == axis else 0) for j in range(totals.ndim)]
            parts = np.split(np.pad(totals, missing), turns, axis=axis)
            lost = np.sum(np.split(np.pad(lost, missing), turns, axis=axis), axis=0)
            totals = parts[0]
            for part in parts[1:]:
                total = totals + part
                share = total - totals
                lost = lost + np.abs((totals - (total - share)) + (part - share))
                totals = total
            additions += 2 * turns
        if not additions:
            return self.coefficients, 0.0
        on_host: Any = lost
        xp = ops.backend.host().namespace(on_host)
        errors = rounding.up(Polynomial(on_host, xp=xp).absolute_norm_up, additions, xp=xp)
        return ops.from_numpy(totals, self.coefficients), float(xp.max(errors))

    @staticmethod
    def of_wrapped(lower: Lower, upper: Upper | None, error: float) -> tuple[Lower, Upper | None]:
        """Bounds for kernels, from those for `wrapped` ones."""
        if error == 0:
            return lower, upper
        rule = "taps that wrap around are added up, with rounding"
        lower_of_kernel = Lower._by_rule(max(host.sub_down(lower.value, error), 0.0), lower.what, rule, lower)
        if upper is None:
            return lower_of_kernel, None
        return lower_of_kernel, Upper._by_rule(host.add_up(upper.value, error), upper.what, rule, upper)

    # -- rotated channels, and the Gram polynomial -------------------------------------------------------------------
    def rotated(self, basis: Array, rank: int, *, ops: ArrayOps) -> Polynomial:
        """The polynomial of the blocks with the channels in another basis, of which ``rank`` directions are kept.

        The precision is that of ``basis`` (b, p, p), which is nearly orthogonal.
        """
        xp = self.xp
        b, m, p, *kernel_shape = self.shape
        columns = xp.astype(self.stacked_taps, basis.dtype, copy=False)
        products = xp.matmul(columns, basis)
        rotated = Polynomial(self.blocks, xp=xp)
        by_tap = xp.reshape(products, (b, self.taps, m, p))
        rotated.coefficients = xp.reshape(xp.permute_dims(by_tap, (0, 2, 3, 1)), (b, m, p, *kernel_shape))
        rotated.basis = xp.astype(basis, self.blocks.dtype, copy=False)
        rotated.rank = rank
        rotated.truncation = truncation_bound(products[..., rank:], self.taps, xp=xp)
        rotated.shrink, rotated.lost = rotation_loss(columns, rotated.basis, self.taps, ops=ops)
        return rotated

    def lags(self, *, wide: bool = False, ops: ArrayOps) -> Lags:
        """The coefficients of ``G* G``, and a bound of their error.

        An entry is a sum of products, taken in any order. Its error is at most gamma times the same sum of magnitudes,
        so that of the symbol is at most ``gamma q**2``; products below the smallest normal number may be flushed to 0.

        ``wide``: whether to compute in the device's widest precision instead of that of the blocks.
        """
        xp = self.xp
        polynomial = Polynomial(arrays.in_wide_dtype(self.coefficients, ops=ops), xp=xp) if wide else self
        x, q = polynomial.coefficients, polynomial.absolute_norm_up
        m, p = self.shape[1:3]
        relative = rounding.SLACK * rounding.gamma(Lags.roundings(x, xp=xp), rounding.unit(x, xp=xp))
        underflow = float(xp.finfo(x.dtype).smallest_normal) * m * p * self.taps**2
        error = rounding.up(q**2 * relative, 4, xp=xp) + xp.astype(q > 0, x.dtype) * underflow
        return Lags(Lags.products(x, x, ops=ops), error)

    def gram(self, *, by_axis: bool = False, tick: Callable[[], None] | None = None, ops: ArrayOps) -> GramPolynomial:
        """``G* G``. The blocks are of a wide real dtype, scaled to about 1; p <= m.

        ``by_axis``: whether to evaluate a polynomial of one column axis by axis, without coefficients of ``G* G``.
        ``tick``: called before each lag, and between parts of many boxes. It ends the work by raising an exception.
        """
        return (ScalarGram if by_axis else GramPolynomial)(self, tick=tick, ops=ops)


class Symbol:
    """A polynomial at a list of frequencies: see `Polynomial.at`. With ``by_block``, only its values serve."""

    def __init__(
        self, polynomial: Polynomial, frequencies: Frequencies, *, by_block: bool = False, ops: ArrayOps
    ) -> None:
        xp = ops.xp
        self.xp = xp
        self._ops = ops
        self.polynomial = polynomial
        self.frequencies = frequencies
        self.shape = polynomial.shape
        points = tap_points(tuple(self.shape[3:]))
        self.cos, self.sin = frequencies.device_cos_sin(points, polynomial.coefficients, ops=ops)
        if by_block:
            shape = (self.shape[0], -1, self.cos.shape[1])
            self.cos, self.sin = xp.reshape(self.cos, shape), xp.reshape(self.sin, shape)

    @functools.cached_property
    def phase(self) -> Array:
        """The taps' phases, complex, in the shape of their cosines."""
        return self._ops.complex(self.cos, self.sin)

    def matrices(self) -> Array:
        """G at every frequency, shape (b, f, m, p): two real products with the table of cosines and sines."""
        return self._ops.complex(*self.polynomial.planes_at(self.cos, self.sin))

    def apply(self, v: Array) -> Array:
        """G(theta_f) v_f for one vector a frequency, shape (b, f, p) -> (b, f, m), without forming any G."""
        xp = self.xp
        b, m = self.shape[:2]
        # (b, taps*m, p) @ (b, p, f): every tap applied to every vector, then weighted by its phase.
        images = arrays.real_times(self.polynomial.stacked_taps, xp.matrix_transpose(v), ops=self._ops)
        by_tap = xp.reshape(images, (b, -1, m, v.shape[1]))
        weights = xp.matrix_transpose(self.phase)
        return xp.matrix_transpose(xp.sum(by_tap * weights[None, :, None, :], axis=1))

    def adjoint(self, u: Array) -> Array:
        """G(theta_f)* u_f, shape (b, f, m) -> (b, f, p)."""
        xp = self.xp
        b, f, _ = u.shape
        # Every vector weighted by the phase of every tap, (b, taps*m, f), and one product sums over the taps.
        weights = xp.conj(xp.matrix_transpose(self.phase))
        weighted = xp.reshape(weights[None, :, None, :] * xp.matrix_transpose(u)[:, None, :, :], (b, -1, f))
        side_by_side = xp.matrix_transpose(self.polynomial.stacked_taps)
        return xp.matrix_transpose(arrays.real_times(side_by_side, weighted, ops=self._ops))

    def norm_down(self, block: int, right: Array) -> Lower:
        """Bound the norm of one block's symbol at a single frequency from below: a quotient less the symbol's error.

        The blocks are in the wide dtype, scaled to about 1. ``right`` (1, p): any vector; the closer to the top right
        singular vector the better.
        """
        one_block = Polynomial(self.polynomial.coefficients[block : block + 1, ...], xp=self.xp)
        quotient = norms.quotient_down(one_block.matrix_at(self.phase), right, xp=self.xp)
        value = max(host.sub_down(float(quotient[0]), float(one_block.error[0])), 0.0)
        return Lower._by_rule(value, self.frequencies, "quotient of a vector")


def _real_of_product(x: Array, y: Array, *, xp: Namespace) -> Array:
    """``Re(conj(X) Y) = Re X Re Y + Im X Im Y`` for matrices (b, m, r) and (b, r, n), as one real product."""
    left = xp.concat([xp.real(x), xp.imag(x)], axis=2)
    right = xp.concat([xp.real(y), xp.imag(y)], axis=1)
    return xp.matmul(left, right)


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


def _gram_planes(real: Array, imag: Array, *, xp: Namespace) -> tuple[Array, Array]:
    """Real and imaginary part of ``X* X``."""
    real_t, imag_t = xp.matrix_transpose(real), xp.matrix_transpose(imag)
    cross = xp.matmul(real_t, imag)
    if real.shape[-1] <= _SMALL_GRAM:
        real, imag = xp.asarray(real, copy=True), xp.asarray(imag, copy=True)
    return xp.matmul(real_t, real) + xp.matmul(imag_t, imag), cross - xp.matrix_transpose(cross)


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

    Attributes
    ----------
    blocks : array, shape (g, m, p, *kernel_shape)
    size, rank : int
        Columns p, and how many of them (after a rotation) are kept.
    truncation : float
        As of the polynomial of which it is made.
    basis : array, shape (g, p, p), optional
        As of that polynomial.
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
    basis: Array | None = None
    truncation: float = 0.0
    is_float32: bool = False
    _shrink: float = 1.0
    _lost: float = 0.0
    _float32_copy: GramPolynomial | None = None

    def __init__(self, polynomial: Polynomial, *, tick: Callable[[], None] | None = None, ops: ArrayOps) -> None:
        xp = ops.xp
        self.xp = xp
        self.ops = ops
        self.blocks = polynomial.blocks
        self.tick = tick
        self.size = polynomial.shape[2]
        self.rank = polynomial.rank
        self.basis = polynomial.basis
        self.truncation = polynomial.truncation
        self._shrink, self._lost = polynomial.shrink, polynomial.lost
        coefficients = polynomial.coefficients
        self.is_float32 = coefficients.dtype != self.blocks.dtype
        self.lags, self.even, self.odd = self._coefficients(coefficients)
        self.norms = self._coefficient_norms()
        norm = float(xp.max(polynomial.absolute_norm_up))
        roundings = Lags.roundings(coefficients, xp=xp) + len(self.lags) + 4
        self.error = norm**2 * evaluation_error(roundings, rounding.unit(coefficients, xp=xp))

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
        """First `rank` columns of H at pairs of a frequency and a block, complex, shape (f, size, rank): A above B.

        ``H = [[A, B*], [B, C]]`` is the Gram matrix of the rotated symbol. ``block`` (f,): the block of each frequency.
        """
        xp, ops = self.xp, self.ops
        count, entries = len(frequencies), self.size * self.rank
        if self.even.shape[0] > 1 or entries <= _CACHED_ENTRIES or not (ops.on_host and ops.concrete):
            return ops.complex(*self.planes_at(frequencies, block))
        # Part by part, so that the planes stay in the cache.
        cos, sin = frequencies.device_cos_sin(self.lags, self.even, ops=self.ops)
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
        cos, sin = frequencies.device_cos_sin(self.lags, self.even, ops=self.ops)
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
        table = xp.concat(frequencies.device_cos_sin(self.lags, self.even, ops=self.ops), axis=1)
        # The first odd coefficient is 0.
        both = xp.concat([even, odd], axis=1)
        return xp.reshape(xp.matmul(table, both), (len(blocks) * len(frequencies), self.size, self.size))

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
        real, imag = _gram_planes(*b, xp=xp)
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
            sum_error = self._norm_of_magnitudes() * evaluation_error(len(self.lags) + 2, 2.0**-24)
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

    def at_centres(self, boxes: Boxes) -> CentreValues | None:
        """H of every block at the centres of all boxes of a cover; None unless it is evaluated axis by axis."""
        return None

    def variation_sq(self, spread: np.ndarray) -> np.ndarray:
        """Bound on how far the polynomial with these coefficients moves from its value at c, rounded up, shape (c,).

        ``|e^{i d.theta} - e^{i d.c}| <= min(2, |d.(theta - c)|)``, twice for each pair of lags. The coefficients' own
        rounding is not in it.

        ``spread`` (c, L - 1): largest ``|d.(theta - c)|`` in each box for each lag but the first.
        """
        if self.rank < self.size:
            return np.full(len(spread), math.inf)
        return host.inflate(2 * np.minimum(2.0, spread) @ self.norms, spread.shape[1] + 1)


class ScalarGram(GramPolynomial):
    """``H(theta) = ||G(theta)||**2`` of a stack of blocks with one column, evaluated without coefficients.

    Attributes
    ----------
    error : float
        Bound of ``|computed H(theta) - H(theta)|``.
    """

    size = rank = 1

    def __init__(self, polynomial: Polynomial, *, tick: Callable[[], None] | None = None, ops: ArrayOps) -> None:
        self.xp = xp = ops.xp
        self.ops = ops
        self.blocks = blocks = polynomial.blocks
        self.tick = tick
        q = float(xp.max(polynomial.absolute_norm_up))
        relative = scalar.scalar_error(blocks.shape[1], blocks.shape[3:], rounding.unit(blocks, xp=xp))
        self.error = host.mul_up(q, q, relative)

    @property
    def dtype(self) -> Any:
        """Precision in which H is computed."""
        return self.blocks.dtype

    def float32_copy(self) -> GramPolynomial:
        """Itself: nothing is to be saved."""
        return self

    def columns_at(self, frequencies: Frequencies, block: np.ndarray) -> Array:
        """H (f, 1, 1) at some frequencies, each of a block, numbers (f,): as `GramPolynomial.columns_at`."""
        return self.ops.complex(*self.planes_at(frequencies, block))

    def planes_at(self, frequencies: Frequencies, block: np.ndarray) -> tuple[Array, Array]:
        """H at some frequencies, each of a block, as the 1 x 1 matrix it is; and its imaginary part, 0."""
        xp = self.xp
        _, m, _, *kernel_shape = self.blocks.shape
        count = len(frequencies)
        index = self.ops.from_numpy(block.astype(np.int64), self.blocks)
        chosen = xp.take(self.blocks, index, axis=0)
        rows = m * math.prod(kernel_shape[:-1])
        real = xp.reshape(chosen, (count, rows, -1))
        imag: Array | None = None
        # The last axis is summed first; what is left of the others stands among the rows.
        for axis in reversed(range(len(kernel_shape))):
            cos, sin = (xp.reshape(table, (count, -1, 1)) for table in self._tables(frequencies, axis))
            if imag is None:
                real, imag = xp.matmul(real, cos), xp.matmul(real, sin)
            else:
                real, imag = (
                    xp.matmul(real, cos) - xp.matmul(imag, sin),
                    xp.matmul(real, sin) + xp.matmul(imag, cos),
                )
            # Now the axis that is summed next stands last.
            rows = m * math.prod(kernel_shape[: axis - 1]) if axis > 0 else m
            real = xp.reshape(real, (count, rows, -1))
            imag = xp.reshape(imag, (count, rows, -1))
        assert imag is not None
        values = xp.sum(xp.reshape(real, (count, -1)) ** 2 + xp.reshape(imag, (count, -1)) ** 2, axis=1)
        values = xp.reshape(values, (count, 1, 1))
        return values, xp.zeros_like(values)

    def _tables(self, frequencies: Frequencies, axis: int) -> tuple[Array, Array]:
        """Cosines and sines of an axis' taps at some frequencies, shape (f, k)."""
        along_axis = Frequencies(frequencies.numerators[:, [axis]], frequencies.denominators[axis : axis + 1])
        return self._axis_tables(along_axis, axis)

    def _axis_tables(self, along_axis: Frequencies, axis: int) -> tuple[Array, Array]:
        """Cosines and sines (f, k) of an axis' taps, from frequencies along that axis alone."""
        taps = np.arange(self.blocks.shape[3 + axis])[:, None]
        return along_axis.device_cos_sin(taps, self.blocks, ops=self.ops)

    def at_centres(self, boxes: Boxes) -> CentreValues:
        """H of every block at the centres of all boxes of a cover, which lie on a grid."""
        g, m, _, *kernel_shape = self.blocks.shape
        centres = boxes.centres
        tables = []
        # Number of each centre among the points of the grid, last axis fastest.
        point = np.zeros(len(centres), dtype=np.int64)
        point_count = 1
        for axis, denominator in enumerate(centres.denominators):
            numerators = centres.numerators[:, axis] % denominator
            distinct, place = np.unique(numerators, return_inverse=True)
            tables.append(self._axis_tables(Frequencies(distinct[:, None], (denominator,)), axis))
            point = point * len(distinct) + place
            point_count *= len(distinct)
        # Boxes of single points are often the whole grid, in its order.
        is_grid = point_count == len(centres) and bool(np.all(point == np.arange(point_count)))
        at_once = scalar.blocks_at_once(m, point_count, kernel_shape, ops=self.ops)
        values = np.empty((g, len(centres)))
        for first in range(0, g, at_once):
            if first > 0 and self.tick is not None:
                self.tick()
            part = slice(first, min(first + at_once, g))
            on_grid = self.ops.to_numpy(scalar.squares_on_grid(self.blocks[part, ...], tables, xp=self.xp))
            values[part] = on_grid if is_grid else on_grid[:, point]
        return CentreValues._made(self, boxes, values)

    def limits_by_variation(self, boxes: Boxes, threshold: float, block: np.ndarray) -> np.ndarray:
        """`GramPolynomial.limits_by_variation`, from the variation of G instead of that of H."""
        blocks, row = np.unique(block, return_inverse=True)
        limits, kind = self.limits_of_kinds(boxes, threshold, blocks)
        return np.asarray(limits[row, kind])

    def limits_of_kinds(
        self, boxes: Boxes, threshold: float, blocks: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Limits by `variation`, for each block and kind of box, (g, s), and the kind of each box, (c,)."""
        variation, kind = self.variation(boxes, blocks)
        norms_at_centres = np.maximum(host.sub_down(np.full_like(variation, threshold), variation), 0.0)
        return self.eigenvalue_limit_of_norm(norms_at_centres), kind

    def variation(self, boxes: Boxes, blocks: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Bound on how far ``||G||`` moves from its value at a box's centre, rounded up: of each block and kind of box.

        With the phase of the tap k0 taken out, ``||e^{-i k0.delta} G(c + delta) - G(c)||`` is at most
        ``sum_k ||K_k|| min(2, |(k - k0).delta|)``, whatever k0: here the largest tap of each block.

        ``blocks`` (g,): numbers of the blocks. None: all of them. Returns ``bounds`` (g, s): boxes that reach equally
        far along every lattice axis are of one kind; ``kind`` (c,).
        """
        chosen = self.blocks if blocks is None else arrays.rows(self.blocks, blocks, ops=self.ops)
        g, m, _, *kernel_shape = chosen.shape
        width = boxes.high - boxes.low
        if not width.any():
            # Boxes of one point each.
            return np.zeros((g, 1)), np.zeros(len(boxes), dtype=np.int64)
        magnitudes = np.abs(self.ops.to_numpy(chosen)).astype(np.float64).reshape(g, m, -1)
        tap_norms = host.inflate(np.sqrt((magnitudes**2).sum(axis=1)), m + 2)
        _, first_of_kind, kind = np.unique(width, axis=0, return_index=True, return_inverse=True)
        # All differences d of two taps, counted from the most negative one, and the largest |d.delta| in a box of each
        # kind: by so much e^{i d.theta} changes, but by no more than 2.
        most_difference = np.asarray(kernel_shape) - 1
        difference_shape = tuple(2 * k - 1 for k in kernel_shape)
        differences = tap_points(difference_shape) - most_difference
        changes = np.minimum(2.0, boxes[first_of_kind].largest_angle(differences.astype(np.float64)))
        # For each block, the number of the difference between each tap and the largest tap.
        taps = tap_points(tuple(kernel_shape))
        largest_tap = taps[tap_norms.argmax(axis=1)]
        from_largest = taps[None, :, :] - largest_tap[:, None, :] + most_difference
        difference_number = np.ravel_multi_index(tuple(np.moveaxis(from_largest, -1, 0)), difference_shape)
        sums = [(tap_norms * changes_of_kind[difference_number]).sum(axis=1) for changes_of_kind in changes]
        return host.inflate(np.stack(sums, axis=1), math.prod(kernel_shape) + 2), kind.reshape(-1)


@dataclass(frozen=True, eq=False)
class CentreValues(Sealed):
    """Squared norms of every block at the centres of a cover's boxes, made by `ScalarGram.at_centres` alone.

    Parameters
    ----------
    values : float array, shape (g, c)
    """

    polynomial: ScalarGram
    boxes: Boxes
    values: np.ndarray

    def __post_init__(self) -> None:
        self.values.flags.writeable = False
