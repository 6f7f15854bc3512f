"""Lower bounds of large zero-padded layers by a sum of waves next to a frequency. What they claim is `proof.waves`.

The two waves half a step of the shortest ring beside the frequency, on each axis, make a wave under a sine window. Each
has the best channels at its own frequency, so that these turn with it: of 3x3 layers at 32 pixels the sum is within
3e-5 to 3e-4 of the norm, and its distance falls by the third power of the size.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm.linalg import symbols
from specnorm.linalg.frequencies import product
from specnorm.linalg.layer_map import sizes_of
from specnorm.linalg.waves import Waves
from specnorm.proof.waves import quotient_of_waves_down

if TYPE_CHECKING:
    from specnorm.spec import ConvSpec
    from specnorm.types import Array, ArrayOps


def by_waves(kernel: Array, spec: ConvSpec, angles: np.ndarray, *, ops: ArrayOps) -> tuple[float, Array]:
    """A lower bound of the norm of a layer of one group without stride and dilation, and its gradient.

    Parameters
    ----------
    kernel : array, shape (1, first, second, *kernel_shape)
    spec : ConvSpec
        With ``input_shape``.
    angles : float array, shape (d,)
        A frequency where the symbol's norm is large.
    """
    xp = ops.xp
    large, _ = sizes_of(spec)
    sides = [
        np.asarray([0.0]) if k == 1 else angle + np.asarray([-1, 1]) * math.pi / (n + 1)
        for angle, n, k in zip(angles, large, spec.kernel_shape, strict=True)
    ]
    factors = [np.exp(1j * np.outer(side, np.arange(n))) / math.sqrt(n) for side, n in zip(sides, large, strict=True)]
    waves = Waves(kernel, spec, factors, ops=ops)
    index = product([np.arange(len(side)) for side in sides])
    points = np.stack([side[index[:, j]] for j, side in enumerate(sides)], axis=1)
    phase = np.exp(1j * points @ product([np.arange(k) for k in spec.kernel_shape]).T.astype(float))
    real, imag = (ops.from_numpy(np.ascontiguousarray(x.T), kernel) for x in (phase.real, phase.imag))
    first, second = kernel.shape[1:3]
    flat = xp.reshape(kernel, (first * second, -1))
    g = xp.reshape(ops.complex(xp.matmul(flat, real), xp.matmul(flat, imag)), (first, second, waves.count))
    _, right, _ = symbols.top_triple(xp.permute_dims(g, (2, 0, 1)), xp=xp)
    # One sum for each wave alone: (count, count, second).
    eye = xp.astype(xp.eye(waves.count, dtype=kernel.dtype, device=ops.device(kernel)), right.dtype)
    alone = eye[:, :, None] * right[None, :, :]
    image, length = (np.asarray(ops.to_numpy(x)) for x in (waves.image_inner(alone), waves.inner(alone)))
    a = right * ops_complex(_best(image, length), kernel, ops=ops)[:, None]
    lower = quotient_of_waves_down(waves, a[None, ...], ops=ops)
    # Of ||A x|| / ||x||: half the gradient of the square, over the norms.
    scale = lower * float(xp.real(waves.inner(a[None, ...]))[0, 0])
    gradient = waves.gradient(a[None, ...])
    return lower, gradient / scale if scale > 0 else xp.zeros_like(gradient)


def _best(image: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Coefficients with the largest quotient of two quadratic forms; near a whole number of steps waves coincide."""
    values, basis = np.linalg.eigh((length + length.conj().T) / 2)
    kept = values > 1e-10 * max(float(values[-1]), 1e-300)
    basis = basis[:, kept] / np.sqrt(values[kept])
    small = basis.conj().T @ image @ basis
    _, top = np.linalg.eigh((small + small.conj().T) / 2)
    return np.asarray(basis @ top[:, -1])


def ops_complex(values: np.ndarray, like: Array, *, ops: ArrayOps) -> Array:
    """Complex numbers of the host as an array like another."""
    return ops.complex(*(ops.from_numpy(np.ascontiguousarray(x), like) for x in (values.real, values.imag)))
