"""Constraints of one layer that are measured beside each other; `NotServed` where one has nothing for a layer."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TypeAlias

from specnorm_torch import spectral_norm
from torch import nn
from torch.nn.utils import parametrizations

from specnorm.methods import TensorNorm

Constrain: TypeAlias = Callable[[nn.Module], nn.Module]
"""Constrains a layer, or replaces it."""


class NotServed(Exception):
    """The library has no such layer, or is not installed."""


def replaced(library: str, classes: dict[type[nn.Module], str]) -> Constrain:
    """Return a constraint that puts a library's layer with the same arguments in place of torch's."""

    def constrain(layer: nn.Module) -> nn.Module:
        try:
            make: Callable[..., nn.Module] = getattr(importlib.import_module(library), classes[type(layer)])
        except ImportError:
            raise NotServed("not installed") from None
        except KeyError:
            raise NotServed(f"no {type(layer).__name__}") from None
        names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
        arguments = {name: getattr(layer, name) for name in names}
        plain = {name: x[0] if isinstance(x, tuple) and len(set(x)) == 1 else x for name, x in arguments.items()}
        try:
            return make(**plain, padding_mode="zeros")
        except (ValueError, NotImplementedError, RuntimeError) as error:
            raise NotServed(f"{type(layer).__name__} refused: {error}") from error

    return constrain


def tensor_norm(layer: nn.Module) -> nn.Module:
    return spectral_norm(layer, method=TensorNorm())


WAYS: dict[str, Constrain] = {
    "default": spectral_norm,
    "TensorNorm()": tensor_norm,
    "torch": parametrizations.spectral_norm,
    "orthogonium": replaced(
        "orthogonium.layers", {nn.Conv2d: "AdaptiveOrthoConv2d", nn.ConvTranspose2d: "AdaptiveOrthoConvTranspose2d"}
    ),
    "torchlip": replaced("deel.torchlip", {nn.Conv1d: "SpectralConv1d", nn.Conv2d: "SpectralConv2d"}),
}


def each_layer(model: nn.Module, constrain: Constrain) -> nn.Module:
    """Constrain every convolution and linear layer in its place."""
    for layer in list(model.modules()):
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            constrain(layer)
    return model
