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
    """The windowed wave at the highest frequency of a coarse grid, and a little of a random vector.

    If the largest norm is at another frequency, or its vector is no wave, an iteration from this start takes longer.

    ``kernel``, ``spec``: as in `windowed_wave`. ``seed``: seed of the random vector that is added, a tenth of the
    wave's length. Returns (1, 1, size of the large side).
    """
    coarse = Frequencies.coarse_grid(spec.block_kernel_shape)
    block = _block(kernel, spec, ops=ops)
    points, (norms,), (channels,) = power.norms_at(block, coarse, power.COARSE_STEPS, ops=ops)
    highest = int(norms.argmax())
    wave = _wave(spec, points.angles[highest], channels[highest])
    noise = arrays.real_vectors(seed, wave.shape)
    return as_vectors(wave + 0.1 * np.linalg.norm(wave) / np.linalg.norm(noise) * noise, kernel, ops=ops)


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
