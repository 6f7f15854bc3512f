"""Plane waves on a layer at one size, and sums of some: if the layer is large, they are near its top singular vector.

On a zero-padded layer the best wave is one under a sine window, which is the sum of two plane waves along each axis:
their frequencies lie half a step of the shortest circulant on either side of that of the maximum. `WaveSum` takes these
waves with the best channels of each, so that the channels turn with the frequency. On 3x3 layers at 32 pixels its
quotient is within 3e-5 to 3e-4 of the norm; the distance falls by the third power of the size.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm.backends import arrays
from specnorm.geometry.taps import sizes_of
from specnorm.power.proofs.waves import Waves, norm_by_waves
from specnorm.proofs.frequencies import coarse_grid, phases_at_angles, product, tap_points
from specnorm.symbols.power import matrix_maps, power_steps
from specnorm.symbols.proofs import symbols

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec
    from specnorm.proofs.bound import Lower


_MOST_PEAKS = 4
"""Most peaks: coarse frequencies whose waves are added up."""
_HIGH_PART = 0.9
"""Part of the largest norm from which a coarse frequency may be a peak."""
_WEIGHT_OF_OTHERS = 0.3
"""Weight of the peaks that are not the highest: enough for the iteration to amplify them if their norm is larger."""
_FINE_POINTS = 5
"""Points per axis around each peak. The best of them is taken."""
_POWER_STEPS = 4
"""Power steps at each frequency."""
_ENTRIES_AT_ONCE = 2**21
"""Entries of matrices that are formed at once."""


def windowed_wave(
    kernel: Array,
    spec: ConvSpec,
    angles: np.ndarray,
    *,
    ops: ArrayOps,
) -> Array:
    """Real wave on the large side of a layer, at a frequency of its blocks, under a sine window.

    Along an axis with stride s, pixel ``t = s q + residue`` carries ``a[residue] e^{i theta q}``. Away from the border,
    the convolution takes that to ``e^{i theta m} (G a)`` at output m, where ``G = sum_k K_k e^{i theta shift(k)}``. The
    shift of tap k follows from ``r k - before = s shift(k) + residue(k)``, r the dilation and ``before`` the padding in
    front. a is the top right singular vector of G. The window falls to zero at the border, so that the loss is of
    second order in the inverse of the size.

    Parameters
    ----------
    kernel : array, shape (1, small channels, large channels, *kernel_shape)
        Kernel of one group, in torch's order. The large side is the input; of a transposed layer, the output.
    spec : ConvSpec
        Geometry of one group, with ``input_shape``.
    angles : float array, shape (d,)
        A frequency of the blocks.

    Returns
    -------
    array, shape (1, 1, size of the large side)
        A unit vector, or zero.
    """
    symbol = _symbols(kernel, spec, angles[None, :], ops=ops)
    _, channels, _ = symbols.top_triple(symbol, xp=ops.xp)
    return _as_vectors(_wave(spec, angles, ops.to_numpy(channels)[0]), kernel, ops=ops)


def starting_wave(kernel: Array, spec: ConvSpec, seed: int, *, ops: ArrayOps) -> Array:
    """Sum of windowed waves at a few frequencies where the symbol is large, and a little of a random vector.

    If the largest norm is at another frequency, or its vector is no wave, an iteration from this start takes longer.

    Parameters
    ----------
    kernel, spec
        As in `windowed_wave`.
    seed : int
        Seed of the random vector that is added, a tenth of the sum's length.

    Returns
    -------
    array, shape (1, 1, size of the large side)
    """
    most_points = max(1, _ENTRIES_AT_ONCE // math.prod(kernel.shape[1:3]) // math.prod(spec.stride))
    coarse = coarse_grid(spec.block_kernel_shape).angles
    every_nth = -(-len(coarse) // most_points)
    coarse = coarse[::every_nth]
    norms, channels = _power(kernel, spec, coarse, ops=ops)
    highest_first = np.argsort(-norms)[:_MOST_PEAKS]
    peaks = [j for j in highest_first if norms[j] >= _HIGH_PART * norms.max()]
    offsets = _fine_offsets(spec.block_kernel_shape)
    total = np.zeros(1)  # takes the shape of the waves with the first sum
    for j in peaks:
        fine = (coarse[j] + offsets)[:most_points]
        fine_norms, fine_channels = _power(kernel, spec, fine, ops=ops)
        best = int(fine_norms.argmax())
        if fine_norms[best] > norms[j]:
            wave = _wave(spec, fine[best], fine_channels[best])
        else:
            wave = _wave(spec, coarse[j], channels[j])
        weight = 1.0 if j == peaks[0] else _WEIGHT_OF_OTHERS
        total = total + weight * wave
    noise = np.real(arrays.random_vectors(seed, total.shape))
    total = total + 0.1 * np.linalg.norm(total) / np.linalg.norm(noise) * noise
    return _as_vectors(total, kernel, ops=ops)


def _fine_offsets(kernel_shape: tuple[int, ...]) -> np.ndarray:
    """Angles (n, d) by which fine frequencies differ from a coarse one; 0 along axes with one tap."""
    moves = np.asarray(kernel_shape) > 1
    # Half of a step of the coarse grid, which has twice as many points as taps, in both directions.
    half_step = math.pi / (2 * max(kernel_shape))
    steps = half_step * np.linspace(-1, 1, _FINE_POINTS)
    one_step = np.zeros(1, dtype=np.int64)
    index = product([np.arange(_FINE_POINTS) if taps > 1 else one_step for taps in kernel_shape])
    return np.where(moves, steps[index], 0.0)


def _power(
    kernel: Array,
    spec: ConvSpec,
    angles: np.ndarray,
    *,
    ops: ArrayOps,
) -> tuple[np.ndarray, np.ndarray]:
    """Norms and right vectors of the symbol at frequencies (f, d), by a few power steps; on the host."""
    symbol = _symbols(kernel, spec, angles, ops=ops)
    size = int(symbol.shape[2])
    start = np.broadcast_to(arrays.start_vector(0, size), (len(angles), size))
    vectors = ops.xp.astype(ops.from_numpy(start.astype(np.complex128), kernel), symbol.dtype, copy=False)
    apply, adjoint = matrix_maps(symbol, xp=ops.xp)
    _, vectors, norms = power_steps(apply, adjoint, vectors, _POWER_STEPS, xp=ops.xp)
    return ops.to_numpy(ops.xp.real(norms))[:, 0], ops.to_numpy(vectors)


def _symbols(kernel: Array, spec: ConvSpec, angles: np.ndarray, *, ops: ArrayOps) -> Array:
    """The symbol at frequencies (f, d) of the blocks, shape (f, small channels, large channels * residues)."""
    xp = ops.xp
    small, large = kernel.shape[1:3]
    by_residue = xp.reshape(_symbols_at(kernel, _tap_weights(spec, angles), ops=ops), (len(angles), -1, small, large))
    return xp.reshape(xp.permute_dims(by_residue, (0, 2, 3, 1)), (len(angles), small, -1))


def _symbols_at(kernel: Array, weights: np.ndarray, *, ops: ArrayOps) -> Array:
    """``sum_k w_k K_k`` of a kernel (1, m, p, *kernel_shape), for weights (f, taps) of the host: shape (f, m, p)."""
    tables = symbols.device_tables(weights.real, weights.imag, kernel, ops=ops)
    return ops.complex(*symbols.planes_at(kernel, *tables, xp=ops.xp))[0, ...]


def _tap_weights(spec: ConvSpec, angles: np.ndarray) -> np.ndarray:
    """``e^{i theta shift(k)}`` where tap k reads a pixel of the residue, else 0: shape (f * residues, taps)."""
    axes = zip(spec.kernel_shape, spec.stride, spec.dilation, spec.padding, strict=True)
    reads = [_shifts_and_residues(taps, stride, dilation, before) for taps, stride, dilation, (before, _) in axes]
    rows = []
    for theta in _angles_of_layer(spec, angles):
        for residue in itertools.product(*(range(stride) for stride in spec.stride)):
            weights = np.ones(1, dtype=np.complex128)
            for j, (shifts, residues) in enumerate(reads):
                of_axis = np.where(residues == residue[j], np.exp(1j * theta[j] * shifts), 0.0)
                weights = np.outer(weights, of_axis).reshape(-1)
            rows.append(weights)
    return np.stack(rows)


def _shifts_and_residues(
    taps: int,
    stride: int,
    dilation: int,
    before: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Shift and residue of the pixel that each tap of an axis reads: ``r k - before = s shift + residue``."""
    return np.divmod(dilation * np.arange(taps) - before, stride)


