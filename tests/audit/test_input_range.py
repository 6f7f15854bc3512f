"""`--input-range`: the network of a file on inputs between two numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", exc_type=ImportError)
pytest.importorskip("click")
from onnx.reference import ReferenceEvaluator  # noqa: E402

import specnorm  # noqa: E402
from audit.onnx_models import drawing, model, node, saved  # noqa: E402

WEIGHTS = drawing(np.random.RandomState(3))(4, 4)
NODES = [node("MatMul", "x", "w", out="a"), node("Mul", "a", "a", out="s"), node("Mul", "s", "x")]
"""``x (x W)^2``: no constant, but on a range."""


@pytest.fixture
def cubic(tmp_path: Path) -> Path:
    return saved(model(NODES, {"w": WEIGHTS}, (1, 4)), tmp_path / "cubic.onnx")


@pytest.mark.parametrize("ends", [(0.0, 1.0), (-1.0, 2.0), (-3.0, -2.0)])
def test_a_bound_on_the_range_and_no_further(cubic: Path, ends: tuple[float, float]) -> None:
    """Above every quotient of two inputs in the range, below some beside it."""
    found = specnorm.audit(cubic, input_range=ends).network
    assert found is not None
    assert found.upper is not None
    run: Any = ReferenceEvaluator(onnx.load(str(cubic)))
    random = np.random.default_rng(0)

    def steepest(low: float, high: float) -> float:
        x = [random.uniform(low, high, (1, 4)).astype(np.float32) for _ in range(200)]
        x += [random.choice([low, high], (1, 4)).astype(np.float32) for _ in range(50)]
        y = [run.run(["y"], {"x": each})[0] for each in x]
        # float32 rounds both.
        return max(
            float(np.linalg.norm(y[i] - y[j]) / np.linalg.norm(x[i] - x[j]))
            for i in range(len(x))
            for j in range(i)
            if np.linalg.norm(x[i] - x[j]) > 0.1
        )

    assert steepest(*ends) < found.upper * (1 + 1e-5)
    assert steepest(10 * min(ends[0], -1.0), 10 * max(ends[1], 1.0)) > found.upper
    assert found.input_ranges == {"x": ends}
