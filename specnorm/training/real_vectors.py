"""A step of `grid_vectors` in real arithmetic and few operations, for libraries that compile it.

XLA takes some 25 ms for each loop that it writes, and 2 ms for a product of matrices; complex numbers and choices by
index cost it many loops. So complex numbers are pairs (real, imaginary) here, complex products are products with real
matrices, and entries are chosen by products with ones and zeros.

Axes of arrays: ``b`` blocks, ``f`` points of the grid, ``g`` of these, ``t`` taps, ``m`` and ``p`` channels of the
longer and of the shorter side. Phases of a point are a matrix of 2 rows and ``2 t`` columns. Times the tap products of
a left vector, it is ``G* u``. Two more rows are those of ``i G* u``.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from specnorm.backends import arrays
from specnorm.proofs.frequencies import product
from specnorm.training.grid_vectors import Grid, placed

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps

_BEST = 8
"""Number of points of the grid that a step refines."""
_ROUNDS = 3
"""Number of rounds, in each of which they move."""
_SHIFT = 0.35
"""Shift of a power step, as a part of the smallest squared value that is followed at the point: see `grid_vectors`."""
_STENCIL = 0.5, 0.125, 0.03125
"""Offsets along each axis that a round tries, as parts of the spacing of the grid."""
_SHORT, _LONG = 0.1, 2.0
"""Vectors shorter or longer than this begin anew."""
_TINY = 1e-30
"""Added to what is divided by."""
_PARALLEL = 1e-6
"""Least squared sine of the angle between two vectors that are made orthogonal."""

_FORMS = np.zeros((4, 4, 4))
"""Two complex vectors x, y are four rows (Re x, Im x, Re y, Im y). These forms of their Gram matrix, of 16 entries, are
``|x|^2``, ``|y|^2``, ``Re x*y`` and ``Im x*y``."""
_FORMS[0, 0, 0] = _FORMS[0, 1, 1] = _FORMS[1, 2, 2] = _FORMS[1, 3, 3] = 1
_FORMS[2, 0, 2] = _FORMS[2, 1, 3] = _FORMS[3, 0, 3] = 1
_FORMS[3, 1, 2] = -1
_UNIT = np.eye(2)
_TURN = np.asarray([[0.0, -1.0], [1.0, 0.0]])
"""The numbers 1 and i, as matrices that act on (real, imaginary)."""


class Found(NamedTuple):
    """The singular triple with the largest value of each block.

    Parameters
    ----------
    value : array, shape (b,)
    rows, columns : arrays, shapes (b, m, 2) and (b, 2, p * t)
        The gradient of the tall blocks is their product; with ``is_wide``, (b, p, 2) and (b, 2, m * t), that of the
        blocks with exchanged channels.
    """

    value: Array
    rows: Array
    columns: Array


class _Tables(NamedTuple):
    """Tables of a grid: see `_tables`."""

    waves: Array
    sums: Array
    phases: Array
    moduli: Array
    turns: Array


def step(tall: Array, vectors: Array, grid: Grid, *, is_wide: bool, ops: ArrayOps) -> tuple[Array, Found]:
    """Move two vectors at each point of the grid by a shifted power step, and find the largest singular value.

    Parameters
    ----------
    tall : array, shape (b, m, p, *kernel_shape)
        Blocks as of `arrays.tall`.
    vectors : array, shape (b, p, 2, f, 2)
        Right vectors, the last axis their real and imaginary parts; orthonormal at each point.
    is_wide : bool
        Whether the channels of the blocks were exchanged.

    Returns
    -------
    vectors : array, shape (b, p, 2, f, 2)
    found : Found
    """
    xp = ops.xp
    b, m, p = tall.shape[:3]
    f, taps = len(grid), len(grid.taps)
    tables = _Tables(*placed(("real", grid.key), functools.partial(_tables, grid), tall, ops=ops))
    kernel = xp.reshape(xp.permute_dims(xp.reshape(tall, (b, m, p, taps)), (0, 3, 2, 1)), (b, taps * p, m))
    # From here on two vectors of two parts each, (b, f, 2, 2, p).
    pairs = _with_invalid_replaced(xp.permute_dims(vectors, (0, 3, 2, 4, 1)), ops=ops)
    waves = (
        pairs[:, :, :, :1, None, :] * tables.waves[0, :, None, :, :, None]
        + pairs[:, :, :, 1:, None, :] * tables.waves[1, :, None, :, :, None]
    )
    images = xp.matmul(xp.reshape(waves, (b, f * 4, taps * p)), kernel)
    tap_images = xp.reshape(xp.matmul(images, xp.matrix_transpose(kernel)), (b, f, 2, 1, 2, taps, p))
    power = xp.sum(tap_images * tables.sums[:, None, :, :, :, None], axis=(4, 5))
    images, power, pairs = (xp.reshape(x, (b, f, 4, -1)) for x in (images, power, pairs))
    gram = _gram(images, ops=ops)
    squares = xp.minimum(gram[:, :, 0, 0] + gram[:, :, 1, 1], gram[:, :, 2, 2] + gram[:, :, 3, 3])
    moved = _orthonormal(power - (_SHIFT * squares)[:, :, None, None] * pairs, ops=ops)
    new_vectors = xp.permute_dims(xp.reshape(moved, (b, f, 2, 2, p)), (0, 4, 2, 1, 3))
    # ||G*G v|| / ||G v|| is closer to the norm than ||G v||.
    estimates = _largest(_gram(power, ops=ops), ops=ops) / (_largest(gram, ops=ops) + _TINY)
    best = xp.argsort(-estimates, axis=1)[:, : min(_BEST, f)]
    chosen = _one_hot(best, f, tall, ops=ops)
    gram, images = (_chosen(chosen, x, ops=ops) for x in (gram, images))
    phases = _chosen(chosen, tables.phases[None, ...], ops=ops)
    left = xp.matmul(_first_of_two(gram, ops=ops), images)
    return new_vectors, _highest(kernel, left, phases, tables, is_wide=is_wide, ops=ops)


def _tables(grid: Grid, dtype: type[np.floating]) -> tuple[np.ndarray, ...]:
    """The constants of a step.

    Returns
    -------
    waves : array, shape (2, f, 2, t)
        What the real and the imaginary part of a vector contribute to the parts of ``v e^{i k.theta}``.
    sums : array, shape (f, 2, 2, t)
        What the parts of tap products contribute to those of ``G* u``.
    phases : array, shape (f, 4, 2 * t)
    moduli : array, shape (8 * t, 2 * s)
        From terms of ``v* G* u`` (see `_moved`) to the parts of their sum at each of s offsets.
    turns : array, shape (s, 2 * t)
        ``e^{-i k.offset}``, real parts before imaginary ones.
    """
    cos, sin = np.cos(grid.angles @ grid.taps.T), np.sin(grid.angles @ grid.taps.T)
    waves = np.stack([np.stack([cos, sin], axis=1), np.stack([-sin, cos], axis=1)])
    sums = np.stack([np.stack([cos, sin], axis=1), np.stack([-sin, cos], axis=1)], axis=1)
    parts = np.reshape(sums, (len(grid), 2, -1))
    phases = np.concatenate([parts, -parts[:, 1:, :], parts[:, :1, :]], axis=1)
    kernel_shape, points = grid.key
    steps = np.asarray([0.0, *_STENCIL, *(-x for x in _STENCIL)]) * (2 * np.pi / points)
    offsets = steps[product([np.arange(1 if k == 1 else len(steps)) for k in kernel_shape])]
    cos, sin = np.cos(grid.taps @ offsets.T), -np.sin(grid.taps @ offsets.T)
    by_real, by_imag = np.stack([cos, sin], axis=1), np.stack([-sin, cos], axis=1)
    moduli = np.stack([np.broadcast_to(x, (2, 2, *x.shape)) for x in (by_real, by_imag)])
    turns = np.concatenate([cos.T, sin.T], axis=1)
    tables = (waves, sums, phases, np.reshape(moduli, (8 * len(grid.taps), -1)), turns)
    return tuple(x.astype(dtype) for x in tables)


def _with_invalid_replaced(pairs: Array, *, ops: ArrayOps) -> Array:
    """Replace vectors (b, f, 2, 2, p) that are far from unit length by random ones, as in a state never filled."""
    xp, p = ops.xp, pairs.shape[-1]

    def start(dtype: type[np.floating]) -> tuple[np.ndarray]:
        basis = np.linalg.qr(arrays.random_vectors(0, (p, 2)))[0].T
        return (np.stack([basis.real, basis.imag], axis=1).astype(dtype),)

    (first,) = placed(("real start", p), start, pairs, ops=ops)
    squared_length = xp.sum(pairs * pairs, axis=(3, 4), keepdims=True)
    is_unit = (squared_length > _SHORT**2) & (squared_length < _LONG**2)
    return xp.where(is_unit, pairs, first)


# -- products of a few vectors -----------------------------------------------------------------------------------
def _gram(rows: Array, *, ops: ArrayOps) -> Array:
    return ops.xp.matmul(rows, ops.xp.matrix_transpose(rows))


def _forms(gram: Array, count: int, *, ops: ArrayOps) -> tuple[Array, Array, Array, Array]:
    """`_FORMS` of Gram matrices (b, f, 4, 4), each repeated ``count`` times, shape (b, f, count).

    A number that is repeated here need not be broadcast, before which a compiler would end a loop.
    """
    xp = ops.xp

    def repeated(dtype: type[np.floating]) -> tuple[np.ndarray]:
        return (np.repeat(np.reshape(_FORMS, (4, 16)).T, count, axis=1).astype(dtype),)

    (table,) = placed(("forms", count), repeated, gram, ops=ops)
    values = xp.matmul(xp.reshape(gram, (*gram.shape[:2], 16)), table)
    xx, yy, real, imag = (values[:, :, j * count : (j + 1) * count] for j in range(4))
    return xx, yy, real, imag


def _largest(gram: Array, *, ops: ArrayOps) -> Array:
    """The largest eigenvalue of complex Gram matrices of two vectors."""
    xp = ops.xp
    xx, yy, real, imag = (x[:, :, 0] for x in _forms(gram, 1, ops=ops))
    half_difference = 0.5 * (xx - yy)
    return 0.5 * (xx + yy) + xp.sqrt(half_difference * half_difference + real * real + imag * imag)


def _first_of_two(gram: Array, *, ops: ArrayOps) -> Array:
    """Matrices (b, g, 2, 4) that combine two vectors with this Gram matrix to the longest one, of unit length."""
    xp = ops.xp
    xx, yy, real, imag = _forms(gram, 8, ops=ops)
    half_difference = 0.5 * (xx - yy)
    radius = xp.sqrt(half_difference * half_difference + real * real + imag * imag)
    # The eigenvector is (r + d, conj(c)) or, parallel to it, (c, r - d). In one of the two, r and d do not cancel.
    # Where both are zero, any combination is as good as another.
    larger = xp.abs(half_difference) + radius + 1e-6 * (xx + yy)
    length = xp.sqrt((0.5 * (xx + yy) + radius) * (larger * larger + real * real + imag * imag))
    first_leads = half_difference >= 0
    zero = xp.zeros_like(real)
    of_first = xp.where(first_leads, larger, real), xp.where(first_leads, zero, imag)
    of_second = xp.where(first_leads, real, larger), xp.where(first_leads, -imag, zero)
    none = np.zeros((2, 2))
    bases = _matrices("combine", [[_UNIT, none]], [[_TURN, none]], [[none, _UNIT]], [[none, _TURN]], like=gram, ops=ops)
    entries = sum(x * basis for x, basis in zip((*of_first, *of_second), bases, strict=True))
    return xp.reshape(entries * (1 / (length + _TINY)), (*gram.shape[:2], 2, 4))


def _orthonormal(pairs: Array, *, ops: ArrayOps) -> Array:
    """Make two vectors (b, f, 4, p) at each point orthonormal, both alike (Loewdin). A zero vector stays zero.

    That is ``V T^-1/2`` with the Gram matrix T. If its diagonal is one, the entry beside it c and
    ``d = (1 - |c|^2)^1/2``, then ``T^-1/2`` is ``(1 + d, -c; -conj(c), 1 + d) / (d (2 + 2 d)^1/2)``.
    """
    xp = ops.xp
    xx, yy, real, imag = _forms(_gram(pairs, ops=ops), 16, ops=ops)
    of_x, of_y = 1 / (xp.sqrt(xx) + _TINY), 1 / (xp.sqrt(yy) + _TINY)
    real, imag = real * of_x * of_y, imag * of_x * of_y
    sine = xp.sqrt(xp.maximum(1 - real * real - imag * imag, xp.full_like(real, _PARALLEL)))
    none, ones = np.zeros((2, 2)), np.ones((2, 2))
    first, second, by_real, by_imag, left, right = _matrices(
        "orthonormal",
        [[_UNIT, none], [none, none]], [[none, none], [none, _UNIT]],
        [[none, _UNIT], [_UNIT, none]], [[none, -_TURN], [_TURN, none]],
        [[ones, none], [ones, none]], [[none, ones], [none, ones]],
        like=pairs, ops=ops,
    )  # fmt: skip
    beside = (real * by_real + imag * by_imag) * (of_x * left + of_y * right)
    entries = (1 + sine) * (of_x * first + of_y * second) - beside
    entries = entries * (1 / (sine * xp.sqrt(2 + 2 * sine)))
    return xp.matmul(xp.reshape(entries, (*pairs.shape[:2], 4, 4)), pairs)


def _matrices(name: str, *blocks: list[list[np.ndarray]], like: Array, ops: ArrayOps) -> tuple[Array, ...]:
    """Constant block matrices, flat."""
    return placed(
        ("blocks", name), lambda dtype: tuple(np.block(x).ravel().astype(dtype) for x in blocks), like, ops=ops
    )


def _square(x: Array, *, ops: ArrayOps) -> Array:
    """Squared lengths (b, g, 1, 1) of the vectors whose parts are the first two rows of x (b, g, ., n)."""
    # A sum over the entries would be several loops.
    gram = _gram(x, ops=ops)
    return gram[:, :, :1, :1] + gram[:, :, 1:2, 1:2]


def _one_hot(index: Array, count: int, like: Array, *, ops: ArrayOps) -> Array:
    """Ones at indices (...), zeros elsewhere, shape (..., count)."""
    (numbers,) = placed(("numbers", count), lambda dtype: (np.arange(count, dtype=dtype),), like, ops=ops)
    return ops.xp.astype(ops.xp.astype(index[..., None], like.dtype) == numbers, like.dtype)


def _chosen(chosen: Array, x: Array, *, ops: ArrayOps) -> Array:
    """Entries of x (b, f, ...) by `_one_hot` of indices (b, g), shape (b, g, ...)."""
    xp = ops.xp
    flat = xp.reshape(x, (*x.shape[:2], -1))
    return xp.reshape(xp.matmul(chosen, flat), (*chosen.shape[:2], *x.shape[2:]))


# -- off the grid ------------------------------------------------------------------------------------------------
def _highest(kernel: Array, left: Array, phases: Array, tables: _Tables, *, is_wide: bool, ops: ArrayOps) -> Found:
    """Move left vectors (b, g, 2, m) and phases (b, g, 4, 2 t) uphill, and take the highest of the points."""
    xp, (b, g) = ops.xp, left.shape[:2]
    first = left, _tap_products(kernel, left, phases.shape[3], ops=ops), phases

    def moved(state: tuple[Array, ...]) -> tuple[Array, ...]:
        left, tap_images, phases = state
        return _moved(kernel, left, tap_images, phases, tables, ops=ops)

    left, tap_images, phases = arrays.repeated(moved, _ROUNDS, first, ops=ops)
    right = xp.matmul(phases, tap_images)
    left_square, right_square = (_square(x, ops=ops)[:, :, 0, 0] for x in (left, right))
    squares = right_square / (left_square + _TINY)
    hot = _one_hot(xp.argmax(squares, axis=1), g, left, ops=ops)
    left = _chosen((hot * (1 / (xp.sqrt(left_square) + _TINY)))[:, None, :], left, ops=ops)[:, 0, ...]
    right = _chosen((hot * (1 / (xp.sqrt(right_square) + _TINY)))[:, None, :], right, ops=ops)[:, 0, ...]
    phases = _chosen(hot[:, None, :], phases, ops=ops)[:, 0, ...]
    # Products with constants take out the first two of four rows, conjugate if asked, and make four of two.
    none = np.zeros((2, 2))
    conjugate = np.diag([1.0, -1.0]) if is_wide else _UNIT
    of_left, of_right, doubled = _matrices(
        f"ends {is_wide}", [[conjugate]], [[conjugate, none]], [[0.5 * _UNIT], [0.5 * _TURN]], like=left, ops=ops
    )
    left = xp.matmul(xp.reshape(of_left, (2, 2)), left)
    right = xp.matmul(xp.reshape(of_right, (2, 4)), right)
    # The triple of a transposed symbol: u* G^T v is v* conj(G) u, conjugated.
    rows, beside = (right, left) if is_wide else (left, right)
    waves = xp.matmul(xp.matrix_transpose(phases), xp.matmul(xp.reshape(doubled, (4, 2)), beside))
    columns = xp.permute_dims(xp.reshape(waves, (b, 2, -1, beside.shape[2])), (0, 1, 3, 2))
    return Found(xp.sqrt(xp.max(squares, axis=1)), xp.matrix_transpose(rows), xp.reshape(columns, (b, 2, -1)))


def _tap_products(kernel: Array, left: Array, count: int, *, ops: ArrayOps) -> Array:
    """``K_k^T u`` of every tap k: left vectors (b, g, 2, m) to (b, g, 2 t, p), real parts before imaginary ones.

    Parameters
    ----------
    count : int
        2 t.
    """
    xp, (b, g, _, m) = ops.xp, left.shape
    products = xp.matmul(xp.reshape(left, (b, g * 2, m)), xp.matrix_transpose(kernel))
    return xp.reshape(products, (b, g, count, -1))


def _moved(
    kernel: Array, left: Array, tap_images: Array, phases: Array, tables: _Tables, *, ops: ArrayOps
) -> tuple[Array, Array, Array]:
    """Take the best vector in the plane of each left vector and its gradient, then the best frequency of a stencil."""
    xp, (b, g, _, m) = ops.xp, left.shape
    taps = phases.shape[3] // 2
    right = xp.matmul(phases, tap_images)
    waves = xp.reshape(xp.matmul(xp.matrix_transpose(phases), right), (b, g * 2, -1))
    # The sum over four rows counts each part twice.
    image = 0.5 * xp.reshape(xp.matmul(waves, kernel), (b, g, 2, m))
    length, right_square = _square(left, ops=ops), _square(right, ops=ops)
    gradient = length * image - right_square * left
    of_gradient = _tap_products(kernel, gradient, 2 * taps, ops=ops)
    right_of_gradient = xp.matmul(phases, of_gradient)
    squared_gradient = _square(gradient, ops=ops)
    square_there = _square(right_of_gradient, ops=ops) / (squared_gradient + _TINY)
    # Rayleigh-Ritz for the unit vectors along both: the matrix [[a, c], [c, b]] with c the gradient's length.
    half_difference = 0.5 * (right_square / (length + _TINY) - square_there)
    coupling = squared_gradient / (length * length * length + _TINY)
    radius = xp.sqrt(half_difference * half_difference + coupling)
    share = 1 / (length * (half_difference + radius) + _TINY)
    left, tap_images = left + share * gradient, tap_images + share * of_gradient
    # The terms of v* G* u and of i times it, four for each tap, each with its phase. Their sums are the parts.
    right = xp.matmul(phases, tap_images)
    pairs = xp.reshape(xp.matmul(right, xp.matrix_transpose(tap_images)), (b, g, 2, 2, 2 * taps))
    terms = xp.reshape(phases[:, :, None, :2, :] * pairs, (b, g, -1))
    parts = xp.reshape(xp.matmul(terms, tables.moduli), (b, g, 2, -1))
    best = xp.argmax(xp.sum(parts * parts, axis=2), axis=-1)
    turns = xp.matmul(_one_hot(best, tables.turns.shape[0], left, ops=ops), tables.turns)
    cos, sin = (x[:, :, None, None, :] for x in (turns[:, :, :taps], turns[:, :, taps:]))
    (sign,) = placed("sign", lambda dtype: (np.asarray([[1], [-1]], dtype=dtype),), left, ops=ops)
    by_part = xp.reshape(phases, (b, g, 4, 2, taps))
    phases = by_part * cos + xp.flip(by_part, axis=3) * sign * sin
    return left, tap_images, xp.reshape(phases, (b, g, 4, 2 * taps))
