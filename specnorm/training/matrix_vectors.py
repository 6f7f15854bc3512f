"""The norm of a matrix that changes: a block of right vectors that follows the first singular vectors.

Training presses many singular values of a constrained matrix to the largest, where power steps are slow. The
polynomials of Chebyshev for an interval from 0 to a cut are as small there as polynomials can be, and grow fastest
above it. They have a recurrence of two terms, which here runs across the steps of a training, whose matrices differ
little: ``V_new = (4 / cut) K^T K V - 2 V - V_before``. Both blocks are multiplied by the same matrix, which makes the
new one orthonormal and keeps the recurrence.

References
----------
.. [1] De Sa, He, Mitliagkas, Re, Xu, "Accelerated Stochastic Power Iteration", AISTATS 2018 (momentum in the power
   method). The matrix that moves and the block are ours.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from specnorm.backends import arrays
from specnorm.training import sketches
from specnorm.training.grids import placed

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps

_VECTORS = 16
"""Vectors of the block. With 8, a perceptron on digits reached 1.03."""
_CUT = 0.97
"""Squared singular values below this part of the block's shortest squared image are damped."""
_LEAST_CUT = 0.01
"""The cut is at least this part of the longest squared image: a matrix of few ranks has no sixteenth singular value."""
_FRESH = 1e-3
"""Part of the first block that each step adds, so that the block also sees what products with sparse matrices leave
zero, and begins anew if it was zero."""
_SHIFT = 1e-5
"""Added to the eigenvalues of Gram matrices of unit vectors, which then have a Cholesky factor where vectors are
parallel, too."""
_WAY_OF_A_STEP = 0.006
"""A matrix that has changed by this part of its length needs one step, and twice as many for twice the way."""
_MOST_STEPS = 64
"""Most steps of a pass but one, as after a jump."""
STEPS_OF_A_SWEEP = 4
"""Steps that a caller gets who asks for one sweep, of a convolution, too."""
_START_SWEEPS = 16
"""Sweeps from random vectors."""
_USUAL_STEPS = 2
"""Steps of a pass where the way cannot be read."""
_SQUARINGS = 9
"""Squarings of a small Gram matrix."""
_RESCALED, _FEW = 4, 32
"""Number of squarings after which a matrix of at most 32 rows is rescaled, so that entries stay below 32^16; larger
matrices are rescaled after one less."""


class Block(NamedTuple):
    """What follows each matrix of a stack, as arrays of a training state.

    Parameters
    ----------
    vectors, before : array, shape (b, p, g)
        The block, and the one before it.
    sketch : array, shape (b, m, 4)
        Random sums of the rows at the last pass (`sketches.unit_sketch`); zeros are far from every matrix.
    """

    vectors: Array
    before: Array
    sketch: Array


