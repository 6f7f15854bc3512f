"""Layers as PyTorch computes them, written out as matrices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from cases import Layer
from numpy.typing import NDArray
from oracle import padding_pairs


def torch_matrix(layer: Layer) -> NDArray[Any]:
    """The layer's matrix by feeding PyTorch every basis vector."""
    torch = pytest.importorskip("torch")
    kernel = torch.from_numpy(layer.kernel.astype(np.float64))
    geometry = layer.geometry
    ndim = kernel.ndim - 2
    transposed, groups = geometry["transposed"], geometry["groups"]
    cin = kernel.shape[0] if transposed else kernel.shape[1] * groups
    size = cin * math.prod(layer.input_shape)
    basis = torch.eye(size, dtype=torch.float64).reshape(size, cin, *layer.input_shape)
    pads = padding_pairs(geometry["padding"], kernel.shape[2:], geometry["dilation"])
    options = {"stride": geometry["stride"], "dilation": geometry["dilation"], "groups": groups}
    if transposed:
        apply = (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)[ndim - 1]
        full = apply(basis, kernel, **options)
        crop = [slice(before, n - after) for n, (before, after) in zip(full.shape[2:], pads, strict=True)]
        out = full[(slice(None), slice(None), *crop)]
    else:
        apply = (torch.conv1d, torch.conv2d, torch.conv3d)[ndim - 1]
        mode = {"zeros": "constant"}.get(geometry["padding_mode"], geometry["padding_mode"])
        flat = [amount for pair in reversed(pads) for amount in pair]
        out = apply(torch.nn.functional.pad(basis, flat, mode=mode), kernel, **options)
    return np.asarray(out.reshape(size, -1).T)
