"""Turn computed numbers into proven bounds. Every 'upper' or 'lower' is made here; no method inflates by hand.

Notation: u is the unit roundoff, gamma(n) = n u / (1 - n u) (Higham, Accuracy and Stability of Numerical Algorithms,
section 3.1). Inputs are scaled to about 1, so underflow stays below every allowance. Second-order terms are covered by
the factor `SLACK`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from specnorm.errors import KernelError
from specnorm.linalg import arrays
from specnorm.linalg.frequencies import PHASE_ERROR

if TYPE_CHECKING:
    from fractions import Fraction

    from specnorm.types import Array, ArrayOps

Rounds = Literal["nearest", "up", "down"]
SLACK = 1.001
"""Covers products of two rounding terms, each below 1e-3."""
_DIVISION = 8
"""Extra roundings granted to a library's complex division and square root inside Cholesky."""
_CLUSTERED = 1e3
"""A Rayleigh quotient is off by the square of the residual over the gap, which is taken for a thousandth."""


def unit(x: Array, *, xp: Any) -> float:
    """Unit roundoff of an array's precision: 2**-53 or 2**-24."""
    return 2.0**-53 if arrays.real_dtype(x, xp=xp) == xp.float64 else 2.0**-24


def gamma(n: int, u: float) -> float:
    """Return n u / (1 - n u): the relative error of n accumulated roundings."""
    if n * u >= 0.5:
        raise KernelError(
            f"the kernel is too large to bound in {'float64' if u == 2.0**-53 else 'float32'}: {n} roundings leave no "
            "valid error bound. Compute in float64 (JAX: enable 64-bit values)."
        )
    return n * u / (1 - n * u)


def product_error(length: int, x: Array, *, xp: Any) -> float:
    """Componentwise relative error of a matrix product of the given inner length: |fl(AB) - AB| <= this * |A||B|."""
    u = unit(x, xp=xp)
    return math.sqrt(2) * gamma(2 * length, u) if arrays.is_complex(x, xp=xp) else gamma(length, u)


def up(x: Array, n: int, *, xp: Any) -> Array:
    """Increase non-negative numbers by more than ``n`` roundings."""
    return x * (1 + SLACK * gamma(n + 2, unit(x, xp=xp)))


def down(x: Array, n: int, *, xp: Any) -> Array:
    """Decrease non-negative numbers by more than ``n`` roundings."""
    return x * (1 - SLACK * gamma(n + 2, unit(x, xp=xp)))


def times_up(*factors: float) -> float:
    """Product of non-negative floats, never below the exact one; 0 if a factor is 0."""
    product = 1.0
    for factor in factors:
        if factor == 0:
            return 0.0
        # Products with 1 are exact; others are rounded to nearest once, and may underflow.
        product = factor if product == 1 else product if factor == 1 else math.nextafter(product * factor, math.inf)
    return product


def plus_up(*terms: float) -> float:
    """Sum of non-negative floats, never below the exact one."""
    total = 0.0
    for term in terms:
        total = term if total == 0 else total if term == 0 else math.nextafter(total + term, math.inf)
    return total


def root_up(x: Fraction | int) -> float:
    """Square root of a non-negative rational number, rounded up to a float; checked in rational numbers."""
    from fractions import Fraction  # here, since importing it takes milliseconds

    y = math.sqrt(x)
    while Fraction(y) ** 2 < x:
        y = math.nextafter(y, math.inf)
    return y


def hypot_up(*terms: float) -> float:
    """Root of a sum of squares of floats, never below the exact one; `math.hypot` is within one unit."""
    known = [term for term in terms if term]
    if len(known) < 2:
        return abs(known[0]) if known else 0.0
    return math.nextafter(math.hypot(*known) * (1 + 2.0**-51), math.inf)


def float_up(x: Fraction) -> float:
    """A float that is not below a rational number, nor more than one unit above."""
    from fractions import Fraction

    y = float(x)
    return y if Fraction(y) >= x else math.nextafter(y, math.inf)


