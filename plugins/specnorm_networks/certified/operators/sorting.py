"""Sorting moves no two vectors further apart.

The rules for single operators would bound the pair (max(u, v), min(u, v)) by the root of two; sorting has the constant
1 (MaxMin, GroupSort, full sort).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from specnorm_networks.certified.operators.base import (
    FloatArray,
    KnownShape,
    NotRunError,
    Operator,
    Program,
)
from specnorm_networks.certified.operators.linear import Add, Concat
from specnorm_networks.certified.operators.moves import Gather
from specnorm_networks.certified.operators.piecewise import ReLU


class Sorted(Operator):
    """Entries in order: |sort(x) - sort(y)| <= |x - y| (rearrangement inequality).

    The k-th entry of the value rises with each entry of the input.
    """

    rule = "select"
    lipschitz_constant = 1.0
    is_monotone_and_exact = True


class Sort(Sorted):
    """Entries sorted along an axis."""

    axis: int
    descending: bool = False
    first: int | None = None
    """Number of entries that are returned, the first ones in that order; None: all."""

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        ordered = _in_order(x, self.axis, self.descending)
        return ordered if self.first is None else np.take(ordered, np.arange(self.first), self.axis)


class GroupSort(Sorted):
    """Entries sorted along an axis within each group."""

    axis: int
    size: int
    """Number of entries of a group."""
    layout: Literal["consecutive", "strided"]
    """"consecutive": entries g*size .. g*size + size - 1 are group g; "strided": entries g, g + n/size, ... are."""
    descending: bool = False

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        n = x.shape[self.axis]
        if self.size < 1 or n % self.size:
            raise NotRunError(f"an axis of {n} is no groups of {self.size}")
        count = n // self.size
        # The axis is split in two: the number of the group, and the entry within it.
        if self.layout == "consecutive":
            split_shape = (count, self.size)
            axis_within_group = self.axis + 1
        else:
            split_shape = (self.size, count)
            axis_within_group = self.axis
        groups = x.reshape(*x.shape[: self.axis], *split_shape, *x.shape[self.axis + 1 :])
        return _in_order(groups, axis_within_group, self.descending).reshape(x.shape)

    def written_out(self, before: Sequence[KnownShape]) -> Program | None:
        """Write pairs (u, v) by one function: ``min(u, v) = u - r`` and ``max(u, v) = v + r`` with ``r = relu(u - v)``.

        Larger groups are left as they are: exchanges of neighbours, one after the other, gave no smaller bounds.
        """
        n = before[0][self.axis]
        if self.size != 2 or n % 2:
            return None
        entries = np.arange(n)
        pairs = entries.reshape(-1, 2).T if self.layout == "consecutive" else entries.reshape(2, -1)
        u, v, difference, r, least, most, joined = range(1, 8)
        return [
            (Gather(self.axis, pairs[0]), (0,)),
            (Gather(self.axis, pairs[1]), (0,)),
            (Add((1.0, -1.0)), (u, v)),
            (ReLU(), (difference,)),
            (Add((1.0, -1.0)), (u, r)),
            (Add((1.0, 1.0)), (v, r)),
            (Concat(self.axis), (most, least) if self.descending else (least, most)),
            (Gather(self.axis, np.argsort(pairs.reshape(-1))), (joined,)),
        ]


def _in_order(x: FloatArray, axis: int, descending: bool) -> FloatArray:
    ascending = np.sort(x, axis)
    return np.flip(ascending, axis) if descending else ascending
