"""The table of ONNX's operators: the oldest operator set that is known of each, and the function that translates it."""

from __future__ import annotations

from specnorm_networks.certified import operators as ops
from specnorm_networks.onnx import constants, elementwise, layers, moves, pooling
from specnorm_networks.onnx.elementwise import compare, function
from specnorm_networks.onnx.nodes import OperatorRule

_FUNCTIONS: dict[int, dict[str, type[ops.Operator]]] = {
    1: {"Softplus": ops.Softplus, "Softsign": ops.Softsign},
    6: {
        "Relu": ops.ReLU,
        "Sigmoid": ops.Sigmoid,
        "Tanh": ops.Tanh,
        "Exp": ops.Exp,
        "Log": ops.Log,
        "Reciprocal": ops.Reciprocal,
        "Abs": ops.Abs,
        "Neg": ops.Negative,
        "Sqrt": ops.Sqrt,
        "Floor": ops.Floor,
    },
    7: {"Sin": ops.Sin, "Cos": ops.Cos, "Atan": ops.Arctan},
    9: {"Sign": ops.Sign, "Erf": ops.Erf},
}
"""Functions of each entry without arguments, by the oldest operator set that is known."""


def _rules_of_functions() -> dict[str, OperatorRule]:
    rules = {}
    for since, classes in _FUNCTIONS.items():
        for name, make in classes.items():
            rules[name] = OperatorRule(since, function(make))
    return rules


OPERATORS: dict[str, OperatorRule] = {
    "Conv": OperatorRule(1, layers.convolution),
    "ConvTranspose": OperatorRule(1, layers.convolution),
    "MatMul": OperatorRule(1, layers.matmul),
    "Gemm": OperatorRule(7, layers.gemm),
    "Einsum": OperatorRule(12, layers.einsum),
    "BatchNormalization": OperatorRule(7, layers.batch_norm, ("momentum",)),
    "MaxPool": OperatorRule(1, pooling.pool, ("storage_order",)),
    "AveragePool": OperatorRule(1, pooling.pool),
    "GlobalAveragePool": OperatorRule(1, pooling.over_everything(ops.Mean)),
    "GlobalMaxPool": OperatorRule(1, pooling.over_everything(ops.Largest)),
    "ReduceMean": OperatorRule(1, pooling.reduce(ops.Mean)),
    "ReduceSum": OperatorRule(1, pooling.reduce(ops.Sum)),
    "ReduceMax": OperatorRule(1, pooling.reduce(ops.Largest)),
    "ReduceMin": OperatorRule(1, pooling.reduce(ops.Smallest)),
    "ReduceL2": OperatorRule(1, pooling.reduce(ops.Norm)),
    "Resize": OperatorRule(10, pooling.resize, ("roi", "extrapolation_value", "cubic_coeff_a")),
    "Upsample": OperatorRule(7, pooling.resize),
    "Pad": OperatorRule(2, pooling.pad),
    **_rules_of_functions(),
    "LeakyRelu": OperatorRule(6, function(ops.LeakyReLU, "alpha")),
    "HardSwish": OperatorRule(14, elementwise.hard_swish),
    "Mish": OperatorRule(14, elementwise.mish),
    "Elu": OperatorRule(6, function(ops.ELU, "alpha")),
    "Celu": OperatorRule(12, elementwise.celu),
    "Selu": OperatorRule(6, elementwise.selu),
    "HardSigmoid": OperatorRule(6, elementwise.hard_sigmoid),
    "Clip": OperatorRule(6, elementwise.clip),
    "Gelu": OperatorRule(20, elementwise.gelu),
    "PRelu": OperatorRule(7, elementwise.prelu),
    "Pow": OperatorRule(7, elementwise.power),
    "Add": OperatorRule(7, elementwise.total),
    "Sub": OperatorRule(7, elementwise.total),
    "Mul": OperatorRule(7, elementwise.multiply),
    "Div": OperatorRule(7, elementwise.divide),
    "Sum": OperatorRule(6, elementwise.total),
    "Mean": OperatorRule(6, elementwise.total),
    "Max": OperatorRule(6, elementwise.extreme),
    "Min": OperatorRule(6, elementwise.extreme),
    "Where": OperatorRule(9, elementwise.where),
    "Greater": OperatorRule(7, compare("gt")),
    "GreaterOrEqual": OperatorRule(12, compare("ge")),
    "Less": OperatorRule(7, compare("lt")),
    "LessOrEqual": OperatorRule(12, compare("le")),
    "LayerNormalization": OperatorRule(17, layers.layer_norm, ("stash_type",)),
    "RMSNormalization": OperatorRule(23, layers.layer_norm, ("stash_type",)),
    "InstanceNormalization": OperatorRule(6, layers.instance_norm),
    "GroupNormalization": OperatorRule(18, layers.group_norm, ("stash_type",)),
    "LpNormalization": OperatorRule(1, layers.length_norm),
    "Softmax": OperatorRule(1, elementwise.softmax),
    "LogSoftmax": OperatorRule(1, elementwise.softmax),
    "Reshape": OperatorRule(5, moves.reshape),
    "Transpose": OperatorRule(1, moves.transpose),
    "Flatten": OperatorRule(1, moves.flatten),
    "Squeeze": OperatorRule(1, moves.squeeze),
    "Unsqueeze": OperatorRule(1, moves.unsqueeze),
    "Identity": OperatorRule(1, moves.identity),
    "Dropout": OperatorRule(7, moves.dropout, ("ratio", "seed")),
    "Cast": OperatorRule(6, moves.cast, ("saturate", "round_mode")),
    "Slice": OperatorRule(1, moves.slice_of),
    "Split": OperatorRule(2, moves.split),
    "Concat": OperatorRule(4, moves.concat),
    "Gather": OperatorRule(1, moves.gather),
    "GatherElements": OperatorRule(11, moves.gather_elements),
    "GatherND": OperatorRule(11, moves.gather_nd),
    "ScatterElements": OperatorRule(11, moves.scatter_elements),
    "ScatterND": OperatorRule(11, moves.scatter_nd),
    "Trilu": OperatorRule(14, moves.triangle),
    "TopK": OperatorRule(10, moves.top),
    "Expand": OperatorRule(8, moves.expand),
    "Tile": OperatorRule(6, moves.tile),
    "DepthToSpace": OperatorRule(1, moves.blocks),
    "Constant": OperatorRule(1, constants.constant),
    "ConstantOfShape": OperatorRule(9, constants.filled),
    "Shape": OperatorRule(1, constants.shape_of),
    "Size": OperatorRule(1, constants.shape_of),
    # These have rules for constants alone.
    **dict.fromkeys(("Equal", "And", "Or", "Xor"), OperatorRule(7, None)),
    "Ceil": OperatorRule(6, None),
    **dict.fromkeys(("Not", "ReduceProd"), OperatorRule(1, None)),
    **dict.fromkeys(("DequantizeLinear", "Mod"), OperatorRule(10, None)),
    "Range": OperatorRule(11, None, ("stash_type",)),
}
"""Rules by the names of operators. Other operators are unknown."""
RANDOM = frozenset(
    ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
)
