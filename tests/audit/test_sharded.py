"""Sharded safetensors: everything the index names, nothing from elsewhere, and a lost shard loses no other."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from numpy.testing import assert_array_equal
from specnorm_audit import audit

from audit import files

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
def test_the_index_or_its_folder(tmp_path: Path, name: str) -> None:
    _split(tmp_path)
    got = files.read(tmp_path / name)
    expected = files.kernels()
    assert got.keys() == expected.keys()
    for key, array in expected.items():
        assert_array_equal(got[key], array)
    assert [row.name for row in audit(tmp_path / name, methods=()).layers] == [
        "conv1.weight",
        "conv2.weight",
        "fc.weight",
    ]


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
