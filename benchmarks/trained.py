"""Networks that are trained with a constraint."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv(inputs: int, outputs: int, size: int = 3, **options: Any) -> nn.Conv2d:
    """Return a convolution that keeps the number of pixels, up to its stride."""
    return nn.Conv2d(inputs, outputs, size, **{"padding": (size - 1) // 2} | options)


class Block(nn.Module):
    """Two convolutions with batch normalisation, and a shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        first = conv(inputs, outputs, stride=stride, bias=False)
        second = conv(outputs, outputs, bias=False)
        self.body = nn.Sequential(first, nn.BatchNorm2d(outputs), nn.ReLU(), second, nn.BatchNorm2d(outputs))
        self.shortcut = nn.Identity() if stride == 1 else conv(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def resnet20() -> nn.Sequential:
    """ResNet-20 for images of 32x32 and smaller ones."""
    widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
    blocks = [Block(inputs, outputs) for inputs, outputs in itertools.pairwise(widths)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10)]
    return nn.Sequential(conv(3, 16, bias=False), nn.BatchNorm2d(16), nn.ReLU(), *blocks, *head)


def leaky() -> nn.Module:
    return nn.LeakyReLU(0.2)


def strided(*widths: int, **options: Any) -> list[nn.Module]:
    """Convolutions of 4x4 taps and stride 2, each with a leaky ReLU."""
    pairs = itertools.pairwise(widths)
    return [x for a, b in pairs for x in (conv(a, b, 4, stride=2, **options), leaky())]


def critic_of_images() -> nn.Sequential:
    """The critic of a DCGAN for images of 64x64."""
    return nn.Sequential(*strided(3, 64, 128, 256, 512, bias=False), nn.Conv2d(512, 1, 4, bias=False))


class UNet(nn.Module):
    """Two scales of 16 and 32 channels with a shortcut, for images whose size it keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = conv(3, 16), conv(32, 3)
        self.down, self.middle = conv(16, 32, stride=2), conv(32, 32)
        self.up = nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.into(x))
        second = F.relu(self.middle(F.relu(self.down(first))))
        result: Tensor = self.out(torch.cat([first, F.relu(self.up(second))], 1))
        return result


class Transformer(nn.Module):
    """A stem of two strided convolutions, and one block of attention of four heads and a perceptron, for 3x16x16."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 32, stride=2), nn.ReLU(), conv(32, 64, stride=2))
        self.norms = nn.ModuleList(nn.LayerNorm(64) for _ in range(2))
        self.query, self.key, self.value, self.out = (nn.Linear(64, 64) for _ in range(4))
        self.perceptron = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        normed = self.norms[0](tokens)
        heads = [layer(normed).unflatten(-1, (4, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)]
        attended = F.scaled_dot_product_attention(*heads)
        tokens = tokens + self.out(attended.transpose(1, 2).flatten(2))
        tokens = tokens + self.perceptron(self.norms[1](tokens))
        result: Tensor = self.head(tokens.mean(1))
        return result
