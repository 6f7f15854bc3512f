"""ONNX models executed beside their graphs: every value, and nothing by which a file could take forever."""

from __future__ import annotations

import time
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

from audit.onnx_models import drawing, graph_of, model, node, saved

weights = drawing(np.random.RandomState(0))
RNG = np.random.default_rng(0)


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
    x = RNG.standard_normal((1, 2, 4, 4))
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
        tensor = TensorProto(name="w", data_type=1, dims=[3, 3], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=location)
        proto = model([node("MatMul", "x", "w")], {}, (1, 3))
        proto.graph.initializer.append(tensor)
        graph, original = read(proto, folder)
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
