"""The multilinear form behind TN, ``sum K[o,i,k,l] u_o v_i a_k b_l``, and the vectors to climb it from."""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from specnorm import arrays
from specnorm.frequencies import coarse_grid, full_grid

if TYPE_CHECKING:
    from specnorm.backends import Array, Backend
    from specnorm.methods.tensor_norm import TensorNorm


class Form:
    """The multilinear form f(u, v, modes) = sum K u v (x)modes of a stack of blocks, for s starts each.

    Every sweep reads the kernel twice, in real products with the vectors of all starts at once.
    """

    def __init__(self, blocks: Array, *, xp: Any, backend: Backend) -> None:
        self.xp, self.backend = xp, backend
        self.b, self.m, self.p, *self.sizes = blocks.shape
        self.taps = math.prod(self.sizes)
        self.by_row = xp.reshape(blocks, (self.b, self.m, self.p * self.taps))
        self.by_column = xp.matrix_transpose(self.by_row)

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
        pairs = xp.reshape(v[..., None] * weights[:, :, None, :], (*v.shape[:2], self.p * self.taps))
        return arrays.unit(xp.conj(self._through(pairs, self.by_column)), xp=xp)

    def rows(self, u: Array) -> Array:
        """Contract the output channels, shape (b, s, p, taps)."""
        return self.xp.reshape(self._through(u, self.by_row), (*u.shape[:2], self.p, self.taps))

    def right(self, rows: Array, weights: Array) -> tuple[Array, Array]:
        """Best v for the other vectors, shape (b, s, p), and the form's value there."""
        xp = self.xp
        return arrays.unit(xp.conj(xp.matmul(rows, weights[..., None])[..., 0]), xp=xp)

    def sweep(self, v: Array, modes: list[Array]) -> tuple[Array, list[Array], Array]:
        """Update u, then the spatial vectors with v at its best, then v. Never decreases the form."""
        xp = self.xp
        u, _ = self.left(v, self.weights(modes))
        rows = self.rows(u)
        seen = xp.matmul(rows, self.weights(modes)[..., None])
        c = xp.matmul(arrays.adjoint(rows, xp=xp), seen)
        modes = self._spatial(xp.reshape(c, (*c.shape[:2], *(self.sizes or (1,)))), modes)
        v, value = self.right(rows, self.weights(modes))
        return v, modes, value

    def follow(self, v: Array, modes: list[Array], sweeps: int) -> tuple[Array, list[Array], Array]:
        """One or more sweeps for a kernel that has moved a little: (v, modes, value); what they would destroy stays."""
        xp = self.xp
        value: Array = None
        for _ in range(sweeps):
            moved, spatial, value = self.sweep(v, modes)
            good = ((value > 0) & xp.isfinite(value))[..., None]
            v, *modes = (xp.where(good, new, old) for new, old in zip((moved, *spatial), (v, *modes), strict=True))
        return v, modes, value

    def polish(self, v: Array, modes: list[Array], count: int) -> Array:
        """Right vectors, the first ``count`` carried on by `_POWER` power iterations at their own spatial vectors.

        A kernel contracted with spatial vectors is a matrix, and products with it cost little. Sweeps alone converge
        slowly there: a penalty makes singular values nearly equal. Of large kernels a few at a time, for their memory.
        """
        xp = self.xp
        room = count if self.m * self.p <= _SMALL_MATRIX else max(1, self.taps // 4)
        taps = xp.matrix_transpose(xp.reshape(self.by_row, (self.b, self.m * self.p, self.taps)))
        done = []
        for first in range(0, count, room):
            some = slice(first, min(first + room, count))
            matrix = self._through(self.weights([x[:, some, :] for x in modes]), taps)
            matrix = xp.reshape(matrix, (*matrix.shape[:2], self.m, self.p))
            back, moved = xp.matrix_transpose(matrix), v[:, some, :]
            for _ in range(_POWER // 2):
                for _ in range(2):
                    moved = xp.conj(xp.matmul(back, xp.conj(xp.matmul(matrix, moved[..., None])))[..., 0])
                moved, norm = arrays.unit(moved, xp=xp)
            good = ((norm > 0) & xp.isfinite(norm))[..., None]
            done.append(xp.where(good, moved, v[:, some, :]))
        return xp.concat([*done, v[:, count:, :]], axis=1)

    def hasten(self, now: Array, before: Array, value: Array) -> tuple[Array, Array, Array]:
        """Sweeps of a few climbers from where their last changes point to, unless that is lower: (u, vectors, value).

        Vectors (b, s, p + sum of sizes), one after the other; ``now`` is a sweep after ``before``. Sweeps converge
        geometrically, and so slowly where maxima are nearly equal.
        """
        xp = self.xp
        for ahead in _AHEAD:
            # Only the directions of vectors count in a sweep.
            v, *modes = self.split(now + ahead * (now - before))
            v, modes, reached = self.sweep(v, modes)
            better = (reached >= value) & (reached > 0) & xp.isfinite(reached)
            before, value = now, xp.where(better, reached, value)
            now = xp.where(better[..., None], xp.concat([v, *modes], axis=2), now)
        v, *modes = self.split(now)
        u, value = self.left(v, self.weights(modes))
        return u, now, value

    def split(self, vectors: Array) -> list[Array]:
        """Right and spatial vectors of climbers (b, s, p + sum of sizes)."""
        ends = list(itertools.accumulate([self.p, *(self.sizes or [1])]))
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

    def _through(self, x: Array, matrix: Array) -> Array:
        """Complex rows (b, s, n) times a real matrix (b, n, k), as one real product."""
        xp, count = self.xp, x.shape[1]
        y = xp.matmul(xp.concat([xp.real(x), xp.imag(x)], axis=1), matrix)
        return self.backend.complex(y[:, :count, :], y[:, count:, :])


def extrapolated(x: Array, before: Array, ahead: Array, *, xp: Any) -> Array:
    """Unit vectors (b, s, n) carried on along their last change, ``ahead`` (b, s) times as far."""
    return arrays.unit(x + xp.astype(ahead, x.dtype)[..., None] * (x - before), xp=xp)[0]


def starts(method: TensorNorm, blocks: Array, *, xp: Any, backend: Backend) -> tuple[Array, list[Array]]:
    """Right vectors and spatial vectors to start from: the best coarse frequencies, then random ones."""
    b, _, p, *sizes = blocks.shape

    def per_block(x: np.ndarray) -> Array:
        constant = backend.from_numpy(x, blocks)
        return xp.broadcast_to(constant, (b, *constant.shape[1:]))

    host = "complex128" if blocks.dtype == xp.float64 else "complex64"
    v, *modes = map(per_block, _waves(method.seed, p, tuple(sizes), host))
    form = Form(blocks, xp=xp, backend=backend)
    weights = form.weights(modes)
    u, _ = form.left(v, weights)
    v, value = form.right(form.rows(u), weights)
    _, v, modes = best(value, v, modes, method.starts, xp=xp)
    if sizes and method.random_starts:
        extra = map(per_block, _random(method.seed, method.random_starts, p, tuple(sizes), host))
        v, *modes = (xp.concat([x, more], axis=1) for x, more in zip([v, *modes], extra, strict=True))
    return v, modes


def best(value: Array, v: Array, modes: list[Array], count: int, *, xp: Any) -> tuple[Array, Array, list[Array]]:
    """The climbers with the largest values, of each block."""
    if count >= value.shape[1]:
        return value, v, modes
    order = xp.argsort(value, axis=1, descending=True)[:, :count]

    def taken(x: Array) -> Array:
        index = xp.broadcast_to(order[:, :, None], (*order.shape, x.shape[2]))
        return xp.take_along_axis(x, index, axis=1)

    return xp.take_along_axis(value, order, axis=1), taken(v), [taken(x) for x in modes]


@functools.lru_cache(maxsize=256)
def _waves(seed: int, p: int, sizes: tuple[int, ...], dtype: str) -> tuple[np.ndarray, ...]:
    """A climber at every coarse frequency, (1, s, ...), on the host: a right vector at random, and the waves."""
    angles = coarse_grid(sizes).angles
    waves = [np.exp(1j * np.outer(angles[:, j], np.arange(k))) for j, k in enumerate(sizes)]
    return _units([arrays.random_vectors(seed, (len(angles), p)), *(waves or [np.ones((len(angles), 1))])], dtype)


@functools.lru_cache(maxsize=256)
def _random(seed: int, count: int, p: int, sizes: tuple[int, ...], dtype: str) -> tuple[np.ndarray, ...]:
    """Climbers with random vectors."""
    return _units([arrays.random_vectors(seed + 1 + j, (count, k)) for j, k in enumerate([p, *sizes])], dtype)


def _units(found: list[np.ndarray], dtype: str) -> tuple[np.ndarray, ...]:
    return tuple((x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(dtype)[None, ...] for x in found)


_POWER, _SMALL_MATRIX = 4, 1024
"""Power iterations of a polishing (an even number), and the matrix up to which all are polished at once."""
_AHEAD = (1.0, 3.0)
"""How many times the last change a sweep begins ahead."""
_ALIKE = 0.8
"""Overlap of two climbers' rank-one tensors from which the lower one is not needed."""


class Crew(NamedTuple):
    """Sets of vectors that a training state keeps, and how many of the highest climbers get more than a sweep."""

    scouts: int
    climbers: int
    polished: int
    hastened: int


@functools.lru_cache(maxsize=256)
def crew(p: int, sizes: tuple[int, ...]) -> Crew:
    """More of all where vectors are short; a matrix has one maximum."""
    short = p * math.prod(sizes) < 512
    slots = 8 if math.prod(sizes) == 1 else 32 if short else 16
    scouts = min(len(_lookouts(sizes, short)), slots * 5 // 8)
    return Crew(scouts, slots - scouts, 4 if short else 1, min(8, slots - scouts))


@functools.lru_cache(maxsize=256)
def scouts(seed: int, p: int, sizes: tuple[int, ...], dtype: str) -> np.ndarray:
    """Vectors (1, s, p + sum of sizes): a coarse frequency each, and a random v until they are polished."""
    count = crew(p, sizes).scouts
    angles = _lookouts(sizes, p * math.prod(sizes) < 512)
    angles = angles[np.arange(count) * len(angles) // count]
    waves = [np.exp(1j * np.outer(angles[:, j], np.arange(k))) for j, k in enumerate(sizes)]
    return np.concatenate(_units([arrays.random_vectors(seed + 101, (count, p)), *waves], dtype), axis=2)


def _lookouts(sizes: tuple[int, ...], fine: bool) -> np.ndarray:
    """Frequencies (s, d) of a grid with about as many points an axis as taps, one of each pair of mirror images."""
    sides = np.asarray([1 if k == 1 else min(k + (fine or k == 2), 8) for k in sizes])
    grid = full_grid(sides.tolist()).numerators
    kept = sorted({min(tuple(x.tolist()), tuple((-x % sides).tolist())) for x in grid})
    angles: np.ndarray = 2 * np.pi * np.asarray(kept) / sides
    return angles


def needless(v: Array, weights: Array, value: Array, *, xp: Any, backend: Backend) -> Array:
    """Which climbers (b, s) stand where a higher one stands."""
    overlap = xp.matmul(v, arrays.adjoint(v, xp=xp)) * xp.matmul(weights, arrays.adjoint(weights, xp=xp))
    earlier = backend.from_numpy(np.tri(value.shape[1], k=-1, dtype=bool).T[None, ...], value)
    here, there = value[:, :, None], value[:, None, :]
    above = (here > there) | ((here == there) & earlier)
    return xp.any(above & (xp.abs(overlap) > _ALIKE), axis=1)
