"""Kernels of known spectrum and of known norm, and random geometries, for the tests of both ends of the spectrum."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Kernel = NDArray[Any]
SMALL = 400
"""Entries of kernels whose dense matrices take a moment."""


def geometry_of(index: int, kernel: Kernel) -> dict[str, Any]:
    """A geometry that the kernel can have, and a size: of each kind in turn."""
    random = np.random.RandomState(index + 77)
    ndim = kernel.ndim - 2
    found: dict[str, Any] = {}
    if ndim and random.randint(2):
        found["stride"] = int(random.randint(1, 4))
    if ndim and not random.randint(3):
        found["dilation"] = int(random.randint(1, 3))
    divisors = [g for g in (1, 2, 3) if kernel.shape[0] % g == 0]
    found["groups"] = int(random.choice(divisors))
    found["transposed"] = bool(ndim and random.randint(2))
    step = 1 if found["transposed"] else found.get("stride", 1)
    found["input_shape"] = tuple(int(step * random.randint(1, 4 if ndim > 1 else 8)) for _ in range(ndim))
    return found


def roomy(geometry: dict[str, Any], kernel: Kernel) -> tuple[int, ...]:
    """The size that a geometry has, taken out of it, and as many pixels as the kernel reaches."""
    reach = (geometry.get("dilation", 1) * k for k in kernel.shape[2:])
    return tuple(n + k for n, k in zip(geometry.pop("input_shape"), reach, strict=True))


def orthogonal(channels: int, seed: int = 0) -> Kernel:
    return np.asarray(np.linalg.qr(np.random.RandomState(seed).standard_normal((channels, channels)))[0])


def shift(channels: int = 6, scale: float = 1.0) -> Kernel:
    """A shift times a multiple of an orthogonal matrix: every singular value is the scale, but for rounding."""
    kernel = np.zeros((channels, channels, 3, 3))
    kernel[:, :, 0, 2] = scale * orthogonal(channels)
    return kernel


def haar() -> Kernel:
    """Haar wavelets: with stride 2 an orthogonal matrix."""
    rows = np.asarray([[1.0, 1.0], [1.0, -1.0]]) / math.sqrt(2)
    return np.asarray(np.einsum("ai,bj->abij", rows, rows).reshape(4, 1, 2, 2))


KNOWN: dict[str, tuple[Kernel, dict[str, Any], float]] = {
    "shift": (shift(), {}, 1.0), "scaled": (shift(scale=0.25), {}, 0.25), "haar": (haar(), {"stride": 2}, 1.0),
    "two taps": (np.asarray([[[3.0, 1.0]]]), {}, 2.0), "two equal taps": (np.asarray([[[1.0, 1.0]]]), {}, 0.0),
    "two axes": (np.asarray([[[[8.0, 1.0], [2.0, -1.0]]]]), {}, 4.0), "matrix": (np.diag([4.0, 2.0, 1.0]), {}, 1.0),
    "dead channel": (np.concatenate([np.ones((4, 1, 3)), np.zeros((4, 1, 3))], axis=1), {}, 0.0),
    "zeros": (np.zeros((3, 2, 3)), {}, 0.0), "unread pixels": (np.ones((3, 1, 2)), {"stride": 3}, 0.0),
    "low rank": (np.einsum("o,i,k->oik", np.arange(1.0, 6.0), np.ones(3), np.ones(2)), {}, 0.0),
}  # fmt: skip

_ROTATION = np.zeros((2, 2, 2))
_ROTATION[:, :, 0] = np.eye(2)
_ROTATION[:, :, 1] = [[0, -1], [1, 0]]

_DIAGONAL = np.zeros((1, 1, 3, 3))
_DIAGONAL[0, 0, 0, 0] = _DIAGONAL[0, 0, 2, 2] = 1

CLOSED_FORMS: dict[str, tuple[Kernel, dict[str, Any], float]] = {
    "sum of two": (np.ones((1, 1, 2)), {}, 2), "difference": (np.array([[[1.0, -1.0]]]), {}, 2),
    "second sum": (np.array([[[1.0, 2.0, 1.0]]]), {}, 4), "second difference": (np.array([[[1.0, -2.0, 1.0]]]), {}, 4),
    "ones 2-D": (np.ones((1, 1, 3, 3)), {}, 9), "ones 3-D": (np.ones((1, 1, 2, 2, 2)), {}, 8),
    "ones with channels": (np.ones((3, 2, 2, 3)), {}, 6 * math.sqrt(6)), "identity and rotation": (_ROTATION, {}, 2),
    "two corners": (_DIAGONAL, {}, 2), "matrix": (np.array([[3.0, 0.0], [4.0, 0.0]]), {}, 5),
    "zero": (np.zeros((2, 3, 3)), {}, 0), "stride that separates": (np.ones((1, 1, 2)), {"stride": 2}, math.sqrt(2)),
    "stride beyond the kernel": (np.ones((1, 1, 2)), {"stride": 3}, math.sqrt(2)),
    "stride that overlaps": (np.ones((1, 1, 3)), {"stride": 2}, math.sqrt(5)),
    "dilation": (np.ones((1, 1, 2)), {"dilation": 3}, 2),
    "dilation equal to the stride": (np.ones((1, 1, 2)), {"dilation": 2, "stride": 2}, 2),
    "groups take the maximum": (np.array([[[1.0, 1.0]], [[3.0, 3.0]]]), {"groups": 2}, 6),
    "transposed": (np.array([[[1.0, 2.0, 1.0]]]), {"transposed": True}, 4),
    "identity": (np.eye(3)[:, :, None, None], {}, 1),
    "Laplacian": (np.array([[[[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]]]), {}, 8),
}  # fmt: skip
"""Kernels whose norm over all sizes is known."""
