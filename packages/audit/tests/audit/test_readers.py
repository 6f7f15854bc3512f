"""Files are told apart by content; what they claim is checked before it is believed; a lost shard loses no other."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from specnorm_audit import audit

from audit import files


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in files.refused(tmp_path / "pipe")


@pytest.mark.parametrize(
    "header",
    [
        b'{"w":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4000000000000]}}',
        b'{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,8]}}',
        b'{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"v":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}',
        b'{"w":{"dtype":"F32","shape":[-2,-2],"data_offsets":[0,16]}}',
        b'{"w":{"dtype":"F99","shape":[2,2],"data_offsets":[0,16]}}', b'{"w":[1,2,3]}', b'{"w":' + b"[" * 100_000,
    ],
)  # fmt: skip
def test_safetensors_headers_are_not_believed(tmp_path: Path, header: bytes) -> None:
    pytest.importorskip("safetensors")
    path = tmp_path / "model"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    files.refused(path)


def test_npz_objects_are_never_unpickled(tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "model.npz"
    pickled = b"\x80\x02" + files.shell(marker) + b"."
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (2, 2), }".ljust(117) + b"\n"
    path.write_bytes(files.zipped({"w.npy": b"\x93NUMPY\x01\x00v\x00" + header + pickled}))
    assert "cannot be read" in files.refused(path)
    assert not marker.exists()


def test_npz_bombs_are_refused_before_unpacking(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, w=np.zeros((1000, 1000)))
    assert path.stat().st_size < 100_000
    assert "more than the limit" in files.refused(path, 1_000_000)
    files.read(path, 9_000_000)


def test_a_file_of_some_bytes_repeated_is_refused_at_once(tmp_path: Path) -> None:
    """Unpacking and measuring what is within the limit takes minutes; pruned weights are read."""
    np.savez_compressed(tmp_path / "bomb.npz", w=np.zeros((3000, 3000)))
    assert "weights do not compress that much" in files.refused(tmp_path / "bomb.npz")
    pruned = np.zeros((3000, 3000))
    pruned[::6, ::6] = np.random.default_rng(0).standard_normal((500, 500))
    np.savez_compressed(tmp_path / "pruned.npz", w=pruned)
    files.read(tmp_path / "pruned.npz")
    pytest.importorskip("h5py")
    (tmp_path / "bomb.h5").write_bytes(files.hdf5({"w": np.zeros((3000, 3000))}, ["w"]))
    assert "weights do not compress that much" in files.refused(tmp_path / "bomb.h5")


# -- sharded safetensors ---------------------------------------------------------------------------------------------
pytest.importorskip("safetensors")

INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def _split(folder: Path, weight_map: Mapping[str, Any] | None = None) -> Path:
    """A model in two shards with its index, which may say something else."""
    folder.mkdir(exist_ok=True)
    arrays = files.kernels()
    owner = {name: SHARDS[name.startswith(("conv2", "fc"))] for name in arrays}
    for shard in SHARDS:
        files.save_safetensors(folder / shard, {name: arrays[name] for name in arrays if owner[name] == shard})
    index = {"metadata": {"total_size": 1}, "weight_map": owner if weight_map is None else weight_map}
    (folder / INDEX).write_text(json.dumps(index))
    return folder / INDEX


@pytest.mark.parametrize("name", ["", INDEX])
def test_a_sharded_model_is_named_by_its_index_or_folder(tmp_path: Path, name: str) -> None:
    _split(tmp_path)
    got = files.read(tmp_path / name)
    expected = files.kernels()
    assert got.keys() == expected.keys()
    for key, array in expected.items():
        assert_array_equal(got[key], array)
    assert [row.name for row in audit(tmp_path / name, methods=()).layers] == [
        "conv1.weight", "conv2.weight", "fc.weight",
    ]  # fmt: skip


@pytest.mark.parametrize("damage", ["missing", "cut", "no file", "other"])
def test_a_lost_shard_is_rows_with_the_reason(tmp_path: Path, damage: str) -> None:
    _split(tmp_path)
    shard = tmp_path / SHARDS[1]
    if damage == "missing":
        shard.unlink()
    elif damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-5])
    elif damage == "no file":
        shard.write_bytes(b"")
    else:
        files.save_safetensors(shard, {"something.weight": files.kernels()["fc.weight"]})
    rows = {row.name: row for row in audit(tmp_path, methods=()).layers}
    assert rows["conv1.weight"].status == "ok"
    for name in ("conv2.weight", "fc.weight"):
        assert rows[name].status == "error"
        assert SHARDS[1] in str(rows[name].reason)
    assert "fc.bias" not in rows
    assert ("something.weight" in rows) == (damage == "other")
    json.dumps([row.to_dict() for row in rows.values()], allow_nan=False)


@pytest.mark.parametrize("name", ["conv1.weight", "another.weight"])
def test_an_array_in_two_shards_is_refused(tmp_path: Path, name: str) -> None:
    """Transformers loads each shard as a whole, and keeps the last; the index named the first, and a gate passed."""
    path = _split(tmp_path)
    for shard in SHARDS:
        arrays = files.read(tmp_path / shard)
        files.save_safetensors(
            tmp_path / shard, {**arrays, name: arrays.get(name, 900 * files.kernels()["conv1.weight"])}
        )
    assert f"{name!r} lies in its shards" in files.refused(path)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", ".", "", "a\\b", "a\0b"])
def test_shards_may_not_be_named_elsewhere(tmp_path: Path, name: str) -> None:
    files.save_safetensors(tmp_path / "secret", files.kernels())
    path = _split(tmp_path / "model", {"conv1.weight": name})
    message = files.refused(path)
    assert "shard" in message
    assert "\0" not in message


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links here")
def test_shards_may_not_be_linked_elsewhere(tmp_path: Path) -> None:
    path = _split(tmp_path / "model")
    secret = files.save_safetensors(tmp_path / "secret.safetensors", files.kernels())
    (path.parent / SHARDS[0]).unlink()
    (path.parent / SHARDS[0]).symlink_to(secret)
    assert "leaves the model's folder" in files.refused(path)
    assert "leaves the model's folder" in files.refused(path.parent)
