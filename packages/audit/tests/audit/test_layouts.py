"""Which arrays are layers, whatever their layout, and which are refused by name: none passes a gate unseen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from specnorm_audit import audit
from specnorm_audit.layers import conventions, select
from specnorm_audit.report import gate_layers
from specnorm_networks.model_arrays import Tensor

from audit import files
from audit.unknown_layouts import norm

RANDOM = np.random.RandomState(0)
SMALL = np.eye(4, dtype=np.float32)


def drawn(*shape: int) -> NDArray[np.float32]:
    return RANDOM.standard_normal(shape).astype(np.float32)


FLAX = {
    "params.a.kernel": drawn(3, 3, 2, 8), "params.a.bias": drawn(8), "params.b.kernel": drawn(3, 3, 8, 3),
    "params.c.kernel": drawn(3, 3, 4),
}  # fmt: skip
TORCH = {"a.weight": drawn(8, 2, 3, 3), "b.weight": drawn(3, 8, 3, 3), "c.w": drawn(4, 3, 3)}


@pytest.mark.parametrize("save", [files.save_npz, files.save_safetensors])
@pytest.mark.parametrize(("arrays", "layout"), [(FLAX, "HWIO"), (TORCH, "OIHW")])
def test_names_and_biases_decide_the_order_of_axes(
    save: Any, arrays: dict[str, Any], layout: str, tmp_path: Path
) -> None:
    report: Any = audit(save(tmp_path / "model", arrays), methods=())
    for row in report.layers:
        axes = layout if len(row.shape) == 4 else layout.replace("H", "")
        assert f"layout={axes}" in row.assumed
        exact = norm(arrays[row.name], axes)
        assert exact * (1 - 1e-5) <= row.upper <= 1.01 * exact
        assert row.lower <= row.upper


@pytest.mark.parametrize("save", [files.save_npz, files.save_safetensors])
@pytest.mark.parametrize(
    "arrays",
    [
        {"params.conv.kernel": np.ones((3, 3, 1, 1), np.float32)}, {"params.conv.kernel": drawn(3, 3, 1, 8)},
        {"conv/w": drawn(5, 2, 3)}, {"conv/w": drawn(3, 3, 4, 4)},
        {"a.weight": drawn(4, 4, 3, 3), "b.kernel": drawn(3, 3, 1, 8)},
    ],
)  # fmt: skip
def test_what_is_not_decided_is_read_both_ways(save: Any, arrays: dict[str, Any], tmp_path: Path) -> None:
    report = audit(save(tmp_path / "model", arrays), methods=("tn", "f4", "reshaped"))
    row: Any = next(row for row in report.layers if row.name != "a.weight")
    torch, flax = ("OIHW", "HWIO") if len(row.shape) == 4 else ("OIW", "WIO")
    assert f"layout={torch} or {flax}" in row.assumed
    readings = [norm(arrays[row.name], axes) for axes in (torch, flax)]
    assert max(readings) * (1 - 1e-5) <= row.upper <= 1.01 * max(readings)
    assert 0.99 * min(readings) <= row.lower <= min(readings) * 1.01
    assert max(readings) * (1 - 1e-5) <= row.values["f4"]
    assert gate_layers(report, 0.99 * max(readings)).outcome == "failed"


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([(8, 1, 3, 3), (4, 8, 5, 5)], ("OIHW",)),
        ([(3, 3, 1, 8), (5, 5, 8, 4)], ("HWIO",)),
        ([(3, 3, 1, 8), (3, 3, 8, 4)], ("OIHW", "HWIO")),
        ([(3, 3, 1, 8), (3, 3, 16, 4)], ("OIHW", "HWIO")),  # not in the network's order
        ([(4, 1, 3, 3), (16, 8, 3, 3)], ("OIHW", "HWIO")),
        ([(3, 3, 3, 3)], ("OIHW", "HWIO")),
    ],
)
def test_channels_of_the_next_layer_decide_the_order(shapes: list[tuple[int, ...]], expected: tuple[str, ...]) -> None:
    tensors = [Tensor(f"k{at}.w", shape, "float32", list) for at, shape in enumerate(shapes)]
    assert set(conventions(tensors).values()) == {expected}


def test_attention_of_flax_is_refused(tmp_path: Path) -> None:
    """Its kernel (1, 4, 4) is the matrix 1 x 16, of norm 4; as a convolution it had 1."""
    path = files.save_npz(tmp_path / "m.npz", {"att.query.kernel": SMALL[None], "ok.weight": SMALL})
    report = audit(path)
    assert {row.name: row.status for row in report.layers} == {"att.query.kernel": "error", "ok.weight": "ok"}


# -- whole numbers, records and text -----------------------------------------------------------------------------------
RECORDS = np.zeros(4, dtype=[("w", "<f4", (2,))])
SMALLER = np.zeros((), dtype=[("w", "<f2", (2, 2))])
HIDDEN: dict[str, Any] = {
    "int8": np.full((4, 4), 100, np.int8), "uint8": np.full((4, 4, 3, 3), 100, np.uint8),
    "int16": np.full((4, 4), 100, np.int16), "int32": np.full((4, 4, 3), 100, np.int32),
}  # fmt: skip
IN_NPZ: dict[str, Any] = HIDDEN | {
    "int64": np.full((4, 4), 100), "text": np.full((4, 4), "100"), "bytes": np.full((4, 4), b"100"), "records": RECORDS,
    "one record": SMALLER,
}  # fmt: skip


def _safetensors(path: Path, array: NDArray[Any]) -> None:
    kind = array.dtype.name
    named = {"int": "I", "uint": "U"}[kind.rstrip("0123456789")] + kind.lstrip("uint")
    stored = {"ok.weight": ("F32", (4, 4), SMALL.tobytes()), "q.weight": (named, array.shape, array.tobytes())}
    path.write_bytes(files.safetensors_bytes(stored))


def _pytorch(path: Path, array: NDArray[Any]) -> None:
    torch: Any = pytest.importorskip("torch")
    torch.save({"ok.weight": torch.tensor(SMALL), "q.weight": torch.tensor(array)}, path)


def _hdf5(path: Path, array: NDArray[Any]) -> None:
    pytest.importorskip("h5py")
    path.write_bytes(files.hdf5({"ok.weight": SMALL, "q.weight": array}))


def _npz(path: Path, array: NDArray[Any]) -> None:
    files.save_npz(path, {"ok.weight": SMALL, "q.weight": array})


@pytest.mark.parametrize(
    ("write", "kind"),
    [*((_npz, kind) for kind in IN_NPZ), *((w, kind) for w in (_safetensors, _pytorch, _hdf5) for kind in HIDDEN)],
)
def test_what_is_no_floating_number_is_undecided(write: Any, kind: str, tmp_path: Path) -> None:
    write(tmp_path / "m", IN_NPZ[kind])
    report = audit(tmp_path / "m")
    assert gate_layers(report, 2.0).outcome != "passed"
    assert "q.weight" in [row.name for row in (*report.unmeasured, *report.layers)]


# -- which arrays are layers -----------------------------------------------------------------------------------------
def _names(layers: list[Tensor]) -> list[str]:
    return [layer.name for layer in layers]


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("scalar", (), "float32"), ("bn.weight", (4,), "float32"), ("six", (1, 2, 1, 1, 1, 2), "float32"),
        ("index", (4, 4), "int64"), ("mask", (4, 4), "bool"), ("spectrum", (4, 4), "complex64"),
        ("conv.bias", (1, 2, 1, 1), "float32"), ("other.bias", (3, 4, 1, 1), "float32"),
    ],
)  # fmt: skip
def test_arrays_that_are_no_layers_are_skipped(name: str, shape: tuple[int, ...], dtype: str) -> None:
    """And what could be one nevertheless, by its shape and its numbers, is named with the reason."""
    found = select([files.unread(name, shape, dtype), files.unread("conv.weight", (2, 2, 3))])
    assert _names(found.layers) == ["conv.weight"]
    assert len(found.skipped) == 1
    certain = name in ("bn.weight", "conv.bias")
    assert _names(found.unmeasured) == ([] if certain else [name])
    assert [layer for layer in found.unmeasured if not layer.refusal] == []


def test_what_the_file_says_comes_first() -> None:
    said = [
        replace(files.unread("a.bias", (4, 3, 3, 3)), kind="conv", assumed=("x",)),
        replace(files.unread("b", (4, 36), "int8"), kind="linear"),
        replace(files.unread("c.weight", (4, 3, 3, 3)), kind="none"),
        replace(files.unread("d.weight", ()), kind="unknown", refusal="lost"),
        replace(files.unread("d.bias", ()), kind="unknown", refusal="lost"),
        replace(files.unread("e.weight", (4, 3)), refusal="damaged"),
    ]
    found = select(said)
    layers = found.layers
    assert [(layer.name, layer.kind, layer.refusal) for layer in layers] == [
        ("a.bias", "conv", None), ("b", "linear", None), ("d.weight", "unknown", "lost"),
        ("e.weight", "linear", "damaged"),
    ]  # fmt: skip
    assert layers[0].assumed == ("x",)
    assert len(found.skipped) == 2
    assert [(layer.name, layer.refusal) for layer in found.unmeasured] == [("d.bias", "lost")]
