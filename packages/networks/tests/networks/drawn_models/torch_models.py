"""Torch modules as people write them, each drawn from one number.

A module is pieces one after the other. A piece is drawn for the shape before it; one that does not fit is drawn again.
``PLAIN`` has what most networks consist of, ``ODD`` what some of them contain: one of four pieces, at most two.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from networks.drawn_models.attacks import Machine, Vectors
from networks.drawn_models.hunting import Outcome, outcome
from torch import Tensor, nn
from torch.nn.utils import parametrizations

MOST = 400
"""Entries of a value at most."""
Shape = tuple[int, ...]


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


class Dice(random.Random):
    """Choices that describe a module; torch's generator draws its numbers."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.odd = 0

    def one_of(self, *items: Any) -> Any:
        return self.choice(items)

    def chance(self, p: float) -> bool:
        return self.random() < p

    def divisor(self, *numbers: int) -> int:
        return self.choice([n for n in range(1, min(numbers) + 1) if all(m % n == 0 for m in numbers)])


@dataclass(frozen=True, eq=False)
class Drawn:
    """A module, the shapes of its inputs without the batch, and the names of its pieces."""

    module: nn.Module
    shapes: tuple[Shape, ...]
    pieces: tuple[str, ...]
    dtype: torch.dtype


Maker = Callable[[Dice, Shape], Any]
PLAIN: dict[str, tuple[tuple[int, ...], Maker]] = {}
ODD: dict[str, tuple[tuple[int, ...], Maker]] = {}
ANY = (1, 2, 3, 4)


def plain(name: str, ranks: tuple[int, ...], make: Maker) -> None:
    assert name not in PLAIN
    PLAIN[name] = (ranks, make)


def odd(name: str, ranks: tuple[int, ...], make: Maker) -> None:
    assert name not in ODD
    ODD[name] = (ranks, make)


def plain_of(name: str, ranks: tuple[int, ...], f: Callable[..., Any]) -> None:
    plain(name, ranks, lambda d, s: Lambda(f))


def odd_of(name: str, ranks: tuple[int, ...], f: Callable[..., Any]) -> None:
    odd(name, ranks, lambda d, s: Lambda(f))


# -- layers ----------------------------------------------------------------------------------------------------------
CONVS: Any = {2: nn.Conv1d, 3: nn.Conv2d, 4: nn.Conv3d}
TRANSPOSED: Any = {2: nn.ConvTranspose1d, 3: nn.ConvTranspose2d, 4: nn.ConvTranspose3d}
NORMS: Any = {1: nn.BatchNorm1d, 2: nn.BatchNorm1d, 3: nn.BatchNorm2d, 4: nn.BatchNorm3d}