def to_dtype(value: Array, dtype: Any, rounds: Rounds, *, xp: Any) -> Array:
    """Convert to the result's dtype in the safe direction.

    Unscaling by a power of two is exact but for underflow, and the conversion rounds to nearest once; zero (only the
    zero kernel has it) stays zero. A lower value that leaves the range ends at the largest finite number.
    """
    converted = xp.astype(value, dtype)
    if rounds == "nearest":
        return converted
    info = xp.finfo(dtype)
    eps, tiny, largest = float(info.eps), float(info.smallest_normal), float(info.max)
    if rounds == "up":
        return xp.where(value > 0, converted * (1 + 2 * eps) + tiny, converted)
    lowered = xp.minimum(converted, xp.full_like(converted, largest)) * (1 - 2 * eps) - tiny
    return xp.where(lowered > 0, lowered, xp.zeros_like(lowered))


def frobenius_up(a: Array, *, xp: Any) -> Array:
    """Frobenius norm of each matrix of a stack, rounded up, shape (...)."""
    # Norm of the row norms: roundings of rows and columns add up instead of multiplying.
    rows = xp.linalg.vector_norm(a, axis=-1)
    return up(xp.linalg.vector_norm(rows, axis=-1), 2 * a.shape[-1] + a.shape[-2] + 8, xp=xp)


def gram_below(gram: Array, limit: Array, *, ops: ArrayOps) -> Array:
    """Prove ``lambda_max(H) <= limit`` for each Hermitian matrix H of a stack, by Cholesky factorisation.

    A factorisation of ``M = x I - H`` that completes proves ``M >= -kappa tr(M) I`` (Rump, BIT 46, 2006, theorem 2.3;
    for complex matrices with sqrt(2) gamma(2n + 8), see the documentation's 'Guarantees'). x is the limit less that
    price, checked afterwards with the diagonal as rounded.

    Parameters
    ----------
    gram : array, shape (..., p, p)
        Only the lower triangle is read.
    limit : array, shape (...)
        In the precision of H.

    Returns
    -------
    boolean array, shape (...)
        False means undecided.
    """
    xp = ops.xp
    ops.check_cholesky(gram)
    u = unit(gram, xp=xp)
    size = gram.shape[-1]
    kappa = cholesky_loss(size, gram, xp=xp)
    diagonal = xp.linalg.diagonal(gram)
    diagonal = xp.real(diagonal) if arrays.is_complex(gram, xp=xp) else diagonal
    # The price is at most kappa size x, lifted by the roundings of its own computation below.
    x = limit / (1 + SLACK * kappa * size * (1 + 4 * (size + 8) * u) + 32 * u)
    pivots = x[..., None] - diagonal
    trace = xp.sum(xp.maximum(pivots, xp.zeros_like(pivots)), axis=-1)
    paid = up(up(x, 2, xp=xp) + kappa * SLACK * up(trace, size, xp=xp), 4, xp=xp)
    if not ops.may_branch:
        eye = xp.eye(size, dtype=xp.bool, device=ops.device(gram))
        shifted = xp.where(eye, xp.astype(pivots, gram.dtype)[..., None], -gram)
    else:
        # NumPy multiplies complex numbers ten times as fast as it negates them.
        entries = xp.reshape(gram, (*gram.shape[:-2], size**2)) * -1
        entries[..., :: size + 1] = xp.astype(pivots, gram.dtype)
        shifted = xp.reshape(entries, gram.shape)
    return ops.cholesky_ok(shifted) & (paid <= limit) & (x > 0)


def cholesky_loss(size: int, x: Array, *, xp: Any) -> float:
    """kappa: a completed Cholesky factorisation of M proves ``M >= -kappa tr(M) I``."""
    u = unit(x, xp=xp)
    steps = 2 * size + _DIVISION if arrays.is_complex(x, xp=xp) else size + _DIVISION
    g = (math.sqrt(2) if arrays.is_complex(x, xp=xp) else 1.0) * gamma(steps, u)
    return g / (1 - g)


