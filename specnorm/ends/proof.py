"""Bounds of a kernel's smallest singular value and of its distance from an isometry, from the norm of one other kernel.

G is the symbol of the kernel K, with no more columns than rows (else that of the transposed kernel), and m the smallest
singular value of G over all frequencies, or over the frequencies of a circulant.

*Lemma.* Let B be an invertible matrix, c (``centre``) and f (``floor``) numbers, the *defect*
``D(theta) = c I - B*(G*G - f I)B`` and ``r = c - sup ||D||``. Then

    m**2 >= f + r / ||B||**2        if r >= 0,
    m**2 >= f + r * ||B^-1||**2     if r < 0.

*Proof.* ``B*(G*G - f I)B >= r I`` at every frequency. So ``x*(G*G - f I)x >= r ||B^-1 x||**2`` for every x, and
``||x|| / ||B|| <= ||B^-1 x|| <= ||B^-1|| ||x||``.

The bound is valid for every B, c and f; a good choice makes it close. With B = I, f = 0 and c at least
``(||K||**2 + m**2) / 2``, the bound is equal to m**2. If G*G is small on some direction of channels at every frequency,
m**2 is a small part of c, and the subtraction loses digits. Then B with ``B*RB = I``, where R is the mean of G*G over
all frequencies, makes all directions about equally large.

Upper bounds of m do not use D: ``||G(theta) v||`` is one, for any frequency and any unit vector v.

With B = I, f = 0 and ``c = s**2``, for a scale s, D measures the distance from an isometry:
``| ||K x||**2 - s**2 ||x||**2 | <= ||D|| ||x||**2``. The *isometry defect* is ``||D|| / s**2``.

D is the symbol of a convolution kernel: ``c I + f B*B`` at lag 0, less the lags ``sum_y X_y^T X_{y+t}`` of the kernel
X = KB, whose taps are the matrices K_y B. These lags come from `Polynomial.lags` with a bound of their rounding
errors. At the frequencies of a circulant of n points, lags that differ by a multiple of n have the same phase, so their
matrices are added up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from specnorm.at_size.proofs.uncut import SMALLEST, unread_pixels_make_smallest_zero
from specnorm.backends import arrays, text
from specnorm.proofs import host, norms, rounding
from specnorm.proofs.bound import ALL_FREQUENCIES, HypothesisError, Lower, Sealed, Upper
from specnorm.proofs.cells import Circulant, Grid
from specnorm.proofs.frequencies import Frequencies
from specnorm.supremum.proof import Nonnegative, _nowhere_negative
from specnorm.symbols.proofs.lags import Lags
from specnorm.symbols.proofs.polynomial import Polynomial

if TYPE_CHECKING:
    from collections.abc import Sequence

    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec

DEFECT = "isometry defect"
"""The subject (``what``) of claims about the isometry defect."""


# -- the kernel of the defect ----------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Basis(Sealed):
    """An invertible matrix B for each block, made by `basis` alone.

    Parameters
    ----------
    matrix : array, shape (g, p, p)
        B.
    norm_sq, inverse_norm_sq : float
        Upper bounds of ``||B||**2`` and ``||B^-1||**2``, each the largest over all blocks.
    """

    matrix: Array
    norm_sq: float
    inverse_norm_sq: float


def basis(matrix: Array, inverse: Array, *, ops: ArrayOps) -> Basis:
    """Prove that matrices B have inverses: ``||B^-1|| <= ||T|| / (1 - ||T B - I||)`` for every matrix T.

    ``matrix``, ``inverse`` (g, p, p): B, and T, an approximate inverse of B. Raises `HypothesisError` if ``T B`` is too
    far from I to prove that B has an inverse.
    """
    xp = ops.xp
    size = matrix.shape[-1]
    product = xp.matmul(inverse, matrix)
    product_of_magnitudes = xp.matmul(xp.abs(inverse), xp.abs(matrix))
    residual = norms.frobenius_up(arrays.minus_identity(product, xp.ones_like(product[:, 0, 0]), ops=ops), xp=xp)
    relative_error = rounding.SLACK * rounding.product_error(size, matrix, xp=xp)
    error = norms.frobenius_up(product_of_magnitudes, xp=xp) * relative_error
    distance = float(xp.max(rounding.up(residual + error, 4, xp=xp)))
    if not distance < 1:
        raise HypothesisError(f"the product with what is to be an inverse is {distance:.3g} from the identity")
    norm_sq = float(xp.max(norms.gram_norm_up(matrix, xp=xp)))
    approximate_inverse_norm_sq = float(xp.max(norms.gram_norm_up(inverse, xp=xp)))
    inverse_norm_sq = host.inflate(approximate_inverse_norm_sq / (1 - distance) ** 2, 6)
    return Basis._made(matrix, norm_sq, inverse_norm_sq)


@dataclass(frozen=True, eq=False)
class InBasis(Sealed):
    """The product of a kernel K and a basis B as computed, with no more columns than rows; made by `in_basis` alone.

    Parameters
    ----------
    kernel : array, shape (g, m, p, *kernel_shape)
        KB as computed, with symbol F.
    basis : Basis or None
        B; None: the identity.
    error : float
        Bound of ``||F*F - (GB)*(GB)||`` at every frequency, where G is the symbol of K.
    """

    kernel: Array
    basis: Basis | None
    error: float


def in_basis(blocks: Array, basis: Basis | None = None, *, ops: ArrayOps) -> InBasis:
    """Multiply blocks, transposed if they have more columns than rows, from the right by a basis.

    Let F be the computed symbol and E the symbol of the rounding errors. Then
    ``||F*F - (F - E)*(F - E)|| <= ||E|| (2 ||F|| + ||E||)``. The norm of a symbol is at most the root of the number of
    taps times the Frobenius norm of all taps together.

    ``blocks`` (g, m, p, *kernel_shape): K, with known values, scaled to about 1. ``basis``: B; None: the identity.
    """
    xp = ops.xp
    tall = arrays.tall(blocks, xp=xp)
    if basis is None:
        return InBasis._made(tall, None, 0.0)
    g, m, p, *kernel_shape = tall.shape
    taps = math.prod(kernel_shape)
    rows = xp.reshape(xp.permute_dims(xp.reshape(tall, (g, m, p, taps)), (0, 1, 3, 2)), (g, m * taps, p))
    product = xp.matmul(rows, basis.matrix)
    product_of_magnitudes = xp.matmul(xp.abs(rows), xp.abs(basis.matrix))
    magnitude = float(xp.max(norms.frobenius_up(product_of_magnitudes, xp=xp)))
    product_error = host.inflate(magnitude * rounding.SLACK * rounding.product_error(p, product, xp=xp), 4)
    symbol_error = host.mul_up(host.root_up(taps), product_error)
    symbol_norm = host.mul_up(host.root_up(taps), float(xp.max(norms.frobenius_up(product, xp=xp))))
    error = host.mul_up(symbol_error, host.add_up(symbol_norm, symbol_norm, symbol_error))
    kernel = xp.permute_dims(xp.reshape(product, (g, m, taps, p)), (0, 1, 3, 2))
    return InBasis._made(xp.reshape(kernel, tall.shape), basis, error)


@dataclass(frozen=True, eq=False)
class Defect(Sealed):
    """The convolution kernel whose symbol is ``D = c I - B*(G*G - f I)B``, as computed; made by `defect` alone.

    Parameters
    ----------
    kernel : array, shape (g, p, p, *lag_shape)
        Scaled to about 1. Its spatial positions are the lags of KB.
    exponent : int
        ``2**exponent`` times the kernel's symbol is within ``error`` of D.
    centre, floor : float
        c and f.
    error : float
        Bound of the distance from D, at every frequency, or, if ``circulant`` is given, at its frequencies only.
    basis : Basis or None
        B; None: the identity.
    circulant : Circulant or None
        If lags were added up (`_folded`): the circulant at whose frequencies the kernel represents D.
    """

    kernel: Array
    exponent: int
    centre: float
    floor: float
    error: float
    basis: Basis | None = None
    circulant: Circulant | None = None

    def norm_up(self, norm: Upper) -> float:
        """Upper bound of ``||D||``, from an upper bound of the norm of ``kernel``."""
        if norm.what != ALL_FREQUENCIES and not isinstance(norm.what, Circulant):
            raise HypothesisError(f"{norm.what} is not the norm of the defect's kernel at every frequency")
        if self.circulant is not None and norm.what != ALL_FREQUENCIES and not _includes(norm.what, self.circulant):
            raise HypothesisError(f"{norm.what} is not the norm at the frequencies of a {self.circulant}")
        return host.add_up(host.scaled_up(norm.value, self.exponent), self.error)

    def norm_down(self, norm: Lower) -> float:
        """Lower bound of ``||D||``, from a lower bound of the norm of ``kernel``, or of a matrix of its symbol."""
        is_everywhere = norm.what == ALL_FREQUENCIES or isinstance(norm.what, Circulant)
        if self.circulant is not None and is_everywhere and not _includes(norm.what, self.circulant):
            raise HypothesisError(f"{norm.what} is not the norm at the frequencies of a {self.circulant}")
        return max(host.sub_down(host.scaled_down(norm.value, self.exponent), self.error), 0.0)


def _includes(what: object, circulant: Circulant) -> bool:
    """Whether a claim's subject is a circulant that has all frequencies of the given one.

    A subject with 0 points along an axis stands for any number of points: the symbol has one tap there.
    """
    if not isinstance(what, Circulant) or any(what.skew):
        return False
    return all(n in (0, points) for n, points in zip(what.points, circulant.points, strict=True))


def defect(
    blocks: InBasis, centre: float, *, floor: float = 0.0, sizes: tuple[int, ...] | None = None, ops: ArrayOps
) -> Defect:
    """Form the kernel of ``centre I - B*(K*K - floor I)B``, scaled to about 1, with a bound of its error.

    ``blocks``: KB, and B. ``sizes``: points along each axis of a circulant, if the defect is wanted at its frequencies
    alone; None: everywhere.
    """
    xp = ops.xp
    lags = Polynomial(blocks.kernel, xp=xp).lags(wide=True, ops=ops)
    g, _, p, *kernel_shape = blocks.kernel.shape
    eye = ops.from_numpy(np.eye(p, dtype=ops.wide_dtype), lags.values)
    unit = rounding.unit(lags.values, xp=xp)
    # Lag 0 as computed is symmetric up to its error only. Its symmetric part has no larger an error, and makes the
    # symbol Hermitian.
    lag_0 = centre * eye - _symmetric(lags.values[:, 0, ...], xp=xp)
    error = host.add_up(float(xp.max(lags.error)), blocks.error, _rounding_of_difference(lag_0, xp=xp))
    if blocks.basis is not None:
        square, square_error = _scaled_square(blocks.basis, floor, ops=ops)
        lag_0 = lag_0 + square
        sum_error = host.inflate(float(xp.max(norms.frobenius_up(lag_0, xp=xp))) * unit, 4)
        error = host.add_up(error, square_error, sum_error)
    elif floor:
        # Only the branch above adds ``floor B*B``.
        raise HypothesisError("a floor needs blocks in a basis")
    negative_lags = -xp.flip(xp.matrix_transpose(lags.values[:, 1:, ...]), axis=1)
    all_lags = xp.concat([negative_lags, lag_0[:, None, ...], -lags.values[:, 1:, ...]], axis=1)
    lag_shape = tuple(2 * k - 1 for k in kernel_shape)
    kernel = xp.reshape(xp.permute_dims(all_lags, (0, 2, 3, 1)), (g, p, p, *lag_shape))
    circulant = None
    if sizes is not None and any(length > n for length, n in zip(lag_shape, sizes, strict=True)):
        terms = math.prod(arrays.ceil_div(length, n) for length, n in zip(lag_shape, sizes, strict=True))
        error = host.add_up(error, host.mul_up(host.inflate(terms * unit, 4), _sum_of_taps(kernel, xp=xp)))
        kernel = _folded(kernel, sizes, xp=xp)
        circulant = Circulant.of(sizes, (False,) * len(sizes), kernel.shape[3:])
    scaled, exponent = arrays.scale(xp.reshape(kernel, (1, -1)), xp=xp)
    kernel = xp.reshape(scaled, kernel.shape)
    return Defect._made(kernel, int(exponent[0]), centre, floor, error, blocks.basis, circulant)


def _rounding_of_difference(matrices: Array, *, xp: Namespace) -> float:
    """Bound of the norm of the error of ``c I - M`` as computed, M a symmetric part: one rounding of each number.

    A number on the diagonal is a difference, one beside it a mean.
    """
    return host.inflate(float(xp.max(norms.frobenius_up(matrices, xp=xp))) * rounding.unit(matrices, xp=xp), 4)


def _symmetric(matrices: Array, *, xp: Namespace) -> Array:
    return (matrices + xp.matrix_transpose(matrices)) / 2


def _scaled_square(basis: Basis, factor: float, *, ops: ArrayOps) -> tuple[Array, float]:
    """``factor B*B`` for each block, and a bound of the norm of its rounding error."""
    xp = ops.xp
    size = basis.matrix.shape[-1]
    magnitudes = xp.abs(basis.matrix)
    square = factor * _symmetric(xp.matmul(xp.matrix_transpose(basis.matrix), basis.matrix), xp=xp)
    magnitude = float(xp.max(norms.frobenius_up(xp.matmul(xp.matrix_transpose(magnitudes), magnitudes), xp=xp)))
    # The roundings of the product, of the mean and of the factor.
    relative_error = rounding.SLACK * rounding.gamma(size + 2, rounding.unit(square, xp=xp))
    return square, host.inflate(factor * magnitude * relative_error, 6)


def _folded(kernel: Array, sizes: tuple[int, ...], *, xp: Namespace) -> Array:
    """Add up the taps of a kernel (g, p, p, *lag_shape) whose distance along an axis is a multiple of its size."""
    for axis, n in enumerate(sizes, start=3):
        length = kernel.shape[axis]
        if length > n:
            starts = range(0, length, n)
            other_axes = (slice(None),) * axis
            parts = [kernel[(*other_axes, slice(start, min(start + n, length)), ...)] for start in starts]
            missing = n - parts[-1].shape[axis]
            if missing:
                zeros = xp.zeros_like(parts[0][(*other_axes, slice(0, missing), ...)])
                parts[-1] = xp.concat([parts[-1], zeros], axis=axis)
            kernel = sum(parts[1:], parts[0])
    return kernel


def least_centre(blocks: InBasis, norm: Upper, floor: float) -> float:
    """A c that is proven to make ``D >= 0`` at every frequency: ``||KB||**2 - floor / ||B^-1||**2``.

    ``D = c I - (KB)*(KB) + floor B*B``, where ``(KB)*(KB) <= ||KB||**2 I`` and ``B*B >= I / ||B^-1||**2``.

    ``norm``: bound of the norm of the symbol of ``blocks.kernel``, at every frequency.
    """
    if norm.what != ALL_FREQUENCIES:
        raise HypothesisError(f"{norm.what} is not the norm of the blocks at every frequency")
    inverse_norm_sq = blocks.basis.inverse_norm_sq if blocks.basis else 1.0
    norm_sq = host.add_up(host.mul_up(norm.value, norm.value), blocks.error)
    return max(host.next_up(norm_sq - host.div_down(floor, inverse_norm_sq)), 0.0)


def nowhere_negative(defect: Defect, blocks: InBasis, norm: Upper) -> Nonnegative | None:
    """Prove that the symbol of a defect's kernel is positive semidefinite at every frequency.

    ``blocks``: the blocks from which the defect was made. ``norm``: bound of the norm of the symbol of
    ``blocks.kernel``, at every frequency. Returns None if c is smaller than `least_centre` plus the error, or if the
    kernel stands for D on a circulant alone.
    """
    if defect.basis is not blocks.basis:
        raise HypothesisError("the defect is of blocks in another basis")
    least = host.add_up(least_centre(blocks, norm, defect.floor), defect.error)
    is_nonnegative = defect.centre >= least and defect.circulant is None
    return _nowhere_negative(defect.kernel) if is_nonnegative else None


def norm_by_taps(defect: Defect, *, ops: ArrayOps) -> Upper:
    """Bound the norm of the symbol of a defect's kernel by the sum of the Frobenius norms of its taps."""
    value = _sum_of_taps(defect.kernel, xp=ops.xp)
    return Upper._by_rule(value, ALL_FREQUENCIES, "sum of the Frobenius norms of the taps")


