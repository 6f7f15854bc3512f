"""Inputs and attributes at random of every operator that the ONNX reader knows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from networks.drawing import Arguments, Shapes, Slot, axis, numbers, pieces, some_axes
from networks.onnx_schemas import attributes, places
from networks.onnx_states import STATES
from onnx import numpy_helper
from specnorm_networks.onnx.operators import OPERATORS

SMALL = (-3.0, -1.0, -0.5, 0.3, 1.0, 2.5)
FLAG = (None, 0, 1)
"""Values of an attribute that says yes or no; None: it is not stated."""


COORDINATES = (
    "half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners", "half_pixel_symmetric", "tf_crop_and_resize",
)  # fmt: skip
EQUATIONS = (
    "ab,bc->ac", "abc,acd->abd", "abc,dc->abd", "cb,abc->ac", "ab,ab->ab", "ab,b->a", "abc,b->c", "...a,ab->...b",
    "ab,...b->...a", "abc->ca", "aab->ab", "aba->b", "ab,bc,dc->ad", "a,ab,b->ba",
)  # fmt: skip


def first(operator: str) -> str:
    return places(operator)[0]


def chosen(d: Shapes, **choices: Any) -> Arguments:
    return {name: d.choice(some) for name, some in choices.items()}


# -- families ------------------------------------------------------------------------------------------------------
def alone(operator: str, **choices: tuple[Any, ...]) -> Callable[[Shapes], Arguments]:
    return lambda d: {first(operator): Slot(d.sizes())} | chosen(d, **choices)


def joined(operator: str) -> Callable[[Shapes], Arguments]:
    def draw(d: Shapes) -> Arguments:
        shape = d.sizes()
        found: Arguments = {name: Slot(d.part(shape)) for name in places(operator)}
        if operator == "Div" and d.random() < 0.5:
            found["B"] = numbers(d, found["B"].shape) + 5
        if operator == "Where":
            found["condition"] = numbers(d, d.part(shape)) > 0
        return found

    return draw


def several(d: Shapes) -> Arguments:
    shape = d.sizes()
    return {"data_0": [Slot(d.part(shape)) for _ in range(d.randint(1, 3))]}


def reduced(d: Shapes) -> Arguments:
    shape = d.sizes()
    axes = [some_axes(d, shape), None]
    return {"data": Slot(shape)} | chosen(d, axes=axes, keepdims=FLAG, noop_with_empty_axes=FLAG)


def geometry(d: Shapes, kernel: list[int], *, same: bool = True) -> Arguments:
    how = d.choice([None, None, "NOTSET", "VALID", *(["SAME_UPPER", "SAME_LOWER"] if same else [])])
    some = {"strides": [d.randint(1, 3) for _ in kernel]}
    if how in (None, "NOTSET"):
        some["pads"] = [d.randint(0, k // 2) for k in kernel * 2]
    if how not in ("SAME_UPPER", "SAME_LOWER"):
        some["dilations"] = [d.randint(1, 2) for _ in kernel]
    stated = chosen(d, **{name: (None, value) for name, value in some.items()})
    return {"pads": None, "dilations": None, "auto_pad": how} | stated


def pooled(d: Shapes) -> Arguments:
    ndim = d.choice([1, 1, 2])
    kernel = [d.randint(1, 3) for _ in range(ndim)]
    flags = chosen(d, ceil_mode=FLAG, storage_order=FLAG, count_include_pad=FLAG)
    return {"X": Slot(d.image(ndim, 3)), "kernel_shape": kernel} | flags | geometry(d, kernel)


def convolution(d: Shapes, *, transposed: bool = False) -> Arguments:
    ndim = d.choice([1, 1, 2])
    deep = d.randint(1, 2)
    shape = d.image(ndim, 1, 3, d.randint(1, 4)) if transposed else d.image(ndim, 3, 5, d.randint(1, 4))
    groups = d.choice([None, *(g for g in (1, 2) if shape[1] % g == 0)])
    kernel = [d.randint(1, 3) for _ in range(ndim)]
    g = groups or 1
    wide = shape[1] // g
    found: Arguments = {"X": Slot(shape), "group": groups, "kernel_shape": d.choice([None, kernel])}
    found |= geometry(d, kernel)
    weight = (g * wide, deep, *kernel) if transposed else (g * deep, wide, *kernel)
    if transposed:
        strides = found["strides"] or [1] * ndim
        found["output_padding"] = d.choice([None, [d.randrange(s) for s in strides]])
        if found["pads"] is None and d.random() < 0.3:
            full = [s * (n - 1) + k for s, n, k in zip(strides, shape[2:], kernel, strict=True)]
            found |= {"output_shape": [max(n - d.randint(0, 1), 1) for n in full]}
            found |= {"dilations": None, "output_padding": None}
    return found | {"W": numbers(d, weight), "B": d.choice([None, numbers(d, (g * deep,))])}


def matrices(d: Shapes) -> Arguments:
    shape = d.sizes()
    m = d.randint(1, 3)
    right = (shape[-1], m)
    stacks = [(*shape[:-2], *right), (2, *(1 for _ in shape[:-2]), *right), (*d.part(shape[:-2]), *right)]
    return {"A": Slot(shape), "B": Slot(d.choice([right, right, right[:1], *stacks]))}


def attended(d: Shapes) -> Arguments:
    samples, n, m, size, width = (d.randint(1, 3) for _ in range(5))
    shared, groups = d.choice([(1, 1), (1, 2), (2, 1)])
    heads = shared * groups
    apart = d.random() < 0.5
    shapes: list[tuple[int, ...]] = [(samples, heads, n, size), (samples, shared, m, size), (samples, shared, m, width)]
    if not apart:
        shapes = [(shape[0], shape[2], shape[1] * shape[3]) for shape in shapes]
    mask = d.part((samples, heads, n, m))
    masks = [None, numbers(d, mask), (numbers(d, mask) > 0) | (np.arange(m) == 0)]
    stated = d.choice(masks) if mask and mask[-1] == m else None
    found: Arguments = {name: Slot(shape) for name, shape in zip("QKV", shapes, strict=True)}
    if d.random() < 0.05:  # a cache, which is refused
        cache = (samples, shared, 1)
        found |= {"past_key": numbers(d, (*cache, size)), "past_value": numbers(d, (*cache, width))}
    if d.random() < 0.05:
        found |= {"nonpad_kv_seqlen": np.full(samples, m)}
    names = {"q_num_heads": None if apart else heads, "kv_num_heads": None if apart else shared}
    more = chosen(
        d, scale=(None, 0.5, -1.0), is_causal=FLAG, softcap=(None, None, None, 0.0, 2.0), qk_matmul_output_mode=FLAG,
        softmax_precision=(None, 11),
    )  # fmt: skip
    return found | {"attn_mask": stated} | names | more


def gemm(d: Shapes) -> Arguments:
    shape = d.sizes(2, 2)
    m = d.randint(1, 3)
    left, right = d.choice(FLAG), d.choice(FLAG)
    n, k = shape[::-1] if left else shape
    found: Arguments = {"A": Slot(shape), "B": Slot((m, k) if right else (k, m)), "transA": left, "transB": right}
    added = None, numbers(d, (m,)), numbers(d, (n, 1))
    return found | chosen(d, C=added, alpha=(None, 1.0, 10.0, -0.5), beta=(None, 1.0, 0.0, 3.0))


def batch_norm(d: Shapes) -> Arguments:
    shape = d.sizes(2)
    found: Arguments = {name: numbers(d, shape[1:2]) for name in places("BatchNormalization")[1:]}
    found |= {"X": Slot(shape), "input_var": abs(found["input_var"])}
    return found | chosen(d, spatial=FLAG, epsilon=(None, 1e-5, 0.1), momentum=(None, 0.5), training_mode=FLAG)


def resized(d: Shapes) -> Arguments:
    shape = d.image(d.choice([1, 2]), 1)
    factors = [1.0, 1.0, *(d.choice([0.5, 1.0, 1.5, 2.0, 3.0]) for _ in shape[2:])]
    factors = [f if int(n * f) else 1.0 for f, n in zip(factors, shape, strict=True)]
    by_size = d.random() < 0.4
    axes = d.choice([None, list(range(2, len(shape)))])
    wanted = [1, shape[1], *(d.randint(1, 6) for _ in shape[2:])]
    cut = 0 if axes is None else 2
    coordinates = d.choice([None, *COORDINATES])
    crops = coordinates == "tf_crop_and_resize"
    seldom = (None, 0, 0, 0, 0, 1)
    return {
        "X": Slot(shape), "scales": None if by_size else np.asarray(factors[cut:]),
        "sizes": wanted[cut:] if by_size else None, "axes": axes, "coordinate_transformation_mode": coordinates,
    } | chosen(
        d, roi=[np.asarray([0.0, 1.0] * len(shape[cut:]))] if crops else [None, np.zeros(0)],
        mode=(None, "nearest", "linear", "linear", "cubic"),
        nearest_mode=(None, "floor", "ceil", "round_prefer_floor", "round_prefer_ceil"), antialias=seldom,
        exclude_outside=seldom, extrapolation_value=(None, 2.0), cubic_coeff_a=(None, -0.5),
        keep_aspect_ratio_policy=(None, None, None, None, "stretch", "not_larger") if by_size else (None,),
    )  # fmt: skip


def upsampled(d: Shapes) -> Arguments:
    shape = d.image(d.choice([1, 2]), 1)
    factors = [1.0, 1.0, *(d.choice([1.0, 1.5, 2.0, 3.0]) for _ in shape[2:])]
    return {"X": Slot(shape), "scales": factors, "mode": d.choice([None, "nearest", "linear"])}


def padded(d: Shapes) -> Arguments:
    shape = (1, *d.sizes(1, 2)) if d.random() < 0.5 else d.image(1, 1)
    mode = d.choice([None, "constant", "reflect", "edge", "wrap"])
    axes = d.choice([None, some_axes(d, shape)])
    amounts = [d.randint(-1 if mode in (None, "constant") else 0, 4) for _ in (axes or shape) * 2]
    if axes is None and mode not in (None, "constant"):
        amounts[0] = amounts[len(shape)] = 0
    found: Arguments = {"data": Slot(shape), "pads": amounts, "mode": mode, "axes": axes}
    return found | chosen(d, constant_value=(None, np.asarray(2.5)), value=(None, 2.5))


def prelu(d: Shapes) -> Arguments:
    shape = d.sizes()
    return {"X": Slot(shape), "slope": numbers(d, d.part(shape))}


def reshaped(d: Shapes) -> Arguments:
    shape = d.sizes()
    wanted = d.choice([[-1], [math.prod(shape)], [0, -1], [1, *shape[::-1]], [0] * len(shape)])
    return {"data": Slot(shape), "shape": wanted, "allowzero": d.choice([None, 0, 1])}


def flattened(d: Shapes) -> Arguments:
    shape = d.sizes()
    return {"input": Slot(shape)} | chosen(d, axis=(None, d.randint(-len(shape), len(shape))))


def transposed(d: Shapes) -> Arguments:
    shape = d.sizes()
    return {"data": Slot(shape), "perm": d.choice([None, d.sample(range(len(shape)), len(shape))])}


def squeezed(d: Shapes) -> Arguments:
    shape = d.choice([d.sizes(2), (1, *d.sizes(1, 2), 1)])
    ones = [at for at, n in enumerate(shape) if n == 1]
    return {"data": Slot(shape), "axes": d.choice([ones[:1], ones, [at - len(shape) for at in ones]]) or None}


def unsqueezed(d: Shapes) -> Arguments:
    # Of axes in another order, onnx's reference evaluator inserts each into the shape before, up to operator set 12.
    return {"data": Slot(d.sizes(1, 2)), "axes": d.choice([[0], [-1], [0, 1], [0, -1]])}


def sliced(d: Shapes) -> Arguments:
    shape = d.sizes()
    axes = d.choice([None, some_axes(d, shape)])
    many = len(axes) if axes is not None else d.randint(1, len(shape))
    found: Arguments = {"data": Slot(shape), "starts": [d.choice([0, 1, -1, -9]) for _ in range(many)]}
    steps = d.choice([None, [d.choice([1, 2, -1]) for _ in range(many)]])
    return found | {"ends": [d.choice([1, 2, -1, 99]) for _ in range(many)], "axes": axes, "steps": steps}


def split(d: Shapes) -> Arguments:
    shape = d.sizes()
    at = axis(d, shape)
    sized = pieces(d, shape[at])
    count = d.randint(1, 3)
    found: Arguments = {"input": Slot(shape), "axis": at}
    if d.random() < 0.5:
        return found | {"split": sized, "outputs": len(sized), "num_outputs": None}
    return found | {"split": None, "outputs": count, "num_outputs": count}


def joined_along(d: Shapes) -> Arguments:
    shape = list(d.sizes(1, 3, 3))
    at = axis(d, tuple(shape))
    values = []
    for _ in range(d.randint(1, 3)):
        shape[at] = d.randint(1, 2)
        values.append(Slot(tuple(shape)))
    return {"inputs": values, "axis": at}


def gathered(d: Shapes) -> Arguments:
    shape = d.sizes()
    at = d.choice([None, axis(d, shape)])
    n = shape[at or 0]
    many = d.choice([(), (3,), (2, 2)])
    index = np.asarray([d.randrange(-n, n) for _ in range(math.prod(many))], np.int64).reshape(many)
    return {"data": Slot(shape), "axis": at, "indices": index}


def placed(d: Shapes, *, put: bool = False) -> Arguments:
    """Entries along an axis, taken or put; some twice."""
    shape = d.sizes()
    at = d.randrange(len(shape))
    n = shape[at]
    many = tuple(d.randint(1, n if put or j != at else n + 1) for j, n in enumerate(shape))
    columns = math.prod(many) // many[at]
    reduction = d.choice([None, "none", "add"])
    distinct = put and reduction != "add"
    rows = [d.sample(range(n), many[at]) if distinct else [d.randrange(-n, n) for _ in range(many[at])]
            for _ in range(columns)]  # fmt: skip
    moved = (*(m for j, m in enumerate(many) if j != at), many[at])
    index = np.moveaxis(np.asarray(rows, np.int64).reshape(moved), -1, at)
    found: Arguments = {"data": Slot(shape), "indices": index, "axis": d.choice([at, at - len(shape)])}
    return found | ({"updates": Slot(many), "reduction": reduction} if put else {})


def placed_by_tuples(d: Shapes, *, put: bool = False) -> Arguments:
    shape = d.sizes()
    depth = d.randint(1, len(shape))
    many = d.randint(1, 2)
    index = np.asarray([[d.randrange(-n, n) for n in shape[:depth]] for _ in range(many)], np.int64)
    found: Arguments = {"data": Slot(shape), "indices": index}
    if put:
        return found | {"updates": Slot((many, *shape[depth:])), "reduction": d.choice([None, "none", "add", "mul"])}
    return found | {"batch_dims": d.choice([None, 0])}


def summed_up(d: Shapes) -> Arguments:
    """Sums of the first or last entries along an axis."""
    shape = d.sizes()
    return {"x": Slot(shape), "axis": np.asarray(axis(d, shape))} | chosen(d, exclusive=FLAG, reverse=FLAG)


def compressed(d: Shapes) -> Arguments:
    shape = d.sizes()
    at = d.choice([None, axis(d, shape)])
    size = math.prod(shape) if at is None else shape[at]
    condition = [True, *(d.random() < 0.6 for _ in range(d.randint(1, size) - 1))]
    return {"input": Slot(shape), "condition": np.asarray(condition), "axis": at}


def reversed_at(d: Shapes) -> Arguments:
    shape = d.sizes(2)
    at = d.choice([None, 0, 1])
    batch = 1 if at is None else at
    counts = [d.randint(0, shape[1 - batch]) for _ in range(shape[batch])]
    return {
        "input": Slot(shape), "sequence_lens": np.asarray(counts, np.int64), "batch_axis": at,
        "time_axis": d.choice([0, None]) if batch else 1,
    }  # fmt: skip


def sampled(d: Shapes) -> Arguments:
    shape = d.image(2, 1)
    points = np.asarray([d.uniform(-1.7, 1.7) for _ in range(12)], np.float32).reshape(1, 2, 3, 2)
    modes = None, "bilinear", "linear", "linear", "nearest", "cubic", "bicubic"
    paddings = None, "zeros", "border", "reflection"
    return {"X": Slot(shape), "grid": points} | chosen(d, align_corners=FLAG, mode=modes, padding_mode=paddings)


def transformed(d: Shapes) -> Arguments:
    shape = (*d.sizes(2), d.choice([1, 1, 2, 3]))
    more = chosen(d, dft_length=(None, 1, 3, 4), axis=(None, 1, -2, 2), inverse=FLAG, onesided=(None, 0, 0, 1))
    return {"input": Slot(shape)} | more


def added_to_image(d: Shapes) -> Arguments:
    ndim = d.randint(1, 2)
    block = [d.randint(1, 3) for _ in range(ndim)]
    image = [k + d.randint(0, 3) for k in block]
    strides = d.choice([None, [d.randint(1, 2) for _ in block]])
    pads = d.choice([None, [d.randint(0, 1) for _ in block * 2]])
    dilations = d.choice([None, [1 if k > 1 else d.randint(1, 2) for k in block], [d.randint(1, 2) for _ in block]])
    columns = 1
    for j, (n, k) in enumerate(zip(image, block, strict=True)):
        around = sum((pads or [0] * 2 * ndim)[j::ndim])
        columns *= (n + around - (dilations or [1] * ndim)[j] * (k - 1) - 1) // (strides or [1] * 9)[j] + 1
    shape = (1, d.randint(1, 2) * math.prod(block), max(columns, 1))
    found: Arguments = {"input": Slot(shape), "image_shape": image, "block_shape": block}
    return found | {"strides": strides, "pads": pads, "dilations": dilations}


def triangle(d: Shapes) -> Arguments:
    shape = d.sizes(2)
    return {"input": Slot(shape)} | chosen(d, k=(None, -1, 0, 1), upper=FLAG)


def ordered(d: Shapes) -> Arguments:
    shape = d.sizes()
    at = axis(d, shape)
    more = chosen(d, largest=FLAG, sorted=(None, 1, 1, 0))
    return {"X": Slot(shape), "K": [d.randint(1, shape[at])], "axis": at} | more


def contracted(d: Shapes) -> Arguments:
    words = {letter: d.randint(1, 3) for letter in "abcd"}
    equation = d.choice(EQUATIONS)
    terms = equation.partition("->")[0].replace("...", "cd").split(",")
    return {"Inputs": [Slot(tuple(words[x] for x in term)) for term in terms], "equation": equation}


def softened(d: Shapes) -> Arguments:
    shape = d.sizes()
    return {"input": Slot(shape)} | chosen(d, axis=(None, axis(d, shape)))


def expanded(d: Shapes) -> Arguments:
    shape = d.sizes()
    return {"input": Slot(d.part(shape)), "shape": list(d.part(shape)) if d.random() < 0.3 else list(shape)}


def tiled(d: Shapes) -> Arguments:
    shape = d.sizes()
    return {"input": Slot(shape), "repeats": [d.randint(1, 2) for _ in shape]}


def blocked(d: Shapes, *, into_channels: bool = False) -> Arguments:
    b, n = d.choice([1, 2]), d.randint(1, 2)
    shape = (1, d.randint(1, 2), b * n, 2 * b) if into_channels else (1, b * b, n, 2)
    return {"input": Slot(shape), "blocksize": b} | chosen(d, mode=(None, "DCR", "CRD"))


def dequantized(d: Shapes) -> Arguments:
    n = d.randint(1, 3)
    wide = (n,) if d.random() < 0.5 else ()
    x = np.asarray([d.randint(-90, 90) for _ in range(2 * n)], np.int8).reshape(2, n)
    found: Arguments = {"x": x, "x_scale": abs(numbers(d, wide)).astype(np.float32) + np.float32(0.1)}
    zero = np.full(wide, d.randint(-5, 5), np.int8)
    more = chosen(
        d, x_zero_point=(None, zero), axis=(None, 1, -1), block_size=(None, 0, 0, 2), output_dtype=(None, 0, 1)
    )
    return found | more


def constant(d: Shapes) -> Arguments:
    values: Arguments = {
        "value": numpy_helper.from_array(numbers(d, d.sizes())), "value_float": d.choice(SMALL),
        "value_floats": [d.choice(SMALL) for _ in range(3)], "value_int": d.randint(-3, 3),
        "value_ints": [d.randint(-3, 3) for _ in range(2)],
    }  # fmt: skip
    name = d.choice([*values])
    return dict.fromkeys(values) | {name: values[name]}


def filled(d: Shapes) -> Arguments:
    value = numpy_helper.from_array(np.asarray([d.choice(SMALL)]))
    return {"input": np.asarray(d.sizes(), np.int64), "value": d.choice([None, value])}


def compared(operator: str, *, truths: bool = False) -> Callable[[Shapes], Arguments]:
    """Of constants, half of them equal, or true."""

    def draw(d: Shapes) -> Arguments:
        shape = d.sizes()
        both = [np.asarray(numbers(d, d.part(shape))).round() for _ in range(2)]
        return {name: x > 0 if truths else x for name, x in zip(places(operator), both, strict=False)}

    return draw


def remainder(d: Shapes) -> Arguments:
    shape = d.sizes()
    by_dividend = d.choice([None, 0, 1])
    kind = d.choice([np.int64, np.int32, np.float64] if by_dividend else [np.int64, np.int32])
    a, b = (10 * numbers(d, d.part(shape)) for _ in range(2))
    return {"A": a.astype(kind), "B": np.where(abs(b) < 1, 3, b).astype(kind), "fmod": by_dividend}


def ranged(d: Shapes) -> Arguments:
    whole = d.random() < 0.5
    start, delta = (d.randint(-3, 3), d.choice([1, 2, -1])) if whole else (d.gauss(0, 2), d.choice([0.3, -1.5]))
    limit = start + delta * d.randint(1, 5) + (0 if whole else 0.1 * delta)
    kind = np.int64 if whole else np.float64
    return {"start": kind(start), "limit": kind(limit), "delta": kind(delta)} | {"stash_type": d.choice([None, 1])}


def multiplied(d: Shapes) -> Arguments:
    found = reduced(d)
    shape = found["data"].shape
    return found | {"data": np.asarray([d.randint(1, 3) for _ in range(math.prod(shape))], np.int64).reshape(shape)}


DROPOUT = {"ratio": (None, 0.5), "seed": (None, 1), "training_mode": (None, False, False, True)}
CAST = {"to": (1, 10, 11, 16, 7, 9), "saturate": (None, 0, 1), "round_mode": (None, "up", "down")}

DRAWS: dict[str, Callable[[Shapes], Arguments]] = {
    **{name: alone(name) for name in OPERATORS if not attributes(name) and len(places(name)) == 1},
    "Conv": convolution,
    "ConvTranspose": lambda d: convolution(d, transposed=True),
    "MatMul": matrices,
    "Gemm": gemm,
    "Attention": attended,
    "BatchNormalization": batch_norm,
    "MaxPool": pooled,
    "AveragePool": pooled,
    "GlobalAveragePool": lambda d: {"X": Slot(d.image(d.choice([1, 2])))},
    "GlobalMaxPool": lambda d: {"X": Slot(d.image(d.choice([1, 2])))},
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2"), reduced),
    **dict.fromkeys(("ReduceSumSquare", "ReduceLogSumExp"), reduced),
    "Resize": resized,
    "GridSample": sampled,
    "DFT": transformed,
    "Upsample": upsampled,
    "Pad": padded,
    "LeakyRelu": alone("LeakyRelu", alpha=(None, *SMALL)),
    "Elu": alone("Elu", alpha=(None, *SMALL)),
    "Swish": alone("Swish", alpha=(None, -0.3, 0.7, 3.0)),
    "Celu": alone("Celu", alpha=(None, -0.1, 0.1, 0.7, 3.0)),
    "HardSigmoid": alone("HardSigmoid", alpha=(None, *SMALL), beta=(None, *SMALL)),
    "Selu": alone("Selu", alpha=(None, *SMALL), gamma=(None, *SMALL)),
    "Gelu": alone("Gelu", approximate=(None, "none", "tanh")),
    "Shrink": lambda d: {"input": Slot(d.sizes()), **dict.fromkeys(("bias", "lambd"), d.choice([0.7, 0.5]))},
    "Compress": compressed,
    "ReverseSequence": reversed_at,
    "Col2Im": added_to_image,
    "Clip": alone("Clip", min=(None, *SMALL), max=(None, *SMALL)),
    "PRelu": prelu,
    **{name: joined(name) for name in ("Add", "Sub", "Mul", "Div", "Where")},
    **dict.fromkeys(("Sum", "Mean", "Max", "Min"), several),
    "Softmax": softened,
    "LogSoftmax": softened,
    "Reshape": reshaped,
    "Transpose": transposed,
    "Flatten": flattened,
    "Squeeze": squeezed,
    "Unsqueeze": unsqueezed,
    "Dropout": alone("Dropout", **DROPOUT),
    "Cast": alone("Cast", **CAST),
    "DequantizeLinear": dequantized,
    "Slice": sliced,
    "Split": split,
    "Concat": joined_along,
    "Gather": gathered,
    "GatherElements": placed,
    "GatherND": placed_by_tuples,
    "ScatterElements": lambda d: placed(d, put=True),
    "ScatterND": lambda d: placed_by_tuples(d, put=True),
    "CumSum": summed_up,
    "Trilu": triangle,
    "TopK": ordered,
    "Einsum": contracted,
    "Expand": expanded,
    "Tile": tiled,
    "DepthToSpace": blocked,
    "SpaceToDepth": lambda d: blocked(d, into_channels=True),
    "Constant": constant,
    "ConstantOfShape": filled,
    "Equal": compared("Equal"),
    **{name: joined(name) for name in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")},
    **{name: compared(name, truths=True) for name in ("And", "Or", "Xor", "Not")},
    "IsInf": alone("IsInf", detect_negative=(None, 0, 1), detect_positive=(None, 0, 1)),
    **dict.fromkeys(("Floor", "Ceil"), lambda d: {"X": numbers(d, d.sizes())}),
    "Pow": lambda d: {"X": Slot(d.sizes()), "Y": np.asarray(d.choice([1.0, 2.0, 3.0, 0.5, -0.5, -1.0, 0.3]))},
    "Mod": remainder,
    **STATES,
    "Range": ranged,
    "ReduceProd": multiplied,
    "Shape": lambda d: {"data": Slot(d.sizes()), "start": d.choice([None, 0, 1, -1]), "end": d.choice([None, 2, -1])},
}  # fmt: skip
