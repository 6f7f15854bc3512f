"""The multilinear form behind TN, ``sum K[o,i,k,l] u_o v_i a_k b_l``, and the vectors to climb it from."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from specnorm import arrays
from specnorm.frequencies import coarse_grid

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
        u, _ = self.left(v, self.weights(modes))
        return self.onward(u, modes)

    def onward(self, u: Array, modes: list[Array]) -> tuple[Array, list[Array], Array]:
        """All but the first part of `sweep`."""
        xp = self.xp
        rows = self.rows(u)
        seen = xp.matmul(rows, self.weights(modes)[..., None])
        c = xp.matmul(arrays.adjoint(rows, xp=xp), seen)
        modes = self._spatial(xp.reshape(c, (*c.shape[:2], *(self.sizes or (1,)))), modes)
        v, value = self.right(rows, self.weights(modes))
        return v, modes, value

    def follow(self, v: Array, modes: list[Array], sweeps: int) -> tuple[Array, Array, list[Array], Array]:
        """Sweeps for a kernel that has moved a little: (u, v, modes, value); what would be destroyed is kept."""
        xp = self.xp
        u, value = self.left(v, self.weights(modes))
        for j in range(sweeps):
            if j:
                u, _ = self.left(v, self.weights(modes))
            moved, spatial, value = self.onward(u, modes)
            good = ((value > 0) & xp.isfinite(value))[..., None]
            v, *modes = (xp.where(good, new, old) for new, old in zip((moved, *spatial), (v, *modes), strict=True))
        return u, v, modes, value

    def polish(self, v: Array, modes: list[Array]) -> Array:
        """Right vectors, the first few of them carried on by `_POWER` power iterations at their own spatial vectors.

        A kernel contracted with spatial vectors is a matrix, and powers of its smaller Gram matrix cost little. Sweeps
        alone converge slowly there: a penalty makes singular values nearly equal. Large kernels have none carried on.
        """
        xp = self.xp
        count = min(v.shape[1], _POLISHED, max(1, self.taps // 2), (_SHORT // min(self.m, self.p)) ** 2)
        if not count:
            return v
        weights = self.weights([x[:, :count, :] for x in modes])
        taps = xp.reshape(self.by_row, (self.b, self.m * self.p, self.taps))
        matrix = xp.reshape(self._through(weights, xp.matrix_transpose(taps)), (self.b, count, self.m, self.p))
        half, wide = arrays.adjoint(matrix, xp=xp), self.m < self.p
        gram = xp.matmul(matrix, half) if wide else xp.matmul(half, matrix)
        power = 1
        while power < _POWER:
            # No entry of a positive semidefinite matrix is larger than the largest on its diagonal.
            size = xp.max(xp.real(xp.linalg.diagonal(gram)), axis=-1)[..., None, None]
            gram = gram / xp.astype(xp.where(size > 0, size, xp.ones_like(size)), gram.dtype)
            gram, power = xp.matmul(gram, gram), 2 * power
        here = v[:, :count, :]
        moved = xp.matmul(matrix, here[..., None]) if wide else here[..., None]
        moved = xp.matmul(gram, moved)
        moved, norm = arrays.unit((xp.matmul(half, moved) if wide else moved)[..., 0], xp=xp)
        good = ((norm > 0) & xp.isfinite(norm))[..., None]
        return xp.concat([xp.where(good, moved, here), v[:, count:, :]], axis=1)

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


_POLISHED, _POWER, _SHORT = 4, 8, 64
"""How many climbers are polished a step, to which power of their Gram matrices, and the longest shorter side of a
kernel that has any polished: fewer where the taps are few (memory) or the channels many (time)."""
_ALIKE = 0.8
"""Overlap of two climbers' rank-one tensors from which the lower one starts anew."""


def climbers(p: int, sizes: tuple[int, ...]) -> int:
    """How many sets of vectors a training state keeps: more where they are small."""
    return 32 if p * math.prod(sizes) < 512 else 16


@functools.lru_cache(maxsize=256)
def homes(seed: int, p: int, sizes: tuple[int, ...], dtype: str) -> np.ndarray:
    """Vectors (1, s, p + sum of sizes) that climbers start anew from: a coarse frequency each, a random v."""
    count = climbers(p, sizes)
    v, *waves = _waves(seed + 101, p, sizes, dtype)
    places = np.arange(count) * v.shape[1] // count
    right = _units([arrays.random_vectors(seed + 101, (count, p))], dtype)
    return np.concatenate([*right, *(x[:, places, :] for x in waves)], axis=2)


def needless(v: Array, weights: Array, value: Array, *, xp: Any, backend: Backend) -> Array:
    """Which climbers (b, s) stand where a higher one stands; if none, the lowest.

    Training under a penalty or a constraint lowers the highest maximum until another one is higher, and a climber does
    not cross from one to the other. So those that are not needed start anew, and look for the next one.
    """
    overlap = xp.matmul(v, arrays.adjoint(v, xp=xp)) * xp.matmul(weights, arrays.adjoint(weights, xp=xp))
    earlier = backend.from_numpy(np.tri(value.shape[1], k=-1, dtype=bool).T[None, ...], value)
    here, there = value[:, :, None], value[:, None, :]
    above = (here > there) | ((here == there) & earlier)
    alike = xp.any(above & (xp.abs(overlap) > _ALIKE), axis=1)
    lowest = (value == xp.min(value, axis=1, keepdims=True)) & (value < xp.max(value, axis=1, keepdims=True))
    return alike | (lowest & ~xp.any(alike, axis=1, keepdims=True))


def polished_first(value: Array, *, xp: Any, backend: Backend) -> Array:
    """Order (b, s) with the highest climbers first, which the next step polishes; the others stay in their order."""
    slots = backend.from_numpy(np.arange(value.shape[1]), value)
    high = value >= xp.sort(value, axis=1, descending=True)[:, _POLISHED - 1 : _POLISHED]
    return xp.argsort(xp.where(high, slots - value.shape[1], slots), axis=1)


def anew(fresh: Array, climbers: Array, leader: Array, p: int, *, xp: Any) -> Array:
    """Where climbers start, (b, s, n): from home, but for what the highest one (b, n) has seen."""
    right = xp.broadcast_to(fresh[:, :, :p], (*climbers.shape[:2], p))
    seen = leader[:, None, :p]
    rest, norm = arrays.unit(right - xp.vecdot(seen, right)[..., None] * seen, xp=xp)
    right = xp.where((norm > 0.1)[..., None], rest, right)
    modes = xp.broadcast_to(fresh[:, :, p:], (*climbers.shape[:2], fresh.shape[2] - p))
    return xp.concat([right, modes], axis=2)
