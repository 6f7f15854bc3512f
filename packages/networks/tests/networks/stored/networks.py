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
from specnorm_networks import Multipliers, Product, Scaled, network_bound
from torch import nn

METHODS: dict[str, Any] = {
    "product": Product(),
    "scaled": Scaled(),
    "multipliers": Multipliers(steps=3),
    "converged": Multipliers(),
}
IMAGE = (3, 8, 8)
EVEN = (4, 8, 8)
VECTOR = (8,)


class Case(NamedTuple):
    """What makes a network, the shape of its input, and the methods whose bounds are kept."""

    make: Callable[[], Any]
    shape: tuple[int, ...] | None  # None: a file states it
    methods: tuple[str, ...] = ("product",)


CASES: dict[str, Case] = {}
EVERY = ("product", "scaled", "multipliers")


def case(name: str, shape: tuple[int, ...], make: Callable[[], nn.Module], *methods: str) -> None:
    """Keep a network."""
    assert name not in CASES
    CASES[name] = Case(make, shape, methods or ("product",))


def of(
    name: str, shape: tuple[int, ...], f: Callable[..., Any], *modules: Callable[[], nn.Module], methods: Any = ()
) -> None:
    """Keep a function of an input and of modules."""
    case(name, shape, lambda: Function(f, *(make() for make in modules)), *methods)


