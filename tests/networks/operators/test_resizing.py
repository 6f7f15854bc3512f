"""Interpolation, with coordinates that are exact and with those that are rounded."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from networks.operators.dense import check_linear, norm, refused
from nightly import NIGHTLY
from specnorm_networks.certified.axes import LONGEST, nearest_pixels, resize_norm_up
from specnorm_networks.certified.operators import NotRunError, Place, Resize

ONE = Fraction(1)


def places(coordinates: str, n: int, m: int) -> Any:
    if coordinates == "half_pixel":
        return (np.arange(m) + 0.5) * n / m - 0.5
    return np.arange(m) * n / m if coordinates == "asymmetric" else np.arange(m) * (n - 1) / max(m - 1, 1)


def interpolation(mode: str, coordinates: str, nearest: str, n: int, m: int) -> Any:
    """The matrix of an axis."""
    x, basis = places(coordinates, n, m), np.eye(n)
    if mode == "linear":
        return np.stack([np.interp(x, np.arange(n), row) for row in basis], 1)
    rounded = {
        "floor": np.floor(x + 1e-9), "ceil": np.ceil(x - 1e-9), "round_prefer_floor": np.ceil(x - 0.5 - 1e-9),
        "round_prefer_ceil": np.floor(x + 0.5 + 1e-9),
    }[nearest]  # fmt: skip
    return basis[np.clip(rounded.astype(int), 0, n - 1)]


@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric", "align_corners"])
@pytest.mark.parametrize("nearest", ["linear", "floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
@pytest.mark.parametrize(("n", "m"), [(4, 8), (4, 11), (7, 3), (1, 5), (3, 1)])
def test_resizing_against_interpolation(nearest: str, coordinates: str, n: int, m: int) -> None:
    mode: Any = "linear" if nearest == "linear" else "nearest"
    matrix = interpolation(mode, coordinates, nearest, n, m)
    found = resize_norm_up(mode, n, m, Fraction(m, n), coordinates, nearest)
    if mode == "nearest" and (m % n or coordinates == "align_corners"):
        assert found is None
        return
    assert found is not None
    moves = mode == "nearest" and (m // n).bit_count() > 1  # where single precision may take another pixel
    assert norm(matrix) * (1 - 1e-9) <= found <= (2**0.5 if moves else 1 + 1e-8) * norm(matrix)
    assert resize_norm_up("cubic", n, m, Fraction(m, n), coordinates, nearest) is None
    other = interpolation(mode, coordinates, nearest, 2, 4)
    resize = Resize(mode, (2, 4, m), (ONE, Fraction(2), Fraction(m, n)), coordinates, nearest)
    if moves and resize.linear_map(Place(((2, 2, n),))) is None:
        assert found > norm(matrix)
        return
    close = 1e-5 if mode == "linear" else 1e-9  # coordinates of linear interpolation may be of single precision
    check_linear(resize, lambda x: np.einsum("pi,qj,sij->spq", other, matrix, x), (2, 2, n), close=close)


def test_copies_are_counted_where_rounding_puts_them() -> None:
    """From 2 pixels to 82: single precision rounds 41 / 41 down, so that the first pixel is taken 42 times."""
    resize = Resize("nearest", (1, 82), (ONE, Fraction(41)), "asymmetric")
    place = Place(((1, 2),), (1, 82))
    assert 42 <= Fraction(resize.lipschitz(place)) ** 2 <= 42 + Fraction(1, 10**9)
    step = np.float32(2) / np.float32(82)
    pixels = np.minimum(np.floor(np.arange(82).astype(np.float32) * step).astype(int), 1)
    assert (pixels == 0).sum() == 42
    x = np.array([[1.0, -2.0]])
    exact, rounded = resize.run(x), x[:, pixels]
    assert np.array_equal(exact, np.repeat(x, 41, axis=1))
    allowed = np.asarray(resize.rounding([x], exact, 2.0**-24))
    assert np.flatnonzero(allowed).tolist() == [41]  # its other pixel
    assert (abs(exact - rounded) <= allowed).all()
    assert resize.linear_map(place) is None  # which of them it is, is not known


@pytest.mark.parametrize("factor", [2, 4, 8, 16])
def test_common_factors_are_not_moved_by_rounding(factor: int) -> None:
    for n in (1, 7, 14, 32):
        resize = Resize("nearest", None, (ONE, Fraction(factor)), "asymmetric")
        assert resize.lipschitz(Place(((1, n),))) == pytest.approx(math.sqrt(factor), rel=1e-12)
        check_linear(resize, lambda x: np.repeat(x, factor, axis=1), (1, n))


def test_linear_interpolation_in_single_precision() -> None:
    """Values with weights that are computed in single precision are within the rounding."""
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
        assert (abs(found - single(v)) <= resize.rounding([v.astype(float)], found, 2.0**-24)).all()


def test_coordinates_of_torch_and_onnx_are_among_those_that_are_counted() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200 if NIGHTLY else 10):
        n, f = rng.integers(1, 30), rng.integers(1, 90)
        m = n * f
        i, step = np.arange(m).astype(np.float32), np.float32(n) / np.float32(m)
        scale, half = Fraction(int(f)), np.float32(0.5)
        for coordinates, nearest, pixels in (
            ("asymmetric", "floor", np.floor(i * step)),
            ("half_pixel", "round_prefer_ceil", np.floor((i + half) * step)),
            ("half_pixel", "round_prefer_floor", np.ceil((i + half) / np.float32(m / n) - half - half)),
            ("half_pixel", "floor", np.floor((i + half) * step - half)),
            ("asymmetric", "round_prefer_ceil", np.floor(i * step + half)),
            ("asymmetric", "ceil", np.ceil(np.arange(m) / (m / n))),
            ("asymmetric", "ceil", np.ceil(i * step)),
        ):
            known = nearest_pixels(int(n), int(m), scale, coordinates, nearest)
            assert known is not None
            chosen = np.clip(pixels, 0, n - 1)
            assert ((chosen == known[0]) | (chosen == known[1])).all()
            norm_up = resize_norm_up("nearest", int(n), int(m), scale, coordinates, nearest)
            assert norm_up is not None
            assert np.bincount(chosen.astype(int)).max() <= norm_up**2


def test_sizes_that_are_not_known() -> None:
    resize = Resize("nearest", None, (ONE, ONE, Fraction(2)), "asymmetric")
    assert resize.lipschitz(Place((("n", "c", 4),))) == math.sqrt(2)
    assert "input shape" in refused(resize, Place(((1, 2, "h"),)))
    assert "input shape" in refused(resize, Place((None,)))
    assert "no rule" in refused(Resize("nearest", None, (Fraction(2),), "other"), Place(((4,),)))
    assert "no rule" in refused(Resize("nearest", None, (Fraction(2),), "asymmetric"), Place(((LONGEST,),)))
    for operator in (resize, Resize("cubic", None, (Fraction(2),), "asymmetric")):
        with pytest.raises(NotRunError):
            operator.run(np.zeros(3))
    crop = Resize("nearest", None, (ONE, ONE), "tf_crop_and_resize")
    assert "no rule" in refused(crop, Place(((4, 5),)))
    assert crop.linear_map(Place(((4, 5),))) is None
