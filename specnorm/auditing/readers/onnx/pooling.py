"""Pooling, resizing, padding, and reductions along axes."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from specnorm.auditing.readers.onnx.calls import (
    MAX_AMOUNT,
    MAX_FOLDED,
    Call,
    Operator,
    Translated,
    UnreadError,
    scalar,
)
from specnorm.auditing.readers.onnx.layers import amounts, pads_of
from specnorm.auditing.readers.onnx.shapes import (
    fresh,
    pooled,
    reduced,
    times,
)
from specnorm.networks.axes import LONGEST, computed_copies
from specnorm.networks.graph import Size


def pool(call: Call) -> Translated:
    """Maximum, average or Euclidean norm over windows."""
    x = call.data(0)
    kernel = tuple(int(n) for n in call.attribute("kernel_shape"))
    ndim = len(kernel)
    if not 1 <= ndim <= 3 or min(kernel) < 1 or max(kernel) > MAX_AMOUNT:
        raise UnreadError(f"kernel_shape={kernel[:8]}")
    stride, dilation = amounts(call, "strides", ndim, 1), amounts(call, "dilations", ndim, 1)
    if 0 in stride or 0 in dilation:
        raise UnreadError("a stride or dilation of 0")
    sizes = None if x.shape is None else x.shape[2:]
    pads = pads_of(call, kernel, stride, dilation, sizes)
    average = call.operator == "AveragePool"
    if call.operator == "LpPool":
        _euclidean(call)
    if pads is None and average:
        raise UnreadError("its padding depends on the input's size: give the input shape")
    ceil = bool(call.attribute("ceil_mode", 0))
    found = pads or ((None, None),) * ndim
    axes = list(zip(sizes or (), kernel, stride, dilation, found, strict=False))
    outputs, whole = ([pooled(n, k, s, r, *pad, ceil=c) for n, k, s, r, pad in axes] for c in (ceil, False))
    shape = None if x.shape is None else (*x.shape[:2], *outputs)
    params = {
        "kernel": kernel, "stride": stride, "dilation": dilation, "padding": pads or ((0, 0),) * ndim, "ceil": ceil,
        "count_padding": bool(call.attribute("count_include_pad", 0)),
    }  # fmt: skip
    if call.operator == "LpPool":
        # onnxruntime sums what is there, onnx's reference and torch weigh it as a whole window.
        if ceil and (not outputs or outputs != whole or any(isinstance(n, str) for n in outputs)):
            raise UnreadError("ceil_mode=1 adds a window that ends outside, or may: runtimes disagree on its weights")
        # The root of the sum of squares, where `l2_pool` takes an average.
        return Translated("l2_pool", (x.name,), (shape,), {**params, "times": math.prod(kernel)})
    return Translated("average_pool" if average else "max_pool", (x.name,), (shape,), params)


def _euclidean(call: Call) -> None:
    """Refuse other norms over windows than the Euclidean one."""
    if int(call.attribute("p", 2)) != 2:
        raise UnreadError(
            f"p={call.attribute('p')}: of the p-norms over windows only the Euclidean one, p=2, has a rule"
        )


def over_everything(rule: str) -> Operator:
    """Over all spatial axes."""

    def translate(call: Call) -> Translated:
        x = call.data(0)
        if call.operator == "GlobalLpPool":
            _euclidean(call)
        if x.shape is None:
            return Translated(rule if rule == "length" else "select", (x.name,), (None,))
        shape = (*x.shape[:2], *(1 for _ in x.shape[2:]))
        return Translated(rule, (x.name,), (shape,), {"axes": tuple(range(2, len(x.shape)))})

    return translate


def reduce(rule: str) -> Operator:
    """Along some axes."""

    def translate(call: Call) -> Translated:
        x = call.data(0)
        axes = call.numbers("axes", 1)
        if not axes and call.attribute("noop_with_empty_axes", 0):
            return Translated("select", (x.name,), (x.shape,))
        if x.shape is None:
            if rule == "sum":
                raise UnreadError("the shape of its input is not known: give the input shape")
            # A mean, a maximum and a length are at most 1.
            return Translated("length", (x.name,), (None,))
        ndim = len(x.shape)
        wanted = sorted({int(a) % ndim for a in axes}) if axes else list(range(ndim))
        return Translated(
            rule,
            (x.name,),
            (reduced(x.shape, wanted, keep=bool(call.attribute("keepdims", 1))),),
            {"axes": tuple(wanted)},
        )

    return translate


def resize(call: Call) -> Translated:
    """Resize, and Upsample before it."""
    x = call.data(0)
    call.only(0)
    newer = call.operator == "Resize" and call.opset >= 11
    if (
        call.attribute("antialias", 0)
        or call.attribute("exclude_outside", 0)
        or call.attribute("keep_aspect_ratio_policy")
    ):
        raise UnreadError("antialias, exclude_outside and keep_aspect_ratio_policy have no rule")
    mode = call.attribute("mode", "nearest")
    coordinates = call.attribute("coordinate_transformation_mode", "half_pixel") if newer else "asymmetric"
    nearest = call.attribute("nearest_mode", "round_prefer_floor") if newer else "floor"
    given = call.numbers("scales", 2 if newer else 1)
    wanted = call.numbers("sizes", 3) if newer and not given else None
    if x.shape is None:
        raise UnreadError("the shape of its input is not known: give the input shape")
    axes = [int(a) % len(x.shape) for a in call.attribute("axes") or range(len(x.shape))]
    scales, shape = [Fraction(1)] * len(x.shape), list(x.shape)
    for axis, amount in zip(axes, given or wanted or [], strict=True):
        n = x.shape[axis]
        if given:
            scales[axis] = Fraction(float(amount))
            shape[axis] = math.floor(n * scales[axis]) if isinstance(n, int) else n if amount == 1 else fresh()
        elif isinstance(n, int):
            scales[axis], shape[axis] = Fraction(int(amount), n), int(amount)
        else:
            raise UnreadError("the shape of its input is not known: give the input shape")
    if min(scales) <= 0:
        raise UnreadError("a scale that is not positive")
    if coordinates == "tf_crop_and_resize":
        raise UnreadError("tf_crop_and_resize reads the region that roi states, which has no rule")
    whole = all(not isinstance(n, int) or (n * f).denominator == 1 for n, f in zip(x.shape, scales, strict=True))
    if coordinates == "align_corners" and not whole:
        raise UnreadError("align_corners where size times scale is no whole number: runtimes take other corners")
    exact = (coordinates, nearest) == ("asymmetric", "floor") or (
        coordinates in ("half_pixel", "pytorch_half_pixel") and nearest.startswith("round")
    )
    if mode == "nearest" and exact and all(f.denominator == 1 for f in scales):
        pairs = zip(x.shape, scales, strict=True)
        counts = [_whole_copies(n, int(f), str(coordinates), str(nearest)) for n, f in pairs]
        return Translated("copies", (x.name,), (tuple(shape),), {"copies": math.prod(counts)})
    params = {"mode": mode, "scales": scales, "coordinates": coordinates, "nearest": nearest}
    return Translated("resize", (x.name,), (tuple(shape),), params)


def _whole_copies(size: Size, scale: int, coordinates: str, nearest: str) -> int:
    """How often one pixel is copied along an axis: as often as the scale says, or once more by rounding."""
    if isinstance(size, int) and size * scale <= LONGEST:
        return max(scale, computed_copies(size, size * scale, Fraction(scale), coordinates, nearest) or scale)
    # Powers of two divide exactly, and half pixels are never near a border. Others may move one pixel over each border.
    return scale if coordinates != "asymmetric" or scale & (scale - 1) == 0 else scale + 1


def pad(call: Call) -> Translated:
    """Padding by constants or by pixels."""
    x = call.data(0)
    call.only(0)
    mode = {"constant": "zeros", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}.get(
        call.attribute("mode", "constant")
    )
    flat = call.numbers("pads", 1) or call.attribute("paddings")
    axes = call.constant(3, MAX_FOLDED)
    if mode is None or flat is None or any(abs(int(p)) > MAX_AMOUNT for p in flat):
        raise UnreadError("its mode or pads make no sense here")
    if x.shape is None:
        if mode != "zeros":
            raise UnreadError("the shape of its input is not known: give the input shape")
        return Translated("select", (x.name,), (None,))
    ndim = len(x.shape)
    where = [int(a) % ndim for a in np.ravel(axes.load())] if axes is not None else list(range(ndim))
    pairs = [(0, 0)] * ndim
    for at, axis in enumerate(where):
        pairs[axis] = (int(flat[at]), int(flat[at + len(where)]))
    shape = tuple(n if p == (0, 0) else times(n, 1, sum(p)) for n, p in zip(x.shape, pairs, strict=True))
    if min(a for pair in pairs for a in pair) < 0:
        if mode != "zeros":
            raise UnreadError("negative padding by repeated pixels")
        return Translated("select", (x.name,), (shape,))
    leading = 2 if not any(sum(p) for p in pairs[:2]) else 0
    given = call.input(2) if call.attribute("value") is None else call.attribute("value")
    constant = given if isinstance(given, float) else 0.0 if given is None else scalar(given)
    told = {} if constant == 0 else {"constant": math.nan if constant is None else constant}
    return Translated("pad", (x.name,), (shape,), {"mode": mode, "pads": tuple(pairs[leading:]), **told})