def conv(d: Dice, s: Shape, cout: int | None = None, keep: bool = False) -> Any:
    axes = len(s) - 1
    cout = cout or d.randint(1, 6)
    groups = d.divisor(s[0], cout) if d.chance(0.3) else 1
    size = tuple(d.one_of(1, 2, 3, 3, 3, 5) for _ in range(axes))
    if keep:
        size = tuple(n | 1 for n in size)
        padding: Any = "same" if d.chance(0.3) else tuple(n // 2 for n in size)
        mode = d.one_of("zeros", "zeros", "circular")
        return (
            nn.Conv2d(s[0], cout, size, padding=padding, groups=groups, padding_mode=mode)
            if axes == 2
            else CONVS[axes + 1](s[0], cout, size, padding=padding, groups=groups)
        )
    stride = tuple(d.one_of(1, 1, 2, 3) for _ in range(axes))
    dilation = tuple(d.one_of(1, 1, 1, 2) for _ in range(axes))
    padding = d.one_of(0, 1, 2, tuple(d.randint(0, 2) for _ in range(axes)))
    if d.chance(0.2):
        padding, stride = "same", (1,) * axes
    mode = d.one_of("zeros", "zeros", "zeros", "circular", "reflect", "replicate")
    return CONVS[axes + 1](
        s[0],
        cout,
        size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=mode,
        bias=d.chance(0.7),
    )


def transposed(d: Dice, s: Shape) -> Any:
    axes = len(s) - 1
    cout = d.randint(1, 4)
    stride = tuple(d.one_of(1, 2, 2, 3) for _ in range(axes))
    return TRANSPOSED[len(s)](
        s[0],
        cout,
        tuple(d.randint(1, 4) for _ in range(axes)),
        stride=stride,
        padding=d.one_of(0, 0, 1),
        output_padding=tuple(d.randrange(n) for n in stride) if d.chance(0.3) else 0,
        dilation=d.one_of(1, 1, 2),
        groups=d.divisor(s[0], cout),
        bias=d.chance(0.5),
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
    made = layer(d, s)
    kinds: list[Callable[[nn.Module], nn.Module]] = [
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        torch.nn.utils.spectral_norm,
        torch.nn.utils.weight_norm,
        *([parametrizations.orthogonal] if len(s) == 1 else []),
    ]
    found = d.choice(kinds)(made)
    if d.chance(0.4):
        found.train()(torch.randn(2, *s))  # power iterations
    return found


def computed_weight(d: Dice, s: Shape) -> Any:
    """A kernel that is computed at each call."""
    made = layer(d, s)
    weight: Any = made.get_parameter("weight")
    axes = tuple(range(1, weight.ndim))
    f = d.one_of(
        lambda w: (w - w.mean(axes, keepdim=True)) / (w.std(axes, keepdim=True) + 1e-5),
        lambda w: w / w.flatten(1).norm(dim=1).reshape(-1, *(1,) * len(axes)),
        lambda w: w * torch.rsqrt((w**2).sum(axes, keepdim=True) + 1e-8),
        lambda w: w.sign() * w.abs().mean(),
        lambda w: (w * 16).round().clamp(-8, 7) / 16,
        lambda w: F.softplus(w),
        lambda w: w.flatten(1).softmax(1).reshape(w.shape),
        lambda w: torch.tanh(w) * 0.5,
        lambda w: w / torch.linalg.matrix_norm(w.flatten(1), 2),
        lambda w: w.clamp(min=0),
        lambda w: w + (w.round() - w).detach(),
    )
    if len(s) == 1:
        return Lambda(lambda x, w: F.linear(x, f(w)), weight)
    run: Any = {2: F.conv1d, 3: F.conv2d, 4: F.conv3d}[len(s)]
    pad = d.one_of(0, 1)
    return Lambda(lambda x, w: run(x, f(w), None, 1, pad, 1, x.shape[1] // w.shape[1]), weight)


def separable(d: Dice, s: Shape) -> Any:
    return nn.Sequential(
        nn.Conv2d(s[0], 2 * s[0], 3, d.one_of(1, 2), 1, groups=s[0]), activation(d, s), nn.Conv2d(2 * s[0], 3, 1)
    )


def low_rank(d: Dice, s: Shape) -> Any:
    a, b = nn.Parameter(torch.randn(2, s[-1]) / 2), nn.Parameter(torch.randn(4, 2) / 2)
    base = nn.Linear(s[-1], 4)
    return Lambda(lambda x, base, a, b: base(x) + 0.5 * (x @ a.T) @ b.T, base, a, b)


plain("layer", ANY, layer)
plain("convolution", (2, 3), conv)
plain("another convolution", (3,), conv)
plain("transposed convolution", (2, 3, 4), transposed)
plain("large or special weights", ANY, rescaled)
plain("reparametrized", ANY, reparametrized)
plain("computed weight", ANY, computed_weight)
plain("separable", (3,), separable)
plain("dense over the last axis", (1, 2, 3), linear)
plain("low rank", (1, 2), low_rank)
plain(
    "matrix by einsum",
    (2,),
    lambda d, s: Lambda(
        lambda x, w, e=d.one_of("btc,ts->bsc", "btc,ts->bcs"): torch.einsum(e, x, w), torch.randn(s[0], 4) / 2
    ),
)
plain(
    "bilinear form by einsum",
    (2,),
    lambda d, s: Lambda(lambda x, w: torch.einsum("btc,tcd->bd", x, w), torch.randn(*s, 3) / 2),
)
plain("constant matrix from the left", (2,), lambda d, s: Lambda(lambda x, w: w @ x, torch.randn(3, s[0]) / 2))
plain(
    "tied",
    (1,),
    lambda d, s: Lambda(lambda x, f: F.linear(torch.relu(f(x)), f.weight.t()), nn.Linear(s[0], d.randint(2, 8))),
)


# -- normalization ---------------------------------------------------------------------------------------------------
def batch_norm(d: Dice, s: Shape) -> Any:
    made = NORMS[len(s)](s[0], eps=d.one_of(1e-5, 1e-3), affine=d.chance(0.8))
    made.running_mean.normal_()
    made.running_var.uniform_(0.2, 2)
    if made.affine:
        made.weight.data.uniform_(-1.5, 1.5)
        made.bias.data.normal_()
    return made


def affine(d: Dice, made: nn.Module) -> Any:
    for parameter in made.parameters():
        parameter.data.uniform_(-1.5, 1.5)
    return made


EPSILONS = (1e-5, 1e-3, 0.1)


def written_norm(d: Dice, s: Shape) -> Any:
    eps = d.choice(EPSILONS)
    axis: Any = d.one_of(-1, 1, tuple(range(1, len(s) + 1)))
    return Lambda(
        d.one_of(
            lambda x: (x - x.mean(axis, keepdim=True)) / torch.sqrt(x.var(axis, keepdim=True, unbiased=False) + eps),
            lambda x: (x - x.mean(axis, keepdim=True)) / (x.std(axis, keepdim=True) + eps),
            lambda x: x * torch.rsqrt(x.pow(2).mean(axis, keepdim=True) + eps),
            lambda x: x / (x.norm(dim=axis, keepdim=True) + eps),
            lambda x: x / x.norm(dim=axis, keepdim=True).clamp(min=eps),
            lambda x: x / torch.sqrt((x * x).sum(axis, keepdim=True) + eps),
            lambda x: x / (1 + x.norm(dim=axis, keepdim=True)),
            lambda x: x / torch.maximum(x.norm(dim=axis, keepdim=True), torch.ones(())),
            lambda x: x / x.abs().amax(axis, keepdim=True).clamp(min=eps),
            lambda x: x * torch.tanh(x.norm(dim=axis, keepdim=True)) / (x.norm(dim=axis, keepdim=True) + eps),
        )
    )


def group_norm(d: Dice, s: Shape) -> Any:
    return affine(d, nn.GroupNorm(d.divisor(s[0]), s[0], eps=d.choice(EPSILONS)))


plain("batch norm", ANY, batch_norm)
plain("layer norm", ANY, lambda d, s: affine(d, nn.LayerNorm(s[-d.randint(1, len(s)) :], eps=d.choice(EPSILONS))))
plain("group norm", ANY, group_norm)
plain("instance norm", (3,), lambda d, s: nn.InstanceNorm2d(s[0], affine=d.chance(0.5), eps=d.choice(EPSILONS)))
plain("rms norm", ANY, lambda d, s: affine(d, nn.RMSNorm(s[-1:], eps=d.choice(EPSILONS))))
plain("norm, written out", ANY, written_norm)
plain(
    "normalize",
    ANY,
    lambda d, s: Lambda(lambda x, p=d.one_of(2.0, 2.0, 1.0), e=d.choice(EPSILONS): F.normalize(x, p=p, dim=1, eps=e)),
)
plain(
    "channels last layer norm",
    (3,),
    lambda d, s: Lambda(lambda x, f: f(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), nn.LayerNorm(s[0], eps=1e-3)),
)
odd("batch statistics", (1, 3), lambda d, s: NORMS[len(s)](s[0], track_running_stats=False))
odd(
    "batch norm in train()",
    (1, 3),
    lambda d, s: Lambda(lambda x, m, v: F.batch_norm(x, m, v, training=True), torch.zeros(s[0]), torch.ones(s[0])),
)
odd("local response norm", (2, 3), lambda d, s: nn.LocalResponseNorm(d.randint(1, 3)))
odd("layer norm without epsilon", (1,), lambda d, s: nn.LayerNorm(s, eps=0.0))
odd("standardised", (1, 2), lambda d, s: Lambda(lambda x: (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)))
odd("p-norm of 3", (1,), lambda d, s: Lambda(lambda x: F.normalize(x, p=3.0, dim=1, eps=0.1)))
odd(
    "global response norm",
    (3,),
    lambda d, s: Lambda(
        lambda x: (lambda g: x + 0.1 * x * (g / (g.mean(1, keepdim=True) + 1e-3)))(x.norm(dim=(2, 3), keepdim=True))
    ),
)


# -- functions of an entry -------------------------------------------------------------------------------------------
ACTIVATIONS: list[Callable[[Dice, Shape], nn.Module]] = [
    *(
        lambda d, s, f=f: f()
        for f in (
            nn.ReLU,
            nn.Tanh,
            nn.Sigmoid,
            nn.ELU,
            nn.GELU,
            nn.SiLU,
            nn.Mish,
            nn.Softplus,
            nn.Hardswish,
            nn.Hardtanh,
            nn.SELU,
            nn.Softsign,
            nn.Hardsigmoid,
            nn.LogSigmoid,
            nn.ReLU6,
            nn.Tanhshrink,
            nn.Identity,
        )
    ),
    lambda d, s: nn.ReLU(inplace=True),
    lambda d, s: nn.LeakyReLU(d.one_of(0.01, 0.2, 1.5, -0.5), inplace=d.chance(0.5)),
    lambda d, s: nn.ELU(d.one_of(0.5, 3.0)),
    lambda d, s: nn.CELU(d.one_of(0.3, 2.0)),
    lambda d, s: nn.GELU(approximate="tanh"),
    lambda d, s: nn.Softplus(d.one_of(0.5, 5.0), d.one_of(20.0, 1.0)),
    lambda d, s: nn.Softshrink(d.one_of(0.1, 0.5)),
    lambda d, s: nn.Hardtanh(-0.3, d.one_of(0.3, 2.0)),
    lambda d, s: nn.PReLU(d.one_of(1, s[0]), init=d.one_of(0.25, -2.0)),
    lambda d, s: nn.RReLU(0.1, 0.4),
    lambda d, s: nn.Threshold(0.0, 0.0),
]
WRITTEN: list[Callable[..., Any]] = [
    lambda x: x * torch.sigmoid(x),
    lambda x: x * torch.sigmoid(1.702 * x),
    lambda x: x * F.softplus(x).tanh(),
    lambda x: x.sign() * F.relu(x.abs() - 0.2),
    lambda x: F.relu(x - 0.2) - F.relu(-x - 0.2),
    lambda x: torch.where(x > 0, x, 0.3 * x),
    lambda x: torch.where(x > 0, x, torch.exp(x) - 1),
    lambda x: torch.where(x.abs() <= 1, 0.5 * x**2, x.abs() - 0.5),
    lambda x: x / (1 + x.abs()),
    lambda x: x / torch.sqrt(1 + x**2),
    lambda x: torch.maximum(x, 0.1 * x),
    lambda x: x.clamp(-1, 1) ** 3,
    lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
    lambda x: 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))),
    torch.sin,
    lambda x: x + torch.sin(3 * x) ** 2 / 3,
    lambda x: torch.exp(-(x**2)),
    lambda x: F.relu(x) - 0.5 * F.relu(-x),
    lambda x: torch.log1p(torch.exp(x)),
    lambda x: torch.log(torch.cosh(x.clamp(-5, 5))),
    torch.atan,
    torch.asinh,
    lambda x: F.relu(x).clamp(max=1.0) ** 2,
    lambda x: torch.min(F.relu(x), torch.ones_like(x)),
    lambda x: x.clamp(-2, 2) - x / 2,
    lambda x: (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()),
    lambda x: F.softplus(x) - F.softplus(-x),
    lambda x: (x + (x**2 + 0.1).sqrt()) / 2,
    torch.abs,
    lambda x: F.relu(1 - x.abs()),
    lambda x: 2 * torch.sigmoid(2 * x) - 1,
    lambda x: x.masked_fill(x < 0, 0.0),
    lambda x: x * (x > 0),
    lambda x: torch.heaviside(x, torch.zeros(())) * x,
    lambda x: F.relu(x) + F.relu(-x),
    lambda x: torch.addcmul(x, x.tanh(), torch.tensor(0.5)),
    lambda x: x.mul(2).sub(1).div(3),
    lambda x: -x + 3,
    lambda x: torch.lerp(x, x.tanh(), 0.3),
    lambda x: F.silu(x) / 1.1,
    lambda x: F.hardtanh(x * 3) / 3,
    lambda x: torch.stack([x, torch.zeros_like(x)]).amax(0),
    lambda x: x - torch.floor(x.clamp(0, 0.5)),
    lambda x: x.clamp(min=torch.tensor(-0.5)),
    lambda x: torch.nan_to_num(x).tanh(),
    lambda x: x.tanh().arcsin() / 4,
    lambda x: torch.special.expit(x),
    lambda x: torch.xlogy(x.sigmoid(), x.sigmoid()),
    lambda x: torch.sinc(x),
    lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    lambda x: torch.hypot(x, torch.ones_like(x)),
    lambda x: torch.atan2(x, torch.ones_like(x)),
    lambda x: torch.polar(torch.ones_like(x), x).real,
]
JUMPING: list[Callable[..., Any]] = [
    lambda x: torch.sign(x),
    lambda x: (x > 0).to(x.dtype),
    lambda x: torch.where(x > 0.5, x, 0.2 * x),
    lambda x: x + (x.round() - x).detach(),
    lambda x: torch.floor(x),
    lambda x: x * (x > 0.3),
    torch.frac,
    lambda x: torch.where(x.abs() > 0.3, x, torch.zeros_like(x)),
    lambda x: torch.remainder(x, 1.0),
    lambda x: F.hardshrink(x, 0.3),
    lambda x: F.threshold(x, 0.5, 0.0),
    lambda x: x.sigmoid().round(),
    lambda x: torch.fmod(x, 0.7),
    lambda x: torch.heaviside(x, torch.ones(())),
    lambda x: x.long().to(x.dtype),
]
STEEP: list[Callable[..., Any]] = [
    lambda x: x**2,
    lambda x: x * x * x,
    torch.exp,
    lambda x: x.abs().sqrt(),
    lambda x: torch.log(x.abs() + 1e-3),
    lambda x: 1 / (x**2 + 0.1),
    lambda x: x.clamp(min=0.1).log(),
    lambda x: x.clamp(min=0) ** 1.5,
    torch.tan,
    lambda x: x * torch.sin(x),
    lambda x: x.clamp(-3, 3) ** 2,
    lambda x: x.clamp(-3, 3).exp(),
    lambda x: 1 / (x.abs() + 0.2),
    lambda x: torch.rsqrt(x**2 + 0.1),
    torch.sinh,
    torch.reciprocal,
    torch.erfinv,
    lambda x: x.pow(2).clamp(max=4),
    lambda x: torch.pow(2.0, x),
    lambda x: x.sigmoid().log(),
    torch.lgamma,
    lambda x: x.sigmoid().logit(),
    lambda x: (x.abs() + 1e-8).pow(0.5),
    lambda x: torch.cosh(x.tanh()),
    torch.digamma,
]


def activation(d: Dice, s: Shape) -> Any:
    if d.chance(0.6):
        return d.choice(ACTIVATIONS)(d, s)
    return Lambda(d.choice(WRITTEN))


class Spline(nn.Module):
    """A linear spline on a grid, as in deep spline networks."""

    def __init__(self, knots: int, step: float, free: bool) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.randn(knots) * step)
        self.step, self.middle, self.free = step, knots // 2, free

    def forward(self, x: Tensor) -> Any:
        clamped = x.clamp(-self.middle * self.step, (self.middle - 1) * self.step)
        low = torch.floor(clamped / self.step)
        i = (low + self.middle).long()
        share = (x if self.free else clamped) / self.step - low
        return self.values[i + 1] * share + self.values[i] * (1 - share)


