"""Plane waves under a window on a layer at one size: if the layer is large, they are near its top singular vector."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from specnorm.backends import arrays
from specnorm.geometry import polyphase
from specnorm.proofs.frequencies import Frequencies, tap_points
from specnorm.symbols import power
from specnorm.symbols.proofs.polynomial import Polynomial

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec


_MOST_PEAKS = 4
"""Most peaks: coarse frequencies whose waves are added up."""
_HIGH_PART = 0.9
"""Part of the largest norm from which a coarse frequency may be a peak."""
_WEIGHT_OF_OTHERS = 0.3
"""Weight of the peaks that are not the highest: enough for the iteration to amplify them if their norm is larger."""


_POWER_STEPS = 6
"""Power steps at each frequency."""
_FINE_STEPS = 2
"""Steps to either side of a peak, along each axis. The best of these frequencies is taken."""


def windowed_wave(
    kernel: Array,
    spec: ConvSpec,
    angles: np.ndarray,
    *,
    ops: ArrayOps,
) -> Array:
    """Real wave on the large side of a layer, at a frequency of its blocks, under a sine window.

    Its channels are the top right singular vector of the block's symbol there. The window falls to zero at the border,
    so that the loss is of second order in the inverse of the size.

    ``kernel`` (1, small channels, large channels, *kernel_shape): kernel of one group, in torch's order. The large side
    is the input; of a transposed layer, the output. ``spec``: geometry of one group, with ``input_shape``. ``angles``
    (d,): a frequency of the blocks. Returns (1, 1, size of the large side): a unit vector, or zero.
    """
    matrices = symbols_at_angles(_block(kernel, spec, ops=ops), angles[None, :], ops=ops)
    _, channels, _ = arrays.top_triple(matrices, xp=ops.xp)
    return as_vectors(_wave(spec, angles, ops.to_numpy(channels)[0]), kernel, ops=ops)


def starting_wave(kernel: Array, spec: ConvSpec, seed: int, *, ops: ArrayOps) -> Array:
    """Sum of windowed waves at a few frequencies where the symbol is large, and a little of a random vector.

    If the largest norm is at another frequency, or its vector is no wave, an iteration from this start takes longer.

    ``kernel``, ``spec``: as in `windowed_wave`. ``seed``: seed of the random vector that is added, a tenth of the sum's
    length. Returns (1, 1, size of the large side).
    """
    block = _block(kernel, spec, ops=ops)
    coarse = Frequencies.coarse_grid(spec.block_kernel_shape)
    coarse, (norms,), _ = power.norms_at(block, coarse, _POWER_STEPS, ops=ops)
    highest_first = np.argsort(-norms)[:_MOST_PEAKS]
    peaks = [j for j in highest_first if norms[j] >= _HIGH_PART * norms.max()]
    fine, (norms,), (channels,) = power.norms_at(block, _around(coarse[np.asarray(peaks)]), _POWER_STEPS, ops=ops)
    peak_of_point = np.arange(len(fine)) * len(peaks) // len(fine)
    total = np.zeros(1)  # takes the shape of the waves with the first sum
    for j in range(len(peaks)):
        best = int(np.where(peak_of_point == j, norms, -1.0).argmax())
        weight = _WEIGHT_OF_OTHERS if j else 1.0
        total = total + weight * _wave(spec, fine.angles[best], channels[best])
    noise = arrays.real_vectors(seed, total.shape)
    total = total + 0.1 * np.linalg.norm(total) / np.linalg.norm(noise) * noise
    return as_vectors(total, kernel, ops=ops)


def _around(points: Frequencies) -> Frequencies:
    """Frequencies around coarse ones: up to half of a coarse step along each axis, they themselves among them."""
    steps = np.asarray([_FINE_STEPS if n > 1 else 0 for n in points.denominators], dtype=np.int64)
    refined = tuple(2 * _FINE_STEPS * n for n in points.denominators)
    around = 2 * _FINE_STEPS * points.numerators[:, None, :] + tap_points(tuple((2 * steps + 1).tolist())) - steps
    return Frequencies(around.reshape(-1, len(refined)) % np.asarray(refined), refined)


def _block(kernel: Array, spec: ConvSpec, *, ops: ArrayOps) -> Array:
    """The block of a kernel in torch's order."""
    return polyphase.to_blocks(kernel, replace(spec, layout=None), xp=ops.xp)


def symbols_at_angles(blocks: Array, angles: np.ndarray, *, ops: ArrayOps) -> Array:
    """Symbols (f, m, p) of one block (1, m, p, *kernel_shape) at angles (f, d); no proof rests on them."""
    phases = np.exp(1j * (angles @ tap_points(tuple(blocks.shape[3:])).T))
    cos = arrays.device_table(phases.real, blocks, ops=ops)
    sin = arrays.device_table(phases.imag, blocks, ops=ops)
    return ops.complex(*Polynomial(blocks, xp=ops.xp).planes_at(cos, sin))[0, ...]


def _wave(spec: ConvSpec, angles: np.ndarray, channels: np.ndarray) -> np.ndarray:
    """Real windowed wave with a vector of a block's channels, flat: the larger of its real and imaginary part.

    Along an axis with stride s, dilation r and ``before`` pixels of padding in front, residue t of a block stands for
    the pixels that tap t reads: ``s q + residue`` at output ``q - shift``, where ``r t - before = s shift + residue``.
    They carry ``a[t] e^{i theta (q - shift)}``. Away from the border, the convolution takes that to ``e^{i theta m} (G
    a)`` at output m. Blocks have no dilation: the part of it that the stride does not share divides their frequencies.
    """
    large, _ = spec.sides
    wave = channels.astype(np.complex128).reshape(-1, *spec.residues)
    axes = zip(large, spec.stride, spec.dilation, spec.padding, spec.residues, angles, strict=True)
    for pixels, stride, dilation, (before, _), residues, angle in axes:
        theta = angle / (dilation // math.gcd(stride, dilation))
        shift, residue = np.divmod(dilation * np.arange(residues) - before, stride)
        position, residue_of_pixel = np.divmod(np.arange(pixels), stride)
        window = np.sin(math.pi * (position + 1) / (position[-1] + 2))
        carries = np.exp(1j * theta * (position[:, None] - shift)) * window[:, None]
        of_axis = np.where(residue_of_pixel[:, None] == residue, carries, 0.0)
        # The axis of residues goes, and its pixels come last.
        wave = np.tensordot(wave, of_axis, axes=(1, 1))
    return larger_part(wave.reshape(-1))


def larger_part(wave: np.ndarray) -> np.ndarray:
    """The real or the imaginary part, whichever is longer: a real layer maps them separately."""
    return np.asarray(max(wave.real, wave.imag, key=lambda part: float(np.linalg.norm(part))))


def as_vectors(wave: np.ndarray, kernel: Array, *, ops: ArrayOps) -> Array:
    """A flat wave as vectors (1, 1, size) in the kernel's precision, of unit length or zero."""
    norm = float(np.linalg.norm(wave))
    return arrays.device_table((wave / (norm or 1.0)).reshape(1, 1, -1), kernel, ops=ops)
