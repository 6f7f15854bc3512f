"""docs/check.py, operator by operator: what is true is proven and is tight, what only looks like it is refused."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import dense_norm
from test_check import CHECK
from test_check_networks import claim_of, finished, least_proven, parts_of

import specnorm

onnx: Any = pytest.importorskip("onnx", reason="ONNX files: pip install onnx")
make: Any = onnx.helper.make_node
Parts = list[dict[str, Any]]


def proven(claim: Any, kernels: Any) -> bool:
    """Whether the program accepts a claim about a layer."""
    try:
        CHECK.check(claim, kernels, None)
    except (CHECK.Refuted, CHECK.NotCovered, np.linalg.LinAlgError):
        return False
    return True


def saved(folder: Path, nodes: list[Any], shape: list[Any], **arrays: Any) -> Path:
    """A file of a graph from x, in float64."""
    double, value = onnx.TensorProto.DOUBLE, onnx.helper.make_tensor_value_info
    constants = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    whole = any(node.op_type in ("TopK", "MaxPool") and node.output[-1] == "y" for node in nodes)  # places of maxima
    ends = [value("y", onnx.TensorProto.INT64 if whole else double, [None] * len(shape))]
    graph = onnx.helper.make_graph(nodes, "g", [value("x", double, shape)], ends, constants)
    path = folder / "model.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def accepts(path: Path, parts: Parts, upper: float) -> bool:
    claim, arrays, model = claim_of(path, parts, upper)
    try:
        CHECK.check(claim, arrays, model)
    except (CHECK.Refuted, CHECK.NotCovered, np.linalg.LinAlgError):
        return False
    return True


TRANSPOSED: list[dict[str, Any]] = [
    {"strides": [1, 1], "pads": [1, 0, 1, 2]},
    {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
    {"strides": [2, 1], "pads": [0, 1, 0, 1], "dilations": [1, 2]},
    {"strides": [3, 2], "group": 2, "dilations": [2, 1]},
]


@pytest.mark.parametrize("given", TRANSPOSED, ids=map(str, range(4)))
def test_transposed_convolutions(given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By units the layer's own norm, by channels the supremum over all sizes."""
    kernel = np.random.RandomState(0).standard_normal((4, 3, 3, 3))
    path = saved(tmp_path, [make("ConvTranspose", ["x", "k"], ["y"], **given)], [1, 4, 3, 4], k=kernel)
    pads, more = np.reshape(given.get("pads", [0] * 4), (2, 2)), given.get("output_padding", [0, 0])
    geometry: dict[str, Any] = {
        "stride": tuple(given["strides"]), "dilation": tuple(given.get("dilations", (1, 1))), "transposed": True,
        "groups": given.get("group", 1), "padding_mode": "zeros",
        "padding": tuple((int(a), int(b - o)) for a, b, o in zip(*pads, more, strict=True)),
    }  # fmt: skip
    truth = dense_norm(kernel, (3, 4), **geometry).lo
    for units in (True, False):
        claim, arrays, _ = claim_of(path, parts_of(("x", ["y"], units)), 1.0)
        finished(claim, arrays, path, monkeypatch, 0.4)
        found = least_proven(claim, arrays, path, monkeypatch)
        assert found >= truth * (1 - 1e-12)
        known = truth if units else 1.4 * float(specnorm.enclose(kernel, **geometry).upper)
        assert found == pytest.approx(known, rel=1e-5 if units else 0.02)