def _sum_of_taps(kernel: Array, *, xp: Namespace) -> float:
    """Sum of the Frobenius norms of the taps of a kernel (g, p, p, *taps), the largest over its blocks, rounded up."""
    g, p, _, *taps = kernel.shape
    matrices = xp.permute_dims(xp.reshape(kernel, (g, p, p, -1)), (0, 3, 1, 2))
    return host.inflate(float(xp.max(xp.sum(norms.frobenius_up(matrices, xp=xp), axis=1))), math.prod(taps) + 2)


# -- the smallest singular value -------------------------------------------------------------------------------------
def smallest_down(defect: Defect, norm: Upper) -> Lower:
    """Bound the smallest singular value m of K from below by the lemma of this module.

    ``norm``: bound of the norm of the symbol of the defect's kernel, at every frequency or at those of a circulant.
    Returns a bound of m over the frequencies where ``norm`` holds; over the defect's circulant, if it has one.
    """
    # r of the lemma.
    centre_less_norm = host.sub_down(defect.centre, defect.norm_up(norm))
    norm_sq = defect.basis.norm_sq if defect.basis else 1.0
    inverse_norm_sq = defect.basis.inverse_norm_sq if defect.basis else 1.0
    if centre_less_norm >= 0:
        smallest_sq = host.next_down(defect.floor + host.div_down(centre_less_norm, norm_sq))
    else:
        smallest_sq = host.sub_down(defect.floor, host.mul_up(-centre_less_norm, inverse_norm_sq))
    floor = text.number(defect.floor, "lower")
    rule = f"root of {floor} and what the defect's norm leaves of {defect.centre:.6g} ({norm.rule})"
    if defect.circulant is not None:
        where: object = defect.circulant
    elif norm.what == ALL_FREQUENCIES:
        # The words of `ALL_FREQUENCIES` name a largest norm, which would be wrong beside a smallest singular value.
        where = "at every frequency"
    else:
        where = norm.what
    return Lower._by_rule(host.sqrt_down(smallest_sq), (SMALLEST, where), rule)


