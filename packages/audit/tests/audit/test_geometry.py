"""What the file says, what a person says, and what is assumed: each is told apart, and the layer is measured so."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.cases import Layer, layers
from helpers.checks import assert_encloses
from helpers.oracle import dense_norm
from hypothesis import given
from hypothesis import strategies as st
from specnorm_audit import audit
from specnorm_audit.rows import Row
from specnorm_networks.model_arrays import ModelArrays, Tensor

from audit import files
from specnorm.at_size import layer_tuning


def _row(layer: Layer, **options: Any) -> Row:
    (row,) = audit({"k": layer.kernel}, geometry={"k": layer.geometry}, methods=(), **options).layers
    assert row.status == "ok", row.reason
    return row


# -- the numbers ---------------------------------------------------------------------------------------------------


@given(layer=layers(ndims=(1, 2), modes=("circular", "zeros", "reflect", "symmetric", "replicate")))
def test_rows_of_every_geometry_hold_the_layer_at_its_size(layer: Layer) -> None:
    row = _row(layer, input_shape=layer.input_shape)
    assert_encloses(row.lower, row.upper, dense_norm(layer.kernel, layer.input_shape, **layer.geometry))


@given(
    layer=layers(ndims=(1, 2), modes=("circular", "zeros", "reflect", "symmetric", "replicate")), more=st.integers(0, 6)
)
def test_a_plane_wave_in_a_large_layer_is_a_lower_bound(layer: Layer, more: int) -> None:
    """The path of layers too large to be enclosed themselves, at sizes where the truth can be had."""
    stride = layer.geometry["stride"]
    sizes = tuple(n + more * s for n, s in zip(layer.input_shape, stride, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        for work in ("IMMEDIATE_WORK", "LATE_WORK"):
            patch.setattr(layer_tuning, work, 0)
        row = _row(layer, input_shape=sizes)
    assert_encloses(row.lower, row.upper, dense_norm(layer.kernel, sizes, **layer.geometry))


# -- what a file says ----------------------------------------------------------------------------------------------
def test_input_shape_file_takes_the_sizes_that_the_file_states(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kernel = np.random.RandomState(0).standard_normal((2, 2, 3)).astype(np.float32)
    load = partial(np.array, kernel)
    tensors = [
        Tensor("known", (2, 2, 3), "float32", load, input_shape=(9,), kind="conv"),
        Tensor("not", (2, 2, 3), "float32", load, kind="conv"),
        Tensor("matrix", (2, 6), "float32", partial(kernel.reshape, 2, 6), kind="linear"),
        Tensor("no.kernel", (2, 2, 3), "float32", load, kind="none"),
        Tensor("bias", (2, 2, 3), "float32", load, kind="conv", refusal="because", assumed=("a guess",)),
        Tensor("lost", (), "float32", load, kind="unknown", refusal="its shard is missing"),
    ]
    monkeypatch.setattr("specnorm_audit.readers._READERS", {"npz": lambda *_: ModelArrays(tensors)})
    path = files.save_npz(tmp_path / "model.npz", {})
    files.save_npz(path, {"x": kernel})
    report = audit(path, input_shape="file", methods=["circular"])
    rows = {row["name"]: row for row in report.to_dict()["layers"]}
    assert list(rows) == ["known", "not", "matrix", "bias", "lost"]
    assert (rows["known"]["input_shape"], rows["not"]["input_shape"]) == ([9], None)
    assert rows["known"]["circular"] is not None
    assert rows["not"]["circular"] is None
    assert rows["known"]["status"] == rows["not"]["status"] == rows["matrix"]["status"] == "ok"
    assert (rows["bias"]["status"], rows["bias"]["reason"]) == ("error", "because")
    assert "a guess" in rows["bias"]["assumed"]
    assert (rows["lost"]["kind"], rows["lost"]["shape"], rows["lost"]["stride"]) == ("unknown", [], None)
    assert report.summary["skipped"] == 1
