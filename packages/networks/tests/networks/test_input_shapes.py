"""A shape that is given for a file is used, or refused where the file states another: by functions and the command."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", exc_type=ImportError)
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from specnorm_networks import network_bound, network_graph, nonexpansive  # noqa: E402

import specnorm  # noqa: E402
from specnorm.errors import GeometryError, MethodError, SpecnormError  # noqa: E402

SIZE = 6
STATED: dict[str, tuple[Any, ...]] = {
    "the same": (1, 1, SIZE, SIZE), "open": ("N", 1, "h", "w"), "minus one": (-1, 1, -1, "?"),
    "unknown": (None, 1, None, None), "one of them": (None, 1, "h", SIZE), "another": (1, 1, 2, 2),
    "another width": (-1, 1, "h", 7),
}  # fmt: skip
GIVEN: dict[str, Any] = {
    "an int": SIZE, "spatial sizes": (SIZE, SIZE), "a sample's shape": (1, SIZE, SIZE), "a list": [1, SIZE, SIZE],
    "by name": {"x": (1, 1, SIZE, SIZE)}, "an input": np.zeros((1, 1, SIZE, SIZE)),
}  # fmt: skip
ASK: dict[str, Callable[[str, Any], Any]] = {
    "network_bound": lambda path, shape: network_bound(path, shape, budget=5),
    "of a proto": lambda path, shape: network_bound(onnx.load(path), shape, budget=5),
    "nonexpansive": lambda path, shape: nonexpansive(path, shape, steps=2, budget=5).bound,
    "audit": lambda path, shape: specnorm.audit(path, input_shape=shape, budget=5).network,
}


def norm_at(n: int) -> float:
    """The norm of a 3 x 3 kernel of ones on n x n pixels with zeros around."""
    return (1 + 2 * math.cos(math.pi / (n + 1))) ** 2


def saved(stated: tuple[Any, ...], path: Path) -> str:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, of) for name, of in (("x", stated), ("y", None)))
    kernel = numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "k")
    node = helper.make_node("Conv", ["x", "k"], ["y"], pads=[1] * 4)
    graph = helper.make_graph([node], "g", [x], [y], [kernel])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return str(path)


@pytest.mark.parametrize("ask", ASK)
@pytest.mark.parametrize("stated", STATED)
def test_a_shape_is_used_or_refused(stated: str, ask: str, tmp_path: Path) -> None:
    """The bound of the file's own 2 x 2, and "give the input shape", were answers to 6 x 6."""
    path = saved(STATED[stated], tmp_path / "m.onnx")
    names = list(GIVEN)
    if ask != "network_bound":
        names = [names[list(STATED).index(stated) % 5], "a sample's shape"]
    for given in map(GIVEN.get, names):
        if stated.startswith("another"):
            with pytest.raises(GeometryError, match="the file states"):
                ASK[ask](path, given)
            continue
        found = ASK[ask](path, given)
        assert found.input_shapes == {"x": (1, 1, SIZE, SIZE)}
        assert norm_at(SIZE) <= found.upper * (1 + 1e-12) <= norm_at(SIZE) * 1.002


def test_shapes_that_no_input_has_are_refused(tmp_path: Path) -> None:
    path = saved(("N", "c", "h", "w"), tmp_path / "m.onnx")
    refused: dict[Any, tuple[type[SpecnormError], str]] = {
        (1, 2, 3, SIZE, SIZE): (GeometryError, "no input of 1x2x3x6x6: x is Nxcxhxw"),
        SIZE: (MethodError, "not all sizes of x, Nxcxhxw in the file, are stated"),
        ((1, 1, 6, 6), (1, 3)): (GeometryError, "2 inputs are given; the network has 1: x"),
    }
    for given, (error, words) in refused.items():
        with pytest.raises(error, match=words):
            network_bound(path, given)
    graph = network_graph(saved(STATED["another"], tmp_path / "n.onnx"))
    assert network_bound(graph, (1, 2, 2)).upper == network_bound(graph).upper
    with pytest.raises(GeometryError, match="the graph's inputs have the shapes"):
        network_bound(graph, (1, SIZE, SIZE))


def test_an_input_or_a_centre_sets_the_number_of_samples(tmp_path: Path) -> None:
    path = saved(STATED["open"], tmp_path / "m.onnx")
    samples = np.zeros((3, 1, SIZE, SIZE))
    for found in (network_bound(path, samples), network_bound(path, centre=samples, radius=1.0)):
        assert found.input_shapes == {"x": samples.shape}
