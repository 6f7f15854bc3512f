"""Layers: operators with a kernel, and normalization."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import replace
from string import ascii_lowercase
from typing import Any

import numpy as np

from specnorm.proof import counted, padding_rules
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.axes import AxisPooling
from specnorm_networks.certified.operators import Layer, NoBoundError
from specnorm_networks.certified.operators.base import Shape
from specnorm_networks.certified.operators.linear import normalisation
from specnorm_networks.certified.operators.normalisation import Form
from specnorm_networks.onnx.attention import PRODUCT, product, product_by_equation
from specnorm_networks.onnx.binding import Wholes
from specnorm_networks.onnx.elementwise import scaled
from specnorm_networks.onnx.moves import entries, places_of
from specnorm_networks.onnx.nodes import (
    MAX_AMOUNT,
    MAX_FOLDED,
    Call,
    Data,
    Output,
    UnsizedError,
    Value,
    entrywise,
    numbers_of,
    offset_of,
    on_axis,
    shape_of,
)
from specnorm_networks.onnx.tensors import Array, Constant

MOST_AXES = 3
"""Largest number of spatial axes of a layer."""
SMALLEST_FACTOR = 1e-300
"""Smallest absolute value of a factor of batch normalization, if its scale is not 0."""
Pads = tuple[tuple[int, int], ...]
"""Amounts of padding before and behind each axis."""


def amounts(name: str, stated: Wholes | None, count: int, default: int) -> Wholes:
    """Return the numbers of an attribute, or the default for each axis; refuse a wrong count or impossible numbers.

    The default is the smallest possible number.
    """
    numbers = stated or (default,) * count
    if len(numbers) != count or any(not default <= n <= MAX_AMOUNT for n in numbers):
        raise NoBoundError(f"{name}={list(numbers[:8])} is invalid")
    return numbers


def steps_of(
    shape: Shape | None,
    windows: Wholes,
    strides: Wholes | None,
    dilations: Wholes | None,
) -> tuple[Wholes, Wholes, Shape | None]:
    """Return strides, dilations, and the spatial sizes of the input (None: they are not known)."""
    ndim = len(windows)
    stride = amounts("strides", strides, ndim, 1)
    dilation = amounts("dilations", dilations, ndim, 1)
    sizes = None if shape is None else shape[2:]
    if not ndim or (sizes is not None and len(sizes) != ndim):
        raise NoBoundError(f"its windows {windows[:8]} do not fit an input of shape {shape}")
    return stride, dilation, sizes


def pads_of(
    auto_pad: str,
    pads: Wholes | None,
    kernel: Wholes,
    stride: Wholes,
    dilation: Wholes,
    sizes: Shape | None,
) -> Pads | None:
    """Return the padding of each axis; None for "same" padding that depends on unknown sizes."""
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        if sizes is None and max(stride) > 1:
            return None
        rule = padding_rules.same_upper if auto_pad == "SAME_UPPER" else padding_rules.same_lower
        # With stride 1 the padding does not depend on the sizes.
        axes = zip(sizes or (None,) * len(kernel), kernel, stride, dilation, strict=True)
        return tuple(rule(*axis) for axis in axes)
    if auto_pad not in ("NOTSET", "VALID"):
        raise NoBoundError(f"auto_pad={auto_pad[:20]} is not supported")
    ndim = len(kernel)
    flat = amounts("pads", pads if auto_pad == "NOTSET" else None, 2 * ndim, 0)
    return tuple(zip(flat[:ndim], flat[ndim:], strict=True))


def convolution(
    call: Call,
    x: Data,
    kernel: Constant,
    bias: Constant | None,
    /,
    *,
    auto_pad: str,
    dilations: Wholes | None,
    group: int,
    kernel_shape: Wholes | None,
    pads: Wholes | None,
    strides: Wholes | None,
    output_padding: Wholes | None = None,
    output_shape: Wholes | None = None,
) -> Output:
    """Return a convolution or transposed convolution with a constant kernel."""
    ndim = len(kernel.shape) - 2
    taps = kernel.shape[2:]
    is_transposed = call.operator == "ConvTranspose"
    stride, dilation, sizes = steps_of(x.shape, taps, strides, dilations)
    window = (taps, stride, dilation)
    if (kernel_shape or taps) != taps or not 1 <= group <= MAX_AMOUNT:
        raise NoBoundError(f"its kernel_shape does not fit its kernel of shape {kernel.shape}, or group={group}")
    extra = amounts("output_padding", output_padding, ndim, 0)
    outputs: Sequence[int]
    padding: Any
    padding_of_row: Any  # as the file states it, for the audit
    if is_transposed:
        pairs, outputs = _crops(window, extra, sizes, output_shape, auto_pad, pads)
        padding = tuple((before, max(after, 0)) for before, after in pairs or ((0, 0),) * ndim)
        padding_of_row = padding
        # A negative crop at the end adds pixels to the output that have the bias alone: they change no norm.
        extra = tuple(max(-after, 0) for _, after in pairs or ())
    else:
        pairs = pads_of(auto_pad, pads, *window, sizes)
        padding = "same" if pairs is None else pairs
        padding_of_row = {"SAME_UPPER": "same_upper", "SAME_LOWER": "same_lower"}.get(auto_pad, pairs)
        extra = ()
        outputs = []
        for n, k, s, r, pair in zip(sizes or (), *window, pairs or (), strict=False):
            outputs.append(AxisPooling(k, s, r, *pair, n).outputs)
    geometry: dict[str, Any] = {
        "stride": stride,
        "dilation": dilation,
        "groups": group,
        "transposed": is_transposed,
        "padding_mode": "zeros",
        "padding": padding,
    }
    channels = kernel.shape[1] * group if is_transposed else kernel.shape[0]
    if bias is not None and bias.shape != (channels,):
        raise NoBoundError(f"its bias has shape {bias.shape}, not ({channels},), one number for each channel")
    shape = None if x.shape is None else (x.shape[0], channels, *outputs)
    if ndim > MOST_AXES and not is_transposed and pairs is not None:
        return _sums_over_windows(x, kernel, ops.Windows(*window, pairs), shape)
    # This call also makes the kernel's row, which needs no sizes.
    layer = call.layer(kernel, geometry, stated={**geometry, "padding": padding_of_row}, sizes=sizes)
    if pairs is None:
        raise UnsizedError
    operator = ops.Convolution(layer, offset_of(bias, spatial=ndim), extra=extra)
    return Output(operator, (x,), shape)


def _sums_over_windows(x: Data, kernel: Constant, windows: ops.Windows, shape: Shape | None) -> Output:
    """Return the sums over windows that JAX exports as a convolution along all axes, with a kernel of ones."""
    if kernel.shape[:2] != (1, 1) or kernel.size > MAX_FOLDED or not np.all(kernel.load() == 1):
        raise NoBoundError(f"it convolves along {len(windows.kernel)} axes; at most {MOST_AXES} are supported")
    return scaled(Output(ops.AveragePool(windows), (x,), shape), float(kernel.size))


def _crops(
    window: tuple[Wholes, Wholes, Wholes],
    extra: Wholes,
    sizes: Shape | None,
    output_shape: Wholes | None,
    auto_pad: str,
    pads: Wholes | None,
) -> tuple[Pads | None, Sequence[int]]:
    """Return the amounts that a transposed convolution crops from its output, and its output sizes.

    Parameters
    ----------
    window : tuple of tuple of int
        Taps, strides and dilations.
    extra : tuple of int
        The attribute output_padding.

    Returns
    -------
    crops : pairs of int, or None
        None: they depend on the input's sizes, which are not known.
    sizes : sequence of int
        Output sizes; empty if they are not known.
    """
    if output_shape is None and not auto_pad.startswith("SAME"):
        stated = pads_of(auto_pad, pads, *window, None) or ()
        crops = tuple((before, after - more) for (before, after), more in zip(stated, extra, strict=True))
        outputs = []
        for n, k, s, r, (before, after) in zip(sizes or (), *window, crops, strict=False):
            outputs.append(s * (n - 1) + r * (k - 1) + 1 - before - after)
        return crops, outputs
    if output_shape is None and any(r * (k - 1) + 1 < s for k, s, r in zip(*window, strict=True)):
        raise NoBoundError(
            f"auto_pad={auto_pad[:20]} with a kernel shorter than its stride: runtimes disagree on its size"
        )
    if sizes is None:
        return None, ()
    if output_shape is None:
        strides = window[1]
        output_sizes = tuple(n * s for n, s in zip(sizes, strides, strict=True))
    else:
        output_sizes = output_shape[-len(extra) :]
    pairs = []
    for n, k, s, r, more, output_size in zip(sizes, *window, extra, output_sizes, strict=True):
        total = s * (n - 1) + more + r * (k - 1) + 1 - output_size
        before = max(total // 2 if auto_pad == "SAME_UPPER" else total - total // 2, 0)
        pairs.append((before, total - before - more))
    return tuple(pairs), output_sizes


def matrix(
    call: Call,
    a: Value,
    b: Value,
    c: Constant | None = None,
    /,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Output:
    """Return ``alpha a b + beta c``, where a or b is a constant matrix, and either may be transposed (MatMul, Gemm).

    The row of the matrix in the audit has the stored matrix, even if its transpose acts: both have the same norm.
    """
    if isinstance(a, Data) and isinstance(b, Data):
        if call.operator == "Gemm":
            raise NoBoundError(PRODUCT)
        call.missed()  # rows for constants of which one of them is made
        return product(a, b)
    is_on_the_right = isinstance(b, Constant)
    x, weight = (a, b) if is_on_the_right else (b, a)
    transposes_x, transposes_weight = (transA, transB) if is_on_the_right else (transB, transA)
    assert isinstance(weight, Constant)  # for the type checker: one is a constant
    if not isinstance(x, Data):
        raise NoBoundError("a product of constants is not evaluated")
    if len(weight.shape) > 2:
        return _stack(call, x, weight, right=is_on_the_right)
    if len(weight.shape) == 1 and call.operator == "MatMul":
        return _vector(call, x, weight, right=is_on_the_right)
    if len(weight.shape) != 2:
        raise NoBoundError(f"its constant has shape {weight.shape}; expected a matrix")
    # A layer multiplies columns: x W is the transpose of W^T x^T, so a matrix on the right is transposed.
    is_transposed = is_on_the_right != bool(transposes_weight)
    outputs = weight.shape[1] if is_transposed else weight.shape[0]
    layer = call.layer(weight, {}, row=_scaled(weight, alpha), outputs_last=is_transposed)
    before = x.shape
    if before is None and call.operator == "MatMul":
        raise UnsizedError  # the inputs of Gemm are matrices, whatever their shapes
    source: Value | Output = x
    if transposes_x:
        before = before[::-1] if before else before
        source = Output(ops.Permute((1, 0)), (x,), before)
    # A product W x with a vector acts on its only axis, like one from the right.
    is_vector = before is not None and len(before) == 1
    acts_on_last_axis = is_on_the_right or is_vector
    shape = None
    if before is not None:
        shape = (*before[:-1], outputs) if acts_on_last_axis else (*before[:-2], outputs, before[-1])
    operator = ops.Matrix(layer, offset_of(c, beta), alpha, "right" if acts_on_last_axis else "left")
    return Output(operator, (source,), shape)


def _vector(call: Call, x: Data, weight: Constant, *, right: bool) -> Output:
    """Return a product with a constant vector: with a matrix of one column, or row, without that axis."""
    acts_on_last_axis = right or len(shape_of(x)) == 1
    shape = (*weight.shape, 1) if right else (1, *weight.shape)
    as_matrix = weight.mapped(shape, lambda a: a.reshape(shape))
    product = matrix(call, *((x, as_matrix) if right else (as_matrix, x)))
    assert isinstance(product, Output)  # for the type checker: a value moves
    after = shape_of(product)
    without = after[:-1] if acts_on_last_axis else (*after[:-2], after[-1])
    return Output(ops.Reshape(without), (product,), without)


def _stack(call: Call, x: Data, weight: Constant, *, right: bool) -> Output:
    """Return a product with a stack of matrices: one for each choice of the leading axes, by NumPy's rules.

    Along an axis that the value lacks, or has with size 1, the matrices become rows of larger ones.
    """
    before = shape_of(x)
    ndim = max(len(before), len(weight.shape)) - 2
    sides = (1,) * (ndim + 2 - max(len(before), 2)) + before[:-2]
    sides_of_weight = (1,) * (ndim + 2 - len(weight.shape)) + weight.shape[:-2]
    leading = ascii_lowercase[3 : ndim + 3]
    of_value, of_constant = "", ""
    for letter, n, m in zip(leading, sides, sides_of_weight, strict=True):
        if n != 1 or m == 1:
            of_value += letter
        if m != 1:
            of_constant += letter
    kept = tuple(n for n in sides_of_weight if n != 1)
    shape_of_kept = (*kept, *weight.shape[-2:])
    matrices = weight.mapped(shape_of_kept, lambda a: a.reshape(shape_of_kept))
    value_indices, constant_indices, output_indices = ("ab", "bc", "ac") if right else ("bc", "ab", "ac")
    if len(before) == 1:
        value_indices, output_indices = "b", "c" if right else "a"
    sizes = (*(n for n, m in zip(sides, sides_of_weight, strict=True) if n != 1 or m == 1), *before[-2:])
    value: Value | Output = x if sizes == before else Output(ops.Reshape(sizes), (x,), sizes)
    indices = (of_value + value_indices, of_constant + constant_indices, leading + output_indices)
    return _products(call, value, matrices, *indices)


def einsum(call: Call, *values: Value, equation: str) -> Output:
    """Return a sum of products of a value with a constant.

    It is a product with one matrix for each choice of the indices that both have and that the output keeps.
    """
    moving = [value for value in values if isinstance(value, Data)]
    equation = _without_ellipsis(equation.replace(" ", ""), values)
    if len(moving) > 1:
        call.missed()
        return product_by_equation(equation, values)
    terms, arrow, output_indices = equation.partition("->")
    indices = terms.split(",")
    if arrow and len(values) == len(indices) == 1 and _has_letters_once(output_indices):
        return _sum_of_entries(moving[0], indices[0], output_indices)
    if not arrow or not 2 <= len(values) == len(indices) or not all(map(_has_letters_once, (*indices, output_indices))):
        raise NoBoundError(f"the equation {equation[:40]} is not supported")
    position = values.index(moving[0])
    x: Value | Output = moving[0]
    of_value = indices.pop(position)
    read_later = set(output_indices).union(*indices)
    if not set(of_value) <= read_later:  # these indices are summed in the value alone
        kept = "".join(letter for letter in of_value if letter in read_later)
        x, of_value = _sum_of_entries(moving[0], of_value, kept), kept
    constants = [value for number, value in enumerate(values) if number != position]
    for number, constant in enumerate(constants):
        assert isinstance(constant, Constant)  # for the type checker: one value moves
        # An index stays as long as the output or another constant has it.
        needed = set(output_indices).union(*indices[number + 1 :])
        kept = "".join(letter for letter in dict.fromkeys(of_value + indices[number]) if letter in needed)
        after = output_indices if number == len(constants) - 1 else kept
        x = _products(call, x, constant, of_value, indices[number], after)
        of_value = after
    assert isinstance(x, Output)  # for the type checker: there is a constant
    return x


def _has_letters_once(indices: str) -> bool:
    return not indices or (indices.isalpha() and len(set(indices)) == len(indices))


def _sum_of_entries(x: Data, indices: str, output: str) -> Output:
    """Return a value's diagonal along indices that are named twice, summed over those that the output lacks."""
    shape = shape_of(x)
    sizes = dict(zip(indices, shape, strict=False))
    letters = "".join(sizes)
    fits = len(indices) == len(shape) and all(sizes[a] == n for a, n in zip(indices, shape, strict=False))
    if not fits or not set(output) <= set(letters) or not indices.isalpha():
        raise NoBoundError(f"the equation {indices[:20]}->{output[:20]} does not fit a value of shape {shape}")
    value: Value | Output = x
    if len(letters) < len(indices):
        value = entries(x, np.einsum(f"{indices}->{letters}", places_of(x)))
    summed = tuple(axis for axis, letter in enumerate(letters) if letter not in output)
    kept = [letter for letter in letters if letter in output]
    if summed:
        value = Output(ops.Sum(summed), (value,), tuple(sizes[letter] for letter in kept))
    order = tuple(kept.index(letter) for letter in output)
    return Output(ops.Permute(order), (value,), tuple(sizes[letter] for letter in output))


