"""No proven value about a layer at its size is wrong: dense matrices, ball arithmetic, and layers that are all border.

``SPECNORM_SOUNDNESS_LAYERS`` sets how many layers are drawn (the ``soundness`` session of nox: 20,000).
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flint", reason="ball arithmetic: pip install python-flint")

from core.soundness.at_size import AtSize, sample
from core.soundness.layers import Layer, layer
from helpers.oracle import PaddingMode

import specnorm

LAYERS = int(os.environ.get("SPECNORM_SOUNDNESS_LAYERS", "100"))
CHUNK = 100 if LAYERS < 3000 else 1000
FIRST_OPEN = 1_000_000
"""Where the layers of the smaller tests begin: none of the large sample."""


REPEATED: tuple[PaddingMode, ...] = ("reflect", "symmetric", "replicate")


@pytest.mark.parametrize("first", range(0, LAYERS, CHUNK))
def test_bounds_of_layers_are_true(first: int) -> None:
    """With zero padding; of a fifth as many that repeat pixels; and without an allowance for LAPACK's rounding."""
    many = min(CHUNK, LAYERS - first)
    total = sample(range(first, first + many))
    total.add(sample(range(FIRST_OPEN + first, FIRST_OPEN + first + many // 5), REPEATED))
    total.add(
        sample(range(2 * FIRST_OPEN + first, 2 * FIRST_OPEN + first + many // 6), ("zeros", *REPEATED), rigorous=True)
    )
    print(total.summary())  # noqa: T201 - shown by `pytest -rP`
    assert total.violations == []


def test_most_layers_are_enclosed_closely() -> None:
    """The sample would also pass if nothing were ever proven closely."""
    wider = 0
    for index in range(60):
        claims = AtSize(layer(FIRST_OPEN + index))
        claims.enclosure(1e-3)
        wider += sum(claims.tally.open.values())
    assert wider <= 2


LARGE: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((300,), (1,)), ((2000,), (7,)), ((37,), (3,)), ((512, 40), (5, 2)), ((33, 1000), (16, 1)), ((64, 48), (1, 1)),
    ((24, 20, 16), (1, 3, 2)),
]  # fmt: skip


@pytest.mark.parametrize(("sizes", "dilation"), LARGE)
def test_closed_forms_of_large_layers(sizes: tuple[int, ...], dilation: tuple[int, ...]) -> None:
    """Taps [a, b, a] an axis, with padding "same": b + 2 a cos(pi / (m + 1)), m the pixels of one residue."""
    random = np.random.RandomState(sum(sizes))
    for sign in (1.0, -1.0):
        mixed = random.standard_normal((2, 3))
        kernel, norm = mixed, float(np.linalg.norm(mixed, 2))
        for n, r in zip(sizes, dilation, strict=True):
            a, b = random.uniform(0.2, 1.0, size=2).tolist()
            kernel = np.multiply.outer(kernel, np.array([sign * a, b, sign * a]))
            norm *= b + 2 * a * math.cos(math.pi / (-(-n // r) + 1))
        explicit: Any = tuple((r, r) for r in dilation)
        for padding in ("same", explicit):
            found = specnorm.enclose(kernel, sizes, rtol=1e-3, padding_mode="zeros", padding=padding, dilation=dilation)
            assert float(found.lower) <= norm * (1 + 1e-13)
            assert norm * (1 - 1e-13) <= float(found.upper) <= 1.01 * norm


def test_the_check_can_fail() -> None:
    """Ends of another layer are noticed, on either side."""
    right = next(x for x in map(layer, range(100)) if x.family == "normal" and x.kernel.dtype == np.float64)
    for factor, word in ((1 + 1e-9, "lower value"), (1 - 1e-9, "upper value")):
        for rigorous in (False, True):
            claims = AtSize(right, rigorous=rigorous)
            assert float(claims.high) > 0
            larger = Layer(0, "other", right.kernel * factor, right.input_shape, right.geometry)
            claims.drawn = larger
            claims.enclosure(1e-12)
            assert word in " ".join(claims.tally.violations)