def matrix_norm_up(a: Array, error: Array | float = 0.0, *, ops: ArrayOps) -> Array:
    """Proven upper bound of the spectral norm of each matrix of a stack.

    ``||A||**2 = lambda_max(A*A)``; the computed Gram matrix differs from A*A by at most `product_error` times
    ``||A||_F**2``, and `gram_below` proves a limit just above its computed largest eigenvalue: no eigenvalue routine is
    trusted. Where the proof fails the Frobenius norm is returned, which is always a bound.

    Parameters
    ----------
    a : array, shape (..., m, n)
        Scaled to about 1.
    error : array or float
        Bound on ``||A - a||`` for a matrix A of which ``a`` is a computed version; broadcasts with the result.

    Returns
    -------
    array, shape (...)
    """
    xp = ops.xp
    u = unit(a, xp=xp)
    size, length = min(a.shape[-2:]), max(a.shape[-2:])
    gram = arrays.gram_smaller(a, xp=xp)
    frobenius = frobenius_up(a, xp=xp)
    gram_error = up(frobenius**2, 4, xp=xp) * (SLACK * product_error(length, a, xp=xp))
    estimate = xp.linalg.eigvalsh((gram + arrays.adjoint(gram, xp=xp)) / 2)[..., -1]
    # Twice the price of the proof: once for it, once for the room the factorisation itself needs.
    lift = 1 + 2 * size * cholesky_loss(size, a, xp=xp) + 16 * u
    limit = xp.maximum(estimate, xp.zeros_like(estimate)) * lift
    proven = gram_below(gram, limit, ops=ops)
    bound = up(xp.sqrt(xp.where(proven, limit + gram_error, frobenius**2)), 6, xp=xp)
    # A zero matrix has no room for a proof by factorisation and needs none.
    return up(xp.where(frobenius > 0, bound, xp.zeros_like(bound)) + error, 2, xp=xp)


def quotient_down(a: Array, v: Array, *, xp: Any) -> Array:
    """Proven lower bound of the spectral norm of each matrix of a stack: ||A v|| / ||v||, rounded down.

    Parameters
    ----------
    a : array, shape (..., m, n)
    v : array, shape (..., n)
        Any vector; the closer to the top right singular vector the better.

    Returns
    -------
    array, shape (...)
    """
    image = xp.matmul(a, v[..., None])[..., 0]
    m, n = a.shape[-2:]
    top = xp.linalg.vector_norm(image, axis=-1)
    bottom = xp.linalg.vector_norm(v, axis=-1)
    usable = bottom > 0
    quotient = top / xp.where(usable, bottom, xp.ones_like(bottom))
    lost = product_error(n, a, xp=xp) * SLACK * frobenius_up(a, xp=xp)
    value = down(quotient, 2 * m + 2 * n + _DIVISION, xp=xp) - lost
    return xp.where(usable & (value > 0), value, xp.zeros_like(value))


def gram_iteration_up(a: Array, n_iter: int, error: Array | float = 0.0, *, xp: Any) -> Array:
    """Gram iteration as a proven upper bound of the spectral norm of each matrix of a stack.

    ``B_0 = A``, ``B_{t+1} = fl(B_t* B_t)`` after a rescaling by a power of two; then, backwards,
    ``U_T = ||B_T||_F`` and ``U_t = sqrt(U_{t+1} + e ||B_t||_F**2)`` with e the error of the product (Delattre et al.,
    ICML 2023, theorem 1, with rounding added).

    Parameters
    ----------
    a : array, shape (..., m, n)
    n_iter : int
        Number of Gram products; 0 is the Frobenius norm.
    error : array or float
        As in `matrix_norm_up`.

    Returns
    -------
    array, shape (...)
    """
    if a.shape[-1] > a.shape[-2]:
        a = xp.matrix_transpose(a)
    history = []
    current = a
    for _ in range(n_iter):
        current, exponent = _rescale(current, xp=xp)
        lost = (
            SLACK * product_error(current.shape[-2], current, xp=xp) * up(frobenius_up(current, xp=xp) ** 2, 2, xp=xp)
        )
        history.append((exponent, lost))
        current = xp.matmul(arrays.adjoint(current, xp=xp), current)
    bound = frobenius_up(current, xp=xp)
    for exponent, lost in reversed(history):
        bound = arrays.unscale(up(xp.sqrt(bound + lost), 4, xp=xp), exponent, xp=xp)
    return up(bound + error, 2, xp=xp)


