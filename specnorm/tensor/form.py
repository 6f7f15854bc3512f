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
        xp = ops.xp
        self.xp, self.ops = ops.xp, ops
        self.b, self.m, self.p, *self.sizes = blocks.shape
        self.taps = math.prod(self.sizes)
        self.lengths = tuple(self.sizes or [1])
        self.by_row = xp.reshape(blocks, (self.b, self.m, self.p * self.taps))

    def weights(self, modes: list[Array]) -> Array:
        """Outer product of the spatial vectors, shape (b, s, taps)."""
        return outer(modes, xp=self.xp)

    def left(self, v: Array, weights: Array) -> tuple[Array, Array]:
        """Best u for the other vectors, shape (b, s, m), and the form's value there, (b, s)."""
        xp = self.xp
        y = self._planes(self._pairs(xp.conj(v), xp.conj(weights)), self.by_row)
        return arrays.unit(self._complex(y), xp=xp)

    def rows(self, v: Array, weights: Array) -> Array:
        """Contract the output channels with the best u, shape (b, s, p, taps)."""
        xp, count = self.xp, v.shape[1]
        y = self._planes(self._pairs(xp.conj(v), xp.conj(weights)), self.by_row)
        squares = xp.vecdot(y, y)
        squared = squares[:, :count] + squares[:, count:]
        factor = arrays.inverse(xp.sqrt(squared))
        u = y * xp.concat([factor, factor], axis=1)[..., None]
        return xp.reshape(self._complex(xp.matmul(u, self.by_row)), (*v.shape[:2], self.p, self.taps))

    def right(self, rows: Array, modes: list[Array]) -> Array:
        """Best v for the other vectors times the form's value there, shape (b, s, p)."""
        xp, rest = self.xp, rows
        for mode in reversed(modes):
            rest = xp.reshape(rest, (*rows.shape[:2], -1, mode.shape[2]))
            rest = xp.matmul(rest, mode[..., None])[..., 0]
        return xp.conj(rest)

    def sweep(self, v: Array, modes: list[Array]) -> tuple[Array, Array]:
        """Update u, then the spatial vectors with v at its best, then v. Never decreases the form.

        Returns
        -------
        vectors : array, shape (b, s, p + sum of sizes)
            Right vectors and spatial vectors.
        value : array, shape (b, s)
            Of the form there.
        """
        xp = self.xp
        rows = self.rows(v, self.weights(modes))
        image = self.right(rows, modes)
        c = xp.matmul(image[:, :, None, :], rows)
        modes = best_modes(xp.reshape(c, (*c.shape[:2], *self.lengths)), modes, 2, xp=xp)
        # Of vectors of all blocks in a row, less is compiled than of a stack of a few.
        found, value = arrays.unit(xp.reshape(self.right(rows, modes), (-1, self.p)), xp=xp)
        return xp.concat([xp.reshape(found, v.shape), *modes], axis=2), xp.reshape(value, v.shape[:2])

    def split(self, vectors: Array) -> list[Array]:
        """Right vectors and spatial vectors of iterates (b, s, p + sum of sizes)."""
        return [vectors[:, :, : self.p], *self.modes(vectors[:, :, self.p :])]

    def modes(self, spatial: Array) -> list[Array]:
        """Spatial vectors (b, s, sum of sizes), axis by axis."""
        ends = list(itertools.accumulate(self.lengths))
        return [spatial[:, :, first:end] for first, end in itertools.pairwise([0, *ends])]

    def _pairs(self, v: Array, weights: Array) -> Array:
        return self.xp.reshape(v[..., None] * weights[:, :, None, :], (*v.shape[:2], self.p * self.taps))

    def _planes(self, x: Array, matrix: Array) -> Array:
        """Complex rows (b, s, n) times the transpose of a real matrix (b, k, n): real parts (b, s, k), then imaginary.

        From the left: BLAS takes half as long again for a product with a transpose on the right.
        """
        xp = self.xp
        y = xp.concat([xp.real(x), xp.imag(x)], axis=1)
        return xp.matrix_transpose(xp.matmul(matrix, xp.matrix_transpose(y)))

    def _complex(self, planes: Array) -> Array:
        count = planes.shape[1] // 2
        return self.ops.complex(planes[:, :count, :], planes[:, count:, :])


def starts(blocks: Array, count: int, random: int, seed: int, *, ops: ArrayOps) -> tuple[Array, list[Array]]:
    """Right vectors and spatial vectors to start from: the best ``count`` coarse frequencies, then random ones."""
    xp = ops.xp
    b, _, p, *sizes = blocks.shape

    def per_block(x: np.ndarray) -> Array:
        constant = ops.from_numpy(x, blocks)
        return xp.broadcast_to(constant, (b, *constant.shape[1:]))

    host = "complex128" if blocks.dtype == xp.float64 else "complex64"
    v, *modes = map(per_block, _waves(seed, p, tuple(sizes), host))
    form = Form(blocks, ops=ops)
    weights = form.weights(modes)
    v, value = arrays.unit(form.right(form.rows(v, weights), modes), xp=xp)
    _, v, modes = best(value, v, modes, count, xp=xp)
    if sizes and random:
        extra = map(per_block, _random(seed, random, p, tuple(sizes), host))
        v, *modes = (xp.concat([x, more], axis=1) for x, more in zip([v, *modes], extra, strict=True))
    return v, modes


def best(value: Array, v: Array, modes: list[Array], count: int, *, xp: Namespace) -> tuple[Array, Array, list[Array]]:
    """The iterates with the largest values, of each block."""
    if count >= value.shape[1]:
        return value, v, modes
    order = xp.argsort(value, axis=1, descending=True)[:, :count]

    def taken(x: Array) -> Array:
        index = xp.broadcast_to(order[:, :, None], (*order.shape, x.shape[2]))
        return xp.take_along_axis(x, index, axis=1)

    return xp.take_along_axis(value, order, axis=1), taken(v), [taken(x) for x in modes]


@functools.lru_cache(maxsize=256)
def _waves(seed: int, p: int, sizes: tuple[int, ...], dtype: str) -> tuple[np.ndarray, ...]:
    """An iterate at every coarse frequency, (1, s, ...), on the host: a right vector at random, and the waves."""
    angles = coarse_grid(sizes).angles
    return units([arrays.random_vectors(seed, (len(angles), p)), *waves(angles, sizes)], dtype)


@functools.lru_cache(maxsize=256)
def _random(seed: int, count: int, p: int, sizes: tuple[int, ...], dtype: str) -> tuple[np.ndarray, ...]:
    return units([arrays.random_vectors(seed + 1 + j, (count, k)) for j, k in enumerate([p, *sizes])], dtype)


def waves(angles: np.ndarray, sizes: tuple[int, ...]) -> list[np.ndarray]:
    """Fourier vectors of some frequencies (s, d), one (s, size) an axis; ones where there is no axis."""
    found = [np.exp(1j * np.outer(angles[:, j], np.arange(k))) for j, k in enumerate(sizes)]
    return found or [np.ones((len(angles), 1))]


def units(found: list[np.ndarray], dtype: str) -> tuple[np.ndarray, ...]:
    """Rows of unit length, (1, s, n) each."""
    return tuple((x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(dtype)[None, ...] for x in found)
