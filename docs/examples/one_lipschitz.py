"""Audits networks that are built to be 1-Lipschitz: needs torch, orthogonium and deel-torchlip.

    python docs/examples/one_lipschitz.py

Prints the table of docs/tutorials/one-lipschitz.md. Weights are those of a new network, after a few batches of noise
in training mode, which the libraries' own iterations need. One thread, a minute.
"""

import math
import warnings
from collections.abc import Callable

import torch
from deel import torchlip
from orthogonium import layers as orthogonium
from orthogonium.layers.conv.adaptiveSOC import AdaptiveSOCConv2d
from orthogonium.layers.conv.AOL import AOLConv2D
from orthogonium.layers.conv.SLL import SDPBasedLipschitzDense
from orthogonium.layers.custom_activations import MaxMin
from specnorm_networks import nonexpansive
from specnorm_torch import baked
from torch import nn

SHAPE = (3, 8, 8)


def torchlip_average() -> nn.Module:
    """Layers of deel-torchlip, with averages for pooling."""
    return torchlip.Sequential(
        torchlip.SpectralConv2d(3, 8, (3, 3), padding=1, padding_mode="circular"), torchlip.GroupSort2(),
        torchlip.ScaledAvgPool2d((2, 2)), nn.Flatten(), torchlip.SpectralLinear(128, 4),
    )  # fmt: skip


def orthogonium_network() -> nn.Module:
    """Orthogonium's orthogonal convolutions (AOC) with MaxMin."""
    first = orthogonium.AdaptiveOrthoConv2d(3, 8, 3, padding=1, padding_mode="circular")
    second = orthogonium.AdaptiveOrthoConv2d(8, 16, 2, stride=2, padding=0)
    return nn.Sequential(first, MaxMin(), second, MaxMin(), nn.Flatten(), orthogonium.OrthoLinear(256, 4))


def aol() -> nn.Module:
    """Almost-orthogonal layers."""
    return nn.Sequential(AOLConv2D(3, 8, 3, padding=1), MaxMin(), nn.Flatten(), orthogonium.UnitNormLinear(512, 4))


def soc() -> nn.Module:
    """The exponential of a skew convolution, by the first terms of its series."""
    return nn.Sequential(AdaptiveSOCConv2d(4, 4, 3, padding=3), MaxMin(), AdaptiveSOCConv2d(4, 4, 3, padding=3))


def sll() -> nn.Module:
    """Residual layers that are 1-Lipschitz by one joint rule."""
    return nn.Sequential(nn.Flatten(), SDPBasedLipschitzDense(192, 192, 16))


def reshaped() -> nn.Module:
    """torch's own ``spectral_norm`` on a convolution, often taken for a 1-Lipschitz layer."""
    return torch.nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 8, 3, padding=1))


def exported() -> nn.Module:
    """That network as plain layers, by deel-torchlip's ``vanilla_export``."""
    model = torchlip_average()
    model(torch.randn(2, *SHAPE))
    return model.vanilla_export()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "deel-torchlip, average pooling": (torchlip_average, SHAPE),
    "deel-torchlip, `vanilla_export`": (exported, SHAPE),
    "orthogonium, AOC": (orthogonium_network, SHAPE),
    "orthogonium, AOL": (aol, SHAPE),
    "orthogonium, SOC": (soc, (4, 8, 8)),
    "orthogonium, SLL": (sll, SHAPE),
    "torch's `spectral_norm`, one convolution": (reshaped, SHAPE),
}


def verdict(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> tuple[str, str, str]:
    """Proven constant, what a pair of inputs reaches, and the verdict."""
    torch.manual_seed(0)
    model = make()
    model.train()
    with torch.no_grad():
        for _ in range(20):
            model(torch.randn(8, *shape))
    model.eval()
    found = nonexpansive(baked(model), shape, rtol=1e-6, steps=300)
    upper = found.bound.upper
    words = {True: "proven", False: "refuted", None: "open"}[found.proven]
    if upper is None:
        node = found.bound.unknown[0]
        return f"no rule for `{node.operator}`", f"{found.reached:.4f}", words
    return f"{math.ceil(1e5 * upper) / 1e5:.5f}", f"{found.reached:.4f}", words


def rows() -> list[str]:
    """The table's lines."""
    columns = ("network", "proven Lipschitz constant", "largest quotient of a pair of inputs", "1-Lipschitz?")
    lines = [f"| {' | '.join(columns)} |", "|---|---|---|---|"]
    for name, (make, shape) in NETWORKS.items():
        lines.append(f"| {name} | " + " | ".join(verdict(make, shape)) + " |")
    return lines


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print("\n".join(rows()))
