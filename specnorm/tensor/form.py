"""The multilinear form behind TN, ``sum K[o,i,k,l] u_o v_i a_k b_l``, and the vectors to maximise it from."""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from specnorm.linalg import arrays
from specnorm.linalg.frequencies import coarse_grid

if TYPE_CHECKING:
    from specnorm.types import Array, ArrayOps, Namespace


class Sweep(NamedTuple):
    """What a sweep leaves.

    Parameters
    ----------
    v : array, shape (b, s, p)
    modes : list of arrays, shape (b, s, k_j)
    value : array, shape (b, s)
        Of the form there.
    before : array, shape (b, s)
        Value where the sweep began, with u at its best.
    image : array, shape (b, s, p)
        The best v for the spatial vectors that the sweep began with, times the value there.
    """

    v: Array
    modes: list[Array]
    value: Array
    before: Array
    image: Array


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
        xp = self.xp
        out = modes[0]
        for mode in modes[1:]:
            out = xp.reshape(out[:, :, :, None] * mode[:, :, None, :], (*out.shape[:2], -1))
        return out

    def left(self, v: Array, weights: Array) -> tuple[Array, Array]:
        """Best u for the other vectors, shape (b, s, m), and the form's value there, (b, s)."""
        xp = self.xp
        y = self._planes(self._pairs(v, weights), self.by_row)
        return arrays.unit(xp.conj(self._complex(y)), xp=xp)

    def rows(self, v: Array, weights: Array) -> tuple[Array, Array]:
        """Contract the output channels with the best u, shape (b, s, p, taps), and the form's value there, (b, s)."""
        xp, count = self.xp, v.shape[1]
        y = self._planes(self._pairs(v, weights), self.by_row)
        squares = xp.vecdot(y, y)
        value = xp.sqrt(squares[:, :count] + squares[:, count:])
        factor = arrays.inverse(value)
        u = y * xp.concat([factor, -factor], axis=1)[..., None]
        return xp.reshape(self._complex(xp.matmul(u, self.by_row)), (*v.shape[:2], self.p, self.taps)), value

    def right(self, rows: Array, weights: Array) -> Array:
        """Best v for the other vectors times the form's value there, shape (b, s, p)."""
        xp = self.xp
        return xp.conj(xp.matmul(rows, weights[..., None])[..., 0])

    def sweep(self, v: Array, modes: list[Array]) -> Sweep:
        """Update u, then the spatial vectors with v at its best, then v. Never decreases the form."""
        xp = self.xp
        weights = self.weights(modes)
        rows, before = self.rows(v, weights)
        image = self.right(rows, weights)
        c = xp.conj(xp.matmul(xp.matrix_transpose(rows), image[..., None]))
        modes = self._spatial(xp.reshape(c, (*c.shape[:2], *self.lengths)), modes)
        v, value = arrays.unit(self.right(rows, self.weights(modes)), xp=xp)
        return Sweep(v, modes, value, before, image)

    def matrices(self, weights: Array) -> Array:
        """The form at fixed spatial vectors, (b, s, m, p)."""
        xp = self.xp
        taps = xp.reshape(self.by_row, (self.b, self.m * self.p, self.taps))
        found = self._complex(self._planes(weights, taps))
        return xp.reshape(found, (*weights.shape[:2], self.m, self.p))

    def split(self, vectors: Array) -> list[Array]:
        """Right vectors and spatial vectors of iterates (b, s, p + sum of sizes)."""
        ends = list(itertools.accumulate([self.p, *self.lengths]))
        return [vectors[:, :, first:end] for first, end in itertools.pairwise([0, *ends])]

    def _spatial(self, c: Array, modes: list[Array]) -> list[Array]:
        """Best vector of one axis after the other for the conjugate spatial form c, shape (b, s, *sizes)."""
        xp, modes, count = self.xp, list(modes), len(modes)
        for axis in range(count):
            rest = c
            for other in reversed(range(count)):
                if other != axis:
                    if other + 3 < rest.ndim:
                        rest = xp.moveaxis(rest, other + 2, -1)
                    factor = xp.conj(modes[other])[(..., *(None,) * (rest.ndim - 4), slice(None), None)]
                    rest = xp.matmul(rest, factor)[..., 0]
            modes[axis], _ = arrays.unit(rest, xp=xp)
        return modes

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
    rows, _ = form.rows(v, weights)
    v, value = arrays.unit(form.right(rows, weights), xp=xp)
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
    """Iterates with random vectors."""
    return units([arrays.random_vectors(seed + 1 + j, (count, k)) for j, k in enumerate([p, *sizes])], dtype)


def waves(angles: np.ndarray, sizes: tuple[int, ...]) -> list[np.ndarray]:
    """Fourier vectors of some frequencies (s, d), one (s, size) an axis; ones where there is no axis."""
    found = [np.exp(1j * np.outer(angles[:, j], np.arange(k))) for j, k in enumerate(sizes)]
    return found or [np.ones((len(angles), 1))]


def units(found: list[np.ndarray], dtype: str) -> tuple[np.ndarray, ...]:
    """Rows of unit length, (1, s, n) each."""
    return tuple((x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(dtype)[None, ...] for x in found)