def conv(cin: int, cout: int, size: int = 3, **options: Any) -> Callable[[], nn.Module]:
    """Make a convolution that keeps sizes."""
    options = {"padding": size // 2} | options
    return lambda: nn.Conv2d(cin, cout, size, **options)


def linear(cin: int, cout: int) -> Callable[[], nn.Module]:
    return lambda: nn.Linear(cin, cout)


def chain(*makes: Any) -> Callable[[], nn.Module]:
    """Make modules one after the other; what is a module or a function of tensors stands for itself."""
    return lambda: nn.Sequential(*[_made(make) for make in makes])


def _made(make: Any) -> Any:
    if isinstance(make, type):
        return make()
    made = make if isinstance(make, nn.Module) else make()
    assert isinstance(made, nn.Module)
    return made


def trained(model: nn.Module) -> nn.Module:
    """Draw statistics that a training would leave."""
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.get_buffer("running_var").uniform_(0.3, 2)
            module.weight.data.uniform_(-1, 1)
            module.bias.data.normal_()
    return model


def unit_rows(weight: Any) -> Any:
    return weight / weight.flatten(1).norm(dim=1).reshape(-1, *(1,) * (weight.ndim - 1))


def orthogonal(width: int, other: int | None = None) -> nn.Module:
    layer = nn.Linear(width, other or width)
    nn.init.orthogonal_(layer.weight)
    return layer


def orthogonal_tap(width: int) -> nn.Module:
    """A convolution of one tap by an orthogonal matrix."""
    layer = nn.Conv2d(width, width, 1)
    nn.init.orthogonal_(layer.weight)
    return layer


# -- layers one after the other --------------------------------------------------------------------------------------
for _name, _function in {
    "relu": nn.ReLU,
    "leaky": lambda: nn.LeakyReLU(0.3),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "softplus": nn.Softplus,
    "hardswish": nn.Hardswish,
    "hardtanh": nn.Hardtanh,
    "selu": nn.SELU,
    "celu": lambda: nn.CELU(0.7),
    "prelu": nn.PReLU,
    "softsign": nn.Softsign,
    "softshrink": lambda: nn.Softshrink(0.3),
    "hardsigmoid": nn.Hardsigmoid,
    "logsigmoid": nn.LogSigmoid,
    "relu6": nn.ReLU6,
    "threshold": lambda: nn.Threshold(0.0, 0.0),
    "tanhshrink": nn.Tanhshrink,
    "hardshrink refused": lambda: nn.Hardshrink(0.3),
    "softmax": lambda: nn.Softmax(1),
    "logsoftmax": lambda: nn.LogSoftmax(1),
    "glu refused": lambda: nn.GLU(1),
}.items():
    _last = linear(8, 4) if _name == "glu refused" else linear(16, 4)
    case(f"mlp, {_name}", VECTOR, chain(linear(8, 16), _function, _last), *(EVERY if _name in ("relu", "tanh") else ()))
case("mlp, deep relu", VECTOR, chain(*[linear(8, 8), nn.ReLU()] * 5, linear(8, 2)), *EVERY)
case("mlp, double precision", VECTOR, lambda: chain(linear(8, 12), nn.ReLU, linear(12, 3))().double(), "multipliers")
case("mlp, abs", VECTOR, chain(linear(8, 8), lambda: Function(torch.abs), linear(8, 3)), *EVERY)
case("mlp, one output", VECTOR, chain(linear(8, 16), nn.ReLU, linear(16, 1)), *EVERY)
case("mlp, dropout", VECTOR, chain(linear(8, 16), nn.Dropout, nn.ReLU, linear(16, 3)))
case(
    "mlp, batch norm", VECTOR, lambda: trained(chain(linear(8, 9), lambda: nn.BatchNorm1d(9), nn.ReLU, linear(9, 3))())
)
case("mlp, weight norm", VECTOR, chain(lambda: nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)), nn.ReLU))
case("mlp, spectral norm", VECTOR, chain(lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)), nn.ReLU))
case("mlp, orthogonal", VECTOR, chain(lambda: nn.utils.parametrizations.orthogonal(nn.Linear(8, 8)), nn.ReLU))
of(
    "mlp, orthogonal and sorted pairs",
    VECTOR,
    lambda x, a, b: b(a(x).reshape(-1, 4, 2).sort(2).values.flatten(1)),
    lambda: orthogonal(8),
    lambda: orthogonal(8),
)
case("autoencoder", VECTOR, chain(linear(8, 3), nn.Tanh, linear(3, 8)), *EVERY)
case(
    "dqn",
    (4, 16, 16),
    chain(
        lambda: nn.Conv2d(4, 8, 8, 4),
        nn.ReLU,
        lambda: nn.Conv2d(8, 8, 2, 1),
        nn.ReLU,
        nn.Flatten,
        linear(32, 16),
        nn.ReLU,
        linear(16, 4),
    ),
    "product",
    "scaled",
)
case(
    "critic",
    IMAGE,
    chain(
        conv(3, 4, 4, stride=2, padding=1),
        lambda: nn.LeakyReLU(0.2),
        conv(4, 8, 4, stride=2, padding=1),
        lambda: nn.LeakyReLU(0.2),
        nn.Flatten,
        linear(32, 1),
    ),
    *EVERY,
)
case(
    "generator",
    (4, 2, 2),
    chain(lambda: nn.ConvTranspose2d(4, 4, 4, 2, 1), nn.ReLU, lambda: nn.ConvTranspose2d(4, 3, 4, 2, 1), nn.Tanh),
)
case("cnn", IMAGE, chain(conv(3, 8), nn.ReLU, conv(8, 8), nn.ReLU, nn.Flatten, linear(512, 4)))
case("cnn, multipliers", (2, 6, 6), chain(conv(2, 4), nn.ReLU, conv(4, 3), nn.ReLU, conv(3, 1)), *EVERY)
case("cnn, circular", IMAGE, chain(conv(3, 4, padding_mode="circular"), nn.ReLU, conv(4, 3, padding_mode="circular")))
case("cnn, reflect", IMAGE, chain(conv(3, 4, padding_mode="reflect"), nn.ReLU, conv(4, 3, padding_mode="replicate")))
case("cnn, dilated", IMAGE, chain(conv(3, 4, padding=2, dilation=2), nn.ReLU, conv(4, 3)))
case("cnn, strided", IMAGE, chain(conv(3, 4, stride=2), nn.ReLU, conv(4, 4, stride=2), nn.ReLU, conv(4, 2)))
case("cnn, grouped", EVEN, chain(conv(4, 8, groups=2), nn.ReLU, conv(8, 4, groups=4)))
case("cnn, depthwise separable", EVEN, chain(conv(4, 4, groups=4), nn.ReLU6, conv(4, 8, 1), nn.ReLU6))
case(
    "cnn, average pooling",
    IMAGE,
    chain(
        conv(3, 4),
        nn.ReLU,
        lambda: nn.AvgPool2d(2),
        conv(4, 4),
        nn.ReLU,
        lambda: nn.AdaptiveAvgPool2d(1),
        nn.Flatten,
        linear(4, 3),
    ),
    "product",
    "multipliers",
)
case("cnn, overlapping averages", IMAGE, chain(conv(3, 4), nn.ReLU, lambda: nn.AvgPool2d(3, 2, 1), conv(4, 4)))
case("cnn, max pooling", IMAGE, chain(conv(3, 4), nn.ReLU, lambda: nn.MaxPool2d(2), conv(4, 4)))
case("cnn, overlapping maxima", IMAGE, chain(conv(3, 4), nn.ReLU, lambda: nn.MaxPool2d(3, 2, 1), conv(4, 4)))
case(
    "cnn, batch norm",
    IMAGE,
    lambda: trained(chain(conv(3, 4), lambda: nn.BatchNorm2d(4), nn.ReLU, conv(4, 4), lambda: nn.BatchNorm2d(4))()),
)
case("cnn, frozen batch norm first", IMAGE, lambda: trained(chain(lambda: nn.BatchNorm2d(3), conv(3, 4), nn.ReLU)()))
case(
    "cnn, in one dimension", (3, 12), chain(lambda: nn.Conv1d(3, 4, 3, padding=1), nn.ReLU, lambda: nn.Conv1d(4, 2, 3))
)
case("cnn, in three", (2, 4, 4, 4), chain(lambda: nn.Conv3d(2, 3, 3, padding=1), nn.ReLU, lambda: nn.Conv3d(3, 2, 2)))
case("cnn, padded apart", IMAGE, chain(lambda: nn.ZeroPad2d((0, 1, 0, 1)), lambda: nn.Conv2d(3, 4, 3, 2), nn.ReLU))
case("cnn, mirrored apart", IMAGE, chain(lambda: nn.ReflectionPad2d(1), lambda: nn.Conv2d(3, 4, 3), nn.ReLU))
case("cnn, symmetric", (1, 5, 5), lambda: layers.SymmetricConv(1, 2, 5))
case("cnn, pixel shuffle", EVEN, chain(conv(4, 8), nn.ReLU, lambda: nn.PixelShuffle(2), conv(2, 3)))
case("cnn, pixel unshuffle", EVEN, chain(lambda: nn.PixelUnshuffle(2), conv(16, 4), nn.ReLU))
case("cnn, channel shuffle", EVEN, chain(conv(4, 4, groups=2), lambda: nn.ChannelShuffle(2), conv(4, 4, groups=2)))
case("cnn, nearest upsampling", EVEN, chain(lambda: nn.Upsample(scale_factor=2), conv(4, 2), nn.ReLU))
case("cnn, bilinear upsampling", EVEN, chain(lambda: nn.Upsample(scale_factor=2, mode="bilinear"), conv(4, 2)))
case("cnn, fold of patches", EVEN, chain(lambda: nn.Unfold(2, stride=2), lambda: nn.Fold((8, 8), 2, stride=2)))
of(
    "dncnn",
    (1, 8, 8),
    lambda x, f: x - f(x),
    chain(conv(1, 6), nn.ReLU, conv(6, 6), nn.ReLU, conv(6, 1)),
    methods=("product", "multipliers"),
)
of(
    "drunet-like",
    (2, 8, 8),
    lambda x, a, b, c, d: d(a(x) + c(F.relu(b(a(x))))),
    conv(2, 4),
    lambda: nn.Conv2d(4, 8, 2, 2),
    lambda: nn.ConvTranspose2d(8, 4, 2, 2),
    conv(4, 2),
)
of(
    "unet by concatenation",
    (2, 8, 8),
    lambda x, a, b, c, d: d(torch.cat([a(x), c(F.relu(b(F.max_pool2d(a(x), 2))))], 1)),
    conv(2, 4),
    conv(4, 8),
    lambda: nn.ConvTranspose2d(8, 4, 2, 2),
    conv(8, 2),
)


