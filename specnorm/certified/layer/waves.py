"""Sums of a few plane waves on the pixels of a zero-padded layer: their images, without a pass over its pixels.

A wave is a product of one factor an axis, times a vector of channels. What tap k reads of it, and which outputs do, is
a product of one table an axis too; so inner products of images are sums over pairs of taps of products of small tables,
however many pixels there are. So is a lower bound of the layer's norm.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm import arrays
from specnorm.certified import host, rounding
from specnorm.certified.bound import HypothesisError, Lower, _lower
from specnorm.certified.layer.circulant import reads_zeros
from specnorm.problem.layer_map import sizes_of
from specnorm.problem.taps import axis_tables

if TYPE_CHECKING:
    from specnorm.problem.spec import ConvSpec
    from specnorm.types import Array, ArrayOps


class Waves:
    """Sums ``x(c, v) = sum_w a_w(c) prod_j E_j[w_j, v_j]`` over all combinations w of one factor an axis.

    Parameters
    ----------
    kernel : array, shape (1, first, second, *kernel_shape)
        Of one group, in torch's order; the waves are on the large side, with the second channels.
    spec : ConvSpec
        Of one group, with ``input_shape``, zero padding, and neither stride nor dilation.
    factors : list of complex arrays, shape (f_j, n_j)
        E, taken as exact.

    Attributes
    ----------
    count : int
        How many waves there are.
    roundings : int
        A squared norm is off by at most ``sqrt(2) gamma(2 n)`` times the same of the magnitudes: each of its terms is a
        product of numbers that are given, and passes through so many operations, those of the tables with it.
    """

    def __init__(self, kernel: Array, spec: ConvSpec, factors: list[np.ndarray], *, ops: ArrayOps) -> None:
        if spec.groups > 1 or max((*spec.stride, *spec.dilation), default=1) > 1 or not reads_zeros(spec):
            raise HypothesisError("images of waves are known of one group without stride and dilation that reads zeros")
        self.ops, self.xp, self.kernel, self.spec = ops, ops.xp, kernel, spec
        large, small = sizes_of(spec)
        self._held: list[np.ndarray] = []
        self._read: list[np.ndarray] = []
        # Sums of magnitudes: the magnitudes of sums may be far smaller.
        self._magnitudes: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        held, read = self._magnitudes
        axes = zip(factors, large, small, spec.kernel_shape, spec.padding, strict=True)
        for factor, n, m, k, (before, _) in axes:
            reads = axis_tables(n, m, k, 1, 1, before, "zeros")
            seen = np.concatenate([factor, np.zeros((len(factor), 1))], axis=1)[:, reads].reshape(-1, m)
            for tables, sizes, x in ((self._held, held, factor), (self._read, read, seen)):
                tables.append(x.conj() @ x.T)
                sizes.append(np.abs(x) @ np.abs(x).T)
        self.each = tuple(len(factor) for factor in factors)
        self.count = math.prod(self.each)
        lengths = sum(
            n + m + f * (1 + k) for f, n, m, k in zip(self.each, large, small, spec.kernel_shape, strict=True)
        )
        first, second = kernel.shape[1:3]
        self.roundings = 2 * second + lengths + (first + second) * self.count * math.prod(spec.kernel_shape) + 8

    def magnitude(self) -> Waves:
        """The same with the absolute values of all that is given: what rounding errors are measured by."""
        other = object.__new__(Waves)
        held, read = self._magnitudes
        other.__dict__.update(self.__dict__, kernel=self.xp.abs(self.kernel), _held=held, _read=read)
        return other

    def inner(self, a: Array) -> Array:
        """Inner products (b, b) of some sums of waves, from their channels (b, count, second)."""
        xp = self.xp
        x = xp.reshape(xp.permute_dims(a, (0, 2, 1)), (a.shape[0], a.shape[2], *self.each))
        flat, image = (xp.reshape(y, (a.shape[0], -1)) for y in (x, self._met(x, self._held)))
        return xp.matmul(xp.conj(flat), xp.matrix_transpose(image))

    def images(self, a: Array) -> tuple[Array, Array]:
        """Y and C Y, shapes (b, first, f_1 k_1, ..., f_d k_d), for some sums: ``<A x, A x'>`` is ``<Y, C Y'>``."""
        xp, (_, first, second, *taps) = self.xp, self.kernel.shape
        b, d = a.shape[0], len(taps)
        flat = xp.permute_dims(xp.reshape(self.kernel, (first, second, -1)), (2, 0, 1))
        columns = xp.reshape(xp.permute_dims(a, (2, 0, 1)), (second, -1))
        y = xp.reshape(xp.matmul(xp.astype(flat, columns.dtype), columns), (*taps, first, b, *self.each))
        order = [d + 1, d, *(axis for j in range(d) for axis in (d + 2 + j, j))]
        merged = [f * k for f, k in zip(self.each, taps, strict=True)]
        y = xp.reshape(xp.permute_dims(y, tuple(order)), (b, first, *merged))
        return y, self._met(y, self._read)

    def image_inner(self, a: Array) -> Array:
        """Inner products (b, b) of the images of some sums."""
        xp = self.xp
        y, met = (xp.reshape(x, (a.shape[0], -1)) for x in self.images(a))
        return xp.matmul(xp.conj(y), xp.matrix_transpose(met))

    def gradient(self, a: Array) -> Array:
        """Gradient of half the squared norm of one sum's image with respect to the kernel, shape (1, first, ...)."""
        xp, (_, first, second, *taps) = self.xp, self.kernel.shape
        d = len(taps)
        _, met = self.images(a)
        split = [n for f, k in zip(self.each, taps, strict=True) for n in (f, k)]
        met = xp.reshape(met, (first, *split))
        order = [0, *(2 + 2 * j for j in range(d)), *(1 + 2 * j for j in range(d))]
        met = xp.reshape(xp.permute_dims(met, tuple(order)), (-1, self.count))
        found = xp.real(xp.matmul(xp.conj(met), a[0, ...]))
        found = xp.reshape(found, (first, *taps, second))
        return xp.permute_dims(found, (0, d + 1, *range(1, d + 1)))[None, ...]

    def _met(self, x: Array, tables: list[np.ndarray]) -> Array:
        """One table an axis applied to arrays (b, c, *axes)."""
        xp, ops = self.xp, self.ops
        for j, table in enumerate(tables):
            parts = (
                ops.from_numpy(np.ascontiguousarray(part, dtype=np.float64), self.kernel)
                for part in (table.real, table.imag)
            )
            matrix = xp.astype(ops.complex(*parts), x.dtype) if arrays.is_complex(x, xp=xp) else next(parts)
            order = (*(i for i in range(x.ndim) if i != 2 + j), 2 + j)
            turned = xp.matmul(xp.permute_dims(x, order), xp.matrix_transpose(matrix))
            x = xp.permute_dims(turned, arrays.inverse_permutation(order))
        return x


