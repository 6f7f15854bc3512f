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
