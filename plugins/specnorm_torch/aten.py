"""Torch's operators in the words of `specnorm.networks.rules`: a table of names, and a line or a few for each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from specnorm.networks import Node
from specnorm.networks.graph import Offset
from specnorm_torch.calls import Call, Rule, Translation
from specnorm_torch.copying import copies, linear_resize, nearest
from specnorm_torch.fourier import COMPLEX, TRANSFORMS, einsum, product
from specnorm_torch.products import PRODUCT, divide, multiply, power, steep


def _select(call: Call) -> Translation:
    return Translation("select", {}, (str(call["self"].name),))


def _split(call: Call) -> Translation:
    """Disjoint pieces, which are nodes of their own."""
    return Translation("select", {"split": True}, (str(call["self"].name),))


def _slice(call: Call) -> Translation:
    """Every step-th entry of an axis, from a start on."""
    shape = call.shape("self")
    axis = call["dim"] % len(shape)
    first, _, step = slice(call["start"], call["end"], call["step"]).indices(shape[axis])
    return Translation("select", {"slice": ((axis, first, step),)}, (str(call["self"].name),))


def _identity(call: Call) -> Translation:
    """The same entries in the same places."""
    return Translation("select", {"shift": True}, (str(call["self"].name),))


def _reshape(call: Call) -> Translation:
    """The same entries, in the same order."""
    return Translation("select", {"reshaped": True}, (str(call["self"].name),))


def _dropout(call: Call) -> Translation:
    if call["train"]:
        return Translation("unknown", {"reason": "dropout is active: pass training=self.training"})
    return Translation("select", {"shift": True})


def _function(function: str) -> Rule:
    return lambda _: Translation("pointwise", {"function": function})


def _parametric(function: str, **names: str) -> Rule:
    """A function with parameters: its own name of each -> torch's."""
    return lambda call: Translation(
        "pointwise", {"function": function} | {name: float(call[given]) for name, given in names.items()}
    )


def _prelu(call: Call) -> Translation:
    weight: Tensor = call["weight"]
    low, high = (float(weight.min()), float(weight.max())) if weight.numel() else (0.0, 0.0)
    return Translation("pointwise", {"function": "prelu", "low": low, "high": high})


def _gelu(call: Call) -> Translation:
    function = {"none": "gelu", "tanh": "gelu_tanh"}.get(call["approximate"], f"gelu of {call['approximate']!r}")
    return Translation("pointwise", {"function": function})


def _add(call: Call) -> Translation:
    """Sum, also weighted, also with constants."""
    weighted = "self" if call.name == "rsub" else "other"
    alpha = float(call["alpha"]) * (1 if call.name == "add" else -1)
    names = {name: str(call[name].name) for name in ("self", "other") if call.is_data(name)}
    before: tuple[Node, ...] = ()
    # A sum keeps signs; beside constants the sign is a factor.
    factor = alpha if len(names) == 1 else abs(alpha)
    if weighted in names and factor != 1:
        source, names[weighted] = names[weighted], f"{call.node.name}.alpha"
        params = {"values": factor, "exact": True}
        before = (Node(names[weighted], "scale", call.name, (source,), call.shape(weighted), params),)
    if len(names) == 1:
        (constant,) = {"self", "other"} - set(names)
        offset = _constant(call[constant], alpha if constant == weighted else 1.0)
        return Translation("add", {"shift": True}, tuple(names.values()), before, offset=offset)
    signs = tuple(-1 if name == weighted and alpha < 0 else 1 for name in names)
    return Translation("add", {"signs": signs}, tuple(names.values()), before)


def _constant(value: Any, factor: float = 1.0, spatial: int = 0) -> Offset | None:
    """What is added: a number or tensor, times a number; ``spatial``: axes behind its own. None for none."""
    if value is None:
        return None

    def load() -> tuple[Any, Any]:
        numbers = torch.as_tensor(value).detach().to(torch.float64).cpu().numpy() * factor
        numbers = numbers.reshape((*numbers.shape, *(1,) * spatial))
        return numbers, abs(numbers) * (0.0 if abs(factor) == 1 else 2.0**-50)

    return load