def _without_ellipsis(equation: str, values: Sequence[Value]) -> str:
    """Return an equation with letters in place of each ellipsis, the last ones for the last axes.

    It is returned as it is if its terms do not fit the values.
    """
    terms, arrow, output = equation.partition("->")
    ellipsis = "..."
    lengths = {}
    for term, value in zip(terms.split(","), values, strict=False):
        if ellipsis in term:
            lengths[term] = len(shape_of(value)) - len(term) + len(ellipsis)
    free = "".join(letter for letter in string.ascii_letters if letter not in equation)
    longest = max(lengths.values(), default=0)
    if not arrow or longest > len(free) or min(lengths.values(), default=0) < 0:
        return equation
    written = []
    for term in terms.split(","):
        written.append(term.replace(ellipsis, free[longest - lengths.get(term, 0) : longest]))
    return f"{','.join(written)}->{output.replace(ellipsis, free[:longest])}"


def _products(
    call: Call,
    x: Value | Output,
    constant: Constant,
    value_indices: str,
    constant_indices: str,
    output_indices: str,
) -> Output:
    """Return a sum of products of a value and a constant, whose indices are letters, as in `numpy.einsum`.

    The stack of matrices is measured for the network alone: its row says that it is not read as a layer.
    """
    equation = f"{value_indices},{constant_indices}->{output_indices}"
    before = shape_of(x)
    if len(value_indices) != len(before) or len(constant_indices) != len(constant.shape):
        raise NoBoundError(f"its equation {equation[:40]} does not fit {before} and {constant.shape}")
    summed = [x for x in constant_indices if x in value_indices and x not in output_indices]
    new = [x for x in constant_indices if x not in value_indices]
    shared = [x for x in constant_indices if x in value_indices and x in output_indices]
    value_sizes = dict(zip(value_indices, before, strict=True))
    constant_sizes = dict(zip(constant_indices, constant.shape, strict=True))
    # No other index is summed, and no size is broadcast.
    all_summed = set(value_indices + constant_indices) - set(output_indices)
    has_equal_sizes = all(value_sizes[x] == constant_sizes[x] for x in value_indices if x in constant_sizes)
    if all_summed != set(summed) or not has_equal_sizes:
        raise NoBoundError(
            f"a product of a value of shape {before} with constants of shape {constant.shape} ({equation[:40]}) "
            "is not supported"
        )
    count, rows, columns = (math.prod(constant_sizes[x] for x in axes) for axes in (shared, new, summed))
    order = [constant_indices.index(x) for x in (*shared, *new, *summed)]
    sizes = constant_sizes | value_sizes
    shape = tuple(sizes[x] for x in output_indices)

    def as_stack(a: Array) -> Array:
        return a.transpose(order).reshape(count, rows, columns)

    if constant.refusal is not None:
        raise NoBoundError(constant.refusal)
    call.missed()  # adds that row
    layer = Layer(constant.name, lambda: as_stack(constant.load()), {}, 0)
    matrices = ops.Matrices(layer, equation, lambda: constant.load().astype(np.float64))
    return Output(matrices, (x,), shape)


