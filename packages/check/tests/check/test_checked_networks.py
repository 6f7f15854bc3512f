"""What specnorm_check proves of a network is never below what inputs reach; damage is refused by its name.

The oracle is onnx's reference evaluator: norms of Jacobians of differences of its values.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import specnorm_check
from specnorm_check import Claim, Layer, Part, Refused, Together
from specnorm_check.layers import Axis
from specnorm_check.moves import moved
from specnorm_check.parts import Term, by_phases

pytest.importorskip("onnx", reason="ONNX files: pip install onnx")

import onnx
from helpers.onnx_models import model, steepest
from onnx import TensorProto, helper, numpy_helper
from specnorm_audit import network_certificates as certificates
from specnorm_networks import Multipliers, network_bound

from specnorm.proof import Clock

Random = np.random.RandomState
Stated = dict[str, Any]
CLOSE = Fraction(1, 10**6)
"""What differences may be off."""


def file_of(nodes: Any, shape: Any, arrays: Any, outputs: Sequence[str] = ("y",), **more: Any) -> bytes:
    made = model(nodes, shape, arrays, outputs=outputs, **more)
    content: bytes = onnx.shape_inference.infer_shapes(made).SerializeToString()
    return content


def reached(content: bytes, shape: Sequence[int], draws: int = 6) -> float:
    return steepest(onnx.ModelProto.FromString(content), [Random(seed).standard_normal(shape) for seed in range(draws)])


def layer(start: str, end: str, **more: Any) -> Stated:
    """A part of one layer without multipliers."""
    return {"values": [start, end], "weights": [], "sizes": "every", "exponent": 8, "completion": "", **more}


def joint(values: Sequence[str], *weights: Any, **more: Any) -> Stated:
    texts = [[float(x).hex() for x in each] for each in weights]
    return {"values": list(values), "weights": texts, "sizes": "every", "exponent": 8, "completion": "", **more}


def nothing(network: Any, part: Stated) -> np.ndarray:
    joint = network.joint(Part.read(part))
    groups, _, *columns = specnorm_check.stride_one_kernels(joint.kernel, joint.layer).shape
    return np.zeros((groups, 0, *columns), np.int16)


def constant(content: bytes, shape: Sequence[int], parts: Sequence[Stated], h: Any = None) -> Fraction:
    """What parts prove with an H each; without one by default."""
    network = specnorm_check.Network(content, list(shape))
    completions = [nothing(network, part) for part in parts] if h is None else h
    return proven_by(network, parts, completions)


def proven_by(network: Any, parts: Sequence[Stated], completions: Sequence[Any]) -> Fraction:
    found: Fraction = network.constant([Part.read(part) for part in parts], completions)
    return found


def node(op: str, inputs: str, output: str = "y", **attributes: Any) -> Any:
    return helper.make_node(op, inputs.split(), output.split(), **attributes)


def gemm(x: str, w: str, y: str, **attributes: Any) -> Any:
    return node("Gemm", f"{x} {w}", y, transB=1, **attributes)


# -- the checker's own mistakes, one by one ------------------------------------------------------------------------
class Case(NamedTuple):
    """Nodes, shape, constants, parts and outputs of a network."""

    nodes: Sequence[Any]
    shape: Sequence[int]
    constants: Mapping[str, Any]
    parts: Sequence[Stated]
    outputs: Sequence[str]

    @property
    def content(self) -> bytes:
        return file_of(self.nodes, self.shape, self.constants, self.outputs)


def case(
    shape: Sequence[int], nodes: Sequence[Any], *parts: Stated, outputs: Sequence[str] = ("y",), **constants: Any
) -> Case:
    return Case(nodes, shape, constants, parts, outputs)


def refused(words: str, *given: Any, **constants: Any) -> tuple[Case, str]:
    return case(*given, **constants), words


ONE, HALF, EYE = np.array([[1.0]]), 0.5, np.eye(4)
LINE = np.array([[[1.0, 1.0]]])
NORMAL: Stated = {"s": np.array([3.0]), "z": np.zeros(1), "v": np.array([0.25])}
CUTS: Stated = {str(n): np.array([n]) for n in range(5)}
HALVES = [node("Slice", "x 0 1 1", "a"), node("Slice", "x 1 2 1", "b")]
CASES: dict[str, Case] = {
    "two layers": case(
        (1, 1), [gemm("x", "w", "h"), node("Relu", "h", "r"), gemm("r", "w", "y")],
        joint(["x", "r", "y"], [1], [2], [2]), w=ONE),
    "two channels": case((1, 2), [gemm("x", "w", "y")], joint(["x", "y"], [1, 1], [1, 0.25]), w=np.diag([1.0, 4.0])),
    "multipliers at the input": case(
        (1, 2), [gemm("x", "w", "y")], joint(["x", "y"], [4, 1], [1, 1]), w=np.diag([4.0, 1.0])),
    "multipliers between parts": case(
        (1, 2), [gemm("x", "w", "h"), gemm("h", "v", "y")], joint(["x", "h"], [1, 1], [8, 4]),
        joint(["h", "y"], [4, 4], [1]), w=np.diag([1.0, 2.0]), v=np.array([[0.0, 1.0]])),
    "rounding of T": case(
        (1, 1), [gemm("x", "w", "y")], joint(["x", "y"], [1], [1 + 2.0**-29 + 2.0**-52], exponent=17),
        w=np.array([[1 + 2.0**-30]])),
    "abs": case(
        (1, 1), [gemm("x", "w", "h"), node("Abs", "h", "r"), gemm("r", "w", "y")],
        joint(["x", "r", "y"], [1], [1], [HALF]), w=ONE),
    "a steep function at the end": case(
        (1, 1), [gemm("x", "w", "h"), node("LeakyRelu", "h", "y", alpha=2.0)], joint(["x", "y"], [1], [1]), w=ONE),
    "a steep function at the end of two": case(
        (1, 1), [gemm("x", "w", "h"), gemm("h", "w", "g"), node("LeakyRelu", "g", "y", alpha=2.0)],
        joint(["x", "h", "y"], [1], [1], [0.25]), w=ONE),
    "a steep function inside": case(
        (1, 1), [gemm("x", "w", "h"), node("LeakyRelu", "h", "r", alpha=2.0), gemm("r", "w", "y")],
        joint(["x", "r", "y"], [1], [1], [1]), w=ONE),
    "a steep function by itself": case((1, 2), [node("LeakyRelu", "x", "y", alpha=2.0)]),
    "a sum": case((1, 1), [gemm("x", "w", "h"), node("Add", "h x")], layer("x", "h"), w=ONE),
    "beside": case((1, 2), [node("Concat", "x x", axis=1)]),
    "two outputs": case((1, 2), [node("Flatten", "x", "y"), node("Relu", "x", "z")], outputs=["y", "z"]),
    "a sum of pixels": case((1, 1, 16), [node("ReduceSum", "x a")], a=np.array([2])),
    "numbers": case((1, 2), [node("Div", "x b")], b=np.array([0.5, 4.0])),
    "windows that overlap": case((1, 1, 5), [node("MaxPool", "x", kernel_shape=[3])]),
    "averages that overlap": case((1, 1, 40), [node("AveragePool", "x", kernel_shape=[2], strides=[1])]),
    "averages": case((1, 1, 4), [node("AveragePool", "x", kernel_shape=[4], strides=[4])]),
    "a mean": case((1, 1, 16), [node("ReduceMean", "x a")], a=np.array([2])),
    "normalisation": case((1, 1, 2), [node("BatchNormalization", "x s z z v")], **NORMAL),
    "normalization of a layer": case(
        (1, 1, 2), [node("Conv", "x k", "h", kernel_shape=[1]), node("BatchNormalization", "h s z z v")],
        layer("x", "y"), **NORMAL, k=np.array([[[1.0]]])),
    "a layer times a number": case((1, 1), [gemm("x", "w", "y", alpha=4.0)], layer("x", "y"), w=ONE),
    "a layer and what it adds": case(
        (1, 1), [gemm("x", "w", "h"), node("Gemm", "h w x", "y", transB=1)], layer("x", "h"), layer("h", "y"), w=ONE),
    "a pool inside": case(
        (1, 1, 5), [node("Conv", "x k", "h", kernel_shape=[1]), node("MaxPool", "h", "p", kernel_shape=[3]),
         node("Conv", "p k", kernel_shape=[1])], joint(["x", "p", "y"], [1], [2], [2]), k=np.array([[[1.0]]])),
    "a pool at the end": case(
        (1, 1, 5), [node("Conv", "x k", "h", kernel_shape=[1]), node("MaxPool", "h", kernel_shape=[3])],
        joint(["x", "y"], [1], [1]), k=np.array([[[1.0]]])),
    "dilations that differ": case(
        (1, 1, 12), [node("Conv", "x k", "h", pads=[1, 0]), node("Conv", "h m", dilations=[2], pads=[2, 0])],
        joint(["x", "h", "y"], [1], [1], [HALF]), k=LINE, m=np.array([[[1.0, -1.0]]])),
    "flattened channels": case(
        (1, 2, 2), [node("Conv", "x k", "h", kernel_shape=[1]), node("Flatten", "h", "f"), gemm("f", "w", "y")],
        joint(["x", "h"], [1, 1], [1 / 16, 1]), joint(["h", "y"], [1 / 16, 1], [1]), k=np.diag([16.0, 1.0])[..., None],
        w=np.array([[1.0, 1.0, 0.0, 0.0]])),
    "at its own size": case((1, 1, 4), [node("Conv", "x k")], layer("x", "y", sizes="own"), k=LINE),
    "a residual": case(
        (1, 1), [gemm("x", "w", "h"), node("Relu", "h", "r"), node("Add", "x r")],
        joint(["x", "r", "y"], [1.9], [2], [1]), w=ONE),
    "a long way": case(
        (1, 1),
        [gemm("x", "w", "h"), node("Relu", "h", "r"), gemm("r", "w", "g"), gemm("x", "o", "f"), node("Add", "f g")],
        joint(["x", "r", "y"], [1], [2], [2]), w=ONE, o=np.zeros((1, 1))),
    "a difference": case(
        (1, 1), [gemm("x", "w", "h"), node("Relu", "h", "r"), node("Sub", "x r")],
        joint(["x", "r", "y"], [1.5], [2], [1]), w=-ONE),
    "abs in a sum": case(
        (1, 1, 1), [node("Conv", "x k", "h"), node("Abs", "h", "r"), node("Add", "x r")],
        joint(["x", "r", "y"], [1.5], [1], [1]), k=-ONE[..., None]),
    "pixels that a sum reads": case(
        (1, 1, 6), [node("Conv", "x k", "h", pads=[2, 0]), node("Relu", "h", "r"), node("Sub", "x r")],
        joint(["x", "r", "y"], [1.5], [2], [1]), k=np.array([[[0.0, 1.0, 0.0]]])),
    "phases that a sum reads": case(
        (1, 1, 6), [node("Conv", "x k", "h", strides=[2], pads=[1, 1]), node("Relu", "h", "r"),
         node("Conv", "x m", "g", strides=[2]), node("Sub", "g r")], joint(["x", "r", "y"], [1.2], [2], [1]),
        k=np.array([[[0.0, 0.0, 0.0, 1.0]]]), m=np.array([[[0.0, 1.0]]])),
    "every other pixel": case(
        (1, 1, 6), [node("Conv", "x k", "h", strides=[2]), node("Relu", "h", "r"), node("Slice", "x b e a t", "s"),
         node("Pad", "s p", "g"), node("Sub", "g r")], joint(["x", "r", "y"], [1.2], [2, 2], [1, 1]),
        k=np.array([[[1.0, 0.0]], [[0.0, 1.0]]]), b=np.array([0]), e=np.array([2**40]), a=np.array([2]),
        t=np.array([2]), p=np.array([0, 1, 0, 0, 0, 0])),
    "channels of two values": case(
        (1, 1),
        [gemm("x", "w", "h"), node("Relu", "h", "r"), node("Concat", "r x c", "g", axis=1), gemm("g", "v", "y")],
        joint(["x", "r", "y"], [1.9], [2], [1]), w=ONE, v=np.array([[1.0, 1.0, 9.0]]), c=ONE),
    "a channel of a value": case(
        (1, 2), [gemm("x", "w", "h"), node("Slice", "h 1 2 1", "g"), gemm("g", "v", "y")],
        joint(["x", "h"], [1, 1], [1, 1 / 16]), joint(["h", "y"], [1, 1 / 16], [1]),
        w=np.diag([1.0, 16.0]), v=ONE, **CUTS),
    "the first channel of a value": case(
        (1, 2), [gemm("x", "w", "h"), node("Slice", "h 0 1 1", "g"), gemm("g", "v", "y")],
        joint(["x", "h"], [1, 1], [1 / 16, 1]), joint(["h", "y"], [1 / 16, 1], [1]),
        w=np.diag([16.0, 1.0]), v=ONE, **CUTS),
    "multipliers of a transposed layer": case(
        (1, 2, 1), [node("Conv", "x k", "h"), node("ConvTranspose", "h m")],
        joint(["x", "h"], [1, 1], [1, 1 / 16]), joint(["h", "y"], [1, 1 / 16], [1, 1]),
        k=np.diag([1.0, 16.0])[..., None], m=np.array([[[0.0], [0.0]], [[1.0], [0.0]]])),
    "a transposed layer": case(
        (1, 1, 4), [node("ConvTranspose", "x k", strides=[2], output_padding=[1])], layer("x", "y"),
        k=np.ones((1, 1, 3))),
    # Once taken for the adjoint of a layer without output padding: 3.03 for 3.62.
    "a transposed layer at its own size": case(
        (1, 1, 2, 2),
        [node("ConvTranspose", "x w", strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1])],
        layer("x", "y", sizes="own"), w=np.ones((1, 1, 3, 3))),
    "one value twice": case((1, 1), [gemm("x", "w", "h"), node("Add", "x h")], joint(["x", "y"], [1], [1]), w=ONE),
    "steps that differ": case(
        (1, 1, 2, 2), [node("Conv", "x k", "h", strides=[2, 1]), node("Relu", "h", "r"),
         node("Conv", "x m", "g", strides=[1, 2]), node("Sub", "g r")], joint(["x", "r", "y"], [1.2], [2], [1]),
        k=np.array([[[[0.0, 0.0], [1.0, 0.0]]]]), m=np.array([[[[0.0, 1.0], [0.0, 0.0]]]])),
    "halves that meet": case(
        (1, 2),
        [*HALVES, gemm("a", "w", "h"), node("Relu", "h", "r"), node("Add", "b r", "s"), node("Concat", "a s", axis=1)],
        layer("a", "h"), w=ONE, **CUTS),
    "halves of a block": case(
        (1, 2), [gemm("x", "e", "u"), node("Slice", "u 0 1 1", "a"), node("Slice", "u 1 2 1", "b"),
         node("LeakyRelu", "a", "l", alpha=0.5), node("Concat", "b l a b", axis=1)], layer("x", "u"),
        e=np.diag([1.0, 3.0]), **CUTS),
    "a steep function of a half": case(
        (1, 2),
        [*HALVES, node("LeakyRelu", "a", "r", alpha=3.0), node("Sub", "b r", "s"), node("Concat", "s a", axis=1)],
        **CUTS),
    "a wide layer of a half": case(
        (1, 2), [*HALVES, gemm("a", "w", "h"), node("Concat", "h b", axis=1)], layer("a", "h"), w=3 * ONE, **CUTS),
    "halves that are sorted": case(
        (1, 2), [*HALVES, node("Max", "a b", "h"), node("Min", "b a", "l"), node("Concat", "h l", axis=1)], **CUTS),
    "a half that grows, and is sorted": case(
        (1, 2), [*HALVES, gemm("b", "w", "c"), node("Max", "a c", "h"), node("Min", "a c", "l"),
         node("Concat", "h l", axis=1)], layer("b", "c"), w=3 * ONE, **CUTS),
    "the larger of two, and the least of two others": case(
        (9, 3), [helper.make_node("Split", ["x"], list("abc"), axis=1, num_outputs=3), node("Max", "a b", "h"),
         node("Min", "b c", "l"), node("Concat", "h l", axis=1)]),
    "at least a number, and at most": case(
        (1, 2), [*HALVES, node("Max", "a c", "h"), node("Min", "a c", "l"), node("Concat", "h l b", axis=1)],
        c=np.zeros((1, 1)), **CUTS),
    "a half twice": case((1, 2), [*HALVES, node("Concat", "b b a c", axis=1)], c=np.ones((1, 3)), **CUTS),
    "the second half, and twice": case((1, 2), [node("Slice", "x 1 2 1", "b"), node("Concat", "b b", axis=1)], **CUTS),
    "turned halves": case(
        (1, 2, 2), [node("Transpose", "x", "t", perm=[0, 2, 1]), node("Flatten", "t", "f"),
         node("Slice", "f 1 2 1", "a"), node("Slice", "f 2 3 1", "b"), node("Slice", "x 0 1 1", "g"),
         node("Flatten", "g", "h"), node("Slice", "h 1 2 1", "i"), node("Concat", "i b", axis=1)], **CUTS),
    "every second entry": case(
        (1, 4), [node("Slice", "x 0 4 1 2", "a"), node("Slice", "x 2 4 1 1", "b"), node("Concat", "a b", axis=1)],
        **CUTS),
    "a value less a function of it": case((1, 2), [node("Tanh", "x", "t"), node("Sub", "x t")]),
    "a value and a function of it": case((1, 2), [node("Abs", "x", "t"), node("Add", "x t")]),
    "a function of a value less the value": case((1, 2), [node("LeakyRelu", "x", "t", alpha=-2.0), node("Sub", "t x")]),
    "a distribution": case((1, 2), [node("Softmax", "x")]),
    "an output that is drawn": case(
        (1, 2), [node("RandomNormal", "", "n", shape=[1, 2], dtype=TensorProto.DOUBLE), node("Add", "x n")]),
}  # fmt: skip
"""Networks whose constant is what the parts prove, or close to it."""
REFUSED = {
    "a layer and what it adds",
    "a pool inside",
    "dilations that differ",
    "an output that is drawn",
    "one value twice",
    "steps that differ",
}
EXACT = {"rounding of T": Fraction(1) + Fraction(1, 2**30)}
"""Constants of which differences of values say too little."""
SEARCHED = {
    "channels of two values", "steps that differ",
    "a residual", "a long way", "a difference", "abs in a sum", "pixels that a sum reads", "phases that a sum reads",
    "every other pixel",
}  # fmt: skip
"""Where nothing is close only with an H that is searched, for what the checker says is the part's kernel."""


