"""Plane waves as inputs of a layer at one size: near its top singular vector where the input is large."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm import arrays
from specnorm.certified.symbol import symbols
from specnorm.numerics.power import follow, matrix_maps
from specnorm.problem.frequencies import coarse_grid, product
from specnorm.problem.layer_map import sizes_of

if TYPE_CHECKING:
    from specnorm.problem.spec import ConvSpec
    from specnorm.types import Array, ArrayOps

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
    taps = [_taps(k, s, r, pads[0]) for k, s, r, pads in _axes(spec)]
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


def _axes(spec: ConvSpec) -> list[tuple[int, int, int, tuple[int, int]]]:
    return list(zip(spec.kernel_shape, spec.stride, spec.dilation, spec.padding, strict=True))


def _taps(k: int, s: int, r: int, before: int) -> tuple[np.ndarray, np.ndarray]:
    """Shift and phase of each tap of an axis."""
    return np.divmod(r * np.arange(k) - before, s)