def _wave(spec: ConvSpec, angles: np.ndarray, channels: np.ndarray) -> np.ndarray:
    """Real windowed wave with a vector of channels and residues, flat: the larger of its real and imaginary part."""
    large, _ = sizes_of(spec)
    (theta,) = _angles_of_layer(spec, angles[None, :])
    wave = channels.astype(np.complex128).reshape(-1, *spec.stride)
    for axis, (pixels, stride, angle) in enumerate(zip(large, spec.stride, theta, strict=True)):
        position, residue = np.divmod(np.arange(pixels), stride)
        window = np.sin(math.pi * (position + 1) / (position[-1] + 2))
        factor = window * np.exp(1j * angle * position)
        later_axes = len(large) - axis - 1
        wave = np.take(wave, residue, axis=axis + 1) * factor.reshape((-1,) + (1,) * later_axes)
    return _larger_part(wave.reshape(-1))


def _larger_part(wave: np.ndarray) -> np.ndarray:
    """The real or the imaginary part, whichever is longer: a real layer maps them separately."""
    return np.asarray(max(wave.real, wave.imag, key=lambda part: float(np.linalg.norm(part))))


def _as_vectors(wave: np.ndarray, kernel: Array, *, ops: ArrayOps) -> Array:
    """A flat wave as vectors (1, 1, size) in the kernel's precision, of unit length or zero."""
    norm = float(np.linalg.norm(wave))
    return symbols.device_table((wave / (norm or 1.0)).reshape(1, 1, -1), kernel, ops=ops)


