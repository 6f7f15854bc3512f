"""Shapes of a network's inputs by name, an input that a bound is near, and the reader for Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", exc_type=ImportError)
pytest.importorskip("click")

from specnorm_audit import cli, read_onnx  # noqa: E402

import specnorm  # noqa: E402
from audit.onnx_models import drawing, model, node, saved  # noqa: E402

weights = drawing(np.random.RandomState(5))


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """A sum over time of one input, and an image with two axes, whose kernel `--input-shape 16000` made 16000x16000."""
    nodes = [
        node("Conv", "audio", "k", out="a"),
        node("ReduceSum", "a", "time", keepdims=0, out="s"),
        node("Conv", "image", "l", out="b"),
        node("GlobalAveragePool", "b", out="p"),
        node("Flatten", "p", out="f"),
        node("Add", "s", "f"),
    ]
    proto = model(nodes, {"k": weights(4, 1, 3), "l": weights(4, 2, 3, 3), "time": np.array([2])}, None, opset=17)
    del proto.graph.input[:]
    from onnx import TensorProto, helper

    shapes: dict[str, list[Any]] = {"audio": ["N", 1, "time"], "image": ["N", 2, "h", "w"]}
    proto.graph.input.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items())
    return saved(proto, tmp_path / "speech.onnx")


def test_shapes_by_name(speech: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The sum needs the length of its own input; kernels are measured at every size."""
    assert cli.run(["audit", str(speech), "--input-shape", "audio=1x1x16000", "--format", "json"]) == 0
    capsys.readouterr()
    report = specnorm.audit(speech, input_shape={"audio": (1, 1, 50)})
    assert report.network is not None
    assert report.network.upper is not None
    assert report.network.input_shapes["audio"] == (1, 1, 50)
    assert all(row.spec is not None and row.spec.input_shape is None for row in report.layers)
    kernel = np.asarray(read_onnx(speech).by_name["a"].operator.layer.load())  # type: ignore[attr-defined]
    rows = np.array([np.convolve(np.ones(48), kernel[j, 0][::-1]) for j in range(4)])
    assert report.network.upper >= np.linalg.norm(rows, 2) * (1 - 1e-6)
    assert specnorm.audit(speech).network.upper is None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["audio=1x1x40", "32"], "no other size beside it"),
        (["audio=1x1x40", "audio=1x1x50"], "every input once"),
        (["32", "48"], "by name"),
        (["=1x3"], "every input once"),
        (["audio=1x"], "is not a size"),
        (["sound=1x1x40"], "no input 'sound'; it has 'audio', 'image'"),
        (["audio=40"], "the file states Nx1xtime"),
        (["audio=1x2x40"], "with its batch axis"),
    ],
)
def test_shapes_that_are_none(given: list[str], said: str, speech: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [word for each in given for word in ("--input-shape", each)]
    assert cli.run(["audit", str(speech), *options]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.fixture
def cubic(tmp_path: Path) -> Path:
    """``x (x W)^2``: no constant, but near an input."""
    nodes = [node("MatMul", "x", "w", out="a"), node("Mul", "a", "a", out="s"), node("Mul", "s", "x")]
    return saved(model(nodes, {"w": weights(4, 4)}, ("N", 4)), tmp_path / "cubic.onnx")


def chain(random: np.random.RandomState) -> tuple[list[Any], dict[str, Any]]:
    """Nodes that make "s" of the sizes of x, as exporters write them, and others."""
    nodes, arrays, sizes = [node("Shape", "x", out="v0")], {"one": np.array([0])}, 4
    last, scalar = "v0", False
    for at in range(1, random.randint(2, 7)):
        out, what = f"v{at}", random.choice(["gather", "slice", "concat", "pick", "cast", "identity", "wide"])
        if scalar:
            nodes.append(node("Unsqueeze", last, "one", out=out))
            scalar, sizes = False, 1
        elif what == "pick":
            arrays[f"i{at}"] = np.array(random.randint(-sizes, sizes))
            nodes.append(node("Gather", last, f"i{at}", out=out, axis=0))
            scalar = True
        elif what == "gather":
            arrays[f"i{at}"] = random.randint(-sizes, sizes, random.randint(1, 4))
            nodes.append(node("Gather", last, f"i{at}", out=out))
            sizes = arrays[f"i{at}"].size
        elif what == "slice" and sizes > 1:
            step = random.choice([-1, 1])
            ends = np.array([0]), np.array([sizes - 1])
            for name, value in zip("abcd", (*ends[::step], np.array([0]), np.array([step])), strict=True):
                arrays[f"{name}{at}"] = value
            nodes.append(node("Slice", last, *(f"{name}{at}" for name in "abcd"), out=out))
            sizes -= 1
        elif what == "concat":
            arrays[f"i{at}"] = np.array([7])
            nodes.append(node("Concat", *random.permutation([last, f"i{at}", last]), out=out, axis=0))
            sizes = 2 * sizes + 1
        elif what == "wide":
            nodes.append(node("Concat", last, last, out=out, axis=-1))
            sizes *= 2
        else:
            nodes.append(node("Cast", last, out=out, to=7) if what == "cast" else node("Identity", last, out=out))
        last = out
    return [*nodes, node("Identity", last, out="s"), node("Identity", "x")], arrays
