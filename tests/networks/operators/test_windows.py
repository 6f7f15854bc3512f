"""Pooling against matrices of windows that are counted pixel by pixel."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import numpy as np
import pytest
from assumptions import interval
from networks.operators.dense import check_linear, norm, refused
from numpy.typing import NDArray
from specnorm_networks.certified.axes import Window, average_norm_up, overlap
from specnorm_networks.certified.operators import (
    AdaptiveAveragePool,
    AdaptiveMaxPool,
    AveragePool,
    L2Pool,
    MaxPool,
    NotRunError,
    Operator,
    Place,
    Windows,
)

Array = NDArray[np.float64]


def average_matrix(n: int, window: Window) -> Array:
    """Rows of weights, by going through pixels: independent of the code under test."""
    rows = []
    start = -window.before
    while True:
        if window.ceil:
            fits = start < n and (
                start == -window.before or start - window.stride + reach(window) <= n + window.after - 1
            )
        else:
            fits = start + reach(window) <= n + window.after
        if not fits:
            break
        row, count = np.zeros(n), 0
        for p in range(start, start + reach(window), window.dilation):
            if 0 <= p < n:
                row[p] = 1
                count += 1
            elif window.count_padding and p < n + window.after:
                count += 1
        rows.append(row / max(count, 1))
        start += window.stride
    return np.asarray(rows).reshape(-1, n)


def reach(window: Window) -> int:
    return window.dilation * (window.kernel - 1) + 1


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("s", [1, 2, 3])
@pytest.mark.parametrize(("count", "ceil"), [(True, False), (False, False), (True, True), (False, True)])
def test_averages_against_their_matrix(k: int, s: int, count: bool, ceil: bool) -> None:
    for n in (5, 8):
        pad = k // 2
        plain = Window(k, s, 1, pad, pad, n, None, ceil, count)
        matrix = average_matrix(n, plain)
        assert plain.count(n) == len(matrix)
        found = average_norm_up(Window(k, s, 1, pad, pad, n, len(matrix), ceil, count))
        assert found is not None
        assert norm(matrix) * (1 - 1e-12) <= found <= norm(matrix) * (1 + 1e-8)
        every = average_norm_up(plain)
        if every is not None:
            assert found <= every * (1 + 1e-8)
            assert every <= 1.2 * norm(average_matrix(60, Window(k, s, 1, pad, pad, 60, None, ceil, count)))


def test_average_at_every_size_is_the_limit() -> None:
    for k, s, value in ((3, 2, math.sqrt(5) / 3), (4, 4, 0.5), (4, 2, 1 / math.sqrt(2)), (2, 5, math.sqrt(0.5))):
        assert average_norm_up(Window(k, s)) == pytest.approx(value, rel=1e-14)
    assert average_norm_up(Window(3, 1, before=1, after=1, count_padding=False)) is None
    assert average_norm_up(Window(3, 2, ceil=True)) is None


@pytest.mark.parametrize("k", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("s", [1, 2, 3, 4])
@pytest.mark.parametrize("r", [1, 2, 3])
def test_overlap_counts_windows(k: int, s: int, r: int) -> None:
    n = 60
    starts = range(0, n - r * (k - 1), s)
    most = max(sum(p in range(m, m + r * (k - 1) + 1, r) for m in starts) for p in range(n))
    assert overlap(Window(k, s, r)) == most
    assert overlap(Window(k, s, r, size=n, outputs=1)) == 1


# -- operators ---------------------------------------------------------------------------------------------------------
def drawn(d: random.Random, ndim: int) -> tuple[Windows, tuple[int, ...]]:
    """Windows that have outputs, each with a pixel."""
    while True:
        kernel = tuple(d.randint(1, 3) for _ in range(ndim))
        pads = tuple((d.randint(0, k // 2), d.randint(0, k // 2)) for k in kernel)
        stride, dilation = (tuple(d.randint(1, most) for _ in range(ndim)) for most in (3, 2))
        sizes = tuple(d.randint(2, 6) for _ in range(ndim))
        windows = Windows(kernel, stride, dilation, pads, d.random() < 0.4)
        if all(len(m) and m.any(axis=1).all() for m in matrices(windows, sizes, True)):
            return windows, sizes


def matrices(windows: Windows, sizes: tuple[int, ...], count_padding: bool) -> list[Array]:
    assert windows.padding is not None
    each = zip(windows.kernel, windows.stride, windows.dilation, windows.padding, sizes, strict=True)
    return [
        average_matrix(n, Window(k, s, r, *pads, n, None, windows.ceil, count_padding)) for k, s, r, pads, n in each
    ]


def together(x: Array, axes: list[Array]) -> Array:
    """A matrix along each of the last axes."""
    for at, matrix in enumerate(axes):
        place = x.ndim - len(axes) + at
        x = np.moveaxis(np.tensordot(x, matrix, axes=(place, 1)), -1, place)
    return x


def reads(axes: list[Array]) -> list[tuple[tuple[int, ...], list[tuple[int, ...]]]]:
    """Output -> pixels."""
    outputs = itertools.product(*(range(len(m)) for m in axes))
    return [
        (o, list(itertools.product(*(np.flatnonzero(m[i]).tolist() for i, m in zip(o, axes, strict=True)))))
        for o in outputs
    ]


def maxima(x: Array, axes: list[Array]) -> Array:
    found = np.zeros((*x.shape[: x.ndim - len(axes)], *map(len, axes)))
    for output, pixels in reads(axes):
        read: list[Any] = [(..., *p) for p in pixels]
        place: Any = (..., *output)
        found[place] = np.max([x[each] for each in read], axis=0)
    return found


@pytest.mark.parametrize("seed", range(25))
def test_pooling_at_random(seed: int) -> None:
    d, rng = random.Random(seed), np.random.default_rng(seed)
    ndim = d.choice([1, 2])
    windows, sizes = drawn(d, ndim)
    shape, count = (1, 2, *sizes), d.random() < 0.5
    axes = matrices(windows, sizes, count)
    check_linear(AveragePool(windows, count), lambda x: together(x, axes), shape)
    ones = [np.where(m > 0, 1.0, 0.0) for m in axes]
    divisor = d.choice([3, -5])
    summed = AveragePool(windows, count, divisor)
    if windows.ceil:
        check_linear(summed, lambda x: together(x, ones) / divisor, shape, tight=None)
        assert "divisor" in refused(summed, Place((shape,)))
    else:
        # Sharp where padding is not read.
        check_linear(summed, lambda x: together(x, ones) / divisor, shape, tight=1e-8)
    pool, x = MaxPool(windows), rng.normal(size=shape)
    expected = maxima(x, axes)
    assert np.array_equal(pool.run(x), expected)
    assert pool.rounding([x], expected, 2.0**-24) == 0
    low, high = x - rng.uniform(size=shape), x + rng.uniform(size=shape)
    image = pool.image([interval(low, high)], Place((shape,), expected.shape))
    assert image is not None
    assert np.array_equal(image.low, maxima(low, axes))
    assert np.array_equal(image.high, maxima(high, axes))
    check_counted(pool, axes, shape)
    kernel = math.prod(windows.kernel)
    root = L2Pool(windows, 0.7 * kernel)
    value = np.sqrt(0.7 * together(np.square(x), ones))
    assert (abs(root.run(x) - value) <= root.rounding([x], value, 2.0**-53)).all()
    single = np.sqrt(np.float32(0.7) * together(np.square(x.astype(np.float32)), [m.astype(np.float32) for m in ones]))
    assert (abs(root.run(x) - single) <= root.rounding([x], value, 2.0**-24)).all()
    check_counted(root, axes, shape, 0.7)


def check_counted(operator: Operator, axes: list[Array], shape: tuple[int, ...], times: float = 1.0) -> None:
    """The root of the number of windows that a pixel is in; at unknown sizes no less."""
    most = math.prod(int((m > 0).sum(axis=0).max()) for m in axes)
    here, anywhere = (operator.lipschitz(Place((each,))) for each in (shape, (*shape[:2], *"hw"[: len(axes)])))
    assert math.sqrt(times * most) * (1 - 1e-12) <= here <= anywhere * (1 + 1e-12)
    # Where no pixel is in all windows that it could be in, for want of room, the formula is larger.
    assert here <= math.sqrt(times * math.prod(len(m) for m in axes)) * (1 + 1e-12)


@pytest.mark.parametrize(("sizes", "outputs"), [((5,), (3,)), ((4, 7), (2, 5)), ((3,), (5,)), ((6, 2), (1, 1))])
def test_adaptive_pooling(sizes: tuple[int, ...], outputs: tuple[int, ...]) -> None:
    axes = []
    for n, m in zip(sizes, outputs, strict=True):
        rows = np.zeros((m, n))
        for i in range(m):
            rows[i, math.floor(i * n / m + 1e-9) : math.ceil((i + 1) * n / m - 1e-9)] = 1
        axes.append(rows / rows.sum(axis=1, keepdims=True))
    shape = (2, *sizes)
    check_linear(AdaptiveAveragePool(outputs), lambda x: together(x, axes), shape)
    x = np.random.default_rng(0).normal(size=shape)
    pool = AdaptiveMaxPool(outputs)
    assert np.array_equal(pool.run(x), maxima(x, axes))
    most = math.prod(int((m > 0).sum(axis=0).max()) for m in axes)
    assert pool.lipschitz(Place((shape,))) == pytest.approx(math.sqrt(most))
    for operator in (pool, AdaptiveAveragePool(outputs)):
        assert "input shape" in refused(operator, Place(((2, *"hw"[: len(sizes)]),)))
        with pytest.raises(NotRunError):
            operator.run(np.zeros(()))


def test_padding_that_depends_on_the_size() -> None:
    """The constant of a maximum does not; that of a mean does, and nothing is run."""
    same = Windows((3,), (2,), (1,), None)
    place = Place(((1, 1, "h"),), (1, 1, "g"))
    assert MaxPool(same).lipschitz(place) == math.sqrt(2)
    assert MaxPool(same).lipschitz(Place(((1, 1, 9),), (1, 1, 1))) == 1
    assert "input shape" in refused(AveragePool(same), place)
    for operator in (MaxPool(same), AveragePool(same), L2Pool(same, 1.0)):
        with pytest.raises(NotRunError):
            operator.run(np.zeros((1, 1, 8)))


def test_sizes_that_windows_do_not_give() -> None:
    windows = Windows((2,), (2,), (1,), ((0, 0),))
    assert "outputs" in refused(MaxPool(windows), Place(((1, 1, 8),), (1, 1, 3)))
    assert MaxPool(windows).image([interval(np.zeros((1, 8)), np.ones((1, 8)))], Place(((1, 8),), (1, 3))) is None
    with pytest.raises(NotRunError, match="padding alone"):
        MaxPool(Windows((1,), (1,), (1,), ((1, 0),))).run(np.zeros((1, 4)))
