"""The model that a graph was translated from, as an object that executes it, and the report on their comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import counted

UNITS = {
    "float64": 2.0**-53,
    "float32": 2.0**-24,
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
}
"""Unit roundoffs of floating-point formats; TensorFloat-32 has that of float16."""


Inputs: TypeAlias = Mapping[str, NDArray[np.float64]]
"""Arrays for the inputs of a network, by their names."""


class NotExecutedError(Exception):
    """The model cannot be executed on an input, or not at all; the message says why."""


@dataclass(frozen=True, eq=False)
class Computed:
    """A value that the model computed.

    Parameters
    ----------
    array : array
        The value in the model's precision.
    unit : float
        Unit roundoff of the arithmetic that computed it: 2^-53, 2^-24 (float32), 2^-11 (float16), 2^-8 (bfloat16).
    """

    array: NDArray[Any]
    unit: float

    @property
    def value(self) -> NDArray[np.float64]:
        """The value in float64."""
        return self.array.astype(np.float64, copy=False)


def equal_but_for_rounding(first: Computed, second: Computed, usual: float = 0.0) -> bool:
    """Whether two results of a whole network agree to about the square root of the unit roundoff.

    Differences are relative to the entry, or to the largest entry, of ``second``. ``usual`` is the size of the results
    for other inputs of this size: a result in which terms cancel has the rounding errors of a result of usual size.
    Where ``second``, in the lower precision, has overflown, the results are not compared.
    """
    if first.value.shape != second.value.shape:
        return False
    tolerance = math.sqrt(2 * max(first.unit, second.unit))
    size = max(largest(second.value), usual)
    has_overflown = ~np.isfinite(second.value) & (first.unit < second.unit)
    ours = np.where(has_overflown, second.value, first.value)
    with np.errstate(all="ignore"):
        return np.allclose(ours, second.value, rtol=tolerance, atol=tolerance * size, equal_nan=True)


def largest(numbers: NDArray[np.float64]) -> float:
    """Return the largest absolute value of finite numbers; 0 if there are none."""
    return float(np.max(np.where(np.isfinite(numbers), abs(numbers), 0.0), initial=0.0))


class Model(Protocol):
    """The model that a graph was read from, executed by its own framework."""

    file: bytes | None
    """The ONNX file that was exported from a live model, and from which the graph was read; None for other models."""

    def values(self, inputs: Inputs) -> Mapping[str, Computed]:
        """Return values by the names of the graph's nodes, in double precision unless the model insists on another.

        Parameters
        ----------
        inputs : mapping of str to array
            An array for each input of the graph, in the graph's shape. The model chooses its other inputs, such as
            integer ones, itself.

        Returns
        -------
        mapping of str to Computed
            The outputs, all other values for which the format has names, and the inputs, rounded to the model's
            precision.
        """
        ...

    def several(self, inputs: Inputs) -> Mapping[str, Computed] | None:
        """Return the outputs for inputs with another number of samples; None if the model does not run on that number.

        Samples lie along the first axis.
        """
        ...


@dataclass(frozen=True)
class Checked:
    """Report on the comparison of a graph with its model.

    Parameters
    ----------
    inputs : int
        Number of inputs on which graph and model were executed; 0: nothing was compared.
    values : int
        Number of values of the graph that were compared.
    missed : tuple of str
        Names of values that were not compared: the model does not name them, or they cannot be computed here.
    difference : float
        Largest difference of two values, divided by the allowed difference.
    in_double : bool
        Whether the model was executed in double precision; otherwise it insists on its own.
    samples : tuple of int
        Sizes of batches whose outputs are those of each sample by itself.
    reason : str
        Reason why nothing was compared; empty for graphs made by hand.
    pairs : int
        Number of pairs of inputs by which the answer was attacked; see `attack`.
    reached : float
        Largest ratio of the outputs' distance to the inputs' distance of these pairs, in float64.
    """

    inputs: int = 0
    values: int = 0
    missed: tuple[str, ...] = ()
    difference: float = 0.0
    in_double: bool = True
    samples: tuple[int, ...] = ()
    reason: str = ""
    pairs: int = 0
    reached: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether every value that the outputs are computed from was compared."""
        return self.inputs > 0 and not self.missed

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    def __str__(self) -> str:
        """Say in a sentence what was compared."""
        if not self.inputs:
            return f"Not compared with the model: {self.reason or 'the graph was made by hand'}."
        missed = f", {len(self.missed)} could not be compared" if self.missed else ""
        together = ""
        if self.samples:
            *others, last = map(str, self.samples)
            numbers = f"{', '.join(others)} and {last}" if others else last
            together = f"; {numbers} samples together give what each gives by itself"
        inputs = counted(self.inputs, "input")
        agreed = "1 value agrees" if self.values == 1 else f"{self.values} values agree"
        precision = "" if self.in_double else ", in the model's own precision"
        return f"Compared with the model on {inputs}{precision}: {agreed}{missed}{together}."
