"""Small networks of every architecture that a page, a test or a report names, each drawn from its own seed.

A network here has a bound in ``bounds.json``; `test_stored_bounds` fails where one grows or is lost.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from helpers import DATA
from networks.torch_modules import Function
from networks.zoo import fourier, layers
from specnorm_networks import Multipliers, Product, network_bound
from torch import nn

METHODS: dict[str, Any] = {
    "product": Product(), "multipliers": Multipliers(steps=3), "converged": Multipliers(),
}  # fmt: skip
EVERY = ("product", "converged", "multipliers")
JOINT = ("product", "multipliers")
IMAGE = (3, 8, 8)
EVEN = (4, 8, 8)
VECTOR = (8,)
Make = Callable[[], Any]


class Case(NamedTuple):
    """What makes a network, the shape of its input, and the methods whose bounds are kept."""

    make: Make
    shape: tuple[int, ...] | None  # None: a file states it
    methods: tuple[str, ...] = ("product",)


def case(shape: tuple[int, ...], make: Make, *methods: str) -> Case:
    return Case(make, shape, methods or ("product",))


def of(shape: tuple[int, ...], f: Callable[..., Any], *modules: Make, methods: tuple[str, ...] = ()) -> Case:
    return case(shape, lambda: Function(f, *(make() for make in modules)), *methods)


def conv(cin: int, cout: int, size: int = 3, **options: Any) -> Make:
    options = {"padding": size // 2} | options
    return lambda: nn.Conv2d(cin, cout, size, **options)


def down(cin: int, cout: int) -> Make:
    return lambda: nn.Conv2d(cin, cout, 2, 2)


def up(cin: int, cout: int) -> Make:
    return lambda: nn.ConvTranspose2d(cin, cout, 2, 2)


def linear(cin: int, cout: int) -> Make:
    return lambda: nn.Linear(cin, cout)


def contraction(cin: int, cout: int) -> Make:
    """Make a matrix of norm 1."""
    return lambda: unit(nn.Linear(cin, cout))


def chain(*makes: Any) -> Make:
    """Make modules one after the other; what is a module or a function of tensors stands for itself."""
    return lambda: nn.Sequential(*[_made(make) for make in makes])


def _made(make: Any) -> Any:
    if isinstance(make, type):
        return make()
    made = make if isinstance(make, nn.Module) else make()
    assert isinstance(made, nn.Module)
    return made


def trained(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.get_buffer("running_var").uniform_(0.3, 2)
            module.weight.data.uniform_(-1, 1)
            module.bias.data.normal_()
    return model


def unit(layer: nn.Module) -> nn.Module:
    """Divide a layer by the norm of its matrix of channels, times the root of the taps."""
    weight = layer.get_parameter("weight")
    weight.data /= torch.linalg.matrix_norm(weight.data.flatten(1), 2) * math.sqrt(weight[0, 0].numel())
    return layer


def unit_rows(weight: Any) -> Any:
    return weight / weight.flatten(1).norm(dim=1).reshape(-1, *(1,) * (weight.ndim - 1))


def orthogonal(width: int, other: int | None = None) -> Make:
    def make() -> nn.Module:
        layer = nn.Linear(width, other or width)
        nn.init.orthogonal_(layer.weight)
        return layer

    return make


# -- layers one after the other --------------------------------------------------------------------------------------
FUNCTIONS: dict[str, Make] = {
    "relu": nn.ReLU, "leaky": lambda: nn.LeakyReLU(0.3), "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "elu": nn.ELU,
    "gelu": nn.GELU, "silu": nn.SiLU, "mish": nn.Mish, "softplus": nn.Softplus, "hardswish": nn.Hardswish,
    "hardtanh": nn.Hardtanh, "selu": nn.SELU, "celu": lambda: nn.CELU(0.7), "prelu": nn.PReLU, "softsign": nn.Softsign,
    "softshrink": lambda: nn.Softshrink(0.3), "hardsigmoid": nn.Hardsigmoid, "logsigmoid": nn.LogSigmoid,
    "relu6": nn.ReLU6, "threshold": lambda: nn.Threshold(0.0, 0.0), "tanhshrink": nn.Tanhshrink,
    "hardshrink refused": lambda: nn.Hardshrink(0.3), "softmax": lambda: nn.Softmax(1),
    "logsoftmax": lambda: nn.LogSoftmax(1),
}  # fmt: skip
CASES: dict[str, Case] = {
    f"mlp, {name}": case(VECTOR, chain(linear(8, 16), function, linear(16, 4)), *EVERY * (name in ("relu", "tanh")))
    for name, function in FUNCTIONS.items()
}
LEAKY = partial(nn.LeakyReLU, 0.2)
CASES |= {
    "mlp, glu refused": case(VECTOR, chain(linear(8, 16), lambda: nn.GLU(1), linear(8, 4))),
    "mlp, deep relu": case(VECTOR, chain(*[linear(8, 8), nn.ReLU()] * 5, linear(8, 2)), *EVERY),
    "mlp, double precision": case(
        VECTOR, lambda: chain(linear(8, 12), nn.ReLU, linear(12, 3))().double(), "multipliers"),
    "mlp, abs": case(VECTOR, chain(linear(8, 8), lambda: Function(torch.abs), linear(8, 3)), *EVERY),
    "mlp, one output": case(VECTOR, chain(linear(8, 16), nn.ReLU, linear(16, 1)), *EVERY),
    "mlp, dropout": case(VECTOR, chain(linear(8, 16), nn.Dropout, nn.ReLU, linear(16, 3))),
    "mlp, batch norm": case(
        VECTOR, lambda: trained(chain(linear(8, 9), lambda: nn.BatchNorm1d(9), nn.ReLU, linear(9, 3))())),
    **{f"mlp, {name.replace('_', ' ')}": case(
        VECTOR, chain(lambda wrap=wrap: wrap(nn.Linear(8, 8)), nn.ReLU)) for name, wrap in (
        ("weight_norm", nn.utils.parametrizations.weight_norm),
        ("spectral_norm", nn.utils.parametrizations.spectral_norm),
        ("orthogonal", nn.utils.parametrizations.orthogonal))},
    "mlp, orthogonal and sorted pairs": of(
        VECTOR, lambda x, a, b: b(a(x).reshape(-1, 4, 2).sort(2).values.flatten(1)), orthogonal(8), orthogonal(8)),
    "autoencoder": case(VECTOR, chain(linear(8, 3), nn.Tanh, linear(3, 8)), *EVERY),
    "dqn": case((4, 16, 16), chain(
        conv(4, 8, 8, stride=4, padding=0), nn.ReLU, conv(8, 8, 2, padding=0), nn.ReLU, nn.Flatten, linear(32, 16),
        nn.ReLU, linear(16, 4)), "product", "converged"),
    "critic": case(IMAGE, chain(
        conv(3, 4, 4, stride=2, padding=1), LEAKY, conv(4, 8, 4, stride=2, padding=1), LEAKY, nn.Flatten, linear(32, 1),
        ), *EVERY),
    "generator": case((4, 2, 2), chain(
        lambda: nn.ConvTranspose2d(4, 4, 4, 2, 1), nn.ReLU, lambda: nn.ConvTranspose2d(4, 3, 4, 2, 1), nn.Tanh)),
    "cnn": case(IMAGE, chain(conv(3, 8), nn.ReLU, conv(8, 8), nn.ReLU, nn.Flatten, linear(512, 4))),
    "cnn, multipliers": case((2, 6, 6), chain(conv(2, 4), nn.ReLU, conv(4, 3), nn.ReLU, conv(3, 1)), *EVERY),
    "cnn, circular": case(
        IMAGE, chain(conv(3, 4, padding_mode="circular"), nn.ReLU, conv(4, 3, padding_mode="circular"))),
    "cnn, reflect": case(
        IMAGE, chain(conv(3, 4, padding_mode="reflect"), nn.ReLU, conv(4, 3, padding_mode="replicate"))),
    "cnn, dilated": case(IMAGE, chain(conv(3, 4, padding=2, dilation=2), nn.ReLU, conv(4, 3))),
    "cnn, strided": case(
        IMAGE, chain(conv(3, 4, stride=2), nn.ReLU, conv(4, 4, stride=2), nn.ReLU, conv(4, 2))),
    "cnn, grouped": case(EVEN, chain(conv(4, 8, groups=2), nn.ReLU, conv(8, 4, groups=4))),
    "cnn, depthwise separable": case(EVEN, chain(conv(4, 4, groups=4), nn.ReLU6, conv(4, 8, 1), nn.ReLU6)),
    "cnn, average pooling": case(IMAGE, chain(
        conv(3, 4), nn.ReLU, lambda: nn.AvgPool2d(2), conv(4, 4), nn.ReLU, lambda: nn.AdaptiveAvgPool2d(1), nn.Flatten,
        linear(4, 3)), *JOINT),
    "cnn, overlapping averages": case(IMAGE, chain(conv(3, 4), nn.ReLU, lambda: nn.AvgPool2d(3, 2, 1), conv(4, 4))),
    "cnn, max pooling": case(IMAGE, chain(conv(3, 4), nn.ReLU, lambda: nn.MaxPool2d(2), conv(4, 4))),
    "cnn, overlapping maxima": case(IMAGE, chain(conv(3, 4), nn.ReLU, lambda: nn.MaxPool2d(3, 2, 1), conv(4, 4))),
    "cnn, batch norm": case(IMAGE, lambda: trained(chain(
        conv(3, 4), lambda: nn.BatchNorm2d(4), nn.ReLU, conv(4, 4), lambda: nn.BatchNorm2d(4))())),
    "cnn, frozen batch norm first": case(
        IMAGE, lambda: trained(chain(lambda: nn.BatchNorm2d(3), conv(3, 4), nn.ReLU)())),
    "cnn, in one dimension": case(
        (3, 12), chain(lambda: nn.Conv1d(3, 4, 3, padding=1), nn.ReLU, lambda: nn.Conv1d(4, 2, 3))),
    "cnn, in three": case(
        (2, 4, 4, 4), chain(lambda: nn.Conv3d(2, 3, 3, padding=1), nn.ReLU, lambda: nn.Conv3d(3, 2, 2))),
    "cnn, padded apart": case(
        IMAGE, chain(lambda: nn.ZeroPad2d((0, 1, 0, 1)), conv(3, 4, stride=2, padding=0), nn.ReLU)),
    "cnn, mirrored apart": case(IMAGE, chain(lambda: nn.ReflectionPad2d(1), conv(3, 4, padding=0), nn.ReLU)),
    "cnn, symmetric": case((1, 5, 5), lambda: layers.SymmetricConv(1, 2, 5)),
    "cnn, pixel shuffle": case(EVEN, chain(conv(4, 8), nn.ReLU, lambda: nn.PixelShuffle(2), conv(2, 3))),
    "cnn, pixel unshuffle": case(EVEN, chain(lambda: nn.PixelUnshuffle(2), conv(16, 4), nn.ReLU)),
    "cnn, channel shuffle": case(
        EVEN, chain(conv(4, 4, groups=2), lambda: nn.ChannelShuffle(2), conv(4, 4, groups=2))),
    "cnn, nearest upsampling": case(EVEN, chain(lambda: nn.Upsample(scale_factor=2), conv(4, 2), nn.ReLU)),
    "cnn, bilinear upsampling": case(EVEN, chain(lambda: nn.Upsample(scale_factor=2, mode="bilinear"), conv(4, 2))),
    "cnn, fold of patches": case(
        EVEN, chain(lambda: nn.Unfold(2, stride=2), lambda: nn.Fold((8, 8), 2, stride=2))),
    "dncnn": of((1, 8, 8), lambda x, f: x - f(x), chain(conv(1, 6), nn.ReLU, conv(6, 6), nn.ReLU, conv(6, 1)),
                methods=JOINT),
    "drunet-like": of(
        (2, 8, 8), lambda x, a, b, c, d: d(a(x) + c(F.relu(b(a(x))))), conv(2, 4), down(4, 8), up(8, 4), conv(4, 2)),
    "unet by concatenation": of(
        (2, 8, 8), lambda x, a, b, c, d: d(torch.cat([a(x), c(F.relu(b(F.max_pool2d(a(x), 2))))], 1)),
        conv(2, 4), conv(4, 8), up(8, 4), conv(8, 2)),
}  # fmt: skip


# -- branches --------------------------------------------------------------------------------------------------------
class Residual(nn.Module):
    """Of He et al.: two layers and a shortcut."""

    def __init__(self, width: int, scale: float = 1.0) -> None:
        super().__init__()
        self.one, self.two = conv(width, width)(), conv(width, width)()
        self.scale = scale

    def forward(self, x: Any) -> Any:
        return x + self.scale * self.two(F.relu(self.one(x)))


class DenseBlock(nn.Module):
    """Of Huang et al.: each layer reads all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(4 + 2 * i, 2, 3, padding=1) for i in range(3))

    def forward(self, x: Any) -> Any:
        for layer in self.convs:
            x = torch.cat([x, F.relu(layer(x))], 1)
        return x


