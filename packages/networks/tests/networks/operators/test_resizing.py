"""Interpolation, with coordinates that are exact and with those that are rounded; averages at sizes that are open."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from specnorm_networks.certified.axes import LONGEST, AxisPooling
from specnorm_networks.certified.operators import NoBoundError, NotRunError, Place, Resize
from specnorm_networks.certified.operators.windows import average_norm_up
from specnorm_networks.comparison.checking import TOLERANCE

ONE = Fraction(1)


def refused(operator: Resize, place: Place) -> str:
    """Why it has no constant at a place."""
    with pytest.raises(NoBoundError) as caught:
        operator.lipschitz(place)
    return str(caught.value)


@pytest.mark.parametrize("factor", [2, 3, 5, 8])
def test_whole_factors_repeat_pixels(factor: int) -> None:
    for n in (1, 7, 14, 32):
        resize = Resize("nearest", None, (ONE, Fraction(factor)), "asymmetric")
        assert resize.lipschitz(Place(((1, n),))) == pytest.approx(math.sqrt(factor), rel=1e-12)
        x = np.arange(n, dtype=np.float64)[None]
        assert np.array_equal(resize.run(x), np.repeat(x, factor, axis=1))


def test_linear_interpolation_in_single_precision() -> None:
    """Values with weights that are computed in single precision are within the tolerance."""
    rng = np.random.default_rng(0)
    for n, m in ((50, 173), (31, 17), (9, 64)):
        scale = Fraction(m, n)
        resize = Resize("linear", (1, m), (ONE, scale), "half_pixel")
        step = np.float32(n) / np.float32(m)
        x = np.maximum((np.arange(m).astype(np.float32) + np.float32(0.5)) * step - np.float32(0.5), np.float32(0))
        low = np.minimum(np.floor(x).astype(int), n - 1)
        part = (x - low.astype(np.float32)).astype(np.float32)

        def single(v: Any, low: Any = low, part: Any = part, n: int = n) -> Any:
            high = np.minimum(low + 1, n - 1)
            return (np.float32(1) - part) * v[..., low] + part * v[..., high]

        v = rng.normal(size=(1, n)).astype(np.float32)
        found = resize.run(v.astype(float))
        assert (abs(found - single(v)) <= TOLERANCE * resize.size_of_terms([v.astype(float)], found)).all()


def test_resizing_without_known_sizes_is_refused_with_the_reason() -> None:
    resize = Resize("nearest", None, (ONE, ONE, Fraction(2)), "asymmetric")
    assert resize.lipschitz(Place(((1, 2, 4),))) == math.sqrt(2)
    assert "input shape" in refused(resize, Place((None,)))
    assert "not supported" in refused(Resize("nearest", None, (Fraction(2),), "other"), Place(((4,),)))
    assert f"at most {LONGEST} are" in refused(
        Resize("nearest", None, (Fraction(2),), "asymmetric"), Place(((LONGEST,),))
    )
    for operator in (resize, Resize("cubic", None, (Fraction(2),), "asymmetric")):
        with pytest.raises(NotRunError):
            operator.run(np.zeros(3))
    crop = Resize("nearest", None, (ONE, ONE), "tf_crop_and_resize")
    assert "not supported" in refused(crop, Place(((4, 5),)))
    assert crop.linear_map(Place(((4, 5),))) is None


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (2, 1), (3, 2), (5, 2), (3, 3), (2, 3), (7, 4)])
def test_averages_along_an_axis_of_any_size(kernel: int, stride: int) -> None:
    """Above the matrix of each size, and attained as it grows: what counts where the matrix is too large."""
    axis = AxisPooling(kernel, stride, 1, 0, 0, 2 * LONGEST)
    found = average_norm_up(axis)
    norms = []
    for size in (kernel, 2 * kernel + 1, 240):
        rows = [np.arange(size) - at for at in range(0, size - kernel + 1, stride)]
        norms.append(float(np.linalg.norm([((row >= 0) & (row < kernel)) / kernel for row in rows], 2)))
    assert max(norms) <= found <= 1.001 * norms[-1]
    for other in ({"ceil": True}, {"dilation": 2}, {"count_padding": False, "before": 1}):
        with pytest.raises(NoBoundError):
            average_norm_up(replace(axis, **other))