# -- branches --------------------------------------------------------------------------------------------------------
class Residual(nn.Module):
    """Of He et al.: two layers and a shortcut."""

    def __init__(self, width: int, scale: float = 1.0) -> None:
        super().__init__()
        self.one, self.two = conv(width, width)(), conv(width, width)()
        self.scale = scale

    def forward(self, x: Any) -> Any:
        return x + self.scale * self.two(F.relu(self.one(x)))


case("resnet", EVEN, chain(lambda: Residual(4), nn.ReLU, lambda: Residual(4)), "product", "multipliers")
case("resnet, scaled", EVEN, chain(lambda: Residual(4, 0.1), lambda: Residual(4, 0.1), lambda: Residual(4, 0.1)))
of("resnet, convex", VECTOR, lambda x, f: 0.3 * x + 0.7 * f(x), chain(linear(8, 8), nn.Tanh))
of(
    "resnet, with another shortcut",
    EVEN,
    lambda x, a, b, c: F.relu(c(x) + b(F.relu(a(x)))),
    conv(4, 8, stride=2),
    conv(8, 8),
    conv(4, 8, 1, stride=2),
    methods=("product", "multipliers"),
)
of(
    "resnet, option A",
    EVEN,
    lambda x, a, b: F.relu(F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)) + b(F.relu(a(x)))),
    conv(4, 8, stride=2),
    conv(8, 8),
)
case(
    "preactivated",
    EVEN,
    lambda: trained(
        Function(
            lambda x, a, b, c, d: x + d(F.relu(c(b(F.relu(a(x)))))),
            nn.BatchNorm2d(4),
            conv(4, 4)(),
            nn.BatchNorm2d(4),
            conv(4, 4)(),
        )
    ),
)
of(
    "convolutions in parallel",
    EVEN,
    lambda x, a, b, c: torch.cat([a(x), b(x), c(x)], 1),
    conv(4, 2, 1),
    conv(4, 2),
    conv(4, 2, 5),
)
of("repvgg", EVEN, lambda x, a, b: F.relu(a(x) + b(x) + x), conv(4, 4), conv(4, 4, 1))
of(
    "resnext",
    EVEN,
    lambda x, a, b, c: x + c(F.relu(b(F.relu(a(x))))),
    conv(4, 8, 1),
    conv(8, 8, groups=4),
    conv(8, 4, 1),
)
of(
    "mobile inverted",
    EVEN,
    lambda x, a, b, c: x + c(F.relu6(b(F.relu6(a(x))))),
    conv(4, 8, 1),
    conv(8, 8, groups=8),
    conv(8, 4, 1),
)
of(
    "shufflenet",
    EVEN,
    lambda x, f: torch.cat([x[:, :2], f(x[:, 2:])], 1).reshape(-1, 2, 2, 8, 8).transpose(1, 2).reshape(-1, 4, 8, 8),
    chain(conv(2, 2, 1), nn.ReLU, conv(2, 2, groups=2), conv(2, 2, 1)),
)
of("ghost", EVEN, lambda x, a, b: torch.cat([a(x), b(a(x))], 1), conv(4, 4, 1), conv(4, 4))
case(
    "split by four",
    EVEN,
    lambda: Function(
        lambda x, *f: torch.cat([g(part) for g, part in zip(f, x.chunk(4, 1), strict=True)], 1),
        *(conv(1, 1, n)() for n in (1, 3, 5, 7)),
    ),
)
of(
    "mixer",
    (6, 4),
    lambda x, a, b: (lambda y: y + b(y))(x + a(x.transpose(1, 2)).transpose(1, 2)),
    chain(linear(6, 6), nn.ReLU, linear(6, 6)),
    chain(linear(4, 4), nn.ReLU, linear(4, 4)),
)
case("lora", (6,), lambda: layers.LoraLinear(6, 4))
case("addmm", (2, 5), lambda: layers.AddmmLinear(5, 3))
case("over channels", (3, 4, 2), lambda: layers.ChannelsFirst(3, 4))
of(
    "coupled, additive",
    VECTOR,
    lambda x, f: torch.cat([x[:, :4], x[:, 4:] + f(x[:, :4])], 1),
    chain(linear(4, 4), nn.Tanh),
)
of(
    "gate of two paths, refused",
    VECTOR,
    lambda x, a, b: a(x) * b(x).sigmoid(),
    lambda: orthogonal(8),
    lambda: orthogonal(8),
)


