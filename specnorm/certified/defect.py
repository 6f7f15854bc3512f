"""The defect c I - B*(K*K - f I)B: its norm bounds the smallest singular value of K, and how far K is from an isometry.

G is the symbol of K, with no more columns than rows (else its transpose is taken), and m the smallest singular value of
G over all frequencies, or over those of a circulant.

*Lemma.* Let B be an invertible matrix, c and f numbers, ``D(theta) = c I - B*(G*G - f I)B`` and
``s = c - sup ||D||``. Then

    m**2 >= f + s / ||B||**2        if s >= 0,
    m**2 >= f + s * ||B^-1||**2     if s < 0.

*Proof.* ``B*(G*G - f I)B >= s I`` at every frequency. So ``x*(G*G - f I)x >= s ||B^-1 x||**2`` for every x, and
``||x|| / ||B|| <= ||B^-1 x|| <= ||B^-1|| ||x||``.

So B, c and f decide how close the bound is, never whether it is one. With B = I, f = 0 and c at least
``(||K||**2 + m**2) / 2`` there is equality. Where some combinations of channels are weak at every frequency, m**2 is a
small part of c then; with ``B*RB = I``, R the mean of G*G, they weigh as much as others. No upper bound of m rests on
D: one is ``||G(theta) v||`` of any frequency and any unit vector v.

With B = I, f = 0 and ``c = s**2`` the norm of D is the isometry defect, ``| ||K x||**2 - s**2 ||x||**2 | <= ||D||
||x||**2``, and ``||D||`` is at most the sum of the norms of its taps.

D is the symbol of a convolution kernel: ``c I + f B*B`` at lag 0, less the lags of KB. These come from
`certified.completion` with what their roundings may be off by. At the frequencies of a circulant of n points, taps that
are n apart have the same phase, so they are added up.
"""

from __future__ import annotations

import math
from dataclasses import InitVar, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from specnorm import arrays
from specnorm.certified import completion, host, rounding
from specnorm.certified.bound import EVERYWHERE, HypothesisError, Lower, Upper, _lower, _upper, scaled_down, scaled_up
from specnorm.certified.layer.uncut import SMALLEST, has_unread_pixels
from specnorm.certified.matrices.norms import frobenius_up, gram_norm_up
from specnorm.certified.symbol import symbols
from specnorm.certified.symbol.cells import Circulant
from specnorm.certified.symbol.cover import Nonnegative, _nowhere_negative
from specnorm.problem.frequencies import half_lags

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace
    from specnorm.problem.frequencies import Frequencies
    from specnorm.problem.spec import ConvSpec
    from specnorm.types import ArrayOps

_MAKER = object()
DEFECT = "isometry defect"


# -- the kernel of the defect ----------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Basis:
    """An invertible matrix for each block, made by `basis` alone.

    Parameters
    ----------
    matrix : array, shape (g, p, p)
        B.
    norm_sq, inverse_norm_sq : float
        Upper bounds of ``||B||**2`` and ``||B^-1||**2`` of all blocks.
    """

    matrix: Array
    norm_sq: float
    inverse_norm_sq: float
    maker: InitVar[object] = None

    def __post_init__(self, maker: object) -> None:
        if maker is not _MAKER:
            raise TypeError("Basis: that a matrix has an inverse is proven by `basis` alone")


def basis(matrix: Array, inverse: Array, *, ops: ArrayOps) -> Basis:
    """Matrices B (g, p, p) with inverses T as computed: ``||B^-1|| <= ||T|| / (1 - ||T B - I||)`` for every matrix T.

    Raises
    ------
    HypothesisError
        If ``T B`` is too far from I to prove that B has an inverse.
    """
    xp, size = ops.xp, matrix.shape[-1]
    product, absolute = xp.matmul(inverse, matrix), xp.matmul(xp.abs(inverse), xp.abs(matrix))
    residual = frobenius_up(completion.minus_identity(product, xp.ones_like(product[:, 0, 0]), ops=ops), xp=xp)
    lost = frobenius_up(absolute, xp=xp) * (rounding.SLACK * rounding.product_error(size, matrix, xp=xp))
    most = float(xp.max(rounding.up(residual + lost, 4, xp=xp)))
    if not most < 1:
        raise HypothesisError(f"the product with what is to be an inverse is {most:.3g} from the identity")
    norm_sq, inverse_sq = (float(xp.max(gram_norm_up(x, xp=xp))) for x in (matrix, inverse))
    return Basis(matrix, norm_sq, host.inflate(inverse_sq / (1 - most) ** 2, 6), _MAKER)