def _scaled(weight: Constant, alpha: float) -> Constant:
    """Return the matrix times alpha, exactly: float64 holds every product of two float32 numbers."""
    if alpha == 1:
        return weight
    if weight.dtype == "float64":
        return weight.refused(f"it is multiplied by alpha={alpha!r}, which rounds in float64: store the product.")
    scaled = weight.mapped(weight.shape, lambda a: a.astype(np.float64) * alpha)
    return replace(scaled, dtype="float64")


def batch_norm(
    call: Call,
    x: Data,
    scale: Constant,
    bias: Constant,
    mean: Constant,
    variance: Constant,
    /,
    *,
    epsilon: float,
) -> Output:
    """Return batch normalization at inference: a product with constants."""
    # Before operator set 14, a node with further outputs is in training.
    if call.opset < 14 and call.outputs > 1:
        raise NoBoundError("it normalizes with the statistics of the batch")
    means = numbers_of(mean)
    variances = numbers_of(variance)
    scales = numbers_of(scale)
    biases = numbers_of(bias)
    with np.errstate(all="ignore"):
        operator = normalisation(means, variances, scales, biases, epsilon, len(shape_of(x)))
    factors = operator.values.ravel()
    is_normal = (abs(factors) > SMALLEST_FACTOR) | (scales == 0)
    if not np.all(np.isfinite(factors) & is_normal):
        raise NoBoundError("its variances are negative or not finite, or its factors underflow")
    return entrywise(operator, x)