ALL = layer("x", "y", sizes="units")
"""All that is between two values, by the multipliers that a search finds."""
PIXELS: Stated = {"k": np.array([[[1.0, -1.0, 1.0]]]), "d": np.array([[[1.0, 0.0, -1.0]]])}
MATRICES: dict[str, Case] = {
    "two layers beside each other": case(
        (1, 2), [gemm("x", "w", "h"), gemm("x", "v", "g"), node("Concat", "h g", axis=1)], ALL,
        w=np.diag([1.0, 2.0]), v=np.diag([3.0, 1.0])),
    "a difference of layers": case(
        (1, 2), [gemm("x", "w", "h"), gemm("x", "v", "g"), node("Sub", "h g")], ALL,
        w=np.diag([1.0, 2.0]), v=np.diag([-3.0, -1.0])),
    "less itself": case(
        (1, 1), [node("Sub", "x x", "h"), gemm("x", "w", "g"), node("Add", "h g")], ALL, w=2 * ONE
    ),
    "a constant less it": case((1, 1), [node("Sub", "w x", "h"), node("Sub", "x h")], ALL, w=ONE),
    "a normalization and a quotient": case(
        (1, 1, 2), [node("BatchNormalization", "x s z z v", "h"), node("Div", "h d")], ALL,
        **NORMAL, d=np.array([0.25, 0.5])),
    "a padded and dilated layer": case(
        (1, 1, 7), [node("Pad", "x p", "h"), node("Conv", "h k", dilations=[2], strides=[2])],
        ALL, **PIXELS, p=np.array([0, 0, 1, 0, 0, 2])),
    "padded before and behind": case(
        (1, 1, 2), [node("Pad", "x p", "h"), node("Pad", "x q", "g"), node("Sub", "h g")], ALL,
        p=np.array([0, 0, 1, 0, 0, 0]), q=np.array([0, 0, 0, 0, 0, 1])),
    "a layer of groups": case(
        (1, 2, 1), [node("Conv", "x k", group=2)], ALL, k=np.array([[[1.0]], [[3.0]]])),
    "averages of a difference": case(
        (1, 1, 6), [node("Conv", "x d", "h", pads=[1, 1]), node("AveragePool", "h", kernel_shape=[2], strides=[2])],
        ALL, **PIXELS),
    "a mean and a sum": case(
        (1, 2, 8), [node("ReduceMean", "x i", "h"), node("ReduceSum", "h j")], ALL,
        i=np.array([-1]), j=np.array([1])),
    "mirrored": case(
        (1, 4), [node("Slice", "x 3 m 1 n", "b"), node("Sub", "b x")], ALL, **CUTS,
        m=np.array([-9]), n=np.array([-1])),
    "pairs that are sorted": case(
        (1, 2), [*HALVES, node("Sub", "a b", "d"), node("Relu", "d", "r"), node("Add", "b r", "h"),
         node("Sub", "a b", "e"), node("Relu", "e", "s"), node("Sub", "a s", "g"), node("Concat", "h g", "c", axis=1),
         gemm("c", "w", "y")], ALL, **CUTS, w=np.array([[2.0, 1.0], [-1.0, 1.0]])),
    "a function and its complement": case(
        (1, 3),
        [node("Relu", "x", "r"), node("Relu", "x", "s"), node("Sub", "x s", "t"), node("Concat", "r t", axis=1)],
        ALL),
    "a function of a function": case(
        (1, 1), [gemm("x", "w", "h"), node("LeakyRelu", "h", "r", alpha=-2.0), gemm("r", "v", "g"),
         node("Relu", "g", "s"), node("Sub", "s x")], ALL, w=ONE, v=-ONE),
    "functions of two blocks": case(
        (1, 2), [node("LeakyRelu", "x", "r", alpha=-1.5), node("LeakyRelu", "x", "l", alpha=2.0), gemm("r", "w", "s"),
         node("Add", "s l")], ALL, w=np.diag([1.0, -3.0])),
    "products": case((1, 2), [node("Mul", "d x")], d=np.array([0.5, 4.0])),
    "products of a matrix": case(
        (1, 2), [node("Mul", "x d", "h"), node("Sub", "h x")], ALL, d=np.array([0.5, 4.0])),
    "copies": case((2, 1), [node("Expand", "x t")], t=np.array([3, 1, 4])),
    "copies of a matrix": case(
        (2, 1), [node("Expand", "x t", "h"), node("ReduceSum", "h i")], ALL, t=np.array([2, 4]),
        i=np.array([1])),
    "thirds": case(
        (1, 3), [helper.make_node("Split", ["x"], list("abc"), axis=-1, num_outputs=3), node("Sub", "a c")],
        ALL),
    "parts that are swapped, and one twice": case(
        (1, 3), [helper.make_node("Split", ["x", "l"], ["a", "b"], axis=1), node("Concat", "b a b", axis=1)],
        l=np.array([1, 2])),
    "a value of constants": case(
        (1, 1), [gemm("c", "w", "h"), node("Tanh", "h", "r"), node("Concat", "x r x", axis=1)], w=ONE, c=ONE),
}  # fmt: skip
"""Cases of one matrix, or of one and a few functions."""


