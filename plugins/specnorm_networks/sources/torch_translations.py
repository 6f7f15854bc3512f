"""What the exporter writes of a few operators of torch, where its own words have no rule or are another function."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch


@cache
def table() -> dict[Any, Callable[..., Any]]:
    """Operators of torch, and what writes them."""
    from onnxscript import opset18 as op

    aten = torch.ops.aten

    def softplus(self: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
        # Beyond the threshold torch returns its input, which is nearer than float32's rounding.
        del threshold
        return op.Softplus(self) if beta == 1.0 else op.Div(op.Softplus(op.Mul(self, float(beta))), float(beta))

    def log_sigmoid(self: Any) -> Any:
        return op.Neg(op.Softplus(op.Neg(self)))

    def threshold(self: Any, threshold: float, value: float) -> Any:
        if threshold != value:
            raise NotImplementedError("a threshold that is not its value is a step")
        return op.Max(self, op.Constant(value_float=float(value))) if value else op.Relu(self)

    def average(
        self: Any, kernel_size: Any = (), stride: Any = (), padding: Any = (0, 0), ceil_mode: bool = False,
        count_include_pad: bool = True, divisor_override: int | None = None,
    ) -> Any:  # fmt: skip
        size, pads = tuple(kernel_size) * (2 // len(kernel_size)), tuple(padding) * (2 // len(padding))
        given = divisor_override is not None
        pool = op.AveragePool(
            self, kernel_shape=size, strides=tuple(stride) * (2 // len(stride)) if stride else size,
            pads=(*pads, *pads), ceil_mode=int(ceil_mode), count_include_pad=int(count_include_pad or given),
        )  # fmt: skip
        if given and ceil_mode:
            raise NotImplementedError("a divisor of its own with ceil_mode")
        # The exporter drops the divisor without a word.
        return op.Mul(pool, math.prod(size) / divisor_override) if divisor_override else pool

    return {
        aten.softplus.default: softplus,
        aten.log_sigmoid.default: log_sigmoid,
        aten.threshold.default: threshold,
        aten.avg_pool2d.default: average,
    }
