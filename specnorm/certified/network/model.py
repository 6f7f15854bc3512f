"""What a graph was translated from, as something that can be executed beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class NotExecutedError(Exception):
    """The original cannot be executed on an input, or at all; the message says why."""


@dataclass(frozen=True, eq=False)
class Computed:
    """A value as the original computed it.

    Parameters
    ----------
    value : array
        float64, exactly what was computed.
    unit : float
        Unit roundoff of the arithmetic that computed it: 2^-53, 2^-24 (float32), 2^-11 (float16), 2^-8 (bfloat16).
    """

    value: NDArray[np.generic]
    unit: float


class Model(Protocol):
    """The original of a graph, executed by its own framework."""

    def values(self, inputs: Mapping[str, NDArray[np.float64]]) -> Mapping[str, Computed]:
        """Values by the names of the graph's nodes, in the original's own precision.

        Parameters
        ----------
        inputs : mapping of str to array
            One for each of the graph's inputs that move, in the graph's shape (open sizes: any). Inputs that are held
            are the original's to choose.

        Returns
        -------
        mapping of str to Computed
            As many values as the format names, outputs at least; inputs as they were rounded.
        """
        ...

    def several(self, inputs: Mapping[str, NDArray[np.float64]]) -> Mapping[str, Computed] | None:
        """Outputs for inputs with other numbers of samples along the first axis; None where it takes no such number."""
        ...
