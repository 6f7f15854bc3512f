"""The multilinear form behind TN, ``sum K[o,i,k,l] u_o v_i a_k b_l``, and the vectors to climb it from."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from specnorm import arrays, operators
from specnorm.frequencies import coarse_grid

if TYPE_CHECKING:
    from specnorm.backends import Array, Backend
    from specnorm.methods.tensor_norm import TensorNorm


class Form:
    """The multilinear form f(u, v, modes) = sum K u v (x)modes of a stack of blocks, for s starts each."""

    def __init__(self, blocks: Array, *, xp: Any) -> None:
        self.xp = xp
        self.b, self.m, self.p, *self.sizes = blocks.shape
        self.taps = math.prod(self.sizes)
        self.blocks = blocks
        self.by_row = xp.reshape(blocks, (self.b, self.m, self.p * self.taps))

    def weights(self, modes: list[Array]) -> Array:
        """Outer product of the spatial vectors, shape (b, s, taps)."""
        xp = self.xp
        out = modes[0]
        for mode in modes[1:]:
            out = xp.reshape(out[:, :, :, None] * mode[:, :, None, :], (*out.shape[:2], -1))
        return out

    def matrix(self, weights: Array) -> Array:
        """Contract the taps, shape (b, s, m, p)."""
        xp = self.xp
        by_tap = xp.matrix_transpose(xp.reshape(self.blocks, (self.b, self.m * self.p, self.taps)))
        mixed = xp.matmul(xp.real(weights), by_tap) + 1j * xp.matmul(xp.imag(weights), by_tap)
        return xp.reshape(mixed, (self.b, -1, self.m, self.p))

    def left(self, v: Array, weights: Array) -> tuple[Array, Array]:
        """Best u for the other vectors, and the form's value there."""
        xp = self.xp
        return arrays.normalise(xp.conj(xp.matmul(self.matrix(weights), v[..., None])[..., 0]), xp=xp)

    def sweep(self, v: Array, modes: list[Array]) -> tuple[Array, list[Array], Array]:
        """Update u, v (two power steps on their matrix), then the spatial vectors. Never decreases the form."""
        xp = self.xp
        mixed = self.matrix(self.weights(modes))
        for _ in range(2):
            u, _ = arrays.normalise(xp.conj(xp.matmul(mixed, v[..., None])[..., 0]), xp=xp)
            v, _ = arrays.normalise(xp.conj(xp.matmul(u[..., None, :], mixed)[..., 0, :]), xp=xp)
        rows = xp.matmul(xp.real(u), self.by_row) + 1j * xp.matmul(xp.imag(u), self.by_row)
        rows = xp.reshape(rows, (self.b, -1, self.p, self.taps))
        spatial = xp.matmul(v[..., None, :], rows)[..., 0, :]
        modes, value = self._spatial(xp.reshape(spatial, (*spatial.shape[:2], *self.sizes)), modes)
        return v, modes, value

    def _spatial(self, c: Array, modes: list[Array]) -> tuple[list[Array], Array]:
        xp = self.xp
        if len(self.sizes) <= 1:
            flat = xp.reshape(c, (*c.shape[:2], -1))
            unit, norm = arrays.normalise(xp.conj(flat), xp=xp)
            return [unit], norm[..., 0]
        if len(self.sizes) == 2:
            left, values, right = xp.linalg.svd(c, full_matrices=False)
            return [xp.conj(left[..., :, 0]), xp.conj(right[..., 0, :])], values[..., 0]
        modes = list(modes)
        for _ in range(2):
            modes, value = self._alternate(c, modes)
        return modes, value

    def _alternate(self, c: Array, modes: list[Array]) -> tuple[list[Array], Array]:
        """Best vector of one axis after the other for the spatial form c, shape (b, s, *sizes)."""
        xp, modes, count = self.xp, list(modes), len(modes)
        for axis in range(count):
            rest = c
            for other in reversed(range(count)):
                if other != axis:
                    shape = [1] * count
                    shape[other] = modes[other].shape[2]
                    rest = xp.sum(
                        rest * xp.reshape(modes[other], (*c.shape[:2], *shape)), axis=2 + other, keepdims=True
                    )
            rest = xp.conj(xp.reshape(rest, (*c.shape[:2], -1)))
            modes[axis], norm = arrays.normalise_or_keep(rest, modes[axis], xp=xp)
        return modes, norm[..., 0]

    def follow(self, v: Array, modes: list[Array], sweeps: int) -> tuple[Array, Array, list[Array], Array]:
        """Sweeps for a kernel that has moved a little: (u, v, modes, value), two products with the kernel each.

        Unlike `sweep` it contracts the kernel with u first, so that nothing of the kernel's size is made for each
        start, and takes no singular value decomposition.
        """
        xp = self.xp
        u, value = self._left(v, modes)
        for j in range(sweeps):
            if j:
                u, _ = self._left(v, modes)
            rows = xp.matmul(xp.real(u), self.by_row) + 1j * xp.matmul(xp.imag(u), self.by_row)
            rows = xp.reshape(rows, (self.b, -1, self.p, self.taps))
            for _ in range(2):
                mixed = xp.conj(xp.matmul(rows, self.weights(modes)[..., None])[..., 0])
                v, _ = arrays.normalise_or_keep(mixed, v, xp=xp)
                c = xp.matmul(v[..., None, :], rows)[..., 0, :]
                modes, value = self._alternate(xp.reshape(c, (*c.shape[:2], *(self.sizes or (1,)))), modes)
        return u, v, modes, value

    def _left(self, v: Array, modes: list[Array]) -> tuple[Array, Array]:
        """`left`, by one product with the kernel."""
        xp = self.xp
        right = xp.reshape(v[..., None] * self.weights(modes)[:, :, None, :], (*v.shape[:2], -1))
        columns = xp.matrix_transpose(self.by_row)
        mixed = xp.matmul(xp.real(right), columns) + 1j * xp.matmul(xp.imag(right), columns)
        u, norm = arrays.normalise(xp.conj(mixed), xp=xp)
        return u, norm[..., 0]


