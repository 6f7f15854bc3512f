"""Errors in builders of ONNX operators, each with a network for which it matters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from networks.compositions.planting import (
    Planted,
    argument,
    fields,
    inputs,
    onnx_graph,
    onnx_rule,
    operator,
    rearranged,
    remade,
)
from onnx import helper
from specnorm_networks.certified import operators as ops

N = helper.make_node
R = onnx_rule
RNG = np.random.default_rng(3)


def numbers(*shape: int) -> Any:
    return RNG.standard_normal(shape)


def one(
    op: str,
    shape: tuple[int, ...] = (1, 4),
    opset: int = 18,
    more: dict[str, Any] | None = None,
    **given: Any,
) -> Any:
    """A network of one operator: the input first, then constants."""
    constants = more or {}
    return onnx_graph([N(op, ["x", *constants], ["y"], **given)], shape, constants, opset)


W = numbers(4, 4)
IMAGE = (1, 2, 5, 5)
KERNEL = numbers(2, 2, 3, 2)
CONV = {"w": KERNEL, "b": numbers(2)}


def conv(**given: Any) -> Any:
    return one("Conv", IMAGE, more=CONV, **given)


def reversed_kernel(old: Any) -> Any:
    load = old.layer.load
    return replace(old, layer=replace(old.layer, load=lambda: np.asarray(load())[:, :, ::-1]))


def next_group(old: Any) -> Any:
    load = old.layer.load
    return replace(old, layer=replace(old.layer, load=lambda: np.asarray(load())[::-1]))


STATISTICS = {"s": numbers(2), "b": numbers(2), "m": numbers(2), "v": abs(numbers(2)) + 0.1}
SPLIT = onnx_graph(
    [N("Split", ["x"], ["a", "b"], axis=1, num_outputs=2), N("Sub", ["a", "b"], ["y"])], (1, 4)
)  # fmt: skip
CHOSEN = onnx_graph(
    [N("Greater", ["x", "0"], ["c"]), N("Mul", ["x", "2"], ["d"]), N("Where", ["c", "x", "d"], ["y"])], (1, 4),
    {"0": np.array(0.0), "2": np.array(2.0)},
)  # fmt: skip
MASKED = onnx_graph(
    [N("Where", ["m", "x", "c"], ["y"])], (1, 4), {"m": np.array([[True, False, True, True]]), "c": W[:1]}
)
PAD = {"p": np.array([0, 0, 0, 0, 0, 2])}
BLOCKS = one("DepthToSpace", (1, 8, 2, 2), blocksize=2, mode="CRD")
PIXELS = one("SpaceToDepth", (1, 2, 4, 4), blocksize=2)
ASYMMETRIC = {"coordinate_transformation_mode": "asymmetric"}
HALF = {"empty": np.zeros(0, np.float32), "s": np.array([1.0, 1.0, 2.5], np.float32)}


def resized(**given: Any) -> Any:
    return onnx_graph([N("Resize", ["x", "", "s"], ["y"], **given)], (1, 1, 4), {"s": HALF["s"]})


FUNCTIONS = [
    Planted("Elu as LeakyReLU", one("Elu"), operator(R, "Elu", lambda _: ops.LeakyReLU(1.0))),
    Planted("alpha of Elu ignored", one("Elu", alpha=2.0), argument(R, "Elu", alpha=1.0)),
    Planted("gamma of Selu ignored", one("Selu", gamma=0.5), argument(R, "Selu", gamma=1.05)),
    Planted("alpha of LeakyRelu ignored", one("LeakyRelu", alpha=0.5), argument(R, "LeakyRelu", alpha=0.01)),
    Planted("Celu as Elu", one("Celu", alpha=2.0), operator(R, "Celu", lambda old: ops.ELU(old.outer))),
    Planted("beta of HardSigmoid ignored", one("HardSigmoid", beta=0.2), argument(R, "HardSigmoid", beta=0.5)),
    Planted("Gelu by tanh", one("Gelu", opset=20), argument(R, "Gelu", approximate="tanh")),
    Planted("Sigmoid as Tanh", one("Sigmoid"), operator(R, "Sigmoid", lambda _: ops.Tanh())),
    Planted("larger limit of Clip lost", one("Clip", more={"a": np.array(-1.0), "b": np.array(0.5)}),
            argument(R, "Clip", max=None)),
    Planted("first slope of PRelu for all", one("PRelu", more={"s": np.array([[0.1, 2.0, -1.0, 0.5]])}),
            fields(R, "PRelu", slopes_below=lambda s: s[:, :1])),
    Planted("exponent of Pow", one("Pow", more={"e": np.array(3.0)}), operator(R, "Pow", lambda _: ops.Power(2)),
            box=(-1.0, 1.0)),
    Planted("Softmax along the next axis", one("Softmax", (1, 2, 3), axis=1), fields(R, "Softmax", axes=(2,))),
    Planted("a comparison turned", CHOSEN, fields(R, "Greater", kind="lt")),
]  # fmt: skip
JOINS = [
    Planted("Max as Min", one("Max", more={"c": W[:1]}), operator(R, "Max", lambda _: ops.Minimum())),
    Planted("Sub as Add", one("Sub", more={"c": W[:1]}), fields(R, "Sub", weights=(1.0, 1.0))),
    Planted("a constant of Sum lost", one("Sum", more={"c": W[:1]}),
            rearranged(R, "Sum", 0)),
    Planted("a constant of Max lost", one("Max", more={"c": W[:1]}),
            rearranged(R, "Max", 0)),
    Planted("Mean as Sum", one("Mean", more={"c": W[:1]}), fields(R, "Mean", values=np.ones(()))),
    Planted("first factor of Mul for all", one("Mul", more={"c": W[:1]}), fields(R, "Mul", values=lambda v: v[:, :1])),
    Planted("a divisor as a factor", one("Div", more={"c": W[:1]}), fields(R, "Div", values=lambda v: 1 / v)),
    Planted("the number of a quotient lost", onnx_graph([N("Exp", ["x"], ["e"]), N("Div", ["c", "e"], ["y"])], (1, 4),
            {"c": np.array(3.0)}), fields(R, "Div", scale=1.0), box=(-1.0, 1.0)),
    Planted("Where the other way round", MASKED, inputs(R, "Where", lambda pair: pair[::-1])),
]  # fmt: skip
LAYERS = [
    Planted("transB ignored", one("Gemm", more={"w": W}, transB=1), argument(R, "Gemm", transB=0)),
    Planted("alpha of Gemm lost", one("Gemm", more={"w": W}, alpha=3.0), argument(R, "Gemm", alpha=1.0)),
    Planted("beta of Gemm lost", one("Gemm", more={"w": W, "c": W[0]}, beta=2.0), argument(R, "Gemm", beta=1.0)),
    Planted("C of Gemm lost", one("Gemm", more={"w": W, "c": W[0]}), fields(R, "Gemm", bias=None)),
    Planted("MatMul from the other side", onnx_graph([N("MatMul", ["x", "w"], ["y"])], (4, 4), {"w": W}),
            fields(R, "MatMul", side="left")),
    Planted("strides of Conv ignored", conv(strides=[2, 1]), argument(R, "Conv", strides=None)),
    Planted("dilations of Conv ignored", conv(dilations=[1, 2], pads=[0, 0, 0, 1]),
            argument(R, "Conv", dilations=None, pads=None)),
    Planted("pads of Conv exchanged", conv(pads=[1, 0, 0, 1]), argument(R, "Conv", pads=lambda p: p[2:] + p[:2])),
    Planted("SAME_LOWER as SAME_UPPER", conv(auto_pad="SAME_LOWER"), argument(R, "Conv", auto_pad="SAME_UPPER")),
    Planted("bias of Conv lost", conv(), fields(R, "Conv", bias=None)),
    Planted("a kernel turned round", conv(), operator(R, "Conv", reversed_kernel)),
    Planted("groups ignored", one("Conv", (1, 4, 5), more={"w": numbers(4, 2, 2)}, group=2),
            argument(R, "Conv", group=1)),
    Planted("a kernel of another group", one("Conv", (1, 2, 5), more={"w": numbers(2, 1, 2)}, group=2),
            operator(R, "Conv", next_group)),
    Planted("output_padding ignored", one("ConvTranspose", IMAGE, more=CONV, strides=[2, 2], output_padding=[1, 0]),
            argument(R, "ConvTranspose", output_padding=None)),
    Planted("epsilon of BatchNormalization dropped", one("BatchNormalization", (1, 2, 3), more=STATISTICS, epsilon=0.5),
            argument(R, "BatchNormalization", epsilon=0.0)),
    Planted("mean and bias exchanged", one("BatchNormalization", (1, 2, 3), more=STATISTICS),
            rearranged(R, "BatchNormalization", 0, 1, 3, 2, 4)),
]  # fmt: skip
MOVES = [
    Planted("a permutation inverted", one("Transpose", (1, 2, 3), perm=[1, 2, 0]),
            argument(R, "Transpose", perm=(2, 0, 1))),
    Planted("a permutation of equal axes inverted", one("Transpose", (2, 2, 2), perm=[1, 2, 0]),
            fields(R, "Transpose", axes=(2, 0, 1))),
    Planted("a slice starts late", one("Slice", more={"s": np.array([0]), "e": np.array([3]), "a": np.array([1])}),
            fields(R, "Slice", parts=((1, 1, 4, 1),))),
    Planted("a step turned", one("Slice", more={"s": np.array([3]), "e": np.array([-9]), "a": np.array([1]),
            "t": np.array([-1])}), fields(R, "Slice", parts=((1, None, None, 1),))),
    Planted("pieces exchanged", SPLIT, R("Split", lambda build: remade(build, lambda made: made[::-1]))),
    Planted("Concat along the next axis", onnx_graph([N("Concat", ["x", "x"], ["y"], axis=1)], (1, 2, 2)),
            fields(R, "Concat", axis=2)),
    Planted("an index late", one("Gather", more={"i": np.array([0, 2])}, axis=1),
            fields(R, "Gather", index=lambda i: i + 1)),
    Planted("CRD as DCR", BLOCKS, argument(R, "DepthToSpace", mode="DCR")),
    Planted("DCR as CRD", PIXELS, argument(R, "SpaceToDepth", mode="CRD")),
    Planted("a constant of Concat lost", onnx_graph([N("Concat", ["x", "c"], ["y"], axis=1)], (1, 4), {"c": W[:1]}),
            inputs(R, "Concat", lambda some: some[:1])),
    Planted("zeros for reflections", one("Pad", (1, 1, 4), more=PAD, mode="reflect"),
            argument(R, "Pad", mode="constant")),
    Planted("edges for reflections", one("Pad", (1, 1, 4), more=PAD, mode="reflect"),
            argument(R, "Pad", mode="edge")),
    Planted("the padding's value lost", one("Pad", (1, 1, 4), more=PAD | {"v": np.array(2.0)}),
            fields(R, "Pad", value=0.0)),
    Planted("padding on the other side", one("Pad", (1, 1, 4), more=PAD), fields(R, "Pad", pads=((2, 0),))),
    Planted("Tile along the next axis", one("Tile", (1, 2, 2), more={"r": np.array([1, 1, 2])}),
            fields(R, "Tile", counts=(1, 2, 1))),
]  # fmt: skip
WINDOWS = [
    Planted("count_include_pad ignored", one("AveragePool", IMAGE, kernel_shape=[2, 2], pads=[1, 1, 0, 0],
            count_include_pad=1), argument(R, "AveragePool", count_include_pad=0)),
    Planted("ceil_mode ignored", one("MaxPool", (1, 1, 5), kernel_shape=[2], strides=[2], ceil_mode=1),
            argument(R, "MaxPool", ceil_mode=0)),
    Planted("a maximum as an average", one("MaxPool", IMAGE, kernel_shape=[2, 2]),
            operator(R, "MaxPool", lambda old: ops.AveragePool(old.windows))),
    Planted("coordinates ignored", resized(mode="linear", **ASYMMETRIC),
            argument(R, "Resize", coordinate_transformation_mode="half_pixel")),
    Planted("linear as nearest", resized(mode="linear"), argument(R, "Resize", mode="nearest")),
    Planted("a reduction along the next axis", one("ReduceSum", (1, 2, 2), more={"a": np.array([1])}),
            fields(R, "ReduceSum", axes=(2,))),
    Planted("a sum as a mean", one("ReduceSum", (1, 4)),
            operator(R, "ReduceSum", lambda old: ops.Mean(old.axes, old.keep))),
    Planted("a largest as a smallest", one("ReduceMax", (1, 4)),
            operator(R, "ReduceMax", lambda old: ops.Smallest(old.axes, old.keep))),
    Planted("channels averaged, too", one("GlobalAveragePool", (1, 2, 3)), fields(R, "GlobalAveragePool", axes=(1, 2))),
]  # fmt: skip
PLANTED = [*FUNCTIONS, *JOINS, *LAYERS, *MOVES, *WINDOWS]
