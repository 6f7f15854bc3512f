"""Makes ``docs/reference-networks.json``: tiny networks and their Lipschitz constants. Imports nothing of specnorm.

    python -m helpers.reference.make_networks

Each is piecewise linear with few switches, so that its Jacobian is one of a list of matrices, written out here. Their
largest norm is an upper bound of the constant, and a point whose switches stand as they must gives an attained pair.
Weights are small multiples of 1/8, so exact; the upper bound is raised, the lower one lowered by 1e-9, far more than
a singular value decomposition of such matrices is off by.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

Float = NDArray[np.float64]
FOLDER = Path(__file__).parents[3] / "docs" / "reference-networks"
FILE = FOLDER.with_suffix(".json")
MARGIN = 1e-9
SAMPLES = 4000


@dataclass(frozen=True, eq=False)
class Network:
    """An ONNX graph, and every matrix that its Jacobian may be."""

    name: str
    model: onnx.ModelProto
    shape: tuple[int, ...]
    jacobians: Callable[[], Iterator[Float]]


def weights(seed: int, *shape: int, positive: bool = False) -> Float:
    """Multiples of 1/8 in [-1, 1], or in (0, 1]."""
    return np.random.RandomState(seed).randint(1 if positive else -8, 9, shape) / 8.0


def model(title: str, nodes: list[Any], shape: tuple[int, ...], outputs: tuple[int, ...], **arrays: Float) -> Any:
    """A graph from x to y, in float64."""
    ends = [
        helper.make_tensor_value_info(end, TensorProto.DOUBLE, [1, *size])
        for end, size in (("x", shape), ("y", outputs))
    ]
    constants = [numpy_helper.from_array(np.ascontiguousarray(x), key) for key, x in arrays.items()]
    graph = helper.make_graph(nodes, title, ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="")


def node(operator: str, *names: str, **attributes: Any) -> Any:
    """A node; the last name is its output."""
    return helper.make_node(operator, names[:-1], names[-1:], **attributes)


def switched(last: Float, first: Float, slopes: tuple[float, float], skip: float = 0.0) -> Iterator[Float]:
    """``last D first + skip I`` for all diagonals D of two slopes."""
    for pattern in itertools.product(slopes, repeat=len(first)):
        yield last @ (np.asarray(pattern)[:, None] * first) + (
            skip * np.eye(len(last), first.shape[1]) if skip else 0.0
        )


def convolution(kernel: Float, n: int) -> Float:
    """Matrix of a zero-padded 3x3 convolution of n x n pixels, one channel to several."""
    rows = []
    for taps, i, j in itertools.product(kernel[:, 0], range(n), range(n)):
        image = np.zeros((n + 2, n + 2))
        image[i : i + 3, j : j + 3] = taps
        rows.append(image[1:-1, 1:-1].ravel())
    return np.asarray(rows)


def pooled(head: Float, matrix: Float, n: int) -> Iterator[Float]:
    """``head S matrix`` for all S that choose one pixel of each 2x2 window."""
    windows = [
        [(2 * i + a) * n + 2 * j + b for a in (0, 1) for b in (0, 1)] for i in range(n // 2) for j in range(n // 2)
    ]
    for chosen in itertools.product(*windows):
        yield head @ matrix[list(chosen)]


def networks() -> list[Network]:
    found = []
    for name, operator, slopes, seed in (("relu", "Relu", (0.0, 1.0), 1), ("abs", "Abs", (-1.0, 1.0), 2)):
        a, b, c = weights(seed, 7, 4), weights(seed + 10, 3, 7), weights(seed + 20, 7)
        graph = [
            node("Gemm", "x", "a", "c", "h", transB=1),
            node(operator, "h", "s"),
            node("Gemm", "s", "b", "y", transB=1),
        ]
        built = model(f"dense {name}", graph, (4,), (3,), a=a, b=b, c=c)
        found.append(Network(f"dense-{name}", built, (4,), functools.partial(switched, b, a, slopes)))
    a, b, c = weights(3, 8, 4), weights(13, 4, 8) / 2, weights(23, 8)
    graph = [
        node("Gemm", "x", "a", "c", "h", transB=1), node("LeakyRelu", "h", "s", alpha=0.25),
        node("Gemm", "s", "b", "r", transB=1), node("Add", "x", "r", "y"),
    ]  # fmt: skip
    built = model("residual", graph, (4,), (4,), a=a, b=b, c=c)
    found.append(Network("residual", built, (4,), functools.partial(switched, b, a, (0.25, 1.0), 1.0)))
    k, m = weights(4, 2, 1, 3, 3, positive=True), weights(14, 1, 2, 3, 3, positive=True)
    pads: dict[str, Any] = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    graph = [node("Conv", "x", "k", "h", **pads), node("Relu", "h", "s"), node("Conv", "s", "m", "y", **pads)]
    whole = sum(convolution(m[:, j : j + 1], 4) @ convolution(k[j : j + 1], 4) for j in range(2))
    # With positive weights, no pattern has a larger norm than all ReLUs on.
    built = model("positive convolutions", graph, (1, 4, 4), (1, 4, 4), k=k, m=m)
    found.append(Network("convolutions", built, (1, 4, 4), lambda: iter([np.asarray(whole)])))
    k, head = weights(5, 1, 1, 3, 3, positive=True), weights(15, 2, 4)
    graph = [
        node("Conv", "x", "k", "h", **pads), node("Relu", "h", "s"),
        node("MaxPool", "s", "p", kernel_shape=[2, 2], strides=[2, 2]), node("Flatten", "p", "f"),
        node("Gemm", "f", "head", "y", transB=1),
    ]  # fmt: skip
    built = model("pooling", graph, (1, 4, 4), (2,), k=k, head=head)
    matrix = convolution(k, 4)
    subsets = [np.diag(d) for d in itertools.product((0.0, 1.0), repeat=4)]
    # A ReLU that is off takes a whole window away.
    found.append(
        Network("pooling", built, (1, 4, 4), lambda: (j for d in subsets for j in pooled(head @ d, matrix, 4)))
    )
    return found


def pair_of(network: Network) -> tuple[Float, Float, float]:
    """Two inputs in one linear piece, among many the one with the largest norm, and their ratio."""
    run: Any = ReferenceEvaluator(network.model)

    def f(x: Float) -> Float:
        y: Float = np.asarray(run.run(None, {"x": x.reshape(1, *network.shape)})[0])
        return y.ravel()

    size, rng, best = int(np.prod(network.shape)), np.random.RandomState(0), (np.zeros(1), np.zeros(1), -1.0)
    candidates = [rng.standard_normal(size) * s for s in (0.5, 1.0, 2.0) for _ in range(SAMPLES // 30)]
    for x in [*candidates, *(np.abs(x) + 1 for x in candidates[:9])]:
        here = f(x)
        jacobian = np.stack([(f(x + 2.0**-20 * e) - here) * 2.0**20 for e in np.eye(size)], axis=1)
        _, _, v = np.linalg.svd(jacobian)
        for step in (1.0, 1e-3):
            # Few bits, so that the difference of the inputs is what it seems.
            d = np.round(v[0] * step * 2**20) / 2**20
            there, here_ = np.round(x * 2**20) / 2**20 + d, np.round(x * 2**20) / 2**20
            ratio = float(np.linalg.norm(f(there) - f(here_)) / np.linalg.norm(d))
            if ratio > best[2]:
                best = (here_, there, ratio)
    return best


def upper_of(network: Network) -> float:
    """The largest norm of a Jacobian, raised."""
    return max(float(np.linalg.norm(j, 2)) for j in network.jacobians()) * (1 + MARGIN)


def row(network: Network) -> dict[str, Any]:
    x, y, ratio = pair_of(network)
    return {
        "name": network.name, "file": f"{FOLDER.name}/{network.name}.onnx", "input_shape": list(network.shape),
        "lower": ratio * (1 - MARGIN), "upper": upper_of(network), "pair": [x.tolist(), y.tolist()],
    }  # fmt: skip


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    made = networks()
    for network in made:
        (FOLDER / f"{network.name}.onnx").write_bytes(network.model.SerializeToString(deterministic=True))
    FILE.write_text(json.dumps({"networks": [row(network) for network in made]}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
