"""ONNX files that are hostile, damaged or in parts: rows, or a message."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", exc_type=ImportError)
from onnx import TensorProto

import specnorm
from audit.onnx_models import by_product, drawing, model, node, norm, saved
from specnorm.errors import ModelFileError

RNG = np.random.RandomState(0)
weights = drawing(RNG)


# -- external data -------------------------------------------------------------------------------------------------
def external(location: str, **entries: int | str) -> Any:
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
        ("inside.bin", {"offset": -4}, "no whole number"),
        ("inside.bin", {"offset": "\u0663"}, "no whole number"),
        ("missing.bin", {}, "cannot be read"),
        ("a\0b", {}, "relative to the model"),
        ("", {}, "relative to the model"),
    ],
)
def test_external_data_stay_in_the_folder(tmp_path: Path, location: str, entries: dict[str, Any], word: str) -> None:
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


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=[pytest.mark.nightly] * (x == "a thousand layers")) for x in hostile()]
)
def test_hostile_graphs_give_rows_or_messages(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "a thousand layers":
        by_product(monkeypatch)
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
