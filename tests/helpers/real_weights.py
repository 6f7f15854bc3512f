"""Kernels of published networks, from ``tests/data`` (licences and sources there)."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helpers import DATA

MODELS = ("resnet20", "dncnn25", "espnet", "meshnet3d", "silero_vad", "rfb320", "mini_xception")


@functools.cache
def real_layers(model: str) -> list[tuple[str, NDArray[np.float32], dict[str, Any]]]:
    """Every convolution of a model, in the order of the network, read from the published file by its place there.

    Returns
    -------
    list of (name, kernel, geometry)
        Kernels in torch order and read-only; geometry as the oracle and the library take it, zero padding included.
    """
    _, content, layers = _published(model)
    rows = []
    for layer in layers:
        shape = layer["stored_shape"]
        stored = np.frombuffer(content, "<f4", count=math.prod(shape), offset=layer["offset"]).reshape(shape)
        kernel = np.ascontiguousarray(stored.transpose(layer["axes"]), dtype=np.float32)
        kernel.flags.writeable = False
        geometry = {
            "stride": tuple(layer["stride"]), "dilation": tuple(layer["dilation"]), "groups": layer["groups"],
            "transposed": layer["kind"].startswith("conv_transpose"), "padding_mode": "zeros",
            "padding": _padding(layer["padding"], kernel.ndim - 2),
        }  # fmt: skip
        rows.append((layer["name"], kernel, geometry))
    return rows


def real_file(model: str) -> Path:
    return _published(model)[0]


def _published(model: str) -> tuple[Path, bytes, list[dict[str, Any]]]:
    known = json.loads((DATA / model / "layers.json").read_text())
    path = DATA / model / known["file"]
    return path, path.read_bytes(), known["layers"]


def _padding(padding: str | list[int], ndim: int) -> Any:
    """Keras says "same" or "valid"; the others say how much."""
    if isinstance(padding, str):
        return "same" if padding == "same" else [(0, 0)] * ndim
    return [(p, p) for p in padding]


def real_kernel(model: str, name: str) -> NDArray[np.float32]:
    (kernel,) = [kernel for full, kernel, _ in real_layers(model) if full.removesuffix(".weight").endswith(name)]
    return kernel
