"""Networks for which an error matters in what operators say of themselves: executions of the graph do not see it.

Pairs of inputs do. ``planted.toml`` has the errors, each with its network.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from networks.compositions.planted_onnx import one
from networks.compositions.planting import Planted, onnx_graph
from onnx import helper

N = helper.make_node
RNG = np.random.default_rng(5)
BOX = (-1.0, 1.0)
TWICE = onnx_graph([N("Concat", ["x", "x"], ["y"], axis=1)], (1, 4))
SUM = onnx_graph([N("Add", ["x", "x"], ["y"])], (1, 4))
WIDE = onnx_graph([N("Slice", ["x", "s", "e", "a"], ["c"]), N("Add", ["x", "c"], ["y"])], (1, 4),
                  {"s": np.array([0]), "e": np.array([1]), "a": np.array([1])})  # fmt: skip
SQUARE = onnx_graph([N("Mul", ["x", "x"], ["y"])], (1, 4))
# Of two values: x / exp(x) is one function, which asks no quotient.
REVERSED = N("Gather", ["x", "i"], ["g"], axis=1)
RATIO = onnx_graph([REVERSED, N("Exp", ["g"], ["e"]), N("Div", ["x", "e"], ["y"])], (1, 2), {"i": np.array([1, 0])})
WINDOW: dict[str, Any] = {"kernel_shape": [3], "strides": [1]}
STEEP = onnx_graph([N("Softplus", ["x"], ["p"]), N("Reciprocal", ["p"], ["y"])], (1, 1))
LAYER = one("Gemm", more={"w": RNG.standard_normal((4, 4))})
FACTOR = one("Mul", more={"c": RNG.standard_normal((1, 4))})
ELU = onnx_graph([N("Elu", ["x"], ["e"]), N("Add", ["e", "c"], ["s"]), N("Div", ["one", "s"], ["y"])], (1, 2),
                 {"c": np.array(0.65), "one": np.array(1.0)})  # fmt: skip
PART = {"s": np.array([0]), "e": np.array([1]), "a": np.array([1])}
NETWORKS: dict[str, tuple[Any, dict[str, Any]]] = {
    "what is put together": (TWICE, {}), "a sum": (SUM, {}), "copies": (WIDE, {}), "a layer": (LAYER, {}),
    "a maximum": (onnx_graph([N("Slice", ["x", "s", "e", "a"], ["c"]), N("Max", ["x", "c"], ["y"])], (1, 4), PART), {}),
    "a sum of entries": (one("ReduceSum"), {}), "a mean": (one("ReduceMean"), {}), "factors": (FACTOR, {}),
    "repeated entries": (one("Gather", more={"i": np.array([1, 1])}, axis=1), {}),
    "repeats": (one("Tile", more={"r": np.array([1, 3])}), {}),
    "reflections": (one("Pad", (1, 1, 3), more={"p": np.array([0, 0, 1, 0, 0, 1])}, mode="reflect"), {}),
    "windows": (one("MaxPool", (1, 1, 5), **WINDOW), {}), "averages": (one("AveragePool", (1, 1, 5), **WINDOW), {}),
    "softmax": (one("Softmax"), {}), "tanh": (one("Tanh"), {}), "exp in a box": (one("Exp"), {"box": BOX}),
    "larger images": (one("Resize", (1, 1, 2), more={
        "r": np.zeros(0), "s": np.array([1, 1, 4], np.float32)}, mode="nearest"), {}),
    "a square": (SQUARE, {"box": BOX}), "a quotient": (RATIO, {"box": BOX}), "steep": (STEEP, {"box": BOX}),
    "sigmoid in a ball": (one("Sigmoid"), {"ball": (np.zeros((1, 4)), 0.5)}),
    "relu in a ball": (one("Relu"), {"ball": (np.full((1, 4), 0.3), 0.2)}),
    "elu in a box": (ELU, {"box": (-1.5, -1.1)}), "steep in a ball": (STEEP, {"ball": (np.zeros((1, 1)), 1.0)}),
}  # fmt: skip


def contradicted(name: str) -> Iterator[str]:
    """Whether pairs of inputs are stretched by more than the constant."""
    graph, where = NETWORKS[name]
    if Planted(name, graph, lambda _: None, **where).outcome() == "attack":
        yield name
