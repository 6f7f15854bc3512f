"""The table of ONNX's operators: each in the words of `specnorm.networks.rules`, with the shape of its result."""

from __future__ import annotations

from specnorm.auditing.readers.onnx import constants, entries, layers, moves, windows
from specnorm.auditing.readers.onnx.calls import Data, Operator, one


def _or_folded(operator: Operator) -> Operator:
    """Fold if no input is data."""
    return lambda call: operator(call) if any(isinstance(v, Data) for v in call.inputs) else constants.folded(call)


def _same_shape(rule: str) -> Operator:
    return lambda call: one(call, rule, call.data().shape)


OPERATORS: dict[str, Operator] = {
    "Conv": layers.convolution,
    "ConvTranspose": layers.convolution,
    "MatMul": layers.matmul,
    "Gemm": layers.gemm,
    "BatchNormalization": layers.batch_norm,
    "MaxPool": windows.pool,
    "AveragePool": windows.pool,
    "GlobalAveragePool": windows.over_everything("mean"),
    "GlobalMaxPool": windows.over_everything("length"),
    "ReduceMean": windows.reduce("mean"),
    "ReduceSum": windows.reduce("sum"),
    "ReduceMax": windows.reduce("length"),
    "ReduceMin": windows.reduce("length"),
    "ReduceL2": windows.reduce("length"),
    "Resize": windows.resize,
    "Upsample": windows.resize,
    "Pad": windows.pad,
    "Relu": entries.function("relu"),
    "LeakyRelu": entries.function("leaky", 0.01),
    "Elu": entries.function("leaky", 1.0),
    "Celu": entries.function("celu", 1.0),
    "Sigmoid": entries.function("sigmoid"),
    "Tanh": entries.function("tanh"),
    "Softplus": entries.function("softplus"),
    "Softsign": entries.function("softsign"),
    "HardSigmoid": entries.function("linear", 0.2),
    "HardSwish": entries.function("hard_swish"),
    "Mish": entries.function("mish"),
    "Swish": entries.function("silu"),
    "Erf": entries.function("erf"),
    "Abs": entries.function("abs"),
    "Neg": entries.function("negative"),
    "Sin": entries.function("sin"),
    "Cos": entries.function("cos"),
    "Atan": entries.function("arctan"),
    "Clip": entries.clip,
    "Selu": entries.selu,
    "Gelu": entries.gelu,
    "PRelu": entries.prelu,
    "Add": _or_folded(entries.add),
    "Sub": _or_folded(entries.add),
    "Sum": entries.add,
    "Mean": entries.add,
    "Mul": _or_folded(entries.multiply),
    "Div": _or_folded(entries.divide),
    "Max": entries.extreme,
    "Min": entries.extreme,
    "Where": entries.where,
    "Softmax": _same_shape("softmax"),
    "LogSoftmax": entries.log_softmax,
    "Reshape": moves.reshape,
    "Transpose": moves.transpose,
    "Flatten": moves.flatten,
    "Squeeze": moves.squeeze,
    "Unsqueeze": moves.squeeze,
    "Identity": moves.identity,
    "Dropout": moves.identity,
    "Cast": moves.cast,
    "DequantizeLinear": moves.dequantize,
    "Slice": moves.slice_of,
    "Split": moves.split,
    "Concat": moves.concat,
    "Gather": moves.gather,
    "Expand": moves.expand,
    "Tile": moves.tile,
    "DepthToSpace": moves.blocks,
    "SpaceToDepth": moves.blocks,
    "Constant": constants.constant,
    "ConstantOfShape": constants.filled,
    "Shape": constants.shape_of,
}
"""Operator -> translation. Everything else is unknown."""
