"""Keras files of every format: each kernel with its geometry, nothing else, and never a line of their code run."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import DATA
from specnorm_audit import audit
from specnorm_audit.report import gate_layers

import specnorm
from audit import files

h5py: Any = pytest.importorskip("h5py")

KERAS = DATA / "keras"
TRUTHS: dict[str, dict[str, list[tuple[list[int], float]]]] = json.loads((KERAS / "layers.json").read_text())
FORMATS = ("keras", "h5", "weights.h5")


def _rows(path: Path, **options: Any) -> dict[str, Any]:
    return {row.name: row for row in audit(path, methods=(), **options).layers}


# -- the numbers ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize("model", TRUTHS)
@pytest.mark.parametrize("which", [0, 1])
def test_rows_hold_the_norm_of_keras_own_operator(model: str, suffix: str, which: int) -> None:
    """At two sizes, some no multiple of a stride; nothing about a convolution is assumed."""
    by_size: dict[tuple[int, ...], dict[str, float]] = {}
    for name, sized in TRUTHS[model].items():
        size, truth = sized[which]
        by_size.setdefault(tuple(size), {})[name] = truth
    for given, truths in by_size.items():
        rows = _rows(KERAS / f"{model}.{suffix}", layers=list(truths), input_shape=given)
        assert rows.keys() == truths.keys()
        for name, row in rows.items():
            assert (row.kind, row.assumed, row.reason) == ("conv", (), None)
            # Float32 products and their SVD are good to a few units in the sixth digit.
            assert row.lower * (1 - 1e-5) <= truths[name] <= row.upper * (1 + 1e-5), name
            assert row.upper <= 1.002 * truths[name], name


def test_cropping_by_a_rule_that_is_not_read_has_no_size(tmp_path: Path) -> None:
    """The bound at a size was that of another cropping: 1.0162 for 1.0174."""

    def change(config: Any) -> None:
        for layer in config["config"]["layers"]:
            if layer["class_name"] == "Conv2DTranspose":
                layer["config"]["output_padding"] = [0, 0]

    _changed(tmp_path / "m.keras", change)
    rows = _rows(tmp_path / "m.keras", input_shape="file", layers="*transpose*")
    unknown, whole = rows["conv2d_transpose.kernel"], _rows(tmp_path / "m.keras", input_shape="file")["up.kernel"]
    assert unknown.spec.input_shape is None
    assert (whole.spec.input_shape, whole.spec.padding) == ((4, 2), ((0, 0), (0, 0)))


# -- what is a kernel ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", FORMATS)
def test_every_kernel_and_nothing_else(suffix: str) -> None:
    """No moments of Adam, no vector of the power iteration, no slope of a PReLU, no bias of attention."""
    for model, others in (("two", {"head"}), ("others", {"each", "dense", "lstm", "attention"})):
        rows = _rows(KERAS / f"{model}.{suffix}")
        assert set(TRUTHS[model]) <= set(rows) or suffix == "weights.h5"
        unexpected = [
            name
            for name in set(rows) - set(TRUTHS[model])
            if not any(word in name for word in others | {"time_distributed", "bidirectional", "spectral"})
            and name != "embedding.embeddings"
        ]
        assert unexpected == []
        convolutions = [row for row in rows.values() if row.kind == "conv" and row.status == "ok"]
        assert len(convolutions) == len(TRUTHS[model])


def test_attention_is_refused_and_recurrent_matrices_say_what_they_are() -> None:
    rows = _rows(KERAS / "others.keras")
    refused = [name for name, row in rows.items() if row.status == "error"]
    assert len(refused) == 4
    assert [name for name in refused if "MultiHeadAttention, which is not measured" not in str(rows[name].reason)] == []
    cells = [row for name, row in rows.items() if "bidirectional" in name]
    assert len(cells) == 4
    assert [row for row in cells if row.assumed != ("kind=linear (class unknown)", "weight=as stored")] == []


# -- configurations are data ---------------------------------------------------------------------------------------
def _changed(path: Path, change: Any, source: str = "two.keras") -> Path:
    with zipfile.ZipFile(KERAS / source) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename == "config.json":
                config = json.loads(data)
                data = json.dumps(change(config) or config).encode()
            new.writestr(entry.filename, data)
    return path


def test_no_class_of_a_configuration_is_looked_up(tmp_path: Path) -> None:
    """A Lambda with code, a class to import from os, an object to build: all of it stays text."""
    marker = tmp_path / "ran"

    def damage(config: Any) -> None:
        for layer in config["config"]["layers"]:
            if layer["class_name"] == "Lambda":
                layer["config"]["function"] = {
                    "class_name": "__lambda__",
                    "config": {"code": "4wEAAAAAAAAA", "defaults": None, "closure": [f"touch {marker}"]},
                }
        config["config"]["layers"].append(
            {"module": "os", "class_name": "system", "config": {"command": f"touch {marker}"}}
        )

    rows = _rows(_changed(tmp_path / "model.keras", damage))
    assert rows["first.kernel"].status == "ok"
    assert not marker.exists()


# -- archives ------------------------------------------------------------------------------------------------------
def test_archives_are_checked_before_they_are_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    for entries, word in (
        ({"metadata.json": b"", "config.json": b"{}"}, "has no model.weights.h5"),
        ({"metadata.json": b"", "config.json": b"{}", "model.weights.h5": b"no"}, "damaged"),
        ({"metadata.json": b"", "config.json": b"{}", "model.weights.h5": bytes(2**20)}, "more than the limit"),
    ):
        path.write_bytes(files.zipped(entries, zipfile.ZIP_DEFLATED))
        assert word in files.refused(path, 2**19)


# -- HDF5 ----------------------------------------------------------------------------------------------------------
KERNEL = np.random.RandomState(0).standard_normal((3, 3, 2, 4)).astype(np.float32)


def _hdf5(path: Path, fill: Any) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("layers/conv2d/vars/0", data=KERNEL)
        fill(file)
    return path


def test_links_out_of_the_file_are_refused(tmp_path: Path) -> None:
    secret = _hdf5(tmp_path / "secret.h5", list)
    for link in (h5py.ExternalLink(str(secret), "/layers"), h5py.SoftLink("/layers/conv2d"), h5py.SoftLink("/nowhere")):
        path = _hdf5(tmp_path / "model.h5", lambda file, link=link: file.update({"link": link}) or file)
        assert "link to somewhere else" in files.refused(path)


def test_data_in_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(1000))

    def outside(file: Any) -> None:
        file.create_dataset("layers/conv2d_1/vars/0", (2, 2, 2, 2), "f4", external=[(str(tmp_path / "secret"), 0, 64)])
        source = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (2, 2, 2, 2))
        layout = h5py.VirtualLayout((2, 2, 2, 2), "f4")
        layout[:] = source
        file.create_virtual_dataset("layers/conv2d_2/vars/0", layout)

    rows = _rows(_hdf5(tmp_path / "model.h5", outside))
    assert [row.status for row in rows.values()] == ["ok", "error", "error"]
    assert [row for row in list(rows.values())[1:] if "another file" not in str(row.reason)] == []


# -- layers that normalise their own kernel ----------------------------------------------------------------------------
def _of_class(path: Path, kind: str, beside: dict[str, Any], *, modern: bool = False) -> Path:
    """Write a model of one layer of this class, with a convolution inside if it is a wrapper."""
    inner = {"class_name": "Conv2D", "config": {"name": "c", "strides": [2, 2], "padding": "same", "filters": 4}}
    is_wrapper = kind.startswith("Addons>")
    layer = {"class_name": kind, "config": {"name": "w", "layer": inner} if is_wrapper else inner["config"]}
    arrays = {"kernel:0": KERNEL, "bias:0": np.zeros(4, np.float32), **beside}
    config = json.dumps({"class_name": "Sequential", "config": {"layers": [layer]}})
    group = "w/w" if is_wrapper else "c/c"
    places = [
        f"layers/{kind.lower()}/vars/{number}" if modern else f"model_weights/{group}/{name}"
        for number, name in enumerate(arrays)
    ]
    stored = dict(zip(places, arrays.values(), strict=True))
    path.write_bytes(files.hdf5(stored, model_config=config, keras_version="2.11.0"))
    return path


def test_a_wrapper_that_replaces_the_kernel_leaves_the_stored_one(tmp_path: Path) -> None:
    """SpectralNormalization of TensorFlow Addons assigns the normalised kernel in training; sn_u is its state."""
    beside = {"sn_u:0": np.ones((1, 4), np.float32)}
    report: Any = audit(_of_class(tmp_path / "m.h5", "Addons>SpectralNormalization", beside))
    (row,) = report.layers
    truth = specnorm.enclose(KERNEL, layout="HWIO", stride=2)
    assert float(truth.lower) <= row.upper <= 1.003 * float(truth.upper)
    assert report.unmeasured == ()


def test_a_layer_with_a_norm_of_its_own_is_not_the_stored_kernel(tmp_path: Path) -> None:
    """By its variables' names the vector is known; by numbers, that there is one; or by the name of the class."""
    vector = {"sn:0": np.ones((1, 4), np.float32)}
    (row,) = audit(_of_class(tmp_path / "m.h5", "lab>ConvSN2D", vector)).layers
    assert "sn stands beside" in str(row.reason)
    for kind, beside, words in (
        ("Custom", vector, "has the variable"),
        ("Custom", {"length": np.ones(4, np.float32)}, "has the variable"),
        ("Standardised", {}, "whose code determines the weight"),
        ("Banded", {}, "whose code determines the weight"),
    ):
        (row,) = audit(_of_class(tmp_path / "m.h5", kind, beside, modern=True)).layers
        assert words in str(row.reason)
    assert gate_layers(audit(tmp_path / "m.h5"), 1e6).outcome == "undecided"
    assert audit(tmp_path / "m.h5", assume_stored="*").layers[0].status == "ok"
