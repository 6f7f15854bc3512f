"""Two right vectors of each matrix of a stack, moved towards the first singular vectors by a Chebyshev filter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from specnorm.backends import arrays
from specnorm.training.grid_vectors import fresh_vectors, placed

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps

_DEGREE = 12
"""Degree of the filter in a step: twelve products with the matrix and its transpose. With degree 8, a linear layer
under Adam 1e-3 was at 1.012 in one of 120 steps, with degree 12 at 1.008."""
_CUT = 0.97
"""Squared singular values below this part of the second vector's are damped. Muon's updates press tens of singular
values to within 5 % of the largest: the filter multiplies a squared value 2 % above the cut by 11, a power step by
1.02."""
_LEAST_CUT = 0.9
"""Least cut, as a part of the mean squared singular value, which is at most the largest one."""
_RESCALED = 4
"""Number of products after which the filter is rescaled, so that it cannot overflow."""
_FORMED = 64
"""Smaller side up to which K^T K is formed. Then one product replaces two, which counts where calls take most of the
time. On devices it is formed for every matrix."""
_SQUARINGS = 9
"""Squarings of a small Gram matrix."""
_SHORT = 0.5
"""Vectors shorter than this begin anew: averages of several states are short."""
_LONG = 2.0
"""Vectors longer than this begin anew, too."""
_TINY = 1e-30
"""Added to what is divided by."""


def exact(matrices: Array, *, ops: ArrayOps) -> tuple[Array, Array, Array]:
    """Norm and unit vectors of matrices by squarings of the Gram matrix.

    ``(A^T A)^512``: each of its columns is the result of that many power steps, so the longest one is within 1e-3 of
    the norm, however close the singular values are.

    Parameters
    ----------
    matrices : array, shape (b, m, p)
        Real; p is small.

    Returns
    -------
    value : array, shape (b,)
    left : array, shape (b, m, 1)
    right : array, shape (b, p, 1)
    """
    xp, p = ops.xp, matrices.shape[2]
    if p == 1:
        length = _length(matrices, ops=ops)
        return length[:, 0, 0], matrices / (length + _TINY), xp.ones_like(length)
    transposed = xp.matrix_transpose(matrices)
    images = xp.matmul(matrices, _top_of_powers(xp.matmul(transposed, matrices), ops=ops))
    left = images / (_length(images, ops=ops) + _TINY)
    value, right = _value_and_unit(xp.matmul(transposed, left), ops=ops)
    return value, left, right


def _value_and_unit(vectors: Array, *, ops: ArrayOps) -> tuple[Array, Array]:
    """Lengths (b,) of vectors (b, p, 1), and the vectors divided by them."""
    length = _length(vectors, ops=ops)
    return length[:, 0, 0], vectors / (length + _TINY)


def _top_of_powers(gram: Array, *, ops: ArrayOps) -> Array:
    """The longest column (b, p, 1) of a power ``G^(2^squarings)``, up to a factor."""
    xp = ops.xp
    for j in range(_SQUARINGS):
        if j % _RESCALED == 0:
            # The largest entry of a positive semidefinite matrix is on its diagonal.
            gram = gram / (xp.max(gram, axis=(1, 2), keepdims=True) + _TINY)
        gram = xp.matmul(gram, gram)
    best = xp.argmax(xp.max(gram, axis=1), axis=1)
    return arrays.pick(gram, best, xp=xp)[:, :, None]


def start(matrices: Array, *, ops: ArrayOps) -> Array:
    """Random orthonormal vectors, the same for each matrix, shape (b, p, 2); where p is 1, two numbers."""
    count, _, p = matrices.shape

    def basis(dtype: type[np.floating]) -> tuple[np.ndarray]:
        return (np.linalg.qr(arrays.random_vectors(0, (max(p, 2), 2)).real)[0][:p].astype(dtype),)

    (columns,) = placed(("matrix start", p), basis, matrices, ops=ops)
    return ops.xp.broadcast_to(columns, (count, *columns.shape))


def step(matrices: Array, vectors: Array, change: Array | None = None, *, ops: ArrayOps) -> tuple[Array, Array]:
    """Filter the vectors once, and turn them in their plane so that the first has the longest image (Rayleigh-Ritz).

    The filter is the Chebyshev polynomial of degree `_DEGREE` in K^T K, for the interval from 0 to a cut just below the
    least squared length of an image of the vectors. That length is at most the second singular value, whatever the
    vectors are, so the components of both first singular vectors grow.

    Parameters
    ----------
    matrices : array, shape (b, m, p)
        Real.
    vectors : array, shape (b, p, 2)
        Orthonormal; where p is 1 they are not read. Zero and non-finite vectors begin anew.
    change : array, shape (b, m, s), optional
        Products of a change of the matrices with some vectors, in any scale. A third vector begins in the direction of
        the change: a singular vector that grows, but has no part in the two, would be seen some steps later.

    Returns
    -------
    vectors : array, shape (b, p, 2)
        Orthonormal; if the filter leaves one direction, as for a matrix of rank one, the second may be shorter.
    images : array, shape (b, m, 2)
        ``K v`` of both.
    """
    xp = ops.xp
    if matrices.shape[2] == 1:
        ones = xp.ones_like(vectors)
        return ones, matrices * ones
    length = _length(vectors, ops=ops)
    vectors = xp.where((length > _SHORT) & (length < _LONG), vectors, start(matrices, ops=ops))
    last = vectors[:, :, 1:] + fresh_vectors(matrices, matrices.shape[2], ops=ops)
    third = [] if change is None else [_direction(matrices, change, ops=ops)]
    vectors = _filtered(matrices, xp.concat([vectors[:, :, :1], last, *third], axis=2), ops=ops)
    if third:
        first = vectors[:, :, :1]
        plane = _orthonormal(_unit(_orthogonal(vectors[:, :, 1:], first, ops=ops), ops=ops), ops=ops)
        turn = _first_of_two(xp.matmul(matrices, plane), ops=ops)
        vectors = xp.concat([first, xp.matmul(plane, turn[:, :, :1])], axis=2)
    basis = _orthonormal(vectors, ops=ops)
    images = xp.matmul(matrices, basis)
    turn = _first_of_two(images, ops=ops)
    return xp.matmul(basis, turn), xp.matmul(images, turn)


def _direction(matrices: Array, change: Array, *, ops: ArrayOps) -> Array:
    """Right vector (b, p, 1) near the first one of a change of matrices, from its products (b, m, s) with vectors."""
    xp = ops.xp
    gram = xp.matmul(xp.matrix_transpose(change), change)
    longest = xp.argmax(xp.linalg.diagonal(gram), axis=1)
    left = xp.matmul(change, arrays.pick(gram, longest, xp=xp)[:, :, None])
    return xp.matmul(xp.matrix_transpose(matrices), _unit(left, ops=ops))


def power_step(matrices: Array, columns: Array, *, ops: ArrayOps) -> tuple[Array, Array, Array, Array, Array]:
    """Move the vectors by one power step; the value is that of their best combination (Rayleigh-Ritz).

    Parameters
    ----------
    matrices : array, shape (b, m, p)
        Real, in any scale.
    columns : array, shape (b, p, 2 + s)
        Two orthonormal vectors, and others that the matrices are only multiplied with.

    Returns
    -------
    value : array, shape (b,)
        Length of the transposed matrix times ``left``.
    left : array, shape (b, m, 1)
        Of unit length, the image of the best combination of the vectors.
    right : array, shape (b, p, 1)
        Of unit length, in the direction of the transposed matrix times ``left``.
    vectors : array, shape (b, p, 2)
        The new vectors. Those of a matrix that is zero or not finite stay as they are.
    sketch : array, shape (b, m, s)
        The products with the other columns.
    """
    xp = ops.xp
    products = xp.matmul(matrices, columns)
    images = products[..., :2]
    gram = xp.matmul(xp.matrix_transpose(images), images)
    # So the products with the transposed matrix are as large as those with the matrix, whose squares are finite.
    images = images / (xp.sqrt(gram[:, :1, :1] + gram[:, 1:, 1:]) + _TINY)
    back = xp.matmul(xp.matrix_transpose(matrices), images)
    best = _first_direction(gram, ops=ops)
    left = xp.matmul(images, best)
    length = _length(left, ops=ops) + _TINY
    value, right = _value_and_unit(xp.matmul(back, best) / length, ops=ops)
    first = _unit(back[..., :1], ops=ops)
    second = _unit(_orthogonal(back[..., 1:], first, ops=ops), ops=ops)
    moved = xp.concat([first, second], axis=2)
    moved_length = _length(moved, ops=ops)
    # False for what is not a number, too.
    return value, left / length, right, xp.where(moved_length > _SHORT, moved, columns[..., :2]), products[..., 2:]


def _filtered(matrices: Array, vectors: Array, *, ops: ArrayOps) -> Array:
    """The vectors after the filter, of unit length; its cut is below the images of the first two."""
    xp, p = ops.xp, matrices.shape[2]
    transposed = xp.matrix_transpose(matrices)
    vectors = _unit(vectors, ops=ops)
    least = xp.min(_length(xp.matmul(matrices, vectors[:, :, :2]), ops=ops), axis=2, keepdims=True)
    entries = xp.reshape(matrices, (matrices.shape[0], -1))
    mean_square = xp.vecdot(entries, entries)[:, None, None] / p
    scale = 4.0 / (xp.maximum(_CUT * least * least, _LEAST_CUT * mean_square) + _TINY)
    gram: Array | None = None
    if p <= _FORMED or ops.asynchronous:
        (twice,) = placed(("twice the identity", p), lambda dtype: (2 * np.eye(p, dtype=dtype),), matrices, ops=ops)
        gram = xp.matmul(transposed, matrices) * scale - twice

    def product(x: Array) -> Array:
        """``2 y x``, with ``y = 2 K^T K / cut - 1``."""
        if gram is not None:
            return xp.matmul(gram, x)
        return xp.matmul(transposed, xp.matmul(matrices, x)) * scale - 2.0 * x

    # The polynomials T_0 = 1, T_1 = y and T_j+1 = 2 y T_j - T_j-1.
    previous, current = vectors, 0.5 * product(vectors)
    for j in range(1, _DEGREE):
        previous, current = current, product(current) - previous
        if j % _RESCALED == 0:
            size = _size(current, ops=ops)
            previous, current = previous / size, current / size
    return _unit(current, ops=ops)


def _orthonormal(vectors: Array, *, ops: ArrayOps) -> Array:
    """Two unit vectors (b, p, 2) made orthogonal; the second may become shorter."""
    first = vectors[:, :, :1]
    second = _orthogonal(vectors[:, :, 1:], first, ops=ops)
    # Where the first vector outgrew the rest of the second one, the squares of that rest may underflow.
    second = _unit(second / _size(second, ops=ops), ops=ops)
    # If the vectors were parallel, the second is a rounding error by now, perhaps parallel to the first again. So what
    # is left of it does not become a unit vector: an image of two parallel unit vectors would be longer than the norm.
    second = _orthogonal(second, first, ops=ops)
    return ops.xp.concat([first, second], axis=2)


def _orthogonal(vectors: Array, unit: Array, *, ops: ArrayOps) -> Array:
    """Vectors (b, p, r) without their components along unit vectors (b, p, 1)."""
    xp = ops.xp
    return vectors - xp.matmul(unit, xp.matmul(xp.matrix_transpose(unit), vectors))


def _first_of_two(images: Array, *, ops: ArrayOps) -> Array:
    """The rotation (b, 2, 2) that turns two images (b, m, 2) so that they are orthogonal, the longest first."""
    xp = ops.xp
    first = _first_direction(xp.matmul(xp.matrix_transpose(images), images), ops=ops)
    cos, sin = first[:, :1, :], first[:, 1:, :]
    return xp.concat([first, xp.concat([-sin, cos], axis=1)], axis=2)


def _first_direction(gram: Array, *, ops: ArrayOps) -> Array:
    """The first eigenvector (b, 2, 1) of Gram matrices (b, 2, 2)."""
    xp = ops.xp
    # The angle of the rotation that diagonalises [[a, c], [c, b]] is half that of (a - b, 2 c).
    angle = 0.5 * xp.atan2(2.0 * gram[:, :1, 1:], gram[:, :1, :1] - gram[:, 1:, 1:])
    quarter = np.array([[0.0], [0.5 * np.pi]])
    (start,) = placed("quarter of a turn", lambda dtype: (quarter.astype(dtype),), gram, ops=ops)
    return xp.cos(angle - start)


def _length(vectors: Array, *, ops: ArrayOps) -> Array:
    return arrays.lengths(vectors, axis=-2, ops=ops)


def _size(vectors: Array, *, ops: ArrayOps) -> Array:
    """Largest absolute entry, where squares of entries may overflow or underflow."""
    return ops.xp.max(ops.xp.abs(vectors), axis=1, keepdims=True) + _TINY


def _unit(vectors: Array, *, ops: ArrayOps) -> Array:
    return vectors / (_length(vectors, ops=ops) + _TINY)
