"""Kernels to measure on: real trained ones, larger ones with a trained decay, and flat random ones."""

from __future__ import annotations

import numpy as np
from helpers.real_weights import real_layers

RESNET18 = {
    "conv1": (64, 3, 7, 7), "layer2.0.conv1": (128, 64, 3, 3), "layer2.0.downsample": (128, 64, 1, 1),
    "layer3.0.conv1": (256, 128, 3, 3), "layer3.0.downsample": (256, 128, 1, 1), "layer4.0.conv1": (512, 256, 3, 3),
    "layer4.0.downsample": (512, 256, 1, 1),
}  # fmt: skip
"""Shapes of its layers with different numbers of channels in and out."""


def gaussian(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.RandomState(0).standard_normal(shape).astype(np.float32)


def flat(channels: int) -> np.ndarray:
    """Gaussian entries: a flat spectrum with many near maxima."""
    return gaussian((channels, channels, 3, 3))


def near_isometry(channels: int) -> np.ndarray:
    """A rotation of the channels and a tenth of a Gaussian kernel: all singular values are near 1.

    Kernels trained to be orthogonal are like this. It is the worst case of a search.
    """
    kernel = 0.1 / np.sqrt(9 * channels) * flat(channels)
    kernel[:, :, 1, 1] += np.linalg.qr(gaussian((channels, channels)))[0]
    return np.asarray(kernel, dtype=np.float32)


def decaying(channels: int) -> np.ndarray:
    """Gaussian entries times a geometric decay of the inputs, 1 to 1/16: a wide spectrum, and no few directions."""
    scale = np.geomspace(1, 1 / 16, channels)[:, None, None]
    return np.ascontiguousarray(flat(channels) * scale, dtype=np.float32)


def like_trained(shape: tuple[int, ...], *, level: bool = False) -> np.ndarray:
    """A kernel of any shape with spatial profiles and a decay of the channels as trained ones have.

    Real 64x64 3x3 kernels on the diagonal, each 0.9 of the one before, mixed by rotations; a larger window is filled by
    smooth interpolation, a single tap is the middle one. If they are ``level``, all real kernels have one Frobenius
    norm instead: more of them have local maxima that are nearly the largest.
    """
    real = [kernel for _, kernel, _ in real_layers("resnet20") if kernel.shape == (64, 64, 3, 3)]
    cout, cin, *window = shape
    out = np.zeros((cout, cin, 3, 3))
    for j, start in enumerate(range(0, min(cout, cin), 64)):
        rows, columns = min(64, cout - start), min(64, cin - start)
        part = real[j % len(real)][:rows, :columns]
        out[start : start + rows, start : start + columns] = part * (
            1 / np.linalg.norm(part) if level else 0.9**j / np.abs(part).max()
        )
    state = np.random.RandomState(0)
    left, right = (np.linalg.qr(state.standard_normal((c, c)))[0] for c in (cout, cin))
    places = [np.linspace(0, 2, n) if n > 1 else np.ones(1) for n in window]
    spread = [np.maximum(0.0, 1 - np.abs(place[:, None] - np.arange(3))) for place in places]
    mixed = np.einsum("ao,oikl,ib,xk,yl->abxy", left, out, right, *spread, optimize=True)
    return np.ascontiguousarray(mixed, dtype=np.float32)