def starts(method: TensorNorm, blocks: Array, *, xp: Any, backend: Backend) -> tuple[Array, list[Array]]:
    """Right vectors and spatial vectors to start from: the best coarse frequencies, then random ones."""
    b, _, p, *sizes = blocks.shape
    frequencies = coarse_grid(tuple(sizes))
    symbol = operators.Symbol(blocks, frequencies, xp=xp, backend=backend)
    kind = arrays.complex_dtype(blocks.dtype, xp=xp)

    def constant(x: np.ndarray) -> Array:
        dtype = np.complex128 if kind == xp.complex128 else np.complex64
        return backend.from_numpy(x.astype(dtype), blocks)

    def per_block(x: Array) -> Array:
        return xp.broadcast_to(x, (b, *x.shape[1:]))

    v = per_block(constant(arrays.random_vectors(method.seed, (1, len(frequencies), p))))
    for _ in range(4):
        v, _ = arrays.normalise(symbol.apply_adjoint(symbol.apply(v)), xp=xp)
    norms = xp.linalg.vector_norm(symbol.apply(v), axis=-1)
    count = min(method.starts, len(frequencies))
    best = xp.argsort(norms, axis=1, descending=True)[:, :count]
    v = xp.take_along_axis(v, xp.broadcast_to(best[:, :, None], (b, count, p)), axis=1)
    waves = [
        np.exp(1j * np.outer(frequencies.angles[:, j], np.arange(k))) / math.sqrt(k) for j, k in enumerate(sizes)
    ] or [np.ones((len(frequencies), 1))]
    modes = [
        xp.take_along_axis(
            per_block(constant(wave[None])), xp.broadcast_to(best[:, :, None], (b, count, wave.shape[1])), axis=1
        )
        for wave in waves
    ]
    if sizes and method.random_starts:
        extra = [
            arrays.random_vectors(method.seed + 1 + j, (1, method.random_starts, k)) for j, k in enumerate([p, *sizes])
        ]
        units = [per_block(constant(x / np.linalg.norm(x, axis=-1, keepdims=True))) for x in extra]
        v = xp.concat([v, units[0]], axis=1)
        modes = [xp.concat([mode, unit], axis=1) for mode, unit in zip(modes, units[1:], strict=True)]
    return v, modes


CLIMBERS = 16
"""Vectors that a training state keeps for each block."""
_ALIKE = 0.8
"""Overlap of two climbers' rank-one tensors from which the lower one starts anew."""


def homes(method: TensorNorm, blocks: Array, *, xp: Any, backend: Backend) -> tuple[Array, list[Array]]:
    """Vectors that climbers start anew from, (1, s, ...): a coarse frequency each, a right vector at random."""
    _, _, p, *sizes = blocks.shape
    host = "complex128" if blocks.dtype == xp.float64 else "complex64"
    v, *modes = (backend.from_numpy(x, blocks) for x in _homes(method.seed, p, tuple(sizes), host))
    return v, modes


@functools.lru_cache(maxsize=256)
def _homes(seed: int, p: int, sizes: tuple[int, ...], dtype: str) -> tuple[np.ndarray, ...]:
    """`homes` on the host: the same at every step."""
    angles = coarse_grid(sizes).angles
    places = np.arange(CLIMBERS) * len(angles) // CLIMBERS
    waves = [np.exp(1j * np.outer(angles[places, j], np.arange(k))) for j, k in enumerate(sizes)]
    found = [arrays.random_vectors(seed + 101, (CLIMBERS, p)), *(waves or [np.ones((CLIMBERS, 1))])]
    return tuple((x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(dtype)[None, ...] for x in found)


def spread(
    v: Array, modes: list[Array], value: Array, fresh: tuple[Array, list[Array]], *, xp: Any
) -> tuple[Array, list[Array]]:
    """Send climbers home that stand where a higher one stands.

    Training under a penalty or a constraint lowers the highest maximum until another one is higher, and a climber does
    not cross from one to the other. So those that are not needed are kept on their way: from their home, without what
    the highest one has seen.
    """
    overlap: Array = 1.0
    for x in (v, *modes):
        overlap = overlap * xp.abs(xp.matmul(x, arrays.adjoint(x, xp=xp)))
    place = xp.cumulative_sum(xp.ones_like(value), axis=1)
    above = value[:, :, None] > value[:, None, :]
    above = above | ((value[:, :, None] == value[:, None, :]) & (place[:, :, None] < place[:, None, :]))
    doomed = xp.any(above & (overlap > _ALIKE), axis=1)[..., None]
    best = arrays.pick(v, xp.argmax(value, axis=1), xp=xp)[:, None, :]
    seen = xp.sum(xp.conj(best) * fresh[0], axis=-1, keepdims=True)
    start, _ = arrays.normalise_or_keep(fresh[0] - seen * best, xp.broadcast_to(fresh[0], v.shape), xp=xp)
    return xp.where(doomed, start, v), [xp.where(doomed, y, x) for x, y in zip(modes, fresh[1], strict=True)]
