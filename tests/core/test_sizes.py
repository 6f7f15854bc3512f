"""Circular padding with a stride: what is promised of every input size holds there, or says which sizes it means."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle import Truth, dense_norm

import specnorm
from specnorm.problem.spec import ConvSpec, at_every_size

ONES = np.ones((1, 1, 3))


def circular_norm(kernel: NDArray[Any], n: int, stride: int) -> Truth:
    """Of a one-axis layer padded by one pixel on each side."""
    return dense_norm(kernel, n, stride=stride, padding=1)


def test_the_condition_is_needed_and_stride_1_has_none() -> None:
    """Three ones with stride 2 on three pixels: sqrt(6), above every bound of even sizes."""
    assert circular_norm(ONES, 3, 2).lo == pytest.approx(6**0.5)
    found = specnorm.enclose(ONES, stride=2)
    assert float(found.upper) < 2.24
    assert "every input size that the stride divides" in found.status
    assert "divides" not in specnorm.enclose(ONES).status
    for n in range(2, 9):
        upper = float(specnorm.enclose(ONES, stride=1).upper)
        assert circular_norm(ONES, n, 2).lo <= (upper if n % 2 else float(found.upper))


CASES: list[tuple[dict[str, Any], bool]] = [
    ({"stride": 2}, True),
    ({}, False),
    ({"stride": 2, "padding_mode": "zeros"}, False),
    ({"stride": 2, "padding_mode": "reflect"}, False),
    ({"stride": 2, "padding": 0}, False),
    ({"stride": 2, "padding": 1}, True),
    ({"stride": 2, "transposed": True}, False),
]


@pytest.mark.parametrize(("geometry", "divided"), CASES)
def test_a_result_says_which_sizes(geometry: dict[str, Any], divided: bool) -> None:
    words = "every input size that the stride divides" if divided else "every input size"
    spec = ConvSpec.of((2, 2, 3), **geometry)
    assert spec.sizes == words
    assert not ConvSpec.of((2, 2, 3), **at_every_size(geometry)).divided
    if not divided:
        assert at_every_size(geometry) == geometry


def test_certify_in_place_means_every_size() -> None:
    """A circular layer with a stride is shrunk by what bounds sizes that the stride does not divide, too."""
    torch = pytest.importorskip("torch")
    specnorm_torch = pytest.importorskip("specnorm_torch")
    layer = torch.nn.Conv1d(1, 1, 3, stride=2, padding=1, padding_mode="circular", bias=False, dtype=torch.float64)
    layer.weight.data.fill_(1.0)
    specnorm_torch.rescale_(torch.nn.Sequential(layer), 1.0)
    kernel = layer.weight.detach().numpy()
    assert max(circular_norm(kernel, n, 2).lo for n in range(2, 12)) <= 1
    assert circular_norm(kernel, 3, 2).lo > 0.8
