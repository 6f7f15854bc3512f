"""Operators that move entries: their constant counts copies, whatever is stated of the adjoint's roundings."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.operators.base import Linear, Shape


class FourTimes(Linear):
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
