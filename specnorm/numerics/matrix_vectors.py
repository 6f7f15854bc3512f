"""One right vector of each matrix of a stack, moved towards the first singular vector by a Chebyshev filter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from specnorm import arrays
from specnorm.numerics.grid_vectors import placed

if TYPE_CHECKING:
    from specnorm.array_types import Array
    from specnorm.types import ArrayOps

_DEGREE = 12
"""Degree of the filter in a step: 12 products with the matrix and its transpose."""
_CUT = 0.97
"""Squared singular values below this part of the vector's own are damped. An optimiser that keeps many singular values
close, as Muon does, leaves tens of them within 5 % of the largest: the filter multiplies a squared value 2 % above the cut
by 11, and a power step by 1.02."""
_LEAST_CUT = 0.9
"""Least cut, as a part of the mean squared singular value, which is at most the largest one."""
_RESCALED = 4
"""Number of products after which the filter is rescaled, so that it cannot overflow."""
_FORMED = 64
"""Smaller side up to which K^T K is formed: then one product replaces two, which counts where calls take most of the time.
On devices it is formed for every matrix."""
_TINY = 1e-30
"""Added to what is divided by."""


def start(matrices: Array, *, ops: ArrayOps) -> Array:
    """The same random vector for each matrix, shape (b, p, 1)."""
    count, _, p = matrices.shape

    def vector(dtype: type[np.floating]) -> tuple[np.ndarray]:
        return (arrays.random_vectors(0, (p, 1)).real.astype(dtype),)

    (column,) = placed(("matrix start", p), vector, matrices, ops=ops)
    return ops.xp.broadcast_to(column, (count, p, 1))


def step(matrices: Array, vectors: Array, *, ops: ArrayOps) -> tuple[Array, Array, Array]:
    """Filter the vectors once, and return values, images and vectors.

    The filter is the Chebyshev polynomial of degree `_DEGREE` in K^T K, for the interval from 0 to a cut just below the
    squared length of the image of the present vector. That length is at most the norm, whatever the vector is.

    Parameters
    ----------
    matrices : array, shape (b, m, p)
        Real.
    vectors : array, shape (b, p, 1)
        Zero and non-finite vectors begin anew.

    Returns
    -------
    values : array, shape (b,)
        Lengths of the images, a lower bound of the norm up to rounding.
    left : array, shape (b, m, 1)
        The image, of unit length.
    right : array, shape (b, p, 1)
        The vector, of unit length.
    """
    xp = ops.xp
    vectors = _unit(vectors, ops=ops)
    is_unit = xp.sum(vectors * vectors, axis=1, keepdims=True) > 0.5
    vectors = xp.where(is_unit, vectors, _unit(start(matrices, ops=ops), ops=ops))
    if matrices.shape[2] > 1:
        vectors = _filtered(matrices, vectors, ops=ops)
    images = xp.matmul(matrices, vectors)
    return _length(images, ops=ops)[:, 0, 0], _unit(images, ops=ops), vectors


def _filtered(matrices: Array, vectors: Array, *, ops: ArrayOps) -> Array:
    """Unit vectors after the filter, from unit vectors."""
    xp = ops.xp
    transposed = xp.matrix_transpose(matrices)
    images = xp.matmul(matrices, vectors)
    mean_square = xp.sum(matrices * matrices, axis=(1, 2), keepdims=True) / matrices.shape[2]
    cut = xp.maximum(_CUT * xp.sum(images * images, axis=1, keepdims=True), _LEAST_CUT * mean_square)
    scale = 4.0 / (cut + _TINY)
    gram: Array | None = None
    if matrices.shape[2] <= _FORMED or ops.asynchronous:
        gram = xp.matmul(transposed, matrices) * scale

    def product(x: Array) -> Array:
        """``4 K^T K x / cut``."""
        return xp.matmul(transposed, xp.matmul(matrices, x)) * scale if gram is None else xp.matmul(gram, x)

    # The polynomials T_0 = 1, T_1 = y and T_j+1 = 2 y T_j - T_j-1, of y = 2 K^T K / cut - 1.
    previous, current = vectors, 0.5 * product(vectors) - vectors
    for j in range(1, _DEGREE):
        previous, current = current, product(current) - 2.0 * current - previous
        if j % _RESCALED == 0:
            length = _length(current, ops=ops) + _TINY
            previous, current = previous / length, current / length
    return _unit(current, ops=ops)


def _length(vectors: Array, *, ops: ArrayOps) -> Array:
    return ops.xp.sqrt(ops.xp.sum(vectors * vectors, axis=1, keepdims=True))


def _unit(vectors: Array, *, ops: ArrayOps) -> Array:
    return vectors / (_length(vectors, ops=ops) + _TINY)
