"""The defect c I - K*K: a kernel whose norm bounds the smallest singular value, and how far K is from an isometry.

G is the symbol of K, with no more columns than rows (else its transpose is taken), and m the smallest singular value of
G over all frequencies.

*Lemma.* ``D(theta) = c I - G*G`` is the symbol of the kernel with taps ``c delta_t - R_t``, R_t the lags of K*K, and
``||D(theta)|| >= c - sigma_min(G(theta))**2``. So ``m**2 >= c - ||D||`` for every c, and equality holds where c is at
least ``(||K||**2 + m**2) / 2``: a poor c costs tightness, never truth. No upper bound of m rests on D: one is
``||G(theta) v||`` of any frequency and any unit vector v.

With ``c = s**2`` the norm of D is the isometry defect, ``| ||K x||**2 - s**2 ||x||**2 | <= ||D|| ||x||**2``, and
``||D||`` is at most the sum of the norms of its taps.

The lags come from `certified.completion` with what their roundings may be off.
"""

from __future__ import annotations

import math
from dataclasses import InitVar, dataclass
from typing import TYPE_CHECKING

import numpy as np

from specnorm import arrays
from specnorm.certified import completion, host, rounding
from specnorm.certified.bound import EVERYWHERE, HypothesisError, Lower, Upper, _lower, _upper, scaled_down, scaled_up
from specnorm.certified.matrices.norms import frobenius_up
from specnorm.certified.symbol import symbols
from specnorm.certified.symbol.cells import Circulant
from specnorm.certified.symbol.cover import Nonnegative, _nowhere_negative
from specnorm.problem.taps import sizes_of, tables_of_axes

if TYPE_CHECKING:
    from specnorm.array_types import Array
    from specnorm.problem.frequencies import Frequencies
    from specnorm.problem.spec import ConvSpec
    from specnorm.types import ArrayOps

_MAKER = object()
SMALLEST = "smallest singular value"
DEFECT = "isometry defect"


# -- which layers the symbols speak of -------------------------------------------------------------------------------
def has_unread_pixels(spec: ConvSpec) -> bool:
    """Whether a stride leaves pixels that no tap reads, and outputs enough for that to be a singular value of 0."""
    first, second = spec.stored_channels
    read = second * math.prod(spec.phases)
    return math.prod(spec.phases) < math.prod(spec.stride) and first // spec.groups > read


def keeps_smallest(spec: ConvSpec) -> bool:
    """Whether the smallest singular value of the symbols is none above the layer's, at its size or at every size.

    A circular layer with one output a stride has the symbols' values. A zero-padded one with no more columns than rows
    is the convolution of all integers on inputs that are zero elsewhere: ``||A x|| = ||K x|| >= m ||x||`` if no output
    is cut off. One with fewer rows is the same for its adjoint, if no output reads beyond the input.
    """
    if spec.periodic:
        return True
    if spec.padding_mode != "zeros":
        return False
    first, second = spec.stored_channels
    rows, columns = first // spec.groups, second * math.prod(spec.stride)
    return (rows <= columns and reads_inside(spec)) or (columns <= rows and meets_every_output(spec))


def reads_inside(spec: ConvSpec) -> bool:
    """Whether no output of the convolution reads padding."""
    if spec.input_shape is None:
        return not any(any(pads) for pads in spec.padding)
    large, small = sizes_of(spec)
    return all(bool((table < n).all()) for table, n in zip(tables_of_axes(large, small, spec), large, strict=True))


def meets_every_output(spec: ConvSpec) -> bool:
    """Whether every tap that reads a pixel from some place of an endless layer reads it from an output of this one."""
    axes = zip(spec.kernel_shape, spec.stride, spec.dilation, spec.padding, strict=True)
    if spec.input_shape is None:
        # The last output of a convolution may stand up to a stride before the end; a transposed layer's does not.
        return all(
            before >= r * (k - 1) - (s - 1) and after >= r * (k - 1) - (s - 1 if spec.transposed else 0)
            for k, s, r, (before, after) in axes
        )
    large, small = sizes_of(spec)
    for n, table, (k, s, r, (before, _)) in zip(large, tables_of_axes(large, small, spec), axes, strict=True):
        pixels, taps = np.arange(n)[None, :], np.arange(k)[:, None]
        on_output = (pixels - r * taps + before) % s == 0
        if (table < n).sum() != on_output.sum():
            return False
    return True


