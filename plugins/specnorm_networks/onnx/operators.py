"""The table of ONNX's operators: the oldest operator set that is known of each, and what makes its class."""

from __future__ import annotations

from specnorm_networks.certified import operators as ops
from specnorm_networks.onnx import constants, elementwise, layers, moves, pooling
from specnorm_networks.onnx.elementwise import compare, function
from specnorm_networks.onnx.nodes import Known

_FUNCTIONS: dict[int, dict[str, type[ops.Operator]]] = {
    1: {"Softplus": ops.Softplus, "Softsign": ops.Softsign},
    6: {
        "Relu": ops.ReLU, "Sigmoid": ops.Sigmoid, "Tanh": ops.Tanh, "Exp": ops.Exp, "Log": ops.Log,
        "Reciprocal": ops.Reciprocal, "Abs": ops.Abs, "Neg": ops.Negative, "Sqrt": ops.Sqrt,
    },
    7: {"Sin": ops.Sin, "Cos": ops.Cos, "Atan": ops.Arctan},
    9: {"Sign": ops.Sign, "Erf": ops.Erf},
    14: {"HardSwish": ops.HardSwish, "Mish": ops.Mish},
}  # fmt: skip
"""Functions of each entry without arguments, by the first operator set that is known."""

OPERATORS: dict[str, Known] = {
    "Conv": Known(1, layers.convolution),
    "ConvTranspose": Known(1, layers.convolution),
    "MatMul": Known(1, layers.matmul),
    "Gemm": Known(7, layers.gemm),
    "Einsum": Known(12, layers.einsum),
    "BatchNormalization": Known(7, layers.batch_norm, ("momentum",)),
    "MaxPool": Known(1, pooling.pool, ("storage_order",)),
    "AveragePool": Known(1, pooling.pool),
    "GlobalAveragePool": Known(1, pooling.over_everything(ops.Mean)),
    "GlobalMaxPool": Known(1, pooling.over_everything(ops.Largest)),
    "ReduceMean": Known(1, pooling.reduce(ops.Mean)),
    "ReduceSum": Known(1, pooling.reduce(ops.Sum)),
    "ReduceMax": Known(1, pooling.reduce(ops.Largest)),
    "ReduceMin": Known(1, pooling.reduce(ops.Smallest)),
    "ReduceL2": Known(1, pooling.reduce(ops.Norm)),
    "Resize": Known(10, pooling.resize, ("roi", "extrapolation_value", "cubic_coeff_a")),
    "Upsample": Known(7, pooling.resize),
    "Pad": Known(2, pooling.pad),
    **{name: Known(at, function(make)) for at, some in _FUNCTIONS.items() for name, make in some.items()},
    "LeakyRelu": Known(6, function(ops.LeakyReLU, "alpha")),
    "Elu": Known(6, function(ops.ELU, "alpha")),
    "Celu": Known(12, elementwise.celu),
    "Selu": Known(6, function(lambda alpha, gamma: ops.Multiple(ops.ELU(alpha), gamma), "alpha", "gamma")),
    "Swish": Known(24, elementwise.swish),
    "HardSigmoid": Known(6, elementwise.hard_sigmoid),
    "Shrink": Known(9, elementwise.shrink),
    "Clip": Known(6, elementwise.clip),
    "Gelu": Known(20, elementwise.gelu),
    "PRelu": Known(7, elementwise.prelu),
    "Pow": Known(7, elementwise.power),
    "Add": Known(7, elementwise.total),
    "Sub": Known(7, elementwise.total),
    "Mul": Known(7, elementwise.multiply),
    "Div": Known(7, elementwise.divide),
    "Sum": Known(6, elementwise.total),
    "Mean": Known(6, elementwise.total),
    "Max": Known(6, elementwise.extreme),
    "Min": Known(6, elementwise.extreme),
    "Where": Known(9, elementwise.where),
    "Greater": Known(7, compare("gt")),
    "GreaterOrEqual": Known(12, compare("ge")),
    "Less": Known(7, compare("lt")),
    "LessOrEqual": Known(12, compare("le")),
    "LayerNormalization": Known(17, layers.layer_norm, ("stash_type",)),
    "RMSNormalization": Known(23, layers.layer_norm, ("stash_type",)),
    "InstanceNormalization": Known(6, layers.instance_norm),
    "GroupNormalization": Known(18, layers.group_norm, ("stash_type",)),
    "LpNormalization": Known(1, layers.length_norm),
    "Softmax": Known(1, elementwise.softmax),
    "LogSoftmax": Known(1, elementwise.softmax),
    "Reshape": Known(5, moves.reshape),
    "Transpose": Known(1, moves.transpose),
    "Flatten": Known(1, moves.flatten),
    "Squeeze": Known(1, moves.squeeze),
    "Unsqueeze": Known(1, moves.unsqueeze),
    "Identity": Known(1, moves.identity),
    "Dropout": Known(7, moves.dropout, ("ratio", "seed")),
    "Cast": Known(6, moves.cast, ("saturate", "round_mode")),
    "Slice": Known(1, moves.slice_of),
    "Split": Known(2, moves.split),
    "Concat": Known(4, moves.concat),
    "Gather": Known(1, moves.gather),
    "GatherElements": Known(11, moves.gather_elements),
    "GatherND": Known(11, moves.gather_nd),
    "ScatterElements": Known(11, moves.scatter_elements),
    "ScatterND": Known(11, moves.scatter_nd),
    "Trilu": Known(14, moves.triangle),
    "TopK": Known(10, moves.top),
    "Expand": Known(8, moves.expand),
    "Tile": Known(6, moves.tile),
    "DepthToSpace": Known(1, moves.blocks),
    "SpaceToDepth": Known(1, moves.blocks),
    "Constant": Known(1, constants.constant),
    "ConstantOfShape": Known(9, constants.filled),
    "Shape": Known(1, constants.shape_of),
    "Size": Known(1, constants.shape_of),
    # Of constants alone.
    **dict.fromkeys(("Equal", "And", "Or", "Xor"), Known(7, None)),
    **dict.fromkeys(("Floor", "Ceil"), Known(6, None)),
    **dict.fromkeys(("Not", "ReduceProd"), Known(1, None)),
    **dict.fromkeys(("DequantizeLinear", "Mod"), Known(10, None)),
    "Range": Known(11, None, ("stash_type",)),
}
"""Operator -> what is known of it. Everything else is unknown."""
RANDOM = frozenset(
    ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
)
