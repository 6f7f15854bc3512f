"""Shapes of values in an ONNX graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from specnorm_networks.certified.operators import NoBoundError
from specnorm_networks.onnx.nodes import Shape, on_axis

Parts: TypeAlias = tuple[tuple[int, int | None, int | None, int], ...]
"""As `Slice` has them."""


def same_pads(
    sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], *, lower: bool
) -> tuple[tuple[int, int], ...]:
    """Padding of SAME_UPPER, or SAME_LOWER: the odd pixel after, or before."""
    pairs = []
    for n, k, s, r in zip(sizes, kernel, stride, dilation, strict=True):
        total = max((-(-n // s) - 1) * s + r * (k - 1) + 1 - n, 0)
        pairs.append((total - total // 2, total // 2) if lower else (total // 2, total - total // 2))
    return tuple(pairs)


def broadcast_shapes(shapes: Sequence[Shape | None]) -> Shape | None:
    """NumPy's rule; None if a shape is not known."""
    known = [shape for shape in shapes if shape is not None]
    return np.broadcast_shapes(*known) if known and len(known) == len(shapes) else None


def reduced(shape: Shape, axes: Sequence[int], *, keep: bool) -> Shape:
    """Without some axes, or with 1 there."""
    return tuple(1 if at in axes else n for at, n in enumerate(shape) if keep or at not in axes)


def reshaped(before: Shape | None, wanted: Sequence[int], *, allow_zero: bool) -> Shape | None:
    """ONNX's rule: 0 copies a size, -1 is what is left."""
    copied = 0 in wanted and not allow_zero
    if copied and (before is None or any(n == 0 and at >= len(before) for at, n in enumerate(wanted))):
        return None
    sizes = tuple(before[at] if copied and before and n == 0 else int(n) for at, n in enumerate(wanted))
    known = math.prod(n for n in sizes if n != -1)
    if -1 not in sizes:
        return sizes
    return None if before is None or not known else tuple(math.prod(before) // known if n == -1 else n for n in sizes)


def slice_parts(
    shape: Shape, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int] | None, steps: Sequence[int] | None
) -> Parts:
    """A slice along axes, in numbers from the front where the size is known."""
    found: dict[int, tuple[int, int | None, int | None, int]] = {}
    given = (starts, ends, range(len(starts)) if axes is None else axes, [1] * len(starts) if steps is None else steps)
    if len({len(each) for each in given}) > 1 or 0 in given[3]:
        raise NoBoundError("its starts, ends, axes and steps do not fit each other")
    for start, end, at, step in zip(*given, strict=True):
        axis = on_axis(at, shape)
        if axis in found:
            raise NoBoundError(f"it takes a part of axis {axis} twice")
        first, last, _ = slice(start, end, step).indices(shape[axis])
        if first < 0:  # NumPy takes nothing, onnxruntime may take the first entry
            raise NoBoundError(f"it steps backwards from {start}, before the {shape[axis]} entries of axis {axis}")
        found[axis] = (axis, first, None if last < 0 else last, step)
    return tuple(found.values())


def sliced(shape: Shape, parts: Parts) -> Shape:
    """Sizes after a slice."""
    sizes = list(shape)
    for axis, start, end, step in parts:
        sizes[axis] = len(range(*slice(start, end, step).indices(sizes[axis])))
    return tuple(sizes)
