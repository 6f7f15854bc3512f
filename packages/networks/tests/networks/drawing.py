"""Shapes, axes and numbers at random, for calls of operators."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

Arguments = dict[str, Any]
Test = TypeVar("Test", bound=Callable[..., None])


@dataclass(frozen=True)
class Slot:
    """A tensor that may depend on the network's inputs."""

    shape: tuple[int, ...]


class Shapes(random.Random):
    """Choices by the bits of a source, seven at a time, and shapes."""

    def __init__(self, source: random.Random) -> None:
        super().__init__()
        self.source = source

    def random(self) -> float:
        return self.getrandbits(14) / 2**14

    def getrandbits(self, k: int, /) -> int:
        few = self.source.getrandbits(min(k, 7))
        return few if k <= 7 else (self.getrandbits(k - 7) << 7) + few

    def sizes(self, low: int = 1, high: int = 3, most: int = 4) -> tuple[int, ...]:
        """A shape of at most 16 entries."""
        while True:
            shape = tuple(self.randint(1, most) for _ in range(self.randint(low, high)))
            if math.prod(shape) <= 16:
                return shape

    def image(self, ndim: int, low: int = 2, high: int = 8, channels: int = 1) -> tuple[int, ...]:
        return (1, channels, *(self.randint(low, max(low, high // 2 ** (ndim - 1))) for _ in range(ndim)))

    def part(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A shape that is broadcast to another one: with leading axes left out, and with ones."""
        kept = shape[self.choice([0, 0, self.randint(0, len(shape))]) :]
        return tuple(1 if self.random() < 0.35 else n for n in kept)


def examples(check: Callable[[Shapes], None], count: int, start: object) -> None:
    """Check ``count`` + 1 choices at random, each from a number of its own: the same ones whatever ran before."""
    for number in range(count + 1):
        try:
            check(Shapes(random.Random(f"{start} {number}")))
        except BaseException as error:
            error.add_note(f"example {number} of {start}")
            raise


def by_operator(names: Iterable[str]) -> Callable[[Test], Test]:
    """Let ``-k Softsign`` find a test that draws calls of all these operators; `asked` tells it which are meant."""

    def marked(test: Test) -> Test:
        vars(test).update(dict.fromkeys(names, True))
        return test

    return marked


def asked(names: Iterable[str], request: pytest.FixtureRequest) -> list[str]:
    """The operators that ``-k`` names, or all."""
    words = re.findall(r"\w+", request.config.getoption("keyword").lower())
    return [name for name in names if name.lower() in words] or [*names]


def numbers(d: Shapes, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """From one number, as all contents."""
    found = np.random.default_rng(d.getrandbits(16)).normal(size=shape)
    return np.asarray(found * d.choice([0.1, 1.0, 3.0]))


def axis(d: Shapes, shape: tuple[int, ...], more: int = 0) -> int:
    n = len(shape) + more
    return d.randrange(-n, n) if n else d.choice([-1, 0])


def some_axes(d: Shapes, shape: tuple[int, ...]) -> list[int]:
    found = d.sample(range(len(shape)), d.randint(1, len(shape)))
    return [a - len(shape) if d.random() < 0.4 else a for a in found]


def pieces(d: Shapes, n: int) -> list[int]:
    found: list[int] = []
    while n:
        found.append(d.randint(0 if found else 1, n))
        n -= found[-1]
    return found
