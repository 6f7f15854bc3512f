"""Layers: operators with a kernel, and normalisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.axes import Window
from specnorm_networks.certified.operators import Layer, NoBoundError
from specnorm_networks.certified.operators.linear import normalisation
from specnorm_networks.certified.operators.normalisation import Form
from specnorm_networks.certified.shapes import Shape
from specnorm_networks.onnx.binding import Wholes
from specnorm_networks.onnx.nodes import (
    MAX_AMOUNT,
    Call,
    Data,
    Made,
    UnsizedError,
    Value,
    numbers_of,
    offset_of,
    on_axis,
    shape_of,
)
from specnorm_networks.onnx.tensors import Constant

PRODUCT = "it is a product of two values that depend on the input, which has no constant"
Pads = tuple[tuple[int, int], ...]


def amounts(name: str, given: Wholes | None, count: int, default: int) -> tuple[int, ...]:
    """One number an axis, all of a believable size."""
    found = given or (default,) * count
    if len(found) != count or any(not min(default, 0) <= n <= MAX_AMOUNT for n in found):
        raise NoBoundError(f"{name}={list(found[:8])} make no sense here")
    return found


def steps_of(
    x: Data,
    windows: Wholes,
    strides: Wholes | None,
    dilations: Wholes | None,
) -> tuple[Wholes, Wholes, Shape | None]:
    """Strides, dilations, and the sizes of the axes that windows go along; None where these are not known."""
    ndim = len(windows)
    stride = amounts("strides", strides, ndim, 1)
    dilation = amounts("dilations", dilations, ndim, 1)
    sizes = None if x.shape is None else x.shape[2:]
    if not 1 <= ndim <= 3 or (sizes is not None and len(sizes) != ndim):
        raise NoBoundError(f"its windows {windows[:8]} do not fit an input of shape {x.shape}")
    if 0 in stride or 0 in dilation:
        raise NoBoundError("a stride or dilation of 0")
    return stride, dilation, sizes


def pads_of(
    how: str,
    pads: Wholes | None,
    kernel: Wholes,
    stride: Wholes,
    dilation: Wholes,
    sizes: Shape | None,
) -> Pads | None:
    """Padding per axis; None for "same" at sizes that are not known."""
    if how in ("SAME_UPPER", "SAME_LOWER"):
        if sizes is None and max(stride) > 1:
            return None
        # Without strides it does not depend on the sizes.
        pairs = []
        for n, k, s, r in zip(sizes or (1,) * len(kernel), kernel, stride, dilation, strict=True):
            total = max((-(-n // s) - 1) * s + r * (k - 1) + 1 - n, 0)
            half = total // 2 if how == "SAME_UPPER" else total - total // 2
            pairs.append((half, total - half))
        return tuple(pairs)
    if how not in ("NOTSET", "VALID"):
        raise NoBoundError(f"auto_pad={how[:20]} is not known here")
    flat = amounts("pads", pads, 2 * len(kernel), 0) if how == "NOTSET" else (0,) * (2 * len(kernel))
    return tuple(zip(flat[: len(kernel)], flat[len(kernel) :], strict=True))


def convolution(
    call: Call, x: Data, kernel: Constant, bias: Constant | None, /, *, auto_pad: str, dilations: Wholes | None,
    group: int, kernel_shape: Wholes | None, pads: Wholes | None, strides: Wholes | None,
    output_padding: Wholes | None = None, output_shape: Wholes | None = None,
) -> Made:  # fmt: skip
    """Convolution or transposed convolution with a constant kernel."""
    ndim = len(kernel.shape) - 2
    taps = kernel.shape[2:]
    transposed = call.operator == "ConvTranspose"
    stride, dilation, sizes = steps_of(x, taps, strides, dilations)
    window = (taps, stride, dilation)
    if (kernel_shape or taps) != taps or not 1 <= group <= MAX_AMOUNT:
        raise NoBoundError(f"its kernel_shape does not fit its kernel of shape {kernel.shape}, or group={group}")
    unknown = ((0, 0),) * ndim
    extra = amounts("output_padding", output_padding, ndim, 0)
    outputs: Sequence[int]
    stated: Any
    padding: Any
    if transposed:
        found, outputs = _cropped(window, extra, sizes, output_shape, auto_pad, pads)
        stated = padding = tuple((before, max(after, 0)) for before, after in found or unknown)
        # Rows beyond what is cropped hold the bias alone, and change no norm.
        extra = tuple(max(-after, 0) for _, after in found or ())
    else:
        found = pads_of(auto_pad, pads, *window, sizes)
        stated = {"SAME_UPPER": "same_upper", "SAME_LOWER": "same_lower"}.get(auto_pad, found)
        padding = "same" if found is None else found
        extra = ()
        axes = zip(sizes or (), *window, found or (), strict=False)
        outputs = [Window(k, s, r, *pair).count(n) for n, k, s, r, pair in axes]
    geometry = {"stride": stride, "dilation": dilation, "groups": group, "transposed": transposed}
    told = [{**geometry, "padding_mode": "zeros", "padding": each} for each in (padding, stated)]
    layer = call.layer(kernel, told[0], stated=told[1], sizes=sizes)
    if found is None:
        raise UnsizedError
    channels = kernel.shape[1] * group if transposed else kernel.shape[0]
    operator = ops.Convolution(layer, offset_of(bias, spatial=ndim), extra=extra)
    return Made(operator, (x,), None if x.shape is None else (x.shape[0], channels, *outputs))


def _cropped(
    window: tuple[Wholes, Wholes, Wholes], extra: Wholes, sizes: Shape | None, wanted: Wholes | None, how: str,
    pads: Wholes | None,
) -> tuple[Pads | None, Sequence[int]]:  # fmt: skip
    """What a transposed convolution crops, and its output sizes; None where that depends on the input's."""
    if wanted is None and not how.startswith("SAME"):
        given = pads_of(how, pads, *window, None) or ()
        cropped = tuple((before, after - more) for (before, after), more in zip(given, extra, strict=True))
        axes = zip(sizes or (), *window, cropped, strict=False)
        return cropped, [s * (n - 1) + r * (k - 1) + 1 - before - after for n, k, s, r, (before, after) in axes]
    if wanted is None and any(r * (k - 1) + 1 < s for k, s, r in zip(*window, strict=True)):
        raise NoBoundError(f"auto_pad={how[:20]} with a kernel shorter than its stride: runtimes disagree on its size")
    wanted = None if wanted is None else wanted[-len(extra) :]
    if sizes is None:
        return None, ()  # zero padding, so the bound at every size does not depend on the crop
    outputs = wanted if wanted is not None else tuple(n * s for n, s in zip(sizes, window[1], strict=True))
    pairs = []
    for n, k, s, r, more, goal in zip(sizes, *window, extra, outputs, strict=True):
        total = s * (n - 1) + more + r * (k - 1) + 1 - goal
        half = max(total // 2 if how == "SAME_UPPER" else total - total // 2, 0)
        pairs.append((half, total - half - more))
    return tuple(pairs), outputs


def matmul(call: Call, a: Value, b: Value, /) -> Made:
    """Product with a constant matrix, from either side."""
    return _matrix(call, a, b, 1.0)


def gemm(call: Call, a: Value, b: Value, c: Constant | None, /, *, alpha: float, beta: float, transA: int,
         transB: int,) -> Made:  # fmt: skip
    """The same with its transpositions and factor, of matrices alone."""
    return _matrix(call, a, b, alpha, bool(transA), bool(transB), c, beta)


def _matrix(
    call: Call, a: Value, b: Value, alpha: float, flip_a: bool = False, flip_b: bool = False,
    added: Constant | None = None, beta: float = 1.0,
) -> Made:  # fmt: skip
    """``alpha a b + beta c``; the matrix's row is as it is stored, since it has the norm of its transpose."""
    if isinstance(a, Data) and isinstance(b, Data):
        raise NoBoundError(PRODUCT)
    if isinstance(a, Constant) and isinstance(b, Constant):
        raise NoBoundError("a product of constants is not evaluated")
    right = isinstance(b, Constant)
    x, weight, flip_x, flip = (a, b, flip_a, flip_b) if right else (b, a, flip_b, flip_a)
    assert isinstance(weight, Constant)  # for the type checker: one moves
    if len(weight.shape) > 2:
        return _stack(call, x, weight, right=right)
    if len(weight.shape) != 2:
        raise NoBoundError(f"its constant matrix has shape {weight.shape}")
    turned = right != flip
    outputs = weight.shape[1] if turned else weight.shape[0]
    layer = call.layer(weight, {}, row=_scaled(weight, alpha), transposed=turned)
    before = x.shape
    if before is None and call.operator == "MatMul":
        raise UnsizedError  # others take matrices alone
    before = before[::-1] if before and flip_x else before
    source: Value | Made = Made(ops.Permute((1, 0)), (x,), before) if flip_x else x
    # From the left, of a vector too, which is no column.
    last = right or (before is not None and len(before) == 1)
    shape = None
    if before is not None:
        shape = (*before[:-1], outputs) if last else (*before[:-2], outputs, before[-1])
    operator = ops.Matrix(layer, offset_of(added, beta), alpha, "right" if last else "left")
    return Made(operator, (source,), shape)


def _stack(call: Call, x: Value, weight: Constant, *, right: bool) -> Made:
    """One matrix for each choice of the leading axes, which the value has, too."""
    before = shape_of(x)
    rows, columns = weight.shape[-2:] if right else weight.shape[:-3:-1]
    fits = len(before) > 1 and before[-1 if right else -2] == rows
    if not fits or np.broadcast_shapes(before[:-2], weight.shape[:-2]) != before[:-2]:
        raise NoBoundError(f"it multiplies a value of shape {before} by constants of shape {weight.shape}")
    shape = (*before[:-1], columns) if right else (*before[:-2], columns, before[-1])

    def stacked(a: NDArray[Any]) -> NDArray[Any]:
        return (a.swapaxes(-1, -2) if right else a).reshape(math.prod(a.shape[:-2]), columns, rows)

    equation = "...ij,...jk->...ik" if right else "...jk,...ij->...ik"
    return _matrices(call, x, weight, stacked, equation, shape)


def einsum(call: Call, *values: Value, equation: str) -> Made:
    """A value and constants: one matrix for each choice of the indices that both have and keep."""
    moving = [value for value in values if isinstance(value, Data)]
    if len(moving) > 1:
        raise NoBoundError(PRODUCT)
    equation = equation.replace(" ", "")
    terms, arrow, out = equation.partition("->")
    names = terms.split(",")
    plain = all(x.isalpha() and len(set(x)) == len(x) for x in (*names, out) if x)
    if not arrow or len(values) != 2 or not plain:
        raise NoBoundError(f"its equation {equation[:40]} has no rule")
    at = values.index(moving[0])
    constant = values[1 - at]
    before = shape_of(moving[0])
    assert isinstance(constant, Constant)  # for the type checker: one moves
    ours = names[at]
    theirs = names[1 - at]
    if len(ours) != len(before) or len(theirs) != len(constant.shape):
        raise NoBoundError(f"its equation {equation[:40]} does not fit {before} and {constant.shape}")
    summed = [x for x in theirs if x in ours and x not in out]
    new = [x for x in theirs if x not in ours]
    shared = [x for x in theirs if x in ours and x in out]
    sizes = dict(zip(ours, before, strict=True))
    known = dict(zip(theirs, constant.shape, strict=True))
    # Nothing else is summed, and nothing repeated.
    if set(ours + theirs) - set(out) != set(summed) or any(sizes[x] != known[x] for x in ours if x in known):
        raise NoBoundError(f"its equation {equation[:40]} has no rule")
    rows, columns = (math.prod(known[x] for x in group) for group in (new, summed))
    order = [theirs.index(x) for x in (*shared, *new, *summed)]

    def stacked(a: NDArray[Any]) -> NDArray[Any]:
        return a.transpose(order).reshape(-1, rows, columns)

    return _matrices(
        call, moving[0], constant, stacked, f"{ours},{theirs}->{out}", tuple((known | sizes)[x] for x in out)
    )


def _matrices(
    call: Call,
    x: Value,
    weight: Constant,
    stacked: Callable[[NDArray[Any]], NDArray[Any]],
    equation: str,
    shape: Shape,
) -> Made:
    """A block-diagonal map. Its kernel is measured with the network alone, and a row that says so."""
    if weight.refusal is not None:
        raise NoBoundError(weight.refusal)
    call.missed()
    layer = Layer(weight.name, lambda: stacked(weight.load()), {}, 0)
    return Made(ops.Matrices(layer, equation, lambda: weight.load().astype(np.float64)), (x,), shape)


def _scaled(weight: Constant, alpha: float) -> Constant:
    """The product's matrix, exactly: numbers of float32 times one of float32 are numbers of float64."""
    if alpha == 1:
        return weight
    if weight.dtype == "float64":
        return weight.refused(f"it is multiplied by alpha={alpha!r}, which rounds in float64: store the product.")
    scaled = weight.mapped(weight.shape, lambda a: a.astype(np.float64) * alpha)
    return replace(scaled, dtype="float64")


def batch_norm(
    call: Call, x: Data, scale: Constant, bias: Constant, mean: Constant, variance: Constant, /, *, epsilon: float,
) -> Made:  # fmt: skip
    """Batch normalisation at inference: a product with constants."""
    # Before operator set 14, further outputs asked for training.
    if call.opset < 14 and call.outputs > 1:
        raise NoBoundError("it normalises by the statistics of the batch")
    mean_of, variance_of, scale_of, bias_of = map(numbers_of, (mean, variance, scale, bias))
    with np.errstate(all="ignore"):
        operator = normalisation(mean_of, variance_of, scale_of, bias_of, epsilon, len(shape_of(x)))
    factors = operator.values.ravel()
    if not np.all(np.isfinite(factors) & ((abs(factors) > 1e-300) | (scale_of == 0))):
        raise NoBoundError("its variances are negative or not finite, or its factors underflow")
    return Made(operator, (x,), x.shape)


# -- normalisation by a value's own entries ----------------------------------------------------------------------------
def _normalised(
    x: Data | Made,
    axes: tuple[int, ...],
    eps: float,
    *,
    centred: bool = True,
    form: Form = "mean square",
) -> Made:
    """Divided by a function of the length over some axes."""
    shape = shape_of(x)
    if not axes or not math.isfinite(eps):
        raise NoBoundError(f"it normalises over axes {axes}, with epsilon={eps!r}")
    value = Made(ops.Centre(axes), (x,), shape) if centred else x
    ones = tuple(1 if axis in axes else n for axis, n in enumerate(shape))
    length = Made(ops.Norm(axes, keep=True), (value,), ones)
    return Made(ops.Normalise(axes, eps, form), (value, length), shape)


def _times(made: Made, scale: Constant | None, bias: Constant | None, spatial: int = 0) -> Made:
    """Times a constant, plus another, whose axes are followed by some more."""
    if scale is None and bias is None:
        return made
    values = np.ones(()) if scale is None else numbers_of(scale)
    values = values.reshape(*values.shape, *(1,) * spatial)
    return Made(ops.Scale(values, offset_of(bias, spatial=spatial), exact=True), (made,), made.shape)


def layer_norm(
    call: Call,
    x: Data,
    scale: Constant,
    bias: Constant | None = None,
    /,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
) -> Made:
    """Over an axis and all behind it, with a mean or without."""
    shape = shape_of(x)
    axes = tuple(range(on_axis(axis, shape), len(shape)))
    return _times(_normalised(x, axes, epsilon, centred=call.operator == "LayerNormalization"), scale, bias)


def instance_norm(x: Data, scale: Constant, bias: Constant, /, *, epsilon: float) -> Made:
    """Over all axes behind the channels."""
    count = len(shape_of(x)) - 2
    return _times(_normalised(x, tuple(range(2, 2 + count)), epsilon), scale, bias, count)


def group_norm(
    call: Call,
    x: Data,
    scale: Constant,
    bias: Constant,
    /,
    *,
    num_groups: int,
    epsilon: float,
) -> Made:
    """Over groups of channels, and all axes behind them."""
    shape = shape_of(x)
    sizes = shape[1:]
    if num_groups < 1 or sizes[0] % num_groups:
        raise NoBoundError(f"num_groups={num_groups} of {sizes[0]} channels")
    split = (shape[0], num_groups, math.prod(sizes) // num_groups)
    made = _normalised(Made(ops.Reshape((0, num_groups, -1), copies=True), (x,), split), (2,), epsilon)
    whole = Made(ops.Reshape((0, *sizes), copies=True), (made,), shape)
    if call.opset < 21:  # one number a group
        count = sizes[0] // num_groups
        scale, bias = (each.mapped(sizes[:1], lambda a: np.repeat(a, count)) for each in (scale, bias))
    return _times(whole, scale, bias, len(sizes) - 1)


def length_norm(x: Data, /, *, axis: int) -> Made:
    """Entries over their length along an axis."""
    return _normalised(x, (on_axis(axis, shape_of(x)),), 0.0, centred=False, form="largest")