def smallest_on_grid(
    blocks: Array, sizes: tuple[int, ...], value: float, largest: float, *, ops: ArrayOps
) -> Lower | None:
    """Bound the smallest singular value at the frequencies of a grid from below; None if a factorization fails.

    With ``top = largest**2`` and H the Gram matrix of a symbol as computed, a factorization proves that ``top I - H``
    has no eigenvalue above a limit. So H has none below ``top - limit``. The limit is just above ``top - value**2``.
    Any numbers are valid; with poor ones the proof fails, or the bound is low.

    ``blocks`` (g, m, p, *kernel_shape): tall, scaled to about 1. ``value``, ``largest``: about the smallest and the
    largest singular value on the grid.
    """
    xp = ops.xp
    _, m, p, *kernel_shape = blocks.shape
    if m < p:
        raise HypothesisError("with fewer rows than columns, the Gram matrix of columns is singular")
    top = largest**2
    # The allowance is explained in `norms.GramProof.norm_up_near`, the least limit in `own_matrix.LayerGram`.
    allowance = 2 * p * norms.cholesky_loss(p, blocks + 0j, xp=xp) + 48 * rounding.unit(blocks, xp=xp)
    limit = max((top - value**2) * (1 + allowance), top * 2.0**-40)
    error = 0.0
    frequencies = Frequencies.half_grid(sizes)
    polynomial = Polynomial(blocks, xp=xp)
    step = polynomial.frequencies_at_once(ops=ops)
    for start in range(0, len(frequencies), step):
        matrices = polynomial.at(frequencies[start : start + step], ops=ops).matrices()
        gram = xp.matmul(arrays.adjoint(matrices, xp=xp), matrices)
        shifted = top * xp.eye(p, dtype=gram.dtype, device=ops.device(gram)) - gram
        limits = xp.full(gram.shape[:2], limit, dtype=blocks.dtype, device=ops.device(gram))
        if not bool(xp.all(norms.gram_below(shifted, limits, ops=ops))):
            return None
        norm = float(xp.max(norms.frobenius_up(matrices, xp=xp)))
        product_error = rounding.product_error(m, matrices, xp=xp) * rounding.SLACK
        # Roundings of top and of the limit to the dtype, and of the diagonal of the difference.
        roundings = host.mul_up(4 * rounding.unit(blocks, xp=xp), host.add_up(top, limit, host.mul_up(norm, norm)))
        error = max(error, host.add_up(host.mul_up(norm, norm, product_error), roundings))
    square = host.sub_down(top, host.add_up(limit, error))
    symbol_error = float(xp.max(polynomial.error))
    bound = host.sub_down(host.sqrt_down(square), symbol_error)
    rule = f"factorizations of Gram matrices at {math.prod(sizes)} frequencies"
    return Lower._by_rule(max(bound, 0.0), (SMALLEST, Grid.of_sizes(sizes, kernel_shape)), rule)


