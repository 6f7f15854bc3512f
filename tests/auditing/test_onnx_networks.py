"""ONNX models: the network's bound against onnx's own reference evaluator."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", exc_type=ImportError)
from onnx import helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

import specnorm  # noqa: E402
from auditing.onnx_models import Arrays, drawing, matrix_of, model, node, norm, saved  # noqa: E402

RNG = np.random.RandomState(0)
weights = drawing(RNG)


LINEAR: dict[str, tuple[list[Any], Arrays, tuple[int, ...], float]] = {
    "reshapes": (
        [
            node("Transpose", "x", perm=[0, 2, 3, 1], out="a"),
            node("Flatten", "a", out="b"),
            node("Reshape", "b", "s", out="c"),
            node("Unsqueeze", "c", "one", out="d"),
            node("Squeeze", "d", "one", out="e"),
            node("MatMul", "e", "w"),
        ],
        {"s": np.array([0, -1, 6]), "w": weights(6, 3), "one": np.array([1])},
        (1, 2, 3, 4),
        1.002,
    ),
    "slice, split, concat": (
        [
            node("Slice", "x", "i", "j", "k", out="a"),
            helper.make_node("Split", ["a"], ["p", "q"], axis=1, num_outputs=2),
            node("Concat", "q", "p", "c", axis=1),
        ],
        {"i": np.array([1]), "j": np.array([1000]), "k": np.array([3]), "c": weights(1, 1, 5, 3)},
        (1, 2, 5, 4),
        1.5,
    ),
    "average pools": (
        [
            node("AveragePool", "x", kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1], out="a"),
            node("GlobalAveragePool", "a"),
        ],
        {},
        (1, 2, 7, 6),
        1.3,
    ),
    "average pool, ceil": (
        [
            node(
                "AveragePool",
                "x",
                kernel_shape=[3, 3],
                strides=[2, 2],
                ceil_mode=1,
                count_include_pad=1,
                pads=[1, 1, 1, 1],
            )
        ],
        {},
        (1, 1, 6, 7),
        1.4,
    ),
    "reductions": (
        [node("ReduceMean", "x", axes=[2], keepdims=0, out="a"), node("ReduceSum", "a", "one")],
        {"one": np.array([1])},
        (1, 2, 6, 3),
        1.001,
    ),
    "pads": (
        [
            node("Pad", "x", "p", mode="reflect", out="a"),
            node("Pad", "a", "q", out="b"),
            node("Pad", "b", "r", mode="edge"),
        ],
        {
            "p": np.array([0, 0, 1, 2, 0, 0, 1, 0]),
            "q": np.array([0, 1, 0, 0, 0, 0, 0, 1]),
            "r": np.array([0, 0, 0, 0, 0, 0, 2, 0]),
        },
        (1, 2, 4, 5),
        1.6,
    ),
    "resize": (
        [node("Resize", "x", "", "s", mode="linear")],
        {"s": np.array([1, 1, 2, 3], np.float32)},
        (1, 1, 3, 4),
        1.001,
    ),
    "resize nearest": (
        [
            node(
                "Resize",
                "x",
                "",
                "",
                "z",
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="ceil",
            )
        ],
        {"z": np.array([1, 1, 7, 4])},
        (1, 1, 3, 4),
        1.001,
    ),
    "resize, corners": (
        [node("Resize", "x", "", "s", mode="linear", coordinate_transformation_mode="align_corners")],
        {"s": np.array([1, 1, 3, 2], np.float32)},
        (1, 1, 3, 4),
        1.001,
    ),
    "constants": (
        [
            node("Mul", "x", "m", out="a"),
            node("Add", "a", "b", out="c"),
            node("Div", "c", "d", out="e"),
            node("Sub", "b", "e"),
        ],
        {"m": np.float32(3), "b": weights(2, 1, 4), "d": np.array([2, -4], np.float32).reshape(2, 1, 1)},
        (1, 2, 3, 4),
        1.001,
    ),
    "batch norm": (
        [node("Conv", "x", "w", "b", out="a"), node("BatchNormalization", "a", "g", "b", "m", "v")],
        {"w": weights(3, 2, 2, 2), "g": weights(3), "b": weights(3), "m": weights(3), "v": abs(weights(3))},
        (1, 2, 5, 5),
        1.01,
    ),
    "repeats": (
        [node("Gather", "x", "i", axis=2, out="a"), node("Tile", "a", "t", out="b"), node("Expand", "b", "e")],
        {"i": np.array([0, 0, -1, 2]), "t": np.array([1, 1, 2, 1]), "e": np.array([1, 2, 8, 1])},
        (1, 1, 3, 2),
        1.3,
    ),
    "residual": (
        [node("Conv", "x", "w", pads=[1, 1, 1, 1], out="a"), node("Add", "a", "x")],
        {"w": weights(2, 2, 3, 3)},
        (1, 2, 5, 5),
        1.5,
    ),
    "blocks": (
        [
            node("SpaceToDepth", "x", blocksize=2, out="a"),
            node("DepthToSpace", "a", blocksize=2, out="b"),
            node("Identity", "b"),
        ],
        {},
        (1, 2, 4, 4),
        1.001,
    ),
    "shapes computed in the graph": (
        [
            node("Shape", "x", out="s"),
            node("Gather", "s", "zero", out="n"),
            node("Unsqueeze", "n", "z", out="u"),
            node("Concat", "u", "minus", axis=0, out="t"),
            node("Reshape", "x", "t", out="a"),
            node("Gemm", "a", "w"),
        ],
        {"zero": np.array(0), "z": np.array([0]), "minus": np.array([-1]), "w": weights(12, 3)},
        (1, 2, 2, 3),
        1.002,
    ),
    "constant nodes": (
        [
            helper.make_node("Constant", [], ["w"], name="kernel", value=numpy_helper.from_array(weights(2, 2, 3, 3))),
            node("Conv", "x", "w", pads=[1, 1, 1, 1]),
        ],
        {},
        (1, 2, 5, 5),
        1.01,
    ),
    "weights in another form": (
        [node("Transpose", "w", perm=[3, 2, 0, 1], out="v"), node("Identity", "v", out="u"), node("Conv", "x", "u")],
        {"w": weights(3, 2, 2, 4)},
        (1, 2, 5, 5),
        1.01,
    ),
    "quantised weights": (
        [node("DequantizeLinear", "w", "s", "z", axis=0, out="v"), node("Conv", "x", "v")],
        {
            "w": RNG.randint(-99, 99, (3, 2, 3, 3)).astype(np.int8),
            "s": abs(weights(3)),
            "z": np.array([1, 0, -5], np.int8),
        },
        (1, 2, 5, 5),
        1.01,
    ),
}
"""Affine models: nodes, constants, input shape, and by how much the bound may exceed the norm."""


@pytest.mark.parametrize("name", LINEAR)
def test_network_of_an_affine_model(name: str, tmp_path: Path) -> None:
    nodes, arrays, shape, loose = LINEAR[name]
    proto = model(
        nodes,
        arrays,
        shape,
        opset={"reductions": 13, "slice, split, concat": 18, "quantised weights": 19}.get(name, 17),
    )
    if not any(o.op_type in ("Conv", "Gemm", "MatMul") for o in nodes):
        nodes.insert(0, node("Conv", "first", "unit", out="x"))  # a file without a layer is refused
        arrays = (
            {**arrays, "unit": np.eye(shape[1], dtype=np.float32).reshape(shape[1], shape[1], 1, 1)}
            if len(shape) == 4
            else arrays
        )
        whole = model(nodes, arrays, shape, opset=proto.opset_import[0].version, inputs=("first",))
    else:
        whole = proto
    exact = norm(matrix_of(proto, shape))
    found = specnorm.audit(saved(whole, tmp_path / "m.onnx")).network
    assert found is not None
    assert found.unknown == ()
    assert found.upper is not None
    assert exact * (1 - 1e-6) <= found.upper <= exact * loose * 1.0011, (found.upper, exact)


def test_open_sizes(tmp_path: Path) -> None:
    """Symbols: equal arithmetic is equal sizes, so a residual connection is bounded at every size; a mean needs one."""
    nodes = [
        node("Conv", "x", "w", pads=[1, 1, 1, 1], strides=[2, 2], out="a"),
        node("Conv", "x", "v", strides=[2, 2], out="b"),
        node("Add", "a", "b", out="c"),
        node("Relu", "c", out="y"),
        node("ReduceSum", "y", "axes", out="z"),
    ]
    arrays = {"w": weights(3, 2, 3, 3), "v": weights(3, 2, 1, 1), "axes": np.array([2, 3])}
    path = saved(model(nodes, arrays, ("n", 2, "h", None), outputs=("y", "z")), tmp_path / "m.onnx")
    found = specnorm.audit(path).network
    assert found is not None
    assert found.upper is None
    assert found.outputs["y"] is not None
    assert [u.operator for u in found.unknown] == ["ReduceSum"]
    assert "give the input shape" in found.unknown[0].reason
    sized = specnorm.audit(path, input_shape=8).network
    assert sized is not None
    assert sized.upper is not None
    assert sized.outputs["y"] is not None
    assert sized.input_shapes == {"x": (1, 2, 8, 8)}
    assert sized.outputs["y"] <= found.outputs["y"]


GATES: dict[str, tuple[list[Any], float]] = {
    "silu": ([node("Sigmoid", "x", out="s"), node("Mul", "s", "x")], 1.09985),
    "hard swish": ([node("HardSigmoid", "x", alpha=1 / 6, out="s"), node("Mul", "x", "s")], 1.5),
    "mish": ([node("Softplus", "x", out="p"), node("Tanh", "p", out="s"), node("Mul", "x", "s")], 1.08851),
    "gelu": (
        [
            node("Div", "x", "root", out="a"),
            node("Erf", "a", out="e"),
            node("Add", "e", "one", out="f"),
            node("Mul", "x", "f", out="g"),
            node("Mul", "g", "half"),
        ],
        1.12892,
    ),
    "gelu, half first": (
        [
            node("Mul", "x", "half", out="h"),
            node("Div", "x", "root", out="a"),
            node("Erf", "a", out="e"),
            node("Add", "one", "e", out="f"),
            node("Mul", "h", "f"),
        ],
        1.12892,
    ),
}


@pytest.mark.parametrize("name", GATES)
def test_activations_that_are_written_out(name: str, tmp_path: Path) -> None:
    nodes, slope = GATES[name]
    arrays: Arrays = {"root": np.float32(math.sqrt(2)), "one": np.float32(1), "half": np.float32(0.5)}
    whole = model(
        [node("MatMul", "first", "eye", out="x"), *nodes],
        {**arrays, "eye": np.eye(1, dtype=np.float32)},
        (1, 1),
        inputs=("first",),
    )
    found = specnorm.audit(saved(whole, tmp_path / "m.onnx")).network
    assert found is not None
    assert found.upper == pytest.approx(slope, rel=2e-3)
    x = np.linspace(-8, 8, 4001, dtype=np.float64)[:, None]
    run: Any = ReferenceEvaluator(model(nodes, {k: np.float64(v) for k, v in arrays.items()}, (4001, 1)))
    y = run.run(["y"], {"x": x})[0]
    steep = float(np.max(np.abs(np.diff(y[:, 0]) / np.diff(x[:, 0]))))
    assert found.upper is not None
    assert 0.99 * found.upper <= steep <= found.upper


def test_products_of_data_are_unknown_and_named(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", "x", "w", out="a"),
        node("Sigmoid", "a", out="g"),
        node("Mul", "x", "g", out="p"),
        node("Relu", "p"),
    ]
    report = specnorm.audit(saved(model(nodes, {"w": weights(3, 3)}, (1, 3)), tmp_path / "m.onnx"))
    assert report.network is not None
    assert report.network.upper is None
    assert [(u.name, u.operator) for u in report.network.unknown] == [("p", "Mul")]
    assert "product" in report.network.unknown[0].reason
    assert report.summary["network"]["unknown"][0]["name"] == "p"
    assert "p (Mul)" in str(report)


@pytest.mark.parametrize(("kind", "rows"), [("RNN", 2), ("GRU", 6), ("LSTM", 8)])
def test_recurrent_operators_are_refused_by_name(kind: str, rows: int, tmp_path: Path) -> None:
    arrays = {"w": weights(1, rows, 3), "r": weights(1, rows, 2)}
    proto = model([node(kind, "x", "w", "r", hidden_size=2)], arrays, (5, 1, 3))
    report = specnorm.audit(saved(proto, tmp_path / "m.onnx"))
    assert report.network is not None
    assert "recurrent layers" in report.network.unknown[0].reason


def test_part_of_the_layers_has_no_network(tmp_path: Path) -> None:
    path = saved(model([node("MatMul", "x", "w")], {"w": weights(3, 3)}, (1, 3)), tmp_path / "m.onnx")
    assert specnorm.audit(path, layers="w").network is None
    assert specnorm.audit(path).summary["network"]["upper"] > 0
