"""Lower bounds of a layer's largest singular values at one input size, from vectors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from specnorm.backends import arrays
from specnorm.proofs import host, norms, rounding
from specnorm.proofs.bound import Lower
from specnorm.symbols.proofs.polynomial import Polynomial

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.layer_map import Convolution


def quotients(
    layer: Convolution,
    vectors: Array,
    vectors_are_outputs: bool,
    *,
    ops: ArrayOps,
) -> tuple[list[Lower], Array]:
    """Lower bounds of the norms of b layers by one vector for each layer: `ritz_values_down` with k = 1, as claims.

    Returns ``bounds``: one for each layer; ``images`` (b, 1, size): the images of the vectors, as unit vectors.
    """
    values, images = ritz_values_down(layer, vectors, vectors_are_outputs, ops=ops)
    largest = ops.to_numpy(values[:, 0]).tolist()
    return [Lower._by_rule(value, layer.spec, "quotient of a vector") for value in largest], images


def ritz_values_down(
    layer: Convolution,
    vectors: Array,
    vectors_are_outputs: bool,
    *,
    ops: ArrayOps,
) -> tuple[Array, Array]:
    """Lower bounds of the k largest singular values of each of b layers, from k vectors for each layer.

    ``vectors`` (b, k, size): any vectors, near unit length. ``vectors_are_outputs``: whether the vectors are outputs of
    the layer, to which the adjoint is applied; else they are inputs. Returns ``values`` (b, k): descending; ``images``
    (b, k, size of the other side): the images of the vectors, as unit vectors.
    """
    xp = ops.xp
    b, groups, *shape = layer.kernels.shape
    forward_roundings, backward_roundings = layer.roundings
    if vectors_are_outputs:
        images = layer.adjoint(vectors)
        roundings = backward_roundings
    else:
        images = layer.apply(vectors)
        roundings = forward_roundings
    # || |A| |x| || <= || |A| || ||x||, and |A| is the layer with the magnitudes of the kernel.
    by_group = Polynomial(xp.reshape(layer.kernels, (b * groups, *shape)), xp=xp).absolute_norm_up
    absolute_symbol_norm = xp.max(xp.reshape(by_group, (b, groups)), axis=1)
    # The root of `padding_gain_sq` bounds the ratio of the layer's norm to that of its symbols.
    absolute_norm = absolute_symbol_norm * host.root_up(layer.spec.padding_gain_sq)
    lengths = xp.linalg.vector_norm(vectors, axis=-1)
    # The roundings: those of the length, one for the gain, one for the product, two to spare.
    absolute_image_lengths = rounding.up(absolute_norm[:, None] * lengths, vectors.shape[2] + 4, xp=xp)
    values = ritz_down(images, absolute_image_lengths[:, :, None], vectors, roundings, ops=ops)
    unit_images, _ = arrays.normalise(images, xp=xp)
    return values, unit_images


def ritz_down(
    images: Array,
    magnitudes: Array,
    vectors: Array,
    image_roundings: int,
    *,
    ops: ArrayOps,
) -> Array:
    """Proven lower bounds of the k largest singular values of a linear map A, from its action on k vectors.

    With the vectors as the columns of X, ``sigma_j(A) >= sigma_j(A X) / ||X||``. The computed image Y differs from A X
    by at most ``gamma(image_roundings) |A| |X|``, entry by entry. The eigenvalues of Y*Y differ from its sorted
    diagonal entries by at most the norm of its off-diagonal part (Weyl). Sharp if the vectors are orthogonal and their
    images too, as they are for singular vectors.

    ``images`` (b, k, m): Y: the images A x as computed. ``magnitudes`` (b, k, any): ``|A| |x|``, computed by the same
    operations. Only its 2-norm is used, so a vector of one entry, an upper bound of that norm, will do. ``vectors`` (b,
    k, n): x: any vectors, near unit length. ``image_roundings``: number of roundings of an entry of an image. Returns
    (b, k): Descending; the first is a lower bound of the norm.
    """
    xp = ops.xp
    k = images.shape[1]
    unit_roundoff = rounding.unit(images, xp=xp)
    # Squares of small entries underflow, each by less than the smallest normal number.
    tiny = float(xp.finfo(images.dtype).smallest_normal)
    eye = xp.eye(k, dtype=vectors.dtype, device=ops.device(vectors))
    # ||X||**2 <= 1 + ||X* X - I||
    gram, roundings = _inner_products(vectors, ops=ops)
    relative_error = rounding.SLACK * rounding.gamma(roundings + 2, unit_roundoff)
    gram_error = rounding.up(xp.linalg.trace(gram), k + roundings, xp=xp) * relative_error
    # The roundings: the difference, the two sums, and the product in the error.
    norm_sq = rounding.up(norms.frobenius_up(gram - eye, xp=xp) + 1 + gram_error, 4, xp=xp)
    # The j-th eigenvalue of Y* Y is at least its j-th largest diagonal entry less the norm of the off-diagonal part.
    gram, roundings = _inner_products(images, ops=ops)
    diagonal = xp.linalg.diagonal(gram)
    relative_error = rounding.SLACK * rounding.gamma(roundings + 2, unit_roundoff)
    gram_error = rounding.up(xp.sum(diagonal, axis=-1), k + roundings, xp=xp) * relative_error
    off_diagonal = rounding.up(norms.frobenius_up(gram * (1 - eye), xp=xp) + gram_error, 4, xp=xp)
    # Lowered before the two subtractions: each rounds by at most u of its result, which is no larger than the entry.
    descending = rounding.down(xp.sort(diagonal, axis=-1, descending=True), 2, xp=xp)
    squares = descending - off_diagonal[:, None] - k * images.shape[2] * tiny
    image_values = rounding.down(xp.sqrt(xp.maximum(squares, xp.zeros_like(squares))), 2, xp=xp)
    # ||Y - A X||
    gram, roundings = _inner_products(magnitudes, ops=ops)
    total = xp.linalg.trace(gram) + k * magnitudes.shape[2] * tiny
    magnitudes_norm = rounding.up(xp.sqrt(rounding.up(total, k + roundings, xp=xp)), 2, xp=xp)
    # The computed magnitudes may themselves be too small, by a relative error of gamma.
    gamma = rounding.gamma(image_roundings, unit_roundoff)
    image_error = magnitudes_norm * (rounding.SLACK * (gamma / (1 - gamma)))
    norm = rounding.up(xp.sqrt(norm_sq), 2, xp=xp)
    # The roundings: the product in the error, the difference and the quotient.
    values = rounding.down((image_values - image_error[:, None]) / norm[:, None], 4, xp=xp)
    return xp.maximum(values, xp.zeros_like(values))


def _inner_products(vectors: Array, *, ops: ArrayOps) -> tuple[Array, int]:
    """Gram matrices (b, k, k) of vectors (b, k, n), and the number of roundings of each entry.

    Each inner product is a sum of about sqrt(n) partial sums, so that it has about 2 sqrt(n) roundings instead of n.
    """
    xp = ops.xp
    b, k, n = vectors.shape
    part_size = max(1, math.isqrt(n))
    parts = arrays.ceil_div(n, part_size)
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
    """Upper bounds (b, k) of the distance of numbers s from the nearest singular value of a layer A.

    The eigenvalues of ``[[0, A], [A*, 0]]`` are the singular values of A and their negatives (and zeros). One of them
    lies within ``||(A v - s u, A* u - s v)|| / ||(u, v)||`` of s.

    ``u``, ``v`` (b, k, outputs) and (b, k, inputs): approximate left and right singular vectors; any are valid. For
    vectors of zeros the bound is infinite. If the layer is zero, it is s. ``values`` (b, k): s, not negative.
    """
    xp = ops.xp
    unit_roundoff = rounding.unit(values, xp=xp)
    absolute_layer = layer.absolute()
    forward_roundings, backward_roundings = layer.roundings

    # Squares of small entries underflow, each by less than the smallest normal number.
    tiny = float(xp.finfo(values.dtype).smallest_normal)

    def length_up(x: Array) -> Array:
        return rounding.up(xp.linalg.vector_norm(x, axis=-1) + math.sqrt(x.shape[-1] * tiny), x.shape[-1] + 2, xp=xp)

    def residual_up(image: Array, other: Array, absolute_image: Array, roundings: int) -> Array:
        """Upper bound of ``||A v - s u||`` (image A v, other u), or of ``||A* u - s v||`` (image A* u, other v)."""
        # Four roundings more than the image has: two for the product with s and for the difference, two to spare.
        relative_error = rounding.SLACK * rounding.gamma(roundings + 4, unit_roundoff)
        error = relative_error * (length_up(absolute_image) + values * length_up(other))
        # The roundings: two products and two sums.
        return rounding.up(length_up(image - values[:, :, None] * other) + error, 4, xp=xp)

    def length_down(x: Array) -> Array:
        return rounding.down(xp.linalg.vector_norm(x, axis=-1), x.shape[-1], xp=xp)

    residual_sq = (
        residual_up(layer.apply(v), u, absolute_layer.apply(xp.abs(v)), forward_roundings) ** 2
        + residual_up(layer.adjoint(u), v, absolute_layer.adjoint(xp.abs(u)), backward_roundings) ** 2
    )
    length_sq = length_down(u) ** 2 + length_down(v) ** 2
    is_nonzero = length_sq > 0
    safe_length_sq = xp.where(is_nonzero, length_sq, xp.ones_like(length_sq))
    # The roundings of each sum of two squares are two; those of the root of the quotient, too.
    ratio = rounding.up(residual_sq, 4, xp=xp) / rounding.down(safe_length_sq, 4, xp=xp)
    is_zero_layer = xp.all(xp.reshape(layer.kernels == 0, (layer.kernels.shape[0], -1)), axis=1)
    distance = xp.where(is_nonzero, rounding.up(xp.sqrt(ratio), 4, xp=xp), xp.full_like(values, math.inf))
    return xp.where(is_zero_layer[:, None], values, distance)


def gram_error(
    layer: Convolution,
    roundings: int,
    size: int,
    *,
    ops: ArrayOps,
) -> tuple[Array, Array]:
    """Bound the norm of the rounding error of the Gram matrix ``A*A`` (or ``AA*``) of each of b layers.

    Entry (i, j) has an error of at most gamma(n) times entry (i, j) of ``|A|* |A|``. So the error's norm is at most
    gamma(n) times ``|| |A|* |A| ||``, which `absolute_norm_sq_up` bounds. (For AA*, ``|A| |A|*`` has the same norm.)

    ``roundings``: n: the number of roundings of an entry, each of which may also underflow. ``size``: number of rows of
    the Gram matrix. Returns ``error`` (b,); ``is_zero`` (b,): whether A is zero, that is, no nonzero tap reads a pixel.
    """
    xp = ops.xp
    kernels = layer.kernels
    absolute_norm_sq = absolute_norm_sq_up(layer, ops=ops)
    relative_error = rounding.SLACK * rounding.gamma(roundings, rounding.unit(kernels, xp=xp))
    underflow = size * roundings * float(xp.finfo(kernels.dtype).smallest_normal)
    return absolute_norm_sq * relative_error + underflow, absolute_norm_sq == 0


def absolute_norm_sq_up(layer: Convolution, *, ops: ArrayOps) -> Array:
    """Upper bound (b,) of ``|| |A| ||**2``: the largest row sum times the largest column sum of ``|A|``.

    It is 0 only if A is zero: a product that underflows is replaced by the smallest normal number.
    """
    xp = ops.xp
    kernels = layer.kernels
    absolute_layer = layer.absolute()
    forward_roundings, backward_roundings = layer.roundings
    output_size, input_size = layer.shape

    def ones(size: int) -> Array:
        return xp.ones((kernels.shape[0], 1, size), dtype=kernels.dtype, device=ops.device(kernels))

    row = rounding.up(xp.max(absolute_layer.apply(ones(input_size)), axis=(1, 2)), forward_roundings, xp=xp)
    column = rounding.up(xp.max(absolute_layer.adjoint(ones(output_size)), axis=(1, 2)), backward_roundings, xp=xp)
    return rounding.kept_positive(rounding.up(row * column, 2, xp=xp), row, eager=False, xp=xp)