def smallest_at(blocks: Array, block: int, point: Frequencies, right: Array, *, ops: ArrayOps) -> Upper:
    """Bound the smallest singular value from above by ``||G(theta) v|| / ||v||``, for one block, frequency and vector.

    ``blocks`` (g, m, p, *kernel_shape): with no more columns than rows. ``block``: number of the block. ``point``: one
    frequency theta. ``right`` (1, p): v: any vector but 0. The roundings of its length, and of the image's, are counted
    in double precision.
    """
    xp = ops.xp
    one_block = blocks[block : block + 1, ...]
    if one_block.shape[1] < one_block.shape[2]:
        raise HypothesisError("with fewer rows than columns, some vectors have no image, whatever the singular values")
    length = float(xp.linalg.vector_norm(right))
    if not length > 0:
        raise HypothesisError("a vector of zeros has no quotient")
    # The block is scaled to about 1, since it may be far weaker than the others, and squares would underflow.
    flat, exponents = arrays.scale(xp.reshape(one_block, (1, -1)), xp=xp)
    scaled = Polynomial(xp.reshape(flat, one_block.shape), xp=xp)
    matrix = scaled.matrix_at(scaled.at(point, ops=ops).phase)
    image = xp.matmul(matrix, right[..., None])[..., 0]
    m, p = matrix.shape[-2:]
    quotient = host.inflate(float(xp.linalg.vector_norm(image)) / length, 2 * (m + p) + 8)
    matrix_norm = float(norms.frobenius_up(matrix, xp=xp)[0])
    product_error = rounding.product_error(p, matrix, xp=xp) * rounding.SLACK * matrix_norm
    symbol_error = float(scaled.error[0])
    value = host.scaled_up(host.add_up(quotient, product_error, symbol_error), int(exponents[0]))
    return Upper._by_rule(value, (SMALLEST, point), "quotient of a vector")


