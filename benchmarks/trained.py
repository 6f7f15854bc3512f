"""Networks that are trained with a constraint, with the inputs of a training step."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Network:
    """A network, and the shape of one input."""

    make: Callable[[], nn.Module]
    input_shape: tuple[int, ...]


class Block(nn.Module):
    """Two convolutions with batch normalisation, and a shortcut."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        first = nn.Conv2d(cin, cout, 3, stride=stride, padding=1, bias=False)
        second = nn.Conv2d(cout, cout, 3, padding=1, bias=False)
        self.body = nn.Sequential(first, nn.BatchNorm2d(cout), nn.ReLU(), second, nn.BatchNorm2d(cout))
        plain = stride == 1 and cin == cout
        self.shortcut = nn.Identity() if plain else nn.Conv2d(cin, cout, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def _resnet(widths: list[int]) -> nn.Sequential:
    """A residual network for images of 32x32, with one block for each width but the first."""
    blocks = [Block(cin, cout, 1 if cin == cout else 2) for cin, cout in itertools.pairwise(widths)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10)]
    stem = [nn.Conv2d(3, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, *head)


def resnet20() -> nn.Sequential:
    return _resnet([16, 16, 16, 16, 32, 32, 32, 64, 64, 64])


def resnet18() -> nn.Sequential:
    return _resnet([64, 64, 64, 128, 128, 256, 256, 512, 512])


def critic_of_points() -> nn.Sequential:
    return nn.Sequential(nn.Linear(32, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 1))


def critic_of_images() -> nn.Sequential:
    """The critic of a DCGAN for images of 64x64."""
    widths = [3, 64, 128, 256, 512]
    pairs = itertools.pairwise(widths)
    body = [x for a, b in pairs for x in (nn.Conv2d(a, b, 4, stride=2, padding=1, bias=False), nn.LeakyReLU(0.2))]
    return nn.Sequential(*body, nn.Conv2d(widths[-1], 1, 4, bias=False))


MODELS = {
    "MLP critic, 32-256-256-1": Network(critic_of_points, (32,)),
    "DCGAN critic, 64x64": Network(critic_of_images, (3, 64, 64)),
    "ResNet-20": Network(resnet20, (3, 32, 32)),
    "ResNet-18's widths": Network(resnet18, (3, 32, 32)),
}
