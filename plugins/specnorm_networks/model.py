"""What a graph was translated from, as something that can be executed beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class NotExecutedError(Exception):
    """The original cannot be executed on an input, or at all; the message says why."""


@dataclass(frozen=True, eq=False)
class Computed:
    """A value as the original computed it.

    Parameters
    ----------
    array : array
        As it was computed.
    unit : float
        Unit roundoff of the arithmetic that computed it: 2^-53, 2^-24 (float32), 2^-11 (float16), 2^-8 (bfloat16).
    """

    array: NDArray[Any]
    unit: float

    @property
    def value(self) -> NDArray[np.float64]:
        """The same numbers in float64."""
        return self.array.astype(np.float64, copy=False)


def equal_but_for_rounding(one: Computed, other: Computed, usual: float = 0.0) -> bool:
    """Whether two results of a whole network differ by at most the root of the unit, relative to the second one's size.

    ``usual``: the size that a result has for other inputs of this size. A result in which terms cancel has the rounding
    errors of a result of usual size.
    """
    if one.value.shape != other.value.shape:
        return False
    near = math.sqrt(2 * max(one.unit, other.unit))
    size = max(largest(other.value), usual)
    with np.errstate(all="ignore"):
        return np.allclose(one.value, other.value, rtol=near, atol=near * size, equal_nan=True)


def largest(numbers: NDArray[np.float64]) -> float:
    """Return the largest absolute value of finite numbers; 0 if there are none."""
    return float(np.max(np.where(np.isfinite(numbers), abs(numbers), 0.0), initial=0.0))


class Trial(Protocol):
    """Is shown an operator of a model, to execute it on inputs of its own choice."""

    def __call__(
        self,
        name: str,
        values: Mapping[str, NDArray[np.generic]],
        free: set[str],
        numbers: Sequence[float],
        run: Callable[[Mapping[str, NDArray[np.generic]]], Sequence[Computed]],
    ) -> None:
        """See one operator.

        Parameters
        ----------
        name : str
            Of its value.
        values : mapping of str to array
            What it is computed from, as the model has it.
        free : set of str
            Names of those in whose place others of their shape may be given.
        numbers : sequence of float
            Among its arguments.
        run : callable
            Gives the value for others, in double precision; several where each is as good.
        """
        ...


class Model(Protocol):
    """The original of a graph, executed by its own framework."""

    file: bytes | None
    """The ONNX file that was exported from it, which the graph was read from; None: it is a file itself."""

    def values(self, inputs: Mapping[str, NDArray[np.float64]]) -> Mapping[str, Computed]:
        """Values by the names of the graph's nodes, in the original's own precision.

        Parameters
        ----------
        inputs : mapping of str to array
            One for each of the graph's inputs that move, in the graph's shape. Inputs that are held
            are the original's to choose.

        Returns
        -------
        mapping of str to Computed
            As many values as the format names, outputs at least; inputs as they were rounded.
        """
        ...

    def alone(self, inputs: Mapping[str, NDArray[np.float64]], trial: Trial) -> None:
        """Show every operator to a trial, constants as they are stored and values in double precision."""
        ...

    def several(self, inputs: Mapping[str, NDArray[np.float64]]) -> Mapping[str, Computed] | None:
        """Outputs for inputs with other numbers of samples along the first axis; None where it takes no such number."""
        ...