class Reversed(torch.autograd.Function):
    """A gradient reversal: its derivative is declared."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *g: Any) -> Any:
        return -0.1 * g[0]


def maxmin(d: Dice, s: Shape) -> Any:
    def halves(x: Any) -> Any:
        return x.chunk(2, 1)

    def strided(x: Any) -> Any:
        return x[:, 0::2], x[:, 1::2]

    split = d.one_of(halves, strided)
    return Lambda(
        d.one_of(
            lambda x: torch.cat([torch.max(*split(x)), torch.min(*split(x))], 1),
            lambda x: torch.stack([torch.minimum(*split(x)), torch.maximum(*split(x))], 2).flatten(1, 2),
            lambda x: (lambda a, b: torch.cat([a + F.relu(b - a), b - F.relu(b - a)], 1))(*split(x)),
            lambda x: x.unflatten(1, (2, x.shape[1] // 2)).sort(1).values.flatten(1, 2),
            lambda x: x.unflatten(1, (x.shape[1] // 2, 2)).sort(2, descending=True)[0].flatten(1, 2),
            lambda x: (lambda a, b: torch.cat([(a + b + (a - b).abs()) / 2, (a + b - (a - b).abs()) / 2], 1))(
                *split(x)
            ),
        )
    )


for _name in ("activation", "second activation", "third activation"):
    plain(_name, ANY, activation)
plain("maxmin", ANY, maxmin)
plain("full sort", ANY, lambda d, s: Lambda(lambda x, a=d.randint(1, len(s)): x.sort(a, descending=True)[0]))
plain(
    "group sort",
    ANY,
    lambda d, s: Lambda(lambda x, n=d.divisor(s[0]): x.unflatten(1, (-1, n)).sort(2).values.flatten(1, 2)),
)
plain("spline", ANY, lambda d, s: Spline(d.one_of(5, 7, 21), d.one_of(0.1, 0.5), d.chance(0.4)))
plain("crelu", ANY, lambda d, s: Lambda(lambda x, a=d.randint(1, len(s)): torch.cat([F.relu(x), F.relu(-x)], a)))
plain(
    "soft threshold, learned",
    ANY,
    lambda d, s: Lambda(lambda x, t: x.sign() * F.relu(x.abs() - t), torch.rand(s[0], *(1,) * (len(s) - 1))),
)
plain("softmax", ANY, lambda d, s: nn.Softmax(d.randint(1, len(s))))
plain("log softmax", ANY, lambda d, s: nn.LogSoftmax(1))
plain("softmin, of a temperature", (1,), lambda d, s: Lambda(lambda x: F.softmin(x / 0.3, 1)))
plain(
    "per-channel slopes",
    ANY,
    lambda d, s: Lambda(
        lambda x, a, b: a * F.relu(x) - b * F.relu(-x), *torch.randn(2, s[0], *(1,) * (len(s) - 1)).unbind()
    ),
)
odd("jumps", ANY, lambda d, s: Lambda(d.choice(JUMPING)))
odd("steep", ANY, lambda d, s: Lambda(d.choice(STEEP)))
odd("squashed, then steep", ANY, lambda d, s: Lambda(lambda x, f=d.choice(STEEP): f(torch.tanh(x) * 1.5 + 2)))
odd("declared derivative", ANY, lambda d, s: Lambda(Reversed.apply))
odd("gated linear unit", ANY, lambda d, s: Lambda(lambda x: F.glu(x, 1)))
odd("gate by itself", ANY, lambda d, s: Lambda(lambda x: x * torch.sigmoid(x.mean(1, keepdim=True))))
odd("bounded gate", ANY, lambda d, s: Lambda(lambda x: torch.tanh(x) * torch.sigmoid(x.flip(1))))
odd("hard attention", (1, 2), lambda d, s: Lambda(lambda x: F.one_hot(x.argmax(1), x.shape[1]).to(x.dtype)))
odd("chosen by an index", (1,), lambda d, s: Lambda(lambda x: x.gather(1, x.argmax(1, keepdim=True))))
odd("gumbel softmax", (1,), lambda d, s: Lambda(lambda x: F.gumbel_softmax(x, dim=1)))
odd(
    "householder",
    ANY,
    lambda d, s: Lambda(
        lambda x, c=d.uniform(0, 3): (
            lambda a, b: torch.cat(
                [
                    torch.where(np.sin(c / 2) * a - np.cos(c / 2) * b <= 0, a, np.cos(c) * a + np.sin(c) * b),
                    torch.where(np.sin(c / 2) * a - np.cos(c / 2) * b <= 0, b, np.sin(c) * a - np.cos(c) * b),
                ],
                1,
            )
        )(*x.chunk(2, 1))
    ),
)


# -- pooling, resizing, transforms -----------------------------------------------------------------------------------
def pool(d: Dice, s: Shape) -> Any:
    axes = len(s) - 1
    size = tuple(d.one_of(1, 2, 2, 3) for _ in range(axes))
    padding = tuple(d.one_of(0, n // 2) for n in size)
    stride = tuple(d.one_of(1, 2, 3) for _ in range(axes)) if d.chance(0.6) else None
    if d.chance(0.5):
        most: Any = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}[axes]
        return most(size, stride, padding, dilation=d.one_of(1, 1, 2), ceil_mode=d.chance(0.3))
    mean: Any = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}[axes]
    more = {"divisor_override": 3} if axes > 1 and d.chance(0.2) else {}
    return mean(size, stride, padding, ceil_mode=d.chance(0.3), count_include_pad=d.chance(0.5), **more)


def adaptive(d: Dice, s: Shape) -> Any:
    kinds: Any = {
        2: (nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d),
        3: (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
        4: (nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d),
    }[len(s)]
    return d.choice(kinds)(tuple(d.one_of(1, 1, 2, 3) for _ in s[1:]))


def resize(d: Dice, s: Shape) -> Any:
    mode: Any = {2: "linear", 3: "bilinear", 4: "trilinear"}[len(s)]
    if d.chance(0.4):
        mode = "nearest"
    size = tuple(max(1, n + d.randint(-2, 4)) for n in s[1:])
    corners = {} if mode == "nearest" else {"align_corners": d.chance(0.3)}
    if d.chance(0.5):
        return nn.Upsample(scale_factor=d.one_of(2, 2, 1.5, 0.5), mode=mode, **corners)
    return Lambda(lambda x: F.interpolate(x, size=size, mode=mode, **corners))


def padded(d: Dice, s: Shape) -> Any:
    amounts = [d.randint(-1, 2) for _ in range(2 * (len(s) - 1))]
    mode = d.one_of("constant", "constant", "reflect", "replicate", "circular")
    if mode != "constant":
        amounts = [abs(n) for n in amounts]
    value = {"value": d.one_of(0.0, 1.5)} if mode == "constant" else {}
    return Lambda(lambda x: F.pad(x, amounts, mode=mode, **value))


def blur(d: Dice, s: Shape) -> Any:
    taps = torch.tensor([1.0, 2.0, 1.0]) / 4
    kernel = torch.outer(taps, taps).expand(s[0], 1, 3, 3).clone()
    mode = d.one_of("reflect", "constant")
    return Lambda(lambda x, k: F.conv2d(F.pad(x, (1, 1, 1, 1), mode), k, stride=2, groups=k.shape[0]), kernel)


def fourier(d: Dice, s: Shape) -> Any:
    n, m = s[-2:]
    real = torch.rand(n, m // 2 + 1) * 2
    norm = d.one_of("ortho", None, "backward")
    return d.one_of(
        lambda: Lambda(lambda x, w: torch.fft.irfft2(torch.fft.rfft2(x, norm=norm) * w, s=(n, m), norm=norm), real),
        lambda: Lambda(lambda x: torch.fft.fft2(x, norm="ortho").real),
        lambda: Lambda(lambda x: torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real),
        lambda: Lambda(lambda x, w: torch.fft.ifft2(torch.fft.fft2(x) * w).real, torch.rand(n, m)),
        lambda: Lambda(lambda x: torch.view_as_real(torch.fft.rfft2(x, norm="ortho"))),
        lambda: Lambda(lambda x, w: x + torch.fft.irfft(torch.fft.rfft(x) * w, n=m), torch.randn(m // 2 + 1) / 2),
        lambda: Lambda(lambda x: torch.fft.fftshift(x, dim=(-2, -1))),
        lambda: Lambda(
            lambda x, a, b: torch.fft.irfft2(torch.fft.rfft2(x) * torch.complex(a, b), s=(n, m)), real, real.flip(0)
        ),
    )()


plain("pooling", (2, 3, 4), pool)
plain("adaptive pooling", (2, 3, 4), adaptive)
plain("resize", (2, 3, 4), resize)
plain("padding", (2, 3, 4), padded)
plain("blur pooling", (3,), blur)
plain("pixel shuffle", (3,), lambda d, s: nn.PixelShuffle(2))
plain("pixel unshuffle", (3,), lambda d, s: nn.PixelUnshuffle(2))
plain("channel shuffle", (3,), lambda d, s: nn.ChannelShuffle(d.divisor(s[0])))
plain("unfold", (3,), lambda d, s: nn.Unfold(d.one_of(2, 3), stride=d.one_of(1, 2), padding=d.one_of(0, 1)))
plain("windows of a tensor", (2, 3), lambda d, s: Lambda(lambda x, n=d.one_of(1, 2): x.unfold(-1, 3, n)))
plain(
    "mean over axes", ANY, lambda d, s: Lambda(lambda x, a=d.randint(1, len(s)), k=d.chance(0.5): x.mean(a, keepdim=k))
)
plain("sum over an axis", ANY, lambda d, s: Lambda(lambda x, a=d.randint(1, len(s)): x.sum(a, keepdim=True) / 2))
plain("largest", ANY, lambda d, s: Lambda(lambda x, a=d.randint(1, len(s)): x.amax(a, keepdim=True)))
plain("length", ANY, lambda d, s: Lambda(lambda x, a=d.randint(1, len(s)): x.norm(dim=a, keepdim=True)))
plain("log-sum-exp", ANY, lambda d, s: Lambda(lambda x, a=d.randint(1, len(s)): x.logsumexp(a, keepdim=True)))
plain(
    "generalised mean",
    (3,),
    lambda d, s: Lambda(lambda x: x.clamp(0.1, 2).pow(3).mean((2, 3), keepdim=True).pow(1 / 3)),
)
plain("top two", ANY, lambda d, s: Lambda(lambda x: x.topk(2, 1)[0]))
plain("cumulative", ANY, lambda d, s: Lambda(lambda x, a=d.randint(1, len(s)): x.cumsum(a) / 3))
plain("centred", ANY, lambda d, s: Lambda(lambda x, a=d.randint(1, len(s)): x - x.mean(a, keepdim=True)))
odd("fourier", (2, 3), fourier)
odd("magnitudes of a transform", (2, 3), lambda d, s: Lambda(lambda x: torch.fft.rfft2(x, norm="ortho").abs()))
odd("power pooling", (3,), lambda d, s: nn.LPPool2d(2, 2))
odd("fractional pooling", (3,), lambda d, s: nn.FractionalMaxPool2d(2, output_size=2))
odd(
    "unpooled maxima",
    (3,),
    lambda d, s: Lambda(lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), (2, 2))),
)
odd("bicubic", (3,), lambda d, s: nn.Upsample(scale_factor=2, mode="bicubic"))
odd("antialiased", (3,), lambda d, s: Lambda(lambda x: F.interpolate(x, size=(3, 3), mode="bilinear", antialias=True)))
odd(
    "grid sampling",
    (3,),
    lambda d, s: Lambda(
        lambda x, g: F.grid_sample(x, g.expand(x.shape[0], -1, -1, -1), align_corners=False),
        torch.rand(1, 3, 3, 2) * 2 - 1,
    ),
)
odd("median", (1, 2), lambda d, s: Lambda(lambda x: x.median(1, keepdim=True).values))
odd("kth value", (1, 2), lambda d, s: Lambda(lambda x: x.kthvalue(1, 1, keepdim=True).values))
odd("variance", ANY, lambda d, s: Lambda(lambda x: x.var(1, keepdim=True)))
odd("deviation", ANY, lambda d, s: Lambda(lambda x: x.std(1, keepdim=True)))
odd("cumulative maxima", ANY, lambda d, s: Lambda(lambda x: x.cummax(1)[0]))
odd("product of entries", ANY, lambda d, s: Lambda(lambda x: x.tanh().prod(1, keepdim=True)))
odd("cumulative product", ANY, lambda d, s: Lambda(lambda x: x.sigmoid().cumprod(1)))
odd("distances to prototypes", (1,), lambda d, s: Lambda(lambda x, p: torch.cdist(x, p), torch.randn(4, s[0])))
odd(
    "cosines to prototypes",
    (1,),
    lambda d, s: Lambda(lambda x, p: F.normalize(x, eps=0.1) @ F.normalize(p).t(), torch.randn(4, s[0])),
)
odd(
    "radial basis",
    (1,),
    lambda d, s: Lambda(lambda x, p: torch.exp(-((x[:, None] - p) ** 2).sum(2)), torch.randn(4, s[0])),
)
odd("gram matrix", (2,), lambda d, s: Lambda(lambda x: x @ x.transpose(1, 2)))
odd(
    "cosine similarity",
    (1,),
    lambda d, s: Lambda(lambda x, p: F.cosine_similarity(x, p, eps=0.1)[:, None], torch.randn(1, s[0])),
)


# -- moves and constants ---------------------------------------------------------------------------------------------
def moved(d: Dice, s: Shape) -> Any:
    a, b = d.randint(1, len(s)), d.randint(1, len(s))
    n = s[a - 1]
    order = torch.randperm(n)
    by = d.one_of(0, 1, -2)
    return d.one_of(
        lambda: Lambda(lambda x: torch.roll(x, by, a)),
        lambda: Lambda(lambda x: x.flip(a)),
        lambda: Lambda(lambda x: x.transpose(a, b)),
        lambda: Lambda(lambda x: torch.movedim(x, a, -1)),
        lambda: Lambda(lambda x, o: x.index_select(a, o), order),
        lambda: Lambda(lambda x, o: x.index_select(a, o), torch.randint(n, (n + 1,))),
        lambda: Lambda(lambda x: x.narrow(a, n // 3, n - n // 3)),
        lambda: Lambda(lambda x: torch.cat([x.narrow(a, n // 2, n - n // 2), x.narrow(a, 0, n // 2)], a)),
        lambda: Lambda(lambda x: torch.cat([x, x.narrow(a, 0, 0)], a)),
        lambda: Lambda(lambda x: x.repeat_interleave(2, a)),
        lambda: Lambda(lambda x: torch.cat([x, x], a)),
        lambda: Lambda(lambda x: torch.cat([x, torch.ones_like(x)], a)),
        lambda: Lambda(lambda x: x.flatten(1)),
        lambda: Lambda(lambda x: x.reshape(x.shape[0], -1)),
        lambda: Lambda(lambda x: x.unsqueeze(a).squeeze(a)),
        lambda: Lambda(lambda x: x[..., ::2]),
        lambda: Lambda(lambda x: x[:, : max(1, s[0] - 1)]),
        lambda: Lambda(lambda x: x[:, None].expand(-1, 2, *[-1] * len(s)).flatten(1, 2)),
        lambda: Lambda(lambda x: x.diff(dim=a)),
        lambda: Lambda(lambda x: torch.stack(x.unbind(a)[::-1], a)),
        lambda: nn.Flatten(),
    )()


def constant(d: Dice, s: Shape) -> Any:
    part = tuple(1 if d.chance(0.4) else n for n in s)
    c = torch.randn(part)
    factor = d.one_of(2, -0.5, 0.1)
    return d.one_of(
        lambda: Lambda(lambda x, c: x * c, c),
        lambda: Lambda(lambda x, c: x * c, nn.Parameter(c)),
        lambda: Lambda(lambda x, c: (x - c) / (c.abs() + 0.5), c),
        lambda: Lambda(lambda x, c: x + c, c),
        lambda: Lambda(lambda x: x / 255 * 2 - 1),
        lambda: Lambda(lambda x, c: x.masked_fill(c > 0.5, 0.0), c),
        lambda: Lambda(lambda x, c: torch.where(c > 0, x, -x), c),
        lambda: Lambda(lambda x, c: torch.where(c > 0, x, c), c),
        lambda: Lambda(lambda x: x * factor),
        lambda: Lambda(lambda x: x * x.shape[-1] ** -0.5),
        lambda: Lambda(lambda x, c: torch.addcmul(x, x, c, value=0.5), c),
        lambda: Lambda(lambda x, c: x.mul(c).add_(1.0), c),
        lambda: Lambda(lambda x, c: x * c.sigmoid() + 0 * x.flip(1), c),
    )()


def in_place(d: Dice, s: Shape) -> Any:
    def first_channel(x: Any) -> Any:
        y = x.clone()
        y[:, 0] = 2 * y[:, 0]
        return y

    def shifted(x: Any) -> Any:
        y = torch.zeros_like(x)
        y[:, 1:] = x[:, :-1]
        return y

    def added(x: Any) -> Any:
        y = x * 1
        y += x.tanh()
        y.mul_(0.5)
        return y

    def filled(x: Any) -> Any:
        y = x.new_zeros(x.shape[0], 3 * x.shape[1], *x.shape[2:])
        y[:, ::3] = x
        y[:, 1::3] = F.relu(x)
        return y

    def given(x: Any) -> Any:
        return x.add_(1.0)

    return Lambda(d.one_of(first_channel, shifted, added, filled, given))


plain("moved", ANY, moved)
plain("moved again", ANY, moved)
plain("constants", ANY, constant)
plain("in place", ANY, in_place)
plain("dropout", ANY, lambda d, s: d.one_of(nn.Dropout, nn.AlphaDropout, nn.Dropout1d, nn.Dropout2d)(0.5))
plain("position added", (2,), lambda d, s: Lambda(lambda x, p: x + p[: x.shape[1]], torch.randn(s[0] + 2, s[1])))
plain(
    "graph convolution",
    (2,),
    lambda d, s: Lambda(
        lambda x, a, f: F.relu(a @ f(x)), (torch.rand(s[0], s[0]) < 0.4).float() / 2, nn.Linear(s[1], 4)
    ),
)
plain(
    "message passing",
    (2,),
    lambda d, s: Lambda(
        lambda x, i, j: torch.zeros_like(x).index_add(1, i, x[:, j]), *torch.randint(s[0], (2, 7)).unbind()
    ),
)
odd("dropout that stays", ANY, lambda d, s: Lambda(lambda x: F.dropout(x, 0.3)))
odd("noise", ANY, lambda d, s: Lambda(lambda x: x + 0.1 * torch.randn_like(x)))
odd(
    "noise in training",
    ANY,
    lambda d, s: Lambda(lambda x, m: x + torch.randn_like(x) if m.training else x, nn.Identity()),
)
odd("upper triangle", (2,), lambda d, s: Lambda(lambda x: torch.triu(x) + x.tril(-1) * 2))
odd("matrix inverse", (2,), lambda d, s: Lambda(lambda x: torch.linalg.inv(x @ x.mT + torch.eye(x.shape[1]))))
odd(
    "solve with a constant",
    (1,),
    lambda d, s: Lambda(lambda x, a: torch.linalg.solve(a, x.mT).mT, torch.eye(s[0]) * 2 + torch.randn(s[0], s[0]) / 9),
)
odd("kronecker", (1,), lambda d, s: Lambda(lambda x, a: F.linear(x, torch.kron(a, torch.eye(s[0]))), torch.randn(2, 1)))


# -- batch, state, control flow --------------------------------------------------------------------------------------
class Counter(nn.Module):
    """Counts its calls, and may use the number."""

    calls: Tensor

    def __init__(self, used: bool, plainly: bool) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.count, self.used, self.plainly = 0, used, plainly

    def forward(self, x: Tensor) -> Any:
        if self.plainly:
            self.count += 1
            return x * (1 + self.count) if self.used else x
        self.calls += 1
        return x * (1 + self.calls) if self.used else x


def in_bfloat16(x: Any, f: Any) -> Any:
    with torch.autocast("cpu", torch.bfloat16):
        return f(x)


class Remembers(nn.Module):
    """Adds what it was given before."""

    def __init__(self) -> None:
        super().__init__()
        self.before: Any = None

    def forward(self, x: Tensor) -> Any:
        y = x if self.before is None or self.before.shape != x.shape else x + 0.5 * self.before
        self.before = x.detach()
        return y


class Branches(nn.Module):
    """Control flow on shapes, on attributes, or on values."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        if self.kind == "channels":
            return F.relu(x) if x.shape[1] > 2 else torch.tanh(x)
        if self.kind == "loop":
            while x.shape[-1] > 2:
                x = x[..., ::2] / 2 + 0.1
            return x
        if self.kind == "batch":
            return x if x.shape[0] < 4 else 3 * x
        if self.kind == "single":
            return 2 * x if x.size(0) == 1 else x
        if self.kind == "values":
            return x if x.sum() > 0 else 2 * x
        if self.kind == "steps":
            for _ in range(int(x.detach().abs().max())):
                x = 0.9 * x
            return x
        return torch.cond(x.sum() > 0, lambda y: y * 2, lambda y: y * 3, (x,))


