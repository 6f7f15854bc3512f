"""Normalisation by a value's own entries: layer, group, instance, RMS and L2 norm."""

from __future__ import annotations

import math

import numpy as np

from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.operators import NoBoundError
from specnorm_networks.certified.operators.normalisation import Form
from specnorm_networks.onnx.nodes import MAX_KNOWN, Call, Data, Made, offset_of, on_axis, shape_of
from specnorm_networks.onnx.tensors import Constant


def _normalised(
    x: Data | Made, axes: tuple[int, ...], eps: float, *, centred: bool = True, form: Form = "mean square"
) -> Made:
    """Divided by a function of the length over some axes."""
    shape = shape_of(x)
    if not axes or not math.isfinite(eps):
        raise NoBoundError(f"it normalises over axes {axes}, with epsilon={eps!r}")
    value = Made(ops.Centre(axes), (x,), shape) if centred else x
    ones = tuple(1 if axis in axes else n for axis, n in enumerate(shape))
    length = Made(ops.Norm(axes, keep=True), (value,), ones)
    return Made(ops.Normalise(axes, eps, form), (value, length), shape)


def _scaled(made: Made, scale: Constant | None, bias: Constant | None, spatial: int = 0) -> Made:
    """Times a constant, plus another, whose axes are followed by some more."""
    if scale is None and bias is None:
        return made
    if scale is not None and (scale.size > MAX_KNOWN or scale.refusal is not None):
        raise NoBoundError("one of its constants cannot be read")
    values = np.ones(()) if scale is None else scale.load().astype(np.float64)
    values = values.reshape(*values.shape, *(1,) * spatial)
    return Made(ops.Scale(values, offset_of(bias, spatial=spatial), exact=True), (made,), made.shape)


def layer_norm(
    call: Call, x: Data, scale: Constant, bias: Constant | None = None, /, *, axis: int = -1, epsilon: float = 1e-5
) -> Made:
    """Over an axis and all behind it, with a mean or without."""
    shape = shape_of(x)
    axes = tuple(range(on_axis(axis, shape), len(shape)))
    return _scaled(_normalised(x, axes, epsilon, centred=call.operator == "LayerNormalization"), scale, bias)


def instance_norm(x: Data, scale: Constant, bias: Constant, /, *, epsilon: float) -> Made:
    """Over all axes behind the channels."""
    count = len(shape_of(x)) - 2
    return _scaled(_normalised(x, tuple(range(2, 2 + count)), epsilon), scale, bias, count)


def group_norm(call: Call, x: Data, scale: Constant, bias: Constant, /, *, num_groups: int, epsilon: float) -> Made:
    """Over groups of channels, and all axes behind them."""
    shape = shape_of(x)
    sizes = shape[1:]
    if num_groups < 1 or sizes[0] % num_groups:
        raise NoBoundError(f"num_groups={num_groups} of {sizes[0]} channels")
    split = (shape[0], num_groups, math.prod(sizes) // num_groups)
    made = _normalised(Made(ops.Reshape((0, num_groups, -1), copies=True), (x,), split), (2,), epsilon)
    whole = Made(ops.Reshape((0, *sizes), copies=True), (made,), shape)
    if call.opset < 21:
        # One number a group.
        each = ops.Reshape((0, num_groups, -1), copies=True)
        wide = _scaled(Made(each, (whole,), split), scale, bias, 1)
        return Made(ops.Reshape((0, *sizes), copies=True), (wide,), shape)
    return _scaled(whole, scale, bias, len(sizes) - 1)


def length_norm(x: Data, /, *, axis: int, p: int) -> Made:
    """Entries over their length along an axis."""
    if p != 2:
        raise NoBoundError(f"p={p}: the 2-norm alone has a rule")
    return _normalised(x, (on_axis(axis, shape_of(x)),), 0.0, centred=False, form="largest")