def test_down_and_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A strided convolution and a transposed one, bounded together on the coarser grid."""
    draw = np.random.RandomState(1)
    arrays = {"k": draw.standard_normal((3, 2, 4)), "m": draw.standard_normal((3, 2, 4))}
    nodes = [make("Conv", ["x", "k"], ["h"], strides=[2], pads=[1, 1]), make("Relu", ["h"], ["s"])]
    nodes.append(make("ConvTranspose", ["s", "m"], ["y"], strides=[2], pads=[1, 1]))
    path = saved(tmp_path, nodes, [1, 2, 12], **arrays)
    claim, read, model = claim_of(path, parts_of(("x", ["s", "y"], False)), 1.0)
    finished(claim, read, path, monkeypatch, 0.05)
    found = least_proven(claim, read, path, monkeypatch)
    run: Any = importlib.import_module("onnx.reference").ReferenceEvaluator(model)
    steepest = 0.0
    for at in draw.standard_normal((30, 1, 2, 12)):
        rows = [run.run(None, {"x": at + 1e-5 * e.reshape(1, 2, 12)})[0].ravel() for e in np.eye(24)]
        change = (np.array(rows) - run.run(None, {"x": at})[0].ravel()) * 1e5
        steepest = max(steepest, float(np.linalg.norm(change, 2)))
    product = math.prod(float(specnorm.enclose(k, stride=2).upper) for k in (arrays["k"], arrays["m"].swapaxes(0, 1)))
    assert steepest * (1 - 1e-6) <= found <= 1.2 * product


HALVES: Any = make("Split", ["x"], ["a", "b"], axis=1, num_outputs=2)
BOTH: Any = make("Concat", ["l", "s"], ["y"], axis=1)
SORTS: dict[str, tuple[list[Any], bool]] = {
    "halves": ([HALVES, make("Max", ["a", "b"], ["l"]),
                make("Min", ["b", "a"], ["s"]), BOTH], True),
    "both signs": ([make("Neg", ["x"], ["n"]), make("Relu", ["x"], ["p"]), make("Relu", ["n"], ["q"]),
                    make("Concat", ["q", "p"], ["y"], axis=1)], True),
    "put together again": ([HALVES, make("Concat", ["b", "a"], ["y"], axis=2)], True),
    "the largest": ([make("TopK", ["x", "two"], ["y", "places"], axis=1)], False),
    "a pixel more": ([make("Pad", ["x", "pads"], ["y"])], True),
    "the larger twice": ([HALVES, make("Max", ["a", "b"], ["l"]),
                          make("Max", ["b", "a"], ["s"]), BOTH], False),
    "of other halves": ([HALVES,
                         make("Split", ["x"], ["c", "d"], axis=2, num_outputs=2), make("Reshape", ["d", "like"], ["e"]),
                         make("Concat", ["a", "e"], ["y"], axis=1)], False),
    "of itself": ([make("Max", ["x", "x"], ["l"]), make("Min", ["x", "x"], ["s"]), BOTH], False),
    "of one": ([make("Max", ["x"], ["l"]), make("Min", ["x"], ["s"]), BOTH], False),
    "one sign": ([make("Relu", ["x"], ["l"]), make("Relu", ["x"], ["s"]), BOTH], False),
    "a half twice": ([HALVES, make("Concat", ["b", "b"], ["y"], axis=1)], False),
    "the border again": ([make("Pad", ["x", "pads"], ["y"], mode="edge")], False),
    "places": ([make("TopK", ["x", "two"], ["t", "y"], axis=1)], False),
}  # fmt: skip
"""Graphs whose constant is 1, and some that look like them."""
SHAPES = {"two": [2], "like": [1, 2, 2], "pads": [0, 0, 0, 0, 0, 1]}


@pytest.mark.parametrize("name", SORTS)
def test_sorting(name: str, tmp_path: Path) -> None:
    nodes, nearer = SORTS[name]
    path = saved(tmp_path, nodes, [1, 4, 2], **{key: np.array(value) for key, value in SHAPES.items()})
    assert accepts(path, [], 1 + 1e-12) == nearer
    assert not accepts(path, [], 1 - 1e-12)


@pytest.mark.parametrize("alpha", [3.0, -2.0, 0.5])
def test_leaky_slopes(alpha: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, and between two matrices of one number."""
    path = saved(tmp_path, [make("LeakyRelu", ["x"], ["y"], alpha=alpha)], [1, 1])
    steepest = max(1.0, abs(alpha))
    assert accepts(path, [], steepest)
    assert not accepts(path, [], steepest * (1 - 1e-12))
    nodes = [
        make("Gemm", ["x", "one"], ["h"]),
        make("LeakyRelu", ["h"], ["s"], alpha=alpha),
        make("Gemm", ["s", "one"], ["y"]),
    ]
    path = saved(tmp_path, nodes, [1, 1], one=np.ones((1, 1)))
    claim, arrays, _ = claim_of(path, parts_of(("x", ["s", "y"], False)), 1.0)
    finished(claim, arrays, path, monkeypatch, 0.0)
    assert steepest * (1 - 1e-9) <= least_proven(claim, arrays, path, monkeypatch) <= 2 * steepest


def _branch(*names: str) -> Any:
    """A graph without inputs that gives what is outside of it."""
    value = onnx.helper.make_tensor_value_info
    nodes = [make("Mul", list(names), ["b"])]
    return onnx.helper.make_graph(nodes, "b", [], [value("b", onnx.TensorProto.DOUBLE, [None, None])])


HOLES: dict[str, tuple[list[Any], dict[str, Any], Parts]] = {
    "a branch reads what it is not given": (
        [make("If", ["yes"], ["y"], then_branch=_branch("x", "ten"), else_branch=_branch("x", "ten"))],
        {"yes": np.array(True), "ten": np.array(10.0)}, []),
    "a limit that moves": (
        [make("Gemm", ["x", "ten"], ["l"]), make("Reshape", ["l", "none"], ["m"]), make("Clip", ["c", "m"], ["y"])],
        {"ten": 10 * np.ones((1, 1)), "none": np.zeros(0, np.int64), "c": np.zeros((1, 1))},
        [{"start": "x", "values": ["y"], "units": False}]),
    "a function of two values": (
        [make("Gemm", ["x", "ten"], ["l"]), make("Gemm", ["x", "one"], ["v"]), make("Clip", ["v", "l"], ["y"])],
        {"ten": 10 * np.ones((1, 1)), "one": np.ones((1, 1))}, [{"start": "x", "values": ["y"], "units": False}]),
    "where a maximum is": (
        [make("MaxPool", ["x"], ["m", "y"], kernel_shape=[1])], {}, []),
    "a random number": ([make("RandomNormal", [], ["y"], shape=[1, 1], dtype=11)], {}, []),
    "doubled sixty times": (
        [make("Gemm", ["x", "one"], ["d0"]), *(make("Add", [f"d{n}", f"d{n}"], [f"d{n + 1}"]) for n in range(60)),
         make("Relu", ["d60"], ["y"])],
        {"one": np.ones((1, 1))}, [{"start": "x", "values": ["y"], "units": False}]),
}  # fmt: skip
"""Networks that are steeper than 1 (or no functions), with parts that leave out why."""