class DenseBlock(nn.Module):
    """Of Huang et al.: each layer reads all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(4 + 2 * i, 2, 3, padding=1) for i in range(3))

    def forward(self, x: Any) -> Any:
        for layer in self.convs:
            x = torch.cat([x, F.relu(layer(x))], 1)
        return x


case("densenet", EVEN, DenseBlock, "product", "multipliers")


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


# Of too many units for a search of each: slices of channels pass weights on.
case("cross stage", (3, 32, 32), lambda: CrossStage(16, joins=True), "product", "multipliers")
case("half of the channels", (3, 32, 32), lambda: CrossStage(16, joins=False), "product", "multipliers")


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


def unit(layer: nn.Module) -> nn.Module:
    """Divide a layer by the norm of its matrix of channels, times the root of the taps."""
    weight = layer.get_parameter("weight")
    weight.data /= torch.linalg.matrix_norm(weight.data.flatten(1), 2) * math.sqrt(weight[0, 0].numel())
    return layer


case("i-densenet", EVEN, Concatenated)


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


case("revnet", VECTOR, lambda: Coupling(8), "product", "multipliers")
case("revnet, two blocks", VECTOR, chain(lambda: Coupling(8), lambda: Coupling(8)))
case("revnet, damped", VECTOR, chain(lambda: Coupling(8, 0.3), lambda: Coupling(8, 0.3)))
of(
    "coupling of halves",
    VECTOR,
    lambda x, f: torch.cat([x[:, :4] + torch.relu(f(x[:, 4:])), x[:, 4:]], 1),
    lambda: unit(nn.Linear(4, 4)),
)
of(
    "coupling of halves, swapped",
    VECTOR,
    lambda x, f: torch.cat([x[:, 4:], x[:, :4] + torch.relu(f(x[:, 4:]))], 1),
    lambda: unit(nn.Linear(4, 4)),
)
of("coupling of images", EVEN, lambda x, f: torch.cat([x[:, :2] + torch.relu(f(x[:, 2:])), x[:, 2:]], 1), conv(2, 2))
of(
    "coupling, three parts",
    (6,),
    lambda x, f, g: torch.cat([x[:, :2], x[:, 2:4] + f(x[:, :2]), x[:, 4:] + torch.tanh(g(x[:, 2:4]))], 1),
    lambda: unit(nn.Linear(2, 2)),
    lambda: unit(nn.Linear(2, 2)),
)


def shifted(x: Any) -> Any:
    """Move groups of channels by one pixel in turn, and leave the others, as a roll by nothing."""
    parts = x.chunk(4, 1)
    moves = [((1,), (2,)), ((-1,), (2,)), ((1,), (3,)), ((0,), (3,))]
    return torch.cat([torch.roll(part, by, axis) for part, (by, axis) in zip(parts, moves, strict=True)], 1)


class LipNeXt(nn.Module):
    """Of LipNeXt's kind: shifts, an orthogonal matrix, absolute values of half of the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = orthogonal_tap(width)

    def forward(self, x: Any) -> Any:
        y = self.mix(shifted(x))
        one, two = y.chunk(2, 1)
        return torch.cat([one.abs(), two], 1)


case("lipnext, one block", EVEN, lambda: LipNeXt(4))
case("lipnext, four blocks", EVEN, chain(*[lambda: LipNeXt(4)] * 4))
case(
    "lipnext, norm at the end",
    EVEN,
    chain(lambda: LipNeXt(4), lambda: LipNeXt(4), nn.Flatten, lambda: orthogonal(256, 5)),
)
of("roll by nothing", VECTOR, lambda x: torch.roll(x, 0, 1))
of("roll", EVEN, lambda x: torch.roll(x, (1, -1), (2, 3)))
of("concatenation with an empty part", VECTOR, lambda x: torch.cat([x[:, :0], x], 1))
of("concatenation with an empty end", EVEN, lambda x: torch.cat([x, x[:, :, 8:]], 2))
of("concatenation of halves, one through a function", VECTOR, lambda x: torch.cat([x[:, :4], x[:, 4:].relu()], 1))
of("parts of nothing and of all", EVEN, lambda x: torch.cat([x[:, :4].abs(), x[:, 4:], x[:, :0]], 1))
of("x - mean(x)", VECTOR, lambda x: x - x.mean(1, keepdim=True))
of("x - mean of pixels", EVEN, lambda x: x - x.mean((2, 3), keepdim=True))
of("haar", VECTOR, lambda x: torch.cat([(x[:, ::2] + x[:, 1::2]) / 2**0.5, (x[:, ::2] - x[:, 1::2]) / 2**0.5], 1))
of("space to depth", EVEN, lambda x: torch.cat([x[:, :, a::2, b::2] for a in (0, 1) for b in (0, 1)], 1))
of("differences", EVEN, lambda x: x[:, :, 1:] - x[:, :, :-1])
of(
    "total variation",
    EVEN,
    lambda x: torch.cat([(x[:, :, 1:] - x[:, :, :-1]).flatten(1), (x[..., 1:] - x[..., :-1]).flatten(1)], 1),
)
of("stack of two functions", VECTOR, lambda x: torch.stack([x.relu(), (-x).relu()], 2))
of("crelu", VECTOR, lambda x: torch.cat([x.relu(), (-x).relu()], 1))
of("relu and its complement", VECTOR, lambda x: torch.cat([x.relu(), x - x.relu()], 1))
of("flip and add", VECTOR, lambda x: (x + x.flip(1)) / 2)


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


