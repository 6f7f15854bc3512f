"""Operators of several values entry by entry, constants among them, that are not sums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from specnorm.networks.operators.base import Ends, FloatArray, Operator


@dataclass(frozen=True, eq=False)
class Maximum(Operator):
    """The largest of several values."""

    rule: ClassVar[str] = "extreme"
    near: Ends | None = field(default=None, kw_only=True)
    """Of two values u and v, smallest and largest slope of ReLU on where u - v lies."""


@dataclass(frozen=True, eq=False)
class Minimum(Operator):
    """The smallest of several values."""

    rule: ClassVar[str] = "extreme"
    near: Ends | None = field(default=None, kw_only=True)


@dataclass(frozen=True, eq=False)
class Where(Operator):
    """The first value where a constant mask is true, else the second.

    Parameters
    ----------
    mask : callable
        Gives booleans that broadcast against the values.
    """

    rule: ClassVar[str] = "extreme"
    mask: Callable[[], NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Product(Operator):
    """The product of two values that both depend on the input: a constant on ranges alone."""

    rule: ClassVar[str] = "product"


@dataclass(frozen=True, eq=False)
class Quotient(Operator):
    """The quotient of two values, of which the second depends on the input: a constant on ranges alone."""

    rule: ClassVar[str] = "quotient"


@dataclass(frozen=True, eq=False)
class Compare(Operator):
    """1 where a value is above (or the like) a number, else 0: a step, which has no constant.

    Parameters
    ----------
    kind : {"gt", "ge", "lt", "le"}
    threshold : float
    """

    rule: ClassVar[str] = "unknown"
    kind: Literal["gt", "ge", "lt", "le"]
    threshold: float = 0.0


@dataclass(frozen=True, eq=False)
class Choose(Operator):
    """The second value where the first is not 0, else the third: no constant but in patterns."""

    rule: ClassVar[str] = "unknown"


@dataclass(frozen=True, eq=False)
class Sign(Operator):
    """-1, 0 or 1, the sign of each entry: a step, which has no constant but in patterns."""

    rule: ClassVar[str] = "unknown"

    def run(self, *values: FloatArray) -> FloatArray:
        """The sign."""
        (x,) = values
        return np.asarray(np.sign(x))
