"""Plane waves as inputs of a layer at one size: near its top singular vector where the input is large."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm.certified.symbol import symbols
from specnorm.problem.layer_map import sizes_of

if TYPE_CHECKING:
    from specnorm.problem.spec import ConvSpec
    from specnorm.types import Array, ArrayOps


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
    xp = ops.xp
    large, _ = sizes_of(spec)
    # Blocks have the dilation taken out, as far as the stride leaves it coprime.
    theta = [x / (r // math.gcd(s, r)) for x, s, r in zip(angles, spec.stride, spec.dilation, strict=True)]
    taps = [_taps(k, s, r, pads[0]) for k, s, r, pads in _axes(spec)]
    host = np.float64 if kernel.dtype == xp.float64 else np.float32
    phases = list(itertools.product(*(range(s) for s in spec.stride)))
    # One column of weights a phase: which taps read it, and at which shift.
    columns = []
    for phase in phases:
        weights = np.ones(1, dtype=np.complex128)
        for (shift, at), angle, here in zip(taps, theta, phase, strict=True):
            weights = np.outer(weights, np.where(at == here, np.exp(1j * angle * shift), 0.0)).reshape(-1)
        columns.append(weights)
    table = np.stack(columns, axis=1)
    small, channels = kernel.shape[1:3]
    flat = xp.reshape(kernel, (small * channels, -1))
    parts = (ops.from_numpy(np.ascontiguousarray(x.astype(host)), kernel) for x in (table.real, table.imag))
    real, imag = (xp.matmul(flat, part) for part in parts)
    g = xp.reshape(ops.complex(real, imag), (1, small, channels * len(phases)))
    a = ops.to_numpy(symbols.top_triple(g, xp=xp)[1])[0].reshape(channels, *spec.stride)
    wave = a.astype(np.complex128)
    for axis, (n, s, angle) in enumerate(zip(large, spec.stride, theta, strict=True)):
        q, at = np.divmod(np.arange(n), s)
        window = np.sin(math.pi * (q + 1) / (q[-1] + 2)) * np.exp(1j * angle * q)
        wave = np.take(wave, at, axis=axis + 1) * window.reshape((-1,) + (1,) * (len(large) - axis - 1))
    flat_wave = wave.reshape(1, 1, -1)
    real_wave = max(flat_wave.real, flat_wave.imag, key=lambda x: float(np.linalg.norm(x)))
    norm = float(np.linalg.norm(real_wave))
    return ops.from_numpy(np.ascontiguousarray((real_wave / (norm or 1.0)).astype(host)), kernel)


def _axes(spec: ConvSpec) -> list[tuple[int, int, int, tuple[int, int]]]:
    return list(zip(spec.kernel_shape, spec.stride, spec.dilation, spec.padding, strict=True))


def _taps(k: int, s: int, r: int, before: int) -> tuple[np.ndarray, np.ndarray]:
    """Shift and phase of each tap of an axis."""
    return np.divmod(r * np.arange(k) - before, s)
