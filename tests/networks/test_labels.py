"""Classifiers that end with a label: the bound is of the logits before it, and says so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", exc_type=ImportError)
from networks.onnx_networks import graph_of  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from specnorm_networks import Product, bound  # noqa: E402

import specnorm  # noqa: E402

N = helper.make_node
FIRST, SECOND = (np.random.default_rng(at).standard_normal(shape) for at, shape in enumerate([(4, 6), (6, 3)]))
NORMS = float(np.linalg.norm(FIRST, 2) * np.linalg.norm(SECOND, 2))
LOGITS = [N("MatMul", ["x", "w1"], ["a"]), N("Relu", ["a"], ["b"]), N("MatMul", ["b", "w2"], ["c"])]
LABEL = [
    N("ArrayFeatureExtractor", ["classes", "i"], ["l"], domain="ai.onnx.ml"), N("Cast", ["l"], ["whole"], to=7),
    N("Reshape", ["whole", "flat"], ["label"]),
]  # fmt: skip
TABLE = N("ZipMap", ["p"], ["table"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2])


def classifier(nodes: list[Any], outputs: tuple[str, ...] = ("label", "table")) -> Any:
    """As skl2onnx writes one of scikit-learn: a label, and a list of tables."""
    entry = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    infos = {
        "label": helper.make_tensor_value_info("label", TensorProto.INT64, [None]),
        "table": helper.make_value_info("table", helper.make_sequence_type_proto(entry)),
        "p": helper.make_tensor_value_info("p", TensorProto.DOUBLE, [None, 3]),
    }
    whole = {"classes": np.array([0, 1, 2], np.int32), "flat": np.array([-1])}
    given: dict[str, Any] = {"w1": FIRST, "w2": SECOND, **whole}
    graph = helper.make_graph(
        [*LOGITS, *nodes], "g", [helper.make_tensor_value_info("x", TensorProto.DOUBLE, [None, 4])],
        [infos[name] for name in outputs], [numpy_helper.from_array(a, n) for n, a in given.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 1)])


@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax"])
def test_label_and_table(operator: str) -> None:
    nodes = [N(operator, ["c"], ["p"], axis=1), N("ArgMax", ["p"], ["i"], axis=1, keepdims=0), *LABEL, TABLE]
    graph = graph_of(classifier(nodes))
    assert graph.outputs == ("c",)
    found = bound(graph, method=Product())
    assert found.upper == pytest.approx(NORMS, rel=2e-3)
    assert found.note == f"The bound is of the values before {operator}, ArgMax, ZipMap, which keep their order."
    assert found.note in str(found)


def test_what_keeps_no_order_is_not_left_out() -> None:
    """Probabilities over samples, a label by the order of samples."""
    across = [N("Softmax", ["c"], ["p"], axis=0), N("ArgMax", ["p"], ["i"], axis=1, keepdims=0), *LABEL]
    assert graph_of(classifier(across, ("label",))).outputs == ("p",)
    along = [N("Softmax", ["c"], ["p"], axis=1), N("ArgMax", ["p"], ["i"], keepdims=0), *LABEL]
    assert graph_of(classifier(along, ("label",))).outputs == ("p",)


def test_probabilities_are_outputs_of_their_own() -> None:
    graph = graph_of(classifier([N("Softmax", ["c"], ["p"], axis=1)], ("p",)))
    assert graph.outputs == ("p",)
    assert not graph.note


def test_a_gate_is_decided(tmp_path: Any) -> None:
    """Neither operator holds a kernel."""
    nodes = [N("Softmax", ["c"], ["p"], axis=1), N("ArgMax", ["p"], ["i"], axis=1, keepdims=0), *LABEL, TABLE]
    onnx.save(classifier(nodes), tmp_path / "m.onnx")
    report = specnorm.audit(tmp_path / "m.onnx")
    assert [row.status for row in report.layers] == ["ok", "ok"]
    assert report.network is not None
    assert report.network.note.startswith("The bound is of the values before")