@dataclass(frozen=True, eq=False)
class InBasis:
    """The kernel KB as computed, with no more columns than rows; made by `in_basis` alone.

    Parameters
    ----------
    kernel : array, shape (g, m, p, *taps)
    basis : Basis or None
        B; None: the identity.
    error : float
        ``(GB)*(GB)`` is that far from the square of this kernel's symbol at most, at every frequency.
    """

    kernel: Array
    basis: Basis | None
    error: float
    maker: InitVar[object] = None

    def __post_init__(self, maker: object) -> None:
        if maker is not _MAKER:
            raise TypeError("InBasis: what a product of kernel and basis may be off by is told by `in_basis` alone")


def in_basis(blocks: Array, of: Basis | None = None, *, ops: ArrayOps) -> InBasis:
    """Blocks (g, m, p, *taps) with known values, scaled to about 1; the columns, the fewer channels, in a basis.

    With E the symbol of the roundings and F the computed one ``||F*F - (F - E)*(F - E)|| <= ||E|| (2 ||F|| + ||E||)``;
    no symbol's norm exceeds the root of the taps times the Frobenius norm of its taps one below another.
    """
    xp = ops.xp
    tall = arrays.tall(blocks, xp=xp)
    if of is None:
        return InBasis(tall, None, 0.0, _MAKER)
    g, m, p, *taps = tall.shape
    count = math.prod(taps)
    rows = xp.reshape(xp.permute_dims(xp.reshape(tall, (g, m, p, count)), (0, 1, 3, 2)), (g, m * count, p))
    product = xp.matmul(rows, of.matrix)
    absolute = frobenius_up(xp.matmul(xp.abs(rows), xp.abs(of.matrix)), xp=xp)
    lost = host.inflate(float(xp.max(absolute)) * rounding.SLACK * rounding.product_error(p, product, xp=xp), 4)
    off = host.mul_up(host.root_up(count), lost)
    norm = host.mul_up(host.root_up(count), float(xp.max(frobenius_up(product, xp=xp))))
    kernel = xp.permute_dims(xp.reshape(product, (g, m, count, p)), (0, 1, 3, 2))
    return InBasis(xp.reshape(kernel, tall.shape), of, host.mul_up(off, host.add_up(norm, norm, off)), _MAKER)


@dataclass(frozen=True, eq=False)
class Defect:
    """The kernel of ``c I - B*(K*K - f I)B`` for some blocks, as computed; made by `defect` alone.

    Parameters
    ----------
    kernel : array, shape (g, p, p, *lags)
        Scaled to about 1: ``2**exponent`` times its symbol is within ``error`` of D at every frequency, or at those
        of the circulant.
    exponent : int
    centre, floor : float
        c and f.
    error : float
    basis : Basis or None
        B; None: the identity.
    circulant : Circulant or None
        Whose frequencies the kernel stands for, where its taps are folded.
    """

    kernel: Array
    exponent: int
    centre: float
    floor: float
    error: float
    basis: Basis | None = None
    circulant: Circulant | None = None
    maker: InitVar[object] = None

    def __post_init__(self, maker: object) -> None:
        if maker is not _MAKER:
            raise TypeError("Defect: kernels that prove something are made by `defect` of the blocks they speak of")

    def norm_up(self, norm: Upper) -> float:
        """Upper bound of ``||D||`` from one of the norm of its kernel."""
        if norm.what != EVERYWHERE and not isinstance(norm.what, Circulant):
            raise HypothesisError(f"{norm.what} is not the norm of the defect's kernel at every frequency")
        if self.circulant is not None and norm.what != EVERYWHERE and not _includes(norm.what, self.circulant):
            raise HypothesisError(f"{norm.what} is not the norm at the frequencies of a {self.circulant}")
        return host.add_up(scaled_up(norm.value, self.exponent), self.error)

    def norm_down(self, norm: Lower) -> float:
        """Lower bound of ``||D||`` from one of the norm of its kernel."""
        return max(host.sub_down(scaled_down(norm.value, self.exponent), self.error), 0.0)