class CrossStage(nn.Module):
    """Of Wang et al., CSPNet: half of the channels go around a layer."""

    def __init__(self, width: int, *, joins: bool) -> None:
        super().__init__()
        self.first, self.inner = conv(3, width)(), conv(width // 2, width // 2)()
        self.last = conv(width if joins else width // 2, 8)()
        self.joins = joins

    def forward(self, x: Any) -> Any:
        kept, changed = torch.relu(self.first(x)).chunk(2, 1)
        changed = torch.relu(self.inner(changed))
        return self.last(torch.cat([kept, changed], 1) if self.joins else changed)


class Concatenated(nn.Module):
    """Of Perugachi-Diaz et al., i-DenseNets: learned weights, each layer beside its input."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(unit(nn.Conv2d(4 + 2 * i, 2, 3, padding=1)) for i in range(2))
        self.last = unit(nn.Conv2d(8, 4, 1))

    def forward(self, x: Any) -> Any:
        start = x
        for layer in self.convs:
            x = torch.cat([0.6 * x, 0.8 * torch.tanh(layer(x))], 1)
        return start + 0.9 * self.last(x)


class Coupling(nn.Module):
    """Halves of the channels: each moved by what the other says."""

    def __init__(self, width: int, scale: float = 1.0) -> None:
        super().__init__()
        self.f, self.g = unit(nn.Linear(width // 2, width // 2)), unit(nn.Linear(width // 2, width // 2))
        self.scale = scale

    def forward(self, x: Any) -> Any:
        one, two = x.chunk(2, 1)
        one = one + self.scale * F.relu(self.f(two))
        two = two + self.scale * F.relu(self.g(one))
        return torch.cat([one, two], 1)


def shifted(x: Any) -> Any:
    """Move groups of channels by one pixel in turn, and leave the others, as a roll by nothing."""
    parts = x.chunk(4, 1)
    moves = [((1,), (2,)), ((-1,), (2,)), ((1,), (3,)), ((0,), (3,))]
    return torch.cat([torch.roll(part, by, axis) for part, (by, axis) in zip(parts, moves, strict=True)], 1)


class LipNeXt(nn.Module):
    """Of LipNeXt's kind: shifts, an orthogonal matrix, absolute values of half of the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(width, width, 1)
        nn.init.orthogonal_(self.mix.weight)

    def forward(self, x: Any) -> Any:
        y = self.mix(shifted(x))
        one, two = y.chunk(2, 1)
        return torch.cat([one.abs(), two], 1)


def bottleneck(function: Callable[[Any], Any], groups: int) -> Case:
    """Of Xie et al. and of Sandler et al.: a layer of groups between two of one tap."""
    return of(EVEN, lambda x, a, b, c: x + c(function(b(function(a(x))))), conv(4, 8, 1), conv(8, 8, groups=groups),
              conv(8, 4, 1))  # fmt: skip


CASES |= {
    "resnet": case(EVEN, chain(lambda: Residual(4), nn.ReLU, lambda: Residual(4)), *JOINT),
    "resnet, scaled": case(EVEN, chain(*[lambda: Residual(4, 0.1)] * 3)),
    "resnet, convex": of(VECTOR, lambda x, f: 0.3 * x + 0.7 * f(x), chain(linear(8, 8), nn.Tanh)),
    "resnet, with another shortcut": of(
        EVEN, lambda x, a, b, c: F.relu(c(x) + b(F.relu(a(x)))), conv(4, 8, stride=2), conv(8, 8),
        conv(4, 8, 1, stride=2), methods=JOINT),
    "resnet, option A": of(
        EVEN, lambda x, a, b: F.relu(F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)) + b(F.relu(a(x)))),
        conv(4, 8, stride=2), conv(8, 8)),
    "preactivated": case(EVEN, lambda: trained(Function(
        lambda x, a, b, c, d: x + d(F.relu(c(b(F.relu(a(x)))))), nn.BatchNorm2d(4), conv(4, 4)(), nn.BatchNorm2d(4),
        conv(4, 4)()))),
    "convolutions in parallel": of(
        EVEN, lambda x, a, b, c: torch.cat([a(x), b(x), c(x)], 1), conv(4, 2, 1), conv(4, 2), conv(4, 2, 5)),
    "repvgg": of(EVEN, lambda x, a, b: F.relu(a(x) + b(x) + x), conv(4, 4), conv(4, 4, 1)),
    "resnext": bottleneck(F.relu, 4),
    "mobile inverted": bottleneck(F.relu6, 8),
    "shufflenet": of(
        EVEN,
        lambda x, f: torch.cat([x[:, :2], f(x[:, 2:])], 1).reshape(-1, 2, 2, 8, 8).transpose(1, 2).reshape(-1, 4, 8, 8),
        chain(conv(2, 2, 1), nn.ReLU, conv(2, 2, groups=2), conv(2, 2, 1))),
    "ghost": of(EVEN, lambda x, a, b: torch.cat([a(x), b(a(x))], 1), conv(4, 4, 1), conv(4, 4)),
    "split by four": of(
        EVEN, lambda x, *f: torch.cat([g(part) for g, part in zip(f, x.chunk(4, 1), strict=True)], 1),
        *(conv(1, 1, n) for n in (1, 3, 5, 7))),
    "mixer": of(
        (6, 4), lambda x, a, b: (lambda y: y + b(y))(x + a(x.transpose(1, 2)).transpose(1, 2)),
        chain(linear(6, 6), nn.ReLU, linear(6, 6)), chain(linear(4, 4), nn.ReLU, linear(4, 4))),
    "lora": case((6,), lambda: layers.LoraLinear(6, 4)),
    "addmm": case((2, 5), lambda: layers.AddmmLinear(5, 3)),
    "over channels": case((3, 4, 2), lambda: layers.ChannelsFirst(3, 4)),
    "coupled, additive": of(
        VECTOR, lambda x, f: torch.cat([x[:, :4], x[:, 4:] + f(x[:, :4])], 1), chain(linear(4, 4), nn.Tanh)),
    "gate of two paths, refused": of(VECTOR, lambda x, a, b: a(x) * b(x).sigmoid(), orthogonal(8), orthogonal(8)),
    "densenet": case(EVEN, DenseBlock, *JOINT),
    # Of too many units for a search of each: slices of channels pass weights on.
    "cross stage": case((3, 32, 32), lambda: CrossStage(16, joins=True), *JOINT),
    "half of the channels": case((3, 32, 32), lambda: CrossStage(16, joins=False), *JOINT),
    "i-densenet": case(EVEN, Concatenated),
    "revnet": case(VECTOR, lambda: Coupling(8), *JOINT),
    "revnet, two blocks": case(VECTOR, chain(*[lambda: Coupling(8)] * 2)),
    "revnet, damped": case(VECTOR, chain(*[lambda: Coupling(8, 0.3)] * 2)),
    "coupling of halves": of(
        VECTOR, lambda x, f: torch.cat([x[:, :4] + torch.relu(f(x[:, 4:])), x[:, 4:]], 1), contraction(4, 4)),
    "coupling of halves, swapped": of(
        VECTOR, lambda x, f: torch.cat([x[:, 4:], x[:, :4] + torch.relu(f(x[:, 4:]))], 1), contraction(4, 4)),
    "coupling of images": of(
        EVEN, lambda x, f: torch.cat([x[:, :2] + torch.relu(f(x[:, 2:])), x[:, 2:]], 1), conv(2, 2)),
    "coupling, three parts": of(
        (6,), lambda x, f, g: torch.cat([x[:, :2], x[:, 2:4] + f(x[:, :2]), x[:, 4:] + torch.tanh(g(x[:, 2:4]))], 1),
        contraction(2, 2), contraction(2, 2)),
    "lipnext, one block": case(EVEN, lambda: LipNeXt(4)),
    "lipnext, four blocks": case(EVEN, chain(*[lambda: LipNeXt(4)] * 4)),
    "lipnext, norm at the end": case(EVEN, chain(*[lambda: LipNeXt(4)] * 2, nn.Flatten, orthogonal(256, 5))),
    "roll by nothing": of(VECTOR, lambda x: torch.roll(x, 0, 1)),
    "roll": of(EVEN, lambda x: torch.roll(x, (1, -1), (2, 3))),
    "concatenation with an empty part": of(VECTOR, lambda x: torch.cat([x[:, :0], x], 1)),
    "concatenation with an empty end": of(EVEN, lambda x: torch.cat([x, x[:, :, 8:]], 2)),
    "concatenation of halves, one through a function": of(
        VECTOR, lambda x: torch.cat([x[:, :4], x[:, 4:].relu()], 1)),
    "parts of nothing and of all": of(EVEN, lambda x: torch.cat([x[:, :4].abs(), x[:, 4:], x[:, :0]], 1)),
    "x - mean(x)": of(VECTOR, lambda x: x - x.mean(1, keepdim=True)),
    "x - mean of pixels": of(EVEN, lambda x: x - x.mean((2, 3), keepdim=True)),
    "haar": of(
        VECTOR, lambda x: torch.cat([(x[:, ::2] + x[:, 1::2]) / 2**0.5, (x[:, ::2] - x[:, 1::2]) / 2**0.5], 1)),
    "space to depth": of(EVEN, lambda x: torch.cat([x[:, :, a::2, b::2] for a in (0, 1) for b in (0, 1)], 1)),
    "differences": of(EVEN, lambda x: x[:, :, 1:] - x[:, :, :-1]),
    "total variation": of(EVEN, lambda x: torch.cat(
        [(x[:, :, 1:] - x[:, :, :-1]).flatten(1), (x[..., 1:] - x[..., :-1]).flatten(1)], 1)),
    "stack of two functions": of(VECTOR, lambda x: torch.stack([x.relu(), (-x).relu()], 2)),
    "crelu": of(VECTOR, lambda x: torch.cat([x.relu(), (-x).relu()], 1)),
    "relu and its complement": of(VECTOR, lambda x: torch.cat([x.relu(), x - x.relu()], 1)),
    "flip and add": of(VECTOR, lambda x: (x + x.flip(1)) / 2),
}  # fmt: skip


