"""A circulant without its highest waves, and those by themselves: an upper bound of a zero-padded layer.

Let the symbol be ``G(theta) = E(theta) + X(theta) Y(theta)*`` at every frequency of a circulant that the layer is a
compression of (`circulant`), with ``||E(theta)|| <= t``. Restricted to the layer's pixels and outputs, the circulant of
E has a norm of at most t, and the rest is ``L R*``, where the columns of L and R are the waves of X and Y on the
outputs and on the pixels. So

    ||A||  <=  t + ||L R*||  <=  t + lambda_max(L*L + R*R) / 2,

since ``2 |<L* u, R* v>| <= ||L* u||**2 + ||R* v||**2``: a matrix of as many rows as there are waves above t. Inner
products of restricted waves are those of their channels, times a sum over the outputs, or the pixels, of each axis.
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

_MORE = 2.0**-16
"""Part of t by which E may be larger where waves are taken out: they come from an eigenvalue routine in float32."""


@dataclass(frozen=True, eq=False)
class DeflatedModes:
    """The waves that are taken out of a circulant's symbols.

    Parameters
    ----------
    points : Frequencies
        Frequencies of the circulant, of which none is the mirror image of another: the waves at the mirror images are
        the conjugates.
    point : integer array, shape (w,)
        Number of the point of each wave.
    x, y : complex arrays, shapes (w, first) and (w, second)
        Columns of X and Y.
    """

    points: Frequencies
    point: np.ndarray
    x: Array
    y: Array

    def __post_init__(self) -> None:
        if len(first_of_mirrored(self.points)) < len(self.points):
            raise HypothesisError("a frequency and its mirror image are one point: what is taken out counts twice")


def first_of_mirrored(points: Frequencies) -> Frequencies:
    """One of each frequency and its mirror image."""
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
    """A bound of the layer's norm, if it is proven; else None.

    Parameters
    ----------
    kernel : array, shape (1, first, second, *kernel_shape)
        Of one group, in torch's order, scaled to about 1.
    spec : ConvSpec
        Of that group, with ``input_shape``, zero padding, and neither stride nor dilation.
    circulant : Embedding
        No shorter than `circulant.shortest`.
    cover : Cover
        Of the symbol's frequencies on that circulant; its open cells are single points.
    highest : DeflatedModes
        The waves that are taken out at these.
    bound : float
        What is to be proven.
    """
    if max((*spec.stride, *spec.dilation), default=1) > 1:
        raise HypothesisError("overlaps of waves are known of layers without stride and dilation")
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
    """t: a bound of the circulant's symbols where nothing is taken out, and the limit for the rest where waves are.

    Raises
    ------
    HypothesisError
        If the circulant is too short for the layer, or other frequencies are open than those where waves are taken out.
    """
    covered = Circulant.of(circulant.points, circulant.skew, spec.block_kernel_shape)
    # The waves have as many points along an axis with one tap as along others.
    of_waves = Circulant(circulant.points, circulant.skew)
    if spec.groups != 1 or not is_long_enough(spec, of_waves) or cover.what != covered:
        raise HypothesisError(f"the layer is no compression of the {covered}, of the {cover.what} as it is")
    open_boxes = cover.open.boxes
    if open_boxes.divisible.any() or not first_of_mirrored(open_boxes.centres).same_as(highest.points):
        raise HypothesisError("what is taken out is not at the frequencies that the cover leaves open")
    return host.inflate(cover.beside_open().value * (1 + _MORE), 2)


def rest_below(kernel: Array, highest: DeflatedModes, limit: float, *, ops: ArrayOps) -> bool:
    """Whether ``||G - X Y*|| <= limit`` is proven at every point, and so at its mirror image.

    Taken off the limit: the symbol's error, and `product_error` of the product and the difference times
    ``||X||_F ||Y||_F + ||G||_F``; off its square: that of the Gram matrix.

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
        terms = norms.frobenius_up(x, xp=xp) * norms.frobenius_up(y, xp=xp) + symbol_norm
    else:
        rest, terms = symbol, symbol_norm
    # The product and the difference are rounded, and so are the norms of the terms.
    relative = rounding.SLACK * rounding.product_error(most_waves + 2, symbol, xp=xp)
    rest_error = rounding.up(terms, 4, xp=xp) * relative + symbol_error
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
    """X and Y by points, (f, most, first) and (f, most, second), most the largest number of waves of a point.

    Points with fewer waves have zeros in their place.
    """
    xp = ops.xp
    count, wave_count = len(highest.points), len(highest.point)
    most = int(np.bincount(highest.point, minlength=count).max(initial=0))
    # Number of the wave in each slot; empty slots have that of a row of zeros at the end.
    slots = np.full((count, most), wave_count)
    if most:
        slots[highest.point, _ranks(highest.point)] = np.arange(wave_count)

    def in_slots(rows: Array) -> Array:
        with_zeros = xp.concat([rows, xp.zeros_like(rows[:1, :])], axis=0)
        return xp.reshape(arrays.rows(with_zeros, slots.reshape(-1), ops=ops), (*slots.shape, rows.shape[1]))

    return in_slots(highest.x), in_slots(highest.y)


