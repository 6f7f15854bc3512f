"""Where a network's inputs stay, and where its values lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specnorm.certified.interval import Interval

Range = Interval
"""Where the entries of one value lie."""


@dataclass(frozen=True, eq=False)
class Ball:
    """All inputs together within a distance of a centre, in the 2-norm.

    Parameters
    ----------
    centre : mapping of str to array
        For each input of the network, in its shape.
    """

    centre: Mapping[str, NDArray[np.float64]]
    radius: float


@dataclass(frozen=True, eq=False)
class Box:
    """Every entry of the inputs between two numbers, which may be infinite.

    Parameters
    ----------
    low, high : mapping of str to array
        For each input of the network, in its shape.
    """

    low: Mapping[str, NDArray[np.float64]]
    high: Mapping[str, NDArray[np.float64]]