def norm_by_waves(waves: Waves, a: Array, *, ops: ArrayOps) -> Lower:
    """`quotient_of_waves_down`, which bounds the layer."""
    return _lower(quotient_of_waves_down(waves, a, ops=ops), waves.spec, "quotient of a sum of plane waves")


def quotient_of_waves_down(waves: Waves, a: Array, *, ops: ArrayOps) -> float:
    """``||A x|| / ||x||`` of a sum of waves, rounded down: at most the norm of the layer.

    Both squares are sums of products, each off by at most ``sqrt(2) gamma(2 n)`` times the same sum of magnitudes.

    Parameters
    ----------
    a : array, shape (1, count, second)
        Its channels; any.
    """
    xp = ops.xp
    u = rounding.unit(a, xp=xp)
    share = math.sqrt(2) * rounding.gamma(2 * waves.roundings, u)
    magnitude, size = waves.magnitude(), xp.abs(a)
    squares = []
    for found, total in ((waves.image_inner(a), magnitude.image_inner(size)), (waves.inner(a), magnitude.inner(size))):
        square = float(xp.real(found)[0, 0])
        lost = host.inflate(float(xp.real(total)[0, 0]) * rounding.SLACK * share / (1 - share), 4)
        squares.append((square, lost))
    (image, lost), (length, more) = squares
    above, below = host.sub_down(image, lost), host.add_up(length, more)
    if not (above > 0 and 0 < below < math.inf):
        return 0.0
    return host.sqrt_down(host.div_down(above, below))
