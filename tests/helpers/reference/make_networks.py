"""Bounds in ``docs/reference-networks.json`` of the tiny networks beside it. Imports nothing of specnorm.

    python -m helpers.reference.make_networks

Each is piecewise linear with few switches, so that its Jacobian is one of a list of matrices, written out here. Their
largest norm is an upper bound of the constant, and a point whose switches stand as they must gives an attained pair.
Weights are small multiples of 1/8, so exact; the upper bound is raised, the lower one lowered by 1e-9, far more than
a singular value decomposition of such matrices is off by.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

Float = NDArray[np.float64]
Weights = dict[str, Float]
FOLDER = Path(__file__).parents[3] / "docs" / "reference-networks"
FILE = FOLDER.with_suffix(".json")
MARGIN = 1e-9
SAMPLES = 4000


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


def pooling(w: Weights) -> Iterator[Float]:
    """A ReLU that is off takes a whole window away."""
    for kept in itertools.product((0.0, 1.0), repeat=4):
        yield from pooled(w["head"] @ np.diag(kept), convolution(w["k"], 4), 4)


def all_on(w: Weights) -> Iterator[Float]:
    """With positive weights, no pattern has a larger norm than all ReLUs on."""
    parts = [convolution(w["m"][:, j : j + 1], 4) @ convolution(w["k"][j : j + 1], 4) for j in range(2)]
    yield parts[0] + parts[1]


JACOBIANS: dict[str, Callable[[Weights], Iterator[Float]]] = {
    "dense-relu": lambda w: switched(w["b"], w["a"], (0.0, 1.0)),
    "dense-abs": lambda w: switched(w["b"], w["a"], (-1.0, 1.0)),
    "residual": lambda w: switched(w["b"], w["a"], (0.25, 1.0), 1.0), "convolutions": all_on, "pooling": pooling,
}  # fmt: skip
"""Every matrix that a network's Jacobian may be, of its weights."""


def model_of(name: str) -> onnx.ModelProto:
    return onnx.load(FOLDER / f"{name}.onnx")


def pair_of(name: str, shape: list[int]) -> tuple[Float, Float, float]:
    """Two inputs in one linear piece, among many the one with the largest norm, and their ratio."""
    run: Any = ReferenceEvaluator(model_of(name))

    def f(x: Float) -> Float:
        y: Float = np.asarray(run.run(None, {"x": x.reshape(1, *shape)})[0])
        return y.ravel()

    size, rng, best = int(np.prod(shape)), np.random.RandomState(0), (np.zeros(1), np.zeros(1), -1.0)
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


def upper_of(name: str) -> float:
    """The largest norm of a Jacobian, raised."""
    weights = {x.name: np.asarray(numpy_helper.to_array(x)) for x in model_of(name).graph.initializer}
    return max(float(np.linalg.norm(j, 2)) for j in JACOBIANS[name](weights)) * (1 + MARGIN)


def main() -> None:
    rows = json.loads(FILE.read_text(encoding="utf-8"))["networks"]
    for row in rows:
        x, y, ratio = pair_of(row["name"], row["input_shape"])
        row |= {"lower": ratio * (1 - MARGIN), "upper": upper_of(row["name"]), "pair": [x.tolist(), y.tolist()]}
    FILE.write_text(json.dumps({"networks": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