def _rescale(a: Array, *, xp: Any) -> tuple[Array, Array]:
    """Scale each matrix of a stack by a power of two near its largest entry."""
    flat = xp.reshape(a, (-1, *a.shape[-2:]))
    largest = xp.max(xp.abs(flat), axis=(-2, -1))
    exponent = xp.floor(xp.log2(xp.where(largest > 0, largest, xp.ones_like(largest))))
    # A symbol can cancel down to subnormal numbers, whose inverse would overflow.
    limit = math.log2(float(xp.finfo(largest.dtype).max)) - 2
    exponent = xp.clip(exponent, -limit, limit)
    factor = arrays.power_of_two(-exponent, xp=xp)
    scaled = flat * xp.astype(factor, flat.dtype)[:, None, None]
    return xp.reshape(scaled, a.shape), xp.reshape(exponent, a.shape[:-2])


def symbol_error(blocks: Array, *, xp: Any) -> Array:
    """Bound on ``||computed G(theta) - G(theta)||`` at any frequency of `symbols.Symbol`, shape (b,).

    ``(gamma(taps) + sqrt(2) eps_c) q`` with ``q >= || sum_k |K_k| ||`` and eps_c the error of the cosines and sines.
    """
    u = unit(blocks, xp=xp)
    taps = math.prod(blocks.shape[3:])
    return absolute_norm_up(blocks, xp=xp) * (SLACK * (gamma(taps + 1, u) + math.sqrt(2) * phase_error(u)))


def autocorrelation_error(square: float, terms: int, u: float) -> float:
    """Bound on ``||computed H(theta) - H(theta)||`` of `autocorrelation.GramPolynomial`.

    ``(gamma(terms) + sqrt(2) eps_c) q**2``: every entry of H is a sum of products of kernel entries, cosines and sines,
    and ``sum_d |R_d| <= (sum_k |K_k|)^T (sum_k |K_k|)`` entrywise.

    Parameters
    ----------
    square : float
        At least q**2, of `absolute_norm_up`.
    terms : int
        Roundings of an entry.
    u : float
        Unit roundoff of the precision they happen in.
    """
    return square * (SLACK * (gamma(terms, u) + math.sqrt(2) * phase_error(u))) * (1 + 1e-12)


def rotation_loss(columns: Array, basis: Array, taps: int, *, ops: ArrayOps) -> tuple[float, float]:
    """What a rotation of the channels costs: ``||G|| <= (||G'|| + lost') / shrink`` with G' of the computed product.

    ``fl(K V) = K V + E``, ``|E| <= gamma(p) |K| |V|``; ``||G V|| >= ||G|| sqrt(1 - e)`` with ``e >= ||V^T V - I||``.

    Parameters
    ----------
    columns : array, shape (g, taps * m, p)
        The taps of each block below one another.
    basis : array, shape (g, p, p)
        V; nearly orthogonal.
    taps : int

    Returns
    -------
    shrink, lost : float
        ``||G'|| <= tau * shrink - lost`` proves ``||G|| <= tau``.
    """
    xp = ops.xp
    u, size = unit(basis, xp=xp), basis.shape[-1]
    eye = xp.eye(size, dtype=basis.dtype, device=ops.device(basis))
    product = xp.matmul(xp.matrix_transpose(basis), basis)
    length = float(xp.max(frobenius_up(basis, xp=xp)))
    apart = float(xp.max(frobenius_up(product - eye, xp=xp)))
    e = (apart * (1 + 4 * u) + SLACK * gamma(size + 2, u) * (length**2 + size)) * (1 + 1e-12)
    # Over the taps, ||sum_k e^{ik.theta} E_k|| <= sqrt(taps) ||E||_F of all of them below one another.
    lost = SLACK * gamma(size, u) * math.sqrt(taps) * float(xp.max(frobenius_up(columns, xp=xp))) * length
    return math.sqrt(max(1 - e, 0.0)) * (1 - 1e-15), lost * (1 + 1e-12)


