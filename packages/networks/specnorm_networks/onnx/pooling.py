"""Pooling, resizing, padding, and reductions along axes."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Protocol

from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.operators import NoBoundError, Operator
from specnorm_networks.certified.operators.linear import PadMode
from specnorm_networks.onnx.binding import Numbers, Wholes
from specnorm_networks.onnx.layers import amounts, pads_of, steps_of
from specnorm_networks.onnx.moves import moved
from specnorm_networks.onnx.nodes import MAX_AMOUNT, Builder, Call, Data, Output, entrywise, on_axis, scalar, shape_of
from specnorm_networks.onnx.tensors import Constant


def pool(
    call: Call,
    x: Data,
    /,
    *,
    kernel_shape: Wholes,
    auto_pad: str,
    pads: Wholes | None,
    strides: Wholes | None,
    dilations: Wholes | None = None,
    ceil_mode: int = 0,
    count_include_pad: int = 0,
) -> Output:
    """Return the maximum or average over windows."""
    kernel = amounts("kernel_shape", kernel_shape, len(kernel_shape), 1)
    ceil = bool(ceil_mode)
    stride, dilation, sizes = steps_of(shape_of(x), kernel, strides, dilations)
    has_gaps = max(dilation) > 1 or any(s > k for s, k in zip(stride, kernel, strict=True))
    if auto_pad != "NOTSET" and (ceil or (auto_pad != "VALID" and (count_include_pad or has_gaps))):
        raise NoBoundError(
            "auto_pad with ceil_mode, count_include_pad, dilations, or strides beyond the kernel: runtimes disagree; "
            "give the padding by pads"
        )
    padding = pads_of(auto_pad, pads, kernel, stride, dilation, sizes)
    assert padding is not None  # for the type checker: the sizes are known
    windows = ops.Windows(kernel, stride, dilation, padding, ceil)
    outputs = [window.outputs for window in windows.at(shape_of(x)).values()]
    if 0 in outputs:
        raise NoBoundError("its windows are larger than its input")
    operator: Operator = ops.MaxPool(windows)
    if call.operator == "AveragePool":
        operator = ops.AveragePool(windows, bool(count_include_pad))
    return Output(operator, (x,), (*shape_of(x)[:2], *outputs))


class _Reduction(Protocol):
    def __call__(self, axes: Wholes, keep: bool) -> Operator: ...


def _over(make: _Reduction, x: Data | Output, axes: Wholes, keep: bool) -> Output:
    """Return a reduction over some axes, which stay as axes of size 1 if ``keep``."""
    shape = []
    for axis, n in enumerate(shape_of(x)):
        if axis not in axes:
            shape.append(n)
        elif keep:
            shape.append(1)
    return Output(make(axes, keep), (x,), tuple(shape))


def over_everything(make: _Reduction) -> Builder:
    """Return the builder of a reduction over all spatial axes."""

    def build(x: Data, /) -> Output:
        return _over(make, x, tuple(range(2, len(shape_of(x)))), keep=True)

    return build


def reduce(make: _Reduction, first: ops.Operator | None = None) -> Builder:
    """Return the builder of a reduction over the axes that a node states.

    ``first``: a function of each entry that is applied before.
    """

    def build(
        x: Data,
        /,
        *,
        axes: Wholes | None,
        keepdims: int,
        noop_with_empty_axes: int = 0,
    ) -> Output:
        if not axes and noop_with_empty_axes:
            if make is ops.Norm:
                raise NoBoundError("noop_with_empty_axes: operator sets disagree on the norm over no axes")
            return entrywise(first or ops.Identity(), x)
        shape = shape_of(x)
        entries = x if first is None else entrywise(first, x)
        reduced = sorted({on_axis(axis, shape) for axis in axes}) if axes else range(len(shape))
        return _over(make, entries, tuple(reduced), keep=bool(keepdims))

    return build


def resize(
    call: Call,
    x: Data,
    /,
    *,
    scales: Numbers | None,
    mode: str,
    sizes: Wholes | None = None,
    coordinate_transformation_mode: str = "asymmetric",
    nearest_mode: str = "floor",
    axes: Wholes | None = None,
    antialias: int = 0,
    exclude_outside: int = 0,
) -> Output:
    """Return a resized value: by Resize, or by Upsample of older operator sets."""
    coordinates = coordinate_transformation_mode
    shape = list(shape_of(x))
    if mode not in ("nearest", "linear") or coordinates not in (
        "half_pixel",
        "pytorch_half_pixel",
        "asymmetric",
        "align_corners",
    ):
        raise NoBoundError(f"resizing by {mode[:20]} with {coordinates[:40]} coordinates is not supported")
    if nearest_mode not in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"):
        raise NoBoundError(f"nearest_mode={nearest_mode[:20]} of {call.operator} is not supported")
    amounts: Numbers = scales or sizes or ()
    resized_axes = [on_axis(a, shape_of(x)) for a in axes] if axes is not None else range(len(shape))
    if len(resized_axes) != len(amounts) or len(set(resized_axes)) < len(resized_axes):
        raise NoBoundError("its scales, or sizes, do not fit its axes")
    factors = [Fraction(1)] * len(shape)
    for axis, amount in zip(resized_axes, amounts, strict=True):
        n = shape[axis]
        if not 0 < amount < math.inf:
            raise NoBoundError("one of its scales or sizes is not positive")
        if scales:
            factors[axis] = Fraction(amount)
            shape[axis] = math.floor(n * factors[axis])
        else:
            factors[axis] = Fraction(int(amount), n)
            shape[axis] = int(amount)
    rounded_sizes = [m for n, f, m in zip(shape_of(x), factors, shape, strict=True) if (n * f).denominator > 1]
    moves_corners = coordinates == "align_corners" and bool(rounded_sizes)
    moves_single_pixel = coordinates == "pytorch_half_pixel" and 1 in rounded_sizes
    if antialias and coordinates == "pytorch_half_pixel" and 1 in shape[2:]:
        raise NoBoundError(f"{coordinates} with antialias, of one output: runtimes disagree on the coordinate")
    if moves_corners or moves_single_pixel:
        raise NoBoundError(
            f"{coordinates} where size times scale is not an integer: runtimes disagree on the coordinates"
        )
    stated_sizes = None if scales else tuple(shape)
    operator = ops.Resize(
        mode, stated_sizes, tuple(factors), coordinates, nearest_mode, bool(antialias), bool(exclude_outside)
    )
    return Output(operator, (x,), tuple(shape))


_MODES: dict[str, PadMode] = {"constant": "zeros", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def pad(
    x: Data,
    /,
    *,
    mode: str,
    pads: Wholes,
    constant_value: Constant | None = None,
    value: float = 0.0,
    axes: Wholes | None = None,
) -> Constant | Output:
    """Return a value padded by a constant or by its own entries; negative amounts cut entries off."""
    shape = shape_of(x)
    padded_axes = [on_axis(a, shape) for a in axes] if axes is not None else range(len(shape))
    count = len(padded_axes)
    if mode not in _MODES or len(pads) != 2 * count or any(abs(p) > MAX_AMOUNT for p in pads):
        raise NoBoundError("its mode or pads are invalid")
    pairs = [(0, 0)] * len(shape)
    for number, axis in enumerate(padded_axes):
        pairs[axis] = (pads[number], pads[number + count])
    if mode != "constant" and min(pads, default=0) < 0:
        raise NoBoundError("negative padding in a mode that repeats pixels is not supported")
    constant = value if constant_value is None else scalar(constant_value)
    cuts = []
    added = []
    for axis, (before, after) in enumerate(pairs):
        if min(before, after) < 0:
            cuts.append((axis, max(-before, 0), min(after, 0) or None, 1))
        added.append((max(before, 0), max(after, 0)))
    cut = moved(x, ops.Slice(tuple(cuts)) if cuts else ops.Identity())
    padded_shape = tuple(n + sum(pair) for n, pair in zip(shape_of(cut), added, strict=True))
    pads_samples_or_channels = any(map(any, pairs[:2]))
    if not pads_samples_or_channels:
        added = added[2:]  # as convolutions state their padding
    if not any(map(any, added)):
        return cut
    operator = ops.Pad(_MODES[mode], tuple(added), math.nan if constant is None else constant)
    return Output(operator, (cut if cuts else x,), padded_shape)
