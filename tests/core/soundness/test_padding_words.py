"""Bounds of layers whose padding is a word, of every mode, transposed or not, against sums of Kronecker products."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import pytest
from helpers.nightly import NIGHTLY
from numpy.typing import NDArray

import specnorm
from specnorm.errors import GeometryError

Float = NDArray[np.float64]
DRAWS = 600 if NIGHTLY else 12
TOP = {1: 17, 2: 8, 3: 4}
"""Most pixels an axis."""


def _pixel(place: int, n: int, mode: str) -> int | None:
    """The pixel that stands at a place in front of, in, or behind n pixels."""
    if mode == "zeros":
        return place if 0 <= place < n else None
    if mode == "circular":
        return place % n
    if mode == "replicate":
        return min(max(place, 0), n - 1)
    period = 2 * n if mode == "symmetric" else max(2 * n - 2, 1)
    place %= period
    return min(place, period - 1 - place if mode == "symmetric" else period - place)


def _amounts(word: str, n: int | None, width: int, s: int) -> tuple[int, int]:
    """Amounts before and after, as the page says of a word; n None: the size is a multiple of the stride."""
    total = {"valid": 0, "same": width - 1}.get(word)
    if total is None:
        total = max(width - s, 0) if n is None else max((-(-n // s) - 1) * s + width - n, 0)
    less = total // 2
    return (total - less, less) if word == "same_lower" else (less, total - less)


def _reads(n: int, k: int, s: int, r: int, mode: str, pad: tuple[int, int]) -> Float:
    """Matrices (k, outputs, n) of what each tap reads."""
    outputs = (n + sum(pad) - r * (k - 1) - 1) // s + 1
    reads = np.zeros((k, max(outputs, 0), n))
    for tap, output in itertools.product(range(k), range(outputs)):
        pixel = _pixel(output * s + tap * r - pad[0], n, mode)
        if pixel is not None:
            reads[tap, output, pixel] = 1.0
    return reads


def _dense(kernel: Float, axes: list[Float], groups: int) -> list[Float]:
    """The matrix of each group."""
    matrices = []
    for part in np.split(kernel, groups):
        total: Float = np.zeros((1, 1))
        channels: Float = part.reshape(*part.shape[:2], -1)
        for number, of_axes in enumerate(itertools.product(*axes)):
            total = total + np.kron(channels[:, :, number], functools.reduce(np.kron, of_axes))
        matrices.append(total)
    return matrices


@pytest.mark.parametrize("seed", range(DRAWS))
def test_bounds_hold_for_every_word_and_mode(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def whole(high: int) -> int:
        return int(rng.integers(1, high + 1))

    ndim = whole(3)
    transposed = seed % 3 == 0
    modes = ["zeros"] if transposed else ["zeros", "circular", "reflect", "symmetric", "replicate"]
    mode, word = str(rng.choice(modes)), str(rng.choice(["same", "same_upper", "same_lower", "valid"]))
    taps, stride, dilation = ([whole(most) for _ in range(ndim)] for most in ({1: 6, 2: 4, 3: 3}[ndim], 3, 3))
    size = tuple(whole(TOP[ndim]) * (s if mode == "circular" else 1) for s in stride)
    groups = whole(3)
    kernel: Any = rng.standard_normal((groups * whole(3), whole(3), *taps))
    axes = []
    for n, k, s, r in zip(size, taps, stride, dilation, strict=True):
        pad = _amounts(word, None if transposed else n, r * (k - 1) + 1, s)
        large = (n - 1) * s + r * (k - 1) + 1 - sum(pad) if transposed else n
        axes.append(_reads(large, k, s, r, mode, pad) if large > 0 else np.zeros((k, 0, 0)))
    geometry: dict[str, Any] = {
        "stride": stride, "dilation": dilation, "groups": groups, "transposed": transposed, "padding_mode": mode,
        "padding": word,
    }  # fmt: skip
    try:
        found = specnorm.enclose(kernel, size, **geometry)
    except GeometryError as error:  # the kernel is longer than the input, or more pixels are repeated than there are
        assert min(reads.shape[1] for reads in axes) < 1 or "runs out of pixels" in str(error)  # noqa: PT017
        return
    norm = max(float(np.linalg.norm(matrix, 2)) for matrix in _dense(kernel, axes, groups))
    assert float(found.lower) <= norm * (1 + 1e-13)
    assert norm * (1 - 1e-13) <= float(found.upper)
    assert float(specnorm.conv_norm(kernel, size, **geometry)) == pytest.approx(norm, rel=1e-5, abs=1e-300)
    for bound in (specnorm.f4_bound, specnorm.tn_bound, specnorm.grid_bound):
        assert norm * (1 - 1e-13) <= float(bound(kernel, input_shape=size, **geometry))
