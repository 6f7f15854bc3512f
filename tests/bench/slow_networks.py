"""Networks that took long for their size: ``python tests/bench/slow_networks.py NAME`` bounds one in a new process.

`bench.cold` measures them, in one environment or in several. With ``--parts`` the processor seconds of each part of the
call are printed.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

Source = tuple[Any, tuple[int, ...]]


def keras_model() -> Source:
    """Two convolutions and a dense layer, on JAX."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    convolutions = [layers.Conv2D(channels, 3, activation="relu") for channels in (16, 32)]
    return keras.Sequential([keras.Input((28, 28, 1)), *convolutions, layers.Flatten(), layers.Dense(10)]), (28, 28, 1)


def stylegan_layers() -> Source:
    """Three layers of 64 channels, demodulated for one style; the second doubles the size, and blurs."""
    import torch
    from torch.nn import functional

    torch.manual_seed(0)
    channels = 64

    class Layer(torch.nn.Module):
        def __init__(self, doubles: bool) -> None:
            super().__init__()
            kernel = torch.randn(channels, channels, 3, 3) * (1 + 0.2 * torch.randn(channels))[:, None, None]
            self.kernel = torch.nn.Parameter(kernel / kernel.square().sum((1, 2, 3), keepdim=True).sqrt())
            line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
            self.register_buffer("blur", torch.outer(line, line).expand(channels, 1, 4, 4).clone())
            self.doubles = doubles

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.doubles:
                x = functional.conv_transpose2d(x, self.kernel.transpose(0, 1), stride=2)
                x = functional.conv2d(x, 4 * self.get_buffer("blur"), padding=1, groups=channels)
            else:
                x = functional.conv2d(x, self.kernel, padding=1)
            return functional.leaky_relu(x, 0.2) * 2**0.5

    return torch.nn.Sequential(*map(Layer, (False, True, False))).eval(), (channels, 8, 8)


def ista_phase() -> Source:
    """One phase of ISTA-Net at 25 %: a step to the data, four convolutions, a soft threshold by x - clamp(x)."""
    import torch
    from torch.nn import functional

    torch.manual_seed(0)
    shapes = ((32, 1, 3, 3), (32, 32, 3, 3), (32, 32, 3, 3), (1, 32, 3, 3))

    class Phase(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            kernels = (torch.nn.init.xavier_normal_(torch.empty(shape)) for shape in shapes)
            self.kernels = torch.nn.ParameterList(kernels)
            rows = torch.linalg.qr(torch.randn(1089, 272))[0].T
            self.register_buffer("gram", (rows.T @ rows).contiguous())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x - 0.5 * torch.mm(x, self.get_buffer("gram"))
            first, second, third, last = self.kernels
            x = functional.relu(functional.conv2d(x.view(-1, 1, 33, 33), first, padding=1))
            x = functional.conv2d(x, second, padding=1)
            x = x - x.clamp(-0.01, 0.01)
            x = functional.relu(functional.conv2d(x, third, padding=1))
            return functional.conv2d(x, last, padding=1).view(-1, 1089)

    return Phase().eval(), (1089,)


NETWORKS: dict[str, Callable[[], Source]] = {
    "keras": keras_model, "stylegan": stylegan_layers, "ista": ista_phase,
}  # fmt: skip


def parts(name: str) -> dict[str, float]:
    """Return the processor seconds of imports and model, of each stage of the call, and of its search."""
    from specnorm_networks import network_bound

    model, shape = NETWORKS[name]()
    seconds = {"imports, and the model": time.process_time()}
    begun: dict[str, float] = {}

    def tell(done: int, of: int, what: str) -> None:
        now = time.process_time()
        if (done, of) == (1, 1):
            seconds[what] = now - begun[what]
        elif done == 0:
            begun[what] = now
        else:
            begun.setdefault("first step", now)
            seconds["of which search steps"] = now - begun["first step"]

    network_bound(model, shape, budget=None, progress=tell)
    return seconds


if __name__ == "__main__":
    if "--parts" in sys.argv:
        for part, seconds in parts(sys.argv[1]).items():
            print(f"{part:28} {seconds:6.2f}")
    else:
        from specnorm_networks import network_bound

        model, shape = NETWORKS[sys.argv[1]]()
        print(network_bound(model, shape, budget=None).upper)
