"""Networks for which a mistake in a builder or an operator matters, and the fences that stop it.

``planted.toml`` has the mistakes, each with its network. Three fences: no bound, values that differ from the model's,
and pairs of inputs that a proven constant does not allow. Executions of one network see no mistake in what an operator
says of itself: pairs of inputs do. Where the graph cannot be executed any more, the answer says that it was not
compared, and decides no claim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from helpers.onnx_models import graph_of, model
from onnx import helper
from specnorm_networks import Graph, Product, within
from specnorm_networks.tools import bound

from specnorm.errors import InternalError, TranslationError
from specnorm.proofs.bound import HypothesisError

Fence = Literal["refused", "not compared", "execution", "claims", "attack", "none"]
N = helper.make_node
RNG = np.random.default_rng(5)
BOX = (-1.0, 1.0)


class Asked(NamedTuple):
    """A network, and where its bound is asked for: everywhere, or in a ball (centre and radius) or box (ends)."""

    graph: Callable[[], Graph]
    ball: tuple[Any, float] | None = None
    box: tuple[Any, Any] | None = None

    def fence(self) -> Fence:
        """Which fence stops a mistake."""
        try:
            graph = self.graph() if self.box is None else within(self.graph(), *self.box)
            region: Any = {} if self.ball is None else {"centre": np.asarray(self.ball[0]), "radius": self.ball[1]}
            answer = bound(graph, method=Product(), **region)
        except TranslationError:
            return "execution"
        except HypothesisError:
            return "claims"
        except InternalError:
            return "attack"
        if answer.upper is None:
            return "refused"
        return "none" if answer.checked.complete and answer.checked.pairs else "not compared"


def network(
    nodes: list[Any], shape: tuple[int, ...], constants: Mapping[str, Any] | None = None, opset: int = 18
) -> Callable[[], Graph]:
    return lambda: graph_of(model(nodes, shape, constants, opset=opset))


def one(op: str, shape: tuple[int, ...] = (1, 4), opset: int = 18, more: Any = None, **given: Any) -> Any:
    """A network of one operator: the input first, then constants."""
    constants = more or {}
    return network([N(op, ["x", *constants], ["y"], **given)], shape, constants, opset)


def numbers(*shape: int) -> Any:
    return RNG.standard_normal(shape)


TWICE = network([N("Concat", ["x", "x"], ["y"], axis=1)], (1, 4))
SUM = network([N("Add", ["x", "x"], ["y"])], (1, 4))
WIDE = network([N("Slice", ["x", "s", "e", "a"], ["c"]), N("Add", ["x", "c"], ["y"])], (1, 4),
                  {"s": np.array([0]), "e": np.array([1]), "a": np.array([1])})  # fmt: skip
SQUARE = network([N("Mul", ["x", "x"], ["y"])], (1, 4))
# Of two values: x / exp(x) is one function, which asks no quotient.
REVERSED = N("Gather", ["x", "i"], ["g"], axis=1)
RATIO = network([REVERSED, N("Exp", ["g"], ["e"]), N("Div", ["x", "e"], ["y"])], (1, 2), {"i": np.array([1, 0])})
WINDOW: dict[str, Any] = {"kernel_shape": [3], "strides": [1]}
STEEP = network([N("Softplus", ["x"], ["p"]), N("Reciprocal", ["p"], ["y"])], (1, 1))
LAYER = one("Gemm", more={"w": numbers(4, 4)})
FACTOR = one("Mul", more={"c": numbers(1, 4)})
ELU = network([N("Elu", ["x"], ["e"]), N("Add", ["e", "c"], ["s"]), N("Div", ["one", "s"], ["y"])], (1, 2),
                 {"c": np.array(0.65), "one": np.array(1.0)})  # fmt: skip
PART = {"s": np.array([0]), "e": np.array([1]), "a": np.array([1])}
OF_OPERATORS: dict[str, tuple[Any, dict[str, Any]]] = {
    "what is put together": (TWICE, {}), "a sum": (SUM, {}), "copies": (WIDE, {}), "a layer": (LAYER, {}),
    "a maximum": (network([N("Slice", ["x", "s", "e", "a"], ["c"]), N("Max", ["x", "c"], ["y"])], (1, 4), PART), {}),
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


W = numbers(4, 4)
IMAGE = (1, 2, 5, 5)
CONV = {"w": numbers(2, 2, 3, 2), "b": numbers(2)}
STATISTICS = {"s": numbers(2), "b": numbers(2), "m": numbers(2), "v": abs(numbers(2)) + 0.1}
PAD = {"p": np.array([0, 0, 0, 0, 0, 2])}
ASYMMETRIC = {"coordinate_transformation_mode": "asymmetric"}
BACKWARDS = {"s": np.array([3]), "e": np.array([-9]), "a": np.array([1]), "t": np.array([-1])}
DOWN = numbers(6, 4)
EXTREME = [
    N("Gemm", ["x", "a"], ["u"], transB=1), N("Gemm", ["x", "b"], ["w"], transB=1), N("Max", ["u", "w", "c"], ["v"]),
    N("Sub", ["v", "u"], ["y"]),
]  # fmt: skip
TWO_KERNELS = [
    N("Mul", ["w1", "one"], ["k1"], name="n"), N("Mul", ["w2", "one"], ["k2"], name="n"),
    N("MatMul", ["x", "k1"], ["u"]), N("Relu", ["u"], ["v"]), N("MatMul", ["v", "k2"], ["y"]),
]  # fmt: skip
CHOICE = [N("Greater", ["x", "0"], ["c"]), N("Mul", ["x", "2"], ["d"]), N("Where", ["c", "x", "d"], ["y"])]
TRANSPOSED = [
    N("Transpose", ["x"], ["t"], perm=[0, 2, 1]), N("Split", ["t"], ["a", "b"], axis=2, num_outputs=2),
    N("Max", ["a", "b"], ["p"]), N("Min", ["a", "b"], ["q"]), N("Concat", ["p", "q"], ["y"], axis=2),
]  # fmt: skip
OVERLAP = [
    N("Split", ["x", "s"], ["a", "b"], axis=1), N("Split", ["x", "t"], ["c", "d", "e"], axis=1),
    N("Max", ["a", "d"], ["p"]), N("Min", ["a", "d"], ["q"]), N("Concat", ["p", "q"], ["y"], axis=1),
]  # fmt: skip


def conv(**given: Any) -> Any:
    return one("Conv", IMAGE, more=CONV, **given)


def resized(**given: Any) -> Any:
    return network(
        [N("Resize", ["x", "", "s"], ["y"], **given)], (1, 1, 4), {"s": np.array([1.0, 1.0, 2.5], np.float32)}
    )


OF_BUILDERS: dict[str, Any] = {
    "elu": one("Elu", alpha=2.0), "selu": one("Selu", gamma=0.5), "leaky": one("LeakyRelu", alpha=0.5),
    "celu": one("Celu", alpha=2.0), "hard sigmoid": one("HardSigmoid", beta=0.2), "gelu": one("Gelu", opset=20),
    "sigmoid": one("Sigmoid"), "clip": one("Clip", more={"a": np.array(-1.0), "b": np.array(0.5)}),
    "prelu": one("PRelu", more={"s": np.array([[0.1, 2.0, -1.0, 0.5]])}),
    "softmax of an axis": one("Softmax", (1, 2, 3), axis=1),
    "choice": network(CHOICE, (1, 4), {"0": np.array(0.0), "2": np.array(2.0)}),
    "max": one("Max", more={"c": W[:1]}), "sub": one("Sub", more={"c": W[:1]}),
    "sum of three": network([N("Sum", ["x", "x", "c"], ["y"])], (1, 4), {"c": W[:1]}),
    "max of three": network(EXTREME, (1, 4), {"a": DOWN, "b": DOWN + 1e-3 * numbers(6, 4), "c": np.full((1, 6), 10.0)}),
    "mean": one("Mean", more={"c": W[:1]}), "mul": one("Mul", more={"c": W[:1]}), "div": one("Div", more={"c": W[:1]}),
    "masked": network([N("Where", ["m", "x", "c"], ["y"])], (1, 4),
                      {"m": np.array([[True, False, True, True]]), "c": W[:1]}),
    "gemm": one("Gemm", more={"w": W, "c": W[0]}, transB=1, alpha=3.0, beta=2.0),
    "matmul": network([N("MatMul", ["x", "w"], ["y"])], (4, 4), {"w": W}),
    "strided conv": conv(strides=[2, 1]), "dilated conv": conv(dilations=[1, 2], pads=[0, 0, 0, 1]),
    "padded conv": conv(pads=[1, 0, 0, 1]), "same conv": conv(auto_pad="SAME_LOWER"),
    "groups": one("Conv", (1, 4, 5), more={"w": numbers(4, 2, 2)}, group=2),
    "transposed conv": one("ConvTranspose", IMAGE, more=CONV, strides=[2, 2], output_padding=[1, 0]),
    "batch norm": one("BatchNormalization", (1, 2, 3), more=STATISTICS, epsilon=0.5),
    "transpose": one("Transpose", (2, 2, 2), perm=[1, 2, 0]),
    "slice": one("Slice", more={"s": np.array([0]), "e": np.array([3]), "a": np.array([1])}),
    "slice backwards": one("Slice", more=BACKWARDS),
    "split": network([N("Split", ["x"], ["a", "b"], axis=1, num_outputs=2), N("Sub", ["a", "b"], ["y"])], (1, 4)),
    "concat": network([N("Concat", ["x", "x"], ["y"], axis=1)], (1, 2, 2)),
    "concat of a constant": network([N("Concat", ["x", "c"], ["y"], axis=1)], (1, 4), {"c": W[:1]}),
    "gather": one("Gather", more={"i": np.array([0, 2])}, axis=1),
    "depth to space": one("DepthToSpace", (1, 8, 2, 2), blocksize=2, mode="CRD"),
    "space to depth": one("SpaceToDepth", (1, 2, 4, 4), blocksize=2),
    "reflections behind": one("Pad", (1, 1, 4), more=PAD, mode="reflect"),
    "pad": one("Pad", (1, 1, 4), more=PAD | {"v": np.array(2.0)}),
    "tile": one("Tile", (1, 2, 2), more={"r": np.array([1, 1, 2])}),
    "average pool": one("AveragePool", IMAGE, kernel_shape=[2, 2], pads=[1, 1, 0, 0], count_include_pad=1),
    "max pool": one("MaxPool", (1, 1, 5), kernel_shape=[2], strides=[2], ceil_mode=1),
    "resize": resized(mode="linear", **ASYMMETRIC),
    "reduce": one("ReduceSum", (1, 2, 2), more={"a": np.array([1])}), "largest": one("ReduceMax"),
    "global pool": one("GlobalAveragePool", (1, 2, 3)),
    "one name for two": network(TWO_KERNELS, (1, 4), {"w1": np.eye(4), "w2": 100 * np.eye(4), "one": np.float64(1)}),
    "transposed halves": network(TRANSPOSED, (1, 2, 2)),
    "overlap": network(OVERLAP, (1, 4), {"s": np.array([2, 2]), "t": np.array([1, 2, 1])}),
}  # fmt: skip
NETWORKS = {name: Asked(graph, **where) for name, (graph, where) in OF_OPERATORS.items()} | {
    name: Asked(graph) for name, graph in OF_BUILDERS.items()
} | {
    "pow": Asked(one("Pow", more={"e": np.array(3.0)}), box=BOX),
    "number over": Asked(network([N("Exp", ["x"], ["e"]), N("Div", ["c", "e"], ["y"])], (1, 4), {"c": np.array(3.0)}),
                         box=BOX),
    "square in a ball": Asked(SQUARE, ball=(np.zeros((1, 4)), 5.0)),
}  # fmt: skip


def contradicted(name: str) -> Iterator[str]:
    """Whether pairs of inputs are stretched by more than the constant."""
    if NETWORKS[name].fence() == "attack":
        yield name


def mistranslated(name: str) -> Iterator[str]:
    """Whether there is no bound, or no comparison, or a value that differs from the model's."""
    if (fence := NETWORKS[name].fence()) in ("refused", "not compared", "execution"):
        yield fence