def gram_norm_up(columns: Array, *, xp: Any) -> Array:
    """Upper bound of ``||X^T X||`` of each matrix of a stack, from row sums: sharp if X has orthogonal columns.

    Parameters
    ----------
    columns : array, shape (g, n, p)

    Returns
    -------
    array, shape (g,)
    """
    n, size = columns.shape[-2:]
    gram = xp.matmul(xp.matrix_transpose(columns), columns)
    rows = xp.max(xp.sum(xp.abs(gram), axis=-1), axis=-1)
    return up(
        up(rows, size, xp=xp) + frobenius_up(columns, xp=xp) ** 2 * SLACK * product_error(n, columns, xp=xp), 4, xp=xp
    )


def reduced_error(a: Array, b: Array, *, xp: Any) -> Array:
    """Bound on ``||fl(A + b* b) - (A + b* b)||`` for matrices A (f, r, r) and b (f, n, r), shape (f,).

    b stands for a matrix B scaled by a weight: two more roundings an entry.
    """
    u = unit(b, xp=xp)
    square = up(frobenius_up(b, xp=xp) ** 2, 2, xp=xp)
    summed = up(frobenius_up(a, xp=xp) + square, 2, xp=xp)
    return up(SLACK * (product_error(b.shape[-2] + 4, b, xp=xp) * square + 2 * math.sqrt(2) * u * summed), 4, xp=xp)


def phase_error(u: float) -> float:
    """Absolute error of the cosines and sines in the working precision."""
    return PHASE_ERROR * u if u == 2.0**-53 else 1.01 * u


def absolute_norm_up(blocks: Array, *, xp: Any) -> Array:
    """Upper bound q of ``|| sum_k |K_k| ||``, from its row and column sums, shape (b,)."""
    b, m, p = blocks.shape[:3]
    sums = xp.sum(xp.reshape(xp.abs(blocks), (b, m, p, -1)), axis=-1)
    rows = xp.max(xp.sum(sums, axis=2), axis=1)
    columns = xp.max(xp.sum(sums, axis=1), axis=1)
    return up(xp.sqrt(rows * columns), math.prod(blocks.shape[3:]) + m + p + 4, xp=xp)


def grid_factor(samples: int, size: int) -> float:
    """Factor of the frequency-grid bound along one axis, rounded up.

    ``min(1/cos(pi (k-1) / 2N), (1 - (k-1)/N)**-0.5)``: Ehlich and Zeller 1964, and Pfister and Bresler 2018, for a
    trigonometric polynomial with k consecutive terms on N equispaced samples, N > k - 1.
    """
    degree: int = size - 1
    if degree == 0:
        return 1.0
    if samples <= degree:
        raise ValueError(f"{samples} samples do not determine {size} taps")
    interpolation = (1 - degree / samples) ** -0.5
    cosine = math.cos(math.pi * degree / (2 * samples))
    factor = min(interpolation, 1 / cosine) if cosine > 0 else interpolation
    return float(factor * (1 + 1e-14 + 1e-14 / max(cosine, 1e-3)))


