"""Translations of torch's operators to ONNX for the exporter, in place of its own ones.

These are needed if the exporter's translation has no rule here, or is not the same function.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from onnx import defs, helper
from onnxscript import ir
from onnxscript import opset18 as op
from onnxscript.values import Op, Opset
from torch.fx.operator_schemas import get_signature_for_torch_op


def _softplus(self: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    # Above 20 torch returns its input, which differs from softplus by less than float32's rounding.
    if threshold < 20:
        raise NotImplementedError(f"softplus with threshold={threshold}, where it jumps")
    if beta == 1.0:
        return op.Softplus(self)
    return op.Div(op.Softplus(op.Mul(self, float(beta))), float(beta))


def _log_sigmoid(self: Any) -> Any:
    return op.Neg(op.Softplus(op.Neg(self)))


def _hard_sigmoid(self: Any) -> Any:
    # HardSigmoid of ONNX has the slope 1/6 as an attribute, which is rounded to single precision.
    shifted = op.Add(self, _constant(3.0, self))
    return op.Div(op.Clip(shifted, _constant(0.0, self), _constant(6.0, self)), _constant(6.0, self))


def _random_leaky(
    self: Any,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    generator: Any = None,
) -> Any:
    if training or generator is not None:
        raise NotImplementedError("slopes that are drawn at random")
    return _leaky(self, (lower + upper) / 2)


def _convolution_3d(
    self: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = (1,),
    padding: Any = (0,),
    dilation: Any = (1,),
    groups: int = 1,
) -> Any:
    # The exporter's own translation adds a bias of shape (cout, 2) where there is none (onnxscript 0.7).
    strides, pads, dilations = (_for_axes(3, numbers) for numbers in (stride, padding, dilation))
    has_batch = len(self.shape) == 5
    x = self if has_batch else op.Unsqueeze(self, _constant([0]))
    value = op.Conv(x, weight, bias, strides=strides, pads=(*pads, *pads), dilations=dilations, group=groups)
    return value if has_batch else op.Squeeze(value, _constant([0]))


def _average(
    self: Any,
    kernel_size: Any = (),
    stride: Any = (),
    padding: Any = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    size = _for_axes(2, kernel_size)
    pads = _for_axes(2, padding)
    has_divisor = divisor_override is not None
    pool = op.AveragePool(
        self,
        kernel_shape=size,
        strides=_for_axes(2, stride) if stride else size,
        pads=(*pads, *pads),
        ceil_mode=int(ceil_mode),
        count_include_pad=int(count_include_pad or has_divisor),
    )
    if has_divisor and ceil_mode:
        raise NotImplementedError("divisor_override with ceil_mode")
    # The exporter's own translation drops the divisor silently.
    return op.Mul(pool, math.prod(size) / divisor_override) if divisor_override else pool


def _for_axes(count: int, numbers: Any) -> tuple[int, ...]:
    """Return a number for each of the spatial axes; torch may state a single one for all."""
    return tuple(numbers) * (count // len(numbers))


def _constant(values: Any, like: Any = None) -> Any:
    """Return a constant of the graph, in the dtype of another value."""
    array = np.asarray(values)
    value: Any = ir.tensor(array if like is None else array.astype(like.dtype.numpy()))
    return op.Constant(value=value)


def _adaptive(*, largest: bool) -> Callable[..., Any]:
    """Return a translation of adaptive pooling: of maxima if ``largest``, else of means.

    If all windows have one length, it is ordinary pooling. Else the axes are pooled one after the other: means by a
    product with a matrix, maxima by gathering the entries of each window.
    """

    def write(self: Any, output_size: Any) -> Any:
        value = self
        ndim = len(self.shape)
        first = ndim - len(output_size)
        sizes = [int(n) for n in self.shape[first:]]
        if all(n % m == 0 for n, m in zip(sizes, output_size, strict=True)):
            lengths = [n // m for n, m in zip(sizes, output_size, strict=True)]
            pool = op.MaxPool if largest else op.AveragePool
            return pool(self, kernel_shape=lengths, strides=lengths)
        for axis, (n, m) in enumerate(zip(sizes, output_size, strict=True), first):
            windows = [range(k * n // m, -(-(k + 1) * n // m)) for k in range(m)]
            if n == m:
                continue
            if largest:
                # Shorter windows are filled up with their last entry.
                length = max(map(len, windows))
                entries = [[window[min(k, len(window) - 1)] for k in range(length)] for window in windows]
                gathered = op.Gather(value, _constant(entries), axis=axis)
                value = op.ReduceMax(gathered, _constant([axis + 1]), keepdims=0)
                continue
            # Weights are whole numbers, divided by a common denominator: a third would be rounded, to float32 here.
            denominator = math.lcm(*map(len, windows))
            weights = [[denominator // len(window) if k in window else 0 for window in windows] for k in range(n)]
            order = [*range(ndim)]
            order[axis], order[-1] = order[-1], order[axis]
            axis_last = op.Transpose(value, perm=order)
            means = op.Div(op.MatMul(axis_last, _constant(weights, self)), _constant(denominator, self))
            value = op.Transpose(means, perm=order)
        return (value, op.Constant(value_int=0)) if largest else value

    return write


def _sort(self: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    del stable
    return op.TopK(self, _constant([int(self.shape[dim])]), axis=dim, largest=int(descending), sorted=1)


def _diagonal(self: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    ndim = len(self.shape)
    row_axis = dim1 % ndim
    column_axis = dim2 % ndim
    rows = int(self.shape[row_axis])
    columns = int(self.shape[column_axis])
    diagonal = [k * columns + k + offset for k in range(rows) if 0 <= k + offset < columns]
    other_axes = [axis for axis in range(ndim) if axis not in (row_axis, column_axis)]
    matrices_last = op.Transpose(self, perm=[*other_axes, row_axis, column_axis])
    flat = op.Reshape(matrices_last, _constant([0] * len(other_axes) + [rows * columns]))
    return op.Gather(flat, _constant(diagonal), axis=-1)


def _batch_norm(
    self: Any,
    weight: Any,
    bias: Any,
    mean: Any,
    variance: Any,
    momentum: float,
    eps: float,
) -> tuple[Any, Any, Any]:
    del momentum
    rounding_error = eps - float(np.float32(eps))
    if rounding_error and self.dtype == ir.DataType.DOUBLE:
        # The attribute epsilon is rounded to single precision: the variance gets the difference.
        variance = op.Add(variance, _constant(rounding_error, variance))
    ones = np.ones(int(mean.shape[0]))
    scale = _constant(ones, mean) if weight is None else weight
    shift = _constant(0 * ones, mean) if bias is None else bias
    value = op.BatchNormalization(self, scale, shift, mean, variance, epsilon=eps)
    return value, op.Identity(mean), op.Identity(variance)


def _leaky(self: Any, negative_slope: float = 0.01) -> Any:
    if self.dtype != ir.DataType.DOUBLE:
        return op.LeakyRelu(self, alpha=negative_slope)
    # LeakyRelu's attribute alpha would be rounded to single precision.
    return op.PRelu(self, _constant(negative_slope, self))


def _elu(self: Any, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Any:
    if input_scale != 1:
        raise NotImplementedError("an input that is scaled before ELU")
    if self.dtype != ir.DataType.DOUBLE:
        value = op.Elu(self, alpha=alpha)
    else:
        # Elu's attribute alpha would be rounded to single precision. Elu with alpha = 1 keeps the sign of its input,
        # so PRelu multiplies its negative values by alpha.
        value = op.PRelu(op.Elu(self, alpha=1.0), _constant(alpha, self))
    return value if scale == 1 else op.Mul(value, _constant(scale, self))


def _selu(self: Any) -> Any:
    alpha = 1.6732632423543772848170429916717
    scale = 1.0507009873554804934193349852946
    return op.Selu(self) if self.dtype != ir.DataType.DOUBLE else _elu(self, alpha, scale)


def _layer_norm(
    self: Any,
    normalized_shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Any:
    del cudnn_enable
    scale = _constant(np.ones([int(n) for n in normalized_shape]), self) if weight is None else weight
    rounded_eps = float(np.float32(eps))
    value = self
    if self.dtype == ir.DataType.DOUBLE and eps not in (0.0, rounded_eps):
        # The attribute epsilon is rounded to single precision. But s x normalized with s^2 eps is x normalized with
        # eps: s^2 = rounded_eps / eps.
        value = op.Mul(self, _constant(math.sqrt(rounded_eps / eps), self))
    normalised, _, _ = op.LayerNormalization(value, scale, bias, axis=-len(normalized_shape), epsilon=rounded_eps)
    return normalised


def as_it_is(target: Any, count: int) -> Callable[..., Any]:
    """Return a translation of an operator to an ONNX node with torch's name and ``count`` values.

    ONNX has no such operator. The reader looks for a rule that the user registered (`register_operator`).
    """
    domain, _, name = target.name().partition("::")
    # The first one may have another name than in the operator's schema.
    signatures = get_signature_for_torch_op(target)
    names = [*signatures[0].parameters] if signatures else []

    def write(*args: Any, **kwargs: Any) -> Any:
        arguments = dict(zip(names, args, strict=False)) | kwargs
        attributes = {}
        tensors = []
        for key, value in arguments.items():
            if isinstance(value, bool | int | float | str) or _are_numbers(value):
                attributes[key] = value
            elif value is not None:
                tensors.append(value)
        # onnxscript needs a schema to write a node.
        parameter = defs.OpSchema.FormalParameter
        inputs = [parameter(f"x{number}", f"X{number}") for number in range(len(tensors))]
        outputs = [parameter(f"y{number}", f"Y{number}") for number in range(count)]
        all_types = defs.get_schema("Identity").type_constraints[0].allowed_type_strs
        schema = defs.OpSchema(
            name.partition(".")[0],
            domain,
            1,
            inputs=inputs,
            outputs=outputs,
            type_constraints=[(each.type_str, all_types, "") for each in (*inputs, *outputs)],
            attributes=[
                defs.OpSchema.Attribute(key, helper.make_attribute(key, value)) for key, value in attributes.items()
            ],
        )
        return Op(Opset(domain, 1), schema.name, schema)(*tensors, **attributes)

    return write


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(v, bool | int | float) for v in value)


@cache
def table() -> dict[Any, Callable[..., Any]]:
    """Return the translations, by torch's operators."""
    aten = torch.ops.aten
    means = _adaptive(largest=False)
    maxima = _adaptive(largest=True)
    return {
        aten.softplus.default: _softplus,
        aten.log_sigmoid.default: _log_sigmoid,
        aten.hardsigmoid.default: _hard_sigmoid,
        aten.rrelu.default: _random_leaky,
        aten.conv3d.default: _convolution_3d,
        aten.avg_pool2d.default: _average,
        aten._native_batch_norm_legit_no_training.default: _batch_norm,
        aten.leaky_relu.default: _leaky,
        aten.elu.default: _elu,
        aten.selu.default: _selu,
        aten.layer_norm.default: _layer_norm,
        **{getattr(aten, f"adaptive_avg_pool{n}d").default: means for n in (1, 2, 3)},
        **{getattr(aten, f"adaptive_max_pool{n}d").default: maxima for n in (1, 2, 3)},
        aten.diagonal.default: _diagonal,
        aten.sort.stable: _sort,
    }