def branches(kind: str, d: Dice, s: Shape) -> Any:
    return Branches(kind)


odd("batch mean taken off", ANY, lambda d, s: Lambda(lambda x: x - x.mean(0, keepdim=True)))
odd("times the batch size", ANY, lambda d, s: Lambda(lambda x: x * x.shape[0]))
odd("divided by the batch size", ANY, lambda d, s: Lambda(lambda x: x / len(x)))
odd("batch flipped", ANY, lambda d, s: Lambda(lambda x: x.flip(0)))
odd("batch summed up", ANY, lambda d, s: Lambda(lambda x: x.cumsum(0)))
odd("length of the batch", ANY, lambda d, s: Lambda(lambda x: x / (x.norm() + 1)))
odd("first of the batch", ANY, lambda d, s: Lambda(lambda x: x - 0.5 * x[:1]))
odd("one sample alone", ANY, lambda d, s: Lambda(lambda x: x.squeeze(0).unsqueeze(0).reshape(1, *s)))
odd("softmax over the batch", ANY, lambda d, s: Lambda(lambda x: x.softmax(0)))
odd("largest of the batch", ANY, lambda d, s: Lambda(lambda x: x / x.abs().max().clamp(min=1)))
odd("ghost samples", ANY, lambda d, s: Lambda(lambda x: torch.cat([x, torch.zeros_like(x)]).cumsum(0)[: x.shape[0]]))
for _kind in ("channels", "loop", "batch", "single", "values", "steps", "cond"):
    odd(f"branches on {_kind}", ANY, partial(branches, _kind))
