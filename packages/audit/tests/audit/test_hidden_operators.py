"""ONNX files that hide a layer of norm 100 behind a layer of norm 1. A gate passes only where a row has the norm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("click")
onnx = pytest.importorskip("onnx", exc_type=ImportError)
from helpers.onnx_models import saved, single, values_of  # noqa: E402
from onnx import TensorProto, defs, helper, numpy_helper  # noqa: E402
from specnorm_audit import audit, cli  # noqa: E402
from specnorm_audit.report import gate_layers  # noqa: E402

from audit import files  # noqa: E402

node = helper.make_node
SMALL, LARGE = np.eye(4, dtype=np.float32), 100 * np.eye(4, dtype=np.float32)
IMAGE = np.full((4, 4, 1, 1), 100, np.float32)
OPSET = defs.onnx_opset_version()


def save(
    path: Path, nodes: Sequence[Any], arrays: dict[str, Any] | None = None, *, inputs: Sequence[str] = (),
    shape: Sequence[int] = (2, 4), first: bool = True, **more: Any,
) -> Path:  # fmt: skip
    """A file of the layer u = x w1, of norm 1, and of ``nodes``, which make y of u."""
    layer = [node("MatMul", ["x", "w1"], ["u"])] if first else []
    constants = {"w1": SMALL, **(arrays or {})}
    return saved(single([*layer, *nodes], shape, constants, inputs=["x", *inputs], **more), path)


def judged(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, float]:
    """What a gate at 2 says of a file, and the largest norm of its rows."""
    files.read_here(monkeypatch)
    report = audit(path, methods=())
    return gate_layers(report, 2.0).outcome, max(row.upper or 0 for row in report.layers)


def product(kernel: str = "k") -> Any:
    return node("MatMul", ["u", kernel], ["y"])


# -- kernels that an operator makes ------------------------------------------------------------------------------------
SCHEMAS = [s for s in defs.get_all_schemas() if s.domain == "" and not s.deprecated and s.outputs]
LISTS: dict[str, Any] = {
    "axes": [0], "axis": 0, "perm": [1, 0], "to": 1, "sample_size": 1, "equation": "ij->ji", "blocksize": 1,
    "scales": [1.0, 1.0], "kernel_shape": [1, 1], "repeats": [1, 1], "shape": [4, 4], "hidden_size": 4, "size": 1,
    "lambd": 0.1, "num_heads": 1, "num_groups": 1, "q_num_heads": 1, "kv_num_heads": 1, "block_shape": [1, 1],
}  # fmt: skip
"""Attributes that a schema requires."""


def operand(schema: Any, at: int, arrays: dict[str, Any], large: bool) -> str:
    """A constant of a type that the schema's input takes: the kernel, or whole numbers."""
    each = schema.inputs[at]
    types: list[str] = next(
        (c.allowed_type_strs for c in schema.type_constraints if c.type_param_str == each.type_str), []
    )
    types = types or [each.type_str]
    kinds = {"tensor(float)": LARGE, "tensor(int64)": np.array([4, 4]), "tensor(bool)": np.ones((4, 4), bool)}
    kinds |= {"tensor(string)": np.full((4, 4), "100", object), "tensor(uint8)": np.full((4, 4), 100, np.uint8)}
    name = f"in{at}"
    found = next((value for kind, value in kinds.items() if kind in types), LARGE)
    if found is LARGE and not large:
        return "w1"  # which has a row, of norm 1
    arrays[name] = found
    return name


INNER = node("Constant", [], ["inner"], value=numpy_helper.from_array(LARGE))


