"""Claims about a layer itself at one input size: quotients, its Gram matrix, and sums of a few plane waves.

A wave is a product of one factor an axis, times a vector of channels. What tap k reads of it, and which outputs do, is
a product of one table an axis too; so inner products of images are sums over pairs of taps of products of small tables,
however many pixels there are. So is a lower bound of the norm of a zero-padded layer.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm import arrays
from specnorm.certified import host, rounding
from specnorm.certified.bound import HypothesisError, Lower, Upper, _lower, _upper
from specnorm.certified.layer.circulant import reads_zeros
from specnorm.certified.layer.uncut import SMALLEST
from specnorm.certified.matrices import norms
from specnorm.certified.matrices.norms import frobenius_up
from specnorm.certified.symbol import symbols
from specnorm.problem.taps import axis_tables, sizes_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from specnorm.array_types import Array
    from specnorm.certified.matrices.block_tridiagonal import BlockPlan, BlockTridiagonal
    from specnorm.problem.layer_map import Convolution
    from specnorm.problem.spec import ConvSpec
    from specnorm.types import ArrayOps


def quotients(layer: Convolution, vectors: Array, wide: bool, *, ops: ArrayOps) -> tuple[list[Lower], Array]:
    """A lower bound of each layer's norm from one vector each, as `ritz_values_down`, and the images (b, 1, size)."""
    values, images = ritz_values_down(layer, vectors, wide, ops=ops)
    found = ops.to_numpy(values[:, 0]).tolist()
    return [_lower(value, layer.spec, "quotient of a vector") for value in found], images


def ritz_values_down(layer: Convolution, vectors: Array, wide: bool, *, ops: ArrayOps) -> tuple[Array, Array]:
    """Lower bounds (b, k) of the k largest singular values, from k vectors, and their images as unit vectors.

    Parameters
    ----------
    vectors : array, shape (b, k, size)
        Inputs of the layer, or of its adjoint.
    wide : bool
        Whether they are inputs of the adjoint.
    """
    xp, (b, groups, *shape) = ops.xp, layer.kernels.shape
    images = layer.adjoint(vectors) if wide else layer.apply(vectors)
    # || |A| |x| || is at most || |A| || ||x||, and |A| a layer of the kernel's magnitudes.
    most = symbols.absolute_norm_up(xp.reshape(layer.kernels, (b * groups, *shape)), xp=xp)
    most = xp.max(xp.reshape(most, (b, groups)), axis=1) * host.root_up(layer.spec.padding_gain_sq)
    terms = rounding.up(most[:, None] * xp.linalg.vector_norm(vectors, axis=-1), vectors.shape[2] + 4, xp=xp)
    terms = terms[:, :, None]
    values = ritz_down(images, terms, vectors, layer.roundings[wide], ops=ops)
    return values, arrays.normalise(images, xp=xp)[0]