odd("counter", ANY, lambda d, s: Counter(d.chance(0.5), d.chance(0.5)))
odd("remembers", ANY, lambda d, s: Remembers())
odd("print and assertion", ANY, lambda d, s: Lambda(lambda x: x if bool(torch.isfinite(x).all()) else x * 0))
odd("scripted", (1, 3), lambda d, s: torch.jit.script(nn.Sequential(layer(d, s), nn.ReLU()).eval()))
odd("compiled", (1,), lambda d, s: torch.compile(nn.Sequential(layer(d, s), nn.ReLU()), backend="eager"))
odd(
    "checkpointed",
    ANY,
    lambda d, s: Lambda(lambda x, f: torch.utils.checkpoint.checkpoint(f, x, use_reentrant=False), layer(d, s)),
)
odd("mapped by vmap", ANY, lambda d, s: Lambda(lambda x: torch.vmap(lambda y: torch.tanh(y) + y.flip(0))(x)))
odd(
    "gradient of a potential",
    (1,),
    lambda d, s: Lambda(
        lambda x, f: torch.func.vmap(torch.func.grad(lambda y: f(y).tanh().sum()))(x), nn.Linear(s[0], 5)
    ),
)
odd(
    "gradient step, by hand",
    (1,),
    lambda d, s: Lambda(lambda x, f: x - 0.3 * F.linear(torch.tanh(f(x)), f.weight.t()), nn.Linear(s[0], 5)),
)
odd("no gradient", ANY, lambda d, s: Lambda(lambda x: x + torch.tanh(x.detach())))
odd("float16 inside", ANY, lambda d, s: Lambda(lambda x: x.half().tanh().to(x.dtype)))
odd("float32 inside", ANY, lambda d, s: Lambda(lambda x: torch.tanh(x.float()).to(x.dtype)))
odd(
    "bfloat16 autocast",
    (1,),
    lambda d, s: Lambda(in_bfloat16, layer(d, s)),
)
odd(
    "complex multiplication",
    (1, 2),
    lambda d, s: Lambda(lambda x: torch.view_as_real(torch.complex(x, x.flip(1)) * (0.6 + 0.8j)).flatten(1)),
)
odd("nothing", ANY, lambda d, s: nn.Sequential())
odd("constant output", ANY, lambda d, s: Lambda(lambda x: torch.zeros_like(x)))
odd("nan", ANY, lambda d, s: Lambda(lambda x: x * float("nan")))
odd("infinite constant", ANY, lambda d, s: Lambda(lambda x: x.clamp(min=-float("inf")) + 1e30))
odd("huge scale", ANY, lambda d, s: Lambda(lambda x: x * 1e20 * 1e-20))
odd("overflow", (1,), lambda d, s: Lambda(lambda x: (x.tanh() * 1e3).exp().clamp(max=1.0)))


