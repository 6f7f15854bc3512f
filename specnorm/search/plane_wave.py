"""Plane waves on a layer at one size, near its top singular vector where the layer is large, and sums of some.

Of a zero-padded layer the two waves half a step of the shortest circulant beside a frequency, on each axis, make a wave
under a sine window. Each has the best channels at its own frequency, so that these turn with it: of 3x3 layers at 32
pixels the sum is within 3e-5 to 3e-4 of the norm, and its distance falls by the third power of the size.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm import arrays
from specnorm.certified.layer.own_matrix import Waves, norm_by_waves
from specnorm.certified.symbol import symbols
from specnorm.numerics.power import follow, matrix_maps
from specnorm.problem.frequencies import coarse_grid, product, tap_points
from specnorm.problem.taps import sizes_of

if TYPE_CHECKING:
    from specnorm.array_types import Array
    from specnorm.certified.bound import Lower
    from specnorm.problem.spec import ConvSpec
    from specnorm.types import ArrayOps


_CANDIDATES, _NEAR = 4, 0.9
"""Frequencies of which waves are added up: at most so many, with so much of the largest norm."""
_OTHERS = 0.3
"""Weight of those that are not the highest: enough for the iteration to find them."""
_FINE, _STEPS = 5, 4
"""Points an axis around each, and power steps at each."""
_ENTRIES = 2**21
"""Of matrices at once."""


def windowed_wave(kernel: Array, spec: ConvSpec, angles: np.ndarray, *, ops: ArrayOps) -> Array:
    """Real wave on the large side of a layer, at a frequency of its blocks, under a sine window.

    Along an axis with stride s, pixel ``t = s q + phase`` carries ``a[phase] e^{i theta q}``; the convolution takes
    that to ``e^{i theta m} (G a)``, away from the border, with ``G = sum_k K_k e^{i theta shift(k)}`` and
    ``r k - before = s shift + phase``. a is the top right singular vector of G. The window falls to zero at the border,
    so what is lost is of second order in the inverse of the size.

    Parameters
    ----------
    kernel : array, shape (1, small channels, large channels, *kernel_shape)
        Of one group, in torch's order. The large side is the input, of a transposed layer the output.
    spec : ConvSpec
        Of one group, with ``input_shape``.
    angles : float array, shape (d,)
        Frequency of the blocks.

    Returns
    -------
    array, shape (1, 1, size of the large side)
        A unit vector, or zero.
    """
    a = ops.to_numpy(symbols.top_triple(_matrices(kernel, spec, angles[None, :], ops=ops), xp=ops.xp)[1])[0]
    return _as_input(_wave(spec, angles, a), kernel, ops=ops)


def starting_wave(kernel: Array, spec: ConvSpec, seed: int, *, ops: ArrayOps) -> Array:
    """Sum of windowed waves at a few frequencies where the symbol is large, and a little of everything else.

    Where the largest norm is at another frequency, or is no wave's, an iteration that starts here takes longer.

    Parameters
    ----------
    kernel, spec
        As of `windowed_wave`.
    seed : int
        Of what is added, a tenth of the length.

    Returns
    -------
    array, shape (1, 1, size of the large side)
    """
    most = max(1, _ENTRIES // math.prod(kernel.shape[1:3]) // math.prod(spec.stride))
    coarse = coarse_grid(spec.block_kernel_shape).angles
    coarse = coarse[:: -(-len(coarse) // most)]
    found, vectors = _power(kernel, spec, coarse, ops=ops)
    best = [j for j in np.argsort(-found)[:_CANDIDATES] if found[j] >= _NEAR * found.max()]
    fine = (2 * np.arange(_FINE) / (_FINE - 1) - 1) * math.pi / (2 * max(spec.block_kernel_shape))
    offsets = product([np.arange(_FINE) if k > 1 else np.zeros(1, dtype=np.int64) for k in spec.block_kernel_shape])
    offsets = np.where(np.asarray(spec.block_kernel_shape) > 1, fine[offsets], 0.0)
    total = np.zeros(1)
    for j in best:
        near = (coarse[j] + offsets)[:most]
        values, tops = _power(kernel, spec, near, ops=ops)
        at = int(values.argmax())
        angles, top = (near[at], tops[at]) if values[at] > found[j] else (coarse[j], vectors[j])
        total = total + (1.0 if j == best[0] else _OTHERS) * _wave(spec, angles, top)
    rest = np.real(arrays.random_vectors(seed, total.shape))
    total = total + 0.1 * np.linalg.norm(total) / np.linalg.norm(rest) * rest
    return _as_input(total, kernel, ops=ops)


def _power(kernel: Array, spec: ConvSpec, angles: np.ndarray, *, ops: ArrayOps) -> tuple[np.ndarray, np.ndarray]:
    """Norms and right vectors of the symbol at frequencies (f, d), by a few power steps; on the host."""
    g = _matrices(kernel, spec, angles, ops=ops)
    start = np.broadcast_to(arrays.start_vector(0, int(g.shape[2])), (len(angles), int(g.shape[2])))
    v = ops.xp.astype(ops.from_numpy(start.astype(np.complex128), kernel), g.dtype, copy=False)
    apply, adjoint = matrix_maps(g, xp=ops.xp)
    _, v, norm = follow(apply, adjoint, v, _STEPS, normalise=arrays.normalise, xp=ops.xp)
    return ops.to_numpy(ops.xp.real(norm))[:, 0], ops.to_numpy(v)


def _matrices(kernel: Array, spec: ConvSpec, angles: np.ndarray, *, ops: ArrayOps) -> Array:
    """The symbol at frequencies (f, d) of the blocks, shape (f, small channels, large channels * phases)."""
    xp = ops.xp
    axes = zip(spec.kernel_shape, spec.stride, spec.dilation, spec.padding, strict=True)
    taps = [_taps(k, s, r, before) for k, s, r, (before, _) in axes]
    host = np.float64 if kernel.dtype == xp.float64 else np.float32
    # One column of weights a frequency and a phase: which taps read it, and at which shift.
    columns = []
    for theta in _undilated(spec, angles):
        for phase in itertools.product(*(range(s) for s in spec.stride)):
            weights = np.ones(1, dtype=np.complex128)
            for (shift, at), angle, here in zip(taps, theta, phase, strict=True):
                weights = np.outer(weights, np.where(at == here, np.exp(1j * angle * shift), 0.0)).reshape(-1)
            columns.append(weights)
    table = np.stack(columns, axis=1)
    small, channels = kernel.shape[1:3]
    flat = xp.reshape(kernel, (small * channels, -1))
    parts = (ops.from_numpy(np.ascontiguousarray(x.astype(host)), kernel) for x in (table.real, table.imag))
    real, imag = (xp.reshape(xp.matmul(flat, part), (small, channels, len(angles), -1)) for part in parts)
    g = xp.permute_dims(ops.complex(real, imag), (2, 0, 1, 3))
    return xp.reshape(g, (len(angles), small, -1))


def _wave(spec: ConvSpec, angles: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Real windowed wave with a vector of channels and phases, flat; real or imaginary part, whichever is larger."""
    large, _ = sizes_of(spec)
    (theta,) = _undilated(spec, angles[None, :])
    wave = vector.astype(np.complex128).reshape(-1, *spec.stride)
    for axis, (n, s, angle) in enumerate(zip(large, spec.stride, theta, strict=True)):
        q, at = np.divmod(np.arange(n), s)
        window = np.sin(math.pi * (q + 1) / (q[-1] + 2)) * np.exp(1j * angle * q)
        wave = np.take(wave, at, axis=axis + 1) * window.reshape((-1,) + (1,) * (len(large) - axis - 1))
    flat = wave.reshape(-1)
    return np.asarray(max(flat.real, flat.imag, key=lambda x: float(np.linalg.norm(x))))


def _as_input(wave: np.ndarray, kernel: Array, *, ops: ArrayOps) -> Array:
    """Of unit length, or zero, in the kernel's precision, (1, 1, size)."""
    host = np.float64 if kernel.dtype == ops.xp.float64 else np.float32
    norm = float(np.linalg.norm(wave))
    return ops.from_numpy(np.ascontiguousarray((wave / (norm or 1.0)).astype(host)).reshape(1, 1, -1), kernel)


def _undilated(spec: ConvSpec, angles: np.ndarray) -> np.ndarray:
    """Frequencies of the layer: blocks have the dilation taken out, as far as the stride leaves it coprime."""
    return np.asarray(
        angles / np.asarray([r // math.gcd(s, r) for s, r in zip(spec.stride, spec.dilation, strict=True)])
    )


def _taps(k: int, s: int, r: int, before: int) -> tuple[np.ndarray, np.ndarray]:
    return np.divmod(r * np.arange(k) - before, s)


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
