"""Torch modules as people write them, each drawn from one number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from networks.drawn_models.attacks import Machine, Vectors
from networks.drawn_models.hunting import Outcome, outcome
from networks.drawn_models.pieces import ROOM, Dice, Pieces, Shape, relative
from networks.stored.networks import OF_ONE_VALUE, OF_WEIGHTS, Recurrent, SplineOfKnots, by_relu
from torch import Tensor, nn
from torch.nn.utils import parametrizations

MOST = 400
"""Entries of a value at most."""


class Lambda(nn.Module):
    """A function of inputs, and of modules, parameters or buffers."""

    def __init__(self, f: Callable[..., Any], *parts: Any) -> None:
        super().__init__()
        self.f = f
        self.names = [f"part{at}" for at in range(len(parts))]
        for name, part in zip(self.names, parts, strict=True):
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *x: Any) -> Any:
        return self.f(*x, *(getattr(self, name) for name in self.names))


@dataclass(frozen=True, eq=False)
class Drawn:
    """A module, the shapes of its inputs without the batch, and the names of its pieces."""

    module: nn.Module
    shapes: tuple[Shape, ...]
    pieces: tuple[str, ...]
    dtype: torch.dtype


PIECES = Pieces()
plain, odd = PIECES.plain, PIECES.odd
ANY = (1, 2, 3, 4)


# -- layers ----------------------------------------------------------------------------------------------------------
CONVS: Any = {2: nn.Conv1d, 3: nn.Conv2d, 4: nn.Conv3d}
TRANSPOSED: Any = {2: nn.ConvTranspose1d, 3: nn.ConvTranspose2d, 4: nn.ConvTranspose3d}
NORMS: Any = {1: nn.BatchNorm1d, 2: nn.BatchNorm1d, 3: nn.BatchNorm2d, 4: nn.BatchNorm3d}


def conv(d: Dice, s: Shape, cout: int | None = None, keep: bool = False) -> Any:
    cout = cout or d.randint(1, 6)
    groups = d.divisor(s[0], cout) if d.chance(0.3) else 1
    size = tuple(d.one_of(1, 2, 3, 3, 3, 5) for _ in s[1:])
    if keep:
        size = tuple(n | 1 for n in size)
        padding: Any = "same" if d.chance(0.3) else tuple(n // 2 for n in size)
        mode = d.one_of("zeros", "zeros", "circular") if len(s) == 3 else "zeros"
        return CONVS[len(s)](s[0], cout, size, padding=padding, groups=groups, padding_mode=mode)
    stride = tuple(d.one_of(1, 1, 2, 3) for _ in size)
    dilation = tuple(d.one_of(1, 1, 1, 2) for _ in size)
    padding = d.one_of(0, 1, 2, tuple(d.randint(0, 2) for _ in size))
    if d.chance(0.2):
        padding, stride = "same", (1,) * len(size)
    mode = d.one_of("zeros", "zeros", "zeros", "circular", "reflect", "replicate")
    return CONVS[len(s)](s[0], cout, size, stride, padding, dilation, groups, d.chance(0.7), mode)


def transposed(d: Dice, s: Shape) -> Any:
    cout = d.randint(1, 4)
    stride = tuple(d.one_of(1, 2, 2, 3) for _ in s[1:])
    size = tuple(d.randint(1, 4) for _ in stride)
    more = tuple(d.randrange(n) for n in stride) if d.chance(0.3) else 0
    groups = d.divisor(s[0], cout)
    return TRANSPOSED[len(s)](
        s[0], cout, size, stride, d.one_of(0, 0, 1), more, groups, d.chance(0.5), d.one_of(1, 1, 2)
    )


def linear(d: Dice, s: Shape) -> Any:
    return nn.Linear(s[-1], d.randint(1, 10), bias=d.chance(0.8))


def layer(d: Dice, s: Shape) -> Any:
    return linear(d, s) if len(s) == 1 else conv(d, s)


def rescaled(d: Dice, s: Shape) -> Any:
    """A layer whose weights are large, sparse, of rank one, or orthogonal."""
    made = layer(d, s)
    weight: Tensor = made.get_parameter("weight")
    kind = d.randrange(4)
    if kind == 0:
        weight.data *= d.one_of(3.0, 10.0, 0.1)
    elif kind == 1:
        weight.data *= torch.rand(weight.shape) < 0.4
    elif kind == 2:
        flat = weight.data.flatten(1)
        weight.data.copy_((flat[:, :1] @ flat[:1]).reshape(weight.shape) * 3)
    else:
        nn.init.orthogonal_(weight)
    return made


def reparametrized(d: Dice, s: Shape) -> Any:
    kinds: list[Callable[[nn.Module], nn.Module]] = [
        parametrizations.weight_norm, parametrizations.spectral_norm, torch.nn.utils.spectral_norm,
        torch.nn.utils.weight_norm, *([parametrizations.orthogonal] if len(s) == 1 else []),
    ]  # fmt: skip
    found = d.choice(kinds)(layer(d, s))
    if d.chance(0.4):
        found.train()(torch.randn(2, *s))  # power iterations
    return found


def computed_weight(d: Dice, s: Shape) -> Any:
    weight = layer(d, s).get_parameter("weight")
    f = d.one_of(
        *(f for f, _, outputs in OF_WEIGHTS.values() if outputs == 4),
        lambda w: (w - w.mean(1, keepdim=True)) / (w.std(1, keepdim=True) + 1e-5),
        lambda w: w / torch.linalg.matrix_norm(w.flatten(1), 2),
        lambda w: w + (w.round() - w).detach(),
    )
    if len(s) == 1:
        return Lambda(lambda x, w: F.linear(x, f(w)), weight)
    run: Any = {2: F.conv1d, 3: F.conv2d, 4: F.conv3d}[len(s)]
    return Lambda(lambda x, w: run(x, f(w), None, 1, 0, 1, x.shape[1] // w.shape[1]), weight)


plain("layer", ANY, layer)
plain("convolution", (2, 3), conv)
plain("transposed convolution", (2, 3, 4), transposed)
plain("large or special weights", ANY, rescaled)
plain("reparametrized", ANY, reparametrized)
plain("computed weight", ANY, computed_weight)
plain("dense over the last axis", (1, 2, 3), linear)
plain("matrix by einsum", (2,), lambda d, s: Lambda(
    partial(torch.einsum, d.one_of("btc,ts->bsc", "btc,ts->bcs")), torch.randn(s[0], 4) / 2))  # fmt: skip
plain("constant matrix from the left", (2,), lambda d, s: Lambda(lambda x, w: w @ x, torch.randn(3, s[0]) / 2))


# -- normalization ---------------------------------------------------------------------------------------------------
def batch_norm(d: Dice, s: Shape) -> Any:
    made = NORMS[len(s)](s[0], eps=d.one_of(1e-5, 1e-3), affine=d.chance(0.8))
    made.running_mean.normal_()
    made.running_var.uniform_(0.2, 2)
    return affine(d, made)


def affine(d: Dice, made: nn.Module) -> Any:
    for parameter in made.parameters():
        parameter.data.uniform_(-1.5, 1.5)
    return made


EPSILONS = (1e-5, 1e-3, 0.1)


def written_norm(d: Dice, s: Shape) -> Any:
    eps = d.choice(EPSILONS)
    axis: Any = d.one_of(-1, 1, tuple(range(1, len(s) + 1)))
    kept: Any = {"dim": axis, "keepdim": True}
    return Lambda(
        d.one_of(
            lambda x: (x - x.mean(**kept)) / torch.sqrt(x.var(**kept, unbiased=False) + eps),
            lambda x: (x - x.mean(**kept)) / (x.std(**kept) + eps),
            lambda x: x * torch.rsqrt(x.pow(2).mean(**kept) + eps), lambda x: x / (x.norm(**kept) + eps),
            lambda x: x / x.norm(**kept).clamp(min=eps), lambda x: x / torch.maximum(x.norm(**kept), torch.ones(())),
            lambda x: x / x.abs().amax(**kept).clamp(min=eps),
            lambda x: x * torch.tanh(x.norm(**kept)) / (x.norm(**kept) + eps),
        )
    )  # fmt: skip


def channels_last(d: Dice, s: Shape) -> Any:
    norm = nn.LayerNorm(s[0], eps=1e-3)
    return Lambda(lambda x, f: f(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), norm)


def normalized(d: Dice, s: Shape) -> Any:
    p, eps = d.one_of(2.0, 2.0, 1.0), d.choice(EPSILONS)
    return Lambda(lambda x: F.normalize(x, p=p, dim=1, eps=eps))


plain("batch norm", ANY, batch_norm)
plain("layer norm", ANY, lambda d, s: affine(d, nn.LayerNorm(s[-d.randint(1, len(s)) :], eps=d.choice(EPSILONS))))
plain("group norm", ANY, lambda d, s: affine(d, nn.GroupNorm(d.divisor(s[0]), s[0], eps=d.choice(EPSILONS))))
plain("instance norm", (3,), lambda d, s: nn.InstanceNorm2d(s[0], affine=d.chance(0.5), eps=d.choice(EPSILONS)))
plain("rms norm", ANY, lambda d, s: affine(d, nn.RMSNorm(s[-1:], eps=d.choice(EPSILONS))))
plain("norm, written out", ANY, written_norm)
plain("normalize", ANY, normalized)
plain("channels last layer norm", (3,), channels_last)
odd("batch statistics", (1, 3), lambda d, s: NORMS[len(s)](s[0], track_running_stats=False))
odd("local response norm", (2, 3), lambda d, s: nn.LocalResponseNorm(d.randint(1, 3)))
odd("layer norm without epsilon", (1,), lambda d, s: nn.LayerNorm(s, eps=0.0))


# -- functions of an entry -------------------------------------------------------------------------------------------
def leaky(slope: float, inplace: bool) -> nn.Module:
    """In place with a positive slope alone: of others torch has no derivative."""
    return nn.LeakyReLU(slope, inplace=inplace and slope > 0)


NAMES = "ReLU Tanh Sigmoid ELU GELU SiLU Mish Softplus Hardswish Hardtanh SELU Softsign Hardsigmoid LogSigmoid ReLU6"
ACTIVATIONS: list[Callable[[Dice, Shape], nn.Module]] = [
    *(lambda d, s, name=name: getattr(nn, name)() for name in [*NAMES.split(), "Tanhshrink", "Identity"]),
    lambda d, s: leaky(d.one_of(0.01, 0.2, 1.5, -0.5), d.chance(0.5)), lambda d, s: nn.ELU(d.one_of(0.5, 3.0)),
    lambda d, s: nn.CELU(d.one_of(0.3, 2.0)), lambda d, s: nn.GELU(approximate="tanh"),
    lambda d, s: nn.Softplus(d.one_of(0.5, 5.0), d.one_of(20.0, 1.0)),
    lambda d, s: nn.Hardtanh(-0.3, d.one_of(0.3, 2.0)),
    lambda d, s: nn.PReLU(d.one_of(1, s[0]), init=d.one_of(0.25, -2.0)), lambda d, s: nn.RReLU(0.1, 0.4),
]  # fmt: skip
WRITTEN: list[Callable[..., Any]] = [
    *(f for name, f in OF_ONE_VALUE.items() if "refused" not in name),
    lambda x: torch.where(x > 0, x, torch.exp(x) - 1), lambda x: torch.where(x.abs() <= 1, 0.5 * x**2, x.abs() - 0.5),
    lambda x: 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))),
    lambda x: torch.log(torch.cosh(x.clamp(-5, 5))), lambda x: (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()),
    lambda x: torch.heaviside(x, torch.zeros(())) * x, lambda x: torch.addcmul(x, x.tanh(), torch.tensor(0.5)),
    lambda x: torch.lerp(x, x.tanh(), 0.3), lambda x: torch.stack([x, torch.zeros_like(x)]).amax(0),
    lambda x: torch.nan_to_num(x).tanh(), lambda x: x.tanh().arcsin() / 4,
    lambda x: torch.xlogy(x.sigmoid(), x.sigmoid()), lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    lambda x: torch.atan2(x, torch.ones_like(x)), lambda x: torch.polar(torch.ones_like(x), x).real,
]  # fmt: skip
JUMPING: list[Callable[..., Any]] = [
    torch.sign, lambda x: torch.where(x > 0.5, x, 0.2 * x), lambda x: x + (x.round() - x).detach(),
    lambda x: x * (x > 0.3), lambda x: torch.remainder(x, 1.0), lambda x: x.long().to(x.dtype),
]  # fmt: skip
STEEP: list[Callable[..., Any]] = [
    lambda x: x**2, torch.exp, lambda x: x.abs().sqrt(), lambda x: x.clamp(min=0.1).log(), lambda x: x * torch.sin(x),
    lambda x: torch.rsqrt(x**2 + 0.1), torch.erfinv, lambda x: x.sigmoid().logit(), torch.digamma,
]  # fmt: skip


def activation(d: Dice, s: Shape) -> Any:
    return d.choice(ACTIVATIONS)(d, s) if d.chance(0.6) else Lambda(d.choice(WRITTEN))


def maxmin(d: Dice, s: Shape) -> Any:
    split = d.one_of(lambda x: x.chunk(2, 1), lambda x: (x[:, 0::2], x[:, 1::2]))
    return Lambda(
        d.one_of(
            lambda x: torch.cat([torch.max(*split(x)), torch.min(*split(x))], 1),
            lambda x: torch.stack([torch.minimum(*split(x)), torch.maximum(*split(x))], 2).flatten(1, 2),
            lambda x: torch.cat(by_relu(*split(x)), 1),
            lambda x: x.unflatten(1, (x.shape[1] // 2, 2)).sort(2, descending=True)[0].flatten(1, 2),
        )
    )


def group_sort(d: Dice, s: Shape) -> Any:
    n = d.divisor(s[0])
    return Lambda(lambda x: x.unflatten(1, (-1, n)).sort(2).values.flatten(1, 2))


def of_channels(f: Callable[..., Any], *parts: Any) -> Callable[[Dice, Shape], Any]:
    """A function of a value and of numbers for each channel, which are drawn."""
    return lambda d, s: Lambda(f, *(part(s[0], *(1,) * (len(s) - 1)) for part in parts))


for _name in ("activation", "second activation", "third activation"):
    plain(_name, ANY, activation)
plain("maxmin", ANY, maxmin)
plain("group sort", ANY, group_sort)
plain("spline", ANY, lambda d, s: SplineOfKnots(d.chance(0.4), d.one_of(0.1, 0.5)))
plain("soft threshold, learned", ANY, of_channels(lambda x, t: x.sign() * F.relu(x.abs() - t), torch.rand))
plain("per-channel slopes", ANY, of_channels(lambda x, a, b: a * F.relu(x) - b * F.relu(-x), torch.randn, torch.randn))
plain("softmax", ANY, lambda d, s: nn.Softmax(d.randint(1, len(s))))
plain("log softmax", ANY, lambda d, s: nn.LogSoftmax(1))
odd("jumps", ANY, lambda d, s: Lambda(d.choice(JUMPING)))
odd("steep", ANY, lambda d, s: Lambda(d.choice(STEEP)))
odd("squashed, then steep", ANY, lambda d, s: Lambda(lambda x, f=d.choice(STEEP): f(torch.tanh(x) * 1.5 + 2)))


# -- pooling, resizing, transforms -----------------------------------------------------------------------------------
POOLS: Any = {
    2: (nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveMaxPool1d, nn.AdaptiveAvgPool1d, "linear"),
    3: (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d, "bilinear"),
    4: (nn.MaxPool3d, nn.AvgPool3d, nn.AdaptiveMaxPool3d, nn.AdaptiveAvgPool3d, "trilinear"),
}
"""By the axes of a sample: what pools, and how pixels between others are read."""


def pool(d: Dice, s: Shape) -> Any:
    size = tuple(d.one_of(1, 2, 2, 3) for _ in s[1:])
    padding = tuple(d.one_of(0, n // 2) for n in size)
    stride = tuple(d.one_of(1, 2, 3) for _ in size) if d.chance(0.6) else None
    most, mean, *_ = POOLS[len(s)]
    if d.chance(0.5):
        return most(size, stride, padding, dilation=d.one_of(1, 1, 2), ceil_mode=d.chance(0.3))
    more = {"divisor_override": 3} if len(s) > 2 and d.chance(0.2) else {}
    return mean(size, stride, padding, ceil_mode=d.chance(0.3), count_include_pad=d.chance(0.5), **more)


def adaptive(d: Dice, s: Shape) -> Any:
    return d.choice(POOLS[len(s)][2:4])(tuple(d.one_of(1, 1, 2, 3) for _ in s[1:]))


def resize(d: Dice, s: Shape) -> Any:
    mode = d.one_of("nearest", *POOLS[len(s)][4:] * 2)
    size = tuple(max(1, n + d.randint(-2, 4)) for n in s[1:])
    corners = {} if mode == "nearest" else {"align_corners": d.chance(0.3)}
    if d.chance(0.5):
        return nn.Upsample(scale_factor=d.one_of(2, 2, 1.5, 0.5), mode=mode, **corners)
    return Lambda(lambda x: F.interpolate(x, size=size, mode=mode, **corners))


def padded(d: Dice, s: Shape) -> Any:
    mode = d.one_of("constant", "constant", "reflect", "replicate", "circular")
    amounts = [d.randint(-1 if mode == "constant" else 0, 2) for _ in s[1:] * 2]
    value = {"value": d.one_of(0.0, 1.5)} if mode == "constant" else {}
    return Lambda(lambda x: F.pad(x, amounts, mode=mode, **value))


ALONG: dict[str, Callable[[Any, int], Any]] = {
    "full sort": lambda x, a: x.sort(a, descending=True)[0],
    "crelu": lambda x, a: torch.cat([F.relu(x), F.relu(-x)], a), "mean": lambda x, a: x.mean(a),
    "sum": lambda x, a: x.sum(a, keepdim=True) / 2, "largest": lambda x, a: x.amax(a, keepdim=True),
    "length": lambda x, a: x.norm(dim=a, keepdim=True), "log-sum-exp": lambda x, a: x.logsumexp(a, keepdim=True),
    "cumulative": lambda x, a: x.cumsum(a) / 3, "centred": lambda x, a: x - x.mean(a, keepdim=True),
}  # fmt: skip
"""Functions of a value along an axis, which is drawn."""
plain("pooling", (2, 3, 4), pool)
plain("adaptive pooling", (2, 3, 4), adaptive)
plain("resize", (2, 3, 4), resize)
plain("padding", (2, 3, 4), padded)
plain("pixel shuffle", (3,), lambda d, s: nn.PixelShuffle(2))
plain("pixel unshuffle", (3,), lambda d, s: nn.PixelUnshuffle(2))
plain("channel shuffle", (3,), lambda d, s: nn.ChannelShuffle(d.divisor(s[0])))
plain("unfold", (3,), lambda d, s: nn.Unfold(d.one_of(2, 3), stride=d.one_of(1, 2), padding=d.one_of(0, 1)))
plain("windows of a tensor", (2, 3), lambda d, s: Lambda(lambda x, n=d.one_of(1, 2): x.unfold(-1, 3, n)))
plain("top two", ANY, lambda d, s: Lambda(lambda x: x.topk(2, 1)[0]))


def along(f: Callable[[Any, int], Any]) -> Callable[[Dice, Shape], Any]:
    return lambda d, s: Lambda(lambda x, a=d.randint(1, len(s)): f(x, a))


for _name in ALONG:
    plain(_name, ANY, along(ALONG[_name]))
odd("bicubic", (3,), lambda d, s: nn.Upsample(scale_factor=2, mode="bicubic"))


# -- moves and constants ---------------------------------------------------------------------------------------------
def moved(d: Dice, s: Shape) -> Any:
    a, b = d.randint(1, len(s)), d.randint(1, len(s))
    n = s[a - 1]
    by = d.one_of(0, 1, -2)
    return d.one_of(
        Lambda(lambda x: torch.roll(x, by, a)), Lambda(lambda x: x.flip(a)), Lambda(lambda x: x.transpose(a, b)),
        Lambda(lambda x: torch.movedim(x, a, -1)), Lambda(lambda x, o: x.index_select(a, o), torch.randperm(n)),
        Lambda(lambda x, o: x.index_select(a, o), torch.randint(n, (n + 1,))),
        Lambda(lambda x: x.narrow(a, n // 3, n - n // 3)), Lambda(lambda x: x.repeat_interleave(2, a)),
        Lambda(lambda x: torch.cat([x, x], a)), Lambda(lambda x: torch.cat([x, torch.ones_like(x)], a)),
        Lambda(lambda x: x.flatten(1)), Lambda(lambda x: x[..., ::2]), Lambda(lambda x: x.diff(dim=a)),
        Lambda(lambda x: torch.stack(x.unbind(a)[::-1], a)),
    )  # fmt: skip


def constant(d: Dice, s: Shape) -> Any:
    c = torch.randn(tuple(1 if d.chance(0.4) else n for n in s))
    factor = d.one_of(2, -0.5, 0.1)
    return Lambda(
        d.one_of(
            lambda x, c: x * c, lambda x, c: (x - c) / (c.abs() + 0.5), lambda x, c: x + c,
            lambda x, _: x / 255 * 2 - 1, lambda x, c: x.masked_fill(c > 0.5, 0.0),
            lambda x, c: torch.where(c > 0, x, -x), lambda x, c: torch.where(c > 0, x, c), lambda x, _: x * factor,
            lambda x, c: torch.addcmul(x, x, c, value=0.5), lambda x, c: x.mul(c).add_(1.0),
            lambda x, c: x * c.sigmoid() + 0 * x.flip(1),
        ),
        c,
    )  # fmt: skip


plain("moved", ANY, moved)
plain("moved again", ANY, moved)
plain("constants", ANY, constant)
plain("dropout", ANY, lambda d, s: d.one_of(nn.Dropout, nn.AlphaDropout, nn.Dropout1d, nn.Dropout2d)(0.5))


# -- batch, transformations, types -----------------------------------------------------------------------------------
ODD: dict[str, tuple[tuple[int, ...], Callable[[Any], Any]]] = {
    "gated linear unit": (ANY, lambda x: F.glu(x, 1)),
    "bounded gate": (ANY, lambda x: torch.tanh(x) * torch.sigmoid(x.flip(1))),
    "antialiased": ((3,), lambda x: F.interpolate(x, size=(3, 3), mode="bilinear", antialias=True)),
    "median": ((1, 2), lambda x: x.median(1, keepdim=True).values),
    "variance": (ANY, lambda x: x.var(1, keepdim=True)),
    "deviation": (ANY, lambda x: x.std(1, keepdim=True)),
    "product of entries": (ANY, lambda x: x.tanh().prod(1, keepdim=True)),
    "gram matrix": ((2,), lambda x: x @ x.transpose(1, 2)),
    "dropout that stays": (ANY, lambda x: F.dropout(x, 0.3)),
    "noise": (ANY, lambda x: x + 0.1 * torch.randn_like(x)),
    "upper triangle": ((2,), lambda x: torch.triu(x) + x.tril(-1) * 2),
    "batch mean taken off": (ANY, lambda x: x - x.mean(0, keepdim=True)),
    "times the batch size": (ANY, lambda x: x * x.shape[0]),
    "batch summed up": (ANY, lambda x: x.cumsum(0)),
    "length of the batch": (ANY, lambda x: x / (x.norm() + 1)),
    "softmax over the batch": (ANY, lambda x: x.softmax(0)),
    "mapped by vmap": (ANY, lambda x: torch.vmap(lambda y: torch.tanh(y) + y.flip(0))(x)),
    "no gradient": (ANY, lambda x: x + torch.tanh(x.detach())),
    "float16 inside": (ANY, lambda x: x.half().tanh().to(x.dtype)),
    "float32 inside": (ANY, lambda x: torch.tanh(x.float()).to(x.dtype)),
    "complex multiplication": (
        (1, 2), lambda x: torch.view_as_real(torch.complex(x, x.flip(1)) * (0.6 + 0.8j)).flatten(1)),
    "constant output": (ANY, torch.zeros_like),
    "huge scale": (ANY, lambda x: x * 1e20 * 1e-20),
}  # fmt: skip
"""Functions of a value alone."""
for _name in ODD:
    odd(_name, ODD[_name][0], lambda d, s, f=ODD[_name][1]: Lambda(f))  # type: ignore[misc]
odd("scripted", (1, 3), lambda d, s: torch.jit.script(nn.Sequential(layer(d, s), nn.ReLU()).eval()))
odd("compiled", (1,), lambda d, s: torch.compile(nn.Sequential(layer(d, s), nn.ReLU()), backend="eager"))
odd("checkpointed", ANY, lambda d, s: Lambda(
    lambda x, f: torch.utils.checkpoint.checkpoint(f, x, use_reentrant=False), layer(d, s)))  # fmt: skip
odd("gradient of a potential", (1,), lambda d, s: Lambda(
    lambda x, f: torch.func.vmap(torch.func.grad(lambda y: f(y).tanh().sum()))(x), nn.Linear(s[0], 5)))  # fmt: skip


# -- whole blocks ----------------------------------------------------------------------------------------------------
def branch(d: Dice, s: Shape) -> Any:
    width = d.randint(1, 6)
    if len(s) == 1:
        return nn.Sequential(nn.Linear(s[0], width), activation(d, (width,)), nn.Linear(width, s[0]))
    inner = (width, *s[1:])
    return nn.Sequential(conv(d, s, width, keep=True), activation(d, inner), conv(d, inner, s[0], keep=True))


def residual(d: Dice, s: Shape) -> Any:
    f, g = branch(d, s), branch(d, s)
    c = d.one_of(0.1, 0.5, 1.0, -1.0)
    return d.one_of(
        Lambda(lambda x, f: x + c * f(x), f),
        Lambda(lambda x, f, g: x + g * f(x), f, nn.Parameter(torch.randn(s[0], *(1,) * (len(s) - 1)))),
        Lambda(lambda x, f, g: f(x) + g(x), f, g), Lambda(lambda x, f, g: torch.cat([f(x), g(x), x], 1), f, g),
        Lambda(lambda x, f, g: torch.max(f(x), g(x)), f, g), Lambda(lambda x, f: torch.cat([x, F.relu(f(x))], 1), f),
        Lambda(lambda x, f: f(f(x)), f), Lambda(lambda x, f: sum(0.5**k * f(x * 2**k) for k in range(3)), f),
        Lambda(lambda x, f, g: f(x) - g(x), f, f),
    )  # fmt: skip


def coupled(d: Dice, s: Shape) -> Any:
    n = s[0] // 2
    f, g = (branch(d, (n, *s[1:])) for _ in range(2))

    def additive(x: Any, f: Any, g: Any) -> Any:
        a, b = x.split([n, n], 1)
        a = a + f(b)
        return torch.cat([a, b + g(a)], 1)

    def scaled(x: Any, f: Any, g: Any) -> Any:
        a, b = x.chunk(2, 1)
        return torch.cat([a, b * torch.exp(torch.tanh(f(a))) + g(a)], 1)

    return Lambda(
        d.one_of(
            additive, lambda x, f, g: torch.cat([x[:, n:], x[:, :n] + f(x[:, n:])], 1),
            lambda x, f, g: torch.cat([f(x[:, :n]), g(x[:, n:])], 1), lambda x, f, g: f(x[:, :n]) - f(x[:, n:]), scaled,
            lambda x, f, g: torch.cat([f(part) for part in x.chunk(2, 1)], 1),
        ),
        f,
        g,
    )  # fmt: skip


plain("residual", ANY, residual)
plain("second residual", ANY, residual)
plain("coupled", ANY, coupled)
plain("recurrence", (2,), lambda d, s: Recurrent(s[1], d.chance(0.5)))
plain("pool former", (3,), lambda d, s: Lambda(lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) - x))


# -- a module --------------------------------------------------------------------------------------------------------
SHAPES: dict[int, Sequence[Shape]] = {
    1: ((4,), (6,), (8,), (9,)), 2: ((4, 6), (5, 3), (3, 8), (2, 9)),
    3: ((1, 6, 6), (2, 5, 7), (3, 6, 6), (4, 5, 5), (6, 4, 4), (2, 8, 8)), 4: ((2, 3, 4, 4), (1, 4, 4, 4)),
}  # fmt: skip


def drawn(seed: int) -> Drawn:
    d = Dice(seed)
    torch.manual_seed(seed)
    shape = d.choice(SHAPES[d.choices([1, 2, 3, 4], [30, 20, 44, 6])[0]])
    pieces: list[nn.Module] = []
    names: list[str] = []
    now = shape
    odd_ones = 0
    for _ in range(d.randint(1, 5)):
        piece, name, now, is_odd = _piece(d, now, odd_ones)
        odd_ones += is_odd
        pieces.append(piece)
        names.append(name)
    if d.chance(0.5):
        pieces += [nn.Flatten(), nn.Linear(int(np.prod(now)), d.randint(1, 5))]
        names.append("head")
    module: nn.Module = nn.Sequential(*pieces)
    module, shapes = _with_ports(d, module, shape, names)
    dtype = d.choices([torch.float32, torch.float64, torch.bfloat16], [80, 14, 6])[0]
    if dtype != torch.float32:
        names.append(str(dtype))
    module = module.to(dtype)
    return Drawn(module.train() if d.chance(0.1) else module.eval(), shapes, tuple(names), dtype)


def _piece(d: Dice, shape: Shape, odd_ones: int) -> tuple[nn.Module, str, Shape, bool]:
    while True:
        name, is_odd = PIECES.draw(d, shape, odd_ones)
        try:
            made = PIECES.makers[name](d, shape)
            made = made if isinstance(made, nn.Module) else Lambda(made)
            with torch.no_grad():
                out = tuple(made.eval()(torch.rand(1, *shape)).shape)
        except Exception:  # whatever torch raises for a shape that does not fit
            continue
        if out[:1] == (1,) and 0 < np.prod(out) <= MOST and 2 <= len(out) <= 5:
            return made, name, out[1:], is_odd


def _with_ports(d: Dice, module: nn.Module, shape: Shape, names: list[str]) -> tuple[nn.Module, tuple[Shape, ...]]:
    c = shape[0] // 2
    ports: dict[str, tuple[int, Callable[..., Any], tuple[Shape, ...]]] = {
        "added": (4, lambda x, y, f: f(x - 0.5 * y), (shape, shape)),
        "joined": (
            4 * bool(c), lambda x, y, f: f(torch.cat([x, y], 1)), ((c, *shape[1:]), (shape[0] - c, *shape[1:]))),
        "outputs": (4, lambda x, f: (f(x), x.tanh()), (shape,)),
        "dictionary": (3, lambda x, f: {"a": f(x), "b": x.mean(1)}, (shape,)),
        "list": (2, lambda x, f: [f(x), f(-x)], (shape,)),
        "second": (3, lambda x, y, f, g: torch.cat([f(x).flatten(1), g(y)], 1), (shape, (3,))),
    }  # fmt: skip
    kind = d.choices(["", *ports], [80, *(weight for weight, _, _ in ports.values())])[0]
    if not kind:
        return module, (shape,)
    names.append(kind)
    _, f, shapes = ports[kind]
    return Lambda(f, module, *[nn.Linear(3, 2)] * (kind == "second")), shapes


# -- the oracle's side -----------------------------------------------------------------------------------------------
def machine(drawn: Drawn, inside: float = 0.0) -> Machine:
    """The module in float64, with the weights that it has in its own type."""
    return machine_of(drawn.module.double().eval(), drawn.shapes, inside)


def machine_of(f: Callable[..., Any], shapes: Sequence[Shape], share: float = 0.0) -> Machine:
    sizes = [int(np.prod(shape)) for shape in shapes]

    def flat(x: Any) -> Any:
        parts = [p.reshape(-1, *shape).clone() for p, shape in zip(x.split(sizes, 1), shapes, strict=True)]
        found = f(*parts)
        outputs = list(found.values()) if isinstance(found, dict) else [found] if isinstance(found, Tensor) else found
        return torch.cat([(torch.view_as_real(y) if y.is_complex() else y).reshape(len(y), -1) for y in outputs], 1)

    def values(x: Vectors) -> Any:
        with torch.no_grad():
            return flat(torch.tensor(x)).double().numpy()

    def pull(x: Vectors, u: Vectors) -> Any:
        given: Any = torch.tensor(x, requires_grad=True)
        y: Any = flat(given)
        if not y.requires_grad:
            return np.zeros_like(x)
        (found,) = torch.autograd.grad((y * torch.tensor(u)).sum(), given, allow_unused=True)
        return np.zeros_like(x) if found is None else found.numpy()

    return Machine(sum(sizes), values, pull, max(1e-12, share))


def asked(seed: int) -> Outcome:
    found = drawn(seed)
    given: Any = found.shapes[0]
    if len(found.shapes) > 1:
        given = tuple(torch.rand(1, *shape, dtype=found.dtype) for shape in found.shapes)
    room = ROOM[str(found.dtype).removeprefix("torch.")]
    return outcome(found.module, given, lambda: machine(drawn(seed), relative(found.pieces)), seed, room=room)
