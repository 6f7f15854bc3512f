"""Published networks as torch modules in float32, as users load them, graphs, and what inputs reach from below."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from real_weights import real_file
from specnorm_networks import Graph, Multipliers, network_graph
from specnorm_networks.onnx import read
from specnorm_torch import rescale_, spectral_norm
from torch import Tensor, nn

TESTS = Path(__file__).parents[1]
RESNET20 = TESTS.parent / "docs" / "examples" / "resnet20" / "resnet20.safetensors"


@dataclass(frozen=True)
class Network:
    """What is measured of a network: the shape of one input, the module or a function in float64, its graph where it is
    not the module's, the third method, and the steps of the ascent.
    """

    shape: tuple[int, ...]
    build: Callable[[], Callable[[Tensor], Tensor]]
    graph: Callable[[], Graph] | None = None
    best: Multipliers = field(default_factory=Multipliers)
    steps: int = 100

    def made(self) -> tuple[Callable[[Tensor], Tensor], Graph]:
        """The function in float64, for what is reached, and the graph of the module as it is."""
        function = self.build()
        if self.graph is not None:
            return function, self.graph()
        assert isinstance(function, nn.Module)
        return copy.deepcopy(function).double(), network_graph(function, self.shape)


class Block(nn.Module):
    """Two convolutions and a shortcut of option A: every second pixel, zeros as further channels."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.more = (out - channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more, self.more)) if self.more else x))


class ResNet20(nn.Module):
    """Of He et al. 2016, for CIFAR-10."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
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
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    return model.eval()


def chain(*widths: int, change: Callable[[nn.Conv2d], nn.Module] = lambda layer: layer) -> nn.Sequential:
    every = [change(nn.Conv2d(a, b, 3, padding=1)) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*[it for layer in every for it in (layer, nn.ReLU())][:-1])


def dncnn25() -> nn.Module:
    """17 convolutions: noise of an image with noise."""
    model = chain(1, *(64,) * 16, 1)
    state = torch.load(real_file("dncnn25"), weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), state.values(), strict=True)))
    return model.eval()


class Denoiser(nn.Module):
    """The image without what the network calls noise."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = dncnn25()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x - self.noise(x)
        return y


def three() -> nn.Module:
    """The chain of docs/networks.md."""
    model = chain(1, 8, 8, 1)
    for at, (weight, bias) in enumerate(zip(*[iter(model.parameters())] * 2, strict=True)):
        weight.data.copy_(torch.sin(torch.arange(weight.numel()) ** 2 + at).reshape(weight.shape))
        bias.data.zero_()
    return model.eval()


def constrained() -> nn.Module:
    """Eight convolutions of 16 channels, each kept at norm 1 while they learn to take noise from a photograph."""
    torch.manual_seed(0)
    model = chain(1, *(16,) * 7, 1, change=spectral_norm)
    (image, _) = inputs((1, 160, 160))
    adam = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(400):
        corners = torch.randint(0, 160 - 24, (16, 2)).tolist()
        clean = torch.cat([image[:, :, i : i + 24, j : j + 24] for i, j in corners]).float()
        adam.zero_grad()
        (model(clean + 0.2 * torch.randn_like(clean)) - clean).square().mean().backward()
        adam.step()
    rescale_(model, 1.0)
    return model.eval()


def rfb320() -> Callable[[Tensor], Tensor]:
    import onnx
    from onnx_in_torch import run_onnx

    return functools.partial(run_onnx, onnx.load(str(real_file("rfb320"))), dtype=torch.float64)


def rfb320_graph() -> Graph:
    path = real_file("rfb320")
    with path.open("rb") as file:
        return read(file, str(path), 2**30).graph(None)


NETWORKS = {
    "three": Network((1, 16, 16), three),
    "constrained": Network((1, 40, 40), constrained),
    "resnet20": Network((3, 32, 32), resnet20),
    "dncnn25": Network((1, 40, 40), dncnn25),
    "x - dncnn25": Network((1, 40, 40), Denoiser),
    "rfb320": Network((3, 240, 320), rfb320, rfb320_graph, Multipliers(steps=40, seconds=5, widest=64), 40),
}


def inputs(shape: tuple[int, ...]) -> list[Any]:
    """A photograph, every few pixels of it, and noise: (1, *shape) each, about 1 large."""
    channels, height, width = shape
    with np.load(TESTS / "data" / "photograph" / "photograph.npz") as file:
        pixels = torch.tensor(file["rgb"], dtype=torch.float64).permute(2, 0, 1)[None]
    small = F.interpolate(pixels[:, :channels], (height, width), mode="area")
    noise = torch.randn((1, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return [(small - 127) / 128, noise]


POWERS = 30


def reached(function: Callable[[Tensor], Tensor], shape: tuple[int, ...], steps: int) -> dict[str, Any]:
    """The largest |f(x + d) - f(x)| / |d| found from a photograph and from noise, by Adam, and the first ones.

    Then power iterations on the Jacobian there. In float64; what rounds there is not counted.
    """
    begun: list[float] = []
    best = 0.0
    for start in inputs(shape):
        begun.append(stretched(function, start))
        x, value = ascent(function, start, steps)
        best = max(best, begun[-1], value, stretched(function, x))
    return {"value": best, "begun": begun, "steps": steps, "powers": POWERS}


def ascent(function: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> tuple[Tensor, float]:
    """The best point seen, and its ratio."""
    x = start.clone().requires_grad_()
    noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(1), dtype=start.dtype)
    d = (0.1 * noise).requires_grad_()
    adam = torch.optim.Adam([x, d], lr=0.02)
    best, at = 0.0, start
    for _ in range(steps):
        ratio = (function(x + d) - function(x)).norm() / d.norm()
        if float(ratio.detach()) > best:
            best, at = float(ratio.detach()), x.detach().clone()
        adam.zero_grad()
        (-ratio.log()).backward()
        adam.step()
    return at, best


def stretched(function: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Norm of the Jacobian at a point, from below."""
    given = x.clone().requires_grad_()
    y = function(given)
    dummy = torch.zeros_like(y, requires_grad=True)
    (back,) = torch.autograd.grad(y, given, dummy, create_graph=True)
    v = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    value = 0.0
    for _ in range(POWERS):
        v = v / v.norm()
        (forward,) = torch.autograd.grad(back, dummy, v, retain_graph=True)
        value = max(value, float(forward.norm()))
        (v,) = torch.autograd.grad(y, given, forward, retain_graph=True)
    return value