# -- whole blocks ----------------------------------------------------------------------------------------------------
def branch(d: Dice, s: Shape) -> Any:
    """Pieces that keep a shape."""
    width = d.randint(1, 6)
    if len(s) == 1:
        return nn.Sequential(nn.Linear(s[0], width), activation(d, (width,)), nn.Linear(width, s[0]))
    inner = (width, *s[1:])
    return nn.Sequential(conv(d, s, width, keep=True), activation(d, inner), conv(d, inner, s[0], keep=True))


def residual(d: Dice, s: Shape) -> Any:
    f = branch(d, s)
    c = d.one_of(0.1, 0.5, 1.0, -1.0)
    return d.one_of(
        lambda: Lambda(lambda x, f: x + c * f(x), f),
        lambda: Lambda(lambda x, f: F.relu(x + f(x)), f),
        lambda: Lambda(lambda x, f: x - f(x), f),
        lambda: Lambda(lambda x, f: 0.3 * x + 0.7 * f(x), f),
        lambda: Lambda(lambda x, f, g: x + g * f(x), f, nn.Parameter(torch.randn(s[0], *(1,) * (len(s) - 1)))),
        lambda: Lambda(lambda x, f, g: f(x) + g(x), f, branch(d, s)),
        lambda: Lambda(lambda x, f, g: torch.cat([f(x), g(x), x], 1), f, branch(d, s)),
        lambda: Lambda(lambda x, f, g: torch.max(f(x), g(x)), f, branch(d, s)),
        lambda: Lambda(lambda x, f: torch.cat([x, F.relu(f(x))], 1), f),
        lambda: Lambda(lambda x, f: f(f(x)), f),
        lambda: Lambda(lambda x, f: torch.stack([f(x), f(-x)]).mean(0), f),
        lambda: Lambda(lambda x, f: (f(x) + f(x.flip(-1)).flip(-1)) / 2, f),
        lambda: Lambda(lambda x, f: sum(0.5**k * f(x * 2**k) for k in range(3)), f),
        lambda: Lambda(lambda x, f, g: f(x) - g(x), f, f),
    )()