def ritz_down(images: Array, terms: Array, vectors: Array, count: int, *, ops: ArrayOps) -> Array:
    """Proven lower bounds of the k largest singular values of a linear map, from its action on k vectors.

    With the vectors as the columns of X, ``sigma_j(A) >= sigma_j(A X) / ||X||``; the computed image Y differs from A X
    by at most ``gamma(count) |A| |X|``; and the eigenvalues of Y*Y differ from its sorted diagonal by at most the norm
    of what lies off it (Weyl, twice). Sharp for orthogonal vectors with orthogonal images, which Ritz vectors are.

    Parameters
    ----------
    images : array, shape (b, k, m)
        A x as computed.
    terms : array, shape (b, k, m)
        ``|A| |x|``, computed by the same operations.
    vectors : array, shape (b, k, n)
        Any vectors, near unit length.
    count : int
        Roundings of one entry of the image.

    Returns
    -------
    array, shape (b, k)
        Descending; the first is a lower bound of the norm.
    """
    xp = ops.xp
    k = images.shape[1]
    u = unit(images, xp=xp)
    lengths, roundings = _inner_products(vectors, ops=ops)
    eye = xp.eye(k, dtype=vectors.dtype, device=ops.device(vectors))
    mass = up(xp.linalg.trace(lengths), k + roundings, xp=xp)
    width = up(frobenius_up(lengths - eye, xp=xp) + 1 + mass * (SLACK * gamma(roundings + 2, u)), 4, xp=xp)
    gram, roundings = _inner_products(images, ops=ops)
    diagonal = xp.linalg.diagonal(gram)
    mass = up(xp.sum(diagonal, axis=-1), k + roundings, xp=xp)
    spread = up(frobenius_up(gram * (1 - eye), xp=xp) + mass * (SLACK * gamma(roundings + 2, u)), 4, xp=xp)
    tiny = float(xp.finfo(diagonal.dtype).smallest_normal)
    # Squares of small entries underflow, each by less than the smallest normal number.
    squares = down(xp.sort(diagonal, axis=-1, descending=True), 2, xp=xp) - spread[:, None] - k * images.shape[2] * tiny
    values = down(xp.sqrt(xp.maximum(squares, xp.zeros_like(squares))), 2, xp=xp)
    total, roundings = _inner_products(terms, ops=ops)
    # The computed terms may be too small by a relative gamma(count) themselves.
    share = gamma(count, u) / (1 - gamma(count, u))
    total = xp.linalg.trace(total) + k * terms.shape[2] * tiny
    lost = up(xp.sqrt(up(total, k + roundings, xp=xp)), 2, xp=xp) * (SLACK * share)
    values = down((values - lost[:, None]) / up(xp.sqrt(width), 2, xp=xp)[:, None], 4, xp=xp)
    return xp.maximum(values, xp.zeros_like(values))


def _inner_products(vectors: Array, *, ops: ArrayOps) -> tuple[Array, int]:
    """Gram matrices (b, k, k) of vectors (b, k, n), and the number of roundings of each entry.

    The sum is taken in about sqrt(n) parts, whose roundings add up instead of multiplying.
    """
    xp = ops.xp
    b, k, n = vectors.shape
    part = max(1, math.isqrt(n))
    parts = -(-n // part)
    missing = parts * part - n
    if missing:
        filling = xp.zeros((b, k, missing), dtype=vectors.dtype, device=ops.device(vectors))
        vectors = xp.concat([vectors, filling], axis=2)
    split = xp.permute_dims(xp.reshape(vectors, (b, k, parts, part)), (0, 2, 1, 3))
    return xp.sum(xp.matmul(split, xp.matrix_transpose(split)), axis=1), part + parts


def norm_near(a: Array, v: Array, *, ops: ArrayOps) -> Array:
    """Proven upper bound just above ||A v|| / ||v|| for each real matrix of a stack; infinite where there is no proof.

    As `matrix_norm_up`, but the limit is the Rayleigh quotient of the Gram matrix H at v, raised by what its residual
    lets expect. The trace of H, whose entries are sums of squares, bounds ``||A||_F**2``.

    Parameters
    ----------
    a : array, shape (..., m, n)
        Scaled to about 1.
    v : array, shape (..., min(m, n))
        Near the top singular vector of the shorter side; trusted for nothing.

    Returns
    -------
    array, shape (...)
    """
    xp = ops.xp
    size, length = min(a.shape[-2:]), max(a.shape[-2:])
    gram = arrays.gram_smaller(a, xp=xp)
    trace = up(xp.linalg.trace(gram), length + size + 8, xp=xp)
    lost = trace * (SLACK * product_error(length, a, xp=xp))
    v = arrays.normalise(v, xp=xp)[0][..., None]
    image = xp.matmul(gram, v)
    square = xp.matmul(xp.matrix_transpose(v), image)
    residual = xp.linalg.vector_norm(image - square * v, axis=(-2, -1))
    square = square[..., 0, 0]
    share = residual / xp.where(square > 0, square, xp.ones_like(square))
    room = 2 * size * cholesky_loss(size, a, xp=xp) + 48 * unit(a, xp=xp)
    limit = square * (1 + room + xp.minimum(share, _CLUSTERED * share**2))
    bound = up(xp.sqrt(limit + lost), 6, xp=xp)
    proven = gram_below(gram, limit, ops=ops)
    return xp.where(proven | (trace == 0), bound, xp.full_like(bound, math.inf))
