"""Published networks as torch modules in float32, as users load them."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from helpers import DOCS
from helpers.real_weights import real_file
from torch import Tensor, nn

RESNET20 = DOCS / "examples" / "resnet20" / "resnet20.safetensors"


class Block(nn.Module):
    """Two convolutions and a shortcut of option A: every second pixel, zeros as further channels."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.more = (out - channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more, self.more)) if self.more else x))


class ResNet20(nn.Module):
    """Of He et al. 2016, for CIFAR-10."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(Block(a, b, b // a), Block(b, b, 1), Block(b, b, 1))
            for a, b in ((16, 16), (16, 32), (32, 64))
        )
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        y: Tensor = self.linear(F.avg_pool2d(x, x.shape[3]).flatten(1))
        return y


def resnet20() -> nn.Module:
    from safetensors.torch import load_file

    model = ResNet20()
    weights = {name.removeprefix("module."): value for name, value in load_file(RESNET20).items()}
    model.load_state_dict(weights, strict=False)
    return model.eval()


class Denoiser(nn.Module):
    """The image without what DnCNN's 17 convolutions call noise."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise((1, *(64,) * 16, 1))]
        self.noise = nn.Sequential(*[it for layer in layers for it in (layer, nn.ReLU())][:-1])
        state = torch.load(real_file("dncnn25"), weights_only=True)
        self.noise.load_state_dict(dict(zip(self.noise.state_dict(), state.values(), strict=True)))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x - self.noise(x)
        return y


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet20": (resnet20, (3, 32, 32)),
    "x - dncnn25": (lambda: Denoiser().eval(), (1, 40, 40)),
}
"""What builds one, and the shape of an input."""