def smallest_of_parts(parts: Sequence[tuple[Lower, Upper]]) -> tuple[Lower, Upper]:
    """Bounds of the smallest singular value of some blocks: the smallest of the bounds of all parts of them."""
    subjects = [bound.what if isinstance(bound.what, tuple) else (bound.what,) for part in parts for bound in part]
    if any(SMALLEST not in subject for subject in subjects):
        raise HypothesisError("bounds of other numbers than smallest singular values")
    lower = min((lower for lower, _ in parts), key=float)
    upper = min((upper for _, upper in parts), key=float)
    rule = f"the smallest of {len(parts)} parts of different scales"
    return Lower._by_rule(lower.value, lower.what, rule, lower), Upper._by_rule(upper.value, upper.what, rule, upper)


def no_smallest(rule: str) -> tuple[Lower, Upper]:
    """Bounds 0 and 0 of the smallest singular value, for a layer that maps some input to 0; ``rule`` says why.

    Their subject names no frequencies and no size: the value is 0 at all of them.
    """
    return Lower._by_rule(0.0, SMALLEST, rule), Upper._by_rule(0.0, SMALLEST, rule)


def smallest_of_zero(blocks: Array, *, ops: ArrayOps) -> tuple[Lower, Upper]:
    """Bounds of the smallest singular value of blocks that are zero."""
    if bool(ops.xp.any(blocks != 0)):
        raise HypothesisError("the kernel is not zero")
    return no_smallest("zero kernel")


