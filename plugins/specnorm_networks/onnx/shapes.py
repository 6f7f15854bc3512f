"""Shapes of values in an ONNX graph. An open size is a symbol of its own; what is computed from it is another one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TypeAlias

from specnorm_networks.certified.axes import Window
from specnorm_networks.certified.operators import NoBoundError
from specnorm_networks.certified.shapes import Shape, Size, concrete
from specnorm_networks.onnx.nodes import on_axis

_count = itertools.count()
Parts: TypeAlias = tuple[tuple[int, int | None, int | None, int], ...]
"""As `Slice` has them."""


def fresh() -> str:
    """A size about which nothing is known."""
    return f"?{next(_count)}"


def times(n: Size, factor: int, plus: int) -> Size:
    """``n * factor + plus``."""
    if isinstance(n, int):
        return n * factor + plus
    return n if (factor, plus) == (1, 0) else fresh()


def pooled(
    n: Size, kernel: int, stride: int, dilation: int, before: int | None, after: int | None, *, ceil: bool = False
) -> Size:
    """Outputs of a window along one axis; no padding given: as many as strides ("same")."""
    if before is None or after is None:
        return -(-n // stride) if isinstance(n, int) else n if stride == 1 else fresh()
    if isinstance(n, int):
        return Window(kernel, stride, dilation, before, after, ceil=ceil).count(n)
    return n if stride == 1 and before + after == dilation * (kernel - 1) else fresh()


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
    if len(known) < len(shapes) or not known:
        return None
    ndim = max(map(len, known))
    rows = [(1,) * (ndim - len(shape)) + shape for shape in known]
    result: list[Size] = []
    for sizes in zip(*rows, strict=True):
        several = {n for n in sizes if n != 1}
        numbers = [n for n in several if isinstance(n, int)]
        # A symbol may be 1; beside a larger number it is that or 1.
        result.append(1 if not several else several.pop() if len(several) == 1 else numbers[0] if numbers else fresh())
    return tuple(result)


def reduced(shape: Shape, axes: Sequence[int], *, keep: bool) -> Shape:
    """Without some axes, or with 1 there."""
    return tuple(1 if at in axes else n for at, n in enumerate(shape) if keep or at not in axes)


def reshaped(before: Shape | None, wanted: Sequence[int], *, allow_zero: bool) -> Shape | None:
    """ONNX's rule: 0 copies a size, -1 is what is left."""
    sizes: list[Size] = []
    for at, n in enumerate(wanted):
        if n == 0 and not allow_zero:
            if before is None or at >= len(before):
                return None
            sizes.append(before[at])
        else:
            sizes.append(int(n))
    if -1 not in sizes:
        return tuple(sizes)
    total = None if before is None else concrete(before)
    known = concrete(tuple(n for n in sizes if n != -1))
    if total is None or known is None or not math.prod(known):
        left: Size = fresh()
    else:
        left = math.prod(total) // math.prod(known)
    return tuple(left if n == -1 else n for n in sizes)


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
        n = shape[axis]
        if axis in found:
            raise NoBoundError(f"it takes a part of axis {axis} twice")
        found[axis] = (axis, start, end, step)
        if isinstance(n, int):
            first, last, _ = slice(start, end, step).indices(n)
            if first < 0:  # NumPy takes nothing, onnxruntime may take the first entry
                raise NoBoundError(f"it steps backwards from {start}, before the {n} entries of axis {axis}")
            found[axis] = (axis, first, None if last < 0 else last, step)
    return tuple(found.values())


def sliced(shape: Shape, parts: Parts) -> Shape:
    """Sizes after a slice."""
    sizes = list(shape)
    for axis, start, end, step in parts:
        n = sizes[axis]
        sizes[axis] = len(range(*slice(start, end, step).indices(n))) if isinstance(n, int) else fresh()
    return tuple(sizes)
