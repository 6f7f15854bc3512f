"""Published models, audited from the files as published, row by row against torch's own operators."""

from __future__ import annotations

import functools
import json
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from helpers.real_weights import MODELS, real_file, real_layers
from helpers.torch_layers import torch_matrix
from numpy.typing import NDArray
from specnorm_audit import audit
from specnorm_audit.rows import Row

torch: Any = pytest.importorskip("torch")

NEEDS = {"silero_vad": "safetensors", "mini_xception": "h5py", "rfb320": "onnx"}
STATES_ITS_GEOMETRY = ("mini_xception", "rfb320")
"""Formats that do. The others take it from ``geometry.json``, as a person would give it."""
POSITIONS = 200
"""Pixels times channels, of which a layer has about as many here where its kernel allows it."""


def _audited(model: str, **options: Any) -> dict[str, Row]:
    if find_spec(NEEDS.get(model, "torch")) is None:
        pytest.skip(f"{NEEDS[model]} is not installed")
    path = real_file(model)
    given = None if model in STATES_ITS_GEOMETRY else json.loads((path.parent / "geometry.json").read_text())
    # Of layers that are chosen by name, all of them here, there is no network to be bounded.
    return {row.name: row for row in audit(path, methods=(), geometry=given, **{"layers": "*", **options}).layers}


Layers = list[tuple[str, NDArray[Any], dict[str, Any]]]


def _layers(model: str) -> Layers:
    """Name, kernel and geometry of each row. A separable convolution of Keras is one: both of its kernels as one."""
    layers: Layers = []
    for stored_name, kernel, geometry in real_layers(model):
        name, _, rest = stored_name.partition("/")
        if rest.endswith("pointwise_kernel:0"):
            _, depthwise, of_depthwise = layers.pop()
            both = kernel.astype(np.float64) * depthwise[None, :, 0]
            layers.append((name, both, of_depthwise | {"groups": 1}))
        else:
            layers.append((f"{name}.kernel" if rest else stored_name, kernel, geometry))
    return layers


@functools.cache
def _everywhere(model: str) -> dict[str, Row]:
    return _audited(model)


def _size(kernel: NDArray[Any], geometry: dict[str, Any], more: int) -> int:
    """Pixels per axis: a small layer, with an output; ``more`` makes it larger."""
    axes = kernel.ndim - 2
    channels = max(kernel.shape[0], kernel.shape[1] * geometry["groups"])
    n = max(int((POSITIONS / channels) ** (1 / axes)), 1)
    if geometry["padding"] != "same" and not geometry["transposed"]:
        reaches = zip(kernel.shape[2:], geometry["dilation"], geometry["padding"], strict=True)
        n = max(n, *(r * (k - 1) + 1 - sum(pads) for k, r, pads in reaches))
    return n + more


def _norm_by_torch(kernel: NDArray[Any], geometry: dict[str, Any], size: int) -> float:
    """Norm of torch's operator in float64: on every unit vector, then an SVD. Nothing of this project takes part."""
    shape = (size,) * (kernel.ndim - 2)
    return float(np.linalg.norm(torch_matrix(kernel, shape, {**geometry, "padding_mode": "zeros"}), 2))


def _pads(kernel: NDArray[Any], geometry: dict[str, Any]) -> list[tuple[int, int]]:
    if geometry["padding"] != "same":
        return list(geometry["padding"])
    totals = [r * (k - 1) for k, r in zip(kernel.shape[2:], geometry["dilation"], strict=True)]
    return [(total // 2, total - total // 2) for total in totals]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.sampled(2)
def test_rows_are_the_layers_with_their_geometry(model: str) -> None:
    """Every convolution is there, nothing of its geometry is assumed or wrong."""
    rows = _everywhere(model)
    convolutions = {name: row for name, row in rows.items() if row.kind == "conv"}
    expected = _layers(model)
    assert sorted(convolutions) == sorted(name for name, _, _ in expected)
    for name, kernel, geometry in expected:
        row: Any = convolutions[name]
        assert row.reason is None
        for key in ("stride", "dilation", "groups", "transposed"):
            assert getattr(row.spec, key) == geometry[key], (name, key)
        # Keras's own "same" may be larger or smaller than the kernel's reach where there is a stride.
        if max(geometry["stride"]) == 1 or geometry["padding"] != "same":
            assert list(row.spec.padding) == _pads(kernel, geometry), name
        assert [word for word in row.assumed if not word.startswith(("padding=same_upper", "weight="))] == []


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.sampled("espnet", "mini_x")
def test_rows_hold_torchs_own_operator(model: str, more: int) -> None:
    """At two input sizes where the layer has strides, else at one; the bound for every size is above both."""
    everywhere = _everywhere(model)
    by_size: dict[int, Layers] = {}
    asked = [layer for layer in _layers(model) if not more or max(layer[2]["stride"]) > 1]
    for layer in asked:
        by_size.setdefault(_size(layer[1], layer[2], more), []).append(layer)
    checked = 0
    for size, layers in by_size.items():
        rows = _audited(model, layers=[name for name, _, _ in layers], input_shape=size)
        for name, kernel, geometry in layers:
            row: Any = rows[name]
            assert row.reason is None
            truth = _norm_by_torch(kernel, geometry | {"padding": row.spec.padding}, size)
            assert row.lower <= truth * (1 + 1e-12), (name, size)
            assert truth <= row.upper * (1 + 1e-12), (name, size)
            assert row.upper <= 1.0011 * truth, (name, size)
            assert truth <= (everywhere[name].upper or 0) * (1 + 1e-12), (name, size)
            checked += 1
    assert checked == len(asked)
