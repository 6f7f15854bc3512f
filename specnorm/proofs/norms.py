"""Proven bounds of the spectral norms of matrices, and of the symbols of kernels by way of matrices.

A *block* is a real kernel (m, p, *kernel_shape); a stack holds g of them. Its *symbol* is the matrix G(theta), m x p,
the sum of its taps times phases. The *supremum* (sigma*) of a stack is the largest ``||G(theta)||`` over all
frequencies theta and all blocks. Claims about it have `ALL_FREQUENCIES` as their subject (``what``).

Proofs rest on products, sums and Cholesky factorizations with counted roundings. Eigenvalue routines only propose
numbers that a factorization then proves. `rounding.SLACK`, a little above 1, covers terms of second order: a product
of the errors of two counts.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm.backends import arrays
from specnorm.backends.text import counted
from specnorm.proofs import host, rounding
from specnorm.proofs.bound import ALL_FREQUENCIES, Lower, Upper
from specnorm.proofs.frequencies import Frequencies

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps

_DIVISION_ROUNDINGS = 8
"""Roundings allowed for a library's divisions and square roots, complex or real, in a Cholesky factorization or in a
quotient of vector norms."""
_LEAST_FACTOR_SIZE = 96
"""Number of rows from which `factor_loss` is worth its cost, compared with `cholesky_loss`."""
_LIKELY_SHARE = 0.04
"""Largest ratio of `factor_loss` to the bound by `cholesky_loss` that was observed, over many kinds of large kernels.
No proof rests on it."""
_FEW_ENTRIES = 2**8
"""Entries of a matrix up to which their squares are one sum: rows would take several times as long."""
_CACHED_ENTRIES = 2**16
"""Entries of the matrices that `GramIterates` multiplies at once: a quarter MiB in float32."""
_INVERSE_GAP = 1e3
"""Assumed inverse of the relative gap between the two largest eigenvalues, for the likely error of a Rayleigh quotient:
its squared residual over the gap. No proof rests on it."""


def frobenius_up(a: Array, *, xp: Namespace) -> Array:
    """Frobenius norm of each matrix of a stack, rounded up, shape (...)."""
    m, n = a.shape[-2:]
    if m * n <= _FEW_ENTRIES:
        a = xp.reshape(a, (*a.shape[:-2], 1, m * n))
    # Row by row: roundings of rows and columns add up instead of multiplying.
    squares = xp.vecdot(a, a)
    rows = xp.real(squares) if arrays.is_complex(a, xp=xp) else squares
    return rounding.up(xp.sqrt(xp.sum(rows, axis=-1)), 2 * a.shape[-1] + a.shape[-2] + 8, xp=xp)


def largest_eigenvalue_up(matrices: Array, *, xp: Namespace) -> Array:
    """Bounds (...) of the largest eigenvalues of real matrices H (..., p, p) by their traces and Frobenius norms.

    ``lambda_max(H) <= v + ||H - v I||_F`` for every number v. Let m be the mean of the eigenvalues, and so of the
    diagonal, and ``s = ||H - m I||_F``. The best v is ``m - s / sqrt(p (p - 1))``, and then the bound is
    ``m + sqrt((p - 1) / p) s`` (Wolkowicz and Styan, Linear Algebra Appl. 29, 1980). It is exact if all eigenvalues are
    equal, where the Frobenius norm is the root of p times as large, and if all but one are 0. Roundings of v do not
    matter. Those of ``H - v I`` are relative ones of its diagonal: no entry is computed as a difference of squares.

    ``matrices`` (..., p, p): symmetric up to roundings: the bound is that of ``(H + H^T) / 2``. Or the real matrices
    ``A + B`` of Hermitian ones (`square_of_hermitian`), which have the same trace and Frobenius norm. Returns (...): at
    least 0; NaN where entries or their squares are not finite.
    """
    size = matrices.shape[-1]
    diagonal, rest = arrays.diagonal_and_rest(matrices, xp=xp)
    if size**2 <= _FEW_ENTRIES:
        rest = xp.reshape(rest, (*rest.shape[:-2], 1, (size - 1) * size))
    rest_sq = xp.sum(xp.vecdot(rest, rest), axis=-1)

    def distance(shift: Array) -> Array:
        shifted = diagonal - shift[..., None]
        return xp.sqrt(rest_sq + xp.vecdot(shifted, shifted))

    mean = xp.linalg.trace(matrices) / size
    shift = mean if size == 1 else mean - distance(mean) / math.sqrt(size * (size - 1))
    shift = xp.maximum(shift, xp.zeros_like(shift))
    roundings = 2 * rest.shape[-1] + rest.shape[-2] + 12
    return rounding.up(shift + rounding.up(distance(shift), roundings, xp=xp), 2, xp=xp)


def norm_by_frobenius(blocks: Array, *, ops: ArrayOps) -> Upper:
    """Bound the supremum of blocks by ``sqrt(taps)`` times the largest Frobenius norm of a block.

    Reason: the norm of a sum of T matrices is at most ``sqrt(T)`` times the norm of these matrices one below another.

    ``blocks`` is (g, m, p, *kernel_shape).
    """
    frobenius = frobenius_up(ops.xp.reshape(blocks, (blocks.shape[0], blocks.shape[1], -1)), xp=ops.xp)
    value = host.mul_up(float(ops.xp.max(frobenius)), host.root_up(math.prod(blocks.shape[3:])))
    return Upper._by_rule(value, ALL_FREQUENCIES, "root of the taps times the Frobenius norm")


def _has_single_entries(blocks: Array, *, ops: ArrayOps) -> bool:
    """Whether each row and each column of every block has at most one number other than 0, over all taps together."""
    xp = ops.xp
    g, m, p = blocks.shape[:3]
    is_used = xp.astype(xp.reshape(blocks, (g, m, p, -1)) != 0, xp.int32)
    most_in_a_row = int(xp.max(xp.sum(is_used, axis=(2, 3))))
    most_in_a_column = int(xp.max(xp.sum(is_used, axis=(1, 3))))
    return max(most_in_a_row, most_in_a_column) <= 1


def norm_of_single_entries(blocks: Array, *, ops: ArrayOps) -> tuple[Lower, Upper] | None:
    """Bound the supremum of blocks by the largest modulus of an entry, from both sides.

    Each row and each column of every block must have at most one number other than 0, over all taps together. Such a
    layer permutes, shifts and scales channels, or is zero. ``G* G`` is diagonal, with the squared entries on the
    diagonal, so both bounds are exact.

    ``blocks`` is (g, m, p, *kernel_shape). Returns ``lower``, ``upper``: the lower bound is of the symbol at frequency
    0. None for other blocks.
    """
    if not _has_single_entries(blocks, ops=ops):
        return None
    value = float(ops.xp.max(ops.xp.abs(blocks)))
    rule = "single entries"
    ndim = blocks.ndim - 3
    # The norm is the same at every frequency; the lower bound names one, frequency 0.
    zero = Frequencies(np.zeros((1, ndim), dtype=np.int64), (1,) * ndim)
    return Lower._by_rule(value, zero, rule), Upper._by_rule(value, ALL_FREQUENCIES, rule)


def norm_of_stack(shape: tuple[int, ...]) -> str:
    """Describe in words, as the subject of a claim, the largest norm of a stack of matrices of shape (count, m, n).

    Subjects are compared. The words are the same for the transposed matrices, whose norms are equal.
    """
    count = shape[0]
    m, n = sorted(shape[1:], reverse=True)
    if count == 1:
        return f"the norm of a matrix, {m} x {n}"
    return f"the largest norm of {counted(count, 'matrix', 'matrices')}, {m} x {n}"


def gram_below(gram: Array, limit: Array, *, ops: ArrayOps) -> Array:
    """Prove ``lambda_max(H) <= limit`` for each Hermitian matrix H of a stack, by Cholesky; False means undecided.

    If the Cholesky factorization of ``M = x I - H`` completes, then ``M >= -e I`` with e the loss that `cholesky_loss`
    or `factor_loss` bounds. So ``lambda_max(H) <= x + e``, and the limit is proven if that is no larger. Of the 8 extra
    roundings that `backward_error` allows, a diagonal entry needs one for its shift ``x - H_ii`` and a few for its
    root. The proof is valid for any x and any limit; a poor choice only makes it fail.

    ``gram`` (..., p, p): H. Only one triangle is read. Which one depends on the library, so the rounding of either is
    in the limit. ``limit`` (...): in the precision of H. Returns (...): whether the limit is proven.
    """
    xp = ops.xp
    ops.check_cholesky(gram)
    size = gram.shape[-1]
    diagonal = xp.linalg.diagonal(gram)
    diagonal = xp.real(diagonal) if arrays.is_complex(gram, xp=xp) else diagonal
    u = rounding.unit(gram, xp=xp)
    # x is chosen so that x + e, with the likely loss e, is just below the limit. The 32 roundings are those of x and of
    # x + e.
    relative_loss = _relative_loss(size, gram, ops=ops)
    x = limit / (1 + relative_loss + 32 * u)
    shifted_diagonal = x[..., None] - diagonal
    shifted = _shifted(gram, shifted_diagonal, ops=ops)
    if _uses_factor_loss(size, gram, ops=ops):
        loss = factor_loss(ops.cholesky_factors(shifted), ops=ops)
        is_complete = xp.isfinite(loss)
    else:
        is_complete = ops.cholesky_ok(shifted)
        trace = xp.sum(xp.maximum(shifted_diagonal, xp.zeros_like(shifted_diagonal)), axis=-1)
        loss = cholesky_loss(size, gram, xp=xp) * rounding.up(trace, size, xp=xp)
    # The roundings: the product and the sum.
    proven = rounding.up(rounding.up(x, 2, xp=xp) + rounding.SLACK * loss, 4, xp=xp)
    return is_complete & (proven <= limit) & (x > 0)


def _relative_loss(size: int, gram: Array, *, ops: ArrayOps) -> float:
    """The likely loss of `gram_below` over x, with the rounding and the allowance of the trace in it."""
    u = rounding.unit(gram, xp=ops.xp)
    return rounding.SLACK * likely_loss(size, gram, ops=ops) * (1 + 4 * (size + 8) * u)


def _shifted(gram: Array, diagonal: Array, *, ops: ArrayOps) -> Array:
    """Return ``x I - H`` for Hermitian matrices H (..., p, p), given its diagonal (..., p)."""
    xp = ops.xp
    size = gram.shape[-1]
    if not ops.concrete:
        eye = xp.eye(size, dtype=xp.bool, device=ops.device(gram))
        return xp.where(eye, xp.astype(diagonal, gram.dtype)[..., None], -gram)
    # NumPy multiplies complex numbers ten times as fast as it negates them.
    entries = xp.reshape(gram, (*gram.shape[:-2], size**2)) * -1
    entries[..., :: size + 1] = xp.astype(diagonal, gram.dtype)
    return xp.reshape(entries, gram.shape)


def _uses_factor_loss(size: int, like: Array, *, ops: ArrayOps) -> bool:
    """Whether the loss is computed from the factor: for large float32 matrices, where `cholesky_loss` is large."""
    is_float32 = rounding.unit(like, xp=ops.xp) > 2.0**-53
    return size >= _LEAST_FACTOR_SIZE and ops.has_factors and is_float32


def likely_loss(size: int, like: Array, *, ops: ArrayOps) -> float:
    """Likely ratio of the loss e to x in `gram_below`, which leaves room for it below the limit. No proof rests on it.

    The diagonal of ``M = x I - H`` is at most x, so ``e <= kappa tr(M) <= kappa p x``, with kappa = `cholesky_loss`.
    As observed, `factor_loss` is at most ``_LIKELY_SHARE + 3 / p`` of that.

    ``size``: p: rows of the matrices. ``like``: any array of the matrices' dtype.
    """
    share = _LIKELY_SHARE + 3 / size if _uses_factor_loss(size, like, ops=ops) else 1.0
    return cholesky_loss(size, like, xp=ops.xp) * size * share


def factor_loss(factors: Array, *, ops: ArrayOps) -> Array:
    """Return e such that computed Cholesky factors L of matrices M prove ``M >= -e I``; NaN where L is not finite.

    Entry (i, j) of ``L L* - M`` has the rounding error of min(i, j) terms. With g_i the `backward_error` of size i, it
    is at most entry (i, j) of ``|L| |L|^T`` times ``sqrt(g_i g_j)``. So e is the norm of ``W W^T``, where W is |L| with
    row i multiplied by ``sqrt(g_i)``. For every positive x that norm is at most ``max_i (W W^T x)_i / x_i`` (Collatz
    and Wielandt).

    ``factors`` (..., p, p): L, lower triangular, as computed. Returns (...): e.
    """
    xp = ops.xp
    size = factors.shape[-1]
    magnitudes = xp.abs(factors)
    # gamma(n) / n grows with n, so g_i is at most g_p times the ratio of the numbers of roundings.
    roundings_of_a_term = 2 if arrays.is_complex(factors, xp=xp) else 1
    roundings = _DIVISION_ROUNDINGS + roundings_of_a_term * np.arange(1.0, size + 1)
    roots = np.sqrt(backward_error(size, factors, xp=xp) * roundings / roundings[-1])
    weights = xp.astype(ops.from_numpy(roots, magnitudes), magnitudes.dtype)[:, None]
    x = weights * xp.sum(magnitudes, axis=-1, keepdims=True)
    image = weights * xp.matmul(magnitudes, xp.matmul(xp.matrix_transpose(magnitudes), weights * x))
    # Besides the two products: at most 16 roundings for modulus, roots, weights and quotient.
    return rounding.up(xp.max(image / x, axis=(-2, -1)), 2 * size + 16, xp=xp)


def cholesky_loss(size: int, like: Array, *, xp: Namespace) -> float:
    """Return kappa such that a completed Cholesky factorization of a p x p matrix M proves ``M >= -kappa tr(M) I``.

    With g = `backward_error`, ``sum_j |L_ij|**2 <= M_ii / (1 - g)``, so ``||L||_F**2 <= tr(M) / (1 - g)`` and
    ``M >= L L* - g ||L||_F**2 I >= -kappa tr(M) I`` for kappa = g / (1 - g). Rump, BIT 46, 2006,
    theorem 2.3, states this for real matrices. The argument uses the inequality of `backward_error` alone, which holds
    for complex ones with the larger g.

    ``size``: p. ``like``: any array of M's dtype.
    """
    g = backward_error(size, like, xp=xp)
    return g / (1 - g)


def backward_error(size: int, like: Array, *, xp: Namespace) -> float:
    """Return g such that a completed Cholesky factorization has ``|L L* - M| <= g |L| |L|^T``, entry by entry.

    Each entry is a sum of at most p terms, and 8 roundings are allowed for divisions and roots: g is gamma(p + 8) for
    real, sqrt(2) gamma(2 p + 8) for complex matrices. Parameters as of `cholesky_loss`.
    """
    u = rounding.unit(like, xp=xp)
    if arrays.is_complex(like, xp=xp):
        return math.sqrt(2) * rounding.gamma(2 * size + _DIVISION_ROUNDINGS, u)
    return rounding.gamma(size + _DIVISION_ROUNDINGS, u)


class GramProof:
    """The smaller Gram matrix H of each real matrix A of a stack, ``A^T A`` or ``A A^T``, and norms proven from it.

    Parameters
    ----------
    a : array, shape (..., m, n)
        A, scaled to about 1.

    Attributes
    ----------
    gram : array, shape (..., min(m, n), min(m, n))
        H as computed; read-only.
    """

    def __init__(self, a: Array, *, ops: ArrayOps) -> None:
        self._ops = ops
        self._length = max(a.shape[-2:])
        self._matrix = a
        self.gram = arrays.gram_smaller(a, xp=ops.xp)

    def largest_up_near(self, v: Array) -> Upper | None:
        """The largest of the bounds of `norm_up_near`, as a claim; None if the proof fails for one of the matrices."""
        value = float(self._ops.xp.max(self.norm_up_near(v)))
        rule = "factorization of the smaller Gram matrix"
        return Upper._by_rule(value, norm_of_stack(tuple(self._matrix.shape[-3:])), rule) if value < math.inf else None

    def norms_up(self, v: Array) -> Array:
        """`norm_up_near`, and, where that fails, `matrix_norm_up`."""
        bounds = self.norm_up_near(v)
        if bool(self._ops.xp.all(self._ops.xp.isfinite(bounds))):
            return bounds
        return self._ops.xp.minimum(bounds, matrix_norm_up(self._matrix, ops=self._ops))

    def norm_up_near(self, v: Array, *, most_error: float | None = None) -> Array:
        """Proven upper bound of the norm of each matrix, infinite where the proof fails, shape (...).

        As in `matrix_norm_up`, a factorization of H proves a limit. The limit is the Rayleigh quotient of H at v,
        raised by its likely error, which is estimated from the residual. The trace of H bounds ``||A||_F**2``.

        ``v`` (..., min(m, n)): approximate top eigenvector of H. Any vector is valid; a poor one makes the proof fail.
        ``most_error``: H minus the quotient is factorized as near the quotient as its roundings allow, but for this
        relative error. If the factorization completes, the largest eigenvalue exceeds the quotient by no more, up to
        roundings: residuals do not tell whether another one is next to it.
        """
        ops, xp = self._ops, self._ops.xp
        gram = self.gram
        size = int(gram.shape[-1])
        trace = rounding.up(xp.linalg.trace(gram), self._length + size + 8, xp=xp)
        gram_error = trace * (rounding.SLACK * rounding.product_error(self._length, gram, xp=xp))
        unit_vectors, _ = arrays.normalise(v, xp=xp)
        columns = unit_vectors[..., None]
        image = xp.matmul(gram, columns)
        quotient = xp.matmul(xp.matrix_transpose(columns), image)
        residual = xp.linalg.vector_norm(image - quotient * columns, axis=(-2, -1))
        quotient = quotient[..., 0, 0]
        relative_residual = residual / xp.where(quotient > 0, quotient, xp.ones_like(quotient))
        likely_error = xp.minimum(relative_residual, _INVERSE_GAP * relative_residual**2)
        # Twice the loss, as in `matrix_norm_up`. The 48 roundings are room for those of the limit here, and for the 32
        # by which `gram_below` lowers x. If they do not suffice, the proof fails.
        allowance = 2 * size * cholesky_loss(size, gram, xp=xp) + 48 * rounding.unit(gram, xp=xp)
        if most_error is not None:
            likely_error = xp.minimum(likely_error, xp.full_like(likely_error, most_error))
            allowance = _relative_loss(size, gram, ops=ops) + 48 * rounding.unit(gram, xp=xp)
        limit = quotient * (1 + allowance + likely_error)
        # The roundings of the sum, of the root and of the error's products; three are to spare.
        bound = rounding.up(xp.sqrt(limit + gram_error), 6, xp=xp)
        proven = gram_below(gram, limit, ops=ops)
        return xp.where(proven | (trace == 0), bound, xp.full_like(bound, math.inf))


def quotient_down(a: Array, v: Array, *, xp: Namespace) -> Array:
    """Proven lower bound of the spectral norm of each matrix A of a stack: ``||A v|| / ||v||``, rounded down.

    Allowances: gamma(2 m + 2 n + 8) for both vector norms and the division, `product_error` times ``||A||_F`` for A v.

    ``a`` is (..., m, n). ``v`` (..., n): any vector; the closer to the top right singular vector the better.
    """
    m, n = a.shape[-2:]
    image = xp.matmul(a, v[..., None])[..., 0]
    image_length = xp.linalg.vector_norm(image, axis=-1)
    length = xp.linalg.vector_norm(v, axis=-1)
    quotient = image_length / xp.where(length > 0, length, xp.ones_like(length))
    product_error = rounding.product_error(n, a, xp=xp) * rounding.SLACK * frobenius_up(a, xp=xp)
    value = rounding.down(quotient, 2 * m + 2 * n + _DIVISION_ROUNDINGS, xp=xp) - product_error
    return xp.where((length > 0) & (value > 0), value, xp.zeros_like(value))


def gram_norm_up(columns: Array, *, xp: Namespace) -> Array:
    """Upper bound of ``||X^T X||`` for each matrix X of a stack, from row sums; sharp if X has orthogonal columns.

    ``columns`` (g, n, p): X. Returns (g,).
    """
    n, size = columns.shape[-2:]
    gram = xp.matmul(xp.matrix_transpose(columns), columns)
    largest_row = rounding.up(xp.max(xp.sum(xp.abs(gram), axis=-1), axis=-1), size, xp=xp)
    gram_error = frobenius_up(columns, xp=xp) ** 2 * rounding.SLACK * rounding.product_error(n, columns, xp=xp)
    return rounding.up(largest_row + gram_error, 4, xp=xp)


def matrix_norm_up(a: Array, error: Array | float = 0.0, *, ops: ArrayOps) -> Array:
    """Proven upper bound of the spectral norm of each matrix of a stack, shape (...).

    ``||A||**2 = lambda_max(A*A)``. The computed Gram matrix differs from A*A by at most `product_error` times
    ``||A||_F**2``, and `gram_below` proves a limit just above its computed largest eigenvalue. Where the proof fails,
    the Frobenius norm is returned, which is always a bound.

    Parameters
    ----------
    a : array, shape (..., m, n)
        The matrices as computed, scaled to about 1.
    error : array or float
        If ``a`` approximates matrices A whose norms are wanted: bound of ``||A - a||``; broadcasts with the result.
    """
    xp = ops.xp
    u = rounding.unit(a, xp=xp)
    size, length = min(a.shape[-2:]), max(a.shape[-2:])
    gram = arrays.gram_smaller(a, xp=xp)
    frobenius = frobenius_up(a, xp=xp)
    gram_error = rounding.up(frobenius**2, 4, xp=xp) * (rounding.SLACK * rounding.product_error(length, a, xp=xp))
    estimate = xp.linalg.eigvalsh((gram + arrays.adjoint(gram, xp=xp)) / 2)[..., -1]
    # Twice the loss: once for x + e in `gram_below`, once so that the factorization of x I - H completes. The 16
    # roundings are room for the error of the estimate. If they do not suffice, the proof fails.
    factor = 1 + 2 * size * cholesky_loss(size, a, xp=xp) + 16 * u
    limit = xp.maximum(estimate, xp.zeros_like(estimate)) * factor
    proven = gram_below(gram, limit, ops=ops)
    bound = rounding.up(xp.sqrt(xp.where(proven, limit + gram_error, frobenius**2)), 6, xp=xp)
    # The norm of a zero matrix needs no proof, and no factorization can prove it. A NaN stays.
    return rounding.up(xp.where(frobenius == 0, xp.zeros_like(bound), bound) + error, 2, xp=xp)


def gram_iteration_up(
    a: Array,
    n_iter: int,
    *,
    xp: Namespace,
) -> Array:
    """Proven upper bounds, shape (...), of the norms of matrices by Gram iteration (`GramIterates`).

    ``a`` (..., m, n): scaled to about 1. ``n_iter``: number of Gram products; with 0 the bound is the Frobenius norm.
    """
    if a.shape[-1] > a.shape[-2]:
        a = xp.matrix_transpose(a)
    iterates = GramIterates(a, xp=xp)
    for _ in range(n_iter):
        iterates.square()
    return rounding.up(iterates.norms_by_trace_up(), 2, xp=xp)


class GramIterates:
    """Gram iteration of a stack of real matrices, with a proven bound of their norms after each product.

    Start with ``B_0 = A``; rescale B_t by a power of two and set ``B_{t+1} = fl(B_t^T B_t)``. After T products let U_T
    bound the largest eigenvalue of B_T, by its Frobenius norm, or by its trace too (`largest_eigenvalue_up`). Since
    ``||B_t||**2`` is the largest eigenvalue of ``B_t^T B_t``, going back, ``U_t = sqrt(U_{t+1} + e ||B_t||_F**2)``
    bounds ``||B_t||``, with e = `product_error`; U_0 is the bound of A (Delattre et al., ICML 2023, theorem 1, with the
    Frobenius norm; the trace and rounding added).

    Parameters
    ----------
    a : array, shape (..., m, n)
        A, scaled to about 1. Otherwise squares may underflow, and the caller adds an allowance for that to the bounds.
    of_hermitian : bool
        Whether ``a`` has the real matrices of Hermitian ones (`square_of_hermitian`), positive semidefinite up to an
        error that the caller counts, whose largest eigenvalues are bounded.
    in_cache : bool
        Whether the products of a stack (f, m, n) are taken in parts that fit the processor's cache.
    """

    def __init__(self, a: Array, *, of_hermitian: bool = False, in_cache: bool = False, xp: Namespace) -> None:
        self._xp = xp
        self._of_hermitian = of_hermitian
        count = a.shape[0]
        at_once = max(1, _CACHED_ENTRIES // math.prod(a.shape[-2:])) if in_cache else count
        # Parts of B_t along its first axis.
        starts = range(0, count, at_once) if count > at_once else ()
        self._parts = [a[start : start + at_once, ...] for start in starts] or [a]
        self._frobenius = self._joined([frobenius_up(part, xp=xp) for part in self._parts])
        # For each product: the exponent of the rescaling before it, and the error e ||B_t||_F**2.
        self._history: list[tuple[Array, Array]] = []

    def _joined(self, parts: list[Array]) -> Array:
        return parts[0] if len(parts) == 1 else self._xp.concat(parts, axis=0)

    def square(self) -> None:
        """Replace B_t by B_{t+1}: one rescaling and one product."""
        xp, norm = self._xp, self._frobenius
        # Powers of two with normal inverses. A norm other than 0 is the root of a number, so not too small for that.
        positive = xp.where(norm > 0, norm, 1.0)
        exponent = xp.floor(xp.log2(xp.minimum(positive, float(xp.finfo(norm.dtype).max) / 4)))
        factor = arrays.power_of_two(-exponent, xp=xp)
        part = self._parts[0]
        if self._of_hermitian:
            product_error = math.sqrt(2) * rounding.gamma(part.shape[-1] + 3, rounding.unit(part, xp=xp))
        else:
            product_error = rounding.gamma(part.shape[-2], rounding.unit(part, xp=xp))
        norm_sq = rounding.up((norm * factor) ** 2, 2, xp=xp) * rounding.SLACK
        self._history.append((exponent, norm_sq * product_error))
        start = 0
        norms = []
        for number, part in enumerate(self._parts):
            stop = start + part.shape[0]
            scaled = part * xp.astype(factor[start:stop, ...], part.dtype)[..., None, None]
            if self._of_hermitian:
                product = square_of_hermitian(scaled, xp=xp)
            else:
                product = xp.matmul(xp.matrix_transpose(scaled), scaled)
            norms.append(frobenius_up(product, xp=xp))
            self._parts[number] = product
            start = stop
        self._frobenius = self._joined(norms)

    def norms_up(self) -> Array:
        """Proven upper bounds U_0 of the norms of the matrices A, shape (...), by the Frobenius norm of the last."""
        return self._first_up(self._frobenius)

    def norms_by_trace_up(self) -> Array:
        """`norms_up` by the trace too: it reads the last matrices once more, and is never above it.

        With ``of_hermitian`` these are bounds of the largest eigenvalues. The error of A itself is not counted.
        """
        if not (self._history or self._of_hermitian):
            return self.norms_up()
        xp = self._xp
        largest = self._joined([largest_eigenvalue_up(part, xp=xp) for part in self._parts])
        # Where squares overflow, ``largest`` is no number, and the Frobenius norm is infinite.
        return self._first_up(xp.where(largest < self._frobenius, largest, self._frobenius))

    def _first_up(self, bound: Array) -> Array:
        """U_0 from U_T."""
        for exponent, product_error in reversed(self._history):
            root = rounding.up(self._xp.sqrt(bound + product_error), 4, xp=self._xp)
            bound = arrays.unscale(root, exponent, xp=self._xp)
        return bound

    def take(self, index: np.ndarray, *, ops: ArrayOps) -> None:
        """Keep only the matrices with these increasing indices (a host array) of a stack (f, m, n)."""
        start = 0
        parts = []
        for part in self._parts:
            stop = start + part.shape[0]
            first, last = np.searchsorted(index, [start, stop])
            if first < last:
                parts.append(arrays.rows(part, index[first:last] - start, ops=ops))
            start = stop
        self._parts = parts or [self._parts[0][:0, ...]]
        self._frobenius = arrays.rows(self._frobenius, index, ops=ops)
        self._history = [
            (arrays.rows(exponent, index, ops=ops), arrays.rows(product_error, index, ops=ops))
            for exponent, product_error in self._history
        ]


def square_of_hermitian(x: Array, *, xp: Namespace) -> Array:
    """Squares of Hermitian matrices ``A + i B``, A symmetric and B antisymmetric, each given by the real ``X = A + B``.

    Both have the same Frobenius norm. The square is ``A A - B B + i (A B + B A)``, and its real matrix ``X A + X^T B``.
    A rounding of A is in B too, with the other sign: it enters as ``(X - X^T) dA``, of a norm of at most
    ``u ||X||_F**2``. Entries have a rounding of B besides, those of two products, and that of their sum, relative to
    ``|X| |A| + |X^T| |B|``. So the error's norm is at most ``sqrt(2) gamma(p + 3) ||X||_F**2``.
    """
    even, odd = parts_of_hermitian(x, xp=xp)
    square = xp.matmul(x, even)
    square += xp.matmul(xp.matrix_transpose(x), odd)
    return square


def parts_of_hermitian(x: Array, *, xp: Namespace) -> tuple[Array, Array]:
    """Real and imaginary parts A and B of Hermitian matrices, from their sums."""
    half = x * 0.5
    even = half + xp.matrix_transpose(half)
    return even, x - even
