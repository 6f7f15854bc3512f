"""ONNX operators at random, at values of a draft."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from networks.compositions.onnx_draft import Draft, SkippedError

Draw = Callable[[Draft], Any]


# -- layers --------------------------------------------------------------------------------------------------------
def gemm(d: Draft) -> None:
    x = d.value(2)
    n, k = d.shape_of(x)
    turned, stored, m = d.dice.random() < 0.15, d.dice.random() < 0.5, d.dice.choice([1, 2, 4, 4, 6])
    rows, kept = (n, k) if turned else (k, n)
    if d.dice.random() < 0.12:  # from the left
        w = d.const(d.numbers((kept, m) if stored else (m, kept), 0.6))
        d.add("Gemm", [w, x], transA=int(stored)) if not turned else d.add("Gemm", [w, x], transA=int(stored), transB=1)
        return
    inputs = [x, d.const(d.numbers((m, rows) if stored else (rows, m), 0.6))]
    if d.opset < 11 or d.dice.random() < 0.6:
        inputs.append(d.const(d.numbers(d.dice.choice([(m,), (1, m), (kept, m), (1,), (kept, 1)]))))
    alpha, beta = d.dice.choice([None, 1.0, 0.5, -2.0]), d.dice.choice([None, 1.0, 0.25, 0.0, -3.0])
    d.add("Gemm", inputs, transA=int(turned), transB=int(stored), alpha=alpha, beta=beta)


def matmul(d: Draft) -> None:
    x = d.value((1, 2, 3, 4))
    shape, m = d.shape_of(x), d.dice.choice([1, 2, 3, 4, 6])
    if len(shape) > 1 and d.dice.random() < 0.3:
        d.add("MatMul", [d.const(d.numbers((m, shape[-2]), 0.6)), x])
    elif len(shape) == 1 and d.dice.random() < 0.3:
        d.add("MatMul", [d.const(d.numbers((m, shape[0]), 0.6)), x])
    else:
        d.add("MatMul", [x, d.const(d.numbers((shape[-1], m), 0.6))])


def geometry(d: Draft, spatial: tuple[int, ...], kernel: tuple[int, ...]) -> dict[str, Any]:
    count = len(spatial)
    found: dict[str, Any] = {"kernel_shape": list(kernel)}
    how = d.dice.choice([None, None, None, "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"])
    if how in (None, "NOTSET") and d.dice.random() < 0.6:
        found["pads"] = [d.dice.randint(0, k // 2) for k in kernel * 2]
    if d.dice.random() < 0.5:
        found["strides"] = [d.dice.randint(1, 3) for _ in range(count)]
    if how not in ("SAME_UPPER", "SAME_LOWER") and d.dice.random() < 0.25:
        found["dilations"] = [d.dice.randint(1, 2) for _ in range(count)]
    return found | ({"auto_pad": how} if how else {})


def conv(d: Draft, *, transposed: bool = False) -> None:
    x = d.value((3, 4, 5))
    _, c, *rest = d.shape_of(x)
    spatial = tuple(rest)
    kernel = tuple(d.dice.randint(1, min(3, n + 1)) for n in spatial)
    group = d.dice.choice([g for g in (1, 1, 2, 3, c) if c and c % g == 0])
    out = group * d.dice.randint(1, 2)
    shape = (c, out // group, *kernel) if transposed else (out, c // group, *kernel)
    given = geometry(d, spatial, kernel)
    given |= {"group": group} if group > 1 or d.dice.random() < 0.2 else {}
    if d.dice.random() < 0.3:
        del given["kernel_shape"]
    if transposed and d.dice.random() < 0.3:
        strides = given.get("strides", [1] * len(spatial))
        given["output_padding"] = [d.dice.randint(0, max(s - 1, 0)) for s in strides]
    if transposed and "auto_pad" in given and given["auto_pad"].startswith("SAME"):
        given.pop("auto_pad")  # onnx's reference and onnxruntime disagree
    inputs = [x, d.const(d.numbers(shape, 0.5))]
    if d.dice.random() < 0.5:
        inputs.append(d.const(d.numbers((out,))))
    d.add("ConvTranspose" if transposed else "Conv", inputs, **given)


def batch_norm(d: Draft) -> None:
    x = d.value((2, 3, 4))
    c = d.shape_of(x)[1]
    variance = abs(d.rng.standard_normal(c)) + d.dice.choice([0.0, 0.5, 1.0])
    given = [d.numbers((c,)), d.numbers((c,)), d.numbers((c,)), variance]
    epsilon = d.dice.choice([None, 1e-5, 0.1, 2.0])
    inputs = [x, *(d.const(each, folded=False) for each in given)]
    d.add("BatchNormalization", inputs, epsilon=epsilon, momentum=d.dice.choice([None, 0.5]))


# -- functions of each entry -----------------------------------------------------------------------------------------
PLAIN = ["Relu", "Sigmoid", "Tanh", "Abs", "Neg", "Softplus", "Softsign", "HardSwish", "Mish", "Erf", "Sin", "Cos"]
PLAIN += ["Relu", "Relu", "Identity", "Selu", "Atan"]
STEEP = ["Exp", "Log", "Sqrt", "Reciprocal", "Exp", "Sqrt"]
JOINS = ["Add", "Sub", "Sum", "Mean", "Max", "Min", "Max", "Min", "Sum", "Add", "Sub"]


def function(d: Draft) -> None:
    x, name = d.value(), d.dice.choice(PLAIN)
    more: dict[str, Any] = (
        {"alpha": d.dice.choice([1.0, 2.5]), "gamma": d.dice.choice([0.5, 1.2])} if name == "Selu" else {}
    )
    d.add(name, [x], **(more if d.dice.random() < 0.5 else {}))


def with_alpha(d: Draft) -> None:
    x, name = d.value(), d.dice.choice(["LeakyRelu", "Elu", "Elu", "Celu", "Swish", "Swish", "HardSigmoid", "Gelu"])
    alpha = d.dice.choice([None, 1.0, 0.1, 0.5, 2.0, -0.7, 3.0, 10.0])
    if name == "Gelu":
        d.add(name, [x], approximate=d.dice.choice([None, "none", "tanh"]))
    elif name == "HardSigmoid":
        d.add(name, [x], alpha=d.dice.choice([None, 0.3, 1 / 6, -0.5, 2.0]), beta=d.dice.choice([None, 0.5, 0.1, 0.9]))
    else:
        d.add(name, [x], alpha=abs(alpha) if alpha and name == "Celu" else alpha)


def prelu(d: Draft) -> None:
    x = d.value()
    d.add("PRelu", [x, d.const(d.numbers(d.part(d.shape_of(x))))])


def clip(d: Draft) -> None:
    x, (low, high) = d.value(), sorted(d.numbers((2,)).tolist())
    gone = d.dice.choice([None, None, "min", "max"])
    if d.opset < 11:
        d.add("Clip", [x], min=None if gone == "min" else low, max=None if gone == "max" else high)
        return
    shape = d.dice.choice([(), (), (1,)])
    ends = ["" if gone == n else d.const(np.full(shape, e)) for n, e in (("min", low), ("max", high))]
    d.add("Clip", [x, *ends])


def positive(d: Draft) -> str:
    """A value that stays away from 0, more or less."""
    x = d.value()
    how, far = d.dice.choice(["Abs", "Sigmoid", "Exp", "Softplus", "", "Relu", "Elu"]), d.dice.choice([0.1, 1.0, 2.0])
    inner = d.add(how, [x]) if how else x
    return d.add("Add", [inner, d.const(np.full(d.part(d.shape_of(x)), far + (1.0 if how in ("Elu", "") else 0)))])


def steep(d: Draft) -> None:
    d.add(d.dice.choice(STEEP), [positive(d) if d.dice.random() < 0.8 else d.value()])


def power(d: Draft) -> None:
    exponent = d.dice.choice([1.0, 2.0, 2.0, 3.0, 4.0, 0.5, -0.5, -1.0])
    x = d.value() if exponent >= 1 else positive(d)
    d.add("Pow", [x, d.const(np.full(d.dice.choice([(), (1,)]), exponent), folded=False)])


def quotient(d: Draft) -> None:
    below = positive(d)
    d.add("Div", [d.operand(d.shape_of(below)), below])


def squared(d: Draft) -> None:
    x = d.value()
    d.add("Mul", [x, x if d.dice.random() < 0.4 else d.operand(d.shape_of(x), 1.0)])


# -- joins -------------------------------------------------------------------------------------------------------------
def scaled(d: Draft) -> None:
    x = d.value()
    shape = d.shape_of(x)
    c = d.const(d.numbers(d.part(shape)))
    name = d.dice.choice(["Mul", "Mul", "Div"])
    if name == "Div":
        c = d.const(np.abs(d.numbers(d.part(shape))) + 0.5)
    d.add(name, [x, c] if name == "Div" or d.dice.random() < 0.5 else [c, x])


def joined(d: Draft) -> None:
    x, name = d.value(), d.dice.choice(JOINS)
    count = 2 if name in ("Add", "Sub") else d.dice.choice([2, 2, 3, 3, 1])
    some = [x, *(d.operand(d.shape_of(x)) for _ in range(count - 1))]
    d.dice.shuffle(some)
    if name in ("Max", "Min", "Sum", "Mean") and d.opset < 8 and len({d.shape_of(n) for n in some}) > 1:
        raise SkippedError
    d.add(name, some)


def where(d: Draft) -> None:
    x = d.value()
    shape = d.shape_of(x)
    mask = d.initializer(d.rng.random(d.part(shape)) < 0.5, "m")
    pair = [x, d.operand(shape)]
    d.dice.shuffle(pair)
    d.add("Where", [mask, *pair])


# -- moves -----------------------------------------------------------------------------------------------------------
def transpose(d: Draft) -> None:
    x = d.value((2, 3, 4, 5))
    axes = list(range(len(d.shape_of(x))))
    d.dice.shuffle(axes)
    d.add("Transpose", [x], perm=axes if d.dice.random() < 0.9 else None)


def factors(d: Draft, size: int, count: int) -> list[int]:
    found = [1] * count
    for p in (2, 3, 5, 7, 11, 13):
        while size and size % p == 0:
            found[d.dice.randrange(count)] *= p
            size //= p
    if size != 1:
        raise SkippedError
    return found


def reshape(d: Draft) -> None:
    x = d.value()
    shape = d.shape_of(x)
    target = factors(d, math.prod(shape), d.dice.randint(1, 4))
    if d.dice.random() < 0.6:
        target = [1, *target]
    if d.dice.random() < 0.2 and len(shape) == len(target) and shape[0] == target[0]:
        target[0] = 0
    elif d.dice.random() < 0.4:
        target[d.dice.randrange(len(target))] = -1
    d.add("Reshape", [x, d.whole(*target)])


def computed_shape(d: Draft) -> None:
    """As torch exports ``x.reshape(x.shape[0], -1)``."""
    x = d.value((2, 3, 4))
    first = d.sliced(d.add("Shape", [x]), [(0, 0, 1, 1)])
    d.add("Reshape", [x, d.add("Concat", [first, d.whole(-1)], axis=0)])


def flatten(d: Draft) -> None:
    x = d.value()
    ndim = len(d.shape_of(x))
    d.add("Flatten", [x], axis=d.dice.choice([None, d.dice.randint(0 if d.opset < 11 else -ndim, ndim)]))


def squeezed(d: Draft) -> None:
    x = d.value()
    shape = d.shape_of(x)
    ones = [at for at, n in enumerate(shape) if n == 1]
    if ones and d.dice.random() < 0.6:
        d.with_axes("Squeeze", x, None if d.dice.random() < 0.2 else ones[: d.dice.randint(1, len(ones))], 13)
    else:
        d.with_axes("Unsqueeze", x, [d.axis(len(shape) + 1, negative=d.opset >= 13)], 13)


def cut(d: Draft, n: int) -> tuple[int, int, int]:
    """Start, stop and step, past the ends too."""
    if d.dice.random() < 0.25:
        return (d.dice.choice([n - 1, -1, n + 2]), d.dice.choice([-(2**31), -n - 1, 0]), d.dice.choice([-1, -1, -2]))
    start, step = d.dice.randint(0, max(n - 1, 0)), d.dice.choice([1, 1, 1, 2])
    return d.dice.choice([start, start - n]), d.dice.choice([n, 2**31, start + 1, start + 2, -1]), step


def sliced(d: Draft) -> None:
    x = d.value((1, 2, 3, 4))
    shape = d.shape_of(x)
    axes = d.dice.sample(range(len(shape)), d.dice.randint(1, min(2, len(shape))))
    d.sliced(x, [(a - len(shape) if d.dice.random() < 0.2 else a, *cut(d, shape[a])) for a in axes])


def split(d: Draft) -> None:
    x = d.value((1, 2, 3, 4))
    axis = d.axis(len(d.shape_of(x)), negative=d.opset >= 11)
    n = d.shape_of(x)[axis]
    first = d.dice.randint(0 if d.dice.random() < 0.1 else min(1, n), n)
    second = d.dice.randint(0, n - first)
    some = [first, second, n - first - second]
    d.split(x, [part for part in some if part or d.dice.random() < 0.1] or [n], axis)


def concat(d: Draft) -> None:
    x = d.value((1, 2, 3, 4))
    shape = d.shape_of(x)
    axis = d.dice.randrange(len(shape))
    fitting = [
        n for n, v in d.values.items() if v.ndim == len(shape) and
        v.shape[:axis] + v.shape[axis + 1 :] == shape[:axis] + shape[axis + 1 :]
    ]  # fmt: skip
    some = [x, *(d.dice.choice(fitting) for _ in range(d.dice.choice([0, 1, 1, 2])))]
    if d.dice.random() < 0.35:
        some.append(d.const(d.numbers((*shape[:axis], d.dice.choice([0, 1, 1, 2]), *shape[axis + 1 :]))))
    d.dice.shuffle(some)
    d.add("Concat", some, axis=axis if d.opset < 11 or d.dice.random() < 0.7 else axis - len(shape))


def gather(d: Draft) -> None:
    x = d.value((1, 2, 3))
    axis = d.axis(len(d.shape_of(x)))
    n = d.shape_of(x)[axis]
    low = 0 if d.opset < 11 else -n
    shape = d.dice.choice([(), (1,), (2,), (3,), (2, 2)])
    if not n:
        raise SkippedError
    d.add("Gather", [x, d.initializer(d.rng.integers(low, n, shape), "i")], axis=axis)


def expanded(d: Draft) -> None:
    x = d.value((1, 2, 3))
    shape = d.shape_of(x)
    if d.dice.random() < 0.5:
        d.add("Expand", [x, d.whole(*(d.dice.randint(1, 3) if n == 1 else d.dice.choice([1, n]) for n in shape))])
    else:
        d.add("Tile", [x, d.whole(*(d.dice.choice([1, 1, 2]) for _ in shape))])


def blocks(d: Draft) -> None:
    x = d.value(4)
    _, c, h, w = d.shape_of(x)
    if c % 4 == 0 and c and d.dice.random() < 0.7:
        d.add("DepthToSpace", [x], blocksize=2, mode=d.dice.choice([None, "DCR", "CRD"]) if d.opset >= 11 else None)
    elif h % 2 == w % 2 == 0:
        d.add("SpaceToDepth", [x], blocksize=2)


def pad(d: Draft) -> None:
    x = d.value((1, 2, 3, 4))
    shape = d.shape_of(x)
    mode = d.dice.choice([None, "constant", "reflect", "edge", "wrap" if d.opset >= 19 else "edge"])
    least = -1 if mode in (None, "constant") and d.dice.random() < 0.3 else 0
    pads = [d.dice.choice([0, 0, least, 1, 2]) for _ in shape * 2]
    if mode == "reflect":
        pads = [min(p, shape[at % len(shape)] - 1) for at, p in enumerate(pads)]
    value = d.dice.choice([None, 0.0, 2.5])
    if d.opset < 11:
        d.add("Pad", [x], mode=mode, pads=pads, value=value)
    elif value is None:
        d.add("Pad", [x, d.whole(*pads)], mode=mode)
    else:
        d.add("Pad", [x, d.whole(*pads), d.const(np.asarray(value), folded=False)], mode=mode)


# -- pooling, resizing, reductions -----------------------------------------------------------------------------------
def pooled(d: Draft) -> None:
    x = d.value((3, 4, 5))
    spatial = d.shape_of(x)[2:]
    if d.dice.random() < 0.2:
        d.add(d.dice.choice(["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"]), [x])
        return
    kernel = tuple(d.dice.randint(1, min(3, max(n, 1))) for n in spatial)
    name, given = d.dice.choice(["MaxPool", "AveragePool", "AveragePool"]), geometry(d, spatial, kernel)
    given["ceil_mode"] = d.dice.choice([None, None, 1])
    if name == "AveragePool":
        given["count_include_pad"] = d.dice.choice([None, 0, 1])
    if (name == "AveragePool" and d.opset < 19) or (name == "MaxPool" and d.opset < 10):
        given.pop("dilations", None)
    d.add(name, [x], **given)


def resized(d: Draft) -> None:
    x = d.value((3, 4))
    shape = d.shape_of(x)
    scales = [1.0, 1.0, *(d.dice.choice([1.0, 2.0, 3.0, 0.5, 1.5]) for _ in shape[2:])]
    mode = d.dice.choice(["nearest", "linear"])
    scale = d.initializer(np.array(scales, np.float32), "s")
    if d.opset < 10:
        d.add("Upsample", [x, scale] if d.opset >= 9 else [x], mode=mode, scales=None if d.opset >= 9 else scales)
    elif d.opset == 10:
        d.add("Resize", [x, scale], mode=mode)
    else:
        where = d.dice.choice(["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"])
        nearest = d.dice.choice(["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
        more: dict[str, Any] = {
            "coordinate_transformation_mode": where,
            "nearest_mode": nearest if mode == "nearest" else None,
        }
        if d.dice.random() < 0.5:
            sizes = [*shape[:2], *(d.dice.randint(1, 5) for _ in shape[2:])]
            d.add("Resize", [x, "", "", d.whole(*sizes)], mode=mode, **more)
        else:
            d.add("Resize", [x, "", scale], mode=mode, **more)


REDUCTIONS = ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2"]


def reduced(d: Draft) -> None:
    x, name = d.value((1, 2, 3, 4)), d.dice.choice(REDUCTIONS)
    axes = d.dice.choice([None, d.dice.sample(range(ndim := len(d.shape_of(x))), d.dice.randint(1, ndim))])
    if axes is not None and d.opset >= 11:
        axes = [a - ndim if d.dice.random() < 0.3 else a for a in axes]
    d.with_axes(name, x, axes, 13 if name == "ReduceSum" else 18, keepdims=d.dice.choice([None, 0, 1]))


def softmax(d: Draft) -> None:
    ndim = len(d.shape_of(x := d.value((1, 2, 3, 4))))
    axis = d.dice.choice([None, d.axis(ndim, negative=d.opset >= 11)])
    if axis is None and ndim == 1 and d.opset < 13:
        raise SkippedError
    d.add(d.dice.choice(["Softmax", "Softmax", "LogSoftmax"]), [x], axis=axis)


def custom(d: Draft) -> None:  # of another domain, with the name of one of onnx's
    d.add(d.dice.choice(["Relu", "Sigmoid", "Identity", "Abs", "Neg", "Erf"]), [d.value()], domain="mylib")


DRAWS: dict[Draw, float] = {
    gemm: 5, matmul: 3, conv: 4, lambda d: conv(d, transposed=True): 2, batch_norm: 1.5, function: 6, with_alpha: 4,
    prelu: 1, clip: 1.5, scaled: 4, joined: 7, where: 1.5, transpose: 3, reshape: 2.5, computed_shape: 0.5,
    flatten: 0.5, squeezed: 1, sliced: 3, split: 2, concat: 3, gather: 1.5, expanded: 1, blocks: 0.7, pad: 2,
    pooled: 3, resized: 1.5, reduced: 2.5, softmax: 1, custom: 0.3,
}  # fmt: skip
ON_RANGES: dict[Draw, float] = {steep: 4, power: 3, quotient: 2.5, squared: 4}  # constants on ranges alone
