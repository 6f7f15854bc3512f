"""Lower bounds of large zero-padded layers by a sum of waves next to a frequency (`certified.layer.waves`).

The two waves half a step of the shortest circulant beside the frequency, on each axis, make a wave under a sine window.
Each has the best channels at its own frequency, so that these turn with it: of 3x3 layers at 32 pixels the sum is
within 3e-5 to 3e-4 of the norm, and its distance falls by the third power of the size.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm.certified.layer.waves import Waves, norm_by_waves
from specnorm.certified.symbol import symbols
from specnorm.problem.frequencies import product, tap_points
from specnorm.problem.layer_map import sizes_of

if TYPE_CHECKING:
    from specnorm.certified.bound import Lower
    from specnorm.problem.spec import ConvSpec
    from specnorm.types import Array, ArrayOps


class WaveSum:
    """The best sum of the waves beside a frequency, on the large side of a layer of one group.

    Parameters
    ----------
    kernel : array, shape (1, first, second, *kernel_shape)
    spec : ConvSpec
        With ``input_shape``, zero padding, and neither stride nor dilation.
    angles : float array, shape (d,)
        A frequency where the symbol's norm is large.
    """

    def __init__(self, kernel: Array, spec: ConvSpec, angles: np.ndarray, *, ops: ArrayOps) -> None:
        xp = ops.xp
        large, _ = sizes_of(spec)
        sides = [
            np.asarray([0.0]) if k == 1 else angle + np.asarray([-1, 1]) * math.pi / (n + 1)
            for angle, n, k in zip(angles, large, spec.kernel_shape, strict=True)
        ]
        self._factors = [
            np.exp(1j * np.outer(side, np.arange(n))) / math.sqrt(n) for side, n in zip(sides, large, strict=True)
        ]
        self._waves, self._ops = Waves(kernel, spec, self._factors, ops=ops), ops
        right = _best_channels(kernel, spec, sides, ops=ops)
        # One sum for each wave alone: (count, count, second).
        eye = xp.astype(xp.eye(self._waves.count, dtype=kernel.dtype, device=ops.device(kernel)), right.dtype)
        alone = eye[:, :, None] * right[None, :, :]
        image, length = (np.asarray(ops.to_numpy(f(alone))) for f in (self._waves.image_inner, self._waves.inner))
        weights = _best(image, length)
        parts = (ops.from_numpy(np.ascontiguousarray(x), kernel) for x in (weights.real, weights.imag))
        self.channels = (right * ops.complex(*parts)[:, None])[None, ...]

    def bound(self) -> tuple[Lower, Array]:
        """A lower bound of the layer's norm, proven without a pass over its pixels, and its gradient."""
        lower = norm_by_waves(self._waves, self.channels, ops=self._ops)
        # Of ||A x|| / ||x||: half the gradient of the square, over the norms.
        scale = lower.value * float(self._ops.xp.real(self._waves.inner(self.channels))[0, 0])
        gradient = self._waves.gradient(self.channels)
        return lower, gradient / scale if scale > 0 else self._ops.xp.zeros_like(gradient)

    def vector(self) -> Array:
        """Its larger part, real or imaginary, as a unit vector, shape (1, 1, size of the large side)."""
        flat = np.asarray(self._ops.to_numpy(self.channels))[0].T
        total = flat.reshape(flat.shape[0], *self._waves.each)
        for factor in self._factors:
            # The first axis of waves goes, and its pixels come last.
            total = np.tensordot(total, factor, axes=(1, 0))
        real = max(total.real, total.imag, key=lambda x: float(np.linalg.norm(x))).reshape(1, 1, -1)
        kernel = self._waves.kernel
        host = np.float64 if kernel.dtype == self._ops.xp.float64 else np.float32
        return self._ops.from_numpy(np.ascontiguousarray((real / (np.linalg.norm(real) or 1.0)).astype(host)), kernel)


def _best_channels(kernel: Array, spec: ConvSpec, sides: list[np.ndarray], *, ops: ArrayOps) -> Array:
    """Top right singular vectors of the symbol at all combinations of angles, shape (count, second)."""
    xp = ops.xp
    index = product([np.arange(len(side)) for side in sides])
    points = np.stack([side[index[:, j]] for j, side in enumerate(sides)], axis=1)
    phase = np.exp(1j * points @ tap_points(spec.kernel_shape).T.astype(float))
    real, imag = (ops.from_numpy(np.ascontiguousarray(x.T), kernel) for x in (phase.real, phase.imag))
    first, second = kernel.shape[1:3]
    flat = xp.reshape(kernel, (first * second, -1))
    g = xp.reshape(ops.complex(xp.matmul(flat, real), xp.matmul(flat, imag)), (first, second, len(points)))
    return symbols.top_triple(xp.permute_dims(g, (2, 0, 1)), xp=xp)[1]


def _best(image: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Coefficients with the largest quotient of two quadratic forms; near a whole number of steps waves coincide."""
    values, basis = np.linalg.eigh((length + length.conj().T) / 2)
    kept = values > 1e-10 * max(float(values[-1]), 1e-300)
    if not kept.any():
        return np.zeros(len(values), dtype=np.complex128)
    basis = basis[:, kept] / np.sqrt(values[kept])
    small = basis.conj().T @ image @ basis
    _, top = np.linalg.eigh((small + small.conj().T) / 2)
    return np.asarray(basis @ top[:, -1])