# -- recurrent, unrolled ---------------------------------------------------------------------------------------------
class Recurrent(nn.Module):
    """Steps, each of which reads its own part of the input."""

    def __init__(self, width: int = 3, last: bool = False) -> None:
        super().__init__()
        self.u, self.w = unit(nn.Linear(width, 4)), unit(nn.Linear(4, 4))
        self.last = last

    def forward(self, x: Any) -> Any:
        state = torch.zeros_like(x[:, 0, :1]).expand(-1, 4)
        states = []
        for step in x.unbind(1):
            state = torch.tanh(self.u(step) + self.w(state))
            states.append(state)
        return state if self.last else torch.stack(states, 1)


CASES |= {
    "recurrent, every step": case((7, 3), Recurrent),
    "recurrent, last step": case((7, 3), lambda: Recurrent(last=True)),
    "recurrent, two steps": case((2, 3), Recurrent),
    "recurrent, one map a step": of(
        (7, 3), lambda x, f: torch.stack([torch.tanh(f(step)) for step in x.unbind(1)], 1), contraction(3, 4)),
    "torch's rnn": of((5, 3), lambda x, f: f(x)[0], lambda: nn.RNN(3, 4, batch_first=True)),
    "weights of the past": of(
        (5, 3), lambda x, f: f(x[:, 0]) + 0.5 * f(x[:, 1]) + 0.25 * f(x[:, 2]), contraction(3, 4)),
    "sum of disjoint maps": of(
        VECTOR, lambda x, f, g: f(x[:, :4]) + g(x[:, 4:]), contraction(4, 4), contraction(4, 4)),
    "siamese difference": of(
        VECTOR, lambda x, f: f(x[:, :4]) - f(x[:, 4:]), chain(contraction(4, 4), nn.ReLU)),
}  # fmt: skip


