"""Layouts thought of by hand: networks of several frameworks, and arrays in every place beside one of their kernels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

Shape = tuple[int, ...]
OUT, IN, TAPS = 8, 6, 3
_OIHW: Shape = (OUT, IN, TAPS, TAPS)
_HWIO: Shape = (TAPS, TAPS, IN, OUT)


@dataclass(frozen=True)
class Network:
    """A network's names and shapes, with the scope and the name of the kernel that gets arrays beside it."""

    scope: str
    separator: str
    leaf: str
    shape: Shape
    others: dict[str, Shape]
    is_hwio: bool = False

    @property
    def kernel(self) -> str:
        """Name of the kernel."""
        return f"{self.scope}{self.separator}{self.leaf}"

    @property
    def arrays(self) -> dict[str, Shape]:
        """All arrays."""
        return {self.kernel: self.shape, **self.others}


_BN: dict[str, Shape] = {f"net.block.bn.{x}": (OUT,) for x in ("weight", "bias", "running_mean", "running_var")}
NETWORKS: dict[str, Network] = {
    "Sequential": Network("0", ".", "weight", _OIHW, {"0.bias": (OUT,), "2.weight": (5, OUT), "2.bias": (5,)}),
    "blocks": Network("net.block.conv", ".", "weight", _OIHW, {"net.block.conv.bias": (OUT,), **_BN}),
    "no bias": Network(
        "layer1.0.conv1", ".", "weight", _OIHW,
        {"layer1.0.bn1.weight": (OUT,), "layer1.0.bn1.bias": (OUT,), "layer1.0.conv2.weight": (OUT, OUT, 3, 3)}),
    "one word": Network("conv", ".", "weight", _OIHW, {"conv.bias": (OUT,), "fc.weight": (5, OUT)}),
    "matrix": Network("fc1", ".", "weight", (OUT, IN), {"fc1.bias": (OUT,), "fc2.weight": (5, OUT), "fc2.bias": (5,)}),
    "square": Network("mlp.fc1", ".", "weight", (IN, IN), {"mlp.fc1.bias": (IN,), "mlp.fc2.weight": (5, IN)}),
    "1-D": Network("enc.conv", ".", "weight", (OUT, IN, 5), {"enc.conv.bias": (OUT,), "dec.fc.weight": (5, OUT)}),
    "3-D": Network("enc.conv", ".", "weight", (OUT, IN, 3, 3, 3), {"enc.conv.bias": (OUT,)}),
    "Flax": Network(
        "params/Conv_0", "/", "kernel", _HWIO, {"params/Conv_0/bias": (OUT,), "params/Dense_0/kernel": (OUT, 5)}, True),
    "Haiku": Network("net/~/conv", "/", "w", _HWIO, {"net/~/conv/b": (OUT,), "net/~/linear/w": (OUT, 5)}, True),
    "Keras": Network("conv/conv", "/", "kernel:0", _HWIO, {"conv/conv/bias:0": (OUT,), "bn/bn/gamma:0": (OUT,)}, True),
    "flat": Network("", "", "conv1_weight", _OIHW, {"conv1_bias": (OUT,), "fc_weight": (5, OUT), "fc_bias": (5,)}),
    "one layer": Network("", "", "weight", _OIHW, {"bias": (OUT,)}),
    "Chainer": Network("base/conv1", "/", "W", _OIHW, {"base/conv1/b": (OUT,)}),
    "a list": Network("layers.0", ".", "weight", _OIHW, {"layers.0.bias": (OUT,), "layers.2.weight": (5, OUT)}),
}  # fmt: skip
WORDS = ("scores", "zq", "alpha", "log_sigma")


def beside(network: Network) -> Iterator[tuple[str, dict[str, Shape]]]:
    """Yield what stands beside the kernel, by the place where it does."""
    for word in WORDS:
        yield from _in_layer(network, word)
        if network.scope:
            yield from _around(network, word)


def _in_layer(network: Network, word: str) -> Iterator[tuple[str, dict[str, Shape]]]:
    rows, columns = _sides(network)
    dot = network.separator or "."
    own = f"{network.scope}{network.separator}{word}"
    if not network.scope:
        own = f"{network.leaf.replace('weight', '')}{word}"
    of_kernel = network.kernel.removesuffix(":0")
    shape = network.shape
    shaped = (rows, *[1] * (len(shape) - 1))
    for place, x in {"shape": shape, "rows": (rows,), "number": (), "rows with axes": shaped, "columns": (columns,),
                     "square": (rows, rows), "candidates": (4, *shape)}.items():  # fmt: skip
        yield f"in the layer: {place}", {own: x}
    yield "in the layer: factors", {f"{own}A": (2, columns), f"{own}B": (rows, 2)}
    for leaf, x in (("x", shape), ("weight", shape), ("v", (rows,))):
        yield f"below the layer: {leaf}", {f"{own}{dot}{leaf}": x}
    for x in (shape, (rows,)):
        yield "below the kernel", {f"{of_kernel}{dot}{word}": x}


def _around(network: Network, word: str) -> Iterator[tuple[str, dict[str, Shape]]]:
    rows, columns = _sides(network)
    dot, scope, shape = network.separator, network.scope, network.shape
    above, _, _ = scope.rpartition(dot)
    up = f"{above}{dot}{word}" if above else word
    yield "above: shape", {up: shape}
    yield "above: vectors", {f"{up}1": (rows,), f"{up}2": (columns,)}
    yield "beside: shape", {f"{up}{dot}x": shape}
    yield "beside: vectors", {f"{up}{dot}a": (1, rows), f"{up}{dot}b": (1, columns)}
    yield "beside: a longer name", {f"{scope}_{word}{dot}x": shape}
    yield "a tree: shape", {f"{word}{dot}{network.kernel}": shape}
    yield "a tree: vector", {f"{word}{dot}{network.kernel}": (rows,)}
    yield "a tree: two words", {f"{word}{dot}t{dot}{network.kernel}": shape}
    yield "a tree: layers' names", {f"{word}{dot}{scope}": shape}
    yield "a tree: another leaf", {f"{word}{dot}{scope}{dot}q": shape}
    if dot in scope:
        yield "a tree in place of the first word", {f"{word}{dot}{scope.partition(dot)[2]}{dot}{network.leaf}": shape}


def _sides(network: Network) -> tuple[int, int]:
    rows = network.shape[-1] if network.is_hwio else network.shape[0]
    return rows, math.prod(network.shape) // rows
