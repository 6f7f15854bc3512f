"""Certificates: True is a proof, False a refutation, and what cannot be told is said to be undecided."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.spectra import CLOSED_FORMS
from hypothesis import given
from hypothesis import strategies as st

import specnorm
from specnorm import Undecided


def verdict(kernel: Any, bound: float) -> bool | None:
    try:
        return specnorm.certify(kernel, bound)
    except Undecided:
        return None


PLAIN = [name for name, (_, geometry, norm) in CLOSED_FORMS.items() if not geometry and norm]


@pytest.mark.parametrize("name", PLAIN)
def test_closed_forms(name: str) -> None:
    """At the norm itself a proof with rounding can tell nothing, one without it everything."""
    kernel, _, norm = CLOSED_FORMS[name]
    assert verdict(kernel, norm * (1 + 1e-9)) is True
    assert verdict(kernel, norm * (1 - 1e-9)) is False
    taps = kernel.reshape(*kernel.shape[:2], -1)
    exact = max(int(np.count_nonzero(taps, axis=axes).max()) for axes in ((0, 2), (1, 2))) == 1
    assert verdict(kernel, norm) is (True if exact else None)
    for offset in (1e-13, 1e-14, 1e-15):
        assert verdict(kernel, norm * (1 + offset)) is not False
        assert verdict(kernel, norm * (1 - offset)) is not True


GEOMETRIES: tuple[dict[str, Any], ...] = (
    {}, {"stride": 2}, {"transposed": True}, {"dilation": 3}, {"padding": ((2, 0),)}, {"padding": 1},
)  # fmt: skip


@pytest.mark.parametrize("tiny", [1e-145, 1e-162, 1e-300, 5e-324, 0.0])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_taps_that_read_no_pixel_set_no_scale(geometry: dict[str, Any], tiny: float) -> None:
    """At one pixel a single tap counts; next to ones it underflowed, and every bound was wrong."""
    kernel = np.ones((1, 1, 3))
    # The middle tap reads the pixel, but where all of the padding stands before it.
    kernel[0, 0, 2 if geometry.get("padding") == ((2, 0),) else 1] = tiny
    where: Any = {"input_shape": 1, "padding_mode": "zeros", **geometry}
    found = specnorm.enclose(kernel, **where)
    assert float(found.lower) <= tiny <= float(found.upper) <= tiny * 1.01 + 1e-307
    assert 0.99 * tiny - 1e-307 <= float(specnorm.power_norm(kernel, **where)) <= tiny
    for bound in (0.5 * tiny, 1e-150, 2 * tiny):
        assert specnorm.certify(kernel, bound, **where) is (tiny <= bound)


def test_groups_of_one_tap_are_decided_beside_others() -> None:
    """A search of all groups together ended undecided at the norm of those with one tap."""
    kernel = 0.05 * np.random.RandomState(0).standard_normal((6, 1, 3, 3))
    kernel[::2] = 0
    kernel[::2, 0, 1, 1] = [1.0, 0.9, -0.3]
    for size in (None, 5):
        assert specnorm.certify(kernel, 1.0, input_shape=size, groups=6)
        assert not specnorm.certify(kernel, np.nextafter(1.0, 0), input_shape=size, groups=6)


@given(
    channels=st.integers(1, 5), wide=st.integers(0, 2), shape=st.sampled_from(((), (3,), (2, 3))),
    seed=st.integers(0, 99), dtype=st.sampled_from(("float32", "float64")), exponent=st.integers(-30, 30),
    stride=st.integers(1, 2), transposed=st.booleans(), scaled=st.booleans(),
)  # fmt: skip
def test_exact_kernels_are_never_undecided(
    channels: int, wide: int, shape: tuple[int, ...], seed: int, dtype: str, exponent: int, stride: int,
    transposed: bool, scaled: bool,
) -> None:  # fmt: skip
    """One tap, a permutation of channels, each shifted on its own: the norm is the largest entry, without rounding."""
    random = np.random.RandomState(seed)
    kernel: Any = np.zeros((channels, channels + wide, *shape), dtype=dtype)
    for row, column in enumerate(random.permutation(channels + wide)[:channels]):
        entry = random.choice([-1, 1]) * (random.uniform(0.1, 3) if scaled else 1.0)
        kernel[(row, column, *(random.randint(k) for k in shape))] = entry * 2.0**exponent
    if random.randint(2):
        kernel = np.ascontiguousarray(np.swapaxes(kernel, 0, 1))
    norm = float(np.abs(kernel).max())
    geometry: Any = {"stride": stride, "transposed": transposed} if shape else {"transposed": transposed}
    assert specnorm.certify(kernel, norm, **geometry)
    assert not specnorm.certify(kernel, np.nextafter(norm, 0), **geometry)
    if shape and not transposed:
        zeros: Any = {"padding_mode": "zeros", "stride": stride}
        assert specnorm.certify(kernel, norm, input_shape=6, **zeros)
