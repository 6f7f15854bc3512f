"""Constraints of one layer that are measured beside each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from specnorm_torch import spectral_norm
from torch import nn
from torch.nn.utils import parametrizations

from specnorm.methods import TensorNorm

Constrain: TypeAlias = Callable[[nn.Module], nn.Module]
"""Constrains a layer, or replaces it."""


def tensor_norm(layer: nn.Module) -> nn.Module:
    return spectral_norm(layer, method=TensorNorm())


WAYS: dict[str, Constrain] = {
    "default": spectral_norm,
    "TensorNorm()": tensor_norm,
    "torch": parametrizations.spectral_norm,
}
"""Layers of other libraries were measured by the programs of commit 262d541a."""


def each_layer(model: nn.Module, constrain: Constrain) -> nn.Module:
    """Constrain every convolution and linear layer in its place."""
    for layer in list(model.modules()):
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            constrain(layer)
    return model