@functools.cache
def reached_of(name: str) -> Fraction:
    one = (CASES | MATRICES)[name]
    return Fraction(reached(one.content, one.shape, 3))


def proven_part(network: Any, part: Stated) -> tuple[Stated, Any, Fraction]:
    """A part with the H, or the multipliers, that a search finds, and its constant."""
    if part["sizes"] != "units":
        found, h, proven = certificates._prove(network, read_together(part))
    else:
        start, end = part["values"]
        proposed = certificates._proposed(network, start, end, Clock())
        found, h, proven = certificates._proven_units(network, start, end, *proposed)
    return found.stated(), h, proven


def read_together(part: Stated) -> Together:
    read = Part.read(part)
    assert isinstance(read, Together)
    return read


def false_of(cases: Mapping[str, Case] = CASES) -> Iterator[str]:
    """Of which cases the checker proves less than inputs reach, or reads what is refused."""
    for name, one in cases.items():
        content, shape, parts, h = one.content, one.shape, one.parts, None
        try:
            if name in SEARCHED or any(part["sizes"] == "units" for part in parts):
                network = specnorm_check.Network(content, list(shape))
                parts, h, _ = zip(*(proven_part(network, part) for part in parts), strict=True)
            proven = constant(content, shape, parts, h)
        except Refused:
            if name not in REFUSED:
                yield name
            continue
        # Differences are exact where everything is a small whole number; "rounding of T" is a number by itself.
        truth = EXACT[name] if name in EXACT else reached_of(name) * (1 - CLOSE)
        if proven < truth or name == "an output that is drawn":
            yield name


