"""Shapes, axes and numbers at random, for calls of operators."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Slot:
    """A tensor that may depend on the network's inputs."""

    shape: tuple[int, ...]


class Dice(random.Random):
    def sizes(self, low: int = 1, high: int = 3, most: int = 4) -> tuple[int, ...]:
        """A shape of at most 16 entries."""
        while True:
            shape = tuple(self.randint(1, most) for _ in range(self.randint(low, high)))
            if math.prod(shape) <= 16:
                return shape

    def image(self, ndim: int, low: int = 2, high: int = 8, channels: int = 1) -> tuple[int, ...]:
        """One sample with this many axes in space."""
        return (1, channels, *(self.randint(low, max(low, high // 2 ** (ndim - 1))) for _ in range(ndim)))

    def part(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A shape that is broadcast to another one: with leading axes left out, and with ones."""
        kept = shape[self.choice([0, 0, self.randint(0, len(shape))]) :]
        return tuple(1 if self.random() < 0.35 else n for n in kept)


def numbers(d: Dice, shape: tuple[int, ...]) -> NDArray[np.float64]:
    found = np.asarray([d.gauss(0, 1) for _ in range(math.prod(shape))], dtype=np.float64).reshape(shape)
    return np.asarray(found * d.choice([0.1, 1.0, 3.0]))


def axis(d: Dice, shape: tuple[int, ...], more: int = 0) -> int:
    n = len(shape) + more
    return d.randrange(-n, n) if n else d.choice([-1, 0])


def some_axes(d: Dice, shape: tuple[int, ...]) -> list[int]:
    found = d.sample(range(len(shape)), d.randint(1, len(shape)))
    return [a - len(shape) if d.random() < 0.4 else a for a in found]


def pieces(d: Dice, n: int) -> list[int]:
    found: list[int] = []
    while n:
        found.append(d.randint(0 if found else 1, n))
        n -= found[-1]
    return found