# -- the kernel of the defect ----------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Defect:
    """The kernel of ``c I - K*K`` for some blocks, as computed; made by `defect` alone.

    Parameters
    ----------
    kernel : array, shape (g, p, p, *lags)
        Scaled to about 1: ``2**exponent`` times its symbol is within ``error`` of D at every frequency.
    exponent : int
    centre : float
        c.
    error : float
    """

    kernel: Array
    exponent: int
    centre: float
    error: float
    maker: InitVar[object] = None

    def __post_init__(self, maker: object) -> None:
        if maker is not _MAKER:
            raise TypeError("Defect: kernels that prove something are made by `defect` of the blocks they speak of")

    def norm_up(self, norm: Upper) -> float:
        """Upper bound of ``||D||`` from one of the norm of its kernel."""
        _check_what(norm)
        return host.add_up(scaled_up(norm.value, self.exponent), self.error)

    def norm_down(self, norm: Lower) -> float:
        """Lower bound of ``||D||`` from one of the norm of its kernel."""
        return max(host.sub_down(scaled_down(norm.value, self.exponent), self.error), 0.0)


def _check_what(norm: Upper) -> None:
    if norm.what != EVERYWHERE and not isinstance(norm.what, Circulant):
        raise HypothesisError(f"{norm.what} is not the norm of the defect's kernel at every frequency")


def defect(blocks: Array, centre: float, *, ops: ArrayOps) -> Defect:
    """``centre I - K*K`` of blocks (g, m, p, *taps) with known values, scaled to about 1."""
    xp = ops.xp
    tall = arrays.tall(blocks, xp=xp)
    lags = completion.lags(tall, ops=ops, wide=True)
    g, _, p, *taps = tall.shape
    mirrored = xp.flip(xp.matrix_transpose(lags.values[:, 1:, ...]), axis=1)
    eye = ops.from_numpy(np.eye(p, dtype=ops.wide_dtype), lags.values)
    # Symmetric bit for bit, so that the symbol is Hermitian: the mean of two that are within the error is.
    first = (lags.values[:, 0, ...] + xp.matrix_transpose(lags.values[:, 0, ...])) / 2
    shifted = centre * eye - first
    every = xp.concat([-mirrored, shifted[:, None, ...], -lags.values[:, 1:, ...]], axis=1)
    # One rounding of each number on the diagonal.
    rounded = float(xp.max(xp.abs(shifted))) * rounding.unit(every, xp=xp)
    error = host.add_up(float(xp.max(lags.error)), host.inflate(rounded, 4))
    kernel = xp.reshape(xp.permute_dims(every, (0, 2, 3, 1)), (g, p, p, *(2 * k - 1 for k in taps)))
    scaled, exponent = arrays.scale(xp.reshape(kernel, (1, -1)), xp=xp)
    return Defect(xp.reshape(scaled, kernel.shape), int(exponent[0]), centre, error, _MAKER)


def nowhere_negative(of: Defect, norm: Upper) -> Nonnegative | None:
    """``D(theta) >= (c - ||K||**2) I``, and the kernel's symbol is off by ``error`` at most; None where c is smaller.

    Parameters
    ----------
    norm : Upper
        Of the blocks' symbol, at every frequency.
    """
    if norm.what != EVERYWHERE:
        raise HypothesisError(f"{norm.what} is not the norm of the blocks at every frequency")
    least = host.add_up(host.mul_up(norm.value, norm.value), of.error)
    return _nowhere_negative(of.kernel) if of.centre >= least else None


def norm_by_taps(of: Defect, *, ops: ArrayOps) -> Upper:
    """No symbol's norm exceeds the sum of the Frobenius norms of its taps."""
    xp = ops.xp
    g, p, _, *lags = of.kernel.shape
    taps = xp.permute_dims(xp.reshape(of.kernel, (g, p, p, -1)), (0, 3, 1, 2))
    total = xp.max(xp.sum(frobenius_up(taps, xp=xp), axis=1))
    value = host.inflate(float(total), math.prod(lags) + 2)
    return _upper(value, EVERYWHERE, "sum of the Frobenius norms of the taps")


# -- the smallest singular value -------------------------------------------------------------------------------------
def smallest_down(of: Defect, norm: Upper) -> Lower:
    """``m >= sqrt(c - ||D||)``.

    Parameters
    ----------
    norm : Upper
        Of the defect's kernel, at every frequency or at those of a circulant.
    """
    square = host.sub_down(of.centre, of.norm_up(norm))
    rule = f"root of {of.centre:.6g} less the norm of the defect ({norm.rule})"
    where = "at every frequency" if norm.what == EVERYWHERE else norm.what
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