def test_every_proven_constant_is_at_least_what_inputs_reach() -> None:
    assert next(false_of(), None) is None


def test_every_matrix_proves_at_least_what_inputs_reach() -> None:
    assert next(false_of(MATRICES), None) is None


# -- parts that somebody made up -----------------------------------------------------------------------------------


def drawn_sums(seed: int) -> tuple[bytes, tuple[int, ...], Stated]:
    """A network whose values are sums of layers of values before, or of these, and one part with any multipliers."""
    draw = Random(seed)
    stride, functions = 1 + seed % 2, ("Relu", "Tanh", "Abs", "Clip", "LeakyRelu")
    nodes, constants, values = list[Any](), dict[str, Any](), ["x"]
    weights = [draw.uniform(0.5, 2.0, 2)]
    if seed % 4 == 3:  # every other pixel, between channels of zeros
        constants |= {"b": [0], "e": [9], "a": [2], "t": [2], "p": [0, seed % 3, 0, 0, 1 - seed % 3 % 2, 0]}
        nodes += [node("Slice", "x b e a t", "every"), node("Pad", "every p", "short")]
    sizes = [2 + int(np.sum(constants.get("p", 0)))] * 3
    for at in range(1, 3 + seed % 2):
        terms = []
        for source in sorted({*draw.randint(0, at, 2), at - 1}):
            first = source == 0
            k, d = int(draw.randint(1, 4)), 1 if first and stride == 2 else int(draw.randint(1, 3))
            front = int(draw.randint(0, d * (k - 1) + 1))
            given = {"pads": [front, d * (k - 1) - front], "strides": [stride if first else 1], "dilations": [d]}
            constants[f"k{at}{source}"] = draw.standard_normal((sizes[0], 2 if first else sizes[0], k))
            name = f"c{at}{source}"
            nodes.append(node("Conv", f"{values[source]} k{at}{source}", name, **given))
            terms.append(name)
        if seed % 4 == 3 and at == 2:
            terms = [term for term in terms if term != "c20"] + ["short"]
        elif stride == 1 and at > 1 and draw.randint(2):
            terms = [term for term in terms if term != f"c{at}{at - 1}"] + [values[at - 1]]
        total = terms[0]
        for number, term in enumerate(terms[1:]):
            nodes.append(node(("Add", "Sub")[int(draw.randint(2))], f"{total} {term}", f"s{at}{number}"))
            total = f"s{at}{number}"
        op = functions[int(draw.randint(len(functions)))]
        nodes.append(node(op, total, f"f{at}", **({"alpha": draw.uniform(-1, 1)} if op == "LeakyRelu" else {})))
        values.append(f"f{at}")
        weights.append(draw.uniform(0.3, 3.0, sizes[0]))
    nodes.append(node("Abs", values[-1]))
    return file_of(nodes, (1, 2, 6), constants), (1, 2, 6), joint(values, *weights)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("seed", range(40))
def test_no_multipliers_and_no_completion_prove_less_than_what_inputs_reach(seed: int) -> None:
    """Hostile H, and the one that is searched."""
    content, shape, part = drawn_sums(seed)
    network, draw = specnorm_check.Network(content, list(shape)), Random(seed)
    whole, truth = network.joint(read_together(part)), Fraction(reached(content, shape, 3)) * (1 - CLOSE)
    blocks = specnorm_check.stride_one_kernels(whole.kernel, whole.layer)
    part["exponent"] = 18 - int(np.frexp(np.abs(blocks).max())[1])
    for rows, largest in ((0, 1), (3, 2**17), (len(whole.kernel), 2**18)):
        h = draw.randint(-largest, largest, (blocks.shape[0], rows, *blocks.shape[2:])).astype(np.int32)
        assert proven_by(network, [part], [h]) >= truth
    part, h, _ = proven_part(network, part)
    assert proven_by(network, [part], [h]) >= truth


# -- several grids -------------------------------------------------------------------------------------------------
def convolved(x: Any, kernel: Any, layer: Any) -> np.ndarray:
    """A layer of a periodic image (channels, *pixels), tap by tap."""
    groups, axes = layer.groups, layer.axes
    by_group = x.reshape(groups, -1, *x.shape[1:])
    total = 0.0
    for tap in np.ndindex(*kernel.shape[2:]):
        read = by_group
        for at, (axis, t) in enumerate(zip(axes, tap, strict=True), start=2):
            shift = axis.padding_before - axis.dilation * t
            pixels = [slice(None)] * read.ndim
            pixels[at] = slice(None, None, axis.stride)
            read = np.roll(read, shift, at)[tuple(pixels)]
        matrices = kernel[(..., *tap)].reshape(groups, -1, kernel.shape[1])
        total += np.einsum("goi,gi...->go...", matrices, read)
    return np.asarray(total).reshape(-1, *np.shape(total)[2:])


def phases_of(x: Any, counts: Sequence[int]) -> np.ndarray:
    """An image whose phases are channels, one behind the other."""
    for axis, count in enumerate(counts, start=1):
        x = x.reshape(*x.shape[:axis], -1, count, *x.shape[axis + 1 :])
        x = np.moveaxis(x, axis + 1, 1).reshape(-1, *x.shape[1 : axis + 1], *x.shape[axis + 2 :])
    return np.asarray(x)


@pytest.mark.parametrize("seed", range(30))
def test_a_layer_by_phases_is_the_layer(seed: int) -> None:
    """A transposed one by its adjoint: <y, A x> = <A* y, x>."""
    draw, rank = Random(seed), 1 + seed % 2
    whole = draw.randint(1, 3, rank)
    groups, is_adjoint = int(draw.randint(1, 3)), seed % 3 == 0
    axes = tuple(Axis(*map(int, (*draw.randint(1, 4, 3), draw.randint(0, 5), 0))) for _ in range(rank))
    coarse, fine = whole.tolist(), [n * axis.stride for n, axis in zip(whole.tolist(), axes, strict=True)]
    kernel = draw.standard_normal((2 * groups, 3, *(axis.taps for axis in axes)))
    layer = Layer(axes, groups, "zeros", None, is_adjoint)
    x = draw.standard_normal((3 * groups, *(9 * n for n in fine)))
    y = draw.standard_normal((2 * groups, *(9 * n for n in coarse)))
    after, before = (fine, coarse) if is_adjoint else (coarse, fine)
    found, first_tap = by_phases(Term(0, 1, kernel, layer), after, before)
    taps = zip(found.kernel.shape[2:], first_tap, strict=True)
    at_one = Layer(tuple(Axis(n, 1, 1, -first, 0) for n, first in taps), 1, "zeros", None)
    ends = [phases_of(x, fine), phases_of(y, coarse)][:: -1 if is_adjoint else 1]
    product = np.vdot(ends[1], convolved(ends[0], found.kernel, at_one))
    assert product == pytest.approx(np.vdot(y, convolved(x, kernel, layer)))
    assert found.channels == (len(ends[1]), len(ends[0]))


