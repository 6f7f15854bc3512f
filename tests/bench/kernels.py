"""Kernels to measure on: real trained ones, larger ones with a trained decay, and flat random ones."""

from __future__ import annotations

import numpy as np
from real_weights import real_layers


def trained(channels: int, count: int = 4) -> list[tuple[str, np.ndarray]]:
    """Square 3x3 kernels with so many channels: real ones up to 64, larger ones built from real ones."""
    real = [
        (name, kernel)
        for model in ("resnet20", "dncnn25")
        for name, kernel, _ in real_layers(model)
        if kernel.shape == (min(channels, 64),) * 2 + (3, 3)
    ]
    picked = real[:: max(1, len(real) // count)][:count]
    if channels <= 64:
        return picked
    kernels = [kernel for _, kernel in picked]
    turns = [kernels[j:] + kernels[:j] for j in range(2)]
    return [(f"from real layers, {j}", stretched(turn, channels)) for j, turn in enumerate(turns)]


def stretched(kernels: list[np.ndarray], channels: int) -> np.ndarray:
    """A larger kernel with the spatial profile and the decay of real ones.

    Real kernels on the diagonal, each a little smaller than the one before, mixed by random rotations of the input and
    output channels, which leave every singular value of the layer where it is.
    """
    size = kernels[0].shape[0]
    blocks = channels // size
    out = np.zeros((channels, channels, 3, 3))
    for j in range(blocks):
        here = slice(j * size, (j + 1) * size)
        part = kernels[j % len(kernels)]
        out[here, here] = part / np.abs(part).max() * 0.9**j
    state = np.random.RandomState(0)
    left, right = (np.linalg.qr(state.standard_normal((channels, channels)))[0] for _ in range(2))
    return np.asarray(np.einsum("ao,oikl,ib->abkl", left, out, right, optimize=True), dtype=np.float32)


def flat(channels: int, seed: int = 0) -> np.ndarray:
    """Gaussian entries: a flat spectrum with many near maxima, the worst case of a search."""
    return np.random.RandomState(seed).standard_normal((channels, channels, 3, 3)).astype(np.float32)