def scope(nodes: Sequence[Any], given: Sequence[Any] = (), made: Sequence[Any] = ("y",), **arrays: Any) -> Any:
    return single(nodes, None, arrays, inputs=given, outputs=made).graph


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.name)
@pytest.mark.parametrize("factor", [1, 100])
@pytest.mark.nightly
def test_a_kernel_computed_by_any_operator_passes_no_gate(
    schema: Any, factor: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays: dict[str, Any] = {"c": np.float32(factor)}
    inputs = [
        operand(schema, at, arrays, factor == 1) for at in range(len(schema.inputs)) if at < max(schema.min_input, 1)
    ]
    attributes = {
        name: scope([INNER], made=["inner"]) if each.type == defs.OpSchema.AttrType.GRAPH else LISTS.get(name, 1)
        for name, each in schema.attributes.items()
        if each.required
    }
    if schema.name == "Constant":
        attributes = {"value": numpy_helper.from_array(LARGE)}
    outputs = ["e", *(f"e{at}" for at in range(1, max(schema.min_output, 1)))]
    scaled = [node("Cast", ["e"], ["numbers"], to=1), node("Mul", ["numbers", "c"], ["k"]), product()]
    nodes = [node(schema.name, inputs, outputs, **attributes), *scaled]
    path = save(tmp_path / "m.onnx", nodes, arrays, opset=OPSET)
    outcome, upper = judged(path, monkeypatch)
    try:
        proto = onnx.load(path)
        del proto.graph.node[-1], proto.graph.output[:]
        proto.graph.output.append(helper.make_tensor_value_info("k", TensorProto.FLOAT, None))
        (kernel,) = values_of(proto, np.eye(4, dtype=np.float32))
        norm = float(np.linalg.norm(np.atleast_2d(np.asarray(kernel, np.float64)), 2))
    except Exception:  # the evaluator computes no kernel
        norm = np.inf
    assert outcome != "passed" or (norm <= 2 and upper >= norm), (norm, upper)


SPARSE = helper.make_sparse_tensor(
    numpy_helper.from_array(np.full(4, 100, np.float32), "v"), numpy_helper.from_array(np.array([0, 5, 10, 15]), "i"),
    [4, 4],
)  # fmt: skip
SHAPED = node("Reshape", ["e", "shape"], ["k"])
CAST = node("Cast", ["s", ], ["e"], to=1)  # fmt: skip
CONSTANTS: dict[str, list[Any]] = {
    "value": [node("Constant", [], ["k"], value=numpy_helper.from_array(LARGE)), product()],
    "sparse_value": [node("Constant", [], ["k"], sparse_value=SPARSE), product()],
    "value_float": [node("Constant", [], ["e"], value_float=100.0), node("Expand", ["e", "shape"], ["k"]), product()],
    "value_floats": [node("Constant", [], ["e"], value_floats=[100.0] * 16), SHAPED, product()],
    "value_int": [
        node("Constant", [], ["s"], value_int=100), CAST, node("Expand", ["e", "shape"], ["k"]), product()
    ],
    "value_ints": [node("Constant", [], ["s"], value_ints=[100] * 16), CAST, SHAPED, product()],
    "value_string": [
        node("Constant", [], ["s"], value_string="100"), CAST, node("Expand", ["e", "shape"], ["k"]), product()
    ],
    "value_strings": [node("Constant", [], ["s"], value_strings=["100"] * 16), CAST, SHAPED, product()],
}  # fmt: skip


# -- where kernels stand -----------------------------------------------------------------------------------------------
BODY = [node("Constant", [], ["w"], value=numpy_helper.from_array(LARGE)), node("MatMul", ["a", "w"], ["b"])]
SETS = [helper.make_opsetid("", 18)]


NOT = node("Identity", ["u"], ["y"])


def nested(depth: int) -> Any:
    """The product, below so many branches."""
    inner = scope([product()], k=LARGE)
    for _ in range(depth):
        inner = scope(
            [node("If", ["t"], ["y"], then_branch=inner, else_branch=scope([node("Identity", ["u"], ["y"])]))]
        )
    return inner


def trilu(name: str = "k") -> list[Any]:
    """Makes the kernel by what is not evaluated."""
    return [node("Expand", ["v", "s"], ["q"]), node("Trilu", ["q"], [name])]


PARTS = {"v": np.full(1, 100, np.float32), "s": np.array([4, 4])}
TRUE = {"t": np.array(True)}
LOOP = [("n", TensorProto.INT64), ("more", TensorProto.BOOL), ("more2", TensorProto.BOOL)]


def loop(nodes: Sequence[Any], carried: Sequence[str], made: Sequence[str], **arrays: Any) -> Any:
    count, more, goes_on = (helper.make_tensor_value_info(name, kind, []) for name, kind in LOOP)
    keep = node("Identity", ["more"], ["more2"])
    return scope([keep, *nodes], [count, more, *carried], [goes_on, *made], **arrays)


def chosen(*more: Any) -> list[Any]:
    """A condition that depends on the input."""
    return [node("ReduceMax", ["u"], ["top"], keepdims=0), node("Greater", ["top", "zero"], ["t"]), *more]


def if_of(then: Any, other: Any, out: str = "k") -> Any:
    return node("If", ["t"], [out], then_branch=then, else_branch=other)


def weights(*shape: int) -> Any:
    return np.full(shape, 100, np.float32)


PLACES: dict[str, tuple[list[Any], dict[str, Any], dict[str, Any]]] = {
    "function": ([node("F", ["u"], ["y"], domain="my")], {}, {
        "functions": [helper.make_function("my", "F", ["a"], ["b"], BODY, SETS)], "domains": ["my"]}),
    "function called Relu": ([node("Relu", ["u"], ["y"])], {}, {
        "functions": [helper.make_function("", "Relu", ["a"], ["b"], BODY, SETS)]}),
    "function that makes it": ([node("F", [], ["k"], domain="my"), product()], {}, {
        "functions": [helper.make_function("my", "F", [], ["w"], BODY[:1], SETS)], "domains": ["my"]}),
    "operator of others": ([node("FusedMatMul", ["u", "k"], ["y"], domain="com.microsoft")], {"k": LARGE}, {
        "domains": ["com.microsoft"]}),
    "operator of others, computed": ([*trilu(), node("FusedMatMul", ["u", "k"], ["y"], domain="com.microsoft")],
        PARTS, {"domains": ["com.microsoft"]}),
    "in an attribute": ([node("LinearRegressor", ["u"], ["y"], domain="ai.onnx.ml", coefficients=[100.0] * 16,
        targets=4)], {}, {"domains": ["ai.onnx.ml"]}),
    "branch": ([if_of(scope([product()], k=LARGE), scope([NOT]), "y")], TRUE, {}),
    "branch that makes it": ([if_of(scope([], (), ("k0",), k0=LARGE), scope([], (), ("k1",), k1=LARGE)), product()],
        TRUE, {}),
    "chosen branch": ([*chosen(if_of(scope([], (), ("k0",), k0=LARGE), scope([], (), ("k1",), k1=LARGE))), product()],
        {"zero": np.float32(0)}, {}),
    "chosen kernel": ([*chosen(node("Where", ["t", "k0", "k1"], ["k"])), product()],
        {"zero": np.float32(0), "k0": LARGE, "k1": LARGE}, {}),
    "times a comparison": ([*chosen(node("Cast", ["t"], ["one"], to=1), node("Mul", ["one", "k0"], ["k"])), product()],
        {"zero": np.float32(0), "k0": LARGE}, {}),
    "twenty branches deep": ([nested(20).node[0]], TRUE, {}),
    "kernel that a loop carries": ([*trilu("k0"), node("Loop", ["m", "t", "u", "k0"], ["y", "k1"], body=loop(
        [node("MatMul", ["h", "k"], ["h2"]), node("Identity", ["k"], ["k2"])], ["h", "k"], ["h2", "k2"]))],
        {**PARTS, **TRUE, "m": np.int64(1)}, {}),
    "kernel from a loop": ([node("Loop", ["m", "t", "u"], ["y"], body=loop(
        [*trilu(), node("MatMul", ["h", "k"], ["h2"])], ["h"], ["h2"]))], {**PARTS, **TRUE, "m": np.int64(1)}, {}),
    "graph input": ([node("MatMul", ["u", "k"], ["y"])], {}, {"inputs": ["k"]}),
    "graph input, times": ([node("Mul", ["g", "c"], ["k"]), product()], {"c": np.float32(100)}, {"inputs": ["g"]}),
    "convolution by a graph input": ([node("Conv", ["x", "k"], ["y"])], {}, {
        "inputs": ["k"], "shape": (4, 4, 1, 1), "first": False}),
    "convolution by a value": ([node("Conv", ["x", "k"], ["y"]), node("Identity", ["x"], ["k"])][::-1], {}, {
        "shape": (4, 4, 1, 1), "first": False}),
    "random": ([node("RandomUniform", [], ["k"], shape=[4, 4], high=100.0), product()], {}, {}),
    "random, of a shape": ([node("RandomNormalLike", ["u"], ["k"], scale=100.0), node("Gemm", ["u", "k"], ["y"],
        transB=1)], {}, {}),
    "eye of a shape": ([node("EyeLike", ["u"], ["e"]), node("Mul", ["e", "c"], ["k"]), node("Gemm", ["u", "k"], ["y"],
        transB=1)], {"c": np.float32(100)}, {}),
    "used before it is made": ([product(), node("Constant", [], ["k"], value=numpy_helper.from_array(LARGE))], {}, {}),
    "a cycle": ([node("MatMul", ["u", "k"], ["y"]), node("Mul", ["y", "c"], ["k"])], {"c": LARGE}, {}),
    "vector": ([product()], {"k": np.full(4, 100, np.float32)}, {}),
    "stack of matrices": ([product()], {"k": np.stack([LARGE] * 6).reshape(1, 2, 1, 3, 4, 4)}, {}),
    "Gemm's alpha": ([node("Gemm", ["u", "k"], ["y"], alpha=100.0)], {"k": SMALL}, {}),
    "Gemm's alpha of a computed kernel": ([*trilu(), node("Gemm", ["u", "k"], ["y"])], PARTS, {}),
    "Einsum": ([node("Einsum", ["u", "k"], ["y"], equation="ij,jk->ik")], {"k": LARGE}, {}),
    "Einsum of a layer's kernel": ([node("Mul", ["w1", "c"], ["k"]), node("Einsum", ["u", "k"], ["y"],
        equation="ij,jk->ik")], {"c": np.float32(100)}, {}),
    "attention to constants": ([node("Unsqueeze", ["u", "zero"], ["u3"]), node("Attention", ["u3", "k", "k"], ["y"],
        q_num_heads=1, kv_num_heads=1)], {"k": LARGE[None], "zero": np.array([0])}, {"opset": 23}),
    "attention to a computed constant": ([node("Unsqueeze", ["u", "zero"], ["u3"]), node("Unsqueeze", ["w1", "zero"],
        ["w3"]), node("Mul", ["w3", "c"], ["k"]), node("Attention", ["u3", "k", "k"], ["y"], q_num_heads=1,
        kv_num_heads=1)], {"c": np.float32(100), "zero": np.array([0])}, {"opset": 23}),
    "int8 weights": ([node("DynamicQuantizeLinear", ["u"], ["q", "qs", "qz"]), node("MatMulInteger", ["q", "k"],
        ["yi"]), node("Cast", ["yi"], ["y"], to=1)], {"k": np.full((4, 4), 100, np.int8)}, {}),
    "quantised": ([node("DynamicQuantizeLinear", ["u"], ["q", "qs", "qz"]), node("QLinearMatMul",
        ["q", "qs", "qz", "k", "ks", "kz", "ys", "kz"], ["r"]), node("DequantizeLinear", ["r", "ys", "kz"], ["y"])],
        {"k": np.full((4, 4), 100, np.uint8), "ks": np.float32(1), "kz": np.uint8(0), "ys": np.float32(1)}, {}),
    "dequantised": ([node("DequantizeLinear", ["k8", "ks"], ["k"]), product()],
        {"k8": np.full((4, 4), 100, np.int8), "ks": np.float32(1)}, {}),
    "two kernels of one array, recurrent": ([node("Unsqueeze", ["u", "zero"], ["u3"]), node("RNN", ["u3", "w", "r"],
        ["h"], hidden_size=4), node("Mul", ["w", "c"], ["w100"]), node("RNN", ["u3", "w100", "r"], ["y"],
        hidden_size=4)],
        {"zero": np.array([0]), "w": SMALL[None], "r": 0 * SMALL[None], "c": np.float32(100)}, {}),
    "recurrent, computed": ([node("Unsqueeze", ["u", "zero"], ["u3"]), *trilu("w0"), node("Unsqueeze", ["w0", "zero"],
        ["w"]), node("RNN", ["u3", "w", "r"], ["y"], hidden_size=4)],
        {"zero": np.array([0]), "r": 0 * SMALL[None], **PARTS}, {}),
    "recurrent, of another shape": ([node("Unsqueeze", ["u", "zero"], ["u3"]), node("LSTM", ["u3", "w", "r"], ["y"],
        hidden_size=4)], {"zero": np.array([0]), "w": weights(1, 15, 4), "r": weights(1, 15, 4)}, {}),
    "peepholes": ([node("Unsqueeze", ["u", "zero"], ["u3"]), node("LSTM", ["u3", "w", "r", "", "", "", "", "p"], ["y"],
        hidden_size=4)], {"zero": np.array([0]), "w": np.zeros((1, 16, 4), np.float32), "r": np.zeros((1, 16, 4),
        np.float32), "p": weights(1, 12)}, {}),
    "a state, then a kernel": ([node("Unsqueeze", ["u", "zero"], ["u3"]), node("RNN", ["u3", "w", "r", "", "", "k"],
        ["h"], hidden_size=4), node("RNN", ["u3", "k", "r"], ["y"], hidden_size=4)],
        {"zero": np.array([0]), "w": SMALL[None], "r": 0 * SMALL[None], "k": LARGE[None]}, {}),
    "deformable": ([node("DeformConv", ["x", "k", "o"], ["y"])], {"k": IMAGE, "o": np.zeros((4, 2, 1, 1), np.float32)},
        {"shape": (4, 4, 1, 1), "opset": 19, "first": False}),
}  # fmt: skip
PLACES |= {f"{name} of Constant": (nodes, {"shape": np.array([4, 4])}, {}) for name, nodes in CONSTANTS.items()}


@pytest.mark.parametrize("place", PLACES)
def test_a_kernel_in_any_place_of_a_graph_passes_no_gate(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes, arrays, options = PLACES[place]
    path = save(tmp_path / "m.onnx", nodes, arrays, **options)
    code = cli.run(["audit", str(path), "--fail-above", "2"])
    assert code in (1, 2)
    err = capsys.readouterr().err
    assert "gate failed" in err or "gate not decided" in err, err


def test_an_integer_input_chooses_rows_of_a_measured_matrix(tmp_path: Path) -> None:
    """A one-hot of unknown shape times a matrix, which has a row: the one-hot is no second kernel."""
    integers = helper.make_tensor_value_info("ids", TensorProto.INT64, [4, 1])
    nodes = [node("Equal", ["ids", "all"], ["q"]), node("Cast", ["q"], ["hot"], to=1), node("MatMul", ["hot", "k"],
        ["e"]), node("Add", ["u", "e"], ["y"])]  # fmt: skip
    path = save(tmp_path / "m.onnx", nodes, {"k": SMALL, "all": np.arange(4)}, inputs=[integers])
    assert cli.run(["audit", str(path), "--fail-above", "2"]) == 0
    path = save(tmp_path / "m.onnx", nodes, {"k": LARGE, "all": np.arange(4)}, inputs=[integers])
    assert cli.run(["audit", str(path), "--fail-above", "2"]) == 1


def test_the_row_of_a_gemm_has_its_alpha(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row is the product's, alpha included; beta is of what is added."""
    path = save(tmp_path / "m.onnx", [node("Gemm", ["u", "k", "c"], ["y"], alpha=100.0, beta=7.0)],
                {"k": SMALL, "c": np.ones(4, np.float32)})  # fmt: skip
    files.read_here(monkeypatch)
    report: Any = audit(path, methods=())
    (row,) = [row for row in report.layers if row.name == "k"]
    assert row.lower <= 100 <= row.upper <= 100.1
    assert 100 <= report.network.upper <= 100.1
