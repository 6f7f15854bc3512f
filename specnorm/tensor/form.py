"""The multilinear form behind TN, ``sum K[o,i,k,l] u_o v_i a_k b_l``, and the vectors to maximise it from."""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm import arrays
from specnorm.problem.frequencies import coarse_grid
from specnorm.tensor.one_set import best_modes, outer

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace
    from specnorm.types import ArrayOps


class Form:
    """The multilinear form f(u, v, modes) = sum K u v (x)modes of a stack of blocks, for s starts each.

    Every sweep reads the kernel twice, in real products with the vectors of all starts at once.
    """

    def __init__(self, blocks: Array, *, ops: ArrayOps) -> None:
        b, m, p, *sizes = blocks.shape
        self.xp = ops.xp
        self.ops = ops
        self.p = p
        self.taps = math.prod(sizes)
        # Without an axis there is one spatial vector, of length 1.
        self.lengths = tuple(sizes or [1])
        self.by_row = self.xp.reshape(blocks, (b, m, p * self.taps))

    def weights(self, modes: list[Array]) -> Array:
        """Outer product of the spatial vectors, shape (b, s, taps)."""
        return outer(modes, xp=self.xp)

    def left(self, v: Array, weights: Array) -> tuple[Array, Array]:
        """Best u for the other vectors, shape (b, s, m), and the form's value there, (b, s)."""
        return arrays.unit(self._complex(self._image(v, weights)), xp=self.xp)

    def rows(self, v: Array, weights: Array) -> Array:
        """Contract the output channels with the best u, shape (b, s, p, taps)."""
        xp = self.xp
        starts = v.shape[1]
        image = self._image(v, weights)
        part_sq = xp.vecdot(image, image)
        norm_sq = part_sq[:, :starts] + part_sq[:, starts:]
        factor = arrays.inverse(xp.sqrt(norm_sq))
        u = image * xp.concat([factor, factor], axis=1)[..., None]
        return xp.reshape(self._complex(xp.matmul(u, self.by_row)), (*v.shape[:2], self.p, self.taps))

    def right(self, rows: Array, modes: list[Array]) -> Array:
        """Best v for the other vectors times the form's value there, shape (b, s, p)."""
        xp = self.xp
        contracted = rows
        for mode in reversed(modes):
            by_last_axis = xp.reshape(contracted, (*rows.shape[:2], -1, mode.shape[2]))
            contracted = xp.matmul(by_last_axis, mode[..., None])[..., 0]
        return xp.conj(contracted)

    def sweep(self, v: Array, modes: list[Array]) -> tuple[Array, Array]:
        """Update u, then the spatial vectors with v at its best, then v. Never decreases the form.

        Returns
        -------
        vectors : array, shape (b, s, p + sum of sizes)
            Right vectors and spatial vectors.
        value : array, shape (b, s)
            The form there.
        """
        xp = self.xp
        rows = self.rows(v, self.weights(modes))
        image = self.right(rows, modes)
        spatial_form = xp.matmul(image[:, :, None, :], rows)
        spatial_form = xp.reshape(spatial_form, (*v.shape[:2], *self.lengths))
        modes = best_modes(spatial_form, modes, 2, xp=xp)
        # Compilers make less of one long stack of vectors than of a stack of stacks.
        unit_v, value = arrays.unit(xp.reshape(self.right(rows, modes), (-1, self.p)), xp=xp)
        return xp.concat([xp.reshape(unit_v, v.shape), *modes], axis=2), xp.reshape(value, v.shape[:2])

    def split(self, vectors: Array) -> list[Array]:
        """Right vectors and spatial vectors of iterates (b, s, p + sum of sizes)."""
        return [vectors[:, :, : self.p], *self.modes(vectors[:, :, self.p :])]

    def modes(self, spatial: Array) -> list[Array]:
        """Spatial vectors (b, s, sum of sizes), axis by axis."""
        ends = list(itertools.accumulate(self.lengths))
        return [spatial[:, :, first:end] for first, end in itertools.pairwise([0, *ends])]

    def _image(self, v: Array, weights: Array) -> Array:
        """The kernel times the other vectors, conjugated: real parts (b, s, m), then imaginary parts.

        The kernel is the left factor: BLAS takes half as long again for a product with a transpose on the right.
        """
        xp = self.xp
        pairs = xp.conj(v)[..., None] * xp.conj(weights)[:, :, None, :]
        pairs = xp.reshape(pairs, (*v.shape[:2], self.p * self.taps))
        parts = xp.concat([xp.real(pairs), xp.imag(pairs)], axis=1)
        return xp.matrix_transpose(xp.matmul(self.by_row, xp.matrix_transpose(parts)))

    def _complex(self, parts: Array) -> Array:
        """Complex rows from their real parts, then their imaginary parts."""
        count = parts.shape[1] // 2
        return self.ops.complex(parts[:, :count, :], parts[:, count:, :])


