"""Sorting, and what else moves no two vectors apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from specnorm.networks.operators.base import FloatArray, Operator


@dataclass(frozen=True, eq=False)
class Sort(Operator):
    """Sort along an axis; ``first``: only so many of them, in order. Norm 1.

    Parameters
    ----------
    axis : int
    descending : bool
    first : int or None
    """

    rule: ClassVar[str] = "select"
    axis: int
    descending: bool = False
    first: int | None = None


@dataclass(frozen=True, eq=False)
class GroupSort(Operator):
    """Sort within groups along an axis. Norm 1.

    Parameters
    ----------
    axis : int
    size : int
        Entries of a group.
    layout : {"consecutive", "strided"}
        "consecutive": entries g*size .. g*size + size - 1 are group g; "strided": entries g, g + n/size, ... are.
    descending : bool
        Whether the largest comes first.
    """

    rule: ClassVar[str] = "select"
    axis: int
    size: int
    layout: Literal["consecutive", "strided"]
    descending: bool = False


@dataclass(frozen=True, eq=False)
class SignParts(Operator):
    """``relu(x)`` and ``relu(-x)`` one behind the other along an axis (``negative_first``: the other way). Norm 1."""

    rule: ClassVar[str] = "select"
    axis: int
    negative_first: bool = False


@dataclass(frozen=True, eq=False)
class Reflection(Operator):
    """A choice between two linear maps of pairs by the sign of a third, which agree where that is 0.

    The pair at channel c is (x[c], x[c + n/2]) along an axis. Householder activations are such.

    Parameters
    ----------
    axis : int
    sign : array, shape (2, channels of a half)
        What is compared with 0: ``sign[0] * first + sign[1] * second``.
    below, above : array, shape (2, 2, channels of a half)
        Rows of the maps where that is not above 0, and where it is: ``first' = m[0, 0] first + m[0, 1] second``.
    norm : float
        The larger norm, rounded up.
    """

    rule: ClassVar[str] = "reflect"
    axis: int
    sign: FloatArray
    below: FloatArray
    above: FloatArray
    norm: float