def _includes(what: object, wanted: Circulant) -> bool:
    """Whether a circulant has the frequencies of another; of a symbol with one tap along an axis any number will do."""
    if not isinstance(what, Circulant) or any(what.skew):
        return False
    return all(n in (0, points) for n, points in zip(what.points, wanted.points, strict=True))


def defect(
    of: InBasis, centre: float, *, floor: float = 0.0, sizes: tuple[int, ...] | None = None, ops: ArrayOps
) -> Defect:
    """``centre I - B*(K*K - floor I)B``, scaled to about 1.

    Parameters
    ----------
    sizes : tuple of int, optional
        Points an axis of a circulant, at whose frequencies the defect is wanted; None: at every frequency.
    """
    xp = ops.xp
    lags = completion.lags(of.kernel, ops=ops, wide=True)
    g, _, p, *taps = of.kernel.shape
    eye = ops.from_numpy(np.eye(p, dtype=ops.wide_dtype), lags.values)
    unit = rounding.unit(lags.values, xp=xp)
    # Symmetric bit for bit, so that the symbol is Hermitian: the mean of two that are within the error is.
    middle = centre * eye - _symmetric(lags.values[:, 0, ...], xp=xp)
    error = host.add_up(float(xp.max(lags.error)), of.error, _rounding_of_centre(middle, xp=xp))
    if of.basis is not None:
        raised, lost = _squared(of.basis, floor, ops=ops)
        middle = middle + raised
        rounded = host.inflate(float(xp.max(frobenius_up(middle, xp=xp))) * unit, 4)
        error = host.add_up(error, lost, rounded)
    elif floor:
        raise HypothesisError("a floor is of blocks in a basis")
    before = -xp.flip(xp.matrix_transpose(lags.values[:, 1:, ...]), axis=1)
    every = xp.concat([before, middle[:, None, ...], -lags.values[:, 1:, ...]], axis=1)
    kernel = xp.reshape(xp.permute_dims(every, (0, 2, 3, 1)), (g, p, p, *(2 * k - 1 for k in taps)))
    circulant = None
    if sizes is not None and any(2 * k - 1 > n for k, n in zip(taps, sizes, strict=True)):
        terms = math.prod(-(-(2 * k - 1) // n) for k, n in zip(taps, sizes, strict=True))
        error = host.add_up(error, host.mul_up(host.inflate(terms * unit, 4), _sum_of_taps(kernel, xp=xp)))
        kernel = _folded(kernel, sizes, xp=xp)
        circulant = Circulant.of(sizes, (False,) * len(sizes), kernel.shape[3:])
    scaled, exponent = arrays.scale(xp.reshape(kernel, (1, -1)), xp=xp)
    kernel = xp.reshape(scaled, kernel.shape)
    return Defect(kernel, int(exponent[0]), centre, floor, error, of.basis, circulant, _MAKER)


def _rounding_of_centre(middle: Array, *, xp: Namespace) -> float:
    """Of ``c I`` less a matrix: one rounding of each number on the diagonal."""
    return host.inflate(float(xp.max(xp.abs(middle))) * rounding.unit(middle, xp=xp), 4)


def _symmetric(matrices: Array, *, xp: Namespace) -> Array:
    return (matrices + xp.matrix_transpose(matrices)) / 2


def _squared(of: Basis, factor: float, *, ops: ArrayOps) -> tuple[Array, float]:
    """``factor B*B`` of each block, and what the roundings may be off by."""
    xp, size = ops.xp, of.matrix.shape[-1]
    absolute = xp.abs(of.matrix)
    square = factor * _symmetric(xp.matmul(xp.matrix_transpose(of.matrix), of.matrix), xp=xp)
    largest = float(xp.max(frobenius_up(xp.matmul(xp.matrix_transpose(absolute), absolute), xp=xp)))
    # The product, the mean and the factor.
    lost = rounding.SLACK * rounding.gamma(size + 2, rounding.unit(square, xp=xp))
    return square, host.inflate(factor * largest * lost, 6)


def _folded(kernel: Array, sizes: tuple[int, ...], *, xp: Namespace) -> Array:
    """Taps of a kernel (g, p, p, *taps) that are ``sizes`` apart, added up."""
    for axis, n in enumerate(sizes, start=3):
        length = kernel.shape[axis]
        if length > n:
            starts = range(0, length, n)
            before = (slice(None),) * axis
            parts = [kernel[(*before, slice(start, min(start + n, length)), ...)] for start in starts]
            missing = n - parts[-1].shape[axis]
            if missing:
                zeros = xp.zeros_like(parts[0][(*before, slice(0, missing), ...)])
                parts[-1] = xp.concat([parts[-1], zeros], axis=axis)
            kernel = sum(parts[1:], parts[0])
    return kernel


def least_centre(of: InBasis, norm: Upper, floor: float) -> float:
    """The least c with ``D >= 0`` at every frequency: ``||KB||**2 - floor / ||B^-1||**2``, as ``B*B >= ||B^-1||**-2``.

    Parameters
    ----------
    norm : Upper
        Of the symbol of KB as computed, at every frequency.
    """
    if norm.what != EVERYWHERE:
        raise HypothesisError(f"{norm.what} is not the norm of the blocks at every frequency")
    inverse_norm_sq = of.basis.inverse_norm_sq if of.basis else 1.0
    square = host.add_up(host.mul_up(norm.value, norm.value), of.error)
    return max(host.next_up(square - host.div_down(floor, inverse_norm_sq)), 0.0)


def nowhere_negative(of: Defect, blocks: InBasis, norm: Upper) -> Nonnegative | None:
    """That D is nowhere negative, and its kernel's symbol neither; None where c is too small, or of a circulant.

    Parameters
    ----------
    blocks : InBasis
        Of the defect.
    norm : Upper
        Of the symbol of KB as computed, at every frequency.
    """
    if of.basis is not blocks.basis:
        raise HypothesisError("the defect is of blocks in another basis")
    least = host.add_up(least_centre(blocks, norm, of.floor), of.error)
    return _nowhere_negative(of.kernel) if of.centre >= least and of.circulant is None else None


def norm_by_taps(of: Defect, *, ops: ArrayOps) -> Upper:
    """No symbol's norm exceeds the sum of the Frobenius norms of its taps."""
    value = _sum_of_taps(of.kernel, xp=ops.xp)
    return _upper(value, EVERYWHERE, "sum of the Frobenius norms of the taps")


def _sum_of_taps(kernel: Array, *, xp: Namespace) -> float:
    """The largest of the blocks' sums of Frobenius norms of taps, rounded up."""
    g, p, _, *taps = kernel.shape
    matrices = xp.permute_dims(xp.reshape(kernel, (g, p, p, -1)), (0, 3, 1, 2))
    return host.inflate(float(xp.max(xp.sum(frobenius_up(matrices, xp=xp), axis=1))), math.prod(taps) + 2)


# -- the smallest singular value -------------------------------------------------------------------------------------
def smallest_down(of: Defect, norm: Upper) -> Lower:
    """The lemma.

    Parameters
    ----------
    norm : Upper
        Of the defect's kernel, at every frequency or at those of a circulant.
    """
    room = host.sub_down(of.centre, of.norm_up(norm))
    norm_sq, inverse_norm_sq = (of.basis.norm_sq, of.basis.inverse_norm_sq) if of.basis else (1.0, 1.0)
    if room >= 0:
        square = host.next_down(of.floor + host.div_down(room, norm_sq))
    else:
        square = host.sub_down(of.floor, host.mul_up(-room, inverse_norm_sq))
    rule = f"root of {of.floor:.6g} and what the defect's norm leaves of {of.centre:.6g} ({norm.rule})"
    where = of.circulant or ("at every frequency" if norm.what == EVERYWHERE else norm.what)
    return _lower(host.sqrt_down(square), (SMALLEST, where), rule)


def smallest_at(blocks: Array, block: int, point: Frequencies, right: Array, *, ops: ArrayOps) -> Upper:
    """The smallest singular value is at most ``||G(theta) v|| / ||v||`` of one block, any frequency and any vector.

    Parameters
    ----------
    blocks : array, shape (g, m, p, *taps)
        With no more columns than rows.
    right : array, shape (1, p)
    """
    xp, one = ops.xp, blocks[block : block + 1, ...]
    if one.shape[1] < one.shape[2]:
        raise HypothesisError("with fewer rows than columns, some vectors have no image, whatever the singular values")
    matrix = symbols.matrix_at(one, symbols.Symbol(one, point, ops=ops).phase, xp=xp)
    image = xp.matmul(matrix, right[..., None])[..., 0]
    m, p = matrix.shape[-2:]
    length = float(xp.linalg.vector_norm(right))
    if not length > 0:
        raise HypothesisError("a vector of zeros has no quotient")
    quotient = host.inflate(float(xp.linalg.vector_norm(image)) / length, 2 * (m + p) + 8)
    lost = rounding.product_error(p, matrix, xp=xp) * rounding.SLACK * float(frobenius_up(matrix, xp=xp)[0])
    error = float(symbols.symbol_error(one, xp=xp)[0])
    return _upper(host.add_up(quotient, lost, error), (SMALLEST, point), "quotient of a vector")


def no_smallest(rule: str) -> tuple[Lower, Upper]:
    """Of a layer one of whose singular values is 0: ``rule`` says why."""
    return _lower(0.0, SMALLEST, rule), _upper(0.0, SMALLEST, rule)


def smallest_of_zero(blocks: Array, *, ops: ArrayOps) -> tuple[Lower, Upper]:
    """Of blocks that are zero."""
    if bool(ops.xp.any(blocks != 0)):
        raise HypothesisError("the kernel is not zero")
    return no_smallest("zero kernel")


def smallest_with_unread_pixels(spec: ConvSpec) -> tuple[Lower, Upper]:
    """Of a layer that maps an input of pixels that no tap reads to 0."""
    if not has_unread_pixels(spec):
        raise HypothesisError("every pixel is read, or there are fewer outputs than pixels that are")
    return no_smallest("pixels that no tap reads")


def condition(norm: tuple[Lower, Upper], smallest: tuple[Lower, Upper]) -> tuple[Lower, Upper]:
    """Quotient of a layer's norm and its smallest singular value; infinite where that may be 0."""
    (norm_down, norm_up), (low, high) = norm, smallest
    if not low.digest == high.digest == norm_down.digest == norm_up.digest:
        raise HypothesisError("the norm of one kernel over the smallest singular value of another")
    least = host.div_down(norm_down.value, high.value) if high > 0 else math.inf
    most = host.div_up(norm_up.value, low.value) if low > 0 else math.inf
    what, rule, digest = "condition number", "norm over smallest singular value", low.digest
    least = max(least if norm_down > 0 else 1.0, 1.0)
    return (
        _lower(least, what, rule, norm_down, high, digest=digest),
        _upper(most, what, rule, norm_up, low, digest=digest),
    )


# -- the isometry defect ---------------------------------------------------------------------------------------------
def isometry_ends(of: Defect, lower: Lower, upper: Upper, *, unread: bool, beyond: int) -> tuple[Lower, Upper]:
    """Bounds of ``||K*K - s**2 I|| / s**2``, from those of the norm of the defect's kernel.

    c is ``s**2`` but for a rounding, which is a defect of as much, and but for ``2**beyond``. A kernel that is smaller
    than a c below s squared has a defect of at most 1 for s; one that is larger than a c above it has more for s.

    Parameters
    ----------
    unread : bool
        Whether the layer maps some pixels to 0 (`has_unread_pixels`): their defect is 1.
    beyond : int
        The power of two by which s squared is larger than c.
    """
    least = host.div_down(of.norm_down(lower), of.centre) - 2.0**-51
    most = host.add_up(host.div_up(of.norm_up(upper), of.centre), 2.0**-51)
    if beyond > 0 and not most < 2:
        raise HypothesisError("a kernel beside which the scale is not large")
    if beyond < 0:
        most = math.inf
    alone, rule = float(unread), f"norm of the kernel K*K - {of.centre:.6g} I ({upper.rule})"
    return _lower(max(least, alone, 0.0), DEFECT, rule), _upper(max(most, alone, beyond > 0), DEFECT, rule)


def isometry_up(values: Array, error: Array, target: Array, *, ops: ArrayOps) -> Array:
    """Upper bounds (b,) of ``||K*K - target I||`` by products alone: the sum of norms of the lags.

    The first lag is ``v I`` and what is left, for v its mean: its norm is at most |v| and the Frobenius norm of that,
    or its own Frobenius norm.

    Parameters
    ----------
    values, error : arrays, shapes (b, n, p, p) and (b,)
        `completion.Lags`.
    target : array, shape (b,)
        Positive.
    """
    xp, p = ops.xp, values.shape[-1]
    unit = rounding.unit(values, xp=xp)
    first = completion.minus_identity(values[:, 0, ...], target, ops=ops)
    alone = frobenius_up(first, xp=xp)
    mean = xp.linalg.trace(first) / p
    # Whatever v is: the mean is as rounded, and one more rounding of each number on the diagonal is counted.
    spread = frobenius_up(completion.minus_identity(first, mean, ops=ops), xp=xp)
    by_mean = xp.abs(mean) + spread + 2 * unit * (alone + xp.abs(mean) * p)
    others = xp.sum(frobenius_up(values[:, 1:, ...], xp=xp), axis=1)
    rounded = 2 * unit * (frobenius_up(values[:, 0, ...], xp=xp) + p * target)
    total = xp.minimum(alone, by_mean) + 2 * others + rounded + error
    return rounding.up(total, values.shape[1] + 12, xp=xp)


class Wrapping(NamedTuple):
    """Where the lags of a kernel fall on the pixels of a circulant.

    Row q of the tables is lag q of the circulant, one of each pair of opposite ones, lag 0 first; ``direct[q, t]`` is
    the share of lag t of the kernel in it, ``mirrored[q, t]`` that of lag -t. A lag that is its own opposite counts
    half: of others, `isometry_up` takes both.
    """

    direct: np.ndarray
    mirrored: np.ndarray


@lru_cache(maxsize=64)
def wrapping(taps: tuple[int, ...], sizes: tuple[int, ...]) -> Wrapping | None:
    """Of a kernel's lags on so many points an axis; None where no two of them meet."""
    if all(2 * k - 1 <= n for k, n in zip(taps, sizes, strict=True)):
        return None
    lags, points = half_lags(taps), np.asarray(sizes, dtype=np.int64)
    strides = np.cumprod((1, *sizes[:0:-1]))[::-1]
    number, opposite = ((x % points) @ strides for x in (lags, -lags))
    rows = np.unique(np.minimum(number, opposite))
    direct, mirrored = (np.where(rows[:, None] == x, 1.0, 0.0) for x in (number, opposite))
    mirrored[:, 0] = 0.0  # lag 0 of the kernel is one, not a pair
    own = (direct > 0) & (mirrored > 0)
    halved = own.any(axis=1) & (rows > 0)
    direct[halved] /= 2
    mirrored[halved] /= 2
    return Wrapping(direct, mirrored)


def wrapped(lags: completion.Lags, where: Wrapping, *, ops: ArrayOps) -> completion.Lags:
    """Lags (b, n, p, p) at the frequencies of a circulant, and what they may be off by there."""
    xp = ops.xp
    b, n, p, _ = lags.values.shape
    direct, mirrored = (ops.from_numpy(x.astype(str(ops.wide_dtype)), lags.values) for x in where)
    values = xp.reshape(lags.values, (b, n, p * p))
    opposite = xp.reshape(xp.matrix_transpose(lags.values), (b, n, p * p))
    found = xp.reshape(xp.matmul(direct, values) + xp.matmul(mirrored, opposite), (b, -1, p, p))
    terms = 2 * xp.sum(frobenius_up(lags.values, xp=xp), axis=1)
    lost = terms * (rounding.SLACK * rounding.gamma(2 * n + 1, rounding.unit(found, xp=xp)))
    return completion.Lags(found, rounding.up(lags.error + 2 * lost, n + 4, xp=xp))


def unwrapped(slopes: Array, where: Wrapping, *, ops: ArrayOps) -> Array:
    """Adjoint of `wrapped`: slopes of lags and of their opposites alike, but for lag 0."""
    xp = ops.xp
    b, q, p, _ = slopes.shape
    direct, mirrored = (x.T * np.where(np.arange(q) > 0, 2.0, 1.0) for x in where)
    share = np.where(np.arange(len(direct)) > 0, 0.5, 1.0)[:, None]
    one, other = (ops.from_numpy((x * share).astype(str(ops.wide_dtype)), slopes) for x in (direct, mirrored))
    values = xp.reshape(slopes, (b, q, p * p))
    opposite = xp.reshape(xp.matrix_transpose(slopes), (b, q, p * p))
    return xp.reshape(xp.matmul(one, values) + xp.matmul(other, opposite), (b, -1, p, p))
