"""The norm of three published layers against their input size, and what bounds it.

True: Lanczos on A*A, every vector orthogonalised against all others, until the residual is 1e-10 of the value. Ring:
the largest symbol at the DFT frequencies of the shortest ring. Twisted: the least of the four rings that multiply by 1
or -1 an axis. Written apart from specnorm's code: only the supremum and the enclosure are its.
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from real_weights import real_kernel
from torch.nn.functional import conv2d, conv_transpose2d

import specnorm
from bench import facts

LAYERS = [
    ("resnet20", "layer2.1.conv1", 1),
    ("dncnn25", "model.10", 1),
    ("espnet", "encoder.level2.1.d4.conv", 4),
]
"""Model, name, dilation. Stride 1, padding "same"."""
SIZES = (3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36, 38, 40)
RESIDUAL = 1e-10


def measure(out: Path) -> None:
    with out.open("w", encoding="utf-8") as file:
        for model, name, dilation in LAYERS:
            kernel = real_kernel(model, name)
            everywhere = specnorm.enclose(kernel.astype(np.float64), rtol=1e-9)
            for n in SIZES:
                row = point(kernel.astype(np.float64), n, dilation)
                row |= {"model": model, "name": name, "shape": list(kernel.shape), "dilation": dilation, "n": n}
                row |= {"supremum": float(everywhere.upper), "commit": facts.commit(), "date": facts.date()}
                file.write(json.dumps(row) + "\n")
                file.flush()
                print(
                    model,
                    name,
                    n,
                    *(f"{row[key] / row['true'] - 1:.1e}" for key in ("supremum", "ring", "twisted", "upper")),
                )


def point(kernel: np.ndarray, n: int, dilation: int) -> dict[str, Any]:
    """Every number at one size."""
    length = -(-(n + dilation * (kernel.shape[2] // 2)) // dilation) * dilation
    halves = itertools.product((0.0, 0.5), (0.0, 0.5))
    rings = {turns: ring(kernel, length // dilation, turns) for turns in halves}
    found = specnorm.enclose(kernel, n, rtol=1e-3, padding_mode="zeros", padding="same", dilation=dilation)
    value, residual = true_norm(kernel, n, dilation)
    return {
        "true": value,
        "residual": residual,
        "ring": rings[0.0, 0.0],
        "twisted": min(rings.values()),
        "lower": float(found.lower),
        "upper": float(found.upper),
        "status": found.status,
    }


def ring(kernel: np.ndarray, points: int, turns: tuple[float, float]) -> float:
    """Largest norm of the symbol at ``2 pi (j + turns) / points``, half of the frequencies."""
    taps = [np.arange(k) for k in kernel.shape[2:]]
    first, second = (
        np.exp(2j * math.pi * np.outer(np.arange(points) + turn, tap) / points)
        for turn, tap in zip(turns, taps, strict=True)
    )
    symbols = np.einsum("oikl,fk->foil", kernel, first[: points // 2 + 1])
    wide = kernel.shape[0] < kernel.shape[1]
    best = 0.0
    for one in symbols:
        g = np.einsum("oil,fl->foi", one, second)
        gram = g @ np.conj(np.swapaxes(g, 1, 2)) if wide else np.conj(np.swapaxes(g, 1, 2)) @ g
        best = max(best, float(np.linalg.eigvalsh(gram)[:, -1].max()))
    return math.sqrt(best)


def true_norm(kernel: np.ndarray, n: int, dilation: int) -> tuple[float, float]:
    """Norm of the layer at n pixels, and the residual of its square, relative."""
    weights = torch.tensor(kernel)
    options = {"padding": dilation * (kernel.shape[2] // 2), "dilation": dilation}
    shape, size = (1, kernel.shape[1], n, n), kernel.shape[1] * n * n
    random = np.random.RandomState(0)
    basis = np.empty((min(size, 900) + 1, size))
    start = random.standard_normal(size)
    basis[0] = start / np.linalg.norm(start)
    diagonal: list[float] = []
    off: list[float] = []
    value = residual = 0.0
    for step in range(len(basis) - 1):
        x = torch.tensor(basis[step]).reshape(shape)
        y = conv_transpose2d(conv2d(x, weights, **options), weights, **options).numpy().reshape(-1)
        diagonal.append(float(basis[step] @ y))
        for _ in range(2):
            y = y - basis[: step + 1].T @ (basis[: step + 1] @ y)
        off.append(float(np.linalg.norm(y)))
        if step % 10 == 9 or step == len(basis) - 2 or off[-1] < 1e-13 * diagonal[0]:
            small = np.diag(diagonal) + np.diag(off[:-1], 1) + np.diag(off[:-1], -1)
            values, vectors = np.linalg.eigh(small)
            value, residual = float(values[-1]), off[-1] * abs(float(vectors[-1, -1])) / float(values[-1])
            if residual <= RESIDUAL:
                break
        basis[step + 1] = y / off[-1]
    return math.sqrt(value), residual