case("recurrent, every step", (7, 3), Recurrent)
case("recurrent, last step", (7, 3), lambda: Recurrent(last=True))
case("recurrent, two steps", (2, 3), Recurrent)
of(
    "recurrent, one map a step",
    (7, 3),
    lambda x, f: torch.stack([torch.tanh(f(step)) for step in x.unbind(1)], 1),
    lambda: unit(nn.Linear(3, 4)),
)
of("torch's rnn", (5, 3), lambda x, f: f(x)[0], lambda: nn.RNN(3, 4, batch_first=True))
of(
    "weights of the past",
    (5, 3),
    lambda x, f: f(x[:, 0]) + 0.5 * f(x[:, 1]) + 0.25 * f(x[:, 2]),
    lambda: unit(nn.Linear(3, 4)),
)
of(
    "sum of disjoint maps",
    VECTOR,
    lambda x, f, g: f(x[:, :4]) + g(x[:, 4:]),
    lambda: unit(nn.Linear(4, 4)),
    lambda: unit(nn.Linear(4, 4)),
)
of("siamese difference", VECTOR, lambda x, f: f(x[:, :4]) - f(x[:, 4:]), chain(lambda: unit(nn.Linear(4, 4)), nn.ReLU))


# -- 1-Lipschitz layers ----------------------------------------------------------------------------------------------
def _sorted_halves(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.max(*x.chunk(2, 1)), torch.min(*x.chunk(2, 1))], 1)


of("maxmin, by halves", VECTOR, _sorted_halves)
of("maxmin, by halves of images", EVEN, _sorted_halves)
of(
    "maxmin, by pairs",
    VECTOR,
    lambda x: torch.cat([x.view(-1, 4, 2).amax(2, keepdim=True), x.view(-1, 4, 2).amin(2, keepdim=True)], 2).flatten(1),
)
of(
    "maxmin, strided",
    EVEN,
    lambda x: torch.cat([torch.max(x[:, 0::2], x[:, 1::2]), torch.min(x[:, 0::2], x[:, 1::2])], 1),
)
of(
    "maxmin, strided, of vectors",
    VECTOR,
    lambda x: torch.cat([torch.max(x[:, 0::2], x[:, 1::2]), torch.min(x[:, 0::2], x[:, 1::2])], 1),
)
of(
    "maxmin, strided, stacked",
    EVEN,
    lambda x: torch.stack([torch.max(x[:, 0::2], x[:, 1::2]), torch.min(x[:, 0::2], x[:, 1::2])], 2).flatten(1, 2),
)
of(
    "maxmin, along columns",
    EVEN,
    lambda x: torch.cat([torch.max(x[..., ::2], x[..., 1::2]), torch.min(x[..., ::2], x[..., 1::2])], 3),
)
of(
    "maxmin, halves of rows",
    EVEN,
    lambda x: torch.cat([torch.max(x[:, :, :4], x[:, :, 4:]), torch.min(x[:, :, :4], x[:, :, 4:])], 2),
)
of("maxmin, the other order", VECTOR, lambda x: torch.cat([torch.min(*x.chunk(2, 1)), torch.max(*x.chunk(2, 1))], 1))
of(
    "maxmin, by relu",
    VECTOR,
    lambda x: (lambda a, b: torch.cat([a + (b - a).relu(), b - (b - a).relu()], 1))(*x.chunk(2, 1)),
)
of(
    "maxmin, by relu, strided, between layers",
    VECTOR,
    lambda x, first, last: last(
        (lambda a, b: torch.stack([b + (a - b).relu(), a - (a - b).relu()], 2).flatten(1))(
            first(x)[:, ::2], first(x)[:, 1::2]
        )
    ),
    linear(8, 6),
    linear(6, 4),
)


def _sorted_apart(x: torch.Tensor) -> torch.Tensor:
    """Of Anil et al., and of Li et al.'s BCOP."""
    pairs = x.view(-1, 4, 2)
    return torch.cat([pairs.max(2)[0], pairs.min(2)[0]], 1)