# -- 1-Lipschitz layers ----------------------------------------------------------------------------------------------
def extremes(u: Any, v: Any, axis: int = 1) -> Any:
    return torch.cat([torch.max(u, v), torch.min(u, v)], axis)


def _sorted_halves(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.max(*x.chunk(2, 1)), torch.min(*x.chunk(2, 1))], 1)


def _sorted_strided(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.max(x[:, 0::2], x[:, 1::2]), torch.min(x[:, 0::2], x[:, 1::2])], 1)


def _sorted_apart(x: torch.Tensor) -> torch.Tensor:
    """Of Anil et al., and of Li et al.'s BCOP."""
    pairs = x.view(-1, 4, 2)
    return torch.cat([pairs.max(2)[0], pairs.min(2)[0]], 1)


def by_relu(u: Any, v: Any) -> tuple[Any, Any]:
    return v + (u - v).relu(), u - (u - v).relu()


def householder(x: Any, theta: Any) -> Any:
    """Of Singla et al.: a reflection on one side of a line."""
    one, two = x.chunk(2, 1)
    chosen = torch.sin(theta / 2) * one - torch.cos(theta / 2) * two <= 0
    turned = torch.cos(theta) * one + torch.sin(theta) * two, torch.sin(theta) * one - torch.cos(theta) * two
    return torch.cat([torch.where(chosen, one, turned[0]), torch.where(chosen, two, turned[1])], 1)


