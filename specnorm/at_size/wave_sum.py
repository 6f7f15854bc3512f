"""Sums of the plane waves beside a frequency: near the top singular vector of a large zero-padded layer.

On such a layer the best wave is one under a sine window, which is the sum of two plane waves along each axis:
their frequencies lie half a step of the shortest circulant on either side of that of the maximum. `WaveSum` takes these
waves with the best channels of each, so that the channels turn with the frequency. On 3x3 layers at 32 pixels its
quotient is within 3e-5 to 3e-4 of the norm; the distance falls by the third power of the size.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm.at_size.proofs.waves import Waves, norm_by_waves
from specnorm.backends import arrays
from specnorm.power.plane_wave import as_vectors, larger_part, symbols_at_angles
from specnorm.proofs.frequencies import tap_points

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec
    from specnorm.proofs.bound import Lower


class WaveSum:
    """The best sum of the waves beside a frequency, on the large side of a layer of one group.

    Parameters
    ----------
    kernel : array, shape (1, first, second, *kernel_shape)
    spec : ConvSpec
        With ``input_shape``, zero padding, and neither stride nor dilation.
    angles : float array, shape (d,)
        A frequency where the symbol's norm is large.

    Attributes
    ----------
    channels : complex array, shape (1, waves, second)
        Vector of channels of each wave, as `Waves` takes them.
    """

    def __init__(
        self,
        kernel: Array,
        spec: ConvSpec,
        angles: np.ndarray,
        *,
        ops: ArrayOps,
    ) -> None:
        self._ops = ops
        large, _ = spec.sides
        angles_of_axes = []
        factors = []
        for angle, pixels, taps in zip(angles, large, spec.kernel_shape, strict=True):
            half_step = math.pi / (pixels + 1)
            of_axis = np.asarray([0.0]) if taps == 1 else angle + np.asarray([-1, 1]) * half_step
            angles_of_axes.append(of_axis)
            factors.append(_plane_waves(of_axis, pixels))
        self._waves = Waves(kernel, spec, factors, ops=ops)
        right = _best_channels(kernel, angles_of_axes, ops=ops)
        weights = self._best_weights(right)
        self.channels = (right * _complex_from_host(weights, kernel, ops=ops)[:, None])[None, ...]

    def _best_weights(self, right: Array) -> np.ndarray:
        """Weights (waves,) of waves with channels (waves, second) that maximise ``||A x|| / ||x||`` of their sum x."""
        xp, ops = self._ops.xp, self._ops
        count, kernel = self._waves.count, self._waves.kernel
        eye = xp.astype(xp.eye(count, dtype=kernel.dtype, device=ops.device(kernel)), right.dtype)
        # One sum for each wave by itself: (waves, waves, second).
        single_waves = eye[:, :, None] * right[None, :, :]
        image_products = np.asarray(ops.to_numpy(self._waves.image_inner(single_waves)))
        products = np.asarray(ops.to_numpy(self._waves.inner(single_waves)))
        return _best_quotient(image_products, products)

    def bound(self) -> Lower:
        """A lower bound of the layer's norm, proven without a pass over its pixels."""
        return norm_by_waves(self._waves, self.channels, ops=self._ops)

    def gradient(self, lower: Lower) -> Array:
        """The gradient of that bound."""
        xp = self._ops.xp
        gradient = self._waves.gradient(self.channels)
        # ||A x|| / ||x|| has half the gradient of ||A x||**2, divided by ||A x|| ||x|| = lower ||x||**2.
        scale = lower.value * float(xp.real(self._waves.inner(self.channels))[0, 0])
        return gradient / scale if scale > 0 else xp.zeros_like(gradient)

    def vector(self) -> Array:
        """The larger part of the sum, real or imaginary, as a unit vector, shape (1, 1, size of the large side)."""
        by_channel = np.asarray(self._ops.to_numpy(self.channels))[0].T
        total = by_channel.reshape(by_channel.shape[0], *self._waves.factor_counts)
        for factor in self._waves.factors:
            # The first axis of waves goes, and its pixels come last.
            total = np.tensordot(total, factor, axes=(1, 0))
        return as_vectors(larger_part(total), self._waves.kernel, ops=self._ops)


_LONG = 2**16
"""Pixels of an axis from which on its waves are stored in single precision: they are numbers of a vector, as good."""


def _plane_waves(angles: np.ndarray, pixels: int) -> np.ndarray:
    """Plane waves of an axis, shape (len(angles), pixels), as unit vectors."""
    waves = np.empty((len(angles), pixels), dtype=np.complex64 if pixels > _LONG else np.complex128)
    # Every part of a long axis is the first one, turned: exponentials would take half of the time of a bound.
    first_part = np.exp(1j * np.outer(angles, np.arange(min(pixels, _LONG)))) / math.sqrt(pixels)
    for first in range(0, pixels, _LONG):
        part = waves[:, first : first + _LONG]
        np.multiply(first_part[:, : part.shape[1]], np.exp(1j * angles * first)[:, None], out=part, casting="same_kind")
    return waves


def _complex_from_host(x: np.ndarray, like: Array, *, ops: ArrayOps) -> Array:
    real = ops.from_numpy(np.ascontiguousarray(x.real), like)
    imag = ops.from_numpy(np.ascontiguousarray(x.imag), like)
    return ops.complex(real, imag)


def _best_channels(kernel: Array, angles_of_axes: list[np.ndarray], *, ops: ArrayOps) -> Array:
    """Top right singular vectors of the symbol at all combinations of angles, shape (count, second)."""
    index = tap_points(tuple(map(len, angles_of_axes)))
    angles = np.stack([of_axis[index[:, j]] for j, of_axis in enumerate(angles_of_axes)], axis=1)
    _, right, _ = arrays.top_triple(symbols_at_angles(kernel, angles, ops=ops), xp=ops.xp)
    return right


def _best_quotient(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Coefficients w that maximise ``w* N w / w* D w`` for two Gram matrices.

    If the frequency is near a whole number of steps, waves coincide and D is singular: its null space is left out.
    """
    eigenvalues, basis = np.linalg.eigh((denominator + denominator.conj().T) / 2)
    largest = max(float(eigenvalues[-1]), 1e-300)  # above 0, so that no eigenvalue of D = 0 is above the least one
    independent = eigenvalues > 1e-10 * largest
    if not independent.any():
        return np.zeros(len(eigenvalues), dtype=np.complex128)
    orthonormal = basis[:, independent] / np.sqrt(eigenvalues[independent])
    projected = orthonormal.conj().T @ numerator @ orthonormal
    _, vectors = np.linalg.eigh((projected + projected.conj().T) / 2)
    return np.asarray(orthonormal @ vectors[:, -1])
