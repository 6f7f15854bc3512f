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
    return picked if channels <= 64 else [(f"{name} stretched", stretched(kernel, channels)) for name, kernel in picked]


def stretched(kernel: np.ndarray, channels: int) -> np.ndarray:
    """A random kernel whose (cout, cin*taps) unfolding has the singular values of a real one, interpolated."""
    values = np.linalg.svd(kernel.reshape(kernel.shape[0], -1), compute_uv=False)
    at = np.linspace(0, len(values) - 1, channels)
    decay = np.interp(at, np.arange(len(values)), values)
    noise = flat(channels).reshape(channels, -1)
    u, _, vt = np.linalg.svd(noise, full_matrices=False)
    return np.asarray(((u * decay) @ vt).reshape(channels, channels, 3, 3), dtype=np.float32)


def flat(channels: int, seed: int = 0) -> np.ndarray:
    """Gaussian entries: a flat spectrum with many near maxima, the worst case of a search."""
    return np.random.RandomState(seed).standard_normal((channels, channels, 3, 3)).astype(np.float32)