# -- normalization by a value's own entries ----------------------------------------------------------------------------
def _normalised(
    x: Data | Output,
    axes: Wholes,
    eps: float,
    *,
    centred: bool = True,
    form: Form = "mean square",
) -> Output:
    """Return a value divided by a function of its 2-norm over some axes; if ``centred``, less its mean first.

    ``form``: the function, as in `Normalise`.
    """
    shape = shape_of(x)
    if not axes or not math.isfinite(eps):
        raise NoBoundError(f"normalization over axes {axes} with epsilon={eps!r} is not supported")
    value = entrywise(ops.Centre(axes), x) if centred else x
    shape_of_length = tuple(1 if axis in axes else n for axis, n in enumerate(shape))
    length = Output(ops.Norm(axes, keep=True), (value,), shape_of_length)
    return Output(ops.Normalise(axes, eps, form), (value, length), shape)


def _scaled_and_shifted(x: Output, scale: Constant | None, bias: Constant | None, spatial: int = 0) -> Output:
    """Return ``scale x + bias``; both constants get ``spatial`` further axes at the end."""
    if scale is None and bias is None:
        return x
    values = np.ones(()) if scale is None else numbers_of(scale)
    values = values.reshape(*values.shape, *(1,) * spatial)
    # The factors are the file's own numbers, hence exact.
    return entrywise(ops.Scale(values, offset_of(bias, spatial=spatial), exact=True), x)