def starts(
    blocks: Array,
    count: int,
    random: int,
    seed: int,
    *,
    ops: ArrayOps,
) -> tuple[Array, list[Array]]:
    """Right vectors and spatial vectors to start from: the best ``count`` coarse frequencies, then random ones."""
    xp = ops.xp
    b, _, p, *sizes = blocks.shape
    dtype = "complex128" if blocks.dtype == xp.float64 else "complex64"

    def for_each_block(x: np.ndarray) -> Array:
        constant = ops.from_numpy(x, blocks)
        return xp.broadcast_to(constant, (b, *constant.shape[1:]))

    v, *modes = (for_each_block(x) for x in _coarse_waves(seed, p, tuple(sizes), dtype))
    form = Form(blocks, ops=ops)
    rows = form.rows(v, form.weights(modes))
    v, value = arrays.unit(form.right(rows, modes), xp=xp)
    _, v, modes = best(value, v, modes, count, xp=xp)
    if sizes and random:
        random_v, *random_modes = (for_each_block(x) for x in _random(seed, random, p, tuple(sizes), dtype))
        v = xp.concat([v, random_v], axis=1)
        modes = [xp.concat([mode, extra], axis=1) for mode, extra in zip(modes, random_modes, strict=True)]
    return v, modes


def best(
    value: Array,
    v: Array,
    modes: list[Array],
    count: int,
    *,
    xp: Namespace,
) -> tuple[Array, Array, list[Array]]:
    """The iterates of each block with the largest values."""
    if count >= value.shape[1]:
        return value, v, modes
    largest = xp.argsort(value, axis=1, descending=True)[:, :count]

    def of_largest(x: Array) -> Array:
        index = xp.broadcast_to(largest[:, :, None], (*largest.shape, x.shape[2]))
        return xp.take_along_axis(x, index, axis=1)

    return xp.take_along_axis(value, largest, axis=1), of_largest(v), [of_largest(mode) for mode in modes]


@functools.lru_cache(maxsize=256)
def _coarse_waves(
    seed: int,
    p: int,
    sizes: tuple[int, ...],
    dtype: str,
) -> tuple[np.ndarray, ...]:
    """A random right vector and the Fourier vectors at every coarse frequency, (1, s, n) each, on the host."""
    angles = coarse_grid(sizes).angles
    return units([arrays.random_vectors(seed, (len(angles), p)), *waves(angles, sizes)], dtype)


@functools.lru_cache(maxsize=256)
def _random(
    seed: int,
    count: int,
    p: int,
    sizes: tuple[int, ...],
    dtype: str,
) -> tuple[np.ndarray, ...]:
    """Random right vectors and spatial vectors, (1, count, n) each, on the host."""
    vectors = [arrays.random_vectors(seed + 1 + j, (count, length)) for j, length in enumerate([p, *sizes])]
    return units(vectors, dtype)


def waves(angles: np.ndarray, sizes: tuple[int, ...]) -> list[np.ndarray]:
    """Fourier vectors of some frequencies (s, d), one (s, size) an axis; ones where there is no axis."""
    if not sizes:
        return [np.ones((len(angles), 1))]
    return [np.exp(1j * np.outer(angles[:, axis], np.arange(size))) for axis, size in enumerate(sizes)]


def units(vectors: list[np.ndarray], dtype: str) -> tuple[np.ndarray, ...]:
    """Rows of unit length, (1, s, n) each, from rows (s, n)."""
    unit_vectors = (rows / np.linalg.norm(rows, axis=-1, keepdims=True) for rows in vectors)
    return tuple(rows.astype(dtype)[None, ...] for rows in unit_vectors)