_apart, _neighbours = (
    partial(Function, _sorted_apart),
    partial(Function, lambda x: x.view(-1, 4, 2).sort(2)[0].flatten(1)),
)
case("maxmin, apart", VECTOR, chain(linear(8, 8), _apart, linear(8, 8), _apart, linear(8, 3)), "product", "scaled")
case("sorted pairs", VECTOR, chain(linear(8, 8), _neighbours, linear(8, 8), _neighbours, linear(8, 3)), "scaled")
of("maxout, by relu", VECTOR, lambda x: x[:, 4:] + F.relu(x[:, :4] - x[:, 4:]))
_sorted = partial(Function, _sorted_halves)
# Of too many units for a search of each: its channels have weights.
case(
    "maxmin, convolutions", (3, 16, 16), chain(conv(3, 16), _sorted, conv(16, 16), _sorted, conv(16, 4)), "multipliers"
)
of("groupsort of four", VECTOR, lambda x: x.view(-1, 2, 4).sort(2).values.flatten(1))
of("groupsort of four, images", (8, 4, 4), lambda x: x.view(-1, 2, 4, 4, 4).sort(2).values.flatten(1, 2))
of("full sort", VECTOR, lambda x: x.sort(1).values)
of("top two", VECTOR, lambda x: x.topk(2, 1).values)
of("full sort, descending", VECTOR, lambda x: x.sort(1, descending=True).values)
of("absolute values", EVEN, torch.abs)
of("largest of each", EVEN, lambda x: x.amax((2, 3)))


def householder(x: Any, theta: Any) -> Any:
    """Of Singla et al.: a reflection on one side of a line."""
    one, two = x.chunk(2, 1)
    chosen = torch.sin(theta / 2) * one - torch.cos(theta / 2) * two <= 0
    turned = torch.cos(theta) * one + torch.sin(theta) * two, torch.sin(theta) * one - torch.cos(theta) * two
    return torch.cat([torch.where(chosen, one, turned[0]), torch.where(chosen, two, turned[1])], 1)


of("householder activation", EVEN, lambda x: householder(x, torch.linspace(0.4, 2, 2).reshape(-1, 1, 1)))


def householder_by_gates(x: Any) -> Any:
    """As Singla et al. publish it."""
    one, two = x.chunk(2, 1)
    s = 0.5 * one - two
    first = one * (s <= 0) + (0.6 * one + 0.8 * two) * (s > 0)
    return torch.cat([first, two * (s <= 0) + (0.8 * one - 0.6 * two) * (s > 0)], 1)


of("householder activation, by gates", VECTOR, householder_by_gates)


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


case("sll", VECTOR, chain(lambda: SLL(8, 6), lambda: SLL(8, 10)), "product", "multipliers")
case("sll, convolutions", EVEN, chain(lambda: ConvSLL(4, 3), lambda: ConvSLL(4, 5)))
case("sll, raw", (5,), lambda: layers.Sll(5))
case("cpl", VECTOR, chain(lambda: CPL(8, 6), lambda: CPL(8, 10)), "product", "multipliers")
case("cpl, convolutions", EVEN, chain(lambda: ConvCPL(4, 3), lambda: ConvCPL(4, 5)))
case("aol", VECTOR, chain(lambda: AOL(8, 8), nn.ReLU, lambda: AOL(8, 4)))
case("aol, convolutions", EVEN, chain(lambda: ConvAOL(4, 6), nn.ReLU, lambda: ConvAOL(6, 4)))
case("sandwich, dense", VECTOR, lambda: Sandwich(8), "product", "multipliers")
case("bjorck", (5,), lambda: layers.BjorckLinear(5))
case("cayley", EVEN, lambda: fourier.Cayley(4, 4, 3))
case("cayley, wider", EVEN, lambda: fourier.Cayley(4, 6, 3))
case("lot", EVEN, lambda: fourier.Lot(4, 4, 3))
case("eco", (4, 9, 9), lambda: fourier.Eco(4, 4, 3))
case("sandwich, fourier", EVEN, lambda: fourier.Sandwich(4, 4, 3))
case("real part of a transform", EVEN, lambda: fourier.Real(4, 4, 3))
of("fourier filter", EVEN, lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * 0.5, (8, 8)))
of("low pass", EVEN, lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * (torch.arange(5) < 3), (8, 8)))
of("orthogonal, shifted", VECTOR, lambda x, f: torch.roll(f(x), 1, 1), lambda: orthogonal(8))


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
for _name, (_of_weight, *_sizes) in OF_WEIGHTS.items():
    of(_name, VECTOR, lambda x, f, of_weight=_of_weight: F.linear(x, of_weight(f.weight)), linear(*_sizes))
OF_KERNELS: dict[str, tuple[Callable[[Any], Any], int]] = {
    # name: what a convolution computes of its kernel, its outputs
    "magnitude preserving convolution": (unit_rows, 8),
    "standardised weights": (
        lambda w: (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5),
        8,
    ),
    "demodulated weights": (lambda w: w * torch.rsqrt((w**2).sum((1, 2, 3), keepdim=True) + 1e-8), 8),
    "binary weights": (torch.sign, 4),
}
for _name, (_of_weight, _outputs) in OF_KERNELS.items():
    of(
        _name,
        IMAGE,
        lambda x, f, of_weight=_of_weight: F.conv2d(x, of_weight(f.weight), padding=1),
        conv(3, _outputs, padding=0),
    )
of(
    "input convex",
    VECTOR,
    lambda x, f, g: F.relu(F.linear(F.relu(f(x)), g.weight.clamp(min=0)) + f(x)),
    linear(8, 8),
    linear(8, 8),
)
case("skew exponential", (5,), lambda: layers.by_property(5))
of("kronecker", VECTOR, lambda x, f, g: F.linear(x, torch.kron(f.weight, g.weight)), linear(4, 2), linear(2, 2))
case("quantisation-aware", (2, 4, 4), lambda: layers.QatConvBn(2, 3, 3, padding=1))
of("tied weights", VECTOR, lambda x, f: F.linear(F.relu(F.linear(x, f.weight)), f.weight.T), linear(8, 6))


