"""Torch's operators as ours: a builder of a line or a few for each, and the table of all."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, cast

import numpy as np
import torch
from specnorm_networks import builders
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.operators import Operator, Unknown
from specnorm_networks.certified.operators.linear import PadMode, normalisation
from specnorm_networks.certified.operators.pointwise import SINGLE
from specnorm_networks.certified.operators.sources import NO_LOOPS
from torch import Tensor

from specnorm_torch.calls import (
    Builder,
    Call,
    Made,
    Moving,
    Pieces,
    Rule,
    first_of,
    is_value,
    numbers,
    rounded,
    rules,
    shape_of,
)
from specnorm_torch.normalising import NORMALISING
from specnorm_torch.products import PRODUCT, addmm, divide, einsum, linear, matmul, multiply, stacked
from specnorm_torch.windows import adaptive, convolution, pool, resize

MAX_ENTRIES = 2**24
"""Entries of a value that are moved by a table of their places."""


# -- entries that are moved --------------------------------------------------------------------------------------------
def identity(call: Call, *, self: Moving, other: Moving = None) -> Made:
    """The same entries in the same places; ``other`` says a dtype."""
    del other
    same = first_of(self).dtype == first_of(call.node).dtype
    return Made(ops.Identity() if same else ops.Cast(), (self,))


def reshaped(call: Call, *, self: Moving, **_: Any) -> Made:
    """The same entries in the same order."""
    return Made(ops.Reshape(call.shape), (self,))


def permuted(call: Call, *, self: Moving, **rest: Any) -> Made:
    """Axes in the order in which the operator puts axes of sizes 1, 2, 3, ..."""
    example = torch.empty(tuple(range(1, 1 + len(shape_of(self)))), device="meta")
    return Made(ops.Permute(tuple(int(n) - 1 for n in call.node.target(example, **rest).shape)), (self,))


def entries(call: Call, *, self: Moving, **rest: Any) -> Made | Operator:
    """The operator itself says where the numbers of entries go; what is 0 is no entry's."""
    shape = shape_of(self)
    size = math.prod(shape)
    if max(size, math.prod(call.shape)) > MAX_ENTRIES:
        return Unknown("its input is too large for a table of its entries")
    count = torch.arange(1, size + 1, dtype=torch.float64, device=first_of(self).device).reshape(shape)
    at = call.node.target(count, **rest).to(torch.int64).cpu().numpy() - 1
    return Made(ops.Entries(at, size), (self,))


def _cut(value: Any, axis: int, first: int, last: int, step: int = 1) -> tuple[Operator, tuple[int, ...]]:
    """Every step-th entry of an axis, and the shape of them."""
    shape = list(shape_of(value))
    shape[axis] = len(range(first, last, step))
    return ops.Slice(((axis, first, last, step),)), tuple(shape)


def _axis(value: Any, dim: int) -> int:
    return dim % len(shape_of(value))


