"""Torch operators at random, at values of a draft."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from networks.compositions.torch_programs import Draft, SkippedError

Draw = Callable[[Draft], Any]


def axis(d: Draft, x: str, more: int = 0) -> int:
    ndim = len(d.shape_of(x)) + more
    if not ndim:
        raise SkippedError
    at = d.dice.randrange(ndim)
    return at - ndim if d.dice.random() < 0.3 else at


def some_axes(d: Draft, x: str) -> list[int]:
    ndim = len(d.shape_of(x))
    return d.dice.sample(range(ndim), d.dice.randint(1, ndim)) if ndim else []


# -- layers --------------------------------------------------------------------------------------------------------
def linear(d: Draft) -> None:
    x = d.value((1, 2, 3))
    k, m = d.shape_of(x)[-1], d.dice.choice([1, 2, 4, 4, 6])
    w = d.const((m, k), 0.6)
    kind = d.dice.random()
    if kind < 0.5:
        d.add(f"F.linear({x}, {w}, {d.dice.choice(['None', d.const((m,))])})")
    elif kind < 0.7:
        d.add(f"{x} @ {w}.T")
    elif kind < 0.8 and len(d.shape_of(x)) > 1:
        n = d.shape_of(x)[-2]
        d.add(f"torch.matmul({d.const((m, n), 0.6)}, {x})")
    elif kind < 0.9 and len(d.shape_of(x)) == 2:
        b, alpha = d.const(d.part((d.shape_of(x)[0], m))), d.number()
        d.add(f"torch.addmm({b}, {x}, {w}.T, beta={d.number()}, alpha={alpha})")
    else:
        d.add(f"torch.einsum('...i,ji->...j', {x}, {w})" if d.dice.random() < 0.3 else f"torch.matmul({x}, {w}.mT)")


def bmm(d: Draft) -> None:
    x = d.value(3)
    b, _, k = d.shape_of(x)
    w = d.const((b, k, d.dice.randint(1, 3)), 0.6)
    d.add(f"torch.bmm({x}, {w})" if d.dice.random() < 0.6 else f"torch.einsum('bij,bjk->bik', {x}, {w})")


def conv(d: Draft, *, transposed: bool = False) -> None:
    x = d.value((3, 4, 5))
    _, c, *spatial = d.shape_of(x)
    n = len(spatial)
    kernel = [d.dice.randint(1, min(3, size + 1)) for size in spatial]
    groups = d.dice.choice([g for g in (1, 1, 2, 3, c) if c % g == 0])
    out = groups * d.dice.randint(1, 2)
    w = d.const((c, out // groups, *kernel) if transposed else (out, c // groups, *kernel), 0.5)
    bias = d.const((out,)) if d.dice.random() < 0.5 else "None"
    stride = [d.dice.randint(1, 2) for _ in spatial]
    padding: Any = [d.dice.randint(0, k // 2) for k in kernel]
    given = f"groups={groups}, dilation={[d.dice.choice([1, 1, 2]) for _ in spatial]}"
    if transposed:
        given += f", output_padding={[d.dice.randint(0, s - 1) for s in stride]}"
    elif d.dice.random() < 0.3:
        stride, padding = [1] * n, d.dice.choice(["same", "valid"])
    name = f"conv{'_transpose' if transposed else ''}{n}d"
    d.add(f"F.{name}({x}, {w}, {bias}, stride={stride}, padding={padding!r}, {given})")


def batch_norm(d: Draft) -> None:
    x = d.value((2, 3, 4))
    c = (d.shape_of(x)[1],)
    affine = f"{d.const(c)}, {d.const(c)}" if d.dice.random() < 0.7 else "None, None"
    eps = d.dice.choice([1e-5, 0.1, 2.0])
    d.add(f"F.batch_norm({x}, {d.const(c)}, {d.const(c, positive=True)}, {affine}, False, 0.1, {eps})")


# -- functions of each entry -----------------------------------------------------------------------------------------
PLAIN = [
    "torch.relu({})", "F.relu({})", "torch.sigmoid({})", "torch.tanh({})", "torch.abs({})", "-{}", "F.silu({})",
    "F.mish({})", "F.hardswish({})", "F.hardsigmoid({})", "F.relu6({})", "F.selu({})", "F.logsigmoid({})",
    "torch.sin({})", "torch.cos({})", "torch.atan({})", "torch.erf({})", "F.gelu({})", "F.gelu({}, approximate='tanh')",
    "{}.clone()", "F.softsign({})", "F.tanhshrink({})", "{}.contiguous()", "torch.relu({}.clone()).add_(1.5).mul_(0.5)",
]  # fmt: skip
STEEP = ["torch.exp({})", "torch.log({})", "torch.sqrt({})", "torch.rsqrt({})", "torch.reciprocal({})"]


def function(d: Draft) -> None:
    d.add(d.dice.choice(PLAIN).format(d.value()))


def with_numbers(d: Draft) -> None:
    x, a, b = d.value(), d.number(), d.number()
    low, high = sorted((a, b))
    some = [
        f"F.elu({x}, {a})", f"torch.ops.aten.elu({x}, {a}, {b}, {abs(a)})", f"F.celu({x}, {abs(a) or 1.0})",
        f"F.leaky_relu({x}, {a})", f"F.hardtanh({x}, {low}, {high + 0.5})", f"F.softplus({x}, {abs(a) or 1.0}, {20.0})",
        f"F.softplus({x}, {abs(a) or 1.0}, {abs(b)})", f"F.softshrink({x}, {abs(a)})", f"F.threshold({x}, {a}, {a})",
        f"F.threshold({x}, {a}, {b})", f"torch.clamp({x}, {low}, {high})", f"torch.clamp({x}, min={a})",
        f"torch.clamp({x}, max={a})", f"torch.clamp({x}, {high}, {low})", f"F.hardshrink({x}, {abs(a)})",
    ]  # fmt: skip
    d.add(d.dice.choice(some))


def prelu(d: Draft) -> None:
    x = d.value((2, 3, 4))
    d.add(f"F.prelu({x}, {d.const(d.dice.choice([(1,), (d.shape_of(x)[1],)]))})")


def positive(d: Draft) -> str:
    x = d.value()
    some = ["torch.abs({})", "torch.sigmoid({})", "torch.exp({})", "F.softplus({})", "1 + F.elu({})", "{}"]
    how = d.dice.choice(some)
    return d.add(f"{how.format(x)} + {d.dice.choice([0.1, 0.5, 1.0, 2.0])}")


def steep(d: Draft) -> None:
    d.add(d.dice.choice(STEEP).format(positive(d) if d.dice.random() < 0.8 else d.value()))


def power(d: Draft) -> None:
    exponent = d.dice.choice([1, 2, 2, 3, 4, 0.5, -0.5, -1])
    d.add(f"{d.value() if exponent >= 1 else positive(d)} ** {exponent}")


def quotient(d: Draft) -> None:
    below = positive(d)
    d.add(f"{d.operand(d.shape_of(below))} / {below}")


def squared(d: Draft) -> None:
    x = d.value()
    other = x if d.dice.random() < 0.4 else d.operand(d.shape_of(x), 1.0)
    d.add(d.dice.choice([f"{x} * {other}", f"torch.square({x})", f"{x} * {other}"]))


# -- joins -------------------------------------------------------------------------------------------------------------
def scaled(d: Draft) -> None:
    x = d.value()
    c = d.const(d.part(d.shape_of(x)), positive=d.dice.random() < 0.5)
    d.add(d.dice.choice([f"{x} * {c}", f"{c} * {x}", f"{x} / ({c}.abs() + 0.5)", f"{x} * {d.number()}", f"{x} / 3"]))


def joined(d: Draft) -> None:
    x = d.value()
    y = d.operand(d.shape_of(x))
    one, other = d.dice.sample([x, y], 2)
    alpha = d.dice.choice([1, 2, -0.5, 0, 3])
    tensor = y if not y[-1].isdigit() or "." not in y else d.const(d.part(d.shape_of(x)))
    some = [
        f"{one} + {other}", f"{one} - {other}", f"torch.add({x}, {tensor}, alpha={alpha})",
        f"torch.rsub({x}, {tensor}, alpha={alpha})", f"torch.sub({tensor}, {x}, alpha={alpha})",
        f"torch.maximum({x}, {tensor})", f"torch.minimum({tensor}, {x})", f"torch.clamp({x}, min={tensor})",
        f"torch.clamp({x}, min={tensor}, max={d.const(d.part(d.shape_of(x)))})",
        f"torch.maximum(torch.maximum({x}, {tensor}), {d.operand(d.shape_of(x), 1.0)})",
    ]  # fmt: skip
    d.add(d.dice.choice(some))


def where(d: Draft) -> None:
    x = d.value()
    shape = d.shape_of(x)
    mask = d.kept(torch.rand(d.part(shape), generator=d.generator) < 0.5)
    pair = d.dice.sample([x, d.operand(shape)], 2)
    d.add(d.dice.choice([f"torch.where({mask}, {pair[0]}, {pair[1]})", f"{x}.masked_fill({mask}, {d.number()})"]))


# -- moves -----------------------------------------------------------------------------------------------------------
def permuted(d: Draft) -> None:
    x = d.value((2, 3, 4, 5))
    ndim = len(d.shape_of(x))
    order = d.dice.sample(range(ndim), ndim)
    a, b = axis(d, x), axis(d, x)
    d.add(d.dice.choice([f"{x}.permute({order})", f"{x}.transpose({a}, {b})", f"torch.movedim({x}, {a}, {b})"]))


def reshaped(d: Draft) -> None:
    x = d.value()
    shape = d.shape_of(x)
    target, size = [1] * d.dice.randint(1, 4), math.prod(shape)
    for p in (2, 3, 5, 7):
        while size and size % p == 0:
            target[d.dice.randrange(len(target))] *= p
            size //= p
    first = d.dice.randrange(max(len(shape), 1))
    some = [f"{x}.reshape({[1, *target]})", f"{x}.reshape({target})", f"{x}.flatten({first})"]
    d.add(d.dice.choice([*some, f"{x}.squeeze()", f"{x}.unsqueeze({axis(d, x, 1)})", f"{x}.reshape({x}.shape[0], -1)"]))


def sliced(d: Draft) -> None:
    x = d.value((1, 2, 3, 4))
    at = axis(d, x)
    n = d.shape_of(x)[at]
    start, stop = d.dice.randint(-n, n), d.dice.randint(-n, n + 2)
    some = [
        f"torch.ops.aten.slice({x}, {at}, {start}, {stop}, {d.dice.randint(1, 2)})",
        f"{x}.narrow({at}, 0, {max(n // 2, 1)})",
        f"{x}.select({at}, {d.dice.randrange(-n, n)})", f"{x}.flip({some_axes(d, x)})",
        f"torch.roll({x}, {d.dice.randint(-3, 3)}, {at})", f"torch.roll({x}, {d.dice.randint(-3, 3)})",
        f"{x}.repeat_interleave({d.dice.randint(1, 2)}, {at})", f"torch.tile({x}, {[d.dice.randint(1, 2)]})",
    ]  # fmt: skip
    if n:
        d.add(d.dice.choice(some))


def pieces(d: Draft) -> None:
    x = d.value((1, 2, 3, 4))
    at = axis(d, x)
    n = d.shape_of(x)[at]
    first = d.dice.randint(0, n)
    how = d.dice.choice([
        f"{x}.chunk({d.dice.randint(1, 3)}, {at})", f"torch.split({x}, {max(n // 2, 1)}, {at})",
        f"torch.split({x}, {[first, n - first]}, {at})", f"{x}.unbind({at})", f"torch.tensor_split({x}, 2, {at})",
        f"torch.tensor_split({x}, ({first},), {at})",
    ])  # fmt: skip
    d.add(f"{how}[0]")
    d.add(f"{how}[-1]")


def concat(d: Draft) -> None:
    x = d.value((1, 2, 3, 4))
    shape, at = d.shape_of(x), axis(d, x)
    same = [n for n, v in d.values.items() if v.shape == shape]
    some = [x, *(d.dice.choice(same) for _ in range(d.dice.randint(1, 2)))]
    if d.dice.random() < 0.3:
        some.append(d.const(shape))
    d.dice.shuffle(some)
    how = d.dice.choice(["torch.cat", "torch.cat", "torch.stack"])
    d.add(f"{how}([{', '.join(some)}], {at})")


def indexed(d: Draft) -> None:
    x = d.value((1, 2, 3))
    at = axis(d, x)
    n = d.shape_of(x)[at]
    index = d.kept(torch.randint(0, max(n, 1), (d.dice.randint(1, 4),), generator=d.generator))
    d.add(d.dice.choice([f"{x}.index_select({at}, {index})", f"{x}[..., {index} % {x}.shape[-1]]", f"torch.tril({x})"]))


def padded(d: Draft) -> None:
    x = d.value((2, 3, 4))
    count = len(d.shape_of(x)) - 2 or 1
    pads = [d.dice.choice([0, 1, 1, 2]) for _ in range(2 * count)]
    mode = d.dice.choice(["constant", "reflect", "replicate", "circular"])
    if mode == "constant":
        pads[d.dice.randrange(len(pads))] = d.dice.choice([-1, 0, 1])
        d.add(f"F.pad({x}, {pads}, value={d.number()})")
    else:
        d.add(f"F.pad({x}, {pads}, mode={mode!r})")


def shuffled(d: Draft) -> None:
    x = d.value(4)
    c = d.shape_of(x)[1]
    groups = d.dice.choice([g for g in (1, 2, c) if c % g == 0])
    some = [f"F.pixel_unshuffle({x}, 2)", f"F.channel_shuffle({x}, {groups})"]
    d.add(d.dice.choice([*some, f"F.pixel_shuffle({x}, 2)"] if c % 4 == 0 else some))


# -- pooling, resizing, reductions, sorting --------------------------------------------------------------------------
def pooled(d: Draft) -> None:
    x = d.value((3, 4))
    spatial = d.shape_of(x)[2:]
    n, kernel = len(spatial), [d.dice.randint(1, min(3, size)) for size in spatial]
    given = f"{kernel}, stride={d.dice.choice([None, [d.dice.randint(1, 2) for _ in kernel]])}, padding="
    given += f"{[d.dice.randint(0, k // 2) for k in kernel]}, ceil_mode={d.dice.random() < 0.3}"
    more = f"count_include_pad={d.dice.random() < 0.5}"
    if n == 2 and d.dice.random() < 0.3:
        more += f", divisor_override={d.dice.choice([None, 1, 3])}"
    out = [d.dice.randint(1, 3) for _ in kernel]
    some = [
        f"F.max_pool{n}d({x}, {given}, dilation=1)", f"F.avg_pool{n}d({x}, {given}, {more})",
        f"F.avg_pool{n}d({x}, {given}, {more})", f"F.adaptive_avg_pool{n}d({x}, {out})",
        f"F.adaptive_max_pool{n}d({x}, {out})", f"F.lp_pool{n}d({x}, 2.0, {kernel[0] if n == 1 else kernel})",
    ]  # fmt: skip
    d.add(d.dice.choice(some))


def resized(d: Draft) -> None:
    x = d.value((3, 4))
    spatial = d.shape_of(x)[2:]
    size = [d.dice.randint(1, 5) for _ in spatial]
    how = f"size={size}" if d.dice.random() < 0.5 else f"scale_factor={d.dice.choice([1.5, 2.0, 0.5, 3.0])}"
    mode = d.dice.choice(["nearest", "nearest-exact", "linear" if len(spatial) == 1 else "bilinear"])
    more = f", align_corners={d.dice.random() < 0.5}" if mode.endswith("linear") else ""
    d.add(f"F.interpolate({x}, {how}, mode={mode!r}{more})")


def reduced(d: Draft) -> None:
    x = d.value((1, 2, 3, 4))
    axes, keep = some_axes(d, x), d.dice.random() < 0.5
    name = d.dice.choice(["mean", "sum", "amax", "amin"])
    some = [f"{x}.{name}({axes}, keepdim={keep})", f"torch.linalg.vector_norm({x}, 2, {axes}, keepdim={keep})"]
    at = axis(d, x)
    some += [f"{x}.max({at})[0]", f"torch.softmax({x}, {at})", f"F.log_softmax({x}, {at})", f"{x}.{name}()"]
    d.add(d.dice.choice(some))


def sorted_(d: Draft) -> None:
    x = d.value((1, 2, 3))
    at, down = axis(d, x), d.dice.random() < 0.5
    k = d.dice.randint(1, max(d.shape_of(x)[at], 1))
    d.add(d.dice.choice([f"torch.sort({x}, {at}, {down})[0]", f"torch.topk({x}, {k}, {at}, {down})[0]"]))


def custom(d: Draft) -> None:
    x = d.value(2)
    k = d.shape_of(x)[-1]
    d.add(d.dice.choice([f"torch.ops.mylib.relu({x})", f"torch.ops.mylib.linear({x}, {d.const((k, k))})"]))


def by_samples(d: Draft) -> None:
    """Another map for several samples."""
    x = d.value((2, 3, 4))
    d.add(f"(50 * {x} if x.shape[0] > {d.dice.choice([1, 2])} else {x})")


DRAWS: dict[Draw, float] = {
    linear: 6, bmm: 0.7, conv: 4, lambda d: conv(d, transposed=True): 2, batch_norm: 1.5, function: 6, with_numbers: 5,
    prelu: 1, scaled: 3, joined: 7, where: 1.5, permuted: 3, reshaped: 3, sliced: 4, pieces: 2, concat: 3, indexed: 1.5,
    padded: 2, shuffled: 0.7, pooled: 3, resized: 1.5, reduced: 3, sorted_: 1.5, custom: 0.4, by_samples: 0.15,
}  # fmt: skip
ON_RANGES: dict[Draw, float] = {steep: 3, power: 2, quotient: 2.5, squared: 3}
