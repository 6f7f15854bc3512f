"""Normalisation by a value's own entries: layer, group, instance and RMS norm."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.operators import Operator, Unknown
from specnorm_networks.certified.operators.linear import normalisation
from torch import Tensor

from specnorm_torch.calls import Call, Made, Moving, first_of, numbers, offset, rules, shape_of


def _normalised(
    call: Call, value: Any, shape: tuple[int, ...], axes: tuple[int, ...], eps: float, *, centred: bool = True
) -> Made:
    """Divided by the root of the mean of squares, and of eps, over some axes."""
    if centred:
        value = call.add(ops.Centre(axes), (value,), shape)
    ones = tuple(1 if axis in axes else n for axis, n in enumerate(shape))
    return Made(ops.Normalise(axes, float(eps)), (value, call.add(ops.Norm(axes, keep=True), (value,), ones)))


def _scaled(call: Call, made: Made, weight: Tensor | None, bias: Tensor | None, axes: int) -> Made:
    """Times a weight, plus a bias, whose axes are followed by some more."""
    if weight is None and bias is None:
        return made
    values = np.ones(()) if weight is None else numbers(weight).reshape(*weight.shape, *(1,) * axes)
    return Made(
        ops.Scale(values, offset(bias, spatial=axes), exact=True), (call.add(made.operator, made.inputs, call.shape),)
    )


def _last(call: Call, count: int) -> tuple[int, ...]:
    return tuple(range(len(call.shape) - count, len(call.shape)))


def layer_norm(
    call: Call, *, input: Moving, normalized_shape: list[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> Made:
    """Over the last axes."""
    made = _normalised(call, input, call.shape, _last(call, len(normalized_shape)), eps)
    return _scaled(call, made, weight, bias, 0)


def rms_norm(
    call: Call, *, input: Moving, normalized_shape: list[int], weight: Tensor | None, eps: float | None
) -> Made | Operator:
    """The same without a mean; no eps is the dtype's own."""
    dtype = first_of(input).dtype
    if eps is None and dtype not in (torch.float32, torch.float64):
        return Unknown(f"its eps in {str(dtype).rpartition('.')[2]} is not stated")
    small = torch.finfo(dtype).eps if eps is None else eps
    made = _normalised(call, input, call.shape, _last(call, len(normalized_shape)), small, centred=False)
    return _scaled(call, made, weight, None, 0)


def _grouped(call: Call, value: Any, groups: int, weight: Any, bias: Any, eps: float) -> Made:
    """Over the channels of each group, and all that follows."""
    shape = call.shape
    split = (shape[0], groups, math.prod(shape[1:]) // max(groups, 1))
    value = call.add(ops.Reshape(split), (value,), split)
    made = _normalised(call, value, split, (2,), eps)
    whole = Made(ops.Reshape(shape), (call.add(made.operator, made.inputs, split),))
    return _scaled(call, whole, weight, bias, len(shape) - 2)


def group_norm(
    call: Call, *, input: Moving, num_groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Made:
    """Over groups of channels."""
    return _grouped(call, input, num_groups, weight, bias, eps)


def instance_norm(
    call: Call, *, input: Moving, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None,
    running_var: Tensor | None, use_input_stats: bool, eps: float,
) -> Made | Operator:  # fmt: skip
    """Over each channel; or by constants, as batch norm."""
    if use_input_stats:
        return _grouped(call, input, shape_of(input)[1], weight, bias, eps)
    if running_mean is None or running_var is None:
        return Unknown("it has no statistics")
    scale, shift = (None if x is None else numbers(x) for x in (weight, bias))
    mean, variance = numbers(running_mean), numbers(running_var)
    return Made(normalisation(mean, variance, scale, shift, eps, len(call.shape)), (input,))


NORMALISING = {
    **rules(layer_norm, "layer_norm", "cudnn_enable cudnn_enabled"),
    **rules(rms_norm, "rms_norm"),
    **rules(group_norm, "group_norm", "cudnn_enabled"),
    **rules(instance_norm, "instance_norm", "momentum cudnn_enabled"),
}
