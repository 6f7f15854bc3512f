"""Bounds of layers whose padding is a word, of every mode, transposed or not, against dense matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.checks import assert_encloses, assert_valid
from helpers.nightly import NIGHTLY
from helpers.oracle import dense_norm

import specnorm
from specnorm.errors import GeometryError

DRAWS = 600 if NIGHTLY else 12
TOP = {1: 17, 2: 8, 3: 4}
"""Most pixels an axis."""


def _amounts(word: str, n: int | None, width: int, s: int) -> tuple[int, int]:
    """Amounts before and after, as the page says of a word; n None: the size is a multiple of the stride."""
    total = {"valid": 0, "same": width - 1}.get(word)
    if total is None:
        total = max(width - s, 0) if n is None else max((-(-n // s) - 1) * s + width - n, 0)
    less = total // 2
    return (total - less, less) if word == "same_lower" else (less, total - less)


@pytest.mark.parametrize("seed", range(DRAWS))
def test_bounds_hold_for_every_word_and_mode(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def whole(high: int) -> int:
        return int(rng.integers(1, high + 1))

    ndim = whole(3)
    transposed = seed % 3 == 0
    modes = ["zeros"] if transposed else ["zeros", "circular", "reflect", "symmetric", "replicate"]
    mode, word = str(rng.choice(modes)), rng.choice(["same", "same_upper", "same_lower", "valid"]).item()
    taps, stride, dilation = ([whole(most) for _ in range(ndim)] for most in ({1: 6, 2: 4, 3: 3}[ndim], 3, 3))
    size = tuple(whole(TOP[ndim]) * (s if mode == "circular" else 1) for s in stride)
    groups = whole(3)
    kernel: Any = rng.standard_normal((groups * whole(3), whole(3), *taps))
    axes = zip(size, taps, stride, dilation, strict=True)
    pads = [_amounts(word, None if transposed else n, r * (k - 1) + 1, s) for n, k, s, r in axes]
    geometry: dict[str, Any] = {
        "stride": stride, "dilation": dilation, "groups": groups, "transposed": transposed, "padding_mode": mode,
    }  # fmt: skip
    try:
        found = specnorm.enclose(kernel, size, padding=word, **geometry)
    except GeometryError as error:  # the kernel is longer than the input, or more pixels are repeated than there are
        if "runs out of pixels" not in str(error):
            with pytest.raises(ValueError, match="no output"):
                dense_norm(kernel, size, padding=pads, **geometry)
        return
    truth = dense_norm(kernel, size, padding=pads, **geometry)
    assert_encloses(found.lower, found.upper, truth)
    norm = specnorm.conv_norm(kernel, size, padding=word, **geometry)
    assert float(norm) == pytest.approx(truth.hi, rel=1e-5, abs=1e-300)
    for bound in (specnorm.f4_bound, specnorm.tn_bound, specnorm.grid_bound):
        assert_valid(float(bound(kernel, input_shape=size, padding=word, **geometry)), "upper", truth)
