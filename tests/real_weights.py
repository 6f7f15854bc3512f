"""Kernels of published networks, from ``tests/data`` (licences and sources there)."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MODELS = ("resnet20", "dncnn25", "espnet", "meshnet3d", "silero_vad", "rfb320", "mini_xception")
_DATA = Path(__file__).parent / "data"


@functools.cache
def real_layers(model: str) -> list[tuple[str, NDArray[np.float32], dict[str, Any]]]:
    """Every convolution of a model, in the order of the network.

    Returns
    -------
    list of (name, kernel, geometry)
        Kernels in torch order and read-only; geometry as the oracle and the library take it, zero padding included.
    """
    layers = json.loads((_DATA / model / "layers.json").read_text())
    rows = []
    with np.load(_DATA / model / "kernels.npz", allow_pickle=False) as kernels:
        for layer in layers:
            kernel = kernels[layer["name"]]
            kernel.flags.writeable = False
            geometry = {
                "stride": tuple(layer["stride"]),
                "dilation": tuple(layer["dilation"]),
                "groups": layer["groups"],
                "transposed": layer["kind"].startswith("conv_transpose"),
                "padding_mode": "zeros",
                "padding": _padding(layer["padding"], kernel.ndim - 2),
            }
            rows.append((layer["name"], kernel, geometry))
    return rows


def _padding(padding: str | list[int], ndim: int) -> Any:
    """Keras says "same" or "valid"; the others say how much."""
    if isinstance(padding, str):
        return "same" if padding == "same" else [(0, 0)] * ndim
    return [(p, p) for p in padding]


def real_kernel(model: str, name: str) -> NDArray[np.float32]:
    """One kernel by a name that ends so."""
    (kernel,) = [kernel for full, kernel, _ in real_layers(model) if full.removesuffix(".weight").endswith(name)]
    return kernel
