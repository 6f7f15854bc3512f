"""TN: the spectral norm of the kernel as a tensor, times the root of its number of taps (Grishina et al. 2024).

``TN(K) = sqrt(prod k_j) max |sum K[o,i,k,l] u_o v_i a_k b_l|`` over unit complex vectors; ``sigma* <= TN``. The maximum
is approached from below by alternating maximisation, so the computed value is an estimate of TN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from specnorm import arrays, operators
from specnorm.frequencies import Frequencies, half_grid
from specnorm.methods.base import Evaluation, Method, check_count

if TYPE_CHECKING:
    from specnorm.backends import Array, Backend
    from specnorm.conv import ConvSpec
    from specnorm.result import Kind
    from specnorm.rounding import Rounds


@dataclass(frozen=True)
class TensorNorm(Method):
    """Tensor-norm bound by alternating maximisation from Fourier starts.

    Parameters
    ----------
    starts : int
        Fourier starts: the best frequencies of a coarse grid.
    random_starts : int
        Further complex Gaussian starts, seeded.
    max_iter : int
        Most sweeps over all vectors.
    seed : int
        Of the start vectors; the same on every backend.

    References
    ----------
    .. [1] Grishina, Gorbunov, Rakhuba, "Tight and Efficient Upper Bound on Spectral Norm of Convolutional Layers",
       ECCV 2024, arXiv:2409.11859.
    """

    starts: int = 4
    random_starts: int = 8
    max_iter: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("starts", self.starts, least=1)
        check_count("random_starts", self.random_starts)
        check_count("max_iter", self.max_iter, least=1)
        check_count("seed", self.seed)

    name: ClassVar[str] = "tn"
    stats: ClassVar[Mapping[str, Rounds | None]] = {"iterations": None}

    def kind(self, spec: ConvSpec) -> Kind:
        """Estimate: a maximisation that stopped somewhere proves nothing about the maximum."""
        del spec
        return "estimate"

    def forward(self, blocks: Array, spec: ConvSpec, *, xp: Any, backend: Backend) -> Evaluation:
        """Maximise from all starts at once and keep the best of each block."""
        del spec
        form = _Form(blocks, xp=xp)
        v, modes = _starts(self, blocks, xp=xp, backend=backend)
        tol = 2e-7 if blocks.dtype == xp.float32 else 1e-11

        def cond(state: tuple[Array, ...]) -> Array:
            return (state[0] < self.max_iter) & (xp.max(state[1]) > tol)

        def body(state: tuple[Array, ...]) -> tuple[Array, ...]:
            count, _, value, v, *modes = state
            v, modes, new = form.sweep(v, modes)
            gain = xp.where(new > 0, (new - value) / xp.where(new > 0, new, xp.ones_like(new)), xp.zeros_like(new))
            return (count + 1, gain, new, v, *modes)

        zero = xp.zeros(v.shape[:2], dtype=blocks.dtype, device=backend.device(blocks))
        count = xp.zeros((), dtype=xp.int32, device=backend.device(blocks))
        count, _, value, v, *modes = backend.loop(cond, body, (count, zero + 1, zero, v, *modes))

        best = xp.argmax(value, axis=1, keepdims=True)[:, :, None]
        v, *modes = (
            xp.take_along_axis(x, xp.broadcast_to(best, (x.shape[0], 1, x.shape[2])), axis=1) for x in (v, *modes)
        )
        u, norm = form.left(v, form.weights(modes))
        taps = math.prod(blocks.shape[3:])
        iterations = xp.broadcast_to(count, (blocks.shape[0],))
        residuals = (xp.conj(u[:, 0, :]), v[:, 0, :], form.weights(modes)[:, 0, :])
        # Lifted by the rounding of the last contraction: where TN equals sigma*, rounding alone would fall below it.
        lifted = norm[:, 0, 0] * (math.sqrt(taps) * (1 + 8 * float(xp.finfo(blocks.dtype).eps)))
        return Evaluation(lifted, (iterations,), residuals)

    def pullback(self, residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Any) -> Array:
        """Envelope theorem: sqrt(taps) Re(u o v o a o b), the vectors held constant."""
        u, v, w = residuals
        scaled = cotangent * math.sqrt(math.prod(spec.block_kernel_shape))
        return operators.triple_gradient(u, v, w, scaled, spec.block_kernel_shape, xp=xp)


class _Form:
    """The multilinear form f(u, v, modes) = sum K u v (x)modes of a stack of blocks, for s starts each."""

    def __init__(self, blocks: Array, *, xp: Any) -> None:
        self.xp = xp
        self.b, self.m, self.p, *self.sizes = blocks.shape
        self.taps = math.prod(self.sizes)
        flat = xp.reshape(blocks, (self.b, self.m * self.p, self.taps))
        self.by_tap = xp.permute_dims(flat, (0, 2, 1))
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
        mixed = xp.matmul(xp.real(weights), self.by_tap) + 1j * xp.matmul(xp.imag(weights), self.by_tap)
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
            for axis in range(3):
                rest = c
                for other in (2, 1, 0):
                    if other != axis:
                        shape = (*c.shape[:2], *(self.sizes[j] if j == other else 1 for j in range(3)))
                        rest = xp.sum(rest * xp.reshape(modes[other], shape), axis=2 + other, keepdims=True)
                modes[axis], norm = arrays.normalise(xp.conj(xp.reshape(rest, (*c.shape[:2], -1))), xp=xp)
        return modes, norm[..., 0]


def coarse_grid(kernel_shape: tuple[int, ...]) -> Frequencies:
    """Twice as many points an axis as taps, fewer where that makes more than 512."""
    sizes = [1 if k == 1 else 2 * k for k in kernel_shape]
    while math.prod(sizes) > 512:
        longest = max(range(len(sizes)), key=sizes.__getitem__)
        sizes[longest] = (sizes[longest] + 1) // 2
    return half_grid(sizes)


def _starts(method: TensorNorm, blocks: Array, *, xp: Any, backend: Backend) -> tuple[Array, list[Array]]:
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
