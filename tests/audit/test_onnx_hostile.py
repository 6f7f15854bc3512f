"""ONNX files that are hostile, damaged or in parts, read and executed: rows, values or a message, and soon."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", exc_type=ImportError)
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from specnorm_networks import Graph
from specnorm_networks.checking import check
from specnorm_networks.model import Model, NotExecutedError

import specnorm
from audit.onnx_models import by_product, drawing, graph_of, model, node, norm, saved
from specnorm.errors import ModelFileError

weights = drawing(np.random.RandomState(0))


# -- external data -------------------------------------------------------------------------------------------------
def external(location: str, **entries: int | str) -> Any:
    tensor = TensorProto(name="w", data_type=1, dims=[3, 3], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    proto = model([node("MatMul", "x", "w")], {}, (1, 3))
    proto.graph.initializer.append(tensor)
    return proto


def test_external_data(tmp_path: Path) -> None:
    w = weights(3, 3)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w.bin").write_bytes(b"12345678" + w.tobytes())
    (row,) = specnorm.audit(saved(external("data/w.bin", offset=8, length=36), tmp_path / "m.onnx")).layers
    assert row.lower is not None, row.reason
    assert row.lower <= norm(w) * (1 + 1e-6)


@pytest.mark.parametrize(
    ("location", "entries", "word"),
    [
        ("../w.bin", {}, "leaves the model's folder"),
        ("link.bin", {}, "leaves the model's folder"),
        ("{absolute}", {}, "relative to the model"),
        ("pipe", {}, "not a regular file"),
        ("inside.bin", {"offset": 8}, "which has 36"),
        ("inside.bin", {"length": 35}, "takes 36 bytes"),
        ("inside.bin", {"offset": -4}, "no whole number"),
        ("inside.bin", {"offset": "\u0663"}, "no whole number"),
        ("missing.bin", {}, "cannot be read"),
        ("a\0b", {}, "relative to the model"),
        ("", {}, "relative to the model"),
    ],
)
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


# -- hostile files -------------------------------------------------------------------------------------------------


def hostile() -> dict[str, Callable[[], Any]]:
    w = {"w": weights(2, 2, 3, 3)}
    huge = 2**62
    return {
        "pads": lambda: model([node("Conv", "x", "w", pads=[huge, huge, huge, huge])], w, (1, 2, 4, 4)),
        "strides of 0": lambda: model([node("Conv", "x", "w", strides=[0, 1])], w, (1, 2, 4, 4)),
        "negative dilation": lambda: model([node("Conv", "x", "w", dilations=[-1, 1])], w, (1, 2, 4, 4)),
        "groups": lambda: model([node("Conv", "x", "w", group=7)], w, (1, 2, 4, 4)),
        "another kernel_shape": lambda: model([node("Conv", "x", "w", kernel_shape=[5, 5])], w, (1, 2, 4, 4)),
        "rank": lambda: model([node("Conv", "x", "w")], w, (1, 2, 4)),
        "input of 2**62": lambda: model(
            [node("Conv", "x", "w", out="a"), node("AveragePool", "a", kernel_shape=[huge, 3])], w, (1, 2, huge, huge)
        ),
        "pool over everything": lambda: model(
            [node("Conv", "x", "w", out="a"), node("AveragePool", "a", kernel_shape=[60000, 60000], pads=[9, 9, 9, 9])],
            w,
            (1, 2, 65000, 65000),
        ),
        "resize": lambda: model(
            [node("Conv", "x", "w", out="a"), node("Resize", "a", "", "s", mode="linear")],
            {**w, "s": np.array([1, 1, 1e30, 1e30], np.float32)},
            (1, 2, 9, 9),
        ),
        "scales that are no numbers": lambda: model(
            [node("Conv", "x", "w", out="a"), node("Resize", "a", "", "s")],
            {**w, "s": np.array([1, 1, np.nan, np.inf], np.float32)},
            (1, 2, 9, 9),
        ),
        "filled": lambda: model(
            [node("ConstantOfShape", "n", out="c"), node("Conv", "x", "w", out="a"), node("Add", "a", "c")],
            {**w, "n": np.array([huge, huge])},
            (1, 2, 9, 9),
        ),
        "slope": lambda: model(
            [node("Conv", "x", "w", out="a"), node("LeakyRelu", "a", alpha=float("nan"))], w, (1, 2, 9, 9)
        ),
        "division by zero": lambda: model(
            [node("Conv", "x", "w", out="a"), node("Div", "a", "z")], {**w, "z": np.float32(0)}, (1, 2, 9, 9)
        ),
        "negative variance": lambda: model(
            [node("Conv", "x", "w", out="a"), node("BatchNormalization", "a", "g", "g", "g", "v")],
            {**w, "g": weights(2), "v": -np.ones(2, np.float32)},
            (1, 2, 9, 9),
        ),
        "attributes of another type": lambda: model([node("Conv", "x", "w", strides="two", pads=1.5)], w, (1, 2, 4, 4)),
        "one value twice": lambda: model([node("Conv", "x", "w"), node("Conv", "x", "w")], w, (1, 2, 4, 4)),
        "a circle": lambda: model([node("Conv", "y", "w", out="a"), node("Relu", "a")], w, (1, 2, 4, 4)),
        "a thousand layers": lambda: model(
            [
                node(
                    "Conv", "x" if at == 0 else f"v{at - 1}", "w", pads=[1, 0, 2, 1], out="y" if at == 999 else f"v{at}"
                )
                for at in range(1000)
            ],
            w,
            (1, 2, "h", "w"),
        ),
    }


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=[pytest.mark.nightly] * (x == "a thousand layers")) for x in hostile()]
)
def test_hostile_graphs_give_rows_or_messages(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "a thousand layers":
        by_product(monkeypatch)
    path = saved(hostile()[name](), tmp_path / "m.onnx")
    try:
        report = specnorm.audit(path, methods=["reshaped"])
    except ModelFileError:
        return
    for row in report.layers:
        assert (row.upper is not None) == (row.status == "ok")
    assert report.network is not None
    assert report.network.upper is None or report.network.upper > 0
    assert str(report)
    if name in ("a circle", "one value twice"):
        assert "damaged" in report.network.unknown[0].reason
    if name in ("slope", "division by zero", "negative variance"):
        assert report.network.upper is None


# -- execution ---------------------------------------------------------------------------------------------------------
def read(proto: Any, folder: Path, sizes: int | None = None) -> tuple[Graph, Model]:
    graph = graph_of(saved(proto, folder / "m.onnx"), sizes)
    assert graph.model is not None
    return graph, graph.model


def test_every_value_by_name_in_its_own_precision(tmp_path: Path) -> None:
    nodes = [
        node("Conv", "x", "w", "b", pads=[1, 1, 1, 1], out="a"), node("Cast", "a", to=10, out="h"),
        node("Cast", "h", to=1, out="f"), node("Gelu", "f", out="g"), node("Add", "one", "one", out="two"),
        node("Mul", "g", "two"),
    ]  # fmt: skip
    proto = model(nodes, {"w": weights(2, 2, 3, 3), "b": weights(2), "one": np.float32(1)}, (1, 2, 4, 4), opset=20)
    graph, original = read(proto, tmp_path)
    x = np.random.default_rng(0).standard_normal((1, 2, 4, 4))
    found = original.values({"x": x})
    assert set(found) == {"x", "a", "h", "f", "g", "two", "y"}
    assert {name: each.unit for name, each in found.items() if name in "xhf"} == {
        "x": 2.0**-24, "h": 2.0**-11, "f": 2.0**-24
    }  # fmt: skip
    run: Any = ReferenceEvaluator(proto)
    assert np.array_equal(found["y"].value, run.run(None, {"x": x.astype(np.float32)})[0].astype(np.float64))
    assert np.array_equal(found["x"].value, x.astype(np.float32))
    assert check(graph, graph).complete


def test_external_data_from_the_models_folder_alone(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for at in (folder, tmp_path):
        (at / "w.bin").write_bytes(weights(3, 3).tobytes())
    for location in ("w.bin", "../w.bin"):
        graph, original = read(external(location), folder)
        if location == "w.bin":
            found = original.values({"x": np.eye(3)[:1]})["y"].value
            assert np.array_equal(found, np.frombuffer((folder / "w.bin").read_bytes(), "<f4").reshape(3, 3)[:1])
            assert check(graph, graph).complete
        else:
            with pytest.raises(NotExecutedError, match="leaves the model's folder"):
                original.values({"x": np.eye(3)[:1]})


def _loops() -> Any:
    body = helper.make_graph([node("Identity", "c", out="d")], "b", [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
    ], [helper.make_tensor_value_info("d", TensorProto.BOOL, [])])  # fmt: skip
    loop = helper.make_node("Loop", ["", "yes"], [], body=body)
    return model([node("MatMul", "x", "w"), loop], {"w": weights(3, 3), "yes": np.array(True)}, (1, 3))


def _functions() -> Any:
    proto = model([node("MatMul", "x", "w")], {"w": weights(3, 3)}, (1, 3))
    ids = [helper.make_opsetid("", 17)]
    proto.functions.append(helper.make_function("mine", "F", ["a"], ["b"], [node("Relu", "a", out="b")], ids))
    return proto


def _wide(*nodes: Any, **arrays: Any) -> Any:
    return model([node("MatMul", "x", "w", out="a"), *nodes], {"w": weights(3, 3), **arrays}, (1, 3))


HOSTILE: dict[str, tuple[Any, str]] = {
    "a loop": (_loops, "control flow"),
    "functions": (_functions, "functions"),
    "expanded": (lambda: _wide(node("Expand", "a", "s"), s=np.array([2**20, 2**20, 3])), "too many"),
    "tiled": (lambda: _wide(node("Tile", "a", "s"), s=np.array([2**30, 2**20])), "too many"),
    "padded": (lambda: _wide(node("Pad", "a", "s"), s=np.array([60000, 60000, 60000, 60000])), "too many"),
    "added": (lambda: _wide(node("Reshape", "a", "s", out="b"), node("Expand", "b", "t", out="c"),
                            node("Transpose", "c", out="d"), node("Add", "c", "d"),
                            s=np.array([3, 1]), t=np.array([2**20, 3, 1])), "too many"),
    "filled": (lambda: _wide(node("ConstantOfShape", "s", out="f"), node("Add", "a", "f"), s=np.array([2**40, 3])), ""),
    "an unread operator": (lambda: _wide(node("Einsum", "a", "a", equation="ij,kl->ijkl")), ""),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_is_executed_that_may_not_end(name: str, tmp_path: Path) -> None:
    make, word = HOSTILE[name]
    _, original = read(make(), tmp_path)
    began = time.monotonic()
    if word:
        with pytest.raises(NotExecutedError, match=word):
            original.values({"x": np.ones((1, 3))})
    else:
        assert "y" not in original.values({"x": np.ones((1, 3))})
    assert time.monotonic() - began < 20
