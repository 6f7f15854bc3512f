"""A lower bound of a layer's norm at one input size by an input that is a sum of a few waves.

A *wave* in this module is a vector of channels times a product of one function of each axis (a *factor*). A plane wave
has the factors e^{i theta v}; others are allowed. The values that tap k reads are, as a function of the output, again a
product of one function of each axis. So inner products of waves, and of their images, are sums over pairs of taps of
products of small Gram matrices of one axis each; their cost does not grow with the number of pixels.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm.backends import arrays
from specnorm.geometry.taps import Axis, in_parts
from specnorm.proofs import host, rounding
from specnorm.proofs.bound import HypothesisError, Lower

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec


class Waves:
    """Sums ``x(c, v) = sum_w a_w(c) prod_j E_j[w_j, v_j]`` over all choices w of one factor for each axis.

    Parameters
    ----------
    kernel : array, shape (1, first, second, *kernel_shape)
        The kernel of one group, in torch's order. The waves are functions on the large side of the convolution
        (`ConvSpec.sides`), which has ``second`` channels.
    spec : ConvSpec
        The geometry of that group, with ``input_shape``, zero padding, and neither stride nor dilation.
    factors : list of complex arrays, shape (f_j, n_j)
        For each axis j, f_j factors E_j at the n_j pixels. Any numbers are valid, so their own rounding does not count.
    magnitudes : bool
        Whether the magnitudes of the factors take their place.

    Attributes
    ----------
    factors : list of complex arrays, shape (f_j, n_j)
        As given.
    factor_counts : tuple of int
        f_j for each axis.
    count : int
        Number of waves: the product of all f_j.
    roundings : int
        Number n of roundings of a term of a computed squared norm, those of the tables included: the error of the
        squared norm is at most ``sqrt(2) gamma(2 n)`` times the sum of the magnitudes of all terms, which are complex
        (see `rounding.product_error`).
    """

    def __init__(
        self,
        kernel: Array,
        spec: ConvSpec,
        factors: list[np.ndarray],
        *,
        magnitudes: bool = False,
        ops: ArrayOps,
    ) -> None:
        if spec.groups > 1 or max((*spec.stride, *spec.dilation), default=1) > 1 or not spec.reads_zeros:
            raise HypothesisError("images of waves need one group, no stride or dilation, and zeros as padding")
        self.ops = ops
        self.xp = ops.xp
        self.kernel = kernel
        self.spec = spec
        self.factors = factors
        self.factor_counts = tuple(len(factor) for factor in factors)
        self.count = math.prod(self.factor_counts)
        # For each axis: inner products (f_j, f_j) of the factors over the pixels; and (f_j k_j, f_j k_j), over the
        # outputs, of what each tap reads of each factor, row-major in (factor, tap).
        self._grams_of_factors: list[np.ndarray] = []
        self._grams_of_reads: list[np.ndarray] = []
        large, small = spec.sides
        table_roundings = 0
        axes = zip(factors, large, small, spec.kernel_shape, spec.padding, strict=True)
        for factor, pixels, outputs, taps, (before, _) in axes:
            axis = Axis(pixels, outputs, taps, stride=1, dilation=1, before=before)
            gram_of_factors, gram_of_reads = _grams(factor, axis, magnitudes)
            self._grams_of_factors.append(gram_of_factors)
            self._grams_of_reads.append(gram_of_reads)
            # Sums over pixels or outputs in an entry of the tables, and the products with the tables, whose rows have
            # f_j entries (factors) or f_j k_j (reads).
            table_roundings += pixels + outputs + len(factor) * (1 + taps)
        first, second = kernel.shape[1:3]
        # The last sum, over all entries of x (second channels) or of Y in `image_factors` (first channels).
        sum_roundings = (first + second) * self.count * math.prod(spec.kernel_shape)
        # Twice a sum over the second channels: an entry of Y, and of the other factor. 8 are to spare.
        self.roundings = 2 * second + table_roundings + sum_roundings + 8

    def magnitude(self) -> Waves:
        """The same sums with the magnitudes of kernel and factors: rounding errors are bounded by multiples of them."""
        return Waves(self.xp.abs(self.kernel), self.spec, self.factors, magnitudes=True, ops=self.ops)

    def inner(self, a: Array) -> Array:
        """Inner products (b, b) of b sums of waves, given by their coefficients a (b, count, second)."""
        xp = self.xp
        b, _, second = a.shape
        by_axis = xp.reshape(xp.permute_dims(a, (0, 2, 1)), (b, second, *self.factor_counts))
        weighted = self._along_axes(by_axis, self._grams_of_factors)
        return self._products(by_axis, weighted)

    def image_factors(self, a: Array) -> tuple[Array, Array]:
        """Arrays Y and C Y for b sums x of waves, such that ``<A x, A x'> = <Y, C Y'>`` for two of the sums.

        Y holds the products of the kernel's taps with the coefficients, and C applies the tables of what taps read.
        Both have the shape (b, first, f_1 k_1, ..., f_d k_d).
        """
        xp = self.xp
        _, first, second, *taps = self.kernel.shape
        b, d = a.shape[0], len(taps)
        by_tap = xp.permute_dims(xp.reshape(self.kernel, (first, second, -1)), (2, 0, 1))
        columns = xp.reshape(xp.permute_dims(a, (2, 0, 1)), (second, -1))
        products = xp.matmul(xp.astype(by_tap, columns.dtype), columns)
        y = xp.reshape(products, (*taps, first, b, *self.factor_counts))
        # (taps, first, b, factors) -> (b, first, f_1 k_1, ..., f_d k_d)
        order = [d + 1, d]
        for j in range(d):
            order += [d + 2 + j, j]
        merged = [factors * k for factors, k in zip(self.factor_counts, taps, strict=True)]
        y = xp.reshape(xp.permute_dims(y, tuple(order)), (b, first, *merged))
        return y, self._along_axes(y, self._grams_of_reads)

    def image_inner(self, a: Array) -> Array:
        """Inner products (b, b) of the layer's images of b sums of waves, given by their coefficients."""
        return self._products(*self.image_factors(a))

    def gradient(self, a: Array) -> Array:
        """Gradient of half the squared norm of the image of one sum (1, count, second), in the kernel's shape."""
        xp = self.xp
        _, first, second, *taps = self.kernel.shape
        d = len(taps)
        _, weighted = self.image_factors(a)
        shape = [first]
        for factors, k in zip(self.factor_counts, taps, strict=True):
            shape += [factors, k]
        tap_axes = range(2, 2 + 2 * d, 2)
        factor_axes = range(1, 1 + 2 * d, 2)
        # (first, f_1, k_1, ..., f_d, k_d) -> (first, taps, factors)
        weighted = xp.permute_dims(xp.reshape(weighted, tuple(shape)), (0, *tap_axes, *factor_axes))
        by_wave = xp.reshape(weighted, (-1, self.count))
        gradient = xp.reshape(xp.real(xp.matmul(xp.conj(by_wave), a[0, ...])), (first, *taps, second))
        # (first, taps, second) -> (1, first, second, taps)
        return xp.permute_dims(gradient, (0, d + 1, *range(1, d + 1)))[None, ...]

    def _products(self, x: Array, y: Array) -> Array:
        """Inner products (b, b) of all pairs from two stacks of b arrays."""
        xp = self.xp
        b = x.shape[0]
        return xp.matmul(xp.conj(xp.reshape(x, (b, -1))), xp.matrix_transpose(xp.reshape(y, (b, -1))))

    def _along_axes(self, x: Array, tables: list[np.ndarray]) -> Array:
        """Multiply arrays (b, c, *axes) along each axis by its table."""
        xp = self.xp
        for j, table in enumerate(tables):
            matrix = self._from_host(table.real)
            if arrays.is_complex(x, xp=xp):
                matrix = xp.astype(self.ops.complex(matrix, self._from_host(table.imag)), x.dtype)
            axis = 2 + j
            order = (*(i for i in range(x.ndim) if i != axis), axis)
            product = xp.matmul(xp.permute_dims(x, order), xp.matrix_transpose(matrix))
            x = xp.permute_dims(product, arrays.inverse_permutation(order))
        return x

    def _from_host(self, table: np.ndarray) -> Array:
        return self.ops.from_numpy(np.ascontiguousarray(table, dtype=np.float64), self.kernel)