def _batch_norm(call: Call) -> Translation:
    """At inference; with statistics of the batch it mixes samples."""
    variance: Tensor = call["running_var"]
    wide = 1 / torch.sqrt(variance.detach().to(torch.float64) + call["eps"])
    if call["weight"] is not None:
        wide = wide * call["weight"].detach().to(torch.float64)
    spatial = len(call.shape()) - 2

    def offset() -> tuple[Any, Any]:
        ahead = call["running_mean"].detach().to(torch.float64) * wide
        behind = torch.zeros_like(ahead) if call["bias"] is None else call["bias"].detach().to(torch.float64)
        # A few roundings of the scale, the product and the difference.
        both = ((behind - ahead), (behind.abs() + ahead.abs()) * 2.0**-47)
        numbers, lost = (each.cpu().numpy().reshape(-1, *(1,) * spatial) for each in both)
        return numbers, lost

    return Translation("scale", {"values": wide.cpu().numpy(), "channel": 1}, offset=offset)


def _stack(call: Call) -> Translation:
    names = tuple(str(x.name) for x in call["tensors"] if isinstance(x, torch.fx.Node))
    along = {} if call.name == "stack" else {"axis": call["dim"] % len(call.shape())}
    return Translation("stack", along, names)


def _extreme(call: Call) -> Translation:
    """Entrywise maximum, minimum or choice of any of several values."""
    names = ("self", "other", "min", "max", "value", "src")
    choice = {"maximum": "max", "max": "max", "minimum": "min", "min": "min"}.get(call.name)
    params = {} if choice is None else {"choice": choice}
    return Translation("extreme", params, tuple(str(call[name].name) for name in names if call.is_data(name)))


def _scatter(call: Call) -> Translation:
    return replace(_extreme(call), rule="stack")


def _axes(call: Call, name: str = "dim") -> list[int]:
    ndim = len(call.shape("self"))
    given = call.arguments.get(name)
    given = [given] if isinstance(given, int) else given
    return [axis % ndim for axis in given] if given else list(range(ndim))


def _reduce(rule: str) -> Rule:
    return lambda call: Translation(rule, {"axes": _axes(call)})


def _end(call: Call) -> Translation:
    """Largest or smallest along axes."""
    kept = bool(call.arguments.get("keepdim", False))
    return Translation("length", {"choice": call.name[-3:], "axes": tuple(_axes(call)), "kept": kept})


def _sort(call: Call) -> Translation:
    """Along an axis; or the first of them, in order."""
    if not call.arguments.get("sorted", True):
        return Translation("unknown", {"reason": "in which order its entries come depends on them"})
    shape = call.shape("self")
    axis = call["dim"] % max(len(shape), 1)
    whole = bool(shape) and shape == call.shape()
    return Translation("select", {"sorted": axis, "consecutive": shape[axis]} if whole else {})


def _norm(call: Call) -> Translation:
    return Translation("length") if float(call["ord"]) == 2 else Translation("unknown")


def _log_softmax(call: Call) -> Translation:
    return Translation("log_softmax", {"axis": call["dim"]})


def _pad(call: Call) -> Translation:
    mode = {"reflection": "reflect", "replication": "replicate"}.get(call.name.partition("_")[0])
    mode = mode or {"constant": "zeros"}.get(call.arguments.get("mode", "constant"), call.arguments.get("mode"))
    amounts = call.arguments.get("pad") or call.arguments.get("padding") or []
    pairs = tuple((int(a), int(b)) for a, b in zip(amounts[::2], amounts[1::2], strict=True))[::-1]
    if min((a for pair in pairs for a in pair), default=0) < 0:
        return Translation("select") if mode == "zeros" else Translation("unknown")
    constant = float(call.arguments.get("value") or 0.0)
    return Translation("pad", {"mode": mode, "pads": pairs} | ({"constant": constant} if constant else {}))


def _per_axis(value: Any, ndim: int) -> tuple[int, ...]:
    value = [value] if isinstance(value, int) else list(value)
    return tuple(int(v) for v in (value * ndim if len(value) == 1 else value))


