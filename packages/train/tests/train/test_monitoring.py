"""What monitors report of a product of proven bounds is no smaller than the product."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from unittest.mock import Mock

import numpy as np
import pytest
from specnorm_train import monitoring
from specnorm_train.monitoring import Monitor

import specnorm
from specnorm.plugin import LayerKernel


def products_that_are_too_small() -> Iterator[float]:
    for seed in range(12):
        matrices = np.random.RandomState(seed).standard_normal((5, 2, 3))
        layers = {str(at): LayerKernel(matrix, {}) for at, matrix in enumerate(matrices)}
        report = Monitor(1, upper=1, budget=1.0).measured(layers)
        product = report["upper/product"]
        if Fraction(product) < math.prod(Fraction(report[f"upper/{name}"]) for name in layers):
            yield product


def test_the_product_of_upper_bounds_is_rounded_up() -> None:
    assert [*products_that_are_too_small()] == []


def test_a_report_is_as_close_as_its_proofs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a kernel that grows a little, which needs no search, and moves by a tenth; a norm that was tracked too low is
    raised to the proven one."""
    searched = Mock(side_effect=specnorm.enclose)
    monkeypatch.setattr(monitoring, "enclose", searched)
    kernel, direction = (x / float(specnorm.enclose(x).lower) for x in np.random.RandomState(0).randn(2, 6, 5, 3, 3))
    kernel, monitor = kernel / 2, Monitor(1, upper=1, budget=5.0)
    for grown, moved, tracked, searches in ((1, 0, 1.0, 1), (1.02, 0, 1.0, 1), (1, 0.1, 1.0, 2), (1, 0, 0.5, 3)):
        kernel = grown * kernel + moved * direction / 2
        norm = float(specnorm.enclose(kernel, rtol=1e-9).lower)
        monkeypatch.setattr(monitor, "_norms", lambda _, x=tracked * norm: {"0": x})
        report = monitor.measured({"0": LayerKernel(kernel, {})})
        assert searched.call_count == searches
        assert norm <= report["upper/0"] <= 1.051 * norm
        assert report["norm/0"] == pytest.approx(norm, rel=1e-6 if tracked == 1 else 0.021)


def test_a_norm_just_above_one_is_not_said_to_be_one() -> None:
    """In no time its lower bound is below 1, and nothing else is proven."""
    for seed in (0, 2, 3):
        kernel = np.random.RandomState(seed).standard_normal((8, 8, 5, 5))
        kernel *= 1.001 / float(specnorm.enclose(kernel).lower)
        assert specnorm.enclose(kernel, budget=1e-9).lower < 1
        report = Monitor(1, upper=1, budget=1e-9).measured({"0": LayerKernel(kernel, {})})
        assert report["upper/0"] >= specnorm.enclose(kernel).lower
