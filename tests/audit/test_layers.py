"""Which arrays are layers, and which are refused by name rather than left out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from specnorm_audit.layers import Layer, select
from specnorm_networks.model_arrays import Tensor


def _tensor(name: str, shape: tuple[int, ...], dtype: str = "float32") -> Tensor:
    def load() -> None:
        raise AssertionError("selecting must not load")

    return Tensor(name, shape, dtype, load)


def _names(layers: list[Layer]) -> list[str]:
    return [layer.tensor.name for layer in layers]


@pytest.mark.parametrize(
    ("shape", "kind"), [((3, 8), "linear"), ((2, 4, 5), "conv"), ((4, 3, 3, 3), "conv"), ((2, 2, 1, 1, 3), "conv")]
)
def test_two_axes_are_linear_and_three_to_five_conv(shape: tuple[int, ...], kind: str) -> None:
    found = select([_tensor("x.weight", shape)])
    (layer,) = found.layers
    assert (layer.kind, layer.refusal, len(found.skipped), found.unmeasured) == (kind, None, 0, [])


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("scalar", (), "float32"),
        ("bn.weight", (4,), "float32"),
        ("six", (1, 1, 1, 1, 1, 1), "float32"),
        ("index", (4, 4), "int64"),
        ("mask", (4, 4), "bool"),
        ("spectrum", (4, 4), "complex64"),
        ("conv.bias", (1, 4, 1, 1), "float32"),
    ],
)
def test_what_is_no_layer(name: str, shape: tuple[int, ...], dtype: str) -> None:
    """And what could be one nevertheless, by its shape and its numbers, is named with the reason."""
    found = select([_tensor(name, shape, dtype), _tensor("conv.weight", (2, 2, 3))])
    assert _names(found.layers) == ["conv.weight"]
    assert len(found.skipped) == 1
    certain = len(shape) < 2 or dtype in ("int64", "bool")
    assert _names(found.unmeasured) == ([] if certain else [name])
    assert all(layer.refusal for layer in found.unmeasured)


@pytest.mark.parametrize(
    ("length", "direction"),
    [("a.weight_g", "a.weight_v"), ("a.parametrizations.weight.original0", "a.parametrizations.weight.original1")],
)
def test_weight_normalisation_is_refused_not_measured(length: str, direction: str) -> None:
    found = select([_tensor(length, (4, 1, 1)), _tensor(direction, (4, 3, 3))])
    (layer,) = found.layers
    assert layer.tensor.name == direction
    assert "weight normalisation" in str(layer.refusal)
    assert (len(found.skipped), found.unmeasured) == (1, [])


def test_what_the_file_says_comes_first() -> None:
    said = [
        replace(_tensor("a.bias", (4, 3, 3, 3)), kind="conv", assumed=("x",)),
        replace(_tensor("b", (4, 36), "int8"), kind="linear"),
        replace(_tensor("c.weight", (4, 3, 3, 3)), kind="none"),
        replace(_tensor("d.weight", ()), kind="unknown", refusal="lost"),
        replace(_tensor("d.bias", ()), kind="unknown", refusal="lost"),
        replace(_tensor("e.weight", (4, 3)), refusal="damaged"),
    ]
    found = select(said)
    layers = found.layers
    assert [(layer.tensor.name, layer.kind, layer.refusal) for layer in layers] == [
        ("a.bias", "conv", None),
        ("b", "linear", None),
        ("d.weight", "unknown", "lost"),
        ("e.weight", "linear", "damaged"),
    ]
    assert layers[0].assumed == ("x",)
    assert len(found.skipped) == 2
    assert [(layer.tensor.name, layer.refusal) for layer in found.unmeasured] == [("d.bias", "lost")]
