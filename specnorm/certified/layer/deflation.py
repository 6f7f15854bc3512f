"""Deflation: an upper bound of a zero-padded layer from a circulant, by splitting off its largest singular vectors.

The layer is a compression of a circulant (`circulant`), whose singular vectors are plane waves: singular vectors of the
symbol at one frequency, times e^{i theta x}. On the layer's pixels and outputs, a part of the circulant, the waves with
the largest singular values are no longer orthogonal, so the layer's norm is often smaller than the circulant's.

At every frequency of the circulant let ``G(theta) = E(theta) + X(theta) Y(theta)*`` be the symbol, with
``||E(theta)|| <= t``; at most frequencies X and Y have no columns. Restricted to the layer's pixels and outputs, the
circulant of E has a norm of at most t. The restriction of the other term is ``L R*``, where the columns of L and R are
the waves of X and Y, restricted to the outputs and to the pixels. So

    ||A||  <=  t + ||L R*||  <=  t + lambda_max(L*L + R*R) / 2,

since ``2 |<L* u, R* v>| <= ||L* u||**2 + ||R* v||**2``. The matrix L*L + R*R has one row for each wave. Its entries,
inner products of restricted waves, are inner products of channels times a sum over the outputs, or pixels, of each
axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specnorm import arrays
from specnorm.certified import host, rounding
from specnorm.certified.bound import HypothesisError, Upper, _upper
from specnorm.certified.layer.circulant import is_long_enough
from specnorm.certified.matrices import norms
from specnorm.certified.symbol import symbols
from specnorm.certified.symbol.cells import Circulant
from specnorm.certified.symbol.symbols import Symbol
from specnorm.problem.frequencies import Frequencies, cos_sin
from specnorm.problem.taps import sizes_of

if TYPE_CHECKING:
    from specnorm.array_types import Array
    from specnorm.certified.layer.circulant import Embedding
    from specnorm.certified.symbol.cover import Cover
    from specnorm.problem.spec import ConvSpec
    from specnorm.types import ArrayOps

_REST_MARGIN = 2.0**-16
"""Relative margin of the limit t over the circulant's symbols at other frequencies: where waves are split off, E is a
little larger than their next singular value, since X and Y come from an eigenvalue routine in float32."""


@dataclass(frozen=True, eq=False)
class DeflatedModes:
    """The w waves that are split off a circulant: columns of X and Y at some frequencies.

    Parameters
    ----------
    points : Frequencies
        Frequencies of the circulant. None is the mirror image -theta of another: at the mirror images, the complex
        conjugates of the waves are split off too.
    point : integer array, shape (w,)
        The index in ``points`` of the frequency of each wave.
    x, y : complex arrays, shapes (w, first) and (w, second)
        For each wave, its column of X and its column of Y.
    """

    points: Frequencies
    point: np.ndarray
    x: Array
    y: Array

    def __post_init__(self) -> None:
        if len(first_of_mirrored(self.points)) < len(self.points):
            raise HypothesisError("a frequency and its mirror image are given: waves would be split off twice")


def first_of_mirrored(points: Frequencies) -> Frequencies:
    """The first of each pair of a frequency and its mirror image -theta, in the given order."""
    denominators = np.asarray(points.denominators)
    numerators = points.numerators % denominators
    mirrored = (-numerators) % denominators
    ndim = numerators.shape[1]
    row_major = np.asarray([math.prod(points.denominators[j + 1 :]) for j in range(ndim)], dtype=np.int64)
    key = np.minimum(numerators @ row_major, mirrored @ row_major)
    _, first = np.unique(key, return_index=True)
    return points[np.sort(first)]


def norm_by_deflation(
    kernel: Array,
    spec: ConvSpec,
    circulant: Embedding,
    cover: Cover,
    highest: DeflatedModes,
    bound: float,
    *,
    ops: ArrayOps,
) -> Upper | None:
    """Prove that a layer's norm is at most ``bound``; None if the proof fails.

    Parameters
    ----------
    kernel : array, shape (1, first, second, *kernel_shape)
        The kernel of one group, in torch's order, scaled to about 1.
    spec : ConvSpec
        The geometry of that group, with ``input_shape``, zero padding, and neither stride nor dilation.
    circulant : Embedding
        With at least `circulant.shortest` points.
    cover : Cover
        Of the frequencies of that circulant. All cells but the open ones have proven bounds; each open cell is a single
        frequency.
    highest : DeflatedModes
        The waves that are split off, at the frequencies of the open cells.
    bound : float
    """
    if max((*spec.stride, *spec.dilation), default=1) > 1:
        raise HypothesisError("overlaps of waves need a layer without stride and dilation")
    limit = limit_of_rest(spec, circulant, cover, highest)
    limit_of_waves = host.sub_down(bound, limit)
    if not limit_of_waves > 0:
        return None
    if not WaveGram(spec, circulant, highest, ops=ops).norm_below(limit_of_waves, ops=ops):
        return None
    if not rest_below(kernel, highest, limit, ops=ops):
        return None
    return _upper(bound, spec, f"a circulant without {len(highest.point)} waves, and those", cover.beside_open())


def limit_of_rest(
    spec: ConvSpec,
    circulant: Embedding,
    cover: Cover,
    highest: DeflatedModes,
) -> float:
    """Return t: a proven bound of the symbols where no waves are split off, raised by `_REST_MARGIN`.

    At the other frequencies t is the limit that `rest_below` has to prove for E.

    Raises
    ------
    HypothesisError
        If the circulant is too short for the layer, the cover is of another circulant, or waves are not split off at
        exactly the frequencies that the cover leaves open.
    """
    covered = Circulant.of(circulant.points, circulant.skew, spec.block_kernel_shape)
    # Not `Circulant.of`, which replaces the points along an axis with one tap by 0: the waves need the true number.
    circulant_of_waves = Circulant(circulant.points, circulant.skew)
    if spec.groups != 1 or not is_long_enough(spec, circulant_of_waves) or cover.what != covered:
        raise HypothesisError(f"the layer is no compression of the {covered}, of the {cover.what} as it is")
    open_boxes = cover.open.boxes
    if open_boxes.divisible.any() or not first_of_mirrored(open_boxes.centres).same_as(highest.points):
        raise HypothesisError("waves are not split off at the frequencies that the cover leaves open")
    return host.inflate(cover.beside_open().value * (1 + _REST_MARGIN), 2)


def rest_below(kernel: Array, highest: DeflatedModes, limit: float, *, ops: ArrayOps) -> bool:
    """Whether ``||E|| = ||G - X Y*|| <= limit`` is proven at every frequency with waves; then also at its mirror image.

    Allowances: the symbol's error, and `product_error` of ``G - X Y*`` times ``||X||_F ||Y||_F + ||G||_F``, are
    subtracted from the limit; the error of the Gram matrix of E is subtracted from the squared limit.

    Parameters
    ----------
    kernel : array, shape (1, first, second, *kernel_shape)
        Scaled to about 1.
    """
    xp = ops.xp
    symbol = Symbol(kernel, highest.points, ops=ops).matrices()[0, ...]
    symbol_error = float(symbols.symbol_error(kernel, xp=xp)[0])
    symbol_norm = norms.frobenius_up(symbol, xp=xp)
    x, y = _by_point(highest, ops=ops)
    most_waves = x.shape[1]
    if most_waves:
        rest = symbol - xp.matmul(xp.matrix_transpose(x), xp.conj(y))
        magnitude = norms.frobenius_up(x, xp=xp) * norms.frobenius_up(y, xp=xp) + symbol_norm
    else:
        rest = symbol
        magnitude = symbol_norm
    # The length is two more than that of the product, for the rounding of the difference.
    relative_error = rounding.SLACK * rounding.product_error(most_waves + 2, symbol, xp=xp)
    rest_error = rounding.up(magnitude, 4, xp=xp) * relative_error + symbol_error
    length = max(rest.shape[-2:])
    gram = arrays.gram_smaller(rest, xp=xp)
    rest_sq = rounding.up(norms.frobenius_up(rest, xp=xp) ** 2, 4, xp=xp)
    gram_error = rest_sq * (rounding.SLACK * rounding.product_error(length, rest, xp=xp))
    limits = rounding.down(xp.full_like(rest_error, limit), 2, xp=xp) - rounding.up(rest_error, 2, xp=xp)
    limits_sq = rounding.down(xp.maximum(limits, xp.zeros_like(limits)) ** 2, 2, xp=xp)
    limits_sq = limits_sq - rounding.up(gram_error, 2, xp=xp)
    limits_sq = rounding.down(xp.maximum(limits_sq, xp.zeros_like(limits_sq)), 2, xp=xp)
    return bool(xp.all(norms.gram_below(gram, limits_sq, ops=ops)))


def _by_point(highest: DeflatedModes, *, ops: ArrayOps) -> tuple[Array, Array]:
    """X and Y of each frequency, transposed: shapes (f, most, first) and (f, most, second).

    ``most`` is the largest number of waves at a frequency; frequencies with fewer waves are filled up with zeros.
    """
    xp = ops.xp
    count, wave_count = len(highest.points), len(highest.point)
    most = int(np.bincount(highest.point, minlength=count).max(initial=0))
    # The index of the wave in each slot; empty slots have the index of a row of zeros that `in_slots` appends.
    slots = np.full((count, most), wave_count)
    if most:
        slots[highest.point, _ranks(highest.point)] = np.arange(wave_count)

    def in_slots(rows: Array) -> Array:
        with_zeros = xp.concat([rows, xp.zeros_like(rows[:1, :])], axis=0)
        return xp.reshape(arrays.rows(with_zeros, slots.reshape(-1), ops=ops), (*slots.shape, rows.shape[1]))

    return in_slots(highest.x), in_slots(highest.y)


def _ranks(numbers: np.ndarray) -> np.ndarray:
    """For each number in an array, how many numbers before it are equal to it."""
    order = np.argsort(numbers, kind="stable")
    counts = np.bincount(numbers)
    first_of_number = np.cumsum(counts) - counts
    ranks = np.empty(len(numbers), dtype=np.int64)
    ranks[order] = np.arange(len(numbers)) - first_of_number[numbers[order]]
    return ranks


class WaveGram:
    """The matrix ``(L*L + R*R) / 2`` of the waves that are split off, those at mirror images included.

    An entry of L*L is an inner product of channels times a sum over the outputs of each axis. The relative error of an
    entry is at most r, the sum of `product_error` of the inner product and of ``sqrt(2) (phase error + gamma(n + 8))``
    for each axis of n outputs. So the error of ``L*L / 2`` is at most ``r ||X||_F**2 / 2``; likewise for R*R, Y and
    the pixels.

    Parameters
    ----------
    spec : ConvSpec
        The geometry of one group, with ``input_shape``, zero padding, and neither stride nor dilation.
    circulant : Embedding
        The layer is a compression of it.
    highest : DeflatedModes
        The waves. With those at the mirror images there are W.

    Attributes
    ----------
    numerators : integer array, shape (W, d)
        Numerators of the frequencies of all W waves.
    y : array, shape (W, second)
        Columns of Y.
    matrix : array, shape (W, W)
        The matrix as computed.
    error : float
        Bound of the norm of the matrix's error.
    """

    def __init__(
        self,
        spec: ConvSpec,
        circulant: Embedding,
        highest: DeflatedModes,
        *,
        ops: ArrayOps,
    ) -> None:
        xp = ops.xp
        large, small = sizes_of(spec)
        denominators = np.asarray(highest.points.denominators)
        numerators = highest.points.numerators[highest.point] % denominators
        mirrored = (-numerators) % denominators
        has_mirror_image = np.flatnonzero((mirrored != numerators).any(axis=1))

        def with_mirrored(rows: Array) -> Array:
            return xp.concat([rows, xp.conj(arrays.rows(rows, has_mirror_image, ops=ops))], axis=0)

        x = with_mirrored(highest.x)
        self.y = with_mirrored(highest.y)
        self.numerators = np.concatenate([numerators, mirrored[has_mirror_image]])
        padding_before = [before for before, _ in spec.padding]
        of_outputs, output_error = self._half(x, small, padding_before, circulant, ops=ops)
        of_pixels, pixel_error = self._half(self.y, large, [0] * spec.ndim, circulant, ops=ops)
        self.matrix = of_outputs + of_pixels
        self.error = output_error + pixel_error

    def _half(
        self,
        channels: Array,
        sizes: tuple[int, ...],
        shifts: list[int],
        circulant: Embedding,
        *,
        ops: ArrayOps,
    ) -> tuple[Array, float]:
        """``L*L / 2`` or ``R*R / 2``, and a bound of the norm of its error.

        Parameters
        ----------
        channels : array, shape (W, channels)
            Columns of X or of Y.
        sizes, shifts : sequences of int
            For each axis, the number of outputs (pixels), and minus the position of the first one on the circulant.
        """
        xp = ops.xp
        u = rounding.unit(channels, xp=xp)
        gram = xp.matmul(xp.conj(channels), xp.matrix_transpose(channels))
        for axis, (size, shift) in enumerate(zip(sizes, shifts, strict=True)):
            gram = gram * _overlaps(self.numerators[:, axis], circulant, axis, size, shift, gram, ops=ops)
        norm_sq = float(rounding.up(norms.frobenius_up(channels, xp=xp) ** 2, 2, xp=xp))
        # An overlap is a sum of n rounded phases, divided once; an entry is multiplied by one overlap for each axis.
        overlap_error = sum(math.sqrt(2) * (symbols.phase_error(u) + rounding.gamma(n + 8, u)) for n in sizes)
        relative = rounding.product_error(channels.shape[1] + 4, channels, xp=xp) + overlap_error
        return gram / 2, norm_sq * rounding.SLACK**2 * relative

    def norm_below(self, limit: float, *, ops: ArrayOps) -> bool:
        """Whether ``||L R*|| <= limit`` is proven."""
        xp = ops.xp
        if not len(self.numerators):
            return limit >= 0
        like = xp.real(self.matrix[0, 0])
        computed_limit = rounding.down(xp.full_like(like, limit), 2, xp=xp) - host.inflate(self.error, 16)
        if not bool(computed_limit > 0):
            return False
        return bool(norms.gram_below(self.matrix, rounding.down(computed_limit, 2, xp=xp), ops=ops))


def _overlaps(
    numerators: np.ndarray,
    circulant: Embedding,
    axis: int,
    n: int,
    shift: int,
    like: Array,
    *,
    ops: ArrayOps,
) -> Array:
    """Inner products of pairs of waves along one axis: ``sum_x e^{i delta (x - shift)} / N``, shape (W, W).

    The sum is over n positions x; delta is the difference of the two frequencies; N is the number of points.
    """
    points = circulant.points[axis]
    # On a skew axis the frequencies are odd multiples of 2 pi / (2 N), so their differences are multiples of 2 pi / N.
    step = 2 if circulant.skew[axis] else 1
    steps_apart = ((numerators[None, :] - numerators[:, None]) // step) % points
    cos, sin = cos_sin(np.outer(np.arange(points), np.arange(n) - shift), points)
    real = cos.sum(axis=1) / points
    imag = sin.sum(axis=1) / points
    return ops.complex(
        ops.from_numpy(real[steps_apart].astype(np.float64), like),
        ops.from_numpy(imag[steps_apart].astype(np.float64), like),
    )
