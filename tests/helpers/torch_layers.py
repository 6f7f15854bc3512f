"""Layers as PyTorch computes them, written out as matrices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.oracle import padding_pairs


def module_matrix(module: Any, shape: tuple[int, ...], dtype: Any = None) -> NDArray[Any]:
    """Of an affine map of single samples, float64 unless told otherwise."""
    torch = pytest.importorskip("torch")
    like = {"dtype": torch.float64 if dtype is None else dtype}
    with torch.no_grad():
        basis = torch.eye(math.prod(shape), **like).reshape(-1, 1, *shape)
        zero = module(torch.zeros(1, *shape, **like))
        return np.stack([(module(x.clone()) - zero).reshape(-1).double().numpy() for x in basis], axis=1)


def torch_matrix(kernel: NDArray[Any], input_shape: tuple[int, ...], geometry: dict[str, Any]) -> NDArray[Any]:
    """The layer's matrix by feeding PyTorch every basis vector."""
    torch = pytest.importorskip("torch")
    weight = torch.from_numpy(kernel.astype(np.float64))
    ndim = weight.ndim - 2
    transposed, groups = geometry["transposed"], geometry["groups"]
    cin = kernel.shape[0] if transposed else kernel.shape[1] * groups
    size = cin * math.prod(input_shape)
    basis = torch.eye(size, dtype=torch.float64).reshape(size, cin, *input_shape)
    pads = padding_pairs(geometry["padding"], kernel.shape[2:], geometry["dilation"])
    options = {"stride": geometry["stride"], "dilation": geometry["dilation"], "groups": groups}
    if transposed:
        apply = (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)[ndim - 1]
        full = apply(basis, weight, **options)
        crop = [slice(before, n - after) for n, (before, after) in zip(full.shape[2:], pads, strict=True)]
        out = full[(slice(None), slice(None), *crop)]
    else:
        apply = (torch.conv1d, torch.conv2d, torch.conv3d)[ndim - 1]
        mode = {"zeros": "constant"}.get(geometry["padding_mode"], geometry["padding_mode"])
        if mode == "symmetric":  # torch has none
            for axis, (n, pair) in enumerate(zip(input_shape, pads, strict=True), 2):
                basis = basis.index_select(axis, torch.from_numpy(np.pad(np.arange(n), pair, mode="symmetric")))
            mode, pads = "constant", [(0, 0)] * ndim
        flat = [amount for pair in reversed(pads) for amount in pair]
        out = apply(torch.nn.functional.pad(basis, flat, mode=mode), weight, **options)
    return np.asarray(out.reshape(size, -1).T)
