"""Claims about a layer itself at one input size: quotients and its Gram matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

from specnorm.linalg import arrays
from specnorm.proof import matrices, rounding

if TYPE_CHECKING:
    from specnorm.linalg.layer_map import Convolution
    from specnorm.types import Array, ArrayOps


def ritz_values_down(layer: Convolution, vectors: Array, wide: bool, *, ops: ArrayOps) -> tuple[Array, Array]:
    """Lower bounds (b, k) of the k largest singular values, from k vectors, and their images as unit vectors.

    Parameters
    ----------
    layer : Convolution
    vectors : array, shape (b, k, size)
        Inputs of the layer, or of its adjoint.
    wide : bool
        Whether they are inputs of the adjoint.
    """
    xp = ops.xp
    magnitude = layer.absolute()
    images = layer.adjoint(vectors) if wide else layer.apply(vectors)
    terms = magnitude.adjoint(xp.abs(vectors)) if wide else magnitude.apply(xp.abs(vectors))
    values = matrices.ritz_down(images, terms, vectors, layer.roundings[wide], ops=ops)
    return values, arrays.normalise(images, xp=xp)[0]


def gram_matrix(layer: Convolution, wide: bool, *, ops: ArrayOps) -> tuple[Array, Array, Array]:
    """A*A, or AA* for a wide layer, by applying the layer to unit vectors; a bound of its error's norm, (b,).

    And whether A is zero, (b,): every tap that is not may read nothing but padding.

    Two products with n roundings in all are off by at most ``gamma(n) |A|* |A|`` entry by entry, and the norm of
    ``|A|`` is at most the root of its largest row sum times its largest column sum.
    """
    xp = ops.xp
    b, size = layer.kernels.shape[0], min(layer.shape)
    like = layer.kernels
    eye = xp.eye(size, dtype=like.dtype, device=ops.device(like))
    step = max(1, ops.memory // (8 * b * max(layer.shape) * 8))
    rows = []
    for start in range(0, size, step):
        units = xp.broadcast_to(eye[start : min(start + step, size), :], (b, min(step, size - start), size))
        rows.append(layer.apply(layer.adjoint(units)) if wide else layer.adjoint(layer.apply(units)))
    magnitude = layer.absolute()
    outputs, inputs = (xp.ones((b, 1, n), dtype=like.dtype, device=ops.device(like)) for n in layer.shape)
    row = rounding.up(xp.max(magnitude.apply(inputs), axis=(1, 2)), layer.roundings[0], xp=xp)
    column = rounding.up(xp.max(magnitude.adjoint(outputs), axis=(1, 2)), layer.roundings[1], xp=xp)
    count = sum(layer.roundings)
    error = rounding.up(row * column, 2, xp=xp) * (rounding.SLACK * rounding.gamma(count, rounding.unit(like, xp=xp)))
    # And each product may underflow.
    error = error + size * count * float(xp.finfo(like.dtype).smallest_normal)
    return xp.concat(rows, axis=1), error, row == 0


def norm_up_near(matrix: Array, error: Array, target: Array, *, ops: ArrayOps) -> Array:
    """The target raised by a rounding or two where it is proven to bound the norm, the largest number elsewhere.

    Parameters
    ----------
    matrix, error : arrays, shapes (b, n, n) and (b,)
        From `gram_matrix`.
    target : array, shape (b,)
    """
    xp = ops.xp
    limit = rounding.down(target**2 - error, 4, xp=xp)
    usable = limit > 0
    proven = matrices.gram_below(matrix, xp.where(usable, limit, xp.ones_like(limit)), ops=ops)
    bound = rounding.up(target, 4, xp=xp)
    return xp.where(proven & usable, bound, xp.full_like(bound, float(xp.finfo(bound.dtype).max)))
