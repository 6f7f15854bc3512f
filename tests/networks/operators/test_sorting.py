"""Sorting, both signs and reflections: values, and that no two vectors move apart."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from assumptions import interval
from specnorm_networks.certified.operators import GroupSort, NotRunError, Operator, Place, Reflection, SignParts, Sort

SHAPE = (2, 12, 3)


def by_hand(x: np.ndarray, size: int, layout: str, descending: bool) -> np.ndarray:
    """Along axis 1, group by group."""
    found, groups = x.copy(), x.shape[1] // size
    for sample, column, g in itertools.product(range(len(x)), range(x.shape[2]), range(groups)):
        places = [g * size + k if layout == "consecutive" else g + k * groups for k in range(size)]
        found[sample, places, column] = sorted(x[sample, places, column], reverse=descending)
    return found


OPERATORS: list[Operator] = [
    Sort(1), Sort(2, descending=True), Sort(1, True, 4), Sort(1, first=12), SignParts(1), SignParts(2, True),
    *(GroupSort(1, size, layout, down) for size in (1, 2, 3, 12) for layout in ("consecutive", "strided")
      for down in (False, True)),
]  # fmt: skip


@pytest.mark.parametrize("operator", OPERATORS, ids=repr)
def test_nothing_moves_apart(operator: Operator) -> None:
    dice = np.random.default_rng(0)
    place = Place((SHAPE,))
    assert operator.lipschitz(place) == 1
    for scale in (1e-3, 1.0):
        x = dice.normal(size=SHAPE)
        y = x + scale * dice.normal(size=SHAPE)
        found = operator.run(x)
        assert np.linalg.norm(found - operator.run(y)) <= np.linalg.norm(x - y) * (1 + 1e-14)
        assert operator.rounding([x], found, 2.0**-24) == 0
        image = operator.image([interval(np.minimum(x, y), np.maximum(x, y))], place)
        assert image is not None
        for share in dice.random((20, *SHAPE)):
            between = operator.run(x + share * (y - x))
            assert (image.low - 1e-15 <= between).all()
            assert (between <= image.high + 1e-15).all()


def test_values() -> None:
    x = np.random.default_rng(0).normal(size=SHAPE)
    assert (Sort(1).run(x) == by_hand(x, 12, "consecutive", False)).all()
    assert (Sort(1, True, 4).run(x) == by_hand(x, 12, "strided", True)[:, :4]).all()
    for operator in OPERATORS:
        if isinstance(operator, GroupSort):
            assert (operator.run(x) == by_hand(x, operator.size, operator.layout, operator.descending)).all()
    assert (SignParts(1).run(x) == np.concatenate([np.where(x > 0, x, 0), np.where(x < 0, -x, 0)], 1)).all()
    assert (SignParts(2, True).run(x) == np.concatenate([np.where(x < 0, -x, 0), np.where(x > 0, x, 0)], 2)).all()
    with pytest.raises(NotRunError, match="groups"):
        GroupSort(1, 5, "strided").run(x)


def householder(angles: np.ndarray) -> Reflection:
    """``z`` where v.z > 0, else ``z - 2 v (v.z)``, for pairs of channels."""
    v = np.array([np.sin(angles / 2), -np.cos(angles / 2)])
    plain = np.array([[np.ones(len(angles)), np.zeros(len(angles))], [np.zeros(len(angles)), np.ones(len(angles))]])
    return Reflection(1, v, plain - 2 * v[:, None] * v[None], plain, 1.0 + 1e-15)


def test_reflections() -> None:
    dice = np.random.default_rng(0)
    operator = householder(dice.uniform(0, 2 * np.pi, 6))
    assert operator.lipschitz(Place((SHAPE,))) == operator.norm
    for scale in (1e-3, 1.0):
        x = dice.normal(size=SHAPE)
        y = x + scale * dice.normal(size=SHAPE)
        found = operator.run(x)
        for c in range(6):
            pair, v = x[:, [c, c + 6]], operator.sign[:, c]
            over = np.einsum("i,nij->nj", v, pair)
            wanted = np.where(over[:, None] > 0, pair, pair - 2 * v[None, :, None] * over[:, None])
            assert abs(found[:, [c, c + 6]] - wanted).max() < 1e-14
        assert np.linalg.norm(found - operator.run(y)) <= np.linalg.norm(x - y) * operator.norm + 1e-13
    with pytest.raises(NotRunError, match="pairs"):
        operator.run(x[:, :10])


def test_roundings_of_reflections() -> None:
    """In single precision, points on the border among them; another angle is seen."""
    dice = np.random.default_rng(1)
    angles = dice.uniform(0, 2 * np.pi, 6)
    operator = householder(angles)
    x = dice.normal(size=(500, 12))
    x[::2, :6] = operator.sign[1] * x[::2, 6:] / -operator.sign[0]
    x = x.astype(np.float32).astype(np.float64)
    sign, below, above = (
        each.astype(np.float32).astype(np.float64) for each in (operator.sign, operator.below, operator.above)
    )
    there = Reflection(1, sign, below, above, 1.0).run(x)
    found = operator.run(x)
    allowed = operator.rounding([x], found, 2.0**-24)
    assert (abs(there - found) <= allowed).all()
    assert (abs(householder(angles + 1e-3).run(x) - found) > allowed).any()
