"""Norms, largest and smallest entries, softmax: values, constants and roundings."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from assumptions import interval
from specnorm_networks.certified.operators import (
    Largest,
    LogSoftmax,
    NoBoundError,
    Norm,
    NotRunError,
    Operator,
    Place,
    Smallest,
    Softmax,
)

SHAPE = (3, 4, 5)


def softmax(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    powers = np.exp(x)
    return np.asarray(powers / powers.sum(axes, keepdims=True))


OPERATORS: list[tuple[Operator, Callable[[np.ndarray], np.ndarray]]] = [
    (Largest((1,)), lambda x: np.sort(x, 1)[:, -1]),
    (Largest((1, 2), True), lambda x: np.sort(x.reshape(3, -1), 1)[:, -1:, None]),
    (Smallest((2,), True), lambda x: np.sort(x, 2)[:, :, :1]),
    (Norm((1,)), lambda x: np.linalg.norm(x, axis=1)),
    (Norm((1, 2), True), lambda x: np.linalg.norm(x.reshape(3, 1, -1), axis=2, keepdims=True)),
    (Softmax((1,)), lambda x: softmax(x, (1,))),
    (Softmax((1, 2)), lambda x: softmax(x.reshape(3, -1), (1,)).reshape(SHAPE)),
    (LogSoftmax((2,)), lambda x: np.log(softmax(x, (2,)))),
]


@pytest.mark.parametrize(("operator", "definition"), OPERATORS, ids=[repr(op) for op, _ in OPERATORS])
def test_values_images_and_constants(operator: Operator, definition: Callable[[np.ndarray], np.ndarray]) -> None:
    dice = np.random.default_rng(0)
    place = Place((SHAPE,))
    for scale in (1e-3, 0.3, 10.0):
        x = dice.normal(size=SHAPE)
        y = x + scale * dice.normal(size=SHAPE)
        found = operator.run(x)
        assert found.shape == definition(x).shape
        assert abs(found - definition(x)).max() < 1e-14
        assert np.linalg.norm(found - operator.run(y)) <= np.linalg.norm(x - y) * operator.lipschitz(place)
        image = operator.image([interval(np.minimum(x, y), np.maximum(x, y))], place)
        assert image is not None
        for share in [*dice.random((20, *SHAPE)), 0.0, 1.0]:
            between = operator.run(x + share * (y - x))
            assert (image.low - 1e-15 <= between).all()
            assert (between <= image.high + 1e-15).all()


@pytest.mark.parametrize(("operator", "definition"), OPERATORS, ids=[repr(op) for op, _ in OPERATORS])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1000.0])
def test_single_precision_is_within_the_rounding(
    operator: Operator, definition: Callable[[np.ndarray], np.ndarray], scale: float
) -> None:
    del definition
    x = (scale * np.random.default_rng(0).normal(size=SHAPE)).astype(np.float32)
    single = operator.run(x)
    if isinstance(operator, Norm):
        single = np.sqrt(np.square(x).sum(operator.axes, keepdims=operator.keep))
    elif isinstance(operator, (Softmax, LogSoftmax)):
        single = _plain(x, operator.axes)[isinstance(operator, LogSoftmax)]
    assert single.dtype == np.float32
    values = x.astype(np.float64)
    found = operator.run(values)
    allowed = operator.rounding([values], found, 2.0**-24)
    assert (abs(single - found) <= allowed).all()
    assert (allowed <= 1e-5 * (1 + scale) * (abs(found) + 1)).all()


def _plain(x: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    less = x - x.max(axes, keepdims=True)
    total = np.exp(less).sum(axes, keepdims=True)
    return np.exp(less) / total, less - np.log(total)


def test_norms_of_huge_and_tiny_numbers() -> None:
    for scale in (1e-300, 1e-200, 1e200, 1e300):
        x = scale * np.array([[3.0, -4.0], [0.0, 0.0]])
        assert Norm((1,)).run(x) == pytest.approx([5 * scale, 0.0], rel=1e-14, abs=0)
        image = Norm((1,)).image([interval(x, x)], Place(((2, 2),)))
        assert image is not None
        assert image.low[0] <= 5 * scale <= image.high[0]
        assert image.low[1] == image.high[1] == 0
    whole = interval(np.array([[-1.0, -np.inf]]), np.array([[2.0, 3.0]]))
    image = Norm((1,)).image([whole], Place(((1, 2),)))
    assert image is not None
    assert (image.low[0], image.high[0]) == (0, np.inf)
    assert Norm((0,)).run(np.array([3j, 4.0])) == pytest.approx(5)


def test_softmax_and_its_logarithm() -> None:
    dice = np.random.default_rng(0)
    steepest: dict[type[Softmax | LogSoftmax], float] = {Softmax: 0.0, LogSoftmax: 0.0}
    for at in range(400):
        z = dice.normal(size=7) * (at % 20)
        z[0] += at % 40
        p = Softmax((0,)).run(z)
        jacobians = np.diag(p) - np.outer(p, p), np.eye(7) - p[None]
        for kind, jacobian in zip(tuple(steepest), jacobians, strict=True):
            steepest[kind] = max(steepest[kind], float(np.linalg.norm(jacobian, 2)))
    for kind, found in steepest.items():
        factor = kind((1,)).lipschitz(Place(((1, 7),)))
        assert 0.9 * factor <= found <= factor
    assert LogSoftmax((1, 2)).lipschitz(Place(((1, 3, 12),))) == 6
    assert Softmax((1,)).lipschitz(Place((None,))) == 0.5
    for unknown in (None, (1, "classes")):
        with pytest.raises(NoBoundError, match="classes"):
            LogSoftmax((1,)).lipschitz(Place((unknown,)))
    # Entries that are masked by -infinity.
    z = np.array([0.0, -np.inf, math.log(3)])
    assert Softmax((0,)).run(z) == pytest.approx([0.25, 0, 0.75])


def test_no_entries() -> None:
    for operator in (Largest((1,)), Smallest((1,))):
        with pytest.raises(NotRunError, match="no entries"):
            operator.run(np.zeros((2, 0)))
    assert Norm((1,)).run(np.zeros((2, 0))).tolist() == [0, 0]
    assert Softmax((1,)).run(np.zeros((2, 0))).shape == (2, 0)
