"""What a graph was translated from, as something that can be executed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Model(Protocol):
    """The original of a graph: a module, a file; executed by its own framework."""

    def values(self, inputs: Mapping[str, NDArray[np.float64]]) -> Mapping[str, NDArray[np.generic]]:
        """Values by the names of the graph's nodes, as the original computes them, in its own precision.

        Parameters
        ----------
        inputs : mapping of str to array
            By the names of the graph's inputs, in the graph's shapes (open sizes: any).

        Returns
        -------
        mapping of str to array
            As many values as the format names; outputs at least. The inputs as they were rounded are among them.
        """
        ...

    def several(self, inputs: Mapping[str, NDArray[np.float64]], samples: int) -> Mapping[str, NDArray[np.generic]] | None:
        """Outputs for several samples at once, along their first axis; None where the original takes no such number."""
        ...