def _grams(factors: np.ndarray, axis: Axis, magnitudes: bool) -> tuple[np.ndarray, np.ndarray]:
    """Inner products of an axis's factors over its pixels, and of what each tap reads of each over its outputs.

    Both are sums over parts of the axis: a long one does not fit the memory as often as there are taps. Tap t of output
    m reads pixel m + t - before: the axis has neither stride nor dilation.
    """
    count, pixels = factors.shape
    of_factors = np.zeros((count, count), dtype=np.complex128)
    of_reads = np.zeros((count * axis.taps, count * axis.taps), dtype=np.complex128)

    def wide(part: np.ndarray) -> np.ndarray:
        part = part.astype(np.complex128)
        return np.abs(part) if magnitudes else part

    for first, end in in_parts(pixels):
        part = wide(factors[:, first:end])
        of_factors += part.conj() @ part.T
    for first, last in in_parts(axis.outputs):
        outputs = last - first
        begin, end = first - axis.before, last - axis.before + axis.taps - 1
        pixels_read = slice(max(begin, 0), max(min(end, pixels), 0))
        with_zeros = np.zeros((count, end - begin), dtype=np.complex128)
        with_zeros[:, pixels_read.start - begin : pixels_read.stop - begin] = wide(factors[:, pixels_read])
        read = np.lib.stride_tricks.sliding_window_view(with_zeros, outputs, axis=1).reshape(count * axis.taps, outputs)
        of_reads += read.conj() @ read.T
    return of_factors, of_reads


