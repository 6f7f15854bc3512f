"""ONNX models: geometry against onnx's own reference evaluator, the network's bound against it, and hostile files."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

onnx = pytest.importorskip("onnx", exc_type=ImportError)
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

import specnorm  # noqa: E402
from specnorm.auditing.layers import Tensor  # noqa: E402
from specnorm.auditing.readers import open_model  # noqa: E402
from specnorm.errors import ModelFileError  # noqa: E402

Arrays = dict[str, Any]
DATA = Path(__file__).parent.parent / "data"
RNG = np.random.RandomState(0)


def weights(*shape: int) -> NDArray[np.float32]:
    return RNG.standard_normal(shape).astype(np.float32)


def model(
    nodes: list[Any],
    arrays: Arrays,
    shape: Any,
    *,
    opset: int = 17,
    outputs: tuple[str, ...] = ("y",),
    inputs: tuple[str, ...] = ("x",),
) -> Any:
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in inputs]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items()]
    graph = helper.make_graph(nodes, "g", given, made, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def saved(proto: Any, path: Path) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def node(operator: str, *inputs: str, out: str = "y", **attributes: Any) -> Any:
    return helper.make_node(operator, list(inputs), [out], name=f"node {out}", **attributes)


def matrix_of(proto: Any, shape: tuple[int, ...], out: str = "y") -> NDArray[np.float64]:
    """Of an affine model, by feeding it every basis vector; with the reference evaluator."""
    run: Any = ReferenceEvaluator(proto)
    size = math.prod(shape)
    zero = run.run([out], {"x": np.zeros(shape, np.float32)})[0]
    columns = [run.run([out], {"x": np.eye(size, dtype=np.float32)[at].reshape(shape)})[0] - zero for at in range(size)]
    return np.stack([c.ravel() for c in columns], 1).astype(np.float64)


def norm(a: NDArray[Any]) -> float:
    return float(np.linalg.norm(a.astype(np.float64), 2))


def listed(path: Path, max_bytes: int = 2**30) -> list[Tensor]:
    with open_model(str(path), max_bytes) as tensors:
        return tensors


# -- geometry ------------------------------------------------------------------------------------------------------
LAYERS: dict[str, tuple[Any, Arrays, tuple[int, ...]]] = {
    "plain": (node("Conv", "x", "w", "b"), {"w": weights(3, 2, 3, 3), "b": weights(3)}, (1, 2, 6, 7)),
    "strided, uneven pads": (
        node("Conv", "x", "w", strides=[2, 1], pads=[1, 0, 2, 1], dilations=[1, 2]),
        {"w": weights(3, 2, 3, 2)},
        (1, 2, 6, 7),
    ),
    "depthwise": (node("Conv", "x", "w", group=3, pads=[1, 1, 1, 1]), {"w": weights(3, 1, 3, 3)}, (1, 3, 5, 5)),
    "1-D": (node("Conv", "x", "w", strides=[3], pads=[2, 1]), {"w": weights(4, 2, 5)}, (1, 2, 11)),
    "3-D": (node("Conv", "x", "w", pads=[1, 0, 1, 1, 0, 1]), {"w": weights(2, 2, 3, 2, 3)}, (1, 2, 4, 3, 4)),
    "same upper": (
        node("Conv", "x", "w", auto_pad="SAME_UPPER", strides=[2, 2]),
        {"w": weights(2, 2, 3, 4)},
        (1, 2, 6, 7),
    ),
    "same lower": (
        node("Conv", "x", "w", auto_pad="SAME_LOWER", strides=[2, 3]),
        {"w": weights(2, 2, 3, 4)},
        (1, 2, 6, 7),
    ),
    "valid": (node("Conv", "x", "w", auto_pad="VALID"), {"w": weights(2, 2, 3, 4)}, (1, 2, 6, 7)),
    "transposed": (
        node("ConvTranspose", "x", "w", strides=[2, 2], pads=[1, 0, 1, 1], output_padding=[1, 0]),
        {"w": weights(2, 3, 3, 3)},
        (1, 2, 4, 3),
    ),
    "transposed, groups": (
        node("ConvTranspose", "x", "w", strides=[2, 1], group=2, dilations=[1, 2]),
        {"w": weights(4, 2, 3, 2)},
        (1, 4, 3, 4),
    ),
    "transposed to a shape": (
        node("ConvTranspose", "x", "w", strides=[3, 2], output_shape=[10, 8]),
        {"w": weights(2, 1, 3, 3)},
        (1, 2, 3, 4),
    ),
    "output padding beyond the crop": (
        node("ConvTranspose", "x", "w", strides=[3, 3], output_padding=[2, 1]),
        {"w": weights(2, 1, 2, 2)},
        (1, 2, 3, 4),
    ),
    "gemm": (node("Gemm", "x", "w", "b", alpha=0.5), {"w": weights(5, 4), "b": weights(4)}, (1, 5)),
    "gemm, turned": (node("Gemm", "x", "w", transB=1), {"w": weights(4, 5)}, (1, 5)),
    "matmul": (node("MatMul", "x", "w"), {"w": weights(5, 4)}, (1, 3, 5)),
    "matmul from the left": (node("MatMul", "w", "x"), {"w": weights(5, 4)}, (1, 4, 2)),
}


def transposed_matrix(operator: Any, w: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """By loops: onnx's evaluator knows neither groups nor output_shape here."""
    given = {a.name: helper.get_attribute_value(a) for a in operator.attribute}
    (sh, sw), (dh, dw) = given.get("strides", [1, 1]), given.get("dilations", [1, 1])
    groups, (eh, ew) = given.get("group", 1), given.get("output_padding", [0, 0])
    _, cin, h, wide = shape
    rows, columns = sh * (h - 1) + dh * (w.shape[2] - 1) + 1, sw * (wide - 1) + dw * (w.shape[3] - 1) + 1
    full = np.zeros((cin * h * wide, w.shape[1] * groups, rows + eh, columns + ew))
    for i, y, x, o, k, m in np.ndindex(cin, h, wide, *w.shape[1:]):
        full[(i * h + y) * wide + x, i // (cin // groups) * w.shape[1] + o, sh * y + dh * k, sw * x + dw * m] += w[
            i, o, k, m
        ]
    top, left, bottom, right = given.get("pads", [0, 0, 0, 0])
    if "output_shape" in given:
        spare = [n - m for n, m in zip((rows, columns), given["output_shape"], strict=True)]
        top, left = (n - n // 2 for n in spare)
        bottom, right = spare[0] - top, spare[1] - left
    cut = full[:, :, top : full.shape[2] - bottom, left : full.shape[3] - right]
    return cut.reshape(len(full), -1).T


@pytest.mark.parametrize("name", LAYERS)
def test_row_and_network_enclose_the_operator(name: str, tmp_path: Path) -> None:
    operator, arrays, shape = LAYERS[name]
    proto = model([operator], arrays, shape)
    exact = norm(
        transposed_matrix(operator, arrays["w"], shape)
        if operator.op_type == "ConvTranspose"
        else matrix_of(proto, shape)
    )
    report = specnorm.audit(saved(proto, tmp_path / "m.onnx"), input_shape="file")
    (row,) = report.layers
    assert row.status == "ok", row.reason
    assert row.assumed == ()
    alpha = 0.5 if name == "gemm" else 1.0
    assert row.lower is not None
    assert row.upper is not None
    assert alpha * row.lower <= exact * (1 + 1e-6)
    assert exact * (1 - 1e-6) <= alpha * row.upper
    assert alpha * row.upper <= exact * 1.0021
    assert report.network is not None
    assert report.network.upper is not None
    assert exact * (1 - 1e-6) <= report.network.upper <= exact * 1.0021


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


def test_half_precision_typed_fields_and_bfloat16(tmp_path: Path) -> None:
    values = weights(4, 5)
    half = numpy_helper.from_array(values.astype(np.float16), "h")
    typed = helper.make_tensor("t", TensorProto.DOUBLE, (4, 5), values.astype(np.float64).ravel())
    brain = helper.make_tensor("b", TensorProto.BFLOAT16, (4, 5), values.ravel())
    exact = {"h": values.astype(np.float16), "t": values, "b": numpy_helper.to_array(brain)}
    proto = model(
        [node("MatMul", "x", "h", out="a"), node("MatMul", "x", "t", out="c"), node("MatMul", "x", "b")], {}, (1, 4)
    )
    proto.graph.initializer.extend([half, typed, brain])
    rows = {row.name: row for row in specnorm.audit(saved(proto, tmp_path / "m.onnx")).layers}
    for name, array in exact.items():
        value = norm(np.asarray(array, dtype=np.float64))
        row = rows[name]
        assert row.lower is not None, row.reason
        assert row.upper is not None
        assert row.lower * (1 - 1e-9) <= value <= row.upper * (1 + 1e-9)


def test_kernel_used_twice(tmp_path: Path) -> None:
    """One row for one geometry, two for two."""
    w = weights(2, 2, 3, 3)
    twice = [node("Conv", "x", "w", pads=[1, 1, 1, 1], out="a"), node("Conv", "a", "w", pads=[1, 1, 1, 1])]
    assert len(specnorm.audit(saved(model(twice, {"w": w}, (1, 2, 6, 6)), tmp_path / "a.onnx")).layers) == 1
    other = [node("Conv", "x", "w", pads=[1, 1, 1, 1], out="a"), node("Conv", "a", "w", strides=[2, 2])]
    report = specnorm.audit(saved(model(other, {"w": w}, (1, 2, 6, 6)), tmp_path / "b.onnx"))
    assert [row.name for row in report.layers] == ["w", "w (node y)"]
    assert [row.spec.stride for row in report.layers if row.spec is not None] == [(1, 1), (2, 2)]


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


def test_part_of_the_layers_has_no_network(tmp_path: Path) -> None:
    path = saved(model([node("MatMul", "x", "w")], {"w": weights(3, 3)}, (1, 3)), tmp_path / "m.onnx")
    assert specnorm.audit(path, layers="w").network is None
    assert specnorm.audit(path).summary["network"]["upper"] > 0


def test_weights_of_unread_operators_are_error_rows(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r"], ["a"], name="cell", hidden_size=2),
        node("Conv", "x", "k", out="y"),
        helper.make_node("Gather", ["table", "at"], ["t"]),
    ]
    arrays: Arrays = {
        "w": weights(1, 8, 3),
        "r": weights(1, 8, 2),
        "k": weights(3, 3, 1),
        "at": np.array(0),
        "table": weights(4, 4),
    }
    report = specnorm.audit(saved(model(nodes, arrays, (5, 3, 3)), tmp_path / "m.onnx"))
    assert {row.name: row.status for row in report.layers} == {"k": "ok", "w": "error", "r": "error"}
    assert "LSTM (cell)" in str(report.layers[-1].reason)


def test_sub_graphs(tmp_path: Path) -> None:
    """Their kernels are rows; the network is unknown at the branch."""
    inner = helper.make_graph(
        [node("MatMul", "x", "w", out="i")],
        "b",
        [],
        [helper.make_tensor_value_info("i", 1, None)],
        [numpy_helper.from_array(weights(3, 3), "w")],
    )
    nodes = [helper.make_node("If", ["c"], ["y"], name="choice", then_branch=inner, else_branch=inner)]
    report = specnorm.audit(saved(model(nodes, {"c": np.array(True)}, (1, 3)), tmp_path / "m.onnx"))
    assert [row.status for row in report.layers] == ["ok", "ok"]
    assert report.network is not None
    assert report.network.upper is None
    assert report.network.unknown[0].operator == "If"
    assert report.network.unknown[0].before == 1


# -- the real model ------------------------------------------------------------------------------------------------
def test_published_model_against_the_reference_evaluator() -> None:
    """Ultra-Light-Fast face detector: 52 convolutions, all of them found; the bound holds for pairs of images."""
    (path,) = (DATA / "rfb320").glob("*.onnx")
    report = specnorm.audit(path, methods=["reshaped"])
    assert report.summary["conv"] == 52
    assert report.summary["errors"] == 0
    assert all(row.assumed == () for row in report.layers)
    found = report.network
    assert found is not None
    assert found.unknown == ()
    assert found.upper is not None
    assert found.heuristic is not None
    assert found.heuristic < found.upper
    proto = onnx.load(str(path))
    # At a size that the evaluator takes a second for; the bound of each layer holds at every size.
    run = ReferenceEvaluator(proto)
    image = np.clip(np.add.outer(np.sin(np.arange(240) / 9), np.cos(np.arange(320) / 7)), -1, 1).astype(np.float32)
    x = np.stack([image, image.T[:240, :].repeat(2, 1)[:, :320], -image])[None]
    y = x + 0.01 * RNG.standard_normal(x.shape).astype(np.float32)
    rise = sum(
        float(np.sum((a - b) ** 2))
        for a, b in zip(run.run(None, {"input": x}), run.run(None, {"input": y}), strict=True)
    )
    ratio = math.sqrt(rise) / float(np.linalg.norm(x - y))
    assert 0 < ratio <= found.upper


# -- external data -------------------------------------------------------------------------------------------------
def external(location: str, **entries: int) -> Any:
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
        ("inside.bin", {"offset": -4}, "takes 36 bytes"),
        ("missing.bin", {}, "cannot be read"),
        ("a\0b", {}, "relative to the model"),
        ("", {}, "relative to the model"),
    ],
)
def test_external_data_stay_in_the_folder(tmp_path: Path, location: str, entries: dict[str, int], word: str) -> None:
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
def refused(path: Path, max_bytes: int = 2**30) -> str:
    with pytest.raises(ModelFileError) as caught:
        listed(path, max_bytes)
    return str(caught.value)


