"""The arguments of torch's operators that the rules of `aten` know; whatever else is given is refused by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

_SELF = "*self"
_DIM = "*self dim"
_WINDOW = "*self kernel_size stride padding dilation ceil_mode"
_AVERAGE = "*self kernel_size stride padding ceil_mode count_include_pad"
_CONVOLUTION = "*input weight bias stride padding dilation groups"
_TRANSPOSED = "*input weight bias stride padding output_padding groups dilation"
_TRANSFORM = "*self s dim norm"
_TO = "non_blocking copy memory_format"
_VEC = "*input output_size scale_factors"
_CORNERS = "*input output_size align_corners scale_factors"

SIGNATURES: dict[str, str] = {
    # Entries that are moved.
    **dict.fromkeys(
        (
            "t", "numpy_T", "squeeze", "detach", "alias", "lift_fresh_copy", "positive", "relu", "relu6", "sigmoid",
            "tanh", "silu", "mish", "selu", "log_sigmoid", "log_sigmoid_forward", "hardswish", "hardsigmoid", "abs",
            "neg", "sin", "cos", "atan", "erf", "max", "min", "exp", "log", "sqrt", "rsqrt", "reciprocal", "square",
        ),
        _SELF,
    ),
    "view": "*self size",
    "_unsafe_view": "*self size",
    "reshape": "*self shape",
    "flatten.using_ints": "*self start_dim end_dim",
    "unflatten.int": "*self dim sizes",
    "permute": "*self dims",
    "transpose.int": "*self dim0 dim1",
    "squeeze.dim": _DIM,
    "squeeze.dims": _DIM,
    "unsqueeze": _DIM,
    "slice.Tensor": "*self dim start end step",
    "select.int": "*self dim index",
    "narrow": "*self dim start length",
    "narrow.Tensor": "*self dim start length",
    "split": "*self split_sizes dim",
    "split.Tensor": "*self split_size dim",
    "split.sizes": "*self split_size dim",
    "split_with_sizes": "*self split_sizes dim",
    "chunk": "*self chunks dim",
    "tensor_split.sections": "*self sections dim",
    "tensor_split.indices": "*self indices dim",
    "tensor_split.tensor_indices_or_sections": "*self tensor_indices_or_sections dim",
    "unbind.int": _DIM,
    "clone": "*self memory_format",
    "contiguous": "*self memory_format",
    "_to_copy": "*self dtype layout device non_blocking memory_format",
    "to.device": f"*self device dtype {_TO}",
    "to.dtype": f"*self dtype {_TO}",
    "to.dtype_layout": f"*self dtype layout device {_TO}",
    "to.other": f"*self *other {_TO}",
    "type_as": "*self *other",
    "pixel_shuffle": "*self upscale_factor",
    "pixel_unshuffle": "*self downscale_factor",
    "channel_shuffle": "*self groups",
    "native_channel_shuffle": "*self groups",
    "flip": "*self dims",
    "roll": "*self shifts dims",
    "tril": "*self diagonal",
    "triu": "*self diagonal",
    "diagonal": "*self offset dim1 dim2",
    "movedim.int": "*self source destination",
    "movedim.intlist": "*self source destination",
    "cat": "*tensors dim",
    "concat": "*tensors dim",
    "stack": "*tensors dim",
    "slice_scatter": "*self *src dim start end step",
    "select_scatter": "*self *src dim index",
    # Entries that are repeated.
    "index.Tensor": "*self indices",
    "index_select": "*self dim index",
    "gather": "*self dim index sparse_grad",
    "repeat": "*self repeats",
    "repeat_interleave.self_Tensor": "*self repeats dim output_size",
    "repeat_interleave.self_int": "*self repeats dim output_size",
    "tile": "*self dims",
    "unfold": "*self dimension size step",
    "expand": "*self size implicit",
    "expand_as": "*self *other",
    "broadcast_to": "*self size",
    "pad": "*self pad mode value",
    "constant_pad_nd": "*self pad value",
    **{f"{kind}_pad{n}d": "*self padding" for kind in ("reflection", "replication") for n in (1, 2, 3)},
    # Functions of each entry, and joins of several values.
    "dropout": "*input p train",
    "feature_dropout": "*input p train",
    "alpha_dropout": "*input p train",
    "native_dropout": "*input p train",
    "gelu": "*self approximate",
    "elu": "*self alpha scale input_scale",
    "celu": "*self alpha",
    "leaky_relu": "*self negative_slope",
    "prelu": "*self weight",
    "_prelu_kernel": "*self weight",
    "hardtanh": "*self min_val max_val",
    "softplus": "*self beta threshold",
    "softshrink": "*self lambd",
    "threshold": "*self threshold value",
    "clamp": "*self min max",
    "clamp.Tensor": "*self *min *max",
    "clamp_min": "*self min",
    "clamp_min.Tensor": "*self *min",
    "clamp_max": "*self max",
    "clamp_max.Tensor": "*self *max",
    **{f"{name}.Tensor": "*self *other alpha" for name in ("add", "sub", "rsub")},
    **{f"{name}.Scalar": "*self other alpha" for name in ("add", "sub", "rsub")},
    "mul.Tensor": "*self *other",
    "mul.Scalar": "*self other",
    "pow.Tensor_Scalar": "*self exponent",
    "div.Tensor": "*self *other",
    "div.Scalar": "*self other",
    **dict.fromkeys(("maximum", "minimum", "max.other", "min.other"), "*self *other"),
    "masked_fill.Scalar": "*self mask value",
    "masked_fill.Tensor": "*self mask *value",
    "where.self": "condition *self *other",
    "where.ScalarOther": "condition *self other",
    "where.ScalarSelf": "condition self *other",
    "_native_batch_norm_legit_no_training": "*input weight bias running_mean running_var momentum eps",
    # Complex numbers, and Fourier transforms.
    **dict.fromkeys(("_conj", "resolve_conj", "resolve_neg", "view_as_real", "view_as_complex"), _SELF),
    **{f"fft_{kind}": "*self n dim norm" for kind in ("fft", "ifft", "rfft", "irfft")},
    **{f"fft_{kind}{n}": _TRANSFORM for kind in ("fft", "ifft", "rfft", "irfft") for n in ("2", "n")},
    "fft_fftshift": _DIM,
    "fft_ifftshift": _DIM,
    # Reductions.
    "mean": "*self dtype",
    "mean.dim": "*self dim keepdim dtype",
    "sum": "*self dtype",
    "sum.dim_IntList": "*self dim keepdim dtype",
    **dict.fromkeys(("amax", "amin", "max.dim", "min.dim"), "*self dim keepdim"),
    "sort": "*self dim descending",
    "sort.stable": "*self stable dim descending",
    "topk": "*self k dim largest sorted",
    "linalg_vector_norm": "*self ord dim keepdim dtype",
    "softmax.int": "*self dim dtype",
    "_softmax": _DIM,
    "log_softmax.int": "*self dim dtype",
    "_log_softmax": _DIM,
    # Layers, windows, resizing.
    "linear": "*input *weight bias",
    "mm": "*self *mat2",
    "matmul": "*self *other",
    "bmm": "*self *mat2",
    "einsum": "equation *tensors",
    "addmm": "self *mat1 *mat2 beta alpha",
    **{f"conv{n}d{end}": _CONVOLUTION for n in (1, 2, 3) for end in ("", ".padding")},
    "conv_transpose1d": _TRANSPOSED,
    "conv_transpose2d.input": _TRANSPOSED,
    "conv_transpose3d.input": _TRANSPOSED,
    **{f"max_pool{n}d{end}": _WINDOW for n in (1, 2, 3) for end in ("", "_with_indices")},
    "avg_pool1d": _AVERAGE,
    "avg_pool2d": f"{_AVERAGE} divisor_override",
    "avg_pool3d": f"{_AVERAGE} divisor_override",
    **{f"adaptive_{kind}_pool{n}d": "*self output_size" for kind in ("max", "avg") for n in (1, 2, 3)},
    "_adaptive_avg_pool2d": "*self output_size",
    "_adaptive_avg_pool3d": "*self output_size",
    **{
        f"{name}{n}d{end}": words
        for name in ("upsample_nearest", "_upsample_nearest_exact")
        for n, scales in ((1, "scales"), (2, "scales_h scales_w"), (3, "scales_d scales_h scales_w"))
        for end, words in (("", f"*self output_size {scales}"), (".vec", _VEC))
    },
    **{
        f"upsample_{name}{end}": words
        for name, scales in (
            ("linear1d", "scales"), ("bilinear2d", "scales_h scales_w"), ("trilinear3d", "scales_d scales_h scales_w"),
        )
        for end, words in (("", f"*self output_size align_corners {scales}"), (".vec", _CORNERS))
    },
}  # fmt: skip
"""``operator.overload`` -> the arguments that its rule knows; ``*``: those that may depend on the network's inputs."""