def norm_by_waves(waves: Waves, a: Array, *, ops: ArrayOps) -> Lower:
    """The lower bound `quotient_of_waves_down` of the layer's norm, as a claim."""
    return Lower._by_rule(quotient_of_waves_down(waves, a, ops=ops), waves.spec, "quotient of a sum of plane waves")


def quotient_of_waves_down(waves: Waves, a: Array, *, ops: ArrayOps) -> float:
    """``||A x|| / ||x||`` for a sum x of waves, rounded down: a lower bound of the layer's norm.

    Both squared norms have the error bound of `Waves.roundings`.

    ``a`` (1, count, second): coefficients of the sum; any.
    """
    xp = ops.xp
    relative = math.sqrt(2) * rounding.gamma(2 * waves.roundings, rounding.unit(a, xp=xp))
    magnitude = waves.magnitude()
    magnitude_of_a = xp.abs(a)

    def number(x: Array) -> float:
        return float(xp.real(x)[0, 0])

    def error_up(sum_of_magnitudes: Array) -> float:
        # The computed sum of magnitudes may itself be too small by the same relative error. Of the four roundings of
        # this line, three are used: two products and the quotient.
        return host.inflate(number(sum_of_magnitudes) * rounding.SLACK * relative / (1 - relative), 4)

    image_sq = host.sub_down(number(waves.image_inner(a)), error_up(magnitude.image_inner(magnitude_of_a)))
    length_sq = host.add_up(number(waves.inner(a)), error_up(magnitude.inner(magnitude_of_a)))
    if not (image_sq > 0 and 0 < length_sq < math.inf):
        return 0.0
    return host.sqrt_down(host.div_down(image_sq, length_sq))
