"""The table of ONNX's operators: the oldest operator set that is known of each, and what makes its class."""

from __future__ import annotations

import numpy as np

from specnorm_networks.certified import operators as ops
from specnorm_networks.onnx import constants, elementwise, layers, moves, pooling
from specnorm_networks.onnx.elementwise import compare, function
from specnorm_networks.onnx.nodes import Builder, Known


def _known(since: int, build: Builder | None, ignored: str = "") -> Known:
    return Known(since, build, frozenset(ignored.split()))


_FUNCTIONS: dict[int, dict[str, type[ops.Operator]]] = {
    1: {"Softplus": ops.Softplus, "Softsign": ops.Softsign},
    6: {
        "Relu": ops.ReLU, "Sigmoid": ops.Sigmoid, "Tanh": ops.Tanh, "Exp": ops.Exp, "Log": ops.Log,
        "Reciprocal": ops.Reciprocal, "Abs": ops.Abs, "Sqrt": ops.Sqrt,
    },
    7: {"Sin": ops.Sin, "Cos": ops.Cos, "Atan": ops.Arctan},
    9: {"Sign": ops.Sign, "Erf": ops.Erf},
    14: {"HardSwish": ops.HardSwish, "Mish": ops.Mish},
}  # fmt: skip
"""Functions of each entry without arguments, by the first operator set that is known."""

OPERATORS: dict[str, Known] = {
    "Conv": _known(1, layers.convolution),
    "ConvTranspose": _known(1, layers.convolution),
    "MatMul": _known(1, layers.matmul),
    "Gemm": _known(7, layers.gemm),
    "Einsum": _known(12, layers.einsum),
    "BatchNormalization": _known(7, layers.batch_norm, ignored="momentum"),
    "MaxPool": _known(1, pooling.pool, ignored="storage_order"),
    "AveragePool": _known(1, pooling.pool),
    "GlobalAveragePool": _known(1, pooling.over_everything(ops.Mean)),
    "GlobalMaxPool": _known(1, pooling.over_everything(ops.Largest)),
    "ReduceMean": _known(1, pooling.reduce(ops.Mean)),
    "ReduceSum": _known(1, pooling.reduce(ops.Sum)),
    "ReduceMax": _known(1, pooling.reduce(ops.Largest)),
    "ReduceMin": _known(1, pooling.reduce(ops.Smallest)),
    "ReduceL2": _known(1, pooling.reduce(ops.Norm)),
    "Resize": _known(10, pooling.resize, ignored="roi extrapolation_value cubic_coeff_a"),
    "Upsample": _known(7, pooling.resize),
    "Pad": _known(2, pooling.pad),
    **{name: _known(at, function(make)) for at, some in _FUNCTIONS.items() for name, make in some.items()},
    "Neg": _known(6, function(lambda: ops.Scale(np.array(-1.0), exact=True))),
    "LeakyRelu": _known(6, function(ops.LeakyReLU, "alpha")),
    "Elu": _known(6, function(ops.ELU, "alpha")),
    "Celu": _known(12, elementwise.celu),
    "Selu": _known(6, function(lambda alpha, gamma: ops.Multiple(ops.ELU(alpha), gamma), "alpha", "gamma")),
    "Swish": _known(24, elementwise.swish),
    "HardSigmoid": _known(6, elementwise.hard_sigmoid),
    "Shrink": _known(9, elementwise.shrink),
    "Clip": _known(6, elementwise.clip),
    "Gelu": _known(20, elementwise.gelu),
    "PRelu": _known(7, elementwise.prelu),
    "Pow": _known(7, elementwise.power),
    "Add": _known(7, elementwise.total),
    "Sub": _known(7, elementwise.total),
    "Mul": _known(7, elementwise.multiply),
    "Div": _known(7, elementwise.divide),
    "Sum": _known(6, elementwise.total),
    "Mean": _known(6, elementwise.total),
    "Max": _known(6, elementwise.extreme),
    "Min": _known(6, elementwise.extreme),
    "Where": _known(9, elementwise.where),
    "Greater": _known(7, compare("gt")),
    "GreaterOrEqual": _known(12, compare("ge")),
    "Less": _known(7, compare("lt")),
    "LessOrEqual": _known(12, compare("le")),
    "LayerNormalization": _known(17, layers.layer_norm, ignored="stash_type"),
    "RMSNormalization": _known(23, layers.layer_norm, ignored="stash_type"),
    "InstanceNormalization": _known(6, layers.instance_norm),
    "GroupNormalization": _known(18, layers.group_norm, ignored="stash_type"),
    "LpNormalization": _known(1, layers.length_norm),
    "Softmax": _known(1, elementwise.softmax),
    "LogSoftmax": _known(1, elementwise.softmax),
    "Reshape": _known(5, moves.reshape),
    "Transpose": _known(1, moves.transpose),
    "Flatten": _known(1, moves.flatten),
    "Squeeze": _known(1, moves.squeeze),
    "Unsqueeze": _known(1, moves.unsqueeze),
    "Identity": _known(1, moves.identity),
    "Dropout": _known(7, moves.dropout, ignored="ratio seed"),
    "Cast": _known(6, moves.cast, ignored="saturate round_mode"),
    "Slice": _known(1, moves.slice_of),
    "Split": _known(2, moves.split),
    "Concat": _known(4, moves.concat),
    "Gather": _known(1, moves.gather),
    "GatherElements": _known(11, moves.gather_elements),
    "GatherND": _known(11, moves.gather_nd),
    "ScatterElements": _known(11, moves.scatter_elements),
    "ScatterND": _known(11, moves.scatter_nd),
    "Trilu": _known(14, moves.triangle),
    "TopK": _known(10, moves.top),
    "Expand": _known(8, moves.expand),
    "Tile": _known(6, moves.tile),
    "DepthToSpace": _known(1, moves.blocks),
    "SpaceToDepth": _known(1, moves.blocks),
    "Constant": _known(1, constants.constant),
    "ConstantOfShape": _known(9, constants.filled),
    "Shape": _known(1, constants.shape_of),
    "Size": _known(1, constants.shape_of),
    # Of constants alone.
    **dict.fromkeys(("Equal", "And", "Or", "Xor"), _known(7, None)),
    **dict.fromkeys(("Floor", "Ceil"), _known(6, None)),
    **dict.fromkeys(("Not", "ReduceProd"), _known(1, None)),
    **dict.fromkeys(("DequantizeLinear", "Mod"), _known(10, None)),
    "Range": _known(11, None, ignored="stash_type"),
}
"""Operator -> what is known of it. Everything else is unknown."""
RANDOM = frozenset(
    ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
)