def name_of(schema: Any) -> str:
    """Name of an operator without overload; of torch's own, which alone have rules, without the namespace, too."""
    return str(schema.name).removeprefix("aten::")


def key(schema: Any) -> str:
    """Name of an operator in `SIGNATURES`."""
    name = name_of(schema)
    return f"{name}.{schema.overload_name}" if schema.overload_name else name


def refusal(schema: Any, arguments: Mapping[str, Any]) -> str | None:
    """Why a call is not known; None if it is.

    Parameters
    ----------
    schema : torch.FunctionSchema
    arguments : mapping
        By name, defaults included; what depends on the network's inputs is an fx node.
    """
    name = key(schema)
    if name not in SIGNATURES:
        return f"its overload {name} is not known here"
    words = SIGNATURES[name].split()
    known = {word.lstrip("*") for word in words}
    for argument in schema.arguments:
        value = arguments.get(argument.name)
        default = argument.default_value if argument.has_default_value() else False
        if argument.name not in known and value is not None and value != default:
            return f"its argument {argument.name} is not known here"
        if f"*{argument.name}" not in words and any(isinstance(x, torch.fx.Node) for x in _flat(value)):
            return f"its argument {argument.name} depends on the network's input"
    if arguments.get("layout") not in (None, torch.strided):
        return f"its argument layout={arguments['layout']} is not known here"
    return None


def _flat(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list | tuple) else (value,)