def smallest_with_unread_pixels(spec: ConvSpec) -> tuple[Lower, Upper]:
    """Bounds of the smallest singular value of a layer with pixels that no tap reads: it is 0."""
    if not unread_pixels_make_smallest_zero(spec):
        raise HypothesisError("every pixel is read, or there are no more outputs than read pixels")
    return no_smallest("pixels that no tap reads")


def condition(norm: tuple[Lower, Upper], smallest: tuple[Lower, Upper]) -> tuple[Lower, Upper]:
    """Bounds of a layer's condition number, norm over smallest singular value; infinite where the latter may be 0.

    ``norm``, ``smallest``: bounds of both numbers for one kernel.
    """
    norm_down, norm_up = norm
    smallest_down, smallest_up = smallest
    digest = norm_down.digest
    if any(claim.digest != digest for claim in (norm_up, smallest_down, smallest_up)):
        raise HypothesisError("the norm of one kernel over the smallest singular value of another")
    if not norm_down > 0:
        lower = 1.0
    elif smallest_up > 0:
        lower = max(host.div_down(norm_down.value, smallest_up.value), 1.0)
    else:
        lower = math.inf
    upper = host.div_up(norm_up.value, smallest_down.value) if smallest_down > 0 else math.inf
    what = "condition number"
    rule = "norm over smallest singular value"
    return (
        Lower._by_rule(lower, what, rule, norm_down, smallest_up, digest=digest),
        Upper._by_rule(upper, what, rule, norm_up, smallest_down, digest=digest),
    )


