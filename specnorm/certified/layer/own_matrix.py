"""Bounds of a layer's singular values at one input size: quotients of vectors, and its Gram matrix, factorised."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm import arrays
from specnorm.certified import host, rounding
from specnorm.certified.bound import HypothesisError, Lower, Upper, _lower, _upper
from specnorm.certified.layer.uncut import SMALLEST
from specnorm.certified.matrices import norms
from specnorm.certified.matrices.norms import frobenius_up
from specnorm.certified.symbol import symbols
from specnorm.problem.taps import sizes_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from specnorm.array_types import Array
    from specnorm.certified.matrices.block_tridiagonal import BlockPlan, BlockTridiagonal
    from specnorm.problem.layer_map import Convolution
    from specnorm.problem.spec import ConvSpec
    from specnorm.types import ArrayOps


def quotients(
    layer: Convolution,
    vectors: Array,
    of_outputs: bool,
    *,
    ops: ArrayOps,
) -> tuple[list[Lower], Array]:
    """A lower bound of each layer's norm from one vector each, as `ritz_values_down`, and the images (b, 1, size)."""
    values, images = ritz_values_down(layer, vectors, of_outputs, ops=ops)
    return [_lower(value, layer.spec, "quotient of a vector") for value in ops.to_numpy(values[:, 0]).tolist()], images


def ritz_values_down(
    layer: Convolution,
    vectors: Array,
    of_outputs: bool,
    *,
    ops: ArrayOps,
) -> tuple[Array, Array]:
    """Lower bounds (b, k) of the k largest singular values, from k vectors, and their images as unit vectors.

    Parameters
    ----------
    vectors : array, shape (b, k, size)
        Inputs of the layer, or of its adjoint.
    of_outputs : bool
        Whether they are inputs of the adjoint: outputs of the layer.
    """
    xp = ops.xp
    b, groups, *shape = layer.kernels.shape
    forward_roundings, backward_roundings = layer.roundings
    if of_outputs:
        images, roundings = layer.adjoint(vectors), backward_roundings
    else:
        images, roundings = layer.apply(vectors), forward_roundings
    # || |A| |x| || is at most || |A| || ||x||, and |A| a layer of the kernel's magnitudes.
    by_group = symbols.absolute_norm_up(xp.reshape(layer.kernels, (b * groups, *shape)), xp=xp)
    of_symbol = xp.max(xp.reshape(by_group, (b, groups)), axis=1)
    magnitude_norm = of_symbol * host.root_up(layer.spec.padding_gain_sq)
    lengths = xp.linalg.vector_norm(vectors, axis=-1)
    terms = rounding.up(magnitude_norm[:, None] * lengths, vectors.shape[2] + 4, xp=xp)[:, :, None]
    values = ritz_down(images, terms, vectors, roundings, ops=ops)
    unit_images, _ = arrays.normalise(images, xp=xp)
    return values, unit_images


def ritz_down(
    images: Array,
    terms: Array,
    vectors: Array,
    count: int,
    *,
    ops: ArrayOps,
) -> Array:
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
    # Squares of small entries underflow, each by less than the smallest normal number.
    tiny = float(xp.finfo(images.dtype).smallest_normal)
    eye = xp.eye(k, dtype=vectors.dtype, device=ops.device(vectors))
    # ||X||**2 <= 1 + ||X* X - 1||
    gram, roundings = _inner_products(vectors, ops=ops)
    relative = rounding.SLACK * rounding.gamma(roundings + 2, u)
    gram_error = rounding.up(xp.linalg.trace(gram), k + roundings, xp=xp) * relative
    norm_sq = rounding.up(frobenius_up(gram - eye, xp=xp) + 1 + gram_error, 4, xp=xp)
    # Eigenvalues of Y* Y, of at least its diagonal less the norm of the rest.
    gram, roundings = _inner_products(images, ops=ops)
    diagonal = xp.linalg.diagonal(gram)
    relative = rounding.SLACK * rounding.gamma(roundings + 2, u)
    gram_error = rounding.up(xp.sum(diagonal, axis=-1), k + roundings, xp=xp) * relative
    off_diagonal = rounding.up(frobenius_up(gram * (1 - eye), xp=xp) + gram_error, 4, xp=xp)
    descending = rounding.down(xp.sort(diagonal, axis=-1, descending=True), 2, xp=xp)
    squares = descending - off_diagonal[:, None] - k * images.shape[2] * tiny
    image_values = rounding.down(xp.sqrt(xp.maximum(squares, xp.zeros_like(squares))), 2, xp=xp)
    # ||Y - A X||
    gram, roundings = _inner_products(terms, ops=ops)
    total = xp.linalg.trace(gram) + k * terms.shape[2] * tiny
    terms_norm = rounding.up(xp.sqrt(rounding.up(total, k + roundings, xp=xp)), 2, xp=xp)
    # The computed terms may be too small by a relative gamma(count) themselves.
    relative = rounding.gamma(count, u) / (1 - rounding.gamma(count, u))
    image_error = terms_norm * (rounding.SLACK * relative)
    norm = rounding.up(xp.sqrt(norm_sq), 2, xp=xp)
    values = rounding.down((image_values - image_error[:, None]) / norm[:, None], 4, xp=xp)
    return xp.maximum(values, xp.zeros_like(values))