def pyramid(seed: int) -> bytes:
    """A network of 16 pixels with values on three grids: pixels are repeated, and a transposed convolution."""
    draw = Random(seed)
    sizes = {"a": (2, 3), "b": (2, 3), "c": (2, 1), "l": (2, 1), "u": (2, 3), "f": (2, 1)}
    constants = {name: draw.standard_normal((2, *size)) / 2 for name, size in sizes.items()}
    down = {"strides": [2], "pads": [seed % 3, 2 - seed % 3]}
    repeat = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    up = {"strides": [2], "pads": [seed % 2, 1 - seed % 2]}
    nodes = [
        node("Conv", "x a", "h1", **down), node("Relu", "h1", "z1"), node("Conv", "z1 b", "h2", **down),
        node("LeakyRelu", "h2", "z2", alpha=-0.5), node("Conv", "z2 c", "z3"),
        helper.make_node("Resize", ["z3", "", "s"], ["r"], **repeat), node("Conv", "z1 l", "m"),
        node("Sub", "m r", "n"), node("Relu", "n", "z4"), node("ConvTranspose", "z4 u", "o", **up),
        node("Conv", "x f", "g"), node("Add", "o g", "p"), node("Relu", "p"),
    ]  # fmt: skip
    return file_of(nodes, (1, 2, 16), constants | {"s": np.array([1, 1, 2], np.float32)})


@pytest.mark.parametrize("seed", range(6))
def test_layers_of_several_grids_are_proven_together(seed: int, tmp_path: Path) -> None:
    """With one multiplier a phase; whatever these are, and the numbers of H, nothing false is proven."""
    content, shape = pyramid(seed), [1, 2, 16]
    (tmp_path / "pyramid.onnx").write_bytes(content)
    (run,) = network_bound(tmp_path / "pyramid.onnx", (2, 16), method=Multipliers(widest=1000)).runs
    (statement,) = run.statements
    assert [len(q) for q in statement.multipliers] == [2, 4, 2, 2, 4, 8]
    network, truth = specnorm_check.Network(content, shape), Fraction(reached(content, shape)) * (1 - CLOSE)
    found, h, _ = certificates._prove(network, Together(statement.values, statement.multipliers))
    part = found.stated()
    assert truth <= proven_by(network, [part], [h]) <= 1.02 * run.upper
    draw = Random(seed)
    for _ in range(4):
        forged = [q * draw.uniform(0.5, 2, len(q)) for q in statement.multipliers]
        for other in (h, draw.randint(-(2**10), 2**10, h.shape).astype(np.int32)):
            stated = joint(statement.values, *forged, exponent=part["exponent"] - 4)
            assert proven_by(network, [stated], [other]) >= truth
    for number, count in ((0, 4), (1, 8), (5, 4)):
        weights = [np.ones(count if at == number else len(q)) for at, q in enumerate(statement.multipliers)]
        with pytest.raises(Refused, match="multipliers are not one a channel"):
            proven_by(network, [joint(statement.values, *weights)], [h])


# -- claims that are not proven ------------------------------------------------------------------------------------
CHAIN = file_of(
    [
        node("Conv", "x a", "h", pads=[1, 1]), node("Relu", "h", "r"), node("Conv", "r b", "g", pads=[1, 1]),
        node("Add", "g x", "s"), node("MaxPool", "s", "p", kernel_shape=[2], strides=[2]), node("Abs", "p"),
    ], (1, 2, 6), {"a": Random(1).standard_normal((2, 2, 3)), "b": Random(2).standard_normal((2, 2, 3))},
)  # fmt: skip
REACHED = reached(CHAIN, (1, 2, 6))


def claim(part: Stated | None = None, content: bytes = CHAIN, **more: Any) -> Claim:
    """A claim of exactly what its part proves, with something else in its place."""
    part = joint(["x", "r", "g"], [1, 1], [1.0, 0.75], [0.5, 0.25], exponent=14) if part is None else part
    network = specnorm_check.Network(content, [1, 2, 6])
    h = nothing(network, part)
    upper = specnorm_check.float_up(proven_by(network, [part], [h]))
    statement = {
        "name": "network", "sha256": hashlib.sha256(content).hexdigest(), "input_shape": [1, 2, 6],
        "upper": upper.hex(), "parts": [part], **more,
    }  # fmt: skip
    return Claim(statement, [h])


def changed(change: Callable[[dict[str, Any]], Any], h: Any = None, content: bytes = CHAIN) -> str:
    """Why a changed claim is refused; empty: it is proven."""
    right = claim()
    statement = json.loads(json.dumps(right.statement))
    change(statement)
    (verdict,) = specnorm_check.check([Claim(statement, right.completion if h is None else h)], {}, content)
    return verdict.reason


def part_of(**more: Any) -> Callable[[dict[str, Any]], None]:
    return lambda statement: statement["parts"][0].update(more)


def weight(text: Any) -> Callable[[dict[str, Any]], None]:
    return lambda statement: statement["parts"][0]["weights"][1].__setitem__(0, text)


def proto_with(change: Callable[[Any], Any]) -> bytes:
    proto = onnx.ModelProto.FromString(CHAIN)
    change(proto.graph)
    content: bytes = proto.SerializeToString()
    return content


def test_a_claim_is_proven_and_says_what_it_is() -> None:
    (verdict,) = specnorm_check.check([claim()], {}, CHAIN)
    assert verdict.reason == ""
    for words in ("Lipschitz constant <=", "of the input 1x2x6", "by 1 part of 2 layers at most", "2 Conv, 1 Relu"):
        assert words in str(verdict)
    assert float.fromhex(claim().statement["upper"]) >= REACHED
    named = claim()
    named.statement["name"] = "network: Lipschitz constant <= 1.0; 0.01 s\nproven network" + "\u3164" * 2000
    (verdict,) = specnorm_check.check([named], {}, CHAIN)
    assert str(verdict).startswith("proven: Lipschitz constant <= " + str(float.fromhex(named.statement["upper"]))[:6])
    assert str(verdict).isprintable()
    assert len(str(verdict)) < 500