# -- the isometry defect ---------------------------------------------------------------------------------------------
def isometry_ends(
    defect: Defect, lower: Lower, upper: Upper, *, unread_pixels: bool, scale_exponent: int
) -> tuple[Lower, Upper]:
    """Bounds of the isometry defect ``||K*K - s**2 I|| / s**2``, from bounds of the norm of a defect's kernel.

    The defect's centre c is ``s**2 * 2**-scale_exponent``, up to one rounding, which changes the isometry defect by as
    much. Normally ``scale_exponent = 0`` and c = s**2. If s**2 is too far from the kernel's size, the caller takes a
    power of two out of c, and leaves c so far above (below) the norm of K*K that K*K is small (large) beside c. The
    bounds hold in any case: with l <= ``||K*K - c I|| / c`` <= u, some eigenvalue of K*K is at most (1 - l) c or at
    least (1 + l) c, and all are at most (1 + u) c.

    * For s**2 = 2**e c > c, the first one makes the isometry defect at least l. So does the second one unless it may be
      near s**2; the defect is at least ``1 - (1 + u) 2**-e``.
    * For s**2 < c and l > 1, only the second one is possible, since no eigenvalue is negative. It makes the defect at
      least l.

    ``unread_pixels``: whether the layer maps some pixels to 0 (`unread_pixels_make_smallest_zero`): then the isometry
    defect is at least 1. ``scale_exponent``: power of two by which s**2 is larger than c.
    """
    if defect.basis is not None:
        raise HypothesisError("a defect in a basis is not that of an isometry")
    relative_down = host.div_down(defect.norm_down(lower), defect.centre) - 2.0**-51
    relative_up = host.add_up(host.div_up(defect.norm_up(upper), defect.centre), 2.0**-51)
    if scale_exponent > 0 and not relative_up < 2:
        # ||K*K - c I|| < 2 c makes K*K < 3 c. With 2 c <= s**2, K*K - s**2 I lies between -s**2 I and s**2 I, so the
        # isometry defect for s is at most 1.
        raise HypothesisError("a kernel beside which the scale is not large")
    if scale_exponent > 0:
        part_of_scale = host.scaled_up(host.add_up(1.0, relative_up), -scale_exponent)
        relative_down = min(relative_down, host.sub_down(1.0, part_of_scale))
    if scale_exponent < 0:
        relative_up = math.inf
        relative_down = relative_down if relative_down > 1 else 0.0
    least_lower = 1.0 if unread_pixels else 0.0
    least_upper = 1.0 if unread_pixels or scale_exponent > 0 else 0.0
    rule = f"norm of the kernel K*K - {defect.centre:.6g} I ({upper.rule})"
    return (
        Lower._by_rule(max(relative_down, least_lower), DEFECT, rule),
        Upper._by_rule(max(relative_up, least_upper), DEFECT, rule),
    )


def isometry_up(values: Array, error: Array, target: Array, *, ops: ArrayOps) -> Array:
    """Upper bounds (b,) of ``||K*K - target I||`` by the sum of the norms of its lags, without a search.

    The norm of lag 0 is at most its Frobenius norm. It is also at most ``|v| + ||M - v I||_F``, with M the lag and v
    the mean of its diagonal. The smaller of both is taken.

    ``values``, ``error`` (b, n, p, p) and (b,): the lags of K*K, as in `symbols.proofs.lags.Lags`. ``target`` (b,):
    positive.
    """
    xp = ops.xp
    p = values.shape[-1]
    unit = rounding.unit(values, xp=xp)
    lag_0 = arrays.minus_identity(values[:, 0, ...], target, ops=ops)
    by_frobenius = norms.frobenius_up(lag_0, xp=xp)
    mean = xp.linalg.trace(lag_0) / p
    # The bound by v holds for any number v, so the rounding of the mean itself does not matter.
    deviation = norms.frobenius_up(arrays.minus_identity(lag_0, mean, ops=ops), xp=xp)
    by_mean = xp.abs(mean) + deviation + 2 * unit * (by_frobenius + xp.abs(mean) * p)
    norms_of_others = xp.sum(norms.frobenius_up(values[:, 1:, ...], xp=xp), axis=1)
    diagonal_error = 2 * unit * (norms.frobenius_up(values[:, 0, ...], xp=xp) + p * target)
    total = xp.minimum(by_frobenius, by_mean) + 2 * norms_of_others + diagonal_error + error
    return rounding.up(total, values.shape[1] + 12, xp=xp)


def relative_up(defect: Array, target: Array, *, xp: Namespace) -> Array:
    """Upper bounds (layers,) of the defect relative to the square of the scale, from those of `isometry_up`.

    The target is the rounded square of the scale. Its rounding changes the relative defect, the distance of
    ``K*K / s**2`` from the identity, by one rounding of ``1 + eps``: by one of 1, for which 4 are added, and by a
    relative one. With those of the quotient and of the sum these are 3 relative roundings of the 6 allowed. For kernels
    much larger than s the target underflows; then the bound is infinite.
    """
    value = rounding.up(defect / target + 4 * rounding.unit(target, xp=xp), 6, xp=xp)
    is_normal = target > 4 * float(xp.finfo(target.dtype).smallest_normal)
    return xp.where(is_normal, value, xp.full_like(value, math.inf))