def householder_by_gates(x: Any) -> Any:
    """As Singla et al. publish it."""
    one, two = x.chunk(2, 1)
    s = 0.5 * one - two
    first = one * (s <= 0) + (0.6 * one + 0.8 * two) * (s > 0)
    return torch.cat([first, two * (s <= 0) + (0.8 * one - 0.6 * two) * (s > 0)], 1)


class SLL(nn.Module):
    """Araujo et al.: x - 2 W T^-1 relu(W' x + b)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, inner))
        self.q = nn.Parameter(torch.randn(inner) / 2)
        self.bias = nn.Parameter(torch.randn(inner))

    def forward(self, x: Any) -> Any:
        q = self.q.exp()
        t = 2 / ((self.weight.T @ self.weight).abs() * q[None] / q[:, None]).sum(1)
        return x - F.linear(t * F.relu(F.linear(x, self.weight.T, self.bias)), self.weight)


class ConvSLL(nn.Module):
    """The same of convolutions."""

    def __init__(self, width: int, inner: int, size: int = 3) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(inner, width, size, size))
        self.q = nn.Parameter(torch.randn(inner) / 2)
        self.bias = nn.Parameter(torch.randn(inner))

    def forward(self, x: Any) -> Any:
        q = self.q.exp()
        size = self.kernel.shape[-1]
        products = F.conv2d(self.kernel, self.kernel, padding=size - 1).abs().sum((2, 3))
        t = 2 / (products * q[None] / q[:, None]).sum(1)
        inner = F.relu(F.conv2d(x, self.kernel, self.bias, padding=size // 2))
        return x - F.conv_transpose2d(t[:, None, None] * inner, self.kernel, padding=size // 2)


class CPL(nn.Module):
    """Meunier et al.: a convex potential layer, x - 2/|W|^2 W' relu(W x + b)."""

    scale: Any

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inner, width))
        self.bias = nn.Parameter(torch.randn(inner))
        self.register_buffer("scale", 2 / torch.linalg.matrix_norm(self.weight.detach(), 2) ** 2)

    def forward(self, x: Any) -> Any:
        return x - self.scale * F.linear(F.relu(F.linear(x, self.weight, self.bias)), self.weight.T)


class ConvCPL(nn.Module):
    """The same of convolutions, by a bound on the norm."""

    scale: Any

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(inner, width, 3, 3) / 3)
        norm = torch.linalg.matrix_norm(self.kernel.detach().flatten(1), 2) * 3
        self.register_buffer("scale", 2 / norm**2)

    def forward(self, x: Any) -> Any:
        return x - self.scale * F.conv_transpose2d(F.relu(F.conv2d(x, self.kernel, padding=1)), self.kernel, padding=1)


class AOL(nn.Module):
    """Prach and Lampert: almost orthogonal, columns scaled by the sums of |W' W|."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, width))

    def forward(self, x: Any) -> Any:
        return F.linear(x, self.weight / (self.weight.T @ self.weight).abs().sum(0).sqrt())


class ConvAOL(nn.Module):
    """The same of convolutions."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(cout, cin, 3, 3))

    def forward(self, x: Any) -> Any:
        swapped = self.kernel.transpose(0, 1)
        sums = F.conv2d(swapped, swapped, padding=2).abs().sum((1, 2, 3))
        return F.conv2d(x, self.kernel / sums.sqrt()[None, :, None, None], padding=1)


