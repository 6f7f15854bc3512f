"""Arguments at random of torch's padding, pooling, resizing and convolution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from networks import drawing
from networks.drawing import Arguments, Dice, Slot
from torch import Tensor

SMALL = (-3.0, -1.0, -0.5, 0.0, 0.3, 1.0, 2.5)


def numbers(d: Dice, shape: tuple[int, ...]) -> Tensor:
    """In float64, or the dtype that the dice have."""
    return torch.tensor(drawing.numbers(d, shape), dtype=getattr(d, "dtype", torch.float64))


def padded(*, mode: bool, name: str = "pad", fixed: tuple[str, int] | None = None) -> Callable[[Dice], Arguments]:
    def draw(d: Dice) -> Arguments:
        ndim = fixed[1] if fixed else d.choice([1, 1, 2, 3])
        how = fixed[0] if fixed else d.choice(["constant", "reflect", "replicate", "circular"]) if mode else "constant"
        shape = (1, d.choice([1, 2]), *(d.randint(1, 4 if ndim == 1 else 3 if ndim == 2 else 2) for _ in range(ndim)))
        amounts = []
        for n in reversed(shape[2:]):
            most = {"reflect": n - 1, "reflection": n - 1, "circular": n}.get(how, 3)
            low = -1 if how == "constant" and n > 2 else 0
            amounts += [d.randint(low, most), d.randint(low, most)]
        if (fixed or mode) and how != "constant" and d.random() < 0.3:
            shape = shape[1:]
        found: Arguments = {"self": Slot(shape), name: amounts}
        if mode:
            found["mode"] = how
        if fixed is None:
            found["value"] = (
                d.choice([None, 0.0, 2.5]) if mode and how == "constant" else None if mode else d.choice(SMALL)
            )
        return found

    return draw


def window(ndim: int, *, average: bool = False, divisor: bool = False) -> Callable[[Dice], Arguments]:
    def draw(d: Dice) -> Arguments:
        kernel = [d.randint(1, 3) for _ in range(ndim)]
        if d.random() < 0.2:
            kernel = kernel[:1] * ndim
        shape = (1, 1, *(d.randint(2, 9 if ndim == 1 else 4 if ndim == 2 else 3) for _ in range(ndim)))
        found: Arguments = {
            "self": Slot(shape[1:] if d.random() < 0.2 else shape),
            "kernel_size": kernel[:1] if len(set(kernel)) == 1 and d.random() < 0.5 else kernel,
            "stride": d.choice([[], [d.randint(1, 3) for _ in range(ndim)], [d.randint(1, 3)]]),
            "padding": [d.randint(0, k // 2) for k in kernel],
            "ceil_mode": d.random() < 0.5,
        }
        if average:
            found["count_include_pad"] = d.random() < 0.5
        else:
            found["dilation"] = d.choice([[1], [d.randint(1, 2) for _ in range(ndim)]])
        if divisor:
            found["divisor_override"] = d.choice([None, None, 1, 2, 7, -3])
        return found

    return draw


def adaptive(ndim: int) -> Callable[[Dice], Arguments]:
    def draw(d: Dice) -> Arguments:
        shape = (1, d.choice([1, 2]), *(d.randint(1, 8 if ndim == 1 else 4 if ndim == 2 else 2) for _ in range(ndim)))
        return {"self": Slot(shape), "output_size": [d.randint(1, 5 if ndim == 1 else 3) for _ in range(ndim)]}

    return draw


def resized(ndim: int, *, vec: bool, corners: bool) -> Callable[[Dice], Arguments]:
    names = ("scales",) if ndim == 1 else ("scales_d", "scales_h", "scales_w")[-ndim:]

    def draw(d: Dice) -> Arguments:
        shape = (1, d.choice([1, 2]), *(d.randint(1, 5 if ndim == 1 else 3 if ndim == 2 else 2) for _ in range(ndim)))
        factors = [d.choice([0.5, 1.0, 1.5, 2.0, 3.0, 0.7]) for _ in range(ndim)]
        factors = [f if int(n * f) else 1.0 for f, n in zip(factors, shape[2:], strict=True)]
        out = [d.randint(1, 6 if ndim < 3 else 3) for _ in range(ndim)]
        found: Arguments = {}
        if vec:
            by_size = d.random() < 0.5
            found = {
                "input": Slot(shape),
                "output_size": out if by_size else None,
                "scale_factors": None if by_size else factors,
            }
        else:
            given = [d.choice([None, f, 0.8]) for f in factors]
            out = [m if f is None else max(int(n * f), 1) for m, f, n in zip(out, given, shape[2:], strict=True)]
            found = {"self": Slot(shape), "output_size": out} | dict(zip(names, given, strict=True))
        return found | ({"align_corners": d.random() < 0.4} if corners else {})

    return draw


def convolution(ndim: int, *, transposed: bool = False, words: bool = False) -> Callable[[Dice], Arguments]:
    def draw(d: Dice) -> Arguments:
        groups, wide, deep = d.choice([1, 1, 2]), d.randint(1, 2), d.randint(1, 2)
        kernel = [d.randint(1, 3) for _ in range(ndim)]
        kernel = [*kernel[:2], 2] if ndim == 3 else kernel
        kernel = [1 if d.random() < 0.4 else k for k in kernel] if ndim == 3 else kernel
        stride = [d.randint(1, 3) for _ in range(ndim)]
        dilation = [d.randint(1, 2) for _ in range(ndim)]
        padding: Any = [d.randint(0, 2) for _ in range(ndim)]
        room = [r * (k - 1) + 1 for r, k in zip(dilation, kernel, strict=True)]
        shape = (
            [d.randint(1, 3 if ndim < 3 else 2) for _ in room]
            if transposed
            else [n + d.randint(0, 3 if ndim == 1 else 1) for n in room]
        )
        if ndim == 3:
            wide = 1
        cin, cout = groups * wide, groups * deep
        found: Arguments = {"input": Slot((1, cin, *shape)), "groups": groups, "dilation": dilation}
        if words:
            padding = d.choice(["same", "valid"])
            stride = [1] * ndim if padding == "same" else stride
        if transposed:
            padding = [min(p, r - 1) for p, r in zip(padding, room, strict=True)]
            more = [d.randrange(max(s, r)) for s, r in zip(stride, dilation, strict=True)]
            found["output_padding"] = more
        found |= {"stride": stride, "padding": padding, "bias": d.choice([None, numbers(d, (cout,))])}
        return found | {"weight": numbers(d, (cin, deep, *kernel) if transposed else (cout, wide, *kernel))}

    return draw