def _inner_products(vectors: Array, *, ops: ArrayOps) -> tuple[Array, int]:
    """Gram matrices (b, k, k) of vectors (b, k, n), and the number of roundings of each entry.

    The sum is taken in about sqrt(n) parts, whose roundings add up instead of multiplying.
    """
    xp = ops.xp
    b, k, n = vectors.shape
    part_size = max(1, math.isqrt(n))
    parts = -(-n // part_size)
    missing = parts * part_size - n
    if missing:
        zeros = xp.zeros((b, k, missing), dtype=vectors.dtype, device=ops.device(vectors))
        vectors = xp.concat([vectors, zeros], axis=2)
    by_part = xp.permute_dims(xp.reshape(vectors, (b, k, parts, part_size)), (0, 2, 1, 3))
    return xp.sum(xp.matmul(by_part, xp.matrix_transpose(by_part)), axis=1), part_size + parts


def residuals_up(
    layer: Convolution,
    u: Array,
    v: Array,
    values: Array,
    *,
    ops: ArrayOps,
) -> Array:
    """Bounds (b, k) of the distance of some numbers from the nearest singular value.

    ``[[0, A], [A*, 0]]`` has the singular values of A, up to sign, for eigenvalues, and one within
    ``||(A v - s u, A* u - s v)|| / ||(u, v)||`` of s.

    Parameters
    ----------
    u, v : arrays, shapes (b, k, outputs) and (b, k, inputs)
    values : array, shape (b, k)
        s.
    """
    xp = ops.xp
    unit = rounding.unit(values, xp=xp)
    magnitude = layer.absolute()
    forward_roundings, backward_roundings = layer.roundings

    def length_up(x: Array) -> Array:
        return rounding.up(xp.linalg.vector_norm(x, axis=-1), x.shape[-1], xp=xp)

    def residual_up(image: Array, other: Array, terms: Array, roundings: int) -> Array:
        """Length of ``A v - s u``, or of ``A* u - s v``; the product, and two operations on each entry, are rounded."""
        relative = rounding.SLACK * rounding.gamma(roundings + 4, unit)
        error = relative * (length_up(terms) + values * length_up(other))
        return rounding.up(length_up(image - values[:, :, None] * other) + error, 4, xp=xp)

    def length_down(x: Array) -> Array:
        return rounding.down(xp.linalg.vector_norm(x, axis=-1), x.shape[-1], xp=xp)

    residual_sq = (
        residual_up(layer.apply(v), u, magnitude.apply(xp.abs(v)), forward_roundings) ** 2
        + residual_up(layer.adjoint(u), v, magnitude.adjoint(xp.abs(u)), backward_roundings) ** 2
    )
    length_sq = length_down(u) ** 2 + length_down(v) ** 2
    is_vector = length_sq > 0
    safe_length_sq = xp.where(is_vector, length_sq, xp.ones_like(length_sq))
    ratio = rounding.up(residual_sq, 4, xp=xp) / rounding.down(safe_length_sq, 4, xp=xp)
    return xp.where(is_vector, rounding.up(xp.sqrt(ratio), 4, xp=xp), values)


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
    magnitude = layer.absolute()
    forward_roundings, backward_roundings = layer.roundings
    # The smaller side of the convolution is that of the layer's outputs, or, if it is transposed, of its inputs.
    of_outputs = has_fewer_rows(spec) is not spec.transposed
    if of_outputs:
        images, terms = layer.adjoint(vectors), magnitude.adjoint(xp.abs(vectors))
        roundings = backward_roundings
    else:
        images, terms = layer.apply(vectors), magnitude.apply(xp.abs(vectors))
        roundings = forward_roundings
    unit = rounding.unit(images, xp=xp)
    relative = rounding.SLACK * rounding.gamma(roundings + 4, unit) / (1 - rounding.gamma(roundings, unit))

    def lengths(x: Array) -> list[float]:
        return [float(length) for length in ops.to_numpy(xp.linalg.vector_norm(x[:, 0, :], axis=-1))]

    bounds = []
    for image_length, terms_length, length in zip(lengths(images), lengths(terms), lengths(vectors), strict=True):
        if not length > 0:
            raise HypothesisError("a vector of zeros has no quotient")
        quotient = (image_length + relative * terms_length) / length
        bound = host.inflate(quotient, 2 * max(layer.shape) + 8)
        bounds.append(_upper(bound, (SMALLEST, spec), "quotient of a vector"))
    unit_images, _ = arrays.normalise(images, xp=xp)
    return bounds, unit_images


def smallest_of_groups(spec: ConvSpec, groups: Sequence[tuple[Lower, Upper]]) -> tuple[Lower, Upper]:
    """Bounds of the smallest singular value of a layer of groups: the smallest of those of all groups."""
    from specnorm.certified.matrices.block_tridiagonal import of_one_group  # not at the top: as in `LayerGram`

    subject = (SMALLEST, of_one_group(spec))
    speak_of_groups = all(bound.what == subject for pair in groups for bound in pair)
    if len(groups) != spec.groups or not speak_of_groups:
        raise HypothesisError(f"{len(groups)} pairs of bounds of {spec.groups} groups")
    if spec.groups == 1:
        return groups[0]
    lower = min((lower for lower, _ in groups), key=float)
    upper = min((upper for _, upper in groups), key=float)
    rule = f"the smallest of {spec.groups} groups"
    return _lower(lower.value, (SMALLEST, spec), rule, lower), _upper(upper.value, (SMALLEST, spec), rule, upper)


def gram_error(
    layer: Convolution,
    roundings: int,
    size: int,
    *,
    ops: ArrayOps,
) -> tuple[Array, Array]:
    """Bound of the norm of the error of ``A*A``, or ``AA*``, as computed; and whether A is zero. Shapes (b,).

    If each entry has an error of at most ``gamma(n) |A|* |A|``, the matrix has one of at most gamma(n) times
    `magnitude_sq`. A is zero where every tap that is not zero reads nothing but padding.

    Parameters
    ----------
    roundings : int
        n; each may also underflow.
    size : int
        Of the Gram matrix.
    """
    xp = ops.xp
    kernels = layer.kernels
    magnitude = magnitude_sq(layer, ops=ops)
    relative = rounding.SLACK * rounding.gamma(roundings, rounding.unit(kernels, xp=xp))
    underflow = size * roundings * float(xp.finfo(kernels.dtype).smallest_normal)
    return magnitude * relative + underflow, magnitude == 0


def magnitude_sq(layer: Convolution, *, ops: ArrayOps) -> Array:
    """Upper bound of ``|| |A| ||**2``: the largest row sum times the largest column sum, shape (b,)."""
    xp = ops.xp
    kernels = layer.kernels
    magnitude = layer.absolute()
    forward_roundings, backward_roundings = layer.roundings
    output_size, input_size = layer.shape

    def ones(size: int) -> Array:
        return xp.ones((kernels.shape[0], 1, size), dtype=kernels.dtype, device=ops.device(kernels))

    row = rounding.up(xp.max(magnitude.apply(ones(input_size)), axis=(1, 2)), forward_roundings, xp=xp)
    column = rounding.up(xp.max(magnitude.adjoint(ones(output_size)), axis=(1, 2)), backward_roundings, xp=xp)
    return rounding.up(row * column, 2, xp=xp)


class LayerGram:
    """A*A or AA* of layers of one group, as computed, with a bound of its error.

    Parameters
    ----------
    layer : Convolution
        Of one group, with kernels scaled to about 1 and known values.

    Attributes
    ----------
    matrix : BlockTridiagonal
        As computed.
    error : array, shape (b,)
        Bound of the norm of its error.
    """

    def __init__(self, layer: Convolution, plan: BlockPlan, *, ops: ArrayOps) -> None:
        if layer.spec.groups > 1:
            raise HypothesisError("the matrix of one group is not that of all groups")
        # Not at the top of the file: it is no part of what `import specnorm` needs.
        from specnorm.certified.matrices.block_tridiagonal import gram_blocks

        self._spec = layer.spec
        self._plan = plan
        self._ops = ops
        self.matrix, roundings = gram_blocks(layer.kernels[:, 0, ...], layer.spec, plan, ops=ops)
        self.error, is_zero = gram_error(layer, roundings, plan.lines * plan.entries, ops=ops)
        self._is_zero: list[bool] = ops.to_numpy(is_zero).tolist()

    def norms_near(self, targets: np.ndarray) -> list[Upper | None]:
        """Bounds of the norms, each just above its target (b,); None where there is no proof."""
        xp = self._ops.xp
        bounds = norm_up_near(self.matrix, self.error, self._ops.from_numpy(targets, self.error), ops=self._ops)
        no_proof = float(xp.finfo(bounds.dtype).max)
        rule = f"factorisation of its Gram matrix, {self._plan.blocks} times {self._plan.size} rows"
        return [
            _upper(bound, self._spec, rule) if bound < no_proof else None
            for bound in self._ops.to_numpy(bounds).tolist()
        ]

    def smallest_near(self, eigenvalues: np.ndarray, top: float) -> list[Lower]:
        """Lower bounds of the smallest singular values, each just below the root of an eigenvalue of the matrix (b,).

        A factorisation proves that no eigenvalue of ``c I - H`` is above a limit; so none of H is below c less that
        limit. A poor guess of the eigenvalue, or of c, only makes the proof fail, and 0 is returned.

        Parameters
        ----------
        top : float
            c: about the largest eigenvalue; the proof is valid for any number.
        """
        xp = self._ops.xp
        gram = self.matrix.diagonal[:, 0, :, :]
        size = gram.shape[-1]
        if self._plan.blocks > 1 or self._plan.wide is not has_fewer_rows(self._spec):
            side = "wide" if self._plan.wide else "tall"
            raise HypothesisError(f"the {side} Gram matrix in {self._plan.blocks} blocks has other eigenvalues")
        eye = self._ops.from_numpy(np.eye(size), gram)
        shifted = top * eye - gram
        shift_error = host.inflate(float(xp.max(xp.abs(shifted))) * rounding.unit(gram, xp=xp), 4)
        allowance = 1 + 2 * size * norms.cholesky_loss(size, gram, xp=xp)
        limits = np.maximum((top - eigenvalues) * allowance, top * 2.0**-40)
        proven = self._ops.to_numpy(norms.gram_below(shifted, self._ops.from_numpy(limits, gram), ops=self._ops))
        errors = self._ops.to_numpy(self.error)
        rule = f"factorisation of its Gram matrix, {size} rows"
        bounds = []
        for limit, is_proven, error in zip(limits.tolist(), proven.tolist(), errors.tolist(), strict=True):
            square = 0.0
            if is_proven:
                square = host.sub_down(top, host.add_up(limit, error, shift_error))
            bounds.append(_lower(host.sqrt_down(square), (SMALLEST, self._spec), rule))
        return bounds

    def or_zero(self, norms: list[Upper | None]) -> list[Upper | None]:
        """The norms, with 0 for the layers that are zero, whose norm no factorisation can prove."""
        zero = _upper(0.0, self._spec, "no tap reads a pixel")
        return [zero if is_zero else norm for norm, is_zero in zip(norms, self._is_zero, strict=True)]


def norm_up_near(
    band: BlockTridiagonal,
    error: Array,
    target: Array,
    *,
    ops: ArrayOps,
) -> Array:
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
    no_proof = float(xp.finfo(target.dtype).max)
    limit = rounding.down(target**2 - error, 4, xp=xp)
    is_usable = limit > 0
    limit = xp.where(is_usable, limit, xp.ones_like(limit))
    if band.diagonal.shape[1] == 1:
        is_proven = norms.gram_below(band.diagonal[:, 0, :, :], limit, ops=ops) & is_usable
        bound = target
    else:
        from specnorm.certified.matrices.block_tridiagonal import largest_eigenvalue_up  # as in `LayerGram`

        proven_sq = largest_eigenvalue_up(band, limit, ops=ops)
        is_proven = is_usable & (proven_sq < no_proof)
        bound = xp.sqrt(xp.where(is_proven, proven_sq + error, xp.ones_like(error)))
    return xp.where(is_proven, rounding.up(bound, 4, xp=xp), xp.full_like(target, no_proof))
