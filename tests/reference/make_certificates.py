"""Writes ``docs/reference-certificates``: a certificate for the reference cases, and one for each reference network.

    PYTHONPATH=.:plugins:tests python -m reference.make_certificates

Layers are what specnorm writes. Networks are parts of `docs/check.py`, bounded together by units; their weights are
searched for here, and whoever checks does not have to know how. Nothing here is trusted.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from test_check import CASES, CHECK, enclosure_of

DOCS = Path(__file__).parents[2] / "docs"
FOLDER = DOCS / "reference-certificates"
PARTS = {
    "dense-relu": [("x", ["s", "y"])],
    "dense-abs": [("x", ["h"]), ("h", ["s"]), ("s", ["y"])],
    "convolutions": [("x", ["s", "y"])],
    "pooling": [("x", ["s"]), ("f", ["y"])],
    "residual": [("x", ["s", "y"])],
}
"""What is bounded together in each of the networks."""
STEPS, MARGIN = 1500, 1e-9


def layers() -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Claims about the reference cases, and their kernels by name."""
    claims, kernels = [], {}
    for at, case in enumerate(CASES):
        kernel, found = enclosure_of(case)
        (claim,) = found.certificate(f"kernel{at}").claims
        claims.append({**claim, "name": case["name"]})
        kernels[f"kernel{at}"] = kernel
    return claims, kernels


def network(path: Path, parts: list[tuple[str, list[str]]]) -> dict[str, Any]:
    """A claim about a network of known size, with weights that a search at random found."""
    arrays, model = CHECK.read_model(path)
    shape = [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim]
    tensors = {name: CHECK.digest(array) for name, array in arrays.items()}
    claim: dict[str, Any] = {"claim": "network", "name": path.stem, "of": "f", "input_shape": shape, "tensors": tensors}
    claim["parts"] = [{"start": start, "values": values, "units": True} for start, values in parts]
    read = CHECK.Network(model, arrays, claim, None)
    draw, total = np.random.RandomState(0), 1.0
    for part in claim["parts"]:
        part["proof"] = {"grid": []}
        sizes = [math.prod(read.shapes[name][1:]) for name in (part["start"], *part["values"])]
        best = [np.ones(n) for n in sizes]
        largest, constant = _largest(read, part, best)
        for at in range(STEPS if len(sizes) > 2 else 0):
            step = 0.3 * 0.996**at
            tried = [best[0], *(w * np.exp(step * draw.standard_normal(len(w))) for w in best[1:-1])]
            tried.append(best[-1] * math.exp(step * draw.standard_normal()))
            found, other = _largest(read, part, tried)
            if other < constant:
                best, largest, constant = tried, found, other
        part["weights"], part["upper"] = [[float(x).hex() for x in w] for w in best], (largest * (1 + MARGIN)).hex()
        total *= constant
    return {**claim, "upper": (total * (1 + 8 * MARGIN)).hex()}


def _largest(read: Any, part: dict[str, Any], weights: list[np.ndarray]) -> tuple[float, float]:
    """K's largest eigenvalue, and the constant that it proves, all weights of the last value being the same."""
    with mock.patch.object(CHECK, "bounded") as bounded:
        read.joint({**part, "upper": (1.0).hex()}, weights)
        largest = float(np.linalg.eigvalsh(bounded.call_args.args[0][0])[-1])
        constant = float(read.joint({**part, "upper": (largest * (1 + MARGIN)).hex()}, weights))
        return largest, constant / float(weights[-1].min())


def text(claims: list[dict[str, Any]]) -> str:
    """A certificate, one line a claim."""
    lines = ",\n".join(json.dumps(claim, separators=(",", ":")) for claim in claims)
    return f'{{"specnorm_certificate":3,"claims":[\n{lines}\n]}}\n'


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    found, kernels = layers()
    (FOLDER / "layers.json").write_text(text(found), encoding="utf-8")
    with (FOLDER / "layers.npz").open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **kernels)
    for name, parts in PARTS.items():
        claim = network(DOCS / "reference-networks" / f"{name}.onnx", parts)
        (FOLDER / f"{name}.json").write_text(text([claim]), encoding="utf-8")