def coupled(d: Dice, s: Shape) -> Any:
    half = (s[0] // 2, *s[1:])
    f, g = branch(d, half), branch(d, half)
    n = s[0] // 2

    def additive(x: Any, f: Any, g: Any) -> Any:
        a, b = x.split([n, n], 1)
        a = a + f(b)
        return torch.cat([a, b + g(a)], 1)

    def scaled(x: Any, f: Any, g: Any) -> Any:
        a, b = x.chunk(2, 1)
        return torch.cat([a, b * torch.exp(torch.tanh(f(a))) + g(a)], 1)

    return d.one_of(
        lambda: Lambda(additive, f, g),
        lambda: Lambda(lambda x, f: torch.cat([x[:, n:], x[:, :n] + f(x[:, n:])], 1), f),
        lambda: Lambda(lambda x, f, g: torch.cat([f(x[:, :n]), g(x[:, n:])], 1), f, g),
        lambda: Lambda(lambda x, f: f(x[:, :n]) - f(x[:, n:]), f),
        lambda: Lambda(scaled, f, g),
        lambda: Lambda(lambda x, f: torch.cat([f(part) for part in x.chunk(2, 1)], 1), f),
    )()


class Mixer(nn.Module):
    """Of Tolstikhin et al.: along the tokens, then along the channels; with or without norms."""

    def __init__(self, d: Dice, s: Shape) -> None:
        super().__init__()
        self.one, self.two = branch(d, (s[0],)), branch(d, (s[1],))
        norm = d.chance(0.3)
        self.first, self.second = (nn.LayerNorm(s[1], eps=0.1) if norm else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor) -> Any:
        x = x + self.one(self.first(x).transpose(1, 2)).transpose(1, 2)
        return x + self.two(self.second(x))


class Recurrence(nn.Module):
    """Unrolled over the first axis."""

    def __init__(self, d: Dice, s: Shape) -> None:
        super().__init__()
        self.u, self.w = nn.Linear(s[1], 4), nn.Linear(4, 4)
        self.last, self.leak = d.chance(0.5), d.one_of(0.0, 0.5)

    def forward(self, x: Tensor) -> Any:
        state = x.new_zeros(x.shape[0], 4)
        states = []
        for step in x.unbind(1):
            state = self.leak * state + (1 - self.leak) * torch.tanh(self.u(step) + self.w(state))
            states.append(state)
        return state if self.last else torch.stack(states, 1)


def recurrent(d: Dice, s: Shape) -> Any:
    kind: Any = d.one_of(nn.RNN, nn.LSTM, nn.GRU)
    return Lambda(lambda x, f: f(x)[0], kind(s[1], 4, batch_first=True, bidirectional=d.chance(0.3)))


def unet(d: Dice, s: Shape) -> Any:
    c = s[0]

    def f(x: Any, down: Any, inner: Any, up: Any) -> Any:
        y = up(F.relu(inner(F.relu(down(x)))))
        return torch.cat([x, F.interpolate(y, size=x.shape[2:])], 1)

    return Lambda(f, nn.Conv2d(c, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, padding=1), nn.ConvTranspose2d(4, c, 2, 2))


def spectral_block(d: Dice, s: Shape) -> Any:
    """1-Lipschitz: SLL, CPL, a Cayley transform, an almost orthogonal or a Björck layer."""
    n = s[-1]
    w = nn.Parameter(torch.randn(d.randint(2, 8), n))
    square = nn.Parameter(torch.randn(n, n))

    def sll(x: Any, w: Tensor) -> Any:
        t = 2 / (w @ w.t()).abs().sum(1)
        return x - (t * F.relu(x @ w.t())) @ w

    def cayley(x: Any, w: Tensor) -> Any:
        skew, eye = w - w.t(), torch.eye(w.shape[0], dtype=w.dtype)
        return x @ torch.linalg.solve(eye + skew, eye - skew)

    def bjorck(x: Any, w: Tensor) -> Any:
        w = w / torch.sqrt(w.abs().sum(0).max() * w.abs().sum(1).max())
        for _ in range(4):
            w = 1.5 * w - 0.5 * w @ w.t() @ w
        return x @ w

    return d.one_of(
        lambda: Lambda(sll, w),
        lambda: Lambda(lambda x, w: x - 2 / torch.linalg.matrix_norm(w, 2) ** 2 * torch.tanh(x @ w.t()) @ w, w),
        lambda: Lambda(lambda x, w: F.linear(x, w / (w.t() @ w).abs().sum(0).sqrt()), w),
        lambda: Lambda(cayley, square),
        lambda: Lambda(bjorck, square),
        lambda: Lambda(lambda x, w: x @ torch.matrix_exp(w - w.t()), square),
    )()


def thresholded(d: Dice, s: Shape) -> Any:
    """Iterations of LISTA, of a fixed point, of Euler's method."""
    n = s[-1]
    f = nn.Linear(n, n)
    f.weight.data /= 2 * torch.linalg.matrix_norm(f.weight.data, 2)

    def lista(x: Any, f: Any) -> Any:
        z = F.softshrink(x, 0.1)
        for _ in range(3):
            z = F.softshrink(x + z - f(z), 0.1)
        return z

    def fixed_point(x: Any, f: Any) -> Any:
        z = torch.zeros_like(x)
        for _ in range(5):
            z = torch.tanh(f(z) + x)
        return z

    def euler(x: Any, f: Any) -> Any:
        for _ in range(4):
            x = x + 0.25 * torch.tanh(f(x))
        return x

    def to_the_end(x: Any, f: Any) -> Any:
        z = torch.zeros_like(x)
        for _ in range(100):
            new = torch.tanh(f(z) + x)
            if (new - z).abs().max() < 1e-5:
                break
            z = new
        return z

    return Lambda(d.one_of(lista, fixed_point, euler, euler, to_the_end), f)


plain("residual", ANY, residual)
plain("second residual", ANY, residual)
plain("coupled", ANY, coupled)
plain("mixer", (2,), Mixer)
plain("recurrence", (2,), Recurrence)
plain("u-net", (3,), unet)
plain("1-Lipschitz", (1, 2), spectral_block)
plain("iterations", (1, 2), thresholded)
plain("pool former", (3,), lambda d, s: Lambda(lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) - x))
odd("recurrent", (2,), recurrent)
odd(
    "squeeze and excitation",
    (3,),
    lambda d, s: Lambda(lambda x, f: x * torch.sigmoid(f(x.mean((2, 3))))[:, :, None, None], nn.Linear(s[0], s[0])),
)
odd(
    "gated, squashed",
    (1,),
    lambda d, s: Lambda(lambda x, f, g: torch.tanh(f(x)) * torch.sigmoid(g(x)), nn.Linear(s[0], 5), nn.Linear(s[0], 5)),
)
odd(
    "highway",
    (1,),
    lambda d, s: Lambda(
        lambda x, f, g: (lambda t: t * f(x) + (1 - t) * x)(torch.sigmoid(g(x))),
        nn.Linear(s[0], s[0]),
        nn.Linear(s[0], s[0]),
    ),
)
odd("bilinear", (1,), lambda d, s: Lambda(lambda x, f: f(x, x), nn.Bilinear(s[0], s[0], 3)))
odd(
    "attention", (2,), lambda d, s: Lambda(lambda x, f: f(x, x, x)[0], nn.MultiheadAttention(s[1], 1, batch_first=True))
)
odd("transformer", (2,), lambda d, s: nn.TransformerEncoderLayer(s[1], 1, 8, batch_first=True))
odd("soft attention", (2,), lambda d, s: Lambda(lambda x: F.scaled_dot_product_attention(x, x, x)))
odd("distance attention", (2,), lambda d, s: Lambda(lambda x: torch.softmax(-(torch.cdist(x, x) ** 2), 2) @ x))
odd(
    "spatial gate",
    (2,),
    lambda d, s: Lambda(lambda x, f: x * f(x.transpose(1, 2)).transpose(1, 2), nn.Linear(s[0], s[0])),
)
odd(
    "mixture of experts",
    (1,),
    lambda d, s: Lambda(
        lambda x, g, a, b: (lambda w: w[:, :1] * a(x) + w[:, 1:] * b(x))(g(x).softmax(1)),
        nn.Linear(s[0], 2),
        nn.Linear(s[0], 3),
        nn.Linear(s[0], 3),
    ),
)
odd(
    "hypernetwork",
    (1,),
    lambda d, s: Lambda(
        lambda x, f: torch.bmm(f(x).reshape(-1, 3, x.shape[1]), x[:, :, None])[:, :, 0], nn.Linear(s[0], 3 * s[0])
    ),
)


