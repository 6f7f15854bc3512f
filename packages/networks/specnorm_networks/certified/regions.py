"""Regions of a network's inputs, such as boxes, and what claims say of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from specnorm_networks.certified.digests import digest_of_bits

Inputs: TypeAlias = dict[str, NDArray[np.float64]]
"""Values of a network's inputs, by name."""
INFINITE_END = 1e3
"""Number in place of infinity where inputs are taken from a box that has no end."""


@dataclass(frozen=True)
class Region:
    """A region as claims about a network name it; see `Area.region`."""

    words: str
    """Description for people."""
    digest: str
    """SHA-256 of the bits of the numbers that describe it, such as the ends of a box."""

    def __str__(self) -> str:
        return self.words

    @staticmethod
    def of(words: str, *numbers: Mapping[str, NDArray[np.float64]]) -> Region:
        """Return a region by its description and the numbers for each input that it consists of."""
        return Region(words, digest_of_bits((words, numbers)))


class Area(Protocol):
    """A region from which inputs are taken."""

    @property
    def region(self) -> Region:
        """The region as claims name it."""
        ...

    def nearest(self, x: Inputs) -> Inputs:
        """Return inputs moved into the region."""
        ...

    def around(self, x: Inputs) -> Inputs:
        """Return inputs in the region for numbers of a size of about 1, which lead there from its middle."""
        ...


@dataclass(frozen=True, eq=False)
class Box:
    """Every entry of the inputs between two numbers, which may be infinite.

    Parameters
    ----------
    low, high : mapping of str to array
        Ends of each input of the network, in the input's shape.
    """

    low: Mapping[str, NDArray[np.float64]]
    high: Mapping[str, NDArray[np.float64]]

    @property
    def region(self) -> Region:
        """The box as claims name it."""
        return Region.of("a box", self.low, self.high)

    def nearest(self, x: Inputs) -> Inputs:
        """Return inputs with each entry moved into its interval."""
        return {name: np.clip(value, self.low[name], self.high[name]) for name, value in x.items()}

    def around(self, x: Inputs) -> Inputs:
        """Return inputs in the box: its middle for 0, its ends from -1 and 1 on; an infinite end is `INFINITE_END`."""
        inputs = {}
        for name, share in x.items():
            low, high = (np.clip(ends[name], -INFINITE_END, INFINITE_END) for ends in (self.low, self.high))
            inputs[name] = np.clip((low + high) / 2 + share * (high - low) / 2, low, high)
        return inputs
