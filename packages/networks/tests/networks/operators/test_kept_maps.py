"""Linear maps that are kept while a network is executed many times: made once, the same, and not beyond a limit."""

from __future__ import annotations

import numpy as np
import pytest
from specnorm_networks.certified import operators
from specnorm_networks.certified.operators.base import Place, keep_linear_maps
from specnorm_networks.certified.operators.layers import Layer


def convolution(seed: int = 0) -> operators.Convolution:
    kernel = np.random.default_rng(seed).standard_normal((2, 2, 3, 3))
    return operators.Convolution(Layer(f"layer {seed}", lambda: kernel, {"padding_mode": "zeros", "padding": 1}, 2))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[operators.Convolution]:
    """Convolutions whose maps were made, in order."""
    made: list[operators.Convolution] = []
    plain = operators.Convolution.map_at

    def counting(self: operators.Convolution, *befores: tuple[int, ...]) -> object:
        made.append(self)
        return plain(self, *befores)

    monkeypatch.setattr(operators.Convolution, "map_at", counting)
    return made


def test_a_map_is_made_once_for_each_operator_and_shape(counted: list[operators.Convolution]) -> None:
    one, other = convolution(0), convolution(1)
    x = np.random.default_rng(2).standard_normal((1, 2, 5, 6))
    alone = [one.run(x), other.run(x), one.run(x[..., 1:])]
    counted.clear()
    with keep_linear_maps():
        for _ in range(3):
            for found, expected in zip([one.run(x), other.run(x), one.run(x[..., 1:])], alone, strict=True):
                np.testing.assert_array_equal(found, expected)
        assert one.linear_map(Place((x.shape,), (1, 2, 5, 7))) is None  # a value of another shape is still refused
    assert counted == [one, other, one]
