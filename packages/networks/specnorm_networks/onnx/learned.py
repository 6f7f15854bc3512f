"""Operators of ai.onnx.ml: scalers and linear models of scikit-learn, whose numbers are attributes."""

from __future__ import annotations

import numpy as np

from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.operators import NoBoundError
from specnorm_networks.certified.operators.base import ERROR_OF_OFFSETS, FloatArray
from specnorm_networks.onnx.binding import Numbers
from specnorm_networks.onnx.nodes import Call, Data, OperatorRule, Output, UnsizedError, entrywise, offset_of, shape_of

DOMAIN = "ai.onnx.ml"


def scaler(x: Data, /, *, offset: Numbers, scale: Numbers) -> Output:
    """Return ``(x - offset) scale``, with one number for each feature or one for all."""
    features = shape_of(x)[-1:]
    means, factors = np.asarray(offset), np.asarray(scale)
    if any(numbers.shape not in ((1,), features) or not np.all(np.isfinite(numbers)) for numbers in (means, factors)):
        raise NoBoundError(f"its offset and scale do not fit a value of shape {x.shape}, or are not finite")

    def shift() -> tuple[FloatArray, FloatArray]:
        product = -means * factors
        return product, abs(product) * ERROR_OF_OFFSETS

    return entrywise(ops.Scale(factors, shift, exact=True), x)


def linear_regressor(
    call: Call,
    x: Data,
    /,
    *,
    coefficients: Numbers,
    intercepts: Numbers | None,
    targets: int,
    post_transform: str,
) -> Output:
    """Return ``A x + b`` for each row x of a matrix."""
    if post_transform != "NONE":
        raise NoBoundError(f"post_transform={post_transform[:20]!r} of LinearRegressor is not supported")
    features = len(coefficients) // max(targets, 1)
    if targets < 1 or features * targets != len(coefficients) or len(intercepts or ()) not in (0, targets):
        raise NoBoundError(f"its {len(coefficients)} coefficients or its intercepts do not fit targets={targets}")
    matrix = call.fold(np.asarray(coefficients, np.float32).reshape(targets, features))
    bias = call.fold(np.asarray(intercepts, np.float32)) if intercepts else None
    layer = call.layer(matrix, {})
    if x.shape is None:
        raise UnsizedError
    if len(x.shape) != 2 or x.shape[1] != features:
        raise NoBoundError(f"its {features} coefficients of a target do not fit a value of shape {x.shape}")
    return Output(ops.Matrix(layer, offset_of(bias), 1.0, "right"), (x,), (x.shape[0], targets))


OPERATORS = {"Scaler": OperatorRule(1, scaler), "LinearRegressor": OperatorRule(1, linear_regressor)}
"""Rules by the names of operators."""
