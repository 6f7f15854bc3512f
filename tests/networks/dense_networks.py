"""Small networks at random, and their dense matrices.

Nothing here is imported from `specnorm_networks` but the types that a network is given in.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from oracle import dense_matrix
from specnorm_networks import Graph, Layer, Node
from specnorm_networks.certified import operators

Matrix = NDArray[np.float64]
FUNCTIONS: dict[str, tuple[operators.Pointwise, float, float]] = {
    "relu": (operators.ReLU(), 0.0, 1.0),
    "sigmoid": (operators.Sigmoid(), 0.0, 0.25),
    "tanh": (operators.Tanh(), 0.0, 1.0),
    "gelu": (operators.GELU(), -0.1289, 1.1289),
    "silu": (operators.SiLU(), -0.0998, 1.0998),
    "abs": (operators.Abs(), -1.0, 1.0),
    "negative": (operators.Negative(), -1.0, -1.0),
    "leaky": (operators.LeakyReLU(0.2), 0.2, 1.0),
    "prelu": (operators.LeakyReLU(np.array(-0.5)), -0.5, 1.0),
}
"""The function, and slopes that are reached."""


@dataclass(frozen=True, eq=False)
class Conv:
    """A convolution as torch stores it, and the function after it (None: none)."""

    kernel: Matrix
    stride: int
    dilation: int
    groups: int
    transposed: bool
    mode: str
    pads: tuple[tuple[int, int], ...]
    scale: Matrix | None
    function: str | None

    @property
    def axes(self) -> int:
        return self.kernel.ndim - 2

    @property
    def cin(self) -> int:
        return int(self.kernel.shape[0] if self.transposed else self.kernel.shape[1] * self.groups)

    @property
    def cout(self) -> int:
        return int(self.kernel.shape[1] * self.groups if self.transposed else self.kernel.shape[0])

    @property
    def slopes(self) -> tuple[float, float]:
        return (1.0, 1.0) if self.function is None else FUNCTIONS[self.function][1:]

    def outputs(self, n: Sequence[int]) -> tuple[int, ...]:
        sizes = zip(n, self.pads, self.kernel.shape[2:], strict=True)
        if self.transposed:
            return tuple((a - 1) * self.stride - sum(p) + self.dilation * (k - 1) + 1 for a, p, k in sizes)
        return tuple((a + sum(p) - self.dilation * (k - 1) - 1) // self.stride + 1 for a, p, k in sizes)

    def matrix(self, n: Sequence[int]) -> Matrix:
        """Dense, outputs times inputs, channels first."""
        found: Matrix = dense_matrix(self.kernel, n, **self.geometry)
        return found if self.scale is None else np.repeat(self.scale, len(found) // self.cout)[:, None] * found

    @property
    def geometry(self) -> dict[str, Any]:
        return {
            "stride": self.stride, "dilation": self.dilation, "groups": self.groups, "transposed": self.transposed,
            "padding_mode": self.mode, "padding": self.pads,
        }  # fmt: skip


def draw(
    seed: int, *, axes: int = 1, mode: str = "zeros", layers: int = 3, functions: Sequence[str] = ("relu",),
    plain: bool = False, first: int = 1,
) -> list[Conv]:  # fmt: skip
    """A chain of convolutions of different sizes; ``plain``: stride 1 but for the first, and nothing else than pads."""
    dice, numbers = random.Random(seed), np.random.default_rng(seed)
    widths = [dice.choice([1, 2, 3]) * 2 for _ in range(layers + 1)]
    found = []
    for at, (cin, cout) in enumerate(itertools.pairwise(widths)):
        k = tuple(dice.choice([1, 2, 3]) for _ in range(axes))
        wrapped = mode == "circular"
        stride = first if plain and not at else 1 if plain or wrapped else dice.choice([1, 1, 2])
        dilation = 1 if plain or wrapped else dice.choice([1, 1, 2])
        groups = 1 if plain else dice.choice([1, 2])
        transposed = not plain and not wrapped and dice.random() < 0.25
        reach = [dilation * (size - 1) for size in k]
        start = [dice.randint(0, r) for r in reach]
        pads = tuple((f, r - f) for f, r in zip(start, reach, strict=True))
        if not wrapped and not transposed:
            pads = tuple((dice.randint(0, r), dice.randint(0, r)) for r in reach)
        shape = (cin, cout // groups, *k) if transposed else (cout, cin // groups, *k)
        kernel = numbers.normal(size=shape) * numbers.uniform(0.2, 2, size=(shape[0], 1, *(1,) * axes))
        scale = numbers.uniform(-2, 2, size=cout) if dice.random() < 0.5 else None
        function = None if at == layers - 1 else dice.choice(list(functions))
        found.append(Conv(kernel, stride, dilation, groups, transposed, mode, pads, scale, function))
    return found


def sizes_of(chain: Sequence[Conv], n: Sequence[int]) -> list[tuple[int, ...]]:
    """Spatial sizes of the input and of each value; raises ValueError where one is empty."""
    found = [tuple(n)]
    for conv in chain:
        found.append(conv.outputs(found[-1]))
        if min(found[-1]) < 1:
            raise ValueError("too small")
    return found


def graph_of(chain: Sequence[Conv], n: Sequence[int]) -> Graph:
    """As a front-end would give it."""
    sizes = sizes_of(chain, n)
    nodes = [Node("x", operators.Input(), (), (1, chain[0].cin, *sizes[0]))]

    def add(name: str, operator: operators.Operator, shape: Any) -> None:
        nodes.append(Node(name, operator, (nodes[-1].name,), shape))

    for at, conv in enumerate(chain):
        shape = (1, conv.cout, *sizes[at + 1])
        load = lambda conv=conv: conv.kernel  # noqa: E731
        add(f"conv{at}", operators.Convolution(Layer(f"w{at}", load, conv.geometry, conv.axes)), shape)
        if conv.scale is not None:
            add(f"norm{at}", operators.Scale(conv.scale.reshape(-1, *(1,) * conv.axes)), shape)
        if conv.function is not None:
            add(f"f{at}", FUNCTIONS[conv.function][0], shape)
    return Graph(tuple(nodes), (nodes[-1].name,))