def _convolution(ndim: int, *, transposed: bool = False) -> Rule:
    def translate(call: Call) -> Translation:
        padding, extra = call["padding"], _per_axis(call.arguments.get("output_padding", 0), ndim)
        pairs: Any = "same"
        if padding != "same":
            pairs = tuple((p, p) for p in _per_axis(0 if padding == "valid" else padding, ndim))
        if transposed:
            # Rows added beyond the crop are zeros, which change no norm.
            pairs = tuple((p, max(p - more, 0)) for (p, _), more in zip(pairs, extra, strict=True))
        geometry = {
            "stride": _per_axis(call["stride"], ndim),
            "dilation": _per_axis(call["dilation"], ndim),
            "groups": call["groups"],
            "transposed": transposed,
            "padding_mode": "zeros",
            "padding": pairs,
        }
        return replace(_layer(call["weight"], geometry, ndim), offset=_constant(call["bias"], spatial=ndim))

    return translate


def _layer(weight: Tensor, geometry: dict[str, Any], ndim: int) -> Translation:
    return Translation("layer", {}, (), (), lambda: weight.detach(), weight, geometry, ndim)


def _matrix(weight: str, data: str) -> Rule:
    """Product with a constant matrix, from either side."""

    def translate(call: Call) -> Translation:
        kernel, x = (weight, data) if call.is_data(data) else (data, weight)
        if call.is_data(kernel):
            return Translation("unknown", PRODUCT)
        matrix: Tensor = call[kernel]
        if matrix.ndim > 2:
            return product("self", "other")(call)
        if matrix.ndim != 2 or not call.is_data(x):
            return Translation("unknown", {"reason": f"its constant matrix has shape {tuple(matrix.shape)}"})
        # From the left the outputs are not the last axis of the result.
        params = {"foldable": kernel == weight, "alpha": float(call.arguments.get("alpha", 1))}
        added = call.arguments.get("bias") if call.name == "linear" else call.arguments.get("self")
        offset = None
        if call.name in ("linear", "addmm"):
            offset = _constant(added, float(call.arguments.get("beta", 1)))
        return replace(_layer(matrix, {}, 0), params=params, turned=call.name != "linear", offset=offset)

    return translate


def _pool(ndim: int, rule: str) -> Rule:
    def translate(call: Call) -> Translation:
        kernel = _per_axis(call["kernel_size"], ndim)
        padding = _per_axis(call["padding"], ndim)
        divisor = call.arguments.get("divisor_override")
        return Translation(rule, {
            "kernel": kernel,
            "stride": _per_axis(call["stride"], ndim) if call.arguments.get("stride") else kernel,
            "dilation": _per_axis(call.arguments.get("dilation", 1), ndim),
            "padding": tuple((p, p) for p in padding),
            "ceil": call["ceil_mode"],
            "count_padding": bool(divisor) or call.arguments.get("count_include_pad", True),
            "divisor": divisor,
        })  # fmt: skip

    return translate


def _adaptive(ndim: int, rule: str) -> Rule:
    return lambda _: Translation(rule, {"adaptive": True, "spatial": ndim})


_SELECTS = (
    "permute", "transpose", "t", "numpy_T", "select", "narrow", "unbind", "pixel_shuffle", "pixel_unshuffle",
    "channel_shuffle", "native_channel_shuffle", "flip", "roll", "tril", "triu", "diagonal", "movedim", "_to_copy",
    "to", "type_as", "lift_fresh_copy", "fft_fftshift", "fft_ifftshift",
)  # fmt: skip
_IDENTITIES = ("clone", "contiguous", "detach", "alias", "positive", "_conj", "resolve_conj", "resolve_neg")
_RESHAPES = ("view", "_unsafe_view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze")
_FUNCTIONS = {
    "relu": "relu", "relu6": "clip", "sigmoid": "sigmoid", "tanh": "tanh", "silu": "silu",
    "mish": "mish", "selu": "selu", "log_sigmoid": "log_sigmoid", "log_sigmoid_forward":
    "log_sigmoid", "hardswish": "hard_swish", "abs": "abs", "neg": "negative", "sin": "sin", "cos": "cos",
    "atan": "arctan", "erf": "erf",
}  # fmt: skip

