"""Small networks that are trained on the digits of scikit-learn in seconds.

They are made of `nn.Sequential`, `Residual`, `Beside` and torch's layers, so that `with_tangents` can
write their Jacobians. `lirpa` imports this module beside torch 1.12.
"""

from __future__ import annotations

import copy
import functools
import importlib
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 8
STEPS = 400
BATCH = 64
NOISE = 0.3


class Residual(nn.Module):
    """x + sign * body(x)."""

    def __init__(self, *body: nn.Module, sign: float = 1.0) -> None:
        super().__init__()
        self.body, self.sign = nn.Sequential(*body), sign

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.sign * self.body(x)
        return y


class Beside(nn.Module):
    """Channels of x, and beside them those of body(x)."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


def conv(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.ReLU()]


def normed(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs)]


def dense(*widths: int) -> nn.Sequential:
    layers = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


def head(channels: int) -> list[nn.Module]:
    return [*conv(channels, channels, 2), nn.Flatten(), nn.Linear(channels * SIDE * SIDE // 4, 10)]


def block(channels: int) -> list[nn.Module]:
    return [Residual(*normed(channels, channels), nn.ReLU(), *normed(channels, channels)), nn.ReLU()]


def unet() -> nn.Sequential:
    inner = Beside(*conv(8, 16, 2), *conv(16, 16), nn.ConvTranspose2d(16, 8, 2, stride=2), nn.ReLU())
    return nn.Sequential(*conv(1, 8), inner, *conv(16, 8), nn.Conv2d(8, 1, 3, padding=1))


def denoiser() -> nn.Sequential:
    chain = [part for inputs in (1, 8, 8, 8) for part in conv(inputs, 8)]
    return nn.Sequential(Residual(*chain, nn.Conv2d(8, 1, 3, padding=1), sign=-1.0))


MAKERS: dict[str, Callable[[], nn.Module]] = {
    "MLP": lambda: dense(64, 128, 128, 10),
    "MLP of 4": lambda: dense(64, 64, 64, 64, 10),
    "MLP critic": lambda: dense(64, 128, 128, 128, 1),
    "CNN": lambda: nn.Sequential(*conv(1, 8), *conv(8, 16, 2), nn.Flatten(), nn.Linear(256, 10)),
    "CNN of 6": lambda: nn.Sequential(*conv(1, 8), *[part for _ in range(4) for part in conv(8, 8)], *head(8)),
    "ResNet": lambda: nn.Sequential(*normed(1, 8), nn.ReLU(), *block(8), *block(8), *head(8)),
    "DnCNN": denoiser,
    "U-Net": unet,
}


@functools.cache
def images() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return images and labels for training, and those for testing."""
    data: Any = importlib.import_module("sklearn.datasets").load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    pictures = (torch.tensor(data.images, dtype=torch.float32)[:, None] / 16)[order]
    labels = torch.tensor(data.target)[order]
    return pictures[:1300], labels[:1300], pictures[1300:], labels[1300:]


@functools.cache
def trained(name: str) -> tuple[nn.Module, float]:
    """Return a trained network whose batch norms are part of its convolutions, and its accuracy or remaining error.

    Classifiers learn digits; denoisers, with noise of 0.3, their mean squared error is returned over the noise's;
    the critic tells digits from permuted ones, its accuracy is returned.
    """
    torch.manual_seed(0)
    model = MAKERS[name]()
    pictures, labels, test, test_labels = images()
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(STEPS):
        chosen = torch.randperm(len(pictures))[:BATCH]
        optimiser.zero_grad()
        loss, _ = judged(name, model, pictures[chosen], labels[chosen])
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        optimiser.step()
    model.eval()
    fold_batch_norms(model)
    with torch.no_grad():
        _, quality = judged(name, model, test, test_labels)
    return model, quality


def judged(name: str, model: nn.Module, pictures: Tensor, labels: Tensor) -> tuple[Tensor, float]:
    """Return the loss, and the accuracy or the remaining error."""
    if name in ("DnCNN", "U-Net"):
        loss = F.mse_loss(model(pictures + NOISE * torch.randn(pictures.shape)), pictures)
        return loss, float(loss.detach()) / NOISE**2
    if name == "MLP critic":
        permuted = pictures.flatten(1)[:, torch.randperm(SIDE * SIDE)].reshape(pictures.shape)
        scores = torch.cat([model(pictures), -model(permuted)])
        return F.relu(1 - scores).mean(), float((scores > 0).float().mean())
    logits = model(pictures)
    return F.cross_entropy(logits, labels), float((logits.argmax(1) == labels).float().mean())


def fold_batch_norms(model: nn.Module) -> None:
    """Put each batch norm into the convolution before it."""
    for part in list(model.modules()):
        if isinstance(part, nn.Sequential):
            for at in range(len(part) - 1):
                layer: Any = part[at]
                norm = part[at + 1]
                if isinstance(norm, nn.BatchNorm2d):
                    part[at] = nn.utils.fusion.fuse_conv_bn_eval(layer, norm)
                    part[at + 1] = nn.Identity()


LINEAR = nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.Flatten, nn.Identity


def without_bias(layer: nn.Module, x: Tensor) -> Tensor:
    """Return what a linear layer does to a difference of inputs."""
    y: Tensor
    if isinstance(layer, nn.Linear):
        y = F.linear(x, layer.weight)
    elif isinstance(layer, nn.Conv2d):
        y = F.conv2d(x, layer.weight, stride=layer.stride, padding=layer.padding)
    elif isinstance(layer, nn.ConvTranspose2d):
        y = F.conv_transpose2d(x, layer.weight, stride=layer.stride)
    else:
        y = layer(x)
    return y


def with_tangents(module: nn.Module, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
    """Return a network's value, and the derivatives along tangents, one for each sample.

    `torch.heaviside` is the derivative of ReLU; between 0 and 1 at the kink, which bounds count.
    """
    if isinstance(module, nn.Sequential):
        for part in module:
            x, tangents = with_tangents(part, x, tangents)
        return x, tangents
    if isinstance(module, nn.ReLU):
        return module(x), tangents * torch.heaviside(x, torch.zeros(1))
    if isinstance(module, Residual):
        y, moved = with_tangents(module.body, x, tangents)
        return x + module.sign * y, tangents + module.sign * moved
    if isinstance(module, Beside):
        y, moved = with_tangents(module.body, x, tangents)
        return torch.cat([x, y], 1), torch.cat([tangents, moved], 1)
    if not isinstance(module, LINEAR):
        raise TypeError("no derivative is written for " + type(module).__name__)
    return module(x), without_bias(module, tangents)


def matrices(model: nn.Module) -> list[Tensor]:
    """Return the layers between the ReLU functions of a chain as matrices in float64.

    Raises
    ------
    TypeError
        If the network is no chain of linear layers and ReLU functions.
    """
    x = torch.eye(SIDE * SIDE, dtype=torch.float64).reshape(-1, 1, SIDE, SIDE)
    found: list[Tensor] = []
    if not isinstance(model, nn.Sequential):
        raise TypeError(type(model).__name__ + " is not a chain")
    for part in copy.deepcopy(model).double():
        if isinstance(part, nn.ReLU):
            found.append(x.flatten(1).T)
            x = torch.eye(x[0].numel(), dtype=torch.float64).reshape(-1, *x.shape[1:])
        elif isinstance(part, LINEAR):
            x = without_bias(part, x)
        else:
            raise TypeError(type(part).__name__ + " is neither linear nor ReLU")
    return [*found, x.flatten(1).T]