# -- a module --------------------------------------------------------------------------------------------------------
SHAPES: dict[int, Sequence[Shape]] = {
    1: ((4,), (6,), (8,), (9,)),
    2: ((4, 6), (5, 3), (3, 8), (2, 9)),
    3: ((1, 6, 6), (2, 5, 7), (3, 6, 6), (4, 5, 5), (6, 4, 4), (2, 8, 8)),
    4: ((2, 3, 4, 4), (1, 4, 4, 4)),
}


def drawn(seed: int) -> Drawn:
    """Draw the module of a number: the same for the same number."""
    d = Dice(seed)
    torch.manual_seed(seed)
    shape = d.choice(SHAPES[d.choices([1, 2, 3, 4], [30, 20, 44, 6])[0]])
    pieces: list[nn.Module] = []
    names: list[str] = []
    now = shape
    for _ in range(d.randint(1, 5)):
        piece, name, now = _piece(d, now, pieces)
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


def _piece(d: Dice, shape: Shape, before: list[nn.Module]) -> tuple[nn.Module, str, Shape]:
    while True:
        table = ODD if d.odd < 2 and d.chance(0.2) else PLAIN
        name = d.choice([name for name, (ranks, _) in table.items() if len(shape) in ranks])
        try:
            made = table[name][1](d, shape)
            made = made if isinstance(made, nn.Module) else Lambda(made)
            with torch.no_grad():
                out = tuple(made.eval()(torch.rand(1, *shape)).shape)
        except Exception:  # whatever torch raises for a shape that does not fit
            continue
        if out[:1] == (1,) and 0 < np.prod(out) <= MOST and 2 <= len(out) <= 5:
            d.odd += table is ODD
            return made, name, out[1:]


def _with_ports(d: Dice, module: nn.Module, shape: Shape, names: list[str]) -> tuple[nn.Module, tuple[Shape, ...]]:
    """Give a module several inputs or outputs."""
    kind = d.choices(["", "added", "joined", "second", "outputs", "dictionary", "list"], [80, 4, 4, 3, 4, 3, 2])[0]
    names += [kind] if kind else []
    c = shape[0] // 2
    if kind == "added":
        return Lambda(lambda x, y, f: f(x - 0.5 * y), module), (shape, shape)
    if kind == "joined" and c:
        parts = ((c, *shape[1:]), (shape[0] - c, *shape[1:]))
        return Lambda(lambda x, y, f: f(torch.cat([x, y], 1)), module), parts
    if kind == "second":
        return Lambda(lambda x, y, f, g: torch.cat([f(x).flatten(1), g(y)], 1), module, nn.Linear(3, 2)), (shape, (3,))
    if kind == "outputs":
        return Lambda(lambda x, f: (f(x), x.tanh()), module), (shape,)
    if kind == "dictionary":
        return Lambda(lambda x, f: {"a": f(x), "b": x.mean(1)}, module), (shape,)
    if kind == "list":
        return Lambda(lambda x, f: [f(x), f(-x)], module), (shape,)
    return module, (shape,)


# -- the oracle's side -----------------------------------------------------------------------------------------------
INSIDE = {"float32 inside": 1e-6, "float16 inside": 1e-2, "bfloat16 autocast": 5e-2}
"""What arithmetic of fewer bits, which stays in the module in float64, may change of the outputs' size."""


def machine(drawn: Drawn, inside: float = 0.0) -> Machine:
    """The module in float64, with the weights that it has in its own type."""
    return machine_of(drawn.module.double().eval(), drawn.shapes, inside)


def machine_of(f: Callable[..., Any], shapes: Sequence[Shape], relative: float = 0.0) -> Machine:
    """A function of batches in float64."""
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

    return Machine(sum(sizes), values, pull, max(1e-12, relative))


ROOM = {torch.float32: 1e-5, torch.float64: 1e-10, torch.bfloat16: 3e-2}
"""What rounding of weights that are computed in a type may change of a bound, relatively."""


def asked(seed: int) -> Outcome:
    """Bound the module of a number and attack it."""
    found = drawn(seed)
    given: Any = found.shapes[0]
    if len(found.shapes) > 1:
        given = tuple(torch.rand(1, *shape, dtype=found.dtype) for shape in found.shapes)
    relative = max([0.0, *(INSIDE[name] for name in found.pieces if name in INSIDE)])
    return outcome(found.module, given, lambda: machine(drawn(seed), relative), seed, room=ROOM[found.dtype])
