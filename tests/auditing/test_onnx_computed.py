"""Kernels that a graph computes from constants, as exporters write parametrisations: what the evaluator computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", exc_type=ImportError)
from onnx import helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

import specnorm  # noqa: E402
from auditing.onnx_models import (  # noqa: E402
    Arrays,
    by_product,
    drawing,
    graph_of,
    listed,
    matrix_of,
    model,
    node,
    norm,
    saved,
)

RNG = np.random.RandomState(0)
weights = drawing(RNG)


def bjorck(steps: int) -> list[Any]:
    nodes, last = [], "w"
    for at in range(steps):
        nodes += [
            node("Transpose", last, perm=[1, 0], out=f"t{at}"),
            node("MatMul", f"t{at}", last, out=f"g{at}"),
            node("MatMul", last, f"g{at}", out=f"c{at}"),
            node("Mul", last, "a", out=f"p{at}"),
            node("Mul", f"c{at}", "b", out=f"q{at}"),
            node("Sub", f"p{at}", f"q{at}", out=f"w{at}" if at + 1 < steps else "k"),
        ]
        last = f"w{at}"
    return nodes


CONV = node("Conv", "x", "k", pads=[1, 1, 1, 1])
HALVES = {"a": np.float32(1.5), "b": np.float32(0.5)}
AXES = np.array([1, 2, 3])
KERNELS: dict[str, tuple[list[Any], Arrays, tuple[int, ...]]] = {
    # name: nodes that compute "k", and what is made of it; constants; the input's shape
    "spectral norm, linear": (
        [
            node("MatMul", "w", "v", out="wv"),
            node("Mul", "wv", "u", out="uwv"),
            node("ReduceSum", "uwv", keepdims=0, out="s"),
            node("Div", "w", "s", out="n"),
            node("Transpose", "n", perm=[1, 0], out="k"),
            node("MatMul", "x", "k"),
        ],
        {"w": weights(300, 280), "v": weights(280), "u": weights(300)},
        (1, 280),
    ),
    "spectral norm, convolution": (
        [
            node("Reshape", "w", "rows", out="m"),
            node("MatMul", "m", "v", out="mv"),
            node("MatMul", "u", "mv", out="s"),
            node("Div", "w", "s", out="k"),
            CONV,
        ],
        {"w": weights(24, 320, 3, 3), "rows": np.array([24, -1]), "v": weights(2880), "u": weights(24)},
        (1, 320, 2, 2),
    ),
    "weight norm": (
        [
            node("ReduceL2", "w", axes=[1, 2, 3], keepdims=1, out="l"),
            node("Div", "w", "l", out="d"),
            node("Mul", "d", "g", out="k"),
            CONV,
        ],
        {"w": weights(24, 320, 3, 3), "g": weights(24, 1, 1, 1)},
        (1, 320, 2, 2),
    ),
    "small": (
        [
            node("ReduceL2", "w", axes=[1, 2, 3], keepdims=1, out="l"),
            node("Div", "w", "l", out="k"),
            CONV,
        ],
        {"w": weights(2, 3, 3, 3)},
        (1, 3, 4, 4),
    ),
    "iterations": ([*bjorck(3), node("MatMul", "x", "k")], {"w": weights(260, 260) / 40, **HALVES}, (1, 260)),
    "almost orthogonal": (
        [
            node("Transpose", "w", perm=[1, 0, 2, 3], out="t"),
            node("Conv", "t", "t", pads=[2, 2, 2, 2], out="c"),
            node("Abs", "c", out="a"),
            node("ReduceSum", "a", "axes", keepdims=0, out="s"),
            node("Pow", "s", "half", out="r"),
            node("Reshape", "r", "shape", out="rr"),
            node("Mul", "w", "rr", out="k"),
            CONV,
        ],
        {"w": weights(160, 48, 3, 3), "axes": AXES, "half": np.float32(-0.5), "shape": np.array([1, 48, 1, 1])},
        (1, 48, 2, 2),
    ),
    "batch normalisation": (
        [
            node("Add", "var", "eps", out="e"),
            node("Sqrt", "e", out="d"),
            node("Div", "gamma", "d", out="f"),
            node("Reshape", "f", "shape", out="ff"),
            node("Mul", "w", "ff", out="k"),
            CONV,
        ],
        {
            "w": weights(128, 64, 3, 3), "var": abs(weights(128)) + 1, "eps": np.float32(1e-5),
            "gamma": weights(128), "shape": np.array([128, 1, 1, 1]),
        },
        (1, 64, 2, 2),
    ),
    "half precision": (
        [node("Cast", "w", to=1, out="c"), node("Mul", "c", "a", out="k"), node("MatMul", "x", "k")],
        {"w": weights(280, 260).astype(np.float16), "a": np.float32(0.3)},
        (1, 280),
    ),
    "pieces": (
        [
            helper.make_node("Split", ["w"], ["p", "q"], axis=0, num_outputs=2),
            node("Exp", "q", out="e"),
            node("Concat", "e", "p", axis=0, out="k"),
            node("MatMul", "x", "k"),
        ],
        {"w": weights(280, 300) / 100},
        (1, 280),
    ),
}  # fmt: skip


def written(case: str) -> tuple[Any, tuple[int, ...]]:
    nodes, arrays, shape = KERNELS[case]
    return model(nodes, arrays, list(shape), opset=13 if case in ("weight norm", "small") else 18), shape


@pytest.mark.parametrize("case", KERNELS)
def test_the_kernel_is_what_the_evaluator_computes(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_product(monkeypatch)
    proto, shape = written(case)
    path = saved(proto, tmp_path / "m.onnx")
    proto.graph.output.append(helper.make_tensor_value_info("k", onnx.TensorProto.FLOAT, None))
    evaluator: Any = ReferenceEvaluator(proto)
    wanted = evaluator.run(["k"], {"x": np.zeros(shape, np.float32)})[0]
    row = next(each for each in listed(path) if each.kind in ("conv", "linear"))
    assert row.name == "w"
    assert row.dtype == "float32"
    found = np.asarray(row.load())
    assert found.dtype == wanted.dtype
    assert np.array_equal(found, wanted)
    assert "reference evaluator" in row.assumed[0]
    report = specnorm.audit(path, methods=("reshaped",))
    truth = norm(matrix_of(proto, shape))
    assert report.network is not None
    assert report.network.upper is not None
    assert truth * (1 - 1e-5) <= report.network.upper <= truth * 1.6
    assert report.network.checked.complete


def small(nodes: list[Any], arrays: Arrays, shape: Any = (1, 4), **options: Any) -> Any:
    return model([*nodes, node("Reshape", "x", "n")], {"x1": weights(300, 300), **arrays}, list(shape), **options)


REFUSED: dict[str, tuple[list[Any], str]] = {
    "chance": ([helper.make_node("RandomNormalLike", ["w"], ["k"])], ""),
    "no rule": ([node("Cumsum", "w", out="k")], "Cumsum has no rule"),
    "bomb": ([node("Expand", "w", "wide", out="e"), node("ReduceSum", "e", "first", keepdims=0, out="k")], ""),
    "bomb of windows": (
        [node("Reshape", "w", "image", out="i"), node("Conv", "i", "i", pads=[299] * 4, out="c"),
         node("Reshape", "c", "flat", out="k")], "",
    ),
    "training": ([helper.make_node("Dropout", ["w", "", "yes"], ["k"])], ""),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_computed(case: str, tmp_path: Path) -> None:
    """Then the kernel is not known, and what it would be made of is named."""
    nodes, _ = REFUSED[case]
    arrays = {
        "w": weights(300, 300), "wide": np.array([2**20, 300, 300]), "first": np.array([0]), "yes": np.array(True),
        "image": np.array([1, 1, 300, 300]), "flat": np.array([599, 599]),
    }  # fmt: skip
    path = saved(model([*nodes, node("MatMul", "x", "k")], arrays, [1, 300]), tmp_path / "m.onnx")
    graph = graph_of(path)
    assert graph.by_name["y"].rule == "unknown"
    assert [each.name for each in listed(path) if each.refusal is not None] == ["node y"]