REFUSALS: dict[str, tuple[Callable[[], str], str]] = {
    "a lower number": (
        lambda: changed(lambda s: s.update(upper=(0.9 * float.fromhex(s["upper"])).hex())), "prove no less than",
    ),
    "a multiplier of 0": (lambda: changed(weight("0x0.0p+0")), "multiplier is 0"),
    "nan as a multiplier": (lambda: changed(weight("nan")), "no hexadecimal float"),
    "a multiplier that is a number": (lambda: changed(weight(1)), "no hexadecimal float"),
    "a multiplier beyond": (lambda: changed(weight("0x1.0000000000000p+200")), "0, or close to it or beyond"),
    "H of another part": (lambda: changed(lambda _: None, h=[np.zeros((1, 0, 7, 3), np.int16)]), "expected"),
    "a branch left out": (lambda: changed(part_of(values=["x", "r", "s"])), "expected"),
    "a layer left out": (lambda: changed(part_of(values=["x", "g"], weights=[])), "stands before a layer"),
    "nodes in another order": (
        lambda: changed(lambda _: None, content=proto_with(lambda g: g.node.insert(0, g.node.pop(1)))), "another one",
    ),
    "another shape": (lambda: changed(lambda s: s.update(input_shape=[1, 2, 7])), "another shape"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_a_false_claim_is_refused_by_name(name: str) -> None:
    said, words = REFUSALS[name]
    assert re.search(words, said()), said()


JUNK: list[Any] = [
    None, True, -1, 0, 2**70, 1.5, "", "x", "y", "r", [], {}, [[]], ["x", "y"], "0x1.0p+0", "0x0.0p+0", "own",
]  # fmt: skip


@pytest.mark.parametrize("seed", range(60))
def test_junk_in_a_statement_is_refused_or_proves_its_number(seed: int) -> None:
    """Some entry, at any depth, is something else: there is one verdict, and no false one."""
    draw, right = Random(seed), claim()
    statement = json.loads(json.dumps(right.statement))
    at: Any = statement
    while True:
        keys = list(at) if isinstance(at, dict) else range(len(at))
        key = keys[int(draw.randint(len(keys)))]
        if not isinstance(at[key], dict | list) or not at[key] or not draw.randint(4):
            break
        at = at[key]
    at[key] = JUNK[int(draw.randint(len(JUNK)))]
    (verdict,) = specnorm_check.check([Claim(statement, right.completion)], {}, CHAIN)
    assert verdict.reason or float.fromhex(statement["upper"]) >= REACHED


def test_attributes_and_values_that_are_stated_twice_are_refused() -> None:
    """Of two strides one program reads the first, another the last; and a value that is a constant, too."""
    twice = node("Conv", "x k", strides=[1])
    twice.attribute.append(helper.make_attribute("strides", [2]))
    for nodes in ([twice], [node("Relu", "x", "k"), node("Conv", "x k")]):
        end = helper.make_tensor_value_info("y", TensorProto.DOUBLE, (1, 2, 6))
        proto = model(nodes, (1, 2, 6), {"k": np.ones((2, 2, 1))}, outputs=[end])
        with pytest.raises(Refused, match="multiple times"):
            specnorm_check.Network(proto.SerializeToString(), [1, 2, 6])


def test_a_shape_that_the_graph_computes_is_computed_by_the_checker() -> None:
    """What onnx infers from it nobody checks: shapes, and lists that are joined, become arrays; all else is refused."""
    constants = {"c": np.array([1]), "m": np.array([12]), "t": np.array([1, 12]), "w": np.ones((1, 12))}
    nodes = [node("Reshape", "x t", "r"), gemm("r", "w", "y")]
    assert constant(file_of(nodes, (1, 2, 6), constants), (1, 2, 6), [layer("x", "y")]) >= 3
    computed = [node("Concat", "c m", "s", axis=0), node("Reshape", "x s", "r"), gemm("r", "w", "y")]
    assert constant(file_of(computed, (1, 2, 6), constants), (1, 2, 6), [layer("r", "y")]) >= 3
    of_shape = [node("Shape", "x", "c", start=-3, end=1), *computed]
    file = file_of(of_shape, (1, 2, 6), {name: array for name, array in constants.items() if name != "c"})
    assert constant(file, (1, 2, 6), [layer("r", "y")]) >= 3
    cast = [node("Concat", "c m", "s", axis=0), node("Cast", "s", "q", to=7), node("Reshape", "x q", "r")]
    file = file_of([*cast, gemm("r", "w", "y")], (1, 2, 6), constants)
    assert constant(file, (1, 2, 6), [layer("r", "y")]) >= 3
    cast = [node("Concat", "c m", "s", axis=0), node("Abs", "s", "q"), node("Reshape", "x q", "r")]
    with pytest.raises(Refused, match="infers no shape of r"):
        constant(file_of([*cast, gemm("r", "w", "y")], (1, 2, 6), constants), (1, 2, 6), [layer("r", "y")])


def test_a_part_behind_an_operator_without_a_rule_names_the_operator() -> None:
    nodes = [gemm("x", "w", "h"), node("Exp", "h", "r"), gemm("r", "w", "y")]
    with pytest.raises(Refused, match="nothing is proven beyond one of Exp, Gemm"):
        constant(file_of(nodes, (1, 1), {"w": ONE}), (1, 1), [layer("x", "h"), layer("r", "y")])


SMALL: Stated = {"s": np.full(1, 1e-180), "z": np.zeros(1), "v": np.full(1, 1e300), "b": np.array(1e300)}
TWICE = helper.make_node("Constant", [], ["w"], __w=numpy_helper.from_array(EYE / 100))
TWICE.attribute.append(helper.make_attribute("value", numpy_helper.from_array(100 * EYE)))
ELSEWHERE = numpy_helper.from_array(EYE)
ELSEWHERE.external_data.add(key="location", value="weights")
ELSEWHERE.data_location = TensorProto.EXTERNAL
SHAPED = [node("Concat", "d m", "t", axis=0), node("Reshape", "x t", "r"), node("ReduceMean", "r a")]
FORGED: dict[str, tuple[Case, str]] = {
    "a limit that moves: 0.013 for 3,500": refused(
        "a Clip with a further input that is computed", (1, 4),
        [gemm("x", "w", "h"), node("ReduceMax", "x", "m", keepdims=0), node("Mul", "m b", "l"), node("Clip", "h l")],
        layer("x", "y"), w=EYE / 100, b=np.array(1e3)),
    "an operator of the domain .": refused("beyond one of ..Relu", (1, 4), [node("Relu", "x", domain=".")]),
    "a constant of two values: 0.01 for 100": refused(
        "a Gemm with a further input that is computed", (1, 4), [TWICE, gemm("x", "w", "y")], layer("x", "y")),
    "a constant that is elsewhere": refused(
        "outside of its file", (1, 4), [node("Constant", "", "w", value=ELSEWHERE), gemm("x", "w", "y")],
        layer("x", "y")),
    "a normalization that underflows: 0 for 1e-30": refused(
        "inexact", (1, 1, 2), [node("BatchNormalization", "x s z z v", "h"), node("Mul", "h b")], **SMALL),
    "normalizations that underflow together": refused(
        "inexact", (1, 1, 2), [node("Conv", "x k", "h"), node("BatchNormalization", "h s z z o", "g"),
         node("BatchNormalization", "g s z z o", "f"), node("Mul", "f b")], layer("x", "f"), **SMALL,
        k=np.ones((1, 1, 1)), o=np.ones(1)),
    "a factor that underflows: 5e-24 for 1e-38": refused(
        "inexact", (1, 1), [gemm("x", "w", "h", alpha=1e-38), node("Mul", "h b")], layer("x", "h"), w=ONE * 1e-300,
        b=np.array(1e300)),
    "a name as a list: 1 for 100": refused(
        "no list of two or more", (1, 1), [node("Mul", "x b", "xh"), gemm("x", "w", "g"), node("Relu", "g", "h"),
         gemm("xh", "w", "e"), gemm("h", "w", "f"), node("Add", "e f")],
        {**joint("xhy", [1], [1], [1]), "values": "xhy"}, w=ONE / 8, b=np.array(1e3)),
    "a cast that inference forgets: 0.45 for 1": refused(
        "beyond one of Cast, Concat", (1, 20),
        [node("Cast", "c", "e", to=TensorProto.BOOL), node("Cast", "e", "d", to=TensorProto.INT64), *SHAPED],
        c=np.array([5]), m=np.array([-1]), a=np.array([0])),
    "whole numbers that wrap: 1.5e-5 for 0.22": refused(
        "beyond one of Cast, Concat, ReduceMean, Reshape", (1, 20),
        [node("Mul", "c c", "e"), node("Add", "e f", "g"), node("Cast", "g", "d", to=TensorProto.INT64), *SHAPED],
        c=np.array([65536], np.int32), f=np.array([20], np.int32), m=np.array([1]), a=np.array([0])),
    "a list of several axes, read by the first: 2 for 4.9": refused(
        "one of ReduceSum, Reshape", (2, 12), [node("Unsqueeze", "c z", "u"), node("Slice", "u z o z", "g"),
         node("Squeeze", "g z", "s"), node("Reshape", "x s", "r"), node("ReduceSum", "r")], c=np.array([4, 6]),
        z=np.array([0]), o=np.array([1])),
    "a number of two axes: 0.5 for 1": refused(
        "beyond one of Mul, ReduceMean", (4,), [node("Unsqueeze", "c z", "u"), node(
            "Cast", "u", "f", to=TensorProto.DOUBLE), node("Mul", "x f", "m"), node("ReduceMean", "m z", keepdims=0)],
        c=np.array([1]), z=np.array([0])),
    "a kernel of another shape than is said, of which onnx makes one pixel": refused(
        "such a Conv", (1, 1, 8), [node("Conv", "x k", "h", kernel_shape=[8]), node("ReduceSum", "h")], layer("x", "h"),
        k=np.ones((1, 1, 3))),
    "how many numbers are above 0: 1 for a jump": refused(
        "beyond one of Add, Cast, Compress, Greater, Shape", (3,), [node("Greater", "x z", "g"),
         node("Compress", "x g", "m"), node("Shape", "m", "s"), node("Cast", "s", "c", to=TensorProto.DOUBLE),
         node("Add", "x c")], z=np.array(0.0)),
    # Graphs that no program runs; onnx infers shapes of them.
    "10 entries as 1,000: a mean of 0.03 for 0.3": refused(
        "beyond one of ReduceMean, Reshape", (1, 10), [node("Reshape", "x s", "r"),
         node("ReduceMean", "r a")], s=[1, 1000], a=[1]),
    "10 entries as 1,000 before a layer": refused(
        "of another size", (1, 10), [node("Reshape", "x s", "r"), gemm("r", "w", "y")], layer("x", "y"), s=[1, 1000],
        w=np.ones((1, 1000))),
    "a kernel of other channels": refused(
        "such a Conv", (1, 4, 5), [node("Conv", "x k")], layer("x", "y"), k=np.ones((2, 2, 1))),
    "a kernel of other groups": refused(
        "such a Conv", (1, 2, 5), [node("Conv", "x k", group=3)], layer("x", "y"), k=np.ones((3, 1, 1))),
}  # fmt: skip
"""What was proven of networks whose constant is larger, and what it is refused by."""


@pytest.mark.parametrize("name", FORGED)
def test_false_claims_that_were_once_proven_are_refused(name: str) -> None:
    (nodes, shape, constants, parts, _), words = FORGED[name]
    proto = onnx.ModelProto.FromString(file_of(nodes, shape, constants, domains=["."]))
    (end,) = proto.graph.output
    end.type.tensor_type.shape.SetInParent()
    with pytest.raises(Refused, match=re.escape(words)):
        constant(proto.SerializeToString(), shape, parts)


def test_a_slice_of_one_axis_twice_is_no_shortcut() -> None:
    """Steps of 2 and 2 are 2 in one program and 4 in another; the definition says nothing of them."""
    constants = {"b": [0, 0], "e": [9, 9], "a": [2, 1], "t": [2, 1]}
    network = specnorm_check.Network(file_of([node("Slice", "x b e a t")], (1, 1, 8), constants), [1, 1, 8])
    entries = {"x": np.arange(8).reshape(1, 1, 8)}
    assert moved(network, "y", entries).tolist() == [[[0, 2, 4, 6]]]
    for axes in ([2, 2], [2, -1]):
        network.arrays["a"] = np.array(axes)  # some versions of onnx infer a shape of it
        with pytest.raises(Refused, match="cuts an axis twice"):
            moved(network, "y", entries)


def test_roundings_of_normalisations_behind_a_layer_are_counted() -> None:
    """Each rounds 4 times; 60 of them were paid by 32 roundings, and the number was below the norm."""
    gamma, variance = steep_normalisation()
    constants = {"k": np.ones((1, 1, 1)), "z": np.zeros(1), "g": np.array([gamma]), "v": np.array([variance])}
    for count, is_proven in ((4, True), (5, False), (60, False)):
        nodes = [node("Conv", "x k", "h0")]
        for at in range(count):
            end = "y" if at == count - 1 else f"h{at + 1}"
            nodes.append(node("BatchNormalization", f"h{at} g z z v", end, epsilon=0.0))
        content = file_of(nodes, (1, 1, 4), constants)
        square = (Fraction(gamma) ** 2 / Fraction(variance)) ** count
        together = [layer("x", "y", exponent=18)]
        if is_proven:
            assert constant(content, (1, 1, 4), together) ** 2 >= square
        else:
            with pytest.raises(Refused, match="more than 4 normalizations"):
                constant(content, (1, 1, 4), together)
        by_themselves = constant(content, (1, 1, 4), [layer("x", "h0", exponent=18)])
        assert by_themselves**2 >= square


def steep_normalisation() -> tuple[float, float]:
    """A factor and a variance whose quotient is rounded down most, of some."""
    below, chosen = Fraction(0), (1.0, 1.0)
    for variance in Random(0).uniform(0.5, 2, 3000):
        gamma = float(np.sqrt(variance))
        rounded = Fraction(float(gamma * (1 / np.sqrt(variance))))
        error = rounded**2 * Fraction(variance) / Fraction(gamma) ** 2 - 1
        if error < below:
            below, chosen = error, (gamma, float(variance))
    return chosen


BIG = 2**63 - 1
WRAPPED: dict[str, tuple[Any, dict[str, Any], Sequence[int], str]] = {
    "padding by constants": (node("Pad", "x p", "q"), {"p": [0, 0, BIG, 0, 0, BIG]}, (1, 1, 9), "Pad has a number"),
    "padding the other way": (
        node("Pad", "x p", "q"), {"p": [0, 0, -BIG - 1, 0, 0, -BIG - 1]}, (1, 1, 9), "Pad has a number",
    ),
    "padding of averages": (
        node("AveragePool", "x", "q", kernel_shape=[1], pads=[BIG, BIG], count_include_pad=1), {}, (1, 1, 9),
        "AveragePool has a number",
    ),
    "padding of maxima": (
        node("MaxPool", "x", "q", kernel_shape=[1], pads=[BIG, BIG]), {}, (1, 1, 9), "MaxPool has a number",
    ),
    "padding of a layer": (node("Conv", "x k", "q", pads=[BIG, BIG]), {"k": np.ones((1, 1, 1))}, (1, 1, 9), "Conv has"),
    "dilations": (
        node("MaxPool", "x", "q", kernel_shape=[3], dilations=[BIG], pads=[1, 1]), {}, (1, 1, 9), "MaxPool has",
    ),
    "a size that wraps": (node("Flatten", "x", "q"), {}, (1, 16774659, 16777215, 10421813), "4294967296 entries"),
    "a shape that wraps": (
        node("Reshape", "x s", "q"), {"s": [1, 2**32, 2**31, 2, 9]}, (1, 1, 9),
        "4294967296 entries|Dimension product overflow",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRAPPED)
def test_numbers_with_which_integers_of_onnx_overflow_are_refused(name: str) -> None:
    """A sum of 9 pixels padded by 2^64 - 2 was taken for one of 7, by onnx 1.17 and 1.19: 2.65 for 3."""
    made, constants, shape, words = WRAPPED[name]
    end = helper.make_tensor_value_info("q", TensorProto.DOUBLE, ("a", "b", "c"))
    proto = model([made], shape, constants, outputs=[end])
    with pytest.raises(Refused, match=words):
        specnorm_check.Network(proto.SerializeToString(), list(shape))


def test_every_shape_that_onnx_infers_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it infers."""
    for wrong, words in (((1, 2, 2**32), "entries or more"), ((1, -2, 6), "a negative size")):
        end = helper.make_tensor_value_info("r", TensorProto.DOUBLE, wrong)

        def inferred(proto: Any, end: Any = end, **_: Any) -> Any:
            proto.graph.value_info.append(end)
            return proto

        monkeypatch.setattr(onnx.shape_inference, "infer_shapes", inferred)
        with pytest.raises(Refused, match=words):
            specnorm_check.Network(CHAIN, [1, 2, 6])


def test_normalisation_by_the_batch_is_refused() -> None:
    """Of set 13, whose fifth output tells: 0.001 for 1."""
    made = node("BatchNormalization", "x s z z v", "y a b c d")
    content = file_of([made], (1, 1, 20), {**NORMAL, "v": np.full(1, 1e6)}, opset=13)
    with pytest.raises(Refused, match="BatchNormalization as it is given"):
        constant(content, (1, 1, 20), [])


def test_a_layer_at_its_own_size_has_the_size_of_its_input() -> None:
    """Behind a Reshape these are other sizes: 0 for 7.3."""
    kernel = np.ones((1, 1, 3, 3))
    kernel[0, 0, 1, 1] = 0
    nodes = [node("Reshape", "x s", "r"), node("Conv", "r k", pads=[1, 1, 1, 1])]
    content = file_of(nodes, (1, 64, 1, 1), {"s": np.array([1, 1, 8, 8]), "k": kernel})
    proven = constant(content, (1, 64, 1, 1), [layer("x", "y", sizes="own")])
    assert proven > reached(content, (1, 64, 1, 1)) > 7


def with_sets(proto: Any, sets: Sequence[int]) -> None:
    del proto.opset_import[:]
    proto.opset_import.extend(helper.make_opsetid("", one) for one in sets)


def with_numbers_elsewhere(proto: Any) -> None:
    proto.graph.initializer[0].external_data.add(key="location", value="weights")
    proto.graph.initializer[0].data_location = TensorProto.EXTERNAL


def with_whole_numbers(proto: Any) -> None:
    """Half of 1 is 0 there, and of 2 it is 1."""
    for one in (*proto.graph.input, *proto.graph.output):
        one.type.tensor_type.elem_type = TensorProto.INT64
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array([2]), "c"))


PLAIN, MATRIX = (
    case((1, 2, 6), [node("Relu", "x")]),
    case((1, 2), [gemm("x", "w", "y")], layer("x", "y"), w=EYE[:2, :2]),
)
CHANGED: dict[str, tuple[Case, Callable[[Any], Any], str]] = {
    "no output: 9e-19 for 1": (PLAIN, lambda proto: proto.graph.ClearField("output"), "the model has no output"),
    "a constant that whoever runs the model may replace": (MATRIX, lambda proto: proto.graph.input.append(
        helper.make_tensor_value_info("w", TensorProto.DOUBLE, (2, 2))), "a constant of the model is an input"),
    "numbers outside of the file": (MATRIX, with_numbers_elsewhere, "outside of its file"),
    "whole numbers": (case((1, 2), [node("Div", "x c")], c=np.array([2.0])), with_whole_numbers, "not floating"),
    # onnx takes operators of a set that it does not know for the last that it knows.
    **{f"operators of the sets {sets}": (PLAIN, functools.partial(with_sets, sets=sets),
        "just one operator set of ONNX from 13 to 28") for sets in ([12], [29], [2**31], [13, 28], [])},
    # One entry beside five limits was five entries for onnx's reference: 2.236 for 1.
    **{f"limits of shape {shape}": (case((1, 1), [node("Clip", "x m")], m=np.full(shape, -9.0)), id,
        "Clip whose limit is not a single number") for shape in ((5,), (5, 1), (1, 1, 1))},
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGED)
def test_models_that_mean_something_else_are_refused(name: str) -> None:
    one, change, words = CHANGED[name]
    proto = onnx.ModelProto.FromString(one.content)
    change(proto)
    with pytest.raises(Refused, match=words):
        constant(proto.SerializeToString(), one.shape, one.parts)


ONE_AXIS = {"kernel_shape": [3]}
FACTORS: dict[str, tuple[Any, float]] = {
    "epsilon is added to a variance of 0": (node("BatchNormalization", "x g z z z", "y", epsilon=0.25), 2.0),
    "epsilon is added to a variance": (node("BatchNormalization", "x g z z v", "y", epsilon=1.0), 0.5),
    "the root of the windows of a pixel": (node("MaxPool", "x", "y", **ONE_AXIS), 3**0.5),
    "the root of windows by pixels": (node("AveragePool", "x", "y", kernel_shape=[2], strides=[2]), 0.5**0.5),
    "windows that overlap": (node("AveragePool", "x", "y", **ONE_AXIS), 1.0),
    "the root of summands": (node("ReduceSum", "x a", "y"), 2.0),
    "the inverse root of summands": (node("ReduceMean", "x a", "y"), 0.5),
}


@pytest.mark.parametrize("name", FACTORS)
def test_factors_are_those_of_the_rules(name: str) -> None:
    """A factor that is too large proves nothing false, so that only its number shows a forgotten root or epsilon."""
    made, factor = FACTORS[name]
    constants = {"g": np.ones(4), "z": np.zeros(4), "v": np.full(4, 3.0), "a": np.array([1])}
    found = constant(file_of([made], (1, 4, 6), constants, opset=18), (1, 4, 6), [])
    assert factor <= float(found) <= factor * (1 + 1e-9)


@pytest.mark.parametrize(("kernel", "stride"), [(7, 7), (7, 2), (9, 4)])
def test_windows_larger_than_the_input_have_no_factor(kernel: int, stride: int) -> None:
    """onnx infers one output of them, and ONNX Runtime divides by the number of pixels that there are."""
    content = file_of([node("AveragePool", "x", "y", kernel_shape=[kernel], strides=[stride])], (1, 1, 6), {}, opset=19)
    with pytest.raises(Refused, match="beyond one of AveragePool"):
        constant(content, (1, 1, 6), [])


# -- branches ------------------------------------------------------------------------------------------------------
def drawn_branches(seed: int, *more: str) -> tuple[bytes, tuple[int, ...], list[Stated]]:
    draw = Random(seed)
    nodes, constants, parts = list[Any](), dict[str, Any](CUTS), list[Stated]()
    widths = {"x": 4}
    for at in range(9):
        name, names = f"z{at}", list(widths)
        source = names[int(draw.randint(max(0, len(names) - 4), len(names)))]
        operators = ("Slice", "Slice", "Concat", "Concat", "Add", "Sub", "Gemm", "LeakyRelu", "Abs", *more)
        op = operators[int(draw.randint(len(operators)))]
        equal = [other for other in names if widths[other] == widths[source]]
        other = equal[int(draw.randint(len(equal)))]
        if op == "Slice" and widths[source] > 1:
            end = min(widths[source], 4)
            first = int(draw.randint(end - 1))
            last = int(draw.randint(first + 1, end + 1))
            nodes.append(node(op, f"{source} {first} {last} 1", name))
            widths[name] = last - first
        elif op == "Concat":
            other = names[int(draw.randint(len(names)))]
            nodes.append(node(op, f"{source} {other}", name, axis=1))
            widths[name] = widths[source] + widths[other]
        elif op in ("Max", "Min"):
            nodes.append(node(op, f"{source} {other}", name))
            widths[name] = widths[source]
        elif op in ("Add", "Sub"):
            # A value less itself is fixed, and no bound is known of functions of fixed values alone.
            is_fixed = op == "Sub" and other == source
            nodes.append(node("Abs", source, name) if is_fixed else node(op, f"{source} {other}", name))
            widths[name] = widths[source]
        elif op == "Gemm":
            widths[name] = int(draw.randint(1, 4))
            constants[f"w{at}"] = draw.standard_normal((widths[name], widths[source]))
            nodes.append(gemm(source, f"w{at}", name))
            parts.append(layer(source, name))
        else:
            slope = {"alpha": float(draw.uniform(-2, 2))} if op == "LeakyRelu" else {}
            nodes.append(node(op if slope else "Abs", source, name, **slope))
            widths[name] = widths[source]
    nodes.append(node("Concat", " ".join(list(widths)[-3:]), axis=1))
    return file_of(nodes, (1, 4), constants), (1, 4), parts


@pytest.mark.sampled(6)
@pytest.mark.parametrize("seed", range(150))
def test_branches_prove_at_least_what_inputs_reach(seed: int) -> None:
    content, shape, parts = drawn_branches(seed, *("Max", "Min") * (seed % 2))
    network = specnorm_check.Network(content, list(shape))
    proven = [proven_part(network, part) for part in parts]
    truth = Fraction(reached(content, shape, 12)) * (1 - CLOSE)
    assert proven_by(network, [part for part, _, _ in proven], [h for _, h, _ in proven]) >= truth