def ritz_down(images: Array, terms: Array, vectors: Array, count: int, *, ops: ArrayOps) -> Array:
    """Proven lower bounds of the k largest singular values of a linear map, from its action on k vectors.

    With the vectors as the columns of X, ``sigma_j(A) >= sigma_j(A X) / ||X||``; the computed image Y differs from A X
    by at most ``gamma(count) |A| |X|``; and the eigenvalues of Y*Y differ from its sorted diagonal by at most the norm
    of what lies off it (Weyl, twice). Sharp for orthogonal vectors with orthogonal images, which Ritz vectors are.

    Parameters
    ----------
    images : array, shape (b, k, m)
        A x as computed.
    terms : array, shape (b, k, any)
        ``|A| |x|``, computed by the same operations, or anything as long or longer.
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
    u = rounding.unit(images, xp=xp)
    lengths, roundings = _inner_products(vectors, ops=ops)
    eye = xp.eye(k, dtype=vectors.dtype, device=ops.device(vectors))
    mass = rounding.up(xp.linalg.trace(lengths), k + roundings, xp=xp)
    width = rounding.up(
        frobenius_up(lengths - eye, xp=xp) + 1 + mass * (rounding.SLACK * rounding.gamma(roundings + 2, u)), 4, xp=xp
    )
    gram, roundings = _inner_products(images, ops=ops)
    diagonal = xp.linalg.diagonal(gram)
    mass = rounding.up(xp.sum(diagonal, axis=-1), k + roundings, xp=xp)
    spread = rounding.up(
        frobenius_up(gram * (1 - eye), xp=xp) + mass * (rounding.SLACK * rounding.gamma(roundings + 2, u)), 4, xp=xp
    )
    tiny = float(xp.finfo(diagonal.dtype).smallest_normal)
    # Squares of small entries underflow, each by less than the smallest normal number.
    lowered = rounding.down(xp.sort(diagonal, axis=-1, descending=True), 2, xp=xp)
    squares = lowered - spread[:, None] - k * images.shape[2] * tiny
    values = rounding.down(xp.sqrt(xp.maximum(squares, xp.zeros_like(squares))), 2, xp=xp)
    total, roundings = _inner_products(terms, ops=ops)
    # The computed terms may be too small by a relative gamma(count) themselves.
    share = rounding.gamma(count, u) / (1 - rounding.gamma(count, u))
    total = xp.linalg.trace(total) + k * terms.shape[2] * tiny
    lost = rounding.up(xp.sqrt(rounding.up(total, k + roundings, xp=xp)), 2, xp=xp) * (rounding.SLACK * share)
    values = rounding.down((values - lost[:, None]) / rounding.up(xp.sqrt(width), 2, xp=xp)[:, None], 4, xp=xp)
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


def residuals_up(layer: Convolution, u: Array, v: Array, values: Array, *, ops: ArrayOps) -> Array:
    """How far a singular value is from each of some numbers at most, shape (b, k).

    ``[[0, A], [A*, 0]]`` has the singular values of A, up to sign, for eigenvalues, and one within
    ``||(A v - s u, A* u - s v)|| / ||(u, v)||`` of s.

    Parameters
    ----------
    u, v : arrays, shapes (b, k, outputs) and (b, k, inputs)
    values : array, shape (b, k)
        s.
    """
    xp = ops.xp
    s, unit, magnitude = values[:, :, None], rounding.unit(values, xp=xp), layer.absolute()

    def length(x: Array) -> Array:
        return rounding.up(xp.linalg.vector_norm(x, axis=-1), x.shape[-1], xp=xp)

    total, weight = xp.zeros_like(values), xp.zeros_like(values)
    sides = (
        (layer.apply(v), u, magnitude.apply(xp.abs(v)), layer.roundings[0]),
        (layer.adjoint(u), v, magnitude.adjoint(xp.abs(u)), layer.roundings[1]),
    )
    for image, other, terms, count in sides:
        # The product, and two operations on each entry.
        lost = rounding.SLACK * rounding.gamma(count + 4, unit) * (length(terms) + values * length(other))
        total = total + rounding.up(length(image - s * other) + lost, 4, xp=xp) ** 2
        weight = weight + rounding.down(xp.linalg.vector_norm(other, axis=-1), other.shape[-1], xp=xp) ** 2
    ratio = rounding.up(total, 4, xp=xp) / rounding.down(xp.where(weight > 0, weight, xp.ones_like(weight)), 4, xp=xp)
    return xp.where(weight > 0, rounding.up(xp.sqrt(ratio), 4, xp=xp), values)


def has_fewer_rows(spec: ConvSpec) -> bool:
    """Whether the convolution behind a layer of one group has fewer outputs than inputs at its size."""
    large, small = sizes_of(spec)
    first, second = spec.stored_channels
    return first * math.prod(small) < second * math.prod(large)


def smallest_quotients(layer: Convolution, vectors: Array, *, ops: ArrayOps) -> tuple[list[Upper], Array]:
    """Upper bounds of each layer's smallest singular value, ``||A x|| / ||x||`` of one vector each, and the images.

    The computed image differs from A x by at most ``gamma(n) |A| |x|``.

    Parameters
    ----------
    vectors : array, shape (b, 1, size)
        Of the smaller side of the convolution (`has_fewer_rows`).
    """
    xp, spec = ops.xp, layer.spec
    adjoint = has_fewer_rows(spec) is not spec.transposed
    magnitude = layer.absolute()
    images = layer.adjoint(vectors) if adjoint else layer.apply(vectors)
    terms = magnitude.adjoint(xp.abs(vectors)) if adjoint else magnitude.apply(xp.abs(vectors))
    count, unit = layer.roundings[adjoint], rounding.unit(images, xp=xp)

    def length(x: Array) -> list[float]:
        return [float(y) for y in ops.to_numpy(xp.linalg.vector_norm(x[:, 0, :], axis=-1))]

    found = []
    for image, lost, size in zip(length(images), length(terms), length(vectors), strict=True):
        if not size > 0:
            raise HypothesisError("a vector of zeros has no quotient")
        share = rounding.SLACK * rounding.gamma(count + 4, unit) / (1 - rounding.gamma(count, unit))
        value = host.inflate((image + share * lost) / size, 2 * max(layer.shape) + 8)
        found.append(_upper(value, (SMALLEST, spec), "quotient of a vector"))
    return found, arrays.normalise(images, xp=xp)[0]


def smallest_of_groups(spec: ConvSpec, groups: Sequence[tuple[Lower, Upper]]) -> tuple[Lower, Upper]:
    """A layer of groups has the smallest singular values of all of them."""
    from specnorm.certified.matrices.block_tridiagonal import of_one_group  # here: as in `LayerGram`

    single = (SMALLEST, of_one_group(spec))
    if len(groups) != spec.groups or any((low.what, high.what) != (single, single) for low, high in groups):
        raise HypothesisError(f"{len(groups)} pairs of bounds of {spec.groups} groups")
    if spec.groups == 1:
        return groups[0]
    low, high = (min((pair[side] for pair in groups), key=float) for side in (0, 1))
    rule = f"the smallest of {spec.groups} groups"
    return _lower(low.value, (SMALLEST, spec), rule, low), _upper(high.value, (SMALLEST, spec), rule, high)


def gram_error(layer: Convolution, roundings: int, size: int, *, ops: ArrayOps) -> tuple[Array, Array]:
    """Bound of the norm of what ``A*A``, or ``AA*``, is off as computed; and whether A is zero. Shapes (b,).

    Entries that are off by at most ``gamma(n) |A|* |A|`` make an error of at most gamma(n) times `magnitude_sq`. A is
    zero where every tap that is not zero reads nothing but padding.

    Parameters
    ----------
    roundings : int
        n; each may also underflow.
    size : int
        Of the Gram matrix.
    """
    xp, like = ops.xp, layer.kernels
    magnitude = magnitude_sq(layer, ops=ops)
    error = magnitude * (rounding.SLACK * rounding.gamma(roundings, rounding.unit(like, xp=xp)))
    return error + size * roundings * float(xp.finfo(like.dtype).smallest_normal), magnitude == 0


def magnitude_sq(layer: Convolution, *, ops: ArrayOps) -> Array:
    """Upper bound of ``|| |A| ||**2``: the largest row sum times the largest column sum, shape (b,)."""
    xp, like = ops.xp, layer.kernels
    b, magnitude = like.shape[0], layer.absolute()
    outputs, inputs = (xp.ones((b, 1, n), dtype=like.dtype, device=ops.device(like)) for n in layer.shape)
    row = rounding.up(xp.max(magnitude.apply(inputs), axis=(1, 2)), layer.roundings[0], xp=xp)
    column = rounding.up(xp.max(magnitude.adjoint(outputs), axis=(1, 2)), layer.roundings[1], xp=xp)
    return rounding.up(row * column, 2, xp=xp)


class LayerGram:
    """A*A or AA* of layers of one group, as computed, with what it is off.

    Parameters
    ----------
    layer : Convolution
        Of one group, with kernels scaled to about 1 and known values.
    """

    def __init__(self, layer: Convolution, plan: BlockPlan, *, ops: ArrayOps) -> None:
        if layer.spec.groups > 1:
            raise HypothesisError("the matrix of one group is not that of all groups")
        self._spec, self._plan, self._ops = layer.spec, plan, ops
        # Here: it is no part of what `import specnorm` needs.
        from specnorm.certified.matrices.block_tridiagonal import gram_blocks

        self.matrix, roundings = gram_blocks(layer.kernels[:, 0, ...], layer.spec, plan, ops=ops)
        self.error, empty = gram_error(layer, roundings, plan.lines * plan.entries, ops=ops)
        self._empty = ops.to_numpy(empty).tolist()

    def norms_near(self, targets: np.ndarray) -> list[Upper | None]:
        """Bounds of the norms, each just above its target (b,); None where there is no proof."""
        xp, rule = self._ops.xp, f"factorisation of its Gram matrix, {self._plan.blocks} times {self._plan.size} rows"
        values = norm_up_near(self.matrix, self.error, self._ops.from_numpy(targets, self.error), ops=self._ops)
        largest = float(xp.finfo(values.dtype).max)
        found = self._ops.to_numpy(values).tolist()
        return [_upper(value, self._spec, rule) if value < largest else None for value in found]

    def smallest_near(self, eigenvalues: np.ndarray, top: float) -> list[Lower]:
        """Lower bounds of the smallest singular values, each just below the root of an eigenvalue of the matrix (b,).

        A factorisation proves that no eigenvalue of ``c I - H`` is above a limit; so none of H is below c less that
        limit. Both may be off: a poor guess only makes the proof fail, and 0 is returned.

        Parameters
        ----------
        top : float
            c: about the largest eigenvalue; any number is as true.
        """
        xp, gram = self._ops.xp, self.matrix.diagonal[:, 0, :, :]
        size, smaller = gram.shape[-1], "wide" if self._plan.wide else "tall"
        if self._plan.blocks > 1 or self._plan.wide is not has_fewer_rows(self._spec):
            raise HypothesisError(f"the {smaller} Gram matrix in {self._plan.blocks} blocks has other eigenvalues")
        eye = self._ops.from_numpy(np.eye(size), gram)
        shifted = top * eye - gram
        rounded = float(xp.max(xp.abs(shifted))) * rounding.unit(gram, xp=xp)
        allowance = 1 + 2 * size * norms.cholesky_loss(size, gram, xp=xp)
        limits = np.maximum((top - eigenvalues) * allowance, top * 2.0**-40)
        proven = self._ops.to_numpy(norms.gram_below(shifted, self._ops.from_numpy(limits, gram), ops=self._ops))
        errors = self._ops.to_numpy(self.error).tolist()
        rule = f"factorisation of its Gram matrix, {size} rows"
        found = []
        for limit, complete, error in zip(limits.tolist(), proven.tolist(), errors, strict=True):
            square = host.sub_down(top, host.add_up(limit, error, host.inflate(rounded, 4))) if complete else 0.0
            found.append(_lower(host.sqrt_down(square), (SMALLEST, self._spec), rule))
        return found

    def or_zero(self, norms: list[Upper | None]) -> list[Upper | None]:
        """With those of layers that are zero: nothing can be proven about 0 by a factorisation, or needs to be."""
        zero = _upper(0.0, self._spec, "no tap reads a pixel")
        return [zero if empty else norm for norm, empty in zip(norms, self._empty, strict=True)]


def norm_up_near(band: BlockTridiagonal, error: Array, target: Array, *, ops: ArrayOps) -> Array:
    """The target raised by a rounding or two where it is proven to bound the norm, the largest number elsewhere.

    Parameters
    ----------
    band : BlockTridiagonal
        A*A or AA* as computed.
    error : array, shape (b,)
        From `gram_error`.
    target : array, shape (b,)
    """
    xp = ops.xp
    largest = xp.full_like(target, float(xp.finfo(target.dtype).max))
    limit = rounding.down(target**2 - error, 4, xp=xp)
    usable = limit > 0
    limit = xp.where(usable, limit, xp.ones_like(limit))
    if band.diagonal.shape[1] == 1:
        proven = norms.gram_below(band.diagonal[:, 0, :, :], limit, ops=ops)
        return xp.where(proven & usable, rounding.up(target, 4, xp=xp), largest)
    from specnorm.certified.matrices.block_tridiagonal import largest_eigenvalue_up  # here: as above

    proven_sq = largest_eigenvalue_up(band, limit, ops=ops)
    bounded = usable & (proven_sq < xp.finfo(target.dtype).max)
    root = xp.sqrt(xp.where(bounded, proven_sq + error, xp.ones_like(error)))
    return xp.where(bounded, rounding.up(root, 4, xp=xp), largest)


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
