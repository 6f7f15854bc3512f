"""Operators that move entries."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from networks.operators.dense import check_linear
from specnorm_networks.certified.operators import (
    Entries,
    Flatten,
    Gather,
    Identity,
    NotRunError,
    Operator,
    Permute,
    Place,
    Reshape,
    Selection,
    Slice,
    Squeeze,
    Tile,
    TwoAxes,
    Unsqueeze,
)

CASES: list[tuple[Operator, Any, tuple[int, ...]]] = [
    (Identity(), lambda x: x, (2, 3)),
    (Reshape((-1, 4)), lambda x: x.reshape(3, 4), (2, 3, 2)),
    (Reshape((0, 6), copies=True), lambda x: x.reshape(2, 6), (2, 3, 2)),
    (Reshape((0, 4)), lambda x: x.reshape(0, 4), (0, 3)),
    (Flatten(1, 2), lambda x: x.reshape(2, 6, 1), (2, 3, 2, 1)),
    (TwoAxes(0), lambda x: x.reshape(1, 12), (2, 3, 2)),
    (TwoAxes(2), lambda x: x.reshape(6, 2), (2, 3, 2)),
    (Squeeze(), lambda x: x.reshape(2, 3), (1, 2, 1, 3)),
    (Squeeze((2,)), lambda x: x.reshape(1, 2, 3), (1, 2, 1, 3)),
    (Unsqueeze((0, 3)), lambda x: x.reshape(1, 2, 3, 1), (2, 3)),
    (Permute((2, 0, 1)), lambda x: np.moveaxis(x, 2, 0), (2, 3, 4)),
    (Slice(((1, 1, None, 2), (0, None, -1, 1))), lambda x: x[:-1, 1::2], (3, 5)),
    (Slice(((0, None, None, -1),)), lambda x: x[::-1], (3, 2)),
    (Slice(((0, 5, 9, 1),)), lambda x: x[5:9], (3, 2)),
    (Entries(np.array([[0, 5], [-1, 0]]), 6), lambda x: np.array([[x[0, 0], x[1, 2]], [0, x[0, 0]]]), (2, 3)),
    (Gather(1, np.array([[0, -1], [2, 2]])), lambda x: np.stack([x[:, [0, 2]], x[:, [2, 2]]], 1), (2, 3)),
    (Gather(0, np.array(1)), lambda x: x[1], (3, 2)),
    (Tile((2, 1, 3)), lambda x: np.concatenate([np.concatenate([x, x, x], 1)[None]] * 2), (2, 2)),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: repr(case[0])[:40])
def test_moves_against_their_definition(case: Any) -> None:
    operator, define, shape = case
    check_linear(operator, define, shape, tight=1e-8 if define(np.zeros(shape)).size else None)
    x = np.random.default_rng(0).normal(size=shape)
    assert np.array_equal(operator.run(x), define(x))


def test_tables_at_random() -> None:
    d = random.Random(3)
    for _ in range(40):
        size = d.randint(1, 6)
        at = np.array([d.randint(-1, size - 1) for _ in range(d.randint(1, 8))])

        def define(x: Any, at: Any = at) -> Any:
            return np.array([0.0 if p < 0 else x.reshape(-1)[p] for p in at])

        check_linear(Entries(at, size), define, (1, size))


def test_what_does_not_fit_is_not_run() -> None:
    x = np.zeros((2, 3))
    for operator in (
        Reshape((4, 2)), Reshape((0, 0, 0), copies=True), Squeeze((0,)), Permute((0, 1, 2)), Slice(((2, 0, 1, 1),)),
        Entries(np.array([6]), 6), Entries(np.array([-2]), 6), Entries(np.array([0]), 5), Gather(0, np.array([2])),
        Gather(2, np.array([0])), Flatten(1, 2), TwoAxes(3), Selection(),
    ):  # fmt: skip
        with pytest.raises(NotRunError):
            operator.run(x)


def test_copies_where_the_size_is_not_known() -> None:
    """A position from the end may be one from the start."""
    place = Place((("n", 3),))
    for index, most in (([0, 1, 2], 1), ([0, -1], 2), ([0, 0, -1, -1, -2], 4), ([-1, -1, -2], 2), ([], 0)):
        assert Gather(0, np.array(index, dtype=int)).lipschitz(place) == math.sqrt(most)
    assert Gather(1, np.array([0, -3])).lipschitz(place) == math.sqrt(2)
    assert Gather(1, np.array([0, -1])).lipschitz(place) == 1
    assert Gather(0, np.array([0, 0])).linear_map(place) is None
    assert Permute((1, 0)).lipschitz(place) == Selection().lipschitz(place) == 1


def test_casts_round_once() -> None:
    x = np.array([0.1, -3.0, 1e4])
    assert (abs(x.astype(np.float16) - x) <= Identity().rounding([x], x, 2.0**-11)).all()
