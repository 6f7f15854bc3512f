"""Pooling, resizing, padding, and reductions along axes."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Protocol

from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.axes import Window
from specnorm_networks.certified.operators import NoBoundError, Operator
from specnorm_networks.certified.operators.linear import PadMode
from specnorm_networks.onnx.binding import Numbers, Wholes
from specnorm_networks.onnx.layers import pads_of, steps_of
from specnorm_networks.onnx.nodes import MAX_AMOUNT, Builder, Call, Data, Made, on_axis, scalar, shape_of
from specnorm_networks.onnx.tensors import Constant


def pool(
    call: Call, x: Data, /, *, kernel_shape: Wholes, auto_pad: str, pads: Wholes | None, strides: Wholes | None,
    dilations: Wholes | None = None, ceil_mode: int = 0, count_include_pad: int = 0,
) -> Made:  # fmt: skip
    """Maximum or average over windows."""
    kernel = kernel_shape
    ceil = bool(ceil_mode)
    if any(not 0 < n <= MAX_AMOUNT for n in kernel):
        raise NoBoundError(f"kernel_shape={list(kernel[:8])}")
    stride, dilation, sizes = steps_of(x, kernel, strides, dilations)
    beyond = max(dilation) > 1 or any(s > k for s, k in zip(stride, kernel, strict=True))
    if auto_pad.startswith("SAME") and (ceil or count_include_pad or beyond):
        raise NoBoundError(
            "auto_pad=SAME with ceil_mode, count_include_pad, dilations, or strides beyond the kernel: runtimes "
            "disagree; give the padding by pads"
        )
    found = pads_of(auto_pad, pads, kernel, stride, dilation, sizes)
    if found is None:
        raise NoBoundError("its padding depends on the input's size: give the input shape")
    axes = list(zip(sizes or (), kernel, stride, dilation, found, strict=False))
    outputs, whole = ([Window(k, s, r, *pair, ceil=c).count(n) for n, k, s, r, pair in axes] for c in (ceil, False))
    if 0 in outputs:
        raise NoBoundError("its windows are larger than its input")
    if outputs != whole and auto_pad != "NOTSET":
        raise NoBoundError(f"auto_pad={auto_pad} with ceil_mode=1: runtimes disagree on the last window")
    windows = ops.Windows(kernel, stride, dilation, found, ceil and auto_pad == "NOTSET")
    operator: Operator = ops.MaxPool(windows)
    if call.operator == "AveragePool":
        operator = ops.AveragePool(windows, bool(count_include_pad))
    return Made(operator, (x,), None if x.shape is None else (*x.shape[:2], *outputs))


class _Reduction(Protocol):
    def __call__(self, axes: tuple[int, ...], keep: bool) -> Operator: ...


def _over(make: _Reduction, x: Data, axes: tuple[int, ...], keep: bool) -> Made:
    shape = tuple(1 if at in axes else n for at, n in enumerate(shape_of(x)) if keep or at not in axes)
    return Made(make(axes, keep), (x,), shape)


def over_everything(make: _Reduction) -> Builder:
    """Over all spatial axes."""

    def build(x: Data, /) -> Made:
        return _over(make, x, tuple(range(2, len(shape_of(x)))), keep=True)

    return build


def reduce(make: _Reduction) -> Builder:
    """Along some axes."""

    def build(
        x: Data,
        /,
        *,
        axes: Wholes | None,
        keepdims: int,
        noop_with_empty_axes: int = 0,
    ) -> Made:
        if not axes and noop_with_empty_axes:
            if make is ops.Norm:
                raise NoBoundError("noop_with_empty_axes: operator sets disagree on what the norm of no axes is")
            return Made(ops.Identity(), (x,), x.shape)
        shape = shape_of(x)
        wanted = sorted({on_axis(a, shape) for a in axes}) if axes else range(len(shape))
        return _over(make, x, tuple(wanted), keep=bool(keepdims))

    return build


def resize(
    call: Call, x: Data, /, *, scales: Numbers | None, mode: str, sizes: Wholes | None = None,
    coordinate_transformation_mode: str = "asymmetric", nearest_mode: str = "floor", axes: Wholes | None = None,
) -> Made:  # fmt: skip
    """Resize, and Upsample before it."""
    coordinates = coordinate_transformation_mode
    shape = list(shape_of(x))
    if mode not in ("nearest", "linear") or coordinates not in (
        "half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"
    ):  # fmt: skip
        raise NoBoundError(f"resizing by {mode[:20]} with {coordinates[:40]} coordinates has no rule")
    if nearest_mode not in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"):
        raise NoBoundError(f"nearest_mode={nearest_mode[:20]} of {call.operator} is not known here")
    given: Numbers = scales or sizes or ()
    places = [on_axis(a, shape_of(x)) for a in axes] if axes is not None else range(len(shape))
    if len(places) != len(given) or len(set(places)) < len(places):
        raise NoBoundError("its scales, or sizes, do not fit its axes")
    factors = [Fraction(1)] * len(shape)
    for axis, amount in zip(places, given, strict=True):
        n = shape[axis]
        if not 0 < amount < math.inf:
            raise NoBoundError("a scale or size that is not positive")
        if scales:
            factors[axis] = Fraction(amount)
            shape[axis] = math.floor(n * factors[axis])
        else:
            factors[axis] = Fraction(int(amount), n)
            shape[axis] = int(amount)
    cut = [m for n, f, m in zip(shape_of(x), factors, shape, strict=True) if (n * f).denominator > 1]
    if (coordinates == "align_corners" and cut) or (coordinates == "pytorch_half_pixel" and 1 in cut):
        raise NoBoundError(f"{coordinates} where size times scale is no whole number: runtimes take other corners")
    wanted = None if scales else tuple(shape)
    return Made(ops.Resize(mode, wanted, tuple(factors), coordinates, nearest_mode), (x,), tuple(shape))


_MODES: dict[str, PadMode] = {"constant": "zeros", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def pad(
    x: Data, /, *, mode: str, pads: Wholes, constant_value: Constant | None = None, value: float = 0.0,
    axes: Wholes | None = None,
) -> Made:  # fmt: skip
    """Padding by constants or by pixels."""
    shape = shape_of(x)
    where = [on_axis(a, shape) for a in axes] if axes is not None else range(len(shape))
    if mode not in _MODES or len(pads) != 2 * len(where) or any(abs(p) > MAX_AMOUNT for p in pads):
        raise NoBoundError("its mode or pads make no sense here")
    pairs = [(0, 0)] * len(shape)
    for at, axis in enumerate(where):
        pairs[axis] = (pads[at], pads[at + len(where)])
    if mode != "constant" and min(pads, default=0) < 0:
        raise NoBoundError("negative padding by repeated pixels")
    filled = value if constant_value is None else scalar(constant_value)
    # Negative amounts cut off; then without samples and channels, as convolutions are padded.
    cut = tuple((axis, max(-a, 0), min(b, 0) or None, 1) for axis, (a, b) in enumerate(pairs) if min(a, b) < 0)
    left = tuple(n + min(a, 0) + min(b, 0) for n, (a, b) in zip(shape, pairs, strict=True))
    whole = tuple(n + max(a, 0) + max(b, 0) for n, (a, b) in zip(left, pairs, strict=True))
    added = tuple((max(a, 0), max(b, 0)) for a, b in (pairs if any(map(any, pairs[:2])) else pairs[2:]))
    inner = Made(ops.Slice(cut) if cut else ops.Identity(), (x,), left)
    if not any(map(any, added)):
        return inner
    return Made(ops.Pad(_MODES[mode], added, math.nan if filled is None else filled), (inner if cut else x,), whole)
