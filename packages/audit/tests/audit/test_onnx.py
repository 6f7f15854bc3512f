"""ONNX models: the geometry and the kernels of every layer, against onnx's own reference evaluator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", exc_type=ImportError)
from helpers.onnx_models import drawing, jacobian, node, saved, single  # noqa: E402
from onnx import helper  # noqa: E402

import specnorm  # noqa: E402

RNG = np.random.RandomState(0)
weights = drawing(RNG)


# -- geometry ------------------------------------------------------------------------------------------------------
LAYERS: dict[str, tuple[Any, dict[str, Any], tuple[int, ...]]] = {
    "strided, uneven pads": (
        node("Conv", "x", "w", strides=[2, 1], pads=[1, 0, 2, 1], dilations=[1, 2]), {"w": weights(3, 2, 3, 2)},
        (1, 2, 6, 7),
    ),
    "depthwise": (node("Conv", "x", "w", group=3, pads=[1, 1, 1, 1]), {"w": weights(3, 1, 3, 3)}, (1, 3, 5, 5)),
    "same lower": (
        node("Conv", "x", "w", auto_pad="SAME_LOWER", strides=[2, 3]), {"w": weights(2, 2, 3, 4)}, (1, 2, 6, 7),
    ),
    "transposed": (
        node("ConvTranspose", "x", "w", strides=[2, 2], pads=[1, 0, 1, 1], output_padding=[1, 0]),
        {"w": weights(2, 3, 3, 3)}, (1, 2, 4, 3),
    ),
    "gemm": (node("Gemm", "x", "w", "b", alpha=0.5), {"w": weights(5, 4), "b": weights(4)}, (1, 5)),
    "matmul from the left": (node("MatMul", "w", "x"), {"w": weights(5, 4)}, (1, 4, 2)),
}  # fmt: skip
"""Arguments of each operator are drawn in `networks/test_every_onnx_operator`; here are rows of an audit."""


@pytest.mark.parametrize("name", LAYERS)
def test_row_and_network_enclose_the_operator(name: str, tmp_path: Path) -> None:
    operator, arrays, shape = LAYERS[name]
    proto = single([operator], shape, arrays)
    exact = float(np.linalg.norm(jacobian(proto, np.zeros(shape, np.float32), step=1.0), 2))
    report: Any = specnorm.audit(saved(proto, tmp_path / "m.onnx"), input_shape="file")
    (row,) = report.layers
    assert row.status == "ok", row.reason
    assert row.assumed == ()
    assert row.lower <= exact * (1 + 1e-6)
    assert exact * (1 - 1e-6) <= row.upper
    assert row.upper <= exact * 1.0021
    assert exact * (1 - 1e-6) <= report.network.upper <= exact * 1.0021


def test_a_kernel_used_twice_has_a_row_for_each_geometry(tmp_path: Path) -> None:
    """One row for one geometry, two for two."""
    w = weights(2, 2, 3, 3)
    twice = [node("Conv", "x", "w", pads=[1, 1, 1, 1], out="a"), node("Conv", "a", "w", pads=[1, 1, 1, 1])]
    assert len(specnorm.audit(saved(single(twice, (1, 2, 6, 6), {"w": w}), tmp_path / "a.onnx")).layers) == 1
    other = [node("Conv", "x", "w", pads=[1, 1, 1, 1], out="a"), node("Conv", "a", "w", strides=[2, 2])]
    report = specnorm.audit(saved(single(other, (1, 2, 6, 6), {"w": w}), tmp_path / "b.onnx"))
    assert [row.name for row in report.layers] == ["w", "w (node y)"]
    assert [row.spec.stride for row in report.layers if row.spec is not None] == [(1, 1), (2, 2)]


def test_a_gemm_behind_a_value_of_unknown_rank_has_a_row(tmp_path: Path) -> None:
    """Its operand has two axes by the standard; weights of published files were rows of errors."""
    nodes = [helper.make_node("Unknown", ["x"], ["a"], domain="other"), node("Gemm", "a", "w", "b", transB=1)]
    given = {"w": weights(4, 5), "b": weights(4)}
    (row,) = specnorm.audit(saved(single(nodes, None, given), tmp_path / "m.onnx")).layers
    assert (row.name, row.status, row.kind) == ("w", "ok", "linear")
    exact = float(np.linalg.norm(given["w"], 2))
    assert (row.lower or 0) <= exact * (1 + 1e-6) <= (row.upper or 0) * (1 + 2e-6)