@lru_cache(maxsize=64)
def wrapping(kernel_shape: tuple[int, ...], sizes: tuple[int, ...]) -> np.ndarray | None:
    """How lags of a kernel add up at the frequencies of a circulant, where lags that differ by its size are equal.

    Returns the tables ``direct`` and ``mirrored``, shape (2, number of rows, n): weights with which lag t, and lag -t,
    of the kernel enter each lag of the circulant; None if no two lags of the kernel coincide.

    With M_t the lags of the kernel, row q of the tables forms ``sum_t (direct[q, t] M_t + mirrored[q, t] M_t^T)``, a
    sum over the t of `Lags.points`, since the matrix of lag -t is the transposed M_t. A row belongs to one lag of the
    circulant: to lag 0, or to one of a pair q, -q. `isometry_up` counts the second kind of rows twice. If q and -q are
    equal, there is no pair, so the entries of the row are halved.

    Example: a kernel of 3 taps has the lags 0, 1, 2, -1, -2. On a circulant of 4 points, 2 and -2 are one lag. The rows
    form M_0, M_1 and (M_2 + M_2^T) / 2.
    """
    if all(2 * k - 1 <= n for k, n in zip(kernel_shape, sizes, strict=True)):
        return None
    lags = Lags.points(kernel_shape)
    points = np.asarray(sizes, dtype=np.int64)
    strides = np.cumprod((1, *sizes[:0:-1]))[::-1]
    # The pixel of the circulant, in row-major order, on which each lag and its opposite fall.
    pixel = (lags % points) @ strides
    opposite_pixel = (-lags % points) @ strides
    rows = np.unique(np.minimum(pixel, opposite_pixel))
    direct = np.where(rows[:, None] == pixel, 1.0, 0.0)
    mirrored = np.where(rows[:, None] == opposite_pixel, 1.0, 0.0)
    mirrored[:, 0] = 0.0  # lag 0 of the kernel is one lag, not a pair
    is_own_opposite = ((direct > 0) & (mirrored > 0)).any(axis=1)
    halved_rows = is_own_opposite & (rows > 0)
    direct[halved_rows] /= 2
    mirrored[halved_rows] /= 2
    return np.stack([direct, mirrored])


def wrapped(lags: Lags, tables: np.ndarray, *, ops: ArrayOps) -> Lags:
    """The lags of the circulant, and a bound of their error, from the lags (b, n, p, p) of a kernel."""
    xp = ops.xp
    b, n, p, _ = lags.values.shape
    direct, mirrored = (ops.from_numpy(table.astype(str(ops.wide_dtype)), lags.values) for table in tables)
    values = xp.reshape(lags.values, (b, n, p * p))
    opposite = xp.reshape(xp.matrix_transpose(lags.values), (b, n, p * p))
    sums = xp.reshape(xp.matmul(direct, values) + xp.matmul(mirrored, opposite), (b, -1, p, p))
    # Of M_t and of M_t^T.
    sum_of_norms = 2 * xp.sum(norms.frobenius_up(lags.values, xp=xp), axis=1)
    sum_error = sum_of_norms * (rounding.SLACK * rounding.gamma(2 * n + 1, rounding.unit(sums, xp=xp)))
    # Twice, since rows but the first stand for two lags.
    return Lags(sums, rounding.up(lags.error + 2 * sum_error, n + 4, xp=xp))


def unwrapped(slopes: Array, tables: np.ndarray, *, ops: ArrayOps) -> Array:
    """Derivatives with respect to a kernel's lags, from those with respect to a circulant's: the adjoint of `wrapped`.

    Derivatives D_t are such that a function of the lags changes by ``<D_0, dM_0> + 2 sum over t of <D_t, dM_t>``, the
    sum over one of each pair t, -t. So D_t is half of the derivative with respect to M_t, which stands at both.

    ``slopes`` is (b, q, p, p). Returns (b, n, p, p).
    """
    xp = ops.xp
    b, q, p, _ = slopes.shape
    # Rows but the first stand for two lags of the circulant, hence 2; columns but the first for two lags of the kernel,
    # hence 1/2.
    lags_of_row = np.where(np.arange(q) > 0, 2.0, 1.0)
    share_of_column = np.where(np.arange(tables.shape[2]) > 0, 0.5, 1.0)
    direct, mirrored = (
        ops.from_numpy((share_of_column[:, None] * table.T * lags_of_row).astype(str(ops.wide_dtype)), slopes)
        for table in tables
    )
    values = xp.reshape(slopes, (b, q, p * p))
    opposite = xp.reshape(xp.matrix_transpose(slopes), (b, q, p * p))
    return xp.reshape(xp.matmul(direct, values) + xp.matmul(mirrored, opposite), (b, -1, p, p))