def sliced(
    _: Call, *, self: Moving, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Made:
    """Every step-th entry of an axis."""
    axis = _axis(self, dim)
    first, last, step = slice(start, end, step).indices(shape_of(self)[axis])
    return Made(_cut(self, axis, first, max(first, last), step)[0], (self,))


def narrowed(_: Call, *, self: Moving, dim: int, start: int | Tensor, length: int) -> Made:
    """Entries behind each other along an axis."""
    axis = _axis(self, dim)
    first = int(start) % max(shape_of(self)[axis], 1) if int(start) < 0 else int(start)
    return Made(_cut(self, axis, first, first + length)[0], (self,))


def selected(call: Call, *, self: Moving, dim: int, index: int) -> Made:
    """One entry of an axis."""
    axis = _axis(self, dim)
    at = index % shape_of(self)[axis]
    return call.chain(self, _cut(self, axis, at, at + 1), (ops.Reshape(call.shape), call.shape))


def flipped(_: Call, *, self: Moving, dims: list[int]) -> Made:
    """Some axes from their end to their beginning."""
    return Made(ops.Slice(tuple((_axis(self, dim), None, None, -1) for dim in sorted(dims))), (self,))


def pieces(call: Call, *, self: Moving, dim: int = 0, **rest: Any) -> Pieces:
    """Slices along an axis, as the operator cuts the numbers of its entries."""
    axis = _axis(self, dim)
    parts = [part.reshape(-1).tolist() for part in call.node.target(torch.arange(shape_of(self)[axis]), **rest)]
    return Pieces(self, tuple((axis, part[0], part[-1] + 1) if part else (axis, 0, 0) for part in parts))


def piece(call: Call, source: Pieces, number: int) -> Made:
    """One of several."""
    cut = _cut(source.value, *source.cuts[number])
    same = cut[1] == call.shape
    return call.chain(source.value, cut, *([] if same else [(ops.Reshape(call.shape), call.shape)]))


def broadcast(call: Call, *, self: Moving, other: Moving = None, size: Any = None) -> Made:
    """To the shape that was traced."""
    del other, size
    return Made(ops.Broadcast(call.shape), (self,))


def _cat(call: Call, *, tensors: Moving, dim: int = 0) -> Made | Operator:
    # Torch leaves out values of shape (0,), whatever the others' shapes are.
    kept = tuple(x for x in tensors if shape_of(x) != (0,) or len(call.shape) == 1)
    return Made(ops.Concat(dim % len(call.shape)), kept)


def _stack(call: Call, *, tensors: Moving, dim: int = 0) -> Made:
    return Made(ops.Concat(dim % len(call.shape), new=True), tuple(tensors))


def pad(
    call: Call, *, self: Moving, pad: Any = None, padding: Any = None, mode: str = "constant", value: Any = None
) -> Made:
    """Of the last axes, named from the last one on; negative amounts cut off."""
    mode = {"reflection": "reflect", "replication": "replicate"}.get(call.label.partition("_")[0], mode)
    amounts, named = pad or padding or [], {"constant": "zeros"}
    pairs = tuple((int(a), int(b)) for a, b in zip(amounts[::2], amounts[1::2], strict=True))[::-1]
    shape = shape_of(self)
    known = cast(PadMode, named.get(mode, mode))
    steps = builders.padding(known, pairs, len(shape), float(value or 0.0)) or (ops.Identity(),)
    wide = [*[(0, 0)] * (len(shape) - len(pairs)), *pairs]
    between = tuple(n + min(a, 0) + min(b, 0) for n, (a, b) in zip(shape, wide, strict=True))
    return call.chain(self, *((step, between) for step in steps))


# -- functions of each entry -------------------------------------------------------------------------------------------
def function(make: Callable[..., Operator], *names: str) -> Rule:
    """Made of arguments by their names, in the order of the class's fields."""

    def build(_: Call, *, self: Moving, **given: Any) -> Made:
        return Made(make(*(given[name] for name in names)), (self,))

    return Rule(build, rest=names)


def _dropout(_: Call, *, input: Moving, train: bool | None) -> Made | Operator:
    if train is not False:
        return Unknown("dropout is active: pass training=self.training")
    return Made(ops.Identity(), (input,))


_FORMS: dict[str, Literal["erf", "tanh"]] = {"none": "erf", "tanh": "tanh"}


def _prelu(_: Call, *, self: Moving, weight: Tensor) -> Made:
    """A vector is one slope a channel."""
    slopes, ndim = numbers(weight), len(shape_of(self))
    if weight.ndim == 1 and ndim > 1:
        slopes = slopes.reshape(-1, *(1,) * (ndim - 2))
    return Made(ops.PReLU(slopes.reshape(()) if slopes.size == 1 else slopes), (self,))


def _power(exponent: float) -> Operator:
    return builders.power(float(exponent)) or Unknown(f"a power of {float(exponent):.6g} has no rule")


def _batch_norm(
    call: Call, *, input: Moving, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor, running_var: Tensor,
    eps: float,
) -> Made:  # fmt: skip
    scale, shift = (None if x is None else numbers(x) for x in (weight, bias))
    mean, variance = numbers(running_mean), numbers(running_var)
    return Made(normalisation(mean, variance, scale, shift, eps, len(call.shape)), (input,))


# -- joins of values ---------------------------------------------------------------------------------------------------
def sum_weights(call: Call, alpha: float) -> tuple[float, float]:
    """Of the two values of a sum, a difference, or one the other way round."""
    a = float(alpha)
    return {"add": (1.0, a), "sub": (1.0, -a), "rsub": (-a, 1.0)}[call.label]


def _sum(call: Call, *, self: Moving, other: Moving, alpha: float = 1) -> Made:
    return Made(ops.Add(sum_weights(call, alpha)), (self, other))


def join(operator: Operator) -> Builder:
    """Of two values."""

    def build(call: Call, *, self: Moving, other: Moving) -> Made:
        return Made(operator, rounded(call, self, other))

    return build


def _clamp(call: Call, *, self: Moving, min: Moving = None, max: Moving = None) -> Made:
    """Between two numbers; or the larger of two values, and the smaller of that and a third."""
    ends = (-math.inf if min is None else min, math.inf if max is None else max)
    if all(isinstance(end, int | float) for end in ends) and ends[0] <= ends[1]:
        return Made(ops.HardTanh(float(ends[0]), float(ends[1])), (self,))
    found = self
    if min is not None:
        last = Made(ops.Maximum(), (found, *rounded(call, min)))
        found = found if max is None else call.add(last.operator, last.inputs, _broadcast(found, min))
    return last if max is None else Made(ops.Minimum(), (found, *rounded(call, max)))


def _broadcast(*values: Any) -> tuple[int, ...]:
    return np.broadcast_shapes(*(shape_of(x) if is_value(x) or isinstance(x, Tensor) else () for x in values))


def _where(call: Call, *, condition: Moving, self: Moving, other: Moving) -> Made:
    values = rounded(call, self, other)
    if is_value(condition):
        return Made(ops.Choose(), (condition, *values))
    return Made(ops.Where(lambda: numbers(condition).astype(bool)), values)


def _masked_fill(call: Call, *, self: Moving, mask: Moving, value: Moving) -> Made:
    return _where(call, condition=mask, self=value, other=self)


def _compared(kind: Literal["gt", "ge", "lt", "le"]) -> Builder:
    def build(_: Call, *, self: Moving, other: Moving) -> Made | Operator:
        """With a number, in the dtype in which torch compares."""
        if not is_value(self) or is_value(other) or _broadcast(self, other) != shape_of(self):
            return Unknown("its values are bool: steps")
        common = torch.result_type(first_of(self), other)
        number = torch.as_tensor(other, dtype=common if common.is_floating_point else torch.float64)
        if number.numel() != 1:
            return Unknown("its values are bool: steps")
        return Made(ops.Compare(kind, float(number)), (self,))

    return build


# -- reductions --------------------------------------------------------------------------------------------------------
def _axes(value: Any, dim: Any) -> tuple[int, ...]:
    """No axes, or none named, are all."""
    ndim = len(shape_of(value))
    given = [dim] if isinstance(dim, int) else dim
    return tuple(sorted({axis % ndim for axis in given})) if given and ndim else tuple(range(ndim))


def reduction(operator: Callable[..., Operator]) -> Builder:
    """Along axes."""

    def build(_: Call, *, self: Moving, dim: Any = None, keepdim: bool = False) -> Made:
        return Made(operator(_axes(self, dim), keepdim), (self,))

    return build


def _norm(_: Call, *, self: Moving, ord: float = 2, dim: Any = None, keepdim: bool = False) -> Made | Operator:
    return Made(ops.Norm(_axes(self, dim), keepdim), (self,)) if float(ord) == 2 else Unknown()


def _sort(
    _: Call, *, self: Moving, k: int | None = None, dim: int = -1, descending: bool = False, largest: bool = False,
    sorted: bool = True,
) -> Made | Operator:  # fmt: skip
    """All along an axis, or the first ``k``."""
    if not sorted:
        return Unknown("in which order its entries come depends on them")
    axes = _axes(self, dim)
    return Made(ops.Sort(axes[0], descending or largest, k) if axes else ops.Identity(), (self,))


_KEPT = "memory_format non_blocking copy dtype device layout implicit"
_SAME = "clone contiguous detach alias positive resolve_conj resolve_neg lift_fresh_copy"
_FUNCTIONS = {
    "relu": ops.ReLU(), "relu6": builders.RELU6, "sigmoid": ops.Sigmoid(), "tanh": ops.Tanh(), "silu": ops.SiLU(),
    "mish": ops.Mish(), "selu": builders.SELU, "log_sigmoid": ops.LogSigmoid(),
    "log_sigmoid_forward": ops.LogSigmoid(), "hardswish": ops.HardSwish(), "abs": ops.Abs(), "neg": ops.Negative(),
    "sign": ops.Sign(),
    "sin": ops.Sin(), "cos": ops.Cos(), "atan": ops.Arctan(), "erf": ops.Erf(), "exp": ops.Exp(), "log": ops.Log(),
    "sqrt": ops.Sqrt(), "rsqrt": ops.Rsqrt(), "reciprocal": ops.Reciprocal(), "square": ops.Power(2),
    # Torch multiplies by 1/6 in single precision.
    "hardsigmoid": ops.HardSigmoid(1 / 6, 0.5, SINGLE),
}  # fmt: skip
_DIMS = (1, 2, 3)

OPERATORS: dict[str, Rule] = {
    **rules(identity, f"{_SAME} _to_copy to.device to.dtype to.dtype_layout to.other type_as", _KEPT),
    **rules(reshaped, "view _unsafe_view reshape flatten.using_ints unflatten.int"),
    **rules(reshaped, "squeeze squeeze.dim squeeze.dims unsqueeze"),
    **rules(permuted, "permute transpose.int t numpy_T movedim.int movedim.intlist"),
    **rules(entries, "roll fft_fftshift fft_ifftshift pixel_shuffle pixel_unshuffle channel_shuffle"),
    **rules(entries, "native_channel_shuffle tril triu diagonal"),
    **rules(entries, "unfold index.Tensor index_select gather"),
    **rules(entries, "repeat_interleave.self_Tensor repeat_interleave.self_int"),
    **rules(sliced, "slice.Tensor"),
    **rules(narrowed, "narrow narrow.Tensor"),
    **rules(selected, "select.int"),
    **rules(flipped, "flip"),
    **rules(pieces, "split split.Tensor split.sizes split_with_sizes chunk unbind.int tensor_split.sections"),
    **rules(pieces, "tensor_split.indices tensor_split.tensor_indices_or_sections"),
    **rules(broadcast, "expand expand_as broadcast_to", "implicit"),
    **rules(_cat, "cat concat"),
    **rules(_stack, "stack"),
    **rules(pad, "pad constant_pad_nd"),
    **{f"{kind}_pad{n}d": Rule(pad) for kind in ("reflection", "replication") for n in _DIMS},
    **{key: function(lambda operator=operator: operator) for key, operator in _FUNCTIONS.items()},
    "gelu": function(lambda approximate: ops.GELU(_FORMS[approximate]), "approximate"),
    "elu": function(ops.ELU, "alpha", "scale", "input_scale"),
    "celu": function(ops.CELU, "alpha"),
    "leaky_relu": function(ops.LeakyReLU, "negative_slope"),
    "hardtanh": function(ops.HardTanh, "min_val", "max_val"),
    "softplus": function(ops.Softplus, "beta", "threshold"),
    "softshrink": function(ops.SoftShrink, "lambd"),
    "threshold": function(ops.Threshold, "threshold", "value"),
    "pow.Tensor_Scalar": function(_power, "exponent"),
    "repeat": function(lambda repeats: ops.Tile(tuple(repeats)), "repeats"),
    "tile": function(lambda dims: ops.Tile(tuple(dims)), "dims"),
    **rules(_dropout, "dropout feature_dropout alpha_dropout native_dropout", "p"),
    **rules(_prelu, "prelu _prelu_kernel"),
    **rules(_batch_norm, "_native_batch_norm_legit_no_training", "momentum"),
    **rules(_sum, "add.Tensor add.Scalar sub.Tensor sub.Scalar rsub.Tensor rsub.Scalar"),
    **rules(join(ops.Maximum()), "maximum max.other"),
    **rules(join(ops.Minimum()), "minimum min.other"),
    **rules(_clamp, "clamp clamp.Tensor clamp_min clamp_min.Tensor clamp_max clamp_max.Tensor"),
    **rules(_where, "where.self where.ScalarOther where.ScalarSelf"),
    **rules(_masked_fill, "masked_fill.Scalar masked_fill.Tensor"),
    **{f"{kind}.{end}": Rule(_compared(kind)) for kind in ("gt", "ge", "lt", "le") for end in ("Scalar", "Tensor")},
    **rules(multiply, "mul.Tensor mul.Scalar"),
    **rules(divide, "div.Tensor div.Scalar"),
    **rules(reduction(ops.Mean), "mean mean.dim", "dtype"),
    **rules(reduction(ops.Sum), "sum sum.dim_IntList", "dtype"),
    **rules(reduction(ops.Largest), "amax max max.dim"),
    **rules(reduction(ops.Smallest), "amin min min.dim"),
    **rules(_norm, "linalg_vector_norm", "dtype"),
    **rules(_sort, "sort sort.stable", "stable"),
    **rules(_sort, "topk"),
    **rules(reduction(lambda axes, _: ops.Softmax(axes)), "softmax.int _softmax", "dtype"),
    **rules(reduction(lambda axes, _: ops.LogSoftmax(axes)), "log_softmax.int _log_softmax", "dtype"),
    **rules(linear, "linear"),
    **rules(matmul, "mm matmul"),
    **rules(addmm, "addmm"),
    **rules(stacked, "bmm"),
    **rules(einsum, "einsum"),
    **NORMALISING,
    **{f"conv{n}d{end}": Rule(convolution(n)) for n in _DIMS for end in ("", ".padding")},
    **{f"conv_transpose{n}d{'.input' if n > 1 else ''}": Rule(convolution(n, transposed=True)) for n in _DIMS},
    **{f"max_pool{n}d{end}": Rule(pool(n)) for n in _DIMS for end in ("", "_with_indices")},
    **{f"avg_pool{n}d": Rule(pool(n, average=True)) for n in _DIMS},
    **{f"adaptive_max_pool{n}d": Rule(adaptive(ops.AdaptiveMaxPool, n)) for n in _DIMS},
    **{f"adaptive_avg_pool{n}d": Rule(adaptive(ops.AdaptiveAveragePool, n)) for n in _DIMS},
    **{f"_adaptive_avg_pool{n}d": Rule(adaptive(ops.AdaptiveAveragePool, n)) for n in (2, 3)},
    **{f"upsample_nearest{n}d{end}": Rule(resize("nearest")) for n in _DIMS for end in ("", ".vec")},
    **{
        f"_upsample_nearest_exact{n}d{end}": Rule(resize("nearest", "half_pixel", "round_prefer_ceil"))
        for n in _DIMS for end in ("", ".vec")
    },
    **{
        f"upsample_{name}{end}": Rule(resize("linear", "half_pixel"))
        for name in ("linear1d", "bilinear2d", "trilinear3d") for end in ("", ".vec")
    },
}  # fmt: skip
"""``operator.overload`` -> its builder."""

REASONS = {
    "local_response_norm": "it divides by sums of squares of its own input",
    "baddbmm": PRODUCT,
    "scaled_dot_product_attention": "products of queries, keys and values that depend on the input have no constant",
    "_native_batch_norm_legit_functional": "it normalises by the statistics of the batch",
    **dict.fromkeys(["var", "std"], "its slope has no bound"),
    **{f"{name}{end}": NO_LOOPS for name in ("lstm", "gru", "rnn_tanh", "rnn_relu") for end in ("", "_cell")},
}
"""Why some operators are unknown."""
