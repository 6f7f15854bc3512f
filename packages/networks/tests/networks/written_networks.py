"""Networks in which one operator is written out by several."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from specnorm_networks import Graph, Layer, Node
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.operators import Operator

SHAPE = (2, 6, 4, 4)


class Written:
    """A graph that is written down; shapes are those of what the operators compute."""

    def __init__(self, shape: tuple[int, ...] = SHAPE, **others: tuple[int, ...]) -> None:
        shapes = {"x": shape, **others}
        self.values = {name: np.ones(each) for name, each in shapes.items()}
        self.nodes = [Node(name, ops.Input(), (), each) for name, each in shapes.items()]

    def __call__(self, operator: Operator, *inputs: str) -> str:
        name = f"v{len(self.nodes)}"
        self.values[name] = operator.run(*(self.values[each] for each in inputs))
        self.nodes.append(Node(name, operator, inputs, self.values[name].shape, "written"))
        return name

    def constant(self, value: Any) -> str:
        return self(ops.Constant(lambda: np.asarray(value, dtype=np.float64)))

    def cut(self, start: int | None, stop: int | None, axis: int = 1, step: int = 1, of: str = "x") -> str:
        return self(ops.Slice(((axis, start, stop, step),)), of)

    def halves(self, axis: int = 1, of: str = "x") -> tuple[str, str]:
        half = self.values[of].shape[axis] // 2
        return self.cut(0, half, axis, of=of), self.cut(half, None, axis, of=of)

    def scaled(self, number: Any, of: str = "x", *, exact: bool = True) -> str:
        return self(ops.Scale(np.asarray(number, dtype=np.float64), exact=exact), of)

    def matrix(self, kernel: Any, of: str = "x") -> str:
        return self(ops.Matrix(Layer(f"w{len(self.nodes)}", lambda: kernel, {}, 0)), of)

    def convolution(self, kernel: Any, of: str = "x", padding: int = 1, stride: int = 1) -> str:
        axes = kernel.ndim - 2
        geometry = {"padding_mode": "zeros", "padding": ((padding, padding),) * axes, "stride": (stride,) * axes}
        return self(ops.Convolution(Layer(f"w{len(self.nodes)}", lambda: kernel, geometry, axes)), of)

    def graph(self, *ends: str) -> Graph:
        return Graph(tuple(self.nodes), ends or (self.nodes[-1].name,))


def matrices(*kernels: Any, function: Operator | None = None, name: str | None = None) -> Graph:
    """One after the other, with a function between if there is one; all of one name, if that is given."""
    nodes = [Node("x", ops.Input(), (), (1, kernels[0].shape[1]))]
    for at, kernel in enumerate(kernels):
        layer = Layer(name or f"w{at}", partial(np.asarray, kernel), {}, 0)
        shape = (1, len(kernel))
        nodes.append(Node(f"y{at}", ops.Matrix(layer), (nodes[-1].name,), shape))
        if function is not None and at < len(kernels) - 1:
            nodes.append(Node(f"z{at}", function, (f"y{at}",), shape))
    return Graph(tuple(nodes), (nodes[-1].name,))
