"""Errors in what operators say of themselves: executions of the graph do not see them, pairs of inputs do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from helpers.assumptions import assumed, interval
from networks.compositions.planted_onnx import one
from networks.compositions.planting import Plant, Planted, method, onnx_graph
from onnx import helper
from specnorm_networks.certified import operators as ops
from specnorm_networks.tools import Measure

N = helper.make_node
RNG = np.random.default_rng(5)


def said(number: float) -> Callable[[Any], Any]:
    """A constant that is always the same."""
    return lambda _: lambda *_: number


def shrunk(factor: float) -> Callable[[Any], Any]:
    """What is said, times a factor."""
    return lambda old: lambda self, *given: factor * old(self, *given)


def largest(_: Any) -> Any:
    """The largest bound in place of a sum."""
    return lambda _, bounds, __: max(bounds)


def ends(change: Callable[[Any, Any], tuple[Any, Any]]) -> Callable[[Any], Any]:
    """Other ends of an interval."""
    return lambda old: lambda self, low, high: change(*old(self, low, high))


def once(patch: Any) -> None:
    """Values are never repeated by broadcasting."""
    for name in ("broadcasting", "linear", "joins"):
        patch.setattr(f"specnorm_networks.certified.operators.{name}.copies_of_entry", lambda *_: 1, raising=False)


def halved_norm(patch: Any) -> None:
    real = Measure.__call__

    def call(self: Measure, *given: Any) -> Any:
        found = real(self, *given)
        return assumed(0.5 * found.value, found.what, found.digest)

    patch.setattr(Measure, "__call__", call)


def of_half(patch: Any) -> None:
    """Ranges of half of the ball."""
    from specnorm_networks.certified.operators.base import Function

    real = Function.image

    def image(self: Any, ranges: Any, place: Any) -> Any:
        return real(self, [interval(0.75 * x.low + 0.25 * x.high, 0.25 * x.low + 0.75 * x.high) for x in ranges], place)

    patch.setattr(Function, "image", image)


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


def rule(
    name: str,
    graph: Any,
    cls: type,
    which: str,
    made: Any,
    **where: Any,
) -> Planted:
    plant: Plant = method(cls, which, made)
    return Planted(name, graph, plant, **where)


PLANTED = [
    rule("the largest of what is put together", TWICE, ops.Concat, "combine", largest),
    rule("the largest of a sum", SUM, ops.Add, "combine", largest),
    rule("the largest of a maximum", onnx_graph(
        [N("Slice", ["x", "s", "e", "a"], ["c"]), N("Max", ["x", "c"], ["y"])], (1, 4),
        {"s": np.array([0]), "e": np.array([1]), "a": np.array([1])}), ops.Maximum, "combine", largest),
    Planted("repeats of broadcasting not counted", WIDE, once),
    rule("a sum of one number", one("ReduceSum"), ops.Sum, "lipschitz", said(1.0)),
    rule("a mean of too many", one("ReduceMean"), ops.Mean, "lipschitz", shrunk(0.5)),
    rule("a smaller factor", FACTOR, ops.Scale, "lipschitz", shrunk(0.5)),
    rule("copies of Gather not counted", one("Gather", more={"i": np.array([1, 1])}, axis=1), ops.Gather, "lipschitz",
         said(1.0)),
    rule("copies of Tile not counted", one("Tile", more={"r": np.array([1, 3])}), ops.Tile, "lipschitz", said(1.0)),
    rule("reflected pixels not counted",
         one("Pad", (1, 1, 3), more={"p": np.array([0, 0, 1, 0, 0, 1])}, mode="reflect"),
         ops.Pad, "lipschitz", said(1.0)),
    rule("windows that overlap not counted", one("MaxPool", (1, 1, 5), **WINDOW), ops.MaxPool, "lipschitz", said(1.0)),
    rule("a smaller average", one("AveragePool", (1, 1, 5), **WINDOW), ops.AveragePool, "lipschitz", shrunk(0.5)),
    rule("a flatter softmax", one("Softmax"), ops.Softmax, "lipschitz", said(0.1)),
    rule("a flatter function", one("Tanh"), ops.Tanh, "extent", lambda _: lambda _: (0.0, 0.5)),
    rule("pixels that are copied not counted", one("Resize", (1, 1, 2), more={"r": np.zeros(0), "s": np.array(
        [1, 1, 4], np.float32)}, mode="nearest"), ops.Resize, "lipschitz", said(1.0)),
    Planted("half of a layer's norm", LAYER, halved_norm),
    rule("half of a product", SQUARE, ops.Product, "factors", lambda old: lambda self, *given: tuple(
        each / 2 for each in old(self, *given)), box=BOX),
    rule("a part of a quotient", RATIO, ops.Quotient, "factors", lambda old: lambda self, *given: tuple(
        each / 10 for each in old(self, *given)), box=BOX),
    rule("a box's flatter end", one("Exp"), ops.Exp, "lipschitz", shrunk(0.3), box=BOX),
    rule("slopes near an input too small", one("Sigmoid"), ops.Sigmoid, "slopes",
         ends(lambda low, high: (low, high / 2)), ball=(np.zeros((1, 4)), 0.5)),
    rule("a kink at another place", one("Relu"), ops.ReLU, "slopes",
         lambda old: lambda self, low, high: old(self, low - 1, high - 1), ball=(np.full((1, 4), 0.3), 0.2)),
    rule("values on a range too small", STEEP, ops.Softplus, "between",
         ends(lambda low, high: (low + 0.5, high)), box=BOX),
    rule("values of another function", ELU, ops.ELU, "between",
         ends(lambda low, high: (0 * low - 0.5, 0 * high - 0.5)), box=(-1.5, -1.1)),
    Planted("ranges of half of the ball", STEEP, of_half, ball=(np.zeros((1, 1)), 1.0)),
]  # fmt: skip
