"""The step of `grid_vectors` in few operations, for devices on which each operation costs a launch.

One vector at each frequency, moved by many power steps at once: a narrow symbol's Gram matrix is formed and squared five
times. The best points leave the grid by two stencils of frequencies around them, in place of Newton steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from specnorm.backends import arrays
from specnorm.geometry.frequencies import product
from specnorm.training.grid_vectors import Grid, Triples, placed

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps

_FORMED = 128
"""Smaller side up to which the Gram matrix is formed and squared. Beyond it, power steps multiply with the symbol."""
_SQUARINGS = 5
"""Number of squarings: 32 power steps."""
_POWERS = 2
"""Number of power steps where the Gram matrix is not formed, and at a single point off the grid."""
_REFINED = 8
"""Number of points whose frequency is moved off the grid."""
_STENCIL = 2
"""Points of a stencil on each side of its centre, along each axis. The first one reaches half the way to the next points
of the grid; the second one is four times as fine."""
_TINY = 1e-30
"""Added to what is divided by. Shorter vectors begin anew."""


def step(blocks: Array, vectors: Array, grid: Grid, *, sweeps: int, ops: ArrayOps) -> tuple[Triples, Array, Array]:
    """Move the vectors, and return the highest triple of each block, its phases, and the vectors.

    Parameters
    ----------
    blocks : array, shape (b, m, p, *kernel_shape)
        Real.
    vectors : complex array, shape (b, p, f)
        One at each frequency.
    grid : Grid
    sweeps : int

    Returns
    -------
    triples : Triples
        Without angles: these are known by their phases.
    phases : complex array, shape (b, taps)
    vectors : complex array, shape (b, p, f)
    """
    xp = ops.xp
    b, m, p = blocks.shape[:3]

    def tables(dtype: type[np.floating]) -> tuple[np.ndarray, ...]:
        return _tables(grid, p, dtype)

    waves, parts, start, first, second = placed(("powers", grid.key, p), tables, blocks, ops=ops)
    f = len(grid)
    kernel = xp.reshape(blocks, (b, m, p, -1))
    by_tap = xp.reshape(xp.permute_dims(kernel, (0, 3, 1, 2)), (b, -1, m * p))
    both = xp.matmul(parts, by_tap)
    symbols = xp.reshape(ops.complex(both[:, :f, :], both[:, f:, :]), (b, f, m, p))
    columns = xp.permute_dims(vectors, (0, 2, 1))[..., None]
    columns, images = _powers(symbols, columns, start, sweeps, ops=ops)
    values = xp.linalg.vector_norm(images, axis=(2, 3))
    best = xp.argsort(values, axis=1, descending=True)[:, : min(_REFINED, f)]
    index = xp.broadcast_to(best[:, :, None], (b, best.shape[1], p))
    right = xp.take_along_axis(columns[..., 0], index, axis=1)
    phases = xp.reshape(xp.take(waves, xp.reshape(best, (-1,)), axis=0), (b, best.shape[1], -1))
    by_row = xp.reshape(xp.permute_dims(kernel, (0, 1, 3, 2)), (b, -1, p))
    by_entry = xp.reshape(kernel, (b, m * p, -1))
    right, phases = _best_around(by_row, right, phases, first, ops=ops)
    symbol = _symbol(by_entry, phases, m, ops=ops)
    right = _unit(_power(symbol, right, _POWERS, ops=ops), ops=ops)
    if f > 1:
        right, phases = _best_around(by_row, right, phases, second, ops=ops)
        symbol = _symbol(by_entry, phases, m, ops=ops)
        right = _unit(_power(symbol, right, _POWERS, ops=ops), ops=ops)
    image = xp.matmul(symbol, right[:, 0, :, None])[..., 0]
    value = xp.linalg.vector_norm(image, axis=1)
    triples = Triples(value, image / (value[:, None] + _TINY), right[:, 0, :], value[:, None])
    return triples, phases[:, 0, :], xp.permute_dims(columns[..., 0], (0, 2, 1))


def _tables(grid: Grid, channels: int, dtype: type[np.floating]) -> tuple[np.ndarray, ...]:
    """Waves (f, taps), their real parts above imaginary ones (2 f, taps), start vectors, and stencils (taps, s)."""
    complex_dtype = np.result_type(dtype, np.complex64)
    waves = np.exp(1j * (grid.angles @ grid.taps.T))
    kernel_shape, points = grid.key
    steps = np.arange(-_STENCIL, _STENCIL + 1) * (np.pi / (_STENCIL * points))
    offsets = product([np.zeros(1) if k == 1 else steps for k in kernel_shape])
    stencils = [np.exp(1j * (grid.taps @ (scale * offsets).T)) for scale in (1.0, 0.25)]
    vector = arrays.random_vectors(0, (channels, 1))
    vector /= np.linalg.norm(vector)
    parts = np.concatenate([waves.real, waves.imag]).astype(dtype)
    return (
        waves.astype(complex_dtype),
        parts,
        vector.astype(complex_dtype),
        *(x.astype(complex_dtype) for x in stencils),
    )


def _powers(symbols: Array, columns: Array, start: Array, sweeps: int, *, ops: ArrayOps) -> tuple[Array, Array]:
    """Unit vectors (b, f, p, 1) after power steps, and their images."""
    xp = ops.xp
    adjoints = arrays.adjoint(symbols, xp=xp)
    gram: Array | None = None
    if symbols.shape[3] <= _FORMED:
        gram = xp.matmul(adjoints, symbols)
        for j in range(_SQUARINGS):
            if j % 2 == 0:
                gram = gram / (xp.real(xp.linalg.trace(gram))[..., None, None] + _TINY)
            gram = xp.matmul(gram, gram)
    for _ in range(sweeps):
        if gram is not None:
            columns = xp.matmul(gram, columns)
        else:
            for _ in range(_POWERS):
                columns = xp.matmul(adjoints, xp.matmul(symbols, columns))
        length = xp.linalg.vector_norm(columns, axis=2, keepdims=True)
        columns = xp.where(length > _TINY, columns / length, start)
    return columns, xp.matmul(symbols, columns)


def _best_around(rows: Array, right: Array, phases: Array, stencil: Array, *, ops: ArrayOps) -> tuple[Array, Array]:
    """Choose the best of several vectors and frequencies around theirs, at constant vectors.

    Parameters
    ----------
    rows : array, shape (b, m * taps, p)
    right : complex array, shape (b, g, p)
    phases : complex array, shape (b, g, taps)
    stencil : complex array, shape (taps, s)

    Returns
    -------
    right : complex array, shape (b, 1, p)
    phases : complex array, shape (b, 1, taps)
    """
    xp = ops.xp
    b, g, p = right.shape
    taps, points = stencil.shape
    images = xp.reshape(arrays.real_times(rows, xp.permute_dims(right, (0, 2, 1)), ops=ops), (b, -1, taps, g))
    around = xp.matmul(xp.permute_dims(images, (0, 3, 1, 2)) * phases[:, :, None, :], stencil)
    lengths = xp.linalg.vector_norm(around, axis=2)
    best = xp.argmax(xp.reshape(lengths, (b, g * points)), axis=1)
    # One table of all candidates in place of two chosen indices: a launch less.
    candidates = xp.reshape(phases[:, :, None, :] * xp.matrix_transpose(stencil), (b, g * points, taps))
    chosen_phases = xp.take_along_axis(candidates, xp.broadcast_to(best[:, None, None], (b, 1, taps)), axis=1)
    if g > 1:
        index = xp.broadcast_to((best // points)[:, None, None], (b, 1, p))
        right = xp.take_along_axis(right, index, axis=1)
    return right, chosen_phases


def _symbol(entries: Array, phases: Array, m: int, *, ops: ArrayOps) -> Array:
    """``G(theta)``, shape (b, m, p), from the kernel (b, m * p, taps) and phases (b, 1, taps)."""
    columns = ops.xp.matrix_transpose(phases)
    return ops.xp.reshape(arrays.real_times(entries, columns, ops=ops), (entries.shape[0], m, -1))


def _power(symbol: Array, right: Array, count: int, *, ops: ArrayOps) -> Array:
    """``(G* G)^count v`` of v (b, 1, p)."""
    xp = ops.xp
    adjoint, column = arrays.adjoint(symbol, xp=xp), xp.matrix_transpose(right)
    for _ in range(count):
        column = xp.matmul(adjoint, xp.matmul(symbol, column))
    return xp.matrix_transpose(column)


def _unit(right: Array, *, ops: ArrayOps) -> Array:
    return right / (ops.xp.linalg.vector_norm(right, axis=2, keepdims=True) + _TINY)