RULES: dict[str, Rule] = {
    **dict.fromkeys(_SELECTS, _select),
    "slice": _slice,
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "tensor_split"), _split),
    **dict.fromkeys(_IDENTITIES, _identity),
    **dict.fromkeys(_RESHAPES, _reshape),
    **{name: _function(function) for name, function in _FUNCTIONS.items()},
    **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout", "native_dropout"), _dropout),
    **dict.fromkeys(("add", "sub", "rsub"), _add),
    **dict.fromkeys(("index", "index_select", "gather", "repeat", "repeat_interleave", "tile", "unfold"), copies),
    **dict.fromkeys(("cat", "stack", "concat"), _stack),
    **dict.fromkeys(("maximum", "minimum", "where", "masked_fill", "clamp", "clamp_min", "clamp_max"), _extreme),
    **dict.fromkeys(
        ("expand", "expand_as", "broadcast_to"), lambda call: Translation("broadcast", {}, (str(call["self"].name),))
    ),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **{f"{kind}_pad{n}d": _pad for kind in ("reflection", "replication") for n in (1, 2, 3)},
    "gelu": _gelu,
    "celu": _parametric("celu", alpha="alpha"),
    "elu": _parametric("elu", alpha="alpha", scale="scale", input_scale="input_scale"),
    "hardtanh": _parametric("hardtanh", low="min_val", high="max_val"),
    "leaky_relu": _parametric("leaky", alpha="negative_slope"),
    "softplus": _parametric("softplus", beta="beta", threshold="threshold"),
    "softshrink": _parametric("softshrink", lambd="lambd"),
    "threshold": _parametric("threshold", threshold="threshold", value="value"),
    "prelu": _prelu,
    "_prelu_kernel": _prelu,
    # torch multiplies by 1/6 in float32
    "hardsigmoid": lambda _: Translation("pointwise", {"function": "linear", "alpha": 0.16666668}),
    **{name: steep(name) for name in ("exp", "log", "sqrt", "rsqrt", "reciprocal")},
    "pow": power,
    "square": power,
    "mul": multiply,
    "div": divide,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "slice_scatter": _scatter,
    "select_scatter": _scatter,
    "mean": _reduce("mean"),
    "sum": _reduce("sum"),
    **dict.fromkeys(
        ("amax", "amin", "max", "min"),
        lambda call: _extreme(call) if "other" in call.arguments else _end(call),
    ),
    "linalg_vector_norm": _norm,
    "sort": _sort,
    "topk": _sort,
    **dict.fromkeys(("softmax", "_softmax"), lambda _: Translation("softmax")),
    **dict.fromkeys(("log_softmax", "_log_softmax"), _log_softmax),
    "linear": _matrix("weight", "input"),
    "mm": _matrix("mat2", "self"),
    "matmul": _matrix("other", "self"),
    "addmm": _matrix("mat2", "mat1"),
    "bmm": product("self", "mat2"),
    "einsum": einsum,
    **{name: COMPLEX[name] for name in ("view_as_real", "view_as_complex")},
    **TRANSFORMS,
    **{f"conv{n}d": _convolution(n) for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": _convolution(n, transposed=True) for n in (1, 2, 3)},
    **{f"max_pool{n}d{end}": _pool(n, "max_pool") for n in (1, 2, 3) for end in ("", "_with_indices")},
    **{f"avg_pool{n}d": _pool(n, "average_pool") for n in (1, 2, 3)},
    **{f"adaptive_max_pool{n}d": _adaptive(n, "max_pool") for n in (1, 2, 3)},
    **{f"adaptive_avg_pool{n}d": _adaptive(n, "average_pool") for n in (1, 2, 3)},
    **{f"_adaptive_avg_pool{n}d": _adaptive(n, "average_pool") for n in (2, 3)},
    **{f"{name}{n}d": nearest for name in ("upsample_nearest", "_upsample_nearest_exact") for n in (1, 2, 3)},
    **dict.fromkeys(("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d"), linear_resize),
}
"""Operator -> translation; what is not here is unknown."""

_NORMALISED = "it divides by a deviation of its own input, where no constant below max |weight| / sqrt(eps) holds"
REASONS = {
    **dict.fromkeys(
        ("layer_norm", "native_layer_norm", "group_norm", "native_group_norm", "instance_norm"), _NORMALISED
    ),
    **dict.fromkeys(("rms_norm", "local_response_norm", "normalize"), _NORMALISED),
    **dict.fromkeys(("baddbmm", "scaled_dot_product_attention"), PRODUCT["reason"]),
    "_native_batch_norm_legit_functional": "it normalises by the statistics of the batch",
    **dict.fromkeys(["var", "std"], "its slope has no bound"),
}
"""Why some operators are unknown."""
