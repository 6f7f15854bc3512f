"""Two right vectors of each matrix of a stack, moved towards the first singular vectors by a Chebyshev filter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from specnorm.backends import arrays
from specnorm.training.grid_vectors import placed

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps

_DEGREE = 8
"""Degree of the filter in a step: eight products with the matrix and its transpose."""
_CUT = 0.97
"""Squared singular values below this part of the second vector's are damped. Muon's updates press tens of singular
values to within 5 % of the largest: the filter multiplies a squared value 2 % above the cut by 4.8, a power step by
1.02."""
_LEAST_CUT = 0.9
"""Least cut, as a part of the mean squared singular value, which is at most the largest one."""
_RESCALED = 4
"""Number of products after which the filter is rescaled, so that it cannot overflow."""
_FORMED = 64
"""Smaller side up to which K^T K is formed. Then one product replaces two, which counts where calls take most of the
time. On devices it is formed for every matrix."""
_SHORT, _LONG = 0.5, 2.0
"""Squared lengths outside of which vectors begin anew: averages of several states are short."""
_TINY = 1e-30
"""Added to what is divided by."""


def start(matrices: Array, *, ops: ArrayOps) -> Array:
    """Random orthonormal vectors, the same for each matrix, shape (b, p, 2), or (b, 1, 1) where p is 1."""
    count, _, p = matrices.shape

    def basis(dtype: type[np.floating]) -> tuple[np.ndarray]:
        return (np.linalg.qr(arrays.random_vectors(0, (p, min(2, p))).real)[0].astype(dtype),)

    (columns,) = placed(("matrix start", p), basis, matrices, ops=ops)
    return ops.xp.broadcast_to(columns, (count, *columns.shape))


def step(matrices: Array, vectors: Array, *, ops: ArrayOps) -> tuple[Array, Array]:
    """Filter the vectors once, and turn them in their plane so that the first has the longest image (Rayleigh-Ritz).

    The filter is the Chebyshev polynomial of degree `_DEGREE` in K^T K, for the interval from 0 to a cut just below the
    least squared length of an image of the vectors. That length is at most the second singular value, whatever the
    vectors are, so the components of both first singular vectors grow.

    Parameters
    ----------
    matrices : array, shape (b, m, p)
        Real.
    vectors : array, shape (b, p, 2)
        Orthonormal, or (b, p, 1) where p is 1. Zero and non-finite vectors begin anew.

    Returns
    -------
    vectors : array, shape (b, p, 2)
        Orthonormal.
    images : array, shape (b, m, 2)
        ``K v`` of both.
    """
    xp = ops.xp
    if matrices.shape[2] == 1:
        ones = xp.ones_like(vectors)
        return ones, matrices * ones
    squares = xp.sum(vectors * vectors, axis=1, keepdims=True)
    is_usable = xp.all((squares > _SHORT) & (squares < _LONG), axis=2, keepdims=True)
    vectors = _filtered(matrices, xp.where(is_usable, vectors, start(matrices, ops=ops)), ops=ops)
    first = _unit(vectors[:, :, :1], ops=ops)
    second = vectors[:, :, 1:]
    for _ in range(2):  # nearly parallel vectors leave rounding errors
        second = _unit(second - first * xp.sum(first * second, axis=1, keepdims=True), ops=ops)
    basis = xp.concat([first, second], axis=2)
    images = xp.matmul(matrices, basis)
    turn = _first_of_two(images, ops=ops)
    return xp.matmul(basis, turn), xp.matmul(images, turn)


def _filtered(matrices: Array, vectors: Array, *, ops: ArrayOps) -> Array:
    """The vectors after the filter, of unit length."""
    xp = ops.xp
    transposed = xp.matrix_transpose(matrices)
    images = xp.matmul(matrices, vectors)
    least = xp.min(xp.sum(images * images, axis=1, keepdims=True), axis=2, keepdims=True)
    mean_square = xp.sum(matrices * matrices, axis=(1, 2), keepdims=True) / matrices.shape[2]
    scale = 4.0 / (xp.maximum(_CUT * least, _LEAST_CUT * mean_square) + _TINY)
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


def _first_of_two(images: Array, *, ops: ArrayOps) -> Array:
    """The rotation (b, 2, 2) that turns two images (b, m, 2) so that they are orthogonal, the longest first."""
    xp = ops.xp
    gram = xp.matmul(xp.matrix_transpose(images), images)
    half_difference, coupling = 0.5 * (gram[:, 0, 0] - gram[:, 1, 1]), gram[:, 0, 1]
    # The angle of the rotation that diagonalises [[a, c], [c, b]] is half that of (a - b, 2 c).
    cos_twice = half_difference / (xp.sqrt(half_difference * half_difference + coupling * coupling) + _TINY)
    zeros = xp.zeros_like(cos_twice)
    cos = xp.sqrt(xp.maximum(0.5 + 0.5 * cos_twice, zeros))
    sin = xp.sqrt(xp.maximum(0.5 - 0.5 * cos_twice, zeros))
    sin = xp.where(coupling < 0, -sin, sin)
    return xp.stack([xp.stack([cos, -sin], axis=1), xp.stack([sin, cos], axis=1)], axis=1)


def _length(vectors: Array, *, ops: ArrayOps) -> Array:
    return ops.xp.sqrt(ops.xp.sum(vectors * vectors, axis=1, keepdims=True))


def _unit(vectors: Array, *, ops: ArrayOps) -> Array:
    return vectors / (_length(vectors, ops=ops) + _TINY)
