"""Where a network's inputs stay, and where its values lie."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Region:
    """What a claim about a network says of the region in which it holds: `Ball.region`, `Box.region`."""

    words: str
    digest: str
    """SHA-256 of the bits of its ends, or of its centre and radius."""

    def __str__(self) -> str:
        return self.words


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

    @property
    def region(self) -> Region:
        """For claims that hold in it."""
        return Region(f"a ball of radius {self.radius!r}", _digest(f"ball {float(self.radius)!r}", self.centre))


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

    @property
    def region(self) -> Region:
        """For claims that hold in it."""
        return Region("a box", _digest("box", self.low, self.high))


def _digest(words: str, *ends: Mapping[str, NDArray[np.float64]]) -> str:
    whole = hashlib.sha256(words.encode())
    for each in ends:
        for name in sorted(each):
            array = np.asarray(each[name], dtype=np.float64)
            whole.update(f"{name!r} {array.shape}".encode())
            whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()