@pytest.mark.parametrize("name", HOLES)
def test_what_is_left_out_is_not_believed(name: str, tmp_path: Path) -> None:
    nodes, arrays, parts = HOLES[name]
    path = saved(tmp_path, nodes, [1, 1, 1] if "maximum" in name else [1, 1], **arrays)
    one = {"weights": [[(1.0).hex()]] * 2, "upper": (1.4).hex(), "proof": {"grid": []}}
    assert not accepts(path, [{**part, **one} for part in parts], 1.5)


def test_shapes_are_inferred_and_not_believed(tmp_path: Path) -> None:
    """A file may say that a single number, added to four, has four entries: its constant is 4, and not 1 + 1."""
    nodes = [make("Slice", ["x", "n", "e"], ["a"]), make("Add", ["x", "a"], ["y"])]
    path = saved(tmp_path, nodes, [4], n=np.array([0]), e=np.array([1]))
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("a", onnx.TensorProto.DOUBLE, ["n"]))
    onnx.save(model, path)
    assert not accepts(path, [], 2.0)


@pytest.mark.parametrize("weight", [2.0**-1074, 1e-310, 1e-300])
def test_nothing_underflows_to_zero(weight: float, tmp_path: Path) -> None:
    """Weights so small that a part's kernel vanishes prove nothing, whatever its bound is said to be."""
    path = saved(tmp_path, [make("Gemm", ["x", "w"], ["y"])], [1, 1], w=np.array([[0.4]]))
    for upper in (0.0, 2.0**-1074, 1e-320):
        part = {"start": "x", "values": ["y"], "units": False, "weights": [[(1.0).hex()], [weight.hex()]]}
        part |= {"upper": upper.hex(), "proof": {"grid": []}}
        assert not accepts(path, [part], 0.39)
    small = saved(tmp_path, [make("BatchNormalization", ["v", *"szzn"], ["y"]), make("Gemm", ["x", "w"], ["v"])][::-1],
                  [1, 1], w=np.array([[1e300]]), s=np.array([1e-200]), z=np.zeros(1), n=np.array([1e300]))  # fmt: skip
    part = {"start": "x", "values": ["y"], "units": False, "weights": [[(1.0).hex()]] * 2, "proof": {"grid": []}}
    assert not accepts(small, [{**part, "upper": (1e-60).hex()}], 1e-60)


# -- layers ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["reflect", "replicate"])
@pytest.mark.parametrize("padding", [((1, 1),), ((2, 0),), ((1, 2),)])
def test_repeated_pixels_at_every_size(mode: Any, padding: Any) -> None:
    kernel = np.random.RandomState(2).standard_normal((2, 2, 3))
    (claim,) = specnorm.enclose(kernel, padding_mode="zeros", padding=padding).certificate("k").claims
    gain = float(specnorm.enclose(kernel, padding_mode=mode, padding=padding).upper) * (1 + 1e-6)
    claim = {**claim, "padding_mode": mode, "upper": gain.hex(), "proof": {"grid": [4000]}}
    assert proven(claim, {"k": kernel})
    for n in range(3, 9):
        truth = dense_norm(kernel, (n,), padding_mode=mode, padding=padding).lo
        assert truth <= gain
        assert not proven({**claim, "upper": (truth * (1 - 1e-9)).hex()}, {"k": kernel}) or truth < gain * 0.999
    assert not proven({**claim, "upper": (float.fromhex(claim["upper"]) * 0.99).hex()}, {"k": kernel})


def test_kernels_in_bfloat16(tmp_path: Path) -> None:
    ml_dtypes: Any = pytest.importorskip("ml_dtypes", reason="bfloat16 in NumPy: pip install ml_dtypes")
    kernel = np.random.RandomState(3).standard_normal((2, 2, 3)).astype(ml_dtypes.bfloat16)
    (claim,) = specnorm.enclose(kernel.astype(np.float64)).certificate("k").claims
    claim["kernel"] |= {"dtype": "bfloat16", "sha256": CHECK.digest(kernel)}
    save: Any = importlib.import_module("safetensors.numpy").save_file
    save({"k": kernel}, tmp_path / "model.safetensors")
    read, _ = CHECK.read_model(tmp_path / "model.safetensors")
    assert proven(claim, read)
    assert not proven({**claim, "upper": (0.99 * float.fromhex(claim["upper"])).hex()}, read)
    other = read["k"].view(np.uint16).copy()
    other.flat[0] ^= 1
    assert not proven(claim, {"k": other.view(ml_dtypes.bfloat16)})