def test_sizes_are_not_believed(tmp_path: Path) -> None:
    proto = model([node("MatMul", "x", "w")], {"w": weights(3, 3)}, (1, 3))
    proto.graph.initializer[0].dims[:] = [2**40, 2**40]
    (row,) = specnorm.audit(saved(proto, tmp_path / "m.onnx")).layers
    assert "does not fit" in str(row.reason)
    proto.graph.initializer[0].dims[:] = [-3, -3]
    path = saved(proto, tmp_path / "n.onnx")
    assert all(tensor.refusal is not None for tensor in listed(path) if tensor.kind != "none")
    assert "limit" in refused(path, 50)
    big = model([node("MatMul", "x", "w")], {"w": weights(30, 30)}, (1, 30))
    for at in range(20):
        big.graph.initializer.append(numpy_helper.from_array(weights(2, 2), f"e{at}"))
    path = saved(big, tmp_path / "o.onnx")
    assert "limit" in refused(path, 3700)


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


@pytest.mark.parametrize("name", hostile())
def test_hostile_graphs_give_rows_or_messages(name: str, tmp_path: Path) -> None:
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


def test_cut_and_flipped_files_are_messages_or_rows(tmp_path: Path) -> None:
    """Every cut and 600 random flips."""
    nodes, arrays, shape, _ = LINEAR["batch norm"]
    content = model(nodes, {**arrays, "w": weights(2, 2, 1, 1)}, shape).SerializeToString()
    path = tmp_path / "m.onnx"
    changed = [content[:at] for at in range(0, len(content), 7)]
    for _ in range(600):
        bad = bytearray(content)
        for at in RNG.randint(0, len(bad), 1 + RNG.randint(4)):
            bad[at] = RNG.randint(256)
        changed.append(bytes(bad))
    outcomes = set()
    for bad in changed:
        path.write_bytes(bad)
        try:
            with open_model(str(path)) as tensors:
                graph = tensors.graph(None)  # type: ignore[attr-defined]
                outcomes.add("read")
                assert len({n.name for n in graph.nodes}) == len(graph.nodes)
        except ModelFileError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_missing_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(model([node("MatMul", "x", "w")], {"w": weights(3, 3)}, (1, 3)), tmp_path / "m.onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    assert "specnorm-bounds[onnx]" in refused(path)


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    """Protobuf hands them out as bytes, which no report could hold."""
    nodes = [onnx.helper.make_node("Conv", ["x", "w"], ["y"])]
    graph = onnx.helper.make_graph(nodes, "g", [], [], [onnx.numpy_helper.from_array(np.ones((1, 1, 3)), "w")])
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString().replace(b"Conv", b"Co\xff\xff"))
    with pytest.raises(ModelFileError, match="damaged"):
        specnorm.audit(path)
