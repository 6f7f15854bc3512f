"""What monitors report of a product of proven bounds is no smaller than the product."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from specnorm_train.monitoring import Monitor

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