def _ranks(numbers: np.ndarray) -> np.ndarray:
    """For each of some numbers, how many before it are equal."""
    order = np.argsort(numbers, kind="stable")
    counts = np.bincount(numbers)
    first_of_number = np.cumsum(counts) - counts
    ranks = np.empty(len(numbers), dtype=np.int64)
    ranks[order] = np.arange(len(numbers)) - first_of_number[numbers[order]]
    return ranks


class WaveGram:
    """``(L*L + R*R) / 2`` of the waves that are taken out, those at mirror images included.

    An entry of L*L is an inner product of channels times a sum over the outputs of each axis. The error of the matrix
    is at most ``||X||_F**2 / 2``, and ``||Y||_F**2 / 2`` for R*R, times the sum of `product_error` of the inner product
    and ``sqrt(2) (phase error + gamma(n + 8))`` an axis.

    Parameters
    ----------
    spec : ConvSpec
        Of one group, with ``input_shape``, zero padding, and neither stride nor dilation.
    circulant : Embedding
        That the layer is a compression of.

    Attributes
    ----------
    numerators : integer array, shape (w, d)
        Frequencies of the waves.
    y : array, shape (w, second)
    matrix : array, shape (w, w)
        As computed.
    error : float
        Bound of the norm of its error.
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
        before = [before for before, _ in spec.padding]
        of_outputs, output_error = self._half(x, small, before, circulant, ops=ops)
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
        channels : array, shape (w, channels)
            X or Y.
        sizes, shifts : sequences of int
            Outputs or pixels of each axis, and where the circulant has the first.
        """
        xp = ops.xp
        u = rounding.unit(channels, xp=xp)
        gram = xp.matmul(xp.conj(channels), xp.matrix_transpose(channels))
        for axis, (size, shift) in enumerate(zip(sizes, shifts, strict=True)):
            gram = gram * _overlaps(self.numerators[:, axis], circulant, axis, size, shift, gram, ops=ops)
        norm_sq = float(rounding.up(norms.frobenius_up(channels, xp=xp) ** 2, 2, xp=xp))
        # Each overlap is a sum of n rounded phases and a quotient; then the overlaps are multiplied.
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
    """``sum_x e^{i delta (x - shift)} / N`` over n positions, delta of each pair of frequencies, shape (w, w)."""
    points = circulant.points[axis]
    # Numerators of a skew axis are odd, of turns of 2 N: differences are whole steps.
    step = 2 if circulant.skew[axis] else 1
    steps_apart = ((numerators[None, :] - numerators[:, None]) // step) % points
    cos, sin = cos_sin(np.outer(np.arange(points), np.arange(n) - shift), points)
    real = cos.sum(axis=1) / points
    imag = sin.sum(axis=1) / points
    return ops.complex(
        ops.from_numpy(real[steps_apart].astype(np.float64), like),
        ops.from_numpy(imag[steps_apart].astype(np.float64), like),
    )
