"""Small networks of torch and JAX of which the tests write certificates."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def with_sines(model: nn.Module, divisor: float = 1.0) -> nn.Module:
    """Set the matrices and kernels of a model to sines of squares, and return the model in evaluation mode."""
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    for number, weight in enumerate(weights):
        values = torch.sin(torch.arange(weight.numel()) ** 2 + number)
        weight.data.copy_(values.reshape(weight.shape) / divisor)
    return model.eval()


def chain() -> nn.Module:
    """Three convolutions with several activations and poolings, and a matrix; for inputs (1, 12, 12)."""
    return with_sines(
        nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1),
            nn.LeakyReLU(0.1), nn.MaxPool2d(2), nn.Conv2d(4, 3, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(3, 2),
        )
    )  # fmt: skip


class Block(nn.Module):
    """Two convolutions of stride 2 and 1, with a shortcut of every other pixel between channels of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1))
        y: Tensor = torch.relu(shortcut + self.inner(x))
        return y


def residual_block() -> nn.Module:
    return with_sines(Block(), 3)


def function_of_jax(x: Any) -> Any:
    """A convolution, means over all pixels and a matrix in JAX, for inputs (2, 6, 6)."""
    import jax

    kernel = np.sin(np.arange(72.0).reshape(4, 2, 3, 3)).astype(np.float32)
    matrix = np.eye(4, 3, dtype=np.float32)
    convolved = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME")
    return jax.nn.relu(convolved).mean((2, 3)) @ matrix
