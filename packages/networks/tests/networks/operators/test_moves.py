"""Operators that move entries: their constant counts copies, whatever is stated of the adjoint's roundings."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.operators.base import Affine, Shape, keep_linear_maps


class FourTimes(Affine):
    """Four copies of the input; the adjoint adds them up in pairs."""

    only_moves_entries = True

    def map_at(self, before: Shape, *others: Shape) -> ops.LinearMap:
        def repeat(x: Any) -> Any:
            return np.repeat(x[0], 4, axis=-1)

        def add_up(y: Any) -> Any:
            pairs = y.reshape(len(y), *before, 2, 2).sum(axis=-1)
            return [pairs.sum(axis=-1)]

        return ops.LinearMap(repeat, repeat, 0, adjoint=add_up, only_moves_entries=True)


@pytest.mark.parametrize("n", [1, 5])
def test_the_constant_counts_copies_and_not_roundings(n: int) -> None:
    constant = FourTimes().lipschitz(ops.Place(((1, n),), (1, 4 * n)))
    matrix = np.repeat(np.eye(n), 4, axis=-1)
    assert np.linalg.norm(matrix, 2) * (1 - 1e-12) <= constant <= 2 * (1 + 1e-15)


def test_entries_that_no_output_reads_have_no_copies() -> None:
    linear = ops.Gather(0, np.array([2, 2, 0])).linear_map(ops.Place(((4,),), (3,)))
    assert linear is not None
    assert linear.sources([(4,)]).tolist() == [2, 2, 0]
    assert linear.most_copies([(4,)]) == 2


def test_a_value_of_zeros_alone_has_a_constant_of_1() -> None:
    zeros = ops.Entries(np.full((1, 3), -1), 2)
    assert zeros.lipschitz(ops.Place(((1, 2),), (1, 3))) == math.sqrt(1)


@pytest.mark.parametrize("n", [1, 2, 50, 1000])
def test_the_norm_of_cumulative_sums_is_not_below_a_quotient(n: int) -> None:
    """The top right singular vector is known: cosines."""
    angle = math.pi / (4 * n + 2)
    x = np.cos((2 * np.arange(n) + 1) * angle)
    quotient = float(np.linalg.norm(np.cumsum(x)) / np.linalg.norm(x))
    assert quotient * (1 - 1e-13) <= ops.CumulativeSum(0).lipschitz(ops.Place(((n,),), (n,))) <= quotient * (1 + 1e-13)


def test_entries_that_are_added_up_have_the_norm_of_their_matrix() -> None:
    positions = np.array([[0, 2], [2, 5], [2, 0]])
    added = ops.AddedUp(positions, (2, 3))
    place = ops.Place(((3, 2),), (2, 3))
    matrix = np.zeros((6, 6))
    matrix[positions.ravel(), np.arange(6)] = 1
    assert np.linalg.norm(matrix, 2) * (1 - 1e-14) <= added.lipschitz(place) <= math.sqrt(3) * (1 + 1e-15)
    x = np.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(added.run(x), (matrix @ x.ravel()).reshape(2, 3))
    linear = added.linear_map(place)
    assert linear is not None
    np.testing.assert_array_equal(linear.back(x.reshape(1, 2, 3))[0][0], (x.ravel() @ matrix).reshape(3, 2))


def test_entries_added_beyond_the_value_have_no_map() -> None:
    assert ops.AddedUp(np.array([0, 3]), (3,)).linear_map(ops.Place(((2,),), (3,))) is None


def test_a_map_is_made_once_for_each_operator_and_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a network is executed many times; a value of another shape is still refused."""
    made: list[ops.Convolution] = []
    plain = ops.Convolution.map_at

    def counting(self: ops.Convolution, *befores: Shape) -> object:
        made.append(self)
        return plain(self, *befores)

    monkeypatch.setattr(ops.Convolution, "map_at", counting)
    one, other = (
        ops.Convolution(ops.Layer("w", partial(np.array, kernel), {"padding_mode": "zeros", "padding": 1}, 2))
        for kernel in np.random.default_rng(0).standard_normal((2, 2, 2, 3, 3))
    )
    x = np.random.default_rng(2).standard_normal((1, 2, 5, 6))
    alone = [one.run(x), other.run(x), one.run(x[..., 1:])]
    made.clear()
    with keep_linear_maps():
        for _ in range(3):
            for found, expected in zip([one.run(x), other.run(x), one.run(x[..., 1:])], alone, strict=True):
                np.testing.assert_array_equal(found, expected)
        assert one.linear_map(ops.Place((x.shape,), (1, 2, 5, 7))) is None
    assert made == [one, other, one]
