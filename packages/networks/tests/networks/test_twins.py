"""Networks of Flax, Equinox and Keras beside their torch twins: the same weights and padding, so the same bounds."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
pytest.importorskip("jax2onnx", reason="pip install jax2onnx")
os.environ.setdefault("KERAS_BACKEND", "jax")
from networks.torch_modules import Function  # noqa: E402 after what may be missing
from specnorm_networks import Product, network_bound  # noqa: E402
from torch import nn  # noqa: E402

NETWORKS: dict[str, list[Any]] = {
    "residual": [("conv", 3, 4), "relu", [("conv", 4, 4), "relu", ("conv", 4, 4)], "mean", ("linear", 4, 2)],
    "depthwise": [("conv", 3, 4), ("depthwise", 4, 4), "relu", ("conv", 4, 4), "mean"],
    "gelu": [("conv", 3, 4), "gelu", ("conv", 4, 4), "gelu", "mean", ("linear", 4, 3)],
    "batch norm": [("conv", 3, 4), ("batch norm", 4, 4), "relu", ("conv", 4, 2), "mean"],
    "layer norm": ["mean", ("layer norm", 3, 3)],
    "pooling": [("conv", 3, 4), "relu", "largest", ("conv", 4, 4), "average", "mean", ("linear", 4, 2)],
    "max-min": [("conv", 3, 4), "max-min", ("conv", 4, 4), "max-min", ("conv", 4, 2)],
}
"""Layers in order; a list is added to what it is given."""
TWINS = [
    *(("flax", name) for name in NETWORKS),
    *(("equinox", name) for name in ("depthwise", "max-min")),
    *(("keras", name) for name in ("depthwise", "gelu", "batch norm", "max-min")),
]
EPS = 1e-3
LAYOUT = {"flax": (6, 6, 3), "equinox": (3, 6, 6), "keras": (6, 6, 3)}


def arrays(kind: str, before: int, after: int, *, rng: np.random.Generator) -> list[Any]:
    """Of a layer, as torch has them: kernel and bias, or scale, shift, mean and variance."""
    shape = {"linear": (after, before), "depthwise": (after, 1, 3, 3)}.get(kind, (after, before, 3, 3))
    norm = [rng.uniform(0.5, 1.5, after), *rng.normal(size=(2, after)), rng.uniform(0.5, 2, after)]
    found = norm if kind.endswith("norm") else [rng.normal(size=shape) / 4, rng.normal(size=after)]
    return [each.astype(np.float32) for each in (found[:2] if kind == "layer norm" else found)]


def built(layers: list[Any], build: Callable[..., Any], rng: np.random.Generator) -> list[Any]:
    def one(each: Any) -> Any:
        return build(each) if isinstance(each, str) else build(*each, *arrays(*each, rng=rng))

    return [built(each, build, rng) if isinstance(each, list) else one(each) for each in layers]


def flow(layers: list[Any], x: Any) -> Any:
    for layer in layers:
        x = x + flow(layer, x) if isinstance(layer, list) else layer(x)
    return x


def max_min(library: Any, axis: int, x: Any) -> Any:
    lead = {0: (), 1: (slice(None),), -1: (...,)}[axis]
    a, b = (x[(*lead, part)] for part in (slice(0, 2), slice(2, 4)))
    return library.concatenate([library.maximum(a, b), library.minimum(a, b)], axis)


def last(x: Any) -> Any:
    """A kernel with its channels behind its pixels, and the outputs last."""
    return x.transpose(2, 3, 1, 0) if x.ndim == 4 else x.T


class Added(nn.Sequential):
    def forward(self, x: Any) -> Any:
        forward: Any = super().forward
        return x + forward(x)


def twin(layers: list[Any]) -> nn.Module:
    return nn.Sequential(*(Added(twin(each)) if isinstance(each, list) else each for each in layers)).eval()


def of_torch(kind: str, before: int = 0, after: int = 0, *given: Any) -> Any:
    makers: dict[str, Any] = {
        "relu": nn.ReLU, "gelu": nn.GELU, "mean": lambda: Function(lambda x: x.mean((2, 3))),
        "largest": lambda: nn.MaxPool2d(2), "average": lambda: nn.AvgPool2d(3),
        "max-min": lambda: Function(partial(max_min, torch, 1)), "linear": lambda: nn.Linear(before, after),
        "layer norm": lambda: nn.LayerNorm(after, EPS), "batch norm": lambda: nn.BatchNorm2d(after, EPS),
        "conv": lambda: nn.Conv2d(before, after, 3, padding=1),
        "depthwise": lambda: nn.Conv2d(before, after, 3, padding=1, groups=before),
    }  # fmt: skip
    layer = makers[kind]()
    for at, value in zip((layer.weight, layer.bias, *layer.buffers()) if given else (), given, strict=False):
        at.data.copy_(torch.tensor(value))
    return layer


def of_flax(kind: str, before: int = 0, after: int = 0, *given: Any) -> Any:
    nnx = pytest.importorskip("flax.nnx")
    if not given:
        return {
            "relu": nnx.relu, "gelu": partial(nnx.gelu, approximate=False), "mean": lambda x: x.mean((1, 2)),
            "largest": partial(nnx.max_pool, window_shape=(2, 2), strides=(2, 2)),
            "average": partial(nnx.avg_pool, window_shape=(3, 3)), "max-min": partial(max_min, jax.numpy, -1),
        }[kind]  # fmt: skip
    layer: Any = {
        "linear": nnx.Linear, "layer norm": lambda _, n, **rngs: nnx.LayerNorm(n, epsilon=EPS, **rngs),
        "batch norm": lambda _, n, rngs: nnx.BatchNorm(n, use_running_average=True, epsilon=EPS, rngs=rngs),
        "conv": partial(nnx.Conv, kernel_size=(3, 3)),
        "depthwise": partial(nnx.Conv, kernel_size=(3, 3), feature_group_count=before),
    }[kind](before, after, rngs=nnx.Rngs(0))  # fmt: skip
    first = layer.scale if kind.endswith("norm") else layer.kernel
    for at, value in zip((first, layer.bias, *((layer.mean, layer.var) if len(given) > 2 else ())), given, strict=True):
        at.value = jax.numpy.asarray(last(value))
    return layer


def of_equinox(kind: str, before: int = 0, after: int = 0, *given: Any) -> Any:
    equinox = pytest.importorskip("equinox")
    function = partial(max_min, jax.numpy, 0)
    if not given:
        return {"relu": jax.nn.relu, "mean": lambda x: x.mean((1, 2)), "max-min": function}[kind]
    groups = before if kind == "depthwise" else 1
    layer = equinox.nn.Conv2d(before, after, 3, padding=1, groups=groups, key=jax.random.key(0))
    return equinox.tree_at(lambda x: (x.weight, x.bias), layer, (given[0], given[1].reshape(layer.bias.shape)))


def of_keras(kind: str, _before: int = 0, after: int = 0, *given: Any) -> Any:
    layers = pytest.importorskip("keras.layers")
    ops = pytest.importorskip("keras.ops")
    if not given:
        mean = partial(ops.mean, axis=(1, 2))
        plain = {"relu": ops.relu, "gelu": partial(ops.gelu, approximate=False), "mean": mean}
        return {**plain, "max-min": partial(max_min, ops, -1)}[kind]
    layer: Any = {
        "conv": lambda: layers.Conv2D(after, 3, padding="same"), "linear": lambda: layers.Dense(after),
        "depthwise": lambda: layers.DepthwiseConv2D(3, padding="same"),
        "batch norm": lambda: layers.BatchNormalization(epsilon=EPS),
    }[kind]()  # fmt: skip

    def call(x: Any) -> Any:
        y = layer(x)
        layer.set_weights([last(x).reshape(w.shape) for x, w in zip(given, layer.weights, strict=True)])
        return y

    return call


def foreign(framework: str, name: str) -> Any:
    build = {"flax": of_flax, "equinox": of_equinox, "keras": of_keras}[framework]
    layers = built(NETWORKS[name], build, np.random.default_rng(0))
    if framework == "keras":
        keras = pytest.importorskip("keras")
        given = keras.Input(LAYOUT["keras"])
        return keras.Model(given, flow(layers, given))
    return partial(flow, layers) if framework == "flax" else jax.vmap(partial(flow, layers))


@pytest.mark.sampled("keras-batch norm")
@pytest.mark.parametrize(("framework", "name"), TWINS, ids=lambda each: each)
def test_a_twin_has_the_same_bound(framework: str, name: str) -> None:
    ours = twin(built(NETWORKS[name], of_torch, np.random.default_rng(0)))
    for method, near in ((Product(), 1e-6), (None, 1e-3)):
        first = network_bound(ours, (3, 6, 6), method=method)
        second = network_bound(foreign(framework, name), LAYOUT[framework], method=method)
        assert (first.checked.complete, second.checked.complete) == (True, True)
        assert second.upper == pytest.approx(first.upper, rel=near)
