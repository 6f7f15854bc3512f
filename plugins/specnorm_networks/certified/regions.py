"""Regions of a network's inputs: balls and boxes, and what claims say of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Region:
    """A region as claims about a network name it; `Ball.region` and `Box.region` return it."""

    words: str
    """Description for people."""
    digest: str
    """SHA-256 of the bits of the ends of a box, or of the centre and radius of a ball."""

    def __str__(self) -> str:
        return self.words


@dataclass(frozen=True, eq=False)
class Ball:
    """All inputs together within a distance of a centre, in the 2-norm.

    Parameters
    ----------
    centre : mapping of str to array
        Centre of each input of the network, in the input's shape.
    radius : float
        Radius of the ball of all inputs as one vector.
    """

    centre: Mapping[str, NDArray[np.float64]]
    radius: float

    @property
    def region(self) -> Region:
        """The ball as claims name it."""
        return Region(f"a ball of radius {self.radius!r}", _digest(f"ball {float(self.radius)!r}", self.centre))


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
        return Region("a box", _digest("box", self.low, self.high))


def _digest(words: str, *ends: Mapping[str, NDArray[np.float64]]) -> str:
    whole = hashlib.sha256(words.encode())
    for arrays in ends:
        for name in sorted(arrays):
            array = np.asarray(arrays[name], dtype=np.float64)
            whole.update(f"{name!r} {array.shape}".encode())
            whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()
