"""Arguments at random, by what they have in common: shapes, axes, indices, products."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from networks.drawing import Arguments, Dice, Slot, axis, part, sizes, some_axes
from networks.torch_windows import SMALL, numbers
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


def quotient(d: Dice) -> Arguments:
    found = joined()(d)
    return found if d.random() < 0.5 else found | {"other": numbers(d, found["other"].shape) + 5}


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


def over_the_last(*, bias: bool) -> Callable[[Dice], Arguments]:
    """Of layer and RMS norm: some of the last axes."""

    def draw(d: Dice) -> Arguments:
        shape = sizes(d)
        last = shape[d.randrange(len(shape)) :]
        some: Arguments = {name: d.choice([None, numbers(d, last)]) for name in ("weight", *(["bias"] if bias else []))}
        small = d.choice([1e-5, 0.1, 2.0] if bias else [None, 1e-5, 0.1, 2.0])
        found: Arguments = {"input": Slot(shape), "normalized_shape": list(last), "eps": small} | some
        return found | ({"cudnn_enable": d.choice([True, False])} if bias else {})

    return draw


def over_groups(d: Dice) -> Arguments:
    """Of group norm."""
    groups, each = d.randint(1, 2), d.randint(1, 2)
    shape = (d.choice([1, 2]), groups * each, *(d.randint(1, 3) for _ in range(d.randint(0, 2))))
    some: Arguments = {name: d.choice([None, numbers(d, shape[1:2])]) for name in ("weight", "bias")}
    known: Arguments = {"eps": d.choice([1e-5, 0.1, 2.0]), "cudnn_enabled": d.choice([True, False])}
    return {"input": Slot(shape), "num_groups": groups} | some | known


def over_channels(d: Dice) -> Arguments:
    """Of instance norm."""
    shape = (d.choice([1, 2]), d.randint(1, 3), d.randint(2, 3))
    some: Arguments = {name: d.choice([None, numbers(d, shape[1:2])]) for name in ("weight", "bias")}
    own, mean = d.choice([True, True, False]), numbers(d, shape[1:2])
    variance = numbers(d, shape[1:2]).abs()
    kept = own and d.random() < 0.5
    some |= {"running_mean": None if kept else mean, "running_var": None if kept else variance}
    known: Arguments = {"use_input_stats": own, "momentum": d.choice([0.0, 0.1]), "eps": d.choice([1e-5, 0.1, 2.0])}
    return {"input": Slot(shape)} | some | known | {"cudnn_enabled": d.choice([True, False])}


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


def shifted(d: Dice) -> Arguments:
    shape = sizes(d)
    return {"self": Slot(shape), "dim": d.choice([None, some_axes(d, shape)])}


def bmm(d: Dice) -> Arguments:
    b, n, k, m = (d.randint(1, 3) for _ in range(4))
    return {"self": Slot((b, n, k)), "mat2": Slot((b, k, m))}


def einsum(d: Dice) -> Arguments:
    known = dict(zip("abcd", [d.randint(1, 2) for _ in range(4)], strict=True))
    equation = d.choice(["ab,bc->ac", "abc,acd->abd", "ab,ab->ba", "a b, cb -> ca", "ab,c->abc", "ab,ab->a", "ab,bc"])
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    return {"equation": equation, "tensors": [Slot(tuple(known[x] for x in term)) for term in terms]}
