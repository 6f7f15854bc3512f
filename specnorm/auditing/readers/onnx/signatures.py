"""What of ONNX's operators is known here: inputs, attributes, operator sets. Whatever else a node has is refused."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from specnorm.auditing.readers.onnx.calls import Data, Value

NEWEST = 28
"""The newest operator set that is known here."""

_AXES = (1, "*data axes", "axes keepdims noop_with_empty_axes")
_ACTIVATION = (6, "*X", "")
_CONVOLUTION = "auto_pad dilations group kernel_shape pads strides"

SIGNATURES: dict[str, tuple[int, str, str]] = {
    "Conv": (1, "*X W B", _CONVOLUTION),
    "ConvTranspose": (1, "*X W B", f"{_CONVOLUTION} output_padding output_shape"),
    "MatMul": (1, "*A *B", ""),
    "Gemm": (7, "*A *B C", "alpha beta transA transB"),
    "BatchNormalization": (7, "*X scale B input_mean input_var", "epsilon momentum training_mode spatial"),
    "MaxPool": (1, "*X", "auto_pad ceil_mode dilations kernel_shape pads storage_order strides"),
    "AveragePool": (1, "*X", "auto_pad ceil_mode count_include_pad dilations kernel_shape pads strides"),
    "LpPool": (2, "*X", "auto_pad ceil_mode dilations kernel_shape p pads strides"),
    "GlobalAveragePool": (1, "*X", ""),
    "GlobalLpPool": (2, "*X", "p"),
    "GlobalMaxPool": (1, "*X", ""),
    "ReduceMean": _AXES,
    "ReduceSum": _AXES,
    "ReduceMax": _AXES,
    "ReduceMin": _AXES,
    "ReduceL2": _AXES,
    "Resize": (
        10, "*X roi scales sizes",
        "antialias axes coordinate_transformation_mode exclude_outside keep_aspect_ratio_policy mode nearest_mode "
        "extrapolation_value cubic_coeff_a",
    ),
    "Upsample": (7, "*X scales", "mode scales"),
    "Pad": (2, "*data pads constant_value axes", "mode pads value"),
    **dict.fromkeys(("Relu", "Sigmoid", "Tanh", "Abs", "Neg"), _ACTIVATION),
    **dict.fromkeys(("Softplus", "Softsign"), (1, "*X", "")),
    **dict.fromkeys(("HardSwish", "Mish"), (14, "*X", "")),
    "Erf": (9, "*X", ""),
    **dict.fromkeys(("Sin", "Cos", "Atan"), (7, "*X", "")),
    **dict.fromkeys(("LeakyRelu", "Elu"), (6, "*X", "alpha")),
    "Celu": (12, "*X", "alpha"),
    "HardSigmoid": (6, "*X", "alpha beta"),
    "Swish": (24, "*X", "alpha"),
    "Clip": (6, "*input min max", "min max"),
    "Selu": (6, "*X", "alpha gamma"),
    "Gelu": (20, "*X", "approximate"),
    "PRelu": (7, "*X slope", ""),
    **dict.fromkeys(("Add", "Sub", "Mul"), (7, "*A *B", "")),
    "Div": (7, "*A *B", ""),
    **dict.fromkeys(("Sqrt", "Reciprocal"), _ACTIVATION),
    **dict.fromkeys(("Exp", "Log"), (6, "*input", "")),
    "Pow": (7, "*X Y", ""),
    **dict.fromkeys(("Sum", "Mean", "Max", "Min"), (6, "*data_0 ...", "")),
    "Where": (9, "condition *X *Y", ""),
    "Softmax": (1, "*input", "axis"),
    "LogSoftmax": (1, "*input", "axis"),
    "Reshape": (5, "*data shape", "allowzero"),
    "Transpose": (1, "*data", "perm"),
    "Flatten": (1, "*input", "axis"),
    "Squeeze": (1, "*data axes", "axes"),
    "Unsqueeze": (1, "*data axes", "axes"),
    "Identity": (1, "*input", ""),
    "Dropout": (7, "*data ratio training_mode", "seed ratio"),
    "Cast": (6, "*input", "to saturate round_mode"),
    "DequantizeLinear": (10, "x x_scale x_zero_point", "axis block_size output_dtype"),
    "Slice": (1, "*data starts ends axes steps", "axes ends starts"),
    "Split": (2, "*input split", "axis num_outputs split"),
    "Concat": (4, "*inputs ...", "axis"),
    "Gather": (1, "*data indices", "axis"),
    "Expand": (8, "*input shape", ""),
    "Tile": (6, "*input repeats", ""),
    "DepthToSpace": (1, "*input", "blocksize mode"),
    "SpaceToDepth": (1, "*input", "blocksize mode"),
    "Constant": (1, "", "value value_float value_floats value_int value_ints"),
    "ConstantOfShape": (9, "*input", "value"),
    "Shape": (1, "*data", "end start"),
    "Size": (1, "*data", ""),
    # Of constants alone.
    "Range": (11, "start limit delta", "stash_type"),
    **dict.fromkeys(("Equal", "Greater", "Less", "And", "Or", "Xor"), (7, "A B", "")),
    **dict.fromkeys(("GreaterOrEqual", "LessOrEqual"), (12, "A B", "")),
    "Not": (1, "X", ""),
    **dict.fromkeys(("Floor", "Ceil"), (6, "X", "")),
    "Mod": (10, "A B", "fmod"),
    "ReduceProd": (1, "data axes", "axes keepdims noop_with_empty_axes"),
}  # fmt: skip
"""Operator -> the first operator set whose meaning is known, its inputs and its attributes.

``*``: inputs that may move with the network's inputs; ``...``: any number of them.
"""
RANDOM = frozenset(
    ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
)


def refusal(operator: str, opset: int, inputs: Sequence[Value | None], attributes: Collection[str]) -> str | None:
    """Why a node is not known; None if it is."""
    since, words, known = SIGNATURES[operator]
    if not since <= opset <= NEWEST:
        return f"{operator} of operator set {opset} is not known here, only of {since} to {NEWEST}"
    strange = sorted(set(attributes) - set(known.split()))
    if strange:
        return f"the attribute {strange[0][:40]} of {operator} is not known here"
    places = words.split()
    if "..." in places:
        places = places[:1] * len(inputs)
    if len(inputs) > len(places):
        return f"{operator} has {len(inputs)} inputs; {len(places)} are known here"
    for place, value in zip(places, inputs, strict=False):
        if not place.startswith("*") and isinstance(value, Data) and not value.held:
            return f"the input {place} of {operator} depends on the network's input"
    return None
