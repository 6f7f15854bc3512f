"""The table of ONNX's operators: each in the words of `specnorm.networks.rules`, with the shape of its result."""

from __future__ import annotations

from specnorm.auditing.readers.onnx import constants, elementwise, layers, pooling, shape_ops
from specnorm.auditing.readers.onnx.calls import Data, Operator, one
from specnorm.auditing.readers.onnx.folding import FOLDS, folded


def _or_folded(operator: Operator) -> Operator:
    """Fold if no input is data."""
    return lambda call: operator(call) if any(isinstance(v, Data) for v in call.inputs) else folded(call)


def _same_shape(rule: str) -> Operator:
    return lambda call: one(call, rule, call.data().shape)


_MOVING: dict[str, Operator] = {
    "Conv": layers.convolution,
    "ConvTranspose": layers.convolution,
    "MatMul": layers.matmul,
    "Gemm": layers.gemm,
    "BatchNormalization": layers.batch_norm,
    "MaxPool": pooling.pool,
    "AveragePool": pooling.pool,
    "LpPool": pooling.pool,
    "GlobalAveragePool": pooling.over_everything("mean"),
    "GlobalLpPool": pooling.over_everything("length"),
    "GlobalMaxPool": pooling.over_everything("length"),
    "ReduceMean": pooling.reduce("mean"),
    "ReduceSum": pooling.reduce("sum"),
    "ReduceMax": pooling.reduce("length"),
    "ReduceMin": pooling.reduce("length"),
    "ReduceL2": pooling.reduce("length"),
    "Resize": pooling.resize,
    "Upsample": pooling.resize,
    "Pad": pooling.pad,
    "Relu": elementwise.function("relu"),
    "LeakyRelu": elementwise.function("leaky", 0.01),
    "Elu": elementwise.function("elu", 1.0),
    "Celu": elementwise.function("celu", 1.0),
    "Sigmoid": elementwise.function("sigmoid"),
    "Tanh": elementwise.function("tanh"),
    "Softplus": elementwise.function("softplus"),
    "Softsign": elementwise.function("softsign"),
    "HardSigmoid": elementwise.function("linear", 0.2),
    "HardSwish": elementwise.function("hard_swish"),
    "Mish": elementwise.function("mish"),
    "Swish": elementwise.swish,
    "Erf": elementwise.function("erf"),
    "Abs": elementwise.function("abs"),
    "Neg": elementwise.function("negative"),
    "Sin": elementwise.function("sin"),
    "Cos": elementwise.function("cos"),
    "Atan": elementwise.function("arctan"),
    "Exp": elementwise.steep("exp"),
    "Log": elementwise.steep("log"),
    "Sqrt": elementwise.steep("sqrt"),
    "Reciprocal": elementwise.steep("reciprocal"),
    "Pow": elementwise.power,
    "Clip": elementwise.clip,
    "Selu": elementwise.selu,
    "Gelu": elementwise.gelu,
    "PRelu": elementwise.prelu,
    "Add": elementwise.add,
    "Sub": elementwise.add,
    "Sum": elementwise.add,
    "Mean": elementwise.add,
    "Mul": elementwise.multiply,
    "Div": elementwise.divide,
    "Max": elementwise.extreme,
    "Min": elementwise.extreme,
    "Where": elementwise.where,
    "Softmax": _same_shape("softmax"),
    "LogSoftmax": elementwise.log_softmax,
    "Reshape": shape_ops.reshape,
    "Transpose": shape_ops.transpose,
    "Flatten": shape_ops.flatten,
    "Squeeze": shape_ops.squeeze,
    "Unsqueeze": shape_ops.squeeze,
    "Identity": shape_ops.identity,
    "Dropout": shape_ops.identity,
    "Cast": shape_ops.cast,
    "DequantizeLinear": shape_ops.dequantize,
    "Slice": shape_ops.slice_of,
    "Split": shape_ops.split,
    "Concat": shape_ops.concat,
    "Gather": shape_ops.gather,
    "Expand": shape_ops.expand,
    "Tile": shape_ops.tile,
    "DepthToSpace": shape_ops.blocks,
    "SpaceToDepth": shape_ops.blocks,
    "Constant": constants.constant,
    "ConstantOfShape": constants.filled,
    "Shape": constants.shape_of,
    "Size": constants.size_of,
}
_OWN = ("Gather", "Concat", "Cast", "Slice")
"""Operators that fold by themselves: of large constants, too, or where one input is constant."""

OPERATORS: dict[str, Operator] = {
    **dict.fromkeys(FOLDS, folded),
    **{name: _or_folded(rule) if name in FOLDS and name not in _OWN else rule for name, rule in _MOVING.items()},
}
"""Operator -> translation. Everything else is unknown."""
