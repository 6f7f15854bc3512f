"""Deflation: an upper bound of a zero-padded layer from a circulant, by splitting off waves of large singular values.

The layer is a compression of a circulant (`circulant`), whose singular vectors are plane waves: singular vectors of the
symbol at one frequency, times e^{i theta x}. On the layer's pixels and outputs, a part of the circulant, the waves with
the largest singular values are no longer orthogonal, so the layer's norm is often smaller than the circulant's.

At every frequency of the circulant let ``G(theta) = E(theta) + X(theta) Y(theta)*`` be the symbol, with
``||E(theta)|| <= t``; at nearly all frequencies X and Y have no columns. Restricted to the layer's pixels and outputs,
the circulant of E has a norm of at most t. The restriction of the other term is ``L R*``, where the columns of L and R
are the waves of X and Y, restricted to the outputs and to the pixels. So

    ||A||  <=  t + ||L R*||  <=  t + lambda_max(L*L + R*R) / 2.

The second step holds since, for unit vectors u and v, ``4 Re <L* u, R* v> <= ||L* u + R* v||**2``. Here L* u + R* v is
``S* w``, with S the matrix L above R and w the vector u above v, whose squared norm is 2. So its squared norm is at
most ``2 lambda_max(S* S) = 2 lambda_max(L*L + R*R)``.

The matrix L*L + R*R has one row for each wave. Its entries, inner products of restricted waves, are inner products of
channels times a sum over the outputs, or pixels, of each axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specnorm.at_size.proofs.circulant import is_long_enough, shortest
from specnorm.backends import arrays, text
from specnorm.proofs import host, norms, rounding
from specnorm.proofs.bound import HypothesisError, Upper
from specnorm.proofs.cells import Circulant
from specnorm.proofs.frequencies import Frequencies, phase_error
from specnorm.symbols.proofs.polynomial import Polynomial

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec
    from specnorm.supremum.proof import Cover

_REST_MARGIN = 2.0**-16
"""The limit t exceeds the bound of the symbols without waves by this relative margin: at frequencies with waves, E is a
little larger than the next singular value, since X and Y come from an eigenvalue routine in float32."""


@dataclass(frozen=True, eq=False)
class SplitWaves:
    """The w waves that are split off a circulant: columns of X and Y at some frequencies.

    Parameters
    ----------
    frequencies : Frequencies
        Frequencies of the circulant. No frequency is the mirror image -theta of another one: at the mirror images, the
        complex conjugates of the waves are split off too.
    frequency_of_wave : integer array, shape (w,)
        The index in ``frequencies`` of the frequency of each wave.
    x, y : complex arrays, shapes (w, first) and (w, second)
        For each wave, its column of X and its column of Y. The numbers of channels are `ConvSpec.group_channels`.
    """

    frequencies: Frequencies
    frequency_of_wave: np.ndarray
    x: Array
    y: Array

    def __post_init__(self) -> None:
        if len(first_of_mirrored(self.frequencies)) < len(self.frequencies):
            raise HypothesisError("a frequency and its mirror image are given: waves would be split off twice")


def first_of_mirrored(frequencies: Frequencies) -> Frequencies:
    """The first of each pair of a frequency and its mirror image -theta, in the given order."""
    denominators = np.asarray(frequencies.denominators)
    numerators = frequencies.numerators % denominators
    mirrored = (-numerators) % denominators
    ndim = numerators.shape[1]
    strides = np.asarray([math.prod(frequencies.denominators[j + 1 :]) for j in range(ndim)], dtype=np.int64)
    key = np.minimum(numerators @ strides, mirrored @ strides)
    _, first = np.unique(key, return_index=True)
    return frequencies[np.sort(first)]


def norm_by_deflation(
    kernel: Array,
    spec: ConvSpec,
    circulant: Circulant,
    cover: Cover,
    split: SplitWaves,
    bound: float,
    *,
    ops: ArrayOps,
) -> Upper | None:
    """Prove that a layer's norm is at most ``bound``; None if the proof fails.

    ``kernel`` (1, first, second, *kernel_shape): the kernel of one group, in torch's order, scaled to about 1.
    ``spec``: the geometry of that group, with ``input_shape``, zero padding, and neither stride nor dilation.
    ``circulant``: a circulant with at least `circulant.shortest` points, the true number along every axis. ``cover``: a
    cover of the frequencies of that circulant. All cells but the open ones have proven bounds; each open cell is a
    single frequency. ``split``: the waves that are split off, at the frequencies of the open cells. ``bound``: the
    bound to be proven.
    """
    if max((*spec.stride, *spec.dilation), default=1) > 1:
        raise HypothesisError("overlaps of waves need a layer without stride and dilation")
    limit = limit_of_rest(spec, circulant, cover, split)
    limit_of_waves = host.sub_down(bound, limit)
    if not limit_of_waves > 0:
        return None
    if not WaveGram(spec, circulant, split, ops=ops).norm_below(limit_of_waves, ops=ops):
        return None
    if not rest_below(kernel, split, limit, ops=ops):
        return None
    rule = f"a circulant without {text.counted(len(split.frequency_of_wave), 'wave')}, plus what these add"
    return Upper._by_rule(bound, spec, rule, cover.bound_outside_open())


def limit_of_rest(
    spec: ConvSpec,
    circulant: Circulant,
    cover: Cover,
    split: SplitWaves,
) -> float:
    """Return t: a proven bound of the symbols where no waves are split off, raised by `_REST_MARGIN`.

    At frequencies with waves, t is the limit that `rest_below` has to prove for E.

    Raises `HypothesisError` if the circulant is too short for the layer, the cover is of another circulant, or waves
    are not split off at exactly the frequencies that the cover leaves open.
    """
    covered = Circulant.of(circulant.points, circulant.skew, spec.block_kernel_shape)
    if spec.groups != 1 or 0 in circulant.points or not is_long_enough(spec, circulant) or cover.what != covered:
        raise HypothesisError(
            f"the layer needs a cover of the {covered}, with at least {shortest(spec)} points; got one of {cover.what}"
        )
    open_boxes = cover.open.boxes
    # Every open cell must be a single frequency, and the waves must belong to exactly these.
    if open_boxes.divisible.any() or not first_of_mirrored(open_boxes.centres).same_as(split.frequencies):
        raise HypothesisError("waves are not split off at the frequencies that the cover leaves open")
    # ``1 + _REST_MARGIN`` is exact, so there is one rounding.
    return host.inflate(cover.bound_outside_open().value * (1 + _REST_MARGIN), 2)


def rest_below(kernel: Array, split: SplitWaves, limit: float, *, ops: ArrayOps) -> bool:
    """Whether ``||E|| = ||G - X Y*|| <= limit`` is proven at every frequency with waves; then also at its mirror image.

    The limit is lowered by the error of E: the symbol's error, plus `product_error` of ``G - X Y*`` times
    ``||X||_F ||Y||_F + ||G||_F``. The squared limit is lowered by the error of the Gram matrix of E.

    ``kernel`` (1, first, second, *kernel_shape): scaled to about 1.
    """
    xp = ops.xp
    polynomial = Polynomial(kernel, xp=xp)
    symbol = polynomial.at(split.frequencies, ops=ops).matrices()[0, ...]
    symbol_error = float(polynomial.error[0])
    symbol_norm = norms.frobenius_up(symbol, xp=xp)
    x, y = _by_frequency(split, ops=ops)
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


def _by_frequency(split: SplitWaves, *, ops: ArrayOps) -> tuple[Array, Array]:
    """X and Y of each frequency, transposed: shapes (f, most, first) and (f, most, second).

    ``most`` is the largest number of waves at a frequency; frequencies with fewer waves are filled up with zeros.
    """
    xp = ops.xp
    count, wave_count = len(split.frequencies), len(split.frequency_of_wave)
    most = int(np.bincount(split.frequency_of_wave, minlength=count).max(initial=0))
    # The index of the wave in each slot; empty slots have the index of a row of zeros that `in_slots` appends.
    slots = np.full((count, most), wave_count)
    if most:
        slots[split.frequency_of_wave, _ranks(split.frequency_of_wave)] = np.arange(wave_count)

    def in_slots(rows: Array) -> Array:
        with_zeros = xp.concat([rows, xp.zeros_like(rows[:1, :])], axis=0)
        return xp.reshape(arrays.rows(with_zeros, slots.reshape(-1), ops=ops), (*slots.shape, rows.shape[1]))

    return in_slots(split.x), in_slots(split.y)


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
    for each axis of n outputs. Of the roundings, n - 1 are those of the sum. The other 9 cover its division by N, its
    conversion to the dtype, and the product with the entry. So the error of ``L*L / 2`` is at most ``r ||X||_F**2 /
    2``; likewise for R*R, Y and the pixels.

    Parameters
    ----------
    spec : ConvSpec
        The geometry of one group, with ``input_shape``, zero padding, and neither stride nor dilation.
    circulant : Circulant
        The layer is a compression of it.
    split : SplitWaves
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
        circulant: Circulant,
        split: SplitWaves,
        *,
        ops: ArrayOps,
    ) -> None:
        xp = ops.xp
        large, small = spec.sides
        denominators = np.asarray(split.frequencies.denominators)
        numerators = split.frequencies.numerators[split.frequency_of_wave] % denominators
        mirrored = (-numerators) % denominators
        has_mirror_image = np.flatnonzero((mirrored != numerators).any(axis=1))

        def with_mirrored(rows: Array) -> Array:
            """Waves (w, c), and those of their mirror images in the order of ``self.numerators``."""
            return xp.concat([rows, xp.conj(arrays.rows(rows, has_mirror_image, ops=ops))], axis=0)

        x = with_mirrored(split.x)
        self.y = with_mirrored(split.y)
        self.numerators = np.concatenate([numerators, mirrored[has_mirror_image]])
        padding_before = [before for before, _ in spec.padding]
        gram_of_outputs, output_error = self._summand(x, small, padding_before, circulant, ops=ops)
        gram_of_pixels, pixel_error = self._summand(self.y, large, [0] * spec.ndim, circulant, ops=ops)
        self.matrix = gram_of_outputs + gram_of_pixels
        self.error = output_error + pixel_error

    def _summand(
        self,
        channels: Array,
        sizes: tuple[int, ...],
        shifts: list[int],
        circulant: Circulant,
        *,
        ops: ArrayOps,
    ) -> tuple[Array, float]:
        """One summand of the matrix, ``L*L / 2`` or ``R*R / 2``, and a bound of the norm of its error.

        ``channels`` (W, channels): columns of X or of Y. ``sizes``, ``shifts``: for each axis, the number of outputs
        (or pixels), and a shift: output x lies at the position ``x - shift`` of the circulant.
        """
        xp = ops.xp
        unit_roundoff = rounding.unit(channels, xp=xp)
        gram = xp.matmul(xp.conj(channels), xp.matrix_transpose(channels))
        for axis, (size, shift) in enumerate(zip(sizes, shifts, strict=True)):
            gram = gram * _overlaps(self.numerators[:, axis], circulant, axis, size, shift, gram, ops=ops)
        norm_sq = float(rounding.up(norms.frobenius_up(channels, xp=xp) ** 2, 2, xp=xp))
        # An overlap is a sum of n rounded phases, divided once; an entry is multiplied by one overlap for each axis.
        error_of_phase = phase_error(unit_roundoff)
        overlap_error = sum(math.sqrt(2) * (error_of_phase + rounding.gamma(n + 8, unit_roundoff)) for n in sizes)
        # 4 channels more than there are: to spare.
        relative_error = rounding.product_error(channels.shape[1] + 4, channels, xp=xp) + overlap_error
        # The error of L*L / 2 has a factor 1/2, which is left out; SLACK covers products of the errors.
        return gram / 2, norm_sq * rounding.SLACK**2 * relative_error

    def norm_below(self, limit: float, *, ops: ArrayOps) -> bool:
        """Whether ``||L R*|| <= limit`` is proven."""
        xp = ops.xp
        if not len(self.numerators):
            return limit >= 0
        like = xp.real(self.matrix[0, 0])
        # 16 covers the few host operations that made the error.
        computed_limit = rounding.down(xp.full_like(like, limit), 2, xp=xp) - host.inflate(self.error, 16)
        if not bool(computed_limit > 0):
            return False
        return bool(norms.gram_below(self.matrix, rounding.down(computed_limit, 2, xp=xp), ops=ops))


def _overlaps(
    numerators: np.ndarray,
    circulant: Circulant,
    axis: int,
    n: int,
    shift: int,
    like: Array,
    *,
    ops: ArrayOps,
) -> Array:
    """Inner products of pairs of waves along one axis: ``sum_x e^{i delta (x - shift)} / N``, shape (W, W).

    The sum is over n positions x; delta is the difference of the two frequencies; N is the number of points. The waves
    have unit length on the whole axis, so their entries have modulus ``1 / sqrt(N)``.
    """
    point_count = circulant.points[axis]
    # On a skew axis the frequencies are odd multiples of 2 pi / (2 N), so their differences are multiples of 2 pi / N.
    step = 2 if circulant.skew[axis] else 1
    steps_apart = ((numerators[None, :] - numerators[:, None]) // step) % point_count
    pixels = np.arange(n)[:, None] - shift
    cos, sin = Frequencies.along_axis(point_count, point_count).cos_sin(pixels)
    real = cos.sum(axis=1) / point_count
    imag = sin.sum(axis=1) / point_count
    return ops.complex(
        ops.from_numpy(real[steps_apart].astype(np.float64), like),
        ops.from_numpy(imag[steps_apart].astype(np.float64), like),
    )
