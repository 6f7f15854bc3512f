"""The operators of networks: one class each, with what it computes and what is known of it."""

from __future__ import annotations

from specnorm.certified.network.operators.base import LinearMap, NoBoundError, NotRunError, Operator, Place, Pointwise
from specnorm.certified.network.operators.gates import GELU, Mish, SiLU
from specnorm.certified.network.operators.joins import Choose, Compare, Maximum, Minimum, Product, Quotient, Sign, Where
from specnorm.certified.network.operators.layers import Convolution, Layer, Matrices, Matrix
from specnorm.certified.network.operators.linear import Add, Broadcast, Concat, Mean, Merge, Pad, Scale, Sum
from specnorm.certified.network.operators.moves import (
    Cast,
    Entries,
    Flatten,
    Gather,
    Identity,
    Permute,
    Reshape,
    SameOrder,
    Selection,
    Slice,
    Squeeze,
    Tile,
    TwoAxes,
    Unsqueeze,
)
from specnorm.certified.network.operators.multiples import Multiple
from specnorm.certified.network.operators.normalisation import Centre, Normalise
from specnorm.certified.network.operators.piecewise import (
    Abs,
    HardSigmoid,
    HardSwish,
    HardTanh,
    LeakyReLU,
    Negative,
    PReLU,
    ReLU,
    SoftShrink,
    Threshold,
    TwoSlopes,
)
from specnorm.certified.network.operators.reductions import Largest, LogSoftmax, Norm, Smallest, Softmax
from specnorm.certified.network.operators.resizing import Resize
from specnorm.certified.network.operators.smooth import (
    CELU,
    ELU,
    Arctan,
    Cos,
    Erf,
    LogSigmoid,
    Sigmoid,
    Sin,
    Softplus,
    Softsign,
    Tanh,
    TanhShrink,
)
from specnorm.certified.network.operators.sorting import GroupSort, Reflection, SignParts, Sort
from specnorm.certified.network.operators.sources import Constant, Held, Input, Random, Unknown
from specnorm.certified.network.operators.steep import Exp, Log, Power, Reciprocal, Rsqrt, Sqrt, Steep
from specnorm.certified.network.operators.windows import (
    AdaptiveAveragePool,
    AdaptiveMaxPool,
    AveragePool,
    L2Pool,
    MaxPool,
    Windows,
)

__all__ = [
    "CELU", "ELU", "GELU", "Abs", "AdaptiveAveragePool", "AdaptiveMaxPool", "Add", "Arctan", "AveragePool",
    "Broadcast", "Cast", "Centre", "Choose", "Compare", "Concat", "Constant", "Convolution",
    "Cos", "Entries", "Erf", "Exp", "Flatten", "Gather", "GroupSort", "HardSigmoid", "HardSwish", "HardTanh",
    "Held", "Identity", "Input", "L2Pool", "Largest", "Layer", "LeakyReLU", "LinearMap", "Log", "LogSigmoid",
    "LogSoftmax", "Matrices", "Matrix", "MaxPool", "Maximum", "Mean", "Merge", "Minimum", "Mish", "Multiple",
    "Negative", "NoBoundError", "Norm", "Normalise", "NotRunError", "Operator", "PReLU", "Pad", "Permute", "Place",
    "Pointwise", "Power", "Product", "Quotient", "Random", "ReLU", "Reciprocal", "Reflection", "Reshape",
    "Resize", "Rsqrt", "SameOrder", "Scale", "Selection", "SiLU", "Sigmoid", "Sign", "SignParts", "Sin", "Slice",
    "Smallest", "SoftShrink", "Softmax", "Softplus", "Softsign", "Sort", "Sqrt", "Squeeze", "Steep", "Sum", "Tanh",
    "TanhShrink", "Threshold", "Tile", "TwoAxes", "TwoSlopes", "Unknown", "Unsqueeze", "Where", "Windows",
]  # fmt: skip