# -- normalisation ---------------------------------------------------------------------------------------------------
of("unit length", VECTOR, lambda x: x / (x.norm(dim=1, keepdim=True) + 0.1))
of("unit length, clamped", VECTOR, lambda x: x / x.norm(dim=1, keepdim=True).clamp(min=0.1))
of("unit length, normalize", VECTOR, lambda x: F.normalize(x, dim=1, eps=0.1))
of("sum of squares", VECTOR, lambda x: x / (x.square().sum(1, keepdim=True) + 0.01).sqrt())
of("sum of products", VECTOR, lambda x: x * torch.rsqrt((x * x).sum(1, keepdim=True) + 0.01))
of("root mean square", VECTOR, lambda x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 0.01))
case("rms norm", VECTOR, lambda: nn.RMSNorm(8, eps=0.01))
case("layer norm", VECTOR, lambda: nn.LayerNorm(8, eps=0.01))
case("layer norm, then a layer", VECTOR, chain(linear(8, 8), lambda: nn.LayerNorm(8, eps=0.1), nn.ReLU, linear(8, 3)))
case("group norm", EVEN, chain(conv(4, 4), lambda: nn.GroupNorm(2, 4, eps=0.1), nn.ReLU))
case("instance norm", EVEN, chain(conv(4, 4), lambda: nn.InstanceNorm2d(4, eps=0.1), nn.ReLU))
of(
    "convnext",
    EVEN,
    lambda x, a, b, c, d: x + d(F.gelu(c(b(a(x).permute(0, 2, 3, 1))))).permute(0, 3, 1, 2),
    conv(4, 4, 7, groups=4),
    lambda: nn.LayerNorm(4, eps=0.1),
    linear(4, 8),
    linear(8, 4),
)
of(
    "layer norm, written out",
    VECTOR,
    lambda x: (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 0.1).sqrt(),
)
of(
    "layer norm, as Flax has it",
    VECTOR,
    lambda x: (
        (x - x.mean(1, keepdim=True))
        * torch.rsqrt((x.square().mean(1, keepdim=True) - x.mean(1, keepdim=True).square()).clamp(min=0) + 0.1)
    ),
)
of("centre norm", VECTOR, lambda x: 8 / 7 * (x - x.mean(1, keepdim=True)))
of("euclidean length", VECTOR, lambda x: x.norm(dim=1))
of("sum of magnitudes", VECTOR, lambda x: x.abs().sum(1))
of("log-sum-exp", VECTOR, lambda x: x.logsumexp(1))
of("log-sum-exp, written out", VECTOR, lambda x: x.exp().sum(1).log())
of("softmax, written out", VECTOR, lambda x: (lambda y: y / y.sum(1, True))((x - x.amax(1, True)).exp()))
of("root of a sum of squares", VECTOR, lambda x: x.square().sum(1).sqrt())
of("clipped by an inverse", VECTOR, lambda x: x * (2 / x.abs()).clamp(max=1))


# -- functions of one value, splines ---------------------------------------------------------------------------------
of("sigmoid, written out", VECTOR, lambda x: 1 / (1 + torch.exp(-x)))
of("tanh, by a logistic function", VECTOR, lambda x: 2 / (1 + torch.exp(-2 * x)) - 1)
of("logistic of twice", VECTOR, lambda x: 1 / (1 + torch.exp(-2 * x)))
of("mish, written out", VECTOR, lambda x: x * torch.tanh(torch.log(1 + torch.exp(x))))
of("swish of beta", VECTOR, lambda x: x * torch.sigmoid(1.5 * x))
of("soft threshold", VECTOR, lambda x: x.sign() * F.relu(x.abs() - 0.3))
of("soft sign of two", VECTOR, lambda x: 2 * x / (1 + x.abs()))
of("unit step, clamped", VECTOR, lambda x: 2 * x / x.abs().clamp(min=0.5))
of("sine", VECTOR, torch.sin)
of("sine of thirty", VECTOR, lambda x: torch.sin(30 * x))
of("snake", VECTOR, lambda x: x + torch.sin(2 * x).square() / 2)
of("gaussian", VECTOR, lambda x: torch.exp(-(x**2)))
of("huber gradient", VECTOR, lambda x: x / (1 + x**2).sqrt())
of("arctangent", VECTOR, torch.atan)
of("shifted softplus, as SchNet has it", VECTOR, lambda x: torch.log(0.5 * x.exp() + 0.5))
of("soft clipping", VECTOR, lambda x: F.softplus(x) - F.softplus(x - 1))
of("square, refused", VECTOR, lambda x: x**2)
of("square on a range", VECTOR, lambda x: x.clamp(-1, 1) ** 2)
of("hat functions", VECTOR, lambda x: F.relu(1 - x.abs()) + 2 * F.relu(1 - (x - 1).abs()))


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


case("spline, clamped at knots", (5,), lambda: SplineOfKnots(False, 0.5))
case("spline, extrapolating", (5,), lambda: SplineOfKnots(True, 0.5))
case("spline", (5,), Spline)
case("spline, seven knots", (5,), lambda: Spline(7, 0.5))
case("spline, between layers", VECTOR, chain(lambda: unit(nn.Linear(8, 8)), Spline, lambda: unit(nn.Linear(8, 8))))