def _angles_of_layer(spec: ConvSpec, angles: np.ndarray) -> np.ndarray:
    """Frequencies of the layer from those of its blocks.

    Blocks have no dilation. The part of the dilation that the stride does not share divides the frequencies.
    """
    strides_and_dilations = zip(spec.stride, spec.dilation, strict=True)
    remaining_dilation = [dilation // math.gcd(stride, dilation) for stride, dilation in strides_and_dilations]
    return np.asarray(angles / np.asarray(remaining_dilation))


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
        large, _ = sizes_of(spec)
        angles_of_axes = []
        self._factors = []
        for angle, pixels, taps in zip(angles, large, spec.kernel_shape, strict=True):
            half_step = math.pi / (pixels + 1)
            of_axis = np.asarray([0.0]) if taps == 1 else angle + np.asarray([-1, 1]) * half_step
            angles_of_axes.append(of_axis)
            self._factors.append(np.exp(1j * np.outer(of_axis, np.arange(pixels))) / math.sqrt(pixels))
        self._waves = Waves(kernel, spec, self._factors, ops=ops)
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
        for factor in self._factors:
            # The first axis of waves goes, and its pixels come last.
            total = np.tensordot(total, factor, axes=(1, 0))
        return _as_vectors(_larger_part(total), self._waves.kernel, ops=self._ops)


def _complex_from_host(x: np.ndarray, like: Array, *, ops: ArrayOps) -> Array:
    """A complex array of the host on the device of another one."""
    real = ops.from_numpy(np.ascontiguousarray(x.real), like)
    imag = ops.from_numpy(np.ascontiguousarray(x.imag), like)
    return ops.complex(real, imag)


def _best_channels(kernel: Array, angles_of_axes: list[np.ndarray], *, ops: ArrayOps) -> Array:
    """Top right singular vectors of the symbol at all combinations of angles, shape (count, second)."""
    index = product([np.arange(len(of_axis)) for of_axis in angles_of_axes])
    angles = np.stack([of_axis[index[:, j]] for j, of_axis in enumerate(angles_of_axes)], axis=1)
    phases = phases_at_angles(angles, tap_points(tuple(kernel.shape[3:])))
    _, right, _ = symbols.top_triple(_symbols_at(kernel, phases, ops=ops), xp=ops.xp)
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
