"""Arguments at random of every operator that the torch plugin has a rule for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from networks.drawing import Arguments, Dice, Slot, axis, pieces, sizes, some_axes
from networks.torch_draws import (
    FLOATS,
    addmm,
    alone,
    along,
    batch_norm,
    bmm,
    catted,
    clamped,
    converted,
    diagonal,
    einsum,
    expanded,
    expanded_as,
    flattened,
    gathered,
    in_groups,
    indexed,
    interleaved,
    joined,
    masked,
    matrix,
    moved,
    narrowed,
    one_of,
    other_shape,
    over_channels,
    over_groups,
    over_the_last,
    prelu,
    quotient,
    reduced,
    repeated,
    rolled,
    select_scatter,
    shifted,
    shuffled,
    slice_scatter,
    stacked,
    where,
    where_number,
)  # fmt: skip
from networks.torch_windows import SMALL, adaptive, convolution, numbers, padded, resized, window
from specnorm_torch.writing import RULES

ANY_DTYPE = (*FLOATS[1:], torch.int32, torch.bool, torch.float8_e4m3fn, torch.complex64)
CPU = (torch.device("cpu"), torch.device("cpu", 0))
COPY = (False, True)
THREE = (1, 2, 3)


def target(key: str) -> Any:
    name, _, overload = key.partition(".")
    return getattr(getattr(torch.ops.aten, name), overload or "default")


ALONE = [key for key, rule in RULES.items() if rule.arguments(target(key)._schema)[0] == {"self"}]


def put(d: Dice) -> Arguments:
    found = indexed(d)
    at = tuple(slice(None) if each is None else each for each in found["indices"])
    shape = tuple(torch.zeros(found["self"].shape)[at].shape)
    shape = d.choice([shape, shape[1:], ()])
    return found | {"values": Slot(shape), "accumulate": d.random() < 0.2}


DRAWS: dict[str, Callable[[Dice], Arguments]] = {
    **{key: alone() for key in ALONE},
    "t": lambda d: {"self": Slot(sizes(d, 0, 2))},
    "numpy_T": lambda d: {"self": Slot(sizes(d, 2, 2))},
    "hardsigmoid": alone(),
    "view": other_shape("size"),
    "_unsafe_view": other_shape("size"),
    "reshape": other_shape("shape"),
    "flatten.using_ints": flattened,
    "unflatten.int": along(sizes=lambda d, n: d.choice([[n, 1], [1, -1], [-1]])),
    "permute": lambda d: (lambda s: {"self": Slot(s), "dims": d.sample(range(len(s)), len(s))})(sizes(d)),
    "transpose.int": lambda d: (lambda s: {"self": Slot(s), "dim0": axis(d, s), "dim1": axis(d, s)})(sizes(d)),
    "squeeze.dim": along(),
    "squeeze.dims": lambda d: (lambda s: {"self": Slot(s), "dim": some_axes(d, s)})(sizes(d)),
    "unsqueeze": lambda d: (lambda s: {"self": Slot(s), "dim": axis(d, s, 1)})(sizes(d, 0)),
    "slice.Tensor": along(start=one_of(None, 0, 1, -1), end=one_of(None, 1, 3, -1), step=one_of(1, 2, 3)),
    "select.int": along(index=lambda d, n: d.randrange(-n, n)),
    "narrow": narrowed,
    "narrow.Tensor": lambda d: (lambda found: found | {"start": torch.tensor(found["start"])})(narrowed(d)),
    "split": along(split_sizes=pieces),
    "split.Tensor": along(split_size=one_of(1, 2, 3)),
    "split.sizes": along(split_size=pieces),
    "split_with_sizes": along(split_sizes=pieces),
    "chunk": along(chunks=one_of(1, 2, 3)),
    "tensor_split.sections": along(sections=one_of(1, 2, 3)),
    "tensor_split.indices": along(indices=one_of([1], [1, 2], [2, 1])),
    "tensor_split.tensor_indices_or_sections": along(
        tensor_indices_or_sections=one_of(torch.tensor(2), torch.tensor([1]))
    ),
    "unbind.int": along(),
    "clone": alone(memory_format=(None, torch.contiguous_format, torch.preserve_format)),
    "contiguous": alone(memory_format=(torch.contiguous_format, torch.preserve_format)),
    "_to_copy": converted(dtype=(None, *ANY_DTYPE), layout=(None, torch.strided), device=(None, *CPU)),
    "to.device": converted(device=CPU, dtype=ANY_DTYPE, copy=COPY),
    "to.dtype": converted(dtype=ANY_DTYPE, copy=COPY),
    "to.dtype_layout": converted(
        dtype=(None, *ANY_DTYPE), layout=(None, torch.strided), device=(None, *CPU), copy=COPY
    ),
    "to.other": lambda d: converted(copy=COPY)(d) | {"other": Slot(sizes(d))},
    "type_as": lambda d: {"self": Slot(sizes(d)), "other": Slot(sizes(d))},
    "pixel_shuffle": shuffled("upscale_factor", down=False),
    "pixel_unshuffle": shuffled("downscale_factor", down=True),
    "channel_shuffle": in_groups,
    "native_channel_shuffle": in_groups,
    "flip": lambda d: (lambda s: {"self": Slot(s), "dims": some_axes(d, s)})(sizes(d)),
    "roll": rolled,
    "tril": lambda d: {"self": Slot(sizes(d, 2)), "diagonal": d.randint(-2, 2)},
    "triu": lambda d: {"self": Slot(sizes(d, 2)), "diagonal": d.randint(-2, 2)},
    "diagonal": diagonal,
    "movedim.int": lambda d: (lambda s: {"self": Slot(s), "source": axis(d, s), "destination": axis(d, s)})(sizes(d)),
    "movedim.intlist": moved,
    "cat": catted,
    "concat": catted,
    "stack": stacked,
    "copy": lambda d: joined("src", non_blocking=(False, True))(d) | {"self": Slot(sizes(d))},
    "fill.Tensor": lambda d: {"self": Slot(sizes(d)), "value": Slot(())},
    "slice_scatter": slice_scatter,
    "select_scatter": select_scatter,
    "index_put": put,
    "index.Tensor": indexed,
    "index_select": along(index=lambda d, n: torch.tensor([d.randrange(n) for _ in range(d.randint(1, 5))])),
    "gather": gathered,
    "repeat": repeated,
    "tile": lambda d: {"self": Slot(sizes(d)), "dims": [d.randint(1, 2) for _ in range(d.randint(1, 3))]},
    "repeat_interleave.self_Tensor": lambda d: interleaved(d, tensor=True),
    "repeat_interleave.self_int": lambda d: interleaved(d, tensor=False),
    "unfold": along("dimension", size=lambda d, n: d.randint(1, n), step=one_of(1, 2)),
    "expand": lambda d: expanded(d) | {"implicit": d.random() < 0.5},
    "broadcast_to": expanded,
    "expand_as": expanded_as,
    "pad": padded(mode=True),
    "constant_pad_nd": padded(mode=False),
    **{
        f"{kind}_pad{n}d": padded(mode=False, name="padding", fixed=(kind, n))
        for kind in ("reflection", "replication") for n in THREE
    },
    **{
        name: lambda d: {"input": Slot((2, d.randint(1, 3), 1)), "p": d.choice([0.1, 0.5]), "train": d.random() < 0.3}
        for name in ("dropout", "feature_dropout", "alpha_dropout", "native_dropout")
    },
    "gelu": alone(approximate=("none", "tanh")),
    "elu": alone(alpha=SMALL, scale=SMALL, input_scale=(1.0, 1.0, *SMALL)),
    "celu": alone(alpha=(-2.0, -0.1, 0.1, 0.7, 1.0, 5.0)),
    "leaky_relu": alone(negative_slope=SMALL),
    "prelu": prelu,
    "_prelu_kernel": lambda d: (lambda n: {"self": Slot((1, n, 2)), "weight": numbers(d, (1, n, 1))})(d.randint(1, 3)),
    "hardtanh": alone(min_val=SMALL, max_val=SMALL),
    "softplus": alone(beta=(1, -2.0, 0.1, 3.0), threshold=(20, 1, 5, 30.0)),
    "softshrink": alone(lambd=(0.0, 0.5, 2.0)),
    "threshold": lambda d: alone(threshold=(1.0, 0.0), value=(1.0, 0.0, -2.0))(d),
    "clamp": alone(min=(None, *SMALL), max=SMALL),
    "clamp.Tensor": clamped,
    "clamp_min": alone(min=SMALL),
    "clamp_max": alone(max=SMALL),
    "clamp_min.Tensor": joined("min"),
    "clamp_max.Tensor": joined("max"),
    **{f"{name}.Tensor": joined(alpha=(1, 1, *SMALL)) for name in ("add", "sub", "rsub")},
    **{f"{name}.Scalar": alone(other=SMALL, alpha=(1, *SMALL)) for name in ("add", "sub", "rsub")},
    **{f"{kind}.{end}": alone(other=SMALL) if end == "Scalar" else joined() for kind in ("gt", "ge", "lt", "le")
       for end in ("Scalar", "Tensor")},
    "mul.Tensor": joined(),
    "mul.Scalar": alone(other=SMALL),
    "div.Tensor": quotient,
    "pow.Tensor_Scalar": alone(exponent=(1, 2, 3, 2.0, 0.5, -0.5, -1, 5, 0.3)),
    "div.Scalar": alone(other=(-2.0, 0.5, 3, 7.0)),
    **{name: joined() for name in ("maximum", "minimum", "max.other", "min.other")},
    "masked_fill.Scalar": masked,
    "masked_fill.Tensor": lambda d: masked(d, tensor=True),
    "where.self": where,
    "where.ScalarOther": where_number("other"),
    "where.ScalarSelf": where_number("self"),
    "_native_batch_norm_legit_no_training": batch_norm,
    "layer_norm": over_the_last(bias=True),
    "rms_norm": over_the_last(bias=False),
    "group_norm": over_groups,
    "instance_norm": over_channels,
    "mean": alone(dtype=FLOATS),
    "sum": alone(dtype=FLOATS),
    "mean.dim": reduced(dtype=True),
    "sum.dim_IntList": reduced(dtype=True),
    "amax": reduced(none=False),
    "amin": reduced(none=False),
    "max.dim": along(keepdim=one_of(True, False)),
    "min.dim": along(keepdim=one_of(True, False)),
    "sort": along(low=0, descending=one_of(False, True)),
    "sort.stable": along(low=0, descending=one_of(False, True), stable=one_of(None, True, False)),
    "topk": along(k=lambda d, n: d.randint(1, n), largest=one_of(True, False), sorted=one_of(True, True, False)),
    "linalg_vector_norm": reduced(ord=True, dtype=True),
    "softmax.int": along(low=0, dtype=one_of(*FLOATS)),
    "log_softmax.int": along(low=0, dtype=one_of(*FLOATS)),
    "_softmax": along(low=0, half_to_float=one_of(False)),
    "_log_softmax": along(low=0, half_to_float=one_of(False)),
    "linear": matrix("input", "weight", linear=True),
    "mm": matrix("self", "mat2", plain=True),
    "matmul": matrix("self", "other"),
    "addmm": addmm,
    "bmm": bmm,
    "einsum": einsum,
    "fft_fftshift": shifted,
    "fft_ifftshift": shifted,
    **{f"conv{n}d": convolution(n) for n in THREE},
    **{f"conv{n}d.padding": convolution(n, words=True) for n in THREE},
    "conv_transpose1d": convolution(1, transposed=True),
    "conv_transpose2d.input": convolution(2, transposed=True),
    "conv_transpose3d.input": convolution(3, transposed=True),
    **{f"max_pool{n}d{end}": window(n) for n in THREE for end in ("", "_with_indices")},
    **{f"avg_pool{n}d": window(n, average=True, divisor=n > 1) for n in THREE},
    **{f"adaptive_{kind}_pool{n}d": adaptive(n) for kind in ("max", "avg") for n in THREE},
    **{f"_adaptive_avg_pool{n}d": adaptive(n) for n in (2, 3)},
    **{
        f"{name}{n}d{'.vec' if vec else ''}": resized(n, vec=vec, corners=False)
        for name in ("upsample_nearest", "_upsample_nearest_exact") for n in THREE for vec in (False, True)
    },
    **{
        f"upsample_{name}{'.vec' if vec else ''}": resized(n, vec=vec, corners=True)
        for n, name in enumerate(("linear1d", "bilinear2d", "trilinear3d"), 1) for vec in (False, True)
    },
}  # fmt: skip