# -- linear maps of other forms --------------------------------------------------------------------------------------
ADJACENCY = [[float(abs(i - j) == 1) / 2 for i in range(5)] for j in range(5)]
BLUR = [[a * b / 16 for a in (1.0, 2.0, 1.0)] for b in (1.0, 2.0, 1.0)]
COSINES = [[math.cos(math.pi * (i + 0.5) * j / 8) * (0.5 if j else 0.125**0.5) for j in range(8)] for i in range(8)]
of("einsum", (4, 5), lambda x, f: torch.einsum("bij,jk->bik", x, f.weight), linear(6, 5))
of("einsum over rows", (4, 5), lambda x, f: torch.einsum("bij,ik->bkj", x, f.weight), linear(6, 4))
of("cumulative sums", VECTOR, lambda x: x.cumsum(1))
of("running means", VECTOR, lambda x: x.cumsum(1) / torch.arange(1, 9))
of("index add", (5, 3), lambda x: torch.zeros_like(x[:, :3]).index_add(1, torch.tensor([0, 1, 1, 2, 0]), x))
of(
    "scatter add",
    (5,),
    lambda x: torch.zeros_like(x[:, :3]).scatter_add(1, torch.tensor([[0, 1, 1, 2, 0]]).expand(x.shape[0], 5), x),
)
of("graph convolution", (5, 3), lambda x: torch.tensor(ADJACENCY) @ x)
of(
    "message passing",
    (5, 3),
    lambda x: torch.zeros_like(x).index_add(1, torch.tensor([1, 2, 0, 4, 3]), x[:, torch.tensor([0, 1, 2, 3, 4])]),
)
SENDERS, RECEIVERS = torch.tensor([[0, 1, 1, 2, 3, 4, 4], [1, 0, 2, 1, 4, 3, 0]])
of("message passing, added to the nodes", (5, 3), lambda x: x.index_add(1, RECEIVERS, x[:, SENDERS]))
of(
    "message passing network",
    (5, 3),
    lambda x, own, message: F.relu(own(x).index_add(1, RECEIVERS, message(x)[:, SENDERS])),
    linear(3, 4),
    linear(3, 4),
)
of("cumulative sums from the end, of ReLU", (4, 5), lambda x: F.relu(x).flip(2).cumsum(2).flip(2))
of("embedding of an order", VECTOR, lambda x: x[:, torch.tensor([3, 1, 2, 0, 7, 6, 5, 4])])
of("entries read twice", VECTOR, lambda x: x[:, torch.tensor([0, 0, 1, 2])])
of("outer frame", EVEN, lambda x: F.pad(x[:, :, 1:-1, 1:-1], (1, 1, 1, 1)))
of("written in place", EVEN, lambda x: torch.cat([x[:, :1] * 2, x[:, 1:]], 1))
of("masked", EVEN, lambda x: x * (torch.arange(8) % 2))
of("chosen by a mask", EVEN, lambda x: torch.where(torch.arange(8) % 2 == 0, x, 0.5 * x))
of("blur", EVEN, lambda x: F.conv2d(x, torch.tensor(BLUR).expand(4, 1, 3, 3), padding=1, groups=4))
of("discrete cosines", VECTOR, lambda x: x @ torch.tensor(COSINES))
of("upper triangle", (4, 4), torch.triu)
of("transposed", (4, 6), lambda x: x.transpose(1, 2))
of("trace", (4, 4), lambda x: x.diagonal(dim1=1, dim2=2).sum(1))


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


case("attention, refused", (4, 8), lambda: Attention(8))
case("equilibrium", VECTOR, lambda: Equilibrium(8), "product", "multipliers")
of(
    "unrolled thresholding",
    VECTOR,
    lambda x, a, b: (lambda z: F.softshrink(a(x) + z - b(z), 0.1))(F.softshrink(a(x), 0.1)),
    lambda: unit(nn.Linear(8, 8)),
    lambda: unit(nn.Linear(8, 8)),
)
of(
    "gradient of a potential",
    VECTOR,
    lambda x, f: x - 0.4 * F.linear(torch.tanh(f(x)), f.weight.T),
    lambda: unit(nn.Linear(8, 8)),
)
of(
    "neural ode, four steps",
    VECTOR,
    lambda x, f: (lambda s: s(s(s(s(x)))))(lambda y: y + 0.25 * torch.tanh(f(y))),
    lambda: unit(nn.Linear(8, 8)),
)
of(
    "squeeze and excitation, refused",
    EVEN,
    lambda x, f: x * torch.sigmoid(f(x.mean((2, 3))))[:, :, None, None],
    linear(4, 4),
)
of("bilinear, refused", VECTOR, lambda x, f: f(x, x), lambda: nn.Bilinear(8, 8, 3))
of(
    "gated, squashed",
    VECTOR,
    lambda x, f, g: torch.tanh(f(x)) * torch.sigmoid(g(x)),
    lambda: unit(nn.Linear(8, 8)),
    lambda: unit(nn.Linear(8, 8)),
)


# -- files -----------------------------------------------------------------------------------------------------------
BRANCHED = DATA / "branched"
OF_FILES = {
    "unet, bilinear": "unet_bilinear_concat.onnx",
    "densenet, transition": "densenet_growth_4_x4_transition.onnx",
    "chambolle-pock, four steps": "chambolle-pock_tv_4.onnx",
    "echo state, ten steps": "echo_state_10.onnx",
    "glow, additive": "glow_1x1_additive.onnx",
}
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