def shapes(m: int, p: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a `Block`'s arrays for one matrix, by name."""
    block = p, min(_VECTORS, p)
    return {"vectors": block, "before": block, "sketch": (m, sketches.SKETCHES)}


def start(matrices: Array, *, ops: ArrayOps) -> Block:
    """The block of each matrix after the first steps."""
    xp, (b, m, p) = ops.xp, matrices.shape
    zeros = [xp.zeros((b, *x), dtype=matrices.dtype, device=ops.device(matrices)) for x in shapes(m, p).values()]
    first, *_ = _constants(zeros[0], ops=ops)
    vectors, before, sketch = zeros
    block = Block(vectors + first[:, :p, :], before, sketch)
    return follow(matrices, block, sweeps=_START_SWEEPS, ops=ops)[-1]


def follow(matrices: Array, block: Block, *, sweeps: int | None, ops: ArrayOps) -> tuple[Array, Array, Array, Block]:
    """Step the block as often as the matrices have changed, and take the longest image in it (Rayleigh-Ritz).

    Parameters
    ----------
    matrices : array, shape (b, m, p)
        Real, in any scale; m is at least p.
    block : Block
    sweeps : int or None
        Number of times that `STEPS_OF_A_SWEEP` steps are taken; 0: the usual number. None: as many steps as the change
        of each matrix needs.

    Returns
    -------
    value : array, shape (b,)
        Length of the transposed matrix times ``left``.
    left : array, shape (b, m, 1)
        Of unit length, the image of the best combination of the vectors.
    right : array, shape (b, p, 1)
        Of unit length, in the direction of the transposed matrix times ``left``.
    block : Block
        After the steps. It is finite, whatever the matrices are.
    """
    xp, count = ops.xp, block.vectors.shape[2]
    signs = xp.broadcast_to(_signs(matrices, ops=ops), (*block.vectors.shape[:2], sketches.SKETCHES))
    products = xp.matmul(matrices, xp.concat([block.vectors, signs], axis=2))
    sketch = sketches.unit_sketch(products[..., count:], ops=ops)
    transposed = xp.matrix_transpose(matrices)

    def repeat(state: tuple[Array, ...]) -> tuple[Array, ...]:
        vectors, before, images, *left = state
        *_, new_vectors, new_before = _step(transposed, vectors, before, images, ops=ops)
        if left and left[0].shape[0] > 1:
            # Not those that others need: a matrix has the same steps in each stack.
            vectors, before = xp.where(left[0] > 0, new_vectors, vectors), xp.where(left[0] > 0, new_before, before)
        else:
            vectors, before = new_vectors, new_before
        return vectors, before, xp.matmul(matrices, vectors), *(x - 1.0 for x in left)

    state: tuple[Array, ...] = block.vectors, block.before, products[..., :count]
    if sweeps is None:
        steps = _steps_before_the_last(sketches.distance(sketch, block.sketch, ops=ops), ops=ops)
        most: Any = xp.max(steps)
        most, state = int(ops.to_numpy(most)) if ops.concrete else most, (*state, steps)
    else:
        most = (STEPS_OF_A_SWEEP * sweeps or _USUAL_STEPS) - 1
    vectors, before, images, *_ = arrays.repeated(repeat, most, state, ops=ops)
    images, back, size, vectors, before = _step(transposed, vectors, before, images, ops=ops)
    best = _top_of_powers(xp.matmul(xp.matrix_transpose(images), images), ops=ops)
    left = xp.matmul(images, best)
    length = _length(left, ops=ops) + arrays.TINY
    value, right = _value_and_unit(xp.matmul(back, best) / length, ops=ops)
    value = value * size[:, 0, 0]
    # Sums that are not finite are far from every matrix, as zeros are.
    sketch = xp.where(xp.isfinite(sketch), sketch, 0.0)
    return value, left / length, right, Block(vectors, before, sketch)


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
        return length[:, 0, 0], matrices / (length + arrays.TINY), xp.ones_like(length)
    transposed = xp.matrix_transpose(matrices)
    images = xp.matmul(matrices, _top_of_powers(xp.matmul(transposed, matrices), ops=ops))
    left = images / (_length(images, ops=ops) + arrays.TINY)
    value, right = _value_and_unit(xp.matmul(transposed, left), ops=ops)
    return value, left, right


def _steps_before_the_last(way: Array, *, ops: ArrayOps) -> Array:
    """Number of steps (b, 1, 1) of a pass, less one, for ways (b,) that the matrices have gone since the last one."""
    steps = ops.xp.floor(way * (1 / _WAY_OF_A_STEP))
    # What is not a number is far.
    return ops.xp.where(steps < _MOST_STEPS, steps, float(_MOST_STEPS))[:, None, None]


def _step(
    transposed: Array, vectors: Array, before: Array, images: Array, *, ops: ArrayOps
) -> tuple[Array, Array, Array, Array, Array]:
    """A step of the recurrence, from the images (b, m, g) of the vectors.

    Returns
    -------
    images : array
        Divided by the size, so that squares are finite.
    back : array, shape (b, p, g)
        Their products with the transposed matrices, divided by the size.
    size : array, shape (b, 1, 1)
    vectors, before : array, shape (b, p, g)
        After the step. Those of a matrix that is not finite begin anew.
    """
    xp, p = ops.xp, vectors.shape[1]
    size = arrays.largest(images, axis=(1, 2), ops=ops) + arrays.TINY
    images = images / size
    squares = xp.vecdot(images, images, axis=-2)
    least, most = (xp.reshape(f(squares, axis=1), size.shape) for f in (xp.min, xp.max))
    # The longest image is longer than 1, unless all are zero.
    cut = xp.maximum(_CUT * least, _LEAST_CUT * xp.maximum(most, 1.0))
    back = xp.matmul(transposed, images) / size
    first, fresh, shift = _constants(vectors, ops=ops)
    moved = back * (4.0 / cut) - (2.0 * vectors + before) + fresh
    length = _length(moved, ops=ops)
    both = xp.concat([moved, vectors], axis=1) / length
    # False for what is not a number, too. No length is zero, after what is added.
    is_finite = xp.sum(length, axis=2, keepdims=True) < math.inf
    both = xp.where(is_finite, both, first)
    moved = both[:, :p, :]
    gram = xp.matmul(xp.matrix_transpose(moved), moved) + shift
    both = xp.matmul(both, xp.matrix_transpose(ops.inverse_factors(gram)))
    return images, back, size, both[:, :p, :], both[:, p:, :]


def _constants(vectors: Array, *, ops: ArrayOps) -> tuple[Array, ...]:
    """The first block with zeros for the one before, what each step adds, and the shift of Gram matrices."""
    p, count = vectors.shape[1:]

    def tables(dtype: type[np.floating]) -> tuple[np.ndarray, ...]:
        first = np.linalg.qr(arrays.random_vectors(0, (p, count)).real)[0]
        both = np.concatenate([first, np.zeros_like(first)])
        return tuple(x[None].astype(dtype) for x in (both, _FRESH * first, _SHIFT * np.eye(count)))

    return placed(("matrix", p, count), tables, vectors, ops=ops)


def _signs(matrices: Array, *, ops: ArrayOps) -> Array:
    """Random signs (1, p, 4)."""
    p = matrices.shape[2]

    def table(dtype: type[np.floating]) -> tuple[np.ndarray]:
        return (sketches.random_signs(p)[None].astype(dtype),)

    return placed(("signs of a matrix", p), table, matrices, ops=ops)[0]


def _top_of_powers(gram: Array, *, ops: ArrayOps) -> Array:
    """The longest column (b, p, 1) of a power ``G^(2^squarings)``, up to a factor."""
    xp, gram = ops.xp, squared(gram, _SQUARINGS, ops=ops)
    best = xp.argmax(xp.max(gram, axis=1), axis=1)
    return arrays.pick(gram, best, xp=xp)[:, :, None]


def squared(gram: Array, times: int, *, ops: ArrayOps) -> Array:
    """``G^(2^times)`` of a stack of positive semidefinite matrices, up to factors."""
    xp = ops.xp
    at_once = _RESCALED if gram.shape[-1] <= _FEW else _RESCALED - 1
    for j in range(times):
        if j % at_once == 0:
            # The largest entry of a positive semidefinite matrix is on its diagonal.
            entries = xp.real(gram) if arrays.is_complex(gram, xp=xp) else gram
            gram = gram / (xp.max(entries, axis=(-2, -1), keepdims=True) + arrays.TINY)
        gram = xp.matmul(gram, gram)
    return gram


def _value_and_unit(vectors: Array, *, ops: ArrayOps) -> tuple[Array, Array]:
    """Lengths (b,) of vectors (b, p, 1), and the vectors divided by them."""
    length = _length(vectors, ops=ops)
    return length[:, 0, 0], vectors / (length + arrays.TINY)


def _length(vectors: Array, *, ops: ArrayOps) -> Array:
    return arrays.lengths(vectors, axis=-2, ops=ops)
