"""What the exporter writes of a few operators of torch, where its own words have no rule or are another function."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from onnx import defs
from onnxscript import ir
from onnxscript import opset18 as op
from onnxscript.values import Op, Opset

from specnorm_networks.sources.torch_alone import arguments_of


def _softplus(self: Any, beta: float = 1.0, _threshold: float = 20.0) -> Any:
    # Beyond the _threshold torch returns its input, which is nearer than float32's rounding.
    del _threshold
    return op.Softplus(self) if beta == 1.0 else op.Div(op.Softplus(op.Mul(self, float(beta))), float(beta))


def _log_sigmoid(self: Any) -> Any:
    return op.Neg(op.Softplus(op.Neg(self)))


def _threshold(self: Any, _threshold: float, value: float) -> Any:
    if _threshold != value:
        raise NotImplementedError("a _threshold that is not its value is a step")
    return op.Max(self, _constant(value, self)) if value else op.Relu(self)


def _hard_sigmoid(self: Any) -> Any:
    # As an attribute 1/6 would be of single precision.
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
        raise NotImplementedError("slopes that are drawn")
    return _leaky(self, (lower + upper) / 2)


def _average(
    self: Any, kernel_size: Any = (), stride: Any = (), padding: Any = (0, 0), ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Any:  # fmt: skip
    size = tuple(kernel_size) * (2 // len(kernel_size))
    pads = tuple(padding) * (2 // len(padding))
    given = divisor_override is not None
    pool = op.AveragePool(
        self, kernel_shape=size, strides=tuple(stride) * (2 // len(stride)) if stride else size,
        pads=(*pads, *pads), ceil_mode=int(ceil_mode), count_include_pad=int(count_include_pad or given),
    )  # fmt: skip
    if given and ceil_mode:
        raise NotImplementedError("a divisor of its own with ceil_mode")
    # The exporter drops the divisor without a word.
    return op.Mul(pool, math.prod(size) / divisor_override) if divisor_override else pool


def _constant(values: Any, like: Any = None) -> Any:
    array = np.asarray(values)
    value: Any = ir.tensor(array if like is None else array.astype(like.dtype.numpy()))
    return op.Constant(value=value)


def _adaptive(*, largest: bool) -> Callable[..., Any]:
    """Axis by axis: means are a product with a matrix, maxima those of the entries of each window.

    Windows of one length are an ordinary pooling.
    """

    def write(self: Any, output_size: Any) -> Any:
        found = self
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
                # Windows of other lengths have their last entry again.
                length = max(map(len, windows))
                at = [[w[min(k, len(w) - 1)] for k in range(length)] for w in windows]
                found = op.ReduceMax(op.Gather(found, _constant(at), axis=axis), _constant([axis + 1]), keepdims=0)
                continue
            # In float32 a third would be another number than torch divides by.
            whole = math.lcm(*map(len, windows))
            weights = [[whole // len(w) if k in w else 0 for w in windows] for k in range(n)]
            order = [*range(ndim)]
            order[axis], order[-1] = order[-1], order[axis]
            turned = found if axis == ndim - 1 else op.Transpose(found, perm=order)
            turned = op.Div(op.MatMul(turned, _constant(weights, self)), _constant(whole, self))
            found = turned if axis == ndim - 1 else op.Transpose(turned, perm=order)
        return (found, op.Constant(value_int=0)) if largest else found

    return write


def _sort(self: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    del stable
    return op.TopK(self, _constant([int(self.shape[dim])]), axis=dim, largest=int(descending), sorted=1)


def _diagonal(self: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    ndim = len(self.shape)
    one = dim1 % ndim
    two = dim2 % ndim
    rows = int(self.shape[one])
    columns = int(self.shape[two])
    places = [k * columns + k + offset for k in range(rows) if 0 <= k + offset < columns]
    kept = [axis for axis in range(ndim) if axis not in (one, two)]
    turned = op.Transpose(self, perm=[*kept, one, two])
    flat = op.Reshape(turned, _constant([0] * len(kept) + [rows * columns]))
    return op.Gather(flat, _constant(places), axis=-1)


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
    lost = eps - float(np.float32(eps))
    if lost and self.dtype == ir.DataType.DOUBLE:
        # An attribute is of single precision.
        variance = op.Add(variance, _constant(lost, variance))
    ones = np.ones(int(mean.shape[0]))
    scale = _constant(ones, mean) if weight is None else weight
    shift = _constant(0 * ones, mean) if bias is None else bias
    found = op.BatchNormalization(self, scale, shift, mean, variance, epsilon=eps)
    return found, op.Identity(mean), op.Identity(variance)


def _leaky(self: Any, negative_slope: float = 0.01) -> Any:
    if self.dtype != ir.DataType.DOUBLE:
        return op.LeakyRelu(self, alpha=negative_slope)
    # An attribute would be of single precision.
    return op.PRelu(self, _constant(negative_slope, self))


def _elu(self: Any, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Any:
    if input_scale != 1:
        raise NotImplementedError("an input that is scaled before ELU")
    if self.dtype != ir.DataType.DOUBLE:
        found = op.Elu(self, alpha=alpha)
        return found if scale == 1 else op.Mul(found, _constant(scale, self))
    # Attributes would be of single precision; what is below 0 stays there.
    found = op.PRelu(op.Elu(self, alpha=1.0), _constant(alpha, self))
    return found if scale == 1 else op.Mul(found, _constant(scale, self))


def _selu(self: Any) -> Any:
    alpha = 1.6732632423543772848170429916717
    scale = 1.0507009873554804934193349852946
    return op.Selu(self) if self.dtype != ir.DataType.DOUBLE else _elu(self, alpha, scale)


def _layer_norm(
    self: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Any:  # fmt: skip
    del cudnn_enable
    scale = _constant(np.ones([int(n) for n in normalized_shape]), self) if weight is None else weight
    single = float(np.float32(eps))
    value = self
    if self.dtype == ir.DataType.DOUBLE and eps not in (0.0, single):
        # An attribute is of single precision: s x, normalised with eps s^2, is x normalised with eps.
        value = op.Mul(self, _constant(math.sqrt(single / eps), self))
    found, _, _ = op.LayerNormalization(value, scale, bias, axis=-len(normalized_shape), epsilon=single)
    return found


def as_it_is(target: Any, count: int) -> Callable[..., Any]:
    """An operator by the name that torch has for it, with so many values: what is registered for it has the rule."""
    domain, _, name = target.name().partition("::")
    names = [*arguments_of(target)]

    def write(*args: Any, **kwargs: Any) -> Any:
        given = dict(zip(names, args, strict=False)) | kwargs
        plain = {k: v for k, v in given.items() if isinstance(v, bool | int | float | str) or _are_plain(v)}
        tensors = [v for k, v in given.items() if k not in plain and v is not None]
        schema = _schema(name.partition(".")[0], domain, len(tensors), count, plain)
        return Op(Opset(domain, 1), schema.name, schema)(*tensors, **plain)

    return write


def _schema(
    name: str,
    domain: str,
    inputs: int,
    outputs: int,
    attributes: Mapping[str, Any],
) -> defs.OpSchema:
    """A schema of an operator that ONNX does not have, without which onnxscript writes no node."""
    kind = defs.OpSchema.AttrType
    kinds = {bool: kind.INT, int: kind.INT, float: kind.FLOAT, str: kind.STRING}
    several = {bool: kind.INTS, int: kind.INTS, float: kind.FLOATS}
    types = {
        key: several[float if any(isinstance(v, float) for v in value) else int]
        if isinstance(value, list | tuple)
        else kinds[type(value)]
        for key, value in attributes.items()
    }
    parameter = defs.OpSchema.FormalParameter
    every = defs.get_schema("Identity").type_constraints[0].allowed_type_strs
    before = [parameter(f"x{at}", f"X{at}") for at in range(inputs)]
    after = [parameter(f"y{at}", f"Y{at}") for at in range(outputs)]
    return defs.OpSchema(
        name,
        domain,
        1,
        inputs=before,
        outputs=after,
        type_constraints=[(each.type_str, every, "") for each in (*before, *after)],
        attributes=[defs.OpSchema.Attribute(key, each, required=False) for key, each in types.items()],
    )


def _are_plain(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(v, bool | int | float) for v in value)


@cache
def table() -> dict[Any, Callable[..., Any]]:
    """Operators of torch, and what writes them."""
    aten = torch.ops.aten
    means = _adaptive(largest=False)
    maxima = _adaptive(largest=True)
    return {
        aten.softplus.default: _softplus,
        aten.log_sigmoid.default: _log_sigmoid,
        aten.threshold.default: _threshold,
        aten.hardsigmoid.default: _hard_sigmoid,
        aten.rrelu.default: _random_leaky,
        aten.avg_pool2d.default: _average,
        aten._native_batch_norm_legit_no_training.default: _batch_norm,
        aten.leaky_relu.default: _leaky,
        aten.elu.default: _elu,
        aten.selu.default: _selu,
        aten.layer_norm.default: _layer_norm,
        **{getattr(aten, f"adaptive_avg_pool{n}d").default: means for n in (1, 2, 3)},
        **{getattr(aten, f"_adaptive_avg_pool{n}d").default: means for n in (2, 3)},
        **{getattr(aten, f"adaptive_max_pool{n}d").default: maxima for n in (1, 2, 3)},
        aten.diagonal.default: _diagonal,
        aten.sort.stable: _sort,
    }