def layer_norm(
    call: Call,
    x: Data,
    scale: Constant,
    bias: Constant | None = None,
    /,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
) -> Output:
    """Return layer normalization, or RMS normalization, over an axis and all axes behind it."""
    shape = shape_of(x)
    axes = tuple(range(on_axis(axis, shape), len(shape)))
    normalised = _normalised(x, axes, epsilon, centred=call.operator == "LayerNormalization")
    return _scaled_and_shifted(normalised, scale, bias)


def instance_norm(x: Data, scale: Constant, bias: Constant, /, *, epsilon: float) -> Output:
    """Return normalization over all axes behind the channels."""
    count = len(shape_of(x)) - 2
    return _scaled_and_shifted(_normalised(x, tuple(range(2, 2 + count)), epsilon), scale, bias, count)


def group_norm(
    x: Data,
    scale: Constant,
    bias: Constant,
    /,
    *,
    num_groups: int,
    epsilon: float,
) -> Output:
    """Return normalization over groups of channels and all axes behind them."""
    shape = shape_of(x)
    sizes = shape[1:]
    if num_groups < 1 or sizes[0] % num_groups:
        raise NoBoundError(f"num_groups={num_groups} does not fit {counted(sizes[0], 'channel')}")
    split = (shape[0], num_groups, math.prod(sizes) // num_groups)
    groups = Output(ops.Reshape((0, num_groups, -1), copies=True), (x,), split)
    normalised_groups = _normalised(groups, (2,), epsilon)
    normalised = Output(ops.Reshape((0, *sizes), copies=True), (normalised_groups,), shape)
    return _scaled_and_shifted(normalised, scale, bias, len(sizes) - 1)


def length_norm(x: Data, /, *, axis: int) -> Output:
    """Return a value divided by its 2-norm along an axis."""
    return _normalised(x, (on_axis(axis, shape_of(x)),), 0.0, centred=False, form="length")
