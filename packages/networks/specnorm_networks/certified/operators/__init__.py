"""The operators of networks: one class each, with what it computes and what is known of it."""

from __future__ import annotations

from specnorm_networks.certified.operators.attention import Attention, InnerProduct, MatrixProduct
from specnorm_networks.certified.operators.base import (
    Affine,
    Function,
    Known,
    LinearMap,
    NoBoundError,
    NotRunError,
    Operator,
    Place,
)
from specnorm_networks.certified.operators.joins import (
    Choose,
    Compare,
    LogAddExp,
    Maximum,
    Minimum,
    Product,
    Quotient,
    Sign,
)
from specnorm_networks.certified.operators.layers import Convolution, Layer, Matrices, Matrix
from specnorm_networks.certified.operators.linear import (
    Add,
    AddedUp,
    Broadcast,
    Concat,
    CumulativeSum,
    Mean,
    Merge,
    Pad,
    Scale,
    Sum,
    Where,
)
from specnorm_networks.certified.operators.moves import (
    Entries,
    Gather,
    Identity,
    Permute,
    Reshape,
    SameOrder,
    Slice,
    Tile,
    Unsqueeze,
)
from specnorm_networks.certified.operators.normalisation import Centre, Normalise
from specnorm_networks.certified.operators.piecewise import Abs, HardTanh, LeakyReLU, Negative, ReLU
from specnorm_networks.certified.operators.reductions import Largest, LogSoftmax, LogSumExp, Norm, Smallest, Softmax
from specnorm_networks.certified.operators.resizing import Resize
from specnorm_networks.certified.operators.sampling import FourierTransform, Sample
from specnorm_networks.certified.operators.smooth import (
    ELU,
    Arcsinh,
    Arctan,
    Cos,
    Erf,
    Sigmoid,
    Sin,
    Softplus,
    Softsign,
    Tanh,
)
from specnorm_networks.certified.operators.sorting import GroupSort, Reflection, Sort
from specnorm_networks.certified.operators.sources import Constant, Held, Input, Random, Unknown
from specnorm_networks.certified.operators.splines import Floor, LinearSpline, Lookup, Truncated
from specnorm_networks.certified.operators.steep import Exp, Log, Power, Reciprocal, Sqrt, Steep
from specnorm_networks.certified.operators.windows import AveragePool, MaxPool, Windows

__all__ = [
    "ELU", "Abs", "Add", "AddedUp", "Affine", "Arcsinh", "Arctan", "Attention", "AveragePool",
    "Broadcast", "Centre", "Choose", "Compare", "Concat", "Constant", "Convolution",
    "Cos", "CumulativeSum", "Entries", "Erf", "Exp", "Floor", "FourierTransform", "Function", "Gather", "GroupSort",
    "HardTanh",
    "Held", "Identity", "InnerProduct", "Input", "Known", "Largest", "Layer", "LeakyReLU", "LinearMap", "LinearSpline",
    "Log", "LogAddExp", "LogSoftmax", "LogSumExp", "Lookup", "Matrices", "Matrix", "MatrixProduct", "MaxPool",
    "Maximum", "Mean", "Merge", "Minimum", "Negative", "NoBoundError", "Norm", "Normalise", "NotRunError", "Operator",
    "Pad", "Permute", "Place", "Power", "Product", "Quotient", "Random", "ReLU", "Reciprocal", "Reflection", "Reshape",
    "Resize", "SameOrder", "Sample", "Scale", "Sigmoid", "Sign", "Sin", "Slice",
    "Smallest", "Softmax", "Softplus", "Softsign", "Sort", "Sqrt", "Steep", "Sum", "Tanh",
    "Tile", "Truncated", "Unknown", "Unsqueeze", "Where", "Windows",
]  # fmt: skip
