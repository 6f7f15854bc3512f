"""Layers: operators with a kernel, and batch normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from specnorm.auditing.readers.onnx.calls import (
    MAX_AMOUNT,
    PRODUCT,
    Call,
    Data,
    Translated,
    UnreadError,
    offset_of,
)
from specnorm.auditing.readers.onnx.shapes import (
    fresh,
    pooled,
    same_pads,
    times,
)
from specnorm.auditing.readers.onnx.tensors import Constant
from specnorm.networks.graph import Shape, Size, concrete


def amounts(call: Call, name: str, count: int, default: int) -> tuple[int, ...]:
    """A list attribute with one number an axis, all of a believable size."""
    given = call.attribute(name) or [default] * count
    if (
        len(given) != count
        or any(not 0 <= abs(n) <= MAX_AMOUNT for n in given)
        or min(given, default=0) < min(default, 0)
    ):
        raise UnreadError(f"{name}={given[:8]} of {call.operator} make no sense here")
    return tuple(int(n) for n in given)


def pads_of(
    call: Call, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], sizes: Shape | None
) -> tuple[tuple[int, int], ...] | None:
    """Padding per axis; None for "same" at sizes that are not known."""
    how = call.attribute("auto_pad", "NOTSET")
    if how in ("SAME_UPPER", "SAME_LOWER"):
        known = concrete(sizes)
        return None if known is None else same_pads(known, kernel, stride, dilation, lower=how == "SAME_LOWER")
    flat = amounts(call, "pads", 2 * len(kernel), 0) if how == "NOTSET" else (0,) * (2 * len(kernel))
    return tuple(zip(flat[: len(kernel)], flat[len(kernel) :], strict=True))


def convolution(call: Call) -> Translated:
    """Convolution or transposed convolution with a constant kernel."""
    x, weight = call.data(0), call.input(1)
    call.only(0)
    if not isinstance(weight, Constant):
        raise UnreadError(PRODUCT)
    ndim = len(weight.shape) - 2
    if not 1 <= ndim <= 3:
        raise UnreadError(f"its kernel has {len(weight.shape)} axes")
    transposed = call.operator == "ConvTranspose"
    kernel = weight.shape[2:]
    stride, dilation = amounts(call, "strides", ndim, 1), amounts(call, "dilations", ndim, 1)
    if 0 in stride or 0 in dilation or (call.attribute("kernel_shape") or list(kernel)) != list(kernel):
        raise UnreadError("its strides, dilations or kernel_shape do not fit its kernel")
    groups = int(call.attribute("group", 1))
    if not 1 <= groups <= MAX_AMOUNT:
        raise UnreadError(f"group={groups}")
    sizes = None if x.shape is None else x.shape[2:]
    if sizes is not None and len(sizes) != ndim:
        raise UnreadError(f"its input has shape {x.shape}, its kernel {weight.shape}")
    geometry = {
        "stride": stride,
        "dilation": dilation,
        "groups": groups,
        "transposed": transposed,
        "padding_mode": "zeros",
    }
    if transposed:
        pads: Any
        pads, outputs = _cropping(call, kernel, stride, dilation, sizes)
        channels = weight.shape[1] * groups
        stated: Any = pads
    else:
        found = pads_of(call, kernel, stride, dilation, sizes)
        channels = weight.shape[0]
        pads = found if found is not None else "same"
        how = call.attribute("auto_pad", "NOTSET")
        stated = {"SAME_UPPER": "same_upper", "SAME_LOWER": "same_lower"}.get(how, pads)
        windows = zip(sizes or (), kernel, stride, dilation, found or ((None, None),) * ndim, strict=False)
        outputs = [pooled(n, k, s, r, before, after) for n, k, s, r, (before, after) in windows]
    shape = None if x.shape is None else (x.shape[0], channels, *outputs)
    return Translated(
        "layer", (x.name,), (shape,), {}, weight, {**geometry, "padding": pads}, {**geometry, "padding": stated}, sizes,
        offset=offset_of(call.input(2), spatial=ndim),
    )  # fmt: skip


def _cropping(
    call: Call, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], sizes: Shape | None
) -> tuple[tuple[tuple[int, int], ...], list[Size]]:
    """What a transposed convolution crops, and its output sizes. Rows of zeros that it adds change no norm."""
    ndim = len(kernel)
    extra = amounts(call, "output_padding", ndim, 0)
    wanted = call.attribute("output_shape")
    how = call.attribute("auto_pad", "NOTSET")
    known = concrete(sizes)
    if wanted is not None or how in ("SAME_UPPER", "SAME_LOWER"):
        given = [int(n) for n in wanted[-ndim:]] if wanted is not None else None
        if known is None:
            # Zero padding, so the bound at every size does not depend on the crop.
            return ((0, 0),) * ndim, list(given) if given is not None else [fresh() for _ in kernel]
        sizes_out = given if given is not None else [n * s for n, s in zip(known, stride, strict=True)]
        pairs = []
        for n, k, s, r, more, goal in zip(known, kernel, stride, dilation, extra, sizes_out, strict=True):
            total = s * (n - 1) + more + r * (k - 1) + 1 - goal
            half = total // 2 if how == "SAME_UPPER" else total - total // 2
            pairs.append((max(half, 0), max(total - half - more, 0)))
        return tuple(pairs), list(sizes_out)
    pads = pads_of(call, kernel, stride, dilation, None) or ((0, 0),) * ndim
    cropped = tuple((before, after - more) for (before, after), more in zip(pads, extra, strict=True))
    axes = zip(sizes or (), kernel, stride, dilation, cropped, strict=False)
    outputs = [times(n, s, r * (k - 1) + 1 - s - before - after) for n, k, s, r, (before, after) in axes]
    return tuple((before, max(after, 0)) for before, after in cropped), outputs


def matmul(call: Call) -> Translated:
    """Product with a constant matrix, from either side."""
    a, b = call.input(0), call.input(1)
    if isinstance(a, Data) and isinstance(b, Data) and not (a.held and b.held):
        raise UnreadError(PRODUCT)
    x, weight, first = (a, b, True) if isinstance(a, Data) else (b, a, False)
    if not isinstance(x, Data) or not isinstance(weight, Constant):
        raise UnreadError("MatMul of constants is not evaluated")
    if len(weight.shape) != 2:
        raise UnreadError(f"its constant matrix has shape {weight.shape}")
    shape = None
    if x.shape is not None and len(x.shape) >= 2:
        shape = (*x.shape[:-1], weight.shape[1]) if first else (*x.shape[:-2], weight.shape[0], x.shape[-1])
    return _matrix(weight, x, shape, 1.0, turned=first, foldable=first)


def gemm(call: Call) -> Translated:
    """The same with its transpositions and factor."""
    call.only(0, 1)
    a, b = call.input(0), call.input(1)
    if isinstance(a, Data) and isinstance(b, Data):
        raise UnreadError(PRODUCT)
    x, weight, name, flag = (a, b, "transB", 0) if isinstance(a, Data) else (b, a, "transA", 1)
    if not isinstance(x, Data) or not isinstance(weight, Constant) or len(weight.shape) != 2:
        raise UnreadError("Gemm without a constant matrix")
    turned = bool(call.attribute(name, 0))
    rows, columns = weight.shape[::-1] if turned else weight.shape
    shape: Shape | None = None
    if x.shape is not None and len(x.shape) == 2:
        kept = x.shape[1 if call.attribute("transA" if flag == 0 else "transB", 0) else 0] if flag == 0 else None
        shape = (kept, columns) if kept is not None else (rows, fresh())
    right = isinstance(a, Data)
    # Of a transposed input the last axis is not what the matrix reads.
    foldable = right and not call.attribute("transA", 0)
    found = _matrix(
        weight, x, shape, float(call.attribute("alpha", 1.0)), turned=right and not turned, foldable=foldable
    )
    return replace(found, offset=offset_of(call.input(2), float(call.attribute("beta", 1.0))))


def _matrix(
    weight: Constant, x: Data, shape: Shape | None, alpha: float, *, turned: bool, foldable: bool
) -> Translated:
    """A constant matrix; its row is as it is stored, since it has the norm of its transpose."""
    params = {"alpha": alpha, "foldable": foldable}
    return Translated("layer", (x.name,), (shape,), params, weight, {}, {}, (), turned=turned)


def batch_norm(call: Call) -> Translated:
    """Batch normalisation at inference: a product with constants."""
    x = call.data(0)
    call.only(0)
    # Before operator set 14, further outputs asked for training.
    several = call.opset < 14 and call.outputs > 1
    if several or call.attribute("training_mode", 0) or not call.attribute("spatial", 1):
        raise UnreadError("it normalises by the statistics of the batch")
    gamma, variance = call.constant(1, 2**20), call.constant(4, 2**20)
    if gamma is None or variance is None:
        raise UnreadError("its statistics are missing")
    eps = float(call.attribute("epsilon", np.float32(1e-5)))
    with np.errstate(all="ignore"):
        spread = np.sqrt(variance.load().astype(np.float64) + eps)
        values = gamma.load().astype(np.float64) / spread
    if not np.all(np.isfinite(values)):
        raise UnreadError("its variances are negative or not finite")
    shift, mean = call.constant(2, 2**20), call.constant(3, 2**20)
    spatial = 0 if x.shape is None else len(x.shape) - 2

    def offset() -> tuple[Any, Any]:
        ends = [np.zeros(1) if each is None else each.load().astype(np.float64) for each in (shift, mean)]
        behind, ahead = ends[0], ends[1] * values
        # A few roundings of the scale, the product and the difference.
        both = (behind - ahead, (abs(behind) + abs(ahead)) * 2.0**-47)
        numbers, lost = (each.reshape(-1, *(1,) * spatial) for each in both)
        return numbers, lost

    return Translated("scale", (x.name,), (x.shape,), {"values": values, "channel": 1}, offset=offset)
