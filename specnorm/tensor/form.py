"""The multilinear form behind TN, ``sum K[o,i,k,l] u_o v_i a_k b_l``, and the vectors to maximise it from."""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from specnorm import arrays
from specnorm.problem.frequencies import coarse_grid

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
    before_sq : array, shape (b, s)
        Value where the sweep began, with u at its best, squared.
    image : array, shape (b, s, p)
        The best v for the spatial vectors that the sweep began with, times the value there.
    """

    v: Array
    modes: list[Array]
    value: Array
    before_sq: Array
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
        self._dtype = "float64" if blocks.dtype == xp.float64 else "float32"
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
        y = self._planes(self._pairs(xp.conj(v), xp.conj(weights)), self.by_row)
        return arrays.unit(self._complex(y), xp=xp)

    def rows(self, v: Array, weights: Array) -> tuple[Array, Array]:
        """Contract the output channels with the best u, shape (b, s, p, taps), and the form's value squared, (b, s)."""
        xp, count = self.xp, v.shape[1]
        y = self._planes(self._pairs(xp.conj(v), xp.conj(weights)), self.by_row)
        squares = xp.vecdot(y, y)
        squared = squares[:, :count] + squares[:, count:]
        factor = arrays.inverse(xp.sqrt(squared))
        u = y * xp.concat([factor, factor], axis=1)[..., None]
        return xp.reshape(self._complex(xp.matmul(u, self.by_row)), (*v.shape[:2], self.p, self.taps)), squared

    def right(self, rows: Array, modes: list[Array]) -> Array:
        """Best v for the other vectors times the form's value there, shape (b, s, p)."""
        xp, rest = self.xp, rows
        for mode in reversed(modes):
            rest = xp.reshape(rest, (*rows.shape[:2], -1, mode.shape[2]))
            rest = xp.matmul(rest, mode[..., None])[..., 0]
        return xp.conj(rest)

    def sweep(self, v: Array, modes: list[Array]) -> Sweep:
        """Update u, then the spatial vectors with v at its best, then v. Never decreases the form."""
        xp = self.xp
        weights = self.weights(modes)
        rows, before_sq = self.rows(v, weights)
        image = self.right(rows, modes)
        c = xp.matmul(image[:, :, None, :], rows)
        modes = self._spatial(xp.reshape(c, (*c.shape[:2], *self.lengths)), modes)
        # Of vectors of all blocks in a row, less is compiled than of a stack of a few.
        found, value = arrays.unit(xp.reshape(self.right(rows, modes), (-1, self.p)), xp=xp)
        return Sweep(xp.reshape(found, v.shape), modes, xp.reshape(value, v.shape[:2]), before_sq, image)

    def matrices(self, weights: Array) -> Array:
        """The form at fixed spatial vectors, (b, s, m, p)."""
        xp = self.xp
        taps = xp.reshape(self.by_row, (self.b, self.m * self.p, self.taps))
        found = self._complex(self._planes(weights, taps))
        return xp.reshape(found, (*weights.shape[:2], self.m, self.p))

    def split(self, vectors: Array) -> list[Array]:
        """Right vectors and spatial vectors of iterates (b, s, p + sum of sizes)."""
        return [vectors[:, :, : self.p], *self.modes(vectors[:, :, self.p :])]

    def modes(self, spatial: Array) -> list[Array]:
        """Spatial vectors (b, s, sum of sizes), axis by axis."""
        ends = list(itertools.accumulate(self.lengths))
        return [spatial[:, :, first:end] for first, end in itertools.pairwise([0, *ends])]

    def duplicates(self, vectors: Array, value: Array, overlap: float) -> Array:
        """Which iterates, vectors (b, s, p + sum of sizes), stand where one with a higher value stands, shape (b, s).

        Where the inner product of their rank-one tensors, the product of that of their vectors, is above ``overlap``.
        """
        xp, kinds, s = self.xp, 1 + len(self.lengths), vectors.shape[1]
        real, imag = xp.real(vectors), xp.imag(vectors)
        # Real and imaginary parts, of all vectors of an iterate, in one real product.
        x = xp.concat([real, imag], axis=2)
        rows = xp.concat([x, xp.concat([imag, -real], axis=2)], axis=1)
        entries = self.ops.from_numpy(_each_vector((self.p, *self.lengths), self._dtype), value)
        each = xp.reshape(x[:, None, :, :] * entries, (self.b, kinds * s, -1))
        products = xp.reshape(xp.matmul(rows, xp.matrix_transpose(each)), (self.b, 2, s, kinds, s))
        alike = xp.prod(xp.sum(products**2, axis=1), axis=2) > overlap**2
        earlier = self.ops.from_numpy(_earlier(s), value)
        here, there = value[:, :, None], value[:, None, :]
        return xp.any(alike & ((here > there) | ((here == there) & earlier)), axis=1)

    def _spatial(self, c: Array, modes: list[Array]) -> list[Array]:
        """Best vector of one axis after the other for the spatial form c, shape (b, s, *sizes)."""
        xp, modes, count = self.xp, list(modes), len(modes)
        for axis in range(count):
            rest = c
            # Axes behind this one are the last when their turn comes, those before it the last but one.
            for other in reversed(range(count)):
                lead = (..., *(None,) * (rest.ndim - 4))
                if other > axis:
                    rest = xp.matmul(rest, modes[other][(*lead, slice(None), None)])[..., 0]
                elif other < axis:
                    rest = xp.matmul(modes[other][(*lead, None, slice(None))], rest)[..., 0, :]
            modes[axis], _ = arrays.unit(xp.conj(rest), xp=xp)
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
    v, value = arrays.unit(form.right(rows, modes), xp=xp)
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


@functools.lru_cache(maxsize=64)
def _each_vector(lengths: tuple[int, ...], dtype: str) -> np.ndarray:
    """Ones where an entry, real or imaginary part, is of an iterate's first vector, of its second ..., (1, k, 1, n)."""
    number = np.repeat(np.arange(len(lengths)), lengths)
    found: np.ndarray = np.tile(number, 2) == np.arange(len(lengths))[:, None]
    return found.astype(dtype)[None, :, None, :]


@functools.lru_cache(maxsize=64)
def _earlier(count: int) -> np.ndarray:
    """Whether i < j, shape (1, count, count)."""
    return np.tri(count, k=-1, dtype=bool).T[None, ...].copy()


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
