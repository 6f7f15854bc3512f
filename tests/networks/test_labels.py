"""Classifiers that end with a label: the bound is of the logits before it, and says so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", exc_type=ImportError)
from helpers.onnx_models import graph_of, model  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402
from specnorm_networks import Product, certified_accuracy  # noqa: E402
from specnorm_networks.tools import bound  # noqa: E402

import specnorm  # noqa: E402
from specnorm.errors import MethodError  # noqa: E402

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
        **{name: helper.make_tensor_value_info(name, TensorProto.DOUBLE, [None, 3]) for name in "pc"},
    }
    whole = {"classes": np.array([0, 1, 2], np.int32), "flat": np.array([-1])}
    given: dict[str, Any] = {"w1": FIRST, "w2": SECOND, **whole}
    ends = [infos[name] for name in outputs]
    return model([*LOGITS, *nodes], [None, 4], given, outputs=ends, domains=["ai.onnx.ml"])


@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax"])
def test_the_bound_is_about_the_logits_before_a_label_and_a_table(operator: str) -> None:
    nodes = [N(operator, ["c"], ["p"], axis=1), N("ArgMax", ["p"], ["i"], axis=1, keepdims=0), *LABEL, TABLE]
    graph = graph_of(classifier(nodes))
    assert graph.outputs == ("c",)
    found = bound(graph, method=Product())
    assert found.upper == pytest.approx(NORMS, rel=2e-3)
    assert found.note == f"The bound is of the values before {operator}, ArgMax, ZipMap, which keep their order."
    assert found.note in str(found)


def test_operators_that_change_the_order_are_not_skipped() -> None:
    """Probabilities over samples, a label by the order of samples."""
    across = [N("Softmax", ["c"], ["p"], axis=0), N("ArgMax", ["p"], ["i"], axis=1, keepdims=0), *LABEL]
    assert graph_of(classifier(across, ("label",))).outputs == ("p",)
    along = [N("Softmax", ["c"], ["p"], axis=1), N("ArgMax", ["p"], ["i"], keepdims=0), *LABEL]
    assert graph_of(classifier(along, ("label",))).outputs == ("p",)


def test_probabilities_are_outputs_of_their_own() -> None:
    graph = graph_of(classifier([N("Softmax", ["c"], ["p"], axis=1)], ("p",)))
    assert graph.outputs == ("p",)
    assert not graph.note


@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax"])
def test_labels_are_certified_by_the_logits(operator: str) -> None:
    """The order of probabilities is that of the logits, whose margins are certified."""
    graph = graph_of(classifier([N(operator, ["c"], ["p"], axis=1)], ("p",)))
    plain = graph_of(classifier([], ("c",)))
    x = np.random.default_rng(2).standard_normal((5, 4))
    y = (np.maximum(x @ FIRST, 0) @ SECOND).argmax(1)
    found, wanted = (certified_accuracy(each, x, y, [0.01], method=Product()) for each in (graph, plain))
    assert (found.radius == wanted.radius).all()
    assert (found.radius > 0).sum() == 4  # no unit of the third is on: its logits are equal
    assert str(found).endswith(f"The constants are of the values before {operator}, which keeps their order.")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"y": np.eye(3)}, r"y of shape \(3, 3\); expected one whole number for each sample"),
        ({"input_range": (0, 1)}, r"sample 1 of x lies outside of input_range=\(0, 1\)"),
        ({"source": graph_of(model([N("MatMul", ["x", "w"], ["y"])], [1, 4], {"w": np.ones((4, 1))}))}, "one output"),
    ],
)
def test_wrong_samples_are_refused(change: dict[str, Any], words: str) -> None:
    x = np.array([[0.5] * 4, [2.0] * 4, [1.0] * 4])
    call = {"source": graph_of(classifier([], ("c",))), "x": x, "y": np.zeros(3, int), "radii": [0.01], **change}
    with pytest.raises(MethodError, match=words):
        certified_accuracy(**call, method=Product())


def test_sizes_are_whole_numbers() -> None:
    """4 / 256 is 0, and 4 mod 3 is 1."""
    nodes = [
        N("Shape", ["x"], ["s"]), N("Gather", ["s", "one"], ["n"]), N("Div", ["n", "large"], ["q"]),
        N("Mod", ["n", "three"], ["r"]), N("Add", ["q", "r"], ["t"]), N("Cast", ["t"], ["f"], to=TensorProto.DOUBLE),
        N("Mul", ["x", "f"], ["y"]),
    ]  # fmt: skip
    given = {"one": np.int64(1), "large": np.int64(256), "three": np.int64(3)}
    assert bound(graph_of(model(nodes, [1, 4], given)), method=Product()).upper == pytest.approx(1.0, rel=1e-12)


def test_a_gate_is_decided(tmp_path: Any) -> None:
    """Neither operator holds a kernel."""
    nodes = [N("Softmax", ["c"], ["p"], axis=1), N("ArgMax", ["p"], ["i"], axis=1, keepdims=0), *LABEL, TABLE]
    onnx.save(classifier(nodes), tmp_path / "m.onnx")
    report: Any = specnorm.audit(tmp_path / "m.onnx")
    assert [row.status for row in report.layers] == ["ok", "ok"]
    assert report.network.note.startswith("The bound is of the values before")


def test_a_network_of_whole_numbers_is_refused() -> None:
    halved = model([N("Div", ["x", "two"], ["y"])], [1, 4], {"two": np.array([2])}, dtype=TensorProto.INT64)
    with pytest.raises(MethodError, match="no input of floating numbers"):
        bound(graph_of(halved))
