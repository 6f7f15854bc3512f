"""Sorting and Householder activations: maps that move no two vectors further apart.

The rules for single operators would bound the pair (max(u, v), min(u, v)) by the root of two. But sorting moves no two
vectors further apart, so that the pair has the constant 1 (MaxMin, GroupSort, full sort). A choice between two linear
maps by the sign of a linear form, which agree where the form is 0, has the larger one of their norms (Householder
activations).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import ArrayOps, arithmetic, backends, matrix_norm_up
from specnorm_networks.certified.operators.base import (
    FloatArray,
    Known,
    NoBoundError,
    NotRunError,
    Place,
    Program,
    Shape,
)
from specnorm_networks.certified.operators.linear import Add, Concat
from specnorm_networks.certified.operators.moves import Gather
from specnorm_networks.certified.operators.piecewise import ReLU

LARGEST_JUMP = 2.0**-20
"""Largest `Reflection.jump` that is taken for rounding: a few roundings in single precision."""


class Sorted(Known):
    """Entries in order: |sort(x) - sort(y)| <= |x - y| (rearrangement inequality).

    The k-th entry of the value rises with each entry of the input.
    """

    rule = "select"
    lipschitz_constant = 1.0
    is_monotone_and_exact = True
    axis: int

    def groups(self, count: int) -> NDArray[np.intp]:
        """Return for each entry along the axis the number of its group: entries of one group are sorted together."""
        raise NoBoundError(f"{type(self).__name__} has no groups")


class Sort(Sorted):
    """Entries sorted along an axis."""

    descending: bool = False
    first: int | None = None
    """Number of entries that are returned, the first ones in that order; None: all."""

    def groups(self, count: int) -> NDArray[np.intp]:
        return np.zeros(count, dtype=np.intp)

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        ordered = _in_order(x, self.axis, self.descending)
        return ordered if self.first is None else np.take(ordered, np.arange(self.first), self.axis)

    def written_out(self, before: Sequence[Shape]) -> Program | None:
        """Write a pair as a group of two."""
        if before[0][self.axis] != 2 or self.first is not None:
            return None
        return GroupSort(self.axis, 2, "consecutive", self.descending).written_out(before)


class GroupSort(Sorted):
    """Entries sorted along an axis within each group."""

    size: int
    """Number of entries of a group."""
    layout: Literal["consecutive", "strided"]
    """"consecutive": entries g*size .. g*size + size - 1 are group g; "strided": entries g, g + n/size, ... are."""
    descending: bool = False

    def groups(self, count: int) -> NDArray[np.intp]:
        entries = np.arange(count)
        return entries // self.size if self.layout == "consecutive" else entries % (count // self.size)

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
        sizes_before = x.shape[: self.axis]
        sizes_after = x.shape[self.axis + 1 :]
        groups = x.reshape(*sizes_before, *split_shape, *sizes_after)
        return _in_order(groups, axis_within_group, self.descending).reshape(x.shape)

    def written_out(self, before: Sequence[Shape]) -> Program | None:
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


class Reflection(Known):
    """A choice between two linear maps of pairs by the sign of a linear form, as Householder activations make it.

    The pair at channel c is (first, second) = (x[c], x[c + n/2]) along an axis. Both maps agree on the border, where
    the form is 0, up to a `jump` of at most `LARGEST_JUMP` that is not counted. So the choice is continuous, and linear
    on either side of the border, which a segment crosses once.
    """

    rule = "reflect"
    axis: int
    sign: FloatArray
    """Coefficients of the form ``sign[0] * first + sign[1] * second``, shape (2, n/2)."""
    below: FloatArray
    """Matrix m of the map where the form is not above 0, shape (2, 2, n/2): the first entry of the value is
    ``m[0, 0] first + m[0, 1] second``, the second one ``m[1, 0] first + m[1, 1] second``."""
    above: FloatArray
    """Matrix of the map where the form is above 0, as ``below``."""

    def groups(self, count: int) -> NDArray[np.intp]:
        """Return for each entry along the axis the number of its pair."""
        return np.arange(count) % (count // 2)

    @property
    def jump(self) -> float:
        """Largest difference of both maps at a unit vector on the border, over the larger map's Frobenius norm."""
        below = self.below.transpose(2, 0, 1)
        above = self.above.transpose(2, 0, 1)
        border = np.array([self.sign[1], -self.sign[0]]).T
        lengths = np.linalg.norm(border, axis=1)
        norms = [np.linalg.norm(matrices, axis=(1, 2)) for matrices in (below, above)]
        largest_norm = float(max(map(np.max, norms)))
        if not (0 < lengths.min() <= lengths.max() < np.inf and 1e-100 < largest_norm < 1e100):
            return math.inf
        differences = np.einsum("kij,kj->ki", below - above, border / lengths[:, None])
        return float(np.max(np.linalg.norm(differences, axis=1))) / largest_norm

    @property
    @arithmetic.on_host()
    def norm(self) -> float | None:
        """Norm of the larger map, rounded up; None if the maps differ on the border by more than rounding."""
        if not self.jump <= LARGEST_JUMP:
            return None
        below = self.below.transpose(2, 0, 1)
        above = self.above.transpose(2, 0, 1)
        maps: Any = np.concatenate([below, above])
        ops = ArrayOps.of(backends.backend_for(maps), maps)
        norms: Any = matrix_norm_up(maps, ops=ops)
        return float(np.max(norms))

    def run(self, *values: FloatArray) -> FloatArray:
        form, below, above = self._form_and_maps(*values)
        return self._joined(np.where(form > 0, above, below))

    def lipschitz(self, place: Place) -> float:
        norm = self.norm
        if norm is None:
            raise NoBoundError("its two maps differ where its sign is 0: it jumps")
        return norm

    def size_of_terms(self, values: Sequence[FloatArray], result: FloatArray) -> FloatArray:
        absolute = replace(self, below=abs(self.below), above=abs(self.above))
        _, below, above = absolute._form_and_maps(abs(values[0]))
        return self._joined(np.maximum(below, above))

    def error_of_jump(self, x: FloatArray) -> FloatArray:
        """Return the size of the jump that each entry of the value may make, of a border through the pair."""
        size = replace(self, below=np.ones_like(self.below), above=np.ones_like(self.above)).run(abs(x))
        return self.jump * float(np.max(abs(np.stack([self.below, self.above])))) * 2 * size

    def _form_and_maps(self, x: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return the linear form of all pairs (n/2, ...), the value of the map below, and that of the map above.

        The values have the axis first, split into the entries of a pair and the pairs: shape (2, n/2, ...).
        """
        axis_first = np.moveaxis(x, self.axis, 0)
        n = len(axis_first)
        if n != 2 * self.sign.shape[1]:
            raise NotRunError(f"an axis of {n} is no pairs of {self.sign.shape[1]}")
        pairs = axis_first.reshape(2, n // 2, *axis_first.shape[1:])
        below, above = (np.einsum("ijc,jc...->ic...", matrix, pairs) for matrix in (self.below, self.above))
        return np.einsum("jc,jc...->c...", self.sign, pairs), below, above

    def _joined(self, pairs: FloatArray) -> FloatArray:
        """Return a value whose axis is first, and split into pairs, in the shape of the input."""
        return np.moveaxis(pairs.reshape(-1, *pairs.shape[2:]), 0, self.axis)