class Sandwich(nn.Module):
    """Wang and Manchester, dense: sqrt(2) A' Psi relu(sqrt(2) Psi^-1 B x + b)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.randn(2 * width, width))
        self.psi = nn.Parameter(torch.randn(width) / 3)

    def forward(self, x: Any) -> Any:
        both = fourier.cayley(self.raw)
        width = self.raw.shape[1]
        a, b = both[:width].T, both[width:].T
        inner = F.relu(2**0.5 * F.linear(x, b) * self.psi.exp().reciprocal())
        return 2**0.5 * F.linear(inner * self.psi.exp(), a.T)


_sorted = partial(Function, _sorted_halves)
_apart = partial(Function, _sorted_apart)
_neighbours = partial(Function, lambda x: x.view(-1, 4, 2).sort(2)[0].flatten(1))
CASES |= {
    "maxmin, by halves": of(VECTOR, _sorted_halves),
    "maxmin, by halves of images": of(EVEN, _sorted_halves),
    "maxmin, by pairs": of(VECTOR, lambda x: torch.cat(
        [x.view(-1, 4, 2).amax(2, keepdim=True), x.view(-1, 4, 2).amin(2, keepdim=True)], 2).flatten(1)),
    "maxmin, strided": of(EVEN, _sorted_strided),
    "maxmin, strided, of vectors": of(VECTOR, _sorted_strided),
    "maxmin, strided, stacked": of(EVEN, lambda x: torch.stack(
        [torch.max(x[:, 0::2], x[:, 1::2]), torch.min(x[:, 0::2], x[:, 1::2])], 2).flatten(1, 2)),
    "maxmin, along columns": of(EVEN, lambda x: extremes(x[..., ::2], x[..., 1::2], 3)),
    "maxmin, halves of rows": of(EVEN, lambda x: extremes(x[:, :, :4], x[:, :, 4:], 2)),
    "maxmin, the other order": of(
        VECTOR, lambda x: torch.cat([torch.min(*x.chunk(2, 1)), torch.max(*x.chunk(2, 1))], 1)),
    "maxmin, by relu": of(VECTOR, lambda x: torch.cat(by_relu(*x.chunk(2, 1)[::-1]), 1)),
    "maxmin, by relu, strided, between layers": of(
        VECTOR, lambda x, first, last: last(torch.stack(by_relu(first(x)[:, ::2], first(x)[:, 1::2]), 2).flatten(1)),
        linear(8, 6), linear(6, 4), methods=("product", "converged")),
    "maxmin, apart": case(
        VECTOR, chain(linear(8, 8), _apart, linear(8, 8), _apart, linear(8, 3)), "product", "converged"),
    "sorted pairs": case(
        VECTOR, chain(linear(8, 8), _neighbours, linear(8, 8), _neighbours, linear(8, 3)), "converged"),
    "maxout, by relu": of(VECTOR, lambda x: x[:, 4:] + F.relu(x[:, :4] - x[:, 4:])),
    # Of too many units for a search of each: its channels have weights.
    "maxmin, convolutions": case(
        (3, 16, 16), chain(conv(3, 16), _sorted, conv(16, 16), _sorted, conv(16, 4)), "multipliers"),
    "groupsort of four": of(VECTOR, lambda x: x.view(-1, 2, 4).sort(2).values.flatten(1)),
    "groupsort of four, images": of((8, 4, 4), lambda x: x.view(-1, 2, 4, 4, 4).sort(2).values.flatten(1, 2)),
    "full sort": of(VECTOR, lambda x: x.sort(1).values),
    "top two": of(VECTOR, lambda x: x.topk(2, 1).values),
    "full sort, descending": of(VECTOR, lambda x: x.sort(1, descending=True).values),
    "absolute values": of(EVEN, torch.abs),
    "largest of each": of(EVEN, lambda x: x.amax((2, 3))),
    "householder activation": of(EVEN, lambda x: householder(x, torch.linspace(0.4, 2, 2).reshape(-1, 1, 1))),
    "householder activation, by gates": of(VECTOR, householder_by_gates),
    "sll": case(VECTOR, chain(lambda: SLL(8, 6), lambda: SLL(8, 10)), *JOINT),
    "sll, convolutions": case(EVEN, chain(lambda: ConvSLL(4, 3), lambda: ConvSLL(4, 5))),
    "sll, raw": case((5,), lambda: layers.Sll(5)),
    "cpl": case(VECTOR, chain(lambda: CPL(8, 6), lambda: CPL(8, 10)), *JOINT),
    "cpl, convolutions": case(EVEN, chain(lambda: ConvCPL(4, 3), lambda: ConvCPL(4, 5))),
    "aol": case(VECTOR, chain(lambda: AOL(8, 8), nn.ReLU, lambda: AOL(8, 4))),
    "aol, convolutions": case(EVEN, chain(lambda: ConvAOL(4, 6), nn.ReLU, lambda: ConvAOL(6, 4))),
    "sandwich, dense": case(VECTOR, lambda: Sandwich(8), *JOINT),
    "bjorck": case((5,), lambda: layers.BjorckLinear(5)),
    "cayley": case(EVEN, lambda: fourier.Cayley(4, 4, 3)),
    "cayley, wider": case(EVEN, lambda: fourier.Cayley(4, 6, 3)),
    "lot": case(EVEN, lambda: fourier.Lot(4, 4, 3)),
    "eco": case((4, 9, 9), lambda: fourier.Eco(4, 4, 3)),
    "sandwich, fourier": case(EVEN, lambda: fourier.Sandwich(4, 4, 3)),
    "real part of a transform": case(EVEN, lambda: fourier.Real(4, 4, 3)),
    "fourier filter": of(EVEN, lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * 0.5, (8, 8))),
    "low pass": of(EVEN, lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * (torch.arange(5) < 3), (8, 8))),
    "orthogonal, shifted": of(VECTOR, lambda x, f: torch.roll(f(x), 1, 1), orthogonal(8)),
}  # fmt: skip


# -- weights of other forms ------------------------------------------------------------------------------------------
OF_WEIGHTS: dict[str, tuple[Callable[[Any], Any], int, int]] = {
    # name: what a layer computes of its weight, its inputs and outputs
    "unit rows": (unit_rows, 8, 4),
    "power step inside": (lambda w: w / (w @ F.normalize(w.T @ torch.ones(4), dim=0)).norm(), 8, 4),
    "binary weights, scaled": (lambda w: w.sign() * w.abs().mean(1, keepdim=True), 8, 4),
    "ternary weights": (lambda w: torch.where(w.abs() > 0.1, w.sign(), 0.0), 8, 4),
    "rounded weights": (lambda w: (w * 8).round().clamp(-4, 3) / 8, 8, 4),
    "rounded down": (lambda w: (w * 8).floor() / 8, 8, 4),
    "divided by a sum of magnitudes": (lambda w: w / w.abs().sum(1, keepdim=True), 8, 4),
    "divided by a log-sum-exp": (lambda w: w / w.logsumexp(1, keepdim=True), 8, 4),
    "weights by softmax": (lambda w: w.softmax(1), 8, 4),
    "weights by softplus": (F.softplus, 8, 4),
    "circulant weights": (lambda w: torch.stack([torch.roll(w[0], i) for i in range(8)]), 8, 1),
    "lower triangle": (torch.tril, 8, 8),
    "masked weights": (lambda w: w * (torch.arange(8) % 2), 8, 4),
}
OF_KERNELS: dict[str, tuple[Callable[[Any], Any], int]] = {
    # name: what a convolution computes of its kernel, its outputs
    "magnitude preserving convolution": (unit_rows, 8),
    "standardised weights": (
        lambda w: (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5), 8),
    "demodulated weights": (lambda w: w * torch.rsqrt((w**2).sum((1, 2, 3), keepdim=True) + 1e-8), 8),
    "binary weights": (torch.sign, 4),
}  # fmt: skip


def of_weight(compute: Callable[[Any], Any], cin: int, cout: int) -> Case:
    return of(VECTOR, lambda x, f: F.linear(x, compute(f.weight)), linear(cin, cout))


def of_kernel(compute: Callable[[Any], Any], cout: int) -> Case:
    return of(IMAGE, lambda x, f: F.conv2d(x, compute(f.weight), padding=1), conv(3, cout))


CASES |= {name: of_weight(*given) for name, given in OF_WEIGHTS.items()}
CASES |= {name: of_kernel(*given) for name, given in OF_KERNELS.items()}
CASES |= {
    "input convex": of(
        VECTOR, lambda x, f, g: F.relu(F.linear(F.relu(f(x)), g.weight.clamp(min=0)) + f(x)), linear(8, 8),
        linear(8, 8)),
    "skew exponential": case((5,), lambda: layers.by_property(5)),
    "kronecker": of(VECTOR, lambda x, f, g: F.linear(x, torch.kron(f.weight, g.weight)), linear(4, 2), linear(2, 2)),
    "quantisation-aware": case((2, 4, 4), lambda: layers.QatConvBn(2, 3, 3, padding=1)),
    "tied weights": of(VECTOR, lambda x, f: F.linear(F.relu(F.linear(x, f.weight)), f.weight.T), linear(8, 6)),
}  # fmt: skip


# -- normalisation ---------------------------------------------------------------------------------------------------
CASES |= {
    "unit length": of(VECTOR, lambda x: x / (x.norm(dim=1, keepdim=True) + 0.1)),
    "unit length, clamped": of(VECTOR, lambda x: x / x.norm(dim=1, keepdim=True).clamp(min=0.1)),
    "unit length, normalize": of(VECTOR, lambda x: F.normalize(x, dim=1, eps=0.1)),
    "sum of squares": of(VECTOR, lambda x: x / (x.square().sum(1, keepdim=True) + 0.01).sqrt()),
    "sum of products": of(VECTOR, lambda x: x * torch.rsqrt((x * x).sum(1, keepdim=True) + 0.01)),
    "root mean square": of(VECTOR, lambda x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 0.01)),
    "rms norm": case(VECTOR, lambda: nn.RMSNorm(8, eps=0.01)),
    "layer norm": case(VECTOR, lambda: nn.LayerNorm(8, eps=0.01)),
    "layer norm, then a layer": case(
        VECTOR, chain(linear(8, 8), lambda: nn.LayerNorm(8, eps=0.1), nn.ReLU, linear(8, 3))),
    "group norm": case(EVEN, chain(conv(4, 4), lambda: nn.GroupNorm(2, 4, eps=0.1), nn.ReLU)),
    "instance norm": case(EVEN, chain(conv(4, 4), lambda: nn.InstanceNorm2d(4, eps=0.1), nn.ReLU)),
    "convnext": of(
        EVEN, lambda x, a, b, c, d: x + d(F.gelu(c(b(a(x).permute(0, 2, 3, 1))))).permute(0, 3, 1, 2),
        conv(4, 4, 7, groups=4), lambda: nn.LayerNorm(4, eps=0.1), linear(4, 8), linear(8, 4)),
    "layer norm, written out": of(VECTOR, lambda x: (
        (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 0.1).sqrt())),
    "layer norm, as Flax has it": of(VECTOR, lambda x: (x - x.mean(1, keepdim=True)) * torch.rsqrt(
        (x.square().mean(1, keepdim=True) - x.mean(1, keepdim=True).square()).clamp(min=0) + 0.1)),
    "centre norm": of(VECTOR, lambda x: 8 / 7 * (x - x.mean(1, keepdim=True))),
    "euclidean length": of(VECTOR, lambda x: x.norm(dim=1)),
    "sum of magnitudes": of(VECTOR, lambda x: x.abs().sum(1)),
    "log-sum-exp": of(VECTOR, lambda x: x.logsumexp(1)),
    "log-sum-exp, written out": of(VECTOR, lambda x: x.exp().sum(1).log()),
    "softmax, written out": of(VECTOR, lambda x: (lambda y: y / y.sum(1, True))((x - x.amax(1, True)).exp())),
    "root of a sum of squares": of(VECTOR, lambda x: x.square().sum(1).sqrt()),
    "clipped by an inverse": of(VECTOR, lambda x: x * (2 / x.abs()).clamp(max=1)),
}  # fmt: skip


# -- functions of one value, splines ---------------------------------------------------------------------------------
class Spline(nn.Module):
    """A learned linear spline, with its look-ups as public code writes them."""

    def __init__(self, knots: int = 21, step: float = 0.1, slack: float = 1e-6) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.cumsum(torch.rand(knots) * step, 0))
        self.middle, self.step, self.slack = knots // 2, step, slack

    def forward(self, x: Any) -> Any:
        edge = self.middle * self.step - self.slack
        y = torch.clamp(x, -edge, edge) / self.step
        low = torch.floor(y)
        i = (low + self.middle).long()
        return self.values[i] * (1 - (y - low)) + self.values[i + 1] * (y - low)


class SplineOfKnots(Spline):
    """Clamped at its first knot and its last but one, and divided by the step; its ends go on, or stay."""

    def __init__(self, extrapolates: bool, step: float) -> None:
        super().__init__(7, step)
        self.extrapolates = extrapolates

    def forward(self, x: Any) -> Any:
        clamped = x.clamp(-self.middle * self.step, (self.middle - 1) * self.step)
        low = torch.floor(clamped / self.step)
        i = (low + self.middle).long()
        share = (x if self.extrapolates else clamped) / self.step - low
        return self.values[i + 1] * share + self.values[i] * (1 - share)


OF_ONE_VALUE: dict[str, Callable[[Any], Any]] = {
    "sigmoid, written out": lambda x: 1 / (1 + torch.exp(-x)),
    "tanh, by a logistic function": lambda x: 2 / (1 + torch.exp(-2 * x)) - 1,
    "logistic of twice": lambda x: 1 / (1 + torch.exp(-2 * x)),
    "mish, written out": lambda x: x * torch.tanh(torch.log(1 + torch.exp(x))),
    "swish of beta": lambda x: x * torch.sigmoid(1.5 * x), "soft threshold": lambda x: x.sign() * F.relu(x.abs() - 0.3),
    "soft sign of two": lambda x: 2 * x / (1 + x.abs()), "unit step, clamped": lambda x: 2 * x / x.abs().clamp(min=0.5),
    "sine": torch.sin, "sine of thirty": lambda x: torch.sin(30 * x),
    "snake": lambda x: x + torch.sin(2 * x).square() / 2, "gaussian": lambda x: torch.exp(-(x**2)),
    "huber gradient": lambda x: x / (1 + x**2).sqrt(), "arctangent": torch.atan,
    "shifted softplus, as SchNet has it": lambda x: torch.log(0.5 * x.exp() + 0.5),
    "soft clipping": lambda x: F.softplus(x) - F.softplus(x - 1), "square, refused": lambda x: x**2,
    "square on a range": lambda x: x.clamp(-1, 1) ** 2,
    "hat functions": lambda x: F.relu(1 - x.abs()) + 2 * F.relu(1 - (x - 1).abs()),
}  # fmt: skip
CASES |= {name: of(VECTOR, f) for name, f in OF_ONE_VALUE.items()}
CASES |= {
    "spline, clamped at knots": case((5,), lambda: SplineOfKnots(False, 0.5)),
    "spline, extrapolating": case((5,), lambda: SplineOfKnots(True, 0.5)),
    "spline": case((5,), Spline),
    "spline, seven knots": case((5,), lambda: Spline(7, 0.5)),
    "spline, between layers": case(VECTOR, chain(contraction(8, 8), Spline, contraction(8, 8))),
}


# -- linear maps of other forms --------------------------------------------------------------------------------------
ADJACENCY = [[float(abs(i - j) == 1) / 2 for i in range(5)] for j in range(5)]
BLUR = [[a * b / 16 for a in (1.0, 2.0, 1.0)] for b in (1.0, 2.0, 1.0)]
COSINES = [[math.cos(math.pi * (i + 0.5) * j / 8) * (0.5 if j else 0.125**0.5) for j in range(8)] for i in range(8)]
SENDERS, RECEIVERS = torch.tensor([[0, 1, 1, 2, 3, 4, 4], [1, 0, 2, 1, 4, 3, 0]])
PLACES = torch.tensor([0, 1, 1, 2, 0])
CASES |= {
    "einsum": of((4, 5), lambda x, f: torch.einsum("bij,jk->bik", x, f.weight), linear(6, 5)),
    "einsum over rows": of((4, 5), lambda x, f: torch.einsum("bij,ik->bkj", x, f.weight), linear(6, 4)),
    "cumulative sums": of(VECTOR, lambda x: x.cumsum(1)),
    "running means": of(VECTOR, lambda x: x.cumsum(1) / torch.arange(1, 9)),
    "index add": of((5, 3), lambda x: torch.zeros_like(x[:, :3]).index_add(1, PLACES, x)),
    "scatter add": of(
        (5,), lambda x: torch.zeros_like(x[:, :3]).scatter_add(1, PLACES[None].expand(x.shape[0], 5), x)),
    "graph convolution": of((5, 3), lambda x: torch.tensor(ADJACENCY) @ x),
    "message passing": of(
        (5, 3),
        lambda x: torch.zeros_like(x).index_add(1, torch.tensor([1, 2, 0, 4, 3]), x[:, torch.tensor([0, 1, 2, 3, 4])])),
    "message passing, added to the nodes": of((5, 3), lambda x: x.index_add(1, RECEIVERS, x[:, SENDERS])),
    "message passing network": of(
        (5, 3), lambda x, own, message: F.relu(own(x).index_add(1, RECEIVERS, message(x)[:, SENDERS])), linear(3, 4),
        linear(3, 4)),
    "cumulative sums from the end, of ReLU": of((4, 5), lambda x: F.relu(x).flip(2).cumsum(2).flip(2)),
    "embedding of an order": of(VECTOR, lambda x: x[:, torch.tensor([3, 1, 2, 0, 7, 6, 5, 4])]),
    "entries read twice": of(VECTOR, lambda x: x[:, torch.tensor([0, 0, 1, 2])]),
    "outer frame": of(EVEN, lambda x: F.pad(x[:, :, 1:-1, 1:-1], (1, 1, 1, 1))),
    "written in place": of(EVEN, lambda x: torch.cat([x[:, :1] * 2, x[:, 1:]], 1)),
    "masked": of(EVEN, lambda x: x * (torch.arange(8) % 2)),
    "chosen by a mask": of(EVEN, lambda x: torch.where(torch.arange(8) % 2 == 0, x, 0.5 * x)),
    "blur": of(EVEN, lambda x: F.conv2d(x, torch.tensor(BLUR).expand(4, 1, 3, 3), padding=1, groups=4)),
    "discrete cosines": of(VECTOR, lambda x: x @ torch.tensor(COSINES)),
    "upper triangle": of((4, 4), torch.triu),
    "transposed": of((4, 6), lambda x: x.transpose(1, 2)),
    "trace": of((4, 4), lambda x: x.diagonal(dim1=1, dim2=2).sum(1)),
}  # fmt: skip


# -- refused, or with a bound on a range alone -----------------------------------------------------------------------
class Attention(nn.Module):
    """Of Vaswani et al., one head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Any) -> Any:
        scores = torch.softmax(self.q(x) @ self.k(x).transpose(1, 2) / 2, 2)
        return scores @ self.v(x)


