"""Linear operators without a kernel: sums, scales, reductions, joins of values, padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from specnorm.networks.operators.base import FloatArray, Linear, Offset

PadMode = Literal["zeros", "reflect", "replicate", "circular"]


@dataclass(frozen=True, eq=False)
class Scale(Linear):
    """``x * values + offset``, entry by entry: batch normalisation at inference, products with constants.

    Parameters
    ----------
    values : array
        float64, broadcasting against the value by NumPy's rules.
    offset : callable or None
        What is added.
    exact : bool
        Whether the values are exact; else they were computed with a handful of roundings.
    """

    rule: ClassVar[str] = "scale"
    values: FloatArray
    offset: Offset | None = None
    exact: bool = False


@dataclass(frozen=True, eq=False)
class Add(Linear):
    """``(w_1 x_1 + ... + w_n x_n) / over`` of values that are broadcast, constants among them.

    Parameters
    ----------
    weights : tuple of float
        One an input, exact.
    over : int
        More than 1 for means of values.
    """

    rule: ClassVar[str] = "add"
    weights: tuple[float, ...]
    over: int = 1


@dataclass(frozen=True, eq=False)
class Concat(Linear):
    """Values (constants among them) one behind the other along an axis; ``new``: along an axis of their own."""

    rule: ClassVar[str] = "stack"
    axis: int
    new: bool = False


@dataclass(frozen=True, eq=False)
class Merge(Linear):
    """The first value, whose entries at some flat positions are those of the second, in order.

    Parameters
    ----------
    at : array of int
        Positions in the first value; none twice.
    """

    rule: ClassVar[str] = "stack"
    at: FloatArray


@dataclass(frozen=True, eq=False)
class Broadcast(Linear):
    """Broadcast to a shape, by NumPy's rules.

    Parameters
    ----------
    target : tuple of int
        As `numpy.broadcast_to` takes it; it may have fewer axes than the value, or 1 where the value has more (ONNX's
        Expand): both are broadcast to each other.
    """

    rule: ClassVar[str] = "broadcast"
    target: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Sum(Linear):
    """Sum over axes."""

    rule: ClassVar[str] = "sum"
    axes: tuple[int, ...]
    keep: bool = False


@dataclass(frozen=True, eq=False)
class Mean(Linear):
    """Mean over axes."""

    rule: ClassVar[str] = "mean"
    axes: tuple[int, ...]
    keep: bool = False


@dataclass(frozen=True, eq=False)
class Pad(Linear):
    """Padding of the last ``len(pads)`` axes.

    Parameters
    ----------
    mode : {"zeros", "reflect", "replicate", "circular"}
        "zeros": with `value`.
    pads : tuple of (int, int)
        Before and after each of those axes; not negative.
    value : float
        NaN: not known.
    """

    rule: ClassVar[str] = "pad"
    mode: PadMode
    pads: tuple[tuple[int, int], ...]
    value: float = 0.0
