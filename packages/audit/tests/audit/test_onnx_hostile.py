"""ONNX files that are hostile, damaged or in parts, read and executed: rows, values or a message, and soon."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", exc_type=ImportError)
from helpers.onnx_models import drawing, node, saved, single, values_of
from onnx import TensorProto, helper
from specnorm_audit import network
from specnorm_networks import Graph, Product
from specnorm_networks.comparison.checking import check
from specnorm_networks.model import Model, NotExecutedError
from specnorm_networks.onnx import read
from specnorm_networks.onnx.evaluator import NotEvaluatedError, evaluate
from specnorm_networks.tools import bound

import specnorm
from audit import files
from specnorm.errors import ModelFileError

weights = drawing(np.random.RandomState(0))


# -- external data -------------------------------------------------------------------------------------------------
def external(location: str, **entries: int | str) -> Any:
    tensor = TensorProto(name="w", data_type=1, dims=[3, 3], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    proto = single([node("MatMul", "x", "w")], (1, 3))
    proto.graph.initializer.append(tensor)
    return proto


def test_external_data_are_read(tmp_path: Path) -> None:
    w = weights(3, 3)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w.bin").write_bytes(b"12345678" + w.tobytes())
    (row,) = specnorm.audit(saved(external("data/w.bin", offset=8, length=36), tmp_path / "m.onnx")).layers
    assert row.lower is not None, row.reason
    assert row.lower <= np.linalg.norm(w.astype(np.float64), 2) * (1 + 1e-6)


@pytest.mark.parametrize(
    ("location", "entries", "word"),
    [
        ("../w.bin", {}, "leaves the model's folder"), ("link.bin", {}, "leaves the model's folder"),
        ("{absolute}", {}, "relative to the model"), ("pipe", {}, "not a regular file"),
        ("inside.bin", {"offset": 8}, "which has 36"), ("inside.bin", {"length": 35}, "takes 36 bytes"),
        ("inside.bin", {"offset": -4}, "not a whole number"),
        ("inside.bin", {"offset": "\u0663"}, "not a whole number"), ("missing.bin", {}, "cannot be read"),
        ("a\0b", {}, "relative to the model"), ("", {}, "relative to the model"),
    ],
)  # fmt: skip
def test_external_data_stay_in_the_folder(tmp_path: Path, location: str, entries: dict[str, Any], word: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(weights(3, 3).tobytes())
    (folder / "inside.bin").write_bytes(weights(3, 3).tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "w.bin")
    os.mkfifo(folder / "pipe")
    proto = external(location.format(absolute=tmp_path / "w.bin"), **entries)
    (row,) = specnorm.audit(saved(proto, folder / "m.onnx")).layers
    assert row.status == "error"
    assert word in str(row.reason)


W, HUGE = {"w": weights(2, 2, 3, 3)}, 2**62
IMAGE = (1, 2, 9, 9)


def conv(**given: Any) -> Any:
    return single([node("Conv", "x", "w", **given)], (1, 2, 4, 4), W)


def behind(*nodes: Any, shape: Any = IMAGE, **arrays: Any) -> Any:
    return single([node("Conv", "x", "w", out="a"), *nodes], shape, W | arrays)


def row(count: int) -> Any:
    names = ["x", *(f"v{at}" for at in range(count - 1)), "y"]
    layers = [node("Conv", a, "w", pads=[1, 0, 2, 1], out=b) for a, b in itertools.pairwise(names)]
    return single(layers, (1, 2, "h", "w"), W)


GRAPHS: dict[str, Callable[[], Any]] = {
    "pads": lambda: conv(pads=[HUGE] * 4),
    "strides of 0": lambda: conv(strides=[0, 1]),
    "negative dilation": lambda: conv(dilations=[-1, 1]),
    "groups": lambda: conv(group=7),
    "another kernel_shape": lambda: conv(kernel_shape=[5, 5]),
    "attributes of another type": lambda: conv(strides="two", pads=1.5),
    "rank": lambda: single([node("Conv", "x", "w")], (1, 2, 4), W),
    "input of 2**62": lambda: behind(node("AveragePool", "a", kernel_shape=[HUGE, 3]), shape=(1, 2, HUGE, HUGE)),
    "pool over everything": lambda: behind(
        node("AveragePool", "a", kernel_shape=[60000, 60000], pads=[9, 9, 9, 9]), shape=(1, 2, 65000, 65000)),
    "resize": lambda: behind(
        node("Resize", "a", "", "s", mode="linear"), s=np.array([1, 1, 1e30, 1e30], np.float32)),
    "scales that are no numbers": lambda: behind(
        node("Resize", "a", "", "s"), s=np.array([1, 1, np.nan, np.inf], np.float32)),
    "filled": lambda: behind(
        node("ConstantOfShape", "n", out="c"), node("Add", "a", "c"), n=np.array([HUGE, HUGE])),
    "slope": lambda: behind(node("LeakyRelu", "a", alpha=float("nan"))),
    "division by zero": lambda: behind(node("Div", "a", "z"), z=np.float32(0)),
    "negative variance": lambda: behind(
        node("BatchNormalization", "a", "g", "g", "g", "v"), g=weights(2), v=-np.ones(2, np.float32)),
    "one value twice": lambda: single([node("Conv", "x", "w"), node("Conv", "x", "w")], (1, 2, 4, 4), W),
    "a circle": lambda: single([node("Conv", "y", "w", out="a"), node("Relu", "a")], (1, 2, 4, 4), W),
    "a thousand layers": lambda: row(1000),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=[pytest.mark.nightly] * (x == "a thousand layers")) for x in GRAPHS]
)
def test_hostile_graphs_give_rows_or_messages(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "a thousand layers":
        # Layers together take a thousand of them minutes.
        files.read_here(monkeypatch)
        monkeypatch.setattr(network, "bound", lambda graph, measure, **_: bound(graph, measure, method=Product()))
    path = saved(GRAPHS[name](), tmp_path / "m.onnx")
    try:
        report: Any = specnorm.audit(path, methods=["reshaped"])
    except ModelFileError:
        return
    for row in report.layers:
        assert (row.upper is not None) == (row.status == "ok")
    assert report.network.upper is None or report.network.upper > 0
    assert str(report)
    if name in ("a circle", "one value twice"):
        assert "damaged" in report.network.unknown[0].reason
    if name in ("slope", "division by zero", "negative variance"):
        assert report.network.upper is None


# -- execution ---------------------------------------------------------------------------------------------------------
def opened(proto: Any, folder: Path) -> tuple[Graph, Model]:
    path = saved(proto, folder / "m.onnx")
    with path.open("rb") as file:
        graph: Any = read(file, str(path), 2**30).graph(None)
    return graph, graph.model


def test_every_value_by_name_in_double_precision(tmp_path: Path) -> None:
    nodes = [
        node("Conv", "x", "w", "b", pads=[1, 1, 1, 1], out="a"), node("Cast", "a", to=10, out="h"),
        node("Cast", "h", to=1, out="f"), node("Gelu", "f", out="g"), node("Add", "one", "one", out="two"),
        node("Mul", "g", "two"),
    ]  # fmt: skip
    proto = single(nodes, (1, 2, 4, 4), {"w": weights(2, 2, 3, 3), "b": weights(2), "one": np.float32(1)}, opset=20)
    graph, original = opened(proto, tmp_path)
    x = np.random.default_rng(0).standard_normal((1, 2, 4, 4))
    found = original.values({"x": x})
    assert set(found) == {"x", "a", "h", "f", "g", "two", "y"}
    assert {each.unit for each in found.values()} == {2.0**-53}
    in_its_own = values_of(proto, x.astype(np.float32))[0]
    np.testing.assert_allclose(found["y"].value, in_its_own, rtol=0, atol=2.0**-8)
    assert np.array_equal(found["x"].value, x.astype(np.float32))
    assert np.array_equal(found["f"].value, found["a"].value), "casts do not round"
    assert check(graph, graph).complete


def test_external_data_from_the_models_folder_alone(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for at in (folder, tmp_path):
        (at / "w.bin").write_bytes(weights(3, 3).tobytes())
    for location in ("w.bin", "../w.bin"):
        graph, original = opened(external(location), folder)
        if location == "w.bin":
            found = original.values({"x": np.eye(3)[:1]})["y"].value
            assert np.array_equal(found, np.frombuffer((folder / "w.bin").read_bytes(), "<f4").reshape(3, 3)[:1])
            assert check(graph, graph).complete
        else:
            with pytest.raises(NotExecutedError, match="leaves the model's folder"):
                original.values({"x": np.eye(3)[:1]})


def test_a_tensor_of_a_node_that_lies_elsewhere_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnx's own evaluator looks for it in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.bin").write_bytes(weights(1).tobytes())
    tensor = external("w.bin").graph.initializer[0]
    tensor.dims[:] = [1]
    with pytest.raises(NotEvaluatedError):
        evaluate(helper.make_node("ConstantOfShape", ["s"], ["y"], value=tensor), 18, [np.array([2])])


def _loops() -> Any:
    kinds = {"i": TensorProto.INT64, "c": TensorProto.BOOL, "d": TensorProto.BOOL}
    count, going, goes_on = (helper.make_tensor_value_info(name, kind, []) for name, kind in kinds.items())
    body = single([node("Identity", "c", out="d")], None, inputs=[count, going], outputs=[goes_on]).graph
    loop = helper.make_node("Loop", ["", "yes"], [], body=body)
    return single([node("MatMul", "x", "w"), loop], (1, 3), {"w": weights(3, 3), "yes": np.array(True)})


def _functions() -> Any:
    ids = [helper.make_opsetid("", 17)]
    own = helper.make_function("mine", "F", ["a"], ["b"], [node("Relu", "a", out="b")], ids)
    return single([node("MatMul", "x", "w")], (1, 3), {"w": weights(3, 3)}, functions=[own])


def _wide(*nodes: Any, **arrays: Any) -> Any:
    return single([node("MatMul", "x", "w", out="a"), *nodes], (1, 3), {"w": weights(3, 3), **arrays})


HOSTILE: dict[str, tuple[Any, str]] = {
    "a loop": (_loops, "control flow"),
    "functions": (_functions, "functions"),
    "expanded": (lambda: _wide(node("Expand", "a", "s"), s=np.array([2**20, 2**20, 3])), ""),
    "tiled": (lambda: _wide(node("Tile", "a", "s"), s=np.array([2**30, 2**20])), ""),
    "padded": (lambda: _wide(node("Pad", "a", "s"), s=np.array([60000, 60000, 60000, 60000])), ""),
    "added": (lambda: _wide(node("Reshape", "a", "s", out="b"), node("Expand", "b", "t", out="c"),
                            node("Transpose", "c", out="d"), node("Add", "c", "d"),
                            s=np.array([3, 1]), t=np.array([2**20, 3, 1])), ""),
    "filled": (lambda: _wide(node("ConstantOfShape", "s", out="f"), node("Add", "a", "f"), s=np.array([2**40, 3])), ""),
    "an unread operator": (lambda: _wide(node("Einsum", "a", "a", equation="ij,kl->ijkl")), ""),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_is_executed_that_may_not_end(name: str, tmp_path: Path) -> None:
    make, word = HOSTILE[name]
    _, original = opened(make(), tmp_path)
    began = time.monotonic()
    if word:
        with pytest.raises(NotExecutedError, match=word):
            original.values({"x": np.ones((1, 3))})
    else:
        assert "y" not in original.values({"x": np.ones((1, 3))})
    assert time.monotonic() - began < 20