class Equilibrium(nn.Module):
    """Of Bai et al.: a fixed point, by a fixed number of steps."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.w, self.u = unit(nn.Linear(width, width)), unit(nn.Linear(width, width))

    def forward(self, x: Any) -> Any:
        z = torch.zeros_like(x)
        for _ in range(6):
            z = torch.tanh(0.5 * self.w(z) + self.u(x))
        return z


CASES |= {
    "attention, refused": case((4, 8), lambda: Attention(8)),
    "equilibrium": case(VECTOR, lambda: Equilibrium(8), *JOINT),
    "unrolled thresholding": of(
        VECTOR, lambda x, a, b: (lambda z: F.softshrink(a(x) + z - b(z), 0.1))(F.softshrink(a(x), 0.1)),
        contraction(8, 8), contraction(8, 8)),
    "gradient of a potential": of(
        VECTOR, lambda x, f: x - 0.4 * F.linear(torch.tanh(f(x)), f.weight.T), contraction(8, 8)),
    "neural ode, four steps": of(
        VECTOR, lambda x, f: (lambda s: s(s(s(s(x)))))(lambda y: y + 0.25 * torch.tanh(f(y))), contraction(8, 8)),
    "squeeze and excitation, refused": of(
        EVEN, lambda x, f: x * torch.sigmoid(f(x.mean((2, 3))))[:, :, None, None], linear(4, 4)),
    "bilinear, refused": of(VECTOR, lambda x, f: f(x, x), lambda: nn.Bilinear(8, 8, 3)),
    "gated, squashed": of(
        VECTOR, lambda x, f, g: torch.tanh(f(x)) * torch.sigmoid(g(x)), contraction(8, 8), contraction(8, 8)),
}  # fmt: skip


# -- files -----------------------------------------------------------------------------------------------------------
BRANCHED = DATA / "branched"
OF_FILES = {
    "unet, bilinear": "unet_bilinear_concat.onnx", "densenet, transition": "densenet_growth_4_x4_transition.onnx",
    "chambolle-pock, four steps": "chambolle-pock_tv_4.onnx", "echo state, ten steps": "echo_state_10.onnx",
    "glow, additive": "glow_1x1_additive.onnx",
}  # fmt: skip
CASES |= {name: Case(lambda: None, None, ("product", "converged")) for name in OF_FILES}


def build(name: str) -> Any:
    """Make a network from the seed of its name's letters."""
    if name in OF_FILES:
        return BRANCHED / OF_FILES[name]
    torch.manual_seed(sum(itertools.accumulate(map(ord, name))) % 2**31)
    return CASES[name].make().eval()


def bound(name: str, method: str) -> Any:
    """Bound a network; no clock cuts the search, so that each run has the same bound."""
    return network_bound(build(name), CASES[name].shape, method=METHODS[method], budget=None)
