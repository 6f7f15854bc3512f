"""Arguments at random of every operator that the torch plugin has a rule for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from networks.drawing import Arguments, Dice, Slot, axis, part, pieces, sizes, some_axes
from networks.torch_windows import SMALL, adaptive, convolution, numbers, padded, resized, window
from specnorm_torch.signatures import SIGNATURES
from torch import Tensor

FLOATS = (None, torch.float64, torch.float32, torch.float16, torch.bfloat16)


def alone(**choices: tuple[Any, ...]) -> Callable[[Dice], Arguments]:
    """One value, and arguments that do not depend on its shape."""
    return lambda d: {"self": Slot(sizes(d, 0))} | {name: d.choice(some) for name, some in choices.items()}


def joined(second: str = "other", **choices: tuple[Any, ...]) -> Callable[[Dice], Arguments]:
    """Two values that are broadcast to each other."""

    def draw(d: Dice) -> Arguments:
        shape = sizes(d)
        found: Arguments = {"self": Slot(part(d, shape)), second: Slot(part(d, shape))}
        return found | {name: d.choice(some) for name, some in choices.items()}

    return draw


def along(name: str = "dim", low: int = 1, **more: Callable[[Dice, int], Any]) -> Callable[[Dice], Arguments]:
    """An axis, and arguments that depend on its size."""

    def draw(d: Dice) -> Arguments:
        shape = sizes(d, low)
        at = axis(d, shape)
        n = shape[at] if shape else 1
        return {"self": Slot(shape), name: at} | {key: make(d, n) for key, make in more.items()}

    return draw


def one_of(*some: Any) -> Callable[[Dice, int], Any]:
    return lambda d, _: d.choice(some)


def narrowed(d: Dice) -> Arguments:
    shape = sizes(d)
    at = axis(d, shape)
    start = d.randrange(shape[at])
    return {"self": Slot(shape), "dim": at, "start": start, "length": d.randint(1, shape[at] - start)}


def moved(d: Dice) -> Arguments:
    shape = sizes(d, 1)
    count = d.randint(1, len(shape))
    return {
        "self": Slot(shape),
        "source": d.sample(range(len(shape)), count),
        "destination": d.sample(range(len(shape)), count),
    }


def other_shape(name: str) -> Callable[[Dice], Arguments]:
    def draw(d: Dice) -> Arguments:
        shape = sizes(d)
        flat = [math.prod(shape)] if d.random() < 0.5 else list(shape)[::-1]
        return {"self": Slot(shape), name: d.choice([flat, [-1], [1, *flat]])}

    return draw


def batch_norm(d: Dice) -> Arguments:
    shape = (d.choice([1, 2]), d.randint(1, 3), *([] if d.random() < 0.4 else [2]))
    channels = shape[1]
    return {
        "input": Slot(shape),
        "weight": d.choice([None, numbers(d, (channels,))]),
        "bias": d.choice([None, numbers(d, (channels,))]),
        "running_mean": numbers(d, (channels,)),
        "running_var": numbers(d, (channels,)).abs() * d.choice([1e-6, 1.0]),
        "momentum": d.choice([0.1, 0.5]),
        "eps": d.choice([1e-5, 0.1]),
    }


def where(d: Dice) -> Arguments:
    shape = sizes(d)
    return {
        "condition": numbers(d, part(d, shape)) > 0,
        "self": Slot(part(d, shape)),
        "other": Slot(part(d, shape)),
    }


def where_number(name: str) -> Callable[[Dice], Arguments]:
    return lambda d: where(d) | {name: d.choice(SMALL)}


def masked(d: Dice, *, tensor: bool = False) -> Arguments:
    shape = sizes(d)
    value = Slot(()) if tensor else d.choice(SMALL)
    return {"self": Slot(part(d, shape)), "mask": numbers(d, part(d, shape)) > 0, "value": value}


def clamped(d: Dice) -> Arguments:
    shape = sizes(d)
    some = {"min": Slot(part(d, shape)), "max": Slot(part(d, shape))}
    gone = d.choice([None, "min", "max"])
    return {"self": Slot(part(d, shape))} | {name: None if name == gone else slot for name, slot in some.items()}


def catted(d: Dice) -> Arguments:
    shape = list(sizes(d, 1, 3, 3))
    at = axis(d, tuple(shape))
    tensors = []
    for _ in range(d.randint(1, 3)):
        shape[at] = d.randint(1, 2)
        tensors.append(Slot(tuple(shape)))
    return {"tensors": tensors, "dim": at}


def stacked(d: Dice) -> Arguments:
    shape = sizes(d, 0, 2)
    return {"tensors": [Slot(shape) for _ in range(d.randint(1, 3))], "dim": axis(d, shape, 1)}


def slice_scatter(d: Dice) -> Arguments:
    shape = sizes(d)
    at = axis(d, shape)
    cut = (d.choice([None, 0, 1, -1]), d.choice([None, 1, 2, 9]), d.randint(1, 2))
    source = list(shape)
    source[at] = len(range(*slice(*cut).indices(shape[at])))
    names = dict(zip(("start", "end", "step"), cut, strict=True))
    return {"self": Slot(shape), "src": Slot(tuple(source)), "dim": at} | names


def select_scatter(d: Dice) -> Arguments:
    shape = sizes(d)
    at = d.randrange(len(shape))
    found: Arguments = {"self": Slot(shape), "src": Slot(shape[:at] + shape[at + 1 :])}
    return found | {"dim": d.choice([at, at - len(shape)]), "index": d.randrange(-shape[at], shape[at])}


def indexed(d: Dice) -> Arguments:
    shape = sizes(d)
    count = d.randint(1, len(shape))
    many = d.randint(1, 5)
    indices = [torch.tensor([d.randrange(-n, n) for _ in range(many)]) for n in shape[:count]]
    if d.random() < 0.2:
        indices = [numbers(d, shape) > 0]
    elif count < len(shape) and d.random() < 0.5:
        indices = [None, *indices[1:], torch.tensor([d.randrange(shape[count])])]  # type: ignore[list-item]
    return {"self": Slot(shape), "indices": indices}


def gathered(d: Dice) -> Arguments:
    shape = sizes(d)
    at = axis(d, shape)
    wide = list(shape)
    wide[at] = d.randint(1, 5)
    index = torch.tensor([d.randrange(shape[at]) for _ in range(math.prod(wide))]).reshape(wide)
    return {"self": Slot(shape), "dim": at, "index": index, "sparse_grad": d.random() < 0.5}


def interleaved(d: Dice, *, tensor: bool) -> Arguments:
    shape = sizes(d)
    at = d.choice([None, axis(d, shape)])
    n = math.prod(shape) if at is None else shape[at]
    repeats = torch.tensor([d.randint(0, 3) for _ in range(n)]) if tensor else d.randint(1, 3)
    out = int(repeats.sum()) if isinstance(repeats, Tensor) else n * repeats
    return {"self": Slot(shape), "repeats": repeats, "dim": at, "output_size": d.choice([None, out])}


def repeated(d: Dice) -> Arguments:
    shape = sizes(d)
    return {"self": Slot(shape), "repeats": [d.randint(1, 2) for _ in range(len(shape) + 1)]}


def prelu(d: Dice) -> Arguments:
    n = d.randint(1, 3)
    return {"self": Slot((1, n, 2)), "weight": numbers(d, d.choice([(n,), (1,)]))}


def expanded(d: Dice) -> Arguments:
    shape = sizes(d, 1, 3)
    before = tuple(1 if d.random() < 0.5 else n for n in shape[d.randint(0, len(shape)) :])
    wanted = [-1 if d.random() < 0.3 and at >= len(shape) - len(before) else n for at, n in enumerate(shape)]
    return {"self": Slot(before), "size": wanted}


def expanded_as(d: Dice) -> Arguments:
    shape = sizes(d)
    return {"self": Slot(part(d, shape)), "other": Slot(shape)}


def shuffled(name: str, *, down: bool) -> Callable[[Dice], Arguments]:
    def draw(d: Dice) -> Arguments:
        r = d.randint(1, 2)
        return {"self": Slot((1, 1, r * 2, r) if down else (1, r * r, 2, d.randint(1, 2))), name: r}

    return draw


def in_groups(d: Dice) -> Arguments:
    groups = d.randint(1, 3)
    return {"self": Slot((1, groups * 2, d.randint(1, 2), 1)), "groups": groups}


def rolled(d: Dice) -> Arguments:
    shape = sizes(d)
    dims = d.choice([[], some_axes(d, shape)])
    return {"self": Slot(shape), "shifts": [d.randint(-3, 3) for _ in dims or [0]], "dims": dims}


def diagonal(d: Dice) -> Arguments:
    shape = sizes(d, 2)
    one, two = d.sample(range(len(shape)), 2)
    return {"self": Slot(shape), "offset": d.randint(-1, 1), "dim1": one, "dim2": two}


def flattened(d: Dice) -> Arguments:
    shape = sizes(d)
    start = d.randrange(len(shape))
    return {"self": Slot(shape), "start_dim": start, "end_dim": d.choice([-1, d.randrange(start, len(shape))])}


def reduced(*, ord: bool = False, dtype: bool = False, none: bool = True) -> Callable[[Dice], Arguments]:
    def draw(d: Dice) -> Arguments:
        shape = sizes(d)
        found: Arguments = {"self": Slot(shape), "dim": d.choice([some_axes(d, shape), [], None if none else []])}
        found["keepdim"] = d.random() < 0.5
        if ord:
            found["ord"] = d.choice([2, 2.0, 2, 1, math.inf, 0, 3])
        return found | ({"dtype": d.choice(FLOATS)} if dtype else {})

    return draw


def matrix(first: str, second: str, *, linear: bool = False, plain: bool = False) -> Callable[[Dice], Arguments]:
    def draw(d: Dice) -> Arguments:
        n, k, m = (d.randint(1, 3) for _ in range(3))
        a: tuple[int, ...] = (n, k)
        b: tuple[int, ...] = (m, k) if linear else (k, m)
        if not plain and d.random() < 0.4:
            a = d.choice([(2, n, k), (k,)])
        if not plain and not linear and d.random() < 0.3:
            b = d.choice([(2, k, m), (k,)])
        found: Arguments = {first: Slot(a), second: Slot(b)}
        return found | ({"bias": d.choice([None, numbers(d, (m,))])} if linear else {})

    return draw


def addmm(d: Dice) -> Arguments:
    found = matrix("mat1", "mat2", plain=True)(d)
    out = (found["mat1"].shape[0], found["mat2"].shape[1])
    return found | {
        "self": numbers(d, part(d, out)),
        "alpha": d.choice([1, 10, -0.5, 0]),
        "beta": d.choice([1, 0, 3.0]),
    }


def converted(**more: tuple[Any, ...]) -> Callable[[Dice], Arguments]:
    choices: dict[str, tuple[Any, ...]] = {
        "non_blocking": (False, True),
        "memory_format": (None, torch.preserve_format, torch.contiguous_format),
    }
    return alone(**(choices | more))


ANY_DTYPE = (*FLOATS[1:], torch.int32, torch.bool, torch.float8_e4m3fn, torch.complex64)
CPU = (torch.device("cpu"), torch.device("cpu", 0))
COPY = (False, True)
THREE = (1, 2, 3)

DRAWS: dict[str, Callable[[Dice], Arguments]] = {
    **{key: alone() for key, words in SIGNATURES.items() if words == "*self"},
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
    "slice_scatter": slice_scatter,
    "select_scatter": select_scatter,
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
    "mul.Tensor": joined(),
    "mul.Scalar": alone(other=SMALL),
    "div.Tensor": lambda d: (lambda found: found | {"other": numbers(d, found["other"].shape) + 5})(joined()(d)),
    "div.Scalar": alone(other=(-2.0, 0.5, 3, 7.0)),
    **{name: joined() for name in ("maximum", "minimum", "max.other", "min.other")},
    "masked_fill.Scalar": masked,
    "masked_fill.Tensor": lambda d: masked(d, tensor=True),
    "where.self": where,
    "where.ScalarOther": where_number("other"),
    "where.ScalarSelf": where_number("self"),
    "_native_batch_norm_legit_no_training": batch_norm,
    "mean": alone(dtype=FLOATS),
    "sum": alone(dtype=FLOATS),
    "mean.dim": reduced(dtype=True),
    "sum.dim_IntList": reduced(dtype=True),
    "amax": reduced(none=False),
    "amin": reduced(none=False),
    "max.dim": along(keepdim=one_of(True, False)),
    "min.dim": along(keepdim=one_of(True, False)),
    "linalg_vector_norm": reduced(ord=True, dtype=True),
    "softmax.int": along(low=0, dtype=one_of(*FLOATS)),
    "log_softmax.int": along(low=0, dtype=one_of(*FLOATS)),
    "_softmax": along(low=0, half_to_float=one_of(False)),
    "_log_softmax": along(low=0, half_to_float=one_of(False)),
    "linear": matrix("input", "weight", linear=True),
    "mm": matrix("self", "mat2", plain=True),
    "matmul": matrix("self", "other"),
    "addmm": addmm,
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
