"""Operators that repeat pixels or entries, and resizing, in the words of `specnorm.networks.rules`."""

from __future__ import annotations

import math
from fractions import Fraction

import torch

from specnorm_torch.calls import Call, Translation

MAX_ENTRIES = 2**24
"""Entries of an input whose copies are counted by running an operator on their numbers."""


def copies(call: Call) -> Translation:
    """Count copies by running the operator on the numbers of its input's entries."""
    source = "input" if "input" in call.arguments else "self"
    shape = call.shape(source)
    if math.prod(shape) > MAX_ENTRIES or math.prod(call.shape()) > MAX_ENTRIES:
        return Translation("unknown", {"reason": "its input is too large to count its copies"})
    numbers = torch.arange(math.prod(shape), dtype=torch.float64).reshape(shape)
    named = {name: value for name, value in call.arguments.items() if name not in ("overload", source)}
    out = call.node.target(numbers, **named)
    return Translation("copies", {"copies": max(torch.bincount(out.reshape(-1).to(torch.int64)).tolist(), default=0)})


def nearest(call: Call) -> Translation:
    """Copies along each axis, counted by running the operator on the numbers of its pixels.

    Which pixel is nearest is computed: in single precision for entries of up to 32 bits, and on some devices for all.
    2 pixels on 82 are 41 and 41 in double precision, 42 and 40 in single. The larger count is taken.
    """
    source = "input" if "input" in call.arguments else "self"
    sizes = call.shape(source)[2:]
    if math.prod(sizes) > MAX_ENTRIES or math.prod(call.shape()[2:]) > MAX_ENTRIES:
        return Translation("unknown", {"reason": "its input is too large to count its copies"})
    named = {name: value for name, value in call.arguments.items() if name not in ("overload", source)}
    in_all = 1
    for axis, size in enumerate(sizes, 2):
        count = 0
        for dtype in (torch.float32, torch.float64):
            numbers = torch.arange(size, dtype=dtype).reshape(-1, *(1,) * (len(sizes) + 1 - axis))
            out = call.node.target(numbers.expand(1, 1, *sizes).contiguous(), **named)
            line = out.movedim(axis, -1).reshape(-1, out.shape[axis])[0]
            count = max(count, *torch.bincount(line.to(torch.int64)).tolist())
        in_all *= count
    return Translation("copies", {"copies": in_all})


def linear_resize(call: Call) -> Translation:
    """Weights of neighbours, which change little where coordinates are rounded."""
    before, after = call.shape("input" if "input" in call.arguments else "self"), call.shape()
    spatial = len(before) - 2
    named = ("scales",) if spatial == 1 else ("scales_d", "scales_h", "scales_w")[-spatial:]
    given = call.arguments.get("scale_factors") or [call.arguments.get(name) for name in named]
    sizes = list(zip(before, after, strict=True))[2:]
    # As torch does, a scale that is not positive is not used.
    pairs = [Fraction(f) if f and f > 0 else Fraction(m, n) for f, (n, m) in zip(given, sizes, strict=True)]
    where = "align_corners" if call["align_corners"] else "half_pixel"
    scales = [Fraction(1), Fraction(1), *pairs]
    return Translation("resize", {"mode": "linear", "scales": scales, "coordinates": where, "nearest": "floor"})
