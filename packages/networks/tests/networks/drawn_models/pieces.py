"""What models are drawn of: pieces one after the other, each drawn for the shape before it, and drawn again if it does
not fit."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

Shape = tuple[int, ...]
Maker = Callable[[Any, Shape], Any]
"""Makes a piece by dice, for a shape."""
ROOM = {"float32": 1e-5, "float64": 1e-10, "bfloat16": 3e-2}
"""What rounding of weights that are computed in a type may change of a bound, relatively."""
INSIDE = {"float32 inside": 1e-6, "float16 inside": 1e-2, "bfloat16 autocast": 5e-2}
"""What arithmetic of fewer bits, which stays in a model in float64, may change of the outputs' size."""


class Dice(random.Random):
    def one_of(self, *items: Any) -> Any:
        return self.choice(items)

    def chance(self, p: float) -> bool:
        return self.random() < p

    def divisor(self, *numbers: int) -> int:
        return self.choice([n for n in range(1, min(numbers) + 1) if all(m % n == 0 for m in numbers)])


class Pieces:
    """Makers by name, each for shapes of some numbers of axes.

    What most networks consist of is plain, what some of them contain is odd: one of five pieces, at most two.
    """

    def __init__(self) -> None:
        self.makers: dict[str, Maker] = {}
        self.ranks: dict[bool, dict[str, tuple[int, ...]]] = {False: {}, True: {}}

    def plain(self, name: str, ranks: tuple[int, ...], make: Maker, *, odd: bool = False) -> None:
        assert name not in self.makers
        self.makers[name] = make
        self.ranks[odd][name] = ranks

    def odd(self, name: str, ranks: tuple[int, ...], make: Maker) -> None:
        self.plain(name, ranks, make, odd=True)

    def draw(self, dice: random.Random, shape: Shape, odd_ones: int) -> tuple[str, bool]:
        """The name of a piece that may fit, and whether it is an odd one."""
        is_odd = odd_ones < 2 and dice.random() < 0.2
        return dice.choice([name for name, ranks in self.ranks[is_odd].items() if len(shape) in ranks]), is_odd


def relative(names: tuple[str, ...]) -> float:
    """What pieces of some names may change of the outputs' size."""
    return max([0.0, *(INSIDE[name] for name in names if name in INSIDE)])
