"""Shapes of a network's inputs by name, and the range of their entries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", exc_type=ImportError)
pytest.importorskip("click")
import specnorm_networks as networks  # noqa: E402
from helpers.onnx_models import drawing, node, saved, single  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402
from specnorm_audit import cli  # noqa: E402

import specnorm  # noqa: E402

weights = drawing(np.random.RandomState(5))


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """A sum over time of one input, and an image with two axes, whose kernel `--input-shape 16000` made 16000x16000."""
    nodes = [
        node("Conv", "audio", "k", out="a"), node("ReduceSum", "a", "time", keepdims=0, out="s"),
        node("Conv", "image", "l", out="b"), node("GlobalAveragePool", "b", out="p"), node("Flatten", "p", out="f"),
        node("Add", "s", "f"),
    ]  # fmt: skip
    shapes: dict[str, list[Any]] = {"audio": ["N", 1, "time"], "image": ["N", 2, "h", "w"]}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    arrays = {"k": weights(4, 1, 3), "l": weights(4, 2, 3, 3), "time": np.array([2])}
    return saved(single(nodes, None, arrays, inputs=inputs), tmp_path / "speech.onnx")


def test_shapes_of_inputs_may_be_given_by_name(speech: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The sum needs the length of its own input; kernels are measured at every size."""
    assert cli.run(["audit", str(speech), "--input-shape", "audio=1x1x16000", "--format", "json"]) == 0
    assert "not all sizes of image are stated" in capsys.readouterr().out
    report: Any = specnorm.audit(speech, input_shape={"audio": (1, 1, 50), "image": (1, 2, 4, 5)})
    assert report.network.input_shapes["audio"] == (1, 1, 50)
    assert [row for row in report.layers if not (row.spec is not None and row.spec.input_shape is None)] == []
    kernel = np.asarray(networks.network_graph(speech).by_name["a"].operator.layer.load())  # type: ignore[attr-defined]
    rows = np.array([np.convolve(np.ones(48), kernel[j, 0][::-1]) for j in range(4)])
    assert report.network.upper >= np.linalg.norm(rows, 2) * (1 - 1e-6)
    report = specnorm.audit(speech)
    assert report.network.upper is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["audio=1x1x40", "32"], "no other size beside it"), (["audio=1x1x40", "audio=1x1x50"], "every input once"),
        (["32", "48"], "by name"), (["=1x3"], "every input once"), (["audio=1x"], "a number is missing in"),
        (["sound=1x1x40"], "no input 'sound'; it has 'audio', 'image'"), (["audio=40"], "the file states Nx1xtime"),
        (["audio=1x2x40"], "with its batch axis"),
    ],
)  # fmt: skip
def test_wrong_input_shapes_are_refused_with_the_reason(
    given: list[str], said: str, speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [word for each in given for word in ("--input-shape", each)]
    assert cli.run(["audit", str(speech), *options]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


WEIGHTS = drawing(np.random.RandomState(3))(4, 4)
NODES = [node("MatMul", "x", "w", out="a"), node("Mul", "a", "a", out="s"), node("Mul", "s", "x")]
"""``x (x W)^2``: no constant, but on a range."""


@pytest.fixture
def cubic(tmp_path: Path) -> Path:
    return saved(single(NODES, (1, 4), {"w": WEIGHTS}), tmp_path / "cubic.onnx")


@pytest.mark.parametrize("ends", [(0.0, 1.0), (-1.0, 2.0), (-3.0, -2.0)])
def test_a_bound_on_the_range_is_that_of_the_graph_within_it(cubic: Path, ends: tuple[float, float]) -> None:
    """No pair in the range exceeds it: `networks/test_boxes`, and boxes of `networks/compositions`."""
    found: Any = specnorm.audit(cubic, input_range=ends).network
    assert found.input_ranges == {"x": ends}
    same: Any = networks.network_bound(networks.within(networks.network_graph(cubic), *ends))
    assert found.upper == pytest.approx(same.upper, rel=1e-3)
    assert specnorm.audit(cubic).network.upper is None  # type: ignore[union-attr]
